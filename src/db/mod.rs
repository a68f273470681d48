//! The embedded database: sessions and webhooks go in here, and what was answered as kept is there after any crash. Who
//! waits for the disk flushes for everybody who waits by then, so that a hundred waiters cost one flush and a single one no
//! other thread. Nobody outside this room sees sled.

pub mod export;
mod journal;
pub mod outbox;
pub mod sessions;

use crate::disk;
use crate::tasks;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use tokio::sync::Mutex;

/// The version of the layout of keys and trees; a database of another one is left alone.
pub const VERSION: u32 = 1;

const VERSION_KEY: &[u8] = b"version";

/// Bytes that sled keeps of its files; the kernel keeps them too.
const CACHE: u64 = 4 << 20;

/// Why the database did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DbError {
    /// The folder cannot be made or written.
    #[error(
        "cannot write the data directory {path}: {cause}; give it to this user or name another one with --data-dir"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// Another process has it open.
    #[error(
        "the database in {path} is in use by another process; stop that one or name another folder with --data-dir"
    )]
    InUse {
        /// The database's folder.
        path: PathBuf,
    },
    /// It was made by another version of the program.
    #[error(
        "the database in {path} has version {found}, this program reads version {VERSION}; use the program that made it, or name another folder with --data-dir"
    )]
    Version {
        /// The database's folder.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// A record cannot be read.
    #[error(
        "cannot read the record {key} of the database: {cause}; restore the data directory from a backup"
    )]
    Record {
        /// Which.
        key: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The database failed.
    #[error("cannot {act} in the database: {cause}")]
    Failed {
        /// What was attempted.
        act: &'static str,
        /// What it said.
        cause: String,
    },
}

/// The open database. Clones share it; it closes when the last one is dropped.
#[derive(Clone)]
pub struct Db {
    sled: sled::Db,
    flushes: Arc<Flushes>,
    path: PathBuf,
}

/// Who waits for the disk takes a number. The first in line flushes for everybody who has one by then, and the others find
/// it done when their turn comes. After a flush that failed the next in line tries again.
struct Flushes {
    file: File,
    /// The blobs that are on disk.
    blobs: StdMutex<HashSet<OsString>>,
    /// The last number that was given.
    given: AtomicU64,
    /// The last number whose writes are on disk.
    served: Mutex<u64>,
}

impl Db {
    /// Opens the database below `data_dir` and makes it when there is none.
    ///
    /// # Errors
    /// When the folder cannot be written, another process has the database open, or another version made it.
    pub fn open(data_dir: &Path) -> Result<Self, DbError> {
        let path = data_dir.join("db");
        let folder = |cause: std::io::Error| DbError::Folder {
            path: data_dir.to_owned(),
            cause: cause.to_string(),
        };
        std::fs::create_dir_all(&path).map_err(folder)?;
        try_writing(data_dir).map_err(folder)?;
        let sled = sled::Config::new()
            .path(&path)
            .cache_capacity(CACHE)
            .flush_every_ms(Some(1_000))
            .open()
            .map_err(|cause| not_opened(&path, &cause))?;
        check_version(&sled, &path)?;
        let flushes = Flushes {
            file: File::open(path.join("db")).map_err(folder)?,
            blobs: StdMutex::default(),
            given: AtomicU64::new(0),
            served: Mutex::new(0),
        };
        Ok(Self {
            sled,
            flushes: Arc::new(flushes),
            path,
        })
    }

    /// Whether there is a database below `data_dir`.
    pub fn is_in(data_dir: &Path) -> bool {
        data_dir.join("db/db").is_file()
    }

    /// Answers when everything written before the call is on disk.
    ///
    /// # Errors
    /// When the disk did not take it.
    pub async fn durable(&self) -> Result<(), DbError> {
        let Flushes { given, served, .. } = &*self.flushes;
        let number = given.fetch_add(1, Ordering::SeqCst) + 1;
        let mut served = served.lock().await;
        if *served < number {
            let last = given.load(Ordering::SeqCst);
            tasks::block(|| self.flush())?;
            *served = last;
        }
        Ok(())
    }

    /// sled asks the kernel to write back, which a crash of this process survives; the sync survives a loss of power too.
    fn flush(&self) -> Result<(), DbError> {
        self.sled.flush().map_err(failed("flush"))?;
        self.sync_blobs().map_err(failed("flush"))?;
        self.flushes.file.sync_data().map_err(failed("flush"))
    }

    /// A value too large for sled's log is a file of its own, which sled writes once and never syncs.
    fn sync_blobs(&self) -> std::io::Result<()> {
        let folder = self.path.join("blobs");
        let names = std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.file_name()));
        let names = names.collect::<std::io::Result<HashSet<_>>>()?;
        let synced = &self.flushes.blobs;
        let mut synced = synced.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = names.difference(&synced).peekable();
        let any = fresh.peek().is_some();
        for name in fresh {
            match File::open(folder.join(name)) {
                Ok(blob) => blob.sync_all()?,
                Err(cause) if cause.kind() == ErrorKind::NotFound => {} // no longer wanted
                Err(cause) => return Err(cause),
            }
        }
        if any {
            disk::sync_folder(&folder)?;
        }
        *synced = names;
        Ok(())
    }

    /// Takes no more waiters and never returns, as a deadlock would: what the watchdog's test asks for.
    #[cfg(debug_assertions)]
    pub fn hang(&self) {
        let _held = self.flushes.served.blocking_lock();
        loop {
            std::thread::park();
        }
    }

    /// Bytes on disk.
    pub fn size_on_disk(&self) -> u64 {
        self.sled.size_on_disk().unwrap_or(0)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn tree(&self, name: &str) -> Result<sled::Tree, DbError> {
        self.sled.open_tree(name).map_err(failed("open a tree"))
    }
}

fn check_version(sled: &sled::Db, path: &Path) -> Result<(), DbError> {
    let found = sled.get(VERSION_KEY).map_err(failed("read"))?;
    match found {
        Some(found) if *found == *VERSION.to_string().as_bytes() => Ok(()),
        Some(found) => Err(DbError::Version {
            path: path.to_owned(),
            found: String::from_utf8_lossy(&found).into_owned(),
        }),
        None if sled.was_recovered() && sled.tree_names().len() > 1 => Err(DbError::Version {
            path: path.to_owned(),
            found: "unknown".into(),
        }),
        None => {
            sled.insert(VERSION_KEY, VERSION.to_string().as_bytes())
                .map_err(failed("write"))?;
            sled.flush().map(drop).map_err(failed("flush"))
        }
    }
}

fn try_writing(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(".probe");
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(&probe)
}

fn not_opened(path: &Path, cause: &sled::Error) -> DbError {
    let path = path.to_owned();
    match cause {
        // sled reports a lock it did not get as an error of kind Other.
        sled::Error::Io(io)
            if io.kind() == ErrorKind::WouldBlock || io.to_string().contains("lock") =>
        {
            DbError::InUse { path }
        }
        sled::Error::Io(io) => DbError::Folder {
            path,
            cause: io.to_string(),
        },
        sled::Error::Unsupported(found) => DbError::Version {
            path,
            found: found.clone(),
        },
        other => failed("open")(other),
    }
}

fn failed<E: std::fmt::Display>(act: &'static str) -> impl Fn(E) -> DbError {
    move |cause| DbError::Failed {
        act,
        cause: cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_database_of_another_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).unwrap();
        db.sled.insert(VERSION_KEY, b"99".as_slice()).unwrap();
        db.durable().await.unwrap();
        drop(db);
        let refused = Db::open(folder.path()).err().unwrap();
        assert!(refused.to_string().contains("has version 99"), "{refused}");
    }

    #[tokio::test]
    async fn a_database_is_open_in_one_place_only() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Db::open(folder.path()).unwrap();
        let refused = Db::open(folder.path()).err().unwrap();
        assert!(matches!(refused, DbError::InUse { .. }), "{refused:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_too_large_for_the_log_is_synced_too() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).unwrap();
        let tree = db.tree("large").unwrap();
        let synced = || db.flushes.blobs.lock().unwrap().len();
        tree.insert("small", vec![1; 1_000]).unwrap();
        db.durable().await.unwrap();
        assert_eq!(synced(), 0);
        tree.insert("large", vec![1; 1 << 20]).unwrap();
        db.durable().await.unwrap();
        let blobs = std::fs::read_dir(db.path().join("blobs")).unwrap();
        let blobs = blobs.count();
        assert!(blobs > 0);
        assert_eq!(synced(), blobs);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_waiters_are_all_answered() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).unwrap();
        let waits = (0..500).map(|_| db.durable());
        for answer in futures_util::future::join_all(waits).await {
            answer.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_is_answered_had_its_write_flushed_and_who_gives_up_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).unwrap();
        let writers = (0..8).map(|writer| {
            let db = db.clone();
            tokio::spawn(async move {
                for round in 0..10 {
                    let mark = crate::random::hex::<8>();
                    let key = format!("{writer} {round}");
                    db.sled.insert(key, mark.as_bytes()).unwrap();
                    if round % 2 == 0 {
                        let moment = std::time::Duration::from_micros(round);
                        drop(tokio::time::timeout(moment, db.durable()).await);
                        continue;
                    }
                    db.durable().await.unwrap();
                    let log = std::fs::read(db.path().join("db")).unwrap();
                    let written = log.windows(mark.len()).any(|it| it == mark.as_bytes());
                    assert!(written, "{writer} {round}");
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    }
}
