//! Where chunks are kept: a closed chunk comes in, a stored object goes out. Two kinds, a folder and an S3 bucket, behind
//! one trait and one conformance suite. A reader never sees half an object.

pub mod local;
pub mod s3;

use async_trait::async_trait;
use bytes::Bytes;
use std::path::Path;

/// An object in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key below the store's root, such as [`ChunkKey`](crate::model::chunk::ChunkKey) writes it.
    pub key: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{key} is not in the store")]
    NotFound {
        /// The object that was asked for.
        key: String,
    },
    /// The store refuses us: wrong credentials or missing rights.
    #[error("the store refused to {act}: {cause}")]
    Refused {
        /// What was attempted, as a verb and its object.
        act: String,
        /// What the store said, without secrets.
        cause: String,
    },
    /// No room left.
    #[error("the store is full: {act}: {cause}")]
    Full {
        /// What was attempted.
        act: String,
        /// What the system said.
        cause: String,
    },
    /// The store does not answer as it should; trying again may help.
    #[error("cannot {act}: {cause}")]
    Unavailable {
        /// What was attempted.
        act: String,
        /// What went wrong, without secrets.
        cause: String,
    },
    /// The key or a setting is not one the store can take.
    #[error("cannot {act}: {cause}")]
    Invalid {
        /// What was attempted.
        act: String,
        /// What is wrong with it.
        cause: String,
    },
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Full { .. })
    }
}

/// A place for chunks. Keys are relative, with `/` between segments; a prefix counts whole segments only, so that
/// `rec1` never touches `rec10`.
#[async_trait]
pub trait ChunkStore: Send + Sync + 'static {
    /// Stores the file at `path` under `key`, replacing what was there, and answers when it is durable.
    ///
    /// # Errors
    /// See [`StoreError`]; on an error a reader sees what was there before.
    async fn put(&self, key: &str, path: &Path) -> Result<(), StoreError>;

    /// Stores a few bytes under `key`, replacing what was there.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn put_bytes(&self, key: &str, body: Bytes) -> Result<(), StoreError>;

    /// Copies the object to the new file `to` and answers its size.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is not there.
    async fn fetch(&self, key: &str, to: &Path) -> Result<u64, StoreError>;

    /// Reads a small object whole.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is not there.
    async fn read(&self, key: &str) -> Result<Bytes, StoreError>;

    /// Every object below the folder `prefix` (empty: all), in the order of their keys' bytes.
    ///
    /// # Errors
    /// See [`StoreError`]. A prefix without objects is an empty list.
    async fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError>;

    /// Deletes every object below the folder `prefix` and answers how many there were.
    ///
    /// # Errors
    /// See [`StoreError`]; what was deleted by then stays deleted.
    async fn delete(&self, prefix: &str) -> Result<usize, StoreError>;

    /// Tries whether the store can be used, and explains what is wrong.
    ///
    /// # Errors
    /// A [`StoreError`] that says what to do.
    async fn probe(&self) -> Result<(), StoreError>;
}
