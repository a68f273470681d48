//! What leaves the outbox: each target has its own queue, in it each OpenVidu session its own lane, and a lane delivers one
//! event after another. A slow or dead target holds up nobody but itself, a refused event nobody but its lane, and that for
//! half a minute at most: a target that answers every event it does not know with an error must still hear of the recording.
//! The controller is a target like the others: what OpenVidu reports is acted on from the same queue.
//!
//! No answer at all holds the lane: the order is kept while a target is down, that is, takes no other event either. An answer that is no success holds it for
//! [`HOLD`], all its events together; then the event leaves its lane, later ones go on, and it follows marked as late.

use super::Controller;
use crate::clock::{Clock, Timestamp};
use crate::config::{Headers, Secret, Settings, Url};
use crate::db::DbError;
use crate::db::outbox::{Due, Event, Outbox, Outcome, Sequence, TargetId};
use crate::model::wire::{SessionCreated, read_json};
use crate::outbound::{self, OutboundError, Trust};
use crate::random;
use crate::tasks::Tasks;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Waits before the second and each later try, as Standard Webhooks recommends; the last one goes on until [`LIFE`] is over.
pub const SCHEDULE: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(5 * 3600),
    Duration::from_secs(10 * 3600),
    Duration::from_secs(14 * 3600),
    Duration::from_secs(20 * 3600),
    Duration::from_secs(24 * 3600),
];
/// How long a connection to a target may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one try may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Deliveries of one target at once.
const PARALLEL: usize = 32;
/// The longest `Retry-After` that is honoured: the schedule's longest wait. A date may be years away.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// An event is given up so long after its first try.
const LIFE: Duration = Duration::from_secs(3 * 24 * 3600);
/// How long events that are answered, and not taken, may hold up their lane.
const HOLD: Duration = Duration::from_secs(30);
/// How long deliveries under way may take at the end.
const LAST_TRIES: Duration = Duration::from_secs(2);

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

/// Where one queue leads.
enum Target {
    Controller(Controller),
    Http(HttpTarget),
}

struct HttpTarget {
    url: Url,
    headers: Headers,
    key: Option<Arc<[u8]>>,
    client: reqwest::Client,
}

/// What one try came to.
enum Tried {
    Delivered,
    /// Try again: the target gave no answer.
    Unanswered {
        why: String,
    },
    /// Try again, not before `after` where the target said so.
    NotTaken {
        why: String,
        after: Option<Duration>,
    },
    Refused {
        why: String,
    },
    /// Nobody waits for it any more.
    Abandoned,
}

impl Target {
    async fn deliver(&self, event: &Event, late: bool, now: Timestamp) -> Tried {
        match self {
            Self::Controller(controller) => act(controller, event).await,
            Self::Http(target) => target.post(event, late, now).await,
        }
    }
}

/// Acts on what OpenVidu reports; events that mean nothing to us are done at once.
async fn act(controller: &Controller, event: &Event) -> Tried {
    let read = match event.name.as_deref() {
        Some("recordingStatusChanged") if !event.synthesized => {
            read_json(&event.body).map(|change| controller.recording_status_changed(&change))
        }
        Some("sessionCreated") => {
            // One without these members says nothing to us.
            if let Ok(SessionCreated {
                session_id,
                unique_session_id,
            }) = read_json(&event.body)
            {
                controller.loaded().await;
                controller.openvidu_made_a_session(&session_id, &unique_session_id);
            }
            Ok(())
        }
        _ => Ok(()),
    };
    match read {
        Ok(()) => Tried::Delivered,
        Err(cause) => Tried::Refused {
            why: cause.to_string(),
        },
    }
}

impl HttpTarget {
    async fn post(&self, event: &Event, late: bool, now: Timestamp) -> Tried {
        let method = Method::from_bytes(event.method.as_bytes()).unwrap_or(Method::POST);
        let request = self
            .client
            .request(method, self.url.expose())
            .headers(self.headers(event, late, now))
            .body(event.body.clone());
        match request.send().await {
            Ok(response) => judge(response, now).await,
            Err(cause) => Tried::Unanswered {
                why: describe(&cause),
            },
        }
    }

    fn headers(&self, event: &Event, late: bool, now: Timestamp) -> HeaderMap {
        let agent = event.user_agent.as_deref().unwrap_or("OpenVidu");
        let millis = now.millis().to_string();
        let seconds = (now.millis() / 1000).to_string();
        let mut headers = HeaderMap::new();
        let mut set = |name: &str, value: &str| {
            let name = HeaderName::try_from(name);
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        };
        for (name, value) in event.headers.iter().chain(&self.headers.0) {
            set(name, value);
        }
        if let Some(kind) = &event.content_type {
            set("content-type", kind);
        }
        set("user-agent", &format!("OpenVidu-Relay/{agent}"));
        set("x-relay-source", "OpenVidu-HA-Controller");
        set("x-relay-timestamp", &millis);
        set("webhook-id", &event.id);
        set("webhook-timestamp", &seconds);
        if event.synthesized {
            set("x-ha-synthesized", "true");
        }
        if late {
            set("x-relay-late", "true");
        }
        if let Some(signature) = self
            .key
            .as_deref()
            .and_then(|key| sign(key, &event.id, &seconds, &event.body))
        {
            set("webhook-signature", &signature);
        }
        headers
    }
}

/// `v1,` and the base64 of HMAC-SHA256 over `<id>.<seconds>.<body>`.
fn sign(key: &[u8], id: &str, seconds: &str, body: &[u8]) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(format!("{id}.{seconds}.").as_bytes());
    mac.update(body);
    Some(format!(
        "v1,{}",
        STANDARD.encode(mac.finalize().into_bytes())
    ))
}

async fn judge(response: reqwest::Response, now: Timestamp) -> Tried {
    let status = response.status();
    let after = response.headers().get("retry-after");
    let after = after.and_then(|value| retry_after(value.to_str().ok()?.trim(), now));
    drain(response).await;
    let why = format!("the target answered {status}");
    match status {
        _ if status.is_success() => Tried::Delivered,
        // It understood the event and will never want it. Whatever else it answers may be a proxy's word, an expired
        // token, a deployment under way.
        StatusCode::BAD_REQUEST
        | StatusCode::GONE
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY => Tried::Refused { why },
        _ => Tried::NotTaken { why, after },
    }
}

/// The wait that a `Retry-After` in seconds or with a date asks for.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let now = UNIX_EPOCH + Duration::from_millis(u64::try_from(now.millis()).ok()?);
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(now).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

/// Reads a short answer to its end, so that the connection can be used again.
async fn drain(mut response: reqwest::Response) {
    let mut left = 64 * 1024;
    while let Ok(Some(part)) = response.chunk().await {
        if part.len() > left {
            return;
        }
        left -= part.len();
    }
}

/// The innermost cause without the URL, which may carry a password.
fn describe(error: &reqwest::Error) -> String {
    let kind = match error {
        _ if error.is_timeout() => "the target did not answer in time",
        _ if error.is_connect() => "the target cannot be reached",
        _ => "the connection to the target broke",
    };
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if std::ptr::eq(cause, error as &dyn std::error::Error) {
        return kind.to_owned();
    }
    format!("{kind}: {cause}")
}

/// The lanes of one target: pure, told the time.
#[derive(Default)]
struct Queue {
    lanes: HashMap<LaneKey, Lane>,
    ready: VecDeque<LaneKey>,
    waiting: BTreeSet<(Duration, LaneKey)>,
}

/// Which lane an event is in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum LaneKey {
    /// Its session's.
    Session(Arc<str>),
    /// One of its own: its session's went on without it.
    Late(Sequence),
}

impl LaneKey {
    fn of(due: &Due) -> Self {
        if due.tries.late {
            Self::Late(due.sequence)
        } else {
            Self::Session(Arc::clone(&due.lane))
        }
    }
}

#[derive(Default)]
struct Lane {
    due: BTreeMap<Sequence, Due>,
    state: LaneState,
    /// When events that are answered, and not taken, hold it up no longer; set by the first of them.
    held_until: Option<Duration>,
    /// Whether its next try comes before its time, because the target took another event.
    woken: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum LaneState {
    #[default]
    Ready,
    Busy,
    /// Until then; `firm` when the target asked for it.
    Waiting {
        until: Duration,
        firm: bool,
    },
}

/// Why a delivery is tried again.
struct Failure {
    /// Whether the target answered at all.
    answered: bool,
    /// What its `Retry-After` asks for.
    after: Option<Duration>,
    /// How long the event may still be tried.
    left: Duration,
    /// The factor that spreads tries.
    jitter: f64,
}

impl Queue {
    fn push(&mut self, due: Due, not_before: Option<Duration>) {
        let name = LaneKey::of(&due);
        let new = !self.lanes.contains_key(&name);
        let lane = self.lanes.entry(name.clone()).or_default();
        lane.due.insert(due.sequence, due);
        if !new {
            return;
        }
        match not_before {
            Some(until) => self.wait(&name, until, false),
            None => self.ready.push_back(name),
        }
    }

    /// The next delivery that may be made.
    fn next(&mut self, now: Duration) -> Option<Due> {
        while self.waiting.first().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, name)) = self.waiting.pop_first() {
                self.set_ready(name);
            }
        }
        let name = self.ready.pop_front()?;
        let lane = self.lanes.get_mut(&name)?;
        lane.state = LaneState::Busy;
        lane.due.first_key_value().map(|(_, due)| due.clone())
    }

    /// The moment at which a waiting lane may go on.
    fn wakes(&self) -> Option<Duration> {
        self.waiting.first().map(|(until, _)| *until)
    }

    /// The delivery is settled: the lane goes on with its next event.
    fn done(&mut self, due: &Due) {
        let name = LaneKey::of(due);
        let Some(lane) = self.lanes.get_mut(&name) else {
            return;
        };
        lane.due.remove(&due.sequence);
        lane.woken = false;
        if lane.due.is_empty() {
            self.lanes.remove(&name);
        } else {
            self.set_ready(name);
        }
    }

    /// The delivery is tried again: its lane waits, or goes on without it. Answers the delivery as it is now, and the wait.
    fn retry(&mut self, mut due: Due, failure: &Failure, now: Duration) -> (Due, Duration) {
        let name = LaneKey::of(&due);
        let mut lane = self.lanes.remove(&name).unwrap_or_default();
        let asked = failure.after.unwrap_or_default();
        let wait_of = |step: u32| {
            let last = SCHEDULE[SCHEDULE.len() - 1];
            let step = SCHEDULE.get(step as usize).unwrap_or(&last);
            step.mul_f64(failure.jitter).max(asked).min(failure.left)
        };
        let woken = std::mem::take(&mut lane.woken);
        let mut wait = wait_of(due.tries.step);
        // A target that took another event just now is not down: it does not answer this one.
        if (failure.answered || woken) && !due.tries.late {
            let hold = *lane.held_until.get_or_insert(now + HOLD);
            let hold = hold.saturating_sub(now);
            due.tries.late = hold.is_zero() || asked > hold;
            if !due.tries.late {
                // While others wait behind it, it is tried at the shortest wait.
                wait = wait_of(0).min(hold);
                due.tries.step = 0;
            }
        }
        // A try that came before its time costs no step.
        due.tries.step += u32::from(!woken);
        lane.due.remove(&due.sequence);
        if due.tries.late && !lane.due.is_empty() && name != LaneKey::of(&due) {
            self.lanes.insert(name.clone(), lane);
            self.set_ready(name);
            lane = Lane::default();
        }
        lane.due.insert(due.sequence, due.clone());
        let name = LaneKey::of(&due);
        self.lanes.insert(name.clone(), lane);
        self.wait(&name, now + wait, failure.after.is_some());
        (due, wait)
    }

    /// The target is back: whoever waited for it need not wait longer.
    fn wake_all(&mut self) {
        for (until, name) in std::mem::take(&mut self.waiting) {
            match self.lanes.get_mut(&name) {
                Some(lane) if !matches!(lane.state, LaneState::Waiting { firm: true, .. }) => {
                    lane.woken = true;
                    self.set_ready(name);
                }
                _ => drop(self.waiting.insert((until, name))),
            }
        }
    }

    fn wait(&mut self, name: &LaneKey, until: Duration, firm: bool) {
        if let Some(lane) = self.lanes.get_mut(name) {
            lane.state = LaneState::Waiting { until, firm };
            self.waiting.insert((until, name.clone()));
        }
    }

    fn set_ready(&mut self, name: LaneKey) {
        if let Some(lane) = self.lanes.get_mut(&name) {
            lane.state = LaneState::Ready;
            self.ready.push_back(name);
        }
    }
}

/// One target's deliveries.
struct Worker {
    target: Arc<Target>,
    outbox: Outbox,
    clock: Arc<dyn Clock>,
    relay: Relay,
}

type Flight = BoxFuture<'static, (Due, Tried)>;

impl Worker {
    async fn run(
        self,
        mut incoming: mpsc::UnboundedReceiver<Due>,
        end: tokio_util::sync::CancellationToken,
    ) {
        let mut queue = Queue::default();
        let mut flights = FuturesUnordered::<Flight>::new();
        let mut down = false;
        loop {
            while flights.len() < PARALLEL {
                let Some(due) = queue.next(self.clock.uptime()) else {
                    break;
                };
                flights.push(self.launch(due));
            }
            let pause = queue.wakes().filter(|_| flights.len() < PARALLEL);
            let pause = pause.map(|until| until.saturating_sub(self.clock.uptime()));
            tokio::select! {
                () = end.cancelled() => break,
                Some(due) = incoming.recv() => {
                    // After a clock that was set back, what was due in a minute would be due in years.
                    let wait = due.next_at.map(|at| at.since(self.clock.now()).min(LONGEST_WAIT));
                    queue.push(due, wait.map(|wait| self.clock.uptime() + wait));
                }
                Some((due, tried)) = flights.next() => self.land(&mut queue, &mut down, due, tried),
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
        let mut left = Queue::default();
        let land = async {
            while let Some((due, tried)) = flights.next().await {
                self.land(&mut left, &mut down, due, tried);
            }
        };
        // What is not done by then stays pending in the outbox.
        let _ = tokio::time::timeout(LAST_TRIES, land).await;
    }

    fn launch(&self, due: Due) -> Flight {
        let event = match &due.unkept {
            None => self.outbox.event(due.sequence),
            Some(unkept) => match unkept.event() {
                Some(event) => Ok(Some(event.clone())),
                None => return Box::pin(std::future::ready((due, Tried::Abandoned))),
            },
        };
        let (target, now) = (Arc::clone(&self.target), self.clock.now());
        Box::pin(async move {
            let tried = match event {
                Ok(Some(event)) => target.deliver(&event, due.tries.late, now).await,
                Ok(None) => Tried::Refused {
                    why: "the event is no longer kept".into(),
                },
                Err(cause) => Tried::Refused {
                    why: cause.to_string(),
                },
            };
            (due, tried)
        })
    }

    /// Writes down what a try came to, and lets its lane go on or wait.
    fn land(&self, queue: &mut Queue, down: &mut bool, mut due: Due, tried: Tried) {
        let now = self.clock.now();
        self.tell(&due, &tried, now);
        due.tries.attempts += 1;
        let first = *due.tries.first_at.get_or_insert(now);
        let left = LIFE.saturating_sub(now.since(first));
        let (why, answered, after) = match tried {
            Tried::Delivered => {
                if std::mem::take(down) {
                    queue.wake_all();
                }
                queue.done(&due);
                return self.settle(&due, Outcome::Delivered, now);
            }
            Tried::Abandoned => return queue.done(&due),
            Tried::Refused { why } => return self.give_up(queue, &due, why, now),
            Tried::Unanswered { why } => {
                *down = true;
                (why, false, None)
            }
            Tried::NotTaken { why, after } => (why, true, after),
        };
        if left.is_zero() {
            return self.give_up(queue, &due, why, now);
        }
        let failure = Failure {
            answered,
            after,
            left,
            jitter: 0.9 + 0.2 * random::unit(),
        };
        let (due, wait) = queue.retry(due, &failure, self.clock.uptime());
        let at = now.plus(wait);
        self.settle(&due, Outcome::Again { at, why }, now);
    }

    fn give_up(&self, queue: &mut Queue, due: &Due, why: String, now: Timestamp) {
        queue.done(due);
        metrics::counter!("ha_recorder_webhook_dead_total").increment(1);
        log::error!(session:% = due.lane, cause = why.as_str();
            "a webhook became a dead letter; replay it on the status page or by POST /api/webhooks/{{id}}/replay");
        self.settle(due, Outcome::Dead { why }, now);
    }

    fn settle(&self, due: &Due, outcome: Outcome, now: Timestamp) {
        if let Err(cause) = self.outbox.settle(due, outcome, now) {
            let cause: DbError = cause;
            log::error!(cause:% = cause; "cannot write down what became of a webhook; it will be delivered again");
        }
    }

    fn tell(&self, due: &Due, tried: &Tried, now: Timestamp) {
        let Target::Http(target) = &*self.target else {
            return;
        };
        match tried {
            Tried::Delivered => self.relay.count(now, None),
            Tried::Abandoned => {}
            Tried::Unanswered { why } | Tried::NotTaken { why, .. } | Tried::Refused { why } => {
                self.relay.count(now, Some(why));
                log::warn!(target_host = target.url.origin(), session:% = due.lane, attempt = due.tries.attempts + 1, cause = why.as_str();
                    "a webhook was not taken by its target");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::outbox::Tries;

    fn due(lane: &str, seq: u64) -> Due {
        Due {
            sequence: Sequence::nth(seq),
            target: TargetId([1; 8]),
            lane: lane.into(),
            tries: Tries::default(),
            next_at: None,
            unkept: None,
        }
    }

    /// No answer, or one that is no success.
    fn failure(answered: bool, after: Option<u64>) -> Failure {
        Failure {
            answered,
            after: after.map(at),
            left: LIFE,
            jitter: 1.0,
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn next(queue: &mut Queue, now: u64) -> Option<Sequence> {
        queue.next(at(now)).map(|due| due.sequence)
    }

    #[test]
    fn a_lane_keeps_its_order_and_lanes_go_side_by_side() {
        let mut queue = Queue::default();
        for one in [due("a", 2), due("a", 1), due("b", 3)] {
            queue.push(one, None);
        }
        assert_eq!(next(&mut queue, 0), Some(Sequence::nth(1)));
        assert_eq!(next(&mut queue, 0), Some(Sequence::nth(3)));
        assert_eq!(next(&mut queue, 0), None, "lane a is busy");
        queue.done(&due("a", 1));
        assert_eq!(next(&mut queue, 0), Some(Sequence::nth(2)));
    }

    #[test]
    fn a_failed_event_holds_up_its_lane_only_until_it_is_due_again() {
        let mut queue = Queue::default();
        for one in [due("a", 1), due("a", 2), due("b", 3)] {
            queue.push(one, None);
        }
        let first = queue.next(at(0)).unwrap();
        queue.retry(first, &failure(false, None), at(0));
        assert_eq!(next(&mut queue, 1), Some(Sequence::nth(3)));
        assert_eq!(next(&mut queue, 4), None);
        assert_eq!(queue.wakes(), Some(at(5)));
        assert_eq!(next(&mut queue, 5), Some(Sequence::nth(1)));
    }

    #[test]
    fn a_target_that_is_back_wakes_who_waited_but_not_who_was_told_to_wait() {
        let mut queue = Queue::default();
        queue.push(due("a", 1), None);
        queue.push(due("b", 2), None);
        let (a, b) = (queue.next(at(0)).unwrap(), queue.next(at(0)).unwrap());
        queue.retry(a, &failure(false, None), at(0));
        queue.retry(b, &failure(true, Some(20)), at(0));
        queue.wake_all();
        let woken = queue.next(at(1)).unwrap();
        assert_eq!(woken.sequence, Sequence::nth(1));
        assert_eq!(next(&mut queue, 1), None);
        let (again, wait) = queue.retry(woken, &failure(false, None), at(1));
        assert_eq!(again.tries.step, 0, "a try before its time costs no step");
        assert_eq!(
            wait, SCHEDULE[0],
            "the target is up: it holds its lane no longer than an answer would"
        );
        assert_eq!(next(&mut queue, 6), Some(Sequence::nth(1)));
        assert_eq!(next(&mut queue, 20), Some(Sequence::nth(2)));
    }

    #[test]
    fn an_event_that_is_answered_and_not_taken_holds_its_lane_for_half_a_minute() {
        let mut queue = Queue::default();
        for seq in 1..=3 {
            queue.push(due("a", seq), None);
        }
        let mut tries = Vec::new();
        let mut now = at(0);
        let late = loop {
            let first = queue.next(now).unwrap();
            assert_eq!(first.sequence, Sequence::nth(1));
            tries.push(now.as_secs());
            let (again, wait) = queue.retry(first, &failure(true, None), now);
            if again.tries.late {
                assert_eq!(wait, SCHEDULE[1]);
                break again;
            }
            now += wait;
        };
        assert_eq!(tries, [0, 5, 10, 15, 20, 25, 30]);
        // The half minute is the lane's: the next one that is not taken holds up nobody.
        let second = queue.next(now).unwrap();
        assert_eq!(second.sequence, Sequence::nth(2));
        let (second, _) = queue.retry(second, &failure(true, None), now);
        assert!(second.tries.late);
        let third = queue.next(now).unwrap();
        assert_eq!(third.sequence, Sequence::nth(3));
        queue.done(&third);
        assert_eq!(next(&mut queue, 30), None);
        assert_eq!(next(&mut queue, 35), Some(second.sequence));
        assert_eq!(next(&mut queue, 330), Some(late.sequence));
    }

    #[test]
    fn a_target_that_does_not_answer_holds_its_lanes_in_order() {
        let mut queue = Queue::default();
        queue.push(due("a", 1), None);
        queue.push(due("a", 2), None);
        let mut now = at(0);
        for _ in 0..6 {
            let first = queue.next(now).unwrap();
            assert_eq!(first.sequence, Sequence::nth(1));
            now += queue.retry(first, &failure(false, None), now).1;
        }
    }

    #[test]
    fn the_longer_of_schedule_and_retry_after_is_waited_and_the_last_try_ends_the_life() {
        let wait = |step: u32, after: Option<u64>, left: Duration| {
            let mut queue = Queue::default();
            let mut one = due("a", 1);
            (one.tries.step, one.tries.late) = (step, true);
            queue.push(one, None);
            let one = queue.next(at(0)).unwrap();
            let failure = Failure {
                left,
                ..failure(true, after)
            };
            queue.retry(one, &failure, at(0)).1
        };
        assert_eq!(wait(0, Some(1), LIFE), SCHEDULE[0]);
        assert_eq!(wait(0, Some(60), LIFE), at(60));
        assert_eq!(wait(1, Some(60), LIFE), SCHEDULE[1]);
        assert_eq!(wait(100, None, LIFE), SCHEDULE[8]);
        assert_eq!(wait(100, Some(86_400), at(7)), at(7));
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date_and_has_a_bound() {
        let now = Timestamp::parse("1994-11-06T08:49:30Z").unwrap();
        let read = |text: &str| retry_after(text, now);
        assert_eq!(read("1"), Some(at(1)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(at(7)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:00 GMT"), Some(at(0)));
        assert_eq!(read("Sat, 06 Nov 2094 08:49:37 GMT"), Some(LONGEST_WAIT));
        assert_eq!(read("99999999999"), Some(LONGEST_WAIT));
        for odd in ["", "soon", "-1", "1.5"] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        // The example of the specification's reference libraries.
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = sign(
            &key,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(
            signature.unwrap(),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }
}
