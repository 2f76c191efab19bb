//! The tables of the log.

use crate::store::sqlite::Schema;

/// A delivery's row takes up small bodies too; larger ones lie apart, so that recording an attempt does not write them again.
pub(super) const SMALL_BODY: usize = 256;

pub(super) static SCHEMA: Schema = Schema {
    file: "deliveries.db",
    holds: "the webhooks that were accepted and not delivered yet",
    // Room that was given up goes back to the file system, a little at a time.
    when_new: "PRAGMA auto_vacuum = INCREMENTAL",
    // About a second of reading; starting again must not take longer the more there is to deliver.
    checked_up_to: 256 << 20,
    migrations: &["
    CREATE TABLE route (
        id INTEGER PRIMARY KEY,
        path TEXT NOT NULL,             -- the pattern, as the list of routes shows it
        method TEXT NOT NULL,
        UNIQUE (path, method)
    ) STRICT;
    CREATE TABLE delivery (
        id INTEGER PRIMARY KEY,
        state INTEGER NOT NULL,         -- 0 pending, 1 delivered, 2 dead
        route INTEGER NOT NULL,
        due_at INTEGER NOT NULL,        -- milliseconds since 1970, as all times
        attempts INTEGER NOT NULL,
        received_at INTEGER NOT NULL,
        settled_at INTEGER,
        request_id TEXT NOT NULL,
        traceparent TEXT NOT NULL,
        host TEXT NOT NULL,
        raw_path TEXT NOT NULL,
        query TEXT NOT NULL,
        header BLOB NOT NULL,           -- lines of name: value
        body BLOB,                      -- NULL: in the table body
        remote_addr TEXT NOT NULL,
        user_id TEXT,
        access_key TEXT,
        scheme TEXT,                    -- what the signature told
        secret TEXT,                    -- its name
        signed_at INTEGER,              -- seconds
        dedup_hash BLOB,
        dedup_until INTEGER,
        replay_of INTEGER,
        replayed_as INTEGER,
        stripped INTEGER NOT NULL DEFAULT 0     -- what was sent was given up for want of room
    ) STRICT;
    CREATE INDEX delivery_pending ON delivery (route, due_at) WHERE state = 0;
    CREATE INDEX delivery_delivered ON delivery (settled_at) WHERE state = 1;
    CREATE INDEX delivery_dead ON delivery (route) WHERE state = 2;
    CREATE UNIQUE INDEX delivery_dedup ON delivery (dedup_hash) WHERE dedup_hash IS NOT NULL;
    CREATE TABLE body (
        id INTEGER PRIMARY KEY,
        bytes BLOB NOT NULL
    ) STRICT;
    CREATE TABLE attempt (
        id INTEGER NOT NULL,
        number INTEGER NOT NULL,
        started_at INTEGER NOT NULL,
        took_ms INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        status INTEGER,
        header BLOB,
        body BLOB,
        PRIMARY KEY (id, number)
    ) STRICT, WITHOUT ROWID;
", "
    -- Most deliveries have one attempt, and its answer fits here into a page with others. A key of two columns makes a table an
    -- index, where what is longer than a quarter of a page gets a page of its own.
    CREATE TABLE first_attempt (
        id INTEGER PRIMARY KEY,
        started_at INTEGER NOT NULL,
        took_ms INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        status INTEGER,
        header BLOB,
        body BLOB
    ) STRICT;
    -- What an earlier gateway wrote is in attempt, first attempts too.
    CREATE VIEW attempts AS
        SELECT id, 1 AS number, started_at, took_ms, outcome, status, header, body FROM first_attempt
        UNION ALL SELECT id, number, started_at, took_ms, outcome, status, header, body FROM attempt;
"],
};
