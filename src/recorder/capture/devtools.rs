//! Chrome's DevTools protocol over a pipe: commands go out on Chrome's descriptor 3, answers and events come in from
//! descriptor 4, each a JSON text ended by a zero byte. There is no port that anyone else on the host could talk to.

use crate::tasks::{Tasks, within};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

/// The longest message that is taken; we ask for nothing that is near it. A longer one is passed over: a page can make
/// Chrome send one, as by a dialog with a very long text.
const LONGEST: u64 = 4 << 20;

/// Why Chrome did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum DevToolsError {
    #[error("Chrome's pipe is closed")]
    Closed,
    #[error("Chrome did not answer {method} in time")]
    TimedOut { method: &'static str },
    #[error("Chrome refused {method}: {message}")]
    Refused {
        method: &'static str,
        message: String,
    },
}

/// Something that happened in Chrome.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) method: String,
    pub(super) params: Value,
}

type Answer = Result<Value, String>;
/// Those who wait for an answer; `None` once there can be none any more.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

/// The connection to one Chrome.
#[derive(Debug)]
pub(super) struct DevTools {
    out: mpsc::UnboundedSender<String>,
    waiting: Waiting,
    next: AtomicU64,
}

impl DevTools {
    /// Speaks over our ends of the two pipes. Events come out of the receiver, which ends with Chrome.
    ///
    /// # Errors
    /// When the descriptors are no pipes.
    pub(super) fn over(
        commands: OwnedFd,
        answers: OwnedFd,
        tasks: &Tasks,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        let sender = pipe::Sender::from_owned_fd(commands)?;
        let receiver = pipe::Receiver::from_owned_fd(answers)?;
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let (out, commands) = mpsc::unbounded_channel();
        let (events, happened) = mpsc::unbounded_channel();
        tasks.spawn("commands to Chrome", write(sender, commands));
        let (token, reader) = (tasks.token(), read(receiver, Arc::clone(&waiting), events));
        tasks.spawn("answers of Chrome", async move {
            tokio::select! {
                () = reader => {}
                () = token.cancelled() => {}
            }
        });
        let devtools = Self {
            out,
            waiting,
            next: AtomicU64::new(1),
        };
        Ok((devtools, happened))
    }

    /// Asks as [`Self::ask`] does and waits at most `patience` for the answer.
    pub(super) async fn call(
        &self,
        session: Option<&str>,
        method: &'static str,
        params: Value,
        patience: Duration,
    ) -> Result<Value, DevToolsError> {
        within(patience, self.ask(session, method, params))
            .await
            .unwrap_or(Err(DevToolsError::TimedOut { method }))
    }

    /// Asks for `method`, of the page with `session` or of the browser, and waits for the answer as long as Chrome lives.
    pub(super) async fn ask(
        &self,
        session: Option<&str>,
        method: &'static str,
        params: Value,
    ) -> Result<Value, DevToolsError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        let (answer, answered) = oneshot::channel();
        match lock(&self.waiting).as_mut() {
            Some(waiting) => {
                // Those whose questions were given up are not answered any more.
                waiting.retain(|_, asked| !asked.is_closed());
                waiting.insert(id, answer)
            }
            None => return Err(DevToolsError::Closed),
        };
        // When nobody takes it, the other pipe ends too, and with it the wait.
        let _ = self.out.send(message.to_string());
        match answered.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(message)) => Err(DevToolsError::Refused { method, message }),
            Err(_) => Err(DevToolsError::Closed),
        }
    }
}

async fn write(mut pipe: pipe::Sender, mut commands: mpsc::UnboundedReceiver<String>) {
    while let Some(message) = commands.recv().await {
        let mut bytes = message.into_bytes();
        bytes.push(0);
        if pipe.write_all(&bytes).await.is_err() {
            return; // Chrome is gone; whoever waits learns it from the other pipe
        }
    }
}

async fn read(pipe: pipe::Receiver, waiting: Waiting, events: mpsc::UnboundedSender<Event>) {
    let mut pipe = BufReader::new(pipe);
    let mut bytes = Vec::new();
    let mut whole = true;
    loop {
        bytes.clear();
        let mut limited = (&mut pipe).take(LONGEST);
        match limited.read_until(0, &mut bytes).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if bytes.pop_if(|last| *last == 0).is_none() {
            whole = false; // the rest of it follows, or nothing does
        } else if std::mem::replace(&mut whole, true)
            && let Ok(message) = serde_json::from_slice(&bytes)
        {
            deliver(message, &waiting, &events);
        }
    }
    lock(&waiting).take();
}

fn deliver(mut message: Value, waiting: &Waiting, events: &mpsc::UnboundedSender<Event>) {
    if let Some(id) = message["id"].as_u64() {
        let answer = match message["error"]["message"].as_str() {
            Some(fault) => Err(fault.to_owned()),
            None => Ok(message["result"].take()),
        };
        let asked = lock(waiting)
            .as_mut()
            .and_then(|waiting| waiting.remove(&id));
        if let Some(waiting) = asked {
            // The one who asked may have lost patience.
            let _ = waiting.send(answer);
        }
    } else if let Some(method) = message["method"].as_str() {
        let method = method.to_owned();
        let params = message["params"].take();
        // Nobody listens when the browser's life is ending.
        let _ = events.send(Event { method, params });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[tokio::test]
    async fn an_answer_finds_the_one_who_asked_and_an_event_everyone() {
        let tasks = Tasks::new();
        let (mut chrome_in, commands) = io::pipe().unwrap();
        let (answers, mut chrome_out) = io::pipe().unwrap();
        let (devtools, mut events) =
            DevTools::over(commands.into(), answers.into(), &tasks).unwrap();
        let chrome = std::thread::spawn(move || {
            let mut asked = Vec::new();
            let mut byte = [0];
            while chrome_in.read(&mut byte).unwrap() == 1 && byte[0] != 0 {
                asked.push(byte[0]);
            }
            let asked: Value = serde_json::from_slice(&asked).unwrap();
            let text = format!(
                "{{\"method\":\"Page.loadEventFired\",\"params\":{{}}}}\0{{\"id\":{},\"result\":{{\"ok\":true}}}}\0",
                asked["id"]
            );
            chrome_out.write_all(text.as_bytes()).unwrap();
            asked
        });
        let patience = Duration::from_secs(5);
        let answer = devtools
            .call(Some("s"), "Page.enable", json!({}), patience)
            .await;
        assert_eq!(answer.unwrap()["ok"], true);
        assert_eq!(events.recv().await.unwrap().method, "Page.loadEventFired");
        assert_eq!(chrome.join().unwrap()["sessionId"], "s");
        // Chrome is gone: that is the answer, and it comes at once.
        let answer = devtools
            .call(None, "Browser.close", json!({}), patience)
            .await;
        assert!(matches!(answer, Err(DevToolsError::Closed)), "{answer:?}");
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_passed_over_alone() {
        let tasks = Tasks::new();
        let (_chrome_in, commands) = io::pipe().unwrap();
        let (answers, mut chrome_out) = io::pipe().unwrap();
        let (_devtools, mut events) =
            DevTools::over(commands.into(), answers.into(), &tasks).unwrap();
        let chrome = std::thread::spawn(move || {
            let text = "x".repeat(2 * LONGEST as usize + 7);
            let long = format!("{{\"method\":\"Long\",\"params\":\"{text}\"}}\0");
            chrome_out.write_all(long.as_bytes()).unwrap();
            let short = "{\"method\":\"Short\",\"params\":{}}\0";
            chrome_out.write_all(short.as_bytes()).unwrap();
        });
        assert_eq!(events.recv().await.unwrap().method, "Short");
        chrome.join().unwrap();
    }
}
