//! `health`: asks the running controller how it is. Also the health check of its container.

use super::api::Api;
use super::report::{Check, Form, Report};
use super::{Failure, SettingsFile};
use crate::model::worry::{Area, Severity, Worry};
use clap::Args;
use serde_json::Value;

/// Ask the running controller how it is; the exit code says whether recording and failover work.
#[derive(Debug, Args)]
pub(super) struct Health {
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    form: Form,
}

impl Health {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let api = Api::of(&self.file.settings()?)?;
        // 503 is an answer too: it says what is wrong.
        let answer = api.get("/actuator/health").await?;
        let mut report = Report::default();
        report.add(match answer.status {
            200 => Check::good(
                "controller",
                format!(
                    "answers at {} in {} ms",
                    api.base(),
                    answer.took.as_millis()
                ),
            ),
            status => Check::bad("controller", format!("answers {status} at {}", api.base()))
                .advice("see the parts below and \"ov2-ha-recorder logs\""),
        });
        for (name, part) in answer.body["components"].as_object().into_iter().flatten() {
            report.add(component(name, part));
        }
        for worry in worries(&api).await {
            report.add(worry);
        }
        report.conclude(self.form)
    }
}

fn component(name: &str, part: &Value) -> Check {
    let summary = part["summary"].as_str().unwrap_or_default();
    match part["status"].as_str() {
        Some("UP") => Check::good(name, summary),
        Some("DOWN" | "OUT_OF_SERVICE") => Check::bad(name, summary)
            .advice("\"ov2-ha-recorder validate\" looks at everything that recording needs"),
        _ => Check::skipped(name, "unknown"),
    }
}

/// What a person must know beside the parts; nothing where this account is not the controller's.
async fn worries(api: &Api) -> Vec<Check> {
    let told = api.get("/api/worries").await.ok();
    let told = told.and_then(|it| serde_json::from_value::<Vec<Worry>>(it.body).ok());
    let beside = |it: &Worry| it.area != Area::Health;
    let told = told.unwrap_or_default().into_iter().filter(beside);
    let check = |it: Worry| match it.severity {
        Severity::Act => Check::bad(&it.subject, it.text).advice(it.advice),
        Severity::Look => Check::warning(&it.subject, it.text).advice(it.advice),
    };
    told.map(check).collect()
}
