//! `recover`: videos from nothing but the chunk store. Lists the takes whose video nobody finished, and finishes them.

use super::report::{Form, say};
use super::{Failure, SettingsFile, exit};
use crate::config::{Settings, Storage};
use crate::controller::takes::Takes;
use crate::store::takes::StoredTake;
use crate::store::{self, ChunkStore};
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
    /// Only these recordings; also when their video was finished before.
    #[arg(value_name = "RECORDING")]
    recordings: Vec<String>,
    /// Folder for the videos; without it OPENVIDU_RECORDING_PATH.
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
        let settings = self.file.settings()?;
        let store = store::open(&settings, &settings.recording_path)?;
        store.probe().await?;
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
        let wanted = self.wanted(&takes, &*store, &mut report).await?;
        if wanted.is_empty() {
            self.tell(nothing(&settings));
        }
        for take in wanted.iter().filter(|_| !self.list) {
            match self.finish(&takes, take).await {
                Ok(video) => report.videos.push(video),
                Err(failed) => report.failed.push(failed),
            }
        }
        if self.form.json {
            self.form.print(&report, |_| String::new());
        }
        match report.failed.len() {
            0 => Ok(()),
            failed => Err(Failure::with(
                exit::FAILED,
                format!("{failed} of {} videos could not be made", wanted.len()),
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
    async fn wanted(
        &self,
        takes: &Takes<'_>,
        store: &dyn ChunkStore,
        report: &mut Report,
    ) -> Result<Vec<StoredTake>, Failure> {
        let mut wanted = Vec::new();
        for take in takes.all().await? {
            let listed = list(takes, store, &take).await?;
            self.tell(&listed);
            let named = self.recordings.contains(&listed.recording);
            if named || (self.recordings.is_empty() && !listed.finished) {
                wanted.push(take);
            }
            report.takes.push(listed);
        }
        Ok(wanted)
    }

    async fn finish(&self, takes: &Takes<'_>, stored: &StoredTake) -> Result<Video, Failed> {
        let recording = stored.key.recording.to_string();
        let key = stored.key.take.to_string();
        let bar = bar(stored.bytes(), &recording);
        let made = async {
            let take = takes.take(stored).await?;
            takes.finish(&take, &mut |bytes| bar.inc(bytes)).await
        };
        let made = made.await;
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

async fn list(
    takes: &Takes<'_>,
    store: &dyn ChunkStore,
    take: &StoredTake,
) -> Result<Listed, Failure> {
    let name = match take.manifest(store).await {
        Ok(Some(manifest)) => manifest.video_name,
        Ok(None) => "no manifest".into(),
        Err(cause) => cause.to_string(),
    };
    Ok(Listed {
        recording: take.key.recording.to_string(),
        take: take.key.take.to_string(),
        name,
        chunks: take.chunks.len(),
        bytes: take.bytes(),
        finished: takes.is_finished(take).await.map_err(Failure::new)?,
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
