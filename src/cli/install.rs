//! `install`: puts the service beside an OpenVidu 2 that is already there. It reads OpenVidu's folder, asks what cannot be
//! read, writes the env file and the recorders' copy of it, builds the recording image and starts the service. Run again,
//! it does only what is not so yet. `reconfigure` brings changed settings to the recorders and to OpenVidu.

use super::changes::{Change, Record};
use super::env_text::EnvText;
use super::openvidu::{Deployment, is_ours};
use super::report::Form;
use super::service::{Manager, Verb};
use super::system::{Call, docker_answers, image_id, image_label};
use super::{DataDir, Failure, SettingsFile, exit};
use crate::config::{RuntimeKind, Settings, Storage, TABLE, Variables, quoted};
use crate::outbound::{self, Trust};
use crate::random;
use clap::Args;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

const ENV_FILE: &str = "/etc/ov2-ha-recorder/ov2-ha-recorder.env";
const USUAL_RECORDINGS: &str = "/opt/openvidu/recordings";
const DROP_IN: &str = "/etc/systemd/system/ov2-ha-recorder.service.d/recordings.conf";
/// How long a webhook's target may take when its certificate is tried.
const PROBE: Duration = Duration::from_secs(5);
/// The recordings folder in a recorder's container.
const RECORDINGS_OF_RECORDERS: &str = "/recordings";
/// What an image says of the recorder in it.
const VERSION_LABEL: &str = "ov2-ha-recorder.version";
const BUILD_RECORDER: &str = "/usr/share/ov2-ha-recorder/packaging/docker/build-recorder";

/// Set the service up beside the OpenVidu in a folder.
#[derive(Debug, Args)]
pub(super) struct Install {
    /// The folder in which OpenVidu is installed.
    #[arg(value_name = "OPENVIDU_PATH", default_value = "/opt/openvidu")]
    openvidu: PathBuf,
    /// Ask nothing: take what is found, and the defaults.
    #[arg(long)]
    auto: bool,
    /// Show what would be done and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Leave the recording image as it is.
    #[arg(long)]
    without_image: bool,
    /// Leave the service as it is.
    #[arg(long)]
    without_service: bool,
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    form: Form,
}

/// Bring changed settings to the recorders and to OpenVidu's own .env, and restart the service.
#[derive(Debug, Args)]
pub(super) struct Reconfigure {
    /// The folder in which OpenVidu is installed.
    #[arg(value_name = "OPENVIDU_PATH", default_value = "/opt/openvidu")]
    openvidu: PathBuf,
    /// Show what would be done and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Leave the service as it is.
    #[arg(long)]
    without_service: bool,
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    form: Form,
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
struct Done {
    dry_run: bool,
    openvidu: Deployment,
    steps: Vec<Step>,
    openvidu_lines: Vec<String>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Step {
    what: String,
    changed: bool,
}

impl Install {
    pub(super) fn run(self) -> Result<(), Failure> {
        let openvidu = Deployment::read(&self.openvidu)?;
        let path = env_path(&self.file);
        let env = self.wanted(&openvidu, &path)?;
        let settings = settings(&env, &path)?;
        // Before the first change: what is begun here must come to its end.
        let mut notes = match (self.missing(), self.dry_run) {
            (Some(missing), false) => return Err(missing),
            (missing, _) => Vec::from_iter(missing.map(|it| it.message)),
        };
        let mut steps = Steps {
            record: Record::load(&self.data.data_dir)?,
            data_dir: &self.data.data_dir,
            dry_run: self.dry_run,
            is_built: false,
            done: Vec::new(),
        };
        steps.change(Change::File {
            path: path.clone(),
            text: env.as_str().to_owned(),
            mode: 0o640,
        })?;
        if !self.without_image {
            steps.image(&settings)?;
        }
        steps.recorders(&env, &settings)?;
        let managed = !self.without_service;
        if managed
            && settings.recording_path != Path::new(USUAL_RECORDINGS)
            && sd_notify::booted().unwrap_or(false)
        {
            steps.change(Change::File {
                path: DROP_IN.into(),
                text: drop_in(&settings.recording_path),
                mode: 0o644,
            })?;
        }
        if managed && notes.is_empty() {
            steps.service()?;
        }
        notes.extend(self::notes(&openvidu, &settings));
        if settings.webhook_token.is_none() {
            notes.push(
                "OpenVidu's webhooks are taken without a token, from this machine only; to use one set HA_WEBHOOK_TOKEN, \
                 run \"ov2-ha-recorder reconfigure\" and restart OpenVidu"
                    .into(),
            );
        }
        notes.push(format!(
            "the status page is at {}/ ; its user and password are HA_CONTROLLER_USERNAME and {} in {}",
            page(&settings),
            secret_name(&env, "HA_CONTROLLER_PASSWORD"),
            path.display()
        ));
        // A dry run's token is made for it alone: the one that is written later is another.
        let token = settings.webhook_token.as_ref().filter(|_| self.dry_run);
        let shown = |value: String| match token {
            Some(token) => value.replace(token.expose(), "TOKEN"),
            None => value,
        };
        let lines = openvidu_lines(&settings)
            .into_iter()
            .map(|(name, value)| format!("{name}={}", quoted(&shown(value))))
            .collect();
        steps.conclude(self.form, openvidu, lines, notes)
    }

    /// What keeps this from being done.
    fn missing(&self) -> Option<Failure> {
        if !self.without_image
            && let Err(silence) = docker_answers()
        {
            let message = format!("cannot build the recording image: {}", silence.message);
            return Some(Failure::with(exit::UNAVAILABLE, message));
        }
        let manager = (!self.without_service).then(Manager::find)?;
        let missing = manager.err()?;
        let message = format!("{}, or use --without-service", missing.message);
        Some(Failure::with(exit::UNAVAILABLE, message))
    }

    /// The env file as it shall be: what it says already, what OpenVidu's folder tells, and what the person answers.
    fn wanted(&self, openvidu: &Deployment, path: &Path) -> Result<EnvText, Failure> {
        let mut env = EnvText::new(std::fs::read_to_string(path).unwrap_or_default());
        let old = Variables::default().over_text(env.as_str(), path);
        let recordings = openvidu.recordings.display().to_string();
        for (name, value) in [
            ("OPENVIDU_RECORDING_PATH", recordings.as_str()),
            ("IMAGE_NAME", &openvidu.image.0),
            ("IMAGE_TAG", &openvidu.image.1),
        ] {
            env.set(name, value);
        }
        let host = self.answer(
            &old,
            "HA_CONTROLLER_HOST",
            "address of this machine for recorders",
            &private_address(),
        )?;
        env.set("HA_CONTROLLER_HOST", &host);
        let port = self.answer(
            &old,
            "HA_CONTROLLER_PORT",
            "port of the controller",
            "15443",
        )?;
        env.set("HA_CONTROLLER_PORT", &port);
        self.choose_store(&mut env, &old, path)?;
        if settings(&env, path).is_ok_and(|settings| settings.s3_server_on()) {
            let question = "port of the built-in S3 server";
            let port = self.answer(&old, "MINIO_API_PORT", question, "9000")?;
            env.set("MINIO_API_PORT", &port);
        }
        if old.get("HA_CONTROLLER_USERNAME").is_none() {
            env.set("HA_CONTROLLER_USERNAME", "recorder");
        }
        if old.get("HA_CONTROLLER_PASSWORD").is_none() {
            env.set("HA_CONTROLLER_PASSWORD", &random::hex::<16>());
        }
        if old.get("HA_RECORDER_TOKEN").is_none() {
            env.set("HA_RECORDER_TOKEN", &random::hex::<16>());
        }
        relay(&mut env, &old, openvidu);
        // OpenVidu that posts here already without a token would be turned away until it is restarted with one.
        if old.get("HA_WEBHOOK_TOKEN").is_none() && !openvidu.posts_here() {
            env.set("HA_WEBHOOK_TOKEN", &random::hex::<16>());
        }
        Ok(env)
    }

    /// Chunks in S3 without an endpoint go to AWS, unless the person wants them on this machine, or an earlier version has put
    /// them there by itself.
    fn choose_store(&self, env: &mut EnvText, old: &Variables, path: &Path) -> Result<(), Failure> {
        let is_s3 = |it: &Settings| it.storage == Storage::S3 && it.s3_endpoint.is_none();
        if !settings(env, path).is_ok_and(|settings| is_s3(&settings)) {
            return Ok(());
        }
        let in_use = self.data.data_dir.join("s3").is_dir();
        let question = "keep chunks in the built-in S3 server of this machine (on) or at AWS (off)";
        let usual = if in_use { "on" } else { "off" };
        let choice = self.answer(old, "HA_S3_SERVER", question, usual)?;
        env.set("HA_S3_SERVER", &choice);
        if settings(env, path).is_err() && old.get("HA_AWS_ACCESS_KEY").is_none() {
            env.set("HA_AWS_ACCESS_KEY", "recorder");
            env.set("HA_AWS_SECRET_KEY", &random::hex::<16>());
        }
        Ok(())
    }

    /// What is set already, or the person's answer, or the default.
    fn answer(
        &self,
        old: &Variables,
        name: &str,
        question: &str,
        default: &str,
    ) -> Result<String, Failure> {
        match old.get(name) {
            Some(value) => Ok(value),
            None if self.auto || self.dry_run => Ok(default.to_owned()),
            None => ask(question, default),
        }
    }
}

impl Reconfigure {
    pub(super) fn run(self) -> Result<(), Failure> {
        let openvidu = Deployment::read(&self.openvidu)?;
        let path = env_path(&self.file);
        let text = std::fs::read_to_string(&path).map_err(|cause| {
            Failure::with(
                exit::CONFIG,
                format!(
                    "cannot read {}: {cause}; \"ov2-ha-recorder install\" makes it",
                    path.display()
                ),
            )
        })?;
        let env = EnvText::new(text);
        let settings = settings(&env, &path)?;
        let mut steps = Steps {
            record: Record::load(&self.data.data_dir)?,
            data_dir: &self.data.data_dir,
            dry_run: self.dry_run,
            is_built: false,
            done: Vec::new(),
        };
        steps.recorders(&env, &settings)?;
        for (name, value) in openvidu_lines(&settings) {
            steps.change(Change::Line {
                path: openvidu.env_file(),
                name,
                value,
            })?;
        }
        let mut notes = notes(&openvidu, &settings);
        if steps.done.iter().any(|step| step.changed) {
            notes.push(format!(
                "OpenVidu reads its .env when it starts: cd {} && ./openvidu restart",
                openvidu.path.display()
            ));
        }
        if !self.without_service {
            steps.service()?;
        }
        steps.conclude(self.form, openvidu, Vec::new(), notes)
    }
}

struct Steps<'a> {
    record: Record,
    data_dir: &'a Path,
    dry_run: bool,
    /// Whether the recording image is of this very version, or would be.
    is_built: bool,
    done: Vec<Step>,
}

impl Steps<'_> {
    fn change(&mut self, change: Change) -> Result<(), Failure> {
        let what = match &change {
            Change::File { path, .. } if change.is_new() => format!("make {}", path.display()),
            Change::File { path, .. } => format!("write {}", path.display()),
            Change::Line { path, name, .. } => format!("set {name} in {}", path.display()),
        };
        let changed = match self.dry_run {
            true => !change.done(),
            false => self.record.make(&change, self.data_dir)?,
        };
        self.done.push(Step { what, changed });
        Ok(())
    }

    /// What recorders read.
    fn recorders(&mut self, env: &EnvText, settings: &Settings) -> Result<(), Failure> {
        for (setting, file, path) in authorities(settings) {
            let text = std::fs::read_to_string(path).map_err(|cause| {
                let message = format!("cannot read {setting}={}: {cause}", path.display());
                Failure::with(exit::CONFIG, message)
            })?;
            self.change(Change::File {
                path: settings.recording_path.join(file),
                text: certificates(&text),
                mode: 0o644,
            })?;
        }
        let key = match all_know_tokens(settings, self.is_built) {
            true => Key::Token,
            false => Key::Account,
        };
        self.change(recorders_copy(env, settings, key))
    }

    fn image(&mut self, settings: &Settings) -> Result<(), Failure> {
        let image = settings.image();
        let what = format!("build the recording image {image}");
        // An image with a recorder of another version is built anew.
        let ours = concat!("ov2-ha-recorder ", env!("CARGO_PKG_VERSION"));
        let found = image_label(&image, VERSION_LABEL);
        let changed = found.as_deref() != Some(ours);
        if changed && !self.dry_run {
            build_image(settings, &mut self.record, self.data_dir)?;
        }
        self.is_built = true;
        self.done.push(Step { what, changed });
        Ok(())
    }

    fn service(&mut self) -> Result<(), Failure> {
        let news = self.done.iter().any(|step| step.changed);
        let manager = Manager::find()?;
        let (what, verb) = match manager.running() {
            true => ("restart the service", Verb::Restart),
            false => ("start the service", Verb::Start),
        };
        let changed = news || !manager.running();
        if changed && !self.dry_run {
            if manager == Manager::Systemd {
                Call::of("systemctl", ["daemon-reload"]).output()?;
            }
            manager.tell(verb)?;
        }
        self.done.push(Step {
            what: what.into(),
            changed,
        });
        Ok(())
    }

    fn conclude(
        self,
        form: Form,
        openvidu: Deployment,
        openvidu_lines: Vec<String>,
        notes: Vec<String>,
    ) -> Result<(), Failure> {
        let done = Done {
            dry_run: self.dry_run,
            openvidu,
            steps: self.done,
            openvidu_lines,
            notes,
        };
        form.print(&done, text);
        Ok(())
    }
}

fn text(done: &Done) -> String {
    let mut text = format!(
        "OpenVidu {} in {}, recordings in {}\n",
        done.openvidu.version,
        done.openvidu.path.display(),
        done.openvidu.recordings.display()
    );
    for step in &done.steps {
        let mark = match (step.changed, done.dry_run) {
            (false, _) => "as it is  ",
            (true, false) => "done      ",
            (true, true) => "would     ",
        };
        text.push_str(&format!("  {mark}{}\n", step.what));
    }
    if !done.openvidu_lines.is_empty() {
        text.push_str(&format!(
            "\nPut these lines into {} (or let \"ov2-ha-recorder reconfigure\" do it), then restart OpenVidu:\n\n    {}\n",
            done.openvidu.env_file().display(),
            done.openvidu_lines.join("\n    ")
        ));
    }
    for note in &done.notes {
        text.push_str(&format!("\nnote: {note}\n"));
    }
    text
}

/// Builds the recording image by the script that the package brings, or a checkout has, from this very program.
pub(super) fn build_image(
    settings: &Settings,
    record: &mut Record,
    data_dir: &Path,
) -> Result<(), Failure> {
    docker_answers()?;
    let program = std::env::current_exe().map_err(Failure::new)?;
    let scripts = [BUILD_RECORDER, "packaging/docker/build-recorder"].map(PathBuf::from);
    let script = scripts.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Failure::with(exit::UNAVAILABLE, format!("cannot build the recording image: {BUILD_RECORDER} is not there; install the package, run this in a checkout, or use --without-image"))
    })?;
    let image = settings.image();
    record.note_image(&image, None, data_dir)?;
    Call::of(
        "bash",
        [script.as_os_str(), "--binary".as_ref(), program.as_os_str()],
    )
    .env("IMAGE_NAME", &settings.image_name)
    .env("IMAGE_TAG", &settings.image_tag)
    .show_aside()?;
    record.note_image(&image, image_id(&image), data_dir)
}

/// What the unit needs for recordings elsewhere. As it is packaged it sees nothing of people's homes and of others' temporary
/// files: of these it gets the recordings alone.
fn drop_in(recordings: &Path) -> String {
    let path = recordings.display().to_string().replace('%', "%%");
    let is_below = |folders: &[&str]| folders.iter().any(|folder| recordings.starts_with(folder));
    let mut text = format!("[Service]\nReadWritePaths=\"-{path}\"\n");
    if is_below(&["/home", "/root", "/run/user"]) {
        text.push_str("ProtectHome=tmpfs\n");
    }
    if is_below(&["/home", "/root", "/run/user", "/tmp", "/var/tmp"]) {
        text.push_str(&format!("BindPaths=\"-{}\"\n", path.replace(':', "\\:")));
    }
    text
}

/// The target that OpenVidu's webhooks have now becomes the relay's, unless that target is already this service.
fn relay(env: &mut EnvText, old: &Variables, openvidu: &Deployment) {
    let Some(target) = openvidu.webhook.as_deref().filter(|url| !is_ours(url)) else {
        return;
    };
    if old.get("OPENVIDU_WEBHOOK_ENDPOINT").is_some() {
        return;
    }
    env.set("OPENVIDU_WEBHOOK", "true");
    env.set("OPENVIDU_WEBHOOK_ENDPOINT", target);
    if let Some(headers) = &openvidu.webhook_headers {
        env.set("OPENVIDU_WEBHOOK_HEADERS", headers);
    }
    // Whoever has said whom to trust is not overruled by a probe.
    let is_set = |name: &str| old.get(name).is_some();
    let is_decided = is_set("HA_WEBHOOK_TLS_VERIFY") || is_set("HA_CA_FILE");
    if target.starts_with("https:") && !is_decided && is_refused_for_its_certificate(target) {
        env.set("HA_WEBHOOK_TLS_VERIFY", "false");
    }
}

/// Whether a target answers only those who do not check its certificate, as OpenVidu's sender does not.
fn is_refused_for_its_certificate(target: &str) -> bool {
    let answers = |trust: Trust| async move {
        let client = outbound::builder_trusting(PROBE, &trust).ok()?;
        let client = client.timeout(PROBE).build().ok()?;
        client.head(target).send().await.ok()
    };
    let probed = super::wait(async {
        let refused = answers(Trust::default()).await.is_none();
        let open = refused && answers(Trust::Anyone).await.is_some();
        // A target that was only slow at first answers by now.
        match open && answers(Trust::default()).await.is_none() {
            true => Ok(()),
            false => Err(Failure::new("it is trusted, or does not answer at all")),
        }
    });
    probed.is_ok()
}

/// What opens the controller to recorders. Older ones know the account only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Token,
    Account,
}

/// Whether every recorder that may read the file knows what a token is: those of the image, and those that run.
fn all_know_tokens(settings: &Settings, is_built: bool) -> bool {
    // A controller in a container of compose's has the settings that it was made with.
    if settings.recorder_token.is_none() || matches!(Manager::find(), Ok(Manager::Docker)) {
        return false;
    }
    if settings.runtime == RuntimeKind::Process {
        return true;
    }
    let knows = |version: &str| !version.is_empty();
    let image = image_label(&settings.image(), VERSION_LABEL);
    // A colon, so that one without a version is a line too.
    let version = format!("{{{{.Label \"{VERSION_LABEL}\"}}}}:");
    let ours = [
        "ps",
        "--filter",
        "label=created.by=ov2-ha-recorder",
        "--format",
        &version,
    ];
    let running = Call::of("docker", ours).output();
    (is_built || image.as_deref().is_some_and(knows))
        && running.is_ok_and(|said| said.lines().all(|line| knows(line.trim_end_matches(':'))))
}

/// What recorders read: everything that is set, secrets resolved, but for what only the controller needs.
fn recorders_copy(env: &EnvText, settings: &Settings, key: Key) -> Change {
    let other_key: &[&str] = match key {
        Key::Token => &["HA_CONTROLLER_USERNAME", "HA_CONTROLLER_PASSWORD"],
        Key::Account => &["HA_RECORDER_TOKEN"],
    };
    let not_theirs = [
        "HA_VIEWER_",
        "HA_WEBHOOK_",
        "OPENVIDU_WEBHOOK",
        "HA_TLS_",
        "HA_TRUSTED_",
        "HA_S3_SERVER_",
        "OPENVIDU_RECORDING_PATH",
        "OPENVIDU_URL",
        "OPENVIDU_SECRET",
        "HA_ORPHAN_",
        "HA_LISTEN_",
        "HA_ALERT_",
        "HA_ALIVE_",
    ];
    let variables = Variables::default().over_text(env.as_str(), Path::new(""));
    let mut text = String::from(
        "# Written by \"ov2-ha-recorder install\" for the recorders; change the service's own file instead.\n",
    );
    let authorities = authorities(settings);
    for setting in TABLE
        .iter()
        .filter(|row| !not_theirs.iter().any(|prefix| row.name.starts_with(prefix)))
        .filter(|row| !other_key.contains(&row.name))
    {
        let copy = authorities.iter().find(|(name, ..)| *name == setting.name);
        let value = match copy {
            Some((_, file, _)) => Some(format!("{RECORDINGS_OF_RECORDERS}/{file}")),
            None => variables.get(setting.name),
        };
        if let Some(value) = value {
            text.push_str(&format!("{}={}\n", setting.name, quoted(&value)));
        }
    }
    Change::File {
        path: settings.recording_path.join(".env"),
        text,
        mode: 0o600,
    }
}

/// The certificates in the text of a PEM file, which may hold a private key, too.
fn certificates(pem: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----";
    let mut all = String::new();
    let mut rest = pem;
    while let Some(begin) = rest.find("-----BEGIN CERTIFICATE-----") {
        let Some(length) = rest[begin..].find(END) else {
            break;
        };
        let end = begin + length + END.len();
        all.push_str(&rest[begin..end]);
        all.push('\n');
        rest = &rest[end..];
    }
    all
}

/// The files of authorities of which recorders get a copy in the recordings folder, for a path of this machine leads nowhere in
/// their containers: the setting, the copy's name, and the file here. They speak TLS to the controller only where
/// `HA_CONTROLLER_CA` is set.
fn authorities(settings: &Settings) -> Vec<(&'static str, &'static str, &Path)> {
    let further = settings.ca_file.as_deref();
    let controller = settings.controller_ca.as_deref();
    // The certificate itself will do where no authority is named: recorders trust the usual ones besides.
    let own = settings.tls_cert.as_deref();
    let controller = controller.or(own.map(|own| further.unwrap_or(own)));
    let both = [
        further.map(|path| ("HA_CA_FILE", ".ov2-ha-recorder-ca.pem", path)),
        controller.map(|path| {
            (
                "HA_CONTROLLER_CA",
                ".ov2-ha-recorder-controller-ca.pem",
                path,
            )
        }),
    ];
    // One that is named as recorders know it lies there already.
    let is_theirs = |path: &Path| path.starts_with(RECORDINGS_OF_RECORDERS);
    let both = both.into_iter().flatten();
    both.filter(|(.., path)| !is_theirs(path)).collect()
}

/// Where people and OpenVidu find the controller.
fn page(settings: &Settings) -> String {
    let scheme = if settings.tls_cert.is_some() {
        "https"
    } else {
        "http"
    };
    let host = settings.controller_host.in_url();
    format!("{scheme}://{host}:{}", settings.controller_port.0)
}

/// The name under which a secret stands in the env file.
fn secret_name(env: &EnvText, name: &str) -> String {
    let file = format!("{name}_FILE");
    if env.get(&file).is_some() {
        file
    } else {
        name.to_owned()
    }
}

fn openvidu_lines(settings: &Settings) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("OPENVIDU_WEBHOOK", "true".to_owned()),
        (
            "OPENVIDU_WEBHOOK_ENDPOINT",
            format!("{}/openvidu/webhook", page(settings)),
        ),
    ];
    if let Some(token) = &settings.webhook_token {
        lines.push((
            "OPENVIDU_WEBHOOK_HEADERS",
            format!("[\"X-Webhook-Token: {}\"]", token.expose()),
        ));
    }
    lines
}

fn notes(openvidu: &Deployment, settings: &Settings) -> Vec<String> {
    let mut notes = Vec::new();
    if openvidu.is_public {
        notes.push(format!(
            "OPENVIDU_RECORDING_PUBLIC_ACCESS is true: everyone can read {}/.env with its secrets over OpenVidu; set it to false, \
             restart OpenVidu, and change what is secret in it",
            settings.recording_path.display()
        ));
    }
    if !openvidu.recording {
        notes.push(
            "OPENVIDU_RECORDING is not true in OpenVidu's .env: it records nothing yet".into(),
        );
    }
    if !openvidu.tells_of_recordings {
        notes.push(
            "OPENVIDU_WEBHOOK_EVENTS in OpenVidu's .env lacks recordingStatusChanged: add it"
                .into(),
        );
    }
    if !settings.webhook_tls_verify.0 {
        notes.push(
            "HA_WEBHOOK_TLS_VERIFY is false: the certificates of the relay's targets are not checked, as OpenVidu does not check them; to have them checked, name their authority in HA_CA_FILE and remove that line"
                .into(),
        );
    }
    notes
}

pub(super) fn env_path(file: &SettingsFile) -> PathBuf {
    file.env_file.clone().unwrap_or_else(|| ENV_FILE.into())
}

fn settings(env: &EnvText, path: &Path) -> Result<Settings, Failure> {
    Ok(Variables::default()
        .over_text(env.as_str(), path)
        .settings()?)
}

/// The address from which this machine would talk to another one; no packet is sent for that.
fn private_address() -> String {
    let found = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("192.0.2.1:9")?;
        Ok(socket.local_addr()?.ip())
    };
    found().map_or_else(|_| "127.0.0.1".into(), |address| address.to_string())
}

fn ask(question: &str, default: &str) -> Result<String, Failure> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Failure::new(format!(
            "cannot ask for the {question}: no terminal; use --auto"
        )));
    }
    eprint!("{question} [{default}]: ");
    let mut line = String::new();
    let read = std::io::stderr()
        .flush()
        .and_then(|()| input.read_line(&mut line));
    read.map_err(|cause| Failure::new(format!("cannot read the answer: {cause}")))?;
    let answer = line.trim();
    Ok(if answer.is_empty() { default } else { answer }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorders_get_the_password_itself_and_nothing_that_only_the_controller_needs() {
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "s3cret\n").unwrap();
        let env = EnvText::new(format!(
            "HA_CONTROLLER_USERNAME=recorder\nHA_CONTROLLER_PASSWORD_FILE={}\nHA_WEBHOOK_TOKEN=t\nHA_RECORDER_TOKEN=of-recorders\nCHUNK_TIME_SIZE=5\n",
            password.display()
        ));
        let settings = settings(&env, Path::new("env")).unwrap();
        let copy = |key| match recorders_copy(&env, &settings, key) {
            Change::File { text, .. } => text,
            Change::Line { .. } => panic!("no file"),
        };
        let narrow = copy(Key::Token);
        assert!(
            narrow.contains("HA_RECORDER_TOKEN=of-recorders\n"),
            "{narrow}"
        );
        assert!(!narrow.contains("HA_CONTROLLER_PASSWORD"), "{narrow}");
        assert!(!narrow.contains("HA_CONTROLLER_USERNAME"), "{narrow}");
        let text = copy(Key::Account);
        assert!(!text.contains("HA_RECORDER_TOKEN"), "{text}");
        assert!(text.contains("HA_CONTROLLER_PASSWORD=s3cret\n"), "{text}");
        assert!(text.contains("CHUNK_TIME_SIZE=5\n"), "{text}");
        assert!(!text.contains("HA_WEBHOOK_TOKEN"), "{text}");
    }
}
