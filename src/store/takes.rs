//! What recordings the store knows: takes found by their keys alone, for whoever has nothing but the store.

use super::{ChunkStore, Object, StoreError};
use crate::model::chunk::{ChunkKey, TakeKey};
use crate::model::ids::{RecordingId, TakeId};
use crate::model::manifest::Manifest;
use std::collections::BTreeMap;

/// A take as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTake {
    /// Which.
    pub key: TakeKey,
    /// Its chunks and their sizes, in order.
    pub chunks: Vec<(ChunkKey, u64)>,
    /// Whether the store was told that its video is finished.
    pub finished: bool,
}

impl StoredTake {
    /// The bytes of its chunks.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Reads its manifest; `None` when it has none.
    ///
    /// # Errors
    /// When the store does not answer, or the manifest cannot be used.
    pub async fn manifest(&self, store: &dyn ChunkStore) -> Result<Option<Manifest>, StoreError> {
        let key = self.key.manifest();
        let text = match store.read(&key).await {
            Ok(text) => text,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(cause) => return Err(cause),
        };
        let manifest = Manifest::parse(&self.key, &text).map_err(|cause| StoreError::Invalid {
            act: format!("finish take {} of {}", self.key.take, self.key.recording),
            cause,
        })?;
        Ok(Some(manifest))
    }
}

/// Every take in the store whose chunks lie in folders named `folder`.
///
/// # Errors
/// When the store cannot be listed.
pub async fn takes(store: &dyn ChunkStore, folder: &str) -> Result<Vec<StoredTake>, StoreError> {
    Ok(sort(&store.list("").await?, folder))
}

fn sort(objects: &[Object], folder: &str) -> Vec<StoredTake> {
    let mut found = BTreeMap::new();
    for object in objects {
        let Some(key) = take_of(&object.key, folder) else {
            continue;
        };
        let take = found.entry(key.clone()).or_insert_with(|| StoredTake {
            key: key.clone(),
            chunks: Vec::new(),
            finished: false,
        });
        if object.key == key.finished() {
            take.finished = true;
        } else if let Some(chunk) = ChunkKey::parse(&key, &object.key) {
            take.chunks.push((chunk, object.bytes));
        }
    }
    let mut takes: Vec<_> = found.into_values().collect();
    for take in &mut takes {
        take.chunks
            .sort_by_key(|(chunk, _)| (chunk.run, chunk.index));
    }
    takes
}

fn take_of(key: &str, folder: &str) -> Option<TakeKey> {
    let (recording, rest) = key.split_once('/')?;
    let (take, _) = rest
        .strip_prefix(folder)?
        .strip_prefix('/')?
        .split_once('/')?;
    Some(TakeKey {
        recording: RecordingId::parse(recording).ok()?,
        folder: folder.to_owned(),
        take: TakeId::parse(take).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_are_found_by_their_keys_and_nothing_else_is_taken_for_one() {
        let keys = [
            "a/a.mp4",
            "a/chunks/1/manifest.json",
            "a/chunks/1/r10/0003.mp4",
            "a/chunks/1/r2/0002.mp4",
            "a/chunks/1/timeline.json",
            "a/chunks/2/r1/0001.mp4",
            "a~1/chunks/1/r1/0001.mp4",
            "a/other/3/r1/0001.mp4",
            "a/chunks/stray",
        ];
        let objects = keys.map(|key| Object {
            key: key.into(),
            bytes: 5,
        });
        let takes = sort(&objects, "chunks");
        let seen: Vec<_> = takes
            .iter()
            .map(|take| (take.key.to_string(), take.chunks.len(), take.finished))
            .collect();
        assert_eq!(
            seen,
            [
                ("a/chunks/1".to_owned(), 2, true),
                ("a/chunks/2".to_owned(), 1, false),
                ("a~1/chunks/1".to_owned(), 1, false),
            ]
        );
        assert_eq!(takes[0].chunks[0].0.run.0, 2, "runs count as numbers");
        assert_eq!(takes[0].bytes(), 10);
    }
}
