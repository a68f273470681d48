//! The growing file and the joined video, against ffmpeg: what it encoded in one piece must come out frame for frame and
//! sample for sample, however it was cut, killed and taken up in between.

use ov2_ha_recorder::join::{
    ChunkSource, Fragment, GrowingFile, Init, Options, Origin, Piece, Splitter, info_json,
};
use ov2_ha_recorder::model::ids::{RecordingId, RunNumber, TakeId};
use ov2_ha_recorder::model::timeline::GapMode;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// The wall clock of the recordings made here.
const EPOCH: f64 = 1_795_577_569.0;

/// A fragmented recording with the wall clock in its stamps, as `record` has it from ffmpeg.
#[derive(Clone, Debug)]
struct Recording {
    /// Seconds after [`EPOCH`].
    at: f64,
    seconds: f64,
    keyframes: f64,
    sound: Sound,
    size: &'static str,
    rate: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sound {
    None,
    /// Begins so many seconds before the picture.
    Early(f64),
    Late(f64),
}

impl Default for Recording {
    fn default() -> Self {
        Self {
            at: 0.0,
            seconds: 6.0,
            keyframes: 2.0,
            sound: Sound::Early(0.0),
            size: "320x180",
            rate: 25,
        }
    }
}

impl Recording {
    fn make(&self, path: &Path) {
        let start = EPOCH + self.at;
        let (early, late) = match self.sound {
            Sound::Early(by) => (by, 0.0),
            Sound::Late(by) => (0.0, by),
            Sound::None => (0.0, 0.0),
        };
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-y", "-nostdin"]);
        if self.sound != Sound::None {
            let sine = format!(
                "sine=frequency=440:sample_rate=48000:duration={}",
                self.seconds + early - late
            );
            ffmpeg.args([
                "-itsoffset",
                &format!("{}", start - early + late),
                "-f",
                "lavfi",
                "-i",
                &sine,
            ]);
        }
        let picture = format!(
            "testsrc2=s={}:r={}:d={}",
            self.size, self.rate, self.seconds
        );
        ffmpeg.args([
            "-itsoffset",
            &format!("{start}"),
            "-f",
            "lavfi",
            "-i",
            &picture,
        ]);
        match self.sound {
            Sound::None => ffmpeg.args(["-map", "0:v"]),
            _ => ffmpeg.args(["-map", "1:v", "-map", "0:a"]),
        };
        ffmpeg.args([
            "-copyts",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-crf",
            "30",
            "-pix_fmt",
            "yuv420p",
        ]);
        let keys = format!(
            "expr:if(isnan(prev_forced_t),1,gte(t,prev_forced_t+{}-0.001))",
            self.keyframes
        );
        ffmpeg.args([
            "-force_key_frames",
            &keys,
            "-g",
            "100000",
            "-fps_mode",
            "passthrough",
        ]);
        ffmpeg.args(["-c:a", "aac", "-b:a", "128k", "-ar", "48000", "-f", "mp4"]);
        ffmpeg.args([
            "-movflags",
            "+frag_keyframe+empty_moov+default_base_moof+frag_discont+negative_cts_offsets",
        ]);
        ffmpeg
            .args(["-frag_duration", "500000", "-flush_packets", "1"])
            .arg(path);
        assert!(ffmpeg.status().unwrap().success());
    }

    fn pieces(&self) -> (Arc<Init>, Vec<Fragment>) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("whole.mp4");
        self.make(&path);
        pieces(&fs::read(&path).unwrap())
    }
}

fn pieces(bytes: &[u8]) -> (Arc<Init>, Vec<Fragment>) {
    let mut splitter = Splitter::new();
    let (mut init, mut fragments) = (None, Vec::new());
    for part in bytes.chunks(10_007) {
        splitter.push(part);
        while let Some(piece) = splitter.next().unwrap() {
            match piece {
                Piece::Init(found) => init = Some(found),
                Piece::Fragment(fragment) => fragments.push(fragment),
            }
        }
    }
    (init.unwrap(), fragments)
}

fn options(gap_mode: GapMode) -> Options {
    Options {
        recording: RecordingId::parse("ses_A").unwrap(),
        take: TakeId::parse("1795577569000").unwrap(),
        gap_mode,
    }
}

fn origin(run: u32, index: u32) -> Origin {
    Origin {
        run: RunNumber(run),
        index,
    }
}

/// The frames of a video, as ffmpeg decodes them.
fn frames(path: &Path) -> Vec<String> {
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(path)
        .args([
            "-map",
            "0:v",
            "-fps_mode",
            "passthrough",
            "-f",
            "framemd5",
            "-",
        ])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr), "", "ffmpeg complains");
    let text = String::from_utf8(out.stdout).unwrap();
    let hash = |line: &str| line.rsplit(',').next().unwrap().trim().to_owned();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(hash)
        .collect()
}

/// The sound of a video as samples.
fn samples(path: &Path) -> Vec<i16> {
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(path)
        .args(["-map", "0:a", "-ac", "1", "-f", "s16le", "-"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr), "", "ffmpeg complains");
    out.stdout
        .chunks_exact(2)
        .map(|two| i16::from_le_bytes([two[0], two[1]]))
        .collect()
}

fn probe(path: &Path, entries: &str) -> Vec<f64> {
    let out = Command::new("ffprobe")
        .args(["-v", "error", "-of", "csv=p=0", "-show_entries", entries])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.split([',', '\n'])
        .filter_map(|word| word.trim().parse().ok())
        .collect()
}

fn grow(path: &Path, init: &Init, fragments: &[Fragment]) -> GrowingFile {
    let mut file = GrowingFile::open(path, options(GapMode::Cut)).unwrap();
    let mut index = 0;
    for fragment in fragments {
        index += u32::from(fragment.starts_with_keyframe());
        file.append(init, fragment, origin(1, index.max(1)))
            .unwrap();
    }
    file
}

/// The recording as chunk files, cut where `record` cuts.
fn chunks(
    folder: &Path,
    run: u32,
    first: u32,
    init: &Init,
    fragments: &[Fragment],
) -> Vec<ChunkSource> {
    let mut sources: Vec<(ChunkSource, Vec<u8>)> = Vec::new();
    for fragment in fragments {
        if fragment.starts_with_keyframe() || sources.is_empty() {
            let index = first + sources.len() as u32;
            let path = folder.join(format!("r{run}-{index:04}.mp4"));
            sources.push((
                ChunkSource {
                    run: RunNumber(run),
                    index,
                    path,
                },
                init.bytes().to_vec(),
            ));
        }
        sources
            .last_mut()
            .unwrap()
            .1
            .extend_from_slice(&fragment.bytes);
    }
    for (source, bytes) in &sources {
        fs::write(&source.path, bytes).unwrap();
    }
    sources.into_iter().map(|(source, _)| source).collect()
}

fn video(folder: &TempDir) -> PathBuf {
    folder.path().join("video.mp4")
}

#[test]
fn a_growing_file_plays_at_any_moment_and_finished_equals_the_encode() {
    let folder = TempDir::new().unwrap();
    let whole = folder.path().join("whole.mp4");
    Recording::default().make(&whole);
    let (init, fragments) = pieces(&fs::read(&whole).unwrap());
    let path = video(&folder);
    let mut file = GrowingFile::open(&path, options(GapMode::Cut)).unwrap();
    assert!(!path.exists(), "nothing is there before the first frame");
    let mut shown = 0;
    for fragment in &fragments {
        file.append(&init, fragment, origin(1, 1)).unwrap();
        shown += fragment.frames();
        assert_eq!(frames(&path).len(), shown);
    }
    let growing = frames(&path);
    let finished = file.finish().unwrap();
    assert_eq!(growing, frames(&whole));
    assert_eq!(frames(&path), frames(&whole));
    assert_eq!(finished.bytes, fs::metadata(&path).unwrap().len());
    assert_eq!(finished.timeline.gaps, []);
    assert_eq!(finished.timeline.notes, Vec::<String>::new());
    assert!(
        (finished.duration.as_secs_f64() - 6.0).abs() < 0.001,
        "{finished:?}"
    );
    let starts = probe(&path, "stream=start_time");
    assert!(starts.iter().all(|start| start.abs() < 0.001), "{starts:?}");
    let rates = probe(&path, "stream=nb_frames");
    assert_eq!(rates[0], 150.0);
    assert!((probe(&path, "format=duration")[0] - 6.0).abs() < 0.03);
}

#[test]
fn sound_comes_out_sample_for_sample() {
    let folder = TempDir::new().unwrap();
    let whole = folder.path().join("whole.mp4");
    Recording::default().make(&whole);
    let (init, fragments) = pieces(&fs::read(&whole).unwrap());
    let path = video(&folder);
    grow(&path, &init, &fragments).finish().unwrap();
    // ffmpeg decodes the packet before the start too when nothing tells it to leave it out
    let (ours, theirs) = (samples(&path), samples(&whole));
    let theirs = &theirs[1024..];
    let common = ours.len().min(theirs.len());
    assert!(common > 5 * 48_000);
    assert_eq!(ours[..common], theirs[..common]);
}

#[test]
fn chunk_files_alone_give_the_same_video() {
    let folder = TempDir::new().unwrap();
    let (init, fragments) = Recording::default().pieces();
    let live = video(&folder);
    let mut live = grow(&live, &init, &fragments);
    let sources = chunks(folder.path(), 1, 1, &init, &fragments);
    let joined = folder.path().join("joined.mp4");
    let mut file = GrowingFile::open(&joined, options(GapMode::Cut)).unwrap();
    let reports = file.catch_up(&sources).unwrap();
    assert!(
        reports
            .iter()
            .all(|report| report.fault.is_none() && report.lost_bytes == 0),
        "{reports:?}"
    );
    assert_eq!(
        live.finish().unwrap().timeline,
        file.finish().unwrap().timeline
    );
    assert!(fs::read(live.path()).unwrap() == fs::read(&joined).unwrap());
}

#[test]
fn the_info_says_what_ffprobe_says() {
    let folder = TempDir::new().unwrap();
    let (init, fragments) = Recording::default().pieces();
    let path = video(&folder);
    grow(&path, &init, &fragments).finish().unwrap();
    let ours: serde_json::Value = serde_json::from_str(&info_json(&path).unwrap()).unwrap();
    let theirs = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-of",
            "json",
            "-show_format",
            "-show_streams",
        ])
        .arg(&path)
        .output()
        .unwrap();
    let theirs: serde_json::Value = serde_json::from_slice(&theirs.stdout).unwrap();
    for member in [
        "nb_streams",
        "duration",
        "size",
        "bit_rate",
        "format_name",
        "start_time",
    ] {
        assert_eq!(ours["format"][member], theirs["format"][member], "{member}");
    }
    let members = [
        "codec_type",
        "codec_name",
        "codec_long_name",
        "width",
        "height",
        "r_frame_rate",
        "avg_frame_rate",
        "profile",
        "level",
        "time_base",
        "nb_frames",
        "sample_rate",
        "channels",
        "codec_tag_string",
    ];
    for (number, member) in (0..2).flat_map(|number| members.map(|member| (number, member))) {
        let known = &theirs["streams"][number][member];
        let is_audio = theirs["streams"][number]["codec_type"] == "audio";
        if !known.is_null() && !(is_audio && member == "profile") {
            assert_eq!(
                &ours["streams"][number][member], known,
                "{member} of stream {number}"
            );
        }
    }
}
