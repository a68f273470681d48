//! `test-api`: goes through the interface of the running controller as clients use it, with a session of its own that is
//! removed again.

use super::api::{Answer, Api};
use super::report::{Check, Form, Report};
use super::{Failure, SettingsFile};
use crate::random;
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

/// Try the running controller's interface with a session of its own.
#[derive(Debug, Args)]
pub(super) struct TestApi {
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    form: Form,
}

/// A request, and what its answer must be.
struct Step {
    name: &'static str,
    method: Method,
    path: String,
    body: Option<Value>,
    status: u16,
    /// A member of the answer and its value, where that matters.
    member: Option<(&'static str, Value)>,
}

impl TestApi {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let api = Api::of(&self.file.settings()?)?;
        let id = format!("ov2-test-{}", random::hex::<6>());
        let mut report = Report::default();
        report.add(without_account(&api).await?);
        for step in steps(&id) {
            let answer = api
                .send(step.method.clone(), &step.path, step.body.clone())
                .await?;
            report.add(judge(&step, &answer));
        }
        report.conclude(self.form)
    }
}

fn steps(id: &str) -> Vec<Step> {
    let own = format!("/api/sessions/{id}");
    let step = |name, method, path: &str, body, status| Step {
        name,
        method,
        path: path.to_owned(),
        body,
        status,
        member: None,
    };
    let with = |step: Step, member, value| Step {
        member: Some((member, value)),
        ..step
    };
    let below = |rest: &str| format!("{own}{rest}");
    let registration = json!({ "sessionId": id, "clientId": "test-api" });
    vec![
        with(
            step("health", Method::GET, "/api/sessions/health", None, 200),
            "status",
            json!("healthy"),
        ),
        with(
            step(
                "register",
                Method::POST,
                "/api/sessions",
                Some(registration),
                201,
            ),
            "sessionId",
            json!(id),
        ),
        with(
            step("get", Method::GET, &own, None, 200),
            "active",
            json!(true),
        ),
        step(
            "heartbeat",
            Method::PUT,
            &below("/heartbeat"),
            Some(json!({ "lastChunk": "0001.mp4" })),
            200,
        ),
        with(
            step("state", Method::GET, &own, None, 200),
            "status",
            json!("RECORDING"),
        ),
        step(
            "status",
            Method::PUT,
            &below("/status"),
            Some(json!({ "status": "paused" })),
            200,
        ),
        step("list", Method::GET, "/api/sessions", None, 200),
        step(
            "wrong word",
            Method::PUT,
            &below("/status"),
            Some(json!({ "status": "no such" })),
            400,
        ),
        step("deactivate", Method::PUT, &below("/deactivate"), None, 200),
        step("remove", Method::DELETE, &own, None, 200),
        step("gone", Method::GET, &own, None, 404),
        step("failover", Method::GET, "/api/failover/status", None, 200),
        with(
            step("webhook", Method::GET, "/openvidu/webhook", None, 200),
            "status",
            json!("healthy"),
        ),
        step("metrics", Method::GET, "/actuator/prometheus", None, 200),
    ]
}

fn judge(step: &Step, answer: &Answer) -> Check {
    let finding = format!(
        "{} {} → {} in {} ms",
        step.method,
        step.path,
        answer.status,
        answer.took.as_millis()
    );
    if answer.status != step.status {
        let said = answer.body["message"].as_str().unwrap_or_default();
        return Check::bad(
            step.name,
            format!("{finding}, expected {}: {said}", step.status),
        )
        .advice("\"ov2-ha-recorder logs\" tells more; is another version running?");
    }
    match &step.member {
        Some((name, value)) if answer.body[*name] != *value => Check::bad(
            step.name,
            format!(
                "{finding}: {name} is {}, expected {value}",
                answer.body[*name]
            ),
        ),
        _ => Check::good(step.name, finding),
    }
}

async fn without_account(api: &Api) -> Result<Check, Failure> {
    let answer = api.anonymous("/api/sessions").await?;
    Ok(match answer {
        401 => Check::good("account", "GET /api/sessions without it → 401"),
        status => Check::bad(
            "account",
            format!("GET /api/sessions without it → {status}, expected 401"),
        )
        .advice("something before the controller answers in its place"),
    })
}
