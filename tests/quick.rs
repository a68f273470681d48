//! Quick start: the page is open before its recordings are ordered, one after the other, by OpenVidu's lines.

use super::record::{
    CHROME, Disk, FFMPEG, Recorder, SLACK, Stage, Victim, XVFB, processor_seconds, program,
};
use super::support::hours::Chunk;
use super::support::openvidu::{quick_environment, quick_order};
use super::support::stage::{leave_out, seconds_now};
use super::support::{frames, secrets, wait};
use ov2_ha_recorder::join::GrowingFile;
use serde_json::json;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// A session's page that is open.
struct Open {
    session: Stage,
    recorder: Recorder,
}

/// What came of an order.
struct Answer {
    code: Option<i32>,
    said: String,
    took: Duration,
}

impl Open {
    async fn page(id: &str) -> Self {
        Self::page_of(Stage::set(id).await, &[]).await
    }

    async fn page_of(session: Stage, settings: &[(&'static str, &str)]) -> Self {
        let mut environment = quick_environment(&session.order);
        environment.extend(
            settings
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        let recorder = session.spawn_with(environment);
        let open = Self { session, recorder };
        open.is_waiting().await;
        open
    }

    /// Waits until the page is there, and nothing is recorded.
    async fn is_waiting(&self) {
        wait::until_true("the open page", Duration::from_secs(20), || {
            self.session.asks() == (Some(0), json!({"state": "waiting"}))
        })
        .await;
        self.shows_the_page().await;
    }

    async fn shows_the_page(&self) {
        let shown = || self.session.log().matches("the page is shown").count();
        let started = self.session.log().matches("Chrome answers").count().max(1);
        wait::until_true("the page", Duration::from_secs(20), || shown() >= started).await;
    }

    /// Orders the recording of `stage`, as OpenVidu's line does.
    fn start(&mut self, stage: &Stage) -> Answer {
        self.recorder.video = stage.video();
        self.order("start", &quick_order(&stage.order, stage.created_at))
    }

    fn stop(&self) -> Answer {
        self.order("stop", &[])
    }

    fn order(&self, what: &str, exported: &[(&'static str, String)]) -> Answer {
        let begin = Instant::now();
        let mut ask = Command::new(program());
        ask.args(["ask", what, "--socket"])
            .arg(self.session.socket())
            .envs(exported.iter().cloned());
        let said = tokio::task::block_in_place(|| ask.output()).unwrap();
        Answer {
            code: said.status.code(),
            said: secrets::said(&said),
            took: begin.elapsed(),
        }
    }

    /// The share of a processor that ffmpeg takes, over so long.
    async fn ffmpegs_share(&self, over: Duration) -> f64 {
        let ffmpeg = self.recorder.children(FFMPEG.name, FFMPEG.mark)[0]
            .parse()
            .unwrap();
        let (before, begin) = (processor_seconds(ffmpeg), Instant::now());
        tokio::time::sleep(over).await;
        (processor_seconds(ffmpeg) - before) / begin.elapsed().as_secs_f64()
    }

    /// The process is killed by force, and started again as Docker starts a container again.
    fn killed(&mut self) {
        self.recorder.process.kill().unwrap();
        self.recorder.process.wait().unwrap();
        let environment = quick_environment(&self.session.order);
        self.recorder = self.session.spawn_with(environment);
    }
}

impl Answer {
    fn succeeds(self, log: &str) -> Self {
        assert_eq!(self.code, Some(0), "{}: {log}", self.said);
        self
    }

    fn is_refused(&self, why: &str) {
        assert_eq!(self.code, Some(1), "{}", self.said);
        assert!(self.said.contains(why), "{}", self.said);
        assert!(self.took < Duration::from_secs(2), "{:?}", self.took);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recordings_of_an_open_page_follow_each_other() {
    let mut open = Open::page("ses_quick").await;
    let first = open.session.beside("ses_quick");
    let share = open.ffmpegs_share(Duration::from_secs(1)).await;
    assert!(share < 0.05, "{share} of a core while nothing is recorded");
    assert_eq!(
        open.stop().succeeds("").said.trim(),
        "nothing is being recorded"
    );
    let ordered = seconds_now();
    let started = open.start(&first).succeeds(&open.session.log());
    let at = seconds_now();
    open.recorder.grows_for(Duration::from_secs(4)).await;

    let mut second = open.session.beside("ses_quick~1");
    second.created_at += 60_000;
    open.start(&second)
        .is_refused("ses_quick is being recorded");
    open.start(&first).is_refused("ses_quick is being recorded");
    open.order("start", &[]).is_refused("being recorded");
    open.recorder.video = first.video();
    open.recorder.grows_for(Duration::from_secs(1)).await;
    let stopped = open.stop().succeeds(&open.session.log());
    println!(
        "started after {:?}, stopped after {:?}",
        started.took, stopped.took
    );
    first.is_what_openvidu_expects();
    open.stop().succeeds("");
    let footage = first.footage();
    assert!(
        footage.missing() < 0.3,
        "{}",
        frames::describe(&footage.holes())
    );
    assert!(
        footage.first_clock() < at,
        "{} s late",
        footage.first_clock() - at
    );
    // The frame that is taken first may have been drawn some time before.
    let early = ordered - footage.first_clock();
    assert!(early < 0.2, "captured {early} s before the order");
    assert_eq!(footage.blank(), 0);
    assert!(
        started.took.as_secs_f64() < 0.6 + SLACK,
        "{:?}",
        started.took
    );
    assert!(
        stopped.took.as_secs_f64() < 1.0 + SLACK,
        "{:?}",
        stopped.took
    );

    open.order("start", &[]).is_refused("VIDEO_ID");
    // What it is to be like is known with the order only.
    second.order.resolution = "640x360".into();
    second.order.frame_rate = 10;
    open.start(&second).succeeds(&open.session.log());
    open.recorder.grows_for(Duration::from_secs(4)).await;
    open.stop().succeeds(&open.session.log());
    second.is_what_openvidu_expects();
    assert!(frames::probe(&second.video(), "stream=width,height").contains("640,360"));
    let later = second.footage().first_clock() - first.footage().last_clock();
    assert!(later > 0.0, "{later}");
    assert_eq!(second.timeline()["runs"].as_array().unwrap().len(), 1);
    assert_eq!(second.timeline()["gaps"], json!([]));
    open.session.keeps_the_secret();
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_of_video_are_finished_within_two_seconds_of_the_stop() {
    let mut open = Open::page("ses_hours").await;
    let stage = open.session.beside("ses_hours");
    fs::create_dir_all(stage.run_folder(10)).unwrap();
    let chunk = Chunk::encode(stage.folder.path(), "64x36", 200_000);
    let mut before = GrowingFile::open(stage.video(), stage.options()).unwrap();
    chunk.grow(&mut before, stage.folder.path(), 720, 72);
    drop(before);
    open.start(&stage).succeeds(&open.session.log());
    open.recorder.grows_for(Duration::from_secs(3)).await;
    let stopped = open.stop().succeeds(&open.session.log());
    println!("stop after four hours took {:?}", stopped.took);
    assert!(
        stopped.took.as_secs_f64() < 2.0 + SLACK,
        "{:?}",
        stopped.took
    );
    assert_eq!(stage.timeline()["gaps"].as_array().unwrap().len(), 10);
    stage.is_what_openvidu_expects();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_beneath_an_open_page_is_back_and_costs_what_it_costs_elsewhere() {
    let mut open = Open::page("ses_parts").await;
    for victim in [&FFMPEG, &XVFB, &CHROME] {
        let children = |of: &Victim| open.recorder.children(of.name, of.mark);
        wait::until_true("all that waits", Duration::from_secs(10), || {
            [&FFMPEG, &XVFB, &CHROME]
                .iter()
                .all(|it| children(it).len() == 1)
        })
        .await;
        let before = children(victim);
        open.recorder.kill_child(victim.name, victim.mark);
        wait::until_true(victim.name, Duration::from_secs(10), || {
            let now = children(victim);
            !now.is_empty() && now != before
        })
        .await;
    }
    open.shows_the_page().await;
    let victims: [(&str, &Victim); 3] = [
        ("ses_parts", &FFMPEG),
        ("ses_parts~1", &CHROME),
        ("ses_parts~2", &XVFB),
    ];
    for (id, victim) in victims {
        let stage = open.session.beside(id);
        open.start(&stage).succeeds(&open.session.log());
        open.recorder.grows_for(Duration::from_secs(4)).await;
        open.recorder.kill_child(victim.name, victim.mark);
        open.recorder.grows_for(Duration::from_secs(6)).await;
        open.stop().succeeds(&open.session.log());
        let footage = stage.footage();
        println!("{} killed: {:.2} s missing", victim.part, footage.missing());
        assert_eq!(footage.decode_errors, Vec::<String>::new());
        let holes = frames::describe(&footage.holes());
        assert!(footage.missing() < victim.most + SLACK, "{holes}");
        assert_eq!(stage.timeline()["gaps"].as_array().unwrap().len(), 1);
        stage.is_what_openvidu_expects();
        if id == "ses_parts" {
            // What waited for the page has long gone.
            let flags = frames::probe(&stage.video(), "packet=codec_type,flags");
            assert!(flags.matches("video,K").count() < 30, "{flags}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_goes_on_with_its_recording_and_with_that_only() {
    let mut open = Open::page("ses_again").await;
    open.killed();
    open.is_waiting().await;
    let stage = open.session.beside("ses_again");
    open.start(&stage).succeeds(&open.session.log());
    open.recorder.grows_for(Duration::from_secs(4)).await;
    assert!(open.session.kept_order().exists());
    open.killed();
    open.recorder.video = stage.video();
    open.recorder.grows_for(Duration::from_secs(5)).await;
    assert_eq!(
        open.session.asks(),
        (Some(0), json!({"state": "fine", "recording": "ses_again"}))
    );
    open.stop().succeeds(&open.session.log());
    let footage = stage.footage();
    println!("the recorder killed: {:.2} s missing", footage.missing());
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert!(
        footage.missing() < 4.0 + SLACK,
        "{}",
        frames::describe(&footage.holes())
    );
    assert_eq!(stage.timeline()["runs"].as_array().unwrap().len(), 2);
    stage.is_what_openvidu_expects();
    assert!(!open.session.kept_order().exists());
    open.killed();
    open.is_waiting().await;

    // OpenVidu's file alone ends one, too; the order that comes a moment later finds it ended.
    let next = open.session.beside("ses_again~1");
    open.start(&next).succeeds(&open.session.log());
    open.recorder.grows_for(Duration::from_secs(3)).await;
    let path = next.file(".recording.ses_again~1");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["status"] = "stopped".into();
    fs::write(&path, json.to_string()).unwrap();
    open.is_waiting().await;
    open.stop().succeeds("");
    next.is_what_openvidu_expects();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_recordings_with_a_kill_in_every_second_leave_ten_videos_and_no_memory_behind() {
    let mut open = Open::page("ses_ten_in_one").await;
    let resident = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<f64>()
            .unwrap()
            / 1024.0
    };
    let mut sizes = Vec::new();
    let mut last = 0.0;
    for number in 0..10 {
        let mut stage = open.session.beside(&format!("ses_ten_in_one~{number}"));
        stage.created_at += 60_000 * number;
        open.start(&stage).succeeds(&open.session.log());
        open.recorder.grows_for(Duration::from_secs(2)).await;
        if number % 2 == 1 {
            open.recorder.kill_child(FFMPEG.name, FFMPEG.mark);
            open.recorder.grows_for(Duration::from_secs(2)).await;
        }
        open.stop().succeeds(&open.session.log());
        let footage = stage.footage();
        assert_eq!(footage.decode_errors, Vec::<String>::new());
        assert!(
            footage.missing() < FFMPEG.most + SLACK,
            "{}",
            frames::describe(&footage.holes())
        );
        assert!(
            footage.first_clock() > last,
            "it shows what was before its order"
        );
        last = footage.last_clock();
        stage.is_what_openvidu_expects();
        sizes.push(resident(open.recorder.process.id()));
    }
    println!("resident after each: {sizes:.1?} MiB");
    assert!(sizes[9] < sizes[2] + 4.0, "{sizes:.1?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_pre_roll_a_recording_begins_when_it_was_ordered() {
    let session = Stage::set("ses_before").await;
    let mut open = Open::page_of(session, &[("HA_QUICK_PREROLL_SECONDS", "3")]).await;
    let waited = Duration::from_secs(4);
    let share = open.ffmpegs_share(waited).await;
    println!(
        "ffmpeg takes {:.1} % of a core while nothing is recorded",
        share * 100.0
    );
    for id in ["ses_before", "ses_before~1"] {
        let mut stage = open.session.beside(id);
        let ordered = seconds_now();
        stage.created_at = (ordered * 1000.0) as u64;
        let started = open.start(&stage).succeeds(&open.session.log());
        open.recorder.grows_for(Duration::from_secs(4)).await;
        open.stop().succeeds(&open.session.log());
        stage.is_what_openvidu_expects();
        let footage = stage.footage();
        assert_eq!(footage.holes(), []);
        let early = ordered - footage.first_clock();
        println!(
            "started after {:?}; the first frame is {early:.2} s before the order",
            started.took
        );
        assert!((-0.1..2.3).contains(&early), "{early}");
        assert!(
            started.took.as_secs_f64() < 0.3 + SLACK,
            "{:?}",
            started.took
        );
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    // Another format is captured from the order on.
    let mut other = open.session.beside("ses_before~2");
    other.order.resolution = "640x360".into();
    open.start(&other).succeeds(&open.session.log());
    open.recorder.grows_for(Duration::from_secs(3)).await;
    assert_eq!(open.recorder.children(FFMPEG.name, FFMPEG.mark).len(), 1);
    open.stop().succeeds(&open.session.log());
    other.is_what_openvidu_expects();
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_at_the_wrong_moment_are_carried_out_or_refused_and_lose_nothing() {
    let mut open = Open::page("ses_wrong").await;
    // While the page is being put back.
    open.recorder.kill_child(CHROME.name, CHROME.mark);
    let stage = open.session.beside("ses_wrong");
    open.start(&stage).succeeds(&open.session.log());
    open.recorder.grows_for(Duration::from_secs(3)).await;
    open.stop().succeeds(&open.session.log());
    stage.is_what_openvidu_expects();
    // Stopped before its first frame; two at once; none at all.
    let next = open.session.beside("ses_wrong~1");
    let exported = quick_order(&next.order, next.created_at);
    let both = std::thread::scope(|scope| {
        let order = || open.order("start", &exported);
        let (one, other) = (scope.spawn(order), scope.spawn(order));
        [one.join().unwrap().code, other.join().unwrap().code]
    });
    assert!(
        both.contains(&Some(0)) && both.contains(&Some(1)),
        "{both:?}"
    );
    open.recorder.video = next.video();
    open.recorder.grows_for(Duration::from_secs(3)).await;
    open.stop().succeeds(&open.session.log());
    next.is_what_openvidu_expects();
    let third = open.session.beside("ses_wrong~2");
    let exported = quick_order(&third.order, third.created_at);
    let (_, stopped) = std::thread::scope(|scope| {
        let started = scope.spawn(|| open.order("start", &exported));
        std::thread::sleep(Duration::from_millis(60));
        (started.join(), open.stop())
    });
    assert!(stopped.took < Duration::from_secs(10), "{:?}", stopped.took);
    open.is_waiting().await;
    // The recordings' folder takes nothing: told, and the next one is made.
    let fourth = open.session.beside("ses_wrong~3");
    fs::write(open.session.folder.path().join("ses_wrong~3"), "in the way").unwrap();
    open.start(&fourth).is_refused("ses_wrong~3");
    let last = open.session.beside("ses_wrong~4");
    open.start(&last).succeeds(&open.session.log());
    open.recorder.grows_for(Duration::from_secs(2)).await;
    open.stop().succeeds(&open.session.log());
    last.is_what_openvidu_expects();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_between_two_recordings_refuses_the_second_with_the_reason_until_there_is_room()
 {
    let mut open = Open::page("ses_room").await;
    let first = open.session.beside("ses_room");
    open.start(&first).succeeds(&open.session.log());
    open.recorder.grows_for(Duration::from_secs(2)).await;
    open.stop().succeeds(&open.session.log());
    let second = open.session.beside("ses_room~1");
    let disk = match Disk::in_memory(&second, "size=40m") {
        Ok(disk) => disk,
        Err(why) => return leave_out("a_disk_that_is_full_between_two_recordings", &why),
    };
    let filler = second.file("filler");
    // It ends for want of space.
    let _ = fs::write(&filler, vec![1; 40 << 20]);
    open.start(&second).is_refused("No space left on device");
    open.is_waiting().await;
    fs::remove_file(&filler).unwrap();
    open.start(&second).succeeds(&open.session.log());
    open.recorder.grows_for(Duration::from_secs(2)).await;
    // Full at its end, too: what it holds is finished in the room that is held for that.
    let _ = fs::write(&filler, vec![1; 40 << 20]);
    open.stop().succeeds(&open.session.log());
    let video = second.footage();
    assert_eq!(video.decode_errors, Vec::<String>::new());
    assert!(video.duration > 1.5, "{} s", video.duration);
    first.is_what_openvidu_expects();
    drop(disk);
}
