//! Webhooks from OpenVidu to the customer's endpoint: kept before they are answered, in order, whatever dies on the way.

use crate::support::controller::{Controller, USER, free_port};
use crate::support::secrets::said;
use crate::support::target::{Came, Target};
use crate::support::wait::until;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) struct House {
    _folder: TempDir,
    recordings: PathBuf,
    pub(crate) controller: Controller,
}

impl House {
    pub(crate) async fn relaying(targets: &str, more: &[(&str, &str)]) -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"));
        Self::of(binary, targets, more).await
    }

    /// The same, started by another program.
    pub(crate) async fn of(binary: &Path, targets: &str, more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let relay = [
            ("HA_RUNTIME", "process"),
            ("OPENVIDU_WEBHOOK", "true"),
            ("OPENVIDU_WEBHOOK_ENDPOINT", targets),
        ];
        let (state, recordings) = (
            folder.path().join("state"),
            folder.path().join("recordings"),
        );
        let controller =
            Controller::start(binary, &state, &recordings, &[&relay, more].concat()).await;
        Self {
            _folder: folder,
            recordings,
            controller,
        }
    }

    pub(crate) async fn send(&self, body: &Value) -> String {
        let sent = client()
            .post(self.controller.url("/openvidu/webhook"))
            .json(body)
            .send()
            .await
            .unwrap();
        let (status, answer) = (sent.status(), sent.json::<Value>().await.unwrap());
        assert_eq!(
            (status.as_u16(), &answer["status"]),
            (200, &json!("received")),
            "{answer}"
        );
        answer["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn list(&self, state: &str) -> Vec<Value> {
        let list = self
            .controller
            .get(&format!("/api/webhooks?state={state}"))
            .await;
        list["webhooks"]
            .as_array()
            .unwrap_or_else(|| panic!("{list}"))
            .clone()
    }

    pub(crate) async fn has(&self, state: &str, count: usize) -> Vec<Value> {
        until(
            &format!("{count} {state} webhooks"),
            Duration::from_secs(30),
            || async {
                let list = self.list(state).await;
                (list.len() == count).then_some(list)
            },
        )
        .await
        .1
    }
}

pub(crate) fn client() -> reqwest::Client {
    ov2_ha_recorder::outbound::client(Duration::from_secs(2), Duration::from_secs(30)).unwrap()
}

pub(crate) fn event(session: &str, number: usize) -> Value {
    json!({"event": "participantJoined", "timestamp": 1, "sessionId": session, "number": number})
}

pub(crate) fn number(came: &Came) -> u64 {
    serde_json::from_slice::<Value>(&came.body).unwrap()["number"]
        .as_u64()
        .unwrap()
}

#[tokio::test]
async fn a_webhook_is_relayed_byte_for_byte_with_its_headers_and_signed() {
    let target = Target::agreeable().await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let house = House::relaying(
        &target.url(),
        &[
            ("OPENVIDU_WEBHOOK_HEADERS", "{\"X-Mine\":\"yes\"}"),
            ("HA_WEBHOOK_SIGNING_SECRET", secret),
        ],
    )
    .await;
    let body = "{ \"event\":\"signalSent\",\n \"sessionId\" : \"s\", \"x\":1e3 }";
    let sent = client()
        .put(house.controller.url("/openvidu/webhook"))
        .header("content-type", "application/json; charset=UTF-8")
        .header("user-agent", "Apache-HttpClient/4.5")
        .header("x-openvidu-one", "1")
        .header("openvidu-two", "2")
        .header("x-other", "3")
        .body(body)
        .send()
        .await
        .unwrap();
    let answer: Value = sent.json().await.unwrap();
    assert_eq!(answer["method"], "PUT");
    let came = target.has(1).await.remove(0);
    assert_eq!(
        (came.method.as_str(), came.body.as_slice()),
        ("PUT", body.as_bytes())
    );
    let header = |name: &str| came.headers.get(name).map(String::as_str);
    assert_eq!(
        header("content-type"),
        Some("application/json; charset=UTF-8")
    );
    assert_eq!(
        header("user-agent"),
        Some("OpenVidu-Relay/Apache-HttpClient/4.5")
    );
    assert_eq!(
        (
            header("x-openvidu-one"),
            header("openvidu-two"),
            header("x-other")
        ),
        (Some("1"), Some("2"), None)
    );
    assert_eq!(
        (header("x-mine"), header("x-relay-source")),
        (Some("yes"), Some("OpenVidu-HA-Controller"))
    );
    assert!(header("x-relay-timestamp").unwrap().parse::<u64>().unwrap() > 1_700_000_000_000);
    assert_eq!(header("webhook-id"), answer["id"].as_str());
    let mut headers = reqwest::header::HeaderMap::new();
    for (name, value) in &came.headers {
        let name: reqwest::header::HeaderName = name.parse().unwrap();
        headers.insert(name, value.parse().unwrap());
    }
    let customer = standardwebhooks::Webhook::new(secret).unwrap();
    customer.verify(&came.body, &headers).unwrap();
    let mut other = came.body.clone();
    other.push(b' ');
    customer.verify(&other, &headers).unwrap_err();
    let status = house.controller.get("/openvidu/webhook/status").await;
    for member in [
        "enabled",
        "endpoint",
        "totalRequests",
        "successfulRequests",
        "failedRequests",
        "successRate",
        "lastRequestTime",
        "lastSuccessTime",
        "lastFailureTime",
        "configuration",
        "timestamp",
    ] {
        assert!(status.get(member).is_some(), "{member}: {status}");
    }
    assert!(
        !house
            .controller
            .log()
            .contains("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    );
    assert!(!house.controller.log().contains(&house.controller.password));
}

#[tokio::test]
async fn a_session_keeps_its_order_over_failures_and_holds_up_nobody_else() {
    let refusals = Mutex::new(0);
    let target = Target::start(0, move |_, came| {
        let told = serde_json::from_slice::<Value>(&came.body).unwrap();
        let first_of_slow = told["sessionId"] == "slow" && told["number"] == 0;
        let mut refusals = refusals.lock().unwrap();
        if first_of_slow && *refusals < 2 {
            *refusals += 1;
            return (503, Some("1"));
        }
        (200, None)
    })
    .await;
    let house = House::relaying(&target.url(), &[]).await;
    for number in 0..3 {
        house.send(&event("slow", number)).await;
    }
    for number in 0..20 {
        house.send(&event("quick", number)).await;
    }
    let came = target.has(21).await;
    let quick = came
        .iter()
        .filter(|came| came.body.windows(5).any(|it| it == b"quick"))
        .map(number);
    assert_eq!(quick.collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    let slow = came
        .iter()
        .filter(|came| came.body.windows(4).any(|it| it == b"slow"))
        .map(number);
    assert!(
        slow.collect::<BTreeSet<_>>()
            .iter()
            .all(|number| *number == 0),
        "the others wait for the first"
    );
    // Two refusals, then the first, the second and the third.
    let again = target.has(25).await;
    let tries = again
        .iter()
        .filter(|came| came.body.windows(4).any(|it| it == b"slow"))
        .collect::<Vec<_>>();
    assert!(
        tries[1].at - tries[0].at >= Duration::from_millis(900),
        "Retry-After is honoured"
    );
    assert_eq!(
        tries[0].headers["webhook-id"], tries[1].headers["webhook-id"],
        "the id is the same over retries"
    );
}

#[tokio::test]
async fn a_refused_webhook_is_a_dead_letter_and_can_be_replayed() {
    let target = Target::start(
        0,
        |count, _| if count == 0 { (410, None) } else { (200, None) },
    )
    .await;
    let house = House::relaying(&target.url(), &[]).await;
    let id = house.send(&event("s", 0)).await;
    let dead = house.has("dead", 1).await;
    assert_eq!(dead[0]["id"], id);
    assert!(
        dead[0]["lastError"].as_str().unwrap().contains("410"),
        "{dead:?}"
    );
    house.send(&event("s", 1)).await;
    target.has(2).await;
    let (status, answer) = house
        .controller
        .ask(
            reqwest::Method::POST,
            &format!("/api/webhooks/{id}/replay"),
            None,
        )
        .await;
    assert_eq!(
        (status.as_u16(), &answer["replayed"]),
        (202, &json!(1)),
        "{answer}"
    );
    let came = target.has(3).await;
    assert_eq!(came[0].headers["webhook-id"], came[2].headers["webhook-id"]);
    house.has("delivered", 2).await;
    assert!(house.list("dead").await.is_empty());
    let since = json!({"since": "2020-01-01T00:00:00Z"});
    let (_, answer) = house
        .controller
        .ask(reqwest::Method::POST, "/api/webhooks/replay", Some(&since))
        .await;
    assert_eq!(answer["replayed"], 2);
    target.has(5).await;
    let (status, _) = house
        .controller
        .ask(reqwest::Method::POST, "/api/webhooks/msg_none/replay", None)
        .await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_target_that_is_away_gets_everything_when_it_is_back_and_another_waits_for_nothing() {
    let away = free_port();
    let other = Target::agreeable().await;
    let targets = format!("http://127.0.0.1:{away}/a, {}", other.url());
    let mut house = House::relaying(&targets, &[]).await;
    for number in 0..5 {
        house.send(&event(&format!("s{number}"), number)).await;
    }
    let begin = Instant::now();
    other.has(5).await;
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    house.has("pending", 5).await;
    // What waits outlives the program.
    house.controller.kill().await;
    let back = Target::start(away, |_, _| (200, None)).await;
    house.controller.resume().await;
    let came = back.has(5).await;
    assert_eq!(came.iter().map(number).collect::<BTreeSet<_>>().len(), 5);
    house.has("pending", 0).await;
    // A delivery whose result was not yet on disk is made again, under the same id.
    let ids = other.came();
    let ids = ids.iter().map(|came| &came.headers["webhook-id"]);
    assert_eq!(ids.collect::<BTreeSet<_>>().len(), 5);
}

#[tokio::test]
async fn a_relay_to_oneself_is_refused_at_the_start() {
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    let started = tokio::process::Command::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"))
        .arg("serve")
        .arg("--data-dir")
        .arg(folder.path())
        .env("HA_RUNTIME", "process")
        .env("HA_CONTROLLER_PORT", port.to_string())
        .env("HA_CONTROLLER_USERNAME", "u")
        .env("HA_CONTROLLER_PASSWORD", "p")
        .env("OPENVIDU_RECORDING_PATH", folder.path())
        .env("OPENVIDU_WEBHOOK", "true")
        .env(
            "OPENVIDU_WEBHOOK_ENDPOINT",
            format!("http://localhost:{port}/openvidu/webhook"),
        )
        .current_dir(folder.path())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(Duration::from_secs(20), started)
        .await
        .expect("it runs")
        .unwrap();
    let message = said(&ended);
    assert_eq!(ended.status.code(), Some(78), "{message}");
    assert!(message.contains("this controller itself"), "{message}");
}

#[tokio::test]
async fn what_openvidu_reports_ends_in_the_right_state_twice_and_out_of_order() {
    let target = Target::agreeable().await;
    let often = [("HA_FAILOVER_CHECK_INTERVAL", "1")];
    let house = House::relaying(&target.url(), &often).await;
    let report = |id: &str, status: &str| json!({"event": "recordingStatusChanged", "timestamp": 1, "sessionId": "s", "id": id, "status": status});
    house.send(&report("ses_A", "stopped")).await;
    let register = json!({"sessionId": "ses_A", "clientId": "c"});
    let (status, _) = house
        .controller
        .ask(reqwest::Method::POST, "/api/sessions", Some(&register))
        .await;
    assert_eq!(status, 201);
    let mut furthest = 0;
    for status in [
        "started", "started", "stopped", "stopped", "started", "ready", "ready", "stopped",
    ] {
        // As OpenVidu does: its file first, which never goes back.
        let way = ["started", "stopped", "ready"];
        furthest = furthest.max(way.iter().position(|it| *it == status).unwrap());
        let seal = json!({"id": "ses_A", "status": way[furthest]}).to_string();
        std::fs::create_dir_all(house.recordings.join("ses_A")).unwrap();
        std::fs::write(house.recordings.join("ses_A/.recording.ses_A"), seal).unwrap();
        house.send(&report("ses_A", status)).await;
    }
    until(
        "the session is completed",
        Duration::from_secs(10),
        || async {
            let session = house.controller.get("/api/sessions/ses_A").await;
            (session["status"] == "COMPLETED").then_some(())
        },
    )
    .await;
    assert_eq!(target.has(9).await.len(), 9, "every one is relayed");
}

#[tokio::test]
async fn a_token_is_asked_for_where_one_is_set() {
    let target = Target::agreeable().await;
    let house = House::relaying(&target.url(), &[("HA_WEBHOOK_TOKEN", "t0ken-of-tests")]).await;
    let url = house.controller.url("/openvidu/webhook");
    let bare = client()
        .post(&url)
        .json(&event("s", 0))
        .send()
        .await
        .unwrap();
    assert_eq!(bare.status(), 401);
    let given = client()
        .post(&url)
        .header("x-webhook-token", "t0ken-of-tests")
        .json(&event("s", 1))
        .send()
        .await
        .unwrap();
    assert_eq!(given.status(), 200);
    let bearer = client()
        .post(&url)
        .bearer_auth("t0ken-of-tests")
        .json(&event("s", 2))
        .send()
        .await
        .unwrap();
    assert_eq!(bearer.status(), 200);
    assert_eq!(target.has(2).await.len(), 2);
    assert!(!house.controller.log().contains("t0ken-of-tests"));
}

/// Kills the controller again and again under webhooks and registrations; `OV2_KILLS` says how often.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_answered_survives_every_kill_and_is_delivered() {
    let kills: usize = std::env::var("OV2_KILLS")
        .ok()
        .and_then(|it| it.parse().ok())
        .unwrap_or(20);
    let target = Target::agreeable().await;
    let mut house = House::relaying(&target.url(), &[]).await;
    let mut answered = BTreeSet::new();
    let mut registered = BTreeSet::new();
    for kill in 0..kills {
        let url = house.controller.url("");
        let password = house.controller.password.clone();
        let writers = (0..8).map(|writer| {
            tokio::spawn(write_until_cut(url.clone(), password.clone(), kill, writer))
        });
        let writers = writers.collect::<Vec<_>>();
        tokio::time::sleep(Duration::from_millis(30 + (kill as u64 * 37) % 90)).await;
        house.controller.kill().await;
        for writer in writers {
            let (ids, sessions) = writer.await.unwrap();
            answered.extend(ids);
            registered.extend(sessions);
        }
        house.controller.resume().await;
    }
    assert!(
        answered.len() > kills,
        "only {} webhooks were answered",
        answered.len()
    );
    until(
        "every answered webhook is delivered",
        Duration::from_secs(60),
        || async {
            let came = target.came();
            let came = came
                .iter()
                .map(|came| came.headers["webhook-id"].as_str())
                .collect::<BTreeSet<_>>();
            answered
                .iter()
                .all(|id| came.contains(id.as_str()))
                .then_some(())
        },
    )
    .await;
    for id in &registered {
        let session = house.controller.get(&format!("/api/sessions/{id}")).await;
        assert_eq!(session["sessionId"], json!(id), "{session}");
    }
    println!(
        "{kills} kills: {} webhooks and {} registrations answered, none lost",
        answered.len(),
        registered.len()
    );
}

/// Sends until the connection is cut; what was answered by then.
async fn write_until_cut(
    url: String,
    password: String,
    kill: usize,
    writer: usize,
) -> (Vec<String>, Vec<String>) {
    let client = client();
    let (mut ids, mut sessions) = (Vec::new(), Vec::new());
    for number in 0.. {
        let id = format!("s{kill}-{writer}-{number}");
        let hook = client
            .post(format!("{url}/openvidu/webhook"))
            .json(&event(&id, number))
            .send()
            .await;
        let Ok(hook) = hook else { break };
        let Ok(told) = hook.json::<Value>().await else {
            break;
        };
        ids.push(told["id"].as_str().unwrap().to_owned());
        if number % 4 != 0 {
            continue;
        }
        let register = json!({"sessionId": id, "clientId": "c"});
        let made = client
            .post(format!("{url}/api/sessions"))
            .basic_auth(USER, Some(&password))
            .json(&register)
            .send()
            .await;
        match made {
            Ok(made) if made.status() == 201 => sessions.push(id),
            _ => break,
        }
    }
    (ids, sessions)
}
