//! Bytes that nobody vouches for: real chunks and videos with bits flipped, parts cut out and put in, and numbers that
//! claim anything. Whatever comes, the reader answers soon and takes little memory. The fuzz target in `tests/fuzz` asks the
//! same of bytes that it finds by itself.

use crate::support::reader;
use ov2_ha_recorder::join::{ChunkSource, GrowingFile};
use ov2_ha_recorder::model::ids::RunNumber;
use proptest::prelude::*;
use proptest::sample::Index;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const CHUNK: &[u8] = include_bytes!("fuzz/corpus/mp4/chunk.mp4");
const SEEDS: [&[u8]; 4] = [
    CHUNK,
    include_bytes!("fuzz/corpus/mp4/growing.mp4"),
    include_bytes!("fuzz/corpus/mp4/finished.mp4"),
    include_bytes!("fuzz/corpus/mp4/plain.mp4"),
];
/// What a process that reads may take, in KiB of addresses: the longest `mdat` that is held, twice, and the program.
const MEMORY: u32 = 800 << 10;
/// What all mutants may take, in seconds, on a machine that is busy.
const PATIENCE: u32 = 240;
/// What one may take.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn mutated_chunks_and_videos_are_answered_soon_and_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "ulimit -v {MEMORY} && exec timeout {PATIENCE} \"$0\" --ignored --exact mutants::read_mutants"
    );
    let said = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    let errors = String::from_utf8_lossy(&said.stderr);
    let is_well = said.status.success() && text.contains("1 passed");
    let evidence = folder.path().join("last.mp4");
    if !is_well && let Ok(bytes) = fs::read(&evidence) {
        let kept = std::env::temp_dir().join("ov2-mutant.mp4");
        fs::write(&kept, bytes).unwrap();
        println!("what was read last is in {}", kept.display());
    }
    assert!(is_well, "{}: {text}{errors}", said.status);
}

/// Where the process that reads finds its folder.
const FOLDER: &str = "OV2_MUTANTS";

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    #[ignore = "run by the test above, within bounds"]
    fn read_mutants(seed in 0..SEEDS.len(), changes in prop::collection::vec(change(), 1..6)) {
        let folder = std::env::var(FOLDER).unwrap();
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory } else { Path::new(&folder) };
        let place = tempfile::tempdir_in(place).unwrap();
        let mut bytes = SEEDS[seed].to_vec();
        changes.iter().for_each(|change| change.make(&mut bytes));
        fs::write(Path::new(&folder).join("last.mp4"), &bytes).unwrap();
        let begin = Instant::now();
        reader::read(&bytes, CHUNK, place.path());
        prop_assert!(begin.elapsed() < SOON, "took {:?}", begin.elapsed());
    }
}

/// What is done to bytes.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    /// Writes a number into a box: its length, or one of its fields.
    Claim {
        which: Index,
        field: usize,
        number: u32,
    },
    CutOut(Index, usize),
    CutOff(Index),
    PutIn(Index, Vec<u8>),
    Repeat(Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<Index>;
    let numbers = prop_oneof![
        0..70u32,
        any::<u32>(),
        (0..32u32).prop_map(|bit| 1 << bit),
        (0..70u32).prop_map(|less| u32::MAX - less),
        (0..70u32).prop_map(|less| (1 << 31) - less),
    ];
    let claim = (place(), 0..12usize, numbers).prop_map(|(which, field, number)| Change::Claim {
        which,
        field,
        number,
    });
    prop_oneof![
        6 => claim,
        2 => (place(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        1 => (place(), 1..2_000usize).prop_map(|(at, len)| Change::CutOut(at, len)),
        1 => place().prop_map(Change::CutOff),
        1 => (place(), prop::collection::vec(any::<u8>(), 1..40)).prop_map(|(at, more)| Change::PutIn(at, more)),
        1 => (place(), 1..2_000usize).prop_map(|(at, len)| Change::Repeat(at, len)),
    ]
}

impl Change {
    fn make(&self, bytes: &mut Vec<u8>) {
        let part = |at: &Index, len: usize| {
            let from = at.index(bytes.len().max(1)).min(bytes.len());
            from..(from + len).min(bytes.len())
        };
        match self {
            Self::Flip(at, bit) => part(at, 1).for_each(|at| bytes[at] ^= 1 << bit),
            Self::Claim {
                which,
                field,
                number,
            } => {
                let boxes = boxes(bytes);
                if !boxes.is_empty() {
                    let at = boxes[which.index(boxes.len())] + field * 4;
                    let end = (at + 4).min(bytes.len());
                    let at = at.min(end);
                    bytes[at..end].copy_from_slice(&number.to_be_bytes()[..end - at]);
                }
            }
            Self::CutOut(at, len) => drop(bytes.drain(part(at, *len))),
            Self::CutOff(at) => bytes.truncate(part(at, 0).start),
            Self::PutIn(at, more) => drop(bytes.splice(part(at, 0), more.iter().copied())),
            Self::Repeat(at, len) => {
                let part = part(at, *len);
                let again = bytes[part.clone()].to_vec();
                drop(bytes.splice(part.start..part.start, again));
            }
        }
    }
}

/// Where boxes seem to begin.
fn boxes(bytes: &[u8]) -> Vec<usize> {
    const KINDS: &str = "ftyp free moov mvhd trak tkhd edts elst mdia mdhd hdlr minf stbl stsd avc1 avcC mp4a esds stts ctts \
        stss stsc stsz stco co64 mvex trex moof mfhd traf tfhd tfdt trun mdat prft uuid";
    let kinds: Vec<&[u8]> = KINDS.split_whitespace().map(str::as_bytes).collect();
    let places = bytes.windows(4).enumerate().skip(4);
    let known = places.filter(|(_, four)| kinds.contains(four));
    known.map(|(place, _)| place - 4).collect()
}

/// Makes the seeds anew: `cargo test --test integration write_the_seeds -- --ignored`.
#[test]
#[ignore = "writes into tests/fuzz/corpus"]
fn write_the_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/mp4");
    let flags = "+frag_keyframe+empty_moov+default_base_moof+frag_discont+negative_cts_offsets";
    let chunk = corpus.join("chunk.mp4");
    encode(&chunk, &["-frag_duration", "200000", "-movflags", flags]);
    encode(&corpus.join("plain.mp4"), &[]);
    let video = corpus.join("growing.mp4");
    let _ = fs::remove_file(&video);
    let mut file = GrowingFile::open(&video, reader::options()).unwrap();
    let source = ChunkSource {
        run: RunNumber(1),
        index: 1,
        path: chunk,
    };
    file.catch_up(&[source]).unwrap();
    fs::copy(&video, corpus.join("finished.mp4")).unwrap();
    drop(file);
    let mut file = GrowingFile::open(corpus.join("finished.mp4"), reader::options()).unwrap();
    file.finish().unwrap();
}

fn encode(path: &Path, more: &[&str]) {
    let made = Command::new("ffmpeg")
        .args("-v error -y -nostdin -itsoffset 1795577569 -f lavfi -i".split(' '))
        .arg("sine=sample_rate=48000:duration=1")
        .args(
            "-itsoffset 1795577569 -f lavfi -i testsrc2=s=64x36:r=10:d=1 -map 1:v -map 0:a"
                .split(' '),
        )
        .args("-copyts -c:v libx264 -preset ultrafast -g 5 -pix_fmt yuv420p -crf 40".split(' '))
        .args("-fps_mode passthrough -c:a aac -b:a 24k -f mp4".split(' '))
        .args(more)
        .arg(path)
        .status();
    assert!(made.unwrap().success());
}
