//! What the parts of a request cost. `cargo bench -p gearway --bench request`

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gearway::auth::{Authenticator, Permit, Policy, TokenTable};
use gearway::body::Body;
use gearway::config::{self, Config, Jwt, JwtKeys, Secret};
use gearway::data_dir::DataDir;
use gearway::dialect::Dialect;
use gearway::envelope::{self, Call};
use gearway::path::{CanonicalPath, Target, canonicalise};
use gearway::registry::{Claim, Registry};
use gearway::respond;
use gearway::route::Found;
use gearway::store::Store;
use gearway_protocol::{Base64Body, Registration};
use http::{HeaderMap, HeaderValue, Method};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

const SIZES: [usize; 4] = [0, 1 << 10, 64 << 10, 1 << 20];
const OPEN: Policy = Policy { key_required: false, user_required: false };
const BOTH: Policy = Policy { key_required: true, user_required: true };
/// More tokens than the gateway keeps verdicts of, so that each is new to it when its turn comes again.
const COLD_TOKENS: usize = 40_000;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn short(
    c: &mut Criterion,
    name: &str,
    bench: impl FnOnce(&mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>),
) {
    let mut group = c.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(30);
    bench(&mut group);
    group.finish();
}

fn token(user: usize) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let claims = json!({"sub": format!("user-{user}"), "iat": now, "exp": now + 3600});
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))
        .expect("a token")
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn authenticator(tokens: TokenTable) -> Authenticator {
    let config = config::Auth {
        client_keys: vec![Secret::new("client-key-1"), Secret::new("client-key-2")],
        master_keys: vec![Secret::new("master-key-1")],
        user_requires_key: true,
        query_credentials: false,
        jwt: Some(Jwt { keys: JwtKeys::Secrets(vec![Secret::new(SECRET)]), issuer: None, audience: None }),
    };
    Authenticator::new(&config, tokens, None).expect("settings that can be used")
}

fn with_token(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-skygear-api-key", HeaderValue::from_static("client-key-1"));
    headers.insert("x-skygear-access-token", HeaderValue::from_str(token).expect("a header value"));
    headers
}

fn permit(authenticator: &Authenticator, headers: &HeaderMap, policy: Policy) -> Permit {
    futures_util::FutureExt::now_or_never(authenticator.authenticate(headers, None, policy))
        .expect("nothing to wait for")
        .expect("credentials that are accepted")
}

fn authenticate(c: &mut Criterion) {
    let tokens = TokenTable::default();
    let (opaque, record) = TokenTable::create("alice", None).expect("a token");
    tokens.insert(record);
    let gateway = authenticator(tokens);
    let mut key = HeaderMap::new();
    key.insert("x-skygear-api-key", HeaderValue::from_static("client-key-1"));
    let cold: Vec<_> = (0..COLD_TOKENS).map(|user| with_token(&token(user))).collect();
    let cached = with_token(&token(0));
    let opaque = with_token(opaque.expose());
    short(c, "authenticate", |group| {
        group.bench_function("nothing", |b| b.iter(|| permit(&gateway, black_box(&HeaderMap::new()), OPEN)));
        let key_only = Policy { key_required: true, user_required: false };
        group.bench_function("key", |b| b.iter(|| permit(&gateway, black_box(&key), key_only)));
        let mut next = cold.iter().cycle();
        group.bench_function("key_and_jwt_cold", |b| {
            b.iter(|| permit(&gateway, next.next().expect("a cycle has no end"), BOTH));
        });
        group.bench_function("key_and_jwt_cached", |b| b.iter(|| permit(&gateway, black_box(&cached), BOTH)));
        group.bench_function("key_and_opaque", |b| b.iter(|| permit(&gateway, black_box(&opaque), BOTH)));
    });
}

struct Running {
    registry: Registry,
    runtime: Runtime,
    _dir: tempfile::TempDir,
}

fn claim(name: &str, handlers: &[String]) -> Claim {
    let handlers: Vec<_> = handlers.iter().map(|name| json!({"name": name})).collect();
    let registration = json!({
        "name": name, "url": "http://127.0.0.1:9/", "protocol": "gearway-v1", "handlers": handlers,
    });
    let registration: Registration = serde_json::from_value(registration).expect("a registration");
    Claim::check(registration).expect("a registration that can be accepted")
}

/// A gateway's registry with so many routes of one worker.
fn registry(routes: usize) -> Running {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, recovered) = Store::open(&DataDir::open(dir.path()).expect("a folder")).expect("a store");
    let config = Arc::new(ArcSwap::from_pointee(Config::default()));
    let (registry, _) = Registry::restore(config, store, recovered);
    let runtime = runtime();
    let handlers: Vec<_> = (0..routes).map(|n| format!("service-{}/things-{n}/{{id}}", n % 97)).collect();
    runtime.block_on(registry.register(claim("many", &handlers))).expect("a registration");
    Running { registry, runtime, _dir: dir }
}

fn path(raw: &str) -> CanonicalPath<'_> {
    match canonicalise(raw) {
        Ok(Target::Path(path)) => path,
        other => panic!("{raw} is {other:?}"),
    }
}

fn write_envelope(c: &mut Criterion) {
    let Running { registry, _dir, .. } = registry(1);
    let table = registry.table();
    let raw_path = "/service-0/things-0/8f14e45f";
    let path = path(raw_path);
    let Found::Match { value: endpoint, captures } = table.routes.find(&path) else { panic!("no route") };
    let offer = &endpoint.handler(&Method::POST).expect("a handler").offers[0];
    let gateway = authenticator(TokenTable::default());
    let mut headers = with_token(&token(0));
    let permit = permit(&gateway, &headers, BOTH);
    for (name, value) in [
        ("host", "api.example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, deflate, br"),
        ("content-type", "application/octet-stream"),
        ("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    short(c, "write_envelope", |group| {
        for size in SIZES {
            let body = Body::Plain(vec![0xa5; size].into());
            let call = Call {
                method: &Method::POST,
                path: &path,
                raw_path,
                query: "a=1&b=2",
                headers: &headers,
                host: "api.example.com",
                body: &body,
                remote_addr: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)),
                peer_is_trusted: false,
                request_id: "0123456789abcdef0123456789abcdef",
                permit: &permit,
                captures: &captures,
                deadline: Instant::now() + Duration::from_secs(60),
                delivery: None,
            };
            let mut out = Vec::new();
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::from_parameter(size), |b| {
                b.iter(|| {
                    out.clear();
                    envelope::encode(black_box(&call), offer, Instant::now(), &mut out);
                });
            });
        }
    });
}

fn read_reply(c: &mut Criterion) {
    short(c, "read_reply", |group| {
        for size in SIZES {
            let body = Base64Body::encode(&vec![0xa5; size]);
            let response = json!({"result": {
                "type": "response", "status": 200, "body": body,
                "header": {"Content-Type": ["application/octet-stream"], "X-Rate-Limit": ["10"]},
            }});
            let kinds = [
                ("response", response),
                ("text", json!({"result": {"type": "text", "value": "a".repeat(size)}})),
                (
                    "json",
                    json!({"result": {"type": "json", "value": {"texts": vec!["some text"; size / 12]}}}),
                ),
            ];
            group.throughput(Throughput::Bytes(size as u64));
            for (kind, reply) in kinds {
                let reply = Bytes::from(reply.to_string());
                group.bench_function(BenchmarkId::new(kind, size), |b| {
                    b.iter(|| {
                        respond::read(black_box(&reply), Dialect::GearwayV1, 10 << 20).expect("a response")
                    });
                });
            }
        }
    });
}

/// From a registration to the moment when requests find it, the disk's sync included.
fn register(c: &mut Criterion) {
    short(c, "register", |group| {
        group.sample_size(10);
        for routes in [10, 10_000] {
            let Running { registry, runtime, _dir } = registry(routes);
            let handler = ["new".to_owned()];
            group.bench_function(BenchmarkId::from_parameter(routes), |b| {
                b.iter(|| {
                    runtime.block_on(registry.register(claim("new", &handler))).expect("a registration")
                });
            });
        }
    });
}

criterion_group!(benches, authenticate, write_envelope, read_reply, register);
criterion_main!(benches);
