//! The two `moov` boxes of a video: the one at the front, which says how to read the fragments while the file grows, and
//! the one at the end, which makes it a regular MP4.

use super::Malformed;
use super::boxes;
use super::fragment::{LONGEST_BOX, rescale};
use super::init::Media;
use super::table::{Table, put};
use bytes::Bytes;
use mp4_atom::{Dinf, Dref, Elst, ElstEntry, Ftyp, Hdlr, Mdhd, Mvhd, Smhd, Tkhd, Trex, Url, Vmhd};

/// A track of the joined video.
#[derive(Clone, Debug)]
pub(super) struct TrackOut {
    pub(super) media: Media,
    pub(super) timescale: u32,
    pub(super) size: (u16, u16),
    /// Where the presentation begins in the media.
    pub(super) lead: u64,
    /// Every sample description seen so far, whole boxes.
    pub(super) entries: Vec<Bytes>,
}

impl TrackOut {
    pub(super) const fn id(&self) -> u32 {
        match self.media {
            Media::Video => 1,
            Media::Audio => 2,
        }
    }
}

/// `ftyp` as every video begins.
pub(super) fn file_type() -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::new();
    let ftyp = Ftyp {
        major_brand: b"isom".into(),
        minor_version: 512,
        compatible_brands: [b"isom", b"iso2", b"avc1", b"iso6", b"mp41"]
            .map(Into::into)
            .to_vec(),
    };
    boxes::encode(&mut out, &ftyp)?;
    Ok(out)
}

/// The `moov` for fragments.
pub(super) fn growing(tracks: &[TrackOut]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::new();
    boxes::wrap(&mut out, b"moov", |out| {
        boxes::encode(out, &movie(movie_scale(tracks), 0))?;
        for track in tracks {
            let empty = Table::default();
            write_track(out, track, &empty, Length::Open)?;
        }
        boxes::wrap(out, b"mvex", |out| {
            tracks
                .iter()
                .try_for_each(|track| boxes::encode(out, &defaults(track)))
        })
    })?;
    match out.len() as u64 > LONGEST_BOX {
        true => Err(Malformed::new("the moov at the front would be too long")),
        false => Ok(out),
    }
}

/// The `moov` of the finished video.
pub(super) fn finished(tracks: &[TrackOut], tables: &[Table]) -> Result<Vec<u8>, Malformed> {
    let scale = movie_scale(tracks);
    let lengths: Vec<u64> = tracks
        .iter()
        .zip(tables)
        .map(|(track, table)| shown(track, table, scale))
        .collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut out = Vec::new();
    boxes::wrap(&mut out, b"moov", |out| {
        boxes::encode(out, &movie(scale, longest))?;
        for ((track, table), length) in tracks.iter().zip(tables).zip(lengths) {
            write_track(out, track, table, Length::Known { length, scale })?;
        }
        Ok::<_, Malformed>(())
    })?;
    Ok(out)
}

/// The most bytes that the `moov` of the finished video may have.
pub(super) fn most_bytes(tracks: &[TrackOut], tables: &[Table]) -> u64 {
    /// What a track, or the `moov` itself, has beside its samples.
    const HEADS: u64 = 1 << 10;
    let entries = tracks.iter().flat_map(|track| &track.entries);
    let entries: u64 = entries.map(|entry| entry.len() as u64).sum();
    let tables = tables.iter().map(|table| HEADS + table.most_bytes());
    HEADS + entries + tables.sum::<u64>()
}

/// How long a track is, in the movie's time scale.
#[derive(Clone, Copy)]
enum Length {
    /// It still grows.
    Open,
    Known {
        length: u64,
        scale: u32,
    },
}

/// How long `track` is shown, in the movie's time scale, from the start of the video.
fn shown(track: &TrackOut, table: &Table, scale: u32) -> u64 {
    let ticks = table.next().saturating_sub(track.lead);
    rescale(ticks as i64, track.timescale, scale) as u64
}

/// A scale in which every track's stamps are whole.
fn movie_scale(tracks: &[TrackOut]) -> u32 {
    let common = tracks.iter().try_fold(1u32, |scale, track| {
        let divisor = gcd(scale, track.timescale);
        (scale / divisor).checked_mul(track.timescale)
    });
    common.unwrap_or(90_000)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn movie(timescale: u32, duration: u64) -> Mvhd {
    Mvhd {
        timescale,
        duration,
        rate: 1.into(),
        volume: 1.into(),
        next_track_id: 3,
        ..Mvhd::default()
    }
}

fn defaults(track: &TrackOut) -> Trex {
    Trex {
        track_id: track.id(),
        default_sample_description_index: 1,
        ..Trex::default()
    }
}

fn write_track(
    out: &mut Vec<u8>,
    track: &TrackOut,
    table: &Table,
    length: Length,
) -> Result<(), Malformed> {
    let (shown, media) = match length {
        Length::Open => (0, 0),
        Length::Known { length, .. } => (length, table.next() - table.first()),
    };
    boxes::wrap(out, b"trak", |out| {
        boxes::encode(out, &header(track, shown))?;
        boxes::wrap(out, b"edts", |out| {
            boxes::encode(out, &edits(track, table, length))
        })?;
        boxes::wrap(out, b"mdia", |out| {
            let mdhd = Mdhd {
                timescale: track.timescale,
                duration: media,
                language: "und".into(),
                ..Mdhd::default()
            };
            boxes::encode(out, &mdhd)?;
            boxes::encode(out, &handler(track.media))?;
            boxes::wrap(out, b"minf", |out| {
                match track.media {
                    Media::Video => boxes::encode(out, &Vmhd::default())?,
                    Media::Audio => boxes::encode(out, &Smhd::default())?,
                }
                let here = Dref {
                    entries: vec![Url::default().into()],
                };
                boxes::encode(out, &Dinf { dref: here })?;
                table.write(out, &track.entries)
            })
        })
    })
}

fn header(track: &TrackOut, duration: u64) -> Tkhd {
    let audio = track.media == Media::Audio;
    Tkhd {
        track_id: track.id(),
        duration,
        alternate_group: u16::from(audio),
        enabled: true,
        in_movie: true,
        volume: u8::from(audio).into(),
        width: track.size.0.into(),
        height: track.size.1.into(),
        ..Tkhd::default()
    }
}

fn handler(media: Media) -> Hdlr {
    let (handler, name) = match media {
        Media::Video => (b"vide", "VideoHandler"),
        Media::Audio => (b"soun", "SoundHandler"),
    };
    Hdlr {
        handler: handler.into(),
        name: name.into(),
    }
}

fn edits(track: &TrackOut, table: &Table, length: Length) -> Elst {
    let begins = |duration| ElstEntry {
        segment_duration: duration,
        media_time: Some(track.lead),
        media_rate: 1.into(),
    };
    let entries = match length {
        Length::Open => vec![begins(0)],
        Length::Known { length, scale } => {
            // sample tables begin at zero: a first sample that comes later is met by an edit without media
            let late = rescale(table.first() as i64, track.timescale, scale) as u64;
            let wait = ElstEntry {
                segment_duration: late,
                media_time: None,
                media_rate: 1.into(),
            };
            let play = begins(length.saturating_sub(late));
            if late > 0 {
                vec![wait, play]
            } else {
                vec![play]
            }
        }
    };
    Elst { entries }
}

/// A `free` box of `len` bytes, at least 8.
pub(super) fn free(len: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(len as usize);
    put(&mut out, len as u32);
    out.extend_from_slice(b"free");
    out.resize(len as usize, 0);
    out
}

/// The 16 bytes that turn everything up to `len` bytes on into media.
pub(super) fn media_header(len: u64) -> [u8; 16] {
    let mut out = *b"\0\0\0\x01mdat\0\0\0\0\0\0\0\0";
    out[8..].copy_from_slice(&len.to_be_bytes());
    out
}
