//! The conformance handlers, as `PROTOCOL.md` describes them.

use std::collections::BTreeSet;

use gearway_protocol::{HandlerSpec, Registration, default_methods};

use super::checks;
use super::report::Report;

/// Which handlers there are, and whether they are registered as the page says.
pub(super) fn judge(registration: &Registration, report: &mut Report) {
    let mut wrong = Vec::new();
    let mut served = 0;
    for expected in expected() {
        let of_that_name: Vec<_> =
            registration.handlers.iter().filter(|handler| handler.name == expected.name).collect();
        let first = expected.methods.first();
        let declared = of_that_name.iter().find(|h| first.is_some_and(|method| h.methods.contains(method)));
        match (declared, of_that_name.as_slice()) {
            (Some(handler), _) => {
                served += 1;
                wrong.extend(differences(&expected, handler));
            }
            (None, [_, ..]) => {
                wrong.push(format!("{}: no handler for {:?}", expected.name, expected.methods))
            }
            (None, []) => {}
        }
    }
    if served == 0 && wrong.is_empty() {
        report.skip(&checks::REGISTRATION_HANDLERS, "the worker serves no conformance handlers");
    } else {
        let verdict = if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) };
        report.record(&checks::REGISTRATION_HANDLERS, verdict);
    }
}

/// How they have to be registered.
fn expected() -> Vec<HandlerSpec> {
    let handler = |name: &str, methods: &[&str]| HandlerSpec {
        name: name.to_owned(),
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        key_required: false,
        user_required: false,
        timeout_ms: None,
        idempotent: false,
        verify: None,
        delivery: None,
    };
    vec![
        handler("conform/echo", &["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]),
        HandlerSpec { methods: default_methods(), ..handler("conform/text", &[]) },
        handler("conform/json", &["POST"]),
        handler("conform/body", &["POST"]),
        handler("conform/response", &["POST"]),
        handler("conform/error", &["POST"]),
        handler("conform/fail", &["POST"]),
        handler("conform/methods", &["GET"]),
        handler("conform/methods", &["POST", "PATCH"]),
        handler("conform/params/{first}/{second}", &["GET"]),
        HandlerSpec { key_required: true, user_required: true, ..handler("conform/user", &["GET"]) },
        HandlerSpec { timeout_ms: Some(30_000), idempotent: true, ..handler("conform/slow", &["POST"]) },
    ]
}

/// What a worker registered otherwise.
fn differences(expected: &HandlerSpec, registered: &HandlerSpec) -> Vec<String> {
    let methods = |handler: &HandlerSpec| handler.methods.iter().cloned().collect::<BTreeSet<_>>();
    let mut differences = Vec::new();
    let mut differs = |field: &str, expected: String, registered: String| {
        if expected != registered {
            differences.push(format!("{field} is {registered}, not {expected}"));
        }
    };
    differs("methods", format!("{:?}", methods(expected)), format!("{:?}", methods(registered)));
    differs("key_required", expected.key_required.to_string(), registered.key_required.to_string());
    differs("user_required", expected.user_required.to_string(), registered.user_required.to_string());
    differs("idempotent", expected.idempotent.to_string(), registered.idempotent.to_string());
    differs("timeout_ms", format!("{:?}", expected.timeout_ms), format!("{:?}", registered.timeout_ms));
    differences.into_iter().map(|difference| format!("{}: {difference}", expected.name)).collect()
}
