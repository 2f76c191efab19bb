//! Records as rows and back.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::types::Type;
use rusqlite::{Connection, Params, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Change, Recovered, RouteRecord, TokenRecord, WorkerRecord};
use crate::config::Secret;

pub(super) fn apply(connection: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::PutWorker(worker) => put_worker(connection, worker),
        Change::RemoveWorker { worker_id } => {
            execute(connection, "DELETE FROM worker WHERE worker_id = ?1", params![worker_id])
        }
        Change::DrainWorker { worker_id } => {
            execute(connection, "UPDATE worker SET draining = 1 WHERE worker_id = ?1", params![worker_id])
        }
        Change::Remember(route) => remember(connection, route),
        Change::ForgetRoute { shape, method } => {
            execute(connection, "DELETE FROM route WHERE shape = ?1 AND method = ?2", params![shape, method])
        }
        Change::PutToken(token) => put_token(connection, token),
        Change::RemoveToken { id } => execute(connection, "DELETE FROM token WHERE id = ?1", params![id]),
    }
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Recovered> {
    Ok(Recovered {
        workers: all(
            connection,
            "SELECT worker_id, secret, registration, registered_at, draining FROM worker ORDER BY rowid",
            worker,
        )?,
        routes: all(
            connection,
            "SELECT shape, method, owner, protocol, handler, lost_at FROM route ORDER BY rowid",
            route,
        )?,
        tokens: all(
            connection,
            "SELECT id, hash, user, created_at, expires_at FROM token ORDER BY rowid",
            token,
        )?,
    })
}

fn put_worker(connection: &Connection, worker: &WorkerRecord) -> rusqlite::Result<()> {
    execute(
        connection,
        "INSERT INTO worker (worker_id, secret, registration, registered_at, draining) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET secret = excluded.secret, registration = excluded.registration,
             registered_at = excluded.registered_at, draining = excluded.draining",
        params![
            worker.worker_id,
            worker.secret.expose(),
            to_json(&worker.registration)?,
            to_millis(worker.registered_at),
            worker.draining,
        ],
    )
}

fn remember(connection: &Connection, route: &RouteRecord) -> rusqlite::Result<()> {
    execute(
        connection,
        "INSERT INTO route (shape, method, owner, protocol, handler, lost_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET owner = excluded.owner, protocol = excluded.protocol,
             handler = excluded.handler, lost_at = excluded.lost_at",
        params![
            route.shape,
            route.method,
            route.owner,
            route.protocol,
            to_json(&route.handler)?,
            to_millis(route.lost_at),
        ],
    )
}

fn put_token(connection: &Connection, token: &TokenRecord) -> rusqlite::Result<()> {
    execute(
        connection,
        "INSERT INTO token (id, hash, user, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET hash = excluded.hash, user = excluded.user,
             created_at = excluded.created_at, expires_at = excluded.expires_at",
        params![
            token.id,
            token.hash,
            token.user,
            to_millis(token.created_at),
            token.expires_at.map(to_millis),
        ],
    )
}

fn worker(row: &Row<'_>) -> rusqlite::Result<WorkerRecord> {
    let worker_id: String = row.get(0)?;
    Ok(WorkerRecord {
        secret: Secret::new(row.get_ref(1)?.as_str()?),
        registration: from_json(row, 2, format_args!("worker {worker_id}"))?,
        worker_id,
        registered_at: from_millis(row.get(3)?),
        draining: row.get(4)?,
    })
}

fn route(row: &Row<'_>) -> rusqlite::Result<RouteRecord> {
    let (shape, method): (String, String) = (row.get(0)?, row.get(1)?);
    Ok(RouteRecord {
        handler: from_json(row, 4, format_args!("route {method} {shape}"))?,
        shape,
        method,
        owner: row.get(2)?,
        protocol: row.get(3)?,
        lost_at: from_millis(row.get(5)?),
    })
}

fn token(row: &Row<'_>) -> rusqlite::Result<TokenRecord> {
    Ok(TokenRecord {
        id: row.get(0)?,
        hash: row.get(1)?,
        user: row.get(2)?,
        created_at: from_millis(row.get(3)?),
        expires_at: row.get::<_, Option<i64>>(4)?.map(from_millis),
    })
}

fn execute(connection: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute(params).map(|_| ())
}

fn all<T>(
    connection: &Connection,
    sql: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare(sql)?.query_map([], read)?.collect()
}

fn to_json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn from_json<T: DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
    whose: fmt::Arguments<'_>,
) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| {
        let error = format!("{whose}: {error}").into();
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error)
    })
}

/// Milliseconds since 1970; times beyond what the column holds become its ends.
fn to_millis(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(error) => i64::try_from(error.duration().as_millis()).map_or(i64::MIN, |before| -before),
    }
}

fn from_millis(millis: i64) -> SystemTime {
    let distance = Duration::from_millis(millis.unsigned_abs());
    let time = if millis < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}
