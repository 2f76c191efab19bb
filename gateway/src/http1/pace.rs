//! How slowly a client may take its response.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second that keep a reader for good. A telephone line of the nineties takes ten times as much; who takes less
/// holds a response, and its connection, for the sake of holding it.
const LEAST_RATE: u32 = 256;

/// The time that a client has left to take more bytes. Each byte gives it time, and it can save up no more than it began
/// with.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    due: Instant,
    grace: Duration,
}

impl Pace {
    #[must_use]
    pub fn new(now: Instant, grace: Duration) -> Self {
        Self { due: now + grace, grace }
    }

    pub fn taken(&mut self, now: Instant, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.due = (self.due + Duration::from_secs(1) * bytes / LEAST_RATE).min(now + self.grace);
    }

    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    #[must_use]
    pub fn is_late(&self, now: Instant) -> bool {
        now >= self.due
    }
}
