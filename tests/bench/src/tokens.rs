//! What the clients present: an API key, and access tokens of as many users as there are connections.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use base64_simd::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub(crate) const CLIENT_KEY: &str = "bench-client-key-0123456789abcdef";
pub(crate) const JWT_SECRET: &str = "bench-jwt-secret-0123456789abcdef0123456789abcdef";
const VALID: Duration = Duration::from_secs(24 * 3600);

/// An access token of user number `user`, signed with [`JWT_SECRET`] by HS256.
pub(crate) fn access_token(user: usize) -> anyhow::Result<String> {
    let expires = (SystemTime::now() + VALID).duration_since(UNIX_EPOCH)?.as_secs();
    let head = URL_SAFE_NO_PAD.encode_to_string(br#"{"alg":"HS256","typ":"JWT"}"#);
    let claims = format!(r#"{{"sub":"user-{user}","exp":{expires}}}"#);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode_to_string(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(JWT_SECRET.as_bytes()).context("a key of any length")?;
    mac.update(signed.as_bytes());
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode_to_string(mac.finalize().into_bytes())))
}
