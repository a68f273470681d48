//! What lies in the recordings folder, for those who may see it: the list, and each recording's video, timeline and preview.
//! A video is given also while it grows, for it plays at any moment. Ids are checked before they become paths.

mod changes;

use super::answer::{Fault, json, set, typed};
use super::route::{Routes, id};
use super::{Shared, with};
use crate::clock::Timestamp;
use crate::join::beside::Beside;
use crate::model::ids::RecordingId;
use crate::model::timeline::Timeline;
use crate::model::view::{RecordingView, Recordings};
use crate::model::wire::ErrorBody;
use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use changes::Seen;
use serde::Deserialize;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;
use utoipa::IntoParams;
use warp::reject::Rejection;
use warp::reply::Response;
use warp::{Filter, Reply};

/// Bytes read from a video at once.
const PIECE: usize = 64 * 1024;
/// How long the recordings folder is waited for by who shows more than it.
const MOMENT: Duration = Duration::from_millis(300);
/// The largest JSON file that is read whole.
const LARGEST: u64 = 64 * 1024 * 1024;

pub(super) fn add(routes: &mut Routes, shared: &Arc<Shared>) {
    let headers = || warp::header::headers_cloned();
    routes.account(
        "GET /api/recordings",
        with(shared).and(warp::query()).and_then(list),
    );
    routes.account(
        "GET /api/recordings/{id}/video",
        with(shared).and(id()).and(headers()).and_then(video),
    );
    routes.account(
        "GET /api/recordings/{id}/timeline",
        with(shared).and(id()).and_then(timeline),
    );
    routes.account(
        "GET /api/recordings/{id}/preview.jpg",
        with(shared)
            .and(id())
            .and(warp::query())
            .and(headers())
            .and_then(preview),
    );
}

/// Which part of the list is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RecordingsPart {
    /// At most this many; 50 when not given, 500 at most.
    limit: Option<usize>,
    /// After skipping this many.
    offset: Option<usize>,
}

/// The recordings in the folder, newest first.
#[utoipa::path(get, path = "/api/recordings", tag = "recordings", params(RecordingsPart), responses(
    (status = 200, description = "recordings, newest first", body = Object),
    (status = 503, description = "the folder cannot be read", body = ErrorBody),
))]
pub(super) async fn list(shared: Arc<Shared>, part: RecordingsPart) -> Result<Response, Rejection> {
    let root = shared.settings.recording_path.clone();
    let limit = part.limit.unwrap_or(50).min(500);
    let offset = part.offset.unwrap_or(0);
    let read = move || read_list(&root, limit, offset);
    let found = shared
        .tasks
        .spawn_blocking("list of recordings", read)
        .await;
    let found = found.map_err(|cause| Fault::unavailable(cause.to_string()))?;
    Ok(json(&found?))
}

fn read_list(root: &Path, limit: usize, offset: usize) -> Result<Recordings, Fault> {
    let entries = std::fs::read_dir(root)
        .map_err(|cause| Fault::unavailable(format!("cannot read {}: {cause}", root.display())))?;
    let mut folders = entries
        .flatten()
        .filter_map(|entry| {
            let id = RecordingId::parse(entry.file_name().into_string().ok()?).ok()?;
            let folder = Folder::new(root, &id);
            let stamp = modified(&folder.beside.seal()).or_else(|| modified(&folder.path))?;
            folder.path.is_dir().then_some((stamp, folder))
        })
        .filter(|(_, folder)| folder.beside.seal().is_file() || folder.video().is_some())
        .collect::<Vec<_>>();
    folders.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.id.cmp(&other.id)));
    let count = folders.len();
    let wanted = folders.into_iter().skip(offset).take(limit);
    Ok(Recordings {
        recordings: wanted.map(|(_, folder)| folder.view()).collect(),
        count,
    })
}

/// One recording's folder.
struct Folder {
    id: RecordingId,
    path: PathBuf,
    beside: Beside,
}

impl Folder {
    fn new(root: &Path, id: &RecordingId) -> Self {
        Self {
            id: id.clone(),
            path: root.join(id.as_str()),
            beside: Beside::new(root, id),
        }
    }

    /// The newest picture: the running recording's, else the thumbnail.
    fn preview(&self) -> Option<PathBuf> {
        let beside = [self.beside.preview(), self.beside.thumbnail()];
        beside.into_iter().find(|path| path.is_file())
    }

    fn facts(&self) -> Facts {
        read_json(&self.beside.seal()).unwrap_or_default()
    }

    /// The video: under the name that OpenVidu gave it, else under the id, else the only one there.
    fn video(&self) -> Option<PathBuf> {
        let named = self
            .facts()
            .name
            .filter(|name| RecordingId::parse(name.as_str()).is_ok());
        let usual = named.into_iter().chain([self.id.to_string()]);
        let mut usual = usual.map(|name| self.path.join(format!("{name}.mp4")));
        if let Some(found) = usual.find(|path| path.is_file()) {
            return Some(found);
        }
        let entries = std::fs::read_dir(&self.path)
            .ok()?
            .flatten()
            .map(|entry| entry.path());
        let mut videos = entries.filter(|path| path.extension().is_some_and(|it| it == "mp4"));
        videos.next().filter(|_| videos.next().is_none())
    }

    fn view(&self) -> RecordingView {
        let facts = self.facts();
        let video = self.video();
        let timeline: Option<Timeline> = read_json(&self.beside.timeline());
        let gaps = timeline.as_ref().map(|timeline| &timeline.gaps);
        let started = facts.created_at.map(Timestamp::from_millis);
        let stem = video.as_ref().and_then(|path| path.file_stem()?.to_str());
        RecordingView {
            id: self.id.to_string(),
            name: facts
                .name
                .clone()
                .or(stem.map(str::to_owned))
                .unwrap_or_else(|| self.id.to_string()),
            status: facts.status.unwrap_or_default(),
            started_at: timeline
                .as_ref()
                .map(|timeline| timeline.started_at)
                .or(started),
            duration_seconds: timeline
                .as_ref()
                .map(|timeline| timeline.duration_seconds)
                .or(facts.duration.filter(|seconds| *seconds > 0.0)),
            bytes: video
                .and_then(|path| path.metadata().ok())
                .map_or(0, |it| it.len()),
            runs: timeline.as_ref().map(|timeline| timeline.runs.len()),
            gaps: gaps.map(Vec::len),
            gap_seconds: gaps.map(|gaps| gaps.iter().map(|gap| gap.seconds).sum()),
            timeline: timeline.is_some(),
            preview: self.preview().is_some(),
        }
    }
}

/// What is read of OpenVidu's file.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Facts {
    name: Option<String>,
    status: Option<String>,
    created_at: Option<i64>,
    duration: Option<f64>,
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    let size = path.metadata().ok()?.len();
    let text = (size <= LARGEST).then(|| std::fs::read(path).ok())??;
    serde_json::from_slice(&text).ok()
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

/// A number that grows whenever a recording comes, goes or is finished, as it was read last.
#[derive(Clone, Default)]
pub(super) struct Version(Arc<Read>);

#[derive(Default)]
struct Read {
    version: AtomicU64,
    under_way: AtomicBool,
    seen: Mutex<Seen>,
}

impl Version {
    /// Reads it on a thread of its own, one at a time: a mount that hangs holds one thread, and whoever shows recordings
    /// waits no longer than a moment.
    pub(super) async fn now(&self, shared: &Shared) -> u64 {
        if !self.0.under_way.swap(true, Ordering::AcqRel) {
            let (read, root) = (self.0.clone(), shared.settings.recording_path.clone());
            let uptime = shared.clock.uptime();
            let work = move || {
                let mut seen = read.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let version = seen.version(&root, uptime, SystemTime::now());
                read.version.store(version, Ordering::Release);
                read.under_way.store(false, Ordering::Release);
            };
            let reading = shared.tasks.spawn_blocking("list the recordings", work);
            // It goes on where it takes longer.
            let _ = tokio::time::timeout(MOMENT, reading).await;
        }
        self.0.version.load(Ordering::Acquire)
    }
}

/// The video; also while it is being recorded.
#[utoipa::path(get, path = "/api/recordings/{id}/video", tag = "recordings", params(("id" = RecordingId, Path)), responses(
    (status = 200, description = "the video", content_type = "video/mp4", body = Vec<u8>),
    (status = 206, description = "the wanted range of it", content_type = "video/mp4", body = Vec<u8>),
    (status = 404, description = "there is no video", body = ErrorBody),
    (status = 503, description = "it cannot be read", body = ErrorBody),
    (status = 416, description = "the range is outside of it", body = ErrorBody),
))]
pub(super) async fn video(
    shared: Arc<Shared>,
    id: RecordingId,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    let path = Folder::new(&shared.settings.recording_path, &id).video();
    let path = path.ok_or_else(|| Fault::not_found(format!("recording {id} has no video here")))?;
    send(&path, "video/mp4", &headers).await
}

/// The timeline file: runs, chunks and gaps.
#[utoipa::path(get, path = "/api/recordings/{id}/timeline", tag = "recordings", params(("id" = RecordingId, Path)), responses(
    (status = 200, description = "the timeline", body = Object),
    (status = 404, description = "there is none", body = ErrorBody),
    (status = 503, description = "it cannot be read", body = ErrorBody),
))]
pub(super) async fn timeline(shared: Arc<Shared>, id: RecordingId) -> Result<Response, Rejection> {
    let path = Folder::new(&shared.settings.recording_path, &id)
        .beside
        .timeline();
    let text = tokio::fs::read(&path)
        .await
        .map_err(|cause| match cause.kind() {
            ErrorKind::NotFound => Fault::not_found(format!("recording {id} has no timeline here")),
            _ => Fault::unavailable(format!("cannot read {}: {cause}", path.display())),
        })?;
    Ok(typed("application/json", text))
}

/// Who asks for a picture.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Watching {
    /// Anything: the asker looks again and again, and a picture that is not there yet is no fault.
    live: Option<String>,
}

/// The newest picture of the page, or the thumbnail.
#[utoipa::path(get, path = "/api/recordings/{id}/preview.jpg", tag = "recordings", params(("id" = RecordingId, Path), Watching), responses(
    (status = 200, description = "a picture", content_type = "image/jpeg", body = Vec<u8>),
    (status = 204, description = "there is none yet, and `live` was given"),
    (status = 404, description = "there is none", body = ErrorBody),
    (status = 503, description = "it cannot be read", body = ErrorBody),
))]
pub(super) async fn preview(
    shared: Arc<Shared>,
    id: RecordingId,
    watching: Watching,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    match Folder::new(&shared.settings.recording_path, &id).preview() {
        Some(path) => send(&path, "image/jpeg", &headers).await,
        None if watching.live.is_some() => Ok(StatusCode::NO_CONTENT.into_response()),
        None => Err(Fault::not_found(format!("recording {id} has no picture here")).into()),
    }
}

/// A file or the wanted range of it, as long as it is now.
async fn send(path: &Path, kind: &'static str, headers: &HeaderMap) -> Result<Response, Rejection> {
    let failed = |cause: std::io::Error| {
        Fault::unavailable(format!("cannot read {}: {cause}", path.display()))
    };
    let mut file = File::open(path).await.map_err(failed)?;
    let facts = file.metadata().await.map_err(failed)?;
    let (size, tag) = (facts.len(), entity_tag(&facts));
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    if text(header::IF_NONE_MATCH) == Some(tag.as_str()) {
        return Ok(finish(StatusCode::NOT_MODIFIED.into_response(), kind, &tag));
    }
    let same = text(header::IF_RANGE).is_none_or(|wanted| wanted == tag);
    let range = match text(header::RANGE)
        .filter(|_| same)
        .map(|text| range_of(text, size))
    {
        None | Some(Wanted::All) => None,
        Some(Wanted::Part(range)) => Some(range),
        Some(Wanted::Outside) => return Ok(outside(size)),
    };
    let (first, length) = match &range {
        Some(range) => (*range.start(), range.end() - range.start() + 1),
        None => (0, size),
    };
    file.seek(std::io::SeekFrom::Start(first))
        .await
        .map_err(failed)?;
    let body = ReaderStream::with_capacity(file.take(length), PIECE);
    let mut response = warp::reply::stream(body).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, length.into());
    if let Some(range) = range {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let shown = format!("bytes {}-{}/{size}", range.start(), range.end());
        if let Ok(shown) = HeaderValue::from_str(&shown) {
            response.headers_mut().insert(header::CONTENT_RANGE, shown);
        }
    }
    Ok(finish(response, kind, &tag))
}

fn finish(mut response: Response, kind: &'static str, tag: &str) -> Response {
    set(&mut response, header::CONTENT_TYPE, kind);
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    set(&mut response, header::CACHE_CONTROL, "private, no-cache");
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

fn outside(size: u64) -> Response {
    let message = format!("the range lies outside of the file's {size} bytes");
    let mut response = Fault::new(StatusCode::RANGE_NOT_SATISFIABLE, message).into_response();
    if let Ok(shown) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, shown);
    }
    response
}

/// Changes with every byte that a growing file gains.
fn entity_tag(facts: &std::fs::Metadata) -> String {
    let since = facts
        .modified()
        .ok()
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    format!(
        "\"{:x}-{:x}\"",
        facts.len(),
        since.map_or(0, |since| since.as_nanos())
    )
}

/// What a `Range` header wants.
#[derive(Debug, PartialEq)]
enum Wanted {
    All,
    Part(RangeInclusive<u64>),
    Outside,
}

fn range_of(text: &str, size: u64) -> Wanted {
    let Some((first, last)) = text
        .strip_prefix("bytes=")
        .and_then(|text| text.split_once('-'))
    else {
        return Wanted::All;
    };
    let range = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        // Several ranges at once are answered with the whole, as the standard allows.
        _ if text.contains(',') => return Wanted::All,
        (Ok(first), Ok(last)) if first <= last => first..=last.min(size.saturating_sub(1)),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..=size.saturating_sub(1),
        (Err(_), Ok(tail)) if first.trim().is_empty() && tail > 0 => {
            size.saturating_sub(tail)..=size.saturating_sub(1)
        }
        (Err(_), Ok(0)) => return Wanted::Outside,
        _ => return Wanted::All,
    };
    if *range.start() < size {
        Wanted::Part(range)
    } else {
        Wanted::Outside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        assert_eq!(range_of("bytes=0-9", 100), Wanted::Part(0..=9));
        assert_eq!(range_of("bytes=90-", 100), Wanted::Part(90..=99));
        assert_eq!(range_of("bytes=-10", 100), Wanted::Part(90..=99));
        assert_eq!(range_of("bytes=-200", 100), Wanted::Part(0..=99));
        assert_eq!(range_of("bytes=50-500", 100), Wanted::Part(50..=99));
        assert_eq!(range_of("bytes=100-", 100), Wanted::Outside);
        assert_eq!(range_of("bytes=-0", 100), Wanted::Outside);
        assert_eq!(range_of("bytes=0-", 0), Wanted::Outside);
        for all in ["bytes=0-1,5-6", "bytes=9-1", "lines=0-1", "bytes=a-b"] {
            assert_eq!(range_of(all, 100), Wanted::All, "{all}");
        }
    }

    #[test]
    fn a_recording_is_listed_with_what_its_files_say() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("ses_A~1");
        std::fs::create_dir(&folder).unwrap();
        let facts =
            r#"{"id":"ses_A~1","name":"talk","status":"ready","createdAt":1000,"duration":7.5}"#;
        std::fs::write(folder.join(".recording.ses_A~1"), facts).unwrap();
        std::fs::write(folder.join("talk.mp4"), b"12345").unwrap();
        std::fs::write(folder.join("ses_A~1.jpg"), b"x").unwrap();
        std::fs::create_dir(root.path().join("unrelated")).unwrap();
        let list = read_list(root.path(), 50, 0).unwrap();
        assert_eq!(list.count, 1);
        let one = &list.recordings[0];
        assert_eq!(
            (one.name.as_str(), one.status.as_str(), one.bytes),
            ("talk", "ready", 5)
        );
        assert_eq!(
            (one.duration_seconds, one.preview, one.timeline),
            (Some(7.5), true, false)
        );
    }

    #[test]
    fn a_name_that_leaves_the_folder_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(".recording.a"), r#"{"name":"../secret"}"#).unwrap();
        std::fs::write(root.path().join("secret.mp4"), b"x").unwrap();
        let id = RecordingId::parse("a").unwrap();
        assert_eq!(Folder::new(root.path(), &id).video(), None);
    }
}
