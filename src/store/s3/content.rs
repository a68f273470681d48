//! What goes to the bucket and what comes from it: bytes in memory, or a file and a part of one.

use super::super::StoreError;
use super::faults::{unavailable, unreadable};
use crate::tasks::Tasks;
use bytes::Bytes;
use futures_util::stream;
use md5::{Digest, Md5};
use rusoto_core::ByteStream;
use std::fs::File;
use std::future::Future;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

const BLOCK: usize = 256 << 10;

/// What an upload carries.
pub(super) enum Content {
    Memory(Bytes),
    File {
        path: PathBuf,
        from: u64,
        bytes: u64,
    },
}

impl Content {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Memory(body) => body.len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }

    /// All of the file at `path`.
    pub(super) fn whole(path: &Path, bytes: u64) -> Self {
        Self::File {
            path: path.to_owned(),
            from: 0,
            bytes,
        }
    }

    /// The MD5 of the content.
    pub(super) async fn digest(&self, tasks: &Tasks, act: String) -> Result<[u8; 16], StoreError> {
        let (path, from, bytes) = match self {
            Self::Memory(body) => return Ok(Md5::digest(body).into()),
            Self::File { path, from, bytes } => (path.clone(), *from, *bytes),
        };
        let hashed = tasks
            .spawn_blocking("hash a chunk", move || {
                hash(&path, from, bytes).map_err(|cause| (path, cause))
            })
            .await
            .map_err(|cause| unavailable(act.clone(), &cause.to_string()))?;
        hashed.map_err(|(path, cause)| unreadable(act, &path, &cause))
    }

    /// The MD5 of the content, and a stream of it. A file is read twice rather than held in memory.
    pub(super) async fn open(
        &self,
        tasks: &Tasks,
        act: String,
    ) -> Result<([u8; 16], ByteStream), StoreError> {
        let digest = self.digest(tasks, act.clone()).await?;
        let body = match self {
            Self::Memory(body) => {
                let (body, bytes) = (body.clone(), body.len());
                ByteStream::new_with_size(stream::once(async move { Ok(body) }), bytes)
            }
            Self::File { path, from, bytes } => {
                let file = open_at(path, *from).await;
                let file = file.map_err(|cause| unreadable(act, path, &cause))?;
                let blocks = ReaderStream::with_capacity(file.take(*bytes), BLOCK);
                ByteStream::new_with_size(blocks, *bytes as usize)
            }
        };
        Ok((digest, body))
    }
}

async fn open_at(path: &Path, from: u64) -> std::io::Result<tokio::fs::File> {
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(SeekFrom::Start(from)).await?;
    Ok(file)
}

fn hash(path: &Path, from: u64, bytes: u64) -> std::io::Result<[u8; 16]> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut rest = file.take(bytes);
    let (mut hasher, mut block, mut seen) = (Md5::new(), vec![0; BLOCK], 0);
    loop {
        match rest.read(&mut block)? {
            0 if seen == bytes => return Ok(hasher.finalize().into()),
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => {
                hasher.update(&block[..read]);
                seen += read as u64;
            }
        }
    }
}

/// Where received bytes go.
pub(super) trait AsyncTake {
    fn take(&mut self, block: Bytes) -> impl Future<Output = std::io::Result<()>> + Send;
}

impl AsyncTake for &mut Vec<u8> {
    async fn take(&mut self, block: Bytes) -> std::io::Result<()> {
        self.extend_from_slice(&block);
        Ok(())
    }
}

pub(super) struct FileSink(pub(super) tokio::fs::File);

impl FileSink {
    pub(super) async fn end(&mut self) -> std::io::Result<()> {
        tokio::io::AsyncWriteExt::flush(&mut self.0).await
    }
}

impl AsyncTake for &mut FileSink {
    async fn take(&mut self, block: Bytes) -> std::io::Result<()> {
        tokio::io::AsyncWriteExt::write_all(&mut self.0, &block).await
    }
}

/// Hands bytes on to nobody: they are only looked at on the way.
pub(super) struct Nowhere;

impl AsyncTake for Nowhere {
    async fn take(&mut self, _block: Bytes) -> std::io::Result<()> {
        Ok(())
    }
}
