//! Objects as files. Below the root lie `objects/`, where a key's segments are folders and its last one the file;
//! `uploads/`, the parts of uploads that are not complete; and `drafts/`, files without a name yet, which a start sweeps
//! away. An object's file is its bytes and then a footer with what else is known of it, so that one rename makes both
//! appear at once. The footer is an MP4 `free` box: a chunk stays a chunk for whoever opens the file.

use crate::disk::{self, Draft};
use crate::random;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

const MAGIC: &[u8; 4] = b"ov2o";
/// Size and kind before the text, size and magic after it.
const FRAME: usize = 16;
const LONGEST_FOOTER: u64 = 64 << 10;
/// Uploads that nobody completed are forgotten after this.
const UPLOAD_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What is known of an object beside its bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Meta {
    /// The version of this record.
    pub(super) version: u32,
    pub(super) etag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_encoding: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) metadata: BTreeMap<String, String>,
}

/// An object that is there.
pub(super) struct Found {
    pub(super) file: File,
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
    pub(super) meta: Meta,
}

/// An object or part on its way in. Its bytes count against the quota from the moment they arrive.
pub(super) struct Incoming {
    draft: Draft,
    pub(super) bytes: u64,
    reserved: Reserved,
}

/// Bytes that count against the quota as long as this is not forgotten.
struct Reserved {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// What the one who walks wants next.
pub(super) enum Step {
    Next,
    /// Leave out everything whose key begins so.
    Skip(String),
    Stop,
}

/// The objects of one bucket.
#[derive(Clone)]
pub(super) struct Folder {
    root: PathBuf,
    max_bytes: Option<u64>,
    used: Arc<AtomicU64>,
}

impl Folder {
    /// Opens or makes the folder, sweeps what a kill left behind, and counts what is there.
    pub(super) fn open(root: &Path, max_bytes: Option<u64>) -> io::Result<Self> {
        let folder = Self {
            root: root.to_owned(),
            max_bytes,
            used: Arc::default(),
        };
        match fs::remove_dir_all(folder.drafts()) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
        for part in [folder.drafts(), folder.objects(), folder.uploads()] {
            disk::make_folder(&part)?;
        }
        folder.forget_old_uploads()?;
        let used = bytes_below(&folder.objects())? + bytes_below(&folder.uploads())?;
        folder.used.store(used, Ordering::SeqCst);
        Ok(folder)
    }

    fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    fn drafts(&self) -> PathBuf {
        self.root.join("drafts")
    }

    pub(super) fn incoming(&self) -> io::Result<Incoming> {
        Ok(Incoming {
            draft: Draft::new(&self.drafts())?,
            bytes: 0,
            reserved: Reserved {
                used: Arc::clone(&self.used),
                bytes: 0,
            },
        })
    }

    /// Adds `block` to what comes in, as far as the quota allows.
    pub(super) fn write(&self, incoming: &mut Incoming, block: &[u8]) -> io::Result<()> {
        let more = block.len() as u64;
        let used = self.used.fetch_add(more, Ordering::SeqCst) + more;
        incoming.reserved.bytes += more;
        if self.max_bytes.is_some_and(|most| used > most) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        incoming.draft.file.write_all(block)?;
        incoming.bytes += more;
        Ok(())
    }

    /// Gives what came in its key; durable when this returns.
    pub(super) fn publish(&self, incoming: Incoming, key: &str, meta: &Meta) -> io::Result<()> {
        self.publish_at(incoming, &self.path(key)?, meta)
    }

    fn publish_at(&self, incoming: Incoming, path: &Path, meta: &Meta) -> io::Result<()> {
        let Incoming {
            mut draft,
            mut reserved,
            ..
        } = incoming;
        let footer = footer(meta)?;
        draft.file.write_all(&footer)?;
        let replaced = fs::metadata(path).map_or(0, |data| data.len());
        draft.publish(path)?;
        // From here on the bytes count because they are there.
        reserved.bytes = replaced;
        self.used.fetch_add(footer.len() as u64, Ordering::SeqCst);
        Ok(())
    }

    /// The object `key`, opened: whatever happens to the key, this reads on.
    pub(super) fn find(&self, key: &str) -> io::Result<Option<Found>> {
        open_object(&self.path(key)?)
    }

    /// Deletes the objects `keys`; those that are missing are no error. Durable when this returns.
    pub(super) fn delete<'a>(&self, keys: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
        let mut folders = std::collections::BTreeSet::new();
        for key in keys {
            let path = self.path(key)?;
            let bytes = fs::metadata(&path).map_or(0, |data| data.len());
            match fs::remove_file(&path) {
                Ok(()) => {
                    self.used.fetch_sub(bytes, Ordering::SeqCst);
                    folders.insert(disk::parent(&path).to_owned());
                }
                Err(cause) if is_missing(&cause) => {}
                Err(cause) => return Err(cause),
            }
        }
        for folder in folders {
            match disk::sync_folder(&folder) {
                Err(cause) if !is_missing(&cause) => return Err(cause),
                _ => disk::prune(&folder, &self.objects()),
            }
        }
        Ok(())
    }

    /// Visits the keys that begin with `prefix` and come after `after`, in the order of their bytes.
    pub(super) fn walk(
        &self,
        prefix: &str,
        after: &str,
        visit: &mut dyn FnMut(&str, &Path) -> io::Result<Step>,
    ) -> io::Result<()> {
        // Start in the deepest folder that the prefix names whole.
        let (base, _) = prefix.rsplit_once('/').unwrap_or_default();
        let (folder, base) = match base {
            "" if !prefix.starts_with('/') => (self.objects(), String::new()),
            base => (self.folder_path(base)?, format!("{base}/")),
        };
        let mut walk = Walk {
            prefix,
            after,
            skip: None,
            visit,
        };
        walk.descend(&folder, &base).map(drop)
    }

    pub(super) fn begin_upload(&self, key: &str, meta: &Meta) -> io::Result<String> {
        self.path(key)?;
        let id = random::hex::<16>();
        let record = serde_json::to_vec(&(key, meta)).map_err(io::Error::other)?;
        disk::write(&self.uploads().join(&id).join("upload.json"), &record)?;
        Ok(id)
    }

    /// What was said when the upload `id` of `key` began; `None` when there is no such upload.
    pub(super) fn upload(&self, id: &str, key: &str) -> io::Result<Option<Meta>> {
        let known = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
        if !known {
            return Ok(None);
        }
        match fs::read(self.uploads().join(id).join("upload.json")) {
            Ok(record) => {
                let (of, meta): (String, Meta) =
                    serde_json::from_slice(&record).map_err(io::Error::other)?;
                Ok((of == key).then_some(meta))
            }
            Err(cause) if is_missing(&cause) => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    pub(super) fn publish_part(
        &self,
        incoming: Incoming,
        id: &str,
        number: u32,
        etag: String,
    ) -> io::Result<()> {
        let meta = Meta {
            etag,
            ..Meta::default()
        };
        self.publish_at(incoming, &self.part(id, number), &meta)
    }

    pub(super) fn find_part(&self, id: &str, number: u32) -> io::Result<Option<Found>> {
        open_object(&self.part(id, number))
    }

    /// Makes the object of the parts, in their order; the upload is over then.
    pub(super) fn complete(
        &self,
        id: &str,
        key: &str,
        parts: Vec<Found>,
        meta: &Meta,
    ) -> io::Result<()> {
        let mut draft = Draft::new(&self.drafts())?;
        for part in parts {
            let mut bytes = io::Read::take(&part.file, part.bytes);
            io::copy(&mut bytes, &mut draft.file)?;
        }
        draft.file.write_all(&footer(meta)?)?;
        let path = self.path(key)?;
        let replaced = fs::metadata(&path).map_or(0, |data| data.len());
        let made = draft.file.metadata()?.len();
        draft.publish(&path)?;
        self.used.fetch_add(made, Ordering::SeqCst);
        self.used.fetch_sub(replaced, Ordering::SeqCst);
        self.drop_upload(id)
    }

    /// Forgets the upload `id` and its parts.
    pub(super) fn drop_upload(&self, id: &str) -> io::Result<()> {
        let folder = self.uploads().join(id);
        let bytes = bytes_below(&folder)?;
        fs::remove_dir_all(&folder)?;
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        disk::sync_folder(&self.uploads())
    }

    fn part(&self, id: &str, number: u32) -> PathBuf {
        self.uploads().join(id).join(number.to_string())
    }

    fn forget_old_uploads(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.uploads())? {
            let entry = entry?;
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if age > UPLOAD_LIFE {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn path(&self, key: &str) -> io::Result<PathBuf> {
        match key.rsplit_once('/') {
            Some((folder, name)) => Ok(self.folder_path(folder)?.join(object_name(name)?)),
            None => Ok(self.objects().join(object_name(key)?)),
        }
    }

    fn folder_path(&self, key: &str) -> io::Result<PathBuf> {
        let mut path = self.objects();
        for segment in key.split('/') {
            path.push(fits(escape(segment) + "%")?);
        }
        Ok(path)
    }
}

struct Walk<'a> {
    prefix: &'a str,
    after: &'a str,
    skip: Option<String>,
    visit: &'a mut dyn FnMut(&str, &Path) -> io::Result<Step>,
}

impl Walk<'_> {
    fn descend(&mut self, folder: &Path, base: &str) -> io::Result<ControlFlow<()>> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(cause) if is_missing(&cause) => return Ok(ControlFlow::Continue(())),
            Err(cause) => return Err(cause),
        };
        let mut keys = Vec::new();
        for entry in entries {
            if let Some(key) = entry?.file_name().to_str().and_then(read_name) {
                keys.push(format!("{base}{key}"));
            }
        }
        // A folder's key ends in a slash, so this is the order of all keys below too.
        keys.sort_unstable();
        for key in keys {
            let name = &key[base.len()..];
            if !self.wanted(&key, name.ends_with('/')) {
                continue;
            }
            let flow = match name.strip_suffix('/') {
                Some(name) => self.descend(&folder.join(escape(name) + "%"), &key)?,
                None => match (self.visit)(&key, &folder.join(object_name(name)?))? {
                    Step::Next => ControlFlow::Continue(()),
                    Step::Stop => ControlFlow::Break(()),
                    Step::Skip(beginning) => {
                        self.skip = Some(beginning);
                        ControlFlow::Continue(())
                    }
                },
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// An object's key may end in a slash too; its name, the part below its folder, is empty then.
    fn wanted(&self, key: &str, folder: bool) -> bool {
        if self.skip.as_ref().is_some_and(|skip| key.starts_with(skip)) {
            return false;
        }
        if folder {
            let below = key.starts_with(self.prefix) || self.prefix.starts_with(key);
            below && (self.after < key || self.after.starts_with(key))
        } else {
            key.starts_with(self.prefix) && (self.after.is_empty() || key > self.after)
        }
    }
}

/// Opens the file at `path` as an object; `None` when there is none.
pub(super) fn open_object(path: &Path) -> io::Result<Option<Found>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if is_missing(&cause) => return Ok(None),
        Err(cause) => return Err(cause),
    };
    let data = file.metadata()?;
    if !data.is_file() {
        return Ok(None);
    }
    let torn = || io::Error::new(io::ErrorKind::InvalidData, "an object's footer is damaged");
    let whole = data.len();
    let mut tail = [0; 8];
    file.read_exact_at(&mut tail, whole.checked_sub(8).ok_or_else(torn)?)?;
    let [a, b, c, d, magic @ ..] = tail;
    let size = u64::from(u32::from_be_bytes([a, b, c, d]));
    if &magic != MAGIC || size < FRAME as u64 || size > whole.min(LONGEST_FOOTER) {
        return Err(torn());
    }
    let mut footer = vec![0; size as usize];
    file.read_exact_at(&mut footer, whole - size)?;
    let meta = serde_json::from_slice(&footer[8..footer.len() - 8]).map_err(|_| torn())?;
    Ok(Some(Found {
        bytes: whole - size,
        modified: data.modified()?,
        meta,
        file,
    }))
}

fn footer(meta: &Meta) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(meta).map_err(io::Error::other)?;
    let size = (text.len() + FRAME) as u32;
    if u64::from(size) > LONGEST_FOOTER {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok([
        &size.to_be_bytes()[..],
        b"free",
        &text,
        &size.to_be_bytes()[..],
        MAGIC,
    ]
    .concat())
}

/// A segment as part of a file name: `%` and what file names cannot or must not hold become `%XX`. A folder's name has a
/// bare `%` at its end, so that the keys `a` and `a/b` can both be.
fn escape(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for (at, c) in segment.char_indices() {
        if c == '%' || c.is_ascii_control() || (at == 0 && c == '.') {
            out.push_str(&format!("%{:02x}", c as u32));
        } else {
            out.push(c);
        }
    }
    out
}

fn object_name(segment: &str) -> io::Result<String> {
    match segment {
        // Names of folders that other tools make: `a/`.
        "" => Ok("%e".into()),
        segment => fits(escape(segment)),
    }
}

fn fits(name: String) -> io::Result<String> {
    if name.len() > 255 {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    Ok(name)
}

/// The key's part that a file name stands for, with a slash at its end for a folder.
fn read_name(name: &str) -> Option<String> {
    if name == "%e" {
        return Some(String::new());
    }
    let (mut rest, mut out) = (name, String::with_capacity(name.len()));
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        if after.is_empty() {
            out.push('/');
            return Some(out);
        }
        let code = u8::from_str_radix(after.get(..2)?, 16).ok()?;
        out.push(char::from(code));
        rest = &after[2..];
    }
    out.push_str(rest);
    (!name.starts_with('.')).then_some(out)
}

fn bytes_below(folder: &Path) -> io::Result<u64> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if is_missing(&cause) => return Ok(0),
        Err(cause) => return Err(cause),
    };
    let mut sum = 0;
    for entry in entries {
        let entry = entry?;
        let data = entry.metadata()?;
        sum += if data.is_dir() {
            bytes_below(&entry.path())?
        } else {
            data.len()
        };
    }
    Ok(sum)
}

fn is_missing(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(folder: &Folder, key: &str, body: &[u8]) -> io::Result<()> {
        let mut incoming = folder.incoming()?;
        folder.write(&mut incoming, body)?;
        folder.publish(incoming, key, &Meta::default())
    }

    fn keys(folder: &Folder, prefix: &str, after: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut visit = |key: &str, _: &Path| {
            found.push(key.to_owned());
            Ok(Step::Next)
        };
        folder.walk(prefix, after, &mut visit).unwrap();
        found
    }

    #[test]
    fn a_key_and_a_longer_one_below_it_can_both_be() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path(), None).unwrap();
        let all = [
            "a", "a-b", "a.b", "a/", "a/b", "a/b/c", "a0", ".tmp-x", "%", "..", "a//b",
        ];
        for key in all {
            put(&folder, key, key.as_bytes()).unwrap();
        }
        let mut sorted = all.map(str::to_owned);
        sorted.sort();
        assert_eq!(keys(&folder, "", ""), sorted);
        assert_eq!(keys(&folder, "a/", ""), ["a/", "a//b", "a/b", "a/b/c"]);
        assert_eq!(keys(&folder, "a/b", "a/b"), ["a/b/c"]);
        let found = folder.find("a/b").unwrap().unwrap();
        assert_eq!(found.bytes, 3);
        folder.delete(all).unwrap();
        assert_eq!(keys(&folder, "", ""), Vec::<String>::new());
        assert_eq!(folder.used.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn the_quota_counts_what_is_there_also_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path(), Some(10_000)).unwrap();
        put(&folder, "a", &[0; 6_000]).unwrap();
        let refused = put(&folder, "b", &[0; 6_000]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::QuotaExceeded);
        let used = folder.used.load(Ordering::SeqCst);
        let folder = Folder::open(root.path(), Some(10_000)).unwrap();
        assert_eq!(folder.used.load(Ordering::SeqCst), used);
        folder.delete(["a"]).unwrap();
        put(&folder, "b", &[0; 6_000]).unwrap();
    }

    proptest! {
        #[test]
        fn every_key_reads_back_from_its_file_name(key in "[a-c%./ \u{1}\u{7f}ä]{1,12}") {
            let names: Vec<_> = key.split('/').collect();
            let (last, folders) = names.split_last().unwrap();
            let mut back = String::new();
            for folder in folders {
                back += &read_name(&(escape(folder) + "%")).unwrap();
            }
            back += &read_name(&object_name(last).unwrap()).unwrap();
            prop_assert_eq!(back, key);
        }

        #[test]
        fn a_walk_finds_what_a_sorted_list_would(
            all in proptest::collection::btree_set("[ab/.]{1,5}", 1..12),
            prefix in "[ab/]{0,3}",
            after in "[ab/]{0,3}",
        ) {
            let root = tempfile::tempdir().unwrap();
            let folder = Folder::open(root.path(), None).unwrap();
            for key in &all {
                put(&folder, key, b"x").unwrap();
            }
            let expected: Vec<_> = all
                .iter()
                .filter(|key| key.starts_with(&prefix) && (after.is_empty() || **key > after))
                .cloned()
                .collect();
            prop_assert_eq!(keys(&folder, &prefix, &after), expected);
        }
    }
}
