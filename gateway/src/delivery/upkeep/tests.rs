use super::*;
use crate::delivery::rows::tests::{database, delivery_of, settlement};
use crate::delivery::rows::{self, Appended, Next, Numbers};

const BODY: usize = 50_000;

fn add(connection: &Connection, numbers: &mut Numbers, event: Option<u8>) -> Id {
    match rows::append(connection, numbers, &delivery_of(0, event, BODY)).unwrap() {
        Appended::New(id, _) => id,
        Appended::Duplicate(id) => panic!("{id} is the same event"),
    }
}

fn settle(connection: &Connection, id: Id, next: Next) {
    rows::settle(connection, &settlement(id, 1, next, false)).unwrap();
}

fn pages(connection: &Connection) -> i64 {
    connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap()
}

/// Until nothing of that kind is left.
fn purge_all(connection: &Connection, what: Purge) -> usize {
    std::iter::repeat_with(|| purge(connection, what).unwrap()).take_while(|count| *count > 0).sum()
}

fn is_there(connection: &Connection, id: Id) -> bool {
    rows::load_any(connection, id).unwrap().is_some()
}

#[test]
fn what_was_delivered_goes_and_what_was_not_stays() {
    let (connection, mut numbers) = (database(), Numbers::default());
    let pending = add(&connection, &mut numbers, None);
    let dead = add(&connection, &mut numbers, None);
    settle(&connection, dead, Next::Dead);
    let delivered: Vec<_> = (0..500).map(|_| add(&connection, &mut numbers, None)).collect();
    delivered.iter().for_each(|id| settle(&connection, *id, Next::Delivered));
    // Its event is to be known for longer.
    let known = add(&connection, &mut numbers, Some(1));
    settle(&connection, known, Next::Delivered);

    assert_eq!(purge_all(&connection, Purge::SettledBefore(now_ms() - 60_000)), 0, "it is too soon");
    assert_eq!(purge_all(&connection, Purge::SettledBefore(now_ms() + 1)), delivered.len());
    assert!([pending, dead, known].into_iter().all(|id| is_there(&connection, id)));
    assert!(!delivered.into_iter().any(|id| is_there(&connection, id)));

    // A dead letter that was replayed goes with the others, and the delivery that repeats it does not.
    operator::replay(&connection, &mut numbers, dead).unwrap();
    assert_eq!(purge_all(&connection, Purge::SettledBefore(now_ms() + 1)), 1);
    assert!(!is_there(&connection, dead));
}

#[test]
fn room_is_used_again_or_goes_back() {
    let (connection, mut numbers) = (database(), Numbers::default());
    let fill = |numbers: &mut Numbers| {
        for _ in 0..300 {
            let id = add(&connection, numbers, None);
            settle(&connection, id, Next::Delivered);
        }
    };
    fill(&mut numbers);
    let full = pages(&connection);
    assert!(full > 3000, "{full}");
    purge_all(&connection, Purge::SettledBefore(now_ms() + 1));
    fill(&mut numbers);
    assert!(pages(&connection) <= full, "{} after {full}", pages(&connection));
    purge_all(&connection, Purge::SettledBefore(now_ms() + 1));
    // A little each time, so that nobody waits for it.
    for _ in 0..full / VACUUM_PAGES {
        purge(&connection, Purge::SettledBefore(0)).unwrap();
    }
    assert!(pages(&connection) <= 2 * SPARE_PAGES, "{} of {full}", pages(&connection));
}

#[test]
fn for_want_of_room_contents_go_first() {
    let (connection, mut numbers) = (database(), Numbers::default());
    let pending = add(&connection, &mut numbers, None);
    let known = add(&connection, &mut numbers, Some(1));
    settle(&connection, known, Next::Delivered);
    assert_eq!(purge_all(&connection, Purge::Contents), 1);
    let shown = operator::show(&connection, known).unwrap().unwrap();
    assert!(shown.summary.is_stripped && shown.request.body.is_empty());
    assert_eq!(
        rows::append(&connection, &mut numbers, &delivery_of(0, Some(1), 1)).unwrap(),
        Appended::Duplicate(known)
    );
    assert_eq!(rows::load(&connection, pending).unwrap().unwrap().0.body.len(), BODY);
}
