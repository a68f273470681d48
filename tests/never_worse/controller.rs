//! Never worse: a controller that is lost, locked out or without Docker costs no recording.

use crate::support::controller::Controller;
use crate::support::desk::{Desk, PASSWORD};
use crate::support::docker_socket::DockerSocket;
use crate::support::standin;
use crate::support::wait::{until, until_true};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ov2_ha_recorder::clock::SystemClock;
use ov2_ha_recorder::model::ids::{ContainerId, RecordingId};
use ov2_ha_recorder::model::session::{State, Status};
use ov2_ha_recorder::model::wire::Heartbeat;
use ov2_ha_recorder::runtime::process::ProcessRuntime;
use ov2_ha_recorder::runtime::{ContainerStatus, Environment, Runtime, Stop};
use reqwest::Method;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_ov2-ha-recorder");

const SOON: Duration = Duration::from_secs(30);

/// A controller within the test over stand-ins for recorders, which run as processes.
struct House {
    desk: Desk,
    runtime: ProcessRuntime,
    processes: PathBuf,
    folder: tempfile::TempDir,
}

impl House {
    fn with(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("record");
        standin::write_program(&program);
        let processes = folder.path().join("processes");
        let runtime = ProcessRuntime::open(&processes, &program).unwrap();
        let known = Arc::new(runtime.clone());
        Self {
            desk: Desk::open(folder.path(), known, Arc::new(SystemClock), settings),
            runtime,
            processes,
            folder,
        }
    }

    /// Makes and starts a recorder.
    fn launch(&self, recording: &str, more: &[(&str, String)]) -> ContainerId {
        let environment = Environment(standin::environment(recording, more));
        let recordings = self.folder.path();
        let name = format!("recording_{recording}");
        let made = self
            .runtime
            .launch(&name, environment, recordings, BTreeMap::new());
        made.unwrap()
    }

    fn openvidu_says(&self, recording: &str, status: &str) {
        let folder = self.folder.path().join(recording);
        fs::create_dir_all(&folder).unwrap();
        let seal = json!({"id": recording, "status": status, "createdAt": 1_795_577_569_000_i64});
        fs::write(
            folder.join(format!(".recording.{recording}")),
            seal.to_string(),
        )
        .unwrap();
    }

    /// The numbers of the processes that were started in it, one after the other.
    fn starts(&self, id: &ContainerId) -> Vec<String> {
        let notes = fs::read_to_string(self.processes.join(id.as_str()).join("events"));
        let notes = notes.unwrap_or_default();
        let starts = notes.lines().filter(|line| line.starts_with("start "));
        starts
            .filter_map(|line| Some(line.rsplit(' ').next()?.to_owned()))
            .collect()
    }

    async fn status(&self, id: &ContainerId) -> ContainerStatus {
        self.runtime.inspect(id).await.unwrap().unwrap().status
    }

    async fn close(self, recorders: &[&ContainerId]) {
        self.desk.close().await;
        for id in recorders {
            self.runtime.stop(id, Stop::Fence).await.unwrap();
        }
    }
}

/// It registers and says once that it writes, and is silent from then on; none of its files can be seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_runs_is_left_alone_when_no_further_one_is_started_and_is_taken_as_it_comes_back()
 {
    let mut house = House::with(&[
        ("HEARTBEAT_INTERVAL", "1"),
        ("HA_MAX_MISSED_HEARTBEATS", "2"),
        ("HA_FAILOVER_MAX_ATTEMPTS", "1"),
    ]);
    let port = house.desk.serve().await;
    house.desk.controller.start();
    let account = STANDARD.encode(format!("recorder:{PASSWORD}"));
    let id = house.launch(
        "ses_A",
        &[
            ("PORT", port.to_string()),
            ("AUTHORIZATION", account),
            ("BEAT", "1000".into()),
        ],
    );
    house.openvidu_says("ses_A", "started");
    let recording = RecordingId::parse("ses_A").unwrap();
    let session = || house.desk.controller.session(&recording);
    let given_up = || session().is_some_and(|it| matches!(it.state, State::GivenUp { .. }));
    until_true("the last failover", SOON, given_up).await;
    let before = session().unwrap();
    assert_eq!(before.failovers.len(), 1, "{:?}", before.failovers);
    assert_eq!(before.state.status(), Status::Failed);
    house.desk.controller.check().await;
    assert_eq!(house.status(&id).await, ContainerStatus::Running);

    let heard = Heartbeat {
        last_chunk: Some("0009.mp4".into()),
        run: Some(before.run),
        ..Heartbeat::default()
    };
    house.desk.controller.heartbeat(&recording, heard).unwrap();
    let after = session().unwrap();
    assert_eq!(after.state.status(), Status::Recording);
    assert_eq!((after.run, after.failovers.len()), (before.run, 1));
    assert_eq!(house.status(&id).await, ContainerStatus::Running);
    assert_eq!(house.starts(&id).len(), 2, "the first and the failover's");
    house.close(&[&id]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_dies_after_openvidus_stop_is_not_started_again() {
    let house = House::with(&[]);
    house.desk.controller.start();
    let ended = ["stopped", "ready", "failed"].map(|status| {
        let recording = format!("ses_{status}");
        house.openvidu_says(&recording, status);
        house.launch(&recording, &[])
    });
    house.openvidu_says("ses_started", "started");
    let goes_on = house.launch("ses_started", &[]);
    let all = ended.iter().chain([&goes_on]);
    for id in all.clone() {
        until_true("its start", SOON, || house.starts(id).len() == 1).await;
    }
    house.desk.controller.check().await;
    for id in all.clone() {
        let pid = house.starts(id)[0].parse().unwrap();
        crate::support::docker::signal_process(pid, "KILL");
    }
    until_true("another start", SOON, || house.starts(&goes_on).len() == 2).await;
    for id in &ended {
        until("its end", SOON, || async {
            matches!(house.status(id).await, ContainerStatus::Exited(_)).then_some(())
        })
        .await;
    }
    house.desk.controller.check().await;
    for id in &ended {
        assert_eq!(house.starts(id).len(), 1, "started although it was over");
    }
    let all: Vec<&ContainerId> = all.collect();
    house.close(&all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_without_docker_takes_webhooks_and_heartbeats_and_connects_when_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let nobody = [("IMAGE_NAME", "127.0.0.1:1/ov2-ha-test/nobody")];
    let recordings = folder.path().join("recordings");
    let state = folder.path().join("state");
    let binary = Path::new(BINARY);
    let mut controller =
        Controller::start_beside(&socket, binary, &state, &recordings, &nobody).await;
    let docker = async |controller: &Controller| {
        let (_, health) = controller
            .ask(Method::GET, "/actuator/health/docker", None)
            .await;
        health["status"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(docker(&controller).await, "DOWN");
    let session = json!({"sessionId": "ses_A", "clientId": "a recorder"});
    let event = json!({"event": "participantJoined", "sessionId": "s"});
    let chunk = json!({"lastChunk": "0001.mp4"});
    for (method, path, body, wanted) in [
        (Method::POST, "/api/sessions", &session, 201),
        (Method::PUT, "/api/sessions/ses_A/heartbeat", &chunk, 200),
        (Method::POST, "/openvidu/webhook", &event, 200),
    ] {
        let (status, said) = controller.ask(method, path, Some(body)).await;
        assert_eq!(status, wanted, "{path}: {said}");
    }
    let becomes = async |word: &str| {
        until(&format!("Docker {word}"), SOON, || async {
            (docker(&controller).await == word).then_some(())
        })
        .await;
    };
    let daemon = DockerSocket::at(&socket);
    becomes("UP").await;
    let said = |what: &str| controller.log().matches(what).count();
    let (away, back) = ("no container is watched", "its containers are watched");
    until_true("the word of it", SOON, || said(back) == 1).await;
    drop(daemon);
    becomes("DOWN").await;
    until_true("the word of it", SOON, || said(away) == 2).await;
    let _daemon = DockerSocket::at(&socket);
    becomes("UP").await;
    until_true("the word of it", SOON, || said(back) == 2).await;
    assert_eq!(said(away), 2, "once each time: {}", controller.log());
    controller.stop().await;
}

/// What a controller does that is asked while Docker says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_docker_that_hangs_is_told_within_five_seconds_and_nothing_else_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let daemon = DockerSocket::at(&socket);
    let nobody = [("IMAGE_NAME", "127.0.0.1:1/ov2-ha-test/nobody")];
    let (recordings, state) = (
        folder.path().join("recordings"),
        folder.path().join("state"),
    );
    let binary = Path::new(BINARY);
    let controller = Controller::start_beside(&socket, binary, &state, &recordings, &nobody).await;
    let docker = async || {
        let health = controller.get("/actuator/health").await;
        health["components"]["docker"].clone()
    };
    let becomes = async |word: &str| {
        until(&format!("Docker {word}"), SOON, || async {
            let part = docker().await;
            (part["status"] == word).then_some(part)
        })
        .await
    };
    becomes("UP").await;
    let session = json!({"sessionId": "ses_A", "clientId": "a recorder"});
    controller
        .ask(Method::POST, "/api/sessions", Some(&session))
        .await;
    controller.get("/api/overview").await;

    daemon.hang();
    let (took, part) = becomes("DOWN").await;
    // And what the tests take that run beside this one.
    assert!(
        took < Duration::from_millis(5_000 + 1_500),
        "told after {took:?}"
    );
    let said = part["summary"].as_str().unwrap();
    assert!(said.contains("Docker does not answer"), "{said}");
    let chunk = json!({"lastChunk": "0001.mp4"});
    for round in 0..8 {
        let begin = Instant::now();
        let heartbeat = "/api/sessions/ses_A/heartbeat";
        let (status, said) = controller.ask(Method::PUT, heartbeat, Some(&chunk)).await;
        assert_eq!(status, 200, "{said}");
        let seen = controller.get("/api/overview").await;
        let words = seen["judgement"]["worries"].to_string();
        assert!(words.contains("Docker does not answer"), "{words}");
        let took = begin.elapsed();
        // Who waited for Docker would wait for three seconds.
        assert!(
            took < Duration::from_millis(2_500),
            "round {round}: {took:?}"
        );
        tokio::time::sleep_until((begin + Duration::from_millis(700)).into()).await;
    }
    let begin = Instant::now();
    let status = controller.get("/api/failover/status").await;
    assert_eq!(status["dockerInitializationFailed"], true, "{status}");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");

    daemon.go_on();
    becomes("UP").await;
    let session = controller.get("/api/sessions/ses_A").await;
    assert_eq!(session["status"], "RECORDING");
    assert_eq!(session["failovers"], json!([]), "{session}");
}

/// With Chromium, alone: seconds are judged.
mod record {
    use super::{BINARY, SOON};
    use crate::support::frames::{self, Footage};
    use crate::support::stage::Stage;
    use crate::support::wait::until;
    use reqwest::Method;
    use serde_json::json;
    use std::path::Path;
    use std::time::{Duration, Instant};

    /// A silent recorder is missed after three seconds.
    const QUICK: &[(&str, &str)] = &[
        ("HEARTBEAT_INTERVAL", "1"),
        ("HA_MAX_MISSED_HEARTBEATS", "3"),
        ("CHUNK_TIME_SIZE", "2"),
        ("HA_FAILOVER_CHECK_INTERVAL", "1"),
        ("HA_FAILOVER_MAX_ATTEMPTS", "2"),
    ];

    #[tokio::test(flavor = "multi_thread")]
    async fn a_recorder_whose_password_is_refused_loses_nothing_and_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::of_processes(Path::new(BINARY), folder.path(), QUICK).await;
        let mut stage = stage.unwrap();
        let recording = stage.openvidu.start(stage.order("ses_locked_out")).await;
        let recording = recording.unwrap();
        let session = "/api/sessions/ses_locked_out";
        until("a chunk", SOON, || async {
            (stage.controller.get(session).await["status"] == "RECORDING").then_some(())
        })
        .await;
        // What a stranger says of it changes nothing.
        for status in ["stopped", "ready", "failed"] {
            let news = json!({"event": "recordingStatusChanged", "sessionId": "s", "id": "ses_locked_out", "status": status});
            let hook = "/openvidu/webhook";
            let (answer, _) = stage.controller.ask(Method::POST, hook, Some(&news)).await;
            assert_eq!(answer, 200);
        }
        stage.controller.change_password().await;
        let begin = Instant::now();
        until("the alarm", SOON, || async {
            (stage.controller.get(session).await["contact"] == "deaf").then_some(())
        })
        .await;
        println!("reported {:?} after the password changed", begin.elapsed());
        until("the health's alarm", SOON, || async {
            let health = stage.controller.get("/actuator/health/contact").await;
            (health["status"] == "DOWN").then_some(())
        })
        .await;
        let metric = "/actuator/metrics/ha_recorder_deaf_sessions";
        let metric = stage.controller.get(metric).await;
        assert_eq!(metric["measurements"][0]["value"], 1.0, "{metric}");
        // Long after everything that was tried before would have been given up.
        while begin.elapsed() < Duration::from_secs(25) {
            recording.grows(1_000, Duration::from_secs(10)).await;
        }
        let history = "/api/failover/ses_locked_out/history";
        let history = stage.controller.get(history).await;
        assert_eq!(history["totalFailovers"], 0, "{history}");
        let said = "it records on and nothing is ended";
        assert_eq!(stage.controller.log().matches(said).count(), 1);

        let sealed = stage.openvidu.stop(&recording).await.unwrap();
        let footage = Footage::read(&sealed.video);
        let holes = frames::describe(&footage.holes());
        assert_eq!(footage.missing(), 0.0, "{holes}");
        assert!(footage.duration > 25.0, "{} s", footage.duration);
    }
}
