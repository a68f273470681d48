//! What lies in the recordings folder and in the chunk store: timelines, and chunks that wait for a video or should be gone.
//! Others write there: no link is followed, and nothing is taken that is not a timeline.

use super::parts::Parts;
use crate::cli::Failure;
use crate::config::Settings;
use crate::controller::takes::Takes;
use crate::join::beside::Beside;
use crate::model::ids::RecordingId;
use crate::model::timeline::Timeline;
use crate::store;
use crate::tasks::{self, Tasks};
use nix::fcntl::OFlag;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How many of the last recordings' timelines are taken.
const LAST: usize = 10;
/// Most bytes of one.
const LARGEST: u64 = 8 << 20;
/// How long the disk and the store may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Whoever has written so lately may go on, whether or not the controller knows of it.
const YOUNG: Duration = Duration::from_secs(120);

/// The timelines of the last recordings, the newest first.
pub(super) async fn timelines(folder: &Path, parts: &mut Parts) -> Vec<Timeline> {
    let folder = folder.to_owned();
    let read = tasks::answered_within(PATIENCE, move || last_of(&folder));
    let Some(Ok(found)) = read.await else {
        parts.lack("timelines", "the recordings folder cannot be read");
        return Vec::new();
    };
    let mut timelines = Vec::new();
    for (path, read) in found {
        match read {
            Ok(timeline) => {
                parts.add_json(&format!("timelines/{}.json", timeline.recording), &timeline);
                timelines.push(timeline);
            }
            Err(cause) => parts.lack(&path.display().to_string(), cause),
        }
    }
    timelines
}

fn last_of(folder: &Path) -> io::Result<Vec<(PathBuf, io::Result<Timeline>)>> {
    let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let id = entry.file_name().to_str().map(RecordingId::parse);
        let (true, Some(Ok(id))) = (is_folder, id) else {
            continue;
        };
        let path = Beside::new(folder, &id).timeline();
        let found = fs::symlink_metadata(&path).and_then(|it| it.modified());
        files.extend(found.ok().map(|at| (at, path)));
    }
    files.sort_by(|one, other| other.cmp(one));
    files.truncate(LAST);
    let read = |(_, path): (SystemTime, PathBuf)| {
        let timeline = read(&path);
        (path, timeline)
    };
    Ok(files.into_iter().map(read).collect())
}

fn read(path: &Path) -> io::Result<Timeline> {
    // A pipe in its place must not be waited for.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// What the store has of recordings that are over.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Without a finished video.
    pub(super) without_video: Vec<String>,
    /// With one.
    pub(super) with_video: Vec<String>,
}

/// Looks through the chunk store; `running` is not over.
///
/// # Errors
/// Why nobody can say.
pub(super) async fn left(settings: &Settings, running: &[RecordingId]) -> Result<Left, Failure> {
    let silence = || {
        Failure::new(format!(
            "the store gives no answer within {} s",
            PATIENCE.as_secs()
        ))
    };
    let looked = tasks::within(PATIENCE, look(settings, running)).await;
    looked.ok_or_else(silence)?
}

async fn look(settings: &Settings, running: &[RecordingId]) -> Result<Left, Failure> {
    let own = settings.clone();
    let open = move || {
        let folder = &own.recording_path;
        // Opening a store in a folder makes it.
        match folder.is_dir() {
            true => store::open(&own, folder).map_err(Failure::from),
            false => Err(Failure::new("there is no recordings folder")),
        }
    };
    // A disk that hangs holds up a thread of its own.
    let store = blocking(open).await??;
    let tasks = Tasks::new();
    let takes = Takes {
        store: &*store,
        recordings: &settings.recording_path,
        chunk_folder: &settings.chunk_folder.0,
        tasks: &tasks,
    };
    let mut left = Left::default();
    for stored in takes.all().await? {
        if running.contains(&stored.key.recording) {
            continue;
        }
        let has_video = match takes.take(&stored).await {
            Ok(take) => takes.has_video(&take).await.unwrap_or(false),
            Err(_) => false,
        };
        let recording = &stored.key.recording;
        let folder = settings.recording_path.join(recording.as_str());
        if stored.finished || has_video {
            left.with_video.push(recording.to_string());
        } else if !blocking(move || is_young(&folder)).await? {
            left.without_video.push(recording.to_string());
        }
    }
    Ok(left)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Failure::new)
}

/// Whether anything in the folder was written a short time ago.
fn is_young(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_young = |entry: fs::DirEntry| {
        let Ok(found) = entry.metadata() else {
            return false;
        };
        // What is of the future was written by a clock that is ahead.
        let is_new = |at: SystemTime| at.elapsed().unwrap_or_default() < YOUNG;
        match found.is_dir() {
            true => is_young(&entry.path()),
            false => found.modified().is_ok_and(is_new),
        }
    };
    entries.any(is_young)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_just_now_may_be_going_on() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("chunks/1/r1");
        fs::create_dir_all(&run).unwrap();
        assert!(!is_young(folder.path()), "no bytes");
        let chunk = fs::File::create(run.join("0001.mp4")).unwrap();
        assert!(is_young(folder.path()));
        chunk.set_modified(SystemTime::now() - 2 * YOUNG).unwrap();
        assert!(!is_young(folder.path()));
    }

    #[test]
    fn a_timeline_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("ses_A")).unwrap();
        let path = Beside::new(folder.path(), &RecordingId::parse("ses_A").unwrap()).timeline();
        fs::write(&path, "{").unwrap();
        let found = last_of(folder.path()).unwrap();
        assert!(
            matches!(&found[..], [(at, Err(_))] if *at == path),
            "{found:?}"
        );
    }
}
