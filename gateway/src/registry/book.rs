use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use gearway_protocol::HandlerSpec;
use http::Method;
use smallvec::SmallVec;

use super::claim::ClaimedHandler;
use super::group::Group;
use super::methods::Methods;
use super::packed::json_size;
use super::refusal::NoRoom;
use super::replica::Replica;
use super::table::{Endpoint, Handler, Offer, Table};
use crate::dialect::Dialect;
use crate::route::{RouteTable, Shape};
use crate::store::{Change, RouteRecord, WorkerRecord};

/// The most that workers and known routes may come to, as JSON: some two million handlers. The table takes a few times as much
/// memory, and counts its names' bytes in 32 bits.
const MOST_KNOWN: usize = 256 << 20;

/// Everything that the table follows from.
#[derive(Debug)]
pub(super) struct Book {
    /// In the order in which they registered. A replica that takes no more calls stays here until its routes are remembered: no
    /// change in between may make them unknown.
    pub(super) replicas: Vec<Arc<Replica>>,
    /// Drained by an operator: they renew their leases, and their routes are not theirs any more.
    pub(super) draining: Vec<Arc<Replica>>,
    /// Known routes that no replica lists.
    pub(super) remembered: HashMap<(Shape, Method), Remembered>,
    /// The most that all of these may come to when a registration is added, in bytes of JSON.
    pub(super) most_known: usize,
}

/// A known route without a worker.
#[derive(Debug, Clone)]
pub(super) struct Remembered {
    pub(super) group: Arc<Group>,
    pub(super) dialect: Dialect,
    pub(super) spec: HandlerSpec,
    pub(super) handler: ClaimedHandler,
    pub(super) lost_at: SystemTime,
    /// Of `spec` as JSON, in bytes.
    pub(super) spec_size: usize,
}

/// What remembering a route takes beside its text, which is about what a registration is beside its handlers: so a worker whose
/// routes are remembered finds room for them when it comes back.
const REMEMBERED_SIZE: usize = 256;

impl Remembered {
    pub(super) fn size(&self) -> usize {
        REMEMBERED_SIZE + self.spec_size
    }
}

impl Default for Book {
    fn default() -> Self {
        Self {
            replicas: Vec::new(),
            draining: Vec::new(),
            remembered: HashMap::new(),
            most_known: MOST_KNOWN,
        }
    }
}

impl Book {
    /// What workers and known routes come to, in bytes of JSON.
    pub(super) fn known(&self) -> usize {
        self.workers().map(|replica| replica.registration.size()).sum::<usize>()
            + self.remembered.values().map(Remembered::size).sum::<usize>()
    }

    /// Refuses a registration that there is no room for beside the `known`. One that takes up no more than what it replaces
    /// always has room: a worker must be able to come back.
    pub(super) fn find_room(&self, known: usize, replica: &Replica) -> Result<(), NoRoom> {
        let (size, at_most) = (replica.registration.size(), self.most_known);
        if known + size <= at_most {
            return Ok(());
        }
        let replaced: usize = self
            .workers()
            .filter(|old| replica.replaces(old))
            .map(|old| old.registration.size())
            .chain(
                self.remembered
                    .values()
                    .filter(|route| *route.group.name == *replica.name())
                    .map(Remembered::size),
            )
            .sum();
        let would_be = known - replaced + size;
        if size <= replaced || would_be <= at_most { Ok(()) } else { Err(NoRoom { would_be, at_most }) }
    }

    fn workers(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.replicas.iter().chain(&self.draining)
    }

    /// Those of `gone` that were in it.
    pub(super) fn take_out(&mut self, gone: &[Arc<Replica>]) -> Vec<Arc<Replica>> {
        let is_gone = |replica: &mut Arc<Replica>| gone.iter().any(|gone| gone.id == replica.id);
        self.replicas.extract_if(.., is_gone).chain(self.draining.extract_if(.., is_gone)).collect()
    }

    /// Takes up the routes of `gone` that nobody lists any more, and says what the store has to keep of them.
    pub(super) fn remember_routes(&mut self, gone: &[Arc<Replica>]) -> Vec<Change> {
        let listed: HashSet<_> = self.replicas.iter().flat_map(|replica| replica.routes()).collect();
        let mut changes = Vec::new();
        for replica in gone {
            for (handler, spec) in replica.handlers.iter().zip(replica.registration.handlers()) {
                for method in handler.methods.iter() {
                    if listed.contains(&(handler.pattern.shape(), method)) {
                        continue;
                    }
                    let key = (handler.pattern.shape(), method.clone());
                    if self.remembered.contains_key(&key) {
                        continue;
                    }
                    let route = Remembered {
                        group: Arc::clone(&replica.group),
                        dialect: replica.dialect,
                        spec: spec.clone(),
                        handler: handler.clone(),
                        lost_at: SystemTime::now(),
                        spec_size: json_size(&spec),
                    };
                    changes.push(Change::Remember(route_record(&route, method)));
                    self.remembered.insert(key, route);
                }
            }
        }
        changes
    }

    /// Puts a replica in the place of the registrations of the same name and url, which are returned.
    pub(super) fn replace(&mut self, replica: &Arc<Replica>) -> Vec<Arc<Replica>> {
        let is_older = |old: &mut Arc<Replica>| replica.replaces(old);
        let replaced =
            self.replicas.extract_if(.., is_older).chain(self.draining.extract_if(.., is_older)).collect();
        self.replicas.push(Arc::clone(replica));
        replaced
    }

    /// Takes out the routes that are remembered for this name.
    pub(super) fn take_remembered(&mut self, name: &str) -> Vec<((Shape, Method), Remembered)> {
        self.remembered.extract_if(|_, route| *route.group.name == *name).collect()
    }

    /// The routes and replicas, as requests see them.
    pub(super) fn table(&self) -> Table {
        let mut routes = RouteTable::new();
        for replica in &self.replicas {
            for (index, handler) in (0..).zip(&replica.handlers) {
                for method in handler.methods.iter() {
                    let offer = Offer { replica: Arc::clone(replica), handler: index };
                    owned(&mut routes, handler, method, &replica.group).offers.push(offer);
                }
            }
        }
        for ((_, method), route) in &self.remembered {
            let Some(method) = Methods::known(method.as_str()) else { continue };
            owned(&mut routes, &route.handler, method, &route.group).lost_at = Some(Box::new(route.lost_at));
        }
        routes.shrink_to_fit();
        Table { routes }
    }
}

/// The handler of a path and method in the table being built, at least as strict as asked for here.
fn owned<'e>(
    routes: &'e mut RouteTable<Endpoint>,
    claimed: &ClaimedHandler,
    method: &'static Method,
    group: &Arc<Group>,
) -> &'e mut Handler {
    let ClaimedHandler { pattern, methods, policy, timeout, verify, delivery, .. } = claimed;
    let endpoint = routes.get_or_insert_with(&pattern.shape(), || Endpoint {
        path: pattern.shared_path(),
        handlers: Vec::with_capacity(methods.len()),
    });
    let place =
        endpoint.handlers.iter().position(|handler| *handler.method == *method).unwrap_or_else(|| {
            endpoint.handlers.push(Handler {
                method,
                policy: *policy,
                timeout: *timeout,
                verify: SmallVec::new(),
                delivery: None,
                group: Arc::clone(group),
                offers: SmallVec::new(),
                lost_at: None,
            });
            endpoint.handlers.len() - 1
        });
    let handler = &mut endpoint.handlers[place];
    handler.policy.key_required |= policy.key_required;
    handler.policy.user_required |= policy.user_required;
    if let Some(verify) = verify
        && !handler.verify.contains(verify)
    {
        handler.verify.push(Arc::clone(verify));
    }
    // Replicas that disagree are an upgrade under way, and what is new is what is meant.
    handler.delivery.clone_from(delivery);
    handler.timeout = match (handler.timeout, *timeout) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    handler
}

pub(super) fn worker_record(replica: &Replica) -> WorkerRecord {
    WorkerRecord {
        worker_id: replica.id.to_string(),
        secret: replica.secret.clone(),
        registration: replica.registration.unpack(),
        registered_at: replica.registered_at,
        draining: false,
    }
}

pub(super) fn route_record(route: &Remembered, method: &Method) -> RouteRecord {
    RouteRecord {
        owner: route.group.name.to_string(),
        protocol: route.dialect.protocol().to_owned(),
        shape: route.handler.pattern.shape().to_string(),
        method: method.to_string(),
        handler: route.spec.clone(),
        lost_at: route.lost_at,
    }
}

pub(super) fn forget(shape: &Shape, method: &Method) -> Change {
    Change::ForgetRoute { shape: shape.to_string(), method: method.to_string() }
}
