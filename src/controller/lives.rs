//! Lives of a recording in a world that is in memory only: the real controller over containers, recorders and an OpenVidu
//! of a few lines each, and a clock that moves when it is told to. Fate kills, freezes, cuts off and stops, takes Docker
//! away, and ends the controller between any two of its steps. Whatever it does, no two recorders are believed at once,
//! nothing that happened is forgotten, what records is not ended, and every recording comes to its end.

mod backups;
mod frozen;
mod news;
mod pages;
mod rest;
mod stalled;

use super::Controller;
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::config::{Settings, Variables};
use crate::controller::{ControllerError, Parts};
use crate::db::Db;
use crate::db::outbox::{Bounds, Outbox};
use crate::model::ask::{Doing, Reply};
use crate::model::failover::Failover;
use crate::model::ids::{ContainerId, RecordingId, RunNumber, TakeId};
use crate::model::session::{Session, State, Status};
use crate::model::wire::{
    Heartbeat, RecorderIdentity, RecordingStatusChanged, Registration, Report,
};
use crate::runtime::{
    BackupSpec, Blueprint, Container, ContainerStatus, Environment, Happening, HappeningKind,
    Runtime, RuntimeError, RuntimeEvent, RuntimeInfo, Stop,
};
use crate::store;
use crate::tasks::Tasks;
use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const ID: &str = "ses_A";
const TAKE: &str = "1795577569000";
const SECOND: Duration = Duration::from_secs(1);
/// So long a disk is waited for that has not shown to be slow.
const DISK: Duration = Duration::from_millis(400);

/// A recorder's process.
#[derive(Clone, Default)]
struct Recorder {
    run: Option<u32>,
    registered: bool,
    chunk: u32,
    told_to_stop: bool,
    /// Nothing of it runs, and Docker does not know.
    hangs: bool,
}

struct Vessel {
    container: Container,
    /// Docker starts it again when it ends with a failure.
    kept_up: bool,
    recorder: Option<Recorder>,
}

impl Vessel {
    fn lives(&self) -> bool {
        self.recorder.is_some()
    }

    fn runs(&self) -> bool {
        self.container.status == ContainerStatus::Running
    }
}

/// Everything outside the controller.
struct World {
    clock: ManualClock,
    vessels: Vec<Vessel>,
    /// What Docker has reported and nobody has read.
    news: Vec<Happening>,
    made: u32,
    /// The run of the last folder that a recorder made.
    last_run: u32,
    docker_is_away: bool,
    cut_off: bool,
    encoder_hangs: bool,
    /// What recorders that run say when they are asked, and how often one was.
    says: Says,
    asked: u32,
    /// So many questions find no answer although their recorder runs.
    unheard: u32,
    /// Questions are put and nothing comes back, until somebody says so.
    asking_hangs: bool,
    /// A write does not come back.
    disk_hangs: bool,
    /// A write is refused.
    disk_refuses: bool,
    /// So long a write takes.
    disk_takes: Duration,
    /// What was written stays when its recorder ends.
    keeps_chunks: bool,
    /// What is written lies where the controller does not look.
    writes_elsewhere: bool,
    openvidu: OpenVidu,
    /// When OpenVidu's server was started; nobody sees it before it was started again.
    server_started_at: Option<Timestamp>,
    /// Below this recorders write.
    recordings: PathBuf,
    wrong: Vec<String>,
}

/// What a recorder says that is asked.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Says {
    /// Its image knows no such question.
    NothingKnown,
    Fine,
    Mends,
    /// It records, but another one.
    RecordsAnother,
    /// Docker does not come back from putting the question.
    DockerHangs,
    /// Docker is away once it has said for the second time that there was no answer, and that the container runs.
    DockerGoes,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum OpenVidu {
    Records,
    /// It told its container to stop, so many seconds ago.
    Waits(u32),
    /// Its container could not be told: no word of it follows.
    Failed,
    Sealed,
    /// It was started again, and knows of nothing that was before.
    Forgot,
}

impl World {
    fn of(&mut self, id: &ContainerId) -> Result<&mut Vessel, RuntimeError> {
        if self.docker_is_away {
            return Err(RuntimeError::Unreachable {
                what: "Docker".into(),
                cause: "it is away".into(),
                advice: String::new(),
            });
        }
        let found = self.vessels.iter_mut().find(|it| it.container.id == *id);
        found.ok_or_else(|| RuntimeError::NotFound(id.clone()))
    }

    fn tell(&mut self, container: ContainerId, kind: HappeningKind) {
        let at = self.clock.now();
        let happening = Happening {
            container,
            at,
            kind,
        };
        if !self.docker_is_away {
            self.news.push(happening);
        }
    }

    fn make(&mut self, name: &str, labels: BTreeMap<String, String>) -> ContainerId {
        self.made += 1;
        let id = ContainerId::parse(format!("c{}", self.made)).unwrap();
        self.vessels.push(Vessel {
            container: Container {
                id: id.clone(),
                name: name.into(),
                image: "image".into(),
                labels,
                recording: RecordingId::parse(ID).ok(),
                page: false,
                created_at: self.clock.now(),
                started_at: None,
                ended_at: None,
                status: ContainerStatus::Created,
            },
            kept_up: false,
            recorder: None,
        });
        id
    }

    fn begin(&mut self, id: &ContainerId) {
        if self.vessels.iter().any(Vessel::lives) {
            self.wrong.push(format!("{id} starts while another lives"));
        }
        if let Ok(vessel) = self.of(id) {
            vessel.container.status = ContainerStatus::Running;
            vessel.recorder = Some(Recorder::default());
        }
        self.tell(id.clone(), HappeningKind::Started);
    }

    /// Its process ends; answers whether it had one.
    fn end(&mut self, id: &ContainerId, code: i64, by_itself: bool) -> bool {
        let Some(vessel) = self.vessels.iter_mut().find(|it| it.container.id == *id) else {
            return false;
        };
        let lived = vessel.recorder.take().is_some();
        if !self.keeps_chunks {
            // There is no video to be made here: nothing is left that one could be made of.
            let _ = std::fs::remove_dir_all(self.recordings.join(ID).join("chunks"));
        }
        let again = by_itself && vessel.kept_up && code != 0;
        if lived || vessel.container.status == ContainerStatus::Restarting {
            vessel.container.status = match again {
                true => ContainerStatus::Restarting,
                false => ContainerStatus::Exited(code),
            };
        }
        if lived {
            self.tell(id.clone(), HappeningKind::Died(code));
        }
        lived
    }

    fn clear(&mut self, id: &ContainerId) {
        self.end(id, 137, false);
        let before = self.vessels.len();
        self.vessels.retain(|it| it.container.id != *id);
        if self.vessels.len() < before {
            self.tell(id.clone(), HappeningKind::Removed);
        }
    }

    /// A recorder begins its next chunk.
    fn write(&self, run: u32, chunk: u32) {
        let below = match self.writes_elsewhere {
            true => "elsewhere",
            false => "chunks",
        };
        let folder = self.recordings.join(format!("{ID}/{below}/{TAKE}/r{run}"));
        std::fs::create_dir_all(&folder).unwrap();
        let name = |chunk: u32| folder.join(format!("{chunk:04}.mp4"));
        // The one before may have been written elsewhere.
        let _ = std::fs::remove_file(name(chunk - 1));
        let file = std::fs::File::create(name(chunk)).unwrap();
        let millis = u64::try_from(self.clock.now().millis()).unwrap();
        let stamp = std::time::UNIX_EPOCH + Duration::from_millis(millis);
        file.set_modified(stamp).unwrap();
    }

    /// The container that fate strikes: the one with a process, else the last one.
    fn victim(&self) -> Option<ContainerId> {
        let living = self.vessels.iter().find(|it| it.lives());
        let vessel = living.or(self.vessels.last())?;
        Some(vessel.container.id.clone())
    }
}

#[derive(Clone)]
struct Docker(Arc<Mutex<World>>);

impl Docker {
    /// Between any two calls the controller may end.
    async fn world(&self) -> MutexGuard<'_, World> {
        tokio::task::yield_now().await;
        self.0.lock().unwrap()
    }
}

#[async_trait]
impl Runtime for Docker {
    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        let world = self.world().await;
        match world.docker_is_away {
            true => Err(RuntimeError::Failed {
                act: "list".into(),
                cause: "it is away".into(),
            }),
            false => Ok(world
                .vessels
                .iter()
                .map(|it| it.container.clone())
                .collect()),
        }
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Option<Container>, RuntimeError> {
        let mut world = self.world().await;
        let found = match world.of(id) {
            Ok(vessel) => Ok(Some(vessel.container.clone())),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(cause) => Err(cause),
        };
        world.docker_is_away |= world.says == Says::DockerGoes && world.asked >= 2;
        found
    }

    async fn start(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut world = self.world().await;
        if !world.of(id)?.lives() {
            world.begin(id);
        }
        Ok(())
    }

    async fn blueprint(&self, id: &ContainerId) -> Result<Blueprint, RuntimeError> {
        self.world().await.of(id)?;
        let environment = BTreeMap::from([("VIDEO_ID".to_owned(), ID.to_owned())]);
        Ok(Blueprint {
            environment: Environment(environment),
            ..Blueprint::default()
        })
    }

    async fn start_backup(&self, spec: BackupSpec) -> Result<Container, RuntimeError> {
        let mut world = self.world().await;
        let named = world
            .vessels
            .iter()
            .find(|it| it.container.name == spec.name);
        if let Some(id) = named.map(|it| it.container.id.clone()) {
            world.of(&id)?;
            world.clear(&id);
        }
        let id = world.make(&spec.name, spec.labels);
        let vessel = world.of(&id)?;
        vessel.kept_up = true;
        world.begin(&id);
        Ok(world.of(&id)?.container.clone())
    }

    async fn stop(&self, id: &ContainerId, how: Stop) -> Result<(), RuntimeError> {
        let mut world = self.world().await;
        let runs = world.of(id)?.runs();
        let code = match how {
            Stop::Drain(_) if runs => 0,
            _ => 137,
        };
        world.end(id, code, false);
        Ok(())
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut world = self.world().await;
        match world.of(id) {
            Ok(vessel) if vessel.lives() => Err(RuntimeError::Failed {
                act: "remove".into(),
                cause: "it runs".into(),
            }),
            Ok(_) => {
                world.clear(id);
                Ok(())
            }
            Err(RuntimeError::NotFound(_)) => Ok(()),
            Err(cause) => Err(cause),
        }
    }

    async fn restart_on_failure(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.world().await.of(id)?.kept_up = true;
        Ok(())
    }

    async fn ask(&self, id: &ContainerId, patience: Duration) -> Result<Reply, RuntimeError> {
        let says = {
            let mut world = self.world().await;
            world.of(id)?;
            world.asked += 1;
            world.says
        };
        if says == Says::DockerHangs {
            std::future::pending::<()>().await;
        }
        while self.world().await.asking_hangs {}
        let mut world = self.world().await;
        let hangs = world.of(id)?.recorder.as_ref().is_none_or(|it| it.hangs);
        let unheard = world.unheard > 0;
        world.unheard = world.unheard.saturating_sub(1);
        if says == Says::NothingKnown {
            return Ok(Reply::Unknown("it knows no such command".into()));
        }
        if hangs || unheard {
            world.clock.advance(patience);
            return Ok(Reply::Nothing);
        }
        let (part, since) = ("the page".into(), world.clock.now());
        let doing = match says {
            Says::Mends => Doing::Mending { part, since },
            _ => Doing::Fine,
        };
        let recording = match says {
            Says::RecordsAnother => "ses_A~1",
            _ => ID,
        };
        Ok(Reply::Answer(doing, RecordingId::parse(recording).ok()))
    }

    /// Told by hand, see [`Story::hand_on`].
    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        futures_util::stream::pending().boxed()
    }

    async fn openvidu_started_at(&self) -> Result<Option<Timestamp>, RuntimeError> {
        Ok(self.world().await.server_started_at)
    }

    async fn probe(&self) -> Result<RuntimeInfo, RuntimeError> {
        Ok(RuntimeInfo {
            kind: "docker",
            version: String::new(),
            image: None,
        })
    }
}

/// A controller while it lives. Its end is that of a killed process: what its tasks had not done stays undone.
struct Life {
    controller: Controller,
    tasks: Tasks,
    runtime: tokio::runtime::Runtime,
}

impl Life {
    fn begin(
        folder: &Path,
        docker: Docker,
        clock: &ManualClock,
        more: &[(&'static str, String)],
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let own = [
            ("HEARTBEAT_INTERVAL", "2".to_owned()),
            ("CHUNK_TIME_SIZE", "3".to_owned()),
            ("OPENVIDU_RECORDING_PATH", folder.display().to_string()),
        ];
        let all = own.into_iter().chain(more.iter().cloned());
        let settings: Settings = Variables::of(all).settings().unwrap();
        let settings = Arc::new(settings);
        // The flusher of the life before may still hold it for a moment.
        let mut opened = None;
        while opened.is_none() {
            opened = Db::open(&folder.join("data")).ok();
        }
        let db = opened.unwrap();
        let (outbox, _) =
            Outbox::open(&db, BTreeMap::new(), Bounds::of(&settings), clock.now()).unwrap();
        let tasks = Tasks::new();
        let world = Arc::clone(&docker.0);
        let mut controller = Controller::open(Parts {
            store: store::open(&settings, folder).unwrap(),
            settings,
            db,
            runtime: Arc::new(docker),
            outbox,
            clock: Arc::new(clock.clone()),
            tasks: tasks.clone(),
        })
        .unwrap();
        let disk = &mut Arc::get_mut(&mut controller.0).unwrap().disk;
        // What hangs is waited for, which takes its time.
        disk.patience = (DISK, disk.patience.1);
        disk.try_write = Arc::new(move |_| {
            while world.lock().unwrap().disk_hangs {
                std::thread::sleep(Duration::from_millis(2));
            }
            let world = world.lock().unwrap();
            world.clock.advance(world.disk_takes);
            match world.disk_refuses {
                true => Err(std::io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            }
        });
        controller.load().unwrap();
        drop(_inside);
        Self {
            controller,
            tasks,
            runtime,
        }
    }

    /// Lets everything that was begun come to its end.
    fn settle(&self) {
        self.runtime.block_on(async {
            // A thread that a disk holds is waited for by whoever wants to.
            let ends = |name: &String| name != "try the disk";
            while self.tasks.names().iter().any(ends) {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Lets its tasks take so many steps and no more.
    fn a_few_steps(&self, steps: u8) {
        self.runtime.block_on(async {
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
        });
    }
}

/// What befalls a recording.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Seconds(u8),
    Kill,
    KillFirstProcess,
    Remove,
    Pause,
    Unpause,
    CutOff,
    HangEncoder,
    HangProcess,
    Say(Says),
    Heal,
    DockerGoes,
    DockerComes,
    /// Docker ends and begins again, and so does everything in it.
    DockerRestarts,
    /// After so many steps of what it is at.
    ControllerDies(u8),
    ControllerForgets,
    ControllerBegins,
    Asked,
    /// OpenVidu begins again: it removes every container that it could have made.
    OpenViduRestarts,
    Stop,
}

struct Story {
    world: Arc<Mutex<World>>,
    clock: ManualClock,
    folder: tempfile::TempDir,
    /// Settings beside the usual ones.
    settings: Vec<(&'static str, String)>,
    life: Option<Life>,
    seconds: u32,
    strikes: u32,
    /// The runs that were believed in the last second.
    believed: Vec<u32>,
}

impl Drop for Story {
    fn drop(&mut self) {
        // A thread that it holds would live as long as all tests.
        if let Ok(mut world) = self.world.lock() {
            world.disk_hangs = false;
        }
    }
}

impl Story {
    fn begin() -> Self {
        Self::begin_with(&[])
    }

    fn begin_with(settings: &[(&'static str, &str)]) -> Self {
        let clock = ManualClock::at(Timestamp::from_millis(1_795_577_569_000));
        let folder = tempfile::tempdir().unwrap();
        let world = World {
            clock: clock.clone(),
            vessels: Vec::new(),
            news: Vec::new(),
            made: 0,
            last_run: 0,
            docker_is_away: false,
            cut_off: false,
            encoder_hangs: false,
            says: Says::NothingKnown,
            asked: 0,
            unheard: 0,
            asking_hangs: false,
            disk_hangs: false,
            disk_refuses: false,
            disk_takes: Duration::ZERO,
            keeps_chunks: false,
            writes_elsewhere: false,
            openvidu: OpenVidu::Records,
            server_started_at: None,
            recordings: folder.path().to_owned(),
            wrong: Vec::new(),
        };
        let mut story = Self {
            world: Arc::new(Mutex::new(world)),
            clock,
            folder,
            settings: settings
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect(),
            life: None,
            seconds: 0,
            strikes: 0,
            believed: Vec::new(),
        };
        story.controller_begins();
        story.say("started");
        {
            let mut world = story.world();
            let id = world.make("recording_ses_A", BTreeMap::new());
            world.begin(&id);
        }
        story.hand_on();
        story.second();
        story
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn session(&self) -> Option<Session> {
        let life = self.life.as_ref()?;
        life.controller.session(&RecordingId::parse(ID).unwrap())
    }

    fn controller_begins(&mut self) {
        if self.life.is_some() {
            return;
        }
        let docker = Docker(Arc::clone(&self.world));
        let life = Life::begin(self.folder.path(), docker, &self.clock, &self.settings);
        self.world().news.clear();
        life.runtime.block_on(async {
            for id in life.controller.ids(super::Which::Any) {
                life.controller.take_up(&id);
            }
            life.controller.catch_up().await;
        });
        life.settle();
        self.life = Some(life);
    }

    fn controller_dies(&mut self, steps: u8) {
        if let Some(life) = self.life.take() {
            life.a_few_steps(steps);
            life.runtime.shutdown_background();
        }
    }

    /// What Docker reports reaches the controller, where there is one and nothing is between them.
    fn hand_on(&self) {
        let news = std::mem::take(&mut self.world().news);
        if let Some(life) = &self.life {
            let _inside = life.runtime.enter();
            for happening in news {
                life.controller.happened(happening);
            }
        }
    }

    /// OpenVidu writes its file, and says it to whoever listens.
    fn say(&self, status: &str) {
        let folder = self.folder.path().join(ID);
        std::fs::create_dir_all(&folder).unwrap();
        let text =
            serde_json::json!({"id": ID, "status": status, "createdAt": 1_795_577_569_000_i64});
        std::fs::write(folder.join(format!(".recording.{ID}")), text.to_string()).unwrap();
        let news = RecordingStatusChanged {
            id: RecordingId::parse(ID).unwrap(),
            status: status.into(),
            session_id: None,
            unique_session_id: None,
            start_time: None,
            reason: None,
            output_mode: serde_json::Value::Null,
            has_video: serde_json::Value::Null,
        };
        if let Some(life) = &self.life {
            let _inside = life.runtime.enter();
            life.controller.recording_status_changed(&news);
        }
    }

    fn second(&mut self) {
        self.clock.advance(SECOND);
        self.seconds += 1;
        self.docker_keeps_up();
        self.hand_on();
        self.recorders_speak();
        self.openvidu_goes_on();
        self.hand_on();
        if let Some(life) = &self.life {
            life.runtime.block_on(async {
                match self.seconds % 15 {
                    0 => life.controller.check().await,
                    _ => life.controller.pass(),
                }
            });
            life.settle();
        }
        self.hand_on();
        if let Some(life) = &self.life {
            life.settle();
        }
        self.was_given_up_with_reason();
    }

    /// A recording is given up for a fault of its last recorder, not for one that is being answered still.
    fn was_given_up_with_reason(&self) {
        let Some(session) = self.session() else {
            return;
        };
        let State::GivenUp { why, .. } = &session.state else {
            return;
        };
        let answered = |it: &Failover| it.start_ms.is_some() || session.run > it.old_run;
        if why.contains("did not help") && !session.failovers.last().is_some_and(answered) {
            self.world()
                .wrong
                .push(format!("given up too early: {why}"));
        }
    }

    fn docker_keeps_up(&self) {
        let mut world = self.world();
        if world.docker_is_away {
            return;
        }
        let restarting = |it: &&Vessel| it.container.status == ContainerStatus::Restarting;
        let ids = world.vessels.iter().filter(restarting);
        for id in ids.map(|it| it.container.id.clone()).collect::<Vec<_>>() {
            world.begin(&id);
        }
    }

    /// Every recorder does a second's work, and says so.
    fn recorders_speak(&mut self) {
        self.believed.clear();
        let ids: Vec<_> = {
            let world = self.world();
            let works =
                |it: &&Vessel| it.runs() && it.recorder.as_ref().is_some_and(|it| !it.hangs);
            let running = world.vessels.iter().filter(works);
            running.map(|it| it.container.id.clone()).collect()
        };
        for id in ids {
            self.recorder_speaks(&id);
        }
        if self.believed.len() > 1 {
            let wrong = format!("runs {:?} are believed at once", self.believed);
            self.world().wrong.push(wrong);
        }
    }

    fn recorder_speaks(&mut self, id: &ContainerId) {
        let (mut recorder, last_run, reached) = {
            let mut world = self.world();
            let hangs = world.encoder_hangs;
            let (last_run, cut_off) = (world.last_run, world.cut_off);
            let vessel = world.vessels.iter_mut().find(|it| it.container.id == *id);
            let recorder = vessel.and_then(|it| it.recorder.as_mut()).unwrap();
            recorder.chunk += u32::from(!hangs);
            let said = (recorder.clone(), last_run, !cut_off);
            if let Some(run) = said.0.run.filter(|_| !hangs) {
                world.write(run, said.0.chunk);
            }
            said
        };
        if recorder.told_to_stop {
            if let Some(life) = self.life.as_ref().filter(|_| reached) {
                let id = RecordingId::parse(ID).unwrap();
                // It ends, whatever it is told.
                let _ = life
                    .runtime
                    .block_on(life.controller.set_status(&id, Status::Completed));
            }
            self.world().end(id, 0, true);
            return;
        }
        let life = self.life.as_ref().filter(|_| reached);
        let answer = life.map(|life| match recorder.registered {
            true => life
                .controller
                .heartbeat(&RecordingId::parse(ID).unwrap(), heartbeat(&recorder)),
            false => {
                let wanted = registration(id, &recorder, last_run);
                let told = life.runtime.block_on(life.controller.register(wanted));
                told.map(|session| {
                    let given = session.run.0;
                    let own = *recorder.run.get_or_insert(given.max(last_run + 1));
                    recorder.registered = own == given;
                })
            }
        });
        match answer {
            Some(Ok(())) if recorder.registered => self.believed.extend(recorder.run),
            Some(Err(ControllerError::NotFound(_))) => recorder.registered = false,
            Some(Err(ControllerError::Superseded)) => {
                self.world().end(id, 9, true);
                return;
            }
            Some(Err(ControllerError::Over)) => {
                self.world().end(id, 0, true);
                return;
            }
            // It records on without a controller.
            _ => {}
        }
        let run = *recorder.run.get_or_insert(last_run + 1);
        let mut world = self.world();
        world.last_run = world.last_run.max(run);
        if let Ok(vessel) = world.of(id).map(|it| &mut it.recorder) {
            *vessel = Some(recorder);
        } else if let Some(vessel) = world.vessels.iter_mut().find(|it| it.container.id == *id) {
            vessel.recorder = Some(recorder);
        }
    }

    fn openvidu_goes_on(&mut self) {
        let OpenVidu::Waits(seconds) = self.world().openvidu else {
            return;
        };
        let first = ContainerId::parse("c1").unwrap();
        let lives = self
            .world()
            .vessels
            .iter()
            .any(|it| it.container.id == first && it.lives());
        let (next, word) = match lives {
            true if seconds < 30 => (OpenVidu::Waits(seconds + 1), None),
            true => (OpenVidu::Failed, Some("failed")),
            false => (OpenVidu::Sealed, Some("ready")),
        };
        self.world().openvidu = next;
        if let Some(word) = word {
            self.world().clear(&first);
            self.say(word);
        }
    }

    fn stop(&mut self) {
        if self.world().openvidu != OpenVidu::Records {
            return;
        }
        self.say("stopped");
        let mut world = self.world();
        let first = world
            .vessels
            .iter_mut()
            .find(|it| it.container.id.as_str() == "c1");
        let told = first
            .filter(|it| it.runs())
            .and_then(|it| it.recorder.as_mut());
        world.openvidu = match told {
            Some(recorder) => {
                recorder.told_to_stop = true;
                OpenVidu::Waits(0)
            }
            None => OpenVidu::Failed,
        };
    }

    fn befall(&mut self, fate: Fate) {
        self.strikes += 1;
        let victim = self.world().victim();
        match (fate, victim) {
            (Fate::Seconds(count), _) => (0..count).for_each(|_| self.second()),
            (Fate::Kill, Some(id)) => drop(self.world().end(&id, 137, false)),
            (Fate::KillFirstProcess, Some(id)) => drop(self.world().end(&id, 137, true)),
            (Fate::Remove, Some(id)) => self.world().clear(&id),
            (Fate::Pause, Some(id)) => self.freeze(&id, true),
            (Fate::Unpause, Some(id)) => self.freeze(&id, false),
            (Fate::CutOff, _) => self.world().cut_off = true,
            (Fate::HangEncoder, _) => self.world().encoder_hangs = true,
            (Fate::HangProcess, Some(id)) => self.hang(&id, true),
            (Fate::Say(says), _) => self.world().says = says,
            (Fate::Heal, _) => {
                let mut world = self.world();
                (world.cut_off, world.encoder_hangs) = (false, false);
                (world.disk_hangs, world.writes_elsewhere) = (false, false);
                for recorder in world
                    .vessels
                    .iter_mut()
                    .filter_map(|it| it.recorder.as_mut())
                {
                    recorder.hangs = false;
                }
            }
            (Fate::DockerGoes, _) => self.world().docker_is_away = true,
            (Fate::DockerComes, _) => self.docker_comes(),
            (Fate::DockerRestarts, _) => {
                self.world().docker_is_away = true;
                let mut world = self.world();
                let ids = world.vessels.iter().map(|it| it.container.id.clone());
                for id in ids.collect::<Vec<_>>() {
                    world.end(&id, 143, false);
                }
                drop(world);
                self.docker_comes();
            }
            (Fate::ControllerDies(steps), _) => self.controller_dies(steps),
            (Fate::ControllerForgets, _) => {
                self.controller_dies(0);
                let data = self.folder.path().join("data");
                while data.exists() {
                    let _ = std::fs::remove_dir_all(&data);
                }
            }
            (Fate::ControllerBegins, _) => self.controller_begins(),
            (Fate::Asked, _) => {
                if let Some(life) = &self.life {
                    let id = RecordingId::parse(ID).unwrap();
                    // Refused when nothing records.
                    let _ = life
                        .runtime
                        .block_on(life.controller.fail_over(&id, "asked"));
                }
            }
            (Fate::OpenViduRestarts, _) => self.openvidu_restarts(),
            (Fate::Stop, _) => self.stop(),
            (_, None) => {}
        }
        self.hand_on();
    }

    fn openvidu_restarts(&mut self) {
        let mut world = self.world();
        world.server_started_at = Some(world.clock.now());
        let own = |it: &&Vessel| it.container.labels.is_empty();
        let ids = world
            .vessels
            .iter()
            .filter(own)
            .map(|it| it.container.id.clone());
        for id in ids.collect::<Vec<_>>() {
            world.clear(&id);
        }
        if world.openvidu != OpenVidu::Sealed {
            world.openvidu = OpenVidu::Forgot;
        }
    }

    /// Its process stops, or goes on, behind Docker's back.
    fn hang(&self, id: &ContainerId, hangs: bool) {
        let mut world = self.world();
        let vessel = world.vessels.iter_mut().find(|it| it.container.id == *id);
        if let Some(recorder) = vessel.and_then(|it| it.recorder.as_mut()) {
            recorder.hangs = hangs;
        }
    }

    fn freeze(&self, id: &ContainerId, freezes: bool) {
        let mut world = self.world();
        let (from, to, kind) = match freezes {
            true => (
                ContainerStatus::Running,
                ContainerStatus::Paused,
                HappeningKind::Paused,
            ),
            false => (
                ContainerStatus::Paused,
                ContainerStatus::Running,
                HappeningKind::Unpaused,
            ),
        };
        if let Ok(vessel) = world.of(id)
            && vessel.container.status == from
        {
            vessel.container.status = to;
            world.tell(id.clone(), kind);
        }
    }

    fn docker_comes(&mut self) {
        self.world().docker_is_away = false;
        self.world().news.clear();
        if let Some(life) = &self.life {
            life.runtime.block_on(life.controller.catch_up());
        }
    }

    /// Its container went or froze while the controller did not know of it, or it ended too often before it registered.
    fn nobody_remembers_it(&self) -> bool {
        let frozen = |it: &Vessel| it.container.status == ContainerStatus::Paused;
        self.strikes > 5 || self.world().vessels.iter().all(frozen)
    }

    /// All is well from now on, and time passes: longer than any time-out, delay and patience.
    fn all_is_well(&mut self, seconds: u32) {
        for fate in [Fate::Heal, Fate::DockerComes, Fate::ControllerBegins] {
            self.befall(fate);
        }
        for _ in 0..seconds {
            self.second();
        }
    }
}

fn heartbeat(recorder: &Recorder) -> Heartbeat {
    Heartbeat {
        last_chunk: Some(format!("{:04}.mp4", recorder.chunk)),
        take: TakeId::parse(TAKE).ok(),
        run: recorder.run.map(RunNumber),
        report: Some(Report {
            chunk: recorder.chunk,
            ..Report::default()
        }),
    }
}

fn registration(container: &ContainerId, recorder: &Recorder, last_run: u32) -> Registration {
    Registration {
        session_id: Some(ID.into()),
        client_id: Some("recorder".into()),
        recorder: Some(RecorderIdentity {
            take: TakeId::parse(TAKE).unwrap(),
            container_id: Some(container.clone()),
            last_run: RunNumber(last_run),
            run: recorder.run.map(RunNumber),
            video_name: ID.into(),
        }),
        ..Registration::default()
    }
}

fn any_fate() -> impl Strategy<Value = Fate> {
    use Fate::*;
    prop_oneof![
        4 => (1u8..12).prop_map(Seconds),
        6 => prop::sample::select(vec![Kill, KillFirstProcess, Remove, Pause, Unpause, CutOff, HangEncoder, HangProcess, Heal]),
        2 => prop::sample::select(vec![DockerGoes, DockerComes, DockerRestarts]),
        2 => (0u8..6).prop_map(ControllerDies),
        2 => prop::sample::select(vec![ControllerBegins, ControllerForgets, Asked]),
        1 => any_answer().prop_map(Say),
        1 => prop::sample::select(vec![OpenViduRestarts, Stop]),
    ]
}

fn any_answer() -> impl Strategy<Value = Says> {
    prop::sample::select(vec![Says::NothingKnown, Says::Fine, Says::Mends])
}

/// What does no harm to a recorder, however often it comes.
fn harmless_fate() -> impl Strategy<Value = Fate> {
    use Fate::*;
    prop_oneof![
        4 => (1u8..12).prop_map(Seconds),
        2 => (0u8..6).prop_map(ControllerDies),
        3 => prop::sample::select(vec![ControllerBegins, ControllerForgets, DockerGoes, DockerComes]),
        2 => prop::sample::select(vec![CutOff, Heal]),
        1 => any_answer().prop_map(Say),
    ]
}

/// `OV2_LIVES=1000` tries more of them.
fn lives() -> u32 {
    let wanted = std::env::var("OV2_LIVES").ok();
    wanted.and_then(|it| it.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(lives()) })]

    #[test]
    fn whatever_befalls_a_recording_one_recorder_goes_on_or_it_comes_to_its_end(
        fates in prop::collection::vec(any_fate(), 1..24),
    ) {
        let mut story = Story::begin();
        for fate in fates {
            story.befall(fate);
            let wrong = story.world().wrong.clone();
            prop_assert!(wrong.is_empty(), "{wrong:?}");
        }
        story.all_is_well(180);
        let session = story.session();
        let state = session.as_ref().map(|it| it.state.clone());
        if story.world().openvidu == OpenVidu::Records {
            let given_up = match state {
                Some(State::Failed { .. } | State::GivenUp { .. }) => true,
                None => story.nobody_remembers_it(),
                _ => false,
            };
            let goes_on = matches!(state, Some(State::Recording { .. })) && story.believed.len() == 1;
            prop_assert!(goes_on || given_up, "{state:?}, {:?} believed", story.believed);
        }
        story.befall(Fate::Stop);
        story.all_is_well(180);
        let wrong = story.world().wrong.clone();
        prop_assert!(wrong.is_empty(), "{wrong:?}");
        let session = story.session();
        let ended = session.as_ref().is_none_or(|it| it.over() && it.seal_at.is_none());
        prop_assert!(ended, "{:?}", session.map(|it| (it.state, it.seal_at)));
        let unknown = session.is_none();
        // What froze before this controller knew of it is nobody's.
        let left = |it: &&Vessel| it.lives() && (it.runs() || !unknown);
        let living = story.world().vessels.iter().filter(left).count();
        prop_assert_eq!(living, 0, "recorders are left");
    }

    #[test]
    fn a_recorder_whose_files_grow_is_never_replaced_whether_it_is_heard_or_not(
        fates in prop::collection::vec(harmless_fate(), 1..24),
    ) {
        let mut story = Story::begin();
        for fate in fates {
            story.befall(fate);
        }
        story.all_is_well(60);
        let session = story.session().unwrap();
        prop_assert_eq!(&session.failovers, &[]);
        prop_assert_eq!(&story.believed, &[1]);
    }
}
