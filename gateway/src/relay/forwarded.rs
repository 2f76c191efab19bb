//! Who stands before the proxies: `X-Forwarded-For`, and `Forwarded` of RFC 7239.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::FORWARDED;
use smallvec::SmallVec;

/// The hops that a header names, the client's end first. [`None`] for one that names no address.
pub(super) type Hops = SmallVec<[Option<IpAddr>; 4]>;

/// The first address from the end that is not a trusted proxy's. Each proxy appends who it heard from, so the list is true
/// from its end for as long as those who wrote it are trusted.
pub(super) fn client(peer: IpAddr, hops: Hops, is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut address = peer;
    for hop in hops.into_iter().rev() {
        let Some(before) = hop else { break };
        address = before;
        if !is_trusted(address) {
            break;
        }
    }
    address
}

pub(super) fn x_forwarded_for(headers: &HeaderMap) -> Hops {
    let values = headers.get_all("x-forwarded-for").iter().map(|value| value.to_str().unwrap_or_default());
    values.flat_map(|value| value.split(',')).map(|hop| node(hop.trim())).collect()
}

pub(super) fn forwarded(headers: &HeaderMap) -> Hops {
    let values = headers.get_all(FORWARDED).iter().map(|value| value.to_str().unwrap_or_default());
    values.flat_map(|value| split(value, ',')).map(element).collect()
}

/// The address of one element's `for`. Given twice, it is nobody's.
fn element(element: &str) -> Option<IpAddr> {
    let mut named = split(element, ';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim())
    });
    let value = named.next().filter(|_| named.next().is_none())?;
    // What a quoted address would need a backslash for is no address.
    node(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// An address, with brackets or a port as it may be. `unknown` and names that hide one are none.
fn node(text: &str) -> Option<IpAddr> {
    let address = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text)
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// Splits where the separator does not stand inside quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let splits = c == separator && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        splits
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn hops(value: &'static str) -> Vec<String> {
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED, HeaderValue::from_static(value));
        let shown = |hop: Option<IpAddr>| hop.map_or_else(|| "?".to_owned(), |hop| hop.to_string());
        forwarded(&headers).into_iter().map(shown).collect()
    }

    #[test]
    fn elements_are_read_as_rfc_7239_writes_them() {
        for (value, expected) in [
            ("for=192.0.2.43, for=198.51.100.17", &["192.0.2.43", "198.51.100.17"][..]),
            ("For=\"[2001:db8:cafe::17]:4711\"", &["2001:db8:cafe::17"]),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", &["192.0.2.60"]),
            ("proto=http; FOR = \"192.0.2.60:80\"", &["192.0.2.60"]),
            ("for=unknown, for=_hidden, for=\"_gazonk\"", &["?", "?", "?"]),
            ("for=1.1.1.1;for=2.2.2.2", &["?"]),
            ("host=\"a, for=6.6.6.6\";for=1.1.1.1", &["1.1.1.1"]),
            ("host=\"a\\\", for=6.6.6.6\";for=1.1.1.1, for=2.2.2.2", &["1.1.1.1", "2.2.2.2"]),
            ("by=1.1.1.1", &["?"]),
            ("", &["?"]),
        ] {
            assert_eq!(hops(value), expected, "{value}");
        }
    }
}
