//! Reads a recording of `tests/fixtures/clock.html` back: which moments of wall-clock time its frames show, what is
//! missing between them, and whether the beeps of the page sound when its clock says so.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

/// A hole must be longer than this many seconds to count: page, display and capture may each be a few frames late.
const TOLERANCE: f64 = 0.3;
/// More than a tone's length, in seconds.
const TONE: f64 = 0.1;
/// Samples a second of the sound that is looked at.
const RATE: u32 = 8_000;

/// What a recording shows.
#[derive(Debug)]
pub struct Footage {
    /// Every frame in the order of showing.
    pub frames: Vec<Frame>,
    /// What is heard, in order.
    pub beeps: Vec<Beep>,
    /// Loudest sample, 0 to 1.
    pub peak: f32,
    /// What the decoder complained of.
    pub decode_errors: Vec<String>,
    /// `format.duration` as ffprobe gives it.
    pub duration: f64,
}

/// One tone of the page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beep {
    /// When it begins, in seconds of file time.
    pub at: f64,
    /// The last digit of the second of the clock that it names by its pitch.
    pub digit: u8,
}

impl Beep {
    /// The second that it names, of those around `clock`.
    fn second(&self, clock: f64) -> f64 {
        let near = clock.round();
        let later = (f64::from(self.digit) - near).rem_euclid(10.0);
        near + if later > 5.0 { later - 10.0 } else { later }
    }
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// When it is shown, in seconds of file time.
    pub at: f64,
    /// The wall clock it shows, in seconds since the epoch; `None` when the page is not to be seen.
    pub clock: Option<f64>,
}

/// Wall-clock time that no frame shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hole {
    /// Where it lies, in seconds of file time.
    pub at: f64,
    /// The clock of the last frame before it.
    pub from: f64,
    /// Its length in seconds.
    pub seconds: f64,
}

/// One moment of the clock and how long the file shows it.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: f64,
    clock: f64,
    shown: f64,
}

impl Footage {
    /// Decodes all of `video`.
    pub fn read(video: &Path) -> Self {
        let (frames, decode_errors) = decode_video(video);
        let (beeps, peak) = beeps(&decode_audio(video));
        Self {
            frames,
            beeps,
            peak,
            decode_errors,
            duration: duration(video),
        }
    }

    /// The wall clock of the first frame that shows the page.
    pub fn first_clock(&self) -> f64 {
        self.moments()
            .first()
            .expect("no frame shows the page")
            .clock
    }

    /// The wall clock of the last frame that shows the page.
    pub fn last_clock(&self) -> f64 {
        self.moments()
            .last()
            .expect("no frame shows the page")
            .clock
    }

    /// Seconds of file time before the page is seen for the first time.
    pub fn blank_at_start(&self) -> f64 {
        self.moments()
            .first()
            .map_or(self.duration, |first| first.at)
    }

    /// Everything that is missing between the first and the last frame, in order.
    pub fn holes(&self) -> Vec<Hole> {
        self.moments()
            .windows(2)
            .filter_map(|pair| {
                let seconds = pair[1].clock - pair[0].clock - pair[0].shown;
                (seconds > TOLERANCE).then_some(Hole {
                    at: pair[1].at,
                    from: pair[0].clock,
                    seconds,
                })
            })
            .collect()
    }

    /// Seconds missing in all.
    pub fn missing(&self) -> f64 {
        self.holes().iter().map(|hole| hole.seconds).sum()
    }

    /// Frames between the first and the last that show a clock, that show none.
    pub fn blank(&self) -> usize {
        let clocks = || self.frames.iter().map(|frame| frame.clock);
        let first = clocks().position(|clock| clock.is_some()).unwrap_or(0);
        let last = clocks().rposition(|clock| clock.is_some()).unwrap_or(0);
        let shown = self.frames.get(first..last).unwrap_or_default();
        shown.iter().filter(|frame| frame.clock.is_none()).count()
    }

    /// Frames that show an earlier time than the frame before them.
    pub fn repeated(&self) -> usize {
        let moments = self.moments();
        moments
            .windows(2)
            .filter(|pair| pair[1].clock < pair[0].clock)
            .count()
    }

    /// The longest time for which the same moment stands, in seconds.
    pub fn longest_stall(&self) -> f64 {
        self.moments()
            .iter()
            .map(|moment| moment.shown)
            .fold(0.0, f64::max)
    }

    /// The clock's seconds from the first frame to the end of the last, without what is missing: what the file should play.
    pub fn clock_span(&self) -> f64 {
        let last = self.moments().last().map_or(0.0, |moment| moment.shown);
        self.last_clock() - self.first_clock() + last - self.missing()
    }

    /// For every beep how much later than the picture it comes, in seconds; negative when it is early.
    pub fn sound_offsets(&self) -> Vec<f64> {
        let offsets = self.beeps.iter().filter_map(|beep| self.offset(beep));
        offsets.collect()
    }

    /// The same between two holes each, as the stretches follow each other: what one capture gave.
    pub fn sound_offsets_by_stretch(&self) -> Vec<Vec<f64>> {
        let holes = self.holes();
        let mut stretches = vec![Vec::new(); holes.len() + 1];
        for beep in &self.beeps {
            let stretch = holes.partition_point(|hole| hole.at <= beep.at);
            stretches[stretch].extend(self.offset(beep));
        }
        stretches
    }

    /// `None` beside a cut: what is heard there may be the rest of a tone, or the beginning of one of the other side.
    fn offset(&self, beep: &Beep) -> Option<f64> {
        let is_beside = |hole: &Hole| (hole.at - beep.at).abs() < TONE;
        if self.holes().iter().any(is_beside) {
            return None;
        }
        let clock = beep.at + self.clock_ahead(beep.at)?;
        Some(clock - beep.second(clock))
    }

    /// By how much the picture's clock is ahead of file time at `at`. A page paints when it comes to it, so the median of
    /// the frames around counts, as far as no cut lies between.
    fn clock_ahead(&self, at: f64) -> Option<f64> {
        const AROUND: f64 = 0.5;
        let ahead = |frame: &Frame| Some(frame.clock? - frame.at);
        let place = self.frames.partition_point(|frame| frame.at <= at);
        let here = ahead(self.frames.get(place.checked_sub(1)?)?)?;
        let near = |frame: &&Frame| (frame.at - at).abs() < AROUND;
        // a step of the clock against file time is a cut: what lies behind it says nothing here
        let up_to_a_cut = |last: &mut f64, frame: &Frame| {
            let now = ahead(frame)?;
            let step = (now - std::mem::replace(last, now)).abs();
            (step < TOLERANCE).then_some(now)
        };
        let (before, after) = self.frames.split_at(place);
        let before = before.iter().rev().take_while(near);
        let mut around: Vec<f64> = before.scan(here, up_to_a_cut).collect();
        around.extend(after.iter().take_while(near).scan(here, up_to_a_cut));
        around.sort_by(f64::total_cmp);
        around.get(around.len() / 2).copied()
    }

    /// The median of [`Self::sound_offsets`].
    pub fn sound_offset(&self) -> f64 {
        median(&self.sound_offsets()).expect("no beep is heard")
    }

    /// Whole seconds of the clock that the picture shows but that no beep marks. Those near the file's ends or a hole do not
    /// count: a page that has just been opened lays its first beep once it can rely on its audio clock, after up to twenty
    /// readings of a tenth of a second.
    pub fn silent_seconds(&self) -> Vec<f64> {
        let margin = 2.0;
        let holes = self.holes();
        let near_hole = |second: f64| {
            holes.iter().any(|hole| {
                second > hole.from - margin && second < hole.from + hole.seconds + margin
            })
        };
        let heard: Vec<f64> = self
            .beeps
            .iter()
            .filter_map(|beep| self.clock_at(beep.at))
            .collect();
        let first = (self.first_clock() + margin).ceil() as i64;
        let last = (self.last_clock() - margin).floor() as i64;
        (first..=last)
            .map(|second| second as f64)
            .filter(|second| !near_hole(*second))
            .filter(|second| !heard.iter().any(|clock| (clock - second).abs() < 0.4))
            .collect()
    }

    /// The clock that the picture shows at a file time, moved on from the frame's own stamp.
    fn clock_at(&self, at: f64) -> Option<f64> {
        let after = self.frames.partition_point(|frame| frame.at <= at);
        let frame = self.frames.get(after.checked_sub(1)?)?;
        Some(frame.clock? + at - frame.at)
    }

    /// The readable frames, those that show the same moment taken together.
    fn moments(&self) -> Vec<Moment> {
        let mut moments: Vec<Moment> = Vec::new();
        for (number, frame) in self.frames.iter().enumerate() {
            let Some(clock) = frame.clock else { continue };
            let until = self
                .frames
                .get(number + 1)
                .map_or(self.duration, |next| next.at);
            let shown = (until - frame.at).max(0.0);
            match moments.last_mut() {
                Some(last) if last.clock == clock => last.shown += shown,
                _ => moments.push(Moment {
                    at: frame.at,
                    clock,
                    shown,
                }),
            }
        }
        moments
    }
}

/// The cells of every frame, and what the decoder said in error.
fn decode_video(video: &Path) -> (Vec<Frame>, Vec<String>) {
    let mut child = Command::new("ffmpeg")
        .args(["-hide_banner", "-nostats", "-loglevel", "level+info", "-i"])
        .arg(video)
        .args([
            "-map",
            "0:v:0",
            "-vf",
            "scale=8:8:flags=area,format=gray,showinfo=checksum=0",
        ])
        .args(["-fps_mode", "passthrough", "-f", "rawvideo", "pipe:1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ffmpeg is needed to read a recording");
    let log = BufReader::new(child.stderr.take().unwrap());
    let reader = thread::spawn(move || read_log(log));
    let mut cells = Vec::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut cells)
        .unwrap();
    let (stamps, mut errors) = reader.join().unwrap();
    let status = child.wait().unwrap();
    if !status.success() {
        errors.push(format!("ffmpeg ended with {status}"));
    }
    if stamps.len() != cells.len() / 64 {
        errors.push(format!(
            "{} stamps for {} frames",
            stamps.len(),
            cells.len() / 64
        ));
    }
    let frames = stamps
        .into_iter()
        .zip(cells.chunks_exact(64))
        .map(|(at, cells)| Frame {
            at,
            clock: clock_of(cells),
        })
        .collect();
    (frames, errors)
}

/// The frames' stamps and the errors among ffmpeg's lines.
fn read_log(log: impl BufRead) -> (Vec<f64>, Vec<String>) {
    let mut stamps = Vec::new();
    let mut errors = Vec::new();
    for line in log.split(b'\n') {
        let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
        if line.contains("[error]") || line.contains("[fatal]") {
            errors.push(line);
        } else if let Some((_, rest)) = line.split_once("pts_time:") {
            let stamp = rest.split_whitespace().next().unwrap_or_default();
            stamps.push(stamp.parse().unwrap_or(f64::NAN));
        }
    }
    (stamps, errors)
}

/// The clock in eight times eight gray cells, in seconds; `None` when the checksum does not hold.
fn clock_of(cells: &[u8]) -> Option<f64> {
    let mut bytes = [0u8; 7];
    for (bit, cell) in cells.iter().take(56).enumerate() {
        bytes[bit / 8] |= u8::from(*cell > 127) << (7 - bit % 8);
    }
    let millis = bytes[..6]
        .iter()
        .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let plausible = 1_500_000_000_000..5_000_000_000_000;
    (crc(&bytes[..6]) == bytes[6] && plausible.contains(&millis)).then_some(millis as f64 / 1000.0)
}

fn crc(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0xff, |sum, byte| {
        (0..8).fold(sum ^ byte, |crc: u8, _| {
            if crc & 0x80 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x07
            }
        })
    })
}

/// The sound as samples of file time: what is missing in it is silence.
fn decode_audio(video: &Path) -> Vec<f32> {
    let output = Command::new("ffmpeg")
        .args(["-v", "quiet", "-i"])
        .arg(video)
        .args([
            "-map",
            "0:a:0?",
            "-af",
            "aresample=async=1:first_pts=0",
            "-ac",
            "1",
        ])
        .args(["-ar", &RATE.to_string(), "-f", "f32le", "pipe:1"])
        .stdin(Stdio::null())
        .output()
        .expect("ffmpeg is needed to read a recording");
    let sample = |four: &[u8]| f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    output.stdout.chunks_exact(4).map(sample).collect()
}

/// Where it becomes loud after at least 0.3 s of quiet, and the loudest sample.
fn beeps(samples: &[f32]) -> (Vec<Beep>, f32) {
    let peak = samples
        .iter()
        .fold(0.0f32, |peak, sample| peak.max(sample.abs()));
    let threshold = (peak * 0.3).max(0.02);
    let mut found = Vec::new();
    let mut quiet_since = 0usize;
    for (at, sample) in samples.iter().enumerate() {
        if sample.abs() >= threshold {
            if at - quiet_since >= RATE as usize * 3 / 10 || found.is_empty() {
                found.push(Beep {
                    at: at as f64 / f64::from(RATE),
                    digit: digit(&samples[at..]),
                });
            }
            quiet_since = at;
        }
    }
    (found, peak)
}

/// The digit whose tone is the loudest at the beginning of `samples`: 600 Hz is zero, and 100 Hz lie between two.
fn digit(samples: &[f32]) -> u8 {
    let tone = &samples[..samples.len().min(RATE as usize * 6 / 100)];
    let strength = |digit: u8| {
        let angle = std::f32::consts::TAU * (600.0 + 100.0 * f32::from(digit)) / RATE as f32;
        let (mut real, mut imaginary) = (0.0, 0.0);
        for (at, sample) in tone.iter().enumerate() {
            let (sin, cos) = (angle * at as f32).sin_cos();
            real += sample * cos;
            imaginary += sample * sin;
        }
        real.hypot(imaginary)
    };
    let louder = |one: &u8, other: &u8| strength(*one).total_cmp(&strength(*other));
    (0..10).max_by(louder).unwrap_or_default()
}

/// The middle one.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

fn duration(video: &Path) -> f64 {
    probe(video, "format=duration")
        .trim()
        .parse()
        .unwrap_or(f64::NAN)
}

/// What ffprobe says of `entries`, values only.
pub fn probe(video: &Path, entries: &str) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", entries, "-of", "csv=p=0"])
        .arg(video)
        .output()
        .expect("ffprobe is needed to read a recording");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where nothing is heard for at least so many seconds: from, to.
pub fn probe_silence(video: &Path, seconds: f64) -> Vec<(f64, f64)> {
    let output = Command::new("ffmpeg")
        .args(["-nostats", "-i"])
        .arg(video)
        .args(["-map", "0:a:0", "-af"])
        .arg(format!("silencedetect=noise=-50dB:d={seconds}"))
        .args(["-f", "null", "-"])
        .stdin(Stdio::null())
        .output()
        .expect("ffmpeg is needed to read a recording");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let all = |name: &str| {
        let values = text.lines().filter_map(|line| line.split_once(name));
        let values = values.filter_map(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        values.collect::<Vec<f64>>()
    };
    let ends = all("silence_end: ").into_iter().chain([duration(video)]);
    all("silence_start: ").into_iter().zip(ends).collect()
}

/// For a report: the holes by file time.
pub fn describe(holes: &[Hole]) -> String {
    let places: BTreeMap<String, String> = holes
        .iter()
        .map(|hole| {
            (
                format!("{:09.2}", hole.at),
                format!("{:.2} s at {:.2} s", hole.seconds, hole.at),
            )
        })
        .collect();
    match places.len() {
        0 => "nothing".into(),
        _ => places.into_values().collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footage(frames: impl IntoIterator<Item = (f64, Option<f64>)>) -> Footage {
        let frames: Vec<Frame> = frames
            .into_iter()
            .map(|(at, clock)| Frame { at, clock })
            .collect();
        let duration = frames.last().map_or(0.0, |last| last.at + 0.04);
        Footage {
            frames,
            beeps: Vec::new(),
            peak: 0.0,
            decode_errors: Vec::new(),
            duration,
        }
    }

    fn second(from: f64, at: f64) -> impl Iterator<Item = (f64, Option<f64>)> {
        (0..25).map(move |n| (at + f64::from(n) * 0.04, Some(from + f64::from(n) * 0.04)))
    }

    #[test]
    fn a_cut_gap_is_a_hole_where_it_lies() {
        let cut = footage(second(1e9, 0.0).chain(second(1e9 + 4.0, 1.0)));
        assert_eq!(cut.holes().len(), 1);
        assert!((cut.missing() - 3.0).abs() < 0.05, "{:?}", cut.holes());
        assert!((cut.holes()[0].at - 1.0).abs() < 0.01);
        assert!((cut.clock_span() - 2.0).abs() < 0.05);
    }

    #[test]
    fn a_frozen_page_is_a_stall_and_a_blank_page_is_a_hole() {
        let frozen = (0..25).map(|n| (1.0 + f64::from(n) * 0.04, Some(1e9 + 0.96)));
        let stalled = footage(second(1e9, 0.0).chain(frozen).chain(second(1e9 + 2.0, 2.0)));
        assert!(stalled.holes().is_empty(), "{:?}", stalled.holes());
        assert!(stalled.longest_stall() > 1.0);
        let white = (0..25).map(|n| (1.0 + f64::from(n) * 0.04, None));
        let blank = footage(second(1e9, 0.0).chain(white).chain(second(1e9 + 2.0, 2.0)));
        assert!((blank.missing() - 1.0).abs() < 0.05, "{:?}", blank.holes());
    }

    #[test]
    fn a_beep_is_held_against_the_frames_on_its_side_of_a_cut() {
        let mut cut = footage(second(1e9, 0.0).chain(second(1e9 + 4.02, 1.0)));
        // one frame was painted late
        cut.frames[29].clock = cut.frames[28].clock;
        let beep = |at, digit| Beep { at, digit };
        cut.beeps = vec![
            beep(0.88, 1),
            beep(0.97, 4),
            beep(1.05, 4),
            beep(1.18, 4),
            beep(1.58, 6),
        ];
        let offsets = cut.sound_offsets();
        assert!((offsets[0] + 0.12).abs() < 1e-6, "{offsets:?}");
        assert!((offsets[1] - 0.2).abs() < 1e-6, "{offsets:?}");
        assert!((offsets[2] + 1.4).abs() < 1e-6, "{offsets:?}");
        let stretches = cut.sound_offsets_by_stretch();
        assert_eq!(stretches.concat(), offsets);
        assert_eq!(stretches[0].len(), 1, "{stretches:?}");
    }

    #[test]
    fn a_beep_names_its_second() {
        let mut samples = Vec::new();
        for digit in 0..10u32 {
            let tone = (600 + 100 * digit) as f32 * std::f32::consts::TAU / RATE as f32;
            let quiet = (300.0 * std::f32::consts::TAU / RATE as f32, 0.1);
            samples.extend((0..RATE).map(|at| {
                let loud = if at < RATE * 8 / 100 { 0.5 } else { 0.0 };
                loud * (tone * at as f32).sin() + quiet.1 * (quiet.0 * at as f32).sin()
            }));
        }
        let (heard, _) = beeps(&samples);
        let digits: Vec<u8> = heard.iter().map(|beep| beep.digit).collect();
        assert_eq!(digits, (0..10).collect::<Vec<u8>>());
        let named = |digit, clock| Beep { at: 0.0, digit }.second(clock);
        assert_eq!(
            [named(9, 20.2), named(0, 19.9), named(4, 21.0)],
            [19.0, 20.0, 24.0]
        );
    }

    #[test]
    fn a_clock_reads_back_only_with_its_checksum() {
        let millis = 1_795_577_569_120u64;
        let mut bytes = millis.to_be_bytes()[2..].to_vec();
        bytes.push(crc(&bytes));
        let mut cells = [0u8; 64];
        for bit in 0..56 {
            cells[bit] = if bytes[bit / 8] >> (7 - bit % 8) & 1 == 1 {
                230
            } else {
                20
            };
        }
        assert_eq!(clock_of(&cells), Some(1_795_577_569.12));
        cells[50] = 255 - cells[50];
        assert_eq!(clock_of(&cells), None);
        assert_eq!(clock_of(&[0; 64]), None);
        assert_eq!(clock_of(&[255; 64]), None);
    }
}
