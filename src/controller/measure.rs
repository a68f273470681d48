//! What is counted of recordings, for those who watch: read from what a session was before a change and is after it, so
//! that no place where sessions change can forget to count.

use crate::model::session::{Session, Status};
use crate::model::wire::TroubleKind;
use metrics::{counter, histogram};

/// What counts of a session at one moment.
pub(super) struct Measure {
    failed: bool,
    run: u32,
    chunks: u32,
    bytes: u64,
    store_troubled: bool,
    failovers: usize,
    recovered: bool,
}

impl Measure {
    pub(super) fn of(session: &Session) -> Self {
        let troubles = session.report.troubles.iter();
        let last = session.failovers.last();
        Self {
            failed: session.state.status() == Status::Failed,
            run: session.run.0,
            chunks: session.report.chunks_stored,
            bytes: session.report.bytes,
            store_troubled: troubles
                .clone()
                .any(|trouble| trouble.kind == TroubleKind::Store),
            failovers: session.failovers.len(),
            recovered: last.is_some_and(|last| last.recovery_ms.is_some()),
        }
    }

    /// Counts what has become of the session since.
    pub(super) fn count(self, session: &Session) {
        let now = Self::of(session);
        if now.failed && !self.failed {
            counter!("ha_recorder_sessions_failed_total").increment(1);
        }
        // A new run counts from zero.
        let (chunks, bytes) = if now.run == self.run {
            (self.chunks, self.bytes)
        } else {
            (0, 0)
        };
        if now.chunks > chunks {
            counter!("ha_recorder_chunks_stored_total").increment((now.chunks - chunks).into());
        }
        if now.bytes > bytes {
            counter!("ha_recorder_chunk_bytes_total").increment(now.bytes - bytes);
        }
        if now.store_troubled && !self.store_troubled {
            counter!("ha_recorder_store_errors_total", "op" => "upload").increment(1);
        }
        if now.recovered && !(self.recovered && self.failovers == now.failovers) {
            recovered(session);
        }
    }
}

/// From the last sign of the lost recorder to the first frame of its successor nothing was recorded.
fn recovered(session: &Session) {
    let Some(last) = session.failovers.last() else {
        return;
    };
    let recovery = last.recovery_ms.unwrap_or_default() as f64 / 1_000.0;
    let unseen = last.at.since(last.well_until).as_secs_f64();
    histogram!("ha_recorder_recovery_seconds").record(recovery);
    counter!("ha_recorder_lost_seconds_total").increment((unseen + recovery).round() as u64);
}
