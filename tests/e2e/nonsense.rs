//! Workers that answer what no worker should: the client gets a clean 502, the log the reason, and the gateway
//! goes on.

use gearway_tests::{Answer, Gateway, Response, ScriptedWorker};
use serde_json::json;

use crate::expect::{self, serving};

#[tokio::test]
async fn a_reply_that_is_none() {
    let (gateway, worker) = serving("", &["foo"]).await;
    let response = |fields: &str| format!("{{\"result\":{{\"type\":\"response\",{fields}}}}}");
    for reply in [
        String::new(),
        "not JSON".into(),
        "{\"result\":".into(),
        "{\"result\":{\"type\":\"text\",\"value\":\"a\"}} trailing".into(),
        "null".into(),
        "[]".into(),
        "{}".into(),
        "{\"result\":null}".into(),
        "{\"result\":\"a\"}".into(),
        "{\"result\":{\"type\":\"text\",\"value\":\"a\"},\"error\":{\"code\":1,\"message\":\"m\"}}".into(),
        "{\"result\":{\"type\":\"html\",\"value\":\"a\"}}".into(),
        "{\"result\":{\"type\":7,\"value\":\"a\"}}".into(),
        "{\"result\":{\"value\":\"a\"}}".into(),
        "{\"result\":{\"type\":\"text\"}}".into(),
        "{\"result\":{\"type\":\"text\",\"value\":7}}".into(),
        "{\"result\":{\"type\":\"json\"}}".into(),
        "{\"error\":\"it failed\"}".into(),
        "{\"error\":{\"code\":\"110\",\"message\":\"m\"}}".into(),
        "{\"error\":{\"code\":-1,\"message\":\"m\"}}".into(),
        "{\"error\":{\"message\":\"m\"}}".into(),
        response("\"body\":\"YQ==\""),
        response("\"status\":99"),
        response("\"status\":0"),
        response("\"status\":101"),
        response("\"status\":199"),
        response("\"status\":600"),
        response("\"status\":1000"),
        response("\"status\":-200"),
        response("\"status\":70000"),
        response("\"status\":\"200\""),
        response("\"status\":200,\"body\":\"%%%\""),
        response("\"status\":200,\"body\":\"YQ\""),
        response("\"status\":200,\"body\":\"Y-_=\""),
        response("\"status\":200,\"body\":7"),
        response("\"status\":200,\"header\":{\"X-A\":[\"a\\r\\nX-Injected: 1\"]}"),
        response("\"status\":200,\"header\":{\"X-A\":[\"a\\nb\"]}"),
        response("\"status\":200,\"header\":{\"X-A\":[\"a\\u0000b\"]}"),
        response("\"status\":200,\"header\":{\"X-A\":[\"\\u4e2d\"]}"),
        response("\"status\":200,\"header\":{\"X A\":[\"1\"]}"),
        response("\"status\":200,\"header\":{\"X-A\\r\\nX-Injected: 1\\r\\nX-B\":[\"1\"]}"),
        response("\"status\":200,\"header\":{\"\":[\"1\"]}"),
        response("\"status\":200,\"header\":{\"X-A\":\"1\"}"),
        response("\"status\":200,\"header\":{\"X-A\":[1]}"),
        response("\"status\":200,\"header\":[]"),
    ] {
        worker.always(Answer::raw(reply.clone()));
        let response = gateway.post("/foo", "x").await;
        assert_eq!(response.status, 502, "{reply}: {response:?}");
        expect::error(&response, 502, 130, "UnexpectedError");
        assert_eq!(response.header("x-injected"), None, "{response:?}");
        the_log_has_the_reason(&gateway, &response).await;
        serves_on(&gateway, &worker).await;
    }
}

/// What speaks HTTP, but not ours.
#[tokio::test]
async fn a_response_that_is_no_reply() {
    let (gateway, worker) = serving("", &["foo"]).await;
    let reply = r#"{"result":{"type":"text","value":"a"}}"#;
    for answer in [
        Answer::status(500, "<html>Internal Server Error</html>"),
        Answer::status(404, reply),
        Answer::status(503, reply),
        Answer::status(201, reply),
        Answer::status(204, ""),
        Answer::status(302, reply).header("Location", &format!("{}elsewhere", worker.url())),
        Answer::status(307, reply).header("Location", &worker.url()),
        Answer::raw(b"\xff\xfe\x00binary".to_vec()),
        Answer::raw("[".repeat(200_000)),
        Answer::raw(format!("{{\"result\":{{\"type\":\"text\",\"value\":{}", "[".repeat(200_000))),
    ] {
        worker.always(answer.clone());
        let calls = worker.calls().len();
        let response = gateway.post("/foo", "x").await;
        expect::error(&response, 502, 130, "UnexpectedError");
        assert_eq!(worker.calls().len(), calls + 1, "{answer:?} was followed or sent again");
        the_log_has_the_reason(&gateway, &response).await;
        serves_on(&gateway, &worker).await;
    }
}

/// What does not even speak HTTP.
#[tokio::test]
async fn bytes_that_are_no_response() {
    let (gateway, worker) = serving("", &["foo"]).await;
    let huge_header =
        format!("HTTP/1.1 200 OK\r\nX-Big: {}\r\nContent-Length: 2\r\n\r\n{{}}", "x".repeat(4 << 20));
    for bytes in [
        b"nonsense\r\n\r\n".as_slice(),
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 1000 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX A: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        huge_header.as_bytes(),
    ] {
        worker.always(Answer::BytesThenClose(bytes.to_vec()));
        let calls = worker.calls().len();
        let response = gateway.post("/foo", "x").await;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert_eq!(response.status, 502, "{shown}: {response:?}");
        let code = response.json()["error"]["code"].take();
        assert!(code == json!(118) || code == json!(130), "{shown}: {response:?}");
        assert_eq!(worker.calls().len(), calls + 1, "{shown} was sent again");
        serves_on(&gateway, &worker).await;
    }
}

/// Only as much is read as could be used.
#[tokio::test]
async fn a_gigabyte() {
    let (gateway, worker) = serving("", &["foo"]).await;
    for chunked in [false, true] {
        worker.always(Answer::Filler { size: 1 << 30, chunked });
        let response = gateway.post("/foo", "x").await;
        expect::error(&response, 502, 130, "UnexpectedError");
        the_log_has_the_reason(&gateway, &response).await;
        serves_on(&gateway, &worker).await;
    }
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", gateway.process().id())).expect("a process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let peak = peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    assert!(peak < 300 * 1024, "the gateway held {peak} KiB");
}

async fn the_log_has_the_reason(gateway: &Gateway, response: &Response) {
    let id = response.header("x-request-id").expect("X-Request-Id");
    gateway
        .wait_for_log("the reason", |line| line.contains(&id) && line.to_lowercase().contains("reply"))
        .await;
}

async fn serves_on(gateway: &Gateway, worker: &ScriptedWorker) {
    worker.always(Answer::text("fine"));
    assert_eq!(gateway.post("/foo", "x").await.expect_status(200).text(), "fine");
}
