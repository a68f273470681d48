//! OpenVidu's part, played to the letter of its contract: it makes the recording container, waits for the video's first
//! bytes, stops by `echo 'q' > stop`, waits for the container, removes it, reads `.info`, seals `.recording.<id>`, and
//! tells the controller of each step by webhook. What would make OpenVidu fail a recording is an `Err` here.

use super::frames::probe;
use super::rest::Rest;
use super::vessel::{Ground, Vessel};
use super::wait::until;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// OpenVidu waits this long for the video's first bytes and for the container's end.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An OpenVidu server with its recordings folder.
#[derive(Debug)]
pub struct OpenVidu {
    /// The folder that becomes `/recordings`.
    pub recordings: PathBuf,
    /// Where its recorders run.
    pub ground: Ground,
    /// Where webhooks go; none are sent without.
    pub webhook: Option<String>,
    /// Its REST interface, where it can be asked.
    pub rest: Option<Rest>,
    client: reqwest::Client,
}

/// What a client of OpenVidu asks for.
#[derive(Clone, Debug)]
pub struct Order {
    /// The recording's id.
    pub id: String,
    /// The video's name without extension.
    pub name: String,
    /// The page.
    pub url: String,
    /// No sound.
    pub only_video: bool,
    /// Width and height.
    pub resolution: String,
    /// Frames a second.
    pub frame_rate: u32,
}

impl Order {
    /// OpenVidu's defaults for `id`.
    pub fn of(id: &str, url: &str) -> Self {
        Self {
            id: id.to_owned(),
            name: id.to_owned(),
            url: url.to_owned(),
            only_video: false,
            resolution: "1280x720".into(),
            frame_rate: 25,
        }
    }
}

/// A recording that runs.
#[derive(Debug)]
pub struct Recording {
    /// What was asked for.
    pub order: Order,
    /// The container OpenVidu made.
    pub vessel: Vessel,
    /// The recording's folder on the host.
    pub folder: PathBuf,
    /// When OpenVidu made it, in milliseconds since the epoch.
    pub created_at: u64,
    /// From the container's start to the video's first bytes.
    pub start_took: Duration,
}

/// A recording that OpenVidu holds ready.
#[derive(Debug)]
pub struct Sealed {
    /// The video.
    pub video: PathBuf,
    /// From the stop request to the container's end.
    pub stop_took: Duration,
    /// The container's exit code.
    pub exit_code: i64,
}

impl OpenVidu {
    /// A server with its recordings in `recordings`.
    pub fn new(recordings: &Path, ground: Ground, webhook: Option<String>) -> Self {
        fs::create_dir_all(recordings).unwrap();
        let time = Duration::from_secs(10);
        Self {
            recordings: recordings.to_owned(),
            ground,
            webhook,
            rest: None,
            client: ov2_ha_recorder::outbound::client(time, time).unwrap(),
        }
    }

    /// It is started again: it removes every container of its recording image, knows no session any more, tells nobody, and
    /// answers so much later.
    pub async fn restart(&self, answers_after: Duration) {
        if let Some(rest) = &self.rest {
            rest.down().await;
            rest.forget();
            if answers_after.is_zero() {
                rest.up().await;
            }
        }
        self.ground.clear();
        if let Some(rest) = self.rest.as_ref().filter(|_| !answers_after.is_zero()) {
            tokio::time::sleep(answers_after).await;
            rest.up().await;
        }
    }

    /// Starts a recording and waits until its file has bytes.
    pub async fn start(&self, order: Order) -> Result<Recording, String> {
        let created_at = now();
        if let Some(rest) = &self.rest {
            rest.records(session_of(&order.id), created_at, true)?;
        }
        let begin = Instant::now();
        let name = format!("recording_{}", order.id.replace('~', "_"));
        let environment = environment(&order, created_at);
        let vessel = self.ground.run(&name, environment, &self.recordings)?;
        self.is_there(order, vessel, created_at, begin).await
    }

    /// The recording that was begun at `begin` in `vessel`, once its file has bytes.
    async fn is_there(
        &self,
        order: Order,
        vessel: Vessel,
        created_at: u64,
        begin: Instant,
    ) -> Result<Recording, String> {
        let folder = self.recordings.join(&order.id);
        let mut recording = Recording {
            order,
            vessel,
            folder,
            created_at,
            start_took: Duration::ZERO,
        };
        let video = recording.video();
        while !fs::metadata(&video).is_ok_and(|file| file.len() > 0) {
            if begin.elapsed() > PATIENCE {
                let logs = recording.vessel.logs();
                recording.vessel.force_away();
                return Err(format!(
                    "{} has no bytes after {PATIENCE:?}\n{logs}",
                    video.display()
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        recording.start_took = begin.elapsed();
        self.tell(&recording, "started", 0, 0.0).await?;
        Ok(recording)
    }

    /// Stops a recording as OpenVidu does, step by step.
    pub async fn stop(&self, recording: &Recording) -> Result<Sealed, String> {
        self.writes_the_stop(recording).await?;
        self.goes_on_with_the_stop(recording).await
    }

    /// The first step of a stop: it is in the file, and told.
    pub async fn writes_the_stop(&self, recording: &Recording) -> Result<(), String> {
        recording.says("stopped");
        self.tell(recording, "stopped", 0, 0.0).await
    }

    /// The other steps. Where the container cannot be told, OpenVidu answers 500, and holds the session for one that is being
    /// recorded.
    pub async fn goes_on_with_the_stop(&self, recording: &Recording) -> Result<Sealed, String> {
        let begin = Instant::now();
        let json = read_json(&recording.seal_path())?;
        recording.vessel.tell_to_stop()?;
        if let Some(rest) = &self.rest {
            rest.records(session_of(&recording.order.id), recording.created_at, false)?;
        }
        let exit_code = recording.vessel.end(PATIENCE).await?;
        let stop_took = begin.elapsed();
        recording.vessel.remove().await?;
        self.seals(recording, json).await?;
        Ok(Sealed {
            video: recording.video(),
            stop_took,
            exit_code,
        })
    }

    /// Reads what lies beside the video, and holds the recording ready.
    async fn seals(&self, recording: &Recording, mut json: Value) -> Result<(), String> {
        let seal = recording.seal_path();
        let info_path = recording
            .folder
            .join(format!("{}.info", recording.order.id));
        let info = read_json(&info_path)?;
        fs::remove_file(&info_path).map_err(|cause| cause.to_string())?;
        let (size, duration) = figures(&info)?;
        json["status"] = "ready".into();
        json["size"] = size.into();
        json["duration"] = duration.into();
        json["url"] = format!(
            "/recordings/{0}/{1}.mp4",
            recording.order.id, recording.order.name
        )
        .into();
        fs::write(&seal, json.to_string()).map_err(|cause| cause.to_string())?;
        self.tell(recording, "ready", size, duration).await?;
        Ok(())
    }

    /// The session's container in quick-start mode, made when the first user joins.
    pub fn open(&self, order: &Order) -> Result<Vessel, String> {
        let name = format!("recording_{}", session_of(&order.id));
        self.ground
            .run(&name, quick_environment(order), &self.recordings)
    }

    /// Starts a recording in the session's container: a command that is not waited for, then the wait for the file.
    pub async fn start_in(&self, open: &Vessel, order: Order) -> Result<Recording, String> {
        let created_at = now();
        if let Some(rest) = &self.rest {
            rest.records(session_of(&order.id), created_at, true)?;
        }
        let begin = Instant::now();
        open.container()
            .shell("-d", &quick_start(&order, created_at))?;
        self.is_there(order, open.clone(), created_at, begin).await
    }

    /// Stops it there. What lies beside the video is read as soon as the command returns, after ten seconds at the latest.
    pub async fn stop_in(&self, recording: &Recording) -> Result<Sealed, String> {
        self.writes_the_stop(recording).await?;
        let begin = Instant::now();
        let json = read_json(&recording.seal_path())?;
        let container = recording.vessel.container().clone();
        let stop = move || container.shell("-i", QUICK_STOP);
        let stopped = tokio::task::spawn_blocking(stop);
        let patience = Duration::from_secs(10);
        match tokio::time::timeout(patience, stopped).await {
            Ok(ended) => ended.unwrap()?,
            Err(_) => return Err("the stop did not return in time".into()),
        };
        let stop_took = begin.elapsed();
        if let Some(rest) = &self.rest {
            rest.records(session_of(&recording.order.id), recording.created_at, false)?;
        }
        self.seals(recording, json).await?;
        Ok(Sealed {
            video: recording.video(),
            stop_took,
            exit_code: 0,
        })
    }

    /// Sends `recordingStatusChanged`; anything but 200 loses the event, which is an error here.
    pub async fn tell(
        &self,
        recording: &Recording,
        status: &str,
        size: u64,
        duration: f64,
    ) -> Result<(), String> {
        let Some(webhook) = &self.webhook else {
            return Ok(());
        };
        let order = &recording.order;
        let event = json!({
            "event": "recordingStatusChanged", "timestamp": now(),
            "sessionId": session_of(&order.id), "uniqueSessionId": unique_session(order, recording.created_at),
            "startTime": recording.created_at, "id": order.id, "name": order.name, "outputMode": "COMPOSED",
            "resolution": order.resolution, "frameRate": order.frame_rate, "recordingLayout": "BEST_FIT",
            "hasAudio": !order.only_video, "hasVideo": true, "size": size, "duration": duration, "status": status,
            "reason": (status == "stopped").then_some("recordingStoppedByServer"),
        });
        let answer = self.client.post(webhook).json(&event).send().await;
        match answer {
            Ok(answer) if answer.status() == 200 => Ok(()),
            Ok(answer) => Err(format!(
                "the webhook {status:?} was answered {}",
                answer.status()
            )),
            Err(cause) => Err(format!("the webhook {status:?} was not delivered: {cause}")),
        }
    }
}

impl Recording {
    /// Where the video is on the host.
    pub fn video(&self) -> PathBuf {
        self.folder.join(format!("{}.mp4", self.order.name))
    }

    /// The recording's own JSON.
    pub fn seal_path(&self) -> PathBuf {
        self.folder.join(format!(".recording.{}", self.order.id))
    }

    /// What OpenVidu has written of it.
    pub fn seal(&self) -> Value {
        read_json(&self.seal_path()).unwrap_or_default()
    }

    /// OpenVidu writes a status into its file.
    pub fn says(&self, status: &str) {
        let mut json = self.seal();
        json["status"] = status.into();
        json["size"] = 0.into();
        json["duration"] = 0.into();
        fs::write(self.seal_path(), json.to_string()).unwrap();
    }

    /// What OpenVidu hands to its client once a recording is ready is all there and true, whoever sealed it.
    ///
    /// # Panics
    /// When not.
    pub fn is_held_ready(&self) {
        let (seal, order) = (self.seal(), &self.order);
        let text = |name: &str| seal[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (text("status"), text("id")),
            ("ready".into(), order.id.clone())
        );
        assert_eq!(seal["createdAt"], self.created_at, "another recording's");
        let video = self.video();
        assert_eq!(seal["size"], fs::metadata(&video).unwrap().len(), "{seal}");
        let plays: f64 = probe(&video, "format=duration").trim().parse().unwrap();
        let said = seal["duration"].as_f64().unwrap();
        assert!((said - plays).abs() < 0.1, "it plays {plays} s: {seal}");
        let tracks = probe(&video, "stream=codec_type");
        let has = |kind: &str| tracks.lines().any(|line| line.trim() == kind);
        let said = json!([seal["hasVideo"], seal["hasAudio"]]);
        assert_eq!(said, json!([has("video"), has("audio")]), "{tracks}");
        assert!(has("video") && has("audio") != order.only_video, "{tracks}");
        let thumbnail = self.folder.join(format!("{}.jpg", order.id));
        assert_eq!(probe(&thumbnail, "stream=width").trim(), "480");
        let info = self.folder.join(format!("{}.info", order.id));
        assert!(!info.exists(), "OpenVidu deletes it once it is read");
    }

    /// Waits until the video is `bytes` longer than now: frames arrive.
    pub async fn grows(&self, bytes: u64, bound: Duration) -> Duration {
        let length = || fs::metadata(self.video()).map_or(0, |file| file.len());
        let goal = length() + bytes;
        let (took, ()) = until("more video", bound, || async {
            (length() >= goal).then_some(())
        })
        .await;
        took
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.vessel.force_away();
        for backup in super::docker::containers(&format!("label=session.id={}", self.order.id)) {
            backup.remove();
        }
    }
}

/// What OpenVidu puts into the container's environment.
pub fn environment(order: &Order, created_at: u64) -> Vec<(&'static str, String)> {
    let json = json!({
        "id": order.id, "object": "recording", "name": order.name, "outputMode": "COMPOSED",
        "resolution": order.resolution, "frameRate": order.frame_rate, "recordingLayout": "BEST_FIT",
        "sessionId": session_of(&order.id), "uniqueSessionId": unique_session(order, created_at),
        "createdAt": created_at, "size": 0, "duration": 0.0, "url": null, "hasAudio": !order.only_video,
        "hasVideo": true, "status": "starting",
    });
    vec![
        ("DEBUG_MODE", "false".into()),
        ("CONTAINER_WORKING_MODE", "COMPOSED".into()),
        ("URL", order.url.clone()),
        ("ONLY_VIDEO", order.only_video.to_string()),
        ("RESOLUTION", order.resolution.clone()),
        ("FRAMERATE", order.frame_rate.to_string()),
        ("VIDEO_ID", order.id.clone()),
        ("VIDEO_NAME", order.name.clone()),
        ("VIDEO_FORMAT", "mp4".into()),
        ("RECORDING_JSON", json.to_string()),
    ]
}

/// What OpenVidu puts into the environment of a session's container in quick-start mode, where `order` says what the session's
/// recordings are usually like.
pub fn quick_environment(order: &Order) -> Vec<(&'static str, String)> {
    vec![
        ("DEBUG_MODE", "false".into()),
        ("CONTAINER_WORKING_MODE", "COMPOSED_QUICK_START".into()),
        ("RESOLUTION", order.resolution.clone()),
        ("FRAMERATE", order.frame_rate.to_string()),
        ("URL", order.url.clone()),
    ]
}

/// The line by which OpenVidu orders a recording there.
pub fn quick_start(order: &Order, created_at: u64) -> String {
    let exported = quick_order(order, created_at).into_iter();
    let exported = exported.map(|(name, value)| match name {
        "RECORDING_JSON" => format!("export {name}='{value}'"),
        _ => format!("export {name}={value}"),
    });
    let exported = exported.collect::<Vec<_>>().join(" && ");
    let script = "./composed_quick_start.sh --start-recording > /var/log/ffmpeg.log 2>&1 &";
    format!("{exported} && {script}")
}

/// The line by which it stops one.
pub const QUICK_STOP: &str = "./composed_quick_start.sh --stop-recording";

/// What OpenVidu exports there before it orders a recording.
pub fn quick_order(order: &Order, created_at: u64) -> Vec<(&'static str, String)> {
    let of_container = ["CONTAINER_WORKING_MODE", "URL"];
    let mut all = environment(order, created_at);
    all.retain(|(name, _)| !of_container.contains(name));
    all
}

fn session_of(id: &str) -> &str {
    id.split('~').next().unwrap_or(id)
}

fn unique_session(order: &Order, created_at: u64) -> String {
    format!("{}_{created_at}", session_of(&order.id))
}

/// Size and duration as OpenVidu reads them out of `.info`, and the members it needs beside them.
fn figures(info: &Value) -> Result<(u64, f64), String> {
    let number = |name: &str| {
        let text = info["format"][name].as_str().map(str::to_owned);
        text.unwrap_or_else(|| info["format"][name].to_string())
            .parse::<f64>()
    };
    let broken = |what: &str| format!("OpenVidu cannot read {what} in .info: {info}");
    let duration = number("duration").map_err(|_| broken("format.duration"))?;
    let size = number("size").map_err(|_| broken("format.size"))?;
    number("bit_rate").map_err(|_| broken("format.bit_rate"))?;
    number("nb_streams").map_err(|_| broken("format.nb_streams"))?;
    let streams = info["streams"]
        .as_array()
        .ok_or_else(|| broken("streams"))?;
    for stream in streams {
        let wanted: &[&str] = match stream["codec_type"].as_str() {
            Some("video") => &[
                "codec_name",
                "codec_long_name",
                "width",
                "height",
                "r_frame_rate",
            ],
            Some("audio") => &["codec_name", "codec_long_name"],
            _ => return Err(broken("codec_type")),
        };
        if let Some(missing) = wanted.iter().find(|name| stream[**name].is_null()) {
            return Err(broken(missing));
        }
    }
    Ok((size as u64, duration))
}

fn read_json(path: &Path) -> Result<Value, String> {
    let text = fs::read_to_string(path)
        .map_err(|cause| format!("cannot read {}: {cause}", path.display()))?;
    serde_json::from_str(&text).map_err(|cause| format!("{} is no JSON: {cause}", path.display()))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64
}
