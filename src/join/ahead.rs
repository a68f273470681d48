//! While one chunk is copied the next ones are read from the disk, and what was appended is written to it: the system is
//! asked for both here, on a thread of its own, because asking may take as long as the disk does. It only advises; where
//! the system does nothing, the join takes longer.

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::Scope;

/// How much is appended until the system is asked to write it.
const WRITTEN_AT_ONCE: u64 = 16 << 20;

/// The line to the one who asks; it ends with this.
pub(super) struct Ahead {
    wishes: Sender<Wish>,
    written: u64,
}

enum Wish {
    Read(PathBuf),
    Write { from: u64, to: u64 },
}

impl Ahead {
    /// Has a thread ask for what the join of `video` needs.
    pub(super) fn of<'scope>(scope: &'scope Scope<'scope, '_>, video: &'scope Path) -> Self {
        let (wishes, asked) = mpsc::channel();
        scope.spawn(move || ask(video, asked));
        Self { wishes, written: 0 }
    }

    /// `path` will be read.
    pub(super) fn read(&self, path: &Path) {
        self.wish(Wish::Read(path.to_owned()));
    }

    /// The video has grown to `bytes`.
    pub(super) fn grown(&mut self, bytes: u64) {
        if bytes >= self.written + WRITTEN_AT_ONCE {
            let from = std::mem::replace(&mut self.written, bytes);
            self.wish(Wish::Write { from, to: bytes });
        }
    }

    fn wish(&self, wish: Wish) {
        // The thread ends after us.
        let _ = self.wishes.send(wish);
    }
}

fn ask(video: &Path, wishes: Receiver<Wish>) {
    let mut appended = None;
    for wish in wishes {
        let (file, at, len, advice) = match &wish {
            Wish::Read(path) => {
                let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
                (&File::open(path).ok(), 0, 0, advice)
            }
            Wish::Write { from, to } => {
                // What is not needed any more is written first.
                let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
                appended = appended.or_else(|| File::open(video).ok());
                (&appended, *from as i64, (to - from) as i64, advice)
            }
        };
        if let Some(file) = file {
            let _ = posix_fadvise(file, at, len, advice);
        }
    }
}
