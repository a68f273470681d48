//! In debug mode what the recorder logs is kept beside the video, and from there in the chunk store beside the run's chunks:
//! while it records, so that a lost machine leaves its last words, and once more at the end.

use crate::store::ChunkStore;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often a log that grew is stored.
const EVERY: Duration = Duration::from_secs(10);

/// Stores the log at `path` under `key` again and again, the last time when `token` says that everything ends.
pub(super) async fn keep(
    store: Arc<dyn ChunkStore>,
    key: String,
    path: PathBuf,
    token: CancellationToken,
) {
    let mut look = interval(EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stored = 0;
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = token.cancelled() => {}
        }
        let bytes = fs::metadata(&path).map_or(0, |log| log.len());
        // A store that is away is reported by the upload of chunks; a line about it here would make the log longer.
        if bytes > stored && store.put(&key, &path).await.is_ok() {
            stored = bytes;
        }
        if token.is_cancelled() {
            return;
        }
    }
}
