//! Workers that fail at any byte. Contract sections 5 and 7: what a client is told is what has happened.

use gearway_tests::faults::Faults;
use gearway_tests::faulty::{self, End, Fault, FaultyWorker, Ledger, REQUEST_HEADER};
use gearway_tests::{Gateway, Registration, Request, wait};
use serde_json::json;

use crate::expect::{not_run, outcome_unknown};

/// The run's seed; `GEARWAY_TESTS_SEED` asks for another.
const SEED: u64 = 20_150_401;
const REQUESTS: usize = 4000;

async fn serving() -> (Gateway, FaultyWorker, Ledger) {
    let gateway = Gateway::start("[workers]\npark = \"100ms\"").await;
    let ledger = Ledger::default();
    let worker = FaultyWorker::start(&ledger);
    let registration = Registration::new("faulty")
        .handler_with(json!({"name": "once", "timeout_ms": 10_000}))
        .handler_with(json!({"name": "hasty", "timeout_ms": 60}))
        .handler_with(json!({"name": "again", "timeout_ms": 10_000, "idempotent": true}));
    worker.register(&gateway, &registration).await;
    (gateway, worker, ledger)
}

/// The next call fails so, and those after it do not.
fn fail_once(worker: &FaultyWorker, fault: Fault) {
    let next = std::sync::Mutex::new(Some(fault));
    worker.fail(move || next.lock().ok().and_then(|mut next| next.take()).unwrap_or(Fault::None));
}

fn request(path: &str, number: &str) -> Request {
    Request::post(path, "some body").header(REQUEST_HEADER, number)
}

/// The worker got a part of the call and no more: it may have run for all that the gateway knows, so it is called once.
#[tokio::test]
async fn a_call_cut_at_any_byte_is_not_made_twice() {
    let (gateway, worker, ledger) = serving().await;
    for end in [End::Close, End::Reset] {
        for bytes in 0..500 {
            fail_once(&worker, Fault::InRequest(bytes, end));
            let number = format!("{end:?} {bytes}");
            let calls = worker.calls();
            outcome_unknown(&gateway.send(request("/once", &number)).await);
            assert_eq!((ledger.runs(&number), worker.calls()), (0, calls + 1), "{number}");
        }
    }
    let number = "whole";
    assert_eq!(gateway.send(request("/once", number)).await.expect_status(200).text(), number);
}

/// The worker ran the handler and died over its answer, at each of its bytes.
#[tokio::test]
async fn a_reply_cut_at_any_byte_has_an_unknown_outcome() {
    let (gateway, worker, ledger) = serving().await;
    let whole = faulty::reply("Close 100", Fault::None).len();
    for end in [End::Close, End::Reset] {
        for bytes in 0..whole {
            let number = format!("{end:?} {bytes:03}");
            fail_once(&worker, Fault::InReply(bytes, end));
            outcome_unknown(&gateway.send(request("/once", &number)).await);
            assert_eq!(ledger.runs(&number), 1, "{number}");
        }
    }
}

/// As above, but a handler that may run again does, and its client learns nothing of it.
#[tokio::test]
async fn an_idempotent_handler_is_called_again_wherever_the_first_call_was_cut() {
    let (gateway, worker, ledger) = serving().await;
    let whole = faulty::reply("Close 100", Fault::None).len();
    for end in [End::Close, End::Reset] {
        for (bytes, runs) in (0..whole).step_by(7).map(|bytes| (bytes, 2)) {
            let number = format!("{end:?} {bytes:03}");
            fail_once(&worker, Fault::InReply(bytes, end));
            let response = gateway.send(request("/again", &number)).await.expect_status(200);
            assert_eq!((response.text(), ledger.runs(&number)), (number.clone(), runs));
        }
        for bytes in (0..500).step_by(17) {
            let number = format!("request {end:?} {bytes}");
            fail_once(&worker, Fault::InRequest(bytes, end));
            let response = gateway.send(request("/again", &number)).await.expect_status(200);
            assert_eq!((response.text(), ledger.runs(&number)), (number.clone(), 1));
        }
    }
}

/// Nothing more comes, at any point of the exchange: the deadline ends it.
#[tokio::test]
async fn a_worker_that_falls_silent_at_any_byte_is_too_slow() {
    let (gateway, worker, ledger) = serving().await;
    let stalls = [0, 1, 60, 200, 400].map(|bytes| Fault::InRequest(bytes, End::Stall));
    let late = [0, 1, 40, 120, 200].map(|bytes| Fault::InReply(bytes, End::Stall));
    for fault in stalls.into_iter().chain(late) {
        let number = format!("{fault:?}");
        fail_once(&worker, fault);
        let response = gateway.send(request("/hasty", &number)).await.expect_status(504);
        assert_eq!(response.json()["error"]["info"]["outcome"], "unknown", "{response:?}");
        assert_eq!(ledger.runs(&number), usize::from(fault.runs()), "{number}");
    }
}

/// A second answer to one call is nobody's: the next client on that connection must not get it.
#[tokio::test]
async fn an_answer_that_comes_twice_reaches_nobody_else() {
    let (gateway, worker, _ledger) = serving().await;
    worker.fail(|| Fault::Twice);
    for number in 0..200 {
        let number = number.to_string();
        let response = gateway.send(request("/again", &number)).await;
        match response.status {
            200 => assert_eq!(response.text(), number),
            _ => drop(crate::expect::error(&response, 502, 130, "UnexpectedError")),
        }
    }
}

/// A connection that was accepted and closed without reading a byte has run nothing, and no answer says otherwise.
#[tokio::test]
async fn a_worker_that_accepts_and_closes_runs_nothing() {
    let (gateway, worker, ledger) = serving().await;
    for end in [End::Close, End::Reset] {
        // Connections of before would be taken.
        worker.refuse().await;
        worker.accept();
        worker.fail_connections(move || Some(end));
        for number in 0..50 {
            let number = format!("{end:?} {number}");
            let response = gateway.send(request("/once", &number)).await;
            match response.status {
                502 => drop(outcome_unknown(&response)),
                _ => drop(not_run(&response)),
            }
            assert_eq!(ledger.runs(&number), 0);
        }
    }
    worker.fail_connections(|| None);
    wait::until("the worker serves again", async || {
        (gateway.send(request("/once", "after")).await.status == 200).then_some(())
    })
    .await;
}

/// Every answer of thousands matches what has run; see [`gearway_tests::faults`]. `cargo xtask soak` does this for longer.
#[tokio::test]
async fn answers_match_what_has_run() {
    let seed = std::env::var("GEARWAY_TESTS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(SEED);
    println!("GEARWAY_TESTS_SEED={seed}");
    let mut faults = Faults::start(seed, "[workers]\npark = \"500ms\"").await;
    let outcomes = faults.round(REQUESTS).await;
    assert!(outcomes.broken_promises.is_empty(), "{outcomes:#?}");
    // A run in which nothing failed would show nothing.
    let answers = outcomes.answers.keys().map(String::as_str).collect::<Vec<_>>();
    for expected in ["200", "502 outcome unknown", "504 outcome unknown"] {
        assert!(answers.contains(&expected), "{outcomes:#?}");
    }
    let injected = faults.injected();
    assert!(injected.len() > 10 && injected.values().all(|times| *times > 5), "{injected:#?}");
}
