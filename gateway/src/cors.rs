//! Which web pages may call handlers from a browser. The Fetch standard's CORS protocol; contract section 2, `cors.origins`.
//!
//! Off without `public.cors.origins`: then a worker's own `Access-Control-*` headers pass, and OPTIONS is a method like any
//! other. With it the gateway speaks for every handler: it answers preflights and puts its own headers on every response,
//! errors and redirects too, in place of the worker's. A handler that registered OPTIONS itself gets those requests.
//!
//! Origins that are listed may send cookies; with `"*"` nobody may, and the response does not depend on who asks.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

/// What a preflight that names no headers is told; one that does is told those.
const USUAL_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, x-skygear-access-token, x-skygear-api-key");
/// What a page may read of a response besides what every page may.
const EXPOSED: HeaderValue = HeaderValue::from_static("retry-after, x-gearway-delivery, x-request-id");
/// How long a browser may go by a preflight's answer. Routes come and go, so not for hours.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// `public.cors.origins`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origins {
    /// No CORS.
    #[default]
    Off,
    Any,
    /// As browsers send them: `https://app.example.com`.
    Listed(Vec<String>),
}

impl Origins {
    #[must_use]
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }

    /// The answer to a preflight for a path with these methods. [`None`] for whatever is no preflight of an origin that may
    /// call.
    pub fn preflight<'m>(
        &self,
        headers: &HeaderMap,
        methods: impl Iterator<Item = &'m Method>,
    ) -> Option<Response<Bytes>> {
        self.allowed(headers)?;
        headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let mut methods: Vec<&str> = methods.map(Method::as_str).collect();
        methods.sort_unstable();
        let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).filter(|asked| is_list_of_names(asked));
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let answer = response.headers_mut();
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::try_from(methods.join(", ")).ok()?);
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.cloned().unwrap_or(USUAL_HEADERS));
        answer.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        answer.append(VARY, HeaderValue::from_static("access-control-request-headers"));
        Some(response)
    }

    /// Puts what the browser has to know on a response to a request with these headers.
    pub fn mark(&self, request: &HeaderMap, response: &mut HeaderMap) {
        if self.is_off() {
            return;
        }
        for worker_s in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS] {
            response.remove(worker_s);
        }
        if let Self::Listed(_) = self {
            response.append(VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = self.allowed(request) else { return };
        match self {
            Self::Off => {}
            Self::Any => drop(response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))),
            Self::Listed(_) => {
                response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
        if !response.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS) {
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }

    /// The request's origin, if it may call.
    fn allowed<'r>(&self, request: &'r HeaderMap) -> Option<&'r HeaderValue> {
        let mut origins = request.get_all(ORIGIN).iter();
        let origin = origins.next()?;
        let allowed = match self {
            Self::Off => false,
            Self::Any => true,
            Self::Listed(listed) => listed.iter().any(|listed| listed.as_bytes() == origin.as_bytes()),
        };
        (allowed && origins.next().is_none()).then_some(origin)
    }
}

fn is_list_of_names(value: &HeaderValue) -> bool {
    let names = value.to_str().unwrap_or_default();
    names.split(',').all(|name| HeaderName::try_from(name.trim()).is_ok())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn shown(map: &HeaderMap) -> Vec<(&str, &str)> {
        let mut shown: Vec<_> =
            map.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        shown.sort_unstable();
        shown
    }

    fn listed() -> Origins {
        Origins::Listed(vec!["https://a.example".into(), "null".into()])
    }

    #[test]
    fn any_origin_gets_a_star_and_no_credentials() {
        let mut response = headers(&[("access-control-allow-credentials", "true")]);
        Origins::Any.mark(&headers(&[("origin", "https://b.example")]), &mut response);
        assert_eq!(
            shown(&response),
            [
                ("access-control-allow-origin", "*"),
                ("access-control-expose-headers", EXPOSED.to_str().unwrap())
            ]
        );
    }

    #[test]
    fn a_listed_origin_gets_its_own_name_and_others_nothing() {
        for (origin, allowed) in [
            ("https://a.example", true),
            ("https://A.example", false),
            ("https://a.example:8443", false),
            ("http://a.example", false),
            ("https://a.example.evil.example", false),
            ("null", true),
        ] {
            let mut response = headers(&[("access-control-allow-origin", "https://worker.example")]);
            listed().mark(&headers(&[("origin", origin)]), &mut response);
            let named = response.get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap());
            assert_eq!(named, allowed.then_some(origin));
            assert_eq!(response.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS), allowed);
            assert_eq!(response[VARY], "origin");
        }
        let mut response = HeaderMap::new();
        listed().mark(&headers(&[("origin", "https://a.example"), ("origin", "null")]), &mut response);
        assert_eq!(shown(&response), [("vary", "origin")]);
    }

    #[test]
    fn off_changes_nothing() {
        let worker_s = headers(&[("access-control-allow-origin", "https://worker.example")]);
        let mut response = worker_s.clone();
        let request = headers(&[("origin", "https://a.example"), ("access-control-request-method", "PUT")]);
        Origins::Off.mark(&request, &mut response);
        assert_eq!(response, worker_s);
        assert!(Origins::Off.preflight(&request, [Method::GET].iter()).is_none());
    }

    #[test]
    fn a_preflight_names_what_is_there_and_what_was_asked() {
        let ask = |fields: &[(&'static str, &'static str)]| {
            let methods = [Method::PUT, Method::GET];
            listed().preflight(&headers(fields), methods.iter()).map(|response| response.headers().clone())
        };
        let origin = ("origin", "https://a.example");
        let method = ("access-control-request-method", "PUT");
        let answer = ask(&[origin, method, ("access-control-request-headers", "x-a,x-b")]).unwrap();
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_METHODS], "GET, PUT");
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_HEADERS], "x-a,x-b");
        for odd in ["", "x a", "x:a"] {
            let answer = ask(&[origin, method, ("access-control-request-headers", odd)]).unwrap();
            assert_eq!(answer[ACCESS_CONTROL_ALLOW_HEADERS], USUAL_HEADERS, "{odd}");
        }
        assert!(ask(&[origin]).is_none());
        assert!(ask(&[method]).is_none());
        assert!(ask(&[("origin", "https://b.example"), method]).is_none());
    }
}
