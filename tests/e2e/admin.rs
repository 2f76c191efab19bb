//! Contract section 8, and the commands that ask the admin listener.

use gearway_tests::process::run;
use gearway_tests::{Gateway, Registration, Request, ScriptedWorker, gateway};
use serde_json::{Value, json};

use crate::expect::serving;

#[tokio::test]
async fn the_probes_are_open() {
    let gateway = Gateway::start("").await;
    for target in ["/livez", "/readyz"] {
        for request in [Request::get(target), Request::get(target).header("Host", "gateway.example:3001")] {
            let response = request.send(gateway.admin_address()).await;
            assert_eq!(response.status, 200, "{target}: {response:?}");
        }
    }
}

#[tokio::test]
async fn a_loopback_peer_may_read_by_a_loopback_name() {
    let (gateway, _worker) = serving("", &["foo"]).await;
    let port = gateway.admin_address().port();
    for target in ["/v1/workers", "/v1/routes", "/metrics", "/openapi.json"] {
        for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}"), format!("[::1]:{port}")] {
            let response = Request::get(target).header("Host", &host).send(gateway.admin_address()).await;
            assert_eq!(response.status, 200, "{target} as {host}: {response:?}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", ""] {
            let response = Request::get(target).header("Host", host).send(gateway.admin_address()).await;
            assert!(matches!(response.status, 400 | 401 | 403), "{target} as {host}: {response:?}");
        }
        let with_token =
            Request::get(target).header("Host", "gateway.example").bearer(&gateway.admin().token);
        let response = with_token.send(gateway.admin_address()).await;
        assert_eq!(response.status, 200, "{target}: {response:?}");
    }
}

#[tokio::test]
async fn everything_else_wants_an_admin_token() {
    let (gateway, _worker) = serving("", &["foo"]).await;
    let id = gateway.admin().workers().await.pop().expect("a worker").id;
    let admin_token = gateway.admin().token;
    let token = json!({"user": "mallory", "ttl": "1h"});
    for request in [
        Request::new("POST", "/v1/tokens").json(&token),
        Request::new("POST", &format!("/v1/tokens?token={admin_token}&access_token={admin_token}"))
            .json(&token),
        Request::new("POST", "/v1/tokens").header("Cookie", format!("token={admin_token}")).json(&token),
        Request::new("DELETE", "/v1/tokens/some-id"),
        Request::new("POST", &format!("/v1/workers/{id}/drain")).body(""),
    ] {
        let response = request.clone().send(gateway.admin_address()).await;
        assert_eq!(response.status, 401, "{request:?}: {response:?}");
        let response = request.bearer(&gateway.registration_token()).send(gateway.admin_address()).await;
        assert!(matches!(response.status, 401 | 403), "{response:?}");
    }
    assert!(!gateway.admin().get("/v1/tokens").await.expect_status(200).text().contains("mallory"));
    assert_eq!(gateway.get("/foo").await.status, 200);
}

#[tokio::test]
async fn configured_admin_tokens_are_the_ones_that_count() {
    let gateway = Gateway::start("[admin]\ntokens = [\"first-admin-token\", \"second-admin-token\"]").await;
    assert!(!gateway.data_dir().join("admin-token").exists());
    for (token, status) in
        [("first-admin-token", 200), ("second-admin-token", 200), ("third-admin-token", 401)]
    {
        let request = Request::get("/v1/tokens").header("Host", "gateway.example").bearer(token);
        assert_eq!(request.send(gateway.admin_address()).await.status, status, "{token}");
    }
}

/// A page in a browser on the same machine is a loopback peer too.
#[tokio::test]
async fn a_page_of_another_origin_gets_nowhere() {
    let gateway = Gateway::start("").await;
    let token = json!({"user": "mallory", "ttl": "1h"});
    let as_form = Request::post("/v1/tokens", token.to_string()).header("Content-Type", "text/plain");
    let response = gateway.admin().send(as_form).await;
    assert!(matches!(response.status, 400 | 403 | 415), "{response:?}");
    for origin in ["http://evil.example", "null"] {
        let request = Request::get("/v1/routes").header("Origin", origin);
        let response = request.send(gateway.admin_address()).await;
        assert_eq!(response.header("access-control-allow-origin"), None, "{response:?}");
        let request = Request::new("POST", "/v1/tokens").header("Origin", origin).json(&token);
        let response = gateway.admin().send(request).await;
        assert!(matches!(response.status, 401 | 403), "{response:?}");
    }
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let gateway = Gateway::start("").await;
    for (body, named) in [
        (json!({"ttl": "1h"}), "user"),
        (json!({"user": "", "ttl": "1h"}), "user"),
        (json!({"user": "alice", "ttl": "soon"}), "ttl"),
        (json!({"user": "alice", "ttl": -1}), "ttl"),
    ] {
        let response = gateway.admin().send(Request::new("POST", "/v1/tokens").json(&body)).await;
        assert!(matches!(response.status, 400 | 422), "{body}: {response:?}");
        assert!(response.text().contains(named), "{body}: {response:?}");
    }
    assert_eq!(gateway.admin().get("/v1/no-such-thing").await.status, 404);
    assert!(matches!(gateway.admin().send(Request::new("PATCH", "/v1/routes")).await.status, 404 | 405));
}

#[tokio::test]
async fn the_description_is_openapi_and_lists_the_calls() {
    let gateway = Gateway::start("").await;
    let description = gateway.admin().get("/openapi.json").await.expect_status(200).json();
    assert!(
        description["openapi"].as_str().is_some_and(|version| version.starts_with("3.")),
        "{description}"
    );
    for (path, method) in [
        ("/v1/workers", "post"),
        ("/v1/workers", "get"),
        ("/v1/workers/{id}/lease", "put"),
        ("/v1/workers/{id}", "delete"),
        ("/v1/workers/{id}/drain", "post"),
        ("/v1/routes", "get"),
        ("/v1/tokens", "post"),
        ("/livez", "get"),
        ("/readyz", "get"),
    ] {
        assert!(description["paths"][path][method].is_object(), "{method} {path} is missing");
    }
}

#[tokio::test]
async fn requests_are_counted_by_route_and_not_by_path() {
    let (gateway, _worker) = serving("", &["foo/"]).await;
    for path in ["/foo/a", "/foo/b-that-no-metric-may-name", "/unmatched-and-unnamed"] {
        gateway.get(path).await;
    }
    let response = gateway.admin().get("/metrics").await.expect_status(200);
    let text = response.text();
    let counted = text.lines().find(|line| {
        line.starts_with("http_server_request_duration_seconds_count")
            && line.contains("http_route=\"/foo/\"")
            && line.contains("http_request_method=\"GET\"")
            && line.contains("http_response_status_code=\"200\"")
    });
    assert!(counted.is_some_and(|line| line.trim_end().ends_with(" 2")), "{text}");
    assert!(!text.contains("b-that-no-metric-may-name") && !text.contains("unmatched-and-unnamed"), "{text}");
}

#[tokio::test]
async fn the_commands_show_tables_and_json() {
    let gateway = Gateway::start("").await;
    let worker = ScriptedWorker::start("worker");
    let registration =
        Registration::new("orders").handler_with(json!({"name": "foo/", "methods": ["GET", "DELETE"]}));
    let registered = worker.register(&gateway, &registration).await;
    for arguments in [&["routes"][..], &["routes", "list"]] {
        let table = gateway.cli(arguments).await;
        assert_eq!(table.code(), 0, "{table:?}");
        for text in ["/foo/", "GET", "DELETE", "orders"] {
            assert!(table.stdout.contains(text), "{text}: {table:?}");
        }
    }
    for arguments in [&["workers"][..], &["workers", "list"]] {
        let table = gateway.cli(arguments).await;
        assert_eq!(table.code(), 0, "{table:?}");
        assert!(table.stdout.contains("orders"), "{table:?}");
    }
    for arguments in [["routes", "--json"], ["workers", "--json"]] {
        let shown = gateway.cli(&arguments).await;
        let shown =
            serde_json::from_str::<Value>(&shown.stdout).unwrap_or_else(|error| panic!("{error}: {shown:?}"));
        let asked = gateway.admin().get(&format!("/v1/{}", arguments[0])).await.json();
        let list = |value: &Value| value[arguments[0]].as_array().or(value.as_array()).map(Vec::len);
        assert_eq!(list(&shown), list(&asked), "{shown}");
        assert_eq!(list(&shown), Some(1), "{shown}");
    }
    let drained = gateway.cli(&["workers", "drain", &registered.worker_id]).await;
    assert_eq!(drained.code(), 0, "{drained:?}");
    let renewed = gateway.worker_side().renew(&registered.worker_id).await.expect_status(200);
    assert_eq!(renewed.json()["draining"], true);
    assert_eq!(gateway.cli(&["workers", "drain", "no-such-worker"]).await.code(), 1);
}

#[tokio::test]
async fn commands_find_the_token_or_say_that_they_did_not() {
    let mut gateway = Gateway::start("").await;
    let admin = gateway.admin();
    let url = format!("http://{}", admin.address);
    let by_flags = run(gateway::gearway(&["tokens", "list", "--admin", &url, "--token", &admin.token])).await;
    assert_eq!(by_flags.code(), 0, "{by_flags:?}");
    let mut by_data_dir = gateway::gearway(&["tokens", "list", "--admin", &url]);
    by_data_dir.env("GEARWAY_DATA_DIR", gateway.data_dir());
    let by_data_dir = run(by_data_dir).await;
    assert_eq!(by_data_dir.code(), 0, "{by_data_dir:?}");
    let refused = run(gateway::gearway(&["tokens", "list", "--admin", &url, "--token", "nonsense"])).await;
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(!refused.stderr.trim().is_empty(), "{refused:?}");

    let healthy = run(gateway::gearway(&["healthcheck", "--admin", &url])).await;
    assert_eq!(healthy.code(), 0, "{healthy:?}");
    gateway.kill9();
    let unhealthy = run(gateway::gearway(&["healthcheck", "--admin", &url])).await;
    assert_eq!(unhealthy.code(), 1, "{unhealthy:?}");
    gateway.start_again().await;
}
