use futures_util::future::join_all;

use super::super::NoRoom;
use super::super::tests::{Running, claim, knows, start};
use super::*;

fn owner(registry: &Registry, path: &str) -> Option<String> {
    let table = registry.table();
    let (_, endpoint) = table.routes.iter().find(|(_, endpoint)| *endpoint.path == *path)?;
    endpoint.handlers().next().map(|handler| handler.group.name.to_string())
}

#[tokio::test]
async fn each_of_many_at_once_is_routable_when_it_is_told_so_and_commits_are_shared() {
    const COUNT: usize = 300;
    let Running { registry, _dir, .. } = &start();
    let before = registry.inner.store.transactions();
    join_all((0..COUNT).map(|n| async move {
        let (name, path) = (format!("worker-{n}"), format!("/path-{n}/a"));
        registry.register(claim(&name, 9, &[&path])).await.unwrap();
        assert!(knows(registry, &path));
        assert_eq!(owner(registry, &path), Some(name));
    }))
    .await;
    assert_eq!(registry.replicas().len(), COUNT);
    assert_eq!(registry.table().routes.len(), COUNT);
    let commits = registry.inner.store.transactions() - before;
    assert!(commits <= 20, "{commits} commits for {COUNT} registrations");
}

#[tokio::test]
async fn of_many_names_that_claim_one_route_at_once_one_gets_it_and_the_others_change_nothing() {
    let Running { registry, _dir, .. } = &start();
    let outcomes = join_all((0..100).map(|n| async move {
        let (name, own) = (format!("worker-{n}"), format!("/own-{n}"));
        (name.clone(), own.clone(), registry.register(claim(&name, 9, &[&own, "/shared"])).await)
    }))
    .await;
    let winners: Vec<_> = outcomes.iter().filter(|(_, _, outcome)| outcome.is_ok()).collect();
    let [(winner, own, _)] = winners[..] else { panic!("{winners:?}") };
    assert_eq!(owner(registry, "/shared").as_deref(), Some(&**winner));
    assert!(knows(registry, own));
    assert_eq!(registry.table().routes.len(), 2);
    assert_eq!(registry.replicas().len(), 1);
    for (name, _, outcome) in &outcomes {
        match outcome {
            Ok(_) => {}
            Err(Refusal::Conflict { name: refused, conflicts }) => {
                assert_eq!(refused, name);
                assert!(
                    conflicts.iter().all(|conflict| conflict.owner == *winner && conflict.path == "/shared")
                );
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn of_one_worker_that_registers_many_times_at_once_the_last_stays() {
    let Running { registry, _dir, .. } = &start();
    let outcomes = join_all((0..50).map(|n| async move {
        let path = format!("/version-{n}");
        registry.register(claim("same", 9, &["/all", &path])).await.unwrap().worker_id
    }))
    .await;
    let [replica] = &registry.replicas()[..] else { panic!("more than one is left") };
    assert!(outcomes.iter().any(|id| **id == *replica.id));
    let table = registry.table();
    assert_eq!(table.routes.len(), 2);
    for (_, endpoint) in table.routes.iter() {
        let offers: Vec<_> = endpoint.handlers().flat_map(|handler| &handler.offers).collect();
        assert!(offers.iter().all(|offer| offer.replica.id == replica.id));
        assert!(!offers.is_empty());
    }
}

#[tokio::test]
async fn registrations_that_cannot_be_kept_change_nothing() {
    let Running { registry, _dir, .. } = &start();
    registry.register(claim("serves", 9, &["/served"])).await.unwrap();
    let gone = registry.register(claim("gone", 9, &["/remembered"])).await.unwrap().worker_id;
    registry.deregister(&gone).await.unwrap();
    let served = registry.replicas()[0].id.clone();

    registry.inner.store.shutdown().await;
    let outcomes = join_all([
        registry.register(claim("serves", 9, &["/other"])),
        registry.register(claim("gone", 9, &["/new"])),
        registry.register(claim("third", 9, &["/served", "/third"])),
        registry.register(claim("fourth", 9, &["/fourth"])),
    ])
    .await;
    for (place, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Err(Refusal::Store(StoreError::ShutDown)) if place != 2 => {}
            Err(Refusal::Conflict { .. }) if place == 2 => {}
            other => panic!("{place} {other:?}"),
        }
    }
    let book = registry.inner.book.lock().await;
    registry.publish(&book);
    for (path, known) in [
        ("/served", true),
        ("/remembered", true),
        ("/other", false),
        ("/new", false),
        ("/third", false),
        ("/fourth", false),
    ] {
        assert_eq!(knows(registry, path), known, "{path}");
    }
    let [replica] = &registry.replicas()[..] else { panic!("a registration that failed is there") };
    assert_eq!(replica.id, served);
}

/// Whoever may register could otherwise fill the memory, and the 32 bits in which the table counts.
#[tokio::test]
async fn more_than_the_gateway_may_know_is_refused_and_changes_nothing() {
    let Running { registry, _dir, .. } = &start();
    let long = |letter: &str| format!("/{}", letter.repeat(1000));
    let refused = |outcome: Result<_, Refusal>| match outcome {
        Err(Refusal::NoRoom(NoRoom { would_be, at_most })) => assert!(would_be > at_most),
        other => panic!("{other:?}"),
    };
    registry.know_at_most(3000).await;
    registry.register(claim("stays", 9, &[&long("a")])).await.unwrap();
    let leaves = registry.register(claim("leaves", 10, &[&long("b")])).await.unwrap().worker_id;

    refused(registry.register(claim("third", 11, &[&long("c")])).await);
    // A replica of one that is there counts too.
    refused(registry.register(claim("stays", 12, &[&long("a")])).await);
    // Routes without a worker are known all the same.
    registry.deregister(&leaves).await.unwrap();
    refused(registry.register(claim("third", 11, &[&long("c")])).await);
    assert!(!knows(registry, &long("c")));
    let names = |registry: &Registry| {
        registry.replicas().iter().map(|worker| worker.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(registry), ["stays"]);

    // Full or not, whoever was there comes back.
    registry.know_at_most(0).await;
    registry.register(claim("stays", 9, &[&long("a")])).await.unwrap();
    registry.register(claim("leaves", 13, &[&long("b")])).await.unwrap();
    assert_eq!(names(registry), ["leaves", "stays"]);
    refused(registry.register(claim("stays", 9, &[&long("a"), "/more"])).await);
    assert!(knows(registry, &long("a")) && !knows(registry, "/more"));

    // Of two that come together, one has room.
    let known = registry.inner.book.lock().await.known();
    registry.know_at_most(known + 2000).await;
    let together = join_all([("d", 14), ("e", 15)].map(|(letter, port)| {
        let path = long(letter);
        async move { registry.register(claim(letter, port, &[&path])).await }
    }))
    .await;
    assert_eq!(together.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let book = registry.inner.book.lock().await;
    assert!(book.known() <= book.most_known);
}
