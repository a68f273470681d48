//! `recover`: videos from nothing but the chunk store. Lists the takes whose video nobody finished, and finishes them.

use super::chunk_store::StoreChoice;
use super::report::{Form, say};
use super::{Failure, SettingsFile, exit};
use crate::config::{Settings, Storage};
use crate::controller::takes::{Take, Takes, Unread};
use crate::store::StoreError;
use crate::store::takes::StoredTake;
use crate::tasks::Tasks;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

/// Finish videos from the chunk store alone, after recorder and controller were lost.
///
/// Without names every take in the store that has no finished video is finished. Nothing is deleted from the store.
#[derive(Debug, Args)]
pub(super) struct Recover {
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    store: StoreChoice,
    /// Only these recordings; also when their video was finished before.
    #[arg(value_name = "RECORDING")]
    recordings: Vec<String>,
    /// Folder for the videos; without it the folder of --store, or OPENVIDU_RECORDING_PATH.
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Only list what is there.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    form: Form,
}

/// What was in the store, and what became of it.
#[derive(Debug, Default, Serialize)]
struct Report {
    takes: Vec<Listed>,
    videos: Vec<Video>,
    failed: Vec<Failed>,
}

/// A take in the store.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    recording: String,
    take: String,
    /// The video's name, or why it is not known.
    name: String,
    chunks: usize,
    bytes: u64,
    finished: bool,
}

/// What is known of a video whose chunks knew their time.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MadeOf {
    seconds: f64,
    gaps: usize,
    ended_at: String,
}

/// A video that was made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Video {
    recording: String,
    take: String,
    video: PathBuf,
    #[serde(flatten)]
    made_of: Option<MadeOf>,
    faults: Vec<String>,
}

/// A take that became none.
#[derive(Debug, Serialize)]
struct Failed {
    recording: String,
    take: String,
    cause: String,
}

impl Recover {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (settings, store) = self.store.open(&self.file)?;
        let output = self
            .output
            .clone()
            .unwrap_or_else(|| settings.recording_path.clone());
        let tasks = Tasks::new();
        let takes = Takes {
            store: &*store,
            recordings: &output,
            chunk_folder: &settings.chunk_folder.0,
            tasks: &tasks,
        };
        let mut report = Report::default();
        let wanted = self.wanted(&takes, &mut report).await?;
        let all = wanted.len();
        if wanted.is_empty() {
            self.tell(nothing(&settings));
        }
        let is_there = |name: &&String| !report.takes.iter().any(|take| take.recording == **name);
        let missing: Vec<_> = self.recordings.iter().filter(is_there).cloned().collect();
        for take in wanted.into_iter().filter(|_| !self.list) {
            match self.finish(&takes, take).await {
                Ok(video) => report.videos.push(video),
                Err(failed) => report.failed.push(failed),
            }
        }
        if self.form.json {
            self.form.print(&report, |_| String::new());
        }
        match report.failed.len() {
            0 if missing.is_empty() => Ok(()),
            0 => Err(Failure::with(
                exit::FAILED,
                format!(
                    "the chunk store has nothing of {}; \"recover --list\" shows what it has",
                    missing.join(", ")
                ),
            )),
            failed => Err(Failure::with(
                exit::FAILED,
                format!("{failed} of {all} videos could not be made"),
            )),
        }
    }

    /// Says to a person at once what a program gets at the end.
    fn tell(&self, line: impl Display) {
        if !self.form.json {
            say(line);
        }
    }

    /// The takes to finish; every take is named on the way.
    async fn wanted(&self, takes: &Takes<'_>, report: &mut Report) -> Result<Vec<Wanted>, Failure> {
        let mut wanted = Vec::new();
        for stored in takes.all().await? {
            let take = takes.take(&stored).await;
            let listed = list(takes, &stored, &take).await?;
            self.tell(&listed);
            let named = self.recordings.contains(&listed.recording);
            if named || (self.recordings.is_empty() && !listed.finished) {
                wanted.push(Wanted { stored, take });
            }
            report.takes.push(listed);
        }
        Ok(wanted)
    }

    async fn finish(&self, takes: &Takes<'_>, wanted: Wanted) -> Result<Video, Failed> {
        let Wanted { stored, take } = wanted;
        let recording = stored.key.recording.to_string();
        let key = stored.key.take.to_string();
        let bar = bar(stored.bytes(), &recording);
        let made = match take {
            // Whoever asks for it gets what there is, and is told what is missing.
            Ok(take) => {
                let progress = &mut |bytes| bar.inc(bytes);
                takes.finish(&take, Unread::LeaveOut, progress).await
            }
            Err(cause) => Err(cause.into()),
        };
        bar.finish_and_clear();
        match made {
            Ok(recovered) => {
                let video = Video {
                    recording,
                    take: key,
                    video: recovered.video,
                    made_of: recovered.timeline.map(|timeline| MadeOf {
                        seconds: timeline.duration_seconds,
                        gaps: timeline.gaps.len(),
                        ended_at: timeline.ended_at.to_string(),
                    }),
                    faults: recovered.faults,
                };
                self.tell(&video);
                Ok(video)
            }
            Err(cause) => {
                eprintln!("{recording} (take {key}): {cause}");
                Err(Failed {
                    recording,
                    take: key,
                    cause: cause.to_string(),
                })
            }
        }
    }
}

/// A take to finish.
struct Wanted {
    stored: StoredTake,
    /// What its manifest says, or why that is not known.
    take: Result<Take, StoreError>,
}

async fn list(
    takes: &Takes<'_>,
    stored: &StoredTake,
    take: &Result<Take, StoreError>,
) -> Result<Listed, Failure> {
    let (name, has_video) = match take {
        Ok(take) => {
            let has_video = takes.has_video(take).await.map_err(Failure::new)?;
            (take.video_name.clone(), has_video)
        }
        Err(cause) => (cause.to_string(), false),
    };
    Ok(Listed {
        recording: stored.key.recording.to_string(),
        take: stored.key.take.to_string(),
        name,
        chunks: stored.chunks.len(),
        bytes: stored.bytes(),
        finished: stored.finished || has_video,
    })
}

impl Display for Listed {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let state = if self.finished {
            "finished"
        } else {
            "not finished"
        };
        write!(
            out,
            "{}  take {}  {}  {} chunks  {:.1} MB  {state}",
            self.recording,
            self.take,
            self.name,
            self.chunks,
            self.bytes as f64 / 1e6
        )
    }
}

impl Display for Video {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.video.display())?;
        if let Some(of) = &self.made_of {
            let (seconds, gaps, end) = (of.seconds, of.gaps, &of.ended_at);
            write!(out, ": {seconds:.1} s, {gaps} gaps, ended {end}")?;
        }
        let mut faults = self.faults.iter();
        faults.try_for_each(|fault| write!(out, "\n  {fault}"))
    }
}

fn nothing(settings: &Settings) -> String {
    let place = match settings.storage {
        Storage::Local => settings.recording_path.display().to_string(),
        Storage::S3 => settings.s3_bucket.clone(),
    };
    format!("no take in {place} is without a finished video")
}

/// Shown on a terminal only; indicatif sees to that.
fn bar(bytes: u64, recording: &str) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let style = "{msg} {bar:30} {bytes}/{total_bytes} {eta}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(recording.to_owned());
    bar
}
