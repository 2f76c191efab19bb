//! Connections by how long their clients have owed something, for when there is no room for another.

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::http1::Activity;

/// Of this many connections one is given up at a time, so that looking for the oldest is rare.
const SHARE: usize = 256;
/// Fewer ended connections than this are not worth looking for.
const FEW: usize = 64;

/// Every open connection.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    connections: Vec<(Activity, AbortHandle)>,
    /// How many there may be before those that have ended are looked for.
    enough: usize,
}

impl Waiting {
    pub(super) fn add(&self, activity: Activity, task: AbortHandle) {
        let mut list = self.0.lock();
        if list.connections.len() >= list.enough {
            list.connections.retain(|(_, task)| !task.is_finished());
            let open = list.connections.len();
            list.enough = open + (open / 8).max(FEW);
        }
        list.connections.push((activity, task));
    }

    /// Closes connections whose clients have owed since `since` or longer, and have not taken `bytes` of their responses, or as many
    /// as there are. Tells how many were.
    pub(super) fn let_go_of_untaken(&self, since: u64, mut bytes: u64) -> usize {
        let list = self.0.lock();
        let mut owing: Vec<(u64, usize)> = list
            .connections
            .iter()
            .enumerate()
            .filter(|(_, (activity, _))| activity.untaken() > 0)
            .filter_map(|(place, (activity, _))| Some((activity.owing_since()?, place)))
            .filter(|(owing_since, _)| *owing_since <= since)
            .collect();
        owing.sort_unstable();
        let mut let_go = 0;
        for (since, place) in owing {
            let (activity, task) = &list.connections[place];
            let untaken = activity.untaken();
            if bytes > 0 && activity.let_go(since) {
                task.abort();
                bytes = bytes.saturating_sub(untaken);
                let_go += 1;
            }
        }
        let_go
    }

    /// Closes the connections whose clients have owed a request, or the rest of one, for the longest. A connection that the
    /// gateway is working for is never closed, so there may be none. Tells how many were.
    pub(super) fn let_go_of_the_longest(&self) -> usize {
        let mut list = self.0.lock();
        list.connections.retain(|(_, task)| !task.is_finished());
        let mut owing: Vec<(u64, usize)> = list
            .connections
            .iter()
            .enumerate()
            .filter_map(|(place, (activity, _))| Some((activity.owing_since()?, place)))
            .collect();
        let most = (list.connections.len() / SHARE).clamp(1, owing.len().max(1));
        owing.sort_unstable();
        owing.truncate(most);
        let let_go = owing.into_iter().filter(|(since, place)| {
            let (activity, task) = &list.connections[*place];
            let let_go = activity.let_go(*since);
            if let_go {
                task.abort();
            }
            let_go
        });
        let_go.count()
    }
}
