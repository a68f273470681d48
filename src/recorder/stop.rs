//! How a recording is told to end: `q` in the stop file, which OpenVidu writes from inside the container; OpenVidu's own file
//! beside the video, which says so a moment before, and is all there is where `q` cannot be delivered; or a signal.

use super::context::{Context, End};
use crate::clock::Timestamp;
use crate::join::beside::Beside;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Why a recording ends that a signal ends. OpenVidu never sends one.
pub(super) const SIGNAL: &str = "a signal says so";
/// Why a recording ends that OpenVidu has ended without saying so to this container.
pub(super) const FILE: &str = "OpenVidu's file says that it is over";
/// How often the stop file is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How often OpenVidu's file is read.
const READ: Duration = Duration::from_millis(100);
/// How long after OpenVidu's file has ended the recording its `q` is waited for; people have been told that it is over.
const Q_COMES: Duration = Duration::from_secs(1);

/// Whether the stop file says `q`.
pub(super) fn is_asked_for(stop_file: &Path) -> bool {
    let mut first = [0];
    File::open(stop_file).is_ok_and(|mut file| file.read(&mut first).is_ok_and(|n| n == 1))
        && first == *b"q"
}

/// Watches the stop file until the tasks end.
pub(super) fn watch(context: &Context, stop_file: &Path) {
    let (on, path) = (context.clone(), PathBuf::from(stop_file));
    let token = context.tasks.token();
    context.tasks.spawn("stop file", async move {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !token.is_cancelled() {
            look.tick().await;
            if is_asked_for(&path) {
                return on.end(End::Stop("the stop file says so"));
            }
        }
    });
}

/// Watches for signals until the tasks end.
pub(super) fn watch_signals(context: &Context) {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let (on, token) = (context.clone(), context.tasks.token());
        match signal(kind) {
            Ok(mut signals) => {
                context.tasks.spawn("signals", async move {
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

/// Watches OpenVidu's file until the tasks end. Read on a thread of its own: the folder may be on another machine, and hang.
pub(super) fn watch_file(context: &Context, beside: &Beside, recording: Option<&Value>) {
    let Some(recording) = recording.cloned() else {
        return;
    };
    let (on, asked) = (context.clone(), Arc::new((beside.clone(), recording)));
    let token = context.tasks.token();
    let watching = async move {
        let mut read = tokio::time::interval(READ);
        read.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            read.tick().await;
            let asked = Arc::clone(&asked);
            let over = move || asked.0.over_since(&asked.1);
            let over = on.tasks.spawn_blocking("read OpenVidu's file", over).await;
            if let Ok(Some(since)) = over {
                let left = left_for_q(Timestamp::from(since), on.clock.now());
                tokio::time::sleep(left).await;
                return on.end(End::Stop(FILE));
            }
        }
    };
    context.tasks.spawn("OpenVidu's file", async move {
        token.run_until_cancelled(watching).await;
    });
}

/// How much longer `q` is waited for. The file's stamp may be another clock's.
fn left_for_q(since: Timestamp, now: Timestamp) -> Duration {
    Q_COMES.saturating_sub(now.since(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_is_waited_for_a_second_at_most_whatever_the_files_clock_says() {
        let at = Timestamp::from_millis;
        for (since, now, millis) in [
            (0, 0, 1_000),
            (0, 300, 700),
            (0, 5_000, 0),
            (9_000, 0, 1_000),
        ] {
            let left = left_for_q(at(since), at(now));
            assert_eq!(left, Duration::from_millis(millis), "{since}, {now}");
        }
    }

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
