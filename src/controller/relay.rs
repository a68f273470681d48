//! What leaves the outbox: each target has its own queue, in it each OpenVidu session its own lane, and a lane delivers one
//! event after another. A slow or dead target holds up nobody but itself, a refused event nobody but its lane, and that for
//! half a minute at most: a target that answers every event it does not know with an error must still hear of the recording.
//! The controller is a target like the others: what OpenVidu reports is acted on from the same queue.
//!
//! No answer at all holds the lane: the order is kept while a target is down, that is, takes no other event either.
//! An answer that is no success holds it for half a minute, all its events together; then the event leaves its lane, later ones go on, and it follows marked as late.

mod lanes;
mod target;
mod worker;

pub use lanes::SCHEDULE;

use super::Controller;
use crate::clock::{Clock, Timestamp};
use crate::config::{Secret, Settings, Url};
use crate::db::outbox::{Due, Outbox, TargetId};
use crate::outbound::{self, OutboundError, Trust};
use crate::tasks::Tasks;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use target::{HttpTarget, Target};
use tokio::sync::mpsc;
use worker::Worker;

/// How long a connection to a target may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one try may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Why there can be no relay.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The target is this controller.
    #[error(
        "the relay's target {target} is this controller itself: every webhook would go round for ever; set OPENVIDU_WEBHOOK_ENDPOINT to the server that is to receive OpenVidu's events"
    )]
    Loop {
        /// Scheme and host.
        target: String,
    },
    /// The secret is none.
    #[error("HA_WEBHOOK_SIGNING_SECRET=***: expected whsec_ and base64")]
    Secret,
    /// No client.
    #[error(transparent)]
    Client(#[from] OutboundError),
}

/// What the relay did since the start, for its status page.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Tries.
    pub total: u64,
    /// Tries that the target took.
    pub successful: u64,
    /// The others.
    pub failed: u64,
    /// When the last try was made.
    pub last_at: Option<Timestamp>,
    /// When the last one was taken.
    pub last_success_at: Option<Timestamp>,
    /// When the last one was not.
    pub last_failure_at: Option<Timestamp>,
    /// What went wrong last, without secrets.
    pub last_error: Option<String>,
}

/// The relay's public side. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Relay(Arc<Mutex<Tally>>);

impl Relay {
    /// What it did since the start.
    pub fn tally(&self) -> Tally {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn count(&self, now: Timestamp, error: Option<&str>) {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tally.total += 1;
        tally.last_at = Some(now);
        match error {
            None => {
                tally.successful += 1;
                tally.last_success_at = Some(now);
            }
            Some(error) => {
                tally.failed += 1;
                tally.last_failure_at = Some(now);
                tally.last_error = Some(error.to_owned());
            }
        }
    }
}

/// The targets that these settings name, as the outbox wants them: the controller, then those of the relay.
pub fn targets(settings: &Settings) -> BTreeMap<TargetId, String> {
    let relayed = endpoints(settings)
        .iter()
        .map(|url| (target_id(url), url.origin()));
    std::iter::once((TargetId::CONTROLLER, "controller".to_owned()))
        .chain(relayed)
        .collect()
}

fn endpoints(settings: &Settings) -> &[Url] {
    if settings.relay_on() {
        &settings.relay_endpoints.0
    } else {
        &[]
    }
}

fn target_id(url: &Url) -> TargetId {
    let digest: [u8; 32] = Sha256::digest(url.expose()).into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    TargetId([a, b, c, d, e, f, g, h])
}

/// Delivers whatever the outbox gives until `tasks` ends.
///
/// # Errors
/// When a target is this controller, the signing secret is none, or no HTTP client can be had.
pub async fn start(
    settings: &Settings,
    outbox: &Outbox,
    due: mpsc::UnboundedReceiver<Due>,
    controller: &Controller,
    clock: &Arc<dyn Clock>,
    tasks: &Tasks,
) -> Result<Relay, RelayError> {
    let relay = Relay::default();
    let mut senders = HashMap::new();
    let mut run = |id: TargetId, name: String, target: Target| {
        let (sender, receiver) = mpsc::unbounded_channel();
        senders.insert(id, sender);
        let worker = Worker {
            target: Arc::new(target),
            outbox: outbox.clone(),
            clock: Arc::clone(clock),
            relay: relay.clone(),
        };
        tasks.spawn(name, worker.run(receiver, tasks.token()));
    };
    run(
        TargetId::CONTROLLER,
        "webhook actions".into(),
        Target::Controller(controller.clone()),
    );
    let key = settings
        .webhook_signing_secret
        .as_ref()
        .map(signing_key)
        .transpose()?;
    let trust = Trust::of_targets(settings)?;
    for url in endpoints(settings) {
        refuse_loop(url, settings).await?;
        let client = outbound::builder_trusting(CONNECT, &trust)?.timeout(TIMEOUT);
        let target = HttpTarget {
            url: url.clone(),
            headers: settings.relay_headers.clone(),
            key: key.clone(),
            client: client.build().map_err(OutboundError::from)?,
        };
        run(
            target_id(url),
            format!("relay to {}", url.origin()),
            Target::Http(target),
        );
    }
    tasks.spawn("relay", distribute(due, senders, tasks.token()));
    let (kept, ended) = (outbox.clone(), tasks.token());
    tasks.spawn("webhook journal", async move {
        ended.run_until_cancelled(kept.keep_journal_short()).await;
    });
    Ok(relay)
}

async fn distribute(
    mut due: mpsc::UnboundedReceiver<Due>,
    senders: HashMap<TargetId, mpsc::UnboundedSender<Due>>,
    end: tokio_util::sync::CancellationToken,
) {
    while let Some(Some(next)) = end.run_until_cancelled(due.recv()).await {
        if let Some(sender) = senders.get(&next.target) {
            // A worker that has ended leaves the delivery pending in the outbox.
            let _ = sender.send(next);
        }
    }
}

/// Whether the relay could be started with these settings.
///
/// # Errors
/// Why not, as [`start`] would say.
pub async fn check(settings: &Settings) -> Result<(), RelayError> {
    if let Some(secret) = &settings.webhook_signing_secret {
        signing_key(secret)?;
    }
    for url in endpoints(settings) {
        refuse_loop(url, settings).await?;
    }
    Ok(())
}

/// Refuses a target that is this controller: our port at one of this machine's own addresses.
async fn refuse_loop(url: &Url, settings: &Settings) -> Result<(), RelayError> {
    let Ok(parsed) = reqwest::Url::parse(url.expose()) else {
        return Ok(());
    };
    let port = parsed.port_or_known_default().unwrap_or_default();
    let host = parsed
        .host_str()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    if port != settings.controller_port.0 {
        return Ok(());
    }
    // A name that does not resolve now is no fault here: the relay tries again for days.
    let Ok(addresses) = tokio::net::lookup_host((host, port)).await else {
        return Ok(());
    };
    for address in addresses {
        // Only an address of this machine can be bound.
        if std::net::UdpSocket::bind((address.ip(), 0)).is_ok() {
            return Err(RelayError::Loop {
                target: url.origin(),
            });
        }
    }
    Ok(())
}

fn signing_key(secret: &Secret) -> Result<Arc<[u8]>, RelayError> {
    let text = secret.expose();
    let key = STANDARD.decode(text.strip_prefix("whsec_").unwrap_or(text));
    key.map(Arc::from).map_err(|_| RelayError::Secret)
}
