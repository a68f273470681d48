//! The status page: files of `static/`, in the binary. They hold nothing secret, but lie behind the account like all else, so
//! that the browser asks for the password once and has it for what the page fetches.

use super::answer::{Fault, set};
use super::route::{Routes, param};
use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::Bytes;
use rust_embed::RustEmbed;
use std::borrow::Cow;
use warp::reject::Rejection;
use warp::reply::Response;
use warp::{Filter, Reply};

/// What a page of ours may do: load from here and nowhere else, run no inline script, be framed by nobody.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self'; connect-src 'self'; font-src 'self'; manifest-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

#[derive(RustEmbed)]
#[folder = "static/"]
struct Files;

pub(super) fn add(routes: &mut Routes) {
    let headers = || warp::header::headers_cloned();
    routes.account("GET /", headers().and_then(index));
    routes.account("GET /static/{*}", param().and(headers()).and_then(file));
    routes.open("GET /favicon.ico", headers().and_then(icon));
}

async fn index(headers: HeaderMap) -> Result<Response, Rejection> {
    file("index.html".to_owned(), headers).await
}

async fn icon(headers: HeaderMap) -> Result<Response, Rejection> {
    file("icon.svg".to_owned(), headers).await
}

async fn file(path: String, headers: HeaderMap) -> Result<Response, Rejection> {
    let file = Files::get(&path).ok_or_else(|| Fault::not_found("there is no such file"))?;
    let tag = file
        .metadata
        .sha256_hash()
        .iter()
        .take(8)
        .fold(String::from("\""), |text, byte| format!("{text}{byte:02x}"));
    let tag = format!("{tag}\"");
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    let fresh = known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag));
    let mut response = if fresh {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Response::new(bytes(file.data).into())
    };
    set(&mut response, header::CONTENT_TYPE, kind(&path));
    // Asked for anew each time, answered in a few bytes while nothing changed.
    set(&mut response, header::CACHE_CONTROL, "private, no-cache");
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    guard(&mut response, POLICY);
    Ok(response)
}

/// What every page carries.
pub(super) fn guard(response: &mut Response, policy: &'static str) {
    set(response, header::CONTENT_SECURITY_POLICY, policy);
    set(response, header::X_FRAME_OPTIONS, "DENY");
    set(response, header::REFERRER_POLICY, "no-referrer");
    let headers = response.headers_mut();
    headers.insert(
        "cross-origin-opener-policy",
        HeaderValue::from_static("same-origin"),
    );
    headers.insert(
        "cross-origin-resource-policy",
        HeaderValue::from_static("same-origin"),
    );
    let nothing = "camera=(), microphone=(), geolocation=(), payment=(), usb=()";
    headers.insert("permissions-policy", HeaderValue::from_static(nothing));
}

fn bytes(data: Cow<'static, [u8]>) -> Bytes {
    match data {
        Cow::Borrowed(data) => Bytes::from_static(data),
        Cow::Owned(data) => Bytes::from(data),
    }
}

fn kind(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("json" | "webmanifest") => "application/json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_in_the_binary() {
        assert!(Files::get("index.html").is_some());
        assert!(Files::iter().map(|name| kind(&name).len()).sum::<usize>() > 0);
    }
}
