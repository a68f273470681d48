//! The names of a growing video: taken up by the next run, given to the first fragment, put aside where another recording
//! has it.

use super::super::{JoinError, Options, PART};
use super::append::Open;
use super::scan::Form;
use super::state::State;
use crate::disk;
use log::{error, warn};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// `.<name>.<suffix>` in the same folder.
pub(in crate::join) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{suffix}"))
}

/// Gives `part` the name `path`, unless another has it by now.
pub(super) fn publish(part: &Path, path: &Path) -> Result<(), JoinError> {
    let empty = fs::metadata(path).is_ok_and(|there| there.len() == 0);
    let linked = match empty {
        true => Err(io::ErrorKind::Unsupported.into()),
        false => fs::hard_link(part, path),
    };
    match linked {
        Ok(()) => fs::remove_file(part).map_err(JoinError::io("remove", part)),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
            let _ = fs::remove_file(part);
            Err(JoinError::Begun {
                path: path.to_owned(),
            })
        }
        // a file system without links
        Err(_) => fs::rename(part, path).map_err(JoinError::io("rename a new file to", path)),
    }
}

/// Opens what lies at `path`; `None` when nothing of this take does.
pub(super) fn take_up(path: &Path, options: &Options) -> Result<Option<Open>, JoinError> {
    let fault = JoinError::io("open", path);
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(fault(cause)),
    };
    if file.metadata().map_err(&fault)?.len() == 0 {
        return Ok(None);
    }
    let scanned = State::scan_indexed(&file, path)?.filter(|scanned| scanned.is_of(options));
    let Some(scanned) = scanned else {
        let aside = unused_name(path, &format!("before-{}", options.take));
        warn!(video:% = path.display(), aside:% = aside.display(); "a file of another recording was put aside");
        fs::rename(path, &aside).map_err(JoinError::io("put aside", path))?;
        return Ok(None);
    };
    if scanned.damaged {
        let aside = unused_name(path, &format!("damaged-{}", options.take));
        fs::rename(path, &aside).map_err(JoinError::io("put aside", path))?;
        error!(
            video:% = path.display(), aside:% = aside.display();
            "the video is damaged in its middle and was put aside; it is made anew from the chunks that are on this disk; if some are only in the store, make it whole with \"ov2-ha-recorder recover\""
        );
        return Ok(None);
    }
    let mut open = Open {
        file: own(file, path)?,
        end: scanned.end,
        state: scanned.state,
        form: scanned.form,
        index: scanned.index,
    };
    open.state.clock.mode = options.gap_mode;
    match open.form {
        Form::Finished => {}
        Form::Growing => open.file.set_len(open.end).map_err(&fault)?,
        Form::HalfFinished => open.unfinish(path)?,
    }
    Ok(Some(open))
}

/// Makes sure that no one else writes into the file. Where a recorder that was replaced still holds it, it keeps the old
/// file, which has no name any more, and the name goes to a copy.
fn own(file: File, path: &Path) -> Result<File, JoinError> {
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {}
        // a file system without locks
        Err(TryLockError::Error(_)) => return Ok(file),
    }
    let part = beside(path, &format!("taken{PART}"));
    let copy = || {
        disk::needs_room(path, file.metadata()?.len())?;
        let new = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&part)?;
        let _ = new.try_lock();
        io::copy(&mut &file, &mut &new)?;
        fs::rename(&part, path)?;
        Ok(new)
    };
    warn!(video:% = path.display(); "another process holds the video, going on in a copy of it");
    copy().map_err(|cause| {
        // Half a copy only takes room.
        let _ = fs::remove_file(&part);
        JoinError::io("copy", path)(cause)
    })
}

/// A name beside `path` that nothing has yet: what was put aside before may be the only copy.
pub(super) fn unused_name(path: &Path, suffix: &str) -> PathBuf {
    let numbered = (2u32..).map(|number| beside(path, &format!("{suffix}-{number}")));
    let mut names = std::iter::once(beside(path, suffix)).chain(numbered);
    let is_free = |name: &PathBuf| fs::symlink_metadata(name).is_err();
    names.find(is_free).unwrap_or_else(|| beside(path, suffix))
}
