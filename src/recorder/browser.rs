//! The page: one life of Chrome in kiosk mode, and what becomes of the page within it. Chrome starts empty and is told
//! the address over its DevTools pipe, as the address carries a secret and arguments can be read by everyone. A page that
//! crashes, does not load or does not answer is loaded again, ever later; Chrome itself is replaced when that is no help.

use super::devtools::{DevTools, DevToolsError, Event};
use super::display::Display;
use super::order::Order;
use super::supervise::{Ended, Part, Stage, blame, gone, there};
use crate::backoff::Backoff;
use crate::child::Child;
use crate::model::wire::TroubleKind;
use command_fds::{CommandFdExt, FdMapping};
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Where the program may be, the first that is there is taken.
const PROGRAMS: &[&str] = &[
    "google-chrome-stable",
    "google-chrome",
    "chromium",
    "chromium-browser",
];
/// How long Chrome may take to answer its first commands.
const START: Duration = Duration::from_secs(20);
/// How long a page may take to answer that it lives.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked.
const PING: Duration = Duration::from_secs(2);
/// How long the main document may take to arrive.
const NAVIGATION: Duration = Duration::from_secs(30);
/// Failures of the page in a row after which Chrome is replaced.
const MOST_FAILURES: u32 = 5;

/// What is asked to see whether the page lives: the status of its document, where it came over HTTP.
const ALIVE: &str = "((performance.getEntriesByType('navigation')[0]||{}).responseStatus)||0";

/// How far the page is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Page {
    /// There is nothing to see yet.
    #[default]
    Absent,
    /// It has loaded.
    Shown,
}

/// What Chrome stands on, and whom it tells.
pub(super) struct Ground {
    pub(super) display: watch::Receiver<Option<Display>>,
    pub(super) audio: watch::Receiver<Option<()>>,
    pub(super) page: watch::Sender<Page>,
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
        how = chrome.child.ended() => blame(how, &mut below).await,
        why = watch_page(stage, order, ground, &chrome.devtools, &mut chrome.events) => {
            Ended::Died(why)
        }
        why = &mut below => Ended::Anew(why),
        () = stage.curtain.cancelled() => Ended::Told,
    };
    ground.page.send_replace(Page::Absent);
    chrome.child.kill().await;
    ended
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

fn arguments(order: &Order, profile: &Path) -> Vec<String> {
    let size = order.resolution;
    let mut arguments: Vec<String> = [
        "--remote-debugging-pipe",
        "--kiosk",
        "--test-type",
        "--no-first-run",
        "--no-default-browser-check",
        "--window-position=0,0",
        "--autoplay-policy=no-user-gesture-required",
        // As OpenVidu's own recorder does: its server's certificate is often its own.
        "--ignore-certificate-errors",
        "--disable-gpu",
        "--disable-popup-blocking",
        "--disable-background-networking",
        "--disable-background-timer-throttling",
        "--disable-backgrounding-occluded-windows",
        "--disable-renderer-backgrounding",
        "--disable-breakpad",
        "--disable-component-update",
        "--disable-default-apps",
        "--disable-extensions",
        "--disable-sync",
        "--disable-translate",
        "--disable-features=Translate,MediaRouter,DialMediaRouteProvider",
        "--hide-scrollbars",
        "--metrics-recording-only",
        "--password-store=basic",
        "--use-mock-keychain",
        "--force-color-profile=srgb",
    ]
    .map(str::to_owned)
    .into();
    arguments.push(format!("--window-size={},{}", size.width, size.height));
    arguments.push(format!("--user-data-dir={}", profile.display()));
    if nix::unistd::geteuid().is_root() {
        arguments.push("--no-sandbox".into());
    }
    arguments.push("about:blank".into());
    arguments
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Shows the page, again and again as it fails. Answers only when Chrome itself is of no use.
async fn watch_page(
    stage: &Stage,
    order: &Order,
    ground: &Ground,
    devtools: &DevTools,
    events: &mut mpsc::UnboundedReceiver<Event>,
) -> String {
    let session = match attach(devtools).await {
        Ok(session) => session,
        Err(cause) => return cause.to_string(),
    };
    let tab = Tab {
        devtools,
        session: &session,
    };
    let mut backoff = Backoff::new(Duration::from_millis(400), Duration::from_secs(5));
    loop {
        let (fault, lived) = tab.show(stage, order, ground, events).await;
        if lived {
            backoff.reset();
        }
        let fault = match fault {
            Fault::Page(fault) if backoff.attempt() < MOST_FAILURES => fault,
            Fault::Page(fault) | Fault::Chrome(fault) => return fault,
        };
        // What a page says of its failure may name its address.
        stage
            .seen
            .trouble(TroubleKind::Page, stage.hidden.clean(&fault));
        tokio::time::sleep(backoff.next_delay()).await;
        log::info!("the page is loaded again");
        stage.seen.restarted(Part::Page);
    }
}

/// What is wrong, and what helps.
enum Fault {
    /// Loading the page again may help.
    Page(String),
    /// Only another Chrome helps.
    Chrome(String),
}

impl Fault {
    fn of(cause: &DevToolsError) -> Self {
        match cause {
            DevToolsError::Closed => Self::Chrome(cause.to_string()),
            // A page that hangs would hang the next one in its process too.
            DevToolsError::TimedOut { .. } => Self::Chrome("the page does not answer".into()),
            DevToolsError::Refused { .. } => {
                Self::Page(format!("the page cannot be loaded: {cause}"))
            }
        }
    }
}

/// Finds the one page and listens to it.
async fn attach(devtools: &DevTools) -> Result<String, DevToolsError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let discover = json!({"discover": true});
    devtools
        .call(None, "Target.setDiscoverTargets", discover, START)
        .await?;
    let targets = devtools
        .call(None, "Target.getTargets", json!({}), START)
        .await?;
    let page = targets["targetInfos"]
        .as_array()
        .and_then(|all| all.iter().find(|target| target["type"] == "page"))
        .map(|target| text(&target["targetId"]));
    let page = match page {
        Some(page) => page,
        None => {
            let blank = json!({"url": "about:blank"});
            let made = devtools
                .call(None, "Target.createTarget", blank, START)
                .await?;
            text(&made["targetId"])
        }
    };
    let to = json!({"targetId": page, "flatten": true});
    let attached = devtools
        .call(None, "Target.attachToTarget", to, START)
        .await?;
    let session = text(&attached["sessionId"]);
    for method in ["Page.enable", "Inspector.enable"] {
        devtools
            .call(Some(&session), method, json!({}), START)
            .await?;
    }
    Ok(session)
}

/// The one page of a Chrome.
struct Tab<'a> {
    devtools: &'a DevTools,
    session: &'a str,
}

impl Tab<'_> {
    /// Loads the page and watches it until something is wrong with it: what, and whether it had been well before.
    async fn show(
        &self,
        stage: &Stage,
        order: &Order,
        ground: &Ground,
        events: &mut mpsc::UnboundedReceiver<Event>,
    ) -> (Fault, bool) {
        while events.try_recv().is_ok() {} // of the page before
        if let Err(fault) = self.navigate(order).await {
            return (fault, false);
        }
        let mut pings = 0u32;
        let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let fault = tokio::select! {
                event = events.recv() => self.on(event, ground).await,
                _ = ping.tick() => self.ping().await,
            };
            match fault {
                Some(fault) => return (fault, pings > 1),
                None => pings = pings.saturating_add(1),
            }
            if pings > 1 {
                stage.seen.well(TroubleKind::Page);
            }
        }
    }

    async fn navigate(&self, order: &Order) -> Result<(), Fault> {
        let to = json!({"url": order.url.expose()});
        let answer = self.call("Page.navigate", to, NAVIGATION).await;
        let answer = answer.map_err(|cause| Fault::of(&cause))?;
        match answer["errorText"].as_str() {
            None | Some("") => Ok(()),
            Some(fault) => Err(Fault::Page(format!("the page cannot be loaded: {fault}"))),
        }
    }

    async fn on(&self, event: Option<Event>, ground: &Ground) -> Option<Fault> {
        let event = match event {
            Some(event) => event,
            None => return Some(Fault::of(&DevToolsError::Closed)),
        };
        match event.method.as_str() {
            "Page.loadEventFired" => {
                ground.page.send_replace(Page::Shown);
                None
            }
            "Page.javascriptDialogOpening" => {
                // A dialog would stand over the page, and stop it, until the end of the recording.
                let accept = json!({"accept": true});
                let _ = self
                    .call("Page.handleJavaScriptDialog", accept, PATIENCE)
                    .await;
                None
            }
            "Inspector.targetCrashed" | "Target.targetCrashed" => {
                let status = event.params["status"].as_str().unwrap_or("crashed");
                let fault = format!("the page's process has ended ({status})");
                Some(Fault::Page(fault))
            }
            _ => None,
        }
    }

    async fn ping(&self) -> Option<Fault> {
        let ask = json!({"expression": ALIVE, "returnByValue": true});
        match self.call("Runtime.evaluate", ask, PATIENCE).await {
            Ok(answer) => match answer["result"]["value"].as_u64() {
                Some(status @ 400..) => {
                    let fault = format!("the page's server answered {status}");
                    Some(Fault::Page(fault))
                }
                _ => None,
            },
            // Between two documents there is nothing to ask.
            Err(DevToolsError::Refused { .. }) => None,
            Err(cause) => Some(Fault::of(&cause)),
        }
    }

    async fn call(
        &self,
        method: &'static str,
        params: Value,
        patience: Duration,
    ) -> Result<Value, DevToolsError> {
        self.devtools
            .call(Some(self.session), method, params, patience)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Variables;
    use crate::recorder::order::Assignment;

    #[test]
    fn the_address_is_in_no_argument() {
        let variables = Variables::of([
            ("VIDEO_ID", "a"),
            ("URL", "https://u:p4ss@h/?secret=S3CRET"),
        ]);
        let Ok(Assignment::Compose(order, _)) = Assignment::read(&variables) else {
            panic!("no order");
        };
        let all = arguments(&order, Path::new("/tmp/p")).join(" ");
        assert!(!all.contains("S3CRET") && !all.contains("p4ss"), "{all}");
        assert!(all.contains("--window-size=1280,720"), "{all}");
    }
}
