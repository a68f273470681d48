//! Finishing a take without a recorder: what its runs left, in the recordings folder and in the chunk store, becomes the
//! video at OpenVidu's path, with everything that OpenVidu expects beside it. And the other end: chunks go once the video
//! was held against every one of them.

mod chunks;

use self::chunks::{Brought, Chunk, Faults, sources};
use crate::disk;
use crate::join::beside::{Beside, BesideError};
use crate::join::{self, CaughtUp, ChunkFault, GrowingFile, JoinError, Options};
use crate::model::chunk::{ChunkKey, TakeKey};
use crate::model::timeline::{GapMode, Timeline, UNREAD};
use crate::store::takes::{StoredTake, takes};
use crate::store::{ChunkStore, StoreError};
use crate::tasks::{self, Tasks};
use log::warn;
use serde_json::Value;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Chunks fetched at once to be held against a video.
const ABREAST: usize = 16;

/// What is to be finished.
#[derive(Clone, Debug)]
pub struct Take {
    /// Its chunks.
    pub key: TakeKey,
    /// The video's name without extension.
    pub video_name: String,
    /// What becomes of gaps.
    pub gap_mode: GapMode,
    /// OpenVidu's view of the recording, for a folder in which OpenVidu wrote none.
    pub recording_json: Option<Value>,
}

/// What is done about a chunk that the system does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// No video is made without it: it may be read later.
    Refuse,
    /// It becomes a gap that says so, and the store is not told that the video is finished.
    LeaveOut,
}

/// A take that became a video.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The video.
    pub video: PathBuf,
    /// What it is made from, where that is known.
    pub timeline: Option<Timeline>,
    /// Chunks that could not be used in full, and why.
    pub faults: Vec<String>,
    /// Whether one of them is a chunk that the system did not read: the video lacks what may be read later.
    pub lacks_unread: bool,
}

/// Why a take could not be finished or cleared.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Nothing that could be shown is left of it.
    #[error("take {0} has no usable video data")]
    Nothing(TakeKey),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its chunks, or the disk.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The files beside the video.
    #[error(transparent)]
    Beside(#[from] BesideError),
    /// A chunk that the system does not read, here or from the store.
    #[error("chunk {key} cannot be read: {cause}; \"ov2-ha-recorder recover {}\" makes the video without it", key.take.recording)]
    Unread {
        /// Which.
        key: ChunkKey,
        /// What the system said.
        cause: String,
    },
    /// A task that did not come to its end.
    #[error("the work was cut short ({0}); it is taken up again at the next start")]
    CutShort(String),
}

impl TakeError {
    pub(super) const fn is_unread(&self) -> bool {
        matches!(self, Self::Unread { .. })
    }
}

/// Work on takes in a store, with videos below a folder.
#[derive(Clone, Copy)]
pub struct Takes<'a> {
    /// Where the chunks are.
    pub store: &'a dyn ChunkStore,
    /// OpenVidu's recordings folder.
    pub recordings: &'a Path,
    /// `CHUNK_FOLDER`.
    pub chunk_folder: &'a str,
    /// Who owns the blocking work.
    pub tasks: &'a Tasks,
}

impl Takes<'_> {
    /// Every take with chunks in the store.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn all(&self) -> Result<Vec<StoredTake>, StoreError> {
        let mut found = takes(self.store, self.chunk_folder).await?;
        found.retain(|take| !take.chunks.is_empty());
        Ok(found)
    }

    /// What the store's manifest says of a take.
    ///
    /// # Errors
    /// When the store does not answer, or the manifest cannot be used.
    pub async fn take(&self, stored: &StoredTake) -> Result<Take, StoreError> {
        let key = stored.key.clone();
        Ok(match stored.manifest(self.store).await? {
            Some(manifest) => Take {
                key,
                video_name: manifest.video_name,
                gap_mode: manifest.gap_mode,
                recording_json: manifest.recording_json,
            },
            None => Take {
                video_name: key.recording.to_string(),
                key,
                gap_mode: GapMode::Cut,
                recording_json: None,
            },
        })
    }

    /// Whether the take's video is here, and finished.
    ///
    /// # Errors
    /// [`TakeError::CutShort`].
    pub async fn has_video(&self, take: &Take) -> Result<bool, TakeError> {
        let video = self.video(take);
        self.blocking("look at a video", move || {
            Ok(join::verify(&video, &[]).is_ok())
        })
        .await
    }

    /// Makes the take's video of what recorders left here and what is in the store, and lays beside it what belongs there.
    /// Harmless when it is finished already. `unread` says what becomes of chunks that cannot be read, `progress` is told the
    /// bytes of every chunk that is done.
    ///
    /// # Errors
    /// See [`TakeError`]; what was there before stays, here and in the store.
    pub async fn finish(
        &self,
        take: &Take,
        unread: Unread,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Recovered, TakeError> {
        let chunks = self.chunks(take).await?;
        if chunks.is_empty() && !tasks::block(|| self.video(take).is_file()) {
            return Err(self.nothing(take));
        }
        let beside = self.beside(take);
        tasks::block(|| beside.begin(take.recording_json.as_ref()))?;
        let recovered = match self.grow(take, &chunks, unread, progress).await {
            Err(TakeError::Join(cause)) if chunks.is_empty() => self.keep(take, &cause),
            Err(TakeError::Join(cause)) => {
                warn!(take:% = take.key; "the video is joined anew: {cause}");
                match self.join_anew(take, &chunks, unread).await {
                    // What lies at the video's path may hold more than the chunks do, and could not be taken up now.
                    Err(TakeError::Nothing(_)) if self.holds_bytes(take) => {
                        return Err(cause.into());
                    }
                    joined => joined?,
                }
            }
            // Some of them belong before the end of what lies at the video's path.
            Ok(None) => self.join_anew(take, &chunks, unread).await?,
            Ok(Some(recovered)) => recovered,
            Err(cause) => return Err(cause),
        };
        let timeline = recovered.timeline.as_ref();
        beside.complete(&recovered.video, timeline).await?;
        if let Some(timeline) = timeline.filter(|_| !recovered.lacks_unread) {
            self.mark_finished(take, timeline).await;
        }
        Ok(recovered)
    }

    /// Chunk after chunk, so that no more than one lies on this disk beside the video. `None` when a chunk belongs
    /// before what the video holds, as one may that was left out.
    async fn grow(
        &self,
        take: &Take,
        chunks: &[Chunk],
        unread: Unread,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Option<Recovered>, TakeError> {
        let (path, options) = (self.video(take), take.options());
        let open = move || GrowingFile::open(path, options);
        let mut file = self.blocking("open a video", open).await?;
        // Of a chunk that was left out the video may have the beginning.
        if !chunks.is_empty() && file.timeline().is_some_and(|it| it.lacks_unread()) {
            return Ok(None);
        }
        let mut faults = Faults::default();
        for chunk in chunks {
            let (grown, caught_up) = self.take_in(file, chunk).await?;
            file = grown;
            if caught_up.late {
                return Ok(None);
            }
            if faults.note(&chunk.key, caught_up.fault, unread)? {
                file.explain(UNREAD);
            }
            progress(chunk.bytes);
        }
        let finish = move || file.finish();
        let finished = self.blocking("finish a video", finish).await?;
        Ok(Some(
            faults.recovered(finished.video, Some(finished.timeline)),
        ))
    }

    /// What the video misses of the chunk: of the file here, and of the store's where the system does not read the one here.
    async fn take_in(
        &self,
        file: GrowingFile,
        chunk: &Chunk,
    ) -> Result<(GrowingFile, CaughtUp), TakeError> {
        let grown = self.catch_up(file, self.bring(chunk).await?).await?;
        let is_unread = grown.1.fault.as_ref().is_some_and(ChunkFault::is_unread);
        if !chunk.is_stored_too || !is_unread {
            return Ok(grown);
        }
        let stored = self.fetch(&chunk.key).await?;
        self.catch_up(grown.0, stored).await
    }

    async fn catch_up(
        &self,
        mut file: GrowingFile,
        brought: Brought,
    ) -> Result<(GrowingFile, CaughtUp), TakeError> {
        let source = brought.source.clone();
        let take_in = move || {
            let caught_up = file.catch_up_one(source)?;
            Ok((file, caught_up))
        };
        self.blocking("join a chunk", take_in).await
    }

    async fn join_anew(
        &self,
        take: &Take,
        chunks: &[Chunk],
        unread: Unread,
    ) -> Result<Recovered, TakeError> {
        let mut brought = self.bring_all(chunks).await?;
        let there = self.timeline_here(take).await?;
        let mut lacks_some = there.is_some_and(|it| has_others(&it, chunks));
        for (brought, chunk) in brought.iter_mut().zip(chunks) {
            // Before anything takes the place of the video that is there.
            match self.read_through(brought).await {
                Ok(()) => {}
                Err(_) if chunk.is_stored_too => *brought = self.fetch(&chunk.key).await?,
                Err(_) if unread == Unread::LeaveOut => lacks_some = true,
                Err(cause) => {
                    let key = chunk.key.clone();
                    return Err(TakeError::Unread { key, cause });
                }
            }
        }
        if lacks_some {
            tasks::block(|| self.keep_beside(take))?;
        }
        let (sources, path, options) = (sources(&brought), self.video(take), take.options());
        let join = move || join::join_chunks(&sources, &path, options, &mut |_| {});
        let joined = match self.blocking("join a take", join).await {
            Err(TakeError::Join(JoinError::Nothing { .. })) => return Err(self.nothing(take)),
            joined => joined?,
        };
        let mut faults = Faults::default();
        for caught_up in joined.chunks {
            let source = &caught_up.source;
            let key = take.key.chunk(source.run, source.index);
            faults.note(&key, caught_up.fault, unread)?;
        }
        Ok(faults.recovered(joined.video, joined.timeline))
    }

    /// What the video that is there was made from, where it says so.
    async fn timeline_here(&self, take: &Take) -> Result<Option<Timeline>, TakeError> {
        let video = self.video(take);
        let look = move || Ok(join::timeline_of(&video).ok());
        self.blocking("look at a video", look).await
    }

    /// The video that is there may have what its chunks do not give any more: it stays under another name, the first of them
    /// where that is done more than once.
    fn keep_beside(&self, take: &Take) -> Result<(), JoinError> {
        let video = self.video(take);
        let name = format!("{}.mp4.before-{}", take.video_name, take.key.take);
        let beside = video.with_file_name(&name);
        if beside.exists() || !video.exists() {
            return Ok(());
        }
        // Some network file systems have no links.
        let kept = fs::hard_link(&video, &beside).or_else(|_| fs::copy(&video, &beside).map(drop));
        kept.map_err(|cause| JoinError::Io {
            act: "keep the video of before as",
            path: beside,
            cause,
        })?;
        warn!(take:% = take.key; "the video of before is kept as {name}: it may have what cannot be read any more");
        Ok(())
    }

    /// Whether the system reads the chunk to its end.
    async fn read_through(&self, brought: &Brought) -> Result<(), String> {
        let path = brought.source.path.clone();
        let read = move || {
            let read = File::open(&path).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
            Ok(read.map(drop).map_err(|cause| cause.to_string()))
        };
        let read = self.blocking("read a chunk", read).await;
        read.map_err(|cause| cause.to_string())?
    }

    /// Nothing is left of it, as far as its folder can be read.
    fn nothing(&self, take: &Take) -> TakeError {
        let here = tasks::block(|| self.chunks_here(take));
        here.err()
            .unwrap_or_else(|| TakeError::Nothing(take.key.clone()))
    }

    /// Whether something lies at the video's path, as far as that can be seen.
    fn holds_bytes(&self, take: &Take) -> bool {
        match tasks::block(|| fs::metadata(self.video(take))) {
            Ok(file) => file.len() > 0,
            Err(cause) => cause.kind() != io::ErrorKind::NotFound,
        }
    }

    /// With no chunk left, the video that is there is all there is.
    fn keep(&self, take: &Take, cause: &JoinError) -> Recovered {
        warn!(take:% = take.key; "the video stays as it is: {cause}");
        Recovered {
            video: self.video(take),
            timeline: None,
            faults: Vec::new(),
            lacks_unread: false,
        }
    }

    /// Tells the store, so that nobody makes the video again.
    async fn mark_finished(&self, take: &Take, timeline: &Timeline) {
        let timeline = serde_json::to_vec_pretty(timeline).unwrap_or_default();
        let mark = take.key.finished();
        if let Err(cause) = self.store.put_bytes(&mark, timeline.into()).await {
            warn!(take:% = take.key; "the store was not told that the video is finished: {cause}");
        }
    }

    /// Deletes the take's chunks, here and in the store, once its video is verified to hold every one of them; answers how
    /// many there were.
    ///
    /// # Errors
    /// [`JoinError::Differs`] when the video does not hold them; nothing was deleted then.
    pub async fn clear(&self, take: &Take) -> Result<usize, TakeError> {
        let chunks = self.chunks(take).await?;
        for group in chunks.chunks(ABREAST) {
            let brought = self.bring_all(group).await?;
            let (sources, video) = (sources(&brought), self.video(take));
            let verify = move || join::verify(&video, &sources);
            self.blocking("verify a video", verify).await?;
        }
        if !chunks.is_empty() {
            self.store.delete(&take.key.to_string()).await?;
            tasks::block(|| self.delete_local(take));
        }
        Ok(chunks.len())
    }

    /// The take's folder among the recordings, and those above it that are empty then.
    fn delete_local(&self, take: &Take) {
        let local = self.local(take);
        // What the store deleted is gone already, and a folder that is not empty stays.
        let _ = fs::remove_dir_all(&local);
        disk::prune(disk::parent(&local), self.recordings);
    }

    /// The video's path.
    pub fn video(&self, take: &Take) -> PathBuf {
        self.beside(take).video(&take.video_name)
    }

    fn beside(&self, take: &Take) -> Beside {
        Beside::new(self.recordings, &take.key.recording)
    }

    /// Where the take's chunks lie on this machine.
    fn local(&self, take: &Take) -> PathBuf {
        self.recordings.join(take.key.to_string())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T, JoinError> + Send + 'static,
    ) -> Result<T, TakeError> {
        let done = self.tasks.spawn_blocking(name, work).await;
        Ok(done.map_err(|cause| TakeError::CutShort(cause.to_string()))??)
    }
}

/// Whether a video was made from others than these chunks, too.
fn has_others(video: &Timeline, chunks: &[Chunk]) -> bool {
    let is_here = |run, index| {
        let mut keys = chunks.iter().map(|chunk| &chunk.key);
        keys.any(|key| key.run == run && key.index == index)
    };
    let mut runs = video.runs.iter();
    runs.any(|run| run.chunks.iter().any(|it| !is_here(run.run, it.index)))
}

impl Take {
    fn options(&self) -> Options {
        Options {
            recording: self.key.recording.clone(),
            take: self.key.take.clone(),
            gap_mode: self.gap_mode,
        }
    }
}
