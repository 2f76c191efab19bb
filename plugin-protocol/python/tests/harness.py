"""Processes and sockets for the tests: a worker, a scripted gateway, and the real one."""

from __future__ import annotations

import base64
import http.client
import json
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "let-workers-in"
# Nothing waits this long unless it has failed.
PATIENCE_S = 60.0


class Process:
    """A process whose output is read as it comes. It dies with the `with` block."""

    def __init__(self, command: list[str], environment: dict[str, str], cwd: Path) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GEARWAY_")}
        self._process = subprocess.Popen(
            command,
            env={**inherited, "PYTHONUNBUFFERED": "1", **environment},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._grown = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._grown:
                self.lines.append(line.rstrip("\n"))
                self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := re.search(pattern, line))), None)

        with self._grown:
            self._grown.wait_for(lambda: found() or self._ended, PATIENCE_S)
        match = found()
        assert match, f"no line has {pattern!r}:\n{self.output()}"
        return match

    def output(self) -> str:
        return "\n".join(self.lines)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        code = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()


def worker_process(app: Path, gateway: str, *options: str, **environment: str) -> Process:
    """`gearway run`, with GEARWAY_COMMAND in its place when that is set."""
    command = os.environ.get("GEARWAY_COMMAND")
    start = shlex.split(command) if command else [sys.executable, "-m", "gearway"]
    variables = {"GEARWAY_GATEWAY": gateway, "GEARWAY_TOKEN": TOKEN, **environment}
    return Process([*start, "run", *options, str(app)], variables, app.parent)


@dataclass
class Asked:
    """A call to the admin listener."""

    method: str
    path: str
    authorization: str | None
    body: Any


Answer = tuple[int, Any]


@dataclass
class FakeGateway:
    """An admin listener that does as it is told, and calls workers."""

    lease_ms: int = 60_000
    script: Callable[[Asked], Answer | None] = lambda _: None
    """What to answer; None for what a gateway would."""
    asked: queue.Queue[Asked] = field(default_factory=queue.Queue)
    port: int = 0
    registrations: int = 0

    def __enter__(self) -> FakeGateway:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked = Asked(
                    self.command, self.path, self.headers.get("Authorization"), json.loads(body) if body else None
                )
                status, fields = gateway.script(asked) or gateway.usual(asked)
                gateway.asked.put(asked)
                text = b"" if fields is None else json.dumps(fields).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_POST = do_PUT = do_DELETE = answer

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def usual(self, asked: Asked) -> Answer:
        if asked.method == "POST":
            self.registrations += 1
            number = self.registrations
            return 201, {"worker_id": f"w{number}", "secret": f"s{number}", "lease_ms": self.lease_ms, "features": []}
        if asked.method == "PUT":
            return 200, {"lease_ms": self.lease_ms, "draining": False}
        return 204, None

    def next(self, method: str) -> Asked:
        """The next call with this method; others in between are passed over."""
        while True:
            asked = self.asked.get(timeout=PATIENCE_S)
            if asked.method == method:
                return asked

    def rest(self) -> list[Asked]:
        found = []
        while not self.asked.empty():
            found.append(self.asked.get())
        return found


@dataclass
class WorkerAnswer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """A connection to a worker, as a gateway has it."""

    def __init__(self, url: str) -> None:
        host, port = re.fullmatch(r"http://([^/]+):(\d+)/", url).groups()  # type: ignore[union-attr]
        self._connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)

    def send(self, body: bytes, secret: str | None, method: str = "POST") -> None:
        headers = {"Content-Type": "application/json"}
        if secret is not None:
            headers["Authorization"] = f"Bearer {secret}"
        self._connection.request(method, "/", body, headers)

    def receive(self) -> WorkerAnswer:
        response = self._connection.getresponse()
        return WorkerAnswer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def call(self, body: bytes, secret: str | None = "s1", method: str = "POST") -> WorkerAnswer:
        self.send(body, secret, method)
        return self.receive()

    def local_port(self) -> int:
        port: int = self._connection.sock.getsockname()[1]
        return port

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def envelope(
    name: str,
    method: str = "GET",
    body: bytes = b"",
    query: str = "",
    more: dict[str, list[str]] | None = None,
    **context: Any,
) -> bytes:
    path = "/" + name.replace(":", "/").removeprefix("/")
    header = {"Host": ["api.example.com"], **(more or {})}
    if body:
        header["Content-Length"] = [str(len(body))]
    return json.dumps(
        {
            "kind": "handler",
            "name": name,
            "context": {"request_id": "r1", "timeout_ms": 60_000, **context},
            "param": {
                "method": method,
                "path": path,
                "raw_path": path,
                "query_string": query,
                "params": {},
                "header": header,
                "body": base64.b64encode(body).decode(),
                "remote_addr": "203.0.113.9",
            },
        }
    ).encode()


class Gateway:
    """The real gateway, on ports that it keeps when it is started again."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._binary = binary
        self._folder = folder
        self._ports = ("127.0.0.1:0", "127.0.0.1:0")
        self.process: Process | None = None

    def start(self) -> None:
        public, admin = self._ports
        config = self._folder / "gateway.toml"
        config.write_text(
            f"""
data_dir = {json.dumps(str(self._folder / "data"))}
[public]
listen = "{public}"
[admin]
listen = "{admin}"
tokens = ["administer"]
registration_tokens = ["{TOKEN}"]
[auth]
client_keys = ["client-key"]
master_keys = ["master-key"]
[workers]
lease = "3s"
[secrets]
hook = "hook-secret"
"""
        )
        self.process = Process([self._binary, "serve", "--config", str(config)], {}, self._folder)
        line = self.process.wait_for_line('"listening"').string
        told = json.loads(line)
        told = told.get("fields", told)
        self._ports = (told["public"], told["admin"])

    @property
    def admin_url(self) -> str:
        return f"http://{self._ports[1]}"

    def kill(self) -> None:
        assert self.process is not None
        self.process.__exit__()

    def request(
        self, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> WorkerAnswer:
        connection = http.client.HTTPConnection(self._ports[0], timeout=PATIENCE_S)
        try:
            connection.request(method, target, body, headers or {})
            response = connection.getresponse()
            return WorkerAnswer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def __enter__(self) -> Gateway:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.__exit__()
