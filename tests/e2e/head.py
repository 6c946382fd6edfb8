"""A Ray cluster on loopback, made by `ray up`, token on: a head without trials, and a worker when one is asked for."""

from __future__ import annotations

import contextlib
import os
import re
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

from loopback_nodes import end, marked

from rayscale.cluster.sockets import free_port

START_TIMEOUT_S = 120


@dataclass
class Head:
    """The running cluster."""

    directory: Path
    token: str
    port: int
    dashboard: int
    agent: int
    said: list[str] = field(default_factory=list)
    """Everything that clients printed."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def cluster_file(self) -> Path:
        return self.directory / "cluster.yaml"

    def pids(self) -> list[int]:
        """List the processes of the cluster, jobs and trials included."""
        return [pid for path in (self.directory / f"nodes-{self.name}").iterdir() for pid in marked(path.name)]

    def actors(self) -> list[str]:
        """List the actors of runs that are up."""
        found = []
        for pid in self.pids():
            with contextlib.suppress(OSError):  # ended meanwhile
                found.append(Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")[0].decode())
        return [name for name in found if re.match(r"ray::(Slot|ResourceTrainable|SamplerActor|Turn)", name)]

    def launch(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `ray up`, `ray exec` or `ray down` on the cluster file."""
        environment = {**os.environ, "TMPDIR": str(self.directory), "PYTHONPATH": str(Path(__file__).parent)}
        ray = [sys.executable, "-m", "loopback_ray"]
        result = subprocess.run(
            [*ray, command, str(self.cluster_file), *arguments],
            env={**environment, "HOME": str(self.directory / "home")},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        self.said += [result.stdout, result.stderr]
        return result

    def call(self, *arguments: str, token: str | None = None, timeout: float = 150) -> subprocess.CompletedProcess[str]:
        """Run the `rayscale` command as a user beside the cluster would; an empty token means none."""
        given = self.token if token is None else token
        environment = {**os.environ, "HOME": str(self.directory / "home")}
        environment |= {"RAY_AUTH_TOKEN": given} if given else {}
        result = subprocess.run(
            [str(Path(sys.executable).with_name("rayscale")), *arguments, "--address", self.address],
            env=environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        self.said += [result.stdout, result.stderr]
        return result

    @contextlib.contextmanager
    def by_hand(self, sweep: str, *, private: bool = False) -> Iterator[subprocess.Popen[str]]:
        """Run a sweep on the cluster as one does who sits at the head, without submitting it.

        With `private`, its storage is a disk that only this process sees (needs root).
        """
        storage = self.directory / "by-hand"
        storage.mkdir(exist_ok=True)
        mount = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(storage)] if private else []
        environment = {**os.environ, "HOME": str(self.directory / "home"), "RAYSCALE_CACHE": f"{self.directory}/cache"}
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        command = [str(Path(sys.executable).with_name("rayscale")), "run", sweep, "--address", f"127.0.0.1:{self.port}"]
        with subprocess.Popen(
            [*mount, *command, "--storage", str(storage)],
            env=environment,
            cwd=self.directory,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def answer(self, url: str, token: str | None = None, method: str = "GET") -> int:
        """Return the HTTP status of a request."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(url, headers=headers, method=method, data=b"{}" if method != "GET" else None)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code


CLUSTER = """\
cluster_name: {name}
max_workers: 1
idle_timeout_minutes: 10
provider: {{type: external, module: loopback_nodes.LoopbackProvider, directory: {directory}/nodes-{name}}}
auth: {{ssh_user: nobody}}
head_node_type: head
available_node_types:
  head: {{resources: {{CPU: 0}}, node_config: {{}}, min_workers: 0, max_workers: 0}}
  worker: {{resources: {{CPU: 3}}, node_config: {{}}, min_workers: 0, max_workers: 1}}
cluster_synced_files: []
file_mounts: {{"~/.ray/auth_token": {directory}/token}}
file_mounts_sync_continuously: false
rsync_exclude: []
rsync_filter: []
initialization_commands:
  - mkdir -p ~/.ray; echo 'export RAY_AUTH_MODE=token RAYSCALE_CACHE={directory}/cache' >> ~/.profile
setup_commands: []
head_setup_commands: []
worker_setup_commands: []
head_start_ray_commands:
  - . ~/.profile; ray stop
  - >-
    . ~/.profile; export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 AUTOSCALER_UPDATE_INTERVAL_S=1;
    python -m loopback_ray start --head --disable-usage-stats
    --node-ip-address=127.0.0.1 --port={port} --dashboard-host=127.0.0.1 --dashboard-port={dashboard}
    --dashboard-agent-listen-port={agent} --ray-client-server-port={client} --min-worker-port=0 --max-worker-port=0
    --num-cpus=0 --object-store-memory=100000000 --temp-dir={directory}/ray
    --autoscaling-config=~/ray_bootstrap_config.yaml
worker_start_ray_commands:
  - >-
    . ~/.profile; export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0;
    python -m loopback_ray start --address=127.0.0.1:{port} --disable-usage-stats
    --node-ip-address=127.0.0.1 --min-worker-port=0 --max-worker-port=0
    --num-cpus=3 --resources="$(rayscale node-resources --host test)" --object-store-memory=100000000
    --temp-dir={directory}/ray-worker
"""
"""cluster.yaml on this machine: its provider makes directories, and every port is free and on loopback."""


@contextlib.contextmanager
def running_head() -> Iterator[Head]:
    """Start a cluster with `ray up`; its worker advertises one CPU device. Exactly its processes end afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="rs-"))  # short: Ray's socket names have a limit
    token = f"canary-token-{secrets.token_hex(16)}"
    head = Head(directory, token, port=free_port(), dashboard=free_port(), agent=free_port())
    for name in ("home", f"nodes-{head.name}"):
        (directory / name).mkdir()
    (directory / "token").write_text(head.token, encoding="utf-8")
    ports = {"port": head.port, "dashboard": head.dashboard, "agent": head.agent, "client": free_port()}
    head.cluster_file.write_text(CLUSTER.format(name=head.name, directory=directory, **ports), encoding="utf-8")
    try:
        up = head.launch("up", "--yes", "--no-config-cache")
        if up.returncode:
            raise RuntimeError(f"ray up failed: {up.stdout[-1500:]} {up.stderr[-1500:]}")
        _await(head)
        yield head
    finally:
        for path in (directory / f"nodes-{head.name}").iterdir():
            end(path.name)
        shutil.rmtree(directory, ignore_errors=True)


def _await(head: Head) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            agent = f"http://127.0.0.1:{head.agent}/api/local_raylet_healthz"  # it starts the jobs, and comes up last
            if head.answer(f"{head.address}/api/version", head.token) == 200 and head.answer(agent, head.token) == 200:
                return
        time.sleep(0.3)
    raise RuntimeError("the dashboard or its agent did not come up")
