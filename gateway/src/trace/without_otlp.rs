use super::{CallEnd, CallSpan, Recording, Served};
use crate::telemetry::Metrics;

/// This gateway was built without the feature `otlp`: nobody makes one.
#[derive(Debug, Clone)]
pub struct Tracer(());

impl Tracer {
    /// # Errors
    /// Never.
    pub fn from_environment(_metrics: &Metrics) -> anyhow::Result<Option<Self>> {
        if ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
            .iter()
            .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
        {
            tracing::warn!("a collector is named, but this gateway was built without the feature otlp");
        }
        Ok(None)
    }

    pub(super) fn samples(&self, _trace: u128, _parent: Option<u8>) -> bool {
        false
    }

    pub(super) fn served(&self, _recording: &Recording, _request: &Served<'_>) {}

    pub(super) fn called(&self, _span: &CallSpan, _end: CallEnd) {}

    pub fn shut_down(&self) {}
}
