//! The capture: display, sound server, browser and ffmpeg, and what keeps them alive. Out come fragments; it knows nothing of
//! videos, chunks or stores.

mod audio;
mod browser;
mod chrome_user;
mod command;
mod devtools;
mod display;
mod encoder;
mod phase;
mod preroll;
mod preview;
mod refresh;
mod remedy;
mod supervise;
mod switches;
mod tab;

use super::context::{Context, Part};
use super::order::{Sound, View};
use crate::config::{DisplayRate, Settings};
use crate::join::Piece;
use crate::join::beside::Beside;
use browser::Page;
use chrome_user::ChromeUser;
use command::Syntax;
use display::Display;
pub(super) use preroll::Preroll;
use std::path::PathBuf;
use std::sync::Arc;
use supervise::Leniency;
use tokio::sync::{Notify, OnceCell, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Pieces that may wait for the disk: over a minute of them, so that a disk may hang for as long.
const WAITING: usize = 400;

/// The page on its display, with its sound: what can be captured. Clones are the same.
#[derive(Clone)]
pub(super) struct Presentation {
    display: watch::Receiver<Option<Display>>,
    audio: watch::Receiver<Option<i32>>,
    page: watch::Receiver<Page>,
    user: Arc<ChromeUser>,
    /// How the installed ffmpeg wants to be asked; read once.
    syntax: Arc<OnceCell<Syntax>>,
}

impl Presentation {
    /// Starts display, sound and browser, each kept alive by a task of its own until the shutdown of `context`. Pages are kept
    /// from the settings in `env`.
    pub(super) fn start(context: &Context, view: &View, settings: &Settings, env: PathBuf) -> Self {
        let (display, on_display) = watch::channel(None);
        let (audio, on_audio) = watch::channel(None);
        let (page, on_page) = watch::channel(Page::Loading);
        let tasks = &context.tasks;
        let (on, size) = (context.clone(), view.resolution);
        let rate = match settings.display_rate {
            DisplayRate::Match => Some(refresh::rate_for(view.frame_rate)),
            DisplayRate::Sixty => None,
        };
        tasks.spawn("display", async move {
            let dialect = display::Dialect::default();
            on.keep(Part::Display, || {
                display::live(&on, size, rate, &dialect, &display)
            })
            .await;
        });
        // Where no sound is ordered nobody takes any, and the sender's end says that none will come.
        if view.sound == Sound::Recorded {
            let on = context.clone();
            tasks.spawn("audio", async move {
                let dialect = audio::Dialect::default();
                on.keep(Part::Audio, || audio::live(&on, &dialect, &audio))
                    .await;
            });
        }
        let user = Arc::new(ChromeUser::find(context, view));
        user.keep_from(context, env);
        let (on, shown) = (context.clone(), view.clone());
        let inputs = browser::Inputs {
            display: on_display.clone(),
            audio: on_audio.clone(),
            page,
            user: Arc::clone(&user),
            had_media: false.into(),
            leniency: Leniency::new(Arc::clone(&context.clock)),
        };
        tasks.spawn("browser", async move {
            on.keep(Part::Browser, || browser::live(&on, &shown, &inputs))
                .await;
        });
        let syntax = Arc::<OnceCell<Syntax>>::default();
        let asked = Arc::clone(&syntax);
        tasks.spawn("ffmpeg's version", async move {
            asked.get_or_init(Syntax::of_installed).await;
        });
        Self {
            display: on_display,
            audio: on_audio,
            page: on_page,
            user,
            syntax,
        }
    }

    /// Keeps pages from the folder of a recording, and takes pictures of what is shown for it until the shutdown of `context`.
    pub(super) fn attend(&self, context: &Context, beside: &Beside) {
        let folder = beside.folder().to_owned();
        self.user.keep_from(context, folder);
        let (on, picture) = (context.clone(), beside.preview());
        let shown = self.display.clone();
        context.tasks.spawn("preview", async move {
            preview::keep(on, shown, &picture).await;
        });
    }
}

/// What captures.
pub(super) struct Pipeline {
    /// Asks for a new stream, which begins with a frame that needs no other.
    pub(super) refresh: Arc<Notify>,
    begin: CancellationToken,
    stop: CancellationToken,
    capture: JoinHandle<()>,
    pieces: std::sync::Mutex<Option<mpsc::Receiver<Piece>>>,
}

impl Pipeline {
    /// Starts to capture what is presented, as `view` has it, kept alive by a task of its own.
    pub(super) fn start(
        context: &Context,
        view: &View,
        settings: &Settings,
        presentation: &Presentation,
    ) -> Self {
        let started = Self::hold(context, view, settings, presentation);
        started.begin();
        started
    }

    /// Has everything ready to capture what is presented, as `view` has it, and waits.
    fn hold(
        context: &Context,
        view: &View,
        settings: &Settings,
        presentation: &Presentation,
    ) -> Self {
        let (pieces, pieces_out) = mpsc::channel(WAITING);
        let refresh = Arc::new(Notify::new());
        let (begin, stop) = (CancellationToken::new(), CancellationToken::new());
        let (on, view, shown) = (context.clone(), view.clone(), presentation.clone());
        let (asked, go, told) = (Arc::clone(&refresh), begin.clone(), stop.clone());
        let chunk = settings.chunk_seconds.seconds();
        let keyframe = settings.keyframe_seconds.seconds();
        let capture = context.tasks.spawn("capture", async move {
            let inputs = encoder::Inputs {
                display: shown.display,
                audio: shown.audio,
                page: shown.page,
                pieces,
                refresh: asked,
                begin: go,
                stop: told,
                chunk,
                keyframe,
                syntax: *shown.syntax.get_or_init(Syntax::of_installed).await,
                begun: false.into(),
                leniency: Leniency::new(Arc::clone(&on.clock)),
            };
            on.keep(Part::Capture, || encoder::live(&on, &view, &inputs))
                .await;
        });
        Self {
            refresh,
            begin,
            stop,
            capture,
            pieces: Some(pieces_out).into(),
        }
    }

    /// Captures from now on.
    fn begin(&self) {
        self.begin.cancel();
    }

    /// What is captured; once.
    pub(super) fn pieces(&self) -> Option<mpsc::Receiver<Piece>> {
        self.pieces.lock().ok()?.take()
    }

    /// Lets the capture write what it holds, and ends it.
    pub(super) async fn drain(mut self) {
        self.stop.cancel();
        if let Err(cause) = (&mut self.capture).await {
            log::error!("the capture ended badly: {cause}");
        }
    }
}

impl Drop for Pipeline {
    /// It may belong to a context that goes on.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
