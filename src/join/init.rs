//! How a stream begins: its boxes before the first fragment say how all that follow are to be read, and the recorder's record
//! among them when and where they were recorded.

use super::Malformed;
use super::boxes::{self, Header};
use super::fragment::LATEST;
use super::mark::Mark;
use super::stream::StreamRecord;
use bytes::Bytes;
use mp4_atom::{Elst, Hdlr, Mdhd, Tkhd, Trex};
use std::sync::Arc;

/// The finest time scale that is believed, in ticks a second: with [`LATEST`] no sum of stamps leaves 64 bits.
const FINEST: u32 = 1_000_000_000;

/// The start of a stream: `ftyp` and `moov`.
#[derive(Clone, Debug, PartialEq)]
pub struct Init {
    bytes: Bytes,
    pub(super) tracks: Vec<Track>,
    pub(super) record: Option<Arc<StreamRecord>>,
}

/// One track of an [`Init`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Track {
    pub(super) id: u32,
    pub(super) media: Media,
    pub(super) timescale: u32,
    /// Width and height as `tkhd` shows them, in pixels.
    pub(super) size: (u16, u16),
    /// The sample descriptions, whole boxes, as they are.
    pub(super) entries: Vec<Bytes>,
    /// Where the edit list says the presentation begins.
    pub(super) edit: Edit,
    pub(super) defaults: Trex,
}

/// Where a track's presentation begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Edit {
    /// In the track's time scale.
    pub(super) media_time: u64,
}

/// What a track shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Media {
    Video,
    Audio,
}

impl Init {
    /// The bytes a chunk file begins with.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether there is sound.
    pub fn has_audio(&self) -> bool {
        self.track(Media::Audio).is_some()
    }

    /// The same with a record of the stream between the two boxes, where players skip it.
    pub fn with_record(&self, record: StreamRecord) -> Self {
        let mut between = Vec::new();
        let mark = Mark::Stream {
            record: record.clone(),
        };
        let kind = Header::read(&self.bytes).ok().flatten();
        let Some((kind, ())) = kind
            .filter(|kind| kind.kind == *b"ftyp")
            .zip(mark.write(&mut between).ok())
        else {
            return self.clone();
        };
        let (kind, moov) = self.bytes.split_at(kind.len as usize);
        Self {
            bytes: [kind, &between, moov].concat().into(),
            record: Some(Arc::new(record)),
            ..self.clone()
        }
    }

    pub(super) fn track(&self, media: Media) -> Option<&Track> {
        self.tracks.iter().find(|track| track.media == media)
    }

    /// Reads the two boxes, each with its header; behind the first may be the stream's record.
    pub(super) fn read(kind: Bytes, moov: Bytes) -> Result<Self, Malformed> {
        let body = moov
            .get(8..)
            .ok_or_else(|| Malformed::new("the moov is cut off"))?;
        let extends = boxes::maybe_child(body, b"mvex")?
            .ok_or_else(|| Malformed::new("it is a plain MP4, not a fragmented one"))?;
        let defaults = boxes::children(extends)
            .filter_map(|found| match found {
                Ok((kind, body)) if kind == *b"trex" => Some(boxes::decode::<Trex>(body)),
                Ok(_) => None,
                Err(fault) => Some(Err(fault)),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut tracks = Vec::new();
        for found in boxes::children(body) {
            if let (kind, body) = found?
                && kind == *b"trak"
                && let Some(track) = Track::read(body, &defaults)?
            {
                tracks.push(track);
            }
        }
        tracks.sort_by_key(|track| track.media);
        if tracks
            .first()
            .is_none_or(|track| track.media != Media::Video)
        {
            return Err(Malformed::new("it has no video track"));
        }
        Ok(Self {
            bytes: [&kind[..], &moov[..]].concat().into(),
            tracks,
            record: record_in(&kind).map(Arc::new),
        })
    }
}

impl Track {
    fn read(trak: &[u8], defaults: &[Trex]) -> Result<Option<Self>, Malformed> {
        let header: Tkhd = boxes::decode(boxes::child(trak, b"tkhd")?)?;
        let mdia = boxes::child(trak, b"mdia")?;
        let media = match boxes::decode::<Hdlr>(boxes::child(mdia, b"hdlr")?)?
            .handler
            .as_ref()
        {
            b"vide" => Media::Video,
            b"soun" => Media::Audio,
            _ => return Ok(None),
        };
        let timescale = boxes::decode::<Mdhd>(boxes::child(mdia, b"mdhd")?)?.timescale;
        if !(1..=FINEST).contains(&timescale) {
            return Err(Malformed::new("a track's time scale is out of range"));
        }
        let stsd = boxes::descend(mdia, &[b"minf", b"stbl", b"stsd"])?;
        let defaults = defaults
            .iter()
            .find(|trex| trex.track_id == header.track_id)
            .cloned();
        Ok(Some(Self {
            id: header.track_id,
            media,
            timescale,
            size: (header.width.integer(), header.height.integer()),
            entries: entries(stsd)?,
            edit: Edit::read(trak)?,
            defaults: defaults.unwrap_or_default(),
        }))
    }
}

impl Edit {
    fn read(trak: &[u8]) -> Result<Self, Malformed> {
        let Some(edts) = boxes::maybe_child(trak, b"edts")? else {
            return Ok(Self::default());
        };
        let list: Elst = boxes::decode(boxes::child(edts, b"elst")?)?;
        let media_time = list
            .entries
            .iter()
            .find_map(|entry| entry.media_time)
            .unwrap_or(0);
        if media_time > LATEST * u64::from(FINEST) {
            return Err(Malformed::new("an edit list's time is out of range"));
        }
        Ok(Self { media_time })
    }
}

fn entries(stsd: &[u8]) -> Result<Vec<Bytes>, Malformed> {
    let body = stsd
        .get(8..)
        .ok_or_else(|| Malformed::new("the stsd is cut off"))?;
    let entries = boxes::children(body)
        .map(|found| {
            let (kind, body) = found?;
            let mut entry = Vec::with_capacity(body.len() + 8);
            boxes::wrap::<Malformed>(&mut entry, &kind, |out| {
                out.extend_from_slice(body);
                Ok(())
            })?;
            Ok(Bytes::from(entry))
        })
        .collect::<Result<Vec<_>, Malformed>>()?;
    match entries.is_empty() {
        true => Err(Malformed::new("a track has no sample description")),
        false => Ok(entries),
    }
}

/// Adds a box to what stands before a `moov`, where it is the first record of the stream.
pub(super) fn take_record(before: &mut Bytes, uuid: &[u8]) {
    if record_in(before).is_none() && record_in(uuid).is_some() {
        *before = [&before[..], uuid].concat().into();
    }
}

/// The record in the first `uuid` box of `bytes` that has one.
fn record_in(bytes: &[u8]) -> Option<StreamRecord> {
    let boxes = boxes::children(bytes).map_while(Result::ok);
    let mut marks =
        boxes.filter_map(|(kind, body)| (kind == *b"uuid").then(|| Mark::read(body))?);
    marks.find_map(|mark| match mark {
        Mark::Stream { record } => Some(record).filter(StreamRecord::is_believed),
        _ => None,
    })
}
