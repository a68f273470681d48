//! How ffmpeg is asked to capture, as its version wants it: the inputs, the encoder, keyframes and fragments.

use super::audio;
use super::browser::Page;
use super::display::Display;
use super::encoder::{Inputs, PUT_BACK};
use super::phase;
use crate::recorder::order::{Resolution, Sound, View};
use std::process::Stdio;
use std::time::Duration;

/// How much video one fragment holds, in microseconds: what a kill may cost.
const FRAGMENT: u32 = 200_000;

/// Ffmpeg's descriptor of what it waits for. It opens its inputs one after the other, and the first, a file of metadata that
/// says nothing, ends only when it is to begin.
pub(super) const GATE: i32 = 4;

/// What differs between versions of ffmpeg.
#[derive(Clone, Copy, Debug)]
pub(super) struct Syntax {
    /// How it wants to be told that frames pass through as they come.
    pass: &'static str,
    /// How it prints the stamp of the first frame, where it can.
    pub(super) print_first: Option<fn() -> String>,
}

impl Syntax {
    /// Asks the installed ffmpeg for its version.
    pub(super) async fn of_installed() -> Self {
        let asked = tokio::process::Command::new("ffmpeg")
            .arg("-version")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        match tokio::time::timeout(Duration::from_secs(5), asked).await {
            Ok(Ok(said)) => Self::of(&String::from_utf8_lossy(&said.stdout)),
            // Starting it will fail too, and say why.
            _ => Self::of(""),
        }
    }

    fn of(said: &str) -> Self {
        let version = said.split_whitespace().nth(2).unwrap_or_default();
        let mut numbers = version
            .trim_start_matches(|c: char| !c.is_ascii_digit())
            .split(|c: char| !c.is_ascii_digit())
            .map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let is_before = |other: (u32, u32)| version < other && version.0 > 0;
        Self {
            pass: if is_before((5, 1)) {
                "-vsync"
            } else {
                "-fps_mode"
            },
            print_first: (!is_before((4, 4))).then_some(phase::print_first),
        }
    }
}

/// All that ffmpeg is told.
pub(super) fn arguments(view: &View, inputs: &Inputs, on: Display) -> Vec<String> {
    let rate = view.frame_rate.to_string();
    let size = on.size().even().to_string();
    let apart = keyframes_apart(inputs.chunk, inputs.keyframe).as_secs_f64();
    let key = keyframes(match *inputs.page.borrow() {
        Page::Lost(_) => apart_while_waiting(view.frame_rate, apart),
        Page::Loading | Page::Shown(_) => apart_from_the_first(view.frame_rate, apart),
    });
    let mut all: Vec<String> = Vec::new();
    let mut add = |part: &[&str]| all.extend(part.iter().map(|text| (*text).to_owned()));
    add(&["-hide_banner", "-nostdin", "-nostats", "-loglevel", "error"]);
    add(&["-f", "ffmetadata", "-i", &format!("pipe:{GATE}")]);
    // The stamps are the wall clock's; looking ahead to guess what is known would only cost time.
    let at_once = ["-probesize", "32", "-analyzeduration", "0"];
    if view.sound == Sound::Recorded {
        let late = phase::shown_late(on.refreshes()).as_secs_f64();
        // Sound is opened first, so that it is there before the first frame.
        add(&at_once);
        add(&[
            "-itsoffset",
            &late.to_string(),
            "-thread_queue_size",
            "512",
            "-f",
            "pulse",
            "-i",
            audio::SOURCE,
        ]);
    }
    add(&at_once);
    add(&[
        "-thread_queue_size",
        "64",
        "-f",
        "x11grab",
        "-framerate",
        &rate,
    ]);
    add(&["-video_size", &size, "-draw_mouse", "0", "-i", &on.name()]);
    match view.sound {
        Sound::Recorded => add(&["-map", "2:v", "-map", "1:a"]),
        Sound::None => add(&["-map", "1:v"]),
    }
    add(&[
        "-copyts",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        // Else it holds back a frame for each of its threads, of which a large machine has many.
        "-tune",
        "zerolatency",
        "-crf",
        "28",
        // The preset's bytes are 1.7 times as many on a moving page, at less quality, for the same processor time.
        "-x264-params",
        "cabac=1:8x8dct=1:partitions=i8x8,i4x4",
    ]);
    add(&[
        "-pix_fmt",
        "yuv420p",
        "-vf",
        &filters(view, inputs.syntax, on),
    ]);
    add(&[inputs.syntax.pass, "passthrough", "-force_key_frames", &key]);
    add(&["-g", "1000000", "-sc_threshold", "0"]);
    if view.sound == Sound::Recorded {
        add(&["-c:a", "aac", "-b:a", "128k", "-ar", "48000", "-ac", "2"]);
        add(&["-af", "aresample=async=1000"]);
    }
    let flags = "+frag_keyframe+empty_moov+default_base_moof+frag_discont+negative_cts_offsets";
    add(&[
        "-f",
        "mp4",
        "-movflags",
        flags,
        "-frag_duration",
        &FRAGMENT.to_string(),
    ]);
    add(&["-flush_packets", "1", "pipe:1"]);
    all
}

/// Which frames are keyframes, as ffmpeg is told: the first two, and those that lie so far `apart`, by an expression.
fn keyframes(apart: String) -> String {
    format!("expr:if(lt(n,2),1,gte(t,prev_forced_t+{apart}-0.001))")
}

/// How far keyframes are apart in a stream that shows its page. Its second frame is one, too: a fragment ends before each, and
/// whoever waits for the first one waits for one frame and not for the length of a fragment. The third lies `apart` from the
/// first.
fn apart_from_the_first(rate: u32, apart: f64) -> String {
    format!("{apart}-eq(prev_forced_n,1)/{rate}")
}

/// How far keyframes are apart in a stream that waits for its page: it can be taken from any of its frames for some seconds,
/// in which the page is mostly back, then from any fragment.
fn apart_while_waiting(rate: u32, apart: f64) -> String {
    let (frame, fragment) = (1.0 / f64::from(rate), f64::from(FRAGMENT) / 1e6);
    let waiting = PUT_BACK.as_secs() + 1;
    format!("if(lt(t,3),{frame},if(lt(t,{waiting}),{fragment},{apart}))")
}

/// How far keyframes are apart: at most `wanted`, and so that a chunk, which begins with one, ends at one.
fn keyframes_apart(chunk: Duration, wanted: Duration) -> Duration {
    let parts = chunk.as_millis().div_ceil(wanted.as_millis().max(1));
    chunk / u32::try_from(parts).unwrap_or(1).max(1)
}

/// What becomes of a frame before it is encoded.
fn filters(view: &View, syntax: Syntax, on: Display) -> String {
    let print = syntax.print_first.filter(|_| view.sound == Sound::Recorded);
    let first = print.map(|print| print());
    let all = first.into_iter().chain([phase::to_grid(view.frame_rate)]);
    let size = view.resolution.even();
    let scaled = (size != on.size().even()).then(|| scale(size));
    all.chain(scaled).collect::<Vec<_>>().join(",")
}

/// The filters that bring a display of another size to `size`, whose shape it keeps.
fn scale(size: Resolution) -> String {
    let Resolution { width, height } = size;
    format!(
        "scale={width}:{height}:force_original_aspect_ratio=decrease,pad={width}:{height}:-1:-1,setsar=1"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_ends_at_a_keyframe_whatever_its_length() {
        let apart = |chunk: u64, wanted: u64| {
            keyframes_apart(Duration::from_secs(chunk), Duration::from_secs(wanted)).as_millis()
        };
        assert_eq!(
            [apart(10, 2), apart(5, 2), apart(1, 2), apart(300, 60)],
            [2000, 1666, 1000, 60_000]
        );
    }

    #[test]
    fn the_second_frame_ends_the_first_fragment_and_moves_no_later_keyframe() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("stream.mp4");
        let key = keyframes(apart_from_the_first(25, 2.0));
        let source = "testsrc2=size=64x36:rate=25:duration=4.2";
        let made = std::process::Command::new("ffmpeg")
            .args([
                "-v", "error", "-f", "lavfi", "-i", source, "-c:v", "libx264",
            ])
            .args([
                "-tune",
                "zerolatency",
                "-g",
                "1000000",
                "-sc_threshold",
                "0",
            ])
            .args(["-force_key_frames", &key])
            .arg(&file)
            .status();
        assert!(made.unwrap().success());
        let said = std::process::Command::new("ffprobe")
            .args(["-v", "error", "-skip_frame", "nokey", "-of", "csv=p=0"])
            .args(["-show_entries", "frame=pts_time"])
            .arg(&file)
            .output();
        let said = String::from_utf8(said.unwrap().stdout).unwrap();
        let times = said
            .split_whitespace()
            .filter_map(|it| it.trim_end_matches(',').parse().ok());
        assert_eq!(times.collect::<Vec<f64>>(), [0.0, 0.04, 2.0, 4.0]);
    }

    #[test]
    fn a_display_of_another_size_keeps_its_shape() {
        let size = Resolution {
            width: 640,
            height: 480,
        };
        let kept = "scale=640:480:force_original_aspect_ratio=decrease,pad=640:480";
        assert!(scale(size).starts_with(kept));
    }

    #[test]
    fn each_ffmpeg_is_spoken_to_in_its_own_words() {
        for (said, pass, prints) in [
            ("ffmpeg version 4.2.7-0ubuntu0.1 Copyright", "-vsync", false),
            ("ffmpeg version n4.4 Copyright", "-vsync", true),
            ("ffmpeg version 5.0.1 Copyright", "-vsync", true),
            (
                "ffmpeg version 5.1.9-0+deb12u1 Copyright",
                "-fps_mode",
                true,
            ),
            ("ffmpeg version 7.1 Copyright", "-fps_mode", true),
            (
                "ffmpeg version N-118193-g5f38c82536 Copyright",
                "-fps_mode",
                true,
            ),
            ("", "-fps_mode", true),
        ] {
            let syntax = Syntax::of(said);
            assert_eq!(syntax.pass, pass, "{said}");
            assert_eq!(syntax.print_first.is_some(), prints, "{said}");
        }
    }
}
