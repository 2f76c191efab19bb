"""What the decorator takes, what handlers may return and raise, and what they see."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from werkzeug.exceptions import NotFound, TooManyRequests, Unauthorized, abort

import gearway
from gearway import Error, ErrorCode, Request, Response, Worker
from gearway.testing import Client


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def client(worker: Worker) -> Iterator[Client]:
    with Client(worker) as client:
        yield client


def test_the_decorators_parameters_are_the_seeds(worker: Worker) -> None:
    parameters = inspect.signature(gearway.handler).parameters
    assert list(parameters)[:3] == ["name", "method", "user_required"]
    assert list(parameters["method"].default) == ["GET", "POST", "PUT"]
    assert parameters["user_required"].default is False

    def function(request: Request) -> str:
        return "plain"

    assert worker.handler("foo", ["GET"], True)(function) is function
    assert worker.routes[0].registration() == {
        "name": "foo",
        "methods": ["GET"],
        "key_required": False,
        "user_required": True,
        "idempotent": False,
    }


def test_options_reach_the_registration(worker: Worker) -> None:
    delivery: gearway.DeliverySpec = {"mode": "durable"}
    worker.handler(
        "pay/stripe",
        method="post",
        key_required=True,
        timeout=timedelta(milliseconds=1500),
        idempotent=True,
        verify={"scheme": "stripe", "secret": "stripe-live"},
        delivery=delivery,
    )(print)
    assert worker.registration("1.2", 64) == {
        "protocol": "gearway-v1",
        "version": "1.2",
        "max_concurrency": 64,
        "features": [],
        "handlers": [
            {
                "name": "pay/stripe",
                "methods": ["POST"],
                "key_required": True,
                "user_required": False,
                "idempotent": True,
                "timeout_ms": 1500,
                "verify": {"scheme": "stripe", "secret": "stripe-live"},
                "delivery": {"mode": "durable"},
            }
        ],
    }


def test_one_path_may_have_functions_for_several_methods(worker: Worker, client: Client) -> None:
    worker.handler("my_endpoint", method=["GET"])(lambda request: "got")
    worker.handler("my_endpoint", method=["POST"])(lambda request: "posted")
    assert client.get("/my_endpoint").text == "got"
    assert client.post("/my_endpoint").text == "posted"
    assert client.put("/my_endpoint").status_code == 404


@pytest.mark.parametrize("other", ["a/{b}", "/a/{b}", "a:{other}"])
def test_two_handlers_for_one_path_and_method(worker: Worker, other: str) -> None:
    worker.handler("a/{b}", method=["GET"])(print)
    with pytest.raises(ValueError, match="two handlers: print and print"):
        worker.handler(other, method=["PUT", "GET"])(print)
    worker.handler(other, method=["PUT"])(print)
    worker.handler("a/{b}/", method=["GET"])(print)


def test_mistakes_are_told_where_they_are_made(worker: Worker) -> None:
    with pytest.raises(ValueError, match="not FETCH"):
        worker.handler("foo", method=["GET", "FETCH"])(print)
    with pytest.raises(ValueError, match="not none"):
        worker.handler("foo", method=[])(print)
    with pytest.raises(ValueError, match="its path"):
        worker.handler("")(print)
    with pytest.raises(ValueError, match="in seconds"):
        worker.handler("foo", timeout=0)(print)
    with pytest.raises(ValueError, match="'shop/'"):
        worker.mount("shop", lambda environ, start_response: [])


def test_options_of_a_mount_reach_the_registration(worker: Worker) -> None:
    worker.mount(
        "hooks/",
        lambda environ, start_response: [],
        timeout=2,
        idempotent=True,
        verify={"scheme": "github", "secret": "hub"},
        delivery={"mode": "durable"},
    )
    assert worker.routes[0].registration() == {
        "name": "hooks/",
        "methods": ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"],
        "key_required": False,
        "user_required": False,
        "idempotent": True,
        "timeout_ms": 2000,
        "verify": {"scheme": "github", "secret": "hub"},
        "delivery": {"mode": "durable"},
    }


@pytest.mark.parametrize("option", ["verify", "delivery"])
@pytest.mark.parametrize("wrong", ["durable", ["durable"], 5, {"mode": b"durable"}, {"attempts": float("nan")}])
def test_what_is_no_object_of_json_is_told_where_it_is_written(worker: Worker, option: str, wrong: Any) -> None:
    options: dict[str, Any] = {option: wrong}
    with pytest.raises(TypeError, match=f"'pay/stripe': {option} must be a dict"):
        worker.handler("pay/stripe", **options)(print)
    assert worker.routes == []


@pytest.mark.parametrize("option", ["user_required", "key_required", "idempotent"])
def test_what_is_yes_or_no_is_a_bool(worker: Worker, option: str) -> None:
    options: dict[str, Any] = {option: "no"}
    with pytest.raises(TypeError, match=f"'foo': {option} must be True or False, not 'no'"):
        worker.handler("foo", **options)(print)
    with pytest.raises(TypeError, match=f"'shop/': {option} must be True or False, not 'no'"):
        worker.mount("shop/", lambda environ, start_response: [], **options)


@pytest.mark.parametrize("wrong", ["5", [1], True, float("nan"), float("inf"), 0, -1, timedelta(0)])
def test_a_timeout_is_told_where_it_is_written(worker: Worker, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="'foo': timeout is in seconds and at least"):
        worker.handler("foo", timeout=wrong)(print)
    with pytest.raises((TypeError, ValueError), match="'shop/': timeout is in seconds"):
        worker.mount("shop/", lambda environ, start_response: [], timeout=wrong)


@pytest.mark.parametrize("wrong", [None, 5, [None], [5], b"GET", [], "TRACE", "GET,POST"])
def test_methods_are_told_where_they_are_written(worker: Worker, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="'foo': method must be some of GET, POST"):
        worker.handler("foo", method=wrong)(print)


def test_a_decorator_without_its_name_is_told(worker: Worker) -> None:
    """It would take the function for the name, and register nothing."""
    handler: Any = worker.handler
    with pytest.raises(ValueError, match="a handler's name is its path"):
        handler(print)


def test_what_cannot_be_called_is_told(worker: Worker) -> None:
    nothing: Any = None
    with pytest.raises(TypeError, match="'foo': a handler is a function, not None"):
        worker.handler("foo")(nothing)
    with pytest.raises(TypeError, match="'shop/': an application can be called, unlike None"):
        worker.mount("shop/", nothing)
    with pytest.raises(ValueError, match="a handler's name is its path"):
        worker.mount(nothing, nothing)
    interface: Any = "flask"
    with pytest.raises(ValueError, match="'shop/': interface must be 'auto', 'wsgi' or 'asgi', not 'flask'"):
        worker.mount("shop/", lambda environ, start_response: [], interface=interface)
    assert worker.routes == []


@dataclass
class Point:
    x: int


RETURNS: list[tuple[object, int, str | None, bytes]] = [
    ("hello", 200, "text/plain; charset=utf-8", b"hello"),
    ("", 200, "text/plain; charset=utf-8", b""),
    ("Grüße 😀 \x00", 200, "text/plain; charset=utf-8", "Grüße 😀 \x00".encode()),
    ({"a": [1, None, "ü"]}, 200, "application/json", '{"a":[1,null,"ü"]}'.encode()),
    ([], 200, "application/json", b"[]"),
    (12345678901234567890, 200, "application/json", b"12345678901234567890"),
    (0, 200, "application/json", b"0"),
    (1.5, 200, "application/json", b"1.5"),
    (True, 200, "application/json", b"true"),
    (None, 200, "application/json", b"null"),
    (b"\xff\x00", 200, "application/octet-stream", b"\xff\x00"),
    (("no", 404), 404, "text/plain; charset=utf-8", b"no"),
    (({"id": 1}, 201, {"Location": "/1"}), 201, "application/json", b'{"id":1}'),
    (("<p>", 200, [("Content-Type", "text/html")]), 200, "text/html", b"<p>"),
    ((None, 204), 204, None, b""),
    (Response("made", 201, mimetype="text/html"), 201, "text/html; charset=utf-8", b"made"),
    (Response(iter([b"a", b"b"])), 200, "text/plain; charset=utf-8", b"ab"),
    (Response(status=304), 304, "text/plain; charset=utf-8", b""),
]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("value", "status", "content_type", "body"), RETURNS, ids=lambda value: repr(value)[:30])
def test_returns(
    worker: Worker,
    client: Client,
    value: object,
    status: int,
    content_type: str | None,
    body: bytes,
    asynchronous: bool,
) -> None:
    if isinstance(value, Response) and not value.is_sequence:
        value = Response(iter([b"a", b"b"]))
    worker.handler("foo")(as_async(lambda request: value) if asynchronous else lambda request: value)
    response = client.get("/foo")
    assert response.status_code == status
    if content_type is not None and status != 304:
        assert response.headers["Content-Type"] == content_type
    if content_type == "application/json":
        assert json.loads(response.data) == json.loads(body)
    else:
        assert response.data == body


def as_async(function: Callable[[Request], object]) -> Callable[[Request], Any]:
    async def handler(request: Request) -> object:
        await asyncio.sleep(0)
        return function(request)

    return handler


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Point(1), "the handler returned a Point; it may return a str"),
        ({1, 2}, "the handler returned a set"),
        ({"a": Point(1)}, "Point is not JSON serializable"),
        (float("nan"), "Out of range float values"),
        ([float("inf")], "Out of range float values"),
        ("\ud800", "surrogates not allowed"),
        (("a", "b"), "is the status, an int"),
        (("a", 700), "cannot have status 700"),
        (Response("x", headers={"X-A": "→"}), "X-A has a character that is not Latin-1"),
        (Response("x", headers={"X-A": "\x00"}), "X-A has a control character"),
        (("x", 200, {"X A": "1"}), "'X A' is no header's name"),
        (("x", 200, {"": "1"}), "'' is no header's name"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_cannot_be_returned_is_told_to_the_log(
    worker: Worker,
    client: Client,
    caplog: pytest.LogCaptureFixture,
    value: object,
    told: str,
    asynchronous: bool,
) -> None:
    worker.handler("foo")(as_async(lambda request: value) if asynchronous else lambda request: value)
    response = client.get("/foo")
    assert response.status_code == 500
    assert response.json == {
        "error": {"name": "UnexpectedError", "code": 130, "message": "the handler failed", "request_id": "test"}
    }
    assert told in caplog.text


UNEXPECTED = {"name": "UnexpectedError", "code": 130, "message": "the handler failed"}


def raising(error: BaseException) -> Callable[[Request], object]:
    def handler(request: Request) -> object:
        raise error

    return handler


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (Error(ErrorCode.DUPLICATED, "taken"), 409, {"name": "Duplicated", "code": 109, "message": "taken"}),
        (Error(110), 404, {"name": "ResourceNotFound", "code": 110, "message": ""}),
        (
            Error(10_001, "only 4 left", name="SoldOut", info={"left": 4}),
            500,
            {"name": "SoldOut", "code": 10001, "message": "only 4 left", "info": {"left": 4}},
        ),
        (Error(10_002, "?"), 500, {"name": "HandlerError", "code": 10002, "message": "?"}),
        (
            Error(10_003, info={"x": object()}),
            500,
            UNEXPECTED,
        ),
        (KeyError("canary"), 500, UNEXPECTED),
        (SystemExit(3), 500, UNEXPECTED),
        (StopIteration("canary"), 500, UNEXPECTED),
        (GeneratorExit("canary"), 500, UNEXPECTED),
        (asyncio.CancelledError(), 500, UNEXPECTED),
        (NotFound("no such order"), 404, {"name": "ResourceNotFound", "code": 110, "message": "no such order"}),
        (Unauthorized("who?"), 401, {"name": "NotAuthenticated", "code": 101, "message": "who?"}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_raises(
    worker: Worker,
    client: Client,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    status: int,
    expected: dict[str, Any],
    asynchronous: bool,
) -> None:
    worker.handler("foo")(as_async(raising(error)) if asynchronous else raising(error))
    response = client.get("/foo")
    assert response.status_code == status
    assert response.json == {"error": {**expected, "request_id": "test"}}
    unexpected = expected["code"] == 130
    assert (logging.ERROR in [record.levelno for record in caplog.records]) == unexpected
    assert ("Traceback" in caplog.text) == unexpected


def test_codes_that_are_nobodys() -> None:
    with pytest.raises(ValueError, match="your own start at 10000"):
        Error(500, "?")
    with pytest.raises(ValueError, match="your own start at 10000"):
        Error(2**32, "?")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("sold out", 10_001), "code must be an int, not 'sold out'"),
        ((10_001.5, "sold out"), "code must be an int, not 10001.5"),
        ((10_001, 5), "message must be a str, not 5"),
    ],
)
def test_an_error_that_no_reply_can_hold_is_told_where_it_is_made(arguments: Any, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        Error(*arguments)
    name: Any = 5
    with pytest.raises(TypeError, match="name must be a str, not 5"):
        Error(10_001, name=name)
    info: Any = ["left", 4]
    with pytest.raises(TypeError, match="info must be a dict, not \\['left', 4\\]"):
        Error(10_001, info=info)


def test_http_exceptions_keep_their_status_and_headers(worker: Worker, client: Client) -> None:
    worker.handler("busy")(raising(TooManyRequests("slowly", retry_after=7)))
    response = client.get("/busy")
    assert (response.status_code, response.headers["Retry-After"]) == (429, "7")
    assert response.json == {"error": {"name": "BadRequest", "code": 107, "message": "slowly", "request_id": "test"}}

    @worker.handler("own")
    def own(request: Request) -> None:
        abort(Response("mine", 418))

    response = client.get("/own")
    assert (response.status_code, response.text) == (418, "mine")


def test_a_missing_argument_is_named(worker: Worker, client: Client) -> None:
    worker.handler("foo")(lambda request: request.args["key"])
    response = client.get("/foo")
    assert response.status_code == 400
    assert response.json == {
        "error": {
            "name": "InvalidArgument",
            "code": 108,
            "message": "key is missing",
            "info": {"arguments": ["key"]},
            "request_id": "test",
        }
    }


def test_the_seeds_arguments(worker: Worker, client: Client) -> None:
    @worker.handler("get_query_string")
    def query(request: Request) -> object:
        params = request.args
        return {"key": params["key"], "value": int(params["value"])}

    @worker.handler("form")
    def form(request: Request) -> object:
        return {"a": int(request.form["a"]), "b": request.form["b"]}

    @worker.handler("json")
    def body(request: Request) -> object:
        s = request.get_data().decode(request.charset, request.encoding_errors)
        return {"name": json.loads(s).get("name")}

    @worker.handler("url/")
    def url(request: Request) -> object:
        return {"path": request.full_path[len("/url/") :]}

    @worker.handler("files")
    def files(request: Request) -> object:
        file = request.files["file"]
        return [file.filename, file.read().decode(), request.form["note"]]

    assert client.get("/get_query_string?key=month&value=10").json == {"key": "month", "value": 10}
    assert client.post("/form", data={"a": "3", "b": "at"}).json == {"a": 3, "b": "at"}
    assert client.post("/json", json={"name": "John"}).json == {"name": "John"}
    assert client.get("/url/more/levels?level=3").json == {"path": "more/levels?level=3"}
    upload = {"file": (io.BytesIO(b"content"), "a.txt"), "note": "n"}
    assert client.post("/files", data=upload).json == ["a.txt", "content", "n"]
    # Werkzeug's own limit on form fields is half a megabyte; the gateway's limit is the one that counts.
    assert client.post("/form", data={"a": "3", "b": "x" * 2_000_000}).json == {"a": 3, "b": "x" * 2_000_000}


def test_plain_handlers_run_at_the_same_time(worker: Worker) -> None:
    """Each waits for the other, in threads; asynchronous ones meet on the loop."""
    barrier = threading.Barrier(2, timeout=60)
    worker.handler("plain/")(lambda request: barrier.wait() >= 0)
    meeting: list[asyncio.Event] = []

    @worker.handler("async/")
    async def meet(request: Request) -> bool:
        if meeting:
            meeting[0].set()
        else:
            meeting.append(asyncio.Event())
            await meeting[0].wait()
        return True

    with Client(worker) as client, ThreadPoolExecutor() as pool:
        for path in ("/plain/", "/async/"):
            answers = [pool.submit(client.get, path) for _ in "ab"]
            assert [answer.result().json for answer in answers] == [True, True]


def test_the_context_follows_into_threads_and_tasks(worker: Worker) -> None:
    seen = contextvars.ContextVar("seen", default="")

    @worker.handler("plain", user_required=True)
    def plain(request: Request) -> object:
        assert threading.current_thread().name.startswith("gearway-handler")
        before = seen.get()
        seen.set("touched")
        return [gearway.current_user_id(), before]

    async def below() -> str | None:
        await asyncio.sleep(0)
        return gearway.current_user_id()

    @worker.handler("async")
    async def asynchronous(request: Request) -> object:
        task = asyncio.create_task(below())
        return [await task, await asyncio.to_thread(gearway.current_user_id), request.context.user_id]

    @worker.handler("partial")
    def handed_on(request: Request) -> object:
        return below()

    @worker.handler("stream")
    def stream(request: Request) -> Response:
        return Response(str(gearway.current_user_id()) for _ in "ab")

    with Client(worker, user_id="alice") as client:
        for user in ("alice", "bob"):
            assert client.get("/plain", user_id=user).json == [user, ""]
            assert client.get("/async", user_id=user).json == [user] * 3
            assert client.get("/partial", user_id=user).text == user
            assert client.get("/stream", user_id=user).text == user * 2
    assert gearway.current_user_id() is None
    assert gearway.current_context() is None


def test_the_whole_context(worker: Worker, client: Client) -> None:
    @worker.handler("foo", timeout=1)
    def foo(request: Request) -> object:
        context = gearway.current_context()
        assert context is not None
        assert context == request.context
        return [context.request_id, context.user_id, context.access_key_type, context.timeout_ms]

    assert client.get("/foo").json == ["test", None, None, 1000]
    assert client.get("/foo", access_key_type="master").json == ["test", None, "master", 1000]
    assert client.get("/foo", user_id="bob").json == ["test", "bob", "client", 1000]


def test_a_stored_webhook_s_context(worker: Worker, client: Client) -> None:
    def delivery(request: Request) -> object:
        return request.context.delivery

    worker.handler("plain", verify={"scheme": "github", "secret": "github"})(delivery)
    worker.handler("sync", delivery={"mode": "sync"})(delivery)
    worker.handler("kept", delivery={"mode": "deadline"})(delivery)
    worker.handler("signed", verify={"scheme": "github", "secret": "hub"}, delivery={"mode": "durable"})(delivery)
    assert client.post("/plain").json is None
    assert client.post("/sync").json is None
    kept = {"id": "test", "attempt": 1, "received_at": "2000-01-01T00:00:00.000Z", "replay_of": None}
    assert client.post("/kept").json == {**kept, "verification": None}
    verification = {"scheme": "github", "secret": "hub", "timestamp": None}
    assert client.post("/signed").json == {**kept, "verification": verification}


def test_type_checkers_know_the_fields_of_webhooks(worker: Worker) -> None:
    """mypy, which runs over this, tells of a comment that ignores no error."""

    @worker.handler(
        "a", verify={"scheme": "stripe", "secret": "live"}, delivery={"mode": "durable", "ack": {"body": 1}}
    )
    def first(request: Request) -> str:
        delivery = request.context.delivery
        if delivery is None or delivery["verification"] is None:
            return ""
        return f"{delivery['attempt'] + 1} {delivery['verification']['scheme'].upper()}"

    worker.handler("b", verify={"scheme": "stripy", "secret": "live"})(print)  # type: ignore[arg-type]
    worker.handler("c", verify={"scheme": "stripe"})(print)  # type: ignore[arg-type]
    worker.handler("d", delivery={"mod": "durable"})(print)  # type: ignore[arg-type]


def test_callables_of_every_kind(worker: Worker, client: Client) -> None:
    class Synchronous:
        def __call__(self, request: Request) -> str:
            return threading.current_thread().name

    class Asynchronous:
        async def __call__(self, request: Request) -> str:
            return threading.current_thread().name

    async def named(name: str, request: Request) -> str:
        return name

    worker.handler("a")(Synchronous())
    worker.handler("b")(Asynchronous())
    worker.handler("c")(functools.partial(named, "c"))
    assert client.get("/a").text.startswith("gearway-handler")
    assert client.get("/b").text == "gearway-loop"
    assert client.get("/c").text == "c"
