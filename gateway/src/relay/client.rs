//! What a request's head says about who sent it, and how much of that counts.

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, HeaderMap, HeaderName};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Uri, Version};
use ipnet::IpNet;
use smallvec::SmallVec;

use super::forwarded;
use crate::error::Error;
use crate::http1::MAX_FIELDS;
use crate::trace;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Removes what `Connection` names before anything else reads the headers (RFC 9110 section 7.6.1), so that no two readers
/// disagree about what was sent. `Host` and `Content-Length` are end-to-end whatever it says.
pub(super) fn drop_connection_headers(headers: &mut HeaderMap) {
    let named: SmallVec<[HeaderName; 2]> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.eq_ignore_ascii_case("keep-alive") && !name.eq_ignore_ascii_case("close"))
        .filter_map(|name| name.parse().ok())
        .filter(|name| name != HOST && name != CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// The host that the request is for.
///
/// # Errors
/// For CONNECT, and when the host is missing, repeated or not an authority. Contract section 7.
pub(super) fn host(head: &Parts) -> Result<&str, Error> {
    if head.method == Method::CONNECT {
        return Err(Error::bad_request("CONNECT is not supported"));
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Error::bad_request("the Host header is repeated"));
    }
    let host = host
        .map(|host| {
            let host = host.to_str().ok().filter(|host| {
                is_plain(host)
                    || host.parse::<Authority>().is_ok_and(|authority| !authority.as_str().contains('@'))
            });
            host.ok_or_else(|| Error::bad_request("the Host header is not a host and port"))
        })
        .transpose()?;
    match (host, head.uri.authority(), head.version) {
        // RFC 9113 section 8.3.1: HTTP/2 has it in :authority, and only what was translated has Host alone.
        (None, None, Version::HTTP_2) => {
            Err(Error::bad_request("there is neither :authority nor the Host header"))
        }
        (_, Some(authority), Version::HTTP_2) if authority.as_str().contains('@') => {
            Err(Error::bad_request(":authority is not a host and port"))
        }
        (Some(host), Some(authority), Version::HTTP_2) if !same_host(host, authority, &head.uri) => {
            Err(Error::bad_request(":authority and the Host header differ"))
        }
        (_, Some(authority), Version::HTTP_2) => Ok(authority.as_str()),
        (None, _, _) => Err(Error::bad_request("the Host header is missing")),
        // RFC 9112 section 3.2.2: the authority of an absolute target counts, not the header.
        (Some(host), authority, _) => Ok(authority.map_or(host, Authority::as_str)),
    }
}

/// Whether it is an authority of the plainest kind, as most are: letters, digits, dots and hyphens, and perhaps a port.
fn is_plain(host: &str) -> bool {
    let host = host.as_bytes();
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let name = host.iter().position(|&byte| !is_of_name(byte)).unwrap_or(host.len());
    match &host[name..] {
        [] => name > 0,
        [b':', port @ ..] => name > 0 && (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// Whether nothing may be served behind this request. Strict parsers refuse such a head and with it all that follows, or read
/// nothing behind it: what follows CONNECT is for the tunnel that there is not, and RFC 9112 section 9.3 lets no proxy keep an
/// HTTP/1.0 client's connection.
pub(super) fn ends_connection(head: &Parts) -> bool {
    let known = matches!(
        head.method,
        Method::GET
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::PATCH
            | Method::HEAD
            | Method::OPTIONS
    );
    match head.version {
        Version::HTTP_09 | Version::HTTP_10 => true,
        Version::HTTP_11 => !known || head.headers.get_all(HOST).iter().count() != 1,
        _ => false,
    }
}

/// Whether both are the same place, a default port written out or not.
fn same_host(host: &str, authority: &Authority, uri: &Uri) -> bool {
    let default_port = if uri.scheme() == Some(&Scheme::HTTP) { ":80" } else { ":443" };
    let place = |text: &str| text.strip_suffix(default_port).unwrap_or(text).to_ascii_lowercase();
    place(host) == place(authority.as_str())
}

/// Makes of an HTTP/2 head what the same request would be in HTTP/1.1, and refuses what would be refused there.
///
/// # Errors
/// When it has more fields than a head may have, or a repeated Content-Length.
pub(super) fn settle_http2(head: &mut Parts) -> Result<(), Error> {
    if head.version != Version::HTTP_2 {
        return Ok(());
    }
    if head.headers.len() > usize::from(MAX_FIELDS) {
        return Err(Error::HeaderTooLarge);
    }
    if head.headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Error::bad_request("the Content-Length header is repeated"));
    }
    // RFC 9113 section 8.2.3: a cookie may come in pieces, and is one field for everybody else.
    let crumbs = head.headers.get_all(COOKIE);
    if crumbs.iter().nth(1).is_some() {
        let crumbs: Vec<&[u8]> = crumbs.iter().map(HeaderValue::as_bytes).collect();
        let cookie = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]));
        if let Ok(cookie) = cookie {
            head.headers.insert(COOKIE, cookie);
        }
    }
    Ok(())
}

pub(crate) fn is_trusted(peer: IpAddr, trusted_proxies: &[IpNet]) -> bool {
    !trusted_proxies.is_empty() && trusted_proxies.iter().any(|range| range.contains(&peer.to_canonical()))
}

/// The client's address: the peer's, or what trusted proxies say stands before them.
///
/// # Errors
/// When they say it in two ways that differ: whoever sent the one header could have written the other, so neither counts.
pub(super) fn address(peer: IpAddr, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> Result<IpAddr, Error> {
    let peer = peer.to_canonical();
    let is_trusted = |address| is_trusted(address, trusted_proxies);
    if !is_trusted(peer) {
        return Ok(peer);
    }
    let by_list = headers
        .contains_key(X_FORWARDED_FOR)
        .then(|| forwarded::client(peer, forwarded::x_forwarded_for(headers), is_trusted));
    let by_standard = headers
        .contains_key(FORWARDED)
        .then(|| forwarded::client(peer, forwarded::forwarded(headers), is_trusted));
    match (by_list, by_standard) {
        (Some(one), Some(other)) if one != other => {
            Err(Error::bad_request("X-Forwarded-For and Forwarded name different clients"))
        }
        (one, other) => Ok(one.or(other).unwrap_or(peer)),
    }
}

/// A trusted proxy's id, or a new one: 32 hexadecimal digits.
pub(super) fn request_id(headers: &HeaderMap, peer_is_trusted: bool) -> String {
    peer_is_trusted
        .then(|| headers.get("x-request-id")?.to_str().ok())
        .flatten()
        .filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()))
        .map_or_else(trace::random_id, str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cors::tests::headers;

    #[test]
    fn forwarded_addresses_count_from_the_end_while_proxies_are_trusted() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        for (peer, forwarded, client) in [
            (peer, "203.0.113.9", "203.0.113.9"),
            (peer, "1.1.1.1, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
            (peer, "nonsense, 10.0.0.2", "10.0.0.2"),
            (peer, "", "10.0.0.1"),
            (peer, "[2001:db8::1]", "2001:db8::1"),
            ("192.0.2.1".parse().unwrap(), "203.0.113.9", "192.0.2.1"),
            ("::ffff:10.0.0.1".parse().unwrap(), "203.0.113.9", "203.0.113.9"),
        ] {
            let headers = headers(&[("x-forwarded-for", forwarded)]);
            assert_eq!(address(peer, &headers, &trusted).unwrap().to_string(), client, "{peer} {forwarded}");
        }
    }

    #[test]
    fn both_ways_of_naming_the_client_have_to_agree() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        for (list, standard, client) in [
            ("203.0.113.9", "for=203.0.113.9;proto=https", Some("203.0.113.9")),
            ("203.0.113.9", "for=203.0.113.8, for=10.0.0.2", None),
            ("203.0.113.9", "for=unknown", None),
        ] {
            let headers = headers(&[("x-forwarded-for", list), ("forwarded", standard)]);
            let found = address(peer, &headers, &trusted).ok().map(|address| address.to_string());
            assert_eq!(found.as_deref(), client, "{list} {standard}");
            let untrusted = address("192.0.2.1".parse().unwrap(), &headers, &trusted);
            assert_eq!(untrusted.unwrap().to_string(), "192.0.2.1");
        }
        let headers = headers(&[("forwarded", "for=\"[2001:db8::1]:99\"")]);
        assert_eq!(address(peer, &headers, &trusted).unwrap().to_string(), "2001:db8::1");
    }

    #[test]
    fn plain_hosts_are_authorities() {
        for host in ["a", "api.example.com", "10.0.0.1:8080", "-:1", "...", "a:65536"] {
            assert!(is_plain(host) && host.parse::<Authority>().is_ok(), "{host}");
        }
        for host in ["", ":80", "a:", "a:+1", "a:1:2", "a:123456", "a@b", "[::1]", "a b", "é", "a/"] {
            assert!(!is_plain(host), "{host}");
        }
    }

    #[test]
    fn connection_cannot_remove_host_or_length() {
        let mut map = headers(&[
            ("connection", "close, x-a, Host"),
            ("connection", "content-length"),
            ("host", "h"),
            ("content-length", "1"),
            ("x-a", "1"),
            ("x-b", "2"),
        ]);
        drop_connection_headers(&mut map);
        assert!(map.get("x-a").is_none());
        assert!(["host", "content-length", "x-b"].iter().all(|name| map.contains_key(*name)));
    }
}
