//! Contract section 6.

use std::time::Duration;

use gearway_tests::process::Signal;
use gearway_tests::{Answer, Gate, Gateway, Registration, Request, Response, ScriptedWorker, wait};
use serde_json::{Value, json};

use crate::expect::{self, not_run, outcome_unknown, serving, unmatched};

#[tokio::test]
async fn an_accepted_registration_says_what_the_worker_needs() {
    let gateway = Gateway::start("[workers]\nlease = \"10s\"").await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("orders")
        .handler_with(
            json!({"name": "foo/", "methods": ["GET"], "key_required": false, "user_required": false,
            "timeout_ms": 60000, "idempotent": false, "unknown-to-this-version": 1}),
        )
        .set("version", json!("1.2"))
        .set("max_concurrency", json!(64))
        .set("features", json!(["one-that-nobody-knows"]))
        .set("unknown-to-this-version", json!({"a": 1}));
    let token = gateway.registration_token();
    let answer = worker.try_register(&gateway, &registration, Some(&token)).await.expect_status(201).json();
    assert_eq!(answer["lease_ms"], 10_000);
    assert_eq!(answer["features"], json!([]));
    for field in ["worker_id", "secret"] {
        assert!(answer[field].as_str().is_some_and(|text| text.len() >= 8), "{answer}");
    }
    let row = gateway.admin().workers().await.pop().expect("a worker");
    assert_eq!(
        (row.id.as_str(), row.name.as_str()),
        (answer["worker_id"].as_str().expect("an id"), "orders")
    );
    assert_eq!(row.url.trim_end_matches('/'), worker.url().trim_end_matches('/'));
    let routes = gateway.admin().routes().await;
    assert_eq!(routes.len(), 1, "{routes:?}");
    assert_eq!((routes[0].path.as_str(), routes[0].methods.len()), ("/foo/", 1), "{routes:?}");
    let method = &routes[0].methods[0];
    assert_eq!((method.method.as_str(), method.owner.as_str(), method.replicas), ("GET", "orders", 1));
}

/// 201 means routable: there is no moment in between, however many registrations there are.
#[tokio::test]
async fn a_worker_is_routed_from_its_201_on() {
    let gateway = Gateway::start("").await;
    for number in 0..30 {
        let name = format!("service-{number}");
        let worker = ScriptedWorker::start(&name);
        worker.register(&gateway, &Registration::new(&name).handler(&name)).await;
        assert_eq!(gateway.get(&format!("/{name}")).await.json()["worker"], name);
    }
}

#[tokio::test]
async fn only_a_registration_token_registers() {
    let gateway = Gateway::start("").await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker").handler("foo");
    for token in [None, Some(""), Some("nonsense")] {
        let response = worker.try_register(&gateway, &registration, token).await;
        assert_eq!(response.status, 401, "{token:?}: {response:?}");
    }
    unmatched(&gateway.get("/foo").await);
    let registered = worker.register(&gateway, &registration).await;
    let mut side = gateway.worker_side();
    side.token = "nonsense".into();
    assert_eq!(side.renew(&registered.worker_id).await.status, 401);
    assert_eq!(side.deregister(&registered.worker_id).await.status, 401);
    assert_eq!(gateway.get("/foo").await.status, 200);
}

#[tokio::test]
async fn a_registration_token_is_held_to_its_names_and_paths() {
    let gateway = Gateway::start(
        r#"
        [admin]
        registration_tokens = [
            "any-registration-token",
            { token = "billing-registration-token", names = ["billing"], paths = ["/billing/"] },
        ]
        "#,
    )
    .await;
    let worker = ScriptedWorker::start("worker");
    let token = Some("billing-registration-token");
    for (registration, status) in [
        (Registration::new("orders").handler("billing/a"), 403),
        (Registration::new("billing").handler("orders"), 403),
        (Registration::new("billing").handler("billing/a").handler("orders"), 403),
        (Registration::new("billing").handler("billing"), 403),
        (Registration::new("billing").handler("billingx/a"), 403),
        (Registration::new("billing").handler("{any}/a"), 403),
        (Registration::new("billing").handler("/"), 403),
        (Registration::new("billing").handler("billing/a").handler("billing:b/"), 201),
    ] {
        let response = worker.try_register(&gateway, &registration, token).await;
        assert_eq!(response.status, status, "{registration:?}: {response:?}");
    }
    assert_eq!(gateway.get("/billing/a").await.status, 200);
    unmatched(&gateway.get("/orders").await);
    let orders = Registration::new("orders").handler("orders");
    let answer = worker.try_register(&gateway, &orders, Some("any-registration-token")).await;
    let id = answer.expect_status(201).json()["worker_id"].as_str().expect("an id").to_owned();
    let other = gearway_tests::admin::WorkerSide {
        address: gateway.admin_address(),
        token: "billing-registration-token".into(),
    };
    assert_eq!(other.renew(&id).await.status, 403);
    assert_eq!(other.deregister(&id).await.status, 403);
    assert_eq!(gateway.get("/orders").await.status, 200);
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_and_says_why() {
    let gateway = Gateway::start("").await;
    let worker = ScriptedWorker::start("worker");
    let token = gateway.registration_token();
    let good = Registration::new("worker").handler("foo");
    for (registration, named) in [
        (good.clone().without("name"), "name"),
        (good.clone().without("protocol"), "protocol"),
        (good.clone().without("handlers"), "handlers"),
        (good.clone().set("name", json!("")), "name"),
        (good.clone().set("protocol", json!("gearway-v9")), "protocol"),
        (good.clone().set("url", json!("nonsense")), "url"),
        (good.clone().set("url", json!("file:///etc/passwd")), "url"),
        (good.clone().set("url", json!("http://192.0.2.1:80/")), "url"),
        (good.clone().set("handlers", json!([{"methods": ["GET"]}])), "name"),
        (good.clone().set("handlers", json!([{"name": "foo", "methods": ["BREW"]}])), "method"),
        (good.clone().set("handlers", json!([{"name": "foo", "methods": ["get"]}])), "method"),
        (good.clone().set("handlers", json!([{"name": "foo", "methods": "GET"}])), "method"),
        (good.clone().set("handlers", json!([{"name": "a/../b"}])), "a/../b"),
        (good.clone().set("handlers", json!([{"name": "a//b"}])), "a//b"),
        (good.clone().set("handlers", json!([{"name": "a/{x}/{x}"}])), "x"),
        (good.clone().set("handlers", json!([{"name": "a/{x"}])), "a/{x"),
        // What is asked for and cannot be done must not be passed over: the handler would take forged webhooks for genuine.
        (
            good.clone()
                .set("handlers", json!([{"name": "foo", "verify": {"scheme": "stripe", "secret": "live"}}])),
            "verify",
        ),
        (
            good.clone()
                .set("handlers", json!([{"name": "foo", "delivery": {"mode": "durable", "attempts": 0}}])),
            "delivery.attempts",
        ),
        (
            good.clone().set("handlers", json!([{"name": "foo"}, {"name": "/foo", "methods": ["POST"]}])),
            "foo",
        ),
    ] {
        let response = worker.try_register(&gateway, &registration, Some(&token)).await;
        assert!(matches!(response.status, 400 | 403 | 422), "{registration:?}: {response:?}");
        assert!(response.text().contains(named), "{named} is not named: {registration:?}: {response:?}");
    }
    let garbage = Request::post("/v1/workers", "{").header("Content-Type", "application/json").bearer(&token);
    assert!(matches!(garbage.send(gateway.admin_address()).await.status, 400 | 422));
    unmatched(&gateway.get("/foo").await);
    assert_eq!(gateway.admin().workers().await, []);
    assert_eq!(gateway.admin().routes().await, []);
}

#[tokio::test]
async fn a_lease_is_renewed_or_lapses() {
    let gateway = Gateway::start("[workers]\nlease = \"1s\"\npark = \"50ms\"").await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker").handler("foo");
    let registered = worker.register(&gateway, &registration).await;
    let side = gateway.worker_side();
    let mut third = tokio::time::interval(Duration::from_millis(registered.lease_ms / 3));
    // Three leases long.
    for _ in 0..9 {
        third.tick().await;
        let answer = side.renew(&registered.worker_id).await.expect_status(200).json();
        assert_eq!(answer, json!({"lease_ms": 1000, "draining": false}));
        assert_eq!(gateway.admin().workers().await.len(), 1);
    }
    gateway.admin().wait_for_workers(0).await;
    assert_eq!(side.renew(&registered.worker_id).await.status, 404);
    assert_eq!(side.renew("no-such-worker").await.status, 404);
    not_run(&gateway.get("/foo").await);

    let again = worker.register(&gateway, &registration).await;
    assert_ne!(again.worker_id, registered.worker_id);
    assert_eq!(gateway.get("/foo").await.status, 200);
    assert_eq!(side.renew(&registered.worker_id).await.status, 404);
}

#[tokio::test]
async fn a_reply_proves_life_as_a_renewal_does() {
    let gateway = Gateway::start("[workers]\nlease = \"1s\"\npark = \"50ms\"").await;
    let worker = ScriptedWorker::start("worker");
    let registered = worker.register(&gateway, &Registration::new("worker").handler("foo")).await;
    let mut often = tokio::time::interval(Duration::from_millis(100));
    // Three leases long.
    for _ in 0..30 {
        often.tick().await;
        assert_eq!(gateway.get("/foo").await.status, 200);
    }
    assert_eq!(gateway.worker_side().renew(&registered.worker_id).await.status, 200);
}

#[tokio::test]
async fn a_gateway_that_was_stalled_extends_the_leases() {
    let gateway = Gateway::start("[workers]\nlease = \"2s\"\npark = \"50ms\"").await;
    let worker = ScriptedWorker::start("worker");
    let registered = worker.register(&gateway, &Registration::new("worker").handler("foo")).await;
    gateway.process().signal(Signal::STOP);
    // The stall itself: longer than the lease.
    tokio::time::sleep(Duration::from_secs(5)).await;
    gateway.process().signal(Signal::CONT);
    assert_eq!(gateway.worker_side().renew(&registered.worker_id).await.status, 200);
    assert_eq!(gateway.get("/foo").await.status, 200);
}

#[tokio::test]
async fn a_worker_that_deregisters_finishes_what_it_has() {
    let gateway = Gateway::start("[workers]\npark = \"50ms\"").await;
    let worker = ScriptedWorker::start("worker");
    let registered = worker.register(&gateway, &Registration::new("worker").handler("foo")).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let running = send_in_background(&gateway, Request::post("/foo", "x"));
    worker.call(0).await;
    let side = gateway.worker_side();
    assert_eq!(side.deregister(&registered.worker_id).await.status, 204);
    not_run(&gateway.get("/foo").await);
    gate.open();
    assert_eq!(running.await.expect("no panic").expect_status(200).text(), "done");
    assert_eq!(worker.calls().len(), 1);
    assert_eq!(side.deregister(&registered.worker_id).await.status, 404);
    assert_eq!(side.renew(&registered.worker_id).await.status, 404);
}

#[tokio::test]
async fn an_operator_drains_a_worker() {
    let gateway = Gateway::start("[workers]\npark = \"50ms\"").await;
    let kept = ScriptedWorker::start("kept");
    let drained = ScriptedWorker::start("drained");
    let registration = Registration::new("same").handler("foo");
    let registered = drained.register(&gateway, &registration).await;
    kept.register(&gateway, &registration).await;
    let gate = Gate::default();
    drained.always(Answer::text("done").after(&gate));
    kept.always(Answer::text("kept"));
    // Until the replica that is to be drained holds one.
    let mut running = vec![send_in_background(&gateway, Request::get("/foo"))];
    while drained.calls().is_empty() {
        let response = send_in_background(&gateway, Request::get("/foo"));
        wait::until("a call arrives", async || {
            (response.is_finished() || !drained.calls().is_empty()).then_some(())
        })
        .await;
        running.push(response);
    }
    let side = gateway.worker_side();
    let by_a_worker = Request::new("POST", &format!("/v1/workers/{}/drain", registered.worker_id)).body("");
    let refused = by_a_worker.bearer(&side.token).send(gateway.admin_address()).await;
    assert!(matches!(refused.status, 401 | 403), "{refused:?}");

    let answer = gateway.admin().drain(&registered.worker_id).await;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    for _ in 0..10 {
        assert_eq!(gateway.get("/foo").await.text(), "kept");
    }
    assert_eq!(side.renew(&registered.worker_id).await.expect_status(200).json()["draining"], true);
    gate.open();
    for response in running {
        drop(response.await.expect("no panic").expect_status(200));
    }
    assert_eq!(side.renew(&registered.worker_id).await.expect_status(200).json()["draining"], true);
    assert_eq!(gateway.get("/foo").await.text(), "kept");
    assert_eq!(gateway.admin().drain("no-such-worker").await.status, 404);
}

#[tokio::test]
async fn a_refused_connection_takes_a_replica_out_until_it_shows_itself() {
    let gateway = Gateway::start("").await;
    let steady = ScriptedWorker::start("steady");
    let dying = ScriptedWorker::start("dying");
    let registration = Registration::new("same").handler("foo");
    steady.register(&gateway, &registration).await;
    let registered = dying.register(&gateway, &registration).await;
    dying.server().refuse().await;
    for _ in 0..20 {
        assert_eq!(gateway.post("/foo", "x").await.expect_status(200).json()["worker"], "steady");
    }
    dying.server().accept();
    let before = dying.calls().len();
    assert_eq!(gateway.worker_side().renew(&registered.worker_id).await.status, 200);
    wait::until("the replica is called again", async || {
        gateway.get("/foo").await;
        (dying.calls().len() > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_probe_brings_a_replica_back_by_itself() {
    let gateway = Gateway::start("[workers]\npark = \"30s\"").await;
    let worker = ScriptedWorker::start("worker");
    worker.register(&gateway, &Registration::new("worker").handler("foo")).await;
    worker.server().refuse().await;
    let waiting = send_in_background(&gateway, Request::post("/foo", "x"));
    worker.server().accept();
    assert_eq!(waiting.await.expect("no panic").expect_status(200).json()["worker"], "worker");
}

/// The replica was found gone only after the body had been read; the request waits, and goes out whole.
#[tokio::test]
async fn a_request_that_waits_keeps_its_body() {
    let (gateway, worker) = serving("[workers]\npark = \"50s\"", &["foo"]).await;
    worker.echo_bodies();
    let state = async || gateway.admin().workers().await[0].state.clone();
    let in_rotation = state().await;
    worker.server().refuse().await;
    let waiting = send_in_background(&gateway, Request::post("/foo", "the whole body"));
    wait::until("the replica is out of rotation", async || (state().await != in_rotation).then_some(()))
        .await;
    worker.server().accept();
    assert_eq!(waiting.await.expect("no panic").expect_status(200).text(), "the whole body");
}

#[tokio::test]
async fn replicas_share_the_load() {
    let gateway = Gateway::start("").await;
    let replicas = ["a", "b", "c"].map(ScriptedWorker::start);
    for replica in &replicas {
        replica.register(&gateway, &Registration::new("same").handler("foo")).await;
    }
    let mut connection = gateway.connect().await;
    for _ in 0..60 {
        let response = connection.request(&Request::get("/foo")).await.expect("an answer");
        assert_eq!(response.status, 200);
    }
    for replica in &replicas {
        assert!(replica.calls().len() >= 10, "{} of 60", replica.calls().len());
    }
}

#[tokio::test]
async fn a_known_route_waits_for_its_worker() {
    let gateway = Gateway::start("[workers]\npark = \"50s\"").await;
    let first = ScriptedWorker::start("first");
    let registration = Registration::new("same").handler("foo");
    let registered = first.register(&gateway, &registration).await;
    gateway.worker_side().deregister(&registered.worker_id).await.expect_status(204).body.clear();
    let parked = [(); 5].map(|()| send_in_background(&gateway, Request::post("/foo", "x")));
    let routes = gateway.admin().routes().await;
    assert_eq!(routes[0].methods[0].replicas, 0, "{routes:?}");
    let second = ScriptedWorker::start("second");
    second.register(&gateway, &registration).await;
    for response in parked {
        assert_eq!(response.await.expect("no panic").expect_status(200).json()["worker"], "second");
    }
}

/// A tenth of `max_in_flight`: one service that is down does not take the gateway from the others.
#[tokio::test]
async fn only_so_many_requests_wait_for_one_worker() {
    let config = "[workers]\npark = \"50s\"\n[limits]\nmax_in_flight = 20";
    let (gateway, worker) = serving(config, &["foo"]).await;
    let registration = Registration::new("down").handler("down");
    let down = ScriptedWorker::start("down");
    let registered = down.register(&gateway, &registration).await;
    gateway.worker_side().deregister(&registered.worker_id).await.expect_status(204).body.clear();
    let mut waiting = Vec::from([(); 3].map(|()| send_in_background(&gateway, Request::post("/down", "x"))));
    let refused = wait::until("one of three is refused", async || {
        waiting.iter().position(tokio::task::JoinHandle::is_finished)
    })
    .await;
    not_run(&waiting.swap_remove(refused).await.expect("no panic"));
    assert_eq!(gateway.post("/foo", "x").await.status, 200);
    assert_eq!(worker.calls().len(), 1);
    down.register(&gateway, &registration).await;
    for response in waiting {
        assert_eq!(response.await.expect("no panic").expect_status(200).json()["worker"], "down");
    }
}

/// A 200 would tell a payment provider that its webhook was delivered.
#[tokio::test]
async fn a_known_route_never_gets_the_unmatched_answer() {
    let mut gateway = Gateway::start("[workers]\npark = \"50ms\"").await;
    let worker = ScriptedWorker::start("worker");
    let registered =
        worker.register(&gateway, &Registration::new("same").handler("pay/").handler("{a}/b")).await;
    gateway.worker_side().deregister(&registered.worker_id).await.expect_status(204).body.clear();
    let unavailable = async |gateway: &Gateway| {
        for path in ["/pay/", "/pay/a", "/x/b"] {
            not_run(&gateway.get(path).await);
            not_run(&gateway.post(path, "x").await);
        }
        expect::error(&gateway.send(Request::new("DELETE", "/pay/")).await, 404, 117, "UndefinedOperation");
        unmatched(&gateway.get("/other").await);
    };
    unavailable(&gateway).await;
    gateway.kill9();
    gateway.start_again().await;
    unavailable(&gateway).await;

    let thief = ScriptedWorker::start("thief");
    let claim = Registration::new("thief").handler("pay/");
    let token = gateway.registration_token();
    assert_eq!(thief.try_register(&gateway, &claim, Some(&token)).await.status, 409);
    let forgotten = gateway.cli(&["routes", "forget", "/pay/"]).await;
    assert_eq!(forgotten.code(), 0, "{forgotten:?}");
    unmatched(&gateway.get("/pay/").await);
    not_run(&gateway.get("/x/b").await);
    thief.register(&gateway, &claim).await;
    assert_eq!(gateway.get("/pay/").await.json()["worker"], "thief");
    assert_eq!(gateway.cli(&["routes", "forget", "/no/such/path"]).await.code(), 1);
}

#[tokio::test]
async fn a_route_is_remembered_for_as_long_as_configured() {
    let gateway = Gateway::start("[workers]\npark = \"10ms\"\nremember = \"1s\"").await;
    let worker = ScriptedWorker::start("worker");
    let registered = worker.register(&gateway, &Registration::new("worker").handler("foo")).await;
    gateway.worker_side().deregister(&registered.worker_id).await.expect_status(204).body.clear();
    wait::until("the route is forgotten", async || {
        let response = gateway.get("/foo").await;
        (response.status != 503).then(|| unmatched(&response))
    })
    .await;
}

#[tokio::test]
async fn registering_again_replaces_the_old_entry_in_one_step() {
    let gateway = Gateway::start("[workers]\npark = \"50ms\"").await;
    let worker = ScriptedWorker::start("worker");
    let old = worker.register(&gateway, &Registration::new("worker").handler("stays").handler("goes")).await;
    let new = worker.register(&gateway, &Registration::new("worker").handler("stays").handler("comes")).await;
    assert_eq!(gateway.admin().workers().await.len(), 1);
    assert_eq!(gateway.get("/stays").await.status, 200);
    assert_eq!(gateway.get("/comes").await.status, 200);
    unmatched(&gateway.get("/goes").await);
    assert_eq!(gateway.worker_side().renew(&old.worker_id).await.status, 404);
    assert_eq!(gateway.worker_side().renew(&new.worker_id).await.status, 200);
    let authorization = format!("Bearer {}", new.secret);
    assert_eq!(worker.last_call().http.header("authorization"), Some(authorization.as_str()));

    let replica = ScriptedWorker::start("replica");
    replica.register(&gateway, &Registration::new("worker").handler("stays")).await;
    for _ in 0..6 {
        assert_eq!(gateway.get("/comes").await.json()["worker"], "worker");
    }
}

/// A rolling upgrade: the new version's replica has a new URL, and lists what the old one still serves.
#[tokio::test]
async fn routes_go_with_the_last_replica_that_lists_them() {
    let gateway = Gateway::start("[workers]\npark = \"50ms\"").await;
    let old = ScriptedWorker::start("old");
    let new = ScriptedWorker::start("new");
    let registered = old.register(&gateway, &Registration::new("same").handler("old").handler("both")).await;
    new.register(&gateway, &Registration::new("same").handler("both").handler("new")).await;
    assert_eq!(gateway.get("/old").await.json()["worker"], "old");
    assert_eq!(gateway.get("/new").await.json()["worker"], "new");
    gateway.worker_side().deregister(&registered.worker_id).await.expect_status(204).body.clear();
    assert_eq!(gateway.get("/both").await.json()["worker"], "new");
    // Nobody has left the route out since its last replica went, so it is known and not served.
    not_run(&gateway.get("/old").await);
    new.register(&gateway, &Registration::new("same").handler("both").handler("new")).await;
    unmatched(&gateway.get("/old").await);
}

#[tokio::test]
async fn a_gateway_that_was_killed_routes_its_first_request() {
    let mut gateway = Gateway::start("").await;
    let worker = ScriptedWorker::start("worker");
    for round in 0..3 {
        let path = format!("route-{round}");
        let registered = worker.register(&gateway, &Registration::new("worker").handler(&path)).await;
        gateway.kill9();
        gateway.start_again().await;
        let response = gateway.post(&format!("/{path}"), "x").await;
        assert_eq!(expect::handled_by(&response), path);
        let authorization = format!("Bearer {}", registered.secret);
        assert_eq!(worker.last_call().http.header("authorization"), Some(authorization.as_str()));
        let renewed = gateway.worker_side().renew(&registered.worker_id).await;
        assert_eq!(renewed.expect_status(200).json()["draining"], false);
    }
}

#[tokio::test]
async fn a_gateway_that_remembers_nothing_does_not_say_ok_to_a_webhook() {
    let gateway = Gateway::start("[workers]\nlease = \"2s\"").await;
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        not_run(&gateway.send(Request::new(method, "/webhook").body("x")).await);
    }
    unmatched(&gateway.get("/webhook").await);
    wait::until("the first lease has passed", async || {
        let response = gateway.post("/webhook", "x").await;
        (response.status != 503).then(|| unmatched(&response))
    })
    .await;
}

#[tokio::test]
async fn a_request_is_sent_again_only_if_it_did_not_run() {
    for (idempotent, answer, again) in [
        (false, Answer::close(), false),
        (true, Answer::close(), true),
        (false, Answer::status(503, "{}").header("Gearway-Not-Run", "1"), true),
        (false, Answer::status(401, "{}"), true),
        (false, Answer::BytesThenClose(b"HTTP/1.1 200 OK\r\nContent-Len".to_vec()), false),
        (true, Answer::BytesThenClose(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{".to_vec()), true),
    ] {
        let gateway = Gateway::start("[workers]\npark = \"50ms\"").await;
        let replicas = ["a", "b"].map(ScriptedWorker::start);
        let registration =
            Registration::new("same").handler_with(json!({"name": "foo", "idempotent": idempotent}));
        for replica in &replicas {
            replica.register(&gateway, &registration).await;
        }
        // The first of the two to be called fails, once.
        let failed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        for replica in &replicas {
            let (failed, answer) = (std::sync::Arc::clone(&failed), answer.clone());
            replica.script(move |_| {
                let first = !failed.swap(true, std::sync::atomic::Ordering::SeqCst);
                if first { answer.clone() } else { Answer::text("ran") }
            });
        }
        let response = gateway.post("/foo", "body").await;
        let calls = replicas.iter().flat_map(ScriptedWorker::calls).collect::<Vec<_>>();
        if again {
            assert_eq!(response.expect_status(200).text(), "ran", "{answer:?}");
            assert_eq!(calls.len(), 2, "{answer:?}");
            assert_eq!(calls[0].envelope["param"], calls[1].envelope["param"]);
            assert_eq!(
                calls[0].envelope["context"]["request_id"],
                calls[1].envelope["context"]["request_id"]
            );
        } else {
            outcome_unknown(&response);
            assert_eq!(calls.len(), 1, "{answer:?}");
        }
    }
}

/// The worker closed the connection while it was idle: nothing of the next call was read, so it goes out again.
#[tokio::test]
async fn a_connection_that_went_stale_fails_nobody() {
    let (gateway, worker) = serving("", &["foo"]).await;
    for _ in 0..10 {
        assert_eq!(gateway.post("/foo", "x").await.status, 200);
        worker.server().close_connections();
    }
    assert_eq!(worker.calls().len(), 10);
}

#[tokio::test]
async fn a_worker_gets_no_more_than_it_takes_at_once() {
    let gateway = Gateway::start("[workers]\npark = \"50ms\"").await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker").handler("foo").set("max_concurrency", json!(2));
    worker.register(&gateway, &registration).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let running = [(); 2].map(|()| send_in_background(&gateway, Request::post("/foo", "x")));
    worker.call(1).await;
    not_run(&gateway.post("/foo", "x").await);
    assert_eq!(worker.calls().len(), 2);
    gate.open();
    for response in running {
        drop(response.await.expect("no panic").expect_status(200));
    }
    assert_eq!(gateway.post("/foo", "x").await.status, 200);
}

#[tokio::test]
async fn the_tables_keep_secrets() {
    let (gateway, worker) = serving("", &["foo"]).await;
    let registered = worker.register(&gateway, &Registration::new("worker").handler("foo")).await;
    for target in ["/v1/workers", "/v1/routes", "/metrics"] {
        let text = gateway.admin().get(target).await.expect_status(200).text();
        assert!(!text.contains(&registered.secret), "{target}: {text}");
    }
    let workers: Value = gateway.admin().get("/v1/workers").await.json();
    assert!(workers.to_string().contains(&registered.worker_id), "{workers}");
}

fn send_in_background(gateway: &Gateway, request: Request) -> tokio::task::JoinHandle<Response> {
    let address = gateway.public_address();
    tokio::spawn(async move { request.send(address).await })
}

/// It took the call before it heard of its own drain: that is no reason to fail the caller.
#[tokio::test]
async fn a_call_that_a_leaving_worker_declines_waits_for_the_next_one() {
    let gateway = Gateway::start("[workers]\npark = \"50s\"").await;
    let leaving = ScriptedWorker::start("leaving");
    let registration = Registration::new("same").handler("foo");
    let registered = leaving.register(&gateway, &registration).await;
    let gate = Gate::default();
    leaving.always(Answer::status(503, "{}").header("Gearway-Not-Run", "1").after(&gate));
    let waiting = send_in_background(&gateway, Request::post("/foo", "x"));
    leaving.call(0).await;
    gateway.worker_side().deregister(&registered.worker_id).await.expect_status(204).body.clear();
    gate.open();
    let next = ScriptedWorker::start("next");
    next.register(&gateway, &registration).await;
    assert_eq!(waiting.await.expect("no panic").expect_status(200).json()["worker"], "next");
}

/// 503 would say that it did not run.
#[tokio::test]
async fn what_may_have_run_is_not_called_not_run_when_it_cannot_be_repeated() {
    let gateway = Gateway::start("[workers]\npark = \"50ms\"").await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("same").handler_with(json!({"name": "foo", "idempotent": true}));
    worker.register(&gateway, &registration).await;
    worker.always(Answer::close().after(&Gate::default()));
    let lost = send_in_background(&gateway, Request::post("/foo", "x"));
    worker.call(0).await;
    worker.server().refuse().await;
    outcome_unknown(&lost.await.expect("no panic"));
    assert_eq!(worker.calls().len(), 1);
}

/// The policy is that of the moment when the call goes out, and not when its head came.
#[tokio::test]
async fn a_body_under_way_does_not_keep_an_old_policy() {
    let gateway = Gateway::start("").await;
    let open = ScriptedWorker::start("open");
    open.register(&gateway, &Registration::new("same").handler("foo")).await;
    let mut connection = gateway.connect().await;
    connection
        .write(b"POST /foo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx")
        .await
        .expect("open");
    wait::until("the body is being read", async || {
        let metrics = gateway.admin().get("/metrics").await.text();
        metrics.lines().any(|line| line == "gearway_bytes_in_flight 1").then_some(())
    })
    .await;
    let strict = ScriptedWorker::start("strict");
    let registration = Registration::new("same").handler_with(json!({"name": "foo", "key_required": true}));
    strict.register(&gateway, &registration).await;
    connection.write(b"x").await.expect("open");
    let response = connection.read_response().await.expect("an answer");
    expect::error(&response, 401, 101, "NotAuthenticated");
    assert_eq!((open.calls().len(), strict.calls().len()), (0, 0));
}

/// Whoever may register is not thereby allowed to keep the gateway busy, or to fill its log.
#[tokio::test]
async fn a_name_as_long_as_a_request_is_judged_at_once() {
    let gateway = Gateway::start("").await;
    let worker = ScriptedWorker::start("worker");
    let token = gateway.registration_token();
    let name: String = (0..300_000).map(|number| format!("/{{p{number}}}")).collect();
    let register = async |name: &str| {
        let registration = Registration::new("worker").handler(name);
        worker.try_register(&gateway, &registration, Some(&token)).await
    };
    assert_eq!(register(&name).await.status, 201);
    for (mistake, wanted) in [("/{p0}", "two parameters"), ("/\\", "backslash"), ("//", "empty segment")] {
        let refused = register(&format!("{name}{mistake}")).await.expect_status(400);
        assert_eq!(refused.json()["error"]["info"]["field"], "handlers[0].name");
        assert!(refused.body.len() < 16 << 10, "{wanted}: {} bytes", refused.body.len());
    }
    assert!(gateway.log().iter().all(|line| line.len() < 64 << 10));
    assert_eq!(gateway.admin().routes().await.len(), 1);
}
