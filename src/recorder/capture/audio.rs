//! The sound: one life of PulseAudio with one sink, `page`, whose monitor is recorded. It listens on a socket in the
//! workshop only, so that recorders on one host do not hear each other.

use super::supervise::Ended;
use crate::child::Child;
use crate::recorder::context::Context;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::watch;

/// How long PulseAudio may take to be ready.
const START: Duration = Duration::from_secs(10);
/// How often a socket that is not there yet is tried; there is no event for it.
const TRY: Duration = Duration::from_millis(20);

/// The source that is recorded.
pub(super) const SOURCE: &str = "page.monitor";

/// The process through which sound can be played and recorded.
pub(super) type Up = watch::Sender<Option<i32>>;

/// PulseAudio before version 14 does not know how to keep a sink's delay short.
#[derive(Debug, Default)]
pub(super) struct Dialect {
    old: AtomicBool,
}

/// Starts PulseAudio, says when it is there, and watches it to its end.
pub(super) async fn live(context: &Context, dialect: &Dialect, up: &Up) -> Ended {
    let mut pulse = match start(context, dialect).await {
        Ok(pulse) => pulse,
        Err(why) => {
            dialect.old.fetch_xor(true, Ordering::Relaxed);
            return Ended::Died(why);
        }
    };
    up.send_replace(Some(pulse.pid()));
    let ended = tokio::select! {
        how = pulse.ended() => Ended::Died(how),
        why = context.suspected() => Ended::Died(why),
        () = context.shutdown.cancelled() => Ended::Told,
    };
    up.send_replace(None);
    pulse.kill().await;
    ended
}

async fn start(context: &Context, dialect: &Dialect) -> Result<Child, String> {
    let socket = context.workshop.path("pulse.socket");
    // A server that was killed leaves its socket behind; there is none at the first start.
    let _ = fs::remove_file(&socket);
    let sink = match dialect.old.load(Ordering::Relaxed) {
        true => "module-null-sink sink_name=page rate=48000 channels=2",
        // Without this the first sound comes up to two seconds late.
        false => "module-null-sink sink_name=page rate=48000 channels=2 norewinds=1",
    };
    let listen = format!(
        "module-native-protocol-unix auth-anonymous=1 socket={}",
        socket.display()
    );
    let mut command = context.workshop.command("pulseaudio");
    command
        .args(["-n", "--daemonize=no", "--use-pid-file=no"])
        .args(["--log-target=stderr", "--log-level=error"])
        // A page that plays nothing is no reason to end.
        .arg("--exit-idle-time=-1")
        // A page that has broken out reaches the server's socket, and must not have it load code as our user.
        .args(["--disallow-module-loading", "--disallow-exit"])
        .args(["-L", sink, "-L", &listen])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let spawned = Child::spawn("PulseAudio", command, &context.hidden, &context.tasks);
    let mut pulse = spawned.map_err(|cause| cause.to_string())?;
    let listening = async {
        while UnixStream::connect(&socket).await.is_err() {
            tokio::time::sleep(TRY).await;
        }
    };
    tokio::select! {
        () = listening => Ok(pulse),
        how = pulse.ended() => Err(how),
        () = tokio::time::sleep(START) => Err("PulseAudio was not ready in time".into()),
    }
}
