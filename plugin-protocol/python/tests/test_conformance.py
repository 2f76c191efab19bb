"""The worker by the protocol's own measure: `gearway conform` of the gateway whose binary GEARWAY_BIN names."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

APP = Path(__file__).with_name("conformance.py")


@pytest.mark.gateway
def test_the_worker_keeps_the_whole_protocol() -> None:
    binary = os.environ.get("GEARWAY_BIN")
    if not binary:
        pytest.fail("GEARWAY_BIN must name a gateway binary", pytrace=False)
    command = os.environ.get("GEARWAY_COMMAND")
    start = shlex.split(command) if command else [sys.executable, "-m", "gearway"]
    worker = [*start, "run", "--max-concurrency", "4", str(APP)]
    conform = [binary, "conform", "--strict", "--", *worker]
    finished = subprocess.run(conform, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
