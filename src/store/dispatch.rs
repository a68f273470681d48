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

/// Where a request names the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BucketIn {
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
    place: BucketIn,
    bucket: String,
    headers: Vec<(String, String)>,
}

impl Dispatcher {
    pub(super) fn new(
        http: reqwest::Client,
        credentials: Credentials,
        place: BucketIn,
        bucket: &str,
        headers: Vec<(String, String)>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                http,
                credentials,
                place,
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
        let answer = self.build(request)?.send().await;
        let answer = answer.map_err(|cause| self.explain(cause))?;
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
        if let (BucketIn::Host, Some(key)) = (&self.place, key) {
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

    /// The cause, and what to set where the bucket's own host name may be what is missing.
    fn explain(&self, cause: reqwest::Error) -> String {
        let advise = cause.is_connect() && self.place == BucketIn::Host;
        let cause = cause_of(cause);
        match advise {
            true => format!(
                "{cause}; if the store has no host name for each bucket, set HA_S3_ADDRESSING=path"
            ),
            false => cause,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Variables;
    use rusoto_core::Region;
    use std::time::Duration;

    fn inner(place: BucketIn, headers: &[(&str, &str)]) -> Inner {
        let keys = [("HA_AWS_ACCESS_KEY", "a"), ("HA_AWS_SECRET_KEY", "b")];
        let settings = Variables::of(keys).settings().unwrap();
        let http = crate::outbound::client(Duration::from_secs(1), Duration::from_secs(1)).unwrap();
        let headers = headers.iter().map(|(n, v)| ((*n).into(), (*v).into()));
        Inner {
            credentials: Credentials::new(&settings, http.clone()),
            http,
            place,
            bucket: "bucket".into(),
            headers: headers.collect(),
        }
    }

    /// The request as it would leave.
    async fn leaving(inner: &Inner, method: &str, path: &str, parameter: &str) -> reqwest::Request {
        let region = Region::Custom {
            name: "eu-west-1".into(),
            endpoint: "https://s3.eu-west-1.amazonaws.com".into(),
        };
        let mut request = SignedRequest::new(method, "s3", &region, path);
        if !parameter.is_empty() {
            request.add_param(parameter, "1");
        }
        inner.complete(&mut request);
        request.sign(&inner.credentials.get().await.unwrap());
        inner.build(request).unwrap().build().unwrap()
    }

    #[tokio::test]
    async fn on_aws_the_bucket_is_part_of_the_hosts_name() {
        let (host, path) = (inner(BucketIn::Host, &[]), inner(BucketIn::Path, &[]));
        let asked = leaving(&host, "GET", "/bucket/a/b c", "").await;
        let own = "https://bucket.s3.eu-west-1.amazonaws.com";
        assert_eq!(asked.url().as_str(), format!("{own}/a/b%20c"));
        let listed = leaving(&host, "GET", "/bucket", "list-type").await;
        assert_eq!(listed.url().as_str(), format!("{own}/?list-type=1"));
        let asked = leaving(&path, "GET", "/bucket/a", "").await;
        let shared = "https://s3.eu-west-1.amazonaws.com/bucket/a";
        assert_eq!(asked.url().as_str(), shared);
    }

    #[tokio::test]
    async fn configured_headers_go_with_every_upload_and_are_signed() {
        let key = "x-amz-server-side-encryption-customer-key";
        let headers = [("x-amz-storage-class", "ONEZONE_IA"), (key, "k")];
        let inner = inner(BucketIn::Path, &headers);
        for (method, path, parameter, with) in [
            ("PUT", "/bucket/a", "", 2),
            ("POST", "/bucket/a", "uploads", 2),
            ("PUT", "/bucket/a", "partNumber", 1),
            ("GET", "/bucket/a", "", 1),
            ("PUT", "/bucket", "", 0),
            ("GET", "/bucket", "list-type", 0),
        ] {
            let request = leaving(&inner, method, path, parameter).await;
            let sent = request.headers();
            let signed = sent["authorization"].to_str().unwrap();
            let is_there = |name: &&&str| sent.contains_key(**name) && signed.contains(**name);
            let found = ["x-amz-storage-class", key];
            let found = found.iter().filter(is_there).count();
            assert_eq!(found, with, "{method} {path} {parameter}: {signed}");
        }
    }
}
