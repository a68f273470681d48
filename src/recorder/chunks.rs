//! Fragments become the run's log here, on a thread of its own: each is written to a chunk file as it comes, unchanged,
//! behind the `ftyp` and `moov` of the ffmpeg it came from, and whoever follows the log hears of it. Killed at any byte, a
//! chunk is good up to its last whole fragment. A disk that takes no more costs what it did not take and nothing before it.

use super::reporter::Reporter;
use super::run::Run;
use super::slow::Watched;
use super::sweeps::Sweeps;
use crate::chunklog::{Position, Publisher};
use crate::clock::Timestamp;
use crate::disk;
use crate::join::{Fragment, Init, Origin, Piece};
use crate::model::chunk::ChunkKey;
use crate::model::wire::TroubleKind;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// How far before its time a chunk may end: stamps are rounded to milliseconds.
const ROUNDING: Duration = Duration::from_millis(20);
/// What must be free again before writing is taken up.
const PROBE: usize = 256 << 10;

/// Writes one run's chunks.
pub(super) struct Chunks {
    run: Run,
    next: u32,
    length: Duration,
    reporter: Reporter,
    /// Asks capture for a new stream.
    refresh: Arc<Notify>,
    sweeps: Sweeps,
    watched: Watched,
    head: Publisher,
    init: Option<Arc<Init>>,
    open: Option<Open>,
    /// A fragment was lost: nothing can be shown before one that begins with a whole picture.
    torn: bool,
    /// The disk refused something when it was last tried.
    refused: bool,
}

struct Open {
    key: ChunkKey,
    path: PathBuf,
    file: File,
    began: Timestamp,
    /// Bytes of whole fragments.
    good: u64,
}

/// With whom the log is written.
pub(super) struct With {
    pub(super) reporter: Reporter,
    /// Asks capture for a new stream.
    pub(super) refresh: Arc<Notify>,
    pub(super) sweeps: Sweeps,
    /// Sees how long the disk takes.
    pub(super) watched: Watched,
    /// Says how far the run is written.
    pub(super) head: Publisher,
}

impl Chunks {
    /// Writes the log of `run` from chunk `first` on, in chunks of `length`.
    pub(super) fn new(run: Run, first: u32, length: Duration, with: With) -> Self {
        Self {
            run,
            next: first,
            length,
            reporter: with.reporter,
            refresh: with.refresh,
            sweeps: with.sweeps,
            watched: with.watched,
            head: with.head,
            init: None,
            open: None,
            torn: false,
            refused: false,
        }
    }

    /// Takes pieces until there are no more, and closes the last chunk.
    pub(super) fn write_all(mut self, mut pieces: mpsc::Receiver<Piece>) {
        while let Some(piece) = pieces.blocking_recv() {
            let watched = self.watched.clone();
            watched.while_at(|| match piece {
                Piece::Init(init) => {
                    self.close();
                    self.init = Some(init);
                    self.torn = false;
                }
                Piece::Fragment(fragment) => self.take(fragment),
            });
        }
        self.close();
    }

    fn take(&mut self, fragment: Fragment) {
        let Some(init) = self.init.clone() else {
            return;
        };
        if self.torn && !fragment.starts_with_keyframe() {
            self.lost(&fragment);
            if self.there_is_room() {
                self.refresh.notify_one();
            }
            return;
        }
        match self.write(&init, &fragment) {
            Ok(position) => self.written(&fragment, position),
            Err(cause) => {
                let folder = self.run.folder.display();
                let help = match cause.kind() {
                    io::ErrorKind::StorageFull => "free some space",
                    _ => "recording goes on as soon as it can be written again",
                };
                let message = format!("cannot write chunks to {folder}: {cause}; {help}");
                self.reporter.trouble(TroubleKind::Disk, message);
                self.reporter.explain("the disk took nothing");
                self.lost(&fragment);
                (self.torn, self.refused) = (true, true);
                self.close();
            }
        }
    }

    fn written(&mut self, fragment: &Fragment, position: Position) {
        self.torn = false;
        if std::mem::take(&mut self.refused) {
            self.reporter.well(TroubleKind::Disk);
        }
        let bytes = fragment.bytes.len() as u64;
        let (end, index) = (fragment.end(), position.origin.index);
        let note = |report: &mut crate::model::wire::Report| {
            report.chunk = index;
            report.bytes += bytes;
            report.newest_frame_at = Some(end);
        };
        match self.reporter.report().chunk == index {
            true => self.reporter.note(note),
            false => self.reporter.tell(note),
        }
        self.head.send_replace(Some(position));
    }

    fn lost(&self, fragment: &Fragment) {
        let frames = fragment.frames() as u64;
        self.reporter.note(|report| report.late_frames += frames);
    }

    fn write(&mut self, init: &Init, fragment: &Fragment) -> io::Result<Position> {
        if let Err(cause) = self.keep_name() {
            // What is open still takes what comes, and the video gets it; the name is tried for again with the next fragment.
            log::debug!("a chunk that was deleted cannot be made again: {cause}");
            if let Some(open) = &self.open {
                self.sweeps.found(&open.path);
            }
        }
        let full = self.open.as_ref().is_some_and(|open| {
            fragment.starts_with_keyframe()
                && fragment.start().since(open.began) + ROUNDING >= self.length
        });
        if full {
            self.close();
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin(init, fragment.start())?,
        };
        let written = open.file.write_all(&fragment.bytes);
        match written {
            Ok(()) => open.good += fragment.bytes.len() as u64,
            // Half a fragment is no fragment; on a full disk a file can still be cut.
            Err(_) => open.file.set_len(open.good).unwrap_or_default(),
        }
        let position = Position {
            origin: Origin {
                run: open.key.run,
                index: open.key.index,
            },
            offset: open.good,
        };
        self.open = Some(open);
        written.map(|()| position)
    }

    fn begin(&mut self, init: &Init, at: Timestamp) -> io::Result<Open> {
        let key = self.run.take.chunk(self.run.number, self.next);
        let path = self.run.folder.join(key.file_name());
        if !self.run.folder.is_dir() {
            self.run.make_folder()?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        if let Err(cause) = file.write_all(init.bytes()) {
            // An empty chunk says nothing; the next attempt needs its name.
            let _ = fs::remove_file(&path);
            return Err(cause);
        }
        self.next += 1;
        Ok(Open {
            key,
            path,
            file,
            began: at,
            good: init.bytes().len() as u64,
        })
    }

    /// The chunk being written gets its name back where it was deleted or moved away, unless a later run did it.
    fn keep_name(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        if disk::is_nameless(&open.path, &open.file) && !self.run.is_overtaken() {
            self.run.make_folder()?;
            open.file = disk::name_again(&open.file, &open.path)?;
            self.sweeps.found(&open.path);
        }
        Ok(())
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        if let Err(cause) = open.file.sync_all() {
            let message = format!("chunk {} may not be safe on disk: {cause}", open.key);
            self.reporter.trouble(TroubleKind::Disk, message);
            self.refused = true;
        }
    }

    fn there_is_room(&self) -> bool {
        let probe = self.run.folder.join(".room");
        // Where it cannot be made, there is no room either.
        let _ = self.run.make_folder();
        let room = fs::write(&probe, vec![0; PROBE]).is_ok();
        // It is there only when there was room for it, or for a part of it.
        let _ = fs::remove_file(&probe);
        room
    }
}
