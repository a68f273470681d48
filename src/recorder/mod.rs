//! The recorder's story. OpenVidu's order comes in by the environment; a display, a sound server, a browser on the ordered
//! page and an ffmpeg that captures both are started side by side and kept alive ([`supervise`]). What ffmpeg writes becomes
//! the run's log, a row of chunk files ([`chunks`]); the log is followed by who lets the video at OpenVidu's path grow
//! ([`writer`]) and by who stores the chunks ([`upload`]). On `q` in the stop file the last frames are drained, the video is
//! closed by one `moov`, and everything OpenVidu reads is laid beside it.
//!
//! The controller is told all along ([`contact`]) and can say that a later run took over; recording never waits for it,
//! nor for the chunk store ([`upload`]).

mod address;
mod audio;
mod browser;
mod capture;
mod chunks;
mod contact;
mod devtools;
mod diary;
mod display;
pub mod order;
mod phase;
mod preview;
mod refresh;
mod run;
mod seen;
mod slow;
mod stop;
mod supervise;
mod sweeps;
mod switches;
mod tab;
pub mod upload;
mod workshop;
mod writer;

use crate::child;
use crate::chunklog::Publisher;
use crate::clock::SystemClock;
use crate::config::{DisplayRate, Settings, Storage};
use crate::disk;
use crate::join::beside::{Beside, BesideError};
use crate::join::{self, Finished, GrowingFile, JoinError, Options, Piece};
use crate::model::chunk::TakeKey;
use crate::model::ids::RunNumber;
use crate::model::manifest::{self, Manifest};
use crate::model::session::Status;
use crate::store::{self, ChunkStore};
use crate::tasks::Tasks;
use chunks::Chunks;
use contact::{Contact, Welcome};
use order::{Order, Sound};
use run::Run;
use seen::Seen;
use slow::Watched;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use supervise::{End, Leniency, Part, Stage};
use sweeps::Sweeps;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use upload::Uploader;
use workshop::Workshop;
use writer::{Close, Target, Writer};

/// Pieces that may wait for the disk: over a minute of them, so that a disk may hang for as long.
const WAITING: usize = 400;
/// How long the last frames, and the end of the video, may take after the stop. OpenVidu waits 30 s for all.
const END: Duration = Duration::from_secs(25);
/// How much of that is kept for the end of the video.
const CLOSING: Duration = Duration::from_secs(5);
/// How long after the end OpenVidu's `q` is waited for: its stop fails where this container has ended before.
const LATE_Q: Duration = Duration::from_secs(45);
/// How long stored chunks are waited for at the end: the video is whole without them.
const UPLOAD: Duration = Duration::from_millis(400);
/// How long tasks may take to end.
const TASKS: Duration = Duration::from_millis(500);
/// How long a recording that is stopped before its first frame waits for it. OpenVidu waits 30 s for all.
const FIRST_FRAME: Duration = Duration::from_secs(8);

/// Where a recorder works.
#[derive(Clone, Debug)]
pub struct Place {
    /// OpenVidu's recordings folder.
    pub recordings: PathBuf,
    /// A file whose first letter `q` ends the recording.
    pub stop_file: PathBuf,
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
    Place {
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

/// Opens the log that recorders of the order's recording keep beside the video in debug mode, and goes on with it.
///
/// # Errors
/// When the file system refuses.
pub fn open_log(order: &Order, place: &Place) -> std::io::Result<std::fs::File> {
    let path = Beside::new(&place.recordings, &order.recording).log();
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
    place: Place,
    faults: Vec<String>,
) -> Result<Outcome, RecorderError> {
    let seen = Seen::default();
    for fault in faults {
        seen.settings_fault(format!("{fault}; recording goes on without it"));
    }
    let recorder = Recorder::open(order, settings, place, seen)?;
    let (tasks, curtain) = (recorder.stage.tasks.clone(), recorder.stage.curtain.clone());
    let outcome = recorder.live().await;
    // Where no run began, its parts are still there.
    curtain.cancel();
    for name in tasks.end(TASKS).await {
        log::debug!("{name} did not end in time");
    }
    outcome
}

/// Everything that is known before anything runs.
struct Recorder {
    order: Order,
    settings: Settings,
    place: Place,
    take: TakeKey,
    beside: Beside,
    contact: Contact,
    store: Arc<dyn ChunkStore>,
    stage: Stage,
    ends: mpsc::UnboundedReceiver<End>,
}

impl Recorder {
    fn open(
        order: Order,
        mut settings: Settings,
        place: Place,
        seen: Seen,
    ) -> Result<Self, RecorderError> {
        let fault = |path: &Path| {
            let path = path.to_owned();
            move |cause| RecorderError::Place { path, cause }
        };
        let beside = Beside::new(&place.recordings, &order.recording);
        beside.begin(order.json.as_ref())?;
        let temporary = std::env::temp_dir();
        let workshop = Workshop::open(&temporary).map_err(fault(&temporary))?;
        let (ending, ends) = mpsc::unbounded_channel();
        let stage = Stage {
            tasks: Tasks::new(),
            clock: Arc::new(SystemClock),
            seen,
            hidden: order.hidden(),
            workshop: Arc::new(workshop),
            ending,
            curtain: CancellationToken::new(),
            suspicion: watch::Sender::new(0),
        };
        child::reap_orphans(&stage.tasks);
        stop::watch(&stage, &place.stop_file);
        stop::watch_file(&stage, &beside, order.json.as_ref());
        let store = usable_store(&mut settings, &place.recordings, &stage.seen);
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
                &stage.seen,
            ),
            store,
            beside,
            order,
            settings,
            place,
            stage,
            ends,
        })
    }

    async fn live(mut self) -> Result<Outcome, RecorderError> {
        if let Some(why) = self.stop_asked()
            && let Some(outcome) = self.finish_last(why).await?
        {
            self.await_q(why).await;
            return Ok(outcome);
        }
        let scene = Scene::raise(&self.stage, &self.order, &self.settings, &self.beside);
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
            Ok((run, registered)) => self.write(run, registered, &scene),
            Err(End::Fault(why)) => return Err(RecorderError::GivenUp(why)),
            Err(End::Superseded | End::Stop(_)) => return Ok(Outcome::Superseded),
        };
        let end = match self.next_end().await {
            End::Stop(why) => self.first_frame(why, &mut run).await,
            other => other,
        };
        self.end(end, scene, run).await
    }

    /// Why nothing is to be recorded any more, where OpenVidu has said so before this recorder began.
    fn stop_asked(&self) -> Option<&'static str> {
        if stop::is_asked_for(&self.place.stop_file) {
            return Some("the stop file says so");
        }
        let over = self.beside.is_over(self.order.json.as_ref());
        over.then_some(stop::FILE)
    }

    async fn next_end(&mut self) -> End {
        // The stage keeps a sender, so that this channel cannot end.
        let end = self.ends.recv().await;
        end.unwrap_or(End::Stop("nobody is left"))
    }

    /// Waits for the first frame of a recording that is stopped before it: OpenVidu takes one without a video for failed.
    /// Answers how the run is to end then.
    async fn first_frame(&mut self, why: &'static str, run: &mut Writing) -> End {
        let late = tokio::time::sleep(FIRST_FRAME);
        tokio::pin!(late);
        loop {
            tokio::select! {
                biased;
                // An error says that nobody writes the video any more.
                _ = &mut run.begun => return End::Stop(why),
                end = self.next_end() => match end {
                    End::Superseded => return end,
                    End::Fault(cause) => {
                        log::warn!("{cause}; the recording is stopped: {why}");
                        return End::Stop(why);
                    }
                    End::Stop(_) => {}
                },
                () = &mut late => return End::Stop(why),
            }
        }
    }

    /// Learns or chooses the number of this run. The parts are starting meanwhile.
    async fn begin(&self) -> Result<(Run, bool), End> {
        let (last, is_alive) = self.last_run().await;
        let (wanted, known) = match self.contact.welcome(last).await {
            Welcome::Run(number) => (number, true),
            Welcome::Choose if is_alive => {
                log::warn!("nobody says that run {last} is to be replaced, and it is recording");
                return Err(End::Superseded);
            }
            Welcome::Choose => (last.next(), false),
            Welcome::No(end) => return Err(end),
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
        let (recordings, take) = (self.place.recordings.clone(), self.take.clone());
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
    fn write(&self, run: Run, registered: bool, scene: &Scene) -> Writing {
        let tasks = &self.stage.tasks;
        let uploader = self
            .uploader()
            .with_tails(self.settings.tail_upload_seconds.seconds());
        let head = Publisher::default();
        let sweeps = self.sweeps();
        let (writer, milestones) = Writer::new(
            self.stage.clone(),
            run.clone(),
            self.target(),
            uploader.clone(),
            sweeps.clone(),
            head.subscribe(),
        );
        let watched = Watched::new(Arc::clone(&self.stage.clock));
        self.watch_the_disk(vec![writer.watched(), watched.clone()]);
        if uploader.takes_files_away() {
            let follower = uploader.clone();
            let follow = follower.follow(head.subscribe(), self.place.recordings.clone());
            tasks.spawn("the log's upload", follow);
        }
        if let Some(pieces) = scene.pieces() {
            let with = chunks::With {
                seen: self.stage.seen.clone(),
                refresh: Arc::clone(&scene.refresh),
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
                .beat(self.stage.clone(), uploader.clone(), current, registered);
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
        let (recordings, take) = (self.place.recordings.clone(), self.take.clone());
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
        let (on, folder) = (self.stage.clone(), self.place.recordings.clone());
        self.stage.tasks.spawn("slow disk", async move {
            slow::tell(on, watched, &folder).await;
        });
    }

    fn sweeps(&self) -> Sweeps {
        Sweeps::new(
            self.stage.seen.clone(),
            Arc::clone(&self.stage.clock),
            self.beside.clone(),
            self.order.json.clone(),
        )
    }

    fn target(&self) -> Target {
        Target {
            recordings: self.place.recordings.clone(),
            video: self.beside.video(&self.order.video_name),
            options: self.options(),
        }
    }

    fn take_folder(&self) -> PathBuf {
        self.place.recordings.join(self.take.to_string())
    }

    fn uploader(&self) -> Uploader {
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.stage.clock));
        Uploader::new(store, self.take.clone(), &self.stage.tasks, clock)
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
            created_at: self.stage.clock.now(),
        };
        let earlier = uploader.take_up(&self.place.recordings, run);
        let token = self.stage.tasks.token();
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

    /// Ends the parts in the order in which the last frames are safe, then does what `end` asks for.
    async fn end(mut self, end: End, scene: Scene, run: Writing) -> Result<Outcome, RecorderError> {
        if let End::Stop(why) = &end {
            log::info!("recording stops: {why}");
            // Nobody looks when the video's thread has already ended.
            let _ = run.close.send(Close::Finish);
        }
        let curtain = self.stage.curtain.clone();
        let deadline = Instant::now() + END;
        if timeout_at(deadline - CLOSING, scene.drain()).await.is_err() {
            log::error!(
                "the last frames are not written in time; the video ends with what the disk took, check it"
            );
        }
        curtain.cancel();
        let mut video = run.video;
        let finished = match timeout_at(deadline - CLOSING, &mut video).await {
            Ok(finished) => Ok(finished),
            Err(_) => {
                // Frames are still to be written, or to be taken into the video.
                if let End::Stop(_) = &end {
                    let _ = run.close.send(Close::FinishNow);
                }
                timeout_at(deadline, video).await
            }
        };
        let finished = match finished {
            Ok(finished) => finished.map_err(|cause| RecorderError::Broken(cause.to_string()))?,
            Err(_) => {
                let seconds = END.as_secs();
                let cause =
                    format!("the disk did not take the end of the video within {seconds} s");
                return Err(RecorderError::Broken(cause));
            }
        };
        // After a signal alone another container may go on; only OpenVidu's word makes it useless.
        if let (End::Stop(why), Err(JoinError::Nothing { path })) = (&end, &finished)
            && (*why != stop::SIGNAL || self.stop_asked().is_some())
        {
            log::error!(
                "no frame could be recorded into {} before the stop; OpenVidu will say that it failed; the lines above say why",
                path.display()
            );
            self.await_q(why).await;
            return Ok(Outcome::Nothing);
        }
        match (end, finished?) {
            (End::Superseded, _) | (End::Stop(_), None) => {
                log::info!("a later run records; the video is left to it");
                Ok(Outcome::Superseded)
            }
            (End::Fault(why), _) => {
                let current = self.take.chunk(run.run.number, 0);
                self.contact
                    .last_beat(&self.stage, &run.uploader, &current)
                    .await;
                Err(RecorderError::GivenUp(why))
            }
            (End::Stop(why), Some(finished)) => {
                let outcome = self.complete(&finished, Some(&run.uploader)).await?;
                self.await_q(why).await;
                Ok(outcome)
            }
        }
    }

    /// OpenVidu writes into its file that a recording is over, and says `q` to this container a moment later; its stop fails
    /// where the container has ended before that. Who was ended by the file is there to hear it.
    async fn await_q(&mut self, why: &'static str) {
        if why == stop::SIGNAL || stop::is_asked_for(&self.place.stop_file) {
            return;
        }
        if !self.beside.is_over(self.order.json.as_ref()) {
            return;
        }
        let late = tokio::time::sleep(LATE_Q);
        tokio::pin!(late);
        while !stop::is_asked_for(&self.place.stop_file) {
            tokio::select! {
                end = self.next_end() => match end {
                    End::Stop(stop::SIGNAL) | End::Superseded | End::Fault(_) => return,
                    End::Stop(_) => {}
                },
                () = &mut late => return log::warn!("OpenVidu did not stop this container; the video is finished"),
            }
        }
    }

    async fn complete(
        &self,
        finished: &Finished,
        uploader: Option<&Uploader>,
    ) -> Result<Outcome, RecorderError> {
        let stored = async {
            if let Some(uploader) = uploader {
                store_the_rest(uploader, finished).await;
            }
        };
        self.sweeps().make_folder();
        let (info, timeline) = (&finished.info, Some(&finished.timeline));
        let laid = self.beside.complete_with(info, &finished.video, timeline);
        let (laid, ()) = tokio::join!(laid, stored);
        laid?;
        self.contact.last_word(Status::Completed).await;
        log::info!(
            seconds = finished.duration.as_secs_f64(), bytes = finished.bytes,
            gaps = finished.timeline.gaps.len();
            "the video is finished"
        );
        Ok(Outcome::Finished(finished.video.clone()))
    }

    /// Begun when all is over: there is nothing to record, only a video to be finished, and what is left to be stored.
    /// `None` when no run has recorded anything: then a moment is recorded, and ended at its first frame.
    async fn finish_last(&self, why: &'static str) -> Result<Option<Outcome>, RecorderError> {
        log::info!("nothing more is recorded: {why}");
        if self.last_run().await.1 {
            return Ok(Some(Outcome::Superseded));
        }
        let finished = match self.finish_what_is_there().await {
            Err(RecorderError::Join(JoinError::Nothing { .. })) => {
                self.stage.end(End::Stop(why));
                return Ok(None);
            }
            finished => finished?,
        };
        let uploader = self.uploader();
        let run = self.last_run().await.0.next();
        let left_behind = self.take_up(uploader.clone(), run, std::future::ready(true));
        let tasks = &self.stage.tasks;
        tasks.spawn("manifest and chunks left behind", left_behind);
        let outcome = self.complete(&finished, Some(&uploader)).await?;
        Ok(Some(outcome))
    }

    async fn finish_what_is_there(&self) -> Result<Finished, RecorderError> {
        let path = self.beside.video(&self.order.video_name);
        let (options, take) = (self.options(), self.take.clone());
        let recordings = self.place.recordings.clone();
        let finish = move || {
            let mut file = GrowingFile::open_or_put_aside(&path, options)?;
            // What is in the video is finished all the same.
            if let Err(cause) = file.catch_up(&run::chunks(&recordings, &take)) {
                log::warn!("some chunks are not in the video: {cause}");
            }
            writer::finish(&mut file)
        };
        let finished = self.stage.tasks.spawn_blocking("the video's end", finish);
        let finished = finished.await;
        let finished = finished.map_err(|cause| RecorderError::Broken(cause.to_string()))?;
        Ok(finished?)
    }
}

/// The number of the last chunk that is in the video.
fn last_chunk_in(video: &Path) -> Option<u32> {
    let timeline = join::timeline_of(video).ok()?;
    let last = timeline.runs.last()?.chunks.last()?;
    Some(last.index)
}

/// The store that the settings name; the recordings folder where they name none that can be used.
fn usable_store(settings: &mut Settings, recordings: &Path, seen: &Seen) -> Arc<dyn ChunkStore> {
    store::open(settings, recordings).unwrap_or_else(|cause| {
        seen.settings_fault(format!("{cause}; chunks stay in the recordings folder"));
        settings.storage = Storage::Local;
        store::in_folder(recordings)
    })
}

/// Waits a moment for what is on its way to the store, names what is not there by then, and says that the take is finished.
async fn store_the_rest(uploader: &Uploader, finished: &Finished) {
    let left = uploader.drain(UPLOAD).await;
    if !left.is_empty() {
        let names: Vec<_> = left.iter().map(ToString::to_string).collect();
        let names = names.join(", ");
        log::info!(chunks:% = names; "not stored in time; the video holds them");
    }
    if !finished.regular {
        return;
    }
    let sealed = uploader.seal(&finished.timeline);
    if let Ok(Err(cause)) = tokio::time::timeout(UPLOAD, sealed).await {
        log::warn!("the store was not told that the video is finished: {cause}");
    }
}

/// What writes.
struct Writing {
    run: Run,
    uploader: Uploader,
    video: JoinHandle<Result<Option<Finished>, JoinError>>,
    /// Hears when the video has a frame.
    begun: oneshot::Receiver<()>,
    close: watch::Sender<Close>,
}

/// What shows and captures.
struct Scene {
    refresh: Arc<Notify>,
    stop: CancellationToken,
    capture: JoinHandle<()>,
    pieces: std::sync::Mutex<Option<mpsc::Receiver<Piece>>>,
}

impl Scene {
    /// Starts display, sound, browser and capture, each kept alive by a task of its own.
    fn raise(stage: &Stage, order: &Order, settings: &Settings, beside: &Beside) -> Self {
        let (display, on_display) = watch::channel(None);
        let (audio, on_audio) = watch::channel(None);
        let (page, on_page) = watch::channel(browser::Page::Loading);
        let (pieces, pieces_out) = mpsc::channel(WAITING);
        let (refresh, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let tasks = stage.tasks.clone();

        let (on, size) = (stage.clone(), order.resolution);
        let rate = match settings.display_rate {
            DisplayRate::Match => Some(refresh::rate_for(order.frame_rate)),
            DisplayRate::Sixty => None,
        };
        tasks.spawn("display", async move {
            on.keep(Part::Display, || display::live(&on, size, rate, &display))
                .await;
        });
        // Where no sound is ordered nobody takes any, and the sender's end says that none will come.
        if order.sound == Sound::Recorded {
            let on = stage.clone();
            tasks.spawn("audio", async move {
                let dialect = audio::Dialect::default();
                on.keep(Part::Audio, || audio::live(&on, &dialect, &audio))
                    .await;
            });
        }
        let (on, ordered) = (stage.clone(), order.clone());
        let ground = browser::Ground {
            display: on_display.clone(),
            audio: on_audio.clone(),
            page,
            had_media: false.into(),
            leniency: Leniency::new(Arc::clone(&stage.clock)),
        };
        tasks.spawn("browser", async move {
            on.keep(Part::Browser, || browser::live(&on, &ordered, &ground))
                .await;
        });
        let (on, ordered, picture) = (stage.clone(), order.clone(), beside.preview());
        let shown = on_display.clone();
        tasks.spawn("preview", async move {
            preview::keep(on, ordered, shown, &picture).await;
        });
        let (on, ordered) = (stage.clone(), order.clone());
        let (asked, told) = (Arc::clone(&refresh), stop.clone());
        let chunk = settings.chunk_seconds.seconds();
        let keyframe = settings.keyframe_seconds.seconds();
        let capture = tasks.spawn("capture", async move {
            let ground = capture::Ground {
                display: on_display,
                audio: on_audio,
                page: on_page,
                pieces,
                refresh: asked,
                stop: told,
                chunk,
                keyframe,
                syntax: capture::Syntax::of_installed().await,
                begun: false.into(),
                leniency: Leniency::new(Arc::clone(&on.clock)),
            };
            on.keep(Part::Capture, || capture::live(&on, &ordered, &ground))
                .await;
        });
        Self {
            refresh,
            stop,
            capture,
            pieces: Some(pieces_out).into(),
        }
    }

    /// What is captured; once.
    fn pieces(&self) -> Option<mpsc::Receiver<Piece>> {
        self.pieces.lock().ok()?.take()
    }

    /// Lets the capture write what it holds, and ends it.
    async fn drain(self) {
        self.stop.cancel();
        if let Err(cause) = self.capture.await {
            log::error!("the capture ended badly: {cause}");
        }
    }
}
