//! Docker's events: a stream that comes back by itself when the daemon does.

use super::{DockerRuntime, unreachable};
use crate::backoff::Backoff;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::model::ids::ContainerId;
use crate::runtime::{Happening, HappeningKind, RuntimeError, RuntimeEvent, made_by_us};
use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::stream::{BoxStream, StreamExt};
use log::{error, info, warn};
use std::collections::HashMap;
use std::time::Duration;

type DockersEvents = BoxStream<'static, Result<EventMessage, Error>>;

impl DockerRuntime {
    fn happening(&self, message: EventMessage) -> Option<Happening> {
        let actor = message.actor?;
        let attributes = actor.attributes.unwrap_or_default();
        let image = attributes.get("image").map_or("", String::as_str);
        if !self.ours(image) && !made_by_us(|name| attributes.get(name)) {
            return None;
        }
        let action = message.action?;
        let code = attributes.get("exitCode").and_then(|it| it.parse().ok());
        let kind = match action.as_str() {
            "start" => HappeningKind::Started,
            "die" => HappeningKind::Died(code.unwrap_or(-1)),
            "oom" => HappeningKind::OutOfMemory,
            "destroy" => HappeningKind::Removed,
            "pause" => HappeningKind::Paused,
            "unpause" => HappeningKind::Unpaused,
            other => HappeningKind::Health(other.strip_prefix("health_status: ")?.to_owned()),
        };
        let nanos = message.time_nano.unwrap_or_default();
        Some(Happening {
            container: ContainerId::parse(actor.id?).ok()?,
            at: Timestamp::from_millis(nanos / 1_000_000),
            kind,
        })
    }

    /// Docker's events from now on. They are asked for before it is known to answer, so that whatever happens before the
    /// stream stands is in it.
    async fn follow(&self) -> Result<DockersEvents, RuntimeError> {
        let docker = self.docker().await?;
        let filters = HashMap::from([
            ("type", vec!["container"]),
            (
                "event",
                vec![
                    "start",
                    "die",
                    "oom",
                    "destroy",
                    "pause",
                    "unpause",
                    "health_status",
                ],
            ),
        ]);
        let now = SystemClock.now().millis();
        let options = EventsOptionsBuilder::default()
            .since(&format!("{}.{:03}", now / 1_000, now % 1_000))
            .filters(&filters)
            .build();
        let events = docker.events(Some(options)).boxed();
        let answered = docker.ping().await;
        answered.map_err(|cause| unreachable(&self.host, &cause))?;
        Ok(events)
    }
}

/// The stream of events, with what it takes to come back.
pub(super) struct Following {
    runtime: DockerRuntime,
    stream: Option<DockersEvents>,
    backoff: Backoff,
    /// It was said that Docker is not there.
    away: bool,
}

impl Following {
    pub(super) fn new(runtime: DockerRuntime) -> Self {
        Self {
            runtime,
            stream: None,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(2)),
            away: false,
        }
    }

    pub(super) async fn next(&mut self) -> RuntimeEvent {
        loop {
            let Some(stream) = &mut self.stream else {
                self.connect().await;
                return RuntimeEvent::Connected;
            };
            match stream.next().await {
                Some(Ok(message)) => {
                    self.backoff.reset();
                    if let Some(happening) = self.runtime.happening(message) {
                        return RuntimeEvent::Happened(happening);
                    }
                }
                Some(Err(cause)) => {
                    warn!("Docker's events were interrupted: {cause}");
                    self.stream = None;
                }
                None => {
                    warn!("Docker's events ended; they are followed again");
                    self.stream = None;
                }
            }
        }
    }

    /// Waits until Docker answers; says once that it does not, and that it does again.
    async fn connect(&mut self) {
        loop {
            if self.backoff.attempt() > 0 {
                tokio::time::sleep(self.backoff.next_delay()).await;
            } else {
                // The first attempt waits for nothing, and is counted.
                self.backoff.next_delay();
            }
            match self.runtime.follow().await {
                Ok(stream) => {
                    if std::mem::take(&mut self.away) {
                        info!("Docker answers: its containers are watched");
                    }
                    self.stream = Some(stream);
                    return;
                }
                Err(cause) if !std::mem::replace(&mut self.away, true) => {
                    error!(
                        "no container is watched, and no lost recorder is replaced until Docker answers: {cause}"
                    );
                }
                Err(_) => {}
            }
        }
    }
}
