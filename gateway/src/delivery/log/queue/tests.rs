use std::iter;
use std::sync::Arc;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;

use super::*;
use crate::delivery::record::Id;
use crate::delivery::rows::Next;
use crate::delivery::rows::tests::{delivery_of, settlement};

const MS: Duration = Duration::from_millis(1);

fn request(runtime: &Handle) -> Append {
    let delivery = Arc::new(delivery_of(0, None, 1));
    let answer = oneshot::channel().0;
    Append { delivery, admission: None, caller: None, answer, runtime: runtime.clone() }
}

fn end_of(id: i64) -> Record {
    Record::Settle(Arc::new(settlement(Id(id), 1, Next::Delivered, false)))
}

fn send(queue: &Queue, record: Record) -> Result<(), Refused> {
    queue.record(record, oneshot::channel().0)
}

/// The numbers of a group's requests and records.
fn sizes(group: &Group) -> (usize, usize) {
    (group.appends.len(), group.records.len())
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// Otherwise every record would cost the next request a sync of its own.
#[test]
fn what_waits_is_written_together_and_in_order() {
    let (queue, runtime) = (Queue::default(), runtime());
    for id in 1..=3 {
        send(&queue, end_of(id)).unwrap();
        queue.append(request(runtime.handle())).unwrap();
    }
    let group = queue.next(&Pace::new()).unwrap();
    assert_eq!(sizes(&group), (3, 3));
    let ids = group.records.iter().map(|(record, _)| match record {
        Record::Settle(settlement) => settlement.id.0,
        other => panic!("{other:?}"),
    });
    assert_eq!(ids.collect::<Vec<_>>(), [1, 2, 3]);
    queue.close();
    assert!(queue.next(&Pace::new()).is_none(), "nothing is written twice");
}

#[test]
fn a_record_waits_for_company_and_no_longer() {
    let queue = Queue::default();
    let content = |look: &dyn Fn(&Content) -> bool| look(&queue.content.lock());
    send(&queue, end_of(1)).unwrap();
    let since = queue.content.lock().since.unwrap();
    // Those that follow do not put it off.
    send(&queue, end_of(2)).unwrap();
    assert!(!content(&|content| content.cannot_wait(since)));
    assert!(!content(&|content| content.cannot_wait(since + COMPANY - MS)));
    assert!(content(&|content| content.cannot_wait(since + COMPANY)));

    let group = queue.next(&Pace::new()).unwrap();
    assert_eq!(sizes(&group), (0, 2), "without a request they are written all the same");
    assert!(
        !content(&|content| content.cannot_wait(since + COMPANY)),
        "the time is that of this group's first"
    );
}

#[test]
fn some_records_do_not_wait() {
    let now = Instant::now();
    let (full, urgent, closing) = (Queue::default(), Queue::default(), Queue::default());
    for id in 1..ENOUGH {
        send(&full, end_of(id as i64)).unwrap();
    }
    assert!(!full.content.lock().cannot_wait(now));
    send(&full, end_of(0)).unwrap();
    assert!(full.content.lock().cannot_wait(now), "there are enough of them");

    send(&urgent, Record::Remove(Id(1))).unwrap();
    assert!(urgent.content.lock().cannot_wait(now), "somebody waits for it");
    drop(urgent.next(&Pace::new()));
    send(&urgent, end_of(1)).unwrap();
    assert!(!urgent.content.lock().cannot_wait(now), "the next ones are not as urgent");

    closing.close();
    assert!(!closing.content.lock().cannot_wait(now), "there is nothing to write");
}

#[test]
fn what_was_sent_before_the_end_is_written() {
    let queue = Queue::default();
    send(&queue, end_of(1)).unwrap();
    queue.close();
    assert_eq!(send(&queue, end_of(2)), Err(Refused::Closed));
    assert_eq!(queue.append(request(runtime().handle())), Err(Refused::Closed));
    assert_eq!(queue.next(&Pace::new()).map(|group| sizes(&group)), Some((0, 1)));
    assert!(queue.next(&Pace::new()).is_none());
}

/// Requests beyond it would wait for seconds; what was done has to be recorded all the same.
#[test]
fn a_full_queue_refuses_requests_and_takes_records() {
    let (queue, runtime) = (Queue::default(), runtime());
    for append in iter::repeat_with(|| request(runtime.handle())).take(QUEUE) {
        queue.append(append).unwrap();
    }
    assert_eq!(queue.append(request(runtime.handle())), Err(Refused::Full));
    send(&queue, end_of(1)).unwrap();
    assert_eq!(sizes(&queue.give_up()), (QUEUE, 1), "what nobody will write is told so");
    assert_eq!(queue.append(request(runtime.handle())), Err(Refused::Closed));
}

#[test]
fn patience_lasts_half_a_commit_and_no_longer_than_is_fair_on_a_slow_disk() {
    let patience = |commit: Duration| {
        let mut pace = Pace::new();
        pace.learn(5, commit);
        let at = pace.at;
        pace.patience(6, at).map(|patience| (patience.expected, patience.until - at, patience.pause))
    };
    assert_eq!(patience(4 * MS), Some((6, 2 * MS, MS)));
    assert_eq!(patience(Duration::from_secs(1)), Some((6, LONGEST_GATHERING, LONGEST_GATHERING)));
}

#[test]
fn nobody_is_waited_for_who_was_answered_long_ago() {
    let mut pace = Pace::new();
    pace.learn(5, 4 * MS);
    assert!(pace.patience(6, pace.at + 4 * MS).is_some());
    assert_eq!(pace.patience(6, pace.at + 5 * MS), None);
    // Commits of records alone answer nobody.
    let before = pace.at;
    pace.learn(0, 4 * MS);
    assert_eq!((pace.answered, pace.at), (5, before));
}

/// Rows that lie together are written together; what is no end of an attempt stays where it is.
#[test]
fn ends_are_written_in_the_order_of_their_deliveries() {
    let ids = |mut group: Group| {
        group.sort();
        let id = |(record, _): &(Record, _)| match record {
            Record::Settle(settlement) => settlement.id.0,
            Record::Remove(id) => -id.0,
            other => panic!("{other:?}"),
        };
        group.records.iter().map(id).collect::<Vec<_>>()
    };
    let queue = Queue::default();
    let group = |records: Vec<Record>| {
        records.into_iter().for_each(|record| send(&queue, record).unwrap());
        queue.content.lock().take()
    };
    assert_eq!(ids(group(vec![end_of(3), end_of(1), end_of(2)])), [1, 2, 3]);
    assert_eq!(ids(group(vec![end_of(3), Record::Remove(Id(1)), end_of(2)])), [3, -1, 2]);
}

/// One slow sync makes nobody wait longer at once.
#[test]
fn a_commits_length_is_learnt_slowly() {
    let mut pace = Pace::new();
    pace.learn(1, 4 * MS);
    assert_eq!(pace.commit, 4 * MS);
    pace.learn(1, 44 * MS);
    assert_eq!(pace.commit, 14 * MS);
}

/// A request that comes while others are waited for is in their group; the last of them ends the waiting.
#[test]
fn a_group_takes_those_who_come_while_it_is_held_open() {
    let (queue, runtime) = (Queue::default(), runtime());
    queue.append(request(runtime.handle())).unwrap();
    let far = Instant::now() + Duration::from_hours(1);
    let patience = Patience { expected: 3, until: far, pause: Duration::from_hours(1) };
    let group = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut content = queue.content.lock();
            queue.gather(&mut content, &patience);
            content.take()
        });
        queue.append(request(runtime.handle())).unwrap();
        queue.append(request(runtime.handle())).unwrap();
        writer.join().unwrap()
    });
    assert_eq!(sizes(&group), (3, 0));
}
