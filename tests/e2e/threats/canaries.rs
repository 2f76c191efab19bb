//! A text in every secret place, and every place where one could show.

use std::time::{SystemTime, UNIX_EPOCH};

use gearway_tests::{Answer, Gateway, Registration, Request, ScriptedWorker};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use crate::collector::Collector;
use crate::threats::terminals::OnTerminal;

#[tokio::test]
async fn no_secret_is_seen_anywhere() {
    const CANARIES: [&str; 20] = [
        "canary-client-key",
        "canary-master-key",
        "canary-jwt-secret-0123456789-0123456789",
        "canary-admin-token",
        "canary-registration-token",
        "canary-limited-token",
        "canary-wrong-key",
        "canary-wrong-token",
        "canary-proxy-password",
        "canary-webhook-secret-new",
        "canary-webhook-secret-old",
        "canary-webhook-secret-of-a-file",
        "canary-client-key-of-a-file",
        "canary-collector-header",
        "canary-query-of-a-webhook",
        "canary-body-of-a-webhook",
        "canary-master-key-of-a-file",
        "canary-jwt-secret-of-a-file-0123456789-0123456789",
        "canary-admin-token-of-a-file",
        "canary-registration-token-of-a-file",
    ];
    let files = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).expect("a writable file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let config = format!(
        r#"
        [admin]
        tokens = ["{3}"]
        registration_tokens = ["{4}", {{ token = "{5}", names = ["limited"], paths = ["/limited/"] }}]
        [auth]
        client_keys = ["{0}"]
        master_keys = ["{1}"]
        query_credentials = true
        jwt.secret = "{2}"
        [secrets]
        listed = ["{6}", "{7}"]
        filed_file = "{8}"
        [log]
        access = true
        "#,
        CANARIES[0],
        CANARIES[1],
        CANARIES[2],
        CANARIES[3],
        CANARIES[4],
        CANARIES[5],
        CANARIES[9],
        CANARIES[10],
        file("webhook", CANARIES[11]),
    );
    let collector = Collector::start();
    let gateway = Gateway::builder()
        .config(&config)
        .env("RUST_LOG", "trace")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .env("OTEL_EXPORTER_OTLP_HEADERS", &format!("authorization={}", CANARIES[13]))
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
        .start()
        .await;
    let [client_key, master_key, jwt_secret, admin_token, registration_token, ..] = CANARIES;
    let admin = gearway_tests::Admin { address: gateway.admin_address(), token: admin_token.to_owned() };
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker")
        .handler("open")
        .handler("tree/")
        .handler_with(json!({"name": "user", "user_required": true}))
        .handler_with(json!({"name": "listed", "verify": {"scheme": "github", "secret": "listed"}}))
        .handler_with(json!({
            "name": "filed", "verify": {"scheme": "slack", "secret": "filed"}, "delivery": {"mode": "durable"},
        }))
        .handler_with(json!({"name": "kept", "delivery": {"mode": "durable"}}));
    let registered = worker
        .try_register(&gateway, &registration, Some(registration_token))
        .await
        .expect_status(201)
        .json();
    let worker_secret = registered["secret"].as_str().expect("a secret").to_owned();
    let opaque = admin.create_token("alice", "1h").await;
    let exp = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() + 600;
    let claims = json!({"sub": "alice", "exp": exp});
    let jwt =
        jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(jwt_secret.as_bytes()))
            .expect("a token");

    let mut shown = Vec::new();
    for request in [
        Request::get("/user").api_key(client_key).bearer(&jwt),
        Request::get("/user").api_key(master_key).header("X-Gearway-User-Id", "bob"),
        Request::get("/user").api_key(client_key).access_token(&opaque.token),
        Request::get("/user").api_key(CANARIES[6]).bearer(&jwt),
        Request::get("/user").api_key(client_key).access_token(CANARIES[7]),
        Request::get("/user").api_key(client_key).api_key(master_key),
        Request::get("/user").access_token(&jwt).bearer(&opaque.token),
        Request::get(&format!("/user?api_key={client_key}&access_token={jwt}")),
        Request::get(&format!("/tree?api_key={client_key}&a=1")),
        Request::get(&format!("//tree?access_token={jwt}")),
        Request::get(&format!("/tree/%zz?api_key={client_key}")),
        Request::get(&format!("/nowhere?access_token={}", opaque.token)),
        Request::new("PATCH", &format!("/open?api_key={client_key}")),
        Request::get("/open").header("Proxy-Authorization", format!("Basic {}", CANARIES[8])),
        Request::post("/open", "x").header("Host", "a b").api_key(client_key),
        Request::post("/listed", "x").header("X-Hub-Signature-256", "sha256=00"),
        Request::post("/filed", "x")
            .header("X-Slack-Signature", "v0=00")
            .header("X-Slack-Request-Timestamp", "1"),
        Request::post(&format!("/kept?{}", CANARIES[14]), CANARIES[15]).api_key(client_key),
    ] {
        shown.push(format!("{:?}", gateway.send(request).await));
    }
    // A head that is refused, and workers that fail in every way, with what they were sent at hand.
    let mut connection = gateway.connect().await;
    let broken = format!("GET /user HTTP/1.1\r\nX-Skygear-API-Key: {client_key}\r\nbroken\r\n\r\n");
    connection.write(broken.as_bytes()).await.expect("an open connection");
    shown.push(String::from_utf8_lossy(&connection.read_to_end().await).into_owned());
    let call = worker.calls().len();
    for answer in [Answer::close(), Answer::raw("nonsense"), Answer::status(500, ""), Answer::status(401, "")]
    {
        worker.always(answer);
        let request = Request::post("/user", "x").api_key(client_key).bearer(&jwt);
        shown.push(format!("{:?}", gateway.send(request).await));
    }
    assert!(worker.calls().len() >= call + 4);
    for request in [
        Request::new("POST", "/v1/workers").json(&json!({"name": 1})).bearer(registration_token),
        Request::new("POST", "/v1/workers").json(&json!({})).bearer(CANARIES[7]),
        Request::get(&format!("/v1/routes?token={admin_token}")).header("Host", "gateway.example"),
        Request::new("PUT", "/v1/workers/none/lease").body("").bearer(registration_token),
    ] {
        shown.push(format!("{:?}", request.send(gateway.admin_address()).await));
    }
    for target in [
        "/v1/workers",
        "/v1/routes",
        "/v1/tokens",
        "/v1/deliveries",
        "/metrics",
        "/openapi.json",
        "/livez",
        "/readyz",
    ] {
        shown.push(format!("{target} {:?}", admin.get(target).await));
    }
    for arguments in [
        &["workers"][..],
        &["workers", "--json"],
        &["routes"],
        &["routes", "--json"],
        &["tokens", "list"],
        &["deliveries", "list"],
        &["deliveries", "list", "--json"],
        &["check", "--config"],
    ] {
        let mut command = gearway_tests::gateway::gearway(arguments);
        if arguments[0] == "check" {
            command.arg(gateway.config_path());
        }
        command.env("GEARWAY_ADMIN", format!("http://{}", gateway.admin_address()));
        command.env("GEARWAY_ADMIN_TOKEN", admin_token);
        let finished = gearway_tests::process::run(command).await;
        assert_eq!(finished.code(), 0, "{finished:?}");
        shown.push(finished.output());
    }
    // The same secrets by file.
    let [filed_key, filed_master, filed_jwt, filed_admin, filed_registration] =
        [12, 16, 17, 18, 19].map(|place| CANARIES[place]);
    let filed = format!(
        r#"
        [admin]
        tokens_file = "{}"
        registration_tokens_file = "{}"
        [auth]
        client_keys_file = "{}"
        master_keys_file = "{}"
        jwt.secret_file = "{}"
        [secrets]
        listed_file = "{}"
        [log]
        access = true
        "#,
        file("admin", filed_admin),
        file("registration", filed_registration),
        file("keys", filed_key),
        file("master", filed_master),
        file("jwt", filed_jwt),
        file("listed", CANARIES[9]),
    );
    gateway.write_config(&filed);
    gateway.sighup();
    gateway.wait_for_log("the reload", |line| line.contains("configuration reloaded")).await;
    let check = gearway_tests::gateway::gearway(&[
        "check",
        "--config",
        gateway.config_path().to_str().expect("UTF-8"),
    ]);
    shown.push(gearway_tests::process::run(check).await.output());
    let of_file =
        jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(filed_jwt.as_bytes()))
            .expect("a token");
    worker.always(Answer::text("ok"));
    for (request, status) in [
        (Request::get("/user").api_key(filed_key).bearer(&of_file), 200),
        (Request::get("/user").api_key(filed_master).header("X-Gearway-User-Id", "bob"), 200),
        (Request::get("/user").api_key(client_key).bearer(&of_file), 401),
    ] {
        let response = gateway.send(request).await.expect_status(status);
        shown.push(format!("{response:?}"));
    }
    for (token, target, status) in [
        (filed_admin, "/v1/tokens", 200),
        (filed_registration, "/v1/tokens", 403),
        (filed_registration, "/v1/workers", 200),
        (admin_token, "/v1/tokens", 401),
    ] {
        let response = Request::get(target).bearer(token).send(gateway.admin_address()).await;
        shown.push(format!("{:?}", response.expect_status(status)));
    }
    // A reload, of a file that is wrong next to the secrets.
    gateway.write_config(&format!("{config}\nunknown_key = \"{client_key}\""));
    gateway.sighup();
    gateway.wait_for_log("the bad file is refused", |line| line.contains("unknown_key")).await;

    let log = gateway.log();
    assert!(log.iter().any(|line| line.contains("\"TRACE\"")), "the log is not at its most talkative");
    shown.push(log.join("\n"));
    assert!(log.iter().any(|line| line.contains("\"gearway::access\"")), "the access log is off");
    let spans = collector.spans();
    assert!(spans.len() > 10, "{} spans", spans.len());
    shown.push(String::from_utf8_lossy(&collector.bytes()).into_owned());
    assert!(collector.headers().contains(&("authorization".into(), CANARIES[13].into())));
    let secrets = CANARIES.into_iter().chain([
        worker_secret.as_str(),
        opaque.token.as_str(),
        jwt.as_str(),
        of_file.as_str(),
    ]);
    for secret in secrets {
        for text in &shown {
            let place = text.find(secret);
            assert!(place.is_none(), "{secret} in {}", excerpt(text, place.unwrap_or_default()));
        }
    }
    // To the worker goes its own secret, and none of the others.
    for call in worker.calls() {
        let is_kept = call.envelope["name"] == "kept";
        let seen = format!("{:?} {}", call.http, call.envelope);
        for secret in CANARIES.into_iter().chain([opaque.token.as_str(), jwt.as_str()]) {
            // What a webhook carries is the handler's own.
            let is_its_own = is_kept && secret == CANARIES[14];
            assert!(is_its_own || !seen.contains(secret), "{secret} reached the worker: {seen}");
        }
        assert_eq!(call.http.header("authorization"), Some(format!("Bearer {worker_secret}").as_str()));
    }
}

/// The lines for people say no more than those for programs.
#[tokio::test]
async fn no_secret_is_seen_on_a_terminal() {
    let gateway = OnTerminal::start(&[
        ("GEARWAY_AUTH__CLIENT_KEYS", "canary-client-key"),
        ("GEARWAY_SECRETS__HOOK", "canary-hook"),
        ("GEARWAY_ADMIN__TOKENS", "canary-admin-token"),
        ("GEARWAY_ADMIN__REGISTRATION_TOKENS", "canary-registration-token"),
    ])
    .await;
    let (public, admin) = (gateway.public.address(), gateway.admin.address());
    let registration = json!({
        "name": "w", "url": "http://127.0.0.1:9/", "protocol": "gearway-v1", "handlers": [
            {"name": "keyed", "key_required": true}, {"name": "hook", "verify": {"scheme": "github", "secret": "hook"}},
        ],
    });
    let register = Request::post("/v1/workers", "").json(&registration).bearer("canary-registration-token");
    let registered = register.send(admin).await.expect_status(201).json();
    let mut answers = Vec::new();
    for request in [
        Request::get("/keyed").api_key("canary-client-key"),
        Request::get("/keyed").api_key("canary-wrong-key"),
        Request::get("/keyed").api_key("canary-client-key").bearer("canary-wrong-token"),
        Request::post("/hook", "x").header("X-Hub-Signature-256", "sha256=00"),
    ] {
        answers.push(format!("{:?}", request.send(public).await));
    }
    for token in ["canary-admin-token", "canary-wrong-key"] {
        let tokens = Request::get("/v1/tokens").bearer(token).send(admin).await;
        answers.push(format!("{tokens:?}"));
    }
    let shown = gateway.end().await;
    assert!(shown.contains("TRACE") && shown.contains("\x1b["), "not for people: {}", excerpt(&shown, 0));
    assert!(shown.contains("/keyed") && shown.contains("drained"), "{shown}");
    let secret = registered["secret"].as_str().expect("a secret");
    for text in answers.iter().chain([&shown]) {
        for secret in ["canary", secret] {
            let place = text.find(secret);
            assert!(place.is_none(), "{secret} in {}", excerpt(text, place.unwrap_or_default()));
        }
    }
}

fn excerpt(text: &str, place: usize) -> String {
    let around =
        |byte: usize| text.char_indices().map(|(at, _)| at).rfind(|at| *at <= byte).unwrap_or_default();
    text[around(place.saturating_sub(300))..around(place + 100)].to_owned()
}
