//! Files that survive: bytes come in, and a name leads to all of them or to what was there before, whatever is killed or
//! unplugged in between. A new file gets a name of its own first, is flushed, takes its real name, and then the folder
//! that holds the name is flushed too.

use crate::random;
use nix::errno::Errno;
use std::fs::{self, DirEntry, File, Metadata};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How the names of unfinished files begin; whoever lists a folder leaves these out.
pub const UNFINISHED: &str = ".tmp-";

/// A file that is being written and has no name yet that anybody would look for. Dropped before [`Draft::publish`], it is
/// deleted.
#[derive(Debug)]
pub struct Draft {
    /// Where its bytes go.
    pub file: File,
    path: PathBuf,
    published: bool,
}

impl Draft {
    /// An empty draft in `folder`, which must be on the file system of the final name.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn new(folder: &Path) -> io::Result<Self> {
        let path = folder.join(format!("{UNFINISHED}{}", random::hex::<12>()));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok(Self {
            file,
            path,
            published: false,
        })
    }

    /// Flushes the bytes and gives them the name `to`, replacing what bore it; durable when this returns. Makes missing
    /// folders, again if somebody prunes them meanwhile.
    ///
    /// # Errors
    /// When flushing or renaming fails; the name then leads to what it led to before.
    pub fn publish(mut self, to: &Path) -> io::Result<()> {
        const TRIES: u32 = 8;
        self.file.sync_all()?;
        let name = |_| make_folder(parent(to)).and_then(|()| fs::rename(&self.path, to));
        let pruned = |done: &io::Result<()>| match done {
            Err(cause) => cause.kind() == io::ErrorKind::NotFound && self.path.exists(),
            Ok(()) => false,
        };
        let done = (1..TRIES).map(name).find(|done| !pruned(done));
        done.unwrap_or_else(|| name(TRIES))?;
        self.published = true;
        sync_folder(parent(to))
    }

    /// Where the bytes lie until then.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be deleted is left to whoever sweeps the folder.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes `bytes` to the file `to`, all or nothing, durable when this returns. Makes missing folders.
///
/// # Errors
/// When a folder or the file cannot be written; what was there before is still there.
pub fn write(to: &Path, bytes: &[u8]) -> io::Result<()> {
    make_folder(parent(to))?;
    let mut draft = Draft::new(parent(to))?;
    draft.file.write_all(bytes)?;
    draft.publish(to)
}

/// The same for bytes that only this user may read.
///
/// # Errors
/// When a folder or the file cannot be written; what was there before is still there.
pub fn write_private(to: &Path, bytes: &[u8]) -> io::Result<()> {
    make_folder(parent(to))?;
    let mut draft = Draft::new(parent(to))?;
    let own = fs::Permissions::from_mode(0o600);
    draft.file.set_permissions(own)?;
    draft.file.write_all(bytes)?;
    draft.publish(to)
}

/// Writes a word into `folder` and flushes it; nothing is left of it. A disk that hangs does not come back from this.
///
/// # Errors
/// When the folder cannot be written.
pub fn try_write(folder: &Path) -> io::Result<()> {
    let mut draft = Draft::new(folder)?;
    draft.file.write_all(b"a word")?;
    draft.file.sync_data()
}

/// Copies the file `from` to `to`, all or nothing, durable when this returns. Makes missing folders.
///
/// # Errors
/// When `from` cannot be read or `to` not be written; what was there before is still there.
pub fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    make_folder(parent(to))?;
    let mut source = File::open(from)?;
    let mut draft = Draft::new(parent(to))?;
    let bytes = io::copy(&mut source, &mut draft.file)?;
    draft.publish(to)?;
    Ok(bytes)
}

/// Whether the open `file` has lost the name `path`: it was deleted, moved away or replaced. A name that leads to another
/// file is believed only where nothing else leads to ours, as not every file system keeps its file numbers.
pub fn is_nameless(path: &Path, file: &File) -> bool {
    let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
    match (fs::metadata(path), file.metadata()) {
        (Err(cause), _) => absent.contains(&cause.kind()),
        (Ok(named), Ok(open)) => {
            open.nlink() == 0 && (named.dev(), named.ino()) != (open.dev(), open.ino())
        }
        (Ok(_), Err(_)) => false,
    }
}

/// Gives what the open `file` holds the name `path`, as a copy, which is answered: open like the first, at its end. Makes
/// missing folders.
///
/// # Errors
/// When `file` cannot be read or the copy not be written.
pub fn name_again(mut file: &File, path: &Path) -> io::Result<File> {
    make_folder(parent(path))?;
    let mut draft = Draft::new(parent(path))?;
    file.rewind()?;
    io::copy(&mut file, &mut draft.file)?;
    let copy = draft.file.try_clone()?;
    draft.publish(path)?;
    Ok(copy)
}

/// Makes `file` at least `bytes` long, with room on the disk for each of them.
///
/// # Errors
/// When there is no such room; the file is as long as before then.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let before = file.metadata()?.len();
    let length = i64::try_from(bytes).map_err(io::Error::other)?;
    let allocated = match nix::fcntl::posix_fallocate(file, 0, length) {
        Err(nix::Error::EOPNOTSUPP | nix::Error::EINVAL) => write_zeroes(file, before, bytes),
        other => other.map_err(io::Error::from),
    };
    if allocated.is_err() {
        // A part of the room is of no use.
        let _ = file.set_len(before);
    }
    allocated
}

fn write_zeroes(file: &File, mut at: u64, end: u64) -> io::Result<()> {
    const PIECE: u64 = 64 << 10;
    let zeroes = [0; PIECE as usize];
    while at < end {
        let len = PIECE.min(end - at);
        file.write_all_at(&zeroes[..len as usize], at)?;
        at += len;
    }
    file.sync_data()
}

/// Makes `folder` and those above it that are missing, each durable in the one that holds it.
///
/// # Errors
/// When one of them cannot be made.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    make_folder(parent(folder))?;
    match fs::create_dir(folder) {
        Ok(()) => sync_folder(parent(folder)),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(cause) => Err(cause),
    }
}

/// Deletes the files in `folder` and below that are `unfinished` by name and were not written to for `age`: whoever began
/// them was killed. Answers how many.
pub fn sweep(folder: &Path, age: Duration, unfinished: &dyn Fn(&str) -> bool) -> usize {
    let is_abandoned = |entry: &DirEntry, data: &Metadata| {
        let name = entry.file_name();
        let old = |at: SystemTime| at.elapsed().is_ok_and(|since| since >= age);
        unfinished(&name.to_string_lossy()) && data.modified().is_ok_and(old)
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let swept = entries.map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => sweep(&entry.path(), age, unfinished),
        // What cannot be deleted is tried again by the next sweep.
        Ok(data) if data.is_file() && is_abandoned(&entry, &data) => {
            usize::from(fs::remove_file(entry.path()).is_ok())
        }
        _ => 0,
    });
    swept.sum()
}

/// Makes the names in `folder` durable, where its file system knows how to flush a folder.
///
/// # Errors
/// When the system says so.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    const UNKNOWN: [Errno; 3] = [Errno::EINVAL, Errno::ENOSYS, Errno::EOPNOTSUPP];
    match File::open(folder)?.sync_all() {
        Err(cause) if UNKNOWN.contains(&Errno::from_raw(cause.raw_os_error().unwrap_or(0))) => {
            Ok(())
        }
        synced => synced,
    }
}

/// Removes `folder` and those above it as long as they are empty, up to and without `root`.
pub fn prune(mut folder: &Path, root: &Path) {
    while folder != root && folder.starts_with(root) && fs::remove_dir(folder).is_ok() {
        folder = parent(folder);
    }
}

/// The folder that holds `path`; the current one for a bare name.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ if path.is_absolute() => path,
        _ => Path::new("."),
    }
}

/// Bytes that are free for us on the file system of `path`.
///
/// # Errors
/// When the path does not exist.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = nix::sys::statvfs::statvfs(path)?;
    Ok(found.blocks_available() * found.fragment_size())
}

/// Refuses a copy of so many bytes at `path` for which there is no room: half of it would take the room of every recording on
/// that disk.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`].
pub fn needs_room(path: &Path, bytes: u64) -> io::Result<()> {
    // Its own folder may be gone.
    let mut folders = path.ancestors().skip(1);
    match folders.find_map(|folder| free_bytes(folder).ok()) {
        Some(free) if free < bytes => Err(io::ErrorKind::StorageFull.into()),
        // Where nobody can say, it is tried.
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_room_for_more_than_the_disk_has_also_where_the_folder_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["file", "gone/too/file"] {
            let path = folder.path().join(path);
            needs_room(&path, 1).unwrap();
            let refused = needs_room(&path, u64::MAX).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::StorageFull, "{path:?}");
        }
    }

    #[test]
    fn a_draft_that_is_not_published_leaves_nothing_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("a/b/file");
        write(&name, b"before").unwrap();
        let mut draft = Draft::new(parent(&name)).unwrap();
        draft.file.write_all(b"half").unwrap();
        drop(draft);
        assert_eq!(fs::read(&name).unwrap(), b"before");
        assert_eq!(fs::read_dir(parent(&name)).unwrap().count(), 1);
        write(&name, b"after").unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"after");
    }

    #[test]
    fn a_word_that_was_tried_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        try_write(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        try_write(&folder.path().join("none")).unwrap_err();
    }

    #[test]
    fn an_open_file_that_was_deleted_or_moved_away_gets_its_name_back() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("folder/file");
        write(&path, b"before").unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let file = open();
        assert!(!is_nameless(&path, &file));
        fs::remove_dir_all(parent(&path)).unwrap();
        assert!(is_nameless(&path, &file));
        let mut copy = name_again(&file, &path).unwrap();
        copy.write_all(b" and after").unwrap();
        assert!(!is_nameless(&path, &copy));
        assert_eq!(fs::read(&path).unwrap(), b"before and after");
        fs::rename(&path, root.path().join("elsewhere")).unwrap();
        assert!(is_nameless(&path, &copy));
        name_again(&copy, &path).unwrap();
        let replaced = open();
        write(&path, b"another").unwrap();
        assert!(is_nameless(&path, &replaced));
    }

    #[test]
    fn room_is_allocated_in_full_and_by_either_way() {
        let root = tempfile::tempdir().unwrap();
        let file = File::create(root.path().join("room")).unwrap();
        allocate(&file, 100_000).unwrap();
        write_zeroes(&file, 100_000, 300_000).unwrap();
        let data = file.metadata().unwrap();
        assert_eq!(data.len(), 300_000);
        assert!(data.blocks() * 512 >= 300_000);
    }

    #[test]
    fn only_empty_folders_are_pruned_and_never_the_root() {
        let root = tempfile::tempdir().unwrap();
        write(&root.path().join("kept/file"), b"x").unwrap();
        make_folder(&root.path().join("kept/a/b")).unwrap();
        prune(&root.path().join("kept/a/b"), root.path());
        assert!(!root.path().join("kept/a").exists());
        fs::remove_file(root.path().join("kept/file")).unwrap();
        prune(&root.path().join("kept"), root.path());
        assert!(root.path().is_dir() && !root.path().join("kept").exists());
    }
}
