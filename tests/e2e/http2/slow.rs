//! HTTP/2: clients that take their time, in number.

use bytes::Bytes;
use gearway_tests::{Answer, Gate, Gateway, wait};
use h2::client::{ResponseFuture, SendRequest};

use super::frames::Frames;
use super::{AtWork, H2C, ask, client, get, post};
use crate::expect::{not_run, serving};

const ROOM: usize = 4;
const HEAD: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/foo"), (":authority", "a")];

async fn roomy(more: &str) -> (Gateway, gearway_tests::ScriptedWorker) {
    let config = format!(
        "{H2C}[limits]\nmax_connections = {ROOM}\nheader_timeout = \"1h\"\nbody_timeout = \"1h\"\n{more}"
    );
    serving(&config, &["foo"]).await
}

/// Everybody else is served, and the one who was slow for the longest is gone.
async fn the_first_makes_room(gateway: &Gateway, mut crowd: Vec<Frames>) {
    for _ in 0..3 {
        assert_eq!(gateway.post("/foo", "body").await.status, 200);
    }
    assert!(crowd[0].ends().await);
}

#[tokio::test]
async fn bodies_that_do_not_come_make_room() {
    let (gateway, worker) = roomy("").await;
    let mut crowd = Vec::new();
    for _ in 0..3 * ROOM {
        let mut frames = Frames::connect(&gateway).await;
        for stream in [1, 3, 5] {
            frames.headers(stream, &HEAD, false).await;
            frames.data(stream, b"bo", false).await;
        }
        crowd.push(frames);
    }
    the_first_makes_room(&gateway, crowd).await;
    assert!(worker.calls().iter().all(|call| call.envelope["param"]["body"] != "Ym8="));
}

#[tokio::test]
async fn responses_that_nobody_takes_make_room() {
    let (gateway, worker) = roomy("").await;
    worker.always(Answer::text(&"x".repeat(1000)));
    let mut crowd = Vec::new();
    for number in 0..3 * ROOM {
        let mut frames = Frames::connect(&gateway).await;
        // No byte of a response may be sent.
        frames.raw(0x4, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
        frames.headers(1, &HEAD, false).await;
        frames.data(1, b"body", true).await;
        worker.call(number).await;
        crowd.push(frames);
    }
    the_first_makes_room(&gateway, crowd).await;
}

/// A call that is being worked for counts more than a body beside it that does not come.
#[tokio::test]
async fn a_connection_with_a_call_at_work_is_not_given_up() {
    let (gateway, worker) = roomy("").await;
    let sender = client(&gateway).await;
    let at_work = AtWork::begin(&worker, &sender).await;
    let _slow = begin(&sender).await;
    let mut crowd = Vec::new();
    for _ in 0..3 * ROOM {
        let mut frames = Frames::connect(&gateway).await;
        frames.headers(1, &HEAD, false).await;
        crowd.push(frames);
    }
    assert!(crowd[0].ends().await);
    at_work.finish().await;
}

/// A request whose body does not come.
async fn begin(sender: &SendRequest<Bytes>) -> (ResponseFuture, h2::SendStream<Bytes>) {
    let mut sender = sender.clone().ready().await.expect("a connection");
    let (response, mut stream) = sender.send_request(post("/foo"), false).expect("a stream");
    stream.send_data(Bytes::from_static(b"bo"), false).expect("room for it");
    (response, stream)
}

/// However many streams wait for their bodies, half of `max_in_flight` is left for others.
#[tokio::test]
async fn bodies_that_do_not_come_leave_room_in_flight() {
    const SLOW: usize = 20;
    let (gateway, worker) = roomy("max_in_flight = 8\n").await;
    let sender = client(&gateway).await;
    let mut refused = tokio::task::JoinSet::new();
    for _ in 0..SLOW {
        let (response, stream) = begin(&sender).await;
        refused.spawn(async move {
            let response = response.await.expect("an answer");
            drop(stream);
            response
        });
    }
    for _ in 0..SLOW - 4 {
        let response = wait::within("a slow request is given up", refused.join_next()).await;
        let response = response.expect("it is one of them").expect("no panic");
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"), "{response:?}");
    }
    for _ in 0..3 {
        assert_eq!(gateway.post("/foo", "body").await.status, 200);
    }
    assert_eq!(worker.calls().len(), 3);
}

/// Told so on a connection of its own, which ends.
#[tokio::test]
async fn a_newcomer_is_told_when_every_connection_is_busy() {
    let (gateway, worker) = roomy("").await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..ROOM {
        let sender = client(&gateway).await;
        asking.spawn(async move { ask(&sender, get("/foo"), None).await });
        worker.call(number).await;
    }
    let sender = client(&gateway).await;
    let told = ask(&sender, post("/foo"), Some(b"body".to_vec())).await.expect("an answer");
    assert_eq!(told.status(), 503);
    assert!(told.headers().contains_key("retry-after"), "{told:?}");
    wait::until("the connection ends", async || ask(&sender, get("/foo"), None).await.err()).await;
    not_run(&gateway.post("/foo", "body").await);
    gate.open();
    while let Some(asked) = asking.join_next().await {
        assert_eq!(asked.expect("no panic").expect("an answer").body(), b"done");
    }
}
