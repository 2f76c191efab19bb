//! A gateway's life: the order in which its parts start, what signals do, and the order in which the parts end.

mod notify;
mod signals;
mod sockets;
mod takeover;
mod talk;
mod upgrade;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow};
use arc_swap::{ArcSwap, ArcSwapOption};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use self::signals::{Signals, Wish};
use self::sockets::Sockets;
use self::takeover::Predecessor;
use self::talk::Yours;
use self::upgrade::{Estate, Program, hand_over};
use crate::admin::{self, AdminState, Grants, Phase, Room, Succession};
use crate::admit::InFlight;
use crate::auth::{Authenticator, TokenTable};
use crate::config::{Config, Plugin, Sources};
use crate::data_dir::DataDir;
use crate::delivery::Deliveries;
use crate::dispatch::Dispatcher;
use crate::drain::{Drain, IDLE_GRACE};
use crate::handover::Duty;
use crate::listener::{self, Accepted, RelayThread};
use crate::plugin;
use crate::rate::RateLimits;
use crate::registry::{Ejections, Registry, Rotation};
use crate::relay::{Relay, Shared};
use crate::store::{Store, StoreError};
use crate::telemetry::{Metrics, Reading};
use crate::tls;
use crate::trace::Tracer;
use crate::upstream::Pool;

const FORGET_CLIENTS_EVERY: Duration = Duration::from_secs(10);

/// Runs a gateway until SIGTERM or SIGINT, or until SIGUSR2 started another that took over; and drains it.
///
/// # Errors
/// When it cannot start: the configuration has mistakes, the `data_dir` or a port is taken.
pub fn run(sources: &Sources) -> anyhow::Result<()> {
    let program = Program::of_this_process()?;
    match Predecessor::of_this_process()? {
        None => Gateway::start(sources, program, None)?.live(None),
        Some(mut predecessor) => match Gateway::start(sources, program, Some(&mut predecessor)) {
            Ok(gateway) => gateway.live(Some(predecessor)),
            Err(error) => {
                predecessor.fails(&error);
                Err(error)
            }
        },
    }
}

/// A gateway that has everything it needs to serve.
struct Gateway<'a> {
    runtime: Runtime,
    store: Store,
    public: TcpListener,
    relays: Vec<RelayThread>,
    threads: Vec<JoinHandle<()>>,
    control: Control,
    drain: Drain,
    running: Running<'a>,
}

impl<'a> Gateway<'a> {
    fn start(
        sources: &'a Sources,
        program: Program,
        mut predecessor: Option<&mut Predecessor>,
    ) -> anyhow::Result<Self> {
        let config = load(sources)?;
        raise_descriptor_limit();
        let runtime = current_thread()?;
        let (data_dir, sockets) = runtime.block_on(async {
            match &mut predecessor {
                Some(predecessor) => predecessor.inherit(&config),
                None => Ok((DataDir::open(&config.data_dir)?, Sockets::open(&config)?)),
            }
        })?;
        let grants = Grants::resolve(&config.admin, &data_dir)?;
        let tls = config.public.tls.as_ref().map(tls::server_config).transpose()?;
        // From here on the gateway before writes nothing.
        let inherited = predecessor.map(Predecessor::wait_for_estate).transpose()?;
        let (store, recovered) = Store::open(&data_dir)?;
        let tokens = TokenTable::restore(recovered.tokens.clone());
        let auth = Authenticator::new(&config.auth, tokens.clone(), None)?;
        if let Some(file) = grants.registration_token_file() {
            info!(file = %file.display(), "workers register with the token in this file");
        }
        let config = Arc::new(ArcSwap::from_pointee(config));
        let (deliveries, engine) = Deliveries::open(&data_dir, Arc::clone(&config))?;
        let (registry, ejections) = Registry::restore(Arc::clone(&config), store.clone(), recovered);
        registry.warn_of_unverifiable(&config.load());
        if let Some(Yours { plugins, knows_all_routes }) = inherited {
            runtime.block_on(plugin::restore(&registry, &config.load().plugins, plugins));
            if knows_all_routes {
                registry.assume_all_routes_known();
            }
        }
        let metrics = Arc::new(Metrics::new());
        let shared = Arc::new(Shared {
            registry: registry.clone(),
            auth: ArcSwap::from_pointee(auth),
            config: Arc::clone(&config),
            rate_limits: ArcSwap::from_pointee(RateLimits::new(&config.load().public.rate_limit)),
            tls: ArcSwapOption::new(tls),
            in_flight: Arc::default(),
            deliveries: deliveries.clone(),
            tracer: Tracer::from_environment(&metrics)?,
            metrics,
        });
        let state = AdminState {
            registry: registry.clone(),
            tokens,
            store: store.clone(),
            deliveries: deliveries.clone(),
            config,
            grants: Arc::new(ArcSwap::from_pointee(grants)),
            readiness: Arc::default(),
            metrics: Arc::clone(&shared.metrics),
            succession: Succession::default(),
            bodies: Room::default(),
        };
        let drain = Drain::default();
        let (relays, mut threads) = start_relays(&shared, &drain)?;
        let in_flight = Arc::clone(&shared.in_flight);
        threads.push(deliveries.start_engine(engine, dispatcher(&shared), in_flight, drain.clone())?);
        watch_readings(&shared, &relays);
        let (plugins, configured) = watch::channel(shared.config.load().plugins.clone());
        let public = sockets.public.listener()?;
        let public = runtime.block_on(async { TcpListener::from_std(public) })?;
        let control = Control {
            admin: sockets.admin.listener()?,
            state: state.clone(),
            ejections,
            configured,
            drain: drain.clone(),
            shared: Arc::clone(&shared),
        };
        let duties: Vec<Arc<dyn Duty>> =
            vec![Arc::new(registry), Arc::new(deliveries), Arc::new(store.clone())];
        let running = Running { sources, program, data_dir, sockets, shared, state, plugins, duties };
        Ok(Self { runtime, store, public, relays, threads, control, drain, running })
    }

    /// Serves until it is to end, and drains.
    fn live(self, predecessor: Option<Predecessor>) -> anyhow::Result<()> {
        let Self { runtime, store, public, relays, threads, control, drain, running } = self;
        let control_ends = CancellationToken::new();
        let tracer = running.shared.tracer.clone();
        let control = control.start(control_ends.clone())?;
        let drained = runtime.block_on(async {
            let mut signals = Signals::new()?;
            let accepting =
                tokio::spawn(listener::accept(public, relays, Arc::clone(&running.shared), drain.clone()));
            running.begin(predecessor)?;
            let deliveries = running.shared.deliveries.clone();
            let end = tokio::select! {
                end = running.obey(&mut signals) => end,
                error = deliveries.failure() => End::Failed(error),
                error = store.failure() => End::Failed(error),
            };
            running.state.readiness.set(Phase::Draining);
            let (grace, failure) = match end {
                End::Stop => {
                    notify::stopping();
                    drain.begin();
                    (Duration::ZERO, None)
                }
                End::Failed(error) => {
                    drain.begin();
                    (Duration::ZERO, Some(error))
                }
                End::HandedOver => {
                    drain.begin_for_successor();
                    // Workers may be asking over their connections too.
                    (IDLE_GRACE, None)
                }
            };
            info!("draining");
            // Its sockets, too, are closed: what is not accepted any more must not look as if it were.
            drop(running.sockets);
            let drained = tokio::task::spawn_blocking(move || join(threads));
            tokio::select! {
                drained = async {
                    accepting.await?;
                    let (drained, ()) = tokio::join!(drained, tokio::time::sleep(grace));
                    drained?.map(|()| (deliveries, failure))
                } => drained,
                () = signals.end() => Err(anyhow!("ended by a second signal before it was drained")),
            }
        });
        let (deliveries, failure) = match drained {
            Ok(drained) => drained,
            Err(error) => {
                // Otherwise its end would wait for the thread that waits for the relays to be drained.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        // Workers renew and deregister until here; then nobody is left who could.
        control_ends.cancel();
        join(vec![control])?;
        deliveries.shut_down();
        runtime.block_on(store.shutdown());
        if let Some(tracer) = tracer {
            tracer.shut_down();
        }
        info!("drained");
        match failure {
            Some(error) => Err(error)
                .context("nothing can be kept any more; start the gateway again when the disk is well"),
            None => Ok(()),
        }
    }
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
    let dispatcher = dispatcher(&shared);
    let drain_timeout = shared.config.load().public.drain_timeout;
    listener::serve(connections, Arc::new(Relay { shared, dispatcher, drain }), drain_timeout).await;
}

/// Connections to workers stay on the thread that opened them, so each thread has its own.
fn dispatcher(shared: &Shared) -> Dispatcher {
    Dispatcher {
        registry: shared.registry.clone(),
        pool: Arc::new(Pool::default()),
        metrics: Arc::clone(&shared.metrics),
        tracer: shared.tracer.clone(),
        calls: TaskTracker::new(),
    }
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
    metrics.watch_leases(move || registry.lease_events());
    let registry = shared.registry.clone();
    metrics.watch_calls(move || {
        let mut calls: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for replica in registry.replicas() {
            *calls.entry(Arc::clone(&replica.group.name)).or_default() += replica.in_flight() as usize;
        }
        calls.into_iter().collect()
    });
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
    drain: Drain,
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
        if let Err(error) = admin::serve(self.admin, self.state, self.drain, ends).await {
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
    program: Program,
    data_dir: DataDir,
    sockets: Sockets,
    shared: Arc<Shared>,
    state: AdminState,
    plugins: watch::Sender<Vec<Plugin>>,
    /// In the order in which they are paused for a successor.
    duties: Vec<Arc<dyn Duty>>,
}

/// Why the gateway ends.
enum End {
    Stop,
    HandedOver,
    /// The log of deliveries or the store can promise nothing more.
    Failed(StoreError),
}

impl Running<'_> {
    /// Tells everybody who waits that the gateway serves.
    fn begin(&self, predecessor: Option<Predecessor>) -> anyhow::Result<()> {
        let (public, admin) = (self.sockets.public.address()?, self.sockets.admin.address()?);
        self.state.readiness.set(Phase::Ready);
        info!(%public, %admin, version = env!("CARGO_PKG_VERSION"), "listening");
        match predecessor {
            None => notify::ready(),
            Some(predecessor) => {
                predecessor.serves(admin);
                notify::took_over();
            }
        }
        Ok(())
    }

    /// Returns when the gateway is to end.
    async fn obey(&self, signals: &mut Signals) -> End {
        loop {
            match signals.next().await {
                Wish::End => return End::Stop,
                Wish::Upgrade => match self.upgrade(signals).await {
                    Ok(pid) => {
                        notify::handed_over(pid);
                        info!(pid, "handed over");
                        return End::HandedOver;
                    }
                    Err(error) => error!("this process goes on, the new one did not take over: {error:#}"),
                },
                Wish::Reload => {
                    notify::reloading();
                    let reloaded = self.reload();
                    self.shared.metrics.count_reload(reloaded.is_ok());
                    match reloaded {
                        Ok(()) => info!("configuration reloaded"),
                        Err(error) => {
                            error!("the configuration was not reloaded, the old one stays: {error:#}");
                        }
                    }
                    notify::ready();
                }
            }
        }
    }

    async fn upgrade(&self, signals: &mut Signals) -> anyhow::Result<u32> {
        let unstored = || Yours {
            plugins: self.state.registry.plugin_registrations(),
            knows_all_routes: self.state.registry.knows_all_routes(),
        };
        let estate = Estate {
            program: &self.program,
            sockets: &self.sockets,
            data_dir: &self.data_dir,
            duties: &self.duties,
            succession: &self.state.succession,
            unstored: &unstored,
        };
        hand_over(estate, signals).await
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
        self.state.registry.warn_of_unverifiable(&new);
        self.shared.config.store(Arc::new(new));
        Ok(())
    }
}

fn join(threads: Vec<JoinHandle<()>>) -> anyhow::Result<()> {
    for thread in threads {
        let name = thread.thread().name().unwrap_or("?").to_owned();
        thread.join().map_err(|_| anyhow!("the thread {name} panicked"))?;
    }
    Ok(())
}
