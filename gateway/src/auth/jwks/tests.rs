use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use futures_util::future::join_all;
use gearway_protocol::AccessKeyType;
use http::HeaderMap;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde_json::{Value, json};

use super::*;
use crate::auth::{Authenticator, Policy, TokenTable, test_keys};
use crate::config::{self, Jwt, JwtKeys};

/// What the issuer answers with.
#[derive(Clone)]
enum Answer {
    Keys(Vec<Value>),
    Text(String),
    Status(&'static str),
    Redirect(String),
    /// Nothing: the connection stays open until the client closes it.
    Silence,
}

/// A real HTTP server that counts how often it is asked.
struct Issuer {
    url: Url,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap()).parse().unwrap();
        let issuer = Self { url, answer: Arc::new(Mutex::new(answer)), asked: Arc::default() };
        let (answer, asked) = (Arc::clone(&issuer.answer), Arc::clone(&issuer.asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
                std::thread::spawn(move || serve(stream.unwrap(), &answer, &asked));
            }
        });
        issuer
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn config(&self) -> config::Auth {
        config::Auth {
            client_keys: vec![],
            master_keys: vec![],
            user_requires_key: false,
            query_credentials: false,
            jwt: Some(Jwt { keys: JwtKeys::JwksUrl(self.url.clone()), issuer: None, audience: None }),
        }
    }

    fn gateway(&self) -> Authenticator {
        Authenticator::new(&self.config(), TokenTable::default(), None).unwrap()
    }
}

fn serve(mut stream: TcpStream, answer: &Mutex<Answer>, asked: &AtomicUsize) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    asked.fetch_add(1, Ordering::SeqCst);
    let (status, location, body) = match answer.lock().clone() {
        Answer::Keys(keys) => ("200 OK", String::new(), json!({ "keys": keys }).to_string()),
        Answer::Text(text) => ("200 OK", String::new(), text),
        Answer::Status(status) => (status, String::new(), String::new()),
        Answer::Redirect(to) => ("302 Found", format!("Location: {to}\r\n"), String::new()),
        Answer::Silence => {
            assert!(stream.read(&mut byte).is_ok_and(|read| read == 0));
            return;
        }
    };
    let length = body.len();
    let response =
        format!("HTTP/1.1 {status}\r\n{location}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    // A client that refuses the answer may hang up before it has all of it.
    stream.write_all(response.as_bytes()).ok();
}

#[derive(Clone, Copy)]
enum Key {
    Rsa,
    P256,
    Ed25519,
}

impl Key {
    fn algorithm(self) -> Algorithm {
        match self {
            Self::Rsa => Algorithm::RS256,
            Self::P256 => Algorithm::ES256,
            Self::Ed25519 => Algorithm::EdDSA,
        }
    }

    fn jwk(self, kid: &str) -> Value {
        let key = match self {
            Self::Rsa => DecodingKey::from_rsa_pem(test_keys::RSA_PUBLIC.as_bytes()),
            Self::P256 => DecodingKey::from_ec_pem(test_keys::P256_PUBLIC.as_bytes()),
            Self::Ed25519 => DecodingKey::from_ed_pem(test_keys::ED25519_PUBLIC.as_bytes()),
        };
        let mut jwk = Jwk::from_decoding_key(&key.unwrap(), None).unwrap();
        jwk.common.key_id = Some(kid.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    fn token(self, kid: Option<&str>) -> String {
        let key = match self {
            Self::Rsa => EncodingKey::from_rsa_pem(test_keys::RSA_PRIVATE.as_bytes()),
            Self::P256 => EncodingKey::from_ec_pem(test_keys::P256_PRIVATE.as_bytes()),
            Self::Ed25519 => EncodingKey::from_ed_pem(test_keys::ED25519_PRIVATE.as_bytes()),
        };
        let mut header = Header::new(self.algorithm());
        header.kid = kid.map(str::to_owned);
        jsonwebtoken::encode(&header, &claims(), &key.unwrap()).unwrap()
    }
}

fn claims() -> Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    json!({"sub": "alice", "exp": now + 3600})
}

async fn accepts(gateway: &Authenticator, token: &str) -> bool {
    let mut headers = HeaderMap::new();
    headers.insert("x-skygear-access-token", token.parse().unwrap());
    let policy = Policy { key_required: false, user_required: true };
    match gateway.authenticate(&headers, None, policy).await {
        Ok(permit) => {
            assert_eq!(permit.access_key_type(), None::<AccessKeyType>);
            assert_eq!(permit.user_id(), Some("alice"));
            true
        }
        Err(error) => {
            assert_eq!(error.code().0, 104);
            false
        }
    }
}

#[tokio::test]
async fn keys_are_fetched_once_for_all_tokens() {
    let issuer =
        Issuer::start(Answer::Keys(vec![Key::Rsa.jwk("r"), Key::P256.jwk("p"), Key::Ed25519.jwk("e")]));
    let gateway = issuer.gateway();
    let tokens = [Key::Rsa.token(Some("r")), Key::P256.token(Some("p")), Key::Ed25519.token(Some("e"))];
    let first = join_all(tokens.iter().cycle().take(30).map(|token| accepts(&gateway, token))).await;
    assert_eq!(first, [true; 30], "they all wait for the first fetch");
    assert!(accepts(&gateway, &tokens[0]).await);
    assert_eq!(issuer.asked(), 1);
}

#[test]
fn the_first_token_fetches_what_no_runtime_was_there_to_fetch() {
    let issuer = Issuer::start(Answer::Keys(vec![Key::P256.jwk("p")]));
    let gateway = issuer.gateway();
    assert_eq!(issuer.asked(), 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(accepts(&gateway, &Key::P256.token(Some("p")))));
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn a_token_without_kid_is_tried_with_every_key_of_its_algorithm() {
    let issuer = Issuer::start(Answer::Keys(vec![Key::Rsa.jwk("r"), Key::P256.jwk("p")]));
    let gateway = issuer.gateway();
    assert!(accepts(&gateway, &Key::P256.token(None)).await);
    assert!(accepts(&gateway, &Key::Rsa.token(None)).await);
    assert!(!accepts(&gateway, &Key::Ed25519.token(None)).await);
}

#[tokio::test]
async fn a_token_is_tried_with_the_key_that_it_names_only() {
    let issuer = Issuer::start(Answer::Keys(vec![Key::Rsa.jwk("r"), Key::P256.jwk("p")]));
    let gateway = issuer.gateway();
    assert!(!accepts(&gateway, &Key::P256.token(Some("r"))).await);
    assert!(!accepts(&gateway, &Key::Rsa.token(Some("p"))).await);
    assert_eq!(issuer.asked(), 1, "a known kid with a bad signature is no reason to ask again");
}

#[tokio::test]
async fn an_unknown_kid_makes_the_gateway_ask_again() {
    let issuer = Issuer::start(Answer::Keys(vec![Key::Rsa.jwk("old")]));
    let gateway = issuer.gateway();
    assert!(accepts(&gateway, &Key::Rsa.token(Some("old"))).await);
    issuer.answers(Answer::Keys(vec![Key::Rsa.jwk("old"), Key::P256.jwk("new")]));
    let new = Key::P256.token(Some("new"));
    let accepted = join_all((0..10).map(|_| accepts(&gateway, &new))).await;
    assert_eq!(accepted, [true; 10]);
    assert!(accepts(&gateway, &Key::Rsa.token(Some("old"))).await);
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn a_new_key_counts_though_an_older_fetch_was_under_way() {
    let issuer = Issuer::start(Answer::Keys(vec![Key::Rsa.jwk("old")]));
    let gateway = issuer.gateway();
    // Joins the fetch of the construction, which may bring the old keys only.
    let token = Key::P256.token(Some("new"));
    let waiting = accepts(&gateway, &token);
    tokio::pin!(waiting);
    let early =
        tokio::select! { biased; early = &mut waiting => Some(early), () = std::future::ready(()) => None };
    assert_eq!(early, None);
    while issuer.asked() == 0 {
        tokio::task::yield_now().await;
    }
    issuer.answers(Answer::Keys(vec![Key::P256.jwk("new")]));
    assert!(waiting.await);
}

#[tokio::test]
async fn made_up_kids_cannot_hammer_the_issuer() {
    let issuer = Issuer::start(Answer::Keys(vec![Key::Rsa.jwk("r")]));
    let gateway = issuer.gateway();
    let begun = Instant::now();
    for kid in 0..40 {
        assert!(!accepts(&gateway, &Key::Rsa.token(Some(&format!("made up {kid}")))).await);
    }
    let refilled = usize::try_from(begun.elapsed().as_secs() / FETCH_INTERVAL.as_secs()).unwrap();
    let allowed = usize::try_from(FETCH_BURST).unwrap() + refilled;
    assert!(issuer.asked() <= allowed, "{} fetches", issuer.asked());
    assert!(accepts(&gateway, &Key::Rsa.token(Some("r"))).await);
}

#[tokio::test]
async fn what_cannot_be_signed_by_the_issuer_does_not_make_the_gateway_ask() {
    let issuer = Issuer::start(Answer::Keys(vec![Key::Rsa.jwk("r")]));
    let gateway = issuer.gateway();
    gateway.refresh().await;
    let asked = issuer.asked();
    let key = EncodingKey::from_secret(test_keys::RSA_PUBLIC.as_bytes());
    let mut header = Header::new(Algorithm::HS256);
    for kid in [None, Some("r"), Some("unknown")] {
        header.kid = kid.map(str::to_owned);
        assert!(!accepts(&gateway, &jsonwebtoken::encode(&header, &claims(), &key).unwrap()).await);
    }
    let key = EncodingKey::from_rsa_pem(test_keys::RSA_PRIVATE.as_bytes()).unwrap();
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some("unknown".to_owned());
    let expired = json!({"sub": "alice", "exp": 1_000_000_000});
    assert!(!accepts(&gateway, &jsonwebtoken::encode(&header, &expired, &key).unwrap()).await);
    assert_eq!(issuer.asked(), asked);
}

#[tokio::test]
async fn keys_are_kept_while_the_issuer_is_down() {
    let issuer = Issuer::start(Answer::Keys(vec![Key::Rsa.jwk("r")]));
    let gateway = issuer.gateway();
    let token = Key::Rsa.token(Some("r"));
    assert!(accepts(&gateway, &token).await);
    let elsewhere = Issuer::start(Answer::Keys(vec![]));
    for answer in [
        Answer::Status("500 Internal Server Error"),
        Answer::Status("304 Not Modified"),
        Answer::Text(String::new()),
        Answer::Text("<html>".to_owned()),
        Answer::Text("{}".to_owned()),
        Answer::Text(r#"{"keys": {}}"#.to_owned()),
        Answer::Text(format!(r#"{{"keys": [], "pad": "{}"}}"#, "x".repeat(MAX_DOCUMENT))),
        Answer::Redirect(elsewhere.url.to_string()),
    ] {
        issuer.answers(answer);
        let asked = issuer.asked();
        gateway.refresh().await;
        assert_eq!(issuer.asked(), asked + 1);
        assert!(accepts(&gateway, &token).await);
    }
    assert_eq!(elsewhere.asked(), 0, "redirects are not followed");
}

#[tokio::test]
async fn a_withdrawn_key_goes_with_the_next_fetch() {
    let issuer = Issuer::start(Answer::Keys(vec![Key::Rsa.jwk("r"), Key::P256.jwk("p")]));
    let gateway = issuer.gateway();
    let (rsa, p256) = (Key::Rsa.token(Some("r")), Key::P256.token(Some("p")));
    assert!(accepts(&gateway, &rsa).await);
    issuer.answers(Answer::Keys(vec![Key::P256.jwk("p")]));
    gateway.refresh().await;
    assert!(!accepts(&gateway, &rsa).await);
    assert!(accepts(&gateway, &p256).await);
    issuer.answers(Answer::Keys(vec![]));
    gateway.refresh().await;
    assert!(!accepts(&gateway, &p256).await);
}

#[tokio::test]
async fn stale_keys_are_used_while_newer_ones_are_fetched() {
    let issuer = Issuer::start(Answer::Keys(vec![Key::Rsa.jwk("r")]));
    let keys = IssuerKeys::with_staleness(issuer.url.clone(), Duration::ZERO);
    keys.refresh().await;
    issuer.answers(Answer::Keys(vec![]));
    assert!(keys.any(Some("r"), |_| true).await, "nobody waits for the newer ones");
    let running = keys.fetches.lock().running.clone().expect("the use of stale keys begins a fetch");
    assert_eq!(Fetch::Joined(running).outcome().await, Progress::Fetched);
    assert!(!keys.any(Some("r"), |_| true).await);

    let fresh = IssuerKeys::with_staleness(issuer.url.clone(), STALE_AFTER);
    fresh.refresh().await;
    let asked = issuer.asked();
    assert!(!fresh.current.load_full().unwrap().fetched_at.elapsed().is_zero());
    issuer.answers(Answer::Keys(vec![Key::Rsa.jwk("r")]));
    fresh.refresh().await;
    assert!(fresh.any(Some("r"), |_| true).await);
    assert!(fresh.fetches.lock().running.is_none(), "fresh keys begin no fetch");
    assert_eq!(issuer.asked(), asked + 1);
}

#[tokio::test]
async fn a_verdict_ends_with_the_keys_that_it_was_made_with() {
    let issuer = Issuer::start(Answer::Keys(vec![Key::Rsa.jwk("r")]));
    let keys = IssuerKeys::with_staleness(issuer.url.clone(), STALE_AFTER);
    assert_eq!(keys.version(), None);
    keys.refresh().await;
    let first = keys.version();
    assert!(first.is_some());
    keys.refresh().await;
    assert!(keys.version().is_some() && keys.version() != first);

    let stale = IssuerKeys::with_staleness(issuer.url.clone(), Duration::ZERO);
    stale.refresh().await;
    assert_eq!(stale.version(), None, "stale keys are looked at each time, so that newer ones are asked for");
}

#[tokio::test]
async fn until_the_issuer_has_answered_no_token_is_accepted() {
    let issuer = Issuer::start(Answer::Status("503 Service Unavailable"));
    let gateway = issuer.gateway();
    let token = Key::Rsa.token(Some("r"));
    assert!(!accepts(&gateway, &token).await);
    issuer.answers(Answer::Keys(vec![Key::Rsa.jwk("r")]));
    gateway.refresh().await;
    assert!(accepts(&gateway, &token).await);
}

#[tokio::test]
async fn unusable_keys_do_not_take_the_others_with_them() {
    let mut for_encryption = Key::P256.jwk("enc");
    for_encryption["use"] = json!("enc");
    let issuer = Issuer::start(Answer::Keys(vec![
        json!(7),
        json!({"kty": "of-tomorrow", "kid": "x"}),
        json!({"kty": "RSA", "kid": "no modulus"}),
        json!({"kty": "oct", "kid": "oct", "k": "c2VjcmV0"}),
        for_encryption,
        Key::Rsa.jwk("r"),
    ]));
    let gateway = issuer.gateway();
    assert!(accepts(&gateway, &Key::Rsa.token(Some("r"))).await);
    assert!(!accepts(&gateway, &Key::P256.token(Some("enc"))).await);
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("oct".to_owned());
    let key = EncodingKey::from_secret(b"secret");
    assert!(!accepts(&gateway, &jsonwebtoken::encode(&header, &claims(), &key).unwrap()).await);
}

#[tokio::test]
async fn a_reload_keeps_the_keys_of_the_same_url() {
    let issuer = Issuer::start(Answer::Keys(vec![Key::Rsa.jwk("r")]));
    let gateway = issuer.gateway();
    let token = Key::Rsa.token(Some("r"));
    assert!(accepts(&gateway, &token).await);

    issuer.answers(Answer::Status("500 Internal Server Error"));
    let reloaded = Authenticator::new(&issuer.config(), TokenTable::default(), Some(&gateway)).unwrap();
    assert!(accepts(&reloaded, &token).await);
    assert_eq!(issuer.asked(), 1);

    let other = Issuer::start(Answer::Keys(vec![]));
    let moved = Authenticator::new(&other.config(), TokenTable::default(), Some(&gateway)).unwrap();
    assert!(!accepts(&moved, &token).await);
}

#[test]
fn a_fetch_that_dies_with_its_runtime_leaves_room_for_the_next() {
    let issuer = Issuer::start(Answer::Silence);
    let keys = IssuerKeys::with_staleness(issuer.url.clone(), STALE_AFTER);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

    let dying = runtime();
    dying.block_on(async {
        keys.fetch(Allowance::Budgeted).expect("there is a budget");
        while issuer.asked() == 0 {
            tokio::task::yield_now().await;
        }
    });
    let waiting = keys.fetches.lock().running.clone().unwrap();
    drop(dying);
    assert_eq!(runtime().block_on(Fetch::Joined(waiting).outcome()), Progress::Failed);

    issuer.answers(Answer::Keys(vec![Key::Rsa.jwk("r")]));
    runtime().block_on(keys.refresh());
    assert!(runtime().block_on(keys.any(Some("r"), |_| true)));
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_take_the_fetch_with_it() {
    let issuer = Issuer::start(Answer::Keys(vec![Key::Rsa.jwk("r")]));
    let keys = IssuerKeys::with_staleness(issuer.url.clone(), STALE_AFTER);
    let gone = tokio::select! {
        biased;
        _ = keys.any(Some("r"), |_| true) => false,
        () = std::future::ready(()) => true,
    };
    assert!(gone);
    assert!(keys.any(Some("r"), |_| true).await);
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn complaints_are_few_and_show_no_credential() {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("gearway=trace")
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let issuer = Issuer::start(Answer::Silence);
    let mut url = issuer.url.clone();
    url.set_username("canary-user").unwrap();
    url.set_password(Some("canary-password")).unwrap();
    url.set_query(Some("key=canary-query"));
    url.set_port(Some(1)).unwrap();
    let keys = IssuerKeys::with_staleness(url, STALE_AFTER);
    for _ in 0..3 {
        keys.refresh().await;
    }
    let shown = String::from_utf8(log.0.lock().clone()).unwrap();
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(shown.contains("auth.jwt.jwks_url") && shown.contains("127.0.0.1"), "{shown}");
    assert!(!shown.contains("canary") && !format!("{keys:?}").contains("canary"), "{shown}");
}

#[test]
fn the_budget_is_a_burst_and_then_one_per_interval() {
    let start = Instant::now();
    let mut budget = Budget::full(start);
    let at = |seconds| start + Duration::from_secs(seconds);
    let granted = |budget: &mut Budget, now| (0..100).filter(|_| budget.take(now)).count();
    assert_eq!(granted(&mut budget, at(0)), 5);
    assert_eq!(granted(&mut budget, at(9)), 0);
    assert_eq!(granted(&mut budget, at(10)), 1);
    assert_eq!(granted(&mut budget, at(19)), 0);
    assert_eq!(granted(&mut budget, at(35)), 2);
    assert_eq!(granted(&mut budget, at(40)), 1);
    assert_eq!(granted(&mut budget, at(10_000)), 5);
    assert_eq!(granted(&mut budget, at(10_009)), 0);
    assert_eq!(granted(&mut budget, at(10_010)), 1);
}
