"""Where a cluster is looked for, and what is left of this process's own ways afterwards."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rayscale.design import plan_sweep
from rayscale.errors import EnvironmentUnusableError
from rayscale.ledger import Ledger
from rayscale.spec import SweepSpec
from rayscale.sweep.session import attached_ray
from rayscale.sweep.turns import holder_name


def test_an_address_without_a_cluster_is_refused_with_one_line(
    tiny_spec: SweepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # Ray's settings of a run must not stay for other tests
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    session = attached_ray(address, plan_sweep(tiny_spec), Ledger(tmp_path), print)
    with (
        pytest.raises(EnvironmentUnusableError, match=f"^--address {address}: no Ray cluster answers there.*$"),
        session,
    ):
        pytest.fail("there is no cluster")


def test_those_who_wait_are_told_the_job_or_the_process() -> None:
    assert holder_name("tiny", {"RAYSCALE_JOB": "tiny-1"}) == "sweep tiny (job tiny-1)"
    assert holder_name("tiny", {}) == f"sweep tiny (run by hand on {socket.gethostname()}, pid {os.getpid()})"
