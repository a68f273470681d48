//! The last second: what OpenVidu reads when the container has gone. The video itself is finished elsewhere; here `.info`,
//! thumbnail and timeline are laid beside it, and everything is made readable for the one who serves it.

use super::growing::remove_index;
use super::{PART, info_json, reserve};
use crate::disk::{self, Draft, UNFINISHED};
use crate::model::ids::RecordingId;
use crate::model::timeline::Timeline;
use nix::fcntl::OFlag;
use serde_json::Value;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

/// How long making a thumbnail from the video may take.
const THUMBNAIL: Duration = Duration::from_secs(5);
/// Nobody writes a file for so long without a byte: whoever began it was killed.
const ABANDONED: Duration = Duration::from_secs(600);
/// What ffmpeg adds to the name of a picture that it has not finished.
const HALF_A_PICTURE: &str = ".preview.jpg.tmp";
/// How wide a thumbnail is.
pub const WIDTH: u32 = 480;

/// Why something could not be laid beside the video.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {cause}; free some space or check who may write there", path.display())]
pub struct BesideError {
    path: PathBuf,
    cause: String,
}

/// The recording's folder and the names of what OpenVidu expects there.
#[derive(Clone, Debug)]
pub struct Beside {
    folder: PathBuf,
    recording: RecordingId,
}

impl Beside {
    /// For `recording` below the folder `recordings`.
    pub fn new(recordings: &Path, recording: &RecordingId) -> Self {
        Self {
            folder: recordings.join(recording.as_str()),
            recording: recording.clone(),
        }
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The video of that name.
    pub fn video(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.mp4"))
    }

    /// What the page looked like a moment ago.
    pub fn preview(&self) -> PathBuf {
        self.named("preview.jpg")
    }

    /// OpenVidu's view of the recording.
    pub fn seal(&self) -> PathBuf {
        self.folder.join(format!(".recording.{}", self.recording))
    }

    /// The video's facts, which OpenVidu reads and deletes.
    pub fn info(&self) -> PathBuf {
        self.named("info")
    }

    /// Which seconds the video is made of and which are missing.
    pub fn timeline(&self) -> PathBuf {
        self.named("timeline.json")
    }

    /// The picture that OpenVidu shows for the video.
    pub fn thumbnail(&self) -> PathBuf {
        self.named("jpg")
    }

    /// What recorders logged, in debug mode.
    pub fn log(&self) -> PathBuf {
        self.folder.join("recorder.log")
    }

    fn named(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.recording))
    }

    /// Makes the folder and writes OpenVidu's view of the recording, unless OpenVidu has written a later one of the same
    /// recording meanwhile.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn begin(&self, json: Option<&Value>) -> Result<(), BesideError> {
        disk::make_folder(&self.folder).map_err(at(&self.folder))?;
        match json {
            Some(json) if self.sealed(json).is_none() => self.write_seal(json),
            _ => Ok(()),
        }
    }

    /// Whether OpenVidu's file says that the recording of `json` is over.
    pub fn is_over(&self, json: Option<&Value>) -> bool {
        json.is_some_and(|json| self.over_since(json).is_some())
    }

    /// When OpenVidu's file was written that says that the recording of `json` is over.
    pub fn over_since(&self, json: &Value) -> Option<SystemTime> {
        let there = self.sealed(json)?;
        match there["status"].as_str()? {
            "stopped" | "ready" | "failed" => fs::metadata(self.seal()).ok()?.modified().ok(),
            _ => None,
        }
    }

    /// OpenVidu's view of the recording, unless it is of another one than `json`.
    fn sealed(&self, json: &Value) -> Option<Value> {
        let there: Value = serde_json::from_slice(&fs::read(self.seal()).ok()?).ok()?;
        let same = ["id", "createdAt"].iter().all(|m| there[m] == json[m]);
        same.then_some(there)
    }

    /// Writes OpenVidu's view of the recording.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write_seal(&self, json: &Value) -> Result<(), BesideError> {
        write_readable(&self.seal(), json.to_string().as_bytes())
    }

    /// Lays everything beside the finished `video`; a timeline where one is known.
    ///
    /// # Errors
    /// See [`Beside::complete_with`]; also when `video` cannot be read, or is not finished.
    pub async fn complete(
        &self,
        video: &Path,
        timeline: Option<&Timeline>,
    ) -> Result<(), BesideError> {
        let info = info_json(video).map_err(|cause| BesideError {
            path: self.info(),
            cause: cause.to_string(),
        })?;
        self.complete_with(&info, video, timeline).await
    }

    /// The same where what `.info` is to say is known.
    ///
    /// # Errors
    /// When `.info` cannot be written: without it OpenVidu takes the recording for failed. Without the rest it does not.
    pub async fn complete_with(
        &self,
        info: &str,
        video: &Path,
        timeline: Option<&Timeline>,
    ) -> Result<(), BesideError> {
        reserve::release(video);
        remove_index(video);
        let path = self.info();
        let fault = at(&path);
        disk::make_folder(&self.folder).map_err(&fault)?;
        // First, so that nothing else takes its room.
        let draft = self.draft(info).map_err(&fault)?;
        if let Some(timeline) = timeline
            && let Err(cause) = timeline_at(&self.timeline(), timeline)
        {
            log::warn!("the recording has no timeline: {cause}");
        }
        self.make_thumbnail(video).await;
        // Last: where it is, everything is.
        draft.publish(&path).map_err(&fault)?;
        open_up(&self.folder);
        self.sweep();
        Ok(())
    }

    /// `.info` without its name. On a disk without any room the picture of the page makes some.
    fn draft(&self, info: &str) -> io::Result<Draft> {
        let draft = || readable(&self.folder, info.as_bytes());
        draft().or_else(|cause| match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                // Where there is none, the second attempt says again that there is no room.
                let _ = fs::remove_file(self.preview());
                draft()
            }
            _ => Err(cause),
        })
    }

    /// Deletes what those left half done here who were killed in the middle of it.
    pub fn sweep(&self) {
        let unfinished = |name: &str| {
            name.starts_with(UNFINISHED)
                || (name.starts_with('.') && name.ends_with(PART))
                || name.ends_with(HALF_A_PICTURE)
        };
        let swept = disk::sweep(&self.folder, ABANDONED, &unfinished);
        if swept > 0 {
            log::info!(recording:% = self.recording, files = swept; "half-written files that nobody goes on with were deleted");
        }
    }

    async fn make_thumbnail(&self, video: &Path) {
        let (preview, thumbnail) = (self.preview(), self.thumbnail());
        let is_picture = |path: &Path| fs::metadata(path).is_ok_and(|data| data.len() > 0);
        if is_picture(&preview) && fs::rename(&preview, &thumbnail).is_ok() {
            return;
        }
        if is_picture(&thumbnail) {
            return;
        }
        let frame = tokio::process::Command::new("ffmpeg")
            .args(["-nostdin", "-loglevel", "error", "-y", "-i"])
            .arg(video)
            .args(["-frames:v", "1", "-vf", &format!("scale={WIDTH}:-2")])
            .args(["-f", "image2", "-update", "1"])
            .arg(format!("file:{}", thumbnail.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status();
        match tokio::time::timeout(THUMBNAIL, frame).await {
            Ok(Ok(status)) if status.success() => {}
            _ => log::warn!("there is no thumbnail: ffmpeg made none in time"),
        }
    }
}

/// Writes a timeline as JSON to `path`.
///
/// # Errors
/// When the file system refuses.
pub fn timeline_at(path: &Path, timeline: &Timeline) -> Result<(), BesideError> {
    let text = serde_json::to_vec_pretty(timeline).map_err(|cause| at(path)(cause.into()))?;
    write_readable(path, &[&text[..], b"\n"].concat())
}

/// All or nothing, and readable from the first moment on.
fn write_readable(path: &Path, bytes: &[u8]) -> Result<(), BesideError> {
    let written = readable(disk::parent(path), bytes).and_then(|draft| draft.publish(path));
    written.map_err(at(path))
}

/// A file for everyone to read, with its bytes on the disk and no name yet.
fn readable(folder: &Path, bytes: &[u8]) -> io::Result<Draft> {
    let mut draft = Draft::new(folder)?;
    draft.file.write_all(bytes)?;
    draft.file.set_permissions(Permissions::from_mode(0o644))?;
    draft.file.sync_all()?;
    Ok(draft)
}

fn at(path: &Path) -> impl Fn(io::Error) -> BesideError + '_ {
    |cause| BesideError {
        path: path.to_owned(),
        cause: cause.to_string(),
    }
}

/// The group of Chrome's user, as the recording image has it.
const CHROME: u32 = 47_047;

/// As OpenVidu's own script leaves a finished recording, for applications of other users move and delete it. Chrome's group is
/// kept out.
fn open_up(path: &Path) {
    // What is looked at is what is changed, whatever takes its name meanwhile. No link is followed: its target is not ours to
    // open up. A pipe is not waited for.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let opened = File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(path);
    let Ok(file) = opened else {
        return;
    };
    let Ok(data) = file.metadata() else {
        return;
    };
    let open = if data.gid() == CHROME { 0o707 } else { 0o777 };
    let mode = (data.permissions().mode() | open) & 0o7777;
    // Another user's file stays as that user made it.
    let _ = file.set_permissions(Permissions::from_mode(mode));
    if data.is_dir() {
        // Below the folder that was opened, not below whatever has its name by now.
        let opened = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let entries = fs::read_dir(opened).into_iter().flatten().flatten();
        entries.for_each(|entry| open_up(&entry.path()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn beside(root: &Path) -> Beside {
        Beside::new(root, &RecordingId::parse("ses_A").unwrap())
    }

    #[test]
    fn a_later_status_of_the_same_recording_is_not_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let beside = beside(root.path());
        let path = root.path().join("ses_A/.recording.ses_A");
        let read = || serde_json::from_slice::<Value>(&fs::read(&path).unwrap()).unwrap();
        let started = json!({"id": "ses_A", "createdAt": 1, "status": "started"});
        beside.begin(Some(&started)).unwrap();
        assert_eq!(read(), started);
        assert!(!beside.is_over(Some(&started)) && !beside.is_over(None));
        let stopped = json!({"id": "ses_A", "createdAt": 1, "status": "stopped"});
        fs::write(&path, stopped.to_string()).unwrap();
        beside.begin(Some(&started)).unwrap();
        assert_eq!(read(), stopped);
        assert!(beside.is_over(Some(&started)));
        let other = json!({"id": "ses_A", "createdAt": 2, "status": "started"});
        beside.begin(Some(&other)).unwrap();
        assert_eq!(read(), other);
        assert!(!beside.is_over(Some(&started)), "another recording's end");
    }

    #[test]
    fn what_was_left_half_done_is_swept_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("ses_A");
        let old = [
            ".tmp-0123",
            "chunks/1/.tmp-4567",
            ".video.mp4.r1.part",
            "ses_A.preview.jpg.tmp",
        ];
        let kept = [
            ".recording.ses_A",
            "video.mp4",
            "chunks/1/r1/0001.mp4",
            ".tmp-young",
        ];
        for name in old.iter().chain(&kept) {
            let path = folder.join(name);
            fs::create_dir_all(disk::parent(&path)).unwrap();
            let file = fs::File::create(&path).unwrap();
            let age = if name.ends_with("young") { 0 } else { 601 };
            let then = std::time::SystemTime::now() - Duration::from_secs(age);
            file.set_modified(then).unwrap();
        }
        beside(root.path()).sweep();
        assert!(old.iter().all(|name| !folder.join(name).exists()));
        assert!(kept.iter().all(|name| folder.join(name).exists()));
    }

    #[test]
    fn a_finished_recording_can_be_moved_and_deleted_by_everyone_but_pages() {
        use std::os::unix::fs::{chown, symlink};
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("ses_A");
        let (file, closed) = (folder.join("a/b.mp4"), folder.join("closed"));
        let outside = root.path().join("outside");
        fs::create_dir_all(folder.join("a")).unwrap();
        for (path, mode) in [(&file, 0o600), (&closed, 0o604), (&outside, 0o600)] {
            fs::write(path, b"").unwrap();
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        symlink(&outside, folder.join("link")).unwrap();
        let is_root = chown(&closed, None, Some(47047)).is_ok();
        open_up(&folder);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for path in [&folder, &folder.join("a"), &file] {
            assert_eq!(mode(path), 0o777, "{}", path.display());
        }
        assert!(!is_root || mode(&closed) == 0o707);
        assert_eq!(mode(&outside), 0o600);
    }
    #[test]
    fn whoever_exchanges_a_file_for_a_link_gets_nothing_opened_up() {
        use std::os::unix::fs::symlink;
        use std::sync::atomic::{AtomicBool, Ordering};
        let root = tempfile::tempdir().unwrap();
        let (folder, outside) = (root.path().join("ses_A"), root.path().join("outside"));
        fs::create_dir(&folder).unwrap();
        let (name, other) = (folder.join("name"), root.path().join("other"));
        let is_over = AtomicBool::new(false);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::write(&outside, b"").unwrap();
        fs::set_permissions(&outside, Permissions::from_mode(0o600)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    fs::write(&other, b"").unwrap();
                    fs::rename(&other, &name).unwrap();
                    symlink(&outside, &other).unwrap();
                    fs::rename(&other, &name).unwrap();
                }
            });
            let until = std::time::Instant::now() + Duration::from_secs(1);
            while std::time::Instant::now() < until && mode(&outside) == 0o600 {
                open_up(&folder);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(mode(&outside), 0o600);
    }

    #[test]
    fn a_pipe_in_a_finished_recording_holds_up_nothing() {
        let root = tempfile::tempdir().unwrap();
        let pipe = root.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        open_up(root.path());
        let mode = fs::metadata(&pipe).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o777);
    }
}
