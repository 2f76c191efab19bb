"""Whole applications under a subtree, unchanged."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import unquote

import django
import fastapi
import flask
import pytest
from django.conf import settings
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, StreamingResponse

import gearway
from gearway import Worker
from gearway.testing import Client


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def client(worker: Worker) -> Iterator[Client]:
    with Client(worker, user_id="alice") as client:
        yield client


def flask_app() -> flask.Flask:
    app = flask.Flask("shop")

    @app.route("/")
    def index() -> str:
        return flask.url_for("order", number=7)

    @app.route("/orders/<int:number>", methods=["GET", "DELETE", "PATCH"])
    def order(number: int) -> Any:
        user = gearway.current_user_id()
        return {"number": number, "method": flask.request.method, "user": user, "q": flask.request.args.getlist("q")}

    @app.route("/upload", methods=["POST"])
    def upload() -> Any:
        return flask.request.get_data(), 201, {"X-Root": flask.request.root_path}

    @app.route("/go/")
    def go() -> Any:
        return flask.redirect(flask.url_for("index"))

    @app.route("/boom")
    def boom() -> Any:
        raise KeyError("canary")

    return app


def fastapi_app() -> fastapi.FastAPI:
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[dict[str, Any]]:
        events.append("started")
        yield {"from_lifespan": "state"}
        events.append("stopped")

    app = fastapi.FastAPI(lifespan=lifespan)
    app.state.events = events

    @app.get("/")
    async def index(request: fastapi.Request) -> str:
        return str(request.url_for("order", number=7).path)

    @app.api_route("/orders/{number}", methods=["GET", "DELETE", "PATCH"])
    async def order(number: int, request: fastapi.Request) -> Any:
        user = gearway.current_user_id()
        return {"number": number, "method": request.method, "user": user, "q": request.query_params.getlist("q")}

    @app.post("/upload")
    async def upload(request: fastapi.Request) -> Any:
        body = await request.body()
        return fastapi.Response(body, 201, {"X-Root": request.scope["root_path"]})

    @app.get("/go/")
    def go(request: fastapi.Request) -> Any:
        return fastapi.responses.RedirectResponse(request.url_for("index").path, 302)

    @app.get("/boom")
    def boom() -> Any:
        raise KeyError("canary")

    @app.get("/state")
    def state(request: fastapi.Request) -> str:
        return str(request.state.from_lifespan)

    return app


def django_urls(request: Any, number: int = 0) -> Any:
    from django.http import HttpResponse, JsonResponse
    from django.urls import reverse

    if request.path_info == "/":
        return HttpResponse(reverse("order", args=[7]), content_type="text/plain")
    if request.path_info == "/upload":
        return HttpResponse(request.body, status=201, headers={"X-Root": request.META["SCRIPT_NAME"]})
    if request.path_info == "/go/":
        return HttpResponse(status=302, headers={"Location": reverse("index")})
    if request.path_info == "/boom":
        raise KeyError("canary")
    user = gearway.current_user_id()
    return JsonResponse({"number": number, "method": request.method, "user": user, "q": request.GET.getlist("q")})


@pytest.fixture(scope="module", autouse=True)
def django_project() -> None:
    from django.urls import path

    module = sys.modules[__name__]
    module.urlpatterns = [  # type: ignore[attr-defined]
        path("", django_urls, name="index"),
        path("orders/<int:number>", django_urls, name="order"),
        path("upload", django_urls),
        path("go/", django_urls),
        path("boom", django_urls),
    ]
    sys.modules["shop_urls"] = module
    settings.configure(
        ROOT_URLCONF="shop_urls", ALLOWED_HOSTS=["*"], DATABASES={}, DEBUG=False, LOGGING_CONFIG=None, SECRET_KEY="x"
    )
    django.setup()


def django_wsgi() -> Any:
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


def django_asgi() -> Any:
    from django.core.asgi import get_asgi_application

    return get_asgi_application()


@pytest.mark.parametrize("make", [flask_app, fastapi_app, django_wsgi, django_asgi], ids=lambda make: make.__name__)
@pytest.mark.parametrize(("name", "root"), [("shop/", "/shop"), ("/", ""), ("a:{tenant}/", "/a/büro")])
def test_an_application_answers_its_own_routes(
    worker: Worker, client: Client, make: Callable[[], Any], name: str, root: str
) -> None:
    worker.mount(name, make())
    assert worker.registration("", None)["handlers"][0]["methods"] == [
        "GET",
        "POST",
        "PUT",
        "DELETE",
        "PATCH",
        "HEAD",
        "OPTIONS",
    ]
    # Some frameworks quote what they write, others do not.
    assert unquote(client.get(root + "/").text.strip('"')) == f"{root}/orders/7"
    for method in ("GET", "DELETE", "PATCH"):
        response = client.open(root + "/orders/7?q=1&q=%C3%BC", method=method)
        assert response.json == {"number": 7, "method": method, "user": "alice", "q": ["1", "ü"]}
    body = bytes(range(256)) * 100
    response = client.post(root + "/upload", data=body)
    assert (response.status_code, response.data) == (201, body)
    response = client.get(root + "/go/")
    assert (response.status_code, unquote(response.headers["Location"])) == (302, root + "/")
    assert client.get(root + "/nothing").status_code == 404
    assert client.head(root + "/").data == b""


@pytest.mark.parametrize("make", [flask_app, fastapi_app, django_wsgi, django_asgi], ids=lambda make: make.__name__)
def test_an_applications_failure_stays_in_the_log(
    worker: Worker, client: Client, make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    worker.mount("shop/", make())
    response = client.get("/shop/boom")
    assert response.status_code == 500
    assert "canary" not in response.text
    assert "canary" in caplog.text


def test_a_lifespan_is_run(worker: Worker) -> None:
    app = fastapi_app()
    worker.mount("shop/", app)
    with Client(worker) as client:
        assert client.get("/shop/state").json == "state"
        assert app.state.events == ["started"]
    assert app.state.events == ["started", "stopped"]


def test_a_lifespan_that_fails_says_why(worker: Worker) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    worker.mount("shop/", fastapi.FastAPI(lifespan=lifespan))
    with Client(worker) as client, pytest.raises(RuntimeError, match="no database"):
        client.get("/shop/")


def test_a_response_does_not_wait_for_background_tasks(worker: Worker) -> None:
    app = fastapi.FastAPI()
    release = asyncio.Event()
    done: list[str] = []

    async def work() -> None:
        await release.wait()
        done.append("done")

    @app.get("/start")
    async def start() -> Any:
        return PlainTextResponse("started", background=BackgroundTask(work))

    @app.get("/release")
    async def let_go() -> Any:
        release.set()

    @app.get("/stream")
    async def stream() -> Any:
        return StreamingResponse(iter(["a", "b"]))

    worker.mount("shop/", app)
    with Client(worker) as client:
        assert client.get("/shop/start").text == "started"
        assert client.get("/shop/stream").text == "ab"
        client.get("/shop/release")
    assert done == ["done"], "closing waits for it"


def test_wsgi_applications_in_all_their_freedom(worker: Worker, client: Client) -> None:
    closed: list[bool] = []

    class Chunks:
        def __iter__(self) -> Iterator[bytes]:
            yield b"iterated"

        def close(self) -> None:
            closed.append(True)

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 Fine", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Name", "caf\xe9")])
        write(b"written, ")
        return Chunks()

    worker.mount("shop/", app)
    response = client.get("/shop/")
    assert response.text == "written, iterated"
    assert response.headers.getlist("Set-Cookie") == ["a=1", "b=2"]
    assert response.headers["X-Name"] == "café"
    assert closed == [True]


def test_an_asgi_application_that_breaks_off(worker: Worker, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})

    worker.mount("shop/", app, interface="asgi")
    assert client.get("/shop/").status_code == 500
    assert "without a complete response" in caplog.text


def test_handlers_go_before_the_application(worker: Worker, client: Client) -> None:
    worker.mount("shop/", flask_app())
    worker.handler("shop/orders/{number}", method=["GET"])(lambda request: f"mine: {request.params['number']}")
    assert client.get("/shop/orders/7").text == "mine: 7"
    assert client.get("/shop/").status_code == 200
