//! How rusoto's requests leave: addressed, completed, signed and sent over the program's own HTTP client. rusoto builds the
//! request and reads the answer; everything between is here, so that its own client, TLS and credentials are never used.

use super::credentials::Credentials;
use futures_util::TryStreamExt;
use rusoto_core::ByteStream;
use rusoto_core::request::{
    DispatchSignedRequest, DispatchSignedRequestFuture, HttpDispatchError, HttpResponse,
};
use rusoto_core::signature::{SignedRequest, SignedRequestPayload};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for an answer's next byte.
pub(super) const SILENCE: Duration = Duration::from_secs(20);
/// An upload slower than this is given up and tried again.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;

/// How a bucket is named in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Addressing {
    /// `https://host/bucket/key`
    Path,
    /// `https://bucket.host/key`
    Host,
}

/// Sends rusoto's requests.
pub(super) struct Dispatcher {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    credentials: Credentials,
    addressing: Addressing,
    bucket: String,
    headers: Vec<(String, String)>,
}

impl Dispatcher {
    pub(super) fn new(
        http: reqwest::Client,
        credentials: Credentials,
        addressing: Addressing,
        bucket: &str,
        headers: Vec<(String, String)>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                http,
                credentials,
                addressing,
                bucket: bucket.to_owned(),
                headers,
            }),
        }
    }
}

impl DispatchSignedRequest for Dispatcher {
    fn dispatch(
        &self,
        request: SignedRequest,
        _timeout: Option<Duration>,
    ) -> DispatchSignedRequestFuture {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { inner.send(request).await.map_err(HttpDispatchError::new) })
    }
}

impl Inner {
    async fn send(&self, mut request: SignedRequest) -> Result<HttpResponse, String> {
        self.complete(&mut request);
        let credentials = self.credentials.get().await?;
        request.sign(&credentials);
        let answer = self.build(request)?.send().await.map_err(cause_of)?;
        if matches!(answer.status().as_u16(), 400 | 401 | 403) {
            self.credentials.doubt().await;
        }
        let status = answer.status().as_u16();
        Ok(HttpResponse {
            status: status
                .try_into()
                .map_err(|_| format!("the store answered with the status {status}"))?,
            headers: answer
                .headers()
                .iter()
                .filter_map(|(name, value)| {
                    Some((name.as_str().parse().ok()?, value.to_str().ok()?.to_owned()))
                })
                .collect(),
            body: ByteStream::new(
                answer
                    .bytes_stream()
                    .map_err(|cause| io::Error::other(cause_of(cause))),
            ),
        })
    }

    /// Puts the bucket where it belongs and adds the configured headers to uploads.
    fn complete(&self, request: &mut SignedRequest) {
        let own = format!("/{}", self.bucket);
        let key = request.path.strip_prefix(&own).map(str::to_owned);
        let names_object = key.as_ref().is_some_and(|key| key.len() > 1);
        if let (Addressing::Host, Some(key)) = (&self.addressing, key) {
            let host = format!("{}.{}", self.bucket, request.hostname());
            request.set_hostname(Some(host));
            request.path = if key.is_empty() { "/".into() } else { key };
        }
        let begins_upload = match request.method() {
            "PUT" => !request.params.contains_key("partNumber"),
            "POST" => request.params.contains_key("uploads"),
            _ => false,
        };
        for (name, value) in &self.headers {
            // A customer's own key must accompany every request about an object.
            let always = name.starts_with("x-amz-server-side-encryption-customer-");
            if names_object && (begins_upload || always) {
                request.remove_header(name);
                request.add_header(name, value);
            }
        }
    }

    fn build(&self, request: SignedRequest) -> Result<reqwest::RequestBuilder, String> {
        let mut url = format!(
            "{}://{}{}",
            request.scheme(),
            request.hostname(),
            request.canonical_path()
        );
        if !request.canonical_query_string().is_empty() {
            url.push('?');
            url.push_str(request.canonical_query_string());
        }
        let method = reqwest::Method::from_bytes(request.method.as_bytes())
            .map_err(|cause| cause.to_string())?;
        let downloads = method == reqwest::Method::GET;
        let mut out = self.http.request(method, url);
        let mut bytes = 0;
        for (name, values) in request.headers() {
            for value in values.iter().filter(|_| name != "host") {
                out = out.header(name, value.as_slice());
                if name == "content-length" {
                    bytes = std::str::from_utf8(value)
                        .ok()
                        .and_then(|text| text.parse().ok())
                        .unwrap_or(0);
                }
            }
        }
        if !downloads {
            let sending = Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
            out = out.timeout(SILENCE + sending);
        }
        Ok(match request.payload {
            Some(SignedRequestPayload::Buffer(bytes)) => out.body(bytes),
            Some(SignedRequestPayload::Stream(stream)) => {
                out.body(reqwest::Body::wrap_stream(stream))
            }
            None => out,
        })
    }
}

/// The innermost cause, without the URL: the outer ones only say that a request failed.
fn cause_of(cause: reqwest::Error) -> String {
    let cause = cause.without_url();
    if cause.is_timeout() {
        return "the store did not answer in time".into();
    }
    let mut inner: &dyn std::error::Error = &cause;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}
