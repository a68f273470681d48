//! How a recording is told to end: `q` in the stop file, which OpenVidu writes from inside the container, or a signal.

use super::supervise::{End, Stage};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Why a recording ends that a signal ends. OpenVidu never sends one.
pub(super) const SIGNAL: &str = "a signal says so";
/// How often the stop file is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Whether the stop file says `q`.
pub(super) fn is_asked_for(stop_file: &Path) -> bool {
    let mut first = [0];
    File::open(stop_file).is_ok_and(|mut file| file.read(&mut first).is_ok_and(|n| n == 1))
        && first == *b"q"
}

/// Watches for both ways until the tasks end.
pub(super) fn watch(stage: &Stage, stop_file: &Path) {
    let (on, path) = (stage.clone(), PathBuf::from(stop_file));
    let token = stage.tasks.token();
    stage.tasks.spawn("stop file", async move {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !token.is_cancelled() {
            look.tick().await;
            if is_asked_for(&path) {
                return on.end(End::Stop("the stop file says so"));
            }
        }
    });
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let (on, token) = (stage.clone(), stage.tasks.token());
        match signal(kind) {
            Ok(mut signals) => {
                stage.tasks.spawn("signals", async move {
                    tokio::select! {
                        _ = signals.recv() => on.end(End::Stop(SIGNAL)),
                        () = token.cancelled() => {}
                    }
                });
            }
            Err(cause) => log::error!("a signal will not be heard: {cause}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_q_ends_a_recording() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stop");
        assert!(!is_asked_for(&path));
        for (text, asked) in [("", false), ("x", false), ("q\n", true)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(is_asked_for(&path), asked, "{text:?}");
        }
    }
}
