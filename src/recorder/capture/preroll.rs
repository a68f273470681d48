//! Capture that is prepared before anything is ordered. Ffmpeg is started and waits to be let in; or it captures, and the last
//! seconds stay in memory, so that a recording can begin at the instant at which it was ordered.

use super::{Pipeline, Presentation, WAITING};
use crate::clock::Timestamp;
use crate::config::Settings;
use crate::join::{Fragment, Init, Piece};
use crate::recorder::context::Context;
use crate::recorder::order::{Resolution, Sound, View};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A capture of which nothing is recorded yet.
pub(in crate::recorder) struct Preroll {
    format: Format,
    pipeline: Pipeline,
    /// None where nothing is captured yet.
    release: Option<oneshot::Sender<Release>>,
}

/// What must be the same where what is prepared is to be recorded: the view and its sound, a chunk's length, and how far
/// keyframes are apart.
type Format = (Resolution, u32, Sound, Duration, Duration);

/// Where what was captured is to go.
struct Release {
    from: Timestamp,
    to: mpsc::Sender<Piece>,
}

impl Preroll {
    /// Has a capture ready; with `kept` above zero it begins, and what is older is forgotten, but for what a keyframe needs.
    pub(in crate::recorder) fn start(
        context: &Context,
        view: &View,
        settings: &Settings,
        presentation: &Presentation,
        kept: Duration,
    ) -> Self {
        let pipeline = Pipeline::hold(context, view, settings, presentation);
        let capturing = !kept.is_zero();
        let release = capturing.then(|| {
            pipeline.begin();
            let (release, released) = oneshot::channel();
            if let Some(pieces) = pipeline.pieces() {
                context
                    .tasks
                    .spawn("pre-roll", hold(pieces, released, kept));
            }
            release
        });
        Self {
            format: format(view, settings),
            pipeline,
            release,
        }
    }

    /// Whether what it captures is what `view` and `settings` want.
    pub(in crate::recorder) fn fits(&self, view: &View, settings: &Settings) -> bool {
        format(view, settings) == self.format
    }

    /// The capture, which begins now where it has not; else its pieces begin with the last keyframe that is not later than
    /// `from`, or the first that is kept.
    pub(in crate::recorder) fn release(mut self, from: Timestamp) -> Pipeline {
        let Some(release) = self.release else {
            self.pipeline.begin();
            return self.pipeline;
        };
        let (to, pieces) = mpsc::channel(WAITING);
        // Its holder ends when everything does.
        let _ = release.send(Release { from, to });
        self.pipeline.pieces = Some(pieces).into();
        self.pipeline
    }
}

fn format(view: &View, settings: &Settings) -> Format {
    (
        view.resolution,
        view.frame_rate,
        view.sound,
        settings.chunk_seconds.seconds(),
        settings.keyframe_seconds.seconds(),
    )
}

/// Holds the last pieces until they are released, and hands on all that follow.
async fn hold(
    mut pieces: mpsc::Receiver<Piece>,
    mut released: oneshot::Receiver<Release>,
    kept: Duration,
) {
    let mut last = Last::new(kept);
    let release = loop {
        tokio::select! {
            piece = pieces.recv() => match piece {
                Some(piece) => last.push(piece),
                None => return,
            },
            release = &mut released => match release {
                Ok(release) => break release,
                Err(_) => return,
            },
        }
    };
    for piece in last.since(release.from) {
        if release.to.send(piece).await.is_err() {
            return;
        }
    }
    while let Some(piece) = pieces.recv().await {
        if release.to.send(piece).await.is_err() {
            return;
        }
    }
}

/// The last pieces of a stream.
struct Last {
    kept: Duration,
    init: Option<Arc<Init>>,
    /// The first begins with a keyframe.
    fragments: VecDeque<Fragment>,
}

impl Last {
    const fn new(kept: Duration) -> Self {
        Self {
            kept,
            init: None,
            fragments: VecDeque::new(),
        }
    }

    fn push(&mut self, piece: Piece) {
        match piece {
            Piece::Init(init) => {
                self.init = Some(init);
                self.fragments.clear();
            }
            Piece::Fragment(fragment) => {
                let end = fragment.end();
                self.fragments.push_back(fragment);
                while let Some(next) = self.second_keyframe()
                    && end.since(self.fragments[next].start()) >= self.kept
                {
                    self.fragments.drain(..next);
                }
            }
        }
    }

    fn second_keyframe(&self) -> Option<usize> {
        let mut rest = self.fragments.iter().skip(1);
        Some(1 + rest.position(Fragment::starts_with_keyframe)?)
    }

    fn since(self, from: Timestamp) -> impl Iterator<Item = Piece> {
        let can_begin = |it: &Fragment| it.starts_with_keyframe() && it.start() <= from;
        let first = self.fragments.iter().rposition(can_begin).unwrap_or(0);
        let fragments = self.fragments.into_iter().skip(first).map(Piece::Fragment);
        self.init.map(Piece::Init).into_iter().chain(fragments)
    }
}
