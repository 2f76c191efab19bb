//! Registration, lease and drain, against a gateway that does what the test says.

use std::future::pending;
use std::time::Duration;

use crate::fake_gateway::{Caller, FakeGateway, TOKEN, granted};
use gearway_worker::{
    DeliveryMode, DeliverySpec, Error, Method, Settings, VerifyScheme, VerifySpec, Worker, handler,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), Error>>,
}

fn start(settings: Settings) -> Running {
    let (stop, stopped) = oneshot::channel();
    let worker =
        Worker::new(settings).version("1.2").max_concurrency(64).handler("echo", async || "echo").route(
            handler("orders/{id}", async || "order")
                .methods([Method::GET, Method::DELETE])
                .key_required()
                .user_required()
                .timeout(Duration::from_secs(5))
                .idempotent()
                .verify(VerifySpec { tolerance_s: Some(60), ..VerifySpec::new(VerifyScheme::Stripe, "live") })
                .delivery(DeliverySpec {
                    mode: DeliveryMode::Deadline,
                    attempts: 3,
                    ..DeliverySpec::default()
                }),
        );
    let ended = tokio::spawn(worker.run_until(async {
        stopped.await.ok();
    }));
    Running { stop, ended }
}

#[tokio::test]
async fn a_worker_registers_serves_renews_and_leaves() {
    let mut gateway = FakeGateway::start().await;
    let running = start(gateway.settings());

    let call = gateway.next().await;
    assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/v1/workers"));
    assert_eq!(call.authorization, format!("Bearer {TOKEN}"));
    let url = call.body["url"].as_str().unwrap().to_owned();
    let plain = json!({"name": "echo", "methods": ["GET", "POST", "PUT"], "key_required": false,
                       "user_required": false, "idempotent": false});
    let full = json!({"name": "orders/{id}", "methods": ["GET", "DELETE"], "key_required": true,
                      "user_required": true, "timeout_ms": 5000, "idempotent": true,
                      "verify": {"scheme": "stripe", "secret": "live", "tolerance_s": 60},
                      "delivery": {"mode": "deadline", "ack_after_ms": 2500, "ack": {"status": 200, "body": "ok"}, "attempts": 3,
                                   "dedup_window_s": 259_200}});
    assert_eq!(
        call.body,
        json!({"name": "test", "url": url, "protocol": "gearway-v1", "version": "1.2", "max_concurrency": 64,
               "features": [], "handlers": [plain, full]})
    );
    call.answer(201, granted("w1", "secret", 150));

    for _ in 0..3 {
        let renewal = gateway.next().await;
        assert_eq!((renewal.method.as_str(), renewal.path.as_str()), ("PUT", "/v1/workers/w1/lease"));
        assert_eq!(renewal.authorization, format!("Bearer {TOKEN}"));
        renewal.answer(200, json!({"lease_ms": 150, "draining": false}));
    }
    let echo = json!({"result": {"type": "text", "value": "echo"}});
    assert_eq!(Caller::new(&url, "secret").call("echo").await, (200, echo.clone()));

    running.stop.send(()).unwrap();
    let call = gateway.next_but_renewals(json!({"lease_ms": 150})).await;
    assert_eq!((call.method.as_str(), call.path.as_str()), ("DELETE", "/v1/workers/w1"));
    assert_eq!(Caller::new(&url, "secret").call("echo").await, (200, echo), "until it has left, it serves");
    call.answer(204, Value::Null);
    running.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lapsed_lease_is_followed_by_a_registration() {
    let mut gateway = FakeGateway::start().await;
    let _running = start(gateway.settings());
    let url = gateway.register("w1", "one", 30).await;
    let renewal = gateway.next().await;
    assert_eq!(renewal.path, "/v1/workers/w1/lease");
    renewal.answer(404, json!({"error": {"message": "no such worker"}}));
    assert_eq!(gateway.register("w2", "two", 60_000).await, url);
    // The answer is on its way: a call with the new secret waits for it, and then the old one holds no more.
    assert_eq!(Caller::new(&url, "two").call("echo").await.0, 200);
    assert_eq!(Caller::new(&url, "one").call("echo").await.0, 401);
}

#[tokio::test]
async fn a_gateway_that_comes_back_without_memory_gets_its_workers_back() {
    let mut gateway = FakeGateway::start().await;
    let port = gateway.port;
    let _running = start(gateway.settings());
    let url = gateway.register("w1", "one", 300).await;
    gateway.go_away().await;

    let mut gateway = FakeGateway::start_on(port).await;
    let renewal = gateway.next().await;
    assert_eq!(renewal.path, "/v1/workers/w1/lease", "a gateway with a memory would know it");
    renewal.answer(404, Value::Null);
    assert_eq!(gateway.register("w2", "two", 60_000).await, url);
    assert_eq!(Caller::new(&url, "two").call("echo").await.0, 200);
}

#[tokio::test]
async fn a_gateway_that_is_not_there_yet_is_waited_for() {
    let gateway = FakeGateway::start().await;
    let (port, settings) = (gateway.port, gateway.settings());
    gateway.go_away().await;
    let running = start(settings);
    let mut gateway = FakeGateway::start_on(port).await;
    gateway.next().await.answer(503, json!({"error": {"message": "starting"}}));
    gateway.register("w1", "one", 60_000).await;
    running.stop.send(()).unwrap();
    gateway.next().await.answer(204, Value::Null);
    running.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refused_first_registration_ends_the_worker_with_the_gateways_reason() {
    for (status, body, reason) in [
        (409, json!({"error": {"message": "billing has /echo"}}), "409: billing has /echo"),
        (401, Value::Null, "401: no reason given"),
        (404, Value::Null, "set GEARWAY_GATEWAY"),
        (200, json!({"result": {"status": "OK"}}), "does not answer as a gateway"),
    ] {
        let mut gateway = FakeGateway::start().await;
        let running = start(gateway.settings());
        gateway.next().await.answer(status, body);
        let error = running.ended.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Refused { .. }) && error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_refusal_later_on_is_outlived() {
    let mut gateway = FakeGateway::start().await;
    let _running = start(gateway.settings());
    gateway.register("w1", "one", 30).await;
    gateway.next().await.answer(404, Value::Null);
    gateway.next().await.answer(409, json!({"error": {"message": "billing has /echo"}}));
    gateway.register("w2", "two", 60_000).await;
}

#[tokio::test]
async fn a_drained_worker_renews_but_does_not_come_back() {
    let mut gateway = FakeGateway::start().await;
    let running = start(gateway.settings());
    let url = gateway.register("w1", "one", 30).await;
    for _ in 0..2 {
        let renewal = gateway.next().await;
        assert_eq!(renewal.path, "/v1/workers/w1/lease");
        renewal.answer(200, json!({"lease_ms": 30, "draining": true}));
    }
    gateway.next().await.answer(404, Value::Null);
    // What was sent before the drain is still answered; a worker that came back would register meanwhile.
    for _ in 0..50 {
        assert_eq!(Caller::new(&url, "one").call("echo").await.0, 200);
    }
    running.stop.send(()).unwrap();
    running.ended.await.unwrap().unwrap();
    assert!(gateway.nothing_more());
}

#[tokio::test]
async fn a_registration_that_is_overtaken_by_the_stop_is_undone() {
    let mut gateway = FakeGateway::start().await;
    let running = start(gateway.settings());
    let call = gateway.next().await;
    running.stop.send(()).unwrap();
    call.answer(201, granted("w1", "one", 60_000));
    let call = gateway.next().await;
    assert_eq!((call.method.as_str(), call.path.as_str()), ("DELETE", "/v1/workers/w1"));
    call.answer(204, Value::Null);
    running.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_url_follows_from_the_listener_or_is_as_told() {
    for (listen, advertise, url) in [
        ("0.0.0.0:0", None, "http://127.0.0.1:"),
        ("[::]:0", None, "http://127.0.0.1:"),
        ("localhost:0", None, "http://"),
        (
            "127.0.0.1:0",
            Some("https://worker.internal:8443/gearway?x=1"),
            "https://worker.internal:8443/gearway?x=1",
        ),
    ] {
        let mut gateway = FakeGateway::start().await;
        let mut settings = gateway.settings();
        listen.clone_into(&mut settings.listen);
        settings.advertise = advertise.map(|url| url.parse().unwrap());
        let _running = start(settings);
        let told = gateway.register("w1", "one", 60_000).await;
        assert!(told.starts_with(url), "{listen}: {told}");
        if advertise.is_none() {
            assert_eq!(Caller::new(&told, "one").call("echo").await.0, 200);
        }
    }
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let worker = || Worker::new(Settings::new("test"));
    let error = worker().run_until(pending()).await.unwrap_err();
    assert!(error.to_string().contains("GEARWAY_TOKEN"), "{error}");
    let error =
        worker().handler("a", async || ()).handler("a", async || ()).run_until(pending()).await.unwrap_err();
    assert!(matches!(error, Error::Route { .. }));
    let mut settings = Settings::new("test");
    settings.listen = "nonsense".to_owned();
    let error = Worker::new(settings).run_until(pending()).await.unwrap_err();
    assert!(error.to_string().starts_with("GEARWAY_LISTEN: cannot listen on nonsense"), "{error}");
}
