//! What the controller does about a lost or stopped recorder. Fence first, start second; the same container where it
//! exists, because OpenVidu will look for it; a backup where it does not. One at a time for each session.

use super::evidence::AT_ONCE;
use super::orphan::Verdict;
use super::proof::doubt;
use super::quick::Makes;
use super::watch::holder;
use super::{Controller, lock};
use crate::model::failover::Seen;
use crate::model::ids::RecordingId;
use crate::model::session::{Action, Event, Holder, Session, State};
use crate::model::wire::RecorderIdentity;
use crate::runtime::{
    BackupSpec, Blueprint, Container, ContainerStatus, MADE_BY_US, RECORDING, RuntimeError, Stop,
};
use crate::tasks;
use log::{debug, info, warn};
use metrics::{counter, histogram};
use std::collections::BTreeMap;

impl Controller {
    pub(super) fn act(&self, id: &RecordingId, action: Action) {
        match action {
            Action::Replace => self.reconcile_session(id),
            Action::Stop | Action::Salvage => self.begin_conclusion(id, self.seal_state(id)),
        }
    }

    fn seal_state(&self, id: &RecordingId) -> SealState {
        let seal_at = self.session(id).and_then(|it| it.seal_at);
        match seal_at.is_some_and(|at| at <= self.0.clock.now()) {
            true => SealState::Due,
            false => SealState::NotYet,
        }
    }

    /// What has to be seen to once a recorder has registered.
    pub(super) fn look_after_registration(&self, session: &Session) {
        // Here and now: a thread for each of many that register at once would cost far more memory than the look is worth.
        self.learn_of_stop(&session.id);
        self.ask_to_vouch(&session.id);
        let Some(held) = session.container.clone() else {
            return;
        };
        self.table().change(&session.id, |entry| {
            if entry.seen == Seen::Unknown {
                entry.seen = Seen::Running;
            }
        });
        let (controller, id) = (self.clone(), session.id.clone());
        self.0.tasks.spawn(format!("look after {id}"), async move {
            let runtime = &controller.0.runtime;
            if let Err(cause) = runtime.restart_on_failure(&held.id).await {
                warn!(session:% = id; "the runtime will not restart this recorder by itself: {cause}");
            }
            let asked_at = controller.moment();
            match runtime.inspect(&held.id).await {
                Ok(Some(container)) => {
                    controller.correct_holder(&id, &container);
                    lock(&controller.0.observations).observe(container.clone(), asked_at);
                    match container.page {
                        true => controller.remember_order(&id, &container).await,
                        false => controller.remember_blueprint(&container).await,
                    }
                }
                Ok(None) => warn!(session:% = id; "the recorder's container is not known to the runtime"),
                Err(cause) => warn!(session:% = id; "{cause}"),
            }
        });
    }

    /// Whose container it is, nobody could say of one that registered before the runtime's first list.
    fn correct_holder(&self, id: &RecordingId, container: &Container) {
        let (held, whose) = (
            self.session(id).and_then(|it| it.container),
            holder(container),
        );
        if held.is_some_and(|held| held.id == whose.id && held.backup != whose.backup) {
            // A session that is gone holds nothing.
            let _ = self.change(id, |entry| entry.session.container = Some(whose));
        }
    }

    /// A recorder that was replaced comes again: its runtime starts it whenever it ends with a failure. What is ended by us
    /// is not started again.
    pub(super) fn fence_superseded(&self, id: &RecordingId, recorder: &RecorderIdentity) {
        let Some(container) = recorder.container_id.clone() else {
            return;
        };
        let holds = self.session(id).and_then(|session| session.container);
        let holds = holds.is_some_and(|holder| holder.id == container);
        if holds || !lock(&self.0.observations).records(&container, id) {
            return;
        }
        let (controller, id) = (self.clone(), id.clone());
        self.0.tasks.spawn(format!("end {container}"), async move {
            info!(session:% = id, container:% = container; "a recorder that was replaced is ended");
            if let Err(cause) = controller.0.runtime.stop(&container, Stop::Fence).await {
                warn!(session:% = id; "{cause}");
            }
        });
    }

    /// Takes up what was in flight when the controller last ended.
    pub(super) fn resume(&self, id: &RecordingId) {
        tasks::block(|| self.learn_of_stop(id));
        let Some(session) = self.session(id) else {
            return;
        };
        match session.state {
            State::Stopping { .. } => self.act(id, Action::Stop),
            State::Failed { .. } | State::GivenUp { .. } if session.finished_at.is_none() => {
                self.act(id, Action::Salvage);
            }
            _ => self.reconcile_session(id),
        }
        if session.may_be_ended() {
            self.ask_to_vouch(id);
        }
    }

    /// Starts a replacement unless one is being started.
    pub(super) fn begin_replacement(&self, id: &RecordingId) {
        let now = self.0.clock.now();
        let begun = self.table().change(id, |entry| {
            let waits = matches!(
                entry.session.state,
                State::TakingOver { started_at: None, not_before, .. } if not_before <= now
            );
            // The controller may be finishing the video still: two must not write it. The watcher asks again.
            let waits = waits && !entry.concluding;
            let begins = waits && !std::mem::replace(&mut entry.replacing, waits);
            begins.then(|| (entry.session.clone(), entry.seen))
        });
        let Some(Some((session, seen))) = begun else {
            return;
        };
        let controller = self.clone();
        self.0.tasks.spawn(format!("replace {id}"), async move {
            controller.replace(&session, seen).await;
        });
    }

    async fn replace(&self, session: &Session, seen: Seen) {
        let id = &session.id;
        match self.start_replacement(session, seen).await {
            Ok(Replacement::Unwanted(verdict)) => self.carry_out(session, verdict),
            Ok(Replacement::Thawed) => self.thawed(id),
            Ok(Replacement::Ended) => {
                info!(session:% = id; "its container records the session's next recording: this one has ended");
                // Refused where that is known by now.
                let _ = self.apply(id, Event::StopAsked);
            }
            Ok(Replacement::Started(holder, rung)) => {
                info!(session:% = id, container:% = holder.id, rung; "recorder started again");
                counter!("ha_recorder_failover_events_total", "reason" => label(session), "rung" => rung).increment(1);
                self.replaced(session, holder).await;
            }
            Err(cause) => {
                match &cause {
                    // That the runtime is away is told by whoever follows it.
                    RuntimeError::Unreachable { .. } => {
                        debug!(session:% = id; "a replacement waits: {cause}");
                    }
                    _ => {
                        warn!(session:% = id; "no replacement could be started: {cause}");
                        counter!("ha_recorder_containers_failed_total").increment(1);
                    }
                }
                let now = self.0.clock.now();
                let current = self.session(id).unwrap_or_else(|| session.clone());
                let policy = &self.0.policy;
                let event = match &cause {
                    RuntimeError::Unreachable { .. } => policy.answer_to_absence(&current, now),
                    _ => policy.answer_to_failed_start(&current, &cause.to_string(), now),
                };
                if let Err(refused) = self.apply(id, event) {
                    info!(session:% = id; "no further try: {refused}");
                }
            }
        }
        // Not before the outcome is in the state: until then it asks for the start that was just made.
        self.table().change(id, |entry| entry.replacing = false);
        self.reconcile_session(id);
        if let Err(cause) = self.0.db.durable().await {
            warn!(session:% = id; "{cause}");
        }
    }

    /// The replacement runs; where the session no longer needs it, it is ended again.
    async fn replaced(&self, before: &Session, holder: Holder) {
        self.mark(&before.id, Seen::Running);
        let same = before.container.as_ref().is_some_and(|h| h.id == holder.id);
        if self
            .apply(&before.id, Event::Replaced(holder.clone()))
            .is_ok()
        {
            let started = self.session(&before.id).and_then(|it| {
                let last = it.failovers.last()?;
                last.start_ms
            });
            if let Some(millis) = started {
                histogram!("ha_recorder_failover_start_seconds").record(millis as f64 / 1_000.0);
            }
            return;
        }
        if same {
            return; // a stop came meanwhile: its conclusion sees to this container
        }
        info!(session:% = before.id, container:% = holder.id; "the backup is no longer needed");
        self.end(&holder, Stop::Fence).await;
    }

    /// Ends and removes a container that we made.
    pub(super) async fn end(&self, holder: &Holder, how: Stop) {
        let runtime = &self.0.runtime;
        let outcome = match runtime.stop(&holder.id, how).await {
            Ok(()) => runtime.remove(&holder.id).await,
            Err(cause) => Err(cause),
        };
        if let Err(cause) = outcome
            && !matches!(cause, RuntimeError::NotFound(_))
        {
            warn!(container:% = holder.id; "{cause}");
        }
    }

    async fn start_replacement(
        &self,
        session: &Session,
        seen: Seen,
    ) -> Result<Replacement, RuntimeError> {
        if let Some(held) = session.container.as_ref().filter(|_| seen != Seen::Gone) {
            if self.has_thawed(session, held).await? {
                return Ok(Replacement::Thawed);
            }
            let may_run = !matches!(seen, Seen::Ended | Seen::Frozen { .. });
            if may_run && lock(&self.0.observations).shows_a_page(&held.id) {
                match self.makes(session, &held.id).await {
                    Makes::It | Makes::Nothing => {}
                    // OpenVidu makes one recording of a session at a time: this one has ended.
                    Makes::Another => return Ok(Replacement::Ended),
                    Makes::Waits => return self.start_elsewhere(session).await,
                    Makes::Unknown => {
                        return Err(doubt(held, "it may record something else".into()));
                    }
                }
            }
            match self.start_again(session, held, seen).await {
                Ok(()) => return Ok(Replacement::Started(held.clone(), SAME_CONTAINER)),
                Err(cause @ RuntimeError::Unreachable { .. }) => return Err(cause),
                Err(cause) => {
                    warn!(session:% = session.id; "the same container cannot be started: {cause}");
                }
            }
        }
        self.start_elsewhere(session).await
    }

    /// Starts a backup, unless nobody wants it.
    async fn start_elsewhere(&self, session: &Session) -> Result<Replacement, RuntimeError> {
        // OpenVidu's container is gone: perhaps because OpenVidu has forgotten the recording.
        let verdict = self.decide(session, AT_ONCE).await;
        if !matches!(verdict, Verdict::Record(_)) {
            return Ok(Replacement::Unwanted(verdict));
        }
        let holder = self.start_backup(session).await?;
        self.carry_out(session, verdict);
        Ok(Replacement::Started(holder, BACKUP))
    }

    async fn start_again(
        &self,
        session: &Session,
        held: &Holder,
        seen: Seen,
    ) -> Result<(), RuntimeError> {
        let runtime = &self.0.runtime;
        if seen != Seen::Ended {
            runtime.stop(&held.id, Stop::Fence).await?;
        }
        let now = self.0.clock.now();
        self.table()
            .change(&session.id, |entry| entry.started_at = now);
        runtime.start(&held.id).await
    }

    async fn start_backup(&self, session: &Session) -> Result<Holder, RuntimeError> {
        let blueprint = self.0.blueprints.get(&session.id);
        let blueprint = blueprint.ok_or_else(|| RuntimeError::Failed {
            act: format!("start a backup recorder for session {}", session.id),
            cause: "its first container is gone and its environment is not known".into(),
        })?;
        let now = self.0.clock.now();
        self.table()
            .change(&session.id, |entry| entry.started_at = now);
        let container = self
            .0
            .runtime
            .start_backup(backup_of(session, blueprint))
            .await?;
        lock(&self.0.observations).observe(container.clone(), self.moment());
        counter!("ha_recorder_backups_total").increment(1);
        Ok(holder(&container))
    }

    /// Backups that record now.
    pub fn backups(&self) -> Vec<(RecordingId, Holder)> {
        let table = self.table();
        let holders = table.active().filter_map(|session| {
            let holder = session.container.as_ref().filter(|holder| holder.backup)?;
            Some((session.id.clone(), holder.clone()))
        });
        holders.collect()
    }

    /// Stops the backup that records for a session. With [`Stop::Drain`] it finishes the video first.
    ///
    /// # Errors
    /// [`ControllerError::NotFound`](super::ControllerError::NotFound) when the session has no backup.
    pub async fn stop_backup(
        &self,
        id: &RecordingId,
        how: Stop,
    ) -> Result<(), super::ControllerError> {
        let held = self.session(id).and_then(|session| session.container);
        let Some(held) = held.filter(|holder| holder.backup) else {
            return Err(super::ControllerError::NotFound(format!(
                "session {id} has no backup container"
            )));
        };
        self.apply(id, Event::StopAsked)?;
        self.0.db.durable().await?;
        Ok(self.0.runtime.stop(&held.id, how).await?)
    }
}

/// The rungs of the ladder, in the words of metrics.
const SAME_CONTAINER: &str = "same-container";
const BACKUP: &str = "backup";
/// All of them.
pub(crate) const RUNGS: [&str; 2] = [SAME_CONTAINER, BACKUP];

/// What came of a failover.
enum Replacement {
    /// A recorder was started, on this rung of the ladder.
    Started(Holder, &'static str),
    /// None is needed: the frozen one runs again.
    Thawed,
    /// Nobody wants the recording to go on.
    Unwanted(Verdict),
    /// OpenVidu has ended it.
    Ended,
}

/// Why the conclusion of a recording is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SealState {
    /// OpenVidu may still seal it.
    NotYet,
    /// OpenVidu has had its time.
    Due,
}

fn backup_of(session: &Session, mut blueprint: Blueprint) -> BackupSpec {
    let next = session.report.chunk + 1;
    let original = session.original.as_ref();
    let original = original.or(session.container.as_ref().map(|holder| &holder.id));
    let mut set = |name: &str, value: String| {
        blueprint.environment.0.insert(name.to_owned(), value);
    };
    set("START_CHUNK", next.to_string());
    set("IS_RECOVERY_CONTAINER", "true".into());
    set("ORIGINAL_SESSION_ID", session.id.to_string());
    if let Some(original) = original {
        set("ORIGINAL_CONTAINER_ID", original.to_string());
    }
    let (label, us) = MADE_BY_US;
    let labels = BTreeMap::from([
        (RECORDING.to_owned(), session.id.to_string()),
        ("container.type".to_owned(), "backup-recorder".to_owned()),
        (label.to_owned(), us.to_owned()),
        ("start.chunk".to_owned(), next.to_string()),
    ]);
    BackupSpec {
        recording: session.id.clone(),
        // OpenVidu's own begin with "recording_", and no recording's id contains a dot.
        name: format!("ha-backup-{}", session.id.as_str().replace('~', ".")),
        labels,
        blueprint,
    }
}

fn label(session: &Session) -> &'static str {
    match &session.state {
        State::TakingOver { reason, .. } => reason.label(),
        _ => "unknown",
    }
}

/// Whether a container in this status can still write.
pub(super) const fn can_write(status: ContainerStatus) -> bool {
    !matches!(
        status,
        ContainerStatus::Exited(_) | ContainerStatus::Created
    )
}
