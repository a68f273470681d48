//! `health`: asks the running controller how it is. Also the health check of its container.

use super::api::Api;
use super::report::{Check, Form, Report};
use super::{Failure, SettingsFile};
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
        report.conclude(self.form)
    }
}

fn component(name: &str, part: &Value) -> Check {
    let details = match &part["details"] {
        Value::Object(details) => details
            .iter()
            .map(|(key, value)| match value {
                Value::String(text) => format!("{key} {text}"),
                value => format!("{key} {value}"),
            })
            .collect::<Vec<_>>()
            .join(", "),
        Value::String(text) => text.clone(),
        _ => String::new(),
    };
    let said = part["status"].as_str().unwrap_or("UNKNOWN");
    let finding = format!("{said} {details}").trim_end().to_owned();
    match said {
        "UP" => Check::good(name, finding),
        "DOWN" | "OUT_OF_SERVICE" => {
            Check::bad(name, finding).advice("\"ov2-ha-recorder validate\" tells what to do")
        }
        _ => Check::skipped(name, finding),
    }
}
