//! The sessions of an earlier life. A hundred thousand take longer to read than a recorder or OpenVidu should wait, so
//! requests are answered meanwhile: a session that is asked for is read at once, and who asks for many waits for all.

use super::table::Table;
use super::{Controller, lock};
use crate::db::DbError;
use crate::model::ids::RecordingId;
use std::sync::MutexGuard;

/// A database that gives so many faults is not read on.
const MOST_FAULTS: usize = 100;

/// Which sessions of the database are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loaded {
    /// Those that were asked for.
    NotYet,
    /// Those that could be read; the others are tried again when they are asked for.
    InPart,
    All,
}

impl Controller {
    /// Reads every session that is not known yet. Blocks.
    ///
    /// # Errors
    /// The first of those for which a session could not be read. The others are known; that one is read when it is asked for.
    pub fn load(&self) -> Result<(), DbError> {
        let mut outcome = Ok(());
        let mut faults = 0;
        for id in self.0.stored.ids() {
            let read = id.and_then(|id| self.table_with(&id).map(drop));
            faults += usize::from(read.is_err());
            outcome = outcome.and(read);
            if faults == MOST_FAULTS {
                break;
            }
            // Whoever is heard meanwhile does not wait for all of them.
            std::thread::yield_now();
        }
        self.0.loaded.send_replace(match outcome {
            Ok(()) => Loaded::All,
            Err(_) => Loaded::InPart,
        });
        outcome
    }

    /// Answers when every session is known that can be read.
    pub async fn loaded(&self) {
        // An error would mean that the sender is gone, which lives as long as this.
        let _ = self
            .0
            .loaded
            .subscribe()
            .wait_for(|loaded| *loaded != Loaded::NotYet)
            .await;
    }

    /// The table with this session in it, where there is one.
    pub(super) fn table_with(&self, id: &RecordingId) -> Result<MutexGuard<'_, Table>, DbError> {
        // Under the lock: what is written meanwhile is not overtaken by what was read before.
        let mut table = lock(&self.0.table);
        if *self.0.loaded.borrow() != Loaded::All
            && table.get(id).is_none()
            && let Some(session) = self.0.stored.get(id)?
        {
            table.insert(session);
        }
        Ok(table)
    }
}
