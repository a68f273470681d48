//! Never worse: pages that are odd, slow, away or silent. OpenVidu's own recorder loads the address once and records what
//! Chrome makes of it, whatever that is.

use crate::record::{Recorder, Stage, Watch, has_trouble};
use crate::support::frames::Footage;
use crate::support::page::{Answer, CLOCK, OddPage};
use crate::support::stage::{leave_out, seconds_now};
use crate::support::stock;
use crate::support::wait;
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

/// Slack for machines that are busy with other things.
const SLACK: f64 = 1.0;

/// A stage whose page is `page`.
async fn stage(id: &str, page: &OddPage) -> Stage {
    let mut stage = Stage::set(id).await;
    stage.order.url = page.url();
    stage
}

/// No process of the recorder's was started again, and the page was not loaded again.
fn nothing_was_started_again(report: &Value) {
    let restarts = report["restarts"].as_object().unwrap();
    assert!(restarts.values().all(|count| count == 0), "{restarts:?}");
}

async fn ends_well(recorder: &mut Recorder, stage: &Stage) {
    let (status, _) = recorder.stop().await;
    assert!(status.success(), "{}", stage.log());
    stage.keeps_the_secret();
}

/// The video shows the page until its end.
fn shows_the_page(stage: &Stage) {
    let footage = stage.footage();
    assert_eq!(footage.decode_errors, Vec::<String>::new());
    let old = seconds_now() - footage.last_clock();
    assert!(old < 4.0 + SLACK, "the page is not shown: {old} s");
}

async fn is_well(watch: &Watch) {
    watch
        .sees("the page", |report| report["troubles"] == json!([]))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_without_sound_needs_no_sound_server_and_the_page_plays_on() {
    let body = format!(
        "{CLOCK}<script>setInterval(() => fetch('/said/audio-' + Math.floor(audio.currentTime)), 1000)</script>"
    );
    let page = OddPage::serve(Answer {
        body,
        ..Answer::default()
    })
    .await;
    let mut stage = stage("ses_mute", &page).await;
    stage.order.only_video = true;
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    // PulseAudio that nobody uses ended after twenty seconds, and Chrome with it.
    recorder.grows_for(Duration::from_secs(26)).await;
    assert_eq!(recorder.children("pulseaudio", ""), Vec::<String>::new());
    let report = watch.report().await;
    nothing_was_started_again(&report);
    assert_eq!(report["troubles"], json!([]));
    ends_well(&mut recorder, &stage).await;
    shows_the_page(&stage);
    let played = page.said().iter().any(|it| it == "audio-15");
    assert!(played, "the page's sound stood still: {:?}", page.said());
    stock_records(&stage, Duration::from_secs(4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_outlives_a_recorder_that_is_killed() {
    let stage = Stage::set("ses_orphans").await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(2)).await;
    are_gone_with(&mut recorder).await;
    let mut recorder = stage.spawn();
    wait::until_true("the display", Duration::from_secs(10), || {
        !recorder.children("Xvfb", "").is_empty()
    })
    .await;
    are_gone_with(&mut recorder).await;
}

/// Kills the recorder: a second later none of the processes below it is alive.
async fn are_gone_with(recorder: &mut Recorder) {
    let below = recorder.below(|_| true);
    assert!(!below.is_empty());
    recorder.process.kill().unwrap();
    recorder.process.wait().unwrap();
    let took = wait::until_true(
        "the end of the recorder's children",
        Duration::from_secs_f64(1.0 + SLACK),
        || !below.iter().any(|pid| is_alive(pid)),
    )
    .await;
    println!("{} processes were gone after {took:?}", below.len());
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("X", |(_, rest)| &rest[..1]);
    !["Z", "X"].contains(&state)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_answers_404_but_renders_is_loaded_once_and_recorded() {
    is_shown_once(404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trouble_of_a_page_that_answers_503_stands_while_it_is_recorded() {
    is_shown_once(503).await;
}

async fn is_shown_once(status: u16) {
    let page = OddPage::serve(Answer {
        status,
        ..Answer::default()
    })
    .await;
    let mut stage = stage(&format!("ses_{status}"), &page).await;
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    let words = format!("answered {status}");
    let is_told = |report: &Value| has_trouble(report, "page", &words);
    watch.sees("the status", is_told).await;
    for _ in 0..12 {
        recorder.grows_for(Duration::from_secs(1)).await;
        let report = watch.report().await;
        assert!(is_told(&report), "the trouble came and went: {report}");
    }
    nothing_was_started_again(&watch.report().await);
    ends_well(&mut recorder, &stage).await;
    assert_eq!(page.loads().len(), 1);
    shows_the_page(&stage);
    let footage = stage.footage();
    assert!(footage.missing() < 0.5, "{} s", footage.missing());
    stock_records(&stage, Duration::from_secs(4)).await;
}

/// OpenVidu's own recorder shows the page of `stage` within `length`: so ours has to.
async fn stock_records(stage: &Stage, length: Duration) {
    shows_it_too(stock::records(&stage.order, length).await);
}

fn shows_it_too(stock: Result<Footage, String>) {
    match stock {
        Ok(stock) => assert!(stock.first_clock() > 0.0),
        Err(why) => leave_out("what OpenVidu's own recorder makes of this page", &why),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_first_answer_takes_35_seconds_is_loaded_once_and_recorded() {
    let slow = || {
        OddPage::serve(Answer {
            delay: Duration::from_secs(35),
            body: format!("{CLOCK}<script>fetch('/said/shown')</script>"),
            ..Answer::default()
        })
    };
    let (page, page_of_stock) = (slow().await, slow().await);
    let mut stage = stage("ses_slow_page", &page).await;
    let watch = stage.watched().await;
    // Beside ours: both do nothing but wait.
    let mut of_stock = stage.order.clone();
    of_stock.url = page_of_stock.url();
    let stock =
        tokio::spawn(async move { stock::records(&of_stock, Duration::from_secs(40)).await });
    // OpenVidu waits no longer for the file than this does.
    let mut recorder = stage.start().await;
    let is_told = |report: &Value| has_trouble(report, "page", "has not answered yet");
    watch.sees("the slow page", is_told).await;
    wait::until_true("the slow answer", Duration::from_secs(40), || {
        page.said() == ["shown"]
    })
    .await;
    is_well(&watch).await;
    nothing_was_started_again(&watch.report().await);
    ends_well(&mut recorder, &stage).await;
    assert_eq!(page.loads().len(), 1);
    shows_the_page(&stage);
    shows_it_too(stock.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_goes_to_a_slow_address_by_itself_is_waited_for() {
    let slow = OddPage::serve(Answer {
        delay: Duration::from_secs(25),
        body: format!("{CLOCK}<script>fetch('/said/shown')</script>"),
        ..Answer::default()
    })
    .await;
    let leaves = format!(
        "{CLOCK}<script>setTimeout(() => location.href = '{}', 3000)</script>",
        slow.url()
    );
    let page = OddPage::serve(Answer {
        body: leaves,
        ..Answer::default()
    })
    .await;
    let mut stage = stage("ses_leaves", &page).await;
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    wait::until_true("the slow address", Duration::from_secs(45), || {
        slow.said() == ["shown"]
    })
    .await;
    is_well(&watch).await;
    nothing_was_started_again(&watch.report().await);
    ends_well(&mut recorder, &stage).await;
    assert_eq!((page.loads().len(), slow.loads().len()), (1, 1));
    shows_the_page(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_server_is_away_is_tried_every_few_seconds_until_it_is_there() {
    let away = OddPage::serve(Answer::default()).await;
    let address = away.address();
    let mut stage = stage("ses_no_server", &away).await;
    drop(away);
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    let is_told = |report: &Value| has_trouble(report, "page", "ERR_CONNECTION_REFUSED");
    watch.sees("the server that is away", is_told).await;
    recorder.grows_for(Duration::from_secs(3)).await;

    let page = OddPage::serve_at(address, Answer::default(), true).await;
    wait::until_true("six tries", Duration::from_secs(45), || {
        page.loads().len() >= 6
    })
    .await;
    are_near_each_other(&page.loads());
    assert!(has_trouble(
        &watch.report().await,
        "page",
        "cannot be loaded"
    ));
    page.come_back();
    is_well(&watch).await;
    assert_eq!(watch.report().await["restarts"]["browser"], 0);
    recorder.grows_for(Duration::from_secs(2)).await;
    let loads = page.loads().len();
    ends_well(&mut recorder, &stage).await;
    assert_eq!(page.loads().len(), loads);
    shows_the_page(&stage);
}

/// No two of them are further apart than five seconds, and what the load itself takes.
fn are_near_each_other(tries: &[Instant]) {
    let apart = tries.windows(2).map(|two| two[1] - two[0]);
    let longest = apart.max().unwrap_or_default();
    println!("{} tries, at most {longest:?} apart", tries.len());
    assert!(longest.as_secs_f64() < 5.0 + SLACK, "{longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_chrome_says_of_a_page_that_cannot_be_had_is_recorded() {
    let plain = OddPage::serve(Answer::default()).await;
    let no_tls = plain.url().replace("http:", "https:");
    let nothing = OddPage::serve(Answer {
        status: 404,
        body: String::new(),
        ..Answer::default()
    })
    .await;
    for (id, url) in [
        ("ses_tls", no_tls),
        ("ses_dns", "http://nowhere.invalid/odd".to_owned()),
        ("ses_nothing", nothing.url()),
    ] {
        let mut stage = Stage::set(id).await;
        stage.order.url = url;
        let watch = stage.watched().await;
        let mut recorder = stage.start().await;
        let is_told = |report: &Value| has_trouble(report, "page", "cannot be loaded: net::ERR_");
        watch.sees(id, is_told).await;
        recorder.grows_for(Duration::from_secs(3)).await;
        ends_well(&mut recorder, &stage).await;
        let footage = stage.footage();
        assert_eq!(footage.decode_errors, Vec::<String>::new());
        assert!(footage.duration > 2.0, "{} s", footage.duration);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_crashes_while_its_server_is_away_ends_nothing() {
    let page = OddPage::serve(Answer::default()).await;
    let mut stage = stage("ses_crash_away", &page).await;
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(4)).await;
    page.go_away();
    recorder.signal_renderers("KILL");
    let is_told = |report: &Value| has_trouble(report, "page", "cannot be loaded");
    watch.sees("the server that is away", is_told).await;
    // The sixth failure in a row had Chrome replaced, after some ten seconds.
    recorder.grows_for(Duration::from_secs(22)).await;
    let report = watch.report().await;
    assert!(is_told(&report), "{report}");
    assert_eq!(report["restarts"]["browser"], 0, "{report}");
    are_near_each_other(&page.loads()[1..]);
    page.come_back();
    is_well(&watch).await;
    ends_well(&mut recorder, &stage).await;
    shows_the_page(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_blocks_for_long_whenever_it_is_loaded_is_shown_in_the_end() {
    let body = format!(
        "{CLOCK}<script>const end = Date.now() + 16000; while (Date.now() < end);</script>"
    );
    let page = OddPage::serve(Answer {
        body,
        ..Answer::default()
    })
    .await;
    let mut stage = stage("ses_blocks", &page).await;
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    let is_told = |report: &Value| has_trouble(report, "page", "does not answer");
    watch.sees("the page that blocks", is_told).await;
    is_well(&watch).await;
    assert_eq!(watch.report().await["restarts"]["browser"], 1);
    ends_well(&mut recorder, &stage).await;
    shows_the_page(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_busy_and_then_opens_a_dialog_goes_on() {
    let body = format!(
        "{CLOCK}<script>setTimeout(() => {{
        const end = Date.now() + 3000; while (Date.now() < end); alert('any'); fetch('/said/went-on');
        }}, 3000)</script>"
    );
    let page = OddPage::serve(Answer {
        body,
        ..Answer::default()
    })
    .await;
    let mut stage = stage("ses_dialog", &page).await;
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    wait::until_true("the page after its dialog", Duration::from_secs(45), || {
        page.said() == ["went-on"]
    })
    .await;
    nothing_was_started_again(&watch.report().await);
    ends_well(&mut recorder, &stage).await;
    shows_the_page(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_keeps_dying_never_ends_the_recording() {
    let mut stage = Stage::set("ses_no_browser").await;
    let watch = stage.watched().await;
    let mut recorder = stage.start().await;
    recorder.grows_for(Duration::from_secs(3)).await;
    let begin = Instant::now();
    let mut kills = 0;
    while kills < 8 || begin.elapsed() < Duration::from_secs(18) {
        kills += usize::from(recorder.kill_any("chromium", "remote-debugging-pipe"));
        recorder.grows_for(Duration::from_millis(500)).await;
        assert!(begin.elapsed() < Duration::from_secs(60), "{kills} kills");
    }
    println!("Chrome was killed {kills} times");
    let is_told = |report: &Value| has_trouble(report, "page", "keeps ending");
    assert!(is_told(&watch.report().await));
    is_well(&watch).await;
    ends_well(&mut recorder, &stage).await;
    shows_the_page(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pages_candidates_are_addresses() {
    let body = "<!doctype html><script>
        const peer = new RTCPeerConnection();
        peer.onicecandidate = ({ candidate }) =>
            fetch('/said/' + (candidate ? candidate.type + '-' + candidate.address : 'all'));
        peer.createDataChannel('any');
        peer.createOffer().then((offer) => peer.setLocalDescription(offer));
        </script>";
    let said = what_a_page_says("ses_ice", "X-Odd: no", body, "all").await;
    let hosts: Vec<&String> = said.iter().filter(|it| it.starts_with("host-")).collect();
    assert!(!hosts.is_empty(), "{said:?}");
    assert!(!hosts.iter().any(|it| it.ends_with(".local")), "{hosts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_public_name_reaches_private_addresses_without_a_question() {
    let public = "Content-Security-Policy: treat-as-public-address";
    let body = "<!doctype html><script>
        fetch('http://localhost:' + location.port + '/said/reached', { mode: 'no-cors' });
        </script>";
    what_a_page_says("ses_private", public, body, "reached").await;
}

/// What a page has said until it says `last`.
async fn what_a_page_says(id: &str, header: &'static str, body: &str, last: &str) -> Vec<String> {
    let page = OddPage::serve(Answer {
        header,
        body: body.to_owned(),
        ..Answer::default()
    })
    .await;
    let stage = stage(id, &page).await;
    let _recorder = stage.spawn();
    wait::until_true("the page's word", Duration::from_secs(20), || {
        page.said().iter().any(|it| it == last)
    })
    .await;
    page.said()
}
