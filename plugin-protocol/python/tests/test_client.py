"""`gearway.testing.Client` keeps the gateway's rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gearway import Request, Response, Worker
from gearway.testing import Client, TestResponse


@pytest.fixture
def client() -> Iterator[Client]:
    worker = Worker()
    for name in ("foo", "abc/", "abc/def", "users/{id}", "users/me", "users/{id}/", "a:b", "grüße"):
        worker.handler(name, method=["GET", "POST"])(answering(name))
    worker.handler("private", user_required=True)(answering("private"))
    worker.handler("keyed", key_required=True)(answering("keyed"))
    with Client(worker) as client:
        yield client


def answer_of(response: TestResponse) -> Any:
    return response.json


def answering(name: str) -> Callable[[Request], object]:
    return lambda request: [name, request.path, request.params]


@pytest.mark.parametrize(
    ("path", "name", "params"),
    [
        ("/foo", "foo", {}),
        ("/abc/", "abc/", {}),
        ("/abc/x/y/", "abc/", {}),
        ("/abc/def", "abc/def", {}),
        ("/abc/def/", "abc/", {}),
        ("/users/me", "users/me", {}),
        ("/users/7", "users/{id}", {"id": "7"}),
        ("/users/7/x", "users/{id}/", {"id": "7"}),
        ("/users/a%20b", "users/{id}", {"id": "a b"}),
        ("/users/a%252f", "users/{id}", {"id": "a%2f"}),
        ("/a/b", "a:b", {}),
        ("/gr%C3%BC%C3%9Fe", "grüße", {}),
    ],
)
def test_paths(client: Client, path: str, name: str, params: dict[str, str]) -> None:
    answer = answer_of(client.get(path))
    assert (answer[0], answer[2]) == (name, params)


def test_nothing_matches(client: Client) -> None:
    assert client.get("/nothing").json == {"result": {"status": "OK"}}
    assert client.get("/foo/").json == {"result": {"status": "OK"}}
    for method, status in (("GET", 301), ("HEAD", 301), ("POST", 308)):
        response = client.open("/abc?x=1", method=method)
        assert (response.status_code, response.headers["Location"]) == (status, "/abc/?x=1")
    assert client.get("/abc//def").headers["Location"] == "/abc/def"
    assert answer_of(client.get("/abc", follow_redirects=True))[0] == "abc/"


def test_the_path_is_chosen_before_the_method(client: Client) -> None:
    response = client.put("/abc/def")
    assert response.status_code == 404
    assert answer_of(response)["error"]["name"] == "UndefinedOperation"


@pytest.mark.parametrize("path", ["/a%2fb", "/a%5Cb", "/a%00", "/a%zz", "/a/../b", "/a/%2e%2e/b", "/%ff"])
def test_paths_that_cannot_be(client: Client, path: str) -> None:
    # As it stands: the client's builder would tidy some of these.
    response = client.open(path="/", environ_overrides={"REQUEST_URI": path})
    assert response.status_code == 400
    assert answer_of(response)["error"]["code"] == 107


def test_credentials(client: Client) -> None:
    for path in ("/private", "/keyed"):
        assert answer_of(client.get(path))["error"]["code"] == 101
        assert client.get(path).status_code == 401
    assert client.get("/keyed", access_key_type="client").status_code == 200
    assert client.get("/private", access_key_type="master").status_code == 401
    assert client.get("/private", user_id="alice").status_code == 200


def test_headers_and_cookies() -> None:
    worker = Worker()

    @worker.handler("foo")
    def foo(request: Request) -> Response:
        response = Response("|".join([request.headers["X-Sent"], request.cookies.get("seen", "-")]))
        response.set_cookie("seen", "yes")
        response.headers.add("X-Many", "1")
        response.headers.add("X-Many", "2")
        return response

    with Client(worker) as client:
        first = client.get("/foo", headers={"X-Sent": "é"})
        assert first.text == "é|-"
        assert first.headers.getlist("X-Many") == ["1", "2"]
        assert client.get("/foo", headers={"X-Sent": "b"}).text == "b|yes"
