//! The video's name is taken away while it is written: it gets it back.

use super::{Video, Writer};
use crate::disk;
use crate::model::wire::TroubleKind;

impl Writer {
    pub(super) fn is_nameless(&self) -> bool {
        match &self.video {
            Video::Open { file, .. } => file.is_nameless(),
            Video::Closed(_) => false,
        }
    }

    /// Whoever sweeps the folder takes names away, not what is open: the video gets its name back.
    pub(super) fn name_again(&mut self) {
        let Video::Open { file, .. } = &self.video else {
            return;
        };
        // A copy that does not fit would fill the disk for every recording on it, again and again.
        let needed = file.bytes();
        let room = disk::needs_room(&self.target.video, needed);
        self.found_swept();
        if room.is_err() {
            let message = format!(
                "{} was deleted or moved away, and there is no room to make it again; free {needed} bytes before the recording stops",
                self.target.video.display()
            );
            self.context.reporter.trouble(TroubleKind::Disk, message);
            return;
        }
        self.reopen();
    }

    pub(super) fn found_swept(&self) {
        self.sweeps.found(&self.target.video);
    }

    pub(super) fn reopen(&mut self) {
        self.close_to_reopen();
        if let Err(cause) = self.open() {
            self.failed(&cause);
        }
    }

    pub(super) fn close_to_reopen(&mut self) {
        let closed = std::mem::replace(&mut self.video, Video::Closed(None));
        self.video = Video::Closed(match closed {
            Video::Open { file, .. } => Some(file),
            Video::Closed(file) => file,
        });
    }
}
