//! When a recorder is replaced, and what is remembered about it. Pure: it is given what was seen and the time, and
//! answers what to do.

use super::ids::{ContainerId, RunNumber};
use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// Why a recorder was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// Its first process ended with this exit code.
    Died {
        /// The exit code.
        code: i64,
    },
    /// The kernel ended it for want of memory.
    OutOfMemory,
    /// Its container was removed.
    Removed,
    /// Its container was frozen.
    Frozen,
    /// No heartbeat for too long.
    Silent,
    /// Heartbeats, but no chunk or byte more for too long.
    Stuck,
    /// It said itself that it cannot go on.
    Reported {
        /// What it said.
        message: String,
    },
    /// A person asked for it.
    Requested {
        /// What they gave as reason.
        message: String,
    },
}

/// One failover, as the history keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// When the fault was seen.
    pub at: Timestamp,
    /// When the recorder was last known to be well: the fault lies between this and `at`.
    pub well_until: Timestamp,
    /// Why.
    pub reason: Reason,
    /// The run that was lost.
    pub old_run: RunNumber,
    /// The container that was lost.
    pub old_container: Option<ContainerId>,
    /// The container that took over: the same one again, or a backup.
    pub new_container: Option<ContainerId>,
    /// Chunks that the lost run and those before it left.
    pub chunks_recovered: u32,
    /// Milliseconds from the fault's detection to the start of the replacement.
    pub start_ms: Option<u64>,
    /// Milliseconds from the fault's detection to the first new frame.
    pub recovery_ms: Option<u64>,
}
