//! Webhooks that somebody made up, changed, or sends once more.

use std::time::{SystemTime, UNIX_EPOCH};

use gearway_tests::{Gateway, Registration, Request, Response, ScriptedWorker, wait};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use crate::expect;

const KEY: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const CONFIG: &str = "[secrets]\nhook = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970").as_secs()
}

/// A webhook by the rules of standardwebhooks.com, signed with this key.
fn signed(key: &str, id: &str, at: u64, body: &str) -> Request {
    let key = EncodingKey::from_base64_secret(key).expect("base64");
    let signature = crypto::sign(format!("{id}.{at}.{body}").as_bytes(), &key, Algorithm::HS256);
    let signature = signature.expect("a signature").replace('-', "+").replace('_', "/");
    Request::post("/hook", body)
        .header("webhook-id", id)
        .header("webhook-timestamp", at.to_string())
        .header("webhook-signature", format!("v1,{signature}="))
}

async fn hooked(delivery: Value) -> (Gateway, ScriptedWorker) {
    let gateway = Gateway::start(CONFIG).await;
    let worker = ScriptedWorker::start("worker");
    let verify = json!({"scheme": "standard-webhooks", "secret": "hook"});
    let handler = json!({"name": "hook", "methods": ["POST"], "verify": verify, "delivery": delivery});
    worker.register(&gateway, &Registration::new("worker").handler_with(handler)).await;
    (gateway, worker)
}

#[track_caller]
fn refused(response: &Response) {
    expect::error(response, 401, 106, "InvalidSignature");
}

async fn kept(gateway: &Gateway) -> usize {
    let answer = gateway.admin().get("/v1/deliveries").await.expect_status(200).json();
    answer["deliveries"].as_array().unwrap_or_else(|| panic!("no list: {answer}")).len()
}

/// What nobody signed who has the secret is neither stored nor remembered: it takes no id away from the genuine one.
#[tokio::test]
async fn a_forgery_leaves_nothing_behind() {
    let (gateway, worker) = hooked(json!({"mode": "durable"})).await;
    let forger = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    refused(&gateway.send(signed(forger, "evt_1", now(), "mine")).await);
    let unsigned = Request::post("/hook", "mine").header("webhook-id", "evt_1");
    refused(&gateway.send(unsigned).await);
    assert_eq!((kept(&gateway).await, worker.calls().len()), (0, 0));
    drop(gateway.send(signed(KEY, "evt_1", now(), "genuine")).await.expect_status(200));
    assert_eq!(worker.call(0).await.envelope["param"]["body"], "Z2VudWluZQ==");
    // Nor does one that comes later get an answer that was meant for another.
    refused(&gateway.send(signed(forger, "evt_1", now(), "mine")).await);
    assert_eq!(kept(&gateway).await, 1);
}

/// The same bytes again run nothing again; old ones, and parts of different ones, are refused.
#[tokio::test]
async fn a_replay_runs_nothing() {
    let (gateway, worker) = hooked(json!({"mode": "deadline", "ack_after_ms": 50_000})).await;
    let at = now();
    let genuine = signed(KEY, "evt_1", at, "genuine");
    let first = gateway.send(genuine.clone()).await.expect_status(200);
    for _ in 0..3 {
        let again = gateway.send(genuine.clone()).await.expect_status(200);
        assert_eq!(again.body, first.body);
    }
    assert_eq!((worker.calls().len(), kept(&gateway).await), (1, 1));
    for stale in [at - 400, at + 400] {
        refused(&gateway.send(signed(KEY, "evt_2", stale, "genuine")).await);
    }
    let parts = signed(KEY, "evt_1", at, "genuine");
    refused(&gateway.send(parts.clone().body("changed")).await);
    refused(&gateway.send(signed(KEY, "evt_3", at, "genuine").header("webhook-id", "evt_4")).await);
    assert_eq!(worker.calls().len(), 1);
}

/// Without a log of deliveries nothing remembers ids, and the time window is what is left.
#[tokio::test]
async fn a_replay_of_what_is_not_kept_ends_with_its_time_window() {
    let gateway = Gateway::start(CONFIG).await;
    let worker = ScriptedWorker::start("worker");
    let verify = json!({"scheme": "standard-webhooks", "secret": "hook", "tolerance_s": 1});
    let handler = json!({"name": "hook", "methods": ["POST"], "verify": verify});
    worker.register(&gateway, &Registration::new("worker").handler_with(handler)).await;
    wait::until("a webhook is in time", async || {
        (gateway.send(signed(KEY, "evt_1", now(), "x")).await.status == 200).then_some(())
    })
    .await;
    let old = signed(KEY, "evt_1", now(), "x");
    let calls = wait::until("its time is over", async || {
        let calls = worker.calls().len();
        (gateway.send(old.clone()).await.status == 401).then_some(calls)
    })
    .await;
    refused(&gateway.send(old).await);
    assert_eq!(worker.calls().len(), calls);
}
