//! Failover against real Docker, at a size that Chromium would not allow: fifty stand-ins for recorders, all killed at
//! once; and the watcher's pass over ten thousand sessions.

use crate::support::standin::StandIn;
use crate::support::wait::until_true;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use ov2_ha_recorder::clock::{Clock, ManualClock, SystemClock, Timestamp};
use ov2_ha_recorder::config::{Settings, Variables};
use ov2_ha_recorder::controller::{Controller, Parts, relay};
use ov2_ha_recorder::db::Db;
use ov2_ha_recorder::db::outbox::{Bounds, Outbox};
use ov2_ha_recorder::http::{self, App, Listener};
use ov2_ha_recorder::model::ids::{ContainerId, RecordingId, RunNumber};
use ov2_ha_recorder::model::session::Status;
use ov2_ha_recorder::model::wire::{Heartbeat, Registration};
use ov2_ha_recorder::runtime::docker::DockerRuntime;
use ov2_ha_recorder::runtime::process::ProcessRuntime;
use ov2_ha_recorder::runtime::{
    BackupSpec, Blueprint, Container, HappeningKind, Runtime, RuntimeError, RuntimeEvent,
    RuntimeInfo, Stop,
};
use ov2_ha_recorder::store;
use ov2_ha_recorder::tasks::Tasks;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Docker, with a note of when each death was reported and each start asked for.
struct Noting {
    docker: DockerRuntime,
    deaths: Arc<Mutex<Vec<(ContainerId, Instant)>>>,
    starts: Mutex<Vec<(ContainerId, Instant)>>,
}

impl Noting {
    fn over(docker: DockerRuntime) -> Arc<Self> {
        Arc::new(Self {
            docker,
            deaths: Arc::default(),
            starts: Mutex::default(),
        })
    }

    /// From each death to the start that followed it.
    fn delays(&self) -> Vec<Duration> {
        let starts = self.starts.lock().unwrap();
        let deaths = self.deaths.lock().unwrap();
        let mut delays: Vec<Duration> = starts
            .iter()
            .filter_map(|(id, at)| {
                let (_, died) = deaths
                    .iter()
                    .rev()
                    .find(|(it, died)| it == id && died <= at)?;
                Some(*at - *died)
            })
            .collect();
        delays.sort();
        delays
    }
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
        self.starts
            .lock()
            .unwrap()
            .push((id.clone(), Instant::now()));
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

/// A controller within the test.
struct Desk {
    controller: Controller,
    settings: Arc<Settings>,
    outbox: Outbox,
    db: Db,
    due: Option<tokio::sync::mpsc::UnboundedReceiver<ov2_ha_recorder::db::outbox::Due>>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
}

impl Desk {
    fn open(folder: &Path, runtime: Arc<dyn Runtime>, clock: Arc<dyn Clock>) -> Self {
        let settings = Variables::of([
            ("HA_CONTROLLER_USERNAME", "recorder"),
            ("HA_CONTROLLER_PASSWORD", "a password of this test"),
            ("HEARTBEAT_INTERVAL", "10"),
            ("OPENVIDU_RECORDING_PATH", folder.to_str().unwrap()),
        ]);
        let settings = Arc::new(settings.settings().unwrap());
        let tasks = Tasks::new();
        let db = Db::open(&folder.join("data")).unwrap();
        let bounds = Bounds {
            bytes: 1 << 20,
            age: Duration::from_secs(60),
        };
        let targets = relay::targets(&settings);
        let (outbox, due) = Outbox::open(&db, targets, bounds, clock.now()).unwrap();
        let controller = Controller::open(Parts {
            settings: Arc::clone(&settings),
            db: db.clone(),
            runtime,
            store: store::open(&settings, folder).unwrap(),
            outbox: outbox.clone(),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
        })
        .unwrap();
        Self {
            controller,
            settings,
            outbox,
            db,
            due: Some(due),
            clock,
            tasks,
        }
    }

    /// Serves over HTTP; the port.
    async fn serve(&mut self) -> u16 {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), None)
            .await
            .unwrap();
        let port = listener.address().unwrap().port();
        let due = self.due.take().unwrap();
        let relay = relay::start(
            &self.settings,
            &self.outbox,
            due,
            &self.controller,
            &self.clock,
            &self.tasks,
        );
        let app = App {
            settings: Arc::clone(&self.settings),
            controller: self.controller.clone(),
            outbox: self.outbox.clone(),
            relay: relay.await.unwrap(),
            store: store::open(&self.settings, &self.settings.recording_path).unwrap(),
            clock: Arc::clone(&self.clock),
            tasks: self.tasks.clone(),
        };
        self.tasks.spawn("http", http::serve(listener, app));
        port
    }
}

fn id(number: usize) -> RecordingId {
    RecordingId::parse(format!("ses_{number}")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_recorders_killed_at_once_are_each_started_again_once() {
    const MANY: usize = 50;
    let folder = tempfile::tempdir().unwrap();
    let image = StandIn::image(folder.path()).unwrap();
    let docker = DockerRuntime::connect(&image.name, StandIn::TAG)
        .await
        .unwrap();
    let runtime = Noting::over(docker);
    let mut desk = Desk::open(folder.path(), runtime.clone(), Arc::new(SystemClock));
    let port = desk.serve().await;
    desk.controller.start();
    let account = STANDARD.encode("recorder:a password of this test");
    let more = [
        ("PORT", port.to_string()),
        ("AUTHORIZATION", account),
        ("BEAT", "2".into()),
    ];
    let containers: Vec<_> = (0..MANY)
        .map(|n| image.run(id(n).as_str(), &more))
        .collect();
    let all_in = |status: Status, run: u32| {
        let controller = desk.controller.clone();
        move || {
            (0..MANY).all(|n| {
                let session = controller.session(&id(n));
                session.is_some_and(|it| it.state.status() == status && it.run == RunNumber(run))
            })
        }
    };
    until_true(
        "all record",
        Duration::from_secs(60),
        all_in(Status::Recording, 1),
    )
    .await;

    let begin = Instant::now();
    let ids: Vec<&str> = containers.iter().map(|it| it.0.as_str()).collect();
    let args: Vec<&str> = ["kill"].into_iter().chain(ids).collect();
    crate::support::docker::docker(&args).unwrap();
    let recovered = || {
        (0..MANY).all(|n| {
            let session = desk.controller.session(&id(n));
            session.is_some_and(|it| {
                it.failovers
                    .first()
                    .is_some_and(|f| f.recovery_ms.is_some())
            })
        })
    };
    until_true("all record again", Duration::from_secs(60), recovered).await;
    let took = begin.elapsed();
    for (n, container) in containers.iter().enumerate() {
        let session = desk.controller.session(&id(n)).unwrap();
        assert_eq!(session.failovers.len(), 1, "{:?}", session.failovers);
        assert_eq!(session.run, RunNumber(2));
        assert_eq!(session.container.unwrap().id.as_str(), container.0);
    }
    let delays = runtime.delays();
    assert_eq!(delays.len(), MANY, "each is started once");
    let worst = delays[MANY * 99 / 100 - 1];
    println!(
        "50 recorders killed at once: all record again after {took:.2?}; from event to start: median {:.2?}, p99 {worst:.2?}",
        delays[MANY / 2]
    );
    assert!(took <= Duration::from_secs(15), "it took {took:?}");
    assert!(
        worst <= Duration::from_millis(50),
        "event to start took {worst:?}"
    );
    desk.tasks.end(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_over_ten_thousand_sessions_takes_milliseconds() {
    const MANY: usize = 10_000;
    let folder = tempfile::tempdir().unwrap();
    let processes = ProcessRuntime::open(&folder.path().join("p"), Path::new("/bin/true")).unwrap();
    let clock = ManualClock::at(Timestamp::from_millis(1_795_577_569_000));
    let desk = Desk::open(folder.path(), Arc::new(processes), Arc::new(clock.clone()));
    let controller = &desk.controller;
    let registrations = (0..MANY).map(|n| {
        controller.register(Registration {
            session_id: Some(id(n).to_string()),
            client_id: Some("client".into()),
            ..Registration::default()
        })
    });
    for answer in futures_util::future::join_all(registrations).await {
        answer.unwrap();
    }
    let beat = |chunk: &str| {
        for n in 0..MANY {
            let heard = Heartbeat {
                last_chunk: Some(chunk.into()),
                ..Heartbeat::default()
            };
            controller.heartbeat(&id(n), heard).unwrap();
        }
    };
    beat("0001.mp4");
    clock.advance(Duration::from_secs(20));
    let begin = Instant::now();
    beat("0002.mp4");
    let beating = begin.elapsed();
    // Every entry of the first beats has come due, and each is found to be well.
    clock.advance(Duration::from_secs(15));
    let begin = Instant::now();
    controller.pass();
    let all_due = begin.elapsed();
    let begin = Instant::now();
    controller.pass();
    let none_due = begin.elapsed();
    assert_eq!(controller.counts().active, MANY);
    assert!((0..MANY).all(|n| controller.session(&id(n)).unwrap().failovers.is_empty()));
    println!(
        "10,000 sessions: pass with none due {none_due:.2?}, with all due {all_due:.2?}; a heartbeat {:.2?}",
        beating / MANY as u32
    );
    // An unoptimized build on a busy machine is slower than what is shipped, by far.
    let slack = if cfg!(debug_assertions) { 40 } else { 1 };
    assert!(none_due <= Duration::from_millis(5) * slack, "{none_due:?}");
    assert!(all_due <= Duration::from_millis(5) * slack, "{all_due:?}");
    drop(desk.db);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_clock_was_set_back_nobody_is_blamed_and_the_silent_are_still_missed_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let processes = ProcessRuntime::open(&folder.path().join("p"), Path::new("/bin/true")).unwrap();
    let clock = ManualClock::at(Timestamp::from_millis(1_795_577_569_000));
    let desk = Desk::open(folder.path(), Arc::new(processes), Arc::new(clock.clone()));
    let controller = &desk.controller;
    let registration = Registration {
        session_id: Some(id(0).to_string()),
        client_id: Some("client".into()),
        ..Registration::default()
    };
    controller.register(registration).await.unwrap();
    let heard = Heartbeat {
        last_chunk: Some("0001.mp4".into()),
        ..Heartbeat::default()
    };
    controller.heartbeat(&id(0), heard).unwrap();
    controller.start();
    // The watcher looks at the clock whenever something changes.
    let seconds_pass = async |seconds: u32| {
        for _ in 0..seconds {
            clock.advance(Duration::from_secs(1));
            let changed = id(0);
            let status = controller.set_status(&changed, Status::Recording);
            status.await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        controller.session(&id(0)).unwrap().failovers.is_empty()
    };
    assert!(seconds_pass(1).await);
    clock.set_back(Duration::from_secs(3_600));
    assert!(seconds_pass(28).await, "its time is not over");
    assert!(!seconds_pass(5).await, "it has been silent for 33 s since");
    desk.tasks.end(Duration::from_secs(5)).await;
}
