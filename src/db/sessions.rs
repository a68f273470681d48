//! Sessions on disk: one record a session, its version in the first byte and MessagePack behind it, a third of what JSON
//! takes: sled keeps much of what it writes in memory, whatever its cache's capacity is. What is said of a session beside
//! what it is decided by has a record of its own: it is kept here only, changes seldom, and saving a session leaves it alone.

use super::{Db, DbError, failed, guarded};
use crate::clock::Clock;
use crate::model::ids::RecordingId;
use crate::model::session::{Particulars, Session, VERSION};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// The version of records that held a session and its particulars, in JSON.
const BOTH: u8 = 1;
/// The version of records in JSON.
const JSON: u8 = 2;

/// The stored sessions.
#[derive(Clone)]
pub struct Sessions {
    db: Db,
    tree: sled::Tree,
    particulars: sled::Tree,
    clock: Arc<dyn Clock>,
}

impl Db {
    /// The sessions in this database.
    ///
    /// # Errors
    /// When the database fails.
    pub fn sessions(&self, clock: Arc<dyn Clock>) -> Result<Sessions, DbError> {
        Ok(Sessions {
            db: self.clone(),
            tree: self.tree("sessions")?,
            particulars: self.tree("particulars")?,
            clock,
        })
    }
}

impl Sessions {
    /// Writes a session over what was there; durable after [`Db::durable`].
    ///
    /// # Errors
    /// When the database fails.
    pub fn put(&self, session: &Session) -> Result<(), DbError> {
        insert(&self.tree, &session.id, session)
    }

    /// Writes a session's particulars over what was there; durable after [`Db::durable`].
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_particulars(
        &self,
        id: &RecordingId,
        particulars: &Particulars,
    ) -> Result<(), DbError> {
        insert(&self.particulars, id, particulars)
    }

    /// A session's particulars; none are known of a session that is not there. Those that cannot be read are set aside.
    ///
    /// # Errors
    /// When the database fails.
    pub fn particulars(&self, id: &RecordingId) -> Result<Particulars, DbError> {
        let record = self.particulars.get(id.as_str());
        let Some(record) = record.map_err(failed("read a session"))? else {
            return Ok(Particulars::default());
        };
        decode(id.as_str(), &record).or_else(|cause| {
            self.set_aside(
                &self.particulars,
                "particulars",
                (id.as_str().as_bytes(), &record),
                &cause,
            )?;
            Ok(Particulars::default())
        })
    }

    fn set_aside(
        &self,
        tree: &sled::Tree,
        name: &str,
        record: (&[u8], &[u8]),
        cause: &DbError,
    ) -> Result<(), DbError> {
        let now = self.clock.now();
        self.db.set_record_aside(name, record, cause, now)?;
        let removed = tree.remove(record.0);
        removed.map(drop).map_err(failed("remove a session"))
    }

    /// Forgets a session.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove(&self, id: &RecordingId) -> Result<(), DbError> {
        for tree in [&self.tree, &self.particulars] {
            tree.remove(id.as_str())
                .map_err(failed("remove a session"))?;
        }
        Ok(())
    }

    /// The ids of all sessions.
    ///
    /// # Errors
    /// When the database fails.
    pub fn ids(&self) -> impl Iterator<Item = Result<RecordingId, DbError>> {
        let mut keys = self.tree.iter().keys();
        let mut next =
            move || guarded(|| keys.next().transpose().map_err(failed("read a session")));
        std::iter::from_fn(move || next().transpose()).filter_map(|key| match key {
            Ok(key) => self.id(&key).transpose(),
            Err(cause) => Some(Err(cause)),
        })
    }

    /// The id that a key is; a record under another key is set aside.
    fn id(&self, key: &[u8]) -> Result<Option<RecordingId>, DbError> {
        let text = String::from_utf8_lossy(key);
        let cause = match RecordingId::parse(&*text) {
            Ok(id) => return Ok(Some(id)),
            Err(cause) => unreadable(&text, cause),
        };
        let record = self.tree.get(key).map_err(failed("read a session"))?;
        let record = record.unwrap_or_default();
        self.set_aside(&self.tree, "sessions", (key, &record), &cause)?;
        Ok(None)
    }

    /// A session. A record that holds particulars too is divided; one that cannot be read is set aside.
    ///
    /// # Errors
    /// When the database fails.
    pub fn get(&self, id: &RecordingId) -> Result<Option<Session>, DbError> {
        let key = id.as_str();
        let Some(record) = guarded(|| self.tree.get(key).map_err(failed("read a session")))? else {
            return Ok(None);
        };
        match self.read(key, &record) {
            Err(cause @ DbError::Record { .. }) => {
                self.set_aside(&self.tree, "sessions", (key.as_bytes(), &record), &cause)?;
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    fn read(&self, key: &str, record: &[u8]) -> Result<Session, DbError> {
        let session: Session = decode(key, record)?;
        if record.first() == Some(&BOTH) {
            self.put_particulars(&session.id, &decode(key, record)?)?;
            self.put(&session)?;
        }
        Ok(session)
    }
}

fn insert(tree: &sled::Tree, id: &RecordingId, value: &impl Serialize) -> Result<(), DbError> {
    let mut record = vec![VERSION];
    rmp_serde::encode::write(&mut record, value).map_err(failed("write a session"))?;
    let written = tree.insert(id.as_str(), record);
    written.map(drop).map_err(failed("write a session"))
}

/// Reads one part of a record; members of the other are passed over.
fn decode<T: DeserializeOwned>(key: &str, record: &[u8]) -> Result<T, DbError> {
    let wrong = |cause: String| unreadable(key, cause);
    match record.split_first() {
        Some((&VERSION, packed)) => {
            rmp_serde::from_slice(packed).map_err(|cause| unreadable(key, cause))
        }
        Some((&BOTH | &JSON, json)) => {
            serde_json::from_slice(json).map_err(|cause| unreadable(key, cause))
        }
        Some((version, _)) => Err(wrong(format!("its version {version} is not known"))),
        None => Err(wrong("it is empty".into())),
    }
}

fn unreadable(key: &str, cause: impl ToString) -> DbError {
    DbError::Record {
        key: key.to_owned(),
        cause: cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::model::failover::{Fault, Reason};
    use crate::model::ids::ContainerId;
    use crate::model::session::tests::{at, session};
    use crate::model::session::{Event, Holder, State};
    use crate::model::wire::{Trouble, TroubleKind};

    fn open(folder: &std::path::Path) -> Sessions {
        let db = Db::open(folder).unwrap();
        db.sessions(Arc::new(SystemClock)).unwrap()
    }

    fn read(sessions: &Sessions) -> Session {
        let id = sessions.ids().next().unwrap().unwrap();
        sessions.get(&id).unwrap().unwrap()
    }

    fn particulars() -> Particulars {
        Particulars {
            client_host: Some("10.0.0.1".into()),
            metadata: Some("{}".into()),
            ..Particulars::default()
        }
    }

    #[test]
    fn a_session_that_changes_keeps_its_particulars_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = open(folder.path());
        let mut session = session(State::Starting { since: at(0) });
        sessions.put(&session).unwrap();
        let said = particulars();
        sessions.put_particulars(&session.id, &said).unwrap();
        session.state = State::Completed { at: at(9) };
        sessions.put(&session).unwrap();
        assert_eq!(sessions.particulars(&session.id).unwrap(), particulars());
        let ids = sessions.ids().collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(ids, [session.id.clone()]);
        assert_eq!(read(&sessions), session);

        sessions.remove(&session.id).unwrap();
        sessions.put(&session).unwrap();
        let left = sessions.particulars(&session.id).unwrap();
        assert_eq!(left, Particulars::default());
    }

    fn lost(reason: Reason) -> Session {
        let mut troubled = session(State::Recording { since: at(0) });
        let container = ContainerId::parse("c1").unwrap();
        troubled.report.troubles = vec![Trouble {
            kind: TroubleKind::Page,
            message: "the page does not answer".into(),
        }];
        troubled.report.newest_frame_at = Some(at(7));
        troubled.seal_at = Some(at(8));
        troubled.container = Some(Holder {
            id: container.clone(),
            name: "recording_ses_A".into(),
            backup: true,
            created_at: at(1),
        });
        troubled.original = Some(container);
        let fault = Fault {
            reason,
            well_until: at(2),
        };
        let not_before = at(3);
        troubled
            .on(Event::Lost { fault, not_before }, at(3))
            .unwrap();
        troubled
    }

    #[test]
    fn whatever_is_known_of_a_session_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = open(folder.path());
        let why = "it kept ending".to_owned();
        let states = [
            State::Starting { since: at(0) },
            State::Paused { since: at(1) },
            State::Stopping { since: at(2) },
            State::Completed { at: at(3) },
            State::Failed { at: at(4), why },
            State::Inactive { at: at(5) },
        ];
        let message = "a test".to_owned();
        let reasons = [
            Reason::Died { code: -1 },
            Reason::OutOfMemory,
            Reason::Requested { message },
        ];
        for session in states.map(session).into_iter().chain(reasons.map(lost)) {
            sessions.put(&session).unwrap();
            assert_eq!(read(&sessions), session);
        }
    }

    #[test]
    fn a_record_in_json_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = open(folder.path());
        let session = lost(Reason::Frozen);
        let record = [&[JSON][..], &serde_json::to_vec(&session).unwrap()].concat();
        sessions.tree.insert("ses_A", record).unwrap();
        assert_eq!(read(&sessions), session);
        let record = [&[JSON][..], &serde_json::to_vec(&particulars()).unwrap()].concat();
        sessions.particulars.insert("ses_A", record).unwrap();
        assert_eq!(sessions.particulars(&session.id).unwrap(), particulars());
    }

    const NIL: u8 = 0xc0;
    const FALSE: u8 = 0xc2;

    /// Members came later at the records' ends: a record without them is shorter, and says so in its third byte.
    fn without_last(value: &impl Serialize, members: &[u8]) -> Vec<u8> {
        let mut record = rmp_serde::to_vec(value).unwrap();
        let is_short = record[0] & 0xf0 == 0x90;
        record[if is_short { 0 } else { 2 }] -= u8::try_from(members.len()).unwrap();
        assert!(record.ends_with(members), "they are not the last ones");
        record.truncate(record.len() - members.len());
        [&[VERSION][..], &record].concat()
    }

    #[test]
    fn a_record_from_before_openvidu_was_asked_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = open(folder.path());
        let session = lost(Reason::Removed);
        let record = without_last(&session, &[NIL, FALSE]);
        sessions.tree.insert("ses_A", record).unwrap();
        assert_eq!(read(&sessions), session);
        let record = without_last(&particulars(), &[NIL]);
        sessions.particulars.insert("ses_A", record).unwrap();
        assert_eq!(sessions.particulars(&session.id).unwrap(), particulars());
    }

    /// As the first program wrote it: session and particulars were one structure.
    const FIRST: &str = r#"{"id":"ses_A","take":"1795577569000","run":1,"state":{"state":"recording","since":"2026-11-25T03:32:49Z"},"created_at":"2026-11-25T03:32:49Z","heartbeat_at":"2026-11-25T03:32:49Z","advanced_at":"2026-11-25T03:32:49Z","last_chunk":"0001.mp4","report":{"chunk":1,"bytes":2,"chunksStored":0,"frames":3,"lateFrames":0,"behindMs":0,"newestFrameAt":null,"restarts":{"display":0,"audio":0,"browser":0,"capture":0,"page":0},"troubles":[]},"page_troubled_at":null,"finished_at":null,"seal_at":null,"container":null,"original":null,"failovers":[],"client_id":"client","client_host":"10.0.0.1","unique_session_id":null,"original_session_id":null,"recording_path":null,"video_name":"talk","recording_json":null,"environment":null,"metadata":"{}"}"#;

    #[test]
    fn a_record_of_the_first_layout_is_divided() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = open(folder.path());
        let record = [&[1], FIRST.as_bytes()].concat();
        sessions.tree.insert("ses_A", record).unwrap();
        let session = read(&sessions);
        assert_eq!(session.state, State::Recording { since: at(0) });
        assert_eq!(session.video_name.as_deref(), Some("talk"));
        sessions.put(&session).unwrap();
        assert_eq!(sessions.particulars(&session.id).unwrap(), particulars());
        assert_eq!(read(&sessions), session);
    }
}
