//! The load: so many keep-alive connections, each of which sends its request again as soon as it has the answer.

mod connection;
mod response;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};

use connection::Connection;
pub(crate) use response::Expected;

/// A proxy that has not answered anything for so long never will.
const STUCK: Duration = Duration::from_secs(20);

/// How many of many connections ask at once.
const AT_A_TIME: usize = 64;

/// What is asked for, again and again.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// A connection sends one after the other, and begins again; each begins at another. They differ in their tokens, or
    /// their paths.
    pub(crate) heads: Arc<[Box<[u8]>]>,
    pub(crate) body: Arc<[u8]>,
    pub(crate) expected: Expected,
}

/// What came of it, from the end of the warm-up on.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) took: Duration,
    /// In nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

/// Connections that stay open, and idle between loads.
pub(crate) struct Load {
    poll: Poll,
    connections: Vec<Connection>,
    /// How many of them ask at once during a load: those that have rested for longest.
    at_once: usize,
    buffer: Vec<u8>,
}

impl Load {
    /// Connects.
    pub(crate) fn open(to: SocketAddr, connections: usize, request: &Request) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let mut load = Self {
            poll,
            connections: Vec::with_capacity(connections),
            at_once: connections,
            buffer: vec![0; 256 * 1024],
        };
        for number in 0..connections {
            // Blocking, so that no burst of them overflows the listener's queue.
            let stream =
                std::net::TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = mio::net::TcpStream::from_std(stream);
            load.poll.registry().register(
                &mut stream,
                Token(number),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            let first = number * request.heads.len() / connections;
            load.connections.push(Connection::new(stream, request, first));
        }
        Ok(load)
    }

    /// Has no more than so many connections ask at once.
    pub(crate) fn at_once(self, at_once: usize) -> Self {
        Self { at_once: at_once.max(1), ..self }
    }

    /// Loads for `length` after `warm_up`, or longer, until there were as many answers as connections. `clock` is called when the one
    /// ends and when the other does. Every answer has to be as expected.
    pub(crate) fn run(
        &mut self,
        expected: Expected,
        warm_up: Duration,
        length: Duration,
        mut clock: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Outcome> {
        let mut events = Events::with_capacity(1024);
        let mut latency = Histogram::new_with_bounds(1_000, 60_000_000_000, 3)?;
        let (mut requests, enough) = (0, self.connections.len() as u64);
        let mut last = Instant::now();
        let mut phase_ends = last + warm_up;
        let mut start = None;
        for connection in self.connections.iter_mut().take(self.at_once) {
            connection.send(last).context("a connection was closed")?;
        }
        let mut resting: VecDeque<usize> = (self.at_once..self.connections.len()).collect();
        loop {
            self.poll_once(&mut events, phase_ends)?;
            let now = Instant::now();
            for event in &events {
                let Token(number) = event.token();
                let answered = self.connections[number].turn(event, &mut self.buffer, expected);
                if let Some(sent) = answered.context("during the load")? {
                    let now = Instant::now();
                    last = now;
                    if start.is_some() {
                        latency.saturating_record(u64::try_from((now - sent).as_nanos()).unwrap_or(u64::MAX));
                    }
                    requests += 1;
                    resting.push_back(number);
                    let next = resting.pop_front().unwrap_or(number);
                    self.connections[next].send(now).context("a connection was closed")?;
                }
            }
            if now.duration_since(last) > STUCK {
                bail!("no answer came for {STUCK:?}");
            }
            if now >= phase_ends && requests >= enough {
                match start {
                    None => {
                        clock()?;
                        let now = Instant::now();
                        (start, phase_ends, requests) = (Some(now), now + length, 0);
                    }
                    Some(start) => {
                        clock()?;
                        let took = start.elapsed();
                        self.rest(&mut events, expected)?;
                        return Ok(Outcome { requests, took, latency });
                    }
                }
            }
        }
    }

    /// Asks once on every connection, some at a time, and waits for the answers.
    pub(crate) fn once(&mut self, expected: Expected) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        let now = Instant::now();
        for start in (0..self.connections.len()).step_by(AT_A_TIME) {
            for connection in self.connections.iter_mut().skip(start).take(AT_A_TIME) {
                connection.send(now).context("a connection was closed")?;
            }
            self.rest(&mut events, expected)?;
        }
        Ok(())
    }

    /// Waits for the answers that are still to come, so that the connections are idle.
    fn rest(&mut self, events: &mut Events, expected: Expected) -> anyhow::Result<()> {
        let deadline = Instant::now() + STUCK;
        while self.connections.iter().any(Connection::is_waiting) {
            if Instant::now() > deadline {
                bail!("the last answers did not come within {STUCK:?}");
            }
            self.poll_once(events, deadline)?;
            for event in events.iter() {
                self.connections[event.token().0].turn(event, &mut self.buffer, expected)?;
            }
        }
        Ok(())
    }

    fn poll_once(&mut self, events: &mut Events, until: Instant) -> anyhow::Result<()> {
        let wait = until.saturating_duration_since(Instant::now()).min(Duration::from_secs(1));
        match self.poll.poll(events, Some(wait)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error).context("epoll"),
            _ => Ok(()),
        }
    }
}
