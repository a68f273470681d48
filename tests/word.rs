//! A stop that reaches a recorder by OpenVidu's file alone: its `q` comes late, or never.

use crate::record::Stage;
use crate::support::stage::seconds_now;
use crate::support::wait::until_true;
use serde_json::Value;
use std::fs;
use std::time::Duration;

/// From the change of the file to the last frame, on a machine that is busy with other things.
const LAST_FRAME: std::ops::RangeInclusive<f64> = -0.5..=1.3;

/// OpenVidu writes a status into its file; when it did.
fn says(stage: &Stage, status: &str) -> f64 {
    let path = stage.file(&format!(".recording.{}", stage.order.id));
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["status"] = status.into();
    fs::write(&path, json.to_string()).unwrap();
    seconds_now()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_only_written_ends_the_video_within_a_second_and_a_late_q_is_heard() {
    let stage = Stage::set("ses_word").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(4)).await;
    let stopped_at = says(&stage, "stopped");
    let info = stage.file("ses_word.info");
    until_true("the video's end", Duration::from_secs(6), || info.exists()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(recorder.process.try_wait().unwrap(), None, "q would fail");
    let footage = stage.footage();
    let later = footage.last_clock() - stopped_at;
    println!("the last frame is {later:.2} s later than the stop");
    assert!(LAST_FRAME.contains(&later), "{later} s: {}", stage.log());
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    let (status, took) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    assert!(took < Duration::from_secs(1), "its q took {took:?}");
    stage.is_what_openvidu_expects();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_about_another_recording_or_none_at_all_ends_nothing() {
    let stage = Stage::set("ses_other").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(2)).await;
    let path = stage.file(".recording.ses_other");
    for text in [
        r#"{"id":"ses_other","createdAt":5,"status":"stopped"}"#,
        r#"{"id":"ses_other","createdAt":1795577569120,"status":"#,
        r#"{"id":"ses_other","createdAt":1795577569120,"status":"started"}"#,
    ] {
        fs::write(&path, text).unwrap();
        recorder.grows_for(Duration::from_secs(2)).await;
    }
    fs::remove_file(&path).unwrap();
    recorder.grows_for(Duration::from_secs(2)).await;
    let (status, took) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    assert!(took < Duration::from_secs(2), "stop took {took:?}");
    assert_eq!(stage.footage().missing(), 0.0);
}
