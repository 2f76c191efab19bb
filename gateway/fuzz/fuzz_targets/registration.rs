//! Bodies of `POST /v1/workers`: whatever is accepted is complete, and reads back as it was.
#![no_main]

use gearway::path::{Target, canonicalise};
use gearway::registry::Claim;
use gearway::route::{Braces, Pattern};
use gearway_protocol::{GEARWAY_V1, Registration};
use libfuzzer_sys::fuzz_target;

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];

fuzz_target!(|data: &[u8]| {
    let Ok(registration) = serde_json::from_slice::<Registration>(data) else { return };
    let text = serde_json::to_string(&registration).expect("a registration is JSON");
    assert_eq!(serde_json::from_str::<Registration>(&text).ok().as_ref(), Some(&registration));
    let claim = match Claim::check(registration) {
        Ok(claim) => claim,
        Err(error) => {
            // The first word names the field, for people.
            assert!(error.to_string().contains(": "), "{error}");
            return;
        }
    };
    let registration = &claim.registration;
    assert!(!registration.name.is_empty() && !registration.name.chars().any(char::is_control));
    assert!(!claim.url.host_header().is_empty() && claim.url.target().path().starts_with('/'));
    let braces = if registration.protocol == GEARWAY_V1 { Braces::Param } else { Braces::Literal };
    assert_eq!(claim.paths().count(), registration.handlers.len());
    for (number, pattern) in claim.paths() {
        let handler = &registration.handlers[number];
        assert!(handler.methods.iter().all(|method| METHODS.contains(&method.as_str())));
        assert_eq!(Pattern::parse(&handler.name, braces).as_ref(), Ok(pattern));
        // A request for the very path, as text, has only this reading.
        let encoded: String =
            percent_encoding::utf8_percent_encode(pattern.path(), percent_encoding::NON_ALPHANUMERIC)
                .to_string()
                .replace("%2F", "/");
        let Ok(Target::Path(path)) = canonicalise(&encoded) else { panic!("{encoded} cannot be requested") };
        assert_eq!(path.as_str(), pattern.path());
    }
});
