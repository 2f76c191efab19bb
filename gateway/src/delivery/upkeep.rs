//! What time does to deliveries: those that were delivered go, and their room goes back to the file system.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rusqlite::{Connection, params};
use tracing::warn;

use super::log::{Log, Record};
use super::metrics::{AGES, DeliveryMetrics, Tally};
use super::operator;
use super::record::{Id, millis, now_ms};
use super::rows::{COUNTER_BITS, execute};
use crate::config::Config;

const EVERY: Duration = Duration::from_secs(10);
/// How many go in one transaction: no request waits for more than that.
const BATCH: usize = 200;
/// How many pages go back to the file system in one transaction, and how many are kept for what comes.
const VACUUM_PAGES: i64 = 256;
const SPARE_PAGES: i64 = 1024;

/// What is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purge {
    /// What was settled before that time (milliseconds since 1970) and is not needed to know the same event by.
    SettledBefore(i64),
    /// What was sent and delivered, of the oldest, leaving what is needed to know the same event by.
    Contents,
}

/// Keeps the log within its bounds. Runs for the gateway's life.
pub(super) async fn run(
    log: Log,
    config: Arc<ArcSwap<Config>>,
    metrics: Arc<DeliveryMetrics>,
    reader: Arc<Mutex<Connection>>,
) {
    let wanted = log.room_wanted();
    loop {
        let reader = Arc::clone(&reader);
        let counted = tokio::task::spawn_blocking(move || tally(&reader.lock())).await;
        match counted {
            Ok(Ok(tally)) => metrics.show(&tally, log.stored_bytes()),
            Ok(Err(error)) => warn!(%error, "the deliveries cannot be counted"),
            Err(_) => {}
        }
        // Somebody who found no room is not to wait long.
        drop(tokio::time::timeout(EVERY, wanted.notified()).await);
        let webhooks = config.load().webhooks.clone();
        let outdated = now_ms().saturating_sub(millis(webhooks.retention));
        let mut purges = vec![Purge::SettledBefore(outdated)];
        // What is to come is worth more than what was delivered: nine tenths full is full.
        let high = webhooks.max_stored / 10 * 9;
        if log.stored_bytes() > high || log.lacks_room() {
            purges.extend([Purge::SettledBefore(now_ms()), Purge::Contents]);
        }
        for purge in purges {
            // Room is made until a tenth is free, and the outdated go in any case.
            let is_needed = || {
                purge == Purge::SettledBefore(outdated)
                    || log.stored_bytes() > high / 10 * 9
                    || log.lacks_room()
            };
            while is_needed() {
                match log.record(Record::Purge(purge)).await {
                    Ok(done) if done.count >= BATCH => {}
                    Ok(_) => break,
                    Err(error) => {
                        warn!(%error, "deliveries that were delivered could not be removed yet");
                        break;
                    }
                }
            }
        }
    }
}

/// Ids tell when deliveries were accepted, so that the index of what is pending is all that is read.
fn tally(connection: &Connection) -> rusqlite::Result<Tally> {
    let now = now_ms();
    let mut tally = Tally::default();
    let mut older_than = 0;
    for (place, age) in AGES.iter().map(|(_, age)| millis(*age)).chain([i64::MAX]).enumerate() {
        let first = now.saturating_sub(age).max(0) << COUNTER_BITS;
        let last = now.saturating_sub(older_than).saturating_add(1) << COUNTER_BITS;
        tally.pending[place] = connection
            .prepare_cached(
                "SELECT count(*) FROM delivery INDEXED BY delivery_pending WHERE state = 0 AND id >= ?1 AND id < ?2",
            )?
            .query_row([first, last], |row| row.get(0))?;
        older_than = age;
    }
    let oldest: Option<i64> = connection
        .prepare_cached("SELECT min(id) FROM delivery INDEXED BY delivery_pending WHERE state = 0")?
        .query_row([], |row| row.get(0))?;
    if let Some(oldest) = oldest {
        let age = now.saturating_sub(oldest >> COUNTER_BITS);
        tally.oldest_pending = Duration::from_millis(u64::try_from(age).unwrap_or(0));
    }
    let sql =
        "SELECT count(*) FROM delivery INDEXED BY delivery_dead WHERE state = 2 AND replayed_as IS NULL";
    tally.dead = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    Ok(tally)
}

/// Removes a batch; returns how many went.
pub(super) fn purge(connection: &Connection, purge: Purge) -> rusqlite::Result<usize> {
    let ids: Vec<i64> = match purge {
        Purge::SettledBefore(time) => {
            let mut ids = select(
                connection,
                "SELECT id FROM delivery INDEXED BY delivery_delivered
                 WHERE state = 1 AND settled_at < ?1 AND (dedup_hash IS NULL OR dedup_until < ?2) ORDER BY settled_at LIMIT ?3",
                time,
            )?;
            // A dead letter that was replayed is owed to nobody: its replay is.
            ids.extend(select(
                connection,
                "SELECT id FROM delivery INDEXED BY delivery_dead
                 WHERE state = 2 AND settled_at < ?1 AND replayed_as IS NOT NULL AND ?2 > 0 LIMIT ?3",
                time,
            )?);
            ids.iter().try_for_each(|id| operator::remove(connection, Id(*id)).map(drop))?;
            ids
        }
        Purge::Contents => {
            let ids = select(
                connection,
                "SELECT id FROM delivery INDEXED BY delivery_delivered
                 WHERE state = 1 AND settled_at < ?1 AND ?2 > 0 AND NOT stripped ORDER BY settled_at LIMIT ?3",
                i64::MAX,
            )?;
            for id in &ids {
                execute(connection, "DELETE FROM body WHERE id = ?1", [id])?;
                execute(
                    connection,
                    "UPDATE delivery SET stripped = 1, header = x'', body = x'', query = '', traceparent = '' WHERE id = ?1",
                    [id],
                )?;
            }
            ids
        }
    };
    give_back(connection)?;
    Ok(ids.len())
}

fn select(connection: &Connection, sql: &str, time: i64) -> rusqlite::Result<Vec<i64>> {
    let batch = i64::try_from(BATCH).unwrap_or(i64::MAX);
    connection.prepare_cached(sql)?.query_map(params![time, now_ms(), batch], |row| row.get(0))?.collect()
}

/// Free pages are used again before the file grows, so only what is far more than enough goes back.
fn give_back(connection: &Connection) -> rusqlite::Result<()> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (free, all) = (pragma("freelist_count")?, pragma("page_count")?);
    if free > SPARE_PAGES && free > all / 4 {
        let mut vacuum = connection.prepare_cached(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
        let mut steps = vacuum.query([])?;
        while steps.next()?.is_some() {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
