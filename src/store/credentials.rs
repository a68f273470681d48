//! Where the S3 store's credentials come from: the settings, else the places that AWS tools look at, in their order:
//! environment, shared profile, container role, instance role (IMDSv2). Those that expire are fetched anew before they do;
//! while that fails, the old ones serve as long as they last. An error is never kept.

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::Settings;
use rusoto_core::credential::AwsCredentials;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Mutex;

/// Fetch anew when less than this is left.
const MARGIN: Duration = Duration::from_secs(300);
const CONTAINER: &str = "http://169.254.170.2";
const INSTANCE: &str = "http://169.254.169.254";
const TOKEN_SECONDS: &str = "21600";

/// The credentials of one store.
pub(super) struct Credentials {
    source: Source,
    held: Mutex<Option<Held>>,
}

enum Source {
    Settings(AwsCredentials),
    Chain {
        http: reqwest::Client,
        environment: Box<Environment>,
    },
}

/// Looks up a variable.
type Environment = dyn Fn(&str) -> Option<String> + Send + Sync;

#[derive(Clone)]
struct Held {
    credentials: AwsCredentials,
    fetched_at: Timestamp,
    expires_at: Option<Timestamp>,
}

impl Held {
    fn lasting(credentials: AwsCredentials) -> Self {
        Self {
            credentials,
            fetched_at: SystemClock.now(),
            expires_at: None,
        }
    }

    fn is_good_for(&self, margin: Duration) -> bool {
        let until = SystemClock.now().plus(margin);
        self.expires_at.is_none_or(|expires_at| until < expires_at)
    }
}

impl Credentials {
    pub(super) fn new(settings: &Settings, http: reqwest::Client) -> Self {
        let source = match (&settings.s3_access_key, &settings.s3_secret_key) {
            (Some(key), Some(secret)) => {
                Source::Settings(AwsCredentials::new(key, secret.expose(), None, None))
            }
            _ => Source::Chain {
                http,
                environment: Box::new(|name| std::env::var(name).ok().filter(|it| !it.is_empty())),
            },
        };
        Self {
            source,
            held: Mutex::new(None),
        }
    }

    /// Credentials that are good for the next minutes.
    pub(super) async fn get(&self) -> Result<AwsCredentials, String> {
        let (http, environment) = match &self.source {
            Source::Settings(credentials) => return Ok(credentials.clone()),
            Source::Chain { http, environment } => (http, environment),
        };
        let mut held = self.held.lock().await;
        if let Some(held) = held.as_ref().filter(|held| held.is_good_for(MARGIN)) {
            return Ok(held.credentials.clone());
        }
        match (Chain { http, environment }.look().await, held.as_ref()) {
            (Ok(fresh), _) => {
                let credentials = fresh.credentials.clone();
                *held = Some(fresh);
                Ok(credentials)
            }
            (Err(_), Some(old)) if old.is_good_for(Duration::ZERO) => Ok(old.credentials.clone()),
            (Err(cause), _) => Err(cause),
        }
    }

    /// The store refused them: those that are not brand-new are fetched anew for the next request.
    pub(super) async fn doubt(&self) {
        let mut held = self.held.lock().await;
        let age = |held: &Held| SystemClock.now().since(held.fetched_at);
        if held
            .as_ref()
            .is_some_and(|held| age(held) > Duration::from_secs(30))
        {
            *held = None;
        }
    }
}

/// What a role's endpoint answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoleAnswer {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<Timestamp>,
}

impl From<RoleAnswer> for Held {
    fn from(answer: RoleAnswer) -> Self {
        Self {
            credentials: AwsCredentials::new(
                answer.access_key_id,
                answer.secret_access_key,
                answer.token,
                None,
            ),
            fetched_at: SystemClock.now(),
            expires_at: answer.expiration,
        }
    }
}

struct Chain<'a> {
    http: &'a reqwest::Client,
    environment: &'a Environment,
}

impl Chain<'_> {
    /// The first place that has credentials. A place that is named but does not work ends the search.
    async fn look(&self) -> Result<Held, String> {
        if let Some(held) = self.environment() {
            return Ok(held);
        }
        if let Some(held) = self.profile()? {
            return Ok(held);
        }
        if let Some(held) = self.container().await? {
            return Ok(held);
        }
        self.instance().await.map_err(|cause| {
            format!(
                "no credentials: HA_AWS_ACCESS_KEY and HA_AWS_SECRET_KEY are not set, and neither environment, profile nor \
                 container has any, nor the instance: {cause}"
            )
        })
    }

    fn environment(&self) -> Option<Held> {
        let var = &self.environment;
        let key = var("AWS_ACCESS_KEY_ID")?;
        let secret = var("AWS_SECRET_ACCESS_KEY")?;
        let token = var("AWS_SESSION_TOKEN");
        Some(Held::lasting(AwsCredentials::new(key, secret, token, None)))
    }

    fn profile(&self) -> Result<Option<Held>, String> {
        let var = &self.environment;
        let named = var("AWS_PROFILE");
        let path = var("AWS_SHARED_CREDENTIALS_FILE")
            .map(PathBuf::from)
            .or_else(|| var("HOME").map(|home| PathBuf::from(home).join(".aws/credentials")));
        let text = path.as_ref().map(std::fs::read_to_string);
        let name = named.as_deref().unwrap_or("default");
        let found = match text {
            Some(Ok(text)) => profile_section(&text, name),
            _ => None,
        };
        match (found, named) {
            (Some(credentials), _) => Ok(Some(Held::lasting(credentials))),
            (None, None) => Ok(None),
            (None, Some(name)) => Err(format!(
                "AWS_PROFILE={name}: the credentials file has no such profile with keys"
            )),
        }
    }

    async fn container(&self) -> Result<Option<Held>, String> {
        let var = &self.environment;
        let url = match (
            var("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
            var("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ) {
            (Some(path), _) => format!("{CONTAINER}{path}"),
            (None, Some(url)) => url,
            (None, None) => return Ok(None),
        };
        let token = match var("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(path) => Some(
                std::fs::read_to_string(&path)
                    .map_err(|cause| format!("cannot read {path}: {cause}"))?
                    .trim()
                    .to_owned(),
            ),
            None => var("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        };
        let mut request = self.http.get(url);
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let answer = text_of(request).await;
        let answer = answer.map_err(|cause| format!("the container's role: {cause}"))?;
        role(&answer).map(Some)
    }

    async fn instance(&self) -> Result<Held, String> {
        let var = &self.environment;
        if var("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value == "true") {
            return Err("AWS_EC2_METADATA_DISABLED is true".into());
        }
        let base = var("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| INSTANCE.to_owned());
        let base = base.trim_end_matches('/');
        let token = self
            .http
            .put(format!("{base}/latest/api/token"))
            .header("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS);
        let token = text_of(token).await?;
        let ask = |path: String| {
            let request = self.http.get(format!("{base}/latest/meta-data/{path}"));
            text_of(request.header("x-aws-ec2-metadata-token", token.clone()))
        };
        let names = ask("iam/security-credentials/".into()).await?;
        let name = names.lines().next().unwrap_or_default().trim().to_owned();
        if name.is_empty() {
            return Err("the instance has no role".into());
        }
        role(&ask(format!("iam/security-credentials/{name}")).await?)
    }
}

/// Sends `request` to an endpoint on this machine's own network and reads the answer.
async fn text_of(request: reqwest::RequestBuilder) -> Result<String, String> {
    let plain = |cause: reqwest::Error| cause.without_url().to_string();
    let answer = request.timeout(Duration::from_secs(3)).send().await;
    let answer = answer.map_err(plain)?.error_for_status().map_err(plain)?;
    answer.text().await.map_err(plain)
}

fn role(answer: &str) -> Result<Held, String> {
    serde_json::from_str::<RoleAnswer>(answer)
        .map(Held::from)
        // The cause would quote the answer.
        .map_err(|_| "the role's answer holds no credentials".into())
}

/// The keys below `[name]` of an AWS credentials file.
fn profile_section(text: &str, name: &str) -> Option<AwsCredentials> {
    let mut inside = false;
    let (mut key, mut secret, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            inside = section.trim() == name;
        } else if inside && let Some((name, value)) = line.split_once('=') {
            let value = value.trim().to_owned();
            match name.trim() {
                "aws_access_key_id" => key = Some(value),
                "aws_secret_access_key" => secret = Some(value),
                "aws_session_token" => token = Some(value),
                _ => {}
            }
        }
    }
    Some(AwsCredentials::new(key?, secret?, token, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn a_profile_is_read_by_its_name() {
        let text = "[default]\naws_access_key_id = A\naws_secret_access_key=B\n[other]\n# note\naws_access_key_id=C\naws_secret_access_key= D=\naws_session_token=E\n[half]\naws_access_key_id=F\n";
        let default = profile_section(text, "default").unwrap();
        assert_eq!(default.aws_access_key_id(), "A");
        let other = profile_section(text, "other").unwrap();
        assert_eq!(other.aws_secret_access_key(), "D=");
        assert_eq!(other.token().as_deref(), Some("E"));
        assert!(profile_section(text, "half").is_none());
        assert!(profile_section(text, "none").is_none());
    }

    #[test]
    fn a_roles_answer_tells_when_it_ends() {
        let held = role(r#"{"Code":"Success","AccessKeyId":"A","SecretAccessKey":"B","Token":"C","Expiration":"2020-01-01T00:00:00Z"}"#).unwrap();
        assert!(!held.is_good_for(Duration::ZERO));
        assert!(role("{}").is_err());
    }

    /// Plays an endpoint that hands out credentials until it is dropped: the role named `role-a`, by the instance's protocol
    /// and below `/container`. Those of the n-th answer have the key `A<n>`.
    struct Played {
        address: std::net::SocketAddr,
        answers: Arc<AtomicUsize>,
        _service: tokio::task::JoinSet<()>,
    }

    impl Played {
        async fn new(lifetimes: Vec<&'static str>) -> Self {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let answers = Arc::new(AtomicUsize::new(0));
            let (count, mut service) = (Arc::clone(&answers), tokio::task::JoinSet::new());
            service.spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut buffer = vec![0; 4096];
                    let read = stream.read(&mut buffer).await.unwrap();
                    let request = String::from_utf8_lossy(&buffer[..read]).to_lowercase();
                    let body = answer(&request, &count, &lifetimes);
                    let status = if body.is_empty() { "401 No" } else { "200 OK" };
                    let length = body.len();
                    let text = format!(
                        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                    );
                    stream.write_all(text.as_bytes()).await.unwrap();
                }
            });
            Self {
                address,
                answers,
                _service: service,
            }
        }

        fn answers(&self) -> usize {
            self.answers.load(Ordering::SeqCst)
        }

        /// The chain of a process that has these variables.
        fn credentials(&self, variables: &[(&'static str, &str)]) -> Credentials {
            let at = |text: &str| text.replace("{at}", &format!("http://{}", self.address));
            let variables = variables.iter().map(|(name, value)| (*name, at(value)));
            let variables: BTreeMap<&str, String> = variables.collect();
            let http = crate::outbound::client(Duration::from_secs(1), Duration::from_secs(3));
            Credentials {
                source: Source::Chain {
                    http: http.unwrap(),
                    environment: Box::new(move |name| variables.get(name).cloned()),
                },
                held: Mutex::new(None),
            }
        }
    }

    fn answer(request: &str, count: &AtomicUsize, lifetimes: &[&str]) -> String {
        let role = || {
            let n = count.fetch_add(1, Ordering::SeqCst);
            let until = lifetimes[n.min(lifetimes.len() - 1)];
            format!(
                r#"{{"AccessKeyId":"A{n}","SecretAccessKey":"B","Token":"C","Expiration":"{until}"}}"#
            )
        };
        let roles = "get /latest/meta-data/iam/security-credentials/";
        let may = request.contains("x-aws-ec2-metadata-token: tok");
        match request.split_once(" http/").map_or("", |(line, _)| line) {
            "put /latest/api/token" if request.contains("-ttl-seconds: 21600") => "tok".into(),
            line if line == roles && may => "role-a\n".into(),
            line if line.strip_prefix(roles) == Some("role-a") && may => role(),
            "get /container" if request.contains("authorization: word") => role(),
            _ => String::new(),
        }
    }

    const INSTANCE: (&str, &str) = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "{at}/");
    const LONG: &str = "2999-01-01T00:00:00Z";

    async fn key(credentials: &Credentials) -> String {
        let found = credentials.get().await.unwrap();
        found.aws_access_key_id().to_owned()
    }

    #[tokio::test]
    async fn an_instance_role_is_asked_by_a_token_and_again_before_it_ends() {
        let soon = SystemClock.now().plus(MARGIN / 2).to_string();
        let played = Played::new(vec![soon.leak(), LONG]).await;
        let credentials = played.credentials(&[INSTANCE]);
        assert_eq!(key(&credentials).await, "A0");
        assert_eq!(key(&credentials).await, "A1", "the first ends soon");
        assert_eq!(key(&credentials).await, "A1", "the second does not");
        assert_eq!(played.answers(), 2);
    }

    #[tokio::test]
    async fn credentials_serve_as_long_as_they_last_when_no_new_ones_come() {
        for (lasts, good) in [(MARGIN / 2, true), (Duration::ZERO, false)] {
            let until = SystemClock.now().plus(lasts).to_string();
            let played = Played::new(vec![until.leak()]).await;
            let credentials = played.credentials(&[INSTANCE]);
            assert_eq!(key(&credentials).await, "A0");
            drop(played);
            assert_eq!(credentials.get().await.is_ok(), good, "{lasts:?}");
        }
    }

    #[tokio::test]
    async fn the_places_are_asked_in_their_order() {
        let played = Played::new(vec![LONG]).await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        let text = "[default]\naws_access_key_id=P\naws_secret_access_key=S\n";
        std::fs::write(&file, text).unwrap();
        let mut all = vec![
            ("AWS_ACCESS_KEY_ID", "E"),
            ("AWS_SECRET_ACCESS_KEY", "S"),
            ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "{at}/container"),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "word"),
        ];
        assert_eq!(key(&played.credentials(&all)).await, "E");
        all.drain(..2);
        assert_eq!(key(&played.credentials(&all)).await, "P");
        all.drain(..1);
        assert_eq!(key(&played.credentials(&all)).await, "A0");
        all.truncate(1);
        let refused = played.credentials(&all).get().await.map(drop);
        assert!(refused.unwrap_err().contains("container"));
        let off = [INSTANCE, ("AWS_EC2_METADATA_DISABLED", "true")];
        let refused = played.credentials(&off).get().await.map(drop);
        assert!(refused.unwrap_err().contains("HA_AWS_ACCESS_KEY"));
        assert_eq!(played.answers(), 1);
    }
}
