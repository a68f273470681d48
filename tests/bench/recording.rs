//! What the recorder and the join must reach, side by side in one run: `cargo bench --bench recording`. One line a figure;
//! exit code 1 when one is missed. `OV2_PROGRAM` names another program to measure, as the one that ships.
//! Needs ffmpeg; recording needs Xvfb, PulseAudio and Chromium too.
//!
//! OpenVidu's own image cannot be had on every machine. Where the start is measured against it, `support/stock.rs` stands in.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[path = "../record.rs"]
#[allow(dead_code, unused_imports, reason = "the bench sets its stage")]
mod record;
#[path = "../support/mod.rs"]
mod support;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use ov2_ha_recorder::join::{ChunkSource, GrowingFile, Options};
use ov2_ha_recorder::model::ids::{RecordingId, TakeId};
use ov2_ha_recorder::model::timeline::GapMode;
use record::{CHROME, FFMPEG, PULSEAUDIO, Stage, XVFB, killed_by_force};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::hours::{Chunk, LENGTH};
use support::sheet::Sheet;
use support::stock::Plays;

/// Four hours of 20 seconds each, 2 GiB in all.
const CHUNKS: u32 = 720;
const BYTES: usize = 2 << 30;
/// How often each way of joining is measured.
const ROUNDS: usize = 3;
/// How often each process is killed.
const KILLS: usize = 3;
/// Chunks of one recorder's life where there are failovers.
const RUN: u32 = 72;

fn main() {
    let mut sheet = Sheet::new();
    let folder = tempfile::tempdir().unwrap();
    let chunk = Chunk::encode(folder.path(), "1280x720", BYTES / CHUNKS as usize);
    if sheet.wants("join") {
        join(folder.path(), &chunk, &mut sheet);
    }
    if sheet.wants("finish") {
        finish(folder.path(), &chunk, &mut sheet);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if sheet.wants("stop") {
        runtime.block_on(stop(&chunk, &mut sheet));
    }
    if sheet.wants("record") {
        runtime.block_on(record_itself(&mut sheet));
    }
    if sheet.wants("sound") {
        runtime.block_on(sound(&mut sheet));
    }
    if sheet.wants("kills") {
        runtime.block_on(kills(&mut sheet));
    }
    if sheet.wants("start") {
        runtime.block_on(start(&mut sheet));
    }
    if sheet.wants("quick") {
        runtime.block_on(quick(&mut sheet));
    }
    if sheet.wants("cost") {
        runtime.block_on(cost(&mut sheet));
    }
    sheet.end();
}

/// The folder of chunks joined by us, copied by `cp`, and joined by ffmpeg, each from a cold cache.
fn join(folder: &Path, chunk: &Chunk, sheet: &mut Sheet) {
    let take = folder.join("ses_A/chunks/1795577569000");
    let sources = chunk.repeat(&take, CHUNKS, CHUNKS);
    let bytes: u64 = sources
        .iter()
        .map(|source| fs::metadata(&source.path).unwrap().len())
        .sum();
    println!(
        "joining {} chunks, {:.2} GiB; caches are made cold by fsync and posix_fadvise(DONTNEED) on every chunk; medians of {ROUNDS} rounds",
        sources.len(),
        bytes as f64 / f64::from(1 << 30)
    );
    let list: String = sources
        .iter()
        .map(|source| format!("file '{}'\n", source.path.display()))
        .collect();
    let (listed, out, copy) = (
        folder.join("list"),
        folder.join("out.mp4"),
        folder.join("copy"),
    );
    fs::write(&listed, list).unwrap();
    let mut times = [const { Vec::new() }; 4];
    let mut memory = Vec::new();
    for _ in 0..ROUNDS {
        let mut cp = Command::new("cp");
        times[0].push(cold(&sources, cp.arg("-r").arg(&take).arg(&copy)).0);
        fs::remove_dir_all(&copy).unwrap();

        let script = format!(
            "cp -r '{}' '{}' && sync '{}'/r1/*",
            take.display(),
            copy.display(),
            copy.display()
        );
        times[1].push(cold(&sources, Command::new("sh").args(["-c", &script])).0);
        fs::remove_dir_all(&copy).unwrap();

        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg
            .args("-v error -nostdin -y -f concat -safe 0 -i".split(' '))
            .arg(&listed)
            .args(["-c", "copy"])
            .arg(&out);
        times[2].push(cold(&sources, &mut ffmpeg).0);
        fs::remove_file(&out).unwrap();

        let mut ours = Command::new(record::program());
        ours.arg("join")
            .arg(&take)
            .arg("--output")
            .arg(&out)
            .arg("--json");
        let (took, kilobytes) = cold(&sources, &mut ours);
        times[3].push(took);
        memory.push(kilobytes as f64 / 1024.0);
        let check = Command::new(record::program())
            .args(["join", "--check", "--output"])
            .arg(&out)
            .arg(&take)
            .output();
        assert!(check.unwrap().status.success());
        if times[3].len() < ROUNDS {
            fs::remove_file(&out).unwrap();
        }
    }
    let [cp, synced, ffmpeg, ours] = times.map(median);
    let rate = |seconds: f64| format!("{seconds:.2} s ({:.0} MB/s)", bytes as f64 / 1e6 / seconds);
    println!(
        "  cp {}, cp and sync of the copies {}, ffmpeg {}, join (synced to the disk) {}",
        rate(cp),
        rate(synced),
        rate(ffmpeg),
        rate(ours)
    );
    sheet.at_least("join against cp", cp / ours, 0.6, "times its speed");
    sheet.at_least(
        "join against ffmpeg -f concat -c copy",
        ffmpeg / ours,
        3.0,
        "times its speed",
    );
    let tables = tables(&out);
    println!(
        "  the sample tables are the boxes of the moov at the end of the video: {tables:.2} MiB"
    );
    sheet.at_most(
        "join's memory (VmHWM) beyond the sample tables",
        median(memory) - tables,
        30.0,
        "MiB",
    );
    fs::remove_file(&out).unwrap();
    fs::remove_dir_all(folder.join("ses_A")).unwrap();
}

/// Runs a command when none of the chunks is in memory: seconds, and the most kilobytes it had in memory.
fn cold(sources: &[ChunkSource], command: &mut Command) -> (f64, u64) {
    assert!(Command::new("sync").status().unwrap().success());
    for source in sources {
        let file = File::open(&source.path).unwrap();
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    }
    let begin = Instant::now();
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut most = 0;
    loop {
        most = most.max(most_kilobytes(child.id()));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{command:?}");
            return (begin.elapsed().as_secs_f64(), most);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The most that a process has had in memory; 0 when it has ended.
fn most_kilobytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.map_or(0, |number| number.parse().unwrap())
}

/// The size of the moov of a finished video, in MiB.
fn tables(video: &Path) -> f64 {
    let bytes = fs::metadata(video).unwrap().len();
    let mut head = [0; 64];
    std::os::unix::fs::FileExt::read_exact_at(&File::open(video).unwrap(), &mut head, 0).unwrap();
    let ftyp = u64::from(u32::from_be_bytes(head[..4].try_into().unwrap()));
    let at = ftyp as usize + 8;
    let media = u64::from_be_bytes(head[at..at + 8].try_into().unwrap());
    (bytes - ftyp - media) as f64 / f64::from(1 << 20)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// The growing file alone: what stop waits for, whatever was recorded.
fn finish(folder: &Path, chunk: &Chunk, sheet: &mut Sheet) {
    println!(
        "finishing the growing file; all but its last chunk is on the disk by then, as the system sees to it while recording"
    );
    let cases = [
        ("of 41 s", 2, 2),
        ("of 41 s with a failover", 2, 1),
        ("of 4 h", CHUNKS, CHUNKS),
        ("of 4 h with nine failovers", CHUNKS, RUN),
    ];
    for (what, count, run) in cases {
        let video = folder.join("video.mp4");
        let mut file = GrowingFile::open(&video, options("ses_A", "1")).unwrap();
        chunk.grow(&mut file, folder, count, run);
        let begin = Instant::now();
        let finished = file.finish().unwrap();
        let took = begin.elapsed().as_secs_f64();
        assert_eq!(finished.timeline.gaps.len() as u32, (count - 1) / run);
        sheet.at_most(&format!("finishing a video {what}"), took, 1.0, "s");
        fs::remove_file(&video).unwrap();
    }
}

fn options(recording: &str, take: &str) -> Options {
    Options {
        recording: RecordingId::parse(recording).unwrap(),
        take: TakeId::parse(take).unwrap(),
        gap_mode: GapMode::Cut,
    }
}

/// The process from `q` in its stop file to its end.
async fn stop(chunk: &Chunk, sheet: &mut Sheet) {
    println!("stopping `record`, from the q in its stop file to the end of its process");
    let cases = [
        ("of 30 s", 0, 1),
        ("of 4 h, after a failover", CHUNKS, CHUNKS),
        ("of 4 h, after ten failovers", CHUNKS, RUN),
    ];
    for (what, count, run) in cases {
        let stage = Stage::set("ses_stop").await;
        if count > 0 {
            let before = stage.options();
            let runs = count.div_ceil(run);
            fs::create_dir_all(stage.run_folder(runs)).unwrap();
            fs::create_dir_all(stage.video().parent().unwrap()).unwrap();
            let mut file = GrowingFile::open(stage.video(), before).unwrap();
            chunk.grow(&mut file, stage.folder.path(), count, run);
        }
        let mut recorder = stage.start().await;
        recorder
            .grows_for(Duration::from_secs(if count > 0 { 8 } else { 30 }))
            .await;
        let resident = record::resident_kilobytes(recorder.process.id()) as f64 / 1024.0;
        let (ended, took) = recorder.stop().await;
        assert!(ended.success(), "{}", stage.log());
        let length = support::frames::probe(&stage.video(), "format=duration");
        let length: f64 = length.trim().parse().unwrap();
        assert!(length >= f64::from(count) * LENGTH, "{length} s");
        sheet.at_most(
            &format!("stop of a video {what}"),
            took.as_secs_f64(),
            1.0,
            "s",
        );
        sheet.at_most("`record` before that stop, resident", resident, 25.0, "MiB");
    }
}

/// What the program itself needs while its children record.
async fn record_itself(sheet: &mut Sheet) {
    let stage = Stage::set("ses_cost").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(5)).await;
    let pid = recorder.process.id();
    let before = record::processor_seconds(pid);
    let begin = Instant::now();
    recorder.grows_for(Duration::from_secs(20)).await;
    let share = (record::processor_seconds(pid) - before) / begin.elapsed().as_secs_f64();
    let resident = record::resident_kilobytes(pid) as f64 / 1024.0;
    let (ended, _) = recorder.stop().await;
    assert!(ended.success(), "{}", stage.log());
    sheet.at_most(
        "`record` without its children, of a core",
        share * 100.0,
        2.0,
        "%",
    );
    sheet.at_most(
        "`record` without its children, resident",
        resident,
        25.0,
        "MiB",
    );
}

/// How far sound and picture are apart after ten lost recorders.
async fn sound(sheet: &mut Sheet) {
    println!("ten recorders killed, each after some seconds; every beep of the page is looked at");
    let stage = Stage::set("ses_sound").await.with_media(0);
    stage.loses_ten(Duration::from_secs(5)).await;
    let stretches = stage.footage().sound_offsets_by_stretch();
    println!(
        "  by how many seconds beeps come after the picture, recorder by recorder: {stretches:.3?}"
    );
    assert_eq!(stretches.len(), 11);
    let medians = stretches
        .iter()
        .filter_map(|offsets| support::frames::median(offsets));
    let worst = medians.map(f64::abs).fold(0.0, f64::max);
    sheet.at_most(
        "sound against picture, the worst of eleven captures",
        worst * 1000.0,
        25.0,
        "ms",
    );
}

/// What is missing in the video after each kind of process was killed.
async fn kills(sheet: &mut Sheet) {
    println!("each killed {KILLS} times: seconds that no frame of the video shows, medians");
    for victim in [FFMPEG, CHROME, XVFB, PULSEAUDIO] {
        let mut missing = Vec::new();
        for _ in 0..KILLS {
            missing.push(victim.killed().await.0.missing());
        }
        println!("  {}: {missing:.2?}", victim.part);
        let name = format!("{} killed", victim.part);
        sheet.at_most(&name, median(missing), victim.most, "s");
    }
    let (mut missing, mut before) = (Vec::new(), Vec::new());
    for _ in 0..KILLS {
        let (footage, lost, _) = killed_by_force("ses_force").await;
        missing.push(footage.missing());
        before.push(lost);
    }
    println!("  recorder: {missing:.2?}, of them before the kill {before:.2?}");
    sheet.at_most("the recorder itself killed", median(missing), 1.0, "s");
    let worst = before.into_iter().fold(0.0, f64::max);
    sheet.at_most("lost from before its kill, the worst", worst, 0.25, "s");
}

/// What a viewer and OpenVidu see of a start, in seconds from the container's start.
struct Begun {
    /// OpenVidu finds bytes at the video's path and tells its client that recording goes on.
    is_there: f64,
    /// The first frame that shows the page was taken.
    shows_page: f64,
}

/// The first seconds of a container, ours and the stand-in for OpenVidu's, by turns.
async fn start(sheet: &mut Sheet) {
    let image = match support::docker::recording_image() {
        Ok(image) => image,
        Err(why) => return println!("start: left out: {why}"),
    };
    println!(
        "starts of our recorder and of the stand-in for OpenVidu's script, in the same image with the same page, by turns; medians"
    );
    let program = record::program();
    let (mut ours, mut stock) = (Vec::new(), Vec::new());
    for round in 0..STARTS {
        stock.push(begin(&image, &format!("stock{round}"), Plays::Stock).await);
        ours.push(begin(&image, &format!("ours{round}"), Plays::Ours(&program)).await);
    }
    let of = |all: &[Begun], what: fn(&Begun) -> f64| median(all.iter().map(what).collect());
    let there = (of(&ours, |it| it.is_there), of(&stock, |it| it.is_there));
    let shows = (
        of(&ours, |it| it.shows_page),
        of(&stock, |it| it.shows_page),
    );
    println!(
        "  the file has bytes: ours {:.2} s, stock {:.2} s",
        there.0, there.1
    );
    println!(
        "  its first frame of the page was taken: ours {:.2} s, stock {:.2} s",
        shows.0, shows.1
    );
    sheet.at_most(
        "start: the file is there",
        there.0 / there.1,
        1.2,
        "times the stand-in's time",
    );
    sheet.at_most(
        "start: the page is recorded",
        shows.0 / shows.1,
        1.2,
        "times the stand-in's time",
    );
}

/// Quick start: an order and a stop in a container whose page is open.
struct Quick {
    /// Of a core, by all of the container while nothing is recorded.
    waits: f64,
    /// OpenVidu finds bytes at the video's path.
    started: f64,
    /// The command that stops it has returned.
    stopped: f64,
    /// The first frame of the video was taken so long after the order.
    first: f64,
}

/// Quick start: ours, ours with pre-roll and the stand-in's, by turns.
async fn quick(sheet: &mut Sheet) {
    let image = match support::docker::recording_image() {
        Ok(image) => image,
        Err(why) => return println!("quick: left out: {why}"),
    };
    println!(
        "quick start: an order in a container whose page is open, 30 s of video and its stop, in the same image, by turns; medians"
    );
    let program = record::program();
    let preroll = ("HA_QUICK_PREROLL_SECONDS", "2".to_owned());
    let mut all = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        all[0].push(order(&image, &[], Plays::Stock).await);
        all[1].push(order(&image, &[], Plays::Ours(&program)).await);
        all[2].push(
            order(
                &image,
                std::slice::from_ref(&preroll),
                Plays::Ours(&program),
            )
            .await,
        );
    }
    let of = |all: &[Quick], what: fn(&Quick) -> f64| median(all.iter().map(what).collect());
    let mut waits = [0.0; 3];
    for (number, who) in ["stock", "ours", "ours with pre-roll"].iter().enumerate() {
        let all = &all[number];
        waits[number] = of(all, |it| it.waits);
        println!(
            "  {who}: waiting {:.3} of a core; started after {:.2} s, stopped after {:.2} s; first frame {:.2} s after the order",
            waits[number],
            of(all, |it| it.started),
            of(all, |it| it.stopped),
            of(all, |it| it.first)
        );
    }
    let [_, ours, early] = &all;
    sheet.at_most("quick start", of(ours, |it| it.started), 0.38, "s");
    sheet.at_most("with pre-roll", of(early, |it| it.started), 0.2, "s");
    let late = of(early, |it| it.first);
    sheet.at_most(
        "with pre-roll, the first frame after the order",
        late,
        0.1,
        "s",
    );
    sheet.at_most("quick stop", of(ours, |it| it.stopped), 0.5, "s");
    let more = (waits[1] - waits[0]) * 100.0;
    sheet.at_most("waiting, more than the open page", more, 5.0, "% of a core");
}

/// Opens a page, waits a while, and has 30 seconds recorded.
async fn order(image: &str, more: &[(&'static str, String)], who: Plays<'_>) -> Quick {
    use support::openvidu::{QUICK_STOP, quick_start};
    use support::stage::seconds_now;
    let (folder, page) = (
        tempfile::tempdir().unwrap(),
        support::page::Page::serve().await,
    );
    let order = support::openvidu::Order::of("quick", &page.url());
    let container = support::stock::create_open(image, &order, more, folder.path(), who);
    support::docker::docker(&["start", &container.0]).unwrap();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let (before, begin) = (container_seconds(&container.0), Instant::now());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let waits = (container_seconds(&container.0) - before) / begin.elapsed().as_secs_f64();
    let video = folder.path().join("quick/quick.mp4");
    let (ordered, begin) = (seconds_now(), Instant::now());
    let line = quick_start(&order, support::stock::CREATED_AT);
    container.shell("-d", &line).unwrap();
    let started = bytes_after(begin, &video, &container);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let begin = Instant::now();
    container.shell("-i", QUICK_STOP).unwrap();
    let stopped = begin.elapsed().as_secs_f64();
    container.remove();
    Quick {
        waits,
        started,
        stopped,
        first: support::frames::Footage::read(&video).first_clock() - ordered,
    }
}

/// What a minute of recording costs and gives.
struct Minute {
    /// Of a core, by all of the container.
    share: f64,
    /// Thousand bits a second of the video.
    rate: f64,
    /// The share of the steps between two frames that are one frame long, give or take 10 ms.
    even: f64,
}

/// The processor time of a whole container, ours and the stand-in's, by turns; and what a still picture takes.
async fn cost(sheet: &mut Sheet) {
    let image = match support::docker::recording_image() {
        Ok(image) => image,
        Err(why) => return println!("cost: left out: {why}"),
    };
    println!("a minute of a page with motion and sound, in the same image, by turns; medians");
    let program = record::program();
    let moving = support::page::Page::serve().await;
    let (mut ours, mut stock) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let stand_in = format!("stock{round}");
        stock.push(minute(&image, &stand_in, &moving.url(), Plays::Stock).await);
        let who = Plays::Ours(&program);
        ours.push(minute(&image, &format!("ours{round}"), &moving.url(), who).await);
    }
    let of = |all: &[Minute], what: fn(&Minute) -> f64| median(all.iter().map(what).collect());
    for (who, all) in [("ours", &ours), ("stock", &stock)] {
        let shares: Vec<_> = all.iter().map(|it| it.share).collect();
        println!(
            "  {who}: of a core {shares:.2?}; {:.0} kbit/s; {:.1} % of the steps are even",
            of(all, |it| it.rate),
            of(all, |it| it.even) * 100.0
        );
    }
    let share = of(&ours, |it| it.share) / of(&stock, |it| it.share);
    sheet.at_most("processor time, moving page", share, 0.72, "times stock's");
    let rate = of(&ours, |it| it.rate) / of(&stock, |it| it.rate);
    println!("  bytes: {rate:.2} times the stand-in's");
    let even = of(&ours, |it| it.even) * 100.0;
    sheet.at_least("steps of one frame, within 10 ms", even, 98.0, "%");
    let slide = support::page::OddPage::serve(support::page::Answer {
        body: slide(),
        ..Default::default()
    });
    let slide = slide.await;
    let stock = minute(&image, "stockstill", &slide.url(), Plays::Stock).await;
    let still = minute(&image, "still", &slide.url(), Plays::Ours(&program)).await;
    println!(
        "  a still slide full of text: ours {:.2} of a core, stock {:.2} and {:.0} kbit/s",
        still.share, stock.share, stock.rate
    );
    sheet.at_most("a still slide full of text", still.rate, 300.0, "kbit/s");
}

/// A slide full of small text.
fn slide() -> String {
    let words = "the quick brown fox jumps over the lazy dog 0123456789 ".repeat(80);
    format!(
        "<!doctype html><body style='font:18px/1.3 serif;margin:1em;background:#fff'><h1>One slide</h1><p>{words}</p>"
    )
}

/// Records a minute of `page`, after the first seconds.
async fn minute(image: &str, id: &str, page: &str, who: Plays<'_>) -> Minute {
    use support::docker::docker;
    let folder = tempfile::tempdir().unwrap();
    let order = support::openvidu::Order::of(id, page);
    let container = support::stock::create(image, &order, folder.path(), who);
    docker(&["start", &container.0]).unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (before, begin) = (container_seconds(&container.0), Instant::now());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let share = (container_seconds(&container.0) - before) / begin.elapsed().as_secs_f64();
    docker(&["exec", &container.0, "bash", "-c", "echo 'q' > stop"]).unwrap();
    docker(&["wait", &container.0]).unwrap();
    container.remove();
    let video = folder.path().join(id).join(format!("{id}.mp4"));
    let footage = support::frames::Footage::read(&video);
    let bits = fs::metadata(&video).unwrap().len() as f64 * 8.0;
    Minute {
        share,
        rate: bits / footage.duration / 1e3,
        even: even_steps(&footage, 1.0 / f64::from(order.frame_rate)),
    }
}

/// The share of frames whose clock is `frame` later than the one before, within 10 ms, after the first seconds.
fn even_steps(footage: &support::frames::Footage, frame: f64) -> f64 {
    let shown = footage.frames.iter().filter(|it| it.at > 5.0);
    let clocks: Vec<f64> = shown.filter_map(|it| it.clock).collect();
    let steps: Vec<f64> = clocks.windows(2).map(|it| it[1] - it[0]).collect();
    let even = steps.iter().filter(|step| (**step - frame).abs() <= 0.010);
    even.count() as f64 / steps.len().max(1) as f64
}

/// The processor time that all processes of a container have had, also of those that have ended.
fn container_seconds(id: &str) -> f64 {
    let look = "cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>/dev/null || sed -n 's/usage_usec //p' /sys/fs/cgroup/cpu.stat | sed s/$/000/";
    let nanoseconds = support::docker::docker(&["exec", id, "sh", "-c", look]).unwrap();
    nanoseconds.trim().parse::<f64>().unwrap() / 1e9
}

/// Waits until OpenVidu finds bytes at the video's path; so many seconds after `begin`.
fn bytes_after(begin: Instant, video: &Path, container: &support::docker::Container) -> f64 {
    while !fs::metadata(video).is_ok_and(|file| file.len() > 0) {
        let waited = begin.elapsed();
        assert!(waited < support::openvidu::PATIENCE, "{}", container.logs());
        std::thread::sleep(Duration::from_millis(5));
    }
    begin.elapsed().as_secs_f64()
}

/// How often each is started.
const STARTS: usize = 5;

/// Starts a container as OpenVidu does; stops it after some seconds.
async fn begin(image: &str, id: &str, who: Plays<'_>) -> Begun {
    use support::docker::docker;
    let (folder, page) = (
        tempfile::tempdir().unwrap(),
        support::page::Page::serve().await,
    );
    let order = support::openvidu::Order::of(id, &page.url());
    let container = support::stock::create(image, &order, folder.path(), who);
    let video = folder.path().join(id).join(format!("{id}.mp4"));
    let started = support::stage::seconds_now();
    let begin = Instant::now();
    docker(&["start", &container.0]).unwrap();
    let is_there = bytes_after(begin, &video, &container);
    tokio::time::sleep(Duration::from_secs(4)).await;
    docker(&["exec", &container.0, "bash", "-c", "echo 'q' > stop"]).unwrap();
    docker(&["wait", &container.0]).unwrap();
    container.remove();
    let shows_page = support::frames::Footage::read(&video).first_clock() - started;
    Begun {
        is_there,
        shows_page,
    }
}
