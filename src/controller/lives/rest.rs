//! The same world with an OpenVidu that can be asked: over a real connection, while the clock moves when it is told to.

use super::{Fate, ID, SECOND, Story, TAKE};
use crate::clock::Clock;
use crate::join::samples::{beginning, fragment};
use crate::model::ids::RecordingId;
use crate::model::session::{Disowned, Event, Session, State, Status};
use crate::model::wire::RecordingStatusChanged;
use crate::model::worry::{Severity, Worry};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What OpenVidu says, or what stands in its place.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    Recorded,
    Forgotten,
    Nonsense,
    /// Nobody listens any more.
    Nothing,
}

struct OpenVidu {
    port: u16,
    says: Arc<Mutex<Says>>,
    thread: Option<JoinHandle<()>>,
}

impl OpenVidu {
    fn that(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let says = Arc::new(Mutex::new(says));
        let shared = Arc::clone(&says);
        let serve = move || {
            for stream in listener.incoming() {
                match *shared.lock().unwrap() {
                    Says::Nothing => return,
                    says => answer(stream.unwrap(), says),
                }
            }
        };
        let thread = Some(std::thread::spawn(serve));
        Self { port, says, thread }
    }

    fn says(&mut self, says: Says) {
        *self.says.lock().unwrap() = says;
        if says == Says::Nothing
            && let Some(thread) = self.thread.take()
        {
            // Wakes it, so that it ends.
            drop(TcpStream::connect(("127.0.0.1", self.port)));
            thread.join().unwrap();
        }
    }

    fn story(&self) -> Story {
        let url = format!("http://127.0.0.1:{}", self.port);
        let mut story = Story::begin_with(&[("OPENVIDU_URL", &url), ("OPENVIDU_SECRET", "s")]);
        story.befall(Fate::Seconds(10));
        story
    }
}

impl Drop for OpenVidu {
    fn drop(&mut self) {
        self.says(Says::Nothing);
    }
}

fn answer(mut stream: TcpStream, says: Says) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request = lines.next().and_then(Result::ok).unwrap_or_default();
    // The whole of it, or the answer is lost with what was not read.
    while lines
        .next()
        .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
    {}
    let of_session = request.contains("/api/sessions/ses_A ");
    let (status, body) = match says {
        Says::Recorded => (200, r#"{"id":"ses_A","createdAt":1,"recording":true}"#),
        Says::Forgotten if of_session => (404, "{}"),
        Says::Forgotten => (
            200,
            r#"{"id":"ses_A","object":"recording","status":"started"}"#,
        ),
        Says::Nonsense | Says::Nothing => (502, "<html>"),
    };
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
    // Whoever asked may have gone.
    let _ = write!(stream, "{head}Connection: close\r\n\r\n{body}");
}

/// Whether one recorder lives, and the controller believes in it.
fn records(story: &Story) -> bool {
    let session = story.session().unwrap();
    let living = story.world().vessels.iter().filter(|it| it.lives()).count();
    session.may_be_ended() && living == 1
}

fn is_over(story: &Story) -> bool {
    let session = story.session().unwrap();
    let living = story.world().vessels.iter().filter(|it| it.lives()).count();
    session.over() && session.seal_at.is_none() && living == 0
}

fn minutes(story: &mut Story, count: u8) {
    (0..count).for_each(|_| story.befall(Fate::Seconds(60)));
}

#[test]
fn a_backup_of_an_openvidu_that_has_gone_silent_ends_after_its_time_and_not_before() {
    let mut openvidu = OpenVidu::that(Says::Recorded);
    let mut story = openvidu.story();
    openvidu.says(Says::Nothing);
    story.befall(Fate::Remove);
    minutes(&mut story, 9);
    assert!(records(&story), "{:?}", story.session());
    let worries = story.life.as_ref().unwrap().controller.worries();
    assert!(
        worries.iter().any(|it| it.severity == Severity::Act),
        "{worries:?}"
    );
    minutes(&mut story, 2);
    assert!(is_over(&story), "{:?}", story.session());
}

#[test]
fn a_silence_of_an_address_that_never_answered_or_an_answer_of_another_ends_nothing() {
    for before in [Says::Nonsense, Says::Recorded] {
        let mut openvidu = OpenVidu::that(before);
        let mut story = openvidu.story();
        openvidu.says(match before {
            Says::Nonsense => Says::Nothing,
            _ => Says::Nonsense,
        });
        story.befall(Fate::Remove);
        minutes(&mut story, 40);
        assert!(records(&story), "{:?}", story.session());
    }
}

#[test]
fn what_was_vouched_for_is_remembered_by_the_next_controller() {
    let mut openvidu = OpenVidu::that(Says::Recorded);
    let mut story = openvidu.story();
    story.befall(Fate::ControllerDies(0));
    openvidu.says(Says::Forgotten);
    story.befall(Fate::Remove);
    story.befall(Fate::ControllerBegins);
    minutes(&mut story, 1);
    assert!(is_over(&story), "{:?}", story.session());
}

#[test]
fn a_backup_is_asked_about_at_every_check_and_goes_on_while_openvidu_records() {
    let mut openvidu = OpenVidu::that(Says::Recorded);
    let mut story = openvidu.story();
    story.befall(Fate::Remove);
    minutes(&mut story, 20);
    assert!(records(&story), "{:?}", story.session());
    openvidu.says(Says::Forgotten);
    story.befall(Fate::Seconds(20));
    assert!(is_over(&story), "{:?}", story.session());
}

/// What OpenVidu posts of a recording.
fn report(id: &str, status: &str, mode: &str, has_video: bool) -> RecordingStatusChanged {
    let report = serde_json::json!({ "id": id, "status": status, "outputMode": mode, "hasVideo": has_video });
    serde_json::from_value(report).unwrap()
}

#[test]
fn a_recording_of_which_no_recorder_registers_is_a_worry_until_it_ends() {
    let story = Story::begin();
    let controller = &story.life.as_ref().unwrap().controller;
    let _inside = story.life.as_ref().unwrap().runtime.enter();
    for (id, mode, has_video) in [
        ("ses_Z", "COMPOSED", true),
        ("ses_Q", "COMPOSED_QUICK_START", true),
        ("ses_I", "INDIVIDUAL", true),
        ("ses_S", "COMPOSED", false),
        // A recorder of it is at work.
        ("ses_A", "COMPOSED", true),
    ] {
        controller.recording_status_changed(&report(id, "started", mode, has_video));
    }
    let told = || {
        let unheard = controller.worries().into_iter();
        let unheard = unheard.filter(|it| it.text.contains("no recorder has registered"));
        unheard.map(|it| it.subject).collect::<Vec<_>>()
    };
    story.clock.advance(9 * SECOND);
    assert_eq!(told(), Vec::<String>::new());
    story.clock.advance(2 * SECOND);
    assert_eq!(told(), ["ses_Q", "ses_Z"]);
    let ids = controller.unprotected();
    assert!(
        ["ses_Q", "ses_Z"]
            .iter()
            .all(|id| ids.iter().any(|it| it.as_str() == *id)),
        "{ids:?}"
    );
    controller.look_for_the_expected();
    assert_eq!(told(), ["ses_Q", "ses_Z"]);
    controller.recording_status_changed(&report("ses_Z", "stopped", "COMPOSED", true));
    // Of the other one only OpenVidu's file says so.
    let folder = story.folder.path().join("ses_Q");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(
        folder.join(".recording.ses_Q"),
        r#"{"id":"ses_Q","status":"ready"}"#,
    )
    .unwrap();
    controller.look_for_the_expected();
    assert_eq!(told(), Vec::<String>::new());
}

/// A recording of which `chunk` is all there is, and which OpenVidu has forgotten.
fn forgotten_with(chunk: impl FnOnce(&Path)) -> Story {
    let mut story = Story::begin();
    story.befall(Fate::Seconds(10));
    {
        let mut world = story.world();
        world.keeps_chunks = true;
        let container = world.victim().unwrap();
        world.clear(&container);
    }
    let run = story.folder.path().join(format!("{ID}/chunks/{TAKE}/r1"));
    std::fs::remove_dir_all(&run).unwrap();
    std::fs::create_dir(&run).unwrap();
    chunk(&run.join("0001.mp4"));
    story.takes(Event::Disowned(Disowned::Forgotten));
    story.befall(Fate::Seconds(20));
    assert!(run.join("0001.mp4").exists());
    story
}

/// One that could be shown, if there were not something else where the video belongs.
fn without_a_place(chunk: &Path) {
    std::fs::write(chunk, [beginning(), fragment(1_000.0)].concat()).unwrap();
    let recording = chunk.ancestors().nth(4).unwrap();
    std::fs::create_dir_all(recording.join("ses_A.mp4/full")).unwrap();
}

impl Story {
    /// The event reaches the session.
    fn takes(&self, event: Event) {
        let (life, session) = (self.life.as_ref().unwrap(), self.session().unwrap());
        let _inside = life.runtime.enter();
        life.controller.apply(&session.id, event).unwrap();
    }

    fn clear_the_place(&self) {
        let there = self.folder.path().join(ID).join("ses_A.mp4");
        std::fs::remove_dir_all(there).unwrap();
    }

    /// What is said of a video that could not be finished, and how often that was tried.
    fn unfinished(&self) -> Vec<(Severity, u32)> {
        let controller = &self.life.as_ref().unwrap().controller;
        let told = |it: &Worry| it.text.contains("could not be finished yet: cannot ");
        let told = controller.worries().into_iter().filter(told);
        let table = controller.table();
        let mut entries = table.entries();
        let tries = entries.next().unwrap().tries_to_finish();
        told.map(|it| (it.severity, tries)).collect()
    }
}

#[test]
fn a_take_of_which_nothing_can_be_shown_comes_to_its_end() {
    for bytes in ["", "these bytes are no MP4"] {
        let story = forgotten_with(|chunk| std::fs::write(chunk, bytes).unwrap());
        assert!(is_over(&story), "{:?}", story.session());
        let told = story.life.as_ref().unwrap().controller.worries();
        let failed = |it: &Worry| it.text.contains("has no usable video data");
        assert!(told.iter().any(failed), "{told:?}");
    }
}

#[test]
fn a_video_that_cannot_be_made_is_told_and_tried_again_ever_later_until_it_can() {
    let mut story = forgotten_with(without_a_place);
    assert_eq!(story.unfinished(), [(Severity::Look, 1)]);
    // At once, after 45, 135 and 315 s, and so on.
    minutes(&mut story, 4);
    assert_eq!(story.unfinished(), [(Severity::Act, 3)]);
    minutes(&mut story, 20);
    assert_eq!(story.unfinished(), [(Severity::Act, 6)]);
    story.clear_the_place();
    minutes(&mut story, 25);
    assert!(is_over(&story), "{:?}", story.session());
    let session = story.session().unwrap();
    assert!(session.ready_told, "{session:?}");
    assert_eq!(story.unfinished(), []);
}

#[test]
fn what_is_not_finished_is_not_sealed_whatever_asks_for_its_seal() {
    let mut story = forgotten_with(without_a_place);
    for asked in [Event::Disowned(Disowned::Forgotten), Event::StopAsked] {
        story.takes(asked);
        story.befall(Fate::Seconds(3));
        let session = story.session().unwrap();
        let waits = matches!(session.state, State::Stopping { .. });
        assert!(
            waits && session.seal_at > Some(story.clock.now()),
            "{session:?}"
        );
        assert_eq!(story.unfinished(), [(Severity::Look, 1)]);
    }
    // Another controller tries it at once.
    story.clear_the_place();
    story.befall(Fate::ControllerDies(0));
    story.befall(Fate::ControllerBegins);
    story.befall(Fate::Seconds(1));
    assert!(is_over(&story), "{:?}", story.session());
}

#[test]
fn what_is_set_inactive_while_its_video_waits_for_another_try_is_not_sealed_before_that() {
    let mut story = forgotten_with(without_a_place);
    story.takes(Event::Set(Status::Inactive));
    minutes(&mut story, 4);
    let session = story.session().unwrap();
    assert!(session.finished_at.is_none(), "{session:?}");
    assert!(session.seal_at.is_some(), "{session:?}");
    story.clear_the_place();
    minutes(&mut story, 12);
    let session = story.session().unwrap();
    assert!(session.finished_at.is_some(), "{session:?}");
    assert_eq!(session.seal_at, None);
}

#[test]
fn what_is_set_inactive_while_its_recorder_finishes_the_video_is_left_to_that() {
    let mut story = Story::begin();
    story.befall(Fate::Seconds(10));
    story.takes(Event::StopAsked);
    story.takes(Event::Set(Status::Inactive));
    minutes(&mut story, 3);
    let session = story.session().unwrap();
    assert!(session.finished_at.is_none(), "{session:?}");
    assert!(session.seal_at > Some(story.clock.now()), "{session:?}");
    let living = story.world().vessels.iter().filter(|it| it.lives()).count();
    assert_eq!(living, 1);
}

#[test]
fn a_stop_that_comes_while_a_recorder_is_left_alone_keeps_its_seal() {
    let mut story = Story::begin();
    story.befall(Fate::Seconds(10));
    story.takes(Event::StopAsked);
    let Session { id, seal_at, .. } = story.session().unwrap();
    assert!(seal_at.is_some());
    let life = story.life.as_ref().unwrap();
    let _inside = life.runtime.enter();
    life.controller.seal_nothing(&id);
    assert_eq!(story.session().unwrap().seal_at, seal_at);
}

#[test]
fn a_seal_that_was_postponed_ends_no_recorder_that_is_at_work_again() {
    let mut story = Story::begin();
    story.befall(Fate::Seconds(10));
    let id = RecordingId::parse(ID).unwrap();
    let now = story.clock.now();
    let controller = story.life.as_ref().unwrap().controller.clone();
    controller
        .change(&id, |entry| entry.session.seal_at = Some(now))
        .unwrap();
    story.befall(Fate::Seconds(20));
    assert!(records(&story), "{:?}", story.session());
    assert_eq!(story.session().unwrap().seal_at, None);
    // Nor does one that a person asks for after it was given up.
    let why = "enough".to_owned();
    controller
        .change(&id, |entry| {
            entry.session.state = State::GivenUp { at: now, why };
            entry.session.seal_at = Some(now.plus(30 * SECOND));
        })
        .unwrap();
    story.befall(Fate::Asked);
    assert_eq!(story.session().unwrap().seal_at, None);
    minutes(&mut story, 2);
    assert!(records(&story), "{:?}", story.session());
}

#[test]
fn a_take_in_the_store_of_which_nothing_can_be_shown_is_left_until_there_is_more_of_it() {
    let story = Story::begin();
    let chunk = story.folder.path().join("ses_Z/chunks/1/r1/0001.mp4");
    std::fs::create_dir_all(chunk.parent().unwrap()).unwrap();
    std::fs::write(&chunk, "").unwrap();
    let life = story.life.as_ref().unwrap();
    let tries = || {
        story.clock.advance(3_600 * SECOND);
        life.runtime.block_on(life.controller.cleanup());
        life.controller.tries_to_finish_stored("ses_Z/chunks/1")
    };
    assert_eq!([tries(), tries(), tries()], [Some(0), Some(1), Some(1)]);
    std::fs::write(&chunk, "more").unwrap();
    assert_eq!([tries(), tries(), tries()], [Some(0), Some(1), Some(1)]);
    std::fs::write(&chunk, [beginning(), fragment(1_000.0)].concat()).unwrap();
    assert_eq!([tries(), tries()], [Some(0), None]);
    assert!(story.folder.path().join("ses_Z/ses_Z.mp4").is_file());
}
