use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderValue, Uri};
use ipnet::IpNet;
use smallvec::SmallVec;
use url::Url;

/// Where a worker takes envelopes, checked for everything but what its name resolves to.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkerUrl {
    host: Host,
    port: u16,
    target: Uri,
    host_header: HeaderValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(String),
}

/// Why a worker's url cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("{0:?} is not a URL such as http://127.0.0.1:9000/")]
    NotAUrl(String),
    #[error("the scheme {0:?} is not supported; use http")]
    Scheme(String),
    #[error("must not hold a user, a password or a fragment")]
    Extras,
    #[error("{name:?} cannot be resolved: {source}")]
    Unresolved { name: String, source: std::io::Error },
    #[error("{host} resolves to {addresses:?}, which workers.allowed_urls does not allow")]
    NotAllowed { host: String, addresses: Vec<IpAddr> },
}

impl WorkerUrl {
    /// # Errors
    /// When `text` is not an `http` URL of a host, a port and a path.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let not_a_url = || AddressError::NotAUrl(text.to_owned());
        let url = Url::parse(text).map_err(|_| not_a_url())?;
        if url.scheme() != "http" {
            return Err(AddressError::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(AddressError::Extras);
        }
        let host = match url.host().ok_or_else(not_a_url)? {
            url::Host::Domain(name) => Host::Name(name.to_owned()),
            url::Host::Ipv4(address) => Host::Address(address.into()),
            url::Host::Ipv6(address) => Host::Address(address.into()),
        };
        let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
        Ok(Self {
            host,
            port: url.port_or_known_default().ok_or_else(not_a_url)?,
            target: url[url::Position::BeforePath..url::Position::AfterQuery]
                .parse()
                .map_err(|_| not_a_url())?,
            host_header: authority.parse().map_err(|_| not_a_url())?,
        })
    }

    /// The request target of every call.
    #[must_use]
    pub fn target(&self) -> &Uri {
        &self.target
    }

    #[must_use]
    pub fn host_header(&self) -> &HeaderValue {
        &self.host_header
    }
}

impl fmt::Debug for WorkerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.host_header.to_str().unwrap_or("?"), self.target)
    }
}

/// The addresses that the worker's url stands for now, as far as they are allowed. Whoever connects uses one of these, so that a
/// name cannot mean one address when it is checked and another when it is used.
///
/// # Errors
/// When the name does not resolve, or to nothing that is allowed.
pub async fn resolve(url: &WorkerUrl, allowed: &[IpNet]) -> Result<SmallVec<[SocketAddr; 2]>, AddressError> {
    let resolved: SmallVec<[IpAddr; 2]> = match &url.host {
        Host::Address(address) => SmallVec::from_iter([*address]),
        Host::Name(name) => tokio::net::lookup_host((name.as_str(), url.port))
            .await
            .map_err(|source| AddressError::Unresolved { name: name.clone(), source })?
            .map(|address| address.ip())
            .collect(),
    };
    let usable: SmallVec<[SocketAddr; 2]> = resolved
        .iter()
        .map(IpAddr::to_canonical)
        .filter(|address| allowed.iter().any(|range| range.contains(address)))
        .map(|address| SocketAddr::new(address, url.port))
        .collect();
    if usable.is_empty() {
        let host = url.host_header.to_str().unwrap_or("?").to_owned();
        return Err(AddressError::NotAllowed { host, addresses: resolved.into_vec() });
    }
    Ok(usable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Vec<IpNet> {
        ["127.0.0.0/8", "::1/128"].map(|range| range.parse().unwrap()).into()
    }

    #[test]
    fn what_is_not_a_plain_http_url_is_refused() {
        for text in [
            "",
            "127.0.0.1:9000",
            "ftp://127.0.0.1/",
            "https://127.0.0.1/",
            "http://",
            "http://user@127.0.0.1/",
            "http://:secret@127.0.0.1/",
            "http://127.0.0.1/#a",
            "http://127.0.0.1:99999/",
        ] {
            assert!(WorkerUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_host_header_has_the_port_unless_it_is_the_default() {
        let url = WorkerUrl::parse("http://[::1]:9000/calls?key=1").unwrap();
        assert_eq!(
            (url.host_header().to_str().unwrap(), url.target().to_string().as_str()),
            ("[::1]:9000", "/calls?key=1")
        );
        let url = WorkerUrl::parse("http://localhost").unwrap();
        assert_eq!((url.host_header().to_str().unwrap(), url.target().path()), ("localhost", "/"));
    }

    #[tokio::test]
    async fn only_allowed_addresses_are_used() {
        for (text, usable) in [
            ("http://127.0.0.1:1/", true),
            ("http://localhost:1/", true),
            ("http://[::1]:1/", true),
            ("http://[::ffff:127.0.0.1]:1/", true),
            ("http://10.0.0.1:1/", false),
            ("http://[::ffff:10.0.0.1]:1/", false),
            ("http://0x0a000001/", false),
            ("http://169.254.169.254/latest/meta-data", false),
        ] {
            let url = WorkerUrl::parse(text).unwrap();
            assert_eq!(resolve(&url, &allowed()).await.is_ok(), usable, "{text}");
        }
    }
}
