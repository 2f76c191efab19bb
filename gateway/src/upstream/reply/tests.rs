use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::*;

const MAX_BODY: u64 = 64;

type Read = Result<(u16, Vec<u8>, bool), ReplyError>;

/// Reads a reply that comes in these pieces, and then the end of the connection.
fn read(pieces: &[&[u8]]) -> Read {
    let mut reader = ReplyReader::new(MAX_BODY);
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        if let Some(answer) = reader.advance(&mut input)? {
            return Ok((answer.status.as_u16(), answer.body.to_vec(), reader.keeps_alive()));
        }
    }
    let answer = reader.end(&mut input)?;
    Ok((answer.status.as_u16(), answer.body.to_vec(), reader.keeps_alive()))
}

fn bytewise(reply: &[u8]) -> Read {
    read(&reply.chunks(1).collect::<Vec<_>>())
}

/// What hyper's client makes of the same bytes.
async fn read_with_hyper(reply: &[u8], cut: usize) -> Option<(u16, Vec<u8>)> {
    let (client, mut server) = tokio::io::duplex(1 << 20);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(client)).await.ok()?;
    let connection = tokio::spawn(connection);
    let request = http::Request::post("/").header("host", "a").body(Empty::new()).ok()?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await.ok()?.into_parts();
        // hyper hands an upgraded connection over instead of a body.
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return None;
        }
        Some((head.status.as_u16(), body.collect().await.ok()?.to_bytes().to_vec()))
    };
    let worker = async {
        let mut byte = [0; 1];
        tokio::io::AsyncReadExt::read_exact(&mut server, &mut byte).await.ok();
        for piece in [&reply[..cut], &reply[cut..]] {
            server.write_all(piece).await.ok();
            tokio::task::yield_now().await;
        }
        server.shutdown().await.ok();
        server
    };
    let (answer, _server) = tokio::join!(exchange, worker);
    connection.abort();
    answer
}

const GOOD: &[(&str, u16, &str, bool)] = &[
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, "{}", true),
    ("HTTP/1.1 200\r\ncontent-length: 02\r\n\r\n{}", 200, "{}", true),
    ("HTTP/1.1 200 OK\r\nContent-Length:\t2 \r\nX: a\tbé\r\n\r\n{}", 200, "{}", true),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", true),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x , Close\r\n\r\n{}", 200, "{}", false),
    ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, "{}", false),
    ("HTTP/1.1 200 OK\r\n\r\n{\"until\":\"the end\"}", 200, "{\"until\":\"the end\"}", false),
    ("HTTP/1.0 200 OK\r\n\r\n", 200, "", false),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n",
        200,
        "{}",
        true,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n02\r\n{}\r\n00\r\nX-Sum: 1\r\n\r\n",
        200,
        "{}",
        true,
    ),
    (
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nX: y\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 1\r\n\r\nx",
        503,
        "x",
        true,
    ),
    ("HTTP/1.1 204 No Content\r\n\r\n", 204, "", true),
    ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, "", true),
    ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 401, "", false),
];

/// hyper, and others, read each of these one way or another.
const AMBIGUOUS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nContent-Length: 2 2\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999999\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\nContent-Length: 2\n\n{}\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\n Content-Length: 2\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nContent Length: 2\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "hello",
    "\x16\x03\x01",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n{}",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nContent-Length: 2\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\n{}",
];

#[test]
fn replies_are_read_wherever_they_are_cut() {
    for &(reply, status, body, keeps_alive) in GOOD {
        let wanted = Ok((status, body.as_bytes().to_vec(), keeps_alive));
        assert_eq!(bytewise(reply.as_bytes()), wanted, "{reply:?}");
        for cut in 0..=reply.len() {
            let (one, other) = reply.as_bytes().split_at(cut);
            assert_eq!(read(&[one, other]), wanted, "{reply:?} at {cut}");
        }
    }
}

#[test]
fn what_has_two_readings_is_nonsense() {
    for reply in AMBIGUOUS {
        for read in [read(&[reply.as_bytes()]), bytewise(reply.as_bytes())] {
            assert!(matches!(read, Err(ReplyError::Nonsense(_))), "{reply:?}: {read:?}");
        }
    }
}

#[test]
fn what_follows_a_reply_is_nonsense() {
    for &(reply, _, _, _) in GOOD.iter().filter(|(_, _, _, keeps_alive)| *keeps_alive) {
        for more in ["\r\n", "x", reply] {
            let read = read(&[format!("{reply}{more}").as_bytes()]);
            assert!(matches!(read, Err(ReplyError::Nonsense(_))), "{reply:?} {more:?}: {read:?}");
        }
    }
}

#[test]
fn a_reply_that_is_cut_short_is_none() {
    for &(reply, _, _, _) in GOOD.iter().filter(|(_, _, _, keeps_alive)| *keeps_alive) {
        for cut in 0..reply.len() {
            assert_eq!(read(&[&reply.as_bytes()[..cut]]), Err(ReplyError::Truncated), "{reply:?} at {cut}");
        }
    }
}

#[test]
fn sizes_are_bounded() {
    let full = "x".repeat(usize::try_from(MAX_BODY).unwrap());
    for (body, fits) in [(full.clone(), true), (format!("{full}x"), false)] {
        for reply in [
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            ),
            format!("HTTP/1.1 200 OK\r\n\r\n{body}"),
        ] {
            let read = bytewise(reply.as_bytes());
            assert_eq!(read.is_ok(), fits, "{reply:?}");
            assert!(fits || read == Err(ReplyError::TooLarge), "{reply:?}");
        }
    }
    let head =
        |value: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {}\r\n\r\n", "x".repeat(value));
    let rest = head(0).len();
    assert!(read(&[head(MAX_HEAD - rest).as_bytes()]).is_ok());
    for reply in [
        head(MAX_HEAD - rest + 1),
        format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD)),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(101)),
        "HTTP/1.1 102 Processing\r\n\r\n".repeat(17),
    ] {
        assert!(matches!(read(&[reply.as_bytes()]), Err(ReplyError::Nonsense(_))), "{} bytes", reply.len());
    }
}

#[test]
fn a_header_of_a_reply_can_be_looked_up() {
    let mut input =
        BytesMut::from("HTTP/1.1 503 No\r\nGEARWAY-Not-Run: 1\r\nX: 2\r\nContent-Length: 0\r\n\r\n");
    let answer = ReplyReader::new(0).advance(&mut input).unwrap().unwrap();
    assert_eq!(answer.header("gearway-not-run"), Some(b"1".as_slice()));
    assert_eq!(answer.header("x"), Some(b"2".as_slice()));
    assert_eq!(answer.header("y"), None);
}

#[tokio::test]
async fn hyper_reads_the_same() {
    for &(reply, status, body, _) in GOOD {
        for cut in 0..=reply.len() {
            let wanted = Some((status, body.as_bytes().to_vec()));
            assert_eq!(read_with_hyper(reply.as_bytes(), cut).await, wanted, "{reply:?} at {cut}");
        }
        for cut in 0..reply.len() {
            let shortened = &reply.as_bytes()[..cut];
            let ours = read(&[shortened]).ok().map(|(status, body, _)| (status, body));
            assert_eq!(read_with_hyper(shortened, cut).await, ours, "{reply:?} cut off at {cut}");
        }
    }
}

/// A good reply with a few bytes changed, put in or left out.
fn nearly_good() -> impl Strategy<Value = Vec<u8>> {
    let bytes = proptest::sample::select(b"\r\n :;,\t\0x09aF{}-+.\x80".to_vec());
    let edit = (any::<proptest::sample::Index>(), 0..3_u8, bytes);
    (proptest::sample::select(GOOD.to_vec()), proptest::collection::vec(edit, 0..4)).prop_map(
        |(good, edits)| {
            let mut reply = good.0.as_bytes().to_vec();
            for (place, what, byte) in edits {
                let place = place.index(reply.len());
                match what {
                    0 => reply[place] = byte,
                    1 => reply.insert(place, byte),
                    _ => drop(reply.remove(place)),
                }
            }
            reply
        },
    )
}

proptest! {
    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(bytewise(&bytes).ok(), read(&[&bytes]).ok());
        let reply = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(), &bytes].concat();
        bytewise(&reply).ok();
    }

    #[test]
    fn cuts_change_nothing(reply in nearly_good(), cut in any::<proptest::sample::Index>()) {
        // Bytes that follow a reply are seen only if they come with it.
        let whole = read(&[&reply]);
        if !matches!(whole, Err(ReplyError::Nonsense("bytes follow the reply"))) {
            let (one, other) = reply.split_at(cut.index(reply.len() + 1));
            prop_assert_eq!(read(&[one, other]).ok(), whole.clone().ok());
            prop_assert_eq!(bytewise(&reply).ok(), whole.ok());
        }
    }

    #[test]
    fn hyper_accepts_whatever_is_accepted_here(reply in nearly_good(), cut in any::<proptest::sample::Index>()) {
        if let Ok((status, body, _)) = read(&[&reply]) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let hypers = runtime.block_on(read_with_hyper(&reply, cut.index(reply.len() + 1)));
            prop_assert_eq!(hypers, Some((status, body)));
        }
    }
}

/// What a client gets for this JSON when a body counts as large from `large` bytes on, in pieces of `size`.
fn respond(json: &str, large: usize, size: usize) -> Option<(u16, Vec<u8>)> {
    let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len());
    let mut reader = ReplyReader::new(1 << 20).decoding(crate::respond::opens_body).large_from(large);
    let mut input = BytesMut::new();
    let answer = reply.as_bytes().chunks(size).find_map(|piece| {
        input.extend_from_slice(piece);
        reader.advance(&mut input).unwrap()
    })?;
    assert!(large > 0 || size > 1 || answer.large_body.is_some() || !json.contains("\"body\":\""), "{json}");
    match crate::respond::judge(&answer, crate::dialect::Dialect::GearwayV1, 1 << 20) {
        crate::respond::Verdict::Done(Ok(response)) => {
            Some((response.status().as_u16(), response.into_body().into_bytes().to_vec()))
        }
        crate::respond::Verdict::Done(Err(_)) | crate::respond::Verdict::NotRun(_) => None,
    }
}

#[test]
fn a_large_body_is_the_same_as_a_small_one() {
    for json in [
        r#"{"result":{"type":"response","status":201,"header":{"X":["\"body\":\""]},"body":"YWJjZA=="}}"#,
        r#"{"result":{"type":"response","body":"YWJjZA==","status":201,"header":{}}}"#,
        r#"{ "result" : { "body" : "YWJj\/A==" , "x":{"body":"YQ=="}, "status": 299, "type" : "response" } } "#,
        r#"{"result":{"type":"response","status":204,"body":"YWJjZA=="}}"#,
        r#"{"result":{"type":"response","status":200,"body":""}}"#,
        r#"{"result":{"type":"text","body":"%%%%","value":"text"}}"#,
        r#"{"result":{"type":"text","body":"YWJjZA==","value":""}}"#,
        r#"{"result":{"type":"response","status":200,"body":"YWJjZA="}}"#,
        r#"{"result":{"type":"response","status":200,"body":"%%%%"}}"#,
        r#"{"result":{"type":"response","status":200,"body":"YWJjZA=="}} x"#,
        r#"{"result":{"type":"response","status":200,"body":"YWJjZA==","body":"YWJjZA=="}}"#,
        r#"{"result":{"type":"response","body":"YWJjZA=="}}"#,
        r#"{"result":{"type":"response","status":200,"body":"YWJjZA==""#,
        r#"{"result":{"type":"response","status":200,"body":"YWJjZA=="},"error":{"code":1}}"#,
    ] {
        let wanted = respond(json, usize::MAX, 7);
        for size in 1..json.len() {
            assert_eq!(respond(json, 0, size), wanted, "{json} in pieces of {size}");
        }
    }
    for json in [
        r#"{"result":{"type":"json","value":{"body":"YWJjZA=="}}}"#,
        r#"{"result":{"x":{"body":"YQ=="},"type":"response","status":200,"body":"YWJjZA=="}}"#,
        r#"{"x":{"body":"YQ=="},"result":{"type":"response","status":200,"body":"YWJjZA=="}}"#,
        r#"{"result":{"type":"response","status":200,"header":{"body":["1"]},"body":null}}"#,
    ] {
        assert!(respond(json, usize::MAX, 7).is_some(), "{json}");
        for size in 2..json.len() {
            assert_eq!(respond(json, 0, size), respond(json, usize::MAX, 7), "{json} in pieces of {size}");
        }
    }
}
