//! The recorder's story. OpenVidu's order comes in by the environment; a display, a sound server, a browser on the ordered
//! page and an ffmpeg that captures both are started side by side and kept alive ([`capture`]). What ffmpeg writes becomes
//! the run's log, a row of chunk files ([`chunks`]); the log is followed by who lets the video at OpenVidu's path grow
//! ([`writer`]) and by who stores the chunks ([`upload`]). On `q` in the stop file the last frames are drained, the video is
//! closed by one `moov`, and everything OpenVidu reads is laid beside it.
//!
//! The controller is told all along ([`contact`]) and can say that a later run took over; recording never waits for it,
//! nor for the chunk store ([`upload`]). Whoever doubts that the recorder lives can ask ([`socket`]).

mod address;
mod capture;
mod chunks;
mod condition;
mod contact;
mod context;
mod cookie;
mod diary;
mod flush;
mod number;
pub mod order;
mod quick;
mod recording;
mod reporter;
mod run;
mod slow;
mod socket;
mod stop;
mod sweeps;
pub mod upload;
mod workshop;
mod writer;

use crate::config::Settings;
use crate::disk;
use crate::join::JoinError;
use crate::join::beside::{Beside, BesideError};
pub use address::secrets as secrets_of_page;
use condition::Condition;
use context::{Context, Ends, Part};
use order::{Order, View};
pub use quick::ReadSettings;
use recording::Recorder;
use reporter::Reporter;
use std::path::PathBuf;
use std::time::Duration;

/// How long tasks may take to end.
const TASKS: Duration = Duration::from_millis(500);
/// Where a recorder works.
#[derive(Clone, Debug)]
pub struct Paths {
    /// OpenVidu's recordings folder.
    pub recordings: PathBuf,
    /// How OpenVidu ends a recording.
    pub stop: StopWord,
    /// Where it is asked whether it is alive.
    pub socket: PathBuf,
}

/// How OpenVidu says that a recording is to end.
#[derive(Clone, Debug)]
pub enum StopWord {
    /// A file's first letter is `q`; the process then ends.
    File(PathBuf),
    /// Over the socket; the process goes on.
    Order,
}

/// How a recorder's life ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The video is there.
    Finished(PathBuf),
    /// Another run records; the video is left to it.
    Superseded,
    /// It was stopped, and no frame could be had before or after.
    Nothing,
}

/// Why a recorder's life did not end with a video.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// It cannot write where it must.
    #[error("cannot record into {}: {cause}; check the mount and who may write there", path.display())]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The video cannot be made.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// What belongs beside the video cannot be written.
    #[error(transparent)]
    Beside(#[from] BesideError),
    /// A part kept ending; another recorder may go on.
    #[error("{0}; what was recorded is kept for the next run")]
    GivenUp(String),
    /// One of the recorder's own threads ended.
    #[error("the recorder failed: {0}; what was recorded is kept for the next run")]
    Broken(String),
}

impl RecorderError {
    /// Whether nothing of the recording is at work any more. Else a thread may still wait for the disk.
    const fn is_over(&self) -> bool {
        !matches!(self, Self::Broken(_))
    }
}

/// Opens the log that recorders of the order's recording keep beside the video in debug mode, and goes on with it.
///
/// # Errors
/// When the file system refuses.
pub fn open_log(order: &Order, paths: &Paths) -> std::io::Result<std::fs::File> {
    let path = Beside::new(&paths.recordings, &order.recording).log();
    disk::make_folder(disk::parent(&path))?;
    std::fs::File::options()
        .append(true)
        .create(true)
        .open(path)
}

/// Records as ordered until it is told to stop, and finishes the video. `faults` of the order and the settings end
/// nothing; they are told.
///
/// # Errors
/// When the video could not be finished. Everything recorded so far is valid then.
pub async fn record(
    order: Order,
    settings: Settings,
    paths: Paths,
    faults: Vec<String>,
) -> Result<Outcome, RecorderError> {
    let reporter = Reporter::default();
    reporter.left_out(faults);
    let (context, ends) = open_context(&order.view(), reporter)?;
    let condition = Condition::new(&context, Some(order.recording.clone()));
    socket::serve(&context, &paths.socket, condition.clone(), None);
    stop::watch_signals(&context);
    Recorder::open(order, settings, paths, condition, (context, ends))?
        .run()
        .await
}

/// Shows the page of a session, and records it as often as that is ordered over the socket, until a signal ends the process.
/// `kept` is the file in which the order that is being carried out is kept; it belongs to this container.
///
/// # Errors
/// When it cannot go on here; what was being recorded is kept for the next run.
pub async fn record_on_order(
    view: View,
    settings: ReadSettings,
    paths: Paths,
    kept: PathBuf,
) -> Result<(), RecorderError> {
    let (context, ends) = open_context(&view, Reporter::default())?;
    // Without a sound server, recordings without sound can still be made.
    let spared = Some(Part::Audio);
    let context = Context { spared, ..context };
    quick::Host::new(view, settings, paths, kept, context)
        .live(ends)
        .await
}

fn open_context(view: &View, reporter: Reporter) -> Result<(Context, Ends), RecorderError> {
    let path = std::env::temp_dir();
    let opened = Context::open(&path, view.hidden(), reporter);
    opened.map_err(|cause| RecorderError::Unwritable { path, cause })
}

/// Ends what a context keeps alive.
async fn end_tasks(context: &Context) {
    context.shutdown.cancel();
    for name in context.tasks.end(TASKS).await {
        log::debug!("{name} did not end in time");
    }
}
