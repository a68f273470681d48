//! Where recorders run: Docker, or plain processes on machines without containers, behind one trait and one conformance
//! suite. This room starts, stops and watches; it never decides.

pub mod docker;
pub mod process;
mod turns;

use crate::clock::Timestamp;
use crate::model::ask::Reply;
use crate::model::ids::{ContainerId, RecordingId};
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use std::collections::BTreeMap;
use std::time::Duration;

/// The label of containers that we made.
pub const MADE_BY_US: (&str, &str) = ("created.by", "ha-controller");

/// The label that names a backup's recording.
pub const RECORDING: &str = "session.id";

/// The mode of a container that shows a session's page before recordings are ordered, as OpenVidu names it.
pub const QUICK_START: &str = "COMPOSED_QUICK_START";

/// Whether a container is one that we made, by what its label of a name says.
pub fn made_by_us<'a>(label: impl FnOnce(&str) -> Option<&'a String>) -> bool {
    let (name, value) = MADE_BY_US;
    label(name).is_some_and(|it| it == value)
}

/// A recorder's container, or process, as the runtime sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without Docker's leading slash.
    pub name: String,
    /// What it was made from.
    pub image: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its recording, read from `VIDEO_ID` in its environment.
    pub recording: Option<RecordingId>,
    /// Whether it shows the page of a session, of which recordings are ordered in it (quick start).
    pub page: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its first process was last started.
    pub started_at: Option<Timestamp>,
    /// When its first process last ended.
    pub ended_at: Option<Timestamp>,
    /// What it does.
    pub status: ContainerStatus,
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerStatus {
    /// It was made and not started.
    Created,
    /// It runs.
    Running,
    /// It is frozen.
    Paused,
    /// The runtime is about to start it again by itself.
    Restarting,
    /// It ended, with this exit code.
    Exited(i64),
}

/// What a runtime reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Events are followed from now on, for the first time or again: what happened before must be read by listing.
    Connected,
    /// Something happened to a recorder's container.
    Happened(Happening),
}

/// Something that happened to a recorder's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Which container.
    pub container: ContainerId,
    /// When, by the runtime's clock.
    pub at: Timestamp,
    /// What.
    pub kind: HappeningKind,
}

/// What happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HappeningKind {
    /// Its first process started.
    Started,
    /// Its first process ended with this exit code.
    Died(i64),
    /// The kernel ended something in it for want of memory.
    OutOfMemory,
    /// It was removed.
    Removed,
    /// It was frozen.
    Paused,
    /// It runs again after a freeze.
    Unpaused,
    /// Its health check's answer changed.
    Health(String),
}

/// How to end a recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// As OpenVidu does: `q` into `/stop`, wait at most this long for it to finish, then by force.
    Drain(Duration),
    /// At once; what is running there cannot write any more when the call returns. Works on a frozen one too.
    Fence,
}

/// What a backup recorder is made from, where its first container is gone.
#[derive(Clone, Debug)]
pub struct BackupSpec {
    /// The recording.
    pub recording: RecordingId,
    /// The name to give it.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it is made after.
    pub blueprint: Blueprint,
}

/// What a container was made with, as far as a backup must be like it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blueprint {
    /// Its environment, secrets included.
    pub environment: Environment,
    /// What it has of the host.
    pub host: HostOptions,
}

/// What a container has of its host, in the runtime's own form: folders, shared memory, network, devices, limits, names. For
/// Docker the member `HostConfig` of its API. Log options may hold secrets: its `Debug` shows nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HostOptions(pub serde_json::Value);

impl std::fmt::Debug for HostOptions {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("HostOptions")
    }
}

/// Environment variables that may hold secrets: its `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(pub BTreeMap<String, String>);

impl std::fmt::Debug for Environment {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_set().entries(self.0.keys()).finish()
    }
}

/// What the runtime says about itself.
#[derive(Clone, Debug)]
pub struct RuntimeInfo {
    /// `docker` or `process`.
    pub kind: &'static str,
    /// Its version.
    pub version: String,
    /// The recording image, where one is used.
    pub image: Option<Image>,
}

/// The recording image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name with its tag.
    pub name: String,
    /// What is there under that name.
    pub state: ImageState,
}

/// What is there under the recording image's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageState {
    /// Our image.
    Ours,
    /// Another one: OpenVidu's own has the same name.
    Foreign,
    /// Nothing.
    Missing,
}

impl ImageState {
    /// Whether an image is there.
    pub const fn is_present(self) -> bool {
        matches!(self, Self::Ours | Self::Foreign)
    }
}

impl Image {
    /// What is wrong with it, in a sentence, and what to do about that.
    pub fn fault(&self) -> Option<(String, &'static str)> {
        let advice = match self.state {
            ImageState::Ours => return None,
            ImageState::Foreign => "\"ov2-ha-recorder install\" builds ours under the same name",
            ImageState::Missing => "\"ov2-ha-recorder install\" builds it",
        };
        Some((self.to_string(), advice))
    }
}

impl std::fmt::Display for Image {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = &self.name;
        match self.state {
            ImageState::Ours => write!(out, "{name} is ours"),
            ImageState::Foreign => write!(
                out,
                "{name} is OpenVidu's own: recordings with it are not protected"
            ),
            ImageState::Missing => write!(out, "{name} is not there"),
        }
    }
}

/// Why a runtime did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// There is no such container.
    #[error("container {0} does not exist")]
    NotFound(ContainerId),
    /// The recording image is missing.
    #[error(
        "image {image} not found; build it with \"ov2-ha-recorder install\" or packaging/docker/build-recorder"
    )]
    NoImage {
        /// The image that was asked for.
        image: String,
    },
    /// The runtime cannot be reached.
    #[error("cannot reach {what}: {cause}; {advice}")]
    Unreachable {
        /// Which runtime, with its address.
        what: String,
        /// What the system said.
        cause: String,
        /// What a person can do.
        advice: String,
    },
    /// The runtime refused or failed.
    #[error("cannot {act}: {cause}")]
    Failed {
        /// What was attempted, as a verb and its object.
        act: String,
        /// What the runtime said.
        cause: String,
    },
}

impl RuntimeError {
    /// Whether the same call may succeed later.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Failed { .. })
    }
}

/// A place where recorders run.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Every recorder's container: those of the recording image and those this product made.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    async fn list(&self) -> Result<Vec<Container>, RuntimeError>;

    /// One container, or `None` when it does not exist.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    async fn inspect(&self, id: &ContainerId) -> Result<Option<Container>, RuntimeError>;

    /// Starts an ended container again: the same id, the same files. Harmless when it already runs.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] when it is gone.
    async fn start(&self, id: &ContainerId) -> Result<(), RuntimeError>;

    /// What a container was made with.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] when it is gone.
    async fn blueprint(&self, id: &ContainerId) -> Result<Blueprint, RuntimeError>;

    /// Makes and starts a backup recorder after the blueprint of the first one. An earlier backup of the recording, known by
    /// name and labels, is removed before.
    ///
    /// # Errors
    /// [`RuntimeError::NoImage`] when there is nothing to make it from.
    async fn start_backup(&self, spec: BackupSpec) -> Result<Container, RuntimeError>;

    /// Ends a container. Harmless when it already ended; answers when it has.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] when it is gone.
    async fn stop(&self, id: &ContainerId, how: Stop) -> Result<(), RuntimeError>;

    /// Removes an ended container; harmless when it is gone.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError>;

    /// Asks the runtime to start the container again by itself whenever it ends with a failure.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] when it is gone.
    async fn restart_on_failure(&self, id: &ContainerId) -> Result<(), RuntimeError>;

    /// Asks the recorder's first process, by the means of its own container, whether it is alive and what it does; an answer
    /// is waited for as long as `patience`, in whole seconds.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    async fn ask(&self, id: &ContainerId, patience: Duration) -> Result<Reply, RuntimeError>;

    /// Everything that happens from now on. Reconnects by itself, and says so by [`RuntimeEvent::Connected`].
    fn events(&self) -> BoxStream<'static, RuntimeEvent>;

    /// When the OpenVidu server was started that runs here; `None` where none can be seen, or more than one.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    async fn openvidu_started_at(&self) -> Result<Option<Timestamp>, RuntimeError> {
        Ok(None)
    }

    /// Tries whether the runtime can be used.
    ///
    /// # Errors
    /// A [`RuntimeError`] that says what to do.
    async fn probe(&self) -> Result<RuntimeInfo, RuntimeError>;
}
