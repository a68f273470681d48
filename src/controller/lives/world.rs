//! Everything outside the controller, in memory: containers, the recorders in them, OpenVidu, and Docker as the controller
//! sees it.

use super::{ID, TAKE};
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::model::ask::{Doing, Reply};
use crate::model::ids::{ContainerId, RecordingId};
use crate::runtime::{
    BackupSpec, Blueprint, Container, ContainerStatus, Environment, Happening, HappeningKind,
    Runtime, RuntimeError, RuntimeEvent, RuntimeInfo, Stop,
};
use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A recorder's process.
#[derive(Clone, Default)]
pub(super) struct Recorder {
    pub(super) run: Option<u32>,
    pub(super) registered: bool,
    pub(super) chunk: u32,
    pub(super) told_to_stop: bool,
    /// Nothing of it runs, and Docker does not know.
    pub(super) hangs: bool,
}

pub(super) struct Vessel {
    pub(super) container: Container,
    /// Docker starts it again when it ends with a failure.
    pub(super) kept_up: bool,
    pub(super) recorder: Option<Recorder>,
}

impl Vessel {
    pub(super) fn lives(&self) -> bool {
        self.recorder.is_some()
    }

    pub(super) fn runs(&self) -> bool {
        self.container.status == ContainerStatus::Running
    }
}

/// Everything outside the controller.
pub(super) struct World {
    pub(super) clock: ManualClock,
    pub(super) vessels: Vec<Vessel>,
    /// What Docker has reported and nobody has read.
    pub(super) news: Vec<Happening>,
    pub(super) made: u32,
    /// The run of the last folder that a recorder made.
    pub(super) last_run: u32,
    pub(super) docker_is_away: bool,
    /// Lists that Docker makes now, made at once at most, and made in all.
    pub(super) lists: (u32, u32, u32),
    pub(super) cut_off: bool,
    pub(super) encoder_hangs: bool,
    /// What recorders that run say when they are asked, and how often one was.
    pub(super) says: Says,
    pub(super) asked: u32,
    /// So many questions find no answer although their recorder runs.
    pub(super) unheard: u32,
    /// Questions are put and nothing comes back, until somebody says so.
    pub(super) asking_hangs: bool,
    /// A write does not come back.
    pub(super) disk_hangs: bool,
    /// A write is refused.
    pub(super) disk_refuses: bool,
    /// So long a write takes.
    pub(super) disk_takes: Duration,
    /// What was written stays when its recorder ends.
    pub(super) keeps_chunks: bool,
    /// What is written lies where the controller does not look.
    pub(super) writes_elsewhere: bool,
    pub(super) openvidu: OpenVidu,
    /// When OpenVidu's server was started; nobody sees it before it was started again.
    pub(super) server_started_at: Option<Timestamp>,
    /// Below this recorders write.
    pub(super) recordings: PathBuf,
    pub(super) wrong: Vec<String>,
}

/// What a recorder says that is asked.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Says {
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
pub(super) enum OpenVidu {
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
    pub(super) fn of(&mut self, id: &ContainerId) -> Result<&mut Vessel, RuntimeError> {
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

    pub(super) fn tell(&mut self, container: ContainerId, kind: HappeningKind) {
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

    pub(super) fn make(&mut self, name: &str, labels: BTreeMap<String, String>) -> ContainerId {
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

    pub(super) fn begin(&mut self, id: &ContainerId) {
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
    pub(super) fn end(&mut self, id: &ContainerId, code: i64, by_itself: bool) -> bool {
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

    pub(super) fn clear(&mut self, id: &ContainerId) {
        self.end(id, 137, false);
        let before = self.vessels.len();
        self.vessels.retain(|it| it.container.id != *id);
        if self.vessels.len() < before {
            self.tell(id.clone(), HappeningKind::Removed);
        }
    }

    /// A recorder begins its next chunk.
    pub(super) fn write(&self, run: u32, chunk: u32) {
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
    pub(super) fn victim(&self) -> Option<ContainerId> {
        let living = self.vessels.iter().find(|it| it.lives());
        let vessel = living.or(self.vessels.last())?;
        Some(vessel.container.id.clone())
    }
}

#[derive(Clone)]
pub(super) struct Docker(pub(super) Arc<Mutex<World>>);

impl Docker {
    /// Between any two calls the controller may end.
    pub(super) async fn world(&self) -> MutexGuard<'_, World> {
        tokio::task::yield_now().await;
        self.0.lock().unwrap()
    }
}

#[async_trait]
impl Runtime for Docker {
    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        {
            let (now, most, all) = &mut self.0.lock().unwrap().lists;
            *now += 1;
            *most = (*most).max(*now);
            *all += 1;
        }
        let mut world = self.world().await;
        world.lists.0 -= 1;
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

    /// Told by hand, see [`Story::hand_on`](super::story::Story::hand_on).
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
