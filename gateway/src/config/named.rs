//! `[secrets]`: what webhooks are signed with, by name.

use std::collections::BTreeMap;

use super::Secret;

/// Names are told apart by their letters and digits only, so that a variable of the environment, which has neither small
/// letters nor dashes, can stand for any of them: `GEARWAY_SECRETS__STRIPE_LIVE` is `stripe-live`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedSecrets(BTreeMap<String, Named>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    name: String,
    values: Vec<Secret>,
}

impl NamedSecrets {
    /// The secrets of that name, any of which will do: more than one during a rotation, the newest first.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[Secret]> {
        self.0.get(&folded(name)).map(|named| named.values.as_slice())
    }

    /// The names, as they were given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(|named| named.name.as_str())
    }

    /// Takes the place of what had the name before.
    pub fn insert(&mut self, name: &str, values: Vec<Secret>) {
        self.0.insert(folded(name), Named { name: name.to_owned(), values });
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(&folded(name))
    }
}

fn folded(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
}

/// What a name may look like, so that it fits into a variable, a log line and a message.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > 128 || !name.chars().all(known) {
        return Err("is no name for a secret, which is 1 to 128 letters, digits, dashes and underscores");
    }
    Ok(())
}
