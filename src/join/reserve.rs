//! Room for the end of a recording: a hidden file beside the growing video that takes as much of the disk as `moov`, `.info`
//! and what else is written at the stop will need. It is deleted just before they are written, so that a disk that filled
//! up meanwhile still takes them. Room behind the video's own end would not do: cutting the video to its length frees it.

use super::growing::beside;
use crate::disk;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The reserve grows by so much at once.
const STEP: u64 = 256 << 10;
/// For `.info`, thumbnail, OpenVidu's own file, and the folder itself.
const BESIDE: u64 = 128 << 10;

/// The reserve of one video.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    held: u64,
    /// What is needed when it is worth trying again, after the disk did not give it.
    next: u64,
}

impl Reserve {
    /// The reserve of `video`; nothing is held yet.
    pub fn of(video: &Path) -> Self {
        Self {
            path: path(video),
            held: 0,
            next: 0,
        }
    }

    /// Holds room for `needed` bytes of the video and what lies beside it. Where the disk has no such room, recording goes on
    /// with what is held.
    pub fn hold(&mut self, needed: u64) {
        let needed = needed + BESIDE;
        if needed <= self.held || needed < self.next {
            return;
        }
        let wanted = (needed + STEP).next_multiple_of(STEP);
        match self.grow_to(wanted) {
            Ok(()) => self.held = wanted,
            Err(cause) => {
                self.next = needed + STEP / 8;
                let path = self.path.display();
                log::debug!("no room is held in {path} for the end of the video: {cause}");
            }
        }
    }

    fn grow_to(&self, bytes: u64) -> io::Result<()> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)?;
        disk::allocate(&file, bytes)
    }
}

/// Gives the room that was held for the end of `video` back to the disk.
pub(super) fn release(video: &Path) {
    // There is none beside a video that was made at once; one that cannot be deleted only takes room.
    let _ = fs::remove_file(path(video));
}

fn path(video: &Path) -> PathBuf {
    beside(video, "reserve")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_is_needed_is_held_on_the_disk_until_it_is_released() {
        let folder = tempfile::tempdir().unwrap();
        let video = folder.path().join("video.mp4");
        let mut reserve = Reserve::of(&video);
        for needed in [0, 1 << 20, 1 << 10] {
            reserve.hold(needed);
            let held = fs::metadata(folder.path().join(".video.mp4.reserve")).unwrap();
            assert!(held.blocks() * 512 > needed + BESIDE);
        }
        release(&video);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_disk_without_room_is_not_asked_at_every_frame() {
        let folder = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::of(&folder.path().join("missing/video.mp4"));
        reserve.hold(0);
        assert!(reserve.held == 0 && reserve.next > BESIDE);
    }
}
