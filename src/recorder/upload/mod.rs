//! Chunks leave the recorder here: the uploader follows the run's log, a closed chunk becomes a stored object, and the local
//! file goes away once the video has it, too. Never touches capture: a slow or dead store costs no frame, it only lets files
//! wait. What waits is tried again for hours, each chunk at times of its own, so that one that cannot be stored holds up no
//! other. Beside them the end of the chunk being written is stored every few seconds under the chunk's own key, so that
//! losing the whole machine loses seconds. Where the store keeps files on this machine there is nothing to send, and
//! chunks are only counted.

mod queue;
mod worker;

use crate::chunklog::Heads;
use crate::clock::Clock;
use crate::join::Origin;
use crate::model::chunk::{ChunkKey, TakeKey};
use crate::model::ids::RunNumber;
use crate::model::manifest::Manifest;
use crate::model::timeline::Timeline;
use crate::store::{ChunkStore, StoreError};
use crate::tasks::Tasks;
use log::warn;
use queue::{Job, Queue, backoff};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use worker::Worker;

/// Stores the chunks of one take. Clones are the same uploader.
#[derive(Clone)]
pub struct Uploader {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn ChunkStore>,
    take: TakeKey,
    clock: Arc<dyn Clock>,
    queue: Mutex<Queue>,
    /// Something was added, or was stored.
    changed: Notify,
    settled: Notify,
}

impl Uploader {
    /// An uploader for the chunks of `take`, at work until `tasks` end.
    pub fn new(
        store: Arc<dyn ChunkStore>,
        take: TakeKey,
        tasks: &Tasks,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let keeps_files = store.path(&take.manifest()).is_some();
        let shared = Arc::new(Shared {
            store,
            take,
            clock,
            queue: Mutex::default(),
            changed: Notify::new(),
            settled: Notify::new(),
        });
        if !keeps_files {
            let worker = Worker::new(Arc::clone(&shared), tasks.token());
            tasks.spawn("chunk upload", worker.run());
        }
        Self { shared }
    }

    /// The same with at least `every` between two tails.
    pub fn with_tails(self, every: Duration) -> Self {
        self.shared.queue().tail_every = every;
        self
    }

    /// Says in the store that the take's video is finished, and from what it was made.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn seal(&self, timeline: &Timeline) -> Result<(), StoreError> {
        // A timeline always has a JSON form.
        let text = serde_json::to_vec_pretty(timeline).unwrap_or_default();
        let key = self.shared.take.finished();
        self.shared.store.put_bytes(&key, text.into()).await
    }

    /// Follows the log whose `heads` are heard, which lies below `recordings`: offers the end of the chunk being written, and
    /// takes over each that is closed. Ends with the log.
    pub async fn follow(self, mut heads: Heads, recordings: PathBuf) {
        let mut open: Option<Origin> = None;
        while heads.changed().await.is_ok() {
            let Some(head) = *heads.borrow_and_update() else {
                continue;
            };
            let first = open.map_or(head.origin.index, |open| open.index);
            for index in first..head.origin.index {
                let key = self.shared.take.chunk(head.origin.run, index);
                let path = recordings.join(key.to_string());
                self.take_over(Job::new(key, path, false));
            }
            open = Some(head.origin);
            let key = self.shared.take.chunk(head.origin.run, head.origin.index);
            let path = recordings.join(key.to_string());
            self.chunk_grew(key, path);
        }
    }

    /// A chunk that will not change any more is in the growing file. Its local file is deleted once the store has it.
    pub fn chunk_closed(&self, key: ChunkKey, path: PathBuf) {
        self.take_over(Job::new(key, path, true));
    }

    fn take_over(&self, job: Job) {
        let mut queue = self.shared.queue();
        if self.shared.keeps_files() {
            queue.stored += u32::from(job.in_video);
            return;
        }
        let not_needed = queue.take_over(job);
        drop(queue);
        if let Some(path) = not_needed {
            remove(&path);
        }
        self.shared.changed.notify_one();
    }

    /// Offers what the chunk being written holds by now; whole fragments only are worth offering.
    pub fn chunk_grew(&self, key: ChunkKey, path: PathBuf) {
        if self.shared.keeps_files() {
            return;
        }
        self.shared.queue().tail = Some(Job::new(key, path, false));
        self.shared.changed.notify_one();
    }

    /// Stores the take's manifest, so that the take can be finished anywhere; as often as it takes.
    pub async fn introduce(&self, manifest: &Manifest) {
        let (key, text) = (self.shared.take.manifest(), manifest.to_json());
        let put = || {
            let text = text.clone().into();
            self.shared.store.put_bytes(&key, text)
        };
        insist("the take has no manifest in the store yet", put).await;
    }

    /// Takes over what runs of the take earlier than `run` left below `recordings`: it waits from now on, and the future queues
    /// what of it the store does not have in full, once the store says what it has; it answers how many chunks these are.
    /// What `run` itself writes is left alone. The future is to be run when the growing file has caught up with them: files
    /// go away then.
    pub fn take_up(
        &self,
        recordings: &Path,
        run: RunNumber,
    ) -> impl Future<Output = usize> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        if !shared.keeps_files() {
            let mut queue = shared.queue();
            for job in left_behind(&shared.take, recordings, run) {
                let place = queue.next_place();
                queue.earlier.insert(place, job);
            }
        }
        async move { shared.sort_out_earlier().await }
    }

    /// Whether files are deleted once the store has them.
    pub fn takes_files_away(&self) -> bool {
        !self.shared.keeps_files()
    }

    /// The store to which chunks go that leave the disk.
    pub fn store_of_what_left(&self) -> Option<Arc<dyn ChunkStore>> {
        self.takes_files_away()
            .then(|| Arc::clone(&self.shared.store))
    }

    /// How many closed chunks the store has from this uploader.
    pub fn stored(&self) -> u32 {
        self.shared.queue().stored
    }

    /// How many closed chunks wait or are on their way.
    pub fn waiting(&self) -> usize {
        let queue = self.shared.queue();
        queue.earlier.len() + queue.closed.len() + queue.flying.len()
    }

    /// What keeps the store from taking chunks right now, as a sentence.
    pub fn trouble(&self) -> Option<String> {
        self.shared.queue().trouble.clone()
    }

    /// Waits until everything closed is stored, at most `deadline`, and names what is not.
    pub async fn drain(&self, deadline: Duration) -> Vec<ChunkKey> {
        let empty = async {
            loop {
                let settled = self.shared.settled.notified();
                if self.waiting() == 0 {
                    return;
                }
                settled.await;
            }
        };
        // Out of time is no error: what is left is named.
        let _ = tokio::time::timeout(deadline, empty).await;
        let queue = self.shared.queue();
        let left = queue
            .earlier
            .iter()
            .chain(&queue.flying)
            .chain(&queue.closed);
        let left: BTreeMap<_, _> = left.map(|(place, job)| (place, &job.key)).collect();
        left.into_values().cloned().collect()
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store keeps its files on this machine.
    fn keeps_files(&self) -> bool {
        self.store.path(&self.take.manifest()).is_some()
    }

    /// How many bytes the store has of each of `jobs`: by its list, or where it gives none, one by one.
    async fn sizes_in_store(&self, jobs: impl Iterator<Item = &Job>) -> BTreeMap<String, u64> {
        let take = self.take.to_string();
        let list = || async {
            match self.store.list(&take).await {
                Err(cause) if !cause.retryable() => {
                    warn!("{cause}; chunks of earlier runs are looked up one by one");
                    Ok(None)
                }
                listed => listed.map(Some),
            }
        };
        let listed = insist("chunks of earlier runs are not stored yet", list).await;
        if let Some(listed) = listed {
            return listed.into_iter().map(|o| (o.key, o.bytes)).collect();
        }
        let mut sizes = BTreeMap::new();
        for key in jobs.map(|job| job.key.to_string()) {
            // What cannot be read is stored anew.
            if let Ok(body) = self.store.read(&key).await {
                sizes.insert(key, body.len() as u64);
            }
        }
        sizes
    }

    async fn sort_out_earlier(&self) -> usize {
        if self.queue().earlier.is_empty() {
            return 0;
        }
        let earlier = self.queue().earlier.clone();
        let stored = self.sizes_in_store(earlier.values()).await;
        // Neither the runtime's thread nor the queue waits for the disk.
        let sorted = tokio::task::spawn_blocking(move || without_stored(earlier, &stored));
        let Ok(missing) = sorted.await else { return 0 };
        let found = missing.len();
        let mut queue = self.queue();
        queue.earlier.clear();
        queue.closed.extend(missing);
        drop(queue);
        self.settled.notify_waiters();
        self.changed.notify_one();
        found
    }
}

/// Deletes the files of those that the store has in full, and answers the others.
fn without_stored(
    earlier: BTreeMap<u64, Job>,
    stored: &BTreeMap<String, u64>,
) -> BTreeMap<u64, Job> {
    let (had, missing): (BTreeMap<_, _>, _) = earlier.into_iter().partition(|(_, job)| {
        let bytes = fs::metadata(&job.path).map_or(0, |data| data.len());
        // After a loss of power the tail that was stored may be longer than what the disk kept.
        let stored = stored.get(&job.key.to_string());
        stored.is_some_and(|stored| *stored >= bytes)
    });
    had.values().for_each(|job| remove(&job.path));
    missing
}

/// Asks the store until it does what is asked; `meanwhile` says once what that means.
async fn insist<T, F>(meanwhile: &str, ask: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut backoff = backoff();
    loop {
        match ask().await {
            Ok(done) => return done,
            Err(cause) if backoff.attempt() == 0 => warn!("{meanwhile}: {cause}"),
            Err(_) => {}
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Chunk files that runs of the take earlier than `run` left below `recordings`, in order.
fn left_behind(take: &TakeKey, recordings: &Path, run: RunNumber) -> Vec<Job> {
    let folder = recordings.join(take.to_string());
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    };
    let mut found: Vec<_> = names(&folder)
        .iter()
        .flat_map(|run| {
            names(&folder.join(run))
                .into_iter()
                .filter_map(move |file| ChunkKey::parse(take, &format!("{take}/{run}/{file}")))
        })
        .filter(|key| key.run < run)
        .map(|key| {
            let path = recordings.join(key.to_string());
            Job::new(key, path, true)
        })
        .collect();
    found.sort_by_key(|job| (job.key.run, job.key.index));
    found
}

fn remove(path: &Path) {
    if let Err(cause) = fs::remove_file(path)
        && cause.kind() != std::io::ErrorKind::NotFound
    {
        warn!("cannot delete the stored chunk {}: {cause}", path.display());
    }
}
