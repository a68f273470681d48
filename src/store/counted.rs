//! Any chunk store, with its failures counted for those who watch.

use super::{ChunkStore, Object, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use std::path::{Path, PathBuf};

/// What can fail, in the words of metrics; uploads fail in recorders, which tell.
pub(crate) const OPERATIONS: [&str; 7] =
    ["put", "fetch", "read", "list", "delete", "probe", "upload"];

/// A store whose failed operations are counted.
pub(super) struct Counted<S>(pub(super) S);

fn counted<T>(op: &'static str, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
    if let Err(cause) = &outcome
        && !matches!(cause, StoreError::NotFound { .. })
    {
        metrics::counter!("ha_recorder_store_errors_total", "op" => op).increment(1);
    }
    outcome
}

#[async_trait]
impl<S: ChunkStore> ChunkStore for Counted<S> {
    async fn put(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        counted("put", self.0.put(key, path).await)
    }
    async fn put_bytes(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        counted("put", self.0.put_bytes(key, body).await)
    }
    async fn fetch(&self, key: &str, to: &Path) -> Result<u64, StoreError> {
        counted("fetch", self.0.fetch(key, to).await)
    }
    async fn read(&self, key: &str) -> Result<Bytes, StoreError> {
        counted("read", self.0.read(key).await)
    }
    async fn read_from(&self, key: &str, offset: u64) -> Result<Bytes, StoreError> {
        counted("read", self.0.read_from(key, offset).await)
    }
    async fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        counted("list", self.0.list(prefix).await)
    }
    async fn delete(&self, prefix: &str) -> Result<usize, StoreError> {
        counted("delete", self.0.delete(prefix).await)
    }
    async fn probe(&self) -> Result<(), StoreError> {
        counted("probe", self.0.probe().await)
    }
    fn path(&self, key: &str) -> Option<PathBuf> {
        self.0.path(key)
    }
}
