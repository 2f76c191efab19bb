use std::time::Duration;

use gearway_protocol::{VerifyScheme, VerifySpec};
use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::config::{PublicUrl, Secret};

const NOW: i64 = 1_700_000_000;

fn at(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap())
}

fn config(secrets: &[&str]) -> Config {
    let mut config = Config::default();
    config.secrets.insert("hook", secrets.iter().map(|text| Secret::new(text)).collect());
    config.webhooks.public_url = Some(PublicUrl::parse("https://hooks.example.com").unwrap());
    config
}

fn spec(scheme: VerifyScheme) -> VerifySpec {
    let spec = VerifySpec::new(scheme, "hook");
    match scheme {
        VerifyScheme::Hmac => VerifySpec {
            header: Some("X-Sign".to_owned()),
            timestamp_header: Some("X-Time".to_owned()),
            content: Some("{timestamp}:{body}".to_owned()),
            ..spec
        },
        _ => spec,
    }
}

/// A secret that the scheme can use.
fn secret(scheme: VerifyScheme) -> &'static str {
    match scheme {
        VerifyScheme::StandardWebhooks => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        _ => "secret",
    }
}

/// A request while it is being put together.
#[derive(Debug, Clone)]
struct Sent {
    headers: HeaderMap,
    target: String,
    body: Bytes,
}

impl Sent {
    fn new(headers: &[(&str, &str)], body: &str) -> Self {
        let mut sent = Self { headers: HeaderMap::new(), target: "/".into(), body: body.to_owned().into() };
        for (name, value) in headers {
            sent.headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        sent
    }

    fn signed(scheme: VerifyScheme, body: &[u8], config: &Config) -> Self {
        let verify = Verify::parse(&spec(scheme)).unwrap();
        let mut event = Event {
            target: "/in?a=b".to_owned(),
            body: body.to_vec(),
            is_form: false,
            id: "id-1".to_owned(),
            timestamp: NOW,
        };
        let headers = sign(&verify, &mut event, config).unwrap();
        let headers = headers.into_iter().map(|(name, value)| (name, HeaderValue::try_from(value).unwrap()));
        Self { headers: headers.collect(), target: event.target, body: event.body.into() }
    }

    fn check(&self, spec: &VerifySpec, config: &Config, now: i64) -> Result<Outcome, Refused> {
        let (raw_path, raw_query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target.as_str(), None),
        };
        let request = WebhookRequest {
            method: &Method::POST,
            headers: &self.headers,
            raw_path,
            raw_query,
            body: &self.body,
        };
        Verify::parse(spec).unwrap().check(&request, config, at(now))
    }

    #[track_caller]
    fn verified(&self, spec: &VerifySpec, config: &Config) -> Verification {
        match self.check(spec, config, NOW).unwrap() {
            Outcome::Verified(verification) => verification,
            Outcome::Handshake(answer) => panic!("{answer:?}"),
        }
    }

    #[track_caller]
    fn rejected(&self, spec: &VerifySpec, config: &Config) -> Rejected {
        match self.check(spec, config, NOW) {
            Err(Refused::Rejected(rejected)) => rejected,
            other => panic!("{other:?}"),
        }
    }
}

/// GitHub's own example: <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>.
#[test]
fn github_s_example() {
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let headers = [("X-Hub-Signature-256", signature), ("X-GitHub-Delivery", "72d3162e")];
    let config = config(&["It's a Secret to Everybody"]);
    let verification = Sent::new(&headers, "Hello, World!").verified(&spec(VerifyScheme::Github), &config);
    let expected = Verification {
        scheme: "github",
        secret: "hook".into(),
        timestamp: None,
        event_id: Some("72d3162e".to_owned()),
    };
    assert_eq!(verification, expected);
}

/// Slack's own example: <https://api.slack.com/authentication/verifying-requests-from-slack>.
#[test]
fn slack_s_example() {
    let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V\
        &channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=\
        &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
        &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let signature = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    let sent =
        Sent::new(&[("X-Slack-Signature", signature), ("X-Slack-Request-Timestamp", "1531420618")], body);
    let (spec, config) = (spec(VerifyScheme::Slack), config(&["8f742231b10e8888abcd99yyyzzz85a5"]));
    let outcome = sent.check(&spec, &config, 1_531_420_618);
    let Ok(Outcome::Verified(verification)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((verification.timestamp, verification.event_id), (Some(1_531_420_618), None));
    assert_eq!(sent.rejected(&spec, &config), Rejected::Stale);
}

/// Twilio's own example: <https://www.twilio.com/docs/usage/security>.
#[test]
fn twilio_s_example() {
    let body =
        "CallSid=CA1234567890ABCDE&Caller=%2B12349013030&Digits=1234&From=%2B12349013030&To=%2B18005551212";
    let headers = [
        ("X-Twilio-Signature", "0/KCTR6DLpKmkAf8muzZqo1nDgQ="),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("I-Twilio-Idempotency-Token", "token-1"),
    ];
    let mut sent = Sent::new(&headers, body);
    sent.target = "/myapp.php?foo=1&bar=2".to_owned();
    let mut config = config(&["12345"]);
    config.webhooks.public_url = Some(PublicUrl::parse("https://mycompany.com").unwrap());
    let verification = sent.verified(&spec(VerifyScheme::Twilio), &config);
    assert_eq!(verification.event_id.as_deref(), Some("token-1"));
    config.webhooks.public_url = None;
    assert!(matches!(sent.check(&spec(VerifyScheme::Twilio), &config, NOW), Err(Refused::Unusable(_))));
}

/// The specification's own example: <https://github.com/standard-webhooks/standard-webhooks>.
#[test]
fn standard_webhooks_example() {
    let headers = [
        ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v9,x v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ];
    let sent = Sent::new(&headers, r#"{"test": 2432232314}"#);
    let (spec, config) =
        (spec(VerifyScheme::StandardWebhooks), config(&["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]));
    assert!(sent.check(&spec, &config, 1_614_265_330).is_ok());
    for now in [1_614_265_330 - 301, 1_614_265_330 + 301] {
        assert_eq!(sent.check(&spec, &config, now).err(), Some(Rejected::Stale.into()));
    }
}

/// Otherwise an id that nobody signed could stand beside the one that is.
#[test]
fn svix_names_and_the_standard_s_do_not_mix() {
    let config = config(&["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]);
    let spec = spec(VerifyScheme::StandardWebhooks);
    let signed = Sent::signed(VerifyScheme::StandardWebhooks, b"{}", &config);
    let mut svix = Sent::new(&[], "{}");
    for part in ["id", "timestamp", "signature"] {
        let value = signed.headers[&format!("webhook-{part}")].clone();
        svix.headers.insert(HeaderName::try_from(format!("svix-{part}")).unwrap(), value);
    }
    assert_eq!(svix.verified(&spec, &config).event_id, signed.verified(&spec, &config).event_id);
    svix.headers.append("svix-id", HeaderValue::from_static("other"));
    assert_eq!(svix.rejected(&spec, &config), Rejected::Repeated(HeaderName::from_static("svix-id")));
    svix.headers.remove("svix-id");
    svix.headers.insert("webhook-id", signed.headers["webhook-id"].clone());
    let missing = Rejected::Missing(HeaderName::from_static("webhook-timestamp"));
    assert_eq!(svix.rejected(&spec, &config), missing);
    svix.headers.insert("svix-id", HeaderValue::from_static("other"));
    assert_eq!(svix.rejected(&spec, &config), missing);
}

#[test]
fn stripe_headers_have_one_time_and_some_signatures() {
    let config = config(&["secret"]);
    let (spec, good) = (spec(VerifyScheme::Stripe), Sent::signed(VerifyScheme::Stripe, b"{}", &config));
    let header = good.headers["stripe-signature"].to_str().unwrap();
    let v1 = header.split_once(",v1=").unwrap().1;
    let with = |header: &str| Sent::new(&[("Stripe-Signature", header)], "{}");
    for header in [
        format!("v1={v1},t={NOW}"),
        format!("t={NOW},v0=x,v1=x,v1={v1},v2="),
        format!("t={NOW}{},v1={v1}", ",v1=x".repeat(15)),
    ] {
        assert_eq!(with(&header).verified(&spec, &config).timestamp, Some(NOW), "{header}");
    }
    for header in [
        String::new(),
        format!("t={NOW}"),
        format!("v1={v1}"),
        format!("t={NOW},t={NOW},v1={v1}"),
        format!("t={NOW},v1={v1},"),
        format!("t=+{NOW},v1={v1}"),
        format!("t= {NOW},v1={v1}"),
        format!("t={NOW}.0,v1={v1}"),
        format!("t=9999999999999999,v1={v1}"),
        format!("t={NOW}{},v1={v1}", ",v1=x".repeat(16)),
    ] {
        let rejected = with(&header).rejected(&spec, &config);
        assert!(matches!(rejected, Rejected::Malformed { .. }), "{header}: {rejected:?}");
    }
    for header in [
        format!("t={NOW},v1={}", v1.to_uppercase()),
        format!("t={NOW},v1= {v1}"),
        format!("t=0{NOW},v1={v1}"),
        format!("t={NOW},v1={v1}="),
    ] {
        assert_eq!(with(&header).rejected(&spec, &config), Rejected::Mismatch, "{header}");
    }
    let old = VerifySpec { tolerance_s: Some(10), ..spec.clone() };
    assert_eq!(good.check(&old, &config, NOW + 11).err(), Some(Rejected::Stale.into()));
    assert!(good.check(&old, &config, NOW + 10).is_ok() && good.check(&old, &config, NOW - 11).is_ok());
}

#[test]
fn event_ids_are_where_the_contract_says() {
    for (scheme, body, id) in [
        (VerifyScheme::Stripe, r#"{"object": [1, {"id": "no"}], "id": "evt_\u0031"}"#, Some("evt_1")),
        (VerifyScheme::Stripe, r#"{"id": 1}"#, None),
        (VerifyScheme::Stripe, r#"{"id": ""}"#, None),
        (VerifyScheme::Stripe, r#"{"id": "a", "id": "b"}"#, None),
        (VerifyScheme::Stripe, "no JSON", None),
        (VerifyScheme::Slack, r#"{"event_id": "Ev1", "id": "no"}"#, Some("Ev1")),
        (VerifyScheme::Slack, "command=%2Fx", None),
        (VerifyScheme::Github, "{}", Some("id-1")),
        (VerifyScheme::Shopify, "{}", Some("id-1")),
        (VerifyScheme::Twilio, "{}", Some("id-1")),
        (VerifyScheme::StandardWebhooks, "{}", Some("id-1")),
        (VerifyScheme::Hmac, r#"{"id": "no"}"#, None),
    ] {
        let config = config(&[secret(scheme)]);
        let verification = Sent::signed(scheme, body.as_bytes(), &config).verified(&spec(scheme), &config);
        assert_eq!(verification.event_id.as_deref(), id, "{scheme:?} {body}");
        assert_eq!(verification.scheme, scheme.as_str());
    }
}

#[test]
fn an_id_that_is_there_twice_is_none() {
    for (scheme, header) in [
        (VerifyScheme::Github, "x-github-delivery"),
        (VerifyScheme::Shopify, "x-shopify-webhook-id"),
        (VerifyScheme::Twilio, "i-twilio-idempotency-token"),
        (VerifyScheme::StandardWebhooks, "webhook-id"),
    ] {
        let config = config(&[secret(scheme)]);
        let mut sent = Sent::signed(scheme, b"{}", &config);
        sent.headers.append(header, HeaderValue::from_static("id-2"));
        assert_eq!(
            sent.rejected(&spec(scheme), &config),
            Rejected::Repeated(HeaderName::from_static(header))
        );
    }
}

#[test]
fn public_keys_check_v1a_and_sign_nothing() {
    // RFC 8032, the first key of section 7.1.
    let config = config(&["whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]);
    let verify = Verify::parse(&spec(VerifyScheme::StandardWebhooks)).unwrap();
    let mut event =
        Event { target: "/".into(), body: Vec::new(), is_form: false, id: "a".into(), timestamp: NOW };
    assert_eq!(sign(&verify, &mut event, &config), Err(CannotSign::PublicKey));
    for signatures in ["v1a,", "v1a,AAAA", "v1,AAAA", "v2,AAAA"] {
        let headers =
            [("webhook-id", "a"), ("webhook-timestamp", "1700000000"), ("webhook-signature", signatures)];
        assert_eq!(
            Sent::new(&headers, "").rejected(verify.spec(), &config),
            Rejected::Mismatch,
            "{signatures}"
        );
    }
    for signatures in ["", "v1", "v1a,A", "v1,a  v1,a", "v1,a "] {
        let headers =
            [("webhook-id", "a"), ("webhook-timestamp", "1700000000"), ("webhook-signature", signatures)];
        let rejected = Sent::new(&headers, "").rejected(verify.spec(), &config);
        assert!(matches!(rejected, Rejected::Malformed { .. }), "{signatures}: {rejected:?}");
    }
}

#[test]
fn secrets_of_standard_webhooks_have_a_form() {
    for (text, usable) in [
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", true),
        ("whsec_b2xkLW9sZA==", true),
        ("whsec_b2xkLW9sZA", true),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", true),
        ("whsec_", false),
        ("whsec_*", false),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", false),
        ("whpk_", false),
        ("whpk_MfKQ", false),
        ("whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=", false),
    ] {
        let verify = Verify::parse(&spec(VerifyScheme::StandardWebhooks)).unwrap();
        let found = verify.usable(&config(&["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", text]));
        assert_eq!(found.is_ok(), usable, "{text}: {found:?}");
        if let Err(error) = found {
            assert!(!error.to_string().contains("MfKQ"), "{error}");
        }
    }
}

#[test]
fn what_a_generic_hmac_signs_is_said_without_doubt() {
    let parse = |more: VerifySpec| Verify::parse(&more).map_err(|error| error.field);
    let base = || VerifySpec { header: Some("X-Sign".into()), ..VerifySpec::new(VerifyScheme::Hmac, "hook") };
    let content = |content: &str| VerifySpec { content: Some(content.into()), ..base() };
    let timed = |text: &str| VerifySpec { timestamp_header: Some("X-Time".into()), ..content(text) };
    assert!(parse(base()).is_ok());
    assert!(parse(content("{body}")).is_ok());
    assert!(parse(content("a {body} b")).is_ok());
    assert!(parse(timed("{timestamp}{body}")).is_ok());
    for wrong in ["", "body", "{body}{body}", "{Body}", "{body", "body}", "{{body}}", "{body}{}"] {
        assert_eq!(parse(content(wrong)).err(), Some("content"), "{wrong}");
    }
    assert_eq!(parse(content("{timestamp}.{body}")).err(), Some("timestamp_header"));
    assert_eq!(parse(timed("{body}")).err(), Some("content"));
    assert_eq!(parse(VerifySpec { tolerance_s: Some(1), ..base() }).err(), Some("tolerance_s"));
    assert_eq!(parse(VerifySpec { header: None, ..base() }).err(), Some("header"));
    assert_eq!(parse(VerifySpec { secret: String::new(), ..base() }).err(), Some("secret"));
    for scheme in VerifyScheme::ALL.into_iter().filter(|scheme| *scheme != VerifyScheme::Hmac) {
        assert_eq!(parse(VerifySpec { scheme, ..base() }).err(), Some("header"), "{scheme:?}");
    }
}

#[test]
fn samples_are_good_events_of_their_scheme() {
    for scheme in VerifyScheme::ALL {
        let config = config(&[secret(scheme)]);
        let verify = Verify::parse(&spec(scheme)).unwrap();
        let sample = sample(scheme, "0123456789", NOW);
        let mut event = Event {
            target: "/in".to_owned(),
            body: sample.body.clone(),
            is_form: is_form(sample.content_type),
            id: "0123456789".to_owned(),
            timestamp: NOW,
        };
        let mut sent = Sent::new(sample.headers, "");
        sent.headers.insert("content-type", HeaderValue::from_static(sample.content_type));
        for (name, value) in sign(&verify, &mut event, &config).unwrap() {
            sent.headers.insert(name, HeaderValue::try_from(value).unwrap());
        }
        (sent.body, sent.target) = (event.body.into(), event.target);
        let id = sent.verified(&spec(scheme), &config).event_id;
        let expected = (scheme != VerifyScheme::Hmac).then_some(true);
        assert_eq!(id.map(|id| id.contains("0123456789")), expected, "{scheme:?}");
    }
}

fn any_scheme() -> impl Strategy<Value = VerifyScheme> {
    prop::sample::select(VerifyScheme::ALL.to_vec())
}

proptest! {
    #[test]
    fn what_is_signed_is_verified_and_nothing_else(
        scheme in any_scheme(),
        body in prop::collection::vec(any::<u8>(), 1..200),
        flip in any::<prop::sample::Index>(),
        bit in 0..8_u32,
        other in "[ -~]{1,20}",
    ) {
        let config = config(&["c3BhcmU=", secret(scheme)]);
        let signing = self::config(&[secret(scheme)]);
        let sent = Sent::signed(scheme, &body, &signing);
        prop_assert!(sent.check(&spec(scheme), &config, NOW).is_ok());

        let mut forged = sent.clone();
        let mut bytes = body.clone();
        bytes[flip.index(body.len())] ^= 1 << bit;
        forged.body = bytes.into();
        prop_assert!(forged.check(&spec(scheme), &config, NOW).is_err());

        let mut unlike = Config::default();
        unlike.secrets.insert("hook", vec![Secret::new(&format!("{other}x"))]);
        unlike.webhooks.public_url.clone_from(&config.webhooks.public_url);
        prop_assert!(sent.check(&spec(scheme), &unlike, NOW).is_err());

        for (name, value) in &sent.headers {
            if ["x-github-delivery", "x-shopify-webhook-id", "i-twilio-idempotency-token"].contains(&name.as_str()) {
                continue;
            }
            let mut bytes = value.as_bytes().to_vec();
            let at = flip.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { continue };
            let mut forged = sent.clone();
            forged.headers.insert(name.clone(), value);
            prop_assert!(forged.check(&spec(scheme), &config, NOW).is_err(), "{}", name);
        }
    }

    #[test]
    fn no_header_makes_it_panic_or_say_yes(
        scheme in any_scheme(),
        values in prop::collection::vec("[tv01a=, .;:0-9]{0,40}|[ -~]{0,60}|\\PC{0,10}", 5),
        body in "\\PC{0,50}",
        query in prop::option::of("[a-zA-Z0-9=&%]{0,60}"),
        now in prop::num::i64::ANY,
    ) {
        let names = match scheme {
            VerifyScheme::Stripe => &["stripe-signature"][..],
            VerifyScheme::Github => &["x-hub-signature-256", "x-github-delivery"],
            VerifyScheme::Slack => &["x-slack-signature", "x-slack-request-timestamp"],
            VerifyScheme::Shopify => &["x-shopify-hmac-sha256", "x-shopify-webhook-id"],
            VerifyScheme::Twilio => &["x-twilio-signature", "content-type", "i-twilio-idempotency-token"],
            VerifyScheme::StandardWebhooks => &["webhook-id", "webhook-timestamp", "webhook-signature"],
            VerifyScheme::Hmac => &["x-sign", "x-time"],
        };
        let mut sent = Sent::new(&[], &body);
        for (name, value) in names.iter().zip(&values) {
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                sent.headers.insert(*name, value);
            }
        }
        sent.target = query.map_or_else(|| "/".to_owned(), |query| format!("/?{query}"));
        let now = now.rem_euclid(4_000_000_000);
        prop_assert!(sent.check(&spec(scheme), &config(&[secret(scheme)]), now).is_err());
    }
}
