//! A file system of its own, in a file, which hangs when it is told to: what is written to it then waits.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Mounted until it is dropped.
#[derive(Debug)]
pub struct OwnDisk {
    folder: tempfile::TempDir,
}

impl OwnDisk {
    /// Mounts one; the link `name` leads to it.
    ///
    /// # Errors
    /// Where this machine, or this user, cannot.
    pub fn named(name: &Path) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let (image, disk) = (folder.path().join("image"), Self { folder });
        let make = || {
            fs::create_dir(disk.place())?;
            File::create(&image)?.set_len(512 << 20)?;
            symlink(disk.place(), name)
        };
        make().unwrap();
        run("mkfs.ext4", &["-q"], &[&image])?;
        run("mount", &["-o", "loop"], &[&image, &disk.place()])?;
        Ok(disk)
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// What is written from now on waits, until the answer is dropped: before anything that waits for what was written.
    ///
    /// # Errors
    /// Where this machine cannot do that.
    pub fn hang(&self) -> Result<Hang<'_>, String> {
        run("fsfreeze", &["-f"], &[&self.place()])?;
        Ok(Hang(self))
    }
}

/// A disk that hangs.
#[derive(Debug)]
pub struct Hang<'a>(&'a OwnDisk);

impl Drop for Hang<'_> {
    fn drop(&mut self) {
        let _ = run("fsfreeze", &["-u"], &[&self.0.place()]);
    }
}

impl Drop for OwnDisk {
    fn drop(&mut self) {
        let _ = run("umount", &["-l"], &[&self.place()]);
    }
}

fn run(program: &str, arguments: &[&str], paths: &[&Path]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments).args(paths).stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program}: {status}")),
        Err(cause) => Err(format!("{program}: {cause}")),
    }
}
