//! The same world with an OpenVidu that can be asked: over a real connection, while the clock moves when it is told to.

use super::{Fate, Story};
use crate::model::worry::Severity;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
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
