//! What a person must know. The controller knows it of sessions; of the parts and of the webhooks it is known here.

use super::answer::json;
use super::route::Routes;
use super::{Shared, with};
use crate::clock::Timestamp;
use crate::config::Settings;
use crate::model::view::{Component, Health, OutboxView};
use crate::model::worry::{Area, Judgement, Severity, Worry, bytes, count};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use warp::Filter;
use warp::reject::Rejection;
use warp::reply::Response;

/// With a smaller part of the recordings' disk free than this, somebody should look.
const LITTLE_ROOM: f64 = 0.05;
/// A webhook that waits longer than this is worth a look.
const LONG_WAIT: Duration = Duration::from_secs(60);

pub(super) fn add(routes: &mut Routes, shared: &Arc<Shared>) {
    routes.account("GET /api/worries", with(shared).and_then(worries));
}

/// What a person must know, the heaviest first.
#[utoipa::path(get, path = "/api/worries", tag = "operator", responses(
    (status = 200, description = "what a person must know", body = Vec<Worry>),
))]
pub(super) async fn worries(shared: Arc<Shared>) -> Result<Response, Rejection> {
    shared.controller.loaded().await;
    let health = Shared::health(&shared).await;
    Ok(json(
        &shared.judgement(&health, &shared.outbox_view()).worries,
    ))
}

/// Since when each worry is there whose subject does not know it.
#[derive(Default)]
pub(super) struct Noticed(Mutex<BTreeMap<(String, String), Timestamp>>);

impl Noticed {
    /// Dates those that do not know it when they are noticed first, and forgets those that are gone.
    fn date(&self, worries: &mut [Worry], now: Timestamp) {
        let mut noticed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *noticed);
        let undated = |it: &&mut Worry| it.since == Timestamp::default();
        for worry in worries.iter_mut().filter(undated) {
            // A text may hold a number that changes; what has a badge is known by that.
            let what = worry.badge.as_ref().unwrap_or(&worry.text);
            let key = (worry.subject.clone(), what.clone());
            worry.since = before.get(&key).copied().unwrap_or(now);
            noticed.insert(key, worry.since);
        }
    }
}

impl Shared {
    /// Whether all is well, as far as `health` and `outbox` tell of the parts.
    pub(super) fn judgement(&self, health: &Health, outbox: &OutboxView) -> Judgement {
        let now = self.clock.now();
        let parts = health.components.iter();
        let mut worries = self.controller.worries();
        worries.extend(parts.filter_map(|(name, part)| of_part(name, part)));
        worries.extend(of_outbox(outbox, self.started_at, now));
        worries.extend(of_relay(&self.settings, self.started_at));
        self.noticed.date(&mut worries, now);
        Judgement::of(worries, self.controller.running())
    }
}

/// What is wrong with a part. That recorders are not heard is said of each of them.
fn of_part(name: &str, part: &Component) -> Option<Worry> {
    let worry = |severity, badge: &str, text, advice: &str| Worry {
        severity,
        area: Area::Health,
        subject: name.to_owned(),
        badge: Some(badge.to_owned()),
        text,
        advice: advice.to_owned(),
        since: Timestamp::default(),
    };
    if part.status == "DOWN" && name != "contact" {
        let text = format!("{} is down: {}", title(name), part.summary);
        let advice = "\"ov2-ha-recorder validate\" looks at everything that recording needs";
        return Some(worry(Severity::Act, "Down", text, advice));
    }
    let number = |member: &str| part.details.get(member)?.as_u64();
    let (free, total) = (number("free")?, number("total")?);
    (name == "disk" && (free as f64) < LITTLE_ROOM * total as f64).then(|| {
        let (free, total) = (bytes(free), bytes(total));
        let text = format!("The disk is nearly full: {free} of {total} are free");
        let advice = "make room: an hour of 720p takes about half a GiB, twice while it is joined";
        worry(Severity::Look, "Low", text, advice)
    })
}

fn of_outbox(outbox: &OutboxView, started_at: Timestamp, now: Timestamp) -> Vec<Worry> {
    let worry = |text, advice: &str, since| Worry {
        severity: Severity::Look,
        area: Area::Outbox,
        subject: "outbox".into(),
        badge: None,
        text,
        advice: advice.into(),
        since,
    };
    let dead = (outbox.dead > 0).then(|| {
        let number = usize::try_from(outbox.dead).unwrap_or(usize::MAX);
        let text = format!("{} given up", count(number, "webhook was", "webhooks were"));
        let since = outbox.last_error_at.unwrap_or(started_at);
        worry(text, "see why, then replay", since)
    });
    let waiting = outbox
        .oldest_pending_at
        .filter(|at| now.since(*at) > LONG_WAIT);
    let waiting = waiting.map(|at| {
        let cause = outbox.last_error.as_ref();
        let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
        let advice = "repair the target; what waits is sent by itself then";
        worry(format!("Webhooks wait{cause}"), advice, at)
    });
    dead.into_iter().chain(waiting).collect()
}

/// A relay that is off where one may think that it is on.
fn of_relay(settings: &Settings, started_at: Timestamp) -> Option<Worry> {
    let (text, advice) = settings.relay_is_off_although_set()?.split_once(": ")?;
    Some(Worry {
        severity: Severity::Look,
        area: Area::Outbox,
        subject: "relay".into(),
        badge: Some("Off".into()),
        text: format!("{}, and no event reaches your server", title(text)),
        advice: advice.into(),
        since: started_at,
    })
}

/// A part's name at a sentence's beginning.
fn title(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn part(status: &str, summary: &str, details: serde_json::Value) -> Component {
        let part = json!({ "status": status, "summary": summary, "details": details });
        serde_json::from_value(part).unwrap()
    }

    #[test]
    fn a_relay_that_is_off_beside_its_target_is_shown() {
        use crate::config::Variables;
        let of = |relay: &str| {
            let pairs = [
                ("OPENVIDU_WEBHOOK", relay),
                ("OPENVIDU_WEBHOOK_ENDPOINT", "http://x"),
            ];
            of_relay(
                &Variables::of(pairs).settings().unwrap(),
                Timestamp::default(),
            )
        };
        let shown = of("false").unwrap();
        assert_eq!(
            shown.text,
            "The relay is off, and no event reaches your server"
        );
        assert!(
            shown.advice.contains("OPENVIDU_WEBHOOK is false"),
            "{}",
            shown.advice
        );
        assert_eq!(of("true"), None);
    }

    #[test]
    fn a_part_that_is_down_needs_somebody_and_a_disk_that_is_nearly_full_a_look() {
        let down = of_part("docker", &part("DOWN", "no answer", json!({}))).unwrap();
        assert_eq!(down.severity, Severity::Act);
        assert_eq!(down.text, "Docker is down: no answer");
        let disk = |free: u64| {
            let part = part(
                "UP",
                "",
                json!({ "free": free, "total": 100_000_000_000_u64 }),
            );
            of_part("disk", &part)
        };
        assert_eq!(disk(6_000_000_000), None);
        let low = disk(4_000_000_000).unwrap();
        assert_eq!(low.severity, Severity::Look);
        assert!(low.text.contains("4.0 GB of 100 GB"), "{}", low.text);
        assert_eq!(of_part("contact", &part("DOWN", "deaf", json!({}))), None);
    }

    #[test]
    fn webhooks_are_worth_a_look_when_they_were_given_up_or_wait_for_a_minute() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        let outbox = OutboxView {
            oldest_pending_at: Some(at(100)),
            last_error: Some("connection refused".into()),
            ..OutboxView::default()
        };
        assert_eq!(of_outbox(&outbox, at(0), at(160)), []);
        let waiting = of_outbox(&outbox, at(0), at(161));
        assert_eq!(waiting[0].text, "Webhooks wait: connection refused");
        assert_eq!(waiting[0].since, at(100));
        let dead = OutboxView {
            dead: 2,
            ..OutboxView::default()
        };
        let dead = of_outbox(&dead, at(0), at(160));
        assert_eq!(dead[0].text, "2 webhooks were given up");
    }

    #[test]
    fn a_worry_about_a_part_keeps_its_date_until_it_is_gone() {
        let noticed = Noticed::default();
        let down = of_part("s3", &part("DOWN", "refused", json!({}))).unwrap();
        let dated = |worries: &[Worry], now: i64| {
            let mut worries = worries.to_vec();
            noticed.date(&mut worries, Timestamp::from_millis(now));
            worries.first().map(|it| it.since.millis())
        };
        assert_eq!(dated(std::slice::from_ref(&down), 5), Some(5));
        assert_eq!(dated(std::slice::from_ref(&down), 9), Some(5));
        assert_eq!(dated(&[], 10), None);
        assert_eq!(dated(&[down], 11), Some(11));
    }
}
