//! Time comes through here: wall-clock stamps as they appear in records and on the wire, and the clocks that give
//! them. Work that judges how long something took holds a [`Clock`], so that a test can let a week pass at once.

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Milliseconds since the Unix epoch; written as RFC 3339 in UTC wherever a person or a client reads it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, utoipa::ToSchema)]
#[schema(value_type = String, format = DateTime)]
pub struct Timestamp(i64);

impl Timestamp {
    /// A stamp from milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// The time from `earlier` to this stamp; zero when `earlier` is later, as after a clock that was set back.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This stamp moved on by `step`.
    pub fn plus(self, step: Duration) -> Self {
        let millis = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// This stamp moved back by `step`.
    pub fn minus(self, step: Duration) -> Self {
        let millis = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(millis))
    }

    /// Reads an RFC 3339 time.
    ///
    /// # Errors
    /// When `text` is no RFC 3339 time.
    pub fn parse(text: &str) -> Result<Self, time::error::Parse> {
        let at = OffsetDateTime::parse(text, &Rfc3339)?;
        Ok(Self((at.unix_timestamp_nanos() / 1_000_000) as i64))
    }
}

/// By how many microseconds the wall clock is ahead of `CLOCK_MONOTONIC`; a step of it is a change of the wall clock.
pub fn wall_ahead_of_monotonic() -> i64 {
    let micros = |clock: ClockId| {
        clock_gettime(clock).map_or(0, |at| at.tv_sec() * 1_000_000 + at.tv_nsec() / 1_000)
    };
    micros(ClockId::CLOCK_REALTIME) - micros(ClockId::CLOCK_MONOTONIC)
}

/// The kernel's id of the machine's boot: another one after each start, the same in all its containers.
pub fn boot() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(text.trim().to_owned())
    };
    BOOT.get_or_init(read).as_deref()
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0) * 1_000_000;
        let text = OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .ok()
            .and_then(|at| at.format(&Rfc3339).ok());
        match text {
            Some(text) => out.write_str(&text),
            None => write!(out, "{} ms", self.0),
        }
    }
}

impl Timestamp {
    /// As text that is always as long, so that columns and sorted text keep their order.
    pub fn fixed(self) -> String {
        let text = self.to_string();
        let whole = text.trim_end_matches('Z');
        match (whole.split_once('.'), text.len() - whole.len()) {
            (Some((whole, part)), 1) => format!("{whole}.{part:0<3}Z"),
            (None, 1) => format!("{whole}.000Z"),
            _ => text,
        }
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment of this process; never goes back.
    fn uptime(&self) -> Duration;
}

/// Notices that the wall clock was set, by a person, a time server, or because the machine was suspended: the time that
/// passed says how far it should have come.
pub struct StepWatch {
    clock: Arc<dyn Clock>,
    /// Milliseconds by which the wall clock was ahead of the time that passed.
    ahead: i64,
}

impl StepWatch {
    /// A smaller step is a correction that nobody sees.
    const LEAST: i64 = 200;

    /// Watches from now on.
    pub fn begin(clock: Arc<dyn Clock>) -> Self {
        let ahead = Self::ahead(&*clock);
        Self { clock, ahead }
    }

    /// By how much it was set since the watch began; `None` when it was not.
    pub fn step(&self) -> Option<Step> {
        let by = Self::ahead(&*self.clock) - self.ahead;
        (by.abs() > Self::LEAST).then_some(Step(by))
    }

    fn ahead(clock: &dyn Clock) -> i64 {
        clock.now().0 - i64::try_from(clock.uptime().as_millis()).unwrap_or(0)
    }
}

/// Milliseconds by which the wall clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step(i64);

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.0 > 0 { "forward" } else { "back" };
        let seconds = self.0.unsigned_abs() as f64 / 1000.0;
        write!(out, "the clock was set {way} by {seconds:.1} s")
    }
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn uptime(&self) -> Duration {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        BEGIN.get_or_init(Instant::now).elapsed()
    }
}

/// A clock that moves only when it is told to.
#[derive(Clone, Debug)]
pub struct ManualClock {
    now: Arc<AtomicI64>,
    passed: Arc<AtomicI64>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self {
            now: Arc::new(AtomicI64::new(now.0)),
            passed: Arc::default(),
        }
    }

    /// Lets `step` pass.
    pub fn advance(&self, step: Duration) {
        self.set_forward(step);
        let step = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
        self.passed.fetch_add(step, Ordering::SeqCst);
    }

    /// Sets it forward, as a time server does, or a machine that is resumed.
    pub fn set_forward(&self, step: Duration) {
        let step = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
        self.now.fetch_add(step, Ordering::SeqCst);
    }

    /// Sets it back, as a person or a time server does.
    pub fn set_back(&self, step: Duration) {
        let step = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
        self.now.fetch_sub(step, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::SeqCst))
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.passed.load(Ordering::SeqCst)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_as_it_was_written() {
        let stamp = Timestamp::from_millis(1_795_577_569_120);
        assert_eq!(stamp.to_string(), "2026-11-25T03:32:49.12Z");
        assert_eq!(Timestamp::parse(&stamp.to_string()).unwrap(), stamp);
    }

    #[test]
    fn a_stamp_of_a_log_line_is_always_as_long() {
        for (millis, text) in [
            (1_795_577_569_120, "2026-11-25T03:32:49.120Z"),
            (1_795_577_569_000, "2026-11-25T03:32:49.000Z"),
            (1_795_577_569_007, "2026-11-25T03:32:49.007Z"),
        ] {
            assert_eq!(Timestamp::from_millis(millis).fixed(), text);
        }
    }

    #[test]
    fn a_clock_set_back_gives_no_negative_age() {
        let later = Timestamp::from_millis(10);
        assert_eq!(Timestamp::from_millis(5).since(later), Duration::ZERO);
    }

    #[test]
    fn a_manual_clock_moves_when_told() {
        let clock = ManualClock::at(Timestamp::from_millis(1_000));
        clock.advance(Duration::from_secs(7));
        assert_eq!(clock.now().millis(), 8_000);
        clock.set_back(Duration::from_secs(5));
        assert_eq!(clock.now().millis(), 3_000);
        assert_eq!(clock.uptime(), Duration::from_secs(7));
    }

    #[test]
    fn a_step_of_the_wall_clock_is_seen_and_time_that_passes_is_none() {
        let manual = ManualClock::at(Timestamp::from_millis(1_000_000));
        let watch = StepWatch::begin(Arc::new(manual.clone()));
        for seconds in [1, 60, 86_400] {
            manual.advance(Duration::from_secs(seconds));
            manual.set_forward(Duration::from_millis(20));
            assert_eq!(
                watch.step(),
                None,
                "slewed by no more than a time server does"
            );
        }
        manual.set_forward(Duration::from_secs(3600));
        let forward = watch.step().unwrap().to_string();
        assert_eq!(forward, "the clock was set forward by 3600.1 s");
        manual.set_back(Duration::from_secs(7200));
        let back = watch.step().unwrap().to_string();
        assert_eq!(back, "the clock was set back by 3599.9 s");
    }
}
