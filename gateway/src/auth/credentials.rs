//! What a request presents: where credentials are looked for, and which requests contradict themselves.

use std::borrow::Cow;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::Error;

const API_KEY: HeaderName = HeaderName::from_static("x-skygear-api-key");
const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-skygear-access-token");
const USER_ID: HeaderName = HeaderName::from_static("x-gearway-user-id");
const IDENTITY_PREFIX: &str = "x-gearway-";

/// The credentials of one request, unchecked. An empty value counts as absent.
pub(super) struct Presented<'a> {
    pub(super) key: Option<Cow<'a, [u8]>>,
    /// From `X-Skygear-Access-Token` or the query: certainly meant for the gateway.
    pub(super) token: Option<Cow<'a, [u8]>>,
    /// From `Authorization: Bearer`, which may be meant for the handler.
    pub(super) bearer: Option<&'a [u8]>,
}

impl<'a> Presented<'a> {
    /// `query` is absent when credentials in it do not count.
    pub(super) fn read(headers: &'a HeaderMap, query: Option<&'a str>) -> Result<Self, Error> {
        let (mut key, mut token, mut authorization) = (None, None, None);
        // One look at each field is cheaper than three lookups.
        for (name, value) in headers {
            let (slot, twice) = if name == API_KEY {
                (&mut key, "X-Skygear-API-Key is given twice")
            } else if name == ACCESS_TOKEN {
                (&mut token, "X-Skygear-Access-Token is given twice")
            } else if name == AUTHORIZATION {
                (&mut authorization, "Authorization is given twice")
            } else {
                continue;
            };
            if slot.replace(value).is_some() {
                return Err(Error::bad_request(twice));
            }
        }
        let [key, token, authorization] = [key, token, authorization].map(|value| value.and_then(content));

        let mut query_key = None;
        let mut query_token = None;
        for segment in query.unwrap_or_default().split('&') {
            let (slot, twice) = match credential(segment) {
                Some((Parameter::ApiKey, value)) => (query_key.replace(value), "api_key is given twice"),
                Some((Parameter::AccessToken, value)) => {
                    (query_token.replace(value), "access_token is given twice")
                }
                None => continue,
            };
            if slot.is_some() {
                return Err(Error::bad_request(twice));
            }
        }
        Ok(Self {
            key: agree(key, query_key, "X-Skygear-API-Key and the query's api_key differ")?,
            token: agree(token, query_token, "X-Skygear-Access-Token and the query's access_token differ")?,
            bearer: authorization.and_then(bearer_token),
        })
    }
}

/// The user that `X-Gearway-User-Id` names. It counts only beside a master key, so only then is it read.
pub(super) fn named_user(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    sole(headers, &USER_ID, "X-Gearway-User-Id is given twice")?
        .map(std::str::from_utf8)
        .transpose()
        .map_err(|_| Error::bad_request("X-Gearway-User-Id is not UTF-8"))
}

/// Whether a header belongs to the gateway and is never forwarded: `X-Skygear-API-Key`,
/// `X-Skygear-Access-Token`, and every `X-Gearway-*`, which a client could otherwise use to claim an identity.
/// `Authorization` is for [`Permit::authorization_is_ours`](super::Permit::authorization_is_ours) to judge.
#[must_use]
pub fn is_credential_header(name: &HeaderName) -> bool {
    name == API_KEY || name == ACCESS_TOKEN || name.as_str().starts_with(IDENTITY_PREFIX)
}

/// The query without its `api_key` and `access_token` parameters.
pub(super) fn without_credentials(query: &str) -> Cow<'_, str> {
    if !query.split('&').any(|segment| credential(segment).is_some()) {
        return Cow::Borrowed(query);
    }
    let kept: Vec<&str> = query.split('&').filter(|segment| credential(segment).is_none()).collect();
    Cow::Owned(kept.join("&"))
}

enum Parameter {
    ApiKey,
    AccessToken,
}

/// Names are compared decoded, as the handler's framework would read them: `api%5Fkey` is a credential too.
fn credential(segment: &str) -> Option<(Parameter, Cow<'_, str>)> {
    let (name, value) = form_urlencoded::parse(segment.as_bytes()).next()?;
    match &*name {
        "api_key" => Some((Parameter::ApiKey, value)),
        "access_token" => Some((Parameter::AccessToken, value)),
        _ => None,
    }
}

fn sole<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    twice: &'static str,
) -> Result<Option<&'a [u8]>, Error> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(Error::bad_request(twice));
    }
    Ok(value.and_then(content))
}

/// What stands in a field; [`None`] if nothing does.
fn content(value: &HeaderValue) -> Option<&[u8]> {
    Some(value.as_bytes().trim_ascii()).filter(|value| !value.is_empty())
}

fn agree<'a>(
    header: Option<&'a [u8]>,
    query: Option<Cow<'a, str>>,
    differ: &'static str,
) -> Result<Option<Cow<'a, [u8]>>, Error> {
    match (header, query.filter(|value| !value.is_empty())) {
        (Some(header), Some(query)) if header != query.as_bytes() => Err(Error::bad_request(differ)),
        (Some(header), _) => Ok(Some(Cow::Borrowed(header))),
        (None, Some(Cow::Borrowed(query))) => Ok(Some(Cow::Borrowed(query.as_bytes()))),
        (None, Some(Cow::Owned(query))) => Ok(Some(Cow::Owned(query.into_bytes()))),
        (None, None) => Ok(None),
    }
}

/// RFC 9110 section 11.4: the scheme is case-insensitive, and spaces separate it from the token.
fn bearer_token(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked("Bearer".len())?;
    if !scheme.eq_ignore_ascii_case(b"Bearer") || !token.starts_with(b" ") {
        return None;
    }
    Some(token.trim_ascii()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credential_headers_are_the_three_families() {
        for name in [
            "x-skygear-api-key",
            "x-skygear-access-token",
            "x-gearway-user-id",
            "x-gearway-anything",
            "x-gearway-",
        ] {
            assert!(is_credential_header(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["authorization", "x-skygear-api-key-2", "x-gearway", "x-skygear-request-tag", "cookie"] {
            assert!(!is_credential_header(&HeaderName::from_static(name)), "{name}");
        }
    }

    #[test]
    fn the_query_loses_its_credentials_and_nothing_else() {
        for (query, visible) in [
            ("", ""),
            ("api_key=k", ""),
            ("api_key", ""),
            ("a=1&api_key=k&b=%20+2", "a=1&b=%20+2"),
            ("access_token=t&a=1", "a=1"),
            ("a=1&access_token=t", "a=1"),
            ("api%5Fkey=k&a=1", "a=1"),
            ("%61ccess_token=t", ""),
            ("api_key=k&api_key=l&a", "a"),
            ("a&&api_key=k&", "a&&"),
            ("API_KEY=k&xapi_key=1&b=api_key=2", "API_KEY=k&xapi_key=1&b=api_key=2"),
            ("a=%ff%zz&&=&=x", "a=%ff%zz&&=&=x"),
        ] {
            assert_eq!(without_credentials(query), visible, "{query}");
        }
    }

    #[test]
    fn only_bearer_is_a_token() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bEARER abc", Some("abc")),
            ("Bearer   abc", Some("abc")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Bearerabc", None),
            ("Bearer\tabc", None),
            ("Basic abc", None),
            ("abc", None),
        ] {
            assert_eq!(bearer_token(value.as_bytes()), token.map(str::as_bytes), "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_stays_visible_is_the_other_segments_in_order(
            segments in proptest::collection::vec(
                prop_oneof![
                    "[a-z%0-9=+]{0,6}",
                    Just("api_key=k".to_owned()),
                    Just("access%5ftoken=t".to_owned()),
                    Just("api_key".to_owned()),
                ],
                0..6,
            ),
        ) {
            let query = segments.join("&");
            let visible = without_credentials(&query);
            let is_credential = |segment: &&str| {
                ["api_key=k", "access%5ftoken=t", "api_key"].contains(segment)
            };
            let expected: Vec<&str> = query.split('&').filter(|segment| !is_credential(segment)).collect();
            prop_assert_eq!(&*visible, expected.join("&"));
            prop_assert_eq!(without_credentials(&visible), &*visible);
        }

        #[test]
        fn no_query_shows_a_credential(query in ".{0,40}") {
            let visible = without_credentials(&query);
            let shown = form_urlencoded::parse(visible.as_bytes())
                .any(|(name, _)| name == "api_key" || name == "access_token");
            prop_assert!(!shown);
        }
    }
}
