//! Containers of quick start that wait for orders.

use super::{Fate, Recorder, SECOND, Says, Story};
use crate::model::ids::ContainerId;
use crate::runtime::ContainerStatus;
use std::collections::BTreeMap;

impl Story {
    /// One more container, whose page is open.
    fn opens(&self, number: u32) -> ContainerId {
        let mut world = self.world();
        let id = world.make(&format!("recording_page{number}"), BTreeMap::new());
        let page = &mut world.of(&id).unwrap().container;
        (page.page, page.recording) = (true, None);
        page.status = ContainerStatus::Running;
        id
    }
}

#[test]
fn a_page_that_waits_for_a_day_is_shown_to_wait_and_left_alone() {
    let mut story = Story::begin();
    story.befall(Fate::Seconds(10));
    story.befall(Fate::Stop);
    story.befall(Fate::Seconds(60));
    let page = story.opens(1);
    {
        let mut world = story.world();
        world.says = Says::Fine;
        world.of(&page).unwrap().recorder = Some(Recorder::default());
    }
    let life = story.life.as_ref().unwrap();
    for minute in 0..24 * 60 {
        story.clock.advance(60 * SECOND);
        life.runtime.block_on(life.controller.check());
        life.settle();
        let waiting = life.controller.waiting();
        let ids: Vec<_> = waiting.iter().map(|it| &it.id).collect();
        assert_eq!(ids, [&page], "after {minute} minutes");
        assert_eq!(life.controller.worries(), [], "after {minute} minutes");
    }
    assert!(story.world().asked >= 24 * 60);
    let world = story.world();
    let happened = world.news.iter().filter(|it| it.container == page);
    assert_eq!(happened.count(), 0, "it was touched: {:?}", world.news);
}

#[test]
fn pages_that_wait_are_asked_together_and_no_check_waits_for_their_answers() {
    let story = Story::begin();
    (0..10).for_each(|number| drop(story.opens(number)));
    {
        let mut world = story.world();
        // Nothing of them answers.
        (world.says, world.asking_hangs) = (Says::Fine, true);
    }
    let life = story.life.as_ref().unwrap();
    let asked = || story.world().asked;
    for _ in 0..2 {
        life.runtime.block_on(life.controller.check());
        life.a_few_steps(200);
        assert_eq!(asked(), 8);
    }
    story.world().asking_hangs = false;
    life.settle();
    assert_eq!(asked(), 10);
    life.runtime.block_on(life.controller.check());
    life.settle();
    assert_eq!(asked(), 20);
    let world = story.world();
    let again = world.vessels.iter().filter(|it| it.container.page);
    assert!(again.clone().all(|it| it.lives()), "started again");
    assert_eq!(again.count(), 10);
}
