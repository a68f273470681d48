//! What a chunk says of the stream it is from, beside the wall clock in its stamps: the boot of the machine, how far the wall
//! clock was ahead of that machine's monotonic one, and the recorder's seat. The wall clock may be set at any time, and a step
//! of it begins a new stream; so with one record each fragment has its monotonic time. By that it is known whether two runs
//! of one boot recorded one after the other or at once.

use crate::clock;
use serde::{Deserialize, Serialize};

/// What is said of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRecord {
    /// The kernel's id of the machine's boot.
    pub boot: String,
    /// By how many microseconds the wall clock was ahead of the monotonic one.
    pub ahead: i64,
    /// What the recorder was there for.
    pub seat: Seat,
}

/// What a recorder is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seat {
    /// Its frames are the video's.
    Lead,
    /// A seat that a later version has.
    #[serde(other)]
    Other,
}

impl StreamRecord {
    /// The longest name of a boot that is believed.
    const LONGEST: usize = 64;

    /// Of a stream that begins now; `None` where the system does not name its boot.
    pub fn now(seat: Seat) -> Option<Self> {
        Some(Self {
            boot: clock::boot()?.to_owned(),
            ahead: clock::wall_ahead_of_monotonic(),
            seat,
        })
    }

    pub(super) fn is_believed(&self) -> bool {
        (1..=Self::LONGEST).contains(&self.boot.len())
    }

    /// The stream's monotonic time at this microsecond of its wall clock.
    pub(super) const fn monotonic(&self, wall: i64) -> i64 {
        wall.saturating_sub(self.ahead)
    }
}

/// What lies between the end of one stream and the start of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Between {
    /// One of them does not say it.
    Unknown,
    /// The machine was started anew, or it is another one: no clock of theirs is the same.
    OtherBoot,
    /// So many microseconds.
    Apart(i64),
    /// The second began so many microseconds before the end of the first.
    AtOnce(i64),
}

/// So much, in microseconds, may an unnoticed step of the wall clock be in both streams together.
pub(super) const UNNOTICED: i64 = 500_000;

impl Between {
    /// Between a stream that ends and one that starts at these microseconds of their wall clocks.
    pub(super) fn of(
        first: Option<&StreamRecord>,
        end: i64,
        second: Option<&StreamRecord>,
        start: i64,
    ) -> Self {
        let (Some(first), Some(second)) = (first, second) else {
            return Self::Unknown;
        };
        if first.boot != second.boot {
            return Self::OtherBoot;
        }
        let apart = second.monotonic(start).saturating_sub(first.monotonic(end));
        match apart < -UNNOTICED {
            true => Self::AtOnce(apart.saturating_neg()),
            false => Self::Apart(apart.max(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_boot_knows_what_two_clocks_do_not() {
        let record = |boot: &str, ahead| StreamRecord {
            boot: boot.into(),
            ahead,
            seat: Seat::Lead,
        };
        let hour = 3_600_000_000;
        let (first, set_back) = (record("a", 2 * hour), record("a", hour));
        let between =
            |second: &StreamRecord, start| Between::of(Some(&first), 5 * hour, Some(second), start);
        assert_eq!(between(&set_back, 4 * hour + 7), Between::Apart(7));
        assert_eq!(between(&first, 5 * hour + 7), Between::Apart(7));
        assert_eq!(between(&first, 4 * hour), Between::AtOnce(hour));
        assert_eq!(between(&first, 5 * hour - 200_000), Between::Apart(0));
        assert_eq!(between(&record("b", hour), 4 * hour), Between::OtherBoot);
        let unknown = Between::of(None, 0, Some(&first), 1);
        assert_eq!(unknown, Between::Unknown);
        let odd = Between::of(Some(&record("a", i64::MIN)), i64::MAX, Some(&first), 0);
        assert!(matches!(odd, Between::AtOnce(_)));
    }

    #[test]
    fn a_seat_of_a_later_version_is_another_one() {
        let text = r#"{"boot":"a","ahead":1,"seat":"standby"}"#;
        let record: StreamRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.seat, Seat::Other);
        let text = serde_json::to_string(&record.seat).unwrap();
        assert_eq!(text, "\"other\"");
        assert!(StreamRecord::now(Seat::Lead).is_some_and(|it| it.is_believed()));
    }
}
