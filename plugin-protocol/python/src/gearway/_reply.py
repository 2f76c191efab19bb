"""What a handler returned, as the gateway reads it. Contract section 5."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import werkzeug
from werkzeug.datastructures import Headers
from werkzeug.exceptions import BadRequestKeyError, HTTPException

from . import _base64
from ._errors import Error, ErrorCode

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# NaN and infinities are no JSON: a ValueError.
_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
BINARY = "application/octet-stream"

_TEXT_HEAD, _JSON_HEAD, _TAIL = (
    b'{"result":{"type":"text","value":',
    b'{"result":{"type":"json","value":',
    b"}}",
)

# The gateway writes these itself; some servers' responses carry them.
_CONNECTION_HEADERS = frozenset(
    [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)


_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def encode(value: object, environ: WSGIEnvironment) -> bytes:
    """Raises TypeError for what no handler may return, ValueError for what JSON or HTTP cannot carry."""
    if isinstance(value, str):
        return _TEXT_HEAD + _dumps(value).encode() + _TAIL
    if _is_json(value):
        return _JSON_HEAD + _dumps(value).encode() + _TAIL
    if isinstance(value, werkzeug.Response):
        chunks, status, headers = value.get_wsgi_response(environ)
        try:
            body = b"".join(chunks)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        return response(int(status[:3]), headers, body)
    if isinstance(value, (bytes, bytearray)):
        return response(200, [("Content-Type", BINARY)], value)
    if isinstance(value, tuple) and 2 <= len(value) <= 3:
        return _tuple(value)
    raise TypeError(
        f"the handler returned a {type(value).__qualname__}; it may return a str, bytes, dict, list, int, float, bool, "
        "None, a gearway.Response, or a tuple of a value and a status, and perhaps headers"
    )


def response(status: int, headers: Iterable[tuple[str, str]], body: bytes | bytearray) -> bytes:
    """A whole response. Raises ValueError for a header that HTTP cannot carry."""
    if not 200 <= status <= 599:
        raise ValueError(f"a response cannot have status {status}")
    lists: dict[str, list[str]] = {}
    for name, value in headers:
        if name.lower() in _CONNECTION_HEADERS:
            continue
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no header's name")
        if _CONTROL.search(value):
            raise ValueError(f"header {name} has a control character: {value!r}")
        try:
            value.encode("latin-1")
        except UnicodeEncodeError:
            raise ValueError(f"header {name} has a character that is not Latin-1: {value!r}") from None
        lists.setdefault(name, []).append(value)
    return b'{"result":{"type":"response","status":%d,"header":%b,"body":"%b"}}' % (
        status,
        _dumps(lists).encode(),
        _base64.encode(body),
    )


def error(told: Error) -> bytes:
    """Raises TypeError or ValueError when ``info`` is not what JSON can carry."""
    fields: dict[str, Any] = {"code": int(told.code), "message": told.message}
    if told.name:
        fields["name"] = told.name
    if told.info is not None:
        fields["info"] = told.info
    return _dumps({"error": fields}).encode()


UNEXPECTED = error(Error(ErrorCode.UNEXPECTED_ERROR, "the handler failed"))

_CODE_OF_STATUS = {
    400: ErrorCode.BAD_REQUEST,
    401: ErrorCode.NOT_AUTHENTICATED,
    403: ErrorCode.PERMISSION_DENIED,
    404: ErrorCode.RESOURCE_NOT_FOUND,
    409: ErrorCode.DUPLICATED,
    501: ErrorCode.NOT_IMPLEMENTED,
}


def http_exception(raised: HTTPException, environ: WSGIEnvironment, request_id: str) -> bytes:
    """Werkzeug's exceptions (``abort(404)``, a missing ``request.args["key"]``) as errors of the gateway's form."""
    if isinstance(raised, BadRequestKeyError) and raised.args:
        key = str(raised.args[0])
        return error(Error(ErrorCode.INVALID_ARGUMENT, f"{key} is missing", info={"arguments": [key]}))
    status = raised.code
    if raised.response is not None or status is None or status < 400:
        whole = raised.get_response(environ)
        if not isinstance(whole, werkzeug.Response):
            whole = werkzeug.Response.force_type(whole, environ)
        return encode(whole, environ)
    message = raised.description or HTTPStatus(status).phrase
    headers = [(name, value) for name, value in raised.get_headers(environ) if name.lower() != "content-type"]
    code = _CODE_OF_STATUS.get(status)
    if code is not None and not headers:
        return error(Error(code, message))
    # No code has this status, or an error cannot carry the headers (Retry-After, WWW-Authenticate): the response is
    # written here, in the form of contract section 7.
    if code is None:
        code = ErrorCode.BAD_REQUEST if status < 500 else ErrorCode.UNEXPECTED_ERROR
    fields = {"name": code.wire_name, "code": int(code), "message": message, "request_id": request_id}
    return response(status, [*headers, ("Content-Type", JSON)], _dumps({"error": fields}).encode())


def _is_json(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, dict, list))


def _tuple(value: tuple[Any, ...]) -> bytes:
    body, status = value[0], value[1]
    headers = Headers(value[2] if len(value) == 3 else ())
    if isinstance(status, bool) or not isinstance(status, int):
        raise TypeError(f"the second value of a returned tuple is the status, an int; the handler returned {status!r}")
    if isinstance(body, str):
        data, content_type = body.encode(), TEXT
    elif isinstance(body, (bytes, bytearray)):
        data, content_type = bytes(body), BINARY
    elif _is_json(body):
        data, content_type = _dumps(body).encode(), JSON
    else:
        raise TypeError(f"the first value of a returned tuple cannot be a {type(body).__qualname__}")
    if status in (204, 304):
        data = b""
    else:
        headers.setdefault("Content-Type", content_type)
    return response(status, headers.items(), data)
