//! Contract section 3.

use gearway_tests::{Connection, Gateway, Registration, Request, ScriptedWorker};
use serde_json::json;

use crate::expect::{self, handled_by, redirect, serving, unmatched};

/// The seed page's three examples, and what overrides what.
#[tokio::test]
async fn the_seeds_three_names_take_the_paths_that_the_page_lists() {
    let (exact, _worker) = serving("", &["foo", "abc/def"]).await;
    for (path, handler) in [
        ("/foo", Some("foo")),
        ("/foo/", None),
        ("/foo/bar", None),
        ("/Foo", None),
        ("/abc/def", Some("abc/def")),
        ("/abc", None),
        ("/abc/", None),
        ("/abc/def/", None),
        ("/", None),
    ] {
        let response = exact.get(path).await;
        match handler {
            Some(handler) => assert_eq!(handled_by(&response), handler, "{path}"),
            None => unmatched(&response),
        }
    }
    let (subtree, _worker) = serving("", &["foo/", "abc/", "abc/def"]).await;
    for (path, handler) in [
        ("/foo/", "foo/"),
        ("/foo/a", "foo/"),
        ("/foo/a/", "foo/"),
        ("/foo/a/b", "foo/"),
        ("/abc/def", "abc/def"),
        ("/abc/", "abc/"),
        ("/abc/deff", "abc/"),
        ("/abc/def/", "abc/"),
        ("/abc/def/g", "abc/"),
    ] {
        assert_eq!(handled_by(&subtree.get(path).await), handler, "{path}");
    }
}

#[tokio::test]
async fn a_missing_last_slash_redirects_and_keeps_the_query() {
    let (gateway, worker) = serving("", &["foo/", "both", "both/", "café au lait/"]).await;
    for (method, status) in [("GET", 301), ("HEAD", 301), ("POST", 308), ("PUT", 308), ("DELETE", 308)] {
        let response = gateway.send(Request::new(method, "/foo?x=1&y=%20&x=2")).await;
        redirect(&response, status, "/foo/?x=1&y=%20&x=2");
        assert!(response.header("x-request-id").is_some(), "{response:?}");
    }
    redirect(&gateway.get("/foo").await, 301, "/foo/");
    redirect(&gateway.get("/caf%C3%A9%20au%20lait").await, 301, "/caf%C3%A9%20au%20lait/");
    assert_eq!(worker.calls().len(), 0);
    assert_eq!(handled_by(&gateway.get("/both").await), "both");
    assert_eq!(handled_by(&gateway.get("/both/").await), "both/");
}

#[tokio::test]
async fn colons_read_as_slashes_and_the_first_slash_may_be_missing() {
    let (gateway, _worker) = serving("", &["chat:message", "/lead", "a:b/"]).await;
    for (path, handler) in [("/chat/message", "chat:message"), ("/lead", "/lead"), ("/a/b/c", "a:b/")] {
        assert_eq!(handled_by(&gateway.get(path).await), handler, "{path}");
    }
    unmatched(&gateway.get("/chat:message").await);
}

#[tokio::test]
async fn patterns_compare_segment_by_segment() {
    let (gateway, _worker) = serving(
        "",
        &[
            "users/me",
            "users/{id}",
            "users/",
            "users/{id}/posts/{post}",
            "a/{x}/c",
            "a/b/",
            "d/{x}/c",
            "d/b/d",
            "t/{x}/",
        ],
    )
    .await;
    for (path, handler, params) in [
        ("/users/me", "users/me", json!({})),
        ("/users/7", "users/{id}", json!({"id": "7"})),
        ("/users/a%20b", "users/{id}", json!({"id": "a b"})),
        ("/users/%7Bid%7D", "users/{id}", json!({"id": "{id}"})),
        ("/users/", "users/", json!({})),
        ("/users/7/", "users/", json!({})),
        ("/users/7/posts/8", "users/{id}/posts/{post}", json!({"id": "7", "post": "8"})),
        ("/users/me/posts/8", "users/{id}/posts/{post}", json!({"id": "me", "post": "8"})),
        ("/users/7/posts/", "users/", json!({})),
        ("/a/b/c", "a/b/", json!({})),
        ("/a/z/c", "a/{x}/c", json!({"x": "z"})),
        ("/d/b/d", "d/b/d", json!({})),
        ("/d/b/c", "d/{x}/c", json!({"x": "b"})),
        ("/t/1/", "t/{x}/", json!({"x": "1"})),
        ("/t/1/2/3", "t/{x}/", json!({"x": "1"})),
    ] {
        let envelope = expect::envelope(&gateway.get(path).await);
        assert_eq!((&envelope["name"], &envelope["param"]["params"]), (&json!(handler), &params), "{path}");
    }
}

#[tokio::test]
async fn the_path_is_chosen_first_and_then_the_method() {
    let gateway = Gateway::start("").await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker")
        .handler_with(json!({"name": "m/", "methods": ["GET"]}))
        .handler_with(json!({"name": "m/x", "methods": ["POST"]}))
        .handler("defaults")
        .handler_with(json!({"name": "asked", "methods": ["DELETE", "PATCH", "HEAD", "OPTIONS"]}));
    worker.register(&gateway, &registration).await;

    assert_eq!(handled_by(&gateway.get("/m/y").await), "m/");
    assert_eq!(handled_by(&gateway.post("/m/x", "").await), "m/x");
    expect::error(&gateway.get("/m/x").await, 404, 117, "UndefinedOperation");

    for method in ["GET", "POST", "PUT"] {
        assert_eq!(handled_by(&gateway.send(Request::new(method, "/defaults")).await), "defaults");
        expect::error(&gateway.send(Request::new(method, "/asked")).await, 404, 117, "UndefinedOperation");
    }
    for method in ["DELETE", "PATCH", "OPTIONS"] {
        assert_eq!(handled_by(&gateway.send(Request::new(method, "/asked")).await), "asked");
        expect::error(&gateway.send(Request::new(method, "/defaults")).await, 404, 117, "UndefinedOperation");
    }
    assert_eq!(gateway.send(Request::new("HEAD", "/defaults")).await.status, 404);
    assert_eq!(gateway.send(Request::new("HEAD", "/asked")).await.status, 200);
    assert_eq!(worker.last_call().envelope["param"]["method"], "HEAD");
    expect::error(&gateway.send(Request::new("BREW", "/defaults")).await, 404, 117, "UndefinedOperation");
}

#[tokio::test]
async fn one_path_has_different_handlers_for_different_methods() {
    let gateway = Gateway::start("").await;
    let reader = ScriptedWorker::start("reader");
    let writer = ScriptedWorker::start("writer");
    let only = |name: &str, method: &str| {
        Registration::new(name).handler_with(json!({"name": "my_endpoint", "methods": [method]}))
    };
    reader.register(&gateway, &only("reader", "GET")).await;
    writer.register(&gateway, &only("writer", "POST")).await;
    assert_eq!(gateway.get("/my_endpoint").await.json()["worker"], "reader");
    assert_eq!(gateway.post("/my_endpoint", "").await.json()["worker"], "writer");

    let both = Registration::new("both")
        .handler_with(json!({"name": "other", "methods": ["GET"], "timeout_ms": 50000}))
        .handler_with(json!({"name": "other", "methods": ["POST"], "timeout_ms": 3000}));
    let worker = ScriptedWorker::start("both");
    worker.register(&gateway, &both).await;
    let mut timeouts = Vec::new();
    for method in ["GET", "POST"] {
        let envelope = expect::envelope(&gateway.send(Request::new(method, "/other")).await);
        timeouts.push(envelope["context"]["timeout_ms"].as_u64().expect("timeout_ms"));
    }
    assert!(timeouts[0] > 3000 && timeouts[0] <= 50_000 && timeouts[1] <= 3000, "{timeouts:?}");
}

#[tokio::test]
async fn nothing_matches() {
    let (gateway, _worker) = serving("", &["foo"]).await;
    for path in ["/", "/nothing", "/foo/bar"] {
        unmatched(&gateway.get(path).await);
    }
    let response = gateway.get("/nothing").await;
    assert_eq!(response.header("content-type").as_deref(), Some("application/json"));
    assert!(response.header("x-request-id").is_some());

    let (strict, _worker) = serving("[public]\nunmatched = \"not_found\"", &["foo"]).await;
    expect::error(&strict.get("/nothing").await, 404, 117, "UndefinedOperation");
    assert_eq!(handled_by(&strict.get("/foo").await), "foo");
}

#[tokio::test]
async fn a_second_claim_to_a_route_is_refused_whole() {
    let gateway = Gateway::start("").await;
    let first = ScriptedWorker::start("first");
    let second = ScriptedWorker::start("second");
    first.register(&gateway, &Registration::new("first-owner").handler("foo").handler("{x}/list")).await;
    for claim in [
        Registration::new("second-owner").handler("free").handler("foo"),
        Registration::new("second-owner").handler("free").handler("/foo"),
        Registration::new("second-owner").handler("free").handler("{other}/list"),
        Registration::new("second-owner")
            .handler("free")
            .handler_with(json!({"name": "foo", "methods": ["PUT"]})),
    ] {
        let token = gateway.registration_token();
        let refused = second.try_register(&gateway, &claim, Some(&token)).await.expect_status(409);
        let text = refused.text();
        assert!(text.contains("first-owner") && text.contains("second-owner"), "{refused:?}");
        unmatched(&gateway.get("/free").await);
        assert_eq!(gateway.get("/foo").await.json()["worker"], "first");
    }
    assert_eq!(second.calls().len(), 0);
    let free = Registration::new("second-owner").handler("free");
    second.register(&gateway, &free.handler_with(json!({"name": "foo", "methods": ["DELETE"]}))).await;
    assert_eq!(gateway.get("/free").await.json()["worker"], "second");
}

#[tokio::test]
async fn replicas_that_disagree_about_credentials_are_held_to_the_strictest() {
    let gateway = Gateway::start("").await;
    let open = ScriptedWorker::start("open");
    let strict = ScriptedWorker::start("strict");
    let registration = |key_required: bool| {
        Registration::new("same").handler_with(json!({"name": "foo", "key_required": key_required}))
    };
    open.register(&gateway, &registration(false)).await;
    assert_eq!(gateway.get("/foo").await.status, 200);
    strict.register(&gateway, &registration(true)).await;
    for _ in 0..4 {
        expect::error(&gateway.get("/foo").await, 401, 101, "NotAuthenticated");
    }
}

#[tokio::test]
async fn what_two_readers_could_take_for_different_paths_is_refused() {
    let (gateway, worker) = serving("", &["a/", "b", "/"]).await;
    for path in [
        "/a%2Fb",
        "/a%2fb",
        "/a%5Cb",
        "/a%5c",
        "/a%00",
        "/a/%00/b",
        "/a%zz",
        "/a%2",
        "/a%",
        "/a/../b",
        "/..",
        "/a/./b",
        "/a/%2e%2e/b",
        "/a/%2E/b",
        "/a/.%2e",
        "/%ff",
        "/a/%c3",
        "/a/%c0%af",
        "/a/..",
        "/a/.",
    ] {
        let response = gateway.get(path).await;
        assert_eq!(response.status, 400, "{path}: {response:?}");
        expect::bad_request(&response);
    }
    // Whether a bare backslash is a head that cannot be parsed or a bad path is nobody's business.
    assert_eq!(gateway.get("/a\\b").await.status, 400);
    assert_eq!(worker.calls().len(), 0);
}

#[tokio::test]
async fn one_canonical_form_is_matched_and_forwarded() {
    let (gateway, _worker) = serving("", &["foo", "foo/", "café", "sp ace"]).await;
    for (raw_path, handler, path) in [
        ("/f%6fo", "foo", "/foo"),
        ("/%66%6F%6F", "foo", "/foo"),
        ("/foo/%252f", "foo/", "/foo/%2f"),
        ("/foo/%252e%252e/", "foo/", "/foo/%2e%2e/"),
        ("/caf%C3%A9", "café", "/café"),
        ("/caf%c3%a9", "café", "/café"),
        ("/sp%20ace", "sp ace", "/sp ace"),
        ("/foo/a+b", "foo/", "/foo/a+b"),
        ("/foo/...", "foo/", "/foo/..."),
        ("/foo/.hidden", "foo/", "/foo/.hidden"),
    ] {
        let envelope = expect::envelope(&gateway.get(raw_path).await);
        let param = &envelope["param"];
        assert_eq!(
            (&envelope["name"], &param["path"], &param["raw_path"]),
            (&json!(handler), &json!(path), &json!(raw_path))
        );
    }
}

#[tokio::test]
async fn empty_segments_redirect_to_the_path_without_them() {
    let (gateway, worker) = serving("", &["foo/", "foo"]).await;
    for (target, to) in [
        ("//foo", "/foo"),
        ("/foo//", "/foo/"),
        ("//foo///a//b?x=//1", "/foo/a/b?x=//1"),
        ("/foo//%20", "/foo/%20"),
        ("//evil.example/foo", "/evil.example/foo"),
    ] {
        redirect(&gateway.get(target).await, 301, to);
        redirect(&gateway.post(target, "x").await, 308, to);
    }
    assert_eq!(worker.calls().len(), 0);
}

#[tokio::test]
async fn a_target_in_absolute_form_is_the_same_path() {
    let (gateway, _worker) = serving("", &["foo"]).await;
    let target = format!("http://{}/foo?x=1", gateway.public_address());
    let envelope = expect::envelope(&gateway.get(&target).await);
    assert_eq!(envelope["param"]["path"], "/foo");
    assert_eq!(envelope["param"]["query_string"], "x=1");
}

/// The path is matched, and nothing of it is left over for the next request on the connection.
#[tokio::test]
async fn many_requests_share_a_connection() {
    let (gateway, _worker) = serving("", &["a/", "b"]).await;
    let mut connection = Connection::open(gateway.public_address()).await;
    for (path, name) in [("/a/1", "a/"), ("/b", "b"), ("/a/2", "a/")].iter().cycle().take(30) {
        let response = connection.request(&Request::post(path, "body")).await.expect("an answer");
        assert_eq!(&handled_by(&response), name);
    }
}
