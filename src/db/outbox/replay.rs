//! Delivers what was delivered or given up once more, because somebody asks for it. The controller's own deliveries are never
//! made twice: it has acted on them.

use super::index::number;
use super::record::decode;
use super::{
    DbError, Delivery, DeliveryState, Due, Event, Outbox, Sequence, TargetId, Tries, fault,
};
use crate::clock::Timestamp;

impl Outbox {
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
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::super::tests::{NOW, TARGET, bounds, drain, event, targets};
    use super::*;
    use crate::db::Db;

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
}
