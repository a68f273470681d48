//! What every kind of chunk store must do, and each kind doing it.

use crate::support::faults::{Fault, Proxy};
use crate::support::stage::leave_out as left_out;
use crate::support::stores::{BUCKET, Garage, Moto, Server, client};
use bytes::Bytes;
use ov2_ha_recorder::store::local::LocalStore;
use ov2_ha_recorder::store::{ChunkStore, StoreError};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_folder_passes_the_suite() {
    let root = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    suite(Arc::new(LocalStore::new(root.path())), scratch.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_server_passes_the_suite() {
    let root = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(root.path(), None).await;
    let store = client(&server.endpoint, &[]);
    suite(Arc::new(store), scratch.path()).await;
    let bucket = format!("{BUCKET}/some/path");
    let more = [
        ("HA_AWS_S3_BUCKET", bucket.as_str()),
        ("HA_S3_CLEANUP_BATCH_SIZE", "100"),
    ];
    let below = client(&server.endpoint, &more);
    suite(Arc::new(below), scratch.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_passes_the_suite() {
    let Some(moto) = Moto::start().await else {
        return left_out(
            "moto_passes_the_suite",
            "moto_server is missing (pip install 'moto[server]')",
        );
    };
    let scratch = tempfile::tempdir().unwrap();
    let headers = r#"{"x-amz-server-side-encryption":"AES256","x-amz-meta-made-by":"us"}"#;
    let store = client(
        &moto.endpoint,
        &[
            ("HA_AWS_S3_BUCKET", "made-when-missing/path"),
            ("HA_AWS_S3_HEADERS", headers),
        ],
    );
    let missing = store.list("a").await.unwrap_err().to_string();
    assert!(
        missing.contains("made-when-missing") && missing.contains("no such bucket"),
        "whoever reads makes none: {missing}"
    );
    suite(Arc::new(store), scratch.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garage_passes_the_suite() {
    let Some(garage) = Garage::start().await else {
        return left_out(
            "garage_passes_the_suite",
            "garage is missing (cargo install garage --version 2.5.0 --locked)",
        );
    };
    let scratch = tempfile::tempdir().unwrap();
    suite(Arc::new(garage.client(&[])), scratch.path()).await;
    let bucket = format!("{BUCKET}/some/path");
    let headers = r#"{"x-amz-server-side-encryption":"AES256","x-amz-meta-made-by":"us"}"#;
    let more = [
        ("HA_AWS_S3_BUCKET", bucket.as_str()),
        ("HA_AWS_S3_HEADERS", headers),
    ];
    suite(Arc::new(garage.client(&more)), scratch.path()).await;
    let elsewhere = garage.client(&[("HA_AWS_REGION", "us-east-1")]);
    let said = elsewhere.list("a").await.unwrap_err().to_string();
    assert!(said.contains("HA_AWS_REGION"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_day_of_the_network_is_got_over() {
    let root = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(root.path(), None).await;
    let proxy = Proxy::before(&server.endpoint).await;
    let store = client(&proxy.endpoint, &[]);
    let source = scratch.path().join("chunk");
    std::fs::write(&source, pattern(400_000, 3)).unwrap();
    store.probe().await.unwrap();
    for fault in [
        Fault::Status(503, "SlowDown"),
        Fault::Status(500, "InternalError"),
        Fault::Status(403, "RequestTimeTooSkewed"),
        Fault::Status(400, "ExpiredToken"),
        Fault::CutRequest(1_000),
        Fault::CutAnswer(20),
        Fault::CutAnswer(0),
        Fault::Corrupt,
        Fault::Late(Duration::from_millis(300)),
        Fault::Away,
    ] {
        proxy.next([fault.clone(), fault.clone()]);
        let stored = store.put("day/chunk", &source).await;
        assert!(stored.is_ok(), "{fault:?}: {stored:?}");
        let read = store.read("day/chunk").await.unwrap();
        assert!(read == pattern(400_000, 3), "{fault:?}");
    }
    for fault in [
        Fault::CutAnswer(200_000),
        Fault::CutAnswer(10),
        Fault::Status(503, "SlowDown"),
        Fault::Away,
    ] {
        proxy.next([fault.clone()]);
        let target = scratch.path().join("fetched");
        store.fetch("day/chunk", &target).await.unwrap();
        assert!(
            std::fs::read(target).unwrap() == pattern(400_000, 3),
            "{fault:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_given_up_soon_and_named() {
    let begin = Instant::now();
    let store = client("http://127.0.0.1:9", &[]);
    let refused = store.read("a/b").await.unwrap_err();
    assert!(refused.retryable(), "{refused}");
    assert!(begin.elapsed() < Duration::from_secs(5));
    let skewed = Server::start(tempfile::tempdir().unwrap().path(), None).await;
    let proxy = Proxy::before(&skewed.endpoint).await;
    proxy.usually(Fault::Status(403, "RequestTimeTooSkewed"));
    let said = client(&proxy.endpoint, &[]).list("a").await.unwrap_err();
    assert!(said.to_string().contains("clock"), "{said}");
}

#[tokio::test]
async fn a_chunk_that_lies_in_the_folder_already_is_stored_where_it_is() {
    let root = tempfile::tempdir().unwrap();
    let store = LocalStore::new(root.path());
    let path = store.path("rec/chunks/t/r1/0001.mp4").unwrap();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, b"frames").unwrap();
    store.put("rec/chunks/t/r1/0001.mp4", &path).await.unwrap();
    assert_eq!(
        store.read("rec/chunks/t/r1/0001.mp4").await.unwrap(),
        "frames"
    );
    store.delete("rec/chunks/t").await.unwrap();
    assert!(!root.path().join("rec").exists());
}

/// The conformance suite. `store` may hold other things; it is left as it was.
pub async fn suite(store: Arc<dyn ChunkStore>, scratch: &Path) {
    let root = format!("suite-{}", ov2_ha_recorder::random::hex::<6>());
    store.probe().await.expect("probe");
    objects_come_back(&*store, &root, scratch).await;
    neighbours_are_left_alone(&*store, &root).await;
    lists_are_whole_and_in_order(Arc::clone(&store), &root).await;
    readers_see_all_or_nothing(Arc::clone(&store), &root, scratch).await;
    bad_keys_are_refused(&*store).await;
    assert!(store.delete(&root).await.unwrap() > 0);
    assert_eq!(store.list(&root).await.unwrap(), []);
}

async fn objects_come_back(store: &dyn ChunkStore, root: &str, scratch: &Path) {
    let key = format!("{root}/ä b~1+%&=?#/r1/0001.mp4");
    let source = scratch.join("source");
    // In a folder that is made for it, and then over what was there.
    let target = scratch.join(root).join("not there yet/target");
    for size in [0, 1, 400_000, 40 << 20] {
        let body = pattern(size, size as u8);
        std::fs::write(&source, &body).unwrap();
        for _ in 0..2 {
            store.put(&key, &source).await.expect("put");
        }
        assert_eq!(store.fetch(&key, &target).await.unwrap(), size as u64);
        assert!(std::fs::read(&target).unwrap() == body, "{size} bytes");
        assert!(store.read(&key).await.unwrap() == body, "{size} bytes");
        for from in [0, 1, size / 2, size, size + 5] {
            let read = store.read_from(&key, from as u64).await.unwrap();
            assert!(read == body[from.min(size)..], "{size} bytes from {from}");
        }
        let listed = store.list(root).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((&listed[0].key, listed[0].bytes), (&key, size as u64));
    }
    store
        .put_bytes(&key, Bytes::from_static(b"short"))
        .await
        .unwrap();
    assert_eq!(store.read(&key).await.unwrap(), "short");

    let missing = format!("{root}/no/such");
    let not_found =
        |result: Result<_, StoreError>| matches!(result, Err(StoreError::NotFound { .. }));
    assert!(not_found(store.read(&missing).await.map(drop)));
    assert!(not_found(store.read_from(&missing, 3).await.map(drop)));
    assert!(not_found(store.fetch(&missing, &target).await.map(drop)));
    assert!(
        store
            .put(&missing, &scratch.join("no such file"))
            .await
            .is_err()
    );
    assert_eq!(store.delete(root).await.unwrap(), 1);
    assert_eq!(
        store.delete(root).await.unwrap(),
        0,
        "deleting again is harmless"
    );
}

async fn neighbours_are_left_alone(store: &dyn ChunkStore, root: &str) {
    let keys = ["rec1/a", "rec1/b/c", "rec10/a", "rec1~1/a", "rec/a"];
    for key in keys {
        let body = Bytes::from_static(b"x");
        store
            .put_bytes(&format!("{root}/{key}"), body)
            .await
            .unwrap();
    }
    let below = store.list(&format!("{root}/rec1")).await.unwrap();
    let below: Vec<_> = below.into_iter().map(|object| object.key).collect();
    assert_eq!(
        below,
        [format!("{root}/rec1/a"), format!("{root}/rec1/b/c")]
    );
    assert_eq!(store.delete(&format!("{root}/rec1/")).await.unwrap(), 2);
    assert_eq!(store.list(root).await.unwrap().len(), 3);
    assert_eq!(store.delete(root).await.unwrap(), 3);
}

async fn lists_are_whole_and_in_order(store: Arc<dyn ChunkStore>, root: &str) {
    use futures_util::{StreamExt, stream};
    const MANY: usize = 1_205;
    let keys: Vec<_> = (0..MANY)
        .map(|n| format!("{root}/r{}/{n:04}.mp4", n % 12))
        .collect();
    let puts = stream::iter(keys.clone()).map(|key| {
        let store = Arc::clone(&store);
        async move { store.put_bytes(&key, Bytes::from_static(b"x")).await }
    });
    let results: Vec<_> = puts.buffer_unordered(16).collect().await;
    results
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .expect("put");
    let mut sorted = keys;
    sorted.sort();
    let listed = store.list(root).await.unwrap();
    let listed: Vec<_> = listed.into_iter().map(|object| object.key).collect();
    assert_eq!(listed, sorted);
    assert_eq!(store.delete(root).await.unwrap(), MANY);
    assert_eq!(store.list(root).await.unwrap(), []);
}

async fn readers_see_all_or_nothing(store: Arc<dyn ChunkStore>, root: &str, scratch: &Path) {
    let key = format!("{root}/changing");
    let sources = [1u8, 2].map(|byte| {
        let path = scratch.join(format!("version{byte}"));
        std::fs::write(&path, vec![byte; 3_000_000 + usize::from(byte)]).unwrap();
        path
    });
    store.put(&key, &sources[0]).await.unwrap();
    let writes = async {
        for turn in 0..12 {
            store.put(&key, &sources[turn % 2]).await.unwrap();
        }
    };
    let reads = async {
        for _ in 0..12 {
            let seen = store.read(&key).await.unwrap();
            let whole = seen.len() == 3_000_000 + usize::from(seen[0]);
            assert!(
                whole && seen.iter().all(|byte| *byte == seen[0]),
                "torn object"
            );
        }
    };
    tokio::join!(writes, reads);
}

async fn bad_keys_are_refused(store: &dyn ChunkStore) {
    for key in [
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/./b",
        "a\nb",
        "a\\b",
        &"x".repeat(2000),
    ] {
        let result = store.put_bytes(key, Bytes::new()).await;
        assert!(
            matches!(result, Err(StoreError::Invalid { .. })),
            "{key:?}: {result:?}"
        );
    }
    for everything in ["", "/"] {
        assert!(
            store.delete(everything).await.is_err(),
            "deleting everything"
        );
    }
}

fn pattern(size: usize, seed: u8) -> Vec<u8> {
    (0..size)
        .map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed) ^ (n >> 8) as u8)
        .collect()
}
