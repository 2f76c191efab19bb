//! A target's path and a table of routes, against a matcher that tries every pattern. The input is handlers' names, one a
//! line, an empty line, and the path.
#![no_main]

use std::collections::HashMap;

use gearway::path::{CanonicalPath, Target, canonicalise};
use gearway::route::{Braces, Found, Pattern, RouteTable};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (names, raw) = text.split_once("\n\n").unwrap_or(("", text));
    let path = match canonicalise(raw) {
        Ok(Target::Path(path)) => path,
        Ok(Target::Redirect(location)) => {
            assert!(location.starts_with('/') && !location.starts_with("//"), "{location}");
            match canonicalise(&location) {
                Ok(Target::Path(path)) => path.into_owned(),
                other => panic!("{raw:?} leads to {location:?}, which is {other:?}"),
            }
        }
        Err(_) => return,
    };
    check_canonical(&path);
    for braces in [Braces::Param, Braces::Literal] {
        check_match(names, &path, braces);
    }
});

fn check_canonical(path: &CanonicalPath<'_>) {
    let text = path.as_str();
    assert!(text.starts_with('/') && !text.contains("//") && !text.contains(['\\', '\0']), "{text:?}");
    assert!(!text.split('/').any(|segment| matches!(segment, "." | "..")), "{text:?}");
    let again = path.encoded();
    assert_eq!(canonicalise(&again), Ok(Target::Path(path.clone().into_owned())), "{again:?}");
    let decoded = percent_encoding::percent_decode_str(&again).decode_utf8();
    assert_eq!(decoded.ok().as_deref(), Some(text), "{again:?}");
}

/// A pattern, read in the plainest way.
struct Naive {
    segments: Vec<Option<String>>,
    subtree: bool,
}

impl Naive {
    /// Only for names that [`Pattern::parse`] has accepted.
    fn read(name: &str, braces: Braces) -> Self {
        let name = name.replace(':', "/");
        let path = name.strip_prefix('/').unwrap_or(&name);
        let (path, subtree) = match path.strip_suffix('/') {
            Some(path) => (path, true),
            None => (path, path.is_empty()),
        };
        let segments = path.split('/').filter(|segment| !segment.is_empty());
        let segments = segments
            .map(|segment| match braces {
                Braces::Param if segment.starts_with('{') => None,
                _ => Some(segment.to_owned()),
            })
            .collect();
        Self { segments, subtree }
    }

    /// How it matches, as what sorts first if it is the better match: at each segment a literal (0) before a parameter (1) before
    /// the end of a subtree (2).
    fn rank(&self, path: &[&str], slash: bool) -> Option<Vec<u8>> {
        let fits = match self.subtree {
            true => path.len() > self.segments.len() || (path.len() == self.segments.len() && slash),
            false => path.len() == self.segments.len() && !slash,
        };
        let alike = |(own, other): (&Option<String>, &&str)| own.as_deref().is_none_or(|own| own == *other);
        if !fits || !self.segments.iter().zip(path).all(alike) {
            return None;
        }
        let kinds = self.segments.iter().map(|segment| u8::from(segment.is_none()));
        Some(kinds.chain(self.subtree.then_some(2)).collect())
    }
}

fn check_match(names: &str, path: &CanonicalPath<'_>, braces: Braces) {
    let mut patterns = HashMap::new();
    for name in names.lines().take(40) {
        if let Ok(pattern) = Pattern::parse(name, braces) {
            patterns.insert(pattern.shape(), Naive::read(name, braces));
        }
    }
    let (shapes, naive): (Vec<_>, Vec<_>) = patterns.into_iter().unzip();
    let table = RouteTable::build(shapes.into_iter().enumerate().map(|(number, shape)| (shape, number)));

    let segments: Vec<&str> = path.segments().collect();
    let slash = path.has_trailing_slash();
    let best = |slash| {
        let ranked = naive
            .iter()
            .enumerate()
            .filter_map(|(number, naive)| Some((naive.rank(&segments, slash)?, number)));
        ranked.min()
    };
    match table.find(path) {
        Found::Match { value, captures } => {
            assert_eq!(Some(*value), best(slash).map(|(_, number)| number), "{names:?} {path:?}");
            let params = naive[*value].segments.iter().zip(&segments).filter(|(own, _)| own.is_none());
            assert!(
                params.map(|(_, segment)| segment).eq(captures.iter()),
                "{names:?} {path:?} {captures:?}"
            );
        }
        Found::RedirectToSubtree => {
            assert!(best(slash).is_none() && best(true).is_some(), "{names:?} {path:?}");
        }
        Found::Nothing => {
            assert!(best(slash).is_none(), "{names:?} {path:?}");
            // The same path with a slash at its end would be another subtree's own.
            let own = naive.iter().any(|naive| {
                naive.subtree
                    && naive.segments.len() == segments.len()
                    && naive.rank(&segments, true).is_some()
            });
            assert!(slash || !own, "{names:?} {path:?}");
        }
    }
}
