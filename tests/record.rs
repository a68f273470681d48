//! The recorder as a plain process: what a page shows is recorded to the frame, and each of its children may be killed.
//! Judged by the frames of the video, which say at which moment of the wall clock they were shown.

use crate::support::controller::{self, Controller, USER};
use crate::support::docker::recording_image;
use crate::support::frames::{self, Footage};
use crate::support::hours::Chunk;
use crate::support::openvidu::{Order, environment};
use crate::support::page::{Page, SECRET};
use crate::support::secrets;
use crate::support::stage::{leave_out, seconds_now};
use crate::support::wait;
use ov2_ha_recorder::join::{GrowingFile, Options};
use ov2_ha_recorder::model::ids::{RecordingId, TakeId};
use ov2_ha_recorder::model::timeline::GapMode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// They judge frames and seconds: one at a time, where `OV2_ABREAST` does not let more.
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
    let abreast = std::env::var("OV2_ABREAST").map_or(1, |it| it.parse().unwrap());
    Semaphore::new(abreast)
});

/// Slack for machines that are busy with other things.
pub const SLACK: f64 = 1.0;

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
    // A page that draws by itself is shown up to three of the display's intervals later, as it falls out at its start.
    assert!(
        (-0.12..0.1).contains(&footage.sound_offset()),
        "{:?}",
        footage.sound_offsets()
    );
    stage.is_what_openvidu_expects();
    stage.keeps_the_secret();
    stage.has_chunks_that_play_alone();
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_killed_loses_less_than_a_second() {
    let (_, stage) = FFMPEG.costs_no_more().await;
    assert_eq!(stage.timeline()["gaps"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn chrome_killed_is_back_within_seconds_and_the_video_shows_it() {
    CHROME.costs_no_more().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_put_back_is_no_footage() {
    let mut stage = Stage::set("ses_put_back").await.with_media(1000);
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(6)).await;
    recorder.kill_child(CHROME.name, CHROME.mark);
    let is_counted = |report: &Value| report["restarts"]["browser"] == 1;
    watch.sees("the replaced browser", is_counted).await;
    recorder.grows_for(Duration::from_secs(5)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());

    let footage = stage.footage();
    let holes = frames::describe(&footage.holes());
    println!("{} frames are blank; missing: {holes}", footage.blank());
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert_eq!(footage.blank(), 0, "{holes}");
    // A second of it is the page's own way to its media.
    assert!(footage.missing() < 2.8 + SLACK, "{holes}");
    let gaps = stage.timeline()["gaps"].clone();
    assert_eq!(gaps.as_array().unwrap().len(), 1, "{gaps}");
    let cause = gaps[0]["cause"].as_str().unwrap();
    assert!(cause.contains("the page went away"), "{gaps}");
    assert_eq!(watch.report().await["restarts"]["capture"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_forward_costs_a_second_and_is_named() {
    let stage = clock_set("ses_forward", "+3600").await;
    let gaps = stage.timeline()["gaps"].clone();
    let cause = gaps[0]["cause"].as_str().unwrap();
    assert!(cause.contains("set forward by 3600"), "{gaps}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_costs_a_second() {
    clock_set("ses_back", "-3600").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_years_off_and_put_right_costs_a_second() {
    let mut stage = Stage::set("ses_years").await;
    let clock = FakeClock::of(&mut stage, "-315576000");
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(4)).await;
    clock.is("+0");
    recorder.grows_for(Duration::from_secs(4)).await;
    clock.is("+315576000");
    recorder.grows_for(Duration::from_secs(4)).await;
    // At the very stop.
    clock.is("-3600");
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    costs_seconds(&stage, 2.0);
    assert!(stage.timeline()["gaps"].as_array().unwrap().len() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_before_the_first_frame_costs_nothing() {
    for (id, by) in [
        ("ses_early_ahead", "+315576000"),
        ("ses_early_back", "-315576000"),
    ] {
        let mut stage = Stage::set(id).await;
        let clock = FakeClock::of(&mut stage, "+0");
        let mut recorder = stage.spawn();
        wait::until_true("its log", Duration::from_secs(10), || {
            !stage.log().is_empty()
        })
        .await;
        clock.is(by);
        recorder.grows_for(Duration::from_secs(5)).await;
        let (status, _) = recorder.stop().await;
        assert!(status.success(), "{}", stage.log());
        costs_seconds(&stage, 1.0);
    }
}

/// A recording in the middle of which the recorder's clock is set.
async fn clock_set(id: &str, by: &str) -> Stage {
    let mut stage = Stage::set(id).await;
    let clock = FakeClock::of(&mut stage, "+0");
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(5)).await;
    clock.is(by);
    recorder.grows_for(Duration::from_secs(5)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    costs_seconds(&stage, 1.0);
    stage
}

/// What a clock that was set may cost: no frozen frames, and at most so many seconds.
fn costs_seconds(stage: &Stage, most: f64) {
    let footage = stage.footage();
    let holes = frames::describe(&footage.holes());
    println!("the clock was set: {:.2} s missing", footage.missing());
    assert!(footage.missing() < most + SLACK, "{holes}");
    assert!(footage.longest_stall() < 0.5, "frames stand still");
    assert_eq!(footage.decode_errors, Vec::<String>::new());
}

/// The clock of a stage's recorders, but not of their browsers.
struct FakeClock {
    file: PathBuf,
}

impl FakeClock {
    /// One that is wrong by so many seconds.
    fn of(stage: &mut Stage, by: &str) -> Self {
        let (file, library) = (stage.folder.path().join("clock"), faketime());
        assert!(Path::new(&library).exists(), "libfaketime is missing");
        fs::write(&file, by).unwrap();
        stage.settings.extend([
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("PATH", browser_of_true_time(stage.folder.path())),
        ]);
        Self { file }
    }

    /// Sets it.
    fn is(&self, by: &str) {
        let ahead = self.file.with_extension("ahead");
        fs::write(&ahead, by).unwrap();
        fs::rename(ahead, &self.file).unwrap();
    }
}

/// The library that gives a process another clock.
fn faketime() -> String {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    format!("/usr/lib/{triple}/faketime/libfaketime.so.1")
}

/// A `PATH` whose browser keeps the machine's own clock, so that the page shows what really passes.
fn browser_of_true_time(folder: &Path) -> String {
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    let script = bin.join("google-chrome-stable");
    let text = "#!/bin/sh\nunset LD_PRELOAD\nexec chromium \"$@\"\n";
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn xvfb_killed_takes_the_rest_along_and_all_are_back() {
    XVFB.costs_no_more().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pulseaudio_killed_costs_seconds_and_sound_is_back() {
    let (footage, _) = PULSEAUDIO.costs_no_more().await;
    let silent = footage.silent_seconds();
    assert!(silent.is_empty(), "no beep at {silent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_killed_by_force_goes_on_in_a_new_run() {
    let (footage, before, stage) = killed_by_force("ses_runs").await;
    let missing = footage.missing();
    println!("recorder killed: {missing:.2} s missing, {before:.2} s of them before the kill");
    let holes = frames::describe(&footage.holes());
    assert!(missing < 4.0 + SLACK, "{holes}");
    assert!(before < 1.0 + SLACK, "{before} s before the kill; {holes}");
    let timeline = stage.timeline();
    assert_eq!(timeline["runs"].as_array().unwrap().len(), 2);
    let lost = timeline["runs"][0]["chunks"].as_array().unwrap().len();
    assert!(lost > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_and_picture_stay_together_over_ten_lost_recorders() {
    let stage = Stage::set("ses_ten").await.with_media(0);
    stage.loses_ten(Duration::from_secs(5)).await;
    let footage = stage.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert_eq!(stage.timeline()["runs"].as_array().unwrap().len(), 11);
    let stretches = footage.sound_offsets_by_stretch();
    println!("sound comes later than the picture by {stretches:.3?} s");
    assert_eq!(stretches.len(), 11, "{stretches:?}");
    // A page lays its first beeps by readings of a new audio clock, some of which are wrong, and corrects the later ones; where
    // the machine starves it for seconds, the sound of one capture may be late by what its sound server had to leave out.
    let medians = stretches.iter().map(|offsets| frames::median(offsets));
    let medians: Vec<f64> = medians.map(Option::unwrap).collect();
    let within = |bound: f64| medians.iter().filter(|it| it.abs() <= bound).count();
    assert!(within(0.040) >= 10 && within(0.100) == 11, "{medians:?}");
    let mut all = stretches.iter().flatten();
    assert!(all.all(|offset| offset.abs() < 0.3), "{stretches:?}");
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
async fn a_later_run_ends_an_earlier_one_only_with_the_controllers_word_for_it() {
    let mut stage = Stage::set("ses_fence").await;
    let mut first = stage.start().await;
    first.grows_for(Duration::from_secs(3)).await;
    let mut uncalled = stage.spawn();
    let status = tokio::task::block_in_place(|| uncalled.process.wait()).unwrap();
    assert_eq!(status.code(), Some(3), "{}", stage.log());
    assert!(!stage.log().contains("is started again"), "{}", stage.log());
    first.grows_for(Duration::from_secs(3)).await;

    let _watch = stage.watched().await;
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
    // An unoptimized build that holds a million samples. The allocator gives back what was needed to take them up when the
    // recorder allocates next.
    let pid = recorder.process.id();
    let given_back = wait::until_true("60 MiB or less", Duration::from_secs(20), || {
        resident_kilobytes(pid) < 60 << 10
    });
    println!("60 MiB or less were resident after {:?}", given_back.await);
    let (status, took) = recorder.stop().await;
    println!("stop after four hours took {took:?}");
    assert!(status.success(), "{}", stage.log());
    assert!(took.as_secs_f64() < 1.0 + SLACK, "stop took {took:?}");
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
    stage.has_a_fresh_preview();
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
    let mut stage = Stage::set("ses_full").await;
    let disk = match Disk::in_memory(&stage, "size=40m") {
        Ok(disk) => disk,
        Err(why) => return leave_out("a_full_disk", &why),
    };
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    let filler = stage.file("filler");
    // it ends for want of space
    let _ = fs::write(&filler, vec![1; 40 << 20]);
    let is_told = |report: &Value| has_trouble(report, "disk", "No space left on device");
    let took = watch.sees("the full disk", is_told).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let so_far = stage.footage();
    assert_eq!(so_far.decode_errors, Vec::<String>::new());
    assert!(so_far.duration > 2.0, "{} s", so_far.duration);
    fs::remove_file(&filler).unwrap();
    recorder.grows_for(Duration::from_secs(5)).await;
    let is_well = |report: &Value| report["troubles"] == json!([]);
    watch.sees("the room", is_well).await;
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
    let disk = match Disk::in_memory(&stage, "ro") {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_turns_read_only_is_told_and_recording_goes_on_when_it_is_back() {
    let mut stage = Stage::set("ses_broken").await;
    let mut disk = match Disk::that_can_break(&stage) {
        Ok(disk) => disk,
        Err(why) => return leave_out("a_disk_that_turns_read_only", &why),
    };
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(6)).await;
    if let Err(why) = disk.break_down() {
        return leave_out("a_disk_that_turns_read_only", &why);
    }
    let is_told = |report: &Value| has_trouble(report, "disk", "Read-only file system");
    let took = watch.sees("the broken disk", is_told).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let so_far = stage.footage();
    assert_eq!(so_far.decode_errors, Vec::<String>::new());
    assert!(so_far.duration > 4.0, "{} s", so_far.duration);
    disk.repair().unwrap();
    recorder.grows_for(Duration::from_secs(6)).await;
    let is_well = |report: &Value| report["troubles"] == json!([]);
    watch.sees("the repaired disk", is_well).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    let footage = stage.footage();
    println!("disk broken: {:.2} s missing", footage.missing());
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert!(
        footage.missing() < 6.0 + SLACK,
        "{}",
        frames::describe(&footage.holes())
    );
    let gaps = stage.timeline()["gaps"].clone();
    assert_eq!(gaps[0]["cause"], "the disk took nothing", "{gaps}");
    stage.is_what_openvidu_expects();
}

/// A file system of its own in the recording's folder; gone when dropped.
pub struct Disk {
    at: PathBuf,
    image: PathBuf,
    /// The devices that the image was mounted from, the last one now.
    devices: Vec<String>,
}

impl Disk {
    fn at(stage: &Stage, at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        Self {
            at,
            image: stage.folder.path().join("disk"),
            devices: Vec::new(),
        }
    }

    pub fn in_memory(stage: &Stage, options: &str) -> Result<Self, String> {
        Self::in_memory_at(stage, stage.file(""), options)
    }

    /// At another place than the recording's.
    pub fn in_memory_at(stage: &Stage, at: PathBuf, options: &str) -> Result<Self, String> {
        let disk = Self::at(stage, at);
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]);
        said(mount.arg(&disk.at)).map(|_| disk)
    }

    /// An ext4, which turns read-only by itself when it meets an error.
    pub fn that_can_break(stage: &Stage) -> Result<Self, String> {
        Self::ext4(stage, stage.file(""), 256 << 20, &[])
    }

    /// An ext4 of so many bytes, made with these `options`.
    pub fn ext4(stage: &Stage, at: PathBuf, bytes: u64, options: &[&str]) -> Result<Self, String> {
        let mut disk = Self::at(stage, at);
        let image = fs::File::create(&disk.image).map_err(|cause| cause.to_string())?;
        image.set_len(bytes).map_err(|cause| cause.to_string())?;
        let mut mkfs = Command::new("mkfs.ext4");
        said(mkfs.arg("-q").args(options).arg(&disk.image))?;
        disk.attach()?;
        Ok(disk)
    }

    fn attach(&mut self) -> Result<(), String> {
        let mut losetup = Command::new("losetup");
        let device = said(losetup.args(["--find", "--show"]).arg(&self.image))?;
        self.devices.push(device.clone());
        let mut mount = Command::new("mount");
        mount
            .args(["-o", "errors=remount-ro", &device])
            .arg(&self.at);
        said(&mut mount).map(drop)
    }

    /// Has its driver meet an error, once everything written is on the image.
    fn break_down(&self) -> Result<(), String> {
        said(Command::new("sync").arg("--file-system").arg(&self.at))?;
        let device = self.devices.last().and_then(|path| path.rsplit('/').next());
        let trigger = format!(
            "/sys/fs/ext4/{}/trigger_fs_error",
            device.unwrap_or_default()
        );
        fs::write(&trigger, "1").map_err(|cause| format!("{trigger}: {cause}"))
    }

    /// What an operator does: the broken one goes away, the repaired one is mounted in its place.
    fn repair(&mut self) -> Result<(), String> {
        said(Command::new("umount").arg("--lazy").arg(&self.at))?;
        self.attach()
    }
}

/// What a command prints, or what it complained of.
fn said(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|cause| format!("{command:?}: {cause}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
        for device in &self.devices {
            let _ = Command::new("losetup").args(["--detach", device]).status();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_crashes_or_hangs_is_shown_again_and_counted() {
    let mut stage = Stage::set("ses_page").await;
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(4)).await;
    recorder.signal_renderers("KILL");
    let is_loaded_again = |report: &Value| report["restarts"]["page"] == 1;
    watch.sees("the crashed page", is_loaded_again).await;
    recorder.grows_for(Duration::from_secs(4)).await;
    recorder.signal_renderers("STOP");
    let is_replaced = |report: &Value| report["restarts"]["browser"] == 1;
    watch.sees("the hanging page", is_replaced).await;
    recorder.grows_for(Duration::from_secs(6)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    let footage = stage.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert!(
        seconds_now() - footage.last_clock() < 5.0,
        "the page was not shown again"
    );
    // what is not answered for 12 s, and twice a few seconds until the page is there again
    let missing = footage.missing() + footage.longest_stall();
    assert!(
        missing < 12.0 + 6.0 + SLACK,
        "{}",
        frames::describe(&footage.holes())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_cannot_be_had_is_tried_until_it_can() {
    let mut stage = Stage::set("ses_away").await;
    let watch = stage.watched().await;
    stage.page.go_away();
    let mut recorder = stage.start().await;
    let is_told = |report: &Value| {
        has_trouble(report, "page", "the page cannot be loaded") && report["restarts"]["page"] != 0
    };
    watch.sees("the missing page", is_told).await;
    stage.page.come_back();
    let is_well = |report: &Value| report["troubles"] == json!([]);
    watch.sees("the page", is_well).await;
    recorder.grows_for(Duration::from_secs(4)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    let footage = stage.footage();
    assert!(
        seconds_now() - footage.last_clock() < 4.0,
        "the page is not shown"
    );
    stage.keeps_the_secret();
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_come_late_are_counted_and_ffmpeg_that_hangs_is_replaced() {
    let mut stage = Stage::set("ses_slow").await;
    stage.settings.push(("HEARTBEAT_INTERVAL", "1".into()));
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    recorder.signal_child("ffmpeg", "libx264", "STOP");
    tokio::time::sleep(Duration::from_secs(2)).await;
    recorder.signal_child("ffmpeg", "libx264", "CONT");
    let are_late = |report: &Value| report["lateFrames"].as_u64().is_some_and(|late| late > 0);
    watch.sees("late frames", are_late).await;
    recorder.grows_for(Duration::from_secs(3)).await;
    recorder.signal_child("ffmpeg", "libx264", "STOP");
    let is_replaced = |report: &Value| report["restarts"]["capture"] == 1;
    let took = watch.sees("the hanging ffmpeg", is_replaced).await;
    assert!(took.as_secs_f64() < 3.0 + 1.0 + SLACK, "{took:?}");
    recorder.grows_for(Duration::from_secs(3)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    let footage = stage.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert!(
        footage.missing() < 4.5 + SLACK,
        "{}",
        frames::describe(&footage.holes())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_says_what_it_does_and_one_that_hangs_says_nothing() {
    let stage = Stage::set("ses_asked").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    assert_eq!(
        stage.asks(),
        (Some(0), json!({"state": "fine", "recording": "ses_asked"}))
    );
    let mode = fs::metadata(stage.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // It mends itself, and says so while it does.
    recorder.signal_child("ffmpeg", "libx264", "STOP");
    wait::until_true("that it mends", Duration::from_secs(6), || {
        let (code, said) = stage.asks();
        assert_eq!(code, Some(0));
        said["state"] == "mending" && said["part"] == "the capture"
    })
    .await;
    recorder.grows_for(Duration::from_secs(2)).await;
    assert_eq!(
        stage.asks(),
        (Some(0), json!({"state": "fine", "recording": "ses_asked"}))
    );
    let pid = recorder.process.id().to_string();
    assert!(signal(&pid, "STOP"));
    let begin = Instant::now();
    assert_eq!(stage.asks(), (Some(75), Value::Null));
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
    assert!(signal(&pid, "CONT"));
    recorder.grows_for(Duration::from_secs(2)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    assert_eq!(stage.asks(), (Some(69), Value::Null));
    assert!(!stage.socket().exists());
}

#[test]
fn other_modes_without_the_base_images_entry_point_say_what_is_missing() {
    if std::path::Path::new("/entrypoint.sh").exists() {
        return;
    }
    let said = Command::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"))
        .arg("record")
        .env("CONTAINER_WORKING_MODE", "BROADCAST")
        .output()
        .unwrap();
    let text = secrets::said(&said);
    assert_eq!(said.status.code(), Some(69), "{text}");
    assert!(
        text.contains("BROADCAST") && text.contains("/entrypoint.sh"),
        "{text}"
    );
}

#[test]
fn other_modes_are_handed_to_the_base_images_entry_point_as_they_came() {
    let image = match recording_image() {
        Ok(image) => image,
        Err(why) => return leave_out("other_modes_are_handed_to_the_base_image", &why),
    };
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("entrypoint.sh");
    fs::write(&script, "#!/bin/bash\nenv; echo \"$# arguments\"; exit 7\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let bind = |from: &std::path::Path, to: &str| format!("{}:{to}:ro", from.display());
    for mode in [
        "CONTAINER_WORKING_MODE=BROADCAST",
        "HEADLESS_CHROME_ONLY=true",
    ] {
        let url = format!("URL=https://page/?secret={SECRET}");
        let said = Command::new("docker")
            .args(["run", "--rm", "--network", "none", "-e", mode, "-e", &url])
            .args(["-v", &bind(&script, "/entrypoint.sh")])
            .args(["-v", &bind(&program(), "/usr/local/bin/ov2-ha-recorder")])
            .arg(&image)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&said.stdout);
        assert_eq!(said.status.code(), Some(7), "{text}");
        for expected in [mode, url.as_str(), "0 arguments"] {
            assert!(
                text.lines().any(|line| line == expected),
                "{expected}: {text}"
            );
        }
    }
}

/// A process that a recorder starts, and what its death may cost.
pub struct Victim {
    /// What the recorder counts its restarts as.
    pub part: &'static str,
    pub name: &'static str,
    /// What its arguments hold.
    pub mark: &'static str,
    /// Seconds that may be missing.
    pub most: f64,
}

pub const FFMPEG: Victim = Victim {
    part: "capture",
    name: "ffmpeg",
    mark: "libx264",
    most: 0.7,
};
pub const CHROME: Victim = Victim {
    part: "browser",
    name: "chromium",
    mark: "remote-debugging-pipe",
    most: 3.0,
};
pub const XVFB: Victim = Victim {
    part: "display",
    name: "Xvfb",
    mark: "",
    most: 4.0,
};
pub const PULSEAUDIO: Victim = Victim {
    part: "audio",
    name: "pulseaudio",
    mark: "",
    most: 4.0,
};

impl Victim {
    /// Records for a while, kills it, sees that counted, goes on for a while, stops.
    pub async fn killed(&self) -> (Footage, Stage) {
        let mut stage = Stage::set(&format!("ses_{}", self.part)).await;
        let watch = stage.watched().await;
        let mut recorder = stage.start().await;
        recorder.grows_for(Duration::from_secs(5)).await;
        recorder.kill_child(self.name, self.mark);
        let is_counted = |report: &Value| report["restarts"][self.part] == 1;
        watch.sees("the restart", is_counted).await;
        recorder.grows_for(Duration::from_secs(6)).await;
        let (status, _) = recorder.stop().await;
        assert!(status.success(), "{}", stage.log());
        let footage = stage.footage();
        assert_eq!(footage.decode_errors, Vec::<String>::new());
        stage.is_what_openvidu_expects();
        (footage, stage)
    }

    async fn costs_no_more(&self) -> (Footage, Stage) {
        let (footage, stage) = self.killed().await;
        println!("{} killed: {:.2} s missing", self.part, footage.missing());
        let holes = frames::describe(&footage.holes());
        assert!(footage.missing() < self.most + SLACK, "{holes}");
        (footage, stage)
    }
}

/// Records for a while, kills the recorder itself, starts another, stops. The seconds are those missing from before the
/// kill.
pub async fn killed_by_force(id: &str) -> (Footage, f64, Stage) {
    let stage = Stage::set(id).await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(5)).await;
    recorder.process.kill().unwrap();
    let killed_at = seconds_now();
    recorder.process.wait().unwrap();
    let mut second = stage.start().await;
    second.grows_for(Duration::from_secs(5)).await;
    let (status, _) = second.stop().await;
    assert!(status.success(), "{}", stage.log());
    let footage = stage.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    let hole = footage.holes().first().map_or(killed_at, |hole| hole.from);
    (footage, killed_at - hole, stage)
}

/// A controller that the recorders of one stage report to.
pub struct Watch {
    pub controller: Controller,
    _folder: tempfile::TempDir,
    session: String,
}

impl Watch {
    /// Waits until the last report that the controller has is as `seen` wants it; how long that took.
    pub async fn sees(&self, what: &str, seen: impl Fn(&Value) -> bool) -> Duration {
        let path = format!("/api/sessions/{}", self.session);
        let (took, ()) = wait::until(what, Duration::from_secs(30), || async {
            let session = self.controller.get(&path).await;
            seen(&session["report"]).then_some(())
        })
        .await;
        println!("the controller knows of {what} after {took:?}");
        took
    }

    /// The last report.
    pub async fn report(&self) -> Value {
        let path = format!("/api/sessions/{}", self.session);
        self.controller.get(&path).await["report"].clone()
    }
}

/// Whether a report names a trouble of this kind, in these words.
pub fn has_trouble(report: &Value, kind: &str, words: &str) -> bool {
    let troubles = report["troubles"].as_array();
    troubles.into_iter().flatten().any(|trouble| {
        trouble["kind"] == kind && trouble["message"].as_str().unwrap().contains(words)
    })
}

/// What records here.
pub fn program() -> PathBuf {
    controller::program(env!("CARGO_BIN_EXE_ov2-ha-recorder"))
}

/// Finishes what lies in the recordings folder `folder` without a recorder.
pub fn recover_in(folder: &Path) {
    let done = Command::new(program())
        .args(["recover", "-o"])
        .arg(folder)
        .env("OPENVIDU_RECORDING_PATH", folder)
        .env("HA_RECORDING_STORAGE", "local")
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", secrets::said(&done));
}

/// A place to record, and what is ordered there.
pub struct Stage {
    /// Settings beside the usual ones.
    pub settings: Vec<(&'static str, String)>,
    _turn: Option<SemaphorePermit<'static>>,
    page: std::sync::Arc<Page>,
    pub folder: std::sync::Arc<tempfile::TempDir>,
    pub order: Order,
    pub created_at: u64,
}

impl Stage {
    pub async fn set(id: &str) -> Self {
        let turn = TURNS.acquire().await.unwrap();
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

    /// Ten recorders are killed, each after `life`; the eleventh ends well.
    pub async fn loses_ten(&self, life: Duration) {
        for _ in 0..10 {
            let mut recorder = self.start().await;
            recorder.grows_for(life).await;
            recorder.process.kill().unwrap();
            recorder.process.wait().unwrap();
        }
        let mut last = self.start().await;
        last.grows_for(Duration::from_secs(5)).await;
        let (status, _) = last.stop().await;
        assert!(status.success(), "{}", self.log());
    }

    /// The same with the clock shown through a `<video>`, so many milliseconds after the page is there.
    pub fn with_media(self, after: u32) -> Self {
        let order = Order::of(&self.order.id, &self.page.media_url(after));
        Self { order, ..self }
    }

    /// Starts a controller for the recorders of this stage.
    pub async fn watched(&mut self) -> Watch {
        let folder = tempfile::tempdir().unwrap();
        let recordings = folder.path().join("recordings");
        let settings = [("HA_RUNTIME", "process")];
        let controller = Controller::start(&program(), folder.path(), &recordings, &settings).await;
        self.settings.extend([
            ("HA_CONTROLLER_PORT", controller.port.to_string()),
            ("HA_CONTROLLER_USERNAME", USER.to_owned()),
            ("HA_CONTROLLER_PASSWORD", controller.password.clone()),
        ]);
        Watch {
            controller,
            _folder: folder,
            session: self.order.id.clone(),
        }
    }

    /// Another recording beside it.
    pub fn beside(&self, id: &str) -> Self {
        Self {
            settings: self.settings.clone(),
            _turn: None,
            page: self.page.clone(),
            folder: self.folder.clone(),
            order: Order::of(id, &self.page.url()),
            created_at: self.created_at,
        }
    }

    /// The same recording on another machine, with a disk of its own.
    pub fn elsewhere(&self) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap().into(),
            ..self.beside(&self.order.id)
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
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

    pub fn stop_file(&self) -> PathBuf {
        self.folder.path().join(format!("{}.stop", self.order.id))
    }

    /// Where the recorder is asked whether it is alive.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("ask.sock")
    }

    /// Where it keeps the order that it carries out in quick-start mode.
    pub fn kept_order(&self) -> PathBuf {
        self.folder.path().join("kept/order.json")
    }

    /// Asks it; the exit code, and what it answered.
    pub fn asks(&self) -> (Option<i32>, Value) {
        let asked = Command::new(program())
            .args(["ask", "--json", "--socket"])
            .arg(self.socket())
            .output()
            .unwrap();
        let said = serde_json::from_slice(&asked.stdout).unwrap_or_default();
        (asked.status.code(), said)
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join(format!("{}.log", self.order.id))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Starts a recorder.
    pub fn spawn(&self) -> Recorder {
        self.spawn_with(environment(&self.order, self.created_at))
    }

    /// The same with what OpenVidu puts into another container's environment.
    pub fn spawn_with(&self, environment: Vec<(&'static str, String)>) -> Recorder {
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
            .arg("--socket")
            .arg(self.socket())
            .arg("--kept-order")
            .arg(self.kept_order())
            .envs(environment)
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

    pub fn timeline(&self) -> Value {
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

    /// What the page looked like a moment ago.
    fn has_a_fresh_preview(&self) {
        let preview = self.file(&format!("{}.preview.jpg", self.order.id));
        let data = fs::metadata(&preview).unwrap();
        let age = data.modified().unwrap().elapsed().unwrap_or_default();
        assert!(age.as_secs_f64() < 5.0 + SLACK, "{age:?}");
        assert!(data.len() <= 20_000, "{} bytes", data.len());
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
    /// What it makes grow.
    pub video: PathBuf,
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
    pub fn kill_child(&self, name: &str, mark: &str) {
        assert!(self.kill_any(name, mark), "there is no {name}");
    }

    /// Kills such a child if it is there.
    pub fn kill_any(&self, name: &str, mark: &str) -> bool {
        let found = self.children(name, mark);
        assert!(found.len() < 2, "{name}: {found:?}");
        found.iter().all(|pid| signal(pid, "KILL")) && !found.is_empty()
    }

    pub fn children(&self, name: &str, mark: &str) -> Vec<String> {
        let ours = self.process.id().to_string();
        self.below(|it| it.parent == ours && it.name == name && it.says(mark))
    }

    /// Signals the one such child.
    fn signal_child(&self, name: &str, mark: &str, with: &str) {
        let found = self.children(name, mark);
        assert_eq!(found.len(), 1, "{name}");
        assert!(signal(&found[0], with));
    }

    /// Signals the processes in which pages live.
    pub fn signal_renderers(&self, with: &str) {
        let found = self.below(|it| it.says("--type=renderer"));
        assert!(!found.is_empty(), "no page is shown");
        // one that nobody needed may end by itself meanwhile
        assert!(found.iter().filter(|pid| signal(pid, with)).count() > 0);
    }

    /// The processes below the recorder that `wanted` picks, by their numbers.
    pub fn below(&self, wanted: impl Fn(&Below) -> bool) -> Vec<String> {
        let all: BTreeMap<String, Below> = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter_map(|pid| Below::read(&pid).map(|it| (pid, it)))
            .collect();
        let ours = self.process.id().to_string();
        let is_ours = |it: &Below| {
            let up = std::iter::successors(Some(it), |it| all.get(&it.parent));
            up.take(20).any(|it| it.parent == ours)
        };
        let picked = all.iter().filter(|(_, it)| is_ours(it) && wanted(it));
        picked.map(|(pid, _)| pid.clone()).collect()
    }
}

/// A process.
pub struct Below {
    name: String,
    parent: String,
    arguments: String,
}

impl Below {
    fn read(pid: &str) -> Option<Self> {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).ok();
        let status = String::from_utf8_lossy(&read("status")?).into_owned();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        Some(Self {
            name: field("Name:")?,
            parent: field("PPid:")?,
            arguments: String::from_utf8_lossy(&read("cmdline")?).into_owned(),
        })
    }

    fn says(&self, mark: &str) -> bool {
        self.arguments.contains(mark)
    }
}

fn signal(pid: &str, with: &str) -> bool {
    let mut kill = Command::new("kill");
    kill.args([&format!("-{with}"), pid])
        .status()
        .unwrap()
        .success()
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
