//! Where an accepted event is safe first. sled writes through threads of its own and asks the disk twice; the journal is one
//! file that is appended to and synced by whoever waits first, for everybody who waits by then. sled takes the same event
//! without a sync, and what a crash keeps from it is in the journal when the program starts again. A checkpoint has sled
//! write what it has, and empties the journal.
//!
//! A record is the length of its value (4 bytes), its number (8), the value, and the first 8 bytes of the SHA-256 of all
//! that; numbers are big-endian. A record that is cut off by the end of the file was being written when the program ended,
//! and nobody was answered for it. Other bytes that are no record are damage: the file is set aside, and every record that
//! can be found in it is used.

use super::{Db, DbError, failed};
use crate::clock::Timestamp;
use crate::disk;
use crate::tasks;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Records after which the journal is emptied at once: far fewer than the settled deliveries that the outbox keeps, so that
/// nothing is in the journal that the outbox has forgotten.
const MOST: u64 = 512;
/// How long a record stays in the journal at most.
const SOON: Duration = Duration::from_secs(5);

/// Bytes that may wait for the disk before more are taken.
const CROWDED: usize = 64 << 20;

const HEAD: usize = 12;
const DIGEST: usize = 8;

/// A value and its number.
pub(super) type Record = (u64, Vec<u8>);

pub(super) struct Journal {
    db: Db,
    file: File,
    batch: Mutex<Batch>,
    written: tokio::sync::Mutex<Written>,
    begun: Notify,
}

/// Records that wait for the disk.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// How many records were ever added.
    added: u64,
}

/// What is on disk.
#[derive(Default)]
struct Written {
    /// How many records ever were.
    records: u64,
    /// How many of them were when the journal was last emptied.
    emptied: u64,
    /// Bytes of the file that count.
    length: u64,
}

impl Journal {
    /// Opens the journal beside `db`; also what it holds from an earlier life.
    ///
    /// # Errors
    /// When the file cannot be opened or read.
    pub(super) fn open(db: &Db, now: Timestamp) -> Result<(Self, Vec<Record>), DbError> {
        let path = db.path().join("journal");
        let (file, bytes) = match read(&path) {
            Err(cause) if path.is_dir() => {
                set_aside(db, &path, &cause.to_string(), &Aside::Moved, now)?;
                read(&path)
            }
            other => other,
        }
        .map_err(failed("read the journal"))?;
        disk::sync_folder(db.path()).map_err(failed("keep the journal"))?;
        let (mut held, mut length) = records(&bytes);
        if !is_cut_off(&bytes[length..]) {
            held.extend(found_in(&bytes[length..]));
            length = bytes.len();
            set_aside(db, &path, "bytes in it are no record", &Aside::Copied, now)?;
        }
        let journal = Self {
            db: db.clone(),
            file,
            batch: Mutex::default(),
            written: tokio::sync::Mutex::new(Written {
                length: length as u64,
                ..Written::default()
            }),
            begun: Notify::new(),
        };
        Ok((journal, held))
    }

    /// Waits for the disk where much waits for it already, so that a disk that takes nothing does not fill the memory.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(super) async fn make_room(&self) -> Result<(), DbError> {
        let added = {
            let batch = self.batch();
            if batch.bytes.len() < CROWDED {
                return Ok(());
            }
            batch.added
        };
        self.durable(added).await
    }

    /// Adds a record that sled has been given; it is on disk once [`Journal::durable`] answers for the number that this
    /// returns.
    pub(super) fn add(&self, number: u64, value: &[u8]) -> u64 {
        let mut batch = self.batch();
        encode(&mut batch.bytes, number, value);
        batch.added += 1;
        batch.added
    }

    /// Answers when that many records are on disk. After a write that failed the next in line tries again.
    ///
    /// # Errors
    /// When the disk did not take them.
    pub(super) async fn durable(&self, records: u64) -> Result<(), DbError> {
        let mut written = self.written.lock().await;
        if written.records >= records {
            return Ok(());
        }
        tasks::block(|| {
            self.write(&mut written)?;
            // The records are on disk, whatever becomes of this.
            if written.records - written.emptied >= MOST
                && let Err(cause) = self.empty(&mut written)
            {
                log::error!("{cause}");
            }
            Ok(())
        })
    }

    /// Has sled write what it has, and empties the journal.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(super) async fn checkpoint(&self) -> Result<(), DbError> {
        let mut written = self.written.lock().await;
        if written.length == 0 {
            return Ok(());
        }
        tasks::block(|| self.empty(&mut written))
    }

    /// The same at the start, when nobody adds anything; what was torn goes away with it.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(super) fn begin_afresh(&self) -> Result<(), DbError> {
        match self.written.try_lock() {
            Ok(mut written) => self.empty(&mut written),
            Err(_) => Ok(()), // somebody adds to it already
        }
    }

    /// Empties the journal soon after something came into it; to be run beside whoever adds to it, until it is dropped.
    pub(super) async fn keep_short(&self) {
        loop {
            self.begun.notified().await;
            tokio::time::sleep(SOON).await;
            if let Err(cause) = self.checkpoint().await {
                log::error!("{cause}");
                self.begun.notify_one();
            }
        }
    }

    fn write(&self, written: &mut Written) -> Result<(), DbError> {
        let (bytes, added) = {
            let mut batch = self.batch();
            (std::mem::take(&mut batch.bytes), batch.added)
        };
        let kept = self.file.write_all_at(&bytes, written.length);
        if let Err(cause) = kept.and_then(|()| self.file.sync_data()) {
            let mut batch = self.batch();
            let newer = std::mem::replace(&mut batch.bytes, bytes);
            batch.bytes.extend(newer);
            return Err(failed("write the journal")(cause));
        }
        if written.length == 0 {
            self.begun.notify_one();
        }
        written.length += bytes.len() as u64;
        written.records = added;
        Ok(())
    }

    fn empty(&self, written: &mut Written) -> Result<(), DbError> {
        self.db.flush()?;
        self.file.set_len(0).map_err(failed("empty the journal"))?;
        written.length = 0;
        written.emptied = written.records;
        Ok(())
    }

    fn batch(&self) -> MutexGuard<'_, Batch> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> std::io::Result<(File, Vec<u8>)> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok((file, bytes))
}

enum Aside {
    Moved,
    Copied,
}

fn set_aside(
    db: &Db,
    path: &Path,
    cause: &str,
    how: &Aside,
    now: Timestamp,
) -> Result<(), DbError> {
    let aside = db
        .path()
        .with_file_name(format!("journal.unreadable-{now}"));
    let kept = match how {
        Aside::Moved => std::fs::rename(path, &aside),
        Aside::Copied => std::fs::copy(path, &aside).map(drop),
    };
    if let (Err(cause), Aside::Copied) = (&kept, how) {
        db.tell_set_aside(format!(
            "cannot read all of the journal of webhooks, and cannot keep a copy of it: {cause}; what could be read is used"
        ));
        return Ok(());
    }
    kept.map_err(failed("set the journal aside"))?;
    db.tell_set_aside(format!(
        "cannot read all of the journal of webhooks: {cause}; it was set aside as {}, and what could be read is used",
        aside.display()
    ));
    Ok(())
}

/// Whether this is the beginning of a record that the file's end cuts off, or nothing.
fn is_cut_off(rest: &[u8]) -> bool {
    // A file system may have made the file longer before a loss of power, and not filled it.
    if rest.iter().all(|byte| *byte == 0) {
        return true;
    }
    let length = rest
        .first_chunk()
        .map(|length| u32::from_be_bytes(*length) as usize);
    length.is_none_or(|length| rest.len() < HEAD + length + DIGEST) && found_in(rest).is_empty()
}

/// Every whole record in bytes of which some are none.
fn found_in(mut rest: &[u8]) -> Vec<Record> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        match split(rest) {
            Some((record, behind)) => {
                found.push(record);
                rest = behind;
            }
            None => rest = &rest[1..],
        }
    }
    found
}

fn encode(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    let begin = out.len();
    // What a request may bring is far below 4 GiB.
    out.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(number.to_be_bytes());
    out.extend(value);
    let digest = digest(&out[begin..]);
    out.extend(digest);
}

/// The whole records at the beginning of `bytes`, and how many bytes these are.
fn records(bytes: &[u8]) -> (Vec<Record>, usize) {
    let mut found = Vec::new();
    let mut left = bytes;
    while let Some((record, rest)) = split(left) {
        found.push(record);
        left = rest;
    }
    (found, bytes.len() - left.len())
}

/// The first record of `bytes`, and what follows it.
fn split(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let (record, rest) = bytes.split_at_checked(HEAD + length)?;
    let (sum, rest) = rest.split_at_checked(DIGEST)?;
    let number = u64::from_be_bytes(record[4..HEAD].try_into().ok()?);
    (digest(record) == sum).then(|| ((number, record[HEAD..].to_vec()), rest))
}

fn digest(bytes: &[u8]) -> [u8; DIGEST] {
    let mut first = [0; DIGEST];
    first.copy_from_slice(&Sha256::digest(bytes)[..DIGEST]);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &std::path::Path) -> (Journal, Vec<Record>) {
        Journal::open(&Db::open(folder).unwrap(), Timestamp::default()).unwrap()
    }

    #[test]
    fn a_journal_that_is_cut_anywhere_gives_the_whole_records_before() {
        let values: [&[u8]; 3] = [b"first", b"", &[7; 300]];
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for (number, value) in values.iter().enumerate() {
            encode(&mut bytes, number as u64, value);
            ends.push(bytes.len());
        }
        for cut in 0..=bytes.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            let (found, length) = records(&bytes[..cut]);
            assert_eq!((found.len(), length), (whole, ends[whole]), "cut at {cut}");
            for (number, value) in found {
                assert_eq!(value, values[number as usize]);
            }
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let whole = ends.iter().filter(|end| **end <= at).count() - 1;
            assert_eq!(records(&damaged).0.len(), whole, "damaged at {at}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_waits_together_is_on_disk_together_and_a_checkpoint_empties_it() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, held) = open(folder.path());
        assert_eq!(held, []);
        let waits = (0..100).map(|number| journal.durable(journal.add(number, b"x")));
        for wait in futures_util::future::join_all(waits).await {
            wait.unwrap();
        }
        drop(journal);
        let (journal, held) = open(folder.path());
        let numbers: Vec<_> = held.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        journal.checkpoint().await.unwrap();
        drop(journal);
        assert_eq!(open(folder.path()).1, []);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_follows_a_torn_record_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, _) = open(folder.path());
        journal.durable(journal.add(1, b"one")).await.unwrap();
        journal.file.write_all_at(b"torn", 23).unwrap();
        drop(journal);
        let (journal, held) = open(folder.path());
        assert_eq!(held, [(1, b"one".to_vec())]);
        journal.durable(journal.add(2, b"two")).await.unwrap();
        drop(journal);
        assert_eq!(open(folder.path()).1.len(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_never_grows_beyond_what_the_outbox_remembers() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, _) = open(folder.path());
        for number in 0..3 * MOST {
            journal.durable(journal.add(number, b"x")).await.unwrap();
            let length = journal.file.metadata().unwrap().len();
            assert!(length <= MOST * (HEAD + 1 + DIGEST) as u64);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_disk_did_not_take_is_written_with_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(folder.path());
        let path = journal.db.path().join("journal");
        let good = std::mem::replace(&mut journal.file, File::open(&path).unwrap());
        let first = journal.add(1, b"one");
        assert!(journal.durable(first).await.is_err());
        journal.make_room().await.unwrap();
        journal.add(3, &vec![0; CROWDED]);
        assert!(journal.make_room().await.is_err(), "it fills the memory");
        journal.file = good;
        journal.make_room().await.unwrap();
        journal.durable(journal.add(2, b"two")).await.unwrap();
        journal.durable(first).await.unwrap();
        drop(journal);
        let held = open(folder.path()).1;
        let numbers: Vec<_> = held.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 3, 2]);
    }
}
