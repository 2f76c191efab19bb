//! Opaque access tokens, made by `gearway tokens create` and known to the gateway by their hashes only.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use sha2::{Digest, Sha256};

use crate::config::Secret;
pub use crate::store::TokenRecord;

/// What every opaque token starts with. No JWT does, for a JWT starts with the base64 of `{`.
pub(super) const OPAQUE_PREFIX: &str = "gwt_";

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum NewTokenError {
    #[error("the user is empty: a token stands for somebody")]
    NoUser,
    #[error("the ttl is longer than the calendar: give a shorter one, or none for a token that stays")]
    TtlTooLong,
    #[error("the system gives no random bytes: {0}")]
    NoRandomness(#[from] getrandom::Error),
}

/// The opaque tokens that count. Clones share one table.
#[derive(Clone, Default)]
pub struct TokenTable {
    by_hash: Arc<DashMap<[u8; 32], TokenRecord>>,
}

impl TokenTable {
    #[must_use]
    pub fn restore(records: Vec<TokenRecord>) -> Self {
        let table = Self::default();
        for record in records {
            table.insert(record);
        }
        table
    }

    /// Makes a token without putting it into the table: the record is to be stored before the token counts. The
    /// text, `gwt_` and 43 characters of base64url for 256 random bits, exists nowhere else.
    ///
    /// # Errors
    ///
    /// An empty user, a `ttl` beyond what the clock can express, no randomness.
    pub fn create(user: &str, ttl: Option<Duration>) -> Result<(Secret, TokenRecord), NewTokenError> {
        if user.is_empty() {
            return Err(NewTokenError::NoUser);
        }
        let created_at = SystemTime::now();
        let expires_at =
            ttl.map(|ttl| created_at.checked_add(ttl).ok_or(NewTokenError::TtlTooLong)).transpose()?;

        let mut random = [0; 32];
        getrandom::fill(&mut random)?;
        let token = format!("{OPAQUE_PREFIX}{}", base64_turbo::URL_SAFE_NO_PAD.encode(random));
        let mut id = [0; 8];
        getrandom::fill(&mut id)?;

        let record = TokenRecord {
            id: format!("{:016x}", u64::from_be_bytes(id)),
            hash: hash(&token),
            user: user.to_owned(),
            created_at,
            expires_at,
        };
        Ok((Secret::new(&token), record))
    }

    pub fn insert(&self, record: TokenRecord) {
        self.by_hash.insert(record.hash, record);
    }

    /// The user of a token that is known and has not expired.
    #[must_use]
    pub fn lookup(&self, token: &str) -> Option<String> {
        self.lookup_at(token, SystemTime::now())
    }

    /// Every token, the expired ones too, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<TokenRecord> {
        let mut records: Vec<TokenRecord> = self.by_hash.iter().map(|entry| entry.value().clone()).collect();
        records.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        records
    }

    /// Takes a token out of the table; it counts for no request that comes after.
    #[must_use = "nothing was removed if no token has this id"]
    pub fn remove(&self, id: &str) -> Option<TokenRecord> {
        let hash = self.by_hash.iter().find(|entry| entry.id == id).map(|entry| *entry.key())?;
        self.by_hash.remove(&hash).map(|(_, record)| record)
    }

    fn lookup_at(&self, token: &str, now: SystemTime) -> Option<String> {
        let record = self.by_hash.get(&hash(token))?;
        record.expires_at.is_none_or(|expires_at| now < expires_at).then(|| record.user.clone())
    }
}

impl fmt::Debug for TokenTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenTable").field("tokens", &self.by_hash.len()).finish()
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_prefix_and_256_random_bits() {
        let (first, record) = TokenTable::create("alice", None).unwrap();
        let (second, other) = TokenTable::create("alice", None).unwrap();
        let random = first.expose().strip_prefix("gwt_").unwrap();
        assert_eq!(random.len(), 43);
        assert_eq!(base64_turbo::URL_SAFE_NO_PAD.decode(random).unwrap().len(), 32);
        assert_ne!(first, second);
        assert_ne!(record.id, other.id);
        assert!(!first.expose().contains(&record.id));
    }

    #[test]
    fn a_token_counts_once_inserted_and_until_removed() {
        let table = TokenTable::default();
        let (token, record) = TokenTable::create("alice", None).unwrap();
        assert_eq!(table.lookup(token.expose()), None);
        let shared = table.clone();
        shared.insert(record.clone());
        assert_eq!(table.lookup(token.expose()).as_deref(), Some("alice"));
        assert_eq!(table.list(), std::slice::from_ref(&record));
        assert_eq!(table.remove("0000"), None);
        assert_eq!(table.remove(&record.id), Some(record));
        assert_eq!(shared.lookup(token.expose()), None);
    }

    #[test]
    fn a_restored_table_knows_its_tokens() {
        let (token, record) = TokenTable::create("alice", Some(Duration::from_secs(3600))).unwrap();
        let table = TokenTable::restore(vec![record]);
        assert_eq!(table.lookup(token.expose()).as_deref(), Some("alice"));
    }

    #[test]
    fn a_token_ends_at_its_expiry() {
        let (token, record) = TokenTable::create("alice", Some(Duration::from_secs(60))).unwrap();
        let created = record.created_at;
        let table = TokenTable::restore(vec![record]);
        let at = |seconds| table.lookup_at(token.expose(), created + Duration::from_secs(seconds));
        assert_eq!(at(59).as_deref(), Some("alice"));
        assert_eq!(at(60), None);
    }

    #[test]
    fn what_makes_no_sense_makes_no_token() {
        assert!(matches!(TokenTable::create("", None), Err(NewTokenError::NoUser)));
        assert!(matches!(TokenTable::create("a", Some(Duration::MAX)), Err(NewTokenError::TtlTooLong)));
    }

    #[test]
    fn debug_output_shows_neither_token_nor_hash() {
        let (token, record) = TokenTable::create("alice", None).unwrap();
        let table = TokenTable::restore(vec![record.clone()]);
        let shown = format!("{token:?} {record:?} {table:?}");
        assert!(!shown.contains(token.expose()));
        assert!(!shown.contains("hash"), "{shown}");
    }
}
