//! `uninstall`: puts back what `install` and `reconfigure` changed, and nothing else. Recordings, and files that someone
//! edited since, stay.

use super::changes::{PutBack, Record, Undo};
use super::install::env_path;
use super::report::Form;
use super::service::{Manager, Verb};
use super::system::{Call, image_is_ours};
use super::{DataDir, Failure, SettingsFile, exit};
use clap::Args;

/// Put back what "install" and "reconfigure" changed; recordings stay.
#[derive(Debug, Args)]
pub(super) struct Uninstall {
    /// Show what would be put back and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Leave the service as it is.
    #[arg(long)]
    without_service: bool,
    /// Leave the recording image as it is.
    #[arg(long)]
    without_image: bool,
    /// For the removal of the package, which keeps its settings.
    #[arg(long, hide = true)]
    keep_settings: bool,
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    form: Form,
}

impl Uninstall {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut record = Record::load(&self.data.data_dir)?;
        if self.keep_settings {
            record.forget_file(&env_path(&self.file));
        }
        let strange = self.image_of_others(&record);
        let managed = !self.without_service && !self.dry_run;
        let manager = managed.then(Manager::find).and_then(Result::ok);
        if let Some(manager) = manager {
            manager.tell(Verb::Stop)?;
        }
        let undo = if self.dry_run {
            Undo::Show
        } else {
            Undo::Carry
        };
        let mut done = record.undo(&self.data.data_dir, !self.without_image, undo)?;
        done.left.extend(strange);
        if manager == Some(Manager::Systemd) {
            Call::of("systemctl", ["daemon-reload"]).output()?;
        }
        self.form.print(&done, |done| text(done, undo));
        match done.waits.is_empty() || self.dry_run {
            true => Ok(()),
            false => Err(Failure::with(
                exit::UNAVAILABLE,
                "not everything could be put back; what waits is still written down: run this again",
            )),
        }
    }

    /// An image of ours that `install` did not build: whoever did decides over it.
    fn image_of_others(&self, record: &Record) -> Option<String> {
        let image = self.file.settings().ok()?.image();
        let is_strange =
            !self.without_image && !record.has_image(&image) && image_is_ours(&image) == Some(true);
        is_strange.then(|| format!("the image {image}, which \"install\" did not build (docker rmi {image} takes its name away)"))
    }
}

fn text(done: &PutBack, undo: Undo) -> String {
    let (back, left) = match undo {
        Undo::Show => (
            "would put back:",
            "would not change, because it was edited since:",
        ),
        Undo::Carry => ("put back:", "not changed, because it was edited since:"),
    };
    let list = |title: &str, names: &[String]| {
        let lines: String = names.iter().map(|name| format!("  {name}\n")).collect();
        match names.is_empty() {
            true => lines,
            false => format!("{title}\n{lines}"),
        }
    };
    let text = list(back, &done.restored)
        + &list(left, &done.left)
        + &list("not put back yet:", &done.waits);
    match text.is_empty() {
        true => "nothing to put back".into(),
        false => text,
    }
}
