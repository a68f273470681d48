//! The browser: one life of Chrome in kiosk mode. It starts empty and is told the address over its DevTools pipe, as the
//! address carries a secret and arguments can be read by everyone; what becomes of the page is for [`tab`].

use super::devtools::{DevTools, Event};
use super::display::Display;
use super::order::Order;
use super::supervise::{Ended, Leniency, Stage, blame, gone, there};
use super::switches::arguments;
use super::tab;
use crate::child::Child;
use command_fds::{CommandFdExt, FdMapping};
use std::io;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Where the program may be, the first that is there is taken.
const PROGRAMS: &[&str] = &[
    "google-chrome-stable",
    "google-chrome",
    "chromium",
    "chromium-browser",
];

/// How far the page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// There is nothing to see of it yet.
    Loading,
    /// Since then it is to be seen: it has loaded; where it was lost before, it has also drawn, and its media play.
    Shown(Instant),
    /// It was shown, and went away at this moment with its browser or its process. It is being put back.
    Lost(Instant),
}

impl Page {
    /// Whether there is a page to see.
    pub(super) fn is_shown(&self) -> bool {
        matches!(self, Self::Shown(_))
    }
}

/// What Chrome stands on, and whom it tells.
pub(super) struct Ground {
    pub(super) display: watch::Receiver<Option<Display>>,
    pub(super) audio: watch::Receiver<Option<()>>,
    pub(super) page: watch::Sender<Page>,
    /// Whether media of the page played when it was last asked.
    pub(super) had_media: AtomicBool,
    /// With a Chrome or a page that does not answer.
    pub(super) leniency: Leniency,
}

/// Starts Chrome on the display, shows the page and watches both to their end.
pub(super) async fn live(stage: &Stage, order: &Order, ground: &Ground) -> Ended {
    let (mut display, mut audio) = (ground.display.clone(), ground.audio.clone());
    let Some(on) = there(&mut display, &stage.curtain).await else {
        return Ended::Told;
    };
    let sounding = audio.borrow_and_update().is_some();
    let mut chrome = match Chrome::start(stage, order, on) {
        Ok(chrome) => chrome,
        Err(why) => return Ended::Died(why),
    };
    let below = async {
        tokio::select! {
            () = gone(&mut display) => "its display went away".to_owned(),
            // Chrome keeps silent for ever when the sound server it began with goes away.
            () = lost(&mut audio, sounding) => "its sound server went away".to_owned(),
        }
    };
    tokio::pin!(below);
    let ended = tokio::select! {
        how = chrome.child.ended() => {
            ground.lost();
            blame(how, &mut below).await
        }
        why = tab::watch(stage, order, ground, &chrome.devtools, &mut chrome.events) => {
            Ended::Died(why)
        }
        why = &mut below => Ended::Anew(why),
        () = stage.curtain.cancelled() => Ended::Told,
    };
    ground.lost();
    chrome.child.kill().await;
    ended
}

impl Ground {
    /// The page is gone. What is shown until it is back is no footage.
    pub(super) fn lost(&self) {
        self.page.send_if_modified(|page| {
            let was_shown = page.is_shown();
            if was_shown {
                *page = Page::Lost(Instant::now());
            }
            was_shown
        });
    }
}

/// Waits until the sound server that is there, or the one that comes first, is gone.
async fn lost(audio: &mut watch::Receiver<Option<()>>, mut sounding: bool) {
    loop {
        gone(audio).await;
        let now = audio.borrow_and_update().is_some();
        if sounding {
            return;
        }
        sounding = now;
    }
}

struct Chrome {
    child: Child,
    devtools: DevTools,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Chrome {
    fn start(stage: &Stage, order: &Order, on: Display) -> Result<Self, String> {
        let program = PROGRAMS
            .iter()
            .find(|program| is_on_path(program))
            .ok_or("neither Google Chrome nor Chromium is installed")?;
        let pipes = || -> io::Result<_> { Ok((io::pipe()?, io::pipe()?)) };
        let ((commands_out, commands_in), (answers_out, answers_in)) =
            pipes().map_err(|cause| format!("no pipes for Chrome: {cause}"))?;
        let profile = stage.workshop.path("chrome");
        // What a killed Chrome left there would only make the next one ask questions.
        let _ = std::fs::remove_dir_all(&profile);
        let mut command = stage.workshop.command(program);
        command
            .env("DISPLAY", on.name())
            .args(arguments(order, &profile))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
            .fd_mappings(vec![
                FdMapping {
                    parent_fd: commands_out.into(),
                    child_fd: 3,
                },
                FdMapping {
                    parent_fd: answers_in.into(),
                    child_fd: 4,
                },
            ])
            .map_err(|cause| cause.to_string())?;
        let child = Child::spawn("Chrome", command, &stage.hidden, &stage.tasks)
            .map_err(|cause| cause.to_string())?;
        let (devtools, events) =
            DevTools::over(commands_in.into(), answers_out.into(), &stage.tasks)
                .map_err(|cause| format!("Chrome's pipes cannot be used: {cause}"))?;
        Ok(Self {
            child,
            devtools,
            events,
        })
    }
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
