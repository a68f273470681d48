//! Where the outbox's records lie, and in which order they are written: `e<seq>` an event, `d<seq><target>` a delivery, and
//! `x<state><seq><target>` the index that lists deliveries of one state in order. sled's batches cost two further writes to
//! disk each, so there are none: records are written in an order in which a crash between two of them leaves nothing worse
//! than what the next start tidies up.

use super::record::{decode, json, read_delivery};
use super::{DbError, Delivery, DeliveryState, Event, Outbox, Sequence, TargetId, fault};
use crate::clock::Timestamp;

impl Outbox {
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

    pub(super) fn insert_delivery(
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
    pub(super) fn store(
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

    pub(super) fn delivery(
        &self,
        seq: Sequence,
        target: TargetId,
    ) -> Result<Option<Delivery>, DbError> {
        let key = delivery_key(seq, target);
        let value = self.0.tree.get(&key).map_err(fault("read a delivery"))?;
        value.map(|value| read_delivery(seq, &value)).transpose()
    }

    pub(super) fn put(&self, key: Vec<u8>, value: Vec<u8>) -> Result<(), DbError> {
        let written = self.0.tree.insert(key, value).map(drop);
        written.map_err(fault("write the outbox"))
    }

    /// Answers whether there was such a key.
    pub(super) fn drop(&self, key: Vec<u8>) -> Result<bool, DbError> {
        let removed = self.0.tree.remove(key);
        removed
            .map(|value| value.is_some())
            .map_err(fault("write the outbox"))
    }
}

pub(super) fn event_key(seq: Sequence) -> Vec<u8> {
    [&b"e"[..], &seq.0.to_be_bytes()].concat()
}

pub(super) fn delivery_key(seq: Sequence, target: TargetId) -> Vec<u8> {
    [&b"d"[..], &seq.0.to_be_bytes(), &target.0].concat()
}

pub(super) fn index_key(state: DeliveryState, seq: Sequence, target: TargetId) -> Vec<u8> {
    [&[b'x', state.letter()][..], &seq.0.to_be_bytes(), &target.0].concat()
}

pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

pub(super) fn place(bytes: &[u8]) -> Option<(Sequence, TargetId)> {
    let (seq, target) = bytes.split_at_checked(8)?;
    Some((Sequence(number(seq)?), TargetId(target.try_into().ok()?)))
}
