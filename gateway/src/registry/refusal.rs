use http::Method;

use super::claim::InvalidField;
use crate::store::StoreError;

/// Why a change was refused; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// The configuration lacks what a handler asks for.
    #[error(transparent)]
    Unverifiable(InvalidField),
    /// The url points where workers may not be.
    #[error("url: {0}")]
    ForbiddenUrl(String),
    #[error("{}", conflict_message(.name, .conflicts))]
    Conflict { name: String, conflicts: Vec<Conflict> },
    /// The gateway would have to keep more than it does.
    #[error("{0}")]
    NoRoom(NoRoom),
    #[error("no worker has the id {id:?}; register again")]
    UnknownWorker { id: String },
    #[error("no route is known at {path:?}")]
    UnknownRoute { path: String },
    #[error("{path:?} is served by {owner:?}; only a route without a worker can be forgotten")]
    RouteInUse { path: String, owner: String },
    #[error("the change could not be kept: {0}")]
    Store(#[from] StoreError),
}

/// What a registration would make the gateway know, and the most that it does, in bytes of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "handlers: with these the gateway would know {would_be} bytes of workers and routes, and {at_most} is the most; register \
     fewer or shorter ones, end workers that are not needed, or run `gearway routes forget PATH` for routes that have none"
)]
pub struct NoRoom {
    pub would_be: usize,
    pub at_most: usize,
}

/// A path and method that belong to somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub path: String,
    pub method: Method,
    pub owner: String,
}

/// A message for people names so many.
const CONFLICTS_NAMED: usize = 10;

fn conflict_message(name: &str, conflicts: &[Conflict]) -> String {
    let mut taken: Vec<_> = conflicts
        .iter()
        .take(CONFLICTS_NAMED)
        .map(|conflict| {
            format!("{} {} belongs to worker {:?}", conflict.method, conflict.path, conflict.owner)
        })
        .collect();
    if let Some(more @ 1..) = conflicts.len().checked_sub(CONFLICTS_NAMED) {
        taken.push(format!("and so do {more} more"));
    }
    format!(
        "worker {name:?} cannot have these routes: {}; rename one of them, or run `gearway routes forget PATH` once the owner is gone",
        taken.join(", ")
    )
}
