use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The time that leases are measured in: it stands still while the gateway does, so that a stopped or stalled gateway
/// lapses nobody who renewed as soon as it could.
#[derive(Debug, Default)]
pub(super) struct LeaseClock {
    now_ms: AtomicU64,
}

impl LeaseClock {
    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    /// Goes on by the time from `last` to `now`, but by no more than two ticks. Returns the next `last`.
    pub(super) fn advance(&self, last: Instant, now: Instant, tick: Duration) -> Instant {
        let step = now.duration_since(last).min(tick * 2);
        let whole_ms = u64::try_from(step.as_millis()).unwrap_or(u64::MAX);
        self.now_ms.fetch_add(whole_ms, Ordering::Relaxed);
        // What the step in whole milliseconds left out is counted the next time.
        now - (step - Duration::from_millis(whole_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    #[test]
    fn a_stall_counts_as_two_ticks() {
        let clock = LeaseClock::default();
        let start = Instant::now();
        clock.advance(start, start + Duration::from_secs(60), TICK);
        assert_eq!(clock.now_ms(), 200);
    }

    #[test]
    fn fractions_of_a_millisecond_add_up() {
        let clock = LeaseClock::default();
        let mut now = Instant::now();
        let mut last = now;
        for _ in 0..1000 {
            now += Duration::from_micros(300);
            last = clock.advance(last, now, TICK);
        }
        assert_eq!(clock.now_ms(), 300);
    }
}
