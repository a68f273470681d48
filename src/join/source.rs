//! Reading fragmented MP4 files from disk: the chunks, and the growing file itself. Only what a `moof` says is read, never
//! the media, and what was cut off at any byte counts up to its last whole box.

use super::Malformed;
use super::boxes::{self, Header};
use super::fragment::{Head, LONGEST_BOX, LONGEST_MEDIA, limit};
use super::init::{Init, take_record};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Why a file could not be read on.
#[derive(Debug)]
pub(super) enum Trouble {
    Io(io::Error),
    Malformed(Malformed),
}

impl From<io::Error> for Trouble {
    fn from(cause: io::Error) -> Self {
        Self::Io(cause)
    }
}

impl From<Malformed> for Trouble {
    fn from(fault: Malformed) -> Self {
        Self::Malformed(fault)
    }
}

/// Reads a file's boxes through a small window: one read a fragment.
#[derive(Debug)]
pub(super) struct Window<'a> {
    /// Where to read more than is held; `None` where everything is.
    file: Option<&'a File>,
    /// Nothing at or after this place is looked at.
    pub(super) end: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    const USUAL: usize = 4 << 10;

    pub(super) fn new(file: &'a File) -> io::Result<Self> {
        let end = file.metadata()?.len();
        Ok(Self {
            file: Some(file),
            end,
            at: 0,
            bytes: Vec::new(),
        })
    }

    /// The same over a file's bytes.
    pub(super) fn over(bytes: Vec<u8>) -> Self {
        Self {
            file: None,
            end: bytes.len() as u64,
            at: 0,
            bytes,
        }
    }

    /// The header of the box at `at`; `None` when the box is not there as a whole.
    pub(super) fn header(&mut self, at: u64) -> Result<Option<Header>, Trouble> {
        let bytes = self.bytes(at, Header::MOST)?;
        let header = Header::read(bytes)?;
        let fits = |header: &Header| {
            at.checked_add(header.len)
                .is_some_and(|end| end <= self.end)
        };
        Ok(header.filter(fits))
    }

    /// The box of `header` at `at`, header included.
    pub(super) fn whole(&mut self, at: u64, header: &Header) -> Result<&[u8], Trouble> {
        limit(header.len, LONGEST_BOX, header.kind)?;
        let len = header.len as usize;
        match self.bytes(at, len)? {
            bytes if bytes.len() == len => Ok(bytes),
            _ => Err(Malformed::new("the file became shorter while it was read").into()),
        }
    }

    /// `len` bytes at `at`, fewer at the end of the file.
    pub(super) fn part(&mut self, at: u64, len: u64) -> Result<&[u8], Trouble> {
        limit(len, LONGEST_BOX, *b"read")?;
        Ok(self.bytes(at, len as usize)?)
    }

    /// Up to `len` bytes at `at`; fewer at the end.
    fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let len = len.min(usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX));
        let held = at >= self.at && at + len as u64 <= self.at + self.bytes.len() as u64;
        if !held {
            self.fill(at, len.max(Self::USUAL))?;
        }
        let from = (at - self.at) as usize;
        Ok(self
            .bytes
            .get(from..(from + len).min(self.bytes.len()))
            .unwrap_or(&[]))
    }

    fn fill(&mut self, at: u64, len: usize) -> io::Result<()> {
        let Some(file) = self.file else {
            return Ok(());
        };
        self.at = at;
        self.bytes.resize(len, 0);
        let mut filled = 0;
        while filled < len {
            match file.read_at(&mut self.bytes[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
        self.bytes.truncate(filled);
        Ok(())
    }
}

/// A `moof` in a file with all the `mdat` boxes it refers to.
#[derive(Debug)]
pub(super) struct Found {
    /// Where the `moof` begins.
    pub(super) at: u64,
    pub(super) head: Head,
}

impl Found {
    /// Where the `mdat` begins.
    pub(super) fn media_at(&self) -> u64 {
        self.at + u64::from(self.head.moof_len)
    }

    /// How long the `mdat` is.
    pub(super) fn media_len(&self) -> u64 {
        self.head.len - u64::from(self.head.moof_len)
    }
}

/// Reads the fragment whose `moof` is at `at`; `None` when it is not there as a whole.
pub(super) fn fragment(
    window: &mut Window<'_>,
    at: u64,
    moof: &Header,
    init: &Init,
) -> Result<Option<Found>, Trouble> {
    let Some(mdat) = window.header(at + moof.len)? else {
        return Ok(None);
    };
    if mdat.kind != *b"mdat" {
        let other = boxes::name(mdat.kind);
        return Err(Malformed::new(format!("{other} follows a moof instead of mdat")).into());
    }
    limit(mdat.len, LONGEST_MEDIA, mdat.kind)?;
    let head = Head::read(window.whole(at, moof)?, moof.len + mdat.len, init)?;
    Ok(Some(Found { at, head }))
}

/// A chunk file, read fragment by fragment.
#[derive(Debug)]
pub(super) struct Chunk<'a> {
    window: Window<'a>,
    at: u64,
    kind: Bytes,
    init: Option<Arc<Init>>,
}

impl<'a> Chunk<'a> {
    pub(super) fn open(file: &'a File) -> io::Result<Self> {
        Ok(Self {
            window: Window::new(file)?,
            at: 0,
            kind: Bytes::new(),
            init: None,
        })
    }

    /// How the fragments read so far are to be read.
    pub(super) fn init(&self) -> Option<Arc<Init>> {
        self.init.clone()
    }

    /// The bytes that were not read.
    pub(super) fn rest(&self) -> u64 {
        self.window.end.saturating_sub(self.at)
    }

    /// The next whole fragment; `None` at the end of those that are whole.
    pub(super) fn next(&mut self) -> Result<Option<Found>, Trouble> {
        while let Some(header) = self.window.header(self.at)? {
            let at = self.at;
            match &header.kind {
                b"moof" => {
                    let missing = || Malformed::new("a moof comes before any moov");
                    let init = self.init.clone().ok_or_else(missing)?;
                    let found = fragment(&mut self.window, at, &header, &init)?;
                    if let Some(found) = &found {
                        self.at = at + found.head.len;
                    }
                    return Ok(found);
                }
                b"ftyp" => self.kind = Bytes::copy_from_slice(self.window.whole(at, &header)?),
                b"uuid" => take_record(&mut self.kind, self.window.whole(at, &header)?),
                b"moov" => {
                    let moov = Bytes::copy_from_slice(self.window.whole(at, &header)?);
                    self.init = Some(Arc::new(Init::read(std::mem::take(&mut self.kind), moov)?));
                }
                _ => {}
            }
            self.at = at + header.len;
        }
        Ok(None)
    }
}
