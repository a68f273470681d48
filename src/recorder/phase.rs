//! Frames are stamped on a grid of `1 / FRAMERATE` seconds since the epoch, and are taken somewhere between two of its
//! points; where, every ffmpeg decides anew when it starts. It moves all of its frames to the nearest point, up to half a
//! frame, and prints when the first one was really taken; here sound is told to move along.

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;

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

/// By how many microseconds the frames are stamped later than they were taken; `None` when ffmpeg does not say.
///
/// # Errors
/// When it cannot be read.
pub(super) async fn delay(printed: OwnedFd, rate: u32) -> io::Result<Option<i64>> {
    let mut lines = BufReader::new(pipe::Receiver::from_owned_fd(printed)?).lines();
    let first = lines.next_line().await?;
    Ok(first
        .and_then(|line| taken_at(&line))
        .map(|at| way_to_grid(at, rate)))
}

/// The stamp in a line such as `frame:0    pts:1795633161688469 pts_time:1.79563e+09`, in microseconds as x11grab has it.
fn taken_at(line: &str) -> Option<i64> {
    let mut words = line.split_whitespace();
    words
        .find_map(|word| word.strip_prefix("pts:"))?
        .parse()
        .ok()
}

/// The way from `at`, in microseconds, to the nearest point of the grid.
fn way_to_grid(at: i64, rate: u32) -> i64 {
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

    #[tokio::test]
    async fn what_ffmpeg_prints_is_understood() {
        for (said, expected) in [
            (
                "frame:0    pts:1795631393788584 pts_time:1.79563e+09\n",
                Some(11_416),
            ),
            ("frame:0    pts:NOPTS pts_time:NOPTS\n", None),
            ("", None),
        ] {
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(said.as_bytes()).unwrap();
            drop(writer);
            assert_eq!(delay(reader.into(), 25).await.unwrap(), expected, "{said}");
        }
    }
}
