//! What the recorder does, in a word, for whoever asks whether it is alive: pulse by whether the run's log has grown of late.

use super::context::{Context, Part};
use crate::chunklog::Heads;
use crate::clock::Timestamp;
use crate::model::ask::{Answer, Doing};
use crate::model::ids::RecordingId;
use crate::model::wire::{Restarts, TroubleKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A log that has grown within this is fine; a fragment comes several times a second.
const FRESH: Duration = Duration::from_secs(3);

/// The shared view. Clones are the same view.
#[derive(Clone)]
pub(super) struct Condition {
    context: Context,
    pulse: Arc<Mutex<Pulse>>,
}

struct Pulse {
    recording: Option<RecordingId>,
    begun: Moment,
    /// When the log grew last.
    grown: Option<Moment>,
    /// How often each part had been started again then.
    restarts: Restarts,
    phase: Phase,
}

/// How far a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// None is ordered.
    Waits,
    Runs,
    Stops,
}

/// A moment that a step of the wall clock moves nothing about.
#[derive(Clone, Copy)]
struct Moment {
    uptime: Duration,
    at: Timestamp,
}

impl Condition {
    pub(super) fn new(context: &Context, recording: Option<RecordingId>) -> Self {
        let phase = if recording.is_some() {
            Phase::Runs
        } else {
            Phase::Waits
        };
        Self {
            context: context.clone(),
            pulse: Arc::new(Mutex::new(Pulse::of(context, phase, recording))),
        }
    }

    /// Nothing is ordered to be recorded.
    pub(super) fn waits(&self) {
        *self.lock() = Pulse::of(&self.context, Phase::Waits, None);
    }

    /// A recording begins.
    pub(super) fn begins(&self, recording: RecordingId) {
        *self.lock() = Pulse::of(&self.context, Phase::Runs, Some(recording));
    }

    /// What there is to say to whoever asks.
    pub(super) fn answer(&self) -> Answer {
        Answer {
            doing: self.doing(),
            recording: self.lock().recording.clone(),
        }
    }

    /// Follows the head of the run's log until nothing is written any more.
    pub(super) async fn follow(self, mut heads: Heads) {
        while heads.changed().await.is_ok() {
            let restarts = self.context.reporter.report().restarts;
            let grown = Some(now(&self.context));
            let mut pulse = self.lock();
            (pulse.grown, pulse.restarts) = (grown, restarts);
        }
    }

    /// The recording ends.
    pub(super) fn stops(&self) {
        self.lock().phase = Phase::Stops;
    }

    pub(super) fn doing(&self) -> Doing {
        let report = self.context.reporter.report();
        let uptime = self.context.clock.uptime();
        let pulse = self.lock();
        let quiet = pulse.grown.map(|it| uptime.saturating_sub(it.uptime));
        let since = pulse.grown.unwrap_or(pulse.begun).at;
        let is_disk = |kind| kind == TroubleKind::Disk;
        match quiet {
            _ if pulse.phase == Phase::Stops => Doing::Stopping,
            _ if pulse.phase == Phase::Waits => Doing::Waiting,
            Some(quiet) if quiet < FRESH => Doing::Fine,
            _ if report.troubles.iter().any(|it| is_disk(it.kind)) => Doing::Disk { since },
            Some(_) => Doing::Mending {
                part: restarted_since(pulse.restarts, report.restarts).to_string(),
                since,
            },
            None => Doing::Starting { since },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pulse {
    fn of(context: &Context, phase: Phase, recording: Option<RecordingId>) -> Self {
        Self {
            recording,
            begun: now(context),
            grown: None,
            restarts: Restarts::default(),
            phase,
        }
    }
}

fn now(context: &Context) -> Moment {
    Moment {
        uptime: context.clock.uptime(),
        at: context.clock.now(),
    }
}

/// The part that was started again, of several the one that the others stand on; the capture where none was: it is then
/// what gives nothing.
const fn restarted_since(before: Restarts, now: Restarts) -> Part {
    if now.display > before.display {
        Part::Display
    } else if now.audio > before.audio {
        Part::Audio
    } else if now.browser > before.browser {
        Part::Browser
    } else if now.page > before.page {
        Part::Page
    } else {
        Part::Capture
    }
}
