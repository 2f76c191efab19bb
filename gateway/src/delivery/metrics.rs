//! What is counted of deliveries.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// A disk that syncs in a millisecond is good, one that takes a second is in trouble.
const SYNC_SECONDS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// How old deliveries that are not settled are at most, by word; the others are older.
pub(super) const AGES: [(&str, Duration); 4] = [
    ("1m", Duration::from_mins(1)),
    ("10m", Duration::from_mins(10)),
    ("1h", Duration::from_hours(1)),
    ("1d", Duration::from_hours(24)),
];

/// Labels are bounded: routes by what was registered, the others by words in the code.
pub(super) struct DeliveryMetrics {
    accepted: Family<RouteLabel, Counter>,
    attempts: Family<OutcomeLabel, Counter>,
    sync: Histogram,
    // What follows is refreshed by upkeep: counting takes a look at all that is pending.
    pending: Family<AgeLabel, Gauge<i64, AtomicI64>>,
    oldest_pending: Gauge<i64, AtomicI64>,
    dead: Gauge<i64, AtomicI64>,
    stored_bytes: Gauge<i64, AtomicI64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    http_route: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgeLabel {
    younger_than: &'static str,
}

/// What is in the log, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// By the ages of [`AGES`], and those that are older.
    pub(super) pending: [i64; AGES.len() + 1],
    pub(super) oldest_pending: Duration,
    /// Dead letters that were not replayed.
    pub(super) dead: i64,
}

impl DeliveryMetrics {
    pub(super) fn new() -> Self {
        let metrics = Self {
            accepted: Family::default(),
            attempts: Family::default(),
            sync: Histogram::new(SYNC_SECONDS),
            pending: Family::default(),
            oldest_pending: Gauge::default(),
            dead: Gauge::default(),
            stored_bytes: Gauge::default(),
        };
        // What may be counted is there from the start, so that its first time is an increase too.
        for outcome in ["delivered", "refused", "worker_lost", "too_slow", "nonsense", "not_delivered"] {
            drop(metrics.attempts.get_or_create(&OutcomeLabel { outcome }));
        }
        metrics
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("gearway_deliveries_accepted", "Webhooks that were kept", self.accepted.clone());
        registry.register("gearway_delivery_attempts", "Attempts that ended, by how", self.attempts.clone());
        let help = "How long the log's commits took, with the sync to disk";
        registry.register("gearway_delivery_sync_seconds", help, self.sync.clone());
        let help = "Deliveries that are not settled, by the age that they are younger than";
        registry.register("gearway_deliveries_pending", help, self.pending.clone());
        let help = "The age of the oldest delivery that is not settled";
        registry.register("gearway_deliveries_oldest_pending_seconds", help, self.oldest_pending.clone());
        registry.register(
            "gearway_deliveries_dead",
            "Dead letters that were not replayed",
            self.dead.clone(),
        );
        let help = "What the log takes on disk";
        registry.register("gearway_deliveries_stored_bytes", help, self.stored_bytes.clone());
    }

    pub(super) fn count_accepted(&self, route: &Arc<str>) {
        self.accepted.get_or_create(&RouteLabel { http_route: Arc::clone(route) }).inc();
    }

    pub(super) fn count_attempt(&self, outcome: &'static str) {
        self.attempts.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(super) fn observe_sync(&self, took: Duration) {
        self.sync.observe(took.as_secs_f64());
    }

    pub(super) fn show(&self, tally: &Tally, stored_bytes: u64) {
        let ages = AGES.iter().map(|(word, _)| *word).chain(["older"]);
        for (younger_than, count) in ages.zip(tally.pending) {
            self.pending.get_or_create(&AgeLabel { younger_than }).set(count);
        }
        self.oldest_pending.set(i64::try_from(tally.oldest_pending.as_secs()).unwrap_or(i64::MAX));
        self.dead.set(tally.dead);
        self.stored_bytes.set(i64::try_from(stored_bytes).unwrap_or(i64::MAX));
    }
}

impl fmt::Debug for DeliveryMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryMetrics").finish_non_exhaustive()
    }
}
