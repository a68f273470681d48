//! The controller as a container: one static file in an empty image, alone and by `docker compose`.

use crate::support::controller::{USER, free_port};
use crate::support::docker::{Container, docker, recording_image};
use crate::support::secrets;
use crate::support::stage::leave_out;
use crate::support::wait::until_true;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// The controller's image; `packaging/docker/build-controller` makes it.
fn image() -> Result<String, String> {
    let image = format!("ov2-ha-recorder:{}", env!("CARGO_PKG_VERSION"));
    docker(&["image", "inspect", &image])
        .map(|_| image)
        .map_err(|_| "the image is not there; packaging/docker/build-controller makes it".into())
}

struct Removed(Container);

impl Drop for Removed {
    fn drop(&mut self) {
        self.0.remove();
    }
}

async fn healthy(container: &Container) {
    until_true("a healthy container", SOON, || {
        container
            .inspect("{{.State.Health.Status}}")
            .is_ok_and(|health| health == "healthy")
    })
    .await;
}

async fn sessions(port: &str, password: &str) -> u16 {
    let second = Duration::from_secs(1);
    let client = ov2_ha_recorder::outbound::client(second, 5 * second).unwrap();
    let url = format!("http://127.0.0.1:{port}/api/sessions");
    let answer = client
        .get(url)
        .basic_auth(USER, Some(password))
        .send()
        .await;
    answer.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controllers_image_is_one_file_and_its_container_answers() {
    let image = match image() {
        Ok(image) => image,
        Err(why) => return leave_out("the controller's container", &why),
    };
    let folder = tempfile::tempdir().unwrap();
    // The container's user is none of this machine's.
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), all).unwrap();
    let port = free_port().to_string();
    let password = ov2_ha_recorder::random::hex::<12>();
    let settings = [
        format!("HA_CONTROLLER_PORT={port}"),
        "HA_LISTEN_ADDRESS=127.0.0.1".into(),
        format!("HA_CONTROLLER_USERNAME={USER}"),
        format!("HA_CONTROLLER_PASSWORD={password}"),
        format!("OPENVIDU_RECORDING_PATH={}", folder.path().display()),
    ];
    std::fs::write(folder.path().join("env"), settings.join("\n")).unwrap();
    let group =
        std::os::unix::fs::MetadataExt::gid(&std::fs::metadata("/var/run/docker.sock").unwrap());
    let id = docker(&[
        "run",
        "-d",
        "--network=host",
        "--env-file",
        folder.path().join("env").to_str().unwrap(),
        "--volume=/var/run/docker.sock:/var/run/docker.sock",
        &format!("--volume={0}:{0}", folder.path().display()),
        &format!("--group-add={group}"),
        "--read-only",
        &image,
    ])
    .unwrap();
    let container = Removed(Container(id));
    healthy(&container.0).await;
    assert_eq!(sessions(&port, &password).await, 200);
    assert_eq!(sessions(&port, "wrong").await, 401);
    let user = container.0.inspect("{{.Config.User}}").unwrap();
    assert!(
        !user.is_empty() && !user.starts_with('0'),
        "it runs as {user}"
    );
    let files = docker(&[
        "image",
        "inspect",
        "--format",
        "{{len .RootFS.Layers}}",
        &image,
    ])
    .unwrap();
    assert!(files.parse::<usize>().unwrap() <= 3, "{files} layers");
    docker(&["stop", "--time=10", &container.0.0]).unwrap();
    assert_eq!(container.0.inspect("{{.State.ExitCode}}").unwrap(), "0");
}

#[test]
fn the_compose_file_passes_every_setting_on() {
    let file = include_str!("../packaging/compose.yml");
    let (_, settings) = file.split_once("x-settings: &settings\n").unwrap();
    let (settings, _) = settings.split_once("\n\n").unwrap();
    let passed = settings.lines().map(|line| {
        let (name, value) = line.trim().split_once(": ").unwrap();
        assert!(value.starts_with(&format!("${{{name}:")), "{line}");
        name
    });
    let known = ov2_ha_recorder::config::TABLE.iter().map(|it| it.name);
    assert!(
        passed.eq(known),
        "compose.yml must name these in this order"
    );
    let secret = ov2_ha_recorder::config::TABLE.iter().filter(|it| it.secret);
    for name in secret.map(|it| it.name) {
        let line = format!("{name}_FILE: ${{{name}_FILE:-}}\n");
        assert!(file.contains(&line), "compose.yml must pass {line}");
    }
}

/// `docker compose`, or the earlier program of that name.
fn compose() -> Option<Vec<&'static str>> {
    [vec!["docker", "compose"], vec!["docker-compose"]]
        .into_iter()
        .find(|words| {
            let asked = Command::new(words[0])
                .args(&words[1..])
                .arg("version")
                .output();
            asked.is_ok_and(|asked| asked.status.success())
        })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_product_comes_up_from_one_file() {
    let test = "the_whole_product_comes_up_from_one_file";
    let image = image().and_then(|_| recording_image());
    let (image, words) = match (image, compose()) {
        (Ok(image), Some(words)) => (image, words),
        (Err(why), _) => return leave_out(test, &why),
        (_, None) => return leave_out(test, "docker compose is missing"),
    };
    let folder = tempfile::tempdir().unwrap();
    let (name, tag) = image.rsplit_once(':').unwrap();
    let port = free_port().to_string();
    let password = ov2_ha_recorder::random::hex::<12>();
    // A path that means the same to the operator's commands on this machine and in the container.
    let files = folder.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let password_file = files.join("password");
    std::fs::write(&password_file, &password).unwrap();
    let variables = [
        ("HA_CONTROLLER_PORT", port.as_str()),
        ("HA_CONTROLLER_USERNAME", USER),
        (
            "HA_CONTROLLER_PASSWORD_FILE",
            password_file.to_str().unwrap(),
        ),
        ("OV2_FILES", files.to_str().unwrap()),
        ("OPENVIDU_RECORDING_PATH", folder.path().to_str().unwrap()),
        ("IMAGE_NAME", name),
        ("IMAGE_TAG", tag),
    ];
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/compose.yml");
    let project = format!("ov2test{}", ov2_ha_recorder::random::hex::<4>());
    let run = |arguments: &[&str]| {
        let output = Command::new(words[0])
            .args(&words[1..])
            .args(["-p", &project, "-f"])
            .arg(&file)
            .args(arguments)
            .current_dir(folder.path())
            .envs(variables)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let config = run(&["--profile", "store", "config"]);
    for container in ["ov-recorder-ha-controller", "ov2-ha-recorder-garage"] {
        assert!(config.contains(container), "{config}");
    }
    run(&["up", "-d"]);
    let up = Container("ov-recorder-ha-controller".into());
    let ended = scopeguard(|| drop(run(&["down", "-v"])));
    healthy(&up).await;
    assert_eq!(sessions(&port, &password).await, 200);
    goes_back_to_a_backup(folder.path(), &variables);
    healthy(&up).await;
    drop(ended);
    assert!(up.inspect("{{.Id}}").is_err(), "it is still there");
}

/// The operator's commands on the host: a backup from the running container, a restore into its volume as they advise it.
fn goes_back_to_a_backup(folder: &Path, variables: &[(&str, &str)]) {
    let run = |command: &str| {
        let mut program = Command::new("sh");
        for setting in ov2_ha_recorder::config::TABLE {
            program.env_remove(setting.name);
        }
        let line = format!("{} {command}", env!("CARGO_BIN_EXE_ov2-ha-recorder"));
        program.args(["-ec", &line]).current_dir(folder);
        let output = program.envs(variables.iter().copied()).output().unwrap();
        let said = secrets::said(&output);
        (output.status.code(), said)
    };
    let done = |command: &str| {
        let (code, said) = run(command);
        assert_eq!(code, Some(0), "{command}: {said}");
        said
    };
    assert!(done("status").contains("running"));
    done("logs -n 1 --json");
    done("backup -o b.tar.gz");
    done("restart");
    done("stop");
    let (code, refused) = run("restore b.tar.gz");
    assert_eq!(code, Some(69), "{refused}");
    let (_, advice) = refused.split_once("then: ").unwrap();
    let (advice, _) = advice.split_once(" …").unwrap();
    let restored = done(&format!("--version; {advice} restore b.tar.gz"));
    assert!(restored.contains("kept what was there"), "{restored}");
    done("start");
}

/// Does something whatever becomes of the test.
pub fn scopeguard<F: FnMut()>(end: F) -> impl Drop {
    struct Guard<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(end)
}
