//! The operator's way to the running controller: requests over its own HTTP interface, from the machine it runs on.

use super::{Failure, exit};
use crate::client::deepest;
use crate::config::{Secret, Settings};
use crate::outbound::{self, Trust};
use reqwest::{Client, Method};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const CONNECT: Duration = Duration::from_secs(3);
const WHOLE: Duration = Duration::from_secs(30);

/// The running controller.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    base: String,
    account: Option<(String, Secret)>,
}

/// What it answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
    pub(super) took: Duration,
}

impl Api {
    /// The controller that `settings` describe, on this machine.
    ///
    /// # Errors
    /// When the certificate it uses cannot be read.
    pub(super) fn of(settings: &Settings) -> Result<Self, Failure> {
        let near = near(settings);
        let certificate = match (&settings.controller_ca, &settings.tls_cert) {
            (Some(path), _) => Some(("HA_CONTROLLER_CA", path)),
            (None, Some(path)) => Some(("HA_TLS_CERT", path)),
            (None, None) => None,
        };
        let unusable = |cause| Failure::with(exit::CONFIG, cause);
        let mut trust = Trust::of(settings).map_err(unusable)?;
        if let Some((setting, path)) = certificate {
            trust = trust.and_file(setting, path).map_err(unusable)?;
        }
        let builder = outbound::builder_trusting(CONNECT, &trust).map_err(unusable)?;
        // The account's password goes to the controller and to no proxy.
        let mut builder = builder.timeout(WHOLE).no_proxy();
        let base = match certificate {
            None => format!("http://{near}"),
            Some(_) => {
                // The certificate names the host that recorders use; the connection still goes to this machine.
                let host = &settings.controller_host;
                builder = builder.resolve(host.as_str(), near);
                format!("https://{}:{}", host.in_url(), near.port())
            }
        };
        let account = settings.account().ok();
        Ok(Self {
            client: builder.build().map_err(Failure::new)?,
            base,
            account: account.map(|(name, password)| (name.to_owned(), password.clone())),
        })
    }

    /// Where it is, for messages.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.send(Method::GET, path, None).await
    }

    /// Sends a request; any status is an answer.
    ///
    /// # Errors
    /// When nobody answers.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Answer, Failure> {
        let begin = Instant::now();
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request
            .send()
            .await
            .map_err(|cause| self.unreachable(&cause))?;
        let status = response.status().as_u16();
        let text = response
            .text()
            .await
            .map_err(|cause| self.unreachable(&cause))?;
        Ok(Answer {
            status,
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
            took: begin.elapsed(),
        })
    }

    /// The status of the answer to somebody without account.
    ///
    /// # Errors
    /// When nobody answers.
    pub(super) async fn anonymous(&self, path: &str) -> Result<u16, Failure> {
        let request = self.client.get(format!("{}{path}", self.base));
        let answer = request
            .send()
            .await
            .map_err(|cause| self.unreachable(&cause))?;
        Ok(answer.status().as_u16())
    }

    /// A request with the account's name and password.
    pub(super) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.account {
            Some((name, password)) => request.basic_auth(name, Some(password.expose())),
            None => request,
        }
    }

    /// What to say when nobody answers.
    pub(super) fn unreachable(&self, cause: &reqwest::Error) -> Failure {
        let why = match cause {
            cause if cause.is_timeout() => {
                "no answer in time; is it running? See \"ov2-ha-recorder status\"".into()
            }
            cause if is_silence(cause) => {
                "nobody answers; is it running? See \"ov2-ha-recorder status\"".into()
            }
            cause => format!(
                "{}; compare HA_TLS_CERT and HA_CONTROLLER_CA with what it was started with",
                deepest(cause)
            ),
        };
        Failure::with(
            exit::UNAVAILABLE,
            format!("cannot reach the controller at {}: {why}", self.base),
        )
    }
}

impl Answer {
    /// The answer's body, when its status is one of success.
    ///
    /// # Errors
    /// With the controller's own message otherwise.
    pub(super) fn ok(self, act: &str) -> Result<Value, Failure> {
        match self.status {
            200..=299 => Ok(self.body),
            401 => Err(refused(act)),
            status => {
                let said = self.body["message"].as_str().unwrap_or("no reason given");
                Err(Failure::new(format!(
                    "cannot {act}: the controller answers {status}: {said}"
                )))
            }
        }
    }
}

/// What to say when the account is not let in.
pub(super) fn refused(act: &str) -> Failure {
    Failure::with(
        exit::CONFIG,
        format!(
            "cannot {act}: the controller rejected HA_CONTROLLER_USERNAME and HA_CONTROLLER_PASSWORD; if you changed them, restart it"
        ),
    )
}

/// Whether a connection was refused or led nowhere, unlike one on which something was not right.
fn is_silence(cause: &reqwest::Error) -> bool {
    let mut next: Option<&dyn std::error::Error> = Some(cause);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        next = error.source();
    }
    false
}

fn near(settings: &Settings) -> SocketAddr {
    let address = match settings.listen_address {
        address if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        address => address,
    };
    SocketAddr::new(address, settings.controller_port.0)
}
