//! What a lost recorder costs on this machine, beside what it may: `cargo bench --bench failover`. Real Docker and the real
//! recording image with Chromium; where it goes by the dozen, stand-ins. One line a figure; exit code 1 when one is missed.
//! Words after `--` choose among `kill`, `restart`, `pause`, `crowd` and `watch`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_docs
)]

#[path = "../support/mod.rs"]
mod support;

use ov2_ha_recorder::clock::Timestamp;
use std::path::Path;
use std::time::Duration;
use support::crowd::{Crowd, Watching};
use support::docker::docker;
use support::frames::Footage;
use support::loss::median;
use support::openvidu::Recording;
use support::sheet::{Figure, Measurement, Sheet};
use support::stage::{Stage, seconds_now};
use tempfile::TempDir;

/// How often one recorder is lost.
const TIMES: usize = 9;
/// Docker waits twice as long before each restart of what did not run for ten seconds.
const SETTLED: Duration = Duration::from_secs(11);
/// Some footage between two blows.
const A_WHILE: Duration = Duration::from_secs(3);

const MEASUREMENTS: [Measurement; 5] = [
    ("kill", || Box::pin(kill())),
    ("restart", || Box::pin(restart())),
    ("pause", || Box::pin(pause())),
    ("crowd", || Box::pin(crowd())),
    ("watch", || Box::pin(watch())),
];

fn main() {
    let mut sheet = Sheet::new();
    sheet.fill(&MEASUREMENTS);
    sheet.end();
}

/// One recording that is struck again and again. Earlier failovers are soon forgiven it, so that each is its first.
struct Scene {
    stage: Stage,
    recording: Recording,
    _folder: TempDir,
}

impl Scene {
    async fn set(id: &str, more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = [&[("HA_FAILOVER_WINDOW_SECONDS", "1")], more].concat();
        let binary = Path::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"));
        let stage = Stage::set(binary, folder.path(), &settings).await.unwrap();
        let recording = stage.openvidu.start(stage.order(id)).await.unwrap();
        recording.is_looked_after().await;
        tokio::time::sleep(A_WHILE).await;
        Self {
            stage,
            recording,
            _folder: folder,
        }
    }

    /// Stops as OpenVidu does: one line about what is missing in the video.
    async fn end(self, blows: usize) -> String {
        let sealed = self.stage.openvidu.stop(&self.recording).await.unwrap();
        let footage = Footage::read(&sealed.video);
        let holes = footage.holes();
        assert_eq!(footage.decode_errors, Vec::<String>::new());
        assert_eq!(holes.len(), blows, "{holes:?}");
        let missing: Vec<_> = holes.iter().map(|it| of_seconds(it.seconds)).collect();
        format!("missing in the video {:.2?}", median(&missing))
    }
}

fn of_seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}

/// The longest and the shortest.
fn spread(durations: &[Duration]) -> String {
    let least = durations.iter().min().unwrap();
    let most = durations.iter().max().unwrap();
    format!("{} times, {least:.2?} to {most:.2?}", durations.len())
}

async fn kill() -> Vec<Figure> {
    let scene = Scene::set("ses_kill", &[]).await;
    let container = scene.recording.vessel.container().0.clone();
    let mut costs = Vec::new();
    for _ in 0..TIMES {
        let strike = || drop(docker(&["kill", &container]).unwrap());
        costs.push(scene.recording.first_new_frame(strike).await);
        tokio::time::sleep(A_WHILE).await;
    }
    let missing = scene.end(TIMES).await;
    let figure = Figure::at_most(
        "docker kill to the first new frame in the file, median",
        "3.5 s",
        Duration::from_millis(3_500),
        median(&costs),
    );
    vec![figure.with(&format!("{}; {missing}", spread(&costs)))]
}

async fn restart() -> Vec<Figure> {
    let mut scene = Scene::set("ses_restart", &[]).await;
    scene.stage.controller.kill().await;
    let mut costs = Vec::new();
    for _ in 0..TIMES {
        tokio::time::sleep(SETTLED).await;
        let strike = || scene.recording.vessel.kill_first_process();
        costs.push(scene.recording.first_new_frame(strike).await);
    }
    tokio::time::sleep(A_WHILE).await;
    scene.stage.controller.resume().await;
    let missing = scene.end(TIMES).await;
    let figure = Figure::at_most(
        "SIGKILL to the first new frame through Docker's own restart, the controller down, median",
        "3.5 s",
        Duration::from_millis(3_500),
        median(&costs),
    );
    vec![figure.with(&format!("{}; {missing}", spread(&costs)))]
}

/// With the settings as they come.
async fn pause() -> Vec<Figure> {
    const ROUNDS: usize = 3;
    let scene = Scene::set("ses_pause", &[]).await;
    let container = scene.recording.vessel.container().0.clone();
    let (mut paused, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let strike = || {
            docker(&["pause", &container]).unwrap();
            paused.push(seconds_now());
        };
        costs.push(scene.recording.first_new_frame(strike).await);
        tokio::time::sleep(2 * A_WHILE).await;
    }
    let path = "/api/failover/ses_pause/history";
    let history = scene.stage.controller.get(path).await;
    let events = history["failoverEvents"].as_array().unwrap();
    let started = events.iter().map(|event| {
        let seen = Timestamp::parse(event["timestamp"].as_str().unwrap()).unwrap();
        (seen.millis() as f64 + event["startMs"].as_f64().unwrap()) / 1_000.0
    });
    let replaced: Vec<_> = started
        .zip(&paused)
        .map(|(started, paused)| of_seconds(started - paused))
        .collect();
    assert_eq!(replaced.len(), ROUNDS, "{history}");
    let missing = scene.end(ROUNDS).await;
    let figure = Figure::at_most(
        "docker pause to the replacement's start, longest",
        "9 s",
        Duration::from_secs(9),
        *replaced.iter().max().unwrap(),
    );
    let more = format!(
        "{}; first new frame after {:.2?}; {missing}",
        spread(&replaced),
        median(&costs)
    );
    vec![figure.with(&more)]
}

/// Fifty at once, four times.
async fn crowd() -> Vec<Figure> {
    const ROUNDS: usize = 4;
    let mut crowd = Crowd::gather(50).await;
    let (mut costs, mut delays) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        tokio::time::sleep(A_WHILE).await;
        costs.push(crowd.kill_all().await);
        delays.extend(crowd.delays());
    }
    crowd.each_was_started_once();
    delays.sort();
    let p99 = delays[delays.len() * 99 / 100];
    crowd.leave().await;
    let all = Figure::at_most(
        "50 stand-ins killed at once, each started again exactly once, longest",
        "15 s",
        Duration::from_secs(15),
        *costs.iter().max().unwrap(),
    );
    let event = Figure::at_most(
        "Docker's event to the start that it calls for, p99",
        "50 ms",
        Duration::from_millis(50),
        p99,
    );
    vec![all.with(&spread(&costs)), event.with(&spread(&delays))]
}

async fn watch() -> Vec<Figure> {
    let few = Watching::over(100).await;
    let some = Watching::over(10_000).await;
    let many = Watching::over(100_000).await;
    let pass = Figure::at_most(
        "the watcher's pass over 10,000 sessions that are all due and well",
        "5 ms",
        Duration::from_millis(5),
        some.all_due,
    );
    let same = Figure {
        name: "a heartbeat among 100,000 sessions",
        required: "nothing scans all keys: no more than 10 times one among 100",
        measured: format!("{:.2?} and {:.2?}", many.heartbeat, few.heartbeat),
        reached: many.heartbeat <= few.heartbeat * 10,
    };
    vec![
        pass.with(&format!("{:.2?} when none is due", some.none_due)),
        same,
    ]
}
