//! What the service manager hears: ready, stopping, and a sign of life. Where no manager listens, nothing is said. The sign
//! of life is given only after the work itself answered, so that a hung controller is restarted.

use crate::tasks::Tasks;
use sd_notify::NotifyState;
use std::future::Future;

/// The service does its work now.
pub(super) fn ready(status: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The service was told to end.
pub(super) fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Gives a sign of life as often as the manager wants, each time after `alive` has answered.
pub(super) fn keep_alive<F>(tasks: &Tasks, alive: impl Fn() -> F + Send + 'static)
where
    F: Future<Output = ()> + Send,
{
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let token = tasks.token();
    tasks.spawn("watchdog", async move {
        let mut beat = tokio::time::interval(limit / 3);
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                () = token.cancelled() => return,
            }
            alive().await;
            say(&[NotifyState::Watchdog]);
        }
    });
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(cause) = sd_notify::notify(states) {
        log::warn!("cannot tell the service manager: {cause}");
    }
}
