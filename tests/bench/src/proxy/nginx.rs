//! nginx with `proxy_pass`.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::Context;
use tempfile::TempDir;

use super::{MAX_CONNECTIONS, Worker, wait_until_listening};
use crate::child::Running;
use crate::install;
use crate::port::ReservedPort;
use crate::tls::Certificate;

/// What it holds replies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Buffers {
    /// Of the size that nginx has by itself.
    Usual,
    /// For replies of a megabyte: fewer calls of the kernel, and more memory.
    Large,
}

/// Bodies never touch the disk, both ways: by itself nginx would write those of more than 16 KiB to a file, and be several times as
/// slow.
pub(super) fn start(
    threads: usize,
    worker: &Worker,
    buffers: Buffers,
    tls: Option<&Certificate>,
) -> anyhow::Result<(Running, SocketAddr, TempDir)> {
    let folder = tempfile::tempdir()?;
    let listen = ReservedPort::take()?.address;
    let dir = folder.path().display();
    // Otherwise the workers of root's nginx run as somebody who may not enter this folder.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let port = worker.ports.first().context("a worker listens")?;
    let tls = tls.map(|Certificate { certificate, key, .. }| {
        let (certificate, key) = (certificate.display(), key.display());
        (" ssl http2", format!("ssl_certificate {certificate}; ssl_certificate_key {key};"))
    });
    let (protocols, certificate) = tls.unwrap_or_default();
    let connections = 2 * MAX_CONNECTIONS / threads;
    let descriptors = 2 * MAX_CONNECTIONS + 1_000;
    let buffers = match buffers {
        Buffers::Usual => "proxy_buffers 256 8k;",
        Buffers::Large => "proxy_buffers 16 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 128k;",
    };
    let config = format!(
        r"
{user}
daemon off;
worker_processes {threads};
worker_rlimit_nofile {descriptors};
pid {dir}/nginx.pid;
error_log {dir}/error.log crit;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    server_tokens off;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    client_max_body_size 64m;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    client_body_buffer_size 2m;
    {buffers}
    proxy_max_temp_file_size 0;
    upstream worker {{ server 127.0.0.1:{port}; keepalive {MAX_CONNECTIONS}; keepalive_requests 1000000000; }}
    server {{
        listen {listen} backlog=4096{protocols};
        {certificate}
        location / {{
            proxy_pass http://worker;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
        }}
    }}
}}
"
    );
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, config)?;
    let mut command = Command::new("nginx");
    command.env("PATH", install::path()).arg("-p").arg(folder.path()).arg("-c").arg(&file);
    command.args(["-e", "stderr"]);
    let mut running = Running::start("nginx", command)?;
    wait_until_listening(&mut running, listen)?;
    Ok((running, listen, folder))
}
