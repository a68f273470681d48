//! The interface's description, made from the handlers themselves, and a page to browse it. Developers see both; in
//! production they are hidden unless a setting shows them.

use super::answer::{Fault, json, typed};
use super::route::{Routes, param};
use super::{actuator, backup, events, failover, metrics, pages, recordings, sessions, webhook};
use crate::config::{Profile, Settings};
use ::http::header::CONTENT_ENCODING;
use ::http::{HeaderValue, StatusCode, Uri};
use std::sync::Arc;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::Config;
use warp::reject::Rejection;
use warp::reply::Response;
use warp::{Filter, Reply};

/// Swagger's page sets styles from its script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "ov2-ha-recorder",
        description = "The controller of highly available recordings for OpenVidu 2."
    ),
    paths(
        sessions::register, sessions::list, sessions::list_all, sessions::list_inactive, sessions::get,
        sessions::is_active, sessions::heartbeat, sessions::set_status, sessions::set_recording_path,
        sessions::deactivate, sessions::stop, sessions::remove, sessions::cleanup, sessions::health,
        failover::status, failover::check, failover::backups, failover::stop_backup, failover::force_backup,
        failover::fail_over, failover::history,
        webhook::receive, webhook::hello, webhook::status, webhook::list, webhook::replay, webhook::replay_since,
        actuator::health, actuator::component, actuator::info, actuator::names, actuator::metric, metrics::scrape,
        events::events, events::overview, backup::backup,
        recordings::list, recordings::video, recordings::timeline, recordings::preview,
    ),
    security(("basic" = [])),
    modifiers(&Schemes),
)]
struct Document;

struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let scheme = |scheme| SecurityScheme::Http(Http::new(scheme));
        components.add_security_scheme("basic", scheme(HttpAuthScheme::Basic));
        components.add_security_scheme("token", scheme(HttpAuthScheme::Bearer));
    }
}

/// The document.
fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

pub(super) fn add(routes: &mut Routes, settings: &Settings) {
    let shown = settings.profile != Profile::Prod;
    let shown = settings.swagger.map_or(shown, |switch| switch.0);
    if !shown {
        return;
    }
    for route in ["GET /v3/api-docs", "GET /api-docs"] {
        routes.account(route, warp::any().and_then(answer_document));
    }
    if settings.swagger_ui.is_none_or(|switch| switch.0) {
        routes.account("GET /swagger-ui.html", warp::any().and_then(to_page));
        routes.account(
            "GET /swagger-ui/",
            warp::any().and_then(|| page("index.html".to_owned())),
        );
        routes.account("GET /swagger-ui/{*}", param().and_then(page));
    }
}

async fn answer_document() -> Result<Response, Rejection> {
    Ok(json(&document()))
}

async fn to_page() -> Result<Response, Rejection> {
    Ok(warp::redirect::found(Uri::from_static("/swagger-ui/")).into_response())
}

async fn page(path: String) -> Result<Response, Rejection> {
    let config = Arc::new(Config::from("/v3/api-docs"));
    let found = utoipa_swagger_ui::serve(&path, config)
        .map_err(|cause| Fault::new(StatusCode::INTERNAL_SERVER_ERROR, cause.to_string()))?;
    let file = found.ok_or_else(|| Fault::not_found("there is no such file"))?;
    let mut response = typed(&file.content_type, file.bytes.into_owned());
    if file.gzpipped {
        let gzip = HeaderValue::from_static("gzip");
        response.headers_mut().insert(CONTENT_ENCODING, gzip);
    }
    pages::guard(&mut response, POLICY);
    Ok(response)
}
