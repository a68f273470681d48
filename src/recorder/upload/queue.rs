//! What waits for the store, and in which order it is tried.

use crate::backoff::Backoff;
use crate::model::chunk::ChunkKey;
use crate::model::ids::RunNumber;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Default)]
pub(super) struct Queue {
    /// What earlier runs left, by its place in the order, while the store has not said how much of it it has.
    pub(super) earlier: BTreeMap<u64, Job>,
    /// Closed chunks that wait, by the order of their arrival.
    pub(super) closed: BTreeMap<u64, Job>,
    /// Closed chunks on their way.
    pub(super) flying: BTreeMap<u64, Job>,
    /// Chunks that the store has, and the video does not yet.
    pub(super) kept: BTreeSet<String>,
    /// The last chunk that the video has.
    pub(super) in_video: Option<(RunNumber, u32)>,
    pub(super) tail: Option<Job>,
    pub(super) tail_every: Duration,
    /// No tail before this uptime.
    pub(super) tail_not_before: Duration,
    pub(super) next: u64,
    pub(super) stored: u32,
    pub(super) trouble: Option<String>,
}

#[derive(Clone)]
pub(super) struct Job {
    pub(super) key: ChunkKey,
    pub(super) path: PathBuf,
    /// Whether the video has it: its file can go once it is stored.
    pub(super) in_video: bool,
    /// Grows with every attempt that failed.
    pub(super) backoff: Backoff,
    /// No attempt before this uptime.
    pub(super) not_before: Duration,
}

impl Job {
    pub(super) fn new(key: ChunkKey, path: PathBuf, in_video: bool) -> Self {
        Self {
            key,
            path,
            in_video,
            backoff: backoff(),
            not_before: Duration::ZERO,
        }
    }
}

impl Queue {
    /// Takes over a closed chunk. Answers its file where nothing is to be done but to delete it.
    pub(super) fn take_over(&mut self, job: Job) -> Option<PathBuf> {
        let place = (job.key.run, job.key.index);
        // Both who writes the video and who follows the log hand it over, and one of them may do so twice.
        if self.in_video.is_some_and(|last| place <= last) {
            return None;
        }
        if job.in_video {
            self.in_video = self.in_video.max(Some(place));
        }
        if self.kept.remove(&job.key.to_string()) {
            return Some(job.path);
        }
        if self.tail.as_ref().is_some_and(|tail| tail.key == job.key) {
            self.tail = None;
        }
        match self.known(&job.key) {
            Some(known) => known.in_video |= job.in_video,
            None => {
                let place = self.next_place();
                self.closed.insert(place, job);
            }
        }
        None
    }

    /// The chunk, where it waits or is on its way.
    fn known(&mut self, key: &ChunkKey) -> Option<&mut Job> {
        let mut all = self.closed.values_mut().chain(self.flying.values_mut());
        all.find(|job| job.key == *key)
    }

    /// Takes out the chunk that is to be tried next: the oldest that was never refused, else the one whose time has come
    /// first. `besides` is the one whose tail is on its way.
    pub(super) fn take_next(
        &mut self,
        now: Duration,
        besides: Option<&ChunkKey>,
    ) -> Option<(u64, Job)> {
        let ready = self.closed.iter().filter(|(_, job)| {
            job.not_before <= now && besides.is_none_or(|besides| job.key != *besides)
        });
        let (number, _) = ready.min_by_key(|(number, job)| (job.not_before, **number))?;
        let number = *number;
        self.closed.remove(&number).map(|job| (number, job))
    }

    /// How long until the time of a chunk comes that was refused.
    pub(super) fn until_next(&self, now: Duration) -> Option<Duration> {
        let times = self.closed.values().map(|job| job.not_before);
        let later = times.filter(|at| *at > now);
        later.min().map(|at| at.saturating_sub(now))
    }

    /// Whether a chunk waits that the store has refused.
    pub(super) fn has_refused(&self) -> bool {
        self.closed.values().any(|job| job.backoff.attempt() > 0)
    }

    pub(super) fn next_place(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// The longest delay leaves room to catch up within 30 s of the store's return.
pub(super) const fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(250), Duration::from_secs(12))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::chunk::TakeKey;
    use crate::model::ids::{RecordingId, TakeId};

    fn job(index: u32, in_video: bool) -> Job {
        let take = TakeKey {
            recording: RecordingId::parse("ses_A").unwrap(),
            folder: "chunks".into(),
            take: TakeId::parse("17").unwrap(),
        };
        let key = take.chunk(RunNumber(1), index);
        let path = key.to_string().into();
        Job::new(key, path, in_video)
    }

    fn taken(queue: &mut Queue, at: u64) -> Option<u32> {
        let next = queue.take_next(Duration::from_secs(at), None);
        next.map(|(_, job)| job.key.index)
    }

    #[test]
    fn a_chunk_that_is_refused_holds_up_no_later_one_and_is_tried_at_its_own_times() {
        let mut queue = Queue::default();
        for index in 1..=3 {
            assert_eq!(queue.take_over(job(index, true)), None);
        }
        let (number, mut first) = queue.take_next(Duration::ZERO, None).unwrap();
        first.backoff.next_delay();
        first.not_before = Duration::from_secs(5);
        queue.closed.insert(number, first);
        assert!(queue.has_refused());
        assert_eq!(
            [taken(&mut queue, 1), taken(&mut queue, 1)],
            [Some(2), Some(3)]
        );
        assert_eq!(taken(&mut queue, 1), None);
        let now = Duration::from_secs(1);
        assert_eq!(queue.until_next(now), Some(Duration::from_secs(4)));
        assert_eq!(taken(&mut queue, 5), Some(1));
    }

    #[test]
    fn a_chunk_that_is_stored_goes_when_the_video_has_it() {
        let mut queue = Queue::default();
        queue.take_over(job(1, false));
        assert_eq!(taken(&mut queue, 0), Some(1));
        let key = job(1, false).key;
        queue.kept.insert(key.to_string());
        let path = Some(PathBuf::from(key.to_string()));
        assert_eq!(queue.take_over(job(1, true)), path);
        // Whoever follows the log may come later than whoever writes the video.
        queue.take_over(job(1, false));
        assert_eq!(taken(&mut queue, 0), None);
    }

    #[test]
    fn a_whole_chunk_does_not_overtake_its_own_tail() {
        let mut queue = Queue::default();
        queue.take_over(job(1, true));
        queue.take_over(job(2, true));
        let key = job(1, true).key;
        let next = queue.take_next(Duration::ZERO, Some(&key));
        assert_eq!(next.map(|(_, job)| job.key.index), Some(2));
    }
}
