//! `recover`: videos from nothing but the chunk store. Lists the takes whose video nobody finished, and finishes them.

use super::{Failure, SettingsFile, exit};
use crate::config::Settings;
use crate::controller::takes::Takes;
use crate::store::takes::StoredTake;
use crate::store::{self, ChunkStore};
use crate::tasks::Tasks;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
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
        let wanted = self.wanted(&takes, &settings, &*store).await?;
        if self.list {
            return Ok(());
        }
        let mut failed = 0;
        for take in &wanted {
            if let Err(cause) = finish(&takes, take).await {
                eprintln!(
                    "{} (take {}): {}",
                    take.key.recording, take.key.take, cause.message
                );
                failed += 1;
            }
        }
        match failed {
            0 => Ok(()),
            failed => Err(Failure::with(
                exit::FAILED,
                format!("{failed} of {} videos could not be made", wanted.len()),
            )),
        }
    }

    /// The takes to finish; every take is named on the way.
    async fn wanted(
        &self,
        takes: &Takes<'_>,
        settings: &Settings,
        store: &dyn ChunkStore,
    ) -> Result<Vec<StoredTake>, Failure> {
        let mut wanted = Vec::new();
        for take in takes.all().await? {
            let named = self
                .recordings
                .iter()
                .any(|name| name == take.key.recording.as_str());
            let finished = takes.is_finished(&take).await.map_err(Failure::new)?;
            let state = if finished { "finished" } else { "not finished" };
            let megabytes = take.bytes() as f64 / 1e6;
            let name = match take.manifest(store).await {
                Ok(Some(manifest)) => manifest.video_name,
                Ok(None) => "no manifest".into(),
                Err(cause) => cause.to_string(),
            };
            println!(
                "{}  take {}  {name}  {} chunks  {megabytes:.1} MB  {state}",
                take.key.recording,
                take.key.take,
                take.chunks.len()
            );
            if named || (self.recordings.is_empty() && !finished) {
                wanted.push(take);
            }
        }
        if wanted.is_empty() {
            let place = match settings.storage {
                crate::config::Storage::Local => settings.recording_path.display().to_string(),
                crate::config::Storage::S3 => settings.s3_bucket.clone(),
            };
            println!("no take in {place} is without a finished video");
        }
        Ok(wanted)
    }
}

async fn finish(takes: &Takes<'_>, stored: &StoredTake) -> Result<(), Failure> {
    let take = takes.take(stored).await?;
    let bar = ProgressBar::new(stored.bytes());
    let style = "{msg} {bar:30} {bytes}/{total_bytes} {eta}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(take.key.recording.to_string());
    let finished = takes.finish(&take, &mut |bytes| bar.inc(bytes)).await;
    bar.finish_and_clear();
    let recovered = finished.map_err(Failure::new)?;
    let of = recovered.timeline.map(|timeline| {
        let (seconds, gaps) = (timeline.duration_seconds, timeline.gaps.len());
        format!(": {seconds:.1} s, {gaps} gaps, ended {}", timeline.ended_at)
    });
    println!("{}{}", recovered.video.display(), of.unwrap_or_default());
    for fault in &recovered.faults {
        println!("  {fault}");
    }
    Ok(())
}
