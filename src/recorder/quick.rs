//! Quick start: OpenVidu starts one container for a session and orders its recordings there, one after the other, when the page
//! has long been open. Display, sound and browser are this process's; each recording is one as in the other mode, with a beginning
//! and an end of its own. What is ordered lies on the container's disk before anything is recorded: a container that is killed
//! and started again goes on with it.

use super::capture::{Pipeline, Preroll, Presentation};
use super::condition::Condition;
use super::context::{Context, End, Ends};
use super::order::{Order, View};
use super::recording::Recorder;
use super::socket::{self, Ordered};
use super::{Outcome, Paths, RecorderError, end_tasks, stop};
use crate::config::Settings;
use crate::disk;
use crate::join::beside::Beside;
use crate::model::ask::{Carried, Request};
use crate::model::ids::RecordingId;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Orders that may wait while one is carried out.
const ORDERS: usize = 8;
/// How often it is looked whether another container has finished a video.
const LOOK: Duration = Duration::from_millis(100);
/// The longest that an order waits for its settings, which lie on the recordings' disk.
const SETTINGS: Duration = Duration::from_millis(250);
/// Why a recording ends.
const SAID: &str = "OpenVidu says so";

/// The variables of an order.
type Exported = BTreeMap<String, String>;
type Outcomes = Result<Outcome, RecorderError>;

/// Reads the settings as they are now, and what of them cannot be used: a container may wait for days.
pub type ReadSettings = Arc<dyn Fn() -> (Settings, Vec<String>) + Send + Sync>;

/// What lives as long as the container.
pub(super) struct Host {
    view: View,
    settings: Settings,
    read: ReadSettings,
    paths: Paths,
    kept: PathBuf,
    context: Context,
    condition: Condition,
    presentation: Presentation,
    preroll: Option<Preroll>,
    current: Option<Current>,
    /// What another container has taken over, and finishes.
    left: Option<RecordingId>,
}

/// The recording that is being made.
struct Current {
    id: RecordingId,
    /// It is begun for the second time, to finish what the first could not.
    again: bool,
    ending: mpsc::UnboundedSender<End>,
    outcome: JoinHandle<Outcomes>,
    /// Who waits for its end.
    stops: Vec<oneshot::Sender<Carried>>,
}

impl Host {
    /// Shows the page. The order that is being carried out is kept in the file `kept`.
    pub(super) fn new(
        view: View,
        read: ReadSettings,
        paths: Paths,
        kept: PathBuf,
        context: Context,
    ) -> Self {
        let settings = read().0;
        let env = paths.recordings.join(".env");
        let condition = Condition::new(&context, None);
        Self {
            presentation: Presentation::start(&context, &view, &settings, env),
            view,
            settings,
            read,
            paths,
            kept,
            context,
            condition,
            preroll: None,
            current: None,
            left: None,
        }
    }

    /// Nothing is to be recorded now.
    fn wait(&mut self) {
        self.condition.waits();
        let kept = self.settings.quick_preroll_seconds.seconds();
        let (context, view, settings) = (&self.context, &self.view, &self.settings);
        let shown = &self.presentation;
        self.preroll = Some(Preroll::start(context, view, settings, shown, kept));
    }

    /// Carries out what is ordered until a signal ends it, or it cannot go on.
    ///
    /// # Errors
    /// When it cannot go on here; what was being recorded is kept for the next run.
    pub(super) async fn live(mut self, ends: Ends) -> Result<(), RecorderError> {
        let outcome = self.serve(ends).await;
        end_tasks(&self.context).await;
        outcome
    }

    async fn serve(&mut self, mut ends: Ends) -> Result<(), RecorderError> {
        let (desk, mut orders) = mpsc::channel(ORDERS);
        stop::watch_signals(&self.context);
        let socket = &self.paths.socket;
        socket::serve(&self.context, socket, self.condition.clone(), Some(desk));
        self.take_up().await?;
        if self.current.is_none() {
            self.wait();
        }
        loop {
            tokio::select! {
                Some(end) = ends.recv() => return self.leave(end).await,
                Some(order) = orders.recv() => self.carry_out(order).await,
                outcome = ended(&mut self.current) => self.conclude(outcome).await?,
            }
        }
    }

    /// Goes on with what was recorded when this container last ended.
    ///
    /// # Errors
    /// When it cannot; the order stays, for the next process.
    async fn take_up(&mut self) -> Result<(), RecorderError> {
        let exported: Exported = match fs::read(&self.kept) {
            Ok(kept) => serde_json::from_slice(&kept).unwrap_or_default(),
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(()),
            Err(cause) => {
                let path = self.kept.display();
                log::error!("what was recorded here before cannot be read from {path}: {cause}");
                return Ok(());
            }
        };
        match Order::of_view(&self.view, &exported) {
            Ok((order, faults)) => {
                log::info!(recording:% = order.recording; "this container goes on with its recording");
                self.begin(order, faults, None, None).await
            }
            Err(cause) => {
                log::error!("what was recorded here before is not known: {cause}");
                Ok(())
            }
        }
    }

    async fn carry_out(&mut self, Ordered { request, reply }: Ordered) {
        match request {
            Request::Start { order } => self.start(&order, reply).await,
            Request::Stop => self.stop(reply),
            // The socket answers it.
            Request::State => {}
        }
    }

    /// Begins a recording, and answers when its first frame is in the file.
    async fn start(&mut self, exported: &Exported, reply: oneshot::Sender<Carried>) {
        let (told, begun) = oneshot::channel();
        match self.begin_ordered(exported, told).await {
            Ok(id) => {
                self.context.tasks.spawn("the start's answer", async move {
                    let answer = match begun.await {
                        Ok(()) => Carried::Done(format!("{id} is being recorded")),
                        Err(_) => Carried::Refused(format!(
                            "{id} ended before its first frame; the container's log says why"
                        )),
                    };
                    // Whoever asked may have gone.
                    let _ = reply.send(answer);
                });
            }
            Err(why) => {
                log::error!("no recording was started: {why}");
                let _ = reply.send(Carried::Refused(why));
            }
        }
    }

    async fn begin_ordered(
        &mut self,
        exported: &Exported,
        told: oneshot::Sender<()>,
    ) -> Result<RecordingId, String> {
        if let Some(current) = &self.current {
            let id = &current.id;
            return Err(format!("{id} is being recorded and goes on; stop it first"));
        }
        let read = Order::of_view(&self.view, exported);
        let (order, faults) =
            read.map_err(|faults| format!("the order cannot be carried out: {faults}"))?;
        let id = order.recording.clone();
        match self.begin(order, faults, Some(exported), Some(told)).await {
            Ok(()) => Ok(id),
            Err(cause) => {
                self.forget();
                self.wait();
                Err(format!("{id}: {cause}"))
            }
        }
    }

    fn forget(&self) {
        match fs::remove_file(&self.kept) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => {
                log::warn!("{} cannot be deleted: {cause}", self.kept.display());
            }
            _ => {}
        }
    }

    /// Begins a recording; where it was `ordered` just now, that is on disk before its first frame.
    async fn begin(
        &mut self,
        order: Order,
        mut faults: Vec<String>,
        ordered: Option<&Exported>,
        begun: Option<oneshot::Sender<()>>,
    ) -> Result<(), RecorderError> {
        let id = order.recording.clone();
        // First: whoever asks meanwhile must not hear that nothing is recorded.
        self.condition.begins(id.clone());
        self.left = None;
        self.context.reporter.begin();
        faults.extend(self.read_settings().await);
        let (context, ends) = self.context.of_recording();
        let captured = self.captured(&order);
        // ffmpeg starts while the order is written down.
        let pipeline = captured.unwrap_or_else(|| {
            Pipeline::start(&context, &order.view(), &self.settings, &self.presentation)
        });
        let ending = context.ending.clone();
        let (paths, condition) = (self.paths.clone(), self.condition.clone());
        let settings = self.settings.clone();
        let ordered = ordered.map(|exported| (self.kept.clone(), exported.clone()));
        // The recordings' disk may take its time; the page is looked after meanwhile.
        let open = move || {
            if let Some((kept, exported)) = ordered {
                keep(&kept, &exported);
            }
            Recorder::open(order, settings, paths, condition, (context, ends))
        };
        let opened = tokio::task::spawn_blocking(open).await;
        let recorder = opened.map_err(|cause| RecorderError::Broken(cause.to_string()))??;
        self.context.reporter.left_out(faults);
        let recorder = recorder.on(self.presentation.clone(), pipeline, begun);
        self.current = Some(Current {
            id,
            again: false,
            ending,
            outcome: self.context.tasks.spawn("a recording", recorder.run()),
            stops: Vec::new(),
        });
        Ok(())
    }

    /// Reads the settings anew, and answers what of them cannot be used; where the recordings' disk does not answer they stay.
    async fn read_settings(&mut self) -> Vec<String> {
        let read = Arc::clone(&self.read);
        let reading = tokio::task::spawn_blocking(move || read());
        match tokio::time::timeout(SETTINGS, reading).await {
            Ok(Ok((settings, wrong))) => {
                self.settings = settings;
                wrong
            }
            _ => Vec::new(),
        }
    }

    /// What captures since `order` was made, or is ready to, where it is what it asks for.
    fn captured(&mut self, order: &Order) -> Option<Pipeline> {
        let preroll = self.preroll.take()?;
        if !preroll.fits(&order.view(), &self.settings) {
            return None;
        }
        let now = self.context.clock.now();
        Some(preroll.release(order.made_at().map_or(now, |at| at.min(now))))
    }

    fn stop(&mut self, reply: oneshot::Sender<Carried>) {
        match (&mut self.current, self.left.clone()) {
            (Some(current), _) => {
                current.stops.push(reply);
                // Where it has ended already, that is about to be seen.
                let _ = current.ending.send(End::Stop(SAID));
            }
            (None, Some(id)) => self.await_other(id, reply),
            (None, None) => {
                let _ = reply.send(Carried::Done("nothing is being recorded".into()));
            }
        }
    }

    /// Another container finishes the recording: OpenVidu reads what lies beside the video as soon as this answers.
    fn await_other(&self, id: RecordingId, reply: oneshot::Sender<Carried>) {
        let info = Beside::new(&self.paths.recordings, &id).info();
        let token = self.context.tasks.token();
        self.context.tasks.spawn("another's end", async move {
            let mut look = tokio::time::interval(LOOK);
            let finished = async {
                while !info.exists() {
                    look.tick().await;
                }
            };
            // Who asks gives up by itself.
            if token.run_until_cancelled(finished).await.is_some() {
                let said = format!("another container has finished the video of {id}");
                let _ = reply.send(Carried::Done(said));
            }
        });
    }

    /// The recording is over: whoever waits is answered, and this container waits for the next one.
    ///
    /// # Errors
    /// When the recording could not go on in this container: it is to be started again.
    async fn conclude(&mut self, outcome: Outcomes) -> Result<(), RecorderError> {
        let Some(mut current) = self.current.take() else {
            return Ok(());
        };
        let was_stopped = !current.stops.is_empty();
        match outcome {
            // Where its threads have ended, the video may be finished here.
            Err(error) if was_stopped && !current.again && error.is_over() => {
                log::error!(
                    "{error}; the video of {} is finished in a second try",
                    current.id
                );
                self.take_up().await?;
                let Some(second) = &mut self.current else {
                    return Err(error);
                };
                second.again = true;
                second.stops.append(&mut current.stops);
                // Where OpenVidu's file does not say so.
                let _ = second.ending.send(End::Stop(SAID));
                Ok(())
            }
            // Whoever waits asks the next process.
            Err(error) => Err(error),
            Ok(outcome) => {
                let id = current.id.clone();
                match outcome {
                    Outcome::Finished(video) => current.answers(&Carried::Done(format!(
                        "the video of {id} is finished: {}",
                        video.display()
                    ))),
                    Outcome::Nothing => {
                        current.answers(&Carried::Refused(format!("{id} has no frame")));
                    }
                    Outcome::Superseded => {
                        for reply in current.stops {
                            self.await_other(id.clone(), reply);
                        }
                        self.left = Some(id);
                    }
                }
                self.forget();
                self.wait();
                Ok(())
            }
        }
    }

    /// This process ends; what is being recorded ends as in the other mode.
    async fn leave(&mut self, end: End) -> Result<(), RecorderError> {
        if let Some(current) = &mut self.current {
            let _ = current.ending.send(end.clone());
            ended(&mut self.current).await?;
        }
        match end {
            End::Fault(why) => Err(RecorderError::GivenUp(why)),
            End::Stop(_) | End::Superseded => Ok(()),
        }
    }
}

impl Current {
    fn answers(self, answer: &Carried) {
        for reply in self.stops {
            // Whoever asked may have gone.
            let _ = reply.send(answer.clone());
        }
    }
}

/// What is ordered survives this process, in the file `path`. Without it, a container that is killed waits when it is started
/// again.
fn keep(path: &Path, exported: &Exported) {
    let kept = serde_json::to_vec(exported).map_err(std::io::Error::from);
    let written = kept.and_then(|kept| {
        disk::make_folder(disk::parent(path))?;
        disk::write_private(path, &kept)
    });
    if let Err(cause) = written {
        let path = path.display();
        log::warn!(
            "the order cannot be written to {path}: {cause}; were this container killed, it would not go on with the recording"
        );
    }
}

/// Waits for the end of what is recorded; for ever where nothing is.
async fn ended(current: &mut Option<Current>) -> Outcomes {
    match current {
        Some(current) => match (&mut current.outcome).await {
            Ok(outcome) => outcome,
            Err(cause) => Err(RecorderError::Broken(cause.to_string())),
        },
        None => std::future::pending().await,
    }
}
