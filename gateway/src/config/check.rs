//! What only shows when keys are compared with each other.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use url::{Host, Url};

use super::load::Places;
use super::schema::{Draft, JwtDraft, TlsDraft};
use super::{Config, Jwt, JwtKeys, Mistake, Secret, Source, Tls, Warning, WorkerTls};
use crate::tls::{self, Unusable};

/// An HS256 key that is shorter than the hash can be guessed more easily than the hash (RFC 7518 section 3.2).
const HS256_KEY_BYTES: usize = 32;

#[derive(Default)]
pub(super) struct Found {
    pub(super) mistakes: Vec<Mistake>,
    pub(super) warnings: Vec<Warning>,
}

/// Compares the draft's keys and completes its configuration. `mistakes` are those of single values.
pub(super) fn check(draft: &mut Draft, places: &Places, mistakes: &[Mistake]) -> Found {
    let mut checking = Checking { places, found: Found::default() };
    draft.config.auth.jwt = checking.jwt(std::mem::take(&mut draft.jwt));
    draft.config.public.tls = checking.public_tls(std::mem::take(&mut draft.public_tls));
    let ca_file = draft.workers_ca_file.take();
    draft.config.workers.tls = checking.workers_tls(ca_file, std::mem::take(&mut draft.workers_tls));
    if draft.config.runtime.threads == 0 {
        draft.config.runtime.threads = super::one_thread_per_core();
    }
    checking.secrets_with_two_purposes(&draft.config);
    checking.listeners(&draft.config, mistakes);
    checking.budget(&draft.config);
    checking.proxies(&draft.config);
    checking.plugin_addresses(&draft.config);
    checking.found
}

struct Checking<'a> {
    places: &'a Places,
    found: Found,
}

impl Checking<'_> {
    fn jwt(&mut self, jwt: JwtDraft) -> Option<Jwt> {
        const KEYS: [&str; 3] = ["auth.jwt.secret", "auth.jwt.public_key_file", "auth.jwt.jwks_url"];
        let given: Vec<&str> = KEYS.into_iter().filter(|key| self.places.contains_key(*key)).collect();
        match given.as_slice() {
            [_] => {}
            [] => {
                let others = ["auth.jwt", "auth.jwt.issuer", "auth.jwt.audience"];
                if others.iter().any(|key| self.places.contains_key(*key)) {
                    self.mistake(&others, &format!("needs one of {}, {} and {}", KEYS[0], KEYS[1], KEYS[2]));
                }
                return None;
            }
            [first, others @ ..] => {
                for key in others {
                    self.mistake(&[key], &format!("cannot stand beside {first}; give one of the two"));
                }
                return None;
            }
        }
        let keys = match jwt {
            JwtDraft { public_key_file: Some(path), .. } => JwtKeys::PublicKeyFile(path),
            JwtDraft { jwks_url: Some(url), .. } => {
                if url.scheme() == "http" && !is_loopback(&url) {
                    let message = "is not https: whoever can change its answer on the way can sign tokens";
                    self.warn(&["auth.jwt.jwks_url"], message);
                }
                JwtKeys::JwksUrl(url)
            }
            JwtDraft { secrets, .. } => {
                if secrets.iter().any(|secret| secret.expose().len() < HS256_KEY_BYTES) {
                    let message = format!("is shorter than {HS256_KEY_BYTES} bytes and can be guessed");
                    self.warn(&["auth.jwt.secret"], &message);
                }
                JwtKeys::Secrets(secrets)
            }
        };
        Some(Jwt { keys, issuer: jwt.issuer, audience: jwt.audience })
    }

    fn public_tls(&mut self, tls: TlsDraft) -> Option<Tls> {
        const SECTION: &str = "public.tls";
        const KEYS: [&str; 2] = ["public.tls.cert_file", "public.tls.key_file"];
        match KEYS.map(|key| self.places.contains_key(key)) {
            [true, true] => {}
            [false, false] => {
                if self.places.contains_key(SECTION) {
                    self.mistake(&[SECTION], &format!("needs {} and {}", KEYS[0], KEYS[1]));
                }
                return None;
            }
            [cert_given, _] => {
                let (given, other) = if cert_given { (KEYS[0], KEYS[1]) } else { (KEYS[1], KEYS[0]) };
                self.mistake(&[given], &format!("needs {other} beside it"));
                return None;
            }
        }
        // A file that cannot be read is a mistake already.
        let files = Tls { cert_file: tls.cert_file?, key_file: tls.key_file? };
        match tls::server_config(&files) {
            Ok(_) => {}
            Err(unusable @ (Unusable::Certificate(_) | Unusable::Authority(_))) => {
                self.mistake(&[KEYS[0]], &unusable.to_string());
            }
            Err(unusable @ Unusable::Key(_)) => self.mistake(&[KEYS[1]], &unusable.to_string()),
        }
        Some(files)
    }

    fn workers_tls(&mut self, ca_file: Option<PathBuf>, identity: TlsDraft) -> Option<WorkerTls> {
        const SECTION: &str = "workers.tls";
        const CA: &str = "workers.tls.ca_file";
        const KEYS: [&str; 2] = ["workers.tls.cert_file", "workers.tls.key_file"];
        let given = KEYS.map(|key| self.places.contains_key(key));
        if let [true, false] | [false, true] = given {
            let (given, other) = if given[0] { (KEYS[0], KEYS[1]) } else { (KEYS[1], KEYS[0]) };
            self.mistake(&[given], &format!("needs {other} beside it"));
            return None;
        }
        if !self.places.contains_key(CA) {
            if given[0] || self.places.contains_key(SECTION) {
                self.mistake(&[KEYS[0], SECTION], &format!("needs {CA}: no worker is trusted without it"));
            }
            return None;
        }
        // A file that cannot be read is a mistake already.
        let ca_file = ca_file?;
        let identity = match (given, identity.cert_file, identity.key_file) {
            ([true, true], Some(cert_file), Some(key_file)) => Some(Tls { cert_file, key_file }),
            ([true, true], _, _) => return None,
            _ => None,
        };
        match tls::worker_client(&ca_file, identity.as_ref()) {
            Ok(client) => return Some(WorkerTls { ca_file, identity, client }),
            Err(unusable @ Unusable::Authority(_)) => self.mistake(&[CA], &unusable.to_string()),
            Err(unusable @ Unusable::Certificate(_)) => self.mistake(&[KEYS[0]], &unusable.to_string()),
            Err(unusable @ Unusable::Key(_)) => self.mistake(&[KEYS[1]], &unusable.to_string()),
        }
        None
    }

    fn secrets_with_two_purposes(&mut self, config: &Config) {
        let overlap = |one: &[Secret], other: &[Secret]| one.iter().any(|secret| other.contains(secret));
        if overlap(&config.auth.client_keys, &config.auth.master_keys) {
            let message =
                "shares a key with auth.client_keys; what every app carries must not be a master key";
            self.mistake(&["auth.master_keys"], message);
        }
        let registration: Vec<Secret> =
            config.admin.registration_tokens.iter().map(|token| token.token.clone()).collect();
        if overlap(&config.admin.tokens, &registration) {
            let message = "shares a token with admin.tokens; a worker's token must not administer";
            self.mistake(&["admin.registration_tokens"], message);
        }
    }

    fn listeners(&mut self, config: &Config, mistakes: &[Mistake]) {
        const KEYS: [&str; 2] = ["admin.listen", "public.listen"];
        // A listener that could not be read still has its default, which nobody asked for.
        let usable = !mistakes.iter().any(|mistake| KEYS.contains(&mistake.key.as_str()));
        let (public, admin) = (config.public.listen, config.admin.listen);
        if usable && same_socket(public, admin) {
            self.mistake(
                &KEYS,
                &format!("public.listen ({public}) and admin.listen ({admin}) are the same port"),
            );
        }
    }

    fn budget(&mut self, config: &Config) {
        if config.limits.max_body > config.limits.max_bytes_in_flight {
            let keys = ["limits.max_body", "limits.max_bytes_in_flight"];
            self.warn(&keys, "limits.max_body is more than limits.max_bytes_in_flight lets in");
        }
    }

    fn proxies(&mut self, config: &Config) {
        if config.public.proxy_protocol && config.public.trusted_proxies.is_empty() {
            let message = "needs public.trusted_proxies: the header counts from nobody else";
            self.mistake(&["public.proxy_protocol"], message);
        }
    }

    fn plugin_addresses(&mut self, config: &Config) {
        for plugin in &config.plugins {
            if plugin.url.starts_with("https:") && config.workers.tls.is_none() {
                self.warn(
                    &["plugin"],
                    "an https URL needs workers.tls.ca_file, the authority that certifies workers",
                );
            }
            let Some(address) = Url::parse(&plugin.url).ok().as_ref().and_then(ip_address) else { continue };
            if !config.workers.allowed_urls.iter().any(|network| network.contains(&address)) {
                self.warn(&["plugin"], &format!("{address} is outside workers.allowed_urls"));
            }
        }
    }

    /// Shown at the first of the keys that was given.
    fn mistake(&mut self, keys: &[&str], message: &str) {
        let (key, source) = self.first_given(keys);
        self.found.mistakes.push(Mistake { source, key, message: message.to_owned() });
    }

    /// Shown at the first of the keys that was given.
    fn warn(&mut self, keys: &[&str], message: &str) {
        let (key, source) = self.first_given(keys);
        self.found.warnings.push(Warning { source, key, message: message.to_owned() });
    }

    fn first_given(&self, keys: &[&str]) -> (String, Source) {
        let given = keys.iter().find_map(|key| self.places.get_key_value(*key));
        match given {
            Some((key, source)) => (key.clone(), source.clone()),
            None => (keys.join(", "), Source::Defaults),
        }
    }
}

/// Whether the second of two listeners would fail to bind. The wildcard of IPv6 takes IPv4 as well.
fn same_socket(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |wide: IpAddr, ip: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || ip.is_ipv4());
    let (ip, other_ip) = (one.ip(), other.ip());
    one.port() != 0
        && one.port() == other.port()
        && (ip == other_ip || covers(ip, other_ip) || covers(other_ip, ip))
}

fn ip_address(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

fn is_loopback(url: &Url) -> bool {
    url.host_str() == Some("localhost") || ip_address(url).is_some_and(|address| address.is_loopback())
}
