//! Contract section 4.

use std::time::{SystemTime, UNIX_EPOCH};

use gearway_tests::process::Signal;
use gearway_tests::server::Server;
use gearway_tests::{
    Answer, Gateway, Registration, Request, Response, ScriptedWorker, admin, binaries, wait,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::expect::{self, redirect};

const SECRET: &str = "the-secret-of-these-tests-is-long-enough";
const CONFIG: &str = r#"
[auth]
client_keys = ["client-key-1", "client-key-2"]
master_keys = ["master-key-1"]
[auth.jwt]
secret = "the-secret-of-these-tests-is-long-enough"
"#;

#[tokio::test]
async fn a_key_is_required() {
    let (gateway, _worker) = protected(CONFIG).await;
    for (request, expected) in [
        (Request::get("/key"), Err((101, "NotAuthenticated"))),
        (Request::get("/key").api_key("nonsense"), Err((103, "AccessKeyNotAccepted"))),
        (Request::get("/key").api_key("client-key"), Err((103, "AccessKeyNotAccepted"))),
        (Request::get("/key").api_key("client-key-1 client-key-2"), Err((103, "AccessKeyNotAccepted"))),
        (Request::get("/key").bearer(&valid_token("alice")), Err((101, "NotAuthenticated"))),
        (Request::get("/key").api_key("client-key-1"), Ok("client")),
        (Request::get("/key").api_key("client-key-2"), Ok("client")),
        (Request::get("/key").header("x-skygear-api-key", "client-key-1"), Ok("client")),
        (Request::get("/key").api_key("master-key-1"), Ok("master")),
    ] {
        let response = gateway.send(request.clone()).await;
        match expected {
            Ok(kind) => {
                let context = &expect::envelope(&response)["context"];
                assert_eq!(context["access_key_type"], kind, "{request:?}");
                assert_eq!(context.get("user_id"), None, "{request:?}");
            }
            Err((code, name)) => drop(expect::error(&response, 401, code, name)),
        }
    }
    assert_eq!(gateway.send(Request::get("/key").api_key("")).await.status, 401);
}

#[tokio::test]
async fn a_user_is_required() {
    let (gateway, _worker) = protected(CONFIG).await;
    let alice = valid_token("alice");
    let get = || Request::get("/user");
    for (request, expected) in [
        (get(), Err((101, "NotAuthenticated"))),
        (get().api_key("client-key-1"), Err((101, "NotAuthenticated"))),
        (get().access_token(&alice), Err((101, "NotAuthenticated"))),
        (get().bearer(&alice), Err((101, "NotAuthenticated"))),
        (get().api_key("client-key-1").access_token("nonsense"), Err((104, "AccessTokenNotAccepted"))),
        (get().api_key("client-key-1").bearer("nonsense"), Err((104, "AccessTokenNotAccepted"))),
        (get().api_key("nonsense").access_token(&alice), Err((103, "AccessKeyNotAccepted"))),
        (get().api_key("master-key-1"), Err((101, "NotAuthenticated"))),
        (
            get().api_key("client-key-1").header("X-Gearway-User-Id", "mallory"),
            Err((101, "NotAuthenticated")),
        ),
        (get().header("X-Gearway-User-Id", "mallory"), Err((101, "NotAuthenticated"))),
        (get().api_key("client-key-1").access_token(&alice), Ok(("alice", "client"))),
        (get().api_key("client-key-1").bearer(&alice), Ok(("alice", "client"))),
        (
            get().api_key("client-key-1").header("authorization", format!("bearer {alice}")),
            Ok(("alice", "client")),
        ),
        (get().api_key("client-key-1").bearer(&alice).access_token(&alice), Ok(("alice", "client"))),
        (get().api_key("master-key-1").access_token(&alice), Ok(("alice", "master"))),
        (get().api_key("master-key-1").header("X-Gearway-User-Id", "bob"), Ok(("bob", "master"))),
    ] {
        let response = gateway.send(request.clone()).await;
        match expected {
            Ok((user, kind)) => {
                let context = &expect::envelope(&response)["context"];
                assert_eq!(context["user_id"], user, "{request:?}");
                assert_eq!(context["access_key_type"], kind, "{request:?}");
            }
            Err((code, name)) => drop(expect::error(&response, 401, code, name)),
        }
    }
}

#[tokio::test]
async fn a_gateway_may_do_without_the_key_of_a_user() {
    let (gateway, _worker) = protected(&CONFIG.replace("[auth]", "[auth]\nuser_requires_key = false")).await;
    let response = gateway.send(Request::get("/user").access_token(&valid_token("alice"))).await;
    let context = &expect::envelope(&response)["context"];
    assert_eq!((&context["user_id"], context.get("access_key_type")), (&json!("alice"), None));
    expect::error(&gateway.get("/user").await, 401, 101, "NotAuthenticated");
    let bad = Request::get("/user").access_token("nonsense");
    expect::error(&gateway.send(bad).await, 401, 104, "AccessTokenNotAccepted");
}

#[tokio::test]
async fn an_open_handler_sees_valid_credentials_and_no_others() {
    let (gateway, _worker) = protected(CONFIG).await;
    let alice = valid_token("alice");
    let get = || Request::get("/open");
    for (request, user, kind) in [
        (get(), None, None),
        (get().api_key("nonsense"), None, None),
        (get().access_token("nonsense"), None, None),
        (get().header("X-Gearway-User-Id", "mallory"), None, None),
        (get().api_key("client-key-1").header("X-Gearway-User-Id", "mallory"), None, Some("client")),
        (get().api_key("client-key-1"), None, Some("client")),
        (get().access_token(&alice), Some("alice"), None),
        (get().bearer(&alice).api_key("nonsense"), Some("alice"), None),
        (get().api_key("client-key-1").access_token(&alice), Some("alice"), Some("client")),
        (get().api_key("master-key-1").header("X-Gearway-User-Id", "bob"), Some("bob"), Some("master")),
    ] {
        let context = expect::envelope(&gateway.send(request.clone()).await)["context"].take();
        assert_eq!(context.get("user_id").and_then(Value::as_str), user, "{request:?}");
        assert_eq!(context.get("access_key_type").and_then(Value::as_str), kind, "{request:?}");
    }
}

#[tokio::test]
async fn credentials_that_contradict_are_refused() {
    let (gateway, worker) = protected(CONFIG).await;
    let (alice, bob) = (valid_token("alice"), valid_token("bob"));
    for request in [
        Request::get("/open").api_key("client-key-1").api_key("client-key-1"),
        Request::get("/open").api_key("client-key-1").api_key("nonsense"),
        Request::get("/open").access_token(&alice).access_token(&alice),
        Request::get("/open").bearer(&alice).bearer(&alice),
        Request::get("/open").header("Authorization", "Basic YTpi").bearer(&alice),
        Request::get("/open").access_token(&alice).bearer(&bob),
        Request::get("/user").api_key("client-key-1").access_token(&alice).bearer(&bob),
    ] {
        expect::bad_request(&gateway.send(request).await);
    }
    assert_eq!(worker.calls().len(), 0);
}

/// Everything that a worker, a client or the log gets to see is searched for every credential that was sent.
#[tokio::test]
async fn credentials_are_seen_by_nobody() {
    let (gateway, worker) = protected(&CONFIG.replace("[auth]", "[auth]\nquery_credentials = true")).await;
    let alice = valid_token("alice");
    let opaque = gateway.admin().create_token("alice", "1h").await.token;
    let credentials = ["client-key-1", "client-key-2", "master-key-1", SECRET, &alice, &opaque];
    let mut responses = Vec::new();
    for request in [
        Request::get("/user").api_key("client-key-1").access_token(&alice),
        Request::get("/user").api_key("client-key-1").bearer(&alice),
        Request::get("/user").api_key("master-key-1").bearer(&opaque),
        Request::get("/open").api_key("client-key-1").bearer(&alice),
        Request::get(&format!("/user?api_key=client-key-1&a=1&access_token={alice}&b=2")),
        Request::get(&format!("/user?api_key=client-key-2&access_token={opaque}")),
        Request::get(&format!("/tree?api_key=client-key-2&a=1&access_token={opaque}&b=2")),
        Request::get(&format!("//tree?access_token={alice}&a=1")),
        Request::get("/user").api_key("client-key-1"),
        Request::new("DELETE", &format!("/open?api_key=client-key-1&access_token={alice}")),
    ] {
        responses.push(gateway.send(request).await);
    }
    redirect(&responses[6], 301, "/tree/?a=1&b=2");
    redirect(&responses[7], 301, "/tree?a=1");
    assert_eq!(worker.calls().len(), 6);
    assert_eq!(worker.call(4).await.envelope["param"]["query_string"], "a=1&b=2");
    assert_eq!(worker.call(4).await.envelope["context"]["user_id"], "alice");
    assert_eq!(worker.call(5).await.envelope["param"]["query_string"], "");
    for call in worker.calls() {
        let header = call.envelope["param"]["header"].as_object().expect("headers");
        for name in ["X-Skygear-Api-Key", "X-Skygear-Access-Token", "Authorization", "X-Gearway-User-Id"] {
            assert!(!header.contains_key(name), "{name} reached the worker: {header:?}");
        }
    }
    let metrics = gateway.admin().get("/metrics").await.text();
    let seen = [
        worker.calls().iter().map(|call| format!("{:?} {}", call.http, call.envelope)).collect::<String>(),
        responses.iter().map(|response| format!("{response:?}")).collect(),
        gateway.log().join("\n"),
        metrics,
    ];
    for text in seen {
        for credential in credentials {
            assert!(!text.contains(credential), "{credential} in {text}");
        }
    }
}

#[tokio::test]
async fn what_is_no_credential_of_ours_passes_through() {
    let (gateway, _worker) = protected(CONFIG).await;
    for value in ["Basic dXNlcjpwdw==", "Bearer not-one-of-ours", "Signature keyId=\"1\"", "Bearer"] {
        let response = gateway.send(Request::post("/open", "x").header("Authorization", value)).await;
        let envelope = expect::envelope(&response);
        assert_eq!(envelope["param"]["header"]["Authorization"], json!([value]));
        assert_eq!(envelope["context"].get("user_id"), None);
    }
    let query = "api_key=client-key-1&access_token=x&a=1";
    let envelope = expect::envelope(&gateway.get(&format!("/open?{query}")).await);
    assert_eq!(envelope["param"]["query_string"], query);
    assert_eq!(envelope["context"].get("access_key_type"), None);
    expect::error(&gateway.get(&format!("/key?{query}")).await, 401, 101, "NotAuthenticated");
}

#[tokio::test]
async fn a_jwt_is_accepted_for_what_it_says_and_no_longer() {
    let config = format!("{CONFIG}issuer = \"https://issuer.example\"\naudience = \"gearway\"\n");
    let (gateway, _worker) = protected(&config).await;
    let base = json!({"sub": "alice", "exp": now() + 600, "iss": "https://issuer.example", "aud": "gearway"});
    let with = |field: &str, value: Value| {
        let mut claims = base.clone();
        claims[field] = value;
        claims
    };
    let without = |field: &str| {
        let mut claims = base.clone();
        claims.as_object_mut().expect("an object").remove(field);
        claims
    };
    let hs256 = |claims: &Value| sign(Algorithm::HS256, claims, &EncodingKey::from_secret(SECRET.as_bytes()));
    for accepted in [
        base.clone(),
        with("aud", json!(["other", "gearway"])),
        with("nbf", json!(now() - 5)),
        with("iat", json!(now())),
        with("extra", json!({"any": 1})),
    ] {
        assert_eq!(user(&ask(&gateway, &hs256(&accepted)).await), "alice", "{accepted}");
    }
    for refused in [
        without("exp"),
        without("sub"),
        without("iss"),
        without("aud"),
        with("exp", json!(now() - 120)),
        with("exp", json!((now() + 600).to_string())),
        with("exp", Value::Null),
        with("nbf", json!(now() + 600)),
        with("nbf", json!("soon")),
        with("sub", json!(7)),
        with("sub", json!("")),
        with("iss", json!("https://other.example")),
        with("aud", json!("other")),
    ] {
        let response = ask(&gateway, &hs256(&refused)).await;
        assert_eq!(response.status, 401, "{refused}: {response:?}");
        expect::error(&response, 401, 104, "AccessTokenNotAccepted");
    }
    let good = hs256(&base);
    let (signed, signature) = good.rsplit_once('.').expect("a JWT");
    let none = format!(
        "{}.{}.",
        base64url(br#"{"alg":"none","typ":"JWT"}"#),
        signed.split_once('.').expect("a JWT").1
    );
    for forged in [
        sign(Algorithm::HS256, &base, &EncodingKey::from_secret(b"another-secret-that-is-long-enough")),
        sign(Algorithm::HS384, &base, &EncodingKey::from_secret(SECRET.as_bytes())),
        sign(Algorithm::HS512, &base, &EncodingKey::from_secret(SECRET.as_bytes())),
        none,
        format!("{signed}."),
        format!("{signed}.{}", signature.to_uppercase()),
        signed.to_owned(),
        format!("{good}."),
    ] {
        expect::error(&ask(&gateway, &forged).await, 401, 104, "AccessTokenNotAccepted");
    }
}

#[tokio::test]
async fn a_secret_is_rotated_with_two_in_force() {
    let config = CONFIG.replace(
        "secret = \"the-secret-of-these-tests-is-long-enough\"",
        "secret = [\"a-newer-secret-that-is-long-enough-too\", \"the-secret-of-these-tests-is-long-enough\"]",
    );
    let (gateway, _worker) = protected(&config).await;
    for secret in [SECRET, "a-newer-secret-that-is-long-enough-too"] {
        let key = EncodingKey::from_secret(secret.as_bytes());
        let token = sign(Algorithm::HS256, &json!({"sub": "alice", "exp": now() + 600}), &key);
        assert_eq!(user(&ask(&gateway, &token).await), "alice");
    }
}

#[tokio::test]
async fn a_public_key_pins_its_algorithm() {
    for (algorithm, name) in [(Algorithm::ES256, "es256-a"), (Algorithm::RS256, "rs256")] {
        let public_file = key_file(&format!("{name}.pub.pem"));
        let private = std::fs::read(key_file(&format!("{name}.pem"))).expect("a key");
        let private = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(&private),
            _ => EncodingKey::from_ec_pem(&private),
        };
        let (gateway, _worker) = protected(&format!(
            "[auth]\nclient_keys = [\"client-key-1\"]\n[auth.jwt]\npublic_key_file = \"{public_file}\"\n"
        ))
        .await;
        let claims = json!({"sub": "alice", "exp": now() + 600});
        let token = sign(algorithm, &claims, &private.expect("a key"));
        assert_eq!(user(&ask(&gateway, &token).await), "alice");
        let public = std::fs::read(&public_file).expect("a key");
        let confused = sign(Algorithm::HS256, &claims, &EncodingKey::from_secret(&public));
        expect::error(&ask(&gateway, &confused).await, 401, 104, "AccessTokenNotAccepted");
    }
}

#[tokio::test]
async fn keys_come_from_an_issuer_and_change_there() {
    let key = |name: &str| -> Value {
        let text = std::fs::read_to_string(key_file(&format!("es256-{name}.jwk.json"))).expect("a key");
        serde_json::from_str(&text).expect("JSON")
    };
    let token = |name: &str| {
        let private = std::fs::read(key_file(&format!("es256-{name}.pem"))).expect("a key");
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(name.to_owned());
        let claims = json!({"sub": "alice", "exp": now() + 600});
        let private = EncodingKey::from_ec_pem(&private).expect("a key");
        jsonwebtoken::encode(&header, &claims, &private).expect("a token")
    };
    let first = json!({"keys": [key("a")]}).to_string();
    let issuer = Server::start(move |_| Answer::raw(first.clone()));
    let (gateway, _worker) = protected(&format!(
        "[auth]\nclient_keys = [\"client-key-1\"]\n[auth.jwt]\njwks_url = \"http://{}/jwks.json\"\n",
        issuer.address()
    ))
    .await;
    assert_eq!(user(&ask(&gateway, &token("a")).await), "alice");
    expect::error(&ask(&gateway, &token("b")).await, 401, 104, "AccessTokenNotAccepted");

    let second = json!({"keys": [key("a"), key("b")]}).to_string();
    issuer.script(move |_| Answer::raw(second.clone()));
    wait::until("the new key is known", async || {
        let response = ask(&gateway, &token("b")).await;
        (response.status == 200).then_some(())
    })
    .await;
    assert_eq!(user(&ask(&gateway, &token("a")).await), "alice");
    issuer.refuse().await;
    assert_eq!(user(&ask(&gateway, &token("b")).await), "alice");
}

#[tokio::test]
async fn opaque_tokens_are_made_listed_and_revoked() {
    let (mut gateway, _worker) = protected(CONFIG).await;
    let admin = gateway.admin();
    let made = admin.create_token("alice", "1h").await;
    assert_eq!(user(&ask(&gateway, &made.token).await), "alice");
    let bearer = Request::get("/user").api_key("client-key-1").bearer(&made.token);
    assert_eq!(user(&gateway.send(bearer).await), "alice");

    let by_command = gateway.cli(&["tokens", "create", "--user", "bob", "--ttl", "1h", "--json"]).await;
    assert_eq!(by_command.code(), 0, "{by_command:?}");
    let by_command = admin::read_token(&serde_json::from_str(&by_command.stdout).expect("JSON"));
    assert_eq!(user(&ask(&gateway, &by_command.token).await), "bob");
    let for_people = gateway.cli(&["tokens", "create", "--user", "carol", "--ttl", "1h"]).await;
    let mut words = for_people.stdout.split_whitespace().map(|word| word.trim_matches(['"', '\'', ',', '`']));
    let shown = words.find(|word| word.len() > 20).unwrap_or_else(|| panic!("no token in {for_people:?}"));
    assert_eq!(user(&ask(&gateway, shown).await), "carol");

    let listed = admin.get("/v1/tokens").await.expect_status(200).text();
    let table = gateway.cli(&["tokens", "list"]).await.stdout;
    for text in [&listed, &table] {
        assert!(text.contains("alice") && text.contains(&made.id), "{text}");
        assert!(!text.contains(&made.token), "{text}");
    }
    for token in [&made.token, &by_command.token] {
        assert_eq!(files_with(&gateway, token), Vec::<String>::new());
    }

    gateway.kill9();
    gateway.start_again().await;
    assert_eq!(user(&ask(&gateway, &made.token).await), "alice");

    let admin = gateway.admin();
    admin.revoke_token(&made.id).await;
    expect::error(&ask(&gateway, &made.token).await, 401, 104, "AccessTokenNotAccepted");
    let revoked = gateway.cli(&["tokens", "revoke", &by_command.id]).await;
    assert_eq!(revoked.code(), 0, "{revoked:?}");
    expect::error(&ask(&gateway, &by_command.token).await, 401, 104, "AccessTokenNotAccepted");
    assert_eq!(admin.delete("/v1/tokens/no-such-id").await.status, 404);
    assert_eq!(gateway.cli(&["tokens", "revoke", "no-such-id"]).await.code(), 1);

    gateway.process().signal(Signal::KILL);
    gateway.process().wait_for_exit().await;
    gateway.start_again().await;
    expect::error(&ask(&gateway, &made.token).await, 401, 104, "AccessTokenNotAccepted");
}

#[tokio::test]
async fn an_opaque_token_expires() {
    let (gateway, _worker) = protected(CONFIG).await;
    let token = gateway.admin().create_token("alice", "1s").await.token;
    wait::until("the token expires", async || {
        let response = ask(&gateway, &token).await;
        (response.status != 200).then(|| expect::error(&response, 401, 104, "AccessTokenNotAccepted"))
    })
    .await;
}

/// A gateway and a worker with the handlers `open`, `tree/`, `key` and `user`.
async fn protected(config: &str) -> (Gateway, ScriptedWorker) {
    let gateway = Gateway::start(config).await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker")
        .handler("open")
        .handler("tree/")
        .handler_with(json!({"name": "key", "key_required": true}))
        .handler_with(json!({"name": "user", "user_required": true}));
    worker.register(&gateway, &registration).await;
    (gateway, worker)
}

/// Asks the handler that wants a user, with a good key and this token.
async fn ask(gateway: &Gateway, token: &str) -> Response {
    gateway.send(Request::get("/user").api_key("client-key-1").access_token(token)).await
}

#[track_caller]
fn user(response: &Response) -> String {
    expect::envelope(response)["context"]["user_id"].as_str().unwrap_or_default().to_owned()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn valid_token(user: &str) -> String {
    let claims = json!({"sub": user, "exp": now() + 600});
    sign(Algorithm::HS256, &claims, &EncodingKey::from_secret(SECRET.as_bytes()))
}

fn sign(algorithm: Algorithm, claims: &Value, key: &EncodingKey) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, key).expect("a token")
}

fn base64url(bytes: &[u8]) -> String {
    let standard = gearway_protocol::Base64Body::encode(bytes);
    standard.trim_end_matches('=').replace('+', "-").replace('/', "_")
}

fn key_file(name: &str) -> String {
    binaries::workspace().join("tests/keys").join(name).to_string_lossy().into_owned()
}

/// The files of the data_dir that hold this text.
fn files_with(gateway: &Gateway, text: &str) -> Vec<String> {
    let holds = |path: &std::path::Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    let entries = std::fs::read_dir(gateway.data_dir()).expect("a data_dir");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| holds(path)).map(|path| path.display().to_string()).collect()
}
