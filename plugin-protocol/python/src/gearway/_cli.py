"""The command `gearway`, as the Python package has it."""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import uvicorn
from uvicorn.supervisors import ChangeReload

import gearway

from . import _server, _settings, _standalone
from ._worker import Worker, sdk_version

_log = logging.getLogger("gearway")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    _prepare_process()
    if not Path(options.app).is_file():
        return _fail(f"there is no file {options.app}")
    try:
        settings = _settings.from_environment(Path(options.app).stem)
        listener = _server.bind(settings)
    except (_settings.SettingError, OSError) as error:
        return _fail(str(error))
    if options.reload:
        return _reload(options, settings, listener)
    return _run(options, settings, listener)


def run(*, threads: int | None = None, max_concurrency: int | None = None) -> None:
    """What ``gearway.run`` documents."""
    if not _standalone.registers_here:
        return
    for name, value in (("threads", threads), ("max_concurrency", max_concurrency)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name} must be a whole number, 1 or more, not {value!r}")
    _prepare_process()
    main_file = getattr(sys.modules["__main__"], "__file__", None)
    try:
        settings = _settings.from_environment(Path(main_file or "app").stem)
        listener = _server.bind(settings)
    except (_settings.SettingError, OSError) as error:
        sys.exit(_fail(str(error)))
    sys.exit(_serve(sys.modules["__main__"], settings, listener, threads, max_concurrency))


def _prepare_process() -> None:
    _configure_logging()
    # Tools that start and watch a worker read what handlers print.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Until there is something to drain.
        signal.signal(number, lambda *_: sys.exit(0))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gearway",
        description="Serves Python handlers to a Gearway gateway, which is another program of this name.",
    )
    parser.add_argument("--version", action="version", version=f"gearway {sdk_version()} (Python worker SDK)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="serve the handlers of a file",
        description="Serves the handlers of a file and keeps them registered with the gateway. SIGTERM drains.",
        epilog="Environment: GEARWAY_GATEWAY (the gateway's admin listener; http://127.0.0.1:3001), GEARWAY_TOKEN "
        "(a registration token), GEARWAY_NAME (the service's name; the file's stem), GEARWAY_LISTEN (host:port; "
        "127.0.0.1:0), GEARWAY_ADVERTISE (the URL that the gateway is to call; follows from the listener), GEARWAY_LOG "
        "(DEBUG, INFO, WARNING or ERROR).",
    )
    run.add_argument("app", metavar="FILE", help="a Python file, such as app.py")
    run.add_argument("--reload", action="store_true", help="start anew when a Python file beside FILE or below changes")
    run.add_argument(
        "--max-concurrency",
        type=_positive,
        metavar="N",
        help="take at most N calls at once (default: any number)",
    )
    run.add_argument(
        "--threads",
        type=_positive,
        metavar="N",
        help="run at most N handlers that are not async at once (default: --max-concurrency, or "
        f"{_standalone.DEFAULT_THREADS})",
    )
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, not {text!r}")
    return int(text)


def _run(options: argparse.Namespace, settings: _settings.Settings, listener: socket.socket) -> int:
    _standalone.registers_here = False
    try:
        module = _load(Path(options.app))
    except Exception:
        _log.exception("cannot load %s", options.app)
        return 1
    return _serve(module, settings, listener, options.threads, options.max_concurrency)


def _serve(
    module: ModuleType,
    settings: _settings.Settings,
    listener: socket.socket,
    threads: int | None,
    max_concurrency: int | None,
) -> int:
    worker: Worker = gearway.default_worker
    if not worker.routes:
        name = getattr(module, "__file__", None) or "the app"
        return _fail(f"{name} has no handlers: decorate a function with @gearway.handler")
    version = getattr(module, "__version__", "")
    return _server.serve(
        worker,
        settings,
        _server.Options(
            threads=threads or max_concurrency or _standalone.DEFAULT_THREADS,
            max_concurrency=max_concurrency,
            version=version if isinstance(version, str) else "",
        ),
        listener,
    )


def _load(file: Path) -> ModuleType:
    """Imports the file under its stem, with its folder importable, as `python FILE` has it."""
    file = file.resolve()
    sys.path.insert(0, str(file.parent))
    name = file.stem if file.stem not in sys.modules else f"gearway app {file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _reload(options: argparse.Namespace, settings: _settings.Settings, listener: socket.socket) -> int:
    """uvicorn's supervisor starts a child for each state of the files. The socket stays, and so does the URL."""
    folder = Path(options.app).resolve().parent
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config("gearway", log_config=None, reload=True, reload_dirs=[str(folder)])
    ChangeReload(config, target=functools.partial(_reloaded, options, settings), sockets=[listener]).run()
    return 0


def _reloaded(options: argparse.Namespace, settings: _settings.Settings, sockets: list[socket.socket] | None) -> None:
    _configure_logging()
    assert sockets, "the supervisor hands its socket on"
    code = _run(options, settings, sockets[0])
    if code:
        _log.error("waiting for a file to change")
    sys.exit(code)


def _configure_logging() -> None:
    level = os.environ.get("GEARWAY_LOG", "INFO").upper()
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        level=level if isinstance(logging.getLevelName(level), int) else "INFO",
    )


def _fail(message: str) -> int:
    sys.stderr.write(f"gearway: {message}\n")
    return 1
