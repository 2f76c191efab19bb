//! Connections to workers, one call at a time on each.

use gearway_tests::{Answer, Gate, Gateway, Registration, Request, Response, ScriptedWorker, wait};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::expect::outcome_unknown;

fn reply(text: &str) -> Vec<u8> {
    let body = json!({"result": {"type": "text", "value": text}}).to_string();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

async fn read_call(reader: &mut BufReader<&mut TcpStream>) -> bool {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).await.unwrap_or(0) == 0 {
            return false;
        }
        if line == "\r\n" {
            return reader.read_exact(&mut vec![0; length]).await.is_ok();
        }
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().expect("a length");
        }
    }
}

/// A worker that dies of every call is not called three times as often for it.
#[tokio::test]
async fn calls_are_sent_again_within_a_budget() {
    let gateway = Gateway::start("").await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker").handler_with(json!({"name": "foo", "idempotent": true}));
    worker.register(&gateway, &registration).await;
    worker.always(Answer::close());
    let started = std::time::Instant::now();
    let mut connection = gateway.connect().await;
    for _ in 0..200 {
        let response = connection.request(&Request::get("/foo")).await.expect("an answer");
        assert_eq!(response.status, 502, "{response:?}");
    }
    let again = worker.calls().len() - 200;
    let allowed = 100 + 200 / 5 + 10 * (1 + usize::try_from(started.elapsed().as_secs()).expect("soon"));
    assert!((100..=allowed).contains(&again), "{again} calls were sent again");
    worker.always(Answer::text("recovered"));
    assert_eq!(gateway.get("/foo").await.expect_status(200).text(), "recovered");
}

/// A worker that answers each call, and then says one thing more that nobody asked for.
#[tokio::test]
async fn an_answer_that_nobody_asked_for_answers_nobody() {
    let gateway = Gateway::start("").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let worker = ScriptedWorker::start("registers for the other");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    worker.register(&gateway, &Registration::new("worker").handler("foo").set("url", json!(url))).await;
    let ask = async |number: usize| -> Response { gateway.post("/foo", number.to_string()).await };
    let mut kept = Vec::new();
    for number in 0..3 {
        let serve = async {
            let (mut stream, _) =
                wait::within("a connection of its own", listener.accept()).await.expect("a connection");
            let mut reader = BufReader::new(&mut stream);
            assert!(read_call(&mut reader).await);
            stream.write_all(&reply(&format!("right {number}"))).await.expect("open");
            stream
        };
        let (response, mut stream) = tokio::join!(ask(number), serve);
        assert_eq!(response.expect_status(200).text(), format!("right {number}"));
        stream.write_all(&reply("wrong")).await.expect("open");
        kept.push(stream);
    }
}

/// A process that dies closes its connections one after the other: the first call that is lost tells of the others.
#[tokio::test]
async fn a_lost_call_ends_the_other_connections_to_its_worker() {
    let gateway = Gateway::start("[runtime]\nthreads = 1").await;
    let worker = ScriptedWorker::start("worker");
    worker.register(&gateway, &Registration::new("worker").handler("foo")).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let mut asking = JoinSet::new();
    for number in 0..3 {
        let to = gateway.public_address();
        asking.spawn(async move { Request::post("/foo", "x").send(to).await.status });
        worker.call(number).await;
    }
    gate.open();
    assert_eq!(asking.join_all().await, [200; 3]);
    assert_eq!(worker.server().connections(), 3);
    worker.always(Answer::close());
    outcome_unknown(&gateway.post("/foo", "x").await);
    worker.always(Answer::text("done"));
    for _ in 0..3 {
        assert_eq!(gateway.post("/foo", "x").await.status, 200);
    }
    // Neither of the two that were idle, and the new one for all.
    let connections: Vec<usize> = worker.calls()[4..].iter().map(|call| call.http.connection).collect();
    assert_eq!(connections, [3; 3]);
}
