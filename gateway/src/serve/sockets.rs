//! The two listening sockets: bound here, given by the service manager, or inherited from the gateway before.

use std::env;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, bail};
use listenfd::ListenFd;
use tokio::net::TcpSocket;
use tracing::{info, warn};

use super::talk::SocketRole;
use crate::config::Config;

/// Connections that wait to be accepted: a burst of clients is no reason to refuse one.
const BACKLOG: u32 = 4096;
/// In the order in which nameless ones are taken.
const NAMES: [&str; 2] = ["public", "admin"];

#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) public: Socket,
    pub(super) admin: Socket,
}

#[derive(Debug)]
pub(super) struct Socket {
    listener: TcpListener,
    /// The service manager opened it, so that its address is not the configuration's to say.
    activated: bool,
}

impl Sockets {
    /// Those that the service manager gives, and for the rest new ones. To be called within a runtime, and before other threads
    /// run: the variables that describe them are taken out of the environment.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        Self::from(activated()?, config)
    }

    /// Those of the gateway before, unless the configuration names another address now.
    pub(super) fn inherit(
        roles: &[SocketRole],
        files: Vec<OwnedFd>,
        config: &Config,
    ) -> anyhow::Result<Self> {
        let given = roles.iter().zip(files).map(|(role, file)| {
            let socket = Socket { listener: file.into(), activated: role.activated };
            (role.name.clone(), socket)
        });
        Self::from(given.collect(), config)
    }

    fn from(mut given: Vec<(String, Socket)>, config: &Config) -> anyhow::Result<Self> {
        let mut take = |name: &str, address: SocketAddr| {
            let place = given.iter().position(|(given, _)| given == name);
            match place.map(|place| given.swap_remove(place).1) {
                Some(socket) if socket.serves(address)? => anyhow::Ok(socket),
                Some(_) => {
                    info!(%address, "{name}.listen has changed: the new address is listened on instead of the old one");
                    Socket::bind(name, address)
                }
                None => Socket::bind(name, address),
            }
        };
        let [public, admin] = NAMES;
        Ok(Self { public: take(public, config.public.listen)?, admin: take(admin, config.admin.listen)? })
    }

    pub(super) fn roles(&self) -> Vec<SocketRole> {
        let role = |(name, socket): (&str, &Socket)| SocketRole {
            name: name.to_owned(),
            activated: socket.activated,
        };
        NAMES.into_iter().zip([&self.public, &self.admin]).map(role).collect()
    }

    /// In the order of [`roles`](Self::roles).
    pub(super) fn files(&self) -> [BorrowedFd<'_>; 2] {
        [self.public.listener.as_fd(), self.admin.listener.as_fd()]
    }
}

impl Socket {
    fn bind(name: &str, address: SocketAddr) -> anyhow::Result<Self> {
        let listener = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // A restarted gateway must not wait for the last one's connections to time out.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)?.into_std()
        };
        let listener = listener().with_context(|| format!("cannot listen on {name}.listen {address}"))?;
        Ok(Self { listener, activated: false })
    }

    pub(super) fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// The listener itself, to accept from.
    pub(super) fn listener(&self) -> anyhow::Result<TcpListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Whether this is what the configuration asks for. Port 0 asks for any.
    fn serves(&self, wanted: SocketAddr) -> anyhow::Result<bool> {
        let address = self.address()?;
        let same = address.ip() == wanted.ip() && (wanted.port() == 0 || wanted.port() == address.port());
        Ok(self.activated || same)
    }
}

/// What systemd's socket units opened: by `FileDescriptorName=public` and `admin`, or in that order.
fn activated() -> anyhow::Result<Vec<(String, Socket)>> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut given = ListenFd::from_env();
    if given.len() == 0 {
        return Ok(Vec::new());
    }
    let mut names: Vec<_> = names.split(':').map(str::to_owned).collect();
    if !names.iter().any(|name| NAMES.contains(&name.as_str())) {
        names = NAMES.map(str::to_owned).to_vec();
    }
    let mut sockets: Vec<(String, Socket)> = Vec::new();
    for place in 0..given.len() {
        let name = names.get(place).map_or("", String::as_str);
        if !NAMES.contains(&name) || sockets.iter().any(|(taken, _)| taken == name) {
            bail!(
                "the service manager passed a socket that is not wanted ({name:?}); \
                 there is one named public and one named admin, see FileDescriptorName= in systemd.socket(5)"
            );
        }
        let listener = given
            .take_tcp_listener(place)
            .with_context(|| format!("the socket {name} of the service manager is not one that listens"))?
            .with_context(|| format!("the socket {name} of the service manager is gone"))?;
        if let Ok(address) = listener.local_addr() {
            warn!(%address, "{name}.listen is not used: the service manager gave the socket");
        }
        sockets.push((name.to_owned(), Socket { listener, activated: true }));
    }
    Ok(sockets)
}
