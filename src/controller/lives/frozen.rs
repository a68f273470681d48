//! A container that freezes: for how long nobody minds, and whose word counts.

use super::{Fate, Story};
use crate::model::failover::Reason;
use crate::model::session::State;
use crate::runtime::ContainerStatus;

fn story() -> Story {
    // As it comes: silence alone is noticed after 30 s.
    let mut story = Story::begin_with(&[("HEARTBEAT_INTERVAL", "10")]);
    story.befall(Fate::Seconds(10));
    story
}

fn reasons(story: &Story) -> Vec<Reason> {
    let session = story.session().unwrap();
    let all = session.failovers.iter();
    all.map(|it| it.reason.clone()).collect()
}

#[test]
fn a_short_freeze_is_no_failover_and_a_longer_one_is_replaced_before_any_heartbeat_is_missed() {
    let mut story = story();
    for fate in [Fate::Pause, Fate::Seconds(4), Fate::Unpause] {
        story.befall(fate);
    }
    story.befall(Fate::Seconds(10));
    assert_eq!(reasons(&story), []);
    for fate in [Fate::Pause, Fate::Seconds(7)] {
        story.befall(fate);
    }
    assert_eq!(reasons(&story), [Reason::Frozen]);
    story.befall(Fate::Seconds(30));
    assert_eq!(reasons(&story), [Reason::Frozen]);
    assert_eq!(story.believed, [2]);
}

#[test]
fn a_recorder_whose_thaw_nobody_reported_records_on() {
    let mut story = story();
    story.befall(Fate::Pause);
    let id = story.world().vessels[0].container.id.clone();
    story.freeze(&id, false);
    story.world().news.clear();
    story.befall(Fate::Seconds(60));
    assert_eq!(reasons(&story), []);
    assert_eq!(story.believed, [1]);
}

#[test]
fn a_frozen_recorder_that_cannot_be_asked_about_is_lost_when_any_silent_one_is() {
    let mut story = story();
    for fate in [Fate::Pause, Fate::DockerGoes, Fate::Seconds(20)] {
        story.befall(fate);
    }
    assert_eq!(reasons(&story), []);
    story.befall(Fate::Seconds(12));
    assert_eq!(reasons(&story), [Reason::Frozen]);
    for fate in [Fate::DockerComes, Fate::Seconds(30)] {
        story.befall(fate);
    }
    assert_eq!(reasons(&story), [Reason::Frozen]);
    assert_eq!(story.believed, [2]);
}

#[test]
fn a_frozen_recorder_that_runs_again_before_it_is_fenced_records_on() {
    let mut story = story();
    for fate in [Fate::Pause, Fate::Seconds(3), Fate::DockerGoes] {
        story.befall(fate);
    }
    story.befall(Fate::Seconds(30));
    assert_eq!(reasons(&story), [Reason::Frozen]);
    let thawed = ContainerStatus::Running;
    story.world().vessels[0].container.status = thawed;
    for fate in [Fate::Seconds(5), Fate::DockerComes, Fate::Seconds(60)] {
        story.befall(fate);
    }
    let session = story.session().unwrap();
    assert!(
        matches!(session.state, State::Recording { .. }),
        "{:?}",
        session.state
    );
    assert_eq!(reasons(&story), [Reason::Frozen]);
    assert_eq!(session.failovers[0].start_ms, None);
    assert_eq!(story.believed, [1]);
}
