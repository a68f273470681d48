//! The controller's doors and its start: both runtimes pass one suite, and what is wrong at the start is one sentence.

use crate::support::controller::Controller;
use crate::support::docker::{Container as Docked, docker};
use crate::support::registry::Registry;
use crate::support::secrets::said;
use crate::support::standin::{self, StandIn};
use crate::support::wait::{until, until_true};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use ov2_ha_recorder::model::ask::Reply;
use ov2_ha_recorder::model::ids::{ContainerId, RecordingId};
use ov2_ha_recorder::runtime::docker::DockerRuntime;
use ov2_ha_recorder::runtime::process::ProcessRuntime;
use ov2_ha_recorder::runtime::{
    BackupSpec, ContainerStatus, Environment, HappeningKind, Runtime, RuntimeError, RuntimeEvent,
    Stop,
};
use reqwest::Method;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_ov2-ha-recorder");

const SOON: Duration = Duration::from_secs(20);

/// What a runtime's suite does from outside: OpenVidu's part, and fate's.
trait World {
    fn make(&self, recording: &str) -> ContainerId;
    fn kill_first_process(&self, id: &ContainerId);
    fn freeze(&self, id: &ContainerId);
}

struct Events(BoxStream<'static, RuntimeEvent>);

impl Events {
    /// The next thing that happens to `id` and is `wanted`; others are passed over.
    async fn until(
        &mut self,
        id: &ContainerId,
        wanted: impl Fn(&HappeningKind) -> bool,
    ) -> HappeningKind {
        let search = async {
            loop {
                if let Some(RuntimeEvent::Happened(it)) = self.0.next().await
                    && it.container == *id
                    && wanted(&it.kind)
                {
                    return it.kind;
                }
            }
        };
        tokio::time::timeout(SOON, search)
            .await
            .expect("the event did not come")
    }
}

/// What the controller relies on, whatever recorders run in.
async fn suite(runtime: impl Runtime, world: impl World) {
    runtime.probe().await.unwrap();
    let mut events = Events(runtime.events());
    assert_eq!(events.0.next().await, Some(RuntimeEvent::Connected));
    let status = async |id: &ContainerId| runtime.inspect(id).await.unwrap().unwrap().status;

    // It is seen, with its recording.
    let id = world.make("suite");
    events
        .until(&id, |kind| *kind == HappeningKind::Started)
        .await;
    let listed = runtime.list().await.unwrap();
    let listed = listed.iter().find(|it| it.id == id).unwrap();
    assert_eq!(listed.recording, Some(RecordingId::parse("suite").unwrap()));
    assert_eq!(listed.status, ContainerStatus::Running);

    // Killed, it is started again: the same id. Starting it twice is harmless.
    world.kill_first_process(&id);
    events
        .until(&id, |kind| *kind == HappeningKind::Died(137))
        .await;
    assert_eq!(status(&id).await, ContainerStatus::Exited(137));
    runtime.start(&id).await.unwrap();
    events
        .until(&id, |kind| *kind == HappeningKind::Started)
        .await;
    runtime.start(&id).await.unwrap();
    assert_eq!(status(&id).await, ContainerStatus::Running);

    // Frozen, it is fenced all the same.
    world.freeze(&id);
    events
        .until(&id, |kind| *kind == HappeningKind::Paused)
        .await;
    assert_eq!(status(&id).await, ContainerStatus::Paused);
    runtime.stop(&id, Stop::Fence).await.unwrap();
    assert!(matches!(status(&id).await, ContainerStatus::Exited(_)));
    runtime.stop(&id, Stop::Fence).await.unwrap();
    events
        .until(&id, |kind| matches!(kind, HappeningKind::Died(_)))
        .await;

    // Told to finish, it ends well.
    runtime.start(&id).await.unwrap();
    events
        .until(&id, |kind| *kind == HappeningKind::Started)
        .await;
    runtime.stop(&id, Stop::Drain(SOON)).await.unwrap();
    assert_eq!(status(&id).await, ContainerStatus::Exited(0));
    events
        .until(&id, |kind| *kind == HappeningKind::Died(0))
        .await;

    // With a restart policy it comes back by itself, and a fence still holds.
    runtime.start(&id).await.unwrap();
    runtime.restart_on_failure(&id).await.unwrap();
    events
        .until(&id, |kind| *kind == HappeningKind::Started)
        .await;
    world.kill_first_process(&id);
    events
        .until(&id, |kind| *kind == HappeningKind::Died(137))
        .await;
    events
        .until(&id, |kind| *kind == HappeningKind::Started)
        .await;
    runtime.stop(&id, Stop::Fence).await.unwrap();
    assert!(matches!(status(&id).await, ContainerStatus::Exited(_)));

    // A backup is made after it, replacing an earlier one of that name.
    let blueprint = runtime.blueprint(&id).await.unwrap();
    assert!(blueprint.environment.0.contains_key("VIDEO_ID"));
    let spec = BackupSpec {
        recording: RecordingId::parse("suite").unwrap(),
        name: format!("backup_{}", ov2_ha_recorder::random::hex::<4>()),
        labels: BTreeMap::from([("created.by".into(), "ha-controller".into())]),
        blueprint,
    };
    let first = runtime.start_backup(spec.clone()).await.unwrap();
    let backup = runtime.start_backup(spec).await.unwrap();
    assert_ne!(backup.id, first.id);
    assert_eq!(runtime.inspect(&first.id).await.unwrap(), None);
    assert_eq!(backup.labels["created.by"], "ha-controller");
    events
        .until(&backup.id, |kind| *kind == HappeningKind::Started)
        .await;
    assert_eq!(status(&backup.id).await, ContainerStatus::Running);
    runtime.stop(&backup.id, Stop::Drain(SOON)).await.unwrap();
    runtime.remove(&backup.id).await.unwrap();
    runtime.remove(&backup.id).await.unwrap();
    events
        .until(&backup.id, |kind| *kind == HappeningKind::Removed)
        .await;

    // What is gone is said to be gone.
    let gone = runtime.start(&backup.id).await;
    assert!(matches!(gone, Err(RuntimeError::NotFound(_))), "{gone:?}");
    let gone = runtime.stop(&backup.id, Stop::Fence).await;
    assert!(matches!(gone, Err(RuntimeError::NotFound(_))), "{gone:?}");
    runtime.remove(&id).await.unwrap();
}

impl World for StandIn {
    fn make(&self, recording: &str) -> ContainerId {
        ContainerId::parse(self.run(recording, &[]).0).unwrap()
    }

    fn kill_first_process(&self, id: &ContainerId) {
        Docked(id.to_string()).signal_first_process("KILL");
    }

    fn freeze(&self, id: &ContainerId) {
        docker(&["pause", id.as_str()]).unwrap();
    }
}

/// Docker with an image of the stand-in.
async fn docker_below(folder: &Path) -> (StandIn, DockerRuntime) {
    let image = StandIn::image(folder).unwrap();
    let runtime = DockerRuntime::connect(&image.name, &image.tag).await;
    let runtime = runtime.unwrap();
    runtime.prepare().await.unwrap();
    (image, runtime)
}

/// What a backup of this recorder is made from.
async fn backup_of(runtime: &DockerRuntime, original: &Docked) -> BackupSpec {
    let id = ContainerId::parse(original.0.clone()).unwrap();
    BackupSpec {
        recording: RecordingId::parse("suite").unwrap(),
        name: format!("ha-backup-{}", ov2_ha_recorder::random::hex::<4>()),
        labels: BTreeMap::from([("created.by".into(), "ha-controller".into())]),
        blueprint: runtime.blueprint(&id).await.unwrap(),
    }
}

#[tokio::test]
async fn docker_does_what_the_controller_relies_on() {
    let folder = tempfile::tempdir().unwrap();
    let (image, runtime) = docker_below(folder.path()).await;
    suite(runtime, image).await;
}

#[tokio::test]
async fn an_image_that_knows_no_question_says_nothing_about_its_recorder() {
    let folder = tempfile::tempdir().unwrap();
    let (image, runtime) = docker_below(folder.path()).await;
    let id = image.make("suite");
    let patience = Duration::from_secs(1);
    let reply = runtime.ask(&id, patience).await.unwrap();
    assert!(matches!(reply, Reply::Unknown(_)), "{reply:?}");
    let none = ContainerId::parse("0".repeat(64)).unwrap();
    runtime.ask(&none, patience).await.unwrap_err();
}

#[tokio::test]
async fn a_backup_gets_its_name_while_somebody_keeps_starting_the_one_that_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (image, runtime) = docker_below(folder.path()).await;
    let id = image.make("suite");
    let spec = BackupSpec {
        recording: RecordingId::parse("suite").unwrap(),
        name: format!("backup_{}", ov2_ha_recorder::random::hex::<4>()),
        // By the first label the last one goes with the image.
        labels: BTreeMap::from([
            ("stand-in".into(), image.name.clone()),
            ("created.by".into(), "ha-controller".into()),
        ]),
        blueprint: runtime.blueprint(&id).await.unwrap(),
    };
    let mut last = runtime.start_backup(spec.clone()).await.unwrap();
    for _ in 0..5 {
        // Another controller on this machine takes every backup for its own, and starts what died.
        let id = last.id.clone();
        let gone = |cause: &String| cause.contains("No such container");
        let starter = std::thread::spawn(move || {
            while !docker(&["start", id.as_str()]).is_err_and(|cause| gone(&cause)) {}
        });
        let next = runtime.start_backup(spec.clone()).await.unwrap();
        starter.join().unwrap();
        assert_ne!(next.id, last.id);
        last = next;
    }
}

#[tokio::test]
async fn a_backup_starts_without_what_its_original_may_have_ended_of() {
    let folder = tempfile::tempdir().unwrap();
    let (image, runtime) = docker_below(folder.path()).await;
    let device = folder.path().join("device");
    std::os::unix::fs::symlink("/dev/null", &device).unwrap();
    let option = format!("--device={}:/dev/dri", device.display());
    let original = image.run_with("suite", &[], &[&option, "--shm-size=64m"]);
    let spec = backup_of(&runtime, &original).await;
    original.remove();
    std::fs::remove_file(device).unwrap();
    let backup = Docked(runtime.start_backup(spec).await.unwrap().id.to_string());
    assert!(backup.runs());
    assert_eq!(
        backup.inspect("{{.HostConfig.ShmSize}}").unwrap(),
        "67108864"
    );
}

/// What an administrator gives OpenVidu's containers of the host by a setting of the daemon's, a template or a patched server.
#[tokio::test]
async fn a_backup_has_of_its_host_what_its_original_has() {
    let folder = tempfile::tempdir().unwrap();
    let (image, runtime) = docker_below(folder.path()).await;
    let options = [
        "--ulimit=nofile=1234:4321",
        "--add-host=media.example:192.0.2.7",
        "--dns=192.0.2.53",
        "--device=/dev/null:/dev/dri",
        "--memory=256m",
        "--cpus=0.5",
        "--security-opt=no-new-privileges",
        "--cap-drop=NET_RAW",
        "--tmpfs=/scratch:size=1m",
        "--shm-size=64m",
        "--rm",
    ];
    let original = image.run_with("suite", &[], &options);
    let spec = backup_of(&runtime, &original).await;
    let asked = [
        ".Ulimits",
        ".ExtraHosts",
        ".Dns",
        ".Devices",
        ".Memory",
        ".NanoCpus",
        ".SecurityOpt",
        ".CapDrop",
        ".Tmpfs",
        ".ShmSize",
        ".NetworkMode",
    ];
    let of_host = |container: &Docked, asked: &[&str]| {
        let inspect = |name: &&str| {
            let format = format!("{{{{with .HostConfig}}}}{{{{json {name}}}}}{{{{end}}}}");
            format!("{name} {}", container.inspect(&format).unwrap())
        };
        asked.iter().map(inspect).collect::<Vec<_>>()
    };
    let wanted = of_host(&original, &asked);
    original.remove();
    let backup = Docked(runtime.start_backup(spec).await.unwrap().id.to_string());
    assert_eq!(of_host(&backup, &asked), wanted);
    // What belongs to the original alone.
    let own = of_host(&backup, &[".AutoRemove", ".RestartPolicy.Name"]);
    assert_eq!(
        own,
        [".AutoRemove false", ".RestartPolicy.Name \"on-failure\""]
    );
}

struct Processes {
    runtime: ProcessRuntime,
    folder: PathBuf,
}

impl Processes {
    fn below(folder: &Path) -> Self {
        let program = folder.join("record");
        standin::write_program(&program);
        Self {
            runtime: ProcessRuntime::open(&folder.join("processes"), &program).unwrap(),
            folder: folder.to_owned(),
        }
    }

    /// The recorder under the shell, by the note of its last start.
    fn recorder(&self, id: &ContainerId) -> String {
        let notes = self
            .folder
            .join("processes")
            .join(id.as_str())
            .join("events");
        let notes = std::fs::read_to_string(notes).unwrap();
        let last = notes
            .lines()
            .rfind(|line| line.starts_with("start "))
            .unwrap();
        last.rsplit(' ').next().unwrap().to_owned()
    }

    fn signal(&self, id: &ContainerId, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.recorder(id)])
            .status();
        assert!(sent.unwrap().success());
    }
}

impl World for Processes {
    fn make(&self, recording: &str) -> ContainerId {
        let environment = Environment(standin::environment(recording, &[]));
        let recordings = self.folder.join("recordings");
        let made =
            self.runtime
                .launch("recording_suite", environment, &recordings, BTreeMap::new());
        made.unwrap()
    }

    fn kill_first_process(&self, id: &ContainerId) {
        self.signal(id, "-KILL");
    }

    fn freeze(&self, id: &ContainerId) {
        self.signal(id, "-STOP");
    }
}

#[tokio::test]
async fn processes_do_what_the_controller_relies_on() {
    let folder = tempfile::tempdir().unwrap();
    let world = Processes::below(folder.path());
    suite(world.runtime.clone(), world).await;
}

/// `serve` with these settings over good ones: its exit code and what it said.
fn refusal(folder: &Path, settings: &[(&str, &str)], data: &Path) -> (i32, String) {
    let output = Command::new(BINARY)
        .arg("serve")
        .arg("--data-dir")
        .arg(data)
        .current_dir(folder)
        .env("HA_RUNTIME", "process")
        .env("HA_LISTEN_ADDRESS", "127.0.0.1")
        .env("HA_CONTROLLER_USERNAME", "someone")
        .env("HA_CONTROLLER_PASSWORD", "a secret of this test")
        .env("OPENVIDU_RECORDING_PATH", folder)
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (output.status.code().unwrap(), said(&output))
}

/// What health says of the image: whether Docker has it.
async fn has_image(controller: &Controller) -> bool {
    let docker = controller.get("/actuator/health/docker").await;
    let present = docker["details"]["imagePresent"].as_bool();
    present.unwrap_or_else(|| panic!("{docker}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_is_pulled_while_the_controller_is_at_work_already() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::slow().await;
    let image = [
        ("IMAGE_NAME", registry.image.as_str()),
        ("IMAGE_TAG", Registry::TAG),
    ];
    let recordings = folder.path().join("recordings");
    let controller = Controller::start(Path::new(BINARY), folder.path(), &recordings, &image).await;
    assert!(
        !has_image(&controller).await,
        "the registry has not spoken yet"
    );
    let session = json!({"sessionId": "ses_A", "clientId": "a recorder"});
    let (status, said) = controller
        .ask(Method::POST, "/api/sessions", Some(&session))
        .await;
    assert_eq!(status, 201, "{said}");
    registry.speak();
    until("the image", SOON, || async {
        has_image(&controller).await.then_some(())
    })
    .await;
    let told = || controller.log().contains("is OpenVidu's own");
    until_true("what image that is", SOON, told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_is_named_and_everything_else_works() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("127.0.0.1:{}/ov2-ha-test/nobody", free_port());
    let image = [("IMAGE_NAME", nobody.as_str())];
    let recordings = folder.path().join("recordings");
    let mut controller =
        Controller::start(Path::new(BINARY), folder.path(), &recordings, &image).await;
    let named = format!("image {nobody}:2.32.2 not found; build it with");
    until_true("the warning", SOON, || controller.log().contains(&named)).await;
    assert!(
        controller.log().contains("cannot be pulled"),
        "{}",
        controller.log()
    );
    assert!(!has_image(&controller).await);
    let session = json!({"sessionId": "ses_A", "clientId": "a recorder"});
    let (status, said) = controller
        .ask(Method::POST, "/api/sessions", Some(&session))
        .await;
    assert_eq!(status, 201, "{said}");
    assert!(controller.stop().await < Duration::from_secs(5));
}

fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

#[test]
fn what_is_wrong_at_the_start_is_one_sentence_and_nothing_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let port = free_port();

    let (code, said) = refusal(
        folder.path(),
        &[
            ("HA_TYPO", "1"),
            ("HEARTBEAT_INTERVAL", "soon"),
            ("HA_CONTROLLER_PASSWORD", ""),
        ],
        &data,
    );
    assert_eq!(code, 78, "{said}");
    assert!(
        said.contains("HA_TYPO") && said.contains("HEARTBEAT_INTERVAL=soon"),
        "{said}"
    );
    let (code, said) = refusal(folder.path(), &[("HA_CONTROLLER_PASSWORD", "")], &data);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("HA_CONTROLLER_PASSWORD: required"), "{said}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken
        .local_addr()
        .map(|it| (it.port().to_string(), taken))
        .unwrap();
    let (code, said) = refusal(folder.path(), &[("HA_CONTROLLER_PORT", &taken.0)], &data);
    assert_eq!(code, 69, "{said}");
    assert!(
        said.contains("HA_CONTROLLER_PORT") && said.lines().count() == 1,
        "{said}"
    );

    let at = [("HA_CONTROLLER_PORT", port.as_str())];
    let file = folder.path().join("a file");
    std::fs::write(&file, b"").unwrap();
    let (code, said) = refusal(folder.path(), &at, &file.join("below"));
    assert_eq!(code, 73, "{said}");
    assert!(said.contains("--data-dir"), "{said}");
    assert!(!data.join("db").exists(), "a refused start left a database");
}
