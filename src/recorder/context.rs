//! What every part of a recorder works with: its tasks and clock, where it reports, what it must keep out of the logs, and the
//! two ways to end: parts of the capture end at `shutdown`, the run by what is sent to `ending`.

use super::reporter::Reporter;
use super::workshop::Workshop;
use crate::child::{self, Hidden};
use crate::clock::{Clock, SystemClock};
use crate::tasks::Tasks;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What is kept alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Display,
    Audio,
    Browser,
    Capture,
    /// Within a living browser.
    Page,
}

impl Part {
    /// Whether another container may help where it keeps dying, and nothing could be recorded without it.
    pub(super) const fn is_given_up(self) -> bool {
        matches!(self, Self::Display | Self::Audio | Self::Capture)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Display => "the display",
            Self::Audio => "the sound server",
            Self::Browser => "the browser",
            Self::Capture => "the capture",
            Self::Page => "the page",
        })
    }
}

/// Why the whole run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// OpenVidu, the system or the controller said so: finish the video.
    Stop(&'static str),
    /// A later run records: leave everything as it is.
    Superseded,
    /// It cannot go on here.
    Fault(String),
}

/// What every part works with.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) tasks: Tasks,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) reporter: Reporter,
    pub(super) hidden: Hidden,
    pub(super) workshop: Arc<Workshop>,
    pub(super) ending: mpsc::UnboundedSender<End>,
    /// Display, audio and browser end when this is cancelled.
    pub(super) shutdown: CancellationToken,
    /// A part that is tried for ever: recordings may be made without it.
    pub(super) spared: Option<Part>,
    /// Counts how often capture got nothing at all from display and sound server, which run but may hang.
    pub(super) suspicion: watch::Sender<u32>,
}

/// Hears why the run ends.
pub(super) type Ends = mpsc::UnboundedReceiver<End>;

impl Context {
    /// That of a process, with a workshop below `temporary`.
    ///
    /// # Errors
    /// When the workshop cannot be made.
    pub(super) fn open(
        temporary: &Path,
        hidden: Hidden,
        reporter: Reporter,
    ) -> io::Result<(Self, Ends)> {
        let workshop = Arc::new(Workshop::open(temporary)?);
        let (ending, ends) = mpsc::unbounded_channel();
        let context = Self {
            tasks: Tasks::new(),
            clock: Arc::new(SystemClock),
            reporter,
            hidden,
            workshop,
            ending,
            shutdown: CancellationToken::new(),
            spared: None,
            suspicion: watch::Sender::new(0),
        };
        child::reap_orphans(&context.tasks);
        Ok((context, ends))
    }

    /// That of one recording of several: it begins and ends by itself, and stands on what this one keeps alive.
    pub(super) fn of_recording(&self) -> (Self, Ends) {
        let (ending, ends) = mpsc::unbounded_channel();
        let context = Self {
            tasks: Tasks::new(),
            shutdown: CancellationToken::new(),
            ending,
            ..self.clone()
        };
        (context, ends)
    }

    /// Display and sound server give nothing: both are to begin anew.
    pub(super) fn suspect(&self) {
        self.suspicion.send_modify(|times| *times += 1);
    }

    /// Waits until what runs is suspected to hang.
    pub(super) async fn suspected(&self) -> String {
        let mut times = self.suspicion.subscribe();
        // The sender is ours: this cannot end before we do.
        let _ = times.changed().await;
        "capture gets nothing from it".to_owned()
    }

    /// Asks for the end of the run; the first one who asks is heard.
    pub(super) fn end(&self, why: End) {
        // Nobody listens when the run is ending already.
        let _ = self.ending.send(why);
    }
}
