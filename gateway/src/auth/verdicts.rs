//! Tokens that were verified already, so that a client's next request does not cost a signature again.
//!
//! **Why this accepts nothing that verification would not.** Only accepted tokens are kept, so nobody can put anything in who
//! cannot sign. A token is found by its hash behind a key that was drawn when the cache was made and never leaves it: to be
//! taken for another token, one would have to collide with it in 256 bits of a function that its sender cannot compute,
//! and how long a search takes tells nothing about tokens. (What HMAC does beyond that is for hashes that are shown: whoever sees one
//! could lengthen what it is of. Nobody sees these.) No token is kept, so none can be read out of memory.
//! A verdict counts between the token's own `nbf` and `exp` only, and only for the version of the keys that it was made
//! with; it goes with the verifier, which a reload replaces. Opaque tokens, which can be revoked, are never kept here:
//! looking them up is as cheap.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// So many threads rarely want the same shard.
const SHARDS: usize = 16;
/// A shard keeps up to two of these: more than 16,000 verdicts in all, a few megabytes.
const GENERATION: usize = 512;
/// A longer name of a user is verified again each time: what is kept is bounded in bytes too.
const MAX_USER: usize = 256;

/// A bounded set of verdicts.
pub(super) struct Verdicts {
    /// Its key, a whole block, is taken in already; each token goes on from a copy.
    keyed: Sha256,
    shards: [Mutex<Shard>; SHARDS],
}

/// A token as it is found here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Seal([u8; 32]);

/// An accepted token.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    pub(super) user: Arc<str>,
    /// In seconds since 1970: from `from` on, and before `until`.
    pub(super) from: f64,
    pub(super) until: f64,
    /// Of the keys that it was verified with.
    pub(super) version: u64,
}

/// What was asked for lately, and what was before that. The older half goes when the younger one is full.
#[derive(Default)]
struct Shard {
    young: HashMap<Seal, Verdict, RandomState>,
    old: HashMap<Seal, Verdict, RandomState>,
}

impl Verdicts {
    /// # Panics
    /// When the operating system's generator fails, which it does not once the process runs.
    pub(super) fn new() -> Self {
        let mut key = [0; 64];
        getrandom::fill(&mut key)
            .expect("the operating system's generator does not fail once the process runs");
        Self { keyed: Sha256::new_with_prefix(key), shards: Default::default() }
    }

    pub(super) fn seal(&self, token: &str) -> Seal {
        Seal(self.keyed.clone().chain_update(token).finalize().into())
    }

    /// The user of a token that was accepted and still is.
    pub(super) fn user(&self, seal: &Seal, version: u64, now: f64) -> Option<Arc<str>> {
        let mut shard = self.shard(seal).lock();
        let verdict = match shard.young.get(seal) {
            Some(verdict) => verdict,
            None => {
                let verdict = shard.old.remove(seal)?;
                shard.keep(*seal, verdict)
            }
        };
        let counts = verdict.version == version && verdict.from <= now && now < verdict.until;
        counts.then(|| Arc::clone(&verdict.user))
    }

    pub(super) fn keep(&self, seal: Seal, verdict: Verdict) {
        if verdict.user.len() <= MAX_USER {
            self.shard(&seal).lock().keep(seal, verdict);
        }
    }

    fn shard(&self, seal: &Seal) -> &Mutex<Shard> {
        &self.shards[usize::from(seal.0[0]) % SHARDS]
    }
}

impl Shard {
    fn keep(&mut self, seal: Seal, verdict: Verdict) -> &Verdict {
        if self.young.len() >= GENERATION && !self.young.contains_key(&seal) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.entry(seal).insert_entry(verdict).into_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(user: &str) -> Verdict {
        Verdict { user: user.into(), from: 0.0, until: 100.0, version: 1 }
    }

    #[test]
    fn a_verdict_counts_for_its_token_its_time_and_its_keys() {
        let verdicts = Verdicts::new();
        let seal = verdicts.seal("token");
        assert_eq!(verdicts.user(&seal, 1, 50.0), None);
        verdicts.keep(seal, Verdict { from: 10.0, ..verdict("alice") });
        for (token, version, now, user) in [
            ("token", 1, 10.0, Some("alice")),
            ("token", 1, 99.9, Some("alice")),
            ("token", 1, 9.9, None),
            ("token", 1, 100.0, None),
            ("token", 2, 50.0, None),
            ("token2", 1, 50.0, None),
            ("toke", 1, 50.0, None),
        ] {
            let found = verdicts.user(&verdicts.seal(token), version, now);
            assert_eq!(found.as_deref(), user, "{token} {version} {now}");
        }
    }

    #[test]
    fn caches_have_keys_of_their_own() {
        assert_ne!(Verdicts::new().seal("token"), Verdicts::new().seal("token"));
    }

    #[test]
    fn many_tokens_stay_within_the_bound_and_the_latest_are_known() {
        let verdicts = Verdicts::new();
        let seals: Vec<_> = (0..4 * SHARDS * GENERATION).map(|n| verdicts.seal(&n.to_string())).collect();
        for seal in &seals {
            verdicts.keep(*seal, verdict("alice"));
            assert!(verdicts.user(seal, 1, 1.0).is_some());
            // One that is asked for again and again stays.
            assert!(verdicts.user(&seals[0], 1, 1.0).is_some());
        }
        let kept: usize = verdicts
            .shards
            .iter()
            .map(|shard| {
                let shard = shard.lock();
                shard.young.len() + shard.old.len()
            })
            .sum();
        assert!(kept <= 2 * SHARDS * GENERATION, "{kept}");
        assert!(kept >= SHARDS * GENERATION, "{kept}");
    }

    #[test]
    fn a_long_name_is_not_kept() {
        let verdicts = Verdicts::new();
        let seal = verdicts.seal("token");
        verdicts.keep(seal, verdict(&"a".repeat(MAX_USER + 1)));
        assert_eq!(verdicts.user(&seal, 1, 1.0), None);
    }
}
