//! The power fails in mid-recording. A library that is preloaded into the recorder keeps what it has flushed of each file and
//! folder; that is all there is after the cut. Another recorder goes on with it, and without one `recover` makes a video of it.

use crate::record::{Stage, recover_in};
use crate::support::frames::{Footage, describe};
use crate::support::preload;
use crate::support::stage::seconds_now;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// What a cut may cost of what was recorded before it, in seconds.
const LOST: f64 = 2.0;

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_costs_at_most_two_seconds_of_what_was_recorded() {
    for (id, after) in [("ses_power_first", 8), ("ses_power_second", 15)] {
        let mut stage = Stage::set(id).await;
        let disk = Disk::below(&mut stage);
        let mut recorder = stage.start().await;
        recorder.grows_for(Duration::from_secs(after)).await;
        let cut_at = seconds_now();
        recorder.process.kill().unwrap();
        recorder.process.wait().unwrap();
        disk.forgets(&stage.folder.path().join(id));

        let begin = Instant::now();
        let alone = recovered(&stage);
        let took = begin.elapsed();
        let before = cut_at - alone.last_clock();
        println!(
            "cut after {after} s: the video that is recovered ends {before:.2} s before it, made in {took:?}"
        );
        assert!(before < LOST, "{before} s are lost");
        assert_eq!(alone.decode_errors, Vec::<String>::new());
        assert!(took < Duration::from_secs(30), "{took:?}");

        stage.settings.clear();
        let mut second = stage.start().await;
        second.grows_for(Duration::from_secs(4)).await;
        let (status, _) = second.stop().await;
        assert!(status.success(), "{}", stage.log());
        let footage = stage.footage();
        let holes = footage.holes();
        assert_eq!(holes.len(), 1, "{}", describe(&holes));
        let before = cut_at - holes[0].from;
        println!("the video goes on; {before:.2} s from before the cut are missing");
        assert!(before < LOST, "{before} s are lost; {}", describe(&holes));
        assert_eq!(footage.decode_errors, Vec::<String>::new());
        stage.is_what_openvidu_expects();
    }
}

/// The video that `recover` makes of a copy of the stage, as after a start of the machine at which nobody records on.
fn recovered(stage: &Stage) -> Footage {
    let copy = tempfile::tempdir().unwrap();
    let all = stage.folder.path().join(".");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(all)
        .arg(copy.path())
        .status();
    assert!(copied.unwrap().success());
    recover_in(copy.path());
    let video = stage.video();
    let name = video.strip_prefix(stage.folder.path()).unwrap();
    Footage::read(&copy.path().join(name))
}

/// A disk that forgets what was not flushed.
struct Disk {
    kept: PathBuf,
}

impl Disk {
    /// One below the recorders of `stage`, on which the recording's folder, as OpenVidu makes it, is safe.
    fn below(stage: &mut Stage) -> Self {
        let root = stage.folder.path().to_owned();
        let place = root.join(&stage.order.id);
        let kept = root.join(".kept");
        fs::create_dir(&kept).unwrap();
        fs::create_dir(&place).unwrap();
        let library = preload::library("power", &root);
        let settings = [
            ("CHUNK_TIME_SIZE", "10".into()),
            ("LD_PRELOAD", library.display().to_string()),
            ("POWER_ROOT", place.display().to_string()),
            ("POWER_DISK", kept.display().to_string()),
        ];
        let mut sync = Command::new("sync");
        sync.envs(settings.iter().cloned()).arg(place.join("."));
        assert!(sync.status().unwrap().success());
        stage.settings.extend(settings);
        Self { kept }
    }

    /// Leaves of `folder` what was flushed.
    fn forgets(&self, folder: &Path) {
        let lost = folder.with_file_name("lost");
        let _ = fs::remove_dir_all(&lost);
        let key = key(&fs::metadata(folder).unwrap());
        fs::rename(folder, &lost).unwrap();
        self.restore(&key, folder);
        fs::remove_dir_all(&lost).unwrap();
    }

    fn restore(&self, key: &str, to: &Path) {
        fs::create_dir(to).unwrap();
        // A folder that was never flushed is empty; a file is, too.
        let names = fs::read_to_string(self.kept.join(key)).unwrap_or_default();
        for line in names.lines() {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().unwrap();
            let (kind, key, name) = (word(), word(), word());
            match kind {
                "d" => self.restore(key, &to.join(name)),
                _ => {
                    let bytes = fs::read(self.kept.join(key)).unwrap_or_default();
                    fs::write(to.join(name), bytes).unwrap();
                }
            }
        }
    }
}

/// How the library names a file: by its number and its birth.
fn key(data: &Metadata) -> String {
    // Not every file system knows births.
    let born = data.created().unwrap_or(UNIX_EPOCH);
    let born = born.duration_since(UNIX_EPOCH).unwrap();
    let (seconds, nanoseconds) = (born.as_secs(), born.subsec_nanos());
    format!("{}-{seconds}.{nanoseconds}", data.ino())
}
