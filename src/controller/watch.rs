//! The watcher: what the runtime shows and what the time says become events of sessions here. Every event that could be
//! missed is a state that is seen: after each reconnection everything is listed again. No failed call ends it.

use super::act::SealState;
use super::blueprints::is_done;
use super::{Controller, lock};
use crate::clock::{Clock, Timestamp};
use crate::controller::table::{Entry, Which};
use crate::model::failover::{Fault, Reason, Seen};
use crate::model::ids::{ContainerId, RecordingId};
use crate::model::session::{Event, Holder, Session};
use crate::runtime::{
    Container, ContainerStatus, Happening, HappeningKind, RuntimeError, RuntimeEvent, made_by_us,
};
use crate::tasks;
use futures_util::StreamExt;
use log::{debug, error, info, warn};
use std::collections::HashMap;
use std::time::Duration;

/// How often the watcher shows that it is awake while a recorder is watched.
const TICK: Duration = Duration::from_secs(1);
/// Silence of the watcher itself from which it was absent: this process was stopped, or the machine slept.
const ABSENT: Duration = Duration::from_secs(3);

/// A page that waits and is found to hang so long after it was found to first hears nobody.
const HANGS: Duration = Duration::from_secs(5);

/// The containers as the runtime last showed them.
#[derive(Default)]
pub(super) struct Observations {
    /// Whether it has shown them yet.
    listed: bool,
    containers: HashMap<ContainerId, Observation>,
}

/// A moment of ours.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    /// As the clock has it, which may be set.
    at: Timestamp,
    /// What tells which of two moments is the earlier one.
    uptime: Duration,
}

impl Moment {
    pub(super) fn now(clock: &dyn Clock) -> Self {
        Self {
            at: clock.now(),
            uptime: clock.uptime(),
        }
    }
}

struct Observation {
    container: Container,
    /// Of what uptime that is: nothing older takes its place.
    as_of: Duration,
    /// When it was shown first, by our clock.
    seen_at: Timestamp,
    /// The kernel ended something in it since it was started.
    out_of_memory: bool,
    /// When it was started again although no recorder had registered from it.
    restarts: Vec<Timestamp>,
    /// Since when it is found to hang.
    hangs: Option<Timestamp>,
}

impl Observations {
    pub(super) fn holder(&self, id: &ContainerId) -> Option<Holder> {
        self.containers.get(id).map(|it| holder(&it.container))
    }

    pub(super) fn runs(&self, id: &ContainerId) -> bool {
        let shown = self.containers.get(id);
        shown.is_some_and(|it| it.container.status == ContainerStatus::Running)
    }

    /// The containers that run.
    pub(super) fn running(&self) -> Vec<ContainerId> {
        let all = self.containers.values().map(|it| &it.container);
        let running = all.filter(|it| it.status == ContainerStatus::Running);
        running.map(|it| it.id.clone()).collect()
    }

    /// The containers that run for a recording, with when they were shown first.
    pub(super) fn recording_ones(&self) -> Vec<(RecordingId, Container, Timestamp)> {
        let running = self.containers.values();
        let running = running.filter(|it| it.container.status == ContainerStatus::Running);
        let named = running.filter_map(|it| Some((it.container.recording.clone()?, it)));
        named
            .map(|(recording, it)| (recording, it.container.clone(), it.seen_at))
            .collect()
    }

    /// Whether the container was made for this recording.
    pub(super) fn records(&self, id: &ContainerId, recording: &RecordingId) -> bool {
        let shown = self.containers.get(id);
        shown.is_some_and(|it| it.container.recording.as_ref() == Some(recording))
    }

    /// The containers of quick start.
    pub(super) fn all_pages(&self) -> Vec<Container> {
        let pages = self.containers.values().map(|it| &it.container);
        pages.filter(|it| it.page).cloned().collect()
    }

    /// Notes whether a container was found to hang, and answers whether it has for long enough, as far as it was looked at.
    pub(super) fn hangs_again(&mut self, id: &ContainerId, hangs: bool, now: Timestamp) -> bool {
        let Some(shown) = self.containers.get_mut(id) else {
            return false;
        };
        let since = shown.hangs.get_or_insert(now);
        let again = hangs && now.since(*since) >= HANGS;
        if !hangs || again {
            shown.hangs = None;
        }
        again
    }

    pub(super) fn shows_a_page(&self, id: &ContainerId) -> bool {
        self.containers.get(id).is_some_and(|it| it.container.page)
    }

    /// Whether the runtime shows no container that was made for this recording.
    pub(super) fn has_none_of(&self, recording: &RecordingId) -> bool {
        let mut all = self.containers.values();
        self.listed && all.all(|it| it.container.recording.as_ref() != Some(recording))
    }

    pub(super) fn running_holder_of(&self, recording: &RecordingId) -> Option<Holder> {
        self.containers
            .values()
            .map(|it| &it.container)
            .filter(|it| it.recording.as_ref() == Some(recording))
            .filter(|it| it.status == ContainerStatus::Running)
            .max_by_key(|it| it.created_at)
            .map(holder)
    }

    /// Takes over what the runtime said when it was asked at `as_of`.
    pub(super) fn observe(&mut self, container: Container, as_of: Moment) {
        match self.containers.get_mut(&container.id) {
            Some(shown) if shown.as_of > as_of.uptime => {}
            Some(shown) => (shown.container, shown.as_of) = (container, as_of.uptime),
            None => {
                let shown = Observation {
                    container,
                    as_of: as_of.uptime,
                    seen_at: as_of.at,
                    out_of_memory: false,
                    restarts: Vec::new(),
                    hangs: None,
                };
                self.containers.insert(shown.container.id.clone(), shown);
            }
        }
    }

    /// Takes over a list that was asked for at `as_of`. What was made or has changed since is as it was seen by then.
    pub(super) fn observe_all(&mut self, containers: &[Container], as_of: Moment) {
        self.listed = true;
        self.containers.retain(|id, shown| {
            shown.as_of > as_of.uptime || containers.iter().any(|it| it.id == *id)
        });
        for container in containers {
            self.observe(container.clone(), as_of);
        }
    }

    /// The clock was set back to `now`, by `step`.
    fn set_back(&mut self, now: Timestamp, step: Duration) {
        for shown in self.containers.values_mut() {
            shown.seen_at = shown.seen_at.min(now);
            shown.hangs = shown.hangs.map(|at| at.min(now));
            for at in &mut shown.restarts {
                *at = at.minus(step);
            }
        }
    }

    fn set(
        &mut self,
        id: &ContainerId,
        status: ContainerStatus,
        now: Moment,
    ) -> Option<&mut Observation> {
        let shown = self.containers.get_mut(id)?;
        (shown.container.status, shown.as_of) = (status, now.uptime);
        Some(shown)
    }
}

impl Controller {
    pub(super) fn moment(&self) -> Moment {
        Moment::now(&*self.0.clock)
    }

    /// Begins to watch: takes up what was in flight when the controller last ended, and follows runtime and time.
    pub fn start(&self) {
        for id in self.ids(Which::Any) {
            self.resume(&id);
        }
        let tasks = &self.0.tasks;
        tasks.spawn("watch the runtime", self.clone().follow_runtime());
        tasks.spawn("watch the time", self.clone().follow_time());
    }

    /// A check of everything, as a person asks for it; where one is under way, after that.
    pub async fn check(&self) {
        let _turn = self.0.checking.lock().await;
        self.check_all().await;
    }

    /// The same as the scheduler asks for it.
    pub(super) async fn check_if_none_is_under_way(&self) {
        match self.0.checking.try_lock() {
            Ok(_turn) => self.check_all().await,
            Err(_) => {
                warn!("the check that began before is still under way: a disk or Docker is slow")
            }
        }
    }

    async fn check_all(&self) {
        self.loaded().await;
        self.excuse_absence();
        tasks::block(|| {
            for id in self.ids(Which::Any) {
                self.learn_of_stop(&id);
            }
        });
        self.reconcile().await;
        self.look_after_backups();
        self.look_after_pages();
        self.pass();
        tasks::block(|| self.save());
    }

    async fn follow_runtime(self) {
        let ended = self.0.tasks.token();
        let mut events = self.0.runtime.events();
        loop {
            let event = tokio::select! {
                () = ended.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(RuntimeEvent::Connected) => {
                    let controller = self.clone();
                    self.0.tasks.spawn("list the containers", async move {
                        controller.catch_up().await;
                    });
                }
                Some(RuntimeEvent::Happened(event)) => self.happened(event),
                None => {
                    warn!(
                        "the runtime's events ended; only scheduled checks see its containers now"
                    );
                    return;
                }
            }
        }
    }

    async fn follow_time(self) {
        let ended = self.0.tasks.token();
        loop {
            let now = self.0.clock.now();
            let next = self.table().next_due();
            *lock(&self.0.awake_at) = next.map(|_| now);
            let sleep = async {
                match next.map(|due| due.since(now).min(TICK)) {
                    Some(left) => tokio::time::sleep(left + Duration::from_millis(1)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ended.cancelled() => return,
                () = self.0.wake.notified() => {}
                () = sleep => {}
            }
            self.excuse_absence();
            self.pass();
        }
    }

    /// What nobody could hear while the watcher was absent is no one's fault: time-outs start afresh.
    fn excuse_absence(&self) {
        let now = self.0.clock.now();
        let mut awake_at = lock(&self.0.awake_at);
        if let Some(back) = awake_at.map(|at| at.since(now)).filter(|it| *it > ABSENT) {
            *awake_at = Some(now);
            self.table().set_back(now);
            lock(&self.0.observations).set_back(now, back);
            lock(&self.0.expected).set_back(now);
            lock(&self.0.sweep).set_back(now);
            self.judge_anew();
            warn!(seconds = back.as_secs(); "the clock was set back; time-outs start afresh");
            return;
        }
        let Some(absent) = awake_at.map(|at| now.since(at)).filter(|it| *it > ABSENT) else {
            return;
        };
        *awake_at = Some(now);
        self.table().watch_from(now);
        warn!(seconds = absent.as_secs(); "the controller was stopped for a while; time-outs start afresh");
    }

    /// Looks at every session whose time has come, and at no other; and at how what records here grows.
    pub fn pass(&self) {
        self.watch_growth();
        let due = self.table().take_due(self.0.clock.now());
        for id in due {
            self.reconcile_session(&id);
        }
    }

    /// Does what is due for one session.
    pub(super) fn reconcile_session(&self, id: &RecordingId) {
        let calls = self.table().calls(id, self.0.clock.now());
        if calls.question {
            self.begin_inquiry(id);
        }
        if let Some(fault) = calls.fault {
            return match fault.reason {
                Reason::Silent | Reason::Stuck if self.was_excused(id, &fault) => {}
                Reason::Silent | Reason::Stuck => self.look_for_growth(id, fault),
                Reason::Frozen => self.ask_whether_frozen(id),
                _ => self.fault(id, fault),
            };
        }
        if calls.proof {
            self.begin_proof(id);
        }
        if calls.replacement {
            tasks::block(|| self.learn_of_stop(id));
            self.begin_replacement(id);
        }
        if calls.seal {
            self.begin_conclusion(id, SealState::Due);
        }
    }

    /// A recorder is lost: the policy says whether it is replaced or the recording given up.
    pub(super) fn fault(&self, id: &RecordingId, fault: Fault) {
        self.fault_where(id, fault, |_| true);
    }

    /// The same where `holds` says so of what the session is in that very moment.
    pub(super) fn fault_where(
        &self,
        id: &RecordingId,
        fault: Fault,
        holds: impl FnOnce(&Entry) -> bool,
    ) {
        tasks::block(|| self.learn_of_stop(id));
        let (now, text) = (self.0.clock.now(), fault.reason.to_string());
        let (mut given_up, mut run) = (None, None);
        let applied = self.apply_where(id, |entry| {
            let session = &entry.session;
            let event = holds(entry).then(|| self.0.policy.answer(session, fault, now))?;
            run = Some(session.run);
            if let Event::GivenUp(why) = &event
                && session.given_up_at().is_none()
            {
                given_up = Some(why.clone());
            }
            Some(event)
        });
        match (applied, run) {
            (Ok(()), Some(run)) => match given_up {
                Some(why) => error!(session:% = id;
                    "no further recorder is started for this recording: {why}; what runs is left alone, what was recorded is kept"
                ),
                None => warn!(session:% = id, run:% = run; "recorder lost: {text}"),
            },
            (Ok(()), None) => debug!(session:% = id; "it has gone on meanwhile: no fault ({text})"),
            (Err(refused), _) => {
                debug!(session:% = id; "fault changes nothing ({text}): {refused}")
            }
        }
    }

    pub(super) fn happened(&self, event: Happening) {
        let id = &event.container;
        match event.kind {
            HappeningKind::Started => {
                self.see(id, ContainerStatus::Running, Seen::Running);
                let (controller, id) = (self.clone(), id.clone());
                self.0.tasks.spawn(format!("look at {id}"), async move {
                    controller.look_at(&id).await;
                });
            }
            HappeningKind::Died(code) => self.died(id, code, event.at),
            HappeningKind::OutOfMemory => {
                if let Some(shown) = lock(&self.0.observations).containers.get_mut(id) {
                    shown.out_of_memory = true;
                }
            }
            HappeningKind::Removed => self.removed(id, event.at),
            HappeningKind::Paused => {
                let since = self.0.clock.now();
                self.see(id, ContainerStatus::Paused, Seen::Frozen { since });
            }
            HappeningKind::Unpaused => {
                self.see(id, ContainerStatus::Running, Seen::Running);
            }
            HappeningKind::Health(word) if word == "unhealthy" => {
                if let Some(session) = self.session_in(id) {
                    let message = "its health check fails".to_owned();
                    let fault = Fault {
                        reason: Reason::Reported { message },
                        well_until: event.at,
                    };
                    self.look_for_growth(&session.id, fault);
                }
            }
            HappeningKind::Health(_) => {}
        }
    }

    fn died(&self, id: &ContainerId, code: i64, at: Timestamp) {
        self.revive(id);
        if let Some(session) = self.session_in(id) {
            if self.is_old_news(&session.id, at) {
                // It was started again since: where that went well, an event of its own follows.
                let now = self.moment();
                lock(&self.0.observations).set(id, ContainerStatus::Exited(code), now);
                return;
            }
            let out_of_memory = self.see(id, ContainerStatus::Exited(code), Seen::Ended);
            return self.ended(&session, code, out_of_memory, at);
        }
        self.see(id, ContainerStatus::Exited(code), Seen::Ended);
        if code != 0 {
            self.died_unregistered(id, code);
        }
    }

    /// The holder's first process ended, at `at` or later.
    fn ended(&self, session: &Session, code: i64, out_of_memory: bool, at: Timestamp) {
        let reason = match (code, out_of_memory) {
            (0, _) if self.end_was_wanted(session) => {
                if self.apply(&session.id, Event::Finished).is_ok() {
                    info!(session:% = session.id; "the recorder finished the video");
                }
                return;
            }
            (_, true) => Reason::OutOfMemory,
            (code, false) => Reason::Died { code },
        };
        let fault = Fault {
            reason,
            well_until: at,
        };
        self.fault(&session.id, fault);
    }

    /// A container that recorded before anything registered from it is started again, as often as the policy allows.
    fn died_unregistered(&self, id: &ContainerId, code: i64) {
        let container = lock(&self.0.observations)
            .containers
            .get(id)
            .map(|it| it.container.clone());
        let Some((recording, container)) =
            container.and_then(|it| Some((it.recording.clone()?, it)))
        else {
            return;
        };
        if self.belongs_to_a_session(&recording, &container) {
            return;
        }
        if self.has_ended(&recording) {
            info!(session:% = recording, container:% = id; "OpenVidu's file says that the recording has ended: its recorder is not started again");
            return;
        }
        let Some(earlier) = self.count_restart(id) else {
            warn!(session:% = recording, container:% = id; "a recorder that never registered is given up");
            return;
        };
        warn!(session:% = recording, container:% = id, code; "a recorder ended before it registered; it is started again");
        let (controller, id) = (self.clone(), id.clone());
        let delay = self.0.policy.delay(earlier);
        self.0.tasks.spawn(format!("start {id}"), async move {
            tokio::time::sleep(delay).await;
            if controller.has_ended(&recording) {
                return;
            }
            if let Err(cause) = controller.0.runtime.start(&id).await {
                warn!(container:% = id; "{cause}");
            }
        });
    }

    /// How often the container was started again in the policy's window; `None` when that is enough.
    pub(super) fn count_restart(&self, id: &ContainerId) -> Option<usize> {
        let now = self.0.clock.now();
        let policy = &self.0.policy;
        let mut known = lock(&self.0.observations);
        let restarts = &mut known.containers.get_mut(id)?.restarts;
        restarts.retain(|at| now.since(*at) < policy.window);
        let earlier = restarts.len();
        if earlier >= policy.max_attempts {
            return None;
        }
        restarts.push(now);
        Some(earlier)
    }

    /// Whether a session answers for this container: one that is alive and held elsewhere, or one that ended after the
    /// container was made.
    pub(super) fn belongs_to_a_session(
        &self,
        recording: &RecordingId,
        container: &Container,
    ) -> bool {
        self.session(recording).is_some_and(|session| {
            session
                .ended_at()
                .is_none_or(|ended| ended >= container.created_at)
        })
    }

    fn removed(&self, id: &ContainerId, at: Timestamp) {
        let session = self.session_in(id);
        lock(&self.0.observations).containers.remove(id);
        let Some(session) = session else {
            return;
        };
        self.gone(&session.id, at);
    }

    /// The holder was removed, at `at` or later.
    fn gone(&self, id: &RecordingId, at: Timestamp) {
        self.mark(id, Seen::Gone);
        let fault = Fault {
            reason: Reason::Removed,
            well_until: at,
        };
        self.fault(id, fault);
    }

    /// Notes what a container does; answers whether the kernel ended something in it.
    fn see(&self, id: &ContainerId, status: ContainerStatus, seen: Seen) -> bool {
        let now = self.moment();
        let out_of_memory = match lock(&self.0.observations).set(id, status, now) {
            Some(shown) if seen == Seen::Running => {
                shown.out_of_memory = false;
                false
            }
            Some(shown) => shown.out_of_memory,
            None => false,
        };
        let session = self.table().of_container(id).cloned();
        if let Some(session) = session {
            self.mark(&session, seen);
        }
        out_of_memory
    }

    pub(super) fn mark(&self, id: &RecordingId, seen: Seen) {
        let now = self.0.clock.now();
        self.table().change(id, |entry| entry.shows(seen, now));
    }

    fn session_in(&self, container: &ContainerId) -> Option<Session> {
        let table = self.table();
        let id = table.of_container(container)?;
        table.get(id).map(|entry| entry.session.clone())
    }

    fn is_old_news(&self, id: &RecordingId, at: Timestamp) -> bool {
        let table = self.table();
        table.get(id).is_some_and(|entry| at <= entry.started_at)
    }

    /// Reads a container that has just been started, before anything registers from it.
    async fn look_at(&self, id: &ContainerId) {
        let asked_at = self.moment();
        match self.0.runtime.inspect(id).await {
            Ok(Some(container)) => {
                lock(&self.0.observations).observe(container.clone(), asked_at);
                self.remember_blueprint(&container).await;
                self.keep_up(&container).await;
            }
            Ok(None) => {}
            Err(cause) => warn!(container:% = id; "{cause}"),
        }
    }

    /// Keeps what a backup would need, for the case that the container is removed.
    pub(super) async fn remember_blueprint(&self, container: &Container) {
        let Some(recording) = &container.recording else {
            return;
        };
        if made_by_us(|name| container.labels.get(name)) && self.0.blueprints.has(recording) {
            return;
        }
        if self.session(recording).is_some_and(|it| is_done(&it))
            && self.belongs_to_a_session(recording, container)
        {
            return;
        }
        match self.0.runtime.blueprint(&container.id).await {
            Ok(blueprint) => tasks::block(|| self.0.blueprints.keep(recording, blueprint)),
            Err(cause) => warn!(container:% = container.id; "{cause}"),
        }
    }

    /// What happened while nobody listened is seen in what is there now.
    pub(super) async fn catch_up(&self) {
        for (id, code) in self.reconcile().await {
            self.died_unregistered(&id, code);
        }
        let pages = lock(&self.0.observations).all_pages();
        for page in &pages {
            self.keep_up(page).await;
        }
        self.revive_all(&pages);
    }

    /// Holds every session against what the runtime shows now; answers the containers that ended with a failure although
    /// OpenVidu records on, and with what code.
    async fn reconcile(&self) -> Vec<(ContainerId, i64)> {
        let before = self.moment();
        let containers = match self.0.runtime.list().await {
            Ok(containers) => containers,
            // That the runtime is away is told by whoever follows it.
            Err(RuntimeError::Unreachable { .. }) => return Vec::new(),
            Err(cause) => {
                warn!("the containers cannot be listed: {cause}");
                return Vec::new();
            }
        };
        lock(&self.0.observations).observe_all(&containers, before);
        for container in &containers {
            self.adopt(container);
            self.remember_blueprint(container).await;
        }
        for id in self.ids(Which::Any) {
            self.compare(&id, &containers, before.at);
        }
        let failed = containers.iter().filter_map(|it| match it.status {
            ContainerStatus::Exited(code) if code != 0 => Some((it, code)),
            _ => None,
        });
        let records_on = |it: &Container| {
            let recording = it.recording.as_ref();
            recording.is_some_and(|id| self.records_on(id))
        };
        let failed = failed.filter(|(container, _)| records_on(container));
        failed.map(|(it, code)| (it.id.clone(), code)).collect()
    }

    /// Gives a session that does not know its container the one that records for it.
    fn adopt(&self, container: &Container) {
        let Some(recording) = &container.recording else {
            return;
        };
        let running = container.status == ContainerStatus::Running;
        self.table().change(recording, |entry| {
            if running && entry.session.container.is_none() && !entry.session.over() {
                entry.session.container = Some(holder(container));
                entry.dirty = true;
            }
        });
    }

    fn compare(&self, id: &RecordingId, containers: &[Container], before: Timestamp) {
        let Some(session) = self.session(id) else {
            return;
        };
        let ended = session.over() || session.finished_at.is_some();
        let Some(held) = session.container.as_ref().filter(|_| !ended) else {
            return;
        };
        if self.is_old_news(id, before) {
            return; // it was started after the list was read
        }
        match containers.iter().find(|it| it.id == held.id) {
            None => self.gone(id, session.heartbeat_at),
            Some(container) => match container.status {
                ContainerStatus::Exited(code) => {
                    self.mark(id, Seen::Ended);
                    self.ended(&session, code, false, session.heartbeat_at);
                }
                ContainerStatus::Paused => {
                    let since = self.0.clock.now();
                    self.mark(id, Seen::Frozen { since });
                }
                ContainerStatus::Running | ContainerStatus::Restarting => {
                    self.mark_as_running(id, before);
                }
                ContainerStatus::Created => {}
            },
        }
    }
}

pub(super) fn holder(container: &Container) -> Holder {
    Holder {
        id: container.id.clone(),
        name: container.name.clone(),
        backup: made_by_us(|name| container.labels.get(name)),
        created_at: container.created_at,
    }
}
