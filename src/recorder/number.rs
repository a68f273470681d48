//! A display's number. Left to itself Xvfb chooses one by its abstract sockets, which everybody in the network name space
//! reaches: on the host's network each container of the host. Without them it deletes the socket file of a server that runs
//! and takes its place. So the number is reserved here: by the socket's file, which only one can create, and by its abstract
//! name, which is bound and never listened on. Clients try that name first and go on to the file when nobody listens; if it
//! were free, a stranger could listen there, be given the cookie and let the capture wait.

use crate::random;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::UnixSocket;

/// Where the clients of every display look for its socket.
pub(super) const FOLDER: &str = "/tmp/.X11-unix";
/// The lowest number that is reserved: other servers count from zero.
const FIRST: u32 = 1000;
/// How many there are.
const NUMBERS: u32 = 50_000;
/// How many are tried.
const TRIES: usize = 100;

/// A number that nobody else has; free again when dropped.
#[derive(Debug)]
pub(super) struct Number {
    value: u32,
    note: PathBuf,
    /// Bound as long as the number is ours.
    _abstract_name: UnixSocket,
}

impl Number {
    /// Reserves one and writes it to the file `note`, so that [`release`] can clear up after a recorder that was killed.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn reserve(note: &Path) -> io::Result<Self> {
        make_folder()?;
        let random = || FIRST + u32::from_ne_bytes(random::bytes()) % NUMBERS;
        Self::first_free(std::iter::repeat_with(random).take(TRIES), note)
    }

    fn first_free(numbers: impl IntoIterator<Item = u32>, note: &Path) -> io::Result<Self> {
        let taken = [io::ErrorKind::AlreadyExists, io::ErrorKind::AddrInUse];
        for value in numbers {
            match Self::claim(value, note) {
                Err(cause) if taken.contains(&cause.kind()) => {}
                claimed => return claimed,
            }
        }
        Err(io::Error::other("no number is free"))
    }

    fn claim(value: u32, note: &Path) -> io::Result<Self> {
        let abstract_name = UnixSocket::new_stream()?;
        abstract_name.bind(abstract_socket(value))?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).open(socket(value))?;
        // Without it, as on a full disk, a recorder that is killed leaves the socket's file behind.
        let _ = fs::write(note, value.to_string());
        Ok(Self {
            value,
            note: note.to_owned(),
            _abstract_name: abstract_name,
        })
    }

    /// The number.
    pub(super) const fn value(&self) -> u32 {
        self.value
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        release(&self.note);
        // For the case that there was no note. Most often the file is gone by now.
        let _ = fs::remove_file(socket(self.value));
    }
}

/// Frees the number in the file `note`, if there is one.
pub(super) fn release(note: &Path) {
    let number = fs::read_to_string(note).ok();
    // The note first: of two who clear up only one goes on, and nobody reserves the number while its file is there.
    if fs::remove_file(note).is_ok()
        && let Some(number) = number.and_then(|text| text.parse().ok())
    {
        let _ = fs::remove_file(socket(number));
    }
}

/// The socket's file of display `number`.
pub(super) fn socket(number: u32) -> PathBuf {
    Path::new(FOLDER).join(format!("X{number}"))
}

/// The abstract name of the same, as the kernel takes it: after a zero byte.
pub(super) fn abstract_socket(number: u32) -> OsString {
    let mut name = vec![0];
    name.extend(socket(number).as_os_str().as_bytes());
    OsString::from_vec(name)
}

/// Creates the folder of the sockets where there is none. Xvfb creates it for root only.
fn make_folder() -> io::Result<()> {
    match DirBuilder::new().mode(0o1777).create(FOLDER) {
        // The mask of this process has taken some of it.
        Ok(()) => fs::set_permissions(FOLDER, Permissions::from_mode(0o1777)),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(cause) => Err(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    fn address(number: u32) -> SocketAddr {
        SocketAddr::from_abstract_name(socket(number).as_os_str().as_bytes()).unwrap()
    }

    #[test]
    fn numbers_are_reserved_by_one_each_and_freed() {
        let folder = tempfile::tempdir().unwrap();
        let note = |of: usize| folder.path().join(of.to_string());
        let mut all: Vec<_> = (0..50)
            .map(|of| Number::reserve(&note(of)).unwrap())
            .collect();
        let values: BTreeSet<_> = all.iter().map(Number::value).collect();
        assert_eq!(values.len(), 50);
        for value in &values {
            assert!(socket(*value).exists());
            let refused = UnixStream::connect_addr(&address(*value)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            let taken = UnixListener::bind_addr(&address(*value)).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        }
        // A recorder that was killed: the kernel frees the name, and nobody the file.
        let mut killed = all.swap_remove(7);
        let number = killed.value();
        killed._abstract_name = UnixSocket::new_stream().unwrap();
        std::mem::forget(killed);
        let again = Number::claim(number, &note(50)).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        release(&note(7));
        drop(all);
        assert!(!values.iter().any(|value| socket(*value).exists()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        UnixListener::bind_addr(&address(number)).unwrap();
    }

    #[test]
    fn a_number_on_which_a_stranger_listens_is_not_reserved() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("note");
        let number = Number::reserve(&note).unwrap().value();
        let stranger = UnixListener::bind_addr(&address(number)).unwrap();
        let refused = Number::claim(number, &note).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert!(!socket(number).exists() && !note.exists());
        let other = Number::reserve(&folder.path().join("other")).unwrap();
        let next = std::iter::once(number).chain([other.value(), number + 1]);
        assert_eq!(Number::first_free(next, &note).unwrap().value(), number + 1);
        drop(stranger);
        Number::claim(number, &note).unwrap();
    }
}
