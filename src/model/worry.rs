//! Whether all is well, in words: what a person must know, and the verdict over all of it. It is judged where everything is
//! known, in the controller; the status page, `monitor` and `health` show it and judge nothing themselves.

use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that a person must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Worry {
    /// How much it weighs.
    pub severity: Severity,
    /// What kind of thing it is about.
    pub area: Area,
    /// What it is about: a session's id, or the name of a part of the health.
    pub subject: String,
    /// What the subject does, in a word, where its status does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub badge: Option<String>,
    /// What is wrong, in a sentence without an end and without an age: `since` tells that.
    pub text: String,
    /// What to do about it.
    pub advice: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// How much a [`Worry`] weighs, the lightest first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A person should look.
    Look,
    /// A person must act.
    Act,
}

/// What kind of thing a [`Worry`] is about.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// A session.
    Session,
    /// A part that recording or failover needs.
    Health,
    /// The webhooks that are relayed.
    Outbox,
}

/// The verdict and what it follows from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Judgement {
    /// The heaviest worry's; none where all is well.
    pub severity: Option<Severity>,
    /// The verdict, a sentence.
    pub verdict: String,
    /// What is being recorded, a sentence.
    pub more: String,
    /// The 200 heaviest worries, the heaviest first, and of those that weigh the same the oldest.
    pub worries: Vec<Worry>,
}

/// Worries that are shown at most: nobody reads more, and every page gets all of them with each change.
const MOST: usize = 200;

impl Judgement {
    /// Judges these worries while so many recordings are running.
    pub fn of(mut worries: Vec<Worry>, running: usize) -> Self {
        worries.sort_by_key(|it| (std::cmp::Reverse(it.severity), it.since));
        let severity = worries.first().map(|it| it.severity);
        let acute = worries.iter().filter(|it| it.severity == Severity::Act);
        let verdict = match severity {
            None => "All is well.".to_owned(),
            Some(Severity::Act) => {
                format!(
                    "{} attention.",
                    count(acute.count(), "problem needs", "problems need")
                )
            }
            Some(Severity::Look) => {
                let goes_on = match running {
                    0 => "No recording is at risk",
                    _ => "Recording goes on",
                };
                let things = count(worries.len(), "thing is", "things are");
                format!("{goes_on}; {things} worth a look.")
            }
        };
        let more = match running {
            0 => "Nothing is being recorded.".to_owned(),
            _ => format!(
                "{} running.",
                count(running, "recording is", "recordings are")
            ),
        };
        worries.truncate(MOST);
        Self {
            severity,
            verdict,
            more,
            worries,
        }
    }
}

/// A number with its noun and verb.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Bytes as people read them.
pub fn bytes(count: u64) -> String {
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
mod tests {
    use super::*;

    fn worry(severity: Severity, since: i64) -> Worry {
        Worry {
            severity,
            area: Area::Session,
            subject: "ses_A".into(),
            badge: None,
            text: "it is odd".into(),
            advice: "look".into(),
            since: Timestamp::from_millis(since),
        }
    }

    #[test]
    fn the_verdict_is_that_of_the_heaviest_worry_and_says_what_runs() {
        use Severity::{Act, Look};
        let said = |worries: &[Worry], running| {
            let judgement = Judgement::of(worries.to_vec(), running);
            (judgement.verdict, judgement.more)
        };
        let (look, act) = (worry(Look, 1), worry(Act, 2));
        for (worries, running, verdict, more) in [
            (vec![], 0, "All is well.", "Nothing is being recorded."),
            (
                vec![look.clone()],
                0,
                "No recording is at risk; 1 thing is worth a look.",
                "Nothing is being recorded.",
            ),
            (
                vec![look.clone(), look.clone()],
                1,
                "Recording goes on; 2 things are worth a look.",
                "1 recording is running.",
            ),
            (
                vec![look.clone(), act.clone()],
                2,
                "1 problem needs attention.",
                "2 recordings are running.",
            ),
            (
                vec![act.clone(), act.clone()],
                0,
                "2 problems need attention.",
                "Nothing is being recorded.",
            ),
        ] {
            assert_eq!(said(&worries, running), (verdict.into(), more.into()));
        }
        let order = Judgement::of(vec![worry(Look, 1), worry(Act, 3), worry(Act, 2)], 0);
        let order = order.worries.iter().map(|it| it.since.millis());
        assert_eq!(order.collect::<Vec<_>>(), [2, 3, 1]);
    }

    #[test]
    fn bytes_are_as_people_read_them() {
        assert_eq!(
            (bytes(999), bytes(1_500_000), bytes(25_000_000)),
            ("999 B".into(), "1.5 MB".into(), "25 MB".into())
        );
    }
}
