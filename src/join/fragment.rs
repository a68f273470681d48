//! What ffmpeg writes, taken apart: an [`Init`] says how to read the fragments that follow, a [`Fragment`] is a fifth of a second
//! of sound and picture with the wall clock in its stamps. Nothing here knows of files or of the joined video.

use super::Malformed;
use super::boxes::{self, Header, Kind};
use super::init::{Init, Media, Track, take_record};
use super::silence;
use crate::clock::Timestamp;
use bytes::{Bytes, BytesMut};
use mp4_atom::{Moof, Trun};
use std::ops::Range;
use std::sync::Arc;

/// The longest box but `mdat` that is believed.
pub(super) const LONGEST_BOX: u64 = 4 << 20;
/// The longest `mdat` that is held in memory: a fragment of video is a hundredth of it.
pub(super) const LONGEST_MEDIA: u64 = 128 << 20;
/// The latest stamp that is believed, in seconds: in the year 2106.
pub(super) const LATEST: u64 = u32::MAX as u64;
/// The most samples of one track in one fragment.
const MOST_SAMPLES: usize = 1 << 16;
/// The sample flag that says a sample needs others to be decoded.
pub(super) const NOT_SYNC: u32 = 1 << 16;

/// Cuts ffmpeg's output into what it consists of, as it arrives.
#[derive(Debug, Default)]
pub struct Splitter {
    buffer: BytesMut,
    kind: Option<Bytes>,
    init: Option<Arc<Init>>,
    /// By how many microseconds sound is stamped later than it came in.
    delay: i64,
}

/// One piece of ffmpeg's output.
#[derive(Clone, Debug)]
pub enum Piece {
    /// The start of a stream: how to read what follows.
    Init(Arc<Init>),
    /// A fifth of a second of it.
    Fragment(Fragment),
}

impl Splitter {
    /// A splitter at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has all sound stamped later by so many microseconds, or earlier where there are less than none.
    pub fn delay_sound(&mut self, microseconds: i64) {
        self.delay = microseconds;
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The bytes that are held because they are no whole piece yet.
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole piece; `None` until more bytes are there.
    ///
    /// # Errors
    /// When the stream is no fragmented MP4. The splitter is of no use then.
    #[allow(clippy::should_implement_trait)] // it is asked again after `None`
    pub fn next(&mut self) -> Result<Option<Piece>, Malformed> {
        while let Some(header) = Header::read(&self.buffer)? {
            let taken = match &header.kind {
                b"moof" => self.fragment(header)?.map(Some),
                b"mdat" => {
                    return Err(Malformed::new(
                        "an mdat box stands where a moof was expected",
                    ));
                }
                _ => self.other(header)?,
            };
            match taken {
                Some(Some(piece)) => return Ok(Some(piece)),
                Some(None) => {}
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// `None`: more bytes are needed; `Some(None)`: a box without meaning to us is gone.
    fn other(&mut self, header: Header) -> Result<Option<Option<Piece>>, Malformed> {
        let Some(bytes) = self.take(header.len, LONGEST_BOX, header.kind)? else {
            return Ok(None);
        };
        let bytes = bytes.freeze();
        match &header.kind {
            b"ftyp" => self.kind = Some(bytes),
            b"uuid" => {
                if let Some(kind) = &mut self.kind {
                    take_record(kind, &bytes);
                }
            }
            b"moov" => {
                let init = Arc::new(Init::read(self.kind.take().unwrap_or_default(), bytes)?);
                self.init = Some(Arc::clone(&init));
                return Ok(Some(Some(Piece::Init(init))));
            }
            _ => {}
        }
        Ok(Some(None))
    }

    fn fragment(&mut self, moof: Header) -> Result<Option<Piece>, Malformed> {
        limit(moof.len, LONGEST_BOX, moof.kind)?;
        let Some(after) = self.buffer.get(moof.len as usize..) else {
            return Ok(None);
        };
        let Some(mdat) = Header::read(after)? else {
            return Ok(None);
        };
        if mdat.kind != *b"mdat" {
            return Err(Malformed::new(format!(
                "{} follows a moof instead of mdat",
                boxes::name(mdat.kind)
            )));
        }
        limit(mdat.len, LONGEST_MEDIA, mdat.kind)?;
        let most = LONGEST_BOX + LONGEST_MEDIA;
        let Some(mut bytes) = self.take(moof.len + mdat.len, most, moof.kind)? else {
            return Ok(None);
        };
        let init = self
            .init
            .as_ref()
            .ok_or_else(|| Malformed::new("a moof comes before any moov"))?;
        if let Some(track) = init.track(Media::Audio).filter(|_| self.delay != 0) {
            let ticks = rescale(self.delay, 1_000_000, track.timescale);
            delay(&mut bytes[..moof.len as usize], track.id, ticks)?;
        }
        let bytes = bytes.freeze();
        let head = Head::read(&bytes[..moof.len as usize], bytes.len() as u64, init)?;
        Ok(Some(Piece::Fragment(Fragment { bytes, head })))
    }

    fn take(&mut self, len: u64, most: u64, kind: Kind) -> Result<Option<BytesMut>, Malformed> {
        limit(len, most, kind)?;
        let len = len as usize;
        if self.buffer.len() < len {
            self.buffer.reserve(len - self.buffer.len());
            return Ok(None);
        }
        Ok(Some(self.buffer.split_to(len)))
    }
}

/// Moves the decode time of track `id` in a `moof` by `ticks`.
fn delay(moof: &mut [u8], id: u32, ticks: i64) -> Result<(), Malformed> {
    let mut stamps = Vec::new();
    for traf in boxes::spans(moof, 8..moof.len()) {
        let (_, traf) = traf?;
        let parts = || boxes::spans(moof, traf.clone()).flatten();
        let is_its = |(kind, body): (Kind, Range<usize>)| {
            kind == *b"tfhd" && boxes::be32(moof, body.start + 4) == Some(id)
        };
        if parts().any(is_its) {
            stamps.extend(parts().filter(|(kind, _)| kind == b"tfdt"));
        }
    }
    for (_, body) in stamps {
        let at = body.start + 4;
        // the first byte is the version: with 1 the stamp is 64 bits wide
        let width = if moof.get(body.start) == Some(&1) {
            8
        } else {
            4
        };
        let field = moof.get_mut(at..(at + width).min(body.end));
        let field = field.filter(|field| field.len() == width);
        let field = field.ok_or_else(|| Malformed::new("a fragment's decode time is cut off"))?;
        let was = field
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let now = was.saturating_add_signed(ticks).to_be_bytes();
        field.copy_from_slice(&now[8 - width..]);
    }
    Ok(())
}

pub(super) fn limit(len: u64, most: u64, kind: Kind) -> Result<(), Malformed> {
    match len <= most {
        true => Ok(()),
        false => Err(Malformed::new(format!(
            "the box {} claims {len} bytes",
            boxes::name(kind)
        ))),
    }
}

/// A fifth of a second of a stream: a `moof` and its `mdat`.
#[derive(Clone, Debug)]
pub struct Fragment {
    /// Both boxes, as ffmpeg wrote them but for the stamps of sound; see [`Splitter::delay_sound`].
    pub bytes: Bytes,
    pub(super) head: Head,
}

impl Fragment {
    /// Wall clock of its first frame, or of its first sound when it has no frame.
    pub fn start(&self) -> Timestamp {
        self.head.start()
    }

    /// Wall clock of the end of its last frame, or of its last sound when it has no frame.
    pub fn end(&self) -> Timestamp {
        self.head.end()
    }

    /// Whether its first frame can be decoded without any before it: where a chunk may begin.
    pub fn starts_with_keyframe(&self) -> bool {
        self.head.starts_with_keyframe()
    }

    /// How many frames are in it.
    pub fn frames(&self) -> usize {
        self.head
            .video
            .as_ref()
            .map_or(0, |video| video.samples.len())
    }

    /// Whether there is sound in it.
    pub fn has_sound(&self) -> bool {
        self.head.audio.is_some()
    }
}

/// What a `moof` says.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Of the `moof`.
    pub(super) moof_len: u32,
    /// Of both boxes.
    pub(super) len: u64,
    pub(super) video: Option<TrackFragment>,
    pub(super) audio: Option<TrackFragment>,
}

/// One track's part of a fragment.
#[derive(Clone, Debug)]
pub(super) struct TrackFragment {
    /// Decode time of the first sample: the wall clock, or in our own file the media time.
    pub(super) start: u64,
    pub(super) timescale: u32,
    /// Which of the track's sample descriptions, from 0.
    pub(super) description: u32,
    pub(super) samples: Vec<Sample>,
}

/// One frame of video, or one packet of sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// From the start of the `moof`.
    pub(super) at: u64,
    pub(super) size: u32,
    pub(super) duration: u32,
    /// Presentation time less decode time.
    pub(super) shown: i32,
    pub(super) sync: bool,
}

impl Head {
    /// Reads `moof`, header included, of a fragment of `len` bytes.
    pub(super) fn read(moof: &[u8], len: u64, init: &Init) -> Result<Self, Malformed> {
        let body = moof
            .get(8..)
            .ok_or_else(|| Malformed::new("a moof is cut off"))?;
        boxes::check_fragment(body)?;
        let moof_len = moof.len() as u32;
        let mut head = Self {
            moof_len,
            len,
            video: None,
            audio: None,
        };
        for traf in boxes::decode::<Moof>(body)?.traf {
            let Some(track) = init
                .tracks
                .iter()
                .find(|track| track.id == traf.tfhd.track_id)
            else {
                continue;
            };
            let part = TrackFragment::read(&traf, track, u64::from(moof_len)..len)?;
            let place = match track.media {
                Media::Video => &mut head.video,
                Media::Audio => &mut head.audio,
            };
            if place.is_some() {
                return Err(Malformed::new("a fragment names a track twice"));
            }
            *place = part;
        }
        match head.video.is_some() || head.audio.is_some() {
            true => Ok(head),
            false => Err(Malformed::new("a fragment has neither picture nor sound")),
        }
    }

    pub(super) fn start(&self) -> Timestamp {
        let first = self.video.as_ref().or(self.audio.as_ref());
        first.map_or(Timestamp::default(), |part| {
            stamp(part.shown(), part.timescale)
        })
    }

    pub(super) fn end(&self) -> Timestamp {
        let first = self.video.as_ref().or(self.audio.as_ref());
        first.map_or(Timestamp::default(), |part| {
            stamp(
                part.shown().saturating_add_unsigned(part.duration()),
                part.timescale,
            )
        })
    }

    pub(super) fn starts_with_keyframe(&self) -> bool {
        self.video
            .as_ref()
            .is_some_and(TrackFragment::starts_in_sync)
    }
}

impl TrackFragment {
    fn read(
        traf: &mp4_atom::Traf,
        track: &Track,
        media: std::ops::Range<u64>,
    ) -> Result<Option<Self>, Malformed> {
        let tfhd = &traf.tfhd;
        if tfhd.base_data_offset.is_some() {
            return Err(Malformed::new(
                "a fragment places its samples from the start of the file",
            ));
        }
        let start = traf
            .tfdt
            .as_ref()
            .ok_or_else(|| Malformed::new("a fragment has no decode time"))?;
        let duration = tfhd
            .default_sample_duration
            .unwrap_or(track.defaults.default_sample_duration);
        let size = tfhd
            .default_sample_size
            .unwrap_or(track.defaults.default_sample_size);
        let flags = tfhd
            .default_sample_flags
            .unwrap_or(track.defaults.default_sample_flags);
        let mut samples = Vec::new();
        let mut at = media.start;
        for trun in &traf.trun {
            at = offset(trun, at)?;
            if samples.len() + trun.samples.len() > MOST_SAMPLES {
                return Err(Malformed::new("a fragment has too many samples"));
            }
            for entry in &trun.samples {
                let sample = Sample {
                    at,
                    size: entry.size.unwrap_or(size),
                    duration: entry.duration.unwrap_or(duration),
                    shown: entry.cts.unwrap_or(0) as i32,
                    sync: entry.flags.unwrap_or(flags) & NOT_SYNC == 0,
                };
                at += u64::from(sample.size);
                if sample.at < media.start || at > media.end {
                    return Err(Malformed::new("a sample lies outside of its fragment"));
                }
                samples.push(sample);
            }
        }
        let start = start.base_media_decode_time;
        if start / u64::from(track.timescale) > LATEST {
            return Err(Malformed::new("a fragment's time is out of range"));
        }
        let description = tfhd.sample_description_index.unwrap_or(1).saturating_sub(1);
        if description as usize >= track.entries.len() {
            return Err(Malformed::new(
                "a fragment names a sample description that is not there",
            ));
        }
        let part = Self {
            start,
            timescale: track.timescale,
            description,
            samples,
        };
        Ok((!part.samples.is_empty()).then_some(part))
    }

    /// The sum of the durations.
    pub(super) fn duration(&self) -> u64 {
        self.samples
            .iter()
            .map(|sample| u64::from(sample.duration))
            .sum()
    }

    pub(super) fn starts_in_sync(&self) -> bool {
        self.samples.first().is_some_and(|sample| sample.sync)
    }

    /// When the first sample is shown.
    pub(super) fn shown(&self) -> i64 {
        let first = self.samples.first().map_or(0, |sample| sample.shown);
        self.start as i64 + i64::from(first)
    }

    /// The same part in another time scale; every boundary is rounded by itself, so that no error adds up.
    pub(super) fn rescaled(&self, timescale: u32) -> Self {
        if timescale == self.timescale {
            return self.clone();
        }
        let to = |ticks: i64| rescale(ticks, self.timescale, timescale);
        let start = to(self.start as i64);
        let mut source = self.start as i64;
        let mut begin = start;
        let samples = self.samples.iter().map(|sample| {
            source += i64::from(sample.duration);
            let end = to(source);
            let duration = u32::try_from(end - begin).unwrap_or(u32::MAX);
            begin = end;
            Sample {
                duration,
                shown: to(i64::from(sample.shown)) as i32,
                ..*sample
            }
        });
        Self {
            samples: samples.collect(),
            start: start as u64,
            timescale,
            ..*self
        }
    }

    /// The length in samples of one packet of sound, where silence of that kind can be made.
    pub(super) fn packet(track: &Track, description: u32) -> Option<silence::Packet> {
        silence::Packet::like(track.entries.get(description as usize)?)
    }
}

fn offset(trun: &Trun, after: u64) -> Result<u64, Malformed> {
    match trun.data_offset {
        None => Ok(after),
        Some(at) => {
            u64::try_from(at).map_err(|_| Malformed::new("a fragment's samples lie before it"))
        }
    }
}

/// `ticks` of one time scale in another, to the nearest.
pub(super) fn rescale(ticks: i64, from: u32, to: u32) -> i64 {
    let (from, to) = (i128::from(from), i128::from(to));
    let scaled = (i128::from(ticks) * to * 2 + from).div_euclid(from * 2);
    scaled.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// A stamp of the wall clock from ticks since the Unix epoch.
pub(super) fn stamp(ticks: i64, timescale: u32) -> Timestamp {
    Timestamp::from_millis(rescale(ticks, timescale, 1_000))
}
