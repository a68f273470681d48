//! What a session can be, and what is known of it beside that. Each state carries its data.

use crate::clock::Timestamp;
use crate::model::failover::Reason;
use crate::model::ids::ContainerId;
use serde::{Deserialize, Serialize};

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
    /// The interface's words.
    pub const WORDS: &str = "STARTING, RECORDING, PAUSED, STOPPING, COMPLETED, FAILED, INACTIVE";

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
