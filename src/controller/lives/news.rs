//! What the runtime says late.

use super::{Fate, SECOND, Story};
use crate::clock::Clock;
use crate::controller::lock;

#[test]
fn a_death_that_is_told_late_ends_no_later_recorder_and_its_container_is_known_to_have_ended() {
    let mut story = Story::begin();
    story.befall(Fate::Seconds(10));
    let controller = story.life.as_ref().unwrap().controller.clone();
    let id = story.session().unwrap().id;
    let container = story.world().victim().unwrap();
    story.world().end(&container, 137, false);
    // It was ended by us, and could not be started again.
    let now = story.clock.now();
    controller
        .table()
        .change(&id, |entry| entry.started_at = now);
    story.hand_on();
    assert_eq!(story.session().unwrap().failovers, []);
    assert!(!lock(&controller.0.observations).runs(&container));
}

#[test]
fn a_list_that_was_asked_for_before_something_happened_says_nothing_against_it() {
    let mut story = Story::begin();
    story.befall(Fate::Seconds(10));
    let controller = story.life.as_ref().unwrap().controller.clone();
    let (asked_at, listed) = (
        controller.moment(),
        story.world().vessels[0].container.clone(),
    );
    story.clock.advance(SECOND);
    story.befall(Fate::Kill);
    // Whatever is set meanwhile.
    story.clock.set_back(3_600 * SECOND);
    let known = || lock(&controller.0.observations);
    known().observe_all(std::slice::from_ref(&listed), asked_at);
    assert!(!known().runs(&listed.id));
    // Nor that a container is gone that was made since.
    known().observe_all(&[], asked_at);
    assert!(known().holder(&listed.id).is_some());
    known().observe_all(&[], controller.moment());
    assert!(known().holder(&listed.id).is_none());
}
