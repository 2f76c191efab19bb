//! `webhooks.public_url`.

use std::fmt;

use super::given::quote;
use super::value;

/// Where the outside reaches the public listener. Kept as it was written, since it is part of what providers sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    scheme: String,
    /// In brackets if it is an IPv6 address.
    host: String,
    port: Option<u16>,
    /// What stands before every path, without a slash at its end.
    prefix: String,
}

impl PublicUrl {
    /// # Errors
    /// A sentence for people when it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        // The URL parser passes over what a signature would not.
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
            return Err(format!("{} has white space or a backslash in it", quote(text)));
        }
        let url = value::http_url(text, &["https", "http"])?;
        if url.query().is_some() {
            return Err("must not carry a query (?…)".to_owned());
        }
        let wrong = || format!("{} is not a URL like \"https://hooks.example.com\"", quote(text));
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().map_err(|_| wrong())?)),
            Some(_) | None => (authority, None),
        };
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_owned(),
            port,
            prefix: path.trim_end_matches('/').to_owned(),
        })
    }

    /// The URL of what lies below, without a port and with one: providers sign either. The default port stands for one that
    /// was not given.
    #[must_use]
    pub fn spellings(&self, path_and_query: &str) -> [String; 2] {
        let Self { scheme, host, prefix, .. } = self;
        let port = self.port.unwrap_or(if scheme == "https" { 443 } else { 80 });
        [
            format!("{scheme}://{host}{prefix}{path_and_query}"),
            format!("{scheme}://{host}:{port}{prefix}{path_and_query}"),
        ]
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_keep_what_was_written() {
        for (text, without, with) in [
            (
                "https://Hooks.example.com",
                "https://Hooks.example.com/a?b",
                "https://Hooks.example.com:443/a?b",
            ),
            ("http://h/", "http://h/a?b", "http://h:80/a?b"),
            ("HTTPS://h:8443/in/", "https://h/in/a?b", "https://h:8443/in/a?b"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]/a?b", "https://[2001:db8::1]:443/a?b"),
            ("https://[2001:db8::1]:1", "https://[2001:db8::1]/a?b", "https://[2001:db8::1]:1/a?b"),
        ] {
            assert_eq!(PublicUrl::parse(text).unwrap().spellings("/a?b"), [without, with], "{text}");
        }
        assert_eq!(PublicUrl::parse("HTTPS://h:8443/in/").unwrap().to_string(), "https://h:8443/in");
    }

    #[test]
    fn what_is_no_base_is_refused() {
        for text in [
            "",
            "h",
            "ftp://h",
            "https://",
            "https://u:p@h",
            "https://h?x",
            "https://h#x",
            "https://h:",
            "https://h:x",
            "https://h\t/",
            " https://h",
            "https:\\\\h",
            "https:h",
        ] {
            assert!(PublicUrl::parse(text).is_err(), "{text}");
        }
    }
}
