//! What is said over HTTP: between recorder and controller, and by OpenVidu's webhooks. Member names are those that
//! clients of the earlier controller use; ours are added beside them.

use super::ids::{ContainerId, RecordingId, RunNumber, TakeId};
use super::session::Status;
use crate::clock::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Reads JSON. JSON knows numbers and no types: where 3.0 is written for a whole number it is taken for 3.
///
/// # Errors
/// When it is no JSON, is too deep, or is not what is read.
pub fn read_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(text).or_else(|cause| {
        let mut value = serde_json::from_slice(text)?;
        if whole_numbers(&mut value) == 0 {
            return Err(cause);
        }
        serde_json::from_value(value)
    })
}

/// Writes whole numbers as such; answers how many were written otherwise.
fn whole_numbers(value: &mut Value) -> usize {
    const EXACT: f64 = (1_u64 << 53) as f64;
    match value {
        Value::Array(items) => items.iter_mut().map(whole_numbers).sum(),
        Value::Object(members) => members.values_mut().map(whole_numbers).sum(),
        Value::Number(number) => {
            let float = number.as_f64().filter(|_| number.is_f64());
            let whole = float.filter(|float| float.fract() == 0.0 && float.abs() <= EXACT);
            whole.map_or(0, |whole| {
                *value = Value::from(whole as i64);
                1
            })
        }
        _ => 0,
    }
}

/// `POST /api/sessions`. A recorder says here that it is about to record, and learns its run's number.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// The recording's id; required, checked by [`RecordingId`].
    #[schema(value_type = RecordingId)]
    pub session_id: Option<String>,
    /// Who records; required. Our recorder gives its host name and process.
    #[schema(value_type = String, min_length = 1)]
    pub client_id: Option<String>,
    /// Where it records.
    pub client_host: Option<String>,
    /// OpenVidu's unique id of the session.
    pub unique_session_id: Option<String>,
    /// OpenVidu's id of the session.
    pub original_session_id: Option<String>,
    /// The state to begin in, in any case; `started` and `stopped` are taken too.
    #[schema(value_type = Option<Status>)]
    pub status: Option<String>,
    /// OpenVidu's `RECORDING_JSON`, as an object or as text.
    pub recording_json: Option<Value>,
    /// The recorder's settings without secrets, as an object or as text.
    pub environment: Option<Value>,
    /// Anything else, as an object or as text.
    pub metadata: Option<Value>,
    /// What our recorder adds; earlier clients leave it out.
    pub recorder: Option<RecorderIdentity>,
}

/// What our recorder says about itself when it registers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecorderIdentity {
    /// Which recording of the id.
    pub take: TakeId,
    /// The container it runs in, where it runs in one.
    pub container_id: Option<ContainerId>,
    /// The highest run that left anything in the recording's folder or store; the new run is above it.
    pub last_run: RunNumber,
    /// The run it already has: given when it registers again with a controller that has forgotten it.
    pub run: Option<RunNumber>,
    /// The name of the video without extension.
    pub video_name: String,
}

/// `PUT /api/sessions/{id}/heartbeat`; every member may be missing, and so may the body.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// The chunk being written, by file name, as earlier clients give it.
    pub last_chunk: Option<String>,
    /// Which recording of the id; with `run` it lets the controller fence a recorder that was replaced.
    pub take: Option<TakeId>,
    /// The recorder's run.
    pub run: Option<RunNumber>,
    /// What the recorder sees of its own work.
    pub report: Option<Report>,
}

/// What a recorder sees of its own work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Number of the chunk being written.
    pub chunk: u32,
    /// Bytes recorded in this run.
    pub bytes: u64,
    /// Whole chunks that reached the chunk store in this run.
    pub chunks_stored: u32,
    /// Frames encoded in this run.
    pub frames: u64,
    /// Frames that came late, or were lost because the disk took nothing.
    pub late_frames: u64,
    /// Milliseconds by which capture is behind the wall clock.
    pub behind_ms: u64,
    /// Wall clock of the newest frame that is safe on disk.
    pub newest_frame_at: Option<Timestamp>,
    /// How often each child was started again in this run.
    pub restarts: Restarts,
    /// What is wrong right now, in words; empty when all is well.
    pub troubles: Vec<Trouble>,
}

/// How often each child of a recorder was started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Restarts {
    /// Xvfb.
    pub display: u32,
    /// PulseAudio.
    pub audio: u32,
    /// Chrome.
    pub browser: u32,
    /// ffmpeg.
    pub capture: u32,
    /// Reloads of the page within a living Chrome.
    pub page: u32,
}

/// Something wrong with a recorder that still runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    /// What kind.
    pub kind: TroubleKind,
    /// A sentence for a person, without secrets.
    pub message: String,
}

/// The kinds of [`Trouble`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TroubleKind {
    /// The page crashed, failed to load or does not answer.
    Page,
    /// No new frames.
    Capture,
    /// No sound arrives.
    Audio,
    /// The machine is too slow for the frame rate.
    Starved,
    /// The disk is full or cannot be written.
    Disk,
    /// The chunk store does not take chunks.
    Store,
    /// The recorder cannot go on and asks to be replaced.
    Dying,
    /// Something in the settings or in OpenVidu's order cannot be understood or used; a default holds instead.
    Settings,
}

/// What a registration gives our recorder beside the session's members.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registered {
    /// The run's number.
    pub run: RunNumber,
}

/// `PUT /api/sessions/{id}/status`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StatusChange {
    /// The new status, in any case, ours or OpenVidu's word.
    #[schema(value_type = Status)]
    pub status: Option<String>,
}

/// `PUT /api/sessions/{id}/recording-path`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecordingPath {
    /// Where the video is.
    #[schema(value_type = String, min_length = 1)]
    pub recording_path: Option<String>,
}

/// `POST /api/failover/{id}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverRequest {
    /// Why, for the history.
    pub reason: Option<String>,
    /// Accepted for earlier clients; progress is always preserved.
    pub preserve_progress: Option<bool>,
}

/// The body of every error.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// When.
    pub timestamp: Timestamp,
    /// The status code.
    pub status: u16,
    /// The status code's phrase.
    pub error: String,
    /// A sentence for a person.
    pub message: String,
    /// The request's path.
    pub path: String,
    /// The request's id, as in the logs.
    pub request_id: String,
    /// For programs: why, where the status code alone does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
}

/// Reasons that a program acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// This recorder was replaced by a later run: stop without touching the video.
    Superseded,
    /// The session is over: stop.
    Over,
}

/// OpenVidu's `recordingStatusChanged`, as far as we act on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordingStatusChanged {
    /// The recording's id.
    pub id: RecordingId,
    /// `started`, `stopped`, `ready` or `failed`.
    pub status: String,
    /// OpenVidu's session.
    pub session_id: Option<String>,
    /// OpenVidu's unique id of the session.
    pub unique_session_id: Option<String>,
    /// When the recording was started, in milliseconds since the epoch.
    pub start_time: Option<i64>,
    /// Why it ended.
    pub reason: Option<String>,
    /// `COMPOSED`, `COMPOSED_QUICK_START` or `INDIVIDUAL`; whatever it is, the report counts.
    #[serde(default)]
    pub output_mode: Value,
    /// Whether there is a picture.
    #[serde(default)]
    pub has_video: Value,
}

impl RecordingStatusChanged {
    /// Whether a page is recorded, which takes a container.
    pub fn is_of_a_page(&self) -> bool {
        let mode = self.output_mode.as_str().unwrap_or_default();
        mode.starts_with("COMPOSED") && self.has_video != Value::Bool(false)
    }
}

/// OpenVidu's `sessionCreated`, as far as we act on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionCreated {
    /// The session's id.
    pub session_id: String,
    /// Its id and when it was created.
    pub unique_session_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_is_taken_however_it_is_written() {
        let read = |text: &str| read_json::<Report>(text.as_bytes()).map(|report| report.chunk);
        assert_eq!(read(r#"{"chunk": 3}"#).ok(), Some(3));
        assert_eq!(read(r#"{"chunk": 3.0, "frames": 1e3}"#).ok(), Some(3));
        for wrong in [
            r#"{"chunk": 3.5}"#,
            r#"{"chunk": -1.0}"#,
            r#"{"chunk": 1e300}"#,
            "{",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
