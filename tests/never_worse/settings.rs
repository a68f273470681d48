//! Never worse: settings as people write them. `serve` is strict and says everything at once; a recorder records with what
//! it understands and tells the rest. Each text here is read by the real program, and by `bash` and `docker compose` too.

use crate::record::{Stage, has_trouble, program};
use crate::support::controller::Controller;
use crate::support::secrets;
use crate::support::stage::leave_out;
use ov2_ha_recorder::config::Variables;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// As the earlier project's installer writes it: the relay is on and has no target.
const EARLIER: &str = "HA_RECORDING_STORAGE=s3\nCHUNK_FOLDER=/chunks\nHA_AWS_S3_SERVICE_ENDPOINT=http://127.0.0.1:9\nHA_AWS_S3_BUCKET=recordings\nHA_AWS_ACCESS_KEY=some-access\nHA_AWS_SECRET_KEY=some-secret\nMINIO_API_PORT=9000\nMINIO_CONSOLE_PORT=9001\nHA_CONTROLLER_USERNAME=recorder\nHA_CONTROLLER_PASSWORD=some-password\nHEARTBEAT_INTERVAL=10\nOPENVIDU_WEBHOOK=true\nOPENVIDU_WEBHOOK_ENDPOINT=\nIMAGE_TAG=2.31.0\n";

/// Names that only the earlier project knew, and one that is mistyped.
const EARLIER_NAMES: &str = "HA_FAILOVER_HEARTBEAT_TIMEOUT=120\nHA_FAILOVER_STUCK_CHUNK_TIMEOUT=60\nHA_AWS_S3_REGION=eu-west-1\nHA_S3_CLEANUP_ASYNC=true\nHA_CONTROLLER_URL=http://localhost:15443\nHA_KEEP_CHUNK_DAYS=3\n";

/// What each line of the earlier names is answered with.
const ANSWERS: [&str; 5] = [
    "HA_FAILOVER_HEARTBEAT_TIMEOUT is set and not used",
    "HA_FAILOVER_STUCK_CHUNK_TIMEOUT is set and not used",
    "HA_S3_CLEANUP_ASYNC is set and not used",
    "HA_CONTROLLER_URL is set and not used",
    "did you mean HA_KEEP_CHUNKS_DAYS?",
];

/// Texts that `bash` and Compose read alike, with what they make of `A`.
const ALIKE: [(&str, &str); 21] = [
    ("A=b", "b"),
    ("export A=b", "b"),
    ("A=", ""),
    ("A=b\t# note", "b"),
    ("A=b # it's the \"short\" one'", "b"),
    ("A=b#c", "b#c"),
    ("A=\"b\" # not the \"c\" of d", "b"),
    ("A='b' # it's the team's", "b"),
    ("A='b' # don't", "b"),
    ("A=\"b # c\"", "b # c"),
    ("A='b # c'", "b # c"),
    ("A=\"b\\\"c\"", "b\"c"),
    ("A='[\"Name: value\"]'", "[\"Name: value\"]"),
    ("A=\"['Name: value']\"", "['Name: value']"),
    ("A=abc${no_such}", "abc"),
    ("A='abc$def'", "abc$def"),
    ("B=10.0.0.5\nA=http://${B}:9000", "http://10.0.0.5:9000"),
    ("A=\"${OUTSIDE}:1\"", "out:1"),
    ("A=1\nA=2", "2"),
    ("# A=1\nA=2", "2"),
    ("A=2 \t", "2"),
];

/// What `bash` reads so, and the first Compose does not: it takes `$NAME` without braces, and a comment where no value is,
/// as they stand.
const SHELL: [(&str, &str); 10] = [
    ("A=   # note", ""),
    ("A=abc$def", "abc"),
    ("A=$OUTSIDE.x", "out.x"),
    ("A=${no_such:-d}", "d"),
    ("A=${no_such-d}", "d"),
    ("A=${OUTSIDE:+d}", "d"),
    ("A=b\\$c", "b$c"),
    ("A=\"b\\$c\"", "b$c"),
    ("A='it'\\''s'", "it's"),
    ("A=\"C:\\path\"", "C:\\path"),
];

#[test]
fn a_line_is_read_as_bash_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    for (text, meant) in ALIKE.iter().chain(&SHELL) {
        let file = written(&folder, text);
        let said = Command::new("bash")
            .args(["-c", "set -a; . \"$1\"; printf %s \"$A\"", "bash"])
            .arg(&file)
            .env_clear()
            .env("OUTSIDE", "out")
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&said.stdout),
            *meant,
            "bash: {text:?}"
        );
        assert_eq!(ours(&file), *meant, "{text:?}");
    }
}

#[test]
fn a_line_is_read_as_compose_reads_it() {
    // Debian has the first Compose only.
    let folder = tempfile::tempdir().unwrap();
    if Command::new("docker-compose")
        .arg("version")
        .output()
        .is_err()
    {
        return leave_out("a_line_is_read_as_compose", "there is no docker-compose");
    }
    let compose = folder.path().join("compose.yml");
    fs::write(
        &compose,
        "version: '3'\nservices:\n  a:\n    image: a\n    environment:\n      A: \"=${A}=\"\n",
    )
    .unwrap();
    for (text, meant) in &ALIKE {
        let file = written(&folder, text);
        let said = Command::new("docker-compose")
            .arg("--env-file")
            .arg(&file)
            .arg("-f")
            .arg(&compose)
            .arg("config")
            .env("OUTSIDE", "out")
            .env_remove("A")
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&said.stdout)
            .replace("$$", "$")
            .replace("''", "'");
        assert!(
            said.replace("\\\"", "\"").contains(&format!("={meant}=")),
            "{text:?}: {said}"
        );
        assert_eq!(ours(&file), *meant, "{text:?}");
    }
}

#[test]
fn marks_of_windows_and_tabs_before_comments_change_no_value() {
    for text in [
        "\u{feff}HA_CONTROLLER_HOST=10.0.0.5\r\nHEARTBEAT_INTERVAL=7\r\nHA_AWS_S3_SERVICE_ENDPOINT=\r\n",
        "HA_CONTROLLER_HOST=10.0.0.5\t# here\nHEARTBEAT_INTERVAL=7\t# seconds\nHA_AWS_S3_SERVICE_ENDPOINT=\t# none\n",
        "export HA_CONTROLLER_HOST=\"10.0.0.5\" # not \"b\"\nHEARTBEAT_INTERVAL='7' # it's\nHA_AWS_S3_SERVICE_ENDPOINT=      # only for MinIO\n",
    ] {
        let (code, rows, said) = config(text, &[]);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(rows["HA_CONTROLLER_HOST"], "10.0.0.5");
        assert_eq!(rows["HEARTBEAT_INTERVAL"], "7");
        assert_eq!(rows["HA_AWS_S3_SERVICE_ENDPOINT"], Value::Null);
    }
}

#[test]
fn the_earlier_projects_settings_are_right_and_what_does_nothing_is_named() {
    let (code, rows, said) = config(&format!("{EARLIER}{EARLIER_NAMES}"), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(rows["HA_AWS_REGION"], "eu-west-1");
    let answers = ANSWERS
        .iter()
        .chain(&["the relay is off", "MINIO_CONSOLE_PORT is set and not used"]);
    for answer in answers {
        let is_it = |line: &str| line.starts_with("warning: ") && line.contains(*answer);
        assert!(said.lines().any(is_it), "{answer}: {said}");
    }
}

#[test]
fn headers_are_taken_as_openvidu_takes_them() {
    let (code, _, said) = config(
        "OPENVIDU_WEBHOOK_ENDPOINT=http://x\nOPENVIDU_WEBHOOK_HEADERS=['Authorization: Basic abc']\n",
        &[],
    );
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_variable_that_is_no_utf_8_is_a_fault_only_where_it_is_a_setting() {
    let odd = OsStr::from_bytes(b"a\xff");
    let (code, _, said) = config("", &[(OsStr::new("OTHER"), odd), (odd, odd)]);
    assert_eq!(code, Some(0), "{said}");
    let (code, _, said) = config("", &[(OsStr::new("HA_AWS_REGION"), odd)]);
    assert_eq!(code, Some(78), "{said}");
    assert!(
        said.contains("HA_AWS_REGION: its value is not UTF-8"),
        "{said}"
    );
}

#[test]
fn serve_tells_a_line_that_is_none_together_with_all_other_faults() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(
        &folder,
        "this is no line\nCHUNK_TIME_SIZE=0\nHA_CONTROLER_PASSWORD=x\nHA_CA_FILE=/no/such.pem\nHA_WEBHOOK_TOKEN=x\nHA_WEBHOOK_TOKEN_FILE=/no/such\n",
    );
    let said = Command::new(program())
        .args(["serve", "--env-file"])
        .arg(&file)
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .env_clear()
        .output()
        .unwrap();
    let text = secrets::said(&said);
    assert_eq!(said.status.code(), Some(78), "{text}");
    for part in [
        "a.env:1: expected NAME=value",
        "CHUNK_TIME_SIZE=0",
        "HA_CONTROLLER_PASSWORD: required",
        "did you mean HA_CONTROLLER_PASSWORD?",
        "HA_CA_FILE=/no/such.pem",
        "HA_WEBHOOK_TOKEN and HA_WEBHOOK_TOKEN_FILE are both set; the file is not read",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_starts_with_names_that_do_nothing_and_a_relay_without_target() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = vec![
        ("HA_RUNTIME", "process"),
        ("OPENVIDU_WEBHOOK", "true"),
        ("OPENVIDU_WEBHOOK_ENDPOINT", ""),
    ];
    settings.extend(
        EARLIER_NAMES
            .lines()
            .filter_map(|line| line.split_once('=')),
    );
    let recordings = folder.path().join("recordings");
    let controller = Controller::start(&program(), folder.path(), &recordings, &settings).await;
    for answer in ANSWERS.iter().chain(&["the relay is off"]) {
        assert!(
            controller.log().contains(answer),
            "{answer}: {}",
            controller.log()
        );
    }
    let status = controller.get("/openvidu/webhook/status").await;
    assert_eq!(status["enabled"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_records_with_the_earlier_installers_settings() {
    let stage = Stage::set("ses_earlier").await;
    fs::write(
        stage.folder.path().join(".env"),
        format!("{EARLIER}{EARLIER_NAMES}"),
    )
    .unwrap();
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(2)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    assert!(stage.log().contains("the relay is off"), "{}", stage.log());
    stage.is_what_openvidu_expects();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_records_whatever_is_wrong_with_its_settings_and_tells_each_fault() {
    let mut stage = Stage::set("ses_wrong").await;
    let watch = stage.watched().await;
    let wrong = [
        ("HEARTBEAT_INTERVAL", "soon"),
        ("CHUNK_FOLDER", "../.."),
        ("HA_RECORDING_STORAGE", "s3"),
        ("HA_AWS_S3_BUCKET", "No Bucket"),
        ("HA_AWS_ACCESS_KEY", "half"),
        ("HA_CA_FILE", "/no/such.pem"),
        ("HA_WEBHOOK_TOKEN_FILE", "/no/such/token"),
        ("RECORDING_JSON", "{"),
        ("FRAMERATE", "25.0"),
        ("RESOLUTION", "large"),
        ("ONLY_VIDEO", "perhaps"),
    ];
    stage
        .settings
        .extend(wrong.map(|(name, value)| (name, value.to_owned())));
    let file = b"# f\xfcr alle\nthis is no line\nHA_GAP_MODE=\"cut\nHA_LOG_FORMAT=loud\n";
    fs::write(stage.folder.path().join(".env"), file).unwrap();
    let mut recorder = stage.start().await;
    let told = |report: &Value| {
        let named = [
            "CHUNK_FOLDER",
            "RESOLUTION",
            ".env:2",
            ".env:3",
            "HA_LOG_FORMAT",
            "HA_AWS_S3_BUCKET",
        ];
        wrong
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| !["HA_RECORDING_STORAGE"].contains(name))
            .chain(named)
            .all(|name| has_trouble(report, "settings", name))
    };
    watch.sees("every fault of the settings", told).await;
    recorder.grows_for(Duration::from_secs(2)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    for part in [
        "CHUNK_FOLDER=../..",
        "FRAMERATE=25.0",
        "chunks stay in the recordings folder",
    ] {
        assert!(stage.log().contains(part), "{part}: {}", stage.log());
    }
    assert_eq!(stage.footage().decode_errors, Vec::<String>::new());
}

fn written(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    let file = folder.path().join("a.env");
    fs::write(&file, format!("{text}\n")).unwrap();
    file
}

/// What this program makes of `A` in `file`.
fn ours(file: &Path) -> String {
    let variables = Variables::of([("OUTSIDE", "out")]).over_file(file);
    variables.well_formed().unwrap();
    variables.get("A").unwrap_or_default()
}

/// What `config` says of an env file: its exit code, its rows, its warnings and faults.
fn config(
    text: &str,
    environment: &[(&OsStr, &OsStr)],
) -> (Option<i32>, BTreeMap<String, Value>, String) {
    let folder = tempfile::tempdir().unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(program())
        .args(["config", "--json", "--env-file"])
        .arg(written(&folder, text))
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&stdout).unwrap();
    let rows = rows.into_iter().map(|row| {
        let name = row["name"].as_str().unwrap().to_owned();
        (name, row["value"].clone())
    });
    let said = String::from_utf8_lossy(&stderr).into_owned();
    secrets::heard("config", &said);
    (status.code(), rows.collect(), said)
}
