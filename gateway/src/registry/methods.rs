use std::fmt;

use http::Method;

static ALL: [Method; 7] =
    [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::HEAD, Method::OPTIONS];

/// A set of the methods that handlers may have (contract section 3), in a byte: there may be a million handlers.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Methods(u8);

impl Methods {
    /// The method of this name, if the contract has it.
    pub(super) fn known(name: &str) -> Option<&'static Method> {
        ALL.iter().find(|method| method.as_str() == name)
    }

    /// Whether the contract has the method, which is in the set then.
    #[must_use]
    pub(super) fn add(&mut self, name: &str) -> bool {
        let place = ALL.iter().position(|method| method.as_str() == name);
        self.0 |= place.map_or(0, |place| 1 << place);
        place.is_some()
    }

    pub(super) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(super) fn iter(self) -> impl Iterator<Item = &'static Method> {
        ALL.iter().enumerate().filter(move |(place, _)| self.0 & (1 << place) != 0).map(|(_, method)| method)
    }
}

impl fmt::Debug for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
