//! The first process answers here, inside its container, whether it is alive and what it does: a line of JSON comes in, one goes
//! out. What answers is a small task on the runtime that everything else of the recorder runs on, so that an answer shows that
//! this runtime goes on. Where recordings are ordered over it, orders are handed on to whoever carries them out. Nobody who connects can hold anything up: a line is short, a connection is too, and so is their
//! number. A recorder without this socket records as it does with it.

use super::condition::Condition;
use super::context::Context;
use crate::model::ask::{Carried, Misunderstood, Request, START, STOP};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Connections that are served at the same time; whoever comes then is sent away at once, and may come again.
const MOST: usize = 32;
/// How long a question may take to come, and an answer to be taken.
const SHORT: Duration = Duration::from_secs(1);
/// The longest line that is read.
const LONGEST: u64 = 64 << 10;
/// How long it is waited after a connection could not be taken, as where no file can be opened.
const PAUSE: Duration = Duration::from_millis(100);

/// An order, and who waits for what comes of it.
pub(super) struct Ordered {
    pub(super) request: Request,
    pub(super) reply: oneshot::Sender<Carried>,
}

/// Where orders are handed on; `None` where the environment has ordered the only recording.
pub(super) type Desk = Option<mpsc::Sender<Ordered>>;

/// Answers on the socket `path` until the tasks end.
pub(super) fn serve(context: &Context, path: &Path, condition: Condition, desk: Desk) {
    let listener = match bind(path) {
        Ok(listener) => listener,
        Err(cause) => {
            return log::warn!(
                "recording goes on without {}, over which it could be asked whether it is alive: {cause}",
                path.display()
            );
        }
    };
    let (tasks, path) = (context.tasks.clone(), path.to_owned());
    let (token, places) = (tasks.token(), Arc::new(Semaphore::new(MOST)));
    let work = async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(cause) => {
                    log::debug!("a question cannot be heard: {cause}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            let (condition, desk) = (condition.clone(), desk.clone());
            tasks.spawn("an answer", async move {
                // Who is too slow, or has gone, gets none.
                let _ = answer(stream, &condition, &desk).await;
                drop(place);
            });
        }
    };
    context.tasks.spawn("the socket", async move {
        token.run_until_cancelled(work).await;
        // The next recorder replaces what is left.
        let _ = fs::remove_file(path);
    });
}

/// Listens at `path` in the place of whatever an earlier process left there. It never bears that name with another mode.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let listener = UnixListener::bind(&draft)?;
    let named = fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&draft, path));
    if named.is_err() {
        // It is of no use; that it cannot be removed either changes nothing.
        let _ = fs::remove_file(&draft);
    }
    named.map(|()| listener)
}

async fn answer(mut stream: UnixStream, condition: &Condition, desk: &Desk) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut asked = Vec::new();
    let mut reader = BufReader::new(reader.take(LONGEST));
    timeout(SHORT, reader.read_until(b'\n', &mut asked)).await??;
    let mut line = match serde_json::from_slice(&asked) {
        Ok(Request::State) => serde_json::to_vec(&condition.answer())?,
        Ok(request) => serde_json::to_vec(&order(request, desk).await)?,
        Err(cause) => serde_json::to_vec(&Misunderstood {
            error: format!("this cannot be answered: {cause}; ask {{\"ask\":\"state\"}}"),
        })?,
    };
    line.push(b'\n');
    let written = async {
        writer.write_all(&line).await?;
        writer.shutdown().await
    };
    timeout(SHORT, written).await?
}

/// Hands an order on, and waits for what comes of it as long as OpenVidu does.
async fn order(request: Request, desk: &Desk) -> Carried {
    let refused = |why: &str| Carried::Refused(why.to_owned());
    let Some(desk) = desk else {
        return refused("this container makes one recording, which its environment has ordered");
    };
    let patience = match request {
        Request::Stop => STOP,
        _ => START,
    };
    let (reply, carried) = oneshot::channel();
    if desk.try_send(Ordered { request, reply }).is_err() {
        return refused("other orders wait to be carried out; try it again");
    }
    match timeout(patience, carried).await {
        Ok(Ok(carried)) => carried,
        Ok(Err(_)) => refused("the recorder ends; its container's log says why"),
        Err(_) => Carried::Refused(format!(
            "it is not done after {} s and goes on; the container's log says why",
            patience.as_secs_f32()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Hidden;
    use crate::chunklog::{Position, Publisher};
    use crate::clock::{Clock, ManualClock, Timestamp};
    use crate::join::Origin;
    use crate::model::ask::Doing;
    use crate::model::ids::{RecordingId, RunNumber};
    use crate::model::wire::TroubleKind;
    use crate::recorder::context::Part;
    use crate::recorder::reporter::Reporter;
    use crate::recorder::workshop::Workshop;
    use crate::tasks::Tasks;
    use std::os::unix::fs::FileTypeExt;
    use std::path::PathBuf;
    use tokio::sync::{mpsc, watch};
    use tokio_util::sync::CancellationToken;

    const ASK: &[u8] = b"{\"ask\":\"state\"}\n";

    struct Recorder {
        folder: tempfile::TempDir,
        clock: ManualClock,
        context: Context,
        condition: Condition,
    }

    impl Recorder {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let clock = ManualClock::at(Timestamp::from_millis(1_000));
            let context = Context {
                tasks: Tasks::new(),
                clock: Arc::new(clock.clone()),
                reporter: Reporter::default(),
                hidden: Hidden::default(),
                workshop: Arc::new(Workshop::open(folder.path()).unwrap()),
                ending: mpsc::unbounded_channel().0,
                shutdown: CancellationToken::new(),
                spared: None,
                suspicion: watch::Sender::new(0),
            };
            let condition = Condition::new(&context, RecordingId::parse("ses_A").ok());
            Self {
                folder,
                clock,
                context,
                condition,
            }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("ask.sock")
        }

        fn serve(&self) {
            serve(&self.context, &self.path(), self.condition.clone(), None);
        }

        /// What it says; nothing where it hangs up.
        async fn says(&self, asked: &[u8]) -> String {
            let mut stream = UnixStream::connect(self.path()).await.unwrap();
            // It may have heard enough before all of it was said.
            let _ = stream.write_all(asked).await;
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said).await;
            String::from_utf8(said).unwrap()
        }
    }

    #[tokio::test]
    async fn it_takes_the_place_of_whatever_is_there_and_only_its_user_may_ask() {
        let recorder = Recorder::new();
        drop(UnixListener::bind(recorder.path()).unwrap());
        recorder.serve();
        assert!(recorder.says(ASK).await.contains("starting"));
        let data = fs::metadata(recorder.path()).unwrap();
        assert!(data.file_type().is_socket());
        assert_eq!(data.permissions().mode() & 0o777, 0o600);
        assert_eq!(
            recorder.context.tasks.end(SHORT).await,
            Vec::<String>::new()
        );
        assert!(!recorder.path().exists());
        let another = Recorder::new();
        fs::write(another.path(), "a file").unwrap();
        another.serve();
        assert!(another.says(ASK).await.contains("starting"));
    }

    #[tokio::test]
    async fn where_no_socket_can_be_made_nothing_else_happens() {
        let recorder = Recorder::new();
        fs::create_dir(recorder.path()).unwrap();
        fs::write(recorder.path().join("a file"), "").unwrap();
        recorder.serve();
        let left = fs::read_dir(recorder.folder.path()).unwrap();
        let left = left.map(|it| it.unwrap().file_name().into_string().unwrap());
        assert!(left.into_iter().all(|name| !name.ends_with(".new")));
        assert_eq!(recorder.context.tasks.names(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn whatever_strangers_say_or_leave_out_it_goes_on_answering() {
        let recorder = Recorder::new();
        recorder.serve();
        for asked in [
            &b"\n"[..],
            b"{}\n",
            b"{\"ask\":\"start\"}\n",
            b"{\"ask\":\"dance\"}\n",
            b"\0\xff\n",
            &[b'['; 90_000],
        ] {
            let said = recorder.says(asked).await;
            assert!(
                said.is_empty() || said.contains("this cannot be answered"),
                "{said}"
            );
        }
        // More than are served at once, who say nothing and read nothing.
        let mut silent = Vec::new();
        for _ in 0..4 * MOST {
            silent.push(UnixStream::connect(recorder.path()).await.unwrap());
        }
        let answered = async {
            while !recorder.says(ASK).await.contains("starting") {
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(3 * SHORT, answered).await.unwrap();
        assert!(recorder.context.tasks.names().len() <= MOST + 1);
    }

    #[tokio::test]
    async fn what_it_does_is_told_by_what_was_recorded_last() {
        let recorder = Recorder::new();
        let (condition, reporter) = (&recorder.condition, &recorder.context.reporter);
        let begun = recorder.clock.now();
        assert_eq!(condition.doing(), Doing::Starting { since: begun });
        let head = Publisher::default();
        let following = recorder
            .context
            .tasks
            .spawn("head", condition.clone().follow(head.subscribe()));
        recorder.clock.advance(Duration::from_secs(5));
        let origin = Origin {
            run: RunNumber(1),
            index: 1,
        };
        head.send_replace(Some(Position { origin, offset: 9 }));
        tokio::task::yield_now().await;
        let since = recorder.clock.now();
        assert_eq!(condition.doing(), Doing::Fine);
        recorder.clock.set_forward(Duration::from_secs(3_600));
        assert_eq!(condition.doing(), Doing::Fine, "the clock was set");
        recorder.clock.advance(Duration::from_secs(3));
        let mending = |part: &str| Doing::Mending {
            part: part.into(),
            since,
        };
        assert_eq!(condition.doing(), mending("the capture"));
        reporter.restarted(Part::Capture);
        reporter.restarted(Part::Browser);
        assert_eq!(condition.doing(), mending("the browser"));
        reporter.trouble(TroubleKind::Disk, "it is full");
        assert_eq!(condition.doing(), Doing::Disk { since });
        condition.stops();
        assert_eq!(condition.doing(), Doing::Stopping);
        drop(head);
        following.await.unwrap();
    }
}
