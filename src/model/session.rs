//! A session is one take under the controller's eye. Its state carries its data, and [`Session::on`] is the only way
//! from one state to the next: what the program does after a fault is decided here, where a table test can see all of it.

use super::failover::{Failover, Fault, Reason};
use super::ids::{ContainerId, RecordingId, RunNumber, TakeId};
use super::wire::{Report, TroubleKind};
use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The version of the stored record. It names no members: another one is added at the end, with a default.
pub const VERSION: u8 = 3;

/// How long after a stop OpenVidu is given to seal the recording: it waits 30 s for its container, and then writes.
pub const SEAL_AFTER: Duration = Duration::from_secs(45);

/// One take and everything that is decided by; the rest are its [`Particulars`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The recording's id.
    pub id: RecordingId,
    /// Which recording of that id; earlier clients do not say.
    pub take: Option<TakeId>,
    /// The run that may record now; heartbeats of a lower one are answered "superseded".
    pub run: RunNumber,
    /// What it does.
    pub state: State,
    /// When it was registered first.
    pub created_at: Timestamp,
    /// When the recorder was last heard.
    pub heartbeat_at: Timestamp,
    /// When the recording last went forward: as the recorder told, or as its files showed while it was silent.
    pub advanced_at: Timestamp,
    /// The chunk last reported, by file name.
    pub last_chunk: Option<String>,
    /// What the recorder last said of its work.
    pub report: Report,
    /// Since when the recorder says that its page is in trouble.
    #[serde(default)]
    pub page_troubled_at: Option<Timestamp>,
    /// When the controller finished the video itself, where no recorder could.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// When the controller looks whether OpenVidu has sealed the recording, and does it if not.
    #[serde(default)]
    pub seal_at: Option<Timestamp>,
    /// The container that records now.
    pub container: Option<Holder>,
    /// The container OpenVidu started, when another one took over.
    pub original: Option<ContainerId>,
    /// Failovers, oldest first.
    pub failovers: Vec<Failover>,
    /// Who registered.
    pub client_id: String,
    /// The video's name without extension.
    pub video_name: Option<String>,
    /// Why OpenVidu will never seal the recording, where that is known.
    #[serde(default)]
    pub disowned: Option<Disowned>,
    /// Whether the recording was sealed, and reported as ready, in OpenVidu's place.
    #[serde(default)]
    pub ready_told: bool,
}

/// Why OpenVidu will never seal a recording: it is for us to finish it, and to report it as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disowned {
    /// It wrote the stop into its file and could not give it to its container, which was not there.
    StopFails,
    /// It does not know the recording any more, or has not answered for so long that it counts as gone.
    Forgotten,
}

/// What clients said of a session that no transition asks for. It is kept on disk only, and read when it is wanted: a
/// hundred thousand sessions are in memory together, and their particulars are most of what is known of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Particulars {
    /// Where it records.
    pub client_host: Option<String>,
    /// OpenVidu's unique id of the session.
    pub unique_session_id: Option<String>,
    /// OpenVidu's id of the session.
    pub original_session_id: Option<String>,
    /// Where the video is.
    pub recording_path: Option<String>,
    /// OpenVidu's `RECORDING_JSON`.
    pub recording_json: Option<String>,
    /// The recorder's settings, without secrets.
    pub environment: Option<String>,
    /// Whatever the client added.
    pub metadata: Option<String>,
    /// The address that answered, for this very session of OpenVidu, that it is being recorded.
    #[serde(default)]
    pub vouched_by: Option<String>,
}

/// The container that holds a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// Whether we made it.
    pub backup: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What a session does; each state has what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub enum State {
    /// Registered, no chunk yet.
    Starting {
        /// Since when.
        since: Timestamp,
    },
    /// Chunks arrive.
    Recording {
        /// Since when.
        since: Timestamp,
    },
    /// The recorder was lost and another is being started.
    TakingOver {
        /// When the loss was seen.
        since: Timestamp,
        /// Why.
        reason: Reason,
        /// When the replacement was started, once it was.
        started_at: Option<Timestamp>,
        /// Not before this is a replacement started.
        not_before: Timestamp,
        /// Replacements that could not be started.
        tries: u32,
    },
    /// Paused by a client.
    Paused {
        /// Since when.
        since: Timestamp,
    },
    /// Told to stop; the video is being finished.
    Stopping {
        /// Since when.
        since: Timestamp,
    },
    /// The video is there.
    Completed {
        /// When.
        at: Timestamp,
    },
    /// OpenVidu or a client says that it failed; what was recorded is kept.
    Failed {
        /// When.
        at: Timestamp,
        /// Why, for a person.
        why: String,
    },
    /// Put aside by a client, or silent for too long.
    Inactive {
        /// When.
        at: Timestamp,
    },
    /// No further recorder is started. What runs is left alone, and a recorder that is heard again records on.
    GivenUp {
        /// Since when.
        at: Timestamp,
        /// Why, for a person.
        why: String,
    },
}

/// Whether the recorder's heartbeats arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Contact {
    /// They do, or none is expected.
    Heard,
    /// They do not, but its files grow: it records, and nothing that the controller says reaches it.
    Deaf,
    /// They do not, and no file was seen to grow.
    Unheard,
}

/// The status words of the interface.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// See [`State::Starting`].
    Starting,
    /// See [`State::Recording`] and [`State::TakingOver`].
    Recording,
    /// See [`State::Paused`].
    Paused,
    /// See [`State::Stopping`].
    Stopping,
    /// See [`State::Completed`].
    Completed,
    /// See [`State::Failed`] and [`State::GivenUp`].
    Failed,
    /// See [`State::Inactive`].
    Inactive,
}

impl Status {
    /// Reads a client's word, in any case; OpenVidu's `started` and `stopped` are known too.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_uppercase().as_str() {
            "STARTING" | "STARTED" => Self::Starting,
            "RECORDING" => Self::Recording,
            "PAUSED" => Self::Paused,
            "STOPPING" | "STOPPED" => Self::Stopping,
            "COMPLETED" => Self::Completed,
            "FAILED" => Self::Failed,
            "INACTIVE" => Self::Inactive,
            _ => return None,
        })
    }

    /// The interface's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "STARTING",
            Self::Recording => "RECORDING",
            Self::Paused => "PAUSED",
            Self::Stopping => "STOPPING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Inactive => "INACTIVE",
        }
    }

    /// Whether a recorder is expected to be at work.
    pub const fn active(self) -> bool {
        matches!(self, Self::Starting | Self::Recording)
    }
}

impl State {
    /// The interface's word for this state.
    pub const fn status(&self) -> Status {
        match self {
            Self::Starting { .. } => Status::Starting,
            Self::Recording { .. } | Self::TakingOver { .. } => Status::Recording,
            Self::Paused { .. } => Status::Paused,
            Self::Stopping { .. } => Status::Stopping,
            Self::Completed { .. } => Status::Completed,
            Self::Failed { .. } | Self::GivenUp { .. } => Status::Failed,
            Self::Inactive { .. } => Status::Inactive,
        }
    }
}

/// What can happen to a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A recorder registered and was given this run.
    Registered {
        /// Its run.
        run: RunNumber,
        /// Its container, where that is known.
        holder: Option<Holder>,
    },
    /// The recorder of the current run was heard.
    Heard {
        /// The chunk being written.
        last_chunk: Option<String>,
        /// What it sees of its work.
        report: Option<Report>,
    },
    /// Its files were written to at this time.
    Grown(Timestamp),
    /// The recorder is lost and may be replaced.
    Lost {
        /// What is wrong.
        fault: Fault,
        /// Not before this.
        not_before: Timestamp,
    },
    /// A replacement was started.
    Replaced(Holder),
    /// No replacement could be started; the next try not before this.
    NotReplaced {
        /// When to try again.
        not_before: Timestamp,
        /// Tries that have failed by now. Where the runtime is away none was made.
        tries: u32,
    },
    /// It was held lost because it was frozen or did not answer, and runs again before anything was started in its place.
    Thawed,
    /// No further recorder is to be started; why, for a person.
    GivenUp(String),
    /// OpenVidu or a client says that it failed, or nothing is left of it; why, for a person.
    Failed(String),
    /// OpenVidu or a client wants it stopped.
    StopAsked,
    /// The recorder finished the video.
    Finished,
    /// The controller finished the video.
    Salvaged,
    /// OpenVidu, or the controller in its place, sealed the recording as ready.
    Sealed,
    /// OpenVidu will never seal it.
    Disowned(Disowned),
    /// A client wants this status.
    Set(Status),
}

/// What the controller has to do after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a replacement, once the state's `not_before` has come.
    Replace,
    /// See to it that the recorder stops and the video is finished.
    Stop,
    /// Finish the video without a recorder, unless one runs.
    Salvage,
}

/// Why an event changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A later run has taken over.
    Superseded,
    /// The session is over or about to be.
    Over,
    /// There is nothing to replace: no recorder is expected to be at work, or one is being replaced already.
    NotRecording,
}

impl Session {
    /// The clock was set back to `now`: no stamp that something is waited for from may lie in the future.
    pub fn set_back(&mut self, now: Timestamp) {
        self.heartbeat_at = self.heartbeat_at.min(now);
        self.advanced_at = self.advanced_at.min(now);
        self.seal_at = self.seal_at.map(|at| at.min(now));
        match &mut self.state {
            State::TakingOver {
                since,
                started_at,
                not_before,
                ..
            } => {
                *since = (*since).min(now);
                *started_at = started_at.map(|at| at.min(now));
                *not_before = (*not_before).min(now);
            }
            State::Recording { since } => *since = (*since).min(now),
            _ => {}
        }
    }

    /// The only way from one state to the next. A refused event changes nothing.
    ///
    /// # Errors
    /// The [`Refusal`] that whoever sent the event is told.
    pub fn on(&mut self, event: Event, now: Timestamp) -> Result<Option<Action>, Refusal> {
        match event {
            Event::Registered { run, holder } => self.registered(run, holder, now),
            Event::Heard { last_chunk, report } => self.heard(last_chunk, report, now),
            Event::Grown(at) => self.grown(at),
            Event::Lost { fault, not_before } => self.lost(fault, not_before, now),
            Event::Replaced(holder) => self.replaced(holder, now),
            Event::NotReplaced { not_before, tries } => self.not_replaced(not_before, tries),
            Event::Thawed => self.thawed(now),
            Event::GivenUp(why) => self.given_up(why, now),
            Event::Failed(why) => self.failed(why, now),
            Event::StopAsked => self.stop_asked(now),
            Event::Finished => self.finished(now),
            Event::Salvaged => self.salvaged(now),
            Event::Sealed => self.sealed(now),
            Event::Disowned(why) => self.disown(why, now),
            Event::Set(status) => self.set(status, now),
        }
    }

    fn registered(
        &mut self,
        run: RunNumber,
        holder: Option<Holder>,
        now: Timestamp,
    ) -> Result<Option<Action>, Refusal> {
        if self.over() || matches!(self.state, State::Stopping { .. }) {
            return Err(Refusal::Over);
        }
        if run < self.run {
            return Err(Refusal::Superseded);
        }
        let again = run == self.run;
        match &mut self.state {
            State::Inactive { .. } => self.state = State::Starting { since: now },
            State::GivenUp { .. } => self.revive(State::Starting { since: now }),
            _ if again => {}
            State::TakingOver { started_at, .. } => {
                started_at.get_or_insert(now);
            }
            State::Starting { .. } | State::Recording { .. } if self.run == RunNumber(0) => {}
            State::Starting { .. } | State::Recording { .. } => {
                let fault = Fault {
                    reason: Reason::CameBack,
                    well_until: self.heartbeat_at,
                };
                self.remember_failover(&fault, now);
                self.state = State::TakingOver {
                    since: now,
                    reason: Reason::CameBack,
                    started_at: Some(now),
                    not_before: now,
                    tries: 0,
                };
            }
            State::Paused { .. }
            | State::Stopping { .. }
            | State::Completed { .. }
            | State::Failed { .. } => {}
        }
        self.run = run;
        if let Some(holder) = holder {
            self.held_by(holder);
        }
        self.heartbeat_at = now;
        self.advanced_at = now;
        if !again {
            self.report = Report::default();
            self.page_troubled_at = None;
        }
        Ok(None)
    }

    fn heard(
        &mut self,
        last_chunk: Option<String>,
        report: Option<Report>,
        now: Timestamp,
    ) -> Result<Option<Action>, Refusal> {
        if matches!(self.state, State::Completed { .. } | State::Failed { .. }) {
            return Err(Refusal::Over);
        }
        self.heartbeat_at = now;
        let chunk = last_chunk.filter(|chunk| !chunk.is_empty());
        let writes = chunk.is_some();
        // Earlier clients tell nothing of their work.
        let says_nothing_else = report.is_none();
        let mut advanced = chunk.is_some() && chunk != self.last_chunk;
        if let Some(report) = report {
            advanced |= went_on(&self.report, &report);
            let troubled = report.troubles.iter().any(|t| t.kind == TroubleKind::Page);
            self.page_troubled_at = troubled.then(|| self.page_troubled_at.unwrap_or(now));
            self.report = report;
        }
        if advanced {
            self.advanced_at = now;
        }
        if chunk.is_some() {
            self.last_chunk = chunk;
        }
        match self.state {
            State::Starting { .. } if writes => self.state = State::Recording { since: now },
            State::GivenUp { .. } if advanced || says_nothing_else => {
                self.revive(State::Recording { since: now });
            }
            State::TakingOver {
                since,
                started_at: Some(_),
                ..
            } if advanced && self.replaced_run() < self.run => {
                if let Some(failover) = self.failovers.last_mut() {
                    failover.recovery_ms = Some(millis(now, since));
                }
                self.state = State::Recording { since: now };
            }
            _ => {}
        }
        Ok(None)
    }

    /// A recorder is at work again after the session was given up.
    fn revive(&mut self, state: State) {
        self.state = state;
        self.finished_at = None;
        self.seal_at = None;
        self.disowned = None;
    }

    fn grown(&mut self, at: Timestamp) -> Result<Option<Action>, Refusal> {
        if !self.has_a_recorder_to_lose() {
            return Err(Refusal::NotRecording);
        }
        self.advanced_at = self.advanced_at.max(at);
        Ok(None)
    }

    fn lost(
        &mut self,
        fault: Fault,
        not_before: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Action>, Refusal> {
        if matches!(self.state, State::Stopping { .. }) {
            return Ok(Some(Action::Stop));
        }
        let may_be_replaced = self.has_a_recorder_to_lose() || self.given_up_at().is_some();
        if !may_be_replaced {
            return Err(Refusal::NotRecording);
        }
        (self.finished_at, self.seal_at) = (None, None);
        self.remember_failover(&fault, now);
        self.state = State::TakingOver {
            since: now,
            reason: fault.reason,
            started_at: None,
            not_before,
            tries: 0,
        };
        Ok(Some(Action::Replace))
    }

    fn replaced(&mut self, holder: Holder, now: Timestamp) -> Result<Option<Action>, Refusal> {
        let State::TakingOver {
            since,
            ref mut started_at,
            ..
        } = self.state
        else {
            return Err(if self.over() || self.stopping() {
                Refusal::Over
            } else {
                Refusal::Superseded
            });
        };
        started_at.get_or_insert(now);
        if let Some(failover) = self.failovers.last_mut() {
            failover.new_container = Some(holder.id.clone());
            failover.start_ms = Some(millis(now, since));
        }
        self.held_by(holder);
        Ok(None)
    }

    fn not_replaced(&mut self, at: Timestamp, failed: u32) -> Result<Option<Action>, Refusal> {
        match &mut self.state {
            State::TakingOver {
                started_at: None,
                not_before,
                tries,
                ..
            } => {
                (*not_before, *tries) = (at, failed);
                Ok(Some(Action::Replace))
            }
            _ => Err(Refusal::NotRecording),
        }
    }

    fn thawed(&mut self, now: Timestamp) -> Result<Option<Action>, Refusal> {
        let State::TakingOver {
            since,
            started_at: None,
            ..
        } = self.state
        else {
            return Err(Refusal::NotRecording);
        };
        if let Some(failover) = self.failovers.last_mut() {
            failover.recovery_ms = Some(millis(now, since));
        }
        self.state = State::Recording { since: now };
        Ok(None)
    }

    fn given_up(&mut self, why: String, now: Timestamp) -> Result<Option<Action>, Refusal> {
        // A stop that came meanwhile sees to the end, and whoever put the session aside does not want it back.
        if self.over() || self.stopping() {
            return Err(Refusal::Over);
        }
        if self.given_up_at().is_none() {
            self.state = State::GivenUp { at: now, why };
        }
        Ok(Some(Action::Salvage))
    }

    fn failed(&mut self, why: String, now: Timestamp) -> Result<Option<Action>, Refusal> {
        if self.over() {
            return Err(Refusal::Over);
        }
        self.state = State::Failed { at: now, why };
        Ok(Some(Action::Salvage))
    }

    fn stop_asked(&mut self, now: Timestamp) -> Result<Option<Action>, Refusal> {
        match self.state {
            State::Inactive { .. } | State::Stopping { .. } => Ok(None),
            State::Completed { .. } | State::Failed { .. } => {
                self.seal_at.get_or_insert(now.plus(SEAL_AFTER));
                Ok(None)
            }
            _ => {
                self.state = State::Stopping { since: now };
                self.seal_at = Some(now.plus(SEAL_AFTER));
                Ok(Some(Action::Stop))
            }
        }
    }

    fn finished(&mut self, now: Timestamp) -> Result<Option<Action>, Refusal> {
        if matches!(self.state, State::Completed { .. } | State::Failed { .. }) {
            return Err(Refusal::Over);
        }
        self.state = State::Completed { at: now };
        self.seal_at.get_or_insert(now.plus(SEAL_AFTER));
        // A backup waits for a stop that OpenVidu cannot give it.
        let is_ours = self.container.as_ref().is_some_and(|it| it.backup);
        Ok(is_ours.then_some(Action::Stop))
    }

    fn sealed(&mut self, now: Timestamp) -> Result<Option<Action>, Refusal> {
        self.seal_at = None;
        if self.over() {
            return Ok(None);
        }
        self.state = State::Completed { at: now };
        // A recorder may be at work still: a backup, of which OpenVidu does not know.
        Ok(Some(Action::Stop))
    }

    fn disown(&mut self, why: Disowned, now: Timestamp) -> Result<Option<Action>, Refusal> {
        if matches!(self.state, State::Inactive { .. }) || self.ready_told {
            return Err(Refusal::Over);
        }
        self.disowned = Some(why);
        self.seal_at = Some(now);
        if self.over() {
            return Ok(None);
        }
        if !self.stopping() {
            self.state = State::Stopping { since: now };
        }
        Ok(Some(Action::Stop))
    }

    fn salvaged(&mut self, now: Timestamp) -> Result<Option<Action>, Refusal> {
        // A recorder is at work again, or about to be: there is more to come.
        if self.state.status().active() || matches!(self.state, State::Paused { .. }) {
            return Err(Refusal::Superseded);
        }
        self.finished_at = Some(now);
        // It may have been postponed for the video's sake.
        let latest = match self.disowned {
            Some(_) => now,
            None => now.plus(SEAL_AFTER),
        };
        self.seal_at = self.seal_at.map(|at| at.min(latest));
        if matches!(self.state, State::Stopping { .. }) {
            self.state = State::Completed { at: now };
        }
        Ok(None)
    }

    fn set(&mut self, status: Status, now: Timestamp) -> Result<Option<Action>, Refusal> {
        match (status, &self.state) {
            (Status::Inactive, _) => self.state = State::Inactive { at: now },
            (Status::Stopping, _) => return self.stop_asked(now),
            (Status::Completed, State::Completed { .. })
            | (Status::Failed, State::Failed { .. }) => {}
            (Status::Completed, _) => return self.finished(now),
            (Status::Failed, _) => {
                return self.failed("a client reported that it failed".into(), now);
            }
            (_, State::Stopping { .. } | State::Completed { .. } | State::Failed { .. }) => {
                return Err(Refusal::Over);
            }
            (_, State::TakingOver { .. }) => {}
            (Status::Starting, _) => self.state = State::Starting { since: now },
            (Status::Recording, _) => self.state = State::Recording { since: now },
            (Status::Paused, _) => self.state = State::Paused { since: now },
        }
        Ok(None)
    }

    /// Whether nothing is expected of a recorder any more.
    pub const fn over(&self) -> bool {
        matches!(self.state, State::Completed { .. } | State::Failed { .. })
    }

    /// Whether a recorder is expected to be there: not while another is about to be started, and not at the end.
    pub const fn has_a_recorder_to_lose(&self) -> bool {
        matches!(
            self.state,
            State::Starting { .. }
                | State::Recording { .. }
                | State::Paused { .. }
                | State::TakingOver {
                    started_at: Some(_),
                    ..
                }
        )
    }

    /// Since when no further recorder is started.
    pub const fn given_up_at(&self) -> Option<Timestamp> {
        match self.state {
            State::GivenUp { at, .. } => Some(at),
            _ => None,
        }
    }

    /// Whether nothing has ended it yet: a recorder is expected, or may come back.
    pub const fn may_be_ended(&self) -> bool {
        !self.over() && !self.stopping()
    }

    /// Whether the recorder's heartbeats arrive, where they are missed after `patience` and not for anything before
    /// `watched_since`.
    pub fn contact(&self, patience: Duration, watched_since: Timestamp, now: Timestamp) -> Contact {
        let heard_at = self.heartbeat_at.max(watched_since);
        let expected = self.state.status().active() || self.given_up_at().is_some();
        if !expected || now.since(heard_at) < patience {
            return Contact::Heard;
        }
        match self.advanced_at > self.heartbeat_at {
            true => Contact::Deaf,
            false => Contact::Unheard,
        }
    }

    const fn stopping(&self) -> bool {
        matches!(self.state, State::Stopping { .. } | State::Inactive { .. })
    }

    /// Since when the session has been over or put aside.
    pub const fn ended_at(&self) -> Option<Timestamp> {
        match self.state {
            State::Completed { at } | State::Failed { at, .. } | State::Inactive { at } => Some(at),
            // Until the video is finished something may still record.
            State::GivenUp { .. } => self.finished_at,
            _ => None,
        }
    }

    /// Whether the recorder at work says that it cannot go on.
    pub fn asks_for_replacement(&self) -> bool {
        let working = matches!(self.state, State::Starting { .. } | State::Recording { .. });
        let troubles = &self.report.troubles;
        working && troubles.iter().any(|t| t.kind == TroubleKind::Dying)
    }

    /// The run that the last failover replaced.
    fn replaced_run(&self) -> RunNumber {
        self.failovers
            .last()
            .map_or(RunNumber(0), |failover| failover.old_run)
    }

    fn held_by(&mut self, holder: Holder) {
        if let Some(old) = self.container.take()
            && old.id != holder.id
            && !old.backup
        {
            self.original.get_or_insert(old.id);
        }
        self.container = Some(holder);
    }

    fn remember_failover(&mut self, fault: &Fault, now: Timestamp) {
        self.failovers.push(Failover {
            at: now,
            well_until: fault.well_until.min(now),
            reason: fault.reason.clone(),
            old_run: self.run,
            old_container: self.container.as_ref().map(|holder| holder.id.clone()),
            new_container: None,
            chunks_recovered: self.report.chunk,
            start_ms: None,
            recovery_ms: None,
        });
    }
}

fn went_on(before: &Report, after: &Report) -> bool {
    after.chunk > before.chunk
        || after.bytes > before.bytes
        || after.frames > before.frames
        || after.newest_frame_at > before.newest_frame_at
}

fn millis(now: Timestamp, since: Timestamp) -> u64 {
    u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::failover::{Policy, Seen};
    use proptest::prelude::*;

    pub(crate) fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_795_577_569_000 + seconds * 1_000)
    }

    pub(crate) fn holder(id: &str) -> Holder {
        Holder {
            id: ContainerId::parse(id).unwrap(),
            name: format!("name of {id}"),
            backup: false,
            created_at: at(0),
        }
    }

    pub(crate) fn session(state: State) -> Session {
        Session {
            id: RecordingId::parse("ses_A").unwrap(),
            take: TakeId::parse("1795577569000").ok(),
            run: RunNumber(1),
            state,
            created_at: at(0),
            heartbeat_at: at(0),
            advanced_at: at(0),
            last_chunk: None,
            report: Report::default(),
            page_troubled_at: None,
            finished_at: None,
            seal_at: None,
            container: Some(holder("first")),
            original: None,
            failovers: Vec::new(),
            client_id: "client".into(),
            video_name: None,
            disowned: None,
            ready_told: false,
        }
    }

    fn silent() -> Fault {
        Fault {
            reason: Reason::Silent,
            well_until: at(0),
        }
    }

    fn states() -> Vec<(&'static str, Session)> {
        let taking_over = |started_at| State::TakingOver {
            since: at(0),
            reason: Reason::Silent,
            started_at,
            not_before: at(0),
            tries: 0,
        };
        let since = at(0);
        let mut all = vec![
            ("starting", session(State::Starting { since })),
            ("recording", session(State::Recording { since })),
            ("replacing", session(taking_over(None))),
            ("replaced", session(taking_over(Some(at(0))))),
            ("paused", session(State::Paused { since })),
            ("stopping", session(State::Stopping { since })),
            ("completed", session(State::Completed { at: since })),
            (
                "failed",
                session(State::Failed {
                    at: since,
                    why: String::new(),
                }),
            ),
            ("inactive", session(State::Inactive { at: since })),
            (
                "givenup",
                session(State::GivenUp {
                    at: since,
                    why: String::new(),
                }),
            ),
        ];
        for (name, session) in &mut all {
            if name.starts_with("replac") {
                session.remember_failover(&silent(), at(0));
            }
        }
        all
    }

    fn name(session: &Session) -> &'static str {
        match session.state {
            State::Starting { .. } => "starting",
            State::Recording { .. } => "recording",
            State::TakingOver {
                started_at: None, ..
            } => "replacing",
            State::TakingOver { .. } => "replaced",
            State::Paused { .. } => "paused",
            State::Stopping { .. } => "stopping",
            State::Completed { .. } => "completed",
            State::Failed { .. } => "failed",
            State::Inactive { .. } => "inactive",
            State::GivenUp { .. } => "givenup",
        }
    }

    fn events() -> Vec<(&'static str, Event)> {
        let registered = |run| Event::Registered {
            run: RunNumber(run),
            holder: Some(holder("first")),
        };
        let heard = |chunk: Option<&str>| Event::Heard {
            last_chunk: chunk.map(str::to_owned),
            report: None,
        };
        let lost = Event::Lost {
            fault: silent(),
            not_before: at(9),
        };
        vec![
            ("register-same-run", registered(1)),
            ("register-next-run", registered(2)),
            ("register-old-run", registered(0)),
            ("heard", heard(None)),
            ("heard-chunk", heard(Some("0001.mp4"))),
            ("grown", Event::Grown(at(4))),
            ("lost", lost),
            ("replaced", Event::Replaced(holder("second"))),
            (
                "not-replaced",
                Event::NotReplaced {
                    not_before: at(9),
                    tries: 1,
                },
            ),
            ("thawed", Event::Thawed),
            ("given-up", Event::GivenUp("enough".into())),
            ("failed", Event::Failed("OpenVidu says so".into())),
            ("stop", Event::StopAsked),
            ("finished", Event::Finished),
            ("salvaged", Event::Salvaged),
            ("sealed", Event::Sealed),
            ("disowned", Event::Disowned(Disowned::Forgotten)),
            ("set-recording", Event::Set(Status::Recording)),
            ("set-paused", Event::Set(Status::Paused)),
            ("set-inactive", Event::Set(Status::Inactive)),
        ]
    }

    /// Every state (rows) and every event (columns, in the order of `events`): the state afterwards, with what is to be
    /// done; or why nothing changed.
    const TABLE: &str = "
starting  starting  replaced !superseded starting  recording starting      replacing+replace !superseded !notrecording     !notrecording givenup+salvage failed+salvage stopping+stop completed !superseded completed+stop stopping+stop recording paused    inactive
recording recording replaced !superseded recording recording recording     replacing+replace !superseded !notrecording     !notrecording givenup+salvage failed+salvage stopping+stop completed !superseded completed+stop stopping+stop recording paused    inactive
replacing replacing replaced !superseded replacing replacing !notrecording !notrecording     replaced    replacing+replace recording     givenup+salvage failed+salvage stopping+stop completed !superseded completed+stop stopping+stop replacing replacing inactive
replaced  replaced  replaced !superseded replaced  replaced  replaced      replacing+replace replaced    !notrecording     !notrecording givenup+salvage failed+salvage stopping+stop completed !superseded completed+stop stopping+stop replaced  replaced  inactive
paused    paused    paused   !superseded paused    paused    paused        replacing+replace !superseded !notrecording     !notrecording givenup+salvage failed+salvage stopping+stop completed !superseded completed+stop stopping+stop recording paused    inactive
stopping  !over     !over    !over       stopping  stopping  !notrecording stopping+stop     !over       !notrecording     !notrecording !over           failed+salvage stopping      completed completed   completed+stop stopping+stop !over     !over     inactive
completed !over     !over    !over       !over     !over     !notrecording !notrecording     !over       !notrecording     !notrecording !over           !over          completed     !over     completed   completed      completed     !over     !over     inactive
failed    !over     !over    !over       !over     !over     !notrecording !notrecording     !over       !notrecording     !notrecording !over           !over          failed        !over     failed      failed         failed        !over     !over     inactive
inactive  starting  starting !superseded inactive  inactive  !notrecording !notrecording     !over       !notrecording     !notrecording !over           failed+salvage inactive      completed inactive    completed+stop !over         recording paused    inactive
givenup   starting  starting !superseded recording recording !notrecording replacing+replace !superseded !notrecording     !notrecording givenup+salvage failed+salvage stopping+stop completed givenup     completed+stop stopping+stop recording paused    inactive
";

    #[test]
    fn every_event_in_every_state_does_what_the_table_says() {
        let rows = TABLE.trim().lines().map(str::split_whitespace);
        let states = states();
        assert_eq!(rows.clone().count(), states.len());
        for ((state, before), mut row) in states.into_iter().zip(rows) {
            assert_eq!(row.next(), Some(state));
            for (event_name, event) in events() {
                let mut session = before.clone();
                let told = match session.on(event, at(5)) {
                    Ok(None) => name(&session).to_owned(),
                    Ok(Some(action)) => format!("{}+{action:?}", name(&session)).to_lowercase(),
                    Err(refusal) => {
                        assert_eq!(
                            session, before,
                            "{state}, {event_name}: refused but changed"
                        );
                        format!("!{refusal:?}").to_lowercase()
                    }
                };
                assert_eq!(Some(told.as_str()), row.next(), "{state}, {event_name}");
            }
        }
    }

    #[test]
    fn a_new_frame_of_the_new_run_ends_a_failover_and_one_of_the_old_run_does_not() {
        let mut session = session(State::Recording { since: at(0) });
        let lost = Event::Lost {
            fault: Fault {
                reason: Reason::Died { code: 137 },
                well_until: at(9),
            },
            not_before: at(10),
        };
        let heard = |chunk: &str| Event::Heard {
            last_chunk: Some(chunk.into()),
            report: None,
        };
        session.on(lost, at(10)).unwrap();
        session
            .on(Event::Replaced(holder("first")), at(11))
            .unwrap();
        session.on(heard("0002.mp4"), at(11)).unwrap();
        assert_eq!(name(&session), "replaced");
        let registered = Event::Registered {
            run: RunNumber(2),
            holder: None,
        };
        session.on(registered, at(12)).unwrap();
        session.on(heard("0003.mp4"), at(13)).unwrap();
        assert_eq!(name(&session), "recording");
        let failover = &session.failovers[0];
        assert_eq!((failover.well_until, failover.at), (at(9), at(10)));
        assert_eq!(
            (failover.start_ms, failover.recovery_ms),
            (Some(1_000), Some(3_000))
        );
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop::sample::select(
            events()
                .into_iter()
                .map(|(_, event)| event)
                .collect::<Vec<_>>(),
        )
    }

    proptest! {
        /// Random lives: runs never go back, a session that ended stays so but for a client's word, a lost recorder is
        /// always answered for, and from every state there is a way out.
        #[test]
        fn no_life_of_a_session_goes_astray(lives in prop::collection::vec((any_event(), 0i64..40), 1..60)) {
            let policy = Policy::for_tests();
            let mut now = 0;
            let mut it = session(State::Starting { since: at(0) });
            for (event, pause) in lives {
                now += pause;
                let before = it.clone();
                let told = it.on(event.clone(), at(now));
                prop_assert!(it.run >= before.run);
                if told.is_err() {
                    prop_assert_eq!(&it, &before);
                }
                if before.over() && !matches!(event, Event::Set(_)) {
                    prop_assert!(it.over(), "{:?} revived {:?}", event, before.state);
                }
                if matches!(it.state, State::TakingOver { started_at: None, .. }) && name(&before) != "replacing" {
                    prop_assert_eq!(told, Ok(Some(Action::Replace)));
                    prop_assert_eq!(it.failovers.len(), before.failovers.len() + 1);
                }
                // Whoever is expected to record is looked at again, and so is what waits for its seal.
                let watched = it.state.status().active() || it.seal_at.is_some();
                prop_assert_eq!(watched, policy.due(&it, Seen::Running, at(0)).is_some());
            }
            let mut finished = it.clone();
            let _ = finished.on(Event::Failed("the end".into()), at(now));
            prop_assert!(finished.over());
        }
    }
}
