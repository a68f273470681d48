//! The one way out over HTTP: every request this program makes (relay, object store, recorder to controller) leaves
//! through a client built here, with the same TLS, roots and habits.

use crate::config::{Settings, Url, authorities};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

/// What `localhost` means on every machine.
const LOCALHOST: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
];

/// Why no client could be built.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The set-up failed.
    #[error("cannot set up the HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    /// The TLS set-up failed.
    #[error("cannot set up TLS for the HTTP client: {0}")]
    Tls(#[from] rustls::Error),
    /// A file of further authorities cannot be used.
    #[error(
        "cannot read certificates from {path}: {cause}; have {setting} name a PEM file that this user can read, or unset it"
    )]
    Authorities {
        /// The setting that names it.
        setting: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

/// Whose certificates a client accepts.
#[derive(Clone, Debug, PartialEq)]
pub enum Trust {
    /// Those of the host's authorities and Mozilla's, for a minimal image has none of its own, and of these.
    Authorities(Vec<CertificateDer<'static>>),
    /// Everybody's, as OpenVidu's own sender does.
    Anyone,
}

impl Default for Trust {
    fn default() -> Self {
        Self::Authorities(Vec::new())
    }
}

impl Trust {
    /// With the authorities that `HA_CA_FILE` names.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn of(settings: &Settings) -> Result<Self, OutboundError> {
        match &settings.ca_file {
            Some(path) => Self::default().and_file("HA_CA_FILE", path),
            None => Ok(Self::default()),
        }
    }

    /// Whom the webhook relay accepts: those authorities too, or everybody where `HA_WEBHOOK_TLS_VERIFY` is false.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate, also where nothing is verified.
    pub fn of_targets(settings: &Settings) -> Result<Self, OutboundError> {
        let authorities = Self::of(settings)?;
        Ok(match settings.webhook_tls_verify.0 {
            true => authorities,
            false => Self::Anyone,
        })
    }

    /// With the certificates of the PEM file at `path`, which `setting` names, too.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn and_file(self, setting: &'static str, path: &Path) -> Result<Self, OutboundError> {
        let wrong = |cause: String| OutboundError::Authorities {
            setting,
            path: path.to_owned(),
            cause,
        };
        let read = authorities::read(path).map_err(wrong)?;
        Ok(match self {
            Self::Authorities(mut known) => {
                known.extend(read);
                Self::Authorities(known)
            }
            Self::Anyone => Self::Anyone,
        })
    }
}

/// Makes ring the process's TLS provider; harmless when it already is.
pub fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that a provider is installed already, which is what is wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A builder with the program's TLS and habits: no redirects, pooled connections, `connect` at most to connect. It trusts
/// the usual authorities.
pub fn builder(connect: Duration) -> reqwest::ClientBuilder {
    habits(connect).tls_certs_merge(bundled().filter_map(|root| {
        // Mozilla's roots are well-formed; one that was not would be missed by whoever needs it.
        reqwest::Certificate::from_der(&root).ok()
    }))
}

/// The same, which accepts whom `trust` names.
///
/// # Errors
/// When the TLS set-up fails.
pub fn builder_trusting(
    connect: Duration,
    trust: &Trust,
) -> Result<reqwest::ClientBuilder, OutboundError> {
    Ok(match trust {
        Trust::Authorities(further) if further.is_empty() => builder(connect),
        Trust::Authorities(further) => {
            habits(connect).tls_backend_preconfigured(tls_with(further)?)
        }
        Trust::Anyone => habits(connect).tls_danger_accept_invalid_certs(true),
    })
}

/// A client whose requests take at most `whole` from start to end.
///
/// # Errors
/// When the TLS set-up fails.
pub fn client(connect: Duration, whole: Duration) -> Result<reqwest::Client, OutboundError> {
    Ok(builder(connect).timeout(whole).build()?)
}

fn habits(connect: Duration) -> reqwest::ClientBuilder {
    install_tls();
    reqwest::Client::builder()
        .connect_timeout(connect)
        // The C library's resolver reads the hosts file and resolv.conf at each call; a minimal image may have neither.
        .resolve_to_addrs("localhost", &LOCALHOST)
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .pool_idle_timeout(Duration::from_secs(60))
        .user_agent(concat!("ov2-ha-recorder/", env!("CARGO_PKG_VERSION")))
}

fn bundled() -> impl Iterator<Item = CertificateDer<'static>> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned()
}

fn tls_with(further: &[CertificateDer<'static>]) -> Result<ClientConfig, OutboundError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    // The host's may be missing or partly damaged: the others count all the same.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(bundled());
    roots.add_parsable_certificates(further.iter().cloned());
    let webpki = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let verifier = Verifier {
        named: further.to_vec(),
        webpki: webpki
            .build()
            .map_err(|cause| rustls::Error::General(cause.to_string()))?,
    };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// Accepts what the authorities vouch for, and every certificate that the file itself holds, whatever its names, dates and
/// purpose: `openssl req -x509` makes a server's certificate that says it is an authority's, often without any name, and
/// WebPKI refuses both. The administrator vouches for that very certificate, and only its key's owner can present it.
#[derive(Debug)]
struct Verifier {
    named: Vec<CertificateDer<'static>>,
    webpki: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.named.contains(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        self.webpki
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// How long a call may take.
const CALL: Duration = Duration::from_secs(10);

/// Calls addresses that an operator has named; of what they answer only matters that they took it.
#[derive(Clone, Debug)]
pub struct Caller(reqwest::Client);

impl Caller {
    /// With the authorities that the settings name.
    ///
    /// # Errors
    /// When their file cannot be read, or the client cannot be set up.
    pub fn new(settings: &Settings) -> Result<Self, OutboundError> {
        let builder = builder_trusting(CALL, &Trust::of(settings)?)?;
        Ok(Self(builder.timeout(CALL).build()?))
    }

    /// Posts `body` as JSON.
    ///
    /// # Errors
    /// What went wrong, for a person, without the address: it may hold a token.
    pub async fn post(&self, url: &Url, body: &impl serde::Serialize) -> Result<(), String> {
        taken(self.0.post(url.expose()).json(body)).await
    }

    /// Gets it.
    ///
    /// # Errors
    /// As in [`Self::post`].
    pub async fn get(&self, url: &Url) -> Result<(), String> {
        taken(self.0.get(url.expose())).await
    }
}

async fn taken(request: reqwest::RequestBuilder) -> Result<(), String> {
    match request.send().await {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(format!("it answered {}", answer.status())),
        Err(cause) => Err(cause.without_url().to_string()),
    }
}
