//! What recordings' first containers were made with. A backup must be like its original, also when the original is gone and
//! the controller was started again since: so it is kept on disk, too. An environment holds secrets (the page's address is
//! one): the folder is this user's alone, and nothing stays there longer than its recording is open.

use super::{Controller, lock};
use crate::disk;
use crate::model::ids::RecordingId;
use crate::model::session::Session;
use crate::runtime::{Blueprint, Environment, HostOptions};
use log::warn;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The folder of them in the data directory.
const FOLDER: &str = "blueprints";

/// One as it lies on disk.
#[derive(Serialize, Deserialize)]
struct Kept {
    environment: BTreeMap<String, String>,
    host: Value,
}

/// All that are known.
pub(super) struct Blueprints {
    folder: PathBuf,
    known: Mutex<HashMap<RecordingId, Blueprint>>,
    /// Held while the folder is changed, so that what is forgotten is not written afterwards.
    changing: Mutex<()>,
}

impl Blueprints {
    /// Those that an earlier life of the controller left in `data_dir`. What cannot be read is told and deleted: the
    /// container that it was read from is there, or is missing for good.
    pub(super) fn open(data_dir: &Path) -> Self {
        let folder = data_dir.join(FOLDER);
        let mut known = HashMap::new();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match read(&path) {
                Ok((id, blueprint)) => drop(known.insert(id, blueprint)),
                Err(cause) => {
                    warn!(file:% = path.display(); "what a backup is made with cannot be read and is deleted: {cause}");
                    let _ = fs::remove_file(&path);
                }
            }
        }
        Self {
            folder,
            known: Mutex::new(known),
            changing: Mutex::default(),
        }
    }

    pub(super) fn get(&self, id: &RecordingId) -> Option<Blueprint> {
        lock(&self.known).get(id).cloned()
    }

    pub(super) fn has(&self, id: &RecordingId) -> bool {
        lock(&self.known).contains_key(id)
    }

    /// Keeps one. Where the disk does not take it, it is known for as long as this process lives.
    pub(super) fn keep(&self, id: &RecordingId, blueprint: Blueprint) {
        let _changing = lock(&self.changing);
        let before = lock(&self.known).insert(id.clone(), blueprint.clone());
        if before.as_ref() == Some(&blueprint) {
            return;
        }
        if let Err(cause) = self.write(id, blueprint) {
            warn!(session:% = id;
                "what a backup of this recording is made with cannot be written to {}: {cause}; if the controller is \
                 started again, a recorder that was removed cannot be replaced",
                self.folder.display()
            );
        }
    }

    fn write(&self, id: &RecordingId, blueprint: Blueprint) -> io::Result<()> {
        if !self.folder.is_dir() {
            let folder = fs::DirBuilder::new().mode(0o700).create(&self.folder);
            folder.or_else(|cause| match cause.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(cause),
            })?;
        }
        let kept = Kept {
            environment: blueprint.environment.0,
            host: blueprint.host.0,
        };
        disk::write_private(&self.folder.join(id.as_str()), &serde_json::to_vec(&kept)?)
    }

    pub(super) fn forget(&self, id: &RecordingId) {
        let _changing = lock(&self.changing);
        if lock(&self.known).remove(id).is_some() {
            let _ = fs::remove_file(self.folder.join(id.as_str()));
        }
    }

    fn ids(&self) -> Vec<RecordingId> {
        lock(&self.known).keys().cloned().collect()
    }
}

/// Whether nothing of a session can need it any more.
pub(super) const fn is_done(session: &Session) -> bool {
    session.over() && session.seal_at.is_none()
}

fn read(path: &Path) -> Result<(RecordingId, Blueprint), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let id = RecordingId::parse(name.as_ref()).map_err(|cause| cause.to_string())?;
    let bytes = fs::read(path).map_err(|cause| cause.to_string())?;
    // What serde says of a wrong file may hold a piece of it.
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|_| "it is not what was written")?;
    let blueprint = Blueprint {
        environment: Environment(kept.environment),
        host: HostOptions(kept.host),
    };
    Ok((id, blueprint))
}

impl Controller {
    /// Forgets what nobody can need any more: the recording is over, and its containers are gone.
    pub(super) fn forget_blueprints(&self) {
        for id in self.0.blueprints.ids() {
            // A session that cannot be read may be open.
            let Ok(is_open) = self
                .table_with(&id)
                .map(|table| table.get(&id).is_some_and(|it| !is_done(&it.session)))
            else {
                continue;
            };
            if !is_open && lock(&self.0.observations).has_none_of(&id) {
                self.0.blueprints.forget(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn blueprint() -> Blueprint {
        Blueprint {
            environment: Environment(BTreeMap::from([("URL".into(), "https://a:b@c".into())])),
            host: HostOptions(serde_json::json!({ "ShmSize": 1 })),
        }
    }

    #[test]
    fn what_a_backup_is_made_with_outlives_the_controller_and_is_nobody_elses_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let id = RecordingId::parse("ses_A").unwrap();
        Blueprints::open(folder.path()).keep(&id, blueprint());
        let path = folder.path().join(FOLDER);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("ses_A"))), (0o700, 0o600));
        fs::write(path.join("ses_B"), b"{").unwrap();
        let again = Blueprints::open(folder.path());
        assert_eq!(again.get(&id), Some(blueprint()));
        again.forget(&id);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        assert!(!Blueprints::open(folder.path()).has(&id));
    }
}
