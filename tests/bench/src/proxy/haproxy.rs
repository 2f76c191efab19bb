//! HAProxy in HTTP mode.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::Context;
use tempfile::TempDir;

use super::{MAX_CONNECTIONS, Worker, wait_until_listening};
use crate::child::Running;
use crate::install;
use crate::port::ReservedPort;
use crate::tls::Certificate;

pub(super) fn start(
    threads: usize,
    worker: &Worker,
    tls: Option<&Certificate>,
) -> anyhow::Result<(Running, SocketAddr, TempDir)> {
    let folder = tempfile::tempdir()?;
    let listen = ReservedPort::take()?.address;
    let port = worker.ports.first().context("a worker listens")?;
    // Each connection takes two descriptors.
    let connections = MAX_CONNECTIONS / 2;
    let tls = match tls {
        Some(certificate) => format!(" ssl crt {} alpn h2,http/1.1", certificate.together()?.display()),
        None => String::new(),
    };
    let config = format!(
        "
global
    nbthread {threads}
    maxconn {connections}
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 600s
    http-reuse always
frontend public
    bind {listen} backlog 4096{tls}
    default_backend worker
backend worker
    server tiny 127.0.0.1:{port}
"
    );
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, config)?;
    let mut command = Command::new("haproxy");
    command.env("PATH", install::path()).arg("-db").arg("-f").arg(&file);
    let mut running = Running::start("haproxy", command)?;
    wait_until_listening(&mut running, listen)?;
    Ok((running, listen, folder))
}
