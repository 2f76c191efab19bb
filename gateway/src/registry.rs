//! Workers, leases and known routes. Contract section 6.
//!
//! The registry is the only writer of the route table. Whoever changes something takes the book, has the store keep the change,
//! then swaps in the next [`Table`]; requests read the table that is current and never wait.

mod admission;
mod book;
mod claim;
mod clock;
mod group;
mod lease_events;
mod methods;
mod packed;
mod refusal;
mod replica;
mod table;
mod upkeep;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use gearway_protocol::{Lease, Registered};
use http::HeaderValue;
use tokio::sync::{Mutex, mpsc};
use tracing::{error, info, warn};

use self::admission::Waiting;
use self::book::{Book, Remembered, forget};
use self::claim::ClaimedHandler;
pub use self::claim::{Claim, InvalidField};
pub use self::group::{Group, NoParking};
use self::lease_events::{LeaseEvent, LeaseEvents};
use self::methods::Methods;
pub use self::packed::PackedRegistration;
pub use self::refusal::{Conflict, NoRoom, Refusal};
pub use self::replica::{Replica, Rotation, Slot};
pub use self::table::{Endpoint, Handler, HandlerTimeout, Offer, Table};
use crate::config::{Config, Secret};
use crate::dialect::Dialect;
use crate::route::{Braces, Pattern, RouteTable};
use crate::store::{Change, Recovered, RouteRecord, Store, StoreError, WorkerRecord};
use crate::upstream;

const MAX_EJECTED_IN_LINE: usize = 4096;

/// A handle to the registry; clones share it.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    table: ArcSwap<Table>,
    config: Arc<ArcSwap<Config>>,
    /// By worker id: what a renewal needs, without the book.
    replicas: DashMap<Arc<str>, Arc<Replica>>,
    groups: DashMap<Arc<str>, Arc<Group>>,
    /// Held across the store's commit: that is what makes changes one after another.
    book: Mutex<Book>,
    /// Registrations in line for the book.
    waiting: parking_lot::Mutex<Vec<Waiting>>,
    /// Tables that were replaced and may be in use. The last holder of a big one has much to tidy up, which no request shall do.
    replaced: parking_lot::Mutex<Vec<Arc<Table>>>,
    store: Store,
    clock: clock::LeaseClock,
    lease_events: LeaseEvents,
    ejected: mpsc::Sender<Arc<Replica>>,
    started: Instant,
    remembered_nothing: AtomicBool,
    /// Leases and remembered routes are another process's, or nobody's at the moment.
    is_frozen: AtomicBool,
    /// Configured workers that have not told their routes yet.
    silent_plugins: AtomicU32,
}

/// Ejected replicas, on their way to [`Registry::run_probes`].
#[derive(Debug)]
pub struct Ejections(mpsc::Receiver<Arc<Replica>>);

impl Registry {
    /// Takes up what an earlier gateway knew, with a full lease for each worker.
    #[must_use]
    pub fn restore(config: Arc<ArcSwap<Config>>, store: Store, recovered: Recovered) -> (Self, Ejections) {
        let remembered_nothing = recovered.workers.is_empty() && recovered.routes.is_empty();
        let (ejected, ejections) = mpsc::channel(MAX_EJECTED_IN_LINE);
        let registry = Self {
            inner: Arc::new(Inner {
                table: ArcSwap::from_pointee(Table { routes: RouteTable::new() }),
                config,
                replicas: DashMap::new(),
                groups: DashMap::new(),
                book: Mutex::default(),
                waiting: parking_lot::Mutex::default(),
                replaced: parking_lot::Mutex::default(),
                store,
                clock: clock::LeaseClock::default(),
                lease_events: LeaseEvents::default(),
                ejected,
                started: Instant::now(),
                remembered_nothing: AtomicBool::new(remembered_nothing),
                is_frozen: AtomicBool::new(false),
                silent_plugins: AtomicU32::new(0),
            }),
        };
        let mut book = Book::default();
        for record in recovered.workers {
            registry.restore_worker(&mut book, record);
        }
        for record in recovered.routes {
            registry.restore_route(&mut book, record);
        }
        registry.publish(&book);
        if let Ok(mut empty) = registry.inner.book.try_lock() {
            *empty = book;
        }
        (registry, Ejections(ejections))
    }

    fn restore_worker(&self, book: &mut Book, record: WorkerRecord) {
        let claim = match Claim::check(record.registration) {
            Ok(claim) => claim,
            Err(error) => {
                warn!(worker_id = record.worker_id, %error, "a kept registration cannot be used any more");
                return;
            }
        };
        let rotation = if record.draining { Rotation::Draining } else { Rotation::In };
        let replica = self.replica(claim, record.worker_id, record.secret, record.registered_at, rotation);
        self.enlist(book, &Arc::new(replica));
    }

    fn restore_route(&self, book: &mut Book, record: RouteRecord) {
        let dialect = Dialect::from_protocol(&record.protocol).unwrap_or(Dialect::GearwayV1);
        let parsed =
            ClaimedHandler::check(&record.handler, 0, dialect).ok().zip(Methods::known(&record.method));
        let Some((handler, method)) = parsed else {
            warn!(name = record.handler.name, "a kept route cannot be used any more");
            return;
        };
        let group = self.group(&record.owner);
        let key = (handler.pattern.shape(), method.clone());
        let spec_size = packed::json_size(&record.handler);
        let lost_at = record.lost_at;
        let route = Remembered { group, dialect, spec: record.handler, handler, lost_at, spec_size };
        book.remembered.insert(key, route);
    }

    /// The routes as they are now.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        self.inner.table.load_full()
    }

    /// Whether a route could exist that this gateway has not heard of yet, so that an unmatched write must not be
    /// acknowledged. Contract section 6.
    #[must_use]
    pub fn may_lack_routes(&self) -> bool {
        !self.knows_all_routes() || self.inner.silent_plugins.load(Ordering::Relaxed) > 0
    }

    /// Whether every worker has had its time to register. Contract section 6.
    #[must_use]
    pub fn knows_all_routes(&self) -> bool {
        !self.inner.remembered_nothing.load(Ordering::Relaxed)
            || self.inner.started.elapsed() >= self.inner.config.load().workers.lease
    }

    /// Takes another process's word that every worker has had its time.
    pub fn assume_all_routes_known(&self) {
        self.inner.remembered_nothing.store(false, Ordering::Relaxed);
    }

    /// The configuration as it is now.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.inner.config.load_full()
    }

    /// Counts a configured worker as one whose routes are not known yet, or not any more.
    pub fn plugin_is_silent(&self, silent: bool) {
        if silent {
            self.inner.silent_plugins.fetch_add(1, Ordering::Relaxed);
        } else {
            self.inner.silent_plugins.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Makes the claim's routes routable. When this returns, they are kept and live.
    ///
    /// # Errors
    /// When the url is outside `workers.allowed_urls`, the configuration has not the secrets that handlers name, a route
    /// belongs to another name, the gateway knows too much already, or the store fails.
    pub async fn register(&self, claim: Claim) -> Result<Registered, Refusal> {
        upstream::resolve(&claim.url, &self.config().workers)
            .await
            .map_err(|error| Refusal::ForbiddenUrl(error.to_string()))?;
        claim.check_secrets(&self.inner.config.load()).map_err(Refusal::Unverifiable)?;
        let lease = self.inner.config.load().workers.lease;
        let (worker_id, secret) = (random_hex::<16>(), random_hex::<32>());
        let kept = Secret::new(&secret);
        let replica = self.replica(claim, worker_id.clone(), kept, SystemTime::now(), Rotation::In);
        self.admit_replica(replica).await?;
        self.inner.lease_events.count(LeaseEvent::Granted);
        Ok(Registered { worker_id, secret, lease_ms: millis(lease), features: Vec::new() })
    }

    /// Makes a configured worker's routes routable: it has neither lease nor secret, and the next start asks it again.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub async fn register_plugin(&self, claim: Claim) -> Result<Arc<Replica>, Refusal> {
        let no_secret = Secret::new("");
        let mut replica = self.replica(claim, random_hex::<16>(), no_secret, SystemTime::now(), Rotation::In);
        replica.lease = None;
        replica.authorization = None;
        self.admit_replica(replica).await
    }

    /// Takes a configured worker's answer to init as a sign of life.
    pub fn plugin_answered(&self, name: &str) {
        for replica in self.replicas() {
            if replica.name() == name && replica.lease.is_none() {
                self.heard_from(&replica);
            }
        }
    }

    /// Keeps the worker in the table for another lease, and back in rotation if it was ejected.
    ///
    /// # Errors
    /// When its lease has lapsed or it was never registered.
    pub fn renew(&self, id: &str) -> Result<Lease, Refusal> {
        let replica = self.find(id)?;
        self.heard_from(&replica);
        self.inner.lease_events.count(LeaseEvent::Renewed);
        Ok(Lease {
            lease_ms: replica.lease.map_or(0, millis),
            draining: replica.rotation() == Rotation::Draining,
        })
    }

    /// Takes a sign of life, which a reply is as much as a renewal.
    pub fn heard_from(&self, replica: &Replica) {
        replica.alive_at.store(self.inner.clock.now_ms(), Ordering::Relaxed);
        if replica.rotation() == Rotation::Ejected {
            self.readmit(replica, "it was heard from");
        }
    }

    /// Ends a registration by the worker's own wish: no new calls from this moment, those in flight finish.
    ///
    /// # Errors
    /// When there is no such worker.
    pub async fn deregister(&self, id: &str) -> Result<(), Refusal> {
        let replica = self.find(id)?;
        self.dismiss(&replica);
        self.inner.lease_events.count(LeaseEvent::Ended);
        info!(worker = replica.name(), worker_id = %replica.id, "worker left");
        if let Err(error) = self.remove(vec![replica]).await {
            // It has left all the same; a restart finds it gone, and lapses it.
            error!(%error, "a worker that left could not be taken out of the store");
        }
        Ok(())
    }

    /// Ends a registration by an operator's wish: as [`Registry::deregister`], but its lease goes on, so that it learns of it.
    ///
    /// # Errors
    /// When there is no such worker, or the store fails.
    pub async fn drain(&self, id: &str) -> Result<(), Refusal> {
        let replica = self.find(id)?;
        if !replica.turn(&[Rotation::In, Rotation::Ejected], Rotation::Draining) {
            return Ok(());
        }
        replica.group.rotation_changed();
        info!(worker = replica.name(), worker_id = %replica.id, "worker drains");
        let registry = self.clone();
        let change = tokio::spawn(async move {
            let mut book = registry.inner.book.lock().await;
            // One that has left or was replaced meanwhile has no routes to remember.
            let drained = book.take_out(&[replica]);
            let mut changes = book.remember_routes(&drained);
            changes.extend(
                drained.iter().map(|drained| Change::DrainWorker { worker_id: drained.id.to_string() }),
            );
            book.draining.extend(drained);
            registry.publish(&book);
            Ok(registry.inner.store.commit(changes).await?)
        });
        joined(change).await
    }

    /// Forgets a known route that has no worker, so that another name may claim it. Returns how many methods it had.
    ///
    /// # Errors
    /// When a worker serves it, or nobody knows it.
    pub async fn forget(&self, path: &str) -> Result<usize, Refusal> {
        let shapes: HashSet<_> = [Braces::Param, Braces::Literal]
            .into_iter()
            .filter_map(|braces| Pattern::parse(path, braces).ok())
            .map(|pattern| pattern.shape())
            .collect();
        let path = path.to_owned();
        let registry = self.clone();
        let change = tokio::spawn(async move {
            let mut book = registry.inner.book.lock().await;
            let keys: Vec<_> =
                book.remembered.keys().filter(|(shape, _)| shapes.contains(shape)).cloned().collect();
            if keys.is_empty() {
                let table = registry.inner.table.load();
                let served = shapes.iter().find_map(|shape| table.routes.get(shape));
                return Err(match served.and_then(|endpoint| endpoint.handlers.first()) {
                    Some(handler) => Refusal::RouteInUse { path, owner: handler.group.name.to_string() },
                    None => Refusal::UnknownRoute { path },
                });
            }
            let changes = keys.iter().map(|(shape, method)| forget(shape, method)).collect();
            registry.inner.store.commit(changes).await?;
            for key in &keys {
                book.remembered.remove(key);
            }
            registry.publish(&book);
            for group in &registry.inner.groups {
                group.rotation_changed();
            }
            info!(path, "route forgotten");
            Ok(keys.len())
        });
        joined(change).await
    }

    /// Every worker in the table, draining ones too.
    #[must_use]
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        let mut replicas: Vec<_> =
            self.inner.replicas.iter().map(|entry| Arc::clone(entry.value())).collect();
        replicas.sort_by(|a, b| (a.name(), a.registered_at).cmp(&(b.name(), b.registered_at)));
        replicas
    }

    /// What became of leases, by word, since the gateway started.
    #[must_use]
    pub fn lease_events(&self) -> [(&'static str, u64); 4] {
        self.inner.lease_events.read()
    }

    /// What is left of a replica's lease; [`None`] when it has none.
    #[must_use]
    pub fn lease_left(&self, replica: &Replica) -> Option<Duration> {
        let silent = self.inner.clock.now_ms().saturating_sub(replica.alive_at.load(Ordering::Relaxed));
        replica.lease.map(|lease| lease.saturating_sub(Duration::from_millis(silent)))
    }

    /// Says which handlers cannot be called, because the configuration has no longer what their signatures are checked with.
    pub fn warn_of_unverifiable(&self, config: &Config) {
        for (_, endpoint) in self.table().routes.iter() {
            for handler in endpoint.handlers() {
                for error in handler.verify.iter().filter_map(|verify| verify.usable(config).err()) {
                    let method = handler.method.as_str();
                    warn!(method, route = &*endpoint.path, worker = &*handler.group.name, %error, "webhooks are refused");
                }
            }
        }
    }

    /// Requests that wait for a worker.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.inner.groups.iter().map(|group| group.parked()).sum()
    }

    /// Takes dismissed replicas out of the table, and remembers the routes that nobody else has.
    async fn remove(&self, gone: Vec<Arc<Replica>>) -> Result<(), Refusal> {
        let registry = self.clone();
        let change = tokio::spawn(async move {
            let mut book = registry.inner.book.lock().await;
            // One that was replaced meanwhile has no routes to remember: its successor's registration says what becomes of them.
            let gone = book.take_out(&gone);
            let mut changes = book.remember_routes(&gone);
            changes.extend(gone.iter().map(|gone| Change::RemoveWorker { worker_id: gone.id.to_string() }));
            // What is gone is gone, whether or not the store can keep it: a restart would only find it gone again.
            registry.publish(&book);
            Ok(registry.inner.store.commit(changes).await?)
        });
        joined(change).await
    }

    /// Stops calls to a replica for good.
    fn dismiss(&self, replica: &Replica) {
        replica.turn(&[Rotation::In, Rotation::Ejected, Rotation::Draining], Rotation::Left);
        self.inner.replicas.remove(&replica.id);
        replica.group.leave(&replica.id);
    }

    /// Takes a replica up into the book and among those that may get calls once the table shows them.
    fn enlist(&self, book: &mut Book, replica: &Arc<Replica>) {
        match replica.rotation() {
            Rotation::Draining => book.draining.push(Arc::clone(replica)),
            Rotation::In | Rotation::Ejected | Rotation::Left => book.replicas.push(Arc::clone(replica)),
        }
        self.join(replica);
    }

    fn join(&self, replica: &Arc<Replica>) {
        // The lease begins when the worker can be found, however long the store took.
        replica.alive_at.store(self.inner.clock.now_ms(), Ordering::Relaxed);
        self.inner.replicas.insert(Arc::clone(&replica.id), Arc::clone(replica));
        replica.group.join(Arc::clone(replica));
    }

    fn find(&self, id: &str) -> Result<Arc<Replica>, Refusal> {
        let found = self.inner.replicas.get(id).map(|replica| Arc::clone(&replica));
        found.ok_or_else(|| Refusal::UnknownWorker { id: id.to_owned() })
    }

    /// The worker name behind an id.
    ///
    /// # Errors
    /// When there is no such worker.
    pub fn name_of(&self, id: &str) -> Result<String, Refusal> {
        self.find(id).map(|replica| replica.name().to_owned())
    }

    fn group(&self, name: &str) -> Arc<Group> {
        Arc::clone(&self.inner.groups.entry(name.into()).or_insert_with(|| Arc::new(Group::new(name))))
    }

    fn replica(
        &self,
        claim: Claim,
        id: String,
        secret: Secret,
        registered_at: SystemTime,
        rotation: Rotation,
    ) -> Replica {
        let lease = self.inner.config.load().workers.lease;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", secret.expose())).ok();
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        Replica {
            id: id.into(),
            group: self.group(&claim.registration.name),
            url: claim.url,
            dialect: claim.dialect,
            authorization,
            call_head: OnceLock::new(),
            registered_at,
            lease: Some(lease),
            secret,
            handlers: claim.handlers,
            max_concurrency: claim.registration.max_concurrency.unwrap_or(u32::MAX),
            in_flight: AtomicU32::new(0),
            rotation: AtomicU8::new(rotation as u8),
            is_probed: AtomicBool::new(false),
            alive_at: AtomicU64::new(self.inner.clock.now_ms()),
            epoch: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            registration: PackedRegistration::new(claim.registration),
        }
    }

    /// Swaps in the table that follows from the book.
    fn publish(&self, book: &Book) {
        let replaced = self.inner.table.swap(Arc::new(book.table()));
        self.inner.replaced.lock().push(replaced);
        self.drop_unused_tables();
    }

    fn drop_unused_tables(&self) {
        self.inner.replaced.lock().retain(|table| Arc::strong_count(table) > 1);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `N` bytes from the operating system's generator, in hexadecimal.
fn random_hex<const N: usize>() -> String {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .expect("the operating system's generator does not fail once the process runs");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn joined<T>(change: tokio::task::JoinHandle<Result<T, Refusal>>) -> Result<T, Refusal> {
    match change.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Refusal::Store(StoreError::ShutDown)),
        },
    }
}

#[cfg(test)]
mod tests;
