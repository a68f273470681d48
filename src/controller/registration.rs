//! Recorders register here: a registration is read, and let in as a new session, as the next run of one, or again as the run
//! that it was; or it is refused, because another recorder of the same recording is well.

use super::table::Entry;
use super::{Change, Controller, ControllerError, differs, lock};
use crate::clock::Timestamp;
use crate::model::failover::{self, Reason};
use crate::model::ids::{RecordingId, RunNumber, TakeId};
use crate::model::session::{Event, Holder, Particulars, Refusal, Session, State, Status};
use crate::model::wire::{RecorderIdentity, Registration, Report};
use log::info;
use serde_json::Value;
use std::time::Duration;

impl Controller {
    /// A recorder says that it is about to record; answers when that is on disk. The session's `run` is the run it was
    /// given.
    ///
    /// # Errors
    /// [`ControllerError::Invalid`] for a registration without ids, [`ControllerError::Conflict`] when another recording
    /// lives under this id, [`ControllerError::Superseded`] and [`ControllerError::Over`] for a recorder that has lost its place.
    pub async fn register(&self, registration: Registration) -> Result<Session, ControllerError> {
        let wanted = Registrant::read(registration)?;
        let session = self.admit(&wanted).inspect_err(|refused| {
            if let (ControllerError::Superseded, Some(recorder)) = (refused, &wanted.identity) {
                self.fence_superseded(&wanted.id, recorder);
            }
        })?;
        self.0.db.durable().await?;
        self.is_expected_no_more(&session.id);
        info!(session:% = session.id, run:% = session.run; "recorder registered");
        self.look_after_registration(&session);
        Ok(session)
    }

    /// Lets a recorder in: as a new session, as the next run of one, or again as the run it was.
    fn admit(&self, wanted: &Registrant) -> Result<Session, ControllerError> {
        let now = self.0.clock.now();
        let holder = self.holder_of(wanted);
        let mut table = self.table_with(&wanted.id)?;
        let known = table.get(&wanted.id).filter(|entry| {
            !replaces(&entry.session, wanted, now, self.0.policy.heartbeat_timeout)
        });
        let Some(entry) = known else {
            let session = wanted.new_session(holder, now)?;
            let mut particulars = Particulars::default();
            wanted.describe(&mut particulars);
            self.0.stored.put(&session)?;
            self.0.stored.put_particulars(&session.id, &particulars)?;
            table.insert(session.clone());
            drop(table);
            metrics::counter!("ha_recorder_sessions_created_total").increment(1);
            self.0.wake.notify_one();
            self.changed(|| Change::Session(session.id.clone()));
            return Ok(session);
        };
        let mut particulars = self.0.stored.particulars(&wanted.id)?;
        self.check_place(entry, wanted, &particulars, now)?;
        let run = wanted.run_after(entry.session.run);
        wanted.describe(&mut particulars);
        let session = table
            .change(&wanted.id, |entry| {
                entry.session.on(Event::Registered { run, holder }, now)?;
                entry.deaf = false;
                wanted.refresh(&mut entry.session);
                Ok::<_, Refusal>(entry.session.clone())
            })
            .ok_or_else(|| ControllerError::unknown(&wanted.id))??;
        self.0.stored.put(&session)?;
        self.0.stored.put_particulars(&session.id, &particulars)?;
        drop(table);
        self.0.wake.notify_one();
        self.changed(|| Change::Session(session.id.clone()));
        Ok(session)
    }

    /// Whether the recorder may take part in a session that is known: not while another one is well.
    fn check_place(
        &self,
        entry: &Entry,
        wanted: &Registrant,
        particulars: &Particulars,
        now: Timestamp,
    ) -> Result<(), ControllerError> {
        let session = &entry.session;
        if session.over() {
            return Err(Refusal::Over.into());
        }
        if wanted.take.is_some() && session.take.is_some() && wanted.take != session.take {
            return Err(if wanted.identity.is_some() {
                Refusal::Superseded.into()
            } else {
                ControllerError::lives(&session.id)
            });
        }
        let heard = now.since(failover::alive_at(session)) < self.0.policy.heartbeat_timeout;
        let held = match &session.state {
            // Who was there before is there again.
            State::TakingOver { reason, .. } => *reason == Reason::CameBack,
            state => state.status().active(),
        };
        let well = held && heard;
        let holder = session.container.as_ref().map(|holder| &holder.id);
        match &wanted.identity {
            Some(recorder) => {
                let elsewhere = recorder.container_id.is_some()
                    && holder.is_some()
                    && recorder.container_id.as_ref() != holder;
                let alive = holder.is_some_and(|holder| lock(&self.0.observations).runs(holder));
                let started = matches!(
                    session.state,
                    State::TakingOver {
                        started_at: Some(_),
                        ..
                    }
                );
                if elsewhere && alive && (well || started) {
                    return Err(Refusal::Superseded.into());
                }
                Ok(())
            }
            None if well && wanted.client_id != session.client_id => {
                Err(ControllerError::lives(&session.id))
            }
            // Of another session of OpenVidu, whoever says so.
            None if heard
                && session.state.status().active()
                && differs(
                    &wanted.raw.unique_session_id,
                    &particulars.unique_session_id,
                ) =>
            {
                Err(ControllerError::lives(&session.id))
            }
            None => Ok(()),
        }
    }

    fn holder_of(&self, wanted: &Registrant) -> Option<Holder> {
        let named = wanted
            .identity
            .as_ref()
            .and_then(|recorder| recorder.container_id.clone());
        let known = lock(&self.0.observations);
        match named {
            Some(id) => Some(known.holder(&id).unwrap_or_else(|| Holder {
                name: wanted.id.container_name(),
                backup: false,
                created_at: self.0.clock.now(),
                id,
            })),
            None => known.running_holder_of(&wanted.id),
        }
    }
}

/// A registration, read and checked.
struct Registrant {
    id: RecordingId,
    client_id: String,
    take: Option<TakeId>,
    identity: Option<RecorderIdentity>,
    status: Option<Status>,
    raw: Registration,
}

impl Registrant {
    fn read(mut raw: Registration) -> Result<Self, ControllerError> {
        let missing = |name: &str| ControllerError::Invalid(format!("{name} is required"));
        let given = |value: &mut Option<String>| value.take().filter(|text| !text.is_empty());
        let id = given(&mut raw.session_id).ok_or_else(|| missing("sessionId"))?;
        let id = RecordingId::parse(id)
            .map_err(|cause| ControllerError::Invalid(format!("sessionId: {cause}")))?;
        let client_id = given(&mut raw.client_id).ok_or_else(|| missing("clientId"))?;
        let status = match given(&mut raw.status) {
            Some(text) => Some(Status::parse(&text).ok_or_else(|| {
                ControllerError::Invalid(format!("status {text:?} is none of {}", Status::WORDS))
            })?),
            None => None,
        };
        let identity = raw.recorder.take();
        let take = identity
            .as_ref()
            .map(|recorder| recorder.take.clone())
            .or_else(|| take_of(&raw));
        Ok(Self {
            id,
            client_id,
            take,
            identity,
            status,
            raw,
        })
    }

    fn run_after(&self, known: RunNumber) -> RunNumber {
        match &self.identity {
            Some(RecorderIdentity { run: Some(run), .. }) => *run,
            Some(recorder) => known.max(recorder.last_run).next(),
            None => known.next(),
        }
    }

    fn new_session(
        &self,
        holder: Option<Holder>,
        now: Timestamp,
    ) -> Result<Session, ControllerError> {
        let mut session = Session {
            id: self.id.clone(),
            take: self.take.clone(),
            run: self.run_after(RunNumber(0)),
            state: State::Starting { since: now },
            created_at: now,
            heartbeat_at: now,
            advanced_at: now,
            last_chunk: None,
            report: Report::default(),
            page_troubled_at: None,
            finished_at: None,
            seal_at: None,
            container: holder,
            original: None,
            failovers: Vec::new(),
            client_id: self.client_id.clone(),
            video_name: None,
            disowned: None,
            ready_told: false,
        };
        self.refresh(&mut session);
        if let Some(status) = self.status {
            session.on(Event::Set(status), now)?;
        }
        Ok(session)
    }

    /// Takes over what the registration says; what it leaves out stays.
    fn refresh(&self, session: &mut Session) {
        session.client_id.clone_from(&self.client_id);
        if session.take.is_none() {
            session.take.clone_from(&self.take);
        }
        if let Some(recorder) = &self.identity {
            session.video_name = Some(recorder.video_name.clone());
        }
    }

    /// Takes over the particulars that the registration gives; what it leaves out stays.
    fn describe(&self, it: &mut Particulars) {
        let raw = self.raw.clone();
        let take = |slot: &mut Option<String>, value: Option<String>| {
            if value.is_some() {
                *slot = value;
            }
        };
        take(&mut it.client_host, raw.client_host);
        take(&mut it.unique_session_id, raw.unique_session_id);
        take(&mut it.original_session_id, raw.original_session_id);
        take(&mut it.recording_json, raw.recording_json.map(text_of));
        let environment = raw.environment.map(without_secrets);
        take(&mut it.environment, environment.map(text_of));
        take(&mut it.metadata, raw.metadata.map(text_of));
    }
}

/// Whether the registration is of a later recording under the id of an earlier one, whose session may go.
fn replaces(session: &Session, wanted: &Registrant, now: Timestamp, silent: Duration) -> bool {
    let (Some(old), Some(new)) = (&session.take, &wanted.take) else {
        return session.over() && wanted.identity.is_none();
    };
    if old == new {
        return false;
    }
    let later = match (old.as_str().parse::<u64>(), new.as_str().parse::<u64>()) {
        (Ok(old), Ok(new)) => new > old,
        _ => true,
    };
    let idle = !session.state.status().active() || now.since(failover::alive_at(session)) >= silent;
    later && (idle || wanted.identity.is_some())
}

/// The take as OpenVidu's own JSON names it, for recorders that do not.
fn take_of(raw: &Registration) -> Option<TakeId> {
    let json = match raw.recording_json.as_ref()? {
        Value::String(text) => serde_json::from_str(text).ok()?,
        other => other.clone(),
    };
    let created = json.get("createdAt")?.as_i64()?;
    TakeId::parse(created.to_string()).ok()
}

/// JSON text, whatever was sent.
fn text_of(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Environments are kept without whatever may be a secret.
fn without_secrets(value: Value) -> Value {
    const TELLING: [&str; 6] = ["URL", "SECRET", "PASSWORD", "KEY", "TOKEN", "HEADERS"];
    let secret = |name: &str| {
        let name = name.to_ascii_uppercase();
        TELLING.iter().any(|part| name.contains(part))
    };
    let value = match value {
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(value @ Value::Object(_)) => value,
            _ => Value::String(text),
        },
        other => other,
    };
    match value {
        Value::Object(members) => members
            .into_iter()
            .map(|(name, value)| {
                let value = if secret(&name) { "***".into() } else { value };
                (name, value)
            })
            .collect(),
        other => other,
    }
}
