//! Writing: bytes go to the end of the file, and are in force when they are whole. Killed between any two writes it is a
//! file that grows, or one that is finished.

use super::super::fragment::Head;
use super::super::init::{Init, Media, Track};
use super::super::ledger::Ledger;
use super::super::mark::{LAYOUT, Mark};
use super::super::moov::{self, TrackOut};
use super::super::place::MediaClock;
use super::super::table::Table;
use super::super::{JoinError, Malformed, Options, Origin, reserve};
use super::index::{self, Index};
use super::scan::Form;
use super::state::State;
use crate::clock::Timestamp;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The room for the `moov` at the front: a description of another encoding finds its place there later.
const FRONT: u64 = 8 << 10;
/// The placeholder that becomes the header of the finished file's `mdat`.
pub(super) const PLACEHOLDER: u64 = 16;

/// The file on disk and what is known of it.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) file: File,
    /// Where the next fragment goes.
    pub(super) end: u64,
    pub(super) state: State,
    /// [`Form::HalfFinished`] is a form only until the file is opened for writing.
    pub(super) form: Form,
    /// What is noted beside the file; `None` until something is.
    pub(super) index: Option<Index>,
}

impl Open {
    pub(super) fn create(
        path: &Path,
        options: &Options,
        init: &Init,
        clock: MediaClock,
    ) -> Result<Self, JoinError> {
        let fault = JoinError::io("make", path);
        let tracks: Vec<TrackOut> = init
            .tracks
            .iter()
            .map(|track| new_track(track, &clock))
            .collect();
        let bad = JoinError::media("the start of the stream");
        let mut bytes = moov::file_type().map_err(&bad)?;
        let placeholder = bytes.len() as u64;
        bytes.extend_from_slice(&moov::free(PLACEHOLDER));
        let front = front(&tracks, FRONT).map_err(&bad)?;
        bytes.extend_from_slice(&front);
        let take = Mark::Take {
            layout: LAYOUT,
            recording: options.recording.clone(),
            take: options.take.clone(),
            gaps: options.gap_mode,
        };
        take.write(&mut bytes).map_err(&bad)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(&fault)?;
        let _ = file.try_lock();
        file.write_all_at(&bytes, 0).map_err(&fault)?;
        let tables = tracks.iter().map(|_| Table::default()).collect();
        let state = State {
            placeholder,
            front: front.len() as u64,
            tracks,
            tables,
            clock,
            ledger: Ledger::default(),
            sequence: 0,
            record: None,
        };
        Ok(Self {
            file,
            end: bytes.len() as u64,
            state,
            form: Form::Growing,
            index: None,
        })
    }

    pub(super) fn add(
        &mut self,
        init: &Init,
        head: &Head,
        media: Payload<'_>,
        origin: Origin,
        cause: Option<String>,
        path: &Path,
    ) -> Result<Added, JoinError> {
        let bad = |cause| JoinError::Media {
            what: format!("a fragment of chunk {}", origin.index),
            cause,
        };
        let mut next = self.state.advance();
        next.record.clone_from(&init.record);
        let described = self.describe(init, head, path)?;
        let Some(muxed) = self
            .state
            .mux(&mut next, head, media.len(), origin, cause, described)
            .map_err(bad)?
        else {
            return Ok(Added::Nothing);
        };
        self.unfinish(path)?;
        let media = media.from(muxed.replaced);
        let written = write(&self.file, self.end, &muxed.bytes, media);
        if let Err(cause) = written {
            // half a fragment at the end does no harm, but room is what is short
            let _ = self.file.set_len(self.end);
            return Err(JoinError::Io {
                act: "append to",
                path: path.to_owned(),
                cause,
            });
        }
        self.state.enter(next, &muxed, self.end);
        self.end += muxed.bytes.len() as u64 + media.len();
        Ok(match muxed.placement.gap {
            Some(_) => Added::AfterAGap,
            None => Added::Seamlessly,
        })
    }

    /// Notes beside the video at `path` what is known of it before its next chunk.
    pub(super) fn note_in_index(&mut self, path: &Path) {
        let mut index = self.index.take().unwrap_or_else(|| Index::begin(path));
        // What the index vouches for is on the disk before it.
        let noted = self
            .file
            .sync_data()
            .and_then(|()| index.note(&self.state, &self.file, self.end));
        match noted {
            Ok(()) => self.index = Some(index),
            // Without it the video is read as a whole by whoever goes on; it is begun anew with the next chunk.
            Err(cause) => {
                log::debug!("the index of {} is not kept: {cause}", path.display());
                index::remove(path);
            }
        }
    }

    /// The number of each track's sample description, video first; one that is new is entered at the front.
    fn describe(&mut self, init: &Init, head: &Head, path: &Path) -> Result<[u32; 2], JoinError> {
        let mut numbers = [0; 2];
        let mut tracks = self.state.tracks.clone();
        let mut new = Vec::new();
        for out in &mut tracks {
            let part = match out.media {
                Media::Video => head.video.as_ref(),
                Media::Audio => head.audio.as_ref(),
            };
            let Some((track, part)) = init.track(out.media).zip(part) else {
                continue;
            };
            let Some(entry) = track.entries.get(part.description as usize) else {
                continue;
            };
            let known = out.entries.iter().position(|known| known == entry);
            numbers[(out.id() - 1) as usize] = known.unwrap_or(out.entries.len()) as u32;
            if known.is_none() {
                out.entries.push(entry.clone());
                new.push(out.media);
            }
        }
        if !new.is_empty() {
            self.describe_anew(tracks, &new, head.start(), path)?;
        }
        Ok(numbers)
    }

    fn describe_anew(
        &mut self,
        tracks: Vec<TrackOut>,
        new: &[Media],
        at: Timestamp,
        path: &Path,
    ) -> Result<(), JoinError> {
        let bad = JoinError::media("a fragment that is encoded otherwise");
        let front = front(&tracks, self.state.front).map_err(bad)?;
        self.unfinish(path)?;
        self.file
            .write_all_at(&front, self.state.placeholder + PLACEHOLDER)
            .map_err(JoinError::io("write to the front of", path))?;
        self.state.tracks = tracks;
        for media in new {
            let what = if *media == Media::Video {
                "picture"
            } else {
                "sound"
            };
            let text = format!(
                "from {at} on the {what} is encoded otherwise than before; some players (browsers based on Chromium) stop there"
            );
            self.write_mark(&Mark::Note { text: text.clone() }, path)?;
            self.state.ledger.note(text);
        }
        Ok(())
    }

    pub(super) fn write_mark(&mut self, mark: &Mark, path: &Path) -> Result<(), JoinError> {
        let mut bytes = Vec::new();
        mark.write(&mut bytes).map_err(JoinError::media("a note"))?;
        self.unfinish(path)?;
        self.file
            .write_all_at(&bytes, self.end)
            .map_err(JoinError::io("append to", path))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn sync(&self, path: &Path) -> Result<(), JoinError> {
        self.file.sync_data().map_err(JoinError::io("write", path))
    }

    pub(super) fn moov(&self, path: &Path) -> Result<Vec<u8>, JoinError> {
        moov::finished(&self.state.tracks, &self.state.tables)
            .map_err(JoinError::media(path.display()))
    }

    /// The `moov` first and flushed, then the 16 bytes that bring it into force.
    pub(super) fn finish(&mut self, moov: &[u8], path: &Path) -> Result<(), JoinError> {
        if self.form == Form::Finished {
            return Ok(());
        }
        reserve::release(path);
        let ended = self.write_end(moov);
        if ended.is_err() {
            // The header first: in force without its `moov` it would make the whole file unreadable. Where it cannot be
            // taken back, the `moov` stays.
            let growing = moov::free(PLACEHOLDER);
            let taken_back = self.file.write_all_at(&growing, self.state.placeholder);
            if taken_back.is_ok() {
                // A part of a `moov` would only be in the way of who reads, or goes on.
                let _ = self.file.set_len(self.end);
            }
        }
        ended.map_err(JoinError::io("finish", path))?;
        self.form = Form::Finished;
        self.index = None;
        index::remove(path);
        Ok(())
    }

    fn write_end(&self, moov: &[u8]) -> io::Result<()> {
        let placeholder = self.state.placeholder;
        self.file.write_all_at(moov, self.end)?;
        self.file.set_len(self.end + moov.len() as u64)?;
        self.file.sync_all()?;
        let header = moov::media_header(self.end - placeholder);
        self.file.write_all_at(&header, placeholder)?;
        self.file.sync_all()
    }

    /// Makes a finished file one that grows again.
    pub(super) fn unfinish(&mut self, path: &Path) -> Result<(), JoinError> {
        if self.form == Form::Growing {
            return Ok(());
        }
        let fault = JoinError::io("go on with", path);
        self.file
            .write_all_at(&moov::free(PLACEHOLDER), self.state.placeholder)
            .map_err(&fault)?;
        self.file.set_len(self.end).map_err(&fault)?;
        self.form = Form::Growing;
        Ok(())
    }
}

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// Nothing of it can be shown.
    Nothing,
    Seamlessly,
    AfterAGap,
}

/// So many bytes are read at once where only that they can be read matters.
const READ_THROUGH: usize = 64 << 10;

/// Media that is to be copied.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    Memory(&'a [u8]),
    File { file: &'a File, at: u64, len: u64 },
}

impl Payload<'_> {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Whether the system reads it.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn read_through(&self) -> io::Result<()> {
        let Self::File { file, at, len } = *self else {
            return Ok(());
        };
        let mut buffer = vec![0; READ_THROUGH];
        let mut read = 0;
        while read < len {
            let wanted = buffer.len().min((len - read) as usize);
            file.read_exact_at(&mut buffer[..wanted], at + read)?;
            read += wanted as u64;
        }
        Ok(())
    }

    /// Without its first `skipped` bytes.
    fn from(self, skipped: u64) -> Self {
        match self {
            Self::Memory(bytes) => Self::Memory(bytes.get(skipped as usize..).unwrap_or(&[])),
            Self::File { file, at, len } => {
                let skipped = skipped.min(len);
                Self::File {
                    file,
                    at: at + skipped,
                    len: len - skipped,
                }
            }
        }
    }
}

/// Writes `bytes` and then the media at `at`.
fn write(mut file: &File, at: u64, bytes: &[u8], media: Payload<'_>) -> io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)?;
    match media {
        Payload::Memory(media) => file.write_all(media),
        Payload::File {
            file: mut source,
            at,
            len,
        } => {
            source.seek(SeekFrom::Start(at))?;
            match io::copy(&mut source.take(len), &mut file)? {
                copied if copied == len => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

fn new_track(track: &Track, clock: &MediaClock) -> TrackOut {
    let track_clock = match track.media {
        Media::Video => Some(&clock.video),
        Media::Audio => clock.audio.as_ref(),
    };
    TrackOut {
        media: track.media,
        timescale: track.timescale,
        size: track.size,
        lead: track_clock.map_or(0, |track_clock| track_clock.lead),
        entries: track.entries.clone(),
    }
}

/// The `moov` for fragments, padded to `room` bytes.
fn front(tracks: &[TrackOut], room: u64) -> Result<Vec<u8>, Malformed> {
    let mut bytes = moov::growing(tracks)?;
    match room.checked_sub(bytes.len() as u64) {
        Some(left) if left >= 8 => bytes.extend_from_slice(&moov::free(left)),
        Some(0) => {}
        _ => {
            return Err(Malformed::new(
                "its encoding changed so often that the file has no room for one more",
            ));
        }
    }
    Ok(bytes)
}
