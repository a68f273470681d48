//! Reading a video back: everything needed to go on is in the file itself.

use super::super::boxes::{self, Header};
use super::super::init::{Init, Media};
use super::super::ledger::Entered;
use super::super::mark::{LAYOUT, Mark};
use super::super::moov;
use super::super::place::Gap;
use super::super::source::{self, Found, Trouble, Window};
use super::super::stream::StreamRecord;
use super::super::{JoinError, Malformed, Options, Origin};
use super::append::PLACEHOLDER;
use super::index::Index;
use super::mux::wall;
use super::state::State;
use crate::model::timeline::Timeline;
use mp4_atom::Prft;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// How much is searched at once for what may lie behind a damage.
const SEARCHED: usize = 1 << 20;

/// A file that was read.
#[derive(Debug)]
pub(in crate::join) struct Scanned {
    pub(in crate::join) state: State,
    pub(super) take: Option<Mark>,
    /// Where the last whole fragment ends.
    pub(in crate::join) end: u64,
    pub(in crate::join) form: Form,
    /// Whether it is broken in its middle.
    pub(super) damaged: bool,
    /// What was noted beside it, where that was of use.
    pub(super) index: Option<Index>,
    /// Where the media of every fragment lies.
    pub(in crate::join) media: Vec<MediaSpan>,
}

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::join) enum Form {
    /// With fragments: it can grow.
    Growing,
    /// With a `moov` that its front refers to: it is a regular MP4.
    Finished,
    /// With fragments, though its front says that a `moov` follows: who finished it, or copied it, did not come to its end.
    HalfFinished,
}

/// Where a fragment's `mdat` lies, and what chunk it is from.
#[derive(Clone, Copy, Debug)]
pub(in crate::join) struct MediaSpan {
    pub(in crate::join) origin: Option<Origin>,
    pub(in crate::join) at: u64,
    pub(in crate::join) len: u64,
}

impl State {
    /// Reads a file; `None` when it is none of ours.
    pub(in crate::join) fn scan(file: &File, path: &Path) -> Result<Option<Scanned>, JoinError> {
        Self::read(file, path, None)
    }

    /// The same with the help of the index beside the video at `path`, but not what lies where.
    pub(super) fn scan_indexed(file: &File, path: &Path) -> Result<Option<Scanned>, JoinError> {
        Self::read(file, path, Some(path))
    }

    fn read(
        file: &File,
        path: &Path,
        indexed: Option<&Path>,
    ) -> Result<Option<Scanned>, JoinError> {
        match Scan::run(file, indexed) {
            Ok(scanned) => Ok(scanned),
            Err(Trouble::Malformed(_)) => Ok(None),
            Err(Trouble::Io(cause)) => Err(JoinError::Io {
                act: "read",
                path: path.to_owned(),
                cause,
            }),
        }
    }
}

impl Scanned {
    /// The `moov` that the file must end with.
    pub(in crate::join) fn moov(&self) -> Result<Vec<u8>, Malformed> {
        moov::finished(&self.state.tracks, &self.state.tables)
    }

    /// What the video is made from.
    pub(in crate::join) fn timeline(&self) -> Option<Timeline> {
        match &self.take {
            Some(Mark::Take {
                recording,
                take,
                gaps,
                ..
            }) => {
                let options = Options {
                    recording: recording.clone(),
                    take: take.clone(),
                    gap_mode: *gaps,
                };
                Some(self.state.ledger.timeline(&options, &self.state.clock))
            }
            _ => None,
        }
    }

    pub(super) fn is_of(&self, options: &Options) -> bool {
        matches!(&self.take, Some(Mark::Take { layout: LAYOUT, recording, take, .. })
            if *recording == options.recording && *take == options.take)
    }
}

/// Reads a file from its front to its last whole fragment.
struct Scan<'a> {
    window: Window<'a>,
    at: u64,
    init: Init,
    state: State,
    take: Option<Mark>,
    /// Notes that hold for the next fragment.
    origin: Option<Origin>,
    cause: Option<String>,
    reference: Option<Prft>,
    /// The end of the last whole fragment or note that stands alone.
    whole: u64,
    media: Vec<MediaSpan>,
}

impl<'a> Scan<'a> {
    /// Reads `file` from its front, or from what the index of the video at `indexed` says.
    fn run(file: &'a File, indexed: Option<&Path>) -> Result<Option<Scanned>, Trouble> {
        let Some((mut scan, form)) = Self::front(file)? else {
            return Ok(None);
        };
        let index = match indexed {
            Some(video) => scan.restore(video, file)?,
            None => None,
        };
        loop {
            match scan.step() {
                Ok(Some(())) => {}
                // what is broken ends what is whole, and is no fault
                Ok(None) | Err(Trouble::Malformed(_)) => break,
                Err(Trouble::Io(cause)) => return Err(cause.into()),
            }
        }
        let damaged = match form {
            Form::Finished => scan.whole != scan.window.end,
            Form::Growing | Form::HalfFinished => scan.goes_on_behind(file)?,
        };
        let begun = scan.state.ledger.last().is_some();
        Ok(begun.then_some(Scanned {
            state: scan.state,
            take: scan.take,
            end: scan.whole,
            form,
            damaged,
            index,
            media: scan.media,
        }))
    }

    /// Takes over what the index knows. The note of whose recording it is stands before the first chunk.
    fn restore(&mut self, video: &Path, file: &File) -> Result<Option<Index>, Trouble> {
        let noted = self.step();
        if !matches!(noted, Ok(Some(()))) || self.take.is_none() {
            return Ok(None);
        }
        let index = Index::restore(video, file, self.window.end, &mut self.state)?;
        if let Some(index) = &index {
            (self.at, self.whole) = (index.end(), index.end());
        }
        Ok(index)
    }

    /// Whether whole fragments lie behind the place where the last one that can be read ends: then it was not the end that was
    /// lost with whoever wrote it.
    fn goes_on_behind(&mut self, file: &File) -> Result<bool, Trouble> {
        const KIND: usize = 4;
        let mut bytes = vec![0; SEARCHED];
        let mut at = self.whole;
        loop {
            let count = file.read_at(&mut bytes, at)?;
            let found = bytes[..count].windows(KIND).enumerate();
            for (place, _) in found.filter(|(_, kind)| *kind == b"moof") {
                let Some(start) = (at + place as u64).checked_sub(KIND as u64) else {
                    continue;
                };
                if start > self.whole && self.is_fragment(start)? {
                    return Ok(true);
                }
            }
            if count <= KIND {
                return Ok(false);
            }
            at += (count - KIND + 1) as u64;
        }
    }

    fn is_fragment(&mut self, at: u64) -> Result<bool, Trouble> {
        let whole = match self.window.header(at) {
            Ok(Some(header)) => source::fragment(&mut self.window, at, &header, &self.init),
            other => other.map(|_| None),
        };
        match whole {
            Ok(found) => Ok(found.is_some()),
            Err(Trouble::Malformed(_)) => Ok(false),
            Err(io) => Err(io),
        }
    }

    fn front(file: &'a File) -> Result<Option<(Self, Form)>, Trouble> {
        let mut window = Window::new(file)?;
        let Some(ftyp) = window.header(0)?.filter(|header| header.kind == *b"ftyp") else {
            return Ok(None);
        };
        let placeholder = ftyp.len;
        let form = match Header::read(window.part(placeholder, PLACEHOLDER)?)? {
            Some(header) if header.kind == *b"free" && header.len == PLACEHOLDER => Form::Growing,
            Some(header) if header.kind == *b"mdat" && header.head == PLACEHOLDER => {
                let end = placeholder.saturating_add(header.len);
                match window.header(end)? {
                    Some(moov) if moov.kind == *b"moov" => {
                        window.end = end;
                        Form::Finished
                    }
                    _ => Form::HalfFinished,
                }
            }
            _ => return Ok(None),
        };
        let at = placeholder + PLACEHOLDER;
        let Some(moov) = window.header(at)?.filter(|header| header.kind == *b"moov") else {
            return Ok(None);
        };
        let moov_bytes = bytes::Bytes::copy_from_slice(window.whole(at, &moov)?);
        let init = Init::read(bytes::Bytes::new(), moov_bytes)?;
        let padding = window
            .header(at + moov.len)?
            .filter(|header| header.kind == *b"free");
        let front = moov.len + padding.map_or(0, |header| header.len);
        let state = State::of_front(placeholder, front, &init);
        let at = at + front;
        let scan = Self {
            window,
            at,
            init,
            state,
            take: None,
            origin: None,
            cause: None,
            reference: None,
            whole: at,
            media: Vec::new(),
        };
        Ok(Some((scan, form)))
    }

    /// One box on; `None` at the end.
    fn step(&mut self) -> Result<Option<()>, Trouble> {
        let Some(header) = self.window.header(self.at)? else {
            return Ok(None);
        };
        let at = self.at;
        match &header.kind {
            b"uuid" => {
                let mark = Mark::read(&self.window.whole(at, &header)?[header.head as usize..]);
                self.at = at + header.len;
                mark.into_iter().for_each(|mark| self.mark(mark));
            }
            b"prft" => {
                let body = &self.window.whole(at, &header)?[header.head as usize..];
                self.reference = Some(boxes::decode(body)?);
                self.at = at + header.len;
            }
            b"moof" => {
                let Some(found) = source::fragment(&mut self.window, at, &header, &self.init)?
                else {
                    return Ok(None);
                };
                self.at = at + found.head.len;
                self.fragment(&found);
                self.media.push(MediaSpan {
                    origin: self.origin,
                    at: found.media_at(),
                    len: found.media_len(),
                });
                self.whole = self.at;
            }
            b"free" => {
                self.at = at + header.len;
                self.whole = self.at;
            }
            _ => return Ok(None),
        }
        Ok(Some(()))
    }

    fn mark(&mut self, mark: Mark) {
        match mark {
            Mark::Take { .. } => self.take = Some(mark),
            Mark::Chunk { run, index, record } => {
                self.origin = Some(Origin { run, index });
                self.state.record = record.filter(StreamRecord::is_believed).map(Arc::new);
            }
            // It stands in chunks.
            Mark::Stream { .. } => {}
            Mark::Gap { cause } => self.cause = Some(cause),
            Mark::Lost { run, index, bytes } => {
                self.state.ledger.lost(Origin { run, index }, bytes);
                self.whole = self.at;
            }
            Mark::Note { text } => {
                self.state.ledger.note(text);
                self.whole = self.at;
            }
        }
    }

    fn fragment(&mut self, found: &Found) {
        let state = &mut self.state;
        state.sequence += 1;
        if let Some(audio) = &found.head.audio {
            state.enter_track(Media::Audio, audio, found.at, audio.description);
            if let Some(track_clock) = &mut state.clock.audio {
                track_clock.next = audio.start + audio.duration();
            }
        }
        let Some(video) = &found.head.video else {
            return;
        };
        let starts = self
            .reference
            .take()
            .map_or(video.start as i64, |prft| wall(&prft, video.timescale));
        let first = state.ledger.last().is_none();
        let origin = self.origin.or(state.ledger.last());
        let Some(origin) = origin else { return };
        let clock = &mut state.clock;
        if first {
            clock.origin = starts - video.start as i64;
            clock.shown = video
                .samples
                .first()
                .map_or(0, |sample| i64::from(sample.shown));
        } else {
            let from = clock.video.next as i64 + clock.shift;
            if starts - from > i64::from(clock.frame / 2) {
                let cause = self
                    .cause
                    .take()
                    .unwrap_or_else(|| state.ledger.guess(origin));
                state.ledger.gap(
                    Gap { from, to: starts },
                    video.start,
                    video.timescale,
                    cause,
                );
            }
        }
        clock.shift = starts - video.start as i64;
        clock.video.next = video.start + video.duration();
        clock.frame = video
            .samples
            .last()
            .map_or(1, |sample| sample.duration.max(1));
        let entered = Entered {
            origin,
            starts,
            at: video.start,
            ticks: video.duration(),
            bytes: found.media_len(),
        };
        state.ledger.fragment(entered, video.timescale);
        state.enter_track(Media::Video, video, found.at, video.description);
    }
}
