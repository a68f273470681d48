//! Programs that this process's environment tells nothing.

use std::ffi::OsStr;
use std::process::Command;

/// A call of `program` whose environment says where programs are, and nothing else.
pub fn bare(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap());
    command
}
