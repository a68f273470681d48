//! `timeline`: shows what a video was made from and what is missing in it, as a picture of the time that passed and a table
//! below. Reads `<id>.timeline.json`, or the video itself, also while it still grows.

use super::report::Form;
use super::{Failure, SettingsFile};
use crate::clock::Timestamp;
use crate::join::{self, beside::Beside};
use crate::model::ids::RecordingId;
use crate::model::timeline::{Gap, GapMode, Run, Timeline};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};

/// How many characters wide the picture is.
const WIDTH: usize = 72;

/// Show which runs and chunks a recording was made from, and every gap in it with its cause.
#[derive(Debug, Args)]
pub(super) struct Show {
    /// A <id>.timeline.json, a video made here (finished or growing), or the id of a finished recording in
    /// OPENVIDU_RECORDING_PATH.
    #[arg(value_name = "FILE")]
    named: PathBuf,
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    form: Form,
}

impl Show {
    pub(super) fn run(self) -> Result<(), Failure> {
        let timeline = read(&self.place()?)?;
        self.form.print(&timeline, draw);
        Ok(())
    }

    /// The file of that name, or what the recording of that id left beside its video.
    fn place(&self) -> Result<PathBuf, Failure> {
        let id = self.named.to_str().map(RecordingId::parse);
        match id {
            Some(Ok(id)) if !self.named.exists() => {
                let recordings = self.file.settings()?.recording_path;
                Ok(Beside::new(&recordings, &id).timeline())
            }
            _ if self.named.is_dir() => Err(Failure::new(format!(
                "{} is a folder; name the timeline or the video in it, or the id of a recording",
                self.named.display()
            ))),
            _ => Ok(self.named.clone()),
        }
    }
}

fn read(file: &Path) -> Result<Timeline, Failure> {
    if file.extension().is_none_or(|kind| kind != "json") {
        return join::timeline_of(file).map_err(Failure::new);
    }
    let shown = file.display();
    let text =
        fs::read(file).map_err(|cause| Failure::new(format!("cannot read {shown}: {cause}")))?;
    serde_json::from_slice(&text)
        .map_err(|cause| Failure::new(format!("cannot read {shown}: it is no timeline: {cause}")))
}

/// The timeline as text.
pub(super) fn draw(timeline: &Timeline) -> String {
    let passed = timeline.ended_at.since(timeline.started_at).as_secs_f64();
    let gaps = match timeline.gap_mode {
        GapMode::Cut => "cut out",
        GapMode::Hold => "held by the frame before",
    };
    let mut out = format!(
        "recording {} (take {})\n{} to {}: {} passed, the video plays {}; gaps are {gaps}\n\n",
        timeline.recording,
        timeline.take,
        timeline.started_at,
        timeline.ended_at,
        clock(passed),
        clock(timeline.duration_seconds),
    );
    out.push_str(&picture(timeline));
    out.push_str(
        "\n run  chunks        from                      length       MB  in the video at\n",
    );
    timeline
        .runs
        .iter()
        .for_each(|run| out.push_str(&run_line(run)));
    match timeline.gaps.len() {
        0 => out.push_str("\nno gaps\n"),
        _ => out.push_str("\n gap    from                      length   in the video at  cause\n"),
    }
    for (number, gap) in timeline.gaps.iter().enumerate() {
        out.push_str(&gap_line(number + 1, gap));
    }
    for note in &timeline.notes {
        out.push_str(&format!("\nnote: {note}\n"));
    }
    out
}

/// One line with a block where there is video, and one with the numbers of the runs below.
fn picture(timeline: &Timeline) -> String {
    let passed = timeline
        .ended_at
        .since(timeline.started_at)
        .as_secs_f64()
        .max(0.001);
    let column = |at: Timestamp| {
        let seconds = at.since(timeline.started_at).as_secs_f64();
        ((seconds / passed * WIDTH as f64) as usize).min(WIDTH - 1)
    };
    let mut bar = ['█'; WIDTH];
    for gap in &timeline.gaps {
        // a gap is shown however short it is
        bar[column(gap.from)..=column(gap.to).max(column(gap.from))].fill('░');
    }
    let mut numbers = [' '; WIDTH];
    for run in &timeline.runs {
        let Some(first) = run.chunks.first() else {
            continue;
        };
        let name = run.run.to_string();
        for (place, digit) in numbers
            .iter_mut()
            .skip(column(first.started_at))
            .zip(name.chars())
        {
            *place = digit;
        }
    }
    let line = |characters: [char; WIDTH]| characters.iter().collect::<String>();
    format!("  {}\n  {}\n", line(bar), line(numbers).trim_end())
}

fn run_line(run: &Run) -> String {
    let (Some(first), Some(last)) = (run.chunks.first(), run.chunks.last()) else {
        return String::new();
    };
    let seconds: f64 = run.chunks.iter().map(|chunk| chunk.duration_seconds).sum();
    let bytes: u64 = run.chunks.iter().map(|chunk| chunk.bytes).sum();
    let lost: u64 = run.chunks.iter().map(|chunk| chunk.lost_bytes).sum();
    let chunks = format!("{}–{}", first.index, last.index);
    let lost = if lost > 0 {
        format!("  ({lost} bytes at its end lost)")
    } else {
        String::new()
    };
    format!(
        "{:>4}  {chunks:<12}  {:<24}  {:>8}  {:>7.1}  {}{lost}\n",
        run.run.to_string(),
        first.started_at.to_string(),
        clock(seconds),
        bytes as f64 / 1e6,
        clock(first.at_seconds),
    )
}

fn gap_line(number: usize, gap: &Gap) -> String {
    let at = clock(gap.at_seconds);
    let from = gap.from.to_string();
    format!(
        "{number:>4}    {from:<24}  {:>7.2} s  {at:<15}  {}\n",
        gap.seconds, gap.cause
    )
}

/// Seconds as a person reads a clock: `1:02:03.4`.
fn clock(seconds: f64) -> String {
    let tenths = (seconds * 10.0).round() as u64;
    let (whole, tenth) = (tenths / 10, tenths % 10);
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}.{tenth}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}.{tenth}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{RecordingId, RunNumber, TakeId};
    use crate::model::timeline::{Chunk, VERSION};

    fn run(run: u32, index: u32, from: i64, seconds: f64) -> Run {
        let chunk = Chunk {
            index,
            started_at: Timestamp::from_millis(from),
            duration_seconds: seconds,
            at_seconds: 0.0,
            bytes: 1_000_000,
            lost_bytes: 0,
        };
        Run {
            run: RunNumber(run),
            chunks: vec![chunk],
        }
    }

    #[test]
    fn a_gap_is_seen_in_the_picture_and_told_below() {
        let timeline = Timeline {
            version: VERSION,
            recording: RecordingId::parse("ses_A").unwrap(),
            take: TakeId::parse("1").unwrap(),
            started_at: Timestamp::from_millis(0),
            ended_at: Timestamp::from_millis(72_000),
            duration_seconds: 62.0,
            gap_mode: GapMode::Cut,
            runs: vec![run(1, 1, 0, 36.0), run(2, 2, 46_000, 26.0)],
            gaps: vec![Gap {
                from: Timestamp::from_millis(36_000),
                to: Timestamp::from_millis(46_000),
                seconds: 10.0,
                at_seconds: 36.0,
                cause: "the container died".into(),
            }],
            notes: Vec::new(),
        };
        let text = draw(&timeline);
        let bar = text.lines().find(|line| line.contains('█')).unwrap().trim();
        assert_eq!(bar.chars().count(), WIDTH);
        assert_eq!(bar.chars().filter(|c| *c == '░').count(), 11);
        assert!(
            text.contains("10.00 s") && text.contains("the container died"),
            "{text}"
        );
        assert!(
            text.contains("1:12.0 passed, the video plays 1:02.0"),
            "{text}"
        );
    }
}
