//! Keeps the account of what went into a video: runs, chunks, gaps. What comes out is the recording's timeline.

use super::fragment::stamp;
use super::place::{Gap, MediaClock};
use super::{Options, Origin};
use crate::clock::Timestamp;
use crate::model::timeline::{self, Timeline};
use serde::{Deserialize, Serialize};

/// The account of one video.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    chunks: Vec<Entry>,
    gaps: Vec<timeline::Gap>,
    notes: Vec<String>,
}

/// How much of an account was noted elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    chunks: usize,
    gaps: usize,
    notes: usize,
}

/// What has come into an account since a mark.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Part {
    chunks: Vec<Entry>,
    gaps: Vec<timeline::Gap>,
    notes: Vec<String>,
}

impl Part {
    /// The number of the last chunk.
    pub(super) fn last_chunk(&self) -> Option<u32> {
        self.chunks.last().map(|entry| entry.origin.index)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    origin: Origin,
    started_at: Timestamp,
    at_seconds: f64,
    ticks: u64,
    bytes: u64,
    lost: u64,
}

/// What is entered for one fragment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entered {
    pub(super) origin: Origin,
    /// Wall clock of its first frame.
    pub(super) starts: i64,
    /// Media time of its first frame.
    pub(super) at: u64,
    /// How long its frames last.
    pub(super) ticks: u64,
    pub(super) bytes: u64,
}

impl Ledger {
    /// Where the account stands.
    pub(super) fn mark(&self) -> Mark {
        Mark {
            chunks: self.chunks.len(),
            gaps: self.gaps.len(),
            notes: self.notes.len(),
        }
    }

    /// What has come since `mark`, which was made between two chunks.
    pub(super) fn since(&self, mark: &Mark) -> Part {
        Part {
            chunks: rest(&self.chunks, mark.chunks),
            gaps: rest(&self.gaps, mark.gaps),
            notes: rest(&self.notes, mark.notes),
        }
    }

    /// Enters what had come.
    pub(super) fn add(&mut self, part: Part) {
        self.chunks.extend(part.chunks);
        self.gaps.extend(part.gaps);
        self.notes.extend(part.notes);
    }

    pub(super) fn last(&self) -> Option<Origin> {
        self.chunks.last().map(|entry| entry.origin)
    }

    pub(super) fn fragment(&mut self, entered: Entered, timescale: u32) {
        if self.last() != Some(entered.origin) {
            self.chunks.push(Entry {
                origin: entered.origin,
                started_at: stamp(entered.starts, timescale),
                at_seconds: seconds(entered.at, timescale),
                ticks: 0,
                bytes: 0,
                lost: 0,
            });
        }
        if let Some(entry) = self.chunks.last_mut() {
            entry.ticks += entered.ticks;
            entry.bytes += entered.bytes;
        }
    }

    pub(super) fn gap(&mut self, gap: Gap, at: u64, timescale: u32, cause: String) {
        self.gaps.push(timeline::Gap {
            from: stamp(gap.from, timescale),
            to: stamp(gap.to, timescale),
            seconds: seconds((gap.to - gap.from).unsigned_abs(), timescale),
            at_seconds: seconds(at, timescale),
            cause,
        });
    }

    /// Enters bytes that were lost at the end of a chunk; `false` when that is known.
    pub(super) fn lost(&mut self, origin: Origin, bytes: u64) -> bool {
        let entry = self
            .chunks
            .iter_mut()
            .rev()
            .find(|entry| entry.origin == origin);
        match entry {
            Some(entry) if entry.lost != bytes => {
                entry.lost = bytes;
                true
            }
            _ => false,
        }
    }

    pub(super) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Whether this chunk gave anything.
    pub(super) fn knows(&self, origin: Origin) -> bool {
        self.chunks.iter().any(|entry| entry.origin == origin)
    }

    /// Why there is a gap between the last chunk and `next`, as far as that can be seen from here.
    pub(super) fn guess(&self, next: Origin) -> String {
        let Some(last) = self.chunks.last() else {
            return "nothing was recorded before".into();
        };
        let missing = next.index.saturating_sub(last.origin.index + 1);
        match missing {
            _ if next.run != last.origin.run => {
                format!(
                    "the recorder of run {} was lost, run {} took over",
                    last.origin.run, next.run
                )
            }
            0 if last.lost > 0 => format!("the end of chunk {} was lost", last.origin.index),
            0 => "the capture was restarted".into(),
            1 => format!("chunk {} is missing", next.index - 1),
            _ => format!(
                "chunks {} to {} are missing",
                last.origin.index + 1,
                next.index - 1
            ),
        }
    }

    /// About how many bytes the timeline has as a file; rather too many than too few.
    pub(super) fn most_bytes(&self) -> u64 {
        let notes: usize = self.notes.iter().map(|note| 16 + 2 * note.len()).sum();
        let causes: usize = self.gaps.iter().map(|gap| 320 + 2 * gap.cause.len()).sum();
        (1024 + self.chunks.len() * 400 + causes + notes) as u64
    }

    pub(super) fn timeline(&self, options: &Options, clock: &MediaClock) -> Timeline {
        let scale = clock.video.timescale;
        let mut runs: Vec<timeline::Run> = Vec::new();
        for entry in &self.chunks {
            let chunk = timeline::Chunk {
                index: entry.origin.index,
                started_at: entry.started_at,
                duration_seconds: seconds(entry.ticks, scale),
                at_seconds: entry.at_seconds,
                bytes: entry.bytes,
                lost_bytes: entry.lost,
            };
            match runs.last_mut() {
                Some(run) if run.run == entry.origin.run => run.chunks.push(chunk),
                _ => runs.push(timeline::Run {
                    run: entry.origin.run,
                    chunks: vec![chunk],
                }),
            }
        }
        Timeline {
            version: timeline::VERSION,
            recording: options.recording.clone(),
            take: options.take.clone(),
            started_at: stamp(clock.origin + clock.shown, scale),
            ended_at: stamp(clock.video.next as i64 + clock.shift + clock.shown, scale),
            duration_seconds: seconds(clock.video.next, scale),
            gap_mode: options.gap_mode,
            runs,
            gaps: self.gaps.clone(),
            notes: self.notes.clone(),
        }
    }
}

fn rest<T: Clone>(all: &[T], from: usize) -> Vec<T> {
    all.get(from..).unwrap_or_default().to_vec()
}

fn seconds(ticks: u64, timescale: u32) -> f64 {
    // six digits are enough for a person, and a file that is read back is the same file
    (ticks as f64 / f64::from(timescale) * 1e6).round() / 1e6
}
