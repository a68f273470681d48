//! When a recorder is replaced, and what is remembered about it. Pure: it is given what was seen and the time, and
//! answers what to do.

use super::ids::{ContainerId, RunNumber};
use super::session::{Event, Session, State};
use super::wire::TroubleKind;
use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A recorder is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Why.
    pub reason: Reason,
    /// When it was last known to be well.
    pub well_until: Timestamp,
}

/// Why a recorder was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// Its first process ended with this exit code.
    Died {
        /// The exit code.
        code: i64,
    },
    /// The kernel ended it for want of memory.
    OutOfMemory,
    /// Its container was removed.
    Removed,
    /// Its container was frozen.
    Frozen,
    /// Nothing more was recorded, and its first process gave no answer.
    Stalled,
    /// No heartbeat for too long, and no file that grew.
    Silent,
    /// Heartbeats, but no chunk or byte more for too long.
    Stuck,
    /// It said itself that it cannot go on.
    Reported {
        /// What it said.
        message: String,
    },
    /// It came back by itself before anybody saw it go: Docker restarted it while the controller was away.
    CameBack,
    /// A person asked for it.
    Requested {
        /// What they gave as reason.
        message: String,
    },
}

impl Reason {
    /// Every [`Self::label`].
    pub const LABELS: [&str; 10] = [
        "died",
        "out-of-memory",
        "removed",
        "frozen",
        "stalled",
        "silent",
        "stuck",
        "reported",
        "came-back",
        "requested",
    ];

    /// The word for it in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Died { .. } => "died",
            Self::OutOfMemory => "out-of-memory",
            Self::Removed => "removed",
            Self::Frozen => "frozen",
            Self::Stalled => "stalled",
            Self::Silent => "silent",
            Self::Stuck => "stuck",
            Self::Reported { .. } => "reported",
            Self::CameBack => "came-back",
            Self::Requested { .. } => "requested",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died { code } => write!(out, "its first process ended with exit code {code}"),
            Self::OutOfMemory => out.write_str("the kernel ended it for want of memory"),
            Self::Removed => out.write_str("its container was removed"),
            Self::Frozen => out.write_str("its container was frozen"),
            Self::Stalled => {
                out.write_str("nothing more recorded, and its first process does not answer")
            }
            Self::Silent => out.write_str("no heartbeat for too long"),
            Self::Stuck => out.write_str("heartbeats, but nothing more recorded for too long"),
            Self::Reported { message } => write!(out, "the recorder said: {message}"),
            Self::CameBack => out.write_str("it came back by itself"),
            Self::Requested { message } => write!(out, "asked for: {message}"),
        }
    }
}

/// What the runtime last showed of a session's container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    /// Nothing yet, or the recorder runs where the runtime cannot see it.
    #[default]
    Unknown,
    /// It runs.
    Running,
    /// It is frozen: nothing in it runs.
    Frozen {
        /// When that was first seen.
        since: Timestamp,
    },
    /// It ended.
    Ended,
    /// It was removed.
    Gone,
}

/// When a recorder is held lost, and how often it is replaced.
#[derive(Clone, Debug)]
pub struct Policy {
    /// With neither a heartbeat nor growth for this long it is lost.
    pub heartbeat_timeout: Duration,
    /// Without a chunk or byte more for this long it is lost.
    pub stuck_timeout: Duration,
    /// Frozen for this long it is lost; where its files do not grow for this long it is asked.
    pub stall_timeout: Duration,
    /// How much longer a recorder may take that has just been started.
    pub grace: Duration,
    /// Failovers in `window` before no further recorder is started.
    pub max_attempts: usize,
    /// See `max_attempts`.
    pub window: Duration,
    /// The delay before the second failover of a window; the first has none, each further one doubles it.
    pub first_delay: Duration,
    /// The longest such delay.
    pub longest_delay: Duration,
}

impl Policy {
    /// What is wrong with a session, judged by time alone. Nothing that was missed before `watched_since` counts: the
    /// controller's own absence is no one's fault.
    pub fn fault(
        &self,
        session: &Session,
        seen: Seen,
        watched_since: Timestamp,
        now: Timestamp,
    ) -> Option<Fault> {
        let late = |from: Timestamp, limit: Duration| now.since(from.max(watched_since)) >= limit;
        let alive = alive_at(session);
        let frozen = match seen {
            Seen::Frozen { since } => late(alive.max(since), self.stall_timeout),
            _ => false,
        };
        let reason = match session.state {
            State::Starting { .. } => {
                let silent = late(alive, self.heartbeat_timeout);
                let stuck = late(session.advanced_at, self.stuck_timeout + self.grace);
                named(frozen, silent, stuck)
            }
            State::Recording { .. } => {
                let silent = late(alive, self.heartbeat_timeout);
                let stuck = late(session.advanced_at, self.stuck_timeout);
                named(frozen, silent, stuck && !disk_troubled(session))
            }
            State::TakingOver {
                started_at: Some(at),
                ..
            } => {
                let silent = late(alive.max(at), self.heartbeat_timeout + self.grace);
                let begun = session.advanced_at.max(at);
                let stuck = late(begun, self.stuck_timeout + self.grace);
                named(frozen, silent, stuck)
            }
            State::TakingOver { .. }
            | State::Paused { .. }
            | State::Stopping { .. }
            | State::Completed { .. }
            | State::Failed { .. }
            | State::GivenUp { .. }
            | State::Inactive { .. } => None,
        };
        let fault = reason.map(|reason| Fault {
            well_until: match reason {
                Reason::Stuck => session.advanced_at,
                _ => alive,
            },
            reason,
        });
        fault.or_else(|| reported(session))
    }

    /// When the session must be looked at again, if nothing is heard until then: a time-out, a replacement whose time
    /// comes, a recording that must be sealed.
    pub fn due(
        &self,
        session: &Session,
        seen: Seen,
        watched_since: Timestamp,
    ) -> Option<Timestamp> {
        let heard = alive_at(session).max(watched_since);
        let advanced = session.advanced_at.max(watched_since);
        let work = match session.state {
            State::Starting { .. } => Some(
                heard
                    .plus(self.heartbeat_timeout)
                    .min(advanced.plus(self.stuck_timeout + self.grace)),
            ),
            State::Recording { .. } => Some(
                heard
                    .plus(self.heartbeat_timeout)
                    .min(advanced.plus(self.stuck_timeout)),
            ),
            State::TakingOver {
                started_at: Some(at),
                ..
            } => {
                let at = at.max(watched_since);
                let silent = heard.max(at).plus(self.heartbeat_timeout + self.grace);
                let stuck = advanced.max(at).plus(self.stuck_timeout + self.grace);
                Some(silent.min(stuck))
            }
            State::TakingOver { not_before, .. } => Some(not_before),
            State::Paused { .. }
            | State::Stopping { .. }
            | State::Completed { .. }
            | State::Failed { .. }
            | State::GivenUp { .. }
            | State::Inactive { .. } => None,
        };
        let awaited = !matches!(
            session.state,
            State::TakingOver {
                started_at: None,
                ..
            }
        );
        let work = match seen {
            Seen::Frozen { since } if awaited => {
                work.map(|work| work.min(heard.max(since).plus(self.stall_timeout)))
            }
            _ => work,
        };
        [work, session.seal_at].into_iter().flatten().min()
    }

    /// What becomes of a session whose recorder is lost: replaced, after a delay that grows, or given up. One that is given
    /// up stays so: what time alone allows again is for a person, or for a recorder that comes back by itself.
    pub fn answer(&self, session: &Session, fault: Fault, now: Timestamp) -> Event {
        let recent = self.recent(session, now);
        let spent = recent >= self.max_attempts && session.has_a_recorder_to_lose();
        if spent || session.given_up_at().is_some() {
            return Event::GivenUp(self.too_often(recent, &fault.reason));
        }
        // One that hangs may run again: what is asked of it now is no longer true after a delay.
        let delay = match fault.reason {
            Reason::Frozen | Reason::Stalled => Duration::ZERO,
            _ => self.delay(recent),
        };
        Event::Lost {
            fault,
            not_before: now.plus(delay),
        }
    }

    /// What becomes of a session whose replacement could not be started.
    pub fn answer_to_failed_start(&self, session: &Session, cause: &str, now: Timestamp) -> Event {
        let tries = tries(session);
        let attempts = self.recent(session, now) + tries as usize;
        if attempts >= self.max_attempts {
            return Event::GivenUp(format!(
                "no replacement could be started in {attempts} attempts: {cause}"
            ));
        }
        Event::NotReplaced {
            not_before: now.plus(self.delay(attempts)),
            tries: tries + 1,
        }
    }

    /// What becomes of a session while the runtime cannot be reached: nothing was tried, so nothing is held against it.
    pub fn answer_to_absence(&self, session: &Session, now: Timestamp) -> Event {
        Event::NotReplaced {
            not_before: now.plus(self.first_delay),
            tries: tries(session),
        }
    }

    fn recent(&self, session: &Session, now: Timestamp) -> usize {
        // One that is still to come was dated by a clock that has been set since: nobody knows how long ago it was.
        let young =
            |failover: &&Failover| failover.at <= now && now.since(failover.at) < self.window;
        session.failovers.iter().rev().take_while(young).count()
    }

    /// How long to wait before the next try after this many earlier ones.
    pub fn delay(&self, earlier: usize) -> Duration {
        match u32::try_from(earlier) {
            Ok(0) => Duration::ZERO,
            Ok(earlier) => self
                .first_delay
                .saturating_mul(2u32.saturating_pow(earlier - 1))
                .min(self.longest_delay),
            Err(_) => self.longest_delay,
        }
    }

    /// For so long nothing grows before it is found out why. A question does no harm and goes out before the limit: answers
    /// are waited for beyond it, and a recorder that hangs is missed for that much less. What is looked at once a second may
    /// seem quiet for longer than that.
    pub fn quiet_limit(&self) -> Duration {
        const HEAD_START: Duration = Duration::from_secs(2);
        const LEAST: Duration = Duration::from_secs(2);
        self.stall_timeout.saturating_sub(HEAD_START).max(LEAST)
    }

    fn too_often(&self, recent: usize, reason: &Reason) -> String {
        format!(
            "{recent} failovers in {} seconds did not help; the last fault: {reason}",
            self.window.as_secs()
        )
    }
}

/// Replacements that could not be started since the recorder was lost.
const fn tries(session: &Session) -> u32 {
    match session.state {
        State::TakingOver { tries, .. } => tries,
        _ => 0,
    }
}

/// When the recorder last gave a sign of life: a heartbeat, or a file that grew.
pub fn alive_at(session: &Session) -> Timestamp {
    session.heartbeat_at.max(session.advanced_at)
}

/// What the recorder itself asks for. A full disk or a page that does not come is no reason: the next recorder would have
/// the same one.
fn reported(session: &Session) -> Option<Fault> {
    if !session.asks_for_replacement() {
        return None;
    }
    let mut troubles = session.report.troubles.iter();
    let dying = troubles.find(|t| t.kind == TroubleKind::Dying)?;
    Some(Fault {
        well_until: session.advanced_at,
        reason: Reason::Reported {
            message: dying.message.clone(),
        },
    })
}

fn disk_troubled(session: &Session) -> bool {
    let troubles = &session.report.troubles;
    troubles.iter().any(|t| t.kind == TroubleKind::Disk)
}

fn named(frozen: bool, silent: bool, stuck: bool) -> Option<Reason> {
    let frozen = frozen.then_some(Reason::Frozen);
    let silent = silent.then_some(Reason::Silent);
    frozen.or(silent).or(stuck.then_some(Reason::Stuck))
}

/// One failover, as the history keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// When the fault was seen.
    pub at: Timestamp,
    /// When the fault happened; where nobody saw it happen, when all was last known to be well.
    pub well_until: Timestamp,
    /// Why.
    pub reason: Reason,
    /// The run that was lost.
    pub old_run: RunNumber,
    /// The container that was lost.
    pub old_container: Option<ContainerId>,
    /// The container that took over: the same one again, or a backup.
    pub new_container: Option<ContainerId>,
    /// Chunks that the lost run and those before it left.
    pub chunks_recovered: u32,
    /// Milliseconds from the fault's detection to the start of the replacement.
    pub start_ms: Option<u64>,
    /// Milliseconds from the fault's detection to the first new frame.
    pub recovery_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::session::tests::{at, holder, session};
    use crate::model::session::{Action, Contact, Refusal};
    use crate::model::wire::Trouble;

    impl Policy {
        pub(crate) fn for_tests() -> Self {
            Self {
                heartbeat_timeout: Duration::from_secs(30),
                stuck_timeout: Duration::from_secs(30),
                stall_timeout: Duration::from_secs(5),
                grace: Duration::from_secs(5),
                max_attempts: 5,
                window: Duration::from_secs(600),
                first_delay: Duration::from_secs(1),
                longest_delay: Duration::from_secs(30),
            }
        }
    }

    fn recording() -> Session {
        session(State::Recording { since: at(0) })
    }

    fn fault(session: &Session, now: i64) -> Option<Reason> {
        let fault = Policy::for_tests().fault(session, Seen::Running, at(0), at(now));
        fault.map(|fault| fault.reason)
    }

    fn stuck() -> Fault {
        Fault {
            reason: Reason::Stuck,
            well_until: at(0),
        }
    }

    #[test]
    fn a_silent_recorder_is_lost_when_its_time_is_over_and_not_before() {
        let mut session = recording();
        session.heartbeat_at = at(100);
        session.advanced_at = at(100);
        assert_eq!(fault(&session, 129), None);
        assert_eq!(fault(&session, 130), Some(Reason::Silent));
    }

    #[test]
    fn a_frozen_recorder_is_lost_soon_and_not_for_the_silence_before_it_froze() {
        let policy = Policy::for_tests();
        let mut session = recording();
        session.heartbeat_at = at(100);
        session.advanced_at = at(100);
        let frozen = Seen::Frozen { since: at(109) };
        let fault = |watched_since, now| {
            let fault = policy.fault(&session, frozen, at(watched_since), at(now));
            fault.map(|fault| (fault.reason, fault.well_until))
        };
        assert_eq!(policy.due(&session, frozen, at(0)), Some(at(114)));
        assert_eq!(fault(0, 113), None);
        assert_eq!(fault(0, 114), Some((Reason::Frozen, at(100))));
        // What passed while the controller itself was stopped does not count.
        assert_eq!(fault(120, 124), None);
        assert_eq!(fault(120, 125), Some((Reason::Frozen, at(100))));
        let paused = self::session(State::Paused { since: at(0) });
        assert_eq!(policy.due(&paused, frozen, at(0)), None);
        assert_eq!(policy.fault(&paused, frozen, at(0), at(200)), None);
    }

    #[test]
    fn a_recorder_that_beats_but_records_nothing_is_stuck_unless_the_disk_is_full() {
        let mut session = recording();
        session.heartbeat_at = at(130);
        session.advanced_at = at(100);
        assert_eq!(fault(&session, 130), Some(Reason::Stuck));
        session.report.troubles.push(Trouble {
            kind: TroubleKind::Disk,
            message: "no space left".into(),
        });
        assert_eq!(fault(&session, 130), None);
    }

    #[test]
    fn a_death_that_is_seen_again_before_its_replacement_starts_is_no_further_one() {
        let policy = Policy::for_tests();
        let mut session = recording();
        for _ in 0..policy.max_attempts {
            let lost = policy.answer(&session, stuck(), at(1));
            session.on(lost, at(1)).unwrap();
            let again = policy.answer(&session, stuck(), at(2));
            assert_eq!(session.on(again, at(2)), Err(Refusal::NotRecording));
            session.on(Event::Replaced(holder("first")), at(3)).unwrap();
        }
        let mut stopping = session.clone();
        stopping.on(Event::StopAsked, at(3)).unwrap();
        let lost = policy.answer(&stopping, stuck(), at(4));
        assert_eq!(stopping.on(lost, at(4)), Ok(Some(Action::Stop)));
        let last = policy.answer(&session, stuck(), at(4));
        assert!(matches!(last, Event::GivenUp(_)), "{last:?}");
    }

    #[test]
    fn silence_with_growth_is_no_fault_and_without_it_counts_from_the_last_growth() {
        let mut session = recording();
        session.heartbeat_at = at(100);
        session.on(Event::Grown(at(190)), at(200)).unwrap();
        assert_eq!(fault(&session, 219), None);
        assert_eq!(fault(&session, 220), Some(Reason::Silent));
        let contact = |now| session.contact(Duration::from_secs(30), at(0), at(now));
        assert_eq!(
            (contact(129), contact(130)),
            (Contact::Heard, Contact::Deaf)
        );
        session.advanced_at = at(100);
        let contact = session.contact(Duration::from_secs(30), at(0), at(130));
        assert_eq!(contact, Contact::Unheard);
    }

    #[test]
    fn a_given_up_session_stays_so_until_its_recorder_is_heard() {
        let policy = Policy::for_tests();
        let mut session = recording();
        session.on(Event::GivenUp("enough".into()), at(1)).unwrap();
        let long_after = policy.answer(&session, stuck(), at(10_000));
        assert!(matches!(long_after, Event::GivenUp(_)), "{long_after:?}");
        session.on(Event::Salvaged, at(2)).unwrap();
        let heard = Event::Heard {
            last_chunk: Some("0007.mp4".into()),
            report: None,
        };
        session.on(heard, at(10_001)).unwrap();
        assert_eq!(session.state, State::Recording { since: at(10_001) });
        assert_eq!(session.finished_at, None, "there is more to come");
    }

    #[test]
    fn the_controllers_own_absence_is_no_ones_fault() {
        let session = recording();
        let policy = Policy::for_tests();
        assert_eq!(
            policy.fault(&session, Seen::Running, at(1_000), at(1_029)),
            None
        );
        let late = policy.fault(&session, Seen::Running, at(1_000), at(1_030));
        assert_eq!(late.map(|fault| fault.reason), Some(Reason::Silent));
    }

    #[test]
    fn a_recorder_that_has_just_been_started_gets_its_grace() {
        let starting = session(State::Starting { since: at(0) });
        let mut heard = starting;
        heard.heartbeat_at = at(34);
        assert_eq!(fault(&heard, 34), None);
        assert_eq!(fault(&heard, 35), Some(Reason::Stuck));
    }

    #[test]
    fn a_page_in_trouble_is_no_reason_for_another_recorder_and_a_dying_recorder_is() {
        let mut session = recording();
        session.heartbeat_at = at(100);
        session.advanced_at = at(100);
        session.page_troubled_at = Some(at(0));
        let trouble = |kind| Trouble {
            kind,
            message: "the page crashed".into(),
        };
        session.report.troubles = vec![trouble(TroubleKind::Page)];
        assert_eq!(fault(&session, 129), None);
        session.report.troubles = vec![trouble(TroubleKind::Dying)];
        assert!(matches!(
            fault(&session, 101),
            Some(Reason::Reported { .. })
        ));
    }

    #[test]
    fn failovers_wait_longer_each_time_and_then_the_session_is_given_up() {
        let policy = Policy::for_tests();
        let mut session = recording();
        let mut delays = Vec::new();
        for second in 0..5 {
            let now = at(second);
            let event = policy.answer(&session, stuck(), now);
            let Event::Lost { not_before, .. } = &event else {
                panic!("given up after {second}");
            };
            delays.push(not_before.since(now).as_secs());
            session.on(event, now).unwrap();
            session.state = State::Recording { since: now };
        }
        assert_eq!(delays, [0, 1, 2, 4, 8]);
        let sixth = policy.answer(&session, stuck(), at(5));
        assert!(matches!(sixth, Event::GivenUp(_)), "{sixth:?}");
        let next_window = policy.answer(&session, stuck(), at(605));
        assert!(matches!(next_window, Event::Lost { .. }), "{next_window:?}");
    }

    #[test]
    fn failovers_dated_by_a_clock_that_has_been_set_back_are_not_recent() {
        let policy = Policy::for_tests();
        let after_five_until = |second: i64| {
            let mut session = recording();
            for at_second in second - 4..=second {
                let event = policy.answer(&recording(), stuck(), at(at_second));
                session.on(event, at(at_second)).unwrap();
                session.state = State::Recording { since: at(0) };
            }
            session
        };
        // How long ago they were is not known.
        let event = policy.answer(&after_five_until(8_000), stuck(), at(2_001));
        assert!(matches!(event, Event::Lost { .. }), "{event:?}");
    }

    #[test]
    fn every_reason_has_a_label_that_is_known_beforehand() {
        let message = String::new;
        let all = [
            Reason::Died { code: 1 },
            Reason::OutOfMemory,
            Reason::Removed,
            Reason::Frozen,
            Reason::Stalled,
            Reason::Silent,
            Reason::Stuck,
            Reason::Reported { message: message() },
            Reason::CameBack,
            Reason::Requested { message: message() },
        ];
        assert_eq!(all.map(|it| it.label()), Reason::LABELS);
    }

    #[test]
    fn what_is_due_is_what_will_be_a_fault() {
        let policy = Policy::for_tests();
        let session = recording();
        let due = policy.due(&session, Seen::Running, at(0)).unwrap();
        let before = Timestamp::from_millis(due.millis() - 1);
        assert_eq!(policy.fault(&session, Seen::Running, at(0), before), None);
        assert!(policy.fault(&session, Seen::Running, at(0), due).is_some());
        // While nothing was started in its place, its thaw is nothing to wait for.
        let frozen = Seen::Frozen { since: at(0) };
        let mut lost = session;
        let event = policy.answer(&lost, stuck(), at(1));
        lost.on(event, at(1)).unwrap();
        assert_eq!(policy.due(&lost, frozen, at(0)), Some(at(1)));
        assert_eq!(policy.fault(&lost, frozen, at(0), at(99)), None);
    }
}
