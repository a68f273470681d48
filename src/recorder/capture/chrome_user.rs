//! The user that Chrome runs as. Pages run without Chrome's own sandbox, which needs name spaces that a container may not make:
//! whoever breaks out of a page can do what this user can. It reaches the display and the sound server, and neither the
//! settings nor the recording nor the recorder's other processes. Where the system does not allow for it, Chrome runs as the
//! recorder's own user, as OpenVidu's does: no recording fails for want of it.

use crate::child::Account;
use crate::recorder::context::Context;
use crate::recorder::order::View;
use crate::recorder::workshop::Workshop;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Uid, User};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The user; the image creates it.
const NAME: &str = "ov2-chrome";

/// What this process must be allowed: to give files away, to reach and delete what belongs to another, to end another's
/// processes, and to start one. As Linux numbers them.
const CAPABILITIES: [(u32, &str); 5] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
];

/// How many processes and threads the user must be allowed. The kernel counts those of all recorders of a host together, and
/// root's not at all; a Chrome has one to three hundred.
const PROCESSES: u64 = 16_384;

/// Where Linux keeps who else may use a file.
const ACCESS_LIST: &str = "system.posix_acl_access";

/// Whom Chrome runs as.
#[derive(Debug)]
pub(super) struct ChromeUser {
    account: Option<Account>,
    /// Whether a Chrome of that account has answered, or the first one ended before. Ends of later ones do not count: a page
    /// that has broken out could bring them about to become root.
    works: OnceLock<bool>,
}

impl ChromeUser {
    /// The image's user, where the system allows for it.
    pub(super) fn find(context: &Context, view: &View) -> Self {
        let account = usable(view, &context.workshop)
            .inspect_err(|why| log::info!("Chrome runs as the recorder's own user: {why}"))
            .ok();
        let works = OnceLock::new();
        Self { account, works }
    }

    /// Keeps it from `path`, a recording's folder or OpenVidu's settings.
    pub(super) fn keep_from(&self, context: &Context, path: PathBuf) {
        let Some(account) = self.account else { return };
        // Recording does not wait for a slow disk.
        let close = move || close(&path, account);
        context.tasks.spawn_blocking("closing to pages", close);
    }

    /// Whose the next Chrome is to be; `None` for the recorder's own user.
    pub(super) fn account(&self) -> Option<Account> {
        self.account.filter(|_| self.works.get() != Some(&false))
    }

    /// Chrome has answered, and no page could do anything about that yet.
    pub(super) fn has_answered(&self) {
        // The first result stands.
        let _ = self.works.set(true);
    }

    /// Chrome ended. The first one, where it never answered, may lack something that the recorder's own user has.
    pub(super) fn has_ended(&self, how: &str) {
        if self.works.set(false).is_ok() && self.account.is_some() {
            log::warn!(
                "Chrome runs as the recorder's own user, as it did not start as {NAME}: {how}"
            );
        }
    }
}

/// The account, admitted to the workshop, or why it cannot be used.
fn usable(view: &View, workshop: &Workshop) -> Result<Account, String> {
    if !Uid::effective().is_root() {
        return Err("the recorder is not root".into());
    }
    if is_file(view.url.expose()) {
        return Err("the page is a file, which may be readable for root only".into());
    }
    let status = fs::read_to_string("/proc/self/status");
    if let Some(missing) = missing_capability(&status.unwrap_or_default()) {
        return Err(format!("this container lacks {missing}"));
    }
    if let Some(most) = process_limit().filter(|most| *most < PROCESSES) {
        return Err(format!(
            "its processes are limited to {most}, which all recorders of this host share; set their ulimit nproc to {PROCESSES} or more"
        ));
    }
    let account = match User::from_name(NAME) {
        Ok(Some(user)) => Account {
            uid: user.uid,
            gid: user.gid,
        },
        Ok(None) => return Err(format!("there is no user {NAME}")),
        Err(cause) => return Err(format!("{NAME} cannot be looked up: {cause}")),
    };
    let admitted = workshop.admit(account);
    admitted.map_err(|cause| {
        format!("{NAME} cannot be let into the folder for temporary files: {cause}")
    })?;
    Ok(account)
}

/// How many processes a user may have that is not root, once all is allowed that can be.
fn process_limit() -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NPROC).ok()?;
    if soft >= hard {
        return Some(soft);
    }
    let raised = setrlimit(Resource::RLIMIT_NPROC, hard, hard);
    Some(if raised.is_ok() { hard } else { soft })
}

fn is_file(url: &str) -> bool {
    let scheme = url.trim_start().get(..5);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:"))
}

/// The first of [`CAPABILITIES`] that a process of that `status` lacks.
fn missing_capability(status: &str) -> Option<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok());
    let held = held.unwrap_or_default();
    let mut needed = CAPABILITIES.iter();
    let (_, name) = needed.find(|(number, _)| held & (1 << number) == 0)?;
    Some(name)
}

/// Keeps `account` from `path`, and nobody else: what belongs to a group is closed to that group where it is open to all.
/// That a file system refuses is no reason to record less.
fn close(path: &Path, account: Account) {
    let closed = fs::symlink_metadata(path).and_then(|data| {
        if !is_closable(&data) || xattr::get(path, ACCESS_LIST).is_ok_and(|list| list.is_some()) {
            return Ok(());
        }
        // The group first: were the second step refused, nobody would have lost anything.
        lchown(path, None, Some(account.gid.as_raw()))?;
        fs::set_permissions(path, Permissions::from_mode(data.mode() & 0o7707))
    });
    match closed {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            log::warn!("pages are not kept from {}: {cause}", path.display());
        }
        _ => {}
    }
}

/// Whether the account may use it, and members of its group lose nothing with that group. Whoever gave it another group has a
/// reason.
fn is_closable(data: &fs::Metadata) -> bool {
    let (group, others) = (data.mode() >> 3 & 0o7, data.mode() & 0o7);
    let is_of_root = (data.uid(), data.gid()) == (0, 0);
    is_of_root && !data.is_symlink() && others != 0 && group & !others == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_one_of_the_capabilities_there_is_no_other_user() {
        let docker = "Name:\tx\nCapEff:\t00000000a80425fb\n";
        assert_eq!(missing_capability(docker), None);
        assert_eq!(
            missing_capability("CapEff:\t00000000a80425db"),
            Some("CAP_KILL")
        );
        assert_eq!(
            missing_capability("CapEff:\t0000000000000000"),
            Some("CAP_CHOWN")
        );
        assert_eq!(missing_capability(""), Some("CAP_CHOWN"));
    }

    #[test]
    fn a_page_that_only_root_may_read_is_read_by_root() {
        assert!(is_file("file:///a") && is_file(" FILE:/a"));
        assert!(
            !is_file("https://host/file:") && !is_file("file") && !is_file("\u{e9}\u{e9}\u{e9}")
        );
    }

    #[test]
    fn the_first_result_about_the_user_stands() {
        let account = Some("47047:47047".parse().unwrap());
        let new = || ChromeUser {
            account,
            works: OnceLock::new(),
        };
        let user = new();
        user.has_answered();
        user.has_ended("it was killed");
        assert_eq!(user.account(), account);
        let user = new();
        user.has_ended("it could not be started");
        user.has_answered();
        assert_eq!(user.account(), None);
    }

    #[test]
    fn what_is_closed_is_closed_to_one_group_only() {
        if !Uid::effective().is_root() {
            return;
        }
        let account: Account = "47047:47048".parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str, mode: u32, gid: u32| {
            let path = folder.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            lchown(&path, None, Some(gid)).unwrap();
            path
        };
        for (name, mode, gid, closed) in [
            ("open", 0o644, 0, (0o604, 47048)),
            ("wide", 0o777, 0, (0o707, 47048)),
            ("private", 0o600, 0, (0o600, 0)),
            ("of a group", 0o750, 0, (0o750, 0)),
            ("written by a group", 0o775, 0, (0o775, 0)),
            ("shared", 0o664, 100, (0o664, 100)),
        ] {
            let path = made(name, mode, gid);
            close(&path, account);
            let data = path.metadata().unwrap();
            assert_eq!((data.mode() & 0o7777, data.gid()), closed, "{name}");
        }
        let listed = made("listed", 0o644, 0);
        // Version 2, in which user 1 reads by an entry of its own, which the group's bits of the mode limit.
        let entries: [(u16, u16, u32); 5] = [
            (1, 6, u32::MAX),
            (2, 4, 1),
            (4, 4, u32::MAX),
            (16, 4, u32::MAX),
            (32, 4, u32::MAX),
        ];
        let mut list = 2u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            list.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
            list.extend(id.to_le_bytes());
        }
        // Not every file system has such lists.
        if xattr::set(&listed, ACCESS_LIST, &list).is_ok() {
            close(&listed, account);
            let after = xattr::get(&listed, ACCESS_LIST).unwrap();
            assert_eq!((after, listed.metadata().unwrap().gid()), (Some(list), 0));
        }
        let link = folder.path().join("link");
        let target = made("target", 0o644, 0);
        std::os::unix::fs::symlink(&target, &link).unwrap();
        close(&link, account);
        assert_eq!(target.metadata().unwrap().mode() & 0o7777, 0o644);
        close(&folder.path().join("nothing"), account);
    }
}
