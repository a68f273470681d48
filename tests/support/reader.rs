//! Everything that reads MP4 bytes which nobody vouches for, in one call. That it returns, soon and in little memory, is
//! what the fuzz target and the suite ask of it.

use ov2_ha_recorder::join::{
    ChunkSource, GrowingFile, Options, Splitter, info_json, timeline_of, verify,
};
use ov2_ha_recorder::model::ids::{RecordingId, RunNumber, TakeId};
use ov2_ha_recorder::model::timeline::GapMode;
use std::fs;
use std::path::Path;

/// Whose chunks the seeds are.
pub fn options() -> Options {
    Options {
        recording: RecordingId::parse("ses_A").unwrap(),
        take: TakeId::parse("1795577569000").unwrap(),
        gap_mode: GapMode::Hold,
    }
}

/// Reads `bytes` as ffmpeg's output, as a chunk of its own and after `good`, and as a video that an earlier run left.
/// Files are made in `folder`.
pub fn read(bytes: &[u8], good: &[u8], folder: &Path) {
    let mut splitter = Splitter::new();
    for part in bytes.chunks(4_093) {
        splitter.push(part);
        while let Ok(Some(_)) = splitter.next() {}
    }
    let chunk = |run, bytes: &[u8]| {
        let path = folder.join(format!("{run:04}.mp4"));
        fs::write(&path, bytes).unwrap();
        ChunkSource {
            run: RunNumber(run),
            index: run,
            path,
        }
    };
    let (bad, good) = (chunk(2, bytes), chunk(1, good));
    let again = ChunkSource {
        run: RunNumber(3),
        index: 3,
        ..good.clone()
    };
    let video = folder.join("video.mp4");
    for chunks in [&[bad.clone()][..], &[good, bad.clone(), again.clone()]] {
        let _ = fs::remove_file(&video);
        grow(&video, chunks);
    }
    fs::write(&video, bytes).unwrap();
    let _ = timeline_of(&video);
    let _ = info_json(&video);
    grow(&video, &[again]);
    let _ = fs::remove_dir_all(folder);
    let _ = fs::create_dir_all(folder);
}

fn grow(video: &Path, chunks: &[ChunkSource]) {
    let Ok(mut file) = GrowingFile::open(video, options()) else {
        return;
    };
    let _ = file.catch_up(chunks);
    let _ = file.finish();
    let _ = timeline_of(video);
    let _ = info_json(video);
    let _ = verify(video, chunks);
}
