//! The chunk store's takes after their recorders and their sessions: one that nobody finished becomes a video here, from
//! the store alone where it must; one that is finished leaves the store, but only when its video was held against every
//! chunk. What cannot be verified stays, and is reported.

use super::takes::{Take, TakeError, Takes};
use super::{Controller, lock};
use crate::clock::Timestamp;
use crate::model::ids::RecordingId;
use crate::model::timeline::Timeline;
use crate::store::takes::StoredTake;
use log::{info, warn};
use std::collections::BTreeMap;
use std::time::Duration;

/// With nothing to do the store is looked through this often.
const IDLE: Duration = Duration::from_secs(3600);

/// What the controller remembers between two looks through the store.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// When there will be something to do, as far as is known; `None` before the first look.
    next: Option<Timestamp>,
    /// Takes that nobody finished: their bytes, and since when these have not grown.
    quiet: BTreeMap<String, (u64, Timestamp)>,
}

impl Controller {
    /// Looks through the chunk store when there is a reason to: finishes takes that nobody records and nobody will, and
    /// clears finished ones.
    pub(super) async fn sweep_store(&self, something_ended: bool) {
        let now = self.0.clock.now();
        let next = lock(&self.0.sweep).next;
        if !something_ended && next.is_some_and(|at| now < at) {
            return;
        }
        let look = async {
            // Makes a bucket that is missing.
            self.0.store.probe().await?;
            self.takes().all().await
        };
        let found = match look.await {
            Ok(found) => found,
            Err(cause) => return warn!("the chunk store was not looked through: {cause}"),
        };
        let mut next = now.plus(IDLE);
        let mut quiet = BTreeMap::new();
        for stored in found.iter().filter(|stored| self.is_free(stored)) {
            match self.unfinished(stored).await {
                Ok(None) => match self.kept_until(stored).await {
                    Some(at) if now < at => next = next.min(at),
                    _ => self.clear_stored(stored).await,
                },
                Ok(Some(take)) => {
                    next = now;
                    let since = self.watch_take(stored, now);
                    if now.since(since) < self.patience() || !self.finish_stored(&take).await {
                        quiet.insert(stored.key.to_string(), (stored.bytes(), since));
                    }
                }
                Err(cause) => warn!(take:% = stored.key; "{cause}"),
            }
        }
        let mut sweep = lock(&self.0.sweep);
        sweep.next = Some(next);
        sweep.quiet = quiet;
    }

    pub(super) fn takes(&self) -> Takes<'_> {
        Takes {
            store: &*self.0.store,
            recordings: &self.0.settings.recording_path,
            chunk_folder: &self.0.settings.chunk_folder.0,
            tasks: &self.0.tasks,
        }
    }

    /// Whether no session looks after the take; one that does concludes it, and clears it in the end.
    fn is_free(&self, take: &StoredTake) -> bool {
        let session = self.session(&take.key.recording);
        session.is_none_or(|session| session.take.is_some_and(|t| t != take.key.take))
    }

    /// The take, where its video is not finished: neither here, nor as far as the store was told.
    async fn unfinished(&self, stored: &StoredTake) -> Result<Option<Take>, TakeError> {
        if stored.finished {
            return Ok(None);
        }
        let take = self.takes().take(stored).await?;
        let finished = self.takes().has_video(&take).await?;
        Ok((!finished).then_some(take))
    }

    /// Longer than a recorder that lives could be silent, also one that still looks for its controller.
    fn patience(&self) -> Duration {
        let settings = &self.0.settings;
        (settings.heartbeat_timeout() + settings.stuck_timeout()) * 2
    }

    /// Since when the take has not grown.
    fn watch_take(&self, take: &StoredTake, now: Timestamp) -> Timestamp {
        match lock(&self.0.sweep).quiet.get(&take.key.to_string()) {
            Some((bytes, since)) if *bytes == take.bytes() => *since,
            _ => now,
        }
    }

    async fn finish_stored(&self, take: &Take) -> bool {
        info!(take:% = take.key; "nobody finishes this take; its video is made from the store");
        match self.finish_take(take).await {
            Ok(seconds) => {
                info!(take:% = take.key, seconds:? = seconds; "the video is finished");
                true
            }
            Err(cause) => {
                warn!(take:% = take.key; "the video was not made: {cause}");
                false
            }
        }
    }

    /// Makes the take's video, and answers how many seconds it plays where that is known.
    pub(super) async fn finish_take(&self, take: &Take) -> Result<Option<f64>, TakeError> {
        let recovered = self.takes().finish(take, &mut |_| {}).await?;
        for fault in recovered.faults {
            warn!(take:% = take.key; "{fault}");
        }
        Ok(recovered.timeline.map(|it| it.duration_seconds))
    }

    async fn clear_stored(&self, stored: &StoredTake) {
        match self.takes().take(stored).await {
            Ok(take) => self.clear_take(&take).await,
            Err(cause) => self.keep_chunks(&stored.key.recording, &cause.into()),
        }
    }

    /// Deletes a finished take's chunks when its video holds them.
    pub(super) async fn clear_take(&self, take: &Take) {
        let recording = &take.key.recording;
        if !self.0.settings.s3_cleanup.0 {
            return;
        }
        match self.takes().clear(take).await {
            Ok(0) => {}
            Ok(chunks) => {
                lock(&self.0.unverified).remove(recording);
                info!(take:% = take.key, chunks; "the video holds every chunk; they were deleted");
            }
            Err(cause) => self.keep_chunks(recording, &cause),
        }
    }

    fn keep_chunks(&self, recording: &RecordingId, cause: &TakeError) {
        if lock(&self.0.unverified).insert(recording.clone()) {
            warn!(session:% = recording; "chunks are kept, no video was verified to hold them: {cause}");
        }
    }

    /// Until when a finished take's chunks stay; `None` when it is not known when it ended.
    async fn kept_until(&self, take: &StoredTake) -> Option<Timestamp> {
        let text = self.0.store.read(&take.key.finished()).await.ok()?;
        let timeline: Timeline = serde_json::from_slice(&text).ok()?;
        let settings = &self.0.settings;
        let days = Duration::from_secs(settings.keep_chunks_days.saturating_mul(24 * 3600));
        let kept = days.max(settings.session_max_inactive_seconds.seconds());
        Some(timeline.ended_at.plus(kept))
    }
}
