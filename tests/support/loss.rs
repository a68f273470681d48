//! What a lost recorder costs, seen from outside: from the blow to the first new frame in the file at OpenVidu's path.

use super::openvidu::Recording;
use super::wait::until;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest that a new frame is waited for.
const PATIENCE: Duration = Duration::from_secs(45);
/// How often the disk is looked at.
const LOOK: Duration = Duration::from_millis(5);

impl Recording {
    /// Strikes, and answers how long it took from then until a frame of a later run was in the video.
    ///
    /// # Panics
    /// When none came.
    pub async fn first_new_frame(&self, strike: impl FnOnce()) -> Duration {
        let before = self.last_run();
        let begin = Instant::now();
        strike();
        let bound = tokio::time::timeout(PATIENCE, async {
            // A chunk is made together with its first frame, and the video grows by what is in a chunk: whatever an earlier
            // run left was appended before.
            while self.last_run() <= before || newest_chunk(&self.run_folder()).is_none() {
                tokio::time::sleep(LOOK).await;
            }
            let length = self.length();
            while self.length() <= length {
                tokio::time::sleep(LOOK).await;
            }
            begin.elapsed()
        });
        bound.await.expect("no new frame came")
    }

    /// Waits until Docker would start its container again by itself: the controller has asked for it.
    pub async fn is_looked_after(&self) {
        let policy = "{{.HostConfig.RestartPolicy.Name}}";
        until("the restart policy", Duration::from_secs(10), || async {
            let found = self.vessel.container().inspect(policy).ok()?;
            (found == "on-failure").then_some(())
        })
        .await;
    }

    fn length(&self) -> u64 {
        fs::metadata(self.video()).map_or(0, |file| file.len())
    }

    fn take_folder(&self) -> PathBuf {
        self.folder.join("chunks").join(self.created_at.to_string())
    }

    fn run_folder(&self) -> PathBuf {
        self.take_folder().join(format!("r{}", self.last_run()))
    }

    /// The last run that left anything.
    pub fn last_run(&self) -> u32 {
        let runs = names(&self.take_folder());
        let runs = runs.iter().filter_map(|name| name.strip_prefix('r'));
        runs.filter_map(|name| name.parse().ok()).max().unwrap_or(0)
    }
}

fn newest_chunk(run: &Path) -> Option<String> {
    let chunks = names(run).into_iter().filter(|it| it.ends_with(".mp4"));
    chunks.max()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// How often a cost may be measured before it counts.
const TRIES: usize = 3;

/// What something costs: the least of up to three measurements, of which the first that is within `bound` is the last.
/// Whoever shares the machine adds to a cost and never takes from it, so the least is nearest to the program's own.
pub async fn least<T, F>(bound: T, mut measure: impl FnMut() -> F) -> T
where
    T: PartialOrd + Copy + std::fmt::Debug,
    F: Future<Output = T>,
{
    let mut least = measure().await;
    for _ in 1..TRIES {
        if least <= bound {
            break;
        }
        let next = measure().await;
        eprintln!("measured again, since {least:?} is over {bound:?}: {next:?}");
        if next < least {
            least = next;
        }
    }
    least
}

/// The median; the middle one of an odd number.
pub fn median(durations: &[Duration]) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}
