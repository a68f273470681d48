//! The controller's REST client: what a recorder, and an operator's command, says to the controller. Answers that a
//! recorder acts on are cases of the error, not texts to be searched.

use crate::config::{Secret, Settings};
use crate::model::ids::RecordingId;
use crate::model::session::Status;
use crate::model::wire::{
    ErrorBody, ErrorCode, Heartbeat, RecordingPath, Registered, Registration, StatusChange,
};
use crate::outbound::{self, OutboundError, Trust};
use reqwest::header::DATE;
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a whole request may take.
const WHOLE: Duration = Duration::from_secs(10);

/// Why the controller did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client cannot be set up.
    #[error(transparent)]
    Setup(#[from] OutboundError),
    /// No answer came.
    #[error("cannot reach the controller at {address}: {cause}")]
    Unreachable {
        /// Where it was sought.
        address: String,
        /// What went wrong.
        cause: String,
    },
    /// The controller does not know the session.
    #[error("the controller does not know this session")]
    NotFound,
    /// A later run took over.
    #[error("a later run took over this recording")]
    Superseded,
    /// The session is over.
    #[error("this session is over")]
    Over,
    /// Any other answer than success.
    #[error("the controller answered {status}: {message}")]
    Refused {
        /// The status code.
        status: u16,
        /// The answer's message.
        message: String,
    },
}

impl ClientError {
    /// Whether the same request may succeed later.
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }
}

/// A client of one controller.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<Key>,
}

/// What opens the controller.
#[derive(Clone, Debug)]
enum Key {
    /// The recorders' own.
    Token(Secret),
    Account(String, Secret),
}

impl Key {
    fn of(settings: &Settings) -> Option<Self> {
        let token = settings.recorder_token.clone().map(Self::Token);
        let name = settings.controller_username.clone();
        let account = name.zip(settings.controller_password.clone());
        token.or(account.map(|(name, password)| Self::Account(name, password)))
    }
}

impl Client {
    /// A client for the controller that `settings` name. It speaks HTTPS when they name the controller's authority or
    /// certificate, and trusts the further authorities too.
    ///
    /// # Errors
    /// When a file of authorities cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, ClientError> {
        let mut trust = Trust::of(settings)?;
        if let Some(path) = &settings.controller_ca {
            trust = trust.and_file("HA_CONTROLLER_CA", path)?;
        }
        Self::trusting(settings, &trust)
    }

    /// A client without `HA_CONTROLLER_CA`, for a recorder that cannot use that file; of the further authorities it keeps what
    /// can be used.
    ///
    /// # Errors
    /// When the TLS set-up fails.
    pub fn without_authorities(settings: &Settings) -> Result<Self, ClientError> {
        Self::trusting(settings, &Trust::of(settings).unwrap_or_default())
    }

    fn trusting(settings: &Settings, trust: &Trust) -> Result<Self, ClientError> {
        let builder = outbound::builder_trusting(CONNECT, trust)?;
        let builder = builder.timeout(WHOLE).no_proxy();
        let secure = settings.controller_ca.is_some() || settings.tls_cert.is_some();
        let scheme = if secure { "https" } else { "http" };
        let (host, port) = (
            settings.controller_host.in_url(),
            settings.controller_port.0,
        );
        Ok(Self {
            http: builder.build().map_err(OutboundError::from)?,
            base: format!("{scheme}://{host}:{port}"),
            key: Key::of(settings),
        })
    }

    /// Says that a recorder is about to record; learns its run.
    ///
    /// # Errors
    /// [`ClientError::Superseded`] and [`ClientError::Over`] when it must not record.
    pub async fn register(&self, registration: &Registration) -> Result<Registered, ClientError> {
        let answer = self
            .send(Method::POST, "/api/sessions", Some(registration))
            .await?;
        serde_json::from_value(answer).map_err(|cause| ClientError::Refused {
            status: 201,
            message: format!("a registration without a run ({cause}); is it an older controller?"),
        })
    }

    /// Says that the recorder is alive, and what it sees.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] asks for a new registration; [`ClientError::Superseded`] and [`ClientError::Over`] for
    /// an end.
    pub async fn heartbeat(
        &self,
        id: &RecordingId,
        heartbeat: &Heartbeat,
    ) -> Result<(), ClientError> {
        let path = session(id, "/heartbeat");
        self.send(Method::PUT, &path, Some(heartbeat)).await?;
        Ok(())
    }

    /// Tells the session's status.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self, id: &RecordingId, status: Status) -> Result<(), ClientError> {
        let body = StatusChange {
            status: Some(status.as_str().to_owned()),
        };
        self.send(Method::PUT, &session(id, "/status"), Some(&body))
            .await?;
        Ok(())
    }

    /// Tells where the video is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn recording_path(&self, id: &RecordingId, path: &str) -> Result<(), ClientError> {
        let body = RecordingPath {
            recording_path: Some(path.to_owned()),
        };
        self.send(Method::PUT, &session(id, "/recording-path"), Some(&body))
            .await?;
        Ok(())
    }

    /// Reads `path` of the API as JSON; for the operator's commands.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn read(&self, path: &str) -> Result<Value, ClientError> {
        self.send::<()>(Method::GET, path, None).await
    }

    /// What the controller's clock shows, to the second; `None` where its answer does not say.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn clock(&self) -> Result<Option<SystemTime>, ClientError> {
        let answer = self.http.get(format!("{}/openvidu/webhook", self.base));
        let answer = answer
            .send()
            .await
            .map_err(|cause| self.unreachable(&cause))?;
        let date = answer.headers().get(DATE).and_then(|it| it.to_str().ok());
        Ok(date.and_then(|it| httpdate::parse_http_date(it).ok()))
    }

    fn unreachable(&self, cause: &reqwest::Error) -> ClientError {
        ClientError::Unreachable {
            address: self.base.clone(),
            cause: deepest(cause),
        }
    }

    /// Sends `body` to `path` of the API and reads the answer as JSON; an answer without JSON is `null`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send<B: Serialize + Sync>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Value, ClientError> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        request = match &self.key {
            Some(Key::Token(token)) => request.bearer_auth(token.expose()),
            Some(Key::Account(name, password)) => request.basic_auth(name, Some(password.expose())),
            None => request,
        };
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = |cause: reqwest::Error| self.unreachable(&cause);
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let text = response.bytes().await.map_err(unreachable)?;
        if status.is_success() {
            return Ok(serde_json::from_slice(&text).unwrap_or(Value::Null));
        }
        Err(refusal(status, &text))
    }
}

fn refusal(status: StatusCode, text: &[u8]) -> ClientError {
    let body: Option<ErrorBody> = serde_json::from_slice(text).ok();
    match (status, body.as_ref().and_then(|body| body.code)) {
        (_, Some(ErrorCode::Superseded)) => ClientError::Superseded,
        (_, Some(ErrorCode::Over)) => ClientError::Over,
        (StatusCode::NOT_FOUND, _) => ClientError::NotFound,
        _ => ClientError::Refused {
            status: status.as_u16(),
            message: body.map_or_else(
                || status.canonical_reason().unwrap_or("no reason").to_owned(),
                |body| body.message,
            ),
        },
    }
}

/// The path of a session's resource; ids may hold any character that a path does not.
fn session(id: &RecordingId, rest: &str) -> String {
    let mut path = String::from("/api/sessions/");
    for byte in id.as_str().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                path.push(char::from(byte));
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path + rest
}

/// The innermost cause: what a person can act on. Never the URL, which reqwest puts into its own message.
pub fn deepest(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        Some(_) if error.is_timeout() => "no answer in time".to_owned(),
        Some(_) => "the request failed".to_owned(),
        None => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Variables;

    #[test]
    fn an_answer_that_fences_is_its_own_case() {
        let body = |code: &str| {
            format!(
                r#"{{"timestamp":"2026-11-25T03:32:49Z","status":409,"error":"Conflict","message":"m","path":"/","requestId":"r","code":"{code}"}}"#
            )
        };
        let conflict = StatusCode::CONFLICT;
        assert!(matches!(
            refusal(conflict, body("superseded").as_bytes()),
            ClientError::Superseded
        ));
        assert!(matches!(
            refusal(conflict, body("over").as_bytes()),
            ClientError::Over
        ));
        assert!(matches!(
            refusal(StatusCode::NOT_FOUND, b"<html>"),
            ClientError::NotFound
        ));
        assert!(refusal(StatusCode::BAD_GATEWAY, b"").retryable());
    }

    #[test]
    fn an_id_is_one_segment_of_the_path() {
        let id = RecordingId::parse("ses A?x#~1").unwrap();
        assert_eq!(
            session(&id, "/status"),
            "/api/sessions/ses%20A%3Fx%23~1/status"
        );
    }

    #[tokio::test]
    async fn no_controller_is_a_sentence_that_may_be_tried_again() {
        let variables = Variables::of([
            ("HA_CONTROLLER_HOST", "127.0.0.1"),
            ("HA_CONTROLLER_PORT", "1"),
            ("HA_CONTROLLER_USERNAME", "u"),
            ("HA_CONTROLLER_PASSWORD", "s3cret"),
        ]);
        let client = Client::new(&variables.settings().unwrap()).unwrap();
        let error = client.read("/api/sessions").await.unwrap_err();
        assert!(error.retryable(), "{error}");
        assert!(error.to_string().contains("http://127.0.0.1:1"), "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
