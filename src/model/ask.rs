//! What a recorder is asked over the socket in its container, and what it answers: a line of JSON each way, so that more can
//! be asked later. Whoever answers is alive, whatever it says.

use crate::clock::Timestamp;
use crate::model::ids::RecordingId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Where a recorder's first process listens in its container.
pub const SOCKET: &str = "/run/ov2-ha-recorder.sock";

/// The exit code of `ov2-ha-recorder ask` where a recorder is there and gave no answer for so long (`EX_TEMPFAIL`).
pub const NO_ANSWER: u8 = 75;

/// The variables by which OpenVidu says what a recording of an open page is to be like.
pub const ORDER: [&str; 7] = [
    "RESOLUTION",
    "FRAMERATE",
    "ONLY_VIDEO",
    "VIDEO_ID",
    "VIDEO_NAME",
    "VIDEO_FORMAT",
    "RECORDING_JSON",
];

/// How long an answer is waited for, where nobody says otherwise.
pub const ASKED: Duration = Duration::from_secs(2);

/// How long OpenVidu waits for the first bytes of a recording that it has ordered.
pub const START: Duration = Duration::from_secs(30);

/// How long OpenVidu waits for the end of a recording of an open page, less the time to say so.
pub const STOP: Duration = Duration::from_millis(9_500);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// What the recorder does.
    State,
    /// To record the page that is open (`COMPOSED_QUICK_START`).
    Start {
        /// Those of [`ORDER`] that are set.
        order: BTreeMap<String, String>,
    },
    /// To end that recording and finish its video.
    Stop,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", content = "said", rename_all = "kebab-case")]
pub enum Carried {
    /// It is done; a sentence says what.
    Done(String),
    /// It is not; a sentence says why, and what was recorded before goes on.
    Refused(String),
}

/// What a recorder does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Doing {
    /// It has recorded nothing yet.
    Starting {
        /// When it began.
        since: Timestamp,
    },
    /// It shows the page, and nothing is ordered to be recorded.
    Waiting,
    /// It has recorded something within the last few seconds.
    Fine,
    /// Nothing is recorded, and it puts that right.
    Mending {
        /// The part that is put right.
        part: String,
        /// Since when nothing is recorded.
        since: Timestamp,
    },
    /// The disk takes nothing.
    Disk {
        /// Since when nothing is recorded.
        since: Timestamp,
    },
    /// It was told to end and finishes the video.
    Stopping,
    /// A later version's word.
    #[serde(other)]
    Other,
}

impl fmt::Display for Doing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting { since } => {
                write!(
                    out,
                    "it was started at {since} and has recorded nothing yet"
                )
            }
            Self::Waiting => out.write_str("it shows the page and waits for an order"),
            Self::Fine => out.write_str("it records"),
            Self::Mending { part, since } => {
                write!(
                    out,
                    "it has recorded nothing since {since} and mends {part}"
                )
            }
            Self::Disk { since } => write!(
                out,
                "it has recorded nothing since {since}, because the disk takes nothing"
            ),
            Self::Stopping => out.write_str("it stops and finishes the video"),
            Self::Other => out.write_str("it is alive"),
        }
    }
}

/// What comes back to a request that cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misunderstood {
    /// Why, for a person.
    pub error: String,
}

/// The whole answer: what a recorder does, and for which recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What it does.
    #[serde(flatten)]
    pub doing: Doing,
    /// What it records; none where it waits for an order, or is of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingId>,
}

impl Answer {
    /// Reads one. Whoever says what is not understood here is alive.
    pub fn read(line: &[u8]) -> Self {
        serde_json::from_slice(line).unwrap_or(Self {
            doing: Doing::Other,
            recording: None,
        })
    }
}

/// What came of asking a recorder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It answered: what it does, and for which recording where it says so.
    Answer(Doing, Option<RecordingId>),
    /// It is there, and gave no answer in time.
    Nothing,
    /// It could not be asked; why, for a person.
    Unknown(String),
}

impl Reply {
    /// What `ov2-ha-recorder ask --json` said by its exit code and on its standard output.
    pub fn of_command(code: Option<i64>, said: &[u8]) -> Self {
        match code {
            Some(0) => {
                let Answer { doing, recording } = Answer::read(said);
                Self::Answer(doing, recording)
            }
            Some(code) if code == i64::from(NO_ANSWER) => Self::Nothing,
            Some(code) => Self::Unknown(format!("\"ov2-ha-recorder ask\" ended with {code}")),
            None => Self::Unknown("\"ov2-ha-recorder ask\" was ended".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_exit_code_says_that_there_was_no_answer() {
        let fine = Reply::Answer(Doing::Fine, None);
        let of = RecordingId::parse("ses_A~1").ok();
        for (code, said, reply) in [
            (Some(0), "{\n  \"state\": \"fine\"\n}\n", Some(fine)),
            (
                Some(0),
                r#"{"state":"fine","recording":"ses_A~1"}"#,
                Some(Reply::Answer(Doing::Fine, of)),
            ),
            (
                Some(0),
                r#"{"state":"dancing","with":1}"#,
                Some(Reply::Answer(Doing::Other, None)),
            ),
            (Some(0), "nonsense", Some(Reply::Answer(Doing::Other, None))),
            (Some(75), "", Some(Reply::Nothing)),
            // An image that knows no such command, or none at all; one that was killed.
            (Some(2), "", None),
            (Some(69), "", None),
            (Some(126), "", None),
            (Some(137), "", None),
            (None, "", None),
        ] {
            let heard = Reply::of_command(code, said.as_bytes());
            match reply {
                Some(reply) => assert_eq!(heard, reply, "{code:?}"),
                None => assert!(matches!(heard, Reply::Unknown(_)), "{code:?}"),
            }
        }
    }

    #[test]
    fn both_lines_are_as_they_were() {
        let line = serde_json::to_string(&Request::State).unwrap();
        assert_eq!(line, r#"{"ask":"state"}"#);
        let since = Timestamp::from_millis(1_795_577_569_120);
        let part = "the page".to_owned();
        let line = serde_json::to_string(&Doing::Mending { part, since }).unwrap();
        let wanted = r#"{"state":"mending","part":"the page","since":"2026-11-25T03:32:49.12Z"}"#;
        assert_eq!(line, wanted);
    }
}
