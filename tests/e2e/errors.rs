//! Contract section 7, row by row.

use gearway_tests::{Answer, Gate, Gateway, Registration, Request, Response, ScriptedWorker, wait};
use serde_json::json;

use crate::expect::{self, bad_request, not_run, outcome_unknown, serving, unmatched};

#[tokio::test]
async fn malformed_requests() {
    let (gateway, worker) = serving("", &["foo", "/"]).await;
    let host = gateway.public_address().to_string();
    for request in [
        "GET /foo HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET /foo HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n\r\n"),
        format!("GET /foo HTTP/1.1\r\nHost: {host}\r\nHost: other.example\r\n\r\n"),
        format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("CONNECT /foo HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ] {
        let response = send_bytes(&gateway, request.as_bytes()).await;
        assert_eq!(response.status, 400, "{request:?}: {response:?}");
    }
    bad_request(&send_bytes(&gateway, b"GET /foo HTTP/1.1\r\n\r\n").await);
    bad_request(&gateway.get("/foo/%zz").await);
    assert_eq!(worker.calls().len(), 0);
}

/// Each could hide a second request from one of two readers; none does, and nobody can go on after it.
#[tokio::test]
async fn ambiguous_framing_is_400_and_closes() {
    let (gateway, worker) = serving("", &["foo", "smuggled"]).await;
    let host = format!("Host: {}\r\n", gateway.public_address());
    let smuggled = format!("GET /smuggled HTTP/1.1\r\n{host}\r\n");
    for head in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999999999\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length : 5\r\n",
        " Content-Length: 5\r\n",
        "X-Folded: a\r\n Content-Length: 5\r\n",
        "X-Nul: a\0b\r\n",
        "X-Cr: a\rb\r\n",
        "X Space: a\r\n",
        "No-Colon\r\n",
        ": no name\r\n",
    ] {
        let bytes = format!("POST /foo HTTP/1.1\r\n{host}{head}\r\n0\r\n\r\n{smuggled}");
        refused_and_closed(&gateway, bytes.as_bytes(), head).await;
    }
    for bad_chunk in
        ["x\r\n", "-1\r\na\r\n", "5\nhello\r\n", "5\r\nhelloXX", "0x5\r\nhello\r\n", " 5\r\nhello\r\n"]
    {
        let bytes = format!(
            "POST /foo HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n{bad_chunk}0\r\n\r\n{smuggled}"
        );
        refused_and_closed(&gateway, bytes.as_bytes(), bad_chunk).await;
    }
    assert_eq!(worker.calls().len(), 0);
}

#[tokio::test]
async fn a_head_that_cannot_be_parsed_is_a_bare_400() {
    let (gateway, worker) = serving("", &["foo"]).await;
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".as_slice(),
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /foo\r\n\r\n",
        b"GET /foo HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET /foo HTTQ/1.1\r\nHost: a\r\n\r\n",
        b"G(T /foo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /foo bar HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /f\x01oo HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        refused_and_closed(&gateway, bytes, &String::from_utf8_lossy(bytes)).await;
    }
    assert_eq!(worker.calls().len(), 0);
    assert_eq!(gateway.get("/foo").await.status, 200);
}

#[tokio::test]
async fn headers_over_the_limit_are_431() {
    let (gateway, worker) = serving("", &["foo"]).await;
    let many = (0..2000).fold(Request::get("/foo"), |request, number| {
        request.header(&format!("X-Header-Number-{number}"), "with some value")
    });
    for request in [
        Request::get("/foo").header("X-Big", "x".repeat(33 * 1024)),
        many,
        Request::get(&format!("/foo?{}", "x".repeat(33 * 1024))),
    ] {
        let mut connection = gateway.connect().await;
        let response = connection.request(&request).await.expect("an answer");
        assert_eq!(response.status, 431, "{response:?}");
        assert_eq!(connection.read_to_end().await, b"");
    }
    assert_eq!(worker.calls().len(), 0);
    let fits = Request::get("/foo").header("X-Big", "x".repeat(31 * 1024));
    assert_eq!(gateway.send(fits).await.status, 200);
}

#[tokio::test]
async fn a_handlers_own_error_decides_its_status() {
    let (gateway, worker) = serving("", &["foo"]).await;
    for (code, name, status) in [
        (101, "NotAuthenticated", 401),
        (102, "PermissionDenied", 403),
        (108, "InvalidArgument", 400),
        (109, "Duplicated", 409),
        (110, "ResourceNotFound", 404),
        (111, "NotSupported", 501),
        (116, "PartialOperationFailure", 200),
        (118, "PluginUnavailable", 503),
        (119, "PluginTimeout", 504),
        (128, "VerificationRequired", 403),
        (130, "UnexpectedError", 500),
    ] {
        worker.always(Answer::reply(&json!({"error": {"code": code, "message": "its own words"}})));
        let error = expect::error(&gateway.get("/foo").await, status, code, name);
        assert_eq!(error["message"], "its own words");
        assert_eq!(error.get("info"), None, "{error}");
    }
    let info = json!({"sku": "a", "left": 3});
    worker.always(Answer::reply(
        &json!({"error": {"code": 10001, "name": "OutOfStock", "message": "m", "info": info}}),
    ));
    let error = expect::error(&gateway.get("/foo").await, 500, 10001, "OutOfStock");
    assert_eq!(error["info"], info);
    worker.always(Answer::reply(&json!({"error": {"code": 99999, "message": "m"}})));
    assert_eq!(gateway.get("/foo").await.expect_status(500).json()["error"]["code"], 99999);
}

#[tokio::test]
async fn the_handler_did_not_run() {
    let gateway = Gateway::start("[workers]\npark = \"50ms\"").await;
    let worker = ScriptedWorker::start("worker");
    let registered = worker.register(&gateway, &Registration::new("worker").handler("foo")).await;
    worker.server().refuse().await;
    not_run(&gateway.post("/foo", "x").await);
    worker.server().accept();
    worker.register(&gateway, &Registration::new("worker").handler("foo")).await;
    worker.always(Answer::status(503, "").header("Gearway-Not-Run", "1"));
    not_run(&gateway.post("/foo", "x").await);
    worker.always(Answer::status(401, ""));
    not_run(&gateway.post("/foo", "x").await);
    drop(registered);
}

#[tokio::test]
async fn a_full_gateway_says_so_at_once() {
    let (gateway, worker) = serving("[limits]\nmax_in_flight = 2\n[workers]\npark = \"50s\"", &["foo"]).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let running = [(); 2].map(|()| in_background(&gateway, Request::post("/foo", "x")));
    worker.call(1).await;
    not_run(&gateway.post("/foo", "x").await);
    gate.open();
    for response in running {
        drop(response.await.expect("no panic").expect_status(200));
    }
    assert_eq!(gateway.post("/foo", "x").await.status, 200);
}

#[tokio::test]
async fn bytes_in_flight_are_bounded() {
    let config = "[limits]\nmax_body = \"1MiB\"\nmax_bytes_in_flight = \"2MiB\"\n[workers]\npark = \"50ms\"";
    let (gateway, worker) = serving(config, &["foo"]).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let body = vec![b'x'; 900 * 1024];
    let running = [(); 6].map(|()| in_background(&gateway, Request::post("/foo", body.clone())));
    wait::until("one of them is refused", async || running.iter().any(|one| one.is_finished()).then_some(()))
        .await;
    gate.open();
    let mut statuses = Vec::new();
    for response in running {
        let response = response.await.expect("no panic");
        if response.status != 200 {
            not_run(&response);
        }
        statuses.push(response.status);
    }
    assert!(statuses.contains(&200) && statuses.contains(&503), "{statuses:?}");
    assert_eq!(gateway.post("/foo", body).await.status, 200);
}

/// A head that announces a body costs its sender nothing: it must not keep out those who send theirs.
#[tokio::test]
async fn bodies_that_do_not_come_take_no_bytes() {
    let config = "[limits]\nmax_body = \"1MiB\"\nmax_bytes_in_flight = \"2MiB\"";
    let (gateway, worker) = serving(config, &["foo"]).await;
    worker.always(Answer::text("done"));
    let mut silent = Vec::new();
    for _ in 0..3 {
        let mut connection = gateway.connect().await;
        let head = format!("POST /foo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", 900 * 1024);
        connection.write(head.as_bytes()).await.expect("open");
        silent.push(connection);
    }
    wait::until("they are let in", async || {
        let metrics = gateway.admin().get("/metrics").await.text();
        metrics.lines().any(|line| line == "gearway_in_flight_requests 3").then_some(())
    })
    .await;
    assert_eq!(gateway.post("/foo", vec![b'x'; 900 * 1024]).await.status, 200);
    drop(silent);
}

#[tokio::test]
async fn the_worker_died_after_it_was_called() {
    let (gateway, worker) = serving("", &["foo"]).await;
    let reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 45\r\n\r\n{\"result\":{\"type\":\"text\",\"value\":\"truncated\"}}";
    for length in 0..reply.len() - 2 {
        worker.always(Answer::BytesThenClose(reply[..length].to_vec()));
        let calls = worker.calls().len();
        outcome_unknown(&gateway.post("/foo", "x").await);
        assert_eq!(worker.calls().len(), calls + 1, "cut after {length} bytes: not sent again");
    }
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2d\r\n{\"result\"".to_vec();
    worker.always(Answer::BytesThenClose(chunked));
    outcome_unknown(&gateway.post("/foo", "x").await);
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn a_worker_that_is_too_slow() {
    let gateway = Gateway::start("").await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker")
        .handler_with(json!({"name": "slow", "timeout_ms": 300}))
        .handler_with(json!({"name": "safe", "timeout_ms": 300, "idempotent": true}));
    worker.register(&gateway, &registration).await;
    let gate = Gate::default();
    worker.always(Answer::text("late").after(&gate));
    for path in ["/slow", "/safe"] {
        let error = expect::error(&gateway.post(path, "x").await, 504, 119, "PluginTimeout");
        assert_eq!(error["info"]["outcome"], "unknown");
    }
    gate.open();
    worker.always(Answer::text("in time"));
    assert_eq!(gateway.post("/slow", "x").await.expect_status(200).text(), "in time");
}

/// Slow clients end too, and their connections with them.
#[tokio::test]
async fn a_client_that_is_too_slow() {
    let config = "[limits]\nheader_timeout = \"300ms\"\nbody_timeout = \"300ms\"";
    let (gateway, worker) = serving(config, &["foo"]).await;
    let host = gateway.public_address();
    let mut connection = gateway.connect().await;
    connection
        .write(format!("POST /foo HTTP/1.1\r\nHost: {host}\r\n").as_bytes())
        .await
        .expect("an open connection");
    connection.read_to_end().await;
    let mut connection = gateway.connect().await;
    let head = format!("POST /foo HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\nhalf");
    connection.write(head.as_bytes()).await.expect("an open connection");
    expect::error(&connection.read_response().await.expect("an answer"), 408, 107, "BadRequest");
    connection.read_to_end().await;
    assert_eq!(worker.calls().len(), 0);
}

#[tokio::test]
async fn a_connection_over_the_limit_takes_the_place_of_an_idle_one() {
    let (gateway, _worker) = serving("[limits]\nmax_connections = 3", &["foo"]).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut connection = gateway.connect().await;
        assert_eq!(connection.request(&Request::get("/foo")).await.expect("an answer").status, 200);
        kept.push(connection);
    }
    let mut newcomer = gateway.connect().await;
    assert_eq!(newcomer.request(&Request::get("/foo")).await.expect("an answer").status, 200);
    let mut left = 0;
    for connection in &mut kept {
        left += usize::from(connection.request(&Request::get("/foo")).await.is_ok());
    }
    assert_eq!(left, 2, "one of those that were idle made room");
}

#[tokio::test]
async fn every_response_carries_its_id() {
    let (gateway, worker) = serving("", &["foo", "tree/"]).await;
    worker.always(Answer::text("a"));
    for target in ["/foo", "/unmatched", "/tree", "//foo", "/foo/%zz"] {
        let response = gateway.get(target).await;
        assert!(response.header("x-request-id").is_some_and(|id| !id.is_empty()), "{target}: {response:?}");
    }
}

async fn refused_and_closed(gateway: &Gateway, bytes: &[u8], what: &str) {
    let mut connection = gateway.connect().await;
    connection.write(bytes).await.expect("an open connection");
    let response = connection.read_response().await.unwrap_or_else(|error| panic!("{what:?}: {error}"));
    assert_eq!(response.status, 400, "{what:?}: {response:?}");
    assert_eq!(connection.read_to_end().await, b"", "{what:?}: more than one answer");
}

async fn send_bytes(gateway: &Gateway, bytes: &[u8]) -> Response {
    let mut connection = gateway.connect().await;
    connection.write(bytes).await.expect("an open connection");
    connection.read_response().await.expect("an answer")
}

fn in_background(gateway: &Gateway, request: Request) -> tokio::task::JoinHandle<Response> {
    let address = gateway.public_address();
    tokio::spawn(async move { request.send(address).await })
}

/// Row: rate limit. The rates are so low that nothing comes back while the test runs.
#[tokio::test]
async fn who_calls_too_often_is_told_when_to_come_again() {
    let config = "[public]\nrate_limit.per_key = \"2/h\"\n[auth]\nclient_keys = [\"a\", \"b\"]";
    let (gateway, worker) = serving(config, &["foo"]).await;
    let by = |key: &str| gateway.send(Request::get("/foo").api_key(key));
    for _ in 0..2 {
        assert_eq!(by("a").await.status, 200);
    }
    let limited = by("a").await;
    expect::error(&limited, 429, 107, "BadRequest");
    let retry_after: u64 = limited.header("retry-after").unwrap_or_default().parse().expect("seconds");
    assert!((1..=1801).contains(&retry_after), "{limited:?}");
    assert_eq!(by("b").await.status, 200, "another key has a limit of its own");
    assert_eq!(by("unknown").await.status, 200, "an unknown key on an open handler counts as none");
    assert_eq!(worker.calls().len(), 4);

    let config = "[public]\nrate_limit.per_address = \"2/h\"\ntrusted_proxies = [\"127.0.0.1\"]";
    let (gateway, worker) = serving(config, &["foo"]).await;
    let from = |address: &str| gateway.send(Request::get("/foo").header("X-Forwarded-For", address));
    for address in ["192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::ffff"] {
        assert_eq!(from(address).await.status, 200, "{address}");
    }
    for address in ["192.0.2.1", "2001:db8::2"] {
        expect::error(&from(address).await, 429, 107, "BadRequest");
    }
    assert_eq!(from("2001:db8:0:1::1").await.status, 200, "another network");
    assert_eq!(worker.calls().len(), 5);
}

/// What the gateway lacks is not the worker's fault: it stays in rotation.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_gateway_without_file_descriptors_blames_no_worker() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

    let (gateway, worker) = serving("", &["foo"]).await;
    let pid = i32::try_from(gateway.process().id()).ok().and_then(Pid::from_raw);
    let mut connection = gateway.connect().await;
    unmatched(&connection.request(&Request::get("/")).await.expect("an answer"));
    let before = getrlimit(Resource::Nofile);
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(0), ..before }).expect("our own child");
    not_run(&connection.request(&Request::post("/foo", "x")).await.expect("an answer"));
    prlimit(pid, Resource::Nofile, before).expect("our own child");
    assert_eq!(connection.request(&Request::post("/foo", "x")).await.expect("an answer").status, 200);
    assert_eq!(worker.calls().len(), 1);
    let ejected = gateway.log().iter().any(|line| line.contains("worker ejected"));
    assert!(!ejected, "{:?}", gateway.log());
}
