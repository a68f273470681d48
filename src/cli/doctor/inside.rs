//! The checks in a recording container: what its recorder needs of the machine around it.

use crate::cli::ask;
use crate::cli::exit;
use crate::cli::record;
use crate::cli::report::{Check, Report};
use crate::cli::system::Call;
use crate::cli::validate::{self, recorders};
use crate::client::Client;
use crate::clock::{Clock, SystemClock};
use crate::config::{Settings, Storage, Variables};
use crate::disk;
use crate::model::ask::{ASKED, Answer, Doing, Request};
use crate::outbound::{self, Trust};
use crate::tasks;
use clap::Args;
use reqwest::Url;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// How long whoever is asked may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Chrome needs about so much for a page of some videos.
const SHARED_MEMORY: u64 = 64 << 20;
/// The controller's answer tells seconds only.
const OFFSET: f64 = 2.0;
/// Scripts that pages are written in, by a language of each.
const SCRIPTS: [(&str, &str); 5] = [
    ("zh", "Chinese"),
    ("ja", "Japanese"),
    ("ko", "Korean"),
    ("ar", "Arabic"),
    ("hi", "Devanagari"),
];

/// Where things lie in a recording container; in other places in tests.
#[derive(Clone, Debug, Args)]
pub(super) struct Container {
    #[arg(long, value_name = "DIR", default_value = record::RECORDINGS, hide = true)]
    pub(super) recordings: PathBuf,
    #[arg(long, value_name = "FILE", default_value = record::IMAGE_ENV_FILE, hide = true)]
    image_env_file: PathBuf,
    #[arg(long, value_name = "FILE", default_value = crate::model::ask::SOCKET, hide = true)]
    socket: PathBuf,
}

impl Container {
    /// Whether this is one: OpenVidu tells each of them what it is for.
    pub(super) fn is_here() -> bool {
        std::env::var_os("CONTAINER_WORKING_MODE").is_some()
    }

    /// What its recorder is told.
    pub(super) fn variables(&self, file: Option<&Path>) -> Variables {
        record::variables(file, &self.recordings, &self.image_env_file)
    }

    /// The files from which that comes.
    pub(super) fn files(&self) -> [PathBuf; 2] {
        [self.recordings.join(".env"), self.image_env_file.clone()]
    }

    /// All checks.
    pub(super) async fn examine(&self, variables: &Variables) -> Report {
        let mut report = Report::default();
        let (settings, faults) = variables.forgiving();
        report.add(match faults.is_empty() {
            true => Check::good("settings", "well formed"),
            false => Check::warning("settings", faults.join("; "))
                .advice("the recorder takes the defaults for these: correct them"),
        });
        report.add(self.recorder().await);
        report.add(recorders::host(&settings).await);
        report.add(controller(&settings).await);
        report.add(clock(&settings).await);
        report.add(page(variables.get("URL").as_deref()).await);
        report.add(self.recordings().await);
        report.add(self.store(settings).await);
        report.add(shared_memory());
        report.add(validate::programs());
        report.add(fonts().await);
        report
    }

    async fn recorder(&self) -> Check {
        let name = "recorder";
        match ask::ask(&self.socket, &Request::State, ASKED).await {
            Ok(line) => match Answer::read(&line).doing {
                doing @ Doing::Disk { .. } => {
                    Check::bad(name, doing).advice("check the disk below the recordings folder")
                }
                doing @ Doing::Mending { .. } => {
                    Check::warning(name, doing).advice("the container's log says more")
                }
                doing => Check::good(name, doing),
            },
            Err(failure) if failure.code == exit::NO_ANSWER => Check::bad(name, failure.message),
            Err(failure) => Check::warning(name, failure.message)
                .advice("a container in mode BROADCAST has none of ours"),
        }
    }

    /// A disk that hangs is not waited for.
    async fn recordings(&self) -> Check {
        let (folder, shown) = (self.recordings.clone(), self.recordings.display());
        let tried = move || disk::try_write(&folder).map(|()| validate::disk(&folder));
        match tasks::answered_within(PATIENCE, tried).await {
            Some(Ok(room)) if room.is_bad() => room,
            Some(Ok(room)) => Check::good("recordings", format!("{shown} can be written, {}", room.finding())),
            Some(Err(cause)) => Check::bad("recordings", format!("{shown} cannot be written: {cause}"))
                .advice("OpenVidu binds its recordings folder there: look at that folder's disk and its rights on the host"),
            None => Check::bad("recordings", format!("{shown} does not answer within {} s", PATIENCE.as_secs()))
                .advice("see the kernel's log on the host (dmesg)"),
        }
    }

    async fn store(&self, mut settings: Settings) -> Check {
        if settings.storage == Storage::Local {
            return Check::good("store", "chunks lie in the recording's folder");
        }
        settings.recording_path = self.recordings.clone();
        let looked = validate::chunk_store(&settings, true);
        let silence = || {
            Check::bad(
                "store",
                format!("{} does not answer", settings.store_place()),
            )
        };
        let looked = tasks::within(4 * PATIENCE, looked).await;
        looked.unwrap_or_else(silence)
    }
}

/// Whether the controller lets this recorder in.
async fn controller(settings: &Settings) -> Check {
    let place = format!(
        "{}:{}",
        settings.controller_host.in_url(),
        settings.controller_port.0
    );
    match recorders::door(settings).await {
        Ok(()) => Check::good("controller", format!("{place} answers and lets this recorder in")),
        Err(cause) => Check::bad("controller", format!("{place}: {cause}")).advice(
            "the recording goes on without it; \"ov2-ha-recorder validate\" on the controller's machine tries what recorders use",
        ),
    }
}

/// How far this machine's clock is from the controller's.
async fn clock(settings: &Settings) -> Check {
    let asked = async { Client::new(settings).ok()?.clock().await.ok()? };
    let Some(theirs) = asked.await else {
        return Check::skipped("clock", "the controller's is not known");
    };
    let theirs = theirs.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ours = SystemClock.now().millis() as f64 / 1e3;
    let offset = ours - theirs.as_secs_f64();
    let finding = format!("{offset:+.0} s against the controller's");
    match offset.abs() <= OFFSET {
        true => Check::good("clock", finding),
        false => Check::warning("clock", finding).advice(
            "have both machines synchronise their clocks: S3 refuses requests when they are off by minutes, and videos carry wrong times",
        ),
    }
}

/// Whether the page's server answers here. Only host and port are shown and asked: below them stands OpenVidu's secret.
async fn page(address: Option<&str>) -> Check {
    let name = "page";
    let Some(address) = address.and_then(|it| Url::parse(it).ok()) else {
        return Check::skipped(name, "URL is not set: nothing is recorded here");
    };
    let origin = address.origin().ascii_serialization();
    if address.host().is_none() {
        return Check::skipped(name, "the page is no address of a server");
    }
    // As Chrome does, which is told to.
    match answer(&origin, &Trust::Anyone).await {
        Err(cause) => Check::bad(name, format!("{origin}: {cause}")).advice(
            "the host must reach its own public name (a router may not lead it back): let the name mean this machine in /etc/hosts, \
             or set OPENVIDU_RECORDING_COMPOSED_URL in OpenVidu's .env",
        ),
        Ok(status) => match answer(&origin, &Trust::default()).await {
            Ok(_) => Check::good(name, format!("{origin} answers {status}")),
            Err(cause) => Check::good(name, format!("{origin} answers {status}; its certificate is not known here ({cause}), which Chrome ignores")),
        },
    }
}

async fn answer(origin: &str, trust: &Trust) -> Result<u16, String> {
    let failed = |cause: reqwest::Error| match cause.is_timeout() {
        true => format!("no answer within {} s", PATIENCE.as_secs()),
        false => crate::client::deepest(&cause),
    };
    let builder = outbound::builder_trusting(PATIENCE, trust).map_err(|cause| cause.to_string())?;
    let client = builder
        .timeout(PATIENCE)
        .no_proxy()
        .build()
        .map_err(failed)?;
    let answer = client
        .get(format!("{origin}/"))
        .send()
        .await
        .map_err(failed)?;
    Ok(answer.status().as_u16())
}

fn shared_memory() -> Check {
    let name = "shared memory";
    match disk::free_bytes(Path::new("/dev/shm")) {
        Err(cause) => Check::warning(name, format!("/dev/shm: {cause}")).advice("Chrome takes the disk instead, which is slower"),
        Ok(free) if free < SHARED_MEMORY => Check::warning(name, format!("{} MiB free in /dev/shm", free >> 20))
            .advice("OpenVidu gives a container 512 MiB: raise OPENVIDU_RECORDING_SHM_SIZE, or see what fills it"),
        Ok(free) => Check::good(name, format!("{} MiB free in /dev/shm", free >> 20)),
    }
}

async fn fonts() -> Check {
    let list = |language: &str| {
        Call::of("fc-list", [&format!(":lang={language}"), "family"]).output_within(PATIENCE)
    };
    let latin = match list("en").await {
        Ok(found) => found.lines().count(),
        Err(failure) => return Check::skipped("fonts", failure.message),
    };
    let mut missing = Vec::new();
    for (language, script) in SCRIPTS {
        if list(language).await.is_ok_and(|found| found.is_empty()) {
            missing.push(script);
        }
    }
    match (latin, missing.is_empty()) {
        (0, _) => Check::bad("fonts", "there is none: pages show boxes").advice("add fonts to the recording image, such as fonts-liberation"),
        (_, true) => Check::good("fonts", format!("{latin} families, every script that was tried")),
        (_, false) => Check::warning("fonts", format!("{latin} families, none for {}", missing.join(", ")))
            .advice("where pages show these, add fonts to the recording image, such as fonts-noto-cjk: they show boxes instead"),
    }
}
