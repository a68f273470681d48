//! Where an archive goes: a file that appears whole, or whatever else the name leads to, which is written into and never
//! replaced: a device, a pipe, standard output.

use super::{Failure, exit};
use crate::disk::{self, Draft};
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where an archive goes.
#[derive(Debug)]
pub(super) enum Output {
    Standard,
    /// A regular file, or none yet.
    File(PathBuf),
    /// Anything else.
    Inside(PathBuf),
}

/// Whether a file that is there already is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replace {
    Never,
    Always,
}

impl Replace {
    /// As `--force` says.
    pub(super) const fn when(force: bool) -> Self {
        match force {
            true => Self::Always,
            false => Self::Never,
        }
    }
}

impl Output {
    /// What `path` leads to; `-` is standard output.
    ///
    /// # Errors
    /// When it leads to a folder, to a terminal, or to a file that is not to be replaced.
    pub(super) fn of(path: &Path, replace: Replace) -> Result<Self, Failure> {
        let shown = path.display();
        let refuse = |why: &str| Err(Failure::with(exit::CANNOT_WRITE, format!("{shown} {why}")));
        if path == Path::new("-") {
            return match io::stdout().is_terminal() {
                true => refuse("is a terminal here; send the archive into a file or a pipe"),
                false => Ok(Self::Standard),
            };
        }
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => refuse("is a folder; name a file in it"),
            Ok(found) if found.is_file() && replace == Replace::Never => {
                refuse("is there already; --force replaces it")
            }
            // A link stays a link: what it leads to is replaced.
            Ok(found) if found.is_file() => match fs::canonicalize(path) {
                Ok(file) => Ok(Self::File(file)),
                Err(cause) => refuse(&format!("cannot be found: {cause}")),
            },
            Ok(_) => Ok(Self::Inside(path.to_owned())),
            Err(cause) if cause.kind() == ErrorKind::NotFound => match path.is_symlink() {
                true => Ok(Self::Inside(path.to_owned())),
                false => Ok(Self::File(path.to_owned())),
            },
            Err(cause) => refuse(&format!("cannot be looked at: {cause}")),
        }
    }

    /// Has `fill` write what goes there, for this user only where a file is made; answers how many bytes that were.
    ///
    /// # Errors
    /// When it cannot be written; a file is then as it was before.
    pub(super) fn write(
        &self,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<u64> {
        match self {
            Self::Standard => counted(io::stdout().lock(), fill),
            Self::Inside(path) => {
                let file = fs::OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(path)?;
                counted(file, fill)
            }
            Self::File(path) => {
                let draft = Draft::new(disk::parent(path))?;
                draft.file.set_permissions(Permissions::from_mode(0o600))?;
                let bytes = counted(&draft.file, fill)?;
                draft.publish(path)?;
                Ok(bytes)
            }
        }
    }
}

fn counted(
    out: impl Write,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<u64> {
    let mut out = Counted { out, bytes: 0 };
    fill(&mut out)?;
    out.flush()?;
    Ok(out.bytes)
}

struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
