//! What each event makes of each state: the rows of the table that the tests of this room hold, one function a column.

use super::{Action, Disowned, Holder, Refusal, SEAL_AFTER, Session, State, Status};
use crate::clock::Timestamp;
use crate::model::failover::{Failover, Fault, Reason};
use crate::model::ids::RunNumber;
use crate::model::wire::{Report, TroubleKind};
use std::time::Duration;

impl Session {
    pub(super) fn registered(
        &mut self,
        run: RunNumber,
        holder: Option<Holder>,
        now: Timestamp,
    ) -> Result<Option<Action>, Refusal> {
        if self.over() || matches!(self.state, State::Stopping { .. }) {
            return Err(Refusal::Over);
        }
        if run < self.run {
            return Err(Refusal::Superseded);
        }
        let again = run == self.run;
        match &mut self.state {
            State::Inactive { .. } => self.state = State::Starting { since: now },
            State::GivenUp { .. } => self.revive(State::Starting { since: now }),
            _ if again => {}
            State::TakingOver { started_at, .. } => {
                started_at.get_or_insert(now);
            }
            State::Starting { .. } | State::Recording { .. } if self.run == RunNumber(0) => {}
            State::Starting { .. } | State::Recording { .. } => {
                let fault = Fault {
                    reason: Reason::CameBack,
                    well_until: self.heartbeat_at,
                };
                self.remember_failover(&fault, now);
                self.state = State::TakingOver {
                    since: now,
                    reason: Reason::CameBack,
                    started_at: Some(now),
                    not_before: now,
                    tries: 0,
                };
            }
            State::Paused { .. }
            | State::Stopping { .. }
            | State::Completed { .. }
            | State::Failed { .. } => {}
        }
        self.run = run;
        if let Some(holder) = holder {
            self.held_by(holder);
        }
        self.heartbeat_at = now;
        self.advanced_at = now;
        if !again {
            self.report = Report::default();
            self.page_troubled_at = None;
        }
        Ok(None)
    }

    pub(super) fn heard(
        &mut self,
        last_chunk: Option<String>,
        report: Option<Report>,
        now: Timestamp,
    ) -> Result<Option<Action>, Refusal> {
        if matches!(self.state, State::Completed { .. } | State::Failed { .. }) {
            return Err(Refusal::Over);
        }
        self.heartbeat_at = now;
        let chunk = last_chunk.filter(|chunk| !chunk.is_empty());
        let writes = chunk.is_some();
        // Earlier clients tell nothing of their work.
        let says_nothing_else = report.is_none();
        let mut advanced = chunk.is_some() && chunk != self.last_chunk;
        if let Some(report) = report {
            advanced |= went_on(&self.report, &report);
            let troubled = report.troubles.iter().any(|t| t.kind == TroubleKind::Page);
            self.page_troubled_at = troubled.then(|| self.page_troubled_at.unwrap_or(now));
            self.report = report;
        }
        if advanced {
            self.advanced_at = now;
        }
        if chunk.is_some() {
            self.last_chunk = chunk;
        }
        match self.state {
            State::Starting { .. } if writes => self.state = State::Recording { since: now },
            State::GivenUp { .. } if advanced || says_nothing_else => {
                self.revive(State::Recording { since: now });
            }
            State::TakingOver {
                since,
                started_at: Some(_),
                ..
            } if advanced && self.replaced_run() < self.run => {
                if let Some(failover) = self.failovers.last_mut() {
                    failover.recovery_ms = Some(millis(now, since));
                }
                self.state = State::Recording { since: now };
            }
            _ => {}
        }
        Ok(None)
    }

    /// A recorder is at work again after the session was given up.
    fn revive(&mut self, state: State) {
        self.state = state;
        self.finished_at = None;
        self.seal_at = None;
        self.disowned = None;
    }

    pub(super) fn grown(&mut self, at: Timestamp) -> Result<Option<Action>, Refusal> {
        if !self.has_a_recorder_to_lose() {
            return Err(Refusal::NotRecording);
        }
        self.advanced_at = self.advanced_at.max(at);
        Ok(None)
    }

    pub(super) fn lost(
        &mut self,
        fault: Fault,
        not_before: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Action>, Refusal> {
        if matches!(self.state, State::Stopping { .. }) {
            return Ok(Some(Action::Stop));
        }
        let may_be_replaced = self.has_a_recorder_to_lose() || self.given_up_at().is_some();
        if !may_be_replaced {
            return Err(Refusal::NotRecording);
        }
        (self.finished_at, self.seal_at) = (None, None);
        self.remember_failover(&fault, now);
        self.state = State::TakingOver {
            since: now,
            reason: fault.reason,
            started_at: None,
            not_before,
            tries: 0,
        };
        Ok(Some(Action::Replace))
    }

    pub(super) fn replaced(
        &mut self,
        holder: Holder,
        now: Timestamp,
    ) -> Result<Option<Action>, Refusal> {
        let State::TakingOver {
            since,
            ref mut started_at,
            ..
        } = self.state
        else {
            return Err(if self.over() || self.stopping() {
                Refusal::Over
            } else {
                Refusal::Superseded
            });
        };
        started_at.get_or_insert(now);
        if let Some(failover) = self.failovers.last_mut() {
            failover.new_container = Some(holder.id.clone());
            failover.start_ms = Some(millis(now, since));
        }
        self.held_by(holder);
        Ok(None)
    }

    pub(super) fn not_replaced(
        &mut self,
        at: Timestamp,
        failed: u32,
    ) -> Result<Option<Action>, Refusal> {
        match &mut self.state {
            State::TakingOver {
                started_at: None,
                not_before,
                tries,
                ..
            } => {
                (*not_before, *tries) = (at, failed);
                Ok(Some(Action::Replace))
            }
            _ => Err(Refusal::NotRecording),
        }
    }

    pub(super) fn thawed(&mut self, now: Timestamp) -> Result<Option<Action>, Refusal> {
        let State::TakingOver {
            since,
            started_at: None,
            ..
        } = self.state
        else {
            return Err(Refusal::NotRecording);
        };
        if let Some(failover) = self.failovers.last_mut() {
            failover.recovery_ms = Some(millis(now, since));
        }
        self.state = State::Recording { since: now };
        Ok(None)
    }

    pub(super) fn given_up(
        &mut self,
        why: String,
        now: Timestamp,
    ) -> Result<Option<Action>, Refusal> {
        // A stop that came meanwhile sees to the end, and whoever put the session aside does not want it back.
        if self.over() || self.stopping() {
            return Err(Refusal::Over);
        }
        if self.given_up_at().is_none() {
            self.state = State::GivenUp { at: now, why };
        }
        Ok(Some(Action::Salvage))
    }

    pub(super) fn failed(
        &mut self,
        why: String,
        now: Timestamp,
    ) -> Result<Option<Action>, Refusal> {
        if self.over() {
            return Err(Refusal::Over);
        }
        self.state = State::Failed { at: now, why };
        Ok(Some(Action::Salvage))
    }

    pub(super) fn stop_asked(&mut self, now: Timestamp) -> Result<Option<Action>, Refusal> {
        match self.state {
            State::Inactive { .. } | State::Stopping { .. } => Ok(None),
            State::Completed { .. } | State::Failed { .. } => {
                // OpenVidu writes it anew over our seal when the session is closed, and will never seal it.
                let wait = self.disowned.map_or(SEAL_AFTER, |_| Duration::ZERO);
                self.seal_at.get_or_insert(now.plus(wait));
                Ok(None)
            }
            _ => {
                self.state = State::Stopping { since: now };
                self.seal_at = Some(now.plus(SEAL_AFTER));
                Ok(Some(Action::Stop))
            }
        }
    }

    pub(super) fn finished(&mut self, now: Timestamp) -> Result<Option<Action>, Refusal> {
        if matches!(self.state, State::Completed { .. } | State::Failed { .. }) {
            return Err(Refusal::Over);
        }
        self.state = State::Completed { at: now };
        self.seal_at.get_or_insert(now.plus(SEAL_AFTER));
        // A backup waits for a stop that OpenVidu cannot give it.
        let is_ours = self.container.as_ref().is_some_and(|it| it.backup);
        Ok(is_ours.then_some(Action::Stop))
    }

    pub(super) fn sealed(&mut self, now: Timestamp) -> Result<Option<Action>, Refusal> {
        self.seal_at = None;
        if self.over() {
            return Ok(None);
        }
        self.state = State::Completed { at: now };
        // A recorder may be at work still: a backup, of which OpenVidu does not know.
        Ok(Some(Action::Stop))
    }

    pub(super) fn disown(
        &mut self,
        why: Disowned,
        now: Timestamp,
    ) -> Result<Option<Action>, Refusal> {
        if matches!(self.state, State::Inactive { .. }) || self.ready_told {
            return Err(Refusal::Over);
        }
        self.disowned = Some(why);
        self.seal_at = Some(now);
        if self.over() {
            return Ok(None);
        }
        if !self.stopping() {
            self.state = State::Stopping { since: now };
        }
        Ok(Some(Action::Stop))
    }

    pub(super) fn salvaged(&mut self, now: Timestamp) -> Result<Option<Action>, Refusal> {
        // A recorder is at work again, or about to be: there is more to come.
        if self.state.status().active() || matches!(self.state, State::Paused { .. }) {
            return Err(Refusal::Superseded);
        }
        self.finished_at = Some(now);
        // It may have been postponed for the video's sake.
        let latest = match self.disowned {
            Some(_) => now,
            None => now.plus(SEAL_AFTER),
        };
        self.seal_at = self.seal_at.map(|at| at.min(latest));
        if matches!(self.state, State::Stopping { .. }) {
            self.state = State::Completed { at: now };
        }
        Ok(None)
    }

    pub(super) fn set(
        &mut self,
        status: Status,
        now: Timestamp,
    ) -> Result<Option<Action>, Refusal> {
        match (status, &self.state) {
            (Status::Inactive, _) => self.state = State::Inactive { at: now },
            (Status::Stopping, _) => return self.stop_asked(now),
            (Status::Completed, State::Completed { .. })
            | (Status::Failed, State::Failed { .. }) => {}
            (Status::Completed, _) => return self.finished(now),
            (Status::Failed, _) => {
                return self.failed("a client reported that it failed".into(), now);
            }
            (_, State::Stopping { .. } | State::Completed { .. } | State::Failed { .. }) => {
                return Err(Refusal::Over);
            }
            (_, State::TakingOver { .. }) => {}
            (Status::Starting, _) => self.state = State::Starting { since: now },
            (Status::Recording, _) => self.state = State::Recording { since: now },
            (Status::Paused, _) => self.state = State::Paused { since: now },
        }
        Ok(None)
    }

    /// The run that the last failover replaced.
    fn replaced_run(&self) -> RunNumber {
        self.failovers
            .last()
            .map_or(RunNumber(0), |failover| failover.old_run)
    }

    fn held_by(&mut self, holder: Holder) {
        if let Some(old) = self.container.take()
            && old.id != holder.id
            && !old.backup
        {
            self.original.get_or_insert(old.id);
        }
        self.container = Some(holder);
    }

    pub(super) fn remember_failover(&mut self, fault: &Fault, now: Timestamp) {
        self.failovers.push(Failover {
            at: now,
            well_until: fault.well_until.min(now),
            reason: fault.reason.clone(),
            old_run: self.run,
            old_container: self.container.as_ref().map(|holder| holder.id.clone()),
            new_container: None,
            chunks_recovered: self.report.chunk,
            start_ms: None,
            recovery_ms: None,
        });
    }
}

fn went_on(before: &Report, after: &Report) -> bool {
    after.chunk > before.chunk
        || after.bytes > before.bytes
        || after.frames > before.frames
        || after.newest_frame_at > before.newest_frame_at
}

fn millis(now: Timestamp, since: Timestamp) -> u64 {
    u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX)
}
