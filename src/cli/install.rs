//! `install`: puts the service beside an OpenVidu 2 that is already there. It reads OpenVidu's folder, asks what cannot be
//! read, writes the env file, builds the recording image with the recorders' settings in it, and starts the service. Run again,
//! it does only what is not so yet. `reconfigure` brings changed settings to the recorders and to OpenVidu.

use super::changes::{Change, Record};
use super::env_text::EnvText;
use super::openvidu::{Deployment, is_ours};
use super::recorders_settings::{self, Key};
use super::report::Form;
use super::service::{Manager, Verb};
use super::system::{
    Call, docker_answers, forget_backup, forget_earlier_settings, image_id, image_is_ours,
    image_label,
};
use super::{DataDir, Failure, SettingsFile, exit, image_settings};
use crate::config::{RuntimeKind, Setting, Settings, Storage, TABLE, Variables, quoted};
use crate::controller::Inquiry;
use crate::outbound::{self, Trust};
use crate::random;
use clap::Args;
use serde::Serialize;
use std::fs::Permissions;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ENV_FILE: &str = "/etc/ov2-ha-recorder/ov2-ha-recorder.env";
const USUAL_RECORDINGS: &str = "/opt/openvidu/recordings";
const DROP_IN: &str = "/etc/systemd/system/ov2-ha-recorder.service.d/recordings.conf";
/// How long a webhook's target may take when its certificate is tried.
const PROBE: Duration = Duration::from_secs(5);
/// What an image says of the recorder in it.
pub(super) const VERSION_LABEL: &str = "ov2-ha-recorder.version";
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
    /// Leave the recording image as it is; settings that it lacks are put into the recordings folder.
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
    /// What the service's settings become, as a person may see it.
    settings: Vec<String>,
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
        let path = own_env_path(&self.file)?;
        let env = self.wanted(&openvidu, &path)?;
        let settings = settings(&env, &path)?;
        // Before the first change: what is begun here must come to its end.
        let missing = match (self.missing(), self.dry_run) {
            (Some(missing), false) => return Err(missing),
            (missing, _) => missing,
        };
        let mut steps = Steps::begin(&self.data.data_dir, self.dry_run)?;
        steps.settings = news(&env, &path);
        steps.change(Change::File {
            path: path.clone(),
            text: env.as_str().to_owned(),
            mode: 0o640,
        })?;
        let way = match self.without_image {
            true => Way::Leave,
            false => Way::Install,
        };
        steps.recorders(&env, &settings, &path, way)?;
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
        if managed && missing.is_none() {
            steps.service()?;
        }
        let mut notes = Vec::from_iter(missing.map(|it| it.message));
        notes.extend(self::notes(&openvidu, &settings));
        if settings.openvidu_url.is_none() {
            notes.push(format!(
                "OpenVidu does not answer with the secret of its .env (tried {}), so that it cannot be asked whether a session is still \
                 recorded: run this again while it runs, or set OPENVIDU_URL and OPENVIDU_SECRET",
                openvidu.addresses().join(", ")
            ));
        }
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
        let lines = openvidu_lines(&settings, &openvidu)
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
        if old.get("OPENVIDU_URL").is_none()
            && let Some((address, secret)) = super::wait(answering(openvidu))?
        {
            env.set("OPENVIDU_URL", &address);
            env.set("OPENVIDU_SECRET", &secret);
        }
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
            None => loop {
                let answer = ask(question, default)?;
                match fault(name, &answer) {
                    None => break Ok(answer),
                    Some(fault) => eprintln!("{fault}"),
                }
            },
        }
    }
}

/// The first address at which OpenVidu answers and takes its own secret.
async fn answering(openvidu: &Deployment) -> Result<Option<(String, String)>, Failure> {
    let Some(secret) = &openvidu.secret else {
        return Ok(None);
    };
    for address in openvidu.addresses() {
        let told = [("OPENVIDU_URL", &address), ("OPENVIDU_SECRET", secret)];
        let told = told.map(|(name, value)| (name, value.clone()));
        let (settings, _) = Variables::of(told).forgiving();
        let Ok(Some(inquiry)) = Inquiry::of(&settings) else {
            continue;
        };
        if inquiry.try_out().await.is_ok() {
            return Ok(Some((address, secret.clone())));
        }
    }
    Ok(None)
}

/// Why `value` cannot be the setting `name`.
fn fault(name: &str, value: &str) -> Option<String> {
    let (_, faults) = Variables::of([(name, value)]).forgiving();
    // With others beside it, it may fit what does not fit alone.
    faults
        .into_iter()
        .find(|it| it.starts_with(&format!("{name}=")))
}

impl Reconfigure {
    pub(super) fn run(self) -> Result<(), Failure> {
        let openvidu = Deployment::read(&self.openvidu)?;
        let path = own_env_path(&self.file)?;
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
        let mut steps = Steps::begin(&self.data.data_dir, self.dry_run)?;
        steps.recorders(&env, &settings, &path, Way::Reconfigure)?;
        for (name, value) in openvidu_lines(&settings, &openvidu) {
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

/// How the recorders' settings come into the recording image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It is built where it is not of this version or has other settings.
    Install,
    /// It is built: the program is another one.
    Update,
    /// One that "install" has built gets the changed settings; where it cannot, recorders read them in the recordings folder.
    Reconfigure,
    /// It stays as it is.
    Leave,
}

/// What is done, one thing after the other.
pub(super) struct Steps<'a> {
    record: Record,
    data_dir: &'a Path,
    dry_run: bool,
    /// Whether the recording image is of this very version, or would be.
    is_built: bool,
    /// What the service's settings become.
    settings: Vec<String>,
    done: Vec<Step>,
    notes: Vec<String>,
}

impl<'a> Steps<'a> {
    pub(super) fn begin(data_dir: &'a Path, dry_run: bool) -> Result<Self, Failure> {
        Ok(Self {
            record: Record::load(data_dir)?,
            data_dir,
            dry_run,
            is_built: false,
            settings: Vec::new(),
            done: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// What a person should know of them.
    pub(super) fn into_notes(self) -> Vec<String> {
        self.notes
    }

    fn change(&mut self, change: Change) -> Result<(), Failure> {
        let what = match &change {
            Change::File { path, .. } if change.is_new() => format!("make {}", path.display()),
            Change::File { path, .. } => format!("write {}", path.display()),
            Change::Line { path, name, .. } => format!("set {name} in {}", path.display()),
            Change::NoFile { path } => format!("remove {}", path.display()),
        };
        let changed = match self.dry_run {
            true => !change.done(),
            false => self.record.make(&change, self.data_dir)?,
        };
        self.step(what, changed);
        Ok(())
    }

    /// What recorders read: settings in the last layer of their image, and in the recordings folder, which OpenVidu serves, as
    /// long as one of them needs them there.
    pub(super) fn recorders(
        &mut self,
        env: &EnvText,
        settings: &Settings,
        env_file: &Path,
        way: Way,
    ) -> Result<(), Failure> {
        let place = settings.recording_path.join(".env");
        let is_theirs = self.is_theirs(&place, env, settings)?;
        self.authorities(settings)?;
        let text = recorders_settings::text(env, settings, key_of_image(settings, way));
        let file = recorders_settings::host_file(env_file);
        self.on_this_machine(&file, &text)?;
        let why_not = self.image(settings, &file, &text, way)?;
        if is_theirs {
            self.notes.push(left_to_its_writer(&place));
            let missing = |why| format!("the recorders' settings are not in their image: {why}");
            self.notes.extend(why_not.map(missing));
            return Ok(());
        }
        let earlier = self.earlier_images(settings, &text);
        let why = match why_not {
            // Processes have no image; whoever told them what is to be told need not do it again.
            _ if settings.runtime == RuntimeKind::Process && way == Way::Update => return Ok(()),
            _ if settings.runtime == RuntimeKind::Process => None,
            Some(why_not) => Some(why_not),
            None => match older_recorders(settings, &text).or_else(|| older_images(&earlier)) {
                None => return self.clear(place, &settings.image()),
                older => older,
            },
        };
        self.notes.extend(why.map(|why| {
            let place = place.display();
            format!(
                "{place} holds the recorders' settings, in a folder that OpenVidu serves: {why}"
            )
        }));
        let key = Key::of_folder(settings, self.is_built, &earlier);
        self.change(Change::File {
            path: place,
            text: recorders_settings::text(env, settings, key),
            mode: 0o600,
        })
    }

    /// Whether somebody else wrote what recorders read first.
    ///
    /// # Errors
    /// Where it would keep them out.
    pub(super) fn is_theirs(
        &self,
        place: &Path,
        env: &EnvText,
        settings: &Settings,
    ) -> Result<bool, Failure> {
        // Processes have no image: all that they are told is written there.
        let may_stay = settings.runtime == RuntimeKind::Docker && place.exists();
        let is_theirs = may_stay && !self.record.has_our_file(place)?;
        if is_theirs {
            recorders_settings::refuse_clash(place, env, settings)?;
        }
        Ok(is_theirs)
    }

    /// For root alone, also where the file was there and open to others.
    fn on_this_machine(&mut self, file: &Path, text: &str) -> Result<(), Failure> {
        if file.exists() && !self.dry_run {
            let closed = std::fs::set_permissions(file, Permissions::from_mode(0o600));
            closed.map_err(|cause| {
                let message = format!("cannot keep others from {}: {cause}", file.display());
                Failure::with(exit::CANNOT_WRITE, message)
            })?;
        }
        self.change(Change::File {
            path: file.to_owned(),
            text: text.to_owned(),
            mode: 0o600,
        })
    }

    /// Images that were built for OpenVidu before, and do not tell `text`.
    fn earlier_images(&self, settings: &Settings, text: &str) -> Vec<String> {
        if settings.runtime == RuntimeKind::Process {
            return Vec::new();
        }
        let mut images = self.record.images_besides(&settings.image());
        images.retain(|it| image_is_ours(it) == Some(true) && !image_settings::has(it, text));
        images
    }

    fn authorities(&mut self, settings: &Settings) -> Result<(), Failure> {
        for (setting, file, path) in recorders_settings::authorities(settings) {
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
        Ok(())
    }

    /// Sees to it that the recording image tells its recorders `text`, which lies in `file`. Answers why it does not.
    fn image(
        &mut self,
        settings: &Settings,
        file: &Path,
        text: &str,
        way: Way,
    ) -> Result<Option<String>, Failure> {
        let image = settings.image();
        // An image with a recorder of another version is built anew.
        let ours = concat!("ov2-ha-recorder ", env!("CARGO_PKG_VERSION"));
        let is_other = || image_label(&image, VERSION_LABEL).as_deref() != Some(ours);
        let is_built = matches!(way, Way::Install | Way::Update);
        let program = is_built && (way == Way::Update || is_other());
        if way == Way::Reconfigure
            && let Err(silence) = docker_answers()
        {
            return Ok(Some(again(&silence)));
        }
        let layer = program || !image_settings::has(&image, text);
        if layer && let Some(why) = self.cannot_build(&image, way) {
            return Ok(Some(why));
        }
        let mut why_not = None;
        if layer && !self.dry_run {
            let built = build_image(settings, file, way, &mut self.record, self.data_dir);
            match built {
                Err(failure) if way == Way::Reconfigure => why_not = Some(again(&failure)),
                built => built?,
            }
        }
        if is_built {
            self.step(format!("build the recording image {image}"), program);
        }
        let changed = layer && why_not.is_none();
        self.step(
            format!("put the recorders' settings into the image {image}"),
            changed,
        );
        self.is_built = is_built;
        Ok(why_not)
    }

    /// Why the image is not to be touched; one that "install" did not build belongs to whoever did.
    fn cannot_build(&self, image: &str, way: Way) -> Option<String> {
        match way {
            Way::Install | Way::Update => None,
            Way::Leave => Some(format!(
                "the image {image} is left without them; \"ov2-ha-recorder install\" without --without-image moves them there"
            )),
            Way::Reconfigure
                if self.record.has_image(image) && image_is_ours(image) == Some(true) =>
            {
                None
            }
            Way::Reconfigure => Some(format!(
                "\"install\" has not built the image {image}; \"ov2-ha-recorder install\" moves them there"
            )),
        }
    }

    /// Takes our settings out of the recordings folder, and earlier ones out of Docker: no recorder reads them any more.
    fn clear(&mut self, place: PathBuf, image: &str) -> Result<(), Failure> {
        if !self.dry_run {
            forget_backup(image);
            forget_earlier_settings();
        }
        match place.exists() {
            true => self.change(Change::NoFile { path: place }),
            false => Ok(()),
        }
    }

    fn step(&mut self, what: String, changed: bool) {
        self.done.push(Step { what, changed });
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
        self.step(what.into(), changed);
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
            settings: self.settings,
            openvidu_lines,
            notes: [self.notes, notes].concat(),
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
            (false, _) => "unchanged ",
            (true, false) => "done      ",
            (true, true) => "would     ",
        };
        text.push_str(&format!("  {mark}{}\n", step.what));
    }
    if !done.settings.is_empty() {
        text.push_str(&format!(
            "\nSettings:\n\n    {}\n",
            done.settings.join("\n    ")
        ));
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

/// Why settings in the image alone are not enough: a recorder that is started again reads what its own, earlier image says.
fn older_recorders(settings: &Settings, text: &str) -> Option<String> {
    match recorders_settings::recorders_without(text, &settings.recording_path) {
        Ok(names) if names.is_empty() => None,
        Ok(names) => Some(format!(
            "{} may be started again, in an image without them; run \"ov2-ha-recorder reconfigure\" when these recordings are over",
            names.join(", ")
        )),
        Err(failure) => Some(again(&failure)),
    }
}

/// The image that "reconfigure" finds may be of a version that knows the account only.
fn key_of_image(settings: &Settings, way: Way) -> Key {
    let version = || image_label(&settings.image(), VERSION_LABEL).unwrap_or_default();
    match way == Way::Reconfigure && settings.runtime == RuntimeKind::Docker && version().is_empty()
    {
        true => Key::Account,
        false => Key::of_image(settings),
    }
}

/// OpenVidu may be rolled back to them.
fn older_images(images: &[String]) -> Option<String> {
    (!images.is_empty()).then(|| {
        format!(
            "OpenVidu may be rolled back to {}, which is without them; where it is not, remove that image (docker rmi) and run \
             \"ov2-ha-recorder reconfigure\"",
            images.join(", ")
        )
    })
}

fn again(failure: &Failure) -> String {
    let message = &failure.message;
    format!("{message}; then run \"ov2-ha-recorder reconfigure\" again")
}

pub(super) fn left_to_its_writer(place: &Path) -> String {
    format!(
        "{} stays, because it was written or edited by somebody else: recorders read it before the settings in their image, and OpenVidu \
         serves its folder; \"ov2-ha-recorder validate\" tries it; remove it if it is not needed",
        place.display()
    )
}

/// Builds the recording image by the script that the package brings, or a checkout has, from this very program, with what lies
/// in `file` as the recorders' settings. "reconfigure" renews these alone.
fn build_image(
    settings: &Settings,
    file: &Path,
    way: Way,
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
    let what = match way {
        Way::Reconfigure => vec!["--only-settings".as_ref()],
        _ => vec!["--binary".as_ref(), program.as_os_str()],
    };
    let file = ["--settings".as_ref(), file.as_os_str()];
    Call::of(
        "bash",
        [&[script.as_os_str()], &what[..], &file[..]].concat(),
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

/// The settings in `env` that the file at `path` does not have so yet, without secrets.
fn news(env: &EnvText, path: &Path) -> Vec<String> {
    let old = EnvText::new(std::fs::read_to_string(path).unwrap_or_default());
    let changed =
        |row: &&Setting| env.get(row.name).is_some() && env.get(row.name) != old.get(row.name);
    let line = |row: &Setting| {
        let value = env.get(row.name).unwrap_or_default();
        format!("{}={}", row.name, (row.shown)(&value))
    };
    TABLE.iter().filter(changed).map(line).collect()
}

/// What OpenVidu's own settings must say.
fn openvidu_lines(settings: &Settings, openvidu: &Deployment) -> Vec<(&'static str, String)> {
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
            serde_json::json!([format!("X-Webhook-Token: {}", token.expose())]).to_string(),
        ));
    }
    let events = openvidu.events_with_recordings.clone();
    lines.extend(events.map(|events| ("OPENVIDU_WEBHOOK_EVENTS", events)));
    lines
}

fn notes(openvidu: &Deployment, settings: &Settings) -> Vec<String> {
    let mut notes = Vec::new();
    if openvidu.is_public && settings.recording_path.join(".env").exists() {
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
    let port = settings.controller_port.0.to_string();
    if let Some((name, _)) = openvidu.ports.iter().find(|(_, theirs)| *theirs == port) {
        notes.push(format!(
            "{name} in OpenVidu's .env is {port}, which is the controller's port: set HA_CONTROLLER_PORT to another one"
        ));
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

/// The service's own file, which the recorders' one beside it must not replace.
///
/// # Errors
/// When both are the same.
pub(super) fn own_env_path(file: &SettingsFile) -> Result<PathBuf, Failure> {
    let path = env_path(file);
    let theirs = recorders_settings::host_file(&path);
    let is_same = |it: PathBuf| path.canonicalize().is_ok_and(|own| own == it);
    if path != theirs && !theirs.canonicalize().is_ok_and(is_same) {
        return Ok(path);
    }
    let message = format!(
        "{} is where the recorders' settings are written: keep the service's own in a file of another name",
        theirs.display()
    );
    Err(Failure::with(exit::CONFIG, message))
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
