use http::HeaderValue;

use super::WorkerUrl;

/// What stands before the length in the head of each call.
const LENGTH: &[u8] = b"\r\nContent-Length: ";
const TRACEPARENT: &[u8] = b"\r\ntraceparent: ";
const END: &[u8] = b"\r\n\r\n";
/// `u64::MAX` has so many digits.
const MAX_DIGITS: usize = 20;

/// The head of the calls to one replica, as far as it is the same for all of them. It holds the worker's secret.
#[derive(Clone)]
pub struct CallHead(Box<[u8]>);

impl CallHead {
    #[must_use]
    pub fn new(url: &WorkerUrl, authorization: Option<&HeaderValue>) -> Self {
        let mut head = format!("POST {} HTTP/1.1\r\nHost: ", url.target()).into_bytes();
        head.extend_from_slice(url.host_header().as_bytes());
        head.extend_from_slice(b"\r\nContent-Type: application/json");
        if let Some(authorization) = authorization {
            head.extend_from_slice(b"\r\nAuthorization: ");
            head.extend_from_slice(authorization.as_bytes());
        }
        Self(head.into())
    }

    /// The most that the whole head takes.
    #[must_use]
    pub fn room(&self, traceparent: Option<&HeaderValue>) -> usize {
        let traceparent = traceparent.map_or(0, |value| TRACEPARENT.len() + value.len());
        self.0.len() + traceparent + LENGTH.len() + MAX_DIGITS + END.len()
    }

    /// Writes the whole head at the end of `room`, right before its body: how long that is shows only after it was written.
    /// Returns where the head begins.
    pub fn write(&self, traceparent: Option<&HeaderValue>, content_length: u64, room: &mut [u8]) -> usize {
        let mut digits = [0; MAX_DIGITS];
        let mut first = MAX_DIGITS;
        let mut rest = content_length;
        loop {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let mut start = room.len();
        let (name, value) = traceparent.map_or((&[][..], &[][..]), |value| (TRACEPARENT, value.as_bytes()));
        for part in [END, &digits[first..], LENGTH, value, name, &self.0] {
            room[start - part.len()..start].copy_from_slice(part);
            start -= part.len();
        }
        start
    }
}

impl std::fmt::Debug for CallHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CallHead(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_ends_where_the_body_begins() {
        let url = WorkerUrl::parse("http://127.0.0.1:9000/calls?key=1").unwrap();
        let traceparent = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        for (authorization, line) in
            [(Some(HeaderValue::from_static("Bearer s")), "Authorization: Bearer s\r\n"), (None, "")]
        {
            let head = CallHead::new(&url, authorization.as_ref());
            for length in [0, 7, 10, 1 << 20, u64::MAX] {
                let mut room = vec![0; head.room(Some(&traceparent))];
                let start = head.write(Some(&traceparent), length, &mut room);
                assert_eq!(
                    std::str::from_utf8(&room[start..]).unwrap(),
                    format!(
                        "POST /calls?key=1 HTTP/1.1\r\nHost: 127.0.0.1:9000\r\nContent-Type: application/json\r\n{line}traceparent: {}\r\nContent-Length: {length}\r\n\r\n",
                        traceparent.to_str().unwrap()
                    )
                );
            }
        }
    }
}
