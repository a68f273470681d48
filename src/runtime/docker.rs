//! Recorders in Docker's containers. The version of the API is negotiated, so that engines from 20.10 on will do. What
//! Docker reports is followed as a stream that comes back by itself when the daemon does.

use super::turns::Turns;
use super::{
    BackupSpec, Blueprint, Container, ContainerStatus, Environment, Happening, HappeningKind,
    HostOptions, Image, ImageState, QUICK_START, RECORDING, Runtime, RuntimeError, RuntimeEvent,
    RuntimeInfo, Stop, made_by_us,
};
use crate::backoff::Backoff;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::model::ask::{ASKED, Reply};
use crate::model::ids::{ContainerId, RecordingId};
use async_trait::async_trait;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary,
    ContainerUpdateBody, EventMessage, HostConfig, ImageInspect, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder,
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    StopContainerOptionsBuilder, TagImageOptionsBuilder, WaitContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::stream::{BoxStream, StreamExt};
use log::{error, info, warn};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

const SOCKET: &str = "/var/run/docker.sock";

/// The longest that Docker may take to answer.
const ANSWER: u64 = 60;

/// The longest that a killed container may take to be gone.
const KILLED: Duration = Duration::from_secs(10);
/// A container that still runs after this is killed again.
const STRUCK: Duration = Duration::from_secs(1);

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

/// The label `created.by` of our recording image, which has the name of OpenVidu's own.
const IMAGE_MADE_BY: &str = "ov2-ha-recorder";

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

    /// Sees to it that the recording image is there: pulled when it is missing and a registry answers. That it is OpenVidu's
    /// own is told: a registry may have that one only.
    ///
    /// # Errors
    /// [`RuntimeError::NoImage`] when it cannot be had.
    pub async fn prepare(&self) -> Result<(), RuntimeError> {
        if !self.has_image().await? {
            self.pull().await?;
        }
        let image = self.look_at_image().await?;
        if let Some((fault, _)) = image.fault() {
            error!(
                "image {fault}; build ours under the same name with \"ov2-ha-recorder install\" or \
                 packaging/docker/build-recorder"
            );
        }
        Ok(())
    }

    /// The recording image, and whether it is ours.
    async fn look_at_image(&self) -> Result<Image, RuntimeError> {
        let state = match self.find_image().await? {
            None => ImageState::Missing,
            Some(found) => {
                let labels = found.config.and_then(|config| config.labels);
                let maker = labels.and_then(|mut labels| labels.remove("created.by"));
                match maker.as_deref() == Some(IMAGE_MADE_BY) {
                    true => ImageState::Ours,
                    false => ImageState::Foreign,
                }
            }
        };
        Ok(Image {
            name: self.image(),
            state,
        })
    }

    async fn pull(&self) -> Result<(), RuntimeError> {
        info!(image = self.image().as_str(); "the recording image is missing and is pulled");
        let options = CreateImageOptionsBuilder::default()
            .from_image(&self.image_name)
            .tag(&self.image_tag)
            .build();
        let mut steps = self.docker().await?.create_image(Some(options), None, None);
        while let Some(step) = steps.next().await {
            if let Err(cause) = step {
                warn!(image = self.image().as_str(); "the recording image cannot be pulled: {cause}");
                return Err(self.no_image());
            }
        }
        Ok(())
    }

    fn image(&self) -> String {
        format!("{}:{}", self.image_name, self.image_tag)
    }

    fn no_image(&self) -> RuntimeError {
        RuntimeError::NoImage {
            image: self.image(),
        }
    }

    async fn has_image(&self) -> Result<bool, RuntimeError> {
        Ok(self.find_image().await?.is_some())
    }

    async fn find_image(&self) -> Result<Option<ImageInspect>, RuntimeError> {
        match self.docker().await?.inspect_image(&self.image()).await {
            Ok(found) => Ok(Some(found)),
            Err(cause) if status_of(&cause) == Some(404) => Ok(None),
            Err(cause) => Err(self.failed("inspect the recording image", cause)),
        }
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

    fn happening(&self, message: EventMessage) -> Option<Happening> {
        let actor = message.actor?;
        let attributes = actor.attributes.unwrap_or_default();
        let image = attributes.get("image").map_or("", String::as_str);
        if !self.ours(image) && !made_by_us(|name| attributes.get(name)) {
            return None;
        }
        let action = message.action?;
        let code = attributes.get("exitCode").and_then(|it| it.parse().ok());
        let kind = match action.as_str() {
            "start" => HappeningKind::Started,
            "die" => HappeningKind::Died(code.unwrap_or(-1)),
            "oom" => HappeningKind::OutOfMemory,
            "destroy" => HappeningKind::Removed,
            "pause" => HappeningKind::Paused,
            "unpause" => HappeningKind::Unpaused,
            other => HappeningKind::Health(other.strip_prefix("health_status: ")?.to_owned()),
        };
        let nanos = message.time_nano.unwrap_or_default();
        Some(Happening {
            container: ContainerId::parse(actor.id?).ok()?,
            at: Timestamp::from_millis(nanos / 1_000_000),
            kind,
        })
    }

    /// Docker's events from now on. They are asked for before it is known to answer, so that whatever happens before the
    /// stream stands is in it.
    async fn follow(&self) -> Result<DockersEvents, RuntimeError> {
        let docker = self.docker().await?;
        let filters = HashMap::from([
            ("type", vec!["container"]),
            (
                "event",
                vec![
                    "start",
                    "die",
                    "oom",
                    "destroy",
                    "pause",
                    "unpause",
                    "health_status",
                ],
            ),
        ]);
        let now = SystemClock.now().millis();
        let options = EventsOptionsBuilder::default()
            .since(&format!("{}.{:03}", now / 1_000, now % 1_000))
            .filters(&filters)
            .build();
        let events = docker.events(Some(options)).boxed();
        let answered = docker.ping().await;
        answered.map_err(|cause| unreachable(&self.host, &cause))?;
        Ok(events)
    }

    /// Ends the container, whatever it does, and answers when it has ended. A kill that meets Docker's own restart may
    /// strike the process before it: then the new one is killed too.
    async fn kill(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let ended = async {
            loop {
                self.strike(id).await?;
                if let Ok(ended) = tokio::time::timeout(STRUCK, self.ended(id)).await {
                    return ended;
                }
            }
        };
        match tokio::time::timeout(KILLED, ended).await {
            Ok(ended) => ended,
            Err(_) => Err(RuntimeError::Failed {
                act: format!("kill container {id}"),
                cause: format!("it still runs {} s later", KILLED.as_secs()),
            }),
        }
    }

    async fn strike(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let options = KillContainerOptionsBuilder::default()
            .signal("SIGKILL")
            .build();
        match self
            .docker()
            .await?
            .kill_container(id.as_str(), Some(options))
            .await
        {
            Ok(()) => Ok(()),
            // It is not running, or about to be restarted by Docker: a stop ends that too.
            Err(cause) if status_of(&cause) == Some(409) => {
                let options = StopContainerOptionsBuilder::default().t(0).build();
                let stopped = self
                    .docker()
                    .await?
                    .stop_container(id.as_str(), Some(options))
                    .await;
                stopped.map_err(|cause| self.of_container("stop", id, cause))
            }
            Err(cause) => Err(self.of_container("kill", id, cause)),
        }
    }

    /// Answers when the container does not run.
    async fn ended(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let options = WaitContainerOptionsBuilder::default()
            .condition("not-running")
            .build();
        let mut answers = self
            .docker()
            .await?
            .wait_container(id.as_str(), Some(options));
        match answers.next().await {
            // An exit code other than 0 is an error to bollard; for us it is an end as good as any.
            None | Some(Ok(_) | Err(Error::DockerContainerWaitError { .. })) => Ok(()),
            Some(Err(cause)) if status_of(&cause) == Some(404) => Ok(()),
            Some(Err(cause)) => Err(self.of_container("wait for", id, cause)),
        }
    }

    /// Tells the recorder to finish, as OpenVidu does.
    async fn ask_to_finish(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let refused = |cause| self.of_container("write to", id, cause);
        let docker = self.docker().await?;
        let exec = CreateExecOptions {
            cmd: Some(vec!["bash", "-c", "echo 'q' > stop"]),
            ..CreateExecOptions::default()
        };
        let exec = docker.create_exec(id.as_str(), exec).await;
        let exec = exec.map_err(refused)?;
        let start = StartExecOptions {
            detach: true,
            ..StartExecOptions::default()
        };
        let started = docker.start_exec(&exec.id, Some(start)).await;
        started.map(drop).map_err(refused)
    }

    /// Makes and starts a backup with these options of the host.
    async fn make_backup(
        &self,
        spec: &BackupSpec,
        host: HostConfig,
    ) -> Result<ContainerId, RuntimeError> {
        let act = format!("start a backup recorder for session {}", spec.recording);
        let options = CreateContainerOptionsBuilder::default()
            .name(&spec.name)
            .build();
        let body = backup_body(spec, format!("{BACKUP_IMAGE}:{}", self.image_tag), host);
        let docker = self.docker().await?;
        let created = docker.create_container(Some(options), body).await;
        let created = created.map_err(|cause| self.failed(&act, cause))?;
        let id = ContainerId::parse(created.id).map_err(|cause| RuntimeError::Failed {
            act,
            cause: cause.to_string(),
        })?;
        match self.start(&id).await {
            Ok(()) => Ok(id),
            Err(cause) => {
                // What could not be started is of no use; that it cannot be removed either changes nothing.
                let _ = self.remove(&id).await;
                Err(cause)
            }
        }
    }

    /// Ends and removes an earlier backup of the recording, in one call: between two, Docker or another controller of this
    /// machine may start it again. What bears the name without being one is left alone: the new one cannot be made then.
    async fn clear_earlier(&self, spec: &BackupSpec) -> Result<(), RuntimeError> {
        let Some(found) = self.read(&spec.name).await? else {
            return Ok(());
        };
        let labels = found.config.and_then(|config| config.labels);
        let labels = labels.unwrap_or_default();
        if !made_by_us(|name| labels.get(name))
            || labels.get(RECORDING) != spec.labels.get(RECORDING)
        {
            return Ok(());
        }
        match ContainerId::parse(found.id.unwrap_or_default()) {
            Ok(id) => self.take_away(&id, true).await,
            Err(_) => Ok(()),
        }
    }

    /// Removes a container; by force also one that runs. Harmless when it is gone.
    async fn take_away(&self, id: &ContainerId, force: bool) -> Result<(), RuntimeError> {
        let options = RemoveContainerOptionsBuilder::default()
            .v(true)
            .force(force)
            .build();
        match self
            .docker()
            .await?
            .remove_container(id.as_str(), Some(options))
            .await
        {
            Ok(()) => Ok(()),
            Err(cause) if matches!(status_of(&cause), Some(404)) => Ok(()),
            Err(cause) => Err(self.of_container("remove", id, cause)).or_else(gone_is_well),
        }
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
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let following = Following {
            runtime: self.clone(),
            stream: None,
            backoff,
            away: false,
        };
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

type DockersEvents = BoxStream<'static, Result<EventMessage, Error>>;

/// The stream of events, with what it takes to come back.
struct Following {
    runtime: DockerRuntime,
    stream: Option<DockersEvents>,
    backoff: Backoff,
    /// It was said that Docker is not there.
    away: bool,
}

impl Following {
    async fn next(&mut self) -> RuntimeEvent {
        loop {
            let Some(stream) = &mut self.stream else {
                self.connect().await;
                return RuntimeEvent::Connected;
            };
            match stream.next().await {
                Some(Ok(message)) => {
                    self.backoff.reset();
                    if let Some(happening) = self.runtime.happening(message) {
                        return RuntimeEvent::Happened(happening);
                    }
                }
                Some(Err(cause)) => {
                    warn!("Docker's events were interrupted: {cause}");
                    self.stream = None;
                }
                None => {
                    warn!("Docker's events ended; they are followed again");
                    self.stream = None;
                }
            }
        }
    }

    /// Waits until Docker answers; says once that it does not, and that it does again.
    async fn connect(&mut self) {
        loop {
            if self.backoff.attempt() > 0 {
                tokio::time::sleep(self.backoff.next_delay()).await;
            } else {
                // The first attempt waits for nothing, and is counted.
                self.backoff.next_delay();
            }
            match self.runtime.follow().await {
                Ok(stream) => {
                    if std::mem::take(&mut self.away) {
                        info!("Docker answers: its containers are watched");
                    }
                    self.stream = Some(stream);
                    return;
                }
                Err(cause) if !std::mem::replace(&mut self.away, true) => {
                    error!(
                        "no container is watched, and no lost recorder is replaced until Docker answers: {cause}"
                    );
                }
                Err(_) => {}
            }
        }
    }
}

/// What the original has of its host, but for what is its own.
fn host_of(spec: &BackupSpec) -> HostConfig {
    // What Docker wrote, it reads; a backup without it is better than none.
    let host = serde_json::from_value(spec.blueprint.host.0.clone()).unwrap_or_else(|_| {
        warn!(session:% = spec.recording; "what its container has of the host cannot be read: the backup gets Docker's own options");
        HostConfig::default()
    });
    HostConfig {
        restart_policy: Some(on_failure()),
        // Docker refuses it beside a restart policy, and a backup's end is looked at before it is removed.
        auto_remove: Some(false),
        // Docker writes the id into a file that must not be there yet.
        container_id_file: None,
        ..host
    }
}

/// What no recorder can do without.
fn essentials(host: HostConfig) -> HostConfig {
    HostConfig {
        binds: host.binds,
        mounts: host.mounts,
        shm_size: host.shm_size,
        network_mode: host.network_mode,
        restart_policy: host.restart_policy,
        ..HostConfig::default()
    }
}

fn backup_body(spec: &BackupSpec, image: String, host: HostConfig) -> ContainerCreateBody {
    let variables = spec.blueprint.environment.0.iter();
    let variables = variables.map(|(name, value)| format!("{name}={value}"));
    ContainerCreateBody {
        image: Some(image),
        env: Some(variables.collect()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

fn on_failure() -> RestartPolicy {
    RestartPolicy {
        name: Some(RestartPolicyNameEnum::ON_FAILURE),
        maximum_retry_count: Some(0),
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

fn gone_is_well(cause: RuntimeError) -> Result<(), RuntimeError> {
    match cause {
        RuntimeError::NotFound(_) => Ok(()),
        other => Err(other),
    }
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
