//! Ports for programs that cannot say which one they got.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt::set_socket_reuseaddr};

/// A loopback port, held by a socket that is bound but does not listen: a server that sets `SO_REUSEADDR` may listen on it, and
/// the kernel gives it to nobody else.
#[derive(Debug)]
pub(crate) struct ReservedPort {
    pub(crate) address: SocketAddr,
    _holder: OwnedFd,
}

impl ReservedPort {
    pub(crate) fn take() -> anyhow::Result<Self> {
        let holder = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        set_socket_reuseaddr(&holder, true)?;
        bind(&holder, &SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)))?;
        let address = SocketAddr::try_from(getsockname(&holder)?)?;
        Ok(Self { address, _holder: holder })
    }
}
