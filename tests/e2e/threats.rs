//! What attacks a gateway, beyond what the tests of each part show: the attacks that go across them.

use std::time::{SystemTime, UNIX_EPOCH};

use gearway_tests::server::Server;
use gearway_tests::{Answer, Gateway, Registration, Request, ScriptedWorker};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use crate::expect::{self, serving};

mod canaries;
mod secrets;
mod terminals;
mod transport;
mod webhooks;
mod workers;

/// However a protected path is spelt, it is either the protected handler that is asked for, with its credentials, or nobody's.
#[tokio::test]
async fn no_spelling_of_a_path_gets_around_its_key() {
    let gateway = Gateway::start("[auth]\nclient_keys = [\"client-key\"]").await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker")
        .handler("/")
        .handler_with(json!({"name": "admin/", "key_required": true}))
        .handler_with(json!({"name": "admin", "key_required": true}));
    worker.register(&gateway, &registration).await;
    for target in [
        "/admin",
        "/admin/",
        "/admin/x",
        "/%61dmin/x",
        "/%41dmin/x",
        "/admin%2fx",
        "/admin%2Fx",
        "/admin%5cx",
        "/admin\\x",
        "/./admin/x",
        "/%2e/admin/x",
        "/x/../admin/x",
        "/x/%2e%2e/admin/x",
        "/x/..%2fadmin/x",
        "/x/.%2e/admin",
        "//admin/x",
        "/admin//x",
        "///admin",
        "/admin;a=b/x",
        "/admin%00/x",
        "/admin%0a/x",
        "/admin%20/x",
        "/admin./x",
        "/admin%252fx",
        "/%2561dmin/x",
        "/ADMIN/x",
        "/admin?/x",
        "/%c0%afadmin/x",
        "/%e0%80%afadmin",
        "/%ef%bc%8fadmin",
        "http://other.example/admin/x",
        "http://other.example//admin/x",
    ] {
        let calls = worker.calls().len();
        let response = gateway.get(target).await;
        match response.status {
            301 | 308 | 400 | 401 => assert_eq!(worker.calls().len(), calls, "{target}"),
            200 => {
                let envelope = expect::envelope(&response);
                let path = envelope["param"]["path"].as_str().unwrap_or_default().to_owned();
                // What the open handler gets must be no protected path to anyone who compares texts.
                let protected = path == "/admin" || path.starts_with("/admin/");
                assert!(envelope["name"] == "/" && !protected, "{target}: {envelope}");
                let normal = !path.contains("//") && !path.contains('\\') && !path.contains("/../");
                assert!(normal && !path.contains('\0'), "{target}: {envelope}");
            }
            _ => panic!("{target}: {response:?}"),
        }
    }
    let with_key = Request::get("/%61dmin/x").api_key("client-key");
    assert_eq!(expect::handled_by(&gateway.send(with_key).await), "admin/");
}

/// A name is resolved when it is registered and whenever it is used, and the address is what counts.
#[tokio::test]
async fn a_name_that_resolves_elsewhere_is_refused() {
    let gateway = Gateway::start("[workers]\nallowed_urls = [\"192.0.2.0/24\"]").await;
    let worker = ScriptedWorker::start("worker");
    let port = worker.address().port();
    let token = gateway.registration_token();
    for host in ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0x7f000001", "2130706433", "127.1"]
    {
        let registration =
            Registration::new("worker").handler("foo").set("url", json!(format!("http://{host}:{port}/")));
        let response = worker.try_register(&gateway, &registration, Some(&token)).await;
        assert!(matches!(response.status, 400 | 403 | 422), "{host}: {response:?}");
        assert!(response.text().contains("url"), "{host}: {response:?}");
    }
    expect::unmatched(&gateway.get("/foo").await);
    assert_eq!(worker.server().connections(), 0);
}

/// A worker's redirect is no answer, and nothing that it points to is asked.
#[tokio::test]
async fn redirects_of_workers_are_not_followed() {
    let (gateway, worker) = serving("", &["foo"]).await;
    let trap = Server::start(|_| Answer::text("trapped"));
    for status in [301, 302, 303, 307, 308] {
        let location = format!("http://{}/", trap.address());
        worker.always(Answer::status(status, "").header("Location", &location));
        expect::error(&gateway.post("/foo", "x").await, 502, 130, "UnexpectedError");
    }
    assert_eq!((worker.calls().len(), trap.connections()), (5, 0));
}

/// Proxy variables, in either case, and addresses that a token brings along: the gateway calls its workers and its issuer, and
/// nobody else.
#[tokio::test]
async fn nobody_is_called_on_a_strangers_word() {
    let trap = Server::start(|_| Answer::text("trapped"));
    let issuer = Server::start(|_| Answer::raw(r#"{"keys":[]}"#));
    let proxy = format!("http://{}", trap.address());
    let config =
        format!("[auth]\njwt.jwks_url = \"http://{}/keys\"\nuser_requires_key = false", issuer.address());
    let mut builder = Gateway::builder().config(&config);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        builder = builder.env(name, &proxy);
    }
    let gateway = builder.start().await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker")
        .handler("foo")
        .handler_with(json!({"name": "user", "user_required": true}));
    worker.register(&gateway, &registration).await;
    assert_eq!(gateway.post("/foo", "x").await.status, 200);

    for algorithm in [Algorithm::HS256, Algorithm::HS512] {
        let mut header = Header::new(algorithm);
        header.jku = Some(format!("{proxy}/jku"));
        header.x5u = Some(format!("{proxy}/x5u"));
        header.kid = Some(format!("{proxy}/kid"));
        let exp = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() + 600;
        let claims = json!({"sub": "mallory", "exp": exp, "iss": format!("{proxy}/")});
        let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(b"any"));
        let request = Request::get("/user").bearer(&token.expect("a token"));
        expect::error(&gateway.send(request).await, 401, 104, "AccessTokenNotAccepted");
    }
    assert!(issuer.connections() > 0, "the issuer is asked directly");
    assert_eq!((worker.calls().len(), trap.connections()), (1, 0));
}

/// The admin listener speaks JSON, to those who show a token in `Authorization`, and sets nothing that a browser would send again.
#[tokio::test]
async fn the_admin_listener_is_of_no_use_to_a_browser() {
    let gateway = Gateway::start("").await;
    let admin = gateway.admin();
    let body = json!({"user": "mallory", "ttl": "1h"}).to_string();
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
    {
        let request = Request::post("/v1/tokens", body.clone()).header("Content-Type", content_type);
        let response = admin.send(request).await;
        assert!(matches!(response.status, 400 | 415), "{content_type}: {response:?}");
    }
    for (name, value) in [
        ("Cookie", format!("token={0}; admin_token={0}; Authorization={0}", admin.token)),
        ("X-Skygear-Access-Token", admin.token.clone()),
        ("X-Skygear-API-Key", admin.token.clone()),
        ("Authorization", format!("Basic {}", admin.token)),
        ("Proxy-Authorization", format!("Bearer {}", admin.token)),
    ] {
        let request =
            Request::new("POST", "/v1/tokens").header(name, value).header("Content-Type", "application/json");
        let response = request.body(body.clone()).send(gateway.admin_address()).await;
        assert_eq!(response.status, 401, "{name}: {response:?}");
    }
    for target in ["/livez", "/v1/routes", "/v1/tokens", "/metrics", "/openapi.json", "/nowhere"] {
        let response = admin.get(target).await;
        assert_eq!(response.header("set-cookie"), None, "{response:?}");
        assert_eq!(response.header("access-control-allow-origin"), None, "{response:?}");
    }
    assert!(!admin.get("/v1/tokens").await.text().contains("mallory"));
}

/// Depth costs stack, and nothing that came packed is unpacked: a few bytes stay a few bytes.
#[tokio::test]
async fn small_messages_cannot_become_large() {
    let (gateway, worker) = serving("", &["foo"]).await;
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    for levels in [100, 10_000, 1_000_000] {
        worker
            .always(Answer::raw(format!("{{\"result\":{{\"type\":\"json\",\"value\":{}}}}}", deep(levels))));
        let response = gateway.post("/foo", "x").await;
        match response.status {
            200 => assert_eq!(response.text(), deep(levels)),
            _ => drop(expect::error(&response, 502, 130, "UnexpectedError")),
        }
        for reply in [
            format!("{{\"error\":{{\"code\":110,\"message\":\"m\",\"info\":{{\"a\":{}}}}}}}", deep(levels)),
            deep(levels),
            format!("{{\"other\":{},\"result\":{{\"type\":\"text\",\"value\":\"a\"}}}}", deep(levels)),
        ] {
            worker.always(Answer::raw(reply));
            let response = gateway.post("/foo", "x").await;
            assert!(matches!(response.status, 200 | 404 | 502), "{response:?}");
        }
        let registration = format!("{{\"name\":\"a\",\"handlers\":[],\"features\":{}}}", deep(levels));
        let request = Request::post("/v1/workers", registration).header("Content-Type", "application/json");
        let response = request.bearer(&gateway.registration_token()).send(gateway.admin_address()).await;
        assert!((400..500).contains(&response.status), "{response:?}");
    }
    // A gzip stream, as its first bytes: it is nobody's business here.
    let packed = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xed\xc1\x01\x0d".to_vec();
    worker.echo_bodies();
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let request = Request::post("/foo", packed.clone()).header("Content-Encoding", coding);
        let request = request.header("Accept-Encoding", coding);
        let response = gateway.send(request).await.expect_status(200);
        assert_eq!(
            (response.body.as_slice(), response.header("content-encoding")),
            (packed.as_slice(), None)
        );
        assert_eq!(worker.last_call().envelope["param"]["header"]["Content-Encoding"], json!([coding]));
    }
    let header = json!({"Content-Encoding": ["gzip"], "Content-Type": ["text/plain"]});
    let body = gearway_protocol::Base64Body::encode(&packed);
    worker.always(Answer::reply(
        &json!({"result": {"type": "response", "status": 200, "header": header, "body": body}}),
    ));
    let response = gateway.get("/foo").await.expect_status(200);
    assert_eq!(
        (response.body.as_slice(), response.header("content-encoding").as_deref()),
        (&packed[..], Some("gzip"))
    );
}
