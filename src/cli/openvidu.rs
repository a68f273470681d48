//! OpenVidu's own folder, read only: which version runs there, where it records, whom it sends its webhooks to.

use super::Failure;
use super::env_text::EnvText;
use super::exit;
use serde::Serialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The event that tells of recordings.
const OF_RECORDINGS: &str = "recordingStatusChanged";

/// What was found in OpenVidu's folder.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Deployment {
    /// The folder.
    pub(super) path: PathBuf,
    /// Its version.
    pub(super) version: String,
    /// The recording image with which it records.
    pub(super) image: (String, String),
    /// The recordings folder.
    pub(super) recordings: PathBuf,
    /// Whether recording is switched on.
    pub(super) recording: bool,
    /// Where its webhooks go, when they are on; it may hold secrets.
    #[serde(skip)]
    pub(super) webhook: Option<String>,
    /// The headers of its webhooks; they may hold secrets.
    #[serde(skip)]
    pub(super) webhook_headers: Option<String>,
    /// Whether everyone may read the recordings folder over OpenVidu.
    pub(super) is_public: bool,
    /// The events that its webhooks tell of, where they lack recordings: with these.
    #[serde(skip)]
    pub(super) events_with_recordings: Option<String>,
    /// What opens its REST interface.
    #[serde(skip)]
    pub(super) secret: Option<String>,
    /// Ports of its own that may be wanted for the controller, too, with their settings' names.
    #[serde(skip)]
    pub(super) ports: Vec<(&'static str, String)>,
}

impl Deployment {
    /// Reads the folder at `path`.
    ///
    /// # Errors
    /// When there is no OpenVidu 2 in it.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let read = |name: &str| {
            let file = path.join(name);
            std::fs::read_to_string(&file).map_err(|cause| {
                let advice = match cause.kind() {
                    ErrorKind::NotFound | ErrorKind::NotADirectory => {
                        "; name the folder in which OpenVidu 2 is installed, usually /opt/openvidu"
                    }
                    ErrorKind::InvalidData => "; save it as UTF-8",
                    _ => "",
                };
                let message = format!("cannot read {}: {cause}{advice}", file.display());
                Failure::with(exit::UNAVAILABLE, message)
            })
        };
        let compose = read("docker-compose.yml")?;
        let env = EnvText::new(read(".env")?);
        let version = version(&compose).ok_or_else(|| {
            Failure::with(exit::UNAVAILABLE, format!(
                "cannot find OpenVidu's version in {}: no service uses the image openvidu/openvidu-server:2.…; is this OpenVidu 2?",
                path.join("docker-compose.yml").display()
            ))
        })?;
        let on = |name: &str| {
            env.get(name)
                .is_some_and(|value| value.eq_ignore_ascii_case("true"))
        };
        let events = env.get("OPENVIDU_WEBHOOK_EVENTS");
        Ok(Self {
            path: path.to_owned(),
            image: image(&env, &version),
            recordings: recordings(&env),
            recording: on("OPENVIDU_RECORDING"),
            webhook: on("OPENVIDU_WEBHOOK")
                .then(|| env.get("OPENVIDU_WEBHOOK_ENDPOINT"))
                .flatten(),
            webhook_headers: env.get("OPENVIDU_WEBHOOK_HEADERS"),
            is_public: on("OPENVIDU_RECORDING_PUBLIC_ACCESS"),
            secret: env.get("OPENVIDU_SECRET").filter(|it| !it.is_empty()),
            events_with_recordings: events.as_deref().and_then(with_recordings),
            ports: ["HTTP_PORT", "HTTPS_PORT", "SERVER_PORT"]
                .into_iter()
                .filter_map(|name| Some((name, env.get(name)?)))
                .collect(),
            version,
        })
    }

    /// Whether its webhooks come to this service already.
    pub(super) fn posts_here(&self) -> bool {
        self.webhook.as_deref().is_some_and(is_ours)
    }

    /// Where its REST interface may answer: the server's own port and its proxy's, both on this machine.
    pub(super) fn addresses(&self) -> [String; 2] {
        let port = |wanted: &str, usual: &str| {
            let found = self.ports.iter().find(|(name, _)| *name == wanted);
            found.map_or(usual, |(_, port)| port.as_str()).to_owned()
        };
        [
            format!("http://127.0.0.1:{}", port("SERVER_PORT", "5443")),
            format!("https://127.0.0.1:{}", port("HTTPS_PORT", "443")),
        ]
    }

    /// Its env file.
    pub(super) fn env_file(&self) -> PathBuf {
        self.path.join(".env")
    }
}

/// A list of events with the one that tells of recordings; `None` where it has that, or is empty and means all.
fn with_recordings(list: &str) -> Option<String> {
    let bare = list.trim().trim_start_matches('[').trim_end_matches(']');
    let events: Vec<_> = bare.split(',').map(str::trim).collect();
    let quote = events[0]
        .chars()
        .next()
        .filter(|it| matches!(it, '"' | '\''));
    let quote = quote.map(String::from).unwrap_or_default();
    let name = |event: &str| event.trim_matches(['"', '\'']) == OF_RECORDINGS;
    let lacks_it = !bare.trim().is_empty() && !events.iter().any(|event| name(event));
    lacks_it.then(|| format!("[{},{quote}{OF_RECORDINGS}{quote}]", events.join(",")))
}

/// Whether a webhook's address is this service's.
pub(super) fn is_ours(url: &str) -> bool {
    url.trim_end_matches('/').ends_with("/openvidu/webhook")
}

/// The tag of the server's image; Pro's has a name of its own, and a registry may stand before it.
fn version(compose: &str) -> Option<String> {
    let images = compose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("image:"));
    images
        .map(|image| image.trim().trim_matches(['"', '\'']))
        .find_map(|image| {
            let (name, tag) = image.rsplit_once(':')?;
            // `${NAME:-openvidu/openvidu-server:2.32.1}` is written where the image can be overridden.
            let tag = tag.trim_end_matches('}');
            let server = name.ends_with("openvidu/openvidu-server")
                || name.ends_with("openvidu/openvidu-server-pro");
            (server && tag.starts_with("2.")).then(|| tag.to_owned())
        })
}

fn image(env: &EnvText, version: &str) -> (String, String) {
    let name = "openvidu/openvidu-recording";
    let own = env.get("OPENVIDU_RECORDING_IMAGE");
    let split = own.as_deref().and_then(|image| image.rsplit_once(':'));
    if let Some((name, tag)) = split.filter(|(_, tag)| !tag.contains('/')) {
        return (name.to_owned(), tag.to_owned());
    }
    let tag = env.get("OPENVIDU_RECORDING_VERSION");
    (name.to_owned(), tag.unwrap_or_else(|| version.to_owned()))
}

fn recordings(env: &EnvText) -> PathBuf {
    let path = env
        .get("OPENVIDU_RECORDING_PATH")
        .unwrap_or_else(|| "/opt/openvidu/recordings".into());
    let trimmed = path.trim_end_matches('/');
    PathBuf::from(if trimmed.is_empty() { "/" } else { trimmed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_every_way_the_image_is_written() {
        for image in [
            "openvidu/openvidu-server:2.22.0",
            "docker.io/openvidu/openvidu-server:2.22.0",
            "\"openvidu/openvidu-server-pro:2.22.0\"",
            "${OPENVIDU_SERVER_IMAGE:-openvidu/openvidu-server:2.22.0}",
        ] {
            let compose = format!(
                "services:\n  kms:\n    image: kurento/kms:6.18\n  openvidu-server:\n    image: {image}\n"
            );
            assert_eq!(version(&compose).as_deref(), Some("2.22.0"), "{image}");
        }
        assert_eq!(version("    image: openvidu/openvidu-server:3.0.0\n"), None);
    }

    #[test]
    fn the_event_that_tells_of_recordings_is_added_where_others_are_chosen() {
        for (list, with) in [
            ("[sessionCreated, recordingStatusChanged]", None),
            (r#"["sessionCreated","recordingStatusChanged"]"#, None),
            (
                r#"["sessionCreated"]"#,
                Some(r#"["sessionCreated","recordingStatusChanged"]"#),
            ),
            ("[]", None),
            (
                "[sessionCreated, sessionDestroyed]",
                Some("[sessionCreated,sessionDestroyed,recordingStatusChanged]"),
            ),
            (
                "sessionCreated",
                Some("[sessionCreated,recordingStatusChanged]"),
            ),
        ] {
            assert_eq!(with_recordings(list).as_deref(), with, "{list}");
        }
    }

    #[test]
    fn the_recording_image_follows_openvidu_s_own_settings() {
        let name = "openvidu/openvidu-recording".to_owned();
        assert_eq!(
            image(&EnvText::default(), "2.29.0"),
            (name.clone(), "2.29.0".into())
        );
        assert_eq!(
            image(&EnvText::new("OPENVIDU_RECORDING_VERSION=2.28.0"), "2.29.0"),
            (name, "2.28.0".into())
        );
        assert_eq!(
            image(
                &EnvText::new("OPENVIDU_RECORDING_IMAGE=reg:5000/rec:7"),
                "2.29.0"
            ),
            ("reg:5000/rec".into(), "7".into())
        );
    }
}
