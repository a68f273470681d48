//! The customer's endpoint, to which webhooks are relayed: a real HTTP server that answers as it is told and remembers
//! what came.

use super::wait::until;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The endpoint; it is gone when dropped.
#[derive(Debug)]
pub struct Target {
    /// Where it listens on the loopback interface.
    pub port: u16,
    came: Arc<Mutex<Vec<Came>>>,
    tasks: Tasks,
}

/// Ended when dropped.
#[derive(Debug)]
struct Tasks(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// A delivery.
#[derive(Clone, Debug)]
pub struct Came {
    /// When.
    pub at: Instant,
    /// Its method.
    pub method: String,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Vec<u8>,
}

/// What to answer to the delivery that comes as number `count`, from 0.
type Manner = Arc<dyn Fn(usize, &Came) -> (u16, Option<&'static str>) + Send + Sync>;

impl Target {
    /// One on `port`, or with 0 on any that is free; `manner` is given the number of each delivery, from 0, and answers with
    /// status and `Retry-After`.
    pub async fn start(
        port: u16,
        manner: impl Fn(usize, &Came) -> (u16, Option<&'static str>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let came = Arc::new(Mutex::new(Vec::new()));
        let (shared, manner): (_, Manner) = (Arc::clone(&came), Arc::new(manner));
        let task = tokio::spawn(serve(listener, move |request| {
            answer(request, Arc::clone(&shared), Arc::clone(&manner))
        }));
        Self {
            port,
            came,
            tasks: Tasks(vec![task]),
        }
    }

    /// One that takes everything.
    pub async fn agreeable() -> Self {
        Self::start(0, |_, _| (200, None)).await
    }

    /// One that takes everything over TLS, with the certificate and key of these PEM files.
    pub async fn secure(certificate: &Path, key: &Path) -> Self {
        let mut plain = Self::agreeable().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = acceptor(certificate, key);
        let behind = plain.port;
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that refuses the certificate ends the connection here.
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut inner = TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
                });
            }
        });
        plain.tasks.0.push(task);
        plain.port = port;
        plain
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// What came so far.
    pub fn came(&self) -> Vec<Came> {
        self.came.lock().unwrap().clone()
    }

    /// What came, once there are so many.
    pub async fn has(&self, count: usize) -> Vec<Came> {
        until(
            &format!("{count} deliveries"),
            Duration::from_secs(30),
            || async {
                let came = self.came();
                (came.len() >= count).then_some(came)
            },
        )
        .await
        .1
    }

    /// What the customer was told of `recording`, in order.
    pub fn told_of(&self, recording: &str) -> Vec<Told> {
        let read = |came: Came| {
            let event: Value = serde_json::from_slice(&came.body).ok()?;
            let told = Told {
                status: event["status"].as_str()?.to_owned(),
                synthesized: came
                    .headers
                    .get("x-ha-synthesized")
                    .is_some_and(|it| it == "true"),
                event,
            };
            (told.event["id"] == recording).then_some(told)
        };
        self.came().into_iter().filter_map(read).collect()
    }
}

/// A `recordingStatusChanged` that the customer was sent.
#[derive(Clone, Debug)]
pub struct Told {
    /// Its status.
    pub status: String,
    /// Whether the controller sent it in OpenVidu's place.
    pub synthesized: bool,
    /// All of it.
    pub event: Value,
}

/// What makes TLS of a connection, by files in PEM form.
pub fn acceptor(certificate: &Path, key: &Path) -> TlsAcceptor {
    ov2_ha_recorder::outbound::install_tls();
    let chain = CertificateDer::pem_file_iter(certificate).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Serves for ever, each request by `answer`.
pub async fn serve<F>(
    listener: TcpListener,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(served);
    }
}

async fn answer(
    request: Request<Incoming>,
    came: Arc<Mutex<Vec<Came>>>,
    manner: Manner,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let headers = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let one = Came {
        at: Instant::now(),
        method: parts.method.to_string(),
        headers: headers.collect(),
        body: body
            .collect()
            .await
            .map(|body| body.to_bytes().to_vec())
            .unwrap_or_default(),
    };
    let (status, after) = {
        let mut came = came.lock().unwrap();
        came.push(one.clone());
        manner(came.len() - 1, &one)
    };
    let mut response = Response::builder().status(status);
    if let Some(after) = after {
        response = response.header("retry-after", after);
    }
    response.body(Full::default()).unwrap()
}
