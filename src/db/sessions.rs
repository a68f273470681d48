//! Sessions on disk: one record a session, its version in the first byte and JSON behind it. A record holds the session
//! and its particulars; only the session is kept in memory by those who read it at the start, so that the particulars are
//! carried over from record to record here.

use super::{Db, DbError, failed};
use crate::model::ids::RecordingId;
use crate::model::session::{Particulars, Session, VERSION};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The stored sessions.
#[derive(Clone)]
pub struct Sessions {
    tree: sled::Tree,
}

/// What a record says.
#[derive(Serialize)]
struct Record<'a> {
    #[serde(flatten)]
    session: &'a Session,
    #[serde(flatten)]
    particulars: &'a Particulars,
}

impl Db {
    /// The sessions in this database.
    ///
    /// # Errors
    /// When the database fails.
    pub fn sessions(&self) -> Result<Sessions, DbError> {
        Ok(Sessions {
            tree: self.tree("sessions")?,
        })
    }
}

impl Sessions {
    /// Writes a session over what was there, beside the particulars that were; durable after [`Db::durable`]. Two writers
    /// of one session take turns.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put(&self, session: &Session) -> Result<(), DbError> {
        self.put_with(session, &self.particulars(&session.id)?)
    }

    /// Writes a session and its particulars over what was there; durable after [`Db::durable`].
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_with(&self, session: &Session, particulars: &Particulars) -> Result<(), DbError> {
        let record = encode(&Record {
            session,
            particulars,
        })?;
        self.tree
            .insert(session.id.as_str(), record)
            .map(drop)
            .map_err(failed("write a session"))
    }

    /// A session's particulars; none are known of a session that is not there.
    ///
    /// # Errors
    /// When the database fails or the record cannot be read.
    pub fn particulars(&self, id: &RecordingId) -> Result<Particulars, DbError> {
        let record = self.tree.get(id.as_str());
        match record.map_err(failed("read a session"))? {
            Some(record) => decode(id.as_str(), &record),
            None => Ok(Particulars::default()),
        }
    }

    /// Forgets a session.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove(&self, id: &RecordingId) -> Result<(), DbError> {
        self.tree
            .remove(id.as_str())
            .map(drop)
            .map_err(failed("remove a session"))
    }

    /// Every session.
    ///
    /// # Errors
    /// When the database fails or a record cannot be read.
    pub fn all(&self) -> impl Iterator<Item = Result<Session, DbError>> {
        self.tree.iter().map(|entry| {
            let (key, record) = entry.map_err(failed("read a session"))?;
            decode(&String::from_utf8_lossy(&key), &record)
        })
    }
}

fn encode(record: &Record) -> Result<Vec<u8>, DbError> {
    let mut bytes = vec![VERSION as u8];
    serde_json::to_writer(&mut bytes, record).map_err(failed("write a session"))?;
    Ok(bytes)
}

/// Reads one part of a record; members of the other are passed over.
fn decode<T: DeserializeOwned>(key: &str, record: &[u8]) -> Result<T, DbError> {
    let wrong = |cause: String| DbError::Record {
        key: key.to_owned(),
        cause,
    };
    match record.split_first() {
        Some((1, json)) => serde_json::from_slice(json).map_err(|cause| wrong(cause.to_string())),
        Some((version, _)) => Err(wrong(format!("its version {version} is not known"))),
        None => Err(wrong("it is empty".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::session::State;
    use crate::model::session::tests::{at, session};

    fn open(folder: &std::path::Path) -> Sessions {
        Db::open(folder).unwrap().sessions().unwrap()
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
        sessions.put_with(&session, &particulars()).unwrap();
        session.state = State::Completed { at: at(9) };
        sessions.put(&session).unwrap();
        assert_eq!(sessions.particulars(&session.id).unwrap(), particulars());
        let all = sessions.all().collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(all, [session.clone()]);

        sessions.remove(&session.id).unwrap();
        sessions.put(&session).unwrap();
        let left = sessions.particulars(&session.id).unwrap();
        assert_eq!(left, Particulars::default());
    }

    /// As the first program wrote it: session and particulars were one structure.
    const FIRST: &str = r#"{"id":"ses_A","take":"1795577569000","run":1,"state":{"state":"recording","since":"2026-11-25T03:32:49Z"},"created_at":"2026-11-25T03:32:49Z","heartbeat_at":"2026-11-25T03:32:49Z","advanced_at":"2026-11-25T03:32:49Z","last_chunk":"0001.mp4","report":{"chunk":1,"bytes":2,"chunksStored":0,"frames":3,"lateFrames":0,"behindMs":0,"newestFrameAt":null,"restarts":{"display":0,"audio":0,"browser":0,"capture":0,"page":0},"troubles":[]},"page_troubled_at":null,"finished_at":null,"seal_at":null,"container":null,"original":null,"failovers":[],"client_id":"client","client_host":"10.0.0.1","unique_session_id":null,"original_session_id":null,"recording_path":null,"video_name":"talk","recording_json":null,"environment":null,"metadata":"{}"}"#;

    #[test]
    fn a_record_of_the_first_layout_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = open(folder.path());
        let record = [&[1], FIRST.as_bytes()].concat();
        sessions.tree.insert("ses_A", record).unwrap();
        let session = sessions.all().next().unwrap().unwrap();
        assert_eq!(session.state, State::Recording { since: at(0) });
        assert_eq!(session.video_name.as_deref(), Some("talk"));
        assert_eq!(sessions.particulars(&session.id).unwrap(), particulars());
    }
}
