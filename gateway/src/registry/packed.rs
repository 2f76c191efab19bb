use gearway_protocol::{HandlerSpec, Registration};
use serde::Serialize;

/// A registration as it was sent, with its handlers as the text of their JSON: as values they take several times as much, and
/// nobody looks at them but who registers, leaves or lists.
#[derive(Debug)]
pub struct PackedRegistration {
    /// Without handlers.
    rest: Registration,
    handlers: Box<[u8]>,
    /// Of all of it as JSON, in bytes.
    size: usize,
}

impl PackedRegistration {
    pub(super) fn new(registration: Registration) -> Self {
        let handlers: Box<[u8]> = serde_json::to_vec(&registration.handlers).unwrap_or_default().into();
        let rest = Registration { handlers: Vec::new(), ..registration };
        let size = handlers.len() + json_size(&rest);
        Self { rest, handlers, size }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    #[must_use]
    pub fn url(&self) -> &str {
        &self.rest.url
    }

    #[must_use]
    pub fn protocol(&self) -> &str {
        &self.rest.protocol
    }

    /// Of the worker's code.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.rest.version
    }

    #[must_use]
    pub fn max_concurrency(&self) -> Option<u32> {
        self.rest.max_concurrency
    }

    /// # Panics
    /// Never: it is the JSON that was made of them.
    #[must_use]
    pub fn handlers(&self) -> Vec<HandlerSpec> {
        serde_json::from_slice(&self.handlers).expect("what was written is read")
    }

    #[must_use]
    pub fn unpack(&self) -> Registration {
        Registration { handlers: self.handlers(), ..self.rest.clone() }
    }
}

/// How many bytes a value is as JSON.
pub(super) fn json_size(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(0, |json| json.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_registration_comes_out_as_it_went_in() {
        let registration: Registration = serde_json::from_value(json!({
            "name": "a", "url": "http://127.0.0.1:9/", "protocol": "gearway-v1", "version": "1",
            "max_concurrency": 3, "features": ["x"], "handlers": [
                {"name": "caffè"},
                {"name": "b/{id}", "methods": ["PUT"], "key_required": true, "user_required": true,
                 "timeout_ms": 5, "idempotent": true},
                {"name": "hook", "verify": {"scheme": "github", "secret": "s"},
                 "delivery": {"mode": "durable"}},
            ],
        }))
        .unwrap();
        assert_eq!(PackedRegistration::new(registration.clone()).unpack(), registration);
    }
}
