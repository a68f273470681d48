//! Where a fragment lies in the video. Its stamps are the wall clock; the video's time begins at its first frame. Three
//! rules:
//!
//! 1. Frames lie one after another. A step forward of the stamps is a gap: cut out, or held by the frame before it. A step
//!    back (two recorders at once, or a clock that was set back) moves what follows to the end of what is there: every
//!    frame is shown once, none is dropped, and no time stamp ever goes back. With `hold` a later gap pays such a step off.
//! 2. Sound follows the picture: the same amount is taken from its stamps. Its packets lie on one grid from the first to the
//!    last, each run on the nearest point of it (at most half a packet, 10.7 ms, off), so that they follow one another
//!    without a hole; where sound is missing, packets of silence stand in.
//! 3. The video begins with a keyframe. Sound before it is left away but for the packet that the decoder needs to get going,
//!    which the edit list hides. Sound that comes later is met by silence.

use super::fragment::{Head, TrackFragment, rescale};
use super::init::{Media, Track};
use super::silence::Packet;
use crate::model::timeline::GapMode;

/// The longest gap that is held, in seconds; a longer one is cut out, for a clock that was wrong by years must not make
/// a video of years. Durations are 32 bits wide: twelve hours fit in every usual time scale.
pub(super) const LONGEST_HOLD: i64 = 12 * 3600;

/// How the video's time stands to the wall clock.
#[derive(Clone, Debug)]
pub(super) struct MediaClock {
    pub(super) mode: GapMode,
    pub(super) video: TrackClock,
    pub(super) audio: Option<TrackClock>,
    /// Wall clock of media time zero of the video track, in its time scale, less all that was cut.
    pub(super) shift: i64,
    /// The same when the take began.
    pub(super) origin: i64,
    /// Presentation time less decode time of the first frame.
    pub(super) shown: i64,
    /// How long the last frame is.
    pub(super) frame: u32,
}

/// Where one track stands.
#[derive(Clone, Debug)]
pub(super) struct TrackClock {
    pub(super) timescale: u32,
    /// Media time of the next sample.
    pub(super) next: u64,
    /// Media time of the start of the presentation.
    pub(super) lead: u64,
    /// The silence that fits, where it is known.
    pub(super) packet: Option<Packet>,
}

/// Where a fragment's parts go.
#[derive(Clone, Debug, Default)]
pub(super) struct Placement {
    /// What lies between the frame before and this one.
    pub(super) gap: Option<Gap>,
    /// How far before the end of the frame before it the wall clock says that it was, in the video track's time scale.
    pub(super) back: u64,
    /// The video's samples and their media time.
    pub(super) video: Option<TrackFragment>,
    pub(super) audio: Option<TrackFragment>,
    /// How many packets of silence go before the sound.
    pub(super) silence: u32,
}

/// A step of the wall clock between two frames, in the video track's time scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// Wall clock of the end of the frame before.
    pub(super) from: i64,
    /// Wall clock of the frame after.
    pub(super) to: i64,
}

impl MediaClock {
    /// Begins a video with a fragment that starts with a keyframe.
    pub(super) fn begin(mode: GapMode, head: &Head, tracks: &[Track]) -> Option<Self> {
        let video = head.video.as_ref().filter(|video| video.starts_in_sync())?;
        let shown = i64::from(video.samples.first()?.shown);
        let start = video.start as i64;
        let mut clock = Self {
            mode,
            video: TrackClock {
                timescale: video.timescale,
                next: 0,
                lead: shown.max(0) as u64,
                packet: None,
            },
            audio: None,
            shift: start,
            origin: start,
            shown,
            frame: 1,
        };
        let track = tracks.iter().find(|track| track.media == Media::Audio);
        clock.audio = track.map(|track| clock.begin_sound(track, head.audio.as_ref()));
        Some(clock)
    }

    fn begin_sound(&self, track: &Track, sound: Option<&TrackFragment>) -> TrackClock {
        let packet = TrackFragment::packet(track, sound.map_or(0, |sound| sound.description));
        let timescale = track.timescale;
        let length = packet.map_or(0, |packet| i64::from(packet.samples));
        let lead = match sound {
            None => length,
            Some(sound) => {
                let begins = sound.start as i64 - self.zero(timescale);
                match packet {
                    // silence up to the first packet, from one packet before the start
                    Some(_) if begins > -length => {
                        let silent = (begins + length + length - 1).div_euclid(length);
                        silent * length - begins
                    }
                    Some(_) => length + (-begins).rem_euclid(length),
                    None => preceding(sound, begins),
                }
            }
        };
        TrackClock {
            timescale,
            next: 0,
            lead: lead.max(0) as u64,
            packet,
        }
    }

    /// Wall clock of the start of the presentation, less all that was cut, in a time scale of choice.
    pub(super) fn zero(&self, timescale: u32) -> i64 {
        rescale(self.shift + self.shown, self.video.timescale, timescale)
    }

    /// Places a fragment whose stretches are in the video's time scales; `None` when nothing of it can be shown, as
    /// frames that need others which are not there. `joins` says that its stream is the one before it.
    pub(super) fn place(&mut self, head: &Head, joins: bool) -> Option<Placement> {
        let mut placement = Placement::default();
        if let Some(video) = &head.video {
            let (gap, at, shift) = self.place_video(video);
            let apart = gap.is_some() || !joins;
            if apart && !video.starts_in_sync() {
                return None;
            }
            placement.gap = gap;
            let end = self.video.next as i64 + self.shift;
            placement.back = match joins {
                true => 0,
                false => u64::try_from(end - video.start as i64).unwrap_or(0),
            };
            placement.video = Some(TrackFragment {
                start: at,
                ..video.clone()
            });
            self.shift = shift;
            self.video.next = at + video.duration();
            self.frame = video
                .samples
                .last()
                .map_or(1, |sample| sample.duration.max(1));
        } else if !joins {
            return None;
        }
        if let Some(audio) = &head.audio {
            let fresh = !joins || placement.gap.is_some();
            self.place_audio(audio, fresh, &mut placement);
        }
        let something = placement.video.is_some() || placement.audio.is_some();
        something.then_some(placement)
    }

    /// The gap before `video`, its media time, and the shift from then on.
    fn place_video(&self, video: &TrackFragment) -> (Option<Gap>, u64, i64) {
        let next = self.video.next;
        let stamp = video.start as i64;
        let step = stamp - self.shift - next as i64;
        if step.abs() <= i64::from(self.frame / 2) {
            return (None, next, self.shift);
        }
        let from = next as i64 + self.shift;
        let gap = (step > 0).then_some(Gap { from, to: stamp });
        let behind = (self.origin - self.shift).max(0);
        let longest = LONGEST_HOLD * i64::from(self.video.timescale);
        let held = match self.mode {
            GapMode::Hold if step <= longest => (step - behind).max(0),
            _ => 0,
        };
        let at = next + held as u64;
        (gap, at, stamp - at as i64)
    }

    fn place_audio(&mut self, sound: &TrackFragment, fresh: bool, placement: &mut Placement) {
        let zero = rescale(
            self.shift + self.shown,
            self.video.timescale,
            sound.timescale,
        );
        let Some(track_clock) = &mut self.audio else {
            return;
        };
        let target = sound.start as i64 - zero + track_clock.lead as i64;
        match track_clock.packet {
            Some(packet) => track_clock.on_grid(sound, target, packet, fresh, placement),
            None => track_clock.as_stamped(sound, target, placement),
        }
    }
}

/// How long before the presentation the packet begins that is heard at its start; for sound without a grid.
fn preceding(sound: &TrackFragment, begins: i64) -> i64 {
    let mut at = begins;
    let mut lead = -begins;
    for sample in &sound.samples {
        if at > 0 {
            break;
        }
        lead = -at;
        at += i64::from(sample.duration);
    }
    lead
}

impl TrackClock {
    fn on_grid(
        &mut self,
        sound: &TrackFragment,
        target: i64,
        packet: Packet,
        fresh: bool,
        placement: &mut Placement,
    ) {
        let length = i64::from(packet.samples);
        let off = target - self.next as i64;
        // a run that is under way is moved only when it is off by more than a packet: stamps may tremble
        let steps = match fresh || off.abs() > length {
            true => (off + length / 2).div_euclid(length),
            false => 0,
        };
        let left_out = (-steps).max(0) as usize;
        let Some(samples) = sound
            .samples
            .get(left_out..)
            .filter(|samples| !samples.is_empty())
        else {
            return;
        };
        let steps = steps.clamp(0, LONGEST_HOLD * i64::from(self.timescale) / length);
        placement.silence = steps as u32;
        let start = self.next + (steps * length) as u64;
        let samples = samples.iter().map(|sample| super::fragment::Sample {
            duration: packet.samples,
            ..*sample
        });
        let part = TrackFragment {
            start,
            samples: samples.collect(),
            ..*sound
        };
        self.next = start + part.duration();
        placement.audio = Some(part);
    }

    fn as_stamped(&mut self, sound: &TrackFragment, target: i64, placement: &mut Placement) {
        let mut at = target;
        let mut samples = sound.samples.as_slice();
        while let Some((first, rest)) = samples.split_first()
            && at + i64::from(first.duration / 2) < self.next as i64
        {
            at += i64::from(first.duration);
            samples = rest;
        }
        if samples.is_empty() {
            return;
        }
        let start = self.next.max(at.max(0) as u64);
        let part = TrackFragment {
            start,
            samples: samples.to_vec(),
            ..*sound
        };
        self.next = start + part.duration();
        placement.audio = Some(part);
    }
}
