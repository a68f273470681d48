//! Numbers for those who watch: every name is declared here once, with what it means, and exists from the first scrape on.
//! Counters are counted where things happen; what only has a value now is read when somebody asks.

use super::Shared;
use super::answer::typed;
use super::route::Routes;
use super::with;
use crate::controller::RUNGS;
use crate::model::failover::Reason;
use crate::store::OPERATIONS;
use ::http::{Method, StatusCode};
use ::metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use warp::Filter;
use warp::reject::Rejection;
use warp::reply::Response;

/// What kind of number a metric is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only ever grows; begins at 0.
    Counter,
    /// Grows, one number for each set of labels; each that can be begins at 0, or the first event would be no growth.
    Labelled,
    /// Has a value now.
    Gauge,
    /// Durations in seconds.
    Histogram,
}

/// Every metric: name, kind, meaning.
pub(super) const TABLE: &[(&str, Kind, &str)] = &[
    (
        "ha_recorder_sessions_active",
        Kind::Gauge,
        "sessions whose recorder is expected to be at work",
    ),
    (
        "ha_recorder_sessions_created_total",
        Kind::Counter,
        "recordings that a recorder has registered for",
    ),
    (
        "ha_recorder_sessions_failed_total",
        Kind::Counter,
        "sessions that were given up",
    ),
    (
        "ha_recorder_failover_events_total",
        Kind::Labelled,
        "recorders that were replaced, by reason and rung of the ladder",
    ),
    (
        "ha_recorder_stuck_sessions",
        Kind::Gauge,
        "active sessions whose recording does not go forward",
    ),
    (
        "ha_recorder_deaf_sessions",
        Kind::Gauge,
        "recordings that go on although no heartbeat of their recorder arrives",
    ),
    (
        "ha_recorder_waiting_pages",
        Kind::Gauge,
        "sessions whose page is open and of which nothing is recorded now (quick start)",
    ),
    (
        "ha_recorder_unprotected_recordings",
        Kind::Gauge,
        "recordings that nobody would start again: no recorder has registered, or none has been at work for too long",
    ),
    (
        "ha_recorder_lost_seconds_total",
        Kind::Counter,
        "seconds of recordings that no frame shows",
    ),
    (
        "ha_recorder_containers_running",
        Kind::Gauge,
        "recorders' containers that are expected to run",
    ),
    (
        "ha_recorder_containers_failed_total",
        Kind::Counter,
        "lost recorders that could not be started again when that was tried",
    ),
    (
        "ha_recorder_recovery_seconds",
        Kind::Histogram,
        "from a fault's detection to the first new frame",
    ),
    (
        "ha_recorder_failover_start_seconds",
        Kind::Histogram,
        "from a fault's detection to the start of the replacement",
    ),
    (
        "ha_recorder_backups_total",
        Kind::Counter,
        "backup containers that were started",
    ),
    (
        "ha_recorder_api_request_duration_seconds",
        Kind::Histogram,
        "requests, by method, route and status code",
    ),
    (
        "ha_recorder_webhook_processing_duration_seconds",
        Kind::Histogram,
        "from a webhook's arrival to its answer",
    ),
    (
        "ha_recorder_webhook_pending",
        Kind::Gauge,
        "webhooks that wait for a target",
    ),
    (
        "ha_recorder_webhook_oldest_pending_seconds",
        Kind::Gauge,
        "how long the oldest webhook has waited for its target",
    ),
    (
        "ha_recorder_part_up",
        Kind::Gauge,
        "whether a part of the health is well (1) or not (0), by part",
    ),
    (
        "ha_recorder_webhook_dead_total",
        Kind::Counter,
        "webhooks that were given up",
    ),
    (
        "ha_recorder_webhook_dropped_total",
        Kind::Counter,
        "webhooks that were dropped because the outbox was full",
    ),
    (
        "ha_recorder_heartbeat_processing_duration_seconds",
        Kind::Histogram,
        "handling of a heartbeat",
    ),
    (
        "ha_recorder_chunks_stored_total",
        Kind::Counter,
        "chunks that reached the chunk store",
    ),
    (
        "ha_recorder_chunk_bytes_total",
        Kind::Counter,
        "bytes recorded",
    ),
    (
        "ha_recorder_store_errors_total",
        Kind::Labelled,
        "failed operations of the chunk store, by operation",
    ),
    (
        "ha_recorder_unverified_recordings",
        Kind::Gauge,
        "recordings whose chunks are kept because no video was verified to hold them",
    ),
    (
        "ha_recorder_build_info",
        Kind::Gauge,
        "always 1; version and commit are its labels",
    ),
    (
        "process_cpu_seconds_total",
        Kind::Counter,
        "processor time used, in whole seconds",
    ),
    (
        "process_resident_memory_bytes",
        Kind::Gauge,
        "memory in use",
    ),
    ("process_open_fds", Kind::Gauge, "open file descriptors"),
    ("process_threads", Kind::Gauge, "threads"),
    (
        "process_start_time_seconds",
        Kind::Gauge,
        "start, in seconds since the Unix epoch",
    ),
    (
        "process_uptime_seconds",
        Kind::Gauge,
        "time since the start",
    ),
];

/// The commit that this was built from.
pub(super) const COMMIT: &str = match option_env!("OV2_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// How often samples are put into their buckets when nobody asks.
const UPKEEP: Duration = Duration::from_secs(2);

const FAST: [f64; 12] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5,
];
const SLOW: [f64; 10] = [0.25, 0.5, 1.0, 2.0, 3.5, 5.0, 10.0, 20.0, 40.0, 80.0];

/// The process's metrics.
fn handle() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let builder = PrometheusBuilder::new();
        let slow = |name: &str| Matcher::Full(name.to_owned());
        let recovery = slow("ha_recorder_recovery_seconds");
        let start = slow("ha_recorder_failover_start_seconds");
        let builder = builder
            .set_buckets(&FAST)
            .and_then(|builder| builder.set_buckets_for_metric(recovery, &SLOW))
            .and_then(|builder| builder.set_buckets_for_metric(start, &SLOW))
            .unwrap_or_default();
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if ::metrics::set_global_recorder(recorder).is_err() {
            log::warn!("metrics go elsewhere: this process has another recorder of metrics");
        }
        declare();
        handle
    })
}

/// Makes the names known.
fn declare() {
    for (name, kind, help) in TABLE {
        match kind {
            Kind::Counter => {
                describe_counter!(*name, *help);
                counter!(*name).increment(0);
            }
            Kind::Labelled => describe_counter!(*name, *help),
            Kind::Gauge => describe_gauge!(*name, *help),
            Kind::Histogram => describe_histogram!(*name, Unit::Seconds, *help),
        }
    }
    for (reason, rung) in Reason::LABELS
        .iter()
        .flat_map(|it| RUNGS.map(|rung| (*it, rung)))
    {
        counter!("ha_recorder_failover_events_total", "reason" => reason, "rung" => rung)
            .increment(0);
    }
    for op in OPERATIONS {
        counter!("ha_recorder_store_errors_total", "op" => op).increment(0);
    }
    gauge!("ha_recorder_build_info", "version" => env!("CARGO_PKG_VERSION"), "commit" => COMMIT)
        .set(1.0);
}

/// Takes metrics from now on; harmless when they are taken already.
pub(super) fn install() {
    handle();
}

/// Keeps the buckets small while nobody asks for them, and the outbox free of what is old.
pub(super) fn start(shared: &Arc<Shared>) {
    let end = shared.tasks.token();
    let shared = Arc::clone(shared);
    let tasks = shared.tasks.clone();
    tasks.spawn("upkeep", async move {
        while end
            .run_until_cancelled(tokio::time::sleep(UPKEEP))
            .await
            .is_some()
        {
            handle().run_upkeep();
            if let Err(cause) = shared.outbox.forget_old(shared.clock.now()) {
                log::error!(cause:% = cause; "cannot forget old webhooks");
            }
        }
    });
}

/// A request was answered.
pub(super) fn request(route: &'static str, method: &Method, status: StatusCode, took: Duration) {
    let code = status.as_str().to_owned();
    histogram!("ha_recorder_api_request_duration_seconds", "method" => word(method), "route" => route, "code" => code)
        .record(took);
}

/// A client may invent methods, and each would be kept for good.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// A heartbeat was handled.
pub(super) fn heartbeat(took: Duration) {
    histogram!("ha_recorder_heartbeat_processing_duration_seconds").record(took);
}

/// A webhook was kept.
pub(super) fn webhook(took: Duration) {
    histogram!("ha_recorder_webhook_processing_duration_seconds").record(took);
}

/// Everything in Prometheus's text form.
pub(super) async fn render(shared: &Arc<Shared>) -> String {
    shared.controller.loaded().await;
    // A part that is there only while something is wrong with it is well again once it is gone.
    gauge!("ha_recorder_part_up", "part" => "settings").set(1.0);
    for (part, found) in Shared::health_known(shared).await.components {
        let is_well = f64::from(u8::from(found.status == "UP"));
        gauge!("ha_recorder_part_up", "part" => part).set(is_well);
    }
    refresh(shared);
    handle().render()
}

/// Reads what only has a value now.
fn refresh(shared: &Shared) {
    let now = shared.clock.now();
    let active = shared.controller.counts().active;
    let patience = shared.settings.stuck_timeout();
    let (stuck, held) = shared.controller.stuck_and_held(patience);
    let outbox = shared.outbox.counts();
    gauge!("ha_recorder_sessions_active").set(active as f64);
    gauge!("ha_recorder_stuck_sessions").set(stuck as f64);
    gauge!("ha_recorder_deaf_sessions").set(shared.controller.deaf().len() as f64);
    gauge!("ha_recorder_waiting_pages").set(shared.controller.waiting().len() as f64);
    let unprotected = shared.controller.unprotected().len();
    gauge!("ha_recorder_unprotected_recordings").set(unprotected as f64);
    gauge!("ha_recorder_containers_running").set(held as f64);
    let unverified = shared.controller.unverified().len();
    gauge!("ha_recorder_unverified_recordings").set(unverified as f64);
    gauge!("ha_recorder_webhook_pending").set(outbox.pending as f64);
    let oldest = shared.oldest_pending();
    let oldest = oldest.map_or(0.0, |at| now.since(at).as_secs_f64());
    gauge!("ha_recorder_webhook_oldest_pending_seconds").set(oldest);
    counter!("ha_recorder_webhook_dropped_total").absolute(outbox.dropped);
    gauge!("process_start_time_seconds").set(shared.started_at.millis() as f64 / 1000.0);
    gauge!("process_uptime_seconds").set(now.since(shared.started_at).as_secs_f64());
    let process = Process::read();
    counter!("process_cpu_seconds_total").absolute(process.cpu_seconds as u64);
    gauge!("process_resident_memory_bytes").set(process.resident_bytes);
    gauge!("process_open_fds").set(process.open_files);
    gauge!("process_threads").set(process.threads);
}

/// What the kernel says of this process.
#[derive(Default)]
struct Process {
    cpu_seconds: f64,
    resident_bytes: f64,
    open_files: f64,
    threads: f64,
}

impl Process {
    fn read() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name in parentheses may hold spaces: what follows is counted from its end.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let field = |index: usize| {
            let text = rest.split_whitespace().nth(index);
            text.and_then(|text| text.parse::<f64>().ok())
                .unwrap_or(0.0)
        };
        // Linux counts these in hundredths of a second and pages of 4 KiB for every program.
        Self {
            cpu_seconds: (field(11) + field(12)) / 100.0,
            threads: field(17),
            resident_bytes: field(21) * 4096.0,
            open_files: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64,
        }
    }
}

/// Adds the scrape's route.
pub(super) fn add(routes: &mut Routes, shared: &Arc<Shared>) {
    routes.account("GET /actuator/prometheus", with(shared).and_then(scrape));
}

/// All metrics in Prometheus's text form.
#[utoipa::path(get, path = "/actuator/prometheus", tag = "actuator", responses(
    (status = 200, description = "all metrics", content_type = "text/plain", body = String),
))]
pub(super) async fn scrape(shared: Arc<Shared>) -> Result<Response, Rejection> {
    Ok(typed(
        "text/plain; version=0.0.4; charset=utf-8",
        render(&shared).await,
    ))
}
