//! A server's certificate, and clients that trust it alone.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    ALL_VERSIONS, ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::wire::Connection;

/// The name that every certificate here is for.
pub const HOST: &str = "localhost";

/// A self-signed certificate and its key.
#[derive(Debug)]
pub struct Certificate {
    pub cert_pem: String,
    pub key_pem: String,
    der: CertificateDer<'static>,
}

/// What a client offers in its handshake.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    pub alpn: &'a [&'a str],
    pub versions: &'a [&'static SupportedProtocolVersion],
}

impl Default for Offer<'_> {
    fn default() -> Self {
        Self { alpn: &["http/1.1"], versions: ALL_VERSIONS }
    }
}

impl Certificate {
    /// # Panics
    /// When none can be made.
    #[must_use]
    pub fn make() -> Self {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("a certificate");
        Self {
            cert_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
            der: made.cert.der().clone(),
        }
    }

    /// Writes `cert.pem` and `key.pem` into the folder.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn write(&self, folder: &Path) {
        std::fs::write(folder.join("cert.pem"), &self.cert_pem).expect("a writable folder");
        std::fs::write(folder.join("key.pem"), &self.key_pem).expect("a writable folder");
    }

    /// Shows this certificate to clients, who may have to show one themselves.
    ///
    /// # Panics
    /// Never with certificates made here.
    #[must_use]
    pub fn acceptor(&self, wants: Option<&Self>) -> TlsAcceptor {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match wants {
            None => builder.with_no_client_auth(),
            Some(wanted) => {
                let mut roots = RootCertStore::empty();
                roots.add(wanted.der.clone()).expect("a certificate");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("a key");
        let config = builder.with_single_cert(vec![self.der.clone()], key).expect("a pair");
        TlsAcceptor::from(Arc::new(config))
    }

    /// A handshake with a server that has to show this certificate.
    ///
    /// # Errors
    /// When nobody listens, or the handshake fails.
    ///
    /// # Panics
    /// Never with certificates made here.
    pub async fn connect(&self, to: SocketAddr, offer: Offer<'_>) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(to).await?;
        self.shake_hands(stream, offer).await
    }

    /// A handshake after `header`, as a proxy writes one.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_behind(&self, to: SocketAddr, header: &[u8]) -> io::Result<TlsStream<TcpStream>> {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(header).await?;
        self.shake_hands(stream, Offer::default()).await
    }

    async fn shake_hands(&self, stream: TcpStream, offer: Offer<'_>) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a certificate that was just made");
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(offer.versions)
            .expect("versions that the provider has")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = offer.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(HOST).expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// HTTP/1.1 over TLS.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn http1(&self, to: SocketAddr) -> io::Result<Connection> {
        let (reader, writer) = tokio::io::split(self.connect(to, Offer::default()).await?);
        Ok(Connection::over(reader, writer, to))
    }
}
