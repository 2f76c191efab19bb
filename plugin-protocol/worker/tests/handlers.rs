//! What handlers take and return, through the in-process client.
#![allow(clippy::unwrap_used, reason = "what is unexpected fails the test")]

use std::borrow::Cow;
use std::collections::HashMap;

use gearway_worker::http::{self, HeaderValue};
use gearway_worker::{
    AccessKeyType, Bytes, CurrentUser, DeliveryMode, DeliverySpec, ErrorCode, Form, FromRequest,
    HandlerError, HeaderMap, IntoReply, Json, Method, Path, Query, Reply, Request, Settings, State,
    StatusCode, TestClient, VerifyScheme, VerifySpec, Worker, current_request, current_user_id, handler,
    with_current_request,
};
use serde::Deserialize;
use serde_json::{Value, json};

fn worker() -> Worker {
    Worker::new(Settings::new("test"))
}

fn json_of(response: &http::Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

/// Code, message and `info.arguments` of an error response.
async fn error_of(request: gearway_worker::TestRequest, status: u16) -> (u64, String, Value) {
    let response = request.await;
    assert_eq!(response.status(), status);
    let error = json_of(&response)["error"].take();
    (
        error["code"].as_u64().unwrap(),
        error["message"].as_str().unwrap().to_owned(),
        error["info"]["arguments"].clone(),
    )
}

#[derive(Deserialize)]
struct Entry {
    key: String,
    value: i64,
}

fn typed() -> TestClient {
    worker()
        .handler("query", async |Query(e): Query<Entry>| format!("{}={}", e.key, e.value))
        .handler("form", async |Form(e): Form<Entry>| format!("{}={}", e.key, e.value))
        .handler("json", async |Json(e): Json<Entry>| format!("{}={}", e.key, e.value))
        .handler("path/{key}/{value}", async |Path((key, value)): Path<(String, i64)>| {
            format!("{key}={value}")
        })
        .handler("named/{value}/{key}", async |Path(e): Path<Entry>| format!("{}={}", e.key, e.value))
        .handler("wrong/{only}", async |_: Path<(String, i64)>| ())
        .test_client()
}

#[tokio::test]
async fn typed_arguments_are_read() {
    let client = typed();
    for request in [
        client.get("/query?key=month&value=10"),
        client.get("/query?value=%31%30&key=m%6Fnth&other=1"),
        client.post("/form").form(&[("key", "month"), ("value", "10")]),
        client.post("/form").body("key=month&value=10"),
        client.post("/json").json(&json!({"key": "month", "value": 10})),
        client.post("/json").body(r#"{"key":"month","value":10,"other":null}"#),
        client.get("/path/month/10"),
        client.get("/named/10/mo%6Eth"),
    ] {
        let response = request.clone().await;
        assert_eq!(response.body(), "month=10", "{request:?}");
    }
}

#[tokio::test]
async fn a_bad_argument_is_named() {
    let client = typed();
    for (request, argument, message) in [
        (client.get("/query?key=a"), "value", "query parameter value is missing"),
        (client.get("/query?key=a&value=1&value=2"), "value", "query parameter value is given 2 times"),
        (client.post("/form").form(&[("value", "1")]), "key", "form parameter key is missing"),
        (client.get("/path/a/b"), "value", "path parameter value is \"b\", not a whole number of 64 bits"),
        (client.post("/json").body(r#"{"key":"a"}"#), "value", "body parameter value: missing field `value`"),
        (client.post("/json").body(r#"{"key":1}"#), "key", "body parameter key: invalid type"),
    ] {
        let (code, text, arguments) = error_of(request, 400).await;
        assert_eq!((code, arguments), (108, json!([argument])));
        assert!(text.starts_with(message), "{text}");
    }
}

#[tokio::test]
async fn a_body_of_another_kind_is_a_bad_request() {
    let client = typed();
    for request in [
        client.post("/json").body("{"),
        client.post("/json").body(r#"{"key":"a","value":1} more"#),
        client.post("/form").header("content-type", "multipart/form-data; boundary=x").body("--x--"),
    ] {
        assert_eq!(error_of(request, 400).await.0, 107);
    }
}

#[tokio::test]
async fn a_path_argument_that_the_name_cannot_fill_is_the_workers_fault() {
    assert_eq!(error_of(typed().get("/wrong/x"), 500).await.0, 130);
}

#[tokio::test]
async fn the_request_is_there_as_it_came() {
    let client = worker()
        .handler("url/", async |request: Request| {
            Json(json!({
                "method": request.method().as_str(),
                "path": request.path(),
                "raw_path": request.raw_path(),
                "query_string": request.query_string(),
                "full_path": request.full_path(),
                "a": request.headers().get_all("x-a").iter().map(|v| v.as_bytes().to_vec()).collect::<Vec<_>>(),
                "body": request.body().to_vec(),
                "remote_addr": request.remote_addr(),
                "key": request.access_key_type().map(AccessKeyType::as_str),
                "deadline": request.deadline().is_some(),
                "length": request.header("content-length"),
            }))
        })
        .test_client();
    let request = client.post("/url/mo%72e%252f/ü?level=3&x=%20").header("x-a", "1").header("x-a", b"\xe9");
    assert_eq!(
        json_of(&request.body([0, 255]).key(AccessKeyType::Master).await),
        json!({
            "method": "POST", "path": "/url/more%2f/ü", "raw_path": "/url/mo%72e%252f/ü",
            "query_string": "level=3&x=%20", "full_path": "/url/more%2f/ü?level=3&x=%20",
            "a": [[49], [233]], "body": [0, 255], "remote_addr": "127.0.0.1", "key": "master",
            "deadline": true, "length": "2",
        })
    );
    assert_eq!(json_of(&client.get("/url/").await)["full_path"], "/url/?", "as in Werkzeug");
}

#[tokio::test]
async fn every_return_value_becomes_its_response() {
    let full = || {
        http::Response::builder()
            .status(302)
            .header("location", "/x")
            .header("set-cookie", "a=1")
            .body("moved")
    };
    let two = HeaderMap::from_iter([
        (http::header::SET_COOKIE, HeaderValue::from_static("a=1")),
        (http::header::SET_COOKIE, HeaderValue::from_static("b=2")),
    ]);
    let text = Some("text/plain; charset=utf-8");
    let json = Some("application/json");
    let octets = Some("application/octet-stream");
    let client = worker()
        .handler("str", async || "grüß \"dich\"\n")
        .handler("string", async || String::new())
        .handler("cow", async || Cow::Borrowed("a"))
        .handler("int", async || 42)
        .handler("null", async || ())
        .handler("bool", async || true)
        .handler("value", async || json!("a"))
        .handler("list", async || Json([1, 2]))
        .handler("bytes", async || Bytes::from_static(&[0, 255]))
        .handler("vec", async || vec![1_u8])
        .handler("status", async || StatusCode::NO_CONTENT)
        .handler("created", async || (StatusCode::CREATED, Json(json!({"id": 1}))))
        .handler("teapot", async || (StatusCode::IM_A_TEAPOT, [("X-A", "1"), ("X-A", "2")], "short"))
        .handler("typed", async || ([("content-type", "text/html")], "<p>"))
        .handler("map", async move || (two, "a"))
        .handler("full", async move || full())
        .handler("ok", async || Ok::<_, HandlerError>("fine"))
        .test_client();
    for (path, status, content_type, body) in [
        ("str", 200, text, "grüß \"dich\"\n".as_bytes()),
        ("string", 200, text, b""),
        ("cow", 200, text, b"a"),
        ("int", 200, json, b"42"),
        ("null", 200, json, b"null"),
        ("bool", 200, json, b"true"),
        ("value", 200, json, b"\"a\""),
        ("list", 200, json, b"[1,2]"),
        ("bytes", 200, octets, &[0, 255]),
        ("vec", 200, octets, &[1]),
        ("status", 204, None, b""),
        ("created", 201, json, br#"{"id":1}"#),
        ("teapot", 418, text, b"short"),
        ("typed", 200, Some("text/html"), b"<p>"),
        ("map", 200, text, b"a"),
        ("full", 302, None, b"moved"),
        ("ok", 200, text, b"fine"),
    ] {
        let response = client.get(format!("/{path}")).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(
            response.headers().get("content-type").map(|v| v.to_str().unwrap()),
            content_type,
            "{path}"
        );
        assert_eq!(&response.body()[..], body, "{path}");
        let repeated = match path {
            "teapot" => ("x-a", vec!["1", "2"]),
            "map" => ("set-cookie", vec!["a=1", "b=2"]),
            "full" => ("set-cookie", vec!["a=1"]),
            _ => continue,
        };
        assert_eq!(response.headers().get_all(repeated.0).iter().collect::<Vec<_>>(), repeated.1, "{path}");
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the database password is hunter2")]
struct Broken;

struct OutOfStock;

impl IntoReply for OutOfStock {
    fn into_reply(self) -> Reply {
        HandlerError::new(ErrorCode(10_001), "sold out")
            .with_name("OutOfStock")
            .with_info("left", 0)
            .into_reply()
    }
}

#[tokio::test]
async fn errors_tell_the_client_what_they_may() {
    let client = worker()
        .handler("missing", async || Err::<(), _>(HandlerError::not_found("no such order")))
        .handler("own", async || Err::<(), _>(OutOfStock))
        .handler("nameless", async || HandlerError::new(ErrorCode(10_002), "?"))
        .handler("source", async || Ok::<_, HandlerError>(Err::<(), _>(Broken)?))
        .handler("status", async || (StatusCode::CREATED, HandlerError::permission_denied("no")))
        .handler("panic", async || -> () { panic!("the database password is hunter2") })
        .handler("header", async || ([("x-a", "two\r\nlines")], "a"))
        .handler("informational", async || StatusCode::CONTINUE)
        .handler("unserialisable", async || Json(HashMap::from([((1, 2), 3)])))
        .test_client();
    let neutral = json!({"name": "UnexpectedError", "code": 130, "message": "the handler failed"});
    for (path, status, error) in [
        ("missing", 404, json!({"name": "ResourceNotFound", "code": 110, "message": "no such order"})),
        (
            "own",
            500,
            json!({"name": "OutOfStock", "code": 10_001, "message": "sold out", "info": {"left": 0}}),
        ),
        ("nameless", 500, json!({"name": "HandlerError", "code": 10_002, "message": "?"})),
        ("status", 403, json!({"name": "PermissionDenied", "code": 102, "message": "no"})),
        ("source", 500, neutral.clone()),
        ("panic", 500, neutral.clone()),
        ("header", 500, neutral.clone()),
        ("informational", 500, neutral.clone()),
        ("unserialisable", 500, neutral),
    ] {
        let response = client.get(format!("/{path}")).await;
        assert_eq!(response.status(), status, "{path}");
        let mut told = json_of(&response)["error"].take();
        told.as_object_mut().unwrap().remove("request_id");
        assert_eq!(told, error, "{path}");
    }
}

#[tokio::test]
async fn names_route_as_in_a_gateway() {
    let client = worker()
        .handler("exact", async || "exact")
        .handler("tree/", async || "tree")
        .handler("abc/", async || "subtree")
        .handler("abc/def", async || "override")
        .handler("users:{id}", async |Path(id): Path<u32>| format!("user {id}"))
        .route(handler("both", async || "get").methods([Method::GET]))
        .route(handler("both", async || "post").methods([Method::POST]))
        .route(handler("gone", async || StatusCode::NO_CONTENT).methods([Method::DELETE]))
        .test_client();
    for (request, status, body) in [
        (client.get("/exact"), 200, "exact"),
        (client.get("/tree/"), 200, "tree"),
        (client.get("/tree/a/b/"), 200, "tree"),
        (client.get("/abc/x"), 200, "subtree"),
        (client.get("/abc/def"), 200, "override"),
        (client.get("/abc/def/"), 200, "subtree"),
        (client.get("/users/7"), 200, "user 7"),
        (client.get("/both"), 200, "get"),
        (client.post("/both"), 200, "post"),
        (client.delete("/gone"), 204, ""),
        (client.get("/exact/"), 200, r#"{"result":{"status":"OK"}}"#),
        (client.get("/nowhere"), 200, r#"{"result":{"status":"OK"}}"#),
    ] {
        let response = request.clone().await;
        assert_eq!(
            (response.status().as_u16(), &response.body()[..]),
            (status, body.as_bytes()),
            "{request:?}"
        );
    }
    for request in [client.put("/both"), client.get("/gone"), client.delete("/abc/def")] {
        assert_eq!(error_of(request, 404).await.0, 117);
    }
    for bad in ["/exact%2f", "/a%zz", "/a%", "/a%ff", "/tree/../exact", "/tree/%2e/", "/a%00"] {
        assert_eq!(error_of(client.get(bad), 400).await.0, 107, "{bad}");
    }
    for (request, status, location) in [
        (client.get("/tree?x=1&y=%20"), 301, "/tree/?x=1&y=%20"),
        (client.post("/abc"), 308, "/abc/"),
        (client.get("/tree//a?x=1"), 301, "/tree/a?x=1"),
    ] {
        let response = request.await;
        assert_eq!(
            (response.status().as_u16(), response.headers()["location"].to_str().unwrap()),
            (status, location)
        );
    }
}

#[tokio::test]
async fn credentials_are_demanded_as_by_a_gateway() {
    let client = worker()
        .route(handler("keyed", async || "in").key_required())
        .route(handler("private", async |CurrentUser(user): CurrentUser| user).user_required())
        .handler("open", async |user: Option<CurrentUser>| user.map_or("nobody".to_owned(), |user| user.0))
        .handler("asks", async |_: CurrentUser| ())
        .test_client();
    for (request, body) in [
        (client.get("/keyed").key(AccessKeyType::Client), "in"),
        (client.get("/private").user("alice"), "alice"),
        (client.get("/open").user("alice"), "alice"),
        (client.get("/open"), "nobody"),
    ] {
        assert_eq!(request.await.body(), body);
    }
    for request in [
        client.get("/keyed"),
        client.get("/private"),
        client.get("/private").key(AccessKeyType::Master),
        client.get("/asks"),
    ] {
        assert_eq!(error_of(request, 401).await.0, 101);
    }
}

#[tokio::test]
async fn a_stored_webhook_is_a_first_attempt() {
    let told = async |request: Request| Json(request.delivery().cloned());
    let mode = |mode| DeliverySpec { mode, ..DeliverySpec::default() };
    let verify = || VerifySpec::new(VerifyScheme::Github, "hub");
    let client = worker()
        .route(handler("plain", told).verify(verify()))
        .route(handler("sync", told).delivery(mode(DeliveryMode::Sync)))
        .route(handler("kept", told).delivery(mode(DeliveryMode::Deadline)))
        .route(handler("signed", told).verify(verify()).delivery(mode(DeliveryMode::Durable)))
        .test_client();
    for path in ["/plain", "/sync"] {
        assert_eq!(json_of(&client.post(path).await), Value::Null, "{path}");
    }
    let mut kept = json!({"id": "test", "attempt": 1, "received_at": "2000-01-01T00:00:00.000Z", "replay_of": null,
                          "verification": null});
    assert_eq!(json_of(&client.post("/kept").await), kept);
    kept["verification"] = json!({"scheme": "github", "secret": "hub", "timestamp": null});
    assert_eq!(json_of(&client.post("/signed").await), kept);
}

#[tokio::test]
async fn the_current_user_follows_the_call_and_its_tasks() {
    async fn deep() -> Option<String> {
        tokio::task::yield_now().await;
        current_user_id()
    }
    let client = worker()
        .handler("who", async || {
            let spawned = tokio::spawn(with_current_request(deep())).await.unwrap();
            let bare = tokio::spawn(deep()).await.unwrap();
            Json((deep().await, spawned, bare, current_request().map(|request| request.path().to_owned())))
        })
        .test_client();
    let (alice, bob) = tokio::join!(client.get("/who").user("alice"), client.get("/who").user("bob"));
    assert_eq!(alice.body(), r#"["alice","alice",null,"/who"]"#);
    assert_eq!(bob.body(), r#"["bob","bob",null,"/who"]"#);
    assert_eq!(current_user_id(), None);
}

struct Signature(String);

impl FromRequest for Signature {
    async fn from_request(request: &Request) -> Result<Self, HandlerError> {
        let value = request
            .header("x-signature")
            .ok_or_else(|| HandlerError::bad_request("X-Signature is missing"))?;
        Ok(Self(value.to_owned()))
    }
}

#[tokio::test]
async fn state_and_arguments_of_ones_own() {
    let client = worker()
        .state(vec!["shared".to_owned()])
        .handler("state", async |state: State<Vec<String>>, Signature(s): Signature| {
            format!("{} {s}", state[0])
        })
        .handler("none", async |_: State<u8>| ())
        .handler("parts", async |method: Method, headers: HeaderMap, text: String, body: Bytes| {
            assert_eq!(text.as_bytes(), &body[..]);
            format!("{method} {} {text}", headers["x-a"].to_str().unwrap())
        })
        .test_client();
    assert_eq!(client.get("/state").header("X-Signature", "s").await.body(), "shared s");
    assert_eq!(error_of(client.get("/state"), 400).await.1, "X-Signature is missing");
    assert_eq!(error_of(client.get("/none"), 500).await.0, 130);
    assert_eq!(client.put("/parts").header("x-a", "1").body("body").await.body(), "PUT 1 body");
    assert_eq!(error_of(client.post("/parts").body([0xff]), 400).await.1, "the body is not UTF-8");
}

#[test]
#[should_panic(expected = "GET is taken by an earlier handler")]
fn two_handlers_of_one_path_and_method_are_a_mistake() {
    drop(worker().handler("a", async || ()).handler("/a", async || ()).test_client());
}
