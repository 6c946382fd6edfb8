"""Where a cluster is looked for, and what is left of this process's own ways afterwards."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rayscale.design import plan_sweep
from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.ledger import Ledger
from rayscale.spec import SweepSpec
from rayscale.sweep.session import attached_ray, checked_address
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


@pytest.mark.parametrize(("given", "taken"), [(None, None), ("", None), ("local", None), ("auto", "auto")])
def test_words_for_a_cluster(given: str | None, taken: str | None) -> None:
    assert checked_address(given) == taken


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "[::1]:6379", "head.lab:6379"])
def test_hosts_and_ports_are_addresses(address: str) -> None:
    assert checked_address(address) == address


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "10.0.0.1", "http://10.0.0.1:8265", "a b:1"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"expected auto or HOST:PORT"):
        checked_address(address)


def test_those_who_wait_are_told_the_job_or_the_process() -> None:
    assert holder_name("tiny", {"RAYSCALE_JOB": "tiny-1"}) == "sweep tiny (job tiny-1)"
    assert holder_name("tiny", {}) == f"sweep tiny (run by hand on {socket.gethostname()}, pid {os.getpid()})"
