//! The quick proof of death. A run that does not grow may be one whose disk hangs, whose container is frozen, or whose recorder
//! is mending something. It is held lost only where all of this was seen in one examination:
//!
//! - its container runs, and is not frozen, before it is asked and after: Docker answers, and does what it is asked;
//! - the disk of its recording takes a word of ours, before it is asked, in between and after;
//! - within its container, `ov2-ha-recorder ask` reached the socket of its first process and got no answer, twice, and the
//!   container's own disk took a word;
//! - from the first question to the end no file of it grew and no heartbeat came;
//! - it is still the same run in the same container, it records, and OpenVidu's file does not say that it ended.
//!
//! Whatever else is seen, or cannot be seen, ends nothing: it is told, and looked at again. Where time alone holds a recorder
//! lost, the same examination can only excuse it. One after the other: what holds up all of a host at once is rarely the fault
//! of all, and may be over for the next.

use super::Controller;
use super::disk::NoWord;
use super::stall::{Excuse, Finding, RunFiles};
use super::table::Entry;
use crate::clock::Timestamp;
use crate::model::ask::{ASKED, Doing, Reply};
use crate::model::failover::{Fault, Reason, Seen};
use crate::model::ids::{ContainerId, RecordingId, RunNumber};
use crate::model::session::{Holder, Session, State};
use crate::runtime::{ContainerStatus, RuntimeError};
use log::{debug, info, warn};
use std::sync::Arc;
use std::time::Duration;

/// How long the runtime may take to say what a container does.
const INSPECT: Duration = Duration::from_secs(2);
/// How long an answer is waited for when its absence is confirmed.
const ASKED_AGAIN: Duration = Duration::from_secs(1);
/// How much longer than the answer the question may take.
const QUESTION: Duration = Duration::from_secs(3);
/// What is said of a runtime that does not come back.
const NO_RUNTIME: &str = "the runtime does not answer";
/// What was just proved need not be proved again.
const JUST_NOW: Duration = Duration::from_secs(2);

/// What is to be found out about.
#[derive(Debug)]
struct Suspect {
    recording: RecordingId,
    quiet: Quiet,
    container: ContainerId,
    run: RunNumber,
    /// Its files, where they are known.
    place: Option<RunFiles>,
    /// Since when it does not grow.
    since: Timestamp,
    heartbeat_at: Timestamp,
}

/// By what a run is seen not to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quiet {
    /// Its files here, and its heartbeats.
    ByItsFiles,
    /// Its heartbeats, and what the slow limits saw.
    ByItsWord,
}

impl Suspect {
    /// Whether it is still what it was, and nothing of it has grown since.
    fn is(&self, entry: &Entry, watched_since: Timestamp) -> bool {
        let container = entry.session.container.as_ref();
        self.run == entry.session.run
            && container.is_some_and(|it| it.id == self.container)
            && self.quiet.since(entry, watched_since) == Some(self.since)
    }

    /// The same, and nothing was heard of it.
    fn is_silent(&self, entry: &Entry, watched_since: Timestamp) -> bool {
        self.is(entry, watched_since) && entry.session.heartbeat_at == self.heartbeat_at
    }

    /// Who is seen not to go on by nothing else than its files is not held lost without them.
    fn needs_its_files(&self, why: String) -> Result<(), Finding> {
        match self.quiet {
            Quiet::ByItsFiles => Err(Finding::Unknown(why)),
            Quiet::ByItsWord => Ok(()),
        }
    }
}

impl Quiet {
    /// Since when a run that records does not grow.
    fn since(self, entry: &Entry, watched_since: Timestamp) -> Option<Timestamp> {
        match (self, &entry.session.state) {
            (Self::ByItsFiles, _) => entry.quiet_since(watched_since),
            (Self::ByItsWord, State::Recording { .. }) => Some(entry.session.advanced_at),
            (Self::ByItsWord, _) => None,
        }
    }
}

impl Controller {
    /// Begins to find out why a run does not grow. While another one's turn is, it stays due.
    pub(super) fn begin_proof(&self, id: &RecordingId) {
        let Ok(turn) = Arc::clone(&self.0.proofs).try_acquire_owned() else {
            return;
        };
        let (controller, id) = (self.clone(), id.clone());
        let name = format!("find out why {id} does not grow");
        self.0.tasks.spawn(name, async move {
            controller.prove(&id).await;
            drop(turn);
        });
    }

    async fn prove(&self, id: &RecordingId) {
        let Some(suspect) = self.suspect(id, Quiet::ByItsFiles) else {
            return;
        };
        let quiet = self.0.clock.now().since(suspect.since);
        if quiet < self.0.policy.quiet_limit() {
            return;
        }
        match self.examine(id, &suspect).await {
            Finding::NoAnswer => {
                let fault = Fault {
                    reason: Reason::Stalled,
                    well_until: suspect.since,
                };
                let watched_since = self.table().watched_since();
                let holds = |entry: &Entry| suspect.is_silent(entry, watched_since);
                self.fault_where(id, fault, holds);
            }
            Finding::Grows => {}
            excuse => self.excuse(id, excuse, suspect.since),
        }
    }

    /// Whether a recorder that time alone holds for lost is to be left alone: its disk hangs, it answers, or it went on. It
    /// waits for its turn: whoever was not looked at has no excuse, and no fault either.
    pub(super) async fn is_excused(&self, id: &RecordingId, fault: &Fault) -> bool {
        if !is_slow(fault) || !self.is_seen(id) || self.suspect(id, Quiet::ByItsWord).is_none() {
            return false;
        }
        let Ok(_turn) = Arc::clone(&self.0.excuses).acquire_owned().await else {
            return false;
        };
        let Some(suspect) = self.suspect(id, Quiet::ByItsWord) else {
            return false;
        };
        let finding = self.examine(id, &suspect).await;
        let excuses = self.excuses(&finding, fault);
        if excuses && finding != Finding::Grows {
            self.excuse(id, finding, suspect.since);
        }
        excuses
    }

    /// Whether it was left alone a moment ago, and is not to be looked at again yet.
    pub(super) fn was_excused(&self, id: &RecordingId, fault: &Fault) -> bool {
        let now = self.0.clock.now();
        let excuse = self.table().get(id).and_then(|it| it.excuse()).cloned();
        let holds = |it: &Excuse| it.next > now && self.excuses(&it.finding, fault);
        excuse.as_ref().is_some_and(holds)
    }

    /// Whether what was found excuses a recorder that time alone holds for lost. One that only mends itself, for twice as long
    /// as any may, is better started again; a disk excuses while it holds everybody up.
    fn excuses(&self, finding: &Finding, fault: &Fault) -> bool {
        match finding {
            Finding::Grows | Finding::Answers(Doing::Fine | Doing::Disk { .. }) => true,
            Finding::Answers(_) => {
                let policy = &self.0.policy;
                let limit = match fault.reason {
                    Reason::Stuck => policy.stuck_timeout,
                    _ => policy.heartbeat_timeout,
                };
                let since = fault.well_until.max(self.table().watched_since());
                self.0.clock.now().since(since) < 2 * limit
            }
            Finding::DiskHangs => self.0.disk.holds_all_up(),
            Finding::NoAnswer | Finding::Unknown(_) => false,
        }
    }

    fn excuse(&self, id: &RecordingId, finding: Finding, since: Timestamp) {
        let words = words_of(&finding);
        let doubt = match &finding {
            Finding::Unknown(why) => Some(why.clone()),
            _ => None,
        };
        if !self.note_excuse(id, finding, since) {
            return;
        }
        if let Some(words) = words {
            warn!(session:% = id; "nothing more is recorded, and nothing is ended: {words}");
        } else if let Some(why) = doubt {
            info!(session:% = id;
                "nothing more is seen to be recorded, and nobody can say why: {why}; nothing is ended before its heartbeats are missed");
        }
    }

    /// What is to be found out about; `None` where it does not record.
    fn suspect(&self, id: &RecordingId, quiet: Quiet) -> Option<Suspect> {
        let table = self.table();
        let entry = table.get(id)?;
        Some(Suspect {
            recording: id.clone(),
            quiet,
            since: quiet.since(entry, table.watched_since())?,
            container: entry.session.container.as_ref()?.id.clone(),
            place: self.place_of(entry),
            run: entry.session.run,
            heartbeat_at: entry.session.heartbeat_at,
        })
    }

    /// Whether the runtime of this host shows its container.
    fn is_seen(&self, id: &RecordingId) -> bool {
        let held = self.session(id).and_then(|it| it.container);
        held.is_some_and(|held| super::lock(&self.0.observations).holder(&held.id).is_some())
    }

    async fn examine(&self, id: &RecordingId, suspect: &Suspect) -> Finding {
        match self.find_excuse(id, suspect).await {
            Err(found) => found,
            Ok(()) => Finding::NoAnswer,
        }
    }

    /// Goes through all that must be seen; what else is seen ends it.
    async fn find_excuse(&self, id: &RecordingId, suspect: &Suspect) -> Result<(), Finding> {
        self.container_runs(id, suspect).await?;
        self.disk_works(id, suspect).await?;
        self.gives_no_answer(suspect, ASKED).await?;
        self.disk_works(id, suspect).await?;
        self.gives_no_answer(suspect, ASKED_AGAIN).await?;
        self.container_runs(id, suspect).await?;
        // At last: whatever was written while all the others were asked is seen.
        self.disk_works(id, suspect).await?;
        let table = self.table();
        let watched_since = table.watched_since();
        let is_silent = |entry: &Entry| suspect.is_silent(entry, watched_since);
        match table.get(id).is_some_and(is_silent) {
            true => Ok(()),
            false => Err(Finding::Unknown("it was heard meanwhile".into())),
        }
    }

    async fn container_runs(&self, id: &RecordingId, suspect: &Suspect) -> Result<(), Finding> {
        let why = match self.status_of(&suspect.container).await {
            Ok(Some(ContainerStatus::Running)) => return Ok(()),
            Ok(Some(ContainerStatus::Paused)) => {
                let since = self.0.clock.now();
                self.mark(id, Seen::Frozen { since });
                "its container is frozen".into()
            }
            // Whatever ended it is an event of its own.
            Ok(_) => "its container does not run".into(),
            Err(why) => why,
        };
        Err(Finding::Unknown(why))
    }

    /// What a container does, and `None` where it is gone; why nobody can say, otherwise.
    async fn status_of(&self, id: &ContainerId) -> Result<Option<ContainerStatus>, String> {
        match tokio::time::timeout(INSPECT, self.0.runtime.inspect(id)).await {
            Ok(Ok(found)) => Ok(found.map(|it| it.status)),
            Ok(Err(cause)) => Err(cause.to_string()),
            Err(_) => Err(NO_RUNTIME.into()),
        }
    }

    /// Whether the disk takes a word of ours, where that is needed, and nothing grew until then.
    async fn disk_works(&self, id: &RecordingId, suspect: &Suspect) -> Result<(), Finding> {
        match &suspect.place {
            Some(place) => match self.0.disk.word(place, &self.0.tasks).await {
                Ok(look) => self.note_look(id, &look),
                Err(NoWord::Hangs) if suspect.quiet == Quiet::ByItsFiles => {
                    return Err(Finding::DiskHangs);
                }
                Err(NoWord::Hangs) if self.0.disk.holds_all_up() => return Err(Finding::DiskHangs),
                // Whom time alone holds lost may still be excused by an answer.
                Err(NoWord::Hangs) => {}
                Err(NoWord::Unknown(why)) => suspect.needs_its_files(why)?,
            },
            // Earlier clients do not say how they name them.
            None => suspect.needs_its_files("its files are not known".into())?,
        }
        let table = self.table();
        let watched_since = table.watched_since();
        let is_still = |entry: &Entry| suspect.is(entry, watched_since);
        match table.get(id).is_some_and(is_still) {
            true => Ok(()),
            false => Err(Finding::Grows),
        }
    }

    async fn gives_no_answer(&self, suspect: &Suspect, patience: Duration) -> Result<(), Finding> {
        match self.ask(&suspect.container, patience).await {
            Ok(Reply::Nothing) => Ok(()),
            // Its container may record another one of its session by now: that is alive, and not at work for this one.
            Ok(Reply::Answer(_, Some(named))) if named != suspect.recording => {
                Err(Finding::Answers(Doing::Other))
            }
            Ok(Reply::Answer(doing, _)) => Err(Finding::Answers(doing)),
            Ok(Reply::Unknown(why)) => Err(Finding::Unknown(why)),
            Err(cause) => Err(Finding::Unknown(cause.to_string())),
        }
    }

    /// Asks the recorder in a container; a runtime that does not come back leaves it unknown.
    pub(super) async fn ask(
        &self,
        id: &ContainerId,
        patience: Duration,
    ) -> Result<Reply, RuntimeError> {
        let asked = self.0.runtime.ask(id, patience);
        match tokio::time::timeout(patience + QUESTION, asked).await {
            Ok(replied) => replied,
            Err(_) => Ok(Reply::Unknown(NO_RUNTIME.into())),
        }
    }

    /// Whether a recorder that was held lost because it did not answer is to be left alone after all: it was heard, it grew,
    /// or it answers. What was just proved is not asked again.
    ///
    /// # Errors
    /// While nobody can say it: until it would be lost for its silence, and for twice as long where the disk hangs.
    pub(super) async fn answers_again(
        &self,
        session: &Session,
        held: &Holder,
        lost_at: Timestamp,
    ) -> Result<bool, RuntimeError> {
        if self.went_on(&session.id, lost_at) {
            return Ok(true);
        }
        let lost_for = self.0.clock.now().since(lost_at);
        if lost_for < JUST_NOW {
            return Ok(false);
        }
        let patience = self.0.policy.heartbeat_timeout;
        let place = self
            .table()
            .get(&session.id)
            .and_then(|it| self.place_of(it));
        if let Some(place) = place {
            match self.0.disk.word(&place, &self.0.tasks).await {
                Ok(look) if look.shows_growth(&place) => return Ok(true),
                Err(NoWord::Hangs) if self.0.disk.holds_all_up() && lost_for < 2 * patience => {
                    return Err(doubt(held, "the disk does not answer".into()));
                }
                Ok(_) | Err(_) => {}
            }
        }
        let why = match self.status_of(&held.id).await {
            Ok(Some(ContainerStatus::Running)) => match self.ask(&held.id, ASKED).await {
                Ok(Reply::Answer(doing, named)) => {
                    let is_its = is_at_work(&doing, named.as_ref(), &session.id);
                    // A page that makes another recording, or none, goes on with that: the next recorder is not started there.
                    return Ok(is_its || !super::lock(&self.0.observations).shows_a_page(&held.id));
                }
                Ok(Reply::Nothing) | Err(RuntimeError::NotFound(_)) => None,
                Ok(Reply::Unknown(why)) => Some(why),
                Err(cause) => Some(cause.to_string()),
            },
            Ok(Some(ContainerStatus::Paused)) => Some("it is frozen".into()),
            Ok(_) => None,
            Err(why) => Some(why),
        };
        if self.went_on(&session.id, lost_at) {
            return Ok(true);
        }
        match why.filter(|_| lost_for < patience) {
            Some(why) => Err(doubt(held, why)),
            None => Ok(false),
        }
    }

    /// Whether a session's recorder was heard, or seen to grow, after `then`.
    fn went_on(&self, id: &RecordingId, then: Timestamp) -> bool {
        let session = self.session(id);
        session.is_some_and(|it| it.heartbeat_at.max(it.advanced_at) > then)
    }
}

/// It is not known whether a recorder is there: as where the runtime cannot be reached, nothing is done about it now.
pub(super) fn doubt(held: &Holder, cause: String) -> RuntimeError {
    debug!(container:% = held.id; "whether the recorder in it is lost cannot be said: {cause}");
    RuntimeError::Unreachable {
        what: format!("the recorder in container {}", held.id),
        cause,
        advice: "it is asked again".into(),
    }
}

/// Whether a recorder that answers is at work for this recording.
fn is_at_work(doing: &Doing, named: Option<&RecordingId>, recording: &RecordingId) -> bool {
    *doing != Doing::Waiting && named.is_none_or(|it| it == recording)
}

fn is_slow(fault: &Fault) -> bool {
    matches!(fault.reason, Reason::Silent | Reason::Stuck)
}

/// What a person is told of it; nothing where nobody knows.
pub(super) fn words_of(finding: &Finding) -> Option<String> {
    Some(match finding {
        Finding::DiskHangs => "the disk does not answer".into(),
        Finding::Answers(doing) => format!("its recorder answers that {doing}"),
        Finding::Grows | Finding::NoAnswer | Finding::Unknown(_) => return None,
    })
}
