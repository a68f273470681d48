//! Chunks leave the recorder here: a closed chunk comes in, a stored object goes out, and the local file goes away. Never
//! touches capture: a slow or dead store costs no frame, it only lets files wait. What waits is tried again for hours,
//! oldest first. The end of the chunk being written is stored every few seconds under the chunk's own key, so that
//! losing the whole machine loses seconds. Where the store keeps files on this machine there is nothing to send, and
//! chunks are only counted.

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::model::chunk::{ChunkKey, TakeKey};
use crate::model::ids::RunNumber;
use crate::model::manifest::Manifest;
use crate::model::timeline::Timeline;
use crate::store::{ChunkStore, StoreError};
use crate::tasks::Tasks;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use log::{debug, info, warn};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

/// Chunks on their way at once, when several wait.
const ABREAST: usize = 4;
/// Bytes a second that tails may cost: the tail of a long chunk is stored less often than it is offered.
const TAIL_BYTES_PER_SECOND: u64 = 2 << 20;

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

#[derive(Default)]
struct Queue {
    /// What earlier runs left, by its place in the order, while the store has not said how much of it it has.
    earlier: BTreeMap<u64, Job>,
    /// Closed chunks that wait, by the order of their arrival.
    closed: BTreeMap<u64, Job>,
    /// Closed chunks on their way.
    flying: BTreeMap<u64, Job>,
    tail: Option<Job>,
    tail_every: Duration,
    /// No tail before this uptime.
    tail_not_before: Duration,
    next: u64,
    stored: u32,
    trouble: Option<String>,
}

#[derive(Clone)]
struct Job {
    key: ChunkKey,
    path: PathBuf,
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

    /// Takes over a chunk that will not change any more and is in the growing file. Its local file is deleted once the
    /// store has it.
    pub fn chunk_closed(&self, key: ChunkKey, path: PathBuf) {
        let mut queue = self.shared.queue();
        if self.shared.keeps_files() {
            queue.stored += 1;
            return;
        }
        if queue.tail.as_ref().is_some_and(|tail| tail.key == key) {
            queue.tail = None;
        }
        queue.add(Job { key, path });
        drop(queue);
        self.shared.changed.notify_one();
    }

    /// Offers what the chunk being written holds by now; whole fragments only are worth offering.
    pub fn chunk_grew(&self, key: ChunkKey, path: PathBuf) {
        if self.shared.keeps_files() {
            return;
        }
        self.shared.queue().tail = Some(Job { key, path });
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
        // The disk is not looked at while the queue is held: capture waits for nobody.
        let (had, missing): (Vec<_>, Vec<_>) = earlier.into_iter().partition(|(_, job)| {
            let bytes = fs::metadata(&job.path).map_or(0, |data| data.len());
            // After a loss of power the tail that was stored may be longer than what the disk kept.
            let stored = stored.get(&job.key.to_string());
            stored.is_some_and(|stored| *stored >= bytes)
        });
        for (_, job) in had {
            remove(&job.path);
        }
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

impl Queue {
    fn add(&mut self, job: Job) {
        let place = self.next_place();
        self.closed.insert(place, job);
    }

    fn next_place(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// What came of one attempt.
struct Attempt {
    /// The closed chunk's place in the order; `None` for a tail.
    number: Option<u64>,
    result: Result<(), StoreError>,
}

struct Worker {
    shared: Arc<Shared>,
    token: CancellationToken,
    flying: FuturesUnordered<BoxFuture<'static, Attempt>>,
    tail_flies: bool,
    backoff: Backoff,
}

impl Worker {
    fn new(shared: Arc<Shared>, token: CancellationToken) -> Self {
        Self {
            shared,
            token,
            flying: FuturesUnordered::new(),
            tail_flies: false,
            backoff: backoff(),
        }
    }

    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut rest: Option<Pin<Box<Sleep>>> = None;
        loop {
            if rest.is_none() {
                self.start();
            }
            tokio::select! {
                () = self.token.cancelled() => return,
                () = over(&mut rest) => rest = None,
                () = shared.changed.notified() => {}
                Some(attempt) = self.flying.next() => {
                    if !self.judge(attempt) && rest.is_none() {
                        rest = Some(Box::pin(tokio::time::sleep(self.backoff.next_delay())));
                    }
                }
            }
        }
    }

    /// Sends off what may go now: after a failure one chunk at a time, else several; a tail only when no chunk waits.
    fn start(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue();
        let abreast = if self.backoff.attempt() > 0 {
            1
        } else {
            ABREAST
        };
        while self.flying.len() < abreast {
            let Some((number, job)) = queue.closed.pop_first() else {
                break;
            };
            // A tail under the same key must not come after the whole.
            if self.tail_flies {
                queue.closed.insert(number, job);
                return;
            }
            queue.flying.insert(number, job.clone());
            self.flying.push(self.attempt(Some(number), job));
        }
        if self.flying.is_empty()
            && shared.clock.uptime() >= queue.tail_not_before
            && let Some(job) = queue.tail.take()
        {
            let bytes = fs::metadata(&job.path).map_or(0, |data| data.len());
            let rest = Duration::from_millis(bytes * 1000 / TAIL_BYTES_PER_SECOND);
            queue.tail_not_before = shared.clock.uptime() + rest.max(queue.tail_every);
            self.tail_flies = true;
            self.flying.push(self.attempt(None, job));
        }
    }

    fn attempt(&self, number: Option<u64>, job: Job) -> BoxFuture<'static, Attempt> {
        let store = Arc::clone(&self.shared.store);
        Box::pin(async move {
            let result = store.put(&job.key.to_string(), &job.path).await;
            Attempt { number, result }
        })
    }

    /// Notes what came of an attempt and says whether the store took it.
    fn judge(&mut self, attempt: Attempt) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue();
        let Some(number) = attempt.number else {
            self.tail_flies = false;
            return match attempt.result {
                Ok(()) => self.recovered(&mut queue),
                Err(cause) => self.failed(&mut queue, &cause),
            };
        };
        let Some(job) = queue.flying.remove(&number) else {
            return true;
        };
        let took = match attempt.result {
            Ok(()) => {
                queue.stored += 1;
                debug!(chunk:% = job.key; "chunk stored");
                remove(&job.path);
                self.recovered(&mut queue)
            }
            Err(_) if !job.path.exists() => {
                warn!(chunk:% = job.key; "a chunk is gone from the disk before it was stored");
                true
            }
            Err(cause) => {
                queue.closed.insert(number, job);
                self.failed(&mut queue, &cause)
            }
        };
        drop(queue);
        shared.settled.notify_waiters();
        took
    }

    fn recovered(&mut self, queue: &mut Queue) -> bool {
        if queue.trouble.take().is_some() {
            info!(waiting = queue.closed.len(); "the chunk store takes chunks again");
        }
        self.backoff.reset();
        true
    }

    fn failed(&mut self, queue: &mut Queue, cause: &StoreError) -> bool {
        if queue.trouble.is_none() {
            warn!(waiting = queue.closed.len(); "{cause}; chunks wait on the local disk until the store takes them");
        }
        queue.trouble = Some(cause.to_string());
        false
    }
}

/// The longest delay leaves room to catch up within 30 s of the store's return.
const fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(250), Duration::from_secs(12))
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

/// Ends when the rest after a failure is over; never without one.
async fn over(rest: &mut Option<Pin<Box<Sleep>>>) {
    match rest {
        Some(rest) => rest.await,
        None => std::future::pending().await,
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
        .map(|key| Job {
            path: recordings.join(key.to_string()),
            key,
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
