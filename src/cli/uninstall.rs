//! `uninstall`: puts back what `install` and `reconfigure` changed. Recordings, and files that someone edited since, stay.

use super::changes::Record;
use super::report::Form;
use super::service::{Manager, Verb};
use super::system::{Call, image_is_ours};
use super::{DataDir, Failure, SettingsFile};
use crate::config::Settings;
use clap::Args;

/// Put back what "install" and "reconfigure" changed; recordings stay.
#[derive(Debug, Args)]
pub(super) struct Uninstall {
    /// Leave the service as it is.
    #[arg(long)]
    without_service: bool,
    /// Leave the recording image as it is.
    #[arg(long)]
    without_image: bool,
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    form: Form,
}

impl Uninstall {
    pub(super) fn run(self) -> Result<(), Failure> {
        let record = Record::load(&self.data.data_dir)?;
        let settings = self.file.settings().ok();
        let managed = (!self.without_service).then(Manager::find);
        let manager = managed.and_then(Result::ok);
        if let Some(manager) = manager {
            manager.tell(Verb::Stop)?;
        }
        let mut done = record.undo(&self.data.data_dir)?;
        if manager == Some(Manager::Systemd) {
            Call::of("systemctl", ["daemon-reload"]).output()?;
        }
        if !self.without_image
            && let Some(image) = settings.as_ref().and_then(image_back)
        {
            done.restored.push(image);
        }
        self.form.print(&done, |done| {
            let list = |title: &str, names: &[String]| {
                let lines = names
                    .iter()
                    .map(|name| format!("  {name}\n"))
                    .collect::<String>();
                if names.is_empty() {
                    lines
                } else {
                    format!("{title}\n{lines}")
                }
            };
            let text = list("put back:", &done.restored)
                + &list("left, for it was changed since:", &done.left);
            if text.is_empty() {
                "nothing to put back".into()
            } else {
                text
            }
        });
        Ok(())
    }
}

/// Gives the recording image's name back to OpenVidu's own image, which the image script kept, or else to nobody: OpenVidu
/// then fetches its own.
fn image_back(settings: &Settings) -> Option<String> {
    let image = settings.image();
    let kept = format!("ov2-ha-recorder-base:{}", settings.image_tag);
    let back = Call::of("docker", ["tag", &kept, &image]).succeeds()
        || (image_is_ours(&image) == Some(true) && Call::of("docker", ["rmi", &image]).succeeds());
    back.then(|| format!("the image {image}"))
}
