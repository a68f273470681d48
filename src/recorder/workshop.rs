//! A folder for what the children need while they live: the sound server's socket, the display's cookie, the browser's
//! profile. Each recorder has its own, so that several run side by side on one host; those of recorders that were killed are
//! cleared away.

use super::cookie::Cookie;
use super::number;
use crate::child::{self, Account};
use crate::config::TABLE;
use crate::random;
use nix::unistd::Uid;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// How the folders are named.
const PREFIX: &str = "ov2-recorder-";

/// The cookie's file.
const COOKIE: &str = "xauth";

/// Where homes are made when the workshop's disk has room for root only.
const MEMORY: &str = "/dev/shm";

/// What a home needs: the profile, and memory that the processes of a browser share.
const ROOM: u64 = 256 << 20;

/// The folder; it goes away when dropped.
#[derive(Debug)]
pub(super) struct Workshop {
    path: PathBuf,
    /// None where its file could not be written.
    cookie: Option<Cookie>,
    /// All that were made and may still be there.
    homes: Mutex<Vec<PathBuf>>,
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
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(0o600);
        let lock = options.open(path.join("lock"))?;
        lock.lock()?;
        let cookie = Cookie::new();
        let written = cookie.write(&path.join(COOKIE)).inspect_err(|cause| {
            log::warn!(
                "the display's cookie cannot be written to {}: {cause}; the display accepts every user of this machine",
                path.display()
            );
        });
        Ok(Self {
            path,
            cookie: written.ok().map(|()| cookie),
            homes: Mutex::default(),
            _lock: lock,
        })
    }

    /// What clients of the display must present.
    pub(super) const fn cookie(&self) -> Option<&Cookie> {
        self.cookie.as_ref()
    }

    /// Where the display and its clients read it.
    pub(super) fn cookie_file(&self) -> Option<PathBuf> {
        self.cookie.as_ref().map(|_| self.path(COOKIE))
    }

    /// Where the display's number is noted, for whoever clears up after a recorder that was killed.
    pub(super) fn display_note(&self) -> PathBuf {
        note_of_display(&self.path)
    }

    /// A path in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The address at which the children find the sound server.
    pub(super) fn sound_server(&self) -> String {
        format!("unix:{}", self.path("pulse.socket").display())
    }

    /// Lets `account` use what it is told the path of: the sound server's socket, the cookie, a home.
    ///
    /// # Errors
    /// When the system refuses, or the account would never get there.
    pub(super) fn admit(&self, account: Account) -> io::Result<()> {
        let path = fs::canonicalize(&self.path)?;
        for folder in path.ancestors().skip(1) {
            if folder.metadata()?.mode() & 0o001 == 0 {
                let folder = folder.display();
                return Err(io::Error::other(format!("{folder} is not for everybody")));
            }
        }
        if only_root_has_room(&self.path) {
            return Err(io::Error::other("the disk has room for root only"));
        }
        let cookie = self.cookie_file().map(|file| (file, 0o640));
        for (path, mode) in cookie.into_iter().chain([(path, 0o710)]) {
            chown(&path, None, Some(account.gid.as_raw()))?;
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// A new home for `account`, and the paths of all older ones. It has a new name each time: a process that outlived its
    /// browser may still write to an older one.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn new_home(&self, account: Account) -> io::Result<(PathBuf, Vec<PathBuf>)> {
        let in_workshop = self.path(&format!("home-{}", random::hex::<4>()));
        let make = |home: PathBuf| {
            DirBuilder::new().mode(0o700).create(&home)?;
            chown(
                &home,
                Some(account.uid.as_raw()),
                Some(account.gid.as_raw()),
            )?;
            Ok(home)
        };
        let home = match only_root_has_room(&self.path) {
            true => make(Path::new(MEMORY).join(format!("{PREFIX}{}", random::hex::<6>())))
                .or_else(|_: io::Error| make(in_workshop)),
            false => make(in_workshop),
        }?;
        let mut homes = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        homes.retain(|home| home.exists());
        let older = homes.clone();
        homes.push(home.clone());
        Ok((home, older))
    }

    /// A command that ends with us, whose environment is ours without settings and orders, which hold secrets, and with a
    /// home and a sound server of its own.
    pub(super) fn command(&self, program: &str) -> Command {
        self.command_at(&self.path, child::dies_with_us(program, None))
    }

    /// The same for `account`, at home in `home`.
    pub(super) fn command_of(&self, account: Account, home: &Path, program: &str) -> Command {
        let mut command = self.command_at(home, child::dies_with_us(program, Some(account)));
        command
            // What is inherited may be for root only.
            .env("TMPDIR", home)
            .env_remove("USER")
            .env_remove("LOGNAME");
        command
    }

    fn command_at(&self, home: &Path, mut command: Command) -> Command {
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_none_or(is_ours) {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", home)
            .env("XDG_RUNTIME_DIR", home)
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("PULSE_RUNTIME_PATH", home.join("pulse"))
            .env("PULSE_SERVER", self.sound_server())
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .env_remove("DISPLAY");
        if let Some(cookie) = self.cookie_file() {
            command.env("XAUTHORITY", cookie);
        }
        command
    }
}

/// Whether a variable is for us alone, as it may hold a secret.
fn is_ours(name: &str) -> bool {
    ["HA_", "AWS_"].iter().any(|it| name.starts_with(it))
        || TABLE.iter().any(|setting| name.starts_with(setting.name))
        || ["URL", "RECORDING_JSON"].contains(&name)
}

/// Whether the file system of `path` has too little room for a home, but more for root: ext4 keeps a part of the disk for it.
fn only_root_has_room(path: &Path) -> bool {
    nix::sys::statvfs::statvfs(path).is_ok_and(|found| {
        let available = found.blocks_available();
        available < found.blocks_free() && available * found.fragment_size() < ROOM
    })
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let homes = self.homes.get_mut().unwrap_or_else(PoisonError::into_inner);
        for path in homes.iter().chain([&self.path]) {
            // A child that is just dying may still write; what is left is cleared by the next recorder.
            let _ = fs::remove_dir_all(path);
        }
    }
}

fn clear_the_dead(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let alive = File::open(entry.path().join("lock"))
            .is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        let Ok(data) = entry.metadata() else { continue };
        let made = data.modified();
        let young = made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age.as_secs() < 5));
        if !alive && !young {
            // What another user has noted is not believed.
            if data.uid() == Uid::effective().as_raw() {
                number::release(&note_of_display(&entry.path()));
            }
            // It is only litter; the next one tries again.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn note_of_display(workshop: &Path) -> PathBuf {
    workshop.join("display")
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
        for ours in [
            "URL",
            "RECORDING_JSON",
            "HA_CONTROLLER_PASSWORD",
            "OPENVIDU_SECRET",
            "AWS_SECRET_ACCESS_KEY",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for theirs in ["PATH", "LANG", "https_proxy", "LD_PRELOAD"] {
            assert!(!is_ours(theirs), "{theirs}");
        }
        let parent = tempfile::tempdir().unwrap();
        let workshop = Workshop::open(parent.path()).unwrap();
        let command = workshop.command("true");
        assert!(command.get_envs().any(|(name, _)| name == "PULSE_SERVER"));
    }

    /// A folder that everybody may enter, unlike other temporary ones.
    fn open_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[test]
    fn a_home_is_its_accounts_alone_and_new_each_time() {
        if !Uid::effective().is_root() {
            return;
        }
        let account: Account = "47047:47048".parse().unwrap();
        let parent = open_folder();
        let workshop = Workshop::open(parent.path()).unwrap();
        workshop.admit(account).unwrap();
        let whose = |path: &Path| {
            let data = path.metadata().unwrap();
            (data.uid(), data.gid(), data.mode() & 0o777)
        };
        let (first, older) = workshop.new_home(account).unwrap();
        assert_eq!((whose(&first), older), ((47047, 47048, 0o700), vec![]));
        // Something of it is still in use.
        fs::write(first.join("left"), "").unwrap();
        let command = workshop.command_of(account, &first, "true");
        let temporary = command.get_envs().find(|(name, _)| *name == "TMPDIR");
        assert_eq!(temporary.unwrap().1, Some(first.as_os_str()));
        let (second, older) = workshop.new_home(account).unwrap();
        assert_eq!(
            (whose(&second), older),
            ((47047, 47048, 0o700), vec![first.clone()])
        );
        fs::remove_dir_all(&first).unwrap();
        let (_, older) = workshop.new_home(account).unwrap();
        assert_eq!(older, vec![second.clone()]);
        assert_eq!(whose(&workshop.path), (0, 47048, 0o710));
        assert_eq!(whose(&workshop.cookie_file().unwrap()), (0, 47048, 0o640));
        assert_eq!(whose(&workshop.path("lock")).2 & 0o077, 0);
        drop(workshop);
        assert!(!second.exists());
    }

    #[test]
    fn who_cannot_get_there_is_not_admitted() {
        let account: Account = "47047:47048".parse().unwrap();
        let parent = open_folder();
        let closed = parent.path().join("closed");
        DirBuilder::new().mode(0o750).create(&closed).unwrap();
        let below = closed.join("below");
        DirBuilder::new().mode(0o755).create(&below).unwrap();
        let workshop = Workshop::open(&below).unwrap();
        let refused = workshop.admit(account).unwrap_err().to_string();
        assert!(refused.contains("closed is not for everybody"), "{refused}");
        assert_eq!(workshop.path.metadata().unwrap().mode() & 0o777, 0o700);
    }
}
