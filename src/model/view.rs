//! What the status page and the terminal page are told: one event a second at most for all sessions together. A `snapshot`
//! comes first, then `changes`; both are a [`News`]. A reader that comes back with the last event's id gets the changes
//! since, or a snapshot when they are not remembered any more.
//!
//! A session in [`News`] is the object that `GET /api/sessions/{id}` answers. Beside the members that earlier clients
//! know, the pages read these of it: `run`, `take`, `state` (the whole of [`State`](super::session::State)), `report`,
//! `failovers` (each a [`Failover`](super::failover::Failover)), `advancedAt` and `videoName`.

use super::session::Holder;
use super::worry::Judgement;
use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The data of one event of `/api/events`; `S` is a session as the API answers it. `GET /api/overview` answers the same
/// thing once, for readers that cannot hold a stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct News<S> {
    /// In a snapshot all sessions, in changes those that changed.
    pub sessions: Vec<S>,
    /// The ids of those that are gone; none in a snapshot.
    #[serde(default)]
    pub removed: Vec<String>,
    /// Everything that is not about one session; in changes only when it changed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub overview: Option<Overview>,
    /// Whether all is well; in changes only when it changed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub judgement: Option<Judgement>,
}

impl<S> Default for News<S> {
    fn default() -> Self {
        Self {
            sessions: Vec::new(),
            removed: Vec::new(),
            overview: None,
            judgement: None,
        }
    }
}

/// The controller at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// The program's version.
    pub version: String,
    /// When the controller was started.
    pub started_at: Timestamp,
    /// The controller's clock, so that ages are right on a machine whose clock is not. Not a change by itself.
    pub now: Timestamp,
    /// Whether the reader may only read: the page hides what it must not do.
    pub viewer: bool,
    /// `UP` or `DOWN`, with the parts it is made of: `store`, `docker`, `image`, `s3`, `disk`,
    /// `database`, `contact`, `outbox`, and `settings` where they are served to everyone.
    pub health: Health,
    /// The webhooks that wait to be relayed.
    pub outbox: OutboxView,
    /// Seconds per chunk.
    pub chunk_seconds: u32,
    /// Seconds without a heartbeat after which a recorder is replaced.
    pub heartbeat_timeout_seconds: u32,
    /// Where chunks are kept, for a person: `local: /opt/openvidu/recordings` or `s3: bucket`.
    pub storage: String,
    /// Increases whenever the list of finished recordings changes, so that the pages know when to ask for it again.
    #[serde(default)]
    pub recordings_version: u64,
    /// The sessions whose page is open and of which nothing is recorded now (quick start).
    #[serde(default)]
    pub waiting: Vec<OpenPage>,
}

/// A session whose page is open before its recordings are ordered (quick start), while none is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpenPage {
    /// `quick:` and OpenVidu's session, as its container is named after it. No recording has such an id.
    #[schema(example = "quick:ses_A")]
    pub session_id: String,
    /// `WAITING`.
    #[schema(example = "WAITING")]
    pub status: String,
    /// The container.
    pub container_id: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl OpenPage {
    /// Of the container that shows it.
    pub fn of(container: &Holder) -> Self {
        let name = &container.name;
        let session = name.strip_prefix("recording_").unwrap_or(name);
        Self {
            session_id: format!("quick:{session}"),
            status: "WAITING".into(),
            container_id: container.id.to_string(),
            created_at: container.created_at,
        }
    }
}

/// What `/actuator/health` answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `UP`, or `DOWN` when recording or failover is impaired.
    pub status: String,
    /// Its parts by name.
    #[serde(default)]
    pub components: BTreeMap<String, Component>,
}

/// One part of the health.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// `UP` or `DOWN`.
    pub status: String,
    /// How it is, in words for a person.
    #[serde(default)]
    pub summary: String,
    /// Numbers and sentences; a fault stands under `error`, the disk's numbers under `free` and `total` (bytes).
    #[serde(default)]
    pub details: serde_json::Map<String, serde_json::Value>,
}

/// The outbox at a glance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboxView {
    /// Whether webhooks are relayed at all.
    pub enabled: bool,
    /// Webhooks that wait.
    pub pending: u64,
    /// Webhooks that were given up.
    pub dead: u64,
    /// When the oldest one that waits was received.
    pub oldest_pending_at: Option<Timestamp>,
    /// What went wrong last, without secrets.
    pub last_error: Option<String>,
    /// When it did.
    pub last_error_at: Option<Timestamp>,
}

/// `GET /api/recordings`: what is in the recordings folder, newest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recordings {
    /// The recordings.
    pub recordings: Vec<RecordingView>,
    /// How many there are in the folder.
    pub count: usize,
}

/// A recording that lies in the recordings folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordingView {
    /// OpenVidu's id; the folder's name.
    pub id: String,
    /// The video's name without extension.
    pub name: String,
    /// OpenVidu's word for its state: `started`, `stopped`, `ready`, `failed`.
    pub status: String,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// Seconds the video plays.
    pub duration_seconds: Option<f64>,
    /// The video's bytes.
    pub bytes: u64,
    /// Recorders that took part, once the timeline is written.
    pub runs: Option<usize>,
    /// Gaps, once the timeline is written.
    pub gaps: Option<usize>,
    /// Seconds missing in all, once the timeline is written.
    pub gap_seconds: Option<f64>,
    /// Whether `/api/recordings/{id}/timeline` has something to give.
    pub timeline: bool,
    /// Whether `/api/recordings/{id}/preview.jpg` has something to give.
    pub preview: bool,
}
