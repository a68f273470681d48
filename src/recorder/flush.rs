//! What a power cut may cost: the log's last fragments are in the system's memory only, and a chunk's name is, too. This
//! follower of the log has them written to the disk once a second, on a thread where nobody waits for the disk. A chunk that
//! is closed is flushed by who wrote it.

use super::context::Context;
use super::run::Run;
use crate::chunklog::{Heads, Position};
use crate::disk;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How much of the log a power cut may cost, beside the fragment that is being written and what the disk takes to flush.
const RHYTHM: Duration = Duration::from_secs(1);

/// A disk that takes long to flush, or does so for many recorders, is left alone for so many times as long.
const GENTLE: u32 = 4;
/// But no longer than this.
const LONGEST: Duration = Duration::from_secs(5);

/// Flushes the log of one run.
pub(super) struct Flusher {
    pub(super) context: Context,
    pub(super) run: Run,
    /// OpenVidu's recordings folder; the names below it that lead to the run are ours.
    pub(super) recordings: PathBuf,
    pub(super) heads: Heads,
}

impl Flusher {
    /// Follows the log until it ends.
    pub(super) async fn follow(mut self) {
        let mut named = None;
        let mut refused = false;
        while self.heads.changed().await.is_ok() {
            let Some(head) = *self.heads.borrow_and_update() else {
                continue;
            };
            let (run, recordings) = (self.run.clone(), self.recordings.clone());
            let work = move || flush(&run, &recordings, named, head);
            let begun = Instant::now();
            let flushed = tokio::task::spawn_blocking(work).await;
            let pause = RHYTHM.max(begun.elapsed() * GENTLE).min(LONGEST);
            match flushed.unwrap_or_else(|cause| Err(io::Error::other(cause))) {
                Ok(now) => (named, refused) = (Some(now), false),
                // It was deleted or moved away; who writes it gives it a name again.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => named = None,
                // No trouble of the recording, which goes on: whoever closes the chunk reports what he is refused.
                Err(cause) if !refused => {
                    refused = true;
                    log::error!(
                        "what is recorded would not outlast a power cut: the disk does not flush {}: {cause}; check it",
                        self.run.folder.display()
                    );
                }
                Err(_) => {}
            }
            tokio::select! {
                () = sleep(pause) => {}
                // The last chunk is flushed by who closes it.
                () = self.context.shutdown.cancelled() => return,
            }
        }
    }
}

/// Writes to the disk what the chunk at `head` holds, and the names that lead to it, but where they are there since chunk `named`
/// was flushed. Answers whose names are there now.
fn flush(run: &Run, recordings: &Path, named: Option<u32>, head: Position) -> io::Result<u32> {
    let index = head.origin.index;
    let chunk = run.take.chunk(run.number, index);
    // Network file systems flush only what is open for writing.
    let chunk = File::options()
        .write(true)
        .open(run.folder.join(chunk.file_name()))?;
    chunk.sync_data()?;
    if named.is_none() {
        let above = run.folder.ancestors().skip(1);
        for folder in above.take_while(|folder| folder.starts_with(recordings)) {
            disk::sync_folder(folder)?;
        }
    }
    if named != Some(index) {
        disk::sync_folder(&run.folder)?;
    }
    Ok(index)
}
