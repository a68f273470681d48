//! Somebody deletes or moves away what is being recorded: whoever finds that says so here, once for all files of the
//! recording, and what OpenVidu wants to find in the folder is made again.

use super::reporter::Reporter;
use crate::clock::Clock;
use crate::join::beside::Beside;
use crate::model::wire::TroubleKind;
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often at most the video is copied to get its name back, and how long that is told at least.
const LATELY: Duration = Duration::from_secs(10);

/// What was swept away. Clones are the same.
#[derive(Clone)]
pub(super) struct Sweeps {
    reporter: Reporter,
    clock: Arc<dyn Clock>,
    beside: Beside,
    /// OpenVidu's view of the recording when it ordered it.
    json: Option<Value>,
    /// When something was last found to be deleted or moved away, by the clock's uptime.
    last: Arc<Mutex<Option<Duration>>>,
}

impl Sweeps {
    pub(super) fn new(
        reporter: Reporter,
        clock: Arc<dyn Clock>,
        beside: Beside,
        json: Option<Value>,
    ) -> Self {
        Self {
            reporter,
            clock,
            beside,
            json,
            last: Arc::default(),
        }
    }

    /// Makes the folder and OpenVidu's file in it where they are missing.
    pub(super) fn make_folder(&self) {
        if let Err(cause) = self.beside.begin(self.json.as_ref()) {
            log::warn!("OpenVidu's own file is missing beside the video: {cause}");
        }
    }

    /// `path` was deleted or moved away while it was written.
    pub(super) fn found(&self, path: &Path) {
        *self.last() = Some(self.clock.uptime());
        self.make_folder();
        let message = format!(
            "{} was deleted or moved away while it was recorded; it is made again from what was open, see who cleans up there",
            path.display()
        );
        self.reporter.trouble(TroubleKind::Disk, message);
    }

    /// Whether something was found a moment ago.
    pub(super) fn is_recent(&self) -> bool {
        let now = self.clock.uptime();
        self.last()
            .is_some_and(|at| now.saturating_sub(at) < LATELY)
    }

    /// All is there again: says so, where something was found long enough ago.
    pub(super) fn all_is_there(&self) {
        if !self.is_recent() && self.last().take().is_some() {
            self.reporter.well(TroubleKind::Disk);
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<Duration>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
