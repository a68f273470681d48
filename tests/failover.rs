//! Failover against real Docker, at a size that Chromium would not allow: fifty stand-ins for recorders, all killed at
//! once; and the watcher over thousands of sessions. `cargo bench --bench failover` measures the same with more of each.

use crate::support::crowd::{Crowd, Watching, id, registration};
use crate::support::desk::Desk;
use crate::support::docker::docker;
use crate::support::loss::least;
use crate::support::wait::until_true;
use futures_util::FutureExt;
use ov2_ha_recorder::controller::{Filter, Which};
use ov2_ha_recorder::db::Db;
use ov2_ha_recorder::model::failover::Reason;
use ov2_ha_recorder::model::session::Status;
use ov2_ha_recorder::model::wire::Heartbeat;
use std::time::Duration;
use tokio::sync::Mutex;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_recorders_killed_at_once_are_each_started_again_once() {
    const AT_ONCE: Duration = Duration::from_millis(50);
    let crowd = Mutex::new(Crowd::gather(50).await);
    let worst = least(AT_ONCE, || async {
        let mut crowd = crowd.lock().await;
        // Until the round before is forgiven: a second failover waits by design.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let took = crowd.kill_all().await;
        crowd.each_was_started_once();
        let delays = crowd.delays();
        let (median, worst) = (delays[25], delays[48]);
        println!(
            "50 recorders killed at once: all record again after {took:.2?}; from event to start: median {median:.2?}, p99 {worst:.2?}"
        );
        assert!(took <= Duration::from_secs(15), "it took {took:?}");
        worst
    });
    let worst = worst.await;
    assert!(worst <= AT_ONCE, "event to start took {worst:?}");
    let crowd = crowd.into_inner();
    crowd.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_was_replaced_and_comes_again_is_ended_for_good() {
    let crowd = Crowd::gather(1).await;
    let (first, second) = crowd.usurp().await;
    // Docker starts it again, as it was told to when it registered; its place is taken, and it ends with a failure. While
    // Docker means to start it once more, its state is another one.
    let before = first.started_at();
    first.signal_first_process("KILL");
    let ended = || first.inspect("{{.State.Status}}").unwrap() == "exited";
    until_true("its end", Duration::from_secs(10), ended).await;
    let again = first.started_at();
    assert_ne!(again, before, "Docker did not start it");
    crowd.is_heard(2).await;
    assert!(ended());
    assert_eq!(first.started_at(), again, "Docker started it once more");
    assert!(second.runs(), "the one that records was ended");
    crowd.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_dies_before_it_registers_is_started_again() {
    let crowd = Crowd::gather(0).await;
    let silent = crowd.silent_one();
    let before = silent.started_at();
    silent.signal_first_process("KILL");
    let again = || silent.runs() && silent.started_at() != before;
    until_true("another start", Duration::from_secs(10), again).await;
    crowd.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_whose_health_check_fails_is_replaced() {
    let check = [
        "--health-cmd=[ ! -s /sick ]",
        "--health-interval=1s",
        "--health-retries=1",
    ];
    let crowd = Crowd::gather_with(1, &check).await;
    let container = crowd.first();
    let inside = |script: &str| docker(&["exec", &container.0, "bash", "-c", script]).unwrap();
    let before = container.started_at();
    inside("echo x > /sick");
    let again = || container.runs() && container.started_at() != before;
    until_true("another start", Duration::from_secs(10), again).await;
    inside(": > /sick");
    let wanted = Reason::Reported {
        message: "its health check fails".into(),
    };
    assert_eq!(crowd.has_failed_over().await, wanted);
    crowd.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_ran_out_of_memory_is_known_for_it() {
    let crowd = Crowd::gather_with(1, &["--memory=32m", "--memory-swap=32m"]).await;
    let container = crowd.first();
    // The kernel ends what takes the most.
    let hog = "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done";
    docker(&["exec", &container.0, "bash", "-c", hog]).unwrap_err();
    let told = || container.events("oom") > 0;
    until_true("Docker's word of it", Duration::from_secs(10), told).await;
    container.signal_first_process("KILL");
    assert_eq!(crowd.has_failed_over().await, Reason::OutOfMemory);
    crowd.leave().await;
}

/// An unoptimized build on a busy machine is slower than what is shipped, by far.
const SLACK: u32 = if cfg!(debug_assertions) { 40 } else { 1 };

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_over_ten_thousand_sessions_takes_milliseconds() {
    let watching = Watching::over(10_000).await;
    println!("10,000 sessions: {watching:?}");
    let most = Duration::from_millis(5) * SLACK;
    assert!(watching.none_due <= most, "{watching:?}");
    assert!(watching.all_due <= most, "{watching:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_costs_the_same_among_a_hundred_sessions_and_among_thousands() {
    let (few, many) = (Watching::over(100).await, Watching::over(20_000).await);
    println!("a heartbeat among 100: {few:?}; among 20,000: {many:?}");
    // Two hundred times the sessions; whoever looked at all of them would take about as many times as long.
    assert!(many.heartbeat <= few.heartbeat * 10, "{few:?}, {many:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_known_before_all_are_read_and_who_asks_for_all_waits() {
    let folder = tempfile::tempdir().unwrap();
    let (desk, _) = Desk::by_hand(folder.path());
    for number in 0..3 {
        let registered = desk.controller.register(registration(number)).await;
        registered.unwrap();
    }
    desk.close().await;
    let data = folder.path().join("data");
    let is_closed = || Db::open(&data).is_ok();
    until_true("a closed database", Duration::from_secs(5), is_closed).await;

    let (desk, clock) = Desk::begin_by_hand(folder.path());
    let controller = &desk.controller;
    clock.advance(Duration::from_secs(9));
    controller.heartbeat(&id(0), Heartbeat::default()).unwrap();
    let heard_at = controller.session(&id(0)).unwrap().heartbeat_at;
    let before = controller.session(&id(1)).unwrap().run;
    let again = controller.register(registration(1)).await.unwrap();
    assert!(again.run > before, "it was taken for a new session");
    controller.remove(&id(2)).await.unwrap();
    let all = Filter {
        which: Which::Any,
        limit: 9,
        offset: 0,
    };
    assert!(controller.page(all).now_or_never().is_none());
    controller.load().unwrap();
    let page = controller.page(all).await;
    let ids = page.sessions.iter().map(|(session, _)| &session.id);
    assert_eq!(ids.collect::<Vec<_>>(), [&id(0), &id(1)]);
    let heard = controller.session(&id(0)).unwrap();
    assert_eq!(heard.heartbeat_at, heard_at, "an older record came over it");
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_clock_was_set_back_nobody_is_blamed_and_the_silent_are_still_missed_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let (desk, clock) = Desk::by_hand(folder.path());
    let controller = &desk.controller;
    controller.register(registration(0)).await.unwrap();
    let heard = Heartbeat {
        last_chunk: Some("0001.mp4".into()),
        ..Heartbeat::default()
    };
    controller.heartbeat(&id(0), heard).unwrap();
    controller.start();
    // The watcher looks at the clock whenever something changes.
    let seconds_pass = async |seconds: u32| {
        for _ in 0..seconds {
            clock.advance(Duration::from_secs(1));
            let changed = id(0);
            let status = controller.set_status(&changed, Status::Recording);
            status.await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        controller.session(&id(0)).unwrap().failovers.is_empty()
    };
    assert!(seconds_pass(1).await);
    clock.set_back(Duration::from_secs(3_600));
    assert!(seconds_pass(28).await, "its time is not over");
    seconds_pass(5).await;
    // Its files are looked at before it is held lost.
    let missed = || !controller.session(&id(0)).unwrap().failovers.is_empty();
    let soon = Duration::from_secs(10);
    until_true(
        "a failover of who has been silent for 33 s since",
        soon,
        missed,
    )
    .await;
    desk.close().await;
}
