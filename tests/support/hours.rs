//! Hours of video in seconds: one chunk is really encoded, as `record` would have it from ffmpeg, and repeated with later
//! stamps of the wall clock.

use ov2_ha_recorder::join::{ChunkSource, GrowingFile};
use ov2_ha_recorder::model::ids::RunNumber;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

/// The wall clock of the first chunk.
const EPOCH: f64 = 1_795_577_569.0;
/// How many seconds a chunk has: whole frames at 25 a second, and whole packets of sound at 48,000 samples.
pub const LENGTH: f64 = 20.48;
/// Ticks a second of picture and sound.
const SCALES: [f64; 2] = [12_800.0, 48_000.0];

/// A chunk that can be repeated.
#[derive(Debug)]
pub struct Chunk {
    bytes: Vec<u8>,
    /// Where its decode times stand, each with its ticks a second.
    stamps: Vec<(usize, f64)>,
}

impl Chunk {
    /// Encodes a chunk of noise that has about `bytes` bytes.
    pub fn encode(folder: &Path, size: &str, bytes: usize) -> Self {
        let path = folder.join("one.mp4");
        let bits = (bytes as f64 * 8.0 / LENGTH) as u64;
        let (sound, picture) = (64_000, bits.saturating_sub(64_000).max(8_000));
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-y", "-nostdin", "-itsoffset"])
            .args([&EPOCH.to_string(), "-f", "lavfi", "-i"])
            .arg(format!("sine=440:sample_rate=48000:duration={LENGTH}"))
            .args(["-itsoffset", &EPOCH.to_string(), "-f", "lavfi", "-i"])
            .arg(format!("testsrc2=s={size}:r=25:d={LENGTH},noise=alls=20:allf=t"))
            .args("-map 1:v -map 0:a -copyts -c:v libx264 -preset ultrafast -g 100000 -pix_fmt yuv420p".split(' '))
            .args(["-b:v", &picture.to_string(), "-maxrate", &picture.to_string()])
            .args(["-bufsize", &(picture / 2).to_string()])
            .args("-fps_mode passthrough -c:a aac -f mp4 -frag_duration 200000 -movflags".split(' '))
            .arg("+frag_keyframe+empty_moov+default_base_moof+frag_discont+negative_cts_offsets")
            .args(["-b:a", &sound.to_string()])
            .arg(&path)
            .status();
        assert!(made.unwrap().success());
        Self::of(fs::read(&path).unwrap())
    }

    fn of(bytes: Vec<u8>) -> Self {
        let mut stamps = Vec::new();
        let mut at = 0;
        while at + 8 <= bytes.len() {
            let len = number(&bytes, at);
            if bytes[at + 4..at + 8] == *b"moof" {
                stamps.extend(decode_times(&bytes, at, len));
            }
            at += len;
        }
        Self { bytes, stamps }
    }

    /// Its bytes, recorded `seconds` later.
    pub fn later(&self, seconds: f64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for (at, scale) in &self.stamps {
            let eight = &mut bytes[*at..*at + 8];
            let stamp = u64::from_be_bytes(eight.try_into().unwrap());
            let moved = stamp.saturating_add_signed((seconds * scale).round() as i64);
            eight.copy_from_slice(&moved.to_be_bytes());
        }
        bytes
    }

    /// Its bytes, recorded at this second since 1970.
    pub fn recorded_at(&self, second: f64) -> Vec<u8> {
        self.later(second - EPOCH)
    }

    /// Writes it `count` times below `folder`, one after the other, every `run` of them by another recorder that took
    /// over 3 s after the one before.
    pub fn repeat(&self, folder: &Path, count: u32, run: u32) -> Vec<ChunkSource> {
        let write = |number: u32| {
            let run_number = number / run + 1;
            let below = folder.join(format!("r{run_number}"));
            fs::create_dir_all(&below).unwrap();
            let source = ChunkSource {
                run: RunNumber(run_number),
                index: number + 1,
                path: below.join(format!("{:04}.mp4", number + 1)),
            };
            fs::write(&source.path, self.later(begins(number, run))).unwrap();
            source
        };
        (0..count).map(write).collect()
    }

    /// Lets `file` grow by it `count` times in the same way. All but the last is flushed to the disk, as the system sees to
    /// it while hours go by.
    pub fn grow(&self, file: &mut GrowingFile, folder: &Path, count: u32, run: u32) {
        let path = folder.join("repeated.mp4");
        for number in 0..count {
            fs::write(&path, self.later(begins(number, run))).unwrap();
            if number + 1 == count && number > 0 {
                File::open(file.path()).unwrap().sync_all().unwrap();
            }
            let source = ChunkSource {
                run: RunNumber(number / run + 1),
                index: number + 1,
                path: path.clone(),
            };
            let caught = file.catch_up(&[source]).unwrap();
            assert!(caught[0].fault.is_none() && caught[0].fragments > 0);
        }
        fs::remove_file(&path).unwrap();
    }
}

/// Seconds from the first chunk to chunk `number` when every `run` of them a recorder is lost for 3 s.
fn begins(number: u32, run: u32) -> f64 {
    f64::from(number) * LENGTH + f64::from(number / run) * 3.0
}

/// Where the decode times of the `moof` at `at` stand.
fn decode_times(bytes: &[u8], at: usize, len: usize) -> Vec<(usize, f64)> {
    let find = |kind: &'static [u8]| {
        let places = bytes[at..at + len].windows(4).enumerate();
        places.filter_map(move |(place, four)| (four == kind).then_some(at + place))
    };
    let tracks = find(b"tfhd").map(|place| number(bytes, place + 8));
    let stamps = find(b"tfdt").map(|place| place + 8);
    let scaled = stamps.zip(tracks);
    scaled
        .map(|(place, track)| (place, SCALES[track - 1]))
        .collect()
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}
