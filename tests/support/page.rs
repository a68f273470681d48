//! The page that is recorded, served on the loopback interface as OpenVidu's dashboard would serve it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const CLOCK: &str = include_str!("../fixtures/clock.html");

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
