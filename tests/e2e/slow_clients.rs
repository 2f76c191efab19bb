//! Clients that take their time, in number: everybody else is served meanwhile.

use gearway_tests::{Answer, Connection, Gate, Gateway, Request, ScriptedWorker, wait};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::expect::{error, not_run, serving};

const ROOM: usize = 8;

/// More connections than there is room for, each of which has sent this.
async fn crowd(gateway: &Gateway, sent: &[u8]) -> Vec<Connection> {
    let mut crowd = Vec::new();
    for _ in 0..3 * ROOM {
        let mut connection = gateway.connect().await;
        connection.write(sent).await.expect("a connection");
        crowd.push(connection);
    }
    crowd
}

#[tokio::test]
async fn those_who_keep_the_gateway_waiting_make_room() {
    let config =
        format!("[limits]\nmax_connections = {ROOM}\nheader_timeout = \"1h\"\nbody_timeout = \"1h\"\n");
    let (gateway, worker) = serving(&config, &["foo"]).await;
    let post = "POST /foo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n";
    for sent in ["", "GET /foo HT", "GET /foo HTTP/1.1\r\nHost: a\r\n\r\n", post, &format!("{post}bo")] {
        let crowd = crowd(&gateway, sent.as_bytes()).await;
        if sent.ends_with("\r\n\r\n") && !sent.starts_with("POST") {
            wait::until("they have been answered", async || {
                let metrics = gateway.admin().get("/metrics").await.text();
                metrics.contains("gearway_in_flight_requests 0\n").then_some(())
            })
            .await;
        }
        let mut client = gateway.connect().await;
        for _ in 0..3 {
            let response = client.request(&Request::post("/foo", "body")).await.expect("an answer");
            assert_eq!(response.status, 200, "{sent:?}");
        }
        drop(crowd);
    }
    assert!(
        worker.calls().iter().all(|call| call.envelope["param"]["body"] != "Ym8="),
        "half a body is no request"
    );
}

/// Half of `max_in_flight` is left for those whose bodies come.
#[tokio::test]
async fn bodies_that_do_not_come_leave_room_in_flight() {
    let (gateway, worker) = serving("[limits]\nmax_in_flight = 8\nbody_timeout = \"1h\"\n", &["foo"]).await;
    let post = "POST /foo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nbo";
    let mut refused = JoinSet::new();
    let slow = crowd(&gateway, post.as_bytes()).await;
    let waiting = slow.len() - 4;
    for mut connection in slow {
        refused.spawn(async move { connection.read_response().await.expect("an answer") });
    }
    for _ in 0..waiting {
        let response = wait::within("a slow request is given up", refused.join_next()).await;
        not_run(&response.expect("it is one of them").expect("no panic"));
    }
    for _ in 0..3 {
        assert_eq!(gateway.post("/foo", "body").await.status, 200);
    }
    assert_eq!(worker.calls().len(), 3);
    let metrics = gateway.admin().get("/metrics").await.text();
    assert!(!metrics.contains("gearway_evictions_total{reason=\"slow_body\"} 0"), "{metrics}");
}

/// As many requests in progress as there is room for connections.
async fn busy(config: &str) -> (Gateway, ScriptedWorker, Gate, JoinSet<String>) {
    let (gateway, worker) = serving(&format!("[limits]\nmax_connections = 2\n{config}"), &["foo"]).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let mut asking = JoinSet::new();
    for number in 0..2 {
        let to = gateway.public_address();
        asking.spawn(async move { Request::get("/foo").send(to).await.text() });
        worker.call(number).await;
    }
    (gateway, worker, gate, asking)
}

async fn all_are_served(gateway: &Gateway, gate: &Gate, asking: JoinSet<String>) {
    gate.open();
    assert_eq!(asking.join_all().await, ["done", "done"]);
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn a_newcomer_is_told_when_every_connection_is_busy() {
    let (gateway, worker, gate, asking) = busy("").await;
    for request in
        [Request::get("/foo"), Request::post("/foo", "body"), Request::post("/foo", vec![b'x'; 1 << 20])]
    {
        let mut newcomer = gateway.connect().await;
        not_run(&newcomer.request(&request).await.expect("an answer"));
        assert!(newcomer.is_closing());
        assert_eq!(newcomer.read_to_end().await, b"");
    }
    assert_eq!(worker.calls().len(), 2);
    let metrics = gateway.admin().get("/metrics").await.text();
    assert!(metrics.contains("gearway_evictions_total{reason=\"full\"} 3"), "{metrics}");
    all_are_served(&gateway, &gate, asking).await;
}

/// Nor can those who ask nothing keep others from being told.
#[tokio::test]
async fn silent_newcomers_make_room_for_others() {
    let (gateway, _worker, gate, asking) = busy("header_timeout = \"1h\"\n").await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(gateway.connect().await);
    }
    not_run(&gateway.get("/foo").await);
    assert_eq!(silent[0].read_to_end().await, b"");
    all_are_served(&gateway, &gate, asking).await;
}

/// A connection from another loopback address.
async fn connect_from(address: [u8; 4], gateway: &Gateway) -> Connection {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((address, 0).into()).expect("the whole of 127.0.0.0/8 is this machine's");
    let to = gateway.public_address();
    let (reader, writer) = tokio::io::split(socket.connect(to).await.expect("a connection"));
    Connection::over(reader, writer, to)
}

#[tokio::test]
async fn an_address_has_no_more_connections_than_it_may() {
    let (gateway, _worker) = serving("[limits]\nmax_connections_per_address = 2\n", &["foo"]).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut connection = gateway.connect().await;
        assert_eq!(connection.request(&Request::get("/foo")).await.expect("an answer").status, 200);
        kept.push(connection);
    }
    let mut third = gateway.connect().await;
    let refused = third.request(&Request::get("/foo")).await.expect("an answer");
    error(&refused, 429, 107, "BadRequest");
    assert!(third.is_closing() && refused.header("retry-after").is_some(), "{refused:?}");
    let mut another = connect_from([127, 0, 0, 2], &gateway).await;
    assert_eq!(another.request(&Request::get("/foo")).await.expect("an answer").status, 200);
    kept.pop();
    wait::until("there is room for another", async || {
        (gateway.get("/foo").await.status == 200).then_some(())
    })
    .await;

    // A proxy's connections are those of many clients.
    gateway.write_config(
        "[limits]\nmax_connections_per_address = 1\n[public]\ntrusted_proxies = [\"127.0.0.1\"]",
    );
    gateway.sighup();
    gateway.wait_for_log("the reload", |line| line.contains("configuration reloaded")).await;
    for _ in 0..3 {
        let mut connection = gateway.connect().await;
        assert_eq!(connection.request(&Request::get("/foo")).await.expect("an answer").status, 200);
        kept.push(connection);
    }
}
