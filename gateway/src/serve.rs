//! A gateway's life: the order in which its parts start, what signals do, and the order in which the parts end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow};
use arc_swap::{ArcSwap, ArcSwapOption};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin::{self, AdminState, Grants, Phase};
use crate::admit::InFlight;
use crate::auth::{Authenticator, TokenTable};
use crate::config::{Config, Plugin, Sources};
use crate::data_dir::DataDir;
use crate::dispatch::Dispatcher;
use crate::drain::Drain;
use crate::listener::{self, Accepted, RelayThread};
use crate::plugin;
use crate::rate::RateLimits;
use crate::registry::{Ejections, Registry, Rotation};
use crate::relay::{Relay, Shared};
use crate::store::Store;
use crate::telemetry::{Metrics, Reading};
use crate::tls;
use crate::upstream::Pool;

/// Connections that wait to be accepted: a burst of clients is no reason to refuse one.
const BACKLOG: u32 = 4096;
const FORGET_CLIENTS_EVERY: Duration = Duration::from_secs(10);

/// Runs a gateway until SIGTERM or SIGINT, and drains it.
///
/// # Errors
/// When it cannot start: the configuration has mistakes, the `data_dir` or a port is taken.
pub fn run(sources: &Sources) -> anyhow::Result<()> {
    let config = load(sources)?;
    raise_descriptor_limit();
    let data_dir = DataDir::open(&config.data_dir)?;
    let (store, recovered) = Store::open(&data_dir)?;
    let runtime = current_thread()?;
    let (public, admin) = runtime.block_on(async {
        let public = bind("public.listen", config.public.listen)?;
        let admin = bind("admin.listen", config.admin.listen)?;
        anyhow::Ok((public, admin.into_std()?))
    })?;
    let tokens = TokenTable::restore(recovered.tokens.clone());
    let auth = Authenticator::new(&config.auth, tokens.clone(), None)?;
    let tls = config.public.tls.as_ref().map(tls::server_config).transpose()?;
    let grants = Grants::resolve(&config.admin, &data_dir)?;
    if let Some(file) = grants.registration_token_file() {
        info!(file = %file.display(), "workers register with the token in this file");
    }
    let addresses = (public.local_addr()?, admin.local_addr()?);

    let config = Arc::new(ArcSwap::from_pointee(config));
    let (registry, ejections) = Registry::restore(Arc::clone(&config), store.clone(), recovered);
    let shared = Arc::new(Shared {
        registry: registry.clone(),
        auth: ArcSwap::from_pointee(auth),
        config: Arc::clone(&config),
        rate_limits: ArcSwap::from_pointee(RateLimits::new(&config.load().public.rate_limit)),
        tls: ArcSwapOption::new(tls),
        in_flight: Arc::default(),
        metrics: Arc::new(Metrics::new()),
    });
    let state = AdminState {
        registry,
        tokens,
        store: store.clone(),
        config,
        grants: Arc::new(ArcSwap::from_pointee(grants)),
        readiness: Arc::default(),
        metrics: Arc::clone(&shared.metrics),
    };
    let (drain, control_ends) = (Drain::default(), CancellationToken::new());
    let (relays, threads) = start_relays(&shared, &drain)?;
    watch_readings(&shared, &relays);
    let (plugins, configured) = watch::channel(shared.config.load().plugins.clone());
    let control = Control { admin, state: state.clone(), ejections, configured, shared: Arc::clone(&shared) };
    let control = control.start(control_ends.clone())?;

    let gateway = Running { sources, data_dir, shared, state, plugins };
    let (public_address, admin_address) = addresses;
    let drained = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let max_connections = gateway.shared.config.load().limits.max_connections;
        let accepting = tokio::spawn(listener::accept(public, relays, max_connections, drain.clone()));
        gateway.state.readiness.set(Phase::Ready);
        info!(public = %public_address, admin = %admin_address, version = env!("CARGO_PKG_VERSION"), "listening");
        gateway.obey(&mut signals).await;
        gateway.state.readiness.set(Phase::Draining);
        info!("draining");
        drain.begin();
        let drained = tokio::task::spawn_blocking(move || join(threads));
        tokio::select! {
            drained = async { accepting.await?; drained.await? } => drained,
            () = signals.end() => Err(anyhow!("ended by a second signal before it was drained")),
        }
    });
    if drained.is_err() {
        // Otherwise its end would wait for the thread that waits for the relays to be drained.
        runtime.shutdown_background();
        return drained;
    }
    // Workers renew and deregister until here; then nobody is left who could.
    control_ends.cancel();
    join(vec![control])?;
    runtime.block_on(store.shutdown());
    info!("drained");
    Ok(())
}

fn load(sources: &Sources) -> anyhow::Result<Config> {
    let (config, warnings) = Config::load(sources).map_err(|mistakes| {
        let lines: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        anyhow!("the configuration cannot be used:\n{}", lines.join("\n"))
    })?;
    for warning in warnings {
        warn!("{warning}");
    }
    Ok(config)
}

/// A relayed request takes two connections, and the usual soft limit of 1024 is for programs that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        warn!(%error, "the limit of file descriptors stays as it is");
    }
}

fn current_thread() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start a runtime")
}

fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restarted gateway must not wait for the last one's connections to time out.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listener().with_context(|| format!("cannot listen on {key} {address}"))
}

fn start_relays(
    shared: &Arc<Shared>,
    drain: &Drain,
) -> anyhow::Result<(Vec<RelayThread>, Vec<JoinHandle<()>>)> {
    let count = shared.config.load().runtime.threads;
    let mut relays = Vec::with_capacity(count);
    let mut threads = Vec::with_capacity(count);
    for number in 0..count {
        let (relay, connections) = RelayThread::channel();
        let runtime = current_thread()?;
        let (shared, drain) = (Arc::clone(shared), drain.clone());
        let thread = thread::Builder::new()
            .name(format!("relay-{number}"))
            .spawn(move || runtime.block_on(relay_thread(shared, connections, drain)))?;
        relays.push(relay);
        threads.push(thread);
    }
    Ok((relays, threads))
}

async fn relay_thread(shared: Arc<Shared>, connections: mpsc::Receiver<Accepted>, drain: Drain) {
    let dispatcher = Dispatcher {
        registry: shared.registry.clone(),
        pool: Arc::new(Pool::default()),
        metrics: Arc::clone(&shared.metrics),
        calls: TaskTracker::new(),
    };
    let drain_timeout = shared.config.load().public.drain_timeout;
    listener::serve(connections, Arc::new(Relay { shared, dispatcher, drain }), drain_timeout).await;
}

fn watch_readings(shared: &Shared, relays: &[RelayThread]) {
    let metrics = &shared.metrics;
    let in_flight = Arc::clone(&shared.in_flight);
    metrics.watch(Reading::InFlightRequests, move || in_flight.requests());
    let in_flight: Arc<InFlight> = Arc::clone(&shared.in_flight);
    metrics.watch(Reading::BytesInFlight, move || usize::try_from(in_flight.bytes()).unwrap_or(usize::MAX));
    let open: Vec<_> = relays.iter().map(RelayThread::open_connections).collect();
    metrics.watch(Reading::Connections, move || open.iter().map(|open| open.load(Ordering::Relaxed)).sum());
    let registry = shared.registry.clone();
    metrics.watch(Reading::ParkedRequests, move || registry.parked());
    let registry = shared.registry.clone();
    metrics.watch_workers(move || {
        let replicas = registry.replicas();
        [Rotation::In, Rotation::Ejected, Rotation::Draining].map(|state| {
            (state.as_str(), replicas.iter().filter(|replica| replica.rotation() == state).count())
        })
    });
}

/// What runs beside the relay, on a thread of its own, so that a busy relay starves no lease.
struct Control {
    admin: std::net::TcpListener,
    state: AdminState,
    ejections: Ejections,
    configured: watch::Receiver<Vec<Plugin>>,
    shared: Arc<Shared>,
}

impl Control {
    fn start(self, ends: CancellationToken) -> anyhow::Result<JoinHandle<()>> {
        let runtime = current_thread()?;
        let run = move || runtime.block_on(self.run(ends));
        thread::Builder::new().name("control".into()).spawn(run).context("cannot start a thread")
    }

    async fn run(self, ends: CancellationToken) {
        let registry = self.state.registry.clone();
        tokio::spawn(registry.clone().run_leases());
        tokio::spawn(registry.clone().run_probes(self.ejections));
        tokio::spawn(plugin::attend_all(registry, self.configured));
        tokio::spawn(forget_idle_clients(Arc::clone(&self.shared)));
        let shared = self.shared;
        tokio::spawn(async move { shared.auth.load_full().refresh().await });
        if let Err(error) = admin::serve(self.admin, self.state, ends).await {
            error!(%error, "the admin listener failed");
        }
    }
}

async fn forget_idle_clients(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(FORGET_CLIENTS_EVERY).await;
        shared.rate_limits.load_full().forget_idle();
    }
}

/// What signals act on.
struct Running<'a> {
    sources: &'a Sources,
    data_dir: DataDir,
    shared: Arc<Shared>,
    state: AdminState,
    plugins: watch::Sender<Vec<Plugin>>,
}

impl Running<'_> {
    /// Returns when the gateway is to end.
    async fn obey(&self, signals: &mut Signals) {
        loop {
            match signals.next().await {
                Wish::End => return,
                Wish::Upgrade => {
                    warn!(
                        "SIGUSR2: this version cannot hand over to a new process; use SIGTERM and start it again"
                    );
                }
                Wish::Reload => match self.reload() {
                    Ok(()) => info!("configuration reloaded"),
                    Err(error) => error!("the configuration was not reloaded, the old one stays: {error:#}"),
                },
            }
        }
    }

    /// Takes the new configuration as a whole, or keeps the old one.
    fn reload(&self) -> anyhow::Result<()> {
        let new = load(self.sources)?;
        let old = self.shared.config.load_full();
        let previous = self.shared.auth.load_full();
        let auth = Authenticator::new(&new.auth, self.state.tokens.clone(), Some(&previous))?;
        let grants = Grants::resolve(&new.admin, &self.data_dir)?;
        let tls = new.public.tls.as_ref().map(tls::server_config).transpose()?;
        for key in old.needs_restart(&new) {
            warn!(key, "this key changes with the next start only");
        }
        self.plugins.send_if_modified(|plugins| {
            let changed = *plugins != new.plugins;
            plugins.clone_from(&new.plugins);
            changed
        });
        if *self.shared.rate_limits.load().config() != new.public.rate_limit {
            self.shared.rate_limits.store(Arc::new(RateLimits::new(&new.public.rate_limit)));
        }
        self.shared.tls.store(tls);
        self.shared.auth.store(Arc::new(auth));
        self.state.grants.store(Arc::new(grants));
        self.shared.config.store(Arc::new(new));
        Ok(())
    }
}

/// What a signal asks for.
enum Wish {
    End,
    Reload,
    Upgrade,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Unhandled, it would end the process on the spot.
    user2: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::End,
            _ = self.interrupt.recv() => Wish::End,
            _ = self.hangup.recv() => Wish::Reload,
            _ = self.user2.recv() => Wish::Upgrade,
        }
    }

    async fn end(&mut self) {
        while !matches!(self.next().await, Wish::End) {}
    }
}

fn join(threads: Vec<JoinHandle<()>>) -> anyhow::Result<()> {
    for thread in threads {
        let name = thread.thread().name().unwrap_or("?").to_owned();
        thread.join().map_err(|_| anyhow!("the thread {name} panicked"))?;
    }
    Ok(())
}
