//! `failovers`: what was lost and replaced, for the person who asks what happened.

use super::api::Api;
use super::report::Form;
use super::{Failure, SettingsFile};
use crate::clock::Timestamp;
use clap::Args;
use serde_json::Value;

/// Show every failover of one session, or of all that the controller knows.
#[derive(Debug, Args)]
pub(super) struct Failovers {
    #[command(flatten)]
    file: SettingsFile,
    /// The session; without it all.
    session: Option<String>,
    #[command(flatten)]
    form: Form,
}

impl Failovers {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let api = Api::of(&self.file.settings()?)?;
        let sessions = match &self.session {
            Some(id) => vec![one(&api, id).await?],
            None => all(&api).await?,
        };
        let histories = sessions.iter().map(history).collect::<Vec<_>>();
        self.form.print(&histories, |_| text(&sessions));
        Ok(())
    }
}

fn text(sessions: &[Value]) -> String {
    let lines = sessions.iter().flat_map(|session| {
        let lines = failovers(session).map(|failover| line(session, failover) + "\n");
        lines.collect::<Vec<_>>()
    });
    match lines.collect::<String>() {
        none if none.is_empty() => "no failovers".into(),
        text => text,
    }
}

async fn one(api: &Api, id: &str) -> Result<Value, Failure> {
    // An id may hold what a path may not.
    let escaped = id.bytes().fold(String::new(), |text, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' | b'.' => {
            text + char::from(byte).encode_utf8(&mut [0; 4])
        }
        _ => text + &format!("%{byte:02X}"),
    });
    let answer = api.get(&format!("/api/sessions/{escaped}")).await?;
    match answer.status {
        404 => Err(Failure::new(format!(
            "session {id} is not known to the controller; without a session all are shown"
        ))),
        _ => answer.ok("show what was done for a session"),
    }
}

async fn all(api: &Api) -> Result<Vec<Value>, Failure> {
    let answer = api.get("/api/sessions/all").await?;
    let body = answer.ok("list the sessions")?;
    Ok(body["sessions"].as_array().cloned().unwrap_or_default())
}

fn failovers(session: &Value) -> impl Iterator<Item = &Value> {
    let list = session.get("failovers").and_then(Value::as_array);
    list.into_iter().flatten()
}

fn history(session: &Value) -> Value {
    serde_json::json!({ "sessionId": session["sessionId"], "failovers": session["failovers"] })
}

fn line(session: &Value, failover: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let seconds = |name: &str| {
        let millis = failover[name].as_u64();
        millis.map_or("-".into(), |millis| {
            format!("{:.1} s", millis as f64 / 1_000.0)
        })
    };
    let stamp = |name: &str| Timestamp::parse(failover[name].as_str()?).ok();
    let seen = stamp("at").zip(stamp("wellUntil"));
    let seen = seen.map_or("-".into(), |(at, well_until)| {
        format!("{:.1} s", at.since(well_until).as_secs_f64())
    });
    let reason = &failover["reason"];
    let detail = reason["message"].as_str().map(|it| format!(" ({it})"));
    let code = reason["code"]
        .as_i64()
        .map(|it| format!(" (exit code {it})"));
    format!(
        "{}  {}  run {}  {}{}  {} -> {}  {} chunks kept  seen after {}  started after {}  recording after {}",
        text(&failover["at"]),
        text(&session["sessionId"]),
        failover["oldRun"],
        text(&reason["kind"]),
        detail.or(code).unwrap_or_default(),
        short(&failover["oldContainer"]),
        short(&failover["newContainer"]),
        failover["chunksRecovered"],
        seen,
        seconds("startMs"),
        seconds("recoveryMs"),
    )
}

/// A container's id as Docker shows it.
fn short(id: &Value) -> &str {
    let id = id.as_str().unwrap_or("-");
    id.get(..12).unwrap_or(id)
}
