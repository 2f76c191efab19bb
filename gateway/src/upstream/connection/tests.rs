use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

async fn connected() -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Connection::new(Stream::Tcp(stream), None), listener.accept().await.unwrap().0)
}

async fn exchange(connection: &mut Connection, call: &[u8]) -> Exchange {
    let mut outgoing = Outgoing::new(call.to_vec(), 0, Bytes::new().into(), b"");
    connection.exchange(&mut outgoing, &mut BytesMut::new(), 1 << 20, |_| false).await
}

/// Waits until what the worker did has arrived.
async fn arrived(connection: &Connection) {
    let Stream::Tcp(stream) = &connection.stream else { panic!("not TCP") };
    stream.readable().await.unwrap();
}

#[tokio::test]
async fn one_call_after_another() {
    let (mut connection, mut worker) = connected().await;
    for _ in 0..3 {
        assert!(connection.is_reusable() && connection.is_untouched() && connection.is_untouched_so_far());
        let serve = async {
            let mut call = [0; 4];
            worker.read_exact(&mut call).await.unwrap();
            worker.write_all(REPLY).await.unwrap();
            call
        };
        let (exchange, call) = tokio::join!(exchange(&mut connection, b"call"), serve);
        assert!(matches!(exchange, Exchange::Answered(answer) if answer.body == "{}"));
        assert_eq!(&call, b"call");
    }
}

#[tokio::test]
async fn what_happens_while_nobody_asked_spoils_a_connection() {
    let (mut connection, mut worker) = connected().await;
    worker.write_all(REPLY).await.unwrap();
    arrived(&connection).await;
    assert!(!connection.is_untouched() && !connection.is_untouched_so_far(), "an answer to nothing");
    let (mut connection, worker) = connected().await;
    drop(worker);
    arrived(&connection).await;
    assert!(!connection.is_untouched() && !connection.is_untouched_so_far(), "an end");
}

#[tokio::test]
async fn a_worker_may_answer_before_it_has_read_the_call() {
    let (mut connection, mut worker) = connected().await;
    let call = vec![b'x'; 32 << 20];
    let serve = async {
        worker.read_exact(&mut [0; 10]).await.unwrap();
        worker.write_all(REPLY).await.unwrap();
    };
    let (exchange, ()) = tokio::join!(exchange(&mut connection, &call), serve);
    assert!(matches!(exchange, Exchange::Answered(_)), "{exchange:?}");
    assert!(!connection.is_reusable(), "the rest of the call was never sent");
}

#[tokio::test]
async fn only_a_call_of_which_a_byte_was_written_is_lost() {
    let (mut connection, worker) = connected().await;
    connection.stream.shutdown().await.unwrap();
    let unwritten = exchange(&mut connection, b"call").await;
    assert!(matches!(unwritten, Exchange::NotWritten), "{unwritten:?}");
    drop(worker);
    let (mut connection, worker) = connected().await;
    drop(worker);
    let lost = exchange(&mut connection, b"call").await;
    assert!(matches!(lost, Exchange::Lost(_)), "{lost:?}");
    assert!(!connection.is_reusable());
}

#[tokio::test]
async fn nonsense_and_too_much_end_the_connection() {
    let large = [b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n".as_slice(), &[b'x'; 100]].concat();
    let twice = REPLY.repeat(2);
    for (reply, is_nonsense) in [(b"hello".as_slice(), true), (&twice, true), (&large, false)] {
        let (mut connection, mut worker) = connected().await;
        worker.write_all(reply).await.unwrap();
        arrived(&connection).await;
        let exchange = exchange(&mut connection, b"call").await;
        match is_nonsense {
            true => assert!(matches!(exchange, Exchange::Nonsense(_)), "{exchange:?}"),
            false => assert!(matches!(exchange, Exchange::TooLarge), "{exchange:?}"),
        }
        assert!(!connection.is_reusable());
    }
}

#[tokio::test]
async fn a_large_reply_keeps_no_memory() {
    let (mut connection, mut worker) = connected().await;
    let mut input = BytesMut::new();
    for length in [10, MAX_KEPT_BYTES + 1, 10] {
        let reply =
            [format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes(), vec![b'x'; length]];
        let serve = async {
            worker.read_exact(&mut [0; 4]).await.unwrap();
            worker.write_all(&reply.concat()).await.unwrap();
        };
        let mut outgoing = Outgoing::new(b"call".to_vec(), 0, Bytes::new().into(), b"");
        let (exchange, ()) =
            tokio::join!(connection.exchange(&mut outgoing, &mut input, 1 << 20, |_| false), serve);
        let Exchange::Answered(answer) = exchange else { panic!("{exchange:?}") };
        assert_eq!(answer.body.len(), length);
        drop(answer);
        input.clear();
        // What can be had without new memory is what it holds on to.
        assert!(!input.try_reclaim(MAX_KEPT_BYTES + 1), "after {length} bytes");
        assert!(length > MAX_KEPT_BYTES || input.try_reclaim(FIRST_ROOM), "after {length} bytes");
    }
}
