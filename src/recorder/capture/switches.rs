//! How Chrome is started: its switches, each with its reason. The page's address is not among them, as arguments can be read
//! by everyone on the host.

use crate::recorder::order::{Sound, View};
use std::path::Path;

/// What Chrome is started with. OpenVidu's own recorder sets those that are marked with (OpenVidu): a page that was written
/// for it finds the same browser here.
const ARGUMENTS: &[&str] = &[
    // Chrome is told what to do over a pipe; a port could be used by anyone on the host.
    "--remote-debugging-pipe",
    // The page alone fills the display (OpenVidu).
    "--kiosk",
    "--start-maximized",
    "--window-position=0,0",
    // No bar or question of the browser stands over the page (OpenVidu).
    "--test-type",
    "--disable-infobars",
    "--no-first-run",
    "--no-default-browser-check",
    // A browser that believes itself out of date says so over the page (OpenVidu).
    "--simulate-outdated-no-au=Thu, 31 Dec 2099 23:59:59 GMT",
    // There is no user who could start the page's sound (OpenVidu).
    "--autoplay-policy=no-user-gesture-required",
    // The server's certificate is often its own (OpenVidu).
    "--ignore-certificate-errors",
    // A sandbox needs name spaces, which Docker's usual rules forbid to everybody in a container (OpenVidu). Instead Chrome
    // has a user of its own.
    "--no-sandbox",
    // There is none in the container (OpenVidu).
    "--disable-gpu",
    // A container's /dev/shm may have 64 MiB, which a large page overflows: its process would crash (OpenVidu).
    "--disable-dev-shm-usage",
    // A layout may open windows (OpenVidu).
    "--disable-popup-blocking",
    // Traffic and work that no recording needs (OpenVidu).
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-default-apps",
    // The same, beyond OpenVidu's.
    "--disable-extensions",
    "--disable-breakpad",
    "--metrics-recording-only",
    // A page that cannot be had is loaded again by us; Chrome's own tries would load it twice.
    "--disable-auto-reload",
    // Nobody looks at the display, which Chrome may take for a window that is covered.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--hide-scrollbars",
    // No question for a password of the desktop.
    "--password-store=basic",
    "--use-mock-keychain",
    // The same colours on every machine.
    "--force-color-profile=srgb",
];

/// What of Chrome is switched off. It reads one list only: the last.
const NO_FEATURES: &[&str] = &[
    // The offer to translate stands over the page (OpenVidu).
    "Translate",
    // Else the host's own addresses are given to other participants as names that only this host knows: no media come from
    // a server or participant who must reach it directly (OpenVidu).
    "WebRtcHideLocalIpsWithMdns",
    // A page of a public name that reaches for a private address, as a media server beside it, would wait for a permission
    // that nobody can give.
    "LocalNetworkAccessChecks",
    "LocalNetworkAccessChecksWebRTC",
    "LocalNetworkAccessChecksWebSockets",
    "LocalNetworkAccessChecksWebTransport",
    "LocalNetworkAccessForWorkers",
    "LocalNetworkAccessForSubframeNavigations",
    // Looks for televisions in the network.
    "MediaRouter",
    "DialMediaRouteProvider",
];

/// All arguments for `view`, with Chrome's own files in `profile`.
pub(super) fn arguments(view: &View, profile: &Path) -> Vec<String> {
    let size = view.resolution;
    let mut arguments: Vec<String> = ARGUMENTS.iter().map(|it| (*it).to_owned()).collect();
    arguments.push(format!("--disable-features={}", NO_FEATURES.join(",")));
    arguments.push(format!("--window-size={},{}", size.width, size.height));
    arguments.push(format!("--user-data-dir={}", profile.display()));
    if view.sound == Sound::None {
        // There is no sound server. The page's sound goes on as if somebody heard it.
        arguments.push("--disable-audio-output".into());
    }
    arguments.push("about:blank".into());
    arguments
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
        let all = arguments(&order.view(), Path::new("/tmp/p")).join(" ");
        assert!(!all.contains("S3CRET") && !all.contains("p4ss"), "{all}");
        assert!(all.contains("--window-size=1280,720"), "{all}");
        assert_eq!(all.matches("-features=").count(), 1, "{all}");
    }

    #[test]
    fn chrome_has_every_switch_of_openvidus_own_recorder() {
        let variables = Variables::of([("VIDEO_ID", "a"), ("URL", "https://h/")]);
        let Ok(Assignment::Compose(order, _)) = Assignment::read(&variables) else {
            panic!("no order");
        };
        let all = arguments(&order.view(), Path::new("/tmp/p")).join(" ");
        for theirs in [
            "--kiosk",
            "--start-maximized",
            "--test-type",
            "--no-sandbox",
            "--disable-infobars",
            "--disable-gpu",
            "--disable-popup-blocking",
            "--window-position=0,0",
            "--no-first-run",
            "--ignore-certificate-errors",
            "--disable-dev-shm-usage",
            "--autoplay-policy=no-user-gesture-required",
            "--simulate-outdated-no-au=",
            "--disable-sync",
            "--no-default-browser-check",
            "--disable-component-update",
            "--disable-background-networking",
            "--disable-default-apps",
            "Translate",
            "WebRtcHideLocalIpsWithMdns",
        ] {
            assert!(all.contains(theirs), "{theirs}: {all}");
        }
    }
}
