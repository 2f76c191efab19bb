//! What operators see of deliveries, and do with them.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::record::{Delivery, HeaderBlock, Id, RouteName, now_ms};
use super::rows::{self, Numbers, RouteId, State, execute};

/// Which deliveries are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub state: Option<State>,
    /// The pattern that they matched when they came.
    pub route: Option<String>,
    /// Those that were accepted after this one.
    pub after: Option<Id>,
    /// Those that were accepted before this one.
    pub before: Option<Id>,
}

/// A delivery, without what was sent and answered.
#[derive(Debug, Clone)]
pub struct Summary {
    pub id: Id,
    pub state: State,
    pub route: RouteName,
    /// As it came.
    pub raw_path: String,
    /// Times are milliseconds since 1970.
    pub received_at: i64,
    pub attempts: u32,
    /// When the next attempt is due, for a pending one.
    pub due_at: i64,
    pub settled_at: Option<i64>,
    pub body_bytes: u64,
    /// The word for how the last attempt ended, and the status of its answer.
    pub last: Option<(String, Option<u16>)>,
    pub replay_of: Option<Id>,
    pub replayed_as: Option<Id>,
    /// What was sent was given up for want of room.
    pub is_stripped: bool,
}

/// Everything about a delivery.
#[derive(Debug)]
pub struct Detail {
    pub summary: Summary,
    pub request: Delivery,
    /// In order.
    pub attempts: Vec<Attempt>,
}

/// An attempt that has ended.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub number: u32,
    pub started_at: i64,
    pub took_ms: i64,
    pub outcome: String,
    pub answer: Option<AttemptAnswer>,
}

/// What the worker answered; the body's beginning, if it was long.
#[derive(Debug, Clone)]
pub struct AttemptAnswer {
    pub status: u16,
    pub header: HeaderBlock,
    pub body: Vec<u8>,
}

/// What became of an operator's wish to have a delivery again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// As another delivery.
    As(Id),
    /// It is pending still, and due now.
    Hastened,
    /// What was sent is gone.
    Stripped,
    Unknown,
}

const SUMMARY: &str =
    "delivery.id, state, route.path, route.method, raw_path, received_at, attempts, due_at, settled_at,
    coalesce(length(body.bytes), length(delivery.body), 0) AS body_bytes, replay_of, replayed_as, stripped";
const JOINED: &str = "JOIN route ON route.id = delivery.route LEFT JOIN body ON body.id = delivery.id";

/// In the order in which they were accepted.
pub(super) fn list(connection: &Connection, filter: &Filter, limit: u32) -> rusqlite::Result<Vec<Summary>> {
    let (condition, parameters) = condition(filter);
    let sql = format!(
        "SELECT {SUMMARY} FROM delivery {} {JOINED} WHERE {condition} ORDER BY delivery.id LIMIT {limit}",
        index(filter)
    );
    connection
        .prepare_cached(&sql)?
        .query_map(params_from_iter(parameters), |row| summary(connection, row))?
        .collect()
}

/// The pending and the dead are few among the delivered, mostly, and have indexes of their own.
fn index(filter: &Filter) -> &'static str {
    match filter.state {
        Some(State::Pending) => "INDEXED BY delivery_pending",
        Some(State::Dead) => "INDEXED BY delivery_dead",
        Some(State::Delivered) | None => "NOT INDEXED",
    }
}

fn condition(filter: &Filter) -> (String, Vec<Value>) {
    let mut conditions = vec!["delivery.id > ?1 AND delivery.id < ?2".to_owned()];
    let mut parameters = vec![
        Value::from(filter.after.map_or(0, |id| id.0)),
        Value::from(filter.before.map_or(i64::MAX, |id| id.0)),
    ];
    if let Some(state) = filter.state {
        // Written out, because an index of some rows serves only what says so.
        conditions.push(format!("state = {}", state as i64));
    }
    if let Some(route) = &filter.route {
        conditions.push("delivery.route IN (SELECT id FROM route WHERE path = ?3)".to_owned());
        parameters.push(Value::from(route.clone()));
    }
    (conditions.join(" AND "), parameters)
}

fn summary(connection: &Connection, row: &Row<'_>) -> rusqlite::Result<Summary> {
    let (id, state): (i64, i64) = (row.get("id")?, row.get("state")?);
    // By itself: within the other statement, SQLite would read all attempts there are.
    let last = connection
        .prepare_cached("SELECT outcome, status FROM attempts WHERE id = ?1 ORDER BY number DESC LIMIT 1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(Summary {
        id: Id(id),
        state: State::ALL.into_iter().find(|known| *known as i64 == state).unwrap_or(State::Pending),
        route: rows::route_name(row)?,
        raw_path: row.get("raw_path")?,
        received_at: row.get("received_at")?,
        attempts: row.get("attempts")?,
        due_at: row.get("due_at")?,
        settled_at: row.get("settled_at")?,
        body_bytes: u64::try_from(row.get::<_, i64>("body_bytes")?).unwrap_or(0),
        last,
        replay_of: row.get::<_, Option<i64>>("replay_of")?.map(Id),
        replayed_as: row.get::<_, Option<i64>>("replayed_as")?.map(Id),
        is_stripped: row.get("stripped")?,
    })
}

pub(super) fn show(connection: &Connection, id: Id) -> rusqlite::Result<Option<Detail>> {
    let found = connection
        .prepare_cached(&format!("SELECT {SUMMARY} FROM delivery {JOINED} WHERE delivery.id = ?1"))?
        .query_row([id.0], |row| summary(connection, row))
        .optional()?;
    let Some(summary) = found else { return Ok(None) };
    let Some((request, _)) = rows::load_any(connection, id)? else { return Ok(None) };
    let attempts = connection
        .prepare_cached(
            "SELECT number, started_at, took_ms, outcome, status, header, body FROM attempts WHERE id = ?1 ORDER BY number",
        )?
        .query_map([id.0], attempt)?
        .collect::<Result<_, _>>()?;
    Ok(Some(Detail { summary, request, attempts }))
}

fn attempt(row: &Row<'_>) -> rusqlite::Result<Attempt> {
    let status: Option<u16> = row.get("status")?;
    let answer = match status {
        Some(status) => Some(AttemptAnswer {
            status,
            header: HeaderBlock(row.get::<_, Option<Vec<u8>>>("header")?.unwrap_or_default()),
            body: row.get::<_, Option<Vec<u8>>>("body")?.unwrap_or_default(),
        }),
        None => None,
    };
    Ok(Attempt {
        number: row.get("number")?,
        started_at: row.get("started_at")?,
        took_ms: row.get("took_ms")?,
        outcome: row.get("outcome")?,
        answer,
    })
}

/// Has a delivery run again: a pending one now, any other as a delivery of its own.
pub(super) fn replay(
    connection: &Connection,
    numbers: &mut Numbers,
    id: Id,
) -> rusqlite::Result<(Replayed, Option<RouteId>)> {
    let found: Option<(i64, RouteId, bool)> = connection
        .prepare_cached("SELECT state, route, stripped FROM delivery WHERE id = ?1")?
        .query_row([id.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((state, route, is_stripped)) = found else { return Ok((Replayed::Unknown, None)) };
    if state == State::Pending as i64 {
        rows::postpone(connection, id, now_ms())?;
        return Ok((Replayed::Hastened, Some(route)));
    }
    if is_stripped {
        return Ok((Replayed::Stripped, None));
    }
    let copy = loop {
        let copy = numbers.next_id();
        let added = connection
            .prepare_cached(
                "INSERT INTO delivery (id, state, route, due_at, attempts, received_at, request_id, traceparent, host, raw_path, query,
                     header, body, remote_addr, user_id, access_key, scheme, secret, signed_at, replay_of)
                 SELECT ?1, 0, route, ?3, 0, received_at, request_id, traceparent, host, raw_path, query,
                     header, body, remote_addr, user_id, access_key, scheme, secret, signed_at, id
                 FROM delivery WHERE id = ?2
                 ON CONFLICT (id) DO NOTHING",
            )?
            .execute(params![copy.0, id.0, now_ms()])?;
        if added > 0 {
            break copy;
        }
    };
    execute(
        connection,
        "INSERT INTO body (id, bytes) SELECT ?1, bytes FROM body WHERE id = ?2",
        params![copy.0, id.0],
    )?;
    execute(connection, "UPDATE delivery SET replayed_as = ?1 WHERE id = ?2", params![copy.0, id.0])?;
    Ok((Replayed::As(copy), Some(route)))
}

/// Later than everything there is.
pub(super) fn end(connection: &Connection) -> rusqlite::Result<Id> {
    connection.query_row("SELECT coalesce(max(id), 0) + 1 FROM delivery", [], |row| row.get(0)).map(Id)
}

const REPLAYABLE: &str = "state != 0 AND replayed_as IS NULL AND NOT stripped";

/// The first of the deliveries that are meant and can run again, if they did not before.
pub(super) fn replayable(
    connection: &Connection,
    filter: &Filter,
    at_most: usize,
) -> rusqlite::Result<Vec<Id>> {
    let (condition, parameters) = condition(filter);
    let sql = format!(
        "SELECT id FROM delivery {} WHERE {condition} AND {REPLAYABLE} ORDER BY id LIMIT {at_most}",
        index(filter)
    );
    connection
        .prepare_cached(&sql)?
        .query_map(params_from_iter(parameters), |row| row.get(0).map(Id))?
        .collect()
}

/// Has those run again that still can: how many copies there are, and their routes.
pub(super) fn replay_many(
    connection: &Connection,
    numbers: &mut Numbers,
    ids: &[Id],
) -> rusqlite::Result<(usize, Vec<RouteId>)> {
    let mut routes = Vec::new();
    for id in ids {
        // Somebody else may have replayed or dropped it since it was found.
        let is_meant = connection
            .prepare_cached(&format!("SELECT 1 FROM delivery WHERE id = ?1 AND {REPLAYABLE}"))?
            .exists([id.0])?;
        if is_meant {
            routes.extend(replay(connection, numbers, *id)?.1);
        }
    }
    let copies = routes.len();
    routes.sort_unstable();
    routes.dedup();
    Ok((copies, routes))
}

/// Whether there was such a delivery.
pub(super) fn remove(connection: &Connection, id: Id) -> rusqlite::Result<bool> {
    execute(connection, "DELETE FROM body WHERE id = ?1", [id.0])?;
    execute(connection, "DELETE FROM first_attempt WHERE id = ?1", [id.0])?;
    execute(connection, "DELETE FROM attempt WHERE id = ?1", [id.0])?;
    Ok(connection.prepare_cached("DELETE FROM delivery WHERE id = ?1")?.execute([id.0])? > 0)
}
