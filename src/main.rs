//! The program; see the library for its story.

use std::process::ExitCode;

fn main() -> ExitCode {
    ov2_ha_recorder::cli::main()
}
