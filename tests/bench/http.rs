//! What the interface, the outbox and the relay do on this machine, beside what they must reach: `cargo bench --bench http`.
//! The real program listens on loopback, `wrk` or a paced sender makes the load, and both share the processors. One line a
//! figure; exit code 1 when one is missed. `OV2_PROGRAM` names another program to measure, as the one that ships. Words
//! after `--` choose among `start`, `idle`, `heartbeats`, `webhooks`, `single`, `relay`, `dead` and `many`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_docs
)]

#[path = "../support/mod.rs"]
mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::controller::{Controller, USER, free_port, program};
use support::loss::median;
use support::sheet::{Figure, Measurement, Sheet};
use support::wait::until;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

/// How long `wrk` makes its load.
const SECONDS: u64 = 10;
const MIB: f64 = 1024.0 * 1024.0;

const MEASUREMENTS: [Measurement; 8] = [
    ("start", || Box::pin(start())),
    ("idle", || Box::pin(idle())),
    ("heartbeats", || Box::pin(heartbeats())),
    ("webhooks", || Box::pin(webhooks())),
    ("single", || Box::pin(single_webhooks())),
    ("relay", || Box::pin(relay())),
    ("dead", || Box::pin(dead_targets())),
    ("many", || Box::pin(many_sessions())),
];

fn main() {
    let mut sheet = Sheet::new();
    sheet.fill(&MEASUREMENTS);
    sheet.end();
}

/// A controller with folders that go away, on the disk of the build.
struct House {
    controller: Controller,
    folder: TempDir,
}

impl House {
    async fn with(more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // Nothing is to be held lost here because the load is made up.
        let patient = [
            ("HA_RUNTIME", "process"),
            ("HEARTBEAT_INTERVAL", "300"),
            ("HA_MAX_MISSED_HEARTBEATS", "100"),
            ("CHUNK_TIME_SIZE", "300"),
        ];
        let binary = program(env!("CARGO_BIN_EXE_ov2-ha-recorder"));
        let (state, recordings) = (folder.path().join("state"), folder.path().join("r"));
        let settings = [&patient, more].concat();
        let controller = Controller::start(&binary, &state, &recordings, &settings).await;
        Self { controller, folder }
    }

    fn login(&self) -> String {
        let both = format!("{USER}:{}", self.controller.password);
        format!("Basic {}", STANDARD.encode(both))
    }

    /// Registers so many sessions as recorders do, and hears of a chunk from each.
    async fn populate(&self, sessions: usize) {
        let writers = (0..32).map(|writer| {
            let (login, url) = (self.login(), self.controller.url("/api/sessions"));
            let client = client();
            tokio::spawn(async move {
                for number in (writer..sessions).step_by(32) {
                    let send = |request: reqwest::RequestBuilder, body: &Value| {
                        let request = request.header("authorization", &login);
                        request.json(body).send()
                    };
                    let sent = send(client.post(&url), &registration(number)).await;
                    assert_eq!(sent.unwrap().status(), 201);
                    let beat = client.put(format!("{url}/bench-{number}/heartbeat"));
                    let heard = send(beat, &heartbeat(number)).await;
                    assert_eq!(heard.unwrap().status(), 200);
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    }

    /// Bytes of memory that its process holds.
    fn resident(&self) -> f64 {
        let status = format!("/proc/{}/status", self.controller.process());
        let text = std::fs::read_to_string(status).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024.0
    }

    /// How often its threads have woken up by themselves.
    fn wake_ups(&self) -> u64 {
        let tasks = format!("/proc/{}/task", self.controller.process());
        let threads = std::fs::read_dir(tasks).unwrap().flatten();
        let texts = threads
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok())
            .collect::<String>();
        let lines = texts.lines().filter(|line| line.starts_with("voluntary"));
        lines
            .map(|line| {
                line.split_whitespace()
                    .nth(1)
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
            })
            .sum()
    }

    /// Starts it anew; how long until each of these requests is answered with success.
    async fn restart<const N: usize>(&mut self, requests: [String; N]) -> [Duration; N] {
        self.controller.stop().await;
        let port = self.controller.port;
        let begin = Instant::now();
        let waits = requests.map(|request| {
            tokio::spawn(async move {
                while !answers(port, &request).await {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                begin.elapsed()
            })
        });
        self.controller.resume().await;
        let mut took = [Duration::ZERO; N];
        for (took, wait) in took.iter_mut().zip(waits) {
            *took = wait.await.unwrap();
        }
        took
    }

    /// A request as it goes over the line.
    fn request(&self, method: &str, path: &str, body: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\nContent-Type: application/json\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.login(),
            body.len()
        )
    }

    /// Runs `wrk` with a script that gives it its requests.
    async fn load(&self, connections: usize, script: &str) -> Load {
        let path = self.folder.path().join("load.lua");
        std::fs::write(&path, format!("{script}\n{REPORT}")).unwrap();
        let output = tokio::process::Command::new("wrk")
            .args(["--threads", "1", "--connections", &connections.to_string()])
            .args(["--duration", &format!("{SECONDS}s")])
            .arg("--script")
            .arg(&path)
            .arg(self.controller.url("/"))
            .stdin(Stdio::null())
            .output()
            .await
            .expect("wrk is needed: apt-get install wrk");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Load::read(&text).unwrap_or_else(|| panic!("wrk said: {text}"))
    }
}

/// Lets `wrk` say what it measured in one line.
const REPORT: &str = r#"
function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("\nRESULT %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), failed))
end
"#;

/// What `wrk` measured.
struct Load {
    rate: f64,
    median: f64,
    p99: f64,
    failed: u64,
}

impl Load {
    fn read(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("RESULT "))?;
        let numbers = line.split(' ').map(|word| word.parse::<f64>().ok());
        let numbers = numbers.collect::<Option<Vec<_>>>()?;
        let [requests, micros, median, p99, failed] = numbers[..] else {
            return None;
        };
        Some(Self {
            rate: requests / (micros / 1e6),
            median: median / 1e3,
            p99: p99 / 1e3,
            failed: failed as u64,
        })
    }

    fn words(&self) -> String {
        format!(
            "{:.0}/s, median {:.2} ms, p99 {:.2} ms, {} failed",
            self.rate, self.median, self.p99, self.failed
        )
    }
}

/// What a recorder says of itself.
fn registration(number: usize) -> Value {
    json!({
        "sessionId": format!("bench-{number}"),
        "clientId": format!("recorder-{number}-1"),
        "clientHost": format!("recorder-{number}"),
        "uniqueSessionId": format!("bench_{number}_1795577569000"),
        "originalSessionId": format!("bench_{number}"),
        "status": "STARTING",
        "recordingJson": {
            "id": format!("bench-{number}"), "object": "recording", "name": "My recording", "outputMode": "COMPOSED",
            "resolution": "1280x720", "frameRate": 25, "recordingLayout": "BEST_FIT", "sessionId": format!("bench_{number}"),
            "uniqueSessionId": format!("bench_{number}_1795577569000"), "createdAt": 1_795_577_569_000_u64 + number as u64,
            "size": 0, "duration": 0.0, "hasAudio": true, "hasVideo": true, "status": "starting",
        },
        "environment": {
            "RESOLUTION": "1280x720", "FRAMERATE": 25, "ONLY_VIDEO": false, "HA_RECORDING_STORAGE": "local",
            "CHUNK_FOLDER": "chunks", "CHUNK_TIME_SIZE": 10, "HEARTBEAT_INTERVAL": 10, "HA_GAP_MODE": "cut",
        },
        "metadata": {"recorder": env!("CARGO_PKG_VERSION")},
        "recorder": {"take": take(number), "lastRun": 0, "videoName": "My recording"},
    })
}

/// What a recorder says of its work.
fn heartbeat(number: usize) -> Value {
    json!({
        "lastChunk": "0000.mp4", "take": take(number), "run": 1,
        "report": {
            "chunk": 1, "bytes": 1_250_000, "chunksStored": 1, "frames": 250,
            "newestFrameAt": "2026-11-25T18:00:00.040Z",
        },
    })
}

fn take(number: usize) -> String {
    (1_795_577_569_000 + number).to_string()
}

fn client() -> reqwest::Client {
    let second = Duration::from_secs(1);
    ov2_ha_recorder::outbound::client(second, 60 * second).unwrap()
}

/// Whether a request is answered with success. A connection alone waits in the listener's queue while the database is being
/// opened.
async fn answers(port: u16, request: &str) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else {
        return false;
    };
    let mut begin = [0; 12];
    stream.write_all(request.as_bytes()).await.is_ok()
        && stream.read_exact(&mut begin).await.is_ok()
        && begin == *b"HTTP/1.1 200"
}

async fn start() -> Vec<Figure> {
    let mut house = House::with(&[]).await;
    let mut times = Vec::new();
    for _ in 0..5 {
        let health = house.request("GET", "/actuator/health", "");
        let [took] = house.restart([health]).await;
        times.push(took);
    }
    let median = median(&times);
    let figure = Figure {
        name: "start to the first answer",
        required: "<= 150 ms",
        measured: format!("{} ms (median of 5)", median.as_millis()),
        reached: median <= Duration::from_millis(150),
    };
    vec![figure]
}

async fn idle() -> Vec<Figure> {
    let house = House::with(&[]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = house.wake_ups();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let woken = (house.wake_ups() - before) as f64 / 10.0;
    let resident = house.resident() / MIB;
    let figure = Figure {
        name: "idle",
        required: "<= 25 MiB resident, no wake-ups beyond its timers (sled 8/s, the process runtime 4/s, the rest 8/s)",
        measured: format!("{resident:.1} MiB; {woken:.1} wake-ups/s"),
        reached: resident <= 25.0 && woken <= 25.0,
    };
    vec![figure]
}

async fn heartbeats() -> Vec<Figure> {
    let house = House::with(&[]).await;
    house.populate(1_000).await;
    let script = format!(
        r#"
local requests = {{}}
function init(args)
  local headers = {{ ["Authorization"] = "{}", ["Content-Type"] = "application/json" }}
  for n = 0, 9999 do
    local path = string.format("/api/sessions/bench-%d/heartbeat", n % 1000)
    local body = string.format('{{"lastChunk":"%04d.mp4","run":1}}', math.floor(n / 1000))
    requests[n] = wrk.format("PUT", path, headers, body)
  end
end
local n = 0
function request() n = (n + 1) % 10000; return requests[n] end"#,
        house.login()
    );
    let load = house.load(64, &script).await;
    let figure = Figure {
        name: "heartbeats of 1,000 sessions, 64 connections",
        required: ">= 20,000/s, p99 <= 10 ms",
        reached: load.rate >= 20_000.0 && load.p99 <= 10.0 && load.failed == 0,
        measured: load.words(),
    };
    vec![figure]
}

/// Events of 1,000 sessions.
const EVENTS: &str = r#"
local requests = {}
function init(args)
  local headers = { ["Content-Type"] = "application/json" }
  for n = 0, 999 do
    local body = string.format('{"event":"participantJoined","timestamp":1600000000000,"sessionId":"ses_%d","participantId":"con_%d","connectionId":"con_%d","location":"unknown","platform":"Chrome on Linux","clientData":"","serverData":""}', n, n, n)
    requests[n] = wrk.format("POST", "/openvidu/webhook", headers, body)
  end
end
local n = 0
function request() n = (n + 1) % 1000; return requests[n] end"#;

async fn webhooks() -> Vec<Figure> {
    let house = House::with(&[]).await;
    let load = house.load(64, EVENTS).await;
    let figure = Figure {
        name: "webhooks over 64 connections",
        required: ">= 3,000/s durable, p99 <= 40 ms",
        reached: load.rate >= 3_000.0 && load.p99 <= 40.0 && load.failed == 0,
        measured: load.words(),
    };
    vec![figure]
}

async fn single_webhooks() -> Vec<Figure> {
    let house = House::with(&[]).await;
    let mut connection = Connection::to(house.controller.port);
    let mut file = std::fs::File::create(house.folder.path().join("synced")).unwrap();
    let (mut synced, mut answered) = (Vec::new(), Vec::new());
    for number in 0..1_000 {
        // Alternately, so that both see the same disk.
        let begin = Instant::now();
        file.write_all(&[b'x'; 512]).unwrap();
        file.sync_all().unwrap();
        synced.push(begin.elapsed());
        let body = format!(r#"{{"event":"sessionCreated","sessionId":"ses_{number}"}}"#);
        let begin = Instant::now();
        connection.post("/openvidu/webhook", &body);
        answered.push(begin.elapsed());
    }
    let (disk, webhook) = (
        median(&synced).as_secs_f64(),
        median(&answered).as_secs_f64(),
    );
    let figure = Figure {
        name: "webhooks one after another",
        required: "<= 2 x the disk's own fsync",
        measured: format!(
            "{:.2} ms beside {:.2} ms, {:.2} x (medians of 1,000)",
            webhook * 1e3,
            disk * 1e3,
            webhook / disk
        ),
        reached: webhook <= 2.0 * disk,
    };
    vec![figure]
}

/// One connection without a client's own threads, whose hand-offs would be measured with the answer.
struct Connection(BufReader<std::net::TcpStream>);

impl Connection {
    fn to(port: u16) -> Self {
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// Sends one request and reads its answer, which must be 200.
    fn post(&mut self, path: &str, body: &str) {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| line != "\r\n") {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            lines.push(line.to_ascii_lowercase());
        }
        assert!(lines[0].starts_with("http/1.1 200"), "{lines:?}");
        let length = lines
            .iter()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.unwrap().trim().parse().unwrap();
        self.0.read_exact(&mut vec![0; length]).unwrap();
    }
}

async fn relay() -> Vec<Figure> {
    let target = Target::start().await;
    let house = House::relaying(&target.url()).await;
    let paced = house.send_paced(20_000, 1_000).await;
    let delays = target.delays(&paced).await;
    let took = *target.last.lock().unwrap() - paced[&0];
    let (median, p99) = (quantile(&delays, 0.5), quantile(&delays, 0.99));
    let figure = Figure {
        name: "relay to one target",
        required: "1,000/s to one target, sustained",
        measured: format!(
            "{} events in {:.2} s, {:.0}/s; from sent to received median {:.1} ms, p99 {:.1} ms",
            delays.len(),
            took.as_secs_f64(),
            delays.len() as f64 / took.as_secs_f64(),
            median * 1e3,
            p99 * 1e3
        ),
        reached: took <= Duration::from_millis(20_500),
    };
    vec![figure]
}

async fn dead_targets() -> Vec<Figure> {
    let target = Target::start().await;
    let alone = House::relaying(&target.url()).await;
    let (without, _) = alone.delays_after_load(&target).await;
    drop(alone);

    // One that refuses every connection, one that takes them and never answers.
    let refusing = format!("http://127.0.0.1:{}/hook", free_port());
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            held.push(stream);
        }
    });
    let targets = format!("{refusing},http://127.0.0.1:{port}/hook,{}", target.url());
    let house = House::relaying(&targets).await;
    let (with, waiting) = house.delays_after_load(&target).await;
    held.abort();
    let (a, b) = (quantile(&without, 0.5), quantile(&with, 0.5));
    let (tail_a, tail_b) = (quantile(&without, 0.99), quantile(&with, 0.99));
    let figure = Figure {
        name: "relay beside dead targets",
        required: "a dead target delays another's events by < 10 ms",
        measured: format!(
            "median {:.1} -> {:.1} ms, p99 {:.1} -> {:.1} ms beside two dead targets with {waiting} events waiting",
            a * 1e3,
            b * 1e3,
            tail_a * 1e3,
            tail_b * 1e3
        ),
        reached: b - a < 0.01 && tail_b - tail_a < 0.01,
    };
    vec![figure]
}

async fn many_sessions() -> Vec<Figure> {
    let mut house = House::with(&[]).await;
    house.populate(100_000).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let filled = house.resident() / MIB;
    let script = format!(
        r#"
wrk.path = "/api/sessions?limit=50"
wrk.headers["Authorization"] = "{}""#,
        house.login()
    );
    let load = house.load(4, &script).await;
    let listed = house.resident() / MIB;
    let beat = heartbeat(99_999).to_string();
    let requests = [
        house.request("PUT", "/api/sessions/bench-99999/heartbeat", &beat),
        house.request("GET", "/actuator/health", ""),
        house.request("GET", "/api/sessions?limit=50", ""),
    ];
    let [beat, health, whole] = house.restart(requests).await;
    let first = beat.max(health);
    let list = Figure {
        name: "list of 50 among 100,000 sessions",
        required: "p99 <= 5 ms",
        reached: load.p99 <= 5.0 && load.failed == 0,
        measured: load.words(),
    };
    let memory = Figure {
        name: "memory of 100,000 sessions",
        required: "<= 150 MiB resident",
        measured: format!("{filled:.0} MiB, after the lists {listed:.0} MiB"),
        reached: filled.max(listed) <= 150.0,
    };
    let start = Figure {
        name: "start with 100,000 sessions",
        required: "<= 150 ms to the first answer",
        measured: format!(
            "a heartbeat after {} ms, health after {} ms; the list, for which all are read, after {} ms",
            beat.as_millis(),
            health.as_millis(),
            whole.as_millis()
        ),
        reached: first <= Duration::from_millis(150),
    };
    vec![list, memory, start]
}

/// The customer's endpoint: takes everything and remembers when which number came.
struct Target {
    port: u16,
    came: Arc<Mutex<HashMap<u64, Instant>>>,
    last: Arc<Mutex<Instant>>,
}

impl Target {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let came = Arc::new(Mutex::new(HashMap::new()));
        let last = Arc::new(Mutex::new(Instant::now()));
        let target = Self { port, came, last };
        let (came, last) = (Arc::clone(&target.came), Arc::clone(&target.last));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (came, last) = (Arc::clone(&came), Arc::clone(&last));
                let service = service_fn(move |request: hyper::Request<Incoming>| {
                    let (came, last) = (Arc::clone(&came), Arc::clone(&last));
                    async move {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
                        let now = Instant::now();
                        let number = event["number"].as_u64();
                        came.lock().unwrap().insert(number.unwrap_or(u64::MAX), now);
                        *last.lock().unwrap() = now;
                        Ok::<_, Infallible>(hyper::Response::new(Full::<Bytes>::default()))
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        target
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// Seconds from sent to received for each of these, once all have come.
    async fn delays(&self, sent: &HashMap<u64, Instant>) -> Vec<f64> {
        let all = || async {
            let came = self.came.lock().unwrap();
            sent.keys()
                .all(|number| came.contains_key(number))
                .then_some(())
        };
        until("every event at the target", Duration::from_secs(60), all).await;
        let came = self.came.lock().unwrap();
        let delay = |(number, at): (&u64, &Instant)| (came[number] - *at).as_secs_f64();
        let mut delays: Vec<f64> = sent.iter().map(delay).collect();
        delays.sort_by(f64::total_cmp);
        delays
    }
}

impl House {
    async fn relaying(targets: &str) -> Self {
        let relay = [
            ("OPENVIDU_WEBHOOK", "true"),
            ("OPENVIDU_WEBHOOK_ENDPOINT", targets),
        ];
        Self::with(&relay).await
    }

    /// How long events take to the target after ten seconds of full load, and how many wait for other targets then.
    async fn delays_after_load(&self, target: &Target) -> (Vec<f64>, u64) {
        self.load(64, EVENTS).await;
        let settled = || async {
            let before = *target.last.lock().unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            (*target.last.lock().unwrap() == before).then_some(())
        };
        until(
            "the end of the target's events",
            Duration::from_secs(120),
            settled,
        )
        .await;
        let status = self.controller.get("/openvidu/webhook/status").await;
        target.came.lock().unwrap().clear();
        let paced = self.send_paced(5_000, 500).await;
        let waiting = status["pending"].as_u64().unwrap();
        (target.delays(&paced).await, waiting)
    }

    /// Sends so many numbered events of 200 sessions, so many a second; when each was sent.
    async fn send_paced(&self, events: u64, rate: u64) -> HashMap<u64, Instant> {
        const SENDERS: u64 = 16;
        let begin = Instant::now();
        let senders = (0..SENDERS).map(|sender| {
            let (client, url) = (client(), self.controller.url("/openvidu/webhook"));
            tokio::spawn(async move {
                let mut sent = Vec::new();
                for number in (sender..events).step_by(SENDERS as usize) {
                    let due = begin + Duration::from_secs_f64(number as f64 / rate as f64);
                    tokio::time::sleep_until(due.into()).await;
                    let session = number % 200;
                    let body = format!(
                        r#"{{"event":"signalSent","sessionId":"s{session}","number":{number}}}"#
                    );
                    sent.push((number, Instant::now()));
                    let answer = client.post(&url).body(body).send().await.unwrap();
                    assert_eq!(answer.status(), 200);
                }
                sent
            })
        });
        let mut sent = HashMap::new();
        for sender in senders.collect::<Vec<_>>() {
            sent.extend(sender.await.unwrap());
        }
        sent
    }
}

fn quantile(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}
