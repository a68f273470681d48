//! The HTTP interface as clients of the earlier controller, browsers and monitors use it, against the real program.

use crate::support::controller::{Controller, USER};
use crate::support::target::{Came, Target};
use crate::support::wait::until;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A controller with folders that go away.
struct House {
    _folder: TempDir,
    recordings: PathBuf,
    controller: Controller,
}

impl House {
    async fn with(more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let recordings = folder.path().join("recordings");
        let settings = [
            &[
                ("HA_RUNTIME", "process"),
                ("SPRING_PROFILES_ACTIVE", "test"),
            ],
            more,
        ];
        let binary = Path::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"));
        let state = folder.path().join("state");
        let controller = Controller::start(binary, &state, &recordings, &settings.concat()).await;
        Self {
            _folder: folder,
            recordings,
            controller,
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let (status, answer) = self.controller.ask(method, path, body.as_ref()).await;
        (status.as_u16(), answer)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, None).await
    }

    async fn put(&self, path: &str, body: Option<Value>) -> (u16, Value) {
        self.ask(Method::PUT, path, body).await
    }

    async fn register(&self, id: &str) -> (u16, Value) {
        let body = json!({"sessionId": id, "clientId": "shell-1", "metadata": {"a": 1}, "environment": "{\"B\":\"2\"}"});
        self.ask(Method::POST, "/api/sessions", Some(body)).await
    }

    /// Any request with the account.
    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        client()
            .request(method, self.controller.url(path))
            .basic_auth(USER, Some(&self.controller.password))
    }
}

fn client() -> reqwest::Client {
    ov2_ha_recorder::outbound::client(Duration::from_secs(2), Duration::from_secs(30)).unwrap()
}

#[track_caller]
fn has(answer: &Value, members: &[&str]) {
    for member in members {
        assert!(
            answer.get(member).is_some(),
            "{member} is missing in {answer}"
        );
    }
}

#[tokio::test]
async fn a_recorder_s_token_registers_and_reports_and_does_nothing_else() {
    let house = House::with(&[("HA_RECORDER_TOKEN", "of-recorders-only")]).await;
    let ask = async |method: Method, path: &str, body: Value| {
        let request = client().request(method, house.controller.url(path));
        let request = request.bearer_auth("of-recorders-only").json(&body);
        request.send().await.unwrap().status().as_u16()
    };
    let registration = json!({"sessionId": "ses_T", "clientId": "one"});
    assert_eq!(ask(Method::POST, "/api/sessions", registration).await, 201);
    let beat = json!({"lastChunk": "0001.mp4"});
    for (path, body) in [
        ("heartbeat", beat),
        (
            "recording-path",
            json!({"recordingPath": "/recordings/ses_T/ses_T.mp4"}),
        ),
        ("status", json!({"status": "recording"})),
    ] {
        let path = format!("/api/sessions/ses_T/{path}");
        assert_eq!(ask(Method::PUT, &path, body).await, 200, "{path}");
    }
    for (method, path) in [
        (Method::GET, "/api/sessions"),
        (Method::GET, "/api/sessions/ses_T"),
        (Method::GET, "/"),
        (Method::GET, "/actuator/prometheus"),
        (Method::PUT, "/api/sessions/ses_T/stop"),
        (Method::PUT, "/api/sessions/ses_T/deactivate"),
        (Method::DELETE, "/api/sessions/ses_T"),
        (Method::POST, "/api/failover/ses_T"),
        (Method::POST, "/api/backup"),
        (Method::POST, "/api/webhooks/replay"),
    ] {
        assert_eq!(ask(method, path, json!({})).await, 401, "{path}");
    }
}

#[tokio::test]
async fn a_stranger_under_a_live_id_is_refused_whether_it_gives_a_time_or_not() {
    let house = House::with(&[]).await;
    let register = |client: &str, unique: &str, created: Option<i64>| {
        let mut body = json!({"sessionId": "ses_L", "clientId": client, "uniqueSessionId": unique});
        if let Some(created) = created {
            body["recordingJson"] = json!({ "createdAt": created });
        }
        body
    };
    let post = async |body: Value| {
        let request = house.request(Method::POST, "/api/sessions").json(&body);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(post(register("one", "ses_L_1", None)).await, 201);
    assert_eq!(
        post(register("one", "ses_L_1", None)).await,
        201,
        "it came back"
    );
    for stranger in [
        register("two", "ses_L_2", None),
        register("two", "ses_L_2", Some(5)),
        register("one", "ses_L_2", Some(5)),
        register("two", "ses_L_1", None),
    ] {
        assert_eq!(post(stranger.clone()).await, 400, "{stranger}");
    }
    let (_, kept) = house.get("/api/sessions/ses_L").await;
    assert_eq!(
        (&kept["clientId"], &kept["uniqueSessionId"]),
        (&json!("one"), &json!("ses_L_1"))
    );
}

#[tokio::test]
async fn a_session_lives_as_earlier_clients_expect() {
    let house = House::with(&[]).await;
    let (status, session) = house.register("ses_A~1").await;
    assert_eq!(status, 201, "{session}");
    has(
        &session,
        &[
            "sessionId",
            "clientId",
            "clientHost",
            "status",
            "createdAt",
            "lastHeartbeat",
            "recordingPath",
            "metadata",
            "lastChunk",
            "active",
            "backupContainerId",
            "backupContainerName",
            "environment",
            "uniqueSessionId",
            "originalSessionId",
            "heartbeatData",
            "containerInfo",
            "run",
        ],
    );
    assert_eq!(session["status"], "STARTING");
    assert_eq!(session["active"], true);
    assert_eq!(session["metadata"], "{\"a\":1}");
    assert_eq!(session["environment"], "{\"B\":\"2\"}");
    has(
        &session["heartbeatData"],
        &[
            "lastHeartbeat",
            "chunksUploaded",
            "currentChunkSize",
            "isStuck",
            "failoverAttempts",
        ],
    );

    let (status, beat) = house.put("/api/sessions/ses_A~1/heartbeat", None).await;
    assert_eq!(status, 200, "{beat}");
    has(&beat, &["message", "sessionId", "timestamp"]);
    let chunk = json!({"lastChunk": "0001.mp4"});
    let (status, beat) = house
        .put("/api/sessions/ses_A~1/heartbeat", Some(chunk))
        .await;
    assert_eq!((status, &beat["lastChunk"]), (200, &json!("0001.mp4")));
    let (status, session) = house.get("/api/sessions/ses_A~1").await;
    assert_eq!((status, &session["status"]), (200, &json!("RECORDING")));

    let (status, list) = house.get("/api/sessions").await;
    assert_eq!(
        (status, &list["count"], &list["type"]),
        (200, &json!(1), &json!("active"))
    );
    let (_, all) = house.get("/api/sessions/all").await;
    has(&all, &["sessions", "timestamp"]);
    assert_eq!(
        (
            &all["totalCount"],
            &all["activeCount"],
            &all["inactiveCount"],
            &all["type"]
        ),
        (&json!(1), &json!(1), &json!(0), &json!("all"))
    );
    let (_, active) = house.get("/api/sessions/ses_A~1/active").await;
    assert_eq!(
        (&active["sessionId"], &active["active"]),
        (&json!("ses_A~1"), &json!(true))
    );
    let (status, active) = house.get("/api/sessions/nobody/active").await;
    assert_eq!((status, &active["active"]), (200, &json!(false)));

    let (status, set) = house
        .put(
            "/api/sessions/ses_A~1/status",
            Some(json!({"status": "paused"})),
        )
        .await;
    assert_eq!((status, &set["status"]), (200, &json!("PAUSED")));
    let path = json!({"recordingPath": "/recordings/x.mp4"});
    let (status, set) = house
        .put("/api/sessions/ses_A~1/recording-path", Some(path))
        .await;
    assert_eq!(
        (status, &set["recordingPath"]),
        (200, &json!("/recordings/x.mp4"))
    );
    let (status, done) = house.put("/api/sessions/ses_A~1/deactivate", None).await;
    assert_eq!((status, &done["status"]), (200, &json!("INACTIVE")));
    let (_, list) = house.get("/api/sessions/inactive").await;
    assert_eq!(
        (&list["count"], &list["type"]),
        (&json!(1), &json!("inactive"))
    );

    house.register("ses_B").await;
    let (status, done) = house.put("/api/sessions/ses_B/stop", None).await;
    assert_eq!(status, 200);
    assert!(
        done["message"].as_str().unwrap().contains("stopped"),
        "{done}"
    );
    let (status, done) = house
        .ask(Method::DELETE, "/api/sessions/ses_A~1", None)
        .await;
    assert_eq!(status, 200);
    assert!(
        done["message"].as_str().unwrap().contains("removed"),
        "{done}"
    );
    assert_eq!(house.get("/api/sessions/ses_A~1").await.0, 404);
    let (status, done) = house.ask(Method::POST, "/api/sessions/cleanup", None).await;
    assert_eq!(status, 200);
    has(&done, &["message", "removedSessions", "timestamp"]);
    let (status, health) = house.get("/api/sessions/health").await;
    assert_eq!(
        (status, &health["status"], &health["service"]),
        (200, &json!("healthy"), &json!("recorder-ha-controller"))
    );
    has(
        &health,
        &[
            "activeSessions",
            "totalSessions",
            "inactiveSessions",
            "timestamp",
            "s3CleanupInfo",
        ],
    );
}

#[tokio::test]
async fn failovers_are_shown_as_earlier_clients_expect() {
    let house = House::with(&[]).await;
    house.register("ses_A").await;
    let (status, shown) = house.get("/api/failover/status").await;
    assert_eq!(status, 200);
    has(
        &shown,
        &[
            "enabled",
            "heartbeatTimeoutSeconds",
            "stuckChunkTimeoutSeconds",
            "checkIntervalMs",
            "activeBackupContainers",
            "backupContainerDetails",
            "dockerInitialized",
            "dockerInitializationFailed",
            "dockerStatus",
            "openviduImage",
            "timestamp",
        ],
    );
    assert!(shown["activeBackupContainers"].is_number());
    let (status, done) = house.ask(Method::POST, "/api/failover/check", None).await;
    assert_eq!(status, 200);
    assert!(
        done["message"].as_str().unwrap().contains("completed"),
        "{done}"
    );
    has(
        &done,
        &["timestamp", "activeBackupContainers", "dockerInitialized"],
    );
    let (_, backups) = house.get("/api/failover/backups").await;
    assert_eq!(
        (&backups["activeBackupContainers"], &backups["count"]),
        (&json!({}), &json!(0))
    );
    let (status, history) = house.get("/api/failover/ses_A/history").await;
    assert_eq!(
        (status, &history["sessionId"], &history["totalFailovers"]),
        (200, &json!("ses_A"), &json!(0))
    );
    has(&history, &["failoverEvents", "successfulRecoveries"]);
    for (method, path) in [
        (Method::DELETE, "/api/failover/backup/nobody"),
        (Method::DELETE, "/api/failover/backup/nobody/force"),
        (Method::POST, "/api/failover/nobody"),
        (Method::GET, "/api/failover/nobody/history"),
        (Method::PUT, "/api/sessions/nobody/heartbeat"),
        (Method::PUT, "/api/sessions/nobody/stop"),
        (Method::PUT, "/api/sessions/nobody/deactivate"),
        (Method::DELETE, "/api/sessions/nobody"),
    ] {
        let (status, error) = house.ask(method, path, None).await;
        assert_eq!(status, 404, "{path}: {error}");
        has(
            &error,
            &[
                "timestamp",
                "status",
                "error",
                "message",
                "path",
                "requestId",
            ],
        );
    }
    house.put("/api/sessions/ses_A/deactivate", None).await;
    let (status, _) = house.ask(Method::POST, "/api/failover/ses_A", None).await;
    assert_eq!(status, 409, "it is not recording");
}

#[tokio::test]
async fn ids_that_could_leave_their_folder_are_refused_and_create_nothing() {
    let house = House::with(&[]).await;
    for id in ["a/b", "..", ".", "a\\b", "a\nb", "", &"x".repeat(256)] {
        let (status, error) = house.register(id).await;
        assert_eq!(status, 400, "{id:?}: {error}");
        let event = json!({"event": "recordingStatusChanged", "sessionId": "s", "id": id, "status": "started"});
        let (status, error) = house
            .ask(Method::POST, "/openvidu/webhook", Some(event))
            .await;
        assert_eq!(status, 400, "webhook {id:?}: {error}");
    }
    for path in [
        "/api/sessions/a%2Fb",
        "/api/sessions/%2e%2e",
        "/api/sessions/a%0Ab",
        "/api/sessions/%ff",
    ] {
        // A client would clean such a path: it is written by hand.
        let (status, _) = raw(&house.controller, "GET", path, "", b"").await;
        assert_eq!(status, 400, "{path}");
    }
    assert_eq!(house.get("/api/sessions/all").await.1["totalCount"], 0);
    assert_eq!(
        std::fs::read_dir(&house.recordings).unwrap().count(),
        1,
        "the recorders' .env only"
    );
}

#[tokio::test]
async fn a_body_that_is_broken_too_deep_or_too_large_is_refused_in_words() {
    let house = House::with(&[]).await;
    let post = async |path: &str, kind: &str, body: Vec<u8>| {
        let request = house
            .request(Method::POST, path)
            .header("content-type", kind)
            .body(body);
        let answer = request.send().await.unwrap();
        let (status, error) = (
            answer.status().as_u16(),
            answer.json::<Value>().await.unwrap(),
        );
        has(
            &error,
            &[
                "timestamp",
                "status",
                "error",
                "message",
                "path",
                "requestId",
            ],
        );
        assert_eq!(error["status"], status);
        status
    };
    let deep = format!(
        "{{\"sessionId\":{}1{}}}",
        "[".repeat(50_000),
        "]".repeat(50_000)
    )
    .into_bytes();
    let json = "application/json";
    for path in ["/api/sessions", "/openvidu/webhook"] {
        assert_eq!(post(path, json, b"{\"sessionId\":".to_vec()).await, 400);
        assert_eq!(post(path, json, b"[1]".to_vec()).await, 400);
        assert_eq!(post(path, json, b"\xff\xfe{}".to_vec()).await, 400);
        assert_eq!(
            post(path, json, b"{\"sessionId\":\"\xff\"}".to_vec()).await,
            400
        );
        assert_eq!(post(path, json, deep.clone()).await, 400);
        assert_eq!(post(path, json, Vec::new()).await, 400);
    }
    let no_text = b"{\"event\":\"signalSent\",\"data\":\"\xff\"}";
    assert_eq!(post("/openvidu/webhook", json, no_text.to_vec()).await, 400);
    assert_eq!(
        post("/api/sessions", json, vec![b' '; 300 * 1024]).await,
        413
    );
    assert_eq!(
        post("/openvidu/webhook", json, vec![b' '; 1100 * 1024]).await,
        413
    );
    assert_eq!(
        post("/api/sessions", "text/plain", b"{}".to_vec()).await,
        415
    );
    assert_eq!(post("/api/sessions", json, b"{}".to_vec()).await, 400);
    assert_eq!(
        post("/api/sessions", json, b"{\"sessionId\":\"a\"}".to_vec()).await,
        400,
        "clientId is missing"
    );
}

#[tokio::test]
async fn a_body_without_a_length_has_the_same_limit() {
    let house = House::with(&[]).await;
    let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, " ".repeat(64 * 1024));
    let body = chunk.repeat(5) + "0\r\n\r\n";
    let head = "transfer-encoding: chunked\r\ncontent-type: application/json\r\n";
    let (status, _) = raw(
        &house.controller,
        "POST",
        "/api/sessions",
        head,
        body.as_bytes(),
    )
    .await;
    assert_eq!(status, 413);
    let small = b"e\r\n{\"lastChunk\":1\r\n1\r\n}\r\n0\r\n\r\n";
    let (status, _) = raw(
        &house.controller,
        "PUT",
        "/api/sessions/x/heartbeat",
        head,
        small,
    )
    .await;
    assert_eq!(status, 400, "a number is no chunk's name");
}

#[tokio::test]
async fn methods_heads_request_ids_and_compression_work_on_every_route() {
    let house = House::with(&[]).await;
    for number in 0..20 {
        assert_eq!(house.register(&format!("ses_{number}")).await.0, 201);
    }
    let wrong = house
        .request(Method::PATCH, "/api/sessions")
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), 405);
    assert_eq!(wrong.headers()["allow"], "GET, HEAD, POST");
    let head = house
        .request(Method::HEAD, "/api/sessions")
        .send()
        .await
        .unwrap();
    let length = head.headers()["content-length"]
        .to_str()
        .unwrap()
        .parse::<usize>()
        .unwrap();
    assert_eq!((head.status(), length > 1000), (StatusCode::OK, true));
    assert!(head.bytes().await.unwrap().is_empty());

    let named = house
        .request(Method::GET, "/api/sessions")
        .header("x-request-id", "my-1")
        .send()
        .await
        .unwrap();
    assert_eq!(named.headers()["x-request-id"], "my-1");
    assert_eq!(named.headers()["x-content-type-options"], "nosniff");
    let fault = house
        .request(Method::GET, "/api/nothing")
        .header("x-request-id", "my-2")
        .send()
        .await
        .unwrap();
    assert_eq!(fault.status(), 404);
    assert_eq!(fault.json::<Value>().await.unwrap()["requestId"], "my-2");

    let packed = house
        .request(Method::GET, "/api/sessions")
        .header("accept-encoding", "gzip")
        .send()
        .await
        .unwrap();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    let bytes = packed.bytes().await.unwrap();
    assert!(bytes.len() * 4 < length, "{} of {length}", bytes.len());
    let list: Value = serde_json::from_reader(flate2::read::GzDecoder::new(&bytes[..])).unwrap();
    assert_eq!(list["count"], 20);
}

#[tokio::test]
async fn lists_are_given_in_parts() {
    let house = House::with(&[]).await;
    for number in 0..7 {
        assert_eq!(house.register(&format!("ses_{number}")).await.0, 201);
    }
    let ids = async |query: &str| {
        let (status, list) = house.get(&format!("/api/sessions{query}")).await;
        assert_eq!(status, 200, "{list}");
        let ids = list["sessions"].as_array().unwrap().iter();
        ids.map(|one| one["sessionId"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mut all = ids("?limit=3").await;
    all.extend(ids("?limit=3&offset=3").await);
    all.extend(ids("?limit=3&offset=6").await);
    assert_eq!(all.len(), 7);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 7);
    assert_eq!(ids("?status=recording").await.len(), 0);
    assert_eq!(ids("?status=starting").await.len(), 7);
    assert_eq!(house.get("/api/sessions?status=nonsense").await.0, 400);
    assert_eq!(house.get("/api/sessions?limit=x").await.0, 400);
    assert_eq!(house.get("/api/sessions?limit=0").await.0, 400);
}

#[tokio::test]
async fn only_the_account_may_act_and_guessing_is_limited() {
    let house = House::with(&[
        ("HA_VIEWER_USERNAME", "eye"),
        ("HA_VIEWER_PASSWORD", "look-only"),
    ])
    .await;
    let bare = |path: &str| client().get(house.controller.url(path)).send();
    for path in [
        "/api/sessions",
        "/",
        "/static/app.js",
        "/actuator/prometheus",
        "/actuator/info",
        "/v3/api-docs",
        "/api/nothing",
    ] {
        let refused = bare(path).await.unwrap();
        assert_eq!(refused.status(), 401, "{path}");
        assert!(
            refused.headers()["www-authenticate"]
                .to_str()
                .unwrap()
                .starts_with("Basic")
        );
        has(
            &refused.json::<Value>().await.unwrap(),
            &["message", "requestId"],
        );
    }
    for path in [
        "/actuator/health",
        "/api/sessions/health",
        "/openvidu/webhook",
        "/openvidu/webhook/status",
    ] {
        assert_eq!(bare(path).await.unwrap().status(), 200, "{path}");
    }
    let viewer = |method, path: &str| {
        client()
            .request(method, house.controller.url(path))
            .basic_auth("eye", Some("look-only"))
            .send()
    };
    assert_eq!(
        viewer(Method::GET, "/api/sessions").await.unwrap().status(),
        200
    );
    assert_eq!(
        viewer(Method::DELETE, "/api/sessions/x")
            .await
            .unwrap()
            .status(),
        403
    );

    let forged = house
        .request(Method::POST, "/api/sessions/cleanup")
        .header("origin", "https://evil.example");
    assert_eq!(forged.send().await.unwrap().status(), 403);

    let mut last = StatusCode::OK;
    for _ in 0..12 {
        let guess = client()
            .get(house.controller.url("/api/sessions"))
            .basic_auth(USER, Some("guess"));
        let answer = guess.send().await.unwrap();
        last = answer.status();
        if last == 429 {
            assert!(answer.headers().contains_key("retry-after"));
        }
    }
    assert_eq!(last, 429);
    assert_eq!(
        house.get("/api/sessions").await.0,
        200,
        "who was right before is not locked out"
    );
    assert!(
        house.controller.log().contains("access refused"),
        "{}",
        house.controller.log()
    );
}

#[tokio::test]
async fn the_page_is_guarded_and_asked_for_once() {
    let house = House::with(&[]).await;
    let page = house.request(Method::GET, "/").send().await.unwrap();
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        policy.contains("script-src 'self'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let tag = page.headers()["etag"].clone();
    let again = house
        .request(Method::GET, "/")
        .header("if-none-match", tag)
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), 304);
    let missing = house
        .request(Method::GET, "/static/none.js")
        .send()
        .await
        .unwrap();
    assert_eq!(missing.status(), 404);
    assert_eq!(
        raw(&house.controller, "GET", "/static/../Cargo.toml", "", b"")
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn a_recording_is_watched_while_it_lies_or_grows() {
    let house = House::with(&[]).await;
    let folder = house.recordings.join("ses_A");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(
        folder.join(".recording.ses_A"),
        r#"{"name":"talk","status":"started","createdAt":1}"#,
    )
    .unwrap();
    std::fs::write(folder.join("talk.mp4"), b"0123456789").unwrap();
    std::fs::write(folder.join("ses_A.jpg"), b"jpeg").unwrap();
    let video = async |range: Option<&str>| {
        let mut request = house.request(Method::GET, "/api/recordings/ses_A/video");
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let answer = request.send().await.unwrap();
        let shown = answer
            .headers()
            .get("content-range")
            .map(|it| it.to_str().unwrap().to_owned());
        (
            answer.status().as_u16(),
            shown,
            answer.text().await.unwrap(),
        )
    };
    assert_eq!(video(None).await, (200, None, "0123456789".into()));
    assert_eq!(
        video(Some("bytes=2-4")).await,
        (206, Some("bytes 2-4/10".into()), "234".into())
    );
    std::fs::write(folder.join("talk.mp4"), b"0123456789abc").unwrap();
    assert_eq!(
        video(Some("bytes=-3")).await,
        (206, Some("bytes 10-12/13".into()), "abc".into())
    );
    let (status, shown, _) = video(Some("bytes=13-")).await;
    assert_eq!((status, shown), (416, Some("bytes */13".into())));
    let picture = house
        .request(Method::GET, "/api/recordings/ses_A/preview.jpg")
        .send()
        .await
        .unwrap();
    assert_eq!(picture.headers()["content-type"], "image/jpeg");
    assert_eq!(house.get("/api/recordings/ses_A/timeline").await.0, 404);
    assert_eq!(house.get("/api/recordings/nobody/video").await.0, 404);
    let (_, list) = house.get("/api/recordings").await;
    assert_eq!(
        (&list["count"], &list["recordings"][0]["name"]),
        (&json!(1), &json!("talk"))
    );
}

#[tokio::test]
async fn open_pages_are_told_what_changes_and_what_they_missed() {
    let house = House::with(&[]).await;
    house.register("ses_A").await;
    let mut stream = Events::open(&house, None).await;
    let (kind, _, data) = stream.next().await;
    assert_eq!(kind, "snapshot");
    assert_eq!(data["sessions"][0]["sessionId"], "ses_A");
    has(
        &data["overview"],
        &[
            "version",
            "startedAt",
            "now",
            "viewer",
            "health",
            "outbox",
            "storage",
        ],
    );
    house
        .put(
            "/api/sessions/ses_A/heartbeat",
            Some(json!({"lastChunk": "0001.mp4"})),
        )
        .await;
    let (last, data) = stream.session("ses_A").await;
    assert_eq!(data["status"], "RECORDING");
    drop(stream);
    house.put("/api/sessions/ses_A/deactivate", None).await;
    let mut stream = Events::open(&house, Some(&last)).await;
    let (_, data) = stream.session("ses_A").await;
    assert_eq!(
        data["status"],
        "INACTIVE",
        "told without a snapshot: {}",
        stream.seen.join(",")
    );
    assert!(
        !stream.seen.contains(&"snapshot".to_owned()),
        "{:?}",
        stream.seen
    );
    let (_, overview) = house.get("/api/overview").await;
    has(&overview, &["sessions", "overview", "judgement"]);
}

#[tokio::test]
async fn what_is_wrong_is_told_in_the_same_words_everywhere() {
    let house = House::with(&[]).await;
    house.register("ses_A").await;
    let mut stream = Events::open(&house, None).await;
    let (_, _, data) = stream.next().await;
    assert_eq!(data["judgement"]["severity"], Value::Null, "{data}");
    let (_, worries) = house.get("/api/worries").await;
    assert_eq!(worries, json!([]));
    let trouble =
        json!({ "report": { "troubles": [{ "kind": "audio", "message": "no sound arrives" }] } });
    house
        .put("/api/sessions/ses_A/heartbeat", Some(trouble))
        .await;
    let judgement = loop {
        let (_, _, data) = stream.next().await;
        if data["judgement"].is_object() {
            break data["judgement"].clone();
        }
    };
    assert_eq!(
        judgement["verdict"],
        "No recording is at risk; 1 thing is worth a look."
    );
    let worry = &judgement["worries"][0];
    assert_eq!(worry["text"], "ses_A: no sound arrives", "{worry}");
    assert_eq!(
        (&worry["subject"], &worry["area"], &worry["severity"]),
        (&json!("ses_A"), &json!("session"), &json!("look"))
    );
    let (_, worries) = house.get("/api/worries").await;
    assert_eq!(worries, judgement["worries"]);
    let (_, overview) = house.get("/api/overview").await;
    assert_eq!(overview["judgement"], judgement);
}

#[tokio::test]
async fn only_what_a_person_does_is_noted_as_such() {
    let house = House::with(&[]).await;
    house.register("ses_A").await;
    let completed = json!({"status": "completed"});
    let status = house.put("/api/sessions/ses_A/status", Some(completed));
    assert_eq!(status.await.0, 200);
    let noted = || house.controller.log().matches("API request").count();
    assert_eq!(noted(), 0, "{}", house.controller.log());
    house.put("/api/sessions/ses_A/deactivate", None).await;
    assert_eq!(noted(), 1, "{}", house.controller.log());
    let who = format!(" user={USER} ");
    assert!(
        house.controller.log().contains(&who),
        "{}",
        house.controller.log()
    );
}

#[tokio::test]
async fn the_end_does_not_wait_for_open_pages() {
    let mut house = House::with(&[]).await;
    let mut stream = Events::open(&house, None).await;
    assert_eq!(stream.next().await.0, "snapshot");
    let took = house.controller.stop().await;
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// A stream of server-sent events.
struct Events {
    answer: reqwest::Response,
    text: String,
    seen: Vec<String>,
}

impl Events {
    async fn open(house: &House, last: Option<&str>) -> Self {
        let mut request = house.request(Method::GET, "/api/events");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self {
            answer,
            text: String::new(),
            seen: Vec::new(),
        }
    }

    async fn next(&mut self) -> (String, String, Value) {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name));
                    line.unwrap_or_default()
                        .trim_start_matches([':', ' '])
                        .to_owned()
                };
                let (kind, id, data) = (field("event"), field("id"), field("data"));
                self.text = rest.to_owned();
                self.seen.push(kind.clone());
                return (kind, id, serde_json::from_str(&data).unwrap());
            }
            let part = self
                .answer
                .chunk()
                .await
                .unwrap()
                .expect("the stream ended");
            self.text.push_str(std::str::from_utf8(&part).unwrap());
        }
    }

    /// The next news of a session, with the event's id.
    async fn session(&mut self, id: &str) -> (String, Value) {
        loop {
            let (_, event, data) = self.next().await;
            let sessions = data["sessions"].as_array().cloned().unwrap_or_default();
            if let Some(found) = sessions.into_iter().find(|one| one["sessionId"] == id) {
                return (event, found);
            }
        }
    }
}

#[tokio::test]
async fn health_info_and_metrics_come_in_springs_shapes() {
    let house = House::with(&[]).await;
    house.register("ses_A").await;
    let (status, health) = house.get("/actuator/health").await;
    assert_eq!((status, &health["status"]), (200, &json!("UP")), "{health}");
    for part in [
        "store", "docker", "s3", "disk", "database", "contact", "outbox",
    ] {
        has(
            &health["components"][part],
            &["status", "details", "summary"],
        );
        assert_eq!(house.get(&format!("/actuator/health/{part}")).await.0, 200);
    }
    assert_eq!(house.get("/actuator/health/none").await.0, 404);
    let (_, info) = house.get("/actuator/info").await;
    has(&info, &["app", "build", "git", "uptime"]);
    let (_, names) = house.get("/actuator/metrics").await;
    assert!(
        names["names"]
            .as_array()
            .unwrap()
            .contains(&json!("ha_recorder_sessions_active"))
    );
    let (_, metric) = house
        .get("/actuator/metrics/ha_recorder_sessions_active")
        .await;
    assert_eq!(
        metric["measurements"],
        json!([{"statistic": "VALUE", "value": 1.0}])
    );
    let (_, metric) = house
        .get("/actuator/metrics/ha_recorder_api_request_duration_seconds")
        .await;
    let tags = metric["availableTags"].as_array().unwrap();
    let tags: Vec<_> = tags.iter().map(|it| &it["tag"]).collect();
    assert_eq!(tags, ["code", "method", "route"], "{metric}");
    assert_eq!(house.get("/actuator/metrics/none").await.0, 404);
}

#[tokio::test]
async fn dashboards_and_alerts_use_the_metrics_there_are() {
    let house = House::with(&[]).await;
    let text = house
        .request(Method::GET, "/actuator/prometheus")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let (_, names) = house.get("/actuator/metrics").await;
    let known = names["names"].as_array().unwrap().iter();
    let known = known
        .map(|name| name.as_str().unwrap().to_owned())
        .collect::<BTreeSet<_>>();
    for name in [
        "ha_recorder_sessions_active",
        "ha_recorder_sessions_created_total",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(name), "{name}");
    }
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    for file in ["grafana/dashboard.json", "prometheus/alerts.yml"] {
        let content = std::fs::read_to_string(packaging.join(file)).unwrap();
        let used = words(&content)
            .filter(|word| word.starts_with("ha_recorder_") || word.starts_with("process_"));
        let used = used.map(|word| {
            let base = ["_bucket", "_count", "_sum"]
                .iter()
                .find_map(|end| word.strip_suffix(end));
            base.filter(|base| known.contains(*base))
                .unwrap_or(word)
                .to_owned()
        });
        let used = used.collect::<BTreeSet<_>>();
        assert!(used.len() > 8, "{file} uses {used:?} only");
        let unknown = used.difference(&known).collect::<Vec<_>>();
        assert!(unknown.is_empty(), "{file} uses {unknown:?}");
    }
    let dashboard = std::fs::read_to_string(packaging.join("grafana/dashboard.json")).unwrap();
    let asked = dashboard.lines().filter(|line| line.contains("\"expr\""));
    for expression in asked {
        assert!(
            expression.contains("job=\\\"$job\\\""),
            "every target is shown: {expression}"
        );
    }
    // As promtool finds both: side by side.
    let folder = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for (from, name) in [
        (packaging.join("prometheus"), "alerts.yml"),
        (fixtures, "alerts.test.yml"),
    ] {
        std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    promtool(folder.path(), &["check", "rules", "alerts.yml"], "");
    promtool(folder.path(), &["test", "rules", "alerts.test.yml"], "");
    promtool(folder.path(), &["check", "metrics"], &text);
}

/// Prometheus's own judge of what is meant for it.
fn promtool(folder: &Path, arguments: &[&str], input: &str) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let judge = Command::new("promtool")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut judge = match judge {
        Ok(judge) => judge,
        Err(cause) => return crate::support::stage::leave_out("promtool", &cause.to_string()),
    };
    judge
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let judged = judge.wait_with_output().unwrap();
    let said = [judged.stdout, judged.stderr].concat();
    assert!(
        judged.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&said)
    );
}

/// A name that nobody counts would lie to whoever watches.
#[tokio::test]
async fn every_metric_is_counted_somewhere() {
    let house = House::with(&[]).await;
    let (_, names) = house.get("/actuator/metrics").await;
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut source = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => source += &std::fs::read_to_string(path).unwrap(),
            }
        }
    }
    for name in names["names"].as_array().unwrap() {
        let counted = ["counter!(", "histogram!(", "gauge!("]
            .iter()
            .any(|with| source.contains(&format!("{with}{name}")));
        assert!(counted, "{name} is never counted");
    }

    // What does not exist before its first event never grows.
    let scrape = house.request(Method::GET, "/actuator/prometheus").send();
    let scrape = scrape.await.unwrap().text().await.unwrap();
    for line in [
        "ha_recorder_failover_events_total{reason=\"died\",rung=\"same-container\"} 0",
        "ha_recorder_store_errors_total{op=\"upload\"} 0",
        "ha_recorder_build_info{version=\"",
    ] {
        assert!(scrape.contains(line), "{line}: {scrape}");
    }

    // One that registers again is the same recording.
    house.register("ses_A").await;
    house.register("ses_A").await;
    for (bytes, chunks) in [(1_000, 1), (5_000, 3)] {
        let report = json!({"bytes": bytes, "chunksStored": chunks, "troubles": [{"kind": "store", "message": "full"}]});
        let beat = json!({"lastChunk": "0001.mp4", "report": report});
        assert_eq!(
            house
                .put("/api/sessions/ses_A/heartbeat", Some(beat))
                .await
                .0,
            200
        );
    }
    let failed = json!({"status": "failed"});
    assert_eq!(
        house
            .put("/api/sessions/ses_A/status", Some(failed))
            .await
            .0,
        200
    );
    for (name, expected) in [
        ("ha_recorder_chunk_bytes_total", 5_000.0),
        ("ha_recorder_chunks_stored_total", 3.0),
        ("ha_recorder_store_errors_total", 1.0),
        ("ha_recorder_sessions_failed_total", 1.0),
        ("ha_recorder_sessions_created_total", 1.0),
    ] {
        let (_, metric) = house.get(&format!("/actuator/metrics/{name}")).await;
        assert_eq!(metric["measurements"][0]["value"], expected, "{metric}");
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

#[tokio::test]
async fn the_interfaces_description_is_that_of_the_program_and_the_collection_covers_it() {
    let house = House::with(&[]).await;
    let (status, document) = house.get("/v3/api-docs").await;
    assert_eq!(status, 200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let mut operations = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            operations.insert((method.to_uppercase(), path.clone()));
        }
    }
    assert!(operations.len() > 35, "{operations:?}");
    for (method, path) in &operations {
        if path == "/api/events" {
            continue; // it does not end
        }
        let real = path
            .replace("{id}", "nobody")
            .replace("{component}", "store")
            .replace("{name}", "none");
        let (status, answer) = house.ask(method.parse().unwrap(), &real, None).await;
        assert!(
            status < 500 && status != 405,
            "{method} {path}: {status} {answer}"
        );
        assert_ne!(
            answer["message"], "there is no such resource",
            "{method} {path}"
        );
        let documented = &document["paths"][path][method.to_lowercase()]["responses"];
        assert!(
            documented.get(status.to_string()).is_some(),
            "{method} {path} answered {status}, which is not described"
        );
    }
    let collection = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/postman_collection.json"),
    )
    .unwrap();
    let collection: Value = serde_json::from_str(&collection).unwrap();
    let mut covered = BTreeSet::new();
    collect_requests(&collection["item"], &mut covered);
    let missing = operations.difference(&covered).collect::<Vec<_>>();
    assert!(missing.is_empty(), "the collection lacks {missing:?}");
    let page = house
        .request(Method::GET, "/swagger-ui/")
        .send()
        .await
        .unwrap();
    assert_eq!(page.status(), 200);
    assert_eq!(page.headers()["content-encoding"], "gzip");
    let mut text = String::new();
    let packed = page.bytes().await.unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed[..]), &mut text)
        .unwrap();
    assert!(text.contains("swagger"));
}

/// Requests with their path as the description writes it; each must assert something.
fn collect_requests(items: &Value, found: &mut BTreeSet<(String, String)>) {
    for item in items.as_array().into_iter().flatten() {
        collect_requests(&item["item"], found);
        let Some(method) = item["request"]["method"].as_str() else {
            continue;
        };
        let raw = item["request"]["url"]["raw"].as_str().unwrap();
        let path = raw
            .trim_start_matches("{{baseUrl}}")
            .split('?')
            .next()
            .unwrap();
        let path = path
            .split('/')
            .map(|segment| match segment.strip_prefix(':') {
                Some(name) => format!("{{{name}}}"),
                None => segment.to_owned(),
            });
        assert!(
            item["event"][0]["script"]["exec"][0].is_string(),
            "{raw} asserts nothing"
        );
        found.insert((method.to_owned(), path.collect::<Vec<_>>().join("/")));
    }
}

#[tokio::test]
async fn the_description_is_hidden_in_production() {
    let house = House::with(&[("SPRING_PROFILES_ACTIVE", "prod")]).await;
    for path in [
        "/v3/api-docs",
        "/api-docs",
        "/swagger-ui.html",
        "/swagger-ui/",
    ] {
        assert_eq!(house.get(path).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn a_certificate_is_used_and_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    let make = |name: &str| {
        let made = std::process::Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ])
            .args([
                "-subj",
                &format!("/CN={name}"),
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-addext",
                "basicConstraints=critical,CA:FALSE",
            ])
            .arg("-out")
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key)
            .output();
        made.is_ok_and(|made| made.status.success())
    };
    if !make("first") {
        return crate::support::stage::leave_out("TLS", "openssl cannot make a certificate");
    }
    let tls = ov2_ha_recorder::http::Tls::load(&certificate, &key).unwrap();
    std::fs::write(&key, "no key").unwrap();
    assert!(
        tls.reload().is_err(),
        "a broken file is refused and the old one stays"
    );
    assert!(make("second"));
    tls.reload().unwrap();

    let binary = Path::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"));
    let port = crate::support::controller::free_port().to_string();
    let mut child = tokio::process::Command::new(binary)
        .arg("serve")
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .env("HA_RUNTIME", "process")
        .env("HA_CONTROLLER_PORT", &port)
        .env("HA_CONTROLLER_USERNAME", "u")
        .env("HA_CONTROLLER_PASSWORD", "p")
        .env("OPENVIDU_RECORDING_PATH", folder.path())
        .env("HA_TLS_CERT", &certificate)
        .env("HA_TLS_KEY", &key)
        .current_dir(folder.path())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let trusting = || {
        let root = reqwest::Certificate::from_pem(&std::fs::read(&certificate).unwrap()).unwrap();
        ov2_ha_recorder::outbound::builder(Duration::from_secs(1))
            .tls_certs_only([root])
            .build()
            .unwrap()
    };
    let url = format!("https://127.0.0.1:{port}/actuator/health");
    let first = trusting();
    until("an answer over TLS", Duration::from_secs(20), || async {
        first
            .get(&url)
            .send()
            .await
            .ok()
            .filter(|answer| answer.status() == 200)
            .map(drop)
    })
    .await;
    assert!(make("third"));
    let pid = child.id().unwrap();
    crate::support::docker::signal_process(pid, "HUP");
    until("the new certificate", Duration::from_secs(15), || async {
        trusting().get(&url).send().await.ok().map(drop)
    })
    .await;
    crate::support::docker::signal_process(pid, "TERM");
    child.wait().await.unwrap();
}

/// A request written by hand; the status and the whole answer.
async fn raw(
    controller: &Controller,
    method: &str,
    path: &str,
    head: &str,
    body: &[u8],
) -> (u16, String) {
    use base64::Engine;
    let login =
        base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{}", controller.password));
    let mut stream = TcpStream::connect(("127.0.0.1", controller.port))
        .await
        .unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Basic {login}\r\nconnection: close\r\n{head}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    // The other side may close before it has read everything: its answer says why.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    (
        status.unwrap_or_else(|| panic!("no answer: {answer}")),
        answer,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_must_know_is_posted_when_it_rises_and_when_it_is_over() {
    // It refuses the first: an alert is tried again, and none overtakes another.
    let chat = Target::start(0, |count, _| (if count == 0 { 503 } else { 200 }, None)).await;
    let watch = Target::agreeable().await;
    let (alerts, alive) = (chat.url(), format!("{}?token=t0ken", watch.url()));
    let house = House::with(&[
        ("HA_ALERT_URL", alerts.as_str()),
        ("HA_ALIVE_URL", alive.as_str()),
        ("SPRING_PROFILES_ACTIVE", "prod"),
    ])
    .await;
    watch.has(1).await;
    let aside = house.recordings.with_extension("aside");
    std::fs::rename(&house.recordings, &aside).unwrap();
    // Where nothing was, the folder would be made again.
    std::fs::write(&house.recordings, "in the way").unwrap();
    let raised = chat.has(2).await;
    let read = |came: &Came| serde_json::from_slice::<Value>(&came.body).unwrap();
    let (refused, taken) = (read(&raised[0]), read(&raised[1]));
    assert_eq!(refused, taken);
    assert_eq!(taken["state"], "raised", "{taken}");
    let text = taken["text"].as_str().unwrap();
    assert!(
        text.contains(taken["worry"]["advice"].as_str().unwrap()),
        "{text}"
    );
    std::fs::remove_file(&house.recordings).unwrap();
    std::fs::rename(&aside, &house.recordings).unwrap();
    let all = until(
        "the end of every worry",
        Duration::from_secs(60),
        || async {
            let all: Vec<Value> = chat.came().iter().skip(1).map(read).collect();
            let count = |state: &str| all.iter().filter(|it| it["state"] == state).count();
            (count("over") > 0 && count("over") == count("raised")).then_some(all)
        },
    )
    .await
    .1;
    let over = all.last().unwrap();
    assert!(
        over["text"]
            .as_str()
            .unwrap()
            .starts_with("ov2-ha-recorder: over: "),
        "{over}"
    );
    assert!(!house.controller.log().contains("t0ken"));
}
