//! Any sequence of changes leaves in the database what a plain map would hold.

use std::collections::BTreeMap;

use proptest::prelude::*;

use rusqlite::StatementStatus;

use super::*;
use crate::data_dir::DataDir;
use crate::delivery::operator::{self, Filter, Replayed};
use crate::delivery::schema::SCHEMA;
use crate::store::sqlite::SqliteFile;

const ROUTES: [&str; 3] = ["/a", "/b", "/c"];

pub(in crate::delivery) fn database() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(SCHEMA.when_new).unwrap();
    SCHEMA.migrations.iter().for_each(|migration| connection.execute_batch(migration).unwrap());
    connection
}

#[derive(Debug, Clone)]
enum Change {
    Append { route: usize, event: Option<u8>, body: usize },
    Settle { which: usize, next: Next, forget: bool },
    Postpone { which: usize, due_at: i64 },
    Replay { which: usize },
    ReplayDead,
    Remove { which: usize },
}

fn change() -> impl Strategy<Value = Change> {
    let next = prop_oneof![Just(Next::Delivered), Just(Next::Dead), (0..1000_i64).prop_map(Next::Due)];
    prop_oneof![
        5 => (0..ROUTES.len(), prop::option::of(0..4_u8), prop_oneof![0..SMALL_BODY, SMALL_BODY..5000])
            .prop_map(|(route, event, body)| Change::Append { route, event, body }),
        4 => (any::<usize>(), next, any::<bool>())
            .prop_map(|(which, next, forget)| Change::Settle { which, next, forget }),
        1 => (any::<usize>(), 0..1000_i64).prop_map(|(which, due_at)| Change::Postpone { which, due_at }),
        1 => any::<usize>().prop_map(|which| Change::Replay { which }),
        1 => Just(Change::ReplayDead),
        1 => any::<usize>().prop_map(|which| Change::Remove { which }),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    state: State,
    route: usize,
    due_at: i64,
    attempts: u32,
    event: Option<u8>,
    body: usize,
    replay_of: Option<Id>,
    was_replayed: bool,
}

#[derive(Default)]
struct Model(BTreeMap<Id, Entry>);

impl Model {
    fn pick(&self, which: usize) -> Option<Id> {
        self.0.keys().nth(which % self.0.len().max(1)).copied()
    }

    /// What becomes of a delivery that is to run again; the time is the database's own.
    fn replay(&mut self, id: Id, replayed: Replayed, connection: &Connection) {
        let due_at = |id: Id| {
            let due_at =
                connection.query_row("SELECT due_at FROM delivery WHERE id = ?1", [id.0], |row| row.get(0));
            due_at.unwrap()
        };
        match replayed {
            Replayed::Hastened => self.0.get_mut(&id).unwrap().due_at = due_at(id),
            Replayed::As(copy) => {
                let first = self.0.get_mut(&id).unwrap();
                first.was_replayed = true;
                let entry = Entry {
                    state: State::Pending,
                    due_at: due_at(copy),
                    attempts: 0,
                    event: None,
                    replay_of: Some(id),
                    was_replayed: false,
                    ..first.clone()
                };
                self.0.insert(copy, entry);
            }
            Replayed::Stripped | Replayed::Unknown => panic!("{id} is there"),
        }
    }

    fn agrees_with(&self, connection: &Connection, numbers: &mut Numbers) {
        let mut first_due = BTreeMap::new();
        for (route, name) in ROUTES.iter().enumerate() {
            let id = numbers.route(connection, &name_of(route)).unwrap();
            let pending =
                self.0.iter().filter(|(_, entry)| entry.state == State::Pending && entry.route == route);
            let mut expected: Vec<_> = pending.map(|(id, entry)| (entry.due_at, *id)).collect();
            expected.sort_unstable();
            let mut found = window(connection, id, usize::MAX).unwrap();
            assert!(found.is_sorted_by_key(|(_, due_at)| *due_at), "{name}: {found:?}");
            found.sort_unstable_by_key(|(id, due_at)| (*due_at, *id));
            let found: Vec<_> = found.into_iter().map(|(id, due_at)| (due_at, id)).collect();
            assert_eq!(found, expected, "{name}");
            if let Some((due_at, first)) = expected.first() {
                first_due.insert(id, (*first, *due_at));
            }
        }
        let expected: Vec<_> =
            first_due.into_iter().map(|(route, (id, due_at))| (route, id, due_at)).collect();
        assert_eq!(survey(connection).unwrap(), expected);
        for (id, entry) in &self.0 {
            let (delivery, attempts) = load_any(connection, *id).unwrap().unwrap();
            assert_eq!((delivery.body.len(), attempts), (entry.body, entry.attempts), "{id}");
            assert_eq!((delivery.route, delivery.replay_of), (name_of(entry.route), entry.replay_of), "{id}");
            assert_eq!(load(connection, *id).unwrap().is_some(), entry.state == State::Pending, "{id}");
            let attempts = operator::show(connection, *id).unwrap().unwrap().attempts;
            assert!(
                attempts.iter().map(|attempt| attempt.number).eq(1..=entry.attempts),
                "{id}: {attempts:?}"
            );
        }
        for state in State::ALL {
            let filter = Filter { state: Some(state), ..Filter::default() };
            let listed = operator::list(connection, &filter, u32::MAX).unwrap();
            let expected = self.0.iter().filter(|(_, entry)| entry.state == state).map(|(id, _)| *id);
            assert_eq!(
                listed.iter().map(|summary| summary.id).collect::<Vec<_>>(),
                expected.collect::<Vec<_>>()
            );
        }
    }
}

fn name_of(route: usize) -> RouteName {
    RouteName { path: ROUTES[route].into(), method: Method::POST }
}

pub(in crate::delivery) fn delivery_of(route: usize, event: Option<u8>, body: usize) -> Delivery {
    Delivery {
        route: name_of(route),
        received_at: 0,
        request_id: "request".to_owned(),
        traceparent: String::new(),
        host: "localhost".to_owned(),
        raw_path: ROUTES[route].to_owned(),
        query: String::new(),
        headers: HeaderBlock::default(),
        body: vec![b'x'; body].into(),
        remote_addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
        user_id: None,
        access_key: None,
        verification: None,
        dedup: event.map(|event| DedupKey { hash: [event; 16], until: i64::MAX }),
        replay_of: None,
    }
}

pub(in crate::delivery) fn settlement(id: Id, number: u32, next: Next, forget: bool) -> Settlement {
    let attempt = AttemptRecord {
        number,
        started_at: 0,
        took_ms: 0,
        outcome: "refused",
        status: None,
        header: HeaderBlock::default(),
        body: Bytes::new(),
    };
    Settlement { id, attempt, next, forget }
}

fn make(connection: &Connection, numbers: &mut Numbers, model: &mut Model, change: &Change) {
    match change {
        Change::Append { route, event, body } => {
            let appended = append(connection, numbers, &delivery_of(*route, *event, *body)).unwrap();
            let first = model.0.iter().find(|(_, entry)| event.is_some() && entry.event == *event);
            match (appended, first) {
                (Appended::Duplicate(id), Some((first, _))) => assert_eq!(id, *first),
                (Appended::New(id, _), None) => {
                    let last = model.0.last_key_value().map(|(id, _)| *id);
                    assert!(last < Some(id), "ids grow");
                    let entry = Entry {
                        state: State::Pending,
                        route: *route,
                        due_at: 0,
                        attempts: 0,
                        event: *event,
                        body: *body,
                        replay_of: None,
                        was_replayed: false,
                    };
                    model.0.insert(id, entry);
                }
                (appended, first) => panic!("{appended:?}, but the first is {first:?}"),
            }
        }
        Change::Settle { which, next, forget } => {
            let Some(id) = model.pick(*which) else { return };
            let entry = model.0.get_mut(&id).unwrap();
            settle(connection, &settlement(id, entry.attempts + 1, *next, *forget)).unwrap();
            if entry.state != State::Pending {
                return;
            }
            entry.attempts += 1;
            if *forget {
                entry.event = None;
            }
            match next {
                Next::Delivered => entry.state = State::Delivered,
                Next::Dead => entry.state = State::Dead,
                Next::Due(at) => entry.due_at = *at,
            }
        }
        Change::Postpone { which, due_at } => {
            let Some(id) = model.pick(*which) else { return };
            postpone(connection, id, *due_at).unwrap();
            let entry = model.0.get_mut(&id).unwrap();
            if entry.state == State::Pending {
                entry.due_at = *due_at;
            }
        }
        Change::Replay { which } => {
            let Some(id) = model.pick(*which) else { return };
            let (replayed, _) = operator::replay(connection, numbers, id).unwrap();
            model.replay(id, replayed, connection);
        }
        Change::ReplayDead => {
            let filter = Filter { state: Some(State::Dead), ..Filter::default() };
            let meant: Vec<_> = model
                .0
                .iter()
                .filter(|(_, entry)| entry.state == State::Dead && !entry.was_replayed)
                .map(|(id, _)| *id)
                .collect();
            let found = operator::replayable(connection, &filter, 100).unwrap();
            assert_eq!(found, meant);
            // What was replayed meanwhile is not replayed again.
            let twice = [found.clone(), found].concat();
            let (count, _) = operator::replay_many(connection, numbers, &twice).unwrap();
            assert_eq!(count, meant.len());
            for id in meant {
                let copy = connection
                    .query_row("SELECT replayed_as FROM delivery WHERE id = ?1", [id.0], |row| row.get(0))
                    .unwrap();
                model.replay(id, Replayed::As(Id(copy)), connection);
            }
        }
        Change::Remove { which } => {
            let Some(id) = model.pick(*which) else { return };
            assert!(operator::remove(connection, id).unwrap());
            assert!(!operator::remove(connection, id).unwrap());
            model.0.remove(&id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_database_holds_what_a_map_would(changes in prop::collection::vec(change(), 1..60)) {
        let connection = database();
        let (mut numbers, mut model) = (Numbers::default(), Model::default());
        for change in &changes {
            make(&connection, &mut numbers, &mut model, change);
        }
        model.agrees_with(&connection, &mut numbers);
        // What no delivery needs any more is gone with it.
        let left = |table: &str| -> i64 {
            let sql = format!("SELECT count(*) FROM {table} WHERE id NOT IN (SELECT id FROM delivery)");
            connection.query_row(&sql, [], |row| row.get(0)).unwrap()
        };
        prop_assert_eq!((left("body"), left("first_attempt"), left("attempt")), (0, 0, 0));
    }
}

/// An attempt's number and the status of its answer, if there was one.
fn attempt_of(number: u32, status: Option<u16>) -> AttemptRecord {
    let (header, body) = (HeaderBlock(format!("attempt: {number}\n").into_bytes()), vec![b'x'; 5000].into());
    AttemptRecord { number, started_at: 0, took_ms: 0, outcome: "refused", status, header, body }
}

fn settle_with(connection: &Connection, id: Id, attempt: AttemptRecord, next: Next) {
    settle(connection, &Settlement { id, attempt, next, forget: false }).unwrap();
}

#[test]
fn the_last_attempt_is_what_tells() {
    let (connection, mut numbers) = (database(), Numbers::default());
    let Appended::New(id, _) = append(&connection, &mut numbers, &delivery_of(0, None, 1)).unwrap() else {
        panic!("it is the first")
    };
    let last = || operator::show(&connection, id).unwrap().unwrap().summary.last;
    assert_eq!(last(), None);
    settle_with(&connection, id, attempt_of(1, Some(503)), Next::Due(0));
    assert_eq!(last(), Some(("refused".to_owned(), Some(503))));
    settle_with(&connection, id, attempt_of(2, None), Next::Due(0));
    assert_eq!(last(), Some(("refused".to_owned(), None)), "it had no answer");
    assert!(matches!(answer(&connection, id).unwrap(), FirstAnswer::Pending));
    settle_with(&connection, id, attempt_of(3, Some(201)), Next::Delivered);
    let FirstAnswer::Given(response) = answer(&connection, id).unwrap() else { panic!("it was delivered") };
    assert_eq!(
        (response.status(), response.headers()["attempt"].as_bytes()),
        (StatusCode::CREATED, &b"3"[..])
    );
    assert!(operator::remove(&connection, id).unwrap());
    assert!(matches!(answer(&connection, id).unwrap(), FirstAnswer::None));
}

/// As the first released gateway wrote it.
#[test]
fn what_an_earlier_gateway_recorded_is_still_there() {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(SCHEMA.migrations[0]).unwrap();
    let add = "
        INSERT INTO route (id, path, method) VALUES (1, '/a', 'POST');
        INSERT INTO delivery (id, state, route, due_at, attempts, received_at, settled_at, request_id, traceparent, host, raw_path,
            query, header, body, remote_addr)
        VALUES (7, 1, 1, 0, 2, 0, 5, 'request', '', 'localhost', '/a', '', x'', x'78', '127.0.0.1'),
            (8, 0, 1, 0, 1, 0, NULL, 'request', '', 'localhost', '/a', '', x'', NULL, '127.0.0.1');
        INSERT INTO body (id, bytes) VALUES (8, x'78797a');
        INSERT INTO attempt (id, number, started_at, took_ms, outcome, status, header, body)
        VALUES (7, 1, 0, 1, 'refused', 500, x'', x''), (7, 2, 0, 1, 'delivered', 200, x'', x'646f6e65'),
            (8, 1, 0, 1, 'too_slow', NULL, NULL, NULL);";
    connection.execute_batch(add).unwrap();
    SCHEMA.migrations[1..].iter().for_each(|migration| connection.execute_batch(migration).unwrap());

    let attempts = |id: i64| {
        let attempts = operator::show(&connection, Id(id)).unwrap().unwrap().attempts;
        attempts.into_iter().map(|attempt| (attempt.number, attempt.outcome)).collect::<Vec<_>>()
    };
    let word = |word: &str| word.to_owned();
    assert_eq!(attempts(7), [(1, word("refused")), (2, word("delivered"))]);
    let FirstAnswer::Given(response) = answer(&connection, Id(7)).unwrap() else {
        panic!("it was delivered")
    };
    assert_eq!(&response.body()[..], b"done");
    // The pending one goes on where it was.
    let (delivery, tried) = load(&connection, Id(8)).unwrap().unwrap();
    assert_eq!((&delivery.body[..], tried), (&b"xyz"[..], 1));
    settle_with(&connection, Id(8), attempt_of(2, Some(200)), Next::Delivered);
    assert_eq!(attempts(8), [(1, word("too_slow")), (2, word("refused"))]);
    for id in [7, 8] {
        assert!(operator::remove(&connection, Id(id)).unwrap());
    }
    let left = "SELECT (SELECT count(*) FROM attempts) + (SELECT count(*) FROM body)";
    assert_eq!(connection.query_row(left, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

/// Among a million others, an attempt is found by its delivery's id.
#[test]
fn no_look_at_a_delivery_reads_all_attempts() {
    let connection = database();
    let looks = [
        "SELECT number, started_at, took_ms, outcome, status, header, body FROM attempts WHERE id = ?1 ORDER BY number",
        "SELECT outcome, status FROM attempts WHERE id = ?1 ORDER BY number DESC LIMIT 1",
        "SELECT status, header, body FROM attempts WHERE id = ?1 ORDER BY number DESC LIMIT 1",
    ];
    for look in looks {
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {look}")).unwrap();
        let steps: Vec<String> =
            plan.query_map([1], |row| row.get("detail")).unwrap().collect::<Result<_, _>>().unwrap();
        let of = |table: &str| steps.iter().any(|step| step.starts_with(&format!("SEARCH {table} ")));
        assert!(of("first_attempt") && of("attempt"), "{look}: {steps:#?}");
    }
}

/// Compiling takes longer than running. What joins, and what has a limit, is compiled anew for other parameters unless told not to be.
#[test]
fn no_statement_is_compiled_twice() {
    let folder = tempfile::tempdir().unwrap();
    let dir = DataDir::open(folder.path()).unwrap();
    let file = SqliteFile::open(&dir, &SCHEMA).unwrap();
    let beside = file.open_beside().unwrap();
    let reader = SqliteFile::open_reader(&dir, &SCHEMA).unwrap();
    let statements = [
        "SELECT delivery.id FROM delivery JOIN route ON route.id = delivery.route WHERE delivery.id = ?1 AND ?2 > 0",
        "SELECT id FROM delivery INDEXED BY delivery_pending WHERE state = 0 AND route = ?1 ORDER BY due_at LIMIT ?2",
        "SELECT id FROM delivery WHERE dedup_hash = ?1 AND ?2 > 0",
    ];
    for connection in [file.connection(), beside.connection(), &reader] {
        for sql in statements {
            for parameter in 1..5 {
                connection.prepare_cached(sql).unwrap().exists([parameter, parameter]).unwrap();
            }
            let statement = connection.prepare_cached(sql).unwrap();
            assert_eq!(statement.get_status(StatementStatus::Run), 4, "{sql}");
            assert_eq!(statement.get_status(StatementStatus::RePrepare), 0, "{sql}");
        }
    }
}
