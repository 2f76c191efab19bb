use std::collections::BTreeSet;
use std::convert::Infallible;

use axum::body::Body;
use futures_util::StreamExt;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use utoipa::OpenApi;

use super::*;
use crate::config::{RegistrationToken, Secret};
use crate::data_dir::DataDir;

const ADMIN: Option<&str> = Some("admin-token");
const ANY: Option<&str> = Some("any-worker");
const BILLING: Option<&str> = Some("billing-only");

struct Listener {
    router: Router,
    state: AdminState,
    document: Value,
    _dir: tempfile::TempDir,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

struct Ask {
    method: Method,
    path: String,
    peer: Option<&'static str>,
    headers: HeaderMap,
    body: Body,
}

impl Listener {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path()).unwrap();
        let (store, recovered) = Store::open(&data_dir).unwrap();
        let config = Arc::new(ArcSwap::from_pointee(Config::default()));
        let (deliveries, _) = Deliveries::open(&data_dir, Arc::clone(&config)).unwrap();
        let (registry, _) = Registry::restore(Arc::clone(&config), store.clone(), recovered);
        let scoped = RegistrationToken {
            token: Secret::new("billing-only"),
            names: Some(vec!["billing".into()]),
            paths: Some(vec!["/billing/".into()]),
        };
        let any = RegistrationToken { token: Secret::new("any-worker"), names: None, paths: None };
        let grants = Grants::new(&[Secret::new("admin-token")], &[any, scoped]);
        let state = AdminState {
            succession: Succession::default(),
            registry,
            tokens: TokenTable::default(),
            store,
            deliveries,
            config,
            grants: Arc::new(ArcSwap::from_pointee(grants)),
            readiness: Arc::default(),
            metrics: Arc::new(Metrics::new()),
            bodies: Room::default(),
        };
        let document = serde_json::to_value(openapi::Document::openapi()).unwrap();
        Self { router: router(state.clone()), state, document, _dir: dir }
    }

    /// Besides answering, checks that the document knows the answer.
    async fn answer(&self, ask: Ask) -> Answer {
        let mut request = Request::new(ask.body);
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = ask.path.parse().unwrap();
        *request.headers_mut() = ask.headers;
        if let Some(peer) = ask.peer {
            request.extensions_mut().insert(Peer(peer.parse().unwrap()));
        }
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
        let answer = Answer { status: head.status.as_u16(), headers: head.headers, text };
        if let Some(operation) = self.operation(&ask.method, request_path(&ask.path)) {
            let status = answer.status.to_string();
            assert!(
                operation["responses"].get(&status).is_some(),
                "{} {} answers {status}, which is not documented",
                ask.method,
                ask.path
            );
        }
        answer
    }

    fn operation(&self, method: &Method, path: &str) -> Option<&Value> {
        let paths = self.document["paths"].as_object().unwrap();
        let (_, item) = paths.iter().find(|(template, _)| matches(template, path))?;
        item.get(method.as_str().to_lowercase())
    }

    fn operations(&self) -> BTreeSet<(String, String)> {
        let paths = self.document["paths"].as_object().unwrap();
        paths
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().unwrap().keys().map(move |method| (path.clone(), method.to_uppercase()))
            })
            .collect()
    }

    async fn register(&self, registration: &Value) -> Value {
        let answer = self.answer(post("/v1/workers", registration).token(ADMIN)).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.json()
    }
}

fn request_path(target: &str) -> &str {
    target.split('?').next().unwrap()
}

fn matches(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len()
        && template.iter().zip(&path).all(|(expected, found)| expected == found || expected.starts_with('{'))
}

fn ask(method: Method, path: &str) -> Ask {
    let headers = HeaderMap::from_iter([(HOST, "127.0.0.1:3001".parse().unwrap())]);
    Ask { method, path: path.into(), peer: Some("127.0.0.1:5"), headers, body: Body::empty() }
}

fn get(path: &str) -> Ask {
    ask(Method::GET, path)
}

fn post(path: &str, body: &Value) -> Ask {
    Ask { body: body.to_string().into(), ..ask(Method::POST, path) }.header(CONTENT_TYPE, "application/json")
}

impl Ask {
    fn token(self, token: Option<&str>) -> Self {
        match token {
            Some(token) => self.header(AUTHORIZATION, &format!("Bearer {token}")),
            None => self,
        }
    }

    fn header(mut self, name: http::HeaderName, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }

    fn from(self, peer: &'static str) -> Self {
        Self { peer: Some(peer), ..self }
    }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The error's code, after a look at everything else that an error must have.
    fn error_code(&self) -> u64 {
        let error = &self.json()["error"];
        assert!(error["name"].is_string() && error["message"].is_string(), "{error}");
        let request_id = self.headers.get("x-request-id").unwrap().to_str().unwrap();
        assert_eq!(error["request_id"], request_id);
        assert_eq!(self.headers.get(CONTENT_TYPE).unwrap(), "application/json");
        error["code"].as_u64().unwrap()
    }
}

fn worker(name: &str, paths: &[&str]) -> Value {
    let handlers: Vec<_> = paths.iter().map(|path| json!({ "name": path })).collect();
    json!({"name": name, "url": "http://127.0.0.1:9/", "protocol": "gearway-v1", "handlers": handlers})
}

#[tokio::test]
async fn the_document_and_the_listener_have_the_same_operations() {
    let listener = Listener::new().await;
    let documented = listener.operations();
    let mut served = BTreeSet::new();
    for (path, _) in SERVED {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
            let answer = listener.answer(ask(method.parse().unwrap(), &path.replace("{id}", "x"))).await;
            if answer.status == 405 {
                assert!(answer.headers.contains_key(ALLOW), "{method} {path}");
                assert_eq!(answer.error_code(), 117);
            } else {
                served.insert((path.to_owned(), method.to_owned()));
            }
        }
    }
    assert_eq!(served, documented);
}

#[tokio::test]
async fn every_reference_of_the_document_leads_somewhere() {
    let listener = Listener::new().await;
    let mut pending = vec![&listener.document];
    let mut seen = 0;
    while let Some(value) = pending.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(listener.document.pointer(pointer).is_some(), "{reference}");
                    seen += 1;
                }
                pending.extend(fields.values());
            }
            Value::Array(items) => pending.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    assert!(seen > 10);
}

/// For each operation, in this order: a stranger without a token, a local program without one, a registration token.
/// What an operation answers once the caller may is another test's business; an operator always may.
#[tokio::test]
async fn who_may_do_what() {
    const OPEN: [bool; 3] = [true, true, true];
    const READ: [bool; 3] = [false, true, false];
    const REGISTER: [bool; 3] = [false, false, true];
    const OPERATE: [bool; 3] = [false, false, false];
    let rules = [
        ("GET", "/livez", OPEN),
        ("GET", "/readyz", OPEN),
        ("GET", "/metrics", READ),
        ("GET", "/openapi.json", READ),
        ("POST", "/v1/workers", REGISTER),
        ("GET", "/v1/workers", [false, true, true]),
        ("DELETE", "/v1/workers/{id}", REGISTER),
        ("PUT", "/v1/workers/{id}/lease", REGISTER),
        ("POST", "/v1/workers/{id}/drain", OPERATE),
        ("GET", "/v1/routes", READ),
        ("DELETE", "/v1/routes", OPERATE),
        ("POST", "/v1/tokens", OPERATE),
        ("GET", "/v1/tokens", READ),
        ("DELETE", "/v1/tokens/{id}", OPERATE),
        ("GET", "/v1/deliveries", READ),
        ("GET", "/v1/deliveries/{id}", OPERATE),
        ("DELETE", "/v1/deliveries/{id}", OPERATE),
        ("POST", "/v1/deliveries/{id}/replay", OPERATE),
        ("POST", "/v1/deliveries/replay", OPERATE),
    ];
    let listener = Listener::new().await;
    let ruled = rules.map(|(method, path, _)| (path.to_owned(), method.to_owned()));
    assert_eq!(BTreeSet::from(ruled), listener.operations());

    for (method, path, allowed) in rules {
        let stranger = || ask(method.parse().unwrap(), &path.replace("{id}", "x")).from("192.0.2.7:5");
        let local = || stranger().from("127.0.0.1:5");
        let callers = [
            ("stranger", stranger(), allowed[0], 401),
            ("local", local(), allowed[1], 401),
            ("registration token", stranger().token(ANY), allowed[2], 403),
            ("local with a registration token", local().token(ANY), allowed[2], 403),
            ("admin token", stranger().token(ADMIN), true, 0),
            ("wrong token", local().token(Some("admin-tokeN")), allowed[0], 401),
            (
                "admin token, other scheme",
                local().header(AUTHORIZATION, "Basic admin-token"),
                allowed[0],
                401,
            ),
            ("admin token in the query", with_query(stranger()), allowed[0], 401),
            ("local under another name", local().header(HOST, "example.com"), allowed[0], 401),
            ("local through a proxy", local().header(http::header::VIA, "1.1 x"), allowed[0], 401),
            ("no known peer", Ask { peer: None, ..local() }, allowed[0], 401),
            ("another site's page", local().token(ADMIN).header(ORIGIN, "https://example.com"), false, 403),
        ];
        for (who, ask, may, refusal) in callers {
            let answer = listener.answer(ask).await;
            let was_refused = answer.status == 401 || answer.status == 403;
            assert_eq!(!was_refused, may, "{who}: {method} {path}: {}", answer.status);
            if !may {
                assert_eq!(answer.status, refusal, "{who}: {method} {path}");
                let expected: &[u64] = if refusal == 401 { &[101, 105] } else { &[102] };
                assert!(expected.contains(&answer.error_code()), "{}", answer.text);
                assert_eq!(answer.headers.contains_key(WWW_AUTHENTICATE), refusal == 401);
            }
        }
    }
}

fn with_query(ask: Ask) -> Ask {
    let path = format!("{}?access_token=admin-token&token=admin-token&path=/x", ask.path);
    Ask { path, ..ask }
}

#[tokio::test]
async fn loopback_has_many_faces() {
    let listener = Listener::new().await;
    for (peer, host, expected) in [
        ("127.0.0.1:5", "localhost:3001", 200),
        ("127.8.8.8:5", "127.0.0.1", 200),
        ("[::1]:5", "[::1]:3001", 200),
        ("[::ffff:127.0.0.1]:5", "localhost", 200),
        ("[::ffff:192.0.2.1]:5", "localhost", 401),
        ("127.0.0.1:5", "evil.localhost.example", 401),
        ("127.0.0.1:5", "x@localhost", 401),
    ] {
        let answer = listener.answer(get("/v1/routes").from(peer).header(HOST, host)).await;
        assert_eq!(answer.status, expected, "{peer} {host}");
    }
    let mut twice = get("/v1/routes");
    twice.headers.append(HOST, "localhost".parse().unwrap());
    assert_eq!(listener.answer(twice).await.status, 401);
    let elsewhere = get("http://example.com/v1/routes");
    assert_eq!(listener.answer(elsewhere).await.status, 401);
}

#[tokio::test]
async fn two_authorization_headers_are_malformed() {
    let listener = Listener::new().await;
    let mut twice = get("/v1/routes").token(ADMIN);
    twice.headers.append(AUTHORIZATION, "Bearer other".parse().unwrap());
    let answer = listener.answer(twice).await;
    assert_eq!((answer.status, answer.error_code()), (400, 107));
}

#[tokio::test]
async fn a_worker_registers_renews_and_leaves() {
    let listener = Listener::new().await;
    let registration = json!({
        "name": "orders", "url": "http://127.0.0.1:9/", "protocol": "gearway-v1", "version": "1.2",
        "max_concurrency": 64, "unknown": true,
        "handlers": [{"name": "foo/", "methods": ["GET"], "key_required": true, "timeout_ms": 500}, {"name": "bar"}],
    });
    let answer = listener.answer(post("/v1/workers", &registration).token(ANY)).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let registered = answer.json();
    assert_eq!(registered["lease_ms"], 10_000);
    let (id, secret) = (registered["worker_id"].as_str().unwrap(), registered["secret"].as_str().unwrap());

    let workers = listener.answer(get("/v1/workers")).await;
    assert!(!workers.text.contains(secret));
    let workers = workers.json();
    let worker = &workers["workers"][0];
    for (field, expected) in [
        ("id", json!(id)),
        ("name", json!("orders")),
        ("url", json!("http://127.0.0.1:9/")),
        ("protocol", json!("gearway-v1")),
        ("version", json!("1.2")),
        ("state", json!("live")),
        ("in_flight", json!(0)),
        ("max_concurrency", json!(64)),
        ("calls", json!(0)),
        ("failures", json!(0)),
        ("handlers", json!(2)),
    ] {
        assert_eq!(worker[field], expected, "{field}");
    }
    assert!(worker["lease_left_ms"].as_u64().is_some_and(|left| left <= 10_000));
    assert!(worker["registered_at"].as_str().is_some_and(|at| at.starts_with("20") && at.ends_with('Z')));

    let routes = listener.answer(get("/v1/routes")).await;
    assert!(!routes.text.contains(secret));
    let routes = routes.json();
    assert_eq!(routes["routes"][0]["path"], "/bar");
    assert_eq!(
        routes["routes"][1],
        json!({"path": "/foo/", "methods": [{
            "method": "GET", "owner": "orders", "key_required": true, "user_required": false,
            "timeout_ms": 500, "replicas": 1, "available": true, "verify": [],
            "requests": 0, "p50_ms": null, "p99_ms": null,
        }]})
    );

    let lease = listener.answer(ask(Method::PUT, &format!("/v1/workers/{id}/lease")).token(ANY)).await;
    assert_eq!((lease.status, lease.json()), (200, json!({"lease_ms": 10_000, "draining": false})));

    let left = listener.answer(ask(Method::DELETE, &format!("/v1/workers/{id}")).token(ANY)).await;
    assert_eq!((left.status, left.text.as_str()), (204, ""));
    let late = listener.answer(ask(Method::PUT, &format!("/v1/workers/{id}/lease")).token(ANY)).await;
    assert_eq!((late.status, late.error_code()), (404, 110));
    let again = listener.answer(ask(Method::DELETE, &format!("/v1/workers/{id}")).token(ANY)).await;
    assert_eq!((again.status, again.error_code()), (404, 110));

    let routes = listener.answer(get("/v1/routes")).await.json();
    assert_eq!(routes["routes"][0]["methods"][0]["replicas"], 0);
    assert_eq!(routes["routes"][0]["methods"][0]["available"], false);
}

#[tokio::test]
async fn an_operator_drains_a_worker() {
    let listener = Listener::new().await;
    let registered = listener.register(&worker("orders", &["foo"])).await;
    let id = registered["worker_id"].as_str().unwrap();
    let drain = format!("/v1/workers/{id}/drain");
    assert_eq!(listener.answer(ask(Method::POST, &drain).token(ADMIN)).await.status, 204);
    let lease = listener.answer(ask(Method::PUT, &format!("/v1/workers/{id}/lease")).token(ANY)).await;
    assert_eq!(lease.json()["draining"], true);
    assert_eq!(listener.answer(get("/v1/workers")).await.json()["workers"][0]["state"], "draining");
    let unknown = listener.answer(ask(Method::POST, "/v1/workers/x/drain").token(ADMIN)).await;
    assert_eq!((unknown.status, unknown.error_code()), (404, 110));
}

#[tokio::test]
async fn a_scoped_token_speaks_for_its_names_and_paths_only() {
    let listener = Listener::new().await;
    for (registration, expected) in [
        (worker("billing", &["billing/", "billing/{id}"]), 201),
        (worker("orders", &["billing/x"]), 403),
        (worker("billing", &["billing/x", "orders"]), 403),
        (worker("billing", &["billing"]), 403),
        (worker("billing", &["/"]), 403),
        (worker("billing", &["{any}/x"]), 403),
    ] {
        let answer = listener.answer(post("/v1/workers", &registration).token(BILLING)).await;
        assert_eq!(answer.status, expected, "{registration}: {}", answer.text);
        if expected == 403 {
            assert_eq!(answer.error_code(), 102);
        }
    }

    let orders = listener.register(&worker("orders", &["orders"])).await;
    let id = orders["worker_id"].as_str().unwrap();
    for (method, path) in
        [(Method::PUT, format!("/v1/workers/{id}/lease")), (Method::DELETE, format!("/v1/workers/{id}"))]
    {
        let answer = listener.answer(ask(method, &path).token(BILLING)).await;
        assert_eq!((answer.status, answer.error_code()), (403, 102), "{path}");
    }
    let names = |answer: &Answer| -> Vec<String> {
        let workers = answer.json();
        let workers = workers["workers"].as_array().unwrap();
        workers.iter().map(|worker| worker["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&listener.answer(get("/v1/workers").token(BILLING)).await), ["billing"]);
    assert_eq!(names(&listener.answer(get("/v1/workers").token(ADMIN)).await), ["billing", "orders"]);
}

#[tokio::test]
async fn a_registration_that_cannot_be_used_names_the_field() {
    let listener = Listener::new().await;
    let with = |field: &str, value: Value| {
        let mut registration = worker("orders", &["foo"]);
        registration[field] = value;
        registration
    };
    for (registration, field) in [
        (json!({"url": "http://127.0.0.1:9/", "protocol": "gearway-v1", "handlers": []}), "name"),
        (json!({"name": "a", "url": "http://127.0.0.1:9/", "protocol": "gearway-v1"}), "handlers"),
        (with("name", json!(7)), "name"),
        (with("name", json!("")), "name"),
        (with("url", json!("nonsense")), "url"),
        (with("protocol", json!("http")), "protocol"),
        (with("max_concurrency", json!(0)), "max_concurrency"),
        (with("max_concurrency", json!(-1)), "max_concurrency"),
        (with("handlers", json!([{"name": "ok"}, {"methods": ["GET"]}])), "handlers[1].name"),
        (with("handlers", json!([{"name": "a//b"}])), "handlers[0].name"),
        (with("handlers", json!([{"name": "a", "methods": ["get"]}])), "handlers[0].methods[0]"),
        (with("handlers", json!([{"name": "a", "timeout_ms": "1s"}])), "handlers[0].timeout_ms"),
        (with("handlers", json!([{"name": "a", "key_required": 1}])), "handlers[0].key_required"),
    ] {
        let answer = listener.answer(post("/v1/workers", &registration).token(ANY)).await;
        assert_eq!((answer.status, answer.error_code()), (400, 107), "{registration}: {}", answer.text);
        assert_eq!(answer.json()["error"]["info"]["field"], field, "{registration}: {}", answer.text);
    }
    for text in ["", "{", "[]", "{} x", "\u{1}", "null"] {
        let ask = Ask { body: text.into(), ..ask(Method::POST, "/v1/workers") }.token(ANY);
        let answer = listener.answer(ask).await;
        assert_eq!((answer.status, answer.error_code()), (400, 107), "{text:?}: {}", answer.text);
    }
    let deep = Ask { body: "[".repeat(100_000).into(), ..ask(Method::POST, "/v1/workers") };
    assert_eq!(listener.answer(deep.token(ANY)).await.status, 400);
}

#[tokio::test]
async fn a_body_is_json_or_says_nothing_of_its_type() {
    let listener = Listener::new().await;
    let body = || worker("orders", &["foo"]).to_string();
    for (content_type, expected) in [
        (None, 201),
        (Some("application/json"), 201),
        (Some("application/json; charset=utf-8"), 201),
        (Some("text/plain"), 415),
        (Some("application/x-www-form-urlencoded"), 415),
    ] {
        let mut ask = Ask { body: body().into(), ..ask(Method::POST, "/v1/workers") }.token(ANY);
        if let Some(content_type) = content_type {
            ask = ask.header(CONTENT_TYPE, content_type);
        }
        let answer = listener.answer(ask).await;
        assert_eq!(answer.status, expected, "{content_type:?}");
        if expected == 415 {
            assert_eq!(answer.error_code(), 107);
        }
    }
}

#[tokio::test]
async fn a_body_has_a_largest_size() {
    let listener = Listener::new().await;
    let chunk = bytes::Bytes::from(vec![b' '; 1 << 20]);
    let chunks = futures_util::stream::iter((0..65).map(move |_| Ok::<_, Infallible>(chunk.clone())));
    let ask = Ask { body: Body::from_stream(chunks), ..ask(Method::POST, "/v1/workers") };
    let answer = listener.answer(ask.token(ANY)).await;
    assert_eq!((answer.status, answer.error_code()), (413, 107));
}

/// One is read after the other, so to speak: what many send at once does not fill the memory.
#[tokio::test]
async fn bodies_share_a_bounded_room() {
    let listener = Listener::new().await;
    let begun = |mebibytes: usize| {
        let chunk = bytes::Bytes::from(vec![b' '; 1 << 20]);
        let come =
            futures_util::stream::iter((0..mebibytes).map(move |_| Ok::<_, Infallible>(chunk.clone())));
        let body = Body::from_stream(come.chain(futures_util::stream::pending()));
        listener.answer(Ask { body, ..ask(Method::POST, "/v1/workers") }.token(ANY))
    };
    let mut first = Box::pin(begun(60));
    let mut second = Box::pin(begun(60));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(futures_util::poll!(&mut second).is_pending());
    let answer = begun(60).await;
    assert_eq!((answer.status, answer.error_code()), (503, 118));
    assert!(answer.headers.contains_key("retry-after"));
    // Workers of a usual size register all the same, and whoever gives up makes room.
    listener.register(&worker("orders", &["foo"])).await;
    drop(first);
    let mut third = Box::pin(begun(60));
    assert!(futures_util::poll!(&mut third).is_pending());
}

#[tokio::test]
async fn a_body_has_a_longest_time() {
    let listener = Listener::new().await;
    let mut config = Config::default();
    config.limits.body_timeout = Duration::from_millis(1);
    listener.state.config.store(Arc::new(config));
    let never = futures_util::stream::pending::<Result<bytes::Bytes, Infallible>>();
    let ask = Ask { body: Body::from_stream(never), ..ask(Method::POST, "/v1/workers") };
    let answer = listener.answer(ask.token(ANY)).await;
    assert_eq!((answer.status, answer.error_code()), (408, 107));
}

#[tokio::test]
async fn a_conflict_names_both() {
    let listener = Listener::new().await;
    listener.register(&worker("orders", &["foo", "bar"])).await;
    let rival = post("/v1/workers", &worker("billing", &["new", "foo"])).token(ADMIN);
    let answer = listener.answer(rival).await;
    assert_eq!((answer.status, answer.error_code()), (409, 109));
    let error = &answer.json()["error"];
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("orders") && message.contains("billing") && message.contains("/foo"),
        "{message}"
    );
    let conflicts = error["info"]["conflicts"].as_array().unwrap();
    assert_eq!(conflicts.len(), 3);
    assert!(conflicts.contains(&json!({"path": "/foo", "method": "GET", "owner": "orders"})));
    let paths: Vec<_> = listener.answer(get("/v1/routes")).await.json()["routes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|route| route["path"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(paths, ["/bar", "/foo"]);
}

#[tokio::test]
async fn a_conflict_of_many_routes_is_told_in_few_words() {
    let listener = Listener::new().await;
    let paths: Vec<_> = (0..2000).map(|number| format!("path-{number}")).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    listener.register(&worker("orders", &paths)).await;
    let answer = listener.answer(post("/v1/workers", &worker("billing", &paths)).token(ADMIN)).await;
    assert_eq!((answer.status, answer.error_code()), (409, 109));
    let error = &answer.json()["error"];
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("and so do 5990 more") && message.len() < 1000, "{message}");
    assert_eq!(error["info"]["conflicts"].as_array().unwrap().len(), 1000);
}

#[tokio::test]
async fn a_registration_without_room_is_told_so_and_the_others_go_on() {
    let listener = Listener::new().await;
    listener.register(&worker("orders", &["foo"])).await;
    listener.state.registry.know_at_most(1000).await;
    let long = "x".repeat(1000);
    let answer = listener.answer(post("/v1/workers", &worker("greedy", &[&long])).token(ANY)).await;
    assert_eq!((answer.status, answer.error_code()), (503, 118));
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(answer.json()["error"]["info"]["field"], "handlers");
    listener.register(&worker("orders", &["foo"])).await;
    assert_eq!(listener.answer(get("/v1/workers")).await.json()["workers"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_url_outside_the_allowed_ranges_is_refused() {
    let listener = Listener::new().await;
    let mut registration = worker("orders", &["foo"]);
    registration["url"] = json!("http://192.0.2.1:9/");
    let answer = listener.answer(post("/v1/workers", &registration).token(ANY)).await;
    assert_eq!((answer.status, answer.error_code()), (422, 108));
    assert_eq!(answer.json()["error"]["info"]["field"], "url");
}

#[tokio::test]
async fn a_draining_gateway_takes_no_registrations() {
    let listener = Listener::new().await;
    let registered = listener.register(&worker("orders", &["foo"])).await;
    let id = registered["worker_id"].as_str().unwrap();
    listener.state.readiness.set(Phase::Draining);
    let answer = listener.answer(post("/v1/workers", &worker("other", &["bar"])).token(ANY)).await;
    assert_eq!((answer.status, answer.error_code()), (503, 118));
    assert_eq!(answer.headers.get(RETRY_AFTER).unwrap(), "1");
    let lease = listener.answer(ask(Method::PUT, &format!("/v1/workers/{id}/lease")).token(ANY)).await;
    assert_eq!(lease.status, 200);
}

#[tokio::test]
async fn readiness_follows_the_gateways_life() {
    let listener = Listener::new().await;
    for (phase, expected) in [(Phase::Starting, 503), (Phase::Ready, 200), (Phase::Draining, 503)] {
        listener.state.readiness.set(phase);
        assert_eq!(listener.answer(get("/readyz")).await.status, expected, "{phase:?}");
        assert_eq!(listener.answer(get("/livez")).await.status, 200);
    }
}

#[tokio::test]
async fn a_route_is_forgotten_once_it_has_no_worker() {
    let listener = Listener::new().await;
    let registered = listener.register(&worker("orders", &["foo"])).await;
    let forget = |path: &str| ask(Method::DELETE, &format!("/v1/routes?path={path}")).token(ADMIN);
    let in_use = listener.answer(forget("/foo")).await;
    assert_eq!((in_use.status, in_use.error_code()), (409, 113));
    let id = registered["worker_id"].as_str().unwrap();
    listener.answer(ask(Method::DELETE, &format!("/v1/workers/{id}")).token(ADMIN)).await;
    let forgotten = listener.answer(forget("%2Ffoo")).await;
    assert_eq!((forgotten.status, forgotten.json()), (200, json!({"forgotten": 3})));
    let again = listener.answer(forget("/foo")).await;
    assert_eq!((again.status, again.error_code()), (404, 110));
    for target in ["/v1/routes", "/v1/routes?path=/a&path=/b", "/v1/routes?other=1"] {
        let answer = listener.answer(ask(Method::DELETE, target).token(ADMIN)).await;
        assert_eq!((answer.status, answer.error_code()), (400, 107), "{target}");
    }
}

#[tokio::test]
async fn access_tokens_are_made_listed_and_revoked() {
    let listener = Listener::new().await;
    let new = json!({"user": "alice", "ttl": "1h"});
    let created = listener.answer(post("/v1/tokens", &new).token(ADMIN)).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let created = created.json();
    let token = created["token"].as_str().unwrap();
    assert_eq!(created["user"], "alice");
    assert!(created["created_at"].as_str() < created["expires_at"].as_str());
    assert_eq!(listener.state.tokens.lookup(token).as_deref(), Some("alice"));

    let forever = listener.answer(post("/v1/tokens", &json!({"user": "bob"})).token(ADMIN)).await.json();
    assert_eq!(forever["expires_at"], Value::Null);

    let list = listener.answer(get("/v1/tokens")).await;
    assert!(!list.text.contains(token));
    let list = list.json();
    let mut expected = created.clone();
    expected.as_object_mut().unwrap().remove("token");
    assert_eq!(list["tokens"][0], expected);

    let revoke = || ask(Method::DELETE, &format!("/v1/tokens/{}", created["id"].as_str().unwrap()));
    assert_eq!(listener.answer(revoke().token(ADMIN)).await.status, 204);
    assert_eq!(listener.state.tokens.lookup(token), None);
    let again = listener.answer(revoke().token(ADMIN)).await;
    assert_eq!((again.status, again.error_code()), (404, 110));

    for (body, field) in [
        (json!({}), "user"),
        (json!({"user": ""}), "user"),
        (json!({"user": "a\nb"}), "user"),
        (json!({"user": "a", "ttl": "1 fortnight"}), "ttl"),
        (json!({"user": "a", "ttl": "0s"}), "ttl"),
        (json!({"user": "a", "ttl": "99999999999999d"}), "ttl"),
    ] {
        let answer = listener.answer(post("/v1/tokens", &body).token(ADMIN)).await;
        assert_eq!((answer.status, answer.error_code()), (400, 107), "{body}");
        assert_eq!(answer.json()["error"]["info"]["field"], field, "{body}");
    }
}

#[tokio::test]
async fn a_store_that_takes_nothing_changes_nothing() {
    let listener = Listener::new().await;
    listener.state.store.shutdown().await;
    for ask in
        [post("/v1/tokens", &json!({"user": "alice"})), post("/v1/workers", &worker("orders", &["foo"]))]
    {
        let answer = listener.answer(ask.token(ADMIN)).await;
        assert_eq!((answer.status, answer.error_code()), (503, 118), "{}", answer.text);
        assert!(answer.headers.contains_key(RETRY_AFTER));
    }
    assert!(listener.state.tokens.list().is_empty());
    assert_eq!(listener.answer(get("/v1/routes")).await.json(), json!({"routes": []}));
}

#[tokio::test]
async fn unknown_paths_answer_like_everything_else() {
    let listener = Listener::new().await;
    for path in ["/", "/v1", "/v1/workers/", "/v2/workers", "/v1/workers/x/y"] {
        let answer = listener.answer(get(path)).await;
        assert_eq!((answer.status, answer.error_code()), (404, 117), "{path}");
    }
}

#[tokio::test]
async fn metrics_tell_of_refused_tokens() {
    let listener = Listener::new().await;
    listener.answer(get("/v1/routes").token(Some("wrong"))).await;
    let metrics = listener.answer(get("/metrics")).await;
    assert!(
        metrics
            .headers
            .get(CONTENT_TYPE)
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    assert!(
        metrics.text.contains("gearway_auth_failures_total{reason=\"admin_token\"} 1"),
        "{}",
        metrics.text
    );
    assert!(!metrics.text.contains("wrong"));
}

#[tokio::test]
async fn grants_change_while_serving() {
    let listener = Listener::new().await;
    listener.state.grants.store(Arc::new(Grants::new(&[Secret::new("next")], &[])));
    assert_eq!(listener.answer(get("/v1/routes").token(ADMIN)).await.status, 401);
    assert_eq!(listener.answer(get("/v1/routes").token(Some("next"))).await.status, 200);
}

#[tokio::test]
async fn it_serves_on_a_socket_until_told_to_stop() {
    let listener = Listener::new().await;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(socket, listener.state.clone(), Drain::default(), shutdown.clone()));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.get(format!("http://{address}/v1/workers")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.headers().contains_key("x-request-id"));
    shutdown.cancel();
    serving.await.unwrap().unwrap();
    assert!(client.get(format!("http://{address}/livez")).send().await.is_err());
}
