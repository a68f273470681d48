//! Recorder, controller and their disks are gone; the bucket is left. And the other end: when chunks may leave it.

use crate::support::controller::Controller;
use crate::support::faults::{Fault, Proxy};
use crate::support::preload;
use crate::support::secrets::said;
use crate::support::stores::{BUCKET, Server, client, settings};
use crate::support::wait;
use ov2_ha_recorder::clock::Timestamp;
use ov2_ha_recorder::controller::takes::{Take, Takes, Unread};
use ov2_ha_recorder::join::{self, Piece, Splitter};
use ov2_ha_recorder::model::chunk::TakeKey;
use ov2_ha_recorder::model::ids::{RecordingId, RunNumber, TakeId};
use ov2_ha_recorder::model::manifest::{self, Manifest};
use ov2_ha_recorder::model::timeline::{GapMode, Timeline};
use ov2_ha_recorder::store::local::LocalStore;
use ov2_ha_recorder::store::{ChunkStore, Object};
use ov2_ha_recorder::tasks::Tasks;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const EPOCH: u64 = 1_795_577_600;
/// Nobody listens there.
const NOBODY: &str = "http://127.0.0.1:9";

#[tokio::test(flavor = "multi_thread")]
async fn a_video_comes_back_from_the_bucket_alone() {
    let objects = tempfile::tempdir().unwrap();
    let server = Server::start(objects.path(), None).await;
    let store = client(&server.endpoint, &[]);
    record(&store, "ses_A~1", "1795577600000").await;
    let out = tempfile::tempdir().unwrap();
    let place = out.path().display().to_string();

    let listed = recorder(&server.endpoint, &["recover", "--list", "-o", &place]);
    assert!(said(&listed).contains("not finished"), "{}", said(&listed));
    let done = recorder(&server.endpoint, &["recover", "-o", &place]);
    assert!(done.status.success(), "{}", said(&done));

    let folder = out.path().join("ses_A~1");
    let video = folder.join("My recording.mp4");
    let timeline = std::fs::read(folder.join("ses_A~1.timeline.json")).unwrap();
    let timeline: Timeline = serde_json::from_slice(&timeline).unwrap();
    // Run 1 was cut in its third chunk, run 2 began at 9 s and lasted 4 s.
    assert_eq!(timeline.runs.len(), 2);
    assert_eq!(timeline.gaps.len(), 1, "{:?}", timeline.gaps);
    let seconds = probed(&video);
    assert!((8.0..10.1).contains(&seconds), "{seconds} s");
    assert!((timeline.duration_seconds - seconds).abs() < 0.3);
    let decoded = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(&video)
        .args(["-f", "null", "-"])
        .output()
        .unwrap();
    assert!(decoded.stderr.is_empty(), "{}", said(&decoded));
    let info = std::fs::read_to_string(folder.join("ses_A~1.info")).unwrap();
    assert!(info.contains("\"duration\""), "{info}");
    let seal = std::fs::read_to_string(folder.join(".recording.ses_A~1")).unwrap();
    assert!(
        seal.contains("ses_A~1") && !seal.contains("hidden"),
        "{seal}"
    );
    let left = std::fs::read_dir(&folder).unwrap();
    let left: Vec<_> = left
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        !left.iter().any(|name| name.contains("fetched")),
        "{left:?}"
    );

    let again = recorder(&server.endpoint, &["recover", "-o", &place]);
    assert!(said(&again).contains("no take"), "{}", said(&again));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_named_on_the_command_line_stands_in_for_the_configured_one() {
    let objects = tempfile::tempdir().unwrap();
    let server = Server::start(objects.path(), None).await;
    let place = format!("{BUCKET}/other/place");
    let bucket = client(&server.endpoint, &[("HA_AWS_S3_BUCKET", &place)]);
    let disk = tempfile::tempdir().unwrap();
    record(&bucket, "ses_in_bucket", "1").await;
    record(&LocalStore::new(disk.path()), "ses_on_disk", "1").await;
    let out = tempfile::tempdir().unwrap();
    let to = out.path().to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = recorder(&server.endpoint, arguments);
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };

    let configured = run(&["recover", "-o", to]);
    assert!(configured.contains("no take"), "{configured}");
    run(&["recover", "--store", &format!("s3://{place}"), "-o", to]);
    assert!(probed(&out.path().join("ses_in_bucket/My recording.mp4")) > 7.9);
    let folder = disk.path().to_str().unwrap();
    run(&["recover", "--store", folder]);
    assert!(probed(&disk.path().join("ses_on_disk/My recording.mp4")) > 7.9);
    let take = "ses_on_disk/chunks/1";
    let video = out.path().join("joined.mp4");
    let joined = ["-o", video.to_str().unwrap(), "--store", folder];
    run(&[&["join", take][..], &joined].concat());
    assert!(probed(&video) > 7.9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_that_cannot_be_understood_costs_no_other_one_its_video() {
    let disk = tempfile::tempdir().unwrap();
    let store = LocalStore::new(disk.path());
    for recording in ["ses_broken", "ses_nameless", "ses_whole"] {
        record(&store, recording, "1").await;
    }
    let manifest = |recording| disk.path().join(take(recording, "1").manifest());
    std::fs::write(manifest("ses_broken"), "{").unwrap();
    std::fs::remove_file(manifest("ses_nameless")).unwrap();

    let folder = disk.path().to_str().unwrap();
    let output = recorder(NOBODY, &["recover", "--json", "--store", folder]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed = report["failed"].as_array().unwrap();
    assert_eq!(failed.len(), 1, "{report}");
    assert_eq!(failed[0]["recording"], "ses_broken", "{report}");
    assert!(probed(&disk.path().join("ses_nameless/ses_nameless.mp4")) > 7.9);
    assert!(probed(&disk.path().join("ses_whole/My recording.mp4")) > 7.9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_the_disk_does_not_give_is_a_named_gap_until_it_can_be_read() {
    let disk = tempfile::tempdir().unwrap();
    let folder = disk.path().canonicalize().unwrap();
    let store = LocalStore::new(&folder);
    record(&store, "ses_U", "1").await;
    let take = take("ses_U", "1");
    let chunk = folder.join(take.chunk(RunNumber(1), 2).to_string());
    let place = folder.to_str().unwrap();

    let finished = folder.join(take.finished());
    for fault in ["read 5", "media 5"] {
        let done = recover_without(fault, &chunk, &["ses_U", "--store", place], &[]);
        assert!(done.contains("Input/output error"), "{fault}: {done}");
        assert_eq!(gaps(&folder, "ses_U").len(), 2, "{fault}");
        assert_eq!(gaps(&folder, "ses_U")[0], "a chunk could not be read");
        assert!(!finished.exists(), "the store was told that it is finished");

        let again = recorder(NOBODY, &["recover", "ses_U", "--store", place]);
        assert!(again.status.success(), "{}", said(&again));
        assert_eq!(gaps(&folder, "ses_U").len(), 1, "{fault}");
        std::fs::remove_file(&finished).unwrap();
        std::fs::remove_file(folder.join("ses_U/My recording.mp4")).unwrap();
    }

    // A video that has what cannot be read any more is not given up for one that has not.
    let whole = recorder(NOBODY, &["recover", "ses_U", "--store", place]);
    assert!(whole.status.success(), "{}", said(&whole));
    let video = folder.join("ses_U/My recording.mp4");
    let before = std::fs::read(&video).unwrap();
    let late = encode(&folder.join("late.mp4"), EPOCH + 7, 1);
    std::fs::remove_file(folder.join("late.mp4")).unwrap();
    let place_of_late = folder.join(take.chunk(RunNumber(1), 9).to_string());
    std::fs::write(place_of_late, late).unwrap();
    recover_without("media 5", &chunk, &["ses_U", "--store", place], &[]);
    let kept = folder.join("ses_U/My recording.mp4.before-1");
    assert_eq!(std::fs::read(&kept).unwrap(), before);

    // Nor for one without chunks that are gone since.
    std::fs::remove_file(kept.clone()).unwrap();
    let before = std::fs::read(&video).unwrap();
    std::fs::remove_file(folder.join(take.chunk(RunNumber(1), 1).to_string())).unwrap();
    let done = recorder(NOBODY, &["recover", "ses_U", "--store", place]);
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(std::fs::read(&kept).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_the_disk_does_not_give_is_taken_of_the_store() {
    let objects = tempfile::tempdir().unwrap();
    let server = Server::start(objects.path(), None).await;
    let disk = tempfile::tempdir().unwrap();
    let folder = disk.path().canonicalize().unwrap();
    record(&client(&server.endpoint, &[]), "ses_V", "1").await;
    record(&LocalStore::new(&folder), "ses_V", "1").await;
    let chunk = folder.join(take("ses_V", "1").chunk(RunNumber(1), 2).to_string());
    let place = folder.to_str().unwrap();
    let done = recover_without(
        "media 5",
        &chunk,
        &["-o", place],
        &variables(&server.endpoint),
    );
    assert!(!done.contains("Input/output error"), "{done}");
    assert_eq!(gaps(&folder, "ses_V").len(), 1);
}

/// What `recover` says while the disk does not give `chunk`.
fn recover_without(
    fault: &str,
    chunk: &Path,
    arguments: &[&str],
    settings: &[(&str, &str)],
) -> String {
    let beside = tempfile::tempdir().unwrap();
    let now = beside.path().join("fault");
    std::fs::write(&now, fault).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"))
        .arg("recover")
        .args(arguments)
        .envs(settings.iter().copied())
        .env("LD_PRELOAD", preload::library("fault", beside.path()))
        .env("FAULT_ROOT", chunk)
        .env("FAULT_NOW", &now)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(now.with_extension("bit").exists(), "no call failed");
    said(&output)
}

/// The causes of the gaps of a recording's video.
fn gaps(folder: &Path, recording: &str) -> Vec<String> {
    let file = folder.join(format!("{recording}/{recording}.timeline.json"));
    let timeline: Timeline = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    timeline.gaps.into_iter().map(|gap| gap.cause).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_behind_the_proxy_of_the_environment_is_reached() {
    let objects = tempfile::tempdir().unwrap();
    let server = Server::start(objects.path(), None).await;
    record(&client(&server.endpoint, &[]), "ses_A", "1").await;
    let proxy = Proxy::before(&server.endpoint).await;
    let listed = tokio::task::block_in_place(|| {
        Command::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"))
            .args(["recover", "--list"])
            .envs(variables("http://store.invalid"))
            .env("http_proxy", &proxy.endpoint)
            .output()
            .unwrap()
    });
    assert!(listed.status.success(), "{}", said(&listed));
    assert!(said(&listed).contains("ses_A"), "{}", said(&listed));
    assert!(proxy.requests() > 0);
}

/// `--store`, the settings beside it, the exit code, words of the message.
type Tried<'a> = (&'a str, &'a [(&'a str, &'a str)], i32, &'a [&'a str]);

#[test]
fn a_store_that_cannot_be_is_one_sentence_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let missing = missing.to_str().unwrap();
    let keys = "HA_AWS_ACCESS_KEY and HA_AWS_SECRET_KEY";
    let tried: [Tried; 6] = [
        (missing, &[], 69, &[missing, "no such folder"]),
        ("gs://bucket", &[], 2, &["gs://bucket", "s3://BUCKET"]),
        ("s3://", &[], 2, &["s3://BUCKET"]),
        (
            "s3://No_Bucket",
            &variables(NOBODY),
            69,
            &["No_Bucket", "lower-case"],
        ),
        ("s3://bucket", &[], 69, &[keys, "no credentials"]),
        (
            "s3://bucket",
            &variables(NOBODY)[..3],
            69,
            &[keys, "no credentials"],
        ),
    ];
    for (store, settings, code, words) in tried {
        let output = Command::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"))
            .args(["recover", "--store", store])
            .env("OPENVIDU_RECORDING_PATH", folder.path())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("HOME", folder.path())
            .envs(settings.iter().copied())
            .current_dir(folder.path())
            .output()
            .unwrap();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "{store}: {text}");
        for word in words {
            assert!(text.contains(word), "{store}: {text}");
        }
        let made = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(made, 0, "{store}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_in_the_store_is_joined_by_hand() {
    let objects = tempfile::tempdir().unwrap();
    let server = Server::start(objects.path(), None).await;
    let store = client(&server.endpoint, &[]);
    record(&store, "ses_D", "1").await;
    let folder = tempfile::tempdir().unwrap();
    let video = folder.path().join("out.mp4");
    let to = video.to_str().unwrap();
    let joined = recorder(&server.endpoint, &["join", "ses_D/chunks/1", "-o", to]);
    assert!(joined.status.success(), "{}", said(&joined));
    assert!(probed(&video) > 7.9);
    let names = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 1, "nothing but the video is left");
    let checked = recorder(
        &server.endpoint,
        &["join", "ses_D/chunks/1", "-o", to, "--check"],
    );
    assert!(checked.status.success(), "{}", said(&checked));
    let missing = recorder(&server.endpoint, &["join", "ses_E", "-o", to, "--force"]);
    assert!(
        said(&missing).contains("no chunk below ses_E"),
        "{}",
        said(&missing)
    );
    assert!(!missing.status.success() && video.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_leave_the_store_only_when_the_video_holds_them() {
    let objects = tempfile::tempdir().unwrap();
    let server = Server::start(objects.path(), None).await;
    let store = client(&server.endpoint, &[]);
    record(&store, "ses_B", "1").await;
    let (out, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let takes = Takes {
        store: &store,
        recordings: out.path(),
        chunk_folder: "chunks",
        tasks: &tasks,
    };
    let find = async || {
        let stored = takes.all().await.unwrap().remove(0);
        takes.take(&stored).await.unwrap()
    };
    assert!(
        takes.clear(&find().await).await.is_err(),
        "there is no video"
    );
    finish(&takes, &find().await).await;

    // A chunk that came later than the video.
    let whole = tempfile::tempdir().unwrap();
    let late = encode(&whole.path().join("late.mp4"), EPOCH + 20, 2);
    let take = take("ses_B", "1");
    let key = take.chunk(RunNumber(3), 9).to_string();
    store.put_bytes(&key, late.into()).await.unwrap();
    let refused = takes.clear(&find().await).await.unwrap_err();
    assert!(!refused.to_string().is_empty());
    assert!(
        store.list("ses_B").await.unwrap().len() > 5,
        "everything is still there"
    );

    store.delete(&take.run(RunNumber(3))).await.unwrap();
    assert_eq!(takes.clear(&find().await).await.unwrap(), 5);
    assert_eq!(store.list("ses_B").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_finishes_a_take_that_nobody_looks_after_and_clears_it() {
    let folder = tempfile::tempdir().unwrap();
    let recordings = folder.path().join("recordings");
    let port = crate::support::controller::free_port().to_string();
    let mut settings = variables("");
    settings.retain(|(name, _)| *name != "HA_AWS_S3_SERVICE_ENDPOINT");
    settings.extend(hasty());
    settings.extend([("MINIO_API_PORT", port.as_str()), ("HA_S3_SERVER", "on")]);
    let binary = Path::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"));
    let mut controller = Controller::start(binary, folder.path(), &recordings, &settings).await;
    let store = client(&format!("http://127.0.0.1:{port}"), &[]);
    record(&store, "ses_C", "1").await;
    // Its video is not where it is looked for.
    record(&store, "ses_K", "1").await;
    let elsewhere = tempfile::tempdir().unwrap();
    finish_all(&store, elsewhere.path(), "ses_K").await;
    let chunks = store.list("ses_K").await.unwrap();
    controller.kill().await;
    controller.resume().await;

    let video = recordings.join("ses_C/My recording.mp4");
    let bound = Duration::from_secs(60);
    wait::until("the chunks' end", bound, || async {
        let left = store.list("ses_C").await.ok()?;
        left.is_empty().then_some(())
    })
    .await;
    assert!(probed(&video) > 7.9);
    assert!(recordings.join("ses_C/ses_C.info").is_file());
    assert_eq!(store.list("ses_K").await.unwrap(), chunks);
    let health = controller.get("/api/sessions/health").await;
    let kept = &health["s3CleanupInfo"]["unverified"];
    assert_eq!(*kept, json!(["ses_K"]), "{health}");
    let metric = controller
        .get("/actuator/metrics/ha_recorder_unverified_recordings")
        .await;
    assert_eq!(metric["measurements"][0]["value"], 1.0, "{metric}");
    // What it answers may be some seconds old.
    wait::until("the health", Duration::from_secs(30), || async {
        let health = controller.get("/actuator/health/s3").await;
        (health["details"]["unverified"] == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_keeps_verified_chunks_for_the_days_that_were_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let recordings = folder.path().join("recordings");
    let objects = tempfile::tempdir().unwrap();
    let server = Server::start(objects.path(), None).await;
    let store = client(&server.endpoint, &[]);
    record(&store, "ses_first", "1").await;
    finish_all(&store, &recordings, "ses_first").await;
    record(&store, "ses_second", "1").await;
    let mut settings = variables(&server.endpoint);
    settings.extend(hasty());
    settings.push(("HA_KEEP_CHUNKS_DAYS", "36500"));
    let binary = Path::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"));
    let controller = Controller::start(binary, folder.path(), &recordings, &settings).await;
    // By then the store was looked through more than once.
    wait::until("the second video", Duration::from_secs(60), || async {
        let log = controller.log();
        (log.contains("the video is finished") && log.contains("ses_second")).then_some(())
    })
    .await;
    for recording in ["ses_first", "ses_second"] {
        let kept = store.list(recording).await.unwrap();
        assert_eq!(chunks(&kept), 5, "{recording}: {kept:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn test_s3_tries_everything_and_names_what_is_refused() {
    let objects = tempfile::tempdir().unwrap();
    let server = Server::start(objects.path(), None).await;
    let good = recorder(&server.endpoint, &["test-s3"]);
    assert!(good.status.success(), "{}", said(&good));
    for step in ["store in parts", "fetch", "list", "delete"] {
        assert!(said(&good).contains(step), "{}", said(&good));
    }
    assert_eq!(client(&server.endpoint, &[]).list("").await.unwrap(), []);
    let settings = settings(&server.endpoint, &[]);
    assert!(settings.s3_endpoint.is_some());
    let bad = Command::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"))
        .arg("test-s3")
        .envs(variables(&server.endpoint))
        .env("HA_AWS_SECRET_KEY", "wrong-and-hidden")
        .output()
        .unwrap();
    assert!(!bad.status.success());
    let text = said(&bad);
    assert!(
        text.contains("refused") && !text.contains("wrong-and-hidden"),
        "{text}"
    );
    let proxy = Proxy::before(&server.endpoint).await;
    let denied = Fault::Status(403, "AccessDenied");
    // The bucket is asked for and listed first.
    proxy.next([Fault::None, Fault::None, denied]);
    let text = said(&recorder(&proxy.endpoint, &["test-s3"]));
    let advised = text.lines().filter(|line| line.contains("grant s3:"));
    let advised: Vec<_> = advised.collect();
    assert_eq!(advised.len(), 1, "{text}");
    assert!(advised[0].contains("grant s3:PutObject"), "{text}");
}

/// Two runs of a take in the store: the first lost in the middle of a fragment, as a lost machine leaves it.
pub async fn record(store: &dyn ChunkStore, recording: &str, take_id: &str) {
    let folder = tempfile::tempdir().unwrap();
    let take = take(recording, take_id);
    let manifest = Manifest {
        version: manifest::VERSION,
        recording: take.recording.clone(),
        take: take.take.clone(),
        video_name: "My recording".into(),
        recording_json: Some(
            json!({"id": recording, "createdAt": 1, "url": "https://a:hidden@h/x?hidden"}),
        ),
        frame_rate: 25,
        resolution: "320x180".into(),
        only_video: false,
        gap_mode: GapMode::Cut,
        created_at: Timestamp::from_millis(EPOCH as i64 * 1000),
    };
    let text = manifest.to_json();
    store
        .put_bytes(&take.manifest(), text.into())
        .await
        .unwrap();
    for (run, first, start, seconds) in [(1, 1, EPOCH, 6), (2, 4, EPOCH + 9, 4)] {
        let whole = encode(&folder.path().join("whole.mp4"), start, seconds);
        let mut chunks = cut(&whole);
        if run == 1 {
            let last = chunks.last_mut().unwrap();
            last.truncate(last.len() - last.len() / 3);
        }
        for (n, chunk) in chunks.into_iter().enumerate() {
            let key = take.chunk(RunNumber(run), first + n as u32);
            store
                .put_bytes(&key.to_string(), chunk.into())
                .await
                .unwrap();
        }
    }
}

fn take(recording: &str, take: &str) -> TakeKey {
    TakeKey {
        recording: RecordingId::parse(recording).unwrap(),
        folder: "chunks".into(),
        take: TakeId::parse(take).unwrap(),
    }
}

/// What `record`'s ffmpeg would have written from `start` on, with a keyframe every 2 s.
fn encode(path: &Path, start: u64, seconds: u32) -> Vec<u8> {
    let offset = start.to_string();
    let sine = format!("sine=frequency=440:sample_rate=48000:duration={seconds}");
    let picture = format!("testsrc2=s=320x180:r=25:d={seconds}");
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-nostdin"])
        .args(["-itsoffset", &offset, "-f", "lavfi", "-i", &sine])
        .args(["-itsoffset", &offset, "-f", "lavfi", "-i", &picture])
        .args(["-map", "1:v", "-map", "0:a", "-copyts", "-c:v", "libx264"])
        .args(["-preset", "ultrafast", "-crf", "30", "-pix_fmt", "yuv420p"])
        .args([
            "-force_key_frames",
            "expr:if(isnan(prev_forced_t),1,gte(t,prev_forced_t+1.999))",
        ])
        .args(["-g", "100000", "-fps_mode", "passthrough"])
        .args([
            "-c:a",
            "aac",
            "-b:a",
            "128k",
            "-ar",
            "48000",
            "-f",
            "mp4",
            "-movflags",
        ])
        .arg("+frag_keyframe+empty_moov+default_base_moof+frag_discont+negative_cts_offsets")
        .args(["-frag_duration", "500000", "-flush_packets", "1"])
        .arg(path)
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::read(path).unwrap()
}

/// The chunks that `record` would have cut.
fn cut(whole: &[u8]) -> Vec<Vec<u8>> {
    let mut splitter = Splitter::new();
    splitter.push(whole);
    let (mut init, mut chunks) = (Vec::new(), Vec::<Vec<u8>>::new());
    while let Some(piece) = splitter.next().unwrap() {
        match piece {
            Piece::Init(found) => init = found.bytes().to_vec(),
            Piece::Fragment(fragment) => {
                if fragment.starts_with_keyframe() || chunks.is_empty() {
                    chunks.push(init.clone());
                }
                chunks
                    .last_mut()
                    .unwrap()
                    .extend_from_slice(&fragment.bytes);
            }
        }
    }
    chunks
}

/// A controller that is not patient.
fn hasty() -> [(&'static str, &'static str); 6] {
    [
        ("HA_RUNTIME", "process"),
        ("HEARTBEAT_INTERVAL", "1"),
        ("HA_MAX_MISSED_HEARTBEATS", "1"),
        ("CHUNK_TIME_SIZE", "1"),
        ("HA_SESSION_CLEANUP_INTERVAL", "1"),
        ("HA_SESSION_MAX_INACTIVE_TIME", "1"),
    ]
}

async fn finish(takes: &Takes<'_>, take: &Take) {
    let done = takes.finish(take, Unread::Refuse, &mut |_| {}).await;
    done.unwrap();
}

/// Finishes the take of `recording` as a controller does whose recordings are in `folder`.
async fn finish_all(store: &dyn ChunkStore, folder: &Path, recording: &str) {
    let tasks = Tasks::new();
    let takes = Takes {
        store,
        recordings: folder,
        chunk_folder: "chunks",
        tasks: &tasks,
    };
    for stored in takes.all().await.unwrap() {
        if stored.key.recording.as_str() == recording {
            let take = takes.take(&stored).await.unwrap();
            finish(&takes, &take).await;
        }
    }
}

#[test]
fn a_recording_that_the_store_has_not_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"))
        .args(["recover", "nosuch", "--store"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("has nothing of nosuch"),
        "{}",
        said(&output)
    );
}

fn chunks(objects: &[Object]) -> usize {
    let chunk = |object: &&Object| object.key.ends_with(".mp4");
    objects.iter().filter(chunk).count()
}

fn variables(endpoint: &str) -> Vec<(&str, &str)> {
    vec![
        ("HA_RECORDING_STORAGE", "s3"),
        ("HA_AWS_S3_SERVICE_ENDPOINT", endpoint),
        ("HA_AWS_S3_BUCKET", BUCKET),
        ("HA_AWS_ACCESS_KEY", crate::support::stores::KEY),
        ("HA_AWS_SECRET_KEY", crate::support::stores::SECRET),
    ]
}

fn recorder(endpoint: &str, arguments: &[&str]) -> Output {
    tokio::task::block_in_place(|| {
        Command::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"))
            .args(arguments)
            .envs(variables(endpoint))
            .output()
            .unwrap()
    })
}

fn probed(video: &Path) -> f64 {
    assert!(join::timeline_of(video).is_ok());
    let output = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-show_entries",
            "format=duration",
            "-of",
            "csv=p=0",
        ])
        .arg(video)
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}
