//! The one way out over HTTP: every request this program makes (relay, object store, recorder to controller) leaves
//! through a client built here, with the same TLS, roots and habits.

use std::sync::Once;
use std::time::Duration;

/// Why no client could be built.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client: {0}")]
pub struct OutboundError(#[from] reqwest::Error);

/// Makes ring the process's TLS provider; harmless when it already is.
pub fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that a provider is installed already, which is what is wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A builder with the program's TLS and habits: no redirects, pooled connections, `connect` at most to connect. Trusted
/// are the host's authorities and Mozilla's, for a minimal image has none of its own.
pub fn builder(connect: Duration) -> reqwest::ClientBuilder {
    install_tls();
    reqwest::Client::builder()
        .tls_certs_merge(roots())
        .connect_timeout(connect)
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .pool_idle_timeout(Duration::from_secs(60))
        .user_agent(concat!("ov2-ha-recorder/", env!("CARGO_PKG_VERSION")))
}

fn roots() -> impl Iterator<Item = reqwest::Certificate> {
    let bundled = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
    bundled.filter_map(|root| reqwest::Certificate::from_der(root).ok())
}

/// A client whose requests take at most `whole` from start to end.
///
/// # Errors
/// When the TLS set-up fails.
pub fn client(connect: Duration, whole: Duration) -> Result<reqwest::Client, OutboundError> {
    Ok(builder(connect).timeout(whole).build()?)
}
