//! A recording shows by its files that it goes on, also where its recorder cannot be heard: the video at OpenVidu's path and
//! the chunks beside it. They are looked at when time alone would hold a recorder lost; nothing here writes.

use super::Controller;
use crate::clock::Timestamp;
use crate::model::failover::{Fault, Reason};
use crate::model::ids::RecordingId;
use crate::model::session::{Contact, Event, Session};
use log::{debug, error, warn};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How far below a recording's folder chunks lie: chunk folder, take, run.
const DEPTH: usize = 3;

/// A file is written to this soon after its recorder was heard to go on; an older stamp is another clock's.
const SKEW: Duration = Duration::from_secs(10);

/// How many looks may wait for folders that do not answer.
pub(super) const LOOKS: usize = 32;

/// A folder that does not answer within this shows nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a recording's folder showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    at: Timestamp,
    /// Bytes of the videos at the top of the folder: they grow whatever the file system's clock says.
    bytes: u64,
    /// When a video or a chunk was written to last, by the file system's clock.
    written_at: Timestamp,
}

impl Look {
    /// Looks at `folder`; `None` where no video or chunk can be seen.
    fn at(folder: &Path, now: Timestamp) -> Option<Self> {
        let mut look = Self {
            at: now,
            bytes: 0,
            written_at: Timestamp::default(),
        };
        look.add(folder, 0);
        (look.written_at > Timestamp::default()).then_some(look)
    }

    fn add(&mut self, folder: &Path, depth: usize) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            // A file that has just been deleted shows nothing.
            let Ok(data) = entry.metadata() else { continue };
            let path = entry.path();
            if data.is_dir() && depth < DEPTH {
                self.add(&path, depth + 1);
            } else if data.is_file() && path.extension().is_some_and(|kind| kind == "mp4") {
                let written_at = data.modified().map(Timestamp::from).unwrap_or_default();
                self.written_at = self.written_at.max(written_at);
                if depth == 0 {
                    self.bytes += data.len();
                }
            }
        }
    }

    /// When the files of a recorder that was last heard to go on at `advanced_at` grew last, as far as the two looks tell. The
    /// file system's clock may be ahead of ours, or behind.
    fn grown_at(&self, before: Option<&Self>, advanced_at: Timestamp) -> Option<Timestamp> {
        let written_at = self.written_at.min(self.at);
        match before {
            // The file system's clock is behind: this look proves nothing, the next one compares bytes.
            None if written_at.plus(SKEW) < advanced_at => Some(self.at),
            None => Some(written_at),
            Some(before) if self.bytes > before.bytes && written_at < before.at => Some(self.at),
            Some(before) if self.bytes > before.bytes || self.written_at > before.written_at => {
                Some(written_at.max(before.at).min(self.at))
            }
            Some(_) => None,
        }
    }
}

impl Controller {
    /// A recorder seems lost: what its files show is heard before anything is done about it.
    pub(super) fn look_for_growth(&self, id: &RecordingId, fault: Fault) {
        if !self.begins_to_look(id) {
            return;
        }
        let (controller, id) = (self.clone(), id.clone());
        let name = format!("look at the files of {id}");
        self.0.tasks.spawn(name, async move {
            let look = controller.look(&id).await;
            controller.note_growth(&id, look);
            let left = controller.still_a_fault(&id, &fault);
            let excused = match &left {
                Some(left) => controller.is_excused(&id, left).await,
                None => false,
            };
            controller.stops_looking(&id);
            if excused {
                return;
            }
            // That took its time.
            match left.and_then(|it| controller.still_a_fault(&id, &it)) {
                Some(fault) => controller.fault(&id, fault),
                None => {
                    debug!(session:% = id; "its files grow, so it is no fault: {}", fault.reason);
                    controller.tell_of_deafness(&id);
                }
            }
        });
    }

    /// Whether a look at what a recorder does may begin: one at a time, until `looking` is taken back.
    pub(super) fn begins_to_look(&self, id: &RecordingId) -> bool {
        let begins = self
            .table()
            .change(id, |entry| !std::mem::replace(&mut entry.looking, true));
        begins == Some(true)
    }

    pub(super) fn stops_looking(&self, id: &RecordingId) {
        self.table().change(id, |entry| entry.looking = false);
    }

    /// What the recording's folder shows now. On a thread of its own: the folder may be on another machine.
    async fn look(&self, id: &RecordingId) -> Option<Look> {
        let folder = self.0.settings.recording_path.join(id.as_str());
        let looking = async {
            let attempt = self.0.looks.turn().await?;
            let now = self.0.clock.now();
            let work = move || {
                let _attempt = attempt;
                Look::at(&folder, now)
            };
            let looked = self.0.tasks.spawn_blocking("look at a recording", work);
            looked.await.ok().flatten()
        };
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(look) => look,
            Err(_) => {
                warn!(session:% = id; "the recording's folder does not answer: growth cannot be seen");
                None
            }
        }
    }

    fn note_growth(&self, id: &RecordingId, look: Option<Look>) {
        let now = self.0.clock.now();
        self.table().change(id, |entry| {
            let Some(look) = look else { return };
            let before = entry.stall.get_or_insert_default().folder.replace(look);
            let advanced_at = entry.session.advanced_at;
            if let Some(at) = look.grown_at(before.as_ref(), advanced_at) {
                entry.dirty = true;
                // Refused where no recorder is expected any more.
                let _ = entry.session.on(Event::Grown(at), now);
            }
        });
    }

    /// The fault that is left once growth is known; `None` where there is none.
    fn still_a_fault(&self, id: &RecordingId, fault: &Fault) -> Option<Fault> {
        let now = self.0.clock.now();
        if matches!(fault.reason, Reason::Silent | Reason::Stuck) {
            return self.table().calls(id, now).fault;
        }
        if fault.reason == Reason::Frozen {
            self.frozen(id)?;
        }
        let advanced_at = self.session(id)?.advanced_at;
        let grows = now.since(advanced_at) < self.0.policy.heartbeat_timeout;
        let table = self.table();
        let stall = table.get(id)?.stall.as_ref();
        let grows = grows && stall.is_some_and(|it| it.folder.is_some());
        (!grows).then(|| fault.clone())
    }

    /// Says once that a recorder records and cannot be heard.
    pub(super) fn tell_of_deafness(&self, id: &RecordingId) {
        let now = self.0.clock.now();
        let mut table = self.table();
        let is_deaf = table
            .get(id)
            .is_some_and(|entry| table.contact(&entry.session, now) == Contact::Deaf);
        let news = table.change(id, |entry| {
            is_deaf && !std::mem::replace(&mut entry.deaf, true)
        });
        drop(table);
        if news == Some(true) {
            error!(session:% = id;
                "no heartbeat of this recorder arrives, and its files grow: it records on and nothing is ended; \
                 \"ov2-ha-recorder validate\" tries what recorders are told, and lines above may say who was refused access"
            );
        }
    }

    /// Recordings that go on although their recorders cannot be heard.
    pub fn deaf(&self) -> Vec<RecordingId> {
        self.judged().deaf.clone()
    }

    pub(super) fn find_deaf(&self) -> Vec<RecordingId> {
        let now = self.0.clock.now();
        let table = self.table();
        let deaf = table
            .active()
            .filter(|it| table.contact(it, now) == Contact::Deaf);
        deaf.map(|it| it.id.clone()).collect()
    }

    /// Whether a session's recorder is heard.
    pub fn contact(&self, session: &Session) -> Contact {
        let now = self.0.clock.now();
        self.table().contact(session, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::session::tests::at;
    use std::time::{Duration, SystemTime};

    fn written(path: &Path, bytes: usize, second: i64) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![0; bytes]).unwrap();
        let stamp = u64::try_from(at(second).millis()).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(stamp))
            .unwrap();
    }

    #[test]
    fn the_last_growth_is_read_from_video_and_chunks_and_from_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Look::at(&folder.path().join("none"), at(9)), None);
        written(&folder.path().join("a.jpg"), 1, 8);
        assert_eq!(Look::at(folder.path(), at(9)), None);
        written(&folder.path().join("a.mp4"), 10, 3);
        let first = Look::at(folder.path(), at(9)).unwrap();
        assert_eq!(first.grown_at(None, at(0)), Some(at(3)));
        assert_eq!(first.grown_at(Some(&first), at(0)), None);
        written(&folder.path().join("chunks/1/r1/0001.mp4"), 10, 7);
        let chunk = Look::at(folder.path(), at(9)).unwrap();
        assert_eq!(chunk.grown_at(None, at(0)), Some(at(7)));
    }

    #[test]
    fn a_file_system_whose_clock_is_wrong_shows_growth_between_two_looks() {
        let folder = tempfile::tempdir().unwrap();
        let video = folder.path().join("a.mp4");
        written(&video, 10, 1_000);
        let first = Look::at(folder.path(), at(30)).unwrap();
        assert_eq!(
            first.grown_at(None, at(0)),
            Some(at(30)),
            "never later than now"
        );
        let idle = Look::at(folder.path(), at(60)).unwrap();
        assert_eq!(
            idle.grown_at(Some(&first), at(0)),
            None,
            "nothing more was written"
        );
        written(&video, 11, 10);
        let behind = Look::at(folder.path(), at(90)).unwrap();
        assert_eq!(
            behind.grown_at(Some(&idle), at(0)),
            Some(at(90)),
            "its bytes say so, whatever their stamp"
        );
        written(&video, 12, 3);
        let late = Look::at(folder.path(), at(1_100)).unwrap();
        assert_eq!(
            late.grown_at(None, at(1_090)),
            Some(at(1_100)),
            "a first look at an old stamp of a recorder that was just heard proves nothing"
        );
    }
}
