//! Spans for an OpenTelemetry collector: a bounded queue, and a thread that empties it. Requests only ever put something into the queue, or drop
//! it when the queue is full.

mod sampler;

use std::env;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use http::Version;
use http::uri::Authority;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SpanData, SpanEvents, SpanExporter, SpanLinks, SpanProcessor,
};
use prometheus_client::metrics::counter::Counter;
use reqwest::blocking::Client;
use reqwest::{Certificate, Identity, redirect};
use tracing::{info, warn};

use self::sampler::Sampler;
use super::{CallEnd, CallSpan, Recording, Served};
use crate::telemetry::{Metrics, method_label};

/// How long the end of the gateway waits for the collector.
const LAST_EXPORT: Duration = Duration::from_secs(3);
/// OpenTelemetry's own default.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Tells a collector of spans.
#[derive(Clone)]
pub struct Tracer(Arc<Inner>);

struct Inner {
    processor: BatchSpanProcessor,
    sampler: Sampler,
    scope: InstrumentationScope,
}

/// Says in the log when the collector stops taking spans, and when it takes them again: once each.
#[derive(Debug)]
struct Telling {
    exporter: OtlpExporter,
    failing: AtomicBool,
    taken: Counter,
    refused: Counter,
}

impl Tracer {
    /// The tracer that OpenTelemetry's variables describe; [`None`] unless they name a collector.
    ///
    /// # Errors
    /// When they name one that cannot be used.
    pub fn from_environment(metrics: &Metrics) -> anyhow::Result<Option<Self>> {
        let names_collector =
            given("OTEL_EXPORTER_OTLP_ENDPOINT").or_else(|| given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"));
        let disabled = given("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || given("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        if names_collector.is_none() || disabled {
            return Ok(None);
        }
        for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            if let Some(protocol) = given(name).filter(|protocol| protocol != "http/protobuf") {
                warn!(name, protocol, "traces are exported as http/protobuf, whatever else is asked for");
            }
        }
        let sampler = Sampler::from_environment()?;
        let exporter = OtlpExporter::builder()
            .with_http()
            .with_http_client(client()?)
            .build()
            .context("OTEL_EXPORTER_OTLP_ENDPOINT cannot be used")?;
        let exporter = Telling {
            exporter,
            failing: AtomicBool::new(false),
            taken: Counter::default(),
            refused: Counter::default(),
        };
        let help = "Spans that the collector took, and those that it did not";
        metrics.register_with(|registry| {
            let registry = registry.sub_registry_with_prefix("gearway_trace_spans");
            registry.register("exported", help, exporter.taken.clone());
            registry.register("failed", help, exporter.refused.clone());
        });
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource());
        let scope = InstrumentationScope::builder("gearway").with_version(env!("CARGO_PKG_VERSION")).build();
        info!("traces are exported to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names");
        Ok(Some(Self(Arc::new(Inner { processor, sampler, scope }))))
    }

    /// Whether spans of this trace are recorded. `parent` is the flags that the client sent.
    pub(super) fn samples(&self, trace: u128, parent: Option<u8>) -> bool {
        self.0.sampler.samples(trace, parent)
    }

    /// Ends the span of a request. Nothing of its query, headers or body is said, since there may be secrets in them.
    pub(super) fn served(&self, recording: &Recording, request: &Served<'_>) {
        let head = request.head;
        let (method, original) = match method_label(&head.method) {
            "_OTHER" => ("_OTHER", Some(head.method.to_string())),
            known => (known, None),
        };
        let name = match request.route {
            Some(route) => format!("{} {route}", if method == "_OTHER" { "HTTP" } else { method }),
            None => (if method == "_OTHER" { "HTTP" } else { method }).to_owned(),
        };
        let error = match request.status {
            None => Some("client_gone".to_owned()),
            Some(500..) => Some(request.error.map_or_else(|| word(request.status), str::to_owned)),
            Some(_) => None,
        };
        let mut attributes = vec![
            KeyValue::new("http.request.method", method),
            KeyValue::new("url.scheme", if request.is_tls { "https" } else { "http" }),
            KeyValue::new("url.path", head.uri.path().to_owned()),
            KeyValue::new("network.protocol.version", version(head.version)),
            KeyValue::new("network.peer.address", request.peer.to_string()),
            KeyValue::new("client.address", request.client.to_string()),
            KeyValue::new("gearway.request_id", request.request_id.to_owned()),
        ];
        let host = head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        if let Some(host) = head.uri.authority().map(Authority::as_str).or(host) {
            push_server(&mut attributes, host);
        }
        let optional = [
            ("http.request.method_original", original),
            ("http.route", request.route.map(str::to_owned)),
            ("gearway.worker.name", request.worker.map(str::to_owned)),
            ("error.type", error.clone()),
        ];
        attributes.extend(optional.into_iter().filter_map(|(key, value)| Some(KeyValue::new(key, value?))));
        if let Some(status) = request.status {
            attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
        }
        // In this order: a thread that is held up between the two lets the span begin too early, and never after a call that is part of it.
        let ended = SystemTime::now();
        let took = request.arrived.elapsed();
        self.0.processor.on_end(SpanData {
            span_context: span_context(recording, recording.context.span),
            parent_span_id: recording.parent.map_or(SpanId::INVALID, span_id),
            parent_span_is_remote: recording.parent.is_some(),
            span_kind: SpanKind::Server,
            name: name.into(),
            start_time: ended.checked_sub(took).unwrap_or(ended),
            status: status(error.is_some()),
            ..self.span(ended, attributes)
        });
    }

    /// Ends the span of a call to a worker.
    pub(super) fn called(&self, span: &CallSpan, end: CallEnd) {
        let call = &span.call;
        let (status_code, error) = match end {
            CallEnd::Replied(status) => (Some(status), (status >= 400).then(|| status.to_string())),
            CallEnd::Failed(word) => (None, Some(word.to_owned())),
        };
        let mut attributes = vec![
            KeyValue::new("http.request.method", "POST"),
            KeyValue::new("gearway.worker.name", call.worker.clone()),
            KeyValue::new("gearway.worker.id", call.worker_id.clone()),
            KeyValue::new("gearway.handler", call.handler.clone()),
        ];
        push_server(&mut attributes, &call.address);
        if call.resends > 0 {
            let resends = i64::try_from(call.resends).unwrap_or(i64::MAX);
            attributes.push(KeyValue::new("http.request.resend_count", resends));
        }
        if let Some(status) = status_code {
            attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
        }
        if let Some(error) = error.clone() {
            attributes.push(KeyValue::new("error.type", error));
        }
        self.0.processor.on_end(SpanData {
            span_context: span_context(&span.recording, span.id),
            parent_span_id: span_id(span.recording.context.span),
            parent_span_is_remote: false,
            span_kind: SpanKind::Client,
            name: "POST".into(),
            start_time: span.started,
            status: status(error.is_some()),
            ..self.span(SystemTime::now(), attributes)
        });
    }

    /// Sends what waits. It blocks, for some seconds at most.
    pub fn shut_down(&self) {
        if let Err(error) = self.0.processor.shutdown_with_timeout(LAST_EXPORT) {
            warn!(%error, "the last spans did not reach the collector");
        }
    }

    fn span(&self, ended: SystemTime, attributes: Vec<KeyValue>) -> SpanData {
        SpanData {
            span_context: SpanContext::NONE,
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: "".into(),
            start_time: ended,
            end_time: ended,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.0.scope.clone(),
        }
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("sampler", &self.0.sampler).finish_non_exhaustive()
    }
}

impl SpanExporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        match &result {
            Ok(()) => {
                self.taken.inc_by(spans as u64);
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!("the collector takes traces again");
                }
            }
            Err(error) => {
                self.refused.inc_by(spans as u64);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    warn!(%error, spans, "the collector takes no traces; they are dropped until it does");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// A collector is asked by its address alone: no proxy of the environment, and no place that an answer names.
fn client() -> anyhow::Result<Client> {
    let timeout = given_for_traces("TIMEOUT")
        .and_then(|(_, text)| text.parse().ok())
        .map_or(EXPORT_TIMEOUT, Duration::from_millis);
    let mut builder = Client::builder().timeout(timeout).no_proxy().redirect(redirect::Policy::none());
    if let Some((name, authority)) = file_for_traces("CERTIFICATE")? {
        let certificates = Certificate::from_pem_bundle(&authority)
            .ok()
            .filter(|certificates| !certificates.is_empty())
            .with_context(|| format!("{name} has no certificate"))?;
        builder = builder.tls_certs_only(certificates);
    }
    match (file_for_traces("CLIENT_CERTIFICATE")?, file_for_traces("CLIENT_KEY")?) {
        (None, None) => {}
        (Some((name, certificate)), Some((_, key))) => {
            let identity = Identity::from_pem(&[key, certificate].concat());
            builder = builder.identity(
                identity.with_context(|| format!("{name} and its key are no certificate and key"))?,
            );
        }
        (Some((name, _)), None) => bail!("{name} has no key; OTEL_EXPORTER_OTLP_CLIENT_KEY names it"),
        (None, Some((name, _))) => {
            bail!("{name} has no certificate; OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE names it")
        }
    }
    builder.build().context("cannot make a client for OTEL_EXPORTER_OTLP_ENDPOINT")
}

/// The variable that is set for traces, or else that for everything, and what it says.
fn given_for_traces(what: &str) -> Option<(String, String)> {
    [format!("OTEL_EXPORTER_OTLP_TRACES_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")]
        .into_iter()
        .find_map(|name| given(&name).map(|value| (name, value)))
}

fn file_for_traces(what: &str) -> anyhow::Result<Option<(String, Vec<u8>)>> {
    let Some((name, file)) = given_for_traces(what) else { return Ok(None) };
    let text = std::fs::read(&file).with_context(|| format!("{name}: cannot read {file}"))?;
    Ok(Some((name, text)))
}

fn given(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before what the gateway says of itself.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let named = given("OTEL_SERVICE_NAME").is_some()
        || given("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|text| text.contains("service.name="));
    let builder = Resource::builder().with_attribute(version);
    if named { builder.build() } else { builder.with_service_name("gearway").build() }
}

fn span_context(recording: &Recording, span: u64) -> SpanContext {
    let state = recording.state.as_ref().and_then(|state| state.to_str().ok());
    let state = state.and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
    let trace = TraceId::from_bytes(recording.context.trace.to_be_bytes());
    SpanContext::new(trace, span_id(span), TraceFlags::new(recording.context.flags), false, state)
}

fn span_id(number: u64) -> SpanId {
    SpanId::from_bytes(number.to_be_bytes())
}

fn status(failed: bool) -> Status {
    if failed { Status::error("") } else { Status::Unset }
}

fn word(status: Option<u16>) -> String {
    status.map(|status| status.to_string()).unwrap_or_default()
}

fn push_server(attributes: &mut Vec<KeyValue>, authority: &str) {
    let Ok(authority) = authority.parse::<Authority>() else { return };
    attributes.push(KeyValue::new("server.address", authority.host().to_owned()));
    if let Some(port) = authority.port_u16() {
        attributes.push(KeyValue::new("server.port", i64::from(port)));
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}
