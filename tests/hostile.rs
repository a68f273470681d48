//! Clients that mean harm, or know no better: whatever they send or hold back, the rest of the service keeps its speed.

use crate::support::controller::{Controller, USER};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use reqwest::Method;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Connections that are held at once.
const HELD: usize = 10_000;
/// A heartbeat beside hostile clients may take so long at worst, on a machine that runs other tests too.
const PATIENCE: Duration = Duration::from_millis(500);
/// And half of them only so long.
const USUAL: Duration = Duration::from_millis(50);

struct House {
    _folder: TempDir,
    controller: Controller,
}

impl House {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"));
        let (state, recordings) = (folder.path().join("state"), folder.path().join("r"));
        let settings = [("HA_RUNTIME", "process")];
        let controller = Controller::start(binary, &state, &recordings, &settings).await;
        let body = json!({"sessionId": "ses_A", "clientId": "c"});
        let (status, _) = controller
            .ask(Method::POST, "/api/sessions", Some(&body))
            .await;
        assert_eq!(status, 201);
        Self {
            _folder: folder,
            controller,
        }
    }

    async fn connect(&self) -> TcpStream {
        let address = ("127.0.0.1", self.controller.port);
        TcpStream::connect(address).await.unwrap()
    }

    fn login(&self) -> String {
        STANDARD.encode(format!("{USER}:{}", self.controller.password))
    }

    /// Sends heartbeats for two seconds and says what half and what all of them took at most.
    async fn heartbeats(&self) -> (Duration, Duration) {
        let (began, mut took) = (Instant::now(), Vec::new());
        while began.elapsed() < Duration::from_secs(2) {
            let begin = Instant::now();
            let path = "/api/sessions/ses_A/heartbeat";
            let (status, told) = self.controller.ask(Method::PUT, path, None).await;
            assert_eq!(status, 200, "{told}");
            took.push(begin.elapsed());
        }
        took.sort_unstable();
        (took[took.len() / 2], took[took.len() - 1])
    }

    async fn keeps_its_speed(&self, beside: &str) {
        let (half, all) = self.heartbeats().await;
        println!("heartbeats beside {beside}: median {half:?}, slowest {all:?}");
        assert!(half < USUAL, "half took up to {half:?} beside {beside}");
        assert!(all < PATIENCE, "one took {all:?} beside {beside}");
    }
}

/// Lets this process, and what it starts, hold as many files as the system allows.
fn raise_the_limit() -> u64 {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_held_connections_leave_the_others_their_speed() {
    let most = raise_the_limit();
    assert!(
        most > HELD as u64 + 500,
        "only {most} open files are allowed"
    );
    let house = House::new().await;
    // Some say nothing, some begin a request, some begin a body, some have asked before.
    let beginnings: [&[u8]; 4] = [
        b"",
        b"POST /openvidu/webhook HTTP/1.1\r\nhost: x\r\nx-slow: ",
        b"POST /openvidu/webhook HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
        b"GET /openvidu/webhook HTTP/1.1\r\nhost: x\r\n\r\n",
    ];
    let mut held = Vec::new();
    for number in 0..HELD {
        let mut stream = house.connect().await;
        stream.write_all(beginnings[number % 4]).await.unwrap();
        held.push(stream);
    }
    house.keeps_its_speed("10,000 held connections").await;
    // Each gets another byte of its head or body: the slowest of requests.
    for stream in held.iter_mut().skip(1).step_by(4) {
        stream.write_all(b"y").await.unwrap();
    }
    house.keeps_its_speed("10,000 slow connections").await;
    drop(held);
    house.keeps_its_speed("10,000 connections that end").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_broken_requests_leaves_the_others_their_speed() {
    let house = House::new().await;
    let head = |path: &str, more: &str| {
        let login = house.login();
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Basic {login}\r\ncontent-type: application/json\r\n{more}\r\n"
        )
    };
    let whole = |path: &str, body: &[u8]| {
        let length = format!("content-length: {}\r\n", body.len());
        [head(path, &length).as_bytes(), body].concat()
    };
    let sessions = "/api/sessions";
    let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, " ".repeat(64 * 1024));
    let chunked = head(sessions, "transfer-encoding: chunked\r\n") + &chunk.repeat(5) + "0\r\n\r\n";
    let deep = "{\"a\":".repeat(40_000);
    let wide = format!("{{\"metadata\":[{}]}}", "[],".repeat(60_000));
    let large_head = head(sessions, &format!("x-large: {}\r\n", "y".repeat(100_000)));
    let many_heads = head(sessions, &"x-many: y\r\n".repeat(2_000));
    // What is sent, and what is answered.
    let attacks: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a large head", large_head.into_bytes(), "431"),
        ("many heads", many_heads.into_bytes(), "431"),
        ("a large body", whole(sessions, &vec![b' '; 1 << 20]), "413"),
        (
            "a large webhook",
            whole("/openvidu/webhook", &vec![b' '; 3 << 20]),
            "413",
        ),
        ("a body without end", chunked.into_bytes(), "413"),
        (
            "no UTF-8",
            whole(sessions, b"{\"sessionId\":\"\xff\xfe\"}"),
            "400",
        ),
        ("deep JSON", whole(sessions, deep.as_bytes()), "400"),
        (
            "a deep webhook",
            whole("/openvidu/webhook", deep.as_bytes()),
            "400",
        ),
        ("wide JSON", whole(sessions, wide.as_bytes()), "400"),
        (
            "no HTTP",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
            "400",
        ),
    ];
    let mut attackers = JoinSet::new();
    for (what, bytes, expected) in attacks {
        let port = house.controller.port;
        attackers.spawn(async move {
            let mut count = 0;
            let until = Instant::now() + Duration::from_millis(2_500);
            while Instant::now() < until {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                // The other side may have said enough before everything is sent.
                let _ = stream.write_all(&bytes).await;
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer).await;
                let answer = String::from_utf8_lossy(&answer);
                let status = answer.split(' ').nth(1).unwrap_or_default();
                assert_eq!(status, expected, "{what}: {answer}");
                count += 1;
            }
            (what, count)
        });
    }
    house.keeps_its_speed("a flood of broken requests").await;
    while let Some(attacker) = attackers.join_next().await {
        let (what, count) = attacker.unwrap();
        assert!(count > 0, "{what} was not tried");
    }
    assert!(!house.controller.log().contains("panicked"));
}

/// A head may take 75 s, a body 30.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes 80 s"]
async fn a_request_that_never_ends_is_cut() {
    let house = House::new().await;
    let mut body = house.connect().await;
    let begun = b"POST /openvidu/webhook HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    body.write_all(begun).await.unwrap();
    let mut head = house.connect().await;
    let slowly = async {
        let begin = Instant::now();
        for byte in b"GET /openvidu/webhook HTTP/1.1\r\nx: "
            .iter()
            .chain(&[b'y'; 100])
        {
            if head.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        begin.elapsed()
    };
    let refused = async {
        let (begin, mut answer) = (Instant::now(), vec![0; 12]);
        body.read_exact(&mut answer).await.unwrap();
        (String::from_utf8(answer).unwrap(), begin.elapsed())
    };
    let (head_took, (answer, body_took)) = tokio::join!(slowly, refused);
    assert!(answer.ends_with("408"), "{answer}");
    assert!(body_took < Duration::from_secs(35), "{body_took:?}");
    assert!(head_took < Duration::from_secs(85), "{head_took:?}");
}
