"""A worker behind the real gateway, whose binary GEARWAY_BIN names."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Gateway, worker_process

pytestmark = pytest.mark.gateway

SAMPLE = Path(__file__).resolve().parents[3] / "sample-plugins" / "python" / "seed_page.py"

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
KEY = {"X-Skygear-API-Key": "client-key"}
ALICE = {"X-Skygear-API-Key": "master-key", "X-Gearway-User-Id": "alice"}
OK = {"result": {"status": "OK"}}
UPLOAD = {"Content-Type": "multipart/form-data; boundary=b"}
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\ncontent\r\n--b--\r\n'

# method, target, body, headers; status, type, body
PAGE: list[tuple[str, str, bytes | None, dict[str, str], int, str, Any]] = [
    ("GET", "/foo", None, {}, 200, "text", "exactly /foo"),
    ("GET", "/foo/", None, {}, 200, "json", OK),
    ("GET", "/foo/bar", None, {}, 200, "json", OK),
    ("GET", "/tree/", None, {}, 200, "text", "/tree/ is /tree/ or below"),
    ("PUT", "/tree/a/b", None, {}, 200, "text", "/tree/a/b is /tree/ or below"),
    ("GET", "/abc/def", None, {}, 200, "text", "exactly /abc/def"),
    ("GET", "/abc/x", None, {}, 200, "text", "/abc/ or below"),
    ("DELETE", "/foo", None, {}, 404, "json", "UndefinedOperation"),
    ("GET", "/my_endpoint", None, {}, 200, "text", "got"),
    ("POST", "/my_endpoint", b"hello", {}, 200, "text", "posted hello"),
    ("PUT", "/my_endpoint", b"hello", {}, 404, "json", "UndefinedOperation"),
    ("DELETE", "/item", None, {}, 204, "none", ""),
    ("GET", "/private", None, {}, 401, "json", "NotAuthenticated"),
    ("GET", "/private", None, KEY, 401, "json", "NotAuthenticated"),
    ("GET", "/private", None, ALICE, 200, "text", "alice"),
    ("GET", "/keyed", None, {}, 401, "json", "NotAuthenticated"),
    ("GET", "/keyed", None, KEY, 200, "text", "a known API key"),
    ("GET", "/get_query_string?key=month&value=10", None, {}, 200, "json", {"key": "month", "value": 10}),
    ("GET", "/get_query_string?key=month", None, {}, 400, "json", "InvalidArgument"),
    ("POST", "/form", b"a=3&b=at", FORM, 200, "json", {"a": 3, "b": "at"}),
    ("POST", "/json", b'{"name": "John"}', JSON, 200, "json", {"name": "John"}),
    ("POST", "/json", b"{", JSON, 500, "json", "UnexpectedError"),
    ("GET", "/url/more/levels?level=3", None, {}, 200, "json", {"path": "more/levels?level=3"}),
    ("POST", "/upload", FILE, UPLOAD, 200, "json", {"a.txt": 7}),
    ("GET", "/buy/hamlet/1", None, {}, 200, "json", 3),
    ("GET", "/buy/hamlet/9", None, {}, 500, "json", "SoldOut"),
    ("GET", "/string", None, {}, 200, "text", "a string"),
    ("GET", "/dict", None, {}, 200, "json", {"name": "John"}),
    ("GET", "/list", None, {}, 200, "json", [1, 2, 3]),
    ("GET", "/int", None, {}, 200, "json", 42),
    ("GET", "/null", None, {}, 200, "json", None),
    ("GET", "/response", None, {}, 201, "html", "<h1>created</h1>"),
]
TYPES = {
    "text": "text/plain; charset=utf-8",
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "none": None,
}


def test_the_seed_page(gateway: Gateway) -> None:
    with worker_process(SAMPLE, gateway.admin_url) as worker:
        worker.wait_for_line("registered as seed_page")
        for method, target, body, headers, status, kind, expected in PAGE:
            answer = gateway.request(method, target, body, headers)
            what = f"{method} {target}: {answer}\n{worker.output()}"
            assert answer.status == status, what
            assert kind == "none" or answer.headers["content-type"] == TYPES[kind], what
            if kind == "json":
                told = answer.json
                named = told["error"]["name"] if isinstance(told, dict) and "error" in told else told
                assert named == expected, what
            else:
                assert answer.body.decode() == expected, what
        redirect = gateway.request("GET", "/tree?x=1")
        assert (redirect.status, redirect.headers["location"]) == (301, "/tree/?x=1")
        assert worker.stop() == 0


MOUNTS = """
import flask, fastapi, gearway

shop = flask.Flask("shop")

@shop.route("/orders/<int:number>", methods=["GET", "PATCH"])
def order(number):
    return {"number": number, "url": flask.url_for("order", number=8), "user": gearway.current_user_id()}

crm = fastapi.FastAPI()

@crm.api_route("/people/{name}", methods=["GET", "PATCH"])
async def person(name: str, request: fastapi.Request):
    return {"name": name, "url": request.url_for("person", name="b").path, "user": gearway.current_user_id()}

gearway.mount("shop/", shop)
gearway.mount("crm/", crm)
application = gearway.wsgi
"""


def test_mounted_applications(gateway: Gateway, tmp_path: Path) -> None:
    app = tmp_path / "mounts.py"
    app.write_text(MOUNTS)
    with worker_process(app, gateway.admin_url) as worker:
        worker.wait_for_line("registered as mounts")
        for method in ("GET", "PATCH"):
            answer = gateway.request(method, "/shop/orders/7", headers=ALICE)
            assert answer.json == {"number": 7, "url": "/shop/orders/8", "user": "alice"}
            answer = gateway.request(method, "/crm/people/a", headers=ALICE)
            assert answer.json == {"name": "a", "url": "/crm/people/b", "user": "alice"}
        assert gateway.request("GET", "/crm/openapi.json").json["paths"].keys() == {"/people/{name}"}
        assert gateway.request("GET", "/shop/nothing").status == 404
        assert worker.stop() == 0


WHO = """
import os, gearway

@gearway.handler("who")
def who(request):
    return os.environ["WHO"]

@gearway.handler("echo", method="POST")
async def echo(request):
    return request.get_data()
"""


@pytest.fixture
def who(tmp_path: Path) -> Path:
    app = tmp_path / "who.py"
    app.write_text(WHO)
    return app


def test_a_gateway_that_died_finds_its_worker_again(gateway: Gateway, who: Path) -> None:
    with worker_process(who, gateway.admin_url, WHO="a") as worker:
        worker.wait_for_line("registered as who")
        assert gateway.request("GET", "/who").body == b"a"
        gateway.kill()
        worker.wait_for_line("cannot reach the gateway")
        gateway.start()
        assert gateway.request("GET", "/who").body == b"a"
        worker.wait_for_line("the gateway is back")
        assert gateway.request("GET", "/who").body == b"a"
        assert worker.stop() == 0


def test_a_large_body_both_ways(gateway: Gateway, who: Path) -> None:
    body = bytes(range(256)) * 4 * 1024 * 9
    with worker_process(who, gateway.admin_url, WHO="a") as worker:
        worker.wait_for_line("registered as who")
        assert gateway.request("POST", "/echo", body).body == body


def test_a_drain_under_load_fails_no_request(gateway: Gateway, who: Path) -> None:
    """Replicas are replaced one by one while requests come without a pause."""
    stop = threading.Event()
    seen: dict[str, threading.Event] = {name: threading.Event() for name in "abc"}
    failures: list[str] = []
    served = [0]

    def load(request: Callable[[], Any]) -> None:
        while not stop.is_set():
            try:
                answer = request()
            except OSError as error:
                failures.append(repr(error))
                return
            served[0] += 1
            if answer.status == 200:
                seen.get(answer.body.decode(), stop).set()
            else:
                failures.append(f"{answer.status} {answer.body!r}")
                return

    def start(name: str) -> Any:
        return worker_process(who, gateway.admin_url, WHO=name)

    with start("a") as a, start("b") as b:
        a.wait_for_line("registered as who")
        b.wait_for_line("registered as who")
        threads = [threading.Thread(target=load, args=[lambda: gateway.request("GET", "/who")]) for _ in range(6)]
        for thread in threads:
            thread.start()
        try:
            assert seen["a"].wait(60)
            assert seen["b"].wait(60)
            a.signal(signal.SIGTERM)
            assert a.wait() == 0
            with start("c") as c:
                c.wait_for_line("registered as who")
                assert seen["c"].wait(60)
                assert b.stop() == 0
                seen["c"].clear()
                assert seen["c"].wait(60)
                stop.set()
                for thread in threads:
                    thread.join()
        finally:
            stop.set()
    assert failures == []
    assert served[0] > 0


def test_two_services_that_want_one_path(gateway: Gateway, who: Path) -> None:
    with worker_process(who, gateway.admin_url, WHO="a") as first:
        first.wait_for_line("registered as who")
        with worker_process(who, gateway.admin_url, WHO="b", GEARWAY_NAME="other") as second:
            second.wait_for_line("another service has one of this worker's paths: .*who.*other.*forget")
            assert gateway.request("GET", "/who").body == b"a"


def test_an_operator_drains(gateway: Gateway, who: Path) -> None:
    with worker_process(who, gateway.admin_url, WHO="a") as worker:
        worker_id = worker.wait_for_line(r"registered as who \((\w+)\)").group(1)
        host = gateway.admin_url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.request("POST", f"/v1/workers/{worker_id}/drain", headers={"Authorization": "Bearer administer"})
        response = connection.getresponse()
        assert response.status in (200, 202, 204), response.read()
        connection.close()
        worker.wait_for_line("an operator has drained this worker")
        assert gateway.request("GET", "/who").status == 503
        assert worker.stop() == 0
        assert worker.output().count("registered as who") == 1


def test_the_trace_goes_on(gateway: Gateway, tmp_path: Path) -> None:
    app = tmp_path / "tracing.py"
    app.write_text(
        "import gearway\n"
        "@gearway.handler('traced')\n"
        "def traced(request):\n"
        "    return gearway.current_context().trace_headers\n"
    )
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with worker_process(app, gateway.admin_url) as worker:
        worker.wait_for_line("registered as tracing")
        headers = {"traceparent": f"00-{trace}-{span}-01", "tracestate": "vendor=1"}
        passed_on = gateway.request("GET", "/traced", None, headers).json
    assert passed_on["tracestate"] == "vendor=1"
    version, same, other, flags = passed_on["traceparent"].split("-")
    assert (version, same, flags) == ("00", trace, "01")
    assert other != span


HOOKS = """
import json, gearway

def hook(name):
    return gearway.handler(
        name, method="POST", verify={"scheme": "github", "secret": "hook"}, delivery={"mode": "durable", "dedup": "off"}
    )

def seen(request):
    # In one piece: a thread and the event loop print at once.
    print(f"seen {json.dumps([request.path, request.context.delivery])}\\n", end="")
    return request.context.delivery["attempt"]

@hook("waits")
def waits(request):
    return ("later", 503, {"Retry-After": "0"}) if seen(request) < 3 else None

@hook("gone")
async def gone(request):
    seen(request)
    return gearway.Response("gone", status=410)
"""


def test_webhooks_are_delivered_until_the_handler_takes_them(gateway: Gateway, tmp_path: Path) -> None:
    app = tmp_path / "hooks.py"
    app.write_text(HOOKS)
    signature = "sha256=" + hmac.new(b"hook-secret", b"{}", hashlib.sha256).hexdigest()
    ids = {}
    with worker_process(app, gateway.admin_url) as worker:
        worker.wait_for_line("registered as hooks")
        assert gateway.request("POST", "/waits", b"{}", {"X-Hub-Signature-256": "sha256=0"}).status == 401
        for path in ("/waits", "/gone"):
            answer = gateway.request("POST", path, b"{}", {"X-Hub-Signature-256": signature})
            assert (answer.status, answer.body) == (200, b"ok")
            ids[path] = answer.headers["x-gearway-delivery"]
        worker.wait_for_line('seen ."/waits".*"attempt": 3')
        worker.wait_for_line('seen ."/gone"')
        assert worker.stop() == 0
        seen = [json.loads(line.removeprefix("seen ")) for line in worker.lines if line.startswith("seen ")]
    for path, attempts in (("/waits", [1, 2, 3]), ("/gone", [1])):
        deliveries = [delivery for called, delivery in seen if called == path]
        assert [delivery["attempt"] for delivery in deliveries] == attempts
        for delivery in deliveries:
            assert delivery["received_at"].endswith("Z")
            assert delivery == {
                "id": ids[path],
                "attempt": delivery["attempt"],
                "received_at": deliveries[0]["received_at"],
                "replay_of": None,
                "verification": {"scheme": "github", "secret": "hook", "timestamp": None},
            }
