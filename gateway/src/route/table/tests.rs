use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::path::{Target, canonicalise};
use crate::route::{Braces, Pattern};

fn pattern(name: &str) -> Pattern {
    Pattern::parse(name, Braces::Param).unwrap()
}

fn path(raw: &str) -> CanonicalPath<'_> {
    match canonicalise(raw) {
        Ok(Target::Path(path)) => path,
        other => panic!("{raw:?} is {other:?}"),
    }
}

/// A table in which every name leads to itself.
fn table<'n>(names: &[&'n str]) -> RouteTable<&'n str> {
    RouteTable::build(names.iter().map(|name| (pattern(name).shape(), *name)))
}

/// The name that takes the path, with what its parameters stand for; `>` for a redirect and `-` for nothing.
fn find(table: &RouteTable<&str>, raw: &str) -> String {
    match table.find(&path(raw)) {
        Found::Match { value, captures } => {
            std::iter::once(*value).chain(captures.iter().copied()).collect::<Vec<_>>().join(" ")
        }
        Found::RedirectToSubtree => ">".to_owned(),
        Found::Nothing => "-".to_owned(),
    }
}

fn check(names: &[&str], expected: &[(&str, &str)]) {
    let table = table(names);
    for (raw, wanted) in expected {
        assert_eq!(&find(&table, raw), wanted, "{raw} among {names:?}");
    }
}

#[test]
fn an_exact_name_takes_its_path_alone() {
    check(&["foo"], &[("/foo", "foo"), ("/foo/", "-"), ("/foo/bar", "-"), ("/", "-"), ("/fo", "-")]);
}

#[test]
fn a_name_with_a_slash_takes_what_is_below_and_redirects() {
    check(
        &["foo/"],
        &[("/foo/", "foo/"), ("/foo/a", "foo/"), ("/foo/a/", "foo/"), ("/foo/a/b", "foo/"), ("/foo", ">")],
    );
}

#[test]
fn a_longer_name_overrides_a_shorter_one() {
    check(&["abc/def"], &[("/abc/def", "abc/def"), ("/abc", "-"), ("/abc/", "-")]);
    check(
        &["abc/", "abc/def"],
        &[
            ("/abc/def", "abc/def"),
            ("/abc/def/", "abc/"),
            ("/abc/def/g", "abc/"),
            ("/abc/de", "abc/"),
            ("/abc", ">"),
        ],
    );
    check(
        &["/", "a/", "a/b/", "a/b/c/"],
        &[
            ("/", "/"),
            ("/x", "/"),
            ("/a/x", "a/"),
            ("/a/b/x", "a/b/"),
            ("/a/b/c/x", "a/b/c/"),
            ("/a/b/c", "a/b/"),
        ],
    );
}

#[test]
fn a_redirect_comes_only_when_nothing_matches() {
    check(&["foo/", "/"], &[("/foo", "/"), ("/foo/", "foo/")]);
    check(&["foo/", "foo"], &[("/foo", "foo")]);
    check(&["foo/", "{x}"], &[("/foo", "{x} foo"), ("/foo/", "foo/")]);
    check(&["t/{id}/"], &[("/t/5", ">"), ("/t/5/", "t/{id}/ 5"), ("/t", "-"), ("/t/", "-")]);
    check(&["a/b/", "a/"], &[("/a/b", "a/"), ("/a", ">")]);
    check(&["a/{x}/c", "a/b/"], &[("/a/b", ">")]);
    check(&["a/b", "{x}/c/"], &[("/a/c", ">"), ("/a/b", "a/b"), ("/b/b", "-")]);
    check(&["foo/"], &[("/foo%2521", "-"), ("/FOO", "-")]);
}

#[test]
fn a_parameter_stands_for_one_segment() {
    check(
        &["foo/{x}"],
        &[("/foo/a", "foo/{x} a"), ("/foo/", "-"), ("/foo", "-"), ("/foo/a/", "-"), ("/foo/a/b", "-")],
    );
    check(
        &["{x}/{y}/"],
        &[("/a/b/", "{x}/{y}/ a b"), ("/a/b/c/d", "{x}/{y}/ a b"), ("/a/b", ">"), ("/a/", "-"), ("/", "-")],
    );
    check(
        &["f/{x}"],
        &[("/f/caff%C3%A8", "f/{x} caffè"), ("/f/%252f", "f/{x} %2f"), ("/f/{x}", "f/{x} {x}")],
    );
}

#[test]
fn a_literal_goes_before_a_parameter_and_a_parameter_before_a_subtree() {
    check(
        &["a/b", "a/{x}", "a/"],
        &[("/a/b", "a/b"), ("/a/c", "a/{x} c"), ("/a/c/", "a/"), ("/a/b/", "a/"), ("/a/", "a/")],
    );
    check(&["a/", "{x}/b"], &[("/a/b", "a/"), ("/c/b", "{x}/b c")]);
    check(&["a/{x}/", "a/b/"], &[("/a/b/c", "a/b/"), ("/a/c/c", "a/{x}/ c")]);
}

#[test]
fn the_search_turns_back() {
    check(&["a/b/c", "a/{x}/d"], &[("/a/b/c", "a/b/c"), ("/a/b/d", "a/{x}/d b"), ("/a/b", "-")]);
    check(
        &["a/b/c/d", "a/{x}/c/e", "{y}/b/{z}/f", "/"],
        &[
            ("/a/b/c/d", "a/b/c/d"),
            ("/a/b/c/e", "a/{x}/c/e b"),
            ("/a/b/c/f", "{y}/b/{z}/f a c"),
            ("/a/b/c/g", "/"),
        ],
    );
    check(&["a/b/", "a/{x}/{y}/z", "{w}/b/c/q"], &[("/a/b/c/z", "a/b/"), ("/a/b/c/q", "a/b/")]);
    check(&["a/{x}/", "a/{x}/{y}/z"], &[("/a/b/c/q", "a/{x}/ b"), ("/a/b/c/z", "a/{x}/{y}/z b c")]);
}

#[test]
fn matching_sees_decoded_text_and_case() {
    check(&["caffè"], &[("/caff%C3%A8", "caffè"), ("/CAFF%C3%A8", "-")]);
    check(&["Foo"], &[("/Foo", "Foo"), ("/%46oo", "Foo"), ("/foo", "-")]);
    check(&["a%2fb"], &[("/a%252fb", "a%2fb"), ("/a/b", "-")]);
    let skygear = RouteTable::build([(Pattern::parse("f/{x}", Braces::Literal).unwrap().shape(), "f/{x}")]);
    assert_eq!(find(&skygear, "/f/{x}"), "f/{x}");
    assert_eq!(find(&skygear, "/f/%7Bx%7D"), "f/{x}");
    assert_eq!(find(&skygear, "/f/a"), "-");
}

#[test]
fn an_empty_table_finds_nothing() {
    check(&[], &[("/", "-"), ("/a", "-"), ("/a/", "-")]);
    assert!(table(&[]).is_empty());
}

#[test]
fn of_one_shape_the_later_stays() {
    let table = table(&["a/{x}", "a/{x}/", "a/{y}"]);
    assert_eq!(table.len(), 2);
    assert_eq!(table.get(&pattern("a/{z}").shape()), Some(&"a/{y}"));
    assert_eq!(table.get(&pattern("a/{z}/").shape()), Some(&"a/{x}/"));
    assert_eq!(table.get(&pattern("a/").shape()), None);
    assert_eq!(table.get(&pattern("a/x").shape()), None);
    assert_eq!(table.get(&pattern("a/{x}/b").shape()), None);
}

/// Every way of mixing a literal and a parameter over 12 segments, and a request that all of them nearly match.
#[test]
fn turning_back_everywhere_ends() {
    let depth = 12;
    let names: Vec<String> = (0..1u32 << depth)
        .map(|bits| {
            let segment = |n| if bits >> n & 1 == 0 { "a".to_owned() } else { format!("{{p{n}}}") };
            (0..depth).map(segment).collect::<Vec<_>>().join("/")
        })
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let table = table(&names);
    assert_eq!(find(&table, &format!("{}/z/z", "/a".repeat(depth))), "-");
    assert_eq!(find(&table, &"/a".repeat(depth)), "a/".repeat(depth).trim_end_matches('/'));
    assert_eq!(find(&table, &"/a".repeat(16_000)), "-");
}

/// The definition, without a trie: how a pattern matches a path, as a key that sorts better matches first, and what
/// its parameters stand for.
fn naive_match<'p>(shape: &Shape, path: &'p CanonicalPath<'_>) -> Option<(Vec<u8>, Vec<&'p str>)> {
    let (mut key, mut captures) = (Vec::new(), Vec::new());
    let mut segments = path.segments();
    for element in shape.elements() {
        let segment = segments.next()?;
        match element {
            Element::Literal(literal) if literal == segment => key.push(0),
            Element::Literal(_) => return None,
            Element::Param => {
                key.push(1);
                captures.push(segment);
            }
        }
    }
    let rest = segments.count();
    if shape.is_subtree() {
        key.push(2);
        (rest > 0 || path.has_trailing_slash()).then_some((key, captures))
    } else {
        (rest == 0 && !path.has_trailing_slash()).then_some((key, captures))
    }
}

fn naive_find<'t, 'p, T>(
    routes: &'t BTreeMap<Shape, T>,
    path: &'p CanonicalPath<'_>,
    with_slash: &CanonicalPath<'_>,
) -> Found<'t, 'p, T> {
    let matches = routes.iter().filter_map(|(shape, value)| Some((naive_match(shape, path)?, value)));
    match matches.min_by(|((left, _), _), ((right, _), _)| left.cmp(right)) {
        Some(((_, captures), value)) => Found::Match { value, captures: captures.into() },
        None if routes.keys().any(|shape| naive_match(shape, with_slash).is_some()) => {
            Found::RedirectToSubtree
        }
        None => Found::Nothing,
    }
}

/// Few segments, so that patterns collide, nest and force the search to turn back.
fn names() -> impl Strategy<Value = String> {
    let segment = prop_oneof![3 => Just("a"), 3 => Just("b"), 1 => Just("è"), 4 => Just("{}")];
    (proptest::collection::vec(segment, 0..5), any::<bool>()).prop_map(|(segments, slash)| {
        let mut name = String::new();
        for (n, segment) in segments.iter().enumerate() {
            name.push('/');
            name.push_str(&segment.replace("{}", &format!("{{p{n}}}")));
        }
        if slash || name.is_empty() {
            name.push('/');
        }
        name
    })
}

fn raw_paths() -> impl Strategy<Value = String> {
    let segment =
        prop_oneof![4 => Just("a"), 4 => Just("b"), 1 => Just("%C3%A8"), 1 => Just("c"), 1 => Just("%61")];
    (proptest::collection::vec(segment, 0..6), any::<bool>()).prop_map(|(segments, slash)| {
        let slash = if slash || segments.is_empty() { "/" } else { "" };
        segments.iter().map(|segment| format!("/{segment}")).collect::<String>() + slash
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn the_table_finds_what_the_definition_says(
        names in proptest::collection::vec(names(), 0..24),
        raws in proptest::collection::vec(raw_paths(), 1..16),
    ) {
        let routes: BTreeMap<Shape, usize> =
            names.iter().enumerate().map(|(n, name)| (pattern(name).shape(), n)).collect();
        let table = RouteTable::build(names.iter().enumerate().map(|(n, name)| (pattern(name).shape(), n)));

        prop_assert_eq!(table.len(), routes.len());
        prop_assert_eq!(table.iter().map(|(shape, n)| (shape, *n)).collect::<BTreeMap<_, _>>(), routes.clone());
        for (shape, n) in &routes {
            prop_assert_eq!(table.get(shape), Some(n));
        }
        for raw in &raws {
            let slashed = format!("{}/", raw.trim_end_matches('/'));
            let (path, slashed) = (path(raw), path(&slashed));
            prop_assert_eq!(table.find(&path), naive_find(&routes, &path, &slashed), "{} in {:?}", raw, names);
        }
    }
}
