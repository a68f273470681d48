//! Runs whose wall clocks do not say how they lie to one another: each chunk says of which boot of a machine its stream is, and
//! how far the wall clock was ahead of that machine's own. Runs one after the other are appended whole, whatever the wall
//! clocks say; what runs recorded at once is in the video once.

use crate::join::{chunks, frames, later, options, stamps, usual, video};
use crate::record::Stage;
use ov2_ha_recorder::clock;
use ov2_ha_recorder::join::{
    ChunkSource, Fragment, GrowingFile, Init, Joined, Seat, StreamRecord, join_chunks, verify,
};
use ov2_ha_recorder::model::timeline::{GapMode, Timeline};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const HOUR: f64 = 3600.0;

/// The start of a stream of the machine's `boot`, whose wall clock is `set` seconds ahead of what it was for the others.
fn recorded(init: &Init, boot: &str, set: f64) -> Init {
    init.with_record(StreamRecord {
        boot: boot.into(),
        ahead: 1_795_000_000_000_000 + (set * 1e6) as i64,
        seat: Seat::Lead,
    })
}

/// A run's chunks, of a recording that begins at this second of the machine's own clock.
fn run(
    folder: &Path,
    number: u32,
    of: &(Arc<Init>, Vec<Fragment>),
    boot: &str,
    set: f64,
) -> Vec<ChunkSource> {
    let init = recorded(&of.0, boot, set);
    chunks(folder, number, number * 10, &init, &of.1)
}

fn join(folder: &TempDir, all: &[ChunkSource]) -> Joined {
    let joined = join_chunks(all, &video(folder), options(GapMode::Cut), &mut |_| {}).unwrap();
    assert!(joined.chunks.iter().all(|chunk| chunk.fault.is_none()));
    let checked = verify(&video(folder), all).unwrap();
    assert_eq!(checked.chunks, all.len());
    let stamps = stamps(&video(folder), "v:0");
    assert!(stamps.windows(2).all(|two| two[0] < two[1]));
    joined
}

/// The same, appended to a video that is left and taken up between the runs, with an index and without one.
fn grow(folder: &TempDir, first: &[ChunkSource], second: &[ChunkSource]) -> Timeline {
    let timelines = [false, true].map(|keeps_index| {
        let path = folder.path().join(format!("grown-{keeps_index}.mp4"));
        for chunks in [first, second] {
            let file = GrowingFile::open(&path, options(GapMode::Cut)).unwrap();
            let mut file = match keeps_index {
                true => file.with_index(),
                false => file,
            };
            file.catch_up(chunks).unwrap();
        }
        let mut file = GrowingFile::open(&path, options(GapMode::Cut)).unwrap();
        file.finish().unwrap().timeline
    });
    assert_eq!(timelines[0], timelines[1]);
    timelines[0].clone()
}

#[test]
fn a_clock_that_was_set_back_between_two_runs_of_one_boot_costs_nothing_and_is_told() {
    let folder = TempDir::new().unwrap();
    let first = run(folder.path(), 1, usual(), "a", 0.0);
    let second = run(folder.path(), 2, &later(8.0 - HOUR), "a", -HOUR);
    let timeline = grow(&folder, &first, &second);
    let joined = join(&folder, &[first, second].concat());
    assert_eq!(frames(&joined.video).len(), 300, "both are whole");
    assert_eq!(joined.timeline.as_ref(), Some(&timeline));
    assert_eq!(timeline.gaps, []);
    let [note] = timeline.notes.as_slice() else {
        panic!("{timeline:?}")
    };
    let told = "by the clock run 2 begins 3598.0 s before the end of run 1: the clock was set back; by the machine's own clock nothing was recorded between them for 2.0 s";
    assert_eq!(note, told);
}

#[test]
fn a_clock_that_was_set_back_between_two_boots_costs_nothing_and_is_told() {
    let folder = TempDir::new().unwrap();
    let first = run(folder.path(), 1, usual(), "a", 0.0);
    let second = run(folder.path(), 2, &later(8.0 - HOUR), "b", -HOUR);
    let timeline = grow(&folder, &first, &second);
    let joined = join(&folder, &[first, second].concat());
    assert_eq!(frames(&joined.video).len(), 300, "both are whole");
    assert_eq!(joined.timeline.as_ref(), Some(&timeline));
    let [note] = timeline.notes.as_slice() else {
        panic!("{timeline:?}")
    };
    assert!(
        note.contains("the machine was started anew") && note.ends_with("is not known"),
        "{note}"
    );
}

#[test]
fn a_gap_is_told_by_the_machines_own_clock_where_the_wall_clock_was_set_forward() {
    let folder = TempDir::new().unwrap();
    let first = run(folder.path(), 1, usual(), "a", 0.0);
    let second = run(folder.path(), 2, &later(8.0 + HOUR), "a", HOUR);
    let timeline = grow(&folder, &first, &second);
    let [gap] = timeline.gaps.as_slice() else {
        panic!("{timeline:?}")
    };
    let told = "; by the machine's own clock it was 2.0 s, the clock was set forward meanwhile";
    assert!(gap.cause.ends_with(told), "{gap:?}");
    let folder = TempDir::new().unwrap();
    let first = run(folder.path(), 1, usual(), "a", 0.0);
    let second = run(folder.path(), 2, &later(8.0), "a", 0.0);
    let timeline = grow(&folder, &first, &second);
    assert!(
        !timeline.gaps[0].cause.contains("own clock"),
        "{timeline:?}"
    );
}

#[test]
fn what_two_runs_of_one_boot_recorded_at_once_is_kept_of_both_and_told() {
    for set in [0.0, -HOUR] {
        let folder = TempDir::new().unwrap();
        let first = run(folder.path(), 1, usual(), "a", 0.0);
        let second = run(folder.path(), 2, &later(4.0 + set), "a", set);
        let joined = join(&folder, &[first, second].concat());
        assert_eq!(frames(&joined.video).len(), 300, "set by {set}");
        let notes = joined.timeline.unwrap().notes;
        let told = |note: &String| note.ends_with("both recorded at once for 2.0 s");
        assert!(notes.iter().any(told), "{notes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_of_which_boot_and_seat_a_stream_is_and_other_programs_read_it() {
    let stage = Stage::set("ses_boot").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(6)).await;
    let chunk = stage.run_folder(1).join("0001.mp4");
    let bytes = fs::read(&chunk).unwrap();
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    let text = String::from_utf8_lossy(&bytes[..600]);
    let record = text.find(r#"{"mark":"stream""#).map(|at| &text[at..]);
    let record = record.unwrap_or_else(|| panic!("{text}"));
    let said = |field: &str| {
        let (_, value) = record.split_once(&format!("\"{field}\":"))?;
        value
            .split([',', '}'])
            .next()
            .map(|it| it.trim_matches('"'))
    };
    assert_eq!(said("boot"), clock::boot());
    assert_eq!(said("seat"), Some("lead"));
    let ahead: i64 = said("ahead").unwrap().parse().unwrap();
    let off = ahead - clock::wall_ahead_of_monotonic();
    assert!(off.abs() < 100_000, "{off}");
    let copy = stage.folder.path().join("copy.mp4");
    fs::write(&copy, bytes).unwrap();
    assert!(frames(&copy).len() > 20, "ffmpeg passes over it");
}
