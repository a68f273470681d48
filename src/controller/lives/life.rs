//! A controller over such a world, from its start to its end, which is that of a killed process.

use super::DISK;
use super::world::Docker;
use crate::clock::{Clock, ManualClock};
use crate::config::{Settings, Variables};
use crate::controller::{Controller, Parts};
use crate::db::Db;
use crate::db::outbox::{Bounds, Outbox};
use crate::store;
use crate::tasks::Tasks;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A controller while it lives. Its end is that of a killed process: what its tasks had not done stays undone.
pub(super) struct Life {
    pub(super) controller: Controller,
    pub(super) tasks: Tasks,
    pub(super) runtime: tokio::runtime::Runtime,
}

impl Life {
    pub(super) fn begin(
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
    pub(super) fn settle(&self) {
        self.runtime.block_on(async {
            // A thread that a disk holds is waited for by whoever wants to.
            let ends = |name: &String| name != "try the disk";
            while self.tasks.names().iter().any(ends) {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Lets its tasks take so many steps and no more.
    pub(super) fn a_few_steps(&self, steps: u8) {
        self.runtime.block_on(async {
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
        });
    }
}
