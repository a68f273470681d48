//! How the controller is, in the shapes that Spring's actuator has: health, info and metrics.

use super::answer::{Fault, json, json_with};
use super::route::{Routes, param};
use super::{Shared, metrics, with};
use crate::clock::Timestamp;
use crate::model::wire::ErrorBody;
use ::http::StatusCode;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use utoipa::ToSchema;
use warp::Filter;
use warp::reject::Rejection;
use warp::reply::Response;

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
                id: metrics::COMMIT,
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
}
