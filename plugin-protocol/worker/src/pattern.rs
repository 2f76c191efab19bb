//! Handler names as paths. Contract section 3.

/// A handler's name, read as a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    segments: Vec<Segment>,
    /// The name ended in `/`: everything below belongs to it as well.
    subtree: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Param(String),
}

/// How a pattern matched; the least of several has the path. It is compared segment by segment: a literal
/// before a parameter before the rest of a subtree.
pub(crate) type Rank = Vec<u8>;

impl Pattern {
    pub(crate) fn new(name: &str) -> Self {
        let path = name.replace(':', "/");
        let path = path.strip_prefix('/').unwrap_or(&path);
        let subtree = path.is_empty() || path.ends_with('/');
        let path = path.strip_suffix('/').unwrap_or(path);
        let segments = if path.is_empty() {
            vec![]
        } else {
            path.split('/')
                .map(|segment| match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                    Some(param) => Segment::Param(param.to_owned()),
                    None => Segment::Literal(segment.to_owned()),
                })
                .collect()
        };
        Self { segments, subtree }
    }

    /// Whether the two names stand for the same paths, whatever their parameters are called.
    pub(crate) fn same_paths(&self, other: &Self) -> bool {
        self.subtree == other.subtree
            && self.segments.len() == other.segments.len()
            && self.segments.iter().zip(&other.segments).all(|pair| match pair {
                (Segment::Literal(one), Segment::Literal(two)) => one == two,
                (Segment::Param(_), Segment::Param(_)) => true,
                (Segment::Literal(_), Segment::Param(_)) | (Segment::Param(_), Segment::Literal(_)) => false,
            })
    }

    /// `path` begins with `/` and is percent-decoded. Gives the parameters' names and values.
    pub(crate) fn matches(&self, path: &str) -> Option<(Rank, Vec<(String, String)>)> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        if self.subtree && segments.len() <= self.segments.len()
            || !self.subtree && segments.len() != self.segments.len()
        {
            return None;
        }
        let mut rank = Rank::new();
        let mut params = Vec::new();
        for (pattern, segment) in self.segments.iter().zip(&segments) {
            match pattern {
                Segment::Literal(literal) if literal == segment => rank.push(0),
                Segment::Param(name) if !segment.is_empty() => {
                    rank.push(1);
                    params.push((name.clone(), (*segment).to_owned()));
                }
                Segment::Literal(_) | Segment::Param(_) => return None,
            }
        }
        if self.subtree {
            rank.push(2);
        }
        Some((rank, params))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best<'a>(names: &[&'a str], path: &str) -> Option<&'a str> {
        names
            .iter()
            .filter_map(|name| Some((Pattern::new(name).matches(path)?.0, *name)))
            .min_by(|one, two| one.0.cmp(&two.0))
            .map(|(_, name)| name)
    }

    #[test]
    fn names_take_the_paths_that_they_say() {
        for (name, takes, leaves) in [
            ("foo", &["/foo"][..], &["/foo/", "/foo/bar", "/", "/fo"][..]),
            ("foo/", &["/foo/", "/foo/a", "/foo/a/", "/foo/a/b"], &["/foo", "/fooo/", "/"]),
            ("abc:def", &["/abc/def"], &["/abc", "/abc/", "/abc:def"]),
            ("/u/{id}", &["/u/1"], &["/u/", "/u", "/u/1/2"]),
            ("", &["/", "/a", "/a/b"], &[]),
            ("/", &["/", "/a"], &[]),
        ] {
            for path in takes {
                assert!(Pattern::new(name).matches(path).is_some(), "{name} takes {path}");
            }
            for path in leaves {
                assert!(Pattern::new(name).matches(path).is_none(), "{name} leaves {path}");
            }
        }
    }

    #[test]
    fn the_closest_name_wins() {
        let names = ["abc/", "abc/def", "abc/{x}", "abc/{x}/", "{y}/def"];
        for (path, name) in [
            ("/abc/def", "abc/def"),
            ("/abc/other", "abc/{x}"),
            ("/abc/other/more", "abc/{x}/"),
            ("/abc/", "abc/"),
            ("/other/def", "{y}/def"),
        ] {
            assert_eq!(best(&names, path), Some(name), "{path}");
        }
    }

    #[test]
    fn names_of_the_same_paths_are_known() {
        assert!(Pattern::new("a:{x}").same_paths(&Pattern::new("/a/{y}")));
        assert!(!Pattern::new("a").same_paths(&Pattern::new("a/")));
        assert!(!Pattern::new("a/b").same_paths(&Pattern::new("a/{b}")));
    }
}
