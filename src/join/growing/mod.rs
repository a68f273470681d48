//! The video at OpenVidu's path, from its first fragment to its `moov`. What is known of it is in [`state`]; a fragment is
//! given its place and its bytes in [`mux`], written in [`append`], and read back by whoever goes on with the file in
//! [`scan`].

mod append;
mod catch_up;
mod index;
mod mux;
mod names;
mod scan;
mod state;
#[cfg(test)]
mod tests;

pub use catch_up::{CaughtUp, ChunkFault};
pub(super) use index::remove as remove_index;
#[cfg(test)]
pub(super) use mux::write_moof;
pub(super) use names::beside;
pub(super) use scan::{Form, MediaSpan, Scanned};
pub(super) use state::State;

use super::fragment::{Fragment, Head, stamp};
use super::init::Init;
use super::mark::Mark;
use super::place::MediaClock;
use super::{JoinError, Options, Origin, PART, info, moov};
use crate::clock::Timestamp;
use crate::disk;
use crate::model::timeline::Timeline;
use append::{Added, Open, Payload};
use log::error;
use names::{publish, take_up, unused_name};
use std::fs;
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
