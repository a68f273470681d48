//! A disk that fails for a while: every kind of call below the recording's folder, each with every error that disks and
//! network file systems give. Recording goes on when it is over, and what is missing is what the disk did not take.

use crate::record::Stage;
use crate::support::frames::describe;
use crate::support::preload;
use futures_util::{StreamExt, stream};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// See `support/preload/fault.c`.
const KINDS: [&str; 6] = ["create", "write", "size", "flush", "name", "read"];
/// EIO, ENOSPC, ESTALE, EROFS.
const ERRORS: [i32; 4] = [5, 28, 116, 30];
/// How long the disk fails.
const FAULT: Duration = Duration::from_secs(3);
/// What is missing beside that: a new stream, and a machine that is busy.
const SLACK: f64 = 2.0;

/// Each kind with one error, and each error with one kind; all with all where `OV2_FAULTS` is set.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_for_a_while_costs_no_more_than_that() {
    let all_of_them = std::env::var_os("OV2_FAULTS").is_some();
    let mut all = Vec::new();
    for (place, kind) in KINDS.iter().enumerate() {
        for (other, error) in ERRORS.iter().enumerate() {
            if all_of_them || place % ERRORS.len() == other {
                all.push((*kind, *error));
            }
        }
    }
    two_at_a_time(all.into_iter().map(|(kind, error)| fails(kind, error))).await;
}

/// They wait more than they compute.
async fn two_at_a_time(recordings: impl Iterator<Item = impl Future<Output = ()>>) {
    stream::iter(recordings)
        .for_each_concurrent(2, |it| it)
        .await;
}

async fn fails(kind: &'static str, error: i32) {
    // What is written is written as long as nothing else but a call beside it fails.
    let most = match kind {
        "create" | "write" => FAULT.as_secs_f64() + SLACK,
        _ => SLACK,
    };
    let id = format!("ses_{kind}_{error}");
    outlasts(&id, &format!("{kind} {error}"), FAULT, most).await;
}

/// It hangs for `OV2_HANG_SECONDS` (8 unless set).
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_for_a_while_loses_nothing() {
    let lasts = std::env::var("OV2_HANG_SECONDS").map_or(8, |text| text.parse().unwrap());
    let hangs = async |kind| {
        let (id, fault) = (format!("ses_{kind}_hang"), format!("{kind} hang"));
        outlasts(&id, &fault, Duration::from_secs(lasts), SLACK).await;
    };
    two_at_a_time(["write", "flush", "create"].into_iter().map(hangs)).await;
}

/// A recording in the middle of which the disk has a `fault`: at most so many seconds are missing.
async fn outlasts(id: &str, fault: &str, lasts: Duration, most: f64) {
    let mut stage = Stage::set(id).await;
    let disk = Fault::below(&mut stage);
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    disk.is(fault);
    tokio::time::sleep(lasts).await;
    disk.is("");
    recorder.grows_for(Duration::from_secs(4)).await;
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{fault}: {}", stage.log());
    let footage = stage.footage();
    let (missing, holes) = (footage.missing(), describe(&footage.holes()));
    println!("{fault} for {lasts:?}: {missing:.2} s missing");
    assert_eq!(footage.decode_errors, Vec::<String>::new(), "{fault}");
    assert!(missing < most, "{fault}: {holes}\n{}", stage.log());
    stage.is_what_openvidu_expects();
}

/// Frames that came while the recorder did not run are not thrown away for the silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_did_not_run_for_a_while_keeps_what_its_ffmpeg_captured() {
    let stage = Stage::set("ses_not_run").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    let process = Pid::from_raw(recorder.process.id().cast_signed());
    for _ in 0..3 {
        kill(process, Signal::SIGSTOP).unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        kill(process, Signal::SIGCONT).unwrap();
        recorder.grows_for(Duration::from_secs(2)).await;
    }
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    let footage = stage.footage();
    let holes = describe(&footage.holes());
    println!(
        "stopped for 5 s, three times: {:.2} s missing",
        footage.missing()
    );
    assert!(footage.missing() < 0.5, "{holes}\n{}", stage.log());
    assert_eq!(stage.timeline()["gaps"], serde_json::json!([]));
}

/// The faults of the disk below a recording.
struct Fault {
    now: PathBuf,
}

impl Fault {
    fn below(stage: &mut Stage) -> Self {
        // As the system names what is open.
        let root = stage.folder.path().canonicalize().unwrap();
        let now = root.join("fault");
        fs::write(&now, "").unwrap();
        let text = |path: &Path| path.display().to_string();
        stage.settings.extend([
            ("LD_PRELOAD", text(&preload::library("fault", &root))),
            ("FAULT_ROOT", text(&root.join(&stage.order.id))),
            ("FAULT_NOW", text(&now)),
        ]);
        Self { now }
    }

    fn is(&self, fault: &str) {
        let has_bitten = self.now.with_extension("bit").exists();
        assert!(!fault.is_empty() || has_bitten, "no call failed");
        let next = self.now.with_extension("next");
        fs::write(&next, fault).unwrap();
        fs::rename(next, &self.now).unwrap();
    }
}
