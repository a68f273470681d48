//! How a recording ends: the last frames are drained, the video is closed by one `moov`, what OpenVidu reads is laid beside it,
//! the store and the controller are told, and OpenVidu's `q` is waited for where its file spoke first.

use super::{Recorder, Writing};
use crate::join::{Finished, GrowingFile, JoinError};
use crate::model::session::Status;
use crate::recorder::capture::Pipeline;
use crate::recorder::context::End;
use crate::recorder::upload::Uploader;
use crate::recorder::writer::{self, Close};
use crate::recorder::{Outcome, RecorderError, StopWord, run, stop};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a recording may take to end. OpenVidu waits 30 s for the end of a container, and 10 s for an order's.
struct Patience {
    /// How long a recording that is stopped before its first frame waits for it.
    first_frame: Duration,
    /// How long the last frames, and the end of the video, may take after that.
    end: Duration,
    /// How much of that is kept for the end of the video.
    closing: Duration,
}

impl StopWord {
    const fn patience(&self) -> Patience {
        let [first_frame, end, closing] = match self {
            Self::File(_) => [8, 25, 5],
            Self::Order => [2, 5, 2],
        };
        Patience {
            first_frame: Duration::from_secs(first_frame),
            end: Duration::from_secs(end),
            closing: Duration::from_secs(closing),
        }
    }

    /// Whether it lies there to be read.
    pub(super) fn is_said(&self) -> bool {
        match self {
            Self::File(path) => stop::is_asked_for(path),
            Self::Order => false,
        }
    }
}

/// How long after the end OpenVidu's `q` is waited for: its stop fails where this container has ended before.
const LATE_Q: Duration = Duration::from_secs(45);
/// How long stored chunks are waited for at the end: the video is whole without them.
const UPLOAD: Duration = Duration::from_millis(400);

impl Recorder {
    /// Waits for the first frame of a recording that is stopped before it: OpenVidu takes one without a video for failed.
    /// Answers how the run is to end then.
    pub(super) async fn first_frame(&mut self, why: &'static str, run: &mut Writing) -> End {
        let late = tokio::time::sleep(self.paths.stop.patience().first_frame);
        tokio::pin!(late);
        loop {
            tokio::select! {
                biased;
                // An error says that nobody writes the video any more.
                _ = &mut run.begun => return End::Stop(why),
                end = self.next_end() => match end {
                    End::Superseded => return end,
                    End::Fault(cause) => {
                        log::warn!("{cause}; the recording is stopped: {why}");
                        return End::Stop(why);
                    }
                    End::Stop(_) => {}
                },
                () = &mut late => return End::Stop(why),
            }
        }
    }

    /// Ends the parts in the order in which the last frames are safe, then does what `end` asks for.
    pub(super) async fn end(
        mut self,
        end: End,
        pipeline: Pipeline,
        run: Writing,
    ) -> Result<Outcome, RecorderError> {
        if let End::Stop(why) = &end {
            log::info!("recording stops: {why}");
            // Nobody looks when the video's thread has already ended.
            let _ = run.close.send(Close::Finish);
        }
        let shutdown = self.context.shutdown.clone();
        let patience = self.paths.stop.patience();
        let deadline = Instant::now() + patience.end;
        let drained = deadline - patience.closing;
        if timeout_at(drained, pipeline.drain()).await.is_err() {
            log::error!(
                "the last frames are not written in time; the video ends with what the disk took, check it"
            );
        }
        shutdown.cancel();
        let mut video = run.video;
        let finished = match timeout_at(drained, &mut video).await {
            Ok(finished) => Ok(finished),
            Err(_) => {
                // Frames are still to be written, or to be taken into the video.
                if let End::Stop(_) = &end {
                    let _ = run.close.send(Close::FinishNow);
                }
                timeout_at(deadline, video).await
            }
        };
        let finished = match finished {
            Ok(finished) => finished.map_err(|cause| RecorderError::Broken(cause.to_string()))?,
            Err(_) => {
                let seconds = patience.end.as_secs();
                let cause =
                    format!("the disk did not take the end of the video within {seconds} s");
                return Err(RecorderError::Broken(cause));
            }
        };
        // After a signal alone another container may go on; only OpenVidu's word makes it useless.
        if let (End::Stop(why), Err(JoinError::Nothing { path })) = (&end, &finished)
            && (*why != stop::SIGNAL || self.stop_asked().is_some())
        {
            log::error!(
                "no frame could be recorded into {} before the stop; OpenVidu will say that it failed; the lines above say why",
                path.display()
            );
            self.await_q(why).await;
            return Ok(Outcome::Nothing);
        }
        match (end, finished?) {
            (End::Superseded, _) | (End::Stop(_), None) => {
                log::info!("a later run records; the video is left to it");
                Ok(Outcome::Superseded)
            }
            (End::Fault(why), _) => {
                let current = self.take.chunk(run.run.number, 0);
                self.contact
                    .last_beat(&self.context, &run.uploader, &current)
                    .await;
                Err(RecorderError::GivenUp(why))
            }
            (End::Stop(why), Some(finished)) => {
                let outcome = self.complete(&finished, Some(&run.uploader)).await?;
                self.await_q(why).await;
                Ok(outcome)
            }
        }
    }

    /// OpenVidu writes into its file that a recording is over, and says `q` to this container a moment later; its stop fails
    /// where the container has ended before that. Who was ended by the file is there to hear it.
    pub(super) async fn await_q(&mut self, why: &'static str) {
        let StopWord::File(stop_file) = self.paths.stop.clone() else {
            return;
        };
        if why == stop::SIGNAL || stop::is_asked_for(&stop_file) {
            return;
        }
        if !self.beside.is_over(self.order.json.as_ref()) {
            return;
        }
        let late = tokio::time::sleep(LATE_Q);
        tokio::pin!(late);
        while !stop::is_asked_for(&stop_file) {
            tokio::select! {
                end = self.next_end() => match end {
                    End::Stop(stop::SIGNAL) | End::Superseded | End::Fault(_) => return,
                    End::Stop(_) => {}
                },
                () = &mut late => return log::warn!("OpenVidu did not stop this container; the video is finished"),
            }
        }
    }

    async fn complete(
        &self,
        finished: &Finished,
        uploader: Option<&Uploader>,
    ) -> Result<Outcome, RecorderError> {
        let stored = async {
            if let Some(uploader) = uploader {
                store_the_rest(uploader, finished).await;
            }
        };
        self.sweeps().make_folder();
        let (info, timeline) = (&finished.info, Some(&finished.timeline));
        let laid = self.beside.complete_with(info, &finished.video, timeline);
        let (laid, ()) = tokio::join!(laid, stored);
        laid?;
        self.contact.last_word(Status::Completed).await;
        log::info!(
            seconds = finished.duration.as_secs_f64(), bytes = finished.bytes,
            gaps = finished.timeline.gaps.len();
            "the video is finished"
        );
        Ok(Outcome::Finished(finished.video.clone()))
    }

    /// Begun when all is over: there is nothing to record, only a video to be finished, and what is left to be stored.
    /// `None` when no run has recorded anything: then a moment is recorded, and ended at its first frame.
    pub(super) async fn finish_last(
        &self,
        why: &'static str,
    ) -> Result<Option<Outcome>, RecorderError> {
        self.condition.stops();
        log::info!("nothing more is recorded: {why}");
        if self.last_run().await.1 {
            return Ok(Some(Outcome::Superseded));
        }
        let finished = match self.finish_what_is_there().await {
            Err(RecorderError::Join(JoinError::Nothing { .. })) => {
                self.context.end(End::Stop(why));
                return Ok(None);
            }
            finished => finished?,
        };
        let uploader = self.uploader();
        let run = self.last_run().await.0.next();
        let left_behind = self.take_up(uploader.clone(), run, std::future::ready(true));
        let tasks = &self.context.tasks;
        tasks.spawn("manifest and chunks left behind", left_behind);
        let outcome = self.complete(&finished, Some(&uploader)).await?;
        Ok(Some(outcome))
    }

    async fn finish_what_is_there(&self) -> Result<Finished, RecorderError> {
        let path = self.beside.video(&self.order.video_name);
        let (options, take) = (self.options(), self.take.clone());
        let recordings = self.paths.recordings.clone();
        let finish = move || {
            let mut file = GrowingFile::open_or_put_aside(&path, options)?;
            // What is in the video is finished all the same.
            if let Err(cause) = file.catch_up(&run::chunks(&recordings, &take)) {
                log::warn!("some chunks are not in the video: {cause}");
            }
            writer::finish(&mut file)
        };
        let finished = self.context.tasks.spawn_blocking("the video's end", finish);
        let finished = finished.await;
        let finished = finished.map_err(|cause| RecorderError::Broken(cause.to_string()))?;
        Ok(finished?)
    }
}

/// Waits a moment for what is on its way to the store, names what is not there by then, and says that the take is finished.
async fn store_the_rest(uploader: &Uploader, finished: &Finished) {
    let left = uploader.drain(UPLOAD).await;
    if !left.is_empty() {
        let names: Vec<_> = left.iter().map(ToString::to_string).collect();
        let names = names.join(", ");
        log::info!(chunks:% = names; "not stored in time; the video holds them");
    }
    // What lacks a chunk that may be read later is made whole then.
    if !finished.regular || finished.timeline.lacks_unread() {
        return;
    }
    let sealed = uploader.seal(&finished.timeline);
    if let Ok(Err(cause)) = tokio::time::timeout(UPLOAD, sealed).await {
        log::warn!("the store was not told that the video is finished: {cause}");
    }
}
