//! `update`: a newer package, the recording image from its program, the service with both. Recordings that run keep their
//! container and go on.

use super::install::build_image;
use super::report::Form;
use super::service::{Manager, Verb};
use super::system::{Call, find};
use super::{Failure, SettingsFile, exit};
use clap::Args;
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;

/// Install a newer package, rebuild the recording image from it, and restart the service.
#[derive(Debug, Args)]
pub(super) struct Update {
    /// The package; without it the newest one that apt knows.
    package: Option<PathBuf>,
    /// Leave the recording image as it is.
    #[arg(long)]
    without_image: bool,
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, Serialize)]
struct Done {
    before: String,
    after: String,
    image: Option<String>,
}

impl Update {
    pub(super) fn run(self) -> Result<(), Failure> {
        if find("apt-get").is_none() {
            return Err(Failure::with(
                exit::UNAVAILABLE,
                "this updates the Debian package; a container is updated by building or pulling its new image",
            ));
        }
        let settings = self.file.settings()?;
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
        if !self.without_image {
            build_image(&settings)?;
        }
        let manager = Manager::find()?;
        manager.tell(Verb::Restart)?;
        let done = Done {
            before,
            after: installed()?,
            image: (!self.without_image).then(|| settings.image()),
        };
        self.form.print(&done, |done| {
            let image = done
                .image
                .as_ref()
                .map_or(String::new(), |image| format!(", built {image}"));
            format!(
                "{} → {}{image}, restarted the service",
                done.before, done.after
            )
        });
        Ok(())
    }
}

fn installed() -> Result<String, Failure> {
    Call::of("dpkg-query", ["-W", "-f", "${Version}", "ov2-ha-recorder"]).output().map_err(|_| {
        Failure::with(exit::UNAVAILABLE, "the package ov2-ha-recorder is not installed here; apt-get install ./ov2-ha-recorder_….deb")
    })
}
