//! A session is one take under the controller's eye. Its state carries its data, and [`Session::on`] is the only way
//! from one state to the next: what the program does after a fault is decided here, where a table test can see all of it.

use super::failover::{Failover, Reason};
use super::ids::{ContainerId, RecordingId, RunNumber, TakeId};
use super::wire::Report;
use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of the stored record.
pub const VERSION: u32 = 1;

/// One take and everything the controller knows about it.
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
    /// When the recorder's chunk or bytes last went forward.
    pub advanced_at: Timestamp,
    /// The chunk last reported, by file name.
    pub last_chunk: Option<String>,
    /// What the recorder last said of its work.
    pub report: Report,
    /// The container that records now.
    pub container: Option<Holder>,
    /// The container OpenVidu started, when another one took over.
    pub original: Option<ContainerId>,
    /// Failovers, oldest first.
    pub failovers: Vec<Failover>,
    /// Who registered.
    pub client_id: String,
    /// Where it records.
    pub client_host: Option<String>,
    /// OpenVidu's unique id of the session.
    pub unique_session_id: Option<String>,
    /// OpenVidu's id of the session.
    pub original_session_id: Option<String>,
    /// Where the video is.
    pub recording_path: Option<String>,
    /// The video's name without extension.
    pub video_name: Option<String>,
    /// OpenVidu's `RECORDING_JSON`.
    pub recording_json: Option<String>,
    /// The recorder's settings, without secrets.
    pub environment: Option<String>,
    /// Whatever the client added.
    pub metadata: Option<String>,
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
    /// It was given up; what was recorded is kept.
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
}

/// The status words of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// See [`State::Failed`].
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
            Self::Failed { .. } => Status::Failed,
            Self::Inactive { .. } => Status::Inactive,
        }
    }
}
