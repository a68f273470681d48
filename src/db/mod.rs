//! The embedded database: sessions and webhooks go in here, and what was answered as kept is there after any crash. One
//! thread makes writes durable for everybody who waits, so that a hundred waiters cost one flush. Nobody outside this room
//! sees sled.

pub mod export;
pub mod outbox;
pub mod sessions;

use crate::tasks::Tasks;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// The version of the layout of keys and trees; a database of another one is left alone.
pub const VERSION: u32 = 1;

const VERSION_KEY: &[u8] = b"version";

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
    waiters: Arc<Mutex<Sender<Waiter>>>,
    path: PathBuf,
}

type Waiter = oneshot::Sender<Result<(), DbError>>;

impl Db {
    /// Opens the database below `data_dir` and makes it when there is none. The thread that flushes belongs to `tasks`
    /// and ends when the last clone of the database is dropped.
    ///
    /// # Errors
    /// When the folder cannot be written, another process has the database open, or another version made it.
    pub fn open(data_dir: &Path, tasks: &Tasks) -> Result<Self, DbError> {
        let path = data_dir.join("db");
        let folder = |cause: std::io::Error| DbError::Folder {
            path: data_dir.to_owned(),
            cause: cause.to_string(),
        };
        std::fs::create_dir_all(&path).map_err(folder)?;
        try_writing(data_dir).map_err(folder)?;
        let sled = sled::Config::new()
            .path(&path)
            .cache_capacity(16 << 20)
            .flush_every_ms(Some(1_000))
            .open()
            .map_err(|cause| not_opened(&path, &cause))?;
        check_version(&sled, &path)?;
        let file = File::open(path.join("db")).map_err(folder)?;
        let (sender, receiver) = mpsc::channel();
        let flushed = sled.clone();
        tasks.spawn_blocking("database flusher", move || {
            flush_for_waiters(&receiver, || flush(&flushed, &file));
        });
        Ok(Self {
            sled,
            waiters: Arc::new(Mutex::new(sender)),
            path,
        })
    }

    /// Answers when everything written before the call is on disk.
    ///
    /// # Errors
    /// When the disk did not take it.
    pub async fn durable(&self) -> Result<(), DbError> {
        let (waiter, done) = oneshot::channel();
        let gone = |_| failed("flush")("the flusher has ended");
        lock(&self.waiters)
            .send(waiter)
            .map_err(|_| failed("flush")("the flusher has ended"))?;
        done.await.map_err(gone)?
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

/// Every waiter that came while a flush ran is answered by the next one.
fn flush_for_waiters(receiver: &Receiver<Waiter>, flush: impl Fn() -> Result<(), DbError>) {
    while let Ok(first) = receiver.recv() {
        let waiters = std::iter::once(first)
            .chain(receiver.try_iter())
            .collect::<Vec<_>>();
        let outcome = flush();
        for waiter in waiters {
            // A waiter that gave up needs no answer.
            let _ = waiter.send(outcome.clone());
        }
    }
}

/// sled asks the kernel to write back, which a crash of this process survives; the sync survives a loss of power too.
fn flush(sled: &sled::Db, file: &File) -> Result<(), DbError> {
    sled.flush().map_err(failed("flush"))?;
    file.sync_data().map_err(failed("flush"))
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_database_of_another_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let db = Db::open(folder.path(), &tasks).unwrap();
        db.sled.insert(VERSION_KEY, b"99".as_slice()).unwrap();
        db.durable().await.unwrap();
        drop(db);
        assert!(
            tasks
                .end(std::time::Duration::from_secs(5))
                .await
                .is_empty()
        );
        let refused = Db::open(folder.path(), &Tasks::new()).err().unwrap();
        assert!(refused.to_string().contains("has version 99"), "{refused}");
    }

    #[tokio::test]
    async fn a_database_is_open_in_one_place_only() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Db::open(folder.path(), &Tasks::new()).unwrap();
        let refused = Db::open(folder.path(), &Tasks::new()).err().unwrap();
        assert!(matches!(refused, DbError::InUse { .. }), "{refused:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_waiters_are_all_answered() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path(), &Tasks::new()).unwrap();
        let waits = (0..500).map(|_| db.durable());
        for answer in futures_util::future::join_all(waits).await {
            answer.unwrap();
        }
    }
}
