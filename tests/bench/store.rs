//! How fast chunks reach the built-in server: `cargo test --release --test integration bench_store -- --ignored --nocapture`.

use crate::s3server::{Server, client, noise};
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
