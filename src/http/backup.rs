//! The database as one text, for `ov2-ha-recorder backup`. Asked for by `POST`, so that the viewer does not get it: it
//! holds what webhooks carried.

use super::answer::{Fault, typed};
use super::route::Routes;
use super::{Shared, with};
use ::http::StatusCode;
use std::sync::Arc;
use warp::Filter;
use warp::reject::Rejection;
use warp::reply::Response;

pub(super) fn add(routes: &mut Routes, shared: &Arc<Shared>) {
    routes.operator("POST /api/backup", with(shared).and_then(backup));
}

/// Everything in the database at one moment, one JSON value a line, with a digest at the end.
#[utoipa::path(post, path = "/api/backup", tag = "operator", responses(
    (status = 200, description = "the database", content_type = "application/x-ndjson", body = String),
))]
pub(super) async fn backup(shared: Arc<Shared>) -> Result<Response, Rejection> {
    let text = shared.controller.export().await;
    let text =
        text.map_err(|cause| Fault::new(StatusCode::INTERNAL_SERVER_ERROR, cause.to_string()))?;
    Ok(typed("application/x-ndjson", text))
}
