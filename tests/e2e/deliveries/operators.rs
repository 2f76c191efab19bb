//! What operators see and do: `/v1/deliveries` and `gearway deliveries`.

use std::collections::BTreeSet;
use std::time::Duration;

use gearway_tests::server::Answer;
use gearway_tests::webhooks::{Known, wait_until_delivered};
use gearway_tests::{Gateway, Load, Request, wait};
use serde_json::{Value, json};

use crate::expect;

use super::{PATH, delivering, delivery_id, listed, wait_for_state};

#[tokio::test]
async fn operators_see_dead_letters_and_have_them_run_again() {
    let (gateway, worker) = delivering("", &json!({"mode": "durable"})).await;
    let gone = json!({"result": {"type": "response", "status": 410, "header": {"Set-Cookie": ["canary"]}, "body": "Z29uZQ=="}});
    worker.always(Answer::reply(&gone));
    let request = Request::post(PATH, "x").header("Authorization", "Basic canary");
    let id = delivery_id(&gateway.send(request).await.expect_status(200));
    let dead = wait_for_state(&gateway, "dead", 1).await;
    assert_eq!(
        (&dead[0]["id"], &dead[0]["attempts"], &dead[0]["last_status"]),
        (&json!(id), &json!(1), &json!(410))
    );
    assert_eq!(dead[0]["route"], PATH);
    assert!(listed(&gateway, "state=pending").await.is_empty());
    assert!(listed(&gateway, "route=/another").await.is_empty());
    assert!(listed(&gateway, &format!("after={id}")).await.is_empty());

    let shown = gateway.admin().get(&format!("/v1/deliveries/{id}")).await.expect_status(200);
    assert!(!shown.text().contains("canary"), "{shown:?}");
    let shown = shown.json();
    assert_eq!((&shown["request"]["body"], &shown["request"]["method"]), (&json!("eA=="), &json!("POST")));
    assert_eq!(shown["attempts"][0]["answer"]["body"], "Z29uZQ==");

    worker.always(Answer::text("well"));
    let replay = Request::new("POST", &format!("/v1/deliveries/{id}/replay")).body("");
    let replayed = gateway.admin().send(replay).await.expect_status(202).json();
    let context = worker.call(1).await.envelope["context"]["delivery"].clone();
    assert_eq!((&context["id"], &context["replay_of"]), (&replayed["id"], &json!(id)));
    assert_eq!(context["attempt"], 1);
    wait_for_state(&gateway, "delivered", 1).await;

    // It was replayed, and is not once more; another is.
    worker.always(Answer::reply(&gone));
    drop(gateway.post(PATH, "y").await.expect_status(200));
    wait_for_state(&gateway, "dead", 2).await;
    let cli = gateway.cli(&["deliveries", "replay", "--state", "dead", "--json"]).await;
    assert_eq!((cli.code(), cli.stdout.trim()), (0, r#"{"replayed":1}"#), "{cli:?}");
    let everything = gateway.admin().send(Request::new("POST", "/v1/deliveries/replay").body("")).await;
    assert_eq!(everything.status, 400, "{everything:?}");
    let cli = gateway.cli(&["deliveries", "drop", &id]).await;
    assert_eq!(cli.code(), 0, "{cli:?}");
    drop(gateway.admin().get(&format!("/v1/deliveries/{id}")).await.expect_status(404));
    let metrics = gateway.admin().get("/metrics").await.text();
    assert!(metrics.contains("gearway_deliveries_accepted_total{http_route=\"/pay/stripe\"} 2"), "{metrics}");
}

/// A thousand dead letters and more, on one page after the other, and run again with one command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_are_listed_by_pages_and_replayed_at_once() {
    const AT_LEAST: usize = 1500;
    let (gateway, worker) = delivering("", &json!({"mode": "durable"})).await;
    worker.always(Answer::reply(&json!({"result": {"type": "response", "status": 410, "body": ""}})));
    let load = Load::start(gateway.public_address(), 16, &Request::post(PATH, "x"));
    load.wait_for_more(AT_LEAST).await;
    let tally = load.stop().await;
    tally.assert_all_ok();
    let sent = tally.total();
    wait_until_delivered(&gateway.data_dir()).await;

    let dead = all_pages(&gateway, "state=dead&limit=400").await;
    let ids: BTreeSet<_> = dead.iter().map(|delivery| delivery["id"].to_string()).collect();
    assert_eq!((dead.len(), ids.len()), (sent, sent));
    assert!(dead.is_sorted_by_key(|delivery| delivery["id"].as_str().map(str::to_owned)), "in order");
    let cli = gateway.cli(&["deliveries", "list", "--state", "dead", "--limit", "2"]).await;
    assert!(cli.code() == 0 && cli.stdout.lines().count() == 3 && cli.stderr.contains("--after"), "{cli:?}");

    worker.always(Answer::text("well"));
    let replay = ["deliveries", "replay", "--state", "dead", "--route", PATH];
    let cli = gateway.cli(&[replay.as_slice(), &["--limit", "10", "--json"]].concat()).await;
    assert_eq!((cli.code(), cli.stdout.trim()), (0, r#"{"replayed":10}"#), "{cli:?}");
    let cli = gateway.cli(&[replay.as_slice(), &["--json"]].concat()).await;
    let replayed = format!(r#"{{"replayed":{}}}"#, sent - 10);
    assert_eq!((cli.code(), cli.stdout.trim()), (0, replayed.as_str()), "{cli:?}");
    wait_until_delivered(&gateway.data_dir()).await;
    assert_eq!(Known::read(&gateway.data_dir(), 0).delivered.len(), sent);
    let replays: BTreeSet<_> = worker
        .calls()
        .iter()
        .filter_map(|call| call.envelope["context"]["delivery"]["replay_of"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(replays.len(), sent, "each ran again, as a delivery of its own");
}

/// Their ids say when they came, and that was later, by a clock that was set back since.
#[tokio::test]
async fn a_clock_that_was_set_back_keeps_nobody_from_replaying() {
    let (mut gateway, worker) = delivering("", &json!({"mode": "durable"})).await;
    worker.always(Answer::reply(&json!({"result": {"type": "response", "status": 410, "body": ""}})));
    drop(gateway.post(PATH, "x").await.expect_status(200));
    wait_for_state(&gateway, "dead", 1).await;
    assert!(gateway.sigterm().await.success());
    let log = rusqlite::Connection::open(gateway.data_dir().join("deliveries.db")).expect("the log");
    // A day, in ids.
    let later = "UPDATE delivery SET id = id + (86400000 << 20)";
    log.execute_batch(later).expect("it came a day later");
    drop(log);
    worker.always(Answer::text("well"));
    gateway.start_again().await;
    let cli = gateway.cli(&["deliveries", "replay", "--state", "dead", "--json"]).await;
    assert_eq!((cli.code(), cli.stdout.trim()), (0, r#"{"replayed":1}"#), "{cli:?}");
    wait_for_state(&gateway, "delivered", 1).await;
}

/// What was misspelt would otherwise be left out, and more would run again than was meant.
#[tokio::test]
async fn a_filter_that_is_not_known_is_refused() {
    let (gateway, worker) = delivering("", &json!({"mode": "durable"})).await;
    drop(gateway.post(PATH, "x").await.expect_status(200));
    wait_for_state(&gateway, "delivered", 1).await;
    for (method, target) in [("POST", "/v1/deliveries/replay"), ("GET", "/v1/deliveries")] {
        let target = format!("{target}?route={PATH}&staet=dead");
        let response = gateway.admin().send(Request::new(method, &target).body("")).await;
        let error = expect::bad_request(&response);
        assert!(error["message"].as_str().is_some_and(|message| message.contains("staet")), "{error}");
    }
    wait_for_state(&gateway, "delivered", 1).await;
    assert_eq!(worker.calls().len(), 1);
}

async fn all_pages(gateway: &Gateway, query: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let target = format!("/v1/deliveries?{query}&after={after}");
        let page = gateway.admin().get(&target).await.expect_status(200).json();
        found.extend(page["deliveries"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => return found,
        }
    }
}

#[tokio::test]
async fn what_is_dropped_is_never_delivered() {
    let (gateway, worker) = delivering("", &json!({"mode": "durable"})).await;
    worker.server().refuse().await;
    let dropped = delivery_id(&gateway.post(PATH, "1").await.expect_status(200));
    let kept = delivery_id(&gateway.post(PATH, "2").await.expect_status(200));
    let cli = gateway.cli(&["deliveries", "drop", &dropped]).await;
    assert_eq!(cli.code(), 0, "{cli:?}");
    let again = gateway.cli(&["deliveries", "drop", &dropped]).await;
    assert!(again.code() == 1 && again.stderr.contains(&dropped), "{again:?}");
    worker.server().accept();
    wait_for_state(&gateway, "delivered", 1).await;
    let calls = worker.calls();
    let ran: Vec<_> = calls.iter().map(|call| &call.envelope["context"]["delivery"]["id"]).collect();
    assert_eq!(ran, [&json!(kept)]);
}

/// The worker's `Retry-After` is when it is called again, unless an operator does not want to wait for it.
#[tokio::test]
async fn what_is_pending_can_be_hastened() {
    let (gateway, worker) = delivering("", &json!({"mode": "durable"})).await;
    let header = json!({"Retry-After": ["3600"]});
    worker.always(Answer::reply(
        &json!({"result": {"type": "response", "status": 503, "header": header, "body": ""}}),
    ));
    let id = delivery_id(&gateway.post(PATH, "x").await.expect_status(200));
    let waiting = wait::until("the first attempt is recorded", async || {
        let shown = gateway.admin().get(&format!("/v1/deliveries/{id}")).await.expect_status(200).json();
        (shown["attempts"].as_array().map(Vec::len) == Some(1)).then_some(shown)
    })
    .await;
    let time = |value: &Value| humantime::parse_rfc3339(value.as_str().unwrap_or_default()).expect("a time");
    let pause = time(&waiting["next_attempt_at"]).duration_since(time(&waiting["attempts"][0]["started_at"]));
    let pause = pause.expect("later");
    assert!(pause >= Duration::from_secs(3600) && pause < Duration::from_secs(3700), "{pause:?}");
    worker.always(Answer::text("well"));
    let cli = gateway.cli(&["deliveries", "replay", &id]).await;
    assert!(cli.code() == 0 && cli.stdout.contains("due now"), "{cli:?}");
    wait_for_state(&gateway, "delivered", 1).await;
    assert_eq!(worker.calls().len(), 2);
    let cli = gateway.cli(&["deliveries", "show", &id]).await;
    assert!(cli.code() == 0 && cli.stdout.contains("503") && cli.stdout.contains("200"), "{cli:?}");
}

/// The last attempt that fails makes a dead letter, and the attempts before it are no faster than the contract's five seconds.
#[tokio::test]
async fn the_last_attempt_makes_a_dead_letter() {
    let (gateway, worker) = delivering("", &json!({"mode": "durable", "attempts": 2})).await;
    worker.always(Answer::status(500, "no reply"));
    let id = delivery_id(&gateway.post(PATH, "x").await.expect_status(200));
    wait_for_state(&gateway, "dead", 1).await;
    let shown = gateway.admin().get(&format!("/v1/deliveries/{id}")).await.expect_status(200).json();
    let attempts = shown["attempts"].as_array().cloned().unwrap_or_default();
    assert_eq!(attempts.len(), 2, "{shown}");
    let started = |attempt: &Value| {
        humantime::parse_rfc3339(attempt["started_at"].as_str().unwrap_or_default()).expect("a time")
    };
    let pause = started(&attempts[1]).duration_since(started(&attempts[0])).expect("in order");
    assert!(pause >= Duration::from_secs(5), "{pause:?}");
    assert_eq!(worker.calls().len(), 2);
}
