//! W3C trace context: the trace that a request belongs to, and the spans that a collector is told of.

mod context;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(not(feature = "otlp"))]
#[path = "trace/without_otlp.rs"]
mod otlp;

use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use self::context::Context;
pub(crate) use self::context::random_id;
pub use self::otlp::Tracer;
use crate::registry::Offer;

/// A request's trace, and whether its spans are recorded.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The gateway's span of the request.
    traceparent: HeaderValue,
    recording: Option<Recording>,
}

/// What recording takes. No request has one unless a collector was named.
#[derive(Debug, Clone)]
struct Recording {
    tracer: Tracer,
    context: Context,
    /// The client's span; [`None`] where the trace begins with the gateway.
    parent: Option<u64>,
    /// As the client sent it.
    state: Option<HeaderValue>,
}

/// What the gateway's span of a request says at its end.
#[derive(Debug)]
pub(crate) struct Served<'a> {
    pub(crate) head: &'a Parts,
    pub(crate) is_tls: bool,
    pub(crate) request_id: &'a str,
    pub(crate) route: Option<&'a str>,
    pub(crate) worker: Option<&'a str>,
    pub(crate) peer: IpAddr,
    pub(crate) client: IpAddr,
    /// [`None`] when the client went away before there was one.
    pub(crate) status: Option<u16>,
    /// The name of the error that it was answered with.
    pub(crate) error: Option<&'static str>,
    pub(crate) arrived: Instant,
}

/// The span of one call to a worker, while it lasts.
#[derive(Debug)]
pub(crate) struct CallSpan {
    recording: Recording,
    id: u64,
    traceparent: HeaderValue,
    started: SystemTime,
    call: Called,
}

/// Which call it is.
#[derive(Debug)]
struct Called {
    worker: String,
    worker_id: String,
    handler: String,
    /// Host and port.
    address: String,
    resends: usize,
}

/// How a call to a worker ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CallEnd {
    Replied(u16),
    /// By a word that does not depend on the request.
    Failed(&'static str),
}

impl Trace {
    /// The client's trace with a span of the gateway's, or a trace that begins here.
    #[must_use]
    pub fn of_request(headers: &HeaderMap, request_id: &str, tracer: Option<&Tracer>) -> Self {
        match tracer {
            None => Self { traceparent: context::continued(headers, request_id), recording: None },
            Some(tracer) => {
                let traceparent = context::continued(headers, request_id);
                let parent = context::parent(headers);
                let Some(context) = Context::read(&traceparent) else {
                    return Self { traceparent, recording: None };
                };
                let context =
                    context.sampled(tracer.samples(context.trace, parent.map(|parent| parent.flags)));
                let state = parent.and_then(|_| headers.get("tracestate").cloned());
                let recording = context.is_sampled().then(|| Recording {
                    tracer: tracer.clone(),
                    context,
                    parent: parent.map(|parent| parent.span),
                    state,
                });
                Self { traceparent: context.to_header(), recording }
            }
        }
    }

    /// The trace of a request that was kept, whose own span has ended.
    #[must_use]
    pub fn resumed(traceparent: &str, tracer: Option<&Tracer>) -> Self {
        let traceparent = HeaderValue::from_str(traceparent).unwrap_or(HeaderValue::from_static(""));
        let recording = tracer.and_then(|tracer| {
            let context = Context::read(&traceparent).filter(|context| context.is_sampled())?;
            Some(Recording { tracer: tracer.clone(), context, parent: None, state: None })
        });
        Self { traceparent, recording }
    }

    /// What a worker gets whose call has no span of its own.
    #[must_use]
    pub fn traceparent(&self) -> &HeaderValue {
        &self.traceparent
    }

    /// 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.traceparent.to_str().ok()?.get(3..35)
    }

    /// Begins the span of a call to the replica that the offer is of.
    pub(crate) fn begin_call(&self, offer: &Offer, resends: usize) -> Option<Box<CallSpan>> {
        let recording = self.recording.as_ref()?;
        let replica = &offer.replica;
        let id = context::random_span();
        let context = Context { span: id, ..recording.context };
        Some(Box::new(CallSpan {
            recording: recording.clone(),
            id,
            traceparent: context.to_header(),
            started: SystemTime::now(),
            call: Called {
                worker: replica.name().to_owned(),
                worker_id: replica.id.to_string(),
                handler: offer.name().to_owned(),
                address: replica.url.host_header().to_str().unwrap_or_default().to_owned(),
                resends,
            },
        }))
    }

    /// Ends the gateway's own span. The description is asked for only if somebody is told.
    pub(crate) fn end<'a>(&self, describe: impl FnOnce() -> Served<'a>) {
        if let Some(recording) = &self.recording {
            recording.tracer.served(recording, &describe());
        }
    }
}

impl CallSpan {
    /// What the worker gets.
    pub(crate) fn traceparent(&self) -> &HeaderValue {
        &self.traceparent
    }

    pub(crate) fn end(self, end: CallEnd) {
        self.recording.tracer.clone().called(&self, end);
    }
}
