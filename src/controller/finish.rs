//! The end of a recording. A recorder that can still finish does it; where none can, the video is finished here from what
//! the runs left, and where OpenVidu cannot seal the recording any more, that is done in its place.

use super::Controller;
use super::act::{SealState, can_write};
use crate::model::ids::RecordingId;
use crate::model::session::{Event, Holder, Session, State};
use crate::runtime::Stop;
use log::{info, warn};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// How long a recorder may take to finish once it is told to: as long as OpenVidu gives it.
const DRAIN: Duration = Duration::from_secs(30);

impl Controller {
    /// Whether a recorder that ended well was meant to: OpenVidu writes the status `stopped` before it tells the recorder.
    pub(super) fn end_was_wanted(&self, session: &Session) -> bool {
        if !session.state.status().active() {
            return true;
        }
        self.sealed_status(&session.id)
            .is_none_or(|status| status != "started")
    }

    /// The status in OpenVidu's `.recording.<id>`, where that can be read.
    pub(super) fn sealed_status(&self, id: &RecordingId) -> Option<String> {
        let text = std::fs::read_to_string(self.seal_path(id)).ok()?;
        let seal = serde_json::from_str::<Value>(&text).ok()?;
        Some(seal.get("status")?.as_str()?.to_owned())
    }

    pub(super) fn folder_of(&self, id: &RecordingId) -> PathBuf {
        self.0.settings.recording_path.join(id.as_str())
    }

    fn seal_path(&self, id: &RecordingId) -> PathBuf {
        self.folder_of(id).join(format!(".recording.{id}"))
    }

    /// Sees to the end of a recording unless that is being done.
    pub(super) fn begin_conclusion(&self, id: &RecordingId, seal: SealState) {
        let begun = self.table().change(id, |entry| {
            let begins = !std::mem::replace(&mut entry.concluding, true);
            begins.then(|| entry.session.clone())
        });
        let Some(Some(session)) = begun else {
            return;
        };
        let controller = self.clone();
        self.0.tasks.spawn(format!("conclude {id}"), async move {
            controller.conclude(&session, seal).await;
            let id = &session.id;
            controller
                .table()
                .change(id, |entry| entry.concluding = false);
        });
    }

    async fn conclude(&self, session: &Session, _seal: SealState) {
        let Some(held) = session.container.clone() else {
            return;
        };
        if let State::Stopping { .. } = session.state {
            self.stop_recorder(session, &held).await;
        }
    }

    /// A backup is stopped as OpenVidu stops its own container, which it is left to do.
    async fn stop_recorder(&self, session: &Session, held: &Holder) {
        if !held.backup {
            return;
        }
        match self.0.runtime.inspect(&held.id).await {
            Ok(Some(container)) if can_write(container.status) => {}
            Ok(_) => return,
            Err(cause) => warn!(session:% = session.id; "{cause}"),
        }
        info!(session:% = session.id, container:% = held.id; "the backup is told to finish");
        if let Err(cause) = self.0.runtime.stop(&held.id, Stop::Drain(DRAIN)).await {
            warn!(session:% = session.id; "{cause}");
        }
    }

    /// OpenVidu's seal was seen, or ours was made.
    pub(super) fn sealed(&self, id: &RecordingId) {
        if let Err(refused) = self.apply(id, Event::Sealed) {
            warn!(session:% = id; "{refused}");
        }
    }
}
