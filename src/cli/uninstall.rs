//! `uninstall`: puts back what `install` and `reconfigure` changed. Recordings, and files that someone edited since, stay.

use super::changes::Record;
use super::report::Form;
use super::service::{Manager, Verb};
use super::system::Call;
use super::{DataDir, Failure, SettingsFile};
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
        if !self.without_service
            && let Ok(manager) = Manager::find()
        {
            manager.tell(Verb::Stop)?;
        }
        let mut done = record.undo(&self.data.data_dir)?;
        if !self.without_image
            && let Some(settings) = settings
        {
            let (kept, image) = (
                format!("ov2-ha-recorder-base:{}", settings.image_tag),
                settings.image(),
            );
            // The image script keeps OpenVidu's own image under this name.
            if Call::of("docker", ["tag", &kept, &image]).succeeds() {
                done.restored.push(format!("the image {image}"));
            }
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
