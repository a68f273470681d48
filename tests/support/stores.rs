//! Real stores for the tests and benches: the built-in server, Garage, and the protocol as moto speaks it. Each is there
//! until it is dropped.

use super::controller::free_port;
use super::wait;
use ov2_ha_recorder::config::{Secret, Settings, Variables};
use ov2_ha_recorder::s3server::{self, Options};
use ov2_ha_recorder::store::ChunkStore;
use ov2_ha_recorder::store::s3::S3Store;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub const KEY: &str = "test-access-key";
pub const SECRET: &str = "test-secret-key-0123456789";
pub const BUCKET: &str = "ov-recordings";

/// A built-in server in this process, until it is dropped.
pub struct Server {
    pub endpoint: String,
    token: CancellationToken,
}

impl Server {
    pub async fn start(root: &Path, max_bytes: Option<u64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let token = CancellationToken::new();
        let options = options(root, max_bytes);
        tokio::spawn(s3server::serve(listener, options, token.clone()));
        Self { endpoint, token }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

pub fn options(root: &Path, max_bytes: Option<u64>) -> Options {
    Options {
        root: root.to_owned(),
        bucket: BUCKET.into(),
        access_key: KEY.into(),
        secret_key: Secret::new(SECRET),
        max_bytes,
    }
}

/// The settings of a client of `endpoint`.
pub fn settings(endpoint: &str, more: &[(&str, &str)]) -> Settings {
    let usual = [
        ("HA_RECORDING_STORAGE", "s3"),
        ("HA_AWS_S3_SERVICE_ENDPOINT", endpoint),
        ("HA_AWS_S3_BUCKET", BUCKET),
        ("HA_AWS_ACCESS_KEY", KEY),
        ("HA_AWS_SECRET_KEY", SECRET),
    ];
    let pairs = usual.iter().chain(more).copied();
    Variables::of(pairs).settings().unwrap()
}

pub fn client(endpoint: &str, more: &[(&str, &str)]) -> S3Store {
    S3Store::new(&settings(endpoint, more)).unwrap()
}

/// The protocol as another implementation speaks it: moto.
pub struct Moto {
    process: Child,
    pub endpoint: String,
}

impl Moto {
    pub async fn start() -> Option<Self> {
        if !runs("moto_server", &["--help"]) {
            return None;
        }
        let port = free_port();
        let process = Command::new("moto_server")
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let endpoint = format!("http://127.0.0.1:{port}");
        wait::until("moto listens", Duration::from_secs(60), || async {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        })
        .await;
        Some(Self { process, endpoint })
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Garage 2.5, a store that shares no code with ours.
pub struct Garage {
    process: Child,
    _folder: tempfile::TempDir,
    pub endpoint: String,
}

impl Garage {
    /// Its key as it wants one: `GK` and 24 hexadecimal digits, and a secret of 64.
    pub const KEY: &str = "GK0123456789abcdef01234567";
    pub const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    pub const REGION: &str = "garage";

    /// `None` where it is not on the path.
    pub async fn start() -> Option<Self> {
        if !runs("garage", &["--version"]) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let [rpc, api] = [free_port(), free_port()];
        let place = folder.path().display();
        let config = format!(
            "metadata_dir = \"{place}/meta\"\ndata_dir = \"{place}/data\"\ndb_engine = \"sqlite\"\n\
             replication_factor = 1\nrpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\n\
             rpc_secret = \"{}\"\n[s3_api]\ns3_region = \"{}\"\napi_bind_addr = \"127.0.0.1:{api}\"\n",
            Self::SECRET,
            Self::REGION
        );
        let path = folder.path().join("garage.toml");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new("garage")
            .arg("-c")
            .arg(&path)
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_DEFAULT_ACCESS_KEY", Self::KEY)
            .env("GARAGE_DEFAULT_SECRET_KEY", Self::SECRET)
            .env("GARAGE_DEFAULT_BUCKET", BUCKET)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let garage = Self {
            process,
            _folder: folder,
            endpoint: format!("http://127.0.0.1:{api}"),
        };
        wait::until("Garage's bucket", Duration::from_secs(60), || async {
            garage.client(&[]).probe().await.ok()
        })
        .await;
        Some(garage)
    }

    pub fn client(&self, more: &[(&str, &str)]) -> S3Store {
        let own = [
            ("HA_AWS_REGION", Self::REGION),
            ("HA_AWS_ACCESS_KEY", Self::KEY),
            ("HA_AWS_SECRET_KEY", Self::SECRET),
        ];
        let all: Vec<_> = own.iter().chain(more).copied().collect();
        client(&self.endpoint, &all)
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Bytes without pattern, the same for the same size above 1; a single one is random.
pub fn noise(size: usize) -> Vec<u8> {
    let mut state = match size {
        1 => u64::from_le_bytes(ov2_ha_recorder::random::bytes()),
        size => size as u64,
    };
    (0..size)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}
