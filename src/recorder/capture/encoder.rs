//! The capture: one life of ffmpeg, which takes the display's pictures and the sound server's sound, both stamped with the
//! wall clock, and writes one fragmented MP4 to its output. Here its pieces are counted and handed on; when none comes
//! for some time ffmpeg is replaced.

use super::browser::Page;
use super::command::{self, Syntax};
use super::display::Display;
use super::phase;
use super::supervise::{Ended, Leniency, attribute_death, available, changed};
use crate::child::Child;
use crate::clock::{StepWatch, wall_ahead_of_monotonic};
use crate::join::{Fragment, Piece, Seat, Splitter, StreamRecord};
use crate::model::wire::TroubleKind;
use crate::recorder::context::Context;
use crate::recorder::order::{Sound, View};
use crate::tasks::OVERSLEPT;
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
pub(super) const PUT_BACK: Duration = Duration::from_secs(10);

/// What capture stands on, and whom it gives to.
pub(super) struct Inputs {
    pub(super) display: watch::Receiver<Option<Display>>,
    pub(super) audio: watch::Receiver<Option<i32>>,
    pub(super) page: watch::Receiver<Page>,
    pub(super) pieces: mpsc::Sender<Piece>,
    /// Asks for a new stream, which begins with a frame that needs no other.
    pub(super) refresh: Arc<Notify>,
    /// Nothing is captured until this is cancelled.
    pub(super) begin: CancellationToken,
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

/// Starts ffmpeg when there is something to capture, hands on what it writes, and watches it to its end. When the page is
/// lost another ffmpeg begins at once, of which nothing is handed on until the page is back.
pub(super) async fn live(context: &Context, view: &View, inputs: &Inputs) -> Ended {
    loop {
        tokio::select! {
            ended = stream(context, view, inputs) => return ended,
            () = page_lost(inputs) => context.reporter.explain("the page went away and was put back"),
        }
    }
}

/// Waits until a page that is shown, or will be, goes away.
async fn page_lost(inputs: &Inputs) {
    let mut page = inputs.page.clone();
    let lost = async {
        page.wait_for(Page::is_shown).await?;
        page.wait_for(|page| matches!(page, Page::Lost(_)))
            .await
            .map(drop)
    };
    if lost.await.is_err() || inputs.stop.is_cancelled() {
        // Its browser's keeper has ended, or what was captured is being written: no other stream is to begin.
        std::future::pending::<()>().await;
    }
}

/// One ffmpeg from its start to its end. It is started before it is needed: its libraries take longer to load than it needs to
/// begin.
async fn stream(context: &Context, view: &View, inputs: &Inputs) -> Ended {
    let (mut display, mut audio) = (inputs.display.clone(), inputs.audio.clone());
    let available = async {
        let on = available(&mut display, &context.shutdown).await?;
        let sound = match view.sound {
            Sound::Recorded => Some(available(&mut audio, &context.shutdown).await?),
            Sound::None => None,
        };
        Some((on, sound))
    };
    let available = tokio::select! {
        biased;
        () = inputs.stop.cancelled() => None,
        available = available => available,
    };
    let Some((on, sound)) = available else {
        return Ended::Told;
    };
    let (mut ffmpeg, printed, gate) = match start(context, view, inputs, on) {
        Ok(started) => started,
        Err(why) => return Ended::Died(why),
    };
    let below = async {
        tokio::select! {
            () = changed(&mut display) => "its display went away".to_owned(),
            () = changed(&mut audio), if view.sound == Sound::Recorded => {
                "its sound server went away".to_owned()
            }
        }
    };
    tokio::pin!(below);
    let ended = tokio::select! {
        biased;
        () = inputs.stop.cancelled() => Ended::Told,
        why = &mut below => Ended::Anew(why),
        // As long as nothing is to be captured, that is no reason to give up.
        how = ffmpeg.ended() => match inputs.begin.is_cancelled() {
            true => Ended::Died(how),
            false => Ended::Anew(how),
        },
        () = page_returned(inputs), if !inputs.begin.is_cancelled() => Ended::Anew("the page is back".into()),
        () = may_begin(inputs) => {
            drop(gate);
            let steps = StepWatch::begin(Arc::clone(&context.clock));
            let flow = flow(context, view, inputs, &steps, (&mut ffmpeg, printed, on));
            tokio::select! {
                how = flow => how,
                why = &mut below => Ended::Anew(why),
                why = clock_set(&steps, &inputs.stop) => Ended::Anew(why),
                () = inputs.refresh.notified() => Ended::Anew("a new stream was asked for".into()),
            }
        }
    };
    ffmpeg.kill().await;
    match ended {
        Ended::Died(how) => {
            let stands_on = [on.process()].into_iter().chain(sound);
            attribute_death(how, stands_on, below).await
        }
        other => other,
    }
}

/// Waits until something is to be captured. The first page is waited for, within bounds; later ones are not, as capture goes on
/// without them.
async fn may_begin(inputs: &Inputs) {
    inputs.begin.cancelled().await;
    if !inputs.begun.swap(true, Ordering::Relaxed) {
        let mut page = inputs.page.clone();
        let shown = page.wait_for(Page::is_shown);
        let _ = tokio::time::timeout(PAGE, shown).await;
    }
}

/// Waits until the page is back that was away when ffmpeg was told what to do.
async fn page_returned(inputs: &Inputs) {
    let mut page = inputs.page.clone();
    if !matches!(*page.borrow_and_update(), Page::Lost(_))
        || page.wait_for(Page::is_shown).await.is_err()
    {
        std::future::pending::<()>().await;
    }
}

/// Hands on all that ffmpeg gives.
async fn flow(
    context: &Context,
    view: &View,
    inputs: &Inputs,
    steps: &StepWatch,
    (ffmpeg, printed, on): (&mut Child, OwnedFd, Display),
) -> Ended {
    let Some(stdout) = ffmpeg.stdout() else {
        return Ended::Died("ffmpeg has no output".into());
    };
    let mut flow = Flow::new(context, view, inputs, steps);
    if view.sound == Sound::Recorded && inputs.syntax.print_first.is_some() {
        flow.keep_sound_with_picture(printed, view.frame_rate, on)
            .await;
    }
    flow.run(stdout, ffmpeg).await
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

/// Starts ffmpeg. What it prints of its first frame comes out of the first descriptor; it begins when the second is closed.
fn start(
    context: &Context,
    view: &View,
    inputs: &Inputs,
    on: Display,
) -> Result<(Child, OwnedFd, OwnedFd), String> {
    let mut command = context.workshop.command("ffmpeg");
    command
        .env("PULSE_LATENCY_MSEC", "60")
        .args(command::arguments(view, inputs, on))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let pipe = || io::pipe().map_err(|cause| format!("no pipe for ffmpeg: {cause}"));
    let ((printed, prints), (waits, gate)) = (pipe()?, pipe()?);
    let mapping = |ours: OwnedFd, child_fd| FdMapping {
        parent_fd: ours,
        child_fd,
    };
    let mappings = vec![
        mapping(prints.into(), phase::DESCRIPTOR),
        mapping(waits.into(), command::GATE),
    ];
    let mapped = command.fd_mappings(mappings);
    mapped.map_err(|cause| cause.to_string())?;
    let spawned = Child::spawn("ffmpeg", command, &context.hidden, &context.tasks);
    let ffmpeg = spawned.map_err(|cause| cause.to_string())?;
    Ok((ffmpeg, printed.into(), gate.into()))
}

/// What comes out of one ffmpeg.
struct Flow<'a> {
    context: &'a Context,
    inputs: &'a Inputs,
    steps: &'a StepWatch,
    splitter: Splitter,
    /// What the log is to say of the stream.
    record: Option<StreamRecord>,
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
    fn new(context: &'a Context, view: &View, inputs: &'a Inputs, steps: &'a StepWatch) -> Self {
        Self {
            context,
            inputs,
            steps,
            splitter: Splitter::new(),
            record: StreamRecord::now(Seat::Lead),
            last: Instant::now(),
            patience: inputs.leniency.extended(FIRST),
            fragments: 0,
            frame: Duration::from_secs(1) / view.frame_rate,
            heard: (view.sound == Sound::Recorded).then(Instant::now),
            held: None,
        }
    }

    /// Waits for the first frame, and has sound moved as the frames were.
    async fn keep_sound_with_picture(&mut self, printed: OwnedFd, rate: u32, on: Display) {
        let taken = tokio::select! {
            taken = phase::first_taken(printed) => taken.unwrap_or_default(),
            () = tokio::time::sleep_until(self.last + self.patience) => None,
            () = self.inputs.stop.cancelled() => None,
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
                // What has come is taken before it is judged: it may be us who did not run for a while.
                biased;
                () = self.inputs.stop.cancelled(), if !told => {
                    told = true;
                    self.last = Instant::now();
                    ffmpeg.signal(Signal::SIGINT);
                    continue;
                }
                read = stdout.read(&mut buffer) => read,
                () = tokio::time::sleep_until(silence) => {
                    if silence.elapsed() >= OVERSLEPT {
                        self.last = Instant::now();
                        continue;
                    }
                    let message = "ffmpeg gives no new frames";
                    self.context.reporter.trouble(TroubleKind::Capture, message);
                    if told {
                        return Ended::Told;
                    }
                    self.inputs.leniency.lost_patience();
                    if self.fragments == 0 {
                        // This ffmpeg is a new one: it is not the one that hangs.
                        self.context.suspect();
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
            Piece::Init(init) => {
                let recorded = self.record.clone().map(|it| init.with_record(it));
                self.held = Some(Piece::Init(
                    recorded.map_or_else(|| Arc::clone(init), Arc::new),
                ));
            }
            Piece::Fragment(fragment) => {
                self.judge(fragment);
                if self.held.is_none() || self.can_begin_with(fragment) {
                    for piece in self.held.take().into_iter().chain([piece]) {
                        // A disk that is slow for a while holds ffmpeg up, which then makes good for it; nothing is thrown
                        // away.
                        let _ = self.inputs.pieces.send(piece).await;
                    }
                }
            }
        }
        self.last = Instant::now();
    }

    /// Whether a page is to be seen in all of `fragment`, or has been waited for long enough, and no frame before it is
    /// needed.
    fn can_begin_with(&self, fragment: &Fragment) -> bool {
        let age = self.context.clock.now().since(fragment.start());
        let page = *self.inputs.page.borrow();
        let shows = match page {
            Page::Loading => true,
            Page::Shown(since) => age <= since.elapsed(),
            Page::Lost(since) => age + PUT_BACK <= since.elapsed(),
        };
        shows && fragment.starts_with_keyframe()
    }

    fn judge(&mut self, fragment: &Fragment) {
        self.patience = self.inputs.leniency.extended(STALLED);
        self.fragments += 1;
        let reporter = &self.context.reporter;
        let behind = self.context.clock.now().since(fragment.end());
        let frames = u64::try_from(fragment.frames()).unwrap_or(u64::MAX);
        reporter.note(|report| {
            report.frames += frames;
            report.behind_ms = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX);
            if behind > LATE {
                report.late_frames += frames;
            }
        });
        reporter.well(TroubleKind::Capture);
        self.listen(fragment);
        let reporter = &self.context.reporter;
        if behind > LATE {
            let message = "the machine is too slow: frames come seconds late";
            reporter.trouble(TroubleKind::Starved, message);
        } else if behind + self.frame < LATE / 2 {
            reporter.well(TroubleKind::Starved);
        }
    }

    fn listen(&mut self, fragment: &Fragment) {
        let Some(heard) = &mut self.heard else { return };
        let reporter = &self.context.reporter;
        if fragment.has_sound() {
            *heard = Instant::now();
            reporter.well(TroubleKind::Audio);
        } else if heard.elapsed() > SILENT {
            reporter.trouble(TroubleKind::Audio, "no sound comes from the sound server");
        }
    }
}
