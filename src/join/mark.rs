//! Notes that the growing file carries about itself, between its fragments, where players skip them: whose recording it
//! is, where a chunk began, why there is a gap. With them a recorder that comes after, and the timeline, need no other
//! record than the file.

use super::Malformed;
use super::boxes;
use super::stream::StreamRecord;
use crate::model::ids::{RecordingId, RunNumber, TakeId};
use crate::model::timeline::GapMode;
use serde::{Deserialize, Serialize};

/// The id of our `uuid` boxes.
pub(super) const UUID: [u8; 16] =
    *b"\x8e\x1f\x30\x5b\x92\xc4\x4d\x17\xa6\x0b\x5d\x43\xf7\x29\xe8\x6c";
/// The version of the file's layout.
pub(super) const LAYOUT: u32 = 1;

/// One note.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mark", rename_all = "lowercase")]
pub(super) enum Mark {
    /// Stands before the first fragment.
    Take {
        layout: u32,
        recording: RecordingId,
        take: TakeId,
        gaps: GapMode,
    },
    /// What follows comes from this chunk.
    Chunk {
        run: RunNumber,
        index: u32,
        /// What the chunk says of its stream.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        record: Option<StreamRecord>,
    },
    /// Stands before a chunk's `moov`: how the stamps of the stream are to be taken.
    Stream { record: StreamRecord },
    /// Why there is a gap before the next fragment.
    Gap { cause: String },
    /// So many bytes at the end of a chunk were no whole fragment.
    Lost {
        run: RunNumber,
        index: u32,
        bytes: u64,
    },
    /// Something a person should know.
    Note { text: String },
}

impl Mark {
    /// Appends the note as a box.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        boxes::wrap(out, b"uuid", |out| {
            out.extend_from_slice(&UUID);
            serde_json::to_writer(out, self).map_err(|fault| Malformed::new(fault.to_string()))
        })
    }

    /// Reads the body of a `uuid` box; `None` when it is not one of ours.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body.strip_prefix(&UUID)?).ok()
    }
}
