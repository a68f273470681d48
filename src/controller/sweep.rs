//! The chunk store's takes after their recorders and their sessions: one that nobody finished becomes a video here, from
//! the store alone where it must; one that is finished leaves the store, but only when its video was held against every
//! chunk. What cannot be verified stays, and is reported.

use super::takes::{Take, TakeError, Takes, Unread};
use super::unfinished::{about_unread, pause_after};
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
    /// Takes that nobody finished.
    quiet: BTreeMap<String, Quiet>,
}

/// A take that does not grow.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    bytes: u64,
    tries: u32,
    /// How many of them failed for a chunk that could not be read.
    unread: u32,
    /// Not before this is its video made; `None` where nothing of it can be shown.
    next: Option<Timestamp>,
}

impl Quiet {
    fn waits(&self, now: Timestamp) -> bool {
        self.next.is_none_or(|at| now < at)
    }
}

impl Sweep {
    /// The clock was set back to `now`.
    pub(super) fn set_back(&mut self, now: Timestamp) {
        self.next = None;
        for take in self.quiet.values_mut() {
            take.next = take.next.map(|at| at.min(now));
        }
    }
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
            let known = self.known_as_quiet(stored);
            if let Some(waits) = known.filter(|it| !stored.finished && it.waits(now)) {
                next = waits.next.map_or(next, |at| next.min(at));
                quiet.insert(stored.key.to_string(), waits);
                continue;
            }
            match self.unfinished(stored).await {
                Ok(None) => match self.kept_until(stored).await {
                    Some(at) if now < at => next = next.min(at),
                    _ => self.clear_stored(stored).await,
                },
                Ok(Some(take)) => {
                    let left = match known {
                        Some(known) => self.finish_stored(&take, known).await,
                        None => Some(Quiet {
                            bytes: stored.bytes(),
                            tries: 0,
                            unread: 0,
                            next: Some(now.plus(self.patience())),
                        }),
                    };
                    // What is finished is cleared at the next look.
                    let due = left.map_or(Some(now), |it| it.next);
                    next = due.map_or(next, |at| next.min(at));
                    quiet.extend(left.map(|left| (stored.key.to_string(), left)));
                }
                Err(cause) => {
                    warn!(take:% = stored.key; "{cause}");
                    next = now;
                    quiet.extend(known.map(|known| (stored.key.to_string(), known)));
                }
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

    /// What is known of a take that has not grown since the last look.
    fn known_as_quiet(&self, take: &StoredTake) -> Option<Quiet> {
        let known = lock(&self.0.sweep)
            .quiet
            .get(&take.key.to_string())
            .copied();
        known.filter(|it| it.bytes == take.bytes())
    }

    #[cfg(test)]
    pub(super) fn tries_to_finish_stored(&self, take: &str) -> Option<u32> {
        lock(&self.0.sweep).quiet.get(take).map(|it| it.tries)
    }

    /// Makes its video; answers what is known of it where it could not.
    async fn finish_stored(&self, take: &Take, known: Quiet) -> Option<Quiet> {
        info!(take:% = take.key; "nobody finishes this take; its video is made from the store");
        let mut unread = known.unread;
        let next = match self.finish_take(take, about_unread(unread)).await {
            Ok(seconds) => {
                info!(take:% = take.key, seconds:? = seconds; "the video is finished");
                return None;
            }
            Err(cause @ TakeError::Nothing(_)) => {
                warn!(take:% = take.key; "{cause}; its chunks are kept, and it is tried again once there is more of it");
                None
            }
            Err(cause) => {
                unread += u32::from(cause.is_unread());
                let pause = pause_after(known.tries, &cause);
                warn!(take:% = take.key; "the video was not made and is tried again in {} s: {cause}", pause.as_secs());
                Some(self.0.clock.now().plus(pause))
            }
        };
        Some(Quiet {
            tries: known.tries + 1,
            unread,
            next,
            ..known
        })
    }

    /// Makes the take's video, and answers how many seconds it plays where that is known.
    pub(super) async fn finish_take(
        &self,
        take: &Take,
        unread: Unread,
    ) -> Result<Option<f64>, TakeError> {
        let recovered = self.takes().finish(take, unread, &mut |_| {}).await?;
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
