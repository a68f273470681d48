//! Where chunks lie: a folder of this machine, or a store. Bytes at a place of a chunk come out; who asks does not know from
//! where.

use super::LogError;
use crate::join::Origin;
use crate::model::chunk::{ChunkKey, TakeKey};
use crate::store::{ChunkStore, StoreError};
use bytes::Bytes;
use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How much is read from a file at once.
const READ: u64 = 256 << 10;
/// How long a store may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A place with chunks. To be asked on a thread that may block.
#[derive(Clone)]
pub enum Source {
    /// Below this folder, which is OpenVidu's recordings folder.
    Folder(PathBuf),
    /// In a store, which is asked through this runtime.
    Store(Arc<dyn ChunkStore>, Handle),
    /// Below this folder, and what has left it in a store.
    Both(PathBuf, Arc<dyn ChunkStore>, Handle),
}

impl Source {
    /// The take's chunks, in the order of run and number.
    ///
    /// # Errors
    /// When the folder or the store does not say. A take without a chunk is an empty list.
    pub fn list(&self, take: &TakeKey) -> Result<Vec<Origin>, LogError> {
        let keys = match self {
            Self::Folder(root) => keys_below(root, take),
            Self::Store(store, runtime) => keys_in(&**store, runtime, take),
            Self::Both(root, store, runtime) => keys_below(root, take).and_then(|mut keys| {
                keys.extend(keys_in(&**store, runtime, take)?);
                Ok(keys)
            }),
        };
        let keys: Vec<String> = keys.map_err(|cause| LogError::List {
            take: take.to_string(),
            cause,
        })?;
        let parse = |key: &String| ChunkKey::parse(take, key);
        let mut origins: Vec<Origin> = keys.iter().filter_map(parse).map(origin_of).collect();
        origins.sort_unstable();
        origins.dedup();
        Ok(origins)
    }
}

fn origin_of(key: ChunkKey) -> Origin {
    Origin {
        run: key.run,
        index: key.index,
    }
}

/// The keys of the files in the folders of the take's runs.
fn keys_below(root: &Path, take: &TakeKey) -> Result<Vec<String>, String> {
    let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
    let names = |folder: &Path| -> Result<Vec<String>, String> {
        match fs::read_dir(folder) {
            Ok(entries) => Ok(entries.flatten().filter_map(name).collect()),
            Err(cause) if is_absent(&cause) => Ok(Vec::new()),
            Err(cause) => Err(cause.to_string()),
        }
    };
    let folder = root.join(take.to_string());
    let mut keys = Vec::new();
    for run in names(&folder)? {
        match names(&folder.join(&run)) {
            Ok(files) => keys.extend(files.iter().map(|file| format!("{take}/{run}/{file}"))),
            // The other runs' chunks are read all the same.
            Err(cause) => {
                log::error!("the chunks {take}/{run} are left out: {cause}; check the disk")
            }
        }
    }
    Ok(keys)
}

/// The keys of the take's objects.
fn keys_in(
    store: &dyn ChunkStore,
    runtime: &Handle,
    take: &TakeKey,
) -> Result<Vec<String>, String> {
    let take = take.to_string();
    let listed = answered(runtime, "list the chunks", store.list(&take));
    let listed = listed.map_err(|cause| cause.to_string())?;
    Ok(listed.into_iter().map(|object| object.key).collect())
}

/// What a store answers in time: whoever follows a log waits for no store that hangs.
fn answered<T>(
    runtime: &Handle,
    act: &str,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = |_| StoreError::Unavailable {
        act: act.to_owned(),
        cause: format!("no answer within {} s", PATIENCE.as_secs()),
    };
    let answer = async { tokio::time::timeout(PATIENCE, asked).await };
    runtime.block_on(answer).map_err(late)?
}

fn is_absent(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// One chunk, open for reading.
pub(super) struct Chunk {
    key: ChunkKey,
    source: Source,
    /// The file, where there is one and it was read from before. It is read on where its name is taken away.
    file: Option<File>,
}

impl Chunk {
    pub(super) fn new(source: &Source, key: ChunkKey) -> Self {
        Self {
            key,
            source: source.clone(),
            file: None,
        }
    }

    /// Bytes at `offset`, where `most` is known no more than that; none at the end of what is there. `None`: there is no such
    /// chunk.
    pub(super) fn read(
        &mut self,
        offset: u64,
        most: Option<u64>,
    ) -> Result<Option<Bytes>, LogError> {
        match &self.source {
            Source::Folder(root) => read_below(&mut self.file, root, &self.key, offset, most),
            Source::Store(store, runtime) => read_in(&**store, runtime, &self.key, offset, most),
            Source::Both(root, store, runtime) => {
                match read_below(&mut self.file, root, &self.key, offset, most)? {
                    Some(bytes) => Ok(Some(bytes)),
                    None => read_in(&**store, runtime, &self.key, offset, most),
                }
            }
        }
    }
}

/// Bytes of a chunk's file, `open` where it was read from before.
fn read_below(
    open: &mut Option<File>,
    root: &Path,
    key: &ChunkKey,
    offset: u64,
    most: Option<u64>,
) -> Result<Option<Bytes>, LogError> {
    let path = root.join(key.to_string());
    let most = most.map_or(READ, |most| most.min(READ));
    read_file(open, &path, offset, most).map_err(|cause| LogError::Folder {
        key: key.clone(),
        cause,
    })
}

/// The same of an object.
fn read_in(
    store: &dyn ChunkStore,
    runtime: &Handle,
    key: &ChunkKey,
    offset: u64,
    most: Option<u64>,
) -> Result<Option<Bytes>, LogError> {
    let name = key.to_string();
    match answered(runtime, "read a chunk", store.read_from(&name, offset)) {
        Ok(mut bytes) => {
            bytes.truncate(most.map_or(usize::MAX, |most| most as usize));
            Ok(Some(bytes))
        }
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(cause) => Err(LogError::Store {
            key: key.clone(),
            cause,
        }),
    }
}

/// Reads from the open file, and where that has no more, from the one that has its name by now: a chunk that was deleted
/// or moved away while it was written is made again, with the same bytes at the same places.
fn read_file(
    open: &mut Option<File>,
    path: &Path,
    offset: u64,
    most: u64,
) -> io::Result<Option<Bytes>> {
    if let Some(file) = open {
        let bytes = read_at(file, offset, most)?;
        if !bytes.is_empty() {
            return Ok(Some(bytes));
        }
    }
    match File::open(path) {
        Ok(file) => {
            let bytes = read_at(&file, offset, most)?;
            if open.is_none() || !bytes.is_empty() {
                *open = Some(file);
            }
            Ok(Some(bytes))
        }
        Err(cause) if is_absent(&cause) => Ok(open.as_ref().map(|_| Bytes::new())),
        Err(cause) => Err(cause),
    }
}

fn read_at(file: &File, offset: u64, most: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(most).unwrap_or(usize::MAX)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}
