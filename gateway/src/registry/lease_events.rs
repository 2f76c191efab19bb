use std::sync::atomic::{AtomicU64, Ordering};

/// What became of leases, counted since the gateway started.
#[derive(Debug, Default)]
pub(super) struct LeaseEvents([AtomicU64; 4]);

#[derive(Debug, Clone, Copy)]
pub(super) enum LeaseEvent {
    /// A worker registered.
    Granted,
    Renewed,
    /// It was not renewed in time.
    Lapsed,
    /// Its worker deregistered.
    Ended,
}

impl LeaseEvents {
    pub(super) fn count(&self, event: LeaseEvent) {
        self.0[event as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> [(&'static str, u64); 4] {
        let words = ["granted", "renewed", "lapsed", "ended"];
        std::array::from_fn(|place| (words[place], self.0[place].load(Ordering::Relaxed)))
    }
}
