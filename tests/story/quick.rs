//! Quick start through a real Docker daemon: OpenVidu makes one container a session, and orders its recordings there.

use super::{By, Scene, is_whole};
use crate::support::docker::{containers, docker};
use crate::support::frames::Footage;
use crate::support::openvidu::{Order, Recording};
use crate::support::vessel::Vessel;
use crate::support::wait::until_true;
use reqwest::Method;
use std::time::Duration;

impl Scene {
    /// A session whose page is open, and has been for a while.
    async fn opens(&self, session: &str) -> Vessel {
        let open = self
            .stage
            .openvidu
            .open(&self.stage.order(session))
            .unwrap();
        waits(&open).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        open
    }

    async fn orders(&self, open: &Vessel, id: &str) -> Recording {
        let order = self.stage.order(id);
        self.stage.openvidu.start_in(open, order).await.unwrap()
    }

    /// What the controller knows to wait for an order.
    async fn open_pages(&self) -> Vec<String> {
        let all = self.stage.controller.get("/api/sessions/all").await;
        let waiting = all["waiting"].as_array().unwrap().iter();
        let ids = waiting.map(|page| page["sessionId"].as_str().unwrap().to_owned());
        ids.collect()
    }

    /// Stops it; OpenVidu holds it ready.
    async fn stops(&self, recording: &Recording) -> Footage {
        let sealed = self.stage.openvidu.stop_in(recording).await;
        let sealed = sealed.unwrap_or_else(|why| {
            panic!(
                "OpenVidu fails the recording: {why}\n{}",
                recording.vessel.logs()
            )
        });
        eprintln!(
            "started after {:?}, stopped after {:?}",
            recording.start_took, sealed.stop_took
        );
        self.is_ready(recording, By::OpenVidu).await;
        Footage::read(&sealed.video)
    }
}

/// Waits until the page is shown and an order can come.
async fn waits(open: &Vessel) {
    let says = |line: &str| open.container().shell("-i", line).unwrap_or_default();
    until_true("the open page", Duration::from_secs(30), || {
        says("ov2-ha-recorder ask").contains("waits for an order")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recordings_of_a_session_are_made_in_its_one_container() {
    let name = "the_recordings_of_a_session_are_made_in_its_one_container";
    let Some(scene) = Scene::set(name, &[]).await else {
        return;
    };
    let open = scene.opens("ses_row").await;
    // They would take the container away with them.
    let mut kept = Vec::new();
    for id in ["ses_row", "ses_row~1"] {
        let recording = scene.orders(&open, id).await;
        assert_eq!(scene.open_pages().await, Vec::<String>::new());
        tokio::time::sleep(Duration::from_secs(6)).await;
        let footage = scene.stops(&recording).await;
        assert_eq!(scene.open_pages().await, ["quick:ses_row"]);
        is_whole(&footage);
        assert_eq!(footage.holes(), []);
        assert_eq!(scene.failovers(id).await["totalFailovers"], 0);
        kept.push(recording);
    }
    // A second stop is none.
    open.container()
        .shell("-i", "./composed_quick_start.sh --stop-recording")
        .unwrap();
    open.force_away();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_killed_goes_on_with_its_recording_or_waits_again() {
    let name = "a_container_that_is_killed_goes_on_with_its_recording_or_waits_again";
    let Some(scene) = Scene::set(name, &[]).await else {
        return;
    };
    let open = scene.opens("ses_kill").await;
    let running = || open.container().inspect("{{.State.Running}}").unwrap() == "true";
    docker(&["kill", &open.container().0]).unwrap();
    until_true("the container", Duration::from_secs(10), running).await;
    waits(&open).await;

    let recording = scene.orders(&open, "ses_kill").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    docker(&["kill", &open.container().0]).unwrap();
    let before = std::fs::metadata(recording.video()).unwrap().len();
    recording
        .grows(before + 100_000, Duration::from_secs(20))
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let footage = scene.stops(&recording).await;
    is_whole(&footage);
    assert_eq!(footage.holes().len(), 1, "{:?}", footage.holes());
    assert!(footage.missing() < 6.0, "{:?}", footage.holes());
    assert_eq!(scene.failovers("ses_kill").await["totalFailovers"], 1);
    waits(&open).await;
    let next = scene.orders(&open, "ses_kill~1").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let footage = scene.stops(&next).await;
    is_whole(&footage);
    open.force_away();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_waits_and_hangs_is_started_again_and_a_stopped_one_too() {
    let name = "a_container_that_waits_and_hangs_is_started_again_and_a_stopped_one_too";
    let Some(scene) = Scene::set(name, &[]).await else {
        return;
    };
    let open = scene.opens("ses_deaf").await;
    let started = || open.container().inspect("{{.State.StartedAt}}").unwrap();
    let before = started();
    docker(&["stop", &open.container().0]).unwrap();
    until_true("the stopped one", Duration::from_secs(20), || {
        started() != before
    })
    .await;
    waits(&open).await;
    let before = started();
    docker(&["pause", &open.container().0]).unwrap();
    for _ in 0..2 {
        let check = scene
            .stage
            .controller
            .ask(Method::POST, "/api/failover/check", None);
        assert_eq!(check.await.0, 200);
    }
    until_true("the frozen one", Duration::from_secs(40), || {
        started() != before
    })
    .await;
    waits(&open).await;
    let recording = scene.orders(&open, "ses_deaf").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    is_whole(&scene.stops(&recording).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_that_the_controller_lost_sight_of_costs_the_next_one_nothing() {
    let name = "a_recording_that_the_controller_lost_sight_of_costs_the_next_one_nothing";
    let settings = [
        ("HEARTBEAT_INTERVAL", "1"),
        ("HA_MAX_MISSED_HEARTBEATS", "3"),
    ];
    let Some(mut scene) = Scene::set(name, &settings).await else {
        return;
    };
    let open = scene.opens("ses_lost").await;
    let first = scene.orders(&open, "ses_lost").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    // Its end is heard by nobody, and what OpenVidu wrote of it is deleted.
    scene.stage.controller.kill().await;
    let exec = "./composed_quick_start.sh --stop-recording";
    first.says("stopped");
    open.container().shell("-i", exec).unwrap();
    std::fs::remove_dir_all(&first.folder).unwrap();
    let webhook = scene.stage.openvidu.webhook.take();
    let next = scene.orders(&open, "ses_lost~1").await;
    scene.stage.controller.resume().await;
    scene.stage.openvidu.webhook = webhook;
    let begun = open.container().inspect("{{.State.StartedAt}}").unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let now = open.container().inspect("{{.State.StartedAt}}").unwrap();
    assert_eq!(now, begun, "{}", open.logs());
    assert_eq!(containers("label=session.id=ses_lost").len(), 0);
    next.says("stopped");
    open.container().shell("-i", exec).unwrap();
    let footage = Footage::read(&next.video());
    is_whole(&footage);
    assert_eq!(footage.holes(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_removed_while_it_records_is_followed_by_a_backup_and_none_while_it_waits()
 {
    let name = "a_container_that_is_removed_while_it_records_is_followed_by_a_backup";
    let Some(scene) = Scene::set(name, &[]).await else {
        return;
    };
    let backups = |id: &str| containers(&format!("label=session.id={id}")).len();
    let idle = scene.opens("ses_idle").await;
    let first = scene.orders(&idle, "ses_idle").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.stops(&first).await;
    idle.force_away();

    let open = scene.opens("ses_gone").await;
    let order = Order {
        name: "its".into(),
        resolution: "640x360".into(),
        ..scene.stage.order("ses_gone~1")
    };
    let recording = scene.stage.openvidu.start_in(&open, order).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    open.force_away();
    let before = std::fs::metadata(recording.video()).unwrap().len();
    recording
        .grows(before + 50_000, Duration::from_secs(20))
        .await;
    assert_eq!((backups("ses_gone~1"), backups("ses_idle")), (1, 0));
    tokio::time::sleep(Duration::from_secs(4)).await;
    let refused = scene.stage.openvidu.stop_in(&recording).await;
    assert!(refused.is_err(), "OpenVidu knows the old container only");
    let ready = || recording.seal()["status"] == "ready";
    until_true("the seal", Duration::from_secs(10), ready).await;
    scene.is_ready(&recording, By::Controller).await;
    let footage = Footage::read(&recording.video());
    is_whole(&footage);
    assert_eq!(footage.holes().len(), 1, "{:?}", footage.holes());
    assert!(footage.missing() < 8.0, "{:?}", footage.holes());
    assert_eq!(backups("ses_gone~1"), 0);
}
