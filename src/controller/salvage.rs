//! Finishing a take without a recorder: what its runs left, in the recordings folder or in the chunk store, becomes the
//! video at OpenVidu's path, with everything that OpenVidu expects beside it. Nothing is deleted here.

use crate::join::beside::{Beside, BesideError};
use crate::join::{self, ChunkSource, GrowingFile, JoinError, Options};
use crate::model::chunk::{ChunkKey, TakeKey};
use crate::model::timeline::{GapMode, Timeline};
use crate::store::{ChunkStore, StoreError};
use crate::tasks::Tasks;
use log::{info, warn};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

/// What is to be finished.
#[derive(Clone, Debug)]
pub struct Take {
    /// Its chunks.
    pub key: TakeKey,
    /// OpenVidu's recordings folder.
    pub recordings: PathBuf,
    /// The video's name without extension.
    pub video_name: String,
    /// What becomes of gaps.
    pub gap_mode: GapMode,
}

/// A take that was finished.
#[derive(Clone, Debug)]
pub struct Salvaged {
    /// The video.
    pub video: PathBuf,
    /// What it is made from, where that is known.
    pub timeline: Option<Timeline>,
}

/// Why a take could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// Nothing that could be shown is left of it.
    #[error("nothing is left of take {0} that could be shown")]
    Nothing(TakeKey),
    /// Its chunks cannot be read from the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The video cannot be made.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Something cannot be written beside the video.
    #[error(transparent)]
    Beside(#[from] BesideError),
    /// The work was cut short.
    #[error("finishing take {0} was cut short; it is taken up again at the next start")]
    CutShort(TakeKey),
}

impl Take {
    /// Finishes the take. Harmless when it is finished already.
    ///
    /// # Errors
    /// See [`SalvageError`]; what was there before stays.
    pub async fn finish(
        &self,
        store: &Arc<dyn ChunkStore>,
        tasks: &Tasks,
    ) -> Result<Salvaged, SalvageError> {
        let chunks = self.chunks(store).await?;
        info!(session:% = self.key.recording, chunks = chunks.len(); "the video is finished by the controller");
        let take = self.clone();
        let work = tasks.spawn_blocking(format!("join {}", self.key), move || take.join(&chunks));
        let salvaged = work
            .await
            .map_err(|_| SalvageError::CutShort(self.key.clone()))??;
        let timeline = salvaged.timeline.as_ref();
        self.beside().complete(&salvaged.video, timeline).await?;
        Ok(salvaged)
    }

    /// The video's path.
    pub fn video(&self) -> PathBuf {
        self.beside().video(&self.video_name)
    }

    /// The recording's folder and what lies in it.
    pub fn beside(&self) -> Beside {
        Beside::new(&self.recordings, &self.key.recording)
    }

    /// Where the take's chunks lie on this machine.
    pub fn local(&self) -> PathBuf {
        self.recordings.join(self.key.to_string())
    }

    /// Every chunk of the take: the local file, or the stored object where that is all there is or holds more.
    pub async fn chunks(
        &self,
        store: &Arc<dyn ChunkStore>,
    ) -> Result<Vec<ChunkSource>, SalvageError> {
        let local = self.local();
        let mut chunks = BTreeMap::new();
        // No folder, or nothing in it, is not wrong: then the store has everything.
        for chunk in join::find_chunks(&local).unwrap_or_default() {
            chunks.insert(chunk.origin(), chunk);
        }
        for object in store.list(&self.key.to_string()).await? {
            let Some(key) = ChunkKey::parse(&self.key, &object.key) else {
                continue;
            };
            let path = local.join(format!("r{}", key.run)).join(key.file_name());
            let here = fs::metadata(&path).map_or(0, |file| file.len());
            if here < object.bytes {
                store.fetch(&object.key, &path).await?;
            }
            let chunk = ChunkSource {
                run: key.run,
                index: key.index,
                path,
            };
            chunks.insert(chunk.origin(), chunk);
        }
        Ok(chunks.into_values().collect())
    }

    fn join(&self, chunks: &[ChunkSource]) -> Result<Salvaged, SalvageError> {
        let video = self.video();
        match self.grow(chunks) {
            Err(cause) if chunks.is_empty() && video.is_file() => {
                warn!(session:% = self.key.recording; "the video stays as it is: {cause}");
                let timeline = None;
                Ok(Salvaged { video, timeline })
            }
            Err(_) if chunks.is_empty() => Err(SalvageError::Nothing(self.key.clone())),
            Err(cause) => {
                warn!(session:% = self.key.recording; "the video is joined anew: {cause}");
                self.join_anew(chunks)
            }
            grown => grown,
        }
    }

    /// Goes on with what the last recorder left at the video's path.
    fn grow(&self, chunks: &[ChunkSource]) -> Result<Salvaged, SalvageError> {
        let mut file = GrowingFile::open(self.video(), self.options())?;
        let reports = file.catch_up(chunks)?;
        if reports.iter().any(|report| report.late) {
            return self.join_anew(chunks);
        }
        let finished = file.finish()?;
        Ok(Salvaged {
            video: finished.video,
            timeline: Some(finished.timeline),
        })
    }

    fn join_anew(&self, chunks: &[ChunkSource]) -> Result<Salvaged, SalvageError> {
        let joined = join::join_chunks(chunks, &self.video(), self.options(), &mut |_| {})?;
        Ok(Salvaged {
            video: joined.video,
            timeline: joined.timeline,
        })
    }

    fn options(&self) -> Options {
        Options {
            recording: self.key.recording.clone(),
            take: self.key.take.clone(),
            gap_mode: self.gap_mode,
        }
    }
}
