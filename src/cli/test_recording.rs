//! `test-recording` and `test-failover`: a real page recorded for ten seconds in a real container, started and stopped as
//! OpenVidu does it; the second kills the recorder in the middle and counts the seconds lost. What they make is removed.

use super::api::Api;
use super::report::{Check, Form, Report};
use super::system::Call;
use super::{Failure, SettingsFile, exit};
use crate::clock::{Clock, SystemClock};
use crate::config::{RuntimeKind, Settings};
use crate::model::timeline::Timeline;
use crate::random;
use crate::tasks::Tasks;
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, sleep, timeout};

/// OpenVidu's own patience, for the file to appear and for the container to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long is recorded before and after a fault.
const HALF: Duration = Duration::from_secs(5);
/// A file and a container's state are looked at this often; neither tells of itself here.
const LOOK: Duration = Duration::from_millis(100);

const PAGE: &str = "<!doctype html><title>test</title><body style='background:#124;color:#fff;font:20vh monospace'>\
<p id=t></p><script>setInterval(()=>t.textContent=new Date().toISOString().slice(11,21),50);\
const a=new AudioContext(),o=new OscillatorNode(a,{frequency:440});o.connect(new GainNode(a,{gain:.1})).connect(a.destination);o.start()</script>";

/// Record a test page for ten seconds, from start to finished video.
#[derive(Debug, Args)]
pub(super) struct TestRecording {
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    form: Form,
}

/// What happens to the recorder in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// Its container is killed.
    Kill,
}

impl TestRecording {
    pub(super) async fn run(self, fault: Fault) -> Result<(), Failure> {
        let settings = self.file.settings()?;
        if settings.runtime != RuntimeKind::Docker {
            return Err(Failure::with(
                exit::UNAVAILABLE,
                "this test starts a container as OpenVidu does; with HA_RUNTIME=process there are none",
            ));
        }
        // Without the controller a recorder records, but nobody replaces it.
        let api = Api::of(&settings)?;
        api.get("/api/sessions/health").await?;
        let tasks = Tasks::new();
        let mut trial = Trial {
            id: format!("ov2-test-{}", random::hex::<6>()),
            settings,
            report: Report::default(),
        };
        let outcome = trial.play(fault, &tasks).await;
        trial.clear(&api).await;
        tasks.end(Duration::from_secs(2)).await;
        outcome?;
        trial.report.conclude(self.form)
    }
}

struct Trial {
    id: String,
    settings: Settings,
    report: Report,
}

impl Trial {
    async fn play(&mut self, fault: Fault, tasks: &Tasks) -> Result<(), Failure> {
        let page = serve_page(tasks)
            .await
            .map_err(|cause| Failure::new(format!("cannot serve the test page: {cause}")))?;
        let begin = Instant::now();
        self.start(page)?;
        if !self.first_frames().await {
            let said = Call::of("docker", ["logs", "--tail", "5", &self.container()])
                .output()
                .unwrap_or_default();
            self.report.add(
                Check::bad("start", format!("no video within {} s", PATIENCE.as_secs()))
                    .advice(said),
            );
            return Ok(());
        }
        self.report.add(Check::good(
            "start",
            format!("video there after {:.1} s", begin.elapsed().as_secs_f64()),
        ));
        sleep(HALF).await;
        if fault == Fault::Kill {
            self.kill().await?;
        }
        sleep(HALF).await;
        if self.stop().await? {
            self.video(fault);
        }
        Ok(())
    }

    fn container(&self) -> String {
        format!("recording_{}", self.id)
    }

    fn folder(&self) -> PathBuf {
        self.settings.recording_path.join(&self.id)
    }

    fn start(&self, page: String) -> Result<(), Failure> {
        let recording = json!({
            "id": self.id, "object": "recording", "name": self.id, "outputMode": "COMPOSED", "resolution": "1280x720",
            "frameRate": 25, "recordingLayout": "BEST_FIT", "sessionId": self.id, "uniqueSessionId": self.id,
            "createdAt": SystemClock.now().millis(), "size": 0, "duration": 0.0, "url": null, "hasAudio": true,
            "hasVideo": true, "status": "starting",
        });
        let variables = [
            ("DEBUG_MODE", "false".into()),
            ("CONTAINER_WORKING_MODE", "COMPOSED".into()),
            ("URL", page),
            ("ONLY_VIDEO", "false".into()),
            ("RESOLUTION", "1280x720".into()),
            ("FRAMERATE", "25".into()),
            ("VIDEO_ID", self.id.clone()),
            ("VIDEO_NAME", self.id.clone()),
            ("VIDEO_FORMAT", "mp4".into()),
            ("RECORDING_JSON", recording.to_string()),
        ];
        let mut arguments = vec![
            "run".into(),
            "-d".into(),
            "--network=host".into(),
            "--shm-size=512m".into(),
            format!("--name={}", self.container()),
        ];
        arguments.push(format!(
            "--volume={}:/recordings",
            self.settings.recording_path.display()
        ));
        arguments.extend(
            variables
                .into_iter()
                .map(|(name, value)| format!("--env={name}={value}")),
        );
        arguments.push(self.settings.image());
        Call::of("docker", arguments).output().map(drop)
    }

    async fn first_frames(&self) -> bool {
        let video = self.folder().join(format!("{}.mp4", self.id));
        until(|| std::fs::metadata(&video).is_ok_and(|found| found.len() > 0)).await
    }

    async fn kill(&mut self) -> Result<(), Failure> {
        let begin = Instant::now();
        let before = self.inspect("{{.State.StartedAt}}");
        Call::of("docker", ["kill", "--signal=KILL", &self.container()]).output()?;
        let back = until(|| {
            self.inspect("{{.State.Running}}") == "true"
                && self.inspect("{{.State.StartedAt}}") != before
        });
        self.report.add(match back.await {
            true => Check::good(
                "failover",
                format!(
                    "the recorder runs again after {:.1} s",
                    begin.elapsed().as_secs_f64()
                ),
            ),
            false => Check::bad(
                "failover",
                format!("no recorder after {} s", PATIENCE.as_secs()),
            )
            .advice("\"ov2-ha-recorder validate\" and \"ov2-ha-recorder logs\" tell why"),
        });
        Ok(())
    }

    fn inspect(&self, format: &str) -> String {
        Call::of("docker", ["inspect", "-f", format, &self.container()])
            .output()
            .unwrap_or_default()
    }

    async fn stop(&mut self) -> Result<bool, Failure> {
        let begin = Instant::now();
        // As OpenVidu says it.
        Call::of(
            "docker",
            ["exec", &self.container(), "bash", "-c", "echo 'q' > stop"],
        )
        .output()?;
        let ended = until(|| self.inspect("{{.State.Running}}") == "false").await;
        let code = self.inspect("{{.State.ExitCode}}");
        let took = begin.elapsed().as_secs_f64();
        self.report.add(match (ended, code.as_str()) {
            (true, "0") => Check::good("stop", format!("finished {took:.1} s after stop")),
            (true, code) => Check::bad("stop", format!("the recorder ended with code {code}")),
            (false, _) => Check::bad(
                "stop",
                format!(
                    "not finished {} s after stop; OpenVidu would give it up",
                    PATIENCE.as_secs()
                ),
            ),
        });
        Ok(ended)
    }

    fn video(&mut self, fault: Fault) {
        let folder = self.folder();
        let read = |name: String| std::fs::read(folder.join(name)).unwrap_or_default();
        let info: Value =
            serde_json::from_slice(&read(format!("{}.info", self.id))).unwrap_or_default();
        let seconds = info["format"]["duration"]
            .as_str()
            .and_then(|text| text.parse::<f64>().ok());
        let streams = info["streams"].as_array().cloned().unwrap_or_default();
        let has = |kind: &str| streams.iter().any(|stream| stream["codec_type"] == kind);
        self.report.add(match seconds {
            None => Check::bad(
                "video",
                "no .info for OpenVidu: it would call the recording failed",
            ),
            Some(seconds) if seconds < HALF.as_secs_f64() => {
                Check::bad("video", format!("{seconds:.1} s only"))
            }
            Some(seconds) if !has("video") || !has("audio") => {
                Check::bad("video", format!("{seconds:.1} s without sound or picture"))
            }
            Some(seconds) => Check::good("video", format!("{seconds:.1} s with sound")),
        });
        let timeline =
            serde_json::from_slice::<Timeline>(&read(format!("{}.timeline.json", self.id)));
        self.report.add(match timeline {
            Err(cause) => Check::bad("lost", format!("no timeline beside the video: {cause}")),
            Ok(timeline) => lost(&timeline, fault),
        });
    }

    /// Takes away what the test made. What cannot be removed is of no harm, so nothing is said.
    async fn clear(&self, api: &Api) {
        let _ = Call::of("docker", ["rm", "-f", "-v", &self.container()]).succeeds();
        let _ = api
            .send(Method::DELETE, &format!("/api/sessions/{}", self.id), None)
            .await;
        let _ = std::fs::remove_dir_all(self.folder());
    }
}

fn lost(timeline: &Timeline, fault: Fault) -> Check {
    let seconds = timeline.gaps.iter().map(|gap| gap.seconds).sum::<f64>();
    let finding = format!(
        "{seconds:.1} s lost in {} gaps over {} runs",
        timeline.gaps.len(),
        timeline.runs.len()
    );
    match (fault, seconds) {
        (Fault::None, seconds) if seconds > 0.0 => Check::warning("lost", finding)
            .advice("is this machine fast enough? See the load while it records"),
        (Fault::Kill, seconds) if seconds > 6.0 => Check::warning("lost", finding)
            .advice("starting Chrome takes most of it: more or faster cores shorten it"),
        _ => Check::good("lost", finding),
    }
}

/// Waits, as long as OpenVidu would, until something is so.
async fn until(mut so: impl FnMut() -> bool) -> bool {
    let mut looks = interval(LOOK);
    let look = async {
        while !so() {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, look).await.is_ok()
}

async fn serve_page(tasks: &Tasks) -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let token = tasks.token();
    tasks.spawn("test page", async move {
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                Ok((stream, _)) = listener.accept() => {
                    if let Err(cause) = answer(stream).await {
                        log::debug!("the test page was not sent: {cause}");
                    }
                }
            }
        }
    });
    Ok(format!("http://{address}/"))
}

/// The same answer to every request: a browser that wants an icon gets the page.
async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 4096];
    // Browsers open connections in advance and say nothing on them.
    let Ok(read) = timeout(Duration::from_millis(500), stream.read(&mut request)).await else {
        return Ok(());
    };
    read?;
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        PAGE.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(PAGE.as_bytes()).await
}
