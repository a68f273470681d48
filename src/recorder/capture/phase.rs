//! Frames are stamped on a grid of `1 / FRAMERATE` seconds since the epoch, and are taken somewhere between two of its
//! points; where, every ffmpeg decides anew when it starts. It moves all of its frames to the nearest point, up to half a
//! frame, and prints when the first one was really taken; here sound is told to move along.
//!
//! Sound also waits for the picture to be shown. Chromium draws at multiples of the display's interval since the machine's
//! start (of `CLOCK_MONOTONIC`: viz's `DelayBasedTimeSource`, whose time base is zero), and what it draws stands for a whole
//! interval. Where the display refreshes at the recording's rate, every frame of one ffmpeg is taken at the same place in
//! that interval, so that it is known how old the picture is.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;

/// From Chromium's tick to the picture on the display: software compositing in Xvfb, measured by reading a display whose
/// page shows the wall clock through a `<video>`, as WebRTC media are shown (7 to 11 ms at 25 Hz; other rates were not measured).
const DRAWN: Duration = Duration::from_millis(9);
/// What Chromium's sound needs more than its time stamps say; measured with the same page, which also beeps the clock.
const SOUND: Duration = Duration::from_millis(8);
/// Ffmpeg's descriptor for what it prints of its first frame.
pub(super) const DESCRIPTOR: i32 = 3;

/// The filters that move frames to the grid. All of one ffmpeg's are moved by the same, so that none is taken for late
/// because it lies just beside the middle of two points.
pub(super) fn to_grid(rate: u32) -> String {
    let (half, whole) = (format!("0.5/({rate}*TB)"), format!("1/({rate}*TB)"));
    format!("setpts=PTS+{half}-mod(STARTPTS+{half}\\,{whole}),fps={rate}")
}

/// The filters that print the first frame's stamp: only frames with a note are printed, and only the first has one.
pub(super) fn print_first() -> String {
    let note = "metadata=mode=add:key=first:value=1:enable=eq(n\\,0)";
    format!("{note},metadata=mode=print:file=pipe\\\\:{DESCRIPTOR}:direct=1")
}

/// When ffmpeg took its first frame, in microseconds since the epoch; `None` when it does not say.
///
/// # Errors
/// When it cannot be read.
pub(super) async fn first_taken(printed: OwnedFd) -> io::Result<Option<i64>> {
    let mut lines = BufReader::new(pipe::Receiver::from_owned_fd(printed)?).lines();
    let first = lines.next_line().await?;
    Ok(first.and_then(|line| taken_at(&line)))
}

/// How much later a medium's picture is drawn than its sound reaches the sink, on a display that refreshes `refreshes` times a
/// second: an interval but for what sound itself needs.
pub(super) fn shown_late(refreshes: u32) -> Duration {
    (Duration::from_secs(1) / refreshes).saturating_sub(SOUND)
}

/// How long the picture has been on show, in microseconds, that was taken at `monotonic` microseconds of
/// `CLOCK_MONOTONIC`; half the display's interval where frames are taken at another rate than it refreshes.
pub(super) fn on_show(monotonic: i64, rate: u32, refreshes: u32) -> i64 {
    let interval = 1_000_000 / i64::from(refreshes);
    if refreshes.is_multiple_of(rate) {
        let drawn = i64::try_from(DRAWN.as_micros()).unwrap_or(0);
        (monotonic - drawn).rem_euclid(interval)
    } else {
        interval / 2
    }
}

/// The stamp in a line such as `frame:0    pts:1795633161688469 pts_time:1.79563e+09`, in microseconds as x11grab has it.
fn taken_at(line: &str) -> Option<i64> {
    let mut words = line.split_whitespace();
    words
        .find_map(|word| word.strip_prefix("pts:"))?
        .parse()
        .ok()
}

/// The way from `at`, in microseconds, to the nearest point of the grid: by so much frames are stamped later than they
/// were taken.
pub(super) fn way_to_grid(at: i64, rate: u32) -> i64 {
    let (rate, second) = (i128::from(rate), 1_000_000);
    let frames = (i128::from(at) * rate * 2 + second).div_euclid(second * 2);
    let point = (frames * second * 2 + rate).div_euclid(rate * 2);
    i64::try_from(point - i128::from(at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_nearest_point_is_at_most_half_a_frame_away() {
        let second = 1_795_631_393_000_000;
        for (past, way) in [(0, 0), (19_000, -19_000), (21_000, 19_000), (39_999, 1)] {
            assert_eq!(way_to_grid(second + past, 25), way, "{past}");
        }
        assert_eq!(way_to_grid(33_000, 30), 333);
    }

    #[test]
    fn a_pictures_age_is_counted_from_when_it_was_drawn() {
        let ticks = 14_400_000_000;
        for (past, age) in [(9_000, 0), (29_000, 20_000), (8_999, 39_999), (0, 31_000)] {
            assert_eq!(on_show(ticks + past, 25, 25), age, "{past}");
        }
        assert_eq!(on_show(ticks + 9_000, 10, 20), 0, "every second picture");
        assert_eq!(on_show(ticks + 9_000, 25, 60), 8_333, "of any age");
        assert_eq!(shown_late(25).as_millis(), 32);
    }

    #[tokio::test]
    async fn what_ffmpeg_prints_is_understood() {
        for (said, expected) in [
            (
                "frame:0    pts:1795631393788584 pts_time:1.79563e+09\n",
                Some(1_795_631_393_788_584),
            ),
            ("frame:0    pts:NOPTS pts_time:NOPTS\n", None),
            ("", None),
        ] {
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(said.as_bytes()).unwrap();
            drop(writer);
            assert_eq!(
                first_taken(reader.into()).await.unwrap(),
                expected,
                "{said}"
            );
        }
    }
}
