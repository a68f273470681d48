//! `reset`: forgets every session and webhook. Recordings, chunks and settings stay; the old database is moved aside.

use super::report::Form;
use super::service::keeps_state_here;
use super::{DataDir, Failure, SettingsFile, exit};
use crate::clock::{Clock, SystemClock};
use crate::db::Db;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// What must be given so that nobody resets by accident.
const WORD: &str = "reset-everything";

/// Forget every session and webhook; recordings, chunks and settings stay. The service must be stopped.
#[derive(Debug, Args)]
pub(super) struct Reset {
    /// The word "reset-everything", so that nobody resets by accident.
    #[arg(value_name = "WORD")]
    word: Option<String>,
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, Serialize)]
struct Done {
    kept: Option<PathBuf>,
}

impl Reset {
    pub(super) async fn run(self) -> Result<(), Failure> {
        if self.word.as_deref() != Some(WORD) {
            return Err(Failure::new(format!(
                "this forgets every session and webhook of {}; say \"ov2-ha-recorder reset {WORD}\" if you mean it",
                self.data.data_dir.display()
            )));
        }
        keeps_state_here(&self.data)?;
        let db = self.data.data_dir.join("db");
        let mut done = Done { kept: None };
        if db.exists() {
            // One that cannot be read is what this command is for; one that the service has open is not.
            match Db::open(&self.data.data_dir) {
                Err(cause) if !cause.is_damage() => return Err(Failure::new(cause)),
                Ok(_) | Err(_) => {}
            }
            let kept = self
                .data
                .data_dir
                .join(format!("db.before-reset-{}", SystemClock.now().millis()));
            std::fs::rename(&db, &kept).map_err(|cause| {
                Failure::with(
                    exit::CANNOT_WRITE,
                    format!("cannot move {} aside: {cause}", db.display()),
                )
            })?;
            done.kept = Some(kept);
        }
        // What belongs to the recordings that are forgotten, and what a database that was set aside left for the next one.
        for folder in ["blueprints", "db.next"] {
            let _ = std::fs::remove_dir_all(self.data.data_dir.join(folder));
        }
        self.form.print(&done, |done| match &done.kept {
            Some(kept) => format!(
                "reset; the old database is {}: delete it when it is not wanted any more",
                kept.display()
            ),
            None => "there was no database".into(),
        });
        Ok(())
    }
}
