//! How long requests took: counted for Prometheus, and summed up by route for people.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;

/// The boundaries that OpenTelemetry's HTTP conventions give for durations, in seconds.
pub(super) const SECONDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// With the one above the last boundary.
const BUCKETS: usize = SECONDS.len() + 1;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) http_request_method: &'static str,
    pub(super) http_route: Arc<str>,
    pub(super) http_response_status_code: u16,
}

/// A histogram for each combination of labels; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestDurations(Arc<RwLock<HashMap<RequestLabels, Buckets, foldhash::fast::RandomState>>>);

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; BUCKETS],
    /// In nanoseconds: five centuries fit.
    sum: AtomicU64,
}

/// How long requests to a route took since the gateway started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latency {
    counts: [u64; BUCKETS],
}

impl RequestDurations {
    pub(super) fn observe(&self, labels: RequestLabels, elapsed: Duration) {
        if let Some(buckets) = self.0.read().get(&labels) {
            return buckets.observe(elapsed);
        }
        self.0.write().entry(labels).or_default().observe(elapsed);
    }

    /// By route and method, whatever the status.
    pub(super) fn by_route(&self) -> HashMap<(Arc<str>, &'static str), Latency> {
        let mut routes: HashMap<_, Latency> = HashMap::new();
        for (labels, buckets) in &*self.0.read() {
            let latency =
                routes.entry((Arc::clone(&labels.http_route), labels.http_request_method)).or_default();
            for (sum, count) in latency.counts.iter_mut().zip(&buckets.counts) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        routes
    }
}

impl Buckets {
    fn observe(&self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let place = SECONDS.partition_point(|bound| *bound < seconds);
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.sum.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl Latency {
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// In seconds, estimated within its bucket as Prometheus' `histogram_quantile` does; [`None`] without requests. What is above the
    /// last boundary counts as that.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let requests = self.requests();
        if requests == 0 {
            return None;
        }
        let rank = quantile * requests as f64;
        let mut below = 0.0;
        for (place, count) in self.counts.iter().enumerate() {
            let count = *count as f64;
            let Some(upper) = SECONDS.get(place) else { break };
            if count > 0.0 && below + count >= rank {
                let lower = place.checked_sub(1).map_or(0.0, |place| SECONDS[place]);
                return Some(lower + (upper - lower) * (rank - below) / count);
            }
            below += count;
        }
        SECONDS.last().copied()
    }
}

impl Collector for RequestDurations {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "From a request's first byte to the end of its response.";
        let mut encoder = encoder.encode_descriptor(
            "http_server_request_duration_seconds",
            help,
            None,
            MetricType::Histogram,
        )?;
        for (labels, buckets) in &*self.0.read() {
            let bounds = SECONDS.into_iter().chain([f64::INFINITY]);
            let counts = buckets.counts.iter().map(|count| count.load(Ordering::Relaxed));
            let counted: Vec<(f64, u64)> = bounds.zip(counts).collect();
            let requests = counted.iter().map(|(_, count)| count).sum();
            let sum = Duration::from_nanos(buckets.sum.load(Ordering::Relaxed)).as_secs_f64();
            let mut encoder = encoder.encode_family(labels)?;
            encoder.encode_histogram::<[(&str, &str); 0]>(sum, requests, &counted, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_in_the_bucket_of_their_rank() {
        let durations = RequestDurations::default();
        let labels = |status| RequestLabels {
            http_request_method: "GET",
            http_route: "/a".into(),
            http_response_status_code: status,
        };
        for _ in 0..90 {
            durations.observe(labels(200), Duration::from_millis(7));
        }
        for _ in 0..10 {
            durations.observe(labels(503), Duration::from_millis(700));
        }
        let latency = durations.by_route()[&(Arc::from("/a"), "GET")];
        assert_eq!(latency.requests(), 100);
        let within = |quantile, low: f64, high: f64| {
            let value = latency.quantile(quantile).unwrap();
            assert!(low < value && value <= high, "{quantile}: {value}");
        };
        within(0.5, 0.005, 0.01);
        within(0.99, 0.5, 0.75);
        assert_eq!(Latency::default().quantile(0.5), None);
        durations.observe(labels(200), Duration::from_mins(1));
        assert_eq!(durations.by_route()[&(Arc::from("/a"), "GET")].quantile(1.0), Some(10.0));
    }
}
