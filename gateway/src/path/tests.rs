use proptest::prelude::*;

use super::*;

fn path(raw: &str) -> CanonicalPath<'_> {
    match canonicalise(raw) {
        Ok(Target::Path(path)) => path,
        other => panic!("{raw:?} is {other:?}"),
    }
}

#[test]
fn paths_are_decoded_once() {
    for (raw, decoded) in [
        ("/", "/"),
        ("/foo", "/foo"),
        ("/foo/", "/foo/"),
        ("/foo/a/b", "/foo/a/b"),
        ("/%66oo", "/foo"),
        ("/caff%C3%A8", "/caffè"),
        ("/caff%c3%a8/", "/caffè/"),
        ("/%252f", "/%2f"),
        ("/%252e%252e/", "/%2e%2e/"),
        ("/%255c", "/%5c"),
        ("/%2500", "/%00"),
        ("/100%25", "/100%"),
        ("/a%3Fb%23c", "/a?b#c"),
        ("/a+b%20c", "/a+b c"),
        ("/a:b@c;d=e,f", "/a:b@c;d=e,f"),
        ("/.a/a./.../..a", "/.a/a./.../..a"),
        ("/{id}/\"|^`<>", "/{id}/\"|^`<>"),
        ("/%0D%0A%7F", "/\r\n\u{7f}"),
        ("/%EF%BC%8F", "/\u{ff0f}"),
    ] {
        assert_eq!(path(raw).as_str(), decoded, "{raw}");
    }
}

#[test]
fn what_reads_in_two_ways_is_refused() {
    for (raw, error) in [
        ("", PathError::NotAbsolute),
        ("*", PathError::NotAbsolute),
        ("foo", PathError::NotAbsolute),
        ("%2ffoo", PathError::NotAbsolute),
        ("http://host/foo", PathError::NotAbsolute),
        ("/a%2fb", PathError::EncodedSlash),
        ("/a%2Fb", PathError::EncodedSlash),
        ("/%2f", PathError::EncodedSlash),
        ("/a\\b", PathError::Backslash),
        ("/a%5cb", PathError::Backslash),
        ("/a%5Cb", PathError::Backslash),
        ("/\\evil.example", PathError::Backslash),
        ("/a%00", PathError::Nul),
        ("/a\0", PathError::Unencoded),
        ("/a b", PathError::Unencoded),
        ("/a\tb", PathError::Unencoded),
        ("/a\r\nb", PathError::Unencoded),
        ("/a\u{7f}", PathError::Unencoded),
        ("/caffè", PathError::Unencoded),
        ("/a#b", PathError::Unencoded),
        ("/a?b", PathError::Unencoded),
        ("/%", PathError::BadEscape),
        ("/%2", PathError::BadEscape),
        ("/%zz", PathError::BadEscape),
        ("/%2g", PathError::BadEscape),
        ("/%+2", PathError::BadEscape),
        ("/%%32%66", PathError::BadEscape),
        ("/a%u002f", PathError::BadEscape),
        ("/.", PathError::DotSegment),
        ("/..", PathError::DotSegment),
        ("/./a", PathError::DotSegment),
        ("/a/../b", PathError::DotSegment),
        ("/a/..", PathError::DotSegment),
        ("/a/../", PathError::DotSegment),
        ("/a/%2e", PathError::DotSegment),
        ("/a/%2E%2e/b", PathError::DotSegment),
        ("/a/.%2e", PathError::DotSegment),
        ("/%ff", PathError::NotUtf8),
        ("/%c3", PathError::NotUtf8),
        ("/%c0%af", PathError::NotUtf8),
        ("/%c0%ae%c0%ae/", PathError::NotUtf8),
        ("/%ed%a0%80", PathError::NotUtf8),
    ] {
        assert_eq!(canonicalise(raw), Err(error), "{raw:?}");
    }
}

#[test]
fn empty_segments_are_redirected_away() {
    for (raw, location) in [
        ("//", "/"),
        ("///", "/"),
        ("//foo", "/foo"),
        ("/foo//", "/foo/"),
        ("/foo//a", "/foo/a"),
        ("//foo///a////", "/foo/a/"),
        ("//evil.example", "/evil.example"),
        ("//user@evil.example:80/a", "/user@evil.example:80/a"),
        ("/a//%252f", "/a/%252f"),
        ("//caff%c3%a8", "/caff%C3%A8"),
        ("//%0d%0aSet-Cookie:%20a", "/%0D%0ASet-Cookie:%20a"),
        ("//a|b", "/a%7Cb"),
    ] {
        assert_eq!(canonicalise(raw), Ok(Target::Redirect(location.to_owned())), "{raw:?}");
    }
}

#[test]
fn an_error_goes_before_a_redirect() {
    for (raw, error) in [
        ("//a%2f", PathError::EncodedSlash),
        ("//a\\", PathError::Backslash),
        ("//..", PathError::DotSegment),
        ("/..//", PathError::DotSegment),
        ("//evil.example/%2e.", PathError::DotSegment),
        ("//%ff", PathError::NotUtf8),
        ("//%", PathError::BadEscape),
        ("//%00", PathError::Nul),
    ] {
        assert_eq!(canonicalise(raw), Err(error), "{raw:?}");
    }
}

#[test]
fn the_root_has_no_segments() {
    assert_eq!(path("/").segments().count(), 0);
    assert!(path("/").has_trailing_slash());
    assert_eq!(path("/foo/%61").segments().collect::<Vec<_>>(), ["foo", "a"]);
    assert_eq!(path("/foo/").segments().collect::<Vec<_>>(), ["foo"]);
    assert!(path("/foo/").has_trailing_slash());
    assert!(!path("/foo").has_trailing_slash());
}

/// RFC 3986 section 3.3: `pchar`, and the slashes between segments.
#[test]
fn only_what_a_url_may_hold_stays_unencoded() {
    let unencoded: String = ('!'..='~')
        .filter(|character| !"%?#/\\".contains(*character))
        .filter(|character| path(&format!("/a{character}")).encoded() == format!("/a{character}"))
        .collect();
    assert_eq!(unencoded, "!$&'()*+,-.0123456789:;=@ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~");
    assert_eq!(path("/%3F%23%25%20%7B%22/b").encoded(), "/%3F%23%25%20%7B%22/b");
}

#[test]
fn a_plain_path_is_borrowed() {
    assert!(matches!(path("/foo/a").text, Cow::Borrowed(_)));
    assert!(matches!(path("/foo/a").into_owned().text, Cow::Owned(_)));
}

/// Strings in which escapes, slashes and dots are frequent.
fn raw_paths() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => Just("/".to_owned()),
        3 => "[a-c.%]",
        2 => Just(".".to_owned()),
        2 => "%[0-9a-fA-F]{2}",
        1 => prop_oneof!["%2[eEfF]", "%5[cC]", "%00", "%25", "%c3%a8", "%[c-fC-F][0-9a-f]"],
        1 => "[ -~]",
        1 => any::<char>().prop_map(String::from),
    ];
    prop_oneof![
        4 => proptest::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat())),
        1 => any::<String>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn what_is_accepted_is_canonical(raw in raw_paths()) {
        let Ok(target) = canonicalise(&raw) else { return Ok(()) };
        let path = match &target {
            Target::Path(path) => path.clone(),
            Target::Redirect(location) => {
                prop_assert!(location.is_ascii());
                match canonicalise(location) {
                    Ok(Target::Path(path)) => {
                        prop_assert_eq!(&path.encoded(), location);
                        prop_assert_eq!(path.has_trailing_slash(), raw.ends_with('/'));
                        path
                    }
                    other => return Err(TestCaseError::fail(format!("{location:?} is {other:?}"))),
                }
            }
        };
        let text = path.as_str();
        prop_assert!(text.starts_with('/'));
        prop_assert!(!text.contains("//") && !text.contains('\\') && !text.contains('\0'));
        prop_assert!(path.segments().all(|segment| !matches!(segment, "" | "." | "..")));

        let slash = if path.has_trailing_slash() && text != "/" { "/" } else { "" };
        let joined = path.segments().collect::<Vec<_>>().join("/");
        prop_assert_eq!(format!("/{joined}{slash}"), text);

        let encoded = path.encoded();
        prop_assert_eq!(canonicalise(&encoded), Ok(Target::Path(path.into_owned())));
    }

    /// The decoder of another house agrees on every path that is accepted.
    #[test]
    fn decoding_agrees_with_percent_encoding(raw in raw_paths()) {
        if let Ok(Target::Path(path)) = canonicalise(&raw) {
            let decoded = percent_encoding::percent_decode_str(&raw).decode_utf8().unwrap();
            prop_assert_eq!(path.as_str(), decoded);
        }
    }

    #[test]
    fn every_clean_path_is_accepted(
        segments in proptest::collection::vec(
            "[^/\\\\\0]{1,6}".prop_filter("a dot segment", |segment| segment != "." && segment != ".."),
            0..5,
        ),
        slash: bool,
    ) {
        let slash = if slash || segments.is_empty() { "/" } else { "" };
        let text = segments.iter().map(|segment| format!("/{segment}")).collect::<String>() + slash;
        let raw = utf8_percent_encode(&text, NOT_IN_PATHS).to_string();
        let path = path(&raw);
        prop_assert_eq!(path.as_str(), text);
    }
}
