//! The display: one life of Xvfb. It picks a number that is free on the whole network namespace, which recorders on one
//! host share, and prints it when it is ready.

use super::order::Resolution;
use super::refresh;
use super::supervise::{Ended, Stage};
use crate::child::Child;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;

/// How long Xvfb may take to be ready.
const START: Duration = Duration::from_secs(10);

/// Where the page is shown.
pub(super) type Up = watch::Sender<Option<Display>>;

/// A display that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Display {
    number: u32,
    /// How often it refreshes, in Hz, where that was set.
    refreshes: Option<u32>,
}

impl Display {
    /// As `DISPLAY` has it.
    pub(super) fn name(self) -> String {
        format!(":{}", self.number)
    }

    /// How often it refreshes, in Hz.
    pub(super) fn refreshes(self) -> u32 {
        self.refreshes.unwrap_or(refresh::UNSET)
    }
}

/// Starts Xvfb, says where it is, and watches it to its end.
pub(super) async fn live(stage: &Stage, size: Resolution, rate: Option<u32>, up: &Up) -> Ended {
    let (mut xvfb, mut display) = match start(stage, size).await {
        Ok(started) => started,
        Err(why) => return Ended::Died(why),
    };
    // Before Chromium starts, which reads the rate once. The mode is held for as long as the display lives.
    let mode = match rate {
        Some(rate) => refresh::set(display, size, rate)
            .await
            .inspect_err(|cause| log::warn!("{cause}; it is recorded all the same"))
            .ok(),
        None => None,
    };
    display.refreshes = rate.filter(|_| mode.is_some());
    up.send_replace(Some(display));
    let ended = tokio::select! {
        how = xvfb.ended() => Ended::Died(how),
        why = stage.suspected() => Ended::Died(why),
        () = stage.curtain.cancelled() => Ended::Told,
    };
    up.send_replace(None);
    xvfb.kill().await;
    ended
}

async fn start(stage: &Stage, size: Resolution) -> Result<(Child, Display), String> {
    let mut command = stage.workshop.command("Xvfb");
    command
        .args(["-displayfd", "1", "-nolisten", "tcp", "-dpi", "96"])
        // A browser that is replaced may be the last who draws: that is no reason to begin anew.
        .arg("-noreset")
        .args(["-screen", "0", &format!("{size}x24")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let spawned = Child::spawn("Xvfb", command, &stage.hidden, &stage.tasks);
    let mut xvfb = spawned.map_err(|cause| cause.to_string())?;
    let stdout = xvfb.stdout().ok_or("Xvfb has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    match tokio::time::timeout(START, lines.next_line()).await {
        Ok(Ok(Some(line))) => {
            let number = line.trim().parse();
            let number = number.map_err(|_| format!("Xvfb gave no display number but {line:?}"))?;
            let refreshes = None;
            Ok((xvfb, Display { number, refreshes }))
        }
        Ok(_) => Err(xvfb.ended().await),
        Err(_) => Err("Xvfb was not ready in time".into()),
    }
}
