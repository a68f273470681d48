//! Ended sessions are forgotten here once they have been idle long enough.

use super::{Controller, Which};
use log::{info, warn};

impl Controller {
    /// Forgets sessions that ended long enough ago, and answers how many.
    pub async fn cleanup(&self) -> usize {
        let now = self.0.clock.now();
        let patience = self.0.settings.session_max_inactive_seconds.seconds();
        let mut removed = 0;
        for id in self.table().ids(Which::Inactive) {
            let Some(session) = self.session(&id) else {
                continue;
            };
            let idle = session.ended_at().map(|at| now.since(at));
            if idle.is_none_or(|idle| idle < patience) || session.seal_at.is_some() {
                continue;
            }
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
        removed
    }
}
