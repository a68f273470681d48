//! `doctor`: what it finds, what it packs, and that no secret is in it.

use crate::support::bare::bare;
use crate::support::controller::{Controller, free_port};
use crate::support::docker::{docker, recording_image};
use crate::support::page::{Page, SECRET};
use crate::support::secrets::{self, said};
use crate::support::stage::leave_out;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ov2_ha_recorder::config::TABLE;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ov2-ha-recorder");

/// A machine with settings of its own, on which the service may run.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new(settings: &str) -> Self {
        let site = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(site.recordings()).unwrap();
        let usual = format!(
            "HA_CONTROLLER_HOST=127.0.0.1\nHA_CONTROLLER_PORT={}\nHA_LISTEN_ADDRESS=127.0.0.1\nHA_CONTROLLER_USERNAME=recorder\nOPENVIDU_RECORDING_PATH={}\n",
            free_port(),
            site.recordings().display()
        );
        fs::write(site.path("controller.env"), usual + settings).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn recordings(&self) -> PathBuf {
        self.path("recordings")
    }

    /// Lays a timeline there whose note is `note`.
    fn recorded(&self, id: &str, note: &str) {
        let timeline = json!({
            "version": 1, "recording": id, "take": "1",
            "startedAt": "2026-11-25T03:32:49Z", "endedAt": "2026-11-25T03:33:49Z",
            "durationSeconds": 58.5, "gapMode": "cut", "runs": [],
            "gaps": [{ "from": "2026-11-25T03:33:00Z", "to": "2026-11-25T03:33:01Z", "seconds": 1.5, "atSeconds": 11.0, "cause": "killed" }],
            "notes": [note],
        });
        let folder = self.recordings().join(id);
        fs::create_dir(&folder).unwrap();
        fs::write(
            folder.join(format!("{id}.timeline.json")),
            timeline.to_string(),
        )
        .unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare(PROGRAM);
        command
            .current_dir(self.folder.path())
            .arg("doctor")
            .args(arguments)
            .args(["--env-file", "controller.env", "--data-dir", "data"])
            .stdin(Stdio::null());
        command
    }

    fn doctor(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

/// The files of an archive.
fn unpacked(archive: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mode().unwrap(), 0o600);
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (name, text)
    });
    entries.collect()
}

fn checks(report: &[u8]) -> BTreeMap<String, (String, String)> {
    let report: Value = serde_json::from_slice(report).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    checks
        .map(|it| {
            (
                text(&it["name"]),
                (text(&it["outcome"]), text(&it["finding"])),
            )
        })
        .collect()
}

fn escaped(text: &str) -> String {
    let url = reqwest::Url::parse_with_params("http://h/", [("k", text)]).unwrap();
    url.query().unwrap()["k=".len()..].to_owned()
}

#[test]
fn no_secret_of_the_settings_is_in_the_archive_however_it_is_written() {
    let secret = |name: &str| format!("planted/{}?+\"x", name.to_lowercase());
    let names = TABLE
        .iter()
        .filter(|setting| setting.secret)
        .map(|it| it.name);
    let names: Vec<_> = names.collect();
    assert!(names.len() >= 9, "{names:?}");
    let line = |name: &&str| match name.ends_with("HEADERS") {
        true => format!(
            "{name}='{}'\n",
            json!({ "X-Key": format!("Bearer {}", secret(name)) })
        ),
        false => format!("{name}='{}'\n", secret(name)),
    };
    let settings: String = names.iter().map(line).collect();
    let more = "HA_RUNTIME=process\nHA_AWS_ACCESS_KEY=key\nHA_VIEWER_USERNAME=viewer\nHA_ALERT_URL=https://user:planted-user@127.0.0.1/services/planted-in-a-path?token=planted-token\n";
    let site = Site::new(&(settings + more));
    let mut planted: Vec<_> = names.iter().map(|name| secret(name)).collect();
    planted.extend(["planted-user", "planted-in-a-path", "planted-token"].map(str::to_owned));
    let forms: Vec<_> = planted
        .iter()
        .flat_map(|it| {
            let behind = |before: &str| BASE64_STANDARD.encode(format!("{before}{it}"));
            [
                it.clone(),
                escaped(it),
                behind(""),
                behind("a"),
                behind("recorder:"),
            ]
        })
        .collect();
    // Wherever they come from.
    site.recorded("ses_A", &forms.join(" "));
    let output = site.doctor(&["-o", "all.tar.gz"]);
    let mut texts = unpacked(&fs::read(site.path("all.tar.gz")).unwrap());
    texts.insert("what it says".into(), said(&output));
    assert!(texts["timelines/ses_A.json"].contains("***"), "{texts:?}");
    assert!(texts["settings.json"].contains("HA_CONTROLLER_PASSWORD"));
    for (name, text) in &texts {
        for form in &forms {
            assert!(!text.contains(form.as_str()), "{name} has {form}: {text}");
        }
        assert!(!text.contains("planted"), "{name}: {text}");
    }
    let mode = fs::metadata(site.path("all.tar.gz"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_service_it_packs_what_is_asked_for_and_judges_each_symptom() {
    let site = Site::new("");
    // Its session is never heard of again.
    let settings = [("HA_RUNTIME", "process"), ("HEARTBEAT_INTERVAL", "300")];
    let folder = site.folder.path();
    let mut controller =
        Controller::start(Path::new(PROGRAM), folder, &site.recordings(), &settings).await;
    for number in 1..=11 {
        site.recorded(&format!("ses_{number}"), "");
        let file = fs::File::open(
            site.recordings()
                .join(format!("ses_{number}/ses_{number}.timeline.json")),
        );
        let at = std::time::SystemTime::now() - Duration::from_secs(1000 - number);
        file.unwrap().set_modified(at).unwrap();
    }
    let session =
        json!({ "sessionId": "ses_live", "clientId": "c", "metadata": { "key": "of a client" } });
    controller
        .ask(reqwest::Method::POST, "/api/sessions", Some(&session))
        .await;
    fs::create_dir(site.path("data/db.unreadable-1")).unwrap();

    let output = tokio::task::block_in_place(|| site.doctor(&["--json", "-o", "-"]));
    let files = unpacked(&output.stdout);
    secrets::heard("the archive", &format!("{files:?}"));
    for name in [
        "controller/health.json",
        "controller/worries.json",
        "controller/metrics.txt",
        "versions.json",
        "report.txt",
    ] {
        assert!(files.contains_key(name), "{name}: {:?}", files.keys());
    }
    assert!(files["controller/sessions.json"].contains("ses_live"));
    assert!(!files["controller/sessions.json"].contains("of a client"));
    let timelines = files.keys().filter(|name| name.starts_with("timelines/"));
    assert_eq!(timelines.count(), 10);
    assert!(
        !files.contains_key("timelines/ses_1.json"),
        "the oldest of eleven"
    );

    let found = checks(
        &output.stderr[..output
            .stderr
            .iter()
            .rposition(|byte| *byte == b'}')
            .unwrap()
            + 1],
    );
    let outcome = |name: &str| found[name].0.as_str();
    assert_eq!(
        found["service"],
        ("good".into(), "it runs and answers".into())
    );
    assert_eq!(outcome("status page"), "good", "{found:?}");
    assert_eq!(outcome("no video"), "good", "{found:?}");
    assert_eq!(outcome("seconds missing"), "warning");
    assert!(
        found["seconds missing"].1.contains("ses_11 lacks 1.5 s"),
        "{found:?}"
    );
    assert_eq!(outcome("database set aside"), "warning");

    controller.stop().await;
    let output = tokio::task::block_in_place(|| site.doctor(&["--json", "-o", "later.tar.gz"]));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let found = checks(&output.stdout);
    assert!(
        found["service"].1.contains("cannot reach the controller"),
        "{found:?}"
    );
    assert_eq!(found["status page"].0, "skipped");
    let files = unpacked(&fs::read(site.path("later.tar.gz")).unwrap());
    assert!(
        files["missing.txt"].contains("controller/health"),
        "{files:?}"
    );
}

#[test]
fn an_archive_replaces_nothing_and_what_cannot_be_written_is_told_with_the_report() {
    let site = Site::new(
        "HA_RUNTIME=process\nHA_CONTROLLER_PASSWORD=a-long-password\nCHUNK_TIME_SIZE=often\n",
    );
    fs::write(site.path("mine"), "mine").unwrap();
    let output = site.doctor(&["-o", "mine"]);
    assert_eq!(output.status.code(), Some(73), "{}", said(&output));
    assert_eq!(fs::read_to_string(site.path("mine")).unwrap(), "mine");
    symlink("/dev/full", site.path("full")).unwrap();
    let output = site.doctor(&["-o", "full"]);
    assert_eq!(output.status.code(), Some(73), "{}", said(&output));
    assert!(
        said(&output).contains("CHUNK_TIME_SIZE=often"),
        "{}",
        said(&output)
    );
    let output = site.doctor(&["-o", "mine", "--force"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(unpacked(&fs::read(site.path("mine")).unwrap()).contains_key("settings.json"));
}

#[test]
fn links_pipes_and_a_docker_that_hangs_hold_up_nothing_and_bring_nothing_in() {
    let site = Site::new("HA_CONTROLLER_PASSWORD=a-long-password\n");
    let place = |id: &str| {
        fs::create_dir(site.recordings().join(id)).unwrap();
        site.recordings().join(format!("{id}/{id}.timeline.json"))
    };
    site.recorded("ses_A", "of a stranger");
    let elsewhere = site.path("elsewhere");
    fs::rename(
        site.recordings().join("ses_A/ses_A.timeline.json"),
        &elsewhere,
    )
    .unwrap();
    symlink(&elsewhere, place("ses_link")).unwrap();
    let made = Command::new("mkfifo").arg(place("ses_pipe")).status();
    assert!(made.unwrap().success());
    let programs = site.path("programs");
    fs::create_dir(&programs).unwrap();
    fs::write(programs.join("docker"), "#!/bin/sh\nexec /bin/sleep 600\n").unwrap();
    fs::set_permissions(programs.join("docker"), fs::Permissions::from_mode(0o755)).unwrap();

    let begin = Instant::now();
    let mut command = site.command(&["--json", "-o", "a.tar.gz"]);
    let output = command.env("PATH", &programs).output().unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(60),
        "{:?}",
        begin.elapsed()
    );
    let found = checks(&output.stdout);
    assert!(
        found["docker"].1.contains("does not answer within"),
        "{found:?}"
    );
    assert!(found["broadcast"].1.contains("not protected"), "{found:?}");
    let files = unpacked(&fs::read(site.path("a.tar.gz")).unwrap());
    let timelines: Vec<_> = files
        .keys()
        .filter(|it| it.starts_with("timelines"))
        .collect();
    assert!(timelines.is_empty(), "{timelines:?}");
}

#[test]
fn a_secret_in_a_file_that_recorders_know_by_another_path_is_hidden_too() {
    let site = Site::new("HA_RUNTIME=process\nHA_CONTROLLER_PASSWORD=a-long-password\n");
    let said = "HA_RECORDER_TOKEN_FILE=/recordings/.token\n";
    fs::write(site.recordings().join(".env"), said).unwrap();
    fs::write(site.recordings().join(".token"), "planted-token\n").unwrap();
    site.recorded("ses_A", "registered with planted-token");
    site.doctor(&["-o", "a.tar.gz"]);
    let files = unpacked(&fs::read(site.path("a.tar.gz")).unwrap());
    assert!(files.contains_key("timelines/ses_A.json"), "{files:?}");
    assert!(!format!("{files:?}").contains("planted"), "{files:?}");
}

/// Docker of which one container runs, the controller's.
const COMPOSED: &str = r#"#!/bin/sh
case "$1" in
  version) echo 27 ;;
  inspect) cat "$STATE/container.json" ;;
  logs) echo "the password is planted-password" ;;
  ps) ;;
  *) exit 1 ;;
esac
"#;

#[test]
fn the_log_of_a_container_is_packed_only_where_all_that_it_was_told_can_be_hidden() {
    let site = Site::new("HA_CONTROLLER_PASSWORD=a-long-password\n");
    fs::create_dir(site.path("programs")).unwrap();
    let docker = site.path("programs/docker");
    fs::write(&docker, COMPOSED).unwrap();
    fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(site.path("password"), "planted-password\n").unwrap();
    let packed = |mounts: Value| {
        let told = json!([{
            "Name": "/ov-recorder-ha-controller",
            "Config": { "Labels": {}, "Env": ["HA_CONTROLLER_PASSWORD_FILE=/run/secrets/password"] },
            "Mounts": mounts,
        }]);
        fs::write(site.path("container.json"), told.to_string()).unwrap();
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", site.path("programs").display());
        let mut command = site.command(&["-o", "a.tar.gz", "--force"]);
        let output = command
            .env("PATH", path)
            .env("STATE", site.folder.path())
            .output();
        assert!(!said(&output.unwrap()).contains("planted"));
        let files = unpacked(&fs::read(site.path("a.tar.gz")).unwrap());
        assert!(!format!("{files:?}").contains("planted"), "{files:?}");
        files
    };
    let mounted =
        json!([{ "Source": site.path("password"), "Destination": "/run/secrets/password" }]);
    let files = packed(mounted);
    assert_eq!(files["log/container.txt"].trim(), "the password is ***");
    let files = packed(json!([]));
    assert!(!files.contains_key("log/container.txt"), "{files:?}");
    let why = "inside the container ov-recorder-ha-controller";
    assert!(
        files["missing.txt"].contains(why),
        "{}",
        files["missing.txt"]
    );
    assert!(files["report.txt"].contains("no log is packed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_recording_container_it_checks_what_the_recorder_needs() {
    let site = Site::new("");
    let settings = [("HA_RUNTIME", "process")];
    let folder = site.folder.path();
    let mut controller =
        Controller::start(Path::new(PROGRAM), folder, &site.recordings(), &settings).await;
    let page = Page::serve().await;
    let examined = |more: &[&str]| {
        let recordings = site.recordings();
        let mut command = bare(PROGRAM);
        command
            .env("CONTAINER_WORKING_MODE", "COMPOSED")
            .env(
                "URL",
                page.url().replace("://", "://OPENVIDUAPP:of-the-page@"),
            )
            .current_dir(folder)
            .args([
                "doctor",
                "--json",
                "--image-env-file",
                "none",
                "--socket",
                "none",
            ])
            .arg("--recordings")
            .arg(&recordings)
            .args(more);
        tokio::task::block_in_place(|| command.output().unwrap())
    };
    let before = fs::read_dir(folder).unwrap().count();
    let output = examined(&[]);
    assert!(!said(&output).contains("of-the-page"), "{}", said(&output));
    let found = checks(&output.stdout);
    for name in [
        "controller",
        "host",
        "clock",
        "page",
        "recordings",
        "shared memory",
    ] {
        assert_eq!(found[name].0, "good", "{name}: {found:?}");
    }
    let origin = page.url().split("/clock").next().unwrap().to_owned();
    assert_eq!(found["page"].1, format!("{origin} answers 404"));
    assert_eq!(
        fs::read_dir(folder).unwrap().count(),
        before,
        "no archive unasked"
    );

    let output = examined(&["-o", "-"]);
    let files = unpacked(&output.stdout);
    assert!(files.contains_key("report.txt"), "{files:?}");
    let all = format!("{files:?}");
    assert!(
        !all.contains("of-the-page") && !all.contains(SECRET),
        "{all}"
    );

    controller.stop().await;
    page.go_away();
    let output = examined(&[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let found = checks(&output.stdout);
    assert_eq!(found["controller"].0, "bad", "{found:?}");
    assert_eq!(found["page"].0, "bad", "{found:?}");
}

#[test]
fn a_real_container_checks_itself() {
    let image = match recording_image() {
        Ok(image) => image,
        Err(why) => return leave_out("a_real_container_checks_itself", &why),
    };
    let folder = tempfile::tempdir().unwrap();
    let bind = format!("{}:/recordings", folder.path().display());
    let said = docker(&[
        "run",
        "--rm",
        "--network=host",
        "-v",
        &bind,
        "-e",
        "CONTAINER_WORKING_MODE=COMPOSED",
        "-e",
        "URL=https://OPENVIDUAPP:of-the-page@127.0.0.1:1/#/layout",
        "--entrypoint=bash",
        &image,
        "-c",
        "ov2-ha-recorder doctor --json || [ $? = 1 ]",
    ]);
    let said = said.unwrap();
    assert!(!said.contains("of-the-page"), "{said}");
    let found = checks(said.as_bytes());
    for name in ["programs", "recordings", "shared memory"] {
        assert_eq!(found[name].0, "good", "{name}: {found:?}");
    }
    assert!(
        ["good", "warning"].contains(&found["fonts"].0.as_str()),
        "{found:?}"
    );
    assert_eq!(found["page"].0, "bad");
}
