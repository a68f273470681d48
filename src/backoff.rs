//! How long to wait before trying again: doubling from a first delay up to a longest one, with jitter so that many who
//! failed together do not come back together.

use crate::random;
use std::time::Duration;

/// A row of growing delays.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempt: u32,
}

impl Backoff {
    /// Delays from `first`, doubling, never above `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            attempt: 0,
        }
    }

    /// The next delay: between a half and the whole of the doubled one.
    pub fn next_delay(&mut self) -> Duration {
        let whole = self
            .first
            .saturating_mul(1u32.checked_shl(self.attempt).unwrap_or(u32::MAX))
            .min(self.longest);
        self.attempt = self.attempt.saturating_add(1);
        whole.mul_f64(0.5 + random::unit() / 2.0)
    }

    /// How many delays were given since the last success.
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Starts over, after a success.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let first = backoff.next_delay();
        assert!((50..=100).contains(&first.as_millis()), "{first:?}");
        for _ in 0..40 {
            assert!(backoff.next_delay() <= Duration::from_secs(2));
        }
        assert!(backoff.next_delay() >= Duration::from_secs(1));
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
