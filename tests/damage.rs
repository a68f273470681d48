//! Every box of a chunk, of a growing video and of a finished one is damaged in turn: its type or its length is overwritten, or
//! the file ends within it. What lies in other chunks is in the video all the same, a damaged video is gone on with or built
//! anew, and what is lost is named.

use ov2_ha_recorder::join::{
    ChunkSource, GrowingFile, Options, Piece, Splitter, info_json, join_chunks, timeline_of, verify,
};
use ov2_ha_recorder::model::ids::{RecordingId, RunNumber, TakeId};
use ov2_ha_recorder::model::timeline::GapMode;
use std::fs;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What is done to a box.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// Its type is four zeros.
    Nameless,
    /// It claims to have no byte.
    Empty,
    /// It claims to have four gigabytes.
    Huge,
    /// It claims to have half of its bytes.
    Half,
    /// The file ends within it.
    CutOff,
}

const ALL: [Damage; 5] = [
    Damage::Nameless,
    Damage::Empty,
    Damage::Huge,
    Damage::Half,
    Damage::CutOff,
];

impl Damage {
    fn to(self, whole: &[u8], span: &Range<usize>) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        let mut claim = |len: u32| {
            bytes[span.start..span.start + 4].copy_from_slice(&len.to_be_bytes());
        };
        match self {
            Self::Nameless => bytes[span.start + 4..span.start + 8].fill(0),
            Self::Empty => claim(0),
            Self::Huge => claim(u32::MAX - 15),
            Self::Half => claim(span.len() as u32 / 2),
            Self::CutOff => bytes.truncate(span.start + span.len() / 2),
        }
        bytes
    }
}

/// Three chunks of two seconds, in memory where that is possible: each case writes a video.
struct Take {
    folder: TempDir,
    chunks: Vec<ChunkSource>,
    /// How many fragments each has.
    fragments: Vec<u32>,
}

impl Take {
    fn record() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => TempDir::new_in(memory).unwrap(),
            false => TempDir::new().unwrap(),
        };
        let whole = folder.path().join("whole.mp4");
        encode(&whole);
        let mut splitter = Splitter::new();
        splitter.push(&fs::read(&whole).unwrap());
        let mut chunks: Vec<Vec<u8>> = Vec::new();
        let (mut init, mut fragments) = (Vec::new(), Vec::new());
        while let Some(piece) = splitter.next().unwrap() {
            match piece {
                Piece::Init(found) => init = found.bytes().to_vec(),
                Piece::Fragment(fragment) => {
                    if fragment.starts_with_keyframe() {
                        chunks.push(init.clone());
                        fragments.push(0);
                    }
                    chunks.last_mut().unwrap().extend(&fragment.bytes);
                    *fragments.last_mut().unwrap() += 1;
                }
            }
        }
        assert_eq!(chunks.len(), 3);
        let write = |(index, bytes): (u32, Vec<u8>)| {
            let path = folder.path().join(format!("{index:04}.mp4"));
            fs::write(&path, bytes).unwrap();
            ChunkSource {
                run: RunNumber(1),
                index,
                path,
            }
        };
        let chunks = (1..).zip(chunks).map(write).collect();
        Self {
            folder,
            chunks,
            fragments,
        }
    }

    fn video(&self) -> PathBuf {
        self.folder.path().join("video.mp4")
    }

    fn open(&self) -> GrowingFile {
        GrowingFile::open_or_put_aside(&self.video(), options()).unwrap()
    }

    /// Clears away the video and what was put aside.
    fn clear(&self) {
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if !self.chunks.iter().any(|chunk| chunk.path == path) {
                fs::remove_file(path).unwrap();
            }
        }
    }

    /// A video that was left as these bytes is taken up, and has all of the take in the end.
    fn is_made_whole(&self, left: &[u8], case: &str) {
        self.clear();
        fs::write(self.video(), left).unwrap();
        // What is told of it meanwhile is an answer or an error that says what is wrong.
        let asked = [
            timeline_of(&self.video()).map(drop),
            info_json(&self.video()).map(drop),
            verify(&self.video(), &self.chunks).map(drop),
        ];
        for error in asked.into_iter().filter_map(Result::err) {
            assert!(error.to_string().contains("video.mp4"), "{case}: {error}");
        }
        let mut file = self.open();
        for caught_up in file.catch_up(&self.chunks).unwrap() {
            assert_eq!(caught_up.fault, None, "{case}");
            assert!(!caught_up.late, "{case}: {caught_up:?}");
        }
        let finished = file.finish().unwrap();
        assert_eq!(finished.timeline.gaps, [], "{case}");
        let seconds = finished.duration.as_secs_f64();
        assert!((seconds - 6.0).abs() < 0.01, "{case}: {seconds} s");
        drop(file);
        let checked = verify(&self.video(), &self.chunks).or_else(|why| {
            let why = why.to_string();
            // What describes the media is taken as it is; that it is not what the chunks say is found before these go.
            assert!(case.contains("/moov"), "{case}: {why}");
            assert!(why.contains("join them again"), "{case}: {why}");
            let out = self.video();
            join_chunks(&self.chunks, &out, options(), &mut |_| {}).unwrap();
            verify(&out, &self.chunks)
        });
        let checked = checked.unwrap();
        let all: u32 = self.fragments.iter().sum();
        assert_eq!(checked.fragments as u32, all, "{case}");
    }
}

#[test]
fn damage_at_any_box_of_a_chunk_costs_no_other_chunk() {
    let take = Take::record();
    let whole = fs::read(&take.chunks[1].path).unwrap();
    each_damage(&whole, boxes(&whole), |damaged, case| {
        take.clear();
        fs::write(&take.chunks[1].path, damaged).unwrap();
        let mut file = take.open();
        let caught_up = file.catch_up(&take.chunks).unwrap();
        for (number, chunk) in caught_up.iter().enumerate().filter(|(it, _)| *it != 1) {
            let all = take.fragments[number];
            assert_eq!((&chunk.fault, chunk.fragments), (&None, all), "{case}");
        }
        let second = &caught_up[1];
        let has_all = second.fragments == take.fragments[1];
        assert!(second.lost_bytes > 0 || has_all, "{case}: {second:?}");
        let timeline = file.finish().unwrap().timeline;
        assert!(has_all || !timeline.gaps.is_empty(), "{case}: {timeline:?}");
        let others = [take.chunks[0].clone(), take.chunks[2].clone()];
        verify(&take.video(), &others).unwrap();
    });
}

#[test]
fn damage_at_any_box_of_a_growing_video_is_made_good_from_the_chunks() {
    let take = Take::record();
    take.open().catch_up(&take.chunks).unwrap();
    let whole = fs::read(take.video()).unwrap();
    each_damage(&whole, boxes(&whole), |left, case| {
        take.is_made_whole(left, case)
    });
}

#[test]
fn damage_at_any_box_of_a_finished_video_is_made_good_from_the_chunks() {
    let take = Take::record();
    let mut file = take.open();
    file.catch_up(&take.chunks).unwrap();
    let growing = fs::read(take.video()).unwrap();
    file.finish().unwrap();
    drop(file);
    let whole = fs::read(take.video()).unwrap();
    // The growing video's boxes lie within one by now.
    let inner = boxes(&growing);
    let inner = inner.into_iter().filter(|(_, span)| span.start > 0);
    let all = boxes(&whole).into_iter().chain(inner);
    each_damage(&whole, all, |left, case| take.is_made_whole(left, case));
}

/// Does every damage to each of these boxes of `whole`, and names all cases that are not as `check` wants them.
fn each_damage(
    whole: &[u8],
    boxes: impl IntoIterator<Item = (String, Range<usize>)>,
    check: impl Fn(&[u8], &str),
) {
    let mut wrong = Vec::new();
    for (name, span) in boxes {
        for damage in ALL {
            let case = format!("{damage:?} at {name} {span:?}");
            let damaged = damage.to(whole, &span);
            let checked = catch_unwind(AssertUnwindSafe(|| check(&damaged, &case)));
            wrong.extend(checked.is_err().then_some(case));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn options() -> Options {
    Options {
        recording: RecordingId::parse("ses_A").unwrap(),
        take: TakeId::parse("1795577569000").unwrap(),
        gap_mode: GapMode::Cut,
    }
}

/// Every box in `bytes`, and in the boxes that consist of boxes, by its path.
fn boxes(bytes: &[u8]) -> Vec<(String, Range<usize>)> {
    let mut all = Vec::new();
    walk(bytes, 0..bytes.len(), "", &mut all);
    assert!(all.len() > 30, "{all:?}");
    all
}

fn walk(bytes: &[u8], span: Range<usize>, above: &str, all: &mut Vec<(String, Range<usize>)>) {
    let mut at = span.start;
    while at + 8 <= span.end {
        let four = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let kind = &bytes[at + 4..at + 8];
        let len = match four(at) {
            1 => four(at + 12) as usize,
            len => len as usize,
        };
        let name = format!("{above}/{}", String::from_utf8_lossy(kind));
        all.push((name.clone(), at..at + len));
        let before_boxes = match kind {
            b"moov" | b"trak" | b"edts" | b"mdia" | b"minf" | b"dinf" | b"stbl" | b"mvex"
            | b"moof" | b"traf" => Some(8),
            b"stsd" | b"dref" => Some(16),
            b"avc1" => Some(86),
            b"mp4a" => Some(36),
            _ => None,
        };
        if let Some(before) = before_boxes {
            walk(bytes, at + before..at + len, &name, all);
        }
        at += len;
    }
}

fn encode(path: &Path) {
    let made = Command::new("ffmpeg")
        .args("-v error -y -nostdin -itsoffset 1795577569 -f lavfi -i".split(' '))
        .arg("sine=sample_rate=48000:duration=6")
        .args(
            "-itsoffset 1795577569 -f lavfi -i testsrc2=s=64x36:r=10:d=6 -map 1:v -map 0:a"
                .split(' '),
        )
        .args("-copyts -c:v libx264 -preset ultrafast -g 20 -pix_fmt yuv420p -crf 40".split(' '))
        .args("-fps_mode passthrough -c:a aac -b:a 24k -f mp4 -frag_duration 1000000".split(' '))
        .arg("-movflags")
        .arg("+frag_keyframe+empty_moov+default_base_moof+frag_discont+negative_cts_offsets")
        .arg(path)
        .status();
    assert!(made.unwrap().success());
}
