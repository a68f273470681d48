//! `die-with-parent`: what a recorder starts its children through, so that none of them outlives it.

use super::{Failure, exit};
use crate::child::{self, Account};
use clap::Args;
use std::ffi::OsString;

/// Become a program that is ended by force when the process that started this one ends.
#[derive(Debug, Args)]
pub(super) struct DieWithParent {
    /// Whose the program is to be.
    #[arg(long, value_name = "USER:GROUP")]
    account: Option<Account>,
    /// The process that starts this one.
    parent: u32,
    /// The program.
    program: OsString,
    /// Its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl DieWithParent {
    pub(super) fn run(self) -> Result<(), Failure> {
        let cause =
            child::die_with_parent(self.parent, self.account, &self.program, &self.arguments);
        let program = self.program.display();
        Err(Failure::with(
            exit::UNAVAILABLE,
            format!("cannot start {program}: {cause}; is it installed?"),
        ))
    }
}
