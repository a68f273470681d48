//! What comes back: JSON, and errors that say in a sentence what was wrong. A handler answers a [`Fault`] and knows neither
//! the request's path nor its id; the edge writes the body once it does, so that no error leaves without one.

use crate::clock::Timestamp;
use crate::model::wire::{ErrorBody, ErrorCode, read_json};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, TryStreamExt};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use warp::reject::{Reject, Rejection};
use warp::reply::Response;
use warp::{Filter, filters::BoxedFilter};

/// The largest body of an API request.
pub(super) const API_LIMIT: usize = 256 * 1024;
/// The largest body of a webhook.
pub(super) const WEBHOOK_LIMIT: usize = 1024 * 1024;
/// What is read and thrown away of a body that is too large: a client that still sends when the connection closes would
/// not see the answer.
const DISCARDED: usize = 8 * 1024 * 1024;
/// The unit in which the room for bodies is counted, in bytes.
const UNIT: usize = 1024;
/// Room for the bodies of API requests that are in memory at one time: 32 MiB. Who may not send one has been refused before
/// it is read.
static API_ROOM: Semaphore = Semaphore::const_new(32 << 10);
/// The same for webhooks, which may come without a token: heartbeats do not wait for them.
pub(super) static WEBHOOK_ROOM: Semaphore = Semaphore::const_new(32 << 10);
/// How long a client may take to send a body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Why a request was not done.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    /// The status code.
    pub(super) status: StatusCode,
    /// A sentence for a person.
    pub(super) message: String,
    /// For programs, where the status code alone does not say.
    pub(super) code: Option<ErrorCode>,
    /// Seconds after which the client may come back.
    pub(super) retry_after: Option<u64>,
    /// The methods that the path has, where the method was the fault.
    pub(super) allow: Option<String>,
    /// What a client must send, where its identity was the fault.
    pub(super) authenticate: Option<&'static str>,
}

impl Reject for Fault {}

impl Fault {
    /// A fault with this status.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            code: None,
            retry_after: None,
            allow: None,
            authenticate: None,
        }
    }

    /// 400.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 503.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// The same, with what a program acts on.
    pub(super) fn with_code(mut self, code: ErrorCode) -> Self {
        self.code = Some(code);
        self
    }

    /// The response, still without its body: [`write_body`] adds it where path and request id are known.
    pub(super) fn into_response(self) -> Response {
        let mut response = Response::default();
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(methods) = self.allow.as_deref().and_then(|text| text.parse().ok()) {
            headers.insert(header::ALLOW, methods);
        }
        if let Some(scheme) = self.authenticate {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Marks a response that is not to be sent: the connection is closed without one.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoAnswer;

/// For a client that repeats a request only when it got no answer.
pub(super) fn no_answer() -> Response {
    let mut response = Response::default();
    // What logs and metrics say of it.
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.extensions_mut().insert(NoAnswer);
    response
}

/// Gives a response that carries a [`Fault`] the body that says so.
pub(super) fn write_body(response: &mut Response, now: Timestamp, path: &str, request_id: &str) {
    let Some(fault) = response.extensions_mut().remove::<Fault>() else {
        return;
    };
    let body = ErrorBody {
        timestamp: now,
        status: fault.status.as_u16(),
        error: phrase(fault.status).to_owned(),
        message: fault.message,
        path: path.to_owned(),
        request_id: request_id.to_owned(),
        code: fault.code,
    };
    *response.body_mut() = Bytes::from(serde_json::to_vec(&body).unwrap_or_default()).into();
    set(response, header::CONTENT_TYPE, "application/json");
}

/// The status code's phrase.
fn phrase(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

/// Sets a header from a text known at compile time.
pub(super) fn set(response: &mut Response, name: header::HeaderName, value: &'static str) {
    response
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
}

/// 200 with JSON.
pub(super) fn json(value: &impl Serialize) -> Response {
    json_with(StatusCode::OK, value)
}

/// JSON with another status.
pub(super) fn json_with(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => {
            let mut response = Response::new(Bytes::from(text).into());
            *response.status_mut() = status;
            set(&mut response, header::CONTENT_TYPE, "application/json");
            response
        }
        Err(cause) => Fault::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot write the answer: {cause}"),
        )
        .into_response(),
    }
}

/// Bytes of some other type.
pub(super) fn typed(kind: &str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into().into());
    if let Ok(kind) = HeaderValue::from_str(kind) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

/// What warp or a handler rejected, as a response.
pub(super) async fn rejected(rejection: Rejection) -> Result<Response, std::convert::Infallible> {
    if let Some(fault) = rejection.find::<Fault>() {
        return Ok(fault.clone().into_response());
    }
    if rejection.find::<warp::reject::InvalidQuery>().is_some() {
        return Ok(Fault::bad("a parameter of the query has a value of the wrong kind, or is not known; GET /v3/api-docs lists them (SWAGGER_ENABLED=true)").into_response());
    }
    if let Some(header) = rejection.find::<warp::reject::InvalidHeader>() {
        let message = format!("the header {} cannot be read", header.name());
        return Ok(Fault::bad(message).into_response());
    }
    log::error!(rejection:? = rejection; "a request was rejected in a way that has no answer");
    let message = "the request could not be handled; the log says more";
    Ok(Fault::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response())
}

/// The request's body, whole, at most `limit` bytes, within a bounded time. Where many bodies are in memory already, it is
/// read when there is room for it.
pub(super) fn raw_body(limit: usize, room: &'static Semaphore) -> BoxedFilter<(Bytes,)> {
    warp::header::optional::<u64>("content-length")
        .and(warp::body::stream())
        .and_then(move |announced: Option<u64>, body| async move {
            let keep = announced.is_none_or(|length| length <= limit as u64);
            let kept = if keep { limit } else { 0 };
            let length = announced.and_then(|length| usize::try_from(length).ok());
            let read = within(room, length.unwrap_or(kept).min(kept), collect(body, kept));
            match tokio::time::timeout(BODY_TIME, read).await {
                Ok(Ok(whole)) if keep => Ok(whole),
                Ok(Err(fault)) if fault.status != StatusCode::PAYLOAD_TOO_LARGE => {
                    Err(fault.into())
                }
                Ok(_) => Err(Rejection::from(too_large(limit))),
                Err(_) => Err(Fault::new(
                    StatusCode::REQUEST_TIMEOUT,
                    format!("the body did not arrive within {} s", BODY_TIME.as_secs()),
                )
                .into()),
            }
        })
        .boxed()
}

/// Reads a body of at most `length` bytes when `room` has them; it has them back when the body is gone from memory.
async fn within<F>(room: &'static Semaphore, length: usize, body: F) -> Result<Bytes, Fault>
where
    F: Future<Output = Result<Bytes, Fault>>,
{
    /// Bytes, and the room they take.
    struct Held {
        whole: Bytes,
        _room: SemaphorePermit<'static>,
    }

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.whole
        }
    }

    let units = u32::try_from(length.div_ceil(UNIT)).unwrap_or(u32::MAX);
    let closed = |_| Fault::new(StatusCode::SERVICE_UNAVAILABLE, "the controller ends");
    let room = room.acquire_many(units).await.map_err(closed)?;
    let whole = body.await?;
    Ok(match units {
        0 => whole,
        _ => Bytes::from_owner(Held { whole, _room: room }),
    })
}

async fn collect<S, B, E>(body: S, limit: usize) -> Result<Bytes, Fault>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
    E: std::fmt::Display,
{
    let mut body = pin!(body.map_err(|cause| Fault::bad(format!("the body broke off: {cause}"))));
    let mut whole = BytesMut::new();
    let mut read = 0;
    while let Some(mut part) = body.next().await.transpose()? {
        read += part.remaining();
        if read > limit + DISCARDED {
            break;
        }
        if read <= limit {
            whole.extend_from_slice(&part.copy_to_bytes(part.remaining()));
        }
    }
    if read > limit {
        Err(too_large(limit))
    } else {
        Ok(whole.freeze())
    }
}

fn too_large(limit: usize) -> Fault {
    let message = format!("the body is larger than {} kB", limit / 1024);
    Fault::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

/// The request's JSON; `None` when there is no body.
pub(super) fn optional_body<T>() -> BoxedFilter<(Option<T>,)>
where
    T: DeserializeOwned + Send + 'static,
{
    warp::header::optional::<String>("content-type")
        .and(raw_body(API_LIMIT, &API_ROOM))
        .and_then(|kind: Option<String>, body: Bytes| async move {
            if matches!(body.trim_ascii(), b"" | b"null") {
                return Ok(None);
            }
            if !kind.as_deref().is_none_or(is_json) {
                let message = "the body must be application/json";
                return Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message).into());
            }
            decode(&body).map(Some).map_err(Rejection::from)
        })
        .boxed()
}

/// The request's JSON; a missing body is a fault.
pub(super) fn body<T>() -> BoxedFilter<(T,)>
where
    T: DeserializeOwned + Send + 'static,
{
    optional_body()
        .and_then(|body: Option<T>| async move {
            body.ok_or_else(|| Rejection::from(Fault::bad("a JSON body is required")))
        })
        .boxed()
}

fn is_json(kind: &str) -> bool {
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || (essence.len() > 5 && essence.to_ascii_lowercase().ends_with("+json"))
}

/// Reads JSON; too deep is a fault like any other that makes it unreadable.
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    // serde would take a list as a record's members in order.
    if body
        .trim_ascii_start()
        .first()
        .is_some_and(|first| *first != b'{')
    {
        return Err(Fault::bad("the body must be a JSON object"));
    }
    read_json(body)
        .map_err(|cause| Fault::bad(format!("the body is not what this request takes: {cause}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_types_are_told_from_others() {
        for good in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/problem+json",
        ] {
            assert!(is_json(good), "{good}");
        }
        for bad in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "",
            "+json",
        ] {
            assert!(!is_json(bad), "{bad}");
        }
    }

    #[test]
    fn json_that_is_too_deep_is_refused_without_harm() {
        let deep = "{\"a\":".repeat(100_000);
        assert!(decode::<serde_json::Value>(deep.as_bytes()).is_err());
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_while_it_arrives() {
        let parts = (0..4).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 10])));
        let body = futures_util::stream::iter(parts);
        let fault = collect(body, 25).await.unwrap_err();
        assert_eq!(fault.status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_body_waits_until_there_is_room_for_it() {
        static SMALL: Semaphore = Semaphore::const_new(2);
        let body = || async { Ok(Bytes::from_static(b"x")) };
        let first = within(&SMALL, 2 * UNIT, body()).await.unwrap();
        assert_eq!(&*first, b"x");
        let mut second = Box::pin(within(&SMALL, 1, body()));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(&*second.await.unwrap(), b"x");
        assert_eq!(SMALL.available_permits(), 2);
        let broken = async { Err(Fault::bad("the body broke off")) };
        assert!(within(&SMALL, 2 * UNIT, broken).await.is_err());
        assert_eq!(SMALL.available_permits(), 2);
    }
}
