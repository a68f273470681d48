//! OpenVidu's webhooks come in here. One is looked at, written to the outbox and on disk before it is answered, for OpenVidu
//! sends nothing twice that was answered, and everything waits behind a slow answer. Acting and relaying come after, but where
//! the disk takes nothing: then the event is delivered while OpenVidu waits, and where that fails too, the connection is
//! closed without an answer, for only then does OpenVidu send it again.

use super::answer::{
    Fault, WEBHOOK_LIMIT, WEBHOOK_ROOM, body, decode, json, json_with, no_answer, raw_body,
};
use super::route::{Access, Routes, param};
use super::{Shared, metrics, with};
use crate::clock::Timestamp;
use crate::controller::relay;
use crate::db::DbError;
use crate::db::outbox::{Delivery, DeliveryState, Event};
use crate::model::wire::{ErrorBody, RecordingStatusChanged};
use ::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};
use warp::Filter;
use warp::reject::Rejection;
use warp::reply::Response;

const ENDPOINT: &str = "/openvidu/webhook";

/// How long OpenVidu is kept waiting for a webhook that the disk does not take: a little less than its own patience.
const PATIENCE: Duration = Duration::from_secs(9);

/// In place of an id: the event was delivered, and is not kept for replay.
const NOT_KEPT: &str = "not kept";

pub(super) fn add(routes: &mut Routes, shared: &Arc<Shared>) {
    let receiving = with(shared)
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(raw_body(WEBHOOK_LIMIT, &WEBHOOK_ROOM))
        .and_then(receive)
        .boxed();
    for route in [
        "POST /openvidu/webhook",
        "PUT /openvidu/webhook",
        "PATCH /openvidu/webhook",
        "DELETE /openvidu/webhook",
    ] {
        routes.add(Access::Webhook, route, receiving.clone());
    }
    routes.open("GET /openvidu/webhook", with(shared).and_then(hello));
    routes.open(
        "GET /openvidu/webhook/status",
        with(shared).and_then(status),
    );
    routes.account(
        "GET /api/webhooks",
        with(shared).and(warp::query()).and_then(list),
    );
    routes.operator(
        "POST /api/webhooks/replay",
        with(shared).and(body()).and_then(replay_since),
    );
    routes.operator(
        "POST /api/webhooks/{id}/replay",
        with(shared).and(param()).and_then(replay),
    );
}

/// What is read of every event; whatever else it holds is passed on.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Envelope {
    /// OpenVidu's name of the event; `recordingStatusChanged` must have `id` and `status` too.
    event: Option<String>,
    /// OpenVidu's session: its events are relayed in order.
    session_id: Option<String>,
}

/// Says that a webhook is kept.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Received {
    status: &'static str,
    message: String,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    processing_time_ms: u64,
    method: String,
    /// Under this id it is listed and delivered; "not kept" where the disk did not take it and it was delivered at once.
    id: String,
}

/// Takes an event of OpenVidu.
#[utoipa::path(method(post, put, patch, delete), path = "/openvidu/webhook", tag = "webhook", security((), ("token" = [])), request_body = Envelope, responses(
    (status = 200, description = "it is on disk and will be acted on and relayed; or, where the disk takes nothing, both is done. Where that fails too, the connection is closed without an answer", body = Received),
    (status = 400, description = "it is no event", body = ErrorBody),
    (status = 401, description = "the token is missing or wrong", body = ErrorBody),
    (status = 403, description = "not from this address", body = ErrorBody),
    (status = 429, description = "too many wrong tokens from this address", body = ErrorBody),
))]
pub(super) async fn receive(
    shared: Arc<Shared>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Rejection> {
    let began = shared.clock.uptime();
    let now = shared.clock.now();
    let event = read(&method, &headers, body, now)?;
    let message = match &event.name {
        Some(name) => format!("Webhook {name} received"),
        None => "Webhook received".to_owned(),
    };
    let id = match shared.outbox.accept(event.clone()).await {
        Ok(id) => id,
        Err(cause) => {
            if !passed_on(&shared, event, &cause, began).await {
                return Ok(no_answer());
            }
            NOT_KEPT.to_owned()
        }
    };
    let took = shared.clock.uptime().saturating_sub(began);
    metrics::webhook(took);
    Ok(json(&Received {
        status: "received",
        message,
        timestamp: now,
        processing_time_ms: took.as_millis() as u64,
        method: method.to_string(),
        id,
    }))
}

/// What arbitrary bytes are as a webhook, or why they are none; for those who try the reader.
///
/// # Errors
/// When they are no webhook.
pub fn read_webhook(method: &Method, headers: &HeaderMap, body: Bytes) -> Result<Event, String> {
    read(method, headers, body, Timestamp::default()).map_err(|fault| fault.message)
}

/// Reads a webhook as far as we act on it; everything else is passed on as it is.
fn read(method: &Method, headers: &HeaderMap, body: Bytes, now: Timestamp) -> Result<Event, Fault> {
    if std::str::from_utf8(&body).is_err() {
        // JSON is UTF-8; signatures are made over text.
        return Err(Fault::bad("the body is no UTF-8 text"));
    }
    let empty = body.iter().all(u8::is_ascii_whitespace);
    let envelope = match (empty, method == Method::DELETE) {
        (true, true) => Envelope {
            event: None,
            session_id: None,
        },
        (true, false) => return Err(Fault::bad("a JSON body is required")),
        (false, _) => decode::<Envelope>(&body)?,
    };
    if envelope.event.as_deref() == Some("recordingStatusChanged") {
        decode::<RecordingStatusChanged>(&body)?;
    }
    let text = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let passed_on = |name: &str| name.starts_with("openvidu-") || name.starts_with("x-openvidu-");
    Ok(Event {
        name: envelope.event,
        method: method.to_string(),
        content_type: text("content-type"),
        user_agent: text("user-agent"),
        headers: headers
            .iter()
            .filter(|(name, _)| passed_on(name.as_str()))
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
            .collect(),
        ..Event::new(now, envelope.session_id.unwrap_or_default(), body)
    })
}

/// Whether every target took an event that the disk does not take, while OpenVidu waits for the answer.
async fn passed_on(shared: &Shared, event: Event, cause: &DbError, began: Duration) -> bool {
    let left = (began + PATIENCE).saturating_sub(shared.clock.uptime());
    let passed_on = tokio::time::timeout(left, shared.outbox.pass_on(event)).await;
    match passed_on {
        Ok(()) => log::error!(cause:% = cause;
            "a webhook could not be written to disk and was delivered from memory; free space in the data directory, and start the service again if this goes on"),
        Err(_) => log::error!(cause:% = cause;
            "a webhook could neither be written to disk nor delivered in time: its connection is closed without an answer, so that OpenVidu sends it again; free space in the data directory"),
    }
    passed_on.is_ok()
}

/// Says that webhooks may come.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hello {
    status: &'static str,
    endpoint: &'static str,
    message: &'static str,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    relay_status: &'static str,
}

/// Says that webhooks may come.
#[utoipa::path(get, path = "/openvidu/webhook", tag = "webhook", security(()), responses(
    (status = 200, description = "webhooks may come", body = Hello),
))]
pub(super) async fn hello(shared: Arc<Shared>) -> Result<Response, Rejection> {
    Ok(json(&Hello {
        status: "healthy",
        endpoint: ENDPOINT,
        message: "OpenVidu webhook endpoint is active",
        timestamp: shared.clock.now(),
        relay_status: if shared.settings.relay_on() {
            "enabled"
        } else {
            "disabled"
        },
    }))
}

/// What the relay did since the start.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RelayStatus {
    enabled: bool,
    /// Scheme and host of the targets.
    endpoint: String,
    total_requests: u64,
    successful_requests: u64,
    failed_requests: u64,
    /// Per cent of the requests that were taken.
    success_rate: f64,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_request_time: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_success_time: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_failure_time: Option<Timestamp>,
    configuration: RelayConfiguration,
    pending: u64,
    dead: u64,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// How the relay is set up.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RelayConfiguration {
    timeout_ms: u64,
    retry_attempts: usize,
    retry_delay_ms: u64,
    has_custom_headers: bool,
}

/// What the relay did since the start.
#[utoipa::path(get, path = "/openvidu/webhook/status", tag = "webhook", security(()), responses(
    (status = 200, description = "the relay's numbers", body = RelayStatus),
))]
pub(super) async fn status(shared: Arc<Shared>) -> Result<Response, Rejection> {
    let tally = shared.relay.tally();
    let counts = shared.outbox.counts();
    let targets = shared
        .settings
        .relay_endpoints
        .0
        .iter()
        .map(|url| url.origin());
    Ok(json(&RelayStatus {
        enabled: shared.settings.relay_on(),
        endpoint: targets.collect::<Vec<_>>().join(", "),
        total_requests: tally.total,
        successful_requests: tally.successful,
        failed_requests: tally.failed,
        success_rate: match tally.total {
            0 => 0.0,
            total => tally.successful as f64 * 100.0 / total as f64,
        },
        last_request_time: tally.last_at,
        last_success_time: tally.last_success_at,
        last_failure_time: tally.last_failure_at,
        configuration: RelayConfiguration {
            timeout_ms: relay::TIMEOUT.as_millis() as u64,
            retry_attempts: relay::SCHEDULE.len(),
            retry_delay_ms: relay::SCHEDULE[0].as_millis() as u64,
            has_custom_headers: !shared.settings.relay_headers.0.is_empty(),
        },
        pending: counts.pending,
        dead: counts.dead,
        timestamp: shared.clock.now(),
    }))
}

/// Which webhooks are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WebhookPart {
    /// `pending` when not given.
    #[param(value_type = Option<DeliveryState>)]
    state: Option<String>,
    /// At most this many; 50 when not given, 500 at most.
    #[param(minimum = 1)]
    limit: Option<usize>,
    /// After skipping this many.
    offset: Option<usize>,
}

/// Deliveries of one state, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct WebhookList {
    webhooks: Vec<WebhookView>,
    /// Deliveries in this answer.
    count: usize,
    /// Deliveries of that state in all.
    total: u64,
    state: &'static str,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// A webhook's delivery to one target.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct WebhookView {
    id: String,
    event: Option<String>,
    session_id: String,
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
    bytes: usize,
    synthesized: bool,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    delivery: Delivery,
}

/// Webhooks and what became of them at each target.
#[utoipa::path(get, path = "/api/webhooks", tag = "webhook", params(WebhookPart), responses(
    (status = 200, description = "deliveries of one state, newest first", body = WebhookList),
    (status = 400, description = "no such state", body = ErrorBody),
))]
pub(super) async fn list(shared: Arc<Shared>, part: WebhookPart) -> Result<Response, Rejection> {
    let state = match part.state.as_deref() {
        None => DeliveryState::Pending,
        Some(text) => state_of(text)?,
    };
    let limit = match part.limit {
        Some(0) => return Err(Fault::bad("limit must be at least 1").into()),
        limit => limit.unwrap_or(50).min(500),
    };
    let found = shared.outbox.list(state, limit, part.offset.unwrap_or(0));
    let (found, total) = found.map_err(unreadable)?;
    let webhooks = found.into_iter().map(|(event, delivery)| WebhookView {
        id: event.id,
        event: event.name,
        session_id: event.lane,
        received_at: event.received_at,
        bytes: event.body.len(),
        synthesized: event.synthesized,
        delivery,
    });
    let webhooks = webhooks.collect::<Vec<_>>();
    Ok(json(&WebhookList {
        count: webhooks.len(),
        webhooks,
        total,
        state: state.as_str(),
        timestamp: shared.clock.now(),
    }))
}

fn state_of(text: &str) -> Result<DeliveryState, Fault> {
    DeliveryState::parse(text).ok_or_else(|| {
        Fault::bad(format!(
            "state {text:?} is none of pending, delivered, dead"
        ))
    })
}

fn unreadable(cause: DbError) -> Fault {
    Fault::unavailable(cause.to_string())
}

/// What is delivered again.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Replayed {
    message: &'static str,
    /// Deliveries that are made again.
    replayed: usize,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

impl Replayed {
    fn answer(shared: &Shared, replayed: usize) -> Response {
        let answer = Self {
            message: "Replay started",
            replayed,
            timestamp: shared.clock.now(),
        };
        json_with(StatusCode::ACCEPTED, &answer)
    }
}

/// Delivers a webhook again to every target.
#[utoipa::path(post, path = "/api/webhooks/{id}/replay", tag = "webhook", params(("id" = String, Path)), responses(
    (status = 202, description = "it is delivered again", body = Replayed),
    (status = 404, description = "it is not kept", body = ErrorBody),
))]
pub(super) async fn replay(shared: Arc<Shared>, id: String) -> Result<Response, Rejection> {
    let replayed = shared
        .outbox
        .replay(&id, shared.clock.now())
        .await
        .map_err(unreadable)?;
    let message = || Fault::not_found("there is no webhook with this id, or it is no longer kept");
    Ok(Replayed::answer(&shared, replayed.ok_or_else(message)?))
}

/// Which webhooks are to be delivered again.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ReplayRequest {
    /// Those received since this time.
    since: Option<Timestamp>,
    /// Those of this state only. Without state and time: the dead letters.
    #[schema(value_type = Option<DeliveryState>)]
    state: Option<String>,
}

/// Delivers all webhooks since a time again, or all dead letters.
#[utoipa::path(post, path = "/api/webhooks/replay", tag = "webhook", request_body = ReplayRequest, responses(
    (status = 202, description = "they are delivered again", body = Replayed),
    (status = 400, description = "no time, or no such state", body = ErrorBody),
))]
pub(super) async fn replay_since(
    shared: Arc<Shared>,
    wanted: ReplayRequest,
) -> Result<Response, Rejection> {
    let only = match (&wanted.state, wanted.since) {
        (Some(text), _) => Some(state_of(text)?),
        (None, Some(_)) => None,
        (None, None) => Some(DeliveryState::Dead),
    };
    let (since, now) = (wanted.since.unwrap_or_default(), shared.clock.now());
    let replayed = shared
        .outbox
        .replay_since(since, only, now)
        .await
        .map_err(unreadable)?;
    Ok(Replayed::answer(&shared, replayed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL: &str = r#"{"event":"recordingStatusChanged","timestamp":1600000000000,"sessionId":"ses_A","uniqueSessionId":"ses_A_1","id":"ses_A~1","name":"talk","outputMode":"COMPOSED","resolution":"1280x720","frameRate":25,"recordingLayout":"BEST_FIT","hasAudio":true,"hasVideo":true,"startTime":1600000000000,"duration":0,"size":0,"status":"started","reason":null}"#;

    fn try_reading(body: Vec<u8>) -> Result<Event, String> {
        read_webhook(&Method::POST, &HeaderMap::new(), body.into())
    }

    /// Any JSON, a few levels deep, with members that are read among the others.
    fn json_value() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            Just(Value::from("recordingStatusChanged")),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            let name = prop_oneof!["event", "sessionId", "id", "status", "startTime", ".*"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(name, inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn a_real_webhook_is_read() {
        let event = try_reading(REAL.into()).unwrap();
        assert_eq!(event.name.as_deref(), Some("recordingStatusChanged"));
        assert_eq!(
            (event.lane.as_str(), event.body.len()),
            ("ses_A", REAL.len())
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_webhook_or_refused_in_words(body in any::<Vec<u8>>()) {
            if let Err(why) = try_reading(body) {
                prop_assert!(!why.is_empty());
            }
        }

        #[test]
        fn any_json_is_a_webhook_or_refused_in_words(value in json_value()) {
            if let Err(why) = try_reading(value.to_string().into()) {
                prop_assert!(!why.is_empty());
            }
        }

        #[test]
        fn a_mutated_webhook_is_passed_on_byte_for_byte_or_refused(
            changes in prop::collection::vec((0..REAL.len(), any::<u8>()), 1..8),
            cut in 0..REAL.len(),
        ) {
            let mut body = REAL.as_bytes().to_vec();
            for (place, byte) in changes {
                body[place] = byte;
            }
            for body in [body[..cut].to_vec(), body] {
                if let Ok(event) = try_reading(body.clone()) {
                    prop_assert_eq!(&event.body[..], &body[..]);
                }
            }
        }
    }
}
