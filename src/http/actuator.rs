//! How the controller is, in the shapes that Spring's actuator has: health, info and metrics. Health is asked for every
//! second by somebody, so what costs something to find out is found out at most every few seconds.

use super::answer::{Fault, json, json_with};
use super::route::{Routes, param};
use super::{Shared, metrics, with};
use crate::clock::Timestamp;
use crate::config::Storage;
use crate::model::view::{Component, Health};
use crate::model::wire::ErrorBody;
use ::http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json as value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use utoipa::ToSchema;
use warp::Filter;
use warp::reject::Rejection;
use warp::reply::Response;

/// How long what was found out holds.
const HOLDS: Duration = Duration::from_secs(5);
/// How long a part may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// With less room than this on the recordings' disk a recording is in danger.
const LEAST_ROOM: u64 = 512 * 1024 * 1024;
/// A webhook that waits longer than this is a matter for a person.
const OLD: Duration = Duration::from_secs(3600);

pub(super) fn add(routes: &mut Routes, shared: &Arc<Shared>) {
    routes.open("GET /actuator/health", with(shared).and_then(health));
    routes.open(
        "GET /actuator/health/{component}",
        with(shared).and(param()).and_then(component),
    );
    routes.account("GET /actuator/info", with(shared).and_then(info));
    routes.account("GET /actuator/metrics", with(shared).and_then(names));
    routes.account(
        "GET /actuator/metrics/{name}",
        with(shared).and(param()).and_then(metric),
    );
    metrics::add(routes, shared);
}

/// Finds out how the parts are, not too often.
#[derive(Default)]
pub(super) struct Monitor(Mutex<Option<(Duration, Health)>>);

impl Shared {
    /// How everything is: known for a moment, then found out anew. Many who ask at once wait for one answer.
    pub(super) async fn health(&self) -> Health {
        let mut known = self.health.0.lock().await;
        let now = self.clock.uptime();
        if let Some((since, health)) = &*known
            && now.saturating_sub(*since) < HOLDS
        {
            return health.clone();
        }
        let health = self.examine().await;
        *known = Some((now, health.clone()));
        health
    }

    async fn examine(&self) -> Health {
        let (store, disk) = (
            self.store_health().await,
            disk(&self.settings.recording_path),
        );
        let (s3, local) = match self.settings.storage {
            Storage::S3 => (store, recordings_folder(&self.settings.recording_path)),
            Storage::Local => (up([("enabled", value!(false))]), store),
        };
        let vital = [
            ("store", local),
            ("docker", self.docker_health().await),
            ("s3", s3),
            ("disk", disk),
            ("contact", self.contact_health()),
        ];
        let well = vital.iter().all(|(_, part)| part.status == "UP");
        let parts = vital.into_iter().chain([("outbox", self.outbox_health())]);
        Health {
            status: word(well).to_owned(),
            components: parts.map(|(name, part)| (name.to_owned(), part)).collect(),
        }
    }

    async fn store_health(&self) -> Component {
        match tokio::time::timeout(PATIENCE, self.store.probe()).await {
            Ok(Ok(())) => up([
                ("storage", value!(self.storage())),
                ("unverified", value!(self.controller.unverified().len())),
            ]),
            Ok(Err(cause)) => down(&cause.to_string()),
            Err(_) => down("the chunk store does not answer in time"),
        }
    }

    async fn docker_health(&self) -> Component {
        let asked = tokio::time::timeout(PATIENCE, self.controller.health()).await;
        let Ok(known) = asked else {
            return down("the runtime does not answer in time");
        };
        match known.runtime {
            Ok(runtime) => up([
                ("kind", value!(runtime.kind)),
                ("version", value!(runtime.version)),
                (
                    "image",
                    value!(runtime.image.as_ref().map(|(name, _)| name)),
                ),
                (
                    "imagePresent",
                    value!(runtime.image.as_ref().map(|(_, present)| present)),
                ),
            ]),
            Err(cause) => down(&cause),
        }
    }

    /// A recorder that cannot be heard records on, but its faults are seen late and a controller's word does not reach it.
    fn contact_health(&self) -> Component {
        let deaf = self.controller.deaf();
        if deaf.is_empty() {
            return up([("unheard", value!(0))]);
        }
        let named = deaf.iter().take(3).map(ToString::to_string);
        let part = down(&format!(
            "no heartbeat arrives from {} of the recorders that record ({}); check that they have this controller's address \
             and password, in .env in the recordings folder",
            deaf.len(),
            named.collect::<Vec<_>>().join(", ")
        ));
        let mut details = part.details;
        details.insert("unheard".to_owned(), value!(deaf.len()));
        Component { details, ..part }
    }

    /// Recording and failover go on without the relay: its part never brings the whole down.
    fn outbox_health(&self) -> Component {
        let counts = self.outbox.counts();
        let oldest = self
            .outbox
            .oldest_pending()
            .map(|at| self.clock.now().since(at));
        let late = oldest.is_some_and(|age| age > OLD);
        let set_aside = self.outbox.set_aside();
        if !set_aside.is_empty() {
            return down(&format!(
                "{}; the service's next start clears this",
                set_aside.join("; ")
            ));
        }
        let part = up([
            ("pending", value!(counts.pending)),
            ("dead", value!(counts.dead)),
            ("dropped", value!(counts.dropped)),
            ("bytes", value!(counts.bytes)),
            (
                "oldestPendingSeconds",
                value!(oldest.map(|age| age.as_secs())),
            ),
        ]);
        let status = word(!late && counts.dropped == 0).to_owned();
        Component { status, ..part }
    }

    /// Where chunks are kept, for a person.
    pub(super) fn storage(&self) -> String {
        match self.settings.storage {
            Storage::Local => format!("local: {}", self.settings.recording_path.display()),
            Storage::S3 => format!("s3: {}", self.settings.s3_bucket),
        }
    }
}

fn word(well: bool) -> &'static str {
    if well { "UP" } else { "DOWN" }
}

fn up<const N: usize>(details: [(&str, Value); N]) -> Component {
    Component {
        status: "UP".to_owned(),
        details: details
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    }
}

fn down(error: &str) -> Component {
    Component {
        status: "DOWN".to_owned(),
        details: Map::from_iter([("error".to_owned(), value!(error))]),
    }
}

fn recordings_folder(path: &Path) -> Component {
    match nix::unistd::access(path, nix::unistd::AccessFlags::W_OK) {
        Ok(()) => up([("path", value!(path))]),
        Err(cause) => down(&format!(
            "cannot write {}: {cause}; see OPENVIDU_RECORDING_PATH",
            path.display()
        )),
    }
}

fn disk(path: &Path) -> Component {
    match nix::sys::statvfs::statvfs(path) {
        Ok(disk) => {
            let free = disk.blocks_available() * disk.fragment_size();
            let total = disk.blocks() * disk.fragment_size();
            let part = up([
                ("free", value!(free)),
                ("total", value!(total)),
                ("threshold", value!(LEAST_ROOM)),
                ("path", value!(path)),
            ]);
            Component {
                status: word(free > LEAST_ROOM).to_owned(),
                ..part
            }
        }
        Err(cause) => down(&format!(
            "cannot look at the disk of {}: {cause}; see OPENVIDU_RECORDING_PATH",
            path.display()
        )),
    }
}

fn code(status: &str) -> StatusCode {
    if status == "UP" {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// Whether recording and failover work, with the parts they need.
#[utoipa::path(get, path = "/actuator/health", tag = "actuator", security(()), responses(
    (status = 200, description = "UP", body = Object),
    (status = 503, description = "DOWN: recording or failover is impaired", body = Object),
))]
pub(super) async fn health(shared: Arc<Shared>) -> Result<Response, Rejection> {
    let health = Shared::health(&shared).await;
    Ok(json_with(code(&health.status), &health))
}

/// How one part is.
#[utoipa::path(get, path = "/actuator/health/{component}", tag = "actuator", security(()), params(("component" = String, Path, example = "store")), responses(
    (status = 200, description = "UP", body = Object),
    (status = 404, description = "there is no such part", body = ErrorBody),
    (status = 503, description = "DOWN", body = Object),
))]
pub(super) async fn component(shared: Arc<Shared>, name: String) -> Result<Response, Rejection> {
    let mut health = Shared::health(&shared).await;
    let part = health.components.remove(&name);
    let part = part.ok_or_else(|| Fault::not_found(format!("there is no part {name:?}")))?;
    Ok(json_with(code(&part.status), &part))
}

/// What runs here.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Info {
    app: AppInfo,
    build: BuildInfo,
    git: GitInfo,
    #[schema(value_type = String, format = DateTime)]
    started: Timestamp,
    /// Seconds.
    uptime: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct AppInfo {
    name: &'static str,
    version: &'static str,
    description: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct BuildInfo {
    version: &'static str,
    artifact: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct GitInfo {
    commit: CommitInfo,
}

#[derive(Debug, Serialize, ToSchema)]
struct CommitInfo {
    id: &'static str,
}

/// Version, commit and uptime.
#[utoipa::path(get, path = "/actuator/info", tag = "actuator", responses(
    (status = 200, description = "what runs here", body = Info),
))]
pub(super) async fn info(shared: Arc<Shared>) -> Result<Response, Rejection> {
    Ok(json(&Info {
        app: AppInfo {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            description: env!("CARGO_PKG_DESCRIPTION"),
        },
        build: BuildInfo {
            version: env!("CARGO_PKG_VERSION"),
            artifact: env!("CARGO_PKG_NAME"),
        },
        git: GitInfo {
            commit: CommitInfo {
                id: option_env!("OV2_COMMIT").unwrap_or("unknown"),
            },
        },
        started: shared.started_at,
        uptime: shared.clock.now().since(shared.started_at).as_secs(),
    }))
}

/// The names of all metrics.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Names {
    names: BTreeSet<String>,
}

/// The names of all metrics.
#[utoipa::path(get, path = "/actuator/metrics", tag = "actuator", responses(
    (status = 200, description = "their names", body = Names),
))]
pub(super) async fn names(_: Arc<Shared>) -> Result<Response, Rejection> {
    let names = metrics::TABLE.iter().map(|(name, ..)| (*name).to_owned());
    Ok(json(&Names {
        names: names.collect(),
    }))
}

/// One metric.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metric {
    name: String,
    description: &'static str,
    base_unit: Option<&'static str>,
    measurements: Vec<Measurement>,
    available_tags: Vec<Tag>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Measurement {
    statistic: &'static str,
    value: f64,
}

#[derive(Debug, Serialize, ToSchema)]
struct Tag {
    tag: String,
    values: BTreeSet<String>,
}

/// One metric over all its labels.
#[utoipa::path(get, path = "/actuator/metrics/{name}", tag = "actuator", params(("name" = String, Path, example = "ha_recorder_sessions_active")), responses(
    (status = 200, description = "its measurements", body = Metric),
    (status = 404, description = "there is no such metric", body = ErrorBody),
))]
pub(super) async fn metric(shared: Arc<Shared>, name: String) -> Result<Response, Rejection> {
    let row = metrics::TABLE.iter().find(|(known, ..)| *known == name);
    let Some((_, kind, description)) = row else {
        return Err(Fault::not_found(format!("there is no metric {name:?}")).into());
    };
    let text = metrics::render(&shared).await;
    let samples = text.lines().filter_map(Sample::parse).collect::<Vec<_>>();
    let sum = |wanted: &str| {
        let same = samples.iter().filter(|sample| sample.name == wanted);
        same.map(|sample| sample.value).sum::<f64>()
    };
    let measurements = match kind {
        metrics::Kind::Counter | metrics::Kind::Labelled => vec![("COUNT", sum(&name))],
        metrics::Kind::Gauge => vec![("VALUE", sum(&name))],
        metrics::Kind::Histogram => vec![
            ("COUNT", sum(&format!("{name}_count"))),
            ("TOTAL_TIME", sum(&format!("{name}_sum"))),
        ],
    };
    let mut tags = BTreeMap::<String, BTreeSet<String>>::new();
    let of_this = |sample: &&Sample<'_>| sample.name.starts_with(&name);
    for (tag, text) in samples.iter().filter(of_this).flat_map(Sample::labels) {
        if tag != "le" {
            tags.entry(tag.to_owned())
                .or_default()
                .insert(text.to_owned());
        }
    }
    Ok(json(&Metric {
        base_unit: name.contains("seconds").then_some("seconds"),
        name,
        description,
        measurements: measurements
            .into_iter()
            .map(|(statistic, value)| Measurement { statistic, value })
            .collect(),
        available_tags: tags
            .into_iter()
            .map(|(tag, values)| Tag { tag, values })
            .collect(),
    }))
}

/// A line of Prometheus's text form.
struct Sample<'t> {
    name: &'t str,
    labels: &'t str,
    value: f64,
}

impl<'t> Sample<'t> {
    fn parse(line: &'t str) -> Option<Self> {
        let (head, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
        let (name, labels) = head.split_once('{').unwrap_or((head, ""));
        Some(Self {
            name,
            labels: labels.trim_end_matches('}'),
            value: value.parse().ok()?,
        })
    }

    /// No value of ours holds a comma or a quote.
    fn labels(&self) -> impl Iterator<Item = (&'t str, &'t str)> + use<'t> {
        let pairs = self
            .labels
            .split(',')
            .filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, text)| (name, text.trim_matches('"')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_read_with_its_labels() {
        let sample = Sample::parse("a_b{route=\"/x/{id}\",code=\"200\"} 2.5").unwrap();
        assert_eq!((sample.name, sample.value), ("a_b", 2.5));
        let labels = sample.labels().collect::<Vec<_>>();
        assert_eq!(labels, [("route", "/x/{id}"), ("code", "200")]);
        assert!(Sample::parse("# HELP a b 1").is_none());
    }

    #[test]
    fn a_folder_that_is_not_there_is_down_with_a_sentence() {
        let part = disk(Path::new("/no/such/folder"));
        assert_eq!(part.status, "DOWN");
        assert!(
            part.details["error"]
                .as_str()
                .unwrap()
                .contains("OPENVIDU_RECORDING_PATH")
        );
    }
}
