//! The edge over HTTP: what earlier clients, recorders, OpenVidu and browsers ask comes in here, and answers go out. It
//! checks who asks and what is asked, and leaves every decision to the controller. Each request passes [`Edge::answer`]:
//! its id, its route, its access, the work, and what every answer carries.

mod access;
mod actuator;
mod alerts;
mod answer;
mod backup;
mod events;
mod exposure;
mod failover;
mod guests;
mod health;
mod listen;
mod metrics;
mod openapi;
mod pages;
mod recordings;
mod route;
mod sessions;
mod webhook;
mod worries;

pub use listen::{ListenError, Listener, Tls};
pub use webhook::read_webhook;

use crate::clock::Clock;
use crate::config::{Faults, Settings};
use crate::controller::Controller;
use crate::controller::relay::Relay;
use crate::db::outbox::Outbox;
use crate::random;
use crate::store::ChunkStore;
use crate::tasks::Tasks;
use ::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use access::{Caller, Doorkeeper};
use answer::{Fault, write_body};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use log::{debug, error, info, warn};
use route::{Access, Param, Route, Routes};
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use warp::Filter;
use warp::reply::Response;

/// Answers shorter than this are not worth compressing.
const COMPRESSED_FROM: u64 = 1024;

/// What the edge is built from.
#[derive(Clone)]
pub struct App {
    /// The settings.
    pub settings: Arc<Settings>,
    /// What decides.
    pub controller: Controller,
    /// Where webhooks are kept.
    pub outbox: Outbox,
    /// What relays them.
    pub relay: Relay,
    /// Where chunks are kept; asked for its health only.
    pub store: Arc<dyn ChunkStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who owns the edge's tasks; when they end, so do open streams.
    pub tasks: Tasks,
}

/// What the routes share.
struct Shared {
    app: App,
    health: health::Known,
    noticed: worries::Noticed,
    /// Whether the recorders' settings were found to be served to everyone.
    exposed: AtomicBool,
    recordings: recordings::Version,
    news: events::Hub,
    started_at: crate::clock::Timestamp,
}

impl std::ops::Deref for Shared {
    type Target = App;
    fn deref(&self) -> &App {
        &self.app
    }
}

/// Answers requests at `listener` until the app's tasks are told to end, and then until what is under way is answered or
/// a short time has passed.
///
/// # Errors
/// When the account is missing in the settings.
pub async fn serve(listener: Listener, app: App) -> Result<(), Faults> {
    let edge = Arc::new(Edge::new(app)?);
    let tasks = edge.shared.tasks.clone();
    edge.shared.news.start(&edge.shared);
    metrics::start(&edge.shared);
    alerts::start(&edge.shared);
    exposure::start(&edge.shared);
    listen::accept(listener, edge, &tasks).await;
    Ok(())
}

/// The edge: every request passes through it.
struct Edge {
    shared: Arc<Shared>,
    routes: Routes,
    doorkeeper: Doorkeeper,
}

/// What handlers may know of the request beside what they take.
#[derive(Clone, Debug)]
struct Context {
    caller: Caller,
}

impl Edge {
    fn new(app: App) -> Result<Self, Faults> {
        metrics::install();
        let doorkeeper = Doorkeeper::new(&app.settings)?;
        let shared = Arc::new(Shared {
            started_at: app.clock.now(),
            health: health::Known::default(),
            noticed: worries::Noticed::default(),
            exposed: AtomicBool::new(false),
            recordings: recordings::Version::default(),
            news: events::Hub::default(),
            app,
        });
        let mut routes = Routes::default();
        sessions::add(&mut routes, &shared);
        failover::add(&mut routes, &shared);
        webhook::add(&mut routes, &shared);
        actuator::add(&mut routes, &shared);
        backup::add(&mut routes, &shared);
        worries::add(&mut routes, &shared);
        events::add(&mut routes, &shared);
        recordings::add(&mut routes, &shared);
        pages::add(&mut routes);
        openapi::add(&mut routes, &shared.settings);
        Ok(Self {
            shared,
            routes,
            doorkeeper,
        })
    }

    /// One request from its first to its last byte.
    async fn answer(&self, mut request: Request<Incoming>, peer: SocketAddr) -> Response {
        let began = self.shared.clock.uptime();
        let id = request_id(request.headers());
        let client = self.doorkeeper.client(peer.ip(), request.headers());
        let path = request.uri().path().to_owned();
        let gzip = takes_gzip(request.headers());
        let method = request.method().clone();
        let found = self.routes.find(&method, &path);
        let name = found.as_ref().map_or("none", |(route, _)| route.pattern);
        let mut response = match self.admit(found, &request, client) {
            Ok((route, param, caller)) => {
                self.note(route, caller, &path, client, &id);
                request.extensions_mut().insert(param);
                request.extensions_mut().insert(Context { caller });
                work(route, request).await
            }
            Err(fault) => {
                refused(&fault, &method, &path, client, &id, request.headers());
                fault.into_response()
            }
        };
        write_body(&mut response, self.shared.clock.now(), &path, &id);
        decorate(&mut response, &id);
        let response = if gzip {
            compress(response).await
        } else {
            response
        };
        let took = self.shared.clock.uptime().saturating_sub(began);
        metrics::request(name, &method, response.status(), took);
        debug!(method = method.as_str(), path = path.as_str(), status = response.status().as_u16(), client:% = client, request = id.as_str(), ms = took.as_millis() as u64; "answered");
        response
    }

    fn admit<'r>(
        &'r self,
        found: Result<(&'r Route, Param), Fault>,
        request: &Request<Incoming>,
        client: IpAddr,
    ) -> Result<(&'r Route, Param, Caller), Fault> {
        // What does not exist is told only to those who may know what does.
        let access = found
            .as_ref()
            .map_or(Access::Account, |(route, _)| route.access);
        let now = self.shared.clock.uptime();
        let caller =
            self.doorkeeper
                .admit(access, request.method(), request.headers(), client, now)?;
        found.map(|(route, param)| (route, param, caller))
    }

    /// Whether connections of that address are those of many: of this machine, or of a proxy that is trusted.
    fn brings_others(&self, peer: IpAddr) -> bool {
        self.doorkeeper
            .brings_others(peer, self.shared.clock.uptime())
    }

    fn note(&self, route: &Route, caller: Caller, path: &str, client: IpAddr, id: &str) {
        if route.access == Access::Operator {
            let settings = &self.shared.settings;
            let user = match caller {
                Caller::Account => settings.controller_username.as_deref(),
                Caller::Viewer => settings.viewer_username.as_deref(),
                Caller::Anyone | Caller::Recorder | Caller::Webhook => None,
            };
            let user = user.unwrap_or_default();
            info!(method = route.method.as_str(), path = path, user = user, client:% = client, request = id; "API request");
        }
    }
}

async fn work(route: &Route, request: Request<Incoming>) -> Response {
    let answer = AssertUnwindSafe(route.call(request)).catch_unwind().await;
    answer.unwrap_or_else(|_| {
        error!(route = route.pattern; "a request could not be answered: a fault in the program; please report it");
        let message = "a fault in the program; the log says more";
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
    })
}

/// A line for who was turned away; a browser's first request without a password is no news.
fn refused(
    fault: &Fault,
    method: &Method,
    path: &str,
    client: IpAddr,
    id: &str,
    headers: &HeaderMap,
) {
    let tried =
        headers.contains_key(header::AUTHORIZATION) || headers.contains_key("x-webhook-token");
    let news = match fault.status {
        StatusCode::UNAUTHORIZED => tried,
        StatusCode::FORBIDDEN => true,
        _ => false,
    };
    if news {
        warn!(method = method.as_str(), path = path, client:% = client, request = id, status = fault.status.as_u16();
            "access refused: {}", fault.message);
    }
}

/// The client's id of the request where it gives a sane one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers
        .get("x-request-id")
        .and_then(|value| value.to_str().ok());
    let sane =
        |text: &&str| (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    given
        .filter(sane)
        .map_or_else(random::hex::<8>, str::to_owned)
}

/// What every answer carries.
fn decorate(response: &mut Response, id: &str) {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert("x-request-id", id);
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok());
    accepted.is_some_and(|text| {
        text.split(',').any(|part| {
            let (name, quality) = part.split_once(';').unwrap_or((part, ""));
            name.trim().eq_ignore_ascii_case("gzip") && quality.trim() != "q=0"
        })
    })
}

/// Compresses a text that is long enough for it.
async fn compress(response: Response) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let kind = kind
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let text = kind.starts_with("application/json")
        || kind.starts_with("text/")
        || kind.contains("javascript");
    let size = response.body().size_hint().exact().unwrap_or(0);
    let encoded = response.headers().contains_key(header::CONTENT_ENCODING);
    if !text || encoded || size < COMPRESSED_FROM || response.status() != StatusCode::OK {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(whole) = body.collect().await else {
        return Fault::unavailable("the answer broke off").into_response();
    };
    let whole = whole.to_bytes();
    let body = gzip(&whole).map_or(whole, |packed| {
        parts
            .headers
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        parts
            .headers
            .append(header::VARY, HeaderValue::from_static("accept-encoding"));
        packed.into()
    });
    Response::from_parts(parts, body.into())
}

fn gzip(text: &[u8]) -> Option<Vec<u8>> {
    use std::io::Write;
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(text).ok()?;
    out.finish().ok()
}

/// Gives a handler what the routes share.
fn with(
    shared: &Arc<Shared>,
) -> impl Filter<Extract = (Arc<Shared>,), Error = std::convert::Infallible> + Clone + use<> {
    let shared = Arc::clone(shared);
    warp::any().map(move || Arc::clone(&shared))
}

/// Gives a handler who asks.
fn context() -> impl Filter<Extract = (Context,), Error = warp::Rejection> + Clone {
    warp::ext::get::<Context>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_own_id_unless_it_is_not_sane() {
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", HeaderValue::from_str(text).unwrap());
            request_id(&headers)
        };
        assert_eq!(with("abc-1"), "abc-1");
        assert_ne!(with("a b"), "a b");
        assert_ne!(with(&"x".repeat(129)).len(), 129);
        assert_eq!(request_id(&HeaderMap::new()).len(), 16);
    }

    #[test]
    fn gzip_is_used_only_where_it_is_taken() {
        let with = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("accept-encoding", HeaderValue::from_static(text));
            takes_gzip(&headers)
        };
        assert!(with("deflate, gzip;q=0.5"));
        assert!(!with("gzip;q=0"));
        assert!(!with("br"));
    }
}
