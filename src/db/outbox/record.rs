//! What the outbox keeps: an event as it came in, and what became of it at each target. Comes in and goes out as the bytes
//! that lie in the database, with their version. Knows nothing of where they lie.

use super::DbError;
use crate::clock::Timestamp;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The version of a stored event.
const VERSION: u8 = 1;

/// An event as it came in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// The same over all deliveries and retries: `webhook-id`.
    pub id: String,
    /// When it came.
    pub received_at: Timestamp,
    /// OpenVidu's name of the event.
    pub name: Option<String>,
    /// What is delivered in order: OpenVidu's session.
    pub lane: String,
    /// The request's method.
    pub method: String,
    /// The request's content type.
    pub content_type: Option<String>,
    /// The request's user agent.
    pub user_agent: Option<String>,
    /// The request's headers that are passed on.
    pub headers: Vec<(String, String)>,
    /// Whether the controller made it in OpenVidu's stead.
    pub synthesized: bool,
    /// The body, byte for byte.
    #[serde(skip)]
    pub body: Bytes,
}

impl Event {
    /// An event that comes in now, with a new id.
    pub fn new(received_at: Timestamp, lane: String, body: Bytes) -> Self {
        Self {
            id: String::new(),
            received_at,
            name: None,
            lane,
            method: "POST".to_owned(),
            content_type: Some("application/json".to_owned()),
            user_agent: None,
            headers: Vec::new(),
            synthesized: false,
            body,
        }
    }
}

/// What became of one event at one target.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The target, for a person: scheme and host, or `controller`.
    pub target: String,
    /// What became of it.
    pub state: DeliveryState,
    /// How far its tries have come.
    #[serde(flatten)]
    pub tries: Tries,
    /// When it is tried next, while it is pending.
    pub next_at: Option<Timestamp>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When that state was entered.
    pub changed_at: Timestamp,
    pub(super) lane: String,
}

/// How far the tries of a delivery have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tries {
    /// How many were made.
    pub attempts: u32,
    /// Which wait of the schedule comes next.
    #[serde(default)]
    pub step: u32,
    /// When the first was made.
    #[serde(default)]
    pub first_at: Option<Timestamp>,
    /// Whether the session's lane went on without it: later events may have been delivered before it.
    #[serde(default)]
    pub late: bool,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// It is being tried.
    Pending,
    /// The target took it.
    Delivered,
    /// It was given up.
    Dead,
}

impl DeliveryState {
    const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Dead];

    /// Reads a client's word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    pub(super) const fn letter(self) -> u8 {
        match self {
            Self::Pending => b'p',
            Self::Delivered => b's',
            Self::Dead => b'd',
        }
    }
}

/// A place in the order of arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Sequence(pub(super) u64);

impl Sequence {
    /// The place of the event that came as number `count`.
    pub const fn nth(count: u64) -> Self {
        Self(count)
    }
}

/// Where events go: the first eight bytes of a digest of the address, so that it means the same after a restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TargetId(pub [u8; 8]);

impl TargetId {
    /// The controller itself, which acts on events.
    pub const CONTROLLER: Self = Self([0; 8]);
}

/// Version, length of the description, description, body.
pub(super) fn encode(event: &Event) -> Result<Vec<u8>, DbError> {
    let head = json(event)?;
    let length = u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes();
    Ok([&[VERSION][..], &length, &head, &event.body].concat())
}

pub(super) fn decode(seq: Sequence, value: &[u8]) -> Result<Event, DbError> {
    let parts = || {
        let (version, rest) = value.split_first()?;
        let (length, rest) = rest.split_at_checked(4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        (*version == VERSION).then_some(rest.split_at_checked(length)?)
    };
    let (head, body) = parts().ok_or_else(|| broken(seq, "it is no event of this version"))?;
    let event = serde_json::from_slice(head).map_err(|cause| broken(seq, &cause.to_string()))?;
    Ok(Event {
        body: Bytes::copy_from_slice(body),
        ..event
    })
}

pub(super) fn read_delivery(seq: Sequence, value: &[u8]) -> Result<Delivery, DbError> {
    serde_json::from_slice(value).map_err(|cause| broken(seq, &cause.to_string()))
}

pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>, DbError> {
    serde_json::to_vec(value).map_err(|cause| DbError::Failed {
        act: "write a webhook",
        cause: cause.to_string(),
    })
}

pub(super) fn broken(seq: Sequence, cause: &str) -> DbError {
    DbError::Record {
        key: format!("outbox/{}", seq.0),
        cause: cause.to_owned(),
    }
}
