//! The status page in a real Chromium, against a real controller: what the person on duty sees and does. The recorders are
//! this test's own, over the same interface as real ones, but for the story at the end.

mod browser;

use crate::support::controller::{Controller, USER, program};
use crate::support::docker_socket::DockerSocket;
use crate::support::loss::least;
use crate::support::stage::{Stage, leave_out};
use crate::support::wait::until_true;
use browser::{Browser, SOON};
use fantoccini::key::Key;
use reqwest::Method;
use serde_json::json;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};
use warp::Filter;

/// What is tried; `OV2_PROGRAM` names another, as the one that ships for what is said of its cost.
static BINARY: LazyLock<PathBuf> = LazyLock::new(|| program(env!("CARGO_BIN_EXE_ov2-ha-recorder")));

/// One browser at a time: two fill a small machine.
static TURN: Mutex<()> = Mutex::const_new(());

/// A controller with a browser's turn.
struct Desk {
    controller: Controller,
    folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Desk {
    /// A controller without containers.
    async fn set(settings: &[(&str, &str)]) -> Self {
        let turn = TURN.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let all = [
            &[("HA_RUNTIME", "process"), ("HEARTBEAT_INTERVAL", "60")],
            settings,
        ]
        .concat();
        let recordings = folder.path().join("recordings");
        let at = folder.path().join("controller");
        let controller = Controller::start(&BINARY, &at, &recordings, &all).await;
        Self {
            controller,
            folder,
            _turn: turn,
        }
    }

    async fn browser(&self, test: &str) -> Option<Browser> {
        unless_left_out(test, Browser::of(&self.controller).await)
    }

    /// A recorder registers: the first run of a take, or, after `last_run`, the next.
    async fn register(&self, id: &str, name: &str, last_run: u32) {
        let body = json!({
            "sessionId": id, "clientId": "recorder", "clientHost": "media-1",
            "recorder": { "take": "1795577569120", "lastRun": last_run, "videoName": name },
        });
        let (status, told) = self
            .controller
            .ask(Method::POST, "/api/sessions", Some(&body))
            .await;
        assert_eq!(
            (status.as_u16(), &told["run"]),
            (201, &json!(last_run + 1)),
            "{told}"
        );
    }

    async fn beat(&self, id: &str, run: u32, chunk: u32) {
        let body = json!({
            "lastChunk": format!("{chunk:04}.mp4"), "take": "1795577569120", "run": run,
            "report": { "chunk": chunk, "bytes": 400_000 * chunk, "chunksStored": chunk - 1, "newestFrameAt": now() },
        });
        let path = format!("/api/sessions/{id}/heartbeat");
        let (status, told) = self.controller.ask(Method::PUT, &path, Some(&body)).await;
        assert_eq!(status.as_u16(), 200, "{told}");
    }
}

fn now() -> String {
    use ov2_ha_recorder::clock::{Clock, SystemClock};
    SystemClock.now().to_string()
}

fn unless_left_out<T>(test: &str, had: Result<T, String>) -> Option<T> {
    had.map_err(|why| leave_out(test, &why)).ok()
}

/// No complaint of the browser: no error, no warning, nothing that the policy forbade.
async fn is_clean(browser: &Browser) {
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[test]
fn the_page_is_at_most_60_kilobytes() {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/static")).unwrap();
    let bytes: u64 = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= 60_000, "{bytes} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_appears_and_its_failover_leaves_a_mark_and_a_gap_without_a_reload() {
    let desk = Desk::set(&[]).await;
    let test = "a_session_appears_and_its_failover_leaves_a_mark_and_a_gap_without_a_reload";
    let Some(browser) = desk.browser(test).await else {
        return;
    };
    browser
        .sees("#verdict", |text| text == "All is well.")
        .await;
    browser.run("window.loaded = true").await;
    desk.register("ses_A~1", "Board meeting", 0).await;
    desk.beat("ses_A~1", 1, 1).await;
    browser
        .sees("#rows h3", |text| text == "Board meeting")
        .await;
    browser
        .sees("#rows .badge", |text| text == "Recording")
        .await;
    browser
        .sees("#verdict-more", |text| text == "1 recording is running.")
        .await;
    desk.register("ses_A~1", "Board meeting", 1).await;
    desk.beat("ses_A~1", 2, 2).await;
    browser.sees("#rows [data-f=run]", |text| text == "2").await;
    browser
        .sees("#rows .mark > span", |text| text.ends_with(" s"))
        .await;
    browser
        .sees("#history li", |text| text.contains("Board meeting"))
        .await;
    let gap = "return document.querySelector('#rows .gap').getBoundingClientRect().width > 0";
    assert_eq!(browser.run(gap).await, json!(true));
    // The mark tells its cause to whoever reaches it by keyboard.
    browser
        .run("document.querySelector('#rows .mark').focus()")
        .await;
    browser
        .sees("#rows .tip", |text| text.contains("missing"))
        .await;
    assert_eq!(browser.run("return window.loaded").await, json!(true));
    is_clean(&browser).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_recorder_is_shown_in_the_controllers_own_words() {
    let quick = [
        ("HEARTBEAT_INTERVAL", "1"),
        ("HA_MAX_MISSED_HEARTBEATS", "2"),
    ];
    let desk = Desk::set(&quick).await;
    let test = "a_lost_recorder_is_shown_in_the_controllers_own_words";
    let Some(browser) = desk.browser(test).await else {
        return;
    };
    desk.register("ses_A", "Board meeting", 0).await;
    desk.beat("ses_A", 1, 1).await;
    browser
        .sees("#rows .badge", |text| text == "Taking over")
        .await;
    let worries = desk.controller.get("/api/worries").await;
    let words = worries[0]["text"].as_str().unwrap();
    assert!(words.contains("Board meeting lost its recorder"), "{words}");
    browser
        .sees("#worries button > span", |text| text == format!("{words}."))
        .await;
    browser
        .sees("#worries button > .muted", |text| {
            text.starts_with("For ") && text.contains("What to do: ")
        })
        .await;
    // Nothing was told meanwhile but that no other recorder comes.
    browser
        .sees("#verdict", |text| text == "1 problem needs attention.")
        .await;
    browser.click("#chips [data-filter=worry]").await;
    browser
        .sees("#rows .row:not([hidden]) h3", |text| {
            text == "Board meeting"
        })
        .await;
    is_clean(&browser).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_the_background_tells_by_its_title() {
    let desk = Desk::set(&[]).await;
    let test = "a_page_in_the_background_tells_by_its_title";
    let Some(browser) = desk.browser(test).await else {
        return;
    };
    browser
        .sees("#verdict", |text| text == "All is well.")
        .await;
    // As a browser treats a page behind another one: it gets no frames.
    let hide = "Object.defineProperty(document, 'hidden', { value: true }); window.requestAnimationFrame = () => 0";
    browser.run(hide).await;
    desk.register("ses_A", "Alpha", 0).await;
    desk.beat("ses_A", 1, 1).await;
    let says = async |what: &str| {
        crate::support::wait::until(what, SOON, || async {
            let title = browser.run("return document.title").await;
            title.as_str().unwrap().starts_with(what).then_some(())
        })
        .await;
    };
    says("1 recording is running.").await;
    let dying = json!({ "status": "failed" });
    desk.controller
        .ask(Method::PUT, "/api/sessions/ses_A/status", Some(&dying))
        .await;
    says("(!) 1 problem needs attention.").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_shows_its_thumbnail() {
    let desk = Desk::set(&[]).await;
    let folder = desk.folder.path().join("recordings/ses_A");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("talk.mp4"), b"a video").unwrap();
    let seal = json!({ "id": "ses_A", "name": "talk", "status": "ready", "createdAt": 1_795_577_569_120_u64 });
    std::fs::write(folder.join(".recording.ses_A"), seal.to_string()).unwrap();
    let made = std::process::Command::new("ffmpeg")
        .args(["-nostdin", "-loglevel", "error", "-f", "lavfi"])
        .args(["-i", "testsrc=size=480x270", "-frames:v", "1"])
        .arg(folder.join("ses_A.jpg"))
        .status();
    assert!(made.unwrap().success());
    let Some(browser) = desk.browser("a_recording_shows_its_thumbnail").await else {
        return;
    };
    browser.sees("#films h3", |text| text == "talk").await;
    let drawn = "const image = document.querySelector('#films img'); return image.naturalWidth > 0 && image.checkVisibility({ visibilityProperty: true })";
    crate::support::wait::until("the thumbnail", SOON, || async {
        (browser.run(drawn).await == json!(true)).then_some(())
    })
    .await;
    is_clean(&browser).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_that_hangs_is_seen_on_the_page_within_five_seconds() {
    let test = "a_docker_that_hangs_is_seen_on_the_page_within_five_seconds";
    let turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let daemon = DockerSocket::at(&socket);
    let nobody = [("IMAGE_NAME", "127.0.0.1:1/ov2-ha-test/nobody")];
    let (recordings, state) = (
        folder.path().join("recordings"),
        folder.path().join("state"),
    );
    let controller = Controller::start_beside(&socket, &BINARY, &state, &recordings, &nobody).await;
    let desk = Desk {
        controller,
        folder,
        _turn: turn,
    };
    let Some(browser) = desk.browser(test).await else {
        return;
    };
    let parts = |words: &'static str| move |text: &str| text.contains(words);
    browser.sees("#parts", parts(" answers")).await;
    browser.sees("#parts", parts("nobody:")).await;
    daemon.hang();
    let begin = std::time::Instant::now();
    browser
        .sees("#worries", parts("Docker does not answer"))
        .await;
    browser
        .sees("#parts", parts("Docker does not answer"))
        .await;
    let took = begin.elapsed();
    eprintln!("seen after {took:?}");
    // And what the tests take that run beside this one.
    assert!(took < Duration::from_millis(5_000 + 2_000), "{took:?}");
    desk.register("ses_A", "Alpha", 0).await;
    browser.sees("#rows h3", |text| text == "Alpha").await;
    daemon.go_on();
    browser.sees("#parts", parts(" answers")).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_webhook_is_replayed_from_the_page() {
    let (willing, taken) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let target = {
        let (willing, taken) = (Arc::clone(&willing), Arc::clone(&taken));
        warp::post().map(move || {
            let code = if willing.load(Ordering::SeqCst) {
                taken.fetch_add(1, Ordering::SeqCst);
                warp::http::StatusCode::OK
            } else {
                warp::http::StatusCode::GONE
            };
            warp::reply::with_status("", code)
        })
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/", listener.local_addr().unwrap());
    let serving = tokio::spawn(warp::serve(target).incoming(listener).run());
    let desk = Desk::set(&[
        ("OPENVIDU_WEBHOOK", "true"),
        ("OPENVIDU_WEBHOOK_ENDPOINT", &endpoint),
    ])
    .await;
    let Some(browser) = desk
        .browser("a_dead_webhook_is_replayed_from_the_page")
        .await
    else {
        return;
    };
    let event = json!({ "event": "participantJoined", "timestamp": 1, "sessionId": "ses_A" });
    desk.controller
        .ask(Method::POST, "/openvidu/webhook", Some(&event))
        .await;
    browser
        .sees("#letters li", |text| text.contains("participantJoined"))
        .await;
    browser
        .sees("#verdict", |text| text.contains("worth a look"))
        .await;
    willing.store(true, Ordering::SeqCst);
    browser.click("#letters button").await;
    browser
        .sees("#confirm-title", |text| text.starts_with("Replay"))
        .await;
    browser.click("#confirm-yes").await;
    until_true("the delivery", SOON, || taken.load(Ordering::SeqCst) == 1).await;
    browser
        .sees("#verdict", |text| text == "All is well.")
        .await;
    is_clean(&browser).await;
    browser.close().await;
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_worked_by_keyboard_alone() {
    let desk = Desk::set(&[]).await;
    desk.register("ses_A", "Alpha", 0).await;
    desk.register("ses_B", "Beta", 0).await;
    let Some(browser) = desk.browser("the_page_is_worked_by_keyboard_alone").await else {
        return;
    };
    browser
        .sees("#rows", |text| {
            text.contains("Alpha") && text.contains("Beta")
        })
        .await;
    browser.types("/").await;
    browser.types("bet").await;
    browser
        .sees("#rows", |text| {
            !text.contains("Alpha") && text.contains("Beta")
        })
        .await;
    browser.tab_to("#rows .row:not([hidden]) .more").await;
    browser.press(Key::Enter).await;
    browser.tab_to("#rows [data-act=deactivate]").await;
    browser.press(Key::Enter).await;
    browser
        .sees("#confirm-title", |text| text == "Deactivate: Beta?")
        .await;
    browser.press(Key::Escape).await;
    let session = desk.controller.get("/api/sessions/ses_B").await;
    assert_eq!(session["status"], "STARTING", "an escape is no yes");
    browser.tab_to("#rows [data-act=deactivate]").await;
    browser.press(Key::Enter).await;
    browser.tab_to("#confirm-yes").await;
    browser.press(Key::Enter).await;
    browser.sees("#toast", |text| text.contains("Beta")).await;
    browser
        .sees("#rows .row:not([hidden]) .badge", |text| text == "Inactive")
        .await;
    assert_eq!(
        desk.controller.get("/api/sessions/ses_B").await["status"],
        "INACTIVE"
    );
    is_clean(&browser).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_outlives_the_controller_and_comes_back_by_itself() {
    let mut desk = Desk::set(&[]).await;
    desk.register("ses_A", "Alpha", 0).await;
    let test = "the_page_outlives_the_controller_and_comes_back_by_itself";
    let Some(browser) = desk.browser(test).await else {
        return;
    };
    browser.sees("#rows h3", |text| text == "Alpha").await;
    desk.controller.stop().await;
    browser
        .sees("#verdict", |text| text == "The controller does not answer.")
        .await;
    browser
        .sees("#verdict-more", |text| text.starts_with("Since "))
        .await;
    eprintln!("{}", desk.controller.log());
    let watch = tokio::time::timeout(Duration::from_secs(8), desk.controller.resume()).await;
    eprintln!("{}", desk.controller.log());
    watch.unwrap();
    browser.sees("#link-text", |text| text == "Live").await;
    browser
        .sees("#verdict", |text| text == "All is well.")
        .await;
    desk.beat("ses_A", 1, 3).await;
    browser
        .sees("#rows [data-f=chunk]", |text| text == "3")
        .await;
    let other = |line: &String| {
        !line.contains("ERR_CONNECTION_REFUSED") && !line.contains("ERR_INCOMPLETE")
    };
    let complaints = browser.complaints().await;
    assert_eq!(
        complaints
            .iter()
            .filter(|line| other(line))
            .collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_is_offered_nothing_else() {
    let viewer = [
        ("HA_VIEWER_USERNAME", "eye"),
        ("HA_VIEWER_PASSWORD", "look-only"),
    ];
    let desk = Desk::set(&viewer).await;
    desk.register("ses_A", "Alpha", 0).await;
    let opened = Browser::open(&desk.controller, "eye", "look-only").await;
    let Some(browser) = unless_left_out("who_may_only_read_is_offered_nothing_else", opened) else {
        return;
    };
    browser.sees("#rows h3", |text| text == "Alpha").await;
    browser.click("#rows .more").await;
    browser
        .sees("#rows .known", |text| text.contains("media-1"))
        .await;
    let offered = "return [...document.querySelectorAll('.may')].filter((one) => one.checkVisibility()).length";
    assert_eq!(browser.run(offered).await, json!(0));
    is_clean(&browser).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_sessions_stay_light() {
    let desk = Desk::set(&[]).await;
    let desk = Arc::new(desk);
    for i in 0..500 {
        desk.register(&format!("ses_{i}"), &format!("Room {i}"), 0)
            .await;
        desk.beat(&format!("ses_{i}"), 1, 1).await;
    }
    let Some(browser) = desk.browser("five_hundred_sessions_stay_light").await else {
        return;
    };
    let opened = AtomicBool::new(false);
    let paint = least(200.0, || async {
        if opened.swap(true, Ordering::Relaxed) {
            browser.chrome("Network.clearBrowserCache", json!({})).await;
            browser.client.refresh().await.unwrap();
        }
        browser
            .sees("#verdict-more", |text| text.starts_with("500 recordings"))
            .await;
        let paint = "return performance.getEntriesByName('first-contentful-paint')[0].startTime";
        browser.run(paint).await.as_f64().unwrap()
    });
    let paint = paint.await;
    // Tasks are counted by their own processor time, not by the time that others had the processor in between.
    let own = json!({ "timeDomain": "threadTicks" });
    browser.chrome("Performance.enable", own).await;
    let shifts = "window.shift = 0; new PerformanceObserver((list) => list.getEntries().forEach((one) => (window.shift += one.value)))
        .observe({ type: 'layout-shift', buffered: true })";
    browser.run(shifts).await;
    let chunk = AtomicU32::new(1);
    let share = least(0.10, || async {
        let (before, begin) = (busy(&browser).await, tokio::time::Instant::now());
        let chunk = chunk.fetch_add(1, Ordering::Relaxed) + 1;
        for second in 0..10 {
            for i in (second * 50)..(second * 50 + 50) {
                desk.beat(&format!("ses_{i}"), 1, chunk).await;
            }
            tokio::time::sleep_until(begin + Duration::from_secs(second + 1)).await;
        }
        (busy(&browser).await - before) / begin.elapsed().as_secs_f64()
    });
    let share = share.await;
    let shift = browser.run("return window.shift").await.as_f64().unwrap();
    eprintln!(
        "500 sessions: first paint {paint:.0} ms, page {:.1} % of a core, layout shift {shift:.3}",
        share * 100.0
    );
    assert!(share <= 0.10, "{share}");
    assert!(paint <= 200.0, "{paint}");
    assert!(shift < 0.1, "{shift}");
    browser.types("/").await;
    browser.types("room 499").await;
    let shown =
        "return [...document.querySelectorAll('#rows .row')].filter((row) => !row.hidden).length";
    assert_eq!(browser.run(shown).await, json!(1));
    is_clean(&browser).await;
    browser.close().await;
}

/// Seconds of a core that the page has used.
async fn busy(browser: &Browser) -> f64 {
    let told = browser.chrome("Performance.getMetrics", json!({})).await;
    let all = told["metrics"].as_array().unwrap();
    let named = all
        .iter()
        .find(|one| one["name"] == "TaskDuration")
        .unwrap();
    named["value"].as_f64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_serious_stands_in_anyones_way_by_day_or_night() {
    let target = ("OPENVIDU_WEBHOOK_ENDPOINT", "http://127.0.0.1:9/");
    let desk = Desk::set(&[("OPENVIDU_WEBHOOK", "true"), target]).await;
    let test = "nothing_serious_stands_in_anyones_way_by_day_or_night";
    let Some(browser) = desk.browser(test).await else {
        return;
    };
    desk.register("ses_A", "Alpha", 0).await;
    desk.beat("ses_A", 1, 1).await;
    desk.register("ses_A", "Alpha", 1).await;
    desk.beat("ses_A", 2, 2).await;
    desk.register("ses_B", "Beta", 0).await;
    let trouble = json!({ "report": { "troubles": [{ "kind": "page", "message": "the page does not answer" }] } });
    desk.controller
        .ask(Method::PUT, "/api/sessions/ses_B/heartbeat", Some(&trouble))
        .await;
    browser
        .sees("#rows .troubles", |text| {
            text.contains("the page does not answer")
        })
        .await;
    browser.click("#rows .more").await;
    for scheme in ["light", "dark"] {
        for width in [360, 1280] {
            browser.look(width, 900, scheme).await;
            let Some(barriers) = unless_left_out(test, browser.barriers().await) else {
                return;
            };
            assert_eq!(barriers, Vec::<String>::new(), "{scheme} at {width}");
            let wide = "return document.documentElement.scrollWidth - innerWidth";
            assert_eq!(
                browser.run(wide).await,
                json!(0),
                "it scrolls sideways at {width}"
            );
        }
    }
    browser
        .run("document.querySelector('#rows .row:not([hidden]) [data-act=stop]').click()")
        .await;
    browser
        .sees("#confirm-title", |text| text.starts_with("Stop"))
        .await;
    let Some(barriers) = unless_left_out(test, browser.barriers().await) else {
        return;
    };
    assert_eq!(barriers, Vec::<String>::new(), "the dialog");
    is_clean(&browser).await;
    browser.close().await;
}

/// The pictures of the README and of the artefacts: a real page, recorded by real recorders, one of them killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_recording_is_seen_playing_and_finished() {
    let test = "a_real_recording_is_seen_playing_and_finished";
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let Some(stage) = unless_left_out(test, Stage::of_processes(&BINARY, folder.path(), &[]).await)
    else {
        return;
    };
    let Some(browser) = unless_left_out(test, Browser::of(&stage.controller).await) else {
        return;
    };
    let watch = async {
        // The recorder is killed at twelve seconds.
        let killed = std::time::Duration::from_secs(12);
        browser
            .sees_within(killed + SOON, "#rows .mark > span", |text| {
                text.ends_with(" s")
            })
            .await;
        browser
            .sees("#verdict", |text| text == "All is well.")
            .await;
        browser
            .sees("#rows .shot img:not([hidden]) ~ span", |_| true)
            .await;
        for (name, width, scheme) in [
            ("360.png", 360, "light"),
            ("1280.png", 1280, "light"),
            ("dark.png", 1280, "dark"),
        ] {
            browser.look(width, 800, scheme).await;
            let path = browser.picture(name).await;
            if name == "1280.png" && std::env::var_os("OV2_SCREENSHOT").is_some() {
                let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/screenshot.png");
                std::fs::copy(path, kept).unwrap();
            }
        }
        // The video plays in place while it is still being made.
        browser.click("#rows .shot").await;
        plays(&browser).await;
        browser.click("#player form button").await;
    };
    let mut said = |line: &str| eprintln!("{line}");
    let (played, ()) = tokio::join!(stage.play("ses_page", &mut said), watch);
    let played = played.unwrap_or_else(|why| panic!("{why}\n{}", stage.controller.log()));
    eprintln!("missing {}", played.holes());
    browser.sees("#films h3", |text| !text.is_empty()).await;
    browser
        .sees("#films [data-f=gaps]", |text| text.contains("1 gap"))
        .await;
    browser.click("#films [data-f=timeline]").await;
    browser
        .sees("#films .mark > span", |text| text.ends_with(" s"))
        .await;
    browser.click("#films .shot").await;
    plays(&browser).await;
    is_clean(&browser).await;
    browser.close().await;
}

/// Waits until the player's picture moves.
async fn plays(browser: &Browser) {
    let moves = || async {
        let at = browser
            .run("return document.getElementById('video').currentTime")
            .await;
        at.as_f64().filter(|at| *at > 0.3).map(drop)
    };
    crate::support::wait::until("playing", SOON, moves).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_open_pages_cost_the_controller_little() {
    let desk = Desk::set(&[]).await;
    for i in 0..100 {
        desk.register(&format!("ses_{i}"), &format!("Room {i}"), 0)
            .await;
    }
    let second = Duration::from_secs(1);
    let client = ov2_ha_recorder::outbound::builder(second).build().unwrap();
    let mut pages = Vec::new();
    for _ in 0..100 {
        let url = desk.controller.url("/api/events");
        let request = client
            .get(url)
            .basic_auth(USER, Some(&desk.controller.password));
        let mut page = request.send().await.unwrap();
        pages.push(tokio::spawn(async move {
            while let Ok(Some(_)) = page.chunk().await {}
        }));
    }
    let share = least(0.05, || async {
        let before = core_seconds(desk.controller.process());
        let begin = tokio::time::Instant::now();
        for round in 0..10 {
            for i in 0..10 {
                desk.beat(&format!("ses_{}", round * 10 + i), 1, 1).await;
            }
            tokio::time::sleep_until(begin + second * (round + 1)).await;
        }
        (core_seconds(desk.controller.process()) - before) / begin.elapsed().as_secs_f64()
    });
    let share = share.await;
    eprintln!(
        "100 pages, 100 sessions: the controller uses {:.1} % of a core",
        share * 100.0
    );
    assert!(share <= 0.05, "{share}");
    pages.into_iter().for_each(|page| page.abort());
    drop(desk.folder);
}

/// Seconds of a core that a process has used.
fn core_seconds(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = text.rsplit_once(')').unwrap();
    let fields = fields.split_whitespace().collect::<Vec<_>>();
    let ticks: f64 = [11, 12]
        .iter()
        .map(|i| fields[*i].parse::<f64>().unwrap())
        .sum();
    ticks / 100.0
}
