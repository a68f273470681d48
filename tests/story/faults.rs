//! The fault matrix: one fault a test, judged by the frames of the final video and by what OpenVidu would see.

use super::{By, Scene, is_whole};
use crate::support::docker::{Container, containers, docker, signal_process};
use crate::support::frames::Footage;
use crate::support::gate::Gate;
use crate::support::openvidu::Recording;
use crate::support::own_disk::OwnDisk;
use crate::support::stage::{leave_out, seconds_now};
use crate::support::wait::{until, until_true};
use ov2_ha_recorder::clock::{Clock, SystemClock, Timestamp};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// A silent recorder is noticed after 6 s, so that the matrix does not take an hour.
pub(super) const QUICK: &[(&str, &str)] = &[
    ("HEARTBEAT_INTERVAL", "2"),
    ("HA_MAX_MISSED_HEARTBEATS", "3"),
    ("CHUNK_TIME_SIZE", "3"),
    ("HA_FAILOVER_CHECK_INTERVAL", "1"),
];
/// The heartbeat time-out that follows from [`QUICK`], in seconds.
const SILENCE: f64 = 6.0;

/// Slack for machines that are busy with other things.
const SLACK: f64 = 1.0;

/// Long enough for some seconds of footage before and after a fault.
const A_WHILE: Duration = Duration::from_secs(5);

impl Scene {
    /// Starts a recording and lets it run for a while.
    pub(super) async fn under_way(&self, id: &str) -> Recording {
        let recording = self.start(id).await;
        tokio::time::sleep(A_WHILE).await;
        recording
    }

    /// Waits until frames arrive again, and for a while longer.
    pub(super) async fn goes_on(&self, recording: &Recording) {
        recording.grows(60_000, Duration::from_secs(30)).await;
        tokio::time::sleep(A_WHILE).await;
    }

    /// The controller's data directory is lost.
    fn forget_everything(&self) {
        fs::remove_dir_all(self.stage.controller.folder.join("data")).unwrap();
    }

    pub(super) async fn failovers(&self, id: &str) -> Value {
        self.stage
            .controller
            .get(&format!("/api/failover/{id}/history"))
            .await
    }

    /// The session is in the state `status`.
    async fn becomes(&self, id: &str, status: &str, bound: Duration) {
        until(&format!("{id} {status}"), bound, || async {
            (self.session(id).await["status"] == status).then_some(())
        })
        .await;
    }

    /// The backup container of `id`, once there is one.
    pub(super) async fn backup(&self, id: &str) -> Container {
        let (_, backup) = until("a backup container", Duration::from_secs(20), || async {
            containers(&format!("label=session.id={id}"))
                .into_iter()
                .find(Container::runs)
        })
        .await;
        backup
    }

    /// Stops as OpenVidu does and reads the video; nothing but what the fault cost may be missing.
    async fn finish(&self, recording: &Recording, most_missing: f64, holes: usize) -> Footage {
        let sealed = self.stop(recording).await;
        let footage = Footage::read(&sealed.video);
        is_whole(&footage);
        assert!(footage.missing() <= most_missing, "{:?}", footage.holes());
        assert!(footage.holes().len() <= holes, "{:?}", footage.holes());
        eprintln!(
            "missing {:?}; stop took {:?}",
            footage.holes(),
            sealed.stop_took
        );
        footage
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_kill_costs_seconds() {
    let Some(scene) = Scene::set("docker_kill_costs_seconds", QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_kill").await;
    docker(&["kill", &recording.vessel.container().0]).unwrap();
    scene.goes_on(&recording).await;
    scene.finish(&recording, 6.0, 1).await;
    let history = scene.failovers("ses_kill").await;
    let events = history["failoverEvents"].as_array().unwrap();
    assert_eq!(
        (events.len(), &history["successfulRecoveries"]),
        (1, &1.into())
    );
    let event = &events[0];
    let container = recording.vessel.container().0.as_str();
    assert_eq!(
        (&event["oldContainerId"], &event["newContainerId"]),
        (&container.into(), &container.into())
    );
    assert_eq!(event["reason"], "the recorder ended with exit code 137");
    assert!(event["chunksRecovered"].as_u64().unwrap() >= 1, "{event}");
    let seconds = |name: &str| event[name].as_f64().unwrap() / 1_000.0;
    assert!(
        seconds("detectionMs") < 1.0 && seconds("startMs") < 2.0,
        "{event}"
    );
    // As the heartbeat tells it, which comes every two seconds.
    let first_frame = seconds("recoveryTimeMs");
    assert!(
        first_frame > seconds("startMs") && first_frame < 8.0,
        "{event}"
    );
    let told = scene.runs(&["failovers", "ses_kill"]);
    let short = &container[..12];
    let line = format!("ses_kill  run 1  died (exit code 137)  {short} -> {short}  ");
    assert!(
        told.contains(&line) && told.contains(" chunks kept  seen after 0."),
        "{told}"
    );
}

/// A back-off of two seconds comes before the third failover; a fourth is one too many.
const PATIENT: &[(&str, &str)] = &[("HA_FAILOVER_MAX_ATTEMPTS", "3")];

/// OpenVidu's stop fails where its container is not there to hear it, and no word of OpenVidu follows: then the controller
/// ends what records, finishes the video, seals it and tells the customer: at once where the container was certainly gone
/// before the stop, after 45 s where it ended in the same second.
#[tokio::test(flavor = "multi_thread")]
async fn what_openvidu_cannot_stop_the_controller_finishes_and_seals() {
    let name = "what_openvidu_cannot_stop_the_controller_finishes_and_seals";
    let Some(scene) = Scene::set(name, &[QUICK, PATIENT].concat()).await else {
        return;
    };
    // One after the other, so that they wait for their seals together.
    let recordings = [
        scene.is_given_up("ses_spent").await,
        scene.is_stopped_while_nothing_runs("ses_pause").await,
        scene.is_stopped_in_a_backup("ses_gone~1").await,
    ];
    for recording in recordings {
        let ready = || recording.seal()["status"] == "ready";
        until_true("the seal", Duration::from_secs(75), ready).await;
        scene.is_ready(&recording, By::Controller).await;
        let footage = Footage::read(&recording.video());
        is_whole(&footage);
        assert!(footage.missing() <= 6.0, "{:?}", footage.holes());
        assert!(footage.duration > 4.0, "{} s", footage.duration);
        let labelled = format!("label=session.id={}", recording.order.id);
        assert_eq!(containers(&labelled), [], "the backup is still there");
    }
}

impl Scene {
    /// Its container is removed and a backup goes on.
    async fn is_stopped_in_a_backup(&self, id: &str) -> Recording {
        let recording = self.under_way(id).await;
        let made = |container: &Container| {
            let like =
                "{{json .HostConfig.Binds}} {{.HostConfig.ShmSize}} {{.HostConfig.NetworkMode}}";
            container.inspect(like).unwrap()
        };
        let first = recording.vessel.container();
        let before = made(first);
        first.remove();
        let backup = self.backup(id).await;
        assert_eq!(made(&backup), before);
        let labels = backup.inspect("{{json .Config.Labels}}").unwrap();
        for label in [
            r#""container.type":"backup-recorder""#,
            r#""created.by":"ha-controller""#,
            r#""start.chunk":""#,
        ] {
            assert!(labels.contains(label), "{labels}");
        }
        let environment = backup.inspect("{{json .Config.Env}}").unwrap();
        for variable in [
            "\"IS_RECOVERY_CONTAINER=true\"".to_owned(),
            "\"START_CHUNK=".to_owned(),
            format!("\"ORIGINAL_SESSION_ID={id}\""),
            format!("\"ORIGINAL_CONTAINER_ID={}\"", first.0),
        ] {
            assert!(environment.contains(&variable), "{variable} is not set");
        }
        // OpenVidu removes, when it starts, whatever was made from an image of its recording image's name.
        let image = backup.inspect("{{.Config.Image}}").unwrap();
        let own = &self.stage.image.as_ref().unwrap().name;
        assert!(!image.starts_with(own), "{image}");
        self.goes_on(&recording).await;
        self.cannot_be_stopped(&recording).await;
        let begin = Instant::now();
        let ready = || recording.seal()["status"] == "ready";
        until_true(
            "the seal of a backup's video",
            Duration::from_secs(8),
            ready,
        )
        .await;
        eprintln!(
            "sealed {:?} after a stop that found no container",
            begin.elapsed()
        );
        recording
    }

    /// The stop comes while the controller waits before the next failover.
    async fn is_stopped_while_nothing_runs(&self, id: &str) -> Recording {
        let recording = self.under_way(id).await;
        self.backs_off(&recording, 3).await;
        self.cannot_be_stopped(&recording).await;
        self.becomes(id, "COMPLETED", Duration::from_secs(10)).await;
        assert!(!recording.vessel.container().runs());
        recording
    }

    /// The recorder dies once too often: what was recorded is joined at once, whenever the stop comes.
    async fn is_given_up(&self, id: &str) -> Recording {
        let recording = self.under_way(id).await;
        self.backs_off(&recording, 3).await;
        let container = recording.vessel.container();
        let runs = || container.runs();
        until_true("the third failover", Duration::from_secs(10), runs).await;
        docker(&["kill", &container.0]).unwrap();
        self.becomes(id, "FAILED", Duration::from_secs(10)).await;
        let info = recording.folder.join(format!("{id}.info"));
        let joined = || info.exists();
        until_true("the joined video", Duration::from_secs(10), joined).await;
        let kept = Footage::read(&recording.video());
        is_whole(&kept);
        assert!(kept.duration > 4.0, "{} s", kept.duration);
        assert!(!container.runs());
        self.cannot_be_stopped(&recording).await;
        recording
    }

    async fn cannot_be_stopped(&self, recording: &Recording) {
        let begin = Instant::now();
        let stopped = self.stage.openvidu.stop(recording).await;
        // The webhook waits for nothing that the controller does.
        assert!(begin.elapsed() < Duration::from_secs(2), "{stopped:?}");
        assert!(
            stopped.is_err(),
            "OpenVidu's exec works where nothing runs: {stopped:?}"
        );
    }

    /// Kills the recorder through Docker, which starts nothing again that was killed so, until the controller has seen
    /// `count` deaths and backs off before it starts it once more.
    async fn backs_off(&self, recording: &Recording, count: usize) {
        let container = recording.vessel.container();
        let before = self.failovers(&recording.order.id).await;
        let before = before["totalFailovers"].as_u64().unwrap() as usize;
        for number in before + 1..=count {
            let runs = || container.runs();
            until_true("a recorder to kill", Duration::from_secs(10), runs).await;
            docker(&["kill", &container.0]).unwrap();
            until("a failover", Duration::from_secs(5), || async {
                let history = self.failovers(&recording.order.id).await;
                (history["totalFailovers"] == number).then_some(())
            })
            .await;
        }
        let session = self.session(&recording.order.id).await;
        let not_before = session["state"]["not_before"].as_str().unwrap_or_default();
        let not_before = Timestamp::parse(not_before).unwrap();
        assert!(not_before > SystemClock.now(), "{session}");
        assert!(!container.runs());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_container_is_fenced_and_replaced() {
    // With the settings as they come: it is not for missed heartbeats that it is replaced.
    let Some(scene) = Scene::set("a_frozen_container_is_fenced_and_replaced", &[]).await else {
        return;
    };
    let recording = scene.under_way("ses_pause").await;
    docker(&["pause", &recording.vessel.container().0]).unwrap();
    let frozen_at = seconds_now();
    scene.goes_on(&recording).await;
    // What was frozen is gone: nothing is left to be thawed, and the next run is alone.
    let container = recording.vessel.container();
    docker(&["unpause", &container.0]).unwrap_err();
    assert_eq!(container.signal_processes("ov2-ha-recorder", "0"), 1);
    assert_eq!(scene.session("ses_pause").await["run"], 2);
    let history = scene.failovers("ses_pause").await;
    assert_eq!(history["totalFailovers"], 1, "{history}");
    let event = &history["failoverEvents"][0];
    let seen_at = Timestamp::parse(event["timestamp"].as_str().unwrap()).unwrap();
    let replaced_at = seen_at.millis() as f64 + event["startMs"].as_f64().unwrap();
    let took = replaced_at / 1_000.0 - frozen_at;
    eprintln!("replaced {took:.2} s after the freeze");
    assert!((5.0..7.0).contains(&took), "replaced after {took} s");
    // Those 5 s and what a killed recorder may cost; the bench asks for 9 s on a machine of its own.
    let footage = scene.finish(&recording, 5.0 + 6.0, 1).await;
    assert!(
        (footage.holes()[0].from - frozen_at).abs() < 1.5,
        "{:?}",
        footage.holes()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_hangs_is_asked_and_replaced() {
    // With the settings as they come, and behind Docker's back: its files alone show that it does not go on.
    let Some(scene) = Scene::set("a_recorder_that_hangs_is_asked_and_replaced", &[]).await else {
        return;
    };
    let recording = scene.under_way("ses_hangs").await;
    let container = recording.vessel.container();
    container.signal_first_process("STOP");
    let hung_at = seconds_now();
    scene.goes_on(&recording).await;
    let said = docker(&["exec", &container.0, "ov2-ha-recorder", "ask"]).unwrap();
    assert_eq!(said, "the recorder answers: it records");
    let history = scene.failovers("ses_hangs").await;
    assert_eq!(history["totalFailovers"], 1, "{history}");
    let event = &history["failoverEvents"][0];
    let reason = "the recorder recorded nothing more and did not answer";
    assert_eq!(event["reason"], reason, "{event}");
    let seen_at = Timestamp::parse(event["timestamp"].as_str().unwrap()).unwrap();
    let replaced_at = seen_at.millis() as f64 + event["startMs"].as_f64().unwrap();
    let took = replaced_at / 1_000.0 - hung_at;
    eprintln!("replaced {took:.2} s after it hung");
    assert!(
        (5.5..8.0 + SLACK).contains(&took),
        "replaced after {took} s"
    );
    let footage = scene.finish(&recording, 9.0 + SLACK, 1).await;
    let hole = &footage.holes()[0];
    assert!((hole.from - hung_at).abs() < 1.5, "{hole:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_mends_itself_is_asked_and_left_alone() {
    // Its own patience with an ffmpeg that gives nothing is 3 s.
    let soon = &[("HA_STALL_SECONDS", "2")];
    let name = "a_recorder_that_mends_itself_is_asked_and_left_alone";
    let Some(scene) = Scene::set(name, soon).await else {
        return;
    };
    let recording = scene.under_way("ses_mends").await;
    let stopped = recording
        .vessel
        .container()
        .signal_processes("ffmpeg", "STOP");
    assert!(stopped > 0);
    let answered = || {
        let log = scene.stage.controller.log();
        log.contains("nothing is ended: its recorder answers that")
    };
    until_true("its answer", Duration::from_secs(10), answered).await;
    scene.goes_on(&recording).await;
    assert!(
        scene
            .stage
            .controller
            .log()
            .contains("its files grow again")
    );
    scene.finish(&recording, 6.0, 1).await;
    assert_eq!(scene.failovers("ses_mends").await["totalFailovers"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_is_told_and_nobodys_fault() {
    let name = "a_disk_that_hangs_is_told_and_nobodys_fault";
    let folder = tempfile::tempdir().unwrap();
    let disk = match OwnDisk::named(&folder.path().join("recordings")) {
        Ok(disk) => disk,
        Err(why) => return leave_out(name, &why),
    };
    let Some(scene) = Scene::set_in(name, folder, &[]).await else {
        return;
    };
    let recording = scene.under_way("ses_disk").await;
    // Dropped first, whatever is not as it should be: what is cleared away lies on that disk.
    let hang = match disk.hang() {
        Ok(hang) => hang,
        Err(why) => return leave_out(name, &why),
    };
    until("the worry", Duration::from_secs(25), || async {
        let worries = scene.stage.controller.get("/api/worries").await;
        let worries = worries.as_array().unwrap().clone();
        let mut texts = worries.iter().filter_map(|it| it["text"].as_str());
        texts
            .any(|it| it.ends_with("is left alone: the disk does not answer"))
            .then_some(())
    })
    .await;
    tokio::time::sleep(A_WHILE).await;
    drop(hang);
    scene.goes_on(&recording).await;
    assert_eq!(scene.failovers("ses_disk").await["totalFailovers"], 0);
    scene.finish(&recording, 0.0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_freeze_is_no_failover_and_costs_no_more_than_itself() {
    let slow = &[
        ("HEARTBEAT_INTERVAL", "5"),
        ("HA_MAX_MISSED_HEARTBEATS", "4"),
    ];
    let name = "a_short_freeze_is_no_failover_and_costs_no_more_than_itself";
    let Some(scene) = Scene::set(name, slow).await else {
        return;
    };
    let recording = scene.under_way("ses_nap").await;
    let container = recording.vessel.container();
    // The recorder alone: its children go on.
    container.signal_processes("ov2-ha-recorder", "STOP");
    tokio::time::sleep(Duration::from_secs(2)).await;
    container.signal_processes("ov2-ha-recorder", "CONT");
    scene.goes_on(&recording).await;
    // All of it.
    docker(&["pause", &container.0]).unwrap();
    let frozen_at = seconds_now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    docker(&["unpause", &container.0]).unwrap();
    let frozen = seconds_now() - frozen_at;
    scene.goes_on(&recording).await;
    let footage = scene.finish(&recording, 2.5 + frozen + 1.5, 2).await;
    let last = footage
        .holes()
        .pop()
        .expect("nothing was missed while frozen");
    assert!((last.from - frozen_at).abs() < 1.5, "{last:?}");
    assert!(last.seconds <= frozen + 1.5, "{last:?}");
    assert_eq!(scene.failovers("ses_nap").await["totalFailovers"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_encoder_is_started_again_in_place() {
    let Some(scene) = Scene::set("a_killed_encoder_is_started_again_in_place", QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_encoder").await;
    assert!(
        recording
            .vessel
            .container()
            .signal_processes("ffmpeg", "KILL")
            > 0
    );
    scene.goes_on(&recording).await;
    scene.finish(&recording, 3.0, 1).await;
    assert_eq!(scene.failovers("ses_encoder").await["totalFailovers"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_encoder_is_noticed_and_replaced() {
    let Some(scene) = Scene::set("a_frozen_encoder_is_noticed_and_replaced", QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_frozen").await;
    assert!(
        recording
            .vessel
            .container()
            .signal_processes("ffmpeg", "STOP")
            > 0
    );
    scene.goes_on(&recording).await;
    // Chunk progress time-out, a check, and a start.
    scene.finish(&recording, 9.0 + 1.0 + 4.0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_browser_shows_the_page_again() {
    let Some(scene) = Scene::set("a_killed_browser_shows_the_page_again", QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_browser").await;
    let killed = recording
        .vessel
        .container()
        .signal_processes("chromium", "KILL")
        + recording
            .vessel
            .container()
            .signal_processes("chrome", "KILL");
    assert!(killed > 0);
    scene.goes_on(&recording).await;
    let sealed = scene.stop(&recording).await;
    let footage = Footage::read(&sealed.video);
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    assert!(footage.missing() <= 6.0, "{:?}", footage.holes());
    assert!(
        seconds_now() - footage.last_clock() < 8.0,
        "the page was not shown again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_controller_does_not_blame_the_recorders_when_it_wakes() {
    let name = "a_frozen_controller_does_not_blame_the_recorders_when_it_wakes";
    let Some(scene) = Scene::set(name, QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_cut").await;
    let controller = scene.stage.controller.process();
    signal_process(controller, "STOP");
    tokio::time::sleep(Duration::from_secs_f64(SILENCE + 3.0)).await;
    signal_process(controller, "CONT");
    scene.goes_on(&recording).await;
    scene.finish(&recording, 0.0, 0).await;
    assert_eq!(scene.failovers("ses_cut").await["totalFailovers"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_is_cut_off_records_on_and_is_reported() {
    let name = "a_recorder_that_is_cut_off_records_on_and_is_reported";
    let Some(scene) = Scene::set(name, QUICK).await else {
        return;
    };
    let gate = Gate::before(scene.stage.controller.port).await;
    let env = scene.folder.path().join("recordings/.env");
    let text = fs::read_to_string(&env).unwrap();
    let own = format!("HA_CONTROLLER_PORT='{}'", scene.stage.controller.port);
    let through = format!("HA_CONTROLLER_PORT='{}'", gate.port);
    assert!(text.contains(&own), "{text}");
    fs::write(&env, text.replace(&own, &through)).unwrap();
    let recording = scene.under_way("ses_net").await;
    gate.shut();
    tokio::time::sleep(Duration::from_secs_f64(SILENCE / 2.0)).await;
    gate.open();
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(scene.failovers("ses_net").await["totalFailovers"], 0);
    // Its files show that it is well: it is reported, and nothing is ended.
    gate.shut();
    let contact = async |wanted: &str| {
        until(wanted, Duration::from_secs(15), || async {
            (scene.session("ses_net").await["contact"] == wanted).then_some(())
        })
        .await;
    };
    contact("deaf").await;
    tokio::time::sleep(Duration::from_secs_f64(2.0 * SILENCE)).await;
    gate.open();
    contact("heard").await;
    assert_eq!(scene.failovers("ses_net").await["totalFailovers"], 0);
    scene.finish(&recording, 0.0, 0).await;
}

/// Ends the daemon as an upgrade does, and starts it as it was: by its service manager, else with its own arguments.
async fn restart_docker() -> Result<(), String> {
    let run = |program: &str, arguments: &[&str]| {
        let done = std::process::Command::new(program).args(arguments).output();
        done.map_err(|cause| format!("{program}: {cause}"))
    };
    if Path::new("/run/systemd/system").exists() {
        let done = run("systemctl", &["restart", "docker"])?;
        return done
            .status
            .success()
            .then_some(())
            .ok_or("systemctl cannot restart docker".into());
    }
    let found = run("pidof", &["-s", "dockerd"])?;
    let pid = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    let line = fs::read(format!("/proc/{pid}/cmdline")).map_err(|cause| cause.to_string())?;
    let line = String::from_utf8(line).map_err(|cause| cause.to_string())?;
    let arguments: Vec<_> = line
        .split('\0')
        .skip(1)
        .filter(|it| !it.is_empty())
        .collect();
    run("kill", &[&pid])?;
    let gone = || !Path::new(&format!("/proc/{pid}")).exists();
    until_true("the daemon's end", Duration::from_secs(60), gone).await;
    std::process::Command::new("setsid")
        .arg("dockerd")
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .map_err(|cause| cause.to_string())?;
    let answers = || docker(&["version"]).is_ok();
    until_true("the daemon", Duration::from_secs(60), answers).await;
    Ok(())
}

/// Everything in Docker ends with the daemon, and nothing is started by it: OpenVidu's containers have no such policy.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_docker_daemon_costs_seconds() {
    let name = "a_restart_of_the_docker_daemon_costs_seconds";
    if docker(&["ps", "--quiet"]).is_ok_and(|running| !running.is_empty()) {
        return leave_out(
            name,
            "it would end what else runs in Docker here; stop those containers first",
        );
    }
    let Some(scene) = Scene::set(name, QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_daemon").await;
    let begin = std::time::Instant::now();
    if let Err(why) = restart_docker().await {
        return leave_out(name, &why);
    }
    let away = begin.elapsed().as_secs_f64();
    scene.goes_on(&recording).await;
    scene.finish(&recording, away + 6.0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_restarts_a_recorder_while_the_controller_is_down() {
    let name = "docker_restarts_a_recorder_while_the_controller_is_down";
    let Some(mut scene) = Scene::set(name, QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_down").await;
    scene.stage.controller.kill().await;
    recording.vessel.kill_first_process();
    scene.goes_on(&recording).await;
    scene.stage.controller.resume().await;
    scene
        .becomes("ses_down", "RECORDING", Duration::from_secs(20))
        .await;
    scene.finish(&recording, 6.0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_during_a_failover_ends_it_after_its_return() {
    let name = "a_controller_killed_during_a_failover_ends_it_after_its_return";
    let Some(mut scene) = Scene::set(name, QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_both").await;
    // Docker does not restart what was killed through its API: only the controller can.
    docker(&["kill", &recording.vessel.container().0]).unwrap();
    scene.stage.controller.kill().await;
    scene.stage.controller.resume().await;
    scene.goes_on(&recording).await;
    // Once more while it waits before the third one.
    scene.backs_off(&recording, 3).await;
    scene.stage.controller.kill().await;
    scene.stage.controller.resume().await;
    scene.goes_on(&recording).await;
    let footage = scene.finish(&recording, 18.0, 2).await;
    assert!(footage.holes()[0].seconds <= 12.0, "{:?}", footage.holes());
    let history = scene.failovers("ses_both").await;
    let events = history["failoverEvents"].as_array().unwrap();
    assert_eq!(events.len(), 3, "{history}");
    assert_eq!(
        recording.vessel.container().events("start"),
        1 + events.len()
    );
    assert!(events[2]["startMs"].as_u64().unwrap() >= 2_000, "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_and_a_controller_that_die_together_are_both_back() {
    let name = "a_recorder_and_a_controller_that_die_together_are_both_back";
    let Some(mut scene) = Scene::set(name, QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_dead").await;
    let container = recording.vessel.container();
    scene.stage.controller.kill().await;
    docker(&["kill", &container.0]).unwrap();
    scene.stage.controller.resume().await;
    scene.goes_on(&recording).await;
    assert_eq!(scene.failovers("ses_dead").await["totalFailovers"], 1);
    // And with nothing left to remember the recording by.
    scene.stage.controller.kill().await;
    docker(&["kill", &container.0]).unwrap();
    scene.forget_everything();
    scene.stage.controller.resume().await;
    scene.goes_on(&recording).await;
    let wait = Duration::from_secs(10);
    scene.becomes("ses_dead", "RECORDING", wait).await;
    assert_eq!(scene.session("ses_dead").await["run"], 3);
    assert_eq!(container.events("start"), 3);
    let footage = scene.finish(&recording, 12.0, 2).await;
    assert!(
        footage.holes().iter().all(|it| it.seconds <= 8.0),
        "{:?}",
        footage.holes()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_forgot_everything_goes_on_with_the_next_run() {
    let name = "a_controller_that_forgot_everything_goes_on_with_the_next_run";
    let Some(mut scene) = Scene::set(name, QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_amnesia").await;
    scene.stage.controller.kill().await;
    scene.forget_everything();
    scene.stage.controller.resume().await;
    scene
        .becomes("ses_amnesia", "RECORDING", Duration::from_secs(15))
        .await;
    docker(&["kill", &recording.vessel.container().0]).unwrap();
    scene.goes_on(&recording).await;
    assert_eq!(scene.session("ses_amnesia").await["run"], 2);
    assert_eq!(scene.failovers("ses_amnesia").await["totalFailovers"], 1);
    scene.finish(&recording, 6.0, 1).await;
}

/// Kills the container's first process; returns when the container runs once more.
async fn kill_and_see_restarted(recording: &Recording) {
    let container = recording.vessel.container();
    let before = container.started_at();
    recording.vessel.kill_first_process();
    let again = || container.runs() && container.started_at() != before;
    until_true("the container to run again", Duration::from_secs(10), again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_meets_a_failover_still_leaves_the_video() {
    let Some(scene) =
        Scene::set("a_stop_that_meets_a_failover_still_leaves_the_video", QUICK).await
    else {
        return;
    };
    let recording = scene.under_way("ses_meet").await;
    kill_and_see_restarted(&recording).await;
    let footage = scene.finish(&recording, 6.0, 1).await;
    assert!(footage.duration > 4.0, "{} s", footage.duration);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_faults_within_five_seconds_are_two_holes_at_most() {
    let Some(scene) = Scene::set("two_faults_within_five_seconds", QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_twice").await;
    kill_and_see_restarted(&recording).await;
    recording.grows(1, Duration::from_secs(15)).await;
    recording.vessel.kill_first_process();
    scene.goes_on(&recording).await;
    scene.finish(&recording, 12.0, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_used_again_never_meets_the_earlier_recording() {
    let Some(scene) = Scene::set("an_id_used_again_never_meets_the_earlier_recording", QUICK).await
    else {
        return;
    };
    let first = scene.under_way("ses_again").await;
    let sealed = scene.stop(&first).await;
    let ended = Footage::read(&sealed.video).last_clock();
    // As OpenVidu deletes: the files it knows go, the folder with them.
    fs::remove_dir_all(&first.folder).unwrap();
    drop(first);
    let second = scene.under_way("ses_again").await;
    let footage = scene.finish(&second, 0.0, 0).await;
    assert!(
        footage.first_clock() > ended,
        "frames of the earlier recording are shown"
    );
}
