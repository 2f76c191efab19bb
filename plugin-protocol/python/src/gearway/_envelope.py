"""The envelope that the gateway sends, read. Contract section 5."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import _base64
from ._context import Context


@dataclass(frozen=True)
class Call:
    """One request of a client's, for one handler."""

    name: str
    context: Context
    method: str
    path: str
    raw_path: str
    query_string: str
    params: Mapping[str, str]
    header: Mapping[str, list[str]]
    """Names in canonical case; values are Latin-1, one character a byte."""
    body: bytes
    remote_addr: str


class NotAnEnvelope(ValueError):
    """The bytes are no envelope; says why."""


# Below this, looking for the body in the raw bytes costs more than it saves.
_CUT_FROM = 4096
_BODY_KEY = b'"body":"'
# What an envelope has in place of a body that was cut out of it; no base64.
_CUT = "*cut*"


def decode(raw: bytes, traceparent: str | None = None) -> Call:
    """Raises NotAnEnvelope."""
    body, rest = _cut_body(raw)
    if body is not None:
        call = _read(rest, traceparent, body)
        if call is not None:
            return call
    call = _read(raw, traceparent, None)
    assert call is not None
    return call


def _read(raw: bytes, traceparent: str | None, cut: bytes | None) -> Call | None:
    """``cut`` is what ``_CUT`` stands for, if ``raw`` has it; None when something else than the body was cut out."""
    try:
        envelope = json.loads(raw)
    except ValueError as error:
        if cut is not None:
            return None
        raise NotAnEnvelope(f"not JSON: {error}") from None
    if not isinstance(envelope, dict):
        raise NotAnEnvelope("not an object")
    if envelope.get("kind") != "handler":
        raise NotAnEnvelope("kind is not 'handler'")
    context = _field(envelope, "context", dict)
    param = _field(envelope, "param", dict)
    body = cut
    if body is None:
        body = _base64.decode(_field(param, "body", str, ""))
        if body is None:
            raise NotAnEnvelope("param.body is not standard base64 with padding")
    elif param.get("body") != _CUT:
        return None
    header = _field(param, "header", dict, {})
    if not all(isinstance(values, list) and all(isinstance(v, str) for v in values) for values in header.values()):
        raise NotAnEnvelope("param.header is not lists of strings by name")
    path = _field(param, "path", str)
    return Call(
        name=_field(envelope, "name", str),
        context=Context(
            request_id=_field(context, "request_id", str),
            user_id=_optional(context, "user_id", str),
            access_key_type=_optional(context, "access_key_type", str),
            timeout_ms=_optional(context, "timeout_ms", int),
            traceparent=traceparent,
            tracestate=_tracestate(header, traceparent),
            delivery=_optional(context, "delivery", dict),
        ),
        method=_field(param, "method", str),
        path=path,
        raw_path=_field(param, "raw_path", str, path),
        query_string=_field(param, "query_string", str, ""),
        params=_field(param, "params", dict, {}),
        header=header,
        body=body,
        remote_addr=_field(param, "remote_addr", str, ""),
    )


def _tracestate(header: dict[str, list[str]], traceparent: str | None) -> str | None:
    """The client's, unless the gateway began another trace than the client's."""
    state, sent = header.get("Tracestate"), header.get("Traceparent")
    if not state or not sent or traceparent is None:
        return None
    # Digits of the trace, between the version and the span.
    return ",".join(state) if len(traceparent) >= 35 and sent[0][3:35] == traceparent[3:35] else None


def _cut_body(raw: bytes) -> tuple[bytes | None, bytes]:
    """A long body is decoded where it lies, and only the rest goes through the JSON parser.

    Within a JSON string every quote is escaped, so a `"body":"` that follows a brace, comma or white space is a key.
    Whether it is the body's shows when the rest has been read: ``_CUT`` stands in the body's place then.
    """
    if len(raw) < _CUT_FROM:
        return None, raw
    key = raw.find(_BODY_KEY)
    if key < 1 or raw[key - 1] not in b"{, \t\r\n":
        return None, raw
    start = key + len(_BODY_KEY)
    end = raw.find(b'"', start)
    if end < 0:
        return None, raw
    body = _base64.decode(memoryview(raw)[start:end])
    if body is None:
        return None, raw
    return body, b"%b%b%b" % (raw[:start], _CUT.encode(), raw[end:])


_REQUIRED: Any = object()


def _field(of: dict[str, Any], name: str, kind: type, default: Any = _REQUIRED) -> Any:
    value = of.get(name, default)
    if value is _REQUIRED:
        raise NotAnEnvelope(f"{name} is missing")
    if not isinstance(value, kind):
        raise NotAnEnvelope(f"{name} is not a {kind.__name__}")
    return value


def _optional(of: dict[str, Any], name: str, kind: type) -> Any:
    return None if of.get(name) is None else _field(of, name, kind)
