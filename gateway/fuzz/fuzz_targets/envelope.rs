//! A request's head as a worker sees it: nothing that is the gateway's own, everything else byte for byte. The input is header lines
//! `Name: value`, an empty line, and the body.
#![no_main]

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use gearway::auth::{Authenticator, Policy, TokenTable};
use gearway::body::Body;
use gearway::config::{Auth, Config, Secret};
use gearway::data_dir::DataDir;
use gearway::envelope::{self, Call};
use gearway::path::{Target, canonicalise};
use gearway::registry::{Claim, Registry};
use gearway::route::Found;
use gearway::store::Store;
use gearway_protocol::Base64Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const CLIENT_KEY: &str = "the-client-key";
const DROPPED: [&str; 12] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "forwarded",
    "x-skygear-api-key",
    "x-skygear-access-token",
];

static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| {
    let auth = Auth {
        client_keys: vec![Secret::new(CLIENT_KEY)],
        master_keys: vec![Secret::new("the-master-key")],
        user_requires_key: true,
        query_credentials: false,
        jwt: None,
    };
    Authenticator::new(&auth, TokenTable::default(), None).expect("good settings")
});

thread_local! {
    static REGISTRY: RefCell<Registry> = RefCell::new(registry());
}

/// With one worker, whose handler takes everything.
fn registry() -> Registry {
    let dir = tempfile::tempdir().expect("a temporary folder").keep();
    let (store, recovered) = Store::open(&DataDir::open(&dir).expect("a new folder")).expect("a new store");
    let (registry, _ejections) =
        Registry::restore(Arc::new(ArcSwap::from_pointee(Config::default())), store, recovered);
    let worker = json!({"name": "w", "url": "http://127.0.0.1:9/", "protocol": "gearway-v1", "handlers": [{"name": "/"}]});
    let claim = Claim::check(serde_json::from_value(worker).expect("a registration")).expect("a good one");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(registry.register(claim)).expect("it is the only one");
    std::fs::remove_dir_all(dir).expect("our own folder");
    registry
}

fuzz_target!(|data: &[u8]| {
    let end = data.windows(2).position(|pair| pair == b"\n\n").unwrap_or(data.len());
    let body = Bytes::copy_from_slice(data.get(end + 2..).unwrap_or_default());
    let mut headers = HeaderMap::new();
    for line in data[..end].split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let policy = Policy { key_required: false, user_required: false };
    let permit =
        AUTHENTICATOR.authenticate(&headers, None, policy).now_or_never().expect("no key has to be fetched");
    let Ok(permit) = permit else { return };
    let Ok(Target::Path(path)) = canonicalise("/a") else { return };
    REGISTRY.with_borrow(|registry| {
        let table = registry.table();
        let Found::Match { value, captures } = table.routes.find(&path) else {
            panic!("the root takes everything")
        };
        let handler = value.handler(&Method::POST).expect("POST is among the defaults");
        for peer_is_trusted in [false, true] {
            let call = Call {
                method: &Method::POST,
                path: &path,
                raw_path: "/a",
                query: "",
                headers: &headers,
                host: "h",
                body: &Body::Plain(body.clone()),
                remote_addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
                peer_is_trusted,
                request_id: "id",
                permit: &permit,
                captures: &captures,
                deadline: Instant::now() + Duration::from_secs(1),
                delivery: None,
            };
            let mut out = Vec::new();
            envelope::encode(&call, &handler.offers[0], Instant::now(), &mut out);
            check(&out, &headers, &body, peer_is_trusted);
        }
    });
});

fn check(envelope: &[u8], headers: &HeaderMap, body: &[u8], peer_is_trusted: bool) {
    let envelope: Value = serde_json::from_slice(envelope).expect("an envelope is JSON");
    let param = &envelope["param"];
    let sent = Base64Body::decode(param["body"].as_str().expect("a text")).expect("base64");
    assert_eq!(sent, body);
    let given = param["header"].as_object().expect("an object");
    for (name, values) in given {
        let lower = name.to_ascii_lowercase();
        if lower == "host" || (lower == "content-length" && !headers.contains_key("content-length")) {
            continue;
        }
        let dropped = DROPPED.contains(&lower.as_str()) && !(lower == "forwarded" && peer_is_trusted);
        assert!(!dropped && !lower.starts_with("x-gearway-"), "{name} reached the worker");
        assert!(peer_is_trusted || !lower.starts_with("x-forwarded-"), "{name} reached the worker");
        let texts = values.as_array().expect("a list").iter().map(|value| value.as_str().expect("a text"));
        let own = headers.get_all(&lower).iter().map(|value| value.as_bytes());
        let latin1 = |text: &str| {
            text.chars().map(|c| u8::try_from(u32::from(c)).expect("Latin-1")).collect::<Vec<u8>>()
        };
        assert!(texts.map(latin1).eq(own.map(<[u8]>::to_vec)), "{name}: {values}");
    }
    let kept = |name: &str| given.keys().any(|given| given.eq_ignore_ascii_case(name));
    for name in headers.keys().map(HeaderName::as_str) {
        let ordinary = !DROPPED.contains(&name)
            && !["host", "expect", "x-real-ip"].contains(&name)
            && !name.starts_with("x-gearway-")
            && !name.starts_with("x-forwarded-");
        assert!(!ordinary || kept(name), "{name} was lost");
    }
}
