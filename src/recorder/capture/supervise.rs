//! Keeps the parts alive. Each part (display, audio, browser, capture) is a row of lives; when one ends the next begins, at
//! once the first time and ever later after that, while the other parts go on. A display, sound server or capture that keeps
//! dying ends the run: somewhere else it may work. A browser never does: what the display shows without it is recorded, as
//! OpenVidu's own recorder would, and it is tried again until it works.

use crate::backoff::Backoff;
use crate::child;
use crate::clock::Clock;
use crate::model::wire::TroubleKind;
use crate::recorder::context::{Context, End, Part};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The restarts of one part that are accepted within [`WINDOW`].
const MOST_RESTARTS: usize = 5;
/// See [`MOST_RESTARTS`].
const WINDOW: Duration = Duration::from_secs(60);
/// A run that gives up has lasted so long: Docker starts a container again at once if it ran for ten seconds, and makes one
/// that ended earlier wait, up to a minute.
const LEAST_RUN: Duration = Duration::from_secs(15);
/// For so long it is remembered that something was silent longer than was bearable.
const MEMORY: Duration = Duration::from_secs(600);
/// The longest that patience with what is silent becomes, in doublings.
const MOST_DOUBLINGS: u32 = 4;
/// How long a part that ended is given to learn that it was because of another.
const ATTRIBUTION: Duration = Duration::from_millis(250);

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

impl Context {
    /// Lives of `part` one after the other, until one was told to end or the part is given up.
    pub(super) async fn keep<F, L>(&self, part: Part, mut life: F)
    where
        F: FnMut() -> L,
        L: Future<Output = Ended>,
    {
        let mut patience = Patience::new(Arc::clone(&self.clock));
        loop {
            let (how, next) = match life().await {
                Ended::Told => return,
                Ended::Anew(why) => (why, Next::After(patience.after_renewal())),
                Ended::Died(how) => (how, patience.after_death()),
            };
            if self.shutdown.is_cancelled() {
                return;
            }
            let delay = match next {
                Next::After(delay) => Some(delay),
                Next::GiveUp(delay) => {
                    let is_kept = !part.is_given_up() || self.spared == Some(part);
                    is_kept.then_some(delay)
                }
            };
            // Chrome's own words may name the page's address.
            let how = self.hidden.clean(&how);
            let Some(delay) = delay else {
                let message = format!("{part} ended too often and is given up: {how}");
                self.reporter.trouble(TroubleKind::Dying, message.as_str());
                self.end(End::Fault(message));
                return;
            };
            log::warn!("{part} is started again: {how}");
            match part {
                Part::Capture => self.reporter.explain(&how),
                // One end is made good within two seconds. The page tells when it is well again.
                Part::Browser if !delay.is_zero() => {
                    let how = how.split("; it said").next().unwrap_or(&how);
                    let message = format!("{part} keeps ending and is started again: {how}");
                    self.reporter.trouble(TroubleKind::Page, message);
                }
                Part::Display | Part::Audio | Part::Browser | Part::Page => {}
            }
            self.reporter.restarted(part);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.shutdown.cancelled() => return,
            }
        }
    }
}

/// Waits until `below` is there and answers it; `None` when the shutdown comes first.
pub(super) async fn available<T: Clone>(
    below: &mut watch::Receiver<Option<T>>,
    shutdown: &CancellationToken,
) -> Option<T> {
    tokio::select! {
        found = below.wait_for(Option::is_some) => found.ok().and_then(|found| found.clone()),
        () = shutdown.cancelled() => None,
    }
}

/// Waits until `below` is no longer what it was when it was last looked at.
pub(super) async fn changed<T>(below: &mut watch::Receiver<Option<T>>) {
    if below.changed().await.is_err() {
        // Its keeper has ended and nothing will change any more.
        std::future::pending::<()>().await;
    }
}

/// A part ended with `how`: by itself, or because what it stands on went away at the same moment? Where all processes that it
/// stands on run, nothing is waited for.
pub(super) async fn attribute_death(
    how: String,
    stands_on: impl IntoIterator<Item = i32>,
    below: impl Future<Output = String>,
) -> Ended {
    if stands_on.into_iter().all(child::is_running) {
        return Ended::Died(how);
    }
    match tokio::time::timeout(ATTRIBUTION, below).await {
        Ok(why) => Ended::Anew(why),
        Err(_) => Ended::Died(how),
    }
}

/// Patience with what may hang, or may only be slow: twice as long each time that it was replaced for its silence, so that
/// on a slow machine what is slow is not replaced for ever.
pub(super) struct Leniency {
    clock: Arc<dyn Clock>,
    lost: Mutex<Lost>,
}

/// How often something was replaced for its silence, and when last.
#[derive(Clone, Copy, Default)]
struct Lost {
    doublings: u32,
    last: Duration,
}

impl Leniency {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let lost = Mutex::default();
        Self { clock, lost }
    }

    /// `usual`, doubled as often as something was replaced of late.
    pub(super) fn extended(&self, usual: Duration) -> Duration {
        usual * 2u32.pow(self.doublings(&self.lock()))
    }

    /// Something was silent for longer than that and is replaced.
    pub(super) fn lost_patience(&self) {
        let mut lost = self.lock();
        *lost = Lost {
            doublings: (self.doublings(&lost) + 1).min(MOST_DOUBLINGS),
            last: self.clock.uptime(),
        };
    }

    fn doublings(&self, lost: &Lost) -> u32 {
        let age = self.clock.uptime().saturating_sub(lost.last);
        if age < MEMORY { lost.doublings } else { 0 }
    }

    fn lock(&self) -> MutexGuard<'_, Lost> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What follows a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The next life, after this time.
    After(Duration),
    /// Nothing, where it is a remedy to end the run; else the next life after this time.
    GiveUp(Duration),
}

/// Counts the ends of a part's lives.
struct Patience {
    clock: Arc<dyn Clock>,
    begun: Duration,
    deaths: Ends,
    renewals: Ends,
}

impl Patience {
    fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            begun: clock.uptime(),
            clock,
            deaths: Ends::with_delays_up_to(Duration::from_secs(3)),
            // They have a cause elsewhere, which may be gone in a moment.
            renewals: Ends::with_delays_up_to(Duration::from_secs(1)),
        }
    }

    fn after_death(&mut self) -> Next {
        let now = self.clock.uptime();
        let (deaths, delay) = self.deaths.note(now);
        match deaths > MOST_RESTARTS && now - self.begun >= LEAST_RUN {
            true => Next::GiveUp(delay),
            false => Next::After(delay),
        }
    }

    fn after_renewal(&mut self) -> Duration {
        self.renewals.note(self.clock.uptime()).1
    }
}

/// Ends of one kind within [`WINDOW`].
struct Ends {
    at: VecDeque<Duration>,
    backoff: Backoff,
}

impl Ends {
    const fn with_delays_up_to(longest: Duration) -> Self {
        Self {
            at: VecDeque::new(),
            backoff: Backoff::new(Duration::from_millis(200), longest),
        }
    }

    /// Notes one: how many there are now, and how long to wait before the next life.
    fn note(&mut self, now: Duration) -> (usize, Duration) {
        self.at.retain(|at| now.saturating_sub(*at) <= WINDOW);
        let is_first = self.at.is_empty();
        self.at.push_back(now);
        if is_first {
            self.backoff.reset();
            return (1, Duration::ZERO);
        }
        // More of them say nothing more.
        if self.at.len() > MOST_RESTARTS + 1 {
            self.at.pop_front();
        }
        (self.at.len(), self.backoff.next_delay())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    fn patience() -> (ManualClock, Patience) {
        let clock = ManualClock::at(Timestamp::from_millis(0));
        let patience = Patience::new(Arc::new(clock.clone()));
        (clock, patience)
    }

    #[test]
    fn the_sixth_death_within_a_minute_is_the_last() {
        let (clock, mut patience) = patience();
        assert_eq!(patience.after_death(), Next::After(Duration::ZERO));
        for _ in 0..4 {
            clock.advance(Duration::from_secs(10));
            let next = patience.after_death();
            assert!(matches!(next, Next::After(delay) if !delay.is_zero()));
        }
        assert!(matches!(patience.after_death(), Next::GiveUp(_)));
    }

    #[test]
    fn no_run_ends_so_early_that_docker_makes_the_next_one_wait() {
        let (clock, mut patience) = patience();
        for _ in 0..100 {
            assert!(matches!(patience.after_death(), Next::After(_)));
            clock.advance(Duration::from_millis(149));
        }
        clock.advance(Duration::from_millis(100));
        assert!(matches!(patience.after_death(), Next::GiveUp(_)));
    }

    #[test]
    fn deaths_that_lie_far_apart_are_forgiven() {
        let (clock, mut patience) = patience();
        for _ in 0..100 {
            assert_eq!(patience.after_death(), Next::After(Duration::ZERO));
            clock.advance(WINDOW + Duration::from_secs(1));
        }
    }

    #[test]
    fn renewals_do_not_spin_and_are_no_deaths() {
        let (_, mut patience) = patience();
        assert_eq!(patience.after_renewal(), Duration::ZERO);
        let delays: Vec<_> = (0..20).map(|_| patience.after_renewal()).collect();
        assert!(delays.iter().all(|delay| !delay.is_zero()), "{delays:?}");
        assert!(delays[19] <= Duration::from_secs(1) && delays[19] >= Duration::from_millis(500));
        assert_eq!(patience.after_death(), Next::After(Duration::ZERO));
    }

    #[test]
    fn patience_grows_with_what_is_slow_and_is_usual_again_in_time() {
        let clock = ManualClock::at(Timestamp::from_millis(0));
        let leniency = Leniency::new(Arc::new(clock.clone()));
        let usual = Duration::from_secs(10);
        assert_eq!(leniency.extended(usual), usual);
        for expected in [20, 40, 80, 160, 160] {
            leniency.lost_patience();
            assert_eq!(leniency.extended(usual), Duration::from_secs(expected));
        }
        clock.advance(MEMORY);
        assert_eq!(leniency.extended(usual), usual);
        leniency.lost_patience();
        assert_eq!(leniency.extended(usual), usual * 2);
    }
}
