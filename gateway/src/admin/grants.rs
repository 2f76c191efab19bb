use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::config::{Admin, RegistrationToken, Secret};
use crate::data_dir::{DataDir, DataDirError};
use crate::registry::Claim;

/// The tokens that the admin listener accepts, and what each is good for. Holds their hashes only.
#[derive(Debug)]
pub struct Grants {
    entries: Vec<(Hash, Grant)>,
    registration_token_file: Option<PathBuf>,
}

/// SHA-256 of a token: of one length whatever the token, so comparing takes one time.
type Hash = [u8; 32];

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Grant {
    /// Everything.
    Operate,
    /// `/v1/workers`, within the scope.
    Register(Arc<Scope>),
}

/// The worker names and paths that a registration token is good for; absent: any.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scope {
    names: Option<Vec<String>>,
    paths: Option<Vec<String>>,
}

impl Grants {
    /// The file in `data_dir` that holds the admin token which was made because none is configured.
    pub const ADMIN_TOKEN_FILE: &str = "admin-token";
    /// The same for the registration token.
    pub const REGISTRATION_TOKEN_FILE: &str = "registration-token";

    /// Takes the configured tokens, and makes and keeps one in `data_dir` for each kind of which none is configured.
    ///
    /// # Errors
    /// When a token cannot be read from `data_dir` or kept there.
    pub fn resolve(config: &Admin, data_dir: &DataDir) -> Result<Self, DataDirError> {
        let mut admin = config.tokens.clone();
        if admin.is_empty() {
            admin.push(data_dir.read_or_make_token(Self::ADMIN_TOKEN_FILE)?.0);
        }
        let mut registration = config.registration_tokens.clone();
        let mut registration_token_file = None;
        if registration.is_empty() {
            let (token, file) = data_dir.read_or_make_token(Self::REGISTRATION_TOKEN_FILE)?;
            registration.push(RegistrationToken { token, names: None, paths: None });
            registration_token_file = Some(file);
        }
        Ok(Self { registration_token_file, ..Self::new(&admin, &registration) })
    }

    /// Exactly these tokens. One that is of both kinds administers.
    #[must_use]
    pub fn new(admin: &[Secret], registration: &[RegistrationToken]) -> Self {
        let operators = admin.iter().map(|token| (hash(token.expose()), Grant::Operate));
        let registrants = registration.iter().map(|entry| {
            let scope = Scope { names: entry.names.clone(), paths: entry.paths.clone() };
            (hash(entry.token.expose()), Grant::Register(Arc::new(scope)))
        });
        Self { entries: operators.chain(registrants).collect(), registration_token_file: None }
    }

    /// Where workers on this machine find a token, when none is configured.
    #[must_use]
    pub fn registration_token_file(&self) -> Option<&Path> {
        self.registration_token_file.as_deref()
    }

    /// Takes as long whichever token it is, or if it is none.
    pub(super) fn find(&self, token: &str) -> Option<&Grant> {
        let presented = hash(token);
        let mut found = u64::MAX;
        for (index, (known, _)) in (0_u64..).zip(&self.entries) {
            let first_match: Choice = known.ct_eq(&presented) & found.ct_eq(&u64::MAX);
            found.conditional_assign(&index, first_match);
        }
        usize::try_from(found).ok().and_then(|index| self.entries.get(index)).map(|(_, grant)| grant)
    }
}

impl Scope {
    pub(super) fn covers_name(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.iter().any(|known| known == name))
    }

    /// The first path of the claim that is outside the scope, as it is routed.
    pub(super) fn outside<'c>(&self, claim: &'c Claim) -> Option<(usize, &'c str)> {
        let paths = self.paths.as_ref()?;
        claim
            .paths()
            .find(|(_, pattern)| !paths.iter().any(|scope| pattern.is_within(scope)))
            .map(|(index, pattern)| (index, pattern.path()))
    }
}

fn hash(token: &str) -> Hash {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(token: &str, names: Option<&[&str]>) -> RegistrationToken {
        let names = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        RegistrationToken { token: Secret::new(token), names, paths: None }
    }

    #[test]
    fn each_token_is_found_with_its_own_grant() {
        let grants = Grants::new(
            &[Secret::new("a1"), Secret::new("a2")],
            &[registration("r1", None), registration("r2", Some(&["billing"]))],
        );
        assert_eq!(grants.find("a1"), Some(&Grant::Operate));
        assert_eq!(grants.find("a2"), Some(&Grant::Operate));
        for wrong in ["", "a", "a11", "A1", "r3"] {
            assert_eq!(grants.find(wrong), None, "{wrong:?}");
        }
        let Some(Grant::Register(any)) = grants.find("r1") else { panic!("r1 registers") };
        assert!(any.covers_name("anything"));
        let Some(Grant::Register(billing)) = grants.find("r2") else { panic!("r2 registers") };
        assert!(billing.covers_name("billing"));
        assert!(!billing.covers_name("Billing"));
    }

    #[test]
    fn a_token_of_both_kinds_administers() {
        let grants = Grants::new(&[Secret::new("x")], &[registration("x", None)]);
        assert_eq!(grants.find("x"), Some(&Grant::Operate));
    }

    #[test]
    fn no_tokens_accept_nothing() {
        assert_eq!(Grants::new(&[], &[]).find(""), None);
    }

    #[test]
    fn debug_output_shows_no_token() {
        let grants = Grants::new(&[Secret::new("canary-a")], &[registration("canary-r", None)]);
        assert!(!format!("{grants:?}").contains("canary"));
    }

    #[test]
    fn missing_tokens_are_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let none = Admin {
            listen: "127.0.0.1:0".parse().unwrap(),
            tokens: Vec::new(),
            registration_tokens: Vec::new(),
        };
        let (first, file) = {
            let data_dir = DataDir::open(dir.path()).unwrap();
            let grants = Grants::resolve(&none, &data_dir).unwrap();
            let token = std::fs::read_to_string(data_dir.path(Grants::ADMIN_TOKEN_FILE)).unwrap();
            assert_eq!(grants.find(token.trim()), Some(&Grant::Operate));
            (token, grants.registration_token_file().map(Path::to_owned))
        };
        let data_dir = DataDir::open(dir.path()).unwrap();
        let again = Grants::resolve(&none, &data_dir).unwrap();
        assert_eq!(again.find(first.trim()), Some(&Grant::Operate));
        let registration = std::fs::read_to_string(file.unwrap()).unwrap();
        assert!(matches!(again.find(registration.trim()), Some(Grant::Register(_))));
    }
}
