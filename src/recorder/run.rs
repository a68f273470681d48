//! This recorder's place among all that ever worked on the take: its run's number, taken by making its folder, which only
//! one can make. Whoever finds a folder of a later run has been replaced, even when no controller can be asked. The folder
//! is locked for as long as its maker lives: who has no controller's word for it replaces nobody that is alive, or two whom
//! Docker keeps starting would take turns for ever.

use crate::disk;
use crate::join::ChunkSource;
use crate::model::chunk::{ChunkKey, TakeKey};
use crate::model::ids::RunNumber;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// One recorder's life.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) take: TakeKey,
    pub(super) number: RunNumber,
    pub(super) folder: PathBuf,
    /// The folder, locked while we live. Some file systems cannot; recording does without.
    lock: Arc<Mutex<Option<File>>>,
}

impl Run {
    /// Takes run `wanted` or the first free one after it.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub(super) fn claim(recordings: &Path, take: TakeKey, wanted: RunNumber) -> io::Result<Self> {
        let take_folder = recordings.join(take.to_string());
        fs::create_dir_all(&take_folder)?;
        let mut number = RunNumber(wanted.0.max(1));
        loop {
            let folder = take_folder.join(format!("r{number}"));
            match fs::create_dir(&folder) {
                Ok(()) => {
                    return Ok(Self {
                        take,
                        number,
                        lock: Arc::new(Mutex::new(locked(&folder))),
                        folder,
                    });
                }
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                    number = number.next();
                }
                Err(cause) => return Err(cause),
            }
        }
    }

    /// Makes the folder again where it was swept away.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn make_folder(&self) -> io::Result<()> {
        disk::make_folder(&self.folder)?;
        if let Some(again) = locked(&self.folder) {
            *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(again);
        }
        Ok(())
    }

    /// Whether a later run has begun.
    pub(super) fn is_overtaken(&self) -> bool {
        last_run(self.take_folder()) > self.number
    }

    /// Whether a run before this one recorded on this disk.
    pub(super) fn goes_on_here(&self) -> bool {
        (1..self.number.0).any(|run| self.take_folder().join(format!("r{run}")).is_dir())
    }

    fn take_folder(&self) -> &Path {
        disk::parent(&self.folder)
    }
}

fn locked(folder: &Path) -> Option<File> {
    let folder = File::open(folder).ok()?;
    folder.try_lock().ok().map(|()| folder)
}

/// Whether the recorder that made the folder of `run` lives, on this machine.
pub(super) fn is_alive(take_folder: &Path, run: RunNumber) -> bool {
    File::open(take_folder.join(format!("r{run}"))).is_ok_and(|folder| {
        let tried = folder.try_lock_shared();
        matches!(tried, Err(TryLockError::WouldBlock))
    })
}

/// Sees whether a later run has begun.
#[derive(Debug)]
pub(super) struct Fence {
    take_folder: PathBuf,
    own: RunNumber,
    looked: Option<SystemTime>,
}

impl Fence {
    /// A fence around `run`.
    pub(super) fn around(run: &Run) -> Self {
        Self {
            take_folder: run.take_folder().to_owned(),
            own: run.number,
            looked: None,
        }
    }

    /// Whether a later run has made its folder. Costs one look at the folder's time while nothing changes.
    pub(super) fn is_overtaken(&mut self) -> bool {
        let changed = fs::metadata(&self.take_folder)
            .and_then(|data| data.modified())
            .ok();
        if changed.is_some() && changed == self.looked {
            return false;
        }
        self.looked = changed;
        last_run(&self.take_folder) > self.own
    }
}

/// The highest run that left a folder in the take's folder; zero when there is none.
pub(super) fn last_run(take_folder: &Path) -> RunNumber {
    let runs = fs::read_dir(take_folder).into_iter().flatten().flatten();
    runs.filter_map(|entry| entry.file_name().to_str()?.strip_prefix('r')?.parse().ok())
        .map(RunNumber)
        .max()
        .unwrap_or_default()
}

/// Every chunk of the take on this disk, in the order of run and index.
pub(super) fn chunks(recordings: &Path, take: &TakeKey) -> Vec<ChunkSource> {
    let folder = recordings.join(take.to_string());
    let mut found: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .flat_map(|run| fs::read_dir(run.path()).into_iter().flatten().flatten())
        .filter_map(|entry| {
            let path = entry.path();
            let inner = path.strip_prefix(recordings).ok()?.to_str()?;
            let key = ChunkKey::parse(take, inner)?;
            Some(ChunkSource {
                run: key.run,
                index: key.index,
                path,
            })
        })
        .collect();
    found.sort_by_key(ChunkSource::origin);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{RecordingId, TakeId};

    fn take() -> TakeKey {
        TakeKey {
            recording: RecordingId::parse("ses_A").unwrap(),
            folder: "chunks".into(),
            take: TakeId::parse("17").unwrap(),
        }
    }

    #[test]
    fn no_two_recorders_have_one_run_and_the_earlier_one_sees_it_was_replaced() {
        let root = tempfile::tempdir().unwrap();
        let one = Run::claim(root.path(), take(), RunNumber(1)).unwrap();
        let mut fence = Fence::around(&one);
        assert!(!fence.is_overtaken());
        let two = Run::claim(root.path(), take(), RunNumber(1)).unwrap();
        assert_eq!((one.number, two.number), (RunNumber(1), RunNumber(2)));
        assert!(fence.is_overtaken());
        assert!(!Fence::around(&two).is_overtaken());
    }

    #[test]
    fn a_run_is_alive_until_its_recorder_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(take().to_string());
        assert!(!is_alive(&folder, RunNumber(0)));
        let one = Run::claim(root.path(), take(), RunNumber(1)).unwrap();
        let same = one.clone();
        drop(one);
        assert!(is_alive(&folder, same.number));
        fs::remove_dir_all(&folder).unwrap();
        assert!(!is_alive(&folder, RunNumber(1)));
        same.make_folder().unwrap();
        assert!(is_alive(&folder, RunNumber(1)), "swept and made again");
        same.make_folder().unwrap();
        assert!(is_alive(&folder, RunNumber(1)), "made twice");
        drop(same);
        assert!(!is_alive(&folder, RunNumber(1)));
    }

    #[test]
    fn chunks_of_all_runs_are_found_in_order_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        for run in [1, 2] {
            let run = Run::claim(root.path(), take(), RunNumber(run)).unwrap();
            let index = run.number.0;
            fs::write(run.folder.join(format!("{index:04}.mp4")), b"").unwrap();
            fs::write(run.folder.join("0009.mp4.part"), b"").unwrap();
        }
        let found = chunks(root.path(), &take());
        let found: Vec<_> = found
            .iter()
            .map(|chunk| (chunk.run.0, chunk.index))
            .collect();
        assert_eq!(found, [(1, 1), (2, 2)]);
    }
}
