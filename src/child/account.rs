//! Another user as whom a child runs, who may do less than we.

use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use std::fmt;
use std::str::FromStr;

/// A user and its only group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub uid: Uid,
    /// Its group.
    pub gid: Gid,
}

impl Account {
    /// Makes this process the account's, for good.
    ///
    /// # Errors
    /// When the system refuses. Part of it may be done then: the process is of no use any more.
    pub fn assume(self) -> nix::Result<()> {
        setgroups(&[self.gid])?;
        setgid(self.gid)?;
        setuid(self.uid)?;
        // Without it a program that belongs to root could still give rights back; with or without it there are fewer now.
        let _ = prctl::set_no_new_privs();
        Ok(())
    }
}

impl fmt::Display for Account {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.uid, self.gid)
    }
}

impl FromStr for Account {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse::<u32>().ok();
        let both = text.split_once(':');
        both.and_then(|(user, group)| {
            let (uid, gid) = (number(user)?.into(), number(group)?.into());
            Some(Self { uid, gid })
        })
        .ok_or("expected two numbers as in 1000:1000")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_reads_as_it_is_written() {
        let account: Account = "47047:1".parse().unwrap();
        assert_eq!(account.to_string(), "47047:1");
        for wrong in ["", "1", "root:root", "1:2:3", "-1:1"] {
            assert!(wrong.parse::<Account>().is_err(), "{wrong}");
        }
    }
}
