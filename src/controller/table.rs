//! The sessions in memory, with the indexes that keep every question cheap: by status for lists, by due time for the
//! watcher, by container for events. A session's due entry may be early, never late: a heartbeat only moves its session's
//! stamp, and the watcher works out the next due time when the old one comes.

use super::evidence::Asked;
use super::measure::Measure;
use super::stall::Stall;
use crate::clock::Timestamp;
use crate::model::failover::{Fault, Policy, Seen};
use crate::model::ids::{ContainerId, RecordingId};
use crate::model::session::{Contact, Session, State, Status};
use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap};
use std::mem::discriminant;
use std::time::Duration;

/// How soon a session is looked at again whose time has come and whose fault remains.
const SOONEST: Duration = Duration::from_millis(500);

/// The due time of what has none.
const NEVER: Timestamp = Timestamp::from_millis(i64::MAX);

/// Which sessions a list shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// All.
    #[default]
    Any,
    /// Those whose recorder is expected to be at work.
    Active,
    /// The others.
    Inactive,
    /// Those with one status.
    Is(Status),
}

const STATUSES: [Status; 7] = [
    Status::Starting,
    Status::Recording,
    Status::Paused,
    Status::Stopping,
    Status::Completed,
    Status::Failed,
    Status::Inactive,
];

impl Which {
    fn takes(self, status: Status) -> bool {
        match self {
            Self::Any => true,
            Self::Active => status.active(),
            Self::Inactive => !status.active(),
            Self::Is(wanted) => wanted == status,
        }
    }
}

/// A session with what is known of it only while this process lives.
pub(super) struct Entry {
    pub(super) session: Session,
    /// What the runtime last showed of its container.
    pub(super) seen: Seen,
    /// Changed since it was written to disk.
    pub(super) dirty: bool,
    /// A replacement is being started.
    pub(super) replacing: bool,
    /// When its container was last started by us: what the runtime reports from before is old news.
    pub(super) started_at: Timestamp,
    /// Its stop is being seen to.
    pub(super) concluding: bool,
    /// What its files showed, and what was found where they did not grow, until it is over; boxed, for most are.
    pub(super) stall: Option<Box<Stall>>,
    /// Its folder is being looked at.
    pub(super) looking: bool,
    /// It was reported to record without being heard.
    pub(super) deaf: bool,
    /// What OpenVidu said of it, once it was asked; boxed, for most never need it.
    pub(super) asked: Option<Box<Asked>>,
    /// Its place in the index of due times; [`NEVER`] when it has none. An `Option` would be twice as large.
    due: Timestamp,
}

impl Entry {
    fn calls(&self, policy: &Policy, watched_since: Timestamp, now: Timestamp) -> Calls {
        let session = &self.session;
        Calls {
            fault: policy.fault(session, self.seen, watched_since, now),
            replacement: matches!(
                session.state,
                State::TakingOver { started_at: None, not_before, .. } if not_before <= now
            ),
            seal: session.seal_at.is_some_and(|at| at <= now),
            question: self.question_at().is_some_and(|at| at <= now),
            proof: self
                .proof_at(policy, watched_since)
                .is_some_and(|at| at <= now),
        }
    }

    /// When its time comes.
    fn comes_due(&self, policy: &Policy, watched_since: Timestamp) -> Option<Timestamp> {
        let work = policy.due(&self.session, self.seen, watched_since);
        let proof = self.proof_at(policy, watched_since);
        let all = [work, proof, self.question_at()];
        all.into_iter().flatten().min()
    }

    /// The runtime shows what its container does.
    pub(super) fn shows(&mut self, seen: Seen, now: Timestamp) {
        match (self.seen, seen) {
            // Since when it is frozen is known already.
            (Seen::Frozen { .. }, Seen::Frozen { .. }) => return,
            (Seen::Frozen { .. }, Seen::Running) => {
                if let Some(stall) = &mut self.stall {
                    stall.thaw(now);
                }
            }
            _ => {}
        }
        self.seen = seen;
    }

    /// What is known of its files goes once it is of no use: in another state its video is tried anew.
    fn forget_of_its_files(&mut self, is_in_another_state: bool) {
        let session = &self.session;
        let Some(stall) = &mut self.stall else { return };
        if is_in_another_state || session.finished_at.is_some() {
            stall.unfinished = None;
        }
        if session.ended_at().is_some() {
            self.stall = self.stall.take().and_then(|it| it.at_the_end());
        }
    }

    fn question_at(&self) -> Option<Timestamp> {
        self.asked.as_ref().and_then(|asked| asked.next())
    }

    fn watch_from(&mut self, now: Timestamp) {
        if let Some(asked) = &mut self.asked {
            asked.watch_from(now);
        }
    }
}

/// What the time that has come asks to be done for a session.
#[derive(Default)]
pub(super) struct Calls {
    /// What time alone says is wrong with it.
    pub(super) fault: Option<Fault>,
    /// Its next recorder is to be started.
    pub(super) replacement: bool,
    /// OpenVidu's file is to be seen to.
    pub(super) seal: bool,
    /// OpenVidu is to be asked about it.
    pub(super) question: bool,
    /// It is to be found out why its run does not grow.
    pub(super) proof: bool,
}

impl Calls {
    fn any(&self) -> bool {
        self.fault.is_some() || self.replacement || self.seal || self.question || self.proof
    }
}

type Index = BTreeSet<(Timestamp, RecordingId)>;

/// All sessions.
pub(super) struct Table {
    policy: Policy,
    watched_since: Timestamp,
    /// Boxed: a third of the map's places are empty.
    entries: HashMap<RecordingId, Box<Entry>>,
    by_status: HashMap<Status, Index>,
    due: Index,
    by_container: HashMap<ContainerId, RecordingId>,
}

impl Table {
    pub(super) fn new(policy: Policy, watched_since: Timestamp) -> Self {
        Self {
            policy,
            watched_since,
            entries: HashMap::new(),
            by_status: STATUSES
                .into_iter()
                .map(|status| (status, Index::new()))
                .collect(),
            due: Index::new(),
            by_container: HashMap::new(),
        }
    }

    /// Nothing that was missed before `now` counts. Due entries may be early for it, which is allowed.
    pub(super) fn watch_from(&mut self, now: Timestamp) {
        self.watched_since = now;
        for entry in self.entries.values_mut() {
            entry.watch_from(now);
        }
    }

    /// The clock was set back to `now`: whoever falls silent from now on is missed in its usual time.
    pub(super) fn set_back(&mut self, now: Timestamp) {
        self.watched_since = now;
        self.due.clear();
        for entry in self.entries.values_mut() {
            entry.session.set_back(now);
            entry.dirty = true;
            entry.started_at = entry.started_at.min(now);
            if let Some(stall) = &mut entry.stall {
                stall.set_back(now);
            }
            if let Seen::Frozen { since } = &mut entry.seen {
                *since = now.min(*since);
            }
            entry.watch_from(now);
            entry.due = NEVER;
        }
        for id in self.entries.keys().cloned().collect::<Vec<_>>() {
            self.schedule(&id, now);
        }
    }

    pub(super) fn get(&self, id: &RecordingId) -> Option<&Entry> {
        self.entries.get(id).map(Box::as_ref)
    }

    pub(super) fn of_container(&self, container: &ContainerId) -> Option<&RecordingId> {
        self.by_container.get(container)
    }

    /// Puts a session in the place of what was there under its id.
    pub(super) fn insert(&mut self, session: Session) {
        self.remove(&session.id.clone());
        let id = session.id.clone();
        self.index(&session);
        let entry = Entry {
            session,
            seen: Seen::Unknown,
            dirty: false,
            replacing: false,
            concluding: false,
            stall: None,
            looking: false,
            deaf: false,
            asked: None,
            started_at: Timestamp::default(),
            due: NEVER,
        };
        self.entries.insert(id.clone(), Box::new(entry));
        self.schedule(&id, Timestamp::default());
    }

    pub(super) fn remove(&mut self, id: &RecordingId) -> Option<Session> {
        let entry = self.entries.remove(id)?;
        self.unindex(&entry.session);
        if entry.due != NEVER {
            self.due.remove(&(entry.due, id.clone()));
        }
        Some(entry.session)
    }

    /// Changes a session and brings the indexes after it.
    pub(super) fn change<T>(
        &mut self,
        id: &RecordingId,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let entry = self.entries.get_mut(id)?;
        let before = IndexKeys::of(&entry.session);
        let due = entry.comes_due(&self.policy, self.watched_since);
        let measured = Measure::of(&entry.session);
        let state = discriminant(&entry.session.state);
        let answer = change(entry);
        let is_another = discriminant(&entry.session.state) != state;
        entry.forget_of_its_files(is_another);
        measured.count(&entry.session);
        let is_moved = entry.comes_due(&self.policy, self.watched_since) != due;
        if before != IndexKeys::of(&entry.session) {
            let after = entry.session.clone();
            self.unindex_keys(id, &before);
            self.index(&after);
        }
        // A change that moves nothing must not bring back a time that has come and was seen to.
        if is_moved {
            self.schedule(id, Timestamp::default());
        }
        Some(answer)
    }

    /// Looks at every session whose time has come and schedules it anew; answers those for which something is to be done.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<RecordingId> {
        let earliest = now.plus(SOONEST);
        let mut called = Vec::new();
        let mut come = Vec::new();
        while self.next_due().is_some_and(|at| at <= now) {
            come.extend(self.due.pop_first());
        }
        for (_, id) in come {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            if entry.calls(&self.policy, self.watched_since, now).any() {
                called.push(id.clone());
            }
            let due = entry.comes_due(&self.policy, self.watched_since);
            let due = due.map(|due| due.max(earliest));
            entry.due = due.unwrap_or(NEVER);
            self.due.extend(due.map(|due| (due, id)));
        }
        called
    }

    /// When the next session's time comes.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// What is to be done for a session now.
    pub(super) fn calls(&self, id: &RecordingId, now: Timestamp) -> Calls {
        let entry = self.entries.get(id);
        entry.map_or_else(Calls::default, |entry| {
            entry.calls(&self.policy, self.watched_since, now)
        })
    }

    /// What was missed before this does not count.
    pub(super) const fn watched_since(&self) -> Timestamp {
        self.watched_since
    }

    /// Whether a session's recorder is heard.
    pub(super) fn contact(&self, session: &Session, now: Timestamp) -> Contact {
        session.contact(self.policy.heartbeat_timeout, self.watched_since, now)
    }

    /// Sessions in the order of their creation, and whether their recorders are heard.
    pub(super) fn page(
        &self,
        which: Which,
        offset: usize,
        limit: usize,
        now: Timestamp,
    ) -> Vec<(Session, Contact)> {
        let needed = offset.saturating_add(limit);
        let mut keys = self
            .matching(which)
            .flat_map(|index| index.iter().take(needed))
            .collect::<Vec<_>>();
        keys.sort_unstable();
        keys.into_iter()
            .skip(offset)
            .take(limit)
            .filter_map(|(_, id)| self.entries.get(id))
            .map(|entry| (entry.session.clone(), self.contact(&entry.session, now)))
            .collect()
    }

    pub(super) fn count(&self, which: Which) -> usize {
        self.matching(which).map(BTreeSet::len).sum()
    }

    pub(super) fn ids(&self, which: Which) -> Vec<RecordingId> {
        self.matching(which)
            .flatten()
            .map(|(_, id)| id.clone())
            .collect()
    }

    /// The ids of the sessions that changed since they were written, marked as written.
    pub(super) fn take_dirty(&mut self) -> Vec<RecordingId> {
        let entries = self.entries.values_mut();
        entries
            .filter_map(|entry| std::mem::take(&mut entry.dirty).then(|| entry.session.id.clone()))
            .collect()
    }

    /// The sessions whose recorder is expected to be at work.
    pub(super) fn active(&self) -> impl Iterator<Item = &Session> {
        let ids = self.matching(Which::Active).flatten();
        ids.filter_map(|(_, id)| Some(&self.entries.get(id)?.session))
    }

    /// All of them.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().map(Box::as_ref)
    }

    fn matching(&self, which: Which) -> impl Iterator<Item = &Index> {
        self.by_status
            .iter()
            .filter(move |(status, _)| which.takes(**status))
            .map(|(_, index)| index)
    }

    /// Sees to it that the session is looked at when its time comes, and not before `earliest`.
    fn schedule(&mut self, id: &RecordingId, earliest: Timestamp) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let due = entry.comes_due(&self.policy, self.watched_since);
        let Some(due) = due.map(|due| due.max(earliest)) else {
            return;
        };
        if entry.due <= due {
            return;
        }
        let late = std::mem::replace(&mut entry.due, due);
        if late != NEVER {
            self.due.remove(&(late, id.clone()));
        }
        self.due.insert((due, id.clone()));
    }

    fn index(&mut self, session: &Session) {
        let key = (session.created_at, session.id.clone());
        if let Some(index) = self.by_status.get_mut(&session.state.status()) {
            index.insert(key);
        }
        if let Some(holder) = &session.container {
            // A container of quick start holds several in turn: the one that is active now is its.
            let held = self.by_container.entry(holder.id.clone());
            match held {
                Slot::Occupied(mut held) if session.state.status().active() => {
                    held.insert(session.id.clone());
                }
                Slot::Occupied(_) => {}
                Slot::Vacant(free) => {
                    free.insert(session.id.clone());
                }
            }
        }
    }

    fn unindex(&mut self, session: &Session) {
        self.unindex_keys(&session.id, &IndexKeys::of(session));
    }

    fn unindex_keys(&mut self, id: &RecordingId, keys: &IndexKeys) {
        if let Some(index) = self.by_status.get_mut(&keys.status) {
            index.remove(&(keys.created_at, id.clone()));
        }
        if let Some(container) = &keys.container
            && self.by_container.get(container) == Some(id)
        {
            self.by_container.remove(container);
        }
    }
}

/// What the indexes know of a session.
#[derive(PartialEq)]
struct IndexKeys {
    status: Status,
    created_at: Timestamp,
    container: Option<ContainerId>,
}

impl IndexKeys {
    fn of(session: &Session) -> Self {
        Self {
            status: session.state.status(),
            created_at: session.created_at,
            container: session.container.as_ref().map(|holder| holder.id.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The allocator's next size takes a quarter more, of each of a hundred thousand.
    #[test]
    fn an_entry_is_no_larger_than_half_a_kibibyte() {
        assert!(size_of::<Entry>() <= 512, "{} bytes", size_of::<Entry>());
    }
}
