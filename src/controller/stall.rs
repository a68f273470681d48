//! Whether the runs of this host grow, seen by their files once a second, and what was found out about one that does not. A
//! file that grows says more than any heartbeat, and costs one call; nothing here judges, writes or asks.

use super::table::Entry;
use super::unfinished::Unfinished;
use super::{Controller, growth, lock};
use crate::clock::Timestamp;
use crate::join::beside::Beside;
use crate::model::ask::Doing;
use crate::model::failover::{Policy, Seen};
use crate::model::ids::{RecordingId, RunNumber};
use crate::model::session::{Event, Session, State};
use log::info;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often the files are looked at.
const ROUND: Duration = Duration::from_secs(1);
/// A timer may be this early.
const EARLY: Duration = Duration::from_millis(50);
/// The longest time until what does not grow is asked again.
const LONGEST: Duration = Duration::from_secs(30);

/// What is known of a recording's files: whether its run grows, and whether its video can be finished.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// What its recording's whole folder showed last, where it seemed lost.
    pub(super) folder: Option<growth::Look>,
    growth: Option<Growth>,
    /// Why it was left alone when it did not grow.
    excuse: Option<Excuse>,
    /// Why its video could not be finished.
    pub(super) unfinished: Option<Unfinished>,
}

/// The files of a run, as far as they were seen.
#[derive(Debug)]
struct Growth {
    run: RunNumber,
    size: Size,
    looked_at: Timestamp,
    /// When they were last seen to have grown, or seen first.
    grown_at: Timestamp,
}

/// How large they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    video: u64,
    /// The number of the run's last chunk, and its bytes; `None` where it was not looked at, or there is none.
    chunk: Option<(u32, u64)>,
}

/// Why a run does not grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It does.
    Grows,
    /// The disk that it is written to does not answer.
    DiskHangs,
    /// Its recorder is alive.
    Answers(Doing),
    /// Its recorder is there and does not answer.
    NoAnswer,
    /// Nobody can say; why, for a person.
    Unknown(String),
}

/// Why a run that does not grow is left alone.
#[derive(Clone, Debug)]
pub(super) struct Excuse {
    run: RunNumber,
    /// When it was made: it counts until the run goes on.
    made_at: Timestamp,
    pub(super) finding: Finding,
    /// Since when it does not grow.
    pub(super) since: Timestamp,
    /// Not before this is it looked at again.
    pub(super) next: Timestamp,
    pause: Duration,
}

/// When something was found, and how soon it is looked at again for the first time.
#[derive(Clone, Copy)]
struct When {
    now: Timestamp,
    first: Duration,
}

/// Where a run's files lie, and how large they were.
#[derive(Clone, Debug)]
pub(super) struct RunFiles {
    /// The recording's folder.
    pub(super) folder: PathBuf,
    run: RunNumber,
    video: PathBuf,
    chunks: PathBuf,
    /// How large they were; `None` before anything was seen of the run.
    before: Option<Size>,
}

/// What a look at them showed.
#[derive(Debug)]
pub(super) struct RunLook {
    at: Timestamp,
    run: RunNumber,
    size: Size,
    /// When they were written to last, by the file system's clock.
    written_at: Timestamp,
}

impl Size {
    fn exceeds(self, before: Self) -> bool {
        let chunk_grew = before.chunk.is_some() && self.chunk > before.chunk;
        self.video > before.video || chunk_grew
    }
}

impl RunLook {
    /// Whether it shows more than was known of `place`.
    pub(super) fn shows_growth(&self, place: &RunFiles) -> bool {
        place.before.is_some_and(|before| self.size.exceeds(before))
    }
}

impl RunFiles {
    /// Looks at the files. The video is one call; only where it does not grow, the chunks are looked for.
    pub(super) fn look(&self, now: Timestamp) -> RunLook {
        let mut look = RunLook {
            at: now,
            run: self.run,
            size: Size::default(),
            written_at: Timestamp::default(),
        };
        if let Ok(video) = fs::metadata(&self.video) {
            look.size.video = video.len();
            look.written_at = written_at(&video);
        }
        let before = self.before.map(|before| before.video);
        if before.is_some_and(|before| look.size.video > before) {
            return look;
        }
        if let Some((index, chunk)) = last_chunk(&self.chunks) {
            look.size.chunk = Some((index, chunk.len()));
            look.written_at = look.written_at.max(written_at(&chunk));
        }
        look
    }
}

fn written_at(file: &Metadata) -> Timestamp {
    file.modified().map(Timestamp::from).unwrap_or_default()
}

/// The chunk of the highest number in a run's folder.
fn last_chunk(folder: &Path) -> Option<(u32, Metadata)> {
    let names = fs::read_dir(folder).ok()?.flatten();
    let numbered = names.filter_map(|entry| {
        let name = entry.file_name();
        let number = name.to_str()?.strip_suffix(".mp4")?.parse().ok()?;
        Some((number, entry))
    });
    let (number, entry) = numbered.max_by_key(|(number, _)| *number)?;
    Some((number, entry.metadata().ok()?))
}

impl Stall {
    /// Takes over what a look showed; answers when the run grew, where it did.
    fn note(&mut self, look: &RunLook) -> Option<Timestamp> {
        let Some(files) = self.growth.as_mut().filter(|it| it.run == look.run) else {
            // Before its first chunk there is nothing that could grow.
            let begins = look.size.chunk.is_some();
            self.growth = begins.then_some(Growth {
                run: look.run,
                size: look.size,
                looked_at: look.at,
                grown_at: look.at,
            });
            return None;
        };
        if look.at < files.looked_at {
            return None;
        }
        let grows = look.size.exceeds(files.size);
        if grows {
            // The file system's clock may be another one.
            files.grown_at = look.written_at.max(files.looked_at).min(look.at);
        }
        (files.size, files.looked_at) = (look.size, look.at);
        grows.then_some(files.grown_at)
    }

    /// Its container runs again after a freeze, in which nothing could grow.
    pub(super) fn thaw(&mut self, now: Timestamp) {
        if let Some(files) = &mut self.growth {
            files.grown_at = files.grown_at.max(now);
        }
    }

    /// Takes over why `run` is left alone; answers whether that is another reason than before.
    fn excuse(&mut self, run: RunNumber, finding: Finding, since: Timestamp, when: When) -> bool {
        let before = self.excuse.take();
        let kind = std::mem::discriminant(&finding);
        let is_same = |it: &Excuse| std::mem::discriminant(&it.finding) == kind;
        let is_new = !before.as_ref().is_some_and(is_same);
        let pause = before.as_ref().map_or(when.first, |it| it.pause * 2);
        let pause = pause.min(LONGEST.max(when.first));
        self.excuse = Some(Excuse {
            run,
            made_at: when.now,
            finding,
            since: before.map_or(since, |it| it.since),
            next: when.now.plus(pause),
            pause,
        });
        is_new
    }

    /// What is of use still once nothing grows any more.
    pub(super) fn at_the_end(self: Box<Self>) -> Option<Box<Self>> {
        let unfinished = self.unfinished?;
        Some(Box::new(Self {
            unfinished: Some(unfinished),
            ..Self::default()
        }))
    }

    /// The clock was set back to `now`.
    pub(super) fn set_back(&mut self, now: Timestamp) {
        if let Some(unfinished) = &mut self.unfinished {
            unfinished.set_back(now);
        }
        if let Some(files) = &mut self.growth {
            files.looked_at = files.looked_at.min(now);
            files.grown_at = files.grown_at.min(now);
        }
        if let Some(excuse) = &mut self.excuse {
            excuse.since = excuse.since.min(now);
            excuse.made_at = excuse.made_at.min(now);
            excuse.next = excuse.next.min(now);
        }
    }
}

impl Entry {
    /// Since when its run does not grow, where it records and its files were seen; nothing from before `watched_since` counts.
    pub(super) fn quiet_since(&self, watched_since: Timestamp) -> Option<Timestamp> {
        let State::Recording { since } = self.session.state else {
            return None;
        };
        let files = self.stall.as_ref()?.growth.as_ref()?;
        // A container that is frozen is another matter.
        let counts = files.run == self.session.run && !matches!(self.seen, Seen::Frozen { .. });
        let quiet = files.grown_at.max(self.session.advanced_at);
        counts.then_some(quiet.max(watched_since).max(since))
    }

    /// When it is found out why its run does not grow, unless it does until then.
    pub(super) fn proof_at(&self, policy: &Policy, watched_since: Timestamp) -> Option<Timestamp> {
        let due = self.quiet_since(watched_since)?.plus(policy.quiet_limit());
        Some(self.excuse().map_or(due, |excuse| due.max(excuse.next)))
    }

    /// Why its run is left alone although it does not grow.
    pub(super) fn excuse(&self) -> Option<&Excuse> {
        let excuse = self.stall.as_ref()?.excuse.as_ref();
        let session = &self.session;
        excuse.filter(|it| it.run == session.run && session.advanced_at <= it.made_at)
    }
}

impl Controller {
    /// Looks at the files of all that records on this host, once a second at most. While the disk does not answer no other
    /// round begins; whatever is due then finds that out by itself.
    pub(super) fn watch_growth(&self) {
        let now = self.0.clock.uptime();
        let mut last = lock(&self.0.last_round);
        if last.is_some_and(|last| now.saturating_sub(last) + EARLY < ROUND) {
            return;
        }
        *last = Some(now);
        drop(last);
        let places = self.places();
        let Some(turn) = (!places.is_empty())
            .then(|| self.0.rounds.begin())
            .flatten()
        else {
            return;
        };
        let controller = self.clone();
        self.0.tasks.spawn("look at what grows", async move {
            let clock = Arc::clone(&controller.0.clock);
            let look = move || {
                let _turn = turn;
                let looks = places
                    .into_iter()
                    .map(|(id, place)| (id, place.look(clock.now())));
                looks.collect::<Vec<_>>()
            };
            let looks = controller.0.tasks.spawn_blocking("look at files", look);
            for (id, look) in looks.await.unwrap_or_default() {
                controller.note_look(&id, &look);
            }
        });
    }

    /// Where the files lie of all that records in a container of this host.
    fn places(&self) -> Vec<(RecordingId, RunFiles)> {
        let running = lock(&self.0.observations).running();
        let table = self.table();
        let entries = running.iter().filter_map(|container| {
            let entry = table.get(table.of_container(container)?)?;
            let records = matches!(entry.session.state, State::Recording { .. });
            records.then_some(entry)
        });
        let placed = entries.filter_map(|it| Some((it.session.id.clone(), self.place_of(it)?)));
        placed.collect()
    }

    /// Where the files of its run lie; earlier clients do not say how they name them.
    pub(super) fn place_of(&self, entry: &Entry) -> Option<RunFiles> {
        let session: &Session = &entry.session;
        let name = session.video_name.as_deref()?;
        let take = self.take_of(session)?;
        let recordings = &self.0.settings.recording_path;
        let chunks = recordings.join(take.key.to_string());
        let files = entry.stall.as_ref().and_then(|it| it.growth.as_ref());
        let files = files.filter(|it| it.run == session.run);
        Some(RunFiles {
            folder: recordings.join(session.id.as_str()),
            run: session.run,
            video: Beside::new(recordings, &session.id).video(name),
            chunks: chunks.join(format!("r{}", session.run)),
            before: files.map(|it| it.size),
        })
    }

    /// Takes over what a look at a run's files showed: growth says as much as a heartbeat does.
    pub(super) fn note_look(&self, id: &RecordingId, look: &RunLook) {
        let now = self.0.clock.now();
        let noted = self.table().change(id, |entry| {
            let is_its = entry.session.run == look.run;
            let stall = is_its.then(|| entry.stall.get_or_insert_default())?;
            let grown_at = stall.note(look)?;
            let again = stall.excuse.take().is_some();
            // Refused where no recorder is expected any more. It is not written to disk for it: a heartbeat is.
            let _ = entry.session.on(Event::Grown(grown_at), now);
            Some(again)
        });
        let Some(Some(again)) = noted else { return };
        self.0.disk.grew();
        self.tell_of_deafness(id);
        if again {
            self.judge_anew();
            info!(session:% = id; "its files grow again");
        }
    }

    /// Notes why a run is left alone, and when it is looked at again; answers whether that is another reason than before.
    pub(super) fn note_excuse(&self, id: &RecordingId, finding: Finding, since: Timestamp) -> bool {
        let when = When {
            now: self.0.clock.now(),
            first: self.0.policy.stall_timeout,
        };
        let is_new = self.table().change(id, |entry| {
            let session = &entry.session;
            // Of one that nobody hears it is only the looks at its folder that say so: it is asked no more often for those.
            let went_on_at = session.advanced_at.min(session.heartbeat_at);
            let stall = entry.stall.get_or_insert_default();
            let goes_back = |it: &Excuse| it.run == session.run && it.made_at >= went_on_at;
            stall.excuse = stall.excuse.take().filter(goes_back);
            stall.excuse(session.run, finding, since, when)
        });
        if is_new == Some(true) {
            self.judge_anew();
        }
        is_new == Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::session::tests::at;

    fn place(folder: &Path, before: Option<Size>) -> RunFiles {
        RunFiles {
            folder: folder.to_owned(),
            run: RunNumber(1),
            video: folder.join("a.mp4"),
            chunks: folder.join("r1"),
            before,
        }
    }

    fn look(
        second: i64,
        video: u64,
        chunk: impl Into<Option<(u32, u64)>>,
        written: i64,
    ) -> RunLook {
        let chunk = chunk.into();
        RunLook {
            at: at(second),
            run: RunNumber(1),
            size: Size { video, chunk },
            written_at: at(written),
        }
    }

    fn grown_at(stall: &Stall) -> Option<Timestamp> {
        stall.growth.as_ref().map(|it| it.grown_at)
    }

    #[test]
    fn the_last_chunk_of_the_run_is_looked_at_where_the_video_does_not_grow() {
        let folder = tempfile::tempdir().unwrap();
        let seen = |before: Option<Size>| place(folder.path(), before).look(at(9)).size;
        assert_eq!(seen(None), Size::default());
        fs::create_dir(folder.path().join("r1")).unwrap();
        fs::write(folder.path().join("a.mp4"), "12345").unwrap();
        for (name, text) in [
            ("0009.mp4", "123"),
            ("0010.mp4", "12"),
            ("x.mp4", ""),
            (".room", "1"),
        ] {
            fs::write(folder.path().join("r1").join(name), text).unwrap();
        }
        let sizes = |video, chunk| Size { video, chunk };
        let all = sizes(5, Some((10, 2)));
        assert_eq!(seen(None), all);
        assert_eq!(seen(Some(sizes(4, Some((9, 3))))), sizes(5, None));
        assert_eq!(seen(Some(sizes(5, Some((9, 3))))), all);
    }

    #[test]
    fn growth_is_dated_by_the_file_between_two_looks_whatever_the_file_systems_clock() {
        let mut stall = Stall::default();
        stall.note(&look(1, 10, None, 1));
        assert_eq!(grown_at(&stall), None, "of this run there is nothing yet");
        stall.note(&look(2, 10, (1, 5), 1));
        assert_eq!(grown_at(&stall), Some(at(2)));
        stall.note(&look(4, 11, None, 3));
        assert_eq!(grown_at(&stall), Some(at(3)));
        // While the video grew nobody looked at the chunk: what it has more now may be as old.
        stall.note(&look(4, 11, (1, 5), 4));
        assert_eq!(grown_at(&stall), Some(at(3)));
        stall.note(&look(5, 11, (1, 6), 900));
        assert_eq!(grown_at(&stall), Some(at(5)), "never later than now");
        stall.note(&look(6, 11, (2, 1), -900));
        assert_eq!(grown_at(&stall), Some(at(5)), "never before the last look");
        stall.note(&look(7, 11, (2, 1), 7));
        assert_eq!(grown_at(&stall), Some(at(5)), "a stamp alone is no growth");
        stall.thaw(at(4));
        assert_eq!(grown_at(&stall), Some(at(5)));
        stall.note(&look(6, 90, (2, 1), 6));
        assert_eq!(stall.growth.as_ref().unwrap().size.video, 11, "an old look");
    }

    #[test]
    fn what_does_not_grow_is_asked_less_and_less_often_until_it_grows() {
        let mut stall = Stall::default();
        stall.note(&look(1, 10, (1, 1), 1));
        let mut excuse = |second: i64, finding: Finding| {
            let when = When {
                now: at(second),
                first: Duration::from_secs(5),
            };
            let is_new = stall.excuse(RunNumber(1), finding, at(5), when);
            let excuse = stall.excuse.as_ref().unwrap();
            assert_eq!(excuse.since, at(5));
            (is_new, excuse.next.since(at(second)).as_secs())
        };
        let fine = || Finding::Answers(Doing::Fine);
        let said = [10, 15, 25, 45, 75].map(|second| excuse(second, fine()));
        let wanted = [
            (true, 5),
            (false, 10),
            (false, 20),
            (false, 30),
            (false, 30),
        ];
        assert_eq!(said, wanted);
        assert_eq!(excuse(105, Finding::DiskHangs), (true, 30));
        assert_eq!(stall.note(&look(106, 10, (1, 1), 1)), None);
        assert_eq!(stall.note(&look(107, 11, (1, 1), 107)), Some(at(107)));
    }
}
