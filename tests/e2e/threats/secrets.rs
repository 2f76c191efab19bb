//! Canaries where secrets are given by files, and where webhooks are signed with them.

use gearway_tests::gateway::gearway;
use gearway_tests::{Admin, Answer, Gateway, Registration, Request, ScriptedWorker, process};
use serde_json::json;

/// Where each is given, and what it is.
const FILES: [(&str, &str); 7] = [
    ("admin.tokens_file", "canary-admin-token"),
    ("admin.registration_tokens_file", "canary-registration-token"),
    ("auth.client_keys_file", "canary-client-key"),
    ("auth.master_keys_file", "canary-master-key"),
    ("auth.jwt.secret_file", "canary-jwt-secret-0123456789-0123456789"),
    ("secrets.github_file", "canary-github-secret"),
    ("secrets.slack_file", "canary-slack-secret"),
];
/// As they stand in the configuration, and as they are decoded.
const INLINE: [&str; 2] = ["whsec_Y2FuYXJ5LXN0YW5kYXJkLXNlY3JldA==", "canary-standard-secret"];

#[tokio::test]
async fn no_secret_of_a_file_or_a_webhook_is_seen_anywhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = format!("secrets.standard = \"{}\"\n", INLINE[0]);
    for (number, (key, secret)) in FILES.iter().enumerate() {
        let file = folder.path().join(number.to_string());
        std::fs::write(&file, format!("{secret}\n")).expect("a writable folder");
        config += &format!("{key} = \"{}\"\n", file.display());
    }
    let gateway = Gateway::builder().config(&config).env("RUST_LOG", "trace").start().await;
    let admin = Admin { address: gateway.admin_address(), token: FILES[0].1.to_owned() };
    let worker = ScriptedWorker::start("worker");
    let hook = |name: &str, scheme: &str, secret: &str| {
        json!({"name": name, "methods": ["POST"], "verify": {"scheme": scheme, "secret": secret},
               "delivery": {"mode": "durable"}})
    };
    let registration = Registration::new("worker")
        .handler_with(hook("github", "github", "github"))
        .handler_with(hook("slack", "slack", "slack"))
        .handler_with(hook("standard", "standard-webhooks", "standard"))
        .handler_with(json!({"name": "key", "key_required": true}));
    let registered = worker.try_register(&gateway, &registration, Some(FILES[1].1)).await;
    drop(registered.expect_status(201));
    let unknown = Registration::new("other").handler_with(hook("other", "github", "nothing"));
    let mut shown = vec![format!("{:?}", worker.try_register(&gateway, &unknown, Some(FILES[1].1)).await)];

    for request in [
        Request::post("/github", "x"),
        Request::post("/github", "x").header("X-Hub-Signature-256", "sha256=00"),
        Request::post("/github", "x").header("X-Hub-Signature-256", FILES[5].1),
        Request::post("/slack", "x").header("X-Slack-Signature", "v0=00"),
        Request::post("/standard", "x").header("webhook-signature", INLINE[0]),
        Request::get("/key").api_key(FILES[2].1),
        Request::get("/key").api_key(FILES[3].1),
        Request::get("/key").api_key(FILES[4].1),
    ] {
        shown.push(format!("{:?}", gateway.send(request).await));
    }
    // One that is genuine, so that it is kept, tried and looked at.
    worker.always(Answer::status(500, "no"));
    for path in ["/github", "/slack", "/standard"] {
        let scheme = path.trim_start_matches('/').replace("standard", "standard-webhooks");
        let mut command = gearway(&["trigger", &scheme, "--to", path, "--config"]);
        command.arg(gateway.config_path());
        command.env("GEARWAY_ADMIN", format!("http://{}", gateway.admin_address()));
        command.env("GEARWAY_ADMIN_TOKEN", FILES[0].1);
        let finished = process::run(command).await;
        assert_eq!(finished.code(), 0, "{finished:?}");
        shown.push(finished.output());
    }
    // The two with keys that are good, and the three that were signed.
    worker.call(4).await;
    for target in ["/v1/workers", "/v1/routes", "/v1/deliveries", "/metrics", "/openapi.json"] {
        let response = admin.get(target).await.expect_status(200);
        shown.push(format!("{target} {:?} {}", response, response.text()));
    }
    // Files that are wrong in some way are named, and not quoted.
    for (number, content) in [(4, "canary-short"), (0, "canary\u{7f}control"), (5, "")] {
        let file = folder.path().join(number.to_string());
        let before = std::fs::read(&file).expect("the file");
        std::fs::write(&file, content).expect("a writable folder");
        let mut command = gearway(&["check", "--config"]);
        command.arg(gateway.config_path());
        shown.push(process::run(command).await.output());
        std::fs::write(&file, before).expect("a writable folder");
    }
    gateway.write_config(&format!("{config}\nunknown_key = \"canary-unknown\""));
    gateway.sighup();
    gateway.wait_for_log("the bad file is refused", |line| line.contains("unknown_key")).await;

    let log = gateway.log();
    assert!(log.iter().any(|line| line.contains("\"TRACE\"")), "the log is not at its most talkative");
    shown.push(log.join("\n"));
    for call in worker.calls() {
        shown.push(call.envelope.to_string());
    }
    for text in &shown {
        assert!(!text.contains("canary"), "{}", excerpt(text, "canary"));
        for secret in INLINE {
            assert!(!text.contains(secret), "{}", excerpt(text, secret));
        }
    }
}

fn excerpt<'t>(text: &'t str, secret: &str) -> &'t str {
    let place = text.find(secret).unwrap_or_default();
    let start = text[..place].char_indices().rev().nth(200).map_or(0, |(at, _)| at);
    &text[start..place + secret.len()]
}
