//! The video at OpenVidu's path, from its first fragment to its `moov`. What is known of it is in [`state`]; a fragment is
//! given its place and its bytes in [`mux`], written in [`append`], and read back by whoever goes on with the file in
//! [`scan`].

mod append;
mod index;
mod mux;
mod names;
mod scan;
mod state;
#[cfg(test)]
mod tests;

pub(super) use index::remove as remove_index;
#[cfg(test)]
pub(super) use mux::write_moof;
pub(super) use names::beside;
pub(super) use scan::{Form, MediaSpan, Scanned};
pub(super) use state::State;

use super::fragment::{Fragment, Head, Init, stamp};
use super::mark::Mark;
use super::place::MediaClock;
use super::source::{Chunk, Trouble};
use super::{ChunkSource, JoinError, Options, Origin, PART, info, moov};
use crate::clock::Timestamp;
use crate::disk;
use crate::model::timeline::{Timeline, UNREAD};
use append::{Added, Open, Payload};
use log::{error, warn};
use names::{publish, take_up, unused_name};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A video that grows fragment by fragment.
#[derive(Debug)]
pub struct GrowingFile {
    path: PathBuf,
    options: Options,
    open: Option<Open>,
    cause: Option<String>,
    /// Whether what is known of it is noted beside it, for who goes on with it.
    keeps_index: bool,
}

/// The number of the last chunk that is in `video`, or of one shortly before it, where an index beside it says so.
pub fn last_indexed_chunk(video: &Path) -> Option<u32> {
    index::last_chunk(video)
}

/// What became of a take.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The video.
    pub video: PathBuf,
    /// What it was made from.
    pub timeline: Timeline,
    /// Its size.
    pub bytes: u64,
    /// How long it plays.
    pub duration: Duration,
    /// What OpenVidu reads of it.
    pub info: String,
    /// Whether it is a regular MP4. Where the disk did not take its end it is still one that grows, which plays.
    pub regular: bool,
}

/// What [`GrowingFile::catch_up`] made of one chunk.
#[derive(Clone, Debug)]
pub struct CaughtUp {
    /// The chunk.
    pub source: ChunkSource,
    /// How many fragments of it were taken now.
    pub fragments: u32,
    /// The bytes of media in them.
    pub bytes: u64,
    /// The bytes at its end that are no whole fragment.
    pub lost_bytes: u64,
    /// What is wrong with it.
    pub fault: Option<ChunkFault>,
    /// It belongs before what the video holds: only joining the take anew brings it in.
    pub late: bool,
}

/// What is wrong with a chunk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkFault {
    /// The system does not read it to its end: what it holds there may be read later.
    #[error("{0}")]
    Unread(String),
    /// What it holds is not what it should be.
    #[error("{0}")]
    Broken(String),
}

impl ChunkFault {
    /// Whether it may be read later.
    pub const fn is_unread(&self) -> bool {
        matches!(self, Self::Unread(_))
    }

    fn unread(cause: io::Error) -> Self {
        Self::Unread(cause.to_string())
    }
}

impl From<Trouble> for ChunkFault {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Io(cause) => Self::unread(cause),
            Trouble::Malformed(cause) => Self::Broken(cause.to_string()),
        }
    }
}

impl GrowingFile {
    /// Opens the video at `path`. Nothing is made there before the first fragment; what an earlier run of this take left is
    /// taken up, and a file of another recording is put aside.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(path: impl Into<PathBuf>, options: Options) -> Result<Self, JoinError> {
        let path = path.into();
        let open = take_up(&path, &options)?;
        Ok(Self {
            path,
            options,
            open,
            cause: None,
            keeps_index: false,
        })
    }

    /// Has what is known of the video noted beside it while it grows, so that whoever goes on with it need not read it.
    pub fn with_index(mut self) -> Self {
        self.keeps_index = true;
        self
    }

    /// The same for a recorder, which has to go on: a file that cannot be read is put aside, as it is, for a person to look at.
    ///
    /// # Errors
    /// When it cannot be put aside either, or there is only no room to go on with it: another run may have some.
    pub fn open_or_put_aside(path: &Path, options: Options) -> Result<Self, JoinError> {
        let opened = Self::open(path, options.clone());
        // A network file system may refuse once and answer the second time.
        let opened = opened.or_else(|_| Self::open(path, options.clone()));
        opened.or_else(|cause| {
            if cause.is_for_want_of_room() {
                return Err(cause);
            }
            let aside = unused_name(path, &format!("unreadable-{}", options.take));
            fs::rename(path, &aside).map_err(JoinError::io("put aside", path))?;
            error!(
                video:% = path.display(), aside:% = aside.display();
                "{cause}; it was put aside, and the video begins anew with the chunks that are on this disk; make it whole with \"ov2-ha-recorder recover\""
            );
            Self::open(path, options)
        })
    }

    /// Opens the video anew: where its file system was taken away and came back, what was open leads nowhere any more. One
    /// that only lost its name gets it back.
    ///
    /// # Errors
    /// When the file system refuses; what is open stays so where nothing else leads to it.
    pub fn reopen(&mut self) -> Result<(), JoinError> {
        if self.is_nameless() {
            return self.name_again();
        }
        // closed first, for it holds the lock
        self.open = None;
        self.open = take_up(&self.path, &self.options)?;
        Ok(())
    }

    /// Whether the video was deleted, moved away or replaced while it was open.
    pub fn is_nameless(&self) -> bool {
        let open = self.open.as_ref();
        open.is_some_and(|open| disk::is_nameless(&self.path, &open.file))
    }

    fn name_again(&mut self) -> Result<(), JoinError> {
        if let Some(there) = take_up(&self.path, &self.options)? {
            self.open = Some(there);
        } else if let Some(open) = &mut self.open {
            let room = disk::needs_room(&self.path, open.end);
            let copy = room.and_then(|()| disk::name_again(&open.file, &self.path));
            open.file = copy.map_err(JoinError::io("make again", &self.path))?;
            // It may be gone, too: it is made anew with the next chunk.
            open.index = None;
            let _ = open.file.try_lock();
        }
        Ok(())
    }

    /// Where the video lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Wall clock of the end of the last frame in it.
    pub fn covers(&self) -> Option<Timestamp> {
        let clock = &self.open.as_ref()?.state.clock;
        Some(stamp(
            clock.video.next as i64 + clock.shift + clock.shown,
            clock.video.timescale,
        ))
    }

    /// The chunk that the last fragment came from.
    pub fn last(&self) -> Option<Origin> {
        self.open.as_ref()?.state.ledger.last()
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.end)
    }

    /// Says why the next gap, if there will be one, has come about.
    pub fn explain(&mut self, cause: impl Into<String>) {
        self.cause = Some(cause.into());
    }

    /// Appends a fragment. `false`: nothing of it can be shown, as sound before the first frame.
    ///
    /// # Errors
    /// When the file system refuses, or the fragment is broken. The video is then as it was before.
    pub fn append(
        &mut self,
        init: &Init,
        fragment: &Fragment,
        origin: Origin,
    ) -> Result<bool, JoinError> {
        let media = &fragment.bytes[fragment.head.moof_len as usize..];
        self.add(init, &fragment.head, Payload::Memory(media), origin)
    }

    /// Appends what it misses of these chunks, in the order of run and index.
    ///
    /// # Errors
    /// When the video cannot be written. A chunk that cannot be read is no error; it is named in the answer.
    pub fn catch_up(&mut self, chunks: &[ChunkSource]) -> Result<Vec<CaughtUp>, JoinError> {
        let mut chunks = chunks.to_vec();
        chunks.sort_by_key(ChunkSource::origin);
        let mut done = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let caught_up = self.catch_up_one(chunk)?;
            if let Some(fault @ ChunkFault::Unread(_)) = &caught_up.fault {
                warn!("{} is left out: {fault}", caught_up.source.path.display());
                self.explain(UNREAD);
            }
            done.push(caught_up);
        }
        Ok(done)
    }

    /// Appends what it misses of one chunk.
    ///
    /// # Errors
    /// As [`Self::catch_up`].
    pub fn catch_up_one(&mut self, source: ChunkSource) -> Result<CaughtUp, JoinError> {
        let origin = source.origin();
        let mut report = CaughtUp {
            source,
            fragments: 0,
            bytes: 0,
            lost_bytes: 0,
            fault: None,
            late: false,
        };
        if let Some(last) = self.last()
            && origin < last
        {
            report.late = !self
                .open
                .as_ref()
                .is_some_and(|open| open.state.ledger.knows(origin));
            return Ok(report);
        }
        let file = match File::open(&report.source.path) {
            Ok(file) => file,
            Err(cause) => {
                report.fault = Some(ChunkFault::unread(cause));
                return Ok(report);
            }
        };
        self.take_chunk(&file, origin, &mut report)?;
        // What is not read now is not lost.
        let is_unread = report.fault.as_ref().is_some_and(ChunkFault::is_unread);
        if report.lost_bytes > 0 && !is_unread {
            self.mark_lost(origin, report.lost_bytes)?;
        }
        Ok(report)
    }

    fn take_chunk(
        &mut self,
        file: &File,
        origin: Origin,
        report: &mut CaughtUp,
    ) -> Result<(), JoinError> {
        let mut chunk = match Chunk::open(file) {
            Ok(chunk) => chunk,
            Err(cause) => {
                report.fault = Some(ChunkFault::unread(cause));
                return Ok(());
            }
        };
        loop {
            let found = match chunk.next() {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(trouble) => {
                    report.fault = Some(trouble.into());
                    break;
                }
            };
            let Some(init) = chunk.init() else { break };
            if self.holds(&found.head, origin) {
                continue;
            }
            let media = Payload::File {
                file,
                at: found.media_at(),
                len: found.media_len(),
            };
            match self.add(&init, &found.head, media, origin) {
                Ok(false) => {}
                Ok(true) => {
                    report.fragments += 1;
                    report.bytes += found.media_len();
                }
                // It may be the chunk that is not read, not the video that is not written.
                Err(cause) => match media.read_through() {
                    Ok(()) => return Err(cause),
                    Err(unread) => {
                        report.fault = Some(ChunkFault::unread(unread));
                        return Ok(());
                    }
                },
            }
        }
        report.lost_bytes = chunk.rest();
        if chunk.init().is_none() && report.fault.is_none() {
            let what = "it is no MP4, or it ends within its first bytes";
            report.fault = Some(ChunkFault::Broken(what.into()));
        }
        Ok(())
    }

    /// Whether the video, which was taken up, has this fragment of the chunk that its last one came from. Within one chunk
    /// stamps never go back.
    pub fn has(&self, fragment: &Fragment, origin: Origin) -> bool {
        self.holds(&fragment.head, origin)
    }

    fn holds(&self, head: &Head, origin: Origin) -> bool {
        let open = self.open.as_ref();
        open.is_some_and(|open| open.state.ledger.last() == Some(origin) && open.state.holds(head))
    }

    /// Notes that so many bytes at the end of a chunk are no whole fragment.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn mark_lost(&mut self, origin: Origin, bytes: u64) -> Result<(), JoinError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let mut ledger = open.state.ledger.clone();
        if ledger.lost(origin, bytes) {
            let mark = Mark::Lost {
                run: origin.run,
                index: origin.index,
                bytes,
            };
            open.write_mark(&mark, &self.path)?;
            open.state.ledger = ledger;
        }
        Ok(())
    }

    fn add(
        &mut self,
        init: &Init,
        head: &Head,
        media: Payload<'_>,
        origin: Origin,
    ) -> Result<bool, JoinError> {
        match &mut self.open {
            Some(open) => {
                let last = open.state.ledger.last();
                if self.keeps_index && last.is_some_and(|last| last != origin) {
                    open.note_in_index(&self.path);
                }
                let added = open.add(init, head, media, origin, self.cause.clone(), &self.path)?;
                if added == Added::AfterAGap {
                    self.cause = None;
                }
                Ok(added != Added::Nothing)
            }
            None => self.begin(init, head, media, origin),
        }
    }

    /// Makes the file under another name, so that it appears with its first frames in it.
    fn begin(
        &mut self,
        init: &Init,
        head: &Head,
        media: Payload<'_>,
        origin: Origin,
    ) -> Result<bool, JoinError> {
        let Some(clock) = MediaClock::begin(self.options.gap_mode, head, &init.tracks) else {
            return Ok(false);
        };
        let part = beside(&self.path, &format!("r{}{PART}", origin.run));
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(JoinError::io("make the folder of", &self.path))?;
        }
        let mut open = Open::create(&part, &self.options, init, clock)?;
        open.add(init, head, media, origin, None, &part)?;
        publish(&part, &self.path)?;
        self.open = Some(open);
        Ok(true)
    }

    /// Answers when what was appended survives a loss of power.
    ///
    /// # Errors
    /// When the disk did not take it.
    pub fn sync(&self) -> Result<(), JoinError> {
        match &self.open {
            Some(open) => open.sync(&self.path),
            None => Ok(()),
        }
    }

    /// Makes the file a regular MP4. It may be finished again, and even be appended to after.
    ///
    /// # Errors
    /// When nothing was recorded, or the file system refuses. The file plays in either case.
    pub fn finish(&mut self) -> Result<Finished, JoinError> {
        let nothing = || JoinError::Nothing {
            path: self.path.clone(),
        };
        let open = self.open.as_mut().ok_or_else(nothing)?;
        let moov = open.moov(&self.path)?;
        open.finish(&moov, &self.path)?;
        let bytes = open.end + moov.len() as u64;
        self.described(moov, bytes)
    }

    /// The same for a video whose end the disk does not take: it stays as it is, and is described from memory.
    ///
    /// # Errors
    /// When nothing was recorded.
    pub fn leave_unfinished(&self) -> Result<Finished, JoinError> {
        let nothing = || JoinError::Nothing {
            path: self.path.clone(),
        };
        let open = self.open.as_ref().ok_or_else(nothing)?;
        Ok(Finished {
            regular: false,
            ..self.described(open.moov(&self.path)?, open.end)?
        })
    }

    fn described(&self, moov: Vec<u8>, bytes: u64) -> Result<Finished, JoinError> {
        let nothing = || JoinError::Nothing {
            path: self.path.clone(),
        };
        let timeline = self.timeline().ok_or_else(nothing)?;
        let duration = Duration::from_secs_f64(timeline.duration_seconds.max(0.0));
        Ok(Finished {
            video: self.path.clone(),
            info: info::info_of_moov(moov, bytes, &self.path)?,
            timeline,
            bytes,
            duration,
            regular: true,
        })
    }

    /// The most bytes that its end and its timeline may take.
    pub fn bytes_to_finish(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| {
            let state = &open.state;
            moov::most_bytes(&state.tracks, &state.tables) + state.ledger.most_bytes()
        })
    }

    /// What the video is made from so far.
    pub fn timeline(&self) -> Option<Timeline> {
        let state = &self.open.as_ref()?.state;
        Some(state.ledger.timeline(&self.options, &state.clock))
    }
}
