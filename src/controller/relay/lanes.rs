//! The lanes of one target: which delivery is made next, and how long one that failed waits. Told the time, and touches
//! nothing outside.

use crate::db::outbox::{Due, Sequence};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Waits before the second and each later try, as Standard Webhooks recommends; the last one goes on until [`LIFE`](super::worker::LIFE) is over.
pub const SCHEDULE: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(5 * 3600),
    Duration::from_secs(10 * 3600),
    Duration::from_secs(14 * 3600),
    Duration::from_secs(20 * 3600),
    Duration::from_secs(24 * 3600),
];
/// How long events that are answered, and not taken, may hold up their lane.
const HOLD: Duration = Duration::from_secs(30);

/// The lanes of one target: pure, told the time.
#[derive(Default)]
pub(super) struct Queue {
    lanes: HashMap<LaneKey, Lane>,
    ready: VecDeque<LaneKey>,
    waiting: BTreeSet<(Duration, LaneKey)>,
}

/// Which lane an event is in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum LaneKey {
    /// Its session's.
    Session(Arc<str>),
    /// One of its own: its session's went on without it.
    Late(Sequence),
}

impl LaneKey {
    fn of(due: &Due) -> Self {
        if due.tries.late {
            Self::Late(due.sequence)
        } else {
            Self::Session(Arc::clone(&due.lane))
        }
    }
}

#[derive(Default)]
struct Lane {
    due: BTreeMap<Sequence, Due>,
    state: LaneState,
    /// When events that are answered, and not taken, hold it up no longer; set by the first of them.
    held_until: Option<Duration>,
    /// Whether its next try comes before its time, because the target took another event.
    woken: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum LaneState {
    #[default]
    Ready,
    Busy,
    /// Until then; `firm` when the target asked for it.
    Waiting {
        until: Duration,
        firm: bool,
    },
}

/// Why a delivery is tried again.
pub(super) struct Failure {
    /// Whether the target answered at all.
    pub(super) answered: bool,
    /// What its `Retry-After` asks for.
    pub(super) after: Option<Duration>,
    /// How long the event may still be tried.
    pub(super) left: Duration,
    /// The factor that spreads tries.
    pub(super) jitter: f64,
}

impl Queue {
    pub(super) fn push(&mut self, due: Due, not_before: Option<Duration>) {
        let name = LaneKey::of(&due);
        let new = !self.lanes.contains_key(&name);
        let lane = self.lanes.entry(name.clone()).or_default();
        lane.due.insert(due.sequence, due);
        if !new {
            return;
        }
        match not_before {
            Some(until) => self.wait(&name, until, false),
            None => self.ready.push_back(name),
        }
    }

    /// The next delivery that may be made.
    pub(super) fn next(&mut self, now: Duration) -> Option<Due> {
        while self.waiting.first().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, name)) = self.waiting.pop_first() {
                self.set_ready(name);
            }
        }
        let name = self.ready.pop_front()?;
        let lane = self.lanes.get_mut(&name)?;
        lane.state = LaneState::Busy;
        lane.due.first_key_value().map(|(_, due)| due.clone())
    }

    /// The moment at which a waiting lane may go on.
    pub(super) fn wakes(&self) -> Option<Duration> {
        self.waiting.first().map(|(until, _)| *until)
    }

    /// The delivery is settled: the lane goes on with its next event.
    pub(super) fn done(&mut self, due: &Due) {
        let name = LaneKey::of(due);
        let Some(lane) = self.lanes.get_mut(&name) else {
            return;
        };
        lane.due.remove(&due.sequence);
        lane.woken = false;
        if lane.due.is_empty() {
            self.lanes.remove(&name);
        } else {
            self.set_ready(name);
        }
    }

    /// The delivery is tried again: its lane waits, or goes on without it. Answers the delivery as it is now, and the wait.
    pub(super) fn retry(
        &mut self,
        mut due: Due,
        failure: &Failure,
        now: Duration,
    ) -> (Due, Duration) {
        let name = LaneKey::of(&due);
        let mut lane = self.lanes.remove(&name).unwrap_or_default();
        let asked = failure.after.unwrap_or_default();
        let wait_of = |step: u32| {
            let last = SCHEDULE[SCHEDULE.len() - 1];
            let step = SCHEDULE.get(step as usize).unwrap_or(&last);
            step.mul_f64(failure.jitter).max(asked).min(failure.left)
        };
        let woken = std::mem::take(&mut lane.woken);
        let mut wait = wait_of(due.tries.step);
        // A target that took another event just now is not down: it does not answer this one.
        if (failure.answered || woken) && !due.tries.late {
            let hold = *lane.held_until.get_or_insert(now + HOLD);
            let hold = hold.saturating_sub(now);
            due.tries.late = hold.is_zero() || asked > hold;
            if !due.tries.late {
                // While others wait behind it, it is tried at the shortest wait.
                wait = wait_of(0).min(hold);
                due.tries.step = 0;
            }
        }
        // A try that came before its time costs no step.
        due.tries.step += u32::from(!woken);
        lane.due.remove(&due.sequence);
        if due.tries.late && !lane.due.is_empty() && name != LaneKey::of(&due) {
            self.lanes.insert(name.clone(), lane);
            self.set_ready(name);
            lane = Lane::default();
        }
        lane.due.insert(due.sequence, due.clone());
        let name = LaneKey::of(&due);
        self.lanes.insert(name.clone(), lane);
        self.wait(&name, now + wait, failure.after.is_some());
        (due, wait)
    }

    /// The target is back: whoever waited for it need not wait longer.
    pub(super) fn wake_all(&mut self) {
        for (until, name) in std::mem::take(&mut self.waiting) {
            match self.lanes.get_mut(&name) {
                Some(lane) if !matches!(lane.state, LaneState::Waiting { firm: true, .. }) => {
                    lane.woken = true;
                    self.set_ready(name);
                }
                _ => drop(self.waiting.insert((until, name))),
            }
        }
    }

    fn wait(&mut self, name: &LaneKey, until: Duration, firm: bool) {
        if let Some(lane) = self.lanes.get_mut(name) {
            lane.state = LaneState::Waiting { until, firm };
            self.waiting.insert((until, name.clone()));
        }
    }

    fn set_ready(&mut self, name: LaneKey) {
        if let Some(lane) = self.lanes.get_mut(&name) {
            lane.state = LaneState::Ready;
            self.ready.push_back(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::worker::LIFE;
    use super::*;
    use crate::db::outbox::{TargetId, Tries};

    fn due(lane: &str, seq: u64) -> Due {
        Due {
            sequence: Sequence::nth(seq),
            target: TargetId([1; 8]),
            lane: lane.into(),
            tries: Tries::default(),
            next_at: None,
            unkept: None,
        }
    }

    /// No answer, or one that is no success.
    fn failure(answered: bool, after: Option<u64>) -> Failure {
        Failure {
            answered,
            after: after.map(at),
            left: LIFE,
            jitter: 1.0,
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn next(queue: &mut Queue, now: u64) -> Option<Sequence> {
        queue.next(at(now)).map(|due| due.sequence)
    }

    #[test]
    fn a_lane_keeps_its_order_and_lanes_go_side_by_side() {
        let mut queue = Queue::default();
        for one in [due("a", 2), due("a", 1), due("b", 3)] {
            queue.push(one, None);
        }
        assert_eq!(next(&mut queue, 0), Some(Sequence::nth(1)));
        assert_eq!(next(&mut queue, 0), Some(Sequence::nth(3)));
        assert_eq!(next(&mut queue, 0), None, "lane a is busy");
        queue.done(&due("a", 1));
        assert_eq!(next(&mut queue, 0), Some(Sequence::nth(2)));
    }

    #[test]
    fn a_failed_event_holds_up_its_lane_only_until_it_is_due_again() {
        let mut queue = Queue::default();
        for one in [due("a", 1), due("a", 2), due("b", 3)] {
            queue.push(one, None);
        }
        let first = queue.next(at(0)).unwrap();
        queue.retry(first, &failure(false, None), at(0));
        assert_eq!(next(&mut queue, 1), Some(Sequence::nth(3)));
        assert_eq!(next(&mut queue, 4), None);
        assert_eq!(queue.wakes(), Some(at(5)));
        assert_eq!(next(&mut queue, 5), Some(Sequence::nth(1)));
    }

    #[test]
    fn a_target_that_is_back_wakes_who_waited_but_not_who_was_told_to_wait() {
        let mut queue = Queue::default();
        queue.push(due("a", 1), None);
        queue.push(due("b", 2), None);
        let (a, b) = (queue.next(at(0)).unwrap(), queue.next(at(0)).unwrap());
        queue.retry(a, &failure(false, None), at(0));
        queue.retry(b, &failure(true, Some(20)), at(0));
        queue.wake_all();
        let woken = queue.next(at(1)).unwrap();
        assert_eq!(woken.sequence, Sequence::nth(1));
        assert_eq!(next(&mut queue, 1), None);
        let (again, wait) = queue.retry(woken, &failure(false, None), at(1));
        assert_eq!(again.tries.step, 0, "a try before its time costs no step");
        assert_eq!(
            wait, SCHEDULE[0],
            "the target is up: it holds its lane no longer than an answer would"
        );
        assert_eq!(next(&mut queue, 6), Some(Sequence::nth(1)));
        assert_eq!(next(&mut queue, 20), Some(Sequence::nth(2)));
    }

    #[test]
    fn an_event_that_is_answered_and_not_taken_holds_its_lane_for_half_a_minute() {
        let mut queue = Queue::default();
        for seq in 1..=3 {
            queue.push(due("a", seq), None);
        }
        let mut tries = Vec::new();
        let mut now = at(0);
        let late = loop {
            let first = queue.next(now).unwrap();
            assert_eq!(first.sequence, Sequence::nth(1));
            tries.push(now.as_secs());
            let (again, wait) = queue.retry(first, &failure(true, None), now);
            if again.tries.late {
                assert_eq!(wait, SCHEDULE[1]);
                break again;
            }
            now += wait;
        };
        assert_eq!(tries, [0, 5, 10, 15, 20, 25, 30]);
        // The half minute is the lane's: the next one that is not taken holds up nobody.
        let second = queue.next(now).unwrap();
        assert_eq!(second.sequence, Sequence::nth(2));
        let (second, _) = queue.retry(second, &failure(true, None), now);
        assert!(second.tries.late);
        let third = queue.next(now).unwrap();
        assert_eq!(third.sequence, Sequence::nth(3));
        queue.done(&third);
        assert_eq!(next(&mut queue, 30), None);
        assert_eq!(next(&mut queue, 35), Some(second.sequence));
        assert_eq!(next(&mut queue, 330), Some(late.sequence));
    }

    #[test]
    fn a_target_that_does_not_answer_holds_its_lanes_in_order() {
        let mut queue = Queue::default();
        queue.push(due("a", 1), None);
        queue.push(due("a", 2), None);
        let mut now = at(0);
        for _ in 0..6 {
            let first = queue.next(now).unwrap();
            assert_eq!(first.sequence, Sequence::nth(1));
            now += queue.retry(first, &failure(false, None), now).1;
        }
    }

    #[test]
    fn the_longer_of_schedule_and_retry_after_is_waited_and_the_last_try_ends_the_life() {
        let wait = |step: u32, after: Option<u64>, left: Duration| {
            let mut queue = Queue::default();
            let mut one = due("a", 1);
            (one.tries.step, one.tries.late) = (step, true);
            queue.push(one, None);
            let one = queue.next(at(0)).unwrap();
            let failure = Failure {
                left,
                ..failure(true, after)
            };
            queue.retry(one, &failure, at(0)).1
        };
        assert_eq!(wait(0, Some(1), LIFE), SCHEDULE[0]);
        assert_eq!(wait(0, Some(60), LIFE), at(60));
        assert_eq!(wait(1, Some(60), LIFE), SCHEDULE[1]);
        assert_eq!(wait(100, None, LIFE), SCHEDULE[8]);
        assert_eq!(wait(100, Some(86_400), at(7)), at(7));
    }
}
