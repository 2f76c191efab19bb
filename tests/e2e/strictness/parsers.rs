//! h11 and llhttp, asked by batches.

use std::path::Path;
use std::process::Stdio;

use gearway_tests::{installed, wait};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The process that runs the parsers; it dies with this value.
#[derive(Debug)]
pub(super) struct Parsers {
    _process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What both make of one connection's bytes.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Readings {
    pub(super) h11: Reading,
    pub(super) llhttp: Reading,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Reading {
    pub(super) requests: Vec<Read>,
    pub(super) end: End,
    /// In the parser's words.
    pub(super) reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum End {
    Refused,
    Closed,
    Idle,
    Unfinished,
}

/// A request as a parser read it. Texts are Latin-1.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Read {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    /// Hexadecimal.
    pub(super) body: String,
}

impl Parsers {
    pub(super) async fn start() -> Self {
        let environment = installed::python("parsers/requirements.txt").await;
        let mut command = Command::new(environment.join("bin/python"));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("parsers/parsers.py"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("the environment's Python runs");
        let input = process.stdin.take().expect("stdin is piped");
        let output = BufReader::new(process.stdout.take().expect("stdout is piped"));
        Self { _process: process, input, output }
    }

    pub(super) async fn read(&mut self, connections: &[&[u8]]) -> Vec<Readings> {
        let lines: String = connections.iter().map(|bytes| hex(bytes) + "\n").collect();
        let Self { input, output, .. } = self;
        let ask = async {
            input.write_all(lines.as_bytes()).await.expect("the parsers take input");
            input.flush().await.expect("the parsers take input");
        };
        let answer = async {
            let mut readings = Vec::new();
            for _ in connections {
                let mut line = String::new();
                output.read_line(&mut line).await.expect("the parsers answer");
                readings.push(serde_json::from_str(&line).expect("a line of JSON for each connection"));
            }
            readings
        };
        wait::within("the parsers answer", async { tokio::join!(ask, answer).1 }).await
    }
}

impl Readings {
    /// The requests that both see alike, from the first on: nothing else may be served.
    pub(super) fn agreed(&self) -> &[Read] {
        let both = self.h11.requests.iter().zip(&self.llhttp.requests);
        let alike = both.take_while(|(one, other)| one == other).count();
        &self.h11.requests[..alike]
    }

    /// Whether one of them still waits for bytes, so that the gateway may as well.
    pub(super) fn may_go_on(&self) -> bool {
        [self.h11.end, self.llhttp.end].iter().any(|end| matches!(end, End::Idle | End::Unfinished))
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
