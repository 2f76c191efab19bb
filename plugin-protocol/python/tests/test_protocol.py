"""`gearway run` over real sockets, with a scripted gateway."""

from __future__ import annotations

import base64
import os
import signal
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import TOKEN, Answer, Asked, Caller, FakeGateway, WorkerAnswer, envelope, worker_process

from gearway._calls import Calls
from gearway._endpoint import Endpoint
from gearway._secret import SecretCell
from gearway._server import _Server, bind
from gearway._settings import Settings

APP = """
import os
import gearway

@gearway.handler("foo", method=["GET"])
def foo(request):
    return "hello"

@gearway.handler("held")
def held(request):
    print("held began")
    with open(os.environ["HOLD"]) as pipe:
        return pipe.read()

SIGNED = {"scheme": "github", "secret": "a"}

@gearway.handler("echo", method="POST", key_required=True, timeout=1.5, idempotent=True, verify=SIGNED)
async def echo(request):
    return request.get_data()

@gearway.handler("boom")
def boom(request):
    raise KeyError("canary")

@gearway.handler("exit")
async def leave(request):
    raise SystemExit(3)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    file = tmp_path / "shop.py"
    file.write_text(APP)
    return file


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """A pipe on which the handler `held` waits until somebody writes."""
    pipe = tmp_path / "hold"
    os.mkfifo(pipe)
    return pipe


def test_registers_what_the_file_has(app: Path, fake_gateway: FakeGateway) -> None:
    with worker_process(app, fake_gateway.url, "--max-concurrency", "7") as worker:
        asked = fake_gateway.next("POST")
        assert asked.path == "/v1/workers"
        assert asked.authorization == "Bearer let-workers-in"
        url = asked.body.pop("url")
        plain = {"key_required": False, "user_required": False, "idempotent": False}
        assert asked.body == {
            "name": "shop",
            "protocol": "gearway-v1",
            "version": "",
            "max_concurrency": 7,
            "features": [],
            "handlers": [
                {"name": "foo", "methods": ["GET"], **plain},
                {"name": "held", "methods": ["GET", "POST", "PUT"], **plain},
                {
                    "name": "echo",
                    "methods": ["POST"],
                    "key_required": True,
                    "user_required": False,
                    "timeout_ms": 1500,
                    "idempotent": True,
                    "verify": {"scheme": "github", "secret": "a"},
                },
                {"name": "boom", "methods": ["GET", "POST", "PUT"], **plain},
                {"name": "exit", "methods": ["GET", "POST", "PUT"], **plain},
            ],
        }
        with Caller(url) as caller:
            answer = caller.call(envelope("foo"))
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json == {"result": {"type": "text", "value": "hello"}}
        assert worker.stop() == 0


def test_answers_only_those_who_know_the_secret(app: Path, fake_gateway: FakeGateway) -> None:
    with worker_process(app, fake_gateway.url):
        url = fake_gateway.next("POST").body["url"]
        with Caller(url) as caller:
            assert caller.call(envelope("foo")).status == 200
            port = caller.local_port()
            for secret in (None, "", "s2", "s", "s11", "S1"):
                # A body that would still be under way when an early answer closed the connection.
                answer = caller.call(envelope("echo", "POST", b"x" * 2_000_000), secret)
                assert answer.status == 401
                assert answer.json["error"]["code"] == 101
            assert caller.call(envelope("foo")).status == 200
            assert caller.local_port() == port, "the connection is kept"


def test_calls_that_are_none(app: Path, fake_gateway: FakeGateway) -> None:
    with worker_process(app, fake_gateway.url), Caller(fake_gateway.next("POST").body["url"]) as caller:
        assert caller.call(b"{").status == 400
        assert caller.call(b"{}").status == 400
        assert caller.call(envelope("foo"), method="PUT").status == 405
        for unknown in (envelope("bar"), envelope("foo", "POST"), envelope("/foo")):
            answer = caller.call(unknown)
            assert answer.status == 200
            assert answer.json["error"]["code"] == 117


def test_a_body_at_the_gateways_limit(app: Path, fake_gateway: FakeGateway) -> None:
    body = os.urandom(12 * 1024 * 1024)
    with worker_process(app, fake_gateway.url), Caller(fake_gateway.next("POST").body["url"]) as caller:
        answer = caller.call(envelope("echo", "POST", body))
        assert base64.b64decode(answer.json["result"]["body"]) == body


def test_what_a_handler_did_not_mean_to_raise_is_in_the_log_alone(app: Path, fake_gateway: FakeGateway) -> None:
    with (
        worker_process(app, fake_gateway.url) as worker,
        Caller(fake_gateway.next("POST").body["url"]) as caller,
    ):
        for name in ("boom", "exit"):
            answer = caller.call(envelope(name, request_id=f"request-of-{name}"))
            assert answer.status == 200
            assert answer.json == {"error": {"code": 130, "name": "UnexpectedError", "message": "the handler failed"}}
            worker.wait_for_line(f"request-of-{name}")
        worker.wait_for_line("KeyError: 'canary'")


def test_more_calls_than_it_takes_are_not_run(app: Path, hold: Path, fake_gateway: FakeGateway) -> None:
    with worker_process(app, fake_gateway.url, "--max-concurrency", "1", HOLD=str(hold)) as worker:
        url = fake_gateway.next("POST").body["url"]
        with Caller(url) as first, Caller(url) as second:
            first.send(envelope("held"), "s1")
            worker.wait_for_line("held began")
            refused = second.call(envelope("foo"))
            assert refused.status == 503
            assert refused.headers["gearway-not-run"] == "1"
            hold.write_text("released")
            assert first.receive().json == {"result": {"type": "text", "value": "released"}}
            assert second.call(envelope("foo")).status == 200


def test_renews_in_time_and_registers_again_when_the_lease_has_lapsed(app: Path) -> None:
    lapse = threading.Event()

    def script(asked: Asked) -> Answer | None:
        if asked.method == "PUT" and lapse.is_set():
            lapse.clear()
            return 404, {"error": {"name": "ResourceNotFound", "code": 110, "message": "no such worker"}}
        return None

    with FakeGateway(lease_ms=90, script=script) as gateway, worker_process(app, gateway.url) as worker:
        url = gateway.next("POST").body["url"]
        for _ in range(4):
            asked = gateway.asked.get(timeout=60)
            assert (asked.method, asked.path) == ("PUT", "/v1/workers/w1/lease")
            assert asked.authorization == "Bearer let-workers-in"
        lapse.set()
        assert gateway.next("POST").body["url"] == url
        assert gateway.next("PUT").path == "/v1/workers/w2/lease"
        with Caller(url) as caller:
            assert caller.call(envelope("foo"), "s1").status == 401, "only the latest secret holds"
            assert caller.call(envelope("foo"), "s2").status == 200
        worker.wait_for_line("the lease has lapsed; registering again")


def test_a_lost_gateway_is_found_again(app: Path) -> None:
    gateway = FakeGateway(lease_ms=90)
    # Nobody listens yet.
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        gateway.port = reserved.getsockname()[1]
    with worker_process(app, gateway.url) as worker:
        worker.wait_for_line("cannot reach the gateway")
        with gateway:
            gateway.next("PUT")
        worker.wait_for_line("the gateway is back")
        gateway.rest()
        with FakeGateway(lease_ms=90, port=gateway.port) as again:
            assert again.next("PUT").path == "/v1/workers/w1/lease"


def test_a_drained_worker_stays_out(app: Path) -> None:
    def script(asked: Asked) -> Answer | None:
        if asked.method == "PUT":
            drained = sum(1 for _ in renewals)
            renewals.append(asked)
            return (200, {"lease_ms": 90, "draining": True}) if drained < 3 else (404, {})
        return None

    renewals: list[Asked] = []
    with FakeGateway(lease_ms=90, script=script) as gateway, worker_process(app, gateway.url) as worker:
        worker.wait_for_line("stays out until it is started anew")
        worker.wait_for_line("an operator has drained this worker")
        assert worker.stop() == 0
        assert [asked.method for asked in gateway.rest() if asked.method != "PUT"] == ["POST", "DELETE"]
        assert len(renewals) == 4


def test_another_services_path_is_told_and_tried_again(app: Path) -> None:
    def script(asked: Asked) -> Answer | None:
        if asked.method == "POST" and not refused:
            refused.append(asked)
            message = "GET /foo belongs to billing, not shop"
            return 409, {"error": {"name": "Duplicated", "code": 109, "message": message}}
        return None

    refused: list[Asked] = []
    with FakeGateway(script=script) as gateway, worker_process(app, gateway.url) as worker:
        worker.wait_for_line("GET /foo belongs to billing, not shop.*gearway routes forget")
        worker.wait_for_line("registered as shop")


@pytest.mark.parametrize("status", [400, 401, 403, 422])
def test_a_refusal_ends_the_worker(app: Path, status: int) -> None:
    def script(asked: Asked) -> Answer:
        return status, {"error": {"name": "X", "code": 101, "message": "not you"}}

    with FakeGateway(script=script) as gateway, worker_process(app, gateway.url) as worker:
        assert worker.wait() == 1
        worker.wait_for_line("refuses the worker: not you")


def test_a_worker_that_cannot_keep_its_place_ends(app: Path) -> None:
    """Without its place it would serve nobody, and nobody would start it anew."""
    # Nothing can wait for so long.
    with FakeGateway(lease_ms=10**30) as gateway, worker_process(app, gateway.url) as worker:
        assert worker.wait() == 1, worker.output()
        assert "cannot keep its place in the gateway" in worker.output()
        assert [asked.method for asked in gateway.rest()] == ["POST", "DELETE"]


def test_a_gateway_that_starts_is_waited_for(app: Path) -> None:
    def script(asked: Asked) -> Answer | None:
        answers.append(503)
        return (503, {"error": {"message": "starting"}}) if len(answers) < 3 else None

    answers: list[int] = []
    with FakeGateway(script=script) as gateway, worker_process(app, gateway.url) as worker:
        worker.wait_for_line("registered as shop")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drains(app: Path, hold: Path, number: signal.Signals) -> None:
    """What runs is finished, and a call that comes just after the worker left the table is answered."""
    late: list[int] = []

    def script(asked: Asked) -> Answer | None:
        if asked.method == "DELETE":
            with Caller(url) as caller:
                late.append(caller.call(envelope("foo")).status)
        return None

    with FakeGateway(script=script) as gateway, worker_process(app, gateway.url, HOLD=str(hold)) as worker:
        url = gateway.next("POST").body["url"]
        with Caller(url) as caller, Caller(url) as idle:
            assert idle.call(envelope("foo")).status == 200
            caller.send(envelope("held"), "s1")
            worker.wait_for_line("held began")
            worker.signal(number)
            assert gateway.next("DELETE").path == "/v1/workers/w1"
            # The first call after the answer to DELETE falls into the time of grace.
            assert idle.call(envelope("foo")).status == 200
            hold.write_text("finished")
            assert caller.receive().json == {"result": {"type": "text", "value": "finished"}}
        assert worker.wait() == 0
        assert late == [200]


def test_a_call_may_overtake_the_answer_to_its_registration(app: Path) -> None:
    with ThreadPoolExecutor() as pool:

        def script(asked: Asked) -> Answer | None:
            if asked.method == "POST":
                caller = Caller(asked.body["url"])
                caller.send(envelope("foo"), "s1")
                calls.append((caller, pool.submit(caller.receive)))
            return None

        calls: list[tuple[Caller, Future[WorkerAnswer]]] = []
        with FakeGateway(script=script) as gateway, worker_process(app, gateway.url):
            gateway.next("POST")
            ((caller, answer),) = calls
            with caller:
                assert answer.result().status == 200


def test_a_second_signal_ends_it_at_once(app: Path, hold: Path, fake_gateway: FakeGateway) -> None:
    with (
        worker_process(app, fake_gateway.url, HOLD=str(hold)) as worker,
        Caller(fake_gateway.next("POST").body["url"]) as caller,
    ):
        caller.send(envelope("held"), "s1")
        worker.wait_for_line("held began")
        worker.signal(signal.SIGTERM)
        fake_gateway.next("DELETE")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 128 + signal.SIGTERM


def test_a_signal_before_it_serves(tmp_path: Path, hold: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text("import os\nprint('importing')\nopen(os.environ['HOLD']).read()")
    with worker_process(app, "http://127.0.0.1:1", HOLD=str(hold)) as worker:
        worker.wait_for_line("importing")
        assert worker.stop() == 0


def test_replies_are_not_held_back() -> None:
    """asyncio turns Nagle's algorithm off for sockets that name their protocol, and for no others."""
    listener = bind(Settings("shop"))
    assert listener.proto == socket.IPPROTO_TCP
    listener.close()


def test_idle_connections_outlast_the_gateways() -> None:
    endpoint = Endpoint(Calls({}, threads=1), SecretCell(), None)
    assert _Server(endpoint).config.timeout_keep_alive >= 60


def test_where_it_listens_and_what_it_advertises(app: Path, fake_gateway: FakeGateway) -> None:
    with worker_process(app, fake_gateway.url, GEARWAY_LISTEN="0.0.0.0:0", GEARWAY_NAME="billing"):
        body = fake_gateway.next("POST").body
        assert body["name"] == "billing"
        with Caller(body["url"]) as caller:
            assert caller.call(envelope("foo")).status == 200
        assert body["url"].startswith("http://127.0.0.1:")
    with worker_process(app, fake_gateway.url, GEARWAY_ADVERTISE="http://127.0.0.1:9999/x/"):
        assert fake_gateway.next("POST").body["url"] == "http://127.0.0.1:9999/x/"


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"GEARWAY_TOKEN": ""}, "GEARWAY_TOKEN is not set"),
        ({"GEARWAY_TOKEN": " \n"}, "GEARWAY_TOKEN is not set"),
        ({"GEARWAY_TOKEN": "a\nb"}, "GEARWAY_TOKEN has a character that no token has"),
        ({"GEARWAY_TOKEN": "a→b"}, "GEARWAY_TOKEN has a character that no token has"),
        ({"GEARWAY_GATEWAY": "http://a b:1"}, "GEARWAY_GATEWAY must be a URL"),
        ({"GEARWAY_GATEWAY": f"http://{'a' * 64}.example:1"}, "GEARWAY_GATEWAY must be a URL"),
        ({"GEARWAY_GATEWAY": "localhost:3001"}, "GEARWAY_GATEWAY must be a URL"),
        ({"GEARWAY_ADVERTISE": "/here"}, "GEARWAY_ADVERTISE must be a URL"),
        ({"GEARWAY_LISTEN": "9000"}, "GEARWAY_LISTEN must be host:port"),
        ({"GEARWAY_LISTEN": "192.0.2.1:9000"}, "cannot listen on 192.0.2.1:9000"),
    ],
)
def test_settings_that_cannot_be(app: Path, environment: dict[str, str], told: str) -> None:
    variables = {"GEARWAY_TOKEN": "t", **environment}
    with worker_process(app, variables.pop("GEARWAY_GATEWAY", "http://127.0.0.1:1"), **variables) as worker:
        assert worker.wait() == 1
        worker.wait_for_line(told)


def test_white_space_around_a_setting_is_not_part_of_it(app: Path, fake_gateway: FakeGateway) -> None:
    """Secrets that are mounted, or pasted, often end with a line feed."""
    with worker_process(app, f"{fake_gateway.url}\n", GEARWAY_TOKEN=f" {TOKEN}\n", GEARWAY_NAME="me\n"):
        asked = fake_gateway.next("POST")
        assert asked.authorization == f"Bearer {TOKEN}"
        assert asked.body["name"] == "me"


@pytest.mark.parametrize(
    ("text", "told"), [("import gearway", "has no handlers"), ("1 / 0", "ZeroDivisionError"), ("x =", "SyntaxError")]
)
def test_files_that_serve_nothing(tmp_path: Path, text: str, told: str) -> None:
    app = tmp_path / "app.py"
    app.write_text(text)
    with worker_process(app, "http://127.0.0.1:1") as worker:
        assert worker.wait() == 1
        worker.wait_for_line(told)


def test_reload_serves_the_new_code_at_the_same_url(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    source = "import gearway\n\n@gearway.handler('foo')\ndef foo(request):\n    return {!r}\n"
    app.write_text(source.format("one"))
    with FakeGateway() as gateway, worker_process(app, gateway.url, "--reload") as worker:
        url = gateway.next("POST").body["url"]
        with Caller(url) as caller:
            assert caller.call(envelope("foo")).json["result"]["value"] == "one"
        app.write_text(source.format("two"))
        later = app.stat().st_mtime
        while gateway.registrations == 1:
            # The supervisor may not have seen the file's first time yet.
            later += 2
            os.utime(app, (later, later))
            threading.Event().wait(0.3)
        again = gateway.next("POST")
        assert again.body["url"] == url
        with Caller(url) as caller:
            secret = f"s{gateway.registrations}"
            assert caller.call(envelope("foo"), secret).json["result"]["value"] == "two"
        assert worker.stop() == 0
