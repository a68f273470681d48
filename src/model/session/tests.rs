//! The table of every event in every state, and random lives.

use super::*;
use crate::model::failover::{Policy, Reason, Seen};
use proptest::prelude::*;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_795_577_569_000 + seconds * 1_000)
}

pub(crate) fn holder(id: &str) -> Holder {
    Holder {
        id: ContainerId::parse(id).unwrap(),
        name: format!("name of {id}"),
        backup: false,
        created_at: at(0),
    }
}

pub(crate) fn session(state: State) -> Session {
    Session {
        id: RecordingId::parse("ses_A").unwrap(),
        take: TakeId::parse("1795577569000").ok(),
        run: RunNumber(1),
        state,
        created_at: at(0),
        heartbeat_at: at(0),
        advanced_at: at(0),
        last_chunk: None,
        report: Report::default(),
        page_troubled_at: None,
        finished_at: None,
        seal_at: None,
        container: Some(holder("first")),
        original: None,
        failovers: Vec::new(),
        client_id: "client".into(),
        video_name: None,
        disowned: None,
        ready_told: false,
    }
}

fn silent() -> Fault {
    Fault {
        reason: Reason::Silent,
        well_until: at(0),
    }
}

fn states() -> Vec<(&'static str, Session)> {
    let taking_over = |started_at| State::TakingOver {
        since: at(0),
        reason: Reason::Silent,
        started_at,
        not_before: at(0),
        tries: 0,
    };
    let since = at(0);
    let mut all = vec![
        ("starting", session(State::Starting { since })),
        ("recording", session(State::Recording { since })),
        ("replacing", session(taking_over(None))),
        ("replaced", session(taking_over(Some(at(0))))),
        ("paused", session(State::Paused { since })),
        ("stopping", session(State::Stopping { since })),
        ("completed", session(State::Completed { at: since })),
        (
            "failed",
            session(State::Failed {
                at: since,
                why: String::new(),
            }),
        ),
        ("inactive", session(State::Inactive { at: since })),
        (
            "givenup",
            session(State::GivenUp {
                at: since,
                why: String::new(),
            }),
        ),
    ];
    for (name, session) in &mut all {
        if name.starts_with("replac") {
            session.remember_failover(&silent(), at(0));
        }
    }
    all
}

fn name(session: &Session) -> &'static str {
    match session.state {
        State::Starting { .. } => "starting",
        State::Recording { .. } => "recording",
        State::TakingOver {
            started_at: None, ..
        } => "replacing",
        State::TakingOver { .. } => "replaced",
        State::Paused { .. } => "paused",
        State::Stopping { .. } => "stopping",
        State::Completed { .. } => "completed",
        State::Failed { .. } => "failed",
        State::Inactive { .. } => "inactive",
        State::GivenUp { .. } => "givenup",
    }
}

fn events() -> Vec<(&'static str, Event)> {
    let registered = |run| Event::Registered {
        run: RunNumber(run),
        holder: Some(holder("first")),
    };
    let heard = |chunk: Option<&str>| Event::Heard {
        last_chunk: chunk.map(str::to_owned),
        report: None,
    };
    let lost = Event::Lost {
        fault: silent(),
        not_before: at(9),
    };
    vec![
        ("register-same-run", registered(1)),
        ("register-next-run", registered(2)),
        ("register-old-run", registered(0)),
        ("heard", heard(None)),
        ("heard-chunk", heard(Some("0001.mp4"))),
        ("grown", Event::Grown(at(4))),
        ("lost", lost),
        ("replaced", Event::Replaced(holder("second"))),
        (
            "not-replaced",
            Event::NotReplaced {
                not_before: at(9),
                tries: 1,
            },
        ),
        ("thawed", Event::Thawed),
        ("given-up", Event::GivenUp("enough".into())),
        ("failed", Event::Failed("OpenVidu says so".into())),
        ("stop", Event::StopAsked),
        ("finished", Event::Finished),
        ("salvaged", Event::Salvaged),
        ("sealed", Event::Sealed),
        ("disowned", Event::Disowned(Disowned::Forgotten)),
        ("set-recording", Event::Set(Status::Recording)),
        ("set-paused", Event::Set(Status::Paused)),
        ("set-inactive", Event::Set(Status::Inactive)),
    ]
}

/// Every state (rows) and every event (columns, in the order of `events`): the state afterwards, with what is to be
/// done; or why nothing changed.
const TABLE: &str = "
starting  starting  replaced !superseded starting  recording starting      replacing+replace !superseded !notrecording     !notrecording givenup+salvage failed+salvage stopping+stop completed !superseded completed+stop stopping+stop recording paused    inactive
recording recording replaced !superseded recording recording recording     replacing+replace !superseded !notrecording     !notrecording givenup+salvage failed+salvage stopping+stop completed !superseded completed+stop stopping+stop recording paused    inactive
replacing replacing replaced !superseded replacing replacing !notrecording !notrecording     replaced    replacing+replace recording     givenup+salvage failed+salvage stopping+stop completed !superseded completed+stop stopping+stop replacing replacing inactive
replaced  replaced  replaced !superseded replaced  replaced  replaced      replacing+replace replaced    !notrecording     !notrecording givenup+salvage failed+salvage stopping+stop completed !superseded completed+stop stopping+stop replaced  replaced  inactive
paused    paused    paused   !superseded paused    paused    paused        replacing+replace !superseded !notrecording     !notrecording givenup+salvage failed+salvage stopping+stop completed !superseded completed+stop stopping+stop recording paused    inactive
stopping  !over     !over    !over       stopping  stopping  !notrecording stopping+stop     !over       !notrecording     !notrecording !over           failed+salvage stopping      completed completed   completed+stop stopping+stop !over     !over     inactive
completed !over     !over    !over       !over     !over     !notrecording !notrecording     !over       !notrecording     !notrecording !over           !over          completed     !over     completed   completed      completed     !over     !over     inactive
failed    !over     !over    !over       !over     !over     !notrecording !notrecording     !over       !notrecording     !notrecording !over           !over          failed        !over     failed      failed         failed        !over     !over     inactive
inactive  starting  starting !superseded inactive  inactive  !notrecording !notrecording     !over       !notrecording     !notrecording !over           failed+salvage inactive      completed inactive    completed+stop !over         recording paused    inactive
givenup   starting  starting !superseded recording recording !notrecording replacing+replace !superseded !notrecording     !notrecording givenup+salvage failed+salvage stopping+stop completed givenup     completed+stop stopping+stop recording paused    inactive
";

#[test]
fn every_event_in_every_state_does_what_the_table_says() {
    let rows = TABLE.trim().lines().map(str::split_whitespace);
    let states = states();
    assert_eq!(rows.clone().count(), states.len());
    for ((state, before), mut row) in states.into_iter().zip(rows) {
        assert_eq!(row.next(), Some(state));
        for (event_name, event) in events() {
            let mut session = before.clone();
            let told = match session.on(event, at(5)) {
                Ok(None) => name(&session).to_owned(),
                Ok(Some(action)) => format!("{}+{action:?}", name(&session)).to_lowercase(),
                Err(refusal) => {
                    assert_eq!(
                        session, before,
                        "{state}, {event_name}: refused but changed"
                    );
                    format!("!{refusal:?}").to_lowercase()
                }
            };
            assert_eq!(Some(told.as_str()), row.next(), "{state}, {event_name}");
        }
    }
}

#[test]
fn a_new_frame_of_the_new_run_ends_a_failover_and_one_of_the_old_run_does_not() {
    let mut session = session(State::Recording { since: at(0) });
    let lost = Event::Lost {
        fault: Fault {
            reason: Reason::Died { code: 137 },
            well_until: at(9),
        },
        not_before: at(10),
    };
    let heard = |chunk: &str| Event::Heard {
        last_chunk: Some(chunk.into()),
        report: None,
    };
    session.on(lost, at(10)).unwrap();
    session
        .on(Event::Replaced(holder("first")), at(11))
        .unwrap();
    session.on(heard("0002.mp4"), at(11)).unwrap();
    assert_eq!(name(&session), "replaced");
    let registered = Event::Registered {
        run: RunNumber(2),
        holder: None,
    };
    session.on(registered, at(12)).unwrap();
    session.on(heard("0003.mp4"), at(13)).unwrap();
    assert_eq!(name(&session), "recording");
    let failover = &session.failovers[0];
    assert_eq!((failover.well_until, failover.at), (at(9), at(10)));
    assert_eq!(
        (failover.start_ms, failover.recovery_ms),
        (Some(1_000), Some(3_000))
    );
}

#[test]
fn a_stop_that_openvidu_writes_over_our_seal_is_sealed_again_at_once() {
    for (disowned, wait) in [
        (None, SEAL_AFTER),
        (Some(Disowned::StopFails), Duration::ZERO),
    ] {
        let mut it = session(State::Completed { at: at(0) });
        (it.disowned, it.ready_told) = (disowned, disowned.is_some());
        assert_eq!(it.on(Event::StopAsked, at(9)), Ok(None));
        assert_eq!(it.seal_at, Some(at(9).plus(wait)), "{disowned:?}");
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    prop::sample::select(
        events()
            .into_iter()
            .map(|(_, event)| event)
            .collect::<Vec<_>>(),
    )
}

proptest! {
    /// Random lives: runs never go back, a session that ended stays so but for a client's word, a lost recorder is
    /// always answered for, and from every state there is a way out.
    #[test]
    fn no_life_of_a_session_goes_astray(lives in prop::collection::vec((any_event(), 0i64..40), 1..60)) {
        let policy = Policy::for_tests();
        let mut now = 0;
        let mut it = session(State::Starting { since: at(0) });
        for (event, pause) in lives {
            now += pause;
            let before = it.clone();
            let told = it.on(event.clone(), at(now));
            prop_assert!(it.run >= before.run);
            if told.is_err() {
                prop_assert_eq!(&it, &before);
            }
            if before.over() && !matches!(event, Event::Set(_)) {
                prop_assert!(it.over(), "{:?} revived {:?}", event, before.state);
            }
            if matches!(it.state, State::TakingOver { started_at: None, .. }) && name(&before) != "replacing" {
                prop_assert_eq!(told, Ok(Some(Action::Replace)));
                prop_assert_eq!(it.failovers.len(), before.failovers.len() + 1);
            }
            // Whoever is expected to record is looked at again, and so is what waits for its seal.
            let watched = it.state.status().active() || it.seal_at.is_some();
            prop_assert_eq!(watched, policy.due(&it, Seen::Running, at(0)).is_some());
        }
        let mut finished = it.clone();
        let _ = finished.on(Event::Failed("the end".into()), at(now));
        prop_assert!(finished.over());
    }
}
