//! The truth about a recording: which runs and chunks it was made from and what is missing between them. Written beside
//! the video as `<id>.timeline.json`, so that a person can see what a viewer did not.

use super::ids::{RecordingId, RunNumber, TakeId};
use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of the file's format.
pub const VERSION: u32 = 1;

/// What `<id>.timeline.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The recording's id.
    pub recording: RecordingId,
    /// Which recording of that id.
    pub take: TakeId,
    /// Wall clock of the first frame.
    pub started_at: Timestamp,
    /// Wall clock of the end of the last frame.
    pub ended_at: Timestamp,
    /// Seconds the video plays.
    pub duration_seconds: f64,
    /// How the gaps appear in the video.
    pub gap_mode: GapMode,
    /// Every recorder's life, in order.
    pub runs: Vec<Run>,
    /// Everything that is missing, in order.
    pub gaps: Vec<Gap>,
    /// What else a person should know, as that the encoding changed within the video.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Why there is a gap where a chunk was left out.
pub const UNREAD: &str = "a chunk could not be read";

impl Timeline {
    /// Whether something is missing that could not be read when the video was made.
    pub fn lacks_unread(&self) -> bool {
        self.gaps.iter().any(|gap| gap.cause == UNREAD)
    }
}

/// One recorder's life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its number.
    pub run: RunNumber,
    /// Its chunks, in order.
    pub chunks: Vec<Chunk>,
}

/// One chunk as it went into the video.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chunk {
    /// Its number in the take.
    pub index: u32,
    /// Wall clock of its first frame.
    pub started_at: Timestamp,
    /// Seconds of video in it.
    pub duration_seconds: f64,
    /// Seconds from the start of the video to its first frame.
    pub at_seconds: f64,
    /// Bytes taken from it.
    pub bytes: u64,
    /// Bytes at its end that were no whole fragment.
    #[serde(default)]
    pub lost_bytes: u64,
}

/// A piece of time that no frame shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// Wall clock of the end of the last frame before it.
    pub from: Timestamp,
    /// Wall clock of the first frame after it.
    pub to: Timestamp,
    /// Its length.
    pub seconds: f64,
    /// Seconds from the start of the video to where it lies.
    pub at_seconds: f64,
    /// Why, as far as it is known.
    pub cause: String,
}

/// What becomes of a gap in the video; `HA_GAP_MODE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GapMode {
    /// The frame after the gap follows the frame before it.
    #[default]
    Cut,
    /// The last frame stands until the gap is over: file time stays wall time.
    Hold,
}
