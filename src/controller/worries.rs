//! What a person must know about sessions. Nothing is kept for it: a worry follows from what a session is, and ends with it.

use super::evidence::words_of;
use super::expected::REGISTERS;
use super::orphan::Doubt;
use super::proof::words_of as words_of_stall;
use super::stall::Finding;
use super::table::{Entry, Table, Which};
use super::{Controller, OPENVIDU_SAYS_FAILED, lock};
use crate::clock::Timestamp;
use crate::model::ask::Doing;
use crate::model::ids::RecordingId;
use crate::model::session::{Contact, Disowned, Session, State, Status};
use crate::model::wire::TroubleKind;
use crate::model::worry::{Area, Severity, Worry};
use crate::runtime::made_by_us;
use std::sync::Arc;
use std::time::Duration;

/// Who says more of a recorder that mends itself for too long.
const ASK_IT: &str = "see the recorder's log; \"Fail over now\" starts another recorder";

/// What a look at all sessions showed holds for so long, unless one changes.
const HOLDS: Duration = Duration::from_secs(1);

/// What happens by itself, as soon as it is done.
const BY_ITSELF: &str = "nothing, unless it lasts: the log says why then";

impl Controller {
    /// What a person must know about the sessions, in no order. Where it is not known since when, `since` is 0.
    pub fn worries(&self) -> Vec<Worry> {
        self.judged().worries.clone()
    }

    /// What a look at all sessions showed, which whoever asks within a second shares: many show it all the time.
    pub(super) fn judged(&self) -> Arc<Judged> {
        let now = self.0.clock.uptime();
        let mut last = lock(&self.0.judged);
        match &*last {
            Some((at, judged)) if now.saturating_sub(*at) < HOLDS => Arc::clone(judged),
            _ => {
                let judged = Arc::new(Judged {
                    worries: self.find_worries(),
                    unprotected: self.find_unprotected(),
                    deaf: self.find_deaf(),
                });
                *last = Some((now, Arc::clone(&judged)));
                judged
            }
        }
    }

    /// A session is another one now than it was judged to be.
    pub(super) fn judge_anew(&self) {
        *lock(&self.0.judged) = None;
    }

    fn find_worries(&self) -> Vec<Worry> {
        let (address, now) = (self.address(), self.0.clock.now());
        let mut worries: Vec<_> = self.unregistered().into_iter().map(unprotected).collect();
        let is_told = |id: &RecordingId, worries: &[Worry]| {
            let subject = id.to_string();
            worries.iter().any(|it| it.subject == subject)
        };
        for (id, since) in self.unheard_of() {
            if !is_told(&id, &worries) {
                worries.push(unheard_of(&id, since));
            }
        }
        worries.extend(self.unwatched());
        let table = self.table();
        for entry in table.entries() {
            let session = &entry.session;
            worries.extend(doubted(entry, &address));
            match left_by(session) {
                Some(left) => worries.push(left),
                None => worries.extend(lost(session, &self.silence(&table, session, now), now)),
            }
            worries.extend(troubled(session));
            worries.extend(self.stalled(entry, now));
            worries.extend(unfinished(entry));
        }
        worries
    }

    /// Containers that record although nothing ever registered from them, with their recordings and since when.
    pub fn unregistered(&self) -> Vec<(RecordingId, String, Timestamp)> {
        let now = self.0.clock.now();
        let running = lock(&self.0.observations).recording_ones();
        let late = running.into_iter().filter(|it| now.since(it.2) > REGISTERS);
        // A backup is of a session.
        let strange = late.filter(|(recording, container, _)| {
            !made_by_us(|name| container.labels.get(name))
                && !self.belongs_to_a_session(recording, container)
        });
        strange
            .map(|(recording, container, since)| (recording, container.name, since))
            .collect()
    }

    /// Recordings that are going on, and that nobody would start again now: nothing ever registered of them, or no recorder
    /// has been at work for them for too long.
    pub fn unprotected(&self) -> Vec<RecordingId> {
        self.judged().unprotected.clone()
    }

    fn find_unprotected(&self) -> Vec<RecordingId> {
        let now = self.0.clock.now();
        let mut ids: Vec<_> = self.unregistered().into_iter().map(|it| it.0).collect();
        for (id, _) in self.unheard_of() {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let table = self.table();
        for session in table.entries().map(|it| &it.session) {
            let is_open =
                !matches!(session.state, State::Failed { .. }) && left_by(session).is_none();
            let silence = self.silence(&table, session, now);
            let lost = lost(session, &silence, now).filter(|it| it.severity == Severity::Act);
            if is_open && lost.is_some() {
                ids.push(session.id.clone());
            }
        }
        ids
    }

    /// A run that does not grow, whose recorder is left alone.
    fn stalled(&self, entry: &Entry, now: Timestamp) -> Option<Worry> {
        let session = &entry.session;
        let excuse = entry.excuse()?;
        let words = words_of_stall(&excuse.finding)?;
        let is_slow = now.since(excuse.since) > 2 * self.0.policy.heartbeat_timeout;
        let (severity, advice) = match &excuse.finding {
            Finding::DiskHangs | Finding::Answers(Doing::Disk { .. }) => (
                Severity::Act,
                "check the disk below the recordings folder; the recording goes on once it takes what is written".to_owned(),
            ),
            // Its own view may be a moment behind.
            Finding::Answers(Doing::Fine) if now.since(excuse.since) < 2 * self.0.policy.stall_timeout => {
                return None;
            }
            Finding::Answers(Doing::Fine) => (
                Severity::Look,
                format!(
                    "check that OPENVIDU_RECORDING_PATH, {}, is the folder that recorders write to",
                    self.0.settings.recording_path.display()
                ),
            ),
            _ if is_slow => (Severity::Act, ASK_IT.to_owned()),
            _ => (Severity::Look, BY_ITSELF.to_owned()),
        };
        let text = format!("has not grown, and is left alone: {words}");
        let records = matches!(session.state, State::Recording { .. });
        records.then(|| worry(session, severity, &text, &advice, excuse.since))
    }

    /// So many looks at the recordings' disk were lost that it is tried only now and then: until it is there again only
    /// heartbeats tell what records.
    fn unwatched(&self) -> Option<Worry> {
        let looks = [&self.0.rounds, &self.0.looks];
        let is_given_up = looks.iter().any(|it| it.are_given_up()) || self.0.disk.is_given_up();
        is_given_up.then(|| Worry {
            severity: Severity::Look,
            area: Area::Health,
            subject: "disk".into(),
            badge: Some("Unwatched".into()),
            text: "The disk of the recordings has not answered for a long time: whether recordings grow is not seen, and only \
                   missing heartbeats tell that a recorder is lost"
                .into(),
            advice: format!(
                "make {} answer again; it is tried every few minutes, ever later, and at once when the controller is restarted",
                self.0.settings.recording_path.display()
            ),
            since: Timestamp::default(),
        })
    }

    fn silence(&self, table: &Table, session: &Session, now: Timestamp) -> Silence {
        Silence {
            patience: self.0.policy.heartbeat_timeout,
            since: session.heartbeat_at.max(table.watched_since()),
            contact: table.contact(session, now),
        }
    }

    /// How many recordings are running.
    pub fn running(&self) -> usize {
        self.table().count(Which::Is(Status::Recording))
    }
}

/// What a look at all sessions showed.
pub(super) struct Judged {
    worries: Vec<Worry>,
    unprotected: Vec<RecordingId>,
    pub(super) deaf: Vec<RecordingId>,
}

/// Whether a session's recorder is heard.
struct Silence {
    /// Without a heartbeat for so long it is worth a look, for twice as long a person must act.
    patience: Duration,
    /// Since when it could have been heard and was not.
    since: Timestamp,
    contact: Contact,
}

fn worry(
    session: &Session,
    severity: Severity,
    text: &str,
    advice: &str,
    since: Timestamp,
) -> Worry {
    Worry {
        severity,
        area: Area::Session,
        subject: session.id.to_string(),
        badge: None,
        text: format!("{} {text}", name_of(session)),
        advice: advice.into(),
        since,
    }
}

fn name_of(session: &Session) -> &str {
    let given = session
        .video_name
        .as_deref()
        .filter(|name| !name.is_empty());
    given.unwrap_or(session.id.as_str())
}

/// A session that was given up, or has no recorder, or one that is not heard. The controller acts by itself: only where that
/// takes too long a person must.
fn lost(session: &Session, silence: &Silence, now: Timestamp) -> Option<Worry> {
    let after = |since: Timestamp, limit: Duration| match now.since(since) > limit {
        true => Severity::Act,
        false => Severity::Look,
    };
    match &session.state {
        State::GivenUp { at, why } => {
            // Nothing records any more once what there was is finished.
            let (severity, advice) = match session.finished_at {
                None => (
                    Severity::Act,
                    "\"Fail over now\" starts another recorder, once the cause is gone",
                ),
                Some(_) => (
                    Severity::Look,
                    "\"ov2-ha-recorder timeline\" tells what the video holds and what is missing",
                ),
            };
            let text = format!("was given up: {why}. What was recorded is kept");
            Some(worry(session, severity, &text, advice, *at))
        }
        State::Failed { at, why } => {
            let text = format!("has failed: {why}. What was recorded is kept");
            let advice = "\"ov2-ha-recorder recover\" makes a video of what was recorded";
            Some(worry(session, Severity::Act, &text, advice, *at))
        }
        State::TakingOver { since, reason, .. } => {
            let severity = after(*since, silence.patience);
            let text = format!("lost its recorder ({reason}); another is being started");
            Some(Worry {
                badge: Some("Taking over".into()),
                ..worry(session, severity, &text, BY_ITSELF, *since)
            })
        }
        _ if silence.contact == Contact::Heard => None,
        _ => {
            let severity = after(silence.since, 2 * silence.patience);
            let (text, advice) = match silence.contact {
                Contact::Deaf => (
                    "records on and has not been heard",
                    "\"ov2-ha-recorder validate\" tries the controller's address and the token that recorders are told",
                ),
                _ => ("has not been heard", BY_ITSELF),
            };
            Some(Worry {
                badge: Some("Silent".into()),
                ..worry(session, severity, text, advice, session.heartbeat_at)
            })
        }
    }
}

/// A video that could not be finished. It is tried again: only where that does not help a person must see to it.
fn unfinished(entry: &Entry) -> Option<Worry> {
    let unfinished = entry.unfinished()?;
    let severity = match unfinished.lasts() {
        true => Severity::Act,
        false => Severity::Look,
    };
    let text = format!("could not be finished yet: {}", unfinished.why);
    let advice = "remove the cause; the video is tried again by itself, ever later, and at once when the controller is restarted";
    Some(worry(
        &entry.session,
        severity,
        &text,
        advice,
        unfinished.since,
    ))
}

/// A recording whose recorder nobody hears, and which nobody would replace.
fn unprotected((recording, container, since): (RecordingId, String, Timestamp)) -> Worry {
    Worry {
        severity: Severity::Act,
        area: Area::Session,
        subject: recording.to_string(),
        badge: None,
        text: format!("{recording} is not protected: container {container} records it and has never registered"),
        advice: "check with \"ov2-ha-recorder validate\" that the image is ours, and that recorders are told the controller's \
                 address and a token that it takes"
            .into(),
        since,
    }
}

/// A recording that OpenVidu makes without a recorder that we know of.
fn unheard_of(id: &RecordingId, since: Timestamp) -> Worry {
    Worry {
        severity: Severity::Act,
        area: Area::Session,
        subject: id.to_string(),
        badge: None,
        text: format!("{id} is not protected: OpenVidu records it, and no recorder has registered"),
        advice: "check with \"ov2-ha-recorder validate\" that OpenVidu uses our recording image, and that recorders reach this \
                 controller"
            .into(),
        since,
    }
}

/// What the recorder itself reports.
fn troubled(session: &Session) -> impl Iterator<Item = Worry> + '_ {
    let ended = matches!(
        session.state.status(),
        Status::Completed | Status::Failed | Status::Inactive
    );
    let troubles = session.report.troubles.iter().filter(move |_| !ended);
    troubles.map(move |trouble| {
        let since = match trouble.kind {
            TroubleKind::Page => session.page_troubled_at,
            _ => None,
        };
        let advice = "the recorder's log says more";
        Worry {
            text: format!("{}: {}", name_of(session), trouble.message),
            ..worry(
                session,
                Severity::Look,
                "",
                advice,
                since.unwrap_or_default(),
            )
        }
    })
}

/// A backup that records without OpenVidu's word.
fn doubted(entry: &Entry, address: &str) -> Option<Worry> {
    let (doubt, since) = entry.asked.as_ref()?.doubt()?;
    let (text, advice) = words_of(doubt, address);
    let severity = match doubt {
        Doubt::NotAsked => Severity::Look,
        _ => Severity::Act,
    };
    let session = &entry.session;
    session.may_be_ended().then(|| Worry {
        text: format!("{}: {text}", name_of(session)),
        ..worry(session, severity, "", advice, since)
    })
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
            let advice = "OpenVidu answers 409 to the next recording of a session of this name until OpenVidu is restarted; closing the session does not help";
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
        text: format!("{}: {text}", name_of(session)),
        ..worry(session, Severity::Look, "", advice, since)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::failover::Reason;
    use crate::model::session::tests::{at, session};

    fn failed(why: &str) -> Session {
        let (at, why) = (at(9), why.to_owned());
        session(State::Failed { at, why })
    }

    /// What is said of a session that was last heard at second 60, at the second `now`.
    fn said(session: &Session, contact: Contact, now: i64) -> Option<(Severity, String)> {
        let silence = Silence {
            patience: Duration::from_secs(30),
            since: at(60),
            contact,
        };
        lost(session, &silence, at(now)).map(|it| (it.severity, it.text))
    }

    #[test]
    fn a_video_that_openvidu_holds_for_failed_is_a_worry_and_a_failure_without_one_is_none() {
        let mut kept = failed(OPENVIDU_SAYS_FAILED);
        assert!(left_by(&kept).is_none());
        kept.finished_at = Some(at(10));
        let worry = left_by(&kept).unwrap();
        assert!(worry.text.contains("there is a video"), "{}", worry.text);
        let mut other = failed("nothing is left of it");
        other.finished_at = Some(at(10));
        assert!(left_by(&other).is_none());
    }

    #[test]
    fn a_recorder_that_is_not_heard_is_worth_a_look_and_later_needs_somebody() {
        let recording = session(State::Recording { since: at(1) });
        let name = recording.id.clone();
        assert_eq!(said(&recording, Contact::Heard, 200), None);
        let silent = |severity| Some((severity, format!("{name} has not been heard")));
        assert_eq!(
            said(&recording, Contact::Unheard, 91),
            silent(Severity::Look)
        );
        assert_eq!(
            said(&recording, Contact::Unheard, 121),
            silent(Severity::Act)
        );
        let deaf = said(&recording, Contact::Deaf, 91).unwrap().1;
        assert!(deaf.contains("records on"), "{deaf}");
        let over = session(State::Completed { at: at(70) });
        assert_eq!(said(&over, Contact::Heard, 200), None);
    }

    #[test]
    fn a_recorder_that_was_lost_needs_somebody_only_when_no_other_one_comes() {
        let lost = session(State::TakingOver {
            since: at(100),
            reason: Reason::OutOfMemory,
            started_at: None,
            not_before: at(100),
            tries: 0,
        });
        let (severity, text) = said(&lost, Contact::Unheard, 101).unwrap();
        assert_eq!(severity, Severity::Look);
        assert!(text.contains("lost its recorder (the kernel"), "{text}");
        let (severity, _) = said(&lost, Contact::Unheard, 131).unwrap();
        assert_eq!(severity, Severity::Act);
        let (severity, _) = said(&failed("no room"), Contact::Heard, 10).unwrap();
        assert_eq!(severity, Severity::Act);
    }

    #[test]
    fn every_trouble_of_a_recorder_is_told_under_the_recordings_name() {
        let mut recording = session(State::Recording { since: at(1) });
        recording.video_name = Some("Board meeting".into());
        recording.report = serde_json::from_value(serde_json::json!({ "troubles": [
            { "kind": "page", "message": "the page does not answer" },
            { "kind": "audio", "message": "no sound arrives" },
        ]}))
        .unwrap();
        let told = troubled(&recording).map(|it| it.text).collect::<Vec<_>>();
        let wanted = ["the page does not answer", "no sound arrives"];
        assert_eq!(told, wanted.map(|it| format!("Board meeting: {it}")));
    }
}
