//! The chunks of a take: where each of them is, how it comes to this machine, and what is wrong with it.

use super::{Recovered, Take, TakeError, Takes, Unread};
use crate::join::{self, ChunkFault, ChunkSource, JoinError};
use crate::model::chunk::ChunkKey;
use crate::model::ids::RunNumber;
use crate::model::timeline::Timeline;
use crate::store::StoreError;
use crate::tasks;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

impl Takes<'_> {
    /// Every chunk of the take in order: the file here, or the stored object where that is all there is or holds more.
    pub(super) async fn chunks(&self, take: &Take) -> Result<Vec<Chunk>, TakeError> {
        let mut found = tasks::block(|| self.files_here(take))?;
        for object in self.store.list(&take.key.to_string()).await? {
            let Some(key) = ChunkKey::parse(&take.key, &object.key) else {
                continue;
            };
            let origin = (key.run, key.index);
            let path = self.store.path(&object.key);
            match found.get_mut(&origin) {
                Some(it) if it.bytes >= object.bytes => {
                    it.is_stored_too = it.bytes == object.bytes && it.here != path;
                }
                _ => {
                    let chunk = Chunk {
                        here: path,
                        bytes: object.bytes,
                        is_stored_too: false,
                        key,
                    };
                    found.insert(origin, chunk);
                }
            }
        }
        Ok(found.into_values().collect())
    }

    fn files_here(&self, take: &Take) -> Result<BTreeMap<(RunNumber, u32), Chunk>, TakeError> {
        let found = self.chunks_here(take)?.into_iter().map(|source| {
            let chunk = Chunk {
                key: take.key.chunk(source.run, source.index),
                bytes: fs::metadata(&source.path).map_or(0, |file| file.len()),
                here: Some(source.path),
                is_stored_too: false,
            };
            ((source.run, source.index), chunk)
        });
        Ok(found.collect())
    }

    /// No folder, or nothing in it, is not wrong: then the store has everything. What cannot be read may be what the store has
    /// not.
    pub(super) fn chunks_here(&self, take: &Take) -> Result<Vec<ChunkSource>, TakeError> {
        match join::find_chunks(&self.local(take)) {
            Err(JoinError::Io { act, path, cause }) if cause.kind() != io::ErrorKind::NotFound => {
                Err(JoinError::Io { act, path, cause }.into())
            }
            found => Ok(found.unwrap_or_default()),
        }
    }

    /// The chunk as a file on this machine.
    pub(super) async fn bring(&self, chunk: &Chunk) -> Result<Brought, StoreError> {
        match &chunk.here {
            Some(path) => Ok(Brought::new(&chunk.key, path.clone(), false)),
            None => self.fetch(&chunk.key).await,
        }
    }

    /// The chunk of the store, as a file that goes away with the answer.
    pub(super) async fn fetch(&self, key: &ChunkKey) -> Result<Brought, StoreError> {
        // In the recording's own folder: it is on the disk that has room for the video.
        let name = format!(".fetched-r{}-{}", key.run, key.file_name());
        let folder = self.recordings.join(key.take.recording.as_str());
        let path = folder.join(name);
        self.store.fetch(&key.to_string(), &path).await?;
        Ok(Brought::new(key, path, true))
    }

    pub(super) async fn bring_all(&self, chunks: &[Chunk]) -> Result<Vec<Brought>, StoreError> {
        let mut brought = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            brought.push(self.bring(chunk).await?);
        }
        Ok(brought)
    }
}

/// A chunk of a take, and where it is.
pub(super) struct Chunk {
    pub(super) key: ChunkKey,
    pub(super) bytes: u64,
    /// The file, where it is on this machine.
    here: Option<PathBuf>,
    /// Whether the store has all of it in another place.
    pub(super) is_stored_too: bool,
}

/// What is wrong with a take's chunks.
#[derive(Default)]
pub(super) struct Faults {
    told: Vec<String>,
    lacks_unread: bool,
}

impl Faults {
    /// Takes down what is wrong with a chunk; answers whether it is left out because it cannot be read.
    pub(super) fn note(
        &mut self,
        key: &ChunkKey,
        fault: Option<ChunkFault>,
        unread: Unread,
    ) -> Result<bool, TakeError> {
        let Some(fault) = fault else { return Ok(false) };
        let is_unread = fault.is_unread();
        self.lacks_unread |= is_unread;
        if is_unread && unread == Unread::Refuse {
            let (key, cause) = (key.clone(), fault.to_string());
            return Err(TakeError::Unread { key, cause });
        }
        self.told.push(format!("{key}: {fault}"));
        Ok(is_unread)
    }

    pub(super) fn recovered(self, video: PathBuf, timeline: Option<Timeline>) -> Recovered {
        Recovered {
            video,
            timeline,
            faults: self.told,
            lacks_unread: self.lacks_unread,
        }
    }
}

/// A chunk on this machine.
pub(super) struct Brought {
    pub(super) source: ChunkSource,
    fetched: bool,
}

pub(super) fn sources(brought: &[Brought]) -> Vec<ChunkSource> {
    brought.iter().map(|chunk| chunk.source.clone()).collect()
}

impl Brought {
    fn new(key: &ChunkKey, path: PathBuf, fetched: bool) -> Self {
        let source = ChunkSource {
            run: key.run,
            index: key.index,
            path,
        };
        Self { source, fetched }
    }
}

impl Drop for Brought {
    fn drop(&mut self) {
        if self.fetched {
            // What cannot be deleted is overwritten by the next one who fetches it.
            let _ = fs::remove_file(&self.source.path);
        }
    }
}
