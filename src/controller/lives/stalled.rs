//! A recorder whose files do not grow: who is asked, whose answer counts, and what is done where none comes.

use super::{Fate, Says, Story};
use crate::clock::{Clock, Timestamp};
use crate::model::failover::{Fault, Reason};
use crate::model::session::State;
use crate::model::wire::{Trouble, TroubleKind};
use crate::model::worry::{Severity, Worry};
use std::sync::Arc;
use std::time::Duration;

/// With limits as they come: silence or want of progress alone are noticed after 30 s.
fn story(says: Says) -> Story {
    let mut story = Story::begin_with(&[("HEARTBEAT_INTERVAL", "10"), ("CHUNK_TIME_SIZE", "10")]);
    story.befall(Fate::Say(says));
    story.befall(Fate::Seconds(10));
    story
}

impl Story {
    fn befall_all(&mut self, fates: &[Fate]) {
        fates.iter().for_each(|fate| self.befall(*fate));
    }

    fn lost_for(&self) -> Vec<Reason> {
        let session = self.session().unwrap();
        let all = session.failovers.iter();
        all.map(|it| it.reason.clone()).collect()
    }

    fn asked(&self) -> u32 {
        self.world().asked
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What is said of a run that does not grow.
    fn stall_worries(&self) -> Vec<Worry> {
        let life = self.life.as_ref().unwrap();
        let all = life.controller.worries().into_iter();
        all.filter(|it| it.text.contains("has not grown")).collect()
    }
}

#[test]
fn a_recorder_that_hangs_is_asked_before_its_five_seconds_are_over_and_replaced_after_them() {
    let mut story = story(Says::Fine);
    let hung_at = story.now();
    story.befall_all(&[Fate::HangProcess, Fate::Seconds(2)]);
    assert_eq!((story.asked(), story.lost_for()), (0, vec![]));
    story.befall(Fate::Seconds(1));
    assert_eq!(
        (story.asked(), story.lost_for()),
        (2, vec![Reason::Stalled])
    );
    let failover = story.session().unwrap().failovers[0].clone();
    assert_eq!(failover.well_until, hung_at);
    assert_eq!(failover.at.since(hung_at), Duration::from_secs(6));
    story.befall(Fate::Seconds(30));
    assert_eq!(story.lost_for(), [Reason::Stalled]);
    assert_eq!(story.believed, [2]);
}

#[test]
fn a_recorder_that_answers_is_left_alone_and_told_and_asked_less_and_less_often() {
    for (says, word) in [(Says::Fine, "it records"), (Says::Mends, "mends the page")] {
        let mut story = story(says);
        story.befall_all(&[Fate::HangEncoder, Fate::Seconds(27)]);
        assert_eq!(story.lost_for(), [], "{says:?}");
        // After 3, 8 and 18 s.
        assert_eq!(story.asked(), 3, "{says:?}");
        let worries = story.stall_worries();
        assert_eq!(worries.len(), 1, "{worries:?}");
        assert!(worries[0].text.contains(word), "{worries:?}");
        assert_eq!(worries[0].severity, Severity::Look);
        story.befall_all(&[Fate::Heal, Fate::Seconds(2)]);
        assert_eq!(story.stall_worries(), []);
        assert_eq!(story.believed, [1]);
    }
}

#[test]
fn an_answer_excuses_from_the_slow_limits_but_nobody_mends_for_ever() {
    let mut fine = story(Says::Fine);
    fine.befall_all(&[Fate::HangEncoder, Fate::Seconds(200)]);
    assert_eq!(fine.lost_for(), []);
    let mut mends = story(Says::Mends);
    mends.befall_all(&[Fate::HangEncoder, Fate::Seconds(58)]);
    assert_eq!(mends.lost_for(), []);
    mends.befall(Fate::Seconds(32));
    assert_eq!(mends.lost_for(), [Reason::Stuck]);
    // One that nobody hears and whose files are elsewhere.
    let mut deaf = story(Says::Fine);
    deaf.world().writes_elsewhere = true;
    deaf.befall_all(&[Fate::CutOff, Fate::Seconds(100)]);
    assert_eq!(deaf.lost_for(), []);
    // After 30, 35, 45, 65 and 95 s: not at every look.
    assert_eq!(deaf.asked(), 5);
}

#[test]
fn a_disk_that_hangs_is_nobodys_fault() {
    let mut story = story(Says::Fine);
    story.world().disk_hangs = true;
    story.befall_all(&[Fate::HangProcess, Fate::Seconds(12)]);
    assert_eq!((story.asked(), story.lost_for()), (0, vec![]));
    let worries = story.stall_worries();
    assert_eq!(worries.len(), 1, "{worries:?}");
    assert_eq!(worries[0].severity, Severity::Act);
    assert!(
        worries[0].text.contains("disk does not answer"),
        "{worries:?}"
    );
    story.world().disk_hangs = false;
    story.befall(Fate::Seconds(10));
    assert_eq!(story.lost_for(), [Reason::Stalled]);
}

#[test]
fn where_the_disk_refuses_a_word_nobody_is_lost_before_the_slow_limits() {
    let mut story = story(Says::Fine);
    story.world().disk_refuses = true;
    story.befall_all(&[Fate::HangProcess, Fate::Seconds(29)]);
    assert_eq!((story.asked(), story.lost_for()), (0, vec![]));
    story.befall(Fate::Seconds(3));
    assert_eq!(story.lost_for(), [Reason::Silent]);
    let mut answers = self::story(Says::Fine);
    answers.world().disk_refuses = true;
    answers.befall_all(&[Fate::HangEncoder, Fate::CutOff, Fate::Seconds(60)]);
    assert_eq!(answers.lost_for(), []);
}

#[test]
fn where_nobody_can_be_asked_the_slow_limits_hold_as_ever() {
    let mut old = story(Says::NothingKnown);
    old.befall_all(&[Fate::HangProcess, Fate::Seconds(29)]);
    assert_eq!(old.lost_for(), []);
    assert_eq!(old.stall_worries(), [], "nobody knows");
    old.befall(Fate::Seconds(3));
    assert_eq!(old.lost_for(), [Reason::Silent]);
    let mut away = story(Says::Fine);
    away.befall_all(&[Fate::HangProcess, Fate::DockerGoes, Fate::Seconds(29)]);
    assert_eq!(away.lost_for(), []);
    away.befall(Fate::Seconds(3));
    assert_eq!(away.lost_for(), [Reason::Silent]);
    let mut hangs = story(Says::DockerHangs);
    hangs.befall_all(&[Fate::HangProcess, Fate::Seconds(7)]);
    assert_eq!((hangs.asked(), hangs.lost_for()), (1, vec![]));
}

#[test]
fn whoever_grows_is_not_asked_whether_it_is_by_files_or_by_heartbeats() {
    let mut unseen = story(Says::Fine);
    unseen.world().writes_elsewhere = true;
    unseen.befall(Fate::Seconds(60));
    assert_eq!(unseen.asked(), 0);
    let mut unheard = story(Says::Fine);
    unheard.befall_all(&[Fate::CutOff, Fate::Seconds(25)]);
    assert_eq!(unheard.asked(), 0);
}

#[test]
fn what_nobody_could_see_while_the_controller_slept_does_not_count() {
    let mut story = story(Says::Fine);
    story.befall(Fate::HangProcess);
    let life = story.life.as_ref().unwrap();
    *super::super::lock(&life.controller.0.awake_at) = Some(story.now());
    story.clock.advance(Duration::from_secs(60));
    life.runtime.block_on(life.controller.check());
    life.settle();
    *super::super::lock(&life.controller.0.awake_at) = None;
    story.befall(Fate::Seconds(2));
    assert_eq!((story.asked(), story.lost_for()), (0, vec![]));
    story.befall(Fate::Seconds(1));
    assert_eq!(
        (story.asked(), story.lost_for()),
        (2, vec![Reason::Stalled])
    );
}

#[test]
fn they_are_asked_one_after_the_other() {
    let mut story = story(Says::Fine);
    let proofs = Arc::clone(&story.life.as_ref().unwrap().controller.0.proofs);
    let another = proofs.try_acquire_owned().unwrap();
    story.befall_all(&[Fate::HangProcess, Fate::Seconds(20)]);
    assert_eq!((story.asked(), story.lost_for()), (0, vec![]));
    drop(another);
    story.befall(Fate::Seconds(1));
    assert_eq!(
        (story.asked(), story.lost_for()),
        (2, vec![Reason::Stalled])
    );
}

#[test]
fn whoever_seems_silent_and_gets_no_turn_is_not_lost_for_it() {
    let mut story = story(Says::Fine);
    story.world().writes_elsewhere = true;
    let controller = story.life.as_ref().unwrap().controller.clone();
    let excuses = Arc::clone(&controller.0.excuses);
    let all = u32::try_from(excuses.available_permits()).unwrap();
    let another = excuses.try_acquire_many_owned(all).unwrap();
    story.befall(Fate::CutOff);
    story.clock.advance(Duration::from_secs(31));
    let life = story.life.as_ref().unwrap();
    life.runtime.block_on(async { controller.pass() });
    life.a_few_steps(250);
    assert_eq!((story.asked(), story.lost_for()), (0, vec![]));
    drop(another);
    life.settle();
    assert_eq!((story.asked(), story.lost_for()), (1, vec![]));
}

#[test]
fn one_that_misses_a_question_or_is_heard_meanwhile_is_left_alone() {
    let mut busy = story(Says::Fine);
    busy.world().unheard = 1;
    busy.befall_all(&[Fate::HangEncoder, Fate::Seconds(4)]);
    assert_eq!((busy.asked(), busy.lost_for()), (2, vec![]));
    let mut heard = story(Says::Fine);
    heard.befall(Fate::HangProcess);
    heard.world().asking_hangs = true;
    heard.clock.advance(Duration::from_secs(3));
    let life = heard.life.as_ref().unwrap();
    life.runtime.block_on(async { life.controller.pass() });
    while heard.asked() == 0 {
        life.a_few_steps(10);
    }
    let recorder = heard.world().vessels[0].recorder.clone().unwrap();
    let id = heard.session().unwrap().id;
    life.controller
        .heartbeat(&id, super::heartbeat(&recorder))
        .unwrap();
    heard.world().asking_hangs = false;
    life.settle();
    assert_eq!((heard.asked(), heard.lost_for()), (2, vec![]));
}

#[test]
fn a_disk_that_is_only_slow_is_waited_for_and_excuses_nobody_for_ever() {
    let mut quick = story(Says::Fine);
    quick.world().disk_takes = Duration::from_secs(3);
    quick.befall_all(&[Fate::HangProcess, Fate::Seconds(4)]);
    assert_eq!((quick.asked(), quick.lost_for()), (0, vec![]));
    quick.befall(Fate::Seconds(10));
    assert_eq!(quick.lost_for(), [Reason::Stalled]);
    // Where nobody can be asked, it is waited for as long as one word takes.
    let mut old = story(Says::NothingKnown);
    old.world().disk_hangs = true;
    old.befall_all(&[Fate::HangProcess, Fate::Seconds(50)]);
    assert_eq!(old.lost_for(), []);
    old.world().disk_hangs = false;
    old.befall(Fate::Seconds(35));
    assert_eq!(old.lost_for(), [Reason::Silent]);
    // Nor does a word count that does not come back while others record on beside it.
    let beside = |says, fates: &[Fate]| {
        let mut beside = story(says);
        beside.world().disk_hangs = true;
        beside.befall_all(fates);
        for _ in 0..45 {
            let life = beside.life.as_ref().unwrap();
            life.controller.0.disk.grew();
            beside.befall(Fate::Seconds(1));
        }
        beside.lost_for()
    };
    let hangs = beside(Says::NothingKnown, &[Fate::HangProcess]);
    assert_eq!(hangs, [Reason::Silent]);
    // Whoever answers is left alone there, too.
    let answers = beside(Says::Fine, &[Fate::HangEncoder, Fate::CutOff]);
    assert_eq!(answers, []);
}

#[test]
fn a_recorder_that_cannot_be_asked_before_it_is_fenced_is_waited_for_and_its_files_tell() {
    let mut story = story(Says::DockerGoes);
    story.befall_all(&[Fate::HangProcess, Fate::Seconds(20)]);
    assert_eq!(story.lost_for(), [Reason::Stalled]);
    story.befall_all(&[Fate::Say(Says::NothingKnown), Fate::CutOff]);
    // It is there again, and nobody hears it.
    let id = story.world().vessels[0].container.id.clone();
    story.hang(&id, false);
    story.befall_all(&[Fate::DockerComes, Fate::Seconds(4)]);
    let session = story.session().unwrap();
    let records = matches!(session.state, State::Recording { .. });
    assert!(records, "{:?}", session.state);
    assert_eq!(session.failovers[0].start_ms, None);
    // One of which nothing is seen is lost when any silent one is.
    let mut dead = self::story(Says::DockerGoes);
    dead.befall_all(&[Fate::HangProcess, Fate::Seconds(10)]);
    dead.befall_all(&[Fate::Say(Says::NothingKnown), Fate::DockerComes]);
    dead.befall(Fate::Seconds(10));
    assert_eq!(dead.session().unwrap().failovers[0].start_ms, None);
    dead.befall(Fate::Seconds(20));
    assert_ne!(dead.session().unwrap().failovers[0].start_ms, None);
}

#[test]
fn nobody_who_is_not_heard_is_waited_for_for_ever_whether_it_mends_or_records_another_one() {
    for says in [Says::Mends, Says::RecordsAnother] {
        let mut story = story(says);
        story.befall_all(&[Fate::HangEncoder, Fate::CutOff, Fate::Seconds(58)]);
        assert_eq!(story.lost_for(), []);
        story.befall(Fate::Seconds(32));
        assert_eq!(story.lost_for(), [Reason::Silent]);
    }
}

#[test]
fn growth_counts_whoever_sees_it_and_a_thread_that_a_disk_keeps_ends_no_watch() {
    let mut story = story(Says::Fine);
    let controller = story.life.as_ref().unwrap().controller.clone();
    let _kept = controller.0.rounds.begin().unwrap();
    story.befall_all(&[Fate::CutOff, Fate::Seconds(9)]);
    let advanced_at = story.session().unwrap().advanced_at;
    assert!(story.now().since(advanced_at) <= Duration::from_secs(3));
    story.befall(Fate::Seconds(60));
    story.befall(Fate::Seconds(1));
    assert_eq!(story.session().unwrap().advanced_at, story.now());
    assert_eq!((story.asked(), story.lost_for()), (0, vec![]));
}

#[test]
fn an_excuse_ends_with_what_is_heard_of_the_run() {
    let mut story = story(Says::Mends);
    story.befall_all(&[Fate::HangEncoder, Fate::Seconds(12)]);
    assert_eq!(story.stall_worries().len(), 1);
    story.befall(Fate::Heal);
    story.world().writes_elsewhere = true;
    story.befall(Fate::Seconds(1));
    assert_eq!(story.stall_worries(), []);
}

#[test]
fn a_fault_stays_one_where_no_file_was_ever_seen() {
    let mut story = Story::begin();
    story.befall(Fate::Seconds(5));
    let life = story.life.as_ref().unwrap();
    let (id, controller) = (story.session().unwrap().id, &life.controller);
    // As where it records on another machine.
    std::fs::remove_dir_all(story.folder.path().join(super::ID)).unwrap();
    controller.table().change(&id, |entry| entry.stall = None);
    let fault = Fault {
        reason: Reason::Reported {
            message: "its health check fails".into(),
        },
        well_until: story.now(),
    };
    let look = async { controller.look_for_growth(&id, fault) };
    life.runtime.block_on(look);
    life.settle();
    assert_eq!(story.lost_for().len(), 1);
}

#[test]
fn what_could_not_grow_in_a_freeze_is_not_asked_why_when_it_is_over() {
    let mut story = story(Says::Fine);
    story.befall_all(&[Fate::Pause, Fate::Seconds(4), Fate::HangEncoder]);
    story.befall_all(&[Fate::Unpause, Fate::Seconds(2)]);
    assert_eq!(story.asked(), 0);
    story.befall(Fate::Seconds(2));
    assert_eq!(story.asked(), 1);
}

#[test]
fn what_was_known_of_growth_goes_with_the_recording() {
    let mut story = story(Says::Fine);
    let known = |story: &Story| {
        let controller = &story.life.as_ref().unwrap().controller;
        let id = story.session().unwrap().id;
        controller.table().get(&id).unwrap().stall.is_some()
    };
    assert!(known(&story));
    story.befall_all(&[Fate::Stop, Fate::Seconds(60)]);
    assert!(story.session().unwrap().over());
    assert!(!known(&story));
}

#[test]
fn a_recorder_that_stops_or_was_replaced_meanwhile_is_not_fenced_for_what_was_found() {
    let mut story = story(Says::Fine);
    story.befall(Fate::HangProcess);
    story.world().asking_hangs = true;
    story.clock.advance(Duration::from_secs(3));
    let life = story.life.as_ref().unwrap();
    life.runtime.block_on(async { life.controller.pass() });
    while story.asked() == 0 {
        life.a_few_steps(10);
    }
    // Nobody tells the controller of it.
    let seal = story.folder.path().join(super::ID).join(".recording.ses_A");
    let text = std::fs::read_to_string(&seal).unwrap();
    std::fs::write(&seal, text.replace("started", "stopped")).unwrap();
    story.world().asking_hangs = false;
    life.settle();
    assert_eq!((story.asked(), story.lost_for()), (2, vec![]));
    let stops = matches!(story.session().unwrap().state, State::Stopping { .. });
    assert!(stops, "{:?}", story.session().unwrap().state);
}

#[test]
fn a_recorder_that_answers_again_before_it_is_fenced_records_on() {
    let mut story = story(Says::DockerGoes);
    story.befall_all(&[Fate::HangProcess, Fate::Seconds(30)]);
    assert_eq!(story.lost_for(), [Reason::Stalled]);
    story.befall_all(&[Fate::Say(Says::Fine), Fate::Heal, Fate::Seconds(5)]);
    story.befall_all(&[Fate::DockerComes, Fate::Seconds(30)]);
    let session = story.session().unwrap();
    let records = matches!(session.state, State::Recording { .. });
    assert!(records, "{:?}", session.state);
    assert_eq!(session.failovers.len(), 1);
    assert_eq!(session.failovers[0].start_ms, None);
    assert_eq!(story.believed, [1]);
}

#[test]
fn all_sessions_are_judged_once_a_second_and_anew_when_one_changes() {
    let mut story = story(Says::Fine);
    let controller = story.life.as_ref().unwrap().controller.clone();
    let first = controller.judged();
    assert!(Arc::ptr_eq(&first, &controller.judged()));
    story.befall(Fate::Seconds(1));
    let second = controller.judged();
    assert!(!Arc::ptr_eq(&first, &second));
    // A heartbeat that says nothing new is none.
    let recorder = story.world().vessels[0].recorder.clone().unwrap();
    let id = story.session().unwrap().id;
    let mut heard = super::heartbeat(&recorder);
    controller.heartbeat(&id, heard.clone()).unwrap();
    assert!(Arc::ptr_eq(&second, &controller.judged()));
    let report = heard.report.as_mut().unwrap();
    report.troubles.push(Trouble {
        kind: TroubleKind::Page,
        message: "the page is gone".into(),
    });
    controller.heartbeat(&id, heard).unwrap();
    let third = controller.judged();
    assert!(!Arc::ptr_eq(&second, &third));
    story.befall(Fate::Stop);
    assert!(!Arc::ptr_eq(&third, &controller.judged()));
}

#[test]
fn a_disk_that_has_kept_many_threads_is_told_and_tried_again_every_few_minutes() {
    let mut story = story(Says::Fine);
    let rounds = Arc::clone(&story.life.as_ref().unwrap().controller.0.rounds);
    let told = |story: &Story| {
        let all = story.life.as_ref().unwrap().controller.worries();
        let told = |it: &&Worry| it.text.contains("has not answered for a long time");
        all.iter()
            .filter(told)
            .map(|it| it.severity)
            .collect::<Vec<_>>()
    };
    let mut kept = Vec::new();
    for _ in 0..8 {
        assert_eq!(told(&story), []);
        kept.push(rounds.begin().unwrap());
        story.befall(Fate::Seconds(60));
    }
    assert_eq!(told(&story), [Severity::Look]);
    story.befall(Fate::Seconds(235));
    assert_eq!(told(&story), [Severity::Look]);
    // It comes back.
    story.befall(Fate::Seconds(10));
    assert_eq!(told(&story), []);
    assert_eq!(story.lost_for(), []);
    story.befall_all(&[Fate::HangProcess, Fate::Seconds(4)]);
    assert_eq!(story.lost_for(), [Reason::Stalled]);
}

#[test]
fn five_failovers_of_long_ago_are_none_of_now_when_the_clock_was_set_back() {
    let mut story = story(Says::Fine);
    for _ in 0..5 {
        story.befall_all(&[Fate::Asked, Fate::Seconds(20)]);
    }
    (0..20).for_each(|_| story.befall(Fate::Seconds(60)));
    let controller = story.life.as_ref().unwrap().controller.clone();
    let id = story.world().vessels[0].container.id.clone();
    while controller.count_restart(&id).is_some() {}
    story.clock.advance(Duration::from_secs(1_200));
    set_back_by_an_hour(&story);
    assert_eq!(controller.count_restart(&id), Some(0));
    story.befall_all(&[Fate::KillFirstProcess, Fate::Seconds(30)]);
    let session = story.session().unwrap();
    assert_eq!(session.failovers.len(), 6);
    assert!(
        matches!(session.state, State::Recording { .. }),
        "{:?}",
        session.state
    );
}

#[test]
fn what_a_run_was_excused_for_before_it_went_on_is_not_held_against_it_later() {
    let mut story = story(Says::Mends);
    story.befall_all(&[Fate::HangEncoder, Fate::Seconds(30)]);
    let asked = story.asked();
    // It goes on, as far as its heartbeats tell.
    story.world().writes_elsewhere = true;
    story.world().encoder_hangs = false;
    story.befall(Fate::Seconds(2));
    assert_eq!((story.asked(), story.stall_worries()), (asked, vec![]));
    let again_at = story.now();
    story.befall_all(&[Fate::HangEncoder, Fate::Seconds(4)]);
    let worries = story.stall_worries();
    assert_eq!(worries.len(), 1, "{worries:?}");
    assert_eq!(worries[0].since, again_at);
    // After 3 s, and 5 s later: as soon as for the first time.
    assert_eq!(story.asked(), asked + 1);
    story.befall(Fate::Seconds(5));
    assert_eq!(story.asked(), asked + 2);
}

#[test]
fn a_recorder_that_did_not_answer_is_not_waited_for_for_ever_because_the_disk_hangs_since() {
    let mut story = story(Says::DockerGoes);
    story.befall_all(&[Fate::HangProcess, Fate::Seconds(5)]);
    assert_eq!(story.lost_for(), [Reason::Stalled]);
    story.world().disk_hangs = true;
    story.befall_all(&[Fate::Say(Says::NothingKnown), Fate::DockerComes]);
    for (seconds, is_waited_for) in [(25, true), (25, true), (15, false)] {
        story.clock.advance(Duration::from_secs(seconds));
        story.befall(Fate::Seconds(2));
        let start = story.session().unwrap().failovers[0].start_ms;
        assert_eq!(start.is_none(), is_waited_for, "{start:?}");
    }
}

fn set_back_by_an_hour(story: &Story) {
    let life = story.life.as_ref().unwrap();
    *super::super::lock(&life.controller.0.awake_at) = Some(story.now());
    story.clock.set_back(Duration::from_secs(3_600));
    life.runtime.block_on(life.controller.check());
    life.settle();
    *super::super::lock(&life.controller.0.awake_at) = None;
}

#[test]
fn what_is_waited_for_is_not_put_off_for_hours_by_a_clock_that_was_set_back() {
    let mut story = story(Says::Fine);
    let life = story.life.as_ref().unwrap();
    let controller = life.controller.clone();
    let news = serde_json::json!({"id": "ses_Y", "status": "started", "outputMode": "COMPOSED", "hasVideo": true});
    {
        let _inside = life.runtime.enter();
        controller.recording_status_changed(&serde_json::from_value(news).unwrap());
    }
    life.runtime.block_on(controller.cleanup());
    set_back_by_an_hour(&story);
    let chunk = story.folder.path().join("ses_Z/chunks/1/r1/0001.mp4");
    std::fs::create_dir_all(chunk.parent().unwrap()).unwrap();
    std::fs::write(&chunk, "").unwrap();
    life.runtime.block_on(controller.cleanup());
    assert_eq!(controller.tries_to_finish_stored("ses_Z/chunks/1"), Some(0));
    story.befall(Fate::Seconds(11));
    assert_eq!(controller.unheard_of().len(), 1);
}
