//! The embedded database: sessions and webhooks go in here, and what was answered as kept is there after any crash. Who
//! waits for the disk flushes for everybody who waits by then, so that a hundred waiters cost one flush and a single one no
//! other thread. Nobody outside this room sees sled.
//!
//! Losing the database costs no recording: recorders register again, and the store has what they recorded. So what cannot be
//! read is set aside under a name with the date, told, and the service goes on without it. Most damage is found when the
//! database is opened. What is found later, when requests are answered already, condemns the database: the service starts
//! again, and that start sets it aside.

pub mod export;
mod journal;
pub mod outbox;
pub mod sessions;

use crate::clock::{Clock, Timestamp};
use crate::disk;
use crate::tasks;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;

/// The version of the layout of keys and trees; nothing is read from a database of another one.
pub const VERSION: u32 = 1;

const VERSION_KEY: &[u8] = b"version";

/// The tree of records that could not be read.
const UNREADABLE: &str = "unreadable";

/// The file in the database's folder that says why the next start sets it aside.
const CONDEMNED: &str = "condemned";

/// The folder of a fresh database until it takes the place of one that is set aside. It holds the journal by then: a kill
/// between the two steps costs no event.
const NEXT: &str = "db.next";

/// How often a disk is asked that does not read, and how long is waited in between.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

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
    /// The disk did not read it, also when it was asked again.
    #[error("the disk does not read the database in {path}: {cause}; check the disk")]
    Disk {
        /// The database's folder.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// The system lacks what it takes to read anything.
    #[error(
        "the database in {path} cannot be read now: {cause}; give this machine more memory or files"
    )]
    Lacking {
        /// The database's folder.
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
    #[error("cannot read the record {key} of the database: {cause}")]
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

impl DbError {
    /// Whether the database itself is the fault, not who has it open or where it lies.
    pub const fn is_damage(&self) -> bool {
        match self {
            Self::Folder { .. } | Self::Lacking { .. } | Self::InUse { .. } => false,
            Self::Version { .. }
            | Self::Record { .. }
            | Self::Disk { .. }
            | Self::Failed { .. } => true,
        }
    }
}

/// Moves what lies at `path` to a name with the date in it, and answers that.
///
/// # Errors
/// When the folder cannot be written.
fn set_aside(data_dir: &Path, path: &Path, now: Timestamp) -> Result<PathBuf, DbError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = data_dir.join(format!("{name}.unreadable-{now}"));
    let moved = std::fs::rename(path, &aside).and_then(|()| disk::sync_folder(data_dir));
    moved.map_err(|cause| DbError::Folder {
        path: data_dir.to_owned(),
        cause: cause.to_string(),
    })?;
    Ok(aside)
}

/// sled panics over some of what it finds in a damaged file.
fn guarded<T>(work: impl FnOnce() -> Result<T, DbError>) -> Result<T, DbError> {
    // Whatever the work left half done is dropped with it.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(failed("read")(
            "it is damaged in a way that sled does not expect",
        ))
    })
}

/// sled writes a snapshot under a name of its own and renames it when it is whole. What a kill left under that name it takes
/// for the newest snapshot and refuses to open; the log beside it has everything that the snapshot was made from.
fn remove_unfinished_snapshots(path: &Path) -> Result<(), DbError> {
    let Ok(file) = File::open(path.join("db")) else {
        return Ok(()); // a fresh one
    };
    // sled's own lock: while another process has it, the snapshot may be one that is being written.
    let _lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| DbError::InUse {
        path: path.to_owned(),
    })?;
    let entries = std::fs::read_dir(path).map_err(failed("read"))?;
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            log::warn!(file = name; "removed a snapshot of the database that a kill left half written");
            std::fs::remove_file(entry.path()).map_err(failed("remove a snapshot"))?;
        }
    }
    Ok(())
}

/// The open database. Clones share it; it closes when the last one is dropped.
#[derive(Clone)]
pub struct Db {
    sled: sled::Db,
    flushes: Arc<Flushes>,
    path: PathBuf,
    set_aside: Arc<StdMutex<Vec<String>>>,
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
    /// When the folder cannot be written, another process has the database open, another version made it, or it is damaged.
    pub fn open(data_dir: &Path) -> Result<Self, DbError> {
        let path = data_dir.join("db");
        let folder = |cause: std::io::Error| DbError::Folder {
            path: data_dir.to_owned(),
            cause: cause.to_string(),
        };
        std::fs::create_dir_all(data_dir).map_err(folder)?;
        try_writing(data_dir).map_err(folder)?;
        if path.exists() && !path.is_dir() {
            return Err(failed("open")("db is no folder"));
        }
        std::fs::create_dir_all(&path).map_err(folder)?;
        remove_unfinished_snapshots(&path)?;
        let held_bytes = std::fs::metadata(path.join("db")).is_ok_and(|file| file.len() > 0);
        let sled = guarded(|| {
            let config = sled::Config::new().path(&path).cache_capacity(CACHE);
            let opened = config.flush_every_ms(Some(1_000)).open();
            opened.map_err(|cause| not_opened(&path, &cause))
        })?;
        // sled takes a file that it cannot read from its first page on for an empty one.
        if held_bytes && !sled.was_recovered() {
            return Err(failed("open")("its file holds bytes and no record"));
        }
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
            set_aside: Arc::default(),
        })
    }

    /// The same for a service that must go on: a database that cannot be opened or was condemned is set aside, and a fresh
    /// one takes its place. The journal beside it is taken over.
    ///
    /// # Errors
    /// When the folder cannot be written or another process has the database open.
    pub fn open_or_set_aside(data_dir: &Path, clock: &dyn Clock) -> Result<Self, DbError> {
        let folder = |cause: std::io::Error| DbError::Folder {
            path: data_dir.to_owned(),
            cause: cause.to_string(),
        };
        let (path, next) = (data_dir.join("db"), data_dir.join(NEXT));
        if next.is_dir() && !path.exists() {
            std::fs::rename(&next, &path).map_err(folder)?;
        }
        let condemned = std::fs::read_to_string(path.join(CONDEMNED));
        let cause = match (again(|| Self::open(data_dir)), condemned) {
            (Err(cause), _) if cause.is_damage() => cause.to_string(),
            (Ok(_), Ok(cause)) => cause,
            (other, _) => return other,
        };
        let _ = std::fs::remove_dir_all(&next);
        disk::make_folder(&next).map_err(folder)?;
        // Events that were answered as kept may be in the journal alone.
        let taken_over = match disk::copy(&path.join("journal"), &next.join("journal")) {
            Ok(_) => "webhooks that its journal holds are delivered",
            Err(_) => "it had no journal that can be read",
        };
        let aside = set_aside(data_dir, &path, clock.now())?;
        std::fs::rename(&next, &path).map_err(folder)?;
        disk::sync_folder(data_dir).map_err(folder)?;
        let db = Self::open(data_dir)?;
        db.tell_set_aside(format!(
            "{cause}; the database was set aside as {} and a fresh one is used: recorders register again, {taken_over}, other webhooks that waited are lost; delete that folder when it is not wanted any more",
            aside.display()
        ));
        Ok(db)
    }

    /// Reads every record until `ended` says that nobody waits for the answer, so that damage is known before anything
    /// needs what is damaged. Blocks for seconds where there is much.
    ///
    /// # Errors
    /// When there is damage, or when the disk does not let it be read.
    pub fn read_through(&self, ended: impl Fn() -> bool) -> Result<(), DbError> {
        let unread = |act| move |cause| not_read(&self.path, act, &cause);
        let read = || {
            for name in self.sled.tree_names() {
                let tree = self.sled.open_tree(name).map_err(unread("open a tree"))?;
                for entry in tree.iter().take_while(|_| !ended()) {
                    entry.map_err(unread("read a record"))?;
                }
            }
            Ok(())
        };
        again(|| guarded(read))
    }

    /// Has the next [`Db::open_or_set_aside`] set this database aside.
    ///
    /// # Errors
    /// When the disk does not take that note.
    pub fn condemn(&self, cause: &DbError) -> Result<(), DbError> {
        let note = disk::write(&self.path.join(CONDEMNED), cause.to_string().as_bytes());
        note.map_err(failed("condemn the damaged one"))
    }

    /// What was set aside since the database was opened, a sentence each.
    pub fn set_aside(&self) -> Vec<String> {
        let told = self.set_aside.lock();
        told.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell_set_aside(&self, what: String) {
        log::error!("{what}");
        let told = self.set_aside.lock();
        told.unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// Keeps a record that cannot be read in a tree of its own; the caller removes it from where it was.
    fn set_record_aside(
        &self,
        from: &str,
        (key, value): (&[u8], &[u8]),
        cause: &DbError,
        now: Timestamp,
    ) -> Result<(), DbError> {
        let name = format!("{now} {from} {}", key.escape_ascii());
        let tree = self.tree(UNREADABLE)?;
        tree.insert(&name, value)
            .map_err(failed("set a record aside"))?;
        self.tell_set_aside(format!(
            "{cause}: the record was set aside as \"{name}\", the others are used"
        ));
        Ok(())
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

    /// Tries whether the data directory takes writes and what was written before comes to disk.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub async fn probe(&self) -> Result<(), DbError> {
        let data_dir = self.data_dir();
        tasks::block(|| try_writing(data_dir)).map_err(|cause| DbError::Folder {
            path: data_dir.to_owned(),
            cause: cause.to_string(),
        })?;
        self.durable().await
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

    /// The folder that it was opened below.
    pub fn data_dir(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    fn tree(&self, name: &str) -> Result<sled::Tree, DbError> {
        self.sled.open_tree(name).map_err(failed("open a tree"))
    }
}

fn check_version(sled: &sled::Db, path: &Path) -> Result<(), DbError> {
    let found = sled.get(VERSION_KEY);
    let found = found.map_err(|cause| not_read(path, "read", &cause))?;
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

/// A disk that is full still makes an empty file.
fn try_writing(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".probe-{}", std::process::id()));
    let written = std::fs::write(&probe, [0; 4096]);
    written.and(std::fs::remove_file(&probe))
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
        sled::Error::Io(io) if is_the_folders(io.kind()) => DbError::Folder {
            path,
            cause: io.to_string(),
        },
        sled::Error::Unsupported(found) => DbError::Version {
            path,
            found: found.clone(),
        },
        other => not_read(path.as_path(), "open", other),
    }
}

/// Does what a disk may refuse once more, some moments later.
fn again<T>(mut work: impl FnMut() -> Result<T, DbError>) -> Result<T, DbError> {
    let mut done = work();
    for _ in 1..TRIES {
        if !matches!(done, Err(DbError::Disk { .. } | DbError::Lacking { .. })) {
            break;
        }
        std::thread::sleep(PAUSE);
        done = work();
    }
    done
}

/// What the system says of a file may be no damage of what lies in it: a disk that fails a read may not fail the next one.
fn not_read(path: &Path, act: &'static str, cause: &sled::Error) -> DbError {
    let sled::Error::Io(io) = cause else {
        return failed(act)(cause);
    };
    let (path, cause) = (path.to_owned(), io.to_string());
    match io.raw_os_error().map(Errno::from_raw) {
        None => failed(act)(cause),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => DbError::Lacking { path, cause },
        Some(_) => DbError::Disk { path, cause },
    }
}

/// Whether an error says something of the folder, and nothing of what lies in it.
fn is_the_folders(kind: ErrorKind) -> bool {
    use ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        kind,
        PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull
    )
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

    #[test]
    fn a_kill_while_a_database_is_set_aside_loses_no_journal() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let clock = crate::clock::ManualClock::at(Timestamp::from_millis(0));
        let journal = || std::fs::read(at("db/journal")).unwrap();
        drop(Db::open(folder.path()).unwrap());
        std::fs::write(at("db/journal"), b"of the damaged one").unwrap();
        std::fs::write(at("db").join(CONDEMNED), b"damage").unwrap();
        // What an earlier attempt left is nothing to go by.
        std::fs::create_dir(at(NEXT)).unwrap();
        std::fs::write(at(NEXT).join("journal"), b"of an earlier attempt").unwrap();
        drop(Db::open_or_set_aside(folder.path(), &clock).unwrap());
        assert_eq!(journal(), b"of the damaged one");
        // Killed after the damaged one had lost its name and before the fresh one had it.
        std::fs::rename(at("db"), at(NEXT)).unwrap();
        drop(Db::open_or_set_aside(folder.path(), &clock).unwrap());
        assert_eq!(journal(), b"of the damaged one");
        assert!(!at(NEXT).exists());
    }

    #[test]
    fn a_read_that_fails_is_tried_again_and_want_of_files_is_no_damage() {
        let said = |errno: Errno| {
            let io = std::io::Error::from_raw_os_error(errno as i32);
            not_read(Path::new("db"), "read", &sled::Error::Io(io))
        };
        let mut answers = vec![Ok(()), Err(said(Errno::EIO)), Err(said(Errno::EMFILE))];
        assert!(again(|| answers.pop().unwrap()).is_ok());
        let refused = again(|| Err::<(), _>(said(Errno::EIO))).unwrap_err();
        assert!(refused.is_damage());
        let lacking = again(|| Err::<(), _>(said(Errno::EMFILE))).unwrap_err();
        assert!(!lacking.is_damage());
        let cut_off = sled::Error::Io(ErrorKind::UnexpectedEof.into());
        assert!(matches!(
            not_read(Path::new("db"), "read", &cut_off),
            DbError::Failed { .. }
        ));
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
