//! The sessions of an earlier life. A hundred thousand take longer to read than a recorder or OpenVidu should wait, so
//! requests are answered meanwhile: a session that is asked for is read at once, and who asks for many waits for all.

use super::table::Table;
use super::{Controller, lock};
use crate::db::DbError;
use crate::model::ids::RecordingId;
use std::sync::MutexGuard;

impl Controller {
    /// Reads every session that is not known yet. Blocks.
    ///
    /// # Errors
    /// When the database cannot be read; what was read before is known.
    pub fn load(&self) -> Result<(), DbError> {
        let outcome = self.0.stored.ids().try_for_each(|id| {
            drop(self.table_with(&id?)?);
            // Whoever is heard meanwhile does not wait for all of them.
            std::thread::yield_now();
            Ok(())
        });
        self.0.loaded.send_replace(true);
        outcome
    }

    /// Answers when every session is known.
    pub async fn loaded(&self) {
        // An error would mean that the sender is gone, which lives as long as this.
        let _ = self.0.loaded.subscribe().wait_for(|loaded| *loaded).await;
    }

    /// The table with this session in it, where there is one.
    pub(super) fn table_with(&self, id: &RecordingId) -> Result<MutexGuard<'_, Table>, DbError> {
        // Under the lock: what is written meanwhile is not overtaken by what was read before.
        let mut table = lock(&self.0.table);
        if !*self.0.loaded.borrow()
            && table.get(id).is_none()
            && let Some(session) = self.0.stored.get(id)?
        {
            table.insert(session);
        }
        Ok(table)
    }
}
