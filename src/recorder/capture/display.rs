//! The display: one life of Xvfb, which prints its number when it is ready. It accepts only clients that present the cookie,
//! and its only socket is a file.

use super::refresh;
use super::supervise::Ended;
use crate::child::Child;
use crate::recorder::context::Context;
use crate::recorder::number::{FOLDER, Number};
use crate::recorder::order::Resolution;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
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
    size: Resolution,
    /// The process that shows it.
    process: i32,
    /// How often it refreshes, in Hz, where that was set.
    refreshes: Option<u32>,
}

impl Display {
    /// As `DISPLAY` has it.
    pub(super) fn name(self) -> String {
        format!(":{}", self.number)
    }

    /// How large it is.
    pub(super) const fn size(self) -> Resolution {
        self.size
    }

    /// The process that shows it.
    pub(super) fn process(self) -> i32 {
        self.process
    }

    /// The number in that name.
    pub(super) const fn number(self) -> u32 {
        self.number
    }

    /// How often it refreshes, in Hz.
    pub(super) fn refreshes(self) -> u32 {
        self.refreshes.unwrap_or(refresh::UNSET)
    }
}

/// Whether Xvfb is started with a cookie and without a socket that strangers reach, or only with what every version knows.
#[derive(Debug, Default)]
pub(super) struct Dialect {
    plain: AtomicBool,
}

/// Starts Xvfb, says where it is, and watches it to its end.
pub(super) async fn live(
    context: &Context,
    size: Resolution,
    rate: Option<u32>,
    dialect: &Dialect,
    up: &Up,
) -> Ended {
    let plain = dialect.plain.load(Ordering::Relaxed);
    let (mut xvfb, mut display, number) = match start(context, size, plain).await {
        Ok(started) => started,
        Err(why) => {
            dialect.plain.store(!plain, Ordering::Relaxed);
            return Ended::Died(why);
        }
    };
    // Before Chromium starts, which reads the rate once. The mode is held for as long as the display lives.
    let mode = match rate {
        Some(rate) => refresh::set(display, context.workshop.cookie(), size, rate)
            .await
            .inspect_err(|cause| log::warn!("{cause}; it is recorded all the same"))
            .ok(),
        None => None,
    };
    display.refreshes = rate.filter(|_| mode.is_some());
    up.send_replace(Some(display));
    let ended = tokio::select! {
        how = xvfb.ended() => Ended::Died(how),
        why = context.suspected() => Ended::Died(why),
        () = context.shutdown.cancelled() => Ended::Told,
    };
    up.send_replace(None);
    xvfb.kill().await;
    drop(number);
    ended
}

async fn start(
    context: &Context,
    size: Resolution,
    plain: bool,
) -> Result<(Child, Display, Option<Number>), String> {
    let mut command = context.workshop.command("Xvfb");
    command
        .args(["-displayfd", "1", "-nolisten", "tcp", "-dpi", "96"])
        // A browser that is replaced may be the last who draws: that is no reason to begin anew.
        .arg("-noreset")
        .args(["-screen", "0", &format!("{size}x24")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if plain {
        log::warn!(
            "Xvfb did not start with a cookie and starts without; it accepts everybody on this host's network"
        );
    }
    let cookie = context.workshop.cookie_file().filter(|_| !plain);
    if let Some(file) = cookie {
        command.arg("-auth").arg(file);
    }
    let number = if plain { None } else { own_number(context) };
    if let Some(number) = &number {
        command.args([&format!(":{}", number.value()), "-nolisten", "local"]);
    }
    let spawned = Child::spawn("Xvfb", command, &context.hidden, &context.tasks);
    let mut xvfb = spawned.map_err(|cause| cause.to_string())?;
    let stdout = xvfb.stdout().ok_or("Xvfb has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    match tokio::time::timeout(START, lines.next_line()).await {
        Ok(Ok(Some(line))) => {
            let shown = line.trim().parse();
            let shown = shown.map_err(|_| format!("Xvfb gave no display number but {line:?}"))?;
            let display = Display {
                number: shown,
                size,
                process: xvfb.pid(),
                refreshes: None,
            };
            Ok((xvfb, display, number))
        }
        Ok(_) => Err(xvfb.ended().await),
        Err(_) => Err("Xvfb was not ready in time".into()),
    }
}

/// A number that is reserved for us. Without one Xvfb chooses it by sockets that everybody on the host's network reaches.
fn own_number(context: &Context) -> Option<Number> {
    let reserved = Number::reserve(&context.workshop.display_note());
    reserved
        .inspect_err(|cause| {
            log::warn!(
                "no display number can be reserved in {FOLDER}: {cause}; Xvfb chooses one and listens on this host's network"
            );
        })
        .ok()
}
