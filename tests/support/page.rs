//! The page that is recorded, served on the loopback interface as OpenVidu's dashboard would serve it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Shows the wall clock.
pub const CLOCK: &str = include_str!("../fixtures/clock.html");

/// Serves `tests/fixtures/clock.html` until it is dropped.
#[derive(Debug)]
pub struct Page {
    address: SocketAddr,
    is_away: Arc<AtomicBool>,
    server: JoinHandle<()>,
}

impl Page {
    /// Starts to serve on a free port.
    pub async fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_away = Arc::new(AtomicBool::new(false));
        let away = Arc::clone(&is_away);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // an untaken stream ends here: the connection is closed without an answer
                if !away.load(Ordering::Relaxed) {
                    tokio::spawn(answer(stream));
                }
            }
        });
        Self {
            address,
            is_away,
            server,
        }
    }

    /// Lets nobody have the page any more.
    pub fn go_away(&self) {
        self.is_away.store(true, Ordering::Relaxed);
    }

    /// Serves again.
    pub fn come_back(&self) {
        self.is_away.store(false, Ordering::Relaxed);
    }

    /// Its address, with a secret in it as OpenVidu's has.
    pub fn url(&self) -> String {
        format!("http://{}/clock.html?secret={SECRET}", self.address)
    }

    /// The address of the same clock, shown through a `<video>` as WebRTC media are, so many milliseconds after the page is
    /// there.
    pub fn media_url(&self, after: u32) -> String {
        format!("{}&media={after}", self.url())
    }
}

/// What must never be found in logs and files.
pub const SECRET: &str = "never-to-be-shown";

impl Drop for Page {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(mut stream: TcpStream) {
    let mut request = [0; 4096];
    let read = stream.read(&mut request).await.unwrap_or(0);
    let wanted = request[..read].starts_with(b"GET /clock.html");
    let (status, body) = if wanted {
        ("200 OK", CLOCK)
    } else {
        ("404 Not Found", "")
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// How an odd page is answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The document's status.
    pub status: u16,
    /// How long its server thinks about it.
    pub delay: Duration,
    /// A header line of its own.
    pub header: &'static str,
    /// The document.
    pub body: String,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            status: 200,
            delay: Duration::ZERO,
            header: "X-Odd: no",
            body: CLOCK.to_owned(),
        }
    }
}

/// A page with a server of its own kind, which remembers when it was asked for and what the page said: a page says
/// something by fetching `/said/…`.
#[derive(Debug)]
pub struct OddPage {
    address: SocketAddr,
    desk: Arc<OddDesk>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct OddDesk {
    answer: Answer,
    is_away: AtomicBool,
    loads: Mutex<Vec<Instant>>,
    said: Mutex<Vec<String>>,
}

impl OddPage {
    /// Serves on a free port.
    pub async fn serve(answer: Answer) -> Self {
        Self::serve_at(([127, 0, 0, 1], 0).into(), answer, false).await
    }

    /// Serves at `address`; from away it takes requests and ends their connections unanswered.
    pub async fn serve_at(address: SocketAddr, answer: Answer, is_away: bool) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let desk = Arc::new(OddDesk {
            answer,
            is_away: is_away.into(),
            loads: Mutex::default(),
            said: Mutex::default(),
        });
        let at_desk = Arc::clone(&desk);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let desk = Arc::clone(&at_desk);
                tokio::spawn(async move { desk.serve(stream).await });
            }
        });
        Self {
            address,
            desk,
            server,
        }
    }

    /// Where it is.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The document's address, of the form that OpenVidu's layouts have.
    pub fn url(&self) -> String {
        let route = format!("/layout-best-fit/ses_odd/{SECRET}/443/false");
        format!("http://{}/odd#{route}", self.address)
    }

    /// From now on answers as ordered.
    pub fn come_back(&self) {
        self.desk.is_away.store(false, Ordering::Relaxed);
    }

    /// From now on requests are taken and not answered: their connections end.
    pub fn go_away(&self) {
        self.desk.is_away.store(true, Ordering::Relaxed);
    }

    /// When the document was asked for.
    pub fn loads(&self) -> Vec<Instant> {
        lock(&self.desk.loads).clone()
    }

    /// What the page said.
    pub fn said(&self) -> Vec<String> {
        lock(&self.desk.said).clone()
    }
}

impl Drop for OddPage {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl OddDesk {
    async fn serve(&self, mut stream: TcpStream) {
        let mut request = [0; 4096];
        let read = stream.read(&mut request).await.unwrap_or(0);
        let request = String::from_utf8_lossy(&request[..read]).into_owned();
        let path = request.split_whitespace().nth(1).unwrap_or_default();
        let (status, body) = match path.strip_prefix("/said/") {
            Some(what) => {
                lock(&self.said).push(what.to_owned());
                (204, "")
            }
            None if path == "/odd" => {
                lock(&self.loads).push(Instant::now());
                if self.is_away.load(Ordering::Relaxed) {
                    return;
                }
                tokio::time::sleep(self.answer.delay).await;
                (self.answer.status, self.answer.body.as_str())
            }
            None => (404, ""),
        };
        let head = format!(
            "HTTP/1.1 {status} Odd\r\nContent-Type: text/html; charset=utf-8\r\n{}\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.answer.header,
            body.len()
        );
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(body.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
