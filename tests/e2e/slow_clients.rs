//! Clients that take their time, in number: everybody else is served meanwhile.

use gearway_tests::{Answer, Connection, Gate, Request};

use crate::expect::serving;

const ROOM: usize = 8;

/// More connections than there is room for, each of which has sent this.
async fn crowd(gateway: &gearway_tests::Gateway, sent: &[u8]) -> Vec<Connection> {
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

#[tokio::test]
async fn a_request_in_progress_is_not_given_up_for_a_newcomer() {
    let (gateway, worker) = serving("[limits]\nmax_connections = 2\n", &["foo"]).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let mut asking = Vec::new();
    for number in 0..2 {
        let to = gateway.public_address();
        asking.push(tokio::spawn(async move { Request::get("/foo").send(to).await }));
        worker.call(number).await;
    }
    let to = gateway.public_address();
    let newcomer = tokio::spawn(async move { Request::get("/").send(to).await });
    gate.open();
    for asked in asking {
        assert_eq!(asked.await.expect("no panic").text(), "done");
    }
    assert_eq!(newcomer.await.expect("no panic").status, 200);
}
