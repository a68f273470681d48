//! `update`: a newer package, the recording image from its program, the service with both. Recordings that run keep their
//! container and go on.

use super::env_text::EnvText;
use super::install::{Steps, Way, left_to_its_writer, own_env_path};
use super::report::Form;
use super::service::{Manager, Verb};
use super::system::{Call, find};
use super::{DataDir, Failure, SettingsFile, exit};
use crate::config::Settings;
use clap::Args;
use serde::Serialize;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Install a newer package, rebuild the recording image from it, and restart the service.
#[derive(Debug, Args)]
pub(super) struct Update {
    /// The package; without it the newest one that apt knows.
    package: Option<PathBuf>,
    /// Leave the recording image as it is.
    #[arg(long)]
    without_image: bool,
    /// The rest of an update from this version, whose package is installed.
    #[arg(long, hide = true, value_name = "VERSION")]
    since: Option<String>,
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, Serialize)]
struct Done {
    before: String,
    after: String,
    image: Option<String>,
    notes: Vec<String>,
}

impl Update {
    pub(super) fn run(self) -> Result<(), Failure> {
        match &self.since {
            None => self.install(),
            Some(before) => self.finish(before.clone()),
        }
    }

    /// Installs the package and has the program that it brings do the rest: this one's file is gone by then.
    fn install(&self) -> Result<(), Failure> {
        if find("apt-get").is_none() {
            return Err(Failure::with(
                exit::UNAVAILABLE,
                "this updates the Debian package; a container is updated by building or pulling its new image",
            ));
        }
        // Before the package is another one: it would end without an image for it.
        self.refuse_clash(&self.file.settings()?)?;
        let before = installed()?;
        let wanted = match &self.package {
            // apt takes a path for a package's name unless it has a slash.
            Some(path) => std::path::absolute(path)
                .map_err(Failure::new)?
                .into_os_string(),
            None => "ov2-ha-recorder".into(),
        };
        // dpkg asks about settings that changed on both sides, and nobody answers: the person's stay.
        let keep = "Dpkg::Options::=--force-confold";
        let arguments = ["-y", "-q", "-o", keep, "install"].map(Into::into);
        let arguments = arguments.into_iter().chain([wanted]);
        Call::of("apt-get", arguments.collect::<Vec<OsString>>())
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()?;
        let mut rest = Command::new(packaged()?);
        rest.args(["update", "--since", &before, "--data-dir"])
            .arg(&self.data.data_dir);
        if let Some(path) = &self.file.env_file {
            rest.arg("--env-file").arg(path);
        }
        rest.args(self.without_image.then_some("--without-image"));
        rest.args(self.form.json.then_some("--json"));
        let cause = rest.exec();
        Err(Failure::new(format!(
            "the package is installed, but its program cannot be started: {cause}"
        )))
    }

    fn finish(&self, before: String) -> Result<(), Failure> {
        let settings = self.file.settings_with(&self.data)?;
        let notes = match self.without_image {
            // The package may have brought other settings.
            true => self.refuse_clash(&settings),
            false => Ok(self.build(&settings)?),
        };
        // Whatever is to be said of recorders, the service is not to go on with files that were replaced.
        Manager::find()?.tell(Verb::Restart)?;
        let notes = notes?;
        let done = Done {
            before,
            after: installed()?,
            image: (!self.without_image).then(|| settings.image()),
            notes,
        };
        self.form.print(&done, |done| {
            let image = done
                .image
                .as_ref()
                .map_or(String::new(), |image| format!(", built {image}"));
            let notes = done.notes.iter().map(|note| format!("\nnote: {note}"));
            format!(
                "{} → {}{image}, restarted the service{}",
                done.before,
                done.after,
                notes.collect::<String>()
            )
        });
        Ok(())
    }

    /// Ends where a person's own file would keep recorders out. Answers what a person should know of one that does not.
    fn refuse_clash(&self, settings: &Settings) -> Result<Vec<String>, Failure> {
        let path = own_env_path(&self.file)?;
        let env = EnvText::new(std::fs::read_to_string(&path).unwrap_or_default());
        let place = settings.recording_path.join(".env");
        let steps = Steps::begin(&self.data.data_dir, true)?;
        let is_theirs = steps.is_theirs(&place, &env, settings)?;
        Ok(Vec::from_iter(
            is_theirs.then(|| left_to_its_writer(&place)),
        ))
    }

    /// The recording image, with the recorders' settings as the service's file has them. Answers what a person should know.
    fn build(&self, settings: &Settings) -> Result<Vec<String>, Failure> {
        let path = own_env_path(&self.file)?;
        let env = EnvText::new(std::fs::read_to_string(&path).unwrap_or_default());
        let mut steps = Steps::begin(&self.data.data_dir, false)?;
        steps.recorders(&env, settings, &path, Way::Update)?;
        Ok(steps.into_notes())
    }
}

/// The program that the package has installed.
fn packaged() -> Result<PathBuf, Failure> {
    let files = Call::of("dpkg-query", ["-L", "ov2-ha-recorder"]).output()?;
    let program = files
        .lines()
        .find(|path| path.ends_with("/bin/ov2-ha-recorder"));
    program.map(PathBuf::from).ok_or_else(|| {
        Failure::with(exit::UNAVAILABLE, "the package is installed, but dpkg knows no program in it; run \"ov2-ha-recorder install\"")
    })
}

fn installed() -> Result<String, Failure> {
    Call::of("dpkg-query", ["-W", "-f", "${Version}", "ov2-ha-recorder"]).output().map_err(|_| {
        Failure::with(exit::UNAVAILABLE, "the package ov2-ha-recorder is not installed here; apt-get install ./ov2-ha-recorder_….deb")
    })
}
