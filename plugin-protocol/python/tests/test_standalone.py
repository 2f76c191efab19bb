"""`gearway.asgi` and `gearway.wsgi` under servers of the user's own, with a scripted gateway."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from harness import TOKEN, Caller, FakeGateway, Process, envelope

APP = """
import contextlib
import fastapi
import gearway
from gearway import {interface} as application

@gearway.handler("foo")
def foo(request):
    return gearway.current_user_id()

@gearway.handler("async")
async def bar(request):
    return gearway.current_user_id()

@contextlib.asynccontextmanager
async def lifespan(app):
    yield {{"mood": "started"}}

crm = fastapi.FastAPI(lifespan=lifespan)

@crm.get("/")
async def index(request: fastapi.Request):
    return request.state.mood

gearway.mount("crm/", crm)
"""

SERVERS = {
    "uvicorn": ("asgi", ["uvicorn", "own:application", "--port", "{port}"]),
    "gunicorn": ("wsgi", ["gunicorn", "own:application", "--bind", "127.0.0.1:{port}", "--threads", "8"]),
}


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        number: int = reserved.getsockname()[1]
    return number


def serve(folder: Path, server: str, port: int, gateway: str, **environment: str) -> Process:
    interface, command = SERVERS[server]
    (folder / "own.py").write_text(APP.format(interface=interface))
    variables = {"GEARWAY_GATEWAY": gateway, "GEARWAY_TOKEN": TOKEN, **environment}
    return Process([sys.executable, "-m", *[part.format(port=port) for part in command]], variables, folder)


@pytest.mark.parametrize("server", SERVERS)
def test_serves_and_registers(fake_gateway: FakeGateway, tmp_path: Path, port: int, server: str) -> None:
    url = f"http://127.0.0.1:{port}/"
    fake_gateway.lease_ms = 300
    with serve(tmp_path, server, port, fake_gateway.url, GEARWAY_ADVERTISE=url) as process:
        body = fake_gateway.next("POST").body
        assert (body["name"], body["url"]) == ("own", url)
        assert [handler["name"] for handler in body["handlers"]] == ["foo", "async", "crm/"]
        fake_gateway.next("PUT")
        for name in ("foo", "async"):
            with Caller(url) as caller:
                answer = caller.call(envelope(name, user_id="alice"))
                assert answer.json == {"result": {"type": "text", "value": "alice"}}
        with Caller(url) as caller:
            assert caller.call(envelope("crm/")).json["result"]["body"] == "InN0YXJ0ZWQi"
        with Caller(url) as caller:
            assert caller.call(envelope("foo"), "wrong").status == 401
        with Caller(url) as caller:
            assert caller.call(b"{}").status == 400
        process.stop()
        assert fake_gateway.next("DELETE").path == "/v1/workers/w1"


@pytest.mark.parametrize("server", SERVERS)
def test_says_that_it_must_know_its_url(fake_gateway: FakeGateway, tmp_path: Path, port: int, server: str) -> None:
    with serve(tmp_path, server, port, fake_gateway.url) as process:
        process.wait_for_line("GEARWAY_ADVERTISE is not set")
        assert process.wait() != 0
