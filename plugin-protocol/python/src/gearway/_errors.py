from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class ErrorCode(IntEnum):
    """Skygear's error codes. A worker's own start at 10000. Contract section 9."""

    NOT_AUTHENTICATED = 101
    PERMISSION_DENIED = 102
    ACCESS_KEY_NOT_ACCEPTED = 103
    ACCESS_TOKEN_NOT_ACCEPTED = 104
    INVALID_CREDENTIALS = 105
    INVALID_SIGNATURE = 106
    BAD_REQUEST = 107
    INVALID_ARGUMENT = 108
    DUPLICATED = 109
    RESOURCE_NOT_FOUND = 110
    NOT_SUPPORTED = 111
    NOT_IMPLEMENTED = 112
    CONSTRAINT_VIOLATED = 113
    INCOMPATIBLE_SCHEMA = 114
    ATOMIC_OPERATION_FAILURE = 115
    PARTIAL_OPERATION_FAILURE = 116
    UNDEFINED_OPERATION = 117
    PLUGIN_UNAVAILABLE = 118
    PLUGIN_TIMEOUT = 119
    RECORD_QUERY_INVALID = 120
    RESPONSE_TIMEOUT = 122
    DENIED_ARGUMENT = 123
    NOT_CONFIGURED = 125
    USER_DISABLED = 127
    VERIFICATION_REQUIRED = 128
    UNEXPECTED_ERROR = 130

    @property
    def wire_name(self) -> str:
        """The name that clients see, such as ``ResourceNotFound``."""
        return self.name.title().replace("_", "")

    @property
    def status(self) -> int:
        """The HTTP status of a response that carries this code."""
        return _STATUS[self]


_STATUS = {
    ErrorCode.NOT_AUTHENTICATED: 401,
    ErrorCode.PERMISSION_DENIED: 403,
    ErrorCode.ACCESS_KEY_NOT_ACCEPTED: 401,
    ErrorCode.ACCESS_TOKEN_NOT_ACCEPTED: 401,
    ErrorCode.INVALID_CREDENTIALS: 401,
    ErrorCode.INVALID_SIGNATURE: 401,
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.INVALID_ARGUMENT: 400,
    ErrorCode.DUPLICATED: 409,
    ErrorCode.RESOURCE_NOT_FOUND: 404,
    ErrorCode.NOT_SUPPORTED: 501,
    ErrorCode.NOT_IMPLEMENTED: 501,
    ErrorCode.CONSTRAINT_VIOLATED: 409,
    ErrorCode.INCOMPATIBLE_SCHEMA: 409,
    ErrorCode.ATOMIC_OPERATION_FAILURE: 409,
    ErrorCode.PARTIAL_OPERATION_FAILURE: 200,
    ErrorCode.UNDEFINED_OPERATION: 404,
    ErrorCode.PLUGIN_UNAVAILABLE: 503,
    ErrorCode.PLUGIN_TIMEOUT: 504,
    ErrorCode.RECORD_QUERY_INVALID: 400,
    ErrorCode.RESPONSE_TIMEOUT: 503,
    ErrorCode.DENIED_ARGUMENT: 403,
    ErrorCode.NOT_CONFIGURED: 503,
    ErrorCode.USER_DISABLED: 403,
    ErrorCode.VERIFICATION_REQUIRED: 403,
    ErrorCode.UNEXPECTED_ERROR: 500,
}

FIRST_OWN_CODE = 10000
LARGEST_CODE = 2**32 - 1


class Error(Exception):
    """Raised by a handler, it is what the client gets: ``raise gearway.Error(ErrorCode.DUPLICATED, "taken")``.

    ``code`` decides the HTTP status; a worker's own codes start at 10000 and have status 500. ``message`` is for people
    and ``info``, an object that JSON can carry, for programs. All of it reaches the client: put no secrets into it.
    """

    def __init__(
        self,
        code: int,
        message: str = "",
        *,
        name: str | None = None,
        info: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(code, message)
        # A reply with anything else is one that the gateway cannot read, and the client would get 502.
        if not isinstance(code, int):
            raise TypeError(f"code must be an int, not {code!r}")
        if message is not None and not isinstance(message, str):
            raise TypeError(f"message must be a str, not {message!r}")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str, not {name!r}")
        if info is not None and not isinstance(info, Mapping):
            raise TypeError(f"info must be a dict, not {info!r}")
        if not FIRST_OWN_CODE <= code <= LARGEST_CODE:
            try:
                code = ErrorCode(code)
            except ValueError:
                raise ValueError(
                    f"{code} is no code of Skygear's (see gearway.ErrorCode); your own start at {FIRST_OWN_CODE}"
                ) from None
            name = name or code.wire_name
        self.code = code
        self.message = message
        self.name = name
        self.info = None if info is None else dict(info)

    def __str__(self) -> str:
        return f"{self.name or self.code}: {self.message}"
