//! Videos that could not be finished: nothing is given up and nothing sealed for it; each further try comes later, and a person
//! is told.

use super::Controller;
use super::table::Entry;
use super::takes::{TakeError, Unread};
use crate::clock::Timestamp;
use crate::model::ids::RecordingId;
use crate::model::session::{SEAL_AFTER, Session, State};
use log::error;
use std::time::Duration;

/// The longest time until another try for want of something that comes back: a store, room on the disk.
const LONGEST_WANT: Duration = Duration::from_secs(5 * 60);
/// The same where the chunks or the disk are at fault: all of them are read each time.
const LONGEST: Duration = Duration::from_secs(6 * 3_600);

/// So often a chunk may not be read before it is left out: by then, minutes after the first try, a video with a gap is worth
/// more than none.
const TRIES_TO_READ: u32 = 3;

/// A video that could not be finished.
#[derive(Clone, Debug)]
pub(super) struct Unfinished {
    tries: u32,
    /// How many of them failed for a chunk that could not be read.
    unread: u32,
    /// When it was tried first.
    pub(super) since: Timestamp,
    /// Not before this is it tried again.
    next: Timestamp,
    /// Why it failed last, for a person.
    pub(super) why: String,
}

impl Unfinished {
    /// Whether it failed more than once.
    pub(super) const fn lasts(&self) -> bool {
        self.tries > 1
    }

    /// The clock was set back to `now`.
    pub(super) fn set_back(&mut self, now: Timestamp) {
        self.since = self.since.min(now);
        self.next = self.next.min(now);
    }

    /// Another try has failed; answers how long it is waited for the next one.
    fn fails(&mut self, cause: &TakeError, now: Timestamp) -> Duration {
        let pause = pause_after(self.tries, cause);
        self.tries += 1;
        self.unread += u32::from(cause.is_unread());
        self.why = cause.to_string();
        self.next = now.plus(pause);
        pause
    }
}

/// How long it is waited after so many earlier tries.
pub(super) fn pause_after(earlier: u32, cause: &TakeError) -> Duration {
    let longest = match cause {
        TakeError::Join(cause) if !cause.is_for_want_of_room() => LONGEST,
        _ => LONGEST_WANT,
    };
    let doubled = SEAL_AFTER.saturating_mul(2u32.saturating_pow(earlier));
    doubled.min(longest)
}

/// What becomes of a chunk that cannot be read, after so many earlier tries that failed for one.
pub(super) const fn about_unread(earlier: u32) -> Unread {
    if earlier < TRIES_TO_READ {
        Unread::Refuse
    } else {
        Unread::LeaveOut
    }
}

/// Whether it has come to its end, and nobody has finished the video.
pub(super) fn has_no_video(session: &Session) -> bool {
    let ends = match session.state {
        State::Stopping { .. } | State::Failed { .. } | State::GivenUp { .. } => true,
        // Somebody has set it so; its seal is waited for still.
        State::Inactive { .. } => session.seal_at.is_some(),
        _ => false,
    };
    ends && session.finished_at.is_none()
}

impl Entry {
    /// Why its video could not be finished, until it is, or something else has become of it.
    pub(super) fn unfinished(&self) -> Option<&Unfinished> {
        self.stall.as_ref()?.unfinished.as_ref()
    }

    #[cfg(test)]
    pub(super) fn tries_to_finish(&self) -> u32 {
        self.unfinished().map_or(0, |it| it.tries)
    }
}

impl Controller {
    /// Whether its video could not be finished a while ago, whatever brings that up again; its seal waits as well.
    pub(super) fn waits_for_another_try(&self, id: &RecordingId) -> bool {
        let now = self.0.clock.now();
        let next = |entry: &Entry| entry.unfinished().map(|it| it.next);
        let next = self.table().get(id).and_then(next);
        let Some(next) = next.filter(|at| *at > now) else {
            return false;
        };
        // A session that is gone waits for nothing.
        let _ = self.change(id, |entry| {
            let seal_at = entry.session.seal_at;
            entry.session.seal_at = Some(seal_at.map_or(next, |at| at.max(next)));
        });
        true
    }

    /// What becomes of its chunks that cannot be read.
    pub(super) fn about_unread_of(&self, id: &RecordingId) -> Unread {
        let unread = |entry: &Entry| entry.unfinished().map(|it| it.unread);
        about_unread(self.table().get(id).and_then(unread).unwrap_or(0))
    }

    /// Its video could not be finished.
    pub(super) fn try_again_later(&self, id: &RecordingId, cause: &TakeError) {
        let now = self.0.clock.now();
        let pause = self.change(id, |entry| {
            // A recorder may be at work again.
            if !has_no_video(&entry.session) {
                return None;
            }
            let stall = entry.stall.get_or_insert_default();
            let unfinished = stall.unfinished.get_or_insert_with(|| Unfinished {
                tries: 0,
                unread: 0,
                since: now,
                next: now,
                why: String::new(),
            });
            let pause = unfinished.fails(cause, now);
            entry.session.seal_at = Some(unfinished.next);
            Some(pause)
        });
        if let Ok(Some(pause)) = pause {
            let seconds = pause.as_secs();
            error!(session:% = id; "the video could not be finished and is tried again in {seconds} s: {cause}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::JoinError;
    use std::io::ErrorKind;

    fn refused(kind: ErrorKind) -> TakeError {
        TakeError::Join(JoinError::Io {
            act: "write",
            path: "ses_A.mp4".into(),
            cause: kind.into(),
        })
    }

    #[test]
    fn what_wants_only_room_is_tried_again_within_minutes_and_a_fault_ever_later() {
        let pauses = |kind: ErrorKind| {
            [0, 1, 2, 3, 8, 9, 40].map(|tries| pause_after(tries, &refused(kind)).as_secs())
        };
        let room = pauses(ErrorKind::StorageFull);
        assert_eq!(room, [45, 90, 180, 300, 300, 300, 300]);
        let fault = pauses(ErrorKind::PermissionDenied);
        assert_eq!(fault, [45, 90, 180, 360, 11_520, 21_600, 21_600]);
    }
}
