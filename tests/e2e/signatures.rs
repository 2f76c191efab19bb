//! Contract section 10, verification: who is let in is decided by the providers' own libraries.

mod providers;

use std::time::{SystemTime, UNIX_EPOCH};

use gearway_protocol::Base64Body;
use gearway_tests::{Answer, Gateway, Registration, Request, Response, ScriptedWorker, wait};
use serde_json::{Value, json};

use self::providers::{Providers, Webhook};
use crate::expect;

const JSON_BODY: &str = "{\"id\": \"evt_1\",\"event_id\":\"Ev1\", \"text\":\"Grüße, 世界 \\u00e9\"}\n";
const FORM_BODY: &str = "b=2&a=1%26+x&b=1&b=2&empty=&%C3%A9=%E4%B8%96&From=%2B15005550006";
const HMAC_SECRET: &str = "an hmac secret with spaces and ü";

/// The secrets by name; the first of a list is new, the last is old.
const SECRETS: &str = r#"
[secrets]
stripe = ["whsec_stripe_new", "whsec_stripe_old"]
github = ["github-new", "github-old"]
slack = ["8f742231b10e8888abcd99yyyzzz85a5", "0000000000"]
shopify = ["hush", "old-hush"]
twilio = ["12345", "67890"]
standard = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_b2xkLW9sZC1vbGQtb2xk"]
asymmetric = ["whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", "whpk_PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw="]
hmac = ["an hmac secret with spaces and ü", "hmac-old"]
[webhooks]
public_url = "https://hooks.example.com"
"#;

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970");
    i64::try_from(since.as_secs()).expect("it is before the end of time")
}

/// A handler for each scheme, at a path of its name.
fn registration() -> Registration {
    let hook = |name: &str, scheme: &str| json!({"name": name, "verify": {"scheme": scheme, "secret": name}});
    Registration::new("hooks")
        .handler_with(hook("stripe", "stripe"))
        .handler_with(hook("github", "github"))
        .handler_with(hook("slack", "slack"))
        .handler_with(hook("shopify", "shopify"))
        .handler_with(hook("twilio", "twilio"))
        .handler_with(hook("standard", "standard-webhooks"))
        .handler_with(hook("asymmetric", "standard-webhooks"))
        .handler_with(json!({"name": "hmac", "verify": {
            "scheme": "hmac", "secret": "hmac", "header": "X-Sign", "prefix": "v1=", "algorithm": "sha512",
            "timestamp_header": "X-Time", "content": "{timestamp}.{body}",
        }}))
}

/// One webhook of each kind, as yet unsigned.
fn webhooks() -> Vec<Webhook> {
    vec![
        Webhook::new("stripe", "whsec_stripe_new", "/stripe", JSON_BODY),
        Webhook::new("github", "github-new", "/github?x=%2b", JSON_BODY),
        Webhook::new("slack", "8f742231b10e8888abcd99yyyzzz85a5", "/slack", JSON_BODY),
        Webhook::new("slack", "8f742231b10e8888abcd99yyyzzz85a5", "/slack", FORM_BODY).form(),
        Webhook::new("shopify", "hush", "/shopify", JSON_BODY),
        Webhook::new("twilio", "12345", "/twilio", FORM_BODY).form(),
        Webhook::new("twilio", "12345", "/twilio?b=2&a=%20x", FORM_BODY).form(),
        Webhook::new("twilio", "12345", "/twilio?b=2", JSON_BODY),
        Webhook::new("twilio", "12345", "/twilio", ""),
        Webhook::new("standard-webhooks", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "/standard", JSON_BODY),
        // Svix has names of its own for the standard's headers.
        Webhook::new("svix", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "/standard", JSON_BODY),
        Webhook::new("hmac", HMAC_SECRET, "/hmac", JSON_BODY),
        Webhook::new(
            "standard-webhooks",
            "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=",
            "/asymmetric",
            JSON_BODY,
        ),
    ]
}

struct Setting {
    gateway: Gateway,
    worker: ScriptedWorker,
}

impl Setting {
    async fn start() -> Self {
        let gateway = Gateway::start(SECRETS).await;
        let worker = ScriptedWorker::start("hooks");
        worker.always(Answer::text("done"));
        worker.register(&gateway, &registration()).await;
        Self { gateway, worker }
    }

    async fn send(&self, webhook: &Webhook) -> Response {
        self.gateway.send(webhook.request()).await
    }

    /// The webhook reaches the worker, byte for byte.
    async fn assert_accepted(&self, webhook: &Webhook) {
        let before = self.worker.calls().len();
        let response = self.send(webhook).await;
        assert_eq!((response.status, response.text().as_str()), (200, "done"), "{webhook:?}: {response:?}");
        assert_eq!(self.worker.calls().len(), before + 1, "{webhook:?}");
        let call = self.worker.last_call();
        let body = call.envelope["param"]["body"].as_str().expect("a body");
        assert_eq!(Base64Body::decode(body).expect("base64"), webhook.body.as_bytes(), "{webhook:?}");
    }

    /// The webhook reaches nobody.
    async fn assert_refused(&self, webhook: &Webhook) {
        let before = self.worker.calls().len();
        let response = self.send(webhook).await;
        invalid_signature(&response);
        assert_eq!(self.worker.calls().len(), before, "{webhook:?}");
    }
}

#[track_caller]
fn invalid_signature(response: &Response) {
    expect::error(response, 401, 106, "InvalidSignature");
}

#[tokio::test]
async fn what_the_providers_libraries_sign_is_let_in() {
    let setting = Setting::start().await;
    let mut providers = Providers::start().await;
    for webhook in webhooks() {
        let signed = providers.sign(&webhook, "msg_1", now()).await;
        assert!(providers.accepts(&signed).await, "{signed:?}");
        setting.assert_accepted(&signed).await;
    }
}

/// The lowest bit, and the one that makes a capital of a letter, of every byte in turn.
fn flips(text: &str) -> Vec<String> {
    let mut flipped = Vec::new();
    for at in 0..text.len() {
        for bit in [0x01, 0x20] {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] ^= bit;
            // Header values cannot hold every byte.
            if let Ok(text) = String::from_utf8(bytes)
                && text.bytes().all(|byte| byte >= 0x80 || byte.is_ascii_graphic() || byte == b' ')
                && text.trim() == text
            {
                flipped.push(text);
            }
        }
    }
    flipped
}

#[tokio::test]
async fn a_flipped_bit_is_refused_wherever_it_is() {
    let setting = Setting::start().await;
    let mut providers = Providers::start().await;
    for webhook in webhooks() {
        let signed = providers.sign(&webhook, "msg_1", now()).await;
        let mut forged = Vec::new();
        for (name, value) in &signed.headers {
            for value in flips(value) {
                let mut forgery = signed.clone();
                forgery.headers.insert(name.clone(), value);
                forged.push(forgery);
            }
        }
        for body in flips(&signed.body).into_iter().step_by(3) {
            forged.push(Webhook { body, ..signed.clone() });
        }
        forged.push(Webhook { body: format!("{}x", signed.body), ..signed.clone() });
        if webhook.scheme == "twilio" {
            let (path, query) = signed.target.split_once('?').unwrap_or((&signed.target, ""));
            for query in flips(query).into_iter().filter(|query| !query.contains(['#', '%'])).step_by(5) {
                forged.push(Webhook { target: format!("{path}?{query}"), ..signed.clone() });
            }
            forged.push(Webhook { target: format!("{path}?{query}&x"), ..signed.clone() });
        }
        assert!(forged.len() > 30, "{webhook:?}");
        let before = setting.worker.calls().len();
        for forgery in &forged {
            // Twilio's fields may be written in more than one way.
            if forgery.content_type != "application/json" && providers.accepts(forgery).await {
                continue;
            }
            let response = setting.send(forgery).await;
            assert_eq!(response.status, 401, "{forgery:?}: {response:?}");
            invalid_signature(&response);
        }
        assert_eq!(setting.worker.calls().len(), before);
        setting.assert_accepted(&signed).await;
    }
}

#[tokio::test]
async fn a_body_may_be_large_and_come_in_chunks() {
    let setting = Setting::start().await;
    let mut providers = Providers::start().await;
    let body = format!("{{\"id\": \"evt_1\", \"text\": \"{}\"}}", "é".repeat(500_000));
    let webhook = Webhook::new("stripe", "whsec_stripe_new", "/stripe", &body);
    let signed = providers.sign(&webhook, "", now()).await;
    setting.assert_accepted(&signed).await;
    let response = setting.gateway.send(signed.request().chunked(4093)).await;
    assert_eq!(response.status, 200, "{response:?}");
    setting.assert_refused(&Webhook { body: body.replacen("éé", "éè", 1), ..signed }).await;
}

#[tokio::test]
async fn signed_times_count_as_the_libraries_have_it() {
    let setting = Setting::start().await;
    let mut providers = Providers::start().await;
    for webhook in webhooks() {
        for offset in [-100_000, -330, -270, 270, 330, 100_000] {
            let signed = providers.sign(&webhook, "msg_1", now() + offset).await;
            // The libraries have no code for v1a, nor for an HMAC of somebody's own: what holds for v1 holds there.
            let accepted = match webhook.target.as_str() {
                "/asymmetric" | "/hmac" => (-300..=300).contains(&offset),
                _ => providers.accepts(&signed).await,
            };
            match accepted {
                true => setting.assert_accepted(&signed).await,
                false => setting.assert_refused(&signed).await,
            }
        }
    }
}

#[tokio::test]
async fn the_old_secret_of_every_scheme_will_do_and_no_other() {
    let setting = Setting::start().await;
    let mut providers = Providers::start().await;
    for webhook in webhooks() {
        let (old, other) = match webhook.target.split(['/', '?']).nth(1).unwrap_or_default() {
            "stripe" => ("whsec_stripe_old", "whsec_stripe_other"),
            "github" => ("github-old", "github-other"),
            "slack" => ("0000000000", "0000000001"),
            "shopify" => ("old-hush", "other-hush"),
            "twilio" => ("67890", "67891"),
            "standard" => ("whsec_b2xkLW9sZC1vbGQtb2xk", "whsec_b3RoZXItb3RoZXItb3RoZXI="),
            "asymmetric" => (
                "whsk_TM0Imyj/ltqdtsNG7BFOD1uKMZ81q6Yk2oz27U+4pvs=",
                "whsk_b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhlcm90aGVyb3Q=",
            ),
            "hmac" => ("hmac-old", "hmac-other"),
            unknown => panic!("{unknown} has no old secret"),
        };
        let with = |secret| Webhook { secret, ..webhook.clone() };
        setting.assert_accepted(&providers.sign(&with(old), "msg_1", now()).await).await;
        setting.assert_refused(&providers.sign(&with(other), "msg_1", now()).await).await;
    }
}

#[tokio::test]
async fn any_of_several_secrets_will_do_until_a_reload_takes_it_away() {
    let setting = Setting::start().await;
    let mut providers = Providers::start().await;
    let hook = |secret| Webhook::new("stripe", secret, "/stripe", JSON_BODY);
    let stamp = now();
    let new = providers.sign(&hook("whsec_stripe_new"), "", stamp).await;
    let old = providers.sign(&hook("whsec_stripe_old"), "", stamp).await;
    let other = providers.sign(&hook("whsec_stripe_other"), "", stamp).await;
    // While Stripe's own secrets rotate it sends a signature of each.
    let mut several = new.clone();
    let signatures =
        [&other, &new].map(|webhook| webhook.headers["Stripe-Signature"].split_once(',').expect("a v1").1);
    let header = format!("t={stamp},{},v0=0,{}", signatures[0], signatures[1]);
    several.headers.insert("Stripe-Signature".into(), header);
    for good in [&new, &old, &several] {
        assert!(providers.accepts(good).await, "{good:?}");
        setting.assert_accepted(good).await;
    }
    setting.assert_refused(&other).await;

    let gateway = &setting.gateway;
    gateway.write_config(
        &SECRETS.replace(r#"["whsec_stripe_new", "whsec_stripe_old"]"#, r#""whsec_stripe_new""#),
    );
    gateway.sighup();
    let status = async |webhook: &Webhook| setting.send(webhook).await.status;
    wait::until("the old secret is refused", async || (status(&old).await == 401).then_some(())).await;
    setting.assert_accepted(&new).await;

    // Without the secret nobody can say who is genuine: neither is let in, and both may come again.
    gateway.write_config(&SECRETS.replace("stripe = [", "stripes = ["));
    gateway.sighup();
    gateway
        .wait_for_log("the handler is named", |line| line.contains("/stripe") && line.contains("refused"))
        .await;
    let before = setting.worker.calls().len();
    for webhook in [&new, &old, &other] {
        expect::not_run(&setting.send(webhook).await);
    }
    assert_eq!(setting.worker.calls().len(), before);

    gateway.write_config(SECRETS);
    gateway.sighup();
    wait::until("the secret is back", async || (status(&old).await == 200).then_some(())).await;
    setting.assert_refused(&other).await;
}

#[tokio::test]
async fn a_restarted_gateway_still_asks_for_signatures() {
    let mut setting = Setting::start().await;
    let mut providers = Providers::start().await;
    let hook = Webhook::new("github", "github-new", "/github", JSON_BODY);
    let signed = providers.sign(&hook, "", now()).await;
    setting.gateway.start_again().await;
    setting.assert_accepted(&signed).await;
    setting.assert_refused(&hook).await;
    setting.gateway.write_config("");
    setting.gateway.start_again().await;
    expect::not_run(&setting.send(&signed).await);
}

#[tokio::test]
async fn signature_headers_are_there_once() {
    let setting = Setting::start().await;
    let mut providers = Providers::start().await;
    let before = setting.worker.calls().len();
    for webhook in webhooks() {
        let signed = providers.sign(&webhook, "msg_1", now()).await;
        for (name, value) in &signed.headers {
            let mut without = signed.clone();
            without.headers.remove(name);
            invalid_signature(&setting.send(&without).await);
            let twice = signed.request().header(&name.to_lowercase(), value);
            invalid_signature(&setting.gateway.send(twice).await);
            // What Connection names is not there for anybody.
            let dropped = signed.request().header("Connection", name);
            invalid_signature(&setting.gateway.send(dropped).await);
        }
        invalid_signature(&setting.send(&webhook).await);
    }
    assert_eq!(setting.worker.calls().len(), before);
}

#[tokio::test]
async fn twilio_may_name_the_port_and_has_to_sign_the_body() {
    let setting = Setting::start().await;
    let mut providers = Providers::start().await;
    let mut with_port = Webhook::new("twilio", "12345", ":443/twilio?a=b", FORM_BODY).form();
    with_port = providers.sign(&with_port, "", now()).await;
    with_port.target = "/twilio?a=b".into();
    setting.assert_accepted(&with_port).await;

    // A signature of the URL alone says nothing of a body that is no form.
    let empty = providers.sign(&Webhook::new("twilio", "12345", "/twilio", ""), "", now()).await;
    setting.assert_accepted(&empty).await;
    setting.assert_refused(&Webhook { body: "{}".into(), ..empty.clone() }).await;
    let named = providers.sign(&Webhook::new("twilio", "12345", "/twilio", JSON_BODY), "", now()).await;
    setting.assert_refused(&Webhook { body: "{}".into(), ..named.clone() }).await;
    setting.assert_refused(&Webhook { target: format!("{}&bodySHA256=x", named.target), ..named }).await;
    // Host is the sender's word, and not what Twilio was told.
    let gateway = &setting.gateway;
    assert_eq!(gateway.send(empty.request().header("Host", "other.example.com")).await.status, 200);
    let unlike = Webhook::new("twilio", "12345", ".other.example.com/twilio", "");
    let mut unlike = providers.sign(&unlike, "", now()).await;
    unlike.target = "/twilio".into();
    let host = "hooks.example.com.other.example.com";
    invalid_signature(&gateway.send(unlike.request().header("Host", host)).await);
}

#[tokio::test]
async fn slack_s_question_is_answered_once_its_signature_is_good() {
    let setting = Setting::start().await;
    let mut providers = Providers::start().await;
    let body = json!({"token": "t", "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY", "type": "url_verification"})
        .to_string();
    let webhook = Webhook::new("slack", "8f742231b10e8888abcd99yyyzzz85a5", "/slack", &body);
    let signed = providers.sign(&webhook, "", now()).await;
    let response = setting.send(&signed).await;
    assert_eq!((response.status, response.text().as_str()), (200, "3eZbrw1aBm2rZgRNFdxV2595E9CY"));
    assert!(response.header("content-type").is_some_and(|it| it.starts_with("text/plain")), "{response:?}");
    invalid_signature(&setting.send(&webhook).await);
    assert!(setting.worker.calls().is_empty(), "the worker hears of neither");
}

/// Signs as the registration says, with Python's own `hmac` as far as it is told to.
#[tokio::test]
async fn a_generic_hmac_is_what_the_registration_makes_of_it() {
    let gateway = Gateway::start(SECRETS).await;
    let worker = ScriptedWorker::start("hooks");
    let hook = |name: &str, more: Value| {
        let mut verify = json!({"scheme": "hmac", "secret": "hmac", "header": "X-Sign"});
        for (field, value) in more.as_object().expect("fields") {
            verify[field] = value.clone();
        }
        json!({"name": name, "verify": verify})
    };
    let registration = Registration::new("hooks")
        .handler_with(hook("plain", json!({})))
        .handler_with(hook("sha1", json!({"algorithm": "sha1", "encoding": "base64", "prefix": "sha1="})))
        .handler_with(hook("sha512", json!({"algorithm": "sha512", "encoding": "hex"})))
        .handler_with(hook(
            "timed",
            json!({"timestamp_header": "X-Time", "content": "v1:{timestamp}.{body}!", "tolerance_s": 60}),
        ));
    worker.register(&gateway, &registration).await;
    let stamp = now().to_string();
    let milliseconds = format!("{stamp}123");
    let late = (now() - 90).to_string();
    for (path, algorithm, encoding, prefix, time, content, good) in [
        ("/plain", "sha256", "hex", "", "", JSON_BODY.to_owned(), true),
        ("/plain", "sha256", "hex", "sha256=", "", JSON_BODY.to_owned(), false),
        ("/plain", "sha256", "base64", "", "", JSON_BODY.to_owned(), false),
        ("/sha1", "sha1", "base64", "sha1=", "", JSON_BODY.to_owned(), true),
        ("/sha1", "sha1", "base64", "", "", JSON_BODY.to_owned(), false),
        ("/sha512", "sha512", "hex", "", "", JSON_BODY.to_owned(), true),
        ("/sha512", "sha256", "hex", "", "", JSON_BODY.to_owned(), false),
        ("/timed", "sha256", "hex", "", &stamp, format!("v1:{stamp}.{JSON_BODY}!"), true),
        ("/timed", "sha256", "hex", "", &milliseconds, format!("v1:{milliseconds}.{JSON_BODY}!"), true),
        ("/timed", "sha256", "hex", "", &stamp, JSON_BODY.to_owned(), false),
        ("/timed", "sha256", "hex", "", &late, format!("v1:{late}.{JSON_BODY}!"), false),
        ("/timed", "sha256", "hex", "", "", format!("v1:.{JSON_BODY}!"), false),
    ] {
        let signature = python_hmac(algorithm, encoding, &content).await;
        let mut request = Request::post(path, JSON_BODY).header("X-Sign", format!("{prefix}{signature}"));
        if !time.is_empty() {
            request = request.header("X-Time", time);
        }
        let before = worker.calls().len();
        let response = gateway.send(request).await;
        if good {
            assert_eq!(response.status, 200, "{path}: {response:?}");
        } else {
            invalid_signature(&response);
        }
        assert_eq!(worker.calls().len(), before + usize::from(good), "{path}");
    }
}

async fn python_hmac(algorithm: &str, encoding: &str, content: &str) -> String {
    let code = "import base64, hashlib, hmac, sys\n\
                key, algorithm, encoding, content = sys.argv[1:]\n\
                digest = hmac.new(key.encode(), content.encode(), algorithm).digest()\n\
                print(digest.hex() if encoding == 'hex' else base64.b64encode(digest).decode())";
    let mut command = tokio::process::Command::new("python3");
    let output = command.args(["-c", code, HMAC_SECRET, algorithm, encoding, content]).output();
    let output = output.await.expect("python3 runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[tokio::test]
async fn credentials_and_signature_must_both_hold() {
    let gateway = Gateway::start(&format!("{SECRETS}\n[auth]\nclient_keys = [\"key\"]")).await;
    let worker = ScriptedWorker::start("hooks");
    let verify = json!({"scheme": "github", "secret": "github"});
    let registration = Registration::new("hooks")
        .handler_with(json!({"name": "github", "verify": verify, "key_required": true}));
    worker.register(&gateway, &registration).await;
    let mut providers = Providers::start().await;
    let webhook = Webhook::new("github", "github-new", "/github", JSON_BODY);
    let signed = providers.sign(&webhook, "", now()).await;
    expect::error(&gateway.send(signed.request()).await, 401, 101, "NotAuthenticated");
    expect::error(&gateway.send(signed.request().api_key("wrong")).await, 401, 103, "AccessKeyNotAccepted");
    invalid_signature(&gateway.send(webhook.request().api_key("key")).await);
    assert!(worker.calls().is_empty());
    assert_eq!(gateway.send(signed.request().api_key("key")).await.status, 200);
}

#[tokio::test]
async fn where_replicas_disagree_all_that_they_ask_for_has_to_hold() {
    let gateway = Gateway::start(SECRETS).await;
    let hook =
        |verify: Value| Registration::new("hooks").handler_with(json!({"name": "github", "verify": verify}));
    let careless = ScriptedWorker::start("careless");
    careless.register(&gateway, &Registration::new("hooks").handler("github")).await;
    assert_eq!(gateway.post("/github", JSON_BODY).await.status, 200);
    let first = ScriptedWorker::start("first");
    first.register(&gateway, &hook(json!({"scheme": "github", "secret": "github"}))).await;
    let mut providers = Providers::start().await;
    let webhook = Webhook::new("github", "github-new", "/github", JSON_BODY);
    let signed = providers.sign(&webhook, "", now()).await;
    invalid_signature(&gateway.send(webhook.request()).await);
    assert_eq!(gateway.send(signed.request()).await.status, 200);
    let second = ScriptedWorker::start("second");
    second.register(&gateway, &hook(json!({"scheme": "shopify", "secret": "shopify"}))).await;
    invalid_signature(&gateway.send(signed.request()).await);
    let shop = providers.sign(&Webhook::new("shopify", "hush", "/github", JSON_BODY), "", now()).await;
    invalid_signature(&gateway.send(shop.request()).await);
    let both =
        shop.headers.iter().fold(signed.request(), |request, (name, value)| request.header(name, value));
    assert_eq!(gateway.send(both).await.status, 200);
}

#[tokio::test]
async fn a_verify_that_cannot_be_kept_is_refused() {
    let config = "[secrets]\nhook = \"not*base64\"\nshort = \"whpk_c2hvcnQ=\"";
    let gateway = Gateway::start(config).await;
    let worker = ScriptedWorker::start("hooks");
    let token = gateway.registration_token();
    for (verify, status, named) in [
        (json!({"scheme": "stripe", "secret": "unknown"}), 422, "handlers[1].verify.secret"),
        (json!({"scheme": "stripe", "secret": "unknown"}), 422, "\"unknown\""),
        (json!({"scheme": "standard-webhooks", "secret": "hook"}), 422, "handlers[1].verify.secret"),
        (json!({"scheme": "standard-webhooks", "secret": "short"}), 422, "32 bytes"),
        (json!({"scheme": "twilio", "secret": "hook"}), 422, "webhooks.public_url"),
        (json!({"scheme": "stripy", "secret": "hook"}), 400, "handlers[1].verify.scheme"),
        (json!({"scheme": "stripe"}), 400, "handlers[1].verify.secret"),
        (json!({"scheme": "stripe", "secret": ""}), 400, "handlers[1].verify.secret"),
        (
            json!({"scheme": "stripe", "secret": "hook", "tolerance_s": 0}),
            400,
            "handlers[1].verify.tolerance_s",
        ),
        (json!({"scheme": "stripe", "secret": "hook", "tolerence_s": 9}), 400, "tolerence_s"),
        (json!({"scheme": "stripe", "secret": "hook", "header": "X-A"}), 400, "handlers[1].verify.header"),
        (json!({"scheme": "hmac", "secret": "hook"}), 400, "handlers[1].verify.header"),
        (json!({"scheme": "hmac", "secret": "hook", "header": "X A"}), 400, "handlers[1].verify.header"),
        (json!("stripe"), 400, "handlers[1].verify"),
    ] {
        let registration = Registration::new("hooks")
            .handler("other")
            .handler_with(json!({"name": "hook", "verify": verify}));
        let response = worker.try_register(&gateway, &registration, Some(&token)).await;
        assert_eq!(response.status, status, "{verify}: {response:?}");
        let message = response.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains(named), "{named}: {message}");
        assert!(!response.text().contains("base64*") && !response.text().contains("c2hvcnQ"), "{response:?}");
    }
    assert!(gateway.admin().routes().await.is_empty());
}

#[tokio::test]
async fn secrets_show_nowhere() {
    let setting = Setting::start().await;
    let mut providers = Providers::start().await;
    for webhook in webhooks() {
        setting.send(&providers.sign(&webhook, "msg_1", now()).await).await;
        setting.send(&webhook).await;
    }
    let admin = setting.gateway.admin();
    let mut seen = setting.gateway.log().join("\n");
    for target in ["/v1/routes", "/v1/workers", "/metrics", "/openapi.json"] {
        seen += &admin.get(target).await.expect_status(200).text();
    }
    for call in setting.worker.calls() {
        seen += &call.envelope.to_string();
    }
    assert!(seen.contains("gearway_auth_failures_total{reason=\"signature\"}"), "{seen}");
    for canary in [
        "whsec_stripe",
        "github-new",
        "8f742231b10e8888",
        "hush",
        "12345\"",
        "MfKQ9r8GKYqrTwjU",
        "11qYAYKxCrf",
    ] {
        assert!(!seen.contains(canary), "{canary}");
    }
}

/// The guide's own lines: each `verify` registers, each piece of configuration is one.
#[tokio::test]
async fn what_the_guide_says_to_paste_can_be_pasted() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/webhooks.md");
    let guide = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let gateway = Gateway::start(
        "[webhooks]\npublic_url = \"https://h\"\n[secrets]\nstripe-live = \"a\"\ngithub = \"a\"\nslack = \"a\"\n\
         shopify = \"a\"\ntwilio = \"a\"\npartner = \"whsec_YWJj\"",
    )
    .await;
    let mut schemes = std::collections::BTreeSet::new();
    for (number, text) in guide.split("verify={").skip(1).enumerate() {
        let (fields, _) = text.split_once('}').expect("the closing brace");
        // `{timestamp}.{body}` has braces of its own.
        let end = fields.find("{timestamp").map_or(fields.len(), |_| text.find("\"}").expect("the end") + 1);
        let verify: Value =
            serde_json::from_str(&format!("{{{}}}", &text[..end])).expect("a dict that is JSON too");
        schemes.insert(verify["scheme"].as_str().expect("a scheme").to_owned());
        let registration = Registration::new(&format!("w{number}"))
            .handler_with(json!({"name": format!("hook{number}"), "verify": verify}));
        ScriptedWorker::start("w").register(&gateway, &registration).await;
    }
    assert_eq!(schemes.len(), 7, "{schemes:?}");
    let mut deliveries = 0;
    for (number, text) in guide.split("delivery=").skip(1).enumerate() {
        let delivery = serde_json::Deserializer::from_str(text).into_iter::<Value>().next();
        let delivery = delivery.expect("a dict").expect("a dict that is JSON too");
        let registration = Registration::new(&format!("d{number}"))
            .handler_with(json!({"name": format!("kept{number}"), "delivery": delivery}));
        ScriptedWorker::start("w").register(&gateway, &registration).await;
        deliveries += 1;
    }
    assert!(deliveries >= 4, "{deliveries}");
    let blocks: Vec<_> =
        guide.split("```toml\n").skip(1).filter_map(|text| text.split("```").next()).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let gateway = Gateway::start(block).await;
        assert_eq!(gateway.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn what_is_kept_was_verified_and_is_known_by_the_provider_s_id() {
    let gateway = Gateway::start(SECRETS).await;
    let worker = ScriptedWorker::start("hooks");
    worker.always(Answer::text("done"));
    let hook = |name: &str, scheme: &str| {
        json!({
            "name": name, "verify": {"scheme": scheme, "secret": name},
            "delivery": {"mode": "durable", "dedup": "auto", "ack": {"status": 202, "body": "kept"}},
        })
    };
    let registration = Registration::new("hooks")
        .handler_with(hook("stripe", "stripe"))
        .handler_with(hook("standard", "standard-webhooks"));
    worker.register(&gateway, &registration).await;
    let mut providers = Providers::start().await;
    let stamp = now();
    for (number, webhook) in
        webhooks().into_iter().filter(|it| ["/stripe", "/standard"].contains(&it.target.as_str())).enumerate()
    {
        let response = gateway.send(webhook.request()).await;
        invalid_signature(&response);
        assert!(response.header("x-gearway-delivery").is_none(), "{response:?}");
        let id = format!("msg_{number}");
        let signed = providers.sign(&webhook, &id, stamp).await;
        let again = providers.sign(&webhook, &id, stamp - 1).await;
        let mut ids = Vec::new();
        for copy in [&signed, &again, &signed] {
            let response = gateway.send(copy.request()).await;
            assert_eq!((response.status, response.text().as_str()), (202, "kept"), "{response:?}");
            ids.push(response.header("x-gearway-delivery").expect("an id").to_owned());
        }
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        let context = worker.call(number).await.envelope["context"]["delivery"].clone();
        let secret = webhook.target.trim_start_matches('/');
        let scheme = if secret == "standard" { "standard-webhooks" } else { webhook.scheme };
        assert_eq!(context["id"], ids[0], "{context}");
        assert_eq!(
            context["verification"],
            json!({"scheme": scheme, "secret": secret, "timestamp": stamp}),
            "{context}"
        );
    }
    assert_eq!(worker.calls().len(), 3, "copies run once");
}
