//! Where a chunk lives. A key names recording, take, run and index, so that two runs can never write one key and a
//! recording id that is used again never meets an earlier recording's chunks.

use super::ids::{RecordingId, RunNumber, TakeId};
use std::fmt;

/// The folder of a take below the store's root: `<id>/<chunk folder>/<take>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TakeKey {
    /// Which recording id.
    pub recording: RecordingId,
    /// The chunk folder's name, without slashes at its ends; `CHUNK_FOLDER`.
    pub folder: String,
    /// Which recording of that id.
    pub take: TakeId,
}

impl TakeKey {
    /// The key of the take's manifest.
    pub fn manifest(&self) -> String {
        format!("{self}/manifest.json")
    }

    /// The key of the take's timeline, which is in the store once the video is finished.
    pub fn finished(&self) -> String {
        format!("{self}/timeline.json")
    }

    /// The key of a chunk of this take.
    pub fn chunk(&self, run: RunNumber, index: u32) -> ChunkKey {
        ChunkKey {
            take: self.clone(),
            run,
            index,
        }
    }

    /// The key of what the recorder of that run logged, in debug mode.
    pub fn log(&self, run: RunNumber) -> String {
        format!("{}recorder.log", self.run(run))
    }

    /// The prefix of one run's chunks, with the slash that keeps `r1` from meaning `r10`.
    pub fn run(&self, run: RunNumber) -> String {
        format!("{self}/r{run}/")
    }
}

impl fmt::Display for TakeKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}/{}", self.recording, self.folder, self.take)
    }
}

/// One chunk: `<id>/<chunk folder>/<take>/r<run>/<index>.mp4`, the index in at least four digits and counted over all
/// runs of the take.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ChunkKey {
    /// The take it belongs to.
    pub take: TakeKey,
    /// Which recorder wrote it.
    pub run: RunNumber,
    /// Its number in the take, from 1.
    pub index: u32,
}

impl ChunkKey {
    /// The chunk's file name: `0001.mp4`.
    pub fn file_name(&self) -> String {
        format!("{:04}.mp4", self.index)
    }

    /// Reads a key of `take` back from its text; `None` for anything else that lies below the take.
    pub fn parse(take: &TakeKey, text: &str) -> Option<Self> {
        let rest = text.strip_prefix(&format!("{take}/r"))?;
        let (run, file) = rest.split_once('/')?;
        let index = file.strip_suffix(".mp4")?;
        let key = take.chunk(RunNumber(run.parse().ok()?), index.parse().ok()?);
        (key.to_string() == text).then_some(key)
    }
}

impl fmt::Display for ChunkKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}", self.take.run(self.run), self.file_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take() -> TakeKey {
        TakeKey {
            recording: RecordingId::parse("ses_A~1").unwrap(),
            folder: "chunks".into(),
            take: TakeId::parse("1795577569120").unwrap(),
        }
    }

    #[test]
    fn a_key_reads_back_and_nothing_else_does() {
        let key = take().chunk(RunNumber(3), 12);
        assert_eq!(key.to_string(), "ses_A~1/chunks/1795577569120/r3/0012.mp4");
        assert_eq!(ChunkKey::parse(&take(), &key.to_string()), Some(key));
        for other in [
            "manifest.json",
            "r3/12.mp4",
            "r03/0012.mp4",
            "r3/0012.mp4.part",
            "r3/x/0012.mp4",
        ] {
            let text = format!("{}/{other}", take());
            assert_eq!(ChunkKey::parse(&take(), &text), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn two_runs_never_share_a_key(a in 0u32..100_000, b in 0u32..100_000, i in 0u32..100_000, j in 0u32..100_000) {
            let (one, two) = (take().chunk(RunNumber(a), i), take().chunk(RunNumber(b), j));
            prop_assert_eq!(one.to_string() == two.to_string(), (a, i) == (b, j));
        }
    }
}
