//! Recorder, controller and their disks are gone; the bucket is left. And the other end: when chunks may leave it.

use crate::support::controller::Controller;
use crate::support::secrets::said;
use crate::support::stores::{Server, client, settings};
use crate::support::wait;
use ov2_ha_recorder::clock::Timestamp;
use ov2_ha_recorder::controller::takes::Takes;
use ov2_ha_recorder::join::{self, Piece, Splitter};
use ov2_ha_recorder::model::chunk::TakeKey;
use ov2_ha_recorder::model::ids::{RecordingId, RunNumber, TakeId};
use ov2_ha_recorder::model::manifest::{self, Manifest};
use ov2_ha_recorder::model::timeline::{GapMode, Timeline};
use ov2_ha_recorder::store::ChunkStore;
use ov2_ha_recorder::store::s3::S3Store;
use ov2_ha_recorder::tasks::Tasks;
use serde_json::json;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const EPOCH: u64 = 1_795_577_600;

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
    takes.finish(&find().await, &mut |_| {}).await.unwrap();

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
    settings.extend([
        ("MINIO_API_PORT", port.as_str()),
        ("HA_RUNTIME", "process"),
        ("HEARTBEAT_INTERVAL", "1"),
        ("HA_MAX_MISSED_HEARTBEATS", "1"),
        ("CHUNK_TIME_SIZE", "1"),
        ("HA_SESSION_CLEANUP_INTERVAL", "1"),
        ("HA_SESSION_MAX_INACTIVE_TIME", "1"),
    ]);
    let binary = Path::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"));
    let mut controller = Controller::start(binary, folder.path(), &recordings, &settings).await;
    let store = client(&format!("http://127.0.0.1:{port}"), &[]);
    record(&store, "ses_C", "1").await;
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
    drop(controller);
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
}

/// Two runs of a take in the store: the first lost in the middle of a fragment, as a lost machine leaves it.
async fn record(store: &S3Store, recording: &str, take_id: &str) {
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

fn variables(endpoint: &str) -> Vec<(&str, &str)> {
    vec![
        ("HA_RECORDING_STORAGE", "s3"),
        ("HA_AWS_S3_SERVICE_ENDPOINT", endpoint),
        ("HA_AWS_S3_BUCKET", crate::support::stores::BUCKET),
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
