//! Whether a recording came, went or was finished since somebody asked. Open pages ask every second, so that where nothing
//! happens the answer costs a look at the folder itself and at the few recordings that may be under way, however many lie
//! there.

use super::modified;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What was made of an old recording, such as its video anew, is seen after this long.
const WHOLE: Duration = Duration::from_secs(60);
/// A recording whose folder was written to so recently may be under way: its preview alone is written more often.
const YOUNG: Duration = Duration::from_secs(600);
/// A recording without a timeline may be under way for so long without a new name in its folder.
const UNTOLD: Duration = Duration::from_secs(86_400);
/// A stamp of a folder this young may come again with the next change.
const SETTLED: Duration = Duration::from_secs(2);

/// What the folder was like at the last look.
#[derive(Default)]
pub(super) struct Seen {
    root: Option<SystemTime>,
    /// When all of it was looked at, by a clock that only goes forward.
    whole_at: Option<Duration>,
    newest: Option<SystemTime>,
    /// The timelines of those that may be under way.
    young: Vec<PathBuf>,
    #[cfg(test)]
    looks: usize,
}

impl Seen {
    /// A number that grows whenever a recording comes, goes or is finished.
    pub(super) fn version(&mut self, root: &Path, uptime: Duration, now: SystemTime) -> u64 {
        let changed = modified(root);
        let is_settled = changed.is_none_or(|at| is_older(at, SETTLED, now));
        let is_due = self
            .whole_at
            .is_none_or(|at| uptime.saturating_sub(at) >= WHOLE);
        if is_due || !is_settled || changed != self.root {
            self.look_at_all(root, now);
            self.whole_at = Some(uptime);
            self.root = changed;
        } else {
            let young = std::mem::take(&mut self.young);
            let newest = young.iter().filter_map(|it| self.look(it)).max();
            self.newest = self.newest.max(newest);
            self.young = young;
        }
        let newest = self.newest.max(changed);
        let since = newest.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        since.map_or(0, |since| since.as_millis() as u64)
    }

    fn look_at_all(&mut self, root: &Path, now: SystemTime) {
        self.young.clear();
        self.newest = None;
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let timeline = entry.path().join(format!("{name}.timeline.json"));
            let finished = self.look(&timeline);
            self.newest = self.newest.max(finished);
            let quiet = if finished.is_some() { YOUNG } else { UNTOLD };
            let written = self.look(&entry.path());
            if written.is_some_and(|at| !is_older(at, quiet, now)) {
                self.young.push(timeline);
            }
        }
    }

    fn look(&mut self, path: &Path) -> Option<SystemTime> {
        #[cfg(test)]
        {
            self.looks += 1;
        }
        modified(path)
    }
}

/// Not where it lies in the future: a file system's clock may be another one.
fn is_older(at: SystemTime, age: Duration, now: SystemTime) -> bool {
    now.duration_since(at).is_ok_and(|passed| passed >= age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_thousand_recordings_cost_nothing_while_nothing_happens() {
        // In memory: so many files take a disk that others use a minute.
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let timeline = |id: &str| root.path().join(id).join(format!("{id}.timeline.json"));
        for number in 0..20_000 {
            let id = format!("ses_{number}");
            std::fs::create_dir(root.path().join(&id)).unwrap();
            std::fs::write(timeline(&id), "{}").unwrap();
        }
        // Two days later.
        let now = SystemTime::now() + Duration::from_secs(2 * 86_400);
        let mut seen = Seen::default();
        let mut at = |second: u64, now: SystemTime| {
            seen.looks = 0;
            let version = seen.version(root.path(), Duration::from_secs(second), now);
            (version, seen.looks)
        };
        let (first, looks) = at(0, now);
        assert!(looks >= 20_000, "{looks}");
        assert_eq!(at(1, now), (first, 0));
        // One begins, which is a new name in the folder, and is finished later, which is none.
        std::fs::create_dir(root.path().join("new")).unwrap();
        let began = SystemTime::now();
        let (begun, _) = at(2, began + SETTLED + SETTLED);
        assert!(begun > first);
        // All are of today now, so that each may be under way.
        let (same, looks) = at(3, began + YOUNG + YOUNG);
        assert_eq!(same, begun);
        assert!(looks <= 20_001, "{looks}");
        let late = began + UNTOLD - Duration::from_secs(60);
        assert!(at(70, late).1 >= 20_000, "all are looked at once a minute");
        std::fs::write(timeline("new"), "{}").unwrap();
        let (finished, looks) = at(71, late);
        assert!(finished > begun);
        assert_eq!(looks, 1);
    }
}
