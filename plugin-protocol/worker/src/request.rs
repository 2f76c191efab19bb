use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gearway_protocol::{AccessKeyType, Delivery, Envelope};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::HandlerError;

/// What the client sent, and what the gateway knows about it. Cloning is cheap.
#[derive(Clone)]
pub struct Request(Arc<Inner>);

struct Inner {
    handler_name: String,
    method: Method,
    path: String,
    raw_path: String,
    query_string: String,
    params: BTreeMap<String, String>,
    headers: HeaderMap,
    body: Bytes,
    remote_addr: String,
    request_id: String,
    user_id: Option<String>,
    access_key_type: Option<AccessKeyType>,
    deadline: Option<Instant>,
    traceparent: Option<String>,
    delivery: Option<Delivery>,
    state: Arc<States>,
}

/// The values that were given to [`Worker::state`](crate::Worker::state), one a type.
pub(crate) type States = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

impl Request {
    /// # Errors
    /// What in the envelope cannot be a request.
    pub(crate) fn new(
        envelope: Envelope,
        traceparent: Option<String>,
        state: Arc<States>,
    ) -> Result<Self, String> {
        let Envelope { kind: _, name, context, param } = envelope;
        let method = Method::from_bytes(param.method.as_bytes())
            .map_err(|_| format!("param.method {:?} is no method", param.method))?;
        let mut headers = HeaderMap::with_capacity(param.header.len());
        for (name, values) in param.header {
            let header_name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| format!("param.header: {name:?} is no header name"))?;
            for value in values {
                let value = latin1(&value)
                    .and_then(|bytes| HeaderValue::from_maybe_shared(bytes).ok())
                    .ok_or_else(|| format!("param.header.{name}: not a header value in Latin-1"))?;
                headers.append(header_name.clone(), value);
            }
        }
        Ok(Self(Arc::new(Inner {
            handler_name: name,
            method,
            path: param.path,
            raw_path: param.raw_path,
            query_string: param.query_string,
            params: param.params,
            headers,
            body: param.body.0.into(),
            remote_addr: param.remote_addr,
            request_id: context.request_id,
            user_id: context.user_id,
            access_key_type: context.access_key_type,
            deadline: context
                .timeout_ms
                .and_then(|timeout| Instant::now().checked_add(Duration::from_millis(timeout))),
            traceparent,
            delivery: context.delivery,
            state,
        })))
    }

    /// The method, as it came.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.0.method
    }

    /// The path, percent-decoded; the form that was matched.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The path as it came.
    #[must_use]
    pub fn raw_path(&self) -> &str {
        &self.0.raw_path
    }

    /// What follows the `?`, still encoded; empty when there is none.
    #[must_use]
    pub fn query_string(&self) -> &str {
        &self.0.query_string
    }

    /// Path and query, `path?query`. As in Werkzeug the path is decoded, and the `?` is there even without a query.
    #[must_use]
    pub fn full_path(&self) -> String {
        format!("{}?{}", self.path(), self.query_string())
    }

    /// The query's names and values, decoded, in order. [`Query`](crate::Query) gives them types.
    pub fn query_pairs(&self) -> impl Iterator<Item = (String, String)> + '_ {
        form_urlencoded::parse(self.query_string().as_bytes()).into_owned()
    }

    /// What the `{param}` segments of the handler's name stood for. [`Path`](crate::Path) gives them types.
    #[must_use]
    pub fn params(&self) -> &BTreeMap<String, String> {
        &self.0.params
    }

    /// What `{name}` in the handler's name stood for.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.0.params.get(name).map(String::as_str)
    }

    /// The client's end-to-end headers. `Host` is always there, and `Content-Length` whenever there is a body.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    /// A header's first value, when it is visible ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body, byte for byte as the client sent it.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// The body as text.
    ///
    /// # Errors
    /// 400 `BadRequest` when it is not UTF-8.
    pub fn text(&self) -> Result<&str, HandlerError> {
        str::from_utf8(self.body()).map_err(|_| HandlerError::bad_request("the body is not UTF-8"))
    }

    /// The client's address, without a port.
    #[must_use]
    pub fn remote_addr(&self) -> &str {
        &self.0.remote_addr
    }

    /// The id that the client sees as `X-Request-Id`.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.0.request_id
    }

    /// The authenticated user.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.0.user_id.as_deref()
    }

    /// The kind of API key that the client presented.
    #[must_use]
    pub fn access_key_type(&self) -> Option<AccessKeyType> {
        self.0.access_key_type
    }

    /// When the gateway will have stopped waiting for the reply. The handler is not interrupted then.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// The W3C trace context that the gateway sent with the call.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.0.traceparent.as_deref()
    }

    /// The client's `tracestate`; [`None`] unless the call belongs to the client's trace.
    #[must_use]
    pub fn tracestate(&self) -> Option<String> {
        // Digits of the trace, between the version and the span.
        let (sent, got) = (self.header("traceparent")?.get(3..35)?, self.traceparent()?.get(3..35)?);
        let values: Vec<&str> = self
            .headers()
            .get_all("tracestate")
            .iter()
            .map(HeaderValue::to_str)
            .collect::<Result<_, _>>()
            .ok()?;
        (sent == got && !values.is_empty()).then(|| values.join(","))
    }

    /// The headers with which a request that the handler sends belongs to the same trace: `traceparent` and, when there is one,
    /// `tracestate`.
    #[must_use]
    pub fn trace_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [("traceparent", self.0.traceparent.clone()), ("tracestate", self.tracestate())]
        {
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                headers.insert(name, value);
            }
        }
        headers
    }

    /// Which delivery of the gateway's log this call is an attempt of; [`None`] for a request that was not kept.
    #[must_use]
    pub fn delivery(&self) -> Option<&Delivery> {
        self.0.delivery.as_ref()
    }

    /// The name that the handler was registered with.
    #[must_use]
    pub fn handler_name(&self) -> &str {
        &self.0.handler_name
    }

    pub(crate) fn state<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        Arc::clone(self.0.state.get(&TypeId::of::<T>())?).downcast().ok()
    }
}

impl fmt::Debug for Request {
    /// Headers, query and body hold other people's data: they are not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("handler_name", &self.handler_name())
            .field("method", self.method())
            .field("path", &self.path())
            .field("request_id", &self.request_id())
            .finish_non_exhaustive()
    }
}

/// The bytes that a header value's characters stand for.
fn latin1(text: &str) -> Option<Bytes> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<u8>>>().map(Bytes::from)
}
