//! `doctor`: the checks of `validate`, a check for each symptom that the README knows, and an archive of what a support engineer
//! asks for, without secrets. In a recording container it checks what its recorder needs instead.

mod containers;
mod inside;
mod machine;
mod mask;
mod parts;
mod recordings;
mod service;
mod symptoms;

use self::containers::Running;
use self::inside::Container;
use self::machine::Recorders;
use self::parts::Parts;
use self::symptoms::Evidence;
use super::output::{Output, Replace};
use super::record::IMAGE_ENV_FILE;
use super::recorders_settings::host_file;
use super::report::{Check, Form, Paint, Report};
use super::validate::recorders::as_they_see_it;
use super::validate::{self, PATIENCE, silent};
use super::{DataDir, Failure, SettingsFile, archive, config, exit, image_settings, openvidu};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{RuntimeKind, Settings, Variables};
use crate::model::ids::RecordingId;
use crate::model::timeline::Timeline;
use crate::tasks;
use clap::Args;
use std::path::{Path, PathBuf};

/// Where OpenVidu is installed.
const OPENVIDU: &str = "/opt/openvidu";

/// Find out what is wrong here, and pack what a support engineer asks for, without secrets.
///
/// On the service's machine: all that "validate" checks; then, for each symptom in the README's table, whether this machine has
/// it; and one archive with the settings (secrets masked), versions, Docker's own words, the last lines of the logs, health,
/// sessions with their failovers, and the timelines of the last ten recordings. Every file in it is read through for every secret
/// of the settings before it is written. Look into it before you send it: names of recordings and hosts are in it.
///
/// In a recording container (docker exec CONTAINER ov2-ha-recorder doctor): whether its recorder answers, reaches the controller,
/// the page's server and the store, writes the recordings folder, and has clock, memory and fonts. An archive is made there only
/// where -o names it: docker exec CONTAINER ov2-ha-recorder doctor -o - >container.tar.gz
///
/// Exit code 0 when nothing is wrong, 1 when something is, 73 when the archive cannot be written.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// The folder in which OpenVidu is installed; /opt/openvidu where there is one.
    #[arg(value_name = "OPENVIDU_PATH")]
    openvidu: Option<PathBuf>,
    /// The archive; without it ov2-ha-recorder-doctor-<time>.tar.gz in this folder, and "-" is standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the archive where it is there already.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    container: Container,
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    form: Form,
}

impl Doctor {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let now = SystemClock.now();
        let is_inside = Container::is_here();
        let named = match (&self.output, is_inside) {
            (None, true) => None,
            (None, false) => Some(archive::usual_name("ov2-ha-recorder-doctor", now)),
            (named, _) => named.clone(),
        };
        let place = named.map(|path| {
            let output = Output::of(&path, Replace::when(self.force))?;
            Ok::<_, Failure>((path, output))
        });
        let place = place.transpose()?;
        let mut parts = Parts::default();
        self.find_secrets(&mut parts).await;
        let mut report = match is_inside {
            true => self.inside(&mut parts).await,
            false => self.outside(&mut parts).await,
        };
        let mask = parts.mask();
        report.clean(|text| mask.clean(text));
        parts.add_json("report.json", &report);
        parts.put("report.txt", &report.text(Paint(false)));
        self.conclude(report, parts, place, now)
    }

    /// Prints what was found, and writes the archive, without which the report is there all the same.
    fn conclude(
        &self,
        mut report: Report,
        parts: Parts,
        place: Option<(PathBuf, Output)>,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let is_apart = matches!(place, Some((_, Output::Standard)));
        let written = place.map(|(path, output)| {
            let shown = path.display();
            let packed = output.write(|out| archive::pack(out, now, parts.files()));
            packed
                .map(|bytes| {
                    Check::good(
                        "archive",
                        format!("{shown}, {bytes} bytes; look into it before you send it"),
                    )
                })
                .map_err(|cause| {
                    Failure::with(exit::CANNOT_WRITE, format!("cannot write {shown}: {cause}"))
                })
        });
        let written = written.transpose();
        if let Ok(Some(check)) = &written {
            report.add(check.clone());
        }
        match is_apart {
            true => self.form.print_aside(&report, |it| it.text(Paint(false))),
            false => self.form.print(&report, |it| it.text(Paint::of_terminal())),
        }
        written?;
        report.verdict()
    }

    async fn inside(&self, parts: &mut Parts) -> Report {
        machine::kernel(parts);
        let (container, file) = (self.container.clone(), self.file.env_file.clone());
        let read =
            tasks::answered_within(PATIENCE, move || container.variables(file.as_deref())).await;
        if read.is_none() {
            parts.lack("settings.json", silent(&self.container.recordings));
        }
        let variables = read.unwrap_or_else(Variables::of_process);
        parts.add_json("settings.json", &config::rows(&variables));
        self.container.examine(&variables).await
    }

    async fn outside(&self, parts: &mut Parts) -> Report {
        let variables = self.file.variables();
        let strict = self.file.settings_with(&self.data);
        let mut report = validate::examine(strict.as_ref(), self.openvidu.as_deref()).await;
        let (settings, faults) = variables.forgiving();
        let settings = self.data.settle(&variables, settings);
        parts.add_json("settings.json", &config::rows(&variables));
        parts.put(
            "settings-faults.txt",
            &[faults, settings.warnings.clone()].concat().join("\n"),
        );
        let in_docker = self.secrets_in_docker(&settings, parts, &report).await;
        if !parts.unread().is_empty() {
            let why = parts.unread().join("; ");
            let finding = format!("{why}: no log is packed, for what is in there cannot be hidden");
            report.add(Check::warning("secrets", finding).advice("run this as root"));
        }
        let folder = self.openvidu_folder().to_owned();
        match tasks::answered_within(PATIENCE, move || openvidu::Deployment::read(&folder)).await {
            Some(Ok(found)) => parts.add_json("openvidu.json", &found),
            Some(Err(failure)) => parts.lack("openvidu.json", failure),
            None => parts.lack("openvidu.json", silent(self.openvidu_folder())),
        }
        machine::kernel(parts);
        machine::system(parts).await;
        let recorders = match &in_docker {
            Some(running) => {
                machine::docker(&settings, parts).await;
                machine::recorders(running, parts, &mut report).await
            }
            None => Recorders::default(),
        };
        let mut known = service::ask(&settings, parts).await;
        known.running.extend(recorders.recordings);
        let (timelines, left) = look_below(&settings, &known.running, &report, parts).await;
        let found = symptoms::judge(&Evidence {
            settings: &settings,
            report: &report,
            known: &known,
            recorders: &recorders.replies,
            timelines: &timelines,
            left: &left,
            set_aside: &symptoms::databases_set_aside(&self.data.data_dir),
        });
        found.into_iter().for_each(|check| report.add(check));
        report
    }

    /// What runs in Docker, with all that is secret of it and of the image's settings known before the first log is packed.
    /// Nothing is asked of a Docker that has not answered before.
    async fn secrets_in_docker(
        &self,
        settings: &Settings,
        parts: &mut Parts,
        report: &Report,
    ) -> Option<Vec<Running>> {
        let answers = report
            .checks()
            .iter()
            .any(|check| check.name() == "docker" && !check.is_bad());
        if settings.runtime != RuntimeKind::Docker || !answers {
            return None;
        }
        if let Ok(Some(text)) = image_settings::read(&settings.image()).await {
            let said = Variables::default().over_text(&text, Path::new(IMAGE_ENV_FILE));
            let recordings = settings.recording_path.clone();
            hide(parts, Path::new(IMAGE_ENV_FILE), move || {
                as_they_see_it(said, &recordings)
            })
            .await;
        }
        Some(machine::containers(settings, parts).await)
    }

    fn openvidu_folder(&self) -> &Path {
        self.openvidu.as_deref().unwrap_or(Path::new(OPENVIDU))
    }

    /// Whatever nobody else may know on this machine, wherever it is set: what one file hides from view is a secret too.
    /// A disk that hangs is not waited for.
    async fn find_secrets(&self, parts: &mut Parts) {
        let (settings, _) = self.file.variables().forgiving();
        let recordings = &settings.recording_path;
        let ours = [self.file.path(), Some(self.openvidu_folder().join(".env"))];
        // What recorders read names files as they are in their containers.
        let theirs = [
            self.file.path().as_deref().map(host_file),
            Some(recordings.join(".env")),
        ];
        hide(parts, Path::new(""), Variables::of_process).await;
        for path in ours.into_iter().flatten() {
            let read = path.clone();
            let read = move || Variables::default().over_file_if_any(&read);
            hide(parts, &path, read).await;
        }
        let theirs = theirs.into_iter().flatten().map(|it| (it, recordings));
        let inside = self.container.files();
        let inside = inside
            .into_iter()
            .map(|it| (it, &self.container.recordings));
        for (path, recordings) in theirs.chain(inside) {
            let (read, recordings) = (path.clone(), recordings.clone());
            let read = move || {
                let said = Variables::default().over_file_if_any(&read);
                as_they_see_it(said, &recordings)
            };
            hide(parts, &path, read).await;
        }
    }
}

/// Hides what `read` finds to be secret, which is in the file `shown`.
async fn hide(parts: &mut Parts, shown: &Path, read: impl FnOnce() -> Variables + Send + 'static) {
    let found = tasks::answered_within(PATIENCE, move || {
        let variables = read();
        (variables.secrets(), variables.unread())
    });
    match found.await {
        Some((secrets, unread)) => {
            parts.hide(secrets);
            parts.cannot_hide(unread);
        }
        None => parts.cannot_hide([silent(shown)]),
    }
}

/// Timelines, and what the store has; nothing is looked for on a disk that has shown that it cannot be used.
async fn look_below(
    settings: &Settings,
    running: &[RecordingId],
    report: &Report,
    parts: &mut Parts,
) -> (Vec<Timeline>, Result<recordings::Left, Failure>) {
    let mut checks = report.checks().iter();
    if checks.any(|check| check.name() == "recordings" && check.is_bad()) {
        let why = "the recordings folder cannot be used; see \"recordings\" above";
        parts.lack("timelines", why);
        return (Vec::new(), Err(Failure::new(why)));
    }
    let timelines = recordings::timelines(&settings.recording_path, parts).await;
    (timelines, recordings::left(settings, running).await)
}
