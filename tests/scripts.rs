//! The scripts of `packaging`: what must hold of them on a machine that has nothing of ours.

use crate::container::scopeguard;
use crate::support::docker::{SmallImage, docker};
use crate::support::fakes::{Fakes, NOTHING};
use crate::support::stage::leave_out;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// `bash -c script` with the environment that every user has; `$0` is `program`, from which scripts find their folder.
fn bash(program: &str, script: &str) -> Command {
    let mut command = Command::new("bash");
    command
        .args(["-euo", "pipefail", "-c", script])
        .arg(Path::new(ROOT).join(program))
        .env_clear()
        .stdin(Stdio::null());
    for name in ["HOME", "PATH", "CARGO_HOME", "RUSTUP_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// What `script` prints; it must end well.
fn printed(program: &str, script: &str, logs: &Path) -> String {
    let output = bash(program, script).env("OV2_LOGS", logs).output();
    let output = output.unwrap();
    let fault = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {fault}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn scripts() -> Vec<PathBuf> {
    let folders = [".ci", "packaging", "packaging/docker"];
    let files = folders.iter().flat_map(|folder| {
        let entries = std::fs::read_dir(Path::new(ROOT).join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().path())
    });
    let is_script = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.starts_with("#!/usr/bin/env bash") || path.ends_with("lib.sh")
    };
    files
        .filter(|path| path.is_file())
        .filter(is_script)
        .collect()
}

#[test]
fn every_script_is_read_by_bash() {
    let scripts = scripts();
    assert!(scripts.len() >= 8, "{scripts:?}");
    for script in scripts {
        let read = Command::new("bash").arg("-n").arg(&script).output();
        let read = read.unwrap();
        let fault = String::from_utf8_lossy(&read.stderr);
        assert!(read.status.success(), "{fault}");
    }
}

#[test]
fn the_files_of_a_release_go_into_no_folder_that_has_others() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine"), "").unwrap();
    let mut release = Command::new(Path::new(ROOT).join("packaging/release"));
    release
        .arg("--files")
        .arg(folder.path())
        .stdin(Stdio::null());
    let refused = release.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("is not empty"),
        "{said}"
    );
}

#[test]
fn what_is_built_goes_outside_the_tree_where_the_environment_says_nothing() {
    let logs = tempfile::tempdir().unwrap();
    let script = r#". "${0%/*}/lib.sh"; reproducible; echo "$CARGO_TARGET_DIR""#;
    let place = printed("packaging/build-deb", script, logs.path());
    assert!(place.starts_with('/'), "{place}");
    assert!(!Path::new(&place).starts_with(ROOT), "{place}");
    let script = r#". "${0%/*}/lib.sh"; export CARGO_TARGET_DIR=/elsewhere; need_target_dir; echo "$CARGO_TARGET_DIR""#;
    assert_eq!(
        printed("packaging/build-deb", script, logs.path()),
        "/elsewhere"
    );
}

/// A process that is ended with the test.
struct Ended(String);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(&self.0).status();
    }
}

/// A `dockerd` that goes on running, and a `docker` that it answers.
const DAEMON: &str = "#!/bin/bash\necho $$ >\"$STATE/pid\"\nexec sleep 600\n";
const CLIENT: &str = "#!/bin/bash\n[ -e \"$STATE/pid\" ]\n";

#[test]
fn a_docker_daemon_that_a_script_starts_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    for (name, text) in [("dockerd", DAEMON), ("docker", CLIENT)] {
        let path = state.join(name);
        std::fs::write(&path, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
    }
    // The process file of a real daemon stays.
    let script = r#". "${0%/*}/lib.sh"; PATH=$STATE:$PATH
        as_root() { [ "$1" = rm ] || "$@"; }
        answer=$(start_dockerd >&2 && echo started); echo "$answer""#;
    let mut child = bash("packaging/demo", script)
        .env("STATE", state)
        .env("OV2_LOGS", state)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (said, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        // Both end only when nobody holds them any more.
        let read = out.read_to_string(&mut text);
        let read = read.and_then(|_| err.read_to_string(&mut String::new()));
        let _ = said.send(read.map(|_| text));
    });
    let answer = heard.recv_timeout(Duration::from_secs(20));
    let pid = std::fs::read_to_string(state.join("pid")).unwrap_or_default();
    let daemon = Ended(pid.trim().to_owned());
    assert!(Path::new("/proc").join(&daemon.0).exists(), "it has ended");
    let answer = answer.expect("the daemon keeps the caller's pipes open");
    assert_eq!(answer.unwrap().trim(), "started");
    assert!(child.wait().unwrap().success());
}

/// What the package brings to a customer's machine, as it lies there: alone.
fn customers_script(folder: &Path) -> PathBuf {
    for file in ["build-recorder", "recorder.Dockerfile"] {
        let from = Path::new(ROOT).join("packaging/docker").join(file);
        std::fs::copy(from, folder.join(file)).unwrap();
    }
    let program = folder.join("program");
    std::fs::write(&program, "#!/bin/sh\necho ov2-ha-recorder 9.9.9\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    folder.join("build-recorder")
}

#[test]
fn the_customers_script_builds_an_image_and_calls_nothing_but_docker() {
    const OTHERS: [&str; 9] = [
        "apt-get",
        "dockerd",
        "mount",
        "sudo",
        "systemctl",
        "debootstrap",
        "setsid",
        "dpkg-query",
        "pgrep",
    ];
    let folder = tempfile::tempdir().unwrap();
    let script = customers_script(folder.path());
    let stock = "openvidu/openvidu-recording:2.30.0";
    let run = |fakes: &Fakes, name: &str| {
        for other in OTHERS {
            fakes.add(other, NOTHING);
        }
        let mut command = Command::new(&script);
        command.arg("--binary").arg(folder.path().join("program"));
        command.env("IMAGE_NAME", name).env("IMAGE_TAG", "2.30.0");
        let output = fakes.before(&mut command).output().unwrap();
        for other in OTHERS {
            assert_eq!(fakes.calls(other), Vec::<String>::new());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };

    let silent = Fakes::new();
    silent.silence_docker();
    let (code, said) = run(&silent, "openvidu/openvidu-recording");
    assert_eq!((code, said.lines().count()), (Some(69), 1), "{said}");
    assert!(said.contains("Docker does not answer"), "{said}");

    let bare = Fakes::new();
    let (code, said) = run(&bare, "openvidu/openvidu-recording");
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("cannot be pulled"), "{said}");

    let usual = Fakes::new();
    usual.add_image(stock, "openvidus");
    let (code, said) = run(&usual, "openvidu/openvidu-recording");
    assert_eq!(code, Some(0), "{said}");
    let label = |fakes: &Fakes, name: &str, label: &str| {
        std::fs::read_to_string(fakes.image(name).join(label)).unwrap()
    };
    assert_eq!(
        label(&usual, stock, "ov2-ha-recorder.version"),
        "ov2-ha-recorder 9.9.9\n"
    );
    let kept = usual.id("ov2-ha-recorder-base:2.30.0");
    assert_eq!(kept.as_deref(), Some("openvidus"));
    let (code, said) = run(&usual, "openvidu/openvidu-recording");
    assert_eq!(code, Some(0), "ours is not built on ours: {said}");
    assert_eq!(usual.id("ov2-ha-recorder-base:2.30.0"), kept);

    // With fonts of their own.
    let theirs = Fakes::new();
    theirs.add_image(stock, "openvidus");
    theirs.add_image("registry:5000/rec:2.30.0", "customers");
    let (code, said) = run(&theirs, "registry:5000/rec");
    assert_eq!(code, Some(0), "{said}");
    let kept = label(
        &theirs,
        "registry:5000/rec:2.30.0",
        "ov2-ha-recorder.replaces",
    );
    assert_eq!(theirs.id(kept.trim()).as_deref(), Some("customers"));
    assert_eq!(theirs.id(stock).as_deref(), Some("openvidus"));
}

/// By Docker itself: what a build copies, who may read it then, and what of it stands elsewhere.
#[test]
fn the_recorders_settings_are_a_last_layer_of_the_image_for_root_alone() {
    let image = match SmallImage::new() {
        Ok(image) => image,
        Err(why) => return leave_out("the settings' layer", &why),
    };
    let folder = tempfile::tempdir().unwrap();
    let script = customers_script(folder.path());
    let settings = folder.path().join("settings");
    let fakes = Fakes::new();
    fakes.hear("docker");
    let build = |text: &str| {
        std::fs::write(&settings, text).unwrap();
        let mut command = Command::new(&script);
        command.arg("--binary").arg(folder.path().join("program"));
        command.arg("--settings").arg(&settings);
        command
            .env("IMAGE_NAME", &image.name)
            .env("IMAGE_TAG", "test");
        let output = fakes.before(&mut command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let ids = [image.full(), image.plain()].map(|name| SmallImage::id(&name).unwrap());
        (ids, said)
    };
    let run = |image: &str, words: &[&str]| {
        let entry = format!("--entrypoint={}", words[0]);
        let run = ["run", "--rm", "--network=none", &entry];
        docker(&[&run[..], &[image], &words[1..]].concat())
    };
    let file = "/etc/ov2-ha-recorder.env";
    let text = "HA_RECORDER_TOKEN=planted-1\n";
    let (first, _) = build(text);
    let stat = run(&image.full(), &["stat", "-c", "%a %u %g", file]);
    assert_eq!(stat.unwrap(), "600 0 0");
    assert_eq!(run(&image.full(), &["cat", file]).unwrap(), text.trim());
    assert!(run(&image.plain(), &["cat", file]).is_err());
    let (again, said) = build(text);
    assert_eq!((&again, said.as_str()), (&first, ""), "nothing has changed");

    let (second, _) = build("HA_RECORDER_TOKEN=planted-2\n");
    assert_eq!(second[1], first[1], "the program was built again");
    assert_ne!(second[0], first[0]);
    assert_eq!(
        SmallImage::id(&first[0]),
        None,
        "secrets of before are there still"
    );
    // A recording goes on in its old image.
    let recording = docker(&["create", &image.full()]).unwrap();
    let _gone = scopeguard(|| drop(docker(&["rm", "-f", &recording])));
    build("HA_RECORDER_TOKEN=planted-3\n");
    assert_eq!(SmallImage::id(&second[0]).as_ref(), Some(&second[0]));

    let history = docker(&["history", "--no-trunc", &image.full()]).unwrap();
    let inspected = docker(&["image", "inspect", &image.full(), &image.plain()]).unwrap();
    let calls = fakes.calls("docker").join("\n");
    assert!(calls.contains("build"), "{calls}");
    for told in [history, inspected, calls] {
        assert!(!told.contains("planted"), "{told}");
    }
    docker(&["rm", "-f", &recording]).unwrap();
    docker(&["rmi", &second[0]]).unwrap();
}

#[test]
fn an_image_with_settings_keeps_them_where_a_build_names_none() {
    let folder = tempfile::tempdir().unwrap();
    let script = customers_script(folder.path());
    let fakes = Fakes::new();
    let (name, plain) = (
        "ours/recording:test",
        "ov2-ha-recorder/recording:ours-recording-test",
    );
    fakes.add_image(name, "theirs");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&script);
        command.arg("--binary").arg(folder.path().join("program"));
        command.args(arguments).env("IMAGE_NAME", "ours/recording");
        command.env("IMAGE_TAG", "test");
        let output = fakes.before(&mut command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let settings = folder.path().join("settings");
    let text = "HA_RECORDER_TOKEN=planted\n";
    std::fs::write(&settings, text).unwrap();
    let (code, said) = run(&["--settings", settings.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let first = fakes.id(name);
    let (code, said) = run(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(fakes.settings(name).as_deref(), Some(text));
    assert_ne!(fakes.id(name), first);
    assert_eq!(fakes.settings(plain), None);

    let ids = || [name, plain].map(|it| fakes.id(it));
    let before = ids();
    std::fs::write(fakes.state().join("no-copy"), "").unwrap();
    let (code, said) = run(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("with --settings"), "{said}");
    assert_eq!(ids(), before);
    assert!(!fakes.calls("docker").join("\n").contains("planted"));
}

#[test]
fn a_build_that_fails_leaves_our_image_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let script = customers_script(folder.path());
    let image = "openvidu/openvidu-recording:2.30.0";
    for (state, seconds, code) in [
        (&["no-build"][..], "600", Some(1)),
        (&["hung-registry"], "1", Some(69)),
        (&[], "600", Some(0)),
    ] {
        let fakes = Fakes::new();
        fakes.add_image(image, "ours");
        let label = fakes.image(image).join("created.by");
        std::fs::write(label, "ov2-ha-recorder\n").unwrap();
        // What it was built on is gone.
        std::fs::write(fakes.state().join("registry"), "openvidus\n").unwrap();
        for name in state {
            std::fs::write(fakes.state().join(name), "").unwrap();
        }
        let mut command = Command::new(&script);
        command
            .arg("--binary")
            .arg(folder.path().join("program"))
            .env("IMAGE_NAME", "openvidu/openvidu-recording")
            .env("IMAGE_TAG", "2.30.0")
            .env("OV2_PULL_SECONDS", seconds);
        let output = fakes.before(&mut command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), code, "{said}");
        assert!(
            said.contains("pulling openvidu/openvidu-recording:2.30.0"),
            "{said}"
        );
        let is_ours = fakes.id(image).as_deref() == Some("ours");
        assert_eq!(is_ours, code != Some(0), "{state:?}: {said}");
    }
}

#[test]
fn a_step_tells_its_time_and_what_is_being_compiled() {
    let logs = tempfile::tempdir().unwrap();
    let log = "   Compiling s3s v0.14.1\r    Building [==>    ] 12/318: s3s, ring   \r";
    std::fs::write(logs.path().join("log"), log).unwrap();
    let script = r#". "${0%/*}/lib.sh"; latest "$OV2_LOGS/log"; step "doing a thing" true"#;
    let said = printed("packaging/demo", script, logs.path());
    assert_eq!(said, "crate 12/318: s3s, ring\n  doing a thing: 0 s");
}

#[test]
fn a_step_that_fails_shows_the_end_of_what_it_wrote() {
    let logs = tempfile::tempdir().unwrap();
    let script = r#". "${0%/*}/lib.sh"; step "doing a thing" bash -c 'echo because; exit 7'"#;
    let output = bash("packaging/demo", script)
        .env("OV2_LOGS", logs.path())
        .output()
        .unwrap();
    let fault = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7));
    assert!(fault.contains("FAILED: doing a thing"), "{fault}");
    assert!(fault.ends_with("because\n"), "{fault}");
}

#[test]
fn a_process_that_a_test_leaves_behind_is_named() {
    let logs = tempfile::tempdir().unwrap();
    // Others of this suite run at the same time: only what is started here is looked for.
    let script = r#". "$0" --help >/dev/null
        pause() { :; }
        traces() { processes | grep "sleep 600" | sort || true; }
        traces >"$OV2_LOGS/traces-before"
        nothing_left
        [ -z "${FAILED:-}" ] && echo none
        (setsid sleep 600 >/dev/null 2>&1 & echo $!)
        nothing_left
        echo "$FAILED""#;
    let said = printed("packaging/test", script, logs.path());
    let lines: Vec<&str> = said.lines().collect();
    let [none, pid, told, failed] = lines[..] else {
        panic!("{said}")
    };
    let _left = Ended(pid.to_owned());
    assert_eq!((none, failed), ("none", "1"));
    assert!(told.contains("left this behind"), "{told}");
}
