//! The webhook outbox: an event comes in, is on disk before anybody says so, and stays until every target had it. Each
//! event has one delivery a target; a delivery is pending, delivered or dead, and what is settled is forgotten after a
//! while. Knows nothing of HTTP: who delivers reads from here and writes back what became of it.
//!
//! What is kept is in `record`, where and in which order it lies in `index`, what the start does with it in `recovery`, what
//! is forgotten in `retention`, and what is delivered once more in `replay`. The tree is not waited for: an event is on disk
//! when the [`journal`](super::journal) has it.

mod index;
mod record;
mod recovery;
mod replay;
mod retention;

pub use record::{Delivery, DeliveryState, Event, Sequence, TargetId, Tries};
pub use retention::Bounds;

use super::journal::Journal;
use super::{Db, DbError, guarded};
use crate::clock::Timestamp;
use crate::random;
use index::event_key;
use record::encode;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// A delivery that is to be made.
#[derive(Clone, Debug)]
pub struct Due {
    /// Which event.
    pub sequence: Sequence,
    /// Where to.
    pub target: TargetId,
    /// In which order.
    pub lane: Arc<str>,
    /// How far the tries have come.
    pub tries: Tries,
    /// Not before.
    pub next_at: Option<Timestamp>,
    /// The event, where only memory has it.
    pub unkept: Option<Arc<Unkept>>,
}

/// An event that the disk did not take. It is delivered from memory while the one who brought it waits.
#[derive(Debug)]
pub struct Unkept {
    event: Event,
    settled: mpsc::UnboundedSender<()>,
}

impl Unkept {
    /// The event, while somebody waits for its delivery.
    pub fn event(&self) -> Option<&Event> {
        (!self.settled.is_closed()).then_some(&self.event)
    }
}

/// What a delivery came to.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The target took it.
    Delivered,
    /// It is tried again.
    Again {
        /// When.
        at: Timestamp,
        /// What went wrong.
        why: String,
    },
    /// It is given up.
    Dead {
        /// Why.
        why: String,
    },
}

/// How full the outbox is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pending deliveries to targets other than the controller.
    pub pending: u64,
    /// Delivered ones that are still remembered.
    pub delivered: u64,
    /// Dead letters.
    pub dead: u64,
    /// Bytes of all events.
    pub bytes: u64,
    /// Pending or dead deliveries that were dropped because the outbox was full.
    pub dropped: u64,
    /// When the last of them were.
    pub dropped_at: Option<Timestamp>,
}

/// The outbox. Clones share it.
#[derive(Clone)]
pub struct Outbox(Arc<Inner>);

struct Inner {
    db: Db,
    tree: sled::Tree,
    journal: Journal,
    targets: BTreeMap<TargetId, String>,
    bounds: Bounds,
    front: Mutex<Front>,
    due: mpsc::UnboundedSender<Due>,
}

/// What is known without reading the disk.
struct Front {
    next: u64,
    counts: Counts,
    /// Written, and not yet known to be on disk.
    unannounced: VecDeque<Due>,
}

impl Outbox {
    /// Opens the outbox for these targets; the receiver gives every delivery that is to be made, those left from before
    /// first. Deliveries to targets that are no longer wanted become dead letters.
    ///
    /// # Errors
    /// When the database fails.
    pub fn open(
        db: &Db,
        targets: BTreeMap<TargetId, String>,
        bounds: Bounds,
        now: Timestamp,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Due>), DbError> {
        guarded(|| {
            let (outbox, receiver) = Self::assemble(db, targets, bounds, now)?;
            outbox.resume(now)?;
            Ok((outbox, receiver))
        })
    }

    /// Takes what only the journal has into the database, and delivers nothing: for whoever needs the database whole while
    /// no service runs.
    ///
    /// # Errors
    /// When the database fails.
    pub fn take_up_journal(
        db: &Db,
        targets: BTreeMap<TargetId, String>,
        bounds: Bounds,
        now: Timestamp,
    ) -> Result<(), DbError> {
        Self::assemble(db, targets, bounds, now).map(drop)
    }

    fn assemble(
        db: &Db,
        targets: BTreeMap<TargetId, String>,
        bounds: Bounds,
        now: Timestamp,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Due>), DbError> {
        let tree = db
            .sled
            .open_tree("outbox")
            .map_err(fault("open the outbox"))?;
        let (journal, held) = Journal::open(db, now)?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let outbox = Self(Arc::new(Inner {
            db: db.clone(),
            tree,
            journal,
            targets,
            bounds,
            front: Mutex::new(Front {
                next: 1,
                counts: Counts::default(),
                unannounced: VecDeque::new(),
            }),
            due: sender,
        }));
        outbox.take_back(held, now)?;
        outbox.take_stock(now)?;
        outbox.0.journal.begin_afresh()?;
        Ok((outbox, receiver))
    }

    /// Takes an event: when this answers, it is on disk and will be delivered. Answers its id.
    ///
    /// # Errors
    /// When the database fails; then nothing will be delivered.
    pub async fn accept(&self, mut event: Event) -> Result<String, DbError> {
        self.0.journal.make_room().await?;
        let (sequence, place) = self.write(&mut event)?;
        if let Err(cause) = self.0.journal.durable(place).await
            && self.withdraw(sequence)
        {
            return Err(cause);
        }
        self.announce(sequence);
        // The event is kept and on its way: what fails here must not have it brought again.
        if let Err(cause) = self.keep_bounds(event.received_at).await {
            log::error!("cannot forget old webhooks: {cause}; free space in the data directory");
        }
        Ok(event.id)
    }

    /// Delivers an event that the disk does not take, from memory and in its lane's order. Answers when every target has
    /// taken or refused it; once nobody waits for this any more, it is not tried again.
    pub async fn pass_on(&self, mut event: Event) {
        let (sender, mut settled) = mpsc::unbounded_channel();
        let sequence = self.front().take_number();
        event.id = new_id(sequence);
        let lane: Arc<str> = event.lane.as_str().into();
        let unkept = Arc::new(Unkept {
            event,
            settled: sender,
        });
        for target in self.0.targets.keys() {
            self.send(Due {
                unkept: Some(Arc::clone(&unkept)),
                ..Due::fresh(sequence, *target, &lane)
            });
        }
        for _ in self.0.targets.keys() {
            // It never ends while the event is held here, so a delivery that is dropped is not taken for a settled one.
            settled.recv().await;
        }
        drop(unkept);
    }

    /// Writes an event with its deliveries, and adds it to the journal. Answers its place in the order and in the journal.
    fn write(&self, event: &mut Event) -> Result<(Sequence, u64), DbError> {
        let mut front = self.front();
        // A number is used once, also where writing under it failed half way.
        let sequence = front.take_number();
        event.id = new_id(sequence);
        let value = encode(event)?;
        self.put(event_key(sequence), value.clone())?;
        let lane: Arc<str> = event.lane.as_str().into();
        for target in self.0.targets.keys() {
            self.insert_delivery(sequence, *target, event)?;
        }
        front.counts.bytes += value.len() as u64;
        for target in self.0.targets.keys() {
            front.add(DeliveryState::Pending, *target);
            front
                .unannounced
                .push_back(Due::fresh(sequence, *target, &lane));
        }
        Ok((sequence, self.0.journal.add(sequence.0, &value)))
    }

    /// Takes an event back that did not come to the disk; answers whether that was still possible. It is not where a later
    /// write brought both there.
    fn withdraw(&self, sequence: Sequence) -> bool {
        {
            let mut front = self.front();
            let before = front.unannounced.len();
            front.unannounced.retain(|due| due.sequence != sequence);
            if front.unannounced.len() == before {
                return false;
            }
        }
        for target in self.0.targets.keys() {
            if let Err(cause) = self.forget(DeliveryState::Pending, sequence, *target) {
                log::warn!(
                    "a webhook that was refused may be delivered after the next start: {cause}"
                );
            }
        }
        true
    }

    /// Has the journal emptied soon after an event came into it; to be run beside whoever accepts events, until it is
    /// dropped.
    pub async fn keep_journal_short(&self) {
        self.0.journal.keep_short().await;
    }

    /// Writes everything to its place in the database, and empties the journal.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn checkpoint(&self) -> Result<(), DbError> {
        self.0.journal.checkpoint().await
    }

    /// What was set aside at the start, because it could not be read.
    pub fn set_aside(&self) -> Vec<String> {
        self.0.db.set_aside()
    }

    /// Writes down what a delivery came to after the tries that `due` counts.
    ///
    /// # Errors
    /// When the database fails.
    pub fn settle(&self, due: &Due, outcome: Outcome, now: Timestamp) -> Result<(), DbError> {
        if let Some(unkept) = &due.unkept {
            if !matches!(outcome, Outcome::Again { .. }) {
                // Nobody waits any more where the receiver is gone.
                let _ = unkept.settled.send(());
            }
            return Ok(());
        }
        if due.target == TargetId::CONTROLLER && !matches!(outcome, Outcome::Again { .. }) {
            // Nobody lists it, and nobody may have it done again. Where the journal still has it at a crash the controller
            // acts once more, which changes nothing: what OpenVidu reports is a hint.
            return self.forget(DeliveryState::Pending, due.sequence, due.target);
        }
        let (state, next_at, error) = match outcome {
            Outcome::Delivered => (DeliveryState::Delivered, None, None),
            Outcome::Again { at, why } => (DeliveryState::Pending, Some(at), Some(why)),
            Outcome::Dead { why } => (DeliveryState::Dead, None, Some(why)),
        };
        let Some(mut delivery) = self.delivery(due.sequence, due.target)? else {
            return Ok(()); // forgotten meanwhile: the outbox was full
        };
        delivery.tries = due.tries;
        delivery.next_at = next_at;
        delivery.last_error = error.or(delivery.last_error);
        self.store(due.sequence, due.target, delivery, state, now)
    }

    /// How full it is.
    pub fn counts(&self) -> Counts {
        self.front().counts
    }

    fn fresh(&self, target: TargetId, event: &Event) -> Delivery {
        Delivery {
            target: self.0.targets.get(&target).cloned().unwrap_or_default(),
            state: DeliveryState::Pending,
            tries: Tries::default(),
            next_at: None,
            last_error: None,
            changed_at: event.received_at,
            lane: event.lane.clone(),
        }
    }

    /// Everything up to `sequence` is on disk: whoever delivers may have it, in the order it came.
    fn announce(&self, sequence: Sequence) {
        let mut front = self.front();
        while front
            .unannounced
            .front()
            .is_some_and(|due| due.sequence <= sequence)
        {
            if let Some(due) = front.unannounced.pop_front() {
                self.send(due);
            }
        }
    }

    fn send(&self, due: Due) {
        // Without a receiver the program is ending; what is pending is taken up at the next start.
        let _ = self.0.due.send(due);
    }

    fn front(&self) -> MutexGuard<'_, Front> {
        self.0.front.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Due {
    fn fresh(sequence: Sequence, target: TargetId, lane: &Arc<str>) -> Self {
        Self {
            sequence,
            target,
            lane: Arc::clone(lane),
            tries: Tries::default(),
            next_at: None,
            unkept: None,
        }
    }
}

impl Front {
    fn take_number(&mut self) -> Sequence {
        let number = self.next;
        self.next += 1;
        Sequence(number)
    }

    fn add(&mut self, state: DeliveryState, target: TargetId) {
        if let Some(count) = self.counter(state, target) {
            *count += 1;
        }
    }

    fn sub(&mut self, state: DeliveryState, target: TargetId) {
        if let Some(count) = self.counter(state, target) {
            *count = count.saturating_sub(1);
        }
    }

    fn counter(&mut self, state: DeliveryState, target: TargetId) -> Option<&mut u64> {
        let counts = &mut self.counts;
        (target != TargetId::CONTROLLER).then_some(match state {
            DeliveryState::Pending => &mut counts.pending,
            DeliveryState::Delivered => &mut counts.delivered,
            DeliveryState::Dead => &mut counts.dead,
        })
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Outbox").field(&self.counts()).finish()
    }
}

fn new_id(sequence: Sequence) -> String {
    format!("msg_{:016x}{}", sequence.0, random::hex::<4>())
}

fn fault(act: &'static str) -> impl Fn(sled::Error) -> DbError {
    move |cause| DbError::Failed {
        act,
        cause: cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    pub(super) const TARGET: TargetId = TargetId([1; 8]);
    pub(super) const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    pub(super) fn targets() -> BTreeMap<TargetId, String> {
        BTreeMap::from([
            (TargetId::CONTROLLER, "controller".into()),
            (TARGET, "http://a".into()),
        ])
    }

    pub(super) fn bounds(bytes: u64) -> Bounds {
        Bounds {
            bytes,
            age: Duration::from_secs(60),
        }
    }

    pub(super) fn event(lane: &str, body: &'static str) -> Event {
        Event::new(NOW, lane.into(), body.into())
    }

    pub(super) async fn drain(receiver: &mut mpsc::UnboundedReceiver<Due>) -> Vec<Due> {
        let mut all = Vec::new();
        while let Ok(due) = receiver.try_recv() {
            all.push(due);
        }
        all
    }

    #[tokio::test]
    async fn what_was_accepted_is_due_in_order_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut ids = Vec::new();
        for life in 0..2 {
            let db = Db::open(folder.path()).unwrap();
            let (outbox, mut due) = Outbox::open(&db, targets(), bounds(1 << 20), NOW).unwrap();
            if life == 0 {
                for body in ["1", "2", "3"] {
                    ids.push(outbox.accept(event("s", body)).await.unwrap());
                }
                let all = drain(&mut due).await;
                let first = all.iter().find(|due| due.target == TARGET).unwrap();
                outbox.settle(first, Outcome::Delivered, NOW).unwrap();
            } else {
                let all = drain(&mut due).await;
                let mine = all.iter().filter(|due| due.target == TARGET);
                let left = mine
                    .map(|due| outbox.event(due.sequence).unwrap().unwrap())
                    .map(|event| (event.id, event.body))
                    .collect::<Vec<_>>();
                assert_eq!(
                    left,
                    [(ids[1].clone(), "2".into()), (ids[2].clone(), "3".into())]
                );
                assert_eq!(outbox.counts().pending, 2);
                assert_eq!(outbox.counts().delivered, 1);
            }
        }
    }
}
