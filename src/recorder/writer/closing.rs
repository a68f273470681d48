//! The end of the video: what the log still holds is taken in, then one `moov` closes it. Where the disk does not take that,
//! the video stays as it is, which plays.

use super::{Close, Step, Target, Video, Writer};
use crate::chunklog::Entry;
use crate::join::{Finished, GrowingFile, JoinError};
use std::time::Duration;
use tokio::sync::watch;

/// How long what the video misses is appended after the stop. OpenVidu waits 30 s for all.
const CATCH_UP: Duration = Duration::from_secs(15);

impl Writer {
    pub(super) fn close(
        mut self,
        close: &watch::Receiver<Close>,
    ) -> Result<Option<Finished>, JoinError> {
        let nameless = self.is_nameless();
        if *close.borrow() == Close::Leave || self.fence.is_overtaken() {
            return Ok(None);
        }
        if nameless {
            self.found_swept();
            self.reopen();
        }
        self.patient_until = Some(Duration::ZERO);
        let head = *self.heads.borrow();
        let begun = self.context.clock.uptime();
        while self.step(head) == Step::Further {
            let is_late = *close.borrow() == Close::FinishNow;
            if is_late || self.context.clock.uptime().saturating_sub(begun) > CATCH_UP {
                log::error!(
                    "the video does not have all of the recording: the disk is too slow for what it missed; make it whole with \"ov2-ha-recorder recover\""
                );
                break;
            }
        }
        if let Video::Open { follower, .. } = &mut self.video
            && let Some(Entry::Passed { origin, .. }) = follower.end()
        {
            self.passed.push(origin);
        }
        let finished = self.finish()?;
        // What it does not hold, for want of room, is in the chunks: they are stored, or named.
        self.pass_on_all(head);
        Ok(Some(finished))
    }

    fn finish(&mut self) -> Result<Finished, JoinError> {
        match &mut self.video {
            Video::Open { file, .. } => finish(file),
            // Without its name the video is gone with this process: nobody may hear that it is finished.
            Video::Closed(Some(file)) => {
                file.reopen()?;
                finish(file)
            }
            Video::Closed(None) => {
                let Target { video, options, .. } = &self.target;
                let mut file = GrowingFile::open(video, options.clone())?;
                finish(&mut file)
            }
        }
    }
}

/// Finishes the video. Where the disk does not take its end it stays as it is, which plays, and is described from memory.
///
/// # Errors
/// When nothing was recorded.
pub(in crate::recorder) fn finish(file: &mut GrowingFile) -> Result<Finished, JoinError> {
    file.finish().or_else(|cause| {
        let finished = file.leave_unfinished()?;
        let help = match cause.is_for_want_of_room() {
            true => "free some space",
            false => "check the disk",
        };
        log::error!(
            "{cause}; the video plays as it is, but seeking in it is slow; {help} and finish it with \"ov2-ha-recorder recover\""
        );
        Ok(finished)
    })
}
