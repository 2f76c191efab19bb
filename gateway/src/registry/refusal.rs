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
    #[error("no worker has the id {id:?}; register again")]
    UnknownWorker { id: String },
    #[error("no route is known at {path:?}")]
    UnknownRoute { path: String },
    #[error("{path:?} is served by {owner:?}; only a route without a worker can be forgotten")]
    RouteInUse { path: String, owner: String },
    #[error("the change could not be kept: {0}")]
    Store(#[from] StoreError),
}

/// A path and method that belong to somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub path: String,
    pub method: Method,
    pub owner: String,
}

fn conflict_message(name: &str, conflicts: &[Conflict]) -> String {
    let taken: Vec<_> = conflicts
        .iter()
        .map(|conflict| {
            format!("{} {} belongs to worker {:?}", conflict.method, conflict.path, conflict.owner)
        })
        .collect();
    format!(
        "worker {name:?} cannot have these routes: {}; rename one of them, or run `gearway routes forget PATH` once the owner is gone",
        taken.join(", ")
    )
}
