//! The capture: one life of ffmpeg, which takes the display's pictures and the sound server's sound, both stamped with the
//! wall clock, and writes one fragmented MP4 to its output. Here its pieces are counted and handed on; when none comes
//! for some time ffmpeg is replaced.

use super::audio;
use super::browser::Page;
use super::display::Display;
use super::order::{Order, Sound};
use super::phase;
use super::supervise::{Ended, Leniency, Stage, blame, gone, there};
use crate::child::Child;
use crate::clock::{StepWatch, wall_ahead_of_monotonic};
use crate::join::{Fragment, Piece, Splitter};
use crate::model::wire::TroubleKind;
use command_fds::{CommandFdExt, FdMapping};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::ChildStdout;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long the page may take until capture begins without it.
const PAGE: Duration = Duration::from_millis(2500);
/// Without a new fragment for so long, ffmpeg is replaced.
const STALLED: Duration = Duration::from_secs(3);
/// So long may the first fragment take.
const FIRST: Duration = Duration::from_secs(6);
/// How long ffmpeg may take to write what it holds when it is told to end.
const DRAIN: Duration = Duration::from_secs(2);
/// Fragments later than this mean that the machine is too slow.
const LATE: Duration = Duration::from_millis(1500);
/// How often it is looked whether the clock was set, beside each fragment.
const CLOCK: Duration = Duration::from_millis(500);
/// Without sound for so long, something is wrong; silence is sound too.
const SILENT: Duration = Duration::from_secs(2);
/// What ffmpeg can write ahead of us, in bytes.
const PIPE: i32 = 1 << 20;
/// A page that was lost is waited for so long; then what is shown is recorded as it is.
const PUT_BACK: Duration = Duration::from_secs(10);
/// How much video one fragment holds, in microseconds: what a kill may cost.
const FRAGMENT: u32 = 200_000;

/// What capture stands on, and whom it gives to.
pub(super) struct Ground {
    pub(super) display: watch::Receiver<Option<Display>>,
    pub(super) audio: watch::Receiver<Option<()>>,
    pub(super) page: watch::Receiver<Page>,
    pub(super) pieces: mpsc::Sender<Piece>,
    /// Asks for a new stream, which begins with a frame that needs no other.
    pub(super) refresh: Arc<Notify>,
    /// Capture drains and ends when this is cancelled.
    pub(super) stop: CancellationToken,
    pub(super) chunk: Duration,
    pub(super) keyframe: Duration,
    pub(super) syntax: Syntax,
    /// Whether a life has begun to capture before.
    pub(super) begun: AtomicBool,
    /// With an ffmpeg that gives nothing.
    pub(super) leniency: Leniency,
}

/// What differs between versions of ffmpeg.
#[derive(Clone, Copy, Debug)]
pub(super) struct Syntax {
    /// How it wants to be told that frames pass through as they come.
    pass: &'static str,
    /// How it prints the stamp of the first frame, where it can.
    print_first: Option<fn() -> String>,
}

impl Syntax {
    /// Asks the installed ffmpeg for its version.
    pub(super) async fn of_installed() -> Self {
        let asked = tokio::process::Command::new("ffmpeg")
            .arg("-version")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        match tokio::time::timeout(Duration::from_secs(5), asked).await {
            Ok(Ok(said)) => Self::of(&String::from_utf8_lossy(&said.stdout)),
            // Starting it will fail too, and say why.
            _ => Self::of(""),
        }
    }

    fn of(said: &str) -> Self {
        let version = said.split_whitespace().nth(2).unwrap_or_default();
        let mut numbers = version
            .trim_start_matches(|c: char| !c.is_ascii_digit())
            .split(|c: char| !c.is_ascii_digit())
            .map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let is_before = |other: (u32, u32)| version < other && version.0 > 0;
        Self {
            pass: if is_before((5, 1)) {
                "-vsync"
            } else {
                "-fps_mode"
            },
            print_first: (!is_before((4, 4))).then_some(phase::print_first),
        }
    }
}

/// Starts ffmpeg when there is something to capture, hands on what it writes, and watches it to its end. When the page is
/// lost another ffmpeg begins at once, of which nothing is handed on until the page is back.
pub(super) async fn live(stage: &Stage, order: &Order, ground: &Ground) -> Ended {
    loop {
        tokio::select! {
            ended = stream(stage, order, ground) => return ended,
            () = page_lost(ground) => stage.seen.explain("the page went away and was put back"),
        }
    }
}

/// Waits until a page that is shown, or will be, goes away.
async fn page_lost(ground: &Ground) {
    let mut page = ground.page.clone();
    let lost = async {
        page.wait_for(Page::is_shown).await?;
        page.wait_for(|page| matches!(page, Page::Lost(_)))
            .await
            .map(drop)
    };
    if lost.await.is_err() || ground.stop.is_cancelled() {
        // Its browser's keeper has ended, or what was captured is being written: no other stream is to begin.
        std::future::pending::<()>().await;
    }
}

/// One ffmpeg from its start to its end.
async fn stream(stage: &Stage, order: &Order, ground: &Ground) -> Ended {
    let (mut display, mut audio) = (ground.display.clone(), ground.audio.clone());
    let ready = async {
        let on = there(&mut display, &stage.curtain).await?;
        if order.sound == Sound::Recorded {
            there(&mut audio, &stage.curtain).await?;
        }
        let mut page = ground.page.clone();
        // The first page is waited for, within bounds; later ones are not, as capture goes on without them.
        if !ground.begun.swap(true, Ordering::Relaxed) {
            let shown = page.wait_for(Page::is_shown);
            let _ = tokio::time::timeout(PAGE, shown).await;
        }
        Some(on)
    };
    let on = tokio::select! {
        biased;
        () = ground.stop.cancelled() => None,
        on = ready => on,
    };
    let Some(on) = on else { return Ended::Told };
    let steps = StepWatch::begin(Arc::clone(&stage.clock));
    let (mut ffmpeg, printed) = match start(stage, order, ground, on) {
        Ok(started) => started,
        Err(why) => return Ended::Died(why),
    };
    let Some(stdout) = ffmpeg.stdout() else {
        return Ended::Died("ffmpeg has no output".into());
    };
    let below = async {
        tokio::select! {
            () = gone(&mut display) => "its display went away".to_owned(),
            () = gone(&mut audio), if order.sound == Sound::Recorded => {
                "its sound server went away".to_owned()
            }
        }
    };
    tokio::pin!(below);
    let mut flow = Flow::new(stage, order, ground, &steps);
    let flowing = async {
        if order.sound == Sound::Recorded && ground.syntax.print_first.is_some() {
            flow.keep_sound_with_picture(printed, order.frame_rate, on)
                .await;
        }
        flow.run(stdout, &mut ffmpeg).await
    };
    let ended = tokio::select! {
        how = flowing => how,
        why = &mut below => Ended::Anew(why),
        why = clock_set(&steps, &ground.stop) => Ended::Anew(why),
        () = ground.refresh.notified() => Ended::Anew("a new stream was asked for".into()),
    };
    ffmpeg.kill().await;
    match ended {
        Ended::Died(how) => blame(how, below).await,
        other => other,
    }
}

/// Waits until the clock was set. The stream's stamps would stand still or leap, and frames be left out or repeated with
/// them: another one begins, and what lies between is a gap with a name.
async fn clock_set(steps: &StepWatch, stop: &CancellationToken) -> String {
    let mut look = tokio::time::interval(CLOCK);
    loop {
        look.tick().await;
        if let Some(step) = steps.step().filter(|_| !stop.is_cancelled()) {
            return step.to_string();
        }
    }
}

/// Starts ffmpeg. What it prints of its first frame comes out of the descriptor.
fn start(
    stage: &Stage,
    order: &Order,
    ground: &Ground,
    on: Display,
) -> Result<(Child, OwnedFd), String> {
    let mut command = stage.workshop.command("ffmpeg");
    command
        .env("PULSE_LATENCY_MSEC", "60")
        .args(arguments(order, ground, on))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let (printed, prints) = io::pipe().map_err(|cause| format!("no pipe for ffmpeg: {cause}"))?;
    let mapping = FdMapping {
        parent_fd: prints.into(),
        child_fd: phase::DESCRIPTOR,
    };
    let mapped = command.fd_mappings(vec![mapping]);
    mapped.map_err(|cause| cause.to_string())?;
    let spawned = Child::spawn("ffmpeg", command, &stage.hidden, &stage.tasks);
    let ffmpeg = spawned.map_err(|cause| cause.to_string())?;
    Ok((ffmpeg, printed.into()))
}

fn arguments(order: &Order, ground: &Ground, on: Display) -> Vec<String> {
    let rate = order.frame_rate.to_string();
    let size = order.resolution.even().to_string();
    let apart = keyframes_apart(ground.chunk, ground.keyframe).as_secs_f64();
    // A stream that waits for its page can be taken from any of its fragments.
    let waiting = PUT_BACK.as_secs() + 1;
    let fragment = f64::from(FRAGMENT) / 1e6;
    let apart = match *ground.page.borrow() {
        Page::Lost(_) => format!("if(lt(t,{waiting}),{fragment},{apart})"),
        Page::Loading | Page::Shown(_) => apart.to_string(),
    };
    let key = format!("expr:if(isnan(prev_forced_t),1,gte(t,prev_forced_t+{apart}-0.001))");
    let mut all: Vec<String> = Vec::new();
    let mut add = |part: &[&str]| all.extend(part.iter().map(|text| (*text).to_owned()));
    add(&["-hide_banner", "-nostdin", "-nostats", "-loglevel", "error"]);
    // The stamps are the wall clock's; looking ahead to guess what is known would only cost time.
    let at_once = ["-probesize", "32", "-analyzeduration", "0"];
    if order.sound == Sound::Recorded {
        let late = phase::shown_late(on.refreshes()).as_secs_f64();
        // Sound is opened first, so that it is there before the first frame.
        add(&at_once);
        add(&[
            "-itsoffset",
            &late.to_string(),
            "-thread_queue_size",
            "512",
            "-f",
            "pulse",
            "-i",
            audio::SOURCE,
        ]);
    }
    add(&at_once);
    add(&[
        "-thread_queue_size",
        "64",
        "-f",
        "x11grab",
        "-framerate",
        &rate,
    ]);
    add(&["-video_size", &size, "-draw_mouse", "0", "-i", &on.name()]);
    match order.sound {
        Sound::Recorded => add(&["-map", "1:v", "-map", "0:a"]),
        Sound::None => add(&["-map", "0:v"]),
    }
    add(&[
        "-copyts",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        // Else it holds back a frame for each of its threads, of which a large machine has many.
        "-tune",
        "zerolatency",
        "-crf",
        "28",
    ]);
    add(&["-pix_fmt", "yuv420p", "-vf", &filters(order, ground.syntax)]);
    add(&[ground.syntax.pass, "passthrough", "-force_key_frames", &key]);
    add(&["-g", "1000000", "-sc_threshold", "0"]);
    if order.sound == Sound::Recorded {
        add(&["-c:a", "aac", "-b:a", "128k", "-ar", "48000", "-ac", "2"]);
        add(&["-af", "aresample=async=1000"]);
    }
    let flags = "+frag_keyframe+empty_moov+default_base_moof+frag_discont+negative_cts_offsets";
    add(&[
        "-f",
        "mp4",
        "-movflags",
        flags,
        "-frag_duration",
        &FRAGMENT.to_string(),
    ]);
    add(&["-flush_packets", "1", "pipe:1"]);
    all
}

/// How far keyframes are apart: at most `wanted`, and so that a chunk, which begins with one, ends at one.
fn keyframes_apart(chunk: Duration, wanted: Duration) -> Duration {
    let parts = chunk.as_millis().div_ceil(wanted.as_millis().max(1));
    chunk / u32::try_from(parts).unwrap_or(1).max(1)
}

/// What becomes of a frame before it is encoded.
fn filters(order: &Order, syntax: Syntax) -> String {
    let print = syntax
        .print_first
        .filter(|_| order.sound == Sound::Recorded);
    let first = print.map(|print| print());
    let all = first.into_iter().chain([phase::to_grid(order.frame_rate)]);
    all.collect::<Vec<_>>().join(",")
}

/// What comes out of one ffmpeg.
struct Flow<'a> {
    stage: &'a Stage,
    ground: &'a Ground,
    steps: &'a StepWatch,
    splitter: Splitter,
    /// When the last fragment came, and how long the next may take.
    last: Instant,
    patience: Duration,
    /// How many fragments came.
    fragments: u64,
    frame: Duration,
    /// When sound came last; `None` when none is ordered.
    heard: Option<Instant>,
    /// The start of a stream of which nothing has been handed on yet.
    held: Option<Piece>,
}

impl<'a> Flow<'a> {
    fn new(stage: &'a Stage, order: &Order, ground: &'a Ground, steps: &'a StepWatch) -> Self {
        Self {
            stage,
            ground,
            steps,
            splitter: Splitter::new(),
            last: Instant::now(),
            patience: ground.leniency.stretch(FIRST),
            fragments: 0,
            frame: Duration::from_secs(1) / order.frame_rate,
            heard: (order.sound == Sound::Recorded).then(Instant::now),
            held: None,
        }
    }

    /// Waits for the first frame, and has sound moved as the frames were.
    async fn keep_sound_with_picture(&mut self, printed: OwnedFd, rate: u32, on: Display) {
        let taken = tokio::select! {
            taken = phase::first_taken(printed) => taken.unwrap_or_default(),
            () = tokio::time::sleep_until(self.last + self.patience) => None,
            () = self.ground.stop.cancelled() => None,
        };
        match taken {
            Some(at) => {
                let on_show = phase::on_show(at - wall_ahead_of_monotonic(), rate, on.refreshes());
                self.splitter
                    .delay_sound(phase::way_to_grid(at, rate) + on_show);
            }
            // Half a frame is what it may cost.
            None => log::debug!("ffmpeg does not say when it took its first frame"),
        }
    }

    /// Hands on everything up to the end of the stream. When told to stop, has ffmpeg finish what it holds.
    async fn run(&mut self, mut stdout: ChildStdout, ffmpeg: &mut Child) -> Ended {
        // A larger pipe is a convenience: without it ffmpeg only waits earlier.
        let _ = fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(PIPE));
        let mut buffer = vec![0; 64 << 10];
        let mut told = false;
        loop {
            let silence = self.last + if told { DRAIN } else { self.patience };
            let read = tokio::select! {
                read = stdout.read(&mut buffer) => read,
                () = self.ground.stop.cancelled(), if !told => {
                    told = true;
                    self.last = Instant::now();
                    ffmpeg.signal(Signal::SIGINT);
                    continue;
                }
                () = tokio::time::sleep_until(silence) => {
                    let message = "ffmpeg gives no new frames";
                    self.stage.seen.trouble(TroubleKind::Capture, message);
                    if told {
                        return Ended::Told;
                    }
                    self.ground.leniency.lost_patience();
                    if self.fragments == 0 {
                        // This ffmpeg is a new one: it is not the one that hangs.
                        self.stage.suspect();
                    }
                    return Ended::Died(message.into());
                }
            };
            // What was stamped by another clock is not handed on.
            if let Some(step) = self.steps.step().filter(|_| !told) {
                return Ended::Anew(step.to_string());
            }
            match read {
                Ok(0) | Err(_) if told => return Ended::Told,
                Ok(0) | Err(_) => return Ended::Died(ffmpeg.ended().await),
                Ok(count) => self.splitter.push(&buffer[..count]),
            }
            loop {
                match self.splitter.next() {
                    Ok(Some(piece)) => self.hand_on(piece).await,
                    Ok(None) => break,
                    Err(fault) => return Ended::Died(format!("ffmpeg wrote no MP4: {fault}")),
                }
            }
        }
    }

    /// Hands on what comes from the first fragment that begins with a keyframe and shows a page.
    async fn hand_on(&mut self, piece: Piece) {
        match &piece {
            Piece::Init(_) => self.held = Some(piece),
            Piece::Fragment(fragment) => {
                self.judge(fragment);
                if self.held.is_none() || self.can_begin_with(fragment) {
                    for piece in self.held.take().into_iter().chain([piece]) {
                        // A disk that is slow for a while holds ffmpeg up, which then makes good for it; nothing is thrown
                        // away.
                        let _ = self.ground.pieces.send(piece).await;
                    }
                }
            }
        }
        self.last = Instant::now();
    }

    /// Whether a page is to be seen in all of `fragment`, or has been waited for long enough, and no frame before it is
    /// needed.
    fn can_begin_with(&self, fragment: &Fragment) -> bool {
        let age = self.stage.clock.now().since(fragment.start());
        let page = *self.ground.page.borrow();
        let shows = match page {
            Page::Loading => true,
            Page::Shown(since) => age <= since.elapsed(),
            Page::Lost(since) => age + PUT_BACK <= since.elapsed(),
        };
        shows && fragment.starts_with_keyframe()
    }

    fn judge(&mut self, fragment: &Fragment) {
        self.patience = self.ground.leniency.stretch(STALLED);
        self.fragments += 1;
        let seen = &self.stage.seen;
        let behind = self.stage.clock.now().since(fragment.end());
        let frames = u64::try_from(fragment.frames()).unwrap_or(u64::MAX);
        seen.note(|report| {
            report.frames += frames;
            report.behind_ms = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX);
            if behind > LATE {
                report.late_frames += frames;
            }
        });
        seen.well(TroubleKind::Capture);
        self.listen(fragment);
        let seen = &self.stage.seen;
        if behind > LATE {
            let seconds = behind.as_secs_f64().ceil();
            let message = format!("the machine is too slow: frames come over {seconds} s late");
            seen.trouble(TroubleKind::Starved, message);
        } else if behind + self.frame < LATE / 2 {
            seen.well(TroubleKind::Starved);
        }
    }

    fn listen(&mut self, fragment: &Fragment) {
        let Some(heard) = &mut self.heard else { return };
        let seen = &self.stage.seen;
        if fragment.has_sound() {
            *heard = Instant::now();
            seen.well(TroubleKind::Audio);
        } else if heard.elapsed() > SILENT {
            seen.trouble(TroubleKind::Audio, "no sound comes from the sound server");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_ends_at_a_keyframe_whatever_its_length() {
        let apart = |chunk: u64, wanted: u64| {
            keyframes_apart(Duration::from_secs(chunk), Duration::from_secs(wanted)).as_millis()
        };
        assert_eq!(
            [apart(10, 2), apart(5, 2), apart(1, 2), apart(300, 60)],
            [2000, 1666, 1000, 60_000]
        );
    }

    #[test]
    fn each_ffmpeg_is_spoken_to_in_its_own_words() {
        for (said, pass, prints) in [
            ("ffmpeg version 4.2.7-0ubuntu0.1 Copyright", "-vsync", false),
            ("ffmpeg version n4.4 Copyright", "-vsync", true),
            ("ffmpeg version 5.0.1 Copyright", "-vsync", true),
            (
                "ffmpeg version 5.1.9-0+deb12u1 Copyright",
                "-fps_mode",
                true,
            ),
            ("ffmpeg version 7.1 Copyright", "-fps_mode", true),
            (
                "ffmpeg version N-118193-g5f38c82536 Copyright",
                "-fps_mode",
                true,
            ),
            ("", "-fps_mode", true),
        ] {
            let syntax = Syntax::of(said);
            assert_eq!(syntax.pass, pass, "{said}");
            assert_eq!(syntax.print_first.is_some(), prints, "{said}");
        }
    }
}
