//! Settings, declared once: name, type, default and meaning stand in one table, from which come the typed
//! [`Settings`], the list of faults, `--help` and the README's table. They arrive as environment variables and env files;
//! the real environment wins. Every name also works with `_FILE` appended, and an empty value means unset.
//!
//! `serve` and the tools are strict: a fault ends them ([`Variables::settings`]). A recorder never ends because of a
//! setting: it takes the default and tells the fault ([`Variables::forgiving`]). What is odd and harms nothing is a
//! warning, the same sentence for all ([`Settings::warnings`]).

pub mod authorities;
mod env_file;
mod parse;
mod secrets;
mod variables;

pub(crate) use env_file::{EnvFile, quoted};
pub(crate) use secrets::SHORTEST_KEY;
pub use variables::Variables;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
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

/// How often the display refreshes; `HA_DISPLAY_RATE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisplayRate {
    /// As often as frames are taken.
    Match,
    /// 60 times a second, as Chromium draws where the display has no rate.
    Sixty,
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
        let is_hidden = Self::SECRET || secrets::is_pem(text);
        if is_hidden { "***" } else { text }.to_owned()
    }
}

macro_rules! settings {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $name:literal $(or $default:literal)?, $help:literal;)*) => {
        /// Every setting, typed.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $(#[doc = $help] $(#[$doc])* pub $field: $type,)*
            /// What is set and does not do what one may think, a sentence each.
            pub warnings: Vec<String>,
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
            /// Takes the default where a value is not what is expected, which is a fault.
            fn build(values: &BTreeMap<String, String>, faults: &mut Vec<String>) -> Self {
                Self {
                    $($field: take::<$type>(values, $name, settings!(@default $($default)?), faults),)*
                    warnings: Vec::new(),
                }
            }
        }
    };
    (@default) => { None };
    (@default $default:literal) => { Some($default) };
}

settings! {
    storage: Storage = "HA_RECORDING_STORAGE" or "local", "where chunks are kept: local or s3";
    chunk_folder: Folder = "CHUNK_FOLDER" or "/chunks", "folder of the chunks below a recording's folder or key prefix";
    chunk_seconds: Whole<1, 300> = "CHUNK_TIME_SIZE" or "10", "seconds per chunk";
    keyframe_seconds: Whole<1, 60> = "HA_KEYFRAME_SECONDS" or "2", "seconds between keyframes";
    quick_preroll_seconds: Whole<0, 30> = "HA_QUICK_PREROLL_SECONDS" or "0", "quick start: seconds kept in memory while nothing is recorded, so that a recording begins when it was ordered; 0 captures nothing before the order";
    display_rate: DisplayRate = "HA_DISPLAY_RATE" or "match", "how often the display refreshes: match (as often as FRAMERATE), or 60 times a second";
    gap_mode: crate::model::timeline::GapMode = "HA_GAP_MODE" or "cut", "what becomes of a gap in the video: cut it out, or hold the last frame";
    s3_endpoint: Option<Url> = "HA_AWS_S3_SERVICE_ENDPOINT", "URL of an S3-compatible store; without it AWS";
    s3_addressing: Addressing = "HA_S3_ADDRESSING" or "auto", "how a bucket is named in requests: path, host, or auto (path where an endpoint is set, host on AWS)";
    s3_bucket: String = "HA_AWS_S3_BUCKET" or "ov-recordings", "bucket, optionally bucket/path";
    s3_headers: Headers = "HA_AWS_S3_HEADERS" or "{}", "JSON object of headers for uploads";
    s3_access_key: Option<String> = "HA_AWS_ACCESS_KEY", "static access key; without it the AWS chain";
    s3_secret_key: Option<Secret> = "HA_AWS_SECRET_KEY", "static secret key";
    s3_region: String = "HA_AWS_REGION" or "us-east-1", "region";
    s3_server: Switch = "HA_S3_SERVER" or "off", "the built-in S3 server on this machine: on or off; chunks go there where storage is s3 and no endpoint is set";
    s3_server_max_bytes: Option<u64> = "HA_S3_SERVER_MAX_BYTES", "most bytes that the built-in S3 server keeps";
    s3_server_port: Port = "MINIO_API_PORT" or "9000", "port of the built-in S3 server";
    minio_console_port: Option<String> = "MINIO_CONSOLE_PORT", "accepted and unused: the status page shows the bucket";
    tail_upload_seconds: Whole<1, 60> = "HA_TAIL_UPLOAD_SECONDS" or "2", "seconds between uploads of the running chunk's tail in s3 mode";
    keep_chunks_days: u64 = "HA_KEEP_CHUNKS_DAYS" or "0", "days for which even verified chunks are kept";
    controller_host: Host = "HA_CONTROLLER_HOST" or "localhost", "where recorders reach the controller";
    controller_port: Port = "HA_CONTROLLER_PORT" or "15443", "port of the controller";
    listen_address: std::net::IpAddr = "HA_LISTEN_ADDRESS" or "0.0.0.0", "address the controller listens on";
    controller_username: Option<String> = "HA_CONTROLLER_USERNAME", "HTTP Basic user";
    controller_password: Option<Secret> = "HA_CONTROLLER_PASSWORD", "HTTP Basic password; serve refuses to start without one";
    recorder_token: Option<Secret> = "HA_RECORDER_TOKEN", "token with which recorders register and report, and can do nothing else; without it they use the account";
    viewer_username: Option<String> = "HA_VIEWER_USERNAME", "user that may only read";
    viewer_password: Option<Secret> = "HA_VIEWER_PASSWORD", "password of the user that may only read";
    tls_cert: Option<PathBuf> = "HA_TLS_CERT", "PEM file of the certificate chain; with HA_TLS_KEY the controller speaks HTTPS";
    tls_key: Option<PathBuf> = "HA_TLS_KEY", "PEM file of the certificate's key";
    controller_ca: Option<PathBuf> = "HA_CONTROLLER_CA", "PEM file of the authority that recorders trust for the controller";
    ca_file: Option<PathBuf> = "HA_CA_FILE", "PEM file of further authorities, trusted for the relay's targets, the store and the controller";
    trusted_proxies: Several<ipnet::IpNet> = "HA_TRUSTED_PROXIES" or "", "networks of proxies whose X-Forwarded-For is believed";
    heartbeat_seconds: Whole<1, 300> = "HEARTBEAT_INTERVAL" or "10", "seconds between heartbeats";
    max_missed_heartbeats: Whole<1, 100> = "HA_MAX_MISSED_HEARTBEATS" or "3", "missed heartbeats, or chunk times without progress, before a failover";
    stall_seconds: Whole<1, 3600> = "HA_STALL_SECONDS" or "5", "seconds for which a recorder may be frozen, or record nothing more: then it is asked, and replaced where it does not answer";
    failover_check_seconds: Whole<1, 3600> = "HA_FAILOVER_CHECK_INTERVAL" or "15", "seconds between scheduled failover checks; events are acted on at once";
    failover_max_attempts: Whole<1, 100> = "HA_FAILOVER_MAX_ATTEMPTS" or "5", "failovers of one session in the window before it is given up";
    failover_window_seconds: Whole<1, 86400> = "HA_FAILOVER_WINDOW_SECONDS" or "600", "seconds of that window";
    session_cleanup_seconds: Whole<1, 86400> = "HA_SESSION_CLEANUP_INTERVAL" or "30", "seconds between clean-ups";
    session_max_inactive_seconds: Whole<1, 31536000> = "HA_SESSION_MAX_INACTIVE_TIME" or "600", "seconds after which an ended session is removed";
    s3_cleanup: Switch = "HA_S3_CLEANUP_ENABLED" or "true", "delete a finished and verified recording's chunks";
    s3_cleanup_batch: Whole<1, 1000> = "HA_S3_CLEANUP_BATCH_SIZE" or "1000", "chunks deleted by one request";
    relay: Option<Switch> = "OPENVIDU_WEBHOOK", "relay OpenVidu's webhooks: true or false; on where a target is set";
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
    alert_url: Option<Url> = "HA_ALERT_URL", "address that gets a POST when something is wrong that a person must know, again when it gets worse, and when it is over: JSON with a plain `text`, as chat hooks take it";
    alive_url: Option<Url> = "HA_ALIVE_URL", "address that is called once a minute while the controller is well; whoever watches it hears when the machine is gone";
    openvidu_url: Option<Url> = "OPENVIDU_URL", "address of OpenVidu's REST interface, such as https://openvidu.example.com; it is asked whether a session is still recorded";
    openvidu_secret: Option<Secret> = "OPENVIDU_SECRET", "OpenVidu's secret, for its REST interface";
    orphan_minutes: Whole<1, 1440> = "HA_ORPHAN_MINUTES" or "10", "minutes for which a backup records on while OpenVidu, which had answered before, cannot be reached";
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
#[error("invalid settings:\n  {}", .0.join("\n  "))]
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

/// A machine's name or address, without scheme and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(String);

impl Host {
    /// The name or address alone.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it stands in a URL or before a port: an IPv6 address in brackets.
    pub fn in_url(&self) -> String {
        match self.0.contains(':') {
            true => format!("[{}]", self.0),
            false => self.0.clone(),
        }
    }
}

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

    /// Whether the built-in S3 server is wanted.
    pub const fn s3_server_on(&self) -> bool {
        self.s3_server.0
    }

    /// Nothing says whether the built-in S3 server is wanted: where an earlier version kept chunks in it, it goes on.
    pub fn go_on_with_store_in(&mut self, data_dir: &std::path::Path) {
        let is_aws = self.storage == Storage::S3 && self.s3_endpoint.is_none();
        let store = data_dir.join("s3");
        if is_aws && !self.s3_server_on() && store.is_dir() {
            self.s3_server = Switch(true);
            self.warnings.push(format!(
                "the built-in S3 server goes on, for {} holds chunks; write HA_S3_SERVER=on into the settings and run \
                 \"ov2-ha-recorder reconfigure\", or recorders look for it at AWS; HA_S3_SERVER=off uses AWS",
                store.display()
            ));
        }
    }

    /// Where chunks are kept, for a person.
    pub fn store_place(&self) -> String {
        let bucket = &self.s3_bucket;
        match (self.storage, &self.s3_endpoint) {
            (Storage::Local, _) => format!("the folder {}", self.recording_path.display()),
            (Storage::S3, Some(url)) => format!("the bucket {bucket} at {}", url.origin()),
            (Storage::S3, None) if self.s3_server_on() => format!(
                "the bucket {bucket} of the built-in server, {}:{}",
                self.controller_host.in_url(),
                self.s3_server_port.0
            ),
            (Storage::S3, None) => format!("the bucket {bucket} at AWS, {}", self.s3_region),
        }
    }

    /// Whether OpenVidu's webhooks are passed on.
    pub fn relay_on(&self) -> bool {
        self.relay.is_none_or(|Switch(on)| on) && !self.relay_endpoints.0.is_empty()
    }

    /// Why nothing is passed on where a half of the settings says that it should be.
    pub fn relay_is_off_although_set(&self) -> Option<&'static str> {
        match (self.relay, self.relay_endpoints.0.is_empty()) {
            (Some(Switch(true)), true) => Some(
                "the relay is off: OPENVIDU_WEBHOOK is true, but OPENVIDU_WEBHOOK_ENDPOINT names no target",
            ),
            (Some(Switch(false)), false) => Some(
                "the relay is off: OPENVIDU_WEBHOOK is false, although OPENVIDU_WEBHOOK_ENDPOINT names a target; \
                 take OPENVIDU_WEBHOOK out to switch it on",
            ),
            _ => None,
        }
    }

    /// Takes back what cannot hold together, which is a fault, and warns of what only looks as if it did something.
    fn reconcile(&mut self, faults: &mut Vec<String>) {
        let mut half = |names: &str| faults.push(format!("{names}: set both or neither"));
        if self.s3_access_key.is_some() != self.s3_secret_key.is_some() {
            half("HA_AWS_ACCESS_KEY and HA_AWS_SECRET_KEY");
            (self.s3_access_key, self.s3_secret_key) = (None, None);
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            half("HA_TLS_CERT and HA_TLS_KEY");
        }
        if self.viewer_username.is_some() != self.viewer_password.is_some() {
            half("HA_VIEWER_USERNAME and HA_VIEWER_PASSWORD");
            (self.viewer_username, self.viewer_password) = (None, None);
        }
        match (&self.openvidu_url, &self.openvidu_secret) {
            (Some(_), None) => {
                faults.push("OPENVIDU_SECRET: required where OPENVIDU_URL is set".into());
                self.openvidu_url = None;
            }
            (None, Some(_)) => self.warnings.push(
                "OPENVIDU_SECRET is of no use without OPENVIDU_URL: OpenVidu is not asked whether it still records".into(),
            ),
            _ => {}
        }
        if self.s3_server_on() && self.s3_access_key.is_none() {
            faults.push(
                "HA_AWS_ACCESS_KEY and HA_AWS_SECRET_KEY: required while the built-in S3 server is on".into(),
            );
        }
        let off = self.relay_is_off_although_set();
        self.warnings.extend(off.map(str::to_owned));
    }

    /// Takes back files of further authorities that cannot be used, and says why.
    pub fn drop_unusable_authorities(&mut self) -> Vec<String> {
        let Some(path) = &self.ca_file else {
            return Vec::new();
        };
        let Err(fault) = authorities::read(path) else {
            return Vec::new();
        };
        let fault = format!("HA_CA_FILE={}: {fault}", path.display());
        self.ca_file = None;
        vec![fault]
    }

    /// These settings where there is no fault; otherwise the faults, and below them the warnings, which may explain them.
    fn unless(self, faults: Vec<String>) -> Result<Self, Faults> {
        if faults.is_empty() {
            return Ok(self);
        }
        let warnings = self.warnings.iter();
        let warnings = warnings.map(|warning| format!("warning: {warning}"));
        Err(Faults(faults.into_iter().chain(warnings).collect()))
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
) -> T {
    if let Some(text) = values.get(name) {
        match T::parse(text) {
            Some(value) => return value,
            None => faults.push(format!(
                "{name}={}: expected {}",
                T::shown(text),
                T::EXPECTED
            )),
        }
    }
    T::parse(default.unwrap_or_default())
        .unwrap_or_else(|| unreachable!("the default of {name} is one of its values"))
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
            "warning: HA_NO_SUCH",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("hidden"), "{text}");
    }

    #[test]
    fn the_relay_is_on_where_there_is_a_target_and_says_why_not() {
        let relay = |pairs: &[(&str, &str)]| {
            let settings = Variables::of(pairs.iter().copied()).settings().unwrap();
            (settings.relay_on(), settings.warnings.len())
        };
        let (on, target) = (
            "OPENVIDU_WEBHOOK",
            ("OPENVIDU_WEBHOOK_ENDPOINT", "http://x"),
        );
        assert_eq!(relay(&[]), (false, 0));
        assert_eq!(relay(&[target]), (true, 0));
        assert_eq!(relay(&[(on, "true"), target]), (true, 0));
        assert_eq!(relay(&[(on, "true")]), (false, 1));
        assert_eq!(relay(&[(on, "false")]), (false, 0));
        assert_eq!(relay(&[(on, "false"), target]), (false, 1));
    }

    #[test]
    fn authorities_that_cannot_be_used_are_taken_back_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "no certificate\n").unwrap();
        for path in [empty.to_str().unwrap(), "/no/such.pem"] {
            let variables = Variables::of([("HA_CA_FILE", path)]);
            let (mut settings, faults) = variables.forgiving();
            assert_eq!(faults, Vec::<String>::new());
            let faults = settings.drop_unusable_authorities();
            assert!(
                matches!(&faults[..], [only] if only.starts_with("HA_CA_FILE=")),
                "{faults:?}"
            );
            assert_eq!(settings.ca_file, None);
            assert!(variables.settings_of_service().is_err());
        }
    }
}
