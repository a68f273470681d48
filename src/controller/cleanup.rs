//! Ended sessions are forgotten here once they have been idle long enough, and with them go their chunks: those that the
//! finished video was found to hold, byte for byte. What could not be verified stays, and is reported.

use super::{Controller, Which};
use crate::join::beside::Beside;
use crate::model::session::{Session, State};
use crate::tasks;
use log::{info, warn};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3_600);

impl Controller {
    /// Forgets sessions that ended long enough ago, and answers how many; where that is under way already, after that.
    pub async fn cleanup(&self) -> usize {
        let _turn = self.0.cleaning.lock().await;
        self.clean_all().await
    }

    /// The same as the scheduler asks for it.
    pub(super) async fn cleanup_if_none_is_under_way(&self) {
        match self.0.cleaning.try_lock() {
            Ok(_turn) => drop(self.clean_all().await),
            Err(_) => warn!(
                "the clean-up that began before is still under way: a disk, a store or Docker is slow"
            ),
        }
    }

    async fn clean_all(&self) -> usize {
        self.loaded().await;
        let mut removed = 0;
        for id in self.ids(Which::Inactive) {
            let Some(session) = self.session(&id).filter(|it| self.is_stale(it)) else {
                continue;
            };
            self.delete_chunks(&session).await;
            Beside::new(&self.0.settings.recording_path, &id).sweep();
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
        tasks::block(|| self.forget_blueprints());
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

    async fn delete_chunks(&self, session: &Session) {
        let finished = matches!(
            session.state,
            State::Completed { .. } | State::Failed { .. } | State::GivenUp { .. }
        );
        if let Some(take) = self.take_of(session).filter(|_| finished) {
            self.clear_take(&take).await;
        }
    }
}
