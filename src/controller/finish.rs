//! The end of a recording. A recorder that can still finish does it; where none can, the video is finished here from what
//! the runs left, and where OpenVidu cannot seal the recording any more, that is done in its place.

use super::act::{SealState, can_write};
use super::orphan::Verdict;
use super::quick::Makes;
use super::table::Entry;
use super::takes::{Take, TakeError};
use super::unfinished::has_no_video;
use super::{Controller, ControllerError, OPENVIDU_SAYS_FAILED};
use crate::clock::Timestamp;
use crate::db::outbox;
use crate::join;
use crate::join::beside::Beside;
use crate::model::chunk::TakeKey;
use crate::model::ids::{RecordingId, TakeId};
use crate::model::session::{Disowned, Event, Holder, SEAL_AFTER, Session, State};
use crate::runtime::{ContainerStatus, RuntimeError, Stop};
use crate::tasks;
use bytes::Bytes;
use log::{error, info, warn};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How long a recorder may take to finish once it is told to: as long as OpenVidu gives it.
const DRAIN: Duration = Duration::from_secs(30);

impl Controller {
    /// Whether a recorder that ended well was meant to: OpenVidu writes the status `stopped` before it tells the recorder.
    pub(super) fn end_was_wanted(&self, session: &Session) -> bool {
        if !session.state.status().active() {
            return true;
        }
        !self.records_on(&session.id)
    }

    /// A stop that was not heard of, because OpenVidu told it to nobody, is seen in OpenVidu's own file.
    pub(super) fn learn_of_stop(&self, id: &RecordingId) {
        // Not by a clone of it: each check asks this of every session.
        let may_be_ended = |entry: &Entry| entry.session.may_be_ended();
        if !self.table().get(id).is_some_and(may_be_ended) {
            return;
        }
        // Refused when it has been heard of meanwhile.
        if let Some(Ok(())) = self.believe_file(id) {
            info!(session:% = id; "OpenVidu's file says that the recording has ended");
        }
    }

    /// Does what OpenVidu's own file says about a recording's end, and what came of it; `None` where it does not say that
    /// the recording has ended, or cannot be read.
    pub(super) fn believe_file(&self, id: &RecordingId) -> Option<Result<(), ControllerError>> {
        let event = match self.sealed_status(id)?.as_str() {
            "stopped" => Event::StopAsked,
            "ready" => Event::Sealed,
            "failed" => Event::Failed(OPENVIDU_SAYS_FAILED.into()),
            _ => return None,
        };
        Some(self.apply(id, event))
    }

    /// Whether OpenVidu's own file says that the recording has ended.
    pub(super) fn has_ended(&self, id: &RecordingId) -> bool {
        let status = tasks::block(|| self.sealed_status(id));
        status.is_some_and(|status| matches!(status.as_str(), "stopped" | "ready" | "failed"))
    }

    /// Whether OpenVidu's own file says that it records: the status that it gave to the recorder, or has set since.
    pub(super) fn records_on(&self, id: &RecordingId) -> bool {
        let status = tasks::block(|| self.sealed_status(id));
        status.is_some_and(|status| matches!(status.as_str(), "starting" | "started"))
    }

    /// The status in OpenVidu's `.recording.<id>`, where that can be read.
    pub(super) fn sealed_status(&self, id: &RecordingId) -> Option<String> {
        Some(self.seal_of(id)?.get("status")?.as_str()?.to_owned())
    }

    /// When OpenVidu's file was last written.
    pub(super) fn seal_written_at(&self, id: &RecordingId) -> Option<Timestamp> {
        let written = std::fs::metadata(self.beside(id).seal()).ok()?.modified();
        written.ok().map(Timestamp::from)
    }

    /// OpenVidu's `.recording.<id>`, unless it is an earlier recording's of the same id.
    fn seal_of(&self, id: &RecordingId) -> Option<Map<String, Value>> {
        let file = self.beside(id).seal();
        let text = std::fs::read(file).ok()?;
        let seal: Map<String, Value> = serde_json::from_slice(&text).ok()?;
        let made = seal.get("createdAt").and_then(Value::as_i64);
        let take = self.session(id).and_then(|session| session.take);
        let take = take.or_else(|| self.take_ordered(id));
        let another = match (made, take) {
            (Some(made), Some(take)) => take.as_str() != made.to_string(),
            _ => false,
        };
        (!another).then_some(seal)
    }

    /// The take that the recording's container was made for, as OpenVidu told it; for one that never registered.
    fn take_ordered(&self, id: &RecordingId) -> Option<TakeId> {
        let blueprint = self.0.blueprints.get(id)?;
        let json = blueprint.environment.0.get("RECORDING_JSON")?;
        let recording: Value = serde_json::from_str(json).ok()?;
        TakeId::parse(recording.get("createdAt")?.as_i64()?.to_string()).ok()
    }

    fn beside(&self, id: &RecordingId) -> Beside {
        Beside::new(&self.0.settings.recording_path, id)
    }

    /// What would have to be finished; `None` for recorders of another make, whose chunks lie elsewhere.
    pub(super) fn take_of(&self, session: &Session) -> Option<Take> {
        let name = session.video_name.clone();
        Some(Take {
            key: TakeKey {
                recording: session.id.clone(),
                folder: self.0.settings.chunk_folder.0.clone(),
                take: session.take.clone()?,
            },
            video_name: name.unwrap_or_else(|| session.id.to_string()),
            gap_mode: self.0.settings.gap_mode,
            // OpenVidu has written it.
            recording_json: None,
        })
    }

    /// Sees to the end of a recording unless that is being done.
    pub(super) fn begin_conclusion(&self, id: &RecordingId, seal: SealState) {
        let begins = self
            .table()
            .change(id, |entry| !std::mem::replace(&mut entry.concluding, true));
        if begins != Some(true) {
            return;
        }
        let (controller, id) = (self.clone(), id.clone());
        self.0.tasks.spawn(format!("conclude {id}"), async move {
            controller.conclude(&id, seal).await;
            controller
                .table()
                .change(&id, |entry| entry.concluding = false);
        });
    }

    async fn conclude(&self, id: &RecordingId, seal: SealState) {
        let Some(session) = self.session(id) else {
            return;
        };
        if is_at_work(&session) {
            return self.seal_nothing(id);
        }
        if !self.end_recorder(&session, seal).await {
            return;
        }
        let Some(session) = self.session(id) else {
            return;
        };
        // What is not finished is not sealed: OpenVidu, and whoever hears of it, would take it for the video.
        let is_finished = !has_no_video(&session) || self.salvage(&session).await;
        if is_finished && (seal == SealState::Due || self.seals_at_once(id).await) {
            self.seal(id).await;
        }
        if let Err(cause) = self.0.db.durable().await {
            warn!(session:% = id; "{cause}");
        }
    }

    /// Whether OpenVidu's seal is not to be waited for, because its stop can only fail.
    async fn seals_at_once(&self, id: &RecordingId) -> bool {
        let is_finished =
            |it: &Session| matches!(it.state, State::Completed { .. }) || it.finished_at.is_some();
        let waits = |it: &Session| is_finished(it) && it.seal_at.is_some();
        let Some(session) = self.session(id).filter(waits) else {
            return false;
        };
        let at_once = session.disowned.is_some() || self.stop_fails(&session).await;
        if at_once && session.disowned.is_none() {
            self.carry_out(&session, Verdict::Disowned(Disowned::StopFails));
        }
        at_once
    }

    /// Ends the recorder where that is ours to do; answers whether nobody writes any more.
    async fn end_recorder(&self, session: &Session, seal: SealState) -> bool {
        let id = &session.id;
        let stopping = matches!(session.state, State::Stopping { .. });
        let given_up = session.given_up_at().is_some();
        let inactive = matches!(session.state, State::Inactive { .. });
        let Some(held) = &session.container else {
            // Where nothing is known of its container, its heartbeats tell whether it lives.
            let quiet = self.0.clock.now().since(session.heartbeat_at);
            let may_live = stopping || given_up || inactive;
            return !may_live || quiet >= self.0.policy.heartbeat_timeout;
        };
        let living = match self.0.runtime.inspect(&held.id).await {
            Ok(Some(found)) if found.page && found.status == ContainerStatus::Running => {
                match self.makes(session, &held.id).await {
                    Makes::It | Makes::Nothing => true,
                    Makes::Another | Makes::Waits => false,
                    Makes::Unknown => return self.leave_for_later(id),
                }
            }
            Ok(Some(found)) => can_write(found.status),
            Ok(None) => false,
            Err(cause) => return self.not_ended(id, &cause),
        };
        let how = match session.state {
            _ if !living => None,
            // What runs may record still, or again.
            _ if given_up => return self.leave_alone(id),
            State::Stopping { .. }
            | State::Failed { .. }
            | State::Completed { .. }
            | State::Inactive { .. }
                if held.backup =>
            {
                Some(Stop::Drain(DRAIN))
            }
            // It finishes the video by itself, whatever somebody has set its session to.
            State::Inactive { .. } => {
                self.postpone_seal(id);
                return false;
            }
            // OpenVidu ends its own container. What it has not ended by the time of the seal, it will not.
            State::Stopping { .. } if seal == SealState::NotYet => return false,
            State::Stopping { .. } if self.records_on(id) => {
                self.postpone_seal(id);
                return false;
            }
            State::Stopping { .. } | State::Failed { .. } => Some(Stop::Fence),
            _ => None,
        };
        if let Some(how) = how {
            info!(session:% = id, container:% = held.id; "the recorder is ended ({how:?})");
            match self.0.runtime.stop(&held.id, how).await {
                Ok(()) | Err(RuntimeError::NotFound(_)) => {}
                Err(cause) => return self.not_ended(id, &cause),
            }
        }
        if stopping || held.backup {
            self.note_good_end(id, held).await;
        }
        true
    }

    /// Another recording may be made in its container: nothing is done until that is known.
    fn leave_for_later(&self, id: &RecordingId) -> bool {
        warn!(session:% = id; "its container cannot be asked what it records; it is tried again");
        self.postpone_seal(id);
        false
    }

    /// Its end comes with the container's, or with OpenVidu's stop.
    fn leave_alone(&self, id: &RecordingId) -> bool {
        warn!(session:% = id; "the recorder that runs is left alone although no further one is started");
        self.seal_nothing(id);
        false
    }

    /// Its end is tried again when OpenVidu's seal is looked for.
    fn not_ended(&self, id: &RecordingId, cause: &RuntimeError) -> bool {
        warn!(session:% = id; "the recorder is not ended yet: {cause}");
        self.postpone_seal(id);
        false
    }

    /// A recorder that ended with 0 has finished the video, whether or not its event was seen yet.
    async fn note_good_end(&self, id: &RecordingId, held: &Holder) {
        let Ok(Some(container)) = self.0.runtime.inspect(&held.id).await else {
            return;
        };
        if container.status == ContainerStatus::Exited(0) {
            // Refused when the event came first.
            let _ = self.apply(id, Event::Finished);
        }
        if held.backup
            && let Err(cause) = self.0.runtime.remove(&held.id).await
        {
            warn!(session:% = id; "{cause}");
        }
    }

    /// Finishes the video, and answers whether there is nothing more to be done for it.
    async fn salvage(&self, session: &Session) -> bool {
        let id = &session.id;
        if self.waits_for_another_try(id) {
            return false;
        }
        let Some(take) = self.take_of(session) else {
            warn!(session:% = id; "the video is left as it is: this recorder did not say which take it recorded");
            let _ = self.apply(id, Event::Salvaged);
            return true;
        };
        info!(session:% = id; "the video is finished by the controller");
        match self.finish_take(&take, self.about_unread_of(id)).await {
            Ok(seconds) => {
                info!(session:% = id, seconds:? = seconds; "the controller finished the video");
                let _ = self.apply(id, Event::Salvaged);
            }
            Err(cause @ TakeError::Nothing(_)) => {
                error!(session:% = id; "{cause}");
                if session.given_up_at().is_none() {
                    let _ = self.apply(id, Event::Failed(cause.to_string()));
                }
                let _ = self.apply(id, Event::Salvaged);
            }
            Err(cause) => {
                self.try_again_later(id, &cause);
                return false;
            }
        }
        true
    }

    fn postpone_seal(&self, id: &RecordingId) {
        let at = self.0.clock.now().plus(SEAL_AFTER);
        // A session that is gone needs no seal.
        let _ = self.change(id, |entry| entry.session.seal_at = Some(at));
    }

    /// OpenVidu records on, as far as it knows; where its stop has come meanwhile, the seal is for that.
    pub(super) fn seal_nothing(&self, id: &RecordingId) {
        // A session that is gone needs no seal.
        let _ = self.change(id, |entry| {
            if entry.session.may_be_ended() {
                entry.session.seal_at = None;
            }
        });
    }

    /// Seals the recording as ready where OpenVidu has not, and tells so in its place.
    async fn seal(&self, id: &RecordingId) {
        let Some(session) = self.session(id) else {
            return;
        };
        let now = self.0.clock.now();
        if session.seal_at.is_none_or(|at| at > now) {
            return; // it was sealed or postponed meanwhile
        }
        if session.may_be_ended() {
            // It was the video that was tried again.
            return self.seal_nothing(id);
        }
        let stopped = tasks::block(|| self.unsealed(&session));
        let take = self.take_of(&session);
        let take = take.filter(|it| self.takes().video(it).is_file());
        match (stopped, take) {
            (None, _) => {}
            (Some(_), None) => error!(session:% = id; "there is no video that could be sealed"),
            (Some(recording), Some(take)) => {
                if let Err(cause) = self.seal_as_ready(&session, &take, recording).await {
                    error!(session:% = id; "the recording cannot be sealed and is tried again: {cause}");
                    return self.postpone_seal(id);
                }
            }
        }
        if let Err(refused) = self.apply(id, Event::Sealed) {
            warn!(session:% = id; "{refused}");
        }
    }

    /// OpenVidu's view of the recording, where it is for us to seal it: it was stopped, or nobody will ever stop it.
    fn unsealed(&self, session: &Session) -> Option<Map<String, Value>> {
        let id = &session.id;
        let forgotten = session.disowned == Some(Disowned::Forgotten);
        let file = std::fs::read(self.beside(id).seal()).ok();
        let is_readable = file.is_some_and(|it| serde_json::from_slice::<Value>(&it).is_ok());
        if is_readable {
            let seal = self.seal_of(id)?;
            let sealable = match seal.get("status").and_then(Value::as_str) {
                Some("stopped") => true,
                Some("ready" | "failed") => false,
                _ => forgotten,
            };
            return sealable.then_some(seal);
        }
        // As OpenVidu ordered it.
        let ordered = self.particulars(id).recording_json.filter(|_| forgotten)?;
        serde_json::from_str(&ordered).ok()
    }

    async fn seal_as_ready(
        &self,
        session: &Session,
        take: &Take,
        mut recording: Map<String, Value>,
    ) -> Result<(), String> {
        let info = join::info_json(&self.takes().video(take)).map_err(|cause| cause.to_string())?;
        let info = serde_json::from_str::<Value>(&info).map_err(|cause| cause.to_string())?;
        let number = |name: &str| -> f64 {
            let value = &info["format"][name];
            let text = value.as_str().and_then(|text| text.parse().ok());
            text.or_else(|| value.as_f64()).unwrap_or(0.0)
        };
        let (size, duration) = (number("size") as u64, number("duration"));
        recording.insert("status".into(), json!("ready"));
        recording.insert("size".into(), json!(size));
        recording.insert("duration".into(), json!(duration));
        // Before the seal, which ends all that: what cannot be told now is told when it is tried again. Where it was told
        // before, OpenVidu has written into its file once more.
        if !session.ready_told {
            self.tell_ready(session, &recording).await?;
            // A session that is gone needs no note of it.
            let _ = self.change(&session.id, |entry| entry.session.ready_told = true);
        }
        let beside = self.beside(&session.id);
        beside
            .write_seal(&Value::Object(recording))
            .map_err(|cause| cause.to_string())?;
        // As OpenVidu does once it has read it.
        let _ = std::fs::remove_file(beside.info());
        info!(session:% = session.id, size, duration; "sealed as ready in OpenVidu's place");
        Ok(())
    }

    /// The webhook that OpenVidu cannot send any more.
    async fn tell_ready(
        &self,
        session: &Session,
        recording: &Map<String, Value>,
    ) -> Result<(), String> {
        let now = self.0.clock.now();
        let mut body = Map::new();
        body.insert("event".into(), json!("recordingStatusChanged"));
        body.insert("timestamp".into(), json!(now.millis()));
        body.insert("startTime".into(), member(recording, "createdAt"));
        body.insert("reason".into(), Value::Null);
        for name in [
            "sessionId",
            "uniqueSessionId",
            "id",
            "name",
            "outputMode",
            "resolution",
            "frameRate",
            "recordingLayout",
            "hasAudio",
            "hasVideo",
            "size",
            "duration",
            "status",
        ] {
            body.insert(name.into(), member(recording, name));
        }
        let lane = member(recording, "sessionId");
        let lane = lane.as_str().unwrap_or(session.id.as_str()).to_owned();
        let body = Bytes::from(Value::Object(body).to_string());
        let event = outbox::Event {
            name: Some("recordingStatusChanged".into()),
            synthesized: true,
            ..outbox::Event::new(now, lane, body)
        };
        let accepted = self.0.outbox.accept(event).await;
        accepted.map(drop).map_err(|cause| cause.to_string())
    }
}

/// Whether a recorder is expected: what was to be finished of the one before is finished with it.
fn is_at_work(session: &Session) -> bool {
    session.may_be_ended() && session.given_up_at().is_none()
}

fn member(recording: &Map<String, Value>, name: &str) -> Value {
    recording.get(name).cloned().unwrap_or(Value::Null)
}
