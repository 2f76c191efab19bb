use rusqlite::StatementStatus;

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

/// All of that kind; how many there were.
fn purge_all(connection: &Connection, wanted: Wanted) -> usize {
    let found = find(connection, wanted, i64::MIN).unwrap();
    let ids = found.iter().map(|(id, _)| *id).collect();
    let is_whole = !matches!(wanted, Wanted::Contents);
    purge(connection, &if is_whole { Purge::Deliveries(ids) } else { Purge::Contents(ids) }).unwrap();
    found.len()
}

fn settled_before(connection: &Connection, time: i64) -> usize {
    purge_all(connection, Wanted::DeliveredBefore(time)) + purge_all(connection, Wanted::ReplayedBefore(time))
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

    assert_eq!(settled_before(&connection, now_ms() - 60_000), 0, "it is too soon");
    assert_eq!(settled_before(&connection, now_ms() + 1), delivered.len());
    assert!([pending, dead, known].into_iter().all(|id| is_there(&connection, id)));
    assert!(!delivered.into_iter().any(|id| is_there(&connection, id)));

    // A dead letter that was replayed goes with the others, and the delivery that repeats it does not.
    operator::replay(&connection, &mut numbers, dead).unwrap();
    assert_eq!(settled_before(&connection, now_ms() + 1), 1);
    assert!(!is_there(&connection, dead));
}

/// The sender of a dead letter may send it again, after an operator had it run.
#[test]
fn a_dead_letter_that_was_replayed_is_known_as_long_as_its_event() {
    let (connection, mut numbers) = (database(), Numbers::default());
    let dead = add(&connection, &mut numbers, Some(1));
    settle(&connection, dead, Next::Dead);
    operator::replay(&connection, &mut numbers, dead).unwrap();
    assert_eq!(settled_before(&connection, now_ms() + 1), 0);
    let again = rows::append(&connection, &mut numbers, &delivery_of(0, Some(1), 1)).unwrap();
    assert_eq!(again, Appended::Duplicate(dead));
}

/// However many stay, because they have no contents any more.
#[test]
fn a_look_goes_on_where_the_last_one_ended() {
    let (connection, mut numbers) = (database(), Numbers::default());
    let mut ids = Vec::new();
    for settled_at in 0..2 * LOOK {
        let Appended::New(id, _) = rows::append(&connection, &mut numbers, &delivery_of(0, None, 1)).unwrap()
        else {
            panic!("it is another event")
        };
        settle(&connection, id, Next::Delivered);
        let settled_at = i64::try_from(settled_at).unwrap();
        execute(&connection, "UPDATE delivery SET settled_at = ?1 WHERE id = ?2", [settled_at, id.0])
            .unwrap();
        ids.push(id);
    }
    let look = |from| {
        let (found, places): (Vec<_>, Vec<_>) =
            find(&connection, Wanted::Contents, from).unwrap().into_iter().unzip();
        let look = connection.prepare_cached(WITH_CONTENTS).unwrap();
        (found, places[LOOK - 1], look.reset_status(StatementStatus::VmStep))
    };
    let (first, last, steps) = look(i64::MIN);
    assert_eq!(first, ids[..LOOK], "the oldest, in order");
    purge(&connection, &Purge::Contents(first)).unwrap();
    let (second, _, steps_of_second) = look(last);
    assert_eq!(second, ids[LOOK..]);
    assert!(steps_of_second < steps + steps / 10, "{steps_of_second} after {steps}");
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
    settled_before(&connection, now_ms() + 1);
    fill(&mut numbers);
    assert!(pages(&connection) <= full, "{} after {full}", pages(&connection));
    settled_before(&connection, now_ms() + 1);
    // A little each time, so that nobody waits for it.
    for _ in 0..full / VACUUM_PAGES {
        settled_before(&connection, 0);
    }
    assert!(pages(&connection) <= 2 * SPARE_PAGES, "{} of {full}", pages(&connection));
}

#[test]
fn for_want_of_room_contents_go_first() {
    let (connection, mut numbers) = (database(), Numbers::default());
    let pending = add(&connection, &mut numbers, None);
    let known = add(&connection, &mut numbers, Some(1));
    settle(&connection, known, Next::Delivered);
    assert_eq!(purge_all(&connection, Wanted::Contents), 1);
    let shown = operator::show(&connection, known).unwrap().unwrap();
    assert!(shown.summary.is_stripped && shown.request.body.is_empty());
    assert_eq!(
        rows::append(&connection, &mut numbers, &delivery_of(0, Some(1), 1)).unwrap(),
        Appended::Duplicate(known)
    );
    assert_eq!(rows::load(&connection, pending).unwrap().unwrap().0.body.len(), BODY);
}
