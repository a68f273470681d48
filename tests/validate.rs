//! `validate` against what it shall find before a recording does: each fault that `serve` refuses, a recorder stumbles over, or
//! OpenVidu's folder shows. It changes nothing.

use crate::operator::openvidu;
use crate::support::bare::bare;
use crate::support::controller::{Controller, free_port};
use crate::support::rest::{Rest, SECRET};
use crate::support::secrets::said;
use crate::support::stores::{KEY, SECRET as KEYS_SECRET, Server};
use crate::support::wait::until_true;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ov2-ha-recorder");
const SOON: Duration = Duration::from_secs(20);

/// Settings in which `validate` finds nothing wrong, and what it needs around them.
struct Site {
    folder: tempfile::TempDir,
    port: u16,
}

impl Site {
    fn new() -> Self {
        let site = Self {
            folder: tempfile::tempdir().unwrap(),
            port: free_port(),
        };
        fs::create_dir(site.recordings()).unwrap();
        site.write(&[]);
        fs::write(site.recordings().join(".env"), site.text(&[])).unwrap();
        site
    }

    fn recordings(&self) -> PathBuf {
        self.folder.path().join("recordings")
    }

    fn text(&self, more: &[(&str, &str)]) -> String {
        let (port, recordings) = (self.port.to_string(), self.recordings());
        let usual = [
            ("HA_RUNTIME", "process"),
            ("HA_CONTROLLER_HOST", "127.0.0.1"),
            ("HA_CONTROLLER_PORT", &port),
            ("HA_LISTEN_ADDRESS", "127.0.0.1"),
            ("HA_CONTROLLER_USERNAME", "recorder"),
            ("HA_CONTROLLER_PASSWORD", "a-long-password"),
            ("OPENVIDU_RECORDING_PATH", recordings.to_str().unwrap()),
        ];
        let kept = usual
            .iter()
            .filter(|(name, _)| more.iter().all(|(other, _)| other != name));
        let all = kept.chain(more);
        all.map(|(name, value)| format!("{name}='{value}'\n"))
            .collect()
    }

    fn write(&self, more: &[(&str, &str)]) {
        fs::write(self.env(), self.text(more)).unwrap();
    }

    fn env(&self) -> PathBuf {
        self.folder.path().join("own.env")
    }

    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = bare(PROGRAM);
        command.args(arguments).arg("--env-file").arg(self.env());
        command
    }

    /// The checks, and what was printed.
    fn validated(&self, more: &[&str]) -> (Vec<Value>, String) {
        let arguments = [&["validate", "--json"], more].concat();
        let output = self.program(&arguments).output().unwrap();
        let told = said(&output);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (
            report["checks"].as_array().cloned().unwrap_or_default(),
            told,
        )
    }

    /// How the checks of that name came out, and their words.
    fn outcomes(&self, name: &str, more: &[&str]) -> Vec<(String, String)> {
        let (checks, told) = self.validated(more);
        assert!(!checks.is_empty(), "{told}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let named = checks.iter().filter(|check| check["name"] == name);
        named
            .map(|check| (text(&check["outcome"]), text(&check["finding"])))
            .collect()
    }

    fn finds(&self, name: &str, outcome: &str, words: &str, more: &[&str]) {
        let found = self.outcomes(name, more);
        let is_there = found
            .iter()
            .any(|(how, finding)| how == outcome && finding.contains(words));
        assert!(
            is_there,
            "{name} is not {outcome} with {words:?}: {found:?}"
        );
    }

    fn serve(&self) -> Served {
        let mut command = self.program(&["serve"]);
        let child = command
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Served(child.unwrap())
    }
}

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_serve_would_refuse_and_recorders_would_miss_is_found_before() {
    let site = Site::new();
    site.finds("host", "good", "127.0.0.1", &[]);
    site.finds("recorders", "good", "opens the service", &[]);
    site.finds("store", "good", "recordings", &[]);

    let broken = site.folder.path().join("broken.pem");
    fs::write(&broken, "no certificate\n").unwrap();
    let broken = broken.to_str().unwrap();
    let own = format!("http://127.0.0.1:{}/openvidu/webhook", site.port);
    for (settings, name, words) in [
        (
            &[("HA_CONTROLLER_HOST", "no-such-host.invalid")][..],
            "host",
            "cannot be resolved",
        ),
        (
            &[("HA_CONTROLLER_HOST", "http://127.0.0.1")],
            "settings",
            "without scheme and port",
        ),
        (
            &[("HA_TLS_CERT", broken), ("HA_TLS_KEY", broken)],
            "certificate",
            "broken.pem",
        ),
        (
            &[("HA_CONTROLLER_CA", "/no/such.pem")],
            "authorities",
            "HA_CONTROLLER_CA",
        ),
        (
            &[("OPENVIDU_WEBHOOK_ENDPOINT", own.as_str())],
            "webhook",
            "this controller itself",
        ),
        (
            &[("HA_CONTROLLER_PASSWORD", "another-password")],
            "recorders",
            "another account or token",
        ),
    ] {
        site.write(settings);
        site.finds(name, "bad", words, &[]);
    }
    site.write(&[]);

    fs::write(site.recordings().join(".env"), "HA_CONTROLLER_PORT=often\n").unwrap();
    site.finds("recorders", "bad", "HA_CONTROLLER_PORT=often", &[]);
    // A recorder finds the recordings folder below another name.
    let narrow = site.text(&[("HA_CONTROLLER_PASSWORD", "")])
        + "HA_CONTROLLER_PASSWORD_FILE=/recordings/.password\n";
    fs::write(site.recordings().join(".env"), narrow).unwrap();
    site.finds("recorders", "bad", "HA_CONTROLLER_PASSWORD_FILE", &[]);
    fs::write(site.recordings().join(".password"), "a-long-password\n").unwrap();
    site.finds("recorders", "good", "opens the service", &[]);

    fs::remove_file(site.recordings().join(".password")).unwrap();
    fs::remove_file(site.recordings().join(".env")).unwrap();
    site.finds("recorders", "bad", "is missing", &[]);

    fs::remove_dir(site.recordings()).unwrap();
    for _ in 0..2 {
        site.finds("recordings", "bad", "is not a folder", &[]);
        site.finds("store", "skipped", "no recordings folder", &[]);
        assert!(!site.recordings().exists(), "validate made the folder");
    }
}

#[test]
fn a_built_in_store_of_before_is_where_every_command_looks() {
    let site = Site::new();
    let port = free_port().to_string();
    site.write(&[
        ("HA_RECORDING_STORAGE", "s3"),
        ("HA_AWS_ACCESS_KEY", KEY),
        ("HA_AWS_SECRET_KEY", KEYS_SECRET),
        ("MINIO_API_PORT", &port),
    ]);
    let data = site.folder.path().join("data");
    fs::create_dir_all(data.join("s3")).unwrap();
    let data = ["--data-dir", data.to_str().unwrap()];
    site.finds(
        "store",
        "skipped",
        "the built-in S3 server runs with the service",
        &data,
    );
    for command in ["test-s3", "recover"] {
        let output = site
            .program(&[&[command], &data[..]].concat())
            .output()
            .unwrap();
        let told = said(&output);
        assert!(!output.status.success(), "{told}");
        // Nobody listens there; at AWS nobody could be found.
        let is_here = told.contains("Connection refused") && !told.contains("AWS");
        assert!(is_here, "{command}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_told_and_not_made() {
    let (site, objects) = (Site::new(), tempfile::tempdir().unwrap());
    let server = Server::start(objects.path(), None).await;
    let settings = [
        ("HA_RECORDING_STORAGE", "s3"),
        ("HA_AWS_S3_SERVICE_ENDPOINT", server.endpoint.as_str()),
        ("HA_AWS_S3_BUCKET", "of-nobody"),
        ("HA_AWS_ACCESS_KEY", KEY),
        ("HA_AWS_SECRET_KEY", KEYS_SECRET),
    ];
    site.write(&settings);
    tokio::task::block_in_place(|| site.finds("store", "warning", "is missing", &[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn recorders_reach_a_controller_with_a_certificate_of_its_own() {
    let site = Site::new();
    let of = |name: &str| site.folder.path().join(name);
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=recorder",
        ])
        .args(["-out".as_ref(), of("tls.pem").as_os_str()])
        .args(["-keyout".as_ref(), of("tls.key").as_os_str()])
        .output();
    assert!(made.unwrap().status.success());
    let (certificate, key) = (of("tls.pem"), of("tls.key"));
    site.write(&[
        ("HA_TLS_CERT", certificate.to_str().unwrap()),
        ("HA_TLS_KEY", key.to_str().unwrap()),
    ]);
    let place = openvidu(
        site.folder.path(),
        "openvidu/openvidu-server:2.32.2",
        "OPENVIDU_WEBHOOK=false",
    );
    let mut install = site.program(&["install", "--auto", "--without-service", "--without-image"]);
    let installed = install
        .arg(&place)
        .arg("--data-dir")
        .arg(of("data"))
        .output()
        .unwrap();
    assert!(installed.status.success(), "{}", said(&installed));
    let _served = site.serve();
    until_true("recorders that are let in", SOON, || {
        let found = site.outcomes("recorders", &[]);
        found
            .iter()
            .any(|(how, finding)| how == "good" && finding.contains("they reach the controller"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_the_controller_is_not_reached_is_told_as_it_is() {
    let site = Site::new();
    let ask = |command: &str| {
        let output = site.program(&[command]).output().unwrap();
        (output.status.code(), said(&output))
    };
    let (code, told) = ask("health");
    assert!(
        code == Some(69) && told.contains("nobody answers"),
        "{told}"
    );

    let of = |name: &str| site.folder.path().join(name);
    for name in ["one", "two"] {
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=any",
            ])
            .args(["-out".as_ref(), of(&format!("{name}.pem")).as_os_str()])
            .args(["-keyout".as_ref(), of(&format!("{name}.key")).as_os_str()])
            .output();
        assert!(made.unwrap().status.success());
    }
    let with = |name: &str| {
        let (certificate, key) = (of(&format!("{name}.pem")), of(&format!("{name}.key")));
        site.write(&[
            ("HA_TLS_CERT", certificate.to_str().unwrap()),
            ("HA_TLS_KEY", key.to_str().unwrap()),
        ]);
    };
    with("one");
    let _served = site.serve();
    until_true("a controller with a certificate", SOON, || {
        ask("health").0 == Some(0)
    })
    .await;
    with("two");
    let (code, told) = ask("health");
    assert!(code == Some(69) && told.contains("certificate"), "{told}");
    site.write(&[]);
    let (code, told) = ask("health");
    assert!(
        code == Some(69) && !told.contains("nobody answers"),
        "{told}"
    );
}

#[test]
fn what_openvidu_s_folder_says_otherwise_is_found() {
    let site = Site::new();
    let place = openvidu(
        site.folder.path(),
        "openvidu/openvidu-server:2.32.2",
        "OPENVIDU_WEBHOOK=true\nOPENVIDU_WEBHOOK_ENDPOINT=http://127.0.0.1:15443/openvidu/webhook",
    );
    let named = [place.to_str().unwrap()];
    site.finds("deployment", "good", "2.32.2", &named);
    let env = fs::read_to_string(place.join(".env")).unwrap();
    for (line, outcome, words) in [
        (
            "OPENVIDU_RECORDING_PUBLIC_ACCESS=true",
            "bad",
            "everyone can read",
        ),
        (
            "OPENVIDU_RECORDING_VERSION=2.31.0",
            "bad",
            "openvidu-recording:2.31.0",
        ),
        (
            "OPENVIDU_RECORDING_PATH=/elsewhere",
            "bad",
            "records to /elsewhere",
        ),
        (
            "OPENVIDU_WEBHOOK=false",
            "warning",
            "does not post its webhooks here",
        ),
        ("OPENVIDU_RECORDING=false", "warning", "records nothing yet"),
    ] {
        fs::write(place.join(".env"), format!("{env}{line}\n")).unwrap();
        site.finds("deployment", outcome, words, &named);
    }
    fs::remove_file(place.join(".env")).unwrap();
    site.finds("deployment", "bad", "cannot read", &named);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_openvidu_serves_to_everyone_are_told_by_health_and_validate() {
    for is_public in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let recordings = folder.path().join("recordings");
        let rest = Rest::serve().await.over(&recordings);
        if is_public {
            rest.serve_recordings_to_everyone();
        }
        let settings = [
            ("HA_RUNTIME", "process"),
            ("OPENVIDU_URL", &rest.url()),
            ("OPENVIDU_SECRET", SECRET),
        ];
        let mut controller =
            Controller::start(Path::new(PROGRAM), folder.path(), &recordings, &settings).await;
        let validate = || {
            let output = Command::new(PROGRAM)
                .args(["validate", "--env-file"])
                .arg(folder.path().join("controller.env"))
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let told = tokio::task::block_in_place(validate);
        assert_eq!(told.contains("to everyone"), is_public, "{told}");
        let health = || async { controller.get("/actuator/health").await };
        if is_public {
            crate::support::wait::until("health that tells", SOON, || async {
                let found = health().await;
                (found["components"]["settings"]["status"] == "DOWN").then_some(())
            })
            .await;
            let worries = controller.get("/api/worries").await.to_string();
            assert!(
                worries.contains("OPENVIDU_RECORDING_PUBLIC_ACCESS"),
                "{worries}"
            );
        } else {
            assert_eq!(health().await["components"]["settings"], Value::Null);
        }
        controller.stop().await;
    }
}
