//! JSON strings written and read by hand, where a body or every header of every request comes by.

/// Writes a JSON string.
pub(crate) fn write_str(out: &mut Vec<u8>, text: &str) {
    write_escaped(out, text.as_bytes());
}

/// Writes UTF-8 as a JSON string.
pub(crate) fn write_escaped(out: &mut Vec<u8>, mut bytes: &[u8]) {
    out.push(b'"');
    loop {
        let plain = plain_prefix(bytes);
        out.extend_from_slice(&bytes[..plain]);
        let Some(&byte) = bytes.get(plain) else { break };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let [high, low] = [byte >> 4, byte & 15].map(|digit| HEX[usize::from(digit)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
        bytes = &bytes[plain + 1..];
    }
    out.push(b'"');
}

/// How many bytes from the start on need no escape, found eight at a time: texts without any are the rule.
pub(crate) fn plain_prefix(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (place, word) in words.iter().enumerate() {
        let found = needing_escape(u64::from_le_bytes(*word));
        if found != 0 {
            return place * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    if rest.is_empty() {
        return bytes.len();
    }
    // The rest as a word too: along with what comes before it and is plain, or with spaces behind it.
    let (start, word) = match bytes.last_chunk::<8>() {
        Some(word) => (bytes.len() - 8, *word),
        None => {
            let mut word = [b' '; 8];
            rest.iter().zip(&mut word).for_each(|(byte, place)| *place = *byte);
            (0, word)
        }
    };
    match needing_escape(u64::from_le_bytes(word)) {
        0 => bytes.len(),
        found => start + found.trailing_zeros() as usize / 8,
    }
}

/// The highest bit of each byte that JSON wants escaped, as far as the lowest such byte: a borrow can mark bytes above it.
const fn needing_escape(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let control = word.wrapping_sub(ONES * b' ' as u64);
    (control | quote.wrapping_sub(ONES) | backslash.wrapping_sub(ONES)) & !word & HIGH
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strings_read_back_as_they_were(text in any::<String>()) {
            let mut out = Vec::new();
            write_str(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn every_byte_is_escaped_wherever_it_stands() {
        for byte in 0..128_u8 {
            for place in 0..20 {
                let mut text = ["é"; 10].concat().into_bytes();
                text.truncate(place * 2 % 20);
                text.push(byte);
                text.extend_from_slice(b"!~ \x7f plain after it");
                let text = String::from_utf8(text).unwrap();
                let mut out = Vec::new();
                write_str(&mut out, &text);
                assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            }
        }
    }
}
