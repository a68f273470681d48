//! Containers of quick start: each shows the page of a session and waits for orders; a recording that is made in one is a session
//! like any other, of which the container may hold several in turn. While it waits nothing is recorded and nothing can be lost but
//! the page itself: when its first process ends by anything but OpenVidu's removal, it is started again.

use super::watch::holder;
use super::{Controller, lock};
use crate::model::ask::{ASKED, Doing, Reply};
use crate::model::ids::{ContainerId, RecordingId};
use crate::model::session::{Holder, Session, State};
use crate::runtime::{Container, ContainerStatus, Stop};
use crate::tasks;
use futures_util::{StreamExt, stream};
use log::{info, warn};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long after a death it is looked whether the container is still there: OpenVidu removes one a moment after it has ended it,
/// and a runtime starts one again by itself.
const SETTLED: Duration = Duration::from_secs(1);
/// How long ago a container may have ended that is started again when the controller comes back.
const LATELY: Duration = Duration::from_secs(600);
/// How long it is waited where it has ended often.
const LONG: Duration = Duration::from_secs(60);
/// So many pages that wait are asked together.
const ABREAST: usize = 8;

impl Controller {
    /// A container of quick start is there: the runtime starts it again when it fails, also while no controller runs.
    pub(super) async fn keep_up(&self, container: &Container) {
        if !container.page || container.status != ContainerStatus::Running {
            return;
        }
        if let Err(cause) = self.0.runtime.restart_on_failure(&container.id).await {
            warn!(container:% = container.id; "the runtime will not restart this container by itself: {cause}");
        }
    }

    /// The first process of a container ended. Whatever it ended with: OpenVidu removes those that it ends.
    pub(super) fn revive(&self, id: &ContainerId) {
        if !lock(&self.0.observations).shows_a_page(id) {
            return;
        }
        // It is tried for as long as the container is there.
        let earlier = self.count_restart(id);
        let delay = earlier.map_or(LONG, |earlier| SETTLED + self.0.policy.delay(earlier));
        let (controller, id) = (self.clone(), id.clone());
        let ended = self.0.tasks.token();
        self.0.tasks.spawn(format!("revive {id}"), async move {
            let waited = tokio::time::sleep(delay);
            if ended.run_until_cancelled(waited).await.is_some() {
                controller.start_if_ended(&id).await;
            }
        });
    }

    async fn start_if_ended(&self, id: &ContainerId) {
        let runtime = &self.0.runtime;
        let started = match runtime.inspect(id).await {
            Ok(Some(found)) if matches!(found.status, ContainerStatus::Exited(_)) => {
                info!(container:% = id; "a container that waits for orders has ended and is started again");
                runtime.start(id).await
            }
            // It was removed, or runs again.
            Ok(_) => Ok(()),
            Err(cause) => Err(cause),
        };
        if let Err(cause) = started {
            warn!(container:% = id; "{cause}");
        }
    }

    /// What ended while no controller looked.
    pub(super) fn revive_all(&self, containers: &[Container]) {
        let now = self.0.clock.now();
        let ended = containers.iter().filter(|it| {
            let lately = it.ended_at.is_some_and(|at| now.since(at) < LATELY);
            it.page && lately && matches!(it.status, ContainerStatus::Exited(_))
        });
        for container in ended {
            self.revive(&container.id);
        }
    }

    /// Keeps what a backup of one recording would need, where its container makes several.
    pub(super) async fn remember_order(&self, id: &RecordingId, container: &Container) {
        let mut blueprint = match self.0.runtime.blueprint(&container.id).await {
            Ok(blueprint) => blueprint,
            Err(cause) => return warn!(container:% = container.id; "{cause}"),
        };
        self.order_again(id, &mut blueprint.environment.0);
        tasks::block(|| self.0.blueprints.keep(id, blueprint));
    }

    /// Turns the environment of an open page into the one that orders a recording of it.
    fn order_again(&self, id: &RecordingId, environment: &mut BTreeMap<String, String>) {
        let particulars = self.particulars(id);
        let settings = particulars.environment.unwrap_or_default();
        let settings: Value = serde_json::from_str(&settings).unwrap_or_default();
        let said = ["RESOLUTION", "FRAMERATE", "ONLY_VIDEO"].map(|name| {
            let value = &settings[name];
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            (name, (!value.is_null()).then_some(text))
        });
        let name = self.session(id).and_then(|it| it.video_name);
        let fixed = [
            ("CONTAINER_WORKING_MODE", Some("COMPOSED".to_owned())),
            ("VIDEO_ID", Some(id.to_string())),
            ("VIDEO_NAME", Some(name.unwrap_or_else(|| id.to_string()))),
            ("VIDEO_FORMAT", Some("mp4".to_owned())),
            ("RECORDING_JSON", particulars.recording_json),
        ];
        for (name, value) in fixed.into_iter().chain(said) {
            if let Some(value) = value {
                environment.insert(name.to_owned(), value);
            }
        }
    }

    /// What the container that is held to make a recording, and runs, makes of it by its own word. One that cannot be asked is held
    /// to hang once any recorder would be held lost, but for where another recording may be made in it.
    pub(super) async fn makes(&self, session: &Session, container: &ContainerId) -> Makes {
        match self.ask(container, ASKED).await {
            Ok(Reply::Answer(Doing::Waiting, _)) => Makes::Waits,
            Ok(Reply::Answer(_, Some(named))) if named == session.id => Makes::It,
            Ok(Reply::Answer(_, Some(_))) => Makes::Another,
            Ok(Reply::Nothing) => Makes::Nothing,
            Ok(Reply::Answer(_, None) | Reply::Unknown(_)) | Err(_) => {
                match self.is_to_be_waited_for(session, container) {
                    true => Makes::Unknown,
                    false => Makes::Nothing,
                }
            }
        }
    }

    fn is_to_be_waited_for(&self, session: &Session, container: &ContainerId) -> bool {
        let lost_at = match session.state {
            State::TakingOver { since, .. } | State::Stopping { since, .. } => since,
            _ => return true,
        };
        let lost_for = self.0.clock.now().since(lost_at);
        let current = self.table().of_container(container).cloned();
        lost_for < self.0.policy.heartbeat_timeout || current.as_ref() != Some(&session.id)
    }

    /// Looks whether the pages that wait would hear an order: one that is frozen, or whose first process hangs, and did some
    /// seconds ago, is started again. Nothing is recorded in it. Whoever checks does not wait for those that hang.
    pub(super) fn look_after_pages(&self) {
        // Those that were asked before may not have answered yet.
        let Ok(turn) = Arc::clone(&self.0.pages).try_acquire_owned() else {
            return;
        };
        let controller = self.clone();
        self.0
            .tasks
            .spawn("look after pages that wait", async move {
                let pages = stream::iter(controller.idle_pages());
                let looked =
                    pages.for_each_concurrent(ABREAST, |page| controller.look_after_page(page));
                looked.await;
                drop(turn);
            });
    }

    async fn look_after_page(&self, page: Container) {
        // It may have been long until its turn.
        let Ok(Some(found)) = self.0.runtime.inspect(&page.id).await else {
            return;
        };
        let hangs = match found.status {
            ContainerStatus::Paused => true,
            ContainerStatus::Running => {
                matches!(self.ask(&page.id, ASKED).await, Ok(Reply::Nothing))
            }
            _ => false,
        };
        // An order may have come meanwhile.
        let hangs = hangs && self.is_idle(&page.id);
        let now = self.0.clock.now();
        if !lock(&self.0.observations).hangs_again(&page.id, hangs, now) {
            return;
        }
        warn!(container:% = page.id; "a container that waits for orders hears none and is started again");
        let runtime = &self.0.runtime;
        let again = match runtime.stop(&page.id, Stop::Fence).await {
            Ok(()) => runtime.start(&page.id).await,
            Err(cause) => Err(cause),
        };
        if let Err(cause) = again {
            warn!(container:% = page.id; "{cause}");
        }
    }

    fn idle_pages(&self) -> Vec<Container> {
        let pages = lock(&self.0.observations).all_pages().into_iter();
        pages.filter(|page| self.is_idle(&page.id)).collect()
    }

    /// Whether nothing is recorded in a page's container.
    fn is_idle(&self, container: &ContainerId) -> bool {
        let table = self.table();
        let held = table.of_container(container).and_then(|id| table.get(id));
        held.is_none_or(|entry| entry.session.over() || entry.session.finished_at.is_some())
    }

    /// The containers that show a page and record nothing now.
    pub fn waiting(&self) -> Vec<Holder> {
        let idle = self.idle_pages().into_iter();
        let running = idle.filter(|it| it.status == ContainerStatus::Running);
        running.map(|it| holder(&it)).collect()
    }
}

/// What a container of quick start makes of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Makes {
    /// It records it.
    It,
    /// It records another one.
    Another,
    /// It waits for an order.
    Waits,
    /// Its first process hangs.
    Nothing,
    /// It cannot be asked.
    Unknown,
}
