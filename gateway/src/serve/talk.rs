//! What two gateway processes say to each other during an upgrade, over a pair of Unix sockets.
//!
//! The old one speaks first: `Hello`, with the listening sockets and the lock of the `data_dir`. The new one reads its configuration and
//! answers `Ready` or `Failed`. The old one lets go of the store: `Yours`. The new one takes over: `Serving`. Each message is
//! a line of JSON whose unknown fields are ignored, since the two are different versions of this program.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use gearway_protocol::Registration;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

/// More than any version sends.
const MAX_DESCRIPTORS: usize = 16;
const MAX_HELLO: usize = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    Hello(Hello),
    Ready,
    Failed(String),
    Yours(Yours),
    Serving(Serving),
}

/// The descriptors that come with it, in order: the sockets, then the lock.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) sockets: Vec<SocketRole>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SocketRole {
    /// `public` or `admin`.
    pub(super) name: String,
    /// The service manager opened it, so that its address is not the configuration's to say.
    pub(super) activated: bool,
}

/// What the store does not hold.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Yours {
    /// Configured workers that have told their routes.
    #[serde(default)]
    pub(super) plugins: Vec<Registration>,
    /// Every worker has had its time to register.
    #[serde(default)]
    pub(super) knows_all_routes: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Serving {
    pub(super) admin: SocketAddr,
}

impl Message {
    pub(super) fn to_line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }

    pub(super) fn from_line(line: &[u8]) -> io::Result<Self> {
        Ok(serde_json::from_slice(line)?)
    }
}

/// Sends the first message together with open files.
pub(super) fn send_hello(to: BorrowedFd<'_>, hello: Hello, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let line = Message::Hello(hello).to_line()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many sockets to hand over"));
    }
    let sent = sendmsg(to, &[IoSlice::new(&line)], &mut control, SendFlags::empty())?;
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives the first message and the open files that came with it.
pub(super) fn receive_hello(from: &UnixStream) -> io::Result<(Hello, Vec<OwnedFd>)> {
    let mut line = Vec::new();
    let mut descriptors = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(from, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                descriptors.extend(files);
            }
        }
        if received == 0 || line.len() > MAX_HELLO {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&bytes[..received]);
    }
    match Message::from_line(&line)? {
        Message::Hello(hello) => Ok((hello, descriptors)),
        Message::Ready | Message::Failed(_) | Message::Yours(_) | Message::Serving(_) => {
            Err(io::Error::other("the conversation does not begin with a greeting"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn sockets_travel_with_the_greeting() {
        let (here, there) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let role = SocketRole { name: "public".into(), activated: false };
        send_hello(here.as_fd(), Hello { sockets: vec![role] }, &[listener.as_fd()]).unwrap();
        let (hello, mut descriptors) = receive_hello(&there).unwrap();
        assert_eq!(hello.sockets[0].name, "public");
        assert_eq!(descriptors.len(), 1);
        let inherited = TcpListener::from(descriptors.remove(0));
        assert_eq!(inherited.local_addr().unwrap(), listener.local_addr().unwrap());
    }

    #[test]
    fn a_greeting_of_another_version_is_understood() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(b"{\"hello\":{\"sockets\":[],\"new\":1}}\n").unwrap();
        assert!(receive_hello(&there).unwrap().0.sockets.is_empty());
    }

    #[test]
    fn what_is_no_greeting_is_refused() {
        for bytes in [&b""[..], b"{\"hello\":", b"\n", b"\"ready\"\n"] {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(bytes).unwrap();
            drop(here);
            assert!(receive_hello(&there).is_err());
        }
    }
}
