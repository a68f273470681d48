//! One try: an event is posted to a target with its headers and its signature, or acted on by the controller, and what the
//! target answers is read.

use crate::clock::Timestamp;
use crate::config::{Headers, Url};
use crate::controller::Controller;
use crate::db::outbox::Event;
use crate::model::wire::{SessionCreated, read_json};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use standardwebhooks::Webhook;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// The longest `Retry-After` that is honoured: the schedule's longest wait. A date may be years away.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Where one queue leads.
pub(super) enum Target {
    Controller(Controller),
    Http(HttpTarget),
}

pub(super) struct HttpTarget {
    pub(super) url: Url,
    pub(super) headers: Headers,
    pub(super) key: Option<Arc<[u8]>>,
    pub(super) client: reqwest::Client,
}

/// What one try came to.
pub(super) enum Tried {
    Delivered,
    /// Try again: the target gave no answer.
    Unanswered {
        why: String,
    },
    /// Try again, not before `after` where the target said so.
    NotTaken {
        why: String,
        after: Option<Duration>,
    },
    Refused {
        why: String,
    },
    /// Nobody waits for it any more.
    Abandoned,
}

impl Target {
    pub(super) async fn deliver(&self, event: &Event, late: bool, now: Timestamp) -> Tried {
        match self {
            Self::Controller(controller) => act(controller, event).await,
            Self::Http(target) => target.post(event, late, now).await,
        }
    }
}

/// Acts on what OpenVidu reports; events that mean nothing to us are done at once.
async fn act(controller: &Controller, event: &Event) -> Tried {
    let read = match event.name.as_deref() {
        Some("recordingStatusChanged") if !event.synthesized => {
            read_json(&event.body).map(|change| controller.recording_status_changed(&change))
        }
        Some("sessionCreated") => {
            // One without these members says nothing to us.
            if let Ok(SessionCreated {
                session_id,
                unique_session_id,
            }) = read_json(&event.body)
            {
                controller.loaded().await;
                controller.openvidu_made_a_session(&session_id, &unique_session_id);
            }
            Ok(())
        }
        _ => Ok(()),
    };
    match read {
        Ok(()) => Tried::Delivered,
        Err(cause) => Tried::Refused {
            why: cause.to_string(),
        },
    }
}

impl HttpTarget {
    async fn post(&self, event: &Event, late: bool, now: Timestamp) -> Tried {
        let method = Method::from_bytes(event.method.as_bytes()).unwrap_or(Method::POST);
        let request = self
            .client
            .request(method, self.url.expose())
            .headers(self.headers(event, late, now))
            .body(event.body.clone());
        match request.send().await {
            Ok(response) => read_answer(response, now).await,
            Err(cause) => Tried::Unanswered {
                why: describe(&cause),
            },
        }
    }

    fn headers(&self, event: &Event, late: bool, now: Timestamp) -> HeaderMap {
        let agent = event.user_agent.as_deref().unwrap_or("OpenVidu");
        let millis = now.millis().to_string();
        let seconds = now.millis() / 1000;
        let mut headers = HeaderMap::new();
        let mut set = |name: &str, value: &str| {
            let name = HeaderName::try_from(name);
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        };
        for (name, value) in event.headers.iter().chain(&self.headers.0) {
            set(name, value);
        }
        if let Some(kind) = &event.content_type {
            set("content-type", kind);
        }
        set("user-agent", &format!("OpenVidu-Relay/{agent}"));
        set("x-relay-source", "OpenVidu-HA-Controller");
        set("x-relay-timestamp", &millis);
        set("webhook-id", &event.id);
        set("webhook-timestamp", &seconds.to_string());
        if event.synthesized {
            set("x-ha-synthesized", "true");
        }
        if late {
            set("x-relay-late", "true");
        }
        if let Some(signature) = self
            .key
            .as_deref()
            .and_then(|key| sign(key, &event.id, seconds, &event.body))
        {
            set("webhook-signature", &signature);
        }
        headers
    }
}

/// The signature of Standard Webhooks; none where the body is no text, which the door does not take.
fn sign(key: &[u8], id: &str, seconds: i64, body: &[u8]) -> Option<String> {
    let signing = Webhook::from_bytes(key.to_vec()).ok()?;
    signing.sign(id, seconds, body).ok()
}

async fn read_answer(response: reqwest::Response, now: Timestamp) -> Tried {
    let status = response.status();
    let after = response.headers().get("retry-after");
    let after = after.and_then(|value| retry_after(value.to_str().ok()?.trim(), now));
    drain(response).await;
    let why = format!("the target answered {status}");
    match status {
        _ if status.is_success() => Tried::Delivered,
        // It understood the event and will never want it. Whatever else it answers may be a proxy's word, an expired
        // token, a deployment under way.
        StatusCode::BAD_REQUEST
        | StatusCode::GONE
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY => Tried::Refused { why },
        _ => Tried::NotTaken { why, after },
    }
}

/// The wait that a `Retry-After` in seconds or with a date asks for.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let now = UNIX_EPOCH + Duration::from_millis(u64::try_from(now.millis()).ok()?);
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(now).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

/// Reads a short answer to its end, so that the connection can be used again.
async fn drain(mut response: reqwest::Response) {
    let mut left = 64 * 1024;
    while let Ok(Some(part)) = response.chunk().await {
        if part.len() > left {
            return;
        }
        left -= part.len();
    }
}

/// The innermost cause without the URL, which may carry a password.
fn describe(error: &reqwest::Error) -> String {
    let kind = match error {
        _ if error.is_timeout() => "the target did not answer in time",
        _ if error.is_connect() => "the target cannot be reached",
        _ => "the connection to the target broke",
    };
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if std::ptr::eq(cause, error as &dyn std::error::Error) {
        return kind.to_owned();
    }
    format!("{kind}: {cause}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date_and_has_a_bound() {
        let now = Timestamp::parse("1994-11-06T08:49:30Z").unwrap();
        let read = |text: &str| retry_after(text, now);
        assert_eq!(read("1"), Some(at(1)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(at(7)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:00 GMT"), Some(at(0)));
        assert_eq!(read("Sat, 06 Nov 2094 08:49:37 GMT"), Some(LONGEST_WAIT));
        assert_eq!(read("99999999999"), Some(LONGEST_WAIT));
        for odd in ["", "soon", "-1", "1.5"] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        // The example of the specification's reference libraries.
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = sign(
            &key,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(
            signature.unwrap(),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }
}
