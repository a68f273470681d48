//! A registry with one small image, answering what `docker pull` asks it for. The daemon trusts it for its loopback address.
//! Like one at the far end of a slow line it says nothing of the image until it is told to.

use super::target::serve;
use flate2::{Compression, write::GzEncoder};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The registry; it is gone when dropped.
#[derive(Debug)]
pub struct Registry {
    /// The image's name without tag, as the daemon asks for it.
    pub image: String,
    answers: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

/// What can be asked for, by path: its type and its bytes.
type Shelf = BTreeMap<String, (&'static str, Vec<u8>)>;

impl Registry {
    /// The image's tag.
    pub const TAG: &str = "test";

    /// One that waits.
    pub async fn slow() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let name = format!("ov2-ha-test/{}", ov2_ha_recorder::random::hex::<6>());
        let (shelf, answers) = (Arc::new(shelf(&name)), watch::Sender::new(false));
        let told = answers.subscribe();
        let task = tokio::spawn(serve(listener, move |request| {
            answer(request, Arc::clone(&shelf), told.clone())
        }));
        Self {
            image: format!("127.0.0.1:{port}/{name}"),
            answers,
            task,
        }
    }

    /// From now on it answers.
    pub fn speak(&self) {
        self.answers.send_replace(true);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
        // It is not there where nobody pulled it.
        let _ = super::docker::docker(&["rmi", &format!("{}:{}", self.image, Self::TAG)]);
    }
}

async fn answer(
    request: Request<Incoming>,
    shelf: Arc<Shelf>,
    mut told: watch::Receiver<bool>,
) -> Response<Full<Bytes>> {
    // The registry's sender goes with it, and then nobody waits for this answer.
    let _ = told.wait_for(|speaks| *speaks).await;
    let Some((kind, bytes)) = shelf.get(request.uri().path()) else {
        let missing = Response::builder().status(404);
        return missing.body(Full::default()).unwrap();
    };
    let found = Response::builder()
        .header("content-type", *kind)
        .header("docker-content-digest", digest(bytes))
        .header("docker-distribution-api-version", "registry/2.0");
    found.body(Bytes::from(bytes.clone()).into()).unwrap()
}

/// An image of one layer with one file.
fn shelf(name: &str) -> Shelf {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(name.len() as u64);
    header.set_mode(0o644);
    let written = layer.append_data(&mut header, "name", name.as_bytes());
    written.unwrap();
    let layer = layer.into_inner().unwrap();
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&layer).unwrap();
    let packed = packed.finish().unwrap();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let config = config.to_string().into_bytes();
    let part = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "size": bytes.len(), "digest": digest(bytes)});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": part("application/vnd.docker.container.image.v1+json", &config),
        "layers": [part("application/vnd.docker.image.rootfs.diff.tar.gzip", &packed)],
    });
    let manifest = manifest.to_string().into_bytes();
    let blob = |bytes: &[u8]| format!("/v2/{name}/blobs/{}", digest(bytes));
    let named = |by: &str| format!("/v2/{name}/manifests/{by}");
    BTreeMap::from([
        ("/v2/".into(), ("application/json", b"{}".to_vec())),
        (named(Registry::TAG), (MANIFEST, manifest.clone())),
        (named(&digest(&manifest)), (MANIFEST, manifest)),
        (blob(&config), ("application/octet-stream", config)),
        (blob(&packed), ("application/octet-stream", packed)),
    ])
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hash}")
}
