//! OpenVidu's REST interface, asked about one thing: does it still record this session? It is asked and never told anything.
//! An answer counts by what it contains, for anything may listen at an address: a proxy's page is no word of OpenVidu.

use super::orphan::Answer;
use crate::config::{Secret, Settings};
use crate::outbound::{self, OutboundError, Trust};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use std::net::IpAddr;
use std::time::Duration;

/// How long OpenVidu may take to answer where nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// OpenVidu's user.
const USER: &str = "OPENVIDUAPP";

/// What is asked about.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// The recording's id.
    pub(super) recording: String,
    /// The id of its session.
    pub(super) session: String,
    /// OpenVidu's unique id of the session: its id and when it was created.
    pub(super) unique_session: Option<String>,
}

/// The address, with what it takes to ask there.
#[derive(Clone)]
pub struct Inquiry {
    client: reqwest::Client,
    address: String,
    secret: Secret,
}

/// A session as OpenVidu describes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SessionOfOpenVidu {
    id: String,
    created_at: i64,
    recording: bool,
}

/// A recording as OpenVidu describes it.
#[derive(Deserialize)]
struct RecordingOfOpenVidu {
    id: String,
    object: String,
}

/// OpenVidu's own settings, as it answers them.
#[derive(Deserialize)]
struct ConfigOfOpenVidu {
    #[serde(rename = "VERSION")]
    version: String,
}

/// What recorders are given and nobody else is to know.
const SECRETS: [&str; 3] = [
    "HA_CONTROLLER_PASSWORD",
    "HA_RECORDER_TOKEN",
    "HA_AWS_SECRET_KEY",
];

impl Inquiry {
    /// Asks at `OPENVIDU_URL`; `None` where it is not set.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn of(settings: &Settings) -> Result<Option<Self>, OutboundError> {
        let (Some(url), Some(secret)) = (&settings.openvidu_url, &settings.openvidu_secret) else {
            return Ok(None);
        };
        // Its secret goes there: a target of the relay that is not verified is another matter. Between us and an address of
        // this machine there is nobody, and OpenVidu's own certificate is self-signed.
        let trust = match is_loopback(url.expose()) {
            true => Trust::Anyone,
            false => Trust::of(settings)?,
        };
        let client = outbound::builder_trusting(PATIENCE, &trust)?
            .timeout(PATIENCE)
            .no_proxy();
        Ok(Some(Self {
            client: client.build()?,
            address: url.expose().to_owned(),
            secret: secret.clone(),
        }))
    }

    /// The address, as it may be shown and kept.
    pub fn origin(&self) -> String {
        let url = Url::parse(&self.address).ok();
        url.map_or_else(String::new, |url| url.origin().ascii_serialization())
    }

    /// Whether OpenVidu answers there, and takes the secret: its version.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub async fn try_out(&self) -> Result<String, String> {
        let (status, body) = match self.get(&["config"]).await {
            Ok(answered) => answered,
            Err(cause) if cause.is_timeout() => {
                return Err(format!("no answer within {} s", PATIENCE.as_secs()));
            }
            Err(cause) => return Err(format!("cannot connect: {}", root_of(&cause))),
        };
        match status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => return Err("it refuses OPENVIDU_SECRET".into()),
            other => return Err(format!("it answers {}", other.as_u16())),
        }
        let config: Result<ConfigOfOpenVidu, _> = serde_json::from_slice(&body);
        let config = config.map_err(|_| "what answers there is not OpenVidu".to_owned())?;
        Ok(config.version)
    }

    /// Whether OpenVidu gives the recorders' settings to whoever asks, which it does where all recordings are public.
    pub async fn serves_settings_to_everyone(&self) -> bool {
        let address = format!("{}/openvidu/recordings/.env", self.address);
        let Ok(answer) = self.client.get(address).send().await else {
            return false;
        };
        // A page for people who have lost their way is none of it.
        if answer.status() != StatusCode::OK {
            return false;
        }
        let body = bounded(answer).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        SECRETS.iter().any(|name| text.contains(name))
    }

    /// What OpenVidu says of the session, within `patience`.
    pub(super) async fn ask(&self, about: &Subject, patience: Duration) -> Answer {
        let asked = tokio::time::timeout(patience, self.read(about)).await;
        match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(cause)) if is_silence(&cause) => Answer::Silence,
            Ok(Err(_)) => Answer::Odd,
            Err(_) => Answer::Late,
        }
    }

    async fn read(&self, about: &Subject) -> Result<Answer, reqwest::Error> {
        let (status, body) = self.get(&["sessions", &about.session]).await?;
        Ok(match status {
            StatusCode::OK => session_says(&body, about),
            StatusCode::NOT_FOUND => match self.get(&["recordings", &about.recording]).await? {
                (StatusCode::OK, body) if is_recording(&body, about) => Answer::Unknown,
                _ => Answer::Odd,
            },
            _ => Answer::Odd,
        })
    }

    async fn get(&self, path: &[&str]) -> Result<(StatusCode, Vec<u8>), reqwest::Error> {
        let mut address = self.address.clone();
        // Ids are made of characters that need no escaping, or they are none of OpenVidu's and are not found.
        for part in ["openvidu", "api"].iter().chain(path) {
            address.push('/');
            let is_plain = |c: &char| c.is_ascii_alphanumeric() || "-_~".contains(*c);
            address.extend(part.chars().filter(is_plain));
        }
        let request = self.client.get(address);
        let request = request.basic_auth(USER, Some(self.secret.expose()));
        let answer = request.send().await?;
        let status = answer.status();
        Ok((status, bounded(answer).await?))
    }
}

/// Whether the address leads to this machine whatever a network does.
fn is_loopback(url: &str) -> bool {
    let url = Url::parse(url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|it| it.is_loopback())
}

/// As much of an answer as OpenVidu's could be long.
async fn bounded(mut answer: reqwest::Response) -> Result<Vec<u8>, reqwest::Error> {
    const MOST: usize = 4 << 20;
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await? {
        body.extend_from_slice(&part);
        if body.len() > MOST {
            body.clear();
            break;
        }
    }
    Ok(body)
}

fn session_says(body: &[u8], about: &Subject) -> Answer {
    let Ok(session) = serde_json::from_slice::<SessionOfOpenVidu>(body) else {
        return Answer::Odd;
    };
    if session.id != about.session {
        return Answer::Odd;
    }
    let unique = about.unique_session.as_deref();
    let created = unique.and_then(|unique| unique.rsplit_once('_')?.1.parse::<i64>().ok());
    match (created, session.recording) {
        (Some(created), _) if created != session.created_at => Answer::Another,
        (_, true) => Answer::Recorded,
        (_, false) => Answer::NotRecorded,
    }
}

fn is_recording(body: &[u8], about: &Subject) -> bool {
    let read = serde_json::from_slice::<RecordingOfOpenVidu>(body);
    read.is_ok_and(|it| it.object == "recording" && it.id == about.recording)
}

/// Whether nobody was there: a certificate that is refused, half an answer, or a connection on which none comes is somebody's.
fn is_silence(cause: &reqwest::Error) -> bool {
    if !cause.is_connect() {
        return false;
    }
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    let mut next: Option<&dyn std::error::Error> = Some(cause);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            let kinds = [
                ConnectionRefused,
                HostUnreachable,
                NetworkUnreachable,
                TimedOut,
            ];
            return kinds.contains(&io.kind());
        }
        next = error.source();
    }
    cause.is_timeout()
}

/// The last cause, without the address, which may contain a password.
fn root_of(cause: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = cause;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn about() -> Subject {
        Subject {
            recording: "ses_A~1".into(),
            session: "ses_A".into(),
            unique_session: Some("ses_A_1795577569000".into()),
        }
    }

    fn said(id: &str, created: i64, recording: bool) -> Answer {
        let session = json!({"id": id, "createdAt": created, "recording": recording, "more": [1]});
        session_says(session.to_string().as_bytes(), &about())
    }

    #[test]
    fn a_session_is_known_by_its_id_and_the_moment_of_its_creation() {
        let made = 1_795_577_569_000;
        assert_eq!(said("ses_A", made, true), Answer::Recorded);
        assert_eq!(said("ses_A", made, false), Answer::NotRecorded);
        assert_eq!(said("ses_A", made + 9, true), Answer::Another);
        assert_eq!(said("ses_B", made, true), Answer::Odd);
        assert_eq!(session_says(b"<html>", &about()), Answer::Odd);
        let unknown = Subject {
            unique_session: None,
            ..about()
        };
        let session = json!({"id": "ses_A", "createdAt": 1, "recording": true});
        let said = session_says(session.to_string().as_bytes(), &unknown);
        assert_eq!(said, Answer::Recorded);
    }

    #[test]
    fn only_openvidus_own_words_of_the_recording_prove_that_the_session_is_unknown_to_it() {
        let of = |text: serde_json::Value| is_recording(text.to_string().as_bytes(), &about());
        assert!(of(
            json!({"id": "ses_A~1", "object": "recording", "status": "started"})
        ));
        assert!(!of(json!({"id": "ses_A", "object": "recording"})));
        assert!(!of(json!({"id": "ses_A~1"})));
    }

    #[test]
    fn only_on_this_machine_a_certificate_says_nothing() {
        for (url, ours) in [
            ("https://127.0.0.1:4443", true),
            ("https://localhost/", true),
            ("https://[::1]:4443", true),
            ("https://openvidu.example.com", false),
            ("https://localhost.example.com", false),
            ("https://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(url), ours, "{url}");
        }
    }

    #[test]
    fn the_secret_is_not_in_what_is_shown_of_the_address() {
        let settings = crate::config::Variables::of([
            ("OPENVIDU_URL", "https://OPENVIDUAPP:hidden@host:4443/"),
            ("OPENVIDU_SECRET", "MY_SECRET"),
        ]);
        let inquiry = Inquiry::of(&settings.settings().unwrap()).unwrap().unwrap();
        assert_eq!(inquiry.origin(), "https://host:4443");
    }
}
