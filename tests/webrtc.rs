//! A page with real WebRTC media, as every page of OpenVidu is: what is played comes from elsewhere, some moments after the page
//! is there, and nothing of it is on the screen or in the ears meanwhile.

use crate::record::{CHROME, Stage};
use crate::support::frames::{self, probe_silence};
use crate::support::stage::leave_out;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PUBLISHER: &str = include_str!("support/publisher.py");

/// Slack for machines that are busy with other things: a browser starts, and media are agreed upon anew.
const SLACK: f64 = 2.0;

/// The publisher; it ends when this is dropped.
struct Publisher {
    process: Child,
    port: u16,
}

impl Publisher {
    fn start() -> Result<Self, String> {
        // An environment that holds aiortc, where the system's Python does not.
        let python = std::env::var("OV2_PYTHON").unwrap_or("python3".into());
        let has = Command::new(&python).args(["-c", "import aiortc"]).output();
        if !has.is_ok_and(|told| told.status.success()) {
            return Err("aiortc is missing (pip install aiortc)".into());
        }
        let mut process = Command::new(python)
            .args(["-c", PUBLISHER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|cause| cause.to_string())?;
        let mut line = String::new();
        let said = BufReader::new(process.stdout.take().unwrap()).read_line(&mut line);
        said.map_err(|cause| cause.to_string())?;
        let port = line.trim().parse().map_err(|_| "it says no port")?;
        Ok(Self { process, port })
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where nothing is heard for half a second or longer, after the first sound.
fn silences(video: &Path) -> Vec<(f64, f64)> {
    let all = probe_silence(video, 0.5);
    all.into_iter().filter(|(from, _)| *from > 0.1).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_browser_leaves_no_blank_frame_and_no_silence_of_a_page_with_webrtc_media() {
    let test = "a_killed_browser_leaves_no_blank_frame_and_no_silence_of_a_page_with_webrtc_media";
    let publisher = match Publisher::start() {
        Ok(publisher) => publisher,
        Err(why) => return leave_out(test, &why),
    };
    let mut stage = Stage::set("ses_webrtc").await;
    stage.order.url = format!("http://127.0.0.1:{}/", publisher.port);
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(8)).await;
    recorder.kill_child(CHROME.name, CHROME.mark);
    let is_counted = |report: &Value| report["restarts"]["browser"] == 1;
    watch.sees("the replaced browser", is_counted).await;
    recorder.grows_for(Duration::from_secs(6)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());

    let footage = stage.footage();
    let holes = frames::describe(&footage.holes());
    let silent = silences(&stage.video());
    println!(
        "{} frames are blank, {} s at the start; silent: {silent:?}; missing: {holes}; sound {:+.0} ms against the picture",
        footage.blank(),
        footage.blank_at_start(),
        footage.sound_offset() * 1_000.0
    );
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert_eq!(footage.blank(), 0, "{holes}");
    assert_eq!(silent, [], "{holes}");
    assert!(footage.missing() < 1.8 + SLACK, "{holes}: {}", stage.log());
    let gaps = stage.timeline()["gaps"].clone();
    assert_eq!(gaps.as_array().unwrap().len(), 1, "{gaps}");
    let cause = gaps[0]["cause"].as_str().unwrap();
    assert!(cause.contains("the page went away"), "{gaps}");
}
