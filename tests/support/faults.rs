//! A proxy between a client and its store that does what networks and stores do on bad days. One request a connection, so
//! that a script of faults meets one request after the other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What befalls one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing.
    None,
    /// It waits before it goes on.
    Late(Duration),
    /// It is answered with this status and error code, and does not reach the store.
    Status(u16, &'static str),
    /// The connection ends after so many of its bytes.
    CutRequest(usize),
    /// It is done, and the connection ends after so many bytes of the answer.
    CutAnswer(usize),
    /// Its last byte is another one.
    Corrupt,
    /// Nobody is there.
    Away,
}

/// The proxy.
pub struct Proxy {
    pub endpoint: String,
    script: Arc<Mutex<Script>>,
}

struct Script {
    next: VecDeque<Fault>,
    usual: Fault,
    requests: usize,
}

impl Proxy {
    /// A proxy to `store`, an `http://` endpoint, without faults yet.
    pub async fn before(store: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let store = store.trim_start_matches("http://").to_owned();
        let script = Arc::new(Mutex::new(Script {
            next: VecDeque::new(),
            usual: Fault::None,
            requests: 0,
        }));
        let shared = Arc::clone(&script);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(one_request(client, store.clone(), Arc::clone(&shared)));
            }
        });
        Self { endpoint, script }
    }

    /// What befalls the next requests, one each.
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.script.lock().unwrap().next.extend(faults);
    }

    /// What befalls every request that the script does not name.
    pub fn usually(&self, fault: Fault) {
        self.script.lock().unwrap().usual = fault;
    }

    pub fn requests(&self) -> usize {
        self.script.lock().unwrap().requests
    }
}

async fn one_request(mut client: TcpStream, store: String, script: Arc<Mutex<Script>>) {
    let fault = {
        let mut script = script.lock().unwrap();
        script.requests += 1;
        let usual = script.usual.clone();
        script.next.pop_front().unwrap_or(usual)
    };
    if let Fault::CutRequest(bytes) = fault {
        let mut some = vec![0; bytes.max(1)];
        let _ = client.read_exact(&mut some).await;
        return;
    }
    if matches!(fault, Fault::Away) {
        return;
    }
    let Some(mut request) = read_request(&mut client).await else {
        return;
    };
    let answer = match fault {
        Fault::Status(status, code) => {
            let body = format!("<Error><Code>{code}</Code><Message>on a bad day</Message></Error>");
            format!(
                "HTTP/1.1 {status} Bad Day\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
            .into_bytes()
        }
        Fault::Late(time) => {
            tokio::time::sleep(time).await;
            forward(&store, &request).await
        }
        Fault::Corrupt => {
            *request.last_mut().unwrap() ^= 1;
            forward(&store, &request).await
        }
        _ => forward(&store, &request).await,
    };
    let most = match fault {
        Fault::CutAnswer(bytes) => bytes.min(answer.len()),
        _ => answer.len(),
    };
    let _ = client.write_all(&answer[..most]).await;
    let _ = client.shutdown().await;
}

/// Head and body, with a wish to end the connection afterwards.
async fn read_request(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    let head = loop {
        if let Some(at) = request.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if client.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
    let length: usize = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0);
    while request.len() < head + 4 + length {
        if client.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
    request.splice(head..head, b"\r\nconnection: close".iter().copied());
    Some(request)
}

async fn forward(store: &str, request: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    if let Ok(mut upstream) = TcpStream::connect(store).await {
        let _ = upstream.write_all(request).await;
        let _ = upstream.read_to_end(&mut answer).await;
    }
    answer
}
