//! `record`: the recording container's first process. Reads what OpenVidu ordered and hands composed recordings to our
//! recorder, those of a page that is open before they are ordered too, and everything else to the base image's own entry point.

use super::{Failure, exit, logging};
use crate::config::{Settings, Variables};
use crate::model::ask;
use crate::recorder::order::{Assignment, Order, View};
use crate::recorder::{self, Outcome, Paths, RecorderError, StopWord};
use clap::Args;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Exit code of a recorder that was replaced by a later run.
const SUPERSEDED: u8 = 3;
/// Where the order that is being carried out is kept in quick-start mode: in the container, as it is this container's.
const KEPT: &str = "/var/lib/ov2-ha-recorder/order.json";
/// Where OpenVidu's recordings folder is in a recording container.
pub(super) const RECORDINGS: &str = "/recordings";
/// The image's own settings.
pub(super) const IMAGE_ENV_FILE: &str = "/etc/ov2-ha-recorder.env";
/// What the base image of OpenVidu starts by itself.
const BASE_ENTRY_POINT: &str = "/entrypoint.sh";

/// Record a page as configured by OpenVidu's environment variables; the recording container runs this.
///
/// Ends on `q` in the stop file or on SIGTERM, leaving one video. Exit code 0 when the video is finished, or was stopped
/// and no frame could be had; 3 when another run of the same recording has its place. No setting ends it: what cannot be
/// understood is left at its default and reported in the log, to the controller and on its page.
#[derive(Debug, Args)]
pub(super) struct Record {
    /// OpenVidu's recordings folder; an `.env` file in it is read as settings.
    #[arg(long, value_name = "DIR", default_value = RECORDINGS)]
    recordings: PathBuf,
    /// File whose first letter `q` ends the recording.
    #[arg(long, value_name = "FILE", default_value = "/stop")]
    stop_file: PathBuf,
    /// Where the order that is being carried out is kept in quick-start mode; another file in tests.
    #[arg(long, value_name = "FILE", default_value = KEPT, hide = true)]
    kept_order: PathBuf,
    /// Where `ov2-ha-recorder ask` finds it; another one where several recorders have one file system, in tests.
    #[arg(long, value_name = "FILE", default_value = ask::SOCKET, hide = true)]
    socket: PathBuf,
    /// File with NAME=value lines; the real environment wins over it. Default: `.env` in the recordings folder.
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// The image's own settings; everything else wins over them.
    #[arg(long, value_name = "FILE", default_value = IMAGE_ENV_FILE)]
    image_env_file: PathBuf,
}

impl Record {
    pub(super) fn run(self) -> Result<(), Failure> {
        let variables = self.variables();
        let (assignment, mut faults) = match Assignment::read(&variables)? {
            Assignment::Compose(order, faults) => (Work::Recording(order), faults),
            Assignment::QuickStart(view, faults) => (Work::Page(view), faults),
            Assignment::Other(mode) => return Err(hand_over(&mode)),
        };
        let (settings, wrong) = settings_of(&variables);
        faults.extend(wrong);
        let paths = |stop| Paths {
            recordings: self.recordings.clone(),
            stop,
            socket: self.socket.clone(),
        };
        match assignment {
            Work::Recording(order) => {
                let paths = paths(StopWord::File(self.stop_file.clone()));
                let log = settings.debug.0.then(|| recorder::open_log(&order, &paths));
                start_log(&settings, log.transpose());
                outcome(block_on(recorder::record(*order, settings, paths, faults))?)
            }
            Work::Page(view) => {
                start_log(&settings, Ok(None));
                for fault in &faults {
                    log::error!("{fault}; recording goes on without it");
                }
                let (paths, kept) = (paths(StopWord::Order), self.kept_order.clone());
                let settings = Arc::new(move || settings_of(&self.variables()));
                block_on(recorder::record_on_order(view, settings, paths, kept))?.map_err(failure)
            }
        }
    }

    fn variables(&self) -> Variables {
        variables(
            self.env_file.as_deref(),
            &self.recordings,
            &self.image_env_file,
        )
    }
}

/// What a recorder is told: the environment, over the file that is named or else lies in the recordings folder, over the image's
/// own.
pub(super) fn variables(file: Option<&Path>, recordings: &Path, image: &Path) -> Variables {
    let variables = Variables::of_process();
    let variables = match file {
        Some(path) => variables.over_file(path),
        None => variables.over_file_if_any(&recordings.join(".env")),
    };
    variables.over_file_if_any(image)
}

/// What this container is for.
enum Work {
    Recording(Box<Order>),
    Page(View),
}

/// The settings, and what of them cannot be used.
fn settings_of(variables: &Variables) -> (Settings, Vec<String>) {
    let (mut settings, mut faults) = variables.forgiving();
    faults.extend(settings.drop_unusable_authorities());
    (settings, faults)
}

fn start_log(settings: &Settings, beside: io::Result<Option<File>>) {
    let (log, trouble) = match beside {
        Ok(log) => (log, None),
        Err(cause) => (None, Some(cause)),
    };
    logging::start(settings.log_format, settings.debug.0, log);
    if let Some(cause) = trouble {
        log::warn!("no log is kept beside the video: {cause}");
    }
    for warning in &settings.warnings {
        log::warn!("{warning}");
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::new)?;
    let outcome = runtime.block_on(work);
    // A blocking thread that hangs on a dead disk must not hold the container.
    runtime.shutdown_background();
    Ok(outcome)
}

fn outcome(outcome: Result<Outcome, RecorderError>) -> Result<(), Failure> {
    match outcome {
        // Starting it again would bring no frame either.
        Ok(Outcome::Finished(_) | Outcome::Nothing) => Ok(()),
        Ok(Outcome::Superseded) => Err(Failure::with(
            SUPERSEDED,
            "another run of this recording has its place; the video is left to it",
        )),
        Err(error) => Err(failure(error)),
    }
}

fn failure(error: RecorderError) -> Failure {
    let code = match &error {
        RecorderError::Unwritable { .. } | RecorderError::Beside(_) => exit::CANNOT_WRITE,
        _ => exit::FAILED,
    };
    Failure::with(code, error)
}

/// Becomes the base image's own entry point; returns only when there is none.
fn hand_over(mode: &str) -> Failure {
    if !Path::new(BASE_ENTRY_POINT).is_file() {
        return Failure::with(
            exit::UNAVAILABLE,
            format!(
                "mode {mode} is recorded by the base image's own {BASE_ENTRY_POINT}, which is not there; \
                 build the recording image from OpenVidu's (packaging/docker/build-recorder)"
            ),
        );
    }
    let cause = std::process::Command::new(BASE_ENTRY_POINT).exec();
    Failure::with(
        exit::UNAVAILABLE,
        format!("cannot start {BASE_ENTRY_POINT} for mode {mode}: {cause}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        record: Record,
    }

    #[test]
    fn the_images_own_settings_hold_where_nobody_says_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image.env");
        std::fs::write(&image, "HEARTBEAT_INTERVAL=7\nCHUNK_TIME_SIZE=8\n").unwrap();
        let recordings = folder.path().join("recordings");
        std::fs::create_dir(&recordings).unwrap();
        let read = |image: &Path| {
            let folder = ["--recordings".as_ref(), recordings.as_os_str()];
            let file = ["--image-env-file".as_ref(), image.as_os_str()];
            let line = Line::parse_from([&["record".as_ref()], &folder[..], &file[..]].concat());
            let (settings, faults) = line.record.variables().forgiving();
            assert_eq!(faults, Vec::<String>::new());
            (
                settings.heartbeat_seconds.get(),
                settings.chunk_seconds.get(),
            )
        };
        let usual = read(&folder.path().join("none.env"));
        assert!(usual.0 != 7 && usual.1 != 8, "{usual:?}");
        assert_eq!(read(&image), (7, 8));
        std::fs::write(recordings.join(".env"), "CHUNK_TIME_SIZE=9\n").unwrap();
        assert_eq!(read(&image), (7, 9));
    }
}
