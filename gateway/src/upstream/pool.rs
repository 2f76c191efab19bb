use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Buffers, ConnectError, Connection};
use crate::config::Workers;
use crate::dialect::Dialect;
use crate::pieces;
use crate::registry::{Replica, Rotation};

/// Idle connections of one relay thread, by replica, and the buffers of the calls on them. Connections stay on the thread that
/// opened them.
#[derive(Debug, Default)]
pub struct Pool {
    /// The last one used is the next one used, so that those beyond need grow old.
    idle: Mutex<HashMap<Arc<str>, Vec<Idle>, foldhash::fast::RandomState>>,
    pub buffers: Buffers,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
    retire_after: Duration,
}

/// How long a connection may be idle: shorter than its worker keeps it, so that no call is written into a connection that the worker
/// is closing. Contract section 5.
fn retire_after(dialect: Dialect) -> Duration {
    match dialect {
        Dialect::GearwayV1 => Duration::from_secs(30),
        Dialect::SkygearV1 => Duration::from_secs(4),
    }
}

/// From then on the system is asked what became of an idle connection. Until then what the reactor heard when it last looked is
/// enough: that was a moment ago, and workers close what has been idle for seconds.
const RESTED: Duration = Duration::from_millis(100);

impl Pool {
    /// An idle connection to the replica, or else a new one, and the time after that: `now`, if that took none.
    ///
    /// # Errors
    /// When there is no idle one and the replica cannot be connected to.
    pub async fn checkout(
        &self,
        replica: &Replica,
        workers: &Workers,
        now: Instant,
    ) -> Result<(Connection, Instant), ConnectError> {
        let epoch = replica.epoch();
        while let Some((mut connection, idle_for)) = self.pop(replica, now) {
            if connection.epoch() != epoch || !connection.is_trusted(workers) {
                continue;
            }
            // A worker that died or stopped while the connection was idle has closed it, and a call that is written into it now
            // could not be told from one that was lost on the way.
            let is_untouched = match idle_for < RESTED {
                true => connection.is_untouched_so_far(),
                false => connection.is_untouched(),
            };
            if is_untouched {
                return Ok((connection, now));
            }
        }
        // In a box, so that calls that find a connection do not keep room for this.
        let connection = Box::pin(super::connect(&replica.url, workers)).await?.of_epoch(epoch);
        Ok((connection, Instant::now()))
    }

    /// A connection, and for how long it has been idle.
    fn pop(&self, replica: &Replica, now: Instant) -> Option<(Connection, Duration)> {
        let mut pool = self.idle.lock();
        let idle = pool.get_mut(&replica.id)?.pop()?;
        let idle_for = now.saturating_duration_since(idle.since);
        (idle_for < idle.retire_after).then_some((idle.connection, idle_for))
    }

    /// Keeps a connection for the next call, unless it cannot take one or its replica is gone.
    pub fn checkin(&self, replica: &Replica, connection: Connection, now: Instant) {
        let is_of_use = connection.is_reusable() && connection.epoch() == replica.epoch();
        if !is_of_use || replica.rotation() == Rotation::Left {
            return;
        }
        let idle = Idle { connection, since: now, retire_after: retire_after(replica.dialect) };
        let mut pool = self.idle.lock();
        match pool.get_mut(&replica.id) {
            Some(connections) => connections.push(idle),
            None => drop(pool.insert(Arc::clone(&replica.id), vec![idle])),
        }
    }

    /// Closes what has been idle for too long, what its worker has closed, and what belongs to replicas that `is_known` does not
    /// know. To be called every second or so.
    pub fn retire(&self, is_known: impl Fn(&str) -> bool) {
        self.idle.lock().retain(|id, connections| {
            connections.retain_mut(|idle| {
                idle.since.elapsed() < idle.retire_after && idle.connection.is_untouched()
            });
            !connections.is_empty() && is_known(id)
        });
        self.buffers.trim();
        pieces::trim();
    }
}
