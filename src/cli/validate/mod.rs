//! `validate`: looks at everything the service needs before it needs it, and says for each thing that is not right what to
//! do. Changes nothing.

mod deployment;
pub(super) mod recorders;

use super::api::Api;
use super::report::{Check, Form, Report};
use super::system::{Call, find, image_is_ours};
use super::{DataDir, Failure, SettingsFile};
use crate::config::{Faults, Port, RuntimeKind, Settings, Storage, Url, authorities};
use crate::controller::{Inquiry, relay};
use crate::http::Tls;
use crate::outbound::{self, OutboundError, Trust};
use crate::runtime::{Image, ImageState};
use crate::store;
use crate::tasks;
use clap::Args;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a program or a disk of this machine may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// What nobody should take for protected.
const BROADCAST: &str = "broadcasts (CONTAINER_WORKING_MODE=BROADCAST, RTMP) are made by the image's own scripts and are not protected";
/// No recording has this name.
const NOBODYS: &str = "ov2-ha-recorder-validate";

/// Check all that the service and its recorders need: settings, certificates, ports, Docker, image, folders, store, OpenVidu.
#[derive(Debug, Args)]
pub(super) struct Validate {
    /// The folder in which OpenVidu is installed; /opt/openvidu where there is one.
    #[arg(value_name = "OPENVIDU_PATH")]
    openvidu: Option<PathBuf>,
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    form: Form,
}

impl Validate {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let settings = self.file.settings_with(&self.data);
        let report = examine(settings.as_ref(), self.openvidu.as_deref()).await;
        report.conclude(self.form)
    }
}

/// All checks, with OpenVidu's folder where it is named.
pub(super) async fn examine(
    settings: Result<&Settings, &Faults>,
    openvidu: Option<&Path>,
) -> Report {
    let mut report = Report::default();
    match settings {
        Err(faults) => report.add(
            Check::bad("settings", faults)
                .advice("correct these; \"ov2-ha-recorder config\" lists all names"),
        ),
        Ok(settings) => {
            look_at_everything(settings, &mut report).await;
            for check in deployment(openvidu, settings).await {
                report.add(check);
            }
        }
    }
    report
}

async fn look_at_everything(settings: &Settings, report: &mut Report) {
    report.add(Check::good("settings", "well formed"));
    for warning in &settings.warnings {
        report.add(Check::warning("settings", warning));
    }
    for fault in settings.clone().drop_unusable_authorities() {
        report.add(
            Check::bad("authorities", fault)
                .advice("name a readable file with certificates in PEM form"),
        );
    }
    for check in certificates(settings) {
        report.add(check);
    }
    report.add(account(settings));
    let running = is_running(settings).await;
    report.add(port("port", settings, settings.controller_port, running));
    report.add(recorders::host(settings).await);
    if settings.s3_server_on() {
        report.add(port("s3 port", settings, settings.s3_server_port, running));
    }
    let mut has_image = false;
    match settings.runtime {
        RuntimeKind::Docker => {
            let docker = docker().await;
            let image = match docker.is_bad() {
                true => Check::skipped("image", "Docker cannot be asked for it"),
                false => image_of(settings).await,
            };
            has_image = !docker.is_bad() && !image.is_bad();
            report.add(docker);
            report.add(image);
            report.add(Check::skipped("broadcast", BROADCAST));
        }
        RuntimeKind::Process => report.add(programs()),
    }
    look_at_folder(settings, running, has_image, report).await;
    report.add(clock().await);
    report.add(openvidu(settings).await);
    if let Err(cause) = relay::check(settings).await {
        report.add(Check::bad("webhook", cause));
    }
    if settings.relay_on() {
        for target in &settings.relay_endpoints.0 {
            report.add(webhook_target(settings, target).await);
        }
    }
}

/// What OpenVidu's folder says, where its disk and that of the recordings answer.
async fn deployment(openvidu: Option<&Path>, settings: &Settings) -> Vec<Check> {
    let (openvidu, settings) = (openvidu.map(Path::to_owned), settings.clone());
    let look = move || deployment::deployment(openvidu.as_deref(), &settings);
    let looked = tasks::answered_within(PATIENCE, look).await;
    looked.unwrap_or_else(|| {
        let finding = format!("a disk does not answer within {} s", PATIENCE.as_secs());
        vec![Check::bad("deployment", finding).advice("see the kernel's log (dmesg)")]
    })
}

/// A disk that hangs holds up whoever touches it: nothing else looks there then.
async fn look_at_folder(settings: &Settings, running: bool, has_image: bool, report: &mut Report) {
    let folder = settings.recording_path.clone();
    let Some(tried) = tasks::answered_within(PATIENCE, move || recordings(&folder)).await else {
        let finding = silent(&settings.recording_path);
        report.add(Check::bad("recordings", finding).advice("see the kernel's log (dmesg)"));
        return;
    };
    report.add(tried);
    if settings.recording_path.is_dir() {
        for check in recorders::recorders(settings, running, has_image).await {
            report.add(check);
        }
    }
    report.add(disk(&settings.recording_path));
    report.add(chunk_store(settings, running).await);
}

/// What is said of a disk that does not answer in time.
pub(super) fn silent(path: &Path) -> String {
    let (path, seconds) = (path.display(), PATIENCE.as_secs());
    format!("the disk below {path} does not answer within {seconds} s")
}

fn account(settings: &Settings) -> Check {
    match settings.account() {
        Err(faults) => Check::bad("account", faults).advice(
            "set both in the env file; \"ov2-ha-recorder install\" makes a random password",
        ),
        Ok((_, password)) if password.expose().len() < 12 => {
            Check::warning("account", "the password is shorter than 12 characters")
                .advice("choose a longer password: it protects your recordings")
        }
        Ok((name, _)) => Check::good("account", format!("user {name}, password set")),
    }
}

/// The files that `serve` refuses to start without, or recorders cannot use.
fn certificates(settings: &Settings) -> Vec<Check> {
    let mut checks = Vec::new();
    if let (Some(certificate), Some(key)) = (&settings.tls_cert, &settings.tls_key) {
        checks.push(match Tls::load(certificate, key) {
            Ok(_) => Check::good("certificate", certificate.display()),
            Err(cause) => Check::bad("certificate", cause)
                .advice("name a chain and its key in PEM form that the service's user can read"),
        });
    }
    if let Some(path) = &settings.controller_ca
        && let Err(cause) = authorities::read(path)
    {
        let fault = format!("HA_CONTROLLER_CA={}: {cause}", path.display());
        checks.push(
            Check::bad("authorities", fault)
                .advice("name a readable file with certificates in PEM form"),
        );
    }
    checks
}

async fn is_running(settings: &Settings) -> bool {
    match Api::of(settings) {
        Ok(api) => api
            .get("/api/sessions/health")
            .await
            .is_ok_and(|answer| answer.body["service"] == "recorder-ha-controller"),
        Err(_) => false,
    }
}

fn port(name: &str, settings: &Settings, port: Port, running: bool) -> Check {
    let address = SocketAddr::new(settings.listen_address, port.0);
    match TcpListener::bind(address) {
        Ok(_) => Check::good(name, format!("{address} is free")),
        Err(cause) if cause.kind() == ErrorKind::AddrInUse && running => {
            Check::good(name, format!("{address} is held by the running service"))
        }
        Err(cause) => Check::bad(name, format!("{address}: {cause}")).advice(format!(
            "see who has it with \"ss -ltnp sport = :{}\", or choose another port",
            port.0
        )),
    }
}

async fn docker() -> Check {
    if find("docker").is_none() {
        return Check::bad("docker", "the docker command is not installed")
            .advice("apt-get install docker.io");
    }
    let version = Call::of("docker", ["version", "-f", "{{.Server.Version}}"]);
    match version.output_within(PATIENCE).await {
        Ok(version) => Check::good("docker", format!("engine {version} answers")),
        Err(failure) => Check::bad("docker", failure.message).advice(
            "start it (systemctl start docker) and let this user use it (adduser USER docker)",
        ),
    }
}

/// A Docker that tells its version may hang when it is asked for an image.
async fn image_of(settings: &Settings) -> Check {
    let settings = settings.clone();
    let looked = tasks::answered_within(PATIENCE, move || image(&settings)).await;
    looked.unwrap_or_else(|| {
        let seconds = PATIENCE.as_secs();
        Check::bad(
            "image",
            format!("Docker does not say within {seconds} s whether it is there"),
        )
        .advice("see \"journalctl -u docker\"; restarting Docker ends recordings that run")
    })
}

fn image(settings: &Settings) -> Check {
    let name = settings.image();
    let state = match image_is_ours(&name) {
        Some(true) => ImageState::Ours,
        Some(false) => ImageState::Foreign,
        None => ImageState::Missing,
    };
    let image = Image { name, state };
    match image.fault() {
        None => Check::good("image", image),
        Some((fault, advice)) => Check::bad("image", fault).advice(advice),
    }
}

pub(super) fn programs() -> Check {
    let missing = ["Xvfb", "pulseaudio", "ffmpeg"]
        .into_iter()
        .filter(|program| find(program).is_none())
        .collect::<Vec<_>>();
    match missing.is_empty() {
        true => Check::good("programs", "Xvfb, pulseaudio and ffmpeg are installed"),
        false => Check::bad("programs", format!("not installed: {}", missing.join(", ")))
            .advice("apt-get install xvfb pulseaudio ffmpeg chromium"),
    }
}

fn recordings(path: &Path) -> Check {
    let shown = path.display();
    if !path.is_dir() {
        return Check::bad("recordings", format!("{shown} is not a folder"))
            .advice("set OPENVIDU_RECORDING_PATH to the one in OpenVidu's .env, or make it");
    }
    let probe = path.join(format!(".ov2-ha-recorder-probe-{}", std::process::id()));
    match std::fs::write(&probe, b"probe").and_then(|()| std::fs::remove_file(&probe)) {
        Ok(()) => Check::good("recordings", format!("{shown} can be written")),
        Err(cause) => Check::bad("recordings", format!("{shown}: {cause}"))
            .advice("run this as root or as the service's user, or give that user the folder"),
    }
}

pub(super) fn disk(path: &Path) -> Check {
    const GIB: f64 = 1_073_741_824.0;
    match nix::sys::statvfs::statvfs(path) {
        Err(cause) => Check::skipped("disk", format!("{}: {cause}", path.display())),
        Ok(found) => {
            let free = found.blocks_available() as f64 * found.fragment_size() as f64;
            let whole = (found.blocks() as f64 * found.fragment_size() as f64).max(1.0);
            let finding = format!("{:.1} GiB free of {:.1}", free / GIB, whole / GIB);
            match free {
                free if free < GIB => Check::bad("disk", finding).advice(
                    "make room: an hour of 720p takes about half a GiB, twice while it is joined",
                ),
                free if free < 10.0 * GIB => {
                    Check::warning("disk", finding).advice("an hour of 720p takes about half a GiB")
                }
                _ => Check::good("disk", finding),
            }
        }
    }
}

async fn clock() -> Check {
    let shows = Call::of("timedatectl", ["show", "-p", "NTPSynchronized", "--value"]);
    let shows = shows.output_within(PATIENCE).await;
    match shows.as_deref() {
        Ok("yes") => Check::good("clock", "synchronised"),
        Ok("no") => Check::warning("clock", "not synchronised")
            .advice("timedatectl set-ntp true: S3 refuses requests when it is off by minutes, and videos carry wrong times"),
        _ => Check::skipped("clock", "no timedatectl on this machine to ask"),
    }
}

pub(super) async fn chunk_store(settings: &Settings, running: bool) -> Check {
    let built_in = settings.storage == Storage::S3 && settings.s3_server_on();
    if built_in && !running {
        return Check::skipped("store", "the built-in S3 server runs with the service");
    }
    if settings.storage == Storage::Local && !settings.recording_path.is_dir() {
        return Check::skipped("store", "there is no recordings folder to keep chunks in");
    }
    let opened = store::open(settings, &settings.recording_path);
    let probed = match (settings.storage, opened) {
        (_, Err(cause)) => Err(cause),
        (Storage::Local, Ok(store)) => store.probe().await,
        // A probe makes a missing bucket.
        (Storage::S3, Ok(store)) => store.list(NOBODYS).await.map(drop),
    };
    match probed {
        Ok(()) => Check::good("store", settings.store_place()),
        Err(cause) if cause.to_string().contains("no such bucket") => {
            Check::warning("store", format!("{} is missing", settings.store_place()))
                .advice("the service makes it where it may; check HA_AWS_S3_BUCKET")
        }
        Err(cause) => Check::bad("store", cause)
            .advice("\"ov2-ha-recorder test-s3\" goes through it step by step"),
    }
}

/// Whether OpenVidu can be asked for what it records.
async fn openvidu(settings: &Settings) -> Check {
    let inquiry = match Inquiry::of(settings) {
        Ok(Some(inquiry)) => inquiry,
        Ok(None) => {
            let finding = "OPENVIDU_URL is not set: a backup of a session that OpenVidu has forgotten may record on";
            return Check::warning("openvidu", finding)
                .advice("set OPENVIDU_URL and OPENVIDU_SECRET, as in OpenVidu's .env");
        }
        Err(cause) => return Check::bad("openvidu", cause),
    };
    let shown = inquiry.origin();
    if inquiry.serves_settings_to_everyone().await {
        return Check::bad("openvidu", format!("{shown} serves the recorders' .env with its secrets to everyone")).advice(
            "set OPENVIDU_RECORDING_PUBLIC_ACCESS=false, restart OpenVidu, and change what is secret in it",
        );
    }
    match inquiry.try_out().await {
        Ok(version) => Check::good("openvidu", format!("{shown} is OpenVidu {version}")),
        Err(cause) => Check::bad("openvidu", format!("{shown}: {cause}")).advice(
            "correct OPENVIDU_URL and OPENVIDU_SECRET; a certificate of one's own goes into HA_CA_FILE",
        ),
    }
}

/// Any answer over HTTP will do: the target knows which events it takes.
async fn webhook_target(settings: &Settings, target: &Url) -> Check {
    let shown = target.origin();
    let client = match client_for_targets(settings) {
        Ok(client) => client,
        Err(cause) => return Check::skipped("webhook", cause),
    };
    match client.head(target.expose()).send().await {
        Ok(answer) => Check::good(
            "webhook",
            format!("{shown} answers {}", answer.status().as_u16()),
        ),
        Err(cause) => {
            let why = if cause.is_timeout() {
                "no answer within 10 s"
            } else {
                "cannot connect"
            };
            Check::bad("webhook", format!("{shown}: {why}")).advice(
                "correct OPENVIDU_WEBHOOK_ENDPOINT; events wait in the outbox until it answers",
            )
        }
    }
}

/// Accepts the certificates that the relay accepts.
fn client_for_targets(settings: &Settings) -> Result<reqwest::Client, OutboundError> {
    let trust = Trust::of_targets(settings)?;
    let builder = outbound::builder_trusting(Duration::from_secs(5), &trust)?;
    Ok(builder.timeout(Duration::from_secs(10)).build()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Variables;

    #[test]
    fn a_port_in_use_by_someone_else_is_bad() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = other.local_addr().unwrap().port();
        let settings = Variables::of([("HA_LISTEN_ADDRESS", "127.0.0.1")])
            .settings()
            .unwrap();
        let json = |check: &Check| serde_json::to_value(check).unwrap();
        let check = port("port", &settings, Port(number), false);
        assert_eq!(json(&check)["outcome"], "bad");
        assert!(
            json(&check)["advice"]
                .as_str()
                .unwrap()
                .contains("ss -ltnp")
        );
        assert_eq!(
            json(&port("port", &settings, Port(number), true))["outcome"],
            "good"
        );
    }

    #[test]
    fn a_folder_that_is_not_there_says_what_to_do() {
        let check = serde_json::to_value(recordings(Path::new("/no/such/folder"))).unwrap();
        assert_eq!(check["outcome"], "bad");
        assert!(
            check["advice"]
                .as_str()
                .unwrap()
                .contains("OPENVIDU_RECORDING_PATH")
        );
    }
}
