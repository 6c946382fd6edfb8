from __future__ import annotations

import json
import os
import socket
import sys
import urllib.request
from pathlib import Path

import pytest
from ledgers import example_spec, make_ledger

from rayscale.cluster.sockets import listeners
from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.tracking.mirror import Mirror, SyncReport
from rayscale.tracking.ui import check_port, serve_ui, ui_command


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_command_is_small_and_on_loopback():
    command, env = ui_command("sqlite:////s/mlflow.db", Path("/s/mlartifacts"), 5000)
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--workers") + 1] == "1"
    assert command[command.index("--backend-store-uri") + 1] == "sqlite:////s/mlflow.db"
    assert env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert env["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_server_needs_no_server(tmp_path):
    with pytest.raises(InputError, match="is a server already"):
        ui_command("http://host:5000", None, 5000)
    said: list[str] = []
    serve_ui("http://ann:pw@host:5000", None, 5000, said.append)
    assert said == ["MLflow runs at http://ann:***@host:5000"]


def test_a_busy_port_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentUnusableError) as caught:
            serve_ui(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, port, print)
    assert str(caught.value).startswith(f"port {port} on 127.0.0.1 cannot be used (")
    assert "\n" not in str(caught.value)
    check_port(free_port())
    with pytest.raises(EnvironmentUnusableError):
        check_port(70_000)


def test_a_server_that_ends_says_why(tmp_path):
    with pytest.raises(EnvironmentUnusableError, match="MLflow's server ended with code"):
        serve_ui("nonsense+driver://x/y", None, free_port(), lambda line: None)


def descendants() -> set[int]:
    """List the processes that this one has started, and theirs."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # ended meanwhile
            continue
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def test_pages_are_served_and_a_server_is_mirrored_to(tmp_path, capfd):
    ledger = make_ledger(tmp_path, example_spec(1))
    mirror = Mirror(ledger, None)
    mirror.sync()
    port, said, seen, synced, open_sockets = free_port(), [], [], [], []

    def look_then_stop() -> bool:
        """Once the address is said: ask the server as a browser would, then have it stopped."""
        address = [line for line in said if "MLflow is at" in line]
        if address:
            body = json.dumps({"experiment_ids": ["1"]}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=20) as answer:
                seen.extend(run["info"]["run_name"] for run in json.load(answer)["runs"])
            open_sockets.extend(listeners(descendants()))
            remote = make_ledger(tmp_path / "other", example_spec(1, name="remote"))
            server = f"http://127.0.0.1:{port}"
            synced.extend(Mirror(remote, server).sync() for _ in range(2))
        return bool(address)

    serve_ui(mirror.uri, tmp_path / "mlartifacts", port, said.append, experiment="quickstart", stop=look_then_stop)
    assert f"http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning" in said[-1]
    assert port in {listener.port for listener in open_sockets}
    assert [listener for listener in open_sockets if not listener.loopback] == []
    assert sorted(seen) == ["quickstart", "tok=12.5K/rep=00", "tok=25K/rep=00", "tok=50K/rep=00"]
    assert synced == [SyncReport(created=4, updated=0, unchanged=0), SyncReport(created=0, updated=0, unchanged=4)]
    assert len(list((tmp_path / "mlartifacts").rglob("power.parquet"))) == 6  # 3 written here, 3 through the server
    assert capfd.readouterr().out == ""  # MLflow would print the address of every run
    check_port(port)  # nothing listens any more
