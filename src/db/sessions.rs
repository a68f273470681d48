//! Sessions on disk: one record a session, its version in the first byte and JSON behind it.

use super::{Db, DbError, failed};
use crate::model::ids::RecordingId;
use crate::model::session::{Session, VERSION};

/// The stored sessions.
#[derive(Clone)]
pub struct Sessions {
    tree: sled::Tree,
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
    /// Writes a session over what was there; durable after [`Db::durable`].
    ///
    /// # Errors
    /// When the database fails.
    pub fn put(&self, session: &Session) -> Result<(), DbError> {
        let record = encode(session)?;
        self.tree
            .insert(session.id.as_str(), record)
            .map(drop)
            .map_err(failed("write a session"))
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
    pub fn all(&self) -> Result<Vec<Session>, DbError> {
        self.tree
            .iter()
            .map(|entry| {
                let (key, record) = entry.map_err(failed("read a session"))?;
                decode(&String::from_utf8_lossy(&key), &record)
            })
            .collect()
    }
}

fn encode(session: &Session) -> Result<Vec<u8>, DbError> {
    let mut record = vec![VERSION as u8];
    serde_json::to_writer(&mut record, session).map_err(failed("write a session"))?;
    Ok(record)
}

fn decode(key: &str, record: &[u8]) -> Result<Session, DbError> {
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
