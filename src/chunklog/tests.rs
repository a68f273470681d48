use super::*;
use crate::join::samples::{beginning, fragment};
use crate::model::chunk::TakeKey;
use crate::model::ids::{RecordingId, RunNumber, TakeId};
use crate::store::local::LocalStore;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Runtime;

fn take() -> TakeKey {
    TakeKey {
        recording: RecordingId::parse("ses_A").unwrap(),
        folder: "chunks".into(),
        take: TakeId::parse("17").unwrap(),
    }
}

fn origin(run: u32, index: u32) -> Origin {
    let run = RunNumber(run);
    Origin { run, index }
}

/// A take's folder in which chunks are written.
struct Log {
    root: tempfile::TempDir,
}

impl Log {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        Self { root }
    }

    fn path(&self, at: Origin) -> PathBuf {
        let key = take().chunk(at.run, at.index);
        self.root.path().join(key.to_string())
    }

    /// Writes a chunk with a fragment for each of these seconds, and `more` behind them; where its whole fragments end.
    fn write(&self, at: Origin, seconds: &[f64], more: &[u8]) -> Head {
        let path = self.path(at);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let fragments = seconds.iter().flat_map(|second| fragment(*second));
        let good: Vec<u8> = beginning().into_iter().chain(fragments).collect();
        fs::write(&path, [&good, more].concat()).unwrap();
        let offset = good.len() as u64;
        Some(Position { origin: at, offset })
    }
}

fn follower(source: &Source, from: Option<Origin>) -> Follower {
    Follower::new(source.clone(), take(), RunNumber(2), from).unwrap()
}

/// What comes up to the head: fragments by their second, and chunks that were passed.
fn read(follower: &mut Follower, head: Head) -> Vec<String> {
    let mut entries = Vec::new();
    while let Some(entry) = follower.next(head).unwrap() {
        entries.push(match entry {
            Entry::Fragment {
                fragment, origin, ..
            } => {
                let second = fragment.start().millis() / 1000;
                format!("{}/{}: {second}", origin.run, origin.index)
            }
            Entry::Passed {
                origin,
                lost,
                fault,
            } => {
                let fault = fault.unwrap_or_default();
                format!("{}/{} passed, {lost} lost{fault}", origin.run, origin.index)
            }
        });
    }
    entries
}

/// Everything that a follower may rely on, wherever the log lies.
fn suite(source: &Source, log: &Log) {
    assert_eq!(source.list(&take()).unwrap(), []);
    let mut early = follower(source, None);
    assert_eq!(read(&mut early, None), [""; 0]);
    log.write(origin(1, 1), &[1.0, 2.0], b"");
    log.write(origin(1, 2), &[3.0], b"\0\0\0\x20moof half");
    assert_eq!(source.list(&take()).unwrap(), [origin(1, 1), origin(1, 2)]);

    // Earlier runs in order, then the own one up to its head and no further.
    let mut follows = follower(source, None);
    let earlier = ["1/1: 1", "1/1: 2", "1/1 passed, 0 lost", "1/2: 3"];
    assert!(!follows.is_past_earlier_runs());
    let all = read(&mut follows, None);
    assert_eq!(all[..4], earlier);
    assert_eq!(all[4], "1/2 passed, 13 lost");
    assert!(follows.is_past_earlier_runs());
    log.write(origin(2, 3), &[4.0], b"");
    let head = log.write(origin(2, 3), &[4.0, 5.0], b"\0\0\0\x20moof half");
    assert_eq!(read(&mut follows, head), ["2/3: 4", "2/3: 5"]);
    assert_eq!(read(&mut follows, head), [""; 0]);
    let head = log.write(origin(2, 3), &[4.0, 5.0, 6.0], b"");
    assert_eq!(read(&mut follows, head), ["2/3: 6"]);

    // Stamps that go back say nothing about what was read.
    log.write(origin(2, 4), &[1.0, 2.0], b"");
    let head = log.write(origin(2, 5), &[0.0], b"");
    let on = [
        "2/3 passed, 0 lost",
        "2/4: 1",
        "2/4: 2",
        "2/4 passed, 0 lost",
        "2/5: 0",
    ];
    assert_eq!(read(&mut follows, head), on);
    // Whoever begins late, or goes on from a chunk, finds the same order.
    let mut late = follower(source, Some(origin(2, 4)));
    assert_eq!(read(&mut late, head), on[1..]);
    let own: Vec<_> = follower(source, None).unread_own(head.unwrap()).collect();
    assert_eq!(own, [origin(2, 3), origin(2, 4), origin(2, 5)]);
    // The one that was there before any chunk was.
    assert_eq!(read(&mut early, head).len(), 3 + 1 + 2 + 1 + 1);

    // What is broken or gone is named, and ends nothing.
    fs::write(log.path(origin(2, 5)), b"\0\0\0\x08mdat\0\0\0\x08mdat").unwrap();
    let head = log.write(origin(2, 7), &[7.0], b"");
    let mut again = follower(source, Some(origin(2, 5)));
    let said = read(&mut again, head);
    assert!(
        said[0].starts_with("2/5 passed") && said[0].contains("mdat"),
        "{said:?}"
    );
    assert_eq!(said[1], "2/6 passed, 0 lostit is gone");
    assert_eq!(said[2], "2/7: 7");
    let mut stored = follower(source, Some(origin(2, 6)));
    assert_eq!(read(&mut stored, head), ["2/6 passed, 0 lost", "2/7: 7"]);
}

#[test]
fn a_log_in_a_folder_is_followed_by_position() {
    let log = Log::new();
    suite(&Source::Folder(log.root.path().into()), &log);
}

#[test]
fn a_log_in_a_store_is_followed_alike() {
    let log = Log::new();
    let runtime = Runtime::new().unwrap();
    let store = Arc::new(LocalStore::new(log.root.path()));
    suite(&Source::Store(store, runtime.handle().clone()), &log);
}

#[test]
fn a_log_part_of_which_has_left_the_disk_is_followed_alike() {
    let (log, left) = (Log::new(), Log::new());
    let runtime = Runtime::new().unwrap();
    let store = Arc::new(LocalStore::new(left.root.path()));
    let both = Source::Both(log.root.path().into(), store, runtime.handle().clone());
    suite(&both, &log);

    let (log, left) = (Log::new(), Log::new());
    let store = Arc::new(LocalStore::new(left.root.path()));
    let both = Source::Both(log.root.path().into(), store, runtime.handle().clone());
    left.write(origin(1, 1), &[1.0], b"");
    left.write(origin(1, 2), &[7.0], b"");
    log.write(origin(1, 2), &[2.0], b"");
    let head = log.write(origin(2, 1), &[3.0], b"");
    let all = read(&mut follower(&both, None), head);
    let fragments: Vec<_> = all.iter().filter(|it| !it.contains("passed")).collect();
    assert_eq!(fragments, ["1/1: 1", "1/2: 2", "2/1: 3"]);
}

#[test]
fn a_chunk_that_is_deleted_or_moved_while_it_is_followed_is_read_to_its_end() {
    type Sweep = fn(&Path) -> std::io::Result<()>;
    let sweeps: [Sweep; 2] = [
        |folder| fs::remove_dir_all(folder),
        |folder| fs::rename(folder, folder.with_extension("elsewhere")),
    ];
    for sweep in sweeps {
        let log = Log::new();
        let source = Source::Folder(log.root.path().into());
        let at = origin(2, 1);
        let first = log.write(at, &[1.0], b"");
        let mut follows = follower(&source, None);
        assert_eq!(read(&mut follows, first), ["2/1: 1"]);
        sweep(&log.root.path().join("ses_A")).unwrap();
        let more = first.map(|it| Position {
            offset: it.offset + 10,
            ..it
        });
        assert_eq!(read(&mut follows, more), [""; 0], "it is waited for");
        // Whoever writes it makes it again.
        let head = log.write(at, &[1.0, 2.0], b"");
        assert_eq!(read(&mut follows, head), ["2/1: 2"]);
    }
}

#[test]
fn what_cannot_be_read_now_is_asked_for_again() {
    let log = Log::new();
    let source = Source::Folder(log.root.path().into());
    let head = log.write(origin(2, 1), &[1.0], b"");
    let path = log.path(origin(2, 1));
    let whole = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let mut follows = follower(&source, None);
    assert!(follows.next(head).is_err(), "a folder cannot be read");
    fs::remove_dir(&path).unwrap();
    fs::write(&path, whole).unwrap();
    assert_eq!(read(&mut follows, head), ["2/1: 1"]);
    assert!(Path::new(&path).exists());
}

#[test]
fn a_chunk_that_cannot_be_read_is_left_for_those_behind_it_but_not_the_last_one() {
    let log = Log::new();
    let source = Source::Folder(log.root.path().into());
    fs::create_dir_all(log.path(origin(1, 1))).unwrap();
    let head = log.write(origin(2, 2), &[2.0], b"");
    let mut follows = follower(&source, None);
    let cause = follows.next(head).unwrap_err();
    assert_eq!(follows.reading(), Some(origin(1, 1)));
    let left = follows.give_up(head, &cause);
    assert!(
        matches!(&left, Some(Entry::Passed { origin: at, fault: Some(_), .. }) if *at == origin(1, 1)),
        "{left:?}"
    );
    assert_eq!(read(&mut follows, head), ["2/2: 2"]);
    let at_head = follows.give_up(head, &cause);
    assert!(at_head.is_none(), "it is being written: {at_head:?}");
}
