//! Access tokens, against the rules written down once more. The input is lines: how to sign, the header, the claims.
#![no_main]

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use gearway::auth::{Authenticator, Policy, TokenTable};
use gearway::config::{Auth, Jwt, JwtKeys, Secret};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sha2::Sha256;

const KEYS: [&str; 2] = ["the new secret of the issuer", "the old secret of the issuer"];
const ISSUER: &str = "issuer";
const AUDIENCE: &str = "audience";
/// At most this much may a token be early.
const SKEW: f64 = 60.0;

static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| {
    let auth = Auth {
        client_keys: vec![Secret::new("client-key")],
        master_keys: vec![Secret::new("master-key")],
        user_requires_key: false,
        query_credentials: true,
        jwt: Some(Jwt {
            keys: JwtKeys::Secrets(KEYS.map(Secret::new).into()),
            issuer: Some(ISSUER.into()),
            audience: Some(AUDIENCE.into()),
        }),
    };
    Authenticator::new(&auth, TokenTable::default(), None).expect("good settings")
});

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let [how, header, claims] = [(); 3].map(|()| lines.next().unwrap_or_default());
    let signed = format!("{}.{}", base64url(header), base64url(claims));
    let (token, key) = match how {
        [b'r', token @ ..] => (String::from_utf8_lossy(token).into_owned(), None),
        [b'n', ..] => (format!("{signed}."), None),
        [b'0' | b'1', rest @ ..] => {
            let key = usize::from(how[0] - b'0');
            let signature = base64url(&sign(KEYS[key], &signed));
            (
                format!("{signed}.{signature}{}", String::from_utf8_lossy(rest)),
                rest.trim_ascii().is_empty().then_some(key),
            )
        }
        other => (format!("{signed}.{}", base64url(&sign(&String::from_utf8_lossy(other), &signed))), None),
    };
    let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}")) else { return };
    let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
    let policy = Policy { key_required: false, user_required: false };
    let permit =
        AUTHENTICATOR.authenticate(&headers, None, policy).now_or_never().expect("pinned keys are at hand");
    let Ok(permit) = permit else { return };
    let Some(user) = permit.user_id() else { return };

    assert!(permit.authorization_is_ours());
    // A token that was given whole may be one that the fuzzer found in the corpus.
    if key.is_none() && !how.starts_with(b"r") {
        panic!("accepted without a signature of the issuer: {token}");
    }
    if key.is_some() {
        check(user, header, claims);
    }
});

fn check(user: &str, header: &[u8], claims: &[u8]) {
    // Fields that nobody reads may hold what is no text.
    let Ok(header) = serde_json::from_slice::<Value>(header) else { return };
    assert_eq!(header["alg"], "HS256", "{header}");
    assert_eq!(header.get("crit"), None, "{header}");
    let Ok(claims) = serde_json::from_slice::<Value>(claims) else { return };
    assert!(!user.is_empty() && claims["sub"] == user, "{claims}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let exp = claims["exp"].as_f64().expect("exp is a number");
    assert!(exp > now - SKEW, "{claims}");
    match claims.get("nbf") {
        None => {}
        Some(nbf) => assert!(nbf.as_f64().is_some_and(|nbf| nbf <= now + SKEW), "{claims}"),
    }
    assert_eq!(claims["iss"], ISSUER, "{claims}");
    let audience = &claims["aud"];
    let several = audience.as_array().is_some_and(|list| list.iter().any(|one| one == AUDIENCE));
    assert!(audience == AUDIENCE || several, "{claims}");
}

fn sign(key: &str, signed: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("keys of any length");
    mac.update(signed.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn base64url(bytes: &[u8]) -> String {
    let text = gearway_protocol::Base64Body::encode(bytes);
    text.trim_end_matches('=').replace('+', "-").replace('/', "_")
}
