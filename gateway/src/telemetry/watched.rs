//! Numbers that live elsewhere and are read when metrics are.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What a number means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
}

pub(super) struct Gauge<F>(pub(super) Named, pub(super) F);

/// One number for each word.
pub(super) struct GaugeByWord<F>(pub(super) Named, pub(super) &'static str, pub(super) F);

/// One number for each name of workers.
pub(super) struct GaugeByWorker<F>(pub(super) Named, pub(super) F);

/// One number for each word, which only grows.
pub(super) struct CounterByWord<F>(pub(super) Named, pub(super) &'static str, pub(super) F);

impl<F: Fn() -> usize + Send + Sync + 'static> Collector for Gauge<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let gauge = gauge((self.1)());
        gauge.encode(encoder.encode_descriptor(self.0.name, self.0.help, None, gauge.metric_type())?)
    }
}

impl<const N: usize, F> Collector for GaugeByWord<F>
where
    F: Fn() -> [(&'static str, usize); N] + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let kind = gauge(0).metric_type();
        let mut encoder = encoder.encode_descriptor(self.0.name, self.0.help, None, kind)?;
        for (word, count) in (self.2)() {
            gauge(count).encode(encoder.encode_family(&[(self.1, word)])?)?;
        }
        Ok(())
    }
}

impl<F> Collector for GaugeByWorker<F>
where
    F: Fn() -> Vec<(Arc<str>, usize)> + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let kind = gauge(0).metric_type();
        let mut encoder = encoder.encode_descriptor(self.0.name, self.0.help, None, kind)?;
        for (worker, count) in (self.1)() {
            gauge(count).encode(encoder.encode_family(&[("worker", &*worker)])?)?;
        }
        Ok(())
    }
}

impl<const N: usize, F> Collector for CounterByWord<F>
where
    F: Fn() -> [(&'static str, u64); N] + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut encoder = encoder.encode_descriptor(self.0.name, self.0.help, None, kind)?;
        for (word, count) in (self.2)() {
            ConstCounter::new(count).encode(encoder.encode_family(&[(self.1, word)])?)?;
        }
        Ok(())
    }
}

macro_rules! debug {
    ($($name:ident),*) => {$(
        impl<F> fmt::Debug for $name<F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("name", &self.0.name).finish_non_exhaustive()
            }
        }
    )*};
}
debug!(Gauge, GaugeByWord, GaugeByWorker, CounterByWord);

fn gauge(value: usize) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
