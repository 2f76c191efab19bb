//! Logs and metrics: the names that operators and dashboards rely on.

mod durations;
mod watched;

use std::collections::HashMap;
use std::fmt;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

pub use self::durations::Latency;
use self::durations::{RequestDurations, RequestLabels, SECONDS};
use self::watched::{CounterByWord, Gauge, GaugeByWord, GaugeByWorker, Named};

/// The tracing target of the one event that each relayed request ends with.
pub const ACCESS: &str = "gearway::access";
/// The tracing target of the one event that each attempt to deliver a stored webhook ends with.
pub const ATTEMPTS: &str = "gearway::delivery::attempt";

/// What [`Metrics::encode`] writes, for the `Content-Type` header.
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The route label of requests that matched none.
const UNMATCHED: &str = "_unmatched";

/// Sends events to standard error: as lines for people on a terminal, otherwise as JSON. `RUST_LOG` chooses which;
/// without it, those of level `info` and above.
pub fn init_tracing() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.fmt_fields(debug_fn(write_field).delimited(" ")).init();
    } else {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    }
}

/// A field for people. What is shown by `Display` is somebody's text as it came, and must neither steer the terminal nor pass for
/// another line.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let text = printable(&format!("{value:?}"));
    match field.name() {
        "message" => write!(writer, "{text}"),
        name if writer.has_ansi_escapes() => write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{text}"),
        name => write!(writer, "{name}={text}"),
    }
}

/// The text with control characters written out.
#[must_use]
pub fn printable(text: &str) -> String {
    let write_out = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(write_out).collect()
}

/// What the gateway counts. Every label's values are bounded: routes and worker names by what was registered,
/// the others by the enums here.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: RequestDurations,
    calls: Family<WorkerLabel, Histogram, Seconds>,
    retries: Family<ReasonLabel, Counter>,
    ejections: Family<WorkerLabel, Counter>,
    auth_failures: Family<ReasonLabel, Counter>,
    reloads: Family<OutcomeLabel, Counter>,
    tls_failures: Family<ReasonLabel, Counter>,
    evictions: Family<ReasonLabel, Counter>,
}

/// A number that lives elsewhere and is read when metrics are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    InFlightRequests,
    BytesInFlight,
    Connections,
    ParkedRequests,
}

/// Why a call was sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// No byte of it had been written.
    NotSent,
    /// The worker said that it did not run it.
    NotRun,
    /// Its handler may run twice.
    Idempotent,
}

/// Why credentials were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthFailure {
    /// None where some are required.
    Missing,
    ApiKey,
    AccessToken,
    /// Of a webhook.
    Signature,
    /// Contradictory or repeated ones.
    Ambiguous,
    /// On the admin listener.
    AdminToken,
}

/// Why a client has no TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFailure {
    /// The two do not agree, or the client went away.
    Refused,
    /// It took longer than `limits.header_timeout`.
    TooSlow,
}

/// Whom a client had to make room for, or why there was none for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// At `limits.max_connections`, the connection that had kept the gateway waiting for the longest.
    Connection,
    /// Among too many requests that wait for their bodies, the one whose came most slowly.
    SlowBody,
    /// At `limits.max_bytes_in_flight`, one of those who took their responses most slowly.
    SlowReader,
    /// A newcomer, because all of `limits.max_connections` are being worked for.
    Full,
    /// A newcomer of an address that has `limits.max_connections_per_address`.
    Address,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkerLabel {
    worker: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let metrics = Self {
            registry: Mutex::default(),
            requests: RequestDurations::default(),
            calls: Family::new_with_constructor(Seconds),
            retries: Family::default(),
            ejections: Family::default(),
            auth_failures: Family::default(),
            reloads: Family::default(),
            tls_failures: Family::default(),
            evictions: Family::default(),
        };
        metrics.begin_at_zero();
        let mut registry = metrics.registry.lock();
        registry.register_collector(Box::new(metrics.requests.clone()));
        registry.register(
            "gearway_worker_request_duration_seconds",
            "From sending a call to a worker to its reply",
            metrics.calls.clone(),
        );
        registry.register("gearway_retries", "Calls that were sent again", metrics.retries.clone());
        registry.register(
            "gearway_ejections",
            "Replicas taken out of rotation because they could not be reached",
            metrics.ejections.clone(),
        );
        registry.register("gearway_auth_failures", "Refused credentials", metrics.auth_failures.clone());
        let help = "Configurations that were read again, by whether they could be used";
        registry.register("gearway_config_reloads", help, metrics.reloads.clone());
        registry.register(
            "gearway_tls_handshake_failures",
            "Clients' TLS handshakes that came to nothing",
            metrics.tls_failures.clone(),
        );
        registry.register(
            "gearway_evictions",
            "Clients that were given up or turned away to keep room for others",
            metrics.evictions.clone(),
        );
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        // The exposition format adds `_info`.
        registry.register("gearway_build", "The gateway's version", build);
        drop(registry);
        metrics
    }

    /// Has a part of the gateway register what it counts itself.
    pub(crate) fn register_with(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock());
    }

    /// Counts a request that was answered. `route` is the pattern that it matched.
    pub fn observe_request(&self, method: &Method, route: Option<&Arc<str>>, status: u16, elapsed: Duration) {
        let http_route = route.map_or_else(|| Arc::from(UNMATCHED), Arc::clone);
        let labels = RequestLabels {
            http_request_method: method_label(method),
            http_route,
            http_response_status_code: status,
        };
        self.requests.observe(labels, elapsed);
    }

    /// Counts a call that its worker answered, or failed to.
    pub fn observe_call(&self, worker: &Arc<str>, elapsed: Duration) {
        let label = WorkerLabel { worker: Arc::clone(worker) };
        self.calls.get_or_create(&label).observe(elapsed.as_secs_f64());
    }

    pub fn count_retry(&self, reason: RetryReason) {
        self.retries.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
    }

    pub fn count_ejection(&self, worker: &Arc<str>) {
        self.ejections.get_or_create(&WorkerLabel { worker: Arc::clone(worker) }).inc();
    }

    pub fn count_auth_failure(&self, reason: AuthFailure) {
        self.auth_failures.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
    }

    pub fn count_reload(&self, succeeded: bool) {
        let outcome = if succeeded { "succeeded" } else { "failed" };
        self.reloads.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// How long requests took, by the route's path and [`method_label`] of the method. Routes that nobody has asked for are left out.
    #[must_use]
    pub fn latencies(&self) -> HashMap<(Arc<str>, &'static str), Latency> {
        self.requests.by_route()
    }

    pub fn count_tls_failure(&self, reason: TlsFailure) {
        self.tls_failures.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
    }

    pub fn count_evictions(&self, reason: Eviction, clients: usize) {
        self.evictions.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc_by(clients as u64);
    }

    /// Has `read` called whenever metrics are asked for. It must not block.
    pub fn watch(&self, reading: Reading, read: impl Fn() -> usize + Send + Sync + 'static) {
        self.registry.lock().register_collector(Box::new(Gauge(reading.named(), read)));
    }

    /// Has `read` called whenever metrics are asked for: how many workers are in each state. It must not block.
    pub fn watch_workers<const N: usize>(
        &self,
        read: impl Fn() -> [(&'static str, usize); N] + Send + Sync + 'static,
    ) {
        let help = "Workers in the table, by whether they are given calls.";
        let named = Named { name: "gearway_workers", help };
        self.registry.lock().register_collector(Box::new(GaugeByWord(named, "state", read)));
    }

    /// Has `read` called whenever metrics are asked for: calls in flight by the workers' name. It must not block.
    pub fn watch_calls(&self, read: impl Fn() -> Vec<(Arc<str>, usize)> + Send + Sync + 'static) {
        let help = "Calls that workers have and have not answered yet.";
        let named = Named { name: "gearway_worker_in_flight_calls", help };
        self.registry.lock().register_collector(Box::new(GaugeByWorker(named, read)));
    }

    /// Has `read` called whenever metrics are asked for: what became of leases so far. It must not block.
    pub fn watch_leases<const N: usize>(
        &self,
        read: impl Fn() -> [(&'static str, u64); N] + Send + Sync + 'static,
    ) {
        let help = "What workers did with their leases.";
        let named = Named { name: "gearway_leases", help };
        self.registry.lock().register_collector(Box::new(CounterByWord(named, "event", read)));
    }

    /// What may be counted is there from the start, so that its first time is an increase too.
    fn begin_at_zero(&self) {
        for reason in [RetryReason::NotSent, RetryReason::NotRun, RetryReason::Idempotent] {
            drop(self.retries.get_or_create(&ReasonLabel { reason: reason.as_str() }));
        }
        for reason in AuthFailure::ALL {
            drop(self.auth_failures.get_or_create(&ReasonLabel { reason: reason.as_str() }));
        }
        for reason in [TlsFailure::Refused, TlsFailure::TooSlow] {
            drop(self.tls_failures.get_or_create(&ReasonLabel { reason: reason.as_str() }));
        }
        for reason in Eviction::ALL {
            drop(self.evictions.get_or_create(&ReasonLabel { reason: reason.as_str() }));
        }
        for outcome in ["succeeded", "failed"] {
            drop(self.reloads.get_or_create(&OutcomeLabel { outcome }));
        }
    }

    /// Everything, in the OpenMetrics text format, which Prometheus reads.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Reading {
    fn named(self) -> Named {
        let (name, help) = match self {
            Self::InFlightRequests => {
                ("gearway_in_flight_requests", "Requests that were admitted and not answered yet.")
            }
            Self::BytesInFlight => {
                ("gearway_bytes_in_flight", "Bytes of bodies that requests in flight hold.")
            }
            Self::Connections => ("gearway_connections", "Open connections of clients."),
            Self::ParkedRequests => ("gearway_parked_requests", "Requests that wait for a worker."),
        };
        Named { name, help }
    }
}

impl RetryReason {
    fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::NotRun => "not_run",
            Self::Idempotent => "idempotent",
        }
    }
}

impl AuthFailure {
    const ALL: [Self; 6] =
        [Self::Missing, Self::ApiKey, Self::AccessToken, Self::Signature, Self::Ambiguous, Self::AdminToken];

    fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::ApiKey => "api_key",
            Self::AccessToken => "access_token",
            Self::Signature => "signature",
            Self::Ambiguous => "ambiguous",
            Self::AdminToken => "admin_token",
        }
    }
}

impl TlsFailure {
    fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TooSlow => "too_slow",
        }
    }
}

impl Eviction {
    const ALL: [Self; 5] = [Self::Connection, Self::SlowBody, Self::SlowReader, Self::Full, Self::Address];

    fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::SlowBody => "slow_body",
            Self::SlowReader => "slow_reader",
            Self::Full => "full",
            Self::Address => "address",
        }
    }
}

/// A client may send any method, so those outside RFC 9110 and PATCH share one label, as OpenTelemetry says.
#[must_use]
pub fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(metrics: &Metrics) -> Vec<String> {
        metrics.encode().unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_request_lands_in_its_bucket() {
        let metrics = Metrics::new();
        let route: Arc<str> = "/foo/".into();
        metrics.observe_request(&Method::GET, Some(&route), 200, Duration::from_millis(30));
        let labels = r#"http_request_method="GET",http_route="/foo/",http_response_status_code="200""#;
        let lines = lines(&metrics);
        for (bound, count) in [("0.025", 0), ("0.05", 1), ("10.0", 1), ("+Inf", 1)] {
            let line =
                format!("http_server_request_duration_seconds_bucket{{le=\"{bound}\",{labels}}} {count}");
            assert!(lines.contains(&line), "{line}\n{lines:#?}");
        }
        assert!(lines.contains(&format!("http_server_request_duration_seconds_count{{{labels}}} 1")));
    }

    #[test]
    fn clients_cannot_make_up_label_values() {
        let metrics = Metrics::new();
        let made_up = Method::from_bytes(b"BREW").unwrap();
        metrics.observe_request(&made_up, None, 404, Duration::ZERO);
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"http_request_method="_OTHER",http_route="_unmatched""#), "{text}");
        assert!(!text.contains("BREW"), "{text}");
    }

    #[test]
    fn a_route_cannot_break_out_of_its_label() {
        let metrics = Metrics::new();
        metrics.observe_request(&Method::GET, Some(&"/a\"b\nc\\".into()), 200, Duration::ZERO);
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"http_route="/a\"b\nc\\""#), "{text}");
    }

    #[test]
    fn counters_count() {
        let metrics = Metrics::new();
        metrics.count_retry(RetryReason::NotSent);
        metrics.count_retry(RetryReason::NotSent);
        metrics.count_ejection(&"orders".into());
        metrics.count_auth_failure(AuthFailure::AdminToken);
        metrics.observe_call(&"orders".into(), Duration::from_secs(20));
        let lines = lines(&metrics);
        for line in [
            r#"gearway_retries_total{reason="not_sent"} 2"#,
            r#"gearway_ejections_total{worker="orders"} 1"#,
            r#"gearway_auth_failures_total{reason="admin_token"} 1"#,
            r#"gearway_worker_request_duration_seconds_bucket{le="10.0",worker="orders"} 0"#,
            r#"gearway_worker_request_duration_seconds_bucket{le="+Inf",worker="orders"} 1"#,
            concat!(r#"gearway_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ] {
            assert!(lines.iter().any(|found| found == line), "{line}\n{lines:#?}");
        }
    }

    #[test]
    fn readings_are_taken_when_asked_for() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let metrics = Metrics::new();
        let value = Arc::new(AtomicUsize::new(1));
        let source = Arc::clone(&value);
        metrics.watch(Reading::InFlightRequests, move || source.load(Ordering::SeqCst));
        metrics.watch_workers(|| [("live", 2), ("draining", 0)]);
        value.store(7, Ordering::SeqCst);
        let lines = lines(&metrics);
        for line in [
            "gearway_in_flight_requests 7",
            r#"gearway_workers{state="live"} 2"#,
            r#"gearway_workers{state="draining"} 0"#,
        ] {
            assert!(lines.iter().any(|found| found == line), "{line}\n{lines:#?}");
        }
        assert_eq!(lines.last().map(String::as_str), Some("# EOF"));
    }
}
