"""The conformance handlers of PROTOCOL.md, for `gearway conform -- gearway run --max-concurrency 4 conformance.py`."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Any

import gearway

ALL = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]


@gearway.handler("conform/echo", method=ALL)
def echo(request: gearway.Request) -> dict[str, Any]:
    header: dict[str, list[str]] = {}
    for name, value in request.headers:
        header.setdefault(name, []).append(value)
    body = request.get_data()
    return {
        "method": request.method,
        "path": request.path,
        "raw_path": request.environ["RAW_URI"].partition("?")[0],
        "query_string": request.query_string.decode(),
        "params": request.params,
        "header": header,
        "body_length": len(body),
        "body_sha256": hashlib.sha256(body).hexdigest(),
        "remote_addr": request.remote_addr,
        "request_id": request.context.request_id,
        "user_id": request.context.user_id,
        "access_key_type": request.context.access_key_type,
    }


@gearway.handler("conform/text")
def text(request: gearway.Request) -> str:
    return request.get_data(as_text=True)


@gearway.handler("conform/json", method=["POST"])
def parsed(request: gearway.Request) -> Any:
    return request.get_json()


@gearway.handler("conform/body", method=["POST"])
def body(request: gearway.Request) -> bytes:
    return request.get_data()


@gearway.handler("conform/response", method=["POST"])
def response(request: gearway.Request) -> gearway.Response:
    wanted = request.get_json()
    headers = [(name, value) for name, values in wanted["header"].items() for value in values]
    return gearway.Response(base64.b64decode(wanted["body"]), wanted["status"], headers)


@gearway.handler("conform/error", method=["POST"])
def error(request: gearway.Request) -> None:
    wanted = request.get_json()
    raise gearway.Error(wanted["code"], wanted["message"], name=wanted.get("name"), info=wanted.get("info"))


@gearway.handler("conform/fail", method=["POST"])
def fail(request: gearway.Request) -> None:
    raise RuntimeError(request.get_data(as_text=True))


@gearway.handler("conform/methods", method=["GET"])
def one(request: gearway.Request) -> str:
    return "one"


@gearway.handler("conform/methods", method=["POST", "PATCH"])
def other(request: gearway.Request) -> str:
    return "other"


@gearway.handler("conform/params/{first}/{second}", method=["GET"])
def params(request: gearway.Request) -> dict[str, str]:
    return request.params


@gearway.handler("conform/user", method=["GET"], user_required=True, key_required=True)
def user(request: gearway.Request) -> dict[str, str | None]:
    return {"user_id": gearway.current_user_id(), "access_key_type": request.context.access_key_type}


@gearway.handler("conform/slow", method=["POST"], timeout=30, idempotent=True)
def slow(request: gearway.Request) -> str:
    time.sleep(int(request.get_data()) / 1000)
    return "slow"
