//! The protocols that workers speak. Contract section 5.

use gearway_protocol::{GEARWAY_V1, SKYGEAR_V1};

/// How a worker speaks. It belongs to the worker and is never guessed from a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    GearwayV1,
    SkygearV1,
}

impl Dialect {
    #[must_use]
    pub fn from_protocol(name: &str) -> Option<Self> {
        match name {
            GEARWAY_V1 => Some(Self::GearwayV1),
            SKYGEAR_V1 => Some(Self::SkygearV1),
            _ => None,
        }
    }

    #[must_use]
    pub fn protocol(self) -> &'static str {
        match self {
            Self::GearwayV1 => GEARWAY_V1,
            Self::SkygearV1 => SKYGEAR_V1,
        }
    }
}
