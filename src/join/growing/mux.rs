//! A fragment of a stream becomes one of the video: its place, the notes before it, silence where sound is missing, and
//! its own `moof`. Nothing is written here.

use super::super::boxes;
use super::super::fragment::{Head, NOT_SYNC, Sample, TrackFragment, rescale};
use super::super::init::Media;
use super::super::ledger::Entered;
use super::super::mark::Mark;
use super::super::place::{Gap, LONGEST_HOLD, MediaClock, Placement};
use super::super::silence::Packet;
use super::super::stream::{Between, StreamRecord, UNNOTICED};
use super::super::{Malformed, Origin};
use super::state::State;
use mp4_atom::{Moof, Prft, Tfdt, Tfhd, Traf, Trun, TrunEntry, TrunSamples};
use std::sync::Arc;

/// The most packets of silence in one fragment.
const SILENT_PACKETS: u32 = 4096;

/// One fragment, ready to be written.
pub(super) struct Muxed {
    /// Everything before the media.
    pub(super) bytes: Vec<u8>,
    pub(super) placement: Placement,
    /// Where the `moof` of the media lies from the start of `bytes`.
    pub(super) moof: u64,
    pub(super) entered: Option<Entered>,
    pub(super) descriptions: [u32; 2],
    pub(super) silence: Vec<(u64, TrackFragment)>,
    /// How many bytes of the media's front `bytes` has already.
    pub(super) replaced: u64,
}

/// The part of the state that a fragment moves on before it is written.
pub(super) struct Advance {
    pub(super) clock: MediaClock,
    pub(super) sequence: u32,
    /// What the fragment's chunk says of its stream.
    pub(super) record: Option<Arc<StreamRecord>>,
}

impl State {
    /// Makes the bytes of a fragment; `None` when nothing of it can be shown.
    pub(super) fn mux(
        &self,
        next: &mut Advance,
        head: &Head,
        media_len: u64,
        origin: Origin,
        cause: Option<String>,
        descriptions: [u32; 2],
    ) -> Result<Option<Muxed>, Malformed> {
        let head = self.in_our_scales(head);
        let joins = self.ledger.last().is_none_or(|last| last.run == origin.run);
        let between = self.between(&head, next);
        let Some(mut placement) = next.clock.place(&head, joins) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let silence = self.silence(next, &placement, &mut bytes)?;
        if self.ledger.last() != Some(origin) {
            Mark::Chunk {
                run: origin.run,
                index: origin.index,
                record: next.record.as_deref().cloned(),
            }
            .write(&mut bytes)?;
        }
        if let Some(gap) = placement.gap {
            let mut cause = cause.unwrap_or_else(|| self.ledger.guess(origin));
            if gap.to - gap.from > LONGEST_HOLD * i64::from(self.clock.video.timescale) {
                cause.push_str(
                    "; how long it was is not known: the clock may have been set meanwhile",
                );
            }
            cause.push_str(&self.gap_note(gap, between));
            Mark::Gap { cause }.write(&mut bytes)?;
        }
        if let Some(text) = self.clock_note(&placement, between, origin) {
            Mark::Note { text }.write(&mut bytes)?;
        }
        let repeated = self.repeat_parameters(&mut placement, descriptions[0], &head, media_len);
        let mut entered = None;
        if let Some(video) = &placement.video {
            let starts = video.start as i64 + next.clock.shift;
            boxes::encode(&mut bytes, &reference(starts, video.start, video.timescale))?;
            entered = Some(Entered {
                origin,
                starts,
                at: video.start,
                ticks: video.duration(),
                bytes: media_len
                    + repeated
                        .as_ref()
                        .map_or(0, |(front, was)| front.len() as u64 - was),
            });
        }
        next.sequence += 1;
        let moof = write_moof(
            &mut bytes,
            next.sequence,
            &mut placement,
            descriptions,
            head.moof_len,
        )?;
        let (front, replaced) = repeated.unwrap_or_default();
        bytes.extend_from_slice(&front);
        Ok(Some(Muxed {
            bytes,
            placement,
            moof,
            entered,
            descriptions,
            silence,
            replaced,
        }))
    }

    /// What lies between the last picture and that of `head`, by what their chunks say of their streams.
    fn between(&self, head: &Head, next: &Advance) -> Between {
        let scale = self.clock.video.timescale;
        let micros = |ticks: i64| rescale(ticks, scale, 1_000_000);
        let end = self.clock.video.next as i64 + self.clock.shift;
        head.video.as_ref().map_or(Between::Unknown, |video| {
            let (first, second) = (self.record.as_deref(), next.record.as_deref());
            Between::of(first, micros(end), second, micros(video.start as i64))
        })
    }

    /// What is to be said where another run begins before the end of the one before by its clock: it is appended whole, and no
    /// stamp says how long nothing was recorded between them.
    fn clock_note(
        &self,
        placement: &Placement,
        between: Between,
        origin: Origin,
    ) -> Option<String> {
        let scale = u64::from(self.clock.video.timescale);
        let last = self
            .ledger
            .last()
            .filter(|_| placement.back > u64::from(self.clock.frame))?;
        let unknown = "how long nothing was recorded between them is not known";
        let why = match between {
            Between::Unknown => {
                format!("the clock was set back, or both recorded at once; {unknown}")
            }
            Between::OtherBoot => format!(
                "the clock was set back while the machine was started anew, or they are two machines that recorded at once; {unknown}"
            ),
            Between::Apart(gap) => format!(
                "the clock was set back; by the machine's own clock nothing was recorded between them for {:.1} s",
                in_seconds(gap)
            ),
            Between::AtOnce(both) => {
                format!("both recorded at once for {:.1} s", in_seconds(both))
            }
        };
        Some(format!(
            "by the clock run {} begins {:.1} s before the end of run {}: {why}",
            origin.run,
            placement.back as f64 / scale as f64,
            last.run
        ))
    }

    /// What is to be said of a gap whose stamps are not those of the machine's own clock.
    fn gap_note(&self, gap: Gap, between: Between) -> String {
        let Between::Apart(apart) = between else {
            return String::new();
        };
        let stamped = rescale(gap.to - gap.from, self.clock.video.timescale, 1_000_000);
        match (stamped - apart).abs() > UNNOTICED {
            true => format!(
                "; by the machine's own clock it was {:.1} s, the clock was set forward meanwhile",
                in_seconds(apart)
            ),
            false => String::new(),
        }
    }

    /// Where the encoding changed within the video, its parameters go into the stream itself too, at the start of every
    /// keyframe: players that do not look for another sample description within fragments (ffmpeg is one) need them
    /// there. Answers how many bytes of the media's front are written with that.
    fn repeat_parameters(
        &self,
        placement: &mut Placement,
        description: u32,
        head: &Head,
        media_len: u64,
    ) -> Option<(Vec<u8>, u64)> {
        let track = self
            .tracks
            .iter()
            .find(|track| track.media == Media::Video)?;
        let entry = track
            .entries
            .get(description as usize)
            .filter(|_| track.entries.len() > 1)?;
        let video = placement.video.as_mut()?;
        let first = video.samples.first_mut().filter(|first| first.sync)?;
        if first.at != u64::from(head.moof_len) + SHORT_HEADER {
            return None;
        }
        let parameters = parameter_sets(entry)?;
        let more = parameters.len() as u64;
        first.size += parameters.len() as u32;
        let others = video.samples.iter_mut().skip(1);
        let sound = placement
            .audio
            .iter_mut()
            .flat_map(|audio| &mut audio.samples);
        others.chain(sound).for_each(|sample| sample.at += more);
        let mut front = Vec::with_capacity(parameters.len() + 8);
        front.extend_from_slice(&u32::try_from(media_len + more).ok()?.to_be_bytes());
        front.extend_from_slice(b"mdat");
        front.extend_from_slice(&parameters);
        Some((front, SHORT_HEADER))
    }

    pub(super) fn in_our_scales(&self, head: &Head) -> Head {
        let scale = |media, part: &Option<TrackFragment>| {
            let track = self.tracks.iter().find(|track| track.media == media)?;
            part.as_ref().map(|part| part.rescaled(track.timescale))
        };
        Head {
            video: scale(Media::Video, &head.video),
            audio: scale(Media::Audio, &head.audio),
            ..*head
        }
    }

    /// Whole fragments of silence before the sound of `placement`, each with the place of its `moof`.
    fn silence(
        &self,
        next: &mut Advance,
        placement: &Placement,
        bytes: &mut Vec<u8>,
    ) -> Result<Vec<(u64, TrackFragment)>, Malformed> {
        let mut written = Vec::new();
        let (Some(sound), Some(packet)) = (
            &placement.audio,
            self.clock.audio.as_ref().and_then(|audio| audio.packet),
        ) else {
            return Ok(written);
        };
        let mut left = placement.silence;
        while left > 0 {
            let count = left.min(SILENT_PACKETS);
            let start = sound.start - u64::from(left) * u64::from(packet.samples);
            next.sequence += 1;
            let at = bytes.len() as u64;
            let description = self.tracks.iter().find(|track| track.media == Media::Audio);
            let last = description.map_or(0, |track| track.entries.len().saturating_sub(1));
            let part = write_silence(
                bytes,
                next.sequence,
                start,
                count,
                packet,
                sound.timescale,
                last as u32,
            )?;
            written.push((at, part));
            left -= count;
        }
        Ok(written)
    }
}

fn in_seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// The length of a box's header when its length fits into 32 bits.
const SHORT_HEADER: u64 = 8;

/// The parameter sets of a sample description as they stand in the stream.
fn parameter_sets(entry: &bytes::Bytes) -> Option<Vec<u8>> {
    let avc1: mp4_atom::Avc1 = match entry.get(4..8)? {
        b"avc1" => boxes::decode(&entry[8..]).ok()?,
        _ => return None,
    };
    let config = avc1.avcc;
    if config.length_size != 4 {
        return None;
    }
    let sets = config
        .sequence_parameter_sets
        .iter()
        .chain(&config.picture_parameter_sets);
    let mut out = Vec::new();
    for set in sets {
        out.extend_from_slice(&(set.len() as u32).to_be_bytes());
        out.extend_from_slice(set);
    }
    Some(out)
}

/// Seconds from NTP's epoch to Unix's.
const NTP: i64 = 2_208_988_800;
/// NTP counts seconds in 32 bits; its second era begins in 2036.
const ERA: i64 = 1 << 32;

/// The wall clock of a fragment as the standard has it.
pub(super) fn reference(starts: i64, media_time: u64, timescale: u32) -> Prft {
    let scale = i64::from(timescale);
    let (whole, part) = (starts.div_euclid(scale), starts.rem_euclid(scale));
    let seconds = (whole + NTP).rem_euclid(ERA) as u64;
    let fraction = ((part as u64) << 32) / u64::from(timescale);
    Prft {
        reference_track_id: 1,
        ntp_timestamp: (seconds << 32) | fraction,
        media_time,
        ..Prft::default()
    }
}

/// Reads [`reference`] back, exactly.
pub(super) fn wall(prft: &Prft, timescale: u32) -> i64 {
    let seconds = (prft.ntp_timestamp >> 32) as i64 - NTP;
    let seconds = if seconds < 0 { seconds + ERA } else { seconds };
    let fraction = u128::from(prft.ntp_timestamp & 0xffff_ffff);
    let part = (fraction * u128::from(timescale) + (1 << 31)) >> 32;
    seconds * i64::from(timescale) + part as i64
}

/// Appends the `moof` for `placement`, and gives its samples the places they have from it. Answers where it begins.
pub(in crate::join) fn write_moof(
    out: &mut Vec<u8>,
    sequence: u32,
    placement: &mut Placement,
    descriptions: [u32; 2],
    was: u32,
) -> Result<u64, Malformed> {
    let at = out.len();
    let moof = |placement: &Placement| {
        let parts = [(1, &placement.video), (2, &placement.audio)];
        let traf =
            parts
                .into_iter()
                .zip(descriptions)
                .filter_map(|((track, part), description)| {
                    Some(traf(track, description, part.as_ref()?))
                });
        Moof {
            mfhd: mp4_atom::Mfhd {
                sequence_number: sequence,
            },
            traf: traf.collect(),
        }
    };
    boxes::encode(out, &moof(placement))?;
    let len = (out.len() - at) as u64;
    for part in [&mut placement.video, &mut placement.audio]
        .into_iter()
        .flatten()
    {
        for sample in &mut part.samples {
            sample.at = sample.at - u64::from(was) + len;
        }
    }
    out.truncate(at);
    boxes::encode(out, &moof(placement))?;
    Ok(at as u64)
}

fn traf(track: u32, description: u32, part: &TrackFragment) -> Traf {
    let first = part.samples.first().map_or(0, |sample| sample.duration);
    let even = part.samples.iter().all(|sample| sample.duration == first);
    let shifted = part.samples.iter().any(|sample| sample.shown != 0);
    let rest_needs_others = part.samples.iter().skip(1).all(|sample| !sample.sync);
    let flags = |sync: bool| if sync { SYNC } else { NEEDS_OTHERS };
    let default_sync = part.samples.iter().all(|sample| sample.sync);
    let entry = |number: usize, sample: &Sample| TrunEntry {
        size: Some(sample.size),
        duration: (!even).then_some(sample.duration),
        cts: shifted.then_some(i64::from(sample.shown)),
        flags: match (default_sync, rest_needs_others, number) {
            (true, _, _) => None,
            (false, true, 0) => Some(flags(sample.sync)),
            (false, true, _) => None,
            (false, false, _) => Some(flags(sample.sync)),
        },
    };
    let numbered: Vec<(usize, Sample)> = part.samples.iter().copied().enumerate().collect();
    let trun = numbered
        .chunk_by(|(_, a), (_, b)| a.at + u64::from(a.size) == b.at)
        .map(|run| Trun {
            data_offset: run.first().map(|(_, sample)| sample.at as i32),
            samples: TrunSamples::Explicit(
                run.iter()
                    .map(|(number, sample)| entry(*number, sample))
                    .collect(),
            ),
        });
    Traf {
        tfhd: Tfhd {
            track_id: track,
            sample_description_index: Some(description + 1),
            default_sample_duration: even.then_some(first),
            default_sample_flags: Some(flags(default_sync)),
            default_base_is_moof: true,
            ..Tfhd::default()
        },
        tfdt: Some(Tfdt {
            base_media_decode_time: part.start,
        }),
        trun: trun.collect(),
        ..Traf::default()
    }
}

/// Sample flags: depends on no other.
const SYNC: u32 = 0x0200_0000;
/// Sample flags: depends on others, cannot be decoded alone.
const NEEDS_OTHERS: u32 = 0x0100_0000 | NOT_SYNC;

/// Appends a fragment of silence.
fn write_silence(
    out: &mut Vec<u8>,
    sequence: u32,
    start: u64,
    count: u32,
    packet: Packet,
    timescale: u32,
    description: u32,
) -> Result<TrackFragment, Malformed> {
    let size = packet.bytes.len() as u32;
    let at = out.len();
    let moof = |offset| Moof {
        mfhd: mp4_atom::Mfhd {
            sequence_number: sequence,
        },
        traf: vec![Traf {
            tfhd: Tfhd {
                track_id: 2,
                sample_description_index: Some(description + 1),
                default_sample_duration: Some(packet.samples),
                default_sample_size: Some(size),
                default_sample_flags: Some(SYNC),
                default_base_is_moof: true,
                ..Tfhd::default()
            },
            tfdt: Some(Tfdt {
                base_media_decode_time: start,
            }),
            trun: vec![Trun {
                data_offset: Some(offset),
                samples: TrunSamples::Inherited {
                    count,
                    first_flags: None,
                },
            }],
            ..Traf::default()
        }],
    };
    boxes::encode(out, &moof(0))?;
    let first = out.len() - at + 8;
    out.truncate(at);
    boxes::encode(out, &moof(first as i32))?;
    boxes::wrap::<Malformed>(out, b"mdat", |out| {
        (0..count).for_each(|_| out.extend_from_slice(packet.bytes));
        Ok(())
    })?;
    let samples = (0..u64::from(count)).map(|number| Sample {
        at: first as u64 + number * u64::from(size),
        size,
        duration: packet.samples,
        shown: 0,
        sync: true,
    });
    Ok(TrackFragment {
        start,
        timescale,
        description,
        samples: samples.collect(),
    })
}
