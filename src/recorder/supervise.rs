//! Keeps the parts alive. Each part (display, audio, browser, capture) is a row of lives; when one ends by itself the next
//! begins, at once the first time and ever later after that, while the other parts go on. A part that keeps dying ends the
//! run: somewhere else it may work.

use super::seen::Seen;
use crate::backoff::Backoff;
use crate::child::Hidden;
use crate::clock::Clock;
use crate::model::wire::TroubleKind;
use crate::recorder::workshop::Workshop;
use crate::tasks::Tasks;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The restarts of one part that are accepted within [`WINDOW`].
const MOST_RESTARTS: usize = 5;
/// See [`MOST_RESTARTS`].
const WINDOW: Duration = Duration::from_secs(60);
/// How long a part that ended is given to learn that it was because of another.
const BLAME: Duration = Duration::from_millis(250);

/// What is kept alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Display,
    Audio,
    Browser,
    Capture,
    /// Within a living browser.
    Page,
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Display => "the display",
            Self::Audio => "the sound server",
            Self::Browser => "the browser",
            Self::Capture => "the capture",
            Self::Page => "the page",
        })
    }
}

/// How a life ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// It was told to.
    Told,
    /// What it stands on went away, or it was asked to begin anew: no fault of its own.
    Anew(String),
    /// By itself; a sentence says how.
    Died(String),
}

/// Why the whole run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// OpenVidu, the system or the controller said so: finish the video.
    Stop(&'static str),
    /// A later run records: leave everything as it is.
    Superseded,
    /// It cannot go on here.
    Fault(String),
}

/// What every part works with.
#[derive(Clone)]
pub(super) struct Stage {
    pub(super) tasks: Tasks,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) seen: Seen,
    pub(super) hidden: Hidden,
    pub(super) workshop: Arc<Workshop>,
    pub(super) ending: mpsc::UnboundedSender<End>,
    /// Display, audio and browser end when this is cancelled.
    pub(super) curtain: CancellationToken,
    /// Counts how often capture got nothing at all from display and sound server, which run but may hang.
    pub(super) suspicion: watch::Sender<u32>,
}

impl Stage {
    /// Display and sound server give nothing: both are to begin anew.
    pub(super) fn suspect(&self) {
        self.suspicion.send_modify(|times| *times += 1);
    }

    /// Waits until what runs is suspected to hang.
    pub(super) async fn suspected(&self) -> String {
        let mut times = self.suspicion.subscribe();
        // The sender is ours: this cannot end before we do.
        let _ = times.changed().await;
        "capture gets nothing from it".to_owned()
    }

    /// Asks for the end of the run; the first one who asks is heard.
    pub(super) fn end(&self, why: End) {
        // Nobody listens when the run is ending already.
        let _ = self.ending.send(why);
    }

    /// Lives of `part` one after the other, until one was told to end or too many died.
    pub(super) async fn keep<F, L>(&self, part: Part, mut life: F)
    where
        F: FnMut() -> L,
        L: Future<Output = Ended>,
    {
        let mut patience = Patience::new(Arc::clone(&self.clock));
        loop {
            let (how, delay) = match life().await {
                Ended::Told => return,
                Ended::Anew(why) => (why, Some(Duration::ZERO)),
                Ended::Died(how) => (how, patience.after_death()),
            };
            if self.curtain.is_cancelled() {
                return;
            }
            let Some(delay) = delay else {
                let message = format!("{part} ended too often and is given up: {how}");
                self.seen.trouble(TroubleKind::Dying, message.as_str());
                self.end(End::Fault(message));
                return;
            };
            log::warn!("{part} is started again: {how}");
            if part == Part::Capture {
                self.seen.explain(&how);
            }
            self.seen.restarted(part);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.curtain.cancelled() => return,
            }
        }
    }
}

/// Waits until `below` is there and answers it; `None` when the curtain falls first.
pub(super) async fn there<T: Clone>(
    below: &mut watch::Receiver<Option<T>>,
    curtain: &CancellationToken,
) -> Option<T> {
    tokio::select! {
        found = below.wait_for(Option::is_some) => found.ok().and_then(|found| found.clone()),
        () = curtain.cancelled() => None,
    }
}

/// Waits until `below` is no longer what it was when it was last looked at.
pub(super) async fn gone<T>(below: &mut watch::Receiver<Option<T>>) {
    if below.changed().await.is_err() {
        // Its keeper has ended and nothing will change any more.
        std::future::pending::<()>().await;
    }
}

/// A part ended with `how`: by itself, or because what it stands on went away at the same moment?
pub(super) async fn blame(how: String, below: impl Future<Output = String>) -> Ended {
    match tokio::time::timeout(BLAME, below).await {
        Ok(why) => Ended::Anew(why),
        Err(_) => Ended::Died(how),
    }
}

/// Counts a part's deaths.
struct Patience {
    clock: Arc<dyn Clock>,
    deaths: VecDeque<Duration>,
    backoff: Backoff,
}

impl Patience {
    fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            deaths: VecDeque::new(),
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(3)),
        }
    }

    /// How long to wait before the next life; `None` when there is to be none.
    fn after_death(&mut self) -> Option<Duration> {
        let now = self.clock.uptime();
        while self.deaths.front().is_some_and(|at| now - *at > WINDOW) {
            self.deaths.pop_front();
        }
        if self.deaths.len() >= MOST_RESTARTS {
            return None;
        }
        let first = self.deaths.is_empty();
        self.deaths.push_back(now);
        if first {
            self.backoff.reset();
            return Some(Duration::ZERO);
        }
        Some(self.backoff.next_delay())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    #[test]
    fn the_sixth_death_within_a_minute_is_the_last() {
        let clock = ManualClock::at(Timestamp::from_millis(0));
        let mut patience = Patience::new(Arc::new(clock.clone()));
        assert_eq!(patience.after_death(), Some(Duration::ZERO));
        for _ in 0..4 {
            clock.advance(Duration::from_secs(10));
            assert!(
                patience
                    .after_death()
                    .is_some_and(|delay| delay > Duration::ZERO)
            );
        }
        assert_eq!(patience.after_death(), None);
    }

    #[test]
    fn deaths_that_lie_far_apart_are_forgiven() {
        let clock = ManualClock::at(Timestamp::from_millis(0));
        let mut patience = Patience::new(Arc::new(clock.clone()));
        for _ in 0..100 {
            assert_eq!(patience.after_death(), Some(Duration::ZERO));
            clock.advance(WINDOW + Duration::from_secs(1));
        }
    }
}
