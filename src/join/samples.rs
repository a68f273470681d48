//! Streams for tests, made without an encoder: what their frames show does not matter.

use super::boxes;
use super::fragment::{Sample, TrackFragment};
use super::growing::write_moof;
use super::init::Media;
use super::moov::{self, TrackOut};
use super::place::Placement;

/// Ticks a second.
pub(crate) const TICKS: u32 = 12_800;

/// A track of frames.
pub(super) fn track() -> TrackOut {
    let avc1 = mp4_atom::Avc1 {
        visual: mp4_atom::Visual {
            width: 64,
            height: 64,
            data_reference_index: 1,
            ..Default::default()
        },
        avcc: mp4_atom::Avcc::new(&[0x67, 0x42, 0xc0, 0x0a], &[0x68, 0xce]).unwrap(),
        ..Default::default()
    };
    let mut entry = Vec::new();
    boxes::encode(&mut entry, &avc1).unwrap();
    TrackOut {
        media: Media::Video,
        timescale: TICKS,
        size: (64, 64),
        lead: 0,
        entries: vec![entry.into()],
    }
}

/// How a chunk begins.
pub(crate) fn beginning() -> Vec<u8> {
    let moov = moov::growing(&[track()]).unwrap();
    [moov::file_type().unwrap(), moov].concat()
}

/// A fragment with one keyframe of a second, `at` seconds after the epoch.
pub(crate) fn fragment(at: f64) -> Vec<u8> {
    let sample = Sample {
        at: 8,
        size: 4,
        duration: TICKS,
        shown: 0,
        sync: true,
    };
    let mut placement = Placement {
        video: Some(TrackFragment {
            start: (at * f64::from(TICKS)) as u64,
            timescale: TICKS,
            description: 0,
            samples: vec![sample],
        }),
        ..Placement::default()
    };
    let mut bytes = Vec::new();
    write_moof(&mut bytes, 1, &mut placement, [0, 0], 0).unwrap();
    bytes.extend_from_slice(b"\0\0\0\x0cmdatabcd");
    bytes
}
