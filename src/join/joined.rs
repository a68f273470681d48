//! Joining a take from its chunk files, with no recorder at hand: the same [`GrowingFile`], fed from disk, under a
//! temporary name until it is finished.

use super::ahead::Ahead;
use super::boxes;
use super::growing::{self, CaughtUp, ChunkFault, GrowingFile};
use super::source::{Trouble, Window};
use super::{ChunkSource, JoinError, Options, PART, settle};
use crate::model::ids::RunNumber;
use crate::model::timeline::{Timeline, UNREAD};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// How far a join is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Chunks that are done.
    pub chunks: usize,
    /// Bytes of these chunks.
    pub bytes: u64,
}

/// What became of chunks.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The video.
    pub video: PathBuf,
    /// What it was made from; plain MP4 chunks do not know the time they were recorded at.
    pub timeline: Option<Timeline>,
    /// The video's size.
    pub bytes: u64,
    /// What was kept of every chunk, in order.
    pub chunks: Vec<CaughtUp>,
}

/// Joins `chunks` into the video `out`, which is there under its name only when it is whole. `progress` is told after every
/// chunk.
///
/// # Errors
/// When nothing of the chunks can be shown, or the file system refuses. Broken chunks are no error; they are named in the
/// answer.
pub fn join_chunks(
    chunks: &[ChunkSource],
    out: &Path,
    options: Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Joined, JoinError> {
    let mut chunks = chunks.to_vec();
    chunks.sort_by_key(ChunkSource::origin);
    if !chunks.is_empty() && chunks.iter().all(|chunk| is_plain(&chunk.path)) {
        return concatenate(chunks, out);
    }
    let part = growing::beside(out, &format!("joining{PART}"));
    let _ = fs::remove_file(&part);
    let joined = join_into(chunks, &part, options, progress);
    let renamed = joined.and_then(|joined| {
        let rename = || fs::rename(&part, out).and_then(|()| settle(out));
        rename().map_err(JoinError::io("rename the joined video to", out))?;
        Ok(Joined {
            video: out.to_owned(),
            ..joined
        })
    });
    if renamed.is_err() {
        let _ = fs::remove_file(&part);
    }
    renamed
}

fn join_into(
    chunks: Vec<ChunkSource>,
    part: &Path,
    options: Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Joined, JoinError> {
    let mut file = GrowingFile::open(part, options)?;
    let mut reports = Vec::with_capacity(chunks.len());
    let mut done = Progress::default();
    thread::scope(|scope| {
        let mut ahead = Ahead::of(scope, part);
        for (number, chunk) in chunks.iter().enumerate() {
            if let Some(later) = chunks.get(number + READ_AHEAD) {
                ahead.read(&later.path);
            }
            let mut report = file.catch_up_one(chunk.clone())?;
            ahead.grown(file.bytes());
            if report.fault.as_ref().is_some_and(ChunkFault::is_unread) {
                file.explain(UNREAD);
            }
            if report.fault.is_some() && is_plain(&report.source.path) {
                let what = "it is a plain MP4 of the earlier recorder; join those in a folder of their own";
                report.fault = Some(ChunkFault::Broken(what.into()));
            }
            done.chunks += 1;
            done.bytes += fs::metadata(&report.source.path).map_or(0, |file| file.len());
            reports.push(report);
            progress(done);
        }
        Ok(())
    })?;
    let finished = file
        .finish()
        .map_err(|cause| why_nothing(cause, &reports))?;
    Ok(Joined {
        video: finished.video,
        timeline: Some(finished.timeline),
        bytes: finished.bytes,
        chunks: reports,
    })
}

/// That nothing was recorded is known only where all chunks could be read.
fn why_nothing(cause: JoinError, chunks: &[CaughtUp]) -> JoinError {
    let unread = chunks.iter().find_map(|chunk| match &chunk.fault {
        Some(ChunkFault::Unread(why)) => Some((&chunk.source.path, why)),
        _ => None,
    });
    match (cause, unread) {
        (JoinError::Nothing { .. }, Some((path, why))) => {
            JoinError::io("read", path)(io::Error::other(why.clone()))
        }
        (cause, _) => cause,
    }
}

/// How many chunks before its turn a chunk is read from the disk.
const READ_AHEAD: usize = 3;

/// Whether the file is an MP4 that is not fragmented.
fn is_plain(path: &Path) -> bool {
    let look = |file: &File| -> Result<bool, Trouble> {
        let mut window = Window::new(file)?;
        let mut at = 0;
        while let Some(header) = window.header(at)? {
            if header.kind == *b"moov" {
                let body = window
                    .whole(at, &header)?
                    .get(header.head as usize..)
                    .unwrap_or(&[]);
                return Ok(boxes::maybe_child(body, b"mvex")?.is_none());
            }
            at += header.len;
        }
        Ok(false)
    };
    File::open(path).is_ok_and(|file| look(&file).unwrap_or(false))
}

/// Plain MP4 chunks have no stamps to go by; ffmpeg puts one after the other.
fn concatenate(chunks: Vec<ChunkSource>, out: &Path) -> Result<Joined, JoinError> {
    let part = growing::beside(out, "joining.mp4");
    let fault = JoinError::io("join plain MP4 chunks with ffmpeg into", out);
    let ffmpeg = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-nostdin",
            "-y",
            "-f",
            "concat",
            "-safe",
            "0",
            "-protocol_whitelist",
            "file,pipe",
            "-i",
        ])
        .args(["pipe:0", "-c", "copy", "-movflags", "+faststart"])
        .arg(&part)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut ffmpeg = match ffmpeg {
        Ok(ffmpeg) => ffmpeg,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            let what = "its chunks are plain MP4 files of the earlier recorder, which only ffmpeg can join, and there is no ffmpeg here; install it, or run this in the recording image";
            let path = chunks
                .first()
                .and_then(|chunk| chunk.path.parent())
                .unwrap_or(out)
                .to_owned();
            return Err(JoinError::Folder {
                path,
                what: what.into(),
            });
        }
        Err(cause) => return Err(fault(cause)),
    };
    if let Some(mut list) = ffmpeg.stdin.take() {
        let lines: String = chunks
            .iter()
            .map(|chunk| concat_line(&chunk.path))
            .collect();
        // when ffmpeg hangs up early it says why
        let _ = list.write_all(lines.as_bytes());
    }
    let output = ffmpeg.wait_with_output().map_err(&fault)?;
    if !output.status.success() {
        let _ = fs::remove_file(&part);
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(fault(io::Error::other(said.trim().to_owned())));
    }
    let whole = || {
        File::open(&part)?.sync_all()?;
        fs::rename(&part, out)?;
        settle(out)?;
        Ok(fs::metadata(out)?.len())
    };
    let bytes = whole().map_err(&fault)?;
    let chunks = chunks.into_iter().map(plain_report).collect();
    Ok(Joined {
        video: out.to_owned(),
        timeline: None,
        bytes,
        chunks,
    })
}

fn plain_report(source: ChunkSource) -> CaughtUp {
    let bytes = fs::metadata(&source.path).map_or(0, |file| file.len());
    CaughtUp {
        source,
        fragments: 1,
        bytes,
        lost_bytes: 0,
        fault: None,
        late: false,
    }
}

fn concat_line(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    format!(
        "file 'file:{}'\n",
        whole.to_string_lossy().replace('\'', r"'\''")
    )
}

/// The chunks below `folder`, which is a take's (`r1/0001.mp4`, …), a run's, or any folder with MP4 files. In order.
///
/// # Errors
/// When it cannot be read, has no MP4 file, or has those of several takes.
pub fn find_chunks(folder: &Path) -> Result<Vec<ChunkSource>, JoinError> {
    let mut files = Vec::new();
    visit(folder, 0, &mut files).map_err(JoinError::io("read the folder", folder))?;
    files.sort();
    let mut takes: Vec<&Path> = files.iter().filter_map(|file| take_of(file)).collect();
    takes.dedup();
    let other = |what: String| {
        Err(JoinError::Folder {
            path: folder.to_owned(),
            what,
        })
    };
    match takes.as_slice() {
        [] => other(
            "no .mp4 file lies in it; name the folder of a take, such as <recording>/chunks/<take>"
                .into(),
        ),
        [_] => Ok(number(&files)),
        several => {
            let names: Vec<String> = several
                .iter()
                .map(|take| take.display().to_string())
                .collect();
            other(format!(
                "it holds chunks of {} takes; name one of them: {}",
                names.len(),
                names.join(", ")
            ))
        }
    }
}

/// How deep chunks may lie below the folder that is named: recording, chunk folder, take, run.
const DEEPEST: u32 = 4;

fn visit(folder: &Path, depth: u32, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let kind = entry.file_type()?;
        if kind.is_dir() && !hidden && depth < DEEPEST {
            visit(&path, depth + 1, files)?;
        } else if kind.is_file() && !hidden && path.extension().is_some_and(|kind| kind == "mp4") {
            files.push(path);
        }
    }
    Ok(())
}

fn take_of(file: &Path) -> Option<&Path> {
    let folder = file.parent()?;
    match run_of(folder) {
        Some(_) => folder.parent(),
        None => Some(folder),
    }
}

fn run_of(folder: &Path) -> Option<RunNumber> {
    let number = folder.file_name()?.to_str()?.strip_prefix('r')?;
    number.parse().ok().map(RunNumber)
}

/// Gives every file its run and number; files without a number are counted.
fn number(files: &[PathBuf]) -> Vec<ChunkSource> {
    let mut counted = 0;
    let mut chunks: Vec<ChunkSource> = files
        .iter()
        .map(|path| {
            counted += 1;
            let digits = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .and_then(|stem| stem.parse().ok());
            let run = path.parent().and_then(run_of).unwrap_or(RunNumber(1));
            ChunkSource {
                run,
                index: digits.unwrap_or(counted),
                path: path.clone(),
            }
        })
        .collect();
    chunks.sort_by_key(ChunkSource::origin);
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{RecordingId, TakeId};
    use crate::model::timeline::GapMode;

    #[test]
    fn nothing_is_said_to_be_recorded_only_where_every_chunk_could_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let chunk = |index: u32| ChunkSource {
            run: RunNumber(1),
            index,
            path: folder.path().join(format!("{index:04}.mp4")),
        };
        fs::write(chunk(1).path, "these bytes are no MP4").unwrap();
        let options = Options {
            recording: RecordingId::parse("ses_A").unwrap(),
            take: TakeId::parse("1").unwrap(),
            gap_mode: GapMode::Cut,
        };
        let join = |chunks: &[ChunkSource]| {
            let out = folder.path().join("out.mp4");
            join_chunks(chunks, &out, options.clone(), &mut |_| {}).unwrap_err()
        };
        let nothing = join(&[chunk(1)]);
        assert!(matches!(nothing, JoinError::Nothing { .. }), "{nothing}");
        // The second one is not there.
        let unread = join(&[chunk(1), chunk(2)]).to_string();
        assert!(
            unread.contains("cannot read") && unread.contains("0002.mp4"),
            "{unread}"
        );
    }
}
