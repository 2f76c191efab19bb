//! What time does to deliveries: those that were delivered go, and their room goes back to the file system.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rusqlite::{Connection, params};
use tracing::warn;

use super::log::{Log, LogError, Record};
use super::metrics::{AGES, DeliveryMetrics, Tally};
use super::operator;
use super::record::{Id, millis, now_ms};
use super::rows::{COUNTER_BITS, execute};
use super::schema::SCHEMA;
use crate::config::Config;
use crate::store::StoreError;

const EVERY: Duration = Duration::from_secs(10);
/// How many go in one transaction: no request waits for more than that.
const BATCH: usize = 200;
/// How many are looked for at once.
const LOOK: usize = 2000;
/// How many pages go back to the file system in one transaction, and how many are kept for what comes.
const VACUUM_PAGES: i64 = 256;
const SPARE_PAGES: i64 = 1024;

/// What is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// What was delivered before that time (milliseconds since 1970) and is not needed to know the same event by.
    DeliveredBefore(i64),
    /// The same of dead letters that were replayed: they are owed to nobody, their replays are.
    ReplayedBefore(i64),
    /// What was sent and delivered, of the oldest, leaving what is needed to know the same event by.
    Contents,
}

/// What was found to go, for the writer: what settled deliveries are, they stay.
#[derive(Debug)]
pub(super) enum Purge {
    Deliveries(Vec<Id>),
    Contents(Vec<Id>),
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
        let reader_of_counts = Arc::clone(&reader);
        let counted = tokio::task::spawn_blocking(move || tally(&reader_of_counts.lock())).await;
        match counted {
            Ok(Ok(tally)) => metrics.show(&tally, log.stored_bytes()),
            Ok(Err(error)) => warn!(%error, "the deliveries cannot be counted"),
            Err(_) => {}
        }
        // Somebody who found no room is not to wait long.
        drop(tokio::time::timeout(EVERY, wanted.notified()).await);
        let webhooks = config.load().webhooks.clone();
        let outdated = now_ms().saturating_sub(millis(webhooks.retention));
        let sweep = async |wanted, is_needed: &(dyn Fn() -> bool + Sync)| {
            if let Err(error) = sweep(&log, &reader, wanted, is_needed).await {
                warn!(%error, "deliveries that were delivered could not be removed yet");
            }
        };
        // Whatever is found, some of the room that is free goes back.
        drop(log.record(Record::Purge(Purge::Deliveries(Vec::new()))).await);
        sweep(Wanted::DeliveredBefore(outdated), &|| true).await;
        sweep(Wanted::ReplayedBefore(outdated), &|| true).await;
        // What is to come is worth more than what was delivered: nine tenths full is full, and then a tenth is freed. So it is where somebody
        // found no room, once for each time: what operators may still want to look at does not go for somebody who has long been served.
        let stored = log.stored_bytes();
        let high = webhooks.max_stored / 10 * 9;
        let lacks_room = log.take_want_of_room();
        if stored > high || lacks_room {
            let enough = stored.min(high) / 10 * 9;
            let looked = Instant::now();
            let is_needed = || log.stored_bytes() > enough;
            for wanted in
                [Wanted::DeliveredBefore(now_ms()), Wanted::ReplayedBefore(now_ms()), Wanted::Contents]
            {
                sweep(wanted, &is_needed).await;
            }
            if is_needed() {
                // Looking through a large log again and again, for each who is refused, would take a processor for itself.
                tokio::time::sleep(looked.elapsed().min(EVERY)).await;
            } else {
                // Who was refused meanwhile has room now, too.
                log.take_want_of_room();
            }
        }
    }
}

/// Removes what is wanted, batch by batch, as long as that is needed. The looking is done beside the writer, whom requests wait for.
async fn sweep(
    log: &Log,
    reader: &Arc<Mutex<Connection>>,
    wanted: Wanted,
    is_needed: &(dyn Fn() -> bool + Sync),
) -> Result<(), LogError> {
    let mut from = i64::MIN;
    while is_needed() {
        let reader = Arc::clone(reader);
        let looked = tokio::task::spawn_blocking(move || find(&reader.lock(), wanted, from)).await;
        let found = looked.map_err(|_| StoreError::ShutDown)?.map_err(|error| SCHEMA.explain(&error))?;
        for batch in found.chunks(BATCH).take_while(|_| is_needed()) {
            let ids = batch.iter().map(|(id, _)| *id).collect();
            let purge = match wanted {
                Wanted::DeliveredBefore(_) | Wanted::ReplayedBefore(_) => Purge::Deliveries(ids),
                Wanted::Contents => Purge::Contents(ids),
            };
            log.record(Record::Purge(purge)).await?;
        }
        match found.last() {
            Some((_, place)) if found.len() >= LOOK => from = *place,
            Some(_) | None => break,
        }
    }
    Ok(())
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

/// What is to go, each with its place in the order in which it is looked through. A look from the last one's place on passes over nothing
/// that is to go, and not again over all that stays.
fn find(connection: &Connection, wanted: Wanted, from: i64) -> rusqlite::Result<Vec<(Id, i64)>> {
    let (sql, before) = match wanted {
        Wanted::DeliveredBefore(time) => (DELIVERED, time),
        Wanted::ReplayedBefore(time) => (REPLAYED, time),
        Wanted::Contents => (WITH_CONTENTS, i64::MAX),
    };
    let at_most = i64::try_from(LOOK).unwrap_or(i64::MAX);
    connection
        .prepare_cached(sql)?
        .query_map(params![from, before, now_ms(), at_most], |row| Ok((Id(row.get(0)?), row.get(1)?)))?
        .collect()
}

const DELIVERED: &str = "SELECT id, settled_at FROM delivery INDEXED BY delivery_delivered
    WHERE state = 1 AND settled_at >= ?1 AND settled_at < ?2 AND (dedup_hash IS NULL OR dedup_until < ?3)
    ORDER BY settled_at LIMIT ?4";
const REPLAYED: &str = "SELECT id, id FROM delivery INDEXED BY delivery_dead
    WHERE state = 2 AND id >= ?1 AND settled_at < ?2 AND replayed_as IS NOT NULL AND (dedup_hash IS NULL OR dedup_until < ?3)
    ORDER BY id LIMIT ?4";
const WITH_CONTENTS: &str = "SELECT id, settled_at FROM delivery INDEXED BY delivery_delivered
    WHERE state = 1 AND settled_at >= ?1 AND settled_at < ?2 AND ?3 > 0 AND NOT stripped
    ORDER BY settled_at LIMIT ?4";

/// Removes what was found.
pub(super) fn purge(connection: &Connection, purge: &Purge) -> rusqlite::Result<()> {
    match purge {
        Purge::Deliveries(ids) => {
            ids.iter().try_for_each(|id| operator::remove(connection, *id).map(drop))?;
        }
        Purge::Contents(ids) => {
            for id in ids {
                execute(connection, "DELETE FROM body WHERE id = ?1", [id.0])?;
                execute(
                    connection,
                    "UPDATE delivery SET stripped = 1, header = x'', body = x'', query = '', traceparent = '' WHERE id = ?1",
                    [id.0],
                )?;
            }
        }
    }
    give_back(connection)
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
