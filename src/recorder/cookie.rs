//! The display's cookie: Xvfb accepts only clients that present it. Xvfb and its clients read it from a file in the format of
//! libXau.

use crate::random;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// How clients present it.
const PROTOCOL: &[u8] = b"MIT-MAGIC-COOKIE-1";
/// The entry is valid for displays of any address and number.
const ANY_FAMILY: u16 = 0xffff;

/// A display's cookie.
#[derive(Clone)]
pub(super) struct Cookie([u8; 16]);

impl Cookie {
    /// A random one.
    pub(super) fn new() -> Self {
        Self(random::bytes())
    }

    /// Writes it to a new file at `path` that only its owner may read.
    ///
    /// # Errors
    /// When the file system refuses. No file is left then.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&self.entry()).inspect_err(|_| {
            // A client that reads an empty file presents nothing.
            let _ = fs::remove_file(path);
        })
    }

    /// Name and data of the authorization in a connection's first message.
    pub(super) fn authorization(&self) -> (Vec<u8>, Vec<u8>) {
        (PROTOCOL.into(), self.0.into())
    }

    fn entry(&self) -> Vec<u8> {
        let (address, number) = (&[][..], &[][..]);
        let mut entry = ANY_FAMILY.to_be_bytes().to_vec();
        for part in [address, number, PROTOCOL, &self.0] {
            entry.extend((part.len() as u16).to_be_bytes());
            entry.extend(part);
        }
        entry
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a cookie")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_file_is_what_libxau_reads_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("xauth");
        let cookie = Cookie(*b"0123456789abcdef");
        cookie.write(&path).unwrap();
        let expected = b"\xff\xff\0\0\0\0\0\x12MIT-MAGIC-COOKIE-1\0\x100123456789abcdef";
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(
            cookie.write(&path).is_err(),
            "somebody else's file was taken"
        );
        assert!(!format!("{cookie:?}").contains("0123"));
    }
}
