use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn pattern(name: &str) -> Pattern {
    Pattern::parse(name, Braces::Param).unwrap()
}

#[test]
fn names_become_paths() {
    for (name, path, is_subtree) in [
        ("foo", "/foo", false),
        ("/foo", "/foo", false),
        ("foo/", "/foo/", true),
        ("abc/def", "/abc/def", false),
        ("abc:def", "/abc/def", false),
        (":abc:def:", "/abc/def/", true),
        ("/", "/", true),
        (":", "/", true),
        ("caffè", "/caffè", false),
        ("100%/a?b#c", "/100%/a?b#c", false),
        ("%2f", "/%2f", false),
        (".../..a", "/.../..a", false),
        ("t/{id}", "/t/{id}", false),
        ("t:{id}:", "/t/{id}/", true),
        ("{_a1}", "/{_a1}", false),
    ] {
        let pattern = pattern(name);
        assert_eq!((pattern.path(), pattern.is_subtree()), (path, is_subtree), "{name}");
        assert_eq!(pattern.shape().is_subtree(), is_subtree, "{name}");
    }
}

#[test]
fn parameters_are_named_in_order() {
    let pattern = pattern("a/{x}/b/{y}/");
    assert_eq!(pattern.params().iter().map(|param| &**param).collect::<Vec<_>>(), ["x", "y"]);
    assert!(Pattern::parse("a/b", Braces::Param).unwrap().params().is_empty());
}

#[test]
fn braces_can_be_literal() {
    for name in ["a/{x}", "a{x}", "{}", "{x}/{x}", "{"] {
        let pattern = Pattern::parse(name, Braces::Literal).unwrap();
        assert_eq!(pattern.path(), format!("/{name}"));
        assert!(pattern.params().is_empty());
    }
    assert_ne!(Pattern::parse("{x}", Braces::Literal).unwrap().shape(), pattern("{x}").shape());
    assert_ne!(Pattern::parse("{}", Braces::Literal).unwrap().shape(), pattern("{x}").shape());
}

#[test]
fn a_shape_forgets_the_names_of_parameters_and_nothing_else() {
    assert_eq!(pattern("a/{x}/").shape(), pattern(":a:{y}:").shape());
    let names = ["/", "a", "a/", "A", "a/b", "a/{x}", "a/{x}/", "{x}/a", "{x}", "{x}/", "{x}/{y}"];
    let shapes: HashSet<_> = names.map(|name| pattern(name).shape()).into();
    assert_eq!(shapes.len(), names.len());
    assert_eq!(format!("{:?}", pattern("a/{x}/").shape()), "Shape(\"/a/{}/\")");
}

#[test]
fn names_that_no_path_matches_are_refused_with_the_way_out() {
    for (name, braces, wanted) in [
        ("", Braces::Param, "write \"/\" for the root"),
        ("", Braces::Literal, "write \"/\" for the root"),
        ("//", Braces::Param, "\"//\" has an empty segment"),
        ("a//b", Braces::Literal, "write one \"/\" between segments"),
        ("a//", Braces::Param, "empty segment"),
        ("//a", Braces::Param, "empty segment"),
        ("users/:id", Braces::Param, "{id} for a parameter"),
        (".", Braces::Param, "a segment \".\""),
        ("a/../b", Braces::Literal, "a segment \"..\""),
        ("a/..", Braces::Param, "write the path it leads to"),
        ("a\\b", Braces::Param, "separate segments with \"/\""),
        ("a\0b", Braces::Literal, "\"a\\0b\" has a NUL"),
        ("a{b}", Braces::Param, "inside the segment \"a{b}\""),
        ("{a}{b}", Braces::Param, "inside the segment \"{a}{b}\""),
        ("{id:int}", Braces::Param, "inside the segment \"{id\""),
        ("{{a}}", Braces::Param, "a parameter is a whole segment"),
        ("}a{", Braces::Param, "a parameter is a whole segment"),
        ("{", Braces::Param, "\"/orders/{id}/items\""),
        ("{}", Braces::Param, "as in {id}"),
        ("{1a}", Braces::Param, "as in {id}"),
        ("{a-b}", Braces::Param, "as in {id}"),
        ("{é}", Braces::Param, "as in {id}"),
        ("{*rest}", Braces::Param, "end the name in \"/\""),
        ("a/{x}/{x}", Braces::Param, "two parameters called \"x\""),
    ] {
        let message = Pattern::parse(name, braces).unwrap_err().to_string();
        assert!(message.contains(wanted), "{name:?}: {message}");
    }
}

#[test]
fn a_scope_allows_its_path_and_what_is_below() {
    for (scope, inside, outside) in [
        (
            "/billing/",
            &["billing/", "billing/a", "billing:a:", "billing/{x}", "billing/a/{x}/"][..],
            &["billing", "billings", "billings/", "/", "{x}/", "{x}/a", "Billing/", "a/billing/"][..],
        ),
        ("/billing", &["billing", ":billing"], &["billing/", "billing/a", "billings", "{x}"]),
        ("billing:", &["billing/", "billing/a"], &["billing"]),
        ("/", &["/", "a", "a/", "{x}", "{x}/"], &[]),
        (
            "/t/{id}/",
            &["t/5/", "t/{other}/", "t/{other}/a", "t/5/{x}"],
            &["t/", "t/5", "t/{id}", "{t}/{id}/"],
        ),
        ("/t/{id}", &["t/5", "t/{other}"], &["t/{id}/", "t/5/", "t/5/a", "t"]),
        ("", &[], &["/", "a"]),
        ("/a//", &[], &["a/", "a/b"]),
        ("/a/../", &[], &["a/", "b", "/"]),
    ] {
        for name in inside {
            assert!(pattern(name).is_within(scope), "{name} in {scope}");
        }
        for name in outside {
            assert!(!pattern(name).is_within(scope), "{name} in {scope}");
        }
    }
    assert!(Pattern::parse("t/{id}", Braces::Literal).unwrap().is_within("/t/{id}"));
}

proptest! {
    #[test]
    fn no_name_panics(name: String, literal: bool) {
        let braces = if literal { Braces::Literal } else { Braces::Param };
        if let Ok(pattern) = Pattern::parse(&name, braces) {
            prop_assert_eq!(Pattern::parse(pattern.path(), braces), Ok(pattern));
        }
    }

    #[test]
    fn elements_make_the_shape_again(name in "[ab{}:/.]{0,8}") {
        if let Ok(pattern) = Pattern::parse(&name, Braces::Param) {
            let shape = pattern.shape();
            prop_assert_eq!(&Shape::from_elements(shape.elements(), shape.is_subtree()), &shape);
            let params = shape.elements().filter(|element| *element == Element::Param).count();
            prop_assert_eq!(params, pattern.params().len());
        }
    }
}
