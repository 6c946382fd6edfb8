"""The line of `cluster.yaml` that starts MLflow on the head, run as it stands there: loopback, proxied artifacts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from e2e.loopback_nodes import MARK, end, marked

from rayscale.cluster.reach import MLFLOW_PORT
from rayscale.cluster.sockets import free_port, listeners

pytestmark = pytest.mark.e2e

FILE = Path(__file__).parents[2] / "cluster.yaml"
SECRET = "canary-password"


def start_command() -> str:
    """Return the command, with another port."""
    [command] = [
        text for text in yaml.safe_load(FILE.read_text())["head_start_ray_commands"] if "mlflow server" in text
    ]
    assert f"--port {MLFLOW_PORT} " in command
    return str(command)


@dataclass(frozen=True)
class Server:
    """MLflow on a head whose home is a directory."""

    home: Path
    port: int
    node: str

    def call(self, path: str, method: str = "GET", data: bytes | None = None) -> bytes:
        address = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(urllib.request.Request(address, data, method=method), timeout=20) as answer:
            return bytes(answer.read())

    def await_health(self) -> None:
        deadline = time.monotonic() + 90
        while True:
            try:
                self.call("/health")
            except OSError:
                assert time.monotonic() < deadline, (self.home / "mlflow.log").read_text()
                time.sleep(0.2)
            else:
                return


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("head")
    (home / "rayscale-env").symlink_to(sys.prefix)
    store = f"sqlite:///{home}/{SECRET}.db"  # stands for an address with a password
    (home / ".profile").write_text(
        f"export RAYSCALE_STORAGE={home}/bucket MLFLOW_BACKEND_STORE_URI={store}\n", encoding="utf-8"
    )
    found = Server(home, free_port(), f"mlflow-{os.getpid()}")
    command = start_command().replace(f"--port {MLFLOW_PORT} ", f"--port {found.port} ")
    environment = {**os.environ, "HOME": str(home), MARK: found.node}
    try:
        subprocess.run(["bash", "-c", command], env=environment, cwd=home, check=True, timeout=30)
        found.await_health()
        yield found
    finally:
        end(found.node)


def test_it_listens_on_loopback_with_one_worker_and_shows_no_password(server: Server) -> None:
    pids = marked(server.node)
    found = [listener for listener in listeners(pids) if listener.port == server.port]
    assert found
    assert all(listener.loopback for listener in listeners(pids))
    lines = [Path("/proc", str(pid), "cmdline").read_bytes() for pid in pids]
    assert any(b"server" in line for line in lines)
    assert not any(SECRET.encode() in line for line in lines)
    assert (server.home / f"{SECRET}.db").exists()  # the store that the setting names


def test_artifacts_go_through_it_to_the_storage_of_the_sweeps(server: Server) -> None:
    server.call("/api/2.0/mlflow-artifacts/artifacts/run/power.parquet", "PUT", b"trace")
    assert (server.home / "bucket" / "mlflow" / "run" / "power.parquet").read_bytes() == b"trace"
    assert server.call("/api/2.0/mlflow-artifacts/artifacts/run/power.parquet") == b"trace"
