//! What the monitor knows of the controller: sessions, overview, what the controller judges, and whether the line to it
//! stands. Answers the rows to show; whether all is well it judges only where there is no line.

use crate::clock::Timestamp;
use crate::model::failover::Failover;
use crate::model::ids::RunNumber;
use crate::model::session::{State, Status};
use crate::model::view::{News, Overview};
use crate::model::wire::Report;
use crate::model::worry::{Area, Judgement, Severity, Worry};
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

/// What the controller judges of a session.
struct Judged {
    severity: Severity,
    badge: Option<String>,
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
    judgement: Option<Judgement>,
    /// What the judgement says of each session that it speaks of.
    judged: BTreeMap<String, Judged>,
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
        if let Some(judgement) = news.judgement {
            self.judged = judged(&judgement.worries);
            self.judgement = Some(judgement);
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
        let wanted = self.search.to_lowercase();
        let weight = |session: &Seen| self.severity(session);
        let mut rows = self
            .sessions
            .values()
            .filter(|session| {
                let text = format!("{} {}", session.name(), session.session_id).to_lowercase();
                text.contains(&wanted)
                    && match self.filter {
                        Filter::All => true,
                        Filter::Attention => weight(session).is_some(),
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

    /// What the controller worries about, the heaviest first.
    pub(super) fn worries(&self) -> &[Worry] {
        self.judgement.as_ref().map_or(&[], |it| &it.worries)
    }

    /// How much the heaviest worry about a session weighs.
    pub(super) fn severity(&self, session: &Seen) -> Option<Severity> {
        self.judged.get(&session.session_id).map(|it| it.severity)
    }

    /// What a session does, in a word.
    pub(super) fn condition(&self, session: &Seen) -> &str {
        let judged = self.judged.get(&session.session_id);
        judged
            .and_then(|it| it.badge.as_deref())
            .unwrap_or(match session.status {
                Status::Starting => "Starting",
                Status::Recording => "Recording",
                Status::Paused => "Paused",
                Status::Stopping => "Stopping",
                Status::Completed => "Completed",
                Status::Failed => "Failed",
                Status::Inactive => "Inactive",
            })
    }

    /// Whether all is well, in words; none where it is not known.
    pub(super) fn verdict(&self, now: Timestamp) -> (Option<Severity>, String) {
        match (&self.link, &self.judgement) {
            (Link::Lost { since, why }, _) => {
                let ago = span(now.since(*since));
                let text = format!("The controller does not answer, since {ago}: {why}");
                (Some(Severity::Act), text)
            }
            (_, None) => (Some(Severity::Look), "Asking the controller".to_owned()),
            (_, Some(it)) => (it.severity, format!("{} {}", it.verdict, it.more)),
        }
    }
}

/// What the controller's worries say of each session; they come with the heaviest first.
fn judged(worries: &[Worry]) -> BTreeMap<String, Judged> {
    let mut judged = BTreeMap::new();
    for worry in worries.iter().filter(|it| it.area == Area::Session) {
        let of_it = judged.entry(worry.subject.clone()).or_insert(Judged {
            severity: worry.severity,
            badge: None,
        });
        if of_it.badge.is_none() {
            of_it.badge.clone_from(&worry.badge);
        }
    }
    judged
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
    fn the_controllers_verdict_is_shown_and_a_lost_line_is_judged_here() {
        let mut known = Known::default();
        let seen = session(
            json!({ "state": "recording", "since": "2026-01-01T00:00:02Z" }),
            json!([]),
        );
        let worry = json!({
            "severity": "act", "area": "session", "subject": "ses_A", "badge": "Silent",
            "text": "ses_A has not been heard", "advice": "nothing", "since": "2026-01-01T00:01:00Z",
        });
        let judgement = json!({
            "severity": "act", "verdict": "1 problem needs attention.", "more": "1 recording is running.", "worries": [worry],
        });
        let news = News {
            sessions: vec![seen.clone()],
            judgement: serde_json::from_value(judgement).ok(),
            ..News::default()
        };
        assert_eq!(known.condition(&seen), "Recording");
        known.take(true, news, at(61));
        let wanted = "1 problem needs attention. 1 recording is running.".to_owned();
        assert_eq!(known.verdict(at(61)), (Some(Severity::Act), wanted));
        assert_eq!(known.condition(&seen), "Silent");
        assert_eq!(known.severity(&seen), Some(Severity::Act));
        known.filter = Filter::Attention;
        assert_eq!(known.rows().len(), 1);
        known.lose("gone".into(), at(130));
        assert!(known.verdict(at(140)).1.contains("since 10 s"));
    }

    #[test]
    fn times_are_as_people_read_them() {
        assert_eq!(span(Duration::from_secs(3_725)), "1 h 2 min");
    }
}
