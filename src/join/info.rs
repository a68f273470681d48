//! What OpenVidu reads from `<id>.info`: the JSON that ffprobe writes about a video, made from the finished file itself, so
//! that no `ffprobe` has to start within the seconds that a stop may take.

use super::boxes::{self, Header, Kind, be32};
use super::fragment::rescale;
use super::source::{Trouble, Window};
use super::{JoinError, Malformed};
use mp4_atom::{Codec, Decode, Hdlr, Mdhd, Mvhd};
use serde_json::{Value, json};
use std::fs::File;
use std::path::Path;

/// Describes the finished video at `path` in ffprobe's words.
///
/// # Errors
/// When it cannot be read, or is no finished MP4.
pub fn info_json(path: &Path) -> Result<String, JoinError> {
    let fault = JoinError::io("read", path);
    let file = File::open(path).map_err(&fault)?;
    let window = Window::new(&file).map_err(&fault)?;
    let size = window.end;
    info(window, size, path)
}

/// Describes the video at `path` by its final `moov`, which need not be in it; the whole has `size` bytes.
pub(super) fn info_of_moov(moov: Vec<u8>, size: u64, path: &Path) -> Result<String, JoinError> {
    info(Window::over(moov), size, path)
}

fn info(window: Window<'_>, size: u64, path: &Path) -> Result<String, JoinError> {
    let described = describe(window, size, path).map_err(|trouble| match trouble {
        Trouble::Io(cause) => JoinError::io("read", path)(cause),
        Trouble::Malformed(cause) => JoinError::media(path.display())(cause),
    })?;
    Ok(format!("{described:#}\n"))
}

fn describe(mut window: Window<'_>, size: u64, path: &Path) -> Result<Value, Trouble> {
    let moov = top(&mut window, b"moov")?;
    let mvhd: Mvhd = boxes::decode(&read(&mut window, moov, &[b"mvhd"])?)?;
    let duration = seconds(mvhd.duration, mvhd.timescale);
    let mut streams = Vec::new();
    for trak in list(&mut window, moov, b"trak")? {
        if let Some(stream) = stream(&mut window, trak, streams.len())? {
            streams.push(stream);
        }
    }
    let rate = if duration > 0.0 {
        size as f64 * 8.0 / duration
    } else {
        0.0
    };
    Ok(json!({
        "streams": streams,
        "format": {
            "filename": path.to_string_lossy(),
            "nb_streams": streams.len(),
            "nb_programs": 0,
            "format_name": "mov,mp4,m4a,3gp,3g2,mj2",
            "format_long_name": "QuickTime / MOV",
            "start_time": "0.000000",
            "duration": format!("{duration:.6}"),
            "size": size.to_string(),
            "bit_rate": format!("{rate:.0}"),
            "probe_score": 100,
        },
    }))
}

fn stream(window: &mut Window<'_>, trak: Span, index: usize) -> Result<Option<Value>, Trouble> {
    let mdia = find(window, trak, &[b"mdia"])?;
    let kind = match boxes::decode::<Hdlr>(&read(window, mdia, &[b"hdlr"])?)?
        .handler
        .as_ref()
    {
        b"vide" => "video",
        b"soun" => "audio",
        _ => return Ok(None),
    };
    let mdhd: Mdhd = boxes::decode(&read(window, mdia, &[b"mdhd"])?)?;
    let stbl = find(window, mdia, &[b"minf", b"stbl"])?;
    let stsd = read(window, stbl, &[b"stsd"])?;
    let entry = stsd.get(8..).unwrap_or(&[]);
    let (timing, frames) = timing(window, stbl)?;
    let duration = seconds(mdhd.duration, mdhd.timescale);
    let average = if duration > 0.0 {
        fraction(frames * u64::from(mdhd.timescale), mdhd.duration)
    } else {
        "0/0".into()
    };
    let mut stream = json!({
        "index": index,
        "codec_type": kind,
        "codec_tag_string": entry.get(4..8).map(|tag| String::from_utf8_lossy(tag).into_owned()),
        "r_frame_rate": "0/0",
        "avg_frame_rate": "0/0",
        "time_base": format!("1/{}", mdhd.timescale),
        "start_pts": 0,
        "start_time": "0.000000",
        "duration_ts": mdhd.duration,
        "duration": format!("{duration:.6}"),
        "nb_frames": frames.to_string(),
    });
    if kind == "video" {
        stream["r_frame_rate"] = fraction(u64::from(mdhd.timescale), timing).into();
        stream["avg_frame_rate"] = average.into();
    }
    let mut rest = entry;
    if let Ok(codec) = Codec::decode(&mut rest) {
        name(&mut stream, &codec);
    }
    Ok(Some(stream))
}

fn name(stream: &mut Value, codec: &Codec) {
    let (short, long) = match codec {
        Codec::Avc1(_) | Codec::Avc3(_) => ("h264", "H.264 / AVC / MPEG-4 AVC / MPEG-4 part 10"),
        Codec::Hev1(_) | Codec::Hvc1(_) => ("hevc", "H.265 / HEVC (High Efficiency Video Coding)"),
        Codec::Av01(_) => ("av1", "Alliance for Open Media AV1"),
        Codec::Vp09(_) => ("vp9", "Google VP9"),
        Codec::Mp4a(_) => ("aac", "AAC (Advanced Audio Coding)"),
        Codec::Opus(_) => ("opus", "Opus (Opus Interactive Audio Codec)"),
        _ => ("unknown", "unknown"),
    };
    stream["codec_name"] = short.into();
    stream["codec_long_name"] = long.into();
    if let Some(visual) = codec.visual() {
        stream["width"] = visual.width.into();
        stream["height"] = visual.height.into();
        stream["pix_fmt"] = "yuv420p".into();
    }
    if let Some(audio) = codec.audio() {
        stream["sample_rate"] = audio.sample_rate.integer().to_string().into();
        stream["channels"] = channels(codec).unwrap_or(audio.channel_count).into();
    }
    if let Codec::Avc1(avc1) = codec {
        stream["profile"] = match avc1.avcc.avc_profile_indication {
            66 if avc1.avcc.profile_compatibility & 0x40 != 0 => "Constrained Baseline",
            66 => "Baseline",
            77 => "Main",
            100 => "High",
            _ => "unknown",
        }
        .into();
        stream["level"] = avc1.avcc.avc_level_indication.into();
    }
}

/// AAC says in its own configuration how many channels there are; the field beside it is always two.
fn channels(codec: &Codec) -> Option<u16> {
    let Codec::Mp4a(mp4a) = codec else {
        return None;
    };
    let config = mp4a.esds.es_desc.dec_config.dec_specific.as_ref()?;
    match config.chan_conf {
        0 => None,
        7 => Some(8),
        count => Some(u16::from(count)),
    }
}

/// The usual length of a sample, and how many there are.
fn timing(window: &mut Window<'_>, stbl: Span) -> Result<(u64, u64), Trouble> {
    let stts = find(window, stbl, &[b"stts"])?;
    let rows = window.part(stts.from, stts.len().min(64 << 10))?;
    let usual = (8..rows.len())
        .step_by(8)
        .filter_map(|at| be32(rows, at).zip(be32(rows, at + 4)))
        .max();
    let usual = usual.map_or(1, |(_, length)| u64::from(length.max(1)));
    let stsz = find(window, stbl, &[b"stsz"])?;
    let samples = be32(window.part(stsz.from, 12)?, 8).unwrap_or(0);
    Ok((usual, u64::from(samples)))
}

/// Where a box's body lies in the file.
#[derive(Clone, Copy)]
struct Span {
    from: u64,
    to: u64,
}

impl Span {
    fn len(self) -> u64 {
        self.to - self.from
    }

    fn of(at: u64, header: &Header) -> Self {
        Self {
            from: at + header.head,
            to: at + header.len,
        }
    }
}

fn top(window: &mut Window<'_>, kind: &Kind) -> Result<Span, Trouble> {
    let whole = Span {
        from: 0,
        to: window.end,
    };
    find(window, whole, &[kind])
}

fn find(window: &mut Window<'_>, within: Span, path: &[&Kind]) -> Result<Span, Trouble> {
    path.iter().try_fold(within, |span, kind| {
        let missing = || {
            Malformed::new(format!(
                "it has no {} box; it is no finished MP4",
                boxes::name(**kind)
            ))
        };
        list(window, span, kind)?
            .into_iter()
            .next()
            .ok_or_else(|| missing().into())
    })
}

fn list(window: &mut Window<'_>, within: Span, kind: &Kind) -> Result<Vec<Span>, Trouble> {
    let mut found = Vec::new();
    let mut at = within.from;
    while at + 8 <= within.to {
        let Some(header) = window.header(at)? else {
            break;
        };
        if header.kind == *kind {
            found.push(Span::of(at, &header));
        }
        at += header.len;
    }
    Ok(found)
}

fn read(window: &mut Window<'_>, within: Span, path: &[&Kind]) -> Result<Vec<u8>, Trouble> {
    let span = find(window, within, path)?;
    Ok(window.part(span.from, span.len())?.to_vec())
}

fn seconds(ticks: u64, timescale: u32) -> f64 {
    rescale(
        i64::try_from(ticks).unwrap_or(i64::MAX),
        timescale.max(1),
        1_000_000,
    ) as f64
        / 1e6
}

fn fraction(above: u64, below: u64) -> String {
    let (mut a, mut b) = (above, below);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    let common = a.max(1);
    format!("{}/{}", above / common, below / common)
}
