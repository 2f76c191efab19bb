//! What comes back on a worker's connection: the same however it is cut, and only what httparse reads alike, with a body that ends where
//! the head says. Large bodies, which are decoded as they come, come to the same. The first byte of the input says where the rest is cut.
#![no_main]

use bytes::BytesMut;
use gearway::dialect::Dialect;
use gearway::respond::{Verdict, judge, opens_body};
use gearway::upstream::{Answer, ReplyError, ReplyReader};
use libfuzzer_sys::fuzz_target;

const MAX_BODY: u64 = 2000;
const LARGE: usize = 32;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let cut = usize::from(cut).max(1);
    let plain = || ReplyReader::new(MAX_BODY);
    let whole = read(plain(), bytes, usize::MAX);
    let pieces = read(plain(), bytes, cut);
    if let (Ok(pieces), Ok(decoded)) =
        (&pieces, read(plain().decoding(opens_body).large_from(LARGE), bytes, cut))
    {
        assert_eq!(response(pieces), response(&decoded), "cut every {cut} bytes");
    }
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => {
            assert_eq!((whole.status, &whole.body), (pieces.status, &pieces.body), "cut every {cut} bytes");
        }
        // A reply that is followed by something is nonsense, if that has come by the time that the reply is whole.
        (Err(ReplyError::Nonsense(_)), Ok(_)) => {}
        (Err(_), Err(_)) => {}
        (Ok(_), Err(error)) => panic!("{error} when cut every {cut} bytes, and none in one piece"),
        (Err(error), Ok(_)) => panic!("{error} in one piece, and none when cut every {cut} bytes"),
    }
    if let Ok(answer) = whole {
        check(&answer, bytes);
    }
});

/// What a client would get; nothing for nonsense.
fn response(answer: &Answer) -> Option<(u16, Vec<u8>)> {
    match judge(answer, Dialect::GearwayV1, MAX_BODY) {
        Verdict::Done(Ok(response)) => {
            Some((response.status().as_u16(), response.into_body().into_bytes().to_vec()))
        }
        Verdict::Done(Err(_)) | Verdict::NotRun(_) => None,
    }
}

fn read(mut reader: ReplyReader, mut bytes: &[u8], piece: usize) -> Result<Answer, ReplyError> {
    let mut input = BytesMut::new();
    while !bytes.is_empty() {
        let (now, later) = bytes.split_at(piece.min(bytes.len()));
        input.extend_from_slice(now);
        bytes = later;
        if let Some(answer) = reader.advance(&mut input)? {
            return Ok(answer);
        }
    }
    reader.end(&mut input)
}

/// Interim replies are left out, and the one that counts is the last.
fn check(answer: &Answer, bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut response = httparse::Response::new(&mut fields);
        let head = match response.parse(rest) {
            Ok(httparse::Status::Complete(head)) => head,
            other => panic!("{other:?}: {:?}", rest.escape_ascii().to_string()),
        };
        let status = response.code.expect("a whole head");
        rest = &rest[head..];
        if (100..200).contains(&status) {
            continue;
        }
        assert_eq!(status, answer.status.as_u16());
        let named = |name: &str| -> Vec<&[u8]> {
            let fields = response.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
            fields.map(|field| field.value).collect()
        };
        let (lengths, codings) = (named("content-length"), named("transfer-encoding").len());
        assert!(lengths.len() + codings <= 1, "two framings");
        assert!(answer.body.len() as u64 <= MAX_BODY);
        if matches!(status, 204 | 304) {
            assert!(answer.body.is_empty());
        } else if let [length] = lengths[..] {
            let length: usize = std::str::from_utf8(length).expect("digits").trim().parse().expect("digits");
            assert_eq!((answer.body.len(), &answer.body[..]), (length, &rest[..length]));
        } else if codings == 0 {
            assert_eq!(&answer.body[..], rest);
        }
        return;
    }
}
