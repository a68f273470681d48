//! The only spawner. A task has a name and an owner; when the owner says so, every task hears it by its token, and those
//! that do not end before the deadline are named and dropped.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A group of tasks that end together.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    token: CancellationToken,
    tracker: TaskTracker,
    running: Arc<Mutex<BTreeMap<u64, String>>>,
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the group is told to end. Long tasks wait on it beside their work.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Starts `work` under `name`. It is expected to end by itself once the token is cancelled.
    pub fn spawn<F>(&self, name: impl Into<String>, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let entry = self.enter(name.into());
        self.tracker.spawn(async move {
            let _entry = entry;
            work.await
        })
    }

    /// Starts blocking `work` (disk, database, hashing) under `name` on a thread made for such work.
    pub fn spawn_blocking<F, T>(&self, name: impl Into<String>, work: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let entry = self.enter(name.into());
        self.tracker.spawn_blocking(move || {
            let _entry = entry;
            work()
        })
    }

    /// Tells every task to end and waits for them until `deadline` has passed.
    ///
    /// Returns the names of the tasks that were still running then.
    pub async fn end(&self, deadline: Duration) -> Vec<String> {
        self.token.cancel();
        self.tracker.close();
        match tokio::time::timeout(deadline, self.tracker.wait()).await {
            Ok(()) => Vec::new(),
            Err(_) => lock(&self.running).values().cloned().collect(),
        }
    }

    /// The names of those that have not ended.
    #[cfg(test)]
    pub(crate) fn names(&self) -> Vec<String> {
        lock(&self.running).values().cloned().collect()
    }

    fn enter(&self, name: String) -> Entry {
        let mut running = lock(&self.running);
        let number = running
            .last_key_value()
            .map_or(0, |(number, _)| number.wrapping_add(1));
        running.insert(number, name);
        Entry {
            number,
            running: Arc::clone(&self.running),
        }
    }
}

/// Does blocking `work` (disk, database) here and now; where the runtime has other threads, other tasks go on there.
pub fn block<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// A timer that comes so much too late says that this process did not run meanwhile: it was stopped, or the machine slept.
pub const OVERSLEPT: Duration = Duration::from_millis(500);

/// Waits for `work`, at most `patience` of a time in which this process runs: what was done meanwhile is to be heard first.
pub async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        let deadline = Instant::now() + patience;
        match tokio::time::timeout_at(deadline, &mut work).await {
            Ok(done) => return Some(done),
            Err(_) if deadline.elapsed() >= OVERSLEPT => {}
            Err(_) => return None,
        }
    }
}

/// What blocking `work` gives that nobody owns: it may hang on a disk for good, with its thread; `None` where it has not ended
/// after `patience`, or ended badly.
pub async fn answered_within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    within(patience, tokio::task::spawn_blocking(work))
        .await?
        .ok()
}

/// Keeps a task's name listed while the task lives.
struct Entry {
    number: u64,
    running: Arc<Mutex<BTreeMap<u64, String>>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_that_hear_the_token_end_and_deaf_ones_are_named() {
        let tasks = Tasks::new();
        let token = tasks.token();
        tasks.spawn("listens", async move { token.cancelled().await });
        tasks.spawn("deaf", std::future::pending::<()>());
        assert_eq!(tasks.end(Duration::from_millis(50)).await, ["deaf"]);
    }
}
