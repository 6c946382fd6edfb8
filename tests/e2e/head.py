"""A Ray cluster of one node on loopback, as `ray start --head` makes it, with token authentication on."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rayscale.cluster.sockets import free_port
from rayscale.processtree import children_of

START_TIMEOUT_S = 120


@dataclass
class Head:
    """The running cluster."""

    directory: Path
    token: str
    secret: str
    dashboard: int
    agent: int
    process: subprocess.Popen[bytes]
    said: list[str] = field(default_factory=list)
    """Everything that clients printed."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def pids(self) -> list[int]:
        """List the processes of the cluster, jobs and trials included."""
        found, waiting = [], [self.process.pid]
        while waiting:
            found.append(waiting.pop())
            waiting += children_of(found[-1])
        return found

    def call(self, *arguments: str, token: str | None = None, timeout: float = 150) -> subprocess.CompletedProcess[str]:
        """Run the `rayscale` command as a user beside the cluster would; an empty token means none."""
        given = self.token if token is None else token
        environment = {**os.environ, "HOME": str(self.directory / "home"), "AWS_SECRET_ACCESS_KEY": self.secret}
        environment |= {"RAY_AUTH_TOKEN": given} if given else {}
        result = subprocess.run(
            [sys.executable, "-m", "rayscale.cli", *arguments, "--address", self.address],
            env=environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        self.said += [result.stdout, result.stderr]
        return result

    def answer(self, url: str, token: str | None = None, method: str = "GET") -> int:
        """Return the HTTP status of a request."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(url, headers=headers, method=method, data=b"{}" if method != "GET" else None)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code


@contextlib.contextmanager
def running_head() -> Iterator[Head]:
    """Start a cluster whose one node advertises one CPU device; end exactly its processes afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="rs-"))  # short: Ray's socket names have a limit
    head = Head(
        directory,
        token=f"canary-token-{secrets.token_hex(16)}",
        secret=f"canary-secret-{secrets.token_hex(16)}",
        dashboard=free_port(),
        agent=free_port(),
        process=subprocess.Popen(["true"]),
    )
    (directory / "home").mkdir()
    (directory / "token").write_text(head.token, encoding="utf-8")
    head.process = _start(head)
    try:
        _await(head)
        yield head
    finally:
        pids = head.pids()
        head.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.process.wait(15)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        head.process.wait(10)
        shutil.rmtree(directory, ignore_errors=True)


def _start(head: Head) -> subprocess.Popen[bytes]:
    # The program that starts Ray in cluster.yaml: its environment's bin directory is on the PATH.
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(head.directory / "home"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(head.directory / "token"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its servers listen on loopback alone
        "AWS_SECRET_ACCESS_KEY": head.secret,
    }
    options = {
        "node-ip-address": "127.0.0.1",
        "port": free_port(),
        "dashboard-host": "127.0.0.1",
        "dashboard-port": head.dashboard,
        "dashboard-agent-listen-port": head.agent,
        "ray-client-server-port": free_port(),
        "min-worker-port": 0,  # any free ones: the default range may hold the ports above
        "max-worker-port": 0,
        "num-cpus": 3,
        "resources": '{"cpu:test-0": 1}',
        "object-store-memory": 100_000_000,
        "temp-dir": head.directory / "ray",
    }
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block"]
    command += ["--disable-usage-stats", *(f"--{name}={value}" for name, value in options.items())]
    with (head.directory / "head.log").open("wb") as log:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=head.directory
        )


def _await(head: Head) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and head.process.poll() is None:
        with contextlib.suppress(OSError):
            agent = f"http://127.0.0.1:{head.agent}/api/local_raylet_healthz"  # it starts the jobs, and comes up last
            if head.answer(f"{head.address}/api/version", head.token) == 200 and head.answer(agent, head.token) == 200:
                return
        time.sleep(0.3)
    raise RuntimeError("Ray did not start: " + (head.directory / "head.log").read_text(encoding="utf-8")[-2000:])
