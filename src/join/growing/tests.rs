use super::super::boxes;
use super::super::fragment::{Sample, TrackFragment};
use super::super::samples;
use super::mux::{reference, wall};
use super::*;
use crate::model::ids::{RecordingId, RunNumber, TakeId};
use crate::model::timeline::GapMode;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// A stream of one-second fragments with one frame each.
fn stream() -> Init {
    let moov = moov::growing(&[samples::track()]).unwrap();
    Init::read(bytes::Bytes::new(), moov.into()).unwrap()
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
    add_to(file, init, at, ONE.index);
}

fn add_to(file: &mut GrowingFile, init: &Init, at: u64, index: u32) {
    let (head, media) = fragment(at);
    let origin = Origin { index, ..ONE };
    let added = file.add(init, &head, Payload::Memory(&media), origin);
    assert!(added.unwrap());
}

/// A video of ten chunks with three frames each and gaps between some of them, noted in its index.
fn indexed(path: &Path) -> GrowingFile {
    let file = GrowingFile::open(path, options(GapMode::Cut)).unwrap();
    let (mut file, init) = (file.with_index(), stream());
    for index in 1..=10 {
        for second in 0..3 {
            let at = NOW + u64::from(index) * 3 + second + u64::from(index / 4);
            add_to(&mut file, &init, at, index);
        }
        if index == 5 {
            let origin = Origin { index, ..ONE };
            file.mark_lost(origin, 7).unwrap();
        }
    }
    file
}

/// The video at `path` with one more chunk, finished.
fn gone_on_with(path: &Path) -> (Finished, Vec<u8>) {
    let mut file = GrowingFile::open(path, options(GapMode::Cut)).unwrap();
    add_to(&mut file, &stream(), NOW + 60, 11);
    let finished = file.finish().unwrap();
    (finished, fs::read(path).unwrap())
}

#[test]
fn a_video_is_taken_up_from_its_index_as_from_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (
        folder.path().join("video.mp4"),
        folder.path().join("other.mp4"),
    );
    drop(indexed(&path));
    let index = folder.path().join(".video.mp4.index");
    let entries = fs::read_to_string(&index).unwrap();
    assert_eq!(
        entries.lines().count(),
        9,
        "an entry at the start of each chunk but the first"
    );
    fs::copy(&path, &other).unwrap();
    let file = File::open(&path).unwrap();
    let scanned = State::scan_indexed(&file, &path).unwrap().unwrap();
    assert_eq!(scanned.media.len(), 3, "the last chunk alone is read");
    assert_eq!(last_indexed_chunk(&path), Some(10));
    let (with, without) = (gone_on_with(&path), gone_on_with(&other));
    assert_eq!(with.0.timeline, without.0.timeline);
    assert!(with.1 == without.1);
    assert!(!index.exists(), "a finished video needs none");
    super::super::verify(&path, &[]).unwrap();
}

#[test]
fn an_index_that_does_not_fit_the_video_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.mp4");
    drop(indexed(&whole));
    let (video, index) = (
        fs::read(&whole).unwrap(),
        fs::read(beside(&whole, "index")).unwrap(),
    );
    let (as_it_is, _) = gone_on_with(&whole);
    type Change = fn(&mut Vec<u8>, &mut Vec<u8>);
    let changes: [(&str, Change); 5] = [
        ("cut in a line", |_, index| index.truncate(index.len() - 5)),
        ("a wrong digit", |_, index| {
            let at = index.len() / 2;
            index[at] ^= 1;
        }),
        ("no text", |_, index| index[0] = 0xff),
        ("empty", |_, index| index.clear()),
        ("of another video", |_, index| {
            let text = String::from_utf8(index.clone()).unwrap();
            *index = text.replace("guard", "drawg").into_bytes();
        }),
    ];
    for (what, change) in changes {
        let path = folder.path().join("changed.mp4");
        let (mut video, mut index) = (video.clone(), index.clone());
        change(&mut video, &mut index);
        fs::write(&path, video).unwrap();
        fs::write(beside(&path, "index"), index).unwrap();
        let (finished, _) = gone_on_with(&path);
        assert_eq!(finished.timeline, as_it_is.timeline, "{what}");
        fs::remove_file(&path).unwrap();
    }
    // The video lost its end with the power, and what is noted of that end does not hold.
    let path = folder.path().join("shorter.mp4");
    let file = File::open(&whole).unwrap();
    let scanned = State::scan(&file, &whole).unwrap().unwrap();
    let cut = scanned.media[16].at;
    fs::write(&path, &video[..cut as usize]).unwrap();
    fs::write(beside(&path, "index"), &index).unwrap();
    let mut file = GrowingFile::open(&path, options(GapMode::Cut)).unwrap();
    assert_eq!(file.last().map(|origin| origin.index), Some(6));
    assert_eq!(file.finish().unwrap().duration.as_secs(), 16);
}

#[test]
fn a_video_that_is_damaged_in_its_middle_is_put_aside_and_never_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("video.mp4");
    for finished in [false, true] {
        let mut file = indexed(&path);
        if finished {
            file.finish().unwrap();
        }
        drop(file);
        let _ = fs::remove_file(beside(&path, "index"));
        let mut bytes = fs::read(&path).unwrap();
        // The front takes half of so short a video.
        let middle = bytes.len() * 3 / 4;
        let moof = bytes[middle..]
            .windows(4)
            .position(|four| four == b"moof")
            .unwrap();
        bytes[middle + moof] = 0;
        fs::write(&path, &bytes).unwrap();
        let mut file = GrowingFile::open(&path, options(GapMode::Cut)).unwrap();
        assert_eq!(file.last(), None, "it begins anew");
        add(&mut file, &stream(), NOW);
        assert_eq!(file.finish().unwrap().duration.as_secs(), 1);
        let suffix = if finished { "damaged-1-2" } else { "damaged-1" };
        assert!(fs::read(beside(&path, suffix)).unwrap() == bytes);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_finished_video_that_lost_its_end_is_one_that_grows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("video.mp4");
    indexed(&path).finish().unwrap();
    let whole = fs::read(&path).unwrap();
    let (as_it_is, expected) = gone_on_with(&path);
    let moov = whole.len() - 100;
    fs::write(&path, &whole[..moov]).unwrap();
    let file = GrowingFile::open(&path, options(GapMode::Cut)).unwrap();
    assert_eq!(file.last().map(|origin| origin.index), Some(10));
    drop(file);
    let grows = fs::read(&path).unwrap();
    assert_eq!(&grows[40..44], b"free", "players find its fragments again");
    let (finished, bytes) = gone_on_with(&path);
    assert_eq!(finished.timeline, as_it_is.timeline);
    assert!(bytes == expected);
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
