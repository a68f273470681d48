//! The video at OpenVidu's path, from its first fragment to its `moov`.

use super::boxes;
use super::fragment::{Fragment, Head, Init, Media, NOT_SYNC, Sample, Stretch, Track, stamp};
use super::ledger::{Entered, Ledger};
use super::mark::{LAYOUT, Mark};
use super::moov::{self, TrackOut};
use super::place::{Gap, Placement, Reel, Strand};
use super::silence::Packet;
use super::source::{self, Chunk, Found, Trouble, Window};
use super::table::Table;
use super::{ChunkSource, JoinError, Malformed, Options, Origin, PART, info, reserve};
use crate::clock::Timestamp;
use crate::disk;
use crate::model::timeline::Timeline;
use log::{error, warn};
use mp4_atom::{Moof, Prft, Tfdt, Tfhd, Traf, Trun, TrunEntry, TrunSamples};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The room for the `moov` at the front: a description of another encoding finds its place there later.
const FRONT: u64 = 8 << 10;
/// The placeholder that becomes the header of the finished file's `mdat`.
const PLACEHOLDER: u64 = 16;
/// The most packets of silence in one fragment.
const SILENT_PACKETS: u32 = 4096;

/// A video that grows fragment by fragment.
#[derive(Debug)]
pub struct GrowingFile {
    path: PathBuf,
    options: Options,
    open: Option<Open>,
    cause: Option<String>,
}

/// What became of a take.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The video.
    pub video: PathBuf,
    /// What it was made from.
    pub timeline: Timeline,
    /// Its size.
    pub bytes: u64,
    /// How long it plays.
    pub duration: Duration,
    /// What OpenVidu reads of it.
    pub info: String,
    /// Whether it is a regular MP4. Where the disk did not take its end it is still one that grows, which plays.
    pub regular: bool,
}

/// What [`GrowingFile::catch_up`] made of one chunk.
#[derive(Clone, Debug)]
pub struct CaughtUp {
    /// The chunk.
    pub source: ChunkSource,
    /// How many fragments of it were taken now.
    pub fragments: u32,
    /// The bytes of media in them.
    pub bytes: u64,
    /// The bytes at its end that are no whole fragment.
    pub lost_bytes: u64,
    /// What is wrong with it.
    pub fault: Option<String>,
    /// It belongs before what the video holds: only joining the take anew brings it in.
    pub late: bool,
}

impl GrowingFile {
    /// Opens the video at `path`. Nothing is made there before the first fragment; what an earlier run of this take left is
    /// taken up, and a file of another recording is put aside.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(path: impl Into<PathBuf>, options: Options) -> Result<Self, JoinError> {
        let path = path.into();
        let open = take_up(&path, &options)?;
        Ok(Self {
            path,
            options,
            open,
            cause: None,
        })
    }

    /// The same for a recorder, which has to go on: a file that cannot be read is put aside, as it is, for a person to look at.
    ///
    /// # Errors
    /// When it cannot be put aside either, or there is only no room to go on with it: another run may have some.
    pub fn open_or_put_aside(path: &Path, options: Options) -> Result<Self, JoinError> {
        let opened = Self::open(path, options.clone());
        // A network file system may refuse once and answer the second time.
        let opened = opened.or_else(|_| Self::open(path, options.clone()));
        opened.or_else(|cause| {
            if cause.is_for_want_of_room() {
                return Err(cause);
            }
            let aside = unused_name(path, &format!("unreadable-{}", options.take));
            fs::rename(path, &aside).map_err(JoinError::io("put aside", path))?;
            error!(
                video:% = path.display(), aside:% = aside.display();
                "{cause}; it was put aside, and the video begins anew with the chunks that are on this disk; make it whole with \"ov2-ha-recorder recover\""
            );
            Self::open(path, options)
        })
    }

    /// Opens the video anew: where its file system was taken away and came back, what was open leads nowhere any more. One
    /// that only lost its name gets it back.
    ///
    /// # Errors
    /// When the file system refuses; what is open stays so where nothing else leads to it.
    pub fn reopen(&mut self) -> Result<(), JoinError> {
        if self.is_nameless() {
            return self.name_again();
        }
        // closed first, for it holds the lock
        self.open = None;
        self.open = take_up(&self.path, &self.options)?;
        Ok(())
    }

    /// Whether the video was deleted, moved away or replaced while it was open.
    pub fn is_nameless(&self) -> bool {
        let open = self.open.as_ref();
        open.is_some_and(|open| disk::is_nameless(&self.path, &open.file))
    }

    fn name_again(&mut self) -> Result<(), JoinError> {
        if let Some(there) = take_up(&self.path, &self.options)? {
            self.open = Some(there);
        } else if let Some(open) = &mut self.open {
            let copy = disk::name_again(&open.file, &self.path);
            open.file = copy.map_err(JoinError::io("make again", &self.path))?;
            let _ = open.file.try_lock();
        }
        Ok(())
    }

    /// Where the video lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Wall clock of the end of the last frame in it.
    pub fn covers(&self) -> Option<Timestamp> {
        let reel = &self.open.as_ref()?.state.reel;
        Some(stamp(
            reel.video.next as i64 + reel.shift + reel.shown,
            reel.video.timescale,
        ))
    }

    /// The chunk that the last fragment came from.
    pub fn last(&self) -> Option<Origin> {
        self.open.as_ref()?.state.ledger.last()
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.end)
    }

    /// Says why the next gap, if there will be one, has come about.
    pub fn explain(&mut self, cause: impl Into<String>) {
        self.cause = Some(cause.into());
    }

    /// Appends a fragment. `false`: nothing of it can be shown, as sound before the first frame.
    ///
    /// # Errors
    /// When the file system refuses, or the fragment is broken. The video is then as it was before.
    pub fn append(
        &mut self,
        init: &Init,
        fragment: &Fragment,
        origin: Origin,
    ) -> Result<bool, JoinError> {
        let media = &fragment.bytes[fragment.head.moof_len as usize..];
        self.add(init, &fragment.head, Payload::Memory(media), origin)
    }

    /// Appends what it misses of these chunks, in the order of run and index.
    ///
    /// # Errors
    /// When the video cannot be written. A chunk that cannot be read is no error; it is named in the answer.
    pub fn catch_up(&mut self, chunks: &[ChunkSource]) -> Result<Vec<CaughtUp>, JoinError> {
        let mut chunks = chunks.to_vec();
        chunks.sort_by_key(ChunkSource::origin);
        chunks
            .into_iter()
            .map(|chunk| self.catch_up_one(chunk))
            .collect()
    }

    pub(super) fn catch_up_one(&mut self, source: ChunkSource) -> Result<CaughtUp, JoinError> {
        let origin = source.origin();
        let mut report = CaughtUp {
            source,
            fragments: 0,
            bytes: 0,
            lost_bytes: 0,
            fault: None,
            late: false,
        };
        if let Some(last) = self.last()
            && origin < last
        {
            report.late = !self
                .open
                .as_ref()
                .is_some_and(|open| open.state.ledger.knows(origin));
            return Ok(report);
        }
        let file = match File::open(&report.source.path) {
            Ok(file) => file,
            Err(cause) => {
                report.fault = Some(cause.to_string());
                return Ok(report);
            }
        };
        self.take_chunk(&file, origin, &mut report)?;
        if report.lost_bytes > 0 {
            self.mark_lost(origin, report.lost_bytes)?;
        }
        Ok(report)
    }

    fn take_chunk(
        &mut self,
        file: &File,
        origin: Origin,
        report: &mut CaughtUp,
    ) -> Result<(), JoinError> {
        let mut chunk = match Chunk::open(file) {
            Ok(chunk) => chunk,
            Err(cause) => {
                report.fault = Some(cause.to_string());
                return Ok(());
            }
        };
        loop {
            let found = match chunk.next() {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(Trouble::Io(cause)) => {
                    report.fault = Some(cause.to_string());
                    break;
                }
                Err(Trouble::Malformed(fault)) => {
                    report.fault = Some(fault.to_string());
                    break;
                }
            };
            let Some(init) = chunk.init() else { break };
            if self.holds(&init, &found, origin) {
                continue;
            }
            let media = Payload::File {
                file,
                at: found.media_at(),
                len: found.media_len(),
            };
            if self.add(&init, &found.head, media, origin)? {
                report.fragments += 1;
                report.bytes += found.media_len();
            }
        }
        report.lost_bytes = chunk.rest();
        if chunk.init().is_none() && report.fault.is_none() {
            report.fault = Some("it is no MP4, or it ends within its first bytes".into());
        }
        Ok(())
    }

    /// Whether this fragment of a chunk is in the video.
    fn holds(&self, init: &Init, found: &Found, origin: Origin) -> bool {
        let Some(open) = self
            .open
            .as_ref()
            .filter(|open| open.state.ledger.last() == Some(origin))
        else {
            return false;
        };
        open.state.holds(init, &found.head)
    }

    fn mark_lost(&mut self, origin: Origin, bytes: u64) -> Result<(), JoinError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let mut ledger = open.state.ledger.clone();
        if ledger.lost(origin, bytes) {
            let mark = Mark::Lost {
                run: origin.run,
                index: origin.index,
                bytes,
            };
            open.write_mark(&mark, &self.path)?;
            open.state.ledger = ledger;
        }
        Ok(())
    }

    fn add(
        &mut self,
        init: &Init,
        head: &Head,
        media: Payload<'_>,
        origin: Origin,
    ) -> Result<bool, JoinError> {
        match &mut self.open {
            Some(open) => {
                let added = open.add(init, head, media, origin, self.cause.clone(), &self.path)?;
                if added == Added::AfterAGap {
                    self.cause = None;
                }
                Ok(added != Added::Nothing)
            }
            None => self.begin(init, head, media, origin),
        }
    }

    /// Makes the file under another name, so that it appears with its first frames in it.
    fn begin(
        &mut self,
        init: &Init,
        head: &Head,
        media: Payload<'_>,
        origin: Origin,
    ) -> Result<bool, JoinError> {
        let Some(reel) = Reel::begin(self.options.gap_mode, head, &init.tracks) else {
            return Ok(false);
        };
        let part = beside(&self.path, &format!("r{}{PART}", origin.run));
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(JoinError::io("make the folder of", &self.path))?;
        }
        let mut open = Open::create(&part, &self.options, init, reel)?;
        open.add(init, head, media, origin, None, &part)?;
        publish(&part, &self.path)?;
        self.open = Some(open);
        Ok(true)
    }

    /// Answers when what was appended survives a loss of power.
    ///
    /// # Errors
    /// When the disk did not take it.
    pub fn sync(&self) -> Result<(), JoinError> {
        match &self.open {
            Some(open) => open.sync(&self.path),
            None => Ok(()),
        }
    }

    /// Makes the file a regular MP4. It may be finished again, and even be appended to after.
    ///
    /// # Errors
    /// When nothing was recorded, or the file system refuses. The file plays in either case.
    pub fn finish(&mut self) -> Result<Finished, JoinError> {
        let nothing = || JoinError::Nothing {
            path: self.path.clone(),
        };
        let open = self.open.as_mut().ok_or_else(nothing)?;
        let moov = open.moov(&self.path)?;
        open.finish(&moov, &self.path)?;
        let bytes = open.end + moov.len() as u64;
        self.described(moov, bytes)
    }

    /// The same for a video whose end the disk does not take: it stays as it is, and is described from memory.
    ///
    /// # Errors
    /// When nothing was recorded.
    pub fn leave_unfinished(&self) -> Result<Finished, JoinError> {
        let nothing = || JoinError::Nothing {
            path: self.path.clone(),
        };
        let open = self.open.as_ref().ok_or_else(nothing)?;
        Ok(Finished {
            regular: false,
            ..self.described(open.moov(&self.path)?, open.end)?
        })
    }

    fn described(&self, moov: Vec<u8>, bytes: u64) -> Result<Finished, JoinError> {
        let nothing = || JoinError::Nothing {
            path: self.path.clone(),
        };
        let timeline = self.timeline().ok_or_else(nothing)?;
        let duration = Duration::from_secs_f64(timeline.duration_seconds.max(0.0));
        Ok(Finished {
            video: self.path.clone(),
            info: info::info_of_moov(moov, bytes, &self.path)?,
            timeline,
            bytes,
            duration,
            regular: true,
        })
    }

    /// The most bytes that its end and its timeline may take.
    pub fn bytes_to_finish(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| {
            let state = &open.state;
            moov::most_bytes(&state.tracks, &state.tables) + state.ledger.most_bytes()
        })
    }

    /// What the video is made from so far.
    pub fn timeline(&self) -> Option<Timeline> {
        let state = &self.open.as_ref()?.state;
        Some(state.ledger.timeline(&self.options, &state.reel))
    }
}

/// `.<name>.<suffix>` in the same folder.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{suffix}"))
}

/// Gives `part` the name `path`, unless another has it by now.
fn publish(part: &Path, path: &Path) -> Result<(), JoinError> {
    let empty = fs::metadata(path).is_ok_and(|there| there.len() == 0);
    let linked = match empty {
        true => Err(io::ErrorKind::Unsupported.into()),
        false => fs::hard_link(part, path),
    };
    match linked {
        Ok(()) => fs::remove_file(part).map_err(JoinError::io("remove", part)),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
            let _ = fs::remove_file(part);
            Err(JoinError::Begun {
                path: path.to_owned(),
            })
        }
        // a file system without links
        Err(_) => fs::rename(part, path).map_err(JoinError::io("rename a new file to", path)),
    }
}

/// Opens what lies at `path`; `None` when nothing of this take does.
fn take_up(path: &Path, options: &Options) -> Result<Option<Open>, JoinError> {
    let fault = JoinError::io("open", path);
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(fault(cause)),
    };
    if file.metadata().map_err(&fault)?.len() == 0 {
        return Ok(None);
    }
    match State::scan(&file, path)? {
        Some(scanned) if scanned.is_of(options) => {
            let file = own(file, path)?;
            let mut open = Open {
                file,
                end: scanned.end,
                state: scanned.state,
                finished: scanned.finished,
            };
            open.state.reel.mode = options.gap_mode;
            if !open.finished {
                open.file.set_len(open.end).map_err(&fault)?;
            }
            Ok(Some(open))
        }
        _ => {
            let aside = beside(path, &format!("before-{}", options.take));
            warn!(video:% = path.display(), aside:% = aside.display(); "a file of another recording was put aside");
            fs::rename(path, &aside).map_err(JoinError::io("put aside", path))?;
            Ok(None)
        }
    }
}

/// Makes sure that no one else writes into the file. Where a recorder that was replaced still holds it, it keeps the old
/// file, which has no name any more, and the name goes to a copy.
fn own(file: File, path: &Path) -> Result<File, JoinError> {
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {}
        // a file system without locks
        Err(TryLockError::Error(_)) => return Ok(file),
    }
    let part = beside(path, &format!("taken{PART}"));
    let copy = || {
        let new = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&part)?;
        let _ = new.try_lock();
        io::copy(&mut &file, &mut &new)?;
        fs::rename(&part, path)?;
        Ok(new)
    };
    warn!(video:% = path.display(); "another process holds the video, going on in a copy of it");
    copy().map_err(|cause| {
        // Half a copy only takes room.
        let _ = fs::remove_file(&part);
        JoinError::io("copy", path)(cause)
    })
}

/// A name beside `path` that nothing has yet: what was put aside before may be the only copy.
fn unused_name(path: &Path, suffix: &str) -> PathBuf {
    let numbered = (2u32..).map(|number| beside(path, &format!("{suffix}-{number}")));
    let mut names = std::iter::once(beside(path, suffix)).chain(numbered);
    let is_free = |name: &PathBuf| fs::symlink_metadata(name).is_err();
    names.find(is_free).unwrap_or_else(|| beside(path, suffix))
}

/// Media that is to be copied.
#[derive(Clone, Copy)]
enum Payload<'a> {
    Memory(&'a [u8]),
    File { file: &'a File, at: u64, len: u64 },
}

impl Payload<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Without its first `skipped` bytes.
    fn from(self, skipped: u64) -> Self {
        match self {
            Self::Memory(bytes) => Self::Memory(bytes.get(skipped as usize..).unwrap_or(&[])),
            Self::File { file, at, len } => {
                let skipped = skipped.min(len);
                Self::File {
                    file,
                    at: at + skipped,
                    len: len - skipped,
                }
            }
        }
    }
}

/// The length of a box's header when its length fits into 32 bits.
const SHORT_HEADER: u64 = 8;

/// The parameter sets of a sample description as they stand in the stream.
fn parameter_sets(entry: &bytes::Bytes) -> Option<Vec<u8>> {
    let avc1: mp4_atom::Avc1 = match entry.get(4..8)? {
        b"avc1" => boxes::decode(&entry[8..]).ok()?,
        _ => return None,
    };
    let config = avc1.avcc;
    if config.length_size != 4 {
        return None;
    }
    let sets = config
        .sequence_parameter_sets
        .iter()
        .chain(&config.picture_parameter_sets);
    let mut out = Vec::new();
    for set in sets {
        out.extend_from_slice(&(set.len() as u32).to_be_bytes());
        out.extend_from_slice(set);
    }
    Some(out)
}

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
    /// Nothing of it can be shown.
    Nothing,
    Seamlessly,
    AfterAGap,
}

/// The file on disk and what is known of it.
#[derive(Debug)]
struct Open {
    file: File,
    /// Where the next fragment goes.
    end: u64,
    state: State,
    /// Whether the front is an `mdat` header and a `moov` stands at `end`.
    finished: bool,
}

/// What is known of a file, all of it read from the file again after a crash.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Where the placeholder lies.
    placeholder: u64,
    /// The room for `moov` and padding after the placeholder.
    front: u64,
    tracks: Vec<TrackOut>,
    tables: Vec<Table>,
    reel: Reel,
    ledger: Ledger,
    sequence: u32,
}

/// A file that was read.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) state: State,
    take: Option<Mark>,
    /// Where the last whole fragment ends.
    pub(super) end: u64,
    pub(super) finished: bool,
    /// Where the media of every fragment lies.
    pub(super) media: Vec<Lies>,
}

/// Where a fragment's `mdat` lies, and what chunk it is from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lies {
    pub(super) origin: Option<Origin>,
    pub(super) at: u64,
    pub(super) len: u64,
}

/// One fragment, ready to be written.
struct Unit {
    /// Everything before the media.
    bytes: Vec<u8>,
    placement: Placement,
    /// Where the `moof` of the media lies from the start of `bytes`.
    moof: u64,
    entered: Option<Entered>,
    descriptions: [u32; 2],
    silence: Vec<(u64, Stretch)>,
    /// How many bytes of the media's front `bytes` has already.
    replaced: u64,
}

impl Open {
    fn create(path: &Path, options: &Options, init: &Init, reel: Reel) -> Result<Self, JoinError> {
        let fault = JoinError::io("make", path);
        let tracks: Vec<TrackOut> = init
            .tracks
            .iter()
            .map(|track| new_track(track, &reel))
            .collect();
        let bad = JoinError::media("the start of the stream");
        let mut bytes = moov::file_type().map_err(&bad)?;
        let placeholder = bytes.len() as u64;
        bytes.extend_from_slice(&moov::free(PLACEHOLDER));
        let front = front(&tracks, FRONT).map_err(&bad)?;
        bytes.extend_from_slice(&front);
        let take = Mark::Take {
            layout: LAYOUT,
            recording: options.recording.clone(),
            take: options.take.clone(),
            gaps: options.gap_mode,
        };
        take.write(&mut bytes).map_err(&bad)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(&fault)?;
        let _ = file.try_lock();
        file.write_all_at(&bytes, 0).map_err(&fault)?;
        let tables = tracks.iter().map(|_| Table::default()).collect();
        let state = State {
            placeholder,
            front: front.len() as u64,
            tracks,
            tables,
            reel,
            ledger: Ledger::default(),
            sequence: 0,
        };
        Ok(Self {
            file,
            end: bytes.len() as u64,
            state,
            finished: false,
        })
    }

    fn add(
        &mut self,
        init: &Init,
        head: &Head,
        media: Payload<'_>,
        origin: Origin,
        cause: Option<String>,
        path: &Path,
    ) -> Result<Added, JoinError> {
        let bad = |cause| JoinError::Media {
            what: format!("a fragment of chunk {}", origin.index),
            cause,
        };
        let mut next = self.state.clone_light();
        let described = self.describe(init, head, path)?;
        let Some(unit) = self
            .state
            .unit(&mut next, head, media.len(), origin, cause, described)
            .map_err(bad)?
        else {
            return Ok(Added::Nothing);
        };
        self.unfinish(path)?;
        let media = media.from(unit.replaced);
        let written = write(&self.file, self.end, &unit.bytes, media);
        if let Err(cause) = written {
            // half a fragment at the end does no harm, but room is what is short
            let _ = self.file.set_len(self.end);
            return Err(JoinError::Io {
                act: "append to",
                path: path.to_owned(),
                cause,
            });
        }
        self.state.enter(next, &unit, self.end);
        self.end += unit.bytes.len() as u64 + media.len();
        Ok(match unit.placement.gap {
            Some(_) => Added::AfterAGap,
            None => Added::Seamlessly,
        })
    }

    /// The number of each track's sample description, video first; one that is new is entered at the front.
    fn describe(&mut self, init: &Init, head: &Head, path: &Path) -> Result<[u32; 2], JoinError> {
        let mut numbers = [0; 2];
        let mut tracks = self.state.tracks.clone();
        let mut new = Vec::new();
        for out in &mut tracks {
            let stretch = match out.media {
                Media::Video => head.video.as_ref(),
                Media::Audio => head.audio.as_ref(),
            };
            let Some((track, stretch)) = init.track(out.media).zip(stretch) else {
                continue;
            };
            let Some(entry) = track.entries.get(stretch.description as usize) else {
                continue;
            };
            let known = out.entries.iter().position(|known| known == entry);
            numbers[(out.id() - 1) as usize] = known.unwrap_or(out.entries.len()) as u32;
            if known.is_none() {
                out.entries.push(entry.clone());
                new.push(out.media);
            }
        }
        if !new.is_empty() {
            self.describe_anew(tracks, &new, head.start(), path)?;
        }
        Ok(numbers)
    }

    fn describe_anew(
        &mut self,
        tracks: Vec<TrackOut>,
        new: &[Media],
        at: Timestamp,
        path: &Path,
    ) -> Result<(), JoinError> {
        let bad = JoinError::media("a fragment that is encoded otherwise");
        let front = front(&tracks, self.state.front).map_err(bad)?;
        self.unfinish(path)?;
        self.file
            .write_all_at(&front, self.state.placeholder + PLACEHOLDER)
            .map_err(JoinError::io("write to the front of", path))?;
        self.state.tracks = tracks;
        for media in new {
            let what = if *media == Media::Video {
                "picture"
            } else {
                "sound"
            };
            let text = format!(
                "from {at} on the {what} is encoded otherwise than before; some players (browsers based on Chromium) stop there"
            );
            self.write_mark(&Mark::Note { text: text.clone() }, path)?;
            self.state.ledger.note(text);
        }
        Ok(())
    }

    fn write_mark(&mut self, mark: &Mark, path: &Path) -> Result<(), JoinError> {
        let mut bytes = Vec::new();
        mark.write(&mut bytes).map_err(JoinError::media("a note"))?;
        self.unfinish(path)?;
        self.file
            .write_all_at(&bytes, self.end)
            .map_err(JoinError::io("append to", path))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn sync(&self, path: &Path) -> Result<(), JoinError> {
        self.file.sync_data().map_err(JoinError::io("write", path))
    }

    fn moov(&self, path: &Path) -> Result<Vec<u8>, JoinError> {
        moov::finished(&self.state.tracks, &self.state.tables)
            .map_err(JoinError::media(path.display()))
    }

    /// The `moov` first and flushed, then the 16 bytes that bring it into force.
    fn finish(&mut self, moov: &[u8], path: &Path) -> Result<(), JoinError> {
        if self.finished {
            return Ok(());
        }
        reserve::release(path);
        let ended = self.write_end(moov);
        if ended.is_err() {
            // The header first: in force without its `moov` it would make the whole file unreadable. Where it cannot be
            // taken back, the `moov` stays.
            let growing = moov::free(PLACEHOLDER);
            let taken_back = self.file.write_all_at(&growing, self.state.placeholder);
            if taken_back.is_ok() {
                // A part of a `moov` would only be in the way of who reads, or goes on.
                let _ = self.file.set_len(self.end);
            }
        }
        ended.map_err(JoinError::io("finish", path))?;
        self.finished = true;
        Ok(())
    }

    fn write_end(&self, moov: &[u8]) -> io::Result<()> {
        let placeholder = self.state.placeholder;
        self.file.write_all_at(moov, self.end)?;
        self.file.set_len(self.end + moov.len() as u64)?;
        self.file.sync_all()?;
        let header = moov::media_header(self.end - placeholder);
        self.file.write_all_at(&header, placeholder)?;
        self.file.sync_all()
    }

    /// Makes a finished file one that grows again.
    fn unfinish(&mut self, path: &Path) -> Result<(), JoinError> {
        if !self.finished {
            return Ok(());
        }
        let fault = JoinError::io("go on with", path);
        self.file
            .write_all_at(&moov::free(PLACEHOLDER), self.state.placeholder)
            .map_err(&fault)?;
        self.file.set_len(self.end).map_err(&fault)?;
        self.finished = false;
        Ok(())
    }
}

/// Writes `bytes` and then the media at `at`.
fn write(mut file: &File, at: u64, bytes: &[u8], media: Payload<'_>) -> io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)?;
    match media {
        Payload::Memory(media) => file.write_all(media),
        Payload::File {
            file: mut source,
            at,
            len,
        } => {
            source.seek(SeekFrom::Start(at))?;
            match io::copy(&mut source.take(len), &mut file)? {
                copied if copied == len => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

fn new_track(track: &Track, reel: &Reel) -> TrackOut {
    let strand = match track.media {
        Media::Video => Some(&reel.video),
        Media::Audio => reel.audio.as_ref(),
    };
    TrackOut {
        media: track.media,
        timescale: track.timescale,
        size: track.size,
        lead: strand.map_or(0, |strand| strand.lead),
        entries: track.entries.clone(),
    }
}

/// The `moov` for fragments, padded to `room` bytes.
fn front(tracks: &[TrackOut], room: u64) -> Result<Vec<u8>, Malformed> {
    let mut bytes = moov::growing(tracks)?;
    match room.checked_sub(bytes.len() as u64) {
        Some(left) if left >= 8 => bytes.extend_from_slice(&moov::free(left)),
        Some(0) => {}
        _ => {
            return Err(Malformed::new(
                "its encoding changed so often that the file has no room for one more",
            ));
        }
    }
    Ok(bytes)
}

/// The part of the state that a fragment moves on before it is written.
struct Light {
    reel: Reel,
    sequence: u32,
}

impl State {
    fn clone_light(&self) -> Light {
        Light {
            reel: self.reel.clone(),
            sequence: self.sequence,
        }
    }

    /// Makes the bytes of a fragment; `None` when nothing of it can be shown.
    fn unit(
        &self,
        next: &mut Light,
        head: &Head,
        media_len: u64,
        origin: Origin,
        cause: Option<String>,
        descriptions: [u32; 2],
    ) -> Result<Option<Unit>, Malformed> {
        let head = self.in_our_scales(head);
        let joins = self.ledger.last().is_none_or(|last| last.run == origin.run);
        let Some(mut placement) = next.reel.place(&head, joins) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let silence = self.silence(next, &placement, &mut bytes)?;
        if self.ledger.last() != Some(origin) {
            Mark::Chunk {
                run: origin.run,
                index: origin.index,
            }
            .write(&mut bytes)?;
        }
        if placement.gap.is_some() {
            let cause = cause.unwrap_or_else(|| self.ledger.guess(origin));
            Mark::Gap { cause }.write(&mut bytes)?;
        }
        let repeated = self.repeat_parameters(&mut placement, descriptions[0], &head, media_len);
        let mut entered = None;
        if let Some(video) = &placement.video {
            let starts = video.start as i64 + next.reel.shift;
            boxes::encode(&mut bytes, &reference(starts, video.start, video.timescale))?;
            entered = Some(Entered {
                origin,
                starts,
                at: video.start,
                ticks: video.duration(),
                bytes: media_len
                    + repeated
                        .as_ref()
                        .map_or(0, |(front, was)| front.len() as u64 - was),
            });
        }
        next.sequence += 1;
        let moof = write_moof(
            &mut bytes,
            next.sequence,
            &mut placement,
            descriptions,
            head.moof_len,
        )?;
        let (front, replaced) = repeated.unwrap_or_default();
        bytes.extend_from_slice(&front);
        Ok(Some(Unit {
            bytes,
            placement,
            moof,
            entered,
            descriptions,
            silence,
            replaced,
        }))
    }

    /// Where the encoding changed within the video, its parameters go into the stream itself too, at the start of every
    /// keyframe: players that do not look for another sample description within fragments (ffmpeg is one) need them
    /// there. Answers how many bytes of the media's front are written with that.
    fn repeat_parameters(
        &self,
        placement: &mut Placement,
        description: u32,
        head: &Head,
        media_len: u64,
    ) -> Option<(Vec<u8>, u64)> {
        let track = self
            .tracks
            .iter()
            .find(|track| track.media == Media::Video)?;
        let entry = track
            .entries
            .get(description as usize)
            .filter(|_| track.entries.len() > 1)?;
        let video = placement.video.as_mut()?;
        let first = video.samples.first_mut().filter(|first| first.sync)?;
        if first.at != u64::from(head.moof_len) + SHORT_HEADER {
            return None;
        }
        let parameters = parameter_sets(entry)?;
        let more = parameters.len() as u64;
        first.size += parameters.len() as u32;
        let others = video.samples.iter_mut().skip(1);
        let sound = placement
            .audio
            .iter_mut()
            .flat_map(|audio| &mut audio.samples);
        others.chain(sound).for_each(|sample| sample.at += more);
        let mut front = Vec::with_capacity(parameters.len() + 8);
        front.extend_from_slice(&u32::try_from(media_len + more).ok()?.to_be_bytes());
        front.extend_from_slice(b"mdat");
        front.extend_from_slice(&parameters);
        Some((front, SHORT_HEADER))
    }

    fn in_our_scales(&self, head: &Head) -> Head {
        let scale = |media, stretch: &Option<Stretch>| {
            let track = self.tracks.iter().find(|track| track.media == media)?;
            stretch
                .as_ref()
                .map(|stretch| stretch.rescaled(track.timescale))
        };
        Head {
            video: scale(Media::Video, &head.video),
            audio: scale(Media::Audio, &head.audio),
            ..*head
        }
    }

    /// Whole fragments of silence before the sound of `placement`, each with the place of its `moof`.
    fn silence(
        &self,
        next: &mut Light,
        placement: &Placement,
        bytes: &mut Vec<u8>,
    ) -> Result<Vec<(u64, Stretch)>, Malformed> {
        let mut written = Vec::new();
        let (Some(sound), Some(packet)) = (
            &placement.audio,
            self.reel.audio.as_ref().and_then(|audio| audio.packet),
        ) else {
            return Ok(written);
        };
        let mut left = placement.silence;
        while left > 0 {
            let count = left.min(SILENT_PACKETS);
            let start = sound.start - u64::from(left) * u64::from(packet.samples);
            next.sequence += 1;
            let at = bytes.len() as u64;
            let description = self.tracks.iter().find(|track| track.media == Media::Audio);
            let last = description.map_or(0, |track| track.entries.len().saturating_sub(1));
            let stretch = write_silence(
                bytes,
                next.sequence,
                start,
                count,
                packet,
                sound.timescale,
                last as u32,
            )?;
            written.push((at, stretch));
            left -= count;
        }
        Ok(written)
    }

    /// Takes a unit that was written at `at` into the books.
    fn enter(&mut self, next: Light, unit: &Unit, at: u64) {
        for (moof, stretch) in &unit.silence {
            self.enter_stretch(Media::Audio, stretch, at + moof, stretch.description);
        }
        let [video, audio] = unit.descriptions;
        let timescale = self.reel.video.timescale;
        if let (Some(gap), Some(entered)) = (unit.placement.gap, unit.entered) {
            // the cause is read back from where it was written, as after a crash
            let cause = cause_in(&unit.bytes).unwrap_or_else(|| self.ledger.guess(entered.origin));
            self.ledger.gap(gap, entered.at, timescale, cause);
        }
        if let Some(entered) = unit.entered {
            self.ledger.fragment(entered, timescale);
        }
        if let Some(stretch) = &unit.placement.video {
            self.enter_stretch(Media::Video, stretch, at + unit.moof, video);
        }
        if let Some(stretch) = &unit.placement.audio {
            self.enter_stretch(Media::Audio, stretch, at + unit.moof, audio);
        }
        self.reel = next.reel;
        self.sequence = next.sequence;
    }

    fn enter_stretch(&mut self, media: Media, stretch: &Stretch, base: u64, description: u32) {
        for (track, table) in self.tracks.iter().zip(&mut self.tables) {
            if track.media == media {
                table.enter(stretch.start, &stretch.samples, base, description);
                if media == Media::Audio {
                    table.forget_keyframes();
                }
            }
        }
    }

    /// Whether a fragment of the last chunk is in the file.
    fn holds(&self, _init: &Init, head: &Head) -> bool {
        let head = self.in_our_scales(head);
        let reel = &self.reel;
        match (&head.video, &head.audio, &reel.audio) {
            (Some(video), _, _) => {
                let end = reel.video.next as i64 + reel.shift;
                (video.start as i64) + i64::from(reel.frame / 2) < end
            }
            (None, Some(sound), Some(strand)) => {
                let end = strand.next as i64 - strand.lead as i64 + reel.zero(strand.timescale);
                let slack = strand
                    .packet
                    .map_or(0, |packet| 2 * i64::from(packet.samples));
                sound.start as i64 + slack < end
            }
            _ => false,
        }
    }

    /// Reads a file; `None` when it is none of ours.
    pub(super) fn scan(file: &File, path: &Path) -> Result<Option<Scanned>, JoinError> {
        match Scan::run(file) {
            Ok(scanned) => Ok(scanned),
            Err(Trouble::Malformed(_)) => Ok(None),
            Err(Trouble::Io(cause)) => Err(JoinError::Io {
                act: "read",
                path: path.to_owned(),
                cause,
            }),
        }
    }
}

fn cause_in(bytes: &[u8]) -> Option<String> {
    boxes::children(bytes)
        .map_while(Result::ok)
        .find_map(|(kind, body)| match (&kind, Mark::read(body)?) {
            (b"uuid", Mark::Gap { cause }) => Some(cause),
            _ => None,
        })
}

impl Scanned {
    /// The `moov` that the file must end with.
    pub(super) fn moov(&self) -> Result<Vec<u8>, Malformed> {
        moov::finished(&self.state.tracks, &self.state.tables)
    }

    /// What the video is made from.
    pub(super) fn timeline(&self) -> Option<Timeline> {
        match &self.take {
            Some(Mark::Take {
                recording,
                take,
                gaps,
                ..
            }) => {
                let options = Options {
                    recording: recording.clone(),
                    take: take.clone(),
                    gap_mode: *gaps,
                };
                Some(self.state.ledger.timeline(&options, &self.state.reel))
            }
            _ => None,
        }
    }

    fn is_of(&self, options: &Options) -> bool {
        matches!(&self.take, Some(Mark::Take { layout: LAYOUT, recording, take, .. })
            if *recording == options.recording && *take == options.take)
    }
}

/// Reads a file from its front to its last whole fragment.
struct Scan<'a> {
    window: Window<'a>,
    at: u64,
    init: Init,
    state: State,
    take: Option<Mark>,
    /// Notes that hold for the next fragment.
    origin: Option<Origin>,
    cause: Option<String>,
    reference: Option<Prft>,
    /// The end of the last whole fragment or note that stands alone.
    whole: u64,
    media: Vec<Lies>,
}

impl<'a> Scan<'a> {
    fn run(file: &'a File) -> Result<Option<Scanned>, Trouble> {
        let Some((mut scan, finished)) = Self::front(file)? else {
            return Ok(None);
        };
        loop {
            match scan.step() {
                Ok(Some(())) => {}
                // what is broken ends what is whole, and is no fault
                Ok(None) | Err(Trouble::Malformed(_)) => break,
                Err(Trouble::Io(cause)) => return Err(cause.into()),
            }
        }
        let begun = scan.state.ledger.last().is_some();
        Ok(begun.then_some(Scanned {
            state: scan.state,
            take: scan.take,
            end: scan.whole,
            finished,
            media: scan.media,
        }))
    }

    fn front(file: &'a File) -> Result<Option<(Self, bool)>, Trouble> {
        let mut window = Window::new(file)?;
        let Some(ftyp) = window.header(0)?.filter(|header| header.kind == *b"ftyp") else {
            return Ok(None);
        };
        let placeholder = ftyp.len;
        let finished = match window.header(placeholder)? {
            Some(header) if header.kind == *b"free" && header.len == PLACEHOLDER => false,
            Some(header) if header.kind == *b"mdat" && header.head == PLACEHOLDER => {
                window.end = placeholder + header.len;
                true
            }
            _ => return Ok(None),
        };
        let at = placeholder + PLACEHOLDER;
        let Some(moov) = window.header(at)?.filter(|header| header.kind == *b"moov") else {
            return Ok(None);
        };
        let moov_bytes = bytes::Bytes::copy_from_slice(window.whole(at, &moov)?);
        let init = Init::read(bytes::Bytes::new(), moov_bytes)?;
        let padding = window
            .header(at + moov.len)?
            .filter(|header| header.kind == *b"free");
        let front = moov.len + padding.map_or(0, |header| header.len);
        let state = State::of_front(placeholder, front, &init);
        let at = at + front;
        let scan = Self {
            window,
            at,
            init,
            state,
            take: None,
            origin: None,
            cause: None,
            reference: None,
            whole: at,
            media: Vec::new(),
        };
        Ok(Some((scan, finished)))
    }

    /// One box on; `None` at the end.
    fn step(&mut self) -> Result<Option<()>, Trouble> {
        let Some(header) = self.window.header(self.at)? else {
            return Ok(None);
        };
        let at = self.at;
        match &header.kind {
            b"uuid" => {
                let mark = Mark::read(&self.window.whole(at, &header)?[header.head as usize..]);
                self.at = at + header.len;
                mark.into_iter().for_each(|mark| self.mark(mark));
            }
            b"prft" => {
                let body = &self.window.whole(at, &header)?[header.head as usize..];
                self.reference = Some(boxes::decode(body)?);
                self.at = at + header.len;
            }
            b"moof" => {
                let Some(found) = source::fragment(&mut self.window, at, &header, &self.init)?
                else {
                    return Ok(None);
                };
                self.at = at + found.head.len;
                self.fragment(&found);
                self.media.push(Lies {
                    origin: self.origin,
                    at: found.media_at(),
                    len: found.media_len(),
                });
                self.whole = self.at;
            }
            b"free" => {
                self.at = at + header.len;
                self.whole = self.at;
            }
            _ => return Ok(None),
        }
        Ok(Some(()))
    }

    fn mark(&mut self, mark: Mark) {
        match mark {
            Mark::Take { .. } => self.take = Some(mark),
            Mark::Chunk { run, index } => self.origin = Some(Origin { run, index }),
            Mark::Gap { cause } => self.cause = Some(cause),
            Mark::Lost { run, index, bytes } => {
                self.state.ledger.lost(Origin { run, index }, bytes);
                self.whole = self.at;
            }
            Mark::Note { text } => {
                self.state.ledger.note(text);
                self.whole = self.at;
            }
        }
    }

    fn fragment(&mut self, found: &Found) {
        let state = &mut self.state;
        state.sequence += 1;
        if let Some(audio) = &found.head.audio {
            state.enter_stretch(Media::Audio, audio, found.at, audio.description);
            if let Some(strand) = &mut state.reel.audio {
                strand.next = audio.start + audio.duration();
            }
        }
        let Some(video) = &found.head.video else {
            return;
        };
        let starts = self
            .reference
            .take()
            .map_or(video.start as i64, |prft| wall(&prft, video.timescale));
        let first = state.ledger.last().is_none();
        let origin = self.origin.or(state.ledger.last());
        let Some(origin) = origin else { return };
        let reel = &mut state.reel;
        if first {
            reel.origin = starts - video.start as i64;
            reel.shown = video
                .samples
                .first()
                .map_or(0, |sample| i64::from(sample.shown));
        } else {
            let from = reel.video.next as i64 + reel.shift;
            if starts - from > i64::from(reel.frame / 2) {
                let cause = self
                    .cause
                    .take()
                    .unwrap_or_else(|| state.ledger.guess(origin));
                state.ledger.gap(
                    Gap { from, to: starts },
                    video.start,
                    video.timescale,
                    cause,
                );
            }
        }
        reel.shift = starts - video.start as i64;
        reel.video.next = video.start + video.duration();
        reel.frame = video
            .samples
            .last()
            .map_or(1, |sample| sample.duration.max(1));
        let entered = Entered {
            origin,
            starts,
            at: video.start,
            ticks: video.duration(),
            bytes: found.media_len(),
        };
        state.ledger.fragment(entered, video.timescale);
        state.enter_stretch(Media::Video, video, found.at, video.description);
    }
}

impl State {
    fn of_front(placeholder: u64, front: u64, init: &Init) -> Self {
        let strand = |track: &Track| Strand {
            timescale: track.timescale,
            next: 0,
            lead: track.edit.media_time,
            packet: Stretch::packet(track, 0).filter(|_| track.media == Media::Audio),
        };
        let tracks: Vec<TrackOut> = init
            .tracks
            .iter()
            .map(|track| TrackOut {
                media: track.media,
                timescale: track.timescale,
                size: track.size,
                lead: track.edit.media_time,
                entries: track.entries.clone(),
            })
            .collect();
        let none = Strand {
            timescale: 1,
            next: 0,
            lead: 0,
            packet: None,
        };
        let reel = Reel {
            mode: Default::default(),
            video: init.track(Media::Video).map_or(none, strand),
            audio: init.track(Media::Audio).map(strand),
            shift: 0,
            origin: 0,
            shown: 0,
            frame: 1,
        };
        let tables = tracks.iter().map(|_| Table::default()).collect();
        Self {
            placeholder,
            front,
            tracks,
            tables,
            reel,
            ledger: Ledger::default(),
            sequence: 0,
        }
    }
}

/// Seconds from NTP's epoch to Unix's.
const NTP: i64 = 2_208_988_800;
/// NTP counts seconds in 32 bits; its second era begins in 2036.
const ERA: i64 = 1 << 32;

/// The wall clock of a fragment as the standard has it.
fn reference(starts: i64, media_time: u64, timescale: u32) -> Prft {
    let scale = i64::from(timescale);
    let (whole, part) = (starts.div_euclid(scale), starts.rem_euclid(scale));
    let seconds = (whole + NTP).rem_euclid(ERA) as u64;
    let fraction = ((part as u64) << 32) / u64::from(timescale);
    Prft {
        reference_track_id: 1,
        ntp_timestamp: (seconds << 32) | fraction,
        media_time,
        ..Prft::default()
    }
}

/// Reads [`reference`] back, exactly.
fn wall(prft: &Prft, timescale: u32) -> i64 {
    let seconds = (prft.ntp_timestamp >> 32) as i64 - NTP;
    let seconds = if seconds < 0 { seconds + ERA } else { seconds };
    let fraction = u128::from(prft.ntp_timestamp & 0xffff_ffff);
    let part = (fraction * u128::from(timescale) + (1 << 31)) >> 32;
    seconds * i64::from(timescale) + part as i64
}

/// Appends the `moof` for `placement`, and gives its samples the places they have from it. Answers where it begins.
fn write_moof(
    out: &mut Vec<u8>,
    sequence: u32,
    placement: &mut Placement,
    descriptions: [u32; 2],
    was: u32,
) -> Result<u64, Malformed> {
    let at = out.len();
    let moof =
        |placement: &Placement| {
            let parts = [(1, &placement.video), (2, &placement.audio)];
            let traf = parts.into_iter().zip(descriptions).filter_map(
                |((track, stretch), description)| Some(traf(track, description, stretch.as_ref()?)),
            );
            Moof {
                mfhd: mp4_atom::Mfhd {
                    sequence_number: sequence,
                },
                traf: traf.collect(),
            }
        };
    boxes::encode(out, &moof(placement))?;
    let len = (out.len() - at) as u64;
    for stretch in [&mut placement.video, &mut placement.audio]
        .into_iter()
        .flatten()
    {
        for sample in &mut stretch.samples {
            sample.at = sample.at - u64::from(was) + len;
        }
    }
    out.truncate(at);
    boxes::encode(out, &moof(placement))?;
    Ok(at as u64)
}

fn traf(track: u32, description: u32, stretch: &Stretch) -> Traf {
    let first = stretch.samples.first().map_or(0, |sample| sample.duration);
    let even = stretch
        .samples
        .iter()
        .all(|sample| sample.duration == first);
    let shifted = stretch.samples.iter().any(|sample| sample.shown != 0);
    let rest_needs_others = stretch.samples.iter().skip(1).all(|sample| !sample.sync);
    let flags = |sync: bool| if sync { SYNC } else { NEEDS_OTHERS };
    let default_sync = stretch.samples.iter().all(|sample| sample.sync);
    let entry = |number: usize, sample: &Sample| TrunEntry {
        size: Some(sample.size),
        duration: (!even).then_some(sample.duration),
        cts: shifted.then_some(i64::from(sample.shown)),
        flags: match (default_sync, rest_needs_others, number) {
            (true, _, _) => None,
            (false, true, 0) => Some(flags(sample.sync)),
            (false, true, _) => None,
            (false, false, _) => Some(flags(sample.sync)),
        },
    };
    let numbered: Vec<(usize, Sample)> = stretch.samples.iter().copied().enumerate().collect();
    let trun = numbered
        .chunk_by(|(_, a), (_, b)| a.at + u64::from(a.size) == b.at)
        .map(|run| Trun {
            data_offset: run.first().map(|(_, sample)| sample.at as i32),
            samples: TrunSamples::Explicit(
                run.iter()
                    .map(|(number, sample)| entry(*number, sample))
                    .collect(),
            ),
        });
    Traf {
        tfhd: Tfhd {
            track_id: track,
            sample_description_index: Some(description + 1),
            default_sample_duration: even.then_some(first),
            default_sample_flags: Some(flags(default_sync)),
            default_base_is_moof: true,
            ..Tfhd::default()
        },
        tfdt: Some(Tfdt {
            base_media_decode_time: stretch.start,
        }),
        trun: trun.collect(),
        ..Traf::default()
    }
}

/// Sample flags: depends on no other.
const SYNC: u32 = 0x0200_0000;
/// Sample flags: depends on others, cannot be decoded alone.
const NEEDS_OTHERS: u32 = 0x0100_0000 | NOT_SYNC;

/// Appends a fragment of silence.
fn write_silence(
    out: &mut Vec<u8>,
    sequence: u32,
    start: u64,
    count: u32,
    packet: Packet,
    timescale: u32,
    description: u32,
) -> Result<Stretch, Malformed> {
    let size = packet.bytes.len() as u32;
    let at = out.len();
    let moof = |offset| Moof {
        mfhd: mp4_atom::Mfhd {
            sequence_number: sequence,
        },
        traf: vec![Traf {
            tfhd: Tfhd {
                track_id: 2,
                sample_description_index: Some(description + 1),
                default_sample_duration: Some(packet.samples),
                default_sample_size: Some(size),
                default_sample_flags: Some(SYNC),
                default_base_is_moof: true,
                ..Tfhd::default()
            },
            tfdt: Some(Tfdt {
                base_media_decode_time: start,
            }),
            trun: vec![Trun {
                data_offset: Some(offset),
                samples: TrunSamples::Inherited {
                    count,
                    first_flags: None,
                },
            }],
            ..Traf::default()
        }],
    };
    boxes::encode(out, &moof(0))?;
    let first = out.len() - at + 8;
    out.truncate(at);
    boxes::encode(out, &moof(first as i32))?;
    boxes::wrap::<Malformed>(out, b"mdat", |out| {
        (0..count).for_each(|_| out.extend_from_slice(packet.bytes));
        Ok(())
    })?;
    let samples = (0..u64::from(count)).map(|number| Sample {
        at: first as u64 + number * u64::from(size),
        size,
        duration: packet.samples,
        shown: 0,
        sync: true,
    });
    Ok(Stretch {
        start,
        timescale,
        description,
        samples: samples.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{RecordingId, RunNumber, TakeId};
    use crate::model::timeline::GapMode;

    /// A stream of one-second fragments with one frame each, without an encoder: what the frames show does not matter here.
    fn stream() -> Init {
        let avc1 = mp4_atom::Avc1 {
            visual: mp4_atom::Visual {
                width: 64,
                height: 64,
                data_reference_index: 1,
                ..Default::default()
            },
            avcc: mp4_atom::Avcc::new(&[0x67, 0x42, 0xc0, 0x0a], &[0x68, 0xce]).unwrap(),
            ..Default::default()
        };
        let mut entry = Vec::new();
        boxes::encode(&mut entry, &avc1).unwrap();
        let track = TrackOut {
            media: Media::Video,
            timescale: 12_800,
            size: (64, 64),
            lead: 0,
            entries: vec![entry.into()],
        };
        Init::read(bytes::Bytes::new(), moov::growing(&[track]).unwrap().into()).unwrap()
    }

    fn fragment(at: u64) -> (Head, Vec<u8>) {
        let sample = Sample {
            at: 8,
            size: 4,
            duration: 12_800,
            shown: 0,
            sync: true,
        };
        let stretch = Stretch {
            start: at * 12_800,
            timescale: 12_800,
            description: 0,
            samples: vec![sample],
        };
        let head = Head {
            moof_len: 0,
            len: 12,
            video: Some(stretch),
            audio: None,
        };
        (head, b"\0\0\0\x0cmdatabcd".to_vec())
    }

    fn options(gap_mode: GapMode) -> Options {
        Options {
            recording: RecordingId::parse("ses_A").unwrap(),
            take: TakeId::parse("1").unwrap(),
            gap_mode,
        }
    }

    const NOW: u64 = 1_795_577_569;
    const ONE: Origin = Origin {
        run: RunNumber(1),
        index: 1,
    };

    fn add(file: &mut GrowingFile, init: &Init, at: u64) {
        let (head, media) = fragment(at);
        assert!(file.add(init, &head, Payload::Memory(&media), ONE).unwrap());
    }

    /// The body of the last box of `kind` near the end of the file.
    fn table(path: &Path, kind: &[u8; 4]) -> Vec<u8> {
        let mut file = File::open(path).unwrap();
        let len = file.metadata().unwrap().len();
        file.seek(SeekFrom::Start(len.saturating_sub(8 << 10)))
            .unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let at = bytes.windows(4).rposition(|four| four == kind).unwrap();
        bytes[at + 4..].to_vec()
    }

    #[test]
    fn a_video_over_four_gibibytes_names_its_places_in_64_bits_and_is_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("video.mp4");
        let init = stream();
        let mut file = GrowingFile::open(&path, options(GapMode::Cut)).unwrap();
        add(&mut file, &init, NOW);
        // five gibibytes that take no room on the disk
        let open = file.open.as_mut().unwrap();
        let skipped = 5u64 << 30;
        let mut header = moov::media_header(skipped);
        header[4..8].copy_from_slice(b"free");
        open.file.write_all_at(&header, open.end).unwrap();
        open.end += skipped;
        add(&mut file, &init, NOW + 1);
        drop(file);
        let mut file = GrowingFile::open(&path, options(GapMode::Cut)).unwrap();
        add(&mut file, &init, NOW + 2);
        let finished = file.finish().unwrap();
        assert!(finished.bytes > skipped);
        assert_eq!(finished.duration.as_secs(), 3);
        let places = table(&path, b"co64");
        assert_eq!(boxes::be32(&places, 4), Some(3));
        assert!(boxes::be64(&places, 16).unwrap() > skipped);
        super::super::verify(&path, &[]).unwrap();
    }

    #[test]
    fn what_cannot_be_opened_is_put_aside_and_the_video_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("video.mp4");
        fs::create_dir_all(path.join("what somebody made here")).unwrap();
        assert!(GrowingFile::open(&path, options(GapMode::Cut)).is_err());
        let mut file = GrowingFile::open_or_put_aside(&path, options(GapMode::Cut)).unwrap();
        add(&mut file, &stream(), NOW);
        assert!(file.finish().unwrap().regular);
        let aside = folder.path().join(".video.mp4.unreadable-1");
        assert!(aside.join("what somebody made here").is_dir());
    }

    #[test]
    fn what_is_needed_to_finish_is_known_before_and_the_file_describes_itself_alike() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("video.mp4");
        let mut file = GrowingFile::open(&path, options(GapMode::Cut)).unwrap();
        (0..100).for_each(|number| add(&mut file, &stream(), NOW + number * number));
        let (grown, needed) = (file.bytes(), file.bytes_to_finish());
        let unfinished = file.leave_unfinished().unwrap();
        assert_eq!((unfinished.regular, unfinished.bytes), (false, grown));
        let finished = file.finish().unwrap();
        let timeline = serde_json::to_vec_pretty(&finished.timeline).unwrap();
        let took = finished.bytes - grown + timeline.len() as u64;
        assert!((took..took * 4).contains(&needed), "{needed} for {took}");
        assert_eq!(finished.info, super::super::info_json(&path).unwrap());
        assert_eq!(finished.duration, unfinished.duration);
    }

    #[test]
    fn a_video_of_days_has_the_length_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("video.mp4");
        let init = stream();
        let mut file = GrowingFile::open(&path, options(GapMode::Hold)).unwrap();
        let hours = 11;
        for number in 0..10 {
            add(&mut file, &init, NOW + number * hours * 3600);
        }
        let finished = file.finish().unwrap();
        let seconds = 9 * hours * 3600 + 1;
        assert_eq!(
            finished.duration.as_secs(),
            seconds,
            "more than 32 bits of ticks"
        );
        let info = super::super::info_json(&path).unwrap();
        assert!(
            info.contains(&format!("\"duration\": \"{seconds}.000000\"")),
            "{info}"
        );
        drop(file);
        assert_eq!(super::super::timeline_of(&path).unwrap(), finished.timeline);
    }

    #[test]
    fn a_clock_that_was_wrong_by_years_makes_no_video_of_years() {
        let folder = tempfile::tempdir().unwrap();
        let init = stream();
        let path = folder.path().join("video.mp4");
        let mut file = GrowingFile::open(path, options(GapMode::Hold)).unwrap();
        add(&mut file, &init, 1_000);
        add(&mut file, &init, NOW);
        add(&mut file, &init, NOW + 3);
        assert_eq!(file.finish().unwrap().duration.as_secs(), 5);
    }

    #[test]
    fn the_wall_clock_is_read_back_to_the_tick_also_after_2036() {
        for seconds in [
            0,
            1_795_577_569,
            2_085_978_496,
            2_085_978_495,
            4_000_000_000,
        ] {
            for part in [0, 1, 512, 12_799] {
                let ticks = seconds * 12_800 + part;
                assert_eq!(wall(&reference(ticks, 7, 12_800), 12_800), ticks);
            }
        }
    }
}
