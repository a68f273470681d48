//! The browser: one life of Chrome in kiosk mode. It starts empty and is told the address over its DevTools pipe, as the
//! address carries a secret and arguments can be read by everyone; what becomes of the page is for [`tab`].

use super::chrome_user::ChromeUser;
use super::devtools::{DevTools, Event};
use super::display::Display;
use super::supervise::{Ended, Leniency, attribute_death, available, changed};
use super::switches::arguments;
use super::tab;
use crate::child::Child;
use crate::random;
use crate::recorder::context::Context;
use crate::recorder::order::View;
use command_fds::{CommandFdExt, FdMapping};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
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
    /// Since then it can be recorded: it has loaded; where it was lost before, it has also drawn, and its media play.
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
pub(super) struct Inputs {
    pub(super) display: watch::Receiver<Option<Display>>,
    pub(super) audio: watch::Receiver<Option<i32>>,
    pub(super) page: watch::Sender<Page>,
    pub(super) user: Arc<ChromeUser>,
    /// Whether media of the page played when it was last asked.
    pub(super) had_media: AtomicBool,
    /// With a Chrome or a page that does not answer.
    pub(super) leniency: Leniency,
}

/// Starts Chrome on the display, shows the page and watches both to their end.
pub(super) async fn live(context: &Context, view: &View, inputs: &Inputs) -> Ended {
    let (mut display, mut audio) = (inputs.display.clone(), inputs.audio.clone());
    let Some(on) = available(&mut display, &context.shutdown).await else {
        return Ended::Told;
    };
    let sounding = audio.borrow_and_update().is_some();
    let mut chrome = match Chrome::start(context, view, inputs, on) {
        Ok(chrome) => chrome,
        Err(why) => {
            inputs.user.has_ended(&why);
            return Ended::Died(why);
        }
    };
    let below = async {
        tokio::select! {
            () = changed(&mut display) => "its display went away".to_owned(),
            // Chrome keeps silent for ever when the sound server it began with goes away.
            () = lost(&mut audio, sounding) => "its sound server went away".to_owned(),
        }
    };
    tokio::pin!(below);
    let ended = tokio::select! {
        how = chrome.child.ended() => {
            inputs.lost();
            attribute_death(how, [on.process()], &mut below).await
        }
        why = tab::watch(context, view, inputs, &chrome.devtools, &mut chrome.events) => {
            Ended::Died(why)
        }
        why = &mut below => Ended::Anew(why),
        () = context.shutdown.cancelled() => Ended::Told,
    };
    inputs.lost();
    chrome.child.kill().await;
    if let Ended::Died(how) = &ended {
        inputs.user.has_ended(&context.hidden.clean(how));
    }
    ended
}

impl Inputs {
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
async fn lost(audio: &mut watch::Receiver<Option<i32>>, mut sounding: bool) {
    loop {
        changed(audio).await;
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
    fn start(context: &Context, view: &View, inputs: &Inputs, on: Display) -> Result<Self, String> {
        let program = PROGRAMS
            .iter()
            .find(|program| is_on_path(program))
            .ok_or("neither Google Chrome nor Chromium is installed")?;
        let pipes = || -> io::Result<_> { Ok((io::pipe()?, io::pipe()?)) };
        let ((commands_out, commands_in), (answers_out, answers_in)) =
            pipes().map_err(|cause| format!("no pipes for Chrome: {cause}"))?;
        let (mut command, home) = command(context, &inputs.user, program)?;
        let profile = home.join("chrome");
        put_aside(context, &profile);
        command
            .env("DISPLAY", on.name())
            .args(arguments(view, &profile))
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
        let child = Child::spawn("Chrome", command, &context.hidden, &context.tasks)
            .map_err(|cause| cause.to_string())?;
        let (devtools, events) =
            DevTools::over(commands_in.into(), answers_out.into(), &context.tasks)
                .map_err(|cause| format!("Chrome's pipes cannot be used: {cause}"))?;
        Ok(Self {
            child,
            devtools,
            events,
        })
    }
}

/// Chrome's program as its user, and that user's home.
fn command(
    context: &Context,
    user: &ChromeUser,
    program: &str,
) -> Result<(Command, PathBuf), String> {
    let workshop = &context.workshop;
    let Some(account) = user.account() else {
        return Ok((workshop.command(program), workshop.path("")));
    };
    let made = workshop.new_home(account);
    let (home, older) = made.map_err(|cause| format!("no home can be made for Chrome: {cause}"))?;
    let clear = move || {
        for home in older {
            // A process that outlived its Chrome may still write there; it is tried again after the next one.
            let _ = std::fs::remove_dir_all(home);
        }
    };
    context
        .tasks
        .spawn_blocking("clearing Chrome's older homes", clear);
    Ok((workshop.command_of(account, &home, program), home))
}

/// What a killed Chrome left of its profile would only make the next one ask questions. It may be large and its disk slow:
/// it is only renamed here, and deleted where nobody waits for it.
fn put_aside(context: &Context, profile: &Path) {
    let aside = profile.with_file_name(format!("chrome-{}", random::hex::<4>()));
    if std::fs::rename(profile, &aside).is_ok() {
        context
            .tasks
            .spawn_blocking("clearing Chrome's older profile", move || {
                // A process that outlived its Chrome may still write there; what is left goes with the workshop.
                let _ = std::fs::remove_dir_all(aside);
            });
    }
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
