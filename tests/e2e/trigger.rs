//! `gearway trigger`, contract section 10.

use gearway_protocol::Base64Body;
use gearway_tests::process::Finished;
use gearway_tests::{Answer, Gateway, Registration, ScriptedWorker};
use serde_json::{Value, json};

const CONFIG: &str = r#"
[secrets]
canary-one = "whsec_Y2FuYXJ5LW9uZQ=="
canary-two = ["Y2FuYXJ5LXR3bw==", "canary-old"]
[webhooks]
public_url = "https://hooks.example.com/in"
"#;

async fn trigger(gateway: &Gateway, arguments: &[&str]) -> Finished {
    let config = gateway.config_path().to_str().expect("a path of text");
    let finished = gateway.cli(&[&["trigger", "--config", config], arguments].concat()).await;
    for secret in ["Y2FuYXJ5", "canary-old"] {
        assert!(!finished.stdout.contains(secret) && !finished.stderr.contains(secret), "{finished:?}");
    }
    finished
}

async fn start() -> (Gateway, ScriptedWorker) {
    let gateway = Gateway::start(CONFIG).await;
    let worker = ScriptedWorker::start("hooks");
    let hook = |name: &str, verify: Value| json!({"name": name, "methods": ["POST"], "verify": verify});
    let mut registration = Registration::new("hooks").handler("open");
    for scheme in ["stripe", "github", "slack", "shopify", "twilio", "standard-webhooks"] {
        let name = format!("hooks/{scheme}/{{id}}");
        registration =
            registration.handler_with(hook(&name, json!({"scheme": scheme, "secret": "canary-one"})));
    }
    let generic = json!({
        "scheme": "hmac", "secret": "canary_one", "header": "X-Sign", "prefix": "v1=", "timestamp_header": "X-Time",
        "content": "{timestamp}|{body}", "algorithm": "sha512", "encoding": "base64",
    });
    worker.register(&gateway, &registration.handler_with(hook("hooks/hmac/{id}", generic))).await;
    (gateway, worker)
}

#[tokio::test]
async fn a_sample_of_each_scheme_reaches_its_handler() {
    let (gateway, worker) = start().await;
    worker.always(Answer::text("taken"));
    for scheme in ["stripe", "github", "slack", "shopify", "twilio", "standard-webhooks", "hmac"] {
        let to = format!("/hooks/{scheme}/7?a=%20b");
        let finished = trigger(&gateway, &[scheme, "--to", &to]).await;
        assert!(finished.status.success(), "{scheme}: {finished:?}");
        assert_eq!(finished.stdout, "200 OK\ntaken\n", "{scheme}");
        assert!(finished.stderr.contains("canary"), "the secret is named: {finished:?}");
        let call = worker.last_call();
        let param = &call.envelope["param"];
        assert_eq!(
            (&param["path"], &param["query_string"]),
            (&json!(format!("/hooks/{scheme}/7")), &json!("a=%20b"))
        );
        let body = Base64Body::decode(param["body"].as_str().expect("a body")).expect("base64");
        match scheme {
            "twilio" => assert!(body.starts_with(b"MessageSid=SM"), "{scheme}"),
            _ => {
                assert!(serde_json::from_slice::<Value>(&body).is_ok_and(|body| body.is_object()), "{scheme}")
            }
        }
    }
    assert_eq!(worker.calls().len(), 7);
}

#[tokio::test]
async fn the_body_the_secret_and_headers_may_be_others() {
    let (gateway, worker) = start().await;
    worker.always(Answer::text("taken"));
    let file = gateway.data_dir().join("event.json");
    std::fs::write(&file, "{\"id\": \"mine\"}\n").expect("a writable folder");
    let file = file.to_str().expect("a path of text");
    let to = ["--to", "hooks/stripe/1"];
    let more = ["stripe", "--body", file, "-H", "X-More: yes", "--json"];
    let finished = trigger(&gateway, &[&more[..], &to].concat()).await;
    assert!(finished.status.success(), "{finished:?}");
    let answer: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    assert_eq!((&answer["status"], &answer["body"]), (&json!(200), &json!("taken")));
    assert_eq!((&answer["secret"], &answer["delivery"]), (&json!("canary-one"), &Value::Null));
    assert!(answer["request_id"].is_string(), "{answer}");
    let param = worker.last_call().envelope["param"].clone();
    assert_eq!(param["header"]["X-More"], json!(["yes"]));
    assert_eq!(param["body"], json!(Base64Body::encode(b"{\"id\": \"mine\"}\n")));

    let refused = trigger(&gateway, &[&["stripe", "--secret", "canary-two"][..], &to].concat()).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        refused.stdout.starts_with("401 Unauthorized\n") && refused.stdout.contains("InvalidSignature"),
        "{refused:?}"
    );
    let public = format!("http://{}", gateway.public_address());
    let unlike = trigger(
        &gateway,
        &["github", "--to", "/hooks/stripe/1", "--secret", "canary-one", "--public", &public],
    )
    .await;
    assert!(unlike.stderr.contains("checks stripe"), "{unlike:?}");
    assert_eq!(unlike.status.code(), Some(1), "{unlike:?}");
    assert_eq!(worker.calls().len(), 1);
}

/// Another event than the sample's, and a form where the sample is JSON, or the other way round.
#[tokio::test]
async fn a_header_stands_in_place_of_the_sample_s() {
    let (gateway, worker) = start().await;
    worker.always(Answer::text("taken"));
    let file = gateway.data_dir().join("body");
    std::fs::write(&file, "{\"command\":\"/x\"}").expect("a writable folder");
    let body = ["--body", file.to_str().expect("a path of text")];
    for (scheme, given, name, values) in [
        ("github", &["-H", "X-GitHub-Event: ping"][..], "X-Github-Event", json!(["ping"])),
        (
            "slack",
            &["-H", "content-type: application/x-www-form-urlencoded"],
            "Content-Type",
            json!(["application/x-www-form-urlencoded"]),
        ),
        ("twilio", &["-H", "Content-Type: application/json"], "Content-Type", json!(["application/json"])),
        ("shopify", &["-H", "X-More: a", "-H", "x-more: b"], "X-More", json!(["a", "b"])),
    ] {
        let to = format!("/hooks/{scheme}/7");
        let finished = trigger(&gateway, &[&[scheme, "--to", &to], &body[..], given].concat()).await;
        assert!(finished.status.success(), "{scheme}: {finished:?}");
        let param = worker.last_call().envelope["param"].clone();
        assert_eq!(param["header"][name], values, "{scheme}: {param}");
        assert_eq!(param["body"], json!(Base64Body::encode(b"{\"command\":\"/x\"}")), "{scheme}");
    }
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let (gateway, _worker) = start().await;
    for (arguments, said) in [
        (&["stripe", "--to", "/open"][..], "--secret and one of canary-one, canary-two"),
        (&["stripe", "--to", "/nowhere"], "no handler is known at /nowhere"),
        (&["hmac", "--to", "/open", "--secret", "canary-one"], "the handler's registration"),
        (&["stripe", "--to", "/open", "--secret", "other"], "no \"other\" under [secrets]"),
        (&["stripe", "--to", "/open", "--secret", "canary-one", "-H", "nonsense"], "not a header"),
        (
            &["stripe", "--to", "/open", "--secret", "canary-one", "--body", "/no/such"],
            "cannot read /no/such",
        ),
        (
            &["stripe", "--to", "/open", "--secret", "canary-one", "--public", "http://127.0.0.1:1"],
            "cannot send to",
        ),
    ] {
        let finished = trigger(&gateway, arguments).await;
        assert_eq!(finished.status.code(), Some(1), "{finished:?}");
        assert!(finished.stderr.contains(said), "{said}: {finished:?}");
    }
    let usage = trigger(&gateway, &["stripy", "--to", "/open"]).await;
    assert_eq!(usage.status.code(), Some(2), "{usage:?}");
    assert!(usage.stderr.contains("standard-webhooks"), "the schemes are listed: {usage:?}");
    let none = gateway.cli(&["trigger", "stripe", "--to", "/open"]).await;
    assert!(none.stderr.contains("has no [secrets]"), "{none:?}");
}
