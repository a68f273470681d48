//! Fragments come in, a video that plays at any moment comes out. The recorder hands over half seconds of ffmpeg's output
//! as they arrive; `join`, the controller and a recorder that takes over hand over chunk files. Both go through one
//! [`GrowingFile`], which is finished by one `moov` however long it is. Media is copied once and never decoded, and the
//! wall clock in ffmpeg's stamps is all that says where a fragment belongs.
//!
//! The file, while it grows:
//!
//! ```text
//! ftyp │ free (16 bytes) │ moov for fragments, padded │ notes, and [ prft │ moof │ mdat ] again and again
//! ```
//!
//! and finished, when a `moov` that knows every sample was written and flushed, and the `free` was turned into the header
//! of an `mdat` that spans everything up to it:
//!
//! ```text
//! ftyp │ mdat [ …all of the above… ] │ moov
//! ```
//!
//! A chunk is what ffmpeg wrote, with a record of its stream between `ftyp` and `moov`:
//!
//! ```text
//! ftyp │ uuid (boot, clocks, seat) │ moov for fragments │ [ moof │ mdat ] again and again
//! ```
//!
//! Room for that `moov` is held by a hidden file beside the video while it grows, so that a full disk takes it too.
//!
//! Killed between any two writes it is the one or the other, with at worst half a fragment at its end, which whoever goes
//! on cuts off. Everything needed to go on is read from the file itself; a recorder keeps an index beside it, so that this
//! costs one chunk and not hours of them. A file that is damaged in its middle is put aside, never cut.

mod ahead;
pub mod beside;
mod boxes;
mod check;
mod fragment;
mod growing;
mod info;
mod init;
mod joined;
mod ledger;
mod mark;
mod moov;
mod place;
mod reserve;
#[cfg(test)]
pub(crate) mod samples;
mod silence;
mod source;
mod stream;
mod table;

pub use check::{Checked, check as verify, timeline_of};
pub use fragment::{Fragment, Piece, Splitter};
pub use growing::{CaughtUp, ChunkFault, Finished, GrowingFile, last_indexed_chunk};
pub use info::info_json;
pub use init::Init;
pub use joined::{Joined, Progress, find_chunks, join_chunks};
pub use reserve::Reserve;
pub use stream::{Seat, StreamRecord};

use crate::disk;
use crate::model::ids::{RecordingId, RunNumber, TakeId};
use crate::model::timeline::GapMode;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Whose video it is, and what becomes of its gaps.
#[derive(Clone, Debug)]
pub struct Options {
    /// The recording's id.
    pub recording: RecordingId,
    /// Which recording of that id.
    pub take: TakeId,
    /// Whether gaps are cut out or held.
    pub gap_mode: GapMode,
}

/// Which chunk a fragment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The recorder's life.
    pub run: RunNumber,
    /// The chunk's number in the take.
    pub index: u32,
}

/// A chunk file on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSource {
    /// The recorder's life.
    pub run: RunNumber,
    /// The chunk's number in the take.
    pub index: u32,
    /// Where it lies.
    pub path: PathBuf,
}

impl ChunkSource {
    /// Which chunk it is.
    pub fn origin(&self) -> Origin {
        Origin {
            run: self.run,
            index: self.index,
        }
    }
}

/// How the names of videos end that are not whole yet.
const PART: &str = ".part";

/// Makes a rename, or a new file, in `path`'s folder last over a loss of power.
fn settle(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Ok(()),
        Some(folder) => disk::sync_folder(folder),
        None => Ok(()),
    }
}

/// Why bytes are no MP4 that this room can take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Malformed {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// Why a video could not be made.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The system refused.
    #[error("cannot {act} {}: {cause}", path.display())]
    Io {
        /// What was attempted.
        act: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A file or a fragment is not what it should be.
    #[error("cannot take {what}: {cause}")]
    Media {
        /// The file or the fragment.
        what: String,
        /// What is wrong with it.
        cause: Malformed,
    },
    /// There is no frame to show.
    #[error("cannot finish {}: nothing was recorded into it", path.display())]
    Nothing {
        /// The video.
        path: PathBuf,
    },
    /// A video does not hold what its chunks hold.
    #[error("{} does not match its chunks: {what}; keep the chunks and join them again", path.display())]
    Differs {
        /// The video.
        path: PathBuf,
        /// The first difference.
        what: String,
    },
    /// A folder does not hold one recording's chunks.
    #[error("cannot join {}: {what}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is there instead, and what to do.
        what: String,
    },
    /// Someone else has made the file meanwhile.
    #[error("cannot begin {}: another recorder has begun it meanwhile; register again to learn which one goes on", path.display())]
    Begun {
        /// The video.
        path: PathBuf,
    },
}

impl JoinError {
    fn io<'a>(act: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + 'a {
        move |cause| Self::Io {
            act,
            path: path.to_owned(),
            cause,
        }
    }

    fn media(what: impl ToString) -> impl Fn(Malformed) -> Self {
        move |cause| Self::Media {
            what: what.to_string(),
            cause,
        }
    }

    /// Whether there was only no room for more.
    pub fn is_for_want_of_room(&self) -> bool {
        let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Io { cause, .. } if kinds.contains(&cause.kind()))
    }
}
