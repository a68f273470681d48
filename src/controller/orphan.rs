//! OpenVidu's container of a recording is gone, or OpenVidu's stop did not reach it: which of them, and what now? Pure: it is
//! given what OpenVidu's file, its REST interface and Docker show, in this order of belief, and answers what becomes of the
//! recording. Nothing here asks or acts, and nothing here is decided about a container of OpenVidu that runs.

use crate::clock::Timestamp;
use crate::model::session::Disowned;
use std::time::Duration;

/// Stamps of two clocks that lie this close together have no order.
const UNCLEAR: Duration = Duration::from_secs(1);

/// What is known when it is to be decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    /// OpenVidu's file.
    pub(super) file: Word,
    /// OpenVidu's own container.
    pub(super) original: Original,
    /// What OpenVidu's REST interface says of the session.
    pub(super) answer: Answer,
    /// Whether that address has said before that this very session is recorded: no other address is believed.
    pub(super) vouched: bool,
    /// How long that address has refused connections, or let them time out, without a break.
    pub(super) silence: Duration,
    /// Whether OpenVidu has reported that it made another session of this one's id since.
    pub(super) succeeded: bool,
    /// When OpenVidu's server was started, where the runtime shows exactly one.
    pub(super) server_started_at: Option<Timestamp>,
    /// When OpenVidu made the recording.
    pub(super) ordered_at: Option<Timestamp>,
    /// `HA_ORPHAN_MINUTES`.
    pub(super) patience: Duration,
}

/// What OpenVidu's file says of this recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// That it is recorded; or the file is missing or cannot be read, which says nothing else.
    Records,
    /// That it was stopped; written at this time.
    Stopped(Option<Timestamp>),
    /// That it is ready.
    Ready,
    /// That it failed.
    Failed,
}

/// OpenVidu's own container, by the runtime's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Original {
    /// The runtime does not answer, or nobody knows which container it is.
    Unknown,
    /// It runs, is frozen, or is about to be started again.
    Runs,
    /// It is there and has ended.
    Ended {
        /// When it was last started.
        started_at: Option<Timestamp>,
        /// When it ended.
        ended_at: Option<Timestamp>,
    },
    /// It was removed, before this time where that is known.
    Gone {
        /// See above.
        before: Option<Timestamp>,
    },
}

/// What OpenVidu's REST interface says of a recording's session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nobody has asked: its address is not set.
    #[default]
    NotAsked,
    /// It is being recorded.
    Recorded,
    /// It is there and is not being recorded.
    NotRecorded,
    /// Another session has its id now.
    Another,
    /// There is none; and it was OpenVidu who said so.
    Unknown,
    /// The connection was refused or timed out.
    Silence,
    /// It has not come yet: nobody was patient enough to know anything.
    Late,
    /// Something that OpenVidu does not say of a session: a refusal, a fault, a page.
    Odd,
}

/// What becomes of the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// OpenVidu is at work on it, or may be: nothing of ours.
    Wait,
    /// It is recorded, by a backup where OpenVidu's container is gone.
    Record(Option<Doubt>),
    /// The backup finishes the video; OpenVidu has sealed it.
    Sealed,
    /// The backup finishes the video, which is kept; that it failed stays OpenVidu's word.
    Failed,
    /// What there is of it is finished, sealed, and reported as ready once.
    Disowned(Disowned),
}

/// Why nobody can say whether OpenVidu still wants what is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Its address is not set.
    NotAsked,
    /// The address has never said that this session is recorded.
    NeverVouched,
    /// It cannot be reached.
    Silence,
    /// Its answer is none of OpenVidu's.
    Odd,
}

/// What becomes of a recording.
pub(super) fn verdict(it: &Evidence) -> Verdict {
    match it.file {
        Word::Ready => Verdict::Sealed,
        Word::Failed => Verdict::Failed,
        Word::Stopped(at) if stop_fails(it.original, at) => Verdict::Disowned(Disowned::StopFails),
        Word::Stopped(_) => Verdict::Wait,
        Word::Records if it.original == Original::Runs => Verdict::Record(None),
        Word::Records if is_forgotten(it) => Verdict::Disowned(Disowned::Forgotten),
        Word::Records => Verdict::Record(doubt(it)),
    }
}

/// Whether OpenVidu's container was not there to hear the stop that its file told at `stopped_at`, and has not been since.
fn stop_fails(original: Original, stopped_at: Option<Timestamp>) -> bool {
    let Some(stopped_at) = stopped_at else {
        return false;
    };
    let before = |at: Timestamp| at.plus(UNCLEAR) < stopped_at;
    match original {
        Original::Gone { before: at } => at.is_some_and(before),
        Original::Ended {
            started_at,
            ended_at,
        } => started_at.is_none_or(before) && ended_at.is_some_and(before),
        Original::Runs | Original::Unknown => false,
    }
}

fn is_forgotten(it: &Evidence) -> bool {
    let says_so = matches!(
        it.answer,
        Answer::Unknown | Answer::Another | Answer::NotRecorded
    );
    // A server that comes up behind a proxy is a fault of the proxy for as long.
    let is_contradicted = matches!(it.answer, Answer::Recorded | Answer::Late);
    let given_up = it.answer == Answer::Silence && it.silence >= it.patience;
    it.succeeded || (it.vouched && (says_so || given_up)) || (!is_contradicted && was_restarted(it))
}

/// Whether OpenVidu's server was started after it had made the recording: it knows none of those before its start.
fn was_restarted(it: &Evidence) -> bool {
    match (it.server_started_at, it.ordered_at) {
        (Some(started), Some(ordered)) => started > ordered,
        _ => false,
    }
}

fn doubt(it: &Evidence) -> Option<Doubt> {
    match it.answer {
        Answer::NotAsked => Some(Doubt::NotAsked),
        Answer::Silence => Some(Doubt::Silence),
        Answer::Odd => Some(Doubt::Odd),
        Answer::Recorded | Answer::Late => None,
        Answer::NotRecorded | Answer::Another | Answer::Unknown => Some(Doubt::NeverVouched),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::session::tests::at;

    /// OpenVidu made the recording at 0, its container is gone since 10, and nothing else is known.
    fn gone() -> Evidence {
        Evidence {
            file: Word::Records,
            original: Original::Gone {
                before: Some(at(10)),
            },
            answer: Answer::NotAsked,
            vouched: true,
            silence: Duration::ZERO,
            succeeded: false,
            server_started_at: None,
            ordered_at: Some(at(0)),
            patience: Duration::from_secs(600),
        }
    }

    fn stopped(second: i64, original: Original) -> Evidence {
        Evidence {
            file: Word::Stopped(Some(at(second))),
            original,
            ..gone()
        }
    }

    fn ended(second: i64) -> Original {
        Original::Ended {
            started_at: Some(at(0)),
            ended_at: Some(at(second)),
        }
    }

    fn answered(answer: Answer) -> Evidence {
        Evidence { answer, ..gone() }
    }

    #[test]
    fn an_answer_that_is_late_proves_nothing() {
        let late = Evidence {
            server_started_at: Some(at(5)),
            ..answered(Answer::Late)
        };
        assert_eq!(verdict(&late), Verdict::Record(None));
        let nobody_asked = Evidence {
            answer: Answer::NotAsked,
            ..late
        };
        assert_eq!(verdict(&nobody_asked), FORGOTTEN);
    }

    const STOP_FAILS: Verdict = Verdict::Disowned(Disowned::StopFails);
    const FORGOTTEN: Verdict = Verdict::Disowned(Disowned::Forgotten);

    #[test]
    fn a_stop_that_found_no_container_is_ours_to_finish_and_any_other_is_openvidus() {
        let nobody_knows_when = Original::Gone { before: None };
        let started_since = Original::Ended {
            started_at: Some(at(25)),
            ended_at: Some(at(26)),
        };
        for (what, evidence, wanted) in [
            ("removed before", stopped(20, gone().original), STOP_FAILS),
            ("ended before", stopped(20, ended(12)), STOP_FAILS),
            (
                "removed within a second",
                stopped(11, gone().original),
                Verdict::Wait,
            ),
            (
                "ended within a second",
                stopped(13, ended(12)),
                Verdict::Wait,
            ),
            ("ended by it", stopped(20, ended(21)), Verdict::Wait),
            ("started since", stopped(20, started_since), Verdict::Wait),
            (
                "removed at some time",
                stopped(20, nobody_knows_when),
                Verdict::Wait,
            ),
            ("it runs", stopped(20, Original::Runs), Verdict::Wait),
            (
                "Docker is away",
                stopped(20, Original::Unknown),
                Verdict::Wait,
            ),
        ] {
            assert_eq!(verdict(&evidence), wanted, "{what}");
        }
    }

    #[test]
    fn what_openvidu_has_sealed_or_failed_is_its_own_word() {
        for (file, wanted) in [
            (Word::Ready, Verdict::Sealed),
            (Word::Failed, Verdict::Failed),
        ] {
            for answer in [Answer::Recorded, Answer::Unknown, Answer::Silence] {
                let evidence = Evidence {
                    file,
                    ..answered(answer)
                };
                assert_eq!(verdict(&evidence), wanted, "{answer:?}");
            }
        }
    }

    #[test]
    fn openvidu_has_forgotten_what_it_says_it_does_not_record_where_it_had_said_that_it_does() {
        for (answer, doubt) in [
            (Answer::Unknown, Doubt::NeverVouched),
            (Answer::Another, Doubt::NeverVouched),
            (Answer::NotRecorded, Doubt::NeverVouched),
        ] {
            assert_eq!(verdict(&answered(answer)), FORGOTTEN, "{answer:?}");
            let stranger = Evidence {
                vouched: false,
                ..answered(answer)
            };
            assert_eq!(verdict(&stranger), Verdict::Record(Some(doubt)));
            let running = Evidence {
                original: Original::Runs,
                ..answered(answer)
            };
            assert_eq!(verdict(&running), Verdict::Record(None), "{answer:?}");
        }
    }

    #[test]
    fn an_openvidu_that_was_started_after_the_recording_and_does_not_claim_it_has_forgotten_it() {
        let restarted = |answer, second| Evidence {
            server_started_at: Some(at(second)),
            ..answered(answer)
        };
        for answer in [Answer::Silence, Answer::NotAsked, Answer::Odd] {
            assert_eq!(verdict(&restarted(answer, 8)), FORGOTTEN, "{answer:?}");
            let earlier = verdict(&restarted(answer, -8));
            assert!(matches!(earlier, Verdict::Record(Some(_))), "{answer:?}");
        }
        // Who answers is believed.
        assert_eq!(
            verdict(&restarted(Answer::Recorded, 8)),
            Verdict::Record(None)
        );
        let unknown_order = Evidence {
            ordered_at: None,
            ..restarted(Answer::Silence, 8)
        };
        let silence = Verdict::Record(Some(Doubt::Silence));
        assert_eq!(verdict(&unknown_order), silence);
    }

    #[test]
    fn a_later_session_of_the_same_id_says_that_this_one_is_over() {
        for answer in [Answer::NotAsked, Answer::Silence, Answer::Odd] {
            let evidence = Evidence {
                succeeded: true,
                vouched: false,
                ..answered(answer)
            };
            assert_eq!(verdict(&evidence), FORGOTTEN, "{answer:?}");
        }
    }

    #[test]
    fn a_backup_goes_on_while_openvidu_records_or_cannot_be_understood() {
        for (answer, wanted) in [
            (Answer::Recorded, None),
            (Answer::NotAsked, Some(Doubt::NotAsked)),
            (Answer::Silence, Some(Doubt::Silence)),
            (Answer::Odd, Some(Doubt::Odd)),
        ] {
            let verdict = verdict(&answered(answer));
            assert_eq!(verdict, Verdict::Record(wanted), "{answer:?}");
        }
    }

    #[test]
    fn only_silence_of_an_address_that_had_answered_ends_a_backup_in_time() {
        let after = |seconds, answer, vouched| {
            verdict(&Evidence {
                silence: Duration::from_secs(seconds),
                vouched,
                ..answered(answer)
            })
        };
        let silence = Verdict::Record(Some(Doubt::Silence));
        assert_eq!(after(599, Answer::Silence, true), silence);
        assert_eq!(after(600, Answer::Silence, true), FORGOTTEN);
        assert_eq!(after(6_000, Answer::Silence, false), silence);
        let odd = Verdict::Record(Some(Doubt::Odd));
        assert_eq!(after(6_000, Answer::Odd, true), odd);
    }
}
