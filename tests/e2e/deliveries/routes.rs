//! Whose turn it is: slow routes, dead workers, workers that return, copies of one event.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use gearway_tests::server::{Answer, Gate};
use gearway_tests::{Gateway, Registration, Request, ScriptedWorker, wait};
use serde_json::json;

use super::{PATH, delivering, delivery_id, registration, wait_for_state};
use crate::expect;

/// One worker serves two routes, and another one a third: the first hangs, the third is away, the second goes on.
#[tokio::test]
async fn a_slow_or_dead_route_holds_up_no_other() {
    let (gateway, worker) = (Gateway::start("").await, ScriptedWorker::start("worker"));
    let away = ScriptedWorker::start("away");
    let durable = |name: &str| json!({"name": name, "delivery": {"mode": "durable"}});
    let registration =
        Registration::new("worker").handler_with(durable("slow")).handler_with(durable("quick"));
    worker.register(&gateway, &registration).await;
    away.register(&gateway, &Registration::new("away").handler_with(durable("away"))).await;
    away.server().refuse().await;
    let gate = Gate::default();
    let slow = Answer::text("at last").after(&gate);
    worker.script(move |call| match call.envelope["name"].as_str() {
        Some("slow") => slow.clone(),
        _ => Answer::text("done"),
    });
    for number in 0..100 {
        drop(gateway.post("/slow", number.to_string()).await.expect_status(200));
        drop(gateway.post("/away", number.to_string()).await.expect_status(200));
    }
    for number in 0..100 {
        drop(gateway.post("/quick", number.to_string()).await.expect_status(200));
    }
    wait::until("the quick ones are delivered", async || {
        let quick = worker.calls().iter().filter(|call| call.envelope["name"] == "quick").count();
        (quick == 100).then_some(())
    })
    .await;
    let slow = worker.calls().iter().filter(|call| call.envelope["name"] == "slow").count();
    assert!(slow <= 32, "{slow} at once");
    gate.open();
    away.server().accept();
    wait_for_state(&gateway, "delivered", 300).await;
    assert!(away.calls().len() == 100 && worker.calls().len() == 200, "each ran once");
}

/// Where deliveries may have few calls at once, one route does not get all of them.
#[tokio::test]
async fn a_slow_route_leaves_room_in_a_small_gateway() {
    let gateway = Gateway::start("[limits]\nmax_in_flight = 16\nrequest_timeout = \"10m\"").await;
    let (slow, quick) = (ScriptedWorker::start("slow"), ScriptedWorker::start("quick"));
    for worker in [(&slow, "slow"), (&quick, "quick")] {
        let handler = json!({"name": worker.1, "delivery": {"mode": "durable"}});
        worker.0.register(&gateway, &Registration::new(worker.1).handler_with(handler)).await;
    }
    let gate = Gate::default();
    slow.always(Answer::text("at last").after(&gate));
    for number in 0..20 {
        drop(gateway.post("/slow", number.to_string()).await.expect_status(200));
    }
    drop(slow.call(3).await);
    for number in 0..20 {
        drop(gateway.post("/quick", number.to_string()).await.expect_status(200));
    }
    wait_for_state(&gateway, "delivered", 20).await;
    gate.open();
    wait_for_state(&gateway, "delivered", 40).await;
}

/// A backlog reaches a worker that returns no faster than it takes it: never more at once than its share, of
/// which one route gets half.
#[tokio::test]
async fn a_backlog_does_not_bury_a_worker_that_returns() {
    for (max_concurrency, most) in [(json!(8), 2), (json!(null), 16)] {
        let (gateway, worker) = (Gateway::start("").await, ScriptedWorker::start("worker"));
        let mut registration = registration(&json!({"mode": "durable"}));
        if !max_concurrency.is_null() {
            registration = registration.set("max_concurrency", max_concurrency);
        }
        worker.register(&gateway, &registration).await;
        worker.server().refuse().await;
        for number in 0..100 {
            drop(gateway.post(PATH, number.to_string()).await.expect_status(200));
        }
        let gate = Gate::default();
        let at_once = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&at_once);
        let held = Answer::text("done").after(&gate);
        worker.script(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            held.clone()
        });
        worker.server().accept();
        wait::until("the worker has its share", async || {
            (at_once.load(Ordering::SeqCst) == most).then_some(())
        })
        .await;
        // A route that is looked at again every 100 ms would have had more by now.
        drop(gateway.post(PATH, "one more").await.expect_status(200));
        wait_for_state(&gateway, "pending", 101).await;
        assert_eq!(at_once.load(Ordering::SeqCst), most);
        gate.open();
        wait_for_state(&gateway, "delivered", 101).await;
        assert_eq!(worker.calls().len(), 101);
    }
}

/// A path's next owner gets what is sent there while the last one still runs what it got.
#[tokio::test]
async fn a_path_that_changes_hands_goes_on() {
    let gateway = Gateway::start("").await;
    let (old, new) = (ScriptedWorker::start("old"), ScriptedWorker::start("new"));
    let one_at_once = |name: &str, path: &str| {
        let handler = json!({"name": path, "delivery": {"mode": "durable"}});
        Registration::new(name).set("max_concurrency", json!(1)).handler_with(handler)
    };
    let gate = Gate::default();
    old.always(Answer::text("done").after(&gate));
    old.register(&gateway, &one_at_once("old", PATH)).await;
    drop(gateway.post(PATH, "1").await.expect_status(200));
    drop(old.call(0).await);
    old.register(&gateway, &one_at_once("old", "elsewhere")).await;
    new.register(&gateway, &one_at_once("new", PATH)).await;
    for number in 2..5 {
        drop(gateway.post(PATH, number.to_string()).await.expect_status(200));
    }
    drop(new.call(2).await);
    gate.open();
    wait_for_state(&gateway, "delivered", 4).await;
}

/// A handler of many paths is replaced by one of a single path: what is left of the others keeps nothing of that one waiting.
#[tokio::test]
async fn what_waits_for_another_handler_holds_up_no_path() {
    for (is_known, others) in [(true, 300), (false, 3)] {
        let (gateway, worker) = (Gateway::start("").await, ScriptedWorker::start("worker"));
        let durable = |name: &str| json!({"name": name, "delivery": {"mode": "durable"}});
        let registered =
            worker.register(&gateway, &Registration::new("worker").handler_with(durable("hooks/"))).await;
        worker.server().refuse().await;
        if is_known {
            drop(gateway.worker_side().deregister(&registered.worker_id).await.expect_status(204));
        }
        for number in 0..others {
            drop(gateway.post(&format!("/hooks/{number}"), "").await.expect_status(200));
        }
        for path in ["/hooks/mine", "/hooks/0", "/hooks/mine"] {
            drop(gateway.post(path, "").await.expect_status(200));
        }
        worker.server().accept();
        worker.register(&gateway, &Registration::new("worker").handler_with(durable("hooks/mine"))).await;
        for number in 0..2 {
            assert_eq!(worker.call(number).await.envelope["param"]["path"], "/hooks/mine");
        }
        wait_for_state(&gateway, "pending", others + 1).await;
        worker.register(&gateway, &Registration::new("worker").handler_with(durable("hooks/"))).await;
        wait_for_state(&gateway, "delivered", others + 3).await;
    }
}

/// As many calls as deliveries may have: what is sent to other routes waits, and neither counts as in flight meanwhile nor is forgotten,
/// though many before it have no worker.
#[tokio::test]
async fn what_waits_for_any_room_is_in_nobodys_way() {
    const SLOW: usize = 4;
    let gateway = Gateway::start("[limits]\nmax_in_flight = 8\nrequest_timeout = \"10m\"").await;
    let (worker, away) = (ScriptedWorker::start("worker"), ScriptedWorker::start("away"));
    let durable = |name: String| json!({"name": name, "delivery": {"mode": "durable"}});
    let mut registration = Registration::new("worker").handler("sync").handler_with(durable("last".into()));
    for number in 0..SLOW {
        registration = registration.handler_with(durable(format!("slow/{number}")));
    }
    worker.register(&gateway, &registration).await;
    let all_away = (0..10 * SLOW).fold(Registration::new("away"), |registration, number| {
        registration.handler_with(durable(format!("away/{number}")))
    });
    let gone = away.register(&gateway, &all_away).await;
    drop(gateway.worker_side().deregister(&gone.worker_id).await.expect_status(204));

    let gate = Gate::default();
    let slow = Answer::text("at last").after(&gate);
    worker.script(move |call| match call.envelope["name"].as_str() {
        Some("sync" | "last") => Answer::text("done"),
        _ => slow.clone(),
    });
    for number in 0..SLOW {
        drop(gateway.post(&format!("/slow/{number}"), "").await.expect_status(200));
        drop(worker.call(number).await);
    }
    let paths = (0..10 * SLOW).map(|number| format!("/away/{number}"));
    for path in paths.chain(["/last".to_owned(), "/sync".to_owned()]) {
        wait::until("there is room for it", async || {
            (gateway.post(&path, "").await.status == 200).then_some(())
        })
        .await;
    }
    gate.open();
    wait_for_state(&gateway, "delivered", SLOW + 1).await;
}

/// In the mode durable every copy gets the acknowledgement, whatever became of the first one.
#[tokio::test]
async fn copies_of_a_durable_event_get_its_acknowledgement() {
    let delivery = json!({"mode": "durable", "dedup": "X-Event", "ack": {"status": 202, "body": "kept"}});
    let (gateway, worker) = delivering("", &delivery).await;
    let event = Request::post(PATH, "x").header("X-Event", "1");
    let sent = (0..20).map(|_| gateway.send(event.clone()));
    let mut ids = BTreeSet::new();
    for response in join_all(sent).await {
        assert_eq!((response.status, response.text().as_str()), (202, "kept"));
        ids.insert(delivery_id(&response));
    }
    wait_for_state(&gateway, "delivered", 1).await;
    let response = gateway.send(event).await.expect_status(202);
    ids.insert(delivery_id(&response));
    assert_eq!((ids.len(), worker.calls().len()), (1, 1));
}

/// Beyond its window the same id is another event.
#[tokio::test]
async fn an_event_that_comes_after_its_window_runs_again() {
    let delivery = json!({"mode": "durable", "dedup": "X-Event", "dedup_window_s": 1});
    let (gateway, worker) = delivering("", &delivery).await;
    let event = Request::post(PATH, "x").header("X-Event", "1");
    let first = delivery_id(&gateway.send(event.clone()).await.expect_status(200));
    let second = wait::until("it is another event", async || {
        let id = delivery_id(&gateway.send(event.clone()).await.expect_status(200));
        (id != first).then_some(id)
    })
    .await;
    assert_eq!(worker.call(1).await.envelope["context"]["delivery"]["id"], json!(second));
}

/// In the mode sync nothing is kept that copies could be known by, so that nobody is to believe they are.
#[tokio::test]
async fn dedup_without_a_log_is_refused() {
    let (gateway, worker) = (Gateway::start("").await, ScriptedWorker::start("worker"));
    let token = gateway.registration_token();
    for dedup in ["auto", "X-Event"] {
        let refused = registration(&json!({"mode": "sync", "dedup": dedup}));
        let response = worker.try_register(&gateway, &refused, Some(&token)).await;
        let error = expect::bad_request(&response);
        assert!(error["info"]["field"].as_str().is_some_and(|field| field.ends_with("dedup")), "{error}");
    }
    worker.register(&gateway, &registration(&json!({"mode": "sync", "dedup": "off"}))).await;
}
