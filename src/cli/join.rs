//! `join`: makes a video from a folder of chunks by hand, names what is wrong with each of them, and checks a video against
//! its chunks.

use super::chunk_store::StoreChoice;
use super::report::Form;
use super::{Failure, SettingsFile, exit};
use crate::disk;
use crate::join::{self, CaughtUp, ChunkSource, Joined, Options};
use crate::model::ids::{IdError, RecordingId, TakeId};
use crate::model::timeline::GapMode;
use crate::random;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Join a folder of chunks into one video, or check a video against its chunks.
///
/// FOLDER is a take's folder (r1/0001.mp4, r2/0007.mp4, …), a recording's with one take in it, or any folder with numbered
/// MP4 files. Where this machine has no such folder, or with --store, it is a prefix in the chunk store, such as
/// RECORDING/chunks/TAKE. Chunks may be cut off, missing or broken; each of those is named with what was kept of it.
#[derive(Debug, Args)]
pub(super) struct Join {
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    store: StoreChoice,
    /// Folder, or prefix in the store, with the chunks.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The video.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Join nothing: check that the video holds every fragment of the chunks.
    #[arg(long)]
    check: bool,
    /// Replace the video if it is there.
    #[arg(long, conflicts_with = "check")]
    force: bool,
    /// What becomes of gaps: "cut" them out, or "hold" the last frame so that the video's time is the clock's.
    #[arg(long, value_name = "MODE", default_value = "cut", value_parser = gap_mode)]
    gap_mode: GapMode,
    /// Write what the video was made from, as JSON; "timeline" shows it.
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    timeline: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
}

fn gap_mode(text: &str) -> Result<GapMode, String> {
    match text {
        "cut" => Ok(GapMode::Cut),
        "hold" => Ok(GapMode::Hold),
        _ => Err("cut or hold".into()),
    }
}

impl Join {
    pub(super) async fn run(self) -> Result<(), Failure> {
        if !self.check && !self.force && self.output.exists() {
            let message = format!(
                "{} is there already; replace it with --force",
                self.output.display()
            );
            return Err(Failure::with(exit::CANNOT_WRITE, message));
        }
        let fetched = match self.folder.exists() && !self.store.is_named() {
            true => None,
            false => Some(self.fetch().await?),
        };
        let folder = fetched.as_ref().map_or(&self.folder, |it| &it.chunks);
        let chunks = join::find_chunks(folder).map_err(Failure::new)?;
        match self.check {
            true => self.check(&chunks),
            false => self.join(&chunks),
        }
    }

    /// Brings the store's chunks below the prefix to the disk that the video goes to.
    async fn fetch(&self) -> Result<Fetched, Failure> {
        let (_, store) = self.store.open(&self.file)?;
        let prefix = self.folder.to_string_lossy();
        let prefix = prefix.trim_matches('/');
        let objects = store.list(prefix).await?;
        if objects.is_empty() {
            return Err(Failure::new(format!(
                "there is no folder {} here, and no chunk below {prefix} in the chunk store",
                self.folder.display()
            )));
        }
        let root = disk::parent(&self.output).join(format!(".join-{}", random::hex::<6>()));
        let fetched = Fetched {
            chunks: root.join(prefix),
            root,
        };
        let bar = bar(objects.iter().map(|it| it.bytes).sum(), self.form.json);
        bar.set_message("fetching");
        for object in objects.iter().filter(|it| it.key.ends_with(".mp4")) {
            store
                .fetch(&object.key, &fetched.root.join(&object.key))
                .await?;
            bar.inc(object.bytes);
        }
        bar.finish_and_clear();
        Ok(fetched)
    }

    fn check(&self, chunks: &[ChunkSource]) -> Result<(), Failure> {
        let checked = join::verify(&self.output, chunks).map_err(Failure::new)?;
        let found = json!({
            "chunks": checked.chunks,
            "fragments": checked.fragments,
            "bytes": checked.bytes,
            "leftOut": checked.left_out,
        });
        self.form.print(&found, |_| {
            format!(
                "{} holds all {} fragments ({:.1} MB) of {} chunks",
                self.output.display(),
                checked.fragments,
                checked.bytes as f64 / 1e6,
                checked.chunks,
            )
        });
        Ok(())
    }

    fn join(&self, chunks: &[ChunkSource]) -> Result<(), Failure> {
        let options = self.options(chunks).map_err(Failure::new)?;
        let bar = bar(bytes_of(chunks), self.form.json);
        let begun = Instant::now();
        let joined = join::join_chunks(chunks, &self.output, options, &mut |done| {
            bar.set_position(done.bytes);
            bar.set_message(format!("chunk {} of {}", done.chunks, chunks.len()));
        });
        bar.finish_and_clear();
        let joined = joined.map_err(Failure::new)?;
        let took = begun.elapsed();
        if let (Some(path), Some(timeline)) = (&self.timeline, &joined.timeline) {
            join::beside::timeline_at(path, timeline)
                .map_err(|fault| Failure::with(exit::CANNOT_WRITE, fault))?;
        }
        self.form
            .print(&summary(&joined, took), |_| text(&joined, took));
        Ok(())
    }

    /// Recording and take as the folders name them: `<recording>/<chunk folder>/<take>/r<run>`.
    fn options(&self, chunks: &[ChunkSource]) -> Result<Options, IdError> {
        let first = chunks
            .first()
            .and_then(|chunk| chunk.path.canonicalize().ok());
        let folder = |up: usize| {
            let path = first.as_deref()?.ancestors().nth(up)?;
            Some(path.file_name()?.to_str()?.to_owned())
        };
        let in_runs = folder(1).is_some_and(|name| {
            name.strip_prefix('r')
                .is_some_and(|n| n.parse::<u32>().is_ok())
        });
        let (recording, take) = if in_runs {
            (folder(4), folder(2))
        } else {
            (folder(1), None)
        };
        let recording = RecordingId::parse(recording.unwrap_or_else(|| "joined".into()));
        let take = TakeId::parse(take.unwrap_or_else(|| "0".into()));
        Ok(Options {
            recording: recording?,
            take: take?,
            gap_mode: self.gap_mode,
        })
    }
}

/// Chunks that were fetched; they go away with this.
struct Fetched {
    root: PathBuf,
    chunks: PathBuf,
}

impl Drop for Fetched {
    fn drop(&mut self) {
        // What cannot be deleted lies hidden beside the video.
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn bytes_of(chunks: &[ChunkSource]) -> u64 {
    let files = chunks
        .iter()
        .filter_map(|chunk| fs::metadata(&chunk.path).ok());
    files.map(|file| file.len()).sum()
}

fn bar(bytes: u64, hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes);
    let style =
        ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn summary(joined: &Joined, took: Duration) -> Value {
    let faults: Vec<Value> = joined
        .chunks
        .iter()
        .filter(|chunk| is_remarkable(chunk))
        .map(|chunk| {
            json!({
                "path": chunk.source.path,
                "keptFragments": chunk.fragments,
                "keptBytes": chunk.bytes,
                "lostBytes": chunk.lost_bytes,
                "fault": remark(chunk),
            })
        })
        .collect();
    json!({
        "video": joined.video,
        "bytes": joined.bytes,
        "chunks": joined.chunks.len(),
        "seconds": took.as_secs_f64(),
        "faults": faults,
        "timeline": joined.timeline,
    })
}

fn text(joined: &Joined, took: Duration) -> String {
    let mut out = String::new();
    for chunk in joined.chunks.iter().filter(|chunk| is_remarkable(chunk)) {
        out.push_str(&format!(
            "{}: {}\n",
            chunk.source.path.display(),
            remark(chunk)
        ));
    }
    if let Some(timeline) = &joined.timeline {
        let missing = missing(&joined.chunks);
        if !missing.is_empty() {
            out.push_str(&format!("missing: chunks {missing}\n"));
        }
        out.push_str(&super::timeline::draw(timeline));
        out.push('\n');
    }
    let gaps = joined
        .timeline
        .as_ref()
        .map_or(0, |timeline| timeline.gaps.len());
    let runs = joined
        .timeline
        .as_ref()
        .map_or(1, |timeline| timeline.runs.len());
    let (megabytes, seconds) = (joined.bytes as f64 / 1e6, took.as_secs_f64());
    out.push_str(&format!(
        "{}: {} chunks, {runs} runs, {gaps} gaps, {megabytes:.1} MB in {seconds:.2} s ({:.0} MB/s)\n",
        joined.video.display(),
        joined.chunks.len(),
        megabytes / seconds.max(0.001),
    ));
    out
}

fn is_remarkable(chunk: &CaughtUp) -> bool {
    chunk.fault.is_some() || chunk.lost_bytes > 0 || chunk.late || chunk.fragments == 0
}

fn remark(chunk: &CaughtUp) -> String {
    let kept = match chunk.fragments {
        0 => "nothing was kept".to_owned(),
        count => format!(
            "{count} fragments ({:.1} MB) were kept",
            chunk.bytes as f64 / 1e6
        ),
    };
    match (&chunk.fault, chunk.lost_bytes) {
        (Some(fault), _) => format!("{kept}: {fault}"),
        (None, 0) if chunk.late => format!("{kept}: its number was there before"),
        (None, 0) => format!("{kept}: nothing in it can be shown"),
        (None, lost) => format!("{kept}, {lost} bytes at its end are no whole fragment"),
    }
}

/// The numbers between the first and the last chunk that no chunk has.
fn missing(chunks: &[CaughtUp]) -> String {
    let numbers: Vec<u32> = chunks.iter().map(|chunk| chunk.source.index).collect();
    let gaps = numbers.windows(2).filter(|two| two[1] > two[0] + 1);
    let words = gaps.map(|two| match two[1] - two[0] {
        2 => format!("{}", two[0] + 1),
        _ => format!("{}–{}", two[0] + 1, two[1] - 1),
    });
    words.collect::<Vec<_>>().join(", ")
}
