//! Checks and clean-ups that meet.

use super::Story;
use std::time::Duration;

#[test]
fn checks_come_one_after_the_other_and_the_schedulers_waits_for_none() {
    let story = Story::begin();
    let life = story.life.as_ref().unwrap();
    let controller = &life.controller;
    story.world().lists = (0, 0, 0);
    life.runtime
        .block_on(async { tokio::join!(controller.check(), controller.check()) });
    assert_eq!(story.world().lists, (0, 1, 2));
    life.runtime.block_on(async {
        tokio::join!(
            controller.check(),
            controller.check_if_none_is_under_way(),
            controller.check_if_none_is_under_way()
        )
    });
    assert_eq!(story.world().lists, (0, 1, 3));
}

#[test]
fn a_cleanup_waits_for_the_one_that_is_under_way_and_the_schedulers_does_not() {
    let story = Story::begin();
    let life = story.life.as_ref().unwrap();
    let controller = &life.controller;
    life.runtime.block_on(async {
        let under_way = controller.0.cleaning.lock().await;
        let moment = Duration::from_millis(200);
        let asked_for = tokio::time::timeout(moment, controller.cleanup());
        assert!(asked_for.await.is_err());
        controller.cleanup_if_none_is_under_way().await;
        drop(under_way);
        assert_eq!(controller.cleanup().await, 0);
    });
}
