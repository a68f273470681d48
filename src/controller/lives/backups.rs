//! Backups: what a recorder that was removed is replaced by.

use super::{Fate, Story};
use crate::model::failover::Reason;

#[test]
fn a_recorder_that_is_removed_while_the_controller_is_away_is_replaced_when_it_is_back() {
    let mut story = Story::begin();
    for fate in [
        Fate::Seconds(10),
        Fate::ControllerDies(0),
        Fate::Remove,
        Fate::Seconds(20),
        Fate::ControllerBegins,
        Fate::Seconds(30),
    ] {
        story.befall(fate);
    }
    let session = story.session().unwrap();
    let reasons = session.failovers.iter().map(|it| it.reason.clone());
    assert_eq!(reasons.collect::<Vec<_>>(), [Reason::Removed]);
    assert_eq!(story.believed, [2]);
}
