//! For an operator who has no monitoring: what a person must know is sent to `HA_ALERT_URL` when it rises, again when it weighs
//! more than it did, and when it is over; and `HA_ALIVE_URL` is called once a minute while all is well that recording and
//! failover need, so that whoever watches those calls hears when the controller or its machine is gone. Both say what the status
//! page says, of the same judgement.

use super::Shared;
use crate::backoff::Backoff;
use crate::clock::Timestamp;
use crate::config::Url;
use crate::model::worry::{Area, Severity, Worry};
use crate::outbound::Caller;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often it is looked. What is not there at two looks is over, and what comes and goes between two is not told.
const LOOK: Duration = Duration::from_secs(2);
/// How often the sign of life is given.
const ALIVE: Duration = Duration::from_secs(60);
/// How often an alert is tried: one that is refused must not keep the others back for ever.
const MOST_TRIES: u32 = 14;
/// Alerts that wait for a target that is away; what comes beyond is given up.
const WAITING: usize = 1_000;

/// Begins to tell, where the settings name somebody who is to be told.
pub(super) fn start(shared: &Arc<Shared>) {
    let caller = match Caller::new(&shared.settings) {
        Ok(caller) => caller,
        Err(cause) => return log::error!("no alerts are sent: {cause}"),
    };
    let (tasks, ended) = (&shared.tasks, shared.tasks.token());
    if let Some(url) = shared.settings.alert_url.clone() {
        let (alerts, outgoing) = mpsc::channel(WAITING);
        let looking = look(Arc::clone(shared), alerts);
        let sending = send(caller.clone(), url, outgoing);
        let ended = ended.clone();
        tasks.spawn("alerts", async move {
            ended
                .run_until_cancelled(futures_util::future::join(looking, sending))
                .await;
        });
    }
    if let Some(url) = shared.settings.alive_url.clone() {
        let living = live(Arc::clone(shared), caller, url);
        tasks.spawn("sign of life", async move {
            ended.run_until_cancelled(living).await;
        });
    }
}

/// What is sent. Chat hooks read `text` and leave the rest.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    text: String,
    /// `raised`, also when it weighs more than it did, or `over`.
    state: &'static str,
    at: Timestamp,
    worry: Worry,
}

impl Alert {
    fn raised(worry: &Worry, at: Timestamp) -> Self {
        let heavy = match worry.severity {
            Severity::Act => "Act",
            Severity::Look => "Look",
        };
        Self {
            text: format!(
                "ov2-ha-recorder: {heavy}: {}. To do: {}",
                worry.text, worry.advice
            ),
            state: "raised",
            at,
            worry: worry.clone(),
        }
    }

    fn over(worry: &Worry, at: Timestamp) -> Self {
        Self {
            text: format!("ov2-ha-recorder: over: {}", worry.text),
            state: "over",
            at,
            worry: worry.clone(),
        }
    }
}

/// Judges again and again, and hands on what has changed.
async fn look(shared: Arc<Shared>, alerts: mpsc::Sender<Alert>) {
    shared.controller.loaded().await;
    let mut told = Told::default();
    let mut every = tokio::time::interval(LOOK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let health = Shared::health_known(&shared).await;
        let judgement = shared.judgement(&health, &shared.outbox_view());
        for alert in told.changes(judgement.worries, shared.clock.now()) {
            if alerts.try_send(alert).is_err() {
                log::warn!("an alert is given up: {WAITING} of them wait for HA_ALERT_URL");
            }
        }
    }
}

/// What a worry is known by: its text may hold a number that changes.
type Key = (Area, String, String);

/// The worries of the last looks.
#[derive(Default)]
struct Told(BTreeMap<Key, Known>);

struct Known {
    worry: Worry,
    /// The most it weighed when it was told.
    told: Option<Severity>,
    /// At how many looks in a row it weighed more than that, or was not there.
    heavier: u32,
    missed: u32,
}

impl Told {
    /// What there is to tell now that these worries are there.
    fn changes(&mut self, worries: Vec<Worry>, now: Timestamp) -> Vec<Alert> {
        for known in self.0.values_mut() {
            known.missed += 1;
        }
        for worry in worries {
            let what = worry.badge.clone().unwrap_or_else(|| gist(&worry.text));
            let key = (worry.area, worry.subject.clone(), what);
            let known = self.0.entry(key).or_insert_with(|| Known {
                worry: worry.clone(),
                told: None,
                heavier: 0,
                missed: 0,
            });
            known.heavier = match known.told < Some(worry.severity) {
                true => known.heavier + 1,
                false => 0,
            };
            (known.worry, known.missed) = (worry, 0);
        }
        let mut alerts = Vec::new();
        self.0.retain(|_, known| {
            if known.missed >= 2 || (known.missed == 1 && known.told.is_none()) {
                alerts.extend(known.told.map(|_| Alert::over(&known.worry, now)));
                return false;
            }
            if known.heavier >= 2 {
                (known.told, known.heavier) = (Some(known.worry.severity), 0);
                alerts.push(Alert::raised(&known.worry, now));
            }
            true
        });
        alerts
    }
}

/// A sentence without what changes in it: numbers, and the cause behind a colon.
fn gist(text: &str) -> String {
    let sentence = text.split(": ").next().unwrap_or(text);
    sentence.chars().filter(|it| !it.is_ascii_digit()).collect()
}

/// Sends what comes, in order. A target that is away is tried again, for about half an hour.
async fn send(caller: Caller, url: Url, mut alerts: mpsc::Receiver<Alert>) {
    while let Some(alert) = alerts.recv().await {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
        while let Err(why) = caller.post(&url, &alert).await {
            if backoff.attempt() == 0 {
                log::warn!(
                    "HA_ALERT_URL ({}) does not take an alert: {why}; it is tried again",
                    url.origin()
                );
            }
            if backoff.attempt() == MOST_TRIES {
                log::error!(
                    "an alert is given up: HA_ALERT_URL ({}) does not take it",
                    url.origin()
                );
                break;
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

/// Calls while all is well.
async fn live(shared: Arc<Shared>, caller: Caller, url: Url) {
    shared.controller.loaded().await;
    let mut every = tokio::time::interval(ALIVE);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut fails = false;
    loop {
        every.tick().await;
        if Shared::health_known(&shared).await.status != "UP" {
            continue;
        }
        match caller.get(&url).await {
            Ok(()) => fails = false,
            Err(why) if !std::mem::replace(&mut fails, true) => {
                log::warn!("HA_ALIVE_URL ({}) cannot be called: {why}", url.origin());
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice;

    fn worry(subject: &str, text: &str) -> Worry {
        Worry {
            severity: Severity::Act,
            area: Area::Health,
            subject: subject.into(),
            badge: Some("Down".into()),
            text: text.into(),
            advice: "start it".into(),
            since: Timestamp::default(),
        }
    }

    #[test]
    fn what_stands_is_told_once_and_its_end_once_and_what_flickers_not_at_all() {
        let mut told = Told::default();
        let now = Timestamp::from_millis(1);
        let mut look = |worries: &[Worry]| {
            let alerts = told.changes(worries.to_vec(), now).into_iter();
            let said = alerts.map(|it| format!("{} {}", it.state, it.worry.subject));
            said.collect::<Vec<_>>()
        };
        let none: [String; 0] = [];
        let (docker, disk) = (worry("docker", "no answer"), worry("disk", "1 % free"));
        assert_eq!(look(slice::from_ref(&docker)), none);
        assert_eq!(look(&[docker.clone(), disk.clone()]), ["raised docker"]);
        assert_eq!(look(slice::from_ref(&docker)), none, "it flickers");
        assert_eq!(look(&[]), none, "it may be back at once");
        assert_eq!(look(slice::from_ref(&docker)), none);
        assert_eq!(look(&[docker.clone(), disk]), none);
        // Another number is the same worry.
        assert_eq!(
            look(&[docker.clone(), worry("disk", "0 % free")]),
            ["raised disk"]
        );
        assert_eq!(look(&[docker]), none);
        assert_eq!(look(&[]), ["over disk"]);
        assert_eq!(look(&[]), ["over docker"]);
        assert_eq!(look(&[]), none);
    }

    #[test]
    fn what_weighs_more_than_it_was_told_is_told_again_once_and_what_weighs_less_is_not() {
        use Severity::{Act, Look};
        let mut told = Told::default();
        let now = Timestamp::from_millis(1);
        let mut look = |severity: Option<Severity>| {
            let worries = severity.map(|severity| Worry {
                severity,
                ..worry("ses_A", "it has not been heard")
            });
            let alerts = told.changes(worries.into_iter().collect(), now);
            let said = alerts.iter().map(|it| (it.state, it.worry.severity));
            said.collect::<Vec<_>>()
        };
        assert_eq!(look(Some(Look)), []);
        assert_eq!(look(Some(Look)), [("raised", Look)]);
        assert_eq!(look(Some(Act)), []);
        assert_eq!(look(Some(Look)), [], "it flickers");
        assert_eq!(look(Some(Act)), []);
        assert_eq!(look(Some(Act)), [("raised", Act)]);
        for severity in [Act, Look, Look, Act, Act] {
            assert_eq!(look(Some(severity)), []);
        }
        assert_eq!(look(None), []);
        assert_eq!(look(None), [("over", Act)]);
        // One that weighs more from its second look on is told once.
        assert_eq!(look(Some(Look)), []);
        assert_eq!(look(Some(Act)), [("raised", Act)]);
        assert_eq!(look(Some(Act)), []);
    }

    #[test]
    fn an_alert_is_a_sentence_for_a_chat_and_the_whole_worry() {
        let alert = Alert::raised(
            &worry("docker", "Docker does not answer"),
            Timestamp::default(),
        );
        let said = serde_json::to_value(&alert).unwrap();
        assert_eq!(
            said["text"],
            "ov2-ha-recorder: Act: Docker does not answer. To do: start it"
        );
        assert_eq!(
            (said["state"].as_str(), said["worry"]["subject"].as_str()),
            (Some("raised"), Some("docker"))
        );
    }
}
