//! What the recorder sees of its own work: every part writes here, the heartbeat reads it. Trouble is told at once, not
//! at the next beat.

use super::context::Part;
use crate::model::wire::{Report, Trouble, TroubleKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The shared view. Clones are the same view.
#[derive(Clone, Debug, Default)]
pub(super) struct Reporter {
    report: Arc<Mutex<Report>>,
    urgent: Arc<Notify>,
    /// Why the next gap in the video, if there is one, has come about.
    cause: Arc<Mutex<Option<String>>>,
}

impl Reporter {
    /// What is seen right now.
    pub(super) fn report(&self) -> Report {
        self.lock().clone()
    }

    /// Notes facts.
    pub(super) fn note(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.lock());
    }

    /// Notes facts and has them told at once.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Report)) {
        self.note(change);
        self.urgent.notify_one();
    }

    /// Another recording begins: what was counted for the one before it is not its own. What is wrong with the page still is.
    pub(super) fn begin(&self) {
        let is_lasting = |kind| {
            use TroubleKind::{Disk, Settings, Store};
            !matches!(kind, Disk | Settings | Store)
        };
        let mut report = self.lock();
        let mut troubles = std::mem::take(&mut report.troubles);
        troubles.retain(|trouble| is_lasting(trouble.kind));
        *report = Report {
            troubles,
            ..Report::default()
        };
        drop(report);
        self.cause().take();
    }

    /// Notes that a part was started again.
    pub(super) fn restarted(&self, part: Part) {
        self.tell(|report| {
            let restarts = &mut report.restarts;
            let count = match part {
                Part::Display => &mut restarts.display,
                Part::Audio => &mut restarts.audio,
                Part::Browser => &mut restarts.browser,
                Part::Capture => &mut restarts.capture,
                Part::Page => &mut restarts.page,
            };
            *count = count.saturating_add(1);
        });
    }

    /// Something is wrong. Logged and told when it begins, and when it is another kind of wrong.
    pub(super) fn trouble(&self, kind: TroubleKind, message: impl Into<String>) {
        let message = message.into();
        let mut report = self.lock();
        let known = report.troubles.iter_mut().find(|known| known.kind == kind);
        match known {
            Some(known) if known.message == message => return,
            Some(known) => known.message.clone_from(&message),
            None => report.troubles.push(Trouble {
                kind,
                message: message.clone(),
            }),
        }
        drop(report);
        log::warn!("{message}");
        self.urgent.notify_one();
    }

    /// Something in the settings cannot be used. That holds for the whole run, and several such faults stand side by side.
    pub(super) fn settings_fault(&self, message: String) {
        log::error!("{message}");
        let kind = TroubleKind::Settings;
        self.tell(|report| report.troubles.push(Trouble { kind, message }));
    }

    /// What could not be understood, one by one: recording goes on without it.
    pub(super) fn left_out(&self, faults: Vec<String>) {
        for fault in faults {
            self.settings_fault(format!("{fault}; recording goes on without it"));
        }
    }

    /// Nothing of this kind is wrong any more.
    pub(super) fn well(&self, kind: TroubleKind) {
        let mut report = self.lock();
        let before = report.troubles.len();
        report.troubles.retain(|trouble| trouble.kind != kind);
        let better = report.troubles.len() < before;
        drop(report);
        if better {
            self.urgent.notify_one();
        }
    }

    /// Something happened that will show as a gap. What happens because of it explains nothing more.
    pub(super) fn explain(&self, cause: &str) {
        // What a child said last is for the log.
        let cause = cause.split("; it said").next().unwrap_or(cause);
        self.cause().get_or_insert_with(|| cause.to_owned());
    }

    /// Why there is a gap; once.
    pub(super) fn cause_of_gap(&self) -> Option<String> {
        self.cause().take()
    }

    fn cause(&self) -> MutexGuard<'_, Option<String>> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is to be told at once.
    pub(super) async fn urgent(&self) {
        self.urgent.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn trouble_is_told_once_and_its_end_too() {
        let reporter = Reporter::default();
        reporter.trouble(TroubleKind::Disk, "the disk is full");
        reporter.trouble(TroubleKind::Disk, "the disk is full");
        reporter.urgent().await;
        assert_eq!(reporter.report().troubles.len(), 1);
        reporter.well(TroubleKind::Disk);
        reporter.urgent().await;
        assert!(reporter.report().troubles.is_empty());
    }
}
