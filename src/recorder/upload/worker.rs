//! Stores what waits: several chunks at once while the store takes them, one at a time while it does not.

use super::queue::{Job, Queue, backoff};
use super::{Shared, remove};
use crate::backoff::Backoff;
use crate::model::chunk::ChunkKey;
use crate::store::StoreError;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use log::{debug, info, warn};
use std::fs;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

/// Chunks on their way at once, when several wait.
const AT_ONCE: usize = 4;
/// Bytes a second that tails may cost: the tail of a long chunk is stored less often than it is offered.
const TAIL_BYTES_PER_SECOND: u64 = 2 << 20;

/// What came of one attempt.
struct Attempt {
    what: What,
    result: Result<(), StoreError>,
    /// The file was not there when it failed.
    is_gone: bool,
}

#[derive(Clone, Copy)]
enum What {
    /// The closed chunk with this place in the order.
    Closed(u64),
    /// The end of the chunk that is being written; so many bytes.
    Tail(u64),
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    token: CancellationToken,
    flying: FuturesUnordered<BoxFuture<'static, Attempt>>,
    /// The chunk whose tail is on its way.
    tail: Option<ChunkKey>,
    /// How the store as a whole does.
    backoff: Backoff,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, token: CancellationToken) -> Self {
        Self {
            shared,
            token,
            flying: FuturesUnordered::new(),
            tail: None,
            backoff: backoff(),
        }
    }

    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut rest: Option<Pin<Box<Sleep>>> = None;
        loop {
            let mut wait = None;
            if rest.is_none() {
                self.start();
                wait = shared.queue().until_next(shared.clock.uptime());
            }
            // With nothing on its way, only the time of a chunk can be what is waited for.
            let wait = wait.filter(|_| self.flying.len() < AT_ONCE);
            tokio::select! {
                () = self.token.cancelled() => return,
                () = over(&mut rest) => rest = None,
                () = after(wait) => {}
                () = shared.changed.notified() => {}
                Some(attempt) = self.flying.next() => {
                    if !self.judge(attempt).await && rest.is_none() {
                        rest = Some(Box::pin(tokio::time::sleep(self.backoff.next_delay())));
                    }
                }
            }
        }
    }

    /// Sends off what may go now: while the store refuses one chunk at a time, else several; a tail beside them.
    fn start(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue();
        let now = shared.clock.uptime();
        let at_once = match self.backoff.attempt() {
            0 => AT_ONCE,
            _ => 1,
        };
        if at_once == AT_ONCE {
            self.start_tail(&mut queue, now);
        }
        while self.flying.len() < at_once
            // A tail under the same key must not come after the whole.
            && let Some((number, job)) = queue.take_next(now, self.tail.as_ref())
        {
            queue.flying.insert(number, job.clone());
            self.flying.push(self.attempt(Some(number), job));
        }
        if self.flying.is_empty() {
            self.start_tail(&mut queue, now);
        }
    }

    fn start_tail(&mut self, queue: &mut Queue, now: Duration) {
        if self.tail.is_none()
            && now >= queue.tail_not_before
            && let Some(job) = queue.tail.take()
        {
            queue.tail_not_before = now + queue.tail_every;
            self.tail = Some(job.key.clone());
            self.flying.push(self.attempt(None, job));
        }
    }

    fn attempt(&self, number: Option<u64>, job: Job) -> BoxFuture<'static, Attempt> {
        let store = Arc::clone(&self.shared.store);
        Box::pin(async move {
            let size = |found: std::io::Result<fs::Metadata>| found.map(|data| data.len());
            let bytes = size(tokio::fs::metadata(&job.path).await);
            let result = store.put(&job.key.to_string(), &job.path).await;
            let is_gone = result.is_err()
                && tokio::fs::try_exists(&job.path)
                    .await
                    .is_ok_and(|there| !there);
            Attempt {
                what: number.map_or_else(|| What::Tail(bytes.unwrap_or(0)), What::Closed),
                result,
                is_gone,
            }
        })
    }

    /// Notes what came of an attempt and says whether the store may be asked on at once.
    async fn judge(&mut self, attempt: Attempt) -> bool {
        let done = match attempt.what {
            What::Tail(bytes) => self.judge_tail(bytes, &attempt.result),
            What::Closed(number) => self.judge_closed(number, attempt),
        };
        if let Some((number, path)) = done.delete {
            // On another thread, and waited for: whoever waits for all to be stored finds the files gone.
            let _ = tokio::task::spawn_blocking(move || remove(&path)).await;
            self.shared.queue().flying.remove(&number);
        }
        self.shared.settled.notify_waiters();
        done.goes_on
    }

    fn judge_tail(&mut self, bytes: u64, result: &Result<(), StoreError>) -> Judged {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue();
        self.tail = None;
        let rest = Duration::from_millis(bytes * 1000 / TAIL_BYTES_PER_SECOND);
        let earliest = shared.clock.uptime() + rest;
        queue.tail_not_before = queue.tail_not_before.max(earliest);
        Judged {
            goes_on: match result {
                Ok(()) => self.recovered(&mut queue),
                Err(cause) => self.failed(&mut queue, cause),
            },
            delete: None,
        }
    }

    fn judge_closed(&mut self, number: u64, attempt: Attempt) -> Judged {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue();
        let Some(mut job) = queue.flying.remove(&number) else {
            return Judged::default();
        };
        match attempt.result {
            Ok(()) => {
                queue.stored += 1;
                debug!(chunk:% = job.key; "chunk stored");
                let goes_on = self.recovered(&mut queue);
                let delete = job.in_video.then(|| (number, job.path.clone()));
                match job.in_video {
                    // It is on its way until its file is gone.
                    true => drop(queue.flying.insert(number, job)),
                    false => drop(queue.kept.insert(job.key.to_string())),
                }
                Judged { goes_on, delete }
            }
            Err(_) if attempt.is_gone => {
                warn!(chunk:% = job.key; "a chunk is gone from the disk before it was stored");
                Judged::default()
            }
            Err(cause) => {
                job.not_before = shared.clock.uptime() + job.backoff.next_delay();
                queue.closed.insert(number, job);
                Judged {
                    goes_on: self.failed(&mut queue, &cause),
                    delete: None,
                }
            }
        }
    }

    fn recovered(&mut self, queue: &mut Queue) -> bool {
        // One chunk that is refused is a trouble, though all others are taken.
        if !queue.has_refused() && queue.trouble.take().is_some() {
            info!(waiting = queue.closed.len(); "the chunk store takes chunks again");
        }
        self.backoff.reset();
        true
    }

    fn failed(&mut self, queue: &mut Queue, cause: &StoreError) -> bool {
        if queue.trouble.is_none() {
            warn!(waiting = queue.closed.len(); "{cause}; chunks wait on the local disk until the store takes them");
        }
        queue.trouble = Some(cause.to_string());
        false
    }
}

/// What is to be done after an attempt.
struct Judged {
    /// Whether the store may be asked on at once.
    goes_on: bool,
    /// A file that is not needed any more.
    delete: Option<(u64, PathBuf)>,
}

impl Default for Judged {
    fn default() -> Self {
        Self {
            goes_on: true,
            delete: None,
        }
    }
}

/// Ends after `wait`; never without one.
async fn after(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Ends when the rest after a failure is over; never without one.
async fn over(rest: &mut Option<Pin<Box<Sleep>>>) {
    match rest {
        Some(rest) => rest.await,
        None => std::future::pending().await,
    }
}
