//! The recorder as a plain process: what a page shows is recorded to the frame, and each of its children may be killed.
//! Judged by the frames of the video, which say at which moment of the wall clock they were shown.

use crate::support::frames::{self, Footage};
use crate::support::hours::Chunk;
use crate::support::openvidu::{Order, environment};
use crate::support::page::{Page, SECRET};
use crate::support::secrets;
use crate::support::stage::leave_out;
use crate::support::wait;
use ov2_ha_recorder::join::{GrowingFile, Options};
use ov2_ha_recorder::model::ids::{RecordingId, TakeId};
use ov2_ha_recorder::model::timeline::GapMode;
use serde_json::Value;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, MutexGuard};

/// They judge frames and seconds: one at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// Slack for machines that are busy with other things.
const SLACK: f64 = 1.0;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_recorded_to_the_frame_and_finished_within_a_second() {
    let stage = Stage::set("ses_plain").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(8)).await;
    let (status, took) = recorder.stop().await;
    assert!(status.success(), "{status}: {}", stage.log());
    println!("stop took {took:?}");
    assert!(took.as_secs_f64() < 1.0 + SLACK, "stop took {took:?}");

    let footage = stage.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert_eq!(
        footage.missing(),
        0.0,
        "{}",
        frames::describe(&footage.holes())
    );
    assert!((footage.duration - footage.clock_span()).abs() < 0.3);
    assert!(
        footage.sound_offset().abs() < 0.1,
        "{:?}",
        footage.sound_offsets()
    );
    stage.is_what_openvidu_expects();
    stage.keeps_the_secret();
    stage.has_chunks_that_play_alone();
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_killed_loses_less_than_a_second() {
    let (footage, stage) = killed("ses_ffmpeg", "ffmpeg", "libx264").await;
    println!("ffmpeg killed: {:.2} s missing", footage.missing());
    assert!(
        footage.missing() < 0.7 + SLACK,
        "{}",
        frames::describe(&footage.holes())
    );
    assert_eq!(stage.timeline()["gaps"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn chrome_killed_is_back_within_seconds_and_the_video_shows_it() {
    let (footage, _) = killed("ses_chrome", "chromium", "remote-debugging-pipe").await;
    println!("Chrome killed: {:.2} s missing", footage.missing());
    assert!(
        footage.missing() < 3.0 + SLACK,
        "{}",
        frames::describe(&footage.holes())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn xvfb_killed_takes_the_rest_along_and_all_are_back() {
    let (footage, _) = killed("ses_xvfb", "Xvfb", "").await;
    println!("Xvfb killed: {:.2} s missing", footage.missing());
    assert!(
        footage.missing() < 4.0 + SLACK,
        "{}",
        frames::describe(&footage.holes())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pulseaudio_killed_costs_seconds_and_sound_is_back() {
    let (footage, _) = killed("ses_pulse", "pulseaudio", "").await;
    println!("PulseAudio killed: {:.2} s missing", footage.missing());
    assert!(
        footage.missing() < 4.0 + SLACK,
        "{}",
        frames::describe(&footage.holes())
    );
    let silent = footage.silent_seconds(2.0);
    assert!(silent.is_empty(), "no beep at {silent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_killed_by_force_goes_on_in_a_new_run() {
    let stage = Stage::set("ses_runs").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(6)).await;
    recorder.process.kill().unwrap();
    recorder.process.wait().unwrap();
    let mut second = stage.start().await;
    second.grows_for(Duration::from_secs(6)).await;
    let (status, _) = second.stop().await;
    assert!(status.success(), "{}", stage.log());

    let footage = stage.footage();
    println!("recorder killed: {:.2} s missing", footage.missing());
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert!(
        footage.missing() < 4.0 + SLACK,
        "{}",
        frames::describe(&footage.holes())
    );
    let timeline = stage.timeline();
    assert_eq!(timeline["runs"].as_array().unwrap().len(), 2);
    let lost = timeline["runs"][0]["chunks"].as_array().unwrap().len();
    assert!(lost > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_and_picture_stay_together_over_ten_lost_recorders() {
    let stage = Stage::set("ses_ten").await;
    for _ in 0..10 {
        let mut recorder = stage.start().await;
        recorder.grows_for(Duration::from_secs(2)).await;
        recorder.process.kill().unwrap();
        recorder.process.wait().unwrap();
    }
    let mut last = stage.start().await;
    last.grows_for(Duration::from_secs(5)).await;
    let (status, _) = last.stop().await;
    assert!(status.success(), "{}", stage.log());
    let footage = stage.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert_eq!(stage.timeline()["runs"].as_array().unwrap().len(), 11);
    let offsets = footage.sound_offsets();
    println!("sound comes later than the picture by {offsets:.3?} s");
    assert!(offsets.len() >= 15, "{offsets:?}");
    // a browser that starts on a busy machine may draw late; what the video adds would add up
    let median = |part: &[f64]| {
        let mut part = part.to_vec();
        part.sort_by(f64::total_cmp);
        part[part.len() / 2]
    };
    let (early, late) = offsets.split_at(offsets.len() / 2);
    let (early, late) = (median(early), median(late));
    assert!((early - late).abs() <= 0.040, "{early} s, then {late} s");
    assert!(late.abs() < 0.1, "{offsets:?}");
    stage.is_what_openvidu_expects();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_starts_when_it_is_all_over_finishes_the_video() {
    let stage = Stage::set("ses_late").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(4)).await;
    recorder.process.kill().unwrap();
    recorder.process.wait().unwrap();
    fs::write(stage.stop_file(), "q\n").unwrap();
    let begin = Instant::now();
    let mut late = stage.spawn();
    let status = late.process.wait().unwrap();
    println!("finishing what was there took {:?}", begin.elapsed());
    assert!(status.success(), "{}", stage.log());
    assert!(begin.elapsed() < Duration::from_secs(3));
    assert_eq!(stage.footage().decode_errors, Vec::<String>::new());
    stage.is_what_openvidu_expects();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_the_video_like_q() {
    let stage = Stage::set("ses_term").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    let pid = recorder.process.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(
        recorder.process.wait().unwrap().success(),
        "{}",
        stage.log()
    );
    stage.is_what_openvidu_expects();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_run_ends_an_earlier_one_which_leaves_the_video_alone() {
    let stage = Stage::set("ses_fence").await;
    let mut first = stage.start().await;
    first.grows_for(Duration::from_secs(3)).await;
    let mut second = stage.spawn();
    let status = tokio::task::block_in_place(|| first.process.wait()).unwrap();
    assert_eq!(status.code(), Some(3), "{}", stage.log());
    second.grows_for(Duration::from_secs(4)).await;
    let (status, _) = second.stop().await;
    assert!(status.success(), "{}", stage.log());
    assert_eq!(stage.footage().decode_errors, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_recorders_run_side_by_side() {
    let one = Stage::set("ses_one").await;
    let two = one.beside("ses_two");
    let (mut first, mut second) = (one.start().await, two.start().await);
    second.grows_for(Duration::from_secs(4)).await;
    for (stage, recorder) in [(&one, &mut first), (&two, &mut second)] {
        let (status, _) = recorder.stop().await;
        assert!(status.success(), "{}", stage.log());
        assert!(stage.footage().missing() < SLACK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_of_video_with_failovers_are_finished_within_a_second_of_the_stop() {
    let stage = Stage::set("ses_hours").await;
    fs::create_dir_all(stage.run_folder(10)).unwrap();
    let chunk = Chunk::encode(stage.folder.path(), "64x36", 200_000);
    let mut before = GrowingFile::open(stage.video(), stage.options()).unwrap();
    chunk.grow(&mut before, stage.folder.path(), 720, 72);
    drop(before);
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    let resident = resident_kilobytes(recorder.process.id());
    let (status, took) = recorder.stop().await;
    println!("stop after four hours took {took:?}; {resident} KiB were resident");
    assert!(status.success(), "{}", stage.log());
    assert!(took.as_secs_f64() < 1.0 + SLACK, "stop took {took:?}");
    // an unoptimized build that holds a million samples
    assert!(resident < 60 << 10, "{resident} KiB");
    assert_eq!(stage.timeline()["gaps"].as_array().unwrap().len(), 10);
    stage.is_what_openvidu_expects();
}

#[tokio::test(flavor = "multi_thread")]
async fn recording_itself_costs_little_beside_what_its_children_need() {
    let stage = Stage::set("ses_cost").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    let pid = recorder.process.id();
    let (begin, before) = (Instant::now(), processor_seconds(pid));
    recorder.grows_for(Duration::from_secs(8)).await;
    let share = (processor_seconds(pid) - before) / begin.elapsed().as_secs_f64();
    let resident = resident_kilobytes(pid);
    println!("{:.2} % of a core, {resident} KiB resident", share * 100.0);
    // an unoptimized build
    assert!(share < 0.08, "{share} of a core");
    assert!(resident < 50 << 10, "{resident} KiB");
}

/// Processor time that the process itself has used, without its children.
pub fn processor_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after) = stat.rsplit_once(')').unwrap();
    let words = after.split_whitespace().skip(11).take(2);
    let ticks: f64 = words.map(|word| word.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

/// What of the process is in memory.
pub fn resident_kilobytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_keeps_dying_ends_the_run_which_keeps_what_it_has() {
    let stage = Stage::set("ses_dying").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    let mut kills = 0;
    let ended = wait::until("the end of the run", Duration::from_secs(60), || {
        kills += usize::from(recorder.kill_any("ffmpeg", "libx264"));
        let status = recorder.process.try_wait().unwrap();
        async move { status }
    });
    let (took, status) = ended.await;
    println!("given up {took:?} after the first of its deaths");
    assert_eq!(status.code(), Some(1), "{}", stage.log());
    assert!(kills >= 6, "{kills} kills");
    assert!(stage.log().contains("the capture ended too often"));
    let mut second = stage.start().await;
    second.grows_for(Duration::from_secs(3)).await;
    let (status, _) = second.stop().await;
    assert!(status.success(), "{}", stage.log());
    assert_eq!(stage.footage().decode_errors, Vec::<String>::new());
    assert_eq!(stage.timeline()["runs"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_what_it_did_not_take_and_recording_goes_on() {
    let stage = Stage::set("ses_full").await;
    let disk = match Disk::mount(&stage, "size=40m") {
        Ok(disk) => disk,
        Err(why) => return leave_out("a_full_disk", &why),
    };
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    let filler = stage.file("filler");
    // it ends for want of space
    let _ = fs::write(&filler, vec![1; 40 << 20]);
    let is_told = || stage.log().contains("cannot write chunks");
    wait::until_true("the disk's end", Duration::from_secs(10), is_told).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    fs::remove_file(&filler).unwrap();
    recorder.grows_for(Duration::from_secs(5)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    let footage = stage.footage();
    println!("disk full: {:.2} s missing", footage.missing());
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert!(
        footage.missing() < 4.0 + SLACK,
        "{}",
        frames::describe(&footage.holes())
    );
    let gaps = stage.timeline()["gaps"].clone();
    assert_eq!(gaps[0]["cause"], "the disk took nothing", "{gaps}");
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_is_named() {
    let stage = Stage::set("ses_readonly").await;
    let disk = match Disk::mount(&stage, "ro") {
        Ok(disk) => disk,
        Err(why) => return leave_out("a_folder_that_cannot_be_written", &why),
    };
    let status = stage.spawn().process.wait().unwrap();
    assert_eq!(status.code(), Some(73), "{}", stage.log());
    assert!(
        stage.log().contains("Read-only file system"),
        "{}",
        stage.log()
    );
    drop(disk);
}

/// A file system of its own in the recording's folder; gone when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(stage: &Stage, options: &str) -> Result<Self, String> {
        let at = stage.file("");
        fs::create_dir_all(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at);
        let said = mount.output().map_err(|cause| cause.to_string())?;
        match said.status.success() {
            true => Ok(Self(at)),
            false => Err(String::from_utf8_lossy(&said.stderr).trim().to_owned()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn other_modes_without_the_base_images_entry_point_say_what_is_missing() {
    if std::path::Path::new("/entrypoint.sh").exists() {
        return;
    }
    let said = Command::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"))
        .arg("record")
        .env("CONTAINER_WORKING_MODE", "COMPOSED_QUICK_START")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(69), "{text}");
    assert!(
        text.contains("COMPOSED_QUICK_START") && text.contains("/entrypoint.sh"),
        "{text}"
    );
}

/// Records for a while, kills the child `name` whose arguments hold `mark`, goes on for a while, stops.
async fn killed(id: &str, name: &str, mark: &str) -> (Footage, Stage) {
    let stage = Stage::set(id).await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(7)).await;
    recorder.kill_child(name, mark);
    recorder.grows_for(Duration::from_secs(12)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    let footage = stage.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    stage.is_what_openvidu_expects();
    (footage, stage)
}

/// What is tried and measured: the program that was just built, or the one that `OV2_PROGRAM` names.
pub fn program() -> PathBuf {
    let other = std::env::var_os("OV2_PROGRAM");
    other.map_or_else(
        || env!("CARGO_BIN_EXE_ov2-ha-recorder").into(),
        PathBuf::from,
    )
}

/// A place to record, and what is ordered there.
pub struct Stage {
    /// Settings beside the usual ones.
    pub settings: Vec<(&'static str, String)>,
    _turn: Option<MutexGuard<'static, ()>>,
    page: std::sync::Arc<Page>,
    pub folder: std::sync::Arc<tempfile::TempDir>,
    pub order: Order,
    created_at: u64,
}

impl Stage {
    pub async fn set(id: &str) -> Self {
        let turn = TURN.lock().await;
        let page = Page::serve().await;
        Self {
            order: Order::of(id, &page.url()),
            page: page.into(),
            settings: Vec::new(),
            _turn: Some(turn),
            folder: tempfile::tempdir().unwrap().into(),
            created_at: 1_795_577_569_120,
        }
    }

    fn beside(&self, id: &str) -> Self {
        Self {
            settings: self.settings.clone(),
            _turn: None,
            page: self.page.clone(),
            folder: self.folder.clone(),
            order: Order::of(id, &self.page.url()),
            created_at: self.created_at,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(&self.order.id).join(name)
    }

    /// Where the video lies.
    pub fn video(&self) -> PathBuf {
        self.file(&format!("{}.mp4", self.order.name))
    }

    /// Where run `number` has its chunks.
    pub fn run_folder(&self, number: u32) -> PathBuf {
        self.file(&format!("chunks/{}/r{number}", self.created_at))
    }

    /// How the video is made.
    pub fn options(&self) -> Options {
        Options {
            recording: RecordingId::parse(&self.order.id).unwrap(),
            take: TakeId::parse(self.created_at.to_string()).unwrap(),
            gap_mode: GapMode::Cut,
        }
    }

    fn stop_file(&self) -> PathBuf {
        self.folder.path().join(format!("{}.stop", self.order.id))
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join(format!("{}.log", self.order.id))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn spawn(&self) -> Recorder {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let process = Command::new(program())
            .arg("record")
            .arg("--recordings")
            .arg(self.folder.path())
            .arg("--stop-file")
            .arg(self.stop_file())
            .envs(environment(&self.order, self.created_at))
            .envs([
                ("HA_CONTROLLER_HOST", "127.0.0.1"),
                ("HA_CONTROLLER_PORT", "1"),
                ("CHUNK_TIME_SIZE", "4"),
                ("RUST_LOG", "debug"),
            ])
            .envs(self.settings.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Recorder {
            process,
            video: self.video(),
            log: self.log_file(),
            stop_file: self.stop_file(),
        }
    }

    /// Starts a recorder and waits until the video is there, and grows.
    pub async fn start(&self) -> Recorder {
        let recorder = self.spawn();
        let before = fs::metadata(self.video()).map_or(0, |data| data.len());
        let took = wait::until_true("the video", Duration::from_secs(30), || {
            fs::metadata(self.video()).is_ok_and(|data| data.len() > before)
        })
        .await;
        println!("the video grows {took:?} after the start");
        recorder
    }

    pub fn footage(&self) -> Footage {
        Footage::read(&self.video())
    }

    fn timeline(&self) -> Value {
        let path = self.file(&format!("{}.timeline.json", self.order.id));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    pub fn is_what_openvidu_expects(&self) {
        self.is_even_and_starts_at_zero();
        let info = self.file(&format!("{}.info", self.order.id));
        let info: Value = serde_json::from_slice(&fs::read(info).unwrap()).unwrap();
        assert_eq!(info["streams"].as_array().unwrap().len(), 2);
        let size = info["format"]["size"].as_str().unwrap().to_owned();
        assert_eq!(size, fs::metadata(self.video()).unwrap().len().to_string());
        let seal = self.file(&format!(".recording.{}", self.order.id));
        let seal: Value = serde_json::from_slice(&fs::read(seal).unwrap()).unwrap();
        assert_eq!(seal["id"], self.order.id);
        let thumbnail = self.file(&format!("{}.jpg", self.order.id));
        let bytes = fs::read(&thumbnail).unwrap();
        assert!(
            bytes.starts_with(&[0xff, 0xd8]) && bytes.len() <= 20_000,
            "{}",
            bytes.len()
        );
        let width = frames::probe(&thumbnail, "stream=width");
        assert!(width.contains("480"), "{width}");
    }

    /// The frame rate is constant, over gaps too, and neither track starts late.
    fn is_even_and_starts_at_zero(&self) {
        let numbers = |entries: &str| -> Vec<f64> {
            let said = frames::probe(&self.video(), entries);
            let words = said.split([',', '\n']).map(str::trim);
            words.filter_map(|word| word.parse().ok()).collect()
        };
        let starts = numbers("stream=start_time");
        assert_eq!(starts.len(), 2);
        assert!(starts.iter().all(|start| start.abs() < 0.001), "{starts:?}");
        let lasts = numbers("packet=duration_time:stream=");
        let frame = 1.0 / f64::from(self.order.frame_rate);
        let packet = 1024.0 / 48_000.0;
        let odd: Vec<&f64> = lasts
            .iter()
            .filter(|last| (**last - frame).abs() > 1e-4 && (**last - packet).abs() > 1e-4)
            .collect();
        assert!(lasts.len() > 50 && odd.is_empty(), "{odd:?}");
    }

    /// Every chunk is a video of its own, and all but the last are as long as was ordered.
    fn has_chunks_that_play_alone(&self) {
        let files = fs::read_dir(self.run_folder(1)).unwrap().flatten();
        let mut chunks: Vec<PathBuf> = files.map(|file| file.path()).collect();
        chunks.retain(|path| path.extension().is_some_and(|kind| kind == "mp4"));
        chunks.sort();
        assert!(chunks.len() >= 2, "{chunks:?}");
        let frames = chunks.iter().map(|chunk| {
            let footage = Footage::read(chunk);
            assert_eq!(footage.decode_errors, Vec::<String>::new(), "{chunk:?}");
            footage.frames.len() as u32
        });
        let frames: Vec<u32> = frames.collect();
        let (_, but_last) = frames.split_last().unwrap();
        let whole = 4 * self.order.frame_rate;
        assert!(but_last.iter().all(|count| *count == whole), "{frames:?}");
    }

    /// The address's secret is in no file and no log.
    pub fn keeps_the_secret(&self) {
        let found = Command::new("grep")
            .args(["-rl", SECRET])
            .arg(self.folder.path())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    }
}

/// A recorder that runs; ended by force when dropped.
pub struct Recorder {
    pub process: Child,
    video: PathBuf,
    log: PathBuf,
    stop_file: PathBuf,
}

impl Recorder {
    /// Waits until `more` seconds of wall clock have been recorded.
    pub async fn grows_for(&mut self, more: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < more {
            let before = fs::metadata(&self.video).map_or(0, |data| data.len());
            wait::until_true("the video's growth", Duration::from_secs(15), || {
                fs::metadata(&self.video).is_ok_and(|data| data.len() > before)
            })
            .await;
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("the recorder ended: {status}");
            }
        }
    }

    pub async fn stop(&mut self) -> (ExitStatus, Duration) {
        let begin = Instant::now();
        fs::write(&self.stop_file, "q\n").unwrap();
        let status = tokio::task::block_in_place(|| self.process.wait()).unwrap();
        assert_eq!(status.signal(), None);
        (status, begin.elapsed())
    }

    /// Kills the one child of ours that is called `name` and has `mark` among its arguments.
    fn kill_child(&self, name: &str, mark: &str) {
        assert!(self.kill_any(name, mark), "there is no {name}");
    }

    /// Kills such a child if it is there.
    fn kill_any(&self, name: &str, mark: &str) -> bool {
        let parent = format!("PPid:\t{}\n", self.process.id());
        let found: Vec<String> = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|pid| {
                let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                let status = String::from_utf8_lossy(&read("status")).into_owned();
                let arguments = String::from_utf8_lossy(&read("cmdline")).into_owned();
                status.contains(&parent)
                    && status.starts_with(&format!("Name:\t{name}\n"))
                    && arguments.contains(mark)
            })
            .collect();
        assert!(found.len() < 2, "{name}: {found:?}");
        found.first().is_some_and(|pid| {
            let mut kill = Command::new("kill");
            kill.args(["-KILL", pid]).status().unwrap().success()
        })
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            let pid = self.process.id().to_string();
            let _ = Command::new("kill").args(["-TERM", &pid]).status();
            let _ = self.process.wait();
        }
        let log = fs::read_to_string(&self.log);
        secrets::heard("the recorder", &log.unwrap_or_default());
    }
}
