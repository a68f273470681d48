//! Never worse: whatever the clock says, however long the take is, and while the disk hangs, what comes is recorded.

use crate::record::{Disk, Stage, has_trouble};
use crate::support::frames;
use crate::support::hours::{Chunk, LENGTH};
use crate::support::stage::{leave_out, seconds_now};
use crate::support::wait;
use ov2_ha_recorder::join::GrowingFile;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a busy machine may add, in seconds.
const SLACK: f64 = 2.0;
const HOUR: f64 = 3600.0;
const TEN_YEARS: f64 = 10.0 * 365.25 * 24.0 * HOUR;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_recorded_whole_whatever_its_clock_says_beside_that_of_the_run_before() {
    for (id, ahead) in [
        ("ses_hour_back", HOUR),
        ("ses_years_back", TEN_YEARS),
        ("ses_years_on", -TEN_YEARS),
    ] {
        let stage = Stage::set(id).await;
        let chunk = Chunk::encode(stage.folder.path(), "64x36", 60_000);
        fs::create_dir_all(stage.run_folder(1)).unwrap();
        let before = chunk.recorded_at(seconds_now() + ahead);
        fs::write(stage.run_folder(1).join("0001.mp4"), before).unwrap();
        let mut recorder = stage.start().await;
        // What the first run left is in the video before the second one has a frame.
        let second = stage.run_folder(2).join("0002.mp4");
        wait::until_true("the second run", Duration::from_secs(30), || {
            second.exists()
        })
        .await;
        recorder.grows_for(Duration::from_secs(4)).await;
        let (status, _) = recorder.stop().await;
        assert!(status.success(), "{id}: {}", stage.log());
        let timeline = stage.timeline();
        let runs = timeline["runs"].as_array().unwrap();
        assert_eq!(runs.len(), 2, "{timeline}");
        let seconds = |run: &Value| -> f64 {
            let chunks = run["chunks"].as_array().unwrap().iter();
            chunks
                .map(|it| it["durationSeconds"].as_f64().unwrap())
                .sum()
        };
        assert!((seconds(&runs[0]) - LENGTH).abs() < 0.1, "{timeline}");
        assert!(seconds(&runs[1]) > 4.0 - SLACK, "{timeline}");
        let said = match ahead > 0.0 {
            true => timeline["notes"]
                .to_string()
                .contains("the clock was set back"),
            false => timeline["gaps"].to_string().contains("is not known"),
        };
        assert!(said, "{timeline}");
        let whole = timeline["durationSeconds"].as_f64().unwrap();
        let both = seconds(&runs[0]) + seconds(&runs[1]);
        assert!((whole - both).abs() < 0.1, "{whole} s of {both} s");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_cannot_be_read_keeps_nothing_else_out_of_the_video() {
    let stage = Stage::set("ses_unread").await;
    let chunk = Chunk::encode(stage.folder.path(), "64x36", 60_000);
    fs::create_dir_all(stage.run_folder(1).join("0002.mp4")).unwrap();
    let before = |ago: f64| chunk.recorded_at(seconds_now() - ago);
    fs::write(stage.run_folder(1).join("0001.mp4"), before(60.0)).unwrap();
    fs::write(stage.run_folder(1).join("0003.mp4"), before(30.0)).unwrap();
    let mut recorder = stage.start().await;
    // It may be readable in a moment; then the video goes on without it.
    recorder.grows_for(Duration::from_secs(10)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    let timeline = stage.timeline();
    let runs = timeline["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2, "{timeline}");
    assert_eq!(runs[0]["chunks"].as_array().unwrap().len(), 2, "{timeline}");
    let whole = timeline["durationSeconds"].as_f64().unwrap();
    assert!(whole > 2.0 * LENGTH + 10.0 - SLACK, "{timeline}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_of_hours_is_gone_on_with_as_soon_as_a_new_one_begins() {
    let fresh = Stage::set("ses_fresh").await;
    let begin = Instant::now();
    let mut recorder = fresh.start().await;
    let first = begin.elapsed();
    recorder.stop().await;
    drop(recorder);
    drop(fresh);
    let stage = Stage::set("ses_long").await;
    fs::create_dir_all(stage.run_folder(10)).unwrap();
    let chunk = Chunk::encode(stage.folder.path(), "64x36", 200_000);
    let before = GrowingFile::open(stage.video(), stage.options()).unwrap();
    let mut before = before.with_index();
    chunk.grow(&mut before, stage.folder.path(), 720, 72);
    drop(before);
    let begin = Instant::now();
    let mut recorder = stage.start().await;
    let on = begin.elapsed();
    println!("a new take grows after {first:?}, one of four hours after {on:?}");
    assert!(
        on < first + Duration::from_secs_f64(SLACK),
        "{on:?} for {first:?}"
    );
    let chunks = fs::read_dir(stage.run_folder(11)).unwrap().flatten();
    let names: Vec<_> = chunks.map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["0721.mp4"], "chunks are counted over all runs");
    recorder.grows_for(Duration::from_secs(3)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    stage.is_what_openvidu_expects();
    assert_eq!(stage.timeline()["gaps"].as_array().unwrap().len(), 10);
}

/// For `OV2_HANG_SECONDS` (8 unless set).
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_is_told_and_costs_nothing() {
    let seconds = std::env::var("OV2_HANG_SECONDS").map_or(8, |text| text.parse().unwrap());
    let mut stage = Stage::set("ses_hangs").await;
    let _disk = match Disk::that_can_break(&stage) {
        Ok(disk) => disk,
        Err(why) => return leave_out("a_disk_that_hangs", &why),
    };
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(4)).await;
    let Some(frozen) = Frozen::at(stage.file("")) else {
        return leave_out("a_disk_that_hangs", "fsfreeze does not freeze it");
    };
    let begin = Instant::now();
    let is_told = |report: &Value| has_trouble(report, "disk", "does not answer");
    let took = watch.sees("the hanging disk", is_told).await;
    wait::until_true("the end of it", Duration::from_secs(seconds + 1), || {
        begin.elapsed().as_secs() >= seconds
    })
    .await;
    drop(frozen);
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(
        recorder.process.try_wait().unwrap().is_none(),
        "{}",
        stage.log()
    );
    recorder.grows_for(Duration::from_secs(5)).await;
    let is_well = |report: &Value| report["troubles"] == json!([]);
    watch.sees("the disk's answer", is_well).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    let footage = stage.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    let holes = frames::describe(&footage.holes());
    assert_eq!(footage.missing(), 0.0, "{holes}: {}", stage.log());
    stage.is_what_openvidu_expects();
}

/// A file system that takes nothing; it does again when this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn at(path: PathBuf) -> Option<Self> {
        let done = Command::new("fsfreeze").arg("--freeze").arg(&path).status();
        done.is_ok_and(|status| status.success())
            .then(|| Self(path))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze")
            .arg("--unfreeze")
            .arg(&self.0)
            .status();
    }
}
