//! The texts that values are written in: sizes, durations, addresses. Each parser's error is a sentence for people.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use super::Rate;
use super::given::quote;
use crate::upstream::{AddressError, WorkerUrl};

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
];

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Bytes, as `10MiB`, `10MB` or plain digits. What does not fit is the largest number, for bounds to refuse.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{} is not a size; write for example \"10MiB\"", quote(text));
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    if unit.is_empty() {
        return Ok(number);
    }
    let (_, bytes) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    Ok(number.saturating_mul(bytes))
}

/// A span of time, as `500ms`, `30s`, `2m`, `1h` or `7d`. What does not fit is the longest, for bounds to refuse.
///
/// # Errors
/// A sentence for people when it is none of these.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{} is not a duration; write for example \"30s\"", quote(text));
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    if unit.is_empty() {
        return Err(no_unit(&quote(text)));
    }
    let (_, milliseconds) = DURATION_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    Ok(Duration::from_millis(number.saturating_mul(milliseconds)))
}

/// The message for a duration that is only a number.
pub(super) fn no_unit(shown: &str) -> String {
    format!("{shown} has no unit; write for example \"30s\"")
}

/// The shortest way to write a size that [`size`] reads back.
pub(super) fn show_size(bytes: u64) -> String {
    match SIZE_UNITS.into_iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("\"{}{name}\"", bytes / unit),
        None => bytes.to_string(),
    }
}

/// The shortest way to write a duration of whole milliseconds that [`duration`] reads back.
pub(super) fn show_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let whole = |(_, unit): &(&str, u64)| milliseconds.is_multiple_of(u128::from(*unit));
    match DURATION_UNITS.into_iter().rev().find(whole) {
        Some((name, unit)) if milliseconds > 0 => format!("\"{}{name}\"", milliseconds / u128::from(unit)),
        Some(_) | None => "\"0s\"".to_owned(),
    }
}

/// An address to listen on. `localhost` is 127.0.0.1 whatever the resolver says, so that it never becomes public.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Some(port) = text.strip_prefix("localhost:")
        && let Ok(port) = port.parse::<u16>()
    {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    Err(format!("{} is not an address and port; write for example \"127.0.0.1:3000\"", quote(text)))
}

/// A number of requests and the time in which they may be made, as `100/s`, `600/m` or `5000/h`.
pub(super) fn rate(text: &str) -> Result<Rate, String> {
    let wrong =
        || format!("{} is not a rate; write for example \"100/s\", \"600/m\" or \"5000/h\"", quote(text));
    let (requests, unit) = text.split_once('/').ok_or_else(wrong)?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let requests = requests.trim().parse().map_err(|_| wrong())?;
    Ok(Rate { requests, period: Duration::from_secs(seconds) })
}

/// A CIDR or a single address. Bits below the prefix are cleared: `10.1.2.3/8` is `10.0.0.0/8`.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .map(|network| network.trunc())
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{} is not a network; write for example \"10.0.0.0/8\" or \"::1\"", quote(text)))
}

/// What stands before the path of a worker's socket.
pub(super) const SOCKETS: &str = "unix:";

/// A folder of workers' sockets.
pub(super) fn socket_folder(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix(SOCKETS).unwrap_or_default();
    let segments = path.trim_end_matches('/').split('/').skip(1);
    let plain = |segment: &str| !matches!(segment, "" | "." | "..");
    if !path.starts_with('/') || !{ segments }.all(plain) {
        return Err(format!(
            "{} is not an absolute folder; write for example \"unix:/run/workers/\"",
            quote(text)
        ));
    }
    Ok(path.into())
}

/// The URL of a worker that cannot register itself. The message leaves the URL out, which may carry a password.
pub(super) fn worker_url(text: &str) -> Result<String, String> {
    match WorkerUrl::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error @ (AddressError::Extras | AddressError::SocketPath)) => Err(error.to_string()),
        Err(_) => http_url(text, &["http", "https"]).map(String::from),
    }
}

/// A URL of one of `schemes` with a host. The message leaves the URL out, which may carry a password.
pub(super) fn http_url(text: &str, schemes: &[&str]) -> Result<Url, String> {
    let wanted = schemes.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(" or ");
    let url = Url::parse(text).map_err(|error| format!("is not a URL that starts with {wanted}: {error}"))?;
    if !schemes.contains(&url.scheme()) || !url.has_host() {
        return Err(format!("is not a URL that starts with {wanted}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not carry a user name or password".to_owned());
    }
    if url.fragment().is_some() {
        return Err("must not carry a fragment (#…)".to_owned());
    }
    Ok(url)
}

/// `*`, or an origin as browsers send it: a scheme and a host, and a port that is not the scheme's own. That of a file or
/// a sandbox is `null`, and so is that of every other page that wants to be.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let wrong = || format!("{} is not an origin; write for example \"https://app.example.com\"", quote(text));
    if text == "*" {
        return Ok(text.to_owned());
    }
    let url = Url::parse(text).map_err(|_| wrong())?;
    let as_browsers_send_it = match url.origin() {
        url::Origin::Tuple(..) => url.origin().ascii_serialization(),
        // A scheme of an app's own, as capacitor://localhost.
        url::Origin::Opaque(_) => format!("{}://{}", url.scheme(), url.host_str().ok_or_else(wrong)?),
    };
    if text == as_browsers_send_it {
        Ok(as_browsers_send_it)
    } else {
        Err(format!("{}: browsers send it as \"{as_browsers_send_it}\"", quote(text)))
    }
}

/// A path that a registration token covers: a canonical path, or with a trailing `/` everything below it.
pub(super) fn covered_path(text: &str) -> Result<String, String> {
    let wrong = |why: &str| Err(format!("{} {why}", quote(text)));
    let Some(below_root) = text.strip_prefix('/') else {
        return wrong("does not start with \"/\"");
    };
    if text.chars().any(|c| c.is_control() || c == '\\') {
        return wrong("contains a control character or a backslash");
    }
    let segments = below_root.strip_suffix('/').unwrap_or(below_root);
    if below_root.is_empty() {
        return Ok(text.to_owned());
    }
    for segment in segments.split('/') {
        match segment {
            "" => return wrong("contains an empty segment (\"//\")"),
            "." | ".." => return wrong("contains a dot segment"),
            _ => {}
        }
    }
    Ok(text.to_owned())
}

/// Splits `10MiB` into 10 and `MiB`. `None` without leading digits.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    // Digits alone can only fail to parse by being too large.
    (!digits.is_empty()).then(|| (digits.parse().unwrap_or(u64::MAX), unit))
}
