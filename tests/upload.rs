//! The uploader between a recorder and a store that has good and bad days.

use crate::support::faults::{Fault, Proxy};
use crate::support::stores::{Server, client, noise};
use crate::support::wait;
use ov2_ha_recorder::chunklog::{Position, Publisher};
use ov2_ha_recorder::clock::SystemClock;
use ov2_ha_recorder::join::Origin;
use ov2_ha_recorder::model::chunk::{ChunkKey, TakeKey};
use ov2_ha_recorder::model::ids::{RecordingId, RunNumber, TakeId};
use ov2_ha_recorder::recorder::upload::Uploader;
use ov2_ha_recorder::store::ChunkStore;
use ov2_ha_recorder::store::local::LocalStore;
use ov2_ha_recorder::store::s3::S3Store;
use ov2_ha_recorder::tasks::Tasks;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A recorder's folder, its uploader and a store behind a proxy.
struct Scene {
    recordings: tempfile::TempDir,
    _objects: tempfile::TempDir,
    _server: Server,
    proxy: Proxy,
    store: Arc<S3Store>,
    tasks: Tasks,
    uploader: Uploader,
}

impl Scene {
    async fn set() -> Self {
        let objects = tempfile::tempdir().unwrap();
        let server = Server::start(objects.path(), None).await;
        let proxy = Proxy::before(&server.endpoint).await;
        let store = Arc::new(client(&proxy.endpoint, &[]));
        let tasks = Tasks::new();
        let uploader = uploader(Arc::clone(&store) as _, &tasks);
        Self {
            recordings: tempfile::tempdir().unwrap(),
            _objects: objects,
            _server: server,
            proxy,
            store,
            tasks,
            uploader,
        }
    }

    fn chunk(&self, index: u32, bytes: usize) -> (ChunkKey, PathBuf) {
        let key = take().chunk(RunNumber(1), index);
        let path = self.recordings.path().join(key.to_string());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, noise(bytes)).unwrap();
        (key, path)
    }

    async fn stored(&self) -> Vec<u64> {
        let list = self.store.list(&take().to_string()).await.unwrap();
        list.into_iter().map(|object| object.bytes).collect()
    }
}

fn take() -> TakeKey {
    TakeKey {
        recording: RecordingId::parse("ses_A~1").unwrap(),
        folder: "chunks".into(),
        take: TakeId::parse("1795577569120").unwrap(),
    }
}

fn uploader(store: Arc<dyn ChunkStore>, tasks: &Tasks) -> Uploader {
    Uploader::new(store, take(), tasks, Arc::new(SystemClock))
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_chunks_are_stored_and_leave_the_disk() {
    let scene = Scene::set().await;
    for index in 1..=20 {
        let (key, path) = scene.chunk(index, 1_000 + index as usize);
        scene.uploader.chunk_closed(key, path);
    }
    let left = scene.uploader.drain(Duration::from_secs(20)).await;
    assert_eq!(left, []);
    assert_eq!(scene.uploader.stored(), 20);
    assert_eq!(scene.stored().await, (1_001..=1_020).collect::<Vec<_>>());
    let (_, path) = scene.chunk(21, 1);
    let files = std::fs::read_dir(path.parent().unwrap()).unwrap();
    assert_eq!(files.count(), 1, "stored chunks are gone from the disk");
}

/// The store is away for `OV2_AWAY_SECONDS` (6 unless set), and a chunk is closed in every sixtieth of them.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_wait_while_the_store_is_away_and_follow_when_it_is_back() {
    let away = std::env::var("OV2_AWAY_SECONDS").map_or(6, |text| text.parse().unwrap());
    let mut pace = tokio::time::interval(Duration::from_secs(away) / 60);
    let scene = Scene::set().await;
    scene.proxy.usually(Fault::Away);
    for index in 1..=60 {
        pace.tick().await;
        let (key, path) = scene.chunk(index, 400_000);
        let begin = Instant::now();
        scene.uploader.chunk_closed(key, path);
        assert!(
            begin.elapsed() < Duration::from_millis(100),
            "capture was held up"
        );
    }
    wait::until_true("the trouble is told", Duration::from_secs(10), || {
        scene.uploader.trouble().is_some()
    })
    .await;
    let begin = Instant::now();
    let left = scene.uploader.drain(Duration::from_millis(500)).await;
    assert_eq!(left.len(), 60, "all that is not stored is named");
    assert_eq!(left[0].index, 1);
    assert!(begin.elapsed() < Duration::from_secs(2));

    scene.proxy.usually(Fault::None);
    let begin = Instant::now();
    let left = scene.uploader.drain(Duration::from_secs(30)).await;
    assert_eq!(
        left,
        [],
        "every chunk is stored within 30 s of the store's return"
    );
    assert_eq!(scene.stored().await.len(), 60);
    assert_eq!(scene.uploader.trouble(), None);
    eprintln!(
        "away for {away} s, 60 chunks stored {:.1} s after the store's return",
        begin.elapsed().as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_of_a_running_chunk_is_stored_and_the_whole_follows() {
    let scene = Scene::set().await;
    for bytes in [500, 900] {
        let (key, path) = scene.chunk(1, bytes);
        scene.uploader.chunk_grew(key, path);
        let seen = || async { (scene.stored().await == [bytes as u64]).then_some(()) };
        wait::until("the tail is stored", Duration::from_secs(10), seen).await;
    }
    assert_eq!(scene.uploader.stored(), 0, "a tail is no chunk");
    let (key, path) = scene.chunk(1, 1_500);
    scene.proxy.next([Fault::Status(503, "SlowDown")]);
    scene.uploader.chunk_closed(key, path);
    assert_eq!(scene.uploader.drain(Duration::from_secs(20)).await, []);
    assert_eq!(scene.stored().await, [1_500]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_cannot_be_stored_holds_up_neither_later_ones_nor_the_tail() {
    let scene = Scene::set().await;
    let (stuck, path) = scene.chunk(1, 10);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    scene.uploader.chunk_closed(stuck.clone(), path);
    for index in 2..=6 {
        let (key, path) = scene.chunk(index, 1_000);
        scene.uploader.chunk_closed(key, path);
    }
    let (tail, path) = scene.chunk(7, 700);
    scene.uploader.chunk_grew(tail, path);
    let stored = [1_000, 1_000, 1_000, 1_000, 1_000, 700];
    let seen = || async { (scene.stored().await == stored).then_some(()) };
    wait::until("all others are stored", Duration::from_secs(10), seen).await;
    let left = scene.uploader.drain(Duration::from_millis(100)).await;
    assert_eq!(left, [stuck]);
    assert!(scene.uploader.trouble().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_chunk_is_stored_before_the_video_has_it_and_kept_until_then() {
    let scene = Scene::set().await;
    let head = Publisher::default();
    let recordings = scene.recordings.path().to_owned();
    let follow = scene.uploader.clone().follow(head.subscribe(), recordings);
    let follow = scene.tasks.spawn("follow", follow);
    let at = |index, offset| {
        let run = RunNumber(1);
        let origin = Origin { run, index };
        Some(Position { origin, offset })
    };
    let (first, path) = scene.chunk(1, 1_000);
    head.send_replace(at(1, 1_000));
    let seen = || async { (scene.stored().await == [1_000]).then_some(()) };
    wait::until("the tail is stored", Duration::from_secs(10), seen).await;
    assert_eq!(scene.uploader.stored(), 0);
    scene.chunk(2, 500);
    head.send_replace(at(2, 500));
    wait::until_true("the chunk is stored", Duration::from_secs(10), || {
        scene.uploader.stored() == 1
    })
    .await;
    assert!(path.exists(), "the video does not have it yet");
    scene.uploader.chunk_closed(first, path.clone());
    assert!(!path.exists());
    drop(head);
    follow.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_run_takes_up_what_an_earlier_one_left() {
    let scene = Scene::set().await;
    let (first, path) = scene.chunk(1, 1_000);
    scene.store.put(&first.to_string(), &path).await.unwrap();
    let (second, path) = scene.chunk(2, 400);
    scene.store.put(&second.to_string(), &path).await.unwrap();
    scene.chunk(2, 700);
    let (third, _) = scene.chunk(3, 800);
    // The disk lost the end of a running chunk with the power; its tail is in the store.
    let (torn, path) = scene.chunk(4, 900);
    scene.store.put(&torn.to_string(), &path).await.unwrap();
    scene.chunk(4, 500);
    let own = take().chunk(RunNumber(2), 5).to_string();
    let own = scene.recordings.path().join(own);
    std::fs::create_dir_all(own.parent().unwrap()).unwrap();
    std::fs::write(&own, b"what is being written").unwrap();
    scene.proxy.usually(Fault::Away);
    let recordings = scene.recordings.path();
    let taken_up = scene.uploader.take_up(recordings, RunNumber(2));
    assert_eq!(scene.uploader.waiting(), 4);
    let left = scene.uploader.drain(Duration::from_millis(100)).await;
    let keys = [&first, &second, &third, &torn];
    assert_eq!(
        left.iter().collect::<Vec<_>>(),
        keys,
        "while nothing is known of them, all are named"
    );
    let back = async {
        // More than the store's client tries by itself.
        wait::until_true("some tries", Duration::from_secs(20), || {
            scene.proxy.requests() > 12
        })
        .await;
        scene.proxy.usually(Fault::None);
    };
    let (found, ()) = tokio::join!(taken_up, back);
    assert_eq!(found, 2, "one was stored in part, one not at all");
    assert_eq!(scene.uploader.drain(Duration::from_secs(20)).await, []);
    assert_eq!(scene.stored().await, [1_000, 700, 800, 900]);
    assert!(own.exists(), "a running chunk was taken for a closed one");
    assert_eq!(
        scene.tasks.end(Duration::from_secs(5)).await,
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn a_local_store_keeps_the_files_and_counts_them() {
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::new(root.path()));
    let tasks = Tasks::new();
    let uploader = uploader(store, &tasks);
    let key = take().chunk(RunNumber(1), 1);
    let path = root.path().join("chunk");
    std::fs::write(&path, b"x").unwrap();
    uploader.chunk_closed(key, path.clone());
    assert_eq!(uploader.stored(), 1);
    assert_eq!(uploader.drain(Duration::from_secs(1)).await, []);
    assert!(path.exists());
}
