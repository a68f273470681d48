//! What is wrong with a page, and what helps: it is loaded again, or Chrome is replaced.

use crate::backoff::Backoff;
use crate::model::wire::TroubleKind;
use crate::recorder::context::Context;
use std::time::Duration;
use tokio::time::Instant;

/// The longest time until a page that cannot be had is tried again.
const RELOAD: Duration = Duration::from_secs(5);
/// How long the page must have been well until its trouble is over.
const WELL: Duration = Duration::from_secs(5);
/// Crashes of the page in a row that the same Chrome is kept for.
const MOST_CRASHES: u32 = 5;

/// What is wrong, and what helps.
pub(super) enum Fault {
    /// There is no page: it is loaded again until there is one. The server decides when; no other Chrome helps.
    NotLoaded(String),
    /// It is loaded again; where it crashes again and again another Chrome may help.
    Crashed(String),
    /// Only another Chrome helps.
    Hanging(String),
    /// Chrome has ended.
    Closed,
}

impl Fault {
    pub(super) fn message(&self) -> &str {
        match self {
            Self::NotLoaded(message) | Self::Crashed(message) | Self::Hanging(message) => message,
            Self::Closed => "",
        }
    }
}

/// What helps a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    LoadAgain,
    ReplaceChrome,
}

/// How the page has been within one Chrome.
pub(super) struct Health {
    backoff: Backoff,
    /// Crashes since it was well.
    crashes: u32,
    /// Since when it has answered without a fault.
    well_since: Option<Instant>,
}

impl Health {
    pub(super) const fn new() -> Self {
        Self {
            backoff: Backoff::new(Duration::from_millis(400), RELOAD),
            crashes: 0,
            well_since: None,
        }
    }

    /// The page itself answered, and nothing is wrong with it. Trouble is over once that has been so for [`WELL`].
    pub(super) fn note_well(&mut self, context: &Context) {
        let since = *self.well_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= WELL {
            self.backoff.reset();
            self.crashes = 0;
            context.reporter.well(TroubleKind::Page);
        }
    }

    pub(super) const fn note_fault(&mut self) {
        self.well_since = None;
    }

    /// Notes `fault` and says what helps.
    pub(super) fn remedy(&mut self, fault: &Fault) -> Remedy {
        self.note_fault();
        self.crashes += u32::from(matches!(fault, Fault::Crashed(_)));
        match fault {
            Fault::NotLoaded(_) => Remedy::LoadAgain,
            Fault::Crashed(_) if self.crashes <= MOST_CRASHES => Remedy::LoadAgain,
            Fault::Crashed(_) | Fault::Hanging(_) | Fault::Closed => Remedy::ReplaceChrome,
        }
    }

    /// How long to wait before the page is loaded again.
    pub(super) fn delay(&mut self) -> Duration {
        self.backoff.next_delay()
    }
}
