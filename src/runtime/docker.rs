//! Recorders in Docker's containers. The version of the API is negotiated, so that engines from 20.10 on will do. What
//! Docker reports is followed as a stream that comes back by itself when the daemon does.

mod backup;
mod ending;
mod events;
mod image;

use super::turns::Turns;
use super::{
    BackupSpec, Blueprint, Container, ContainerStatus, Environment, HostOptions, QUICK_START,
    Runtime, RuntimeError, RuntimeEvent, RuntimeInfo, Stop, made_by_us,
};
use crate::clock::Timestamp;
use crate::model::ask::{ASKED, Reply};
use crate::model::ids::{ContainerId, RecordingId};
use async_trait::async_trait;
use backup::{essentials, host_of, on_failure};
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, ContainerUpdateBody,
};
use bollard::query_parameters::{ListContainersOptionsBuilder, TagImageOptionsBuilder};
use bollard::{API_DEFAULT_VERSION, Docker};
use events::Following;
use futures_util::stream::{BoxStream, StreamExt};
use log::warn;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

const SOCKET: &str = "/var/run/docker.sock";

/// The longest that Docker may take to answer.
const ANSWER: u64 = 60;

/// The name that backups' image bears beside its own. OpenVidu removes, when it starts, every container whose image name
/// begins with that of its recording image; this one does not.
pub const BACKUP_IMAGE: &str = "ov2-ha-recorder/backup";

/// What asks a recorder, in its own container.
const ASK: [&str; 3] = ["ov2-ha-recorder", "ask", "--json"];
/// The most of what it says that is read.
const MOST_SAID: usize = 16 << 10;

/// Containers that are started at the same time, at most: no more than a processor each are started any faster, and Docker 20.10
/// has been seen to hang for good in its networks' locks among dozens that ended and were started at once.
const STARTS: usize = 4;
/// A start that takes longer lets the next one begin.
const SLOW_START: Duration = Duration::from_secs(5);

/// Containers read at the same time.
const READ_TOGETHER: usize = 8;

fn starts_at_once() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(STARTS))
}

/// Docker, as far as recorders are concerned.
#[derive(Clone)]
pub struct DockerRuntime {
    /// Connected at the first call that finds the daemon.
    docker: Arc<OnceCell<Docker>>,
    host: String,
    image_name: String,
    image_tag: String,
    starts: Turns,
}

impl DockerRuntime {
    /// The daemon named by `DOCKER_HOST`, else the one at the usual socket; it need not be there yet.
    pub fn new(image_name: &str, image_tag: &str) -> Self {
        let named = std::env::var("DOCKER_HOST")
            .ok()
            .filter(|it| !it.is_empty());
        Self {
            docker: Arc::default(),
            host: named.unwrap_or_else(|| format!("unix://{SOCKET}")),
            image_name: image_name.to_owned(),
            image_tag: image_tag.to_owned(),
            starts: Turns::new(starts_at_once(), SLOW_START),
        }
    }

    /// The same, connected.
    ///
    /// # Errors
    /// [`RuntimeError::Unreachable`] when no daemon answers.
    pub async fn connect(image_name: &str, image_tag: &str) -> Result<Self, RuntimeError> {
        let runtime = Self::new(image_name, image_tag);
        runtime.docker().await?;
        Ok(runtime)
    }

    /// The connection. While there is none, every call tries to make it.
    async fn docker(&self) -> Result<&Docker, RuntimeError> {
        let connect = async || {
            let docker = match self.host.strip_prefix("unix://") {
                Some(path) => Docker::connect_with_unix(path, ANSWER, API_DEFAULT_VERSION)?,
                None => Docker::connect_with_host(&self.host)?,
            };
            docker.negotiate_version().await
        };
        let connected = self.docker.get_or_try_init(connect).await;
        connected.map_err(|cause| unreachable(&self.host, &cause))
    }

    async fn read(&self, id: &str) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        match self.docker().await?.inspect_container(id, None).await {
            Ok(found) => Ok(Some(found)),
            Err(cause) if status_of(&cause) == Some(404) => Ok(None),
            Err(cause) => Err(self.failed(&format!("inspect container {id}"), cause)),
        }
    }

    fn may_be_a_recorder(&self, summary: &ContainerSummary) -> bool {
        let named = |names: &Vec<String>| names.iter().any(|it| it.starts_with("/recording_"));
        summary.names.as_ref().is_some_and(named)
            || summary
                .image
                .as_deref()
                .is_some_and(|image| self.ours(image))
            || made_by_us(|name| summary.labels.as_ref()?.get(name))
    }

    /// Whether a container of this image is a recorder's.
    fn ours(&self, image: &str) -> bool {
        let of = |name: &str| {
            let rest = image.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
        };
        of(&self.image_name) || of(BACKUP_IMAGE)
    }

    /// The container, where it is a recorder's.
    fn container(&self, found: ContainerInspectResponse) -> Option<Container> {
        let config = found.config?;
        let image = config.image.unwrap_or_default();
        let labels = config.labels.unwrap_or_default();
        if !self.ours(&image) && !made_by_us(|name| labels.get(name)) {
            return None;
        }
        let environment = read_environment(&config.env.unwrap_or_default());
        let mode = environment.0.get("CONTAINER_WORKING_MODE");
        let composed = mode.is_none_or(|mode| mode == "COMPOSED");
        let page = mode.is_some_and(|mode| mode == QUICK_START);
        let recording = environment.0.get("VIDEO_ID").filter(|_| composed);
        let state = found.state?;
        let created = found.created.map(|at| at.to_string());
        let (started, ended) = (state.started_at.as_deref(), state.finished_at.as_deref());
        Some(Container {
            id: ContainerId::parse(found.id?).ok()?,
            name: found.name?.trim_start_matches('/').to_owned(),
            image,
            labels: labels.into_iter().collect(),
            recording: recording.and_then(|id| RecordingId::parse(id).ok()),
            page,
            created_at: created
                .and_then(|at| Timestamp::parse(&at).ok())
                .unwrap_or_default(),
            started_at: started.and_then(stamp),
            ended_at: ended.and_then(stamp),
            status: status(state.status?, state.exit_code),
        })
    }

    fn of_container(&self, act: &str, id: &ContainerId, cause: Error) -> RuntimeError {
        let going = || {
            let text = cause.to_string();
            text.contains("marked for removal") || text.contains("already in progress")
        };
        match status_of(&cause) {
            Some(404) => RuntimeError::NotFound(id.clone()),
            Some(409) if going() => RuntimeError::NotFound(id.clone()),
            _ => self.failed(&format!("{act} container {id}"), cause),
        }
    }

    fn failed(&self, act: &str, cause: Error) -> RuntimeError {
        match status_of(&cause) {
            Some(_) => RuntimeError::Failed {
                act: act.to_owned(),
                cause: cause.to_string(),
            },
            None => unreachable(&self.host, &cause),
        }
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let summaries = self
            .docker()
            .await?
            .list_containers(Some(options))
            .await
            .map_err(|cause| self.failed("list the containers", cause))?;
        let ids = summaries
            .into_iter()
            .filter(|summary| self.may_be_a_recorder(summary))
            .filter_map(|summary| summary.id)
            .collect::<Vec<_>>();
        let found = futures_util::stream::iter(ids)
            .map(|id| async move { self.read(&id).await })
            .buffered(READ_TOGETHER)
            .collect::<Vec<_>>()
            .await;
        found
            .into_iter()
            .filter_map(|read| match read {
                Ok(found) => self.container(found?).map(Ok),
                Err(cause) => Some(Err(cause)),
            })
            .collect()
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Option<Container>, RuntimeError> {
        let found = self.read(id.as_str()).await?;
        Ok(found.and_then(|found| self.container(found)))
    }

    async fn start(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let start = self.docker().await?.start_container(id.as_str(), None);
        let started = self.starts.take(start).await;
        started.map_err(|cause| self.of_container("start", id, cause))
    }

    async fn blueprint(&self, id: &ContainerId) -> Result<Blueprint, RuntimeError> {
        let found = self.read(id.as_str()).await?;
        let found = found.ok_or_else(|| RuntimeError::NotFound(id.clone()))?;
        let variables = found.config.and_then(|config| config.env);
        let host = serde_json::to_value(found.host_config.unwrap_or_default());
        let host = host.map_err(|cause| RuntimeError::Failed {
            act: format!("read what container {id} was made with"),
            cause: cause.to_string(),
        })?;
        Ok(Blueprint {
            environment: read_environment(&variables.unwrap_or_default()),
            host: HostOptions(host),
        })
    }

    async fn start_backup(&self, spec: BackupSpec) -> Result<Container, RuntimeError> {
        let act = format!("start a backup recorder for session {}", spec.recording);
        let tag = TagImageOptionsBuilder::default()
            .repo(BACKUP_IMAGE)
            .tag(&self.image_tag)
            .build();
        let docker = self.docker().await?;
        match docker.tag_image(&self.image(), Some(tag)).await {
            Ok(()) => {}
            Err(cause) if status_of(&cause) == Some(404) => return Err(self.no_image()),
            Err(cause) => return Err(self.failed(&act, cause)),
        }
        self.clear_earlier(&spec).await?;
        let host = host_of(&spec);
        let id = match self.make_backup(&spec, host.clone()).await {
            // It may be for what the original ended of: a device that is gone, a port that is taken.
            Err(cause @ RuntimeError::Failed { .. }) => {
                warn!(session:% = spec.recording; "{cause}; tried again with folders, shared memory and network alone");
                self.make_backup(&spec, essentials(host)).await?
            }
            other => other?,
        };
        let found = self.inspect(&id).await?;
        found.ok_or(RuntimeError::NotFound(id))
    }

    async fn stop(&self, id: &ContainerId, how: Stop) -> Result<(), RuntimeError> {
        match self.read(id.as_str()).await?.and_then(|found| found.state) {
            None => return Err(RuntimeError::NotFound(id.clone())),
            Some(state) if state.running != Some(true) => return Ok(()),
            Some(_) => {}
        }
        let Stop::Drain(patience) = how else {
            return self.kill(id).await;
        };
        if let Err(cause) = self.ask_to_finish(id).await {
            warn!(container:% = id; "the recorder cannot be told to finish and is ended: {cause}");
            return self.kill(id).await;
        }
        match tokio::time::timeout(patience, self.ended(id)).await {
            Ok(ended) => ended,
            Err(_) => self.kill(id).await,
        }
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.take_away(id, false).await
    }

    async fn restart_on_failure(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let update = ContainerUpdateBody {
            restart_policy: Some(on_failure()),
            ..ContainerUpdateBody::default()
        };
        let updated = self
            .docker()
            .await?
            .update_container(id.as_str(), update)
            .await;
        updated.map_err(|cause| self.of_container("set the restart policy of", id, cause))
    }

    async fn ask(&self, id: &ContainerId, patience: Duration) -> Result<Reply, RuntimeError> {
        let refused = |cause| self.of_container("ask the recorder in", id, cause);
        let docker = self.docker().await?;
        let seconds = patience.as_secs().to_string();
        // An earlier recorder knows the usual time only.
        let timeout = ["--timeout", seconds.as_str()];
        let timeout: &[&str] = if patience == ASKED { &[] } else { &timeout };
        let exec = CreateExecOptions {
            cmd: Some([&ASK[..], timeout].concat()),
            attach_stdout: Some(true),
            ..CreateExecOptions::default()
        };
        let exec = docker.create_exec(id.as_str(), exec).await;
        let exec = exec.map_err(refused)?.id;
        let started = docker.start_exec(&exec, None).await.map_err(refused)?;
        let mut said = Vec::new();
        if let StartExecResults::Attached { mut output, .. } = started {
            while let Some(piece) = output.next().await {
                let piece = piece.map_err(refused)?.into_bytes();
                let room = MOST_SAID.saturating_sub(said.len());
                said.extend_from_slice(&piece[..piece.len().min(room)]);
            }
        }
        let ended = docker.inspect_exec(&exec).await.map_err(refused)?;
        Ok(Reply::of_command(ended.exit_code, &said))
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        let following = Following::new(self.clone());
        futures_util::stream::unfold(following, |mut following| async move {
            let event = following.next().await;
            Some((event, following))
        })
        .boxed()
    }

    async fn openvidu_started_at(&self) -> Result<Option<Timestamp>, RuntimeError> {
        let running = self.docker().await?.list_containers(None).await;
        let running = running.map_err(|cause| self.failed("list the containers", cause))?;
        let servers = running.into_iter().filter(|summary| {
            let image = summary.image.as_deref().unwrap_or_default();
            is_openvidu_server(image, &self.image_name)
        });
        let ids: Vec<_> = servers.filter_map(|summary| summary.id).collect();
        let [only] = &ids[..] else { return Ok(None) };
        let state = self.read(only).await?.and_then(|found| found.state);
        Ok(state.and_then(|state| stamp(&state.started_at?)))
    }

    async fn probe(&self) -> Result<RuntimeInfo, RuntimeError> {
        let version = self.docker().await?.version().await;
        let version = version.map_err(|cause| self.failed("read Docker's version", cause))?;
        Ok(RuntimeInfo {
            kind: "docker",
            version: version.version.unwrap_or_default(),
            image: Some(self.look_at_image().await?),
        })
    }
}

fn read_environment(variables: &[String]) -> Environment {
    let pairs = variables.iter().filter_map(|it| it.split_once('='));
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Environment(pairs.collect::<BTreeMap<_, _>>())
}

fn status(status: ContainerStateStatusEnum, code: Option<i64>) -> ContainerStatus {
    match status {
        ContainerStateStatusEnum::RUNNING => ContainerStatus::Running,
        ContainerStateStatusEnum::PAUSED => ContainerStatus::Paused,
        ContainerStateStatusEnum::RESTARTING => ContainerStatus::Restarting,
        ContainerStateStatusEnum::CREATED | ContainerStateStatusEnum::EMPTY => {
            ContainerStatus::Created
        }
        ContainerStateStatusEnum::EXITED
        | ContainerStateStatusEnum::DEAD
        | ContainerStateStatusEnum::REMOVING => ContainerStatus::Exited(code.unwrap_or(-1)),
        _ => ContainerStatus::Running,
    }
}

/// A time as Docker writes it; what has not happened yet was in the year 1.
fn stamp(text: &str) -> Option<Timestamp> {
    let at = Timestamp::parse(text).ok();
    at.filter(|at| *at > Timestamp::default())
}

/// The name of OpenVidu's server image begins with this, in its own namespace or in the one of the recording image.
const SERVER_IMAGE: &str = "openvidu-server";

/// Whether `image` is OpenVidu's server, where recorders are made from `recording_image`.
fn is_openvidu_server(image: &str, recording_image: &str) -> bool {
    let divide = |name: &str| {
        let (space, name) = name.rsplit_once('/').unwrap_or(("", name));
        (space.to_owned(), name.to_owned())
    };
    let ((space, name), (own_space, _)) = (divide(image), divide(recording_image));
    name.starts_with(SERVER_IMAGE) && (space == own_space || space == "openvidu")
}

const fn status_of(cause: &Error) -> Option<u16> {
    match cause {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

fn unreachable(host: &str, cause: &Error) -> RuntimeError {
    RuntimeError::Unreachable {
        what: format!("Docker at {host}"),
        cause: cause.to_string(),
        advice: "start the Docker daemon, give this user access to its socket, or set HA_RUNTIME=process".into(),
    }
}
