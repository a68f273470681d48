//! What the controller answers: pages, counts, health, and refusals in words.

use super::table::Which;
use super::{Controller, lock};
use crate::db::DbError;
use crate::model::ids::{ContainerId, RecordingId};
use crate::model::session::{Contact, Holder, Refusal, Session};
use crate::runtime::{Image, RuntimeError};
use std::time::Duration;

/// How long an answer of the runtime about itself is good.
const PROBE_KEPT: Duration = Duration::from_millis(500);

/// How long the runtime may take to answer about itself.
const PROBE_PATIENCE: Duration = Duration::from_millis(2_500);

/// What is said of a runtime that does not answer in time.
const HANGS: &str = "Docker does not answer: recordings go on, and a lost recorder is replaced once it does; \
                     see \"systemctl status docker\"";

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

impl Controller {
    /// A part of the list of sessions, oldest first.
    pub async fn page(&self, filter: Filter) -> Page {
        self.loaded().await;
        let now = self.0.clock.now();
        let table = self.table();
        Page {
            sessions: table.page(filter.which, filter.offset, filter.limit, now),
            total: table.count(filter.which),
        }
    }

    /// How many sessions there are.
    pub fn counts(&self) -> Counts {
        let table = self.table();
        let total = table.count(Which::Any);
        let active = table.count(Which::Active);
        Counts {
            total,
            active,
            inactive: total - active,
        }
    }

    /// How many active sessions made no progress for `patience`, and how many are held by a container.
    pub fn stuck_and_held(&self, patience: Duration) -> (usize, usize) {
        let now = self.0.clock.now();
        let table = self.table();
        let count =
            |wanted: &dyn Fn(&Session) -> bool| table.active().filter(|it| wanted(it)).count();
        let stuck = count(&|it| now.since(it.advanced_at) > patience);
        (stuck, count(&|it| it.container.is_some()))
    }

    /// How the controller is, as far as it knows itself.
    pub async fn health(&self) -> Health {
        Health {
            counts: self.counts(),
            runtime: self.runtime_state().await,
        }
    }

    /// Recordings whose chunks are kept because no video was verified to hold them.
    pub fn unverified(&self) -> Vec<RecordingId> {
        lock(&self.0.unverified).iter().cloned().collect()
    }

    /// How failovers are set up and what runs because of them.
    pub async fn failover_status(&self) -> FailoverStatus {
        self.loaded().await;
        let settings = &self.0.settings;
        let check = settings.failover_check_seconds.seconds();
        FailoverStatus {
            heartbeat_timeout_seconds: self.0.policy.heartbeat_timeout.as_secs(),
            stuck_timeout_seconds: self.0.policy.stuck_timeout.as_secs(),
            check_interval_ms: u64::try_from(check.as_millis()).unwrap_or(u64::MAX),
            backups: self.backups(),
            image: settings.image(),
            runtime: self.runtime_state().await,
        }
    }

    /// What the runtime says about itself; asked again only after a moment, and by one at a time, so that anybody may ask
    /// often. A runtime that hangs is told from one that answers within [`PROBE_PATIENCE`].
    async fn runtime_state(&self) -> Result<RuntimeState, String> {
        let mut probed = self.0.probed.lock().await;
        let is_good = |at: Duration| self.0.clock.uptime().saturating_sub(at) < PROBE_KEPT;
        if let Some((at, state)) = &*probed
            && is_good(*at)
        {
            return state.clone();
        }
        let state = match tokio::time::timeout(PROBE_PATIENCE, self.0.runtime.probe()).await {
            Ok(Ok(info)) => Ok(RuntimeState {
                kind: info.kind,
                version: info.version,
                image: info.image,
            }),
            Ok(Err(cause)) => Err(cause.to_string()),
            Err(_) => Err(HANGS.to_owned()),
        };
        *probed = Some((self.0.clock.uptime(), state.clone()));
        state
    }
}
