//! A small picture of the page every few seconds, for the status page and as the thumbnail. A process of its own: a
//! second output of the capturing ffmpeg would hold the first one up.

use super::display::Display;
use super::supervise::{available, changed};
use crate::child::Child;
use crate::join::beside::WIDTH;
use crate::recorder::context::Context;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::sync::watch;

/// How often a picture is taken.
const EVERY: Duration = Duration::from_secs(5);

/// With this even a picture of pure noise has no more than 20 kB.
const QUALITY: &str = "13";

/// Takes pictures of whatever display there is until the shutdown. That one is missing is no trouble.
pub(super) async fn keep(
    context: Context,
    mut display: watch::Receiver<Option<Display>>,
    picture: &Path,
) {
    while let Some(on) = available(&mut display, &context.shutdown).await {
        let mut command = context.workshop.command("ffmpeg");
        command
            .args(arguments(on))
            .arg(format!("file:{}", picture.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let Ok(mut ffmpeg) = Child::spawn("the preview", command, &context.hidden, &context.tasks)
        else {
            return; // the capture says what is missing
        };
        tokio::select! {
            how = ffmpeg.ended() => log::debug!("{how}"),
            () = changed(&mut display) => {}
            () = context.shutdown.cancelled() => {}
        }
        ffmpeg.kill().await;
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = context.shutdown.cancelled() => return,
        }
    }
}

fn arguments(on: Display) -> Vec<String> {
    let size = on.size().even().to_string();
    let rate = format!("1/{}", EVERY.as_secs());
    let filter = format!("scale={WIDTH}:-2");
    [
        "-hide_banner",
        "-nostdin",
        "-nostats",
        "-loglevel",
        "error",
        "-probesize",
        "32",
        "-analyzeduration",
        "0",
        "-f",
        "x11grab",
        "-framerate",
        &rate,
        "-video_size",
        &size,
        "-draw_mouse",
        "0",
        "-i",
        &on.name(),
        "-vf",
        &filter,
        "-c:v",
        "mjpeg",
        "-q:v",
        QUALITY,
        "-threads",
        "1",
        "-f",
        "image2",
        "-update",
        "1",
        "-atomic_writing",
        "1",
    ]
    .map(str::to_owned)
    .into()
}
