//! OpenVidu's REST interface, as far as it is asked whether a session is still recorded: sessions in memory, recordings as
//! their files say, both in OpenVidu's own words; and whatever else may answer, or not, at its address.

use super::controller::free_port;
use super::target::serve;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::AUTHORIZATION;
use hyper::{Request, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// OpenVidu's secret.
pub const SECRET: &str = "a secret of OpenVidu";

/// The interface; nobody listens while it is down.
#[derive(Debug)]
pub struct Rest {
    /// Where it is.
    pub port: u16,
    known: Arc<Mutex<Known>>,
    listening: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Known {
    /// When each session was created, and whether it is recorded.
    sessions: BTreeMap<String, (u64, bool)>,
    recordings: PathBuf,
    /// What is answered to everything, where it is not OpenVidu that answers.
    instead: Option<(u16, &'static str)>,
    asked: usize,
    /// `OPENVIDU_RECORDING_PUBLIC_ACCESS=true`.
    is_public: bool,
}

impl Rest {
    /// One that is up.
    pub async fn serve() -> Self {
        super::secrets::keep([("OPENVIDU_SECRET", SECRET)]);
        let rest = Self {
            port: free_port(),
            known: Arc::default(),
            listening: Mutex::default(),
        };
        rest.up().await;
        rest
    }

    /// The same with its recordings below `recordings`.
    pub fn over(self, recordings: &Path) -> Self {
        self.known.lock().unwrap().recordings = recordings.to_owned();
        self
    }

    /// All of its recordings folder is served to everyone.
    pub fn serve_recordings_to_everyone(&self) {
        self.known.lock().unwrap().is_public = true;
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// It takes connections.
    pub async fn up(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let known = Arc::clone(&self.known);
        let task = tokio::spawn(serve(listener, move |request| {
            let answer = answer(&mut known.lock().unwrap(), &request);
            async move { answer }
        }));
        *self.listening.lock().unwrap() = Some(task);
    }

    /// It refuses connections.
    pub async fn down(&self) {
        let task = self.listening.lock().unwrap().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
    }

    /// Something else answers at its address; with `None` it is OpenVidu again.
    pub fn answers_instead(&self, what: Option<(u16, &'static str)>) {
        self.known.lock().unwrap().instead = what;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.known.lock().unwrap().asked
    }

    /// There is this session. An error where it is being recorded already and is to be again, as OpenVidu's own 409.
    pub fn records(&self, session: &str, created_at: u64, recorded: bool) -> Result<(), String> {
        let mut known = self.known.lock().unwrap();
        let before = known.sessions.get(session).is_some_and(|it| it.1);
        if before && recorded {
            return Err(format!("409: session {session} is being recorded"));
        }
        known
            .sessions
            .insert(session.to_owned(), (created_at, recorded));
        Ok(())
    }

    /// It knows no session any more: it was started again.
    pub fn forget(&self) {
        self.known.lock().unwrap().sessions.clear();
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if let Some(task) = self.listening.lock().unwrap().take() {
            task.abort();
        }
    }
}

fn answer(known: &mut Known, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let recordings = request.uri().path().strip_prefix("/openvidu/recordings/");
    known.asked += usize::from(recordings.is_none());
    let (status, text) = match known.instead {
        Some((status, text)) => (status, text.to_owned()),
        None => openvidu_says(known, request),
    };
    // Whoever is down answers on no connection that was made before.
    let closing = Response::builder()
        .status(status)
        .header("connection", "close");
    closing.body(Full::from(text)).unwrap()
}

fn openvidu_says(known: &Known, request: &Request<Incoming>) -> (u16, String) {
    let file = request.uri().path().strip_prefix("/openvidu/recordings/");
    if let Some(file) = file.filter(|_| known.is_public) {
        return match fs::read_to_string(known.recordings.join(file)) {
            Ok(text) => (200, text),
            Err(_) => (404, error(404, "Not Found")),
        };
    }
    let wanted = format!("Basic {}", STANDARD.encode(format!("OPENVIDUAPP:{SECRET}")));
    let given = request.headers().get(AUTHORIZATION);
    if given.is_none_or(|given| given != wanted.as_str()) {
        return (401, error(401, "Unauthorized"));
    }
    let path = request.uri().path();
    if path == "/openvidu/api/config" {
        return (200, json!({"VERSION": "2.32.2"}).to_string());
    }
    if let Some(id) = path.strip_prefix("/openvidu/api/sessions/") {
        return match known.sessions.get(id) {
            Some((created_at, recorded)) => (200, session(id, *created_at, *recorded).to_string()),
            None => (404, error(404, "Not Found")),
        };
    }
    let recording = path.strip_prefix("/openvidu/api/recordings/");
    let file = recording.map(|id| known.recordings.join(id).join(format!(".recording.{id}")));
    match file.and_then(|file| fs::read_to_string(file).ok()) {
        Some(text) => (200, text),
        None => (404, error(404, "Not Found")),
    }
}

fn session(id: &str, created_at: u64, recorded: bool) -> Value {
    json!({
        "id": id, "object": "session", "sessionId": id, "createdAt": created_at, "mediaMode": "ROUTED",
        "recordingMode": "MANUAL", "recording": recorded, "broadcasting": false,
        "connections": {"numberOfElements": 0, "content": []},
    })
}

fn error(status: u16, text: &str) -> String {
    json!({"timestamp": 0, "status": status, "error": text, "path": "/openvidu/api"}).to_string()
}
