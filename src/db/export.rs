//! The database as text: what a backup holds of it. One line a record, a count and a digest at the end, so that a damaged
//! or cut file is known before anything is replaced. An export of a database at work is what it was at one moment.

use super::{DbError, VERSION, failed, guarded, not_opened};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The version of the lines.
const FORMAT: u32 = 1;

/// While records change, an export waits this long for a pause between two changes.
const PAUSE: Duration = Duration::from_millis(20);

/// So many changes are taken up after the scan before the pause is given up.
const MOST_CHANGES: usize = 1_000_000;

/// What an export holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Records of all trees.
    pub records: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Head {
        export: u32,
        database: u32,
    },
    Record {
        tree: String,
        key: String,
        value: String,
    },
    End {
        records: u64,
        sha256: String,
    },
}

type Records = BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>>;

impl super::Db {
    /// Writes every record to `out`.
    ///
    /// # Errors
    /// When the database cannot be read or `out` does not take it.
    pub fn export(&self, out: &mut dyn Write) -> Result<Exported, DbError> {
        let mut records = Records::new();
        for name in self.sled.tree_names() {
            let tree = self.sled.open_tree(&name).map_err(failed("open a tree"))?;
            for (key, value) in settled(&tree)? {
                records.insert((name.to_vec(), key), value);
            }
        }
        write(&records, out)
    }
}

/// A tree's records at one moment: scanned, then brought up to what changed meanwhile until nothing changes for a while.
fn settled(tree: &sled::Tree) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, DbError> {
    let mut changes = tree.watch_prefix([]);
    let mut records = BTreeMap::new();
    for entry in tree.iter() {
        let (key, value) = entry.map_err(failed("read a record"))?;
        records.insert(key.to_vec(), value.to_vec());
    }
    for _ in 0..MOST_CHANGES {
        match changes.next_timeout(PAUSE) {
            Ok(sled::Event::Insert { key, value }) => {
                drop(records.insert(key.to_vec(), value.to_vec()))
            }
            Ok(sled::Event::Remove { key }) => drop(records.remove(&key[..])),
            Err(_) => break,
        }
    }
    Ok(records)
}

fn write(records: &Records, out: &mut dyn Write) -> Result<Exported, DbError> {
    let mut digest = Sha256::new();
    let mut line = |line: &Line, digest: &mut Sha256| {
        let mut text = serde_json::to_vec(line).map_err(failed("write the export"))?;
        text.push(b'\n');
        digest.update(&text);
        out.write_all(&text).map_err(failed("write the export"))
    };
    line(
        &Line::Head {
            export: FORMAT,
            database: VERSION,
        },
        &mut digest,
    )?;
    for ((tree, key), value) in records {
        let record = Line::Record {
            tree: STANDARD.encode(tree),
            key: STANDARD.encode(key),
            value: STANDARD.encode(value),
        };
        line(&record, &mut digest)?;
    }
    let count = records.len() as u64;
    let sha256 = hex(&digest.clone().finalize());
    line(
        &Line::End {
            records: count,
            sha256,
        },
        &mut digest,
    )?;
    Ok(Exported { records: count })
}

/// Reads an export whole and checks it; nothing is written.
///
/// # Errors
/// When it is cut, damaged, or of another version.
pub fn check(input: impl BufRead) -> Result<Exported, DbError> {
    read(input).map(|records| Exported {
        records: records.len() as u64,
    })
}

/// Makes the database below `data_dir` what `input` says. The export is checked and the new database complete on disk
/// before the old one is moved aside; answers where that is, when there was one.
///
/// # Errors
/// When the export is not whole, another process has the database open, or the folder cannot be written.
pub fn import(
    data_dir: &Path,
    input: impl BufRead,
    aside: &str,
) -> Result<Option<PathBuf>, DbError> {
    let records = read(input)?;
    let (path, fresh) = (data_dir.join("db"), data_dir.join("db.restoring"));
    let folder = |cause: std::io::Error| DbError::Folder {
        path: data_dir.to_owned(),
        cause: cause.to_string(),
    };
    let there = path.exists();
    if there {
        // Held open by nobody else, or this fails; a damaged one is what a backup is restored for.
        let opened = guarded(|| {
            let old = sled::Config::new().path(&path).open();
            old.map(drop).map_err(|cause| not_opened(&path, &cause))
        });
        if let Err(cause) = opened
            && !cause.is_damage()
        {
            return Err(cause);
        }
    }
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).map_err(folder)?;
    }
    std::fs::create_dir_all(&fresh).map_err(folder)?;
    let db = sled::Config::new()
        .path(&fresh)
        .open()
        .map_err(|cause| not_opened(&fresh, &cause))?;
    for ((tree, key), value) in records {
        let tree = db.open_tree(tree).map_err(failed("open a tree"))?;
        tree.insert(key, value).map_err(failed("write a record"))?;
    }
    db.flush().map_err(failed("flush"))?;
    drop(db);
    let aside = data_dir.join(format!("db.{aside}"));
    if there {
        std::fs::rename(&path, &aside).map_err(folder)?;
    }
    std::fs::rename(&fresh, &path).map_err(folder)?;
    Ok(there.then_some(aside))
}

fn read(input: impl BufRead) -> Result<Records, DbError> {
    let broken = |cause: &str| DbError::Record {
        key: "of the backup".into(),
        cause: cause.into(),
    };
    let mut digest = Sha256::new();
    let mut records = Records::new();
    let mut head = false;
    for text in input.lines() {
        let text = text.map_err(failed("read the backup"))?;
        let line = serde_json::from_str(&text).map_err(|_| broken("a line is damaged"))?;
        match line {
            Line::Head {
                export: FORMAT,
                database: VERSION,
            } if !head => head = true,
            Line::Head { .. } => {
                return Err(broken("it was made by another version of the program"));
            }
            Line::Record { tree, key, value } if head => {
                let plain = |text: String| {
                    STANDARD
                        .decode(text)
                        .map_err(|_| broken("a record is damaged"))
                };
                records.insert((plain(tree)?, plain(key)?), plain(value)?);
            }
            Line::End {
                records: count,
                sha256,
            } => {
                let whole =
                    head && count == records.len() as u64 && sha256 == hex(&digest.finalize());
                return if whole {
                    Ok(records)
                } else {
                    Err(broken("its digest does not fit: it was damaged or changed"))
                };
            }
            Line::Record { .. } => return Err(broken("it does not begin as a backup does")),
        }
        digest.update(text.as_bytes());
        digest.update(b"\n");
    }
    Err(broken("it is cut off"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Db;

    fn example(folder: &Path) -> Vec<u8> {
        let db = Db::open(folder).unwrap();
        db.tree("sessions").unwrap().insert("a", "1").unwrap();
        db.tree("outbox").unwrap().insert([0, 255], "2").unwrap();
        let mut text = Vec::new();
        assert_eq!(
            db.export(&mut text).unwrap().records,
            3,
            "two and the version"
        );
        text
    }

    #[test]
    fn an_export_comes_back_as_the_same_database_and_the_old_one_is_kept() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let text = example(from.path());
        assert_eq!(import(to.path(), &text[..], "old").unwrap(), None);
        assert_eq!(
            import(to.path(), &text[..], "old").unwrap(),
            Some(to.path().join("db.old"))
        );
        let db = Db::open(to.path()).unwrap();
        let mut again = Vec::new();
        db.export(&mut again).unwrap();
        assert_eq!(again, text);
        let held = import(to.path(), &text[..], "other").unwrap_err();
        assert!(held.to_string().contains("in use"), "{held}");
    }

    #[test]
    fn a_damaged_or_cut_export_is_refused_before_anything_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let text = example(folder.path());
        for cut in 0..text.len() - 1 {
            assert!(check(&text[..cut]).is_err(), "cut at {cut}");
        }
        let mut damaged = text.clone();
        let at = text.len() / 2;
        damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
        assert!(check(&damaged[..]).is_err());
        assert!(check(&text[..]).is_ok());
    }
}
