use super::super::boxes;
use super::super::fragment::{Media, Sample, TrackFragment};
use super::super::moov::TrackOut;
use super::mux::{reference, wall};
use super::*;
use crate::model::ids::{RecordingId, RunNumber, TakeId};
use crate::model::timeline::GapMode;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// A stream of one-second fragments with one frame each, without an encoder: what the frames show does not matter here.
fn stream() -> Init {
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
    let track = TrackOut {
        media: Media::Video,
        timescale: 12_800,
        size: (64, 64),
        lead: 0,
        entries: vec![entry.into()],
    };
    Init::read(bytes::Bytes::new(), moov::growing(&[track]).unwrap().into()).unwrap()
}

fn fragment(at: u64) -> (Head, Vec<u8>) {
    let sample = Sample {
        at: 8,
        size: 4,
        duration: 12_800,
        shown: 0,
        sync: true,
    };
    let part = TrackFragment {
        start: at * 12_800,
        timescale: 12_800,
        description: 0,
        samples: vec![sample],
    };
    let head = Head {
        moof_len: 0,
        len: 12,
        video: Some(part),
        audio: None,
    };
    (head, b"\0\0\0\x0cmdatabcd".to_vec())
}

fn options(gap_mode: GapMode) -> Options {
    Options {
        recording: RecordingId::parse("ses_A").unwrap(),
        take: TakeId::parse("1").unwrap(),
        gap_mode,
    }
}

const NOW: u64 = 1_795_577_569;
const ONE: Origin = Origin {
    run: RunNumber(1),
    index: 1,
};

fn add(file: &mut GrowingFile, init: &Init, at: u64) {
    let (head, media) = fragment(at);
    assert!(file.add(init, &head, Payload::Memory(&media), ONE).unwrap());
}

/// The body of the last box of `kind` near the end of the file.
fn table(path: &Path, kind: &[u8; 4]) -> Vec<u8> {
    let mut file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(len.saturating_sub(8 << 10)))
        .unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let at = bytes.windows(4).rposition(|four| four == kind).unwrap();
    bytes[at + 4..].to_vec()
}

#[test]
fn a_video_over_four_gibibytes_names_its_places_in_64_bits_and_is_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("video.mp4");
    let init = stream();
    let mut file = GrowingFile::open(&path, options(GapMode::Cut)).unwrap();
    add(&mut file, &init, NOW);
    // five gibibytes that take no room on the disk
    let open = file.open.as_mut().unwrap();
    let skipped = 5u64 << 30;
    let mut header = moov::media_header(skipped);
    header[4..8].copy_from_slice(b"free");
    open.file.write_all_at(&header, open.end).unwrap();
    open.end += skipped;
    add(&mut file, &init, NOW + 1);
    drop(file);
    let mut file = GrowingFile::open(&path, options(GapMode::Cut)).unwrap();
    add(&mut file, &init, NOW + 2);
    let finished = file.finish().unwrap();
    assert!(finished.bytes > skipped);
    assert_eq!(finished.duration.as_secs(), 3);
    let places = table(&path, b"co64");
    assert_eq!(boxes::be32(&places, 4), Some(3));
    assert!(boxes::be64(&places, 16).unwrap() > skipped);
    super::super::verify(&path, &[]).unwrap();
}

#[test]
fn what_cannot_be_opened_is_put_aside_and_the_video_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("video.mp4");
    fs::create_dir_all(path.join("what somebody made here")).unwrap();
    assert!(GrowingFile::open(&path, options(GapMode::Cut)).is_err());
    let mut file = GrowingFile::open_or_put_aside(&path, options(GapMode::Cut)).unwrap();
    add(&mut file, &stream(), NOW);
    assert!(file.finish().unwrap().regular);
    let aside = folder.path().join(".video.mp4.unreadable-1");
    assert!(aside.join("what somebody made here").is_dir());
}

#[test]
fn what_is_needed_to_finish_is_known_before_and_the_file_describes_itself_alike() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("video.mp4");
    let mut file = GrowingFile::open(&path, options(GapMode::Cut)).unwrap();
    (0..100).for_each(|number| add(&mut file, &stream(), NOW + number * number));
    let (grown, needed) = (file.bytes(), file.bytes_to_finish());
    let unfinished = file.leave_unfinished().unwrap();
    assert_eq!((unfinished.regular, unfinished.bytes), (false, grown));
    let finished = file.finish().unwrap();
    let timeline = serde_json::to_vec_pretty(&finished.timeline).unwrap();
    let took = finished.bytes - grown + timeline.len() as u64;
    assert!((took..took * 4).contains(&needed), "{needed} for {took}");
    assert_eq!(finished.info, super::super::info_json(&path).unwrap());
    assert_eq!(finished.duration, unfinished.duration);
}

#[test]
fn a_video_of_days_has_the_length_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("video.mp4");
    let init = stream();
    let mut file = GrowingFile::open(&path, options(GapMode::Hold)).unwrap();
    let hours = 11;
    for number in 0..10 {
        add(&mut file, &init, NOW + number * hours * 3600);
    }
    let finished = file.finish().unwrap();
    let seconds = 9 * hours * 3600 + 1;
    assert_eq!(
        finished.duration.as_secs(),
        seconds,
        "more than 32 bits of ticks"
    );
    let info = super::super::info_json(&path).unwrap();
    assert!(
        info.contains(&format!("\"duration\": \"{seconds}.000000\"")),
        "{info}"
    );
    drop(file);
    assert_eq!(super::super::timeline_of(&path).unwrap(), finished.timeline);
}

#[test]
fn a_clock_that_was_wrong_by_years_makes_no_video_of_years() {
    let folder = tempfile::tempdir().unwrap();
    let init = stream();
    let path = folder.path().join("video.mp4");
    let mut file = GrowingFile::open(path, options(GapMode::Hold)).unwrap();
    add(&mut file, &init, 1_000);
    add(&mut file, &init, NOW);
    add(&mut file, &init, NOW + 3);
    assert_eq!(file.finish().unwrap().duration.as_secs(), 5);
}

#[test]
fn the_wall_clock_is_read_back_to_the_tick_also_after_2036() {
    for seconds in [
        0,
        1_795_577_569,
        2_085_978_496,
        2_085_978_495,
        4_000_000_000,
    ] {
        for part in [0, 1, 512, 12_799] {
            let ticks = seconds * 12_800 + part;
            assert_eq!(wall(&reference(ticks, 7, 12_800), 12_800), ticks);
        }
    }
}
