//! Work that a disk may hold up for ever: so many attempts at a time, each on a thread of its own. A thread that a dead disk
//! keeps is never given back, so an attempt that has not come back for a minute is written off; once many are, another one
//! begins only every few minutes, and ever later: the disk may be another one by then. What the disk does is known by the last
//! attempt: one that is under way says that it hangs, one that came back late that it is slow.

use super::stall::{RunFiles, RunLook};
use super::{TryDisk, lock};
use crate::clock::Clock;
use crate::tasks::Tasks;
use log::warn;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// An attempt that has not come back for so long is written off: the next one may begin.
const WRITTEN_OFF: Duration = Duration::from_secs(60);
/// So many threads are spent on a disk that hangs without a pause.
const MOST: usize = 8;
/// The pause before the first one more; each further one is waited for that much longer.
const PAUSE: Duration = Duration::from_secs(5 * 60);
/// A disk that has not taken a word within this hangs, unless it is known to be slow.
pub(super) const SHORTEST: Duration = Duration::from_secs(2);
/// For so long files may still grow on a disk that hangs: what is written to them waits in memory.
const SETTLED: Duration = Duration::from_secs(10);
/// A run that has grown within this grows.
const GROWS: Duration = Duration::from_secs(3);

/// Attempts, and what the last one showed.
pub(super) struct Attempts {
    clock: Arc<dyn Clock>,
    /// So many may be under way together.
    abreast: usize,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct State {
    /// When those began that have not come back, by the clock's uptime.
    under_way: BTreeMap<u64, Duration>,
    /// The number of the last one.
    last: u64,
    /// How long the last one took that came back.
    took: Duration,
}

/// One that is under way until it is dropped.
pub(super) struct Attempt {
    attempts: Arc<Attempts>,
    number: u64,
}

impl State {
    /// For how long the last one has been under way.
    fn hangs_for(&self, now: Duration) -> Option<Duration> {
        let begun = self.under_way.get(&self.last);
        begun.map(|begun| now.saturating_sub(*begun))
    }

    /// How many are written off.
    fn lost(&self, now: Duration) -> usize {
        let ages = self.under_way.values();
        ages.filter(|begun| now.saturating_sub(**begun) >= WRITTEN_OFF)
            .count()
    }
}

impl Attempts {
    pub(super) fn new(clock: Arc<dyn Clock>, abreast: usize) -> Arc<Self> {
        Arc::new(Self {
            clock,
            abreast,
            state: watch::Sender::default(),
        })
    }

    /// Begins one; `None` while as many are under way as may be, or too many have not come back.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Attempt> {
        let now = self.clock.uptime();
        let mut begun = None;
        self.state.send_if_modified(|state| {
            let lost = state.lost(now);
            let abreast = if lost < self.most() { self.abreast } else { 1 };
            let is_full = state.under_way.len() - lost >= abreast;
            if is_full || self.pauses(state, now) {
                return false;
            }
            if self.is_given_up(state, now) {
                warn!(
                    "{lost} looks at the recordings' disk have not come back; another one is tried"
                );
            }
            state.last += 1;
            state.under_way.insert(state.last, now);
            begun = Some(state.last);
            true
        });
        begun.map(|number| Attempt {
            attempts: Arc::clone(self),
            number,
        })
    }

    /// Begins one as soon as that is possible; `None` where that is not before minutes have passed.
    pub(super) async fn turn(self: &Arc<Self>) -> Option<Attempt> {
        let mut states = self.state.subscribe();
        loop {
            if let Some(attempt) = self.begin() {
                return Some(attempt);
            }
            if self.are_spent() {
                return None;
            }
            // An error means that nobody can begin one any more.
            states.changed().await.ok()?;
        }
    }

    /// Whether so many have not come back, and the last one neither, that another one is tried only now and then.
    pub(super) fn are_given_up(&self) -> bool {
        self.is_given_up(&self.state.borrow(), self.clock.uptime())
    }

    fn is_given_up(&self, state: &State, now: Duration) -> bool {
        state.lost(now) >= self.most() && state.hangs_for(now).is_some()
    }

    /// Whether the next one is not yet tried.
    fn are_spent(&self) -> bool {
        self.pauses(&self.state.borrow(), self.clock.uptime())
    }

    /// So many may not come back before that.
    fn most(&self) -> usize {
        MOST.max(self.abreast)
    }

    /// Where the last one has come back, the disk is there again.
    fn pauses(&self, state: &State, now: Duration) -> bool {
        let Some(hangs_for) = state.hangs_for(now) else {
            return false;
        };
        let beyond = (state.lost(now) + 1).saturating_sub(self.most());
        let beyond = u32::try_from(beyond).unwrap_or(u32::MAX);
        hangs_for >= WRITTEN_OFF && hangs_for < PAUSE.saturating_mul(beyond)
    }

    /// For how long the last one has been under way.
    fn hangs_for(&self) -> Option<Duration> {
        self.state.borrow().hangs_for(self.clock.uptime())
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let now = self.attempts.clock.uptime();
        self.attempts.state.send_modify(|state| {
            let begun = state.under_way.remove(&self.number);
            if let Some(begun) = begun.filter(|_| self.number == state.last) {
                state.took = now.saturating_sub(begun);
            }
        });
    }
}

/// The disk of the recordings.
pub(super) struct Disk {
    words: Arc<Attempts>,
    pub(super) try_write: Arc<TryDisk>,
    /// How long a word may take, where the last one took less: twice as long as the last one, within these.
    pub(super) patience: (Duration, Duration),
    /// When a run was last seen to grow, by the clock's uptime.
    grew_at: Mutex<Option<Duration>>,
}

/// Why there is no word of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoWord {
    /// It takes none.
    Hangs,
    /// It refuses it, or cannot be tried; why, for a person.
    Unknown(String),
}

impl Disk {
    pub(super) fn new(
        clock: &Arc<dyn Clock>,
        try_write: Arc<TryDisk>,
        patience: (Duration, Duration),
    ) -> Self {
        Self {
            words: Attempts::new(Arc::clone(clock), 1),
            try_write,
            patience,
            grew_at: Mutex::default(),
        }
    }

    /// Looks at a run's files, writes a word of our own beside them, and looks again; what was seen last, once the disk has
    /// taken the word. One that is known to be slow is waited for longer.
    pub(super) async fn word(&self, place: &RunFiles, tasks: &Tasks) -> Result<RunLook, NoWord> {
        let clock = &self.words.clock;
        let (shortest, longest) = self.patience;
        let took = self.words.state.borrow().took;
        let patience = (2 * took).max(shortest).min(longest.max(shortest));
        let begun = clock.uptime();
        match tokio::time::timeout(patience, self.try_it(place, tasks)).await {
            // This process may have been stopped since.
            Ok(Some(_)) if clock.uptime().saturating_sub(begun) > patience => Err(NoWord::Hangs),
            Ok(Some(look)) => {
                look.map_err(|cause| NoWord::Unknown(format!("its disk refuses a word: {cause}")))
            }
            Ok(None) => Err(NoWord::Unknown("its disk cannot be tried".into())),
            Err(_) => Err(NoWord::Hangs),
        }
    }

    async fn try_it(&self, place: &RunFiles, tasks: &Tasks) -> Option<io::Result<RunLook>> {
        let attempt = self.words.turn().await?;
        let (place, try_write) = (place.clone(), Arc::clone(&self.try_write));
        let clock = Arc::clone(&self.words.clock);
        let work = move || {
            let _attempt = attempt;
            let look = place.look(clock.now());
            if look.shows_growth(&place) {
                return Ok(look);
            }
            try_write(&place.folder)?;
            Ok(place.look(clock.now()))
        };
        tasks.spawn_blocking("try the disk", work).await.ok()
    }

    /// Whether so many words were lost that another one is tried only now and then.
    pub(super) fn is_given_up(&self) -> bool {
        self.words.are_given_up()
    }

    /// A run was seen to grow.
    pub(super) fn grew(&self) {
        *lock(&self.grew_at) = Some(self.words.clock.uptime());
    }

    /// Whether one and the same word is waited for still, and no run grows either: a disk on which others go on is slow.
    pub(super) fn holds_all_up(&self) -> bool {
        let now = self.words.clock.uptime();
        let grew_at = *lock(&self.grew_at);
        let grows = grew_at.is_some_and(|at| now.saturating_sub(at) < GROWS);
        let hangs = self.words.hangs_for();
        hangs.is_some_and(|age| age < SETTLED || !grows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    const SECOND: Duration = Duration::from_secs(1);

    fn attempts() -> (ManualClock, Arc<Attempts>) {
        let clock = ManualClock::at(Timestamp::from_millis(1_000));
        let attempts = Attempts::new(Arc::new(clock.clone()), 1);
        (clock, attempts)
    }

    #[test]
    fn one_that_does_not_come_back_is_written_off_after_a_minute_and_many_only_ever_later() {
        let (clock, attempts) = attempts();
        let mut held = Vec::new();
        for _ in 0..MOST {
            held.push(attempts.begin().unwrap());
            clock.advance(WRITTEN_OFF - SECOND);
            assert!(attempts.begin().is_none(), "it may come back");
            assert!(!attempts.are_spent());
            clock.advance(SECOND);
        }
        for pause in [PAUSE, 2 * PAUSE, 3 * PAUSE] {
            clock.advance(pause - WRITTEN_OFF - SECOND);
            assert!(attempts.begin().is_none());
            assert!(attempts.are_spent());
            clock.advance(SECOND);
            assert!(!attempts.are_spent());
            held.push(attempts.begin().unwrap());
            clock.advance(WRITTEN_OFF);
        }
        // Some of the first come back: that says nothing of the disk now, but there is a thread again.
        held.drain(..4);
        assert!(attempts.hangs_for().is_some());
        let last = attempts.begin().unwrap();
        clock.advance(3 * SECOND);
        assert_eq!(attempts.hangs_for(), Some(3 * SECOND));
        drop(last);
        assert_eq!(attempts.hangs_for(), None);
        assert_eq!(attempts.state.borrow().took, 3 * SECOND);
    }

    #[test]
    fn where_the_last_one_came_back_the_next_ones_begin_as_ever_whatever_was_lost() {
        let (clock, attempts) = attempts();
        let begun = std::iter::repeat_with(|| {
            clock.advance(WRITTEN_OFF);
            attempts.begin()
        });
        let lost: Vec<_> = begun.map_while(|it| it).collect();
        assert_eq!(lost.len(), MOST);
        clock.advance(PAUSE);
        drop(attempts.begin().unwrap());
        for _ in 0..3 {
            clock.advance(SECOND);
            drop(attempts.begin().unwrap());
        }
    }

    #[test]
    fn several_may_be_under_way_together_and_no_more_before_they_are_written_off() {
        let (clock, _) = attempts();
        let attempts = Attempts::new(Arc::new(clock.clone()), 2);
        let _held = [attempts.begin().unwrap(), attempts.begin().unwrap()];
        assert!(attempts.begin().is_none());
        assert!(!attempts.are_spent());
        clock.advance(WRITTEN_OFF);
        assert!(attempts.begin().is_some());
        // Of a disk that has kept many, one thread more is risked at a time.
        let mut lost = Vec::new();
        while !attempts.are_given_up() {
            lost.extend(attempts.begin());
            clock.advance(WRITTEN_OFF);
        }
        clock.advance(PAUSE);
        let _held = attempts.begin().unwrap();
        assert!(attempts.begin().is_none());
        assert!(attempts.are_given_up());
    }

    #[test]
    fn a_disk_on_which_others_still_grow_after_a_while_is_slow_and_no_excuse() {
        let clock = ManualClock::at(Timestamp::from_millis(1_000));
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let disk = Disk::new(&shared, Arc::new(|_| Ok(())), (SECOND, SECOND));
        assert!(!disk.holds_all_up());
        let word = disk.words.begin().unwrap();
        disk.grew();
        assert!(disk.holds_all_up(), "what was written may wait in memory");
        clock.advance(SETTLED);
        assert!(disk.holds_all_up());
        disk.grew();
        assert!(!disk.holds_all_up());
        clock.advance(GROWS);
        assert!(disk.holds_all_up());
        drop(word);
        assert!(!disk.holds_all_up());
    }
}
