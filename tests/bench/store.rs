//! How fast chunks reach a store, and what uploading them costs: `cargo bench --bench store`. Words after `--` choose among
//! `server` (the built-in one, as a process beside), `aws` (side by side with the AWS CLI's `s3 sync`, both to Garage) and
//! `memory`. Needs `aws` and `garage` for the second.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

use futures_util::{StreamExt, stream};
use ov2_ha_recorder::store::ChunkStore;
use ov2_ha_recorder::store::s3::S3Store;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;
use support::controller::{Controller, free_port, program};
use support::sheet::Sheet;
use support::stores::{BUCKET, Garage, KEY, SECRET, client, noise};
use tempfile::TempDir;

const CHUNKS: usize = 1_000;
const BYTES: usize = 400_000;
const MEGABYTES: f64 = (CHUNKS * BYTES) as f64 / 1e6;
/// Uploads at once; as many as the AWS CLI runs.
const ABREAST: usize = 10;
/// How often each side of a comparison is measured.
const ROUNDS: usize = 3;

fn main() {
    let mut sheet = Sheet::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // First: the peak is the process's.
    if sheet.wants("memory") {
        runtime.block_on(memory(&mut sheet));
    }
    if sheet.wants("server") {
        runtime.block_on(server(&mut sheet));
    }
    if sheet.wants("aws") {
        runtime.block_on(beside_the_aws_cli(&mut sheet));
    }
    sheet.end();
}

/// `serve` with its built-in store, and chunks to be put there.
struct House {
    _controller: Controller,
    store: Arc<S3Store>,
    chunks: Vec<PathBuf>,
    _folder: TempDir,
}

impl House {
    async fn open() -> Self {
        // On the disk of the build: a folder in memory would flatter.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let port = free_port().to_string();
        let settings = [
            ("HA_RUNTIME", "process"),
            ("HA_RECORDING_STORAGE", "s3"),
            ("HA_S3_SERVER", "on"),
            ("MINIO_API_PORT", &port),
            ("HA_AWS_S3_BUCKET", BUCKET),
            ("HA_AWS_ACCESS_KEY", KEY),
            ("HA_AWS_SECRET_KEY", SECRET),
        ];
        let binary = program(env!("CARGO_BIN_EXE_ov2-ha-recorder"));
        let (state, recordings) = (folder.path().join("state"), folder.path().join("r"));
        let controller = Controller::start(&binary, &state, &recordings, &settings).await;
        let store = Arc::new(client(&format!("http://127.0.0.1:{port}"), &[]));
        Self {
            _controller: controller,
            store,
            chunks: write_chunks(&folder.path().join("chunks")),
            _folder: folder,
        }
    }
}

async fn server(sheet: &mut Sheet) {
    let house = House::open().await;
    let mut best = 0.0_f64;
    for round in 0..ROUNDS {
        let reached = upload(&house.store, &house.chunks, &format!("r{round}"), ABREAST).await;
        println!("  round {round}: {reached:.0} MB/s");
        best = best.max(reached);
    }
    sheet.at_least("upload to the built-in server", best, 150.0, "MB/s");
    let begin = Instant::now();
    let listed = house.store.list("r0").await.unwrap().len();
    println!("  {listed} keys listed in {:?}", begin.elapsed());
    let begin = Instant::now();
    house.store.delete("r0").await.unwrap();
    println!("  deleted in {:?}", begin.elapsed());
}

/// The same files to the same Garage, in turns.
async fn beside_the_aws_cli(sheet: &mut Sheet) {
    let garage = Garage::start().await.expect("garage is on the path");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let chunks = write_chunks(folder.path());
    let store = Arc::new(garage.client(&[]));
    let (mut theirs, mut ours) = (0.0_f64, 0.0_f64);
    for round in 0..ROUNDS {
        let begin = Instant::now();
        sync(&garage, folder.path(), round);
        theirs = theirs.max(MEGABYTES / begin.elapsed().as_secs_f64());
        ours = ours.max(upload(&store, &chunks, &format!("ours{round}"), ABREAST).await);
        println!("  so far: aws s3 sync {theirs:.0} MB/s, ours {ours:.0} MB/s");
    }
    let what = "upload to Garage, against aws s3 sync";
    sheet.at_least(what, ours / theirs, 0.9, "times");
}

/// What uploading adds to a process that has done nothing else.
async fn memory(sheet: &mut Sheet) {
    let house = House::open().await;
    // A new peak begins now; see proc(5).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = mebibytes("VmRSS");
    upload(&house.store, &house.chunks, "memory", ABREAST).await;
    let added = mebibytes("VmHWM") - before;
    sheet.at_most("memory of the uploader", added, 20.0, "MiB");
}

fn mebibytes(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kibibytes: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes / 1024.0
}

fn write_chunks(folder: &Path) -> Vec<PathBuf> {
    std::fs::create_dir_all(folder).unwrap();
    let bytes = noise(BYTES);
    let paths = (0..CHUNKS).map(|n| folder.join(format!("{n:04}.mp4")));
    let paths: Vec<_> = paths.collect();
    for path in &paths {
        std::fs::write(path, &bytes).unwrap();
    }
    paths
}

/// Puts every chunk below `prefix`, and answers the megabytes a second.
async fn upload(store: &Arc<S3Store>, chunks: &[PathBuf], prefix: &str, abreast: usize) -> f64 {
    let begin = Instant::now();
    let puts = chunks.iter().map(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        let (store, key) = (Arc::clone(store), format!("{prefix}/{name}"));
        async move { store.put(&key, path).await }
    });
    let puts = stream::iter(puts).buffer_unordered(abreast);
    let done: Vec<_> = puts.collect().await;
    assert!(done.iter().all(Result::is_ok), "every chunk is stored");
    MEGABYTES / begin.elapsed().as_secs_f64()
}

fn sync(garage: &Garage, folder: &Path, round: usize) {
    let status = Command::new("aws")
        .args(["--endpoint-url", &garage.endpoint, "s3", "sync", "--quiet"])
        .arg(folder)
        .arg(format!("s3://{BUCKET}/aws{round}"))
        .env("AWS_ACCESS_KEY_ID", Garage::KEY)
        .env("AWS_SECRET_ACCESS_KEY", Garage::SECRET)
        .env("AWS_DEFAULT_REGION", Garage::REGION)
        .status()
        .unwrap();
    assert!(status.success());
}
