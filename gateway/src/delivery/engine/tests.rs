//! Whose turn it is, at an engine that is told what happens. The attempts that it begins do not run: the test never waits.

use arc_swap::ArcSwap;
use serde_json::json;
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use super::*;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::delivery::Caller;
use crate::delivery::log::Log;
use crate::delivery::metrics::DeliveryMetrics;
use crate::delivery::rows::tests::{database, delivery_of, settlement};
use crate::delivery::rows::{self, Appended, Next, Numbers};
use crate::dispatch::Dispatcher;
use crate::registry::{Claim, Ejections, Registry};
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::upstream::Pool;

/// What a replica takes that says nothing of itself, of one route.
const SHARE: usize = 16;
const HOUR: Duration = Duration::from_hours(1);

/// An engine, and a log whose rows it reads.
struct Bench {
    running: Running,
    numbers: Numbers,
    _ejections: Ejections,
    _dir: TempDir,
    /// What attempts tell; nobody listens.
    _events: mpsc::Receiver<Event>,
}

impl Bench {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        // What the attempts hold, they give back when they run.
        let mut config = Config::default();
        config.limits.max_in_flight = 1 << 20;
        config.limits.max_bytes_in_flight = 1 << 30;
        let config = Arc::new(ArcSwap::from_pointee(config));
        let (store, recovered) = Store::open(&data).unwrap();
        let (registry, ejections) = Registry::restore(Arc::clone(&config), store, recovered);
        let inbox = Arc::<Inbox>::default();
        let metrics = Arc::new(DeliveryMetrics::new());
        let log = Log::open(&data, Arc::clone(&config), Arc::clone(&inbox), Arc::clone(&metrics)).unwrap();
        let waiting = Arc::<Waiting>::default();
        let dispatcher = Dispatcher {
            registry,
            pool: Arc::new(Pool::default()),
            metrics: Arc::new(Metrics::new()),
            tracer: None,
            calls: TaskTracker::new(),
        };
        let courier = Courier { dispatcher, config, log, waiting: Arc::clone(&waiting), metrics };
        let engine = Engine {
            courier: Arc::new(courier),
            reader: database(),
            inbox,
            in_flight: Arc::default(),
            waiting,
            commands: mpsc::channel(1).1,
            paused: false,
        };
        let (sender, events) = mpsc::channel(EVENTS);
        let running = Running::new(engine, sender);
        Self { running, numbers: Numbers::default(), _ejections: ejections, _dir: dir, _events: events }
    }

    /// A worker with these routes, which says that it takes so many calls at once.
    async fn worker(&self, name: &str, paths: &[&str], max_concurrency: Option<u32>) -> String {
        let handlers: Vec<_> = paths.iter().map(|path| json!({"name": path, "methods": ["POST"]})).collect();
        let registration = json!({
            "name": name, "url": "http://127.0.0.1:9/", "protocol": "gearway-v1", "handlers": handlers,
            "max_concurrency": max_concurrency,
        });
        let claim = Claim::check(serde_json::from_value(registration).unwrap()).unwrap();
        self.running.engine.courier.dispatcher.registry.register(claim).await.unwrap().worker_id
    }

    async fn leave(&self, worker: &str) {
        self.running.engine.courier.dispatcher.registry.deregister(worker).await.unwrap();
    }

    /// A delivery of the route (0: /a, 1: /b, 2: /c) in the log.
    fn keep(&mut self, route: usize) -> Arrival {
        let delivery = delivery_of(route, None, 1000);
        let appended = rows::append(&self.running.engine.reader, &mut self.numbers, &delivery).unwrap();
        let Appended::New(id, route) = appended else { panic!("{appended:?}") };
        let delivery = Arc::new(delivery);
        Arrival { id, route, attempts: 0, delivery, admission: None, caller: None, share: None }
    }

    /// As [`Self::keep`], and the engine is told.
    fn send(&mut self, route: usize) -> (RouteId, Id) {
        let arrival = self.keep(route);
        let named = (arrival.route, arrival.id);
        self.running.engine.inbox.put(std::iter::once(arrival));
        self.running.take_arrivals();
        named
    }

    fn send_many(&mut self, route: usize, number: usize) -> (RouteId, Vec<Id>) {
        let sent: Vec<_> = (0..number).map(|_| self.send(route)).collect();
        (sent[0].0, sent.into_iter().map(|(_, id)| id).collect())
    }

    /// What is under way of the route, once everything began that can.
    fn begun(&mut self, route: RouteId) -> Vec<Id> {
        self.running.begin_what_can();
        let taken = self.running.queues.get(&route).map(|queue| queue.taken.iter().copied());
        let mut taken: Vec<_> = taken.into_iter().flatten().collect();
        taken.sort_unstable();
        taken
    }

    /// A worker took it.
    fn succeed(&mut self, worker: &str, route: RouteId, id: Id) {
        rows::settle(&self.running.engine.reader, &settlement(id, 1, Next::Delivered, false)).unwrap();
        self.running.hear(Event::Free { route, group: worker.into() });
        self.running.hear(Event::Recorded { route, id, due_at: None });
    }

    fn queue(&self, route: RouteId) -> &Queue {
        &self.running.queues[&route]
    }

    /// Deliveries of which something is held in memory, their content or only their number, and KiB that the content takes.
    fn in_memory(&self) -> (usize, usize) {
        let queues = self.running.queues.values();
        let known = queues.map(|queue| queue.arrived.len() + queue.window.len() + queue.taken.len()).sum();
        (known, AT_HAND as usize - self.running.at_hand.available_permits())
    }
}

#[tokio::test]
async fn they_begin_in_the_order_in_which_they_came() {
    let mut bench = Bench::start();
    bench.worker("worker", &["a"], Some(2)).await;
    let (route, ids) = bench.send_many(0, 5);
    for id in ids {
        // Half of what the worker takes is left to other calls.
        assert_eq!(bench.begun(route), [id]);
        bench.succeed("worker", route, id);
    }
    assert_eq!(bench.begun(route), []);
    assert!(bench.running.queues.is_empty(), "nothing is left to remember");
}

/// What came meanwhile stands behind what the log has.
#[tokio::test]
async fn what_the_log_has_goes_first() {
    let mut bench = Bench::start();
    bench.worker("worker", &["a"], Some(2)).await;
    let mut ids: Vec<_> = (0..3).map(|_| bench.keep(0).id).collect();
    // As after a start, when the log is looked over.
    bench.running.pass_time();
    let route = *bench.running.queues.keys().next().expect("the survey finds the route");
    assert_eq!(bench.begun(route), ids[..1]);
    ids.extend((0..3).map(|_| bench.send(0).1));
    for id in ids {
        assert_eq!(bench.begun(route), [id]);
        bench.succeed("worker", route, id);
    }
}

#[tokio::test]
async fn a_worker_that_returns_is_not_buried() {
    let mut bench = Bench::start();
    let away = bench.worker("worker", &["a", "b"], None).await;
    bench.leave(&away).await;
    let (a, sent) = bench.send_many(0, 1000);
    assert_eq!(bench.begun(a), []);
    bench.worker("worker", &["a", "b"], None).await;
    bench.running.look_again = Some(Instant::now());
    bench.running.pass_time();
    assert_eq!(bench.begun(a), sent[..SHARE], "half of its share for one route");
    // The other route's share is half of what is left at least, and one in any case.
    let (b, _) = bench.send_many(1, 1000);
    let also = bench.begun(b).len();
    assert!((1..=SHARE).contains(&also), "{also}");
    assert_eq!(bench.begun(a).len(), SHARE);
    assert!(bench.running.calls <= 32);

    // As one ends, one begins.
    bench.succeed("worker", a, sent[0]);
    assert_eq!(bench.begun(a).len() + bench.begun(b).len(), SHARE + also);
}

#[tokio::test]
async fn a_route_that_has_its_share_holds_up_no_other() {
    let mut bench = Bench::start();
    bench.worker("slow", &["a"], None).await;
    bench.worker("quick", &["b"], None).await;
    let away = bench.worker("away", &["c"], None).await;
    bench.leave(&away).await;
    let (slow, _) = bench.send_many(0, 1000);
    let (gone, _) = bench.send_many(2, 1000);
    assert_eq!((bench.begun(slow).len(), bench.begun(gone).len()), (SHARE, 0));
    for _ in 0..1000 {
        let (route, id) = bench.send(1);
        assert_eq!(bench.begun(route), [id]);
        bench.succeed("quick", route, id);
    }
    assert_eq!((bench.begun(slow).len(), bench.begun(gone).len()), (SHARE, 0));
}

/// Routes of one worker take turns, however much waits of one of them.
#[tokio::test]
async fn routes_of_one_worker_take_turns() {
    let mut bench = Bench::start();
    bench.worker("worker", &["a", "b"], Some(8)).await;
    let (a, of_a) = bench.send_many(0, 100);
    let (b, of_b) = bench.send_many(1, 3);
    for last in of_b {
        let begun = bench.begun(b);
        assert!(begun.contains(&last), "{begun:?}");
        bench.succeed("worker", b, last);
        let first = bench.begun(a)[0];
        bench.succeed("worker", a, first);
    }
    assert!(of_a.len() > bench.begun(a).len());
}

#[tokio::test]
async fn a_worker_that_wants_a_pause_gets_it() {
    let mut bench = Bench::start();
    bench.worker("worker", &["a"], None).await;
    let (route, id) = bench.send(0);
    assert_eq!(bench.begun(route), [id]);
    let not_run = |bench: &mut Bench, pause| {
        let delivery = Arc::new(delivery_of(0, None, 1));
        let arrival =
            Arrival { id, route, attempts: 0, delivery, admission: None, caller: None, share: None };
        bench.running.hear(Event::Free { route, group: "worker".into() });
        bench.running.hear(Event::NotRun { arrival, pause });
    };
    not_run(&mut bench, Duration::ZERO);
    assert_eq!(bench.begun(route), [id], "it was not run, so it begins again");
    not_run(&mut bench, HOUR);
    bench.send(0);
    assert_eq!(bench.begun(route), [], "neither it nor what comes later");
    let wake = bench.running.next_wake();
    assert!(wake <= Instant::now() + clock::LOOK_AGAIN, "somebody looks at it again");
    bench.running.look_again = Some(Instant::now());
    bench.running.pass_time();
    assert_eq!(bench.begun(route), [], "the pause is not over");
    bench.running.queues.get_mut(&route).unwrap().not_before = Some(Instant::now());
    bench.running.look_again = Some(Instant::now());
    bench.running.pass_time();
    assert_eq!(bench.begun(route).len(), 2);
}

#[tokio::test]
async fn what_failed_waits_until_it_is_due() {
    let mut bench = Bench::start();
    bench.worker("worker", &["a"], None).await;
    let (route, id) = bench.send(0);
    assert_eq!(bench.begun(route), [id]);
    let due_at = now_ms() + millis(HOUR);
    rows::settle(&bench.running.engine.reader, &settlement(id, 1, Next::Due(due_at), false)).unwrap();
    bench.running.hear(Event::Free { route, group: "worker".into() });
    bench.running.hear(Event::Recorded { route, id, due_at: Some(due_at) });
    assert_eq!(bench.begun(route), []);
    assert!(bench.running.timers.iter().any(|Reverse(timer)| *timer == (due_at, route)));
    // Whatever else has the log asked.
    bench.running.expect_more(route);
    assert_eq!(bench.begun(route), []);
    let (_, other) = bench.send(0);
    assert_eq!(bench.begun(route), [other], "it holds up nothing that is due");
}

/// Their senders wait for the worker's answer, and only for a while.
#[tokio::test]
async fn those_whose_senders_wait_pass_a_backlog() {
    let mut bench = Bench::start();
    bench.worker("worker", &["a"], Some(2)).await;
    let backlog: Vec<_> = (0..10).map(|_| bench.keep(0).id).collect();
    bench.running.pass_time();
    let route = *bench.running.queues.keys().next().expect("the survey finds the route");
    assert_eq!(bench.begun(route), backlog[..1]);
    let (caller, _waits): (Caller, _) = oneshot::channel();
    let wanted = Arrival { caller: Some(caller), ..bench.keep(0) };
    let id = wanted.id;
    bench.running.arrive(wanted);
    bench.succeed("worker", route, backlog[0]);
    assert_eq!(bench.begun(route), [id]);
}

#[tokio::test]
async fn what_is_dropped_while_it_waits_does_not_begin() {
    let mut bench = Bench::start();
    bench.worker("worker", &["a"], Some(2)).await;
    let (route, ids) = bench.send_many(0, 3);
    assert_eq!(bench.begun(route), ids[..1]);
    crate::delivery::operator::remove(&bench.running.engine.reader, ids[1]).unwrap();
    bench.running.engine.inbox.remove(ids[1]);
    bench.running.take_arrivals();
    bench.succeed("worker", route, ids[0]);
    assert_eq!(bench.begun(route), [ids[2]]);
}

/// Another process may have delivered it meanwhile, and the log knows.
#[tokio::test]
async fn what_is_at_hand_is_read_again_after_a_pause() {
    let mut bench = Bench::start();
    bench.worker("worker", &["a"], Some(2)).await;
    let (route, ids) = bench.send_many(0, 3);
    assert_eq!(bench.begun(route), ids[..1]);
    bench.running.obey(Command::Pause { until: now_ms(), done: oneshot::channel().0 });
    let (_, later) = bench.send(0);
    for id in &ids {
        rows::settle(&bench.running.engine.reader, &settlement(*id, 1, Next::Delivered, false)).unwrap();
    }
    bench.succeed("worker", route, ids[0]);
    assert_eq!(bench.begun(route), []);
    bench.running.obey(Command::Resume);
    assert_eq!(bench.begun(route), [later]);
}

/// The survey is for what nobody spoke of; reading what is at hand would only cost time.
#[tokio::test]
async fn the_survey_asks_for_nothing_that_is_known() {
    let mut bench = Bench::start();
    bench.worker("worker", &["a"], Some(2)).await;
    let (route, ids) = bench.send_many(0, 3);
    assert_eq!(bench.begun(route), ids[..1]);
    bench.running.pass_time();
    assert!(!bench.queue(route).more);
    let stranger = bench.keep(0).id;
    for id in ids {
        assert_eq!(bench.begun(route), [id]);
        bench.succeed("worker", route, id);
    }
    assert_eq!(bench.begun(route), []);
    bench.running.next_survey = Instant::now();
    bench.running.pass_time();
    assert_eq!(bench.begun(route), [stranger]);
}

/// A backlog takes no memory, whether the workers are away, slow, or were away when the gateway began.
#[tokio::test]
async fn memory_does_not_grow_with_the_backlog() {
    const MANY: usize = 20_000;
    // The window and what is under way.
    const KNOWN: usize = 256 + 64;
    let mut bench = Bench::start();
    bench.worker("slow", &["a"], None).await;
    let away = bench.worker("away", &["b"], None).await;
    bench.leave(&away).await;
    let mut most = (0, 0);
    for _ in 0..MANY {
        bench.send(0);
        bench.send(1);
        bench.running.begin_what_can();
        let now = bench.in_memory();
        most = (most.0.max(now.0), most.1.max(now.1));
    }
    assert!(most.0 <= 2 * (KNOWN + AT_HAND_OF_A_ROUTE), "{most:?}");
    assert!(most.1 <= AT_HAND as usize, "{most:?}");

    // The log has what is not in memory: everything is begun once the slow worker comes round.
    let slow = bench
        .running
        .queues
        .iter()
        .find(|(_, queue)| !queue.calls.is_empty())
        .map(|(route, _)| *route)
        .unwrap();
    let mut delivered = 0;
    while let Some(id) = bench.begun(slow).first().copied() {
        bench.succeed("slow", slow, id);
        delivered += 1;
        let (known, kib) = bench.in_memory();
        assert!(known <= 2 * (KNOWN + AT_HAND_OF_A_ROUTE) && kib <= AT_HAND as usize, "{known}, {kib} KiB");
    }
    assert_eq!(delivered, MANY);
    assert_eq!(bench.in_memory().1, 0, "what was given back is there again");
}

/// What is at hand is counted by its size: a few large ones take all the room, and the rest is left to the log.
#[tokio::test]
async fn large_bodies_are_left_to_the_log() {
    let mut bench = Bench::start();
    bench.worker("worker", &["a"], Some(2)).await;
    let large = |bench: &mut Bench| {
        let delivery = delivery_of(0, None, 3 << 20);
        let appended = rows::append(&bench.running.engine.reader, &mut bench.numbers, &delivery).unwrap();
        let Appended::New(id, route) = appended else { panic!("{appended:?}") };
        let delivery = Arc::new(delivery);
        let arrival =
            Arrival { id, route, attempts: 0, delivery, admission: None, caller: None, share: None };
        bench.running.arrive(arrival);
        (route, id)
    };
    let sent: Vec<_> = (0..10).map(|_| large(&mut bench)).collect();
    let route = sent[0].0;
    assert_eq!(bench.queue(route).arrived.len(), 2, "two of them fit into 8 MiB");
    for (_, id) in sent {
        assert_eq!(bench.begun(route), [id]);
        bench.succeed("worker", route, id);
    }
}
