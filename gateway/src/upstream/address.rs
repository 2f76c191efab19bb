use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use http::{HeaderValue, Uri};
use smallvec::SmallVec;
use tokio_rustls::rustls::pki_types::ServerName;
use url::Url;

use crate::config::Workers;

/// The longest path that the address of a socket holds.
const MAX_SOCKET_PATH: usize = 107;

/// Where a worker takes envelopes, checked for everything but what its name resolves to.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkerUrl {
    place: Place,
    target: Uri,
    host_header: HeaderValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Network {
        host: Host,
        port: u16,
        /// What the worker's certificate must be for, where there is one.
        certified: Option<ServerName<'static>>,
    },
    Socket(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(String),
}

/// Where a worker can be connected to now.
#[derive(Debug)]
pub enum Destination {
    Network(SmallVec<[SocketAddr; 2]>),
    Socket(PathBuf),
}

/// Why a worker's url cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("{0:?} is not a URL such as http://127.0.0.1:9000/ or unix:/run/orders.sock")]
    NotAUrl(String),
    #[error("the scheme {0:?} is not supported; use http, https or unix")]
    Scheme(String),
    #[error("must not hold a user, a password or a fragment")]
    Extras,
    #[error(
        "the path of a socket must be absolute and plain, of at most {MAX_SOCKET_PATH} bytes, as in unix:/run/orders.sock"
    )]
    SocketPath,
    #[error("https needs workers.tls.ca_file, the authority that certifies workers")]
    NoAuthority,
    #[error("{name:?} cannot be resolved: {source}")]
    Unresolved { name: String, source: std::io::Error },
    #[error("{host} resolves to {addresses:?}, which workers.allowed_urls does not allow")]
    NotAllowed { host: String, addresses: Vec<IpAddr> },
    #[error("{} is below none of the folders that workers.allowed_urls allows, as \"unix:/run/\" would", .0.display())]
    SocketNotAllowed(PathBuf),
}

impl WorkerUrl {
    /// # Errors
    /// When `text` is neither an `http` or `https` URL of a host, a port and a path, nor `unix:` and the path of a socket.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::socket(path);
        }
        let not_a_url = || AddressError::NotAUrl(text.to_owned());
        let url = Url::parse(text).map_err(|_| not_a_url())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(AddressError::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(AddressError::Extras);
        }
        let (host, name) = match url.host().ok_or_else(not_a_url)? {
            url::Host::Domain(name) => {
                (Host::Name(name.to_owned()), ServerName::try_from(name.to_owned()).map_err(|_| not_a_url()))
            }
            url::Host::Ipv4(address) => (Host::Address(address.into()), Ok(IpAddr::V4(address).into())),
            url::Host::Ipv6(address) => (Host::Address(address.into()), Ok(IpAddr::V6(address).into())),
        };
        let certified = if url.scheme() == "https" { Some(name?) } else { None };
        let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
        Ok(Self {
            place: Place::Network {
                host,
                port: url.port_or_known_default().ok_or_else(not_a_url)?,
                certified,
            },
            target: url[url::Position::BeforePath..url::Position::AfterQuery]
                .parse()
                .map_err(|_| not_a_url())?,
            host_header: authority.parse().map_err(|_| not_a_url())?,
        })
    }

    fn socket(path: &str) -> Result<Self, AddressError> {
        let segments = path.strip_prefix('/').ok_or(AddressError::SocketPath)?.split('/');
        let plain = |segment: &str| !matches!(segment, "" | "." | "..");
        if path.len() > MAX_SOCKET_PATH || path.contains(char::is_control) || !{ segments }.all(plain) {
            return Err(AddressError::SocketPath);
        }
        Ok(Self {
            place: Place::Socket(path.into()),
            target: Uri::from_static("/"),
            host_header: HeaderValue::from_static("localhost"),
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

    /// The name that the worker's certificate must be for; [`None`] for a worker without one.
    #[must_use]
    pub fn certified_name(&self) -> Option<&ServerName<'static>> {
        match &self.place {
            Place::Network { certified, .. } => certified.as_ref(),
            Place::Socket(_) => None,
        }
    }
}

impl fmt::Debug for WorkerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match &self.place {
            Place::Network { certified: None, .. } => "http",
            Place::Network { certified: Some(_), .. } => "https",
            Place::Socket(path) => return write!(f, "unix:{}", path.display()),
        };
        write!(f, "{scheme}://{}{}", self.host_header.to_str().unwrap_or("?"), self.target)
    }
}

/// Where the worker's url leads now, as far as that is allowed. Whoever connects uses what is returned, so that a name or a link
/// cannot mean one thing when it is checked and another when it is used.
///
/// # Errors
/// When it leads nowhere, or to nothing that is allowed.
pub async fn resolve(url: &WorkerUrl, workers: &Workers) -> Result<Destination, AddressError> {
    if url.certified_name().is_some() && workers.tls.is_none() {
        return Err(AddressError::NoAuthority);
    }
    match &url.place {
        Place::Network { host, port, .. } => {
            let resolved: SmallVec<[IpAddr; 2]> = match host {
                Host::Address(address) => SmallVec::from_iter([*address]),
                Host::Name(name) => tokio::net::lookup_host((name.as_str(), *port))
                    .await
                    .map_err(|source| AddressError::Unresolved { name: name.clone(), source })?
                    .map(|address| address.ip())
                    .collect(),
            };
            let usable: SmallVec<[SocketAddr; 2]> = resolved
                .iter()
                .map(IpAddr::to_canonical)
                .filter(|address| workers.allowed_urls.iter().any(|range| range.contains(address)))
                .map(|address| SocketAddr::new(address, *port))
                .collect();
            if usable.is_empty() {
                let host = url.host_header.to_str().unwrap_or("?").to_owned();
                return Err(AddressError::NotAllowed { host, addresses: resolved.into_vec() });
            }
            Ok(Destination::Network(usable))
        }
        Place::Socket(path) => {
            let unresolved =
                |source| AddressError::Unresolved { name: path.to_string_lossy().into_owned(), source };
            if !workers.allowed_sockets.iter().any(|folder| is_below(path, folder)) {
                return Err(AddressError::SocketNotAllowed(path.clone()));
            }
            // A link must not lead out of what is allowed.
            let real = tokio::fs::canonicalize(path).await.map_err(unresolved)?;
            for folder in &workers.allowed_sockets {
                if let Ok(folder) = tokio::fs::canonicalize(folder).await
                    && is_below(&real, &folder)
                {
                    return Ok(Destination::Socket(real));
                }
            }
            Err(AddressError::SocketNotAllowed(real))
        }
    }
}

fn is_below(path: &Path, folder: &Path) -> bool {
    path.starts_with(folder) && path != folder
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn workers() -> Workers {
        Config::default().workers
    }

    #[test]
    fn what_is_neither_a_plain_url_nor_a_socket_is_refused() {
        for text in [
            "",
            "127.0.0.1:9000",
            "ftp://127.0.0.1/",
            "http://",
            "https://",
            "http://user@127.0.0.1/",
            "http://:secret@127.0.0.1/",
            "http://127.0.0.1/#a",
            "http://127.0.0.1:99999/",
            "unix:",
            "unix:/",
            "unix:orders.sock",
            "unix:///run/orders.sock",
            "unix:/run/../etc/orders.sock",
            "unix:/run/./orders.sock",
            "unix:/run/",
            "unix:/run/a\0b",
            &format!("unix:/{}", "x".repeat(MAX_SOCKET_PATH)),
        ] {
            assert!(WorkerUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_host_header_has_the_port_unless_it_is_the_default() {
        for (text, host, target) in [
            ("http://[::1]:9000/calls?key=1", "[::1]:9000", "/calls?key=1"),
            ("http://localhost", "localhost", "/"),
            ("https://localhost:443/", "localhost", "/"),
            ("https://localhost:80/", "localhost:80", "/"),
            ("unix:/run/orders.sock", "localhost", "/"),
        ] {
            let url = WorkerUrl::parse(text).unwrap();
            assert_eq!(
                (url.host_header().to_str().unwrap(), url.target().to_string().as_str()),
                (host, target)
            );
        }
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
            ("https://127.0.0.1:1/", false),
            ("unix:/run/orders.sock", false),
        ] {
            let url = WorkerUrl::parse(text).unwrap();
            assert_eq!(resolve(&url, &workers()).await.is_ok(), usable, "{text}");
        }
    }

    #[tokio::test]
    async fn sockets_lie_below_an_allowed_folder_whatever_links_say() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        for folder in [&inside, &outside] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("sock"), "").unwrap();
        }
        std::os::unix::fs::symlink(outside.join("sock"), inside.join("leads-out")).unwrap();
        std::os::unix::fs::symlink(inside.join("sock"), inside.join("stays")).unwrap();
        let workers = Workers { allowed_sockets: vec![inside.clone()], ..workers() };
        for (path, usable) in [
            (inside.join("sock"), true),
            (inside.join("stays"), true),
            (inside.join("leads-out"), false),
            (inside.join("missing"), false),
            (outside.join("sock"), false),
            (folder.path().join("in-sock"), false),
        ] {
            let url = WorkerUrl::parse(&format!("unix:{}", path.display())).unwrap();
            assert_eq!(resolve(&url, &workers).await.is_ok(), usable, "{}", path.display());
        }
    }
}
