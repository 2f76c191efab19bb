//! The way to a worker: its address, connections to it, and one call at a time on each.
//!
//! The HTTP/1.1 client is the gateway's own: whether a byte of a call was written decides whether it may be sent again, a call
//! goes out in one write from the buffer that its envelope was written into, and a reply is held to one reading.

mod address;
mod base64_text;
mod buffers;
mod call_head;
mod connection;
mod outgoing;
mod pool;
mod reply;
mod reply_head;

pub use self::address::{AddressError, WorkerUrl, resolve};
pub use self::buffers::Buffers;
pub use self::call_head::CallHead;
pub use self::connection::{Connection, Exchange};
pub use self::outgoing::Outgoing;
pub use self::pool::Pool;
pub use self::reply::{Answer, OpensBody, ReplyError, ReplyReader};

use std::time::Duration;

use ipnet::IpNet;
use rustix::io::Errno;
use tokio::net::TcpStream;

/// A worker on the same machine or network answers a SYN in well under a second, or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Bodies from this size on are encoded and decoded piece by piece. Below it, memory for the whole costs less than the pieces.
pub const LARGE: usize = 256 << 10;

/// Why there is no connection: nothing of a call was written.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("cannot connect to {address}: {source}")]
    Io { address: std::net::SocketAddr, source: std::io::Error },
    #[error("no connection within {} ms", CONNECT_TIMEOUT.as_millis())]
    TimedOut,
}

impl ConnectError {
    /// Whether this gateway lacks what a connection takes, so that it says nothing of the worker.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        const OURS: [Errno; 5] =
            [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
        match self {
            Self::Io { source, .. } => {
                OURS.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
            }
            Self::Address(_) | Self::TimedOut => false,
        }
    }
}

/// Connects to the worker, at an address that was checked after it was resolved.
///
/// # Errors
/// When the url resolves to nothing allowed, or nobody accepts at any of its addresses.
pub async fn connect(url: &WorkerUrl, allowed: &[IpNet]) -> Result<TcpStream, ConnectError> {
    let attempt = async {
        let mut failure = None;
        for address in resolve(url, allowed).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(|source| ConnectError::Io { address, source })?;
                    return Ok(stream);
                }
                Err(source) => failure = Some(ConnectError::Io { address, source }),
            }
        }
        Err(failure.unwrap_or(ConnectError::TimedOut))
    };
    tokio::time::timeout(CONNECT_TIMEOUT, attempt).await.unwrap_or(Err(ConnectError::TimedOut))
}
