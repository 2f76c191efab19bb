"""The ASGI application that the gateway calls, without a server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from harness import envelope

from gearway import Request, Worker, _endpoint
from gearway._calls import Calls
from gearway._endpoint import Endpoint
from gearway._secret import SecretCell


def known(secret: str) -> SecretCell:
    cell = SecretCell()
    cell.settle(secret)
    return cell


async def call(
    endpoint: Endpoint, *chunks: bytes, gone: bool = False, **headers: str
) -> tuple[int, dict[str, Any]] | None:
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.disconnect"} if gone else {"type": "http.request", "body": b""})
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        assert not messages, "the body is read before the answer"
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await endpoint({"type": "http", "method": "POST", "headers": pairs}, receive, send)
    return (sent[0]["status"], json.loads(sent[1]["body"])) if sent else None


@pytest.fixture
def worker() -> Worker:
    worker = Worker()

    @worker.handler("foo")
    async def foo(request: Request) -> Any:
        assert request.context.traceparent in (None, "00-ab-cd-01")
        return [len(request.get_data()), request.context.traceparent]

    return worker


def test_a_body_in_pieces(worker: Worker) -> None:
    endpoint = Endpoint(Calls(worker.targets, threads=1), known("s"), None)
    raw = envelope("foo", "POST", b"x" * 10_000)
    pieces = [raw[at : at + 999] for at in range(0, len(raw), 999)]
    answer = asyncio.run(call(endpoint, *pieces, authorization="bearer s", traceparent="00-ab-cd-01"))
    assert answer == (200, {"result": {"type": "json", "value": [10_000, "00-ab-cd-01"]}})


def test_a_body_that_is_too_large_is_read_and_refused(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_endpoint, "MAX_ENVELOPE", 1000)
    endpoint = Endpoint(Calls(worker.targets, threads=1), known("s"), None)
    raw = envelope("foo", "POST", b"x" * 2000)
    answer = asyncio.run(call(endpoint, raw[:500], raw[500:], authorization="Bearer s"))
    assert answer is not None
    assert answer[0] == 413


def test_a_caller_that_goes_away_gets_nothing_run(worker: Worker) -> None:
    async def scenario() -> None:
        endpoint = Endpoint(Calls(worker.targets, threads=1), known("s"), 1)
        raw = envelope("foo", "POST", b"x" * 2000)
        assert await call(endpoint, raw[:500], gone=True, authorization="Bearer s") is None
        assert endpoint.idle.is_set()
        answer = await call(endpoint, raw, authorization="Bearer s")
        assert answer is not None
        assert answer[0] == 200, "the place is free again"

    asyncio.run(scenario())


def test_no_secret_is_known_before_a_registration(worker: Worker) -> None:
    endpoint = Endpoint(Calls(worker.targets, threads=1), SecretCell(), None)
    for authorization in ("Bearer ", "Bearer None", "Basic s", ""):
        answer = asyncio.run(call(endpoint, envelope("foo"), authorization=authorization))
        assert answer is not None
        assert answer[0] == 401


def test_a_call_that_overtakes_its_registration_waits_for_it() -> None:
    async def scenario() -> None:
        cell = known("old")
        cell.expect_change()
        waiting = [asyncio.ensure_future(cell.accepts(b"Bearer new")) for _ in range(3)]
        # Each gets its turn on the loop.
        await asyncio.sleep(0)
        assert await cell.accepts(b"Bearer old")
        assert not any(one.done() for one in waiting)
        waiting[0].cancel()
        await asyncio.to_thread(cell.settle, "new")
        assert await asyncio.gather(*waiting[1:]) == [True, True]
        assert not await cell.accepts(b"Bearer old")
        cell.expect_change()
        cell.settle(None)
        assert await cell.accepts(b"Bearer new"), "a registration that failed changes nothing"

    asyncio.run(scenario())


def test_only_http_is_spoken(worker: Worker) -> None:
    endpoint = Endpoint(Calls(worker.targets, threads=1), known("s"), None)
    with pytest.raises(RuntimeError, match="not websocket"):
        asyncio.run(endpoint({"type": "websocket"}, None, None))
