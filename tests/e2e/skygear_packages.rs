//! Cloud code that was written for Skygear v1, run by Skygear's own packages behind the gateway. The code lies in
//! `tests/skygear/`; where a package does more or less than the other, the row says which.

mod environment;

use gearway_tests::{Gateway, Request, Response, wait};
use serde_json::{Value, json};

use crate::expect::{self, not_run, redirect, unmatched};
use environment::{Language, Plugin};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const CONFIG: &str = "
[auth]
client_keys = [\"your-api-key\"]
master_keys = [\"your-master-key\"]
[workers]
park = \"50ms\"
";

/// The cloud code of `tests/skygear/` behind a gateway.
struct App {
    language: Language,
    gateway: Gateway,
    _plugin: Plugin,
}

impl App {
    async fn start(language: Language) -> Self {
        let plugin = Plugin::start(language, &language.app()).await;
        let gateway = Gateway::start(&format!("{CONFIG}{}", plugin.config("legacy"))).await;
        gateway.admin().wait_for_route("/foo").await;
        Self { language, gateway, _plugin: plugin }
    }

    async fn check(&self, request: Request, expected: Expected) {
        let response = self.gateway.send(request.clone()).await;
        let what = format!("{:?}: {request:?}: {response:?}", self.language);
        let content_type = response.header("content-type").unwrap_or_default();
        match expected {
            Expected::Text(text) => {
                let got = (response.status, content_type.as_str(), response.text());
                assert_eq!(got, (200, TEXT, text.to_owned()), "{what}");
            }
            Expected::Json(value) => {
                assert_eq!((response.status, content_type.as_str()), (200, JSON), "{what}");
                assert_eq!(response.json(), value, "{what}");
            }
            Expected::Error(status, code, name) => drop(expect::error(&response, status, code, name)),
            Expected::RedirectTo(to) => redirect(&response, 301, to),
            Expected::Unmatched => unmatched(&response),
        }
    }

    async fn get(&self, target: &str) -> Response {
        self.gateway.get(target).await
    }
}

/// What is expected of one row.
enum Expected {
    Text(&'static str),
    Json(Value),
    Error(u16, u32, &'static str),
    RedirectTo(&'static str),
    Unmatched,
}

const UNDEFINED: Expected = Expected::Error(404, 117, "UndefinedOperation");
const NO_CREDENTIALS: Expected = Expected::Error(401, 101, "NotAuthenticated");

#[tokio::test]
async fn names_and_methods_are_routed_as_they_were() {
    for language in Language::ALL {
        let app = App::start(language).await;
        for (method, target, expected) in [
            ("GET", "/foo", Expected::Text("foo")),
            ("POST", "/foo", Expected::Text("foo")),
            ("PUT", "/foo", Expected::Text("foo")),
            ("DELETE", "/foo", UNDEFINED),
            ("GET", "/foo/", Expected::Unmatched),
            ("GET", "/foo/bar", Expected::Unmatched),
            ("GET", "/tree/", Expected::Text("tree/ /tree/")),
            ("GET", "/tree/a/b", Expected::Text("tree/ /tree/a/b")),
            ("GET", "/tree?x=1", Expected::RedirectTo("/tree/?x=1")),
            ("GET", "/abc/def", Expected::Text("abc/def")),
            ("GET", "/abc/deg", Expected::Text("abc/ /abc/deg")),
            ("GET", "/slashed", Expected::Text("/slashed")),
            // Two names of one path: for a method that both have, the later one counts.
            ("GET", "/twice", Expected::Text("the later")),
            ("POST", "/twice", Expected::Text("the earlier")),
            // A colon reads as a slash, and braces are letters.
            ("GET", "/chat/room", Expected::Text("chat:room")),
            ("GET", "/lit/%7Bid%7D", Expected::Text("lit/{id}")),
            ("GET", "/lit/7", Expected::Unmatched),
            // Two functions for the methods of one name; one method that is not among the default ones.
            ("GET", "/my_endpoint", Expected::Text("got")),
            ("POST", "/my_endpoint", Expected::Text("posted ")),
            ("PUT", "/my_endpoint", UNDEFINED),
            ("GET", "/item", UNDEFINED),
            // Lambdas were called by clients of Skygear's own, and not by a path.
            ("GET", "/greet", Expected::Unmatched),
        ] {
            app.check(Request::new(method, target), expected).await;
        }
        let deleted = app.gateway.send(Request::new("DELETE", "/item")).await;
        assert_eq!((deleted.status, deleted.body.len()), (204, 0), "{language:?}");
    }
}

#[tokio::test]
async fn the_user_and_the_kind_of_key_are_in_the_context() {
    for language in Language::ALL {
        let app = App::start(language).await;
        let token = app.gateway.admin().create_token("alice", "1h").await.token;
        let get = Request::get;
        let who = |user: Option<&str>, kind: Option<&str>| {
            Expected::Json(json!({"user_id": user, "access_key_type": kind, "has_request_id": true}))
        };
        for (request, expected) in [
            (get("/private").api_key("your-api-key").access_token(&token), Expected::Text("alice")),
            (get("/private"), NO_CREDENTIALS),
            (get("/private").api_key("your-api-key"), NO_CREDENTIALS),
            (
                get("/private").api_key("another").access_token(&token),
                Expected::Error(401, 103, "AccessKeyNotAccepted"),
            ),
            (
                get("/private").api_key("your-api-key").access_token("another"),
                Expected::Error(401, 104, "AccessTokenNotAccepted"),
            ),
            (get("/keyed").api_key("your-api-key"), Expected::Text("client")),
            (get("/keyed").api_key("your-master-key"), Expected::Text("master")),
            (get("/keyed"), NO_CREDENTIALS),
            (get("/whoami"), who(None, None)),
            (get("/whoami").api_key("your-api-key"), who(None, Some("client"))),
            (get("/whoami").api_key("your-api-key").access_token(&token), who(Some("alice"), Some("client"))),
            (
                get("/whoami").api_key("your-master-key").header("X-Gearway-User-Id", "bob"),
                who(Some("bob"), Some("master")),
            ),
        ] {
            app.check(request, expected).await;
        }
    }
}

#[tokio::test]
async fn requests_are_read_as_they_were() {
    const UPLOAD: &str = "--line\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nA title\r\n\
        --line\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\
        Content-Type: text/plain\r\n\r\nhello\r\n--line--\r\n";
    let form =
        |body: &str| Request::post("/form", body).header("content-type", "application/x-www-form-urlencoded");
    let json_body = |body: &str| Request::post("/json", body).header("Content-Type", "application/json");
    let upload =
        || Request::post("/upload", UPLOAD).header("Content-Type", "multipart/form-data; boundary=line");
    for language in Language::ALL {
        let app = App::start(language).await;
        // Python's `full_path` ends in a question mark even without a query.
        let bare = if language == Language::Python { "café?" } else { "café" };
        for (request, expected) in [
            (Request::get("/get_query_string?key=month&value=10"), json!({"key": "month", "value": 10})),
            (Request::get("/get_query_string?key=a%20b%26c&value=-1"), json!({"key": "a b&c", "value": -1})),
            (form("a=3&b=at"), json!({"a": 3, "b": "at"})),
            (form("a=3&b=a+b%C3%A9"), json!({"a": 3, "b": "a bé"})),
            // The parsers want the length, which such a request does not carry.
            (form("a=3&b=at").chunked(2), json!({"a": 3, "b": "at"})),
            (upload(), json!({"name": "a.txt", "size": 5, "title": "A title"})),
            (json_body("{\"name\": \"Jöhn\"}"), json!({"name": "Jöhn"})),
            (json_body("{}"), json!({"name": null})),
            (Request::get("/url/more/levels?level=3"), json!({"path": "more/levels?level=3"})),
            (Request::get("/url/caf%C3%A9"), json!({"path": bare})),
            (
                Request::get("/headers")
                    .header("host", "api.example.com")
                    .header("x-hub-signature-256", "sha256=00")
                    .api_key("your-api-key"),
                json!({"Host": "api.example.com", "X-Hub-Signature-256": "sha256=00", "X-Skygear-API-Key": null}),
            ),
        ] {
            app.check(request, Expected::Json(expected)).await;
        }
        for body in [b"".as_slice(), "é\0\r\n".as_bytes()] {
            let response = app.gateway.post("/bytes", body).await.expect_status(200);
            assert_eq!(response.body, body, "{language:?}");
        }
        let binary = app.gateway.post("/bytes", [0xff, 0x00]).await;
        match language {
            Language::Python => assert_eq!((binary.status, binary.body), (200, vec![0xff, 0x00])),
            // The Node package reads bodies as text and nothing else.
            Language::Node => drop(expect::error(&binary, 500, 10_000, "UnexpectedError")),
        }
    }
}

#[tokio::test]
async fn return_values_become_the_responses_that_they_were() {
    for language in Language::ALL {
        let app = App::start(language).await;
        for (target, expected) in [
            ("/string", Expected::Text("a string: é")),
            ("/dict", Expected::Json(json!({"name": "John"}))),
            ("/list", Expected::Json(json!([1, 2, 3]))),
            ("/int", Expected::Json(json!(42))),
            ("/null", Expected::Json(Value::Null)),
        ] {
            app.check(Request::get(target), expected).await;
        }
        let response = app.get("/response").await.expect_status(201);
        assert_eq!(response.text(), "<h1>created</h1>", "{language:?}");
        assert_eq!(response.header("content-type").as_deref(), Some("text/html; charset=utf-8"));
        assert_eq!(response.header("x-version").as_deref(), Some("1"));

        let cookies = app.get("/cookies").await.expect_status(200).header_values("set-cookie");
        let cookies: Vec<_> = cookies.iter().map(|cookie| String::from_utf8_lossy(cookie)).collect();
        match language {
            // The Python package keeps the last of a repeated header.
            Language::Python => assert_eq!(cookies, ["language=de; Path=/"]),
            Language::Node => assert_eq!(cookies, ["theme=dark; Path=/", "language=de; Path=/"]),
        }
    }
}

#[tokio::test]
async fn errors_keep_their_codes_and_lose_their_tracebacks() {
    for language in Language::ALL {
        let app = App::start(language).await;
        let crash = if language == Language::Python { "a bug" } else { "Error: a bug" };
        for (target, (status, code, name), message, info) in [
            ("/errors/not_found", (404, 110, "ResourceNotFound"), "no such book", Some(json!({"id": 7}))),
            (
                "/errors/password",
                (500, 126, "PasswordPolicyViolated"),
                "too short",
                Some(json!({"min_length": 8})),
            ),
            ("/errors/own", (500, 10_001, "HandlerError"), "sold out", Some(json!({"left": 4}))),
            ("/errors/crash", (500, 10_000, "UnexpectedError"), crash, None),
        ] {
            let response = app.get(target).await;
            let error = expect::error(&response, status, code, name);
            assert_eq!(error["message"], message, "{language:?}: {response:?}");
            assert_eq!(error.get("info"), info.as_ref(), "{language:?}: {response:?}");
            assert!(!response.text().contains(language.app_file()), "a traceback: {response:?}");
        }
    }
}

/// What only one of the packages has.
#[tokio::test]
async fn decorators_of_one_package_only_work_too() {
    let python = App::start(Language::Python).await;
    for (request, expected) in [
        (Request::get("/books"), Expected::Json(json!(["hamlet"]))),
        (Request::get("/books/"), Expected::Json(json!(["hamlet"]))),
        (Request::get("/books/7"), Expected::Json(json!({"id": "7"}))),
        (Request::post("/books", "{\"id\": \"8\"}"), Expected::Json(json!({"id": "8"}))),
        (Request::post("/books", "{"), Expected::Error(400, 107, "BadRequest")),
        (Request::new("DELETE", "/books/7"), UNDEFINED),
        (Request::get("/errors/mapped"), Expected::Error(403, 102, "PermissionDenied")),
    ] {
        python.check(request, expected).await;
    }
    let node = App::start(Language::Node).await;
    assert_eq!(node.get("/static/pages/absent.html").await.status, 404);
}

const BEFORE_PYTHON: &str = "
import skygear

@skygear.handler('python/before')
def before(request):
    return 'before'
";
const BEFORE_NODE: &str = "
const skygearCloud = require('skygear/cloud');
skygearCloud.handler('node/before', () => 'before');
";

#[tokio::test]
async fn plugins_are_asked_until_they_answer_and_again_after_a_restart() {
    let mut python = Plugin::stopped(Language::Python).await;
    let mut node = Plugin::stopped(Language::Node).await;
    let config = format!("{CONFIG}{}{}", python.config("python"), node.config("node"));
    let gateway = Gateway::start(&config).await;
    // Nobody knows yet whose path this will be.
    not_run(&gateway.post("/python/before", "x").await);
    python.deploy(BEFORE_PYTHON);
    node.deploy(BEFORE_NODE);
    for path in ["/python/before", "/node/before"] {
        gateway.admin().wait_for_route(path).await;
        assert_eq!(gateway.get(path).await.expect_status(200).text(), "before");
    }

    // A call finds one gone; the other comes back before anybody noticed.
    python.stop();
    not_run(&gateway.get("/python/before").await);
    python.deploy(&BEFORE_PYTHON.replace("before", "after"));
    node.deploy(&BEFORE_NODE.replace("before", "after"));
    for path in ["/python/after", "/node/after"] {
        wait::until(&format!("{path} is served"), async || {
            (gateway.get(path).await.text() == "after").then_some(())
        })
        .await;
    }
    for path in ["/python/before", "/node/before"] {
        unmatched(&gateway.get(path).await);
    }
}
