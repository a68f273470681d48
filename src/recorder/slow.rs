//! A disk that hangs gives no error, it only takes its time. Whoever writes says here when a piece of work begins and ends;
//! a task beside them tells when one takes longer than it should. It ends nobody: what comes meanwhile waits in memory.

use super::context::Context;
use crate::clock::Clock;
use crate::model::wire::TroubleKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// How long a piece may wait for the disk before that is told.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(250);

/// One writer's work. Clones are the same.
#[derive(Clone)]
pub(super) struct Watched {
    clock: Arc<dyn Clock>,
    /// When the piece of work began that is under way, by the clock's uptime.
    since: Arc<Mutex<Option<Duration>>>,
}

impl Watched {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let since = Arc::default();
        Self { clock, since }
    }

    /// Does a piece of `work`.
    pub(super) fn while_at<T>(&self, work: impl FnOnce() -> T) -> T {
        self.set(Some(self.clock.uptime()));
        let done = work();
        self.set(None);
        done
    }

    fn set(&self, since: Option<Duration>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn is_slow(&self) -> bool {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| self.clock.uptime().saturating_sub(since) > PATIENCE)
    }
}

/// Tells when the disk below `folder` keeps one of `watched` waiting, and when it does no longer, until the tasks end.
pub(super) async fn tell(context: Context, watched: Vec<Watched>, folder: &Path) {
    let token = context.tasks.token();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    while !token.is_cancelled() {
        tokio::select! {
            _ = look.tick() => {}
            () = token.cancelled() => return,
        }
        let slow = watched.iter().any(Watched::is_slow);
        if slow && !told {
            let message = format!(
                "the disk does not answer: what is recorded waits over a second for {}; check it, recording goes on in memory meanwhile",
                folder.display()
            );
            context.reporter.trouble(TroubleKind::Disk, message);
        } else if told && !slow {
            context.reporter.well(TroubleKind::Disk);
        }
        told = slow;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    #[test]
    fn only_work_that_is_under_way_for_over_a_second_is_slow() {
        let clock = ManualClock::at(Timestamp::from_millis(0));
        let watched = Watched::new(Arc::new(clock.clone()));
        assert!(!watched.is_slow());
        watched.while_at(|| {
            clock.advance(Duration::from_millis(900));
            assert!(!watched.is_slow());
            clock.advance(Duration::from_millis(200));
            assert!(watched.is_slow());
        });
        clock.advance(Duration::from_secs(60));
        assert!(!watched.is_slow());
    }
}
