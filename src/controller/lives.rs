//! Lives of a recording in a world that is in memory only: the real controller over containers, recorders and an OpenVidu
//! of a few lines each, and a clock that moves when it is told to. Fate kills, freezes, cuts off and stops, takes Docker
//! away, and ends the controller between any two of its steps. Whatever it does, no two recorders are believed at once,
//! nothing that happened is forgotten, what records is not ended, and every recording comes to its end.

mod backups;
mod frozen;
mod jobs;
mod life;
mod news;
mod pages;
mod rest;
mod stalled;
mod story;
mod world;

use crate::model::session::State;
use proptest::prelude::*;
use std::time::Duration;
use story::{Fate, Story, heartbeat};
use world::{OpenVidu, Recorder, Says, Vessel};

const ID: &str = "ses_A";
const TAKE: &str = "1795577569000";
const SECOND: Duration = Duration::from_secs(1);
/// So long a disk is waited for that has not shown to be slow.
const DISK: Duration = Duration::from_millis(400);

fn any_fate() -> impl Strategy<Value = Fate> {
    use Fate::*;
    prop_oneof![
        4 => (1u8..12).prop_map(Seconds),
        6 => prop::sample::select(vec![Kill, KillFirstProcess, Remove, Pause, Unpause, CutOff, HangEncoder, HangProcess, Heal]),
        2 => prop::sample::select(vec![DockerGoes, DockerComes, DockerRestarts]),
        2 => (0u8..6).prop_map(ControllerDies),
        2 => prop::sample::select(vec![ControllerBegins, ControllerForgets, Asked]),
        1 => any_answer().prop_map(Say),
        1 => prop::sample::select(vec![OpenViduRestarts, Stop]),
    ]
}

fn any_answer() -> impl Strategy<Value = Says> {
    prop::sample::select(vec![Says::NothingKnown, Says::Fine, Says::Mends])
}

/// What does no harm to a recorder, however often it comes.
fn harmless_fate() -> impl Strategy<Value = Fate> {
    use Fate::*;
    prop_oneof![
        4 => (1u8..12).prop_map(Seconds),
        2 => (0u8..6).prop_map(ControllerDies),
        3 => prop::sample::select(vec![ControllerBegins, ControllerForgets, DockerGoes, DockerComes]),
        2 => prop::sample::select(vec![CutOff, Heal]),
        1 => any_answer().prop_map(Say),
    ]
}

/// `OV2_LIVES=1000` tries more of them.
fn lives() -> u32 {
    let wanted = std::env::var("OV2_LIVES").ok();
    wanted.and_then(|it| it.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(lives()) })]

    #[test]
    fn whatever_befalls_a_recording_one_recorder_goes_on_or_it_comes_to_its_end(
        fates in prop::collection::vec(any_fate(), 1..24),
    ) {
        let mut story = Story::begin();
        for fate in fates {
            story.befall(fate);
            let wrong = story.world().wrong.clone();
            prop_assert!(wrong.is_empty(), "{wrong:?}");
        }
        story.all_is_well(180);
        let session = story.session();
        let state = session.as_ref().map(|it| it.state.clone());
        if story.world().openvidu == OpenVidu::Records {
            let given_up = match state {
                Some(State::Failed { .. } | State::GivenUp { .. }) => true,
                None => story.nobody_remembers_it(),
                _ => false,
            };
            let goes_on = matches!(state, Some(State::Recording { .. })) && story.believed.len() == 1;
            prop_assert!(goes_on || given_up, "{state:?}, {:?} believed", story.believed);
        }
        story.befall(Fate::Stop);
        story.all_is_well(180);
        let wrong = story.world().wrong.clone();
        prop_assert!(wrong.is_empty(), "{wrong:?}");
        let session = story.session();
        let ended = session.as_ref().is_none_or(|it| it.over() && it.seal_at.is_none());
        prop_assert!(ended, "{:?}", session.map(|it| (it.state, it.seal_at)));
        let unknown = session.is_none();
        // What froze before this controller knew of it is nobody's.
        let left = |it: &&Vessel| it.lives() && (it.runs() || !unknown);
        let living = story.world().vessels.iter().filter(left).count();
        prop_assert_eq!(living, 0, "recorders are left");
    }

    #[test]
    fn a_recorder_whose_files_grow_is_never_replaced_whether_it_is_heard_or_not(
        fates in prop::collection::vec(harmless_fate(), 1..24),
    ) {
        let mut story = Story::begin();
        for fate in fates {
            story.befall(fate);
        }
        story.all_is_well(60);
        let session = story.session().unwrap();
        prop_assert_eq!(&session.failovers, &[]);
        prop_assert_eq!(&story.believed, &[1]);
    }
}
