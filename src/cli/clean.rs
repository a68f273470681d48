//! `clean`: has the running service forget sessions that ended, and shows what earlier restores and resets moved aside.

use super::api::Api;
use super::report::Form;
use super::{DataDir, Failure, SettingsFile};
use clap::Args;
use reqwest::Method;
use serde::Serialize;
use std::path::PathBuf;

/// Remove ended sessions now, and with --old what restore and reset moved aside.
#[derive(Debug, Args)]
pub(super) struct Clean {
    /// Also delete the databases that "restore" and "reset" moved aside.
    #[arg(long)]
    old: bool,
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    removed_sessions: u64,
    old_databases: Vec<PathBuf>,
    deleted: bool,
}

impl Clean {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let api = Api::of(&self.file.settings()?)?;
        let said = api
            .send(Method::POST, "/api/sessions/cleanup", None)
            .await?
            .ok("clean up")?;
        let old = std::fs::read_dir(&self.data.data_dir)
            .into_iter()
            .flatten()
            .flatten();
        let old_databases = old
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|kind| kind.to_string_lossy().starts_with("before-re"))
            })
            .collect::<Vec<_>>();
        if self.old {
            for path in &old_databases {
                std::fs::remove_dir_all(path).map_err(|cause| {
                    Failure::new(format!("cannot delete {}: {cause}", path.display()))
                })?;
            }
        }
        let done = Done {
            removed_sessions: said["removedSessions"].as_u64().unwrap_or(0),
            old_databases,
            deleted: self.old,
        };
        self.form.print(&done, |done| {
            let verb = if done.deleted {
                "deleted"
            } else {
                "moved aside earlier, delete with --old:"
            };
            let old = done
                .old_databases
                .iter()
                .map(|path| format!("\n{verb} {}", path.display()))
                .collect::<String>();
            format!("{} sessions removed{old}", done.removed_sessions)
        });
        Ok(())
    }
}
