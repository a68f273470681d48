//! Ended sessions are forgotten here once they have been idle long enough, and with them go their chunks: those that the
//! finished video was found to hold, byte for byte. What could not be verified stays, and is reported.

use super::salvage::{SalvageError, Take};
use super::{Controller, Which, lock};
use crate::config::Switch;
use crate::disk;
use crate::join;
use crate::model::ids::RecordingId;
use crate::model::session::{Session, State};
use log::{info, warn};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3_600);

impl Controller {
    /// Forgets sessions that ended long enough ago, and answers how many.
    pub async fn cleanup(&self) -> usize {
        let mut removed = 0;
        for id in self.ids(Which::Inactive) {
            let Some(session) = self.session(&id).filter(|it| self.is_stale(it)) else {
                continue;
            };
            self.delete_chunks(&session).await;
            match self.forget(&id) {
                Ok(_) => removed += 1,
                Err(cause) => warn!(session:% = id; "an ended session was not removed: {cause}"),
            }
        }
        if removed > 0 {
            info!(sessions = removed; "ended sessions removed");
            if let Err(cause) = self.0.db.durable().await {
                warn!("{cause}");
            }
        }
        self.sweep_store(removed > 0).await;
        removed
    }

    fn is_stale(&self, session: &Session) -> bool {
        let Some(ended) = session.ended_at().filter(|_| session.seal_at.is_none()) else {
            return false;
        };
        let settings = &self.0.settings;
        let mut patience = settings.session_max_inactive_seconds.seconds();
        if session.take.is_some() {
            let days = u32::try_from(settings.keep_chunks_days).unwrap_or(u32::MAX);
            patience = patience.max(DAY.saturating_mul(days));
        }
        self.0.clock.now().since(ended) >= patience
    }

    /// Deletes the chunks of a finished take, if the video holds all of them.
    async fn delete_chunks(&self, session: &Session) {
        let finished = matches!(
            session.state,
            State::Completed { .. } | State::Failed { .. }
        );
        let Switch(wanted) = self.0.settings.s3_cleanup;
        let Some(take) = self.take_of(session).filter(|_| finished && wanted) else {
            return;
        };
        match self.verify(&take).await {
            Ok(0) => {}
            Ok(chunks) => match self.0.store.delete(&take.key.to_string()).await {
                Ok(_) => {
                    self.delete_local(&take);
                    info!(session:% = session.id, chunks; "the video holds every chunk; they were deleted");
                }
                Err(cause) => self.keep(&session.id, &cause.to_string()),
            },
            Err(cause) => self.keep(&session.id, &cause.to_string()),
        }
    }

    async fn verify(&self, take: &Take) -> Result<usize, SalvageError> {
        let chunks = take.chunks(&self.0.store).await?;
        if chunks.is_empty() {
            return Ok(0);
        }
        let video = take.video();
        let name = format!("verify {}", take.key);
        let work = self.0.tasks.spawn_blocking(name, move || {
            join::verify(&video, &chunks).map(|checked| checked.chunks)
        });
        let cut_short = |_| SalvageError::CutShort(take.key.clone());
        Ok(work.await.map_err(cut_short)??)
    }

    fn keep(&self, id: &RecordingId, cause: &str) {
        warn!(session:% = id; "the chunks are kept: {cause}");
        lock(&self.0.unverified).insert(id.clone());
    }

    /// The take's folder among the recordings, and those above it that are empty then.
    fn delete_local(&self, take: &Take) {
        let local = take.local();
        // What the store deleted is gone already, and a folder that is not empty stays.
        let _ = std::fs::remove_dir_all(&local);
        disk::prune(disk::parent(&local), &take.recordings);
    }
}
