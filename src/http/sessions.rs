//! Sessions as clients see them: recorders register and send heartbeats here, people list, stop and remove. The members are
//! those of the earlier controller with ours beside them.

use super::access::Caller;
use super::answer::{Fault, body, json, json_with, optional_body};
use super::route::{Routes, id, param};
use super::{Context, Shared, context, metrics, with};
use crate::clock::Timestamp;
use crate::controller::{ControllerError, Counts, Filter as Wanted, Which};
use crate::model::failover::Failover;
use crate::model::ids::{RecordingId, RunNumber, TakeId};
use crate::model::session::{Contact, Particulars, Session, State, Status};
use crate::model::view::OpenPage;
use crate::model::wire::{
    ErrorBody, ErrorCode, Heartbeat, RecordingPath, Registration, Report, StatusChange,
};
use ::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};
use warp::Filter;
use warp::reject::Rejection;
use warp::reply::Response;

/// Sessions in one answer when the client does not say how many.
const USUAL: usize = 50;
/// Sessions in one answer at most.
const MOST: usize = 500;
/// Sessions in the answers that earlier clients expect whole.
const WHOLE: usize = 10_000;

pub(super) fn add(routes: &mut Routes, shared: &Arc<Shared>) {
    routes.recorder(
        "PUT /api/sessions/{id}/heartbeat",
        with(shared)
            .and(id())
            .and(optional_body())
            .and_then(heartbeat),
    );
    routes.recorder(
        "POST /api/sessions",
        with(shared).and(body()).and_then(register),
    );
    routes.account(
        "GET /api/sessions",
        with(shared).and(warp::query()).and_then(list),
    );
    routes.account(
        "GET /api/sessions/all",
        with(shared).and(warp::query()).and_then(list_all),
    );
    routes.account(
        "GET /api/sessions/inactive",
        with(shared).and(warp::query()).and_then(list_inactive),
    );
    routes.open("GET /api/sessions/health", with(shared).and_then(health));
    routes.account(
        "GET /api/sessions/{id}",
        with(shared).and(id()).and_then(get),
    );
    routes.account(
        "GET /api/sessions/{id}/active",
        with(shared).and(param()).and_then(is_active),
    );
    // A recorder's own words: what a person does has requests of its own.
    routes.recorder(
        "PUT /api/sessions/{id}/status",
        with(shared)
            .and(context())
            .and(id())
            .and(body())
            .and_then(set_status),
    );
    routes.recorder(
        "PUT /api/sessions/{id}/recording-path",
        with(shared)
            .and(id())
            .and(body())
            .and_then(set_recording_path),
    );
    routes.operator(
        "PUT /api/sessions/{id}/deactivate",
        with(shared).and(id()).and_then(deactivate),
    );
    routes.operator(
        "PUT /api/sessions/{id}/stop",
        with(shared).and(id()).and_then(stop),
    );
    routes.operator(
        "DELETE /api/sessions/{id}",
        with(shared).and(id()).and_then(remove),
    );
    routes.operator("POST /api/sessions/cleanup", with(shared).and_then(cleanup));
}

/// A session as the interface shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionView {
    #[schema(value_type = String)]
    session_id: RecordingId,
    client_id: String,
    client_host: Option<String>,
    #[schema(value_type = String, example = "RECORDING")]
    status: Status,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    last_heartbeat: Timestamp,
    recording_path: Option<String>,
    /// JSON text, whatever was sent.
    metadata: Option<String>,
    last_chunk: Option<String>,
    active: bool,
    backup_container_id: Option<String>,
    backup_container_name: Option<String>,
    /// JSON text, whatever was sent.
    environment: Option<String>,
    unique_session_id: Option<String>,
    original_session_id: Option<String>,
    heartbeat_data: HeartbeatData,
    container_info: Option<ContainerInfo>,
    /// The run that may record now.
    #[schema(value_type = u32)]
    run: RunNumber,
    #[schema(value_type = Option<String>)]
    take: Option<TakeId>,
    #[schema(value_type = Object)]
    state: State,
    #[schema(value_type = Object)]
    report: Report,
    #[schema(value_type = Vec<Object>)]
    failovers: Vec<Failover>,
    #[schema(value_type = String, format = DateTime)]
    advanced_at: Timestamp,
    video_name: Option<String>,
    contact: Contact,
    /// Since when the recorder says that its page is in trouble.
    #[schema(value_type = Option<String>, format = DateTime)]
    page_troubled_at: Option<Timestamp>,
}

/// What the recorder's heartbeats told.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct HeartbeatData {
    #[schema(value_type = String, format = DateTime)]
    last_heartbeat: Timestamp,
    chunks_uploaded: u32,
    current_chunk_size: u64,
    is_stuck: bool,
    failover_attempts: usize,
}

/// The container that records.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ContainerInfo {
    container_id: String,
    container_name: String,
    status: &'static str,
    #[schema(value_type = String, format = DateTime)]
    created: Timestamp,
}

impl SessionView {
    /// The session as it is shown at `now`, held stuck after `stuck_after` without progress.
    pub(super) fn of(
        session: Session,
        particulars: Particulars,
        contact: Contact,
        now: Timestamp,
        stuck_after: Duration,
    ) -> Self {
        let status = session.state.status();
        let active = status.active();
        let holder = session.container;
        let backup = holder.as_ref().filter(|holder| holder.backup);
        Self {
            active,
            status,
            backup_container_id: backup.map(|backup| backup.id.to_string()),
            backup_container_name: backup.map(|backup| backup.name.clone()),
            heartbeat_data: HeartbeatData {
                last_heartbeat: session.heartbeat_at,
                chunks_uploaded: session.report.chunks_stored,
                current_chunk_size: session.report.bytes,
                is_stuck: active && now.since(session.advanced_at) > stuck_after,
                failover_attempts: session.failovers.len(),
            },
            container_info: holder.map(|holder| ContainerInfo {
                container_id: holder.id.to_string(),
                container_name: holder.name,
                status: if active { "running" } else { "exited" },
                created: holder.created_at,
            }),
            session_id: session.id,
            client_id: session.client_id,
            client_host: particulars.client_host,
            created_at: session.created_at,
            last_heartbeat: session.heartbeat_at,
            recording_path: particulars.recording_path,
            metadata: particulars.metadata,
            last_chunk: session.last_chunk,
            environment: particulars.environment,
            unique_session_id: particulars.unique_session_id,
            original_session_id: particulars.original_session_id,
            run: session.run,
            take: session.take,
            state: session.state,
            report: session.report,
            failovers: session.failovers,
            advanced_at: session.advanced_at,
            video_name: session.video_name,
            contact,
            page_troubled_at: session.page_troubled_at,
        }
    }
}

impl Shared {
    /// The sessions whose page is open and of which nothing is recorded now.
    pub(super) fn open_pages(&self) -> Vec<OpenPage> {
        let waiting = self.controller.waiting();
        waiting.iter().map(OpenPage::of).collect()
    }

    /// A session as it is shown now.
    pub(super) fn view(&self, session: Session) -> SessionView {
        let contact = self.controller.contact(&session);
        self.view_with(session, contact)
    }

    fn view_with(&self, session: Session, contact: Contact) -> SessionView {
        let particulars = self.controller.particulars(&session.id);
        let stuck_after = self.settings.stuck_timeout();
        SessionView::of(session, particulars, contact, self.clock.now(), stuck_after)
    }

    /// A part of the list, as it is shown now, and how many there are in all.
    pub(super) async fn views(
        &self,
        which: Which,
        limit: usize,
        offset: usize,
    ) -> (Vec<SessionView>, usize) {
        let wanted = Wanted {
            which,
            limit,
            offset,
        };
        let page = self.controller.page(wanted).await;
        let sessions = page.sessions.into_iter();
        let views = sessions.map(|(session, contact)| self.view_with(session, contact));
        (views.collect(), page.total)
    }
}

impl From<ControllerError> for Fault {
    fn from(error: ControllerError) -> Self {
        let message = error.to_string();
        let conflict = StatusCode::CONFLICT;
        match error {
            ControllerError::NotFound(_) => Self::not_found(message),
            ControllerError::Superseded => {
                Self::new(conflict, message).with_code(ErrorCode::Superseded)
            }
            ControllerError::Over => Self::new(conflict, message).with_code(ErrorCode::Over),
            ControllerError::Conflict(_) => Self::new(conflict, message),
            ControllerError::Invalid(_) => Self::bad(message),
            ControllerError::Unavailable(_) => Self::unavailable(message),
        }
    }
}

/// Says that something was done to a session.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Done {
    message: String,
    #[schema(value_type = String)]
    session_id: RecordingId,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_chunk: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recording_path: Option<String>,
    /// How a backup was ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
}

impl Done {
    pub(super) fn new(shared: &Shared, session_id: RecordingId, message: String) -> Self {
        Self {
            message,
            session_id,
            timestamp: shared.clock.now(),
            last_chunk: None,
            status: None,
            recording_path: None,
            method: None,
        }
    }

    /// The same with how it was done.
    pub(super) fn by(self, method: &'static str) -> Self {
        Self {
            method: Some(method),
            ..self
        }
    }
}

fn unknown_status(text: &str) -> String {
    format!("status {text:?} is none of {}", Status::WORDS)
}

/// A recorder says that it is about to record.
#[utoipa::path(post, path = "/api/sessions", tag = "sessions", request_body = Registration, responses(
    (status = 201, description = "the session", body = SessionView),
    (status = 400, description = "sessionId or clientId is missing, or another recording lives under this id", body = ErrorBody),
    (status = 409, description = "the recorder was superseded, or the session is over", body = ErrorBody),
))]
pub(super) async fn register(
    shared: Arc<Shared>,
    registration: Registration,
) -> Result<Response, Rejection> {
    let registered = shared.controller.register(registration).await;
    let session = registered.map_err(|error| match error {
        // Earlier clients know 400 here.
        ControllerError::Conflict(message) => Fault::bad(message),
        other => Fault::from(other),
    })?;
    Ok(json_with(StatusCode::CREATED, &shared.view(session)))
}

/// A recorder is heard.
#[utoipa::path(put, path = "/api/sessions/{id}/heartbeat", tag = "sessions", params(("id" = RecordingId, Path)), request_body = Option<Heartbeat>, responses(
    (status = 200, description = "heard", body = Done),
    (status = 400, description = "the id or the body is not one", body = ErrorBody),
    (status = 404, description = "the session is not known: register again", body = ErrorBody),
    (status = 409, description = "the recorder was superseded, or the session is over", body = ErrorBody),
))]
pub(super) async fn heartbeat(
    shared: Arc<Shared>,
    id: RecordingId,
    heard: Option<Heartbeat>,
) -> Result<Response, Rejection> {
    let began = shared.clock.uptime();
    let heard = heard.unwrap_or_default();
    let last_chunk = heard.last_chunk.clone();
    shared
        .controller
        .heartbeat(&id, heard)
        .map_err(Fault::from)?;
    metrics::heartbeat(shared.clock.uptime().saturating_sub(began));
    Ok(json(&Done {
        last_chunk,
        ..Done::new(&shared, id, "Heartbeat received".to_owned())
    }))
}

/// Which part of a list is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Part {
    /// Only sessions with this status, in any case; `started` and `stopped` are taken too.
    #[param(value_type = Option<Status>)]
    status: Option<String>,
    /// At most this many; 50 when not given, 500 at most.
    #[param(minimum = 1)]
    limit: Option<usize>,
    /// After skipping this many.
    offset: Option<usize>,
}

/// A part of the list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionList {
    sessions: Vec<SessionView>,
    /// Sessions in this answer.
    count: usize,
    /// Sessions in all.
    total: usize,
    limit: usize,
    offset: usize,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    #[serde(rename = "type")]
    kind: &'static str,
}

impl Part {
    fn which(&self, usual: Which) -> Result<Which, Fault> {
        match self.status.as_deref() {
            None => Ok(usual),
            Some(text) => Status::parse(text)
                .map(Which::Is)
                .ok_or_else(|| Fault::bad(unknown_status(text))),
        }
    }

    async fn list(
        &self,
        shared: &Shared,
        which: Which,
        kind: &'static str,
        usual: usize,
    ) -> Result<SessionList, Fault> {
        let limit = match self.limit {
            Some(0) => return Err(Fault::bad("limit must be at least 1")),
            Some(limit) => limit.min(MOST),
            None => usual,
        };
        let offset = self.offset.unwrap_or(0);
        let (sessions, total) = shared.views(self.which(which)?, limit, offset).await;
        Ok(SessionList {
            count: sessions.len(),
            sessions,
            total,
            limit,
            offset,
            timestamp: shared.clock.now(),
            kind,
        })
    }
}

/// Sessions whose recorder is expected to be at work, or those with one status.
#[utoipa::path(get, path = "/api/sessions", tag = "sessions", params(Part), responses(
    (status = 200, description = "a part of the list", body = SessionList),
    (status = 400, description = "no such status, or a limit that is none", body = ErrorBody),
))]
pub(super) async fn list(shared: Arc<Shared>, part: Part) -> Result<Response, Rejection> {
    let list = part.list(&shared, Which::Active, "active", USUAL);
    Ok(json(&list.await?))
}

/// Sessions whose recorder has ended.
#[utoipa::path(get, path = "/api/sessions/inactive", tag = "sessions", params(Part), responses(
    (status = 200, description = "a part of the list", body = SessionList),
    (status = 400, description = "no such status, or a limit that is none", body = ErrorBody),
))]
pub(super) async fn list_inactive(shared: Arc<Shared>, part: Part) -> Result<Response, Rejection> {
    let list = part.list(&shared, Which::Inactive, "inactive", WHOLE);
    Ok(json(&list.await?))
}

/// All sessions with their numbers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AllSessions {
    sessions: Vec<SessionView>,
    /// Pages that are open and of which nothing is recorded now (quick start). They are no recordings and are not counted.
    waiting: Vec<OpenPage>,
    total_count: usize,
    active_count: usize,
    inactive_count: usize,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    #[serde(rename = "type")]
    kind: &'static str,
}

/// All sessions, also those that have ended.
#[utoipa::path(get, path = "/api/sessions/all", tag = "sessions", params(Part), responses(
    (status = 200, description = "all sessions, at most 10,000", body = AllSessions),
    (status = 400, description = "no such status, or a limit that is none", body = ErrorBody),
))]
pub(super) async fn list_all(shared: Arc<Shared>, part: Part) -> Result<Response, Rejection> {
    let part = part.list(&shared, Which::Any, "all", WHOLE).await?;
    let Counts {
        total,
        active,
        inactive,
    } = shared.controller.counts();
    Ok(json(&AllSessions {
        sessions: part.sessions,
        waiting: shared.open_pages(),
        total_count: total,
        active_count: active,
        inactive_count: inactive,
        timestamp: part.timestamp,
        kind: part.kind,
    }))
}

/// One session.
#[utoipa::path(get, path = "/api/sessions/{id}", tag = "sessions", params(("id" = RecordingId, Path)), responses(
    (status = 200, description = "the session", body = SessionView),
    (status = 400, description = "the id is not one", body = ErrorBody),
    (status = 404, description = "there is no such session", body = ErrorBody),
))]
pub(super) async fn get(shared: Arc<Shared>, id: RecordingId) -> Result<Response, Rejection> {
    Ok(json(&shared.view(known(&shared, &id)?)))
}

/// The session, or 404.
pub(super) fn known(shared: &Shared, id: &RecordingId) -> Result<Session, Fault> {
    let session = shared.controller.session(id);
    session.ok_or_else(|| Fault::not_found(format!("session {id} does not exist")))
}

/// Whether a session is active.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct IsActive {
    session_id: String,
    active: bool,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// Whether a recorder is expected to be at work for this session.
#[utoipa::path(get, path = "/api/sessions/{id}/active", tag = "sessions", params(("id" = RecordingId, Path)), responses(
    (status = 200, description = "false also for an unknown session", body = IsActive),
    (status = 400, description = "the id is not one", body = ErrorBody),
))]
pub(super) async fn is_active(shared: Arc<Shared>, text: String) -> Result<Response, Rejection> {
    let id = RecordingId::parse(text).map_err(|cause| Fault::bad(cause.to_string()))?;
    let session = shared.controller.session(&id);
    Ok(json(&IsActive {
        active: session.is_some_and(|session| session.state.status().active()),
        session_id: id.to_string(),
        timestamp: shared.clock.now(),
    }))
}

/// A client sets the status.
#[utoipa::path(put, path = "/api/sessions/{id}/status", tag = "sessions", params(("id" = RecordingId, Path)), request_body = StatusChange, responses(
    (status = 200, description = "set", body = Done),
    (status = 400, description = "no such status", body = ErrorBody),
    (status = 403, description = "not with a recorder's token", body = ErrorBody),
    (status = 404, description = "there is no such session", body = ErrorBody),
    (status = 409, description = "the session cannot come back to life", body = ErrorBody),
))]
pub(super) async fn set_status(
    shared: Arc<Shared>,
    context: Context,
    id: RecordingId,
    change: StatusChange,
) -> Result<Response, Rejection> {
    let text = change
        .status
        .ok_or_else(|| Fault::bad("status is required"))?;
    let status = Status::parse(&text).ok_or_else(|| Fault::bad(unknown_status(&text)))?;
    // Its token lies where OpenVidu may serve it: it says that a recording goes on or is finished, and ends none.
    let is_theirs = matches!(
        status,
        Status::Starting | Status::Recording | Status::Completed
    );
    if context.caller == Caller::Recorder && !is_theirs {
        let message = format!("a recorder cannot set the status {}", status.as_str());
        return Err(Fault::new(StatusCode::FORBIDDEN, message).into());
    }
    shared
        .controller
        .set_status(&id, status)
        .await
        .map_err(Fault::from)?;
    Ok(json(&Done {
        status: Some(status.as_str()),
        ..Done::new(&shared, id, "Session status updated".to_owned())
    }))
}

/// A client says where the video is.
#[utoipa::path(put, path = "/api/sessions/{id}/recording-path", tag = "sessions", params(("id" = RecordingId, Path)), request_body = RecordingPath, responses(
    (status = 200, description = "set", body = Done),
    (status = 400, description = "recordingPath is missing", body = ErrorBody),
    (status = 404, description = "there is no such session", body = ErrorBody),
))]
pub(super) async fn set_recording_path(
    shared: Arc<Shared>,
    id: RecordingId,
    path: RecordingPath,
) -> Result<Response, Rejection> {
    let path = path.recording_path.filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| Fault::bad("recordingPath is required"))?;
    shared
        .controller
        .set_recording_path(&id, path.clone())
        .await
        .map_err(Fault::from)?;
    Ok(json(&Done {
        recording_path: Some(path),
        ..Done::new(&shared, id, "Recording path updated".to_owned())
    }))
}

/// A client puts a session aside.
#[utoipa::path(put, path = "/api/sessions/{id}/deactivate", tag = "sessions", params(("id" = RecordingId, Path)), responses(
    (status = 200, description = "put aside", body = Done),
    (status = 404, description = "there is no such session", body = ErrorBody),
    (status = 409, description = "the session is over", body = ErrorBody),
))]
pub(super) async fn deactivate(
    shared: Arc<Shared>,
    id: RecordingId,
) -> Result<Response, Rejection> {
    shared
        .controller
        .deactivate(&id)
        .await
        .map_err(Fault::from)?;
    Ok(json(&Done {
        status: Some("INACTIVE"),
        ..Done::new(&shared, id, "Session deactivated".to_owned())
    }))
}

/// The recording is to stop.
#[utoipa::path(put, path = "/api/sessions/{id}/stop", tag = "sessions", params(("id" = RecordingId, Path)), responses(
    (status = 200, description = "it will stop", body = Done),
    (status = 404, description = "there is no such session", body = ErrorBody),
    (status = 409, description = "the session is over", body = ErrorBody),
))]
pub(super) async fn stop(shared: Arc<Shared>, id: RecordingId) -> Result<Response, Rejection> {
    shared.controller.stop(&id).await.map_err(Fault::from)?;
    Ok(json(&Done::new(
        &shared,
        id,
        "Session stopped successfully".to_owned(),
    )))
}

/// A client wants a session forgotten.
#[utoipa::path(delete, path = "/api/sessions/{id}", tag = "sessions", params(("id" = RecordingId, Path)), responses(
    (status = 200, description = "forgotten; chunks and video stay", body = Done),
    (status = 404, description = "there is no such session", body = ErrorBody),
))]
pub(super) async fn remove(shared: Arc<Shared>, id: RecordingId) -> Result<Response, Rejection> {
    shared.controller.remove(&id).await.map_err(Fault::from)?;
    Ok(json(&Done::new(
        &shared,
        id,
        "Session removed successfully".to_owned(),
    )))
}

/// What a clean-up did.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cleaned {
    message: String,
    removed_sessions: usize,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// Removes ended sessions now.
#[utoipa::path(post, path = "/api/sessions/cleanup", tag = "sessions", responses(
    (status = 200, description = "cleaned up", body = Cleaned),
))]
pub(super) async fn cleanup(shared: Arc<Shared>) -> Result<Response, Rejection> {
    let removed_sessions = shared.controller.cleanup().await;
    Ok(json(&Cleaned {
        message: "Session cleanup completed".to_owned(),
        removed_sessions,
        timestamp: shared.clock.now(),
    }))
}

/// The sessions' health.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionsHealth {
    status: &'static str,
    active_sessions: usize,
    total_sessions: usize,
    inactive_sessions: usize,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    service: &'static str,
    s3_cleanup_info: CleanupInfo,
}

/// How chunks of finished recordings are deleted.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CleanupInfo {
    enabled: bool,
    storage: &'static str,
    /// Recordings whose chunks are kept because no video was verified to hold them.
    unverified: Vec<String>,
}

/// How many sessions there are; for load balancers and earlier clients.
#[utoipa::path(get, path = "/api/sessions/health", tag = "sessions", security(()), responses(
    (status = 200, description = "the controller answers", body = SessionsHealth),
))]
pub(super) async fn health(shared: Arc<Shared>) -> Result<Response, Rejection> {
    shared.controller.loaded().await;
    let Counts {
        total,
        active,
        inactive,
    } = shared.controller.counts();
    let unverified = shared.controller.unverified();
    Ok(json(&SessionsHealth {
        status: "healthy",
        active_sessions: active,
        total_sessions: total,
        inactive_sessions: inactive,
        timestamp: shared.clock.now(),
        service: "recorder-ha-controller",
        s3_cleanup_info: CleanupInfo {
            enabled: shared.settings.s3_cleanup.0,
            storage: match shared.settings.storage {
                crate::config::Storage::Local => "local",
                crate::config::Storage::S3 => "s3",
            },
            unverified: unverified.iter().map(ToString::to_string).collect(),
        },
    }))
}
