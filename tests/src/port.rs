//! Ports that stay ours while nobody listens on them.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// A loopback port, held by a socket that is bound but does not listen. Sockets with `SO_REUSEADDR` (which
/// servers set) may listen on it meanwhile, the kernel gives it to nobody else, and connections to it are refused
/// as long as nobody listens: so a process can go away and come back at the same address.
#[derive(Debug)]
pub struct ReservedPort {
    address: SocketAddr,
    _holder: TcpSocket,
}

impl ReservedPort {
    /// # Panics
    /// When the machine has no free port.
    #[must_use]
    pub fn take() -> Self {
        let holder = bound("127.0.0.1:0".parse().expect("an address"));
        Self { address: holder.local_addr().expect("a bound socket has an address"), _holder: holder }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens on the port from within the test.
    ///
    /// # Panics
    /// When somebody listens already.
    #[must_use]
    pub fn listen(&self) -> TcpListener {
        bound(self.address).listen(1024).expect("nobody else listens on a reserved port")
    }
}

fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("SO_REUSEADDR");
    socket.bind(address).expect("a free loopback port");
    socket
}
