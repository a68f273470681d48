//! How fast chunks reach the built-in server: `cargo test --profile bench --test integration bench_store -- --ignored --nocapture`.

use crate::s3server::{BUCKET, ChildServer, Garage, Server, client, noise};
use futures_util::{StreamExt, stream};
use ov2_ha_recorder::store::ChunkStore;
use std::sync::Arc;
use std::time::Instant;

const CHUNKS: usize = 1_000;
const BYTES: usize = 400_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn upload_of_many_chunks() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("objects"), None).await;
    let store = Arc::new(client(&server.endpoint, &[]));
    let source = folder.path().join("chunk");
    std::fs::write(&source, noise(BYTES)).unwrap();
    store.probe().await.unwrap();
    for abreast in [1, 4, 8, 16] {
        let begin = Instant::now();
        let puts = stream::iter(0..CHUNKS).map(|n| {
            let (store, source) = (Arc::clone(&store), source.clone());
            async move { store.put(&format!("b{abreast}/{n:04}.mp4"), &source).await }
        });
        let done: Vec<_> = puts.buffer_unordered(abreast).collect().await;
        assert!(done.iter().all(Result::is_ok));
        let seconds = begin.elapsed().as_secs_f64();
        let megabytes = (CHUNKS * BYTES) as f64 / 1e6;
        println!(
            "upload, {abreast} abreast: {CHUNKS} × {BYTES} bytes in {seconds:.2} s, {:.0} MB/s",
            megabytes / seconds
        );
        let begin = Instant::now();
        let listed = store.list(&format!("b{abreast}")).await.unwrap();
        println!("  listing {} keys: {:?}", listed.len(), begin.elapsed());
        let begin = Instant::now();
        store.delete(&format!("b{abreast}")).await.unwrap();
        println!("  deleting them: {:?}", begin.elapsed());
    }
}

/// Our store against the AWS CLI's `s3 sync`, both to Garage, the same files.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn upload_beside_the_aws_cli() {
    let garage = Garage::start().await.expect("garage");
    let folder = tempfile::tempdir().unwrap();
    for n in 0..CHUNKS {
        std::fs::write(folder.path().join(format!("{n:04}.mp4")), noise(BYTES)).unwrap();
    }
    let megabytes = (CHUNKS * BYTES) as f64 / 1e6;
    let begin = Instant::now();
    let status = tokio::task::block_in_place(|| {
        std::process::Command::new("aws")
            .args(["--endpoint-url", &garage.endpoint, "s3", "sync", "--quiet"])
            .arg(folder.path())
            .arg(format!("s3://{BUCKET}/aws"))
            .env("AWS_ACCESS_KEY_ID", Garage::KEY)
            .env("AWS_SECRET_ACCESS_KEY", Garage::SECRET)
            .env("AWS_DEFAULT_REGION", Garage::REGION)
            .status()
            .unwrap()
    });
    assert!(status.success());
    println!(
        "aws s3 sync: {:.0} MB/s",
        megabytes / begin.elapsed().as_secs_f64()
    );
    let store = Arc::new(garage.client(&[]));
    for abreast in [4, 10] {
        let begin = Instant::now();
        let puts = stream::iter(0..CHUNKS).map(|n| {
            let (store, source) = (
                Arc::clone(&store),
                folder.path().join(format!("{n:04}.mp4")),
            );
            async move { store.put(&format!("b{abreast}/{n:04}.mp4"), &source).await }
        });
        let done: Vec<_> = puts.buffer_unordered(abreast).collect().await;
        assert!(done.iter().all(Result::is_ok));
        println!(
            "ours, {abreast} abreast: {:.0} MB/s",
            megabytes / begin.elapsed().as_secs_f64()
        );
    }
}

/// What uploading adds to a process's memory; to be run alone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn memory_of_an_upload() {
    let folder = tempfile::tempdir().unwrap();
    let server = ChildServer::start(&folder.path().join("objects"));
    let source = folder.path().join("chunk");
    std::fs::write(&source, noise(BYTES)).unwrap();
    let kilobytes = |name: &str| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let number = line.split_whitespace().nth(1).unwrap();
        number.parse::<u64>().unwrap()
    };
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = kilobytes("VmRSS");
    let store = Arc::new(client(&server.endpoint, &[]));
    let puts = stream::iter(0..CHUNKS).map(|n| {
        let (store, source) = (Arc::clone(&store), source.clone());
        async move { store.put(&format!("m/{n:04}.mp4"), &source).await }
    });
    let done: Vec<_> = puts.buffer_unordered(4).collect().await;
    assert!(done.iter().all(Result::is_ok));
    let peak = kilobytes("VmHWM");
    println!(
        "memory: {} KiB before, {peak} KiB at most while uploading",
        before
    );
}
