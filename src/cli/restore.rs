//! `restore`: reads an archive whole and checks it, then replaces: database, env file, the files that it names, and manifests that are missing beside
//! chunks that are still there. What was there before is moved aside, never deleted.

use super::backup::{FILES, FORMAT, INDEX, Index, MANIFESTS, SETTINGS, STATE};
use super::report::Form;
use super::service::keeps_state_here;
use super::{DataDir, Failure, SettingsFile, exit};
use crate::clock::{Clock, SystemClock};
use crate::config::{Settings, Variables};
use crate::{db, disk, store};
use bytes::Bytes;
use clap::Args;
use flate2::read::GzDecoder;
use nix::fcntl::OFlag;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
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
    /// What lies in the files from which settings have their values, by the settings' names.
    files: BTreeMap<String, Vec<u8>>,
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
        let targets = self.targets(archive);
        // What is as it should be already is left alone.
        let differs = |(path, bytes): &&(PathBuf, &[u8])| {
            !path.is_file() || std::fs::read(path).ok().as_deref() != Some(*bytes)
        };
        // Before the first change: what is begun here must come to its end.
        for (path, _) in targets.iter().filter(differs) {
            can_be_replaced(path).map_err(|cause| {
                let shown = path.display();
                let message = format!("cannot write {shown}: {cause}; nothing was changed");
                Failure::with(exit::CANNOT_WRITE, message)
            })?;
        }
        let aside = format!("before-restore-{}", SystemClock.now().millis());
        let old = db::export::import(&self.data.data_dir, &archive.state[..], &aside);
        outcome.kept.extend(old.map_err(|cause| {
            Failure::new(format!(
                "{cause}; stop the service first with \"ov2-ha-recorder stop\""
            ))
        })?);
        same_owner(&self.data.data_dir);
        let group = group_of(&self.data.data_dir);
        for (path, bytes) in targets {
            outcome
                .kept
                .extend(replace_file(&path, bytes, group, &aside)?);
        }
        if let Ok(settings) = self.file.settings_with(&self.data) {
            outcome.manifests_put_back = put_manifests(&settings, &archive.manifests).await?;
        }
        Ok(())
    }
}

impl Restore {
    /// The env file and the files from which it has values, with what they are to hold.
    fn targets<'a>(&self, archive: &'a Archive) -> Vec<(PathBuf, &'a [u8])> {
        let (Some(text), Some(path), false) =
            (&archive.settings, self.file.path(), self.without_settings)
        else {
            return Vec::new();
        };
        let named = Variables::default().over_text(text, &path);
        let files = archive.files.iter().filter_map(|(name, bytes)| {
            let path = named.get(&format!("{name}_FILE"))?;
            Some((PathBuf::from(path), &bytes[..]))
        });
        let files: Vec<_> = files.collect();
        [(path, text.as_bytes())].into_iter().chain(files).collect()
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
            files: entries
                .iter()
                .filter_map(|(name, body)| {
                    Some((name.strip_prefix(FILES)?.to_owned(), body.clone()))
                })
                .collect(),
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
    use std::os::unix::fs::chown;
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

/// The group of the service's user, who must be able to read what root restored.
fn group_of(data_dir: &Path) -> Option<u32> {
    std::fs::metadata(data_dir).ok().map(|found| found.gid())
}

/// Whether a file can be put there, with what was there beside it.
fn can_be_replaced(path: &Path) -> std::io::Result<()> {
    // A pipe in its place must not be waited for.
    let opened = OpenOptions::new()
        .write(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path);
    match opened.and_then(|file| file.metadata()) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(std::io::Error::other("it is not a file")),
        Err(cause) if cause.kind() == ErrorKind::NotFound && path.is_symlink() => {
            return Err(std::io::Error::other("it is a link to nothing"));
        }
        Err(cause) if cause.kind() == ErrorKind::NotFound => {}
        Err(cause) => return Err(cause),
    }
    // The folders that are missing are made in the first one that is there.
    let mut folders = path.ancestors().skip(1);
    let is_there = |folder: &&Path| folder.exists() || folder.as_os_str().is_empty();
    match folders.find(is_there) {
        Some(folder) if folder.as_os_str().is_empty() => disk::try_write(Path::new(".")),
        Some(folder) => disk::try_write(folder),
        None => Ok(()),
    }
}

/// What was there is kept beside it. A file that is made holds secrets: it is for its owner and `group`.
fn replace_file(
    path: &Path,
    bytes: &[u8],
    group: Option<u32>,
    aside: &str,
) -> Result<Option<PathBuf>, Failure> {
    let found = std::fs::read(path).ok();
    if found.as_deref() == Some(bytes) {
        return Ok(None);
    }
    let put = || -> std::io::Result<Option<PathBuf>> {
        if found.is_some() {
            let kept = path.with_extension(aside);
            std::fs::copy(path, &kept)?;
            // Written in place: mode, owner and group stay.
            std::fs::write(path, bytes)?;
            return Ok(Some(kept));
        }
        disk::make_folder(disk::parent(path))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(path)?;
        fchown(&file, None, group)?;
        file.write_all(bytes)?;
        Ok(None)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("key");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        assert!(can_be_replaced(&pipe).is_err());
        let reader = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&pipe)
            .unwrap();
        assert!(can_be_replaced(&pipe).is_err(), "somebody reads there");
        drop(reader);
    }
}
