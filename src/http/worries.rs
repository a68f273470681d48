//! What a person must know, for the pages and for programs that watch.

use super::answer::json;
use super::route::Routes;
use super::{Shared, with};
use crate::model::view::Worry;
use std::sync::Arc;
use warp::Filter;
use warp::reject::Rejection;
use warp::reply::Response;

pub(super) fn add(routes: &mut Routes, shared: &Arc<Shared>) {
    routes.account("GET /api/worries", with(shared).and_then(worries));
}

/// What a person must know about recordings, the oldest first.
#[utoipa::path(get, path = "/api/worries", tag = "operator", responses(
    (status = 200, description = "what a person must know", body = Vec<Worry>),
))]
pub(super) async fn worries(shared: Arc<Shared>) -> Result<Response, Rejection> {
    Ok(json(&shared.controller.worries()))
}
