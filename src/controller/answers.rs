//! What the controller answers: pages, counts, health, and refusals in words.

use super::table::Which;
use crate::db::DbError;
use crate::model::ids::{ContainerId, RecordingId};
use crate::model::session::{Contact, Holder, Refusal, Session};
use crate::runtime::{Image, RuntimeError};

/// Which part of the list of sessions is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    /// Which sessions.
    pub which: Which,
    /// At most this many.
    pub limit: usize,
    /// After skipping this many.
    pub offset: usize,
}

/// A part of the list of sessions.
#[derive(Clone, Debug)]
pub struct Page {
    /// The sessions, oldest first, and whether their recorders are heard.
    pub sessions: Vec<(Session, Contact)>,
    /// How many the filter takes in all.
    pub total: usize,
}

/// How many sessions there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In all.
    pub total: usize,
    /// Whose recorder is expected to be at work.
    pub active: usize,
    /// The others.
    pub inactive: usize,
}

/// Something that may have changed what is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This session changed or is new.
    Session(RecordingId),
    /// This session is gone.
    Removed(RecordingId),
}

/// How the controller is.
#[derive(Clone, Debug)]
pub struct Health {
    /// How many sessions there are.
    pub counts: Counts,
    /// The runtime's kind, version and image, or why it cannot be used.
    pub runtime: Result<RuntimeState, String>,
}

/// The runtime, as it last answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeState {
    /// `docker` or `process`.
    pub kind: &'static str,
    /// Its version.
    pub version: String,
    /// The recording image, where one is used.
    pub image: Option<Image>,
}

/// How failovers are set up and what runs because of them.
#[derive(Clone, Debug)]
pub struct FailoverStatus {
    /// Seconds without a heartbeat until a failover.
    pub heartbeat_timeout_seconds: u64,
    /// Seconds without progress until a failover.
    pub stuck_timeout_seconds: u64,
    /// Milliseconds between scheduled checks.
    pub check_interval_ms: u64,
    /// Backups that record now.
    pub backups: Vec<(RecordingId, Holder)>,
    /// The recording image.
    pub image: String,
    /// The runtime, or why it cannot be used.
    pub runtime: Result<RuntimeState, String>,
}

/// Why the controller did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ControllerError {
    /// There is no such session.
    #[error("{0}")]
    NotFound(String),
    /// A later run has taken over.
    #[error("this recorder was replaced by a later run: stop without touching the video")]
    Superseded,
    /// The session is over.
    #[error("the session is over: there is nothing to record any more")]
    Over,
    /// What was asked does not fit what the session does.
    #[error("{0}")]
    Conflict(String),
    /// What was asked cannot be understood.
    #[error("{0}")]
    Invalid(String),
    /// Something that is needed does not work now.
    #[error("{0}")]
    Unavailable(String),
}

impl ControllerError {
    pub(super) fn unknown(id: &RecordingId) -> Self {
        Self::NotFound(format!("session {id} does not exist"))
    }

    pub(super) fn lives(id: &RecordingId) -> Self {
        Self::Conflict(format!(
            "session {id} exists already and is a different live recording"
        ))
    }

    pub(super) fn not_recording(id: &RecordingId) -> Self {
        Self::Conflict(format!("session {id} is not recording"))
    }
}

impl From<Refusal> for ControllerError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Superseded => Self::Superseded,
            Refusal::Over => Self::Over,
            Refusal::NotRecording => Self::Conflict(
                "no recorder is expected to be at work, or one is being replaced already".into(),
            ),
        }
    }
}

impl From<DbError> for ControllerError {
    fn from(cause: DbError) -> Self {
        Self::Unavailable(cause.to_string())
    }
}

impl From<RuntimeError> for ControllerError {
    fn from(cause: RuntimeError) -> Self {
        match cause {
            RuntimeError::NotFound(id) => Self::NotFound(gone(&id)),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

fn gone(id: &ContainerId) -> String {
    format!("container {id} does not exist")
}
