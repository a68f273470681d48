//! Contact with the controller: registration, heartbeats, the last word. Recording never waits for it; a controller that
//! is away is tried again with every beat, and one that has forgotten us is told everything once more.

use super::context::{Context, End};
use super::order::{Order, Sound};
use super::reporter::Reporter;
use super::upload::Uploader;
use crate::client::{Client, ClientError};
use crate::config::Settings;
use crate::model::chunk::ChunkKey;
use crate::model::ids::{ContainerId, RecordingId, RunNumber};
use crate::model::session::Status;
use crate::model::wire::{Heartbeat, RecorderIdentity, Registration, TroubleKind};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the first registration may hold up the choice of a run.
const FIRST: Duration = Duration::from_millis(1000);
/// How long the last word may take.
const LAST_WORD: Duration = Duration::from_millis(300);
/// Environment variable by which a runtime without containers names its processes.
const CONTAINER: &str = "OV2_RECORDER_CONTAINER_ID";

/// What the controller said to the first registration.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Registered {
    /// Record as this run.
    As(RunNumber),
    /// It cannot be asked, or has no run to give: choose.
    Unanswered,
    /// Do not record.
    Refused(End),
}

/// The line to the controller.
#[derive(Clone)]
pub(super) struct Contact {
    client: Option<Client>,
    recording: RecordingId,
    registration: Registration,
    video: PathBuf,
    every: Duration,
}

impl Contact {
    /// Prepares what there is to say. Without a usable client the recorder is on its own.
    pub(super) fn new(
        order: &Order,
        settings: &Settings,
        video: &Path,
        reporter: &Reporter,
    ) -> Self {
        let client = Client::new(settings).or_else(|cause| {
            reporter.settings_fault(cause.to_string());
            Client::without_authorities(settings)
        });
        let client = client
            .inspect_err(|cause| {
                log::error!("recording goes on without a controller: {cause}");
            })
            .ok();
        Self {
            client,
            recording: order.recording.clone(),
            registration: registration(order, settings),
            video: video.to_owned(),
            every: settings.heartbeat_seconds.seconds(),
        }
    }

    /// Registers, within a bound that does not delay recording.
    pub(super) async fn register_first(&self, last_run: RunNumber) -> Registered {
        let asked = tokio::time::timeout(FIRST, self.register(last_run, None)).await;
        match asked {
            Ok(Ok(run)) => Registered::As(run),
            Ok(Err(ClientError::Superseded)) => Registered::Refused(End::Superseded),
            Ok(Err(ClientError::Over)) => Registered::Refused(End::Stop(OVER)),
            Ok(Err(cause)) => {
                log::warn!("not registered yet, recording begins all the same: {cause}");
                Registered::Unanswered
            }
            Err(_) => {
                log::warn!("not registered yet, recording begins all the same: no answer in time");
                Registered::Unanswered
            }
        }
    }

    /// Beats until the end: at every interval, and at once when there is something to tell.
    pub(super) async fn beat(
        self,
        context: Context,
        uploader: Uploader,
        key: ChunkKey,
        mut registered: bool,
    ) {
        let token = context.tasks.token();
        let mut every = tokio::time::interval(self.every);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut silent = false;
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                _ = every.tick() => {}
                () = context.reporter.urgent() => every.reset(),
            }
            let said = match registered {
                true => self.say(&context, &uploader, &key).await,
                false => self.register(key.run, Some(key.run)).await.map(|_| ()),
            };
            match said {
                Ok(()) => {
                    if silent || !registered {
                        log::info!("in contact with the controller");
                    }
                    (registered, silent) = (true, false);
                }
                Err(ClientError::NotFound) => {
                    registered = false;
                    every.reset_immediately();
                }
                Err(ClientError::Superseded) => return context.end(End::Superseded),
                Err(ClientError::Over) => return context.end(End::Stop(OVER)),
                Err(cause) => {
                    if !silent {
                        log::warn!("recording goes on without the controller: {cause}");
                    }
                    silent = true;
                }
            }
        }
    }

    /// Says how it ended; heard or not, the end does not wait for it.
    pub(super) async fn last_word(&self, status: Status) {
        let Some(client) = &self.client else { return };
        let path = self.video.to_string_lossy();
        let words = async {
            if status == Status::Completed {
                client.recording_path(&self.recording, &path).await?;
            }
            client.status(&self.recording, status).await
        };
        match tokio::time::timeout(LAST_WORD, words).await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => log::warn!("the controller does not know that this is over: {cause}"),
            Err(_) => log::warn!("the controller does not know that this is over: it is too slow"),
        }
    }

    /// Says at once what is seen, for the last time.
    pub(super) async fn last_beat(&self, context: &Context, uploader: &Uploader, key: &ChunkKey) {
        // What it answers changes nothing any more.
        let _ = tokio::time::timeout(LAST_WORD, self.say(context, uploader, key)).await;
    }

    async fn register(
        &self,
        last_run: RunNumber,
        run: Option<RunNumber>,
    ) -> Result<RunNumber, ClientError> {
        let mut registration = self.registration.clone();
        if let Some(recorder) = &mut registration.recorder {
            recorder.last_run = last_run;
            recorder.run = run;
        }
        let registered = self.client()?.register(&registration).await?;
        log::info!(run = registered.run.0; "registered with the controller");
        Ok(registered.run)
    }

    async fn say(
        &self,
        context: &Context,
        uploader: &Uploader,
        key: &ChunkKey,
    ) -> Result<(), ClientError> {
        match uploader.trouble() {
            Some(trouble) => context.reporter.trouble(TroubleKind::Store, trouble),
            None => context.reporter.well(TroubleKind::Store),
        }
        let mut report = context.reporter.report();
        report.chunks_stored = uploader.stored();
        let current = key.take.chunk(key.run, report.chunk);
        let heartbeat = Heartbeat {
            last_chunk: (report.chunk > 0).then(|| current.file_name()),
            take: Some(key.take.take.clone()),
            run: Some(key.run),
            report: Some(report),
        };
        self.client()?.heartbeat(&self.recording, &heartbeat).await
    }

    fn client(&self) -> Result<&Client, ClientError> {
        self.client
            .as_ref()
            .ok_or_else(|| ClientError::Unreachable {
                address: "its address".into(),
                cause: "the settings for it cannot be used".into(),
            })
    }
}

/// Why a recording ends that the controller holds to be over.
const OVER: &str = "the controller says that the session is over";

fn registration(order: &Order, settings: &Settings) -> Registration {
    let host = host_name();
    Registration {
        session_id: Some(order.recording.to_string()),
        client_id: Some(format!("{host}-{}", std::process::id())),
        client_host: Some(host),
        unique_session_id: order.member("uniqueSessionId"),
        original_session_id: order.member("sessionId"),
        status: Some(Status::Starting.as_str().to_owned()),
        recording_json: order.safe_json(),
        environment: Some(environment(order, settings)),
        metadata: Some(json!({"recorder": env!("CARGO_PKG_VERSION")})),
        recorder: Some(RecorderIdentity {
            take: order.take.clone(),
            container_id: container_id(),
            last_run: RunNumber(0),
            run: None,
            video_name: order.video_name.clone(),
        }),
    }
}

fn environment(order: &Order, settings: &Settings) -> Value {
    json!({
        "RESOLUTION": order.resolution.to_string(),
        "FRAMERATE": order.frame_rate,
        "ONLY_VIDEO": order.sound == Sound::None,
        "HA_RECORDING_STORAGE": format!("{:?}", settings.storage).to_lowercase(),
        "CHUNK_FOLDER": settings.chunk_folder.0,
        "CHUNK_TIME_SIZE": settings.chunk_seconds.get(),
        "HEARTBEAT_INTERVAL": settings.heartbeat_seconds.get(),
        "HA_GAP_MODE": settings.gap_mode,
    })
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "recorder".to_owned(),
        name => name.to_owned(),
    }
}

/// The container this runs in. Docker mounts the container's own files from a folder with its id, also where the network,
/// and with it the host name, is the host's.
fn container_id() -> Option<ContainerId> {
    if let Ok(id) = std::env::var(CONTAINER) {
        return ContainerId::parse(id).ok();
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find_container_id(&mounts)
}

fn find_container_id(mounts: &str) -> Option<ContainerId> {
    let is_id = |part: &&str| part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit());
    mounts
        .lines()
        .filter(|line| line.contains("/hostname ") || line.contains("/resolv.conf "))
        .flat_map(|line| line.split(['/', ' ']))
        .find(is_id)
        .and_then(|id| ContainerId::parse(id).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_knows_its_id_even_on_the_hosts_network() {
        let id = "0123456789abcdef".repeat(4);
        let mounts = format!(
            "501 480 0:45 / / rw - overlay overlay rw\n\
             512 501 8:1 /var/lib/docker/containers/{id}/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw\n"
        );
        assert_eq!(
            find_container_id(&mounts).map(|id| id.to_string()),
            Some(id)
        );
        assert_eq!(
            find_container_id("1 2 8:1 / / rw - ext4 /dev/sda1 rw"),
            None
        );
    }
}
