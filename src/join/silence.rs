//! Silence as AAC packs it. Where sound is missing, packets of silence stand in: some players (Chromium is one) play
//! packets one after another whatever their stamps say, so that every hole would move all later sound against the picture.

use super::boxes;
use bytes::Bytes;
use mp4_atom::Mp4a;

/// A packet of silence that fits a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// Its length in samples.
    pub(super) samples: u32,
    /// What lies in the file.
    pub(super) bytes: &'static [u8],
}

/// AAC-LC, one channel: an element without spectrum.
const MONO: &[u8] = &[0x01, 0x18, 0x20, 0x07];
/// AAC-LC, two channels: a pair without spectrum.
const STEREO: &[u8] = &[0x21, 0x10, 0x04, 0x60, 0x8c, 0x1c];

const AAC: u8 = 0x40;
const LOW_COMPLEXITY: u8 = 2;

impl Packet {
    /// The packet for the sample description `entry`, where one is known.
    pub(super) fn like(entry: &Bytes) -> Option<Self> {
        let mp4a: Mp4a = match entry.get(4..8)? {
            b"mp4a" => boxes::decode(&entry[8..]).ok()?,
            _ => return None,
        };
        let config = &mp4a.esds.es_desc.dec_config;
        let aac = config.dec_specific.as_ref()?;
        if config.object_type_indication != AAC || aac.profile != LOW_COMPLEXITY {
            return None;
        }
        let bytes = match aac.chan_conf {
            1 => MONO,
            2 => STEREO,
            _ => return None,
        };
        Some(Self {
            samples: 1024,
            bytes,
        })
    }
}
