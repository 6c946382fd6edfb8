"""What the tests of the slot share."""

from __future__ import annotations

import pytest

from rayscale.sweep.forkserver import ForkServer
from rayscale.training.preload import PRELOAD


@pytest.fixture(scope="module")
def forks() -> ForkServer:
    server = ForkServer(["rayscale.trial", *PRELOAD])
    assert server.missing() == []
    return server
