//! Never worse: targets that are slow, odd or away, names that do not resolve, and a disk that takes no webhook.

use crate::support::controller::free_port;
use crate::support::secrets::said;
use crate::support::target::{Came, Target};
use crate::support::wait::until;
use crate::webhook::{House, client, event, number};
use ov2_ha_recorder::client::{Client, ClientError};
use ov2_ha_recorder::config::Variables;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_ov2-ha-recorder");

#[tokio::test]
async fn a_short_retry_after_does_not_use_up_the_tries() {
    let target = Target::start(0, |_, _| (503, Some("1"))).await;
    let house = House::relaying(&target.url(), &[]).await;
    house.send(&event("s", 0)).await;
    let came = target.has(3).await;
    for pair in came.windows(2) {
        let wait = pair[1].at - pair[0].at;
        assert!(wait > Duration::from_secs(4), "tried again after {wait:?}");
    }
    assert_eq!(house.list("pending").await.len(), 1);
}

#[tokio::test]
async fn only_a_target_that_understood_the_event_ends_its_tries() {
    let target = Target::start(0, |_, came| (number(came) as u16, None)).await;
    let house = House::relaying(&target.url(), &[]).await;
    let (retried, refused) = ([302, 401, 403, 404, 500], [400, 410, 413, 422]);
    for status in retried.iter().chain(&refused) {
        house.send(&event(&format!("s{status}"), *status)).await;
    }
    house.has("dead", refused.len()).await;
    target.has(retried.len() + refused.len()).await;
    let pending = house.has("pending", retried.len()).await;
    let counted = until(
        "the tries are written down",
        Duration::from_secs(10),
        || async {
            let list = house.list("pending").await;
            list.iter()
                .all(|it| it["firstAt"].is_string())
                .then_some(list)
        },
    );
    assert_eq!(counted.await.1.len(), pending.len());
}

#[tokio::test]
async fn an_event_that_is_not_taken_holds_its_session_for_half_a_minute_and_follows_late() {
    let late = |came: &Came| came.headers.contains_key("x-relay-late");
    let of = |came: &Came, session: &str| {
        let event: serde_json::Value = serde_json::from_slice(&came.body).unwrap();
        event["sessionId"] == session
    };
    let target = Target::start(0, move |_, came| match number(came) {
        0 if of(came, "asks for time") && !late(came) => (503, Some("35")),
        0 if !late(came) => (404, None),
        _ => (200, None),
    })
    .await;
    let house = House::relaying(&target.url(), &[]).await;
    let sessions = ["never takes it", "asks for time"];
    for session in sessions {
        for number in 0..2 {
            house.send(&event(session, number)).await;
        }
    }
    let (_, came) = until("both are delivered", Duration::from_secs(60), || async {
        let came = target.came();
        let second = |session: &str| came.iter().any(|it| number(it) == 1 && of(it, session));
        let done = sessions.iter().all(|it| second(it)) && came.iter().any(late);
        done.then_some(came)
    })
    .await;
    let begin = came[0].at;
    let next = |session: &str| {
        let next = came.iter().find(|it| number(it) == 1 && of(it, session));
        next.unwrap().at - begin
    };
    let held = next("never takes it");
    assert!(held > Duration::from_secs(25), "{held:?}");
    assert!(held < Duration::from_secs(40), "{held:?}");
    let free = next("asks for time");
    assert!(free < Duration::from_secs(10), "{free:?}");
    let late = came.iter().find(|it| late(it)).unwrap();
    assert!(of(late, "asks for time") && number(late) == 0);
    assert!(late.at - begin >= Duration::from_secs(34));
    assert_eq!(late.headers["x-relay-late"], "true");
}

/// A certificate and its key, made as the manuals say; `more` are further arguments.
pub(super) fn certificate(folder: &Path, more: &[&str]) -> (PathBuf, PathBuf) {
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-nodes"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(more)
        .arg("-out")
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", said(&made));
    (certificate, key)
}

#[tokio::test]
async fn a_recorder_reaches_a_controller_whose_certificate_is_in_the_file_of_authorities() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(folder.path(), &["-subj", "/CN=controller"]);
    let door = Target::secure(&certificate, &key).await;
    let (port, file) = (door.port.to_string(), certificate.to_str().unwrap());
    let answer = |name: &'static str| {
        let settings = Variables::of([
            ("HA_CONTROLLER_HOST", "127.0.0.1"),
            ("HA_CONTROLLER_PORT", &port),
            ("HA_TLS_CERT", file),
            ("HA_TLS_KEY", file),
            (name, file),
        ]);
        let client = Client::new(&settings.settings().unwrap()).unwrap();
        async move { client.read("/actuator/health").await }
    };
    for name in ["HA_CA_FILE", "HA_CONTROLLER_CA"] {
        let answered = answer(name).await;
        assert!(
            !matches!(answered, Err(ClientError::Unreachable { .. })),
            "{name}: {answered:?}"
        );
    }
    let strict = answer("HA_AWS_REGION").await;
    assert!(matches!(strict, Err(ClientError::Unreachable { .. })));
}

fn secure(target: &Target) -> String {
    format!("https://127.0.0.1:{}/hook", target.port)
}

#[tokio::test]
async fn a_targets_own_certificate_is_trusted_where_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(folder.path(), &["-subj", "/CN=hooks"]);
    let target = Target::secure(&certificate, &key).await;
    let strict = House::relaying(&secure(&target), &[]).await;
    strict.send(&event("s", 0)).await;
    let (_, refused) = until("it is refused", Duration::from_secs(20), || async {
        let list = strict.list("pending").await;
        list.first()?["lastError"].as_str().map(str::to_owned)
    })
    .await;
    assert!(refused.contains("certificate"), "{refused}");
    assert!(target.came().is_empty());

    let named = [("HA_CA_FILE", certificate.to_str().unwrap())];
    let house = House::relaying(&secure(&target), &named).await;
    house.send(&event("s", 1)).await;
    assert_eq!(number(&target.has(1).await[0]), 1);
}

#[tokio::test]
async fn no_certificate_is_checked_where_the_setting_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(
        folder.path(),
        &[
            "-subj",
            "/CN=other.example",
            "-days",
            "1",
            "-addext",
            "subjectAltName=DNS:other.example",
        ],
    );
    let target = Target::secure(&certificate, &key).await;
    let open = [("HA_WEBHOOK_TLS_VERIFY", "false")];
    let house = House::relaying(&secure(&target), &open).await;
    house.send(&event("s", 0)).await;
    target.has(1).await;
}

#[tokio::test]
async fn a_file_of_authorities_that_cannot_be_read_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "no certificate").unwrap();
    for file in [empty, folder.path().join("none.pem")] {
        let port = free_port().to_string();
        let ended = tokio::process::Command::new(BINARY)
            .arg("serve")
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .current_dir(folder.path())
            .envs([("HA_RUNTIME", "process"), ("HA_CONTROLLER_PORT", &port)])
            .envs([
                ("HA_CONTROLLER_USERNAME", "u"),
                ("HA_CONTROLLER_PASSWORD", "p"),
            ])
            .env("OPENVIDU_RECORDING_PATH", folder.path())
            .env("HA_CA_FILE", &file)
            .kill_on_drop(true)
            .output();
        let ended = tokio::time::timeout(Duration::from_secs(20), ended);
        let ended = ended.await.expect("it runs").unwrap();
        let message = said(&ended);
        assert_eq!(ended.status.code(), Some(78), "{message}");
        assert!(message.contains("HA_CA_FILE"), "{message}");
    }
}

/// A program that runs ours in mounts of its own, which are gone with it; `mounts` are lines of shell.
fn in_own_mounts(folder: &TempDir, mounts: &str) -> PathBuf {
    let script = folder.path().join("run");
    let text = format!(
        "#!/bin/sh\nset -e\n[ -n \"$INSIDE\" ] || INSIDE=1 exec unshare -m --propagation private \"$0\" \"$@\"\n{mounts}\nexec {BINARY} \"$@\"\n"
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

#[tokio::test]
async fn names_resolve_by_the_hosts_file_whatever_resolv_conf_holds_and_changes_are_seen() {
    let target = Target::agreeable().await;
    for odd in [
        "",
        "nameserver\noptions no-such-option ndots:x\n\u{fffd} trailing",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (hosts, resolver) = (folder.path().join("hosts"), folder.path().join("resolv"));
        fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
        fs::write(&resolver, odd).unwrap();
        let mounts = format!(
            "mount --bind {} /etc/hosts\nmount --bind {} /etc/resolv.conf",
            hosts.display(),
            resolver.display()
        );
        let targets = format!(
            "http://localhost:{port}/hook,http://target.test:{port}/hook",
            port = target.port
        );
        let house = House::of(&in_own_mounts(&folder, &mounts), &targets, &[]).await;
        let before = target.came().len();
        house.send(&event("s", 0)).await;
        target.has(before + 1).await;
        house.has("delivered", 1).await;
        fs::write(&hosts, "127.0.0.1 localhost target.test\n").unwrap();
        target.has(before + 2).await;
        house.has("delivered", 2).await;
    }
}

/// A service whose data folder is full, once it runs.
async fn with_a_full_disk(folder: &TempDir, targets: &str, relay: &str) -> House {
    let mounts = r#"while [ $# -gt 0 ] && [ -z "$data" ]; do case "$1" in --data-dir) data=$2;; esac; args="$args $1"; shift; done
args="$args $*"; mkdir -p "$data"; mount -t tmpfs -o size=4m none "$data"; set -- $args"#;
    let program = in_own_mounts(folder, mounts);
    let house = House::of(&program, targets, &[("OPENVIDU_WEBHOOK", relay)]).await;
    let data = house.controller.folder.join("data");
    let inside = format!(
        "/proc/{}/root{}",
        house.controller.process(),
        data.display()
    );
    let full = Command::new("dd")
        .args(["if=/dev/zero", "bs=4k"])
        .arg(format!("of={inside}/filler"))
        .output()
        .unwrap();
    assert!(!full.status.success(), "the disk is not full");
    house
}

#[tokio::test]
async fn a_webhook_that_the_disk_does_not_take_is_delivered_while_openvidu_waits() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::start(
        0,
        |count, _| if count == 0 { (503, None) } else { (200, None) },
    )
    .await;
    let house = with_a_full_disk(&folder, &target.url(), "true").await;
    for number in 0..3 {
        house.send(&event("s", number)).await;
    }
    let came = target.has(4).await;
    let taken = came.iter().skip(1).map(number).collect::<Vec<_>>();
    assert_eq!(taken, [0, 1, 2], "each once, in order");
    let again = tempfile::tempdir().unwrap();
    let house = with_a_full_disk(&again, "", "false").await;
    house.send(&event("s", 0)).await;
}

#[tokio::test]
async fn a_webhook_that_can_neither_be_kept_nor_delivered_is_left_without_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let away = format!("http://127.0.0.1:{}/hook", free_port());
    let house = with_a_full_disk(&folder, &away, "true").await;
    let begin = Instant::now();
    let sent = client()
        .post(house.controller.url("/openvidu/webhook"))
        .json(&event("s", 0))
        .send()
        .await;
    let took = begin.elapsed();
    let broken = sent.expect_err("the connection is closed without an answer");
    assert!(!broken.is_timeout(), "{broken}");
    assert!(took > Duration::from_secs(8), "{took:?}");
    assert!(took < Duration::from_secs(12), "{took:?}");
    let health = house.controller.get("/openvidu/webhook").await;
    assert_eq!(health["status"], "healthy", "other requests are answered");
}
