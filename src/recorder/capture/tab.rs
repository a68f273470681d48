//! The page, within one life of Chrome. A page that crashes or cannot be had is loaded again, at most five seconds later each
//! time; what Chrome shows meanwhile is recorded. A page that has been shown is never loaded again for what its server
//! answered, and a connection that is open is waited for. Chrome is replaced when the page hangs.

use super::browser::{Inputs, Page};
use super::devtools::{DevTools, DevToolsError, Event};
use super::remedy::{Fault, Health, Remedy};
use crate::model::wire::TroubleKind;
use crate::recorder::context::{Context, Part};
use crate::recorder::order::View;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// How long Chrome may take to answer its first commands.
const START: Duration = Duration::from_secs(20);
/// How long a page may take to answer that it lives.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked.
const PING: Duration = Duration::from_secs(2);
/// Without an answer of the page's server for so long, that is told.
const SLOW: Duration = Duration::from_secs(10);
/// See [`SLOW`].
const WAITED_FOR: &str = "the page's server has not answered yet; it is waited for";

/// How long a page that was lost may take, from its load, until its media play again.
const MEDIA: Duration = Duration::from_secs(3);

/// Whether any of the page's media play, in the page's own terms.
const PLAYS: &str = "[...document.querySelectorAll('video, audio')].some((it) => !it.paused && it.readyState > 2 \
    && (!it.videoWidth || it.getVideoPlaybackQuality().totalVideoFrames > 0))";

/// What is asked to see whether the page lives: what is shown, the status of its document where it came over HTTP, and
/// whether media play.
fn state() -> String {
    let status = "(performance.getEntriesByType('navigation')[0] || {}).responseStatus || 0";
    format!("({{protocol: location.protocol, status: {status}, media: {PLAYS}}})")
}

/// Answered three draws after `ready`: what is drawn reaches the display one to three draws later, as Chromium's pipeline
/// falls out.
fn drawn_when(ready: &str) -> String {
    format!(
        "new Promise((done) => {{ let left = 3; \
        const draw = () => left-- ? requestAnimationFrame(draw) : done(); \
        const look = () => {ready} ? draw() : setTimeout(look, 40); look(); }})"
    )
}

/// Shows the page, again and again as it fails. Answers only when Chrome itself is of no use.
pub(super) async fn watch(
    context: &Context,
    view: &View,
    inputs: &Inputs,
    devtools: &DevTools,
    events: &mut mpsc::UnboundedReceiver<Event>,
) -> String {
    let (session, frame) = match attach(devtools, inputs.leniency.extended(START)).await {
        Ok(attached) => attached,
        Err(cause) => {
            if matches!(cause, DevToolsError::TimedOut { .. }) {
                inputs.leniency.lost_patience();
            }
            return cause.to_string();
        }
    };
    log::debug!("Chrome answers");
    inputs.user.has_answered();
    let tab = Tab {
        context,
        inputs,
        devtools,
        session: &session,
        frame: &frame,
        loaded: Notify::new(),
        navigating: AtomicBool::new(false),
        departures: AtomicU32::new(0),
    };
    let mut health = Health::new();
    loop {
        let fault = tab.show(view, events, &mut health).await;
        if let Fault::Closed = fault {
            return DevToolsError::Closed.to_string();
        }
        if let Fault::Crashed(_) = fault {
            inputs.lost();
        }
        // What a page says of its failure may name its address.
        let message = context.hidden.clean(fault.message());
        context
            .reporter
            .trouble(TroubleKind::Page, message.as_str());
        match health.remedy(&fault) {
            Remedy::LoadAgain => {}
            Remedy::ReplaceChrome => return message,
        }
        tokio::time::sleep(health.delay()).await;
        log::info!("the page is loaded again");
        context.reporter.restarted(Part::Page);
    }
}

/// Finds the one page and listens to it. Answers its session, and its main frame, which has the page's own id.
async fn attach(
    devtools: &DevTools,
    patience: Duration,
) -> Result<(String, String), DevToolsError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ask = async |session: Option<&str>, method: &'static str, params: Value| {
        devtools.call(session, method, params, patience).await
    };
    ask(None, "Target.setDiscoverTargets", json!({"discover": true})).await?;
    // An address that is a file to be kept is loaded again as any other that shows nothing; the file is not kept each time.
    // A Chrome that refuses this records all the same.
    let deny = json!({"behavior": "deny"});
    let _ = ask(None, "Browser.setDownloadBehavior", deny).await;
    let targets = ask(None, "Target.getTargets", json!({})).await?;
    let page = targets["targetInfos"]
        .as_array()
        .and_then(|all| all.iter().find(|target| target["type"] == "page"))
        .map(|target| text(&target["targetId"]));
    let page = match page {
        Some(page) => page,
        None => {
            let blank = json!({"url": "about:blank"});
            let made = ask(None, "Target.createTarget", blank).await?;
            text(&made["targetId"])
        }
    };
    let to = json!({"targetId": &page, "flatten": true});
    let attached = ask(None, "Target.attachToTarget", to).await?;
    let session = text(&attached["sessionId"]);
    for method in ["Page.enable", "Inspector.enable"] {
        ask(Some(&session), method, json!({})).await?;
    }
    Ok((session, page))
}

/// The one page of a Chrome.
struct Tab<'a> {
    context: &'a Context,
    inputs: &'a Inputs,
    devtools: &'a DevTools,
    session: &'a str,
    frame: &'a str,
    /// The page's load event came.
    loaded: Notify,
    /// The page has gone for another document by itself. Chrome keeps every question back until that is there.
    navigating: AtomicBool,
    /// How often it has gone.
    departures: AtomicU32,
}

impl Tab<'_> {
    /// Loads the page and watches it until something is wrong with it.
    async fn show(
        &self,
        view: &View,
        events: &mut mpsc::UnboundedReceiver<Event>,
        health: &mut Health,
    ) -> Fault {
        while events.try_recv().is_ok() {} // of the page before
        self.navigating.store(false, Ordering::Relaxed);
        let loaded = tokio::select! {
            loaded = self.load(view) => loaded,
            fault = self.listen(events) => Err(fault),
            fault = self.chrome_hangs() => Err(fault),
        };
        match loaded {
            Ok(()) => tokio::select! {
                fault = self.watch(events, health) => fault,
                never = self.tell_when_shown() => match never {},
            },
            Err(fault) => fault,
        }
    }

    /// After each load of the page, tells that it is shown: at once the first time, and when it had been lost as soon as it
    /// has drawn and its media play, if they did before.
    async fn tell_when_shown(&self) -> Infallible {
        loop {
            self.loaded.notified().await;
            let page = *self.inputs.page.borrow();
            if let Page::Lost(_) = page {
                let media = self.inputs.had_media.load(Ordering::Relaxed);
                let when = drawn_when(if media { PLAYS } else { "true" });
                let ask = json!({"expression": when, "awaitPromise": true});
                // In the end it is taken as it is.
                let _ = self.call("Runtime.evaluate", ask, MEDIA).await;
            }
            self.inputs.page.send_replace(Page::Shown(Instant::now()));
            log::debug!("the page is shown");
        }
    }

    /// Waits for the answer of the page's server as long as Chrome does: a connection that is open is not given up for a
    /// new one, which would wait as long again.
    async fn load(&self, view: &View) -> Result<(), Fault> {
        let to = json!({"url": address(view.url.expose())});
        let answer = self.devtools.ask(Some(self.session), "Page.navigate", to);
        tokio::pin!(answer);
        let answer = match tokio::time::timeout(SLOW, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                self.context.reporter.trouble(TroubleKind::Page, WAITED_FOR);
                answer.await
            }
        };
        let fault = match answer {
            Ok(answer) => answer["errorText"].as_str().unwrap_or_default().to_owned(),
            Err(DevToolsError::Closed) => return Err(Fault::Closed),
            Err(cause) => cause.to_string(),
        };
        match fault.is_empty() {
            true => Ok(()),
            false => Err(Fault::NotLoaded(format!(
                "the page cannot be loaded: {fault}; it is tried again"
            ))),
        }
    }

    /// Answers when Chrome itself, not the page, does not answer. A page that is waited for keeps back no answer of its own.
    async fn chrome_hangs(&self) -> Fault {
        loop {
            tokio::time::sleep(PING).await;
            let patience = self.inputs.leniency.extended(START);
            let asked = self
                .devtools
                .call(None, "Browser.getVersion", json!({}), patience);
            if let Err(DevToolsError::TimedOut { .. }) = asked.await {
                self.inputs.leniency.lost_patience();
                return Fault::Hanging("Chrome does not answer".into());
            }
        }
    }

    /// Hears of what happens in Chrome until something is wrong. It is asked nothing: while a page is waited for, Chrome
    /// keeps every question back until it is there.
    async fn listen(&self, events: &mut mpsc::UnboundedReceiver<Event>) -> Fault {
        loop {
            if let Some(fault) = self.on(events.recv().await).await {
                return fault;
            }
        }
    }

    /// Watches the page until something is wrong with it.
    async fn watch(
        &self,
        events: &mut mpsc::UnboundedReceiver<Event>,
        health: &mut Health,
    ) -> Fault {
        let mut ping = tokio::time::interval_at(Instant::now() + PING, PING);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let fault = tokio::select! {
                event = events.recv() => self.on(event).await,
                // What happens meanwhile is heard: a dialog that nobody accepts would keep the answer back.
                _ = ping.tick() => tokio::select! {
                    fault = self.ping(health) => fault,
                    fault = self.listen(events) => Some(fault),
                },
            };
            if let Some(fault) = fault {
                return fault;
            }
        }
    }

    async fn on(&self, event: Option<Event>) -> Option<Fault> {
        let Some(event) = event else {
            return Some(Fault::Closed);
        };
        match event.method.as_str() {
            "Page.loadEventFired" => {
                log::debug!("the page has loaded");
                self.loaded.notify_one();
                None
            }
            "Page.frameRequestedNavigation" | "Page.frameStartedNavigating"
                if event.params["frameId"] == self.frame && leads_away(&event.params) =>
            {
                self.departures.fetch_add(1, Ordering::Relaxed);
                self.navigating.store(true, Ordering::Relaxed);
                None
            }
            "Page.frameNavigated" if event.params["frame"]["id"] == self.frame => {
                self.navigating.store(false, Ordering::Relaxed);
                None
            }
            "Page.frameStoppedLoading" if event.params["frameId"] == self.frame => {
                self.navigating.store(false, Ordering::Relaxed);
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
                Some(Fault::Crashed(format!(
                    "the page's process has ended ({status})"
                )))
            }
            "Target.detachedFromTarget" if event.params["sessionId"] == self.session => {
                Some(Fault::Hanging("the page has closed itself".into()))
            }
            _ => None,
        }
    }

    /// Asks what Chrome shows. Only an answer that comes from the page itself says that the page is well.
    async fn ping(&self, health: &mut Health) -> Option<Fault> {
        let patience = self.inputs.leniency.extended(PATIENCE);
        let departures = self.departures.load(Ordering::Relaxed);
        let ask = json!({"expression": state(), "returnByValue": true});
        let answer = match self.call("Runtime.evaluate", ask, patience).await {
            Ok(answer) => {
                // Nothing keeps questions back: what began was no way to another document, or has ended without one. What
                // began since the question says nothing yet.
                if self.departures.load(Ordering::Relaxed) == departures {
                    self.navigating.store(false, Ordering::Relaxed);
                }
                answer
            }
            Err(DevToolsError::Closed) => return Some(Fault::Closed),
            // Between two documents there is nothing to ask.
            Err(DevToolsError::Refused { .. }) => return None,
            Err(DevToolsError::TimedOut { .. }) if self.navigating.load(Ordering::Relaxed) => {
                health.note_fault();
                self.context.reporter.trouble(TroubleKind::Page, WAITED_FOR);
                return None;
            }
            Err(DevToolsError::TimedOut { .. }) => {
                self.inputs.leniency.lost_patience();
                // A page that hangs would hang the next one in its process too.
                return Some(Fault::Hanging("the page does not answer".into()));
            }
        };
        let state = &answer["result"]["value"];
        if let Some(plays) = state["media"].as_bool() {
            self.inputs.had_media.store(plays, Ordering::Relaxed);
        }
        match (state["protocol"].as_str(), state["status"].as_u64()) {
            (Some("chrome-error:"), _) => Some(Fault::NotLoaded(
                "Chrome shows an error page in place of the page; the page is loaded again".into(),
            )),
            (_, Some(status @ 400..)) => {
                // A status says nothing of what was sent with it, and that is shown: it is not loaded again.
                health.note_fault();
                let message = format!(
                    "the page's server answered {status}; what it sent is recorded as it is"
                );
                self.context.reporter.trouble(TroubleKind::Page, message);
                None
            }
            _ => {
                health.note_well(self.context);
                None
            }
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

/// Whether a navigation leads to another document in the same tab.
fn leads_away(navigation: &Value) -> bool {
    let within = ["sameDocument", "historySameDocument"];
    let kind = navigation["navigationType"].as_str();
    let place = navigation["disposition"].as_str();
    !kind.is_some_and(|kind| within.contains(&kind)) && place.is_none_or(|it| it == "currentTab")
}

/// `url` with a scheme, as Chrome's command line, by which OpenVidu's own recorder gives it, would add one.
fn address(url: &str) -> Cow<'_, str> {
    let has_scheme = url.contains("://")
        || ["about:", "data:", "file:"]
            .iter()
            .any(|it| url.starts_with(it));
    match has_scheme {
        true => url.into(),
        false => format!("http://{url}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leads_to_another_document_is_waited_for() {
        for (navigation, leads) in [
            (json!({"navigationType": "differentDocument"}), true),
            (json!({"navigationType": "reload"}), true),
            (json!({"navigationType": "sameDocument"}), false),
            (json!({"navigationType": "historySameDocument"}), false),
            (json!({"disposition": "currentTab"}), true),
            (json!({"disposition": "newTab"}), false),
            (json!({"disposition": "download"}), false),
        ] {
            assert_eq!(leads_away(&navigation), leads, "{navigation}");
        }
    }

    #[test]
    fn an_address_without_a_scheme_is_taken_as_chromes_command_line_takes_it() {
        assert_eq!(address("host:5443/a?u=1"), "http://host:5443/a?u=1");
        for whole in ["https://host/#/a", "about:blank", "data:text/html,a"] {
            assert_eq!(address(whole), whole);
        }
    }
}
