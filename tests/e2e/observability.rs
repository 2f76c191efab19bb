//! What operators watch: the metrics, the dashboard and the alerts that use them, the page that explains them; the log.

use std::collections::BTreeSet;

use gearway_tests::binaries::workspace;
use gearway_tests::{Answer, Gateway, Registration, Request, ScriptedWorker, wait};
use serde_json::{Value, json};
use yaml_rust2::{Yaml, YamlLoader};

use crate::collector::Collector;
use crate::exposition::Families;

/// A gateway that everything has happened to that is counted.
struct Busy {
    gateway: Gateway,
    _collector: Collector,
    _workers: [ScriptedWorker; 2],
}

impl Busy {
    async fn start() -> Self {
        let collector = Collector::start();
        let gateway = Gateway::builder()
            .config("[auth]\nclient_keys = [\"key\"]\n[workers]\npark = \"50ms\"\n")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
            .env("OTEL_BSP_SCHEDULE_DELAY", "20")
            .start()
            .await;
        let worker = ScriptedWorker::start("worker");
        let registration = Registration::new("orders")
            .handler("orders/{id}")
            .handler_with(json!({"name": "again", "idempotent": true}))
            .handler_with(json!({"name": "kept", "delivery": {"mode": "durable"}}))
            .handler_with(json!({"name": "keyed", "key_required": true}));
        let registered = worker.register(&gateway, &registration).await;
        drop(gateway.worker_side().renew(&registered.worker_id).await.expect_status(200));
        let gone = ScriptedWorker::start("gone");
        gone.register(&gateway, &Registration::new("gone").handler("gone")).await;
        gone.server().refuse().await;
        Self { gateway, _collector: collector, _workers: [worker, gone] }
    }

    /// One of each.
    async fn live(&self) {
        let Self { gateway, _workers: [worker, _], .. } = self;
        drop(gateway.get("/orders/1").await.expect_status(200));
        drop(gateway.get("/orders/2").await.expect_status(200));
        drop(gateway.get("/keyed").await.expect_status(401));
        drop(gateway.send(Request::get("/keyed").api_key("wrong")).await.expect_status(401));
        drop(gateway.get("/gone").await.expect_status(503));
        let lost = std::sync::atomic::AtomicBool::new(false);
        worker.script(move |_| match lost.swap(true, std::sync::atomic::Ordering::SeqCst) {
            false => Answer::close(),
            true => Answer::text("again"),
        });
        drop(gateway.get("/again").await.expect_status(200));
        drop(gateway.post("/kept", "x").await.expect_status(200));
        drop(
            Request::get("/v1/tokens").bearer("wrong").send(gateway.admin_address()).await.expect_status(401),
        );
        gateway.write_config("[auth]\nclient_keys = [\"key\"]\n[workers]\npark = \"50ms\"\n");
        gateway.sighup();
        gateway.wait_for_log("the reload", |line| line.contains("configuration reloaded")).await;
        gateway.write_config_as_it_is("nonsense");
        gateway.sighup();
        gateway.wait_for_log("the refusal", |line| line.contains("was not reloaded")).await;
        wait::until("the delivery and the spans are counted", async || {
            let metrics = Request::get("/metrics").send(gateway.admin_address()).await.text();
            let counted = [
                "gearway_delivery_attempts_total{outcome=\"delivered\"} 1",
                "gearway_deliveries_pending{younger_than=\"1m\"} 0",
            ];
            let exported = !metrics.contains("gearway_trace_spans_exported_total 0");
            (exported && counted.iter().all(|line| metrics.contains(line))).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn prometheus_reads_what_happened() {
    let busy = Busy::start().await;
    busy.live().await;
    let families = Families::of(&busy.gateway).await;
    for family in families.iter() {
        assert!(!family.help.is_empty(), "{family:?}");
        assert!(["counter", "gauge", "histogram", "info"].contains(&&*family.kind), "{family:?}");
        assert!(!family.samples.is_empty(), "{family:?}");
        let ours =
            family.name.starts_with("gearway_") || family.name == "http_server_request_duration_seconds";
        assert!(ours, "{family:?}");
    }

    let requests = "http_server_request_duration_seconds";
    assert_eq!(families.get(requests).kind, "histogram");
    let labels = |route, status| {
        [("http_request_method", "GET"), ("http_route", route), ("http_response_status_code", status)]
    };
    for (route, status, count) in
        [("/orders/{id}", "200", 2.0), ("/keyed", "401", 2.0), ("/gone", "503", 1.0), ("/again", "200", 1.0)]
    {
        let counted = families.value(requests, &format!("{requests}_count"), &labels(route, status));
        assert!((counted - count).abs() < f64::EPSILON, "{route} {status}: {counted}");
        let sum = families.value(requests, &format!("{requests}_sum"), &labels(route, status));
        assert!(sum > 0.0 && sum < 60.0, "{route}: {sum} seconds");
    }
    let calls = "gearway_worker_request_duration_seconds";
    assert_eq!(families.get(calls).kind, "histogram");
    // Two orders, one that was lost and its repetition, one delivery.
    let counted = families.value(calls, &format!("{calls}_count"), &[("worker", "orders")]);
    assert!((counted - 5.0).abs() < f64::EPSILON, "{counted}");

    for (family, labels, value) in [
        ("gearway_retries", &[("reason", "idempotent")][..], 1.0),
        ("gearway_ejections", &[("worker", "gone")], 1.0),
        ("gearway_auth_failures", &[("reason", "missing")], 1.0),
        ("gearway_auth_failures", &[("reason", "api_key")], 1.0),
        ("gearway_auth_failures", &[("reason", "admin_token")], 1.0),
        ("gearway_auth_failures", &[("reason", "signature")], 0.0),
        ("gearway_leases", &[("event", "granted")], 2.0),
        ("gearway_leases", &[("event", "renewed")], 1.0),
        ("gearway_leases", &[("event", "lapsed")], 0.0),
        ("gearway_config_reloads", &[("outcome", "succeeded")], 1.0),
        ("gearway_config_reloads", &[("outcome", "failed")], 1.0),
        ("gearway_deliveries_accepted", &[("http_route", "/kept")], 1.0),
        ("gearway_delivery_attempts", &[("outcome", "delivered")], 1.0),
        ("gearway_trace_spans_failed", &[], 0.0),
    ] {
        assert_eq!(families.get(family).kind, "counter");
        let counted = families.value(family, &format!("{family}_total"), labels);
        assert!((counted - value).abs() < f64::EPSILON, "{family} {labels:?}: {counted}");
    }
    for (family, labels, value) in [
        ("gearway_in_flight_requests", &[][..], 0.0),
        ("gearway_bytes_in_flight", &[], 0.0),
        ("gearway_parked_requests", &[], 0.0),
        ("gearway_worker_in_flight_calls", &[("worker", "orders")], 0.0),
        ("gearway_workers", &[("state", "live")], 1.0),
        ("gearway_workers", &[("state", "ejected")], 1.0),
        ("gearway_deliveries_pending", &[("younger_than", "1m")], 0.0),
        ("gearway_deliveries_dead", &[], 0.0),
    ] {
        assert_eq!(families.get(family).kind, "gauge");
        let counted = families.value(family, family, labels);
        assert!((counted - value).abs() < f64::EPSILON, "{family} {labels:?}: {counted}");
    }
    let info = &families.get("gearway_build").samples[0];
    assert_eq!(info.labels.get("version").map(String::as_str), Some(env!("CARGO_PKG_VERSION")));
    let syncs = families.value("gearway_delivery_sync_seconds", "gearway_delivery_sync_seconds_count", &[]);
    assert!(syncs >= 1.0, "{syncs}");
}

/// Nothing that a client makes up becomes a series.
#[tokio::test]
async fn garbage_makes_no_new_series() {
    let gateway = Gateway::start("[auth]\nclient_keys = [\"key\"]\n").await;
    let worker = ScriptedWorker::start("worker");
    worker.register(&gateway, &Registration::new("orders").handler("orders/{id}").handler("tree/")).await;
    let round = async |number: usize| {
        for (method, target) in [
            ("GET", format!("/orders/{number}")),
            ("GET", format!("/tree/{number}/leaf?x={number}")),
            ("GET", format!("/nowhere/{number}")),
            (["BREW", "FROB", "X-1"][number % 3], "/nowhere".to_owned()),
            (["BREW", "FROB", "X-1"][number % 3], format!("/orders/{number}")),
            ("GET", format!("/tree/%zz{number}")),
        ] {
            let mut request = Request::new(method, &target).api_key(&format!("wrong-{number}"));
            for name in ["X-Request-Id", "User-Agent", "Forwarded", "X-Forwarded-For", "traceparent"] {
                request = request.header(name, format!("made-up-{number}"));
            }
            gateway.send(request).await;
        }
        let unknown = format!("/v1/unknown-{number}");
        Request::get(&unknown).bearer(&format!("wrong-{number}")).send(gateway.admin_address()).await;
    };
    round(0).await;
    let before = Families::of(&gateway).await.series();
    for number in 1..40 {
        round(number).await;
    }
    let after = Families::of(&gateway).await.series();
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:#?}");
}

/// What the dashboard draws and the page explains is there; and what is there is explained.
#[tokio::test]
async fn the_dashboard_and_the_page_know_the_metrics() {
    let read =
        |path: &str| std::fs::read_to_string(workspace().join(path)).expect("a file of the repository");
    let is_metric = |word: &&str| word.starts_with("gearway_") || word.starts_with("http_server_");
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(is_metric).map(str::to_owned).collect()
    };
    let dashboard: Value = serde_json::from_str(&read("docs/grafana-dashboard.json")).expect("JSON");
    let mut drawn = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            drawn.extend(words(target["expr"].as_str().expect("an expression")));
        }
    }
    for wanted in [
        "gearway_deliveries_accepted_total",
        "gearway_deliveries_pending",
        "gearway_delivery_attempts_total",
        "gearway_deliveries_dead",
        "gearway_delivery_sync_seconds_bucket",
        "gearway_deliveries_stored_bytes",
        "gearway_leases_total",
        "gearway_config_reloads_total",
    ] {
        assert!(drawn.contains(wanted), "{wanted} is not drawn");
    }
    let rules = YamlLoader::load_from_str(&read("docs/deploy/alerts.yaml")).expect("YAML");
    let rules = rules[0]["groups"][0]["rules"].as_vec().expect("rules");
    let expression = |rule: &Yaml| rule["expr"].as_str().expect("an expression").to_owned();
    let alerts: BTreeSet<_> =
        rules.iter().map(|rule| rule["alert"].as_str().expect("a name").to_owned()).collect();
    let watched: BTreeSet<_> = rules.iter().flat_map(|rule| words(&expression(rule))).collect();
    let page = read("docs/operating.md");
    let by_alert = page.lines().filter_map(|line| line.strip_prefix("| `Gearway")?.split_once('`'));
    let answered: BTreeSet<_> = by_alert.map(|(name, _)| format!("Gearway{name}")).collect();
    assert_eq!(alerts, answered, "the alerts, and those that docs/operating.md says something about");
    let metrics =
        page.split("\n## ").find(|part| part.starts_with("Metrics")).expect("the part about metrics");
    let table: String = metrics.lines().filter(|line| line.starts_with("| `")).collect();
    let explained = words(&table);
    let named = words(&page);

    let busy = Busy::start().await;
    busy.live().await;
    let families = Families::of(&busy.gateway).await;
    let samples: BTreeSet<_> =
        families.iter().flat_map(|family| &family.samples).map(|sample| sample.name.clone()).collect();
    for (what, names) in [("drawn", &drawn), ("watched by an alert", &watched)] {
        let absent: Vec<_> = names.difference(&samples).collect();
        assert!(absent.is_empty(), "{what}, but not in /metrics: {absent:?}");
    }
    // The page names a histogram by its family, everything else as its samples are called.
    let names: BTreeSet<_> = families
        .iter()
        .map(|family| match family.kind.as_str() {
            "counter" => format!("{}_total", family.name),
            "info" => format!("{}_info", family.name),
            _ => family.name.clone(),
        })
        .collect();
    let unexplained: Vec<_> = names.difference(&explained).collect();
    assert!(unexplained.is_empty(), "in /metrics, but not in docs/operating.md: {unexplained:?}");
    let made_up: Vec<_> = named.difference(&names).filter(|name| !samples.contains(*name)).collect();
    assert!(made_up.is_empty(), "in docs/operating.md, but not in /metrics: {made_up:?}");
}

/// What programs that read the log rely on. The page says the same.
#[tokio::test]
async fn the_log_keeps_its_schema() {
    let page = std::fs::read_to_string(workspace().join("docs/operating.md")).expect("the page");
    let part = page.split("\n## ").find(|part| part.starts_with("Logs")).expect("the part about logs");
    let rows = |heading: &str| -> Vec<(String, String)> {
        let table = part.split_once(heading).expect("the table").1;
        let rows = table.lines().skip(2).take_while(|line| line.starts_with("| "));
        rows.map(|row| {
            let cells: Vec<_> = row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect();
            (cells[1].clone(), cells[2].clone())
        })
        .collect()
    };
    let fields = rows("| access field | type | |");
    assert_eq!(fields.len(), 12, "{fields:?}");

    let config = r#"
        [auth]
        client_keys = ["key"]
        master_keys = ["master"]
        [log]
        access = true
        "#;
    let gateway = Gateway::builder().config(config).env("RUST_LOG", "debug").start().await;
    let worker = ScriptedWorker::start("worker");
    let registration =
        Registration::new("orders").handler_with(json!({"name": "mine", "user_required": true}));
    worker.register(&gateway, &registration).await;
    let request = || Request::get("/mine?secret=1").api_key("master").header("X-Gearway-User-Id", "alice");
    let answered = gateway.send(request()).await.expect_status(200);
    worker.always(Answer::reply(&json!({"error": {"code": 10001, "message": "sold out"}})));
    let failed = gateway.send(request()).await.expect_status(500);
    let unmatched = gateway.get("/nowhere").await.expect_status(200);
    worker.always(Answer::close());
    let lost = gateway.send(request()).await.expect_status(502);
    let refused =
        Request::get("/v1/tokens").bearer("x").send(gateway.admin_address()).await.expect_status(401);
    let id = |response: &gearway_tests::Response| response.header("x-request-id").expect("an id");
    gateway.wait_for_log("the refusal", |line| line.contains(&id(&refused))).await;

    for line in gateway.log().iter() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let timestamp = event["timestamp"].as_str().expect("a timestamp");
        assert!(timestamp.len() == 27 && timestamp.ends_with('Z') && &timestamp[10..11] == "T", "{line}");
        assert!(
            ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&event["level"].as_str().expect("a level"))
        );
        assert!(event["target"].is_string() && event["message"].is_string(), "{line}");
        for name in ["request_id", "worker", "worker_id", "delivery", "error", "reason"] {
            assert!(event[name].is_string() || event[name].is_null(), "{name}: {line}");
        }
    }
    let events = |id: &str| -> Vec<Value> {
        let lines = gateway.log();
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["request_id"] == id).collect()
    };
    let access = |response: &gearway_tests::Response| {
        let found: Vec<_> =
            events(&id(response)).into_iter().filter(|event| event["target"] == "gearway::access").collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((&found[0]["level"], &found[0]["message"]), (&json!("INFO"), &json!("request")));
        found[0].as_object().expect("an object").clone()
    };
    let always = ["timestamp", "level", "target", "message"];
    let without = |absent: &[&str]| {
        let names = fields.iter().map(|(name, _)| name.as_str()).filter(|name| !absent.contains(name));
        names.chain(always).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    for (response, absent) in [
        (&answered, &["error"][..]),
        (&failed, &[]),
        (&lost, &[]),
        (&unmatched, &["route", "worker", "user", "worker_ms", "error"]),
    ] {
        let event = access(response);
        assert_eq!(event.keys().cloned().collect::<BTreeSet<_>>(), without(absent), "{event:?}");
        for (name, kind) in &fields {
            let Some(value) = event.get(name) else { continue };
            let right = if kind == "number" { value.is_number() } else { value.is_string() };
            assert!(right, "{name} is no {kind}: {value}");
        }
        assert_eq!(event["status"], response.status);
    }
    let event = access(&answered);
    for (name, value) in [("path", "/mine"), ("route", "/mine"), ("worker", "orders"), ("user", "alice")] {
        assert_eq!(event[name], value, "{name}");
    }
    assert_eq!(event["trace_id"], event["request_id"]);

    // The same id wherever the request is spoken of.
    assert_eq!(lost.json()["error"]["request_id"], id(&lost));
    assert_eq!(worker.last_call().envelope["context"]["request_id"], id(&lost));
    assert!(events(&id(&lost)).iter().any(|event| event["message"] == "call failed"));
    assert_eq!(refused.json()["error"]["request_id"], id(&refused));
    assert!(events(&id(&refused)).iter().any(|event| event["message"] == "admin request refused"));
}
