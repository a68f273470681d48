//! The chunk store's takes after their recorders: one that nobody finished becomes a video here, from the store alone
//! where it must; one that is finished leaves the store, but only when its video was held against every chunk. What
//! cannot be verified stays, and is reported.

use super::{Controller, lock};
use crate::clock::Timestamp;
use crate::join::beside::{Beside, BesideError};
use crate::join::{self, ChunkSource, Finished, GrowingFile, JoinError, Options};
use crate::model::chunk::ChunkKey;
use crate::model::ids::RecordingId;
use crate::model::manifest::Manifest;
use crate::model::timeline::{GapMode, Timeline};
use crate::store::takes::{StoredTake, takes};
use crate::store::{ChunkStore, StoreError};
use crate::tasks::Tasks;
use log::{info, warn};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// With nothing to do the store is looked through this often.
const IDLE: Duration = Duration::from_secs(3600);
/// Chunks fetched at once to be held against a video.
const ABREAST: usize = 16;

/// Why a take could not be finished or cleared.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its chunks, or the disk.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The files beside the video.
    #[error(transparent)]
    Beside(#[from] BesideError),
    /// A task that did not come to its end.
    #[error("the work was cut off: {0}")]
    CutOff(String),
}

/// A take that became a video.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The video and its timeline.
    pub finished: Finished,
    /// Chunks that could not be used in full, and why.
    pub faults: Vec<String>,
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

    /// Whether the take's video is finished, here or as far as the store was told.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn is_finished(&self, take: &StoredTake) -> Result<bool, TakeError> {
        if take.finished {
            return Ok(true);
        }
        let video = self.video(take, take.manifest(self.store).await?.as_ref());
        self.blocking("look at a video", move || {
            Ok(join::verify(&video, &[]).is_ok())
        })
        .await
    }

    /// Makes the take's video of what is in the store and what a recorder left here, and lays beside it what belongs
    /// there. `progress` is told the bytes of every chunk that is done.
    ///
    /// # Errors
    /// When nothing of it can be shown, or store or disk refuse. What is in the store stays there.
    pub async fn finish(
        &self,
        take: &StoredTake,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Recovered, TakeError> {
        let manifest = take.manifest(self.store).await?;
        let video = self.video(take, manifest.as_ref());
        let options = Options {
            recording: take.key.recording.clone(),
            take: take.key.take.clone(),
            gap_mode: manifest.as_ref().map_or(GapMode::Cut, |m| m.gap_mode),
        };
        let beside = Beside::new(self.recordings, &take.key.recording);
        let json = manifest.as_ref().and_then(|m| m.recording_json.as_ref());
        beside.begin(json)?;
        let grown = self.grow(take, &video, &options, progress).await?;
        let recovered = match grown {
            Some(recovered) => recovered,
            // What a recorder left here begins after what the store has: all of it, anew.
            None => self.join_anew(take, &video, options).await?,
        };
        let Finished {
            video, timeline, ..
        } = &recovered.finished;
        beside.complete(video, Some(timeline)).await?;
        let timeline = serde_json::to_vec_pretty(timeline);
        let mark = take.key.finished();
        self.store
            .put_bytes(&mark, timeline.unwrap_or_default().into())
            .await?;
        Ok(recovered)
    }

    /// Chunk after chunk, so that no more than one lies on this disk beside the video. `None` when a chunk belongs
    /// before what the video holds.
    async fn grow(
        &self,
        take: &StoredTake,
        video: &Path,
        options: &Options,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Option<Recovered>, TakeError> {
        let (path, options) = (video.to_owned(), options.clone());
        let open = move || GrowingFile::open(path, options);
        let mut file = self.blocking("open a video", open).await?;
        let mut faults = Vec::new();
        for (key, bytes) in &take.chunks {
            let chunk = self.bring(key).await?;
            let source = chunk.source.clone();
            let take_in = move || {
                let caught_up = file.catch_up(&[source])?;
                Ok((file, caught_up))
            };
            let (grown, caught_up) = self.blocking("join a chunk", take_in).await?;
            file = grown;
            if caught_up.iter().any(|chunk| chunk.late) {
                return Ok(None);
            }
            let broken = caught_up.into_iter().filter_map(|chunk| chunk.fault);
            faults.extend(broken.map(|fault| format!("{key}: {fault}")));
            progress(*bytes);
        }
        let finish = move || file.finish();
        let finished = self.blocking("finish a video", finish).await?;
        Ok(Some(Recovered { finished, faults }))
    }

    async fn join_anew(
        &self,
        take: &StoredTake,
        video: &Path,
        options: Options,
    ) -> Result<Recovered, TakeError> {
        let mut chunks = Vec::new();
        for (key, _) in &take.chunks {
            chunks.push(self.bring(key).await?);
        }
        let sources: Vec<_> = chunks.iter().map(|chunk| chunk.source.clone()).collect();
        let path = video.to_owned();
        let work = move || {
            let joined = join::join_chunks(&sources, &path, options.clone(), &mut |_| {})?;
            let faults = joined.chunks.into_iter().filter_map(|chunk| chunk.fault);
            let finished = GrowingFile::open(path, options)?.finish()?;
            Ok((finished, faults.collect()))
        };
        let (finished, faults) = self.blocking("join a take", work).await?;
        drop(chunks);
        Ok(Recovered { finished, faults })
    }

    /// Deletes the take from the store once its video is verified to hold every chunk of it; answers how many objects.
    ///
    /// # Errors
    /// [`JoinError::Differs`] when the video does not hold them; nothing was deleted then.
    pub async fn clear(&self, take: &StoredTake) -> Result<usize, TakeError> {
        let video = self.video(take, take.manifest(self.store).await?.as_ref());
        for group in take.chunks.chunks(ABREAST) {
            let mut chunks = Vec::new();
            for (key, _) in group {
                chunks.push(self.bring(key).await?);
            }
            let sources: Vec<_> = chunks.iter().map(|chunk| chunk.source.clone()).collect();
            let video = video.clone();
            let verify = move || join::verify(&video, &sources);
            self.blocking("verify a video", verify).await?;
        }
        Ok(self.store.delete(&take.key.to_string()).await?)
    }

    fn video(&self, take: &StoredTake, manifest: Option<&Manifest>) -> PathBuf {
        let recording = &take.key.recording;
        let name = manifest.map_or(recording.as_str(), |manifest| &manifest.video_name);
        Beside::new(self.recordings, recording).video(name)
    }

    /// The chunk as a file on this machine; one that had to be fetched goes away with the answer.
    async fn bring(&self, key: &ChunkKey) -> Result<Brought, StoreError> {
        let source = |path| ChunkSource {
            run: key.run,
            index: key.index,
            path,
        };
        let text = key.to_string();
        if let Some(path) = self.store.path(&text) {
            return Ok(Brought {
                source: source(path),
                fetched: false,
            });
        }
        // In the recording's own folder: it is on the disk that has room for the video.
        let name = format!(".fetched-r{}-{}", key.run, key.file_name());
        let path = self.recordings.join(key.take.recording.as_str()).join(name);
        self.store.fetch(&text, &path).await?;
        Ok(Brought {
            source: source(path),
            fetched: true,
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T, JoinError> + Send + 'static,
    ) -> Result<T, TakeError> {
        let done = self.tasks.spawn_blocking(name, work).await;
        Ok(done.map_err(|cause| TakeError::CutOff(cause.to_string()))??)
    }
}

/// A chunk on this machine.
struct Brought {
    source: ChunkSource,
    fetched: bool,
}

impl Drop for Brought {
    fn drop(&mut self) {
        if self.fetched {
            // What cannot be deleted is overwritten by the next one who fetches it.
            let _ = std::fs::remove_file(&self.source.path);
        }
    }
}

/// What the controller remembers between two looks through the store.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// When there will be something to do, as far as is known; `None` before the first look.
    next: Option<Timestamp>,
    /// Takes that nobody finished: their bytes, and since when these have not grown.
    quiet: BTreeMap<String, (u64, Timestamp)>,
}

impl Controller {
    /// Looks through the chunk store when there is a reason to: finishes takes that nobody records and nobody will, and
    /// clears finished ones.
    pub(super) async fn sweep_store(&self, something_ended: bool) {
        let now = self.0.clock.now();
        let next = lock(&self.0.sweep).next;
        if !something_ended && next.is_some_and(|at| now < at) {
            return;
        }
        let found = match self.takes().all().await {
            Ok(found) => found,
            Err(cause) => return warn!("the chunk store was not looked through: {cause}"),
        };
        let mut next = now.plus(IDLE);
        let mut quiet = BTreeMap::new();
        for take in found.iter().filter(|take| self.is_free(take)) {
            match self.takes().is_finished(take).await {
                Ok(true) => match self.kept_until(take).await {
                    Some(at) if now < at => next = next.min(at),
                    _ => self.clear_take(take).await,
                },
                Ok(false) => {
                    next = now;
                    let since = self.watch_take(take, now);
                    if now.since(since) < self.patience() || !self.finish_take(take).await {
                        quiet.insert(take.key.to_string(), (take.bytes(), since));
                    }
                }
                Err(cause) => warn!(take:% = take.key; "{cause}"),
            }
        }
        let mut sweep = lock(&self.0.sweep);
        sweep.next = Some(next);
        sweep.quiet = quiet;
    }

    fn takes(&self) -> Takes<'_> {
        Takes {
            store: &*self.0.store,
            recordings: &self.0.settings.recording_path,
            chunk_folder: &self.0.settings.chunk_folder.0,
            tasks: &self.0.tasks,
        }
    }

    /// Whether no session looks after the take; one that does concludes it, and clears it in the end.
    fn is_free(&self, take: &StoredTake) -> bool {
        let session = self.session(&take.key.recording);
        session.is_none_or(|session| session.take.is_some_and(|t| t != take.key.take))
    }

    /// Longer than a recorder that lives could be silent, also one that still looks for its controller.
    fn patience(&self) -> Duration {
        let settings = &self.0.settings;
        (settings.heartbeat_timeout() + settings.stuck_timeout()) * 2
    }

    /// Since when the take has not grown.
    fn watch_take(&self, take: &StoredTake, now: Timestamp) -> Timestamp {
        match lock(&self.0.sweep).quiet.get(&take.key.to_string()) {
            Some((bytes, since)) if *bytes == take.bytes() => *since,
            _ => now,
        }
    }

    async fn finish_take(&self, take: &StoredTake) -> bool {
        info!(take:% = take.key, chunks = take.chunks.len(); "nobody finishes this take; its video is made from the store");
        match self.takes().finish(take, &mut |_| {}).await {
            Ok(recovered) => {
                let seconds = recovered.finished.duration.as_secs_f64();
                info!(take:% = take.key, seconds = seconds; "the video is finished");
                for fault in recovered.faults {
                    warn!(take:% = take.key; "{fault}");
                }
                true
            }
            Err(cause) => {
                warn!(take:% = take.key; "the video was not made: {cause}");
                false
            }
        }
    }

    /// Deletes a finished take's chunks when the video holds them.
    async fn clear_take(&self, take: &StoredTake) {
        if !self.0.settings.s3_cleanup.0 {
            return;
        }
        let recording: &RecordingId = &take.key.recording;
        match self.takes().clear(take).await {
            Ok(objects) => {
                lock(&self.0.unverified).remove(recording);
                info!(take:% = take.key, objects = objects; "the video holds every chunk; they leave the store");
            }
            Err(cause) => {
                if lock(&self.0.unverified).insert(recording.clone()) {
                    warn!(take:% = take.key; "chunks stay in the store, no video was verified to hold them: {cause}");
                }
            }
        }
    }

    /// Until when a finished take's chunks stay; `None` when it is not known when it ended.
    async fn kept_until(&self, take: &StoredTake) -> Option<Timestamp> {
        let text = self.0.store.read(&take.key.finished()).await.ok()?;
        let timeline: Timeline = serde_json::from_slice(&text).ok()?;
        let settings = &self.0.settings;
        let days = Duration::from_secs(settings.keep_chunks_days.saturating_mul(24 * 3600));
        let kept = days.max(settings.session_max_inactive_seconds.seconds());
        Some(timeline.ended_at.plus(kept))
    }
}
