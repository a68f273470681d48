//! Gathers what is known of a recording whose OpenVidu may have lost it, has [`orphan`](super::orphan) decide, and carries the
//! decision out: before a backup is started, at every check while one records, and once a stop was seen. OpenVidu is asked
//! when a recorder registers, too, so that it is known by then whose answers count.

use super::inquiry::Subject;
use super::orphan::{Answer, Doubt, Evidence, Original, Verdict, Word, verdict};
use super::table::Entry;
use super::{Controller, OPENVIDU_SAYS_FAILED};
use crate::clock::Timestamp;
use crate::model::failover::Reason;
use crate::model::ids::{ContainerId, RecordingId};
use crate::model::session::{Disowned, Event, Session};
use crate::runtime::ContainerStatus;
use crate::tasks;
use log::{error, info, warn};
use std::time::Duration;

/// How long a failover waits for what OpenVidu and the runtime say.
pub(super) const AT_ONCE: Duration = Duration::from_millis(100);
/// How long they may take where nothing waits.
const AT_LEISURE: Duration = Duration::from_secs(10);
/// How soon OpenVidu is asked again that did not answer, or does not record yet.
const SOONEST: Duration = Duration::from_secs(1);
/// How late, at most.
const LATEST: Duration = Duration::from_secs(15);

/// What OpenVidu said of a session, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct Asked {
    answer: Answer,
    /// The address has said that this very session is recorded.
    vouched: bool,
    /// Since when the address has not been reached.
    silent_since: Option<Timestamp>,
    /// OpenVidu has made another session of that id since.
    succeeded: bool,
    /// Why a backup records without OpenVidu's word, and since when.
    doubt: Option<(Doubt, Timestamp)>,
    /// It is being asked.
    asking: bool,
    /// When it is asked next, without a check.
    next: Option<Timestamp>,
}

impl Asked {
    pub(super) const fn next(&self) -> Option<Timestamp> {
        self.next
    }

    pub(super) const fn doubt(&self) -> Option<(Doubt, Timestamp)> {
        self.doubt
    }

    /// What was missed before `now` is no one's fault: this controller was absent, or its clock was set.
    pub(super) fn watch_from(&mut self, now: Timestamp) {
        self.silent_since = self.silent_since.map(|_| now);
        self.next = self.next.map(|at| at.min(now));
    }

    fn note(&mut self, answer: Answer, now: Timestamp) {
        if answer == Answer::Late {
            return;
        }
        self.answer = answer;
        self.vouched |= answer == Answer::Recorded;
        self.silent_since = match answer {
            Answer::Silence => self.silent_since.or(Some(now)),
            _ => None,
        };
    }

    /// Notes the doubt; answers whether it is new.
    fn doubts(&mut self, doubt: Option<Doubt>, now: Timestamp) -> bool {
        let before = self.doubt.map(|(doubt, _)| doubt);
        if before != doubt {
            self.doubt = doubt.map(|doubt| (doubt, now));
        }
        before != doubt
    }
}

impl Controller {
    /// Asks OpenVidu about a session whose recorder has just registered, so that its later answers count.
    pub(super) fn ask_to_vouch(&self, id: &RecordingId) {
        if self.0.inquiry.is_some() {
            self.begin_inquiry(id);
        }
    }

    /// Asks about a session unless that is being done, and does what follows.
    pub(super) fn begin_inquiry(&self, id: &RecordingId) {
        let begins = self.asked(id, |asked| {
            asked.next = None;
            !std::mem::replace(&mut asked.asking, true)
        });
        if begins != Some(true) {
            return;
        }
        let (controller, id) = (self.clone(), id.clone());
        self.0.tasks.spawn(format!("ask about {id}"), async move {
            controller.inquire(&id).await;
            controller.asked(&id, |asked| asked.asking = false);
        });
    }

    /// Looks whether OpenVidu still wants what backups record.
    pub(super) fn look_after_backups(&self) {
        for id in self.ids_of(may_be_an_orphan) {
            self.begin_inquiry(&id);
        }
    }

    /// OpenVidu reports a session that it has just made: whatever was recorded of an earlier one of that id is over.
    pub(super) fn session_created(&self, session: &str, unique: &str) {
        let later = created_at(unique);
        for id in self.ids_of(|it| it.may_be_ended() && session_named(it) == session) {
            let told = self.particulars(&id).unique_session_id;
            let earlier = told.as_deref().and_then(created_at);
            if earlier.is_none_or(|earlier| later.is_none_or(|later| later <= earlier)) {
                continue;
            }
            self.asked(&id, |asked| asked.succeeded = true);
            if self.session(&id).is_some_and(|it| may_be_an_orphan(&it)) {
                self.begin_inquiry(&id);
            }
        }
    }

    fn ids_of(&self, wanted: impl Fn(&Session) -> bool) -> Vec<RecordingId> {
        let table = self.table();
        let sessions = table.entries().map(|entry| &entry.session);
        sessions
            .filter(|it| wanted(it))
            .map(|it| it.id.clone())
            .collect()
    }

    async fn inquire(&self, id: &RecordingId) {
        let Some(session) = self.session(id).filter(Session::may_be_ended) else {
            return;
        };
        if may_be_an_orphan(&session) {
            let verdict = self.decide(&session, AT_LEISURE).await;
            return self.carry_out(&session, verdict);
        }
        if self.answer_about(&session, AT_LEISURE).await == Answer::Recorded {
            return;
        }
        // It says so only once its start has been answered.
        self.ask_again(id, session.created_at);
    }

    fn ask_again(&self, id: &RecordingId, since: Timestamp) {
        if self.0.inquiry.is_none() {
            return;
        }
        let now = self.0.clock.now();
        let at = now.plus(now.since(since).clamp(SOONEST, LATEST));
        self.asked(id, |asked| asked.next = Some(at));
        self.0.wake.notify_one();
    }

    /// What becomes of a recording, as far as can be found out within `patience`.
    pub(super) async fn decide(&self, session: &Session, patience: Duration) -> Verdict {
        let file = tasks::block(|| self.word_of(&session.id));
        let needs_an_answer = file == Word::Records;
        let (original, answer, server_started_at) = tokio::join!(
            self.original_of(session, patience),
            async {
                match needs_an_answer {
                    true => self.answer_about(session, patience).await,
                    false => Answer::NotAsked,
                }
            },
            self.server_started_at(needs_an_answer, patience),
        );
        let now = self.0.clock.now();
        let known = self.asked(&session.id, |asked| {
            let silence = asked.silent_since.map(|since| now.since(since));
            (asked.vouched, silence.unwrap_or_default(), asked.succeeded)
        });
        let (vouched, silence, succeeded) = known.unwrap_or_default();
        let minutes = self.0.settings.orphan_minutes.seconds();
        verdict(&Evidence {
            file,
            original,
            answer,
            vouched,
            silence,
            succeeded,
            server_started_at,
            ordered_at: ordered_at(session),
            patience: minutes * 60,
        })
    }

    /// Does what was decided.
    pub(super) fn carry_out(&self, session: &Session, verdict: Verdict) {
        let id = &session.id;
        if !self.is_of_now(session) {
            return;
        }
        let event = match verdict {
            Verdict::Wait => Event::StopAsked,
            Verdict::Record(doubt) => return self.note_doubt(session, doubt),
            Verdict::Sealed => Event::Sealed,
            Verdict::Failed => Event::Failed(OPENVIDU_SAYS_FAILED.into()),
            Verdict::Disowned(why) => Event::Disowned(why),
        };
        match self.apply(id, event) {
            Ok(()) if matches!(verdict, Verdict::Disowned(_)) => {
                warn!(session:% = id; "{}", told(verdict));
            }
            Ok(()) => info!(session:% = id; "{}", told(verdict)),
            // It was done meanwhile.
            Err(cause) => info!(session:% = id; "{}: {cause}", told(verdict)),
        }
    }

    /// Whether the id still belongs to this take: an answer may come when it is used again.
    fn is_of_now(&self, session: &Session) -> bool {
        let now = self.session(&session.id);
        now.is_some_and(|now| now.take == session.take)
    }

    /// Whether OpenVidu's stop found no container; then its seal is not waited for.
    pub(super) async fn stop_fails(&self, session: &Session) -> bool {
        let verdict = self.decide(session, AT_LEISURE).await;
        verdict == Verdict::Disowned(Disowned::StopFails)
    }

    fn note_doubt(&self, session: &Session, doubt: Option<Doubt>) {
        let (id, now) = (&session.id, self.0.clock.now());
        // Where nothing records there is nothing to doubt.
        let doubt = doubt.filter(|_| session.given_up_at().is_none());
        let news = self.asked(id, |asked| asked.doubts(doubt, now));
        if let Some(doubt) = doubt.filter(|_| news == Some(true)) {
            let (text, advice) = words_of(doubt, &self.address());
            match doubt {
                Doubt::NotAsked => warn!(session:% = id; "{text}; {advice}"),
                _ => error!(session:% = id; "{text}; {advice}"),
            }
        }
        if matches!(doubt, Some(Doubt::Silence | Doubt::Odd)) {
            let since = self.asked(id, |asked| asked.doubt.map(|(_, since)| since));
            self.ask_again(id, since.flatten().unwrap_or(now));
        }
    }

    /// The address at which OpenVidu is asked, as it may be shown.
    pub(super) fn address(&self) -> String {
        let inquiry = self.0.inquiry.as_ref();
        inquiry.map_or_else(String::new, super::Inquiry::origin)
    }

    /// Asks OpenVidu, and keeps what it said.
    async fn answer_about(&self, session: &Session, patience: Duration) -> Answer {
        let Some(inquiry) = &self.0.inquiry else {
            return Answer::NotAsked;
        };
        let particulars = tasks::block(|| self.particulars(&session.id));
        let address = inquiry.origin();
        let vouched = particulars.vouched_by.as_deref() == Some(&address);
        let about = Subject {
            recording: session.id.to_string(),
            session: session_named(session).to_owned(),
            unique_session: particulars.unique_session_id,
        };
        let answer = inquiry.ask(&about, patience).await;
        if !self.is_of_now(session) {
            return Answer::Late;
        }
        let now = self.0.clock.now();
        self.asked(&session.id, |asked| {
            asked.vouched |= vouched;
            asked.note(answer, now);
        });
        if answer == Answer::Recorded && !vouched {
            self.keep_vouched(&session.id, address).await;
        }
        answer
    }

    async fn keep_vouched(&self, id: &RecordingId, address: String) {
        let kept = match self.describe(id, |particulars| particulars.vouched_by = Some(address)) {
            Ok(()) => self.0.db.durable().await.map_err(Into::into),
            Err(cause) => Err(cause),
        };
        if let Err(cause) = kept {
            warn!(session:% = id; "that OpenVidu records this session is not on disk: {cause}");
        }
    }

    async fn server_started_at(&self, wanted: bool, patience: Duration) -> Option<Timestamp> {
        if !wanted {
            return None;
        }
        let looked = tokio::time::timeout(patience, self.0.runtime.openvidu_started_at()).await;
        // What the runtime cannot say now it may say at the next check. A start that is still to come was told by a clock
        // that has been set since.
        let now = self.0.clock.now();
        looked.ok()?.ok()?.filter(|started| *started <= now)
    }

    async fn original_of(&self, session: &Session, patience: Duration) -> Original {
        let held = session.container.as_ref();
        let own = held.filter(|it| !it.backup).map(|it| &it.id);
        let Some(id) = session.original.as_ref().or(own) else {
            return Original::Unknown;
        };
        let inspected = tokio::time::timeout(patience, self.0.runtime.inspect(id)).await;
        match inspected {
            Ok(Ok(Some(found))) => match found.status {
                ContainerStatus::Exited(_) => Original::Ended {
                    started_at: found.started_at,
                    ended_at: found.ended_at,
                },
                ContainerStatus::Created => Original::Unknown,
                ContainerStatus::Running
                | ContainerStatus::Paused
                | ContainerStatus::Restarting => Original::Runs,
            },
            Ok(Ok(None)) => Original::Gone {
                before: gone_before(session, id),
            },
            Ok(Err(_)) | Err(_) => Original::Unknown,
        }
    }

    fn word_of(&self, id: &RecordingId) -> Word {
        match self.sealed_status(id).as_deref() {
            Some("stopped") => Word::Stopped(self.seal_written_at(id)),
            Some("ready") => Word::Ready,
            Some("failed") => Word::Failed,
            _ => Word::Records,
        }
    }

    fn asked<T>(&self, id: &RecordingId, change: impl FnOnce(&mut Asked) -> T) -> Option<T> {
        self.table().change(id, |entry: &mut Entry| {
            change(entry.asked.get_or_insert_default())
        })
    }
}

/// Whether something of ours records, or nothing at all does, for an OpenVidu that may have lost it.
fn may_be_an_orphan(session: &Session) -> bool {
    let held_by_us = session.container.as_ref().is_some_and(|it| it.backup);
    session.may_be_ended() && (held_by_us || session.given_up_at().is_some())
}

/// Before when OpenVidu's container was removed: a backup was made after that, and so was its removal noticed.
fn gone_before(session: &Session, original: &ContainerId) -> Option<Timestamp> {
    let backup = session.container.as_ref().filter(|it| it.backup);
    let noticed = || {
        let removals = session.failovers.iter().filter(|it| {
            it.reason == Reason::Removed && it.old_container.as_ref() == Some(original)
        });
        removals.map(|it| it.at).next_back()
    };
    backup.map(|it| it.created_at).or_else(noticed)
}

/// OpenVidu names a take after the moment at which it made it.
fn ordered_at(session: &Session) -> Option<Timestamp> {
    let take = session.take.as_ref()?;
    Some(Timestamp::from_millis(take.as_str().parse().ok()?))
}

/// OpenVidu names recordings after their session: `id`, `id~1`, and so on.
fn session_named(session: &Session) -> &str {
    let id = session.id.as_str();
    id.split('~').next().unwrap_or(id)
}

/// When the session was created, as its unique id ends.
fn created_at(unique: &str) -> Option<i64> {
    unique.rsplit_once('_')?.1.parse().ok()
}

fn told(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Wait => "OpenVidu stops the recording",
        Verdict::Record(_) => "the recording goes on",
        Verdict::Sealed => "OpenVidu has sealed the recording: its backup is ended",
        Verdict::Failed => "OpenVidu holds the recording for failed: what was recorded is kept",
        Verdict::Disowned(Disowned::StopFails) => {
            "OpenVidu's stop found no container: the recording is finished and sealed in its place; OpenVidu answers 409 to \
             the next recording of a session of this name until it is restarted"
        }
        Verdict::Disowned(Disowned::Forgotten) => {
            "OpenVidu does not know this recording any more: it is finished and sealed in its place"
        }
    }
}

/// A doubt in words, and what a person can do about it.
pub(super) fn words_of(doubt: Doubt, address: &str) -> (String, &'static str) {
    match doubt {
        Doubt::NotAsked => (
            "a backup records in place of OpenVidu's container, and OpenVidu is not asked whether it still records this session"
                .into(),
            "set OPENVIDU_URL and OPENVIDU_SECRET, or the backup records on until OpenVidu's file says that it was stopped",
        ),
        Doubt::NeverVouched => (
            format!("a backup records in place of OpenVidu's container; {address} does not know its session, and never did"),
            "check that OPENVIDU_URL is the OpenVidu that makes these recordings; stop the backup if the session is over",
        ),
        Doubt::Silence => (
            format!("a backup records in place of OpenVidu's container, and OpenVidu does not answer at {address}"),
            "start OpenVidu, or correct OPENVIDU_URL; where it had answered before, the backup ends after HA_ORPHAN_MINUTES",
        ),
        Doubt::Odd => (
            format!("a backup records in place of OpenVidu's container, and what {address} answers is no answer of OpenVidu"),
            "check OPENVIDU_URL, OPENVIDU_SECRET and HA_CA_FILE with \"ov2-ha-recorder validate\"",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::session::tests::at;

    #[test]
    fn silence_counts_from_its_first_moment_until_anything_is_answered() {
        let mut asked = Asked::default();
        for second in [3, 5, 9] {
            asked.note(Answer::Silence, at(second));
        }
        assert_eq!(asked.silent_since, Some(at(3)));
        asked.note(Answer::Odd, at(10));
        assert_eq!(asked.silent_since, None);
        asked.note(Answer::Silence, at(20));
        asked.watch_from(at(60));
        assert_eq!(asked.silent_since, Some(at(60)));
    }

    #[test]
    fn a_doubt_is_told_once_and_keeps_the_moment_at_which_it_rose() {
        let mut asked = Asked::default();
        assert!(!asked.doubts(None, at(0)));
        assert!(asked.doubts(Some(Doubt::Silence), at(1)));
        assert!(!asked.doubts(Some(Doubt::Silence), at(2)));
        assert_eq!(asked.doubt(), Some((Doubt::Silence, at(1))));
        assert!(asked.doubts(None, at(3)));
    }
}
