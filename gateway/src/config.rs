//! The gateway's configuration, checked once and typed. Contract section 2.
//!
//! `schema` is the one table of keys: the file, the environment, the search for unknown keys and the test of the
//! template all go through it. `load` lays the sources over each other, `document` walks the file, `read` checks one
//! value, `check` compares keys with each other.

mod check;
mod document;
mod given;
mod load;
mod mistake;
mod named;
mod public_url;
mod read;
mod schema;
mod secret_file;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio_rustls::rustls::ClientConfig;

use crate::cors::Origins;

use crate::access_log::AccessFields;
pub use load::{Overrides, Sources};
pub use mistake::{Mistake, Position, Source, Warning};
pub use named::NamedSecrets;
pub use public_url::PublicUrl;
pub use value::duration as duration_from_text;

/// Every key with its default and what it means, for people: what `gearway config-template` prints.
pub const TEMPLATE: &str = include_str!("../config.default.toml");

/// Everything that a gateway can be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub data_dir: PathBuf,
    pub public: Public,
    pub admin: Admin,
    pub auth: Auth,
    pub runtime: Runtime,
    pub limits: Limits,
    pub workers: Workers,
    pub secrets: NamedSecrets,
    pub webhooks: Webhooks,
    pub log: Log,
    pub plugins: Vec<Plugin>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Public {
    pub listen: SocketAddr,
    pub unmatched: Unmatched,
    pub trusted_proxies: Vec<IpNet>,
    pub drain_timeout: Duration,
    /// Absent: clear text.
    pub tls: Option<Tls>,
    /// Whether clients may speak HTTP/2 in clear text, without asking first.
    pub h2c: bool,
    /// Whether connections from trusted proxies begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    pub cors: Origins,
    pub rate_limit: RateLimit,
}

/// The public listener's certificate chain and its key, in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// How often clients may call; absent for as often as they like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// For each API key.
    pub per_key: Option<Rate>,
    /// For each client address.
    pub per_address: Option<Rate>,
}

/// So many requests at once, and as many again over each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub requests: NonZeroU32,
    pub period: Duration,
}

/// What a path that nobody registered gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmatched {
    /// 200 `{"result":{"status":"OK"}}`, as Skygear answered.
    Ok,
    /// 404.
    NotFound,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    pub listen: SocketAddr,
    /// None set: one is made and kept in `data_dir`.
    pub tokens: Vec<Secret>,
    /// None set: one is made and kept in `data_dir`.
    pub registration_tokens: Vec<RegistrationToken>,
}

/// Lets workers register, and nothing else.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistrationToken {
    pub token: Secret,
    /// The worker names that it may register; absent: any.
    pub names: Option<Vec<String>>,
    /// The paths that it may register, a trailing `/` standing for everything below; absent: any.
    pub paths: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    pub client_keys: Vec<Secret>,
    pub master_keys: Vec<Secret>,
    pub user_requires_key: bool,
    pub query_credentials: bool,
    pub jwt: Option<Jwt>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Jwt {
    pub keys: JwtKeys,
    pub issuer: Option<String>,
    pub audience: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum JwtKeys {
    /// HS256; more than one during a rotation.
    Secrets(Vec<Secret>),
    /// A PEM file; the key's type pins the algorithm.
    PublicKeyFile(PathBuf),
    JwksUrl(url::Url),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Runtime {
    /// Relay threads, at least 1: `0` in the file has become the number of cores.
    pub threads: usize,
}

/// Sizes are in bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    pub max_body: u64,
    pub max_header: u64,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub request_timeout: Duration,
    pub max_connections: usize,
    /// 0: no limit.
    pub max_connections_per_address: usize,
    pub max_in_flight: usize,
    pub max_bytes_in_flight: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Workers {
    pub lease: Duration,
    pub park: Duration,
    pub remember: Duration,
    /// The networks that worker URLs may resolve to.
    pub allowed_urls: Vec<IpNet>,
    /// The folders below which worker sockets may lie.
    pub allowed_sockets: Vec<PathBuf>,
    /// Absent: no worker's URL can be https.
    pub tls: Option<WorkerTls>,
}

/// How the gateway knows workers whose URL is https, and shows itself to them.
#[derive(Clone)]
pub struct WorkerTls {
    pub ca_file: PathBuf,
    /// The gateway's own certificate.
    pub identity: Option<Tls>,
    /// What the files held when they were read.
    pub client: Arc<ClientConfig>,
}

/// Compares the paths: what is in the files is read again with every configuration.
impl PartialEq for WorkerTls {
    fn eq(&self, other: &Self) -> bool {
        self.ca_file == other.ca_file && self.identity == other.identity
    }
}

impl fmt::Debug for WorkerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerTls")
            .field("ca_file", &self.ca_file)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Webhooks {
    /// Absent: schemes that sign the URL cannot be verified.
    pub public_url: Option<PublicUrl>,
    /// How long what was delivered can be looked at; the undelivered stay.
    pub retention: Duration,
    /// In bytes; beyond them nothing more is kept.
    pub max_stored: u64,
}

/// What is logged beside what happens to the gateway itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// Whether each request is.
    pub access: bool,
    pub access_fields: AccessFields,
}

/// A worker that cannot register itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    pub name: String,
    pub url: String,
    /// `gearway-v1` or `skygear-v1`.
    pub protocol: String,
}

/// Text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Config {
    /// The keys whose values differ in `new` and that a running gateway cannot change.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        [
            ("data_dir", self.data_dir != new.data_dir),
            ("public.listen", self.public.listen != new.public.listen),
            ("admin.listen", self.admin.listen != new.admin.listen),
            ("runtime.threads", self.runtime.threads != new.runtime.threads),
            ("limits.max_connections", self.limits.max_connections != new.limits.max_connections),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./gearway-data"),
            public: Public {
                listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 3000)),
                unmatched: Unmatched::Ok,
                trusted_proxies: Vec::new(),
                drain_timeout: Duration::from_secs(30),
                tls: None,
                h2c: false,
                proxy_protocol: false,
                cors: Origins::Off,
                rate_limit: RateLimit::default(),
            },
            admin: Admin {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 3001)),
                tokens: Vec::new(),
                registration_tokens: Vec::new(),
            },
            auth: Auth {
                client_keys: Vec::new(),
                master_keys: Vec::new(),
                user_requires_key: true,
                query_credentials: false,
                jwt: None,
            },
            runtime: Runtime { threads: one_thread_per_core() },
            limits: Limits {
                max_body: 10 << 20,
                max_header: 32 << 10,
                header_timeout: Duration::from_secs(10),
                body_timeout: Duration::from_mins(1),
                request_timeout: Duration::from_mins(1),
                max_connections: 10_000,
                max_connections_per_address: 0,
                max_in_flight: 2_000,
                max_bytes_in_flight: 256 << 20,
            },
            workers: Workers {
                lease: Duration::from_secs(10),
                park: Duration::from_secs(2),
                remember: Duration::from_hours(7 * 24),
                allowed_urls: vec![
                    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
                    IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
                ],
                allowed_sockets: Vec::new(),
                tls: None,
            },
            secrets: NamedSecrets::default(),
            webhooks: Webhooks {
                public_url: None,
                retention: Duration::from_hours(7 * 24),
                max_stored: 4 << 30,
            },
            log: Log { access: false, access_fields: AccessFields::all() },
            plugins: Vec::new(),
        }
    }
}

/// What `runtime.threads = 0` means. Where the number of cores cannot be known, one thread works everywhere.
fn one_thread_per_core() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
