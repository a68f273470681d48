//! A controller within the test, over whatever runtime and clock it is given.

use ov2_ha_recorder::clock::{Clock, ManualClock, Timestamp};
use ov2_ha_recorder::config::{Settings, Variables};
use ov2_ha_recorder::controller::{Controller, Parts, relay};
use ov2_ha_recorder::db::Db;
use ov2_ha_recorder::db::outbox::{Bounds, Due, Outbox};
use ov2_ha_recorder::http::{self, App, Listener};
use ov2_ha_recorder::runtime::Runtime;
use ov2_ha_recorder::runtime::process::ProcessRuntime;
use ov2_ha_recorder::store;
use ov2_ha_recorder::tasks::Tasks;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// The password of the user `recorder`.
pub const PASSWORD: &str = "a password of this test";

/// The controller with what it is made of.
pub struct Desk {
    /// It.
    pub controller: Controller,
    /// Its tasks; they end with [`Desk::close`].
    pub tasks: Tasks,
    settings: Arc<Settings>,
    outbox: Outbox,
    due: Option<UnboundedReceiver<Due>>,
    clock: Arc<dyn Clock>,
}

impl Desk {
    /// Opens one with its data below `folder`.
    pub fn open(
        folder: &Path,
        runtime: Arc<dyn Runtime>,
        clock: Arc<dyn Clock>,
        more: &[(&str, &str)],
    ) -> Self {
        let desk = Self::begin(folder, runtime, clock, more);
        desk.controller.load().unwrap();
        desk
    }

    /// One that has not read its sessions yet.
    pub fn begin(
        folder: &Path,
        runtime: Arc<dyn Runtime>,
        clock: Arc<dyn Clock>,
        more: &[(&str, &str)],
    ) -> Self {
        let own = [
            ("HA_CONTROLLER_USERNAME", "recorder"),
            ("HA_CONTROLLER_PASSWORD", PASSWORD),
            ("OPENVIDU_RECORDING_PATH", folder.to_str().unwrap()),
        ];
        let settings = Variables::of([&own, more].concat()).settings().unwrap();
        let settings = Arc::new(settings);
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
            db,
            runtime,
            store: store::open(&settings, folder).unwrap(),
            outbox: outbox.clone(),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
        })
        .unwrap();
        Self {
            controller,
            tasks,
            settings,
            outbox,
            due: Some(due),
            clock,
        }
    }

    /// One over no recorders at all, with a clock that stands until it is moved.
    pub fn by_hand(folder: &Path) -> (Self, ManualClock) {
        let (desk, clock) = Self::begin_by_hand(folder);
        desk.controller.load().unwrap();
        (desk, clock)
    }

    /// The same before it has read its sessions.
    pub fn begin_by_hand(folder: &Path) -> (Self, ManualClock) {
        let program = Path::new("/bin/true");
        let processes = ProcessRuntime::open(&folder.join("processes"), program).unwrap();
        let clock = ManualClock::at(Timestamp::from_millis(1_795_577_569_000));
        let desk = Self::begin(folder, Arc::new(processes), Arc::new(clock.clone()), &[]);
        (desk, clock)
    }

    /// Serves over HTTP; the port.
    pub async fn serve(&mut self) -> u16 {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), None)
            .await
            .unwrap();
        let port = listener.address().unwrap().port();
        let relay = relay::start(
            &self.settings,
            &self.outbox,
            self.due.take().unwrap(),
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

    /// Ends its tasks.
    pub async fn close(self) {
        self.tasks.end(Duration::from_secs(5)).await;
    }
}

impl Drop for Desk {
    /// A test that fails must not leave a controller that starts what the test removes.
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}
