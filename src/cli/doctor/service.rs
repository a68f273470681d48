//! What the running controller answers: health, worries, sessions with their failovers.

use super::parts::Parts;
use crate::cli::api::Api;
use crate::config::Settings;
use crate::model::ids::RecordingId;
use crate::model::worry::Worry;
use serde::Deserialize;
use serde_json::Value;

/// What is asked for, and the file that takes it.
const ASKED: [(&str, &str); 7] = [
    ("/actuator/health", "health"),
    ("/api/worries", "worries"),
    ("/api/sessions/all", "sessions"),
    ("/api/failover/status", "failover"),
    ("/openvidu/webhook/status", "webhooks"),
    ("/actuator/info", "info"),
    ("/actuator/prometheus", "metrics"),
];
/// Members of a session that hold whatever a client has put there.
const OF_CLIENTS: [&str; 3] = ["environment", "metadata", "recordingJson"];

/// What the controller knows.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Why it does not say what is asked.
    pub(super) silence: Option<String>,
    /// Whether it answers all the same.
    pub(super) answers: bool,
    /// What a person must know.
    pub(super) worries: Vec<Worry>,
    /// Recordings that are not over.
    pub(super) running: Vec<RecordingId>,
}

/// Asks for everything. Who does not answer once is not asked again.
pub(super) async fn ask(settings: &Settings, parts: &mut Parts) -> Known {
    let mut known = Known::default();
    let api = match Api::of(settings) {
        Ok(api) => api,
        Err(failure) => {
            known.silence = Some(failure.message);
            return known;
        }
    };
    for (path, name) in ASKED {
        let name = format!("controller/{name}");
        let answer = match api.get(path).await {
            Ok(answer) => answer,
            Err(failure) => {
                known.silence = Some(failure.message.clone());
                parts.lack(&name, failure);
                return known;
            }
        };
        known.answers = true;
        let mut body = match (path, answer.status) {
            // A health that is DOWN is answered with 503, and is what is asked for.
            ("/actuator/health", 503) => answer.body,
            _ => match answer.ok(&format!("read {path}")) {
                Ok(body) => body,
                Err(failure) => {
                    known.take(path, Err(failure.message.clone()));
                    parts.lack(&name, failure);
                    continue;
                }
            },
        };
        leave_out(&mut body);
        known.take(path, Ok(&body));
        match body {
            Value::String(text) => parts.put(&format!("{name}.txt"), &text),
            body => parts.add_json(&format!("{name}.json"), &body),
        }
    }
    known
}

impl Known {
    /// What an answer says. What cannot be read of it is not known, and nothing is well because of that.
    fn take(&mut self, path: &str, body: Result<&Value, String>) {
        let taken = match path {
            "/api/worries" => body.and_then(worries).map(|it| self.worries = it),
            "/api/sessions/all" => body.and_then(running).map(|it| self.running = it),
            _ => return,
        };
        if let Err(why) = taken {
            self.silence.get_or_insert(why);
        }
    }
}

fn worries(body: &Value) -> Result<Vec<Worry>, String> {
    let read = Vec::deserialize(body);
    read.map_err(|cause| format!("the controller's worries cannot be understood: {cause}"))
}

/// One that was given up counts: its recorder may be at work, and is left alone.
fn running(sessions: &Value) -> Result<Vec<RecordingId>, String> {
    let all = sessions["sessions"].as_array();
    let all = all.ok_or("the controller's list of sessions cannot be understood")?;
    let is_over = |it: &&Value| match it["status"].as_str() {
        Some("COMPLETED" | "INACTIVE") => true,
        Some("FAILED") => it["state"]["state"] != "givenUp",
        _ => false,
    };
    let ids = all.iter().filter(|it| !is_over(it));
    let ids = ids.filter_map(|it| it["sessionId"].as_str());
    Ok(ids.filter_map(|id| RecordingId::parse(id).ok()).collect())
}

fn leave_out(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !OF_CLIENTS.contains(&name.as_str()));
            members.values_mut().for_each(leave_out);
        }
        Value::Array(items) => items.iter_mut().for_each(leave_out),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_that_cannot_be_read_does_not_mean_that_all_is_well() {
        for (path, body) in [
            ("/api/worries", json!("<html>")),
            ("/api/worries", json!({ "status": 200 })),
            ("/api/sessions/all", json!({ "message": "busy" })),
        ] {
            let mut known = Known::default();
            known.take(path, Ok(&body));
            assert!(known.silence.is_some(), "{path} {body}");
            let mut known = Known::default();
            known.take(path, Err("refused".into()));
            assert_eq!(known.silence.as_deref(), Some("refused"));
        }
        let mut known = Known::default();
        known.take("/api/worries", Ok(&json!([])));
        known.take("/api/sessions/all", Ok(&json!({ "sessions": [] })));
        known.take("/actuator/info", Err("404".into()));
        assert_eq!(known.silence, None);
    }

    #[test]
    fn a_recording_that_was_given_up_may_go_on() {
        let session = |id: &str, status: &str, state: &str| json!({ "sessionId": id, "status": status, "state": { "state": state } });
        let sessions = json!({ "sessions": [
            session("ses_A", "RECORDING", "recording"),
            session("ses_B", "FAILED", "givenUp"),
            session("ses_C", "FAILED", "failed"),
            session("ses_D", "COMPLETED", "completed"),
        ] });
        let found = running(&sessions).unwrap();
        let found: Vec<_> = found.iter().map(RecordingId::as_str).collect();
        assert_eq!(found, ["ses_A", "ses_B"]);
    }
}
