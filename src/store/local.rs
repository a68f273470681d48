//! The store as a folder. In `local` mode its root is OpenVidu's recordings folder, so that a chunk lies where the
//! recorder writes it and storing it costs one flush.

use super::{ChunkStore, Object, StoreError, check_key, check_prefix};
use crate::disk;
use crate::tasks::Tasks;
use async_trait::async_trait;
use bytes::Bytes;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Objects as files below one folder.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    tasks: Tasks,
}

impl LocalStore {
    /// The store below `root`, which is made when the first object comes.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            tasks: Tasks::new(),
        }
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        act: String,
        work: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let root = self.root.clone();
        let done = self.tasks.spawn_blocking("local store", move || work(root));
        match done.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(cause)) => Err(fault(act, &cause)),
            Err(cause) => Err(StoreError::Unavailable {
                act,
                cause: cause.to_string(),
            }),
        }
    }
}

#[async_trait]
impl ChunkStore for LocalStore {
    async fn put(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        let key = check_key(key)?;
        let path = path.to_owned();
        self.blocking(format!("store {key}"), move |root| {
            let to = root.join(key);
            if same_file(&path, &to) {
                File::open(&to)?.sync_all()?;
                return disk::sync_folder(disk::parent(&to));
            }
            disk::copy(&path, &to).map(drop)
        })
        .await
    }

    async fn put_bytes(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let key = check_key(key)?;
        self.blocking(format!("store {key}"), move |root| {
            disk::write(&root.join(&key), &body)
        })
        .await
    }

    async fn fetch(&self, key: &str, to: &Path) -> Result<u64, StoreError> {
        let key = check_key(key)?;
        let to = to.to_owned();
        let found = key.clone();
        self.blocking(format!("fetch {key}"), move |root| {
            let from = root.join(key);
            if !from.is_file() {
                return Ok(None);
            }
            disk::copy(&from, &to).map(Some)
        })
        .await?
        .ok_or(StoreError::NotFound { key: found })
    }

    async fn read(&self, key: &str) -> Result<Bytes, StoreError> {
        self.read_from(key, 0).await
    }

    async fn read_from(&self, key: &str, offset: u64) -> Result<Bytes, StoreError> {
        let key = check_key(key)?;
        let found = key.clone();
        self.blocking(format!("read {key}"), move |root| {
            match read_from(&root.join(key), offset) {
                Ok(bytes) => Ok(Some(Bytes::from(bytes))),
                Err(cause) if is_missing(&cause) => Ok(None),
                Err(cause) => Err(cause),
            }
        })
        .await?
        .ok_or(StoreError::NotFound { key: found })
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        let prefix = check_prefix(prefix)?;
        self.blocking(format!("list {prefix}"), move |root| {
            let mut found = Vec::new();
            visit(&root.join(&prefix), &prefix, &mut found)?;
            found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            Ok(found)
        })
        .await
    }

    async fn delete(&self, prefix: &str) -> Result<usize, StoreError> {
        let prefix = super::check_deletion(prefix)?;
        self.blocking(format!("delete {prefix}"), move |root| {
            let folder = root.join(&prefix);
            let mut found = Vec::new();
            visit(&folder, &prefix, &mut found)?;
            match fs::remove_dir_all(&folder) {
                Ok(()) => {}
                Err(cause) if is_missing(&cause) => return Ok(0),
                Err(cause) => return Err(cause),
            }
            disk::prune(disk::parent(&folder), &root);
            Ok(found.len())
        })
        .await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let act = format!("write below {}", self.root.display());
        // A folder that is missing is not made: it may be a name that was mistyped, or a mount that is not there.
        self.blocking(act, |root| disk::Draft::new(&root).map(drop))
            .await
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        check_key(key).ok().map(|key| self.root.join(key))
    }
}

fn read_from(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Adds the files below `folder`, whose key is `prefix`. What vanishes meanwhile is left out.
fn visit(folder: &Path, prefix: &str, found: &mut Vec<Object>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if is_missing(&cause) => return Ok(()),
        Err(cause) => return Err(cause),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        // Names that are no UTF-8 were not made by us and have no key.
        let Some(name) = name.to_str().filter(|n| !n.starts_with(disk::UNFINISHED)) else {
            continue;
        };
        let key = if prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{prefix}/{name}")
        };
        match entry.metadata() {
            Ok(data) if data.is_dir() => visit(&entry.path(), &key, found)?,
            Ok(data) if data.is_file() => found.push(Object {
                key,
                bytes: data.len(),
            }),
            Ok(_) => {}
            Err(cause) if is_missing(&cause) => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

fn is_missing(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn fault(act: String, cause: &io::Error) -> StoreError {
    use io::ErrorKind::{
        FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    let said = cause.to_string();
    match cause.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => StoreError::Full { act, cause: said },
        PermissionDenied | ReadOnlyFilesystem => StoreError::Refused { act, cause: said },
        _ => StoreError::Unavailable { act, cause: said },
    }
}
