//! The video at OpenVidu's path grows here, on a thread of its own: it follows the run's log, and what it has not taken yet
//! it takes when it can. A video that is taken up, a slow disk, a full one, one that was away: all are the same loop, which
//! goes on from the last chunk that is in the video. Chunks that are in it are passed on to the upload. It is never the
//! reason that a frame is missing.

mod closing;
mod names;
mod pass_on;

use super::context::{Context, End};
use super::run::{Fence, Run};
use super::slow::Watched;
use super::sweeps::Sweeps;
use super::upload::Uploader;
use crate::chunklog::{Entry, Follower, Head, Heads, LogError, Source};
use crate::join::{Finished, Fragment, GrowingFile, Init, JoinError, Options, Origin, Reserve};
use crate::model::wire::TroubleKind;
use futures_util::FutureExt;
use futures_util::future::Shared;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

pub(super) use closing::finish;

/// How many fragments are taken until it is looked again whether a later run has begun.
const AT_ONCE: usize = 50;
/// When what was refused is tried again, where nothing new comes before that.
const RETRY: Duration = Duration::from_secs(1);
/// How long it is tried to open a video that cannot be read, until it is put aside.
const PATIENCE: Duration = Duration::from_secs(5);

/// What becomes of the video when the log has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    /// It is made a regular MP4.
    Finish,
    /// The same, without waiting for the log's end any longer.
    FinishNow,
    /// It stays as it is, for another run to go on with.
    Leave,
}

/// Where the video lies, and whose it is.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) recordings: PathBuf,
    pub(super) video: PathBuf,
    pub(super) options: Options,
}

/// Hears of the video's first moments.
pub(super) struct Milestones {
    /// There is a frame in it.
    pub(super) begun: Shared<oneshot::Receiver<()>>,
    /// It holds all that earlier runs left.
    pub(super) holds_earlier: oneshot::Receiver<()>,
}

/// Makes the video grow.
pub(super) struct Writer {
    context: Context,
    run: Run,
    target: Target,
    fence: Fence,
    uploader: Uploader,
    sweeps: Sweeps,
    watched: Watched,
    heads: Heads,
    video: Video,
    /// What was read and could not be appended yet.
    pending: Option<Entry>,
    /// Chunks of this run that are in the video and were not yet passed on.
    passed: Vec<Origin>,
    /// The chunk that could not be read, and since when, by the clock's uptime.
    unread: Option<(Origin, Duration)>,
    /// How the last fragment was to be read.
    init: Option<Arc<Init>>,
    refused: Option<Refused>,
    /// Until when it is tried to open what is there, by the clock's uptime.
    patient_until: Option<Duration>,
    /// Told when the video has its first frame.
    begun: Option<oneshot::Sender<()>>,
    /// Told when the video holds, for the first time, all that earlier runs left.
    holds_earlier: Option<oneshot::Sender<()>>,
}

/// The video, and where in the log it is.
#[allow(clippy::large_enum_variant)] // there is one
enum Video {
    /// To be opened, for the first time or anew.
    Closed(Option<GrowingFile>),
    Open {
        file: GrowingFile,
        reserve: Reserve,
        follower: Follower,
        /// Fragments that it has may still come: its last chunk is read from the beginning.
        resumes: bool,
    },
}

/// Why the video could not be written when it was last tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    ForWantOfRoom,
    Otherwise,
}

/// How far a step has led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// All up to the head is in the video.
    AtHead,
    /// There is more.
    Further,
    /// It could not be written.
    Refused,
}

impl Writer {
    /// Follows the log whose `heads` are heard. Nothing is opened yet.
    pub(super) fn new(
        context: Context,
        run: Run,
        target: Target,
        uploader: Uploader,
        sweeps: Sweeps,
        heads: Heads,
    ) -> (Self, Milestones) {
        let (begun, has_begun) = oneshot::channel();
        let (holds_earlier, has_earlier) = oneshot::channel();
        let writer = Self {
            fence: Fence::around(&run),
            watched: Watched::new(Arc::clone(&context.clock)),
            context,
            run,
            target,
            uploader,
            sweeps,
            heads,
            video: Video::Closed(None),
            pending: None,
            passed: Vec::new(),
            unread: None,
            init: None,
            refused: None,
            patient_until: None,
            begun: Some(begun),
            holds_earlier: Some(holds_earlier),
        };
        let milestones = Milestones {
            begun: has_begun.shared(),
            holds_earlier: has_earlier,
        };
        (writer, milestones)
    }

    /// Sees how long the disk takes for the video.
    pub(super) fn watched(&self) -> Watched {
        self.watched.clone()
    }

    /// Appends until the log ends; then does what `close` says. `None`: left as it is.
    ///
    /// # Errors
    /// When the video cannot be finished. It plays all the same.
    pub(super) fn follow(
        mut self,
        mut close: watch::Receiver<Close>,
    ) -> Result<Option<Finished>, JoinError> {
        loop {
            let head = *self.heads.borrow_and_update();
            // Before the fence: a later run may have taken the name, and has made its folder by then.
            let nameless = self.is_nameless();
            if self.fence.is_overtaken() {
                self.context.end(End::Superseded);
                return Ok(None);
            }
            if nameless && !self.sweeps.is_recent() {
                self.name_again();
            }
            let step = self.step(head);
            self.note_growth();
            let is_late = *close.borrow() == Close::FinishNow;
            if is_late || (step != Step::Further && !self.is_to_go_on(step, &mut close)) {
                break;
            }
        }
        self.close(&close)
    }

    /// Waits for more; `false` when no more will come, or is to be waited for.
    fn is_to_go_on(&mut self, step: Step, close: &mut watch::Receiver<Close>) -> bool {
        let heads = &mut self.heads;
        let changed = async {
            tokio::select! {
                changed = heads.changed() => changed.is_ok(),
                Ok(_) = close.wait_for(|close| *close == Close::FinishNow) => false,
            }
        };
        Handle::current().block_on(async {
            match step {
                Step::Refused => tokio::time::timeout(RETRY, changed).await.unwrap_or(true),
                Step::AtHead | Step::Further => changed.await,
            }
        })
    }

    /// Takes a number of fragments from the log.
    fn step(&mut self, head: Head) -> Step {
        let step = self.go_on(head);
        match step {
            Ok(Step::AtHead) => {
                let before = self.refused.take();
                self.pass_on();
                if self.refused.is_some() {
                    return Step::Refused;
                }
                if before.is_some() {
                    self.context.reporter.well(TroubleKind::Disk);
                }
                Step::AtHead
            }
            Ok(other) => other,
            Err(cause) => {
                self.failed(&cause);
                Step::Refused
            }
        }
    }

    fn go_on(&mut self, head: Head) -> Result<Step, Failed> {
        self.open()?;
        for _ in 0..AT_ONCE {
            let Video::Open { follower, .. } = &mut self.video else {
                return Ok(Step::Further);
            };
            let next = match self.pending.take() {
                Some(entry) => Some(entry),
                None => match follower.next(head) {
                    Ok(next) => next,
                    Err(cause) => Some(self.without_unread(head, cause)?),
                },
            };
            match next {
                None => return Ok(Step::AtHead),
                Some(Entry::Fragment {
                    init,
                    fragment,
                    origin,
                }) => self.take(init, fragment, origin)?,
                Some(Entry::Passed {
                    origin,
                    lost,
                    fault,
                }) => self.leave_chunk(origin, lost, fault)?,
            }
        }
        Ok(Step::Further)
    }

    /// A chunk cannot be read: perhaps in a moment. One that still cannot then is left, for those behind it.
    fn without_unread(&mut self, head: Head, cause: LogError) -> Result<Entry, Failed> {
        let Video::Open { follower, .. } = &mut self.video else {
            return Err(cause.into());
        };
        let Some(origin) = follower.reading() else {
            return Err(cause.into());
        };
        let now = self.context.clock.uptime();
        let before = self.unread.filter(|(unread, _)| *unread == origin);
        let (_, since) = *self.unread.insert(before.unwrap_or((origin, now)));
        let is_closing = self.patient_until == Some(Duration::ZERO);
        match is_closing || now.saturating_sub(since) >= PATIENCE {
            true => follower.give_up(head, &cause).ok_or(cause.into()),
            false => Err(cause.into()),
        }
    }

    /// Opens the video where that is to be done.
    fn open(&mut self) -> Result<(), Failed> {
        let Video::Closed(before) = &mut self.video else {
            return Ok(());
        };
        let reopened = match before {
            Some(file) => {
                file.reopen()?;
                before.take()
            }
            None => None,
        };
        let file = match reopened {
            Some(file) => file,
            None => self.open_first()?,
        };
        let source = self.source(file.last());
        let (take, run) = (self.run.take.clone(), self.run.number);
        let follower = match Follower::new(source, take, run, file.last()) {
            Ok(follower) => follower,
            Err(cause) => {
                self.video = Video::Closed(Some(file));
                return Err(cause.into());
            }
        };
        self.pending = None;
        self.video = Video::Open {
            reserve: Reserve::of(&self.target.video),
            file,
            follower,
            resumes: true,
        };
        Ok(())
    }

    /// Where the chunks lie that are behind `last`. A video that is begun anew, after its file was lost or damaged, has them from
    /// the store, too, where that answers in time. What was recorded on another machine is left to who joins both: the one
    /// there may record on for a moment.
    fn source(&self, last: Option<Origin>) -> Source {
        let folder = self.target.recordings.clone();
        let begins_anew = last.is_none() && self.run.goes_on_here();
        match self.uploader.store_of_what_left() {
            Some(store) if begins_anew && self.is_patient() => {
                Source::Both(folder, store, Handle::current())
            }
            Some(_) if begins_anew => {
                log::error!(
                    "the video holds what is on this disk: the store did not answer; make it whole with \"ov2-ha-recorder recover\""
                );
                Source::Folder(folder)
            }
            _ => Source::Folder(folder),
        }
    }

    /// Whether what cannot be had now is still waited for.
    fn is_patient(&self) -> bool {
        let now = self.context.clock.uptime();
        self.patient_until.is_none_or(|until| now < until)
    }

    /// Opens what an earlier run left. What cannot be read may be readable in a moment; what still cannot then is put aside.
    fn open_first(&mut self) -> Result<GrowingFile, JoinError> {
        let Target { video, options, .. } = &self.target;
        let now = self.context.clock.uptime();
        let until = *self.patient_until.get_or_insert(now + PATIENCE);
        let opened = match now < until {
            true => GrowingFile::open(video, options.clone()),
            false => GrowingFile::open_or_put_aside(video, options.clone()),
        };
        let mut file = opened?.with_index();
        if self.run.number.0 > 1 {
            let before = self.run.number.0 - 1;
            file.explain(format!("the recorder of run {before} ended"));
        }
        Ok(file)
    }

    fn take(&mut self, init: Arc<Init>, fragment: Fragment, origin: Origin) -> Result<(), Failed> {
        let Video::Open { file, resumes, .. } = &mut self.video else {
            return Ok(());
        };
        if *resumes && file.has(&fragment, origin) {
            return Ok(());
        }
        *resumes = false;
        let same = self
            .init
            .as_ref()
            .is_some_and(|last| Arc::ptr_eq(last, &init));
        if !same {
            self.init = Some(Arc::clone(&init));
            // Another chunk, and perhaps another ffmpeg: why, if it is known, goes into the video with the gap before it.
            if let Some(cause) = self.context.reporter.cause_of_gap() {
                file.explain(cause);
            }
        }
        match self
            .watched
            .while_at(|| file.append(&init, &fragment, origin))
        {
            Ok(_) => Ok(()),
            // It would be no better the next time.
            Err(cause @ JoinError::Media { .. }) => {
                if !same {
                    log::error!(
                        "a part of chunk {} is not in the video: {cause}",
                        origin.index
                    );
                }
                Ok(())
            }
            Err(cause) => {
                self.pending = Some(Entry::Fragment {
                    init,
                    fragment,
                    origin,
                });
                Err(cause.into())
            }
        }
    }

    fn leave_chunk(
        &mut self,
        origin: Origin,
        lost: u64,
        fault: Option<String>,
    ) -> Result<(), Failed> {
        if let Some(fault) = &fault {
            let key = self.run.take.chunk(origin.run, origin.index);
            log::warn!("{key} is not wholly in the video: {fault}");
        }
        if origin.run == self.run.number {
            self.passed.push(origin);
        }
        match &mut self.video {
            Video::Open { file, .. } if lost > 0 => Ok(file.mark_lost(origin, lost)?),
            _ => Ok(()),
        }
    }

    fn failed(&mut self, cause: &Failed) {
        let refused = match cause.is_for_want_of_room() {
            true => Refused::ForWantOfRoom,
            false => Refused::Otherwise,
        };
        if refused == Refused::Otherwise && self.refused == Some(Refused::Otherwise) {
            // What is open may lead nowhere any more: its file system was taken away and came back.
            self.close_to_reopen();
        }
        self.refused = Some(refused);
        let message = format!("the video does not grow: {cause}");
        self.context.reporter.trouble(TroubleKind::Disk, message);
    }

    fn note_growth(&mut self) {
        let Video::Open { file, reserve, .. } = &mut self.video else {
            return;
        };
        if file.covers().is_none() {
            return;
        }
        if let Some(begun) = self.begun.take() {
            // Heard only where the recording is stopped before.
            let _ = begun.send(());
        }
        reserve.hold(file.bytes_to_finish());
    }
}

/// Why the video did not go on.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Video(#[from] JoinError),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Failed {
    fn is_for_want_of_room(&self) -> bool {
        matches!(self, Self::Video(cause) if cause.is_for_want_of_room())
    }
}
