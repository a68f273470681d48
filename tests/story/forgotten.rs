//! OpenVidu's container is gone, or its stop did not come: what OpenVidu has forgotten is finished once and for all, and what
//! it still records goes on.

use super::faults::QUICK;
use super::{By, Scene};
use crate::support::docker::{Container, OwnImage, containers, docker};
use crate::support::frames::Footage;
use crate::support::openvidu::Recording;
use crate::support::rest::{Rest, SECRET};
use crate::support::stage::seconds_now;
use crate::support::wait::{until, until_true};
use std::fs;
use std::time::Duration;

fn seconds_of(file: &fs::Metadata) -> f64 {
    let since = file
        .modified()
        .unwrap()
        .duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}

/// From the removal of its container to the seal.
const SEALED: Duration = Duration::from_secs(15);

impl Scene {
    /// One whose OpenVidu can be asked.
    async fn with_rest(test: &str) -> Option<Self> {
        let rest = Rest::serve().await;
        let url = rest.url();
        let own = [("OPENVIDU_URL", url.as_str()), ("OPENVIDU_SECRET", SECRET)];
        let mut scene = Self::set(test, &[QUICK, &own].concat()).await?;
        let openvidu = &mut scene.stage.openvidu;
        openvidu.rest = Some(rest.over(&openvidu.recordings));
        Some(scene)
    }

    /// Whether the controller has started a recorder again.
    fn has_started_one_again(&self) -> bool {
        let log = self.stage.controller.log();
        log.contains("recorder started again")
    }

    /// Sealed in OpenVidu's place with one `ready`, which no `stopped` precedes; nothing records any more.
    async fn is_sealed_without_a_stop(&self, recording: &Recording) -> Footage {
        let ready = || recording.seal()["status"] == "ready";
        until_true("the seal", SEALED, ready).await;
        recording.is_held_ready();
        let told = || self.stage.customer.told_of(&recording.order.id);
        let all = || told().len() >= 2;
        until_true("the customer's news", Duration::from_secs(5), all).await;
        // Another check passes.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let said: Vec<_> = told()
            .into_iter()
            .map(|it| (it.status, it.synthesized))
            .collect();
        assert_eq!(said, [("started".into(), false), ("ready".into(), true)]);
        assert_eq!(self.backups_of(recording), [], "something still records");
        self.plays(recording)
    }

    /// The video plays, and shows nothing twice. How soon a page is seen is judged elsewhere.
    fn plays(&self, recording: &Recording) -> Footage {
        let footage = Footage::read(&recording.video());
        assert_eq!(footage.decode_errors, Vec::<String>::new());
        assert_eq!(footage.repeated(), 0, "frames are shown twice");
        footage
    }

    fn backups_of(&self, recording: &Recording) -> Vec<Container> {
        containers(&format!("label=session.id={}", recording.order.id))
    }

    /// What is said about the recording to a person who asks.
    async fn worries_about(&self, recording: &Recording) -> Vec<(String, String)> {
        let all = self.stage.controller.get("/api/worries").await;
        let all = all.as_array().cloned().unwrap_or_default();
        let of_this = all
            .iter()
            .filter(|it| it["subject"] == recording.order.id.as_str());
        let word = |it: &serde_json::Value, name: &str| it[name].as_str().unwrap().to_owned();
        of_this
            .map(|it| (word(it, "severity"), word(it, "text")))
            .collect()
    }

    async fn worries(&self, recording: &Recording, words: &str) {
        until(words, Duration::from_secs(10), || async {
            let worries = self.worries_about(recording).await;
            worries
                .iter()
                .any(|(_, text)| text.contains(words))
                .then_some(())
        })
        .await;
    }
}

/// What Docker shows of an OpenVidu server; gone with it.
struct Server(Container, String);

impl Server {
    /// In the name space of the recording image.
    fn beside(recorders: &OwnImage) -> Self {
        let (space, _) = recorders.name.rsplit_once('/').unwrap();
        let image = format!("{space}/openvidu-server:{}", OwnImage::TAG);
        docker(&["tag", &recorders.full(), &image]).unwrap();
        let run = ["run", "-d", "--entrypoint", "sleep", &image, "300"];
        Self(Container(docker(&run).unwrap()), image)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.remove();
        let _ = docker(&["rmi", &self.1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_openvidu_forgets_at_its_restart_is_sealed_and_no_backup_is_made() {
    let name = "what_openvidu_forgets_at_its_restart_is_sealed_and_no_backup_is_made";
    let Some(scene) = Scene::with_rest(name).await else {
        return;
    };
    let recording = scene.under_way("ses_lost~1").await;
    scene.stage.openvidu.restart(Duration::ZERO).await;
    let forgotten_at = seconds_now();
    let footage = scene.is_sealed_without_a_stop(&recording).await;
    assert!(footage.last_clock() <= forgotten_at, "a backup recorded");
    assert!(!scene.has_started_one_again());
    scene
        .worries(&recording, "does not know this recording any more")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_while_openvidu_starts_ends_once_openvidu_says_that_it_has_forgotten() {
    let name = "a_backup_made_while_openvidu_starts_ends_once_openvidu_says_that_it_has_forgotten";
    let Some(scene) = Scene::with_rest(name).await else {
        return;
    };
    let recording = scene.under_way("ses_boot").await;
    // Nobody answers when it removes the container, and for a while longer.
    scene.stage.openvidu.restart(Duration::from_secs(5)).await;
    scene.is_sealed_without_a_stop(&recording).await;
    assert!(scene.has_started_one_again());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_docker_that_was_started_after_the_recording_has_forgotten_it() {
    let name = "a_server_in_docker_that_was_started_after_the_recording_has_forgotten_it";
    let Some(scene) = Scene::set(name, QUICK).await else {
        return;
    };
    let image = scene.stage.image.as_ref().unwrap();
    let recording = scene.under_way("ses_server").await;
    let _server = Server::beside(image);
    recording.vessel.container().remove();
    scene.is_sealed_without_a_stop(&recording).await;
    assert!(!scene.has_started_one_again());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_records_while_openvidu_is_silent_and_until_it_has_forgotten() {
    let name = "a_backup_records_while_openvidu_is_silent_and_until_it_has_forgotten";
    let Some(scene) = Scene::with_rest(name).await else {
        return;
    };
    let recording = scene.under_way("ses_mute").await;
    let rest = scene.stage.openvidu.rest.as_ref().unwrap();
    rest.down().await;
    recording.vessel.container().remove();
    let backup = scene.backup("ses_mute").await;
    scene.worries(&recording, "OpenVidu does not answer").await;
    // What is no word of OpenVidu ends nothing.
    rest.up().await;
    for (status, text) in [
        (404, "<html>"),
        (502, "<html>"),
        (401, "{}"),
        (200, "<html>"),
    ] {
        rest.answers_instead(Some((status, text)));
        let before = rest.asked();
        let again = || rest.asked() > before + 1;
        until_true("another question", Duration::from_secs(40), again).await;
        assert!(backup.runs(), "{status} ended the backup");
    }
    scene.worries(&recording, "no answer of OpenVidu").await;
    rest.answers_instead(None);
    until("no worry", Duration::from_secs(20), || async {
        scene
            .worries_about(&recording)
            .await
            .is_empty()
            .then_some(())
    })
    .await;
    scene.goes_on(&recording).await;
    assert!(backup.runs());
    rest.forget();
    scene.is_sealed_without_a_stop(&recording).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_what_openvidu_holds_for_failed_leaves_its_video() {
    let name = "a_backup_of_what_openvidu_holds_for_failed_leaves_its_video";
    let Some(scene) = Scene::set(name, QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_failed").await;
    recording.vessel.container().remove();
    scene.backup("ses_failed").await;
    scene.goes_on(&recording).await;
    // OpenVidu tells nobody.
    recording.says("failed");
    scene.worries(&recording, "there is a video").await;
    let none = || scene.backups_of(&recording).is_empty();
    until_true("the backup's end", Duration::from_secs(10), none).await;
    scene.plays(&recording);
    assert_eq!(recording.seal()["status"], "failed");
    let told = scene.stage.customer.told_of("ses_failed");
    assert!(told.iter().all(|it| it.status != "ready"), "{told:?}");
}

/// What happens after a restart of Docker's daemon: OpenVidu's next call to it fails, and so does its stop, although its
/// container was started again and runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_whose_q_does_not_come_ends_the_video_within_a_second() {
    let name = "a_stop_whose_q_does_not_come_ends_the_video_within_a_second";
    let Some(scene) = Scene::set(name, QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_mailbox").await;
    // As the daemon's end does to it.
    docker(&["stop", "-t", "5", &recording.vessel.container().0]).unwrap();
    scene.goes_on(&recording).await;
    scene
        .stage
        .openvidu
        .writes_the_stop(&recording)
        .await
        .unwrap();
    let stopped_at = seconds_now();
    let info = recording.folder.join("ses_mailbox.info");
    // The one of the recorder that ended with the daemon is older.
    let is_new = || fs::metadata(&info).is_ok_and(|it| seconds_of(&it) > stopped_at);
    until_true("the video's end", Duration::from_secs(8), is_new).await;
    let footage = Footage::read(&recording.video());
    let later = footage.last_clock() - stopped_at;
    eprintln!("the video ends {later:.2} s after the stop");
    assert!(
        (-0.5..=1.2).contains(&later),
        "it ends {later} s after the stop"
    );
    assert!(
        recording.vessel.container().runs(),
        "nobody could hear a late q"
    );
    let ready = || recording.seal()["status"] == "ready";
    until_true("the seal", Duration::from_secs(60), ready).await;
    scene.is_ready(&recording, By::Controller).await;
    let ended = || !recording.vessel.container().runs();
    until_true("the container's end", Duration::from_secs(10), ended).await;
    let code = recording.vessel.container().inspect("{{.State.ExitCode}}");
    assert_eq!(code.as_deref(), Ok("0"));
    let sealed = Footage::read(&recording.video());
    assert_eq!(sealed.frames.len(), footage.frames.len());
    let _ = fs::metadata(&info).unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_q_that_comes_late_is_heard_and_openvidu_seals_as_ever() {
    let name = "a_q_that_comes_late_is_heard_and_openvidu_seals_as_ever";
    let Some(scene) = Scene::set(name, QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_tardy").await;
    scene
        .stage
        .openvidu
        .writes_the_stop(&recording)
        .await
        .unwrap();
    let info = recording.folder.join("ses_tardy.info");
    until_true("the video's end", Duration::from_secs(8), || info.exists()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let sealed = scene
        .stage
        .openvidu
        .goes_on_with_the_stop(&recording)
        .await
        .unwrap();
    assert_eq!(sealed.exit_code, 0);
    assert!(sealed.stop_took < Duration::from_secs(3), "{sealed:?}");
    scene.is_ready(&recording, By::OpenVidu).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_told_twice_leaves_one_ready() {
    let name = "a_stop_that_is_told_twice_leaves_one_ready";
    let Some(scene) = Scene::set(name, QUICK).await else {
        return;
    };
    let recording = scene.under_way("ses_again").await;
    let openvidu = &scene.stage.openvidu;
    openvidu.writes_the_stop(&recording).await.unwrap();
    openvidu.tell(&recording, "stopped", 0, 0.0).await.unwrap();
    openvidu.goes_on_with_the_stop(&recording).await.unwrap();
    let told = || scene.stage.customer.told_of("ses_again");
    let all = || told().len() >= 4;
    until_true("the customer's news", Duration::from_secs(10), all).await;
    let said: Vec<_> = told().into_iter().map(|it| it.status).collect();
    assert_eq!(said, ["started", "stopped", "stopped", "ready"]);
}
