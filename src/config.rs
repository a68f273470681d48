//! Settings, declared once: name, type, default and meaning stand in one table, from which come the typed
//! [`Settings`], the list of faults, `--help` and the README's table. They arrive as environment variables and env files;
//! the real environment wins. Every name also works with `_FILE` appended, and an empty value means unset.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A value that must not be shown: it prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes `text` as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one who needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

/// Where chunks are kept; `HA_RECORDING_STORAGE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In the recording's folder.
    Local,
    /// In an S3-compatible store.
    S3,
}

/// How a bucket is named in a request; `HA_S3_ADDRESSING`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// In the path where an endpoint is set, in the host name on AWS.
    Auto,
    /// `https://endpoint/bucket/key`.
    Path,
    /// `https://bucket.endpoint/key`.
    Host,
}

/// Headers from a setting, in the order given; values may be secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl fmt::Debug for Headers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

/// Several values separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Several<T>(pub Vec<T>);

/// A type that a setting can have.
pub trait Parse: Sized {
    /// What is expected, for the message about a fault.
    const EXPECTED: &'static str;
    /// Whether the value must never be shown.
    const SECRET: bool = false;
    /// Reads a value; `None` when it is not what is expected.
    fn parse(text: &str) -> Option<Self>;
    /// The value as a person may see it.
    fn shown(text: &str) -> String {
        if Self::SECRET { "***" } else { text }.to_owned()
    }
}

macro_rules! settings {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $name:literal $(or $default:literal)?, $help:literal;)*) => {
        /// Every setting, typed.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $(#[doc = $help] $(#[$doc])* pub $field: $type,)*
        }

        /// The table of settings in the order of the README.
        pub const TABLE: &[Setting] = &[
            $(Setting {
                name: $name,
                default: settings!(@default $($default)?),
                expected: <$type as Parse>::EXPECTED,
                secret: <$type as Parse>::SECRET,
                shown: <$type as Parse>::shown,
                help: $help,
            },)*
        ];

        impl Settings {
            fn build(values: &BTreeMap<String, String>, faults: &mut Vec<String>) -> Option<Self> {
                $(let $field = take::<$type>(values, $name, settings!(@default $($default)?), faults);)*
                Some(Self { $($field: $field?,)* })
            }
        }
    };
    (@default) => { None };
    (@default $default:literal) => { Some($default) };
}

settings! {
    storage: Storage = "HA_RECORDING_STORAGE" or "local", "where chunks are kept: local or s3";
    chunk_folder: Folder = "CHUNK_FOLDER" or "/chunks", "folder of the chunks below a recording's folder or key prefix";
    chunk_seconds: Whole<1, 300> = "CHUNK_TIME_SIZE" or "10", "seconds a chunk";
    gap_mode: crate::model::timeline::GapMode = "HA_GAP_MODE" or "cut", "what becomes of a gap in the video: cut it out, or hold the last frame";
    s3_endpoint: Option<Url> = "HA_AWS_S3_SERVICE_ENDPOINT", "URL of an S3-compatible store; without it AWS";
    s3_addressing: Addressing = "HA_S3_ADDRESSING" or "auto", "how a bucket is named in requests: path, host, or auto (path where an endpoint is set, host on AWS)";
    s3_bucket: String = "HA_AWS_S3_BUCKET" or "ov-recordings", "bucket, optionally bucket/path";
    s3_headers: Headers = "HA_AWS_S3_HEADERS" or "{}", "JSON object of headers for uploads";
    s3_access_key: Option<String> = "HA_AWS_ACCESS_KEY", "static access key; without it the AWS chain";
    s3_secret_key: Option<Secret> = "HA_AWS_SECRET_KEY", "static secret key";
    s3_region: String = "HA_AWS_REGION" or "us-east-1", "region";
    s3_server: Option<Switch> = "HA_S3_SERVER", "the built-in S3 server: on or off; on when storage is s3 and no endpoint is set";
    s3_server_max_bytes: Option<u64> = "HA_S3_SERVER_MAX_BYTES", "most bytes that the built-in S3 server keeps";
    s3_server_port: Port = "MINIO_API_PORT" or "9000", "port of the built-in S3 server";
    minio_console_port: Option<Port> = "MINIO_CONSOLE_PORT", "accepted and unused: the status page shows the bucket";
    tail_upload_seconds: Whole<1, 60> = "HA_TAIL_UPLOAD_SECONDS" or "2", "seconds between uploads of the running chunk's tail in s3 mode";
    keep_chunks_days: u64 = "HA_KEEP_CHUNKS_DAYS" or "0", "days for which even verified chunks are kept";
    controller_host: String = "HA_CONTROLLER_HOST" or "localhost", "where recorders reach the controller";
    controller_port: Port = "HA_CONTROLLER_PORT" or "15443", "port of the controller";
    listen_address: std::net::IpAddr = "HA_LISTEN_ADDRESS" or "0.0.0.0", "address the controller listens on";
    controller_username: Option<String> = "HA_CONTROLLER_USERNAME", "HTTP Basic user";
    controller_password: Option<Secret> = "HA_CONTROLLER_PASSWORD", "HTTP Basic password; serve refuses to start without one";
    viewer_username: Option<String> = "HA_VIEWER_USERNAME", "user that may only read";
    viewer_password: Option<Secret> = "HA_VIEWER_PASSWORD", "password of the user that may only read";
    tls_cert: Option<PathBuf> = "HA_TLS_CERT", "PEM file of the certificate chain; with HA_TLS_KEY the controller speaks HTTPS";
    tls_key: Option<PathBuf> = "HA_TLS_KEY", "PEM file of the certificate's key";
    controller_ca: Option<PathBuf> = "HA_CONTROLLER_CA", "PEM file of the authority that recorders trust for the controller";
    ca_file: Option<PathBuf> = "HA_CA_FILE", "PEM file of further authorities, trusted for the relay's targets, the store and the controller";
    trusted_proxies: Several<ipnet::IpNet> = "HA_TRUSTED_PROXIES" or "", "networks of proxies whose X-Forwarded-For is believed";
    heartbeat_seconds: Whole<1, 300> = "HEARTBEAT_INTERVAL" or "10", "seconds between heartbeats";
    max_missed_heartbeats: Whole<1, 100> = "HA_MAX_MISSED_HEARTBEATS" or "3", "missed heartbeats, or chunk times without progress, before a failover";
    failover_check_seconds: Whole<1, 3600> = "HA_FAILOVER_CHECK_INTERVAL" or "15", "seconds between scheduled failover checks; events are acted on at once";
    failover_max_attempts: Whole<1, 100> = "HA_FAILOVER_MAX_ATTEMPTS" or "5", "failovers of one session in the window before it is given up";
    failover_window_seconds: Whole<1, 86400> = "HA_FAILOVER_WINDOW_SECONDS" or "600", "seconds of that window";
    session_cleanup_seconds: Whole<1, 86400> = "HA_SESSION_CLEANUP_INTERVAL" or "30", "seconds between clean-ups";
    session_max_inactive_seconds: Whole<1, 31536000> = "HA_SESSION_MAX_INACTIVE_TIME" or "600", "seconds after which an ended session is removed";
    s3_cleanup: Switch = "HA_S3_CLEANUP_ENABLED" or "true", "delete a finished and verified recording's chunks";
    s3_cleanup_batch: Whole<1, 1000> = "HA_S3_CLEANUP_BATCH_SIZE" or "1000", "chunks deleted by one request";
    relay: Switch = "OPENVIDU_WEBHOOK" or "false", "relay OpenVidu's webhooks";
    relay_endpoints: Several<Url> = "OPENVIDU_WEBHOOK_ENDPOINT" or "", "targets of the relay, separated by commas";
    relay_headers: Headers = "OPENVIDU_WEBHOOK_HEADERS" or "{}", "headers of the relay: JSON object, JSON array of \"Name: value\", or Name:value,Name:value";
    webhook_tls_verify: Switch = "HA_WEBHOOK_TLS_VERIFY" or "true", "check the certificates of the relay's targets; false as OpenVidu's own sender does";
    webhook_signing_secret: Option<Secret> = "HA_WEBHOOK_SIGNING_SECRET", "secret (whsec_…) that relayed webhooks are signed with";
    webhook_token: Option<Secret> = "HA_WEBHOOK_TOKEN", "token that webhooks must carry";
    webhook_allow: Several<ipnet::IpNet> = "HA_WEBHOOK_ALLOW" or "", "networks that webhooks may come from; empty: with a token all, without one this machine and its containers";
    outbox_max_bytes: u64 = "HA_WEBHOOK_OUTBOX_MAX_BYTES" or "268435456", "most bytes of webhooks kept for delivery and replay; beyond it the oldest are dropped";
    outbox_keep_days: Whole<1, 365> = "HA_WEBHOOK_KEEP_DAYS" or "7", "days for which delivered webhooks and dead letters are kept for replay";
    image_name: String = "IMAGE_NAME" or "openvidu/openvidu-recording", "the recording image";
    image_tag: String = "IMAGE_TAG" or "2.32.2", "its tag";
    recording_path: PathBuf = "OPENVIDU_RECORDING_PATH" or "/opt/openvidu/recordings", "the recordings folder on the host";
    runtime: RuntimeKind = "HA_RUNTIME" or "docker", "where recorders run: docker or process";
    profile: Profile = "SPRING_PROFILES_ACTIVE" or "prod", "dev and test show the API's pages, prod hides them";
    swagger: Option<Switch> = "SWAGGER_ENABLED", "show the API's pages in any profile";
    swagger_ui: Option<Switch> = "SWAGGER_UI_ENABLED", "show the API's browsable page";
    log_format: LogFormat = "HA_LOG_FORMAT" or "text", "form of the log lines: text or json";
    debug: Switch = "DEBUG_MODE" or "false", "more logs; the recorder keeps its logs beside the video";
}

/// One row of the table of settings.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The variable's name.
    pub name: &'static str,
    /// What holds when it is not set.
    pub default: Option<&'static str>,
    /// What it must be.
    pub expected: &'static str,
    /// Whether its value must never be shown.
    pub secret: bool,
    /// The value as a person may see it: `***` for a secret, scheme and host of a URL.
    pub shown: fn(&str) -> String,
    /// What it means.
    pub help: &'static str,
}

/// Faults in the settings, all of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the settings are not right:\n  {}", .0.join("\n  "))]
pub struct Faults(pub Vec<String>);

/// A whole number between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Whole<MIN, MAX> {
    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number as seconds.
    pub const fn seconds(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

/// A TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(pub u16);

/// `on` or `off`, `true` or `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(pub bool);

/// A folder's name without slashes at its ends, safe to lie below another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder(pub String);

/// An `http` or `https` URL; it may carry a password, so its `Debug` shows scheme and host only.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// The whole URL.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Scheme and host with port, without user, password, path and query.
    pub fn origin(&self) -> String {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", &self.0));
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        format!("{scheme}://{host}")
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.origin())
    }
}

/// Where recorders run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeKind {
    /// In Docker containers.
    Docker,
    /// As processes of this machine.
    Process,
}

/// Who the service is set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Developers.
    Dev,
    /// Tests.
    Test,
    /// Everybody else.
    Prod,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Variables from an env file and the real environment.
#[derive(Clone, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// The process's environment.
    pub fn of_process() -> Self {
        Self(std::env::vars().collect())
    }

    /// Variables given one by one.
    pub fn of<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
        )
    }

    /// The same with what the env file at `path` says beneath: what is already set wins.
    ///
    /// # Errors
    /// When the file cannot be read or a line is no `NAME=value`.
    pub fn over_file(self, path: &Path) -> Result<Self, Faults> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| Faults(vec![format!("cannot read {}: {cause}", path.display())]))?;
        self.over_text(&text, path)
    }

    /// The same with what the text of the env file at `path` says beneath.
    ///
    /// # Errors
    /// When a line is no `NAME=value`.
    pub fn over_text(mut self, text: &str, path: &Path) -> Result<Self, Faults> {
        // The last line of a name holds, as for a shell.
        for (name, value) in parse_env_file(text, path)?.into_iter().rev() {
            self.0.entry(name).or_insert(value);
        }
        Ok(self)
    }

    /// The same with `name` set, whatever it was before.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The value of `name`, or what the file named by `<name>_FILE` holds; `None` when unset or empty.
    pub fn get(&self, name: &str) -> Option<String> {
        self.resolve(name).ok().flatten()
    }

    fn resolve(&self, name: &str) -> Result<Option<String>, String> {
        let set = |name: &str| self.0.get(name).filter(|value| !value.is_empty());
        if let Some(value) = set(name) {
            return Ok(Some(value.clone()));
        }
        let Some(path) = set(&format!("{name}_FILE")) else {
            return Ok(None);
        };
        let value = std::fs::read_to_string(path)
            .map_err(|cause| format!("{name}_FILE={path}: cannot be read: {cause}"))?;
        let value = value.trim_end_matches(['\r', '\n']);
        Ok((!value.is_empty()).then(|| value.to_owned()))
    }

    /// Reads every setting.
    ///
    /// # Errors
    /// All faults at once: values that are not what is expected, names that do not exist, combinations that cannot work.
    pub fn settings(&self) -> Result<Settings, Faults> {
        let mut faults = self.unknown();
        let mut values = BTreeMap::new();
        for setting in TABLE {
            match self.resolve(setting.name) {
                Ok(Some(value)) => {
                    values.insert(setting.name.to_owned(), value);
                }
                Ok(None) => {}
                Err(fault) => faults.push(fault),
            }
        }
        let settings = Settings::build(&values, &mut faults);
        if let Some(settings) = &settings {
            faults.extend(settings.contradictions());
        }
        match settings {
            Some(settings) if faults.is_empty() => Ok(settings),
            _ => Err(Faults(faults)),
        }
    }

    fn unknown(&self) -> Vec<String> {
        let known = |name: &str| TABLE.iter().any(|setting| setting.name == name);
        self.0
            .keys()
            .filter(|name| name.starts_with("HA_"))
            .filter(|name| !known(name) && !name.strip_suffix("_FILE").is_some_and(known))
            .map(|name| {
                format!(
                    "{name}: there is no such setting; see \"ov2-ha-recorder config\" for all names"
                )
            })
            .collect()
    }
}

impl Settings {
    /// Seconds without a heartbeat after which a recorder is held lost.
    pub const fn heartbeat_timeout(&self) -> Duration {
        Duration::from_secs(
            self.heartbeat_seconds.get() as u64 * self.max_missed_heartbeats.get() as u64,
        )
    }

    /// Seconds without a chunk or byte more after which a recorder is held stuck.
    pub const fn stuck_timeout(&self) -> Duration {
        Duration::from_secs(
            self.chunk_seconds.get() as u64 * self.max_missed_heartbeats.get() as u64,
        )
    }

    /// The recording image with its tag.
    pub fn image(&self) -> String {
        format!("{}:{}", self.image_name, self.image_tag)
    }

    /// Where the built-in S3 server is wanted.
    pub fn s3_server_on(&self) -> bool {
        match self.s3_server {
            Some(Switch(on)) => on,
            None => self.storage == Storage::S3 && self.s3_endpoint.is_none(),
        }
    }

    fn contradictions(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.s3_access_key.is_some() != self.s3_secret_key.is_some() {
            faults.push("HA_AWS_ACCESS_KEY and HA_AWS_SECRET_KEY: set both or neither".into());
        }
        if self.s3_server_on() && self.s3_access_key.is_none() {
            faults.push(
                "HA_AWS_ACCESS_KEY and HA_AWS_SECRET_KEY: required while the built-in S3 server is on; \
                 HA_S3_SERVER=off uses AWS"
                    .into(),
            );
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            faults.push("HA_TLS_CERT and HA_TLS_KEY: set both or neither".into());
        }
        if self.viewer_username.is_some() != self.viewer_password.is_some() {
            faults.push("HA_VIEWER_USERNAME and HA_VIEWER_PASSWORD: set both or neither".into());
        }
        if self.relay.0 && self.relay_endpoints.0.is_empty() {
            faults
                .push("OPENVIDU_WEBHOOK_ENDPOINT: required while OPENVIDU_WEBHOOK is true".into());
        }
        faults
    }

    /// What `serve` needs beyond well-formed values.
    ///
    /// # Errors
    /// When the HTTP Basic account is missing.
    pub fn account(&self) -> Result<(&str, &Secret), Faults> {
        let missing = |name| format!("{name}: required; there is no default");
        match (&self.controller_username, &self.controller_password) {
            (Some(name), Some(password)) => Ok((name, password)),
            (name, password) => Err(Faults(
                [
                    name.is_none().then(|| missing("HA_CONTROLLER_USERNAME")),
                    password
                        .is_none()
                        .then(|| missing("HA_CONTROLLER_PASSWORD")),
                ]
                .into_iter()
                .flatten()
                .collect(),
            )),
        }
    }
}

fn take<T: Parse>(
    values: &BTreeMap<String, String>,
    name: &str,
    default: Option<&str>,
    faults: &mut Vec<String>,
) -> Option<T> {
    let text = values.get(name).map_or(default.unwrap_or_default(), |v| v);
    let value = T::parse(text);
    if value.is_none() {
        let shown = T::shown(text);
        faults.push(format!("{name}={shown}: expected {}", T::EXPECTED));
    }
    value
}

/// Lines of `NAME=value`, with comments, `export`, and values in single or double quotes.
fn parse_env_file(text: &str, path: &Path) -> Result<Vec<(String, String)>, Faults> {
    let mut faults = Vec::new();
    let mut pairs = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim().starts_with('#') {
            continue;
        }
        match assignment(line) {
            Some((name, value)) => pairs.push((name.to_owned(), value)),
            None => faults.push(format!(
                "{}:{}: expected NAME=value",
                path.display(),
                number + 1
            )),
        }
    }
    if faults.is_empty() {
        Ok(pairs)
    } else {
        Err(Faults(faults))
    }
}

/// What a line of an env file sets, name and value; `None` when it sets nothing.
pub(crate) fn assignment(line: &str) -> Option<(&str, String)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    is_name(name).then(|| (name, unquote(value.trim())))
}

/// `value` as a line of an env file must spell it to be read as itself: in quotes only where it has to be.
pub(crate) fn quoted(value: &str) -> String {
    if unquote(value.trim()) == value {
        value.to_owned()
    } else {
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn unquote(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote)
            && let Some(end) = rest.rfind(quote)
        {
            let inner = &rest[..end];
            return if quote == '"' {
                inner.replace("\\\"", "\"").replace("\\\\", "\\")
            } else {
                inner.to_owned()
            };
        }
    }
    value
        .split(" #")
        .next()
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}

impl<T: Parse> Parse for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    const SECRET: bool = T::SECRET;
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            Some(None)
        } else {
            T::parse(text).map(Some)
        }
    }
    fn shown(text: &str) -> String {
        T::shown(text)
    }
}

macro_rules! parse {
    ($($type:ty: $expected:literal, |$text:ident| $body:expr;)*) => {
        $(impl Parse for $type {
            const EXPECTED: &'static str = $expected;
            fn parse($text: &str) -> Option<Self> { $body }
        })*
    };
}

parse! {
    String: "a text", |text| (!text.is_empty()).then(|| text.to_owned());
    PathBuf: "a path", |text| (!text.is_empty()).then(|| text.into());
    u64: "a whole number", |text| text.parse().ok();
    std::net::IpAddr: "an IP address", |text| text.parse().ok();
    Port: "a port between 1 and 65535", |text| text.parse().ok().filter(|port| *port > 0).map(Self);
    Switch: "true or false", |text| match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Some(Self(true)),
        "false" | "off" | "no" | "0" => Some(Self(false)),
        _ => None,
    };
    Storage: "local or s3", |text| match text.to_ascii_lowercase().as_str() {
        "local" => Some(Self::Local),
        "s3" => Some(Self::S3),
        _ => None,
    };
    Addressing: "path, host or auto", |text| match text.to_ascii_lowercase().as_str() {
        "auto" => Some(Self::Auto),
        "path" => Some(Self::Path),
        "host" => Some(Self::Host),
        _ => None,
    };
    RuntimeKind: "docker or process", |text| match text {
        "docker" => Some(Self::Docker),
        "process" => Some(Self::Process),
        _ => None,
    };
    Profile: "dev, test or prod", |text| match text {
        "dev" => Some(Self::Dev),
        "test" => Some(Self::Test),
        "prod" => Some(Self::Prod),
        _ => None,
    };
    LogFormat: "text or json", |text| match text {
        "text" => Some(Self::Text),
        "json" => Some(Self::Json),
        _ => None,
    };
    crate::model::timeline::GapMode: "cut or hold", |text| match text {
        "cut" => Some(Self::Cut),
        "hold" => Some(Self::Hold),
        _ => None,
    };
    Folder: "a folder's name", |text| {
        let name = text.trim_matches('/');
        name.split('/').all(|part| crate::model::ids::RecordingId::parse(part).is_ok()).then(|| Self(name.to_owned()))
    };
    Several<ipnet::IpNet>: "networks such as 10.0.0.0/8, separated by commas", |text| {
        several_of(text, |part| part.parse().ok().or_else(|| part.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from)))
    };
}

impl Parse for Url {
    const EXPECTED: &'static str = "an http:// or https:// URL";
    fn parse(text: &str) -> Option<Self> {
        let url = reqwest::Url::parse(text).ok()?;
        (matches!(url.scheme(), "http" | "https") && url.has_host())
            .then(|| Self(text.trim_end_matches('/').to_owned()))
    }
    fn shown(text: &str) -> String {
        match Self::parse(text) {
            Some(url) => url.origin(),
            None if text.contains('@') => "***".to_owned(),
            None => text.to_owned(),
        }
    }
}

impl Parse for Several<Url> {
    const EXPECTED: &'static str = "http:// or https:// URLs separated by commas";
    fn parse(text: &str) -> Option<Self> {
        several_of(text, Url::parse)
    }
    fn shown(text: &str) -> String {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        parts.map(Url::shown).collect::<Vec<_>>().join(",")
    }
}

impl Parse for Secret {
    const EXPECTED: &'static str = "a text";
    const SECRET: bool = true;
    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::new(text))
    }
}

impl Parse for Headers {
    const EXPECTED: &'static str =
        "headers as {\"Name\":\"value\"}, [\"Name: value\"] or Name:value,Name:value";
    const SECRET: bool = true;
    fn parse(text: &str) -> Option<Self> {
        let pair = |text: &str| {
            let (name, value) = text.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        };
        let pairs = match serde_json::from_str(text) {
            Ok(Value::Object(map)) => map
                .into_iter()
                .map(|(name, value)| Some((name, value.as_str()?.to_owned())))
                .collect::<Option<Vec<_>>>()?,
            Ok(Value::Array(list)) => list
                .iter()
                .map(|item| pair(item.as_str()?))
                .collect::<Option<Vec<_>>>()?,
            _ => text.split(',').map(pair).collect::<Option<Vec<_>>>()?,
        };
        let valid = pairs.iter().all(|(name, value)| {
            http::HeaderName::try_from(name).is_ok() && http::HeaderValue::try_from(value).is_ok()
        });
        valid.then_some(Self(pairs))
    }
}

impl<const MIN: u32, const MAX: u32> Parse for Whole<MIN, MAX> {
    const EXPECTED: &'static str = match (MIN, MAX) {
        (1, 60) => "a whole number from 1 to 60",
        (1, 100) => "a whole number from 1 to 100",
        (1, 300) => "a whole number from 1 to 300",
        (1, 1000) => "a whole number from 1 to 1000",
        (1, 365) => "a whole number from 1 to 365",
        (1, 3600) => "a whole number from 1 to 3600",
        (1, 86400) => "a whole number from 1 to 86400",
        _ => "a whole number in range",
    };
    fn parse(text: &str) -> Option<Self> {
        let number = text.parse().ok()?;
        (MIN..=MAX).contains(&number).then_some(Self(number))
    }
}

fn several_of<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Several<T>> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(parse)
        .collect::<Option<Vec<_>>>()
        .map(Several)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_set_gives_the_documented_defaults() {
        let settings = Variables::default().settings().unwrap();
        assert_eq!(settings.storage, Storage::Local);
        assert_eq!(settings.chunk_folder.0, "chunks");
        assert_eq!(settings.heartbeat_timeout(), Duration::from_secs(30));
        assert_eq!(settings.stuck_timeout(), Duration::from_secs(30));
        assert_eq!(settings.image(), "openvidu/openvidu-recording:2.32.2");
    }

    #[test]
    fn all_faults_come_in_one_message_and_no_secret_is_shown() {
        let variables = Variables::of([
            ("CHUNK_TIME_SIZE", "0"),
            ("HA_CONTROLLER_PORT", "99999"),
            ("HA_NO_SUCH", "1"),
            ("HA_AWS_SECRET_KEY", "hidden"),
        ]);
        let text = match variables.settings() {
            Err(faults) => faults.to_string(),
            Ok(_) => panic!("wrong settings were taken"),
        };
        for part in [
            "CHUNK_TIME_SIZE=0",
            "HA_CONTROLLER_PORT=99999",
            "HA_NO_SUCH",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("hidden"), "{text}");
    }

    #[test]
    fn the_environment_wins_over_a_file_and_a_value_may_lie_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let env = folder.path().join("a.env");
        let password = folder.path().join("password");
        std::fs::write(&password, "s3cret\n").unwrap();
        std::fs::write(
            &env,
            format!(
                "# comment\nexport CHUNK_TIME_SIZE=\"5\"\nHEARTBEAT_INTERVAL=7 # seconds\nHA_AWS_REGION=\nHA_CONTROLLER_PASSWORD_FILE={}\n",
                password.display()
            ),
        )
        .unwrap();
        let settings = Variables::of([("HEARTBEAT_INTERVAL", "2")])
            .over_file(&env)
            .unwrap()
            .settings()
            .unwrap();
        assert_eq!(settings.chunk_seconds.get(), 5);
        assert_eq!(settings.heartbeat_seconds.get(), 2);
        assert_eq!(settings.s3_region, "us-east-1");
        assert_eq!(
            settings.controller_password.as_ref().unwrap().expose(),
            "s3cret"
        );
        assert!(!format!("{settings:?}").contains("s3cret"));
    }

    #[test]
    fn relay_headers_are_read_in_all_three_forms() {
        let expected = Headers(vec![("A".into(), "b: c".into()), ("D".into(), "e".into())]);
        for text in [
            r#"{"A":"b: c","D":"e"}"#,
            r#"["A: b: c","D: e"]"#,
            "A:b: c,D:e",
        ] {
            assert_eq!(Headers::parse(text), Some(expected.clone()), "{text}");
        }
        assert_eq!(Headers::parse("no header"), None);
    }

    #[test]
    fn an_origin_holds_no_secret() {
        let url = Url::parse("https://user:pass@host:4443/a?secret=x").unwrap();
        assert_eq!(url.origin(), "https://host:4443");
    }
}
