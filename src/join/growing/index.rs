//! What is known of a video at the start of each of its chunks, in a hidden file beside it, so that taking the video up costs
//! one chunk, however long it is. It is an aid: each entry is held against the video before it is believed, and without it the
//! video itself is read. An entry is a line: its digest, and what has come since the entry before.

use super::names::beside;
use super::state::State;
use crate::join::ledger;
use crate::join::place::MediaClock;
use crate::join::stream::StreamRecord;
use crate::join::table;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The version of the file's format.
const VERSION: u32 = 1;
/// So many bytes of the video before the place of an entry must be those that were there when it was made.
const GUARD: u64 = 4 << 10;

/// The index of one video.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    file: Option<File>,
    /// Bytes of the entries that are believed.
    len: u64,
    /// The place in the video that the last entry speaks of.
    end: u64,
    noted: Noted,
}

/// How much of a state is in the entries.
#[derive(Clone, Debug, Default)]
struct Noted {
    ledger: ledger::Mark,
    tables: Vec<table::Mark>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    version: u32,
    /// The place in the video.
    end: u64,
    /// The digest of what lies before it.
    guard: String,
    sequence: u32,
    clock: Clock,
    #[serde(default)]
    record: Option<StreamRecord>,
    ledger: ledger::Part,
    tables: Vec<table::Part>,
}

/// How the video's time stands to the wall clock.
#[derive(Debug, Serialize, Deserialize)]
struct Clock {
    shift: i64,
    origin: i64,
    shown: i64,
    frame: u32,
    video: u64,
    audio: Option<u64>,
}

impl Index {
    /// An index of `video` without an entry; it replaces what is there with its first.
    pub(super) fn begin(video: &Path) -> Self {
        Self {
            path: path(video),
            file: None,
            len: 0,
            end: 0,
            noted: Noted::default(),
        }
    }

    /// Brings `state`, which knows the front of `video` alone, to the last entry that fits the first `len` bytes of it. `None`
    /// where there is none; `state` is then as it was.
    pub(super) fn restore(
        video: &Path,
        file: &File,
        len: u64,
        state: &mut State,
    ) -> io::Result<Option<Self>> {
        let mut entries = read(&path(video));
        while let Some((entry, _)) = entries.last() {
            if entry.end <= len && guard(file, entry.end)? == entry.guard {
                break;
            }
            entries.pop();
        }
        let Some((end, len)) = entries.last().map(|(entry, len)| (entry.end, *len)) else {
            return Ok(None);
        };
        let mut restored = state.clone();
        for (entry, _) in entries {
            if !entry.apply(&mut restored) {
                return Ok(None);
            }
        }
        let noted = Noted::of(&restored);
        *state = restored;
        Ok(Some(Self {
            path: path(video),
            file: None,
            len,
            end,
            noted,
        }))
    }

    /// The place in the video where the last entry stands.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Notes what is known where the video, which is open as `file`, has grown to `end`.
    ///
    /// # Errors
    /// When the file system refuses. The index is of no more use then.
    pub(super) fn note(&mut self, state: &State, file: &File, end: u64) -> io::Result<()> {
        if end == self.end {
            return Ok(());
        }
        let entry = Entry {
            version: VERSION,
            end,
            guard: guard(file, end)?,
            sequence: state.sequence,
            clock: Clock::of(&state.clock),
            record: state.record.as_deref().cloned(),
            ledger: state.ledger.since(&self.noted.ledger),
            tables: self.noted.tables_since(state),
        };
        let text = serde_json::to_string(&entry)?;
        let line = format!("{} {text}\n", digest(text.as_bytes()));
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let mut options = File::options();
                options.write(true).create(true).truncate(false);
                let file = options.open(&self.path)?;
                file.set_len(self.len)?;
                file
            }
        };
        file.write_all_at(line.as_bytes(), self.len)?;
        self.file = Some(file);
        self.len += line.len() as u64;
        self.end = end;
        self.noted = Noted::of(state);
        Ok(())
    }
}

/// The number of the chunk at whose start the last entry was made, or one before it.
pub(in crate::join) fn last_chunk(video: &Path) -> Option<u32> {
    let entries = read(&path(video));
    let (last, _) = entries.last()?;
    Some(last.ledger.last_chunk()?.saturating_add(1))
}

/// Deletes the index of a `video` that is finished.
pub(in crate::join) fn remove(video: &Path) {
    // There is none beside a video that was made at once; one that cannot be deleted is held against the video.
    let _ = fs::remove_file(path(video));
}

fn path(video: &Path) -> PathBuf {
    beside(video, "index")
}

/// The whole entries of an index, each with where it ends.
fn read(path: &Path) -> Vec<(Entry, u64)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut end = 0;
    let entry = |line: &str| {
        end += line.len() as u64;
        let (its, text) = line.strip_suffix('\n')?.split_once(' ')?;
        if digest(text.as_bytes()) != its {
            return None;
        }
        let entry: Entry = serde_json::from_str(text).ok()?;
        (entry.version == VERSION).then_some((entry, end))
    };
    text.split_inclusive('\n').map_while(entry).collect()
}

/// The digest of what lies before `end`.
fn guard(file: &File, end: u64) -> io::Result<String> {
    let from = end.saturating_sub(GUARD);
    let mut bytes = vec![0; (end - from) as usize];
    match file.read_exact_at(&mut bytes, from) {
        Ok(()) => Ok(digest(&bytes)),
        // It became shorter meanwhile, and no entry fits.
        Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => Ok(String::new()),
        Err(cause) => Err(cause),
    }
}

fn digest(bytes: &[u8]) -> String {
    let digest: [u8; 16] = Md5::digest(bytes).into();
    BASE64.encode(digest)
}

impl Noted {
    fn of(state: &State) -> Self {
        Self {
            ledger: state.ledger.mark(),
            tables: state.tables.iter().map(table::Table::mark).collect(),
        }
    }

    fn tables_since(&self, state: &State) -> Vec<table::Part> {
        let none = table::Mark::default();
        let numbered = state.tables.iter().enumerate();
        numbered
            .map(|(number, table)| table.since(self.tables.get(number).unwrap_or(&none)))
            .collect()
    }
}

impl Clock {
    fn of(clock: &MediaClock) -> Self {
        Self {
            shift: clock.shift,
            origin: clock.origin,
            shown: clock.shown,
            frame: clock.frame,
            video: clock.video.next,
            audio: clock.audio.as_ref().map(|audio| audio.next),
        }
    }
}

impl Entry {
    /// Brings `state` from the entry before to this one; `false` where it does not fit.
    fn apply(self, state: &mut State) -> bool {
        if self.tables.len() != state.tables.len() {
            return false;
        }
        let clock = &mut state.clock;
        clock.shift = self.clock.shift;
        clock.origin = self.clock.origin;
        clock.shown = self.clock.shown;
        clock.frame = self.clock.frame;
        clock.video.next = self.clock.video;
        if let (Some(audio), Some(next)) = (&mut clock.audio, self.clock.audio) {
            audio.next = next;
        }
        state.sequence = self.sequence;
        state.record = self.record.map(Arc::new);
        state.ledger.add(self.ledger);
        let mut parts = state.tables.iter_mut().zip(self.tables);
        parts.all(|(table, part)| table.add(part))
    }
}
