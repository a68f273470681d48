//! Failover at a size that Chromium would not allow: stand-ins for recorders in real Docker, all killed at once; and the
//! watcher over more sessions than any machine could record.

use super::desk::{Desk, PASSWORD};
use super::docker::{Container as Docked, docker, signal_process};
use super::loss::median;
use super::standin::StandIn;
use super::wait::until_true;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use ov2_ha_recorder::clock::SystemClock;
use ov2_ha_recorder::model::ask::Reply;
use ov2_ha_recorder::model::failover::Reason;
use ov2_ha_recorder::model::ids::{ContainerId, RecordingId, RunNumber};
use ov2_ha_recorder::model::session::{Session, Status};
use ov2_ha_recorder::model::wire::{Heartbeat, Registration};
use ov2_ha_recorder::runtime::docker::DockerRuntime;
use ov2_ha_recorder::runtime::{
    BackupSpec, Blueprint, Container, HappeningKind, Runtime, RuntimeError, RuntimeEvent,
    RuntimeInfo, Stop,
};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);

/// How far apart they are killed. Docker 20.10 takes the locks of its networks in two orders, and hangs for good in one of
/// some thirty bursts of fifty deaths, whatever is started then.
const APART: Duration = Duration::from_millis(40);

/// Stand-ins that record under one controller.
pub struct Crowd {
    desk: Desk,
    runtime: Arc<Noting>,
    containers: Vec<Docked>,
    rounds: u32,
    settings: Vec<(&'static str, String)>,
    image: StandIn,
    _folder: TempDir,
}

impl Crowd {
    /// Starts so many; answers when all record. Earlier failovers are soon forgiven them, so that they may be killed
    /// again and again.
    pub async fn gather(size: usize) -> Self {
        Self::gather_with(size, &[]).await
    }

    /// The same with options of `docker run`.
    pub async fn gather_with(size: usize, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = StandIn::image(folder.path()).unwrap();
        let docker = DockerRuntime::connect(&image.name, &image.tag).await;
        let runtime = Arc::new(Noting {
            docker: docker.unwrap(),
            deaths: Arc::default(),
            starts: Mutex::default(),
        });
        let forgiving = [("HA_FAILOVER_WINDOW_SECONDS", "1")];
        let clock = Arc::new(SystemClock);
        let mut desk = Desk::open(folder.path(), runtime.clone(), clock, &forgiving);
        let port = desk.serve().await;
        desk.controller.start();
        let settings = vec![
            ("PORT", port.to_string()),
            (
                "AUTHORIZATION",
                STANDARD.encode(format!("recorder:{PASSWORD}")),
            ),
            ("BEAT", "2".into()),
        ];
        let containers = (0..size).map(|n| image.run_with(id(n).as_str(), &settings, options));
        let crowd = Self {
            containers: containers.collect(),
            desk,
            runtime,
            rounds: 0,
            settings,
            image,
            _folder: folder,
        };
        let records = |it: &Session| it.state.status() == Status::Recording;
        until_true("all record", SOON, || crowd.all(records)).await;
        crowd
    }

    /// Kills all of them; from the first blow to the moment when every one records again.
    pub async fn kill_all(&mut self) -> Duration {
        self.rounds += 1;
        let rounds = self.rounds as usize;
        let ids = self.containers.iter().map(|it| it.0.as_str());
        let inspect = ["inspect", "--format", "{{.State.Pid}}"];
        let arguments: Vec<&str> = inspect.into_iter().chain(ids).collect();
        let processes = tokio::task::block_in_place(|| docker(&arguments)).unwrap();
        let begin = Instant::now();
        for process in processes.lines() {
            signal_process(process.parse().unwrap(), "KILL");
            tokio::time::sleep(APART).await;
        }
        let again = |it: &Session| {
            let failovers = &it.failovers;
            failovers.len() >= rounds && failovers.iter().all(|it| it.recovery_ms.is_some())
        };
        until_true("all record again", SOON, || self.all(again)).await;
        begin.elapsed()
    }

    /// Whether each was started again exactly once after each of its deaths, and in its own container.
    ///
    /// # Panics
    /// When not.
    pub fn each_was_started_once(&self) {
        for (session, container) in self.sessions().into_iter().zip(&self.containers) {
            let failovers = &session.failovers;
            assert_eq!(failovers.len(), self.rounds as usize, "{failovers:?}");
            assert_eq!(session.run, RunNumber(self.rounds + 1));
            assert_eq!(session.container.unwrap().id.as_str(), container.0);
        }
        let starts = self.runtime.starts.lock().unwrap().len();
        assert_eq!(starts, self.rounds as usize * self.containers.len());
    }

    /// From each death of the last round, as the controller was told of it, to the start that it asked for; the shortest
    /// first.
    pub fn delays(&self) -> Vec<Duration> {
        let starts = self.runtime.starts.lock().unwrap();
        let deaths = self.runtime.deaths.lock().unwrap();
        let delay = |(id, at): &(ContainerId, Instant)| {
            let before = deaths
                .iter()
                .rev()
                .find(|(it, died)| it == id && died <= at);
            *at - before.expect("it was started without a death").1
        };
        let last = starts.len() - self.containers.len();
        let mut delays: Vec<Duration> = starts[last..].iter().map(delay).collect();
        delays.sort();
        delays
    }

    /// Has another recorder take the place of the first one, which lives on: the controller had forgotten it. Both.
    pub async fn usurp(&self) -> (Docked, Docked) {
        let first = self.containers[0].clone();
        self.desk.controller.remove(&id(0)).await.unwrap();
        // There can be but one of this name.
        docker(&["rename", &first.0, &format!("{}_before", &first.0[..12])]).unwrap();
        let second = self.image.run(id(0).as_str(), &self.settings);
        let holds = |it: &Session| {
            it.container
                .as_ref()
                .is_some_and(|it| it.id.as_str() == second.0)
        };
        let records = |it: &Session| holds(it) && it.state.status() == Status::Recording;
        until_true("the second to record", SOON, || self.all(records)).await;
        assert!(first.runs(), "nobody ended it");
        (first, second)
    }

    /// One more, which talks to nobody.
    pub fn silent_one(&self) -> Docked {
        self.image.run("ses_silent", &[])
    }

    /// The first one's container.
    pub fn first(&self) -> &Docked {
        &self.containers[0]
    }

    /// Waits until the first session has had a failover and records again; why it had it.
    pub async fn has_failed_over(&self) -> Reason {
        let again = |it: &Session| it.failovers.iter().any(|it| it.recovery_ms.is_some());
        until_true("a failover", SOON, || self.all(again)).await;
        let session = self.desk.controller.session(&id(0)).unwrap();
        assert_eq!(session.failovers.len(), 1, "{:?}", session.failovers);
        session.failovers[0].reason.clone()
    }

    /// Waits until the first session's recorder has been heard so many times.
    pub async fn is_heard(&self, times: usize) {
        for _ in 0..times {
            let heard_at = || {
                self.desk
                    .controller
                    .session(&id(0))
                    .map(|it| it.heartbeat_at)
            };
            let before = heard_at();
            until_true("a heartbeat", SOON, || heard_at() > before).await;
        }
    }

    /// Ends them.
    pub async fn leave(self) {
        self.desk.close().await;
    }

    /// Whether every one is known to the controller and is so.
    fn all(&self, wanted: impl Fn(&Session) -> bool) -> bool {
        let sessions = self.sessions();
        sessions.len() == self.containers.len() && sessions.iter().all(wanted)
    }

    fn sessions(&self) -> Vec<Session> {
        let ids = (0..self.containers.len()).map(id);
        ids.filter_map(|id| self.desk.controller.session(&id))
            .collect()
    }
}

/// Docker, with a note of when each death was reported and each start asked for.
struct Noting {
    docker: DockerRuntime,
    deaths: Arc<Mutex<Vec<(ContainerId, Instant)>>>,
    starts: Mutex<Vec<(ContainerId, Instant)>>,
}

#[async_trait]
impl Runtime for Noting {
    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        self.docker.list().await
    }
    async fn inspect(&self, id: &ContainerId) -> Result<Option<Container>, RuntimeError> {
        self.docker.inspect(id).await
    }
    async fn start(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let start = (id.clone(), Instant::now());
        self.starts.lock().unwrap().push(start);
        self.docker.start(id).await
    }
    async fn blueprint(&self, id: &ContainerId) -> Result<Blueprint, RuntimeError> {
        self.docker.blueprint(id).await
    }
    async fn start_backup(&self, spec: BackupSpec) -> Result<Container, RuntimeError> {
        self.docker.start_backup(spec).await
    }
    async fn stop(&self, id: &ContainerId, how: Stop) -> Result<(), RuntimeError> {
        self.docker.stop(id, how).await
    }
    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.docker.remove(id).await
    }
    async fn restart_on_failure(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.docker.restart_on_failure(id).await
    }
    async fn ask(&self, id: &ContainerId, patience: Duration) -> Result<Reply, RuntimeError> {
        self.docker.ask(id, patience).await
    }
    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        let deaths = Arc::clone(&self.deaths);
        let events = self.docker.events().inspect(move |event| {
            if let RuntimeEvent::Happened(it) = event
                && matches!(it.kind, HappeningKind::Died(_))
            {
                let death = (it.container.clone(), Instant::now());
                deaths.lock().unwrap().push(death);
            }
        });
        events.boxed()
    }
    async fn probe(&self) -> Result<RuntimeInfo, RuntimeError> {
        self.docker.probe().await
    }
}

/// How often a pass is measured.
const ROUNDS: usize = 9;

/// What it costs to watch over sessions: medians of [`ROUNDS`].
#[derive(Clone, Copy, Debug)]
pub struct Watching {
    /// The watcher's pass when no session's time has come.
    pub none_due: Duration,
    /// Its pass when every session's time has come and each is found to be well.
    pub all_due: Duration,
    /// One heartbeat.
    pub heartbeat: Duration,
}

impl Watching {
    /// Registers so many sessions, lets them beat, and measures.
    ///
    /// # Panics
    /// When a recorder that is well is blamed.
    pub async fn over(sessions: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (desk, clock) = Desk::by_hand(folder.path());
        let controller = &desk.controller;
        let registrations = (0..sessions).map(|n| controller.register(registration(n)));
        for answer in futures_util::future::join_all(registrations).await {
            answer.unwrap();
        }
        let beats = sessions.max(10_000);
        let beat = |chunk: usize| {
            let begin = Instant::now();
            for n in (0..sessions).cycle().take(beats) {
                let heard = Heartbeat {
                    last_chunk: Some(format!("{chunk:04}.mp4")),
                    ..Heartbeat::default()
                };
                controller.heartbeat(&id(n), heard).unwrap();
            }
            begin.elapsed()
        };
        let pass = || {
            let begin = Instant::now();
            controller.pass();
            begin.elapsed()
        };
        // With default settings a recorder is missed after 30 s: what came due by the beats of the round before is found
        // well by this round's.
        const STEP: Duration = Duration::from_secs(10);
        beat(0);
        clock.advance(STEP);
        let (mut all_due, mut none_due, mut beating) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in 1..=ROUNDS {
            clock.advance(STEP);
            beating.push(beat(chunk));
            clock.advance(STEP);
            all_due.push(pass());
            none_due.push(pass());
        }
        let untouched = |n| controller.session(&id(n)).unwrap().failovers.is_empty();
        assert!((0..sessions).all(untouched), "a healthy one was replaced");
        Self {
            none_due: median(&none_due),
            all_due: median(&all_due),
            heartbeat: median(&beating) / beats as u32,
        }
    }
}

/// What a client says that is about to record for session `number`.
pub fn registration(number: usize) -> Registration {
    Registration {
        session_id: Some(id(number).to_string()),
        client_id: Some("client".into()),
        ..Registration::default()
    }
}

/// The id of session `number`.
pub fn id(number: usize) -> RecordingId {
    RecordingId::parse(format!("ses_{number}")).unwrap()
}
