//! The names rusoto_core needs to compile, and nothing that connects.
//!
//! rusoto_core insists on a TLS feature and would bring rustls 0.20, ring 0.16 and webpki 0.22 with it. The product
//! sends rusoto's signed requests through its own HTTP client, so the connector built here is never used; were it
//! used by mistake, it refuses instead of talking without TLS.

use hyper::client::HttpConnector;
use hyper::{service::Service, Uri};
use std::future::{ready, Ready};
use std::io;
use std::marker::PhantomData;
use std::task::{Context, Poll};

/// A connector that refuses every connection.
#[derive(Clone, Debug)]
pub struct HttpsConnector<T>(PhantomData<T>);

impl Service<Uri> for HttpsConnector<HttpConnector> {
    type Response = <HttpConnector as Service<Uri>>::Response;
    type Error = io::Error;
    type Future = Ready<Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "rusoto's own HTTP client is not part of this program",
        )))
    }
}

/// Builds a [`HttpsConnector`] by the calls rusoto_core makes.
#[derive(Default)]
pub struct HttpsConnectorBuilder;

impl HttpsConnectorBuilder {
    /// Starts the chain.
    pub fn new() -> Self {
        Self
    }
    /// Kept for the chain's sake.
    pub fn with_native_roots(self) -> Self {
        self
    }
    /// Kept for the chain's sake.
    pub fn with_webpki_roots(self) -> Self {
        self
    }
    /// Kept for the chain's sake.
    pub fn https_only(self) -> Self {
        self
    }
    /// Kept for the chain's sake.
    pub fn enable_http2(self) -> Self {
        self
    }
    /// Ends the chain.
    pub fn build(self) -> HttpsConnector<HttpConnector> {
        HttpsConnector(PhantomData)
    }
}
