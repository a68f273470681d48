//! `restore`: reads an archive whole and checks it, then replaces: database, env file, and manifests that are missing beside
//! chunks that are still there. What was there before is moved aside, never deleted.

use super::backup::{FORMAT, INDEX, Index, MANIFESTS, SETTINGS, STATE};
use super::report::Form;
use super::service::keeps_state_here;
use super::{DataDir, Failure, SettingsFile, exit};
use crate::clock::{Clock, SystemClock};
use crate::config::{Settings, Variables};
use crate::{db, store};
use bytes::Bytes;
use clap::Args;
use flate2::read::GzDecoder;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// More than this in one archive is no backup of ours.
const MOST_BYTES: u64 = 4 << 30;

/// Replace settings, sessions and webhooks by those of an archive; the service must be stopped.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The archive that "backup" made.
    archive: PathBuf,
    /// Check the archive and do nothing.
    #[arg(long)]
    check: bool,
    /// Leave the env file as it is.
    #[arg(long)]
    without_settings: bool,
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    form: Form,
}

struct Archive {
    index: Index,
    state: Vec<u8>,
    settings: Option<String>,
    manifests: BTreeMap<String, Bytes>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    checked_only: bool,
    #[serde(flatten)]
    index: Index,
    manifests_put_back: usize,
    kept: Vec<PathBuf>,
}

impl Restore {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let archive = Archive::read(&self.archive)?;
        archive.check()?;
        let mut outcome = Outcome {
            checked_only: self.check,
            index: archive.index.clone(),
            manifests_put_back: 0,
            kept: Vec::new(),
        };
        if !self.check {
            self.replace(&archive, &mut outcome).await?;
        }
        self.form.print(&outcome, text);
        Ok(())
    }

    async fn replace(&self, archive: &Archive, outcome: &mut Outcome) -> Result<(), Failure> {
        keeps_state_here(&self.data)?;
        let aside = format!("before-restore-{}", SystemClock.now().millis());
        let old = db::export::import(&self.data.data_dir, &archive.state[..], &aside);
        outcome.kept.extend(old.map_err(|cause| {
            Failure::new(format!(
                "{cause}; stop the service first with \"ov2-ha-recorder stop\""
            ))
        })?);
        same_owner(&self.data.data_dir);
        if let (Some(text), Some(path), false) =
            (&archive.settings, self.file.path(), self.without_settings)
        {
            outcome.kept.extend(replace_file(&path, text, &aside)?);
        }
        if let Ok(settings) = self.file.settings() {
            outcome.manifests_put_back = put_manifests(&settings, &archive.manifests).await?;
        }
        Ok(())
    }
}

impl Archive {
    fn read(path: &Path) -> Result<Self, Failure> {
        let broken = |cause: &dyn std::fmt::Display| {
            Failure::new(format!(
                "{} is no whole backup: {cause}; nothing was changed",
                path.display()
            ))
        };
        let file = std::fs::File::open(path).map_err(|cause| {
            Failure::with(
                exit::UNAVAILABLE,
                format!("cannot read {}: {cause}", path.display()),
            )
        })?;
        let mut entries = BTreeMap::new();
        let mut archive = tar::Archive::new(GzDecoder::new(file).take(MOST_BYTES));
        for entry in archive.entries().map_err(|cause| broken(&cause))? {
            let mut entry = entry.map_err(|cause| broken(&cause))?;
            let name = entry
                .path()
                .map_err(|cause| broken(&cause))?
                .to_string_lossy()
                .into_owned();
            let mut body = Vec::new();
            entry
                .read_to_end(&mut body)
                .map_err(|cause| broken(&cause))?;
            entries.insert(name, body);
        }
        let index = entries
            .remove(INDEX)
            .ok_or_else(|| broken(&"it lacks its index"))?;
        let settings = entries.remove(SETTINGS).map(String::from_utf8).transpose();
        Ok(Self {
            index: serde_json::from_slice(&index).map_err(|cause| broken(&cause))?,
            state: entries
                .remove(STATE)
                .ok_or_else(|| broken(&"it lacks the database"))?,
            settings: settings.map_err(|cause| broken(&cause))?,
            manifests: entries
                .into_iter()
                .filter_map(|(name, body)| {
                    Some((name.strip_prefix(MANIFESTS)?.to_owned(), Bytes::from(body)))
                })
                .collect(),
        })
    }

    fn check(&self) -> Result<(), Failure> {
        if self.index.format != FORMAT {
            return Err(Failure::new(format!(
                "the archive has layout {}, this program reads {FORMAT}; use version {} of it",
                self.index.format, self.index.program
            )));
        }
        let found = db::export::check(&self.state[..]).map_err(Failure::new)?;
        if found.records != self.index.records
            || self.manifests.len() as u64 != self.index.manifests
        {
            return Err(Failure::new(
                "the archive does not hold what its index says; nothing was changed",
            ));
        }
        if let Some(text) = &self.settings {
            Variables::default()
                .over_text(text, Path::new(SETTINGS))
                .well_formed()?;
        }
        Ok(())
    }
}

fn text(outcome: &Outcome) -> String {
    let index = &outcome.index;
    let what = format!(
        "backup of {} by version {}: {} records, {} manifests",
        index.created_at, index.program, index.records, index.manifests
    );
    if outcome.checked_only {
        return format!("{what}; it is whole");
    }
    let mut text = format!(
        "restored the {what} ({} put back into the store)",
        outcome.manifests_put_back
    );
    for path in &outcome.kept {
        text.push_str(&format!("\nkept what was there as {}", path.display()));
    }
    text + "\nstart the service with \"ov2-ha-recorder start\""
}

/// The service's user must be able to open what root restored.
fn same_owner(data_dir: &Path) {
    use std::os::unix::fs::{MetadataExt, chown};
    let Ok(owner) = std::fs::metadata(data_dir) else {
        return;
    };
    let mut folders = vec![data_dir.join("db")];
    while let Some(path) = folders.pop() {
        if let Err(cause) = chown(&path, Some(owner.uid()), Some(owner.gid())) {
            log::warn!(
                "cannot give {} to the service's user: {cause}",
                path.display()
            );
        }
        let inner = std::fs::read_dir(&path).into_iter().flatten().flatten();
        folders.extend(inner.map(|entry| entry.path()));
    }
}

fn replace_file(path: &Path, text: &str, aside: &str) -> Result<Option<PathBuf>, Failure> {
    let found = std::fs::read_to_string(path).ok();
    if found.as_deref() == Some(text) {
        return Ok(None);
    }
    let put = || -> std::io::Result<Option<PathBuf>> {
        let kept = path.with_extension(aside);
        if found.is_some() {
            std::fs::copy(path, &kept)?;
        }
        // Written in place: mode, owner and group stay.
        std::fs::write(path, text)?;
        Ok(found.is_some().then_some(kept))
    };
    put().map_err(|cause| {
        Failure::with(
            exit::CANNOT_WRITE,
            format!("cannot write {}: {cause}", path.display()),
        )
    })
}

/// A manifest goes back only where its take's chunks still are and it is not.
async fn put_manifests(
    settings: &Settings,
    manifests: &BTreeMap<String, Bytes>,
) -> Result<usize, Failure> {
    let failed =
        |cause: store::StoreError| Failure::new(format!("cannot put the manifests back: {cause}"));
    let store = store::open(settings, &settings.recording_path).map_err(failed)?;
    let mut count = 0;
    for (key, body) in manifests {
        let take = key.trim_end_matches("/manifest.json");
        let there = store.list(take).await.map_err(failed)?;
        if !there.is_empty() && !there.iter().any(|object| object.key == *key) {
            store.put_bytes(key, body.clone()).await.map_err(failed)?;
            count += 1;
        }
    }
    Ok(count)
}
