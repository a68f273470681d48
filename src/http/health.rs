//! How the parts are that recording and failover need. Health is asked for every second by somebody, so what costs something
//! to find out is found out at most every few seconds, by one probe of a part at a time: a part that hangs holds one task,
//! and nobody waits for it longer than its deadline.

use super::{Shared, exposure};
use crate::clock::Timestamp;
use crate::config::{RuntimeKind, Storage};
use crate::controller::RuntimeState;
use crate::db::outbox::Counts;
use crate::model::ids::RecordingId;
use crate::model::view::{Component, Health, OutboxView};
use crate::model::worry::{bytes, count};
use futures_util::FutureExt;
use log::debug;
use nix::sys::statvfs::{Statvfs, statvfs};
use serde_json::{Map, Value, json as value};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// How long a part may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// For who shows health all the time, what was found out so recently will do while it is found out anew.
const RECENT: Duration = Duration::from_secs(60);
/// With less room than this on the recordings' disk a recording is in danger.
const LEAST_ROOM: u64 = 512 * 1024 * 1024;
/// With less room than this on the data directory's disk sessions and webhooks are in danger.
const LEAST_ROOM_FOR_DATA: u64 = 64 * 1024 * 1024;
/// A webhook that waits longer than this is a matter for a person.
const OLD: Duration = Duration::from_secs(3600);

/// What is found out about one or two parts together.
#[derive(Clone, Copy, Debug)]
enum Probe {
    Store,
    Runtime,
    Recordings,
    Database,
}

type Parts = Vec<(&'static str, Component)>;

/// What a probe found, and whether it is under way.
#[derive(Clone, Default)]
struct Answer {
    /// Since when it is under way.
    asked_at: Option<Duration>,
    /// What it found last, and when.
    found: Option<(Duration, Parts)>,
}

/// What is known of the parts.
pub(super) struct Known([(Probe, watch::Sender<Answer>); 4]);

impl Default for Known {
    fn default() -> Self {
        let probes = [
            Probe::Store,
            Probe::Runtime,
            Probe::Recordings,
            Probe::Database,
        ];
        Self(probes.map(|probe| (probe, watch::Sender::default())))
    }
}

impl Probe {
    /// How long what was found out holds. Docker is at hand and its hang must be seen soon; a store may cost money.
    const fn holds(self) -> Duration {
        match self {
            Self::Runtime => Duration::from_millis(500),
            Self::Store | Self::Recordings | Self::Database => Duration::from_secs(5),
        }
    }

    /// What is said while it does not answer.
    fn hangs(self, shared: &Shared) -> Parts {
        let seconds = PATIENCE.as_secs();
        let (names, what, advice) = match self {
            Self::Store => (
                vec![shared.store_name()],
                "the chunk store",
                "recordings go on from local files; \"ov2-ha-recorder test-s3\" goes through it step by step",
            ),
            Self::Runtime => (
                vec!["docker"],
                "the runtime",
                "see \"systemctl status docker\"",
            ),
            Self::Recordings => (
                match shared.settings.storage {
                    Storage::Local => vec!["disk"],
                    Storage::S3 => vec!["disk", "store"],
                },
                "the recordings folder",
                "its disk or its mount hangs; see the kernel's log",
            ),
            Self::Database => (
                vec!["database"],
                "the data directory",
                "its disk or its mount hangs; see the kernel's log",
            ),
        };
        let sentence = format!("{what} does not answer within {seconds} s: {advice}");
        let names = names.into_iter();
        names.map(|name| (name, down(&sentence))).collect()
    }
}

impl Shared {
    /// How everything is now. Waits for parts that are slow, as long as they may take.
    pub(super) async fn health(shared: &Arc<Self>) -> Health {
        Self::health_of_age(shared, Duration::ZERO).await
    }

    /// How everything is as far as it is known by now: for who shows it all the time, and must wait for no part.
    pub(super) async fn health_known(shared: &Arc<Self>) -> Health {
        Self::health_of_age(shared, RECENT).await
    }

    async fn health_of_age(shared: &Arc<Self>, age: Duration) -> Health {
        let probes = shared.health.0.iter();
        let asked = probes.map(|(probe, known)| shared.answer(*probe, known, age));
        let found = futures_util::future::join_all(asked).await;
        let mut vital: Parts = Vec::new();
        for ((probe, _), parts) in shared.health.0.iter().zip(found) {
            match parts.is_empty() {
                // A probe that broke or was given up has found nothing, which is not well.
                true => vital.extend(probe.hangs(shared)),
                false => vital.extend(parts),
            }
        }
        vital.push(("contact", shared.contact_health()));
        if shared.exposed.load(Ordering::Relaxed) {
            vital.push(("settings", down(exposure::WARNING)));
        }
        let well = vital.iter().all(|(_, part)| part.status == "UP");
        // Recording and failover go on without the relay: its part never brings the whole down.
        let parts = vital
            .into_iter()
            .chain([("outbox", shared.outbox_health())]);
        Health {
            status: word(well).to_owned(),
            components: parts.map(|(name, part)| (name.to_owned(), part)).collect(),
        }
    }

    /// What a probe found; begun anew where its last answer does not hold any more, and waited for where that is older than
    /// `age` besides.
    async fn answer(
        self: &Arc<Self>,
        probe: Probe,
        known: &watch::Sender<Answer>,
        age: Duration,
    ) -> Parts {
        self.ask(probe, known);
        let mut answers = known.subscribe();
        let (asked_at, found) = {
            let answer = answers.borrow_and_update();
            (answer.asked_at, answer.found.clone())
        };
        let Some(asked_at) = asked_at else {
            return found.map(|(_, parts)| parts).unwrap_or_default();
        };
        let asked_for = self.clock.uptime().saturating_sub(asked_at);
        let left = PATIENCE.saturating_sub(asked_for);
        if let Some((at, parts)) = found
            && !left.is_zero()
            && self.clock.uptime().saturating_sub(at) < age
        {
            return parts;
        }
        let answered = answers.wait_for(|it| it.asked_at.is_none());
        match tokio::time::timeout(left, answered).await {
            Ok(Ok(answer)) => answer
                .found
                .as_ref()
                .map(|it| it.1.clone())
                .unwrap_or_default(),
            _ => probe.hangs(self),
        }
    }

    /// Begins a probe unless it is under way or what it found holds.
    fn ask(self: &Arc<Self>, probe: Probe, known: &watch::Sender<Answer>) {
        let now = self.clock.uptime();
        let begins = known.send_if_modified(|answer| {
            let holds = |at: Duration| now.saturating_sub(at) < probe.holds();
            let begins = answer.asked_at.is_none()
                && !answer.found.as_ref().is_some_and(|(at, _)| holds(*at));
            if begins {
                answer.asked_at = Some(now);
            }
            begins
        });
        if !begins {
            return;
        }
        let (shared, known, ended) = (Arc::clone(self), known.clone(), self.tasks.token());
        self.tasks.spawn(format!("{probe:?} probe"), async move {
            // sled panics over some of what it finds; the probe must not be under way for ever.
            let probing = AssertUnwindSafe(shared.probe(probe)).catch_unwind();
            let found = ended.run_until_cancelled(probing).await;
            let found = found.map(Result::unwrap_or_default);
            let at = shared.clock.uptime();
            known.send_modify(|answer| {
                answer.asked_at = None;
                answer.found = found.map(|parts| (at, parts)).or(answer.found.take());
            });
        });
    }

    async fn probe(&self, probe: Probe) -> Parts {
        match probe {
            // It holds no thread: what takes too long is given up.
            Probe::Store => {
                let asked = tokio::time::timeout(PATIENCE, self.store_health()).await;
                let found = asked.map(|part| vec![(self.store_name(), part)]);
                found.unwrap_or_default()
            }
            Probe::Runtime => self.runtime_health().await,
            Probe::Recordings => self.recordings_health().await,
            Probe::Database => vec![("database", self.database_health().await)],
        }
    }

    /// The part under which the chunk store is shown.
    fn store_name(&self) -> &'static str {
        match self.settings.storage {
            Storage::Local => "store",
            Storage::S3 => "s3",
        }
    }

    async fn store_health(&self) -> Component {
        match self.store.probe().await {
            Ok(()) => up(
                &format!("chunks can be stored ({})", self.storage()),
                [
                    ("storage", value!(self.storage())),
                    ("unverified", value!(self.controller.unverified().len())),
                ],
            ),
            Err(cause) => down(&cause.to_string()),
        }
    }

    async fn runtime_health(&self) -> Parts {
        match self.controller.health().await.runtime {
            Err(cause) => vec![("docker", down(&cause))],
            Ok(runtime) => runtime_parts(self.settings.runtime, &runtime),
        }
    }

    /// The disk of the recordings and, where chunks go to S3, their folder. A mount may hang: not on the runtime's threads.
    async fn recordings_health(&self) -> Parts {
        let (path, storage) = (self.settings.recording_path.clone(), self.settings.storage);
        let look = move || match storage {
            Storage::Local => vec![
                ("disk", disk(&path)),
                ("s3", off("off: chunks stay on this machine")),
            ],
            Storage::S3 => vec![("disk", disk(&path)), ("store", recordings_folder(&path))],
        };
        self.on_a_thread("look at the recordings folder", look)
            .await
    }

    async fn database_health(&self) -> Component {
        let path = self.controller.data_dir().to_owned();
        let look = move || vec![("database", data_disk(&path))];
        let found = self.on_a_thread("look at the data directory", look).await;
        let room = found.into_iter().next().map(|(_, part)| part);
        match (self.controller.try_database().await, room) {
            (_, Some(room)) if room.status != "UP" => room,
            (Err(cause), _) => down(&cause.to_string()),
            (Ok(()), room) => Component {
                summary: "takes writes".to_owned(),
                ..room.unwrap_or_else(|| up("", []))
            },
        }
    }

    async fn on_a_thread(
        &self,
        name: &str,
        look: impl FnOnce() -> Parts + Send + 'static,
    ) -> Parts {
        let looked = self.tasks.spawn_blocking(name, look).await;
        looked.unwrap_or_else(|cause| {
            debug!("{cause}");
            Parts::new()
        })
    }

    /// A recorder that cannot be heard records on, but its faults are seen late and a controller's word does not reach it.
    fn contact_health(&self) -> Component {
        let deaf = self.controller.deaf();
        let unprotected = self.controller.unprotected();
        let named = |ids: &[RecordingId]| {
            let some = ids.iter().take(3).map(ToString::to_string);
            some.collect::<Vec<_>>().join(", ")
        };
        let details = [
            ("unheard", value!(deaf.len())),
            ("unprotected", value!(unprotected.len())),
        ];
        if deaf.is_empty() && unprotected.is_empty() {
            return up("every recording is watched over", details);
        }
        if deaf.is_empty() {
            let what = count(
                unprotected.len(),
                "recording is not protected",
                "recordings are not protected",
            );
            let part = down(&format!(
                "{what} ({}); \"ov2-ha-recorder health\" and the status page say what to do",
                named(&unprotected)
            ));
            return with_details(part, details);
        }
        let part = down(&format!(
            "no heartbeat arrives from {} of the recorders that record ({}); \"ov2-ha-recorder validate\" tries the address and \
             the token that they are told",
            deaf.len(),
            named(&deaf)
        ));
        with_details(part, details)
    }

    fn outbox_health(&self) -> Component {
        let set_aside = self.outbox.set_aside();
        if !set_aside.is_empty() {
            return down(&format!(
                "{}; the service's next start clears this",
                set_aside.join("; ")
            ));
        }
        let now = self.clock.now();
        let age = self.oldest_pending().map(|at| now.since(at));
        let delivered_at = self.relay.tally().last_success_at;
        outbox(&self.outbox.counts(), age, delivered_at)
    }

    /// The webhooks at a glance.
    pub(super) fn outbox_view(&self) -> OutboxView {
        let counts = self.outbox.counts();
        let tally = self.relay.tally();
        OutboxView {
            enabled: self.settings.relay_on(),
            pending: counts.pending,
            dead: counts.dead,
            oldest_pending_at: self.oldest_pending(),
            last_error: tally.last_error,
            last_error_at: tally.last_failure_at,
        }
    }

    /// Looked up on disk only where there is one.
    pub(super) fn oldest_pending(&self) -> Option<Timestamp> {
        (self.outbox.counts().pending > 0).then(|| self.outbox.oldest_pending())?
    }

    /// Where chunks are kept, for a person.
    pub(super) fn storage(&self) -> String {
        self.settings.store_place()
    }
}

/// The runtime, and the recording image where one is used.
fn runtime_parts(kind: RuntimeKind, runtime: &RuntimeState) -> Parts {
    let said = match kind {
        RuntimeKind::Docker => format!("Docker {} answers", runtime.version),
        RuntimeKind::Process => "recorders run as processes".to_owned(),
    };
    let name = runtime.image.as_ref().map(|it| it.name.as_str());
    let present = runtime.image.as_ref().map(|it| it.state.is_present());
    let docker = up(
        &said,
        [
            ("kind", value!(runtime.kind)),
            ("version", value!(runtime.version)),
            ("image", value!(name)),
            ("imagePresent", value!(present)),
        ],
    );
    let image = runtime.image.as_ref().map(|image| {
        let part = match image.fault() {
            Some((fault, advice)) => down(&format!("{fault}; {advice}")),
            None => up(&image.to_string(), []),
        };
        ("image", with_details(part, [("name", value!(image.name))]))
    });
    [("docker", docker)].into_iter().chain(image).collect()
}

/// The outbox by what is in it, the age of the oldest that waits, and when something was delivered last. That it dropped
/// some is over when its target takes webhooks again.
fn outbox(counts: &Counts, age: Option<Duration>, delivered_at: Option<Timestamp>) -> Component {
    let waiting = match usize::try_from(counts.pending).unwrap_or(usize::MAX) {
        0 => "no webhook waits".to_owned(),
        number => count(number, "webhook waits", "webhooks wait"),
    };
    let drops = counts
        .dropped_at
        .is_some_and(|at| delivered_at.is_none_or(|delivered_at| delivered_at <= at));
    let part = match age {
        _ if drops => down(&format!(
            "it is full and the oldest webhooks were dropped, {} in all; repair their target or raise \
             HA_WEBHOOK_OUTBOX_MAX_BYTES",
            counts.dropped
        )),
        Some(age) if age > OLD => down(&format!(
            "{waiting}, the oldest for longer than {} minutes; repair their target",
            OLD.as_secs() / 60
        )),
        _ => up(&waiting, []),
    };
    with_details(
        part,
        [
            ("pending", value!(counts.pending)),
            ("dead", value!(counts.dead)),
            ("dropped", value!(counts.dropped)),
            ("bytes", value!(counts.bytes)),
            ("oldestPendingSeconds", value!(age.map(|it| it.as_secs()))),
        ],
    )
}

fn word(well: bool) -> &'static str {
    if well { "UP" } else { "DOWN" }
}

fn up<const N: usize>(summary: &str, details: [(&str, Value); N]) -> Component {
    let part = Component {
        status: "UP".to_owned(),
        summary: summary.to_owned(),
        details: Map::new(),
    };
    with_details(part, details)
}

fn off(summary: &str) -> Component {
    up(summary, [("enabled", value!(false))])
}

fn down(error: &str) -> Component {
    Component {
        status: "DOWN".to_owned(),
        summary: error.to_owned(),
        details: Map::from_iter([("error".to_owned(), value!(error))]),
    }
}

fn with_details<const N: usize>(mut part: Component, details: [(&str, Value); N]) -> Component {
    let named = details.map(|(name, value)| (name.to_owned(), value));
    part.details.extend(named);
    part
}

fn recordings_folder(path: &Path) -> Component {
    match nix::unistd::access(path, nix::unistd::AccessFlags::W_OK) {
        Ok(()) => up(
            "the recordings folder can be written",
            [("path", value!(path))],
        ),
        Err(cause) => down(&format!(
            "cannot write {}: {cause}; see OPENVIDU_RECORDING_PATH",
            path.display()
        )),
    }
}

fn disk(path: &Path) -> Component {
    match statvfs(path) {
        Ok(disk) => room(
            &disk,
            path,
            LEAST_ROOM,
            "make room: an hour of 720p takes about half a GiB, twice while it is joined",
        ),
        Err(cause) => down(&format!(
            "cannot look at the disk of {}: {cause}; see OPENVIDU_RECORDING_PATH",
            path.display()
        )),
    }
}

fn data_disk(path: &Path) -> Component {
    match statvfs(path) {
        Ok(disk) => room(
            &disk,
            path,
            LEAST_ROOM_FOR_DATA,
            "make room: sessions and webhooks are kept there",
        ),
        Err(cause) => down(&format!(
            "cannot look at the disk of the data directory {}: {cause}; see --data-dir",
            path.display()
        )),
    }
}

/// A disk with its numbers; down when less than `least` is free.
fn room(disk: &Statvfs, path: &Path, least: u64, advice: &str) -> Component {
    let free = disk.blocks_available() * disk.fragment_size();
    let total = disk.blocks() * disk.fragment_size();
    let said = format!("{} of {} free", bytes(free), bytes(total));
    let part = match free > least {
        true => up(&said, []),
        false => down(&format!(
            "{said} on the disk of {}; {advice}",
            path.display()
        )),
    };
    with_details(
        part,
        [
            ("free", value!(free)),
            ("total", value!(total)),
            ("threshold", value!(least)),
            ("path", value!(path)),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Image, ImageState};

    #[test]
    fn a_folder_that_is_not_there_is_down_with_a_sentence() {
        let part = disk(Path::new("/no/such/folder"));
        assert_eq!(part.status, "DOWN");
        assert!(part.summary.contains("OPENVIDU_RECORDING_PATH"));
        let part = data_disk(Path::new("/no/such/folder"));
        assert!(part.summary.contains("--data-dir"), "{}", part.summary);
    }

    #[test]
    fn a_disk_without_room_is_down_with_its_numbers_and_what_to_do() {
        let disk = statvfs("/").unwrap();
        let part = room(&disk, Path::new("/"), u64::MAX, "make room");
        assert_eq!(part.status, "DOWN");
        assert!(part.summary.ends_with("make room"), "{}", part.summary);
        assert_eq!(part.details["error"], part.summary.as_str());
        assert_eq!(room(&disk, Path::new("/"), 0, "make room").status, "UP");
    }

    #[test]
    fn an_image_that_is_missing_or_not_ours_is_down_and_docker_is_not() {
        for (state, status, words) in [
            (ImageState::Ours, "UP", "recorder:1 is ours"),
            (ImageState::Foreign, "DOWN", "is OpenVidu's own"),
            (ImageState::Missing, "DOWN", "is not there"),
        ] {
            let name = "recorder:1".to_owned();
            let state = RuntimeState {
                kind: "docker",
                version: "20.10".into(),
                image: Some(Image { name, state }),
            };
            let parts = runtime_parts(RuntimeKind::Docker, &state);
            assert_eq!((parts[0].0, &*parts[0].1.status), ("docker", "UP"));
            assert_eq!((parts[1].0, &*parts[1].1.status), ("image", status));
            assert!(parts[1].1.summary.contains(words), "{}", parts[1].1.summary);
        }
    }

    #[test]
    fn an_outbox_that_dropped_webhooks_is_well_again_once_one_was_delivered() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        let counts = Counts {
            dropped: 3,
            dropped_at: Some(at(9)),
            ..Counts::default()
        };
        for (delivered_at, status) in [(None, "DOWN"), (Some(at(8)), "DOWN"), (Some(at(10)), "UP")]
        {
            let part = outbox(&counts, None, delivered_at);
            assert_eq!(part.status, status, "{delivered_at:?}");
            assert_eq!(part.details["dropped"], 3);
        }
        let old = outbox(&Counts::default(), Some(2 * OLD), None);
        assert_eq!(old.status, "DOWN");
    }
}
