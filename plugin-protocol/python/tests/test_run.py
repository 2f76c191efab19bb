"""`gearway.run()`: a file that is started by itself."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from harness import TOKEN, Caller, FakeGateway, Process, envelope, worker_process

APP = """
import gearway

@gearway.handler("foo")
def foo(request):
    return "ran"

gearway.run(max_concurrency=7)
"""


def write(folder: Path, text: str) -> Path:
    app = folder / "alone.py"
    app.write_text(text)
    return app


def test_a_file_serves_itself_until_sigterm(fake_gateway: FakeGateway, tmp_path: Path) -> None:
    variables = {"GEARWAY_GATEWAY": fake_gateway.url, "GEARWAY_TOKEN": TOKEN}
    with Process([sys.executable, str(write(tmp_path, APP))], variables, tmp_path) as process:
        registration = fake_gateway.next("POST").body
        assert (registration["name"], registration["max_concurrency"]) == ("alone", 7)
        assert [handler["name"] for handler in registration["handlers"]] == ["foo"]
        with Caller(registration["url"]) as caller:
            assert caller.call(envelope("foo")).json == {"result": {"type": "text", "value": "ran"}}
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert fake_gateway.next("DELETE").path.startswith("/v1/workers/")


def test_gearway_run_serves_the_same_file(fake_gateway: FakeGateway, tmp_path: Path) -> None:
    with worker_process(write(tmp_path, APP), fake_gateway.url):
        registration = fake_gateway.next("POST").body
        assert registration["name"] == "alone"
        # The command's own options count, and the file is served once.
        assert "max_concurrency" not in registration


@pytest.mark.parametrize(
    ("text", "variables", "said"),
    [
        ("import gearway\ngearway.run()\n", {"GEARWAY_TOKEN": TOKEN}, "has no handlers"),
        (APP, {}, "GEARWAY_TOKEN is not set"),
        (APP.replace("=7", "=0"), {"GEARWAY_TOKEN": TOKEN}, "a whole number, 1 or more, not 0"),
        (
            APP.replace("=7", "='7'"),
            {"GEARWAY_TOKEN": TOKEN},
            "max_concurrency must be a whole number, 1 or more",
        ),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path: Path, text: str, variables: dict[str, str], said: str) -> None:
    with Process([sys.executable, str(write(tmp_path, text))], variables, tmp_path) as process:
        assert process.wait() == 1
        assert any(said in line for line in process.lines), process.lines


def test_an_option_that_is_no_number_is_said(fake_gateway: FakeGateway, tmp_path: Path) -> None:
    with worker_process(write(tmp_path, APP), fake_gateway.url, "--threads", "1.5") as process:
        assert process.wait() == 2
        process.wait_for_line("argument --threads: must be a whole number, 1 or more, not '1.5'")
