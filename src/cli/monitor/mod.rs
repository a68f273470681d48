//! `monitor`: the status page on a terminal. The controller's events and the keys arrive on one channel; the screen is drawn
//! anew after each, and once a second for what grows old. Actions have the page's names and are asked about first.

mod draw;
mod known;

use super::api::Api;
use super::report::Form;
use super::{Failure, SettingsFile, exit};
use crate::backoff::Backoff;
use crate::clock::{Clock, SystemClock};
use crate::model::view::News;
use crate::tasks::Tasks;
use clap::Args;
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use known::{Known, Link, Seen};
use ratatui::DefaultTerminal;
use reqwest::Method;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The longest pause between events, pings included.
const SILENCE: Duration = Duration::from_secs(20);
/// How long a stream may live before it is opened anew.
const STREAM: Duration = Duration::from_secs(24 * 60 * 60);

/// Watch the recordings on this terminal, and act: the status page without a browser. With --json what it shows now.
#[derive(Debug, Args)]
pub(super) struct Monitor {
    #[command(flatten)]
    file: SettingsFile,
    #[command(flatten)]
    form: Form,
}

/// What arrives.
enum Told {
    /// A snapshot takes the place of everything, changes are added.
    News { whole: bool, news: Box<News<Seen>> },
    /// The controller does not answer, for this reason.
    Lost(String),
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    /// How an action went.
    Done(String),
}

/// What a person can do; names as on the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    FailOver,
    Stop,
    Deactivate,
    Remove,
    Check,
    Replay,
}

/// What the keys mean right now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Look,
    Search,
    Keys,
    Confirm {
        act: Act,
        id: Option<String>,
        name: String,
    },
}

/// The screen's own state.
#[derive(Default)]
struct Screen {
    known: Known,
    mode: Mode,
    selected: usize,
    message: String,
}

impl Monitor {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let api = Arc::new(Api::of(&self.file.settings()?)?);
        // A wrong password or no controller is said before the screen is taken.
        let now = api.get("/api/overview").await?.ok("watch the controller")?;
        if self.form.json {
            self.form.print(&now, Value::to_string);
            return Ok(());
        }
        if !std::io::stdout().is_terminal() {
            let message = "monitor needs a terminal; for programs there is \"--json\"";
            return Err(Failure::with(exit::UNAVAILABLE, message));
        }
        let tasks = Tasks::new();
        let (tell, told) = mpsc::channel(64);
        tasks.spawn(
            "events",
            follow(Arc::clone(&api), tell.clone(), tasks.token()),
        );
        let (keys, token) = (tell.clone(), tasks.token());
        tasks.spawn_blocking("keys", move || listen(&keys, &token));
        let outcome = match ratatui::try_init() {
            Ok(mut terminal) => {
                let ended = Screen::default()
                    .run(&mut terminal, told, tell, api, &tasks)
                    .await;
                ratatui::restore();
                ended
            }
            Err(cause) => Err(cause),
        };
        tasks.end(Duration::from_secs(1)).await;
        outcome.map_err(|cause| Failure::new(format!("cannot draw on this terminal: {cause}")))
    }
}

/// Passes on what the terminal says until told to end.
fn listen(tell: &Sender<Told>, end: &CancellationToken) {
    while !end.is_cancelled() {
        let told = match event::poll(Duration::from_millis(200)).and_then(|some| {
            if some {
                event::read().map(Some)
            } else {
                Ok(None)
            }
        }) {
            Ok(Some(Event::Key(key))) if key.kind != KeyEventKind::Release => Told::Key(key),
            Ok(Some(Event::Resize(..))) => Told::Resized,
            Ok(_) => continue,
            Err(_) => return,
        };
        if tell.blocking_send(told).is_err() {
            return;
        }
    }
}

/// Follows the controller's events, for as long as it takes.
async fn follow(api: Arc<Api>, tell: Sender<Told>, end: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    let work = async {
        loop {
            let why = stream(&api, &tell, &mut backoff).await;
            if tell.send(Told::Lost(why)).await.is_err() {
                return;
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    };
    end.run_until_cancelled(work).await;
}

/// Reads one stream to its end and answers why it ended.
async fn stream(api: &Api, tell: &Sender<Told>, backoff: &mut Backoff) -> String {
    let request = api.request(Method::GET, "/api/events").timeout(STREAM);
    let mut response = match timeout(SILENCE, request.send()).await {
        Ok(Ok(response)) if response.status().is_success() => response,
        Ok(Ok(response)) => return format!("it answers {}", response.status()),
        Ok(Err(cause)) => return api.unreachable(&cause).message,
        Err(_) => return "no answer in time".to_owned(),
    };
    let mut rest = Vec::new();
    loop {
        match timeout(SILENCE, response.chunk()).await {
            Ok(Ok(Some(part))) => rest.extend_from_slice(&part),
            Ok(Ok(None)) => return "it ended the stream".to_owned(),
            Ok(Err(cause)) => return api.unreachable(&cause).message,
            Err(_) => return "it fell silent".to_owned(),
        }
        while let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") {
            let event = rest.drain(..end + 2).collect::<Vec<_>>();
            if let Some((whole, news)) = read(&event) {
                backoff.reset();
                let news = Box::new(news);
                if tell.send(Told::News { whole, news }).await.is_err() {
                    return String::new();
                }
            }
        }
    }
}

/// The news in one event; `None` for a ping.
fn read(event: &[u8]) -> Option<(bool, News<Seen>)> {
    let text = std::str::from_utf8(event).ok()?;
    let field = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.strip_prefix(' ').unwrap_or(line))
    };
    let whole = match field("event")? {
        "snapshot" => true,
        "changes" => false,
        _ => return None,
    };
    Some((whole, serde_json::from_str(field("data")?).ok()?))
}

impl Act {
    const ALL: [Self; 6] = [
        Self::FailOver,
        Self::Stop,
        Self::Deactivate,
        Self::Remove,
        Self::Check,
        Self::Replay,
    ];

    const fn key(self) -> char {
        match self {
            Self::FailOver => 'f',
            Self::Stop => 'x',
            Self::Deactivate => 'd',
            Self::Remove => 'r',
            Self::Check => 'c',
            Self::Replay => 'p',
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::FailOver => "Fail over now",
            Self::Stop => "Stop",
            Self::Deactivate => "Deactivate",
            Self::Remove => "Remove",
            Self::Check => "Check now",
            Self::Replay => "Replay all",
        }
    }

    const fn means(self) -> &'static str {
        match self {
            Self::FailOver => {
                "The recorder is ended and another goes on. Some seconds will be missing in the video."
            }
            Self::Stop => "Recording ends now and the video is finished.",
            Self::Deactivate => {
                "A lost recorder will not be replaced any more. Recording itself goes on."
            }
            Self::Remove => "The controller forgets this session. The video stays.",
            Self::Check => {
                "Every session is checked at once. A recorder that was lost is replaced."
            }
            Self::Replay => {
                "Every webhook that was given up is sent again to its target, in order."
            }
        }
    }

    const fn of_session(self) -> bool {
        !matches!(self, Self::Check | Self::Replay)
    }

    /// The request it is.
    fn request(self, id: &str) -> (Method, String, Option<Value>) {
        let id = escape(id);
        match self {
            Self::FailOver => {
                let why = json!({ "reason": "asked for in the monitor" });
                (Method::POST, format!("/api/failover/{id}"), Some(why))
            }
            Self::Stop => (Method::PUT, format!("/api/sessions/{id}/stop"), None),
            Self::Deactivate => (Method::PUT, format!("/api/sessions/{id}/deactivate"), None),
            Self::Remove => (Method::DELETE, format!("/api/sessions/{id}"), None),
            Self::Check => (Method::POST, "/api/failover/check".to_owned(), None),
            Self::Replay => (
                Method::POST,
                "/api/webhooks/replay".to_owned(),
                Some(json!({})),
            ),
        }
    }
}

/// An id as one segment of a path.
fn escape(id: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    id.bytes().fold(String::new(), |text, byte| {
        if plain(byte) {
            text + char::from(byte).encode_utf8(&mut [0; 4])
        } else {
            format!("{text}%{byte:02X}")
        }
    })
}

impl Screen {
    async fn run(
        mut self,
        terminal: &mut DefaultTerminal,
        mut told: Receiver<Told>,
        tell: Sender<Told>,
        api: Arc<Api>,
        tasks: &Tasks,
    ) -> std::io::Result<()> {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            terminal.draw(|frame| draw::screen(frame, &mut self))?;
            let told = tokio::select! {
                told = told.recv() => told,
                _ = second.tick() => continue,
            };
            match told {
                None => return Ok(()),
                Some(Told::Key(key)) => match self.key(key) {
                    Next::Stay => {}
                    Next::End => return Ok(()),
                    Next::Perform(act, id) => perform(&api, &tell, tasks, act, id),
                },
                Some(Told::News { whole, news }) => {
                    self.known.take(whole, *news, SystemClock.now());
                }
                Some(Told::Lost(why)) => self.known.lose(why, SystemClock.now()),
                Some(Told::Done(message)) => self.message = message,
                Some(Told::Resized) => {}
            }
        }
    }

    fn key(&mut self, key: KeyEvent) -> Next {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Next::End;
        }
        match std::mem::take(&mut self.mode) {
            Mode::Look => self.look(key.code),
            Mode::Search => {
                self.search(key.code);
                Next::Stay
            }
            Mode::Confirm { act, id, .. } if matches!(key.code, KeyCode::Char('y' | 'Y')) => {
                Next::Perform(act, id)
            }
            Mode::Keys | Mode::Confirm { .. } => Next::Stay,
        }
    }

    fn look(&mut self, code: KeyCode) -> Next {
        let last = self.known.rows().len().saturating_sub(1);
        self.message.clear();
        match code {
            KeyCode::Char('q') => return Next::End,
            KeyCode::Esc => self.known.search.clear(),
            KeyCode::Char('/') => self.mode = Mode::Search,
            KeyCode::Char('?') => self.mode = Mode::Keys,
            KeyCode::Char('s') => self.known.sort = self.known.sort.next(),
            KeyCode::Tab => self.known.filter = self.known.filter.next(),
            KeyCode::Down | KeyCode::Char('j') => self.selected = (self.selected + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::PageDown => self.selected = (self.selected + 10).min(last),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(10),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            KeyCode::Char(letter) => {
                if let Some(act) = Act::ALL.into_iter().find(|act| act.key() == letter) {
                    self.ask(act);
                }
            }
            _ => {}
        }
        Next::Stay
    }

    fn search(&mut self, code: KeyCode) {
        self.selected = 0;
        match code {
            KeyCode::Enter => return,
            KeyCode::Esc => return self.known.search.clear(),
            KeyCode::Backspace => drop(self.known.search.pop()),
            KeyCode::Char(letter) => self.known.search.push(letter),
            _ => {}
        }
        self.mode = Mode::Search;
    }

    fn ask(&mut self, act: Act) {
        if self
            .known
            .overview
            .as_ref()
            .is_some_and(|overview| overview.viewer)
        {
            "this account may only read".clone_into(&mut self.message);
            return;
        }
        let rows = self.known.rows();
        let row = rows.get(self.selected).filter(|_| act.of_session());
        self.mode = match row {
            Some(row) => Mode::Confirm {
                act,
                id: Some(row.session_id.clone()),
                name: row.name().to_owned(),
            },
            None if act.of_session() => return,
            None => Mode::Confirm {
                act,
                id: None,
                name: String::new(),
            },
        };
    }
}

/// What follows a key.
enum Next {
    Stay,
    End,
    Perform(Act, Option<String>),
}

/// Sends the request; how it went comes back like everything else.
fn perform(api: &Arc<Api>, tell: &Sender<Told>, tasks: &Tasks, act: Act, id: Option<String>) {
    let (api, tell) = (Arc::clone(api), tell.clone());
    tasks.spawn(act.name(), async move {
        let (method, path, body) = act.request(id.as_deref().unwrap_or_default());
        let answer = api.send(method, &path, body).await;
        let said = match answer.and_then(|answer| answer.ok(act.name())) {
            Ok(body) => body["message"].as_str().unwrap_or("done").to_owned(),
            Err(failure) => failure.message,
        };
        // The screen may be gone by now.
        let _ = tell
            .send(Told::Done(format!("{}: {said}", act.name())))
            .await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_and_a_ping_is_none() {
        let event = b"event: changes\nid: a-1\ndata: {\"sessions\":[],\"removed\":[\"x\"]}\n\n";
        let (whole, news) = read(event).unwrap();
        assert!(!whole);
        assert_eq!(news.removed, ["x"]);
        assert!(read(b"event: ping\ndata: {}\n\n").is_none());
    }

    #[test]
    fn an_id_stays_one_segment_of_the_path() {
        assert_eq!(escape("ses~A b%/ä"), "ses~A%20b%25%2F%C3%A4");
    }

    #[test]
    fn nothing_is_done_without_a_yes() {
        let mut screen = Screen::default();
        screen.key(KeyEvent::from(KeyCode::Char('c')));
        assert!(matches!(
            screen.mode,
            Mode::Confirm {
                act: Act::Check,
                ..
            }
        ));
        assert!(matches!(
            screen.key(KeyEvent::from(KeyCode::Enter)),
            Next::Stay
        ));
        screen.key(KeyEvent::from(KeyCode::Char('c')));
        let next = screen.key(KeyEvent::from(KeyCode::Char('y')));
        assert!(matches!(next, Next::Perform(Act::Check, None)));
    }
}
