//! A frozen container is the surest stall there is: nothing in it runs, and it says nothing of it. Heartbeats would be missed
//! half a minute later, so time counts from when the runtime showed the freeze. The event of a thaw may be lost, though, and
//! what records is never ended: the runtime is asked once more before the recorder is held lost.

use super::Controller;
use crate::clock::Timestamp;
use crate::model::failover::{Fault, Reason, Seen, alive_at};
use crate::model::ids::RecordingId;
use crate::model::session::{Event, Holder, Session, State};
use crate::runtime::{ContainerStatus, RuntimeError};
use log::{debug, info};

impl Controller {
    /// Holds a recorder lost that has been frozen for too long, where the runtime still shows it so.
    pub(super) fn ask_whether_frozen(&self, id: &RecordingId) {
        if !self.begins_to_look(id) {
            return;
        }
        let (controller, id) = (self.clone(), id.clone());
        let name = format!("ask whether the recorder of {id} is frozen");
        self.0.tasks.spawn(name, async move {
            let answered = controller.see_whether_frozen(&id).await;
            controller.stops_looking(&id);
            if !answered {
                controller.hear_files_instead(&id);
            }
        });
    }

    /// Answers `false` where what the runtime says decides nothing.
    async fn see_whether_frozen(&self, id: &RecordingId) -> bool {
        let held = |it: Session| it.container.map(|it| it.id);
        let Some(container) = self.session(id).and_then(held) else {
            return true;
        };
        let asked_at = self.0.clock.now();
        let found = match self.0.runtime.inspect(&container).await {
            Ok(found) => found.map(|it| it.status),
            Err(cause) => {
                debug!(session:% = id; "whether its recorder is frozen cannot be asked: {cause}");
                return false;
            }
        };
        // Another recorder may have its place by now.
        if self.session(id).and_then(held).as_ref() != Some(&container) {
            return true;
        }
        match found {
            Some(ContainerStatus::Paused) => {
                if let Some(fault) = self.frozen(id) {
                    self.fault(id, fault);
                }
            }
            Some(ContainerStatus::Running) => self.mark_as_running(id, asked_at),
            // That it ended or is gone is an event of its own, with its own reason; should it be missed, silence tells.
            Some(_) | None => return false,
        }
        true
    }

    /// Notes that a container ran at `then`, unless it froze since.
    pub(super) fn mark_as_running(&self, id: &RecordingId, then: Timestamp) {
        let now = self.0.clock.now();
        self.table().change(id, |entry| match entry.seen {
            Seen::Frozen { since } if since >= then => {}
            _ => entry.shows(Seen::Running, now),
        });
    }

    /// A recorder that was shown as frozen, is silent for as long as any may be, and cannot be asked about: its files tell.
    fn hear_files_instead(&self, id: &RecordingId) {
        let now = self.0.clock.now();
        let silent = |it: &Session| now.since(alive_at(it)) >= self.0.policy.heartbeat_timeout;
        if let Some(fault) = self.frozen(id)
            && self.session(id).is_some_and(|it| silent(&it))
        {
            self.look_for_growth(id, fault);
        }
    }

    /// Whether a recorder that was held lost because it was frozen, or did not answer, runs again. Asked in the moment before
    /// it is fenced: Docker may have been away since.
    ///
    /// # Errors
    /// When the runtime cannot be reached, or nobody can say it.
    pub(super) async fn has_thawed(
        &self,
        session: &Session,
        held: &Holder,
    ) -> Result<bool, RuntimeError> {
        let State::TakingOver { reason, since, .. } = &session.state else {
            return Ok(false);
        };
        match reason {
            Reason::Frozen => {}
            Reason::Stalled => return self.answers_again(session, held, *since).await,
            _ => return Ok(false),
        }
        match self.0.runtime.inspect(&held.id).await {
            Ok(found) => Ok(found.is_some_and(|it| it.status == ContainerStatus::Running)),
            Err(cause @ RuntimeError::Unreachable { .. }) => Err(cause),
            Err(_) => Ok(false),
        }
    }

    pub(super) fn thawed(&self, id: &RecordingId) {
        self.mark(id, Seen::Running);
        if self.apply(id, Event::Thawed).is_ok() {
            info!(session:% = id; "its recorder runs again: nothing is started in its place");
        }
    }

    /// The fault, while it is one.
    pub(super) fn frozen(&self, id: &RecordingId) -> Option<Fault> {
        let calls = self.table().calls(id, self.0.clock.now());
        calls.fault.filter(|it| it.reason == Reason::Frozen)
    }
}
