//! Recordings that OpenVidu reports as started and of which no recorder has registered: nothing would start them again. Kept in
//! memory until a recorder registers or OpenVidu says that they are over.

use super::{Controller, lock};
use crate::clock::Timestamp;
use crate::model::ids::RecordingId;
use crate::model::wire::RecordingStatusChanged;
use log::warn;
use std::collections::BTreeMap;
use std::time::Duration;

/// So soon a recorder registers after its start.
pub(super) const REGISTERS: Duration = Duration::from_secs(10);
/// OpenVidu may have lost a recording, or we the news of its end.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3_600);
/// Whoever can post webhooks makes no more of them.
const MOST: usize = 1_000;

/// Since when each one is waited for, and whether the log says so.
#[derive(Debug, Default)]
pub(super) struct Expected(BTreeMap<RecordingId, (Timestamp, bool)>);

impl Expected {
    /// The clock was set back to `now`.
    pub(super) fn set_back(&mut self, now: Timestamp) {
        for (since, _) in self.0.values_mut() {
            *since = now.min(*since);
        }
    }
}

impl Controller {
    /// Takes note of OpenVidu's report. Recordings without a picture, and those of single streams, are made without a recorder.
    pub(super) fn expect(&self, news: &RecordingStatusChanged) {
        let now = self.0.clock.now();
        let has_a_recorder = self
            .session(&news.id)
            .is_some_and(|session| session.ended_at().is_none());
        if news.status != "started" || has_a_recorder {
            return self.is_expected_no_more(&news.id);
        }
        let mut expected = lock(&self.0.expected);
        if news.is_of_a_page() && expected.0.len() < MOST {
            expected.0.entry(news.id.clone()).or_insert((now, false));
        }
    }

    /// A recorder is there.
    pub(super) fn is_expected_no_more(&self, id: &RecordingId) {
        if lock(&self.0.expected).0.remove(id).is_some() {
            self.judge_anew();
        }
    }

    /// Forgets those that are over by OpenVidu's own file, or were started very long ago, and logs each of the others once.
    pub(super) fn look_for_the_expected(&self) {
        let now = self.0.clock.now();
        for (id, since) in self.unheard_of() {
            if now.since(since) > FORGOTTEN || self.has_ended(&id) {
                self.is_expected_no_more(&id);
                continue;
            }
            let mut expected = lock(&self.0.expected);
            let told = expected.0.get_mut(&id).map(|(_, told)| told);
            if told.is_some_and(|told| !std::mem::replace(told, true)) {
                warn!(session:% = id; "OpenVidu records, and no recorder has registered: nothing would start it again; \
                    \"ov2-ha-recorder validate\" says what is wrong");
            }
        }
    }

    /// Those that no recorder has registered for in good time, with since when.
    pub(super) fn unheard_of(&self) -> Vec<(RecordingId, Timestamp)> {
        let now = self.0.clock.now();
        let expected = lock(&self.0.expected);
        let late = expected.0.iter();
        late.filter(|(_, (since, _))| now.since(*since) > REGISTERS)
            .map(|(id, (since, _))| (id.clone(), *since))
            .collect()
    }
}
