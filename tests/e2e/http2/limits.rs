//! HTTP/2: the limits of a request are those of HTTP/1.1.

use bytes::Bytes;
use gearway_tests::{Answer, Gateway, ScriptedWorker};
use http::{HeaderName, Request};

use super::frames::{Frame, Frames};
use super::{H2C, ask, client, get, post};
use crate::expect::serving;

async fn limited(limits: &str) -> (Gateway, ScriptedWorker) {
    serving(&format!("{H2C}[limits]\n{limits}\n"), &["foo"]).await
}

fn with_fields(fields: impl Iterator<Item = (String, String)>) -> Request<()> {
    let mut request = get("/foo");
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        request.headers_mut().append(name, value.parse().expect("a value"));
    }
    request
}

/// 431, by size and by number; the connection serves on.
#[tokio::test]
async fn too_many_fields_are_refused_by_size_and_by_number() {
    let (gateway, worker) = limited("max_header = \"16KiB\"").await;
    let sender = client(&gateway).await;
    let large = (0..20).map(|number| (format!("x-{number}"), "v".repeat(1000)));
    let many = (0..120).map(|number| (format!("x-{number}"), String::new()));
    let same = (0..120).map(|_| ("x-same".to_owned(), "v".to_owned()));
    for request in [with_fields(large), with_fields(many), with_fields(same)] {
        let fields = request.headers().len();
        let response = ask(&sender, request, None).await.expect("an answer");
        assert_eq!(response.status(), 431, "{fields} fields: {response:?}");
    }
    assert_eq!(worker.calls().len(), 0);
    let few = (0..80).map(|number| (format!("x-{number}"), "v".repeat(50)));
    assert_eq!(ask(&sender, with_fields(few), None).await.expect("an answer").status(), 200);
}

/// 408, for bodies that do not come, or hardly.
#[tokio::test]
async fn a_body_that_is_too_slow_is_refused() {
    let (gateway, worker) = limited("body_timeout = \"300ms\"").await;
    let sender = client(&gateway).await;
    for some in ["", "some"] {
        let mut sender = sender.clone().ready().await.expect("a connection");
        let (response, mut stream) = sender.send_request(post("/foo"), false).expect("a stream");
        stream.send_data(Bytes::from_static(some.as_bytes()), false).expect("room for it");
        let response = gearway_tests::wait::within("an answer", response).await.expect("an answer");
        assert_eq!(response.status(), 408, "{some:?}");
    }
    assert_eq!(worker.calls().len(), 0);
    assert_eq!(ask(&sender, get("/foo"), None).await.expect("the connection serves on").status(), 200);
}

/// 413, by what is declared before a byte of it has come, and by what comes.
#[tokio::test]
async fn a_body_that_is_too_large_is_refused_by_its_declared_length() {
    let (gateway, worker) = limited("max_body = 100").await;
    worker.always(Answer::text("done"));
    let sender = client(&gateway).await;
    let mut request = post("/foo");
    request.headers_mut().insert("content-length", "101".parse().expect("a value"));
    let mut declaring = sender.clone().ready().await.expect("a connection");
    let (response, _stream) = declaring.send_request(request, false).expect("a stream");
    let response = gearway_tests::wait::within("an answer", response).await.expect("an answer");
    assert_eq!(response.status(), 413);
    let undeclared = ask(&sender, post("/foo"), Some(vec![b'x'; 101])).await.expect("an answer");
    assert_eq!(undeclared.status(), 413);
    let fits = ask(&sender, post("/foo"), Some(vec![b'x'; 100])).await.expect("an answer");
    assert_eq!((fits.status().as_u16(), worker.calls().len()), (200, 1));
}

/// A body that is not as long as the head says is nobody's request.
#[tokio::test]
async fn a_content_length_that_is_wrong_reaches_no_worker() {
    let (gateway, worker) = limited("").await;
    for (declared, pieces) in [
        ("5", &["abc"][..]),
        ("2", &["abc"]),
        ("0", &["abc"]),
        ("3", &["abc", "d"]),
        ("4", &["abc", ""]),
        ("3", &[]),
    ] {
        let head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/foo"),
            (":authority", "a"),
            ("content-length", declared),
        ];
        let mut frames = Frames::connect(&gateway).await;
        frames.headers(1, &head, pieces.is_empty()).await;
        for (number, piece) in pieces.iter().enumerate() {
            frames.data(1, piece.as_bytes(), number + 1 == pieces.len()).await;
        }
        match frames.next_of_stream(1).await {
            Some(Frame::Headers { status: 400, .. } | Frame::Reset { .. } | Frame::GoAway) | None => {}
            other => panic!("{declared} {pieces:?}: {other:?}"),
        }
    }
    assert_eq!(worker.calls().len(), 0);
    let sender = client(&gateway).await;
    let mut request = post("/foo");
    request.headers_mut().insert("content-length", "3".parse().expect("a value"));
    assert_eq!(ask(&sender, request, Some(b"abc".to_vec())).await.expect("an answer").status(), 200);
}
