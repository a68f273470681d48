//! What the outbox forgets, and when: what is settled after some days or when there is much of it, and what is oldest where
//! the outbox is full, which is told. An event goes with the last of its deliveries.

use super::index::{delivery_key, event_key, index_key, place};
use super::{DbError, DeliveryState, Outbox, Sequence, TargetId, fault};
use crate::clock::Timestamp;
use crate::config::Settings;
use std::time::Duration;

/// Settled deliveries of one state that are kept at most.
const KEPT: u64 = 10_000;
/// Deliveries forgotten in one go, while somebody waits: more than one event brings.
const FEW: usize = 8;
/// Deliveries forgotten in one go when the outbox is full.
const MANY: usize = 100;

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

impl Outbox {
    pub(super) async fn keep_bounds(&self, now: Timestamp) -> Result<(), DbError> {
        if self.counts().bytes > self.0.bounds.bytes {
            // What is about to be forgotten must not come back from the journal, in the place of what waits.
            self.checkpoint().await?;
        }
        self.tidy(now)
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
    pub(super) fn forget(
        &self,
        state: DeliveryState,
        seq: Sequence,
        target: TargetId,
    ) -> Result<(), DbError> {
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
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NOW, bounds, drain, event, targets};
    use super::super::{Counts, Outcome};
    use super::*;
    use crate::db::Db;
    use std::collections::BTreeMap;

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
        assert_eq!(outbox.forget_old(later).unwrap(), 1);
        assert_eq!(outbox.counts(), Counts::default());
        assert_eq!(outbox.0.tree.len(), 0);
    }

    #[tokio::test]
    async fn what_the_controller_has_acted_on_is_dropped_at_once_and_other_targets_keep_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).unwrap();
        let (outbox, mut due) = Outbox::open(&db, targets(), bounds(1 << 20), NOW).unwrap();
        outbox.accept(event("s", "{}")).await.unwrap();
        let all = drain(&mut due).await;
        let (own, theirs): (Vec<_>, Vec<_>) =
            all.iter().partition(|it| it.target == TargetId::CONTROLLER);
        let own_key = delivery_key(own[0].sequence, own[0].target);
        outbox.settle(own[0], Outcome::Delivered, NOW).unwrap();
        assert!(!outbox.0.tree.contains_key(own_key).unwrap());
        assert!(outbox.event(own[0].sequence).unwrap().is_some());
        assert_eq!(outbox.counts().pending, 1);
        outbox.settle(theirs[0], Outcome::Delivered, NOW).unwrap();
        assert_eq!(outbox.0.tree.len(), 3, "event, delivery and its place");

        let alone = BTreeMap::from([(TargetId::CONTROLLER, "controller".to_owned())]);
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).unwrap();
        let (outbox, mut due) = Outbox::open(&db, alone, bounds(1 << 20), NOW).unwrap();
        outbox.accept(event("s", "{}")).await.unwrap();
        let why = "no event".to_owned();
        outbox
            .settle(&drain(&mut due).await[0], Outcome::Dead { why }, NOW)
            .unwrap();
        assert_eq!(outbox.0.tree.len(), 0);
    }
}
