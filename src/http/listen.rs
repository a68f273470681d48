//! Where connections come in: an accept loop of our own, so that TLS, time-outs and the end are ours. A connection that is
//! slow to speak is closed; one that is broken harms nobody else. The certificate can change while connections live.

use super::Edge;
use super::answer::NoAnswer;
use super::guests::{Guest, Guests, SHARE};
use crate::outbound::install_tls;
use crate::tasks::Tasks;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use log::{debug, error, info, warn};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// How long a connection may take for the head of a request, and be idle between two.
const IDLE: Duration = Duration::from_secs(75);
/// How long TLS may take to be agreed upon.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long requests under way may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// The largest head of a request.
const HEAD: usize = 32 * 1024;
/// How often the certificate's files are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How often it is told at most that an address has too many connections.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// Why nothing can come in.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be had.
    #[error("cannot listen on {address}: {cause}; {}", advice(.kind))]
    Address {
        /// What kind of fault that is.
        kind: ErrorKind,
        /// Which.
        address: SocketAddr,
        /// What the system said.
        cause: String,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot use {path} for TLS: {cause}")]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

fn advice(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::AddrNotAvailable => "set HA_LISTEN_ADDRESS to an address of this machine",
        ErrorKind::PermissionDenied => {
            "set HA_CONTROLLER_PORT to 1024 or more, or run this as root"
        }
        _ => "free the port or set HA_CONTROLLER_PORT",
    }
}

/// A bound address, with TLS or without.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<Tls>,
}

impl Listener {
    /// Binds `address`.
    ///
    /// # Errors
    /// When it cannot be had.
    pub async fn bind(address: SocketAddr, tls: Option<Tls>) -> Result<Self, ListenError> {
        let refused = |cause: std::io::Error| ListenError::Address {
            kind: cause.kind(),
            address,
            cause: cause.to_string(),
        };
        let tcp = TcpListener::bind(address).await.map_err(refused)?;
        Ok(Self { tcp, tls })
    }

    /// The address that was bound; its port is the real one when 0 was asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.local_addr().ok()
    }
}

/// A certificate that can be read anew while it is in use. Clones share it.
#[derive(Clone)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: Arc<Current>,
    config: Arc<rustls::ServerConfig>,
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.0.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

impl Tls {
    /// Reads certificate chain and key from PEM files.
    ///
    /// # Errors
    /// When a file cannot be read or used, or the key is not the certificate's.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, ListenError> {
        install_tls();
        let current = Arc::new(Current(RwLock::new(read(certificate, key)?)));
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current,
            config: Arc::new(config),
        })
    }

    /// Reads the files again; connections made from now on see the new certificate.
    ///
    /// # Errors
    /// When they cannot be used; then the old certificate stays.
    pub fn reload(&self) -> Result<(), ListenError> {
        let new = read(&self.certificate, &self.key)?;
        *self
            .current
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner) = new;
        info!("the certificate was read again");
        Ok(())
    }

    /// Reads the files again whenever they change.
    async fn follow(self, end: tokio_util::sync::CancellationToken) {
        let stamp = || {
            let changed = |path: &Path| std::fs::metadata(path).and_then(|it| it.modified()).ok();
            (changed(&self.certificate), changed(&self.key))
        };
        let mut seen: (Option<SystemTime>, Option<SystemTime>) = stamp();
        while end
            .run_until_cancelled(tokio::time::sleep(LOOK))
            .await
            .is_some()
        {
            let now = stamp();
            if now == seen {
                continue;
            }
            match self.reload() {
                Ok(()) => seen = now,
                // Both files are rarely written at once: look again.
                Err(cause) => {
                    warn!("the certificate's files changed and the old one stays in use: {cause}")
                }
            }
        }
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, ListenError> {
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |cause: String| ListenError::Certificate { path, cause }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|cause| wrong(certificate)(cause.to_string()))?;
    if chain.is_empty() {
        return Err(wrong(certificate)("there is no certificate in it".into()));
    }
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|cause| wrong(key)(cause.to_string()))?;
    let signer = rustls::crypto::ring::sign::any_supported_type(&private)
        .map_err(|cause| wrong(key)(cause.to_string()))?;
    let both = CertifiedKey::new(chain, signer);
    both.keys_match()
        .map_err(|cause| wrong(key)(cause.to_string()))?;
    Ok(Arc::new(both))
}

/// Takes connections until `tasks` ends, then waits a bounded time for what is under way.
pub(super) async fn accept(listener: Listener, edge: Arc<Edge>, tasks: &Tasks) {
    let end = tasks.token();
    let graceful = GracefulShutdown::new();
    if let Some(tls) = listener.tls.clone() {
        tasks.spawn("certificate", tls.follow(end.clone()));
    }
    let acceptor = listener.tls.map(|tls| TlsAcceptor::from(tls.config));
    let guests = Guests::default();
    let mut told: Option<Instant> = None;
    while let Some(accepted) = end.run_until_cancelled(listener.tcp.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                pause_after(&cause).await;
                continue;
            }
        };
        let guest = match edge.brings_others(peer.ip()) {
            true => None,
            false => match guests.enter(peer.ip().to_canonical()) {
                None => {
                    if told.is_none_or(|at| at.elapsed() >= TOLD_AGAIN) {
                        told = Some(Instant::now());
                        warn!(
                            client:% = peer;
                            "closed unread: its address has {SHARE} connections; a proxy has no limit once HA_TRUSTED_PROXIES names it"
                        );
                    }
                    continue;
                }
                guest => guest,
            },
        };
        let connection = Connection {
            peer,
            _guest: guest,
            edge: Arc::clone(&edge),
            watcher: graceful.watcher(),
        };
        tasks.spawn("connection", connection.run(stream, acceptor.clone()));
    }
    if tokio::time::timeout(LAST_ANSWERS, graceful.shutdown())
        .await
        .is_err()
    {
        warn!("some connections did not end in time and were cut");
    }
}

/// A connection that failed before it was taken is its own matter; being out of descriptors needs time to pass.
async fn pause_after(cause: &std::io::Error) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(
        cause.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        return;
    }
    error!(cause:% = cause; "cannot take a connection; if there are too many open files, raise the limit");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// A request that is not to be answered.
#[derive(Debug, thiserror::Error)]
#[error("the request is left unanswered on purpose")]
struct Unanswered;

struct Connection {
    peer: SocketAddr,
    _guest: Option<Guest>,
    edge: Arc<Edge>,
    watcher: Watcher,
}

impl Connection {
    async fn run(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        // Without it an answer may wait for the client's acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let Some(acceptor) = acceptor else {
            return self.speak(stream).await;
        };
        match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.speak(stream).await,
            Ok(Err(cause)) => {
                debug!(client:% = self.peer, cause:% = cause; "no TLS was agreed upon")
            }
            Err(_) => debug!(client:% = self.peer; "TLS took too long"),
        }
    }

    async fn speak<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // What is left of `self` lives as long as the connection: it is counted until then.
        let (edge, peer) = (self.edge, self.peer);
        let service = service_fn(move |request| {
            let edge = Arc::clone(&edge);
            async move {
                let response = edge.answer(request, peer).await;
                // hyper closes a connection whose service fails, and writes nothing.
                match response.extensions().get::<NoAnswer>() {
                    Some(_) => Err(Unanswered),
                    None => Ok(response),
                }
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_buf_size(HEAD)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(cause) = self.watcher.watch(connection).await {
            debug!(client:% = peer, cause:% = cause; "a connection ended early");
        }
    }
}
