//! What a person must know about recordings whose OpenVidu could not do its part. Nothing is kept for it: a worry follows from
//! what a session is, and ends with it.

use super::evidence::words_of;
use super::orphan::Doubt;
use super::{Controller, OPENVIDU_SAYS_FAILED};
use crate::model::session::{Disowned, Session, State};
use crate::model::view::{Severity, Worry};

impl Controller {
    /// What a person must know, the oldest first.
    pub fn worries(&self) -> Vec<Worry> {
        let address = self.address();
        let table = self.table();
        let doubted = table.entries().filter_map(|entry| {
            let (doubt, since) = entry.asked.as_ref()?.doubt()?;
            let (text, advice) = words_of(doubt, &address);
            entry.session.may_be_ended().then(|| Worry {
                severity: match doubt {
                    Doubt::NotAsked => Severity::Look,
                    _ => Severity::Act,
                },
                subject: entry.session.id.to_string(),
                text,
                advice: advice.into(),
                since,
            })
        });
        let left = table.entries().filter_map(|entry| left_by(&entry.session));
        let mut worries: Vec<_> = doubted.chain(left).collect();
        worries.sort_by_key(|it| it.since);
        worries
    }
}

/// What OpenVidu left of a recording for a person to see to.
fn left_by(session: &Session) -> Option<Worry> {
    let (text, advice, since) = match (&session.state, session.disowned) {
        (State::Failed { at, why }, _)
            if why == OPENVIDU_SAYS_FAILED && session.finished_at.is_some() =>
        {
            let text = "OpenVidu holds this recording for failed, and there is a video of it";
            let advice = "the video is in the recording's folder; OpenVidu does not show it";
            (text, advice, *at)
        }
        (_, Some(Disowned::StopFails)) if session.ready_told => {
            let text = "OpenVidu could not stop this recording, for its container was gone; it was sealed in OpenVidu's place";
            let advice = "OpenVidu answers 409 to the session's next recording: close the session, or restart OpenVidu";
            (text, advice, session.ended_at()?)
        }
        (_, Some(Disowned::Forgotten)) if session.ready_told => {
            let text = "OpenVidu does not know this recording any more; it was finished and sealed in OpenVidu's place";
            let advice = "start another recording if the session goes on";
            (text, advice, session.ended_at()?)
        }
        _ => return None,
    };
    Some(Worry {
        severity: Severity::Look,
        subject: session.id.to_string(),
        text: text.into(),
        advice: advice.into(),
        since,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::session::tests::{at, session};

    #[test]
    fn a_video_that_openvidu_holds_for_failed_is_a_worry_and_a_failure_without_one_is_none() {
        let failed = |why: &str| {
            let (at, why) = (at(9), why.to_owned());
            session(State::Failed { at, why })
        };
        let mut kept = failed(OPENVIDU_SAYS_FAILED);
        assert!(left_by(&kept).is_none());
        kept.finished_at = Some(at(10));
        let worry = left_by(&kept).unwrap();
        assert!(worry.text.contains("there is a video"), "{}", worry.text);
        let mut other = failed("nothing is left of it");
        other.finished_at = Some(at(10));
        assert!(left_by(&other).is_none());
    }
}
