//! Contract section 5.

use gearway_protocol::Base64Body;
use gearway_tests::{
    Answer, Gate, Gateway, Registration, Request, ScriptedWorker, ScriptedWorkerOptions, wait,
};
use serde_json::{Value, json};

use crate::expect::{self, serving};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn the_worker_sees_exactly_this_envelope() {
    let gateway = Gateway::start("").await;
    let options = ScriptedWorkerOptions { label: "worker".into(), url_path: "/base/rpc?v=1".into() };
    let worker = ScriptedWorker::start_with(options);
    let registration = Registration::new("worker")
        .handler("plain")
        .handler_with(json!({"name": "foo/", "timeout_ms": 5000}));
    let registered = worker.register(&gateway, &registration).await;

    let request = Request::post("/foo/%61?x=1&x=2&y=%20", "hello")
        .header("content-type", "text/plain")
        .header("X-HUB-signature-256", "sha256=00")
        .header("x-list", "one, two")
        .header("X-List", "three");
    let response = gateway.send(request).await;
    let call = worker.call(0).await;
    let mut envelope = call.envelope.clone();
    let context = envelope["context"].as_object_mut().expect("a context");
    let request_id = context.remove("request_id").expect("a request_id");
    let timeout = context.remove("timeout_ms").and_then(|timeout| timeout.as_u64()).expect("a timeout");
    assert!(timeout > 0 && timeout <= 5000, "{timeout}");
    assert_eq!(response.header("x-request-id").expect("X-Request-Id"), request_id);
    assert_eq!(
        envelope,
        json!({
            "kind": "handler", "name": "foo/", "context": {},
            "param": {
                "method": "POST", "path": "/foo/a", "raw_path": "/foo/%61", "query_string": "x=1&x=2&y=%20",
                "params": {},
                "header": {
                    "Host": [gateway.public_address().to_string()], "Content-Type": ["text/plain"],
                    "X-Hub-Signature-256": ["sha256=00"], "X-List": ["one, two", "three"], "Content-Length": ["5"],
                },
                "body": "aGVsbG8=", "remote_addr": "127.0.0.1",
            },
        })
    );

    let http = &call.http;
    assert_eq!((http.method.as_str(), http.target.as_str()), ("POST", "/base/rpc?v=1"));
    assert_eq!(http.header("host"), Some(worker.address().to_string().as_str()));
    assert_eq!(http.header("content-type"), Some("application/json"));
    assert_eq!(http.header("authorization"), Some(format!("Bearer {}", registered.secret).as_str()));
    let traceparent = http.header("traceparent").expect("a traceparent").split('-').collect::<Vec<_>>();
    let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let lengths = traceparent.iter().map(|part| part.len()).collect::<Vec<_>>();
    assert!(lengths == [2, 32, 16, 2] && traceparent.iter().all(|part| hex(part)), "{traceparent:?}");

    let envelope = expect::envelope(&gateway.get("/plain").await);
    let header = json!({"Host": [gateway.public_address().to_string()]});
    assert_eq!((&envelope["param"]["header"], &envelope["param"]["body"]), (&header, &json!("")));
    assert_eq!(envelope["param"]["query_string"], "");
    let timeout = envelope["context"]["timeout_ms"].as_u64().expect("a timeout");
    assert!(timeout > 5000 && timeout <= 60_000, "{timeout}");
}

#[tokio::test]
async fn bodies_arrive_byte_for_byte_both_ways() {
    let (gateway, worker) = serving("", &["echo"]).await;
    worker.echo_bodies();
    let mut bodies = vec![(0..=255).collect::<Vec<u8>>(), b"\xef\xbb\xbf{\"not\": json\0}\r\n".to_vec()];
    bodies.extend([0, 1, 2, 3, 1023, 65_535, 65_536, MIB, 10 * MIB].map(pattern));
    for body in bodies {
        for request in
            [Request::post("/echo", body.clone()), Request::post("/echo", body.clone()).chunked(40_000)]
        {
            let response = gateway.send(request).await;
            assert_eq!(response.status, 200, "{response:?}");
            assert_eq!(response.body.len(), body.len());
            assert!(response.body == body, "{} bytes came back changed", body.len());
            let call = worker.last_call();
            let header = &call.envelope["param"]["header"];
            if !body.is_empty() {
                assert_eq!(header["Content-Length"], json!([body.len().to_string()]), "{header}");
            }
            assert_eq!(header.get("Transfer-Encoding"), None);
        }
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_never_reaches_the_worker() {
    let (gateway, worker) = serving("", &["echo"]).await;
    let body = pattern(10 * MIB + 1);
    for request in
        [Request::post("/echo", body.clone()), Request::post("/echo", body.clone()).chunked(65_536)]
    {
        expect::error(&gateway.send(request).await, 413, 107, "BadRequest");
    }
    assert_eq!(worker.calls().len(), 0);

    let small = Gateway::start("[limits]\nmax_body = \"16KiB\"").await;
    worker.register(&small, &Registration::new("worker").handler("echo")).await;
    worker.echo_bodies();
    assert_eq!(small.post("/echo", pattern(16 * 1024)).await.status, 200);
    expect::error(&small.post("/echo", pattern(16 * 1024 + 1)).await, 413, 107, "BadRequest");
}

#[tokio::test]
async fn a_reply_over_the_limit_is_502() {
    let (gateway, worker) = serving("[limits]\nmax_body = \"64KiB\"", &["big"]).await;
    for (size, status) in [(64 * 1024, 200), (64 * 1024 + 1, 502)] {
        let body = Base64Body::encode(&pattern(size));
        worker.always(Answer::reply(&json!({"result": {"type": "response", "status": 200, "body": body}})));
        let response = gateway.get("/big").await;
        assert_eq!(response.status, status, "{size}: {response:?}");
        if status == 200 {
            assert!(response.body == pattern(size));
        }
    }
}

#[tokio::test]
async fn header_values_are_latin_1_and_repeats_keep_their_order() {
    let (gateway, worker) = serving("", &["foo"]).await;
    let request = Request::get("/foo")
        .header("X-Latin", b"caf\xe9 \xff")
        .header("X-Many", "b")
        .header("x-many", "a")
        .header("X-MANY", "")
        .header("X-Tab", "a\tb")
        .header("Cookie", "a=1; b=2");
    let envelope = expect::envelope(&gateway.send(request).await);
    let header = &envelope["param"]["header"];
    assert_eq!(header["X-Latin"], json!(["caf\u{e9} \u{ff}"]));
    assert_eq!(header["X-Many"], json!(["b", "a", ""]));
    assert_eq!(header["X-Tab"], json!(["a\tb"]));
    assert_eq!(header["Cookie"], json!(["a=1; b=2"]));

    worker.always(Answer::reply(&json!({"result": {"type": "response", "status": 201, "header": {
        "Set-Cookie": ["z=1", "a=2; Path=/"], "X-Latin": ["caf\u{e9}"], "x-lower": ["1"], "Content-Type": ["text/css"],
    }, "body": "YQ=="}})));
    let response = gateway.get("/foo").await.expect_status(201);
    assert_eq!(response.header_values("set-cookie"), [b"z=1".to_vec(), b"a=2; Path=/".to_vec()]);
    assert_eq!(response.header_values("x-latin"), [b"caf\xe9".to_vec()]);
    assert_eq!(response.header("x-lower").as_deref(), Some("1"));
    assert_eq!(response.header("content-type").as_deref(), Some("text/css"));
    assert_eq!(response.body, b"a");
}

#[tokio::test]
async fn headers_of_a_hop_end_there() {
    let (gateway, worker) = serving("", &["foo"]).await;
    let request = Request::post("/foo", "x")
        .header("Connection", "keep-alive, X-Named")
        .header("Keep-Alive", "timeout=5")
        .header("X-Named", "1")
        .header("Proxy-Authorization", "Basic YTpi")
        .header("Proxy-Connection", "keep-alive")
        .header("TE", "trailers")
        .header("Trailer", "X-Later")
        .header("Upgrade", "websocket")
        .header("X-Stays", "1");
    let envelope = expect::envelope(&gateway.send(request).await);
    let names = envelope["param"]["header"].as_object().expect("headers").keys().cloned().collect::<Vec<_>>();
    assert_eq!(names, ["Content-Length", "Host", "X-Stays"]);

    worker.always(Answer::reply(&json!({"result": {"type": "response", "status": 200, "header": {
        "Connection": ["close, X-Named"], "Keep-Alive": ["timeout=1"], "Transfer-Encoding": ["chunked"],
        "Content-Length": ["3"], "Upgrade": ["h2c"], "Trailer": ["X-Later"], "TE": ["trailers"],
        "Proxy-Authenticate": ["Basic"], "X-Stays": ["1"],
    }, "body": "aGVsbG8="}})));
    let mut connection = gateway.connect().await;
    for _ in 0..2 {
        let response = connection.request(&Request::get("/foo")).await.expect("an answer");
        assert_eq!(response.text(), "hello");
        assert_eq!(response.header("x-stays").as_deref(), Some("1"));
        for name in ["keep-alive", "upgrade", "trailer", "te", "proxy-authenticate", "transfer-encoding"] {
            assert_eq!(response.header(name), None, "{response:?}");
        }
        assert!(!connection.is_closing(), "{response:?}");
    }
}

#[tokio::test]
async fn each_kind_of_result_becomes_its_response() {
    let (gateway, worker) = serving("", &["foo"]).await;
    let as_written = [
        r#"{"n":12345678901234567890123.10,"e":1e400,"z":-0.0}"#,
        r#"{ "b" : 1.50 , "a":[ 1,2 ],"b":2 }"#,
        "null",
        "10",
        "[]",
        r#""text \u00e9""#,
        "18446744073709551616",
    ];
    for value in as_written {
        worker.always(Answer::raw(format!("{{\"result\":{{\"type\":\"json\",\"value\":{value}}}}}")));
        let response = gateway.get("/foo").await.expect_status(200);
        assert_eq!(response.text(), value);
        assert_eq!(response.header("content-type").as_deref(), Some("application/json"));
    }
    worker.always(Answer::text("grüß \u{1f600}\r\n"));
    let response = gateway.get("/foo").await.expect_status(200);
    assert_eq!(response.text(), "grüß \u{1f600}\r\n");
    assert_eq!(response.header("content-type").as_deref(), Some("text/plain; charset=utf-8"));

    for status in [200, 204, 205, 304, 302, 404, 418, 500, 503, 599] {
        worker.always(Answer::reply(
            &json!({"result": {"type": "response", "status": status, "header": {"X-A": ["1"]}}}),
        ));
        let response = gateway.get("/foo").await.expect_status(status);
        assert_eq!(response.header("x-a").as_deref(), Some("1"));
        assert_eq!(response.body, b"");
    }
    // Readers ignore fields that they do not know.
    worker.always(Answer::reply(&json!({"new": 1, "result": {"type": "text", "value": "a", "new": 2}})));
    assert_eq!(gateway.get("/foo").await.text(), "a");
}

#[tokio::test]
async fn the_body_of_a_head_response_stays_here() {
    let gateway = Gateway::start("").await;
    let worker = ScriptedWorker::start("worker");
    let registration =
        Registration::new("worker").handler_with(json!({"name": "foo", "methods": ["HEAD", "GET"]}));
    worker.register(&gateway, &registration).await;
    worker.always(Answer::text("hello"));
    let mut connection = gateway.connect().await;
    for _ in 0..2 {
        let response = connection.request(&Request::new("HEAD", "/foo")).await.expect("an answer");
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(connection.request(&Request::get("/foo")).await.expect("an answer").text(), "hello");
    }
}

#[tokio::test]
async fn a_client_may_wait_for_permission_to_send_its_body() {
    let (gateway, worker) = serving("", &["echo"]).await;
    worker.echo_bodies();
    let mut connection = gateway.connect().await;
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: {}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        gateway.public_address()
    );
    connection.write(head.as_bytes()).await.expect("an open connection");
    assert_eq!(connection.read_response().await.expect("an answer").status, 100);
    connection.write(b"hello").await.expect("an open connection");
    assert_eq!(connection.read_response().await.expect("an answer").expect_status(200).text(), "hello");
}

#[tokio::test]
async fn only_a_trusted_proxy_tells_who_the_client_is() {
    let ask = |gateway: &Gateway| {
        let request = Request::get("/foo")
            .header("X-Forwarded-For", "198.51.100.1, 203.0.113.9")
            .header("X-Forwarded-Proto", "https")
            .header("X-Request-Id", "chosen-by-the-proxy");
        let address = gateway.public_address();
        async move { request.send(address).await }
    };
    let (open, _worker) = serving("", &["foo"]).await;
    let response = ask(&open).await;
    let envelope = expect::envelope(&response);
    assert_eq!(envelope["param"]["remote_addr"], "127.0.0.1");
    assert_ne!(envelope["context"]["request_id"], "chosen-by-the-proxy");
    for name in ["X-Forwarded-For", "X-Forwarded-Proto"] {
        assert_eq!(envelope["param"]["header"].get(name), None, "{envelope}");
    }

    let (behind, _worker) = serving("[public]\ntrusted_proxies = [\"127.0.0.0/8\"]", &["foo"]).await;
    let response = ask(&behind).await;
    let envelope = expect::envelope(&response);
    assert_eq!(envelope["param"]["remote_addr"], "203.0.113.9");
    assert_eq!(envelope["context"]["request_id"], "chosen-by-the-proxy");
    assert_eq!(response.header("x-request-id").as_deref(), Some("chosen-by-the-proxy"));
}

#[tokio::test]
async fn every_request_has_an_id_of_its_own() {
    let (gateway, _worker) = serving("", &["foo"]).await;
    let mut ids = std::collections::HashSet::new();
    for _ in 0..20 {
        let response = gateway.get("/foo").await;
        let id = response.header("x-request-id").expect("X-Request-Id");
        assert_eq!(expect::envelope(&response)["context"]["request_id"], Value::from(id.clone()));
        assert!(ids.insert(id));
    }
}

#[tokio::test]
async fn a_call_runs_to_its_end_when_the_client_goes_away() {
    let (gateway, worker) = serving("", &["slow", "other"]).await;
    let gate = Gate::default();
    let held = gate.clone();
    worker.script(move |call| match call.envelope["name"].as_str() {
        Some("slow") => Answer::text("done").after(&held),
        _ => Answer::text("other"),
    });
    let mut client = gateway.connect().await;
    client
        .write(&Request::post("/slow", "x").to_bytes(gateway.public_address()))
        .await
        .expect("an open connection");
    let call = worker.call(0).await;
    drop(client);
    // Enough has happened afterwards for the gateway to have seen the client go.
    for _ in 0..20 {
        assert_eq!(gateway.get("/other").await.text(), "other");
    }
    assert!(!call.http.caller_left(), "the gateway gave the call up");
    wait::until("the client's leaving is counted", async || {
        let text = gateway.admin().get("/metrics").await.expect_status(200).text();
        text.lines().any(|line| line.contains("/slow") && line.contains("\"499\"")).then_some(())
    })
    .await;
    gate.open();
    wait::until("the call is answered", async || call.http.answered().then_some(())).await;
    assert!(!call.http.caller_left(), "the gateway did not wait for the answer");
}

/// Bytes without a pattern that base64 or a chunk could hide.
fn pattern(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..size).map(|_| next()).collect()
}
