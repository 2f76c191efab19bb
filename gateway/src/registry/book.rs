use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use gearway_protocol::HandlerSpec;
use http::Method;
use smallvec::SmallVec;

use super::claim::ClaimedHandler;
use super::group::Group;
use super::replica::Replica;
use super::table::{Endpoint, Handler, Offer, Table};
use crate::dialect::Dialect;
use crate::route::{RouteTable, Shape};
use crate::store::{Change, RouteRecord, WorkerRecord};

/// Everything that the table follows from.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// In the order in which they registered. A replica that takes no more calls stays here until its routes are remembered: no
    /// change in between may make them unknown.
    pub(super) replicas: Vec<Arc<Replica>>,
    /// Drained by an operator: they renew their leases, and their routes are not theirs any more.
    pub(super) draining: Vec<Arc<Replica>>,
    /// Known routes that no replica lists.
    pub(super) remembered: HashMap<(Shape, Method), Remembered>,
}

/// A known route without a worker.
#[derive(Debug, Clone)]
pub(super) struct Remembered {
    pub(super) group: Arc<Group>,
    pub(super) dialect: Dialect,
    pub(super) spec: HandlerSpec,
    pub(super) handler: ClaimedHandler,
    pub(super) lost_at: SystemTime,
}

impl Book {
    /// Those of `gone` that were in it.
    pub(super) fn take_out(&mut self, gone: &[Arc<Replica>]) -> Vec<Arc<Replica>> {
        let is_gone = |replica: &mut Arc<Replica>| gone.iter().any(|gone| gone.id == replica.id);
        self.replicas.extract_if(.., is_gone).chain(self.draining.extract_if(.., is_gone)).collect()
    }

    /// Takes up the routes of `gone` that nobody lists any more, and says what the store has to keep of them.
    pub(super) fn remember_routes(&mut self, gone: &[Arc<Replica>]) -> Vec<Change> {
        let listed: HashSet<_> = self
            .replicas
            .iter()
            .flat_map(|replica| &replica.handlers)
            .flat_map(|handler| {
                handler.methods.iter().map(|method| (handler.pattern.shape(), method.clone()))
            })
            .collect();
        let mut changes = Vec::new();
        for replica in gone {
            for (handler, spec) in replica.handlers.iter().zip(&replica.registration.handlers) {
                for method in &handler.methods {
                    let key = (handler.pattern.shape(), method.clone());
                    if listed.contains(&key) || self.remembered.contains_key(&key) {
                        continue;
                    }
                    let route = Remembered {
                        group: Arc::clone(&replica.group),
                        dialect: replica.dialect,
                        spec: spec.clone(),
                        handler: handler.clone(),
                        lost_at: SystemTime::now(),
                    };
                    changes.push(Change::Remember(route_record(&route, method)));
                    self.remembered.insert(key, route);
                }
            }
        }
        changes
    }

    /// The routes and replicas, as requests see them.
    pub(super) fn table(&self) -> Table {
        let mut endpoints: HashMap<Shape, Endpoint> = HashMap::new();
        for replica in &self.replicas {
            for (index, handler) in (0..).zip(&replica.handlers) {
                for method in &handler.methods {
                    let offer = Offer { replica: Arc::clone(replica), handler: index };
                    owned(&mut endpoints, handler, method, &replica.group).offers.push(offer);
                }
            }
        }
        for ((_, method), route) in &self.remembered {
            owned(&mut endpoints, &route.handler, method, &route.group).lost_at = Some(route.lost_at);
        }
        Table { routes: RouteTable::build(endpoints) }
    }
}

/// The handler of a path and method in the table being built, at least as strict as asked for here.
fn owned<'e>(
    endpoints: &'e mut HashMap<Shape, Endpoint>,
    claimed: &ClaimedHandler,
    method: &Method,
    group: &Arc<Group>,
) -> &'e mut Handler {
    let ClaimedHandler { pattern, policy, timeout, .. } = claimed;
    let endpoint = endpoints
        .entry(pattern.shape())
        .or_insert_with(|| Endpoint { path: pattern.path().into(), handlers: SmallVec::new() });
    let place = endpoint.handlers.iter().position(|handler| handler.method == *method).unwrap_or_else(|| {
        endpoint.handlers.push(Handler {
            method: method.clone(),
            policy: *policy,
            timeout: *timeout,
            group: Arc::clone(group),
            offers: SmallVec::new(),
            lost_at: None,
        });
        endpoint.handlers.len() - 1
    });
    let handler = &mut endpoint.handlers[place];
    handler.policy.key_required |= policy.key_required;
    handler.policy.user_required |= policy.user_required;
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
        registration: replica.registration.clone(),
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
