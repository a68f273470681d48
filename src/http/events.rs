//! What open pages are told: a snapshot first, then once a second at most what changed, for all sessions together and made
//! once for all readers. While nobody reads, nothing is done. A reader that comes back is told what it missed, as long as
//! that is remembered.

use super::access::Caller;
use super::answer::{json, set};
use super::route::Routes;
use super::sessions::SessionView;
use super::{Context, Shared, context, with};
use crate::controller::{Change, Which};
use crate::model::view::{Health, News, Overview};
use crate::model::worry::Judgement;
use crate::random;
use ::http::header;
use futures_util::stream;
use serde::Deserialize;
use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::{Notify, mpsc};
use utoipa::IntoParams;
use warp::reject::Rejection;
use warp::reply::Response;
use warp::sse::Event;
use warp::{Filter, Reply};

/// How often readers are told.
const PACE: Duration = Duration::from_secs(1);
/// A sign of life at least every so many paces: a controller that hangs is missed by its page soon.
const PING: u32 = 3;
/// Changes that are remembered for readers that come back.
const REMEMBERED: usize = 60;
/// What may wait for one slow reader.
const BEHIND: usize = 16;
/// Sessions in a snapshot at most.
const MOST: usize = 10_000;

pub(super) fn add(routes: &mut Routes, shared: &Arc<Shared>) {
    let last = warp::header::optional::<String>("last-event-id");
    routes.account(
        "GET /api/events",
        with(shared)
            .and(context())
            .and(last)
            .and(warp::query())
            .and_then(events),
    );
    routes.account(
        "GET /api/overview",
        with(shared).and(context()).and_then(overview),
    );
}

/// The readers and what is remembered for them.
pub(super) struct Hub {
    readers: Mutex<Readers>,
    came: Notify,
    /// Event ids of another life mean nothing in this one.
    life: String,
}

#[derive(Default)]
struct Readers {
    senders: Vec<(mpsc::Sender<Told>, Caller)>,
    recent: VecDeque<Past>,
    number: u64,
}

/// One event of the past, for both kinds of readers.
#[derive(Clone)]
struct Past {
    number: u64,
    account: Arc<str>,
    viewer: Arc<str>,
}

/// What readers were told last of what is not about one session.
#[derive(Default)]
struct Shown {
    overview: Option<Overview>,
    judgement: Option<Judgement>,
}

/// One event for one reader.
#[derive(Clone)]
struct Told {
    kind: &'static str,
    id: Option<String>,
    data: Arc<str>,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            readers: Mutex::default(),
            came: Notify::new(),
            life: random::hex::<4>(),
        }
    }
}

impl Hub {
    /// Begins to tell readers what changes.
    pub(super) fn start(&self, shared: &Arc<Shared>) {
        let end = shared.tasks.token();
        let work = tell(Arc::clone(shared));
        shared.tasks.spawn("events", async move {
            end.run_until_cancelled(work).await;
        });
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.life)
    }

    /// The number in an event id of this life.
    fn number(&self, id: &str) -> Option<u64> {
        id.strip_prefix(&self.life)?.strip_prefix('-')?.parse().ok()
    }
}

impl Past {
    fn for_reader(&self, hub: &Hub, caller: Caller) -> Told {
        let viewer = caller == Caller::Viewer;
        Told {
            kind: "changes",
            id: Some(hub.id(self.number)),
            data: Arc::clone(if viewer { &self.viewer } else { &self.account }),
        }
    }
}

/// Waits for readers, tells them, and forgets when they are gone.
async fn tell(shared: Arc<Shared>) {
    loop {
        shared.news.came.notified().await;
        tell_readers(&shared).await;
        let mut readers = shared.news.readers();
        readers.recent.clear();
        // Who left before must not take what comes after for what follows.
        readers.number += 1;
    }
}

/// Tells readers once a second until there have been none for a minute.
async fn tell_readers(shared: &Arc<Shared>) {
    let mut changes = shared.controller.changes();
    let mut known = Shown::default();
    let (mut alone, mut quiet) = (0, 0);
    while alone < REMEMBERED {
        tokio::time::sleep(PACE).await;
        let news = gather(shared, &mut changes, &mut known).await;
        quiet = if publish(shared, news) { 0 } else { quiet + 1 };
        if quiet >= PING {
            quiet = 0;
            ping(shared);
        }
        let mut readers = shared.news.readers();
        readers.senders.retain(|(sender, _)| !sender.is_closed());
        alone = if readers.senders.is_empty() {
            alone + 1
        } else {
            0
        };
    }
}

/// Everything that changed since the last time.
async fn gather(
    shared: &Arc<Shared>,
    changes: &mut Receiver<Change>,
    known: &mut Shown,
) -> News<SessionView> {
    let (mut changed, mut lost) = (BTreeSet::new(), false);
    loop {
        match changes.try_recv() {
            Ok(Change::Session(id) | Change::Removed(id)) => drop(changed.insert(id)),
            Err(TryRecvError::Lagged(_)) => lost = true,
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        }
    }
    let mut news = News::default();
    if lost {
        news.sessions = all_sessions(shared).await;
    }
    for id in changed {
        match shared.controller.session(&id) {
            Some(_) if lost => {}
            Some(session) => news.sessions.push(shared.view(session)),
            None => news.removed.push(id.to_string()),
        }
    }
    let overview = glance(shared, false).await;
    let judgement = shared.judgement(&overview.health, &overview.outbox);
    if known.judgement.as_ref() != Some(&judgement) {
        known.judgement = Some(judgement.clone());
        news.judgement = Some(judgement);
    }
    let same = |old: &Overview| {
        Overview {
            now: overview.now,
            ..old.clone()
        } == overview
    };
    if !known.overview.as_ref().is_some_and(same) {
        known.overview = Some(overview.clone());
        news.overview = Some(overview);
    }
    news
}

/// Tells every reader, and says whether there was anything to tell.
fn publish(shared: &Shared, mut news: News<SessionView>) -> bool {
    let nothing = news.sessions.is_empty() && news.removed.is_empty();
    if nothing && news.overview.is_none() && news.judgement.is_none() {
        return false;
    }
    let account = text(&news);
    let viewer = match &mut news.overview {
        Some(overview) => {
            overview.viewer = true;
            text(&news)
        }
        None => Arc::clone(&account),
    };
    let mut readers = shared.news.readers();
    readers.number += 1;
    let change = Past {
        number: readers.number,
        account,
        viewer,
    };
    // A reader too slow to take it is cut off; it comes back and is told what it missed.
    readers.senders.retain(|(sender, caller)| {
        sender
            .try_send(change.for_reader(&shared.news, *caller))
            .is_ok()
    });
    readers.recent.push_back(change);
    if readers.recent.len() > REMEMBERED {
        readers.recent.pop_front();
    }
    true
}

fn ping(shared: &Shared) {
    let sign = Told {
        kind: "ping",
        id: None,
        data: "{}".into(),
    };
    let mut readers = shared.news.readers();
    readers
        .senders
        .retain(|(sender, _)| sender.try_send(sign.clone()).is_ok());
}

fn text(news: &News<SessionView>) -> Arc<str> {
    serde_json::to_string(news).unwrap_or_default().into()
}

async fn all_sessions(shared: &Shared) -> Vec<SessionView> {
    shared.views(Which::Any, MOST, 0).await.0
}

/// The controller at a glance.
async fn glance(shared: &Arc<Shared>, viewer: bool) -> Overview {
    let settings = &shared.settings;
    Overview {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: shared.started_at,
        now: shared.clock.now(),
        viewer,
        health: steady(Shared::health_known(shared).await),
        outbox: shared.outbox_view(),
        chunk_seconds: settings.chunk_seconds.get(),
        heartbeat_timeout_seconds: settings.heartbeat_timeout().as_secs() as u32,
        storage: shared.storage(),
        recordings_version: shared.recordings.now(shared).await,
        waiting: shared.open_pages(),
    }
}

/// A disk's free bytes change with every frame: in steps of 16 MiB they are news. An age is none: `outbox` has its begin.
fn steady(mut health: Health) -> Health {
    const STEP: u64 = 16 << 20;
    for part in health.components.values_mut() {
        part.details.remove("oldestPendingSeconds");
        if let Some(free) = part.details.get_mut("free")
            && let Some(bytes) = free.as_u64()
        {
            *free = (bytes / STEP * STEP).into();
        }
    }
    health
}

async fn snapshot(shared: &Arc<Shared>, caller: Caller) -> News<SessionView> {
    let overview = glance(shared, caller == Caller::Viewer).await;
    News {
        sessions: all_sessions(shared).await,
        removed: Vec::new(),
        judgement: Some(shared.judgement(&overview.health, &overview.outbox)),
        overview: Some(overview),
    }
}

/// Where a reader wants to go on.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase")]
pub(super) struct From {
    /// The id of the last event that was read; the header `Last-Event-ID` says the same.
    last_event_id: Option<String>,
}

/// A stream of server-sent events: a `snapshot`, then `changes`, and a `ping` when there are none.
#[utoipa::path(get, path = "/api/events", tag = "pages", params(From), responses(
    (status = 200, description = "snapshot, changes and pings", content_type = "text/event-stream", body = String),
))]
pub(super) async fn events(
    shared: Arc<Shared>,
    context: Context,
    header: Option<String>,
    from: From,
) -> Result<Response, Rejection> {
    let caller = context.caller;
    let (sender, mut receiver) = mpsc::channel(BEHIND);
    let seen = header.or(from.last_event_id);
    let seen = seen.and_then(|id| shared.news.number(&id));
    let mut first = enter(&shared, caller, seen, sender);
    shared.news.came.notify_one();
    if let Err(number) = first {
        let data = text(&snapshot(&shared, caller).await);
        let id = Some(shared.news.id(number));
        first = Ok(VecDeque::from([Told {
            kind: "snapshot",
            id,
            data,
        }]));
    }
    let mut first = first.unwrap_or_default();
    let rest = stream::poll_fn(move |cx| match first.pop_front() {
        Some(told) => std::task::Poll::Ready(Some(told)),
        None => receiver.poll_recv(cx),
    });
    let mut ended = Box::pin(shared.tasks.token().cancelled_owned());
    let mut rest = Box::pin(rest);
    let all = stream::poll_fn(move |cx| {
        if ended.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(None);
        }
        futures_util::Stream::poll_next(rest.as_mut(), cx).map(|told| told.map(event))
    });
    let mut response = warp::sse::reply(all).into_response();
    set(&mut response, header::CACHE_CONTROL, "no-store");
    // A proxy in between must not collect events before it passes them on.
    response
        .headers_mut()
        .insert("x-accel-buffering", ::http::HeaderValue::from_static("no"));
    Ok(response)
}

/// Lets a reader in: answers what it missed, or the number of the last event where it needs a snapshot.
fn enter(
    shared: &Shared,
    caller: Caller,
    seen: Option<u64>,
    sender: mpsc::Sender<Told>,
) -> Result<VecDeque<Told>, u64> {
    let mut readers = shared.news.readers();
    readers.senders.push((sender, caller));
    let last = readers.number;
    let oldest = readers
        .recent
        .front()
        .map_or(last + 1, |change| change.number);
    match seen {
        Some(seen) if seen <= last && seen + 1 >= oldest => {
            let missed = readers.recent.iter().filter(|change| change.number > seen);
            Ok(missed
                .map(|change| change.for_reader(&shared.news, caller))
                .collect())
        }
        _ => Err(last),
    }
}

fn event(told: Told) -> Result<Event, Infallible> {
    let event = Event::default().event(told.kind).data(&*told.data);
    Ok(match told.id {
        Some(id) => event.id(id),
        None => event,
    })
}

/// The same as a snapshot, once, for readers that cannot hold a stream.
#[utoipa::path(get, path = "/api/overview", tag = "pages", responses(
    (status = 200, description = "all sessions and the controller at a glance", body = Object),
))]
pub(super) async fn overview(shared: Arc<Shared>, context: Context) -> Result<Response, Rejection> {
    Ok(json(&snapshot(&shared, context.caller).await))
}
