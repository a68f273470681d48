//! What a hang-up (`systemctl reload`) has the running service read again: its certificate, and how much it logs. Everything
//! else holds from one start to the next; what was changed since is named.

use super::{SettingsFile, logging};
use crate::config::{Faults, TABLE, Variables};
use crate::http::Tls;
use log::{error, info, warn};

/// The setting that is read again.
const READ_AGAIN: &str = "DEBUG_MODE";

/// The service's settings as they were at its start, and where they come from.
pub(super) struct Reload {
    file: SettingsFile,
    tls: Option<Tls>,
    held: Vec<Option<String>>,
}

impl Reload {
    pub(super) fn new(file: SettingsFile, variables: &Variables, tls: Option<Tls>) -> Self {
        let held = values(variables);
        Self { file, tls, held }
    }

    /// Reads again. What is wrong is said, and leaves everything as it was.
    pub(super) fn now(&self) {
        if let Some(Err(cause)) = self.tls.as_ref().map(Tls::reload) {
            error!("the old certificate stays in use: {cause}");
        }
        if let Err(faults) = self.settings() {
            error!("the settings stay as they were: {faults}");
        }
    }

    fn settings(&self) -> Result<(), Faults> {
        let variables = self.file.variables();
        let settings = variables.settings()?;
        logging::tell_more(settings.debug.0);
        let pairs = TABLE.iter().zip(self.held.iter().zip(values(&variables)));
        let changed = pairs
            .filter(|(setting, (held, found))| **held != *found && setting.name != READ_AGAIN)
            .map(|(setting, _)| setting.name)
            .collect::<Vec<_>>();
        match changed.is_empty() {
            true => {
                info!(debug = settings.debug.0; "the certificate and {READ_AGAIN} were reloaded")
            }
            false => {
                warn!(settings = changed.join(" "); "changed settings hold from the next start")
            }
        }
        Ok(())
    }
}

fn values(variables: &Variables) -> Vec<Option<String>> {
    let values = TABLE.iter().map(|setting| variables.get(setting.name));
    values.collect()
}
