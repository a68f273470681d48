//! The webhook outbox: an event comes in, is on disk before anybody says so, and stays until every target had it. Each
//! event has one delivery a target; a delivery is pending, delivered or dead, and what is settled is forgotten after a
//! while. Knows nothing of HTTP: who delivers reads from here and writes back what became of it.
//!
//! One tree holds everything: `e<seq>` an event, `d<seq><target>` a delivery, and `x<state><seq><target>` the index that
//! lists deliveries of one state in order. sled's batches cost two further writes to disk each, so there are none: records
//! are written in an order in which a crash between two of them leaves nothing worse than what [`Outbox::open`] tidies up.
//! Nor is the tree waited for: an event is on disk when the [`journal`](super::journal) has it.

use super::journal::{Journal, Record};
use super::{Db, DbError, guarded};
use crate::clock::Timestamp;
use crate::config::Settings;
use crate::random;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// The version of a stored event.
const VERSION: u8 = 1;
/// Settled deliveries of one state that are kept at most.
const KEPT: u64 = 10_000;
/// Deliveries forgotten in one go, while somebody waits: more than one event brings.
const FEW: usize = 8;
/// Deliveries forgotten in one go when the outbox is full.
const MANY: usize = 100;

impl Sequence {
    /// The place of the event that came as number `count`.
    pub const fn nth(count: u64) -> Self {
        Self(count)
    }
}

/// What bounds the outbox.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of all stored events.
    pub bytes: u64,
    /// How long settled deliveries are kept.
    pub age: Duration,
}

impl Bounds {
    /// What the settings say.
    pub fn of(settings: &Settings) -> Self {
        Self {
            bytes: settings.outbox_max_bytes,
            age: Duration::from_secs(u64::from(settings.outbox_keep_days.get()) * 86_400),
        }
    }
}

/// Where events go: the first eight bytes of a digest of the address, so that it means the same after a restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TargetId(pub [u8; 8]);

impl TargetId {
    /// The controller itself, which acts on events.
    pub const CONTROLLER: Self = Self([0; 8]);
}

/// A place in the order of arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Sequence(u64);

/// An event as it came in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// The same over all deliveries and retries: `webhook-id`.
    pub id: String,
    /// When it came.
    pub received_at: Timestamp,
    /// OpenVidu's name of the event.
    pub name: Option<String>,
    /// What is delivered in order: OpenVidu's session.
    pub lane: String,
    /// The request's method.
    pub method: String,
    /// The request's content type.
    pub content_type: Option<String>,
    /// The request's user agent.
    pub user_agent: Option<String>,
    /// The request's headers that are passed on.
    pub headers: Vec<(String, String)>,
    /// Whether the controller made it in OpenVidu's stead.
    pub synthesized: bool,
    /// The body, byte for byte.
    #[serde(skip)]
    pub body: Bytes,
}

impl Event {
    /// An event that comes in now, with a new id.
    pub fn new(received_at: Timestamp, lane: String, body: Bytes) -> Self {
        Self {
            id: String::new(),
            received_at,
            name: None,
            lane,
            method: "POST".to_owned(),
            content_type: Some("application/json".to_owned()),
            user_agent: None,
            headers: Vec::new(),
            synthesized: false,
            body,
        }
    }
}

/// What became of one event at one target.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The target, for a person: scheme and host, or `controller`.
    pub target: String,
    /// What became of it.
    pub state: DeliveryState,
    /// How far its tries have come.
    #[serde(flatten)]
    pub tries: Tries,
    /// When it is tried next, while it is pending.
    pub next_at: Option<Timestamp>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When that state was entered.
    pub changed_at: Timestamp,
    lane: String,
}

/// How far the tries of a delivery have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tries {
    /// How many were made.
    pub attempts: u32,
    /// Which wait of the schedule comes next.
    #[serde(default)]
    pub step: u32,
    /// When the first was made.
    #[serde(default)]
    pub first_at: Option<Timestamp>,
    /// Whether the session's lane went on without it: later events may have been delivered before it.
    #[serde(default)]
    pub late: bool,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// It is being tried.
    Pending,
    /// The target took it.
    Delivered,
    /// It was given up.
    Dead,
}

impl DeliveryState {
    const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Dead];

    /// Reads a client's word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    const fn letter(self) -> u8 {
        match self {
            Self::Pending => b'p',
            Self::Delivered => b's',
            Self::Dead => b'd',
        }
    }
}

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

    async fn keep_bounds(&self, now: Timestamp) -> Result<(), DbError> {
        if self.counts().bytes > self.0.bounds.bytes {
            // What is about to be forgotten must not come back from the journal, in the place of what waits.
            self.checkpoint().await?;
        }
        self.tidy(now)
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

    /// The event, while it is kept.
    ///
    /// # Errors
    /// When the database fails or the record cannot be read.
    pub fn event(&self, sequence: Sequence) -> Result<Option<Event>, DbError> {
        let value = self
            .0
            .tree
            .get(event_key(sequence))
            .map_err(fault("read an event"))?;
        value.map(|value| decode(sequence, &value)).transpose()
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

    /// Deliveries of one state, newest first: at most `limit`, after `skip` others, with how many there are in all.
    /// The controller's own are left out.
    ///
    /// # Errors
    /// When the database fails.
    pub fn list(
        &self,
        state: DeliveryState,
        limit: usize,
        skip: usize,
    ) -> Result<(Vec<(Event, Delivery)>, u64), DbError> {
        let index = self.0.tree.scan_prefix([b'x', state.letter()]).keys().rev();
        let mut found = Vec::new();
        let mut seen = 0;
        for key in index {
            let key = key.map_err(fault("list webhooks"))?;
            let Some((sequence, target)) = place(&key[2..]) else {
                continue;
            };
            if target == TargetId::CONTROLLER {
                continue;
            }
            // Its place in the index may be about to go.
            let delivery = self.delivery(sequence, target)?;
            let Some(delivery) = delivery.filter(|delivery| delivery.state == state) else {
                continue;
            };
            seen += 1;
            if seen <= skip {
                continue;
            }
            if let Some(event) = self.event(sequence)? {
                found.push((event, delivery));
            }
            if found.len() == limit {
                break;
            }
        }
        let counts = self.counts();
        let total = match state {
            DeliveryState::Pending => counts.pending,
            DeliveryState::Delivered => counts.delivered,
            DeliveryState::Dead => counts.dead,
        };
        Ok((found, total))
    }

    /// Delivers an event again to every target but the controller; answers to how many, `None` when it is not kept.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn replay(&self, id: &str, now: Timestamp) -> Result<Option<usize>, DbError> {
        let sequence = id.strip_prefix("msg_").and_then(|rest| rest.get(..16));
        let sequence = sequence.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let Some(sequence) = sequence.map(Sequence) else {
            return Ok(None);
        };
        match self.event(sequence)? {
            Some(event) if event.id == id => {
                let count = self.replay_one(sequence, &event, now)?;
                self.0.db.durable().await?;
                Ok(Some(count))
            }
            _ => Ok(None),
        }
    }

    /// Delivers every kept event since `since` again, those of one state only where one is given; answers how many
    /// deliveries that makes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn replay_since(
        &self,
        since: Timestamp,
        only: Option<DeliveryState>,
        now: Timestamp,
    ) -> Result<usize, DbError> {
        let mut count = 0;
        for entry in self.0.tree.scan_prefix("e") {
            let (key, value) = entry.map_err(fault("read the outbox"))?;
            let Some(sequence) = number(&key[1..]).map(Sequence) else {
                continue;
            };
            let event = decode(sequence, &value)?;
            if event.received_at < since {
                continue;
            }
            for target in self.0.targets.keys() {
                let state = self
                    .delivery(sequence, *target)?
                    .map(|delivery| delivery.state);
                if *target != TargetId::CONTROLLER && (only.is_none() || only == state) {
                    count += self.again(sequence, *target, &event, now)?;
                }
            }
        }
        self.0.db.durable().await?;
        Ok(count)
    }

    /// How full it is.
    pub fn counts(&self) -> Counts {
        self.front().counts
    }

    /// When the oldest pending event came; the controller's own work is left out.
    pub fn oldest_pending(&self) -> Option<Timestamp> {
        let index = self
            .0
            .tree
            .scan_prefix([b'x', DeliveryState::Pending.letter()]);
        let first = index
            .keys()
            .filter_map(|key| place(&key.ok()?[2..]))
            .find(|(_, target)| *target != TargetId::CONTROLLER)?;
        Some(self.event(first.0).ok()??.received_at)
    }

    fn replay_one(&self, seq: Sequence, event: &Event, now: Timestamp) -> Result<usize, DbError> {
        let targets = self.0.targets.keys();
        let targets = targets.filter(|target| **target != TargetId::CONTROLLER);
        let mut count = 0;
        for target in targets {
            count += self.again(seq, *target, event, now)?;
        }
        Ok(count)
    }

    /// Makes a settled delivery pending again; a pending one goes on as it is.
    fn again(
        &self,
        sequence: Sequence,
        target: TargetId,
        event: &Event,
        now: Timestamp,
    ) -> Result<usize, DbError> {
        let old = self.delivery(sequence, target)?;
        if old
            .as_ref()
            .is_some_and(|old| old.state == DeliveryState::Pending)
        {
            return Ok(0);
        }
        let delivery = old.unwrap_or_else(|| self.fresh(target, event));
        let delivery = Delivery {
            tries: Tries::default(),
            next_at: None,
            ..delivery
        };
        self.store(sequence, target, delivery, DeliveryState::Pending, now)?;
        self.send(Due::fresh(sequence, target, &event.lane.as_str().into()));
        Ok(1)
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

    /// Takes into the tree what only the journal has, in whole or in part: a crash came before sled wrote it.
    fn take_back(&self, held: Vec<Record>, now: Timestamp) -> Result<(), DbError> {
        for (number, value) in held {
            let sequence = Sequence(number);
            let event = match decode(sequence, &value) {
                Ok(event) => event,
                Err(cause) => {
                    let record = (&event_key(sequence)[..], &value[..]);
                    self.0.db.set_record_aside("journal", record, &cause, now)?;
                    continue;
                }
            };
            self.put(event_key(sequence), value)?;
            for target in self.0.targets.keys() {
                match self.delivery(sequence, *target) {
                    // A loss of power may take one of two keys that were written together.
                    Ok(Some(known)) => {
                        self.put(index_key(known.state, sequence, *target), Vec::new())?;
                    }
                    // One that cannot be read is made again.
                    Ok(None) | Err(DbError::Record { .. }) => {
                        self.insert_delivery(sequence, *target, &event)?;
                    }
                    Err(cause) => return Err(cause),
                }
            }
        }
        Ok(())
    }

    fn insert_delivery(
        &self,
        sequence: Sequence,
        target: TargetId,
        event: &Event,
    ) -> Result<(), DbError> {
        let delivery = json(&self.fresh(target, event))?;
        let place = index_key(DeliveryState::Pending, sequence, target);
        self.put(place, Vec::new())?;
        self.put(delivery_key(sequence, target), delivery)
    }

    /// Writes a delivery under its new state.
    fn store(
        &self,
        sequence: Sequence,
        target: TargetId,
        mut delivery: Delivery,
        state: DeliveryState,
        now: Timestamp,
    ) -> Result<(), DbError> {
        let mut front = self.front();
        let known = self.0.tree.contains_key(delivery_key(sequence, target));
        let known = known.map_err(fault("read a delivery"))?;
        let before = std::mem::replace(&mut delivery.state, state);
        delivery.changed_at = now;
        if !known || before != state {
            self.put(index_key(state, sequence, target), Vec::new())?;
            front.add(state, target);
        }
        self.put(delivery_key(sequence, target), json(&delivery)?)?;
        if known && before != state {
            self.drop(index_key(before, sequence, target))?;
            front.sub(before, target);
        }
        Ok(())
    }

    fn delivery(&self, seq: Sequence, target: TargetId) -> Result<Option<Delivery>, DbError> {
        let key = delivery_key(seq, target);
        let value = self.0.tree.get(&key).map_err(fault("read a delivery"))?;
        value.map(|value| read_delivery(seq, &value)).transpose()
    }

    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> Result<(), DbError> {
        let written = self.0.tree.insert(key, value).map(drop);
        written.map_err(fault("write the outbox"))
    }

    /// Answers whether there was such a key.
    fn drop(&self, key: Vec<u8>) -> Result<bool, DbError> {
        let removed = self.0.tree.remove(key);
        removed
            .map(|value| value.is_some())
            .map_err(fault("write the outbox"))
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

    /// Takes up what an earlier life left pending.
    fn resume(&self, now: Timestamp) -> Result<(), DbError> {
        let index = self
            .0
            .tree
            .scan_prefix([b'x', DeliveryState::Pending.letter()]);
        for key in index.keys() {
            let key = key.map_err(fault("read the outbox"))?;
            let Some((sequence, target)) = place(&key[2..]) else {
                continue;
            };
            let Some(delivery) = self.delivery(sequence, target)? else {
                continue;
            };
            let due = Due {
                sequence,
                target,
                lane: delivery.lane.as_str().into(),
                tries: delivery.tries,
                next_at: delivery.next_at,
                unkept: None,
            };
            if self.0.targets.contains_key(&target) {
                self.send(due);
            } else {
                let why = "the target is no longer configured".to_owned();
                self.settle(&due, Outcome::Dead { why }, now)?;
            }
        }
        Ok(())
    }

    /// Forgets what was settled long ago, and, when the outbox is full, what is oldest.
    fn tidy(&self, now: Timestamp) -> Result<(), DbError> {
        let counts = self.counts();
        for (state, count) in [
            (DeliveryState::Delivered, counts.delivered),
            (DeliveryState::Dead, counts.dead),
        ] {
            if count > KEPT {
                self.forget_oldest(state, FEW)?;
            }
        }
        if counts.bytes > self.0.bounds.bytes {
            self.make_room(now)?;
        }
        Ok(())
    }

    /// Forgets settled deliveries older than the outbox keeps them. Called now and then.
    ///
    /// # Errors
    /// When the database fails.
    pub fn forget_old(&self, now: Timestamp) -> Result<usize, DbError> {
        let mut forgotten = 0;
        for state in [DeliveryState::Delivered, DeliveryState::Dead] {
            for key in self.0.tree.scan_prefix([b'x', state.letter()]).keys() {
                let key = key.map_err(fault("read the outbox"))?;
                let Some((sequence, target)) = place(&key[2..]) else {
                    continue;
                };
                let delivery = self.delivery(sequence, target)?;
                if delivery.is_some_and(|it| now.since(it.changed_at) < self.0.bounds.age) {
                    break;
                }
                self.forget(state, sequence, target)?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    fn make_room(&self, now: Timestamp) -> Result<(), DbError> {
        for state in [
            DeliveryState::Delivered,
            DeliveryState::Dead,
            DeliveryState::Pending,
        ] {
            while self.counts().bytes > self.0.bounds.bytes {
                let forgotten = self.forget_oldest(state, MANY)?;
                if forgotten == 0 {
                    break;
                }
                if state != DeliveryState::Delivered {
                    let counts = &mut self.front().counts;
                    counts.dropped += forgotten as u64;
                    counts.dropped_at = Some(now);
                    log::error!(deliveries = forgotten, state = state.as_str(), at:% = now;
                        "the webhook outbox is full: the oldest deliveries were dropped; repair their target or raise HA_WEBHOOK_OUTBOX_MAX_BYTES");
                }
            }
        }
        Ok(())
    }

    fn forget_oldest(&self, state: DeliveryState, most: usize) -> Result<usize, DbError> {
        let index = self
            .0
            .tree
            .scan_prefix([b'x', state.letter()])
            .keys()
            .take(most);
        let oldest = index
            .collect::<Result<Vec<_>, _>>()
            .map_err(fault("read the outbox"))?;
        for key in &oldest {
            if let Some((sequence, target)) = place(&key[2..]) {
                self.forget(state, sequence, target)?;
            }
        }
        Ok(oldest.len())
    }

    /// Forgets a delivery, and its event with the last of its deliveries.
    fn forget(&self, state: DeliveryState, seq: Sequence, target: TargetId) -> Result<(), DbError> {
        let mut front = self.front();
        self.drop(delivery_key(seq, target))?;
        if !self.drop(index_key(state, seq, target))? {
            return Ok(()); // somebody else has just forgotten it
        }
        if !self.has_deliveries(seq) {
            let size = self
                .0
                .tree
                .get(event_key(seq))
                .map_err(fault("read an event"))?;
            let size = size.map_or(0, |value| value.len() as u64);
            front.counts.bytes = front.counts.bytes.saturating_sub(size);
            self.drop(event_key(seq))?;
        }
        front.sub(state, target);
        Ok(())
    }

    fn has_deliveries(&self, seq: Sequence) -> bool {
        let prefix = [&b"d"[..], &seq.0.to_be_bytes()].concat();
        self.0.tree.scan_prefix(prefix).keys().next().is_some()
    }

    /// Reads everything once, and counts it. What cannot be read is set aside, so that the others are delivered and listed;
    /// what a crash left half done is removed: nothing of it was answered as kept, or it was about to be forgotten.
    fn take_stock(&self, now: Timestamp) -> Result<(), DbError> {
        let mut front = self.front();
        let mut stock = Stock::default();
        for entry in self.0.tree.iter() {
            let (key, value) = entry.map_err(fault("read the outbox"))?;
            match stock.add(&key, &value) {
                Ok(Some((state, target))) => front.add(state, target),
                Ok(None) => {}
                Err(cause) => {
                    let record = (&key[..], &value[..]);
                    self.0.db.set_record_aside("outbox", record, &cause, now)?;
                    stock.strays.push(key.to_vec());
                }
            }
        }
        front.counts.bytes = stock.events.values().sum();
        // New events come after the last one.
        if let Some((last, _)) = stock.events.last_key_value() {
            front.next = last.0 + 1;
        }
        let alone = |(sequence, _): &&(Sequence, TargetId)| !stock.events.contains_key(sequence);
        let alone = stock.deliveries.keys().filter(alone);
        let alone = alone.map(|(sequence, target)| delivery_key(*sequence, *target));
        for key in alone.chain(stock.strays.iter().cloned()) {
            self.drop(key)?;
        }
        Ok(())
    }

    fn front(&self) -> MutexGuard<'_, Front> {
        self.0.front.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is found in the tree, which holds deliveries first, then events, then the index.
#[derive(Default)]
struct Stock {
    deliveries: BTreeMap<(Sequence, TargetId), DeliveryState>,
    /// With their bytes.
    events: BTreeMap<Sequence, u64>,
    /// Keys that lead nowhere.
    strays: Vec<Vec<u8>>,
}

impl Stock {
    /// Takes up the next record; answers the delivery that it lists.
    fn add(
        &mut self,
        key: &[u8],
        value: &[u8],
    ) -> Result<Option<(DeliveryState, TargetId)>, DbError> {
        let no_key = || broken(Sequence(0), "its key is none");
        match key {
            [b'd', rest @ ..] => {
                let (sequence, target) = place(rest).ok_or_else(no_key)?;
                let delivery = read_delivery(sequence, value)?;
                self.deliveries.insert((sequence, target), delivery.state);
            }
            [b'e', rest @ ..] => {
                let sequence = number(rest).map(Sequence).ok_or_else(no_key)?;
                decode(sequence, value)?;
                let from = (sequence, TargetId([0; 8]));
                let next = self.deliveries.range(from..).next();
                if next.is_some_and(|((of, _), _)| *of == sequence) {
                    self.events.insert(sequence, value.len() as u64);
                } else {
                    self.strays.push(key.to_vec());
                }
            }
            [b'x', letter, rest @ ..] => {
                let Some((sequence, target)) = place(rest) else {
                    return Ok(None);
                };
                let state = self.deliveries.get(&(sequence, target));
                match state.filter(|state| state.letter() == *letter) {
                    Some(state) if self.events.contains_key(&sequence) => {
                        return Ok(Some((*state, target)));
                    }
                    _ => self.strays.push(key.to_vec()),
                }
            }
            _ => {}
        }
        Ok(None)
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

fn event_key(seq: Sequence) -> Vec<u8> {
    [&b"e"[..], &seq.0.to_be_bytes()].concat()
}

fn delivery_key(seq: Sequence, target: TargetId) -> Vec<u8> {
    [&b"d"[..], &seq.0.to_be_bytes(), &target.0].concat()
}

fn index_key(state: DeliveryState, seq: Sequence, target: TargetId) -> Vec<u8> {
    [&[b'x', state.letter()][..], &seq.0.to_be_bytes(), &target.0].concat()
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn place(bytes: &[u8]) -> Option<(Sequence, TargetId)> {
    let (seq, target) = bytes.split_at_checked(8)?;
    Some((Sequence(number(seq)?), TargetId(target.try_into().ok()?)))
}

/// Version, length of the description, description, body.
fn encode(event: &Event) -> Result<Vec<u8>, DbError> {
    let head = json(event)?;
    let length = u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes();
    Ok([&[VERSION][..], &length, &head, &event.body].concat())
}

fn decode(seq: Sequence, value: &[u8]) -> Result<Event, DbError> {
    let parts = || {
        let (version, rest) = value.split_first()?;
        let (length, rest) = rest.split_at_checked(4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        (*version == VERSION).then_some(rest.split_at_checked(length)?)
    };
    let (head, body) = parts().ok_or_else(|| broken(seq, "it is no event of this version"))?;
    let event = serde_json::from_slice(head).map_err(|cause| broken(seq, &cause.to_string()))?;
    Ok(Event {
        body: Bytes::copy_from_slice(body),
        ..event
    })
}

fn read_delivery(seq: Sequence, value: &[u8]) -> Result<Delivery, DbError> {
    serde_json::from_slice(value).map_err(|cause| broken(seq, &cause.to_string()))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, DbError> {
    serde_json::to_vec(value).map_err(|cause| DbError::Failed {
        act: "write a webhook",
        cause: cause.to_string(),
    })
}

fn broken(seq: Sequence, cause: &str) -> DbError {
    DbError::Record {
        key: format!("outbox/{}", seq.0),
        cause: cause.to_owned(),
    }
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

    const TARGET: TargetId = TargetId([1; 8]);
    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn targets() -> BTreeMap<TargetId, String> {
        BTreeMap::from([
            (TargetId::CONTROLLER, "controller".into()),
            (TARGET, "http://a".into()),
        ])
    }

    fn bounds(bytes: u64) -> Bounds {
        Bounds {
            bytes,
            age: Duration::from_secs(60),
        }
    }

    fn event(lane: &str, body: &'static str) -> Event {
        Event::new(NOW, lane.into(), body.into())
    }

    async fn drain(receiver: &mut mpsc::UnboundedReceiver<Due>) -> Vec<Due> {
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

    #[tokio::test]
    async fn what_only_the_journal_has_is_taken_back_in_whole_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let mut ids = Vec::new();
        let db = Db::open(folder.path()).unwrap();
        let (outbox, _due) = Outbox::open(&db, targets(), bounds(1 << 20), NOW).unwrap();
        for body in ["1", "2", "3"] {
            ids.push(outbox.accept(event("s", body)).await.unwrap());
        }
        // sled had the first but for a place in the index, of the second not every delivery, and nothing of the third.
        let before = Db::open(other.path()).unwrap();
        let tree = before.sled.open_tree("outbox").unwrap();
        for entry in outbox.0.tree.iter() {
            let (key, value) = entry.unwrap();
            let seq = key.iter().skip(1).find(|byte| (1..4).contains(*byte));
            let lost = match key.first() {
                Some(b'x') => true,
                _ => key.ends_with(&TARGET.0),
            };
            if seq == Some(&1) && key.first() != Some(&b'x') || seq == Some(&2) && !lost {
                tree.insert(key, value).unwrap();
            }
        }
        let journal = |db: &Db| db.path().join("journal");
        std::fs::copy(journal(&db), journal(&before)).unwrap();
        for _ in 0..2 {
            let (outbox, mut due) = Outbox::open(&before, targets(), bounds(1 << 20), NOW).unwrap();
            let all = drain(&mut due).await;
            assert_eq!(all.len(), 6);
            let mine = all.iter().filter(|due| due.target == TARGET);
            let mine = mine.map(|due| outbox.event(due.sequence).unwrap().unwrap().id);
            assert_eq!(mine.collect::<Vec<_>>(), ids);
            assert_eq!((outbox.counts().pending, outbox.front().next), (3, 4));
            assert_eq!(std::fs::metadata(journal(&before)).unwrap().len(), 0);
        }
    }

    #[tokio::test]
    async fn what_a_full_outbox_forgets_is_not_in_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).unwrap();
        let (outbox, mut due) = Outbox::open(&db, targets(), bounds(2_000), NOW).unwrap();
        let mut emptied = 0;
        for _ in 0..50 {
            outbox.accept(event("s", "{}")).await.unwrap();
            for due in drain(&mut due).await {
                outbox.settle(&due, Outcome::Delivered, NOW).unwrap();
            }
            let kept = outbox.counts().bytes;
            assert!(kept <= 2_000, "{kept}");
            let journal = std::fs::metadata(db.path().join("journal")).unwrap();
            assert!(journal.len() <= kept + 50 * 20);
            emptied += usize::from(journal.len() == 0);
        }
        assert!(emptied > 0);
    }

    #[tokio::test]
    async fn a_dead_letter_is_listed_and_delivered_again_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).unwrap();
        let (outbox, mut due) = Outbox::open(&db, targets(), bounds(1 << 20), NOW).unwrap();
        let id = outbox.accept(event("s", "{}")).await.unwrap();
        for due in drain(&mut due).await {
            outbox
                .settle(&due, Outcome::Dead { why: "404".into() }, NOW)
                .unwrap();
        }
        let (dead, total) = outbox.list(DeliveryState::Dead, 10, 0).unwrap();
        assert_eq!((dead.len(), total), (1, 1));
        assert_eq!(dead[0].1.last_error.as_deref(), Some("404"));
        assert_eq!(outbox.replay(&id, NOW).await.unwrap(), Some(1));
        assert_eq!(outbox.replay("msg_nothing", NOW).await.unwrap(), None);
        let again = drain(&mut due).await;
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].target, TARGET);
        assert_eq!(outbox.counts().dead, 0);
        assert_eq!(
            outbox.replay_since(NOW, None, NOW).await.unwrap(),
            0,
            "it is pending"
        );
    }

    #[tokio::test]
    async fn a_full_outbox_drops_the_oldest_and_counts_them() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).unwrap();
        let (outbox, _due) = Outbox::open(&db, targets(), bounds(20_000), NOW).unwrap();
        for _ in 0..200 {
            outbox
                .accept(event("s", "{\"event\":\"x\"}"))
                .await
                .unwrap();
        }
        let counts = outbox.counts();
        assert!(counts.bytes <= 20_000, "{counts:?}");
        assert!(counts.dropped > 0, "{counts:?}");
        assert!(counts.pending > 0, "{counts:?}");
    }

    #[tokio::test]
    async fn what_a_crash_left_half_done_is_tidied_up_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).unwrap();
        let (outbox, mut due) = Outbox::open(&db, targets(), bounds(1 << 20), NOW).unwrap();
        outbox.accept(event("s", "{}")).await.unwrap();
        let all = drain(&mut due).await;
        for due in &all {
            outbox.settle(due, Outcome::Delivered, NOW).unwrap();
        }
        let whole = outbox.0.tree.len();
        // Settled, and the old place in the index still there; an event without its deliveries; a place without one.
        let old = index_key(DeliveryState::Pending, all[0].sequence, all[0].target);
        outbox.put(old, Vec::new()).unwrap();
        let value = encode(&event("t", "{}")).unwrap();
        outbox.put(event_key(Sequence(7)), value).unwrap();
        let place = index_key(DeliveryState::Dead, Sequence(9), TARGET);
        outbox.put(place, Vec::new()).unwrap();

        let (again, mut due) = Outbox::open(&db, targets(), bounds(1 << 20), NOW).unwrap();
        assert_eq!(again.0.tree.len(), whole);
        assert!(drain(&mut due).await.is_empty());
        assert_eq!(again.counts(), outbox.counts());
    }

    #[tokio::test]
    async fn what_is_settled_is_forgotten_with_its_event() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).unwrap();
        let (outbox, mut due) = Outbox::open(&db, targets(), bounds(1 << 20), NOW).unwrap();
        outbox.accept(event("s", "{}")).await.unwrap();
        for due in drain(&mut due).await {
            outbox.settle(&due, Outcome::Delivered, NOW).unwrap();
        }
        assert_eq!(outbox.forget_old(NOW).unwrap(), 0);
        let later = NOW.plus(Duration::from_secs(61));
        assert_eq!(outbox.forget_old(later).unwrap(), 2);
        assert_eq!(outbox.counts(), Counts::default());
        assert_eq!(outbox.0.tree.len(), 0);
    }
}
