//! Archives that commands write: files with their bytes, packed as `tar` and `gzip` do, for their owner only.

use crate::clock::Timestamp;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{self, Write};
use std::path::PathBuf;

/// Packs `files`, names and bytes, into `out`, each as if written at `at`.
///
/// # Errors
/// When `out` takes no more.
pub(super) fn pack<B: AsRef<[u8]>>(
    out: impl Write,
    at: Timestamp,
    files: impl IntoIterator<Item = (String, B)>,
) -> io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(out, Compression::default()));
    for (name, body) in files {
        let body = body.as_ref();
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o600);
        header.set_mtime((at.millis() / 1000).unsigned_abs());
        archive.append_data(&mut header, name, body)?;
    }
    archive.into_inner()?.finish().map(drop)
}

/// What an archive is called that nobody has named: a file in this folder.
pub(super) fn usual_name(what: &str, at: Timestamp) -> PathBuf {
    let stamp = at.to_string().replace([':', '.'], "-");
    PathBuf::from(format!("{what}-{stamp}.tar.gz"))
}
