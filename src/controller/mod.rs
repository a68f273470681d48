//! The controller's heart: recorders register and are heard here, OpenVidu's news arrive here, and what becomes of a
//! recording is decided here. It holds every session in memory, but for its particulars, and writes each change to the
//! database; what is answered as accepted is on disk. It never touches a frame: recorders write, [`join`](crate::join) joins.

mod act;
mod answers;
mod backup;
mod blueprints;
mod cleanup;
mod disk;
mod evidence;
mod expected;
mod finish;
mod frozen;
mod growth;
mod inquiry;
mod jobs;
#[cfg(test)]
mod lives;
mod load;
mod measure;
mod news;
mod orphan;
mod proof;
mod quick;
mod registration;
pub mod relay;
mod stall;
mod sweep;
mod table;
pub mod takes;
mod unfinished;
mod watch;
mod worries;

pub use answers::{
    Change, ControllerError, Counts, FailoverStatus, Filter, Health, Page, RuntimeState,
};
pub use inquiry::Inquiry;
pub use table::Which;

use crate::clock::{Clock, Timestamp};
use crate::config::Settings;
use crate::db::outbox::Outbox;
use crate::db::sessions::Sessions;
use crate::db::{Db, DbError};
use crate::model::failover::{Fault, Policy, Reason};
use crate::model::ids::RecordingId;
use crate::model::session::{Event, Particulars, Refusal, Session, Status};
use crate::model::wire::Heartbeat;
use crate::runtime::Runtime;
use crate::store::ChunkStore;
use crate::tasks::{self, Tasks};
pub(crate) use act::RUNGS;
use blueprints::Blueprints;
use disk::{Attempts, Disk};
use log::{error, info, warn};
use std::collections::BTreeSet;
use std::mem::discriminant;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use table::{Entry, Table};
use tokio::sync::{Notify, Semaphore, broadcast};
use watch::Observations;

/// How much longer a recorder may take that has just been started: Chrome must come up first.
const GRACE: Duration = Duration::from_secs(5);

/// Why a session failed that OpenVidu's own file holds for failed.
const OPENVIDU_SAYS_FAILED: &str = "OpenVidu's file says that the recording failed";

/// Changes that a slow listener may lag behind before it loses some.
const CHANGES_KEPT: usize = 1_024;
/// So many recorders that seem silent are looked at together: each look takes some seconds.
const SILENT_AT_ONCE: usize = 8;

/// Writes a word into a folder: a disk that hangs does not come back from it.
type TryDisk = dyn Fn(&Path) -> std::io::Result<()> + Send + Sync;

/// What the controller is built from.
pub struct Parts {
    /// The settings.
    pub settings: Arc<Settings>,
    /// The database.
    pub db: Db,
    /// Where recorders run.
    pub runtime: Arc<dyn Runtime>,
    /// Where chunks are kept.
    pub store: Arc<dyn ChunkStore>,
    /// Where webhooks that the controller makes in OpenVidu's stead go.
    pub outbox: Outbox,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who owns the controller's tasks.
    pub tasks: Tasks,
}

/// The controller. Clones share it.
#[derive(Clone)]
pub struct Controller(Arc<Inner>);

struct Inner {
    settings: Arc<Settings>,
    policy: Policy,
    db: Db,
    stored: Sessions,
    runtime: Arc<dyn Runtime>,
    store: Arc<dyn ChunkStore>,
    outbox: Outbox,
    /// Where OpenVidu is asked; nowhere when its address is not set.
    inquiry: Option<Inquiry>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    table: Mutex<Table>,
    /// Whether the table has every session that the database has.
    loaded: tokio::sync::watch::Sender<load::Loaded>,
    observations: Mutex<Observations>,
    expected: Mutex<expected::Expected>,
    /// What recordings' first containers were made with, for backups.
    blueprints: Blueprints,
    /// Recordings whose chunks stay because no video was verified to hold them.
    unverified: Mutex<BTreeSet<RecordingId>>,
    sweep: Mutex<sweep::Sweep>,
    /// The turn to check everything.
    checking: tokio::sync::Mutex<()>,
    /// The turn to clean up, and to look through the store.
    cleaning: tokio::sync::Mutex<()>,
    /// What the runtime said of itself, and when.
    probed: tokio::sync::Mutex<Option<(Duration, Result<RuntimeState, String>)>>,
    changes: broadcast::Sender<Change>,
    /// Something may have become due earlier than the watcher thinks.
    wake: Notify,
    /// Looks at recordings' folders.
    looks: Arc<Attempts>,
    /// A round of looks at what grows.
    rounds: Arc<Attempts>,
    /// When the last one began, by the clock's uptime.
    last_round: Mutex<Option<Duration>>,
    /// Whose turn it is to be asked why it does not grow.
    proofs: Arc<Semaphore>,
    /// The turn to look at the pages that wait.
    pages: Arc<Semaphore>,
    /// The turns of those that time alone holds for lost: many may fall silent at once.
    excuses: Arc<Semaphore>,
    /// The disk of the recordings.
    disk: Disk,
    /// What all sessions were last judged to be, and when, by the clock's uptime.
    judged: Mutex<Option<(Duration, Arc<worries::Judged>)>>,
    /// When the watcher was last seen awake, while it has something to watch.
    awake_at: Mutex<Option<Timestamp>>,
}

impl Controller {
    /// A controller that gets to know what the database knows by [`Controller::load`]. Nothing is watched before
    /// [`Controller::start`].
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn open(parts: Parts) -> Result<Self, DbError> {
        let blueprints = Blueprints::open(parts.db.data_dir());
        let stored = parts.db.sessions(Arc::clone(&parts.clock))?;
        let policy = policy(&parts.settings);
        let inquiry = Inquiry::of(&parts.settings).unwrap_or_else(|cause| {
            error!("OpenVidu is not asked whether it still records: {cause}");
            None
        });
        let table = Table::new(policy.clone(), parts.clock.now());
        let patience = (disk::SHORTEST, policy.heartbeat_timeout);
        let try_write = Arc::new(crate::disk::try_write);
        let disk = Disk::new(&parts.clock, try_write, patience);
        let rounds = Attempts::new(Arc::clone(&parts.clock), 1);
        let looks = Attempts::new(Arc::clone(&parts.clock), growth::LOOKS);
        Ok(Self(Arc::new(Inner {
            settings: parts.settings,
            policy,
            db: parts.db,
            stored,
            runtime: parts.runtime,
            store: parts.store,
            outbox: parts.outbox,
            inquiry,
            clock: parts.clock,
            tasks: parts.tasks,
            table: Mutex::new(table),
            loaded: tokio::sync::watch::Sender::new(load::Loaded::NotYet),
            observations: Mutex::default(),
            expected: Mutex::default(),
            blueprints,
            unverified: Mutex::default(),
            sweep: Mutex::default(),
            checking: tokio::sync::Mutex::default(),
            cleaning: tokio::sync::Mutex::default(),
            probed: tokio::sync::Mutex::default(),
            changes: broadcast::channel(CHANGES_KEPT).0,
            wake: Notify::new(),
            looks,
            rounds,
            last_round: Mutex::default(),
            proofs: Arc::new(Semaphore::new(1)),
            pages: Arc::new(Semaphore::new(1)),
            excuses: Arc::new(Semaphore::new(SILENT_AT_ONCE)),
            disk,
            judged: Mutex::default(),
            awake_at: Mutex::default(),
        })))
    }

    /// A recorder is heard. Not on disk when it is answered: a heartbeat is worth nothing after a crash.
    ///
    /// # Errors
    /// [`ControllerError::NotFound`] for an unknown session, [`ControllerError::Superseded`] for a run that was replaced,
    /// [`ControllerError::Over`] when there is nothing to record any more.
    pub fn heartbeat(&self, id: &RecordingId, heard: Heartbeat) -> Result<(), ControllerError> {
        let now = self.0.clock.now();
        let (mut dying, mut deaf, mut news) = (false, false, false);
        let answer = self.table_with(id)?.change(id, |entry| {
            fence(&entry.session, &heard)?;
            let before = (
                discriminant(&entry.session.state),
                entry.session.report.troubles.clone(),
            );
            let was_silent =
                now.since(entry.session.heartbeat_at) >= self.0.policy.heartbeat_timeout;
            if let Some(run) = heard.run {
                entry.session.run = entry.session.run.max(run);
            }
            let event = Event::Heard {
                last_chunk: heard.last_chunk,
                report: heard.report,
            };
            entry.dirty = true;
            entry.session.on(event, now)?;
            dying = entry.session.asks_for_replacement();
            deaf = std::mem::take(&mut entry.deaf);
            let after = (
                discriminant(&entry.session.state),
                &entry.session.report.troubles,
            );
            news = was_silent || (before.0, &before.1) != after;
            Ok(())
        });
        if deaf {
            info!(session:% = id; "the recorder is heard again");
        }
        if news {
            self.judge_anew();
        }
        self.tell(|| Change::Session(id.clone()));
        if dying {
            self.reconcile_session(id);
        }
        answer.unwrap_or_else(|| Err(ControllerError::unknown(id)))
    }

    /// A client sets the status. That a recorder says it is done does not end what OpenVidu records on: it was told to
    /// end by somebody else, such as a Docker daemon that stops, and is started again.
    ///
    /// # Errors
    /// [`ControllerError::NotFound`], or [`ControllerError::Over`] when the session cannot come back to life.
    pub async fn set_status(
        &self,
        id: &RecordingId,
        status: Status,
    ) -> Result<(), ControllerError> {
        let session = self.session(id).filter(|_| status == Status::Completed);
        if session.is_some_and(|session| !self.end_was_wanted(&session)) {
            info!(session:% = id; "the recorder was ended while OpenVidu records on");
            return Ok(());
        }
        self.apply(id, Event::Set(status))?;
        Ok(self.0.db.durable().await?)
    }

    /// A client says where the video is.
    ///
    /// # Errors
    /// [`ControllerError::NotFound`].
    pub async fn set_recording_path(
        &self,
        id: &RecordingId,
        path: String,
    ) -> Result<(), ControllerError> {
        self.describe(id, |particulars| particulars.recording_path = Some(path))?;
        Ok(self.0.db.durable().await?)
    }

    /// A client puts the session aside: it is no longer watched.
    ///
    /// # Errors
    /// [`ControllerError::NotFound`].
    pub async fn deactivate(&self, id: &RecordingId) -> Result<(), ControllerError> {
        self.set_status(id, Status::Inactive).await
    }

    /// The recording is to stop. OpenVidu's own container is stopped by OpenVidu; a backup is stopped by us.
    ///
    /// # Errors
    /// [`ControllerError::NotFound`].
    pub async fn stop(&self, id: &RecordingId) -> Result<(), ControllerError> {
        self.apply(id, Event::StopAsked)?;
        Ok(self.0.db.durable().await?)
    }

    /// A client wants the session forgotten. Chunks and video stay.
    ///
    /// # Errors
    /// [`ControllerError::NotFound`].
    pub async fn remove(&self, id: &RecordingId) -> Result<(), ControllerError> {
        self.forget(id)?;
        Ok(self.0.db.durable().await?)
    }

    /// One session.
    pub fn session(&self, id: &RecordingId) -> Option<Session> {
        // What cannot be read is told by whoever reads all sessions.
        let table = self.table_with(id).ok()?;
        table.get(id).map(|entry| entry.session.clone())
    }

    /// What was said of a session beside what it is decided by. A damaged record is reported and says nothing.
    pub fn particulars(&self, id: &RecordingId) -> Particulars {
        let read = self.0.stored.particulars(id);
        read.unwrap_or_else(|cause| {
            error!("{cause}");
            Particulars::default()
        })
    }

    /// Answers when sessions can be looked at and the database takes writes. A disk that refuses is no hang: health
    /// tells of it, and whoever had waited for that write was told.
    pub async fn alive(&self) {
        self.counts();
        if let Err(cause) = self.0.db.durable().await {
            warn!("the database does not take writes: {cause}");
        }
    }

    /// Holds the table and never returns, as a deadlock would: what the watchdog's test asks for.
    #[cfg(debug_assertions)]
    pub fn hang(&self) {
        let _held = self.table();
        loop {
            std::thread::park();
        }
    }

    /// Tries whether the database takes writes.
    ///
    /// # Errors
    /// When it does not.
    pub async fn try_database(&self) -> Result<(), DbError> {
        self.0.db.probe().await
    }

    /// Where database and journal lie.
    pub fn data_dir(&self) -> &Path {
        self.0.db.data_dir()
    }

    /// Replaces a session's recorder now, because a person asked for it.
    ///
    /// # Errors
    /// [`ControllerError::NotFound`], or [`ControllerError::Conflict`] when no recorder is expected to be at work.
    pub async fn fail_over(
        &self,
        id: &RecordingId,
        message: impl Into<String>,
    ) -> Result<(), ControllerError> {
        let now = self.0.clock.now();
        let event = Event::Lost {
            fault: Fault {
                reason: Reason::Requested {
                    message: message.into(),
                },
                well_until: now,
            },
            not_before: now,
        };
        let session = self
            .session(id)
            .ok_or_else(|| ControllerError::unknown(id))?;
        if !session.state.status().active() && session.given_up_at().is_none() {
            return Err(ControllerError::not_recording(id));
        }
        self.apply(id, event)?;
        Ok(self.0.db.durable().await?)
    }

    /// Changes from now on, for those who show them.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.0.changes.subscribe()
    }

    /// Lets an event happen to a session and does what follows from it.
    fn apply(&self, id: &RecordingId, event: Event) -> Result<(), ControllerError> {
        self.apply_where(id, |_| Some(event))
    }

    /// The same for an event that follows from what the session is in that very moment; where there is none nothing happens.
    fn apply_where(
        &self,
        id: &RecordingId,
        event: impl FnOnce(&Entry) -> Option<Event>,
    ) -> Result<(), ControllerError> {
        let now = self.0.clock.now();
        let (action, is_done) = self.change(id, |entry| {
            let event = event(entry);
            let action = event.map_or(Ok(None), |event| entry.session.on(event, now));
            (action, blueprints::is_done(&entry.session))
        })?;
        if is_done && self.0.blueprints.has(id) {
            tasks::block(|| self.0.blueprints.forget(id));
        }
        if let Some(action) = action? {
            self.act(id, action);
        }
        Ok(())
    }

    /// Changes a session and writes it; on disk after `db.durable()`.
    fn change<T>(
        &self,
        id: &RecordingId,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Result<T, ControllerError> {
        let mut table = self.table_with(id)?;
        let answer = table
            .change(id, change)
            .ok_or_else(|| ControllerError::unknown(id))?;
        if let Some(entry) = table.get(id) {
            self.0.stored.put(&entry.session)?;
        }
        drop(table);
        self.0.wake.notify_one();
        self.changed(|| Change::Session(id.clone()));
        Ok(answer)
    }

    /// Writes down what is said of a session; on disk after `db.durable()`.
    fn describe(
        &self,
        id: &RecordingId,
        change: impl FnOnce(&mut Particulars),
    ) -> Result<(), ControllerError> {
        let table = self.table_with(id)?;
        table.get(id).ok_or_else(|| ControllerError::unknown(id))?;
        let mut particulars = self.0.stored.particulars(id)?;
        change(&mut particulars);
        self.0.stored.put_particulars(id, &particulars)?;
        drop(table);
        self.changed(|| Change::Session(id.clone()));
        Ok(())
    }

    fn forget(&self, id: &RecordingId) -> Result<Session, ControllerError> {
        let mut table = self.table_with(id)?;
        let session = table
            .remove(id)
            .ok_or_else(|| ControllerError::unknown(id))?;
        self.0.stored.remove(id)?;
        drop(table);
        self.0.blueprints.forget(id);
        self.changed(|| Change::Removed(id.clone()));
        Ok(session)
    }

    /// A session is another one now, or none.
    fn changed(&self, change: impl FnOnce() -> Change) {
        self.judge_anew();
        self.tell(change);
    }

    fn tell(&self, change: impl FnOnce() -> Change) {
        if self.0.changes.receiver_count() > 0 {
            // An error means that the last listener has just left.
            let _ = self.0.changes.send(change());
        }
    }

    /// The ids, and not the lock: what is done for each may take it.
    fn ids(&self, which: Which) -> Vec<RecordingId> {
        self.table().ids(which)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.0.table)
    }

    /// Writes what heartbeats changed; called now and then, and at the end.
    pub fn save(&self) {
        let dirty = self.table().take_dirty();
        for id in dirty {
            // One at a time, so that whoever is heard meanwhile does not wait for all of them.
            let table = self.table();
            let written = table.get(&id).map(|it| self.0.stored.put(&it.session));
            if let Some(Err(cause)) = written {
                warn!(session:% = id; "a heartbeat was not saved: {cause}");
            }
            drop(table);
            std::thread::yield_now();
        }
    }
}

/// Whether the recorder that is heard still holds the session.
fn fence(session: &Session, heard: &Heartbeat) -> Result<(), Refusal> {
    let other_take = matches!((&heard.take, &session.take), (Some(a), Some(b)) if a != b);
    let older_run = heard.run.is_some_and(|run| run < session.run);
    if other_take || older_run {
        return Err(Refusal::Superseded);
    }
    Ok(())
}

/// Whether both are given and are not the same.
fn differs(a: &Option<String>, b: &Option<String>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if !a.is_empty() && !b.is_empty() && a != b)
}

fn policy(settings: &Settings) -> Policy {
    Policy {
        heartbeat_timeout: settings.heartbeat_timeout(),
        stuck_timeout: settings.stuck_timeout(),
        stall_timeout: settings.stall_seconds.seconds(),
        grace: GRACE,
        max_attempts: settings.failover_max_attempts.get() as usize,
        window: settings.failover_window_seconds.seconds(),
        first_delay: Duration::from_secs(1),
        longest_delay: Duration::from_secs(30),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
