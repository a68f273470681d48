//! The operator's commands as a person runs them: the real program, its words and its exit codes.

use crate::container::scopeguard;
use crate::package::shipped_program;
use crate::support::bare::bare;
use crate::support::controller::{Controller, USER, free_port};
use crate::support::docker::{Container, SmallImage, docker, recording_image, signal_process};
use crate::support::fakes::{Fakes, NOTHING};
use crate::support::rest::{self, Rest};
use crate::support::secrets;
use crate::support::stage::leave_out;
use crate::support::wait::until_true;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const PROGRAM: &str = env!("CARGO_BIN_EXE_ov2-ha-recorder");

/// An OpenVidu folder as its installer of that version leaves it, as far as we read it.
pub fn openvidu(folder: &Path, image: &str, webhook: &str) -> PathBuf {
    let (path, recordings) = (folder.join("openvidu"), folder.join("recordings"));
    fs::create_dir_all(&path).unwrap();
    fs::create_dir_all(&recordings).unwrap();
    let compose = format!(
        "version: '3.1'\n\nservices:\n\n    openvidu-server:\n        image: {image}\n        network_mode: host\n        env_file:\n            - .env\n    kms:\n        image: ${{KMS_IMAGE:-kurento/kurento-media-server:6.18.0}}\n"
    );
    let env = format!(
        "# OpenVidu configuration\nDOMAIN_OR_PUBLIC_IP=198.51.100.1\nOPENVIDU_SECRET=ov-hidden\nOPENVIDU_RECORDING=true\nOPENVIDU_RECORDING_PATH={}\n\n{webhook}\nOPENVIDU_WEBHOOK_EVENTS=[sessionCreated,recordingStatusChanged]\n",
        recordings.display()
    );
    fs::write(path.join("docker-compose.yml"), compose).unwrap();
    fs::write(path.join(".env"), env).unwrap();
    path
}

/// What the three versions differ in: how the image is written, and how the webhook is set or not.
const SHAPES: [(&str, &str, &str); 3] = [
    (
        "2.22.0",
        "openvidu/openvidu-server:2.22.0",
        "OPENVIDU_WEBHOOK=false\n#OPENVIDU_WEBHOOK_ENDPOINT=\n#OPENVIDU_WEBHOOK_HEADERS=",
    ),
    (
        "2.29.0",
        "docker.io/openvidu/openvidu-server-pro:2.29.0",
        "OPENVIDU_WEBHOOK=true\nOPENVIDU_WEBHOOK_ENDPOINT=https://app.example.com/hook?key=url-hidden\nOPENVIDU_WEBHOOK_HEADERS=[\"Authorization: Basic header-hidden\"]",
    ),
    (
        "2.32.2",
        "${OPENVIDU_SERVER_IMAGE:-openvidu/openvidu-server:2.32.2}",
        "OPENVIDU_WEBHOOK=true\nOPENVIDU_WEBHOOK_ENDPOINT=http://10.0.0.9:15443/openvidu/webhook",
    ),
];

struct Machine {
    folder: tempfile::TempDir,
    openvidu: PathBuf,
}

impl Machine {
    fn new(shape: (&str, &str, &str)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let openvidu = openvidu(folder.path(), shape.1, shape.2);
        Self { folder, openvidu }
    }

    fn env_file(&self) -> PathBuf {
        self.folder.path().join("etc/own.env")
    }

    fn recorders_copy(&self) -> PathBuf {
        self.folder.path().join("recordings/.env")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let data = self.folder.path().join("data");
        bare(PROGRAM)
            .args(arguments)
            .args([
                "--env-file",
                self.env_file().to_str().unwrap(),
                "--data-dir",
                data.to_str().unwrap(),
            ])
            .output()
            .unwrap()
    }

    fn install(&self, more: &[&str]) -> Output {
        let path = self.openvidu.to_str().unwrap();
        let all = [
            "install",
            "--auto",
            "--without-image",
            "--without-service",
            path,
        ];
        self.run(&[&all, more].concat())
    }

    /// Every file with its text, but for the record of what was changed.
    fn files(&self) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path => found.push((path.clone(), fs::read_to_string(path).unwrap())),
                }
            }
        }
        found.sort();
        found
    }
}

fn text(output: &Output) -> String {
    secrets::said(output)
}

fn json(output: &Output) -> Value {
    let said = text(output);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {said}"))
}

#[test]
fn install_reads_every_openvidu_changes_nothing_twice_and_uninstall_puts_all_back() {
    for shape in SHAPES {
        let machine = Machine::new(shape);
        let before = machine.files();
        let dry = machine.install(&["--dry-run"]);
        assert!(
            dry.status.success() && text(&dry).contains("would"),
            "{}",
            text(&dry)
        );
        assert_eq!(machine.files(), before, "a dry run changes nothing");

        let first = machine.install(&[]);
        assert!(first.status.success(), "{}", text(&first));
        assert!(
            text(&first).contains(&format!("OpenVidu {}", shape.0)),
            "{}",
            text(&first)
        );
        assert!(
            text(&first).contains("OPENVIDU_WEBHOOK_ENDPOINT=http://"),
            "{}",
            text(&first)
        );
        assert!(!text(&first).contains("hidden"), "{}", text(&first));
        let env = fs::read_to_string(machine.env_file()).unwrap();
        assert!(env.contains(&format!("IMAGE_TAG={}\n", shape.0)), "{env}");
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(machine.env_file()), mode(machine.recorders_copy())),
            (0o640, 0o600)
        );

        let after = machine.files();
        let second = json(&machine.install(&["--json"]));
        let changed = second["steps"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|step| step["changed"] == true);
        assert_eq!(
            (changed.count(), machine.files()),
            (0, after),
            "run twice it changes nothing"
        );

        let back = machine.run(&["uninstall", "--without-image", "--without-service"]);
        assert!(back.status.success(), "{}", text(&back));
        assert_eq!(machine.files(), before);
    }
}

#[test]
fn what_opens_openvidu_is_not_among_the_recordings_which_openvidu_may_serve() {
    let machine = Machine::new(SHAPES[0]);
    fs::create_dir_all(machine.env_file().parent().unwrap()).unwrap();
    let own = "OPENVIDU_URL=https://openvidu.test\nOPENVIDU_SECRET=MY_SECRET\n";
    fs::write(machine.env_file(), own).unwrap();
    let done = machine.install(&[]);
    assert!(done.status.success(), "{}", text(&done));
    let kept = fs::read_to_string(machine.env_file()).unwrap();
    assert!(kept.contains("OPENVIDU_SECRET=MY_SECRET"), "{kept}");
    let copy = fs::read_to_string(machine.recorders_copy()).unwrap();
    assert!(
        !copy.contains("MY_SECRET") && !copy.contains("OPENVIDU_URL"),
        "{copy}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn install_finds_where_openvidu_answers_and_adds_the_event_that_it_lacks() {
    let rest = Rest::serve().await;
    let machine = Machine::new(SHAPES[0]);
    let place = machine.openvidu.join(".env");
    let theirs = fs::read_to_string(&place).unwrap();
    let theirs = theirs
        .replace("ov-hidden", &format!("'{}'", rest::SECRET))
        .replace(",recordingStatusChanged", "");
    let port = format!("SERVER_PORT={}\nHTTPS_PORT=15443\n", rest.port);
    fs::write(&place, theirs + &port).unwrap();
    let dry = tokio::task::block_in_place(|| machine.install(&["--dry-run"]));
    let shown = text(&dry);
    for part in [
        &format!("OPENVIDU_URL={}\n", rest.url()),
        "OPENVIDU_SECRET=***\n",
        "HA_CONTROLLER_PORT=15443\n",
        "OPENVIDU_WEBHOOK_EVENTS='[sessionCreated,recordingStatusChanged]'",
        "HTTPS_PORT in OpenVidu's .env is 15443",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!machine.env_file().exists());
    assert!(!shown.contains(rest::SECRET), "{shown}");
    let done = tokio::task::block_in_place(|| machine.install(&[]));
    assert!(done.status.success(), "{}", text(&done));
    let env = fs::read_to_string(machine.env_file()).unwrap();
    assert!(
        env.contains(&format!("OPENVIDU_URL={}\n", rest.url())),
        "{env}"
    );
    assert!(env.contains(rest::SECRET), "{env}");
}

#[test]
fn beside_processes_a_persons_own_file_is_replaced_and_given_back() {
    let machine = Machine::new(SHAPES[2]);
    fs::create_dir_all(machine.env_file().parent().unwrap()).unwrap();
    fs::write(machine.env_file(), "HA_RUNTIME=process\n").unwrap();
    fs::write(machine.recorders_copy(), "# mine\n").unwrap();
    let done = machine.install(&[]);
    assert!(done.status.success(), "{}", text(&done));
    let told = fs::read_to_string(machine.recorders_copy()).unwrap();
    assert!(told.contains("HA_RECORDER_TOKEN="), "{told}");
    machine.run(&["uninstall", "--without-image", "--without-service"]);
    let back = fs::read_to_string(machine.recorders_copy()).unwrap();
    assert_eq!(back, "# mine\n");
}

#[test]
fn the_webhook_in_use_becomes_the_relay_s_target_unless_it_is_already_this_service() {
    let read = |shape| {
        let machine = Machine::new(shape);
        assert!(machine.install(&[]).status.success());
        fs::read_to_string(machine.env_file()).unwrap()
    };
    assert!(!read(SHAPES[0]).contains("OPENVIDU_WEBHOOK"));
    let env = read(SHAPES[1]);
    assert!(env.contains("OPENVIDU_WEBHOOK=true\nOPENVIDU_WEBHOOK_ENDPOINT=https://app.example.com/hook?key=url-hidden\n"), "{env}");
    assert!(
        env.contains("OPENVIDU_WEBHOOK_HEADERS='[\"Authorization: Basic header-hidden\"]'\n"),
        "{env}"
    );
    let ours = read(SHAPES[2]);
    assert!(!ours.contains("OPENVIDU_WEBHOOK"));
    assert!(
        !ours.contains("HA_WEBHOOK_TOKEN"),
        "OpenVidu posts here without one"
    );
}

#[test]
fn reconfigure_writes_its_lines_into_openvidu_s_env_and_uninstall_takes_them_out() {
    let machine = Machine::new(SHAPES[1]);
    assert!(machine.install(&[]).status.success());
    let before = fs::read_to_string(machine.openvidu.join(".env")).unwrap();
    let path = machine.openvidu.to_str().unwrap();
    let done = machine.run(&["reconfigure", "--without-service", path]);
    assert!(done.status.success(), "{}", text(&done));
    let env = fs::read_to_string(machine.openvidu.join(".env")).unwrap();
    assert!(
        env.contains(":15443/openvidu/webhook\n") && !env.contains("app.example.com"),
        "{env}"
    );
    let ours = fs::read_to_string(machine.env_file()).unwrap();
    let token = ours
        .lines()
        .find_map(|line| line.strip_prefix("HA_WEBHOOK_TOKEN="));
    let token = token.unwrap_or_else(|| panic!("install made no token: {ours}"));
    let header = format!("OPENVIDU_WEBHOOK_HEADERS='[\"X-Webhook-Token: {token}\"]'\n");
    assert!(
        env.contains(&header),
        "OpenVidu does not send the token: {env}"
    );
    assert!(
        machine
            .run(&["uninstall", "--without-image", "--without-service"])
            .status
            .success()
    );
    assert_eq!(
        fs::read_to_string(machine.openvidu.join(".env")).unwrap(),
        before
    );
}

#[test]
fn recorders_find_the_further_authorities_in_the_recordings_folder() {
    let machine = Machine::new(SHAPES[0]);
    let authority = machine.folder.path().join("authority.pem");
    let key = machine.folder.path().join("authority.key");
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=any",
        ])
        .arg("-out")
        .arg(&authority)
        .arg("-keyout")
        .arg(&key)
        .output();
    assert!(made.unwrap().status.success());
    fs::create_dir_all(machine.env_file().parent().unwrap()).unwrap();
    fs::write(
        machine.env_file(),
        format!("HA_CA_FILE={}\n", authority.display()),
    )
    .unwrap();
    let done = machine.install(&[]);
    assert!(done.status.success(), "{}", text(&done));
    let theirs = fs::read_to_string(machine.recorders_copy()).unwrap();
    let named = theirs
        .lines()
        .find_map(|line| line.strip_prefix("HA_CA_FILE=/recordings/"));
    let named = named.unwrap_or_else(|| panic!("no file of authorities: {theirs}"));
    let copy = machine.recorders_copy().with_file_name(named);
    assert_eq!(
        fs::read_to_string(copy).unwrap(),
        fs::read_to_string(&authority).unwrap()
    );
}

const IMAGE: &str = "openvidu/openvidu-recording:2.32.2";

impl Machine {
    /// The same program among `fakes`, in a checkout.
    fn run_among(&self, fakes: &Fakes, binary: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary);
        command
            .env_clear()
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(arguments)
            .arg("--env-file")
            .arg(self.env_file())
            .arg("--data-dir")
            .arg(self.folder.path().join("data"));
        fakes.before(&mut command).output().unwrap()
    }

    fn install_among(&self, fakes: &Fakes, more: &[&str]) -> Output {
        let path = self.openvidu.to_str().unwrap();
        let all = ["install", "--auto", "--without-service", path];
        self.run_among(fakes, Path::new(PROGRAM), &[&all, more].concat())
    }
}

#[test]
fn where_docker_does_not_answer_install_is_one_sentence_and_changes_nothing() {
    let machine = Machine::new(SHAPES[2]);
    let before = machine.files();
    let fakes = Fakes::new();
    fakes.silence_docker();
    for helper in ["apt-get", "dockerd", "mount", "sudo"] {
        fakes.add(helper, NOTHING);
    }
    let failed = machine.install_among(&fakes, &[]);
    assert_eq!(failed.status.code(), Some(69), "{}", text(&failed));
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("Docker does not answer"), "{said}");
    let planned = machine.install_among(&fakes, &["--dry-run"]);
    assert!(planned.status.success(), "{}", text(&planned));
    assert!(text(&planned).contains("would"), "{}", text(&planned));
    assert!(
        text(&planned).contains("Docker does not answer"),
        "{}",
        text(&planned)
    );
    assert_eq!(machine.files(), before);
    for helper in ["apt-get", "dockerd", "mount", "sudo"] {
        assert_eq!(fakes.calls(helper), Vec::<String>::new());
    }
}

#[test]
fn recorders_get_a_token_of_their_own_unless_one_runs_that_knows_the_account_only() {
    let installed_beside = |running: &str, service: &str| {
        let machine = Machine::new(SHAPES[2]);
        let fakes = Fakes::new();
        fakes.add_image(IMAGE, "openvidus");
        fs::write(fakes.state().join("running"), running).unwrap();
        fs::write(fakes.state().join(service), "").unwrap();
        let done = machine.install_among(&fakes, &[]);
        assert!(done.status.success(), "{}", text(&done));
        let in_folder = fs::read_to_string(machine.recorders_copy()).ok();
        (fakes.settings(IMAGE).unwrap(), in_folder)
    };
    let is_narrow = |text: &str| {
        assert!(text.contains("HA_RECORDER_TOKEN="), "{text}");
        assert!(!text.contains("HA_CONTROLLER_PASSWORD"), "{text}");
    };
    let is_wide = |text: &str| {
        assert!(text.contains("HA_CONTROLLER_PASSWORD="), "{text}");
        assert!(!text.contains("HA_RECORDER_TOKEN"), "{text}");
    };
    let (image, folder) = installed_beside("", "no-service");
    is_narrow(&image);
    assert_eq!(folder, None, "OpenVidu serves that folder");
    // Docker starts it again in its old image, which has no settings.
    let (image, folder) = installed_beside("ov2-ha-recorder 0.1.0:\n", "no-service");
    is_narrow(&image);
    is_narrow(&folder.unwrap());
    let (image, folder) = installed_beside("ov2-ha-recorder 0.1.0:\n:\n", "no-service");
    is_narrow(&image);
    is_wide(&folder.unwrap());
    // A controller of compose's keeps the settings that it was made with until it is made anew.
    let (image, folder) = installed_beside("", "compose");
    is_wide(&image);
    assert_eq!(folder, None);
}

/// A recorder reads the folder's file before what its image says.
#[test]
fn a_file_of_a_persons_own_stays_and_one_that_would_shut_recorders_out_ends_the_command() {
    for (more, state) in [(&[][..], ""), (&["--without-image"], "silent")] {
        let machine = Machine::new(SHAPES[2]);
        let fakes = Fakes::new();
        fakes.add_image(IMAGE, "openvidus");
        fs::write(fakes.state().join("no-service"), "").unwrap();
        fs::create_dir_all(machine.env_file().parent().unwrap()).unwrap();
        let own = "HA_CONTROLLER_USERNAME=recorder\nHA_CONTROLLER_PASSWORD=planted-1\nHA_RECORDER_TOKEN=planted-2\n";
        fs::write(machine.env_file(), own).unwrap();
        let theirs =
            "# mine\nHA_RECORDER_TOKEN=planted-3\nHA_CONTROLLER_PORT=1\nCHUNK_TIME_SIZE=8\n";
        fs::write(machine.recorders_copy(), theirs).unwrap();
        let path = machine.openvidu.to_str().unwrap();
        let run = |arguments: &[&str]| machine.run_among(&fakes, Path::new(PROGRAM), arguments);
        let install = [&["install", "--auto", "--without-service", path], more].concat();
        let reconfigure = ["reconfigure", "--without-service", path];
        if !state.is_empty() {
            fs::write(fakes.state().join(state), "").unwrap();
        }
        for command in [&install[..], &reconfigure] {
            let refused = run(command);
            assert_eq!(refused.status.code(), Some(78), "{}", text(&refused));
            let said = text(&refused);
            assert!(
                said.contains("sets HA_CONTROLLER_PORT, HA_RECORDER_TOKEN "),
                "{said}"
            );
            assert!(!said.contains("planted"), "{said}");
            let host = machine.env_file().with_file_name("recorders.env");
            assert!(!host.exists());
        }

        // The account opens the same door, and what the service does not set is theirs to set.
        let theirs = "HA_CONTROLLER_USERNAME=recorder\nHA_CONTROLLER_PASSWORD=planted-1\nCHUNK_TIME_SIZE=8\n";
        fs::write(machine.recorders_copy(), theirs).unwrap();
        for command in [&install[..], &reconfigure, &install] {
            let done = run(command);
            assert!(done.status.success(), "{}", text(&done));
            assert!(text(&done).contains("stays, because"), "{}", text(&done));
            assert_eq!(
                fs::read_to_string(machine.recorders_copy()).unwrap(),
                theirs
            );
        }
        let back = run(&["uninstall", "--without-service", "--without-image"]);
        assert!(back.status.success(), "{}", text(&back));
        assert_eq!(
            fs::read_to_string(machine.recorders_copy()).unwrap(),
            theirs
        );

        fs::write(machine.env_file(), own).unwrap();
        fs::write(
            machine.recorders_copy(),
            theirs.replace("planted-1", "planted-4"),
        )
        .unwrap();
        let refused = run(&install);
        assert_eq!(refused.status.code(), Some(78), "{}", text(&refused));
        assert!(
            text(&refused).contains("sets HA_CONTROLLER_PASSWORD "),
            "{}",
            text(&refused)
        );
    }
}

#[test]
fn settings_stay_in_the_folder_as_long_as_openvidu_may_be_rolled_back_to_an_image_without_them() {
    let machine = Machine::new(SHAPES[2]);
    let fakes = Fakes::new();
    fakes.add_image(IMAGE, "openvidus");
    fs::write(fakes.state().join("no-service"), "").unwrap();
    let install = || {
        let done = machine.install_among(&fakes, &[]);
        assert!(done.status.success(), "{}", text(&done));
        text(&done)
    };
    assert!(
        machine
            .install_among(&fakes, &["--without-image"])
            .status
            .success()
    );
    let earlier = "openvidu/openvidu-recording:2.30.0";
    fakes.add_image(earlier, "older");
    fs::write(fakes.image(earlier).join("created.by"), "ov2-ha-recorder\n").unwrap();
    let record = machine.folder.path().join("data/install.json");
    let mut noted: Value = serde_json::from_str(&fs::read_to_string(&record).unwrap()).unwrap();
    let image = serde_json::json!({"what": "image", "name": earlier, "built": "older"});
    noted["changes"].as_array_mut().unwrap().push(image);
    fs::write(&record, noted.to_string()).unwrap();
    let told = install();
    assert!(
        told.contains(&format!("rolled back to {earlier}")),
        "{told}"
    );
    let folder = fs::read_to_string(machine.recorders_copy()).unwrap();
    assert!(
        folder.contains("HA_CONTROLLER_PASSWORD="),
        "it knows no token: {folder}"
    );
    let image = fakes.settings(IMAGE).unwrap();
    fs::write(fakes.image(earlier).join("ov2-ha-recorder.env"), image).unwrap();
    install();
    assert!(!machine.recorders_copy().exists());

    // Whatever is changed later is changed in one image alone.
    let path = machine.openvidu.to_str().unwrap().to_owned();
    let reconfigure = |more: &str| {
        let env = fs::read_to_string(machine.env_file()).unwrap();
        fs::write(machine.env_file(), format!("{env}{more}\n")).unwrap();
        let arguments = ["reconfigure", "--without-service", &path];
        let done = machine.run_among(&fakes, Path::new(PROGRAM), &arguments);
        assert!(done.status.success(), "{}", text(&done));
        text(&done)
    };
    let told = reconfigure("CHUNK_TIME_SIZE=7");
    assert!(
        told.contains(&format!("rolled back to {earlier}")),
        "{told}"
    );
    assert!(machine.recorders_copy().exists());
    let settings = || fakes.settings(IMAGE).unwrap();
    assert!(!settings().contains("HA_CONTROLLER_PASSWORD="));

    // An image of a version that did not say which it is knows no token.
    let version = fakes.image(IMAGE).join("ov2-ha-recorder.version");
    fs::remove_file(version).unwrap();
    reconfigure("CHUNK_TIME_SIZE=6");
    assert!(settings().contains("HA_CONTROLLER_PASSWORD="));
}

#[test]
fn the_recorders_file_beside_the_services_own_is_another_one_and_for_root_alone() {
    let machine = Machine::new(SHAPES[2]);
    let before = machine.files();
    let etc = machine.folder.path().join("etc");
    let (same, data) = (
        etc.join("recorders.env"),
        machine.folder.path().join("data"),
    );
    let path = machine.openvidu.to_str().unwrap();
    let mut command = bare(PROGRAM);
    command.args([
        "install",
        "--auto",
        "--without-image",
        "--without-service",
        path,
    ]);
    command
        .arg("--env-file")
        .arg(&same)
        .arg("--data-dir")
        .arg(data);
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(78), "{}", text(&refused));
    assert!(
        text(&refused).contains("another name"),
        "{}",
        text(&refused)
    );
    assert_eq!(machine.files(), before);

    fs::create_dir_all(&etc).unwrap();
    fs::write(&same, "# open\n").unwrap();
    fs::set_permissions(&same, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(machine.install(&[]).status.success());
    let mode = || fs::metadata(&same).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&same, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(machine.install(&[]).status.success());
    assert_eq!(mode(), 0o600, "also where it says the same already");
}

/// How an installation of before, which told recorders all in the folder that OpenVidu serves, becomes one of now.
#[test]
fn settings_leave_the_folder_that_openvidu_serves_once_no_recorder_needs_them_there() {
    let machine = Machine::new(SHAPES[2]);
    let before = machine.files();
    let fakes = Fakes::new();
    fakes.add_image(IMAGE, "openvidus");
    fs::write(fakes.state().join("no-service"), "").unwrap();
    assert!(
        machine
            .install_among(&fakes, &["--without-image"])
            .status
            .success()
    );
    assert!(machine.recorders_copy().exists());
    let path = machine.openvidu.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let done = machine.run_among(&fakes, Path::new(PROGRAM), arguments);
        assert!(done.status.success(), "{}", text(&done));
        text(&done)
    };
    let reconfigure = ["reconfigure", "--without-service", path];
    let told = run(&reconfigure);
    assert!(told.contains("has not built the image"), "{told}");
    assert_eq!(
        fakes.settings(IMAGE),
        None,
        "it belongs to whoever built it"
    );

    // A recording goes on: its image has no settings, and Docker may start it again.
    fs::write(fakes.state().join("running"), "1\n").unwrap();
    let install = ["install", "--auto", "--without-service", path];
    let told = run(&install);
    assert!(told.contains("recording_1 may be started again"), "{told}");
    assert!(machine.recorders_copy().exists());
    fs::remove_file(fakes.state().join("running")).unwrap();
    let shown = run(&[&install[..], &["--dry-run"]].concat());
    let removal = format!("would     remove {}", machine.recorders_copy().display());
    assert!(shown.contains(&removal), "{shown}");
    assert!(machine.recorders_copy().exists());
    run(&install);
    assert!(!machine.recorders_copy().exists());
    let host = machine.env_file().with_file_name("recorders.env");
    let mode = fs::metadata(&host).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert_eq!(fakes.settings(IMAGE), fs::read_to_string(&host).ok());

    let own = fs::read_to_string(machine.env_file()).unwrap();
    fs::write(machine.env_file(), own + "CHUNK_TIME_SIZE=7\n").unwrap();
    // Neither what it was built on nor the one without settings is there, and another would be pulled.
    for gone in [
        "ov2-ha-recorder/recording:2.32.2",
        "ov2-ha-recorder-base:2.32.2",
    ] {
        fs::rename(
            fakes.image(gone),
            fakes.state().join(gone.replace('/', "%")),
        )
        .unwrap();
    }
    fs::write(fakes.state().join("registry"), "pulled\n").unwrap();
    let backup = "ov2-ha-recorder/backup:2.32.2";
    fakes.add_image(backup, "earlier");
    fs::write(
        fakes.image(backup).join("ov2-ha-recorder.without-settings"),
        "plain\n",
    )
    .unwrap();
    run(&reconfigure);
    assert_eq!(fakes.id(backup), None, "it has the settings of before");
    let calls = fakes.calls("docker");
    assert!(
        !calls.iter().any(|call| call.starts_with("docker pull")),
        "{calls:?}"
    );
    assert_eq!(
        fakes.id("ov2-ha-recorder/recording:2.32.2"),
        None,
        "the program is built again"
    );
    for back in [
        "ov2-ha-recorder/recording:2.32.2",
        "ov2-ha-recorder-base:2.32.2",
    ] {
        fs::rename(
            fakes.state().join(back.replace('/', "%")),
            fakes.image(back),
        )
        .unwrap();
    }
    let image = fakes.settings(IMAGE).unwrap();
    assert!(image.contains("CHUNK_TIME_SIZE=7\n"), "{image}");
    assert!(!machine.recorders_copy().exists());

    // A Docker that does not answer cannot take them.
    let own = fs::read_to_string(machine.env_file()).unwrap();
    fs::write(machine.env_file(), own.replace("SIZE=7", "SIZE=8")).unwrap();
    fakes.silence_docker();
    let told = run(&reconfigure);
    assert!(told.contains("Docker does not answer"), "{told}");
    let folder = fs::read_to_string(machine.recorders_copy()).unwrap();
    assert!(folder.contains("CHUNK_TIME_SIZE=8\n"), "{folder}");
    fs::remove_file(fakes.state().join("silent")).unwrap();
    // Nor can one that hangs.
    let own = fs::read_to_string(machine.env_file()).unwrap();
    fs::write(machine.env_file(), own.replace("SIZE=8", "SIZE=6")).unwrap();
    fs::write(fakes.state().join("hung"), "").unwrap();
    let begin = std::time::Instant::now();
    let told = run(&reconfigure);
    assert!(begin.elapsed() < Duration::from_secs(90), "{told}");
    assert!(told.contains("Docker does not answer"), "{told}");
    let folder = fs::read_to_string(machine.recorders_copy()).unwrap();
    assert!(folder.contains("CHUNK_TIME_SIZE=6\n"), "{folder}");
    fs::remove_file(fakes.state().join("hung")).unwrap();

    // What a person changed since is that person's.
    fs::write(machine.recorders_copy(), folder + "# mine\n").unwrap();
    let told = run(&reconfigure);
    assert!(told.contains("stays, because"), "{told}");
    assert!(machine.recorders_copy().exists());
    assert_eq!(fakes.settings(IMAGE), fs::read_to_string(&host).ok());
    fs::remove_file(machine.recorders_copy()).unwrap();

    fakes.add_image(backup, "earlier");
    fs::write(
        fakes.image(backup).join("ov2-ha-recorder.without-settings"),
        "plain\n",
    )
    .unwrap();
    fs::remove_file(machine.env_file()).unwrap();
    run(&["uninstall", "--without-service"]);
    assert_eq!(machine.files(), before);
    assert_eq!(fakes.id(backup), None);
    assert_eq!(fakes.id(IMAGE).as_deref(), Some("openvidus"));
    assert_eq!(fakes.id("ov2-ha-recorder/recording:2.32.2"), None);
}

#[test]
fn uninstall_gives_an_image_s_name_back_only_where_install_built_it() {
    let machine = Machine::new(SHAPES[2]);
    let fakes = Fakes::new();
    fakes.add_image(IMAGE, "openvidus");
    let uninstall = |more: &[&str]| {
        let all = ["uninstall", "--without-service", "--json"];
        machine.run_among(&fakes, Path::new(PROGRAM), &[&all, more].concat())
    };
    assert!(machine.install_among(&fakes, &[]).status.success());
    let ours = fakes.id(IMAGE);
    assert_ne!(ours.as_deref(), Some("openvidus"));

    let files = machine.files();
    let shown = uninstall(&["--dry-run"]);
    assert!(shown.status.success(), "{}", text(&shown));
    let restored = json(&shown)["restored"].clone();
    assert!(
        restored.to_string().contains(&format!("the image {IMAGE}")),
        "{restored}"
    );
    assert_eq!((machine.files(), fakes.id(IMAGE)), (files, ours));

    // What cannot be put back now is not forgotten.
    fakes.silence_docker();
    let waits = uninstall(&[]);
    assert_eq!(waits.status.code(), Some(69), "{}", text(&waits));
    assert!(
        json(&waits)["waits"]
            .to_string()
            .contains("Docker does not answer"),
        "{}",
        text(&waits)
    );
    fs::remove_file(fakes.state().join("silent")).unwrap();
    let done = uninstall(&[]);
    assert!(done.status.success(), "{}", text(&done));
    assert_eq!(fakes.id(IMAGE).as_deref(), Some("openvidus"));
    for name in ["ov2-ha-recorder-base", "ov2-ha-recorder/recording"] {
        assert_eq!(fakes.id(&format!("{name}:2.32.2")), None, "{name}");
    }
    assert!(!machine.folder.path().join("data/install.json").exists());

    // Built by hand: whoever did decides over it.
    assert!(
        machine
            .install_among(&fakes, &["--without-image"])
            .status
            .success()
    );
    let mut by_hand = Command::new("packaging/docker/build-recorder");
    by_hand
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["--binary", PROGRAM]);
    by_hand.env_clear().env("IMAGE_TAG", "2.32.2");
    assert!(
        fakes
            .before(&mut by_hand)
            .output()
            .unwrap()
            .status
            .success()
    );
    let ours = fakes.id(IMAGE);
    let left = uninstall(&[]);
    assert!(
        json(&left)["left"].to_string().contains(IMAGE),
        "{}",
        text(&left)
    );
    assert_eq!(fakes.id(IMAGE), ours);
}

#[test]
fn update_builds_the_image_from_the_program_that_the_package_brings() {
    let machine = Machine::new(SHAPES[2]);
    assert!(machine.install(&[]).status.success());
    let fakes = Fakes::new();
    fakes.add_image(IMAGE, "openvidus");
    let bin = machine.folder.path().join("usr/bin");
    fs::create_dir_all(&bin).unwrap();
    let (program, new) = (bin.join("ov2-ha-recorder"), bin.join("new"));
    fs::copy(PROGRAM, &program).unwrap();
    fs::copy(PROGRAM, &new).unwrap();
    fs::write(fakes.state().join("version"), "1-1").unwrap();
    // As dpkg does: the file that runs loses its name.
    let apt = format!(
        "mv '{}' '{}' && printf 2-1 >\"$STATE/version\"",
        new.display(),
        program.display()
    );
    fakes.add("apt-get", &apt);
    let dpkg = format!(
        "case $1 in -W) cat \"$STATE/version\" ;; -L) printf '/usr/bin\\n%s\\n' '{}' ;; esac",
        program.display()
    );
    fakes.add("dpkg-query", &dpkg);
    fakes.add("systemctl", "exit 1");
    let done = machine.run_among(&fakes, &program, &["update"]);
    assert!(done.status.success(), "{}", text(&done));
    assert!(text(&done).contains("1-1 → 2-1, built"), "{}", text(&done));
    let built = fs::metadata(fakes.image(IMAGE).join("program")).unwrap();
    assert_eq!(built.len(), fs::metadata(&program).unwrap().len());
    let restarts = fakes
        .calls("docker")
        .into_iter()
        .filter(|call| call.contains("restart"));
    assert_eq!(restarts.count(), 1);

    // The rest of an update, by the new program, beside a file with which recorders would be refused.
    let rest = ["update", "--since", "1-1", "--without-image"];
    fs::write(machine.recorders_copy(), "HA_CONTROLLER_PORT=1\n").unwrap();
    let refused = machine.run_among(&fakes, &program, &rest);
    assert_eq!(refused.status.code(), Some(78), "{}", text(&refused));
    let said = text(&refused);
    assert!(said.contains("sets HA_CONTROLLER_PORT "), "{said}");
    fs::write(machine.recorders_copy(), "CHUNK_TIME_SIZE=8\n").unwrap();
    let done = machine.run_among(&fakes, &program, &rest);
    assert!(done.status.success(), "{}", text(&done));
    assert!(text(&done).contains("/.env stays, "), "{}", text(&done));
}

/// By the shipped program, which runs in every image.
#[test]
fn install_builds_the_recording_image_once_and_uninstall_gives_its_name_back() {
    let test = "install_builds_the_recording_image_once_and_uninstall_gives_its_name_back";
    let folder = tempfile::tempdir().unwrap();
    let (program, other) = match (shipped_program(folder.path()), recording_image()) {
        (Ok(program), Ok(image)) => (program, image),
        (Err(why), _) | (_, Err(why)) => return leave_out(test, &why),
    };
    let name = format!("ov2-ha-test/{}", ov2_ha_recorder::random::hex::<6>());
    // The tag decides which base there is.
    let image = format!("{name}:{}", other.rsplit_once(':').unwrap().1);
    let _gone = scopeguard(|| drop(docker(&["rmi", &image])));
    let own = format!("OPENVIDU_RECORDING_IMAGE={image}");
    let openvidu = openvidu(folder.path(), "openvidu/openvidu-server:2.32.2", &own);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        for setting in ov2_ha_recorder::config::TABLE {
            command.env_remove(setting.name);
        }
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(arguments);
        command.arg("--env-file").arg(folder.path().join("own.env"));
        command.arg("--data-dir").arg(folder.path().join("data"));
        let output = command
            .args(["--without-service", "--json"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        json(&output)
    };
    let install = ["install", "--auto", openvidu.to_str().unwrap()];
    let built = |done: Value| {
        let steps = done["steps"].as_array().unwrap().clone();
        let what = format!("build the recording image {image}");
        let step = steps.into_iter().find(|step| step["what"] == what);
        step.unwrap()["changed"].clone()
    };
    assert_eq!(built(run(&install)), true);
    docker(&[
        "run",
        "--rm",
        "--network=none",
        "--entrypoint=ov2-ha-recorder",
        &image,
        "--version",
    ])
    .unwrap();
    assert_eq!(built(run(&install)), false);
    let back = run(&["uninstall"]);
    let restored = back["restored"].as_array().unwrap();
    assert!(
        restored.contains(&format!("the image {image}").into()),
        "{back}"
    );
    let maker = [
        "image",
        "inspect",
        "--format",
        "{{index .Config.Labels \"created.by\"}}",
        &image,
    ];
    assert_ne!(docker(&maker).ok().as_deref(), Some("ov2-ha-recorder"));
}

/// By Docker itself, from a first installation to its removal, with a recording that goes on meanwhile.
#[test]
fn recorders_are_told_their_settings_by_their_image_and_the_recordings_folder_has_none() {
    let test =
        "recorders_are_told_their_settings_by_their_image_and_the_recordings_folder_has_none";
    let image = match SmallImage::new() {
        Ok(image) => image,
        Err(why) => return leave_out(test, &why),
    };
    let debian = SmallImage::id(&image.full());
    let own = format!("OPENVIDU_RECORDING_IMAGE={}", image.full());
    let machine = Machine::new(("", SHAPES[2].1, &own));
    let port = format!("HA_CONTROLLER_PORT={}\n", free_port());
    fs::create_dir_all(machine.env_file().parent().unwrap()).unwrap();
    fs::write(machine.env_file(), port).unwrap();
    let (before, path) = (machine.files(), machine.openvidu.to_str().unwrap());
    let run = |arguments: &[&str]| {
        let mut command = bare(PROGRAM);
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(arguments);
        command.arg("--env-file").arg(machine.env_file());
        command
            .arg("--data-dir")
            .arg(machine.folder.path().join("data"));
        command.arg("--json").output().unwrap()
    };
    let done = |arguments: &[&str]| {
        let output = run(&[arguments, &["--without-service"]].concat());
        assert!(output.status.success(), "{}", text(&output));
        json(&output)
    };
    let found = || {
        let checks = json(&run(&["validate"]))["checks"].clone();
        let mut all = checks.as_array().unwrap().clone();
        all.retain(|check| check["name"] == "recorders");
        let outcomes: Vec<_> = all.iter().map(|it| it["outcome"].clone()).collect();
        (outcomes, Value::from(all).to_string())
    };
    let (install, reconfigure) = (["install", "--auto", path], ["reconfigure", path]);
    done(&install);
    assert!(!machine.recorders_copy().exists());
    let (outcomes, said) = found();
    assert_eq!(outcomes, ["good"], "{said}");
    assert!(
        said.contains(&format!("the settings in {}", image.full())),
        "{said}"
    );
    let steps = done(&install)["steps"].clone();
    let changed = steps
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["changed"] == true);
    assert_eq!(changed.count(), 0, "{steps}");

    let bind = format!(
        "--volume={}:/recordings",
        machine.recorders_copy().parent().unwrap().display()
    );
    let full = image.full();
    let sleep = [
        "run",
        "-d",
        "--network=none",
        &bind,
        "--entrypoint=sleep",
        &full,
        "600",
    ];
    let recording = Container(docker(&sleep).unwrap());
    let old = recording.inspect("{{.Image}}").unwrap();
    let _gone = scopeguard(|| recording.remove());
    done(&install);
    assert!(
        !machine.recorders_copy().exists(),
        "its image tells it the same"
    );
    let settings = fs::read_to_string(machine.env_file()).unwrap();
    fs::write(machine.env_file(), settings.clone() + "CHUNK_TIME_SIZE=7\n").unwrap();
    let told = done(&reconfigure)["notes"].to_string();
    let name = recording.inspect("{{.Name}}").unwrap();
    assert!(told.contains(name.trim_start_matches('/')), "{told}");
    let folder = fs::read_to_string(machine.recorders_copy()).unwrap();
    assert!(folder.contains("CHUNK_TIME_SIZE=7\n"), "{folder}");
    assert!(
        recording.runs(),
        "a running recording goes on in its old image"
    );
    let (outcomes, said) = found();
    assert_eq!(outcomes, ["good", "warning"], "{said}");
    recording.remove();
    done(&reconfigure);
    assert!(!machine.recorders_copy().exists());
    assert_eq!(found().0, ["good"]);
    assert_eq!(
        SmallImage::id(&old),
        None,
        "an image with settings of before"
    );

    fs::write(machine.env_file(), settings).unwrap();
    let back = done(&["uninstall"]);
    assert_eq!(back["left"].to_string(), "[]", "{back}");
    assert_eq!(machine.files(), before);
    assert_eq!(SmallImage::id(&image.full()), debian);
    assert_eq!(SmallImage::id(&image.plain()), None);
}

/// Hears whoever takes it for a proxy.
fn eavesdropper() -> (String, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
    use std::io::{BufRead, BufReader};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = std::sync::Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let first = BufReader::new(stream).lines().next();
            let first = first.and_then(Result::ok).unwrap_or_default();
            noted.lock().unwrap().push(first);
        }
    });
    (address, heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_to_the_controller_and_to_its_store_goes_through_no_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let port = crate::support::controller::free_port().to_string();
    let settings = [
        ("HA_RUNTIME", "process"),
        ("HA_RECORDING_STORAGE", "s3"),
        ("HA_S3_SERVER", "on"),
        ("MINIO_API_PORT", &port),
        ("HA_AWS_ACCESS_KEY", "recorder"),
        ("HA_AWS_SECRET_KEY", "a-secret-of-the-store"),
    ];
    let recordings = folder.path().join("recordings");
    let mut controller =
        Controller::start(Path::new(PROGRAM), folder.path(), &recordings, &settings).await;
    let (proxy, heard) = eavesdropper();
    for command in ["health", "validate", "test-s3", "test-api", "status"] {
        let output = bare(PROGRAM)
            .args([command, "--env-file"])
            .arg(folder.path().join("controller.env"))
            .envs(["http_proxy", "all_proxy"].map(|name| (name, &proxy)))
            .output()
            .unwrap();
        assert!(
            ["validate", "status"].contains(&command) || output.status.success(),
            "{command}: {}",
            text(&output)
        );
        let heard = heard.lock().unwrap();
        assert!(heard.is_empty(), "{command}: {heard:?}");
    }
    controller.stop().await;
}

#[test]
fn install_keeps_chunks_at_aws_unless_they_are_on_this_machine_already() {
    let chosen = |in_use: bool| {
        let machine = Machine::new(SHAPES[0]);
        fs::create_dir_all(machine.env_file().parent().unwrap()).unwrap();
        fs::write(machine.env_file(), "HA_RECORDING_STORAGE=s3\n").unwrap();
        if in_use {
            fs::create_dir_all(machine.folder.path().join("data/s3/bucket")).unwrap();
        }
        let done = machine.install(&[]);
        assert!(done.status.success(), "{}", text(&done));
        fs::read_to_string(machine.env_file()).unwrap()
    };
    let fresh = chosen(false);
    assert!(fresh.contains("HA_S3_SERVER=off\n"), "{fresh}");
    assert!(!fresh.contains("HA_AWS_ACCESS_KEY"), "{fresh}");
    let earlier = chosen(true);
    assert!(earlier.contains("HA_S3_SERVER=on\n"), "{earlier}");
    assert!(earlier.contains("HA_AWS_SECRET_KEY="), "{earlier}");
}

#[test]
fn a_folder_without_openvidu_is_one_sentence_and_changes_nothing() {
    let machine = Machine::new(SHAPES[0]);
    fs::remove_file(machine.openvidu.join("docker-compose.yml")).unwrap();
    let failed = machine.install(&[]);
    assert_eq!(failed.status.code(), Some(69));
    assert!(
        text(&failed).contains("name the folder in which OpenVidu 2 is installed"),
        "{}",
        text(&failed)
    );
    assert!(!machine.env_file().exists());
}

#[test]
fn config_hides_secrets_and_wrong_settings_end_with_all_faults_and_code_78() {
    let folder = tempfile::tempdir().unwrap();
    let env = folder.path().join("a.env");
    fs::write(&env, "HA_CONTROLLER_PASSWORD=hidden\nOPENVIDU_WEBHOOK_ENDPOINT=https://u:hidden@x/y?k=hidden\nCHUNK_TIME_SIZE=0\nHA_NO_SUCH=1\n").unwrap();
    let run = |arguments: &[&str]| {
        bare(PROGRAM)
            .args(arguments)
            .arg("--env-file")
            .arg(&env)
            .output()
            .unwrap()
    };
    let shown = run(&["config"]);
    assert_eq!(shown.status.code(), Some(78));
    assert!(
        !text(&shown).contains("hidden") && !text(&shown).contains('\u{1b}'),
        "{}",
        text(&shown)
    );
    assert!(
        text(&shown).contains("CHUNK_TIME_SIZE=0") && text(&shown).contains("HA_NO_SUCH"),
        "{}",
        text(&shown)
    );
    let rows = json(&run(&["config", "--json"]));
    assert_eq!(
        rows.as_array().unwrap().len(),
        ov2_ha_recorder::config::TABLE.len()
    );
    let checked = run(&["validate", "--json"]);
    assert_eq!(
        (
            checked.status.code(),
            json(&checked)["checks"][0]["outcome"].clone()
        ),
        (Some(1), Value::from("bad"))
    );
}

#[test]
fn what_cannot_be_printed_is_told_and_a_folder_is_no_timeline() {
    let machine = Machine::new(SHAPES[0]);
    let full = bare("sh")
        .args(["-c", &format!("'{PROGRAM}' config >/dev/full")])
        .output();
    let full = full.unwrap();
    assert_eq!(full.status.code(), Some(73), "{}", text(&full));
    let place = machine.folder.path().to_str().unwrap();
    let folder = bare(PROGRAM).args(["timeline", place]).output().unwrap();
    assert_eq!(folder.status.code(), Some(1));
    assert!(
        text(&folder).contains("is a folder; name"),
        "{}",
        text(&folder)
    );
    let elsewhere = bare(PROGRAM)
        .args(["serve", "--data-dir", place])
        .env("OPENVIDU_RECORDING_PATH", place)
        .env("HA_RUNTIME", "process")
        .env("HA_CONTROLLER_USERNAME", "a")
        .env("HA_CONTROLLER_PASSWORD", "a-long-password")
        .env("HA_CONTROLLER_PORT", free_port().to_string())
        .env("HA_LISTEN_ADDRESS", "203.0.113.9")
        .output()
        .unwrap();
    let said = text(&elsewhere);
    assert!(said.contains("set HA_LISTEN_ADDRESS to"), "{said}");
}

#[test]
fn the_earlier_project_s_env_is_taken_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let env = folder.path().join("earlier.env");
    fs::write(&env, EARLIER).unwrap();
    let done = bare(PROGRAM)
        .args(["config", "--json", "--env-file"])
        .arg(&env)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", text(&done));
}

/// Every documented variable of the earlier project, written as its example file writes them.
const EARLIER: &str = r#"
HA_RECORDING_STORAGE=s3
CHUNK_FOLDER=/chunks
CHUNK_TIME_SIZE=10
HA_AWS_S3_SERVICE_ENDPOINT=http://localhost:9000
HA_AWS_S3_BUCKET=ov-recordings
HA_AWS_S3_HEADERS={"x-amz-acl":"private"}
HA_AWS_ACCESS_KEY=minioadmin
HA_AWS_SECRET_KEY=minioadmin
HA_AWS_REGION=us-east-1
MINIO_API_PORT=9000
MINIO_CONSOLE_PORT=9001
HA_CONTROLLER_HOST=localhost
HA_CONTROLLER_PORT=15443
HA_CONTROLLER_USERNAME=recorder
HA_CONTROLLER_PASSWORD=recorder
HEARTBEAT_INTERVAL=10
HA_MAX_MISSED_HEARTBEATS=3
HA_FAILOVER_CHECK_INTERVAL=15
HA_SESSION_CLEANUP_INTERVAL=30
HA_SESSION_MAX_INACTIVE_TIME=600
HA_S3_CLEANUP_ENABLED=true
HA_S3_CLEANUP_BATCH_SIZE=1000
OPENVIDU_WEBHOOK=true
OPENVIDU_WEBHOOK_ENDPOINT=http://localhost:8080/webhook
OPENVIDU_WEBHOOK_HEADERS=Authorization:Bearer x,X-Custom:y
IMAGE_NAME=openvidu/openvidu-recording
IMAGE_TAG=2.31.0
OPENVIDU_RECORDING_PATH=/opt/openvidu/recordings
SPRING_PROFILES_ACTIVE=prod
SWAGGER_ENABLED=false
SWAGGER_UI_ENABLED=false
DEBUG_MODE=false
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_taken_while_the_service_runs_brings_its_sessions_back() {
    let folder = tempfile::tempdir().unwrap();
    let recordings = folder.path().join("recordings");
    let own = folder.path().join("own");
    let mut controller = Controller::start(
        Path::new(PROGRAM),
        &own,
        &recordings,
        &[("HA_RUNTIME", "process")],
    )
    .await;
    let run = |arguments: &[&str]| {
        let (env, data) = (own.join("controller.env"), own.join("data"));
        bare(PROGRAM)
            .args(arguments)
            .arg("--env-file")
            .arg(env)
            .arg("--data-dir")
            .arg(data)
            .output()
            .unwrap()
    };
    let tried = bare(PROGRAM)
        .args(["test-api", "--json", "--env-file"])
        .arg(own.join("controller.env"))
        .output()
        .unwrap();
    assert!(tried.status.success(), "{}", text(&tried));
    let healthy = bare(PROGRAM)
        .args(["health", "--env-file"])
        .arg(own.join("controller.env"))
        .output()
        .unwrap();
    assert!(healthy.status.success(), "{}", text(&healthy));

    let body =
        serde_json::json!({ "sessionId": "kept", "clientId": "someone", "status": "paused" });
    let client = ov2_ha_recorder::outbound::client(
        std::time::Duration::from_secs(1),
        std::time::Duration::from_secs(5),
    )
    .unwrap();
    let register = client
        .post(controller.url("/api/sessions"))
        .basic_auth(USER, Some(&controller.password))
        .json(&body);
    assert_eq!(register.send().await.unwrap().status(), 201);

    let archive = folder.path().join("backup.tar.gz");
    let made = run(&["backup", "--json", "-o", archive.to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made));
    assert!(
        json(&made)["records"].as_u64().unwrap() >= 2,
        "{}",
        text(&made)
    );
    assert_eq!(
        fs::metadata(&archive).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let elsewhere = |archive: &Path| {
        let nowhere = folder.path().join("nowhere");
        let mut command = bare(PROGRAM);
        command
            .args(["backup", "--json", "--data-dir"])
            .arg(&nowhere);
        command.arg("--env-file").arg(own.join("controller.env"));
        let output = command.arg("-o").arg(archive).output().unwrap();
        assert!(!nowhere.exists(), "a database was made");
        output
    };
    // As for a service in a container, whose folder this machine does not see.
    let other = elsewhere(&folder.path().join("other.tar.gz"));
    assert_eq!(json(&other)["records"], json(&made)["records"]);

    let held = run(&["restore", archive.to_str().unwrap()]);
    assert_eq!(held.status.code(), Some(1));
    assert!(
        text(&held).contains("stop the service first"),
        "{}",
        text(&held)
    );
    controller.stop().await;
    let silence = elsewhere(&folder.path().join("none.tar.gz"));
    assert_eq!(silence.status.code(), Some(69), "{}", text(&silence));
    let again = ["backup", "--json", "--force", "-o"];
    let still = run(&[&again[..], &[archive.to_str().unwrap()]].concat());
    assert_eq!(json(&still)["records"], json(&made)["records"]);
    assert_eq!(
        run(&["reset"]).status.code(),
        Some(1),
        "without the word nothing happens"
    );
    assert!(run(&["reset", "reset-everything"]).status.success());

    let cut = folder.path().join("cut.tar.gz");
    let bytes = fs::read(&archive).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let refused = run(&["restore", cut.to_str().unwrap()]);
    assert!(
        !refused.status.success() && text(&refused).contains("nothing was changed"),
        "{}",
        text(&refused)
    );
    assert!(!own.join("data/db").exists());

    let restored = run(&["restore", archive.to_str().unwrap()]);
    assert!(restored.status.success(), "{}", text(&restored));
    controller.resume().await;
    let kept = client
        .get(controller.url("/api/sessions/kept"))
        .basic_auth(USER, Some(&controller.password))
        .send()
        .await
        .unwrap();
    assert_eq!(kept.status(), 200);
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_changes_how_much_is_logged_and_names_what_needs_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("HA_RUNTIME", "process"), ("DEBUG_MODE", "false")];
    let recordings = folder.path().join("recordings");
    let mut controller =
        Controller::start(Path::new(PROGRAM), folder.path(), &recordings, &settings).await;
    let env = folder.path().join("controller.env");
    let before = fs::read_to_string(&env).unwrap();
    let changed = before.replace(
        "DEBUG_MODE='false'",
        "DEBUG_MODE='true'\nHEARTBEAT_INTERVAL=7",
    );
    for (text, heard) in [
        (
            "HEARTBEAT_INTERVAL=often".to_owned(),
            "the settings stay as they were",
        ),
        (
            changed,
            "changed settings hold from the next start settings=HEARTBEAT_INTERVAL",
        ),
    ] {
        assert!(
            !controller.log().contains(" DEBUG "),
            "{}",
            controller.log()
        );
        fs::write(&env, text).unwrap();
        signal_process(controller.process(), "HUP");
        until_true(heard, SOON, || controller.log().contains(heard)).await;
    }
    controller.get("/api/sessions").await;
    until_true("a debug line", SOON, || {
        controller.log().contains("DEBUG answered")
    })
    .await;
    controller.stop().await;
}
