//! Signed webhooks: what a provider signed is let in, and nothing else, whatever stands in the headers. The input is a line with the
//! scheme's number, the age of the signed time in seconds and the target; then header lines, of which `=` is the place of the true
//! headers; then an empty line and the body.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use gearway::config::{Config, PublicUrl, Secret};
use gearway::webhook::{Event, Refused, Rejected, Verify, WebhookRequest, sign};
use gearway_protocol::{VerifyScheme, VerifySpec};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;

const NOW: i64 = 1_700_000_000;
const TOLERANCE: i64 = 300;
const FORM: &str = "application/x-www-form-urlencoded";

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let mut config = Config::default();
    let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"];
    config.secrets.insert("hook", secrets.map(Secret::new).into());
    config.webhooks.public_url = Some(PublicUrl::parse("https://hooks.example.com").expect("a URL"));
    config
});

static VERIFIES: LazyLock<Vec<Verify>> = LazyLock::new(|| {
    let mut specs: Vec<VerifySpec> =
        VerifyScheme::ALL.into_iter().filter(|scheme| *scheme != VerifyScheme::Hmac).map(spec).collect();
    specs.push(VerifySpec { header: Some("x-sign".into()), ..spec(VerifyScheme::Hmac) });
    specs.push(VerifySpec {
        header: Some("x-sign".into()),
        prefix: Some("v1=".into()),
        timestamp_header: Some("x-time".into()),
        content: Some("{timestamp}:{body}".into()),
        ..spec(VerifyScheme::Hmac)
    });
    specs.iter().map(|spec| Verify::parse(spec).expect("a good spec")).collect()
});

fn spec(scheme: VerifyScheme) -> VerifySpec {
    VerifySpec::new(scheme, "hook")
}

fuzz_target!(|data: &[u8]| {
    let Some((head, body)) = split(data, b"\n\n") else { return };
    let Some(head) = std::str::from_utf8(head).ok() else { return };
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().splitn(3, ' ');
    let [number, age, target] = [(); 3].map(|()| first.next().unwrap_or_default());
    let Some(verify) = number.parse().ok().and_then(|number: usize| VERIFIES.get(number)) else { return };
    let Some(age) = age.parse::<i64>().ok().filter(|age| age.abs() <= 1_000_000_000) else { return };
    let lines: Vec<&str> = lines.collect();
    let is_form = lines.iter().any(|line| {
        let field = line.split_once(": ");
        field.is_some_and(|(name, value)| name.eq_ignore_ascii_case("content-type") && value == FORM)
    });
    let mut event = Event {
        target: format!("/{}", target.replace(|c: char| !c.is_ascii_graphic() || c == '#', "")),
        body: body.to_vec(),
        is_form,
        id: "event-1".into(),
        timestamp: NOW - age,
    };
    let signed = sign(verify, &mut event, &CONFIG).expect("what is configured is enough");
    let mut headers = HeaderMap::new();
    for line in lines {
        if line == "=" {
            for (name, value) in &signed {
                headers.append(name, value.parse().expect("a value"));
            }
        } else if let Some((name, value)) = line.split_once(": ")
            && let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value))
        {
            headers.append(name, value);
        }
    }
    let untouched = signed.iter().all(|(name, value)| headers.get_all(name).iter().eq([value.as_str()]));
    let (raw_path, raw_query) = match event.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (event.target.as_str(), None),
    };
    let body = Bytes::from(event.body.clone());
    let request =
        WebhookRequest { method: &Method::POST, headers: &headers, raw_path, raw_query, body: &body };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs());
    match verify.check(&request, &CONFIG, now) {
        Ok(_) => assert!(untouched, "{headers:?} was let in"),
        Err(Refused::Unusable(error)) => panic!("{error}"),
        Err(Refused::Rejected(Rejected::Stale)) => assert!(age.abs() > TOLERANCE || !untouched),
        Err(Refused::Rejected(error)) => {
            // Twilio signs forms by their fields, and other bodies by a hash in the query.
            let types = headers.get_all(http::header::CONTENT_TYPE);
            let plain = types.iter().count() <= 1 && types.iter().all(|value| value == FORM);
            let unclear = verify.spec().scheme == VerifyScheme::Twilio && (!plain || target.contains('?'));
            assert!(!untouched || unclear, "{error}: {headers:?}");
        }
    }
});

fn split<'d>(data: &'d [u8], at: &[u8]) -> Option<(&'d [u8], &'d [u8])> {
    let place = data.windows(at.len()).position(|window| window == at)?;
    Some((&data[..place], &data[place + at.len()..]))
}
