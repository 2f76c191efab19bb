use serde_json::json;

use super::*;
use crate::data_dir::DataDir;
use crate::path::{self, Target};
use crate::route::Found;

pub(super) struct Running {
    pub(super) registry: Registry,
    pub(super) ejections: Ejections,
    pub(super) _dir: tempfile::TempDir,
}

pub(super) fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let (store, recovered) = Store::open(&DataDir::open(dir.path()).unwrap()).unwrap();
    let config = Arc::new(ArcSwap::from_pointee(Config::default()));
    let (registry, ejections) = Registry::restore(config, store, recovered);
    Running { registry, ejections, _dir: dir }
}

pub(super) fn claim(name: &str, port: u16, handlers: &[&str]) -> Claim {
    let handlers: Vec<_> = handlers.iter().map(|name| json!({"name": name})).collect();
    let registration = json!({
        "name": name, "url": format!("http://127.0.0.1:{port}/"), "protocol": "gearway-v1", "handlers": handlers,
    });
    Claim::check(serde_json::from_value(registration).unwrap()).unwrap()
}

impl Registry {
    /// Makes this the most that workers and routes may come to, in bytes of JSON.
    pub(crate) async fn know_at_most(&self, bytes: usize) {
        self.inner.book.lock().await.most_known = bytes;
    }
}

pub(super) fn knows(registry: &Registry, raw: &str) -> bool {
    let Ok(Target::Path(path)) = path::canonicalise(raw) else { panic!("{raw} is not canonical") };
    matches!(registry.table().routes.find(&path), Found::Match { .. })
}

/// Other workers register and leave all the time, and each of these changes publishes a table.
#[tokio::test]
async fn a_route_stays_known_while_its_last_worker_leaves() {
    let running = start();
    let registry = &running.registry;
    for (ended, drains) in [("/left", false), ("/drained", true)] {
        let id = registry.register(claim(ended, 9, &[ended])).await.unwrap().worker_id;
        let book = registry.inner.book.lock().await;
        let leaving = tokio::spawn({
            let registry = registry.clone();
            async move { if drains { registry.drain(&id).await } else { registry.deregister(&id).await } }
        });
        while registry.replicas().iter().any(|replica| replica.rotation() == Rotation::In) {
            tokio::task::yield_now().await;
        }
        registry.publish(&book);
        assert!(knows(registry, ended), "{ended}");
        drop(book);
        leaving.await.unwrap().unwrap();
        assert!(knows(registry, ended), "{ended}");
    }
}

/// The old process may leave, or its lease lapse, while the new one's registration is being kept.
#[tokio::test]
async fn a_worker_that_leaves_after_it_was_replaced_brings_no_route_back() {
    let running = start();
    let registry = &running.registry;
    let old = registry.register(claim("same", 9, &["stays", "goes"])).await.unwrap().worker_id;
    let old = registry.find(&old).unwrap();
    registry.register(claim("same", 9, &["stays"])).await.unwrap();
    registry.remove(vec![old]).await.unwrap();
    assert!(knows(registry, "/stays"));
    assert!(!knows(registry, "/goes"));
}

/// Two calls end at once, two requests wait: the first of them says that the other may come too.
#[tokio::test]
async fn whoever_waits_for_room_gets_it_when_there_is_some() {
    let running = start();
    let registry = &running.registry;
    let mut busy = claim("busy", 9, &["foo"]);
    busy.registration.max_concurrency = Some(2);
    let id = registry.register(busy).await.unwrap().worker_id;
    let replica = registry.find(&id).unwrap();
    let taken = [replica.take_slot().unwrap(), replica.take_slot().unwrap()];
    let waiting = [(); 2].map(|()| {
        let replica = Arc::clone(&replica);
        tokio::spawn(async move {
            replica.group.park(None, 10, Duration::from_secs(60), || replica.has_room()).await.unwrap();
            drop(replica.take_slot().unwrap());
        })
    });
    while replica.group.parked() < 2 {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    drop(taken);
    for waiting in waiting {
        waiting.await.unwrap();
    }
}

/// A worker that renews its lease and cannot be reached comes and goes for as long as it lives.
#[tokio::test]
async fn a_replica_is_probed_by_one_at_a_time() {
    let Running { registry, ejections, _dir } = start();
    tokio::spawn(registry.clone().run_probes(ejections));
    let id = registry.register(claim("unreachable", 9, &["foo"])).await.unwrap().worker_id;
    let replica = registry.find(&id).unwrap();
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for _ in 0..20 {
        assert!(registry.eject(&replica, "nobody listens"));
        tokio::task::yield_now().await;
        registry.renew(&id).unwrap();
    }
    assert!(tokio::runtime::Handle::current().metrics().num_alive_tasks() <= before + 1);
}

/// A worker was replaced by one without the route; its name is alive, and the route is not coming back.
#[tokio::test]
async fn nobody_waits_for_a_route_that_its_name_has_not_offered_for_long() {
    let running = start();
    let registry = &running.registry;
    let id = registry.register(claim("other", 9, &["foo"])).await.unwrap().worker_id;
    let group = Arc::clone(&registry.find(&id).unwrap().group);
    let lost = |seconds| SystemTime::now().checked_sub(Duration::from_secs(seconds));
    let park = |lost_at| group.park(lost_at, 10, Duration::ZERO, || false);
    assert_eq!(park(lost(31)).await, Err(NoParking::LongGone));
    assert_eq!(park(lost(1)).await, Err(NoParking::NobodyCame));
    assert_eq!(park(None).await, Err(NoParking::NobodyCame));
}

/// Names that were only tried cost nothing for long.
#[tokio::test]
async fn a_name_that_means_nothing_is_forgotten() {
    let running = start();
    let registry = &running.registry;
    registry.register(claim("owner", 9, &["foo"])).await.unwrap();
    registry.register(claim("thief", 10, &["foo"])).await.unwrap_err();
    assert!(registry.inner.groups.contains_key("thief"));
    tokio::spawn(registry.clone().run_leases());
    while registry.inner.groups.contains_key("thief") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(registry.inner.groups.contains_key("owner"));
}
