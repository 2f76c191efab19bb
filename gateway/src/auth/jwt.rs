//! JSON Web Tokens: whose key signed one, and whether its claims hold now. RFC 7515, 7519 and 8725.
//!
//! The algorithm belongs to the key; a token only gets to agree. Nothing that a token points to (`jku`, `x5u`) or
//! brings along (`jwk`, `x5c`) is looked at.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, crypto};
use serde::de::{self, IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use sha2::Sha256;

use super::AuthSetupError;
use super::jwks::IssuerKeys;
use super::verdicts::{Seal, Verdict, Verdicts};
use crate::config;

/// Longer tokens are refused unread.
const MAX_TOKEN: usize = 8 * 1024;
/// How far the issuer's clock may be ahead.
const NOT_BEFORE_LEEWAY: Duration = Duration::from_secs(30);
/// The shortest RSA modulus that verification accepts.
const MIN_RSA_BYTES: usize = 2048 / 8;

pub(super) struct JwtVerifier {
    keys: Keys,
    issuer: Option<String>,
    audience: Option<String>,
    verdicts: Verdicts,
}

enum Keys {
    /// From the configuration, whatever `kid` a token names.
    Pinned(Vec<VerifyingKey>),
    /// From the issuer.
    Issuer(Arc<IssuerKeys>),
}

/// A key and the one algorithm that it verifies.
pub(super) struct VerifyingKey {
    pub(super) kid: Option<String>,
    algorithm: Algorithm,
    key: Key,
}

enum Key {
    /// With the secret taken in already; each token goes on from a copy.
    Secret(Hmac<Sha256>),
    Public(DecodingKey),
}

/// Why a public key file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PublicKeyError {
    #[error("this is a private key, which the gateway must not have: give the public one")]
    Private,
    #[error("this is a certificate: give the public key in it (openssl x509 -pubkey)")]
    Certificate,
    #[error("there is more than one key in it: give one, or a jwks_url to rotate keys")]
    Several,
    #[error("the RSA key is shorter than 2048 bits")]
    ShortRsa,
    #[error("this is no PEM public key of RSA, EC P-256, EC P-384 or Ed25519")]
    Unsupported,
}

impl JwtVerifier {
    pub(super) fn new(config: &config::Jwt, previous: Option<&Self>) -> Result<Self, AuthSetupError> {
        let keys = match &config.keys {
            config::JwtKeys::Secrets(secrets) => {
                if secrets.is_empty() || secrets.iter().any(|secret| secret.expose().is_empty()) {
                    return Err(AuthSetupError::EmptySecret);
                }
                Keys::Pinned(
                    secrets.iter().map(|secret| VerifyingKey::from_secret(secret.expose())).collect(),
                )
            }
            config::JwtKeys::PublicKeyFile(path) => {
                let pem = std::fs::read(path)
                    .map_err(|source| AuthSetupError::PublicKeyFile { path: path.clone(), source })?;
                let key = VerifyingKey::from_pem(&pem)
                    .map_err(|reason| AuthSetupError::PublicKey { path: path.clone(), reason })?;
                Keys::Pinned(vec![key])
            }
            config::JwtKeys::JwksUrl(url) => {
                let known = previous.and_then(|previous| match &previous.keys {
                    Keys::Issuer(keys) if keys.url() == url => Some(Arc::clone(keys)),
                    Keys::Issuer(_) | Keys::Pinned(_) => None,
                });
                Keys::Issuer(known.unwrap_or_else(|| IssuerKeys::of(url.clone())))
            }
        };
        Ok(Self {
            keys,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            verdicts: Verdicts::new(),
        })
    }

    pub(super) async fn refresh(&self) {
        match &self.keys {
            Keys::Pinned(_) => {}
            Keys::Issuer(keys) => keys.refresh().await,
        }
    }

    /// The token's subject, if everything about the token is in order.
    pub(super) async fn user(&self, token: &str, now: SystemTime) -> Option<Arc<str>> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let seconds = now.duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        let seal = self.verdicts.seal(token);
        // Read before verifying: newer keys can only make the verdict one that is not found again.
        let version = match &self.keys {
            Keys::Pinned(_) => Some(0),
            Keys::Issuer(keys) => keys.version(),
        };
        if let Some(version) = version
            && let Some(user) = self.verdicts.user(&seal, version, seconds)
        {
            return Some(user);
        }
        // The claims cost less than the signature, and a token that they rule out, such as another issuer's on a
        // webhook, must not make the gateway ask its own issuer for keys.
        let payload = Payload::of(token)?;
        let token = Token::parse(token, &payload).filter(|token| self.claims_hold(&token.claims, now))?;
        let signed = match &self.keys {
            Keys::Pinned(keys) => keys.iter().any(|key| key.signed(&token)),
            Keys::Issuer(_) if token.algorithm.family() == AlgorithmFamily::Hmac => false,
            // In a box of its own: most tokens are known, and their requests do not pay for its size.
            Keys::Issuer(keys) => Box::pin(keys.any(token.kid.as_deref(), |key| key.signed(&token))).await,
        };
        signed.then(|| self.keep(&token.claims, seal, version))
    }

    /// The user of a token that was verified, and is known from now on.
    fn keep(&self, claims: &Claims<'_>, seal: Seal, version: Option<u64>) -> Arc<str> {
        let Claims { sub, exp, nbf, .. } = claims;
        let user: Arc<str> = Arc::from(&**sub);
        if let Some(version) = version {
            let from = nbf.map_or(0.0, |nbf| nbf.0 - NOT_BEFORE_LEEWAY.as_secs_f64());
            self.verdicts.keep(seal, Verdict { user: Arc::clone(&user), from, until: exp.0, version });
        }
        user
    }

    fn claims_hold(&self, claims: &Claims<'_>, now: SystemTime) -> bool {
        let Ok(now) = now.duration_since(UNIX_EPOCH) else { return false };
        let matures = (now + NOT_BEFORE_LEEWAY).as_secs_f64();
        let issuer = claims.iss.map(RawValue::get);
        let audience = claims.aud.map(RawValue::get);
        !claims.sub.is_empty()
            && now.as_secs_f64() < claims.exp.0
            && claims.nbf.is_none_or(|nbf| nbf.0 <= matures)
            && self.issuer.as_ref().is_none_or(|wanted| issuer.is_some_and(|issuer| is_text(issuer, wanted)))
            && self.audience.as_ref().is_none_or(|wanted| audience.is_some_and(|aud| includes(aud, wanted)))
    }
}

impl fmt::Debug for JwtVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtVerifier")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

impl VerifyingKey {
    /// # Panics
    /// Never: an HMAC takes a key of any length.
    fn from_secret(secret: &str) -> Self {
        let mac = Hmac::new_from_slice(secret.as_bytes()).expect("an HMAC takes a key of any length");
        Self { kid: None, algorithm: Algorithm::HS256, key: Key::Secret(mac) }
    }

    fn from_pem(pem: &[u8]) -> Result<Self, PublicKeyError> {
        let text = String::from_utf8_lossy(pem);
        if text.contains("PRIVATE KEY-----") {
            return Err(PublicKeyError::Private);
        }
        if text.contains("-----BEGIN CERTIFICATE") {
            return Err(PublicKeyError::Certificate);
        }
        if text.matches("-----BEGIN ").count() > 1 {
            return Err(PublicKeyError::Several);
        }
        let key = DecodingKey::from_rsa_pem(pem)
            .or_else(|_| DecodingKey::from_ec_pem(pem))
            .or_else(|_| DecodingKey::from_ed_pem(pem))
            .map_err(|_| PublicKeyError::Unsupported)?;
        let jwk = Jwk::from_decoding_key(&key, None).map_err(|_| PublicKeyError::Unsupported)?;
        if let AlgorithmParameters::RSA(rsa) = &jwk.algorithm {
            let modulus = decode(&rsa.n).ok_or(PublicKeyError::Unsupported)?;
            if modulus.len() < MIN_RSA_BYTES {
                return Err(PublicKeyError::ShortRsa);
            }
        }
        let algorithm = algorithm_of(&jwk).ok_or(PublicKeyError::Unsupported)?;
        Ok(Self { kid: None, algorithm, key: Key::Public(key) })
    }

    /// Absent for a key that is not for signatures, is no public key, or is of a kind that is not supported.
    pub(super) fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let for_signatures = match &jwk.common.public_key_use {
            None | Some(PublicKeyUse::Signature) => true,
            Some(PublicKeyUse::Encryption | PublicKeyUse::Other(_)) => false,
        };
        let verifies = jwk
            .common
            .key_operations
            .as_ref()
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if !for_signatures || !verifies {
            return None;
        }
        let algorithm = algorithm_of(jwk)?;
        let key = Key::Public(DecodingKey::from_jwk(jwk).ok()?);
        Some(Self { kid: jwk.common.key_id.clone(), algorithm, key })
    }

    fn signed(&self, token: &Token<'_>) -> bool {
        let signed = token.signed.as_bytes();
        token.algorithm == self.algorithm
            && match &self.key {
                Key::Secret(mac) => decode(token.signature).is_some_and(|signature| {
                    mac.clone().chain_update(signed).verify_slice(&signature).is_ok()
                }),
                Key::Public(key) => {
                    crypto::verify(token.signature, signed, key, self.algorithm).unwrap_or(false)
                }
            }
    }
}

/// The algorithm that a public key's type pins. An RSA key may be for any RSA algorithm that its `alg` names;
/// without one it is for RS256. RFC 7518 section 6.
fn algorithm_of(jwk: &Jwk) -> Option<Algorithm> {
    let named = match jwk.common.key_algorithm {
        None => None,
        Some(named) => Some(Algorithm::try_from(named).ok()?),
    };
    let by_type = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => match named {
            Some(named) if named.family() == AlgorithmFamily::Rsa => named,
            Some(_) | None => Algorithm::RS256,
        },
        AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
            EllipticCurve::P256 => Algorithm::ES256,
            EllipticCurve::P384 => Algorithm::ES384,
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    named.is_none_or(|named| named == by_type).then_some(by_type)
}

/// What a token's header and claims decode to.
struct Payload {
    header: Vec<u8>,
    claims: Vec<u8>,
}

impl Payload {
    fn of(token: &str) -> Option<Self> {
        let (header, rest) = token.split_once('.')?;
        let (claims, _) = rest.split_once('.')?;
        Some(Self { header: decode(header)?, claims: decode(claims)? })
    }
}

/// A well-formed token about whose truth nothing is known yet.
struct Token<'t> {
    algorithm: Algorithm,
    kid: Option<Cow<'t, str>>,
    claims: Claims<'t>,
    /// The part of the token that the signature covers.
    signed: &'t str,
    signature: &'t str,
}

impl<'t> Token<'t> {
    fn parse(token: &'t str, payload: &'t Payload) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        // Three parts, and neither more nor fewer.
        if signed.bytes().filter(|&byte| byte == b'.').count() != 1 {
            return None;
        }
        let header: Header<'t> = serde_json::from_slice(&payload.header).ok()?;
        // RFC 7515 section 4.1.11: what is critical and not understood invalidates the token, and no extension
        // is understood here.
        if header.crit {
            return None;
        }
        let algorithm = Algorithm::from_str(&header.alg).ok()?;
        let claims = serde_json::from_slice(&payload.claims).ok()?;
        Some(Self { algorithm, kid: header.kid.map(|Text(kid)| kid), claims, signed, signature })
    }
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "given")]
    kid: Option<Text<'a>>,
    #[serde(default, deserialize_with = "is_given")]
    crit: bool,
}

/// Registered claims of the wrong type make the whole token unreadable; those that no setting asks for are kept raw
/// so that they cannot.
#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow)]
    sub: Cow<'a, str>,
    exp: NumericDate,
    #[serde(default, deserialize_with = "given")]
    nbf: Option<NumericDate>,
    #[serde(default, rename = "iat", deserialize_with = "given")]
    _iat: Option<NumericDate>,
    #[serde(borrow, default)]
    iss: Option<&'a RawValue>,
    #[serde(borrow, default)]
    aud: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Seconds since 1970, with or without a fraction. RFC 7519 section 2.
#[derive(Clone, Copy)]
struct NumericDate(f64);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = NumericDate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds")
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<NumericDate, E> {
                Ok(NumericDate(seconds as f64))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<NumericDate, E> {
                Ok(NumericDate(seconds as f64))
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<NumericDate, E> {
                Ok(NumericDate(seconds))
            }
        }

        // Not `deserialize_f64`, so that what is not a number in the JSON is none here either.
        deserializer.deserialize_any(Number)
    }
}

/// Unlike a plain `Option`, refuses `null`: a member is given properly or not at all.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn is_given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

fn is_text(json: &str, wanted: &str) -> bool {
    serde_json::from_str::<Cow<'_, str>>(json).is_ok_and(|text| text == wanted)
}

/// RFC 7519 section 4.1.3: one audience, or a list of them.
fn includes(json: &str, wanted: &str) -> bool {
    is_text(json, wanted)
        || serde_json::from_str::<Vec<String>>(json).is_ok_and(|list| list.iter().any(|text| text == wanted))
}

fn decode(base64url: &str) -> Option<Vec<u8>> {
    base64_turbo::URL_SAFE_NO_PAD.decode(base64url).ok()
}

#[cfg(test)]
mod tests;
