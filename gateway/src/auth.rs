//! Credentials to a permit. Contract section 4.

mod credentials;
mod jwks;
mod jwt;
mod keys;
#[cfg(test)]
mod test_keys;
#[cfg(test)]
mod tests;
mod tokens;
mod verdicts;

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use gearway_protocol::AccessKeyType;
use http::HeaderMap;

use crate::clock;
use crate::config;
use crate::error::Error;

pub use credentials::is_credential_header;
pub use jwt::PublicKeyError;
pub use tokens::{NewTokenError, TokenRecord, TokenTable};

use credentials::Presented;
use jwt::JwtVerifier;
use keys::{AccessKeys, KnownKey};
use tokens::OPAQUE_PREFIX;

/// What a handler asks of its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub key_required: bool,
    pub user_required: bool,
}

/// The proof that a request may be dispatched, and on whose behalf. Only [`Authenticator::authenticate`] gives one, and the log
/// of deliveries keeps what it said.
#[derive(Debug)]
pub struct Permit {
    access_key: Option<KnownKey>,
    user_id: Option<Arc<str>>,
    authorization_is_ours: bool,
}

impl Permit {
    /// The permit of a request that was let in before and kept since: it still speaks for whom it spoke for.
    pub(crate) fn kept(user_id: Option<String>, access_key: Option<AccessKeyType>) -> Self {
        let access_key = access_key.map(|kind| KnownKey { kind, fingerprint: 0 });
        Self { access_key, user_id: user_id.map(Into::into), authorization_is_ours: false }
    }

    /// The kind of the known key that was presented.
    #[must_use]
    pub fn access_key_type(&self) -> Option<AccessKeyType> {
        self.access_key.map(|known| known.kind)
    }

    /// What tells the known key that was presented from others; it is not the key.
    #[must_use]
    pub fn access_key_fingerprint(&self) -> Option<u64> {
        self.access_key.map(|known| known.fingerprint)
    }

    /// The user that a valid token, or the holder of a master key, named. Never empty.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.user_id.as_deref()
    }

    /// As [`user_id`](Self::user_id), for whoever keeps it for longer.
    #[must_use]
    pub fn user(&self) -> Option<Arc<str>> {
        self.user_id.clone()
    }

    /// Whether the `Authorization` header was an accepted access token, which no worker may see. Otherwise the
    /// header is the caller's own business with the handler and passes through untouched.
    #[must_use]
    pub fn authorization_is_ours(&self) -> bool {
        self.authorization_is_ours
    }
}

/// Decides who calls. Its settings never change; the tokens and the issuer's keys are shared with its successors.
pub struct Authenticator {
    keys: AccessKeys,
    user_requires_key: bool,
    query_credentials: bool,
    tokens: TokenTable,
    jwt: Option<JwtVerifier>,
}

/// Why the settings under `[auth]` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthSetupError {
    #[error("auth.jwt.public_key_file: cannot read {}: {source}", path.display())]
    PublicKeyFile { path: PathBuf, source: std::io::Error },
    #[error("auth.jwt.public_key_file: {}: {reason}", path.display())]
    PublicKey { path: PathBuf, reason: PublicKeyError },
    #[error("auth.jwt.secret: give at least one secret, and none that is empty")]
    EmptySecret,
    #[error("auth.client_keys and auth.master_keys share a key: make it one or the other")]
    KeyOfTwoKinds,
}

/// What became of one credential.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict<T> {
    Absent,
    Refused,
    Accepted(T),
}

impl<T> Verdict<T> {
    fn accepted(&self) -> Option<&T> {
        match self {
            Self::Accepted(value) => Some(value),
            Self::Absent | Self::Refused => None,
        }
    }
}

impl Authenticator {
    /// Takes over the issuer's keys from `previous` when both read them from the same URL, so that a reload needs no
    /// answer from the issuer. Inside a tokio runtime, the first fetch of such keys begins at once.
    ///
    /// # Errors
    ///
    /// A public key that cannot be read or used, an empty secret, a key that is both a client's and a master's.
    pub fn new(
        config: &config::Auth,
        tokens: TokenTable,
        previous: Option<&Self>,
    ) -> Result<Self, AuthSetupError> {
        let previous_jwt = previous.and_then(|previous| previous.jwt.as_ref());
        Ok(Self {
            keys: AccessKeys::new(&config.client_keys, &config.master_keys)?,
            user_requires_key: config.user_requires_key,
            query_credentials: config.query_credentials,
            tokens,
            jwt: config.jwt.as_ref().map(|jwt| JwtVerifier::new(jwt, previous_jwt)).transpose()?,
        })
    }

    /// Fetches the issuer's keys when there is a `jwks_url`; returns when they are there or could not be had.
    pub async fn refresh(&self) {
        if let Some(jwt) = &self.jwt {
            jwt.refresh().await;
        }
    }

    /// Lets a request through to a handler of this policy, or tells why not. `query` is what follows the `?`.
    ///
    /// # Errors
    ///
    /// [`Error::BadRequest`] for credentials that contradict each other, whatever the policy;
    /// [`Error::NotAuthenticated`], [`Error::AccessKeyNotAccepted`] and [`Error::AccessTokenNotAccepted`] when the
    /// policy asks for what is absent or not accepted.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        policy: Policy,
    ) -> Result<Permit, Error> {
        let presented = Presented::read(headers, query.filter(|_| self.query_credentials))?;

        let key = match presented.key.as_deref() {
            None => Verdict::Absent,
            Some(key) => self.keys.find(key).map_or(Verdict::Refused, Verdict::Accepted),
        };
        let token = self.check_token(presented.token.as_deref()).await;
        let bearer = if presented.bearer.is_some() && presented.bearer == presented.token.as_deref() {
            token.clone()
        } else {
            self.check_token(presented.bearer).await
        };
        let named = match key.accepted().map(|known| known.kind) {
            Some(AccessKeyType::Master) => credentials::named_user(headers)?,
            Some(AccessKeyType::Client) | None => None,
        };
        let user =
            one_user([named, token.accepted().map(AsRef::as_ref), bearer.accepted().map(AsRef::as_ref)])?;

        if policy.key_required || (policy.user_required && self.user_requires_key) {
            match key {
                Verdict::Absent => {
                    return Err(Error::NotAuthenticated("an API key is required, in X-Skygear-API-Key"));
                }
                Verdict::Refused => return Err(Error::AccessKeyNotAccepted),
                Verdict::Accepted(_) => {}
            }
        }
        if policy.user_required {
            // A bad X-Skygear-Access-Token was meant for the gateway whatever else is there; a bad Authorization
            // may be meant for the handler, and fails only a request that names its user in no other way.
            if token == Verdict::Refused || (user.is_none() && bearer == Verdict::Refused) {
                return Err(Error::AccessTokenNotAccepted);
            }
            if user.is_none() {
                return Err(Error::NotAuthenticated(
                    "an access token is required, in X-Skygear-Access-Token or Authorization: Bearer",
                ));
            }
        }

        let by_token = token.accepted().or_else(|| bearer.accepted()).cloned();
        Ok(Permit {
            access_key: key.accepted().copied(),
            user_id: by_token.or_else(|| user.map(Arc::from)),
            authorization_is_ours: bearer.accepted().is_some(),
        })
    }

    /// The query as handlers, redirects and logs may see it: with `query_credentials` on, `api_key` and
    /// `access_token` are taken out, valid or not; everything else stays byte for byte.
    #[must_use]
    pub fn visible_query<'q>(&self, query: &'q str) -> Cow<'q, str> {
        if self.query_credentials { credentials::without_credentials(query) } else { Cow::Borrowed(query) }
    }

    async fn check_token(&self, token: Option<&[u8]>) -> Verdict<Arc<str>> {
        let Some(token) = token else { return Verdict::Absent };
        let user = match (std::str::from_utf8(token), &self.jwt) {
            (Ok(token), _) if token.starts_with(OPAQUE_PREFIX) => self.tokens.lookup(token).map(Arc::from),
            (Ok(token), Some(jwt)) => jwt.user(token, clock::coarse_time()).await,
            (Ok(_), None) | (Err(_), _) => None,
        };
        user.map_or(Verdict::Refused, Verdict::Accepted)
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("user_requires_key", &self.user_requires_key)
            .field("query_credentials", &self.query_credentials)
            .field("jwt", &self.jwt)
            .finish_non_exhaustive()
    }
}

fn one_user(candidates: [Option<&str>; 3]) -> Result<Option<&str>, Error> {
    let mut named = candidates.into_iter().flatten();
    let first = named.next();
    if named.any(|other| Some(other) != first) {
        return Err(Error::bad_request("the credentials are those of two users"));
    }
    Ok(first)
}
