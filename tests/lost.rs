//! Recording into a bucket: the disk keeps nothing that is stored, a dead store delays no stop, and a machine that is lost
//! with its disk costs seconds.

use crate::record::Stage;
use crate::support::faults::{Fault, Proxy};
use crate::support::frames::{self, Footage};
use crate::support::secrets::said;
use crate::support::stage::seconds_now;
use crate::support::stores::{BUCKET, KEY, SECRET, Server, client};
use crate::support::wait::until;
use ov2_ha_recorder::store::s3::S3Store;
use ov2_ha_recorder::store::{ChunkStore, Object};
use reqwest::Method;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Slack for machines that are busy with other things.
const SLACK: f64 = 1.0;

#[tokio::test(flavor = "multi_thread")]
async fn stored_chunks_leave_the_disk_and_the_video_is_whole() {
    let bucket = Bucket::set().await;
    let mut stage = bucket.stage("ses_s3").await;
    stage.settings.push(("DEBUG_MODE", "true".into()));
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(11)).await;
    let closed = files(stage.folder.path(), "mp4");
    assert!(
        closed <= 3,
        "video, running chunk and one on its way: {closed}"
    );
    let (status, took) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    assert!(took.as_secs_f64() < 1.5 + SLACK, "stop took {took:?}");
    let footage = stage.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert_eq!(footage.missing(), 0.0);
    stage.is_what_openvidu_expects();
    stage.keeps_the_secret();
    let keys = bucket.keys().await;
    let has = |end: &str| keys.iter().any(|key| key.ends_with(end));
    assert!(
        has("manifest.json") && has("timeline.json") && has("0003.mp4"),
        "{keys:?}"
    );
    let kept = stage.folder.path().join("ses_s3/recorder.log");
    let kept = std::fs::read_to_string(kept).unwrap();
    assert!(kept.contains("the video is finished"), "{kept}");
    let log = keys.iter().find(|key| key.ends_with("r1/recorder.log"));
    let log = bucket.direct.read(log.unwrap()).await.unwrap();
    let log = String::from_utf8(log.to_vec()).unwrap();
    assert!(
        log.contains("recording begins") && kept.contains(&log),
        "{log}"
    );
    assert!(log.contains("the video is finished"), "{log}");
    assert_eq!(
        files(stage.folder.path(), "mp4"),
        1,
        "only the video is left"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_at_the_stop_delays_nothing() {
    let bucket = Bucket::set().await;
    let stage = bucket.stage("ses_away").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(5)).await;
    bucket.proxy.usually(Fault::Away);
    recorder.grows_for(Duration::from_secs(6)).await;
    let (status, took) = recorder.stop().await;
    println!("stop without a store took {took:?}");
    assert!(status.success(), "{}", stage.log());
    assert!(took.as_secs_f64() < 2.5 + SLACK, "stop took {took:?}");
    assert_eq!(stage.footage().missing(), 0.0);
    stage.is_what_openvidu_expects();
    assert!(
        files(stage.folder.path(), "mp4") > 1,
        "what is not stored stays on the disk"
    );
    let log = stage.log();
    let named = log
        .lines()
        .any(|line| line.contains("not stored in time") && line.contains("r1/0002.mp4"));
    assert!(named, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_run_could_store_is_named_at_the_stop_and_stored_when_the_recorder_starts_again() {
    let bucket = Bucket::set().await;
    let stage = bucket.stage("ses_never").await;
    bucket.proxy.usually(Fault::Away);
    let mut first = stage.start().await;
    first.grows_for(Duration::from_secs(6)).await;
    first.process.kill().unwrap();
    first.process.wait().unwrap();
    let mut second = stage.start().await;
    second.grows_for(Duration::from_secs(3)).await;
    let (status, took) = second.stop().await;
    assert!(status.success(), "{}", stage.log());
    assert!(took.as_secs_f64() < 2.5 + SLACK, "stop took {took:?}");
    let log = stage.log();
    let named = log.lines().find(|line| line.contains("not stored in time"));
    let named = named.unwrap_or_else(|| panic!("{log}"));
    for run in [1, 2] {
        for index in all(&stage.run_folder(run)).into_keys() {
            let chunk = format!("r{run}/{index:04}.mp4");
            assert!(named.contains(&chunk), "{chunk} is not named: {named}");
        }
    }

    // `q` is still in its stop file.
    bucket.proxy.usually(Fault::None);
    let mut third = stage.spawn();
    let status = tokio::task::block_in_place(|| third.process.wait()).unwrap();
    assert!(status.success(), "{}", stage.log());
    assert_eq!(
        files(stage.folder.path(), "mp4"),
        1,
        "only the video is left"
    );
    let keys = bucket.keys().await;
    let has = |end: &str| keys.iter().any(|key| key.ends_with(end));
    assert!(has("manifest.json") && has("timeline.json"), "{keys:?}");
    let footage = stage.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    let recovered = bucket.recover(&stage, &["ses_never"]);
    assert_eq!(recovered.frames.len(), footage.frames.len());
}

/// Its absence lasts `OV2_AWAY_SECONDS` (12 unless set).
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_for_a_while_has_everything_soon_after() {
    let away = std::env::var("OV2_AWAY_SECONDS").map_or(12, |text| text.parse().unwrap());
    let bucket = Bucket::set().await;
    let stage = bucket.stage("ses_back").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(5)).await;
    bucket.proxy.usually(Fault::Away);
    recorder.grows_for(Duration::from_secs(away)).await;
    let waiting = closed(&stage.run_folder(1));
    assert!(waiting.len() as u64 >= away / 4 - 1, "{waiting:?}");
    bucket.proxy.usually(Fault::None);
    let (took, last) = until("all that waited", Duration::from_secs(30), || async {
        let stored = bucket.chunks().await;
        let (last, _) = waiting.last_key_value()?;
        let has = |(index, bytes): (&u32, &u64)| stored.get(index) == Some(bytes);
        waiting.iter().all(has).then_some(*last)
    })
    .await;
    let (count, took) = (waiting.len(), took.as_secs_f64());
    println!("away for {away} s: {count} chunks stored {took:.1} s after the store's return");
    assert!(without_gap(&bucket.chunks().await, last));
    recorder.grows_for(Duration::from_secs(4)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());

    let footage = stage.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    let holes = frames::describe(&footage.holes());
    assert_eq!(footage.missing(), 0.0, "{holes}: {}", stage.log());
    assert!(footage.duration > away as f64 + 9.0 - SLACK);
    stage.is_what_openvidu_expects();
    let left = files(stage.folder.path(), "mp4");
    assert_eq!(left, 1, "only the video is left");
    let stored = bucket.chunks().await;
    assert!(without_gap(&stored, stored.len() as u32), "{stored:?}");
    let recovered = bucket.recover(&stage, &["ses_back"]);
    assert_eq!(recovered.decode_errors, Vec::<String>::new());
    assert_eq!(recovered.frames.len(), footage.frames.len());
    assert_eq!(recovered.missing(), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_lost_with_its_disk_costs_seconds() {
    let bucket = Bucket::set().await;
    let stage = bucket.stage("ses_lost").await;
    // What the store has to know of the take, it is told once it is there.
    bucket.proxy.usually(Fault::Away);
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    bucket.proxy.usually(Fault::None);
    recorder.grows_for(Duration::from_secs(13)).await;
    recorder.process.kill().unwrap();
    let lost_at = seconds_now();
    recorder.process.wait().unwrap();
    std::fs::remove_dir_all(stage.folder.path().join("ses_lost")).unwrap();

    let footage = bucket.recover(&stage, &[]);
    let missing = lost_at - footage.last_clock();
    println!("machine lost: {missing:.2} s missing at the end");
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    let holes = frames::describe(&footage.holes());
    assert_eq!(footage.missing(), 0.0, "{holes}: {}", stage.log());
    assert!(missing < 4.0 + SLACK, "{missing:.2} s missing at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_video_is_made_again_of_what_the_store_has() {
    let bucket = Bucket::set().await;
    let stage = bucket.stage("ses_damaged").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(11)).await;
    recorder.process.kill().unwrap();
    recorder.process.wait().unwrap();
    let before = stage.footage();
    let stored = bucket.chunks().await;
    assert!(stored.len() >= 2, "{stored:?}");
    assert!(all(&stage.run_folder(1)).len() < stored.len());
    damage(&stage.video());

    let mut second = stage.spawn();
    second.grows_for(Duration::from_secs(6)).await;
    let (status, _) = second.stop().await;
    assert!(status.success(), "{}", stage.log());
    let footage = stage.footage();
    let holes = frames::describe(&footage.holes());
    assert_eq!(footage.first_clock(), before.first_clock(), "{holes}");
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert!(footage.missing() < 4.0 + SLACK, "{holes}");
    assert_eq!(stage.timeline()["runs"].as_array().unwrap().len(), 2);
}

/// Overwrites the middle of a video, more of it than one fragment has, and what would say how to go on behind it.
fn damage(video: &Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(video).unwrap();
    let bytes = file.metadata().unwrap().len();
    file.write_all_at(&[0xff; 32_768], bytes / 3).unwrap();
    let name = video.file_name().unwrap().to_str().unwrap();
    std::fs::remove_file(video.with_file_name(format!(".{name}.index"))).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_was_replaced_elsewhere_is_told_so_and_leaves_the_rest_to_the_later_run() {
    let bucket = Bucket::set().await;
    let mut stage = bucket.stage("ses_two").await;
    stage.settings.push(("HEARTBEAT_INTERVAL", "1".into()));
    let watch = stage.watched().await;
    let mut first = stage.start().await;
    first.grows_for(Duration::from_secs(4)).await;
    // No folder of a later run on its disk tells it so: only the answer to its next heartbeat does.
    let other = stage.elsewhere();
    let mut second = other.start().await;
    let (_, status) = until("the end of the first", Duration::from_secs(5), || {
        let status = first.process.try_wait().unwrap();
        async move { status }
    })
    .await;
    assert_eq!(status.code(), Some(3), "{}", stage.log());
    assert!(
        stage
            .log()
            .contains("another run of this recording has its place")
    );
    let beat = json!({"lastChunk": "0001.mp4", "take": stage.options().take, "run": 1});
    let path = "/api/sessions/ses_two/heartbeat";
    let (status, said) = watch.controller.ask(Method::PUT, path, Some(&beat)).await;
    assert_eq!(
        (status.as_u16(), &said["code"]),
        (409, &"superseded".into())
    );
    // What it has plays, and it said nothing of an end.
    assert_eq!(stage.footage().decode_errors, Vec::<String>::new());
    assert!(!stage.file("ses_two.info").exists() && !stage.file("ses_two.jpg").exists());

    second.grows_for(Duration::from_secs(5)).await;
    let session = watch.controller.get("/api/sessions/ses_two").await;
    assert_eq!(
        (&session["run"], &session["status"]),
        (&2.into(), &"RECORDING".into())
    );
    let (status, _) = second.stop().await;
    assert!(status.success(), "{}", other.log());
    let footage = other.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert_eq!(footage.missing(), 0.0);
    other.is_what_openvidu_expects();
    let keys = bucket.keys().await;
    let of_run = |run: &str| keys.iter().filter(|key| key.contains(run)).count();
    assert!(of_run("/r1/") >= 1 && of_run("/r2/") >= 2, "{keys:?}");
}

/// A bucket with a proxy before it.
struct Bucket {
    proxy: Proxy,
    direct: S3Store,
    _server: Server,
    _objects: tempfile::TempDir,
}

impl Bucket {
    async fn set() -> Self {
        let objects = tempfile::tempdir().unwrap();
        let server = Server::start(objects.path(), None).await;
        Self {
            proxy: Proxy::before(&server.endpoint).await,
            direct: client(&server.endpoint, &[]),
            _server: server,
            _objects: objects,
        }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("HA_RECORDING_STORAGE", "s3".into()),
            ("HA_AWS_S3_SERVICE_ENDPOINT", self.proxy.endpoint.clone()),
            ("HA_AWS_S3_BUCKET", BUCKET.into()),
            ("HA_AWS_ACCESS_KEY", KEY.into()),
            ("HA_AWS_SECRET_KEY", SECRET.into()),
        ]
    }

    async fn stage(&self, id: &str) -> Stage {
        let mut stage = Stage::set(id).await;
        stage.settings = self.settings();
        stage
    }

    /// What `recover` makes of the bucket alone, on another machine.
    fn recover(&self, stage: &Stage, recordings: &[&str]) -> Footage {
        let out = tempfile::tempdir().unwrap();
        let elsewhere = |(name, _): &(&str, String)| {
            !matches!(*name, "HA_RECORDING_STORAGE" | "HA_AWS_S3_BUCKET")
        };
        let recovered = Command::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"))
            .args(["recover", "--store", &format!("s3://{BUCKET}"), "-o"])
            .arg(out.path())
            .args(recordings)
            .envs(self.settings().into_iter().filter(elsewhere))
            .output()
            .unwrap();
        assert!(recovered.status.success(), "{}", said(&recovered));
        let id = &stage.order.id;
        let folder = out.path().join(id);
        assert!(folder.join(format!("{id}.timeline.json")).is_file());
        Footage::read(&folder.join(format!("{}.mp4", stage.order.name)))
    }

    /// The chunks that it has: number and bytes.
    async fn chunks(&self) -> BTreeMap<u32, u64> {
        let list = self.direct.list("").await.unwrap();
        let chunk = |object: Object| Some((index(Path::new(&object.key))?, object.bytes));
        list.into_iter().filter_map(chunk).collect()
    }

    async fn keys(&self) -> Vec<String> {
        let list = self.direct.list("").await.unwrap();
        list.into_iter().map(|object| object.key).collect()
    }
}

/// The chunks of a run that does not write them any more: number and bytes.
fn closed(run: &Path) -> BTreeMap<u32, u64> {
    let mut chunks = all(run);
    chunks.pop_last();
    chunks
}

/// The chunks in a run's folder: number and bytes.
fn all(run: &Path) -> BTreeMap<u32, u64> {
    let files = std::fs::read_dir(run).unwrap().flatten();
    let chunk = |file: DirEntry| Some((index(&file.path())?, file.metadata().ok()?.len()));
    files.filter_map(chunk).collect()
}

/// The number of the chunk that is called so.
fn index(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".mp4")?.parse().ok()
}

/// Whether all are there, from the first to `last`.
fn without_gap(chunks: &BTreeMap<u32, u64>, last: u32) -> bool {
    (1..=last).all(|index| chunks.contains_key(&index))
}

/// Files below `folder` whose name ends so.
fn files(folder: &Path, ending: &str) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.path() {
            path if path.is_dir() => files(&path, ending),
            path => usize::from(path.extension().is_some_and(|kind| kind == ending)),
        })
        .sum()
}
