//! A take's log: the chunk files of its runs, written once, in order, and read by position. The recorder that writes a run
//! publishes the [`Head`] of it; whoever follows (the growing video, the upload) keeps a position of its own and reads up to
//! the head, whether the chunks lie in a folder or in a store. No time stamp says what was read and what was not.

mod follow;
mod source;
#[cfg(test)]
mod tests;

pub use follow::{Entry, Follower};
pub use source::Source;

use crate::join::Origin;
use crate::model::chunk::ChunkKey;
use crate::store::StoreError;
use std::io;
use tokio::sync::watch;

/// A place in a take's log. Runs come one after another, and so do the chunks of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The chunk.
    pub origin: Origin,
    /// Bytes from the chunk's beginning.
    pub offset: u64,
}

/// How far a run is written: the end of the last whole fragment in the chunk that is being written. `None` before the first.
pub type Head = Option<Position>;

/// Says how far a run is written; dropped when nothing will be written any more.
pub type Publisher = watch::Sender<Head>;

/// Hears how far a run is written.
pub type Heads = watch::Receiver<Head>;

/// Why a log cannot be read on from where it was.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The folder does not give a chunk.
    #[error("cannot read chunk {key}: {cause}")]
    Folder {
        /// The chunk.
        key: ChunkKey,
        /// What the system said.
        cause: io::Error,
    },
    /// The store does not give a chunk.
    #[error("cannot read chunk {key}: {cause}")]
    Store {
        /// The chunk.
        key: ChunkKey,
        /// What the store said.
        cause: StoreError,
    },
    /// The take's chunks cannot be listed.
    #[error("cannot list the chunks of {take}: {cause}")]
    List {
        /// The take's folder below the root.
        take: String,
        /// What the system or the store said.
        cause: String,
    },
}
