//! Traces: from the client through the gateway to the worker, and to a collector.

use std::time::{Duration, Instant};

use gearway_tests::server::Server;
use gearway_tests::tls::Certificate;
use gearway_tests::{Answer, Gate, Gateway, Registration, Request, ScriptedWorker, process, wait};
use gearway_worker::Settings;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::json;
use tempfile::TempDir;

use crate::collector::{Collector, Told, url};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";

/// A gateway that tells the collector soon.
fn traced(collector: &str) -> gearway_tests::gateway::Builder {
    Gateway::builder().env("OTEL_EXPORTER_OTLP_ENDPOINT", collector).env("OTEL_BSP_SCHEDULE_DELAY", "20")
}

fn sampled(request: Request) -> Request {
    request.header("traceparent", format!("00-{TRACE}-{CLIENT}-01"))
}

async fn worker(gateway: &Gateway) -> ScriptedWorker {
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("orders")
        .handler("orders/")
        .handler_with(json!({"name": "again", "idempotent": true}))
        .handler_with(json!({"name": "kept", "delivery": {"mode": "durable"}}))
        .handler_with(json!({"name": "keyed", "key_required": true}));
    worker.register(gateway, &registration).await;
    worker
}

fn kind(told: &Told) -> SpanKind {
    told.span.kind()
}

fn code(told: &Told) -> StatusCode {
    told.span.status.as_ref().map(|status| status.code()).unwrap_or_default()
}

#[tokio::test]
async fn a_trace_leads_from_the_client_through_the_gateway_to_the_worker() {
    let collector = Collector::start();
    let gateway = traced(&collector.url())
        .env("OTEL_SERVICE_NAME", "edge")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=t1")
        .start()
        .await;
    let worker = worker(&gateway).await;
    let request = sampled(Request::get("/orders/7?secret=of-the-query")).header("tracestate", "vendor=1");
    let response = gateway.send(request).await.expect_status(200);

    let spans = collector.trace(TRACE, 2).await;
    let [server, call] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!((kind(server), &*server.parent), (SpanKind::Server, CLIENT));
    assert_eq!((kind(call), &call.parent), (SpanKind::Client, &server.id));
    assert_eq!(server.span.name, "GET /orders/");
    assert_eq!(server.span.trace_state, "vendor=1");
    assert!(server.span.start_time_unix_nano <= call.span.start_time_unix_nano);
    assert!(server.span.end_time_unix_nano >= call.span.end_time_unix_nano);
    let request_id = response.header("x-request-id").expect("an id");
    let port = gateway.public_address().port().to_string();
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/orders/"),
        ("http.response.status_code", "200"),
        ("url.path", "/orders/7"),
        ("url.scheme", "http"),
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
        ("client.address", "127.0.0.1"),
        ("network.peer.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("gearway.request_id", &request_id),
        ("gearway.worker.name", "orders"),
    ] {
        assert_eq!(server.attribute(name), Some(value), "{name}: {:#?}", server.attributes);
    }
    let port = worker.address().port().to_string();
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
        ("gearway.worker.name", "orders"),
        ("gearway.handler", "orders/"),
    ] {
        assert_eq!(call.attribute(name), Some(value), "{name}: {:#?}", call.attributes);
    }
    for told in [server, call] {
        assert_eq!((code(told), told.attribute("error.type")), (StatusCode::Unset, None));
    }

    // The worker is a child of the call that it got.
    let got = worker.last_call();
    assert_eq!(got.http.header("traceparent"), Some(&*format!("00-{TRACE}-{}-01", call.id)));
    assert_eq!(got.envelope["param"]["header"]["Tracestate"], json!(["vendor=1"]));

    let resource = collector.resource();
    assert_eq!(resource.get("service.name").map(String::as_str), Some("edge"));
    assert!(resource.contains_key("service.version"), "{resource:?}");
    assert_eq!(resource.get("deployment.environment.name").map(String::as_str), Some("test"));
    assert!(collector.headers().contains(&("x-tenant".into(), "t1".into())), "{:?}", collector.headers());
    let bytes = collector.bytes();
    assert!(!bytes.windows(12).any(|window| window == b"of-the-query"), "the query is nobody's business");
}

/// The handler sees the gateway's span as its parent, and passes it on.
#[tokio::test]
async fn a_handler_of_the_sdk_continues_the_trace() {
    let collector = Collector::start();
    let gateway = traced(&collector.url()).start().await;
    let mut settings = Settings::new("sdk");
    settings.gateway = format!("http://{}", gateway.admin_address()).parse().expect("a URL");
    settings.token = Some(gateway.registration_token());
    let worker = gearway_worker::Worker::new(settings).handler(
        "passes-on",
        async |request: gearway_worker::Request| {
            let headers = request.trace_headers();
            let text = |name: &str| headers[name].to_str().expect("text").to_owned();
            gearway_worker::Json(json!([text("traceparent"), text("tracestate")]))
        },
    );
    let end = Gate::default();
    let ended = end.clone();
    let running = tokio::spawn(worker.run_until(async move { ended.opened().await }));
    gateway.admin().wait_for_route("/passes-on").await;
    let request = sampled(Request::get("/passes-on")).header("tracestate", "vendor=1");
    let passed_on = gateway.send(request).await.expect_status(200).json();
    let spans = collector.trace(TRACE, 2).await;
    assert_eq!(spans[1].parent, spans[0].id);
    assert_eq!(passed_on, json!([format!("00-{TRACE}-{}-01", spans[1].id), "vendor=1"]));
    end.open();
    running.await.expect("no panic").expect("a worker that ends well");
}

#[tokio::test]
async fn what_fails_says_why() {
    let collector = Collector::start();
    let gateway = traced(&collector.url()).start().await;
    let worker = worker(&gateway).await;
    let count = std::sync::atomic::AtomicUsize::new(0);
    worker.script(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => Answer::close(),
        1 => Answer::text("second"),
        _ => Answer::raw("nonsense"),
    });
    let trace = |number: u32| format!("{number:032x}");
    let with = |number: u32, target: &str| {
        Request::post(target, "x").header("traceparent", format!("00-{}-{CLIENT}-01", trace(number)))
    };

    // A call that is lost and sent again: each has a span.
    drop(gateway.send(with(1, "/again")).await.expect_status(200));
    let spans = collector.trace(&trace(1), 3).await;
    assert_eq!(spans[1].attribute("error.type"), Some("connection_lost"));
    assert_eq!(code(&spans[1]), StatusCode::Error);
    assert_eq!(spans[2].attribute("http.request.resend_count"), Some("1"));
    assert_eq!(code(&spans[2]), StatusCode::Unset);
    let got = worker
        .calls()
        .iter()
        .map(|call| call.http.header("traceparent").map(str::to_owned))
        .collect::<Vec<_>>();
    let sent: Vec<_> =
        spans[1..].iter().map(|told| Some(format!("00-{}-{}-01", trace(1), told.id))).collect();
    assert_eq!(got, sent);

    // The worker's fault is an error of the gateway's span too; the client's is not.
    drop(gateway.send(with(2, "/orders/1")).await.expect_status(502));
    let spans = collector.trace(&trace(2), 2).await;
    assert_eq!(spans[0].attribute("error.type"), Some("UnexpectedError"));
    assert_eq!(code(&spans[0]), StatusCode::Error);
    drop(gateway.send(with(3, "/keyed")).await.expect_status(401));
    let spans = collector.trace(&trace(3), 1).await;
    assert_eq!(spans[0].attribute("http.response.status_code"), Some("401"));
    assert_eq!((code(&spans[0]), spans[0].attribute("error.type")), (StatusCode::Unset, None));

    // A method that the client made up is no name of a span.
    let brew = Request::new("BREW", "/keyed").header("traceparent", format!("00-{}-{CLIENT}-01", trace(4)));
    drop(gateway.send(brew).await.expect_status(404));
    let spans = collector.trace(&trace(4), 1).await;
    assert_eq!(spans[0].span.name, "HTTP /keyed");
    assert_eq!(spans[0].attribute("http.request.method"), Some("_OTHER"));
    assert_eq!(spans[0].attribute("http.request.method_original"), Some("BREW"));
}

/// Attempts come after the response, and belong to the request's trace all the same.
#[tokio::test]
async fn deliveries_stay_in_their_trace() {
    let collector = Collector::start();
    let gateway = traced(&collector.url()).start().await;
    let worker = worker(&gateway).await;
    drop(gateway.send(sampled(Request::post("/kept", "x"))).await.expect_status(200));
    let spans = collector.trace(TRACE, 2).await;
    let (server, call) = match kind(&spans[0]) {
        SpanKind::Server => (&spans[0], &spans[1]),
        _ => (&spans[1], &spans[0]),
    };
    assert_eq!((&*server.parent, &call.parent), (CLIENT, &server.id));
    assert_eq!(worker.last_call().http.header("traceparent"), Some(&*format!("00-{TRACE}-{}-01", call.id)));
}

#[tokio::test]
async fn who_began_the_trace_decides_whether_it_is_recorded() {
    let collector = Collector::start();
    let gateway = traced(&collector.url()).start().await;
    let worker = worker(&gateway).await;
    let unsampled = Request::get("/orders/1").header("traceparent", format!("00-{TRACE}-{CLIENT}-00"));
    drop(gateway.send(unsampled).await.expect_status(200));
    let flags = |call: &gearway_tests::Call| call.http.header("traceparent").expect("one")[53..].to_owned();
    assert_eq!(flags(&worker.last_call()), "00");
    // A request without a trace begins one.
    drop(gateway.get("/orders/2").await.expect_status(200));
    let begun = worker.last_call();
    assert_eq!(flags(&begun), "01");
    let id = begun.http.header("traceparent").expect("one")[3..35].to_owned();
    let spans = collector.trace(&id, 2).await;
    assert_eq!(spans[0].parent, "");
    // Exported in order, so the first would have come before.
    assert!(collector.spans().iter().all(|told| told.trace != TRACE));

    let off = traced(&collector.url()).env("OTEL_TRACES_SAMPLER", "parentbased_always_off").start().await;
    let other = self::worker(&off).await;
    drop(off.get("/orders/1").await.expect_status(200));
    assert_eq!(flags(&other.last_call()), "00");
    drop(off.send(sampled(Request::get("/orders/2"))).await.expect_status(200));
    assert_eq!(flags(&other.last_call()), "01");
    collector.trace(TRACE, 2).await;
}

/// Nobody waits for a collector: not the requests, and at the end not for long.
#[tokio::test]
async fn a_collector_that_does_not_answer_holds_up_nothing() {
    let gate = Gate::default();
    let held = gate.clone();
    let stuck = Server::start(move |_| Answer::close().after(&held));
    let dead = gearway_tests::port::ReservedPort::take();
    for address in [stuck.address(), dead.address()] {
        let gateway = traced(&url(address)).env("OTEL_BSP_MAX_QUEUE_SIZE", "16").start().await;
        let _worker = worker(&gateway).await;
        let mut connection = gateway.connect().await;
        // Far more spans than the queue has room for.
        for _ in 0..200 {
            let response = connection.request(&Request::get("/orders/1")).await.expect("a response");
            assert_eq!(response.status, 200);
        }
        if address == dead.address() {
            gateway.wait_for_log("it says so", |line| line.contains("the collector takes no traces")).await;
            let told = gateway.log().iter().filter(|line| line.contains("takes no traces")).count();
            assert_eq!(told, 1, "once, not for each attempt");
        }
        let begun = Instant::now();
        assert!(gateway.sigterm().await.success());
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }
    gate.open();
}

/// What the collector missed while it was away is lost, and what comes after is not.
#[tokio::test]
async fn a_collector_that_comes_back_is_told_again() {
    let collector = Collector::start();
    let gateway = traced(&collector.url()).start().await;
    let _worker = worker(&gateway).await;
    collector.server().refuse().await;
    drop(gateway.get("/orders/1").await.expect_status(200));
    gateway.wait_for_log("the loss", |line| line.contains("the collector takes no traces")).await;
    collector.server().accept();
    drop(gateway.send(sampled(Request::get("/orders/2"))).await.expect_status(200));
    collector.trace(TRACE, 2).await;
    gateway.wait_for_log("the return", |line| line.contains("the collector takes traces again")).await;
}

/// The spans that wait when the gateway is told to end.
#[tokio::test]
async fn the_last_spans_are_sent_before_the_end() {
    let collector = Collector::start();
    let gateway = traced(&collector.url()).env("OTEL_BSP_SCHEDULE_DELAY", "3600000").start().await;
    let _worker = worker(&gateway).await;
    drop(gateway.send(sampled(Request::get("/orders/1"))).await.expect_status(200));
    assert!(gateway.sigterm().await.success());
    collector.trace(TRACE, 2).await;
}

#[tokio::test]
async fn a_setting_that_means_nothing_ends_the_start() {
    for (name, value) in [
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "no url"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/nowhere"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = gearway_tests::gateway::gearway(&["serve"]);
        command.current_dir(dir.path());
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9").env(name, value);
        command.env("GEARWAY_PUBLIC__LISTEN", "127.0.0.1:0").env("GEARWAY_ADMIN__LISTEN", "127.0.0.1:0");
        let finished = process::run(command).await;
        assert_eq!(finished.code(), 1, "{finished:?}");
        assert!(finished.output().contains(name), "{finished:?}");
    }
}

/// Without a collector's name nothing is exported, and the client's decision passes through untouched.
#[tokio::test]
async fn without_a_collector_the_flags_are_the_clients() {
    let gateway = Gateway::start("").await;
    let worker = worker(&gateway).await;
    for (sent, flags) in [(Some("01"), "01"), (Some("00"), "00"), (None, "00")] {
        let mut request = Request::get("/orders/1");
        if let Some(sent) = sent {
            request = request.header("traceparent", format!("00-{TRACE}-{CLIENT}-{sent}"));
        }
        drop(gateway.send(request).await.expect_status(200));
        let got = worker.last_call();
        assert_eq!(&got.http.header("traceparent").expect("one")[53..], flags);
    }
}

/// By the authority that is named, and nobody else's; a collector may want to know its callers, too.
#[tokio::test]
async fn a_collector_behind_tls_is_known_by_its_certificate() {
    let [certificate, own, other] = [(); 3].map(|()| Certificate::make());
    let [folder, own_folder, other_folder] = [&certificate, &own, &other].map(|certificate| {
        let folder = tempfile::tempdir().expect("a folder");
        certificate.write(folder.path());
        folder
    });
    let file = |folder: &TempDir, name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let told = async |collector: &Collector, url: &str, ca: &TempDir, own: Option<&TempDir>| {
        let mut builder = traced(url).env("OTEL_EXPORTER_OTLP_CERTIFICATE", &file(ca, "cert.pem"));
        if let Some(own) = own {
            builder = builder
                .env("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &file(own, "cert.pem"))
                .env("OTEL_EXPORTER_OTLP_CLIENT_KEY", &file(own, "key.pem"));
        }
        let gateway = builder.start().await;
        let _worker = worker(&gateway).await;
        drop(gateway.send(sampled(Request::get("/orders/7"))).await.expect_status(200));
        let taken = async || collector.spans().iter().any(|told| told.trace == TRACE).then_some(true);
        let refused = async || {
            gateway.log().iter().any(|line| line.contains("the collector takes no traces")).then_some(false)
        };
        wait::until("the collector has answered", async || taken().await.or(refused().await)).await
    };

    let collector = Collector::start();
    let url = collector.behind_tls(&certificate, None).await;
    assert!(!told(&collector, &url, &other_folder, None).await);
    assert!(told(&collector, &url, &folder, None).await);

    let collector = Collector::start();
    let url = collector.behind_tls(&certificate, Some(&own)).await;
    assert!(!told(&collector, &url, &folder, None).await);
    assert!(told(&collector, &url, &folder, Some(&own_folder)).await);
}
