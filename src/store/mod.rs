//! Where chunks are kept: a closed chunk comes in, a stored object goes out. Two kinds, a folder and an S3 bucket, behind
//! one trait and one conformance suite. A reader never sees half an object.

mod abilities;
mod counted;
mod credentials;
mod dispatch;
pub mod local;
pub mod s3;
pub mod takes;

use crate::config::{Settings, Storage};
use async_trait::async_trait;
use bytes::Bytes;
use counted::Counted;
pub(crate) use counted::OPERATIONS;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Opens the store that the settings name. `recordings` is OpenVidu's recordings folder as this process sees it: the
/// root of the store in `local` mode. Nothing is asked of the store yet; [`ChunkStore::probe`] does that.
///
/// # Errors
/// [`StoreError::Invalid`] when the settings cannot make a store.
pub fn open(settings: &Settings, recordings: &Path) -> Result<Arc<dyn ChunkStore>, StoreError> {
    Ok(match settings.storage {
        Storage::Local => in_folder(recordings),
        Storage::S3 => Arc::new(Counted(s3::S3Store::new(settings)?)),
    })
}

/// The store in OpenVidu's recordings folder, for whoever cannot use the one that the settings name.
pub fn in_folder(recordings: &Path) -> Arc<dyn ChunkStore> {
    Arc::new(Counted(local::LocalStore::new(recordings)))
}

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

    /// Copies the object to the file `to`, all or nothing, and answers its size. Replaces what was there and makes missing
    /// folders.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is not there; `to` is then as it was before.
    async fn fetch(&self, key: &str, to: &Path) -> Result<u64, StoreError>;

    /// Reads a small object whole.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is not there.
    async fn read(&self, key: &str) -> Result<Bytes, StoreError>;

    /// Reads what a small object has from the byte `offset` on; nothing when it ends there or before.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is not there.
    async fn read_from(&self, key: &str, offset: u64) -> Result<Bytes, StoreError>;

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

    /// Where the object lies as a file, in a store that keeps files on this machine. Such a store needs neither uploads
    /// nor fetching, and what is written at this path is in the store.
    fn path(&self, key: &str) -> Option<PathBuf>;
}

/// Whether `key` can name an object in every kind of store; its own copy when it can.
fn check_key(key: &str) -> Result<String, StoreError> {
    let wrong = |cause: &str| {
        Err(StoreError::Invalid {
            act: format!("use the key {key:?}"),
            cause: cause.to_owned(),
        })
    };
    if key.len() > 1024 {
        return wrong("it is longer than 1024 bytes");
    }
    for part in key.split('/') {
        if matches!(part, "" | "." | "..") {
            return wrong("its segments must not be empty, \".\" or \"..\"");
        }
        if part.len() > 255 || part.starts_with(crate::disk::UNFINISHED) {
            return wrong("a segment is no file name");
        }
        if part.chars().any(|c| c.is_control() || c == '\\') {
            return wrong("it holds a control character or a backslash");
        }
    }
    Ok(key.to_owned())
}

/// The same for a folder, with or without a slash at its end; empty means everything.
fn check_prefix(prefix: &str) -> Result<String, StoreError> {
    match prefix.trim_end_matches('/') {
        "" => Ok(String::new()),
        prefix => check_key(prefix),
    }
}

/// The same for a folder that is to be deleted: never everything.
fn check_deletion(prefix: &str) -> Result<String, StoreError> {
    match check_prefix(prefix)? {
        prefix if prefix.is_empty() => Err(StoreError::Invalid {
            act: "delete everything in the store".into(),
            cause: "a deletion must name a folder".into(),
        }),
        prefix => Ok(prefix),
    }
}
