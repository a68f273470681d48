//! The built-in S3 endpoint, for those who run no store of their own: requests come in over HTTP, objects lie as files in
//! one folder. `s3s` speaks the protocol and checks signatures; [`folder`] keeps the objects; [`protocol`] stands between.
//! One account, one bucket, an optional quota. An object that was acknowledged survives any kill and power cut.

mod folder;
mod protocol;
mod receive;

use crate::config::{Faults, Secret, Settings};
use crate::tasks::Tasks;
use hyper_util::rt::{TokioIo, TokioTimer};
use log::{debug, warn};
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3ErrorCode, S3Result};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What the server needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the bucket's objects lie; nobody else writes there.
    pub root: PathBuf,
    /// The only bucket.
    pub bucket: String,
    /// The only account.
    pub access_key: String,
    /// Its secret.
    pub secret_key: Secret,
    /// Most bytes to keep.
    pub max_bytes: Option<u64>,
}

impl Options {
    /// What the settings say, with the objects below `data`; `None` when the server is not wanted.
    ///
    /// # Errors
    /// When the account is missing.
    pub fn from_settings(settings: &Settings, data: &Path) -> Result<Option<Self>, Faults> {
        if !settings.s3_server_on() {
            return Ok(None);
        }
        let (Some(access_key), Some(secret_key)) =
            (&settings.s3_access_key, &settings.s3_secret_key)
        else {
            return Err(Faults(vec![
                "HA_AWS_ACCESS_KEY and HA_AWS_SECRET_KEY: required while the built-in S3 server is on"
                    .into(),
            ]));
        };
        let bucket = settings.s3_bucket.trim_matches('/');
        let bucket = bucket.split('/').next().unwrap_or_default().to_owned();
        Ok(Some(Self {
            root: data.join("s3").join(&bucket),
            bucket,
            access_key: access_key.clone(),
            secret_key: secret_key.clone(),
            max_bytes: settings.s3_server_max_bytes,
        }))
    }
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum S3ServerError {
    /// Its folder cannot be used.
    #[error(
        "cannot keep objects in {folder}: {cause}; make the folder writable or choose another --data-dir"
    )]
    Folder {
        /// Which.
        folder: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// The server with its folder opened.
pub struct Server {
    service: Arc<S3Service>,
    tasks: Tasks,
}

impl Server {
    /// Opens the folder and sweeps what a kill left there.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub async fn open(options: &Options) -> Result<Self, S3ServerError> {
        let tasks = Tasks::new();
        let (root, max_bytes) = (options.root.clone(), options.max_bytes);
        let open = move || folder::Folder::open(&root, max_bytes);
        let opened = tasks.spawn_blocking("open the object folder", open).await;
        let folder = opened
            .unwrap_or_else(|cause| Err(io::Error::other(cause)))
            .map_err(|cause| S3ServerError::Folder {
                folder: options.root.clone(),
                cause,
            })?;
        let bucket = protocol::Bucket::new(options.bucket.clone(), folder, tasks.clone());
        let mut builder = S3ServiceBuilder::new(bucket);
        builder.set_auth(Account {
            access_key: options.access_key.clone(),
            secret_key: options.secret_key.clone(),
        });
        Ok(Self {
            service: Arc::new(builder.build()),
            tasks,
        })
    }

    /// Serves until `token` is cancelled, then lets requests under way end for a few seconds.
    pub async fn serve(self, listener: TcpListener, token: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = token.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let service = Arc::clone(&self.service);
                    let answer = connection(stream, service, self.tasks.token());
                    self.tasks.spawn("S3 connection", answer);
                }
                Err(cause) => {
                    // Out of descriptors, most often: the ones that end make room.
                    warn!("cannot accept an S3 connection: {cause}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        let left = self.tasks.end(Duration::from_secs(3)).await;
        if !left.is_empty() {
            warn!(requests = left.len(); "S3 requests were cut off at the end");
        }
    }
}

/// Opens the folder and serves until `token` is cancelled.
///
/// # Errors
/// When the folder cannot be used.
pub async fn serve(
    listener: TcpListener,
    options: Options,
    token: CancellationToken,
) -> Result<(), S3ServerError> {
    Server::open(&options).await?.serve(listener, token).await;
    Ok(())
}

/// The one who may use the server.
struct Account {
    access_key: String,
    secret_key: Secret,
}

#[async_trait::async_trait]
impl S3Auth for Account {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access_key {
            Ok(SecretKey::from(self.secret_key.expose()))
        } else {
            Err(S3ErrorCode::InvalidAccessKeyId.into())
        }
    }
}

async fn connection(stream: TcpStream, service: Arc<S3Service>, token: CancellationToken) {
    // Latency is all that is lost without it.
    let _ = stream.set_nodelay(true);
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(60))
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = token.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(cause) = ended {
        debug!("an S3 connection ended early: {cause}");
    }
}
