//! A folder for what the children need while they live: the sound server's socket, the browser's profile. Each recorder
//! has its own, so that several run side by side on one host; those of recorders that were killed are cleared away.

use crate::child;
use crate::config::TABLE;
use crate::random;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How the folders are named.
const PREFIX: &str = "ov2-recorder-";

/// The folder; it goes away when dropped.
#[derive(Debug)]
pub(super) struct Workshop {
    path: PathBuf,
    /// Locked while we live: nobody clears the folder of a living recorder.
    _lock: File,
}

impl Workshop {
    /// Makes a folder below `parent` and clears those of the dead.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(super) fn open(parent: &Path) -> io::Result<Self> {
        clear_the_dead(parent);
        let path = parent.join(format!("{PREFIX}{}", random::hex::<6>()));
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = File::create(path.join("lock"))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }

    /// A path in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The address at which the children find the sound server.
    pub(super) fn sound_server(&self) -> String {
        format!("unix:{}", self.path("pulse.socket").display())
    }

    /// A command that ends with us, whose environment is ours without settings and orders, which hold secrets, and with a
    /// home and a sound server of its own.
    pub(super) fn command(&self, program: &str) -> Command {
        let ours = |name: &str| {
            name.starts_with("HA_")
                || TABLE.iter().any(|setting| name.starts_with(setting.name))
                || ["URL", "RECORDING_JSON"].contains(&name)
        };
        let mut command = child::dies_with_us(program);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_none_or(ours) {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", &self.path)
            .env("XDG_RUNTIME_DIR", &self.path)
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("PULSE_RUNTIME_PATH", self.path("pulse"))
            .env("PULSE_SERVER", self.sound_server())
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .env_remove("DISPLAY");
        command
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // A child that is just dying may still write; what is left is cleared by the next recorder.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn clear_the_dead(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let alive = File::open(entry.path().join("lock"))
            .is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        let young = entry
            .metadata()
            .and_then(|data| data.modified())
            .is_ok_and(|made| made.elapsed().is_ok_and(|age| age.as_secs() < 5));
        if !alive && !young {
            // It is only litter; the next one tries again.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_workshop_is_left_alone_and_ends_with_its_owner() {
        let parent = tempfile::tempdir().unwrap();
        let one = Workshop::open(parent.path()).unwrap();
        let two = Workshop::open(parent.path()).unwrap();
        assert!(one.path("lock").exists());
        drop(two);
        drop(one);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn children_learn_nothing_of_orders_and_settings() {
        let parent = tempfile::tempdir().unwrap();
        let workshop = Workshop::open(parent.path()).unwrap();
        let command = workshop.command("true");
        assert!(command.get_envs().any(|(name, _)| name == "PULSE_SERVER"));
    }
}
