use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use smallvec::SmallVec;

use super::group::Group;
use super::replica::{Replica, Rotation};
use crate::auth::Policy;
use crate::delivery;
use crate::route::RouteTable;
use crate::webhook::Verify;

/// What the gateway knows of routes and replicas at one moment. Never changed: the registry swaps in another.
#[derive(Debug)]
pub struct Table {
    pub routes: RouteTable<Endpoint>,
}

/// Everything registered for one path.
#[derive(Debug)]
pub struct Endpoint {
    /// The path as its first claimant wrote it; what metrics and logs call the route.
    pub path: Arc<str>,
    pub(super) handlers: Vec<Handler>,
}

/// One method of a path. It belongs to one worker name, and has a replica for each worker that offers it: none when
/// the route is only remembered.
#[derive(Debug)]
pub struct Handler {
    pub method: &'static Method,
    /// The strictest that a replica asks for.
    pub policy: Policy,
    /// The shortest that a replica asks for.
    pub timeout: Option<HandlerTimeout>,
    /// How its requests are kept, by whoever registered last; [`None`] when they are not.
    pub delivery: Option<Arc<delivery::Policy>>,
    /// What replicas ask of a webhook's signature. Where they disagree, all of it has to hold.
    pub verify: SmallVec<[Arc<Verify>; 1]>,
    pub group: Arc<Group>,
    pub offers: SmallVec<[Offer; 1]>,
    /// When the last replica that offered it went, for a route that is only remembered. Few are.
    pub lost_at: Option<Box<SystemTime>>,
}

/// How long a handler may take: four bytes of milliseconds, since there may be millions of handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HandlerTimeout(NonZeroU32);

impl HandlerTimeout {
    /// [`None`] for no time at all. What is longer than seven weeks is not bounded by this.
    pub(super) fn from_millis(millis: u64) -> Option<Self> {
        NonZeroU32::new(u32::try_from(millis).unwrap_or(u32::MAX)).map(Self)
    }

    #[must_use]
    pub fn as_duration(self) -> Duration {
        Duration::from_millis(self.0.get().into())
    }
}

/// A replica's handler for a route.
#[derive(Debug, Clone)]
pub struct Offer {
    pub replica: Arc<Replica>,
    /// Index into the replica's handlers.
    pub(super) handler: u32,
}

impl Endpoint {
    #[must_use]
    pub fn handler(&self, method: &Method) -> Option<&Handler> {
        self.handlers.iter().find(|handler| *handler.method == *method)
    }

    pub fn handlers(&self) -> impl Iterator<Item = &Handler> {
        self.handlers.iter()
    }
}

impl Handler {
    /// Whether some replica could take a call now.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.offers.iter().any(|offer| offer.replica.rotation() == Rotation::In && offer.replica.has_room())
    }

    /// Whether a replica is there that will take calls as soon as it has room.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.offers.iter().any(|offer| offer.replica.rotation() == Rotation::In && !offer.replica.has_room())
    }
}

impl Offer {
    /// The handler's name as this replica registered it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.replica.handlers[self.handler as usize].name()
    }

    /// The names of the pattern's `{param}`s, in order.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.replica.handlers[self.handler as usize].pattern.params().iter().map(AsRef::as_ref)
    }

    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        self.replica.handlers[self.handler as usize].idempotent
    }
}
