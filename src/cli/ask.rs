//! `ask`: asks the recorder of this container whether it is alive and what it does; in quick-start mode OpenVidu's orders come in
//! this way.

use super::report::Form;
use super::{Failure, SettingsFile, exit};
use crate::model::ask::{ASKED, Answer, Carried, ORDER, Request, SOCKET, START, STOP};
use crate::{disk, tasks};
use clap::{Args, Subcommand};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// The longest answer that is read.
const LONGEST: u64 = 16 << 10;
/// How long it is waited until it is tried again.
const STEP: Duration = Duration::from_millis(100);
/// How long the container's own disk may take for a word.
const DISK: Duration = Duration::from_secs(1);

/// Ask the recorder in this container what it does.
///
/// Run it where a recorder runs: `docker exec CONTAINER ov2-ha-recorder ask`. Exit code 0 when the recorder answered,
/// whatever it does; 75 when it gave no answer in time: its first process hangs, and the controller replaces it where its
/// files do not grow either; 69 when no recorder listens here, or nobody can say.
#[derive(Debug, Args)]
pub(super) struct Ask {
    /// Where the recorder listens; another place in tests.
    #[arg(long, value_name = "FILE", default_value = SOCKET, hide = true, global = true)]
    socket: PathBuf,
    /// Seconds for which an answer is waited for.
    #[arg(long, value_name = "SECONDS", default_value_t = ASKED.as_secs(), value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
    /// No setting is needed; scripts give it to every command.
    #[command(flatten)]
    _file: SettingsFile,
    #[command(flatten)]
    form: Form,
    #[command(subcommand)]
    order: Option<Order>,
}

/// What is ordered in quick-start mode, where the page is open before its recordings are ordered.
#[derive(Clone, Copy, Debug, Subcommand)]
enum Order {
    /// Record the page that is open, as the environment says.
    ///
    /// OpenVidu's own line does this by /composed_quick_start.sh --start-recording, with VIDEO_ID, VIDEO_NAME, RESOLUTION,
    /// FRAMERATE, ONLY_VIDEO and RECORDING_JSON exported. Ends when the first frame is in the video (exit code 0), or with the
    /// reason why there is none (1). A recording that runs is not touched.
    Start,
    /// End the recording of the page and finish its video.
    ///
    /// Exit code 0 when the video is finished, or nothing was being recorded; 1 when it is not finished, with the reason.
    Stop,
}

impl Ask {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Some(order) = self.order else {
            let patience = Duration::from_secs(self.timeout);
            let line = ask(&self.socket, &Request::State, patience).await?;
            let answer = Answer::read(&line);
            self.form.print(&answer, |answer| {
                format!("the recorder answers: {}", answer.doing)
            });
            return Ok(());
        };
        let (request, patience) = match order {
            Order::Start => (start(), START),
            Order::Stop => (Request::Stop, STOP),
        };
        let line = insist(&self.socket, &request, patience).await?;
        match serde_json::from_slice(&line) {
            Ok(Carried::Done(said)) => {
                self.form.print(&said, |said| said.clone());
                Ok(())
            }
            Ok(Carried::Refused(why)) => Err(Failure::new(why)),
            Err(_) => Err(Failure::new(
                "the recorder of this container is of another version and does not understand",
            )),
        }
    }
}

/// The order that the environment holds.
fn start() -> Request {
    let exported = |name: &&str| Some(((*name).to_owned(), std::env::var(name).ok()?));
    Request::Start {
        order: ORDER.iter().filter_map(exported).collect(),
    }
}

/// Asks, and again where no recorder listens: its container may just have been started again.
async fn insist(socket: &Path, request: &Request, patience: Duration) -> Result<Vec<u8>, Failure> {
    let begun = Instant::now();
    loop {
        let left = patience.saturating_sub(begun.elapsed()).max(STEP);
        match ask(socket, request, left).await {
            Err(failure) if failure.code == exit::UNAVAILABLE && left > STEP => {
                tokio::time::sleep(STEP).await;
            }
            other => return other,
        }
    }
}

/// Asks once, and waits no longer than `patience`.
///
/// # Errors
/// With [`exit::NO_ANSWER`] where a recorder is there and does not answer, with [`exit::UNAVAILABLE`] where nobody can say.
pub(super) async fn ask(
    socket: &Path,
    request: &Request,
    patience: Duration,
) -> Result<Vec<u8>, Failure> {
    // One that was frozen together with the recorder must not say, when both run again, that there was no answer.
    let Some(answered) = tasks::within(patience, hear(socket, request)).await else {
        return Err(no_answer(patience).await);
    };
    answered.map_err(|cause| {
        let place = socket.display();
        Failure::with(
            exit::UNAVAILABLE,
            format!("cannot ask a recorder at {place}: {cause}; run this in a recording container"),
        )
    })
}

/// The first process hangs, unless the container's own disk does, which holds up whoever uses it.
async fn no_answer(patience: Duration) -> Failure {
    let try_disk = || disk::try_write(&std::env::temp_dir());
    let word = tokio::task::spawn_blocking(try_disk);
    let seconds = patience.as_secs();
    // A disk that refuses does not hang.
    match tasks::within(DISK, word).await {
        Some(_) => Failure::with(
            exit::NO_ANSWER,
            format!(
                "the recorder gives no answer within {seconds} s: its first process hangs; \
                     the controller replaces it where its files do not grow"
            ),
        ),
        None => Failure::with(
            exit::UNAVAILABLE,
            format!(
                "the recorder gives no answer within {seconds} s, and the disk below {} does not either: \
                     see the kernel's log",
                std::env::temp_dir().display()
            ),
        ),
    }
}

/// Asks, and reads the line that comes back.
async fn hear(socket: &Path, request: &Request) -> io::Result<Vec<u8>> {
    let mut stream = connect(socket).await?;
    let mut asked = serde_json::to_vec(request)?;
    asked.push(b'\n');
    stream.write_all(&asked).await?;
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(LONGEST));
    match reader.read_until(b'\n', &mut line).await? {
        0 => Err(io::Error::other("it hung up without an answer")),
        _ => Ok(line),
    }
}

/// Connects. Where more wait already than may, and none is taken, that is no refusal.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket).await {
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(STEP).await;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    const PATIENCE: Duration = Duration::from_secs(1);

    async fn state(path: &Path) -> Result<Vec<u8>, Failure> {
        ask(path, &Request::State, PATIENCE).await
    }

    #[tokio::test]
    async fn nobody_there_is_told_from_somebody_who_does_not_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert_eq!(state(&path).await.unwrap_err().code, exit::UNAVAILABLE);
        let listener = UnixListener::bind(&path).unwrap();
        let begun = std::time::Instant::now();
        assert_eq!(state(&path).await.unwrap_err().code, exit::NO_ANSWER);
        assert!(begun.elapsed() >= PATIENCE, "{:?}", begun.elapsed());
        // Whoever hangs up lives.
        let hangs_up = async {
            // The question from before waits still.
            drop(listener.accept().await.unwrap());
            drop(listener.accept().await.unwrap());
            std::future::pending::<()>().await;
        };
        let failure =
            tokio::select! { it = state(&path) => it.unwrap_err(), () = hangs_up => return };
        assert_eq!(failure.code, exit::UNAVAILABLE, "{}", failure.message);
        drop(listener);
        assert_eq!(state(&path).await.unwrap_err().code, exit::UNAVAILABLE);
    }
}
