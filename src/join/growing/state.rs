//! What is known of a video, all of it read from the file again after a crash.

use super::super::boxes;
use super::super::fragment::{Head, TrackFragment};
use super::super::init::{Init, Media, Track};
use super::super::ledger::Ledger;
use super::super::mark::Mark;
use super::super::moov::TrackOut;
use super::super::place::{MediaClock, TrackClock};
use super::super::stream::StreamRecord;
use super::super::table::Table;
use super::mux::{Advance, Muxed};
use std::sync::Arc;

/// What is known of a file, all of it read from the file again after a crash.
#[derive(Clone, Debug)]
pub(in crate::join) struct State {
    /// Where the placeholder lies.
    pub(super) placeholder: u64,
    /// The room for `moov` and padding after the placeholder.
    pub(super) front: u64,
    pub(in crate::join) tracks: Vec<TrackOut>,
    pub(super) tables: Vec<Table>,
    pub(super) clock: MediaClock,
    pub(super) ledger: Ledger,
    pub(super) sequence: u32,
    /// What the last fragment's chunk says of its stream.
    pub(super) record: Option<Arc<StreamRecord>>,
}

impl State {
    pub(super) fn advance(&self) -> Advance {
        Advance {
            clock: self.clock.clone(),
            sequence: self.sequence,
            record: self.record.clone(),
        }
    }

    /// Takes what was written at `at` into the books.
    pub(super) fn enter(&mut self, next: Advance, muxed: &Muxed, at: u64) {
        for (moof, part) in &muxed.silence {
            self.enter_track(Media::Audio, part, at + moof, part.description);
        }
        let [video, audio] = muxed.descriptions;
        let timescale = self.clock.video.timescale;
        if let (Some(gap), Some(entered)) = (muxed.placement.gap, muxed.entered) {
            // the cause is read back from where it was written, as after a crash
            let cause = cause_in(&muxed.bytes).unwrap_or_else(|| self.ledger.guess(entered.origin));
            self.ledger.gap(gap, entered.at, timescale, cause);
        }
        notes_in(&muxed.bytes).for_each(|text| self.ledger.note(text));
        if let Some(entered) = muxed.entered {
            self.ledger.fragment(entered, timescale);
        }
        if let Some(part) = &muxed.placement.video {
            self.enter_track(Media::Video, part, at + muxed.moof, video);
        }
        if let Some(part) = &muxed.placement.audio {
            self.enter_track(Media::Audio, part, at + muxed.moof, audio);
        }
        self.clock = next.clock;
        self.sequence = next.sequence;
        self.record = next.record;
    }

    pub(super) fn enter_track(
        &mut self,
        media: Media,
        part: &TrackFragment,
        base: u64,
        description: u32,
    ) {
        for (track, table) in self.tracks.iter().zip(&mut self.tables) {
            if track.media == media {
                table.enter(part.start, &part.samples, base, description);
                if media == Media::Audio {
                    table.forget_keyframes();
                }
            }
        }
    }

    /// Whether a fragment of the last chunk is in the file.
    pub(super) fn holds(&self, head: &Head) -> bool {
        let head = self.in_our_scales(head);
        let clock = &self.clock;
        match (&head.video, &head.audio, &clock.audio) {
            (Some(video), _, _) => {
                let end = clock.video.next as i64 + clock.shift;
                (video.start as i64) + i64::from(clock.frame / 2) < end
            }
            (None, Some(sound), Some(track_clock)) => {
                let end = track_clock.next as i64 - track_clock.lead as i64
                    + clock.zero(track_clock.timescale);
                let slack = track_clock
                    .packet
                    .map_or(0, |packet| 2 * i64::from(packet.samples));
                sound.start as i64 + slack < end
            }
            _ => false,
        }
    }

    pub(super) fn of_front(placeholder: u64, front: u64, init: &Init) -> Self {
        let track_clock = |track: &Track| TrackClock {
            timescale: track.timescale,
            next: 0,
            lead: track.edit.media_time,
            packet: TrackFragment::packet(track, 0).filter(|_| track.media == Media::Audio),
        };
        let tracks: Vec<TrackOut> = init
            .tracks
            .iter()
            .map(|track| TrackOut {
                media: track.media,
                timescale: track.timescale,
                size: track.size,
                lead: track.edit.media_time,
                entries: track.entries.clone(),
            })
            .collect();
        let none = TrackClock {
            timescale: 1,
            next: 0,
            lead: 0,
            packet: None,
        };
        let clock = MediaClock {
            mode: Default::default(),
            video: init.track(Media::Video).map_or(none, track_clock),
            audio: init.track(Media::Audio).map(track_clock),
            shift: 0,
            origin: 0,
            shown: 0,
            frame: 1,
        };
        let tables = tracks.iter().map(|_| Table::default()).collect();
        Self {
            placeholder,
            front,
            tracks,
            tables,
            clock,
            ledger: Ledger::default(),
            sequence: 0,
            record: None,
        }
    }
}

/// The notes that stand before a fragment.
fn marks_in(bytes: &[u8]) -> impl Iterator<Item = Mark> {
    let boxes = boxes::children(bytes).map_while(Result::ok);
    boxes.filter_map(|(kind, body)| (kind == *b"uuid").then(|| Mark::read(body))?)
}

fn cause_in(bytes: &[u8]) -> Option<String> {
    marks_in(bytes).find_map(|mark| match mark {
        Mark::Gap { cause } => Some(cause),
        _ => None,
    })
}

fn notes_in(bytes: &[u8]) -> impl Iterator<Item = String> {
    marks_in(bytes).filter_map(|mark| match mark {
        Mark::Note { text } => Some(text),
        _ => None,
    })
}
