//! Never worse: strangers and accounts: who may end a recording, and who is let in.

use crate::support::controller::{Controller, USER};
use crate::support::wait::{until, until_true};
use reqwest::Method;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

struct House {
    controller: Controller,
    recordings: PathBuf,
    client: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl House {
    async fn with(more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let recordings = folder.path().join("recordings");
        let binary = Path::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"));
        let settings = [&[("HA_RUNTIME", "process")], more].concat();
        let state = folder.path().join("state");
        let second = Duration::from_secs(1);
        Self {
            controller: Controller::start(binary, &state, &recordings, &settings).await,
            recordings,
            client: ov2_ha_recorder::outbound::client(second, 10 * second).unwrap(),
            _folder: folder,
        }
    }

    /// A recording is under way.
    async fn records(&self, id: &str) {
        let identity = json!({"take": "1795577569000", "containerId": null, "lastRun": 0, "run": null, "videoName": id});
        let session = json!({"sessionId": id, "clientId": "a recorder", "recorder": identity});
        let (status, said) = self
            .controller
            .ask(Method::POST, "/api/sessions", Some(&session))
            .await;
        assert_eq!(status, 201, "{said}");
        let heartbeat = format!("/api/sessions/{id}/heartbeat");
        let chunk = json!({"lastChunk": "0001.mp4"});
        let (status, said) = self
            .controller
            .ask(Method::PUT, &heartbeat, Some(&chunk))
            .await;
        assert_eq!(status, 200, "{said}");
    }

    fn openvidu_says(&self, id: &str, status: &str) {
        let folder = self.recordings.join(id);
        fs::create_dir_all(&folder).unwrap();
        let seal = json!({"id": id, "status": status, "createdAt": 1_795_577_569_000_i64});
        fs::write(folder.join(format!(".recording.{id}")), seal.to_string()).unwrap();
    }

    /// Posts a webhook without an account, from where a proxy says it comes; the answer's status.
    async fn posts(&self, id: &str, status: &str, from: &str) -> u16 {
        let news = json!({"event": "recordingStatusChanged", "sessionId": "s", "id": id, "status": status});
        let url = self.controller.url("/openvidu/webhook");
        let sent = self.client.post(url).header("x-forwarded-for", from);
        sent.json(&news).send().await.unwrap().status().as_u16()
    }

    async fn status(&self, id: &str) -> String {
        let session = self.controller.get(&format!("/api/sessions/{id}")).await;
        session["status"].as_str().unwrap_or_default().to_owned()
    }

    async fn becomes(&self, id: &str, statuses: &[&str]) {
        until(&format!("{id} {statuses:?}"), SOON, || async {
            let status = self.status(id).await;
            statuses.contains(&status.as_str()).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_strangers_webhook_ends_no_recording_and_openvidus_own_file_does() {
    let house = House::with(&[("HA_FAILOVER_CHECK_INTERVAL", "1")]).await;
    let ids = [
        "ses_told",
        "ses_without_a_file",
        "ses_broken_file",
        "ses_other",
    ];
    for id in ids {
        house.records(id).await;
    }
    house.openvidu_says("ses_told", "started");
    house.openvidu_says("ses_broken_file", "started");
    let broken = house.recordings.join("ses_broken_file");
    fs::write(
        broken.join(".recording.ses_broken_file"),
        "{\"status\":\"stop",
    )
    .unwrap();
    let earlier = json!({"id": "ses_other", "status": "ready", "createdAt": 1_700_000_000_000_i64});
    fs::create_dir_all(house.recordings.join("ses_other")).unwrap();
    let file = house.recordings.join("ses_other/.recording.ses_other");
    fs::write(file, earlier.to_string()).unwrap();
    for id in ids {
        for status in ["failed", "ready", "stopped"] {
            assert_eq!(house.posts(id, status, "127.0.0.1").await, 200);
        }
    }
    let not_believed = || {
        let log = house.controller.log();
        log.matches("OpenVidu's own file does not").count() == 3 * ids.len()
    };
    until_true("all of them looked at", SOON, not_believed).await;
    let (checked, _) = house
        .controller
        .ask(Method::POST, "/api/failover/check", None)
        .await;
    assert_eq!(checked, 200);
    for id in ids {
        assert_eq!(house.status(id).await, "RECORDING", "{id}");
    }

    // No webhook comes: the file is looked at all the same.
    house.openvidu_says("ses_told", "stopped");
    house.becomes("ses_told", &["STOPPING", "COMPLETED"]).await;
    house.openvidu_says("ses_without_a_file", "failed");
    house.becomes("ses_without_a_file", &["FAILED"]).await;
    house.openvidu_says("ses_broken_file", "ready");
    house.becomes("ses_broken_file", &["COMPLETED"]).await;
}

#[tokio::test]
async fn without_a_token_webhooks_are_taken_from_this_machine_and_from_no_other() {
    let house = House::with(&[("HA_TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    house.records("ses_A").await;
    assert_eq!(house.posts("ses_A", "failed", "198.51.100.7").await, 403);
    assert_eq!(house.posts("ses_A", "failed", "2001:db8::7").await, 403);
    let refused = "webhooks are not taken from this address";
    assert!(house.controller.log().contains(refused));
    assert_eq!(house.posts("ses_A", "started", "127.0.0.1").await, 200);
    assert_eq!(house.status("ses_A").await, "RECORDING");
}

#[tokio::test]
async fn the_administrator_is_let_in_whatever_was_guessed_from_the_same_address() {
    let house = House::with(&[]).await;
    let asks = async |password: &str| {
        let url = house.controller.url("/api/sessions");
        let request = house.client.get(url).basic_auth(USER, Some(password));
        request.send().await.unwrap().status().as_u16()
    };
    // Recorders with an earlier password, for a while.
    for _ in 0..30 {
        assert!(matches!(asks("an earlier password").await, 401 | 429));
    }
    assert_eq!(asks("an earlier password").await, 429);
    assert_eq!(asks(&house.controller.password).await, 200);
    assert_eq!(asks("an earlier password").await, 429);
    assert_eq!(asks(&house.controller.password).await, 200);
}
