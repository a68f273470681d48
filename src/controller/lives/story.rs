//! A recording in such a world: second after second, with what befalls it.

use super::life::Life;
use super::world::{Docker, OpenVidu, Recorder, Says, Vessel, World};
use super::{ID, SECOND, TAKE};
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::controller::{ControllerError, Which};
use crate::model::failover::Failover;
use crate::model::ids::{ContainerId, RecordingId, RunNumber, TakeId};
use crate::model::session::{Session, State, Status};
use crate::model::wire::{
    Heartbeat, RecorderIdentity, RecordingStatusChanged, Registration, Report,
};
use crate::runtime::{ContainerStatus, HappeningKind};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What befalls a recording.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fate {
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

pub(super) struct Story {
    pub(super) world: Arc<Mutex<World>>,
    pub(super) clock: ManualClock,
    pub(super) folder: tempfile::TempDir,
    /// Settings beside the usual ones.
    pub(super) settings: Vec<(&'static str, String)>,
    pub(super) life: Option<Life>,
    pub(super) seconds: u32,
    pub(super) strikes: u32,
    /// The runs that were believed in the last second.
    pub(super) believed: Vec<u32>,
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
    pub(super) fn begin() -> Self {
        Self::begin_with(&[])
    }

    pub(super) fn begin_with(settings: &[(&'static str, &str)]) -> Self {
        let clock = ManualClock::at(Timestamp::from_millis(1_795_577_569_000));
        let folder = tempfile::tempdir().unwrap();
        let world = World {
            clock: clock.clone(),
            vessels: Vec::new(),
            news: Vec::new(),
            made: 0,
            last_run: 0,
            docker_is_away: false,
            lists: (0, 0, 0),
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

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(super) fn session(&self) -> Option<Session> {
        let life = self.life.as_ref()?;
        life.controller.session(&RecordingId::parse(ID).unwrap())
    }

    pub(super) fn controller_begins(&mut self) {
        if self.life.is_some() {
            return;
        }
        let docker = Docker(Arc::clone(&self.world));
        let life = Life::begin(self.folder.path(), docker, &self.clock, &self.settings);
        self.world().news.clear();
        life.runtime.block_on(async {
            for id in life.controller.ids(Which::Any) {
                life.controller.resume(&id);
            }
            life.controller.catch_up().await;
        });
        life.settle();
        self.life = Some(life);
    }

    pub(super) fn controller_dies(&mut self, steps: u8) {
        if let Some(life) = self.life.take() {
            life.a_few_steps(steps);
            life.runtime.shutdown_background();
        }
    }

    /// What Docker reports reaches the controller, where there is one and nothing is between them.
    pub(super) fn hand_on(&self) {
        let news = std::mem::take(&mut self.world().news);
        if let Some(life) = &self.life {
            let _inside = life.runtime.enter();
            for happening in news {
                life.controller.happened(happening);
            }
        }
    }

    /// OpenVidu writes its file, and says it to whoever listens.
    pub(super) fn say(&self, status: &str) {
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

    pub(super) fn second(&mut self) {
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
    pub(super) fn was_given_up_with_reason(&self) {
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

    pub(super) fn docker_keeps_up(&self) {
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
    pub(super) fn recorders_speak(&mut self) {
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

    pub(super) fn recorder_speaks(&mut self, id: &ContainerId) {
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

    pub(super) fn openvidu_goes_on(&mut self) {
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

    pub(super) fn stop(&mut self) {
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

    pub(super) fn befall(&mut self, fate: Fate) {
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

    pub(super) fn openvidu_restarts(&mut self) {
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
    pub(super) fn hang(&self, id: &ContainerId, hangs: bool) {
        let mut world = self.world();
        let vessel = world.vessels.iter_mut().find(|it| it.container.id == *id);
        if let Some(recorder) = vessel.and_then(|it| it.recorder.as_mut()) {
            recorder.hangs = hangs;
        }
    }

    pub(super) fn freeze(&self, id: &ContainerId, freezes: bool) {
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

    pub(super) fn docker_comes(&mut self) {
        self.world().docker_is_away = false;
        self.world().news.clear();
        if let Some(life) = &self.life {
            life.runtime.block_on(life.controller.catch_up());
        }
    }

    /// Its container went or froze while the controller did not know of it, or it ended too often before it registered.
    pub(super) fn nobody_remembers_it(&self) -> bool {
        let frozen = |it: &Vessel| it.container.status == ContainerStatus::Paused;
        self.strikes > 5 || self.world().vessels.iter().all(frozen)
    }

    /// All is well from now on, and time passes: longer than any time-out, delay and patience.
    pub(super) fn all_is_well(&mut self, seconds: u32) {
        for fate in [Fate::Heal, Fate::DockerComes, Fate::ControllerBegins] {
            self.befall(fate);
        }
        for _ in 0..seconds {
            self.second();
        }
    }
}

pub(super) fn heartbeat(recorder: &Recorder) -> Heartbeat {
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

pub(super) fn registration(
    container: &ContainerId,
    recorder: &Recorder,
    last_run: u32,
) -> Registration {
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
