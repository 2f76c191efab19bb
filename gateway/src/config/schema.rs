//! The one table of keys.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use crate::cors::Origins;

use super::{
    AccessFields, Config, NamedSecrets, Plugin, PublicUrl, Rate, RegistrationToken, Secret, Unmatched,
};

/// A configuration while it is being put together: the defaults, with one value after the other laid over them.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) jwt: JwtDraft,
    pub(super) public_tls: TlsDraft,
    pub(super) workers_ca_file: Option<PathBuf>,
    pub(super) workers_tls: TlsDraft,
}

/// A certificate and its key before it is known whether both were given.
#[derive(Debug, Default)]
pub(super) struct TlsDraft {
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
}

/// `auth.jwt` before it is known which of its keys were given.
#[derive(Debug, Default)]
pub(super) struct JwtDraft {
    pub(super) secrets: Vec<Secret>,
    pub(super) public_key_file: Option<PathBuf>,
    pub(super) jwks_url: Option<Url>,
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<String>,
}

#[derive(Debug)]
pub(super) struct Key {
    /// The path, as `limits.max_body`.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
}

/// A key, or the `x_file` key of a secret `x`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) key: &'static Key,
    /// The value is the path of a file that holds the secrets.
    pub(super) by_file: bool,
}

#[derive(Debug)]
pub(super) enum Kind {
    Plain(Plain),
    Secrets(Secrets),
    /// `[secrets]`, whose keys are names of the user's own.
    NamedSecrets(Field<NamedSecrets>),
    /// `[[plugin]]`.
    Plugins(Field<Vec<Plugin>>),
}

/// A value that messages may show.
#[derive(Debug)]
pub(super) enum Plain {
    Boolean(Field<bool>),
    Count(RangeInclusive<usize>, Field<usize>),
    /// In bytes.
    Size(RangeInclusive<u64>, Field<u64>),
    Duration(RangeInclusive<Duration>, Field<Duration>),
    Rate(Field<Option<Rate>>),
    Listen(Field<SocketAddr>),
    Networks(Field<Vec<IpNet>>),
    /// Networks, and folders as `unix:/run/workers/`.
    WorkerUrls(Field<Vec<IpNet>>, Field<Vec<PathBuf>>),
    Unmatched(Field<Unmatched>),
    Origins(Field<Origins>),
    Directory(Field<PathBuf>),
    Text(Field<Option<String>>),
    Url(Field<Option<Url>>),
    PublicUrl(Field<Option<PublicUrl>>),
    ReadableFile(Field<Option<PathBuf>>),
    AccessFields(Field<AccessFields>),
}

/// A value that nothing may show, and that an `x_file` may hold.
#[derive(Debug)]
pub(super) enum Secrets {
    /// What callers present in a header.
    Credentials(Field<Vec<Secret>>),
    /// One string or a list.
    Jwt(Field<Vec<Secret>>),
    RegistrationTokens(Field<Vec<RegistrationToken>>),
}

/// Where in the draft a value goes.
type Field<T> = fn(&mut Draft) -> &mut T;

const TEN_MS: Duration = Duration::from_millis(10);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

pub(super) static KEYS: &[Key] = &[
    plain("data_dir", Plain::Directory(|d| &mut d.config.data_dir)),
    plain("public.listen", Plain::Listen(|d| &mut d.config.public.listen)),
    plain("public.unmatched", Plain::Unmatched(|d| &mut d.config.public.unmatched)),
    plain("public.trusted_proxies", Plain::Networks(|d| &mut d.config.public.trusted_proxies)),
    plain(
        "public.drain_timeout",
        Plain::Duration(Duration::ZERO..=DAY, |d| &mut d.config.public.drain_timeout),
    ),
    plain("public.h2c", Plain::Boolean(|d| &mut d.config.public.h2c)),
    plain("public.proxy_protocol", Plain::Boolean(|d| &mut d.config.public.proxy_protocol)),
    plain("public.cors.origins", Plain::Origins(|d| &mut d.config.public.cors)),
    plain("public.tls.cert_file", Plain::ReadableFile(|d| &mut d.public_tls.cert_file)),
    plain("public.tls.key_file", Plain::ReadableFile(|d| &mut d.public_tls.key_file)),
    plain("public.rate_limit.per_key", Plain::Rate(|d| &mut d.config.public.rate_limit.per_key)),
    plain("public.rate_limit.per_address", Plain::Rate(|d| &mut d.config.public.rate_limit.per_address)),
    plain("admin.listen", Plain::Listen(|d| &mut d.config.admin.listen)),
    secrets("admin.tokens", Secrets::Credentials(|d| &mut d.config.admin.tokens)),
    secrets(
        "admin.registration_tokens",
        Secrets::RegistrationTokens(|d| &mut d.config.admin.registration_tokens),
    ),
    secrets("auth.client_keys", Secrets::Credentials(|d| &mut d.config.auth.client_keys)),
    secrets("auth.master_keys", Secrets::Credentials(|d| &mut d.config.auth.master_keys)),
    plain("auth.user_requires_key", Plain::Boolean(|d| &mut d.config.auth.user_requires_key)),
    plain("auth.query_credentials", Plain::Boolean(|d| &mut d.config.auth.query_credentials)),
    secrets("auth.jwt.secret", Secrets::Jwt(|d| &mut d.jwt.secrets)),
    plain("auth.jwt.public_key_file", Plain::ReadableFile(|d| &mut d.jwt.public_key_file)),
    plain("auth.jwt.jwks_url", Plain::Url(|d| &mut d.jwt.jwks_url)),
    plain("auth.jwt.issuer", Plain::Text(|d| &mut d.jwt.issuer)),
    plain("auth.jwt.audience", Plain::Text(|d| &mut d.jwt.audience)),
    plain("runtime.threads", Plain::Count(0..=1024, |d| &mut d.config.runtime.threads)),
    plain("limits.max_body", Plain::Size(1..=4 << 30, |d| &mut d.config.limits.max_body)),
    // The HTTP parser's buffer cannot be smaller than 8 KiB.
    plain("limits.max_header", Plain::Size(8 << 10..=1 << 20, |d| &mut d.config.limits.max_header)),
    plain("limits.header_timeout", Plain::Duration(TEN_MS..=HOUR, |d| &mut d.config.limits.header_timeout)),
    plain("limits.body_timeout", Plain::Duration(TEN_MS..=DAY, |d| &mut d.config.limits.body_timeout)),
    plain("limits.request_timeout", Plain::Duration(TEN_MS..=DAY, |d| &mut d.config.limits.request_timeout)),
    plain("limits.max_connections", Plain::Count(1..=10_000_000, |d| &mut d.config.limits.max_connections)),
    plain(
        "limits.max_connections_per_address",
        Plain::Count(0..=10_000_000, |d| &mut d.config.limits.max_connections_per_address),
    ),
    plain("limits.max_in_flight", Plain::Count(1..=10_000_000, |d| &mut d.config.limits.max_in_flight)),
    plain(
        "limits.max_bytes_in_flight",
        Plain::Size(1..=16 << 40, |d| &mut d.config.limits.max_bytes_in_flight),
    ),
    plain(
        "workers.lease",
        Plain::Duration(Duration::from_millis(100)..=DAY, |d| &mut d.config.workers.lease),
    ),
    plain("workers.park", Plain::Duration(Duration::ZERO..=HOUR, |d| &mut d.config.workers.park)),
    plain(
        "workers.remember",
        Plain::Duration(Duration::ZERO..=Duration::from_hours(3650 * 24), |d| &mut d.config.workers.remember),
    ),
    plain(
        "workers.allowed_urls",
        Plain::WorkerUrls(|d| &mut d.config.workers.allowed_urls, |d| &mut d.config.workers.allowed_sockets),
    ),
    plain("workers.tls.ca_file", Plain::ReadableFile(|d| &mut d.workers_ca_file)),
    plain("workers.tls.cert_file", Plain::ReadableFile(|d| &mut d.workers_tls.cert_file)),
    plain("workers.tls.key_file", Plain::ReadableFile(|d| &mut d.workers_tls.key_file)),
    Key { path: "secrets", kind: Kind::NamedSecrets(|d| &mut d.config.secrets) },
    plain("webhooks.public_url", Plain::PublicUrl(|d| &mut d.config.webhooks.public_url)),
    plain(
        "webhooks.retention",
        Plain::Duration(Duration::ZERO..=Duration::from_hours(3650 * 24), |d| {
            &mut d.config.webhooks.retention
        }),
    ),
    plain("webhooks.max_stored", Plain::Size(1 << 20..=16 << 40, |d| &mut d.config.webhooks.max_stored)),
    plain("log.access", Plain::Boolean(|d| &mut d.config.log.access)),
    plain("log.access_fields", Plain::AccessFields(|d| &mut d.config.log.access_fields)),
    Key { path: "plugin", kind: Kind::Plugins(|d| &mut d.config.plugins) },
];

/// Every key that a file may have, the `x_file` keys among them.
pub(super) fn slots() -> impl Iterator<Item = Slot> {
    KEYS.iter().flat_map(|key| {
        let by_file = match key.kind {
            Kind::Secrets(_) => Some(Slot { key, by_file: true }),
            Kind::Plain(_) | Kind::NamedSecrets(_) | Kind::Plugins(_) => None,
        };
        std::iter::once(Slot { key, by_file: false }).chain(by_file)
    })
}

/// Whether keys live below this path.
pub(super) fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The message for a key that is not in the table.
pub(super) fn unknown_key(path: &str) -> String {
    let mut known: Vec<String> = slots().map(Slot::path).collect();
    known.extend(
        KEYS.iter().filter_map(|key| key.path.rsplit_once('.')).map(|(section, _)| section.to_owned()),
    );
    let last = |path: &str| path.rsplit('.').next().map(str::to_owned);
    let meant = nearest(path, known.iter().map(String::as_str))
        .or_else(|| known.iter().map(String::as_str).find(|name| last(name) == last(path)));
    did_you_mean(meant)
}

/// The message for a field that a table inside a key's value does not have.
pub(super) fn unknown_field(name: &str, known: &[&'static str]) -> String {
    did_you_mean(nearest(name, known.iter().copied()))
}

fn did_you_mean(meant: Option<&str>) -> String {
    match meant {
        Some(name) => format!("unknown key; did you mean {name}?"),
        None => "unknown key; `gearway config-template` shows those that exist".to_owned(),
    }
}

/// At most a third of the last segment may differ, so that a suggestion is a misspelling and not just another key.
fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last_segment = unknown.rsplit('.').next().unwrap_or(unknown);
    let most = (last_segment.chars().count() / 3).max(1);
    known
        .map(|name| (strsim::damerau_levenshtein(unknown, name), name))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, name)| name)
}

impl Slot {
    pub(super) fn path(self) -> String {
        format!("{}{}", self.key.path, if self.by_file { "_file" } else { "" })
    }

    /// The environment variable that gives this key; `None` for what does not fit into one.
    pub(super) fn variable(self) -> Option<String> {
        match self.key.kind {
            Kind::Plain(_) | Kind::Secrets(_) => {
                Some(format!("GEARWAY_{}", self.path().replace('.', "__").to_uppercase()))
            }
            // Its variables have names of the user's own.
            Kind::NamedSecrets(_) | Kind::Plugins(_) => None,
        }
    }
}

const fn plain(path: &'static str, kind: Plain) -> Key {
    Key { path, kind: Kind::Plain(kind) }
}

const fn secrets(path: &'static str, kind: Secrets) -> Key {
    Key { path, kind: Kind::Secrets(kind) }
}
