"""The golden messages in ../vectors; their README says what each folder holds."""

from __future__ import annotations

import asyncio
import base64
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import gearway
from gearway import Error, Request, Response, Worker, testing
from gearway._calls import Calls

VECTORS = Path(__file__).resolve().parents[2] / "vectors"

CREDENTIALS = {"x-skygear-api-key", "x-skygear-access-token", "x-gearway-user-id"}
CONNECTION = {"connection", "content-length", "keep-alive", "transfer-encoding"}


def vectors(folder: str) -> list[Any]:
    files = sorted((VECTORS / folder).glob("*.json"))
    assert files, f"no vectors in {VECTORS / folder}"
    return [pytest.param(json.loads(file.read_text("utf-8")), id=file.stem) for file in files]


def exactly(text: str | bytes) -> Any:
    """JSON with every digit."""
    return json.loads(text, parse_float=Decimal)


def reply_to(returned: object) -> Any:
    """What a worker writes for a handler that returns or raises this."""
    worker = Worker()

    @worker.handler("foo", method="GET")
    def foo(request: Request) -> object:
        if isinstance(returned, Exception):
            raise returned
        return returned

    param = {"method": "GET", "path": "/foo", "header": {}, "body": ""}
    envelope = {"kind": "handler", "name": "foo", "context": {"request_id": "r"}, "param": param}
    calls = Calls(worker.targets, threads=1)
    try:
        return exactly(asyncio.run(calls.answer(json.dumps(envelope).encode())))
    finally:
        calls.pool._executor.shutdown()


@pytest.mark.parametrize("vector", vectors("requests"))
def test_requests(vector: dict[str, Any]) -> None:
    http, context, envelope = vector["http"], vector["context"], vector["envelope"]
    body = base64.b64decode(http["body_base64"])
    worker = Worker()
    seen: list[Request] = []

    @worker.handler(vector["handler_name"], method=[http["method"]])
    def handler(request: Request) -> None:
        assert gearway.current_user_id() == context.get("user_id")
        assert request.get_data() == body
        seen.append(request)

    calls = Calls(worker.targets, threads=1)
    reply = asyncio.run(calls.answer(json.dumps(envelope, ensure_ascii=False).encode()))
    assert json.loads(reply) == {"result": {"type": "json", "value": None}}
    calls.pool._executor.shutdown()

    (request,) = seen
    path, _, query = http["target"].partition("?")
    assert request.method == http["method"]
    assert request.path == envelope["param"]["path"]
    assert request.environ["REQUEST_URI"].encode("latin-1").decode() == http["target"].removesuffix("?")
    assert request.query_string.decode() == query
    assert request.params == envelope["param"]["params"]
    assert request.remote_addr == http["remote_addr"]
    assert request.context.request_id == context["request_id"]
    assert request.context.timeout_ms == context["timeout_ms"]
    assert request.context.access_key_type == context.get("access_key_type")
    assert {name: request.headers.getlist(name) for name in dict(request.headers)} == envelope["param"]["header"]
    for name in {name for name, _ in http["headers"]}:
        if name in envelope["param"]["header"]:
            sent = [value for other, value in http["headers"] if other.lower() == name.lower()]
            assert request.headers.getlist(name) == sent
    if path == "/form":
        assert request.form.getlist("a") == ["3", "4"]


@pytest.mark.parametrize("vector", vectors("replies"))
def test_replies_are_written(vector: dict[str, Any]) -> None:
    expected = exactly(vector["reply"])["result"]
    if expected["type"] == "response":
        returned: object = response_of(expected)
        header = expected.get("header", {})
        kept = {name: values for name, values in header.items() if name.lower() not in CONNECTION}
        expected = {"type": "response", "status": expected["status"], "header": kept, "body": expected.get("body", "")}
    else:
        expected = {"type": expected["type"], "value": writable(expected["value"])}
        returned = json.loads(json.dumps(expected["value"], default=float))
        if isinstance(returned, str):
            # A str that a handler returns is text.
            expected["type"] = "text"
    assert reply_to(returned) == {"result": expected}


def response_of(result: dict[str, Any]) -> Response:
    headers = [(name, value) for name, values in result.get("header", {}).items() for value in values]
    response = Response(base64.b64decode(result.get("body", "")), result["status"], headers)
    if "Content-Type" not in result.get("header", {}):
        del response.headers["Content-Type"]
    return response


def writable(value: Any) -> Any:
    """Without the numbers that a Python float cannot hold."""
    if isinstance(value, list):
        return [one for one in value if not isinstance(one, Decimal) or str(float(one)) == str(one)]
    return value


@pytest.mark.parametrize("vector", vectors("replies"))
def test_replies_are_read_by_the_test_client(vector: dict[str, Any]) -> None:
    response, expected = testing._response(vector["reply"].encode()), vector["response"]
    assert response.status_code == expected["status"]
    assert in_order(response.headers.to_wsgi_list()) == in_order(expected["headers"])
    body = base64.b64decode(expected["body_base64"])
    if '"json"' in vector["reply"]:
        # The client reads JSON with Python's numbers; the gateway passes the text on.
        assert json.loads(response.data) == json.loads(body)
    else:
        assert response.data == body


def in_order(headers: Any) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for name, value in headers:
        if name.lower() not in CONNECTION:
            lists.setdefault(name.lower(), []).append(value)
    return lists


ERRORS = json.loads((VECTORS / "errors.json").read_text("utf-8"))


@pytest.mark.parametrize("vector", ERRORS, ids=lambda vector: str(vector["description"]))
def test_errors(vector: dict[str, Any]) -> None:
    reply = json.loads(vector["reply"])
    error = reply["error"]
    response = testing._response(vector["reply"].encode())
    assert response.status_code == vector["response"]["status"]
    expected = vector["response"]["body"]["error"]
    assert response.json == {"error": {**expected, "request_id": "test"}}

    arguments = {key: error[key] for key in ("name", "info") if key in error}
    if error["code"] in {121}:
        with pytest.raises(ValueError, match="no code of Skygear's"):
            Error(error["code"], error["message"], **arguments)
        return
    if error["code"] < 10_000:
        # The SDK writes the name that the gateway would fill in.
        error["name"] = expected["name"]
    assert reply_to(Error(error["code"], error["message"], **arguments)) == reply


def is_clash(registration: dict[str, Any]) -> bool:
    return registration.get("field") == "handlers" and registration.get("well_formed") is True


def ours() -> list[Any]:
    """The others are the gateway's to refuse, or of another dialect."""
    return [
        param
        for param in vectors("registrations")
        if is_clash(param.values[0])
        or (param.values[0]["valid"] and param.values[0]["registration"]["protocol"] == "gearway-v1")
    ]


@pytest.mark.parametrize("vector", ours())
def test_registrations(vector: dict[str, Any]) -> None:
    registration = vector["registration"]
    worker = Worker()

    def add_all() -> None:
        for handler in registration["handlers"]:
            options = {key: value for key, value in handler.items() if key in KNOWN}
            timeout = handler["timeout_ms"] / 1000 if "timeout_ms" in handler else None
            methods = handler.get("methods", ["GET", "POST", "PUT"])
            worker.handler(handler["name"], methods, timeout=timeout, **options)(lambda request: None)

    if is_clash(vector):
        with pytest.raises(ValueError, match="two handlers"):
            add_all()
        return
    add_all()
    written = worker.registration(registration.get("version", ""), registration.get("max_concurrency"))
    defaults = {"methods": ["GET", "POST", "PUT"], "key_required": False, "user_required": False, "idempotent": False}
    assert written["handlers"] == [
        {**defaults, **{k: v for k, v in handler.items() if k in {*KNOWN, "name", "methods", "timeout_ms"}}}
        for handler in registration["handlers"]
    ]
    assert written.get("max_concurrency") == registration.get("max_concurrency")


KNOWN = {"key_required", "user_required", "idempotent"}
