from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import FakeGateway, Gateway


@pytest.fixture
def fake_gateway() -> Iterator[FakeGateway]:
    with FakeGateway() as gateway:
        yield gateway


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    binary = os.environ.get("GEARWAY_BIN")
    if not binary:
        pytest.fail(
            "GEARWAY_BIN must name a gateway binary; leave these tests out with -m 'not gateway'", pytrace=False
        )
    folder = tmp_path / "gateway"
    folder.mkdir()
    with Gateway(binary, folder) as running:
        yield running
