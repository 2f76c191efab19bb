//! HTTP/2 frames by hand, for what no client library would send. Knows as much of HPACK as that takes.

use std::time::Duration;

use gearway_tests::{Gateway, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const ACK: u8 = 0x1;

/// A frame that came, as far as tests look at it.
#[derive(Debug)]
pub(super) enum Frame {
    Headers { stream: u32, status: u16 },
    Data { stream: u32 },
    Reset { stream: u32 },
    GoAway,
    Other { kind: u8, flags: u8 },
}

#[derive(Debug)]
pub(super) struct Frames {
    stream: TcpStream,
    ended: bool,
}

impl Frames {
    pub(super) async fn connect(gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.public_address()).await.expect("a connection");
        let mut frames = Self { stream, ended: false };
        frames.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        frames.raw(0x4, 0, 0, &[]).await;
        frames
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) async fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.raw(0x1, flags, stream, &block(fields)).await;
    }

    pub(super) async fn data(&mut self, stream: u32, data: &[u8], end: bool) {
        self.raw(0x0, if end { END_STREAM } else { 0 }, stream, data).await;
    }

    pub(super) async fn reset(&mut self, stream: u32) {
        self.raw(0x3, 0, stream, &[0, 0, 0, 8]).await;
    }

    pub(super) async fn ping(&mut self) {
        self.raw(0x6, 0, 0, &[0; 8]).await;
    }

    pub(super) async fn raw(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a frame's length").to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.write(&bytes).await;
    }

    /// Sends that many bytes of frames, or as many as the other side reads while nobody reads what it answers.
    pub(super) async fn flood_without_reading(&mut self, kind: u8, payload: &[u8], bytes: usize) {
        let mut sent = 0;
        while sent < bytes && !self.ended {
            let sending = self.raw(kind, 0, 0, payload);
            if tokio::time::timeout(Duration::from_millis(500), sending).await.is_err() {
                return;
            }
            sent += 9 + payload.len();
        }
    }

    /// The next frame that is about this stream or ends the connection.
    pub(super) async fn next_of_stream(&mut self, wanted: u32) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            match frame {
                Frame::Headers { stream, .. } | Frame::Data { stream } | Frame::Reset { stream }
                    if stream == wanted =>
                {
                    return Some(frame);
                }
                Frame::GoAway => return Some(frame),
                Frame::Headers { .. } | Frame::Data { .. } | Frame::Reset { .. } | Frame::Other { .. } => {}
            }
        }
    }

    pub(super) async fn pong_or_end(&mut self) {
        loop {
            match self.next().await {
                None | Some(Frame::GoAway) => {
                    self.ended = true;
                    return;
                }
                Some(Frame::Other { kind: 0x6, flags: ACK }) => return,
                Some(_) => {}
            }
        }
    }

    /// Reads to the end; false if it does not come.
    pub(super) async fn ends(&mut self) -> bool {
        while self.next().await.is_some() {}
        true
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.ended |= self.stream.write_all(bytes).await.is_err();
    }

    async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await.ok()?;
            let [s0, s1, s2, s3] = stream;
            let stream = u32::from_be_bytes([s0, s1, s2, s3]);
            Some(match kind {
                0x0 => Frame::Data { stream },
                0x1 => Frame::Headers { stream, status: status(&payload) },
                0x3 => Frame::Reset { stream },
                0x7 => Frame::GoAway,
                kind => Frame::Other { kind, flags },
            })
        };
        let frame = wait::within("a frame", read).await;
        self.ended |= frame.is_none();
        frame
    }
}

/// Fields as literals that no table remembers.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
            block.push(length.expect("a short text"));
            block.extend(text.bytes());
        }
    }
    block
}

/// The status where it is one of those that have an index of their own; 0 for others.
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come first.
    let field = block.iter().find(|byte| **byte & 0xe0 != 0x20).copied().unwrap_or_default();
    match field {
        0x88 => 200,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        _ => 0,
    }
}
