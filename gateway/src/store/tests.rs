use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;

const CHILD: &str = "GEARWAY_TEST_STORE_CHILD";

fn worker(id: &str) -> WorkerRecord {
    WorkerRecord {
        worker_id: id.to_owned(),
        secret: Secret::new("canary-secret"),
        registration: serde_json::from_value(serde_json::json!({
            "name": "orders", "url": "http://127.0.0.1:9000/", "protocol": "gearway-v1", "version": "1.2-ß",
            "max_concurrency": 64, "features": ["a"],
            "handlers": [{"name": "foo/", "timeout_ms": u64::MAX, "idempotent": true}, {"name": "a:{b}"}],
        }))
        .unwrap(),
        registered_at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        draining: false,
    }
}

fn route(shape: &str, method: &str) -> RouteRecord {
    RouteRecord {
        shape: shape.to_owned(),
        method: method.to_owned(),
        owner: "orders".to_owned(),
        protocol: "gearway-v1".to_owned(),
        handler: worker("").registration.handlers.remove(0),
        lost_at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_456),
    }
}

fn token(id: &str) -> TokenRecord {
    TokenRecord {
        id: id.to_owned(),
        hash: [0xA5; 32],
        user: "alice".to_owned(),
        created_at: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        expires_at: None,
    }
}

fn put_worker(id: &str) -> Vec<Change> {
    vec![Change::PutWorker(worker(id))]
}

fn open(path: &Path) -> (Store, Recovered) {
    Store::open(&DataDir::open(path).unwrap()).unwrap()
}

fn refusal(path: &Path) -> StoreError {
    Store::open(&DataDir::open(path).unwrap()).unwrap_err()
}

/// What a store in `path` begins with, when no other is open.
fn recovered(path: &Path) -> Recovered {
    open(path).1
}

fn worker_ids(recovered: &Recovered) -> Vec<&str> {
    recovered.workers.iter().map(|worker| worker.worker_id.as_str()).collect()
}

/// The database as another program sees it.
fn sqlite(dir: &TempDir) -> Connection {
    Connection::open(dir.path().join("gearway.db")).unwrap()
}

async fn meddle(store: &Store, with: impl FnOnce(&Connection) + Send + 'static) {
    store.jobs.send(Job::Meddle(Box::new(with))).await.unwrap_or_else(|_| panic!("the writer has ended"));
}

/// Holds the writer up until all of `calls` are queued, so that they form one group, and returns their outcomes.
async fn commit_together(store: &Store, calls: Vec<Vec<Change>>) -> Vec<Result<(), StoreError>> {
    let (release, released) = std::sync::mpsc::sync_channel(1);
    let (stopped, stop) = oneshot::channel();
    meddle(store, move |_| {
        stopped.send(()).unwrap();
        released.recv().unwrap();
    })
    .await;
    stop.await.unwrap();

    let count = calls.len();
    let mut tasks = JoinSet::new();
    for (index, changes) in calls.into_iter().enumerate() {
        let store = store.clone();
        tasks.spawn(async move { (index, store.commit(changes).await) });
    }
    while store.jobs.max_capacity() - store.jobs.capacity() < count {
        tokio::task::yield_now().await;
    }
    release.send(()).unwrap();
    let mut outcomes = tasks.join_all().await;
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[tokio::test]
async fn a_new_store_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(recovered(dir.path()), Recovered::default());
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let expiring = TokenRecord { expires_at: Some(UNIX_EPOCH + Duration::from_millis(1)), ..token("t2") };
    let earlier = RouteRecord { lost_at: UNIX_EPOCH - Duration::from_millis(1500), ..route("/foo/", "POST") };
    store
        .commit(vec![
            Change::PutWorker(worker("w2")),
            Change::PutWorker(worker("w1")),
            Change::Remember(route("/foo/", "GET")),
            Change::Remember(earlier.clone()),
            Change::PutToken(token("t1")),
            Change::PutToken(expiring.clone()),
        ])
        .await
        .unwrap();
    drop(store);

    let expected = Recovered {
        workers: vec![worker("w2"), worker("w1")],
        routes: vec![route("/foo/", "GET"), earlier],
        tokens: vec![token("t1"), expiring],
    };
    assert_eq!(recovered(dir.path()), expected);
    assert_eq!(recovered(dir.path()), expected);
}

#[tokio::test]
async fn later_changes_replace_and_remove() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for id in ["w1", "w2", "w3"] {
        store.commit(put_worker(id)).await.unwrap();
    }
    let replacement = WorkerRecord { secret: Secret::new("other"), ..worker("w2") };
    let reclaimed = RouteRecord { owner: "billing".to_owned(), ..route("/a", "GET") };
    let rotated = TokenRecord { hash: [1; 32], ..token("t1") };
    store
        .commit(vec![
            Change::RemoveWorker { worker_id: "w1".to_owned() },
            Change::PutWorker(replacement.clone()),
            Change::DrainWorker { worker_id: "w3".to_owned() },
            Change::Remember(route("/a", "GET")),
            Change::Remember(route("/a", "POST")),
            Change::Remember(route("/b", "GET")),
            Change::Remember(reclaimed.clone()),
            Change::ForgetRoute { shape: "/a".to_owned(), method: "POST".to_owned() },
            Change::PutToken(token("t1")),
            Change::PutToken(token("t2")),
            Change::PutToken(rotated.clone()),
            Change::RemoveToken { id: "t2".to_owned() },
        ])
        .await
        .unwrap();
    // Nothing of this is there, and that is no error.
    store
        .commit(vec![
            Change::RemoveWorker { worker_id: "no".to_owned() },
            Change::DrainWorker { worker_id: "no".to_owned() },
            Change::ForgetRoute { shape: "/no".to_owned(), method: "GET".to_owned() },
            Change::RemoveToken { id: "no".to_owned() },
        ])
        .await
        .unwrap();
    store.shutdown().await;

    assert_eq!(
        recovered(dir.path()),
        Recovered {
            workers: vec![replacement, WorkerRecord { draining: true, ..worker("w3") }],
            routes: vec![reclaimed, route("/b", "GET")],
            tokens: vec![rotated],
        }
    );
}

/// The test runs itself a second time as a child that commits until it is killed, printing what was acknowledged.
#[test]
fn what_was_acknowledged_survives_sigkill() {
    if let Some(path) = std::env::var_os(CHILD) {
        commit_and_print(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let name = thread::current().name().unwrap().to_owned();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(CHILD, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut acknowledged: BTreeSet<String> =
        lines.by_ref().filter_map(|line| acknowledgement(&line)).take(300).collect();
    child.kill().unwrap();
    // What was still in the pipe was acknowledged as well.
    acknowledged.extend(lines.filter_map(|line| acknowledgement(&line)));
    child.wait().unwrap();
    assert!(acknowledged.len() >= 300);

    let recovered = recovered(dir.path());
    let workers: BTreeSet<_> = recovered.workers.iter().map(|worker| worker.worker_id.clone()).collect();
    let tokens: BTreeSet<_> = recovered.tokens.iter().map(|token| token.id.clone()).collect();
    assert_eq!(acknowledged.difference(&workers).next(), None);
    assert_eq!(workers, tokens, "half of a call was kept");
}

fn acknowledgement(line: &str) -> Option<String> {
    // The last line may have been cut off by the kill.
    line.strip_prefix("acknowledged ")?.strip_suffix('.').map(str::to_owned)
}

fn commit_and_print(path: &Path) -> ! {
    let (store, _) = open(path);
    let commit = |task: usize| {
        let store = store.clone();
        async move {
            for number in 0_u64.. {
                let id = format!("{task}-{number}");
                let changes = vec![Change::PutWorker(worker(&id)), Change::PutToken(token(&id))];
                store.commit(changes).await.unwrap();
                writeln!(std::io::stdout(), "acknowledged {id}.").unwrap();
            }
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(futures_util::future::join_all((0..8).map(commit)));
    unreachable!("the numbers do not end")
}

#[tokio::test]
async fn a_thousand_waiting_calls_are_one_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let calls = (0..1000).map(|number| put_worker(&format!("w{number}"))).collect();
    let outcomes = commit_together(&store, calls).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(store.transactions(), 1);
    drop(store);
    assert_eq!(recovered(dir.path()).workers.len(), 1000);
}

#[tokio::test]
async fn more_calls_than_the_queue_holds_are_all_committed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let calls = 3 * QUEUE;
    let commits = (0..calls).map(|number| {
        let store = store.clone();
        async move { store.commit(put_worker(&format!("{number:05}"))).await }
    });
    let outcomes = futures_util::future::join_all(commits).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert!(store.transactions() < calls as u64 / 2);
    drop(store);
    assert_eq!(recovered(dir.path()).workers.len(), calls);
}

#[tokio::test]
async fn waiting_calls_take_effect_in_the_order_in_which_they_were_made() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let calls = (0..QUEUE / 2).flat_map(|number| {
        let id = format!("{number:05}");
        let next = format!("{:05}", number + 1);
        // A removal that came before its worker would leave the worker there.
        [put_worker(&next), vec![Change::RemoveWorker { worker_id: id }]]
    });
    let outcomes = commit_together(&store, calls.collect()).await;
    assert!(outcomes.iter().all(Result::is_ok));
    drop(store);
    assert_eq!(worker_ids(&recovered(dir.path())), [format!("{:05}", QUEUE / 2)]);
}

#[tokio::test]
async fn a_call_that_fails_changes_nothing_and_fails_alone() {
    // ROLLBACK takes the whole transaction with it, as SQLite itself does on some errors.
    for severity in ["ABORT", "FAIL", "ROLLBACK"] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        store.commit(Vec::new()).await.unwrap();
        sqlite(&dir)
            .execute_batch(&format!(
                "CREATE TRIGGER refuse BEFORE INSERT ON worker WHEN NEW.worker_id = 'bad'
                 BEGIN SELECT RAISE({severity}, 'refused by the test'); END"
            ))
            .unwrap();
        let bad = vec![
            Change::PutWorker(worker("w2")),
            Change::PutWorker(worker("bad")),
            Change::PutToken(token("never")),
        ];
        let outcomes = commit_together(&store, vec![put_worker("w1"), bad, put_worker("w3")]).await;
        assert!(
            matches!(&outcomes[..], [Ok(()), Err(StoreError::Failed { reason, .. }), Ok(())]
                if reason.contains("refused by the test")),
            "{severity}: {outcomes:?}"
        );
        drop(store);
        let recovered = recovered(dir.path());
        assert_eq!(worker_ids(&recovered), ["w1", "w3"], "{severity}");
        assert_eq!(recovered.tokens, []);
    }
}

#[tokio::test]
async fn on_a_full_disk_what_fits_is_kept_and_room_brings_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.commit(put_worker("w1")).await.unwrap();
    meddle(&store, |connection| {
        let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    })
    .await;

    let mut huge = worker("huge");
    huge.registration.version = "x".repeat(1 << 20);
    let huge = vec![Change::PutToken(token("never")), Change::PutWorker(huge)];
    let outcomes = commit_together(&store, vec![put_worker("w2"), huge.clone(), put_worker("w3")]).await;
    let full = StoreError::Full(dir.path().join("gearway.db"));
    assert_eq!(outcomes, [Ok(()), Err(full.clone()), Ok(())]);
    assert!(full.to_string().contains("disk is full"));

    meddle(&store, |connection| {
        connection.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(())).unwrap();
    })
    .await;
    store.commit(huge).await.unwrap();
    drop(store);
    assert_eq!(worker_ids(&recovered(dir.path())), ["w1", "w2", "w3", "huge"]);
}

#[tokio::test]
async fn a_read_only_database_fails_until_it_can_be_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    meddle(&store, |connection| connection.pragma_update(None, "query_only", true).unwrap()).await;
    let outcomes = commit_together(&store, vec![put_worker("w1"), put_worker("w2")]).await;
    assert!(
        outcomes.iter().all(
            |outcome| matches!(outcome, Err(StoreError::Failed { reason, .. }) if reason.contains("readonly"))
        ),
        "{outcomes:?}"
    );
    meddle(&store, |connection| connection.pragma_update(None, "query_only", false).unwrap()).await;
    store.commit(put_worker("w3")).await.unwrap();
    drop(store);
    assert_eq!(worker_ids(&recovered(dir.path())), ["w3"]);
}

#[tokio::test]
async fn a_directory_that_went_away_fails_until_it_is_back() {
    let root = tempfile::tempdir().unwrap();
    let (here, elsewhere) = (root.path().join("data"), root.path().join("elsewhere"));
    let (store, _) = open(&here);
    store.commit(put_worker("w1")).await.unwrap();

    fs::rename(&here, &elsewhere).unwrap();
    let gone = Err(StoreError::Gone(here.join("gearway.db")));
    assert_eq!(store.commit(put_worker("w2")).await, gone);
    fs::create_dir(&here).unwrap();
    fs::copy(elsewhere.join("gearway.db"), here.join("gearway.db")).unwrap();
    assert_eq!(store.commit(put_worker("w3")).await, gone);

    fs::remove_dir_all(&here).unwrap();
    fs::rename(&elsewhere, &here).unwrap();
    store.commit(put_worker("w4")).await.unwrap();
    drop(store);
    assert_eq!(worker_ids(&recovered(&here)), ["w1", "w4"]);
}

#[tokio::test]
async fn the_files_are_for_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.commit(put_worker("w1")).await.unwrap();
    for name in ["gearway.db", "gearway.db-wal", "gearway.db-shm"] {
        let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn every_commit_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let (tell, told) = oneshot::channel();
    meddle(&store, |connection| {
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        tell.send((mode, pragma("synchronous"), pragma("foreign_keys"))).unwrap();
    })
    .await;
    assert_eq!(told.await.unwrap(), ("wal".to_owned(), 2, 1));
}

/// How much waits in the write-ahead log to be moved into the file.
fn write_ahead(dir: &TempDir) -> u64 {
    fs::metadata(dir.path().join("gearway.db-wal")).map_or(0, |metadata| metadata.len())
}

#[tokio::test]
async fn after_a_shutdown_the_directory_is_free_and_calls_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let clone = store.clone();
    let (last, ()) = tokio::join!(store.commit(put_worker("w1")), clone.shutdown());
    last.unwrap();
    assert_eq!(store.commit(put_worker("w2")).await, Err(StoreError::ShutDown));
    store.shutdown().await;
    assert_eq!(write_ahead(&dir), 0);
    assert_eq!(worker_ids(&recovered(dir.path())), ["w1"]);
}

#[tokio::test]
async fn an_open_store_keeps_the_directory_locked() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::open(root.path()).unwrap();
    let (store, _) = Store::open(&dir).unwrap();
    drop(dir);
    let error = DataDir::open(root.path()).unwrap_err().to_string();
    assert!(error.contains(root.path().to_str().unwrap()), "{error}");
    drop(store);
    DataDir::open(root.path()).unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).0.commit(put_worker("w1")).await.unwrap();
    sqlite(&dir).execute_batch("DROP TABLE token; PRAGMA user_version = 1000").unwrap();
    let before = fs::read(dir.path().join("gearway.db")).unwrap();

    let error = refusal(dir.path());
    assert!(matches!(error, StoreError::Newer { found: 1000, .. }), "{error}");
    assert!(error.to_string().contains(dir.path().join("gearway.db").to_str().unwrap()), "{error}");
    assert_eq!(fs::read(dir.path().join("gearway.db")).unwrap(), before);
}

#[tokio::test]
async fn a_damaged_file_is_refused_by_name() {
    let is_refused = |dir: &TempDir, why: &str| {
        let error = refusal(dir.path());
        assert!(matches!(error, StoreError::Damaged { .. }), "{why}: {error}");
        assert!(
            error.to_string().contains(dir.path().join("gearway.db").to_str().unwrap()),
            "{why}: {error}"
        );
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gearway.db");
    fs::write(&file, "this is no database, and long enough to show it".repeat(100)).unwrap();
    is_refused(&dir, "no database");
    fs::remove_file(&file).unwrap();

    let store = open(dir.path()).0;
    for number in 0..200 {
        store.commit(put_worker(&format!("w{number}"))).await.unwrap();
    }
    drop(store);
    let good = fs::read(&file).unwrap();

    let mut overwritten = good.clone();
    overwritten[4096..].fill(0xFF);
    fs::write(&file, overwritten).unwrap();
    is_refused(&dir, "overwritten");

    fs::write(&file, &good[..good.len() / 2]).unwrap();
    is_refused(&dir, "cut short");

    fs::write(&file, &good).unwrap();
    sqlite(&dir).execute("UPDATE worker SET registration = '{}' WHERE worker_id = 'w7'", []).unwrap();
    is_refused(&dir, "no registration");
    assert!(refusal(dir.path()).to_string().contains("worker w7: missing field `name`"));
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?}", Change::PutWorker(worker("w1")));
    assert!(shown.contains("w1") && !shown.contains("canary"), "{shown}");
}

/// What is queued is written first; what comes meanwhile waits.
#[tokio::test]
async fn a_paused_store_leaves_its_file_to_others_and_goes_on_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.commit(put_worker("before")).await.unwrap();
    let paused = store.pause().await.unwrap();
    let meanwhile = tokio::spawn({
        let store = store.clone();
        async move { store.commit(put_worker("meanwhile")).await }
    });
    assert_eq!(write_ahead(&dir), 0, "the file is closed");
    sqlite(&dir).execute("DELETE FROM worker", []).unwrap();
    paused.resume().await.unwrap();
    meanwhile.await.unwrap().unwrap();
    store.shutdown().await;
    drop(store);
    assert_eq!(worker_ids(&recovered(dir.path())), ["meanwhile"]);
}

#[tokio::test]
async fn a_released_store_writes_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let paused = store.pause().await.unwrap();
    let meanwhile = tokio::spawn({
        let store = store.clone();
        async move { store.commit(put_worker("meanwhile")).await }
    });
    paused.release();
    assert_eq!(meanwhile.await.unwrap(), Err(StoreError::ShutDown));
    assert_eq!(store.commit(put_worker("after")).await, Err(StoreError::ShutDown));
    store.shutdown().await;
    assert_eq!(worker_ids(&recovered(dir.path())), [""; 0]);
}

/// As when the upgrade that paused it is given up in the middle.
#[tokio::test]
async fn a_pause_that_is_forgotten_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    drop(store.pause().await.unwrap());
    store.commit(put_worker("after")).await.unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_again_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let paused = store.pause().await.unwrap();
    let newer = |version: i64| sqlite(&dir).pragma_update(None, "user_version", version).unwrap();
    newer(1000);
    assert!(paused.resume().await.is_err());
    assert_eq!(store.commit(put_worker("lost")).await, Err(StoreError::ShutDown));
    newer(1);
    store.commit(put_worker("kept")).await.unwrap();
}
