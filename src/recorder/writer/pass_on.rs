//! Chunks that are in the video need it no more: the upload may delete their files.

use super::{Video, Writer};
use crate::chunklog::Head;

impl Writer {
    /// Chunks that the video has in full go to the upload, which may then delete them here: what was in them is on the disk
    /// by then.
    pub(super) fn pass_on(&mut self) {
        let Video::Open { file, follower, .. } = &mut self.video else {
            return;
        };
        let holds_earlier = self.holds_earlier.is_some() && follower.is_past_earlier_runs();
        if self.passed.is_empty() && !holds_earlier {
            return;
        }
        if self.uploader.takes_files_away()
            && let Err(cause) = file.sync()
        {
            return self.failed(&cause.into());
        }
        if holds_earlier && let Some(told) = self.holds_earlier.take() {
            // Nobody listens when the recorder ends.
            let _ = told.send(());
        }
        self.hand_over();
        self.sweeps.all_is_there();
    }

    pub(super) fn hand_over(&mut self) {
        for origin in self.passed.drain(..) {
            let key = self.run.take.chunk(origin.run, origin.index);
            let path = self.run.folder.join(key.file_name());
            self.uploader.chunk_closed(key, path);
        }
    }

    /// The same for all of the run's chunks, whether the video has them or not: nobody will follow any more.
    pub(super) fn pass_on_all(&mut self, head: Head) {
        let last = self.passed.last().map_or(0, |origin| origin.index);
        if let (Video::Open { follower, .. }, Some(head)) = (&self.video, head) {
            let left = follower
                .unread_own(head)
                .filter(|origin| origin.index > last);
            self.passed.extend(left);
        }
        self.hand_over();
    }
}
