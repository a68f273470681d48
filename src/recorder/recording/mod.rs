//! One recording: from the order to its end. Its number among the runs is found, what is captured becomes the run's log, the log's
//! followers are started, and whoever asks for the end first is heard.

mod ending;

use super::capture::{Pipeline, Presentation};
use super::chunks::{self, Chunks};
use super::condition::Condition;
use super::contact::{Contact, Registered};
use super::context::{Context, End, Ends};
use super::flush::Flusher;
use super::order::{Order, Sound};
use super::reporter::Reporter;
use super::run::{self, Run};
use super::slow::{self, Watched};
use super::sweeps::Sweeps;
use super::upload::Uploader;
use super::writer::{Close, Target, Writer};
use super::{Outcome, Paths, RecorderError, StopWord, diary, end_tasks, stop};
use crate::chunklog::Publisher;
use crate::config::{Settings, Storage};
use crate::join::beside::Beside;
use crate::join::{self, Finished, JoinError, Options};
use crate::model::chunk::TakeKey;
use crate::model::ids::RunNumber;
use crate::model::manifest::{self, Manifest};
use crate::store::{self, ChunkStore};
use futures_util::future::Shared;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Everything that is known before anything runs.
pub(super) struct Recorder {
    order: Order,
    settings: Settings,
    paths: Paths,
    take: TakeKey,
    beside: Beside,
    contact: Contact,
    store: Arc<dyn ChunkStore>,
    context: Context,
    condition: Condition,
    ends: Ends,
    /// What is captured, where something shows it already.
    presentation: Option<Presentation>,
    /// What captures it, where something does already.
    pipeline: Option<Pipeline>,
    /// Hears that the video has a frame.
    begun: Option<oneshot::Sender<()>>,
}

impl Recorder {
    /// Prepares the recording's folder, and learns of its end from now on.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub(super) fn open(
        order: Order,
        mut settings: Settings,
        paths: Paths,
        condition: Condition,
        (context, ends): (Context, Ends),
    ) -> Result<Self, RecorderError> {
        let beside = Beside::new(&paths.recordings, &order.recording);
        beside.begin(order.json.as_ref())?;
        if let StopWord::File(path) = &paths.stop {
            stop::watch(&context, path);
        }
        stop::watch_file(&context, &beside, order.json.as_ref());
        let store = usable_store(&mut settings, &paths.recordings, &context.reporter);
        Ok(Self {
            take: TakeKey {
                recording: order.recording.clone(),
                folder: settings.chunk_folder.0.clone(),
                take: order.take.clone(),
            },
            contact: Contact::new(
                &order,
                &settings,
                &beside.video(&order.video_name),
                &context.reporter,
            ),
            store,
            beside,
            order,
            settings,
            paths,
            context,
            condition,
            ends,
            presentation: None,
            pipeline: None,
            begun: None,
        })
    }

    /// The same, of a page that is shown already, and captured; `begun` hears when the video has a frame.
    pub(super) fn on(
        self,
        shown: Presentation,
        pipeline: Pipeline,
        begun: Option<oneshot::Sender<()>>,
    ) -> Self {
        Self {
            presentation: Some(shown),
            pipeline: Some(pipeline),
            begun,
            ..self
        }
    }

    /// Lives, and ends all that it keeps alive.
    pub(super) async fn run(self) -> Result<Outcome, RecorderError> {
        let context = self.context.clone();
        let outcome = self.live().await;
        // Where no run began, its parts are still there.
        end_tasks(&context).await;
        outcome
    }

    async fn live(mut self) -> Result<Outcome, RecorderError> {
        if let Some(why) = self.stop_asked()
            && let Some(outcome) = self.finish_last(why).await?
        {
            self.await_q(why).await;
            return Ok(outcome);
        }
        let pipeline = self.capture();
        let mut begun = self.begin().await;
        if let Err(End::Stop(why)) = begun {
            match self.finish_last(why).await? {
                Some(outcome) => {
                    self.await_q(why).await;
                    return Ok(outcome);
                }
                None => begun = self.claim(self.last_run().await.0.next(), None).await,
            }
        }
        let mut run = match begun {
            Ok((run, registered)) => {
                let begun = self.begun.take();
                self.write(run, registered, &pipeline, begun)
            }
            Err(End::Fault(why)) => return Err(RecorderError::GivenUp(why)),
            Err(End::Superseded | End::Stop(_)) => return Ok(Outcome::Superseded),
        };
        let end = match self.next_end().await {
            End::Stop(why) => self.first_frame(why, &mut run).await,
            other => other,
        };
        self.condition.stops();
        self.end(end, pipeline, run).await
    }

    fn capture(&mut self) -> Pipeline {
        let (context, settings) = (&self.context, &self.settings);
        let view = self.order.view();
        let shown = self.presentation.take().unwrap_or_else(|| {
            let env = self.paths.recordings.join(".env");
            Presentation::start(context, &view, settings, env)
        });
        shown.attend(context, &self.beside);
        let runs = self.pipeline.take();
        runs.unwrap_or_else(|| Pipeline::start(context, &view, settings, &shown))
    }

    /// Why nothing is to be recorded any more, where OpenVidu has said so before this recorder began.
    fn stop_asked(&self) -> Option<&'static str> {
        if self.paths.stop.is_said() {
            return Some("the stop file says so");
        }
        let over = self.beside.is_over(self.order.json.as_ref());
        over.then_some(stop::FILE)
    }

    async fn next_end(&mut self) -> End {
        // The context keeps a sender, so that this channel cannot end.
        let end = self.ends.recv().await;
        end.unwrap_or(End::Stop("nobody is left"))
    }

    /// Learns or chooses the number of this run. The parts are starting meanwhile.
    async fn begin(&self) -> Result<(Run, bool), End> {
        let (last, is_alive) = self.last_run().await;
        let (wanted, known) = match self.contact.register_first(last).await {
            Registered::As(number) => (number, true),
            Registered::Unanswered if is_alive => {
                log::warn!("nobody says that run {last} is to be replaced, and it is recording");
                return Err(End::Superseded);
            }
            Registered::Unanswered => (last.next(), false),
            Registered::Refused(end) => return Err(end),
        };
        self.claim(wanted, known.then_some(wanted)).await
    }

    /// The last run that left a folder here, and whether its recorder lives.
    async fn last_run(&self) -> (RunNumber, bool) {
        let folder = self.take_folder();
        let look = move || {
            let last = run::last_run(&folder);
            (last, run::is_alive(&folder, last))
        };
        // The disk may take its time; capture begins meanwhile.
        let looked = tokio::task::spawn_blocking(look).await;
        looked.unwrap_or((RunNumber(0), false))
    }

    /// Takes run `wanted` or a later one, and says whether it is the one that the controller has `known` us as.
    async fn claim(&self, wanted: RunNumber, known: Option<RunNumber>) -> Result<(Run, bool), End> {
        let (recordings, take) = (self.paths.recordings.clone(), self.take.clone());
        let claim = move || Run::claim(&recordings, take, wanted);
        let claimed = tokio::task::spawn_blocking(claim).await;
        let claimed = claimed.unwrap_or_else(|cause| Err(std::io::Error::other(cause)));
        let run = claimed.map_err(|cause| {
            let path = self.take_folder();
            let path = path.display();
            End::Fault(format!(
                "cannot make a folder for chunks in {path}: {cause}"
            ))
        })?;
        let registered = known == Some(run.number);
        log::info!(recording:% = self.order.recording, run = run.number.0; "recording begins");
        Ok((run, registered))
    }

    /// Starts the two threads that write, and the contact to the controller.
    fn write(
        &self,
        run: Run,
        registered: bool,
        pipeline: &Pipeline,
        begun: Option<oneshot::Sender<()>>,
    ) -> Writing {
        let tasks = &self.context.tasks;
        let uploader = self
            .uploader()
            .with_tails(self.settings.tail_upload_seconds.seconds());
        let head = Publisher::default();
        let sweeps = self.sweeps();
        let (writer, milestones) = Writer::new(
            self.context.clone(),
            run.clone(),
            self.target(),
            uploader.clone(),
            sweeps.clone(),
            head.subscribe(),
        );
        if let Some(tell) = begun {
            let begun = milestones.begun.clone();
            tasks.spawn("the first frame", async move {
                if begun.await.is_ok() {
                    // Whoever asked may have gone.
                    let _ = tell.send(());
                }
            });
        }
        let watched = Watched::new(Arc::clone(&self.context.clock));
        self.watch_the_disk(vec![writer.watched(), watched.clone()]);
        tasks.spawn(
            "the log's head",
            self.condition.clone().follow(head.subscribe()),
        );
        if uploader.takes_files_away() {
            let follower = uploader.clone();
            let follow = follower.follow(head.subscribe(), self.paths.recordings.clone());
            tasks.spawn("the log's upload", follow);
        }
        let flusher = Flusher {
            context: self.context.clone(),
            run: run.clone(),
            recordings: self.paths.recordings.clone(),
            heads: head.subscribe(),
        };
        tasks.spawn("the log's flush", flusher.follow());
        if let Some(pieces) = pipeline.pieces() {
            let with = chunks::With {
                reporter: self.context.reporter.clone(),
                refresh: Arc::clone(&pipeline.refresh),
                sweeps,
                watched,
                head,
            };
            let (first, length) = (self.first_chunk(), self.settings.chunk_seconds.seconds());
            let run = run.clone();
            tasks.spawn_blocking("the chunks", move || {
                Chunks::new(run, first(), length, with).write_all(pieces);
            });
        }
        let (close, closing) = watch::channel(Close::Leave);
        let video = tasks.spawn_blocking("the video's growth", move || writer.follow(closing));
        let current = self.take.chunk(run.number, 0);
        let beat =
            self.contact
                .clone()
                .beat(self.context.clone(), uploader.clone(), current, registered);
        tasks.spawn("heartbeat", beat);
        tasks.spawn(
            "manifest and chunks left behind",
            self.take_up(uploader.clone(), run.number, async {
                milestones.holds_earlier.await.is_ok()
            }),
        );
        if self.settings.debug.0 {
            let (store, key) = (Arc::clone(&self.store), self.take.log(run.number));
            let log = diary::keep(store, key, self.beside.log(), tasks.token());
            tasks.spawn("log upload", log);
        }
        Writing {
            run,
            uploader,
            video,
            begun: milestones.begun,
            close,
        }
    }

    /// Finds the number of the run's first chunk: chunks are counted over all runs, and files of earlier ones may be gone.
    fn first_chunk(&self) -> impl FnOnce() -> u32 + Send + use<> {
        let (recordings, take) = (self.paths.recordings.clone(), self.take.clone());
        let video = self.beside.video(&self.order.video_name);
        move || {
            let on_disk = run::chunks(&recordings, &take);
            let on_disk = on_disk.iter().map(|chunk| chunk.index).max();
            let indexed = join::last_indexed_chunk(&video);
            let in_video = || last_chunk_in(&video);
            1 + on_disk.max(indexed).or_else(in_video).unwrap_or(0)
        }
    }

    fn watch_the_disk(&self, watched: Vec<Watched>) {
        let (on, folder) = (self.context.clone(), self.paths.recordings.clone());
        self.context.tasks.spawn("slow disk", async move {
            slow::tell(on, watched, &folder).await;
        });
    }

    fn sweeps(&self) -> Sweeps {
        Sweeps::new(
            self.context.reporter.clone(),
            Arc::clone(&self.context.clock),
            self.beside.clone(),
            self.order.json.clone(),
        )
    }

    fn target(&self) -> Target {
        Target {
            recordings: self.paths.recordings.clone(),
            video: self.beside.video(&self.order.video_name),
            options: self.options(),
        }
    }

    fn take_folder(&self) -> PathBuf {
        self.paths.recordings.join(self.take.to_string())
    }

    fn uploader(&self) -> Uploader {
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.context.clock));
        Uploader::new(store, self.take.clone(), &self.context.tasks, clock)
    }

    /// Stores the take's manifest, and what runs before `run` left on this disk once `held` says that the video holds it.
    fn take_up<F>(
        &self,
        uploader: Uploader,
        run: RunNumber,
        held: F,
    ) -> impl Future<Output = ()> + Send + use<F>
    where
        F: Future<Output = bool> + Send,
    {
        let manifest = Manifest {
            version: manifest::VERSION,
            recording: self.order.recording.clone(),
            take: self.order.take.clone(),
            video_name: self.order.video_name.clone(),
            recording_json: self.order.safe_json(),
            frame_rate: self.order.frame_rate,
            resolution: self.order.resolution.to_string(),
            only_video: self.order.sound == Sound::None,
            gap_mode: self.settings.gap_mode,
            created_at: self.context.clock.now(),
        };
        let earlier = uploader.take_up(&self.paths.recordings, run);
        let token = self.context.tasks.token();
        async move {
            let both = async {
                uploader.introduce(&manifest).await;
                if held.await {
                    earlier.await;
                }
            };
            token.run_until_cancelled(both).await;
        }
    }

    fn options(&self) -> Options {
        Options {
            recording: self.order.recording.clone(),
            take: self.order.take.clone(),
            gap_mode: self.settings.gap_mode,
        }
    }
}

/// The number of the last chunk that is in the video.
fn last_chunk_in(video: &Path) -> Option<u32> {
    let timeline = join::timeline_of(video).ok()?;
    let last = timeline.runs.last()?.chunks.last()?;
    Some(last.index)
}

/// The store that the settings name; the recordings folder where they name none that can be used.
fn usable_store(
    settings: &mut Settings,
    recordings: &Path,
    reporter: &Reporter,
) -> Arc<dyn ChunkStore> {
    store::open(settings, recordings).unwrap_or_else(|cause| {
        reporter.settings_fault(format!("{cause}; chunks stay in the recordings folder"));
        settings.storage = Storage::Local;
        store::in_folder(recordings)
    })
}

/// What writes.
struct Writing {
    run: Run,
    uploader: Uploader,
    video: JoinHandle<Result<Option<Finished>, JoinError>>,
    /// Hears when the video has a frame.
    begun: Shared<oneshot::Receiver<()>>,
    close: watch::Sender<Close>,
}
