//! The interface's description, made from the handlers themselves, and a page to browse it. Developers see both; in
//! production they are hidden unless a setting shows them.

use super::answer::{Fault, json, typed};
use super::route::{Routes, param};
use super::{
    actuator, backup, events, failover, metrics, pages, recordings, sessions, webhook, worries,
};
use crate::config::{Profile, Settings};
use ::http::header::CONTENT_ENCODING;
use ::http::{HeaderValue, StatusCode, Uri};
use std::sync::Arc;
use utoipa::openapi::path::{Operation, Parameter};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Content, Header, KnownFormat, Ref, RefOr, ResponseBuilder, Schema, SchemaFormat,
};
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
        events::events, events::overview, backup::backup, worries::worries,
        recordings::list, recordings::video, recordings::timeline, recordings::preview,
    ),
    security(("basic" = [])),
    modifiers(&Schemes, &Refusals, &Unsigned),
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

/// What the edge itself may answer, beside what a handler says of its own answers.
struct Refusals;

impl Modify for Refusals {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut document.paths.paths {
            let operations = [
                ("get", &mut item.get),
                ("post", &mut item.post),
                ("put", &mut item.put),
                ("patch", &mut item.patch),
                ("delete", &mut item.delete),
            ];
            for (method, operation) in operations {
                if let Some(operation) = operation {
                    if let ("delete", Some(RefOr::T(body))) = (method, &mut operation.request_body)
                    {
                        body.required = None;
                    }
                    add_refusals(method, operation);
                    operation.operation_id = Some(operation_id(method, path));
                }
            }
        }
    }
}

/// Numbers without a sign hold more than their signed format says, and no more than they hold.
struct Unsigned;

impl Modify for Unsigned {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        for schema in components.schemas.values_mut() {
            bound(schema);
            if let RefOr::T(Schema::Object(object)) = schema {
                object.properties.values_mut().for_each(bound);
            }
        }
        let items = document.paths.paths.values_mut();
        let parameters = items.filter_map(|item| item.get.as_mut()?.parameters.as_mut());
        for parameter in parameters.flatten() {
            if let RefOr::T(Parameter {
                schema: Some(schema),
                ..
            }) = parameter
            {
                bound(schema);
            }
        }
    }
}

fn bound(schema: &mut RefOr<Schema>) {
    let RefOr::T(Schema::Object(number)) = schema else {
        return;
    };
    if number.minimum.is_none() {
        return;
    }
    let narrow = SchemaFormat::KnownFormat(KnownFormat::Int32);
    let most = match number.format.take() {
        Some(format) if format == narrow => u32::MAX as usize,
        _ => usize::MAX,
    };
    number.maximum = Some(most.into());
}

fn add_refusals(method: &str, operation: &mut Operation) {
    let acts = method != "get";
    let open = SecurityRequirement::default();
    let known = operation.security.as_ref();
    let guarded = known.is_none_or(|allowed| !allowed.contains(&open));
    let body = operation.request_body.is_some();
    let reads = body || operation.parameters.is_some();
    let rows = [
        (400, reads, "the path, the query or the body is none"),
        (401, guarded, "user name or password is missing or wrong"),
        (
            403,
            acts,
            "this account may only read, or a foreign page asks",
        ),
        (408, body, "the body did not arrive in time"),
        (413, body, "the body is too large"),
        (415, body && guarded, "the body is not application/json"),
        (429, guarded, "too many wrong passwords from this address"),
        (503, acts, "what is needed for it does not work now"),
    ];
    for (status, _, description) in rows.into_iter().filter(|(_, applies, _)| *applies) {
        let responses = &mut operation.responses.responses;
        responses
            .entry(status.to_string())
            .or_insert_with(|| refusal(status, description).into());
    }
}

fn refusal(status: u16, description: &str) -> utoipa::openapi::Response {
    let body = Content::new(Some(Ref::from_schema_name("ErrorBody")));
    let response = ResponseBuilder::new()
        .description(description)
        .content("application/json", body);
    match status {
        401 => response.header("WWW-Authenticate", Header::default()),
        429 => response.header("Retry-After", Header::default()),
        _ => response,
    }
    .build()
}

/// Handlers of different rooms have the same names; a path with its method is there once.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric());
    let words = std::iter::once(method).chain(words.filter(|word| !word.is_empty()));
    words.collect::<Vec<_>>().join("-")
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
