//! The video at OpenVidu's path grows here, on a thread of its own behind the chunks: what is in a chunk is appended to it.
//! When it falls behind, or the disk is full for a while, it catches up from the chunk files; chunks that are in it are
//! passed on to the upload. It is never the reason that a frame is missing.

use super::chunks::Audience;
use super::run::{Fence, Run, chunks};
use super::supervise::{End, Stage};
use super::upload::Uploader;
use crate::clock::Timestamp;
use crate::disk;
use crate::join::beside::Beside;
use crate::join::{
    CaughtUp, ChunkSource, Finished, Fragment, GrowingFile, Init, JoinError, Options, Origin,
    Reserve,
};
use crate::model::chunk::ChunkKey;
use crate::model::wire::TroubleKind;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Fragments that may wait in memory; those beyond are read from their chunk later.
const WAITING: usize = 40;
/// Stamps are rounded to milliseconds; a frame is far longer.
const ROUNDING: Duration = Duration::from_millis(10);

/// How often at most the video is copied to get its name back, and how long that is told at least.
const SWEPT: Duration = Duration::from_secs(10);

/// What the video is told.
enum Message {
    Fragment {
        init: Arc<Init>,
        fragment: Fragment,
        origin: Origin,
    },
    /// A fragment was written to its chunk and not sent here.
    Missed,
    Closed {
        key: ChunkKey,
        path: PathBuf,
    },
    /// The chunk being written had to be made again.
    Swept {
        path: PathBuf,
    },
}

/// The chunks' way to the video.
pub(super) struct Feed {
    sender: mpsc::UnboundedSender<Message>,
    waiting: Arc<AtomicUsize>,
    uploader: Uploader,
}

impl Audience for Feed {
    fn written(&mut self, init: &Arc<Init>, fragment: Fragment, origin: Origin) {
        let message = match self.waiting.fetch_add(1, Ordering::Relaxed) < WAITING {
            true => Message::Fragment {
                init: Arc::clone(init),
                fragment,
                origin,
            },
            false => Message::Missed,
        };
        self.send(message);
    }

    fn closed(&mut self, key: ChunkKey, path: PathBuf) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.send(Message::Closed { key, path });
    }

    fn grew(&mut self, key: &ChunkKey, path: &Path) {
        self.uploader.chunk_grew(key.clone(), path.to_owned());
    }

    fn swept(&mut self, path: &Path) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.send(Message::Swept {
            path: path.to_owned(),
        });
    }
}

impl Feed {
    fn send(&self, message: Message) {
        // The video's thread ends early only when a later run writes it.
        let _ = self.sender.send(message);
    }
}

/// What becomes of the video when the chunks have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    /// It is made a regular MP4.
    Finish,
    /// It stays as it is, for another run to go on with.
    Leave,
}

/// How the video stands to the chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It holds what they hold.
    Abreast,
    /// It misses something that is in them.
    Behind,
    /// It does, and could not be written when it was last tried.
    Refused {
        /// Whether there was only no room for more.
        for_want_of_room: bool,
    },
}

/// Where the video lies, and what OpenVidu wants to find beside it.
pub(super) struct Folder {
    pub(super) recordings: PathBuf,
    pub(super) video: PathBuf,
    pub(super) beside: Beside,
    /// OpenVidu's view of the recording when it ordered it.
    pub(super) json: Option<Value>,
}

impl Folder {
    /// Makes the folder and OpenVidu's file in it where they are missing.
    pub(super) fn make(&self) {
        if let Err(cause) = self.beside.begin(self.json.as_ref()) {
            log::warn!("OpenVidu's own file is missing beside the video: {cause}");
        }
    }
}

/// Hears of the video's first moments.
pub(super) struct Milestones {
    /// There is a frame in it.
    pub(super) begun: oneshot::Receiver<()>,
    /// It holds all that earlier runs left.
    pub(super) abreast: oneshot::Receiver<()>,
}

/// Makes the video grow.
pub(super) struct Video {
    stage: Stage,
    run: Run,
    folder: Folder,
    file: GrowingFile,
    reserve: Reserve,
    fence: Fence,
    uploader: Uploader,
    messages: mpsc::UnboundedReceiver<Message>,
    waiting: Arc<AtomicUsize>,
    /// Closed chunks that are not yet known to be in the video.
    closed: Vec<(ChunkKey, PathBuf)>,
    standing: Standing,
    /// How the last fragment is to be read.
    init: Option<Arc<Init>>,
    /// What is before this is in the video, though it may still come as a fragment.
    caught_up: Option<Timestamp>,
    /// Told when the video has its first frame.
    begun: Option<oneshot::Sender<()>>,
    /// Told when the video holds, for the first time, all that earlier runs left.
    abreast: Option<oneshot::Sender<()>>,
    /// When the recording's files were last found to be deleted or moved away, by the clock's uptime.
    swept: Option<Duration>,
}

impl Video {
    /// Opens the video; nothing is appended yet.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(super) fn open(
        stage: Stage,
        run: Run,
        folder: Folder,
        options: Options,
        uploader: Uploader,
    ) -> Result<(Self, Feed, Milestones), JoinError> {
        let file = GrowingFile::open_or_put_aside(&folder.video, options)?;
        let (sender, messages) = mpsc::unbounded_channel();
        let (begun, has_begun) = oneshot::channel();
        let (abreast, is_abreast) = oneshot::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let feed = Feed {
            sender,
            waiting: Arc::clone(&waiting),
            uploader: uploader.clone(),
        };
        let video = Self {
            stage,
            fence: Fence::around(&run),
            run,
            reserve: Reserve::of(&folder.video),
            folder,
            file,
            uploader,
            messages,
            waiting,
            closed: Vec::new(),
            standing: Standing::Behind,
            init: None,
            caught_up: None,
            begun: Some(begun),
            abreast: Some(abreast),
            swept: None,
        };
        let milestones = Milestones {
            begun: has_begun,
            abreast: is_abreast,
        };
        Ok((video, feed, milestones))
    }

    /// The number of the last chunk that is in the video; its file may be gone.
    pub(super) fn last_index(&self) -> u32 {
        self.file.last().map_or(0, |origin| origin.index)
    }

    /// Appends until the chunks end; then does what `close` says. `None`: left as it is.
    ///
    /// # Errors
    /// When the video cannot be finished. It plays all the same.
    pub(super) fn grow(
        mut self,
        close: &watch::Receiver<Close>,
    ) -> Result<Option<Finished>, JoinError> {
        let number = self.run.number;
        if number.0 > 1 {
            let before = number.0 - 1;
            self.file
                .explain(format!("the recorder of run {before} ended"));
        }
        self.catch_up();
        self.pass_on();
        self.note_growth();
        while let Some(message) = self.messages.blocking_recv() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            // Before the fence: a later run may have taken the name, and has made its folder by then.
            let nameless = self.file.is_nameless();
            if self.fence.is_overtaken() {
                self.stage.end(End::Superseded);
                return Ok(None);
            }
            if nameless && !self.was_swept_lately() {
                self.name_again();
            }
            self.on(message);
            self.note_growth();
        }
        let nameless = self.file.is_nameless();
        if *close.borrow() == Close::Leave || self.fence.is_overtaken() {
            return Ok(None);
        }
        if nameless && let Err(cause) = self.reopen() {
            // Without its name the video is gone with this process: nobody may hear that it is finished.
            self.hand_over();
            return Err(cause);
        }
        if self.standing != Standing::Abreast {
            self.catch_up();
        }
        let finished = finish(&mut self.file)?;
        // What it does not hold, for want of room, is in the chunks: they are stored, or named.
        self.hand_over();
        Ok(Some(finished))
    }

    fn on(&mut self, message: Message) {
        match message {
            Message::Fragment {
                init,
                fragment,
                origin,
            } if self.standing == Standing::Abreast => self.append(&init, &fragment, origin),
            Message::Fragment { .. } | Message::Missed => {
                if self.standing == Standing::Abreast {
                    self.standing = Standing::Behind;
                }
                self.try_catch_up();
            }
            Message::Closed { key, path } => {
                self.closed.push((key, path));
                self.try_catch_up();
                self.pass_on();
                let is_over = self.swept.is_some() && !self.was_swept_lately();
                if is_over && self.standing == Standing::Abreast {
                    self.swept = None;
                    self.stage.seen.well(TroubleKind::Disk);
                }
            }
            Message::Swept { path } => self.found_swept(&path),
        }
    }

    fn note_growth(&mut self) {
        if self.file.covers().is_none() {
            return;
        }
        if let Some(begun) = self.begun.take() {
            // Heard only where the recording is stopped before.
            let _ = begun.send(());
        }
        self.reserve.hold(self.file.bytes_to_finish());
    }

    /// Whoever sweeps the folder takes names away, not what is open: the video gets its name back.
    fn name_again(&mut self) {
        // A copy that does not fit would fill the disk for every recording on it, again and again.
        let free = disk::free_bytes(&self.folder.recordings).unwrap_or(u64::MAX);
        let needed = self.file.bytes();
        if free < needed {
            let path = self.file.path().to_owned();
            self.found_swept(&path);
            let message = format!(
                "{} was deleted or moved away, and there is no room to make it again; free {needed} bytes before the recording stops",
                path.display()
            );
            self.stage.seen.trouble(TroubleKind::Disk, message);
            return;
        }
        match self.reopen() {
            Ok(()) => self.try_catch_up(),
            Err(cause) => self.failed(&cause),
        }
    }

    fn reopen(&mut self) -> Result<(), JoinError> {
        let path = self.file.path().to_owned();
        self.found_swept(&path);
        self.file.reopen()?;
        self.reserve = Reserve::of(&path);
        self.standing = Standing::Behind;
        Ok(())
    }

    fn found_swept(&mut self, path: &Path) {
        self.swept = Some(self.stage.clock.uptime());
        self.folder.make();
        let message = format!(
            "{} was deleted or moved away while it was recorded; it is made again from what was open, see who cleans up there",
            path.display()
        );
        self.stage.seen.trouble(TroubleKind::Disk, message);
    }

    fn was_swept_lately(&self) -> bool {
        let now = self.stage.clock.uptime();
        self.swept.is_some_and(|at| now.saturating_sub(at) < SWEPT)
    }

    fn append(&mut self, init: &Arc<Init>, fragment: &Fragment, origin: Origin) {
        if let Some(until) = self.caught_up {
            if fragment.start().plus(ROUNDING) < until {
                return;
            }
            self.caught_up = None;
        }
        if !self
            .init
            .as_ref()
            .is_some_and(|last| Arc::ptr_eq(last, init))
        {
            self.init = Some(Arc::clone(init));
            self.explain();
        }
        if let Err(cause) = self.file.append(init, fragment, origin) {
            self.failed(&cause);
        }
    }

    fn failed(&mut self, cause: &JoinError) {
        if let JoinError::Media { .. } = cause {
            self.standing = Standing::Behind;
            log::error!("a fragment is not in the video: {cause}");
            return;
        }
        self.standing = Standing::Refused {
            for_want_of_room: cause.is_for_want_of_room(),
        };
        let message = format!("the video does not grow: {cause}");
        self.stage.seen.trouble(TroubleKind::Disk, message);
    }

    /// Another ffmpeg writes: why, if it is known, goes into the video with the gap before it.
    fn explain(&mut self) {
        if let Some(cause) = self.stage.seen.cause_of_gap() {
            self.file.explain(cause);
        }
    }

    /// Catches up when nothing newer waits in memory: else what waits would come twice.
    fn try_catch_up(&mut self) {
        if self.standing != Standing::Abreast && self.waiting.load(Ordering::Relaxed) < WAITING / 2
        {
            self.catch_up();
        }
    }

    fn catch_up(&mut self) {
        match self.append_missed() {
            Ok(caught) => {
                for chunk in caught {
                    if let Some(fault) = &chunk.fault {
                        let path = chunk.source.path.display();
                        log::warn!("{path} is not wholly in the video: {fault}");
                    }
                }
                self.caught_up = self.file.covers();
                let before = std::mem::replace(&mut self.standing, Standing::Abreast);
                if let Standing::Refused { .. } = before {
                    self.stage.seen.well(TroubleKind::Disk);
                }
            }
            Err(cause) => self.failed(&cause),
        }
    }

    fn append_missed(&mut self) -> Result<Vec<CaughtUp>, JoinError> {
        let gone = Standing::Refused {
            for_want_of_room: false,
        };
        if self.standing == gone {
            self.file.reopen()?;
        }
        let last = self.file.last();
        let missed: Vec<ChunkSource> = chunks(&self.folder.recordings, &self.run.take)
            .into_iter()
            .filter(|chunk| last.is_none_or(|last| chunk.origin() >= last))
            .collect();
        self.explain();
        self.file.catch_up(&missed)
    }

    /// Chunks that the video has in full go to the upload, which may then delete them here: what was in them is on the disk
    /// by then.
    fn pass_on(&mut self) {
        if self.standing == Standing::Abreast
            && self.uploader.takes_files_away()
            && let Err(cause) = self.file.sync()
        {
            self.failed(&cause);
        }
        if self.standing != Standing::Abreast {
            return;
        }
        if let Some(abreast) = self.abreast.take() {
            // Nobody listens when the recorder ends.
            let _ = abreast.send(());
        }
        self.hand_over();
    }

    fn hand_over(&mut self) {
        for (key, path) in self.closed.drain(..) {
            self.uploader.chunk_closed(key, path);
        }
    }
}

/// Finishes the video. Where the disk does not take its end it stays as it is, which plays, and is described from memory.
///
/// # Errors
/// When nothing was recorded.
pub(super) fn finish(file: &mut GrowingFile) -> Result<Finished, JoinError> {
    file.finish().or_else(|cause| {
        let finished = file.leave_unfinished()?;
        let help = match cause.is_for_want_of_room() {
            true => "free some space",
            false => "check the disk",
        };
        log::error!(
            "{cause}; the video plays as it is, but seeking in it is slow; {help} and finish it with \"ov2-ha-recorder recover\""
        );
        Ok(finished)
    })
}
