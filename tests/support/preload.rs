//! Libraries that stand between a program and the system, in C as the linker wants them: preloaded, they play disks that
//! forget what was not flushed, or that fail.

use super::secrets::said;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the library `name` into `folder`.
pub fn library(name: &str, folder: &Path) -> PathBuf {
    let (root, library) = (
        env!("CARGO_MANIFEST_DIR"),
        folder.join(format!(".{name}.so")),
    );
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(format!("{root}/tests/support/preload/{name}.c"))
        .arg("-ldl")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", said(&built));
    library
}
