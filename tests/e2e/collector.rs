//! An OpenTelemetry collector inside the test: it takes OTLP over HTTP and reads it as protobuf.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use gearway_tests::server::Server;
use gearway_tests::tls::{Certificate, HOST};
use gearway_tests::{Answer, wait};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug)]
pub(crate) struct Collector {
    server: Server,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    spans: Vec<Told>,
    /// Of the resource that sent them.
    resource: BTreeMap<String, String>,
    headers: Vec<(String, String)>,
    bytes: Vec<u8>,
}

/// A span, with its ids and attributes as text.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) span: Span,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let taken = Arc::new(Mutex::new(Taken::default()));
        let into = Arc::clone(&taken);
        let server = Server::start(move |incoming| {
            assert_eq!((&*incoming.method, &*incoming.target), ("POST", "/v1/traces"));
            assert_eq!(incoming.header("content-type"), Some("application/x-protobuf"));
            let request = ExportTraceServiceRequest::decode(&*incoming.body).expect("OTLP");
            let mut taken = into.lock();
            taken.headers.clone_from(&incoming.headers);
            taken.bytes.extend_from_slice(&incoming.body);
            for of_resource in request.resource_spans {
                taken.resource = texts(of_resource.resource.unwrap_or_default().attributes);
                let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                taken.spans.extend(spans.map(Told::new));
            }
            Answer::Http { status: 200, headers: Vec::new(), body: Vec::new() }
        });
        Self { server, taken }
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// What the gateway's environment calls it.
    pub(crate) fn url(&self) -> String {
        url(self.server.address())
    }

    /// As [`url`](Self::url), behind TLS with this certificate; `wants` is what a caller has to show.
    pub(crate) async fn behind_tls(&self, certificate: &Certificate, wants: Option<&Certificate>) -> String {
        let acceptor = certificate.acceptor(wants);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let collector = self.server.address();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                tokio::spawn(async move {
                    let mut inner = TcpStream::connect(collector).await.expect("the collector");
                    tokio::io::copy_bidirectional(&mut stream, &mut inner).await.ok();
                });
            }
        });
        format!("https://{HOST}:{port}")
    }

    /// Every span so far.
    pub(crate) fn spans(&self) -> Vec<Told> {
        self.taken.lock().spans.clone()
    }

    /// Waits for so many spans of a trace, in the order in which they began.
    pub(crate) async fn trace(&self, id: &str, spans: usize) -> Vec<Told> {
        let mut found = wait::until(&format!("{spans} spans of the trace {id}"), async || {
            let found: Vec<_> = self.spans().into_iter().filter(|told| told.trace == id).collect();
            (found.len() >= spans).then_some(found)
        })
        .await;
        assert_eq!(found.len(), spans, "{found:#?}");
        found.sort_by_key(|told| told.span.start_time_unix_nano);
        found
    }

    pub(crate) fn resource(&self) -> BTreeMap<String, String> {
        self.taken.lock().resource.clone()
    }

    /// The headers of the last export.
    pub(crate) fn headers(&self) -> Vec<(String, String)> {
        self.taken.lock().headers.clone()
    }

    /// Everything that it got, as it came.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.taken.lock().bytes.clone()
    }
}

pub(crate) fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

impl Told {
    fn new(span: Span) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Self {
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            attributes: texts(span.attributes.clone()),
            span,
        }
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().map(|KeyValue { key, value, .. }| (key, text(value))).collect()
}
