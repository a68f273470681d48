//! A session is one take under the controller's eye. Its state carries its data, and [`Session::on`] is the only way
//! from one state to the next: what the program does after a fault is decided here, where a table test can see all of it.

mod state;
mod transitions;

pub use state::{Contact, Disowned, Holder, Particulars, State, Status};

use super::failover::{Failover, Fault};
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
}

#[cfg(test)]
pub(crate) mod tests;
