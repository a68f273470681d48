//! The interface against its own description: schemathesis makes requests of it, right and wrong ones, and judges every
//! answer. None may be a server's error, none may be of a kind that the description does not name, and what the description
//! forbids must be refused.

use crate::support::controller::{Controller, USER};
use crate::support::stage::leave_out;
use reqwest::Method;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Requests that schemathesis makes up for each operation, beside those that it derives from the description.
const EXAMPLES: &str = "30";

/// What a query holds beyond what is asked for is nobody's business: pages add numbers against caches. Whether a session is
/// active is answered for one that was removed too, as earlier clients expect; and so do they that a registration under a live
/// recording's id is 400.
const SETTINGS: &str = r#"
[generation]
allow-extra-parameters = false

[[operations]]
include-path = "/api/sessions/{id}/active"
checks.use_after_free.enabled = false

[[operations]]
include-path = "/api/sessions"
checks.positive_data_acceptance.enabled = false
"#;

async fn controller(folder: &Path) -> Controller {
    let settings = [
        ("HA_RUNTIME", "process"),
        ("SPRING_PROFILES_ACTIVE", "test"),
        ("SWAGGER_ENABLED", "true"),
    ];
    let binary = Path::new(env!("CARGO_BIN_EXE_ov2-ha-recorder"));
    let recordings = folder.join("recordings");
    Controller::start(binary, &folder.join("state"), &recordings, &settings).await
}

#[tokio::test]
async fn every_answer_is_as_the_description_says() {
    let folder = tempfile::tempdir().unwrap();
    let controller = controller(folder.path()).await;
    std::fs::write(folder.path().join("schemathesis.toml"), SETTINGS).unwrap();
    let run = Command::new("schemathesis")
        .arg("run")
        .arg(controller.url("/v3/api-docs"))
        .args(["--auth", &format!("{USER}:{}", controller.password)])
        .args(["--phases", "examples,coverage,fuzzing,stateful"])
        .args(["--max-examples", EXAMPLES, "--seed", "1"])
        // It does not end.
        .args(["--exclude-path", "/api/events"])
        // Wrong passwords are refused for a minute after ten: the next test looks at each operation without one.
        .args(["--exclude-checks", "ignored_auth"])
        .args(["--request-timeout", "10", "--generation-database", "none"])
        .args(["--continue-on-failure", "--no-color"])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let run = match run {
        Ok(run) => run,
        Err(cause) => {
            let why = format!("schemathesis is missing (packaging/test installs it): {cause}");
            return leave_out("every_answer_is_as_the_description_says", &why);
        }
    };
    let told = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{told}");
    let log = controller.log();
    for fault in ["a fault in the program", "has no answer", "panicked"] {
        assert!(!log.contains(fault), "{log}");
    }
    let cases = told.lines().find(|line| line.contains("generated"));
    println!("schemathesis:{}", cases.unwrap_or_default());
}

#[tokio::test]
async fn every_operation_that_is_not_open_asks_for_the_account() {
    let folder = tempfile::tempdir().unwrap();
    let controller = controller(folder.path()).await;
    let second = Duration::from_secs(1);
    let client = ov2_ha_recorder::outbound::client(second, 10 * second).unwrap();
    let document = controller.get("/v3/api-docs").await;
    let mut guarded = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let open = operation["security"]
                .as_array()
                .is_some_and(|ways| ways.contains(&serde_json::json!({})));
            let method: Method = method.to_uppercase().parse().unwrap();
            let url = controller.url(&path.replace(['{', '}'], ""));
            let answer = client.request(method.clone(), url).send().await.unwrap();
            let refused = answer.status() == 401;
            assert_eq!(refused, !open, "{method} {path}: {}", answer.status());
            if refused {
                let asked = answer.headers()["www-authenticate"].to_str().unwrap();
                assert!(asked.starts_with("Basic "), "{asked}");
                guarded += 1;
            }
        }
    }
    assert!(guarded > 30, "only {guarded} operations are guarded");
}
