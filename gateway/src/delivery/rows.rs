//! Deliveries as rows and back.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use gearway_protocol::{AccessKeyType, Verification};
use http::{Method, Response, StatusCode};
use rusqlite::{Connection, OptionalExtension, Params, Row, params};

use super::record::{DedupKey, Delivery, HeaderBlock, Id, RouteName, now_ms};
use super::schema::SMALL_BODY;

/// How many bits of an id count deliveries within a millisecond.
pub(super) const COUNTER_BITS: u32 = 20;

/// A route's number in this log.
pub(super) type RouteId = i64;

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
pub enum State {
    Pending = 0,
    Delivered = 1,
    Dead = 2,
}

impl State {
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Dead];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

/// What became of a request that was to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Appended {
    New(Id, RouteId),
    /// The same event is there already.
    Duplicate(Id),
}

/// How an attempt ended, as it is kept.
#[derive(Debug)]
pub(super) struct AttemptRecord {
    pub(super) number: u32,
    pub(super) started_at: i64,
    pub(super) took_ms: i64,
    pub(super) outcome: &'static str,
    pub(super) status: Option<u16>,
    pub(super) header: HeaderBlock,
    pub(super) body: Bytes,
}

/// What is to be recorded of a delivery.
#[derive(Debug)]
pub(super) struct Settlement {
    pub(super) id: Id,
    pub(super) attempt: AttemptRecord,
    pub(super) next: Next,
    /// The same event is to run again when it comes again.
    pub(super) forget: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Delivered,
    Dead,
    /// Again, at this time.
    Due(i64),
}

/// Hands out ids and route numbers. For the one thread that writes.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    last: i64,
    routes: HashMap<RouteName, RouteId>,
}

impl Numbers {
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let last = connection.query_row("SELECT max(id) FROM delivery", [], |row| row.get(0));
        Ok(Self { last: last.map(Option::unwrap_or_default)?, routes: HashMap::new() })
    }

    /// Later than every id before it, also where the clock went back or another process hands out ids from the same file.
    pub(super) fn next_id(&mut self) -> Id {
        let now = now_ms() << COUNTER_BITS;
        self.last = now.max(self.last + 1);
        Id(self.last)
    }

    pub(super) fn route(&mut self, connection: &Connection, name: &RouteName) -> rusqlite::Result<RouteId> {
        if let Some(id) = self.routes.get(name) {
            return Ok(*id);
        }
        let (path, method) = (&*name.path, name.method.as_str());
        connection
            .prepare_cached("INSERT INTO route (path, method) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
            .execute(params![path, method])?;
        let id = connection
            .prepare_cached("SELECT id FROM route WHERE path = ?1 AND method = ?2")?
            .query_row(params![path, method], |row| row.get(0))?;
        self.routes.insert(name.clone(), id);
        Ok(id)
    }

    /// What was learnt in a transaction that was rolled back is not so.
    pub(super) fn forget_routes(&mut self) {
        self.routes.clear();
    }
}

/// Adds a delivery that is due now, unless the same event is there already.
pub(super) fn append(
    connection: &Connection,
    numbers: &mut Numbers,
    delivery: &Delivery,
) -> rusqlite::Result<Appended> {
    if let Some(dedup) = &delivery.dedup
        && let Some(first) = first_of(connection, dedup)?
    {
        return Ok(Appended::Duplicate(first));
    }
    let route = numbers.route(connection, &delivery.route)?;
    let small = delivery.body.len() <= SMALL_BODY;
    let mut insert = connection.prepare_cached(
        "INSERT INTO delivery (id, state, route, due_at, attempts, received_at, request_id, traceparent, host, raw_path, query,
             header, body, remote_addr, user_id, access_key, scheme, secret, signed_at, dedup_hash, dedup_until, replay_of)
         VALUES (?1, 0, ?2, ?3, 0, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)
         ON CONFLICT (id) DO NOTHING",
    )?;
    let verification = delivery.verification.as_ref();
    let id = loop {
        let id = numbers.next_id();
        let added = insert.execute(params![
            id.0,
            route,
            delivery.received_at,
            delivery.request_id,
            delivery.traceparent,
            delivery.host,
            delivery.raw_path,
            delivery.query,
            delivery.headers.0,
            small.then_some(&*delivery.body),
            delivery.remote_addr.to_string(),
            delivery.user_id,
            delivery.access_key.map(AccessKeyType::as_str),
            verification.map(|verification| &verification.scheme),
            verification.map(|verification| &verification.secret),
            verification.and_then(|verification| verification.timestamp),
            delivery.dedup.map(|dedup| dedup.hash),
            delivery.dedup.map(|dedup| dedup.until),
            delivery.replay_of.map(|id| id.0),
        ])?;
        // Another process on the same file had this id.
        if added > 0 {
            break id;
        }
    };
    if !small {
        execute(connection, "INSERT INTO body (id, bytes) VALUES (?1, ?2)", params![id.0, &*delivery.body])?;
    }
    Ok(Appended::New(id, route))
}

/// The delivery that an event is known by. One that is too long ago is so no more.
fn first_of(connection: &Connection, dedup: &DedupKey) -> rusqlite::Result<Option<Id>> {
    let known: Option<(i64, i64)> = connection
        .prepare_cached("SELECT id, dedup_until FROM delivery WHERE dedup_hash = ?1")?
        .query_row([dedup.hash], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match known {
        Some((first, until)) if until > now_ms() => Ok(Some(Id(first))),
        Some((first, _)) => {
            execute(connection, "UPDATE delivery SET dedup_hash = NULL WHERE id = ?1", [first])?;
            Ok(None)
        }
        None => Ok(None),
    }
}

/// Records how an attempt ended. For a delivery that was dropped meanwhile there is nothing to record.
pub(super) fn settle(connection: &Connection, settlement: &Settlement) -> rusqlite::Result<()> {
    let Settlement { id, attempt, next, forget } = settlement;
    let now = now_ms();
    let (state, due_at, settled_at) = match next {
        Next::Delivered => (State::Delivered, now, Some(now)),
        Next::Dead => (State::Dead, now, Some(now)),
        Next::Due(at) => (State::Pending, *at, None),
    };
    let updated = connection
        .prepare_cached(
            "UPDATE delivery SET state = ?2, due_at = ?3, settled_at = ?4, attempts = ?5,
                 dedup_hash = CASE WHEN ?6 THEN NULL ELSE dedup_hash END
             WHERE id = ?1 AND state = 0",
        )?
        .execute(params![id.0, state as i64, due_at, settled_at, attempt.number, forget])?;
    if updated == 0 {
        return Ok(());
    }
    let AttemptRecord { number, started_at, took_ms, outcome, status, .. } = attempt;
    let (header, body) = (status.map(|_| &attempt.header.0), status.map(|_| &*attempt.body));
    if *number == 1 {
        return execute(
            connection,
            "INSERT INTO first_attempt (id, started_at, took_ms, outcome, status, header, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
            params![id.0, started_at, took_ms, outcome, status, header, body],
        );
    }
    execute(
        connection,
        "INSERT INTO attempt (id, number, started_at, took_ms, outcome, status, header, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
        params![id.0, number, started_at, took_ms, outcome, status, header, body],
    )
}

/// Makes a pending delivery due at another time.
pub(super) fn postpone(connection: &Connection, id: Id, due_at: i64) -> rusqlite::Result<()> {
    execute(connection, "UPDATE delivery SET due_at = ?2 WHERE id = ?1 AND state = 0", params![id.0, due_at])
}

/// A pending delivery and how often it was attempted.
pub(super) fn load(connection: &Connection, id: Id) -> rusqlite::Result<Option<(Delivery, u32)>> {
    load_where(connection, id, "AND state = 0")
}

/// As [`load`], whatever its state.
pub(super) fn load_any(connection: &Connection, id: Id) -> rusqlite::Result<Option<(Delivery, u32)>> {
    load_where(connection, id, "")
}

fn load_where(connection: &Connection, id: Id, and: &str) -> rusqlite::Result<Option<(Delivery, u32)>> {
    connection
        .prepare_cached(&format!(
            "SELECT attempts, route.path, route.method, received_at, request_id, traceparent, host, raw_path, query, header,
                 delivery.body, body.bytes, remote_addr, user_id, access_key, scheme, secret, signed_at, dedup_hash, dedup_until,
                 replay_of
             FROM delivery JOIN route ON route.id = delivery.route LEFT JOIN body ON body.id = delivery.id
             WHERE delivery.id = ?1 {and}",
        ))?
        .query_row([id.0], |row| Ok((delivery(row)?, row.get(0)?)))
        .optional()
}

/// The columns of [`load_where`], by their places: a backlog is read row by row, and to look for each column by its name takes longer than
/// the rest.
fn delivery(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    let scheme: Option<String> = row.get(15)?;
    let verification = match scheme {
        Some(scheme) => Some(Verification {
            scheme,
            secret: row.get::<_, Option<String>>(16)?.unwrap_or_default(),
            timestamp: row.get(17)?,
        }),
        None => None,
    };
    let body: Option<Vec<u8>> = row.get(10)?;
    let body = match body {
        Some(small) => small,
        None => row.get::<_, Option<Vec<u8>>>(11)?.unwrap_or_default(),
    };
    let access_key: Option<String> = row.get(14)?;
    Ok(Delivery {
        route: route_of(row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?),
        received_at: row.get(3)?,
        request_id: row.get(4)?,
        traceparent: row.get(5)?,
        host: row.get(6)?,
        raw_path: row.get(7)?,
        query: row.get(8)?,
        headers: HeaderBlock(row.get(9)?),
        body: body.into(),
        remote_addr: row.get_ref(12)?.as_str()?.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        user_id: row.get(13)?,
        access_key: access_key.as_deref().and_then(access_key_type),
        verification,
        dedup: match row.get::<_, Option<[u8; 16]>>(18)? {
            Some(hash) => Some(DedupKey { hash, until: row.get(19)? }),
            None => None,
        },
        replay_of: row.get::<_, Option<i64>>(20)?.map(Id),
    })
}

pub(super) fn route_name(row: &Row<'_>) -> rusqlite::Result<RouteName> {
    Ok(route_of(row.get_ref("path")?.as_str()?, row.get_ref("method")?.as_str()?))
}

fn route_of(path: &str, method: &str) -> RouteName {
    // Only registered methods are written.
    RouteName { path: path.into(), method: method.parse().unwrap_or(Method::POST) }
}

fn access_key_type(word: &str) -> Option<AccessKeyType> {
    [AccessKeyType::Client, AccessKeyType::Master].into_iter().find(|kind| kind.as_str() == word)
}

/// What a delivery's caller was answered.
#[derive(Debug)]
pub(super) enum FirstAnswer {
    Pending,
    Given(Response<Bytes>),
    /// The worker never gave a good one, or the delivery was dropped.
    None,
}

/// What the sender of the same event was answered, or would have been.
pub(super) fn answer(connection: &Connection, id: Id) -> rusqlite::Result<FirstAnswer> {
    let state: Option<i64> = connection
        .prepare_cached("SELECT state FROM delivery WHERE id = ?1")?
        .query_row([id.0], |row| row.get(0))
        .optional()?;
    match state {
        Some(pending) if pending == State::Pending as i64 => return Ok(FirstAnswer::Pending),
        Some(delivered) if delivered == State::Delivered as i64 => {}
        Some(_) | None => return Ok(FirstAnswer::None),
    }
    // Recorded with the state, so that it is there unless somebody dropped it meanwhile.
    let found = connection
        .prepare_cached(
            "SELECT status, header, body FROM attempts WHERE id = ?1 ORDER BY number DESC LIMIT 1",
        )?
        .query_row([id.0], given_answer)
        .optional()?;
    Ok(found.unwrap_or(FirstAnswer::None))
}

fn given_answer(row: &Row<'_>) -> rusqlite::Result<FirstAnswer> {
    let status: Option<u16> = row.get(0)?;
    let (header, body): (Option<Vec<u8>>, Option<Vec<u8>>) = (row.get(1)?, row.get(2)?);
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let Some(status) = status else { return Ok(FirstAnswer::None) };
    let mut response = Response::new(body.unwrap_or_default().into());
    *response.status_mut() = status;
    *response.headers_mut() = HeaderBlock(header.unwrap_or_default()).to_map();
    Ok(FirstAnswer::Given(response))
}

/// The ids of a route's pending deliveries with the time at which each is due, the most urgent first.
pub(super) fn window(
    connection: &Connection,
    route: RouteId,
    at_most: usize,
) -> rusqlite::Result<Vec<(Id, i64)>> {
    connection
        .prepare_cached(
            "SELECT id, due_at FROM delivery INDEXED BY delivery_pending
             WHERE state = 0 AND route = ?1 ORDER BY due_at LIMIT ?2",
        )?
        .query_map(params![route, i64::try_from(at_most).unwrap_or(i64::MAX)], |row| {
            Ok((Id(row.get(0)?), row.get(1)?))
        })?
        .collect()
}

/// A route's pending deliveries that are due, after that one in the order of their times, and the path of each.
pub(super) fn paths(
    connection: &Connection,
    route: RouteId,
    after: Option<(i64, Id)>,
    due_by: i64,
    at_most: usize,
) -> rusqlite::Result<Vec<(Id, i64, String)>> {
    let (due_at, id) = after.unwrap_or((i64::MIN, Id(0)));
    connection
        .prepare_cached(
            "SELECT id, due_at, raw_path FROM delivery INDEXED BY delivery_pending
             WHERE state = 0 AND route = ?1 AND due_at >= ?2 AND due_at <= ?4 AND (due_at > ?2 OR id > ?3)
             ORDER BY due_at, id LIMIT ?5",
        )?
        .query_map(params![route, due_at, id.0, due_by, i64::try_from(at_most).unwrap_or(i64::MAX)], |row| {
            Ok((Id(row.get(0)?), row.get(1)?, row.get(2)?))
        })?
        .collect()
}

pub(super) fn name_of(connection: &Connection, route: RouteId) -> rusqlite::Result<Option<RouteName>> {
    connection
        .prepare_cached("SELECT path, method FROM route WHERE id = ?1")?
        .query_row([route], route_name)
        .optional()
}

/// Every route with pending deliveries, the first of each that is due, and when it is. The index is skipped through, so that the number of
/// deliveries does not matter.
pub(super) fn survey(connection: &Connection) -> rusqlite::Result<Vec<(RouteId, Id, i64)>> {
    let mut next = connection.prepare_cached(
        "SELECT route, id, due_at FROM delivery INDEXED BY delivery_pending
         WHERE state = 0 AND route > ?1 ORDER BY route, due_at LIMIT 1",
    )?;
    let mut found = Vec::new();
    let mut last = i64::MIN;
    while let Some(first) =
        next.query_row([last], |row| Ok((row.get(0)?, Id(row.get(1)?), row.get(2)?))).optional()?
    {
        found.push(first);
        last = first.0;
    }
    Ok(found)
}

pub(super) fn execute(connection: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute(params).map(|_| ())
}

#[cfg(test)]
pub(super) mod tests;
