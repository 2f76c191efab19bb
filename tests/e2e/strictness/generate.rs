//! What clients send that mean well, and what those send who do not.

use fastrand::Rng;

/// What one client sends on one connection.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) bytes: Vec<u8>,
    /// Where the bytes are cut into separate writes.
    pub(super) cuts: Vec<usize>,
    /// Nothing in it is wrong, so that it has to be served.
    pub(super) well_formed: bool,
}

/// A request in pieces, each of which may be spoilt.
struct Draft {
    lead: Vec<u8>,
    method: Vec<u8>,
    after_method: Vec<u8>,
    target: Vec<u8>,
    before_version: Vec<u8>,
    version: Vec<u8>,
    line_end: Vec<u8>,
    fields: Vec<Field>,
    head_end: Vec<u8>,
    body: Vec<u8>,
}

#[derive(Clone)]
struct Field {
    name: Vec<u8>,
    colon: Vec<u8>,
    value: Vec<u8>,
    end: Vec<u8>,
}

/// One to three requests, the last of which asks to close, and behind it one that nobody may see.
pub(super) fn case(rng: &mut Rng) -> Case {
    let well_formed = rng.u8(..6) == 0;
    let mut bytes = Vec::new();
    for _ in 0..rng.usize(..3) {
        let mut draft = draft(rng);
        if !well_formed && rng.u8(..3) > 0 {
            for _ in 0..=rng.usize(..2) {
                spoil(rng, &mut draft);
            }
        }
        draft.write(&mut bytes);
    }
    let mut last = draft(rng);
    last.fields.push(Field::new("Connection", "close"));
    last.write(&mut bytes);
    bytes.extend_from_slice(b"GET /behind HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    if !well_formed && rng.u8(..3) == 0 {
        for _ in 0..=rng.usize(..3) {
            garble(rng, &mut bytes);
        }
    }
    let mut cuts: Vec<usize> = (0..rng.usize(..4)).map(|_| rng.usize(..=bytes.len())).collect();
    cuts.sort_unstable();
    Case { bytes, cuts, well_formed }
}

impl Field {
    fn new(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.as_ref().into(),
            colon: b": ".into(),
            value: value.as_ref().into(),
            end: b"\r\n".into(),
        }
    }
}

impl Draft {
    fn write(&self, out: &mut Vec<u8>) {
        let line = [
            &self.lead,
            &self.method,
            &self.after_method,
            &self.target,
            &self.before_version,
            &self.version,
            &self.line_end,
        ];
        line.into_iter().for_each(|piece| out.extend_from_slice(piece));
        for field in &self.fields {
            [&field.name, &field.colon, &field.value, &field.end]
                .into_iter()
                .for_each(|piece| out.extend_from_slice(piece));
        }
        out.extend_from_slice(&self.head_end);
        out.extend_from_slice(&self.body);
    }

    fn field(&mut self, rng: &mut Rng) -> &mut Field {
        if self.fields.is_empty() {
            self.fields.push(Field::new("X-Only", "1"));
        }
        let place = rng.usize(..self.fields.len());
        &mut self.fields[place]
    }

    fn insert(&mut self, rng: &mut Rng, field: Field) {
        let place = rng.usize(..=self.fields.len());
        self.fields.insert(place, field);
    }
}

/// A request as it should be.
fn draft(rng: &mut Rng) -> Draft {
    let target =
        ["/", "/a", "/a/b?x=1&x=2", "/caf%C3%A9", "/%252f", "/a?", "http://h.example/abs?q", "/a;b=c"];
    let mut draft = Draft {
        lead: Vec::new(),
        method: pick(rng, &["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
        after_method: b" ".into(),
        target: pick(rng, &target),
        before_version: b" ".into(),
        version: b"HTTP/1.1".into(),
        line_end: b"\r\n".into(),
        fields: vec![Field::new("Host", "a.example:3000")],
        head_end: b"\r\n".into(),
        body: Vec::new(),
    };
    let names = ["X-A", "x-b", "X-Some-Longer_Name.1", "Accept", "x-!#$%&'*+.^`|~"];
    let values = ["1", "", "a, b", "\"quoted \\\" \"", "a\tb", "  spaces around  ", "caf\u{e9}", "a:b"];
    for _ in 0..rng.usize(..4) {
        let value: Vec<u8> = values[rng.usize(..values.len())]
            .chars()
            .map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?'))
            .collect();
        let field = Field::new(pick(rng, &names), value);
        draft.insert(rng, field);
    }
    let content: Vec<u8> = (0..rng.usize(..40)).map(|_| rng.u8(..)).collect();
    match rng.u8(..3) {
        0 => {}
        1 => {
            let field = Field::new("Content-Length", content.len().to_string());
            draft.insert(rng, field);
            draft.body = content;
        }
        _ => {
            let field = Field::new("Transfer-Encoding", "chunked");
            draft.insert(rng, field);
            draft.body = chunked(rng, &content);
        }
    }
    draft
}

fn chunked(rng: &mut Rng, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in content.chunks(rng.usize(1..20)) {
        let size = match rng.u8(..3) {
            0 => format!("{:x}", chunk.len()),
            1 => format!("{:X}", chunk.len()),
            _ => format!("{:04x}", chunk.len()),
        };
        out.extend_from_slice(size.as_bytes());
        if rng.u8(..4) == 0 {
            out.extend(pick(rng, &[";a", ";a=b", ";a=\"q;\"", ";a=b;c=d"]));
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n");
    if rng.u8(..4) == 0 {
        out.extend_from_slice(b"X-Trailer: 1\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Breaks one thing that readers are known to take differently.
fn spoil(rng: &mut Rng, draft: &mut Draft) {
    match rng.u8(..24) {
        0 => draft.lead = pick(rng, &["\r\n", "\n", "\r\n\r\n", " ", "\0", "\t", "\u{feff}"]),
        1 => {
            let methods = [
                "get", "G(T", "", "CONNECT", "PRI", "FOO", "TRACE", "GET\t", "G\0T", "PROPFIND", "M-SEARCH",
                "SOURCE",
            ];
            draft.method = pick(rng, &methods);
        }
        2 => draft.after_method = pick(rng, &["  ", "\t", "", "\r\n", "\u{b}", " \t", "\r"]),
        3 => {
            let targets = [
                "*",
                "a",
                "",
                "//",
                "/#f",
                "/a b",
                "/\u{e9}",
                "/\0",
                "http://",
                "http://u@h/",
                "https://h",
                "ftp://h/",
                "h:80",
                "/\t",
                "/\"<>",
                "/a\\b",
                "/%",
                "/..",
                "/?#",
                "/\u{7f}",
                "http://[::1]/",
                "hTTp://h/a",
            ];
            draft.target = pick(rng, &targets);
        }
        4 => draft.before_version = pick(rng, &["  ", "\t", "", "\r\n", " \t"]),
        5 => {
            let versions = [
                "HTTP/1.0",
                "HTTP/1.2",
                "HTTP/2.0",
                "HTTP/0.9",
                "http/1.1",
                "HTTP/1.1 ",
                "HTTP/11",
                "HTTP/1.10",
                "HTTP/1",
                "",
                "HTTQ/1.1",
                "HTTP /1.1",
                "HTTP/1.1\t",
                "HTTP/+1.1",
                "ICE/1.0",
                "RTSP/1.0",
            ];
            draft.version = pick(rng, &versions);
        }
        6 => draft.line_end = pick(rng, &["\n", "\r", "\r\r\n", " \r\n", "\n\r", "\r\n ", "\0\r\n"]),
        7 => {
            draft.field(rng).end =
                pick(rng, &["\n", "\r", "\r\r\n", "\r\n ", "\r\n\t", "\r\n x\r\n", "\n\r", ""])
        }
        8 => {
            draft.field(rng).colon =
                pick(rng, &[" : ", "\t:", "", " ", "::", ":", ":\t", ": \0", ":\r\n ", " \r\n :"])
        }
        9 => {
            let name = &mut draft.field(rng).name;
            let byte = *rng.choice(b" \t\0\x7f\x80()@,;\\\"/[]?={}\r\n\x0b").unwrap_or(&0);
            name.insert(rng.usize(..=name.len()), byte);
        }
        10 => {
            let value = &mut draft.field(rng).value;
            let byte = *rng.choice(b"\0\r\n\x01\x08\x0b\x0c\x1f\x7f\x85\xff").unwrap_or(&0);
            value.insert(rng.usize(..=value.len()), byte);
        }
        11..=13 => {
            let lengths = [
                "0",
                "3",
                "5",
                "+3",
                "-3",
                "3,3",
                "3, 3",
                "3 3",
                " 3",
                "3 ",
                "0x3",
                "3.0",
                "",
                "\t3\t",
                "03",
                "000000000000000000003",
                "18446744073709551615",
                "18446744073709551616",
                "99999999999999999999999",
                "3;",
                "\u{b2}",
                "3\r\n 4",
                "1e1",
            ];
            let field = Field::new(
                pick(rng, &["Content-Length", "content-length", "CONTENT-LENGTH"]),
                pick(rng, &lengths),
            );
            replace_or_add(rng, draft, field);
        }
        14..=16 => {
            let codings = [
                "chunked",
                "Chunked",
                "CHUNKED",
                "chunked, chunked",
                "gzip, chunked",
                "chunked, gzip",
                "gzip",
                "identity",
                "",
                "chunked,",
                ",chunked",
                " chunked ",
                "\tchunked\t",
                "xchunked",
                "chunkedx",
                "chunked;q=1",
                "\"chunked\"",
                "chunked\u{b}",
                "chun ked",
                "identity, chunked",
                "chunked\r\n x",
                "deflate, chunked",
                "chunked, ",
            ];
            let names = ["Transfer-Encoding", "transfer-encoding", "Transfer_Encoding", "TRANSFER-ENCODING"];
            let field = Field::new(pick(rng, &names), pick(rng, &codings));
            replace_or_add(rng, draft, field);
        }
        17 => {
            // Host: none, two, or a strange one.
            match rng.u8(..3) {
                0 => draft.fields.retain(|field| !field.name.eq_ignore_ascii_case(b"host")),
                1 => {
                    let host = pick(rng, &["a.example:3000", "b", ""]);
                    draft.insert(rng, Field::new("Host", host));
                }
                _ => {
                    let host = pick(rng, &["", "a b", "a@b", "a/b", "a,b", "[::1", "a:b:c", "\u{e9}"]);
                    draft.fields.retain(|field| !field.name.eq_ignore_ascii_case(b"host"));
                    draft.insert(rng, Field::new("Host", host));
                }
            }
        }
        18 => {
            let values = [
                "close",
                "keep-alive",
                "upgrade",
                "close, x-a",
                "Close",
                "x-a, content-length",
                "keep-alive, close",
                "transfer-encoding",
                "",
            ];
            let value = pick(rng, &values);
            draft.insert(rng, Field::new("Connection", value));
        }
        19 => {
            let protocol = pick(rng, &["websocket", "h2c", "TLS/1.0", "HTTP/2.0"]);
            draft.insert(rng, Field::new("Upgrade", protocol));
            draft.insert(rng, Field::new("Connection", "Upgrade"));
        }
        20 => {
            let expectation = pick(rng, &["100-continue", "100-Continue", "200-ok", ""]);
            draft.insert(rng, Field::new("Expect", expectation));
        }
        21 => spoil_chunks(rng, draft),
        22 => {
            draft.head_end = pick(rng, &["\n", "\r", "\r\r\n", "\n\r\n", " \r\n", "\r\n\r\n", "\0\r\n", ""])
        }
        _ => {
            // A field of the message becomes a twin of another.
            let twin = draft.field(rng).clone();
            draft.insert(rng, twin);
        }
    }
}

fn replace_or_add(rng: &mut Rng, draft: &mut Draft, field: Field) {
    let known = draft.fields.iter().position(|other| other.name.eq_ignore_ascii_case(&field.name));
    match known {
        Some(place) if rng.bool() => draft.fields[place] = field,
        _ => draft.insert(rng, field),
    }
}

/// Replaces or inserts something near a line's end in a chunked body, where sizes, extensions and trailers are.
fn spoil_chunks(rng: &mut Rng, draft: &mut Draft) {
    let pieces = [
        "\n",
        "\r",
        "\r\r\n",
        " \r\n",
        "\t\r\n",
        ";\r\n",
        ";a=\r\n",
        "; a=b\r\n",
        ";a =b\r\n",
        ";a=\"\r\n",
        "0\r\n\r\n",
        "-1\r\n",
        "0x1\r\n",
        "+1\r\n",
        "1 \r\n",
        " 1\r\n",
        "g\r\n",
        "_1\r\n",
        "00000000000000000000001\r\n",
        "ffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "\0",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "X\r\n",
        "X : 1\r\n",
        " X: 1\r\n",
        ": 1\r\n",
        "X: 1\n",
        ";\u{e9}\r\n",
        "\r\n",
    ];
    let piece = pick(rng, &pieces);
    let ends: Vec<usize> = carriage_returns(&draft.body);
    let place = if ends.is_empty() { 0 } else { ends[rng.usize(..ends.len())] };
    let removed = rng.usize(..3).min(draft.body.len() - place);
    draft.body.splice(place..place + removed, piece);
}

fn carriage_returns(bytes: &[u8]) -> Vec<usize> {
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\r').map(|(place, _)| place).collect()
}

/// Damages any bytes.
fn garble(rng: &mut Rng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let place = rng.usize(..bytes.len());
    let length = rng.usize(..8).min(bytes.len() - place);
    match rng.u8(..6) {
        0 => bytes[place] = rng.u8(..),
        1 => bytes.insert(place, *rng.choice(b"\r\n\t \0:;,\"0\x7f\xff").unwrap_or(&0)),
        2 => drop(bytes.drain(place..place + length)),
        3 => {
            let copy = bytes[place..place + length].to_vec();
            let to = rng.usize(..bytes.len());
            drop(bytes.splice(to..to, copy));
        }
        4 => bytes[place] ^= 1 << rng.u8(..8),
        _ => bytes.truncate(place),
    }
}

/// One of these texts, each character a byte.
fn pick(rng: &mut Rng, from: &[&str]) -> Vec<u8> {
    let text = from[rng.usize(..from.len())];
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
}
