//! Readings of the clock for whom a few milliseconds do not matter: they cost a fifth of an exact one, and every request takes some.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// The time of day, up to one tick of the kernel ago (1 to 10 ms).
pub(crate) fn coarse_time() -> SystemTime {
    UNIX_EPOCH + duration(clock_gettime(ClockId::RealtimeCoarse))
}

/// How long the system has been up, up to one tick of the kernel ago. Never goes back.
pub(crate) fn coarse_uptime() -> Duration {
    duration(clock_gettime(ClockId::MonotonicCoarse))
}

/// Zero for what is before the clock's start.
fn duration(reading: Timespec) -> Duration {
    let seconds = u64::try_from(reading.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(reading.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarse_readings_are_of_the_same_clocks() {
        let tick = Duration::from_millis(50);
        let before = SystemTime::now();
        let coarse = coarse_time();
        assert!(coarse <= SystemTime::now() && coarse >= before - tick);
        let exact = || duration(clock_gettime(ClockId::Monotonic));
        let before = exact();
        let coarse = coarse_uptime();
        assert!(coarse <= exact() && coarse + tick >= before);
    }
}
