//! Never worse: disks that are full, swept or gone, and recordings that are stopped before they have begun.

use crate::record::{Disk, Recorder, Stage, has_trouble};
use crate::support::frames::{self, Footage};
use crate::support::hours::{Chunk, LENGTH};
use crate::support::stage::leave_out;
use crate::support::wait;
use ov2_ha_recorder::join::GrowingFile;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// OpenVidu waits this long for the container's end.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a busy machine may add to what may be missing, in seconds.
const SLACK: f64 = 2.0;

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_any_moment_before_the_first_frame_leaves_a_short_video() {
    let mut stage = Stage::set("ses_early").await;
    for (round, after) in [0, 30, 200, 500, 800, 1200].into_iter().enumerate() {
        // OpenVidu uses an id again once its recording is deleted.
        stage.created_at += 1000;
        let _ = fs::remove_dir_all(stage.file(""));
        let _ = fs::remove_file(stage.stop_file());
        let mut recorder = stage.spawn();
        // The moment itself is what is tried.
        tokio::time::sleep(Duration::from_millis(after)).await;
        let (status, took) = recorder.stop().await;
        println!("round {round}: stopped after {after} ms, ended {took:?} later");
        assert!(status.success(), "{status}: {}", stage.log());
        assert!(took < PATIENCE / 2, "{took:?}");
        is_a_short_video(&stage);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_before_the_first_frame_leaves_a_short_video() {
    let stage = Stage::set("ses_early_term").await;
    let mut recorder = stage.spawn();
    wait::until_true("the start", Duration::from_secs(10), || {
        stage.log().contains("recording begins")
    })
    .await;
    assert!(!stage.video().exists());
    let status = terminated(&mut recorder);
    assert!(status.success(), "{status}: {}", stage.log());
    is_a_short_video(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_openvidus_file_calls_stopped_records_one_moment_and_is_not_started_again()
{
    let stage = Stage::set("ses_stopped").await;
    says(&stage, "stopped");
    let mut recorder = stage.spawn();
    hears_a_late_q(&stage, &mut recorder).await;
    is_a_short_video(&stage);
    let first = fs::read(stage.video()).unwrap();
    fs::remove_file(stage.stop_file()).unwrap();
    let mut again = stage.spawn();
    hears_a_late_q(&stage, &mut again).await;
    assert_eq!(fs::read(stage.video()).unwrap(), first, "recorded again");
    is_a_short_video(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_killed_and_started_again_after_openvidu_said_stopped_finishes_what_is_there() {
    let stage = Stage::set("ses_stopped_late").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    recorder.process.kill().unwrap();
    recorder.process.wait().unwrap();
    says(&stage, "stopped");
    let begin = Instant::now();
    let mut again = stage.spawn();
    hears_a_late_q(&stage, &mut again).await;
    assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
    assert!(!stage.run_folder(2).exists(), "it recorded on");
    stage.is_what_openvidu_expects();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_with_no_frame_to_be_had_ends_with_0_so_that_nothing_starts_it_again() {
    let mut stage = Stage::set("ses_blind").await;
    // No display server, no picture.
    let tools = stage.folder.path().join("tools");
    fs::create_dir(&tools).unwrap();
    stage.settings.push(("PATH", tools.display().to_string()));
    let mut recorder = stage.spawn();
    let (status, took) = recorder.stop().await;
    assert!(status.success(), "{status}: {}", stage.log());
    assert!(took < PATIENCE / 2, "{took:?}");
    assert!(stage.log().contains("no frame could be recorded"));
    assert!(!stage.file("ses_blind.info").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recordings_folder_that_is_swept_away_is_made_again_with_all_that_was_recorded() {
    let mut stage = Stage::set("ses_swept").await;
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(5)).await;
    fs::remove_dir_all(stage.file("")).unwrap();
    let is_told = |report: &Value| has_trouble(report, "disk", "deleted or moved away");
    let took = watch.sees("the swept folder", is_told).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    recorder.grows_for(Duration::from_secs(5)).await;
    assert!(stage.file(".recording.ses_swept").exists());
    assert!(stage.run_folder(1).is_dir());
    let is_well = |report: &Value| report["troubles"] == json!([]);
    watch.sees("the end of it", is_well).await;
    ends_with_all_of_it(&stage, &mut recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_chunk_folder_or_recording_that_is_deleted_or_moved_alone_costs_nothing() {
    let stage = Stage::set("ses_parts").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    fs::remove_file(stage.video()).unwrap();
    is_there_again(&stage.video()).await;
    recorder.grows_for(Duration::from_secs(2)).await;
    let chunks = stage.file("chunks");
    fs::remove_dir_all(&chunks).unwrap();
    is_there_again(&chunks).await;
    recorder.grows_for(Duration::from_secs(2)).await;
    let elsewhere = stage.folder.path().join("elsewhere");
    fs::rename(stage.file(""), &elsewhere).unwrap();
    is_there_again(&stage.video()).await;
    recorder.grows_for(Duration::from_secs(2)).await;
    // It is not taken for dead because its folder was made again.
    let mut uncalled = stage.spawn();
    assert_eq!(ended(&mut uncalled).code(), Some(3), "{}", stage.log());
    recorder.grows_for(Duration::from_secs(1)).await;
    ends_with_all_of_it(&stage, &mut recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_swept_away_just_before_the_stop_leaves_all_that_openvidu_expects() {
    let stage = Stage::set("ses_swept_last").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    fs::remove_dir_all(stage.file("")).unwrap();
    ends_with_all_of_it(&stage, &mut recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_at_the_stop_takes_the_end_of_the_video_from_what_was_held_for_it() {
    let stage = Stage::set("ses_full_stop").await;
    let _disk = match Disk::in_memory(&stage, "size=40m") {
        Ok(disk) => disk,
        Err(why) => return leave_out("a_disk_that_is_full_at_the_stop", &why),
    };
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(4)).await;
    fill(&stage);
    let (status, took) = recorder.stop().await;
    assert!(status.success(), "{status}: {}", stage.log());
    assert!(took < PATIENCE, "{took:?}");
    stage.is_what_openvidu_expects();
    let footage = stage.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert!(footage.duration > 3.0, "{} s", footage.duration);
    assert!(ends_with_a_moov(&stage), "it still grows");
    assert!(!stage.file(".ses_full_stop.mp4.reserve").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_always_full_leaves_the_video_as_it_grew_with_its_info_from_memory() {
    let stage = Stage::set("ses_full_always").await;
    let _disk = match Disk::in_memory(&stage, "size=40m") {
        Ok(disk) => disk,
        Err(why) => return leave_out("a_disk_that_was_always_full", &why),
    };
    // So long that its end does not fit into what a full disk may still have.
    fs::create_dir_all(stage.run_folder(1)).unwrap();
    let chunk = Chunk::encode(stage.folder.path(), "64x36", 60_000);
    let mut before = GrowingFile::open(stage.video(), stage.options()).unwrap();
    chunk.grow(&mut before, stage.folder.path(), 100, 100);
    drop(before);
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(4)).await;
    let preview = stage.file("ses_full_always.preview.jpg");
    is_there_again(&preview).await;
    fs::remove_file(stage.file(".ses_full_always.mp4.reserve")).unwrap();
    fill(&stage);
    let (status, took) = recorder.stop().await;
    assert!(status.success(), "{status}: {}", stage.log());
    assert!(took < PATIENCE, "{took:?}");
    assert!(stage.log().contains("plays as it is"), "{}", stage.log());
    assert!(!ends_with_a_moov(&stage), "there was room for its end");
    let info = info(&stage);
    assert_eq!(info["streams"].as_array().unwrap().len(), 2);
    assert_eq!(info["streams"][0]["codec_name"], "h264");
    let said: f64 = info["format"]["duration"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(said > 100.0 * LENGTH, "{said} s");
    let read = frames::probe(&stage.video(), "stream=codec_name");
    assert!(read.contains("h264") && read.contains("aac"), "{read}");
    let size = fs::metadata(stage.video()).unwrap().len();
    assert_eq!(info["format"]["size"], json!(size.to_string()));
}

/// Everything OpenVidu reads is there, and at least one frame can be seen.
fn is_a_short_video(stage: &Stage) {
    let id = &stage.order.id;
    let info = info(stage);
    let seconds: f64 = info["format"]["duration"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(seconds > 0.0 && seconds < 10.0, "{seconds} s");
    assert_eq!(info["streams"].as_array().unwrap().len(), 2);
    let picture = fs::read(stage.file(&format!("{id}.jpg"))).unwrap();
    assert!(picture.starts_with(&[0xff, 0xd8]), "no thumbnail");
    assert!(stage.file(&format!(".recording.{id}")).exists());
    let footage = Footage::read(&stage.video());
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert!(ends_with_a_moov(stage), "it still grows");
}

fn info(stage: &Stage) -> Value {
    let path = stage.file(&format!("{}.info", stage.order.id));
    let text = fs::read(&path).unwrap_or_else(|_| panic!("no .info: {}", stage.log()));
    serde_json::from_slice(&text).unwrap()
}

fn ends_with_a_moov(stage: &Stage) -> bool {
    let bytes = fs::read(stage.video()).unwrap();
    let kind = |at: usize| bytes.get(at + 4..at + 8);
    let ftyp = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    kind(ftyp) == Some(b"mdat")
}

async fn ends_with_all_of_it(stage: &Stage, recorder: &mut Recorder) {
    let (status, took) = recorder.stop().await;
    assert!(status.success(), "{status}: {}", stage.log());
    assert!(took < PATIENCE / 2, "{took:?}");
    stage.is_what_openvidu_expects();
    let footage = stage.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    let holes = frames::describe(&footage.holes());
    assert!(footage.missing() < SLACK, "{holes}");
    let span = footage.clock_span();
    // The page may come later than the first frame.
    let whole = footage.duration + SLACK > span;
    assert!(whole, "{} s of {span} s", footage.duration);
    let gaps = stage.timeline()["gaps"].clone();
    assert_eq!(gaps, json!([]));
}

async fn is_there_again(path: &Path) {
    let what = format!("{}", path.display());
    wait::until_true(&what, Duration::from_secs(15), || path.exists()).await;
}

/// OpenVidu writes the status of the recording into its own file.
fn says(stage: &Stage, status: &str) {
    fs::create_dir_all(stage.file("")).unwrap();
    let seal = json!({"id": stage.order.id, "createdAt": stage.created_at, "status": status});
    let path = stage.file(&format!(".recording.{}", stage.order.id));
    fs::write(path, seal.to_string()).unwrap();
}

/// Leaves not a byte of room.
fn fill(stage: &Stage) {
    let mut filler = fs::File::create(stage.file("filler")).unwrap();
    let mut len = 1 << 20;
    while len > 0 {
        if filler.write_all(&vec![1; len]).is_err() {
            len /= 2;
        }
    }
}

fn terminated(recorder: &mut Recorder) -> ExitStatus {
    let pid = recorder.process.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    ended(recorder)
}

/// OpenVidu's `q` comes after its file said that all is over: its stop fails where the container has ended by then.
async fn hears_a_late_q(stage: &Stage, recorder: &mut Recorder) {
    let words = "the video is finished";
    let before = stage.log().matches(words).count();
    let finished = || stage.log().matches(words).count() > before;
    wait::until_true(words, PATIENCE, finished).await;
    assert!(
        recorder.process.try_wait().unwrap().is_none(),
        "it has ended"
    );
    let (status, took) = recorder.stop().await;
    assert!(status.success(), "{status}: {}", stage.log());
    assert!(took.as_secs_f64() < 1.0 + SLACK, "{took:?}");
}

fn ended(recorder: &mut Recorder) -> ExitStatus {
    tokio::task::block_in_place(|| recorder.process.wait()).unwrap()
}
