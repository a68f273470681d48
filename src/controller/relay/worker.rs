//! One target's deliveries: makes what its lanes give, and writes down what became of each.

use super::Relay;
use super::lanes::{Failure, Queue};
use super::target::{LONGEST_WAIT, Target, Tried};
use crate::clock::{Clock, Timestamp};
use crate::db::DbError;
use crate::db::outbox::{Due, Outbox, Outcome};
use crate::random;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Deliveries of one target at once.
const PARALLEL: usize = 32;
/// An event is given up so long after its first try.
pub(super) const LIFE: Duration = Duration::from_secs(3 * 24 * 3600);
/// How long deliveries under way may take at the end.
const LAST_TRIES: Duration = Duration::from_secs(2);

/// One target's deliveries.
pub(super) struct Worker {
    pub(super) target: Arc<Target>,
    pub(super) outbox: Outbox,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) relay: Relay,
}

type Flight = BoxFuture<'static, (Due, Tried)>;

impl Worker {
    pub(super) async fn run(
        self,
        mut incoming: mpsc::UnboundedReceiver<Due>,
        end: tokio_util::sync::CancellationToken,
    ) {
        let mut queue = Queue::default();
        let mut flights = FuturesUnordered::<Flight>::new();
        let mut down = false;
        loop {
            while flights.len() < PARALLEL {
                let Some(due) = queue.next(self.clock.uptime()) else {
                    break;
                };
                flights.push(self.launch(due));
            }
            let pause = queue.wakes().filter(|_| flights.len() < PARALLEL);
            let pause = pause.map(|until| until.saturating_sub(self.clock.uptime()));
            tokio::select! {
                () = end.cancelled() => break,
                Some(due) = incoming.recv() => {
                    // After a clock that was set back, what was due in a minute would be due in years.
                    let wait = due.next_at.map(|at| at.since(self.clock.now()).min(LONGEST_WAIT));
                    queue.push(due, wait.map(|wait| self.clock.uptime() + wait));
                }
                Some((due, tried)) = flights.next() => self.land(&mut queue, &mut down, due, tried),
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
        let mut left = Queue::default();
        let land = async {
            while let Some((due, tried)) = flights.next().await {
                self.land(&mut left, &mut down, due, tried);
            }
        };
        // What is not done by then stays pending in the outbox.
        let _ = tokio::time::timeout(LAST_TRIES, land).await;
    }

    fn launch(&self, due: Due) -> Flight {
        let event = match &due.unkept {
            None => self.outbox.event(due.sequence),
            Some(unkept) => match unkept.event() {
                Some(event) => Ok(Some(event.clone())),
                None => return Box::pin(std::future::ready((due, Tried::Abandoned))),
            },
        };
        let (target, now) = (Arc::clone(&self.target), self.clock.now());
        Box::pin(async move {
            let tried = match event {
                Ok(Some(event)) => target.deliver(&event, due.tries.late, now).await,
                Ok(None) => Tried::Refused {
                    why: "the event is no longer kept".into(),
                },
                Err(cause) => Tried::Refused {
                    why: cause.to_string(),
                },
            };
            (due, tried)
        })
    }

    /// Writes down what a try came to, and lets its lane go on or wait.
    fn land(&self, queue: &mut Queue, down: &mut bool, mut due: Due, tried: Tried) {
        let now = self.clock.now();
        self.tell(&due, &tried, now);
        due.tries.attempts += 1;
        let first = *due.tries.first_at.get_or_insert(now);
        let left = LIFE.saturating_sub(now.since(first));
        let (why, answered, after) = match tried {
            Tried::Delivered => {
                if std::mem::take(down) {
                    queue.wake_all();
                }
                queue.done(&due);
                return self.settle(&due, Outcome::Delivered, now);
            }
            Tried::Abandoned => return queue.done(&due),
            Tried::Refused { why } => return self.give_up(queue, &due, why, now),
            Tried::Unanswered { why } => {
                *down = true;
                (why, false, None)
            }
            Tried::NotTaken { why, after } => (why, true, after),
        };
        if left.is_zero() {
            return self.give_up(queue, &due, why, now);
        }
        let failure = Failure {
            answered,
            after,
            left,
            jitter: 0.9 + 0.2 * random::unit(),
        };
        let (due, wait) = queue.retry(due, &failure, self.clock.uptime());
        let at = now.plus(wait);
        self.settle(&due, Outcome::Again { at, why }, now);
    }

    fn give_up(&self, queue: &mut Queue, due: &Due, why: String, now: Timestamp) {
        queue.done(due);
        metrics::counter!("ha_recorder_webhook_dead_total").increment(1);
        log::error!(session:% = due.lane, cause = why.as_str();
            "a webhook became a dead letter; replay it on the status page or by POST /api/webhooks/{{id}}/replay");
        self.settle(due, Outcome::Dead { why }, now);
    }

    fn settle(&self, due: &Due, outcome: Outcome, now: Timestamp) {
        if let Err(cause) = self.outbox.settle(due, outcome, now) {
            let cause: DbError = cause;
            log::error!(cause:% = cause; "cannot write down what became of a webhook; it will be delivered again");
        }
    }

    fn tell(&self, due: &Due, tried: &Tried, now: Timestamp) {
        let Target::Http(target) = &*self.target else {
            return;
        };
        match tried {
            Tried::Delivered => self.relay.count(now, None),
            Tried::Abandoned => {}
            Tried::Unanswered { why } | Tried::NotTaken { why, .. } | Tried::Refused { why } => {
                self.relay.count(now, Some(why));
                log::warn!(target_host = target.url.origin(), session:% = due.lane, attempt = due.tries.attempts + 1, cause = why.as_str();
                    "a webhook could not be delivered");
            }
        }
    }
}
