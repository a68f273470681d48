//! What the monitor knows of the controller: sessions, overview, and whether the line to it stands. Answers the rows to show
//! and whether all is well, in words.

use crate::clock::Timestamp;
use crate::model::failover::Failover;
use crate::model::ids::RunNumber;
use crate::model::session::{State, Status};
use crate::model::view::{News, Overview};
use crate::model::wire::Report;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A session as the API shows it, as far as it is shown here.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seen {
    pub(super) session_id: String,
    pub(super) video_name: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: Option<String>,
    pub(super) status: Status,
    pub(super) active: bool,
    pub(super) created_at: Timestamp,
    pub(super) last_heartbeat: Timestamp,
    pub(super) run: RunNumber,
    pub(super) state: State,
    pub(super) report: Report,
    pub(super) failovers: Vec<Failover>,
    pub(super) recording_path: Option<String>,
}

/// The line to the controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    #[default]
    Connecting,
    Live,
    Lost {
        since: Timestamp,
        why: String,
    },
}

/// Which sessions are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Filter {
    #[default]
    All,
    Attention,
    Active,
    Ended,
}

/// In which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Attention,
    Newest,
    Name,
    Silence,
}

/// How much a worry weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    Well,
    Look,
    Act,
}

/// A piece of a session's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    /// The run that recorded it; none in a gap.
    pub(super) run: Option<RunNumber>,
}

/// Everything that is known.
#[derive(Default)]
pub(super) struct Known {
    sessions: BTreeMap<String, Seen>,
    pub(super) overview: Option<Overview>,
    pub(super) link: Link,
    pub(super) filter: Filter,
    pub(super) sort: Sort,
    pub(super) search: String,
    /// The controller's clock before ours, in milliseconds.
    ahead: i64,
}

impl Filter {
    pub(super) const fn next(self) -> Self {
        match self {
            Self::All => Self::Attention,
            Self::Attention => Self::Active,
            Self::Active => Self::Ended,
            Self::Ended => Self::All,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::All => "All",
            Self::Attention => "Attention",
            Self::Active => "Recording",
            Self::Ended => "Ended",
        }
    }
}

impl Sort {
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Attention => Self::Newest,
            Self::Newest => Self::Name,
            Self::Name => Self::Silence,
            Self::Silence => Self::Attention,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention first",
            Self::Newest => "newest first",
            Self::Name => "by name",
            Self::Silence => "longest silent",
        }
    }
}

impl Seen {
    pub(super) fn name(&self) -> &str {
        let given = self.video_name.as_deref().filter(|name| !name.is_empty());
        given.unwrap_or(&self.session_id)
    }

    pub(super) const fn over(&self) -> bool {
        matches!(
            self.status,
            Status::Completed | Status::Failed | Status::Inactive
        )
    }

    pub(super) const fn since(&self) -> Timestamp {
        match &self.state {
            State::Starting { since }
            | State::Recording { since }
            | State::TakingOver { since, .. }
            | State::Paused { since }
            | State::Stopping { since } => *since,
            State::Completed { at }
            | State::Failed { at, .. }
            | State::GivenUp { at, .. }
            | State::Inactive { at } => *at,
        }
    }

    /// Run after run with the gaps between them, as far as the controller knows.
    pub(super) fn pieces(&self, now: Timestamp) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut cursor = self.created_at;
        for one in &self.failovers {
            let end = cursor.max(one.well_until.min(one.at));
            let back = one
                .recovery_ms
                .map(|ms| one.at.plus(Duration::from_millis(ms)));
            let resumed = end.max(back.unwrap_or(if self.over() { one.at } else { now }));
            pieces.push(Piece {
                from: cursor,
                to: end,
                run: Some(one.old_run),
            });
            pieces.push(Piece {
                from: end,
                to: resumed,
                run: None,
            });
            cursor = resumed;
        }
        let open = self
            .failovers
            .last()
            .is_some_and(|one| one.recovery_ms.is_none());
        let silent = if self.status == Status::Starting {
            cursor
        } else {
            self.last_heartbeat
        };
        let newest = self
            .report
            .newest_frame_at
            .unwrap_or(silent)
            .min(now)
            .max(cursor);
        pieces.push(Piece {
            from: cursor,
            to: newest,
            run: Some(self.run),
        });
        if matches!(self.state, State::TakingOver { .. }) && !open {
            pieces.push(Piece {
                from: newest,
                to: now,
                run: None,
            });
        }
        pieces.retain(|piece| piece.to > piece.from);
        pieces
    }
}

impl Known {
    pub(super) fn take(&mut self, whole: bool, news: News<Seen>, now: Timestamp) {
        if whole {
            self.sessions.clear();
        }
        for session in news.sessions {
            self.sessions.insert(session.session_id.clone(), session);
        }
        for id in news.removed {
            self.sessions.remove(&id);
        }
        if let Some(overview) = news.overview {
            self.ahead = overview.now.millis() - now.millis();
            self.overview = Some(overview);
        }
        self.link = Link::Live;
    }

    pub(super) fn lose(&mut self, why: String, now: Timestamp) {
        let since = match self.link {
            Link::Lost { since, .. } => since,
            _ => now,
        };
        self.link = Link::Lost { since, why };
    }

    /// The controller's time.
    pub(super) const fn time(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_millis(now.millis() + self.ahead)
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = &Seen> {
        self.sessions.values()
    }

    /// The rows to show, in order.
    pub(super) fn rows(&self) -> Vec<&Seen> {
        let now = self.time(crate::clock::Clock::now(&crate::clock::SystemClock));
        let wanted = self.search.to_lowercase();
        let weight = |session: &Seen| self.worry(session, now).map_or(Weight::Well, |it| it.0);
        let mut rows = self
            .sessions
            .values()
            .filter(|session| {
                let text = format!("{} {}", session.name(), session.session_id).to_lowercase();
                text.contains(&wanted)
                    && match self.filter {
                        Filter::All => true,
                        Filter::Attention => weight(session) > Weight::Well,
                        Filter::Active => session.active,
                        Filter::Ended => session.over(),
                    }
            })
            .collect::<Vec<_>>();
        rows.sort_by(|a, b| match self.sort {
            Sort::Attention => {
                let key = |it: &Seen| {
                    (
                        std::cmp::Reverse(weight(it)),
                        it.over(),
                        std::cmp::Reverse(it.created_at),
                    )
                };
                key(a).cmp(&key(b))
            }
            Sort::Newest => b.created_at.cmp(&a.created_at),
            Sort::Name => a.name().cmp(b.name()),
            Sort::Silence => a.last_heartbeat.cmp(&b.last_heartbeat),
        });
        rows
    }

    fn patience(&self) -> Duration {
        let seconds = self
            .overview
            .as_ref()
            .map_or(30, |it| it.heartbeat_timeout_seconds);
        Duration::from_secs(u64::from(seconds))
    }

    /// What a session does, in a word.
    pub(super) fn condition(&self, session: &Seen, now: Timestamp) -> &'static str {
        match session.state {
            State::TakingOver { .. } => "Taking over",
            _ if session.active && now.since(session.last_heartbeat) > self.patience() => "Silent",
            State::Starting { .. } => "Starting",
            State::Recording { .. } => "Recording",
            State::Paused { .. } => "Paused",
            State::Stopping { .. } => "Stopping",
            State::Completed { .. } => "Completed",
            State::Failed { .. } | State::GivenUp { .. } => "Failed",
            State::Inactive { .. } => "Inactive",
        }
    }

    /// What is wrong with a session. The controller acts by itself; only when that takes too long must a person.
    pub(super) fn worry(&self, session: &Seen, now: Timestamp) -> Option<(Weight, String)> {
        let name = session.name();
        let late = |since: Timestamp, limit: Duration| {
            if now.since(since) > limit {
                Weight::Act
            } else {
                Weight::Look
            }
        };
        match (&session.state, self.condition(session, now)) {
            (State::Failed { why, .. } | State::GivenUp { why, .. }, _) => {
                Some((Weight::Act, format!("{name} was given up: {why}")))
            }
            (State::TakingOver { since, reason, .. }, _) => Some((
                late(*since, self.patience()),
                format!("{name} lost its recorder ({reason}); another is being started"),
            )),
            (_, "Silent") => Some((
                late(session.last_heartbeat, 2 * self.patience()),
                format!(
                    "{name} has not been heard for {}",
                    span(now.since(session.last_heartbeat))
                ),
            )),
            _ if session.over() => None,
            _ => session
                .report
                .troubles
                .first()
                .map(|trouble| (Weight::Look, format!("{name}: {}", trouble.message))),
        }
    }

    /// Everything that is wrong, the worst first.
    pub(super) fn worries(&self, now: Timestamp) -> Vec<(Weight, String)> {
        let mut worries = self
            .sessions()
            .filter_map(|it| self.worry(it, now))
            .collect::<Vec<_>>();
        if let Some(overview) = &self.overview {
            for (name, part) in &overview.health.components {
                if part.status == "DOWN" {
                    let error = part.details.get("error").and_then(|it| it.as_str());
                    let error = error.unwrap_or("no cause given");
                    worries.push((Weight::Act, format!("{name} is down: {error}")));
                }
            }
            if overview.outbox.dead > 0 {
                let text = format!("{} webhooks were given up", overview.outbox.dead);
                worries.push((Weight::Look, text));
            }
        }
        worries.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        worries
    }

    /// Whether all is well, in words.
    pub(super) fn verdict(&self, worries: &[(Weight, String)], now: Timestamp) -> (Weight, String) {
        if let Link::Lost { since, why } = &self.link {
            let ago = span(now.since(*since));
            return (
                Weight::Act,
                format!("The controller does not answer, since {ago}: {why}"),
            );
        }
        let running = self
            .sessions()
            .filter(|it| it.status == Status::Recording)
            .count();
        let runs = match running {
            0 => "Nothing is being recorded.".to_owned(),
            1 => "1 recording is running.".to_owned(),
            many => format!("{many} recordings are running."),
        };
        let acute = worries
            .iter()
            .filter(|(weight, _)| *weight == Weight::Act)
            .count();
        match (acute, worries.len()) {
            _ if self.overview.is_none() => (Weight::Look, "Asking the controller".to_owned()),
            (0, 0) => (Weight::Well, format!("All is well. {runs}")),
            (0, 1) => (Weight::Look, format!("1 thing is worth a look. {runs}")),
            (0, many) => (
                Weight::Look,
                format!("{many} things are worth a look. {runs}"),
            ),
            (1, _) => (Weight::Act, format!("1 thing needs you. {runs}")),
            (many, _) => (Weight::Act, format!("{many} things need you. {runs}")),
        }
    }
}

/// A time in words, two units at most.
pub(super) fn span(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86400, s % 86400 / 3600),
    }
}

/// Bytes with a unit.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 10.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    pub(in super::super) fn session(
        state: serde_json::Value,
        failovers: serde_json::Value,
    ) -> Seen {
        serde_json::from_value(json!({
            "sessionId": "ses_A", "clientId": "r", "status": "RECORDING", "active": true,
            "createdAt": "2026-01-01T00:00:00Z", "lastHeartbeat": "2026-01-01T00:01:00Z", "run": 2,
            "state": state, "failovers": failovers,
            "report": { "chunk": 6, "bytes": 1_500_000, "newestFrameAt": "2026-01-01T00:01:00Z" },
        }))
        .unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_767_225_600_000 + seconds * 1000)
    }

    #[test]
    fn a_failover_leaves_a_gap_between_two_runs() {
        let one = json!([{
            "at": "2026-01-01T00:00:31Z", "wellUntil": "2026-01-01T00:00:30Z", "reason": { "kind": "died", "code": 137 },
            "oldRun": 1, "oldContainer": null, "newContainer": null, "chunksRecovered": 3, "startMs": 40, "recoveryMs": 2000,
        }]);
        let seen = session(
            json!({ "state": "recording", "since": "2026-01-01T00:00:02Z" }),
            one,
        );
        let pieces = seen.pieces(at(61));
        let shown = pieces
            .iter()
            .map(|it| (it.to.since(it.from).as_secs(), it.run.map(|run| run.0)));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [(30, Some(1)), (3, None), (27, Some(2))]
        );
    }

    #[test]
    fn the_verdict_says_what_needs_a_person() {
        let overview = json!({
            "version": "1", "startedAt": "2026-01-01T00:00:00Z", "now": "2026-01-01T00:01:01Z", "viewer": false,
            "health": { "status": "UP" }, "outbox": { "enabled": false, "pending": 0, "dead": 0 },
            "chunkSeconds": 10, "heartbeatTimeoutSeconds": 30, "storage": "local", "recordingsVersion": 0,
        });
        let mut known = Known::default();
        let seen = session(
            json!({ "state": "recording", "since": "2026-01-01T00:00:02Z" }),
            json!([]),
        );
        let news = News {
            sessions: vec![seen],
            removed: Vec::new(),
            overview: serde_json::from_value(overview).ok(),
        };
        known.take(true, news, at(61));
        let said = |known: &Known, now| known.verdict(&known.worries(now), now);
        assert_eq!(
            said(&known, at(61)),
            (
                Weight::Well,
                "All is well. 1 recording is running.".to_owned()
            )
        );
        assert_eq!(said(&known, at(95)).0, Weight::Look);
        assert_eq!(said(&known, at(125)).0, Weight::Act);
        known.lose("gone".into(), at(130));
        assert!(said(&known, at(140)).1.contains("since 10 s"));
    }

    #[test]
    fn numbers_are_as_people_read_them() {
        assert_eq!(
            (bytes(999), bytes(1_500_000), bytes(25_000_000)),
            ("999 B".into(), "1.5 MB".into(), "25 MB".into())
        );
        assert_eq!(span(Duration::from_secs(3_725)), "1 h 2 min");
    }
}
