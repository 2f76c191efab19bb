//! What the public listener shows to clients that want TLS, and how workers are known. Contract section 2, `public.tls` and
//! `workers.tls`.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};

use crate::config::Tls;

/// The protocols that a client may choose from, the better one first.
const ALPN: [&[u8]; 2] = [HTTP2, b"http/1.1"];

/// The name under which a client chooses HTTP/2.
pub const HTTP2: &[u8] = b"h2";

/// Why TLS cannot be served with a pair of files. Shows their paths and nothing of the key.
#[derive(Debug)]
pub enum Unusable {
    Authority(String),
    Certificate(String),
    Key(String),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority(message) | Self::Certificate(message) | Self::Key(message) => {
                f.write_str(message)
            }
        }
    }
}

impl std::error::Error for Unusable {}

/// Reads the pair of files and puts together what every handshake needs. TLS 1.2 and 1.3.
///
/// # Errors
/// When a file cannot be read, holds something else, or the key is not the certificate's.
pub fn server_config(files: &Tls) -> Result<Arc<ServerConfig>, Unusable> {
    let chain = certificates(&files.cert_file).map_err(Unusable::Certificate)?;
    let key = private_key(&files.key_file).map_err(Unusable::Key)?;
    let (cert_file, key_file) = (files.cert_file.display(), files.key_file.display());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Unusable::Certificate(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key);
    let mut config = config.map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            Unusable::Key(format!("{key_file} is not the key of the first certificate in {cert_file}"))
        }
        rustls::Error::InvalidCertificate(error) => {
            Unusable::Certificate(format!("{cert_file} holds a certificate that cannot be used: {error}"))
        }
        error => Unusable::Key(format!("{key_file} cannot be used: {error}")),
    })?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
    // A client that comes back saves a signature; what it needs for that stays with the client.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| Unusable::Key(error.to_string()))?;
    Ok(Arc::new(config))
}

/// Reads what connections to workers need: the authority that certifies them, which nothing else does, and the gateway's own
/// certificate where it shows one.
///
/// # Errors
/// When a file cannot be read, holds something else, or the key is not the certificate's.
pub fn worker_client(ca_file: &Path, identity: Option<&Tls>) -> Result<Arc<ClientConfig>, Unusable> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(ca_file).map_err(Unusable::Authority)? {
        authorities.add(certificate).map_err(|error| {
            Unusable::Authority(format!(
                "{} holds a certificate that cannot be used: {error}",
                ca_file.display()
            ))
        })?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Unusable::Authority(error.to_string()))?
        .with_root_certificates(authorities);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let chain = certificates(&files.cert_file).map_err(Unusable::Certificate)?;
            let key = private_key(&files.key_file).map_err(Unusable::Key)?;
            let (cert_file, key_file) = (files.cert_file.display(), files.key_file.display());
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                Unusable::Key(format!("{key_file} cannot be used with {cert_file}: {error}"))
            })?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match chain {
        Ok(chain) if chain.is_empty() => Err(format!("{} holds no certificate in PEM form", file.display())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(unreadable(file, &error)),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            format!("{} holds no private key in PEM form without a passphrase", file.display())
        }
        error => unreadable(file, &error),
    })
}

/// An error of syntax shows the line that it stumbled over, which may be a piece of the key.
fn unreadable(file: &Path, error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("{} cannot be read: {error}", file.display()),
        _ => format!("{} is not a PEM file", file.display()),
    }
}
