//! Failovers as clients see them: how they are set up, what runs because of them, and what a person may do about them.

use super::answer::{Fault, json, json_with, optional_body};
use super::route::{Routes, id};
use super::sessions::{Done, known};
use super::{Shared, with};
use crate::clock::Timestamp;
use crate::model::failover::{Failover, Reason};
use crate::model::ids::RecordingId;
use crate::model::wire::{ErrorBody, FailoverRequest};
use crate::runtime::Stop;
use ::http::StatusCode;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;
use warp::Filter;
use warp::reject::Rejection;
use warp::reply::Response;

/// How long a backup may take to finish when it is stopped gently.
const DRAIN: Duration = Duration::from_secs(30);

pub(super) fn add(routes: &mut Routes, shared: &Arc<Shared>) {
    routes.account("GET /api/failover/status", with(shared).and_then(status));
    routes.operator("POST /api/failover/check", with(shared).and_then(check));
    routes.account("GET /api/failover/backups", with(shared).and_then(backups));
    routes.operator(
        "DELETE /api/failover/backup/{id}",
        with(shared).and(id()).and_then(stop_backup),
    );
    routes.operator(
        "DELETE /api/failover/backup/{id}/force",
        with(shared).and(id()).and_then(force_backup),
    );
    routes.operator(
        "POST /api/failover/{id}",
        with(shared)
            .and(id())
            .and(optional_body())
            .and_then(fail_over),
    );
    routes.account(
        "GET /api/failover/{id}/history",
        with(shared).and(id()).and_then(history),
    );
}

/// How failovers are set up and what runs because of them.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FailoverView {
    enabled: bool,
    heartbeat_timeout_seconds: u64,
    stuck_chunk_timeout_seconds: u64,
    check_interval_ms: u64,
    active_backup_containers: usize,
    backup_container_details: BTreeMap<String, BackupView>,
    docker_initialized: bool,
    docker_initialization_failed: bool,
    docker_status: String,
    openvidu_image: String,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// A backup that records.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BackupView {
    container_id: String,
    container_name: String,
    #[schema(value_type = String, format = DateTime)]
    created: Timestamp,
}

/// How failovers are set up and what runs because of them.
#[utoipa::path(get, path = "/api/failover/status", tag = "failover", responses(
    (status = 200, description = "set-up and backups", body = FailoverView),
))]
pub(super) async fn status(shared: Arc<Shared>) -> Result<Response, Rejection> {
    let status = shared.controller.failover_status().await;
    let details = status.backups.iter().map(|(id, holder)| {
        let view = BackupView {
            container_id: holder.id.to_string(),
            container_name: holder.name.clone(),
            created: holder.created_at,
        };
        (id.to_string(), view)
    });
    Ok(json(&FailoverView {
        enabled: true,
        heartbeat_timeout_seconds: status.heartbeat_timeout_seconds,
        stuck_chunk_timeout_seconds: status.stuck_timeout_seconds,
        check_interval_ms: status.check_interval_ms,
        active_backup_containers: status.backups.len(),
        backup_container_details: details.collect(),
        docker_initialized: status.runtime.is_ok(),
        docker_initialization_failed: status.runtime.is_err(),
        docker_status: match &status.runtime {
            Ok(runtime) => format!("connected: {} {}", runtime.kind, runtime.version),
            Err(cause) => cause.clone(),
        },
        openvidu_image: status.image,
        timestamp: shared.clock.now(),
    }))
}

/// What a check found.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Checked {
    message: &'static str,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    active_backup_containers: usize,
    docker_initialized: bool,
}

/// Looks at every session now.
#[utoipa::path(post, path = "/api/failover/check", tag = "failover", responses(
    (status = 200, description = "looked at every session", body = Checked),
))]
pub(super) async fn check(shared: Arc<Shared>) -> Result<Response, Rejection> {
    shared.controller.check().await;
    let status = shared.controller.failover_status().await;
    Ok(json(&Checked {
        message: "Failover check completed successfully",
        timestamp: shared.clock.now(),
        active_backup_containers: status.backups.len(),
        docker_initialized: status.runtime.is_ok(),
    }))
}

/// Backups that record, by session.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Backups {
    active_backup_containers: BTreeMap<String, String>,
    count: usize,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// Backups that record now.
#[utoipa::path(get, path = "/api/failover/backups", tag = "failover", responses(
    (status = 200, description = "container ids by session", body = Backups),
))]
pub(super) async fn backups(shared: Arc<Shared>) -> Result<Response, Rejection> {
    let backups = shared.controller.failover_status().await.backups;
    let ids = backups
        .iter()
        .map(|(id, holder)| (id.to_string(), holder.id.to_string()));
    Ok(json(&Backups {
        active_backup_containers: ids.collect(),
        count: backups.len(),
        timestamp: shared.clock.now(),
    }))
}

/// Lets a backup finish and ends it.
#[utoipa::path(delete, path = "/api/failover/backup/{id}", tag = "failover", params(("id" = RecordingId, Path)), responses(
    (status = 200, description = "it finished", body = Done),
    (status = 404, description = "the session has no backup", body = ErrorBody),
    (status = 503, description = "the runtime does not answer", body = ErrorBody),
))]
pub(super) async fn stop_backup(
    shared: Arc<Shared>,
    id: RecordingId,
) -> Result<Response, Rejection> {
    shared
        .controller
        .stop_backup(&id, Stop::Drain(DRAIN))
        .await
        .map_err(Fault::from)?;
    let message = "Backup container gracefully stopped".to_owned();
    Ok(json(&Done::new(&shared, id, message).by("graceful")))
}

/// Ends a backup at once.
#[utoipa::path(delete, path = "/api/failover/backup/{id}/force", tag = "failover", params(("id" = RecordingId, Path)), responses(
    (status = 200, description = "it was ended", body = Done),
    (status = 404, description = "the session has no backup", body = ErrorBody),
    (status = 503, description = "the runtime does not answer", body = ErrorBody),
))]
pub(super) async fn force_backup(
    shared: Arc<Shared>,
    id: RecordingId,
) -> Result<Response, Rejection> {
    shared
        .controller
        .stop_backup(&id, Stop::Fence)
        .await
        .map_err(Fault::from)?;
    let message = "Backup container force stopped".to_owned();
    Ok(json(&Done::new(&shared, id, message).by("force")))
}

/// Replaces a session's recorder now.
#[utoipa::path(post, path = "/api/failover/{id}", tag = "failover", params(("id" = RecordingId, Path)), request_body = Option<FailoverRequest>, responses(
    (status = 202, description = "a replacement is being started", body = Done),
    (status = 404, description = "there is no such session", body = ErrorBody),
    (status = 409, description = "the session is not recording", body = ErrorBody),
))]
pub(super) async fn fail_over(
    shared: Arc<Shared>,
    id: RecordingId,
    wanted: Option<FailoverRequest>,
) -> Result<Response, Rejection> {
    let reason = wanted
        .and_then(|wanted| wanted.reason)
        .filter(|text| !text.is_empty());
    let reason = reason.unwrap_or_else(|| "requested by an operator".to_owned());
    shared
        .controller
        .fail_over(&id, reason)
        .await
        .map_err(Fault::from)?;
    let done = Done::new(&shared, id, "Failover initiated".to_owned());
    Ok(json_with(StatusCode::ACCEPTED, &done))
}

/// A session's failovers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct History {
    session_id: String,
    failover_events: Vec<FailoverEvent>,
    total_failovers: usize,
    successful_recoveries: usize,
}

/// One failover.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FailoverEvent {
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    reason: String,
    old_container_id: Option<String>,
    new_container_id: Option<String>,
    chunks_recovered: u32,
    recovery_time_ms: Option<u64>,
    /// Milliseconds from the fault to its detection; where nobody saw it happen, from the last sign that all was well.
    detection_ms: u64,
    /// Milliseconds from the fault's detection to the start of the replacement.
    start_ms: Option<u64>,
}

impl From<Failover> for FailoverEvent {
    fn from(failover: Failover) -> Self {
        Self {
            timestamp: failover.at,
            reason: words(&failover.reason),
            old_container_id: failover.old_container.map(|id| id.to_string()),
            new_container_id: failover.new_container.map(|id| id.to_string()),
            chunks_recovered: failover.chunks_recovered,
            recovery_time_ms: failover.recovery_ms,
            detection_ms: failover.at.since(failover.well_until).as_millis() as u64,
            start_ms: failover.start_ms,
        }
    }
}

/// A reason as a sentence.
pub(super) fn words(reason: &Reason) -> String {
    match reason {
        Reason::Died { code } => format!("the recorder ended with exit code {code}"),
        Reason::OutOfMemory => "the recorder ran out of memory".to_owned(),
        Reason::Removed => "the recorder's container was removed".to_owned(),
        Reason::Frozen => "the recorder's container was frozen".to_owned(),
        Reason::Stalled => "the recorder recorded nothing more and did not answer".to_owned(),
        Reason::Silent => "no heartbeat came".to_owned(),
        Reason::Stuck => "the recording did not go forward".to_owned(),
        Reason::Reported { message } | Reason::Requested { message } => message.clone(),
        Reason::CameBack => "the recorder was started again by itself".to_owned(),
    }
}

/// A session's failovers, oldest first.
#[utoipa::path(get, path = "/api/failover/{id}/history", tag = "failover", params(("id" = RecordingId, Path)), responses(
    (status = 200, description = "its failovers", body = History),
    (status = 404, description = "there is no such session", body = ErrorBody),
))]
pub(super) async fn history(shared: Arc<Shared>, id: RecordingId) -> Result<Response, Rejection> {
    let failovers = known(&shared, &id)?.failovers;
    let recovered = failovers
        .iter()
        .filter(|failover| failover.recovery_ms.is_some());
    Ok(json(&History {
        session_id: id.to_string(),
        total_failovers: failovers.len(),
        successful_recoveries: recovered.count(),
        failover_events: failovers.into_iter().map(FailoverEvent::from).collect(),
    }))
}
