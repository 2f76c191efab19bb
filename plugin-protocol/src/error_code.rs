use serde::{Deserialize, Serialize};

/// A number that tells a program what went wrong. Those below 10000 are Skygear's and have a name and an HTTP
/// status; a worker's own start at 10000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(pub u32);

macro_rules! codes {
    ($($number:literal $constant:ident $name:literal $status:literal)*) => {
        impl ErrorCode {
            $(#[doc = concat!("`", $name, "`: HTTP ", stringify!($status), ".")]
            pub const $constant: Self = Self($number);)*

            /// Every code that has a name.
            pub const NAMED: &[Self] = &[$(Self::$constant),*];

            /// The code's name; [`None`] for a worker's own.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($name),)*
                    _ => None,
                }
            }

            /// The HTTP status of a response that carries this code; 500 for codes without a name.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self.0 {
                    $($number => $status,)*
                    _ => 500,
                }
            }
        }
    };
}

codes! {
    101 NOT_AUTHENTICATED "NotAuthenticated" 401
    102 PERMISSION_DENIED "PermissionDenied" 403
    103 ACCESS_KEY_NOT_ACCEPTED "AccessKeyNotAccepted" 401
    104 ACCESS_TOKEN_NOT_ACCEPTED "AccessTokenNotAccepted" 401
    105 INVALID_CREDENTIALS "InvalidCredentials" 401
    106 INVALID_SIGNATURE "InvalidSignature" 401
    107 BAD_REQUEST "BadRequest" 400
    108 INVALID_ARGUMENT "InvalidArgument" 400
    109 DUPLICATED "Duplicated" 409
    110 RESOURCE_NOT_FOUND "ResourceNotFound" 404
    111 NOT_SUPPORTED "NotSupported" 501
    112 NOT_IMPLEMENTED "NotImplemented" 501
    113 CONSTRAINT_VIOLATED "ConstraintViolated" 409
    114 INCOMPATIBLE_SCHEMA "IncompatibleSchema" 409
    115 ATOMIC_OPERATION_FAILURE "AtomicOperationFailure" 409
    116 PARTIAL_OPERATION_FAILURE "PartialOperationFailure" 200
    117 UNDEFINED_OPERATION "UndefinedOperation" 404
    118 PLUGIN_UNAVAILABLE "PluginUnavailable" 503
    119 PLUGIN_TIMEOUT "PluginTimeout" 504
    120 RECORD_QUERY_INVALID "RecordQueryInvalid" 400
    122 RESPONSE_TIMEOUT "ResponseTimeout" 503
    123 DENIED_ARGUMENT "DeniedArgument" 403
    125 NOT_CONFIGURED "NotConfigured" 503
    127 USER_DISABLED "UserDisabled" 403
    128 VERIFICATION_REQUIRED "VerificationRequired" 403
    130 UNEXPECTED_ERROR "UnexpectedError" 500
}
