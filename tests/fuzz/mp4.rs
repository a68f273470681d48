//! Any bytes as what ffmpeg writes, as a chunk, as a video that was left:
//! `cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none mp4 -- -max_total_time=60`.

#![no_main]
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "../support/reader.rs"]
mod reader;

use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

const GOOD: &[u8] = include_bytes!("corpus/mp4/chunk.mp4");

/// In memory where that can be: a finished video is flushed to the disk.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    memory.unwrap().keep()
});

fuzz_target!(|bytes: &[u8]| reader::read(bytes, GOOD, &FOLDER));
