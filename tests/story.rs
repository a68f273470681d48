//! The whole story, through a real Docker daemon and a real Chromium: judged by the frames of the video that OpenVidu
//! would hand to its client.

mod faults;
mod forgotten;
mod quick;

use crate::support::docker::docker;
use crate::support::frames::{Footage, probe};
use crate::support::openvidu::{Order, PATIENCE, Recording, Sealed};
use crate::support::page::SECRET;
use crate::support::secrets::said;
use crate::support::stage::{Stage, leave_out};
use crate::support::wait::until_true;
use reqwest::Method;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};

const BINARY: &str = env!("CARGO_BIN_EXE_ov2-ha-recorder");

/// Chromium and an encoder fill a small machine: one story at a time, or they would measure each other.
static TURN: Mutex<()> = Mutex::const_new(());

/// Who sealed a recording as ready.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    OpenVidu,
    /// In OpenVidu's place.
    Controller,
}

struct Scene {
    stage: Stage,
    folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    async fn set(test: &str, settings: &[(&str, &str)]) -> Option<Self> {
        Self::set_in(test, tempfile::tempdir().unwrap(), settings).await
    }

    async fn set_in(
        test: &str,
        folder: tempfile::TempDir,
        settings: &[(&str, &str)],
    ) -> Option<Self> {
        let turn = TURN.lock().await;
        match Stage::set(Path::new(BINARY), folder.path(), settings).await {
            Ok(stage) => Some(Self {
                stage,
                folder,
                _turn: turn,
            }),
            Err(why) => {
                leave_out(test, &why);
                None
            }
        }
    }

    async fn start(&self, id: &str) -> Recording {
        self.stage
            .openvidu
            .start(self.stage.order(id))
            .await
            .unwrap()
    }

    async fn stop(&self, recording: &Recording) -> Sealed {
        let sealed = self.stage.openvidu.stop(recording).await;
        let sealed = sealed.unwrap_or_else(|why| panic!("OpenVidu fails the recording: {why}"));
        self.is_ready(recording, By::OpenVidu).await;
        sealed
    }

    /// OpenVidu holds the recording ready, and the customer was told of it step by step, of each exactly once.
    async fn is_ready(&self, recording: &Recording, by: By) {
        recording.is_held_ready();
        let steps = ["started", "stopped", "ready"];
        let told = || {
            let told = self.stage.customer.told_of(&recording.order.id).into_iter();
            let of_this = told.filter(|it| it.event["startTime"] == recording.created_at);
            of_this.collect::<Vec<_>>()
        };
        let all = || told().len() >= steps.len();
        until_true("the customer's news", Duration::from_secs(10), all).await;
        let told = told();
        let said: Vec<&str> = told.iter().map(|it| it.status.as_str()).collect();
        assert_eq!(said, steps);
        let ready = &told[2];
        assert_eq!(ready.synthesized, by == By::Controller);
        let seal = recording.seal();
        for name in ["size", "duration", "hasVideo", "hasAudio"] {
            assert_eq!(ready.event[name], seal[name], "{name}: {}", ready.event);
        }
    }

    /// Runs one of the operator's commands for this controller; what it says.
    fn runs(&self, arguments: &[&str]) -> String {
        let mut program = std::process::Command::new(BINARY);
        for setting in ov2_ha_recorder::config::TABLE {
            program.env_remove(setting.name);
        }
        program.args(arguments).arg("--env-file");
        program.arg(self.stage.controller.folder.join("controller.env"));
        let output = tokio::task::block_in_place(|| program.output()).unwrap();
        let said = said(&output);
        assert!(output.status.success(), "{arguments:?}: {said}");
        said
    }

    async fn session(&self, id: &str) -> Value {
        self.stage
            .controller
            .get(&format!("/api/sessions/{id}"))
            .await
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the controller's log:\n{}", self.stage.controller.log());
        }
    }
}

/// What every finished recording must be, whatever happened to it.
fn is_whole(footage: &Footage) {
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert_eq!(footage.repeated(), 0, "frames are shown twice");
    let (duration, span) = (footage.duration, footage.clock_span());
    assert!(
        (duration - span).abs() <= 0.3,
        "it plays {duration} s and shows {span} s"
    );
    assert!(
        footage.blank_at_start() < 0.3,
        "{} s before the page is seen",
        footage.blank_at_start()
    );
    let silent = footage.silent_seconds();
    assert!(
        silent.is_empty(),
        "no beep at {silent:?} of {:?}",
        footage.beeps
    );
    assert!(
        footage.sound_offset().abs() < 0.15,
        "sound is {} s late",
        footage.sound_offset()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_recorder_leaves_one_video_that_plays() {
    let Some(scene) = Scene::set("a_killed_recorder_leaves_one_video_that_plays", &[]).await else {
        return;
    };
    let played = scene
        .stage
        .play("ses_story", |line| eprintln!("{line}"))
        .await;
    let played = played.unwrap_or_else(|why| panic!("OpenVidu fails the recording: {why}"));
    scene.is_ready(&played.recording, By::OpenVidu).await;
    let footage = &played.footage;
    is_whole(footage);
    let holes = footage.holes();
    assert_eq!(holes.len(), 1, "{holes:?}");
    assert!(holes[0].seconds <= 6.0, "{holes:?}");
    let after_kill = holes[0].from - played.killed_at;
    assert!(
        (-1.5..0.5).contains(&after_kill),
        "the hole begins {after_kill} s after the kill"
    );
    assert!(
        played.sealed.stop_took < Duration::from_secs(3),
        "{:?}",
        played.sealed.stop_took
    );
    assert_eq!(played.sealed.exit_code, 0);
    eprintln!(
        "missing {}; sound {:+.3} s",
        played.holes(),
        footage.sound_offset()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn openvidu_finds_all_it_expects_after_a_plain_recording() {
    let Some(scene) =
        Scene::set("openvidu_finds_all_it_expects_after_a_plain_recording", &[]).await
    else {
        return;
    };
    let order = Order {
        name: "My meeting".into(),
        ..scene.stage.order("ses_plain~1")
    };
    let recording = scene.stage.openvidu.start(order).await.unwrap();
    assert!(recording.start_took < PATIENCE);
    let name = recording.vessel.container().inspect("{{.Name}}").unwrap();
    assert_eq!(name, "/recording_ses_plain_1");
    let seal: Value =
        serde_json::from_str(&fs::read_to_string(recording.seal_path()).unwrap()).unwrap();
    assert_eq!(seal["id"], "ses_plain~1");
    tokio::time::sleep(Duration::from_secs(8)).await;
    let sealed = scene.stop(&recording).await;
    assert_eq!(sealed.exit_code, 0);
    assert!(
        sealed.stop_took < Duration::from_secs(3),
        "{:?}",
        sealed.stop_took
    );
    let footage = Footage::read(&sealed.video);
    is_whole(&footage);
    assert_eq!(footage.holes(), []);
    assert_world_readable(&recording.folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_the_page_is_written_nowhere() {
    let Some(scene) = Scene::set(
        "the_secret_of_the_page_is_written_nowhere",
        &[("DEBUG_MODE", "true")],
    )
    .await
    else {
        return;
    };
    let recording = scene.start("ses_secret").await;
    recording.grows(100_000, PATIENCE).await;
    let arguments = docker(&["top", &recording.vessel.container().0, "-eo", "pid,args"]).unwrap();
    assert!(!arguments.contains(SECRET), "{arguments}");
    let logs = recording.vessel.container().logs();
    assert!(!logs.contains(SECRET), "{logs}");
    // What a backup would be made with lies in the data directory for as long as there may be one, for nobody else to read.
    let kept = scene.stage.controller.folder.join("data/blueprints");
    let mode = fs::metadata(&kept).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    scene.stop(&recording).await;
    let gone = || fs::read_dir(&kept).unwrap().count() == 0;
    until_true("its end", Duration::from_secs(10), gone).await;
    for entry in files_below(scene.folder.path()) {
        let bytes = fs::read(&entry).unwrap_or_default();
        let found = bytes
            .windows(SECRET.len())
            .any(|part| part == SECRET.as_bytes());
        assert!(!found, "{} holds the secret", entry.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_without_sound_has_no_sound_track() {
    let Some(scene) = Scene::set("a_recording_without_sound_has_no_sound_track", &[]).await else {
        return;
    };
    let order = Order {
        only_video: true,
        ..scene.stage.order("ses_mute")
    };
    let recording = scene.stage.openvidu.start(order).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let sealed = scene.stop(&recording).await;
    assert_eq!(probe(&sealed.video, "stream=codec_type").trim(), "video");
    let footage = Footage::read(&sealed.video);
    assert_eq!(
        (footage.decode_errors.len(), footage.holes().len()),
        (0, 0),
        "{:?}",
        footage.holes()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_goes_on_and_finishes_while_the_controller_is_down() {
    let Some(mut scene) = Scene::set("a_recording_goes_on_while_the_controller_is_down", &[]).await
    else {
        return;
    };
    let recording = scene.start("ses_alone").await;
    recording.grows(100_000, PATIENCE).await;
    scene.stage.controller.kill().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    scene.stage.controller.resume().await;
    assert_eq!(scene.session("ses_alone").await["sessionId"], "ses_alone");
    recording.grows(100_000, PATIENCE).await;
    let sealed = scene.stop(&recording).await;
    let footage = Footage::read(&sealed.video);
    is_whole(&footage);
    assert_eq!(footage.holes(), []);
    let (_, sessions) = scene
        .stage
        .controller
        .ask(Method::GET, "/api/failover/ses_alone/history", None)
        .await;
    assert_eq!(
        sessions["totalFailovers"], 0,
        "a healthy recorder was replaced: {sessions}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_own_tests_record_a_page_and_count_the_seconds_lost() {
    let name = "the_operators_own_tests_record_a_page_and_count_the_seconds_lost";
    let Some(scene) = Scene::set(name, &[]).await else {
        return;
    };
    scene.runs(&["test-recording", "--json"]);
    let said = scene.runs(&["test-failover", "--json"]);
    assert!(said.contains("lost"), "{said}");
    let left = fs::read_dir(scene.folder.path().join("recordings")).unwrap();
    let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
    assert!(
        left.iter().all(|name| name == ".env"),
        "{left:?} is left behind"
    );
}

fn assert_world_readable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for file in files_below(folder) {
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o444, 0o444, "{} has mode {mode:o}", file.display());
    }
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => found.push(path),
        }
    }
    found
}
