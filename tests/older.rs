//! What the first version (commit f37a1ef) left when it was killed in mid-recording: `fixtures/first-cut` is its recordings
//! folder and its database, with a session that records and two webhooks that nobody took. This version goes on with both.

use crate::record::{Stage, program, recover_in};
use crate::support::controller::Controller;
use crate::support::frames::{Footage, describe};
use crate::support::target::Target;
use crate::support::wait;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The recording, and how much of it there is, in seconds.
const RECORDING: &str = "ses_open";
/// See [`RECORDING`].
const LENGTH: f64 = 5.5;

/// What lies in the fixture's folder `name`, copied into `to`.
fn copy(name: &str, to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/first-cut");
    let from = from.join(name).join(".");
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_of_the_first_version_goes_on() {
    let mut stage = Stage::set(RECORDING).await;
    stage.order.frame_rate = 10;
    copy("recordings", stage.folder.path());
    let before = Footage::read(&stage.video());
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(4)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    let footage = stage.footage();
    let holes = footage.holes();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert_eq!(holes.len(), 1, "{}", describe(&holes));
    assert_eq!(footage.first_clock(), before.first_clock());
    assert!(holes[0].at >= LENGTH - 0.5, "{}", describe(&holes));
    assert!(footage.duration > LENGTH + 3.0, "{} s", footage.duration);
    assert_eq!(stage.timeline()["runs"].as_array().unwrap().len(), 2);
    stage.is_what_openvidu_expects();
}

#[test]
fn a_take_of_the_first_version_is_recovered_from_its_chunks() {
    let folder = tempfile::tempdir().unwrap();
    copy("recordings", folder.path());
    let video = video(folder.path());
    fs::remove_file(&video).unwrap();
    recover_in(folder.path());
    let footage = Footage::read(&video);
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert!(footage.duration > LENGTH - 0.5, "{} s", footage.duration);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_goes_on_with_the_first_versions_sessions_and_webhooks() {
    let folder = tempfile::tempdir().unwrap();
    let (home, recordings) = (folder.path().join("home"), folder.path().join("recordings"));
    for (name, to) in [
        ("data", home.join("data")),
        ("recordings", recordings.clone()),
    ] {
        fs::create_dir_all(&to).unwrap();
        copy(name, &to);
    }
    let customer = Target::agreeable().await;
    let endpoint = customer.url();
    let settings = [
        ("HA_RUNTIME", "process"),
        ("HEARTBEAT_INTERVAL", "1"),
        ("OPENVIDU_WEBHOOK", "true"),
        ("OPENVIDU_WEBHOOK_ENDPOINT", endpoint.as_str()),
    ];
    let controller = Controller::start(&program(), &home, &recordings, &settings).await;
    let session = controller.get(&format!("/api/sessions/{RECORDING}")).await;
    assert_eq!(session["uniqueSessionId"], "ses_open_1795577569000");
    assert_eq!(
        (&session["run"], &session["active"]),
        (&1.into(), &true.into())
    );

    customer.has(2).await;
    // Its recorder is gone and nobody knows what to start another with: what there is becomes a video.
    let video = video(&recordings);
    let info = video.with_file_name(format!("{RECORDING}.info"));
    let patience = Duration::from_secs(60);
    wait::until_true("the finished video", patience, || info.exists()).await;
    let info: Value = serde_json::from_slice(&fs::read(info).unwrap()).unwrap();
    let seconds: f64 = info["format"]["duration"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(seconds > LENGTH - 0.5, "{info}");
    assert_eq!(Footage::read(&video).decode_errors, Vec::<String>::new());
}

fn video(recordings: &Path) -> PathBuf {
    recordings.join(format!("{RECORDING}/{RECORDING}.mp4"))
}
