//! What the video misses of chunk files is appended to it.

use super::super::source::{Chunk, Trouble};
use super::super::{ChunkSource, JoinError, Origin};
use super::GrowingFile;
use super::append::Payload;
use crate::model::timeline::UNREAD;
use log::warn;
use std::fs::File;
use std::io;

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
            let (at, len) = (found.media_at(), found.media_len());
            let media = Payload::File { file, at, len };
            match self.add(&init, &found.head, media, origin) {
                Ok(false) => {}
                Ok(true) => {
                    report.fragments += 1;
                    report.bytes += len;
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
}
