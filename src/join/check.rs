//! Holding a finished video against the chunks it was made from. Chunks are deleted only after this: every fragment of
//! theirs must lie in the video byte for byte, and the `moov` must name every sample where it lies.

use super::growing::{Form, MediaSpan, Scanned, State};
use super::init::Init;
use super::source::{Chunk, Found, Trouble};
use super::{ChunkSource, JoinError, Origin};
use crate::model::timeline::Timeline;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What was found in a video.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Chunks that were looked for.
    pub chunks: usize,
    /// Fragments of them that lie in the video.
    pub fragments: usize,
    /// Bytes of media in them.
    pub bytes: u64,
    /// Fragments that show nothing, such as sound before the first frame, and were left out.
    pub left_out: usize,
}

/// Checks that the finished `video` holds every fragment of `chunks`.
///
/// # Errors
/// [`JoinError::Differs`] with the first difference; others when a file cannot be read.
pub fn check(video: &Path, chunks: &[ChunkSource]) -> Result<Checked, JoinError> {
    let fault = JoinError::io("read", video);
    let differs = |what: String| JoinError::Differs {
        path: video.to_owned(),
        what,
    };
    let file = File::open(video).map_err(&fault)?;
    let scanned =
        State::scan(&file, video)?.ok_or_else(|| differs("it was not made here".into()))?;
    if scanned.form != Form::Finished {
        return Err(differs("it was not finished".into()));
    }
    let ends = scanned.moov().map_err(JoinError::media(video.display()))?;
    let len = file.metadata().map_err(&fault)?.len();
    if len != scanned.end + ends.len() as u64
        || !holds(&file, scanned.end, &ends).map_err(&fault)?
    {
        return Err(differs(
            "its moov does not name the samples that lie in it".into(),
        ));
    }
    let mut chunks = chunks.to_vec();
    chunks.sort_by_key(ChunkSource::origin);
    let mut cursor = Cursor {
        video: &file,
        scanned: &scanned,
        next: 0,
    };
    let mut checked = Checked {
        chunks: chunks.len(),
        ..Checked::default()
    };
    for chunk in &chunks {
        check_one(chunk, &mut cursor, &mut checked)?.map_err(&differs)?;
    }
    Ok(checked)
}

fn check_one(
    source: &ChunkSource,
    cursor: &mut Cursor<'_>,
    checked: &mut Checked,
) -> Result<Result<(), String>, JoinError> {
    let fault = JoinError::io("read", &source.path);
    let file = File::open(&source.path).map_err(&fault)?;
    let mut chunk = Chunk::open(&file).map_err(&fault)?;
    let mut begun = false;
    loop {
        let found = match chunk.next() {
            Ok(Some(found)) => found,
            // half a fragment at the end was never taken
            Ok(None) => return Ok(Ok(())),
            Err(Trouble::Malformed(fault)) => {
                let (run, index) = (source.run, source.index);
                return Ok(Err(format!(
                    "chunk {index} of run {run} cannot be read to its end: {fault}"
                )));
            }
            Err(Trouble::Io(cause)) => return Err(fault(cause)),
        };
        if cursor
            .find(&file, &found, source.origin())
            .map_err(&fault)?
        {
            if !begun && let Some(init) = chunk.init().filter(|init| !cursor.describes(init)) {
                let what = if init.has_audio() {
                    "picture or sound"
                } else {
                    "picture"
                };
                let (run, index) = (source.run, source.index);
                return Ok(Err(format!(
                    "it does not say how the {what} of chunk {index} of run {run} is encoded"
                )));
            }
            begun = true;
            checked.fragments += 1;
            checked.bytes += found.media_len();
        } else if shows_nothing(&found, begun) {
            checked.left_out += 1;
        } else {
            let (run, index, at) = (source.run, source.index, found.head.start());
            return Ok(Err(format!(
                "the fragment of {at} in chunk {index} of run {run} is not in it"
            )));
        }
    }
}

/// Whether a fragment of a chunk of which others are in the video, if it has `begun`, shows nothing.
fn shows_nothing(found: &Found, begun: bool) -> bool {
    found.head.video.is_none() || (!begun && !found.head.starts_with_keyframe())
}

/// Goes through the video's fragments beside the chunks': both are in the same order.
struct Cursor<'a> {
    video: &'a File,
    scanned: &'a Scanned,
    next: usize,
}

impl Cursor<'_> {
    /// Whether the video says how all tracks are encoded as their chunk does.
    fn describes(&self, init: &Init) -> bool {
        init.tracks.iter().all(|track| {
            let mut its = self.scanned.state.tracks.iter();
            its.find(|it| it.media == track.media)
                .is_none_or(|it| track.entries.iter().all(|entry| it.entries.contains(entry)))
        })
    }

    fn find(&mut self, chunk: &File, found: &Found, origin: Origin) -> io::Result<bool> {
        let rest = self.scanned.media.get(self.next..).unwrap_or(&[]);
        for (ahead, lies) in rest.iter().enumerate() {
            if lies.origin.is_some_and(|its| its > origin) {
                break;
            }
            // parameters may stand before what the chunk has
            let more = lies.len.checked_sub(found.media_len());
            let payload = more.map(|more| MediaSpan {
                at: lies.at + more + HEADER,
                len: found.media_len().saturating_sub(HEADER),
                ..*lies
            });
            if let Some(payload) = payload
                && same(self.video, &payload, chunk, found.media_at() + HEADER)?
            {
                self.next += ahead + 1;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The header of an `mdat` box.
const HEADER: u64 = 8;
const PIECE: usize = 256 << 10;

fn same(video: &File, lies: &MediaSpan, chunk: &File, at: u64) -> io::Result<bool> {
    let (mut ours, mut theirs) = (vec![0; PIECE], vec![0; PIECE]);
    let mut done = 0;
    while done < lies.len {
        let len = PIECE.min(usize::try_from(lies.len - done).unwrap_or(PIECE));
        video.read_exact_at(&mut ours[..len], lies.at + done)?;
        chunk.read_exact_at(&mut theirs[..len], at + done)?;
        if ours[..len] != theirs[..len] {
            return Ok(false);
        }
        done += len as u64;
    }
    Ok(true)
}

fn holds(file: &File, at: u64, bytes: &[u8]) -> io::Result<bool> {
    let mut there = vec![0; bytes.len()];
    file.read_exact_at(&mut there, at)?;
    Ok(there == bytes)
}

/// What a video, finished or still growing, says it was made from.
///
/// # Errors
/// When it cannot be read, or was not made here.
pub fn timeline_of(video: &Path) -> Result<Timeline, JoinError> {
    let file = File::open(video).map_err(JoinError::io("read", video))?;
    let scanned = State::scan(&file, video)?;
    scanned
        .as_ref()
        .and_then(Scanned::timeline)
        .ok_or_else(|| JoinError::Differs {
            path: video.to_owned(),
            what: "it is not a recording made by ov2-ha-recorder, or it is damaged".into(),
        })
}
