//! What the outbox does once, at its start: takes into the database what only the journal has, counts what there is, removes
//! what a crash left half done, and has what an earlier life left pending delivered. What cannot be read is set aside.

use super::index::{delivery_key, event_key, index_key, number, place};
use super::record::{broken, decode, read_delivery};
use super::{DbError, DeliveryState, Due, Outbox, Outcome, Sequence, TargetId, fault};
use crate::clock::Timestamp;
use crate::db::journal::Record;
use std::collections::BTreeMap;

impl Outbox {
    /// Takes into the tree what only the journal has, in whole or in part: a crash came before sled wrote it.
    pub(super) fn take_back(&self, held: Vec<Record>, now: Timestamp) -> Result<(), DbError> {
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

    /// Reads everything once, and counts it. What cannot be read is set aside, so that the others are delivered and listed;
    /// what a crash left half done is removed: nothing of it was answered as kept, or it was about to be forgotten.
    pub(super) fn take_stock(&self, now: Timestamp) -> Result<(), DbError> {
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

    /// Takes up what an earlier life left pending.
    pub(super) fn resume(&self, now: Timestamp) -> Result<(), DbError> {
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

#[cfg(test)]
mod tests {
    use super::super::record::encode;
    use super::super::tests::{NOW, TARGET, bounds, drain, event, targets};
    use super::*;
    use crate::db::Db;

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
    async fn what_a_crash_left_half_done_is_tidied_up_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).unwrap();
        let (outbox, mut due) = Outbox::open(&db, targets(), bounds(1 << 20), NOW).unwrap();
        outbox.accept(event("s", "{}")).await.unwrap();
        let all = drain(&mut due).await;
        for due in &all {
            outbox.settle(due, Outcome::Delivered, NOW).unwrap();
        }
        outbox.checkpoint().await.unwrap();
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
}
