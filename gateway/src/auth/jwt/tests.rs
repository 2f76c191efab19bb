use std::io::Write as _;

use jsonwebtoken::EncodingKey;
use serde_json::{Value, json};

use super::*;
use crate::auth::test_keys;
use crate::config::{JwtKeys, Secret};

const NOW: u64 = 1_800_000_000;

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    base64_turbo::URL_SAFE_NO_PAD.encode(bytes)
}

fn signed_text(header: &str, claims: &str, algorithm: Algorithm, key: &EncodingKey) -> String {
    let signed = format!("{}.{}", base64url(header), base64url(claims));
    let signature = crypto::sign(signed.as_bytes(), key, algorithm).unwrap();
    format!("{signed}.{signature}")
}

fn hs256(claims: &Value) -> String {
    hs256_with(json!({"alg": "HS256"}), claims)
}

#[allow(clippy::needless_pass_by_value)]
fn hs256_with(header: Value, claims: &Value) -> String {
    let key = EncodingKey::from_secret(b"secret");
    signed_text(&header.to_string(), &claims.to_string(), Algorithm::HS256, &key)
}

fn claims() -> Value {
    json!({"sub": "alice", "exp": NOW + 60})
}

/// The claims with one of them set, or taken out by `null`... which is why nulls are written as text in the tests.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn verifier(keys: JwtKeys, issuer: Option<&str>, audience: Option<&str>) -> JwtVerifier {
    let config =
        config::Jwt { keys, issuer: issuer.map(str::to_owned), audience: audience.map(str::to_owned) };
    JwtVerifier::new(&config, None).unwrap()
}

fn secrets(secrets: &[&str]) -> JwtKeys {
    JwtKeys::Secrets(secrets.iter().map(|secret| Secret::new(secret)).collect())
}

fn by_secret() -> JwtVerifier {
    verifier(secrets(&["secret"]), None, None)
}

fn key_file(pem: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(pem.as_bytes()).unwrap();
    file
}

fn by_pem(pem: &str) -> JwtVerifier {
    let file = key_file(pem);
    verifier(JwtKeys::PublicKeyFile(file.path().to_owned()), None, None)
}

fn pem_refusal(pem: &str) -> PublicKeyError {
    let file = key_file(pem);
    let config =
        config::Jwt { keys: JwtKeys::PublicKeyFile(file.path().to_owned()), issuer: None, audience: None };
    match JwtVerifier::new(&config, None) {
        Err(AuthSetupError::PublicKey { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

fn user_at(verifier: &JwtVerifier, token: &str, now: f64) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let now = UNIX_EPOCH + Duration::from_secs_f64(now);
    let first = runtime.block_on(verifier.user(token, now));
    assert_eq!(runtime.block_on(verifier.user(token, now)), first, "a token is judged the same again");
    first.map(|user| user.to_string())
}

fn user(verifier: &JwtVerifier, token: &str) -> Option<String> {
    user_at(verifier, token, NOW as f64)
}

fn accepts(verifier: &JwtVerifier, token: &str) -> bool {
    user(verifier, token).is_some()
}

fn private_keys() -> [(Algorithm, EncodingKey, &'static str); 4] {
    use test_keys::*;
    [
        (Algorithm::RS256, EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap(), RSA_PUBLIC),
        (Algorithm::ES256, EncodingKey::from_ec_pem(P256_PRIVATE.as_bytes()).unwrap(), P256_PUBLIC),
        (Algorithm::ES384, EncodingKey::from_ec_pem(P384_PRIVATE.as_bytes()).unwrap(), P384_PUBLIC),
        (Algorithm::EdDSA, EncodingKey::from_ed_pem(ED25519_PRIVATE.as_bytes()).unwrap(), ED25519_PUBLIC),
    ]
}

#[test]
fn the_subject_of_a_good_token_is_the_user() {
    assert_eq!(user(&by_secret(), &hs256(&claims())).as_deref(), Some("alice"));
    // RFC 7515 appendix A.1: made by others.
    let rfc = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let payload = Payload::of(rfc).unwrap();
    assert!(Token::parse(rfc, &payload).is_none(), "it has no subject");
}

#[test]
fn every_secret_of_a_rotation_counts() {
    let rotating = verifier(secrets(&["new", "secret"]), None, None);
    assert!(accepts(&rotating, &hs256(&claims())));
    assert!(!accepts(&verifier(secrets(&["new"]), None, None), &hs256(&claims())));
}

#[test]
fn an_empty_secret_is_no_secret() {
    for keys in [secrets(&[]), secrets(&["a", ""])] {
        let config = config::Jwt { keys, issuer: None, audience: None };
        assert!(matches!(JwtVerifier::new(&config, None), Err(AuthSetupError::EmptySecret)));
    }
}

#[test]
fn each_type_of_public_key_verifies_its_one_algorithm() {
    for (algorithm, private, public) in private_keys() {
        let verifier = by_pem(public);
        for (other, other_private, _) in private_keys() {
            let header = json!({"alg": other, "kid": "any"}).to_string();
            let token = signed_text(&header, &claims().to_string(), other, &other_private);
            assert_eq!(accepts(&verifier, &token), other == algorithm, "{other:?} with {algorithm:?}'s key");
        }
        // Signed properly, but announced as something else.
        for alg in ["none", "None", "", "HS256", "RS512", "PS256"] {
            let header = json!({"alg": alg}).to_string();
            let token = signed_text(&header, &claims().to_string(), algorithm, &private);
            assert!(!accepts(&verifier, &token), "{alg} with {algorithm:?}'s key");
        }
    }
}

#[test]
fn an_rsa_key_from_a_file_verifies_rs256_only() {
    let private = EncodingKey::from_rsa_pem(test_keys::RSA_PRIVATE.as_bytes()).unwrap();
    for algorithm in
        [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512]
    {
        let header = json!({"alg": algorithm}).to_string();
        let token = signed_text(&header, &claims().to_string(), algorithm, &private);
        assert!(!accepts(&by_pem(test_keys::RSA_PUBLIC), &token), "{algorithm:?}");
    }
    let header = json!({"alg": "RS256"}).to_string();
    let token = signed_text(&header, &claims().to_string(), Algorithm::RS256, &private);
    assert!(accepts(&by_pem(test_keys::RSA_PUBLIC_PKCS1), &token), "PKCS#1 is a public key too");
}

#[test]
fn a_public_key_is_no_hmac_secret() {
    for (_, _, public) in private_keys() {
        let verifier = by_pem(public);
        let der: Vec<u8> = {
            let lines: String = public.lines().filter(|line| !line.starts_with('-')).collect();
            base64_turbo::STANDARD.decode(lines).unwrap()
        };
        for secret in [public.as_bytes(), public.trim_end().as_bytes(), &der] {
            let key = EncodingKey::from_secret(secret);
            let header = json!({"alg": "HS256"}).to_string();
            let token = signed_text(&header, &claims().to_string(), Algorithm::HS256, &key);
            assert!(!accepts(&verifier, &token));
        }
    }
}

#[test]
fn hmac_secrets_verify_hs256_only() {
    let key = EncodingKey::from_secret(b"secret");
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let header = json!({"alg": algorithm}).to_string();
        let token = signed_text(&header, &claims().to_string(), algorithm, &key);
        assert!(!accepts(&by_secret(), &token), "{algorithm:?}");
    }
}

#[test]
fn an_unsigned_token_is_refused() {
    let claims = base64url(claims().to_string());
    for alg in ["none", "NONE", "nOnE", "HS256", ""] {
        let header = base64url(json!({"alg": alg}).to_string());
        assert!(!accepts(&by_secret(), &format!("{header}.{claims}.")), "{alg}");
        assert!(!accepts(&by_secret(), &format!("{header}.{claims}")), "{alg}");
    }
}

#[test]
fn a_critical_extension_is_refused_and_pointers_to_keys_are_ignored() {
    for crit in [json!(["b64"]), json!(["exp"]), json!([]), json!(null), json!(1)] {
        let token = hs256_with(json!({"alg": "HS256", "crit": crit, "b64": true}), &claims());
        assert!(!accepts(&by_secret(), &token), "{token}");
    }
    let own_key = json!({"kty": "oct", "k": base64url("secret")});
    let header = json!({
        "alg": "HS256", "typ": "JWT", "jku": "http://127.0.0.1:1/", "x5u": 7, "jwk": own_key, "x5c": ["x"], "kid": "k",
    });
    assert!(accepts(&by_secret(), &hs256_with(header, &claims())));
    // The token brings the key that it was signed with; only the configured one counts.
    let header = json!({"alg": "HS256", "jwk": own_key});
    assert!(!accepts(&verifier(secrets(&["other"]), None, None), &hs256_with(header, &claims())));
}

#[test]
fn claims_of_the_wrong_type_are_refused() {
    for (name, value) in [
        ("sub", json!("")),
        ("sub", json!(7)),
        ("sub", json!(["alice"])),
        ("sub", Value::Null),
        ("exp", json!((NOW + 60).to_string())),
        ("exp", json!("never")),
        ("exp", json!(true)),
        ("exp", json!([NOW + 60])),
        ("exp", json!({})),
        ("exp", Value::Null),
        ("nbf", json!(NOW.to_string())),
        ("nbf", Value::Null),
        ("iat", json!("yesterday")),
        ("iat", Value::Null),
    ] {
        assert!(!accepts(&by_secret(), &hs256(&with(name, value.clone()))), "{name}: {value}");
    }
    for missing in ["sub", "exp"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(missing);
        assert!(!accepts(&by_secret(), &hs256(&claims)), "{missing}");
    }
    assert!(accepts(&by_secret(), &hs256(&with("iat", json!(NOW + 9999)))), "iat decides nothing");
}

#[test]
fn a_claim_given_twice_is_refused() {
    let key = EncodingKey::from_secret(b"secret");
    for claims in [
        format!(r#"{{"sub":"alice","sub":"bob","exp":{}}}"#, NOW + 60),
        format!(r#"{{"sub":"alice","exp":{},"exp":{}}}"#, NOW + 60, NOW + 60),
    ] {
        let token = signed_text(r#"{"alg":"HS256"}"#, &claims, Algorithm::HS256, &key);
        assert!(!accepts(&by_secret(), &token), "{claims}");
    }
    let claims = claims().to_string();
    let token = signed_text(r#"{"alg":"HS256","alg":"HS256"}"#, &claims, Algorithm::HS256, &key);
    assert!(!accepts(&by_secret(), &token));
}

#[test]
fn what_is_no_json_object_is_refused() {
    let key = EncodingKey::from_secret(b"secret");
    let deep = "[".repeat(2000);
    for (header, claims) in [
        (r#"{"alg":"HS256"}"#, ""),
        (r#"{"alg":"HS256"}"#, "null"),
        (r#"{"alg":"HS256"}"#, deep.as_str()),
        ("", r#"{"sub":"alice","exp":1800000060}"#),
        ("[]", r#"{"sub":"alice","exp":1800000060}"#),
        (r#"{"alg":"HS256"} {}"#, r#"{"sub":"alice","exp":1800000060}"#),
        (r#"{"alg":"HS256","kid":7}"#, r#"{"sub":"alice","exp":1800000060}"#),
        (r#"{"alg":"HS256"}"#, r#"{"sub":"alice","exp":1800000060} trailing"#),
        (r#"{"alg":"HS256"}"#, r#"{"sub":"alice","exp":1e999}"#),
    ] {
        let token = signed_text(header, claims, Algorithm::HS256, &key);
        assert!(!accepts(&by_secret(), &token), "{header} {claims}");
    }
}

#[test]
fn a_token_ends_at_exp_without_leeway() {
    for (exp, now, accepted) in [
        (json!(NOW), NOW as f64 - 0.5, true),
        (json!(NOW), NOW as f64, false),
        (json!(NOW), NOW as f64 + 1.0, false),
        (json!(NOW as f64 + 0.5), NOW as f64, true),
        (json!(NOW as f64 + 0.5), NOW as f64 + 0.5, false),
        (json!(-1), NOW as f64, false),
        (json!(0), NOW as f64, false),
        (json!(u64::MAX), NOW as f64, true),
        (json!(1e300), NOW as f64, true),
    ] {
        let token = hs256(&with("exp", exp.clone()));
        assert_eq!(user_at(&by_secret(), &token, now).is_some(), accepted, "{exp} at {now}");
    }
}

#[test]
fn a_token_begins_at_nbf_with_half_a_minute_of_leeway() {
    for (nbf, accepted) in [
        (json!(NOW - 1), true),
        (json!(NOW + 30), true),
        (json!(NOW as f64 + 30.5), false),
        (json!(NOW + 31), false),
        (json!(-5), true),
    ] {
        assert_eq!(accepts(&by_secret(), &hs256(&with("nbf", nbf.clone()))), accepted, "{nbf}");
    }
}

#[test]
fn the_issuer_must_be_the_configured_one() {
    let strict = verifier(secrets(&["secret"]), Some("https://id.example"), None);
    for (issuer, accepted) in [
        (json!("https://id.example"), true),
        (json!("https://id.example/"), false),
        (json!("https://evil.example"), false),
        (json!(["https://id.example"]), false),
        (json!(7), false),
        (Value::Null, false),
    ] {
        assert_eq!(accepts(&strict, &hs256(&with("iss", issuer.clone()))), accepted, "{issuer}");
    }
    assert!(!accepts(&strict, &hs256(&claims())), "no issuer at all");
    assert!(accepts(&by_secret(), &hs256(&with("iss", json!("anybody")))), "none is configured");
}

#[test]
fn the_audience_must_contain_the_configured_one() {
    let strict = verifier(secrets(&["secret"]), None, Some("shop"));
    for (audience, accepted) in [
        (json!("shop"), true),
        (json!(["other", "shop"]), true),
        (json!("sh\u{6f}p"), true),
        (json!("other"), false),
        (json!("shopping"), false),
        (json!([]), false),
        (json!(["shop", 7]), false),
        (json!([["shop"]]), false),
        (json!({"shop": 1}), false),
        (Value::Null, false),
    ] {
        assert_eq!(accepts(&strict, &hs256(&with("aud", audience.clone()))), accepted, "{audience}");
    }
    assert!(!accepts(&strict, &hs256(&claims())), "no audience at all");
    for ignored in [json!("anything"), json!(7), Value::Null] {
        assert!(accepts(&by_secret(), &hs256(&with("aud", ignored))), "none is configured");
    }
}

#[test]
fn a_token_is_refused_unless_every_character_of_it_is_right() {
    let token = hs256(&claims());
    assert!(accepts(&by_secret(), &token));
    for position in 0..token.len() {
        for replacement in ['A', 'B', '-', '_', '=', '.', ' '] {
            let mut changed: Vec<char> = token.chars().collect();
            if changed[position] == replacement {
                continue;
            }
            changed[position] = replacement;
            let changed: String = changed.into_iter().collect();
            assert!(!accepts(&by_secret(), &changed), "{changed}");
        }
        assert!(!accepts(&by_secret(), &token[..position]));
    }
    for changed in [format!("{token}="), format!("{token}."), format!(".{token}"), format!("{token}A")] {
        assert!(!accepts(&by_secret(), &changed), "{changed}");
    }
}

#[test]
fn an_oversized_token_is_refused_though_it_is_signed() {
    let padded = |length: usize| hs256(&with("pad", json!("x".repeat(length))));
    let fitting = padded(5900);
    assert!(fitting.len() <= MAX_TOKEN, "{}", fitting.len());
    assert!(accepts(&by_secret(), &fitting));
    let oversized = padded(6200);
    assert!(oversized.len() > MAX_TOKEN, "{}", oversized.len());
    assert!(!accepts(&by_secret(), &oversized));
}

#[test]
fn a_key_file_that_is_of_no_use_says_why() {
    use test_keys::*;
    assert!(matches!(pem_refusal(RSA_PRIVATE), PublicKeyError::Private));
    assert!(matches!(pem_refusal(P256_PRIVATE), PublicKeyError::Private));
    assert!(matches!(pem_refusal(&format!("{RSA_PUBLIC}{P256_PUBLIC}")), PublicKeyError::Several));
    assert!(matches!(pem_refusal(RSA_1024_PUBLIC), PublicKeyError::ShortRsa));
    assert!(matches!(pem_refusal(P521_PUBLIC), PublicKeyError::Unsupported));
    assert!(matches!(pem_refusal(""), PublicKeyError::Unsupported));
    assert!(matches!(pem_refusal("secret"), PublicKeyError::Unsupported));
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(pem_refusal(certificate), PublicKeyError::Certificate));

    let absent = tempfile::tempdir().unwrap().path().join("absent.pem");
    let config = config::Jwt { keys: JwtKeys::PublicKeyFile(absent), issuer: None, audience: None };
    let error = JwtVerifier::new(&config, None).unwrap_err().to_string();
    assert!(error.contains("auth.jwt.public_key_file") && error.contains("absent.pem"), "{error}");
}

#[test]
fn a_jwk_is_for_the_algorithm_of_its_type() {
    let rsa = |extra: Value| merged(jwk_of(test_keys::RSA_PUBLIC, Algorithm::RS256), &extra);
    let p256 = |extra: Value| merged(jwk_of(test_keys::P256_PUBLIC, Algorithm::ES256), &extra);
    let ed = |extra: Value| merged(jwk_of(test_keys::ED25519_PUBLIC, Algorithm::EdDSA), &extra);
    for (jwk, algorithm) in [
        (rsa(json!({})), Some(Algorithm::RS256)),
        (rsa(json!({"alg": "RS512"})), Some(Algorithm::RS512)),
        (rsa(json!({"alg": "PS256"})), Some(Algorithm::PS256)),
        (rsa(json!({"alg": "HS256"})), None),
        (rsa(json!({"alg": "ES256"})), None),
        (rsa(json!({"alg": "RSA-OAEP"})), None),
        (rsa(json!({"alg": "of-tomorrow"})), None),
        (rsa(json!({"use": "sig"})), Some(Algorithm::RS256)),
        (rsa(json!({"use": "enc"})), None),
        (rsa(json!({"key_ops": ["verify"]})), Some(Algorithm::RS256)),
        (rsa(json!({"key_ops": ["encrypt"]})), None),
        (p256(json!({})), Some(Algorithm::ES256)),
        (p256(json!({"alg": "ES256"})), Some(Algorithm::ES256)),
        (p256(json!({"alg": "ES384"})), None),
        (p256(json!({"alg": "HS256"})), None),
        (ed(json!({})), Some(Algorithm::EdDSA)),
        (ed(json!({"crv": "P-256"})), None),
        (json!({"kty": "oct", "k": base64url("secret")}), None),
        (json!({"kty": "oct", "k": base64url("secret"), "alg": "RS256"}), None),
        (json!({"kty": "of-tomorrow"}), None),
    ] {
        let parsed: Option<Jwk> = serde_json::from_value(jwk.clone()).ok();
        let found = parsed.and_then(|jwk| VerifyingKey::from_jwk(&jwk)).map(|key| key.algorithm);
        assert_eq!(found, algorithm, "{jwk}");
    }
}

fn jwk_of(pem: &str, algorithm: Algorithm) -> Value {
    let key = VerifyingKey::from_pem(pem.as_bytes()).unwrap();
    assert_eq!(key.algorithm, algorithm);
    let Key::Public(key) = &key.key else { panic!("a secret") };
    serde_json::to_value(Jwk::from_decoding_key(key, None).unwrap()).unwrap()
}

fn merged(mut jwk: Value, extra: &Value) -> Value {
    for (name, value) in extra.as_object().unwrap() {
        jwk[name] = value.clone();
    }
    jwk
}

#[test]
fn debug_output_shows_no_secret() {
    let shown = format!("{:?}", verifier(secrets(&["canary-secret"]), Some("issuer"), None));
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn a_token_that_was_accepted_counts_within_its_time_only() {
    let gateway = by_secret();
    let token = hs256(&with("nbf", json!(NOW - 100)));
    let now = NOW as f64;
    for (at, counts) in
        [(now, true), (now + 59.9, true), (now + 60.0, false), (now - 129.0, true), (now - 131.0, false)]
    {
        assert_eq!(user_at(&gateway, &token, at).is_some(), counts, "{}", at - now);
    }
}

#[test]
fn a_token_that_was_accepted_cannot_be_changed() {
    let gateway = by_secret();
    let token = hs256(&claims());
    assert!(accepts(&gateway, &token));
    for place in 0..token.len() {
        let mut other = token.clone().into_bytes();
        other[place] = if other[place] == b'A' { b'B' } else { b'A' };
        assert!(!accepts(&gateway, std::str::from_utf8(&other).unwrap()), "{place}");
    }
    assert!(!accepts(&gateway, &token[..token.len() - 1]));
    assert!(!accepts(&gateway, &format!("{token}A")));
}
