use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::{Jwt, JwtKeys, Secret};

const OPEN: Policy = Policy { key_required: false, user_required: false };
const KEY: Policy = Policy { key_required: true, user_required: false };
const USER: Policy = Policy { key_required: false, user_required: true };
const BOTH: Policy = Policy { key_required: true, user_required: true };

const API_KEY: &str = "X-Skygear-API-Key";
const TOKEN: &str = "X-Skygear-Access-Token";
const AUTHORIZATION: &str = "Authorization";
const USER_ID: &str = "X-Gearway-User-Id";

fn settings() -> config::Auth {
    config::Auth {
        client_keys: vec![Secret::new("client-1"), Secret::new("client-2")],
        master_keys: vec![Secret::new("master-1")],
        user_requires_key: true,
        query_credentials: false,
        jwt: Some(Jwt {
            keys: JwtKeys::Secrets(vec![Secret::new("jwt-secret")]),
            issuer: None,
            audience: None,
        }),
    }
}

fn authenticator(config: &config::Auth, tokens: TokenTable) -> Authenticator {
    Authenticator::new(config, tokens, None).unwrap()
}

fn plain() -> Authenticator {
    authenticator(&settings(), TokenTable::default())
}

fn without_key_for_users() -> Authenticator {
    authenticator(&config::Auth { user_requires_key: false, ..settings() }, TokenTable::default())
}

fn with_query() -> Authenticator {
    authenticator(&config::Auth { query_credentials: true, ..settings() }, TokenTable::default())
}

fn jwt_until(user: &str, exp: u64) -> String {
    let key = EncodingKey::from_secret(b"jwt-secret");
    jsonwebtoken::encode(&Header::default(), &json!({"sub": user, "exp": exp}), &key).unwrap()
}

fn jwt(user: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    jwt_until(user, now + 3600)
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn header_map(headers: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    map
}

/// `key user ours|theirs` of the permit, or `status code` of the error.
fn ask(
    authenticator: &Authenticator,
    headers: &[(&str, &str)],
    query: Option<&str>,
    policy: Policy,
) -> String {
    match run(authenticator.authenticate(&header_map(headers), query, policy)) {
        Ok(permit) => format!(
            "{} {} {}",
            permit.access_key_type().map_or("-", AccessKeyType::as_str),
            permit.user_id().unwrap_or("-"),
            if permit.authorization_is_ours() { "ours" } else { "theirs" },
        ),
        Err(error) => format!("{} {}", error.status().as_u16(), error.code().0),
    }
}

#[track_caller]
fn check(authenticator: &Authenticator, policy: Policy, headers: &[(&str, &str)], expected: &str) {
    assert_eq!(ask(authenticator, headers, None, policy), expected, "{policy:?} {headers:?}");
}

#[test]
fn the_key_is_in_its_header_and_is_a_clients_or_a_masters() {
    let gateway = plain();
    for policy in [OPEN, KEY] {
        check(&gateway, policy, &[(API_KEY, "client-1")], "client - theirs");
        check(&gateway, policy, &[(API_KEY, "client-2")], "client - theirs");
        check(&gateway, policy, &[(API_KEY, "master-1")], "master - theirs");
    }
}

#[test]
fn the_token_is_in_its_header_or_in_authorization() {
    let gateway = plain();
    let (token, header) = (jwt("alice"), bearer(&jwt("alice")));
    let shouted = format!("BEARER  {token}");
    for policy in [OPEN, USER, BOTH] {
        let key = (API_KEY, "client-1");
        check(&gateway, policy, &[key, (TOKEN, &token)], "client alice theirs");
        check(&gateway, policy, &[key, (AUTHORIZATION, &header)], "client alice ours");
        check(&gateway, policy, &[key, (AUTHORIZATION, &shouted)], "client alice ours");
    }
}

#[test]
fn a_credential_header_twice_is_400_whatever_the_policy() {
    let gateway = plain();
    let (token, header) = (jwt("alice"), bearer(&jwt("alice")));
    for policy in [OPEN, KEY, USER, BOTH] {
        for (name, value) in [
            (API_KEY, "client-1"),
            (API_KEY, "unknown"),
            (API_KEY, ""),
            (TOKEN, token.as_str()),
            (TOKEN, "garbage"),
            (AUTHORIZATION, header.as_str()),
            (AUTHORIZATION, "Basic YTpi"),
        ] {
            check(&gateway, policy, &[(name, value), (name, value)], "400 107");
        }
        check(&gateway, policy, &[(API_KEY, "client-1"), (API_KEY, "client-2")], "400 107");
        check(&gateway, policy, &[(AUTHORIZATION, &header), (AUTHORIZATION, "Basic YTpi")], "400 107");
    }
}

#[test]
fn tokens_of_two_users_are_400_and_of_the_same_user_are_fine() {
    let gateway = plain();
    let (alice, bob) = (jwt("alice"), bearer(&jwt("bob")));
    let again = bearer(&jwt_until("alice", 4_000_000_000));
    let same = bearer(&alice);
    let key = (API_KEY, "client-1");
    for policy in [OPEN, KEY, USER, BOTH] {
        check(&gateway, policy, &[key, (TOKEN, &alice), (AUTHORIZATION, &bob)], "400 107");
        check(&gateway, policy, &[key, (TOKEN, &alice), (AUTHORIZATION, &again)], "client alice ours");
        check(&gateway, policy, &[key, (TOKEN, &alice), (AUTHORIZATION, &same)], "client alice ours");
    }
}

#[test]
fn an_empty_credential_is_an_absent_one() {
    let gateway = plain();
    check(&gateway, KEY, &[(API_KEY, "")], "401 101");
    check(&gateway, USER, &[(API_KEY, "client-1"), (TOKEN, "")], "401 101");
    check(&gateway, USER, &[(API_KEY, "client-1"), (AUTHORIZATION, "Bearer")], "401 101");
    check(&gateway, USER, &[(API_KEY, "client-1"), (AUTHORIZATION, "Bearer ")], "401 101");
    check(&gateway, USER, &[(API_KEY, "master-1"), (USER_ID, "")], "401 101");
}

#[test]
fn key_required_wants_a_known_key() {
    let gateway = plain();
    check(&gateway, KEY, &[], "401 101");
    check(&gateway, KEY, &[(API_KEY, "unknown")], "401 103");
    check(&gateway, KEY, &[(API_KEY, "client-1")], "client - theirs");
    check(&gateway, KEY, &[(TOKEN, &jwt("alice"))], "401 101");
    check(&gateway, KEY, &[(API_KEY, "client-1"), (TOKEN, "garbage")], "client - theirs");
}

#[test]
fn without_configured_keys_no_key_is_known() {
    let config = config::Auth { client_keys: vec![], master_keys: vec![], ..settings() };
    let gateway = authenticator(&config, TokenTable::default());
    check(&gateway, KEY, &[(API_KEY, "client-1")], "401 103");
    check(&gateway, OPEN, &[(API_KEY, "client-1")], "- - theirs");
}

#[test]
fn user_required_wants_a_valid_token_as_well() {
    let gateway = plain();
    let (good, expired) = (jwt("alice"), jwt_until("alice", 1_000_000_000));
    let key = (API_KEY, "client-1");
    for policy in [USER, BOTH] {
        check(&gateway, policy, &[], "401 101");
        check(&gateway, policy, &[(TOKEN, &good)], "401 101");
        check(&gateway, policy, &[(API_KEY, "unknown"), (TOKEN, &good)], "401 103");
        check(&gateway, policy, &[(API_KEY, "unknown"), (TOKEN, "garbage")], "401 103");
        check(&gateway, policy, &[key], "401 101");
        check(&gateway, policy, &[key, (AUTHORIZATION, "Basic YTpi")], "401 101");
        check(&gateway, policy, &[key, (TOKEN, "garbage")], "401 104");
        check(&gateway, policy, &[key, (TOKEN, &expired)], "401 104");
        check(&gateway, policy, &[key, (AUTHORIZATION, &bearer(&expired))], "401 104");
        check(&gateway, policy, &[key, (AUTHORIZATION, "Bearer garbage")], "401 104");
        check(&gateway, policy, &[key, (TOKEN, &good)], "client alice theirs");
    }
}

#[test]
fn user_requires_key_can_be_turned_off() {
    let gateway = without_key_for_users();
    let good = jwt("alice");
    check(&gateway, USER, &[(TOKEN, &good)], "- alice theirs");
    check(&gateway, USER, &[(API_KEY, "unknown"), (TOKEN, &good)], "- alice theirs");
    check(&gateway, USER, &[], "401 101");
    check(&gateway, USER, &[(TOKEN, "garbage")], "401 104");
    check(&gateway, BOTH, &[(TOKEN, &good)], "401 101");
    check(&gateway, BOTH, &[(API_KEY, "unknown"), (TOKEN, &good)], "401 103");
}

#[test]
fn a_bad_authorization_is_the_webhooks_own_beside_a_good_token_and_never_the_reverse() {
    let gateway = plain();
    let (good, good_bearer) = (jwt("alice"), bearer(&jwt("alice")));
    let key = (API_KEY, "client-1");
    for policy in [USER, BOTH] {
        check(
            &gateway,
            policy,
            &[key, (TOKEN, &good), (AUTHORIZATION, "Bearer webhook")],
            "client alice theirs",
        );
        check(&gateway, policy, &[key, (TOKEN, &good), (AUTHORIZATION, "Basic YTpi")], "client alice theirs");
        check(&gateway, policy, &[key, (TOKEN, "garbage"), (AUTHORIZATION, &good_bearer)], "401 104");
    }
    check(&gateway, OPEN, &[(TOKEN, "garbage"), (AUTHORIZATION, &good_bearer)], "- alice ours");
}

#[test]
fn a_master_key_names_the_user() {
    let gateway = plain();
    let (alice, master) = (jwt("alice"), (API_KEY, "master-1"));
    for policy in [OPEN, KEY, USER, BOTH] {
        check(&gateway, policy, &[master, (USER_ID, "alice")], "master alice theirs");
        check(&gateway, policy, &[master, (USER_ID, "alice"), (TOKEN, &alice)], "master alice theirs");
        check(
            &gateway,
            policy,
            &[master, (USER_ID, "alice"), (AUTHORIZATION, "Bearer w")],
            "master alice theirs",
        );
        check(&gateway, policy, &[master, (USER_ID, "bob"), (TOKEN, &alice)], "400 107");
        check(&gateway, policy, &[master, (USER_ID, "bob"), (AUTHORIZATION, &bearer(&alice))], "400 107");
        check(&gateway, policy, &[master, (USER_ID, "bob"), (USER_ID, "bob")], "400 107");
        check(&gateway, policy, &[master, (TOKEN, &alice)], "master alice theirs");
    }
    check(&gateway, OPEN, &[master, (USER_ID, "zo\u{eb}")], "master zo\u{eb} theirs");
    check(&gateway, USER, &[master, (USER_ID, "alice"), (TOKEN, "garbage")], "401 104");
    let mut latin = header_map(&[master]);
    latin.append(USER_ID, HeaderValue::from_bytes(b"zo\xeb").unwrap());
    let error = run(gateway.authenticate(&latin, None, OPEN)).unwrap_err();
    assert_eq!(error.status(), 400);
}

#[test]
fn a_master_key_alone_is_no_user() {
    check(&plain(), USER, &[(API_KEY, "master-1")], "401 101");
    check(&plain(), OPEN, &[(API_KEY, "master-1")], "master - theirs");
}

#[test]
fn without_a_master_key_nobody_names_the_user() {
    let gateway = plain();
    for key in ["client-1", "unknown", ""] {
        let headers = [(API_KEY, key), (USER_ID, "alice"), (USER_ID, "bob")];
        let known = if key == "client-1" { "client" } else { "-" };
        check(&gateway, OPEN, &headers, &format!("{known} - theirs"));
    }
    check(&gateway, USER, &[(API_KEY, "client-1"), (USER_ID, "alice")], "401 101");
    check(&gateway, OPEN, &[(USER_ID, "alice"), (TOKEN, &jwt("bob"))], "- bob theirs");
}

#[test]
fn an_open_handler_gets_what_is_valid_and_nothing_of_what_is_not() {
    let gateway = plain();
    let expired = jwt_until("alice", 1_000_000_000);
    check(&gateway, OPEN, &[], "- - theirs");
    check(&gateway, OPEN, &[(API_KEY, "unknown"), (TOKEN, "garbage")], "- - theirs");
    check(&gateway, OPEN, &[(API_KEY, "unknown"), (TOKEN, &jwt("alice"))], "- alice theirs");
    check(&gateway, OPEN, &[(API_KEY, "client-1"), (TOKEN, &expired)], "client - theirs");
    check(&gateway, OPEN, &[(AUTHORIZATION, "Bearer webhook")], "- - theirs");
    check(&gateway, OPEN, &[(AUTHORIZATION, &bearer(&expired))], "- - theirs");
    check(&gateway, OPEN, &[(AUTHORIZATION, &bearer(&jwt("alice")))], "- alice ours");
    check(
        &gateway,
        KEY,
        &[(API_KEY, "client-1"), (AUTHORIZATION, &bearer(&jwt("alice")))],
        "client alice ours",
    );
}

#[test]
fn an_opaque_token_is_as_good_as_a_jwt_until_it_is_revoked() {
    let (token, record) = TokenTable::create("alice", Some(Duration::from_secs(3600))).unwrap();
    let tokens = TokenTable::restore(vec![record.clone()]);
    for config in [settings(), config::Auth { jwt: None, ..settings() }] {
        let gateway = authenticator(&config, tokens.clone());
        let key = (API_KEY, "client-1");
        check(&gateway, USER, &[key, (TOKEN, token.expose())], "client alice theirs");
        check(&gateway, USER, &[key, (AUTHORIZATION, &bearer(token.expose()))], "client alice ours");
        check(&gateway, USER, &[key, (TOKEN, "gwt_unknown")], "401 104");
    }
    let gateway = authenticator(&settings(), tokens.clone());
    assert_eq!(tokens.remove(&record.id), Some(record));
    check(&gateway, USER, &[(API_KEY, "client-1"), (TOKEN, token.expose())], "401 104");
}

#[test]
fn without_jwt_settings_no_jwt_counts() {
    let gateway = authenticator(&config::Auth { jwt: None, ..settings() }, TokenTable::default());
    check(&gateway, USER, &[(API_KEY, "client-1"), (TOKEN, &jwt("alice"))], "401 104");
    check(&gateway, OPEN, &[(AUTHORIZATION, &bearer(&jwt("alice")))], "- - theirs");
}

#[test]
fn query_credentials_count_like_headers_when_they_are_turned_on() {
    let gateway = with_query();
    let token = jwt("alice");
    let both = format!("a=1&api_key=client-1&access_token={token}");
    let escaped = format!("api%5Fkey=client%2d1&access_token={token}");
    let twice = "api_key=client-1&api_key=client-1";
    let other_user = format!("api_key=client-1&access_token={}", jwt("bob"));
    let same_key = [(API_KEY, "client-1")];
    for (headers, query, policy, expected) in [
        (&[][..], both.as_str(), BOTH, "client alice theirs"),
        (&[], &both, OPEN, "client alice theirs"),
        (&[], &escaped, BOTH, "client alice theirs"),
        (&same_key, &both, BOTH, "client alice theirs"),
        (&[(API_KEY, "client-2")], &both, OPEN, "400 107"),
        (&[(API_KEY, "unknown")], &both, OPEN, "400 107"),
        (&[(TOKEN, "garbage")], &both, OPEN, "400 107"),
        (&[(TOKEN, token.as_str())], &both, BOTH, "client alice theirs"),
        (&[(AUTHORIZATION, &bearer(&token))], &both, BOTH, "client alice ours"),
        (&[(AUTHORIZATION, &bearer(&token))], &other_user, OPEN, "400 107"),
        (&[], twice, OPEN, "400 107"),
        (&[], "access_token=&access_token=x", OPEN, "400 107"),
        (&[], "api_key=", KEY, "401 101"),
        (&[], "api_key", KEY, "401 101"),
        (&[], "api_key=unknown", KEY, "401 103"),
        (&[], "api_key=client-1&access_token=garbage", USER, "401 104"),
        (&[], "api_key=unknown&access_token=garbage", OPEN, "- - theirs"),
        (&[], "API_KEY=client-1", KEY, "401 101"),
    ] {
        assert_eq!(ask(&gateway, headers, Some(query), policy), expected, "{headers:?} {query}");
    }
}

#[test]
fn query_credentials_are_ordinary_parameters_otherwise() {
    let gateway = plain();
    let query = format!("api_key=client-1&access_token={}&api_key=2", jwt("alice"));
    assert_eq!(ask(&gateway, &[], Some(&query), OPEN), "- - theirs");
    assert_eq!(ask(&gateway, &[], Some(&query), KEY), "401 101");
    assert_eq!(gateway.visible_query(&query), query);
    assert_eq!(with_query().visible_query("a=1&api_key=client-1&access_token=bad&b"), "a=1&b");
}

#[test]
fn neither_errors_nor_debug_output_show_a_credential() {
    let config = config::Auth {
        client_keys: vec![Secret::new("canary-client")],
        master_keys: vec![Secret::new("canary-master")],
        jwt: Some(Jwt {
            keys: JwtKeys::Secrets(vec![Secret::new("canary-jwt")]),
            issuer: None,
            audience: None,
        }),
        ..settings()
    };
    let gateway = authenticator(&config, TokenTable::default());
    let mut shown = format!("{gateway:?} {config:?}");
    for policy in [OPEN, KEY, USER, BOTH] {
        for headers in [
            &[(API_KEY, "canary-bad"), (TOKEN, "canary-token")][..],
            &[(API_KEY, "canary-client"), (TOKEN, "canary-token")],
            &[(API_KEY, "canary-a"), (API_KEY, "canary-b")],
            &[(API_KEY, "canary-client"), (AUTHORIZATION, "Bearer canary-token")],
        ] {
            match run(gateway.authenticate(&header_map(headers), None, policy)) {
                Ok(permit) => shown += &format!("{permit:?}"),
                Err(error) => {
                    shown += &format!("{error:?} {error} {}", String::from_utf8_lossy(&error.to_json("id")));
                }
            }
        }
    }
    assert!(!shown.contains("canary"), "{shown}");
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (any::<bool>(), any::<bool>())
        .prop_map(|(key_required, user_required)| Policy { key_required, user_required })
}

/// Bytes that a header may hold, some of them shaped like tokens.
fn any_credential() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(prop_oneof![0x20u8..0x7f, 0x80u8..=0xff], 0..60),
        "(Bearer |bearer |)[A-Za-z0-9_-]{0,30}\\.[A-Za-z0-9_-]{0,30}\\.[A-Za-z0-9_-]{0,30}"
            .prop_map(String::into_bytes),
        "(Bearer |)gwt_[A-Za-z0-9_-]{43}".prop_map(String::into_bytes),
        ("(HS256|none|RS256|EdDSA)", "[A-Za-z0-9_-]{0,43}").prop_map(|(alg, signature)| {
            let encode = |text: String| base64_turbo::URL_SAFE_NO_PAD.encode(text);
            let header = encode(format!(r#"{{"alg":"{alg}"}}"#));
            let claims = encode(r#"{"sub":"mallory","exp":9999999999}"#.to_owned());
            format!("Bearer {header}.{claims}.{signature}").into_bytes()
        }),
    ]
}

proptest! {
    #[test]
    fn no_made_up_credential_is_ever_accepted(
        headers in proptest::collection::vec((0usize..4, any_credential()), 0..6),
        query in proptest::option::of("[a-z_=&%+.0-9]{0,30}(&api_key=[ -~&&[^#]]{0,9})?(&access_token=[ -~&&[^#]]{0,9})?"),
        policy in any_policy(),
        query_credentials: bool,
    ) {
        let gateway = if query_credentials { with_query() } else { plain() };
        let mut map = HeaderMap::new();
        for (name, value) in &headers {
            let name: HeaderName = [API_KEY, TOKEN, AUTHORIZATION, USER_ID][*name].parse().unwrap();
            map.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        match run(gateway.authenticate(&map, query.as_deref(), policy)) {
            Ok(permit) => {
                prop_assert_eq!(policy, OPEN);
                prop_assert_eq!(permit.access_key_type(), None);
                prop_assert_eq!(permit.user_id(), None);
                prop_assert!(!permit.authorization_is_ours());
            }
            Err(error) => prop_assert!(matches!(error.status().as_u16(), 400 | 401)),
        }
    }

    #[test]
    fn a_token_with_anything_changed_is_refused(position: proptest::sample::Index, to in 0x21u8..0x7f) {
        let gateway = plain();
        let mut token = jwt("alice").into_bytes();
        let position = position.index(token.len());
        prop_assume!(token[position] != to);
        token[position] = to;
        let token = String::from_utf8(token).unwrap();
        prop_assert_eq!(ask(&gateway, &[(API_KEY, "client-1"), (TOKEN, &token)], None, USER), "401 104");
    }
}
