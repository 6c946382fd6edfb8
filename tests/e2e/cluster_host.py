"""A Ray cluster of several nodes on loopback, in a process of its own: nodes are added and killed by lines on stdin.

    add NAME CPUS RESOURCES...    prints the cluster's address
    kill NAME                     as a machine that loses power; prints the address

Each node keeps its caches in a directory of its own, as on a disk of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""Read by Ray when it is first imported."""
SOON = {"RAY_health_check_period_ms": "500", "RAY_health_check_initial_delay_ms": "500"}
"""Have a dead node noticed within 3 s instead of 15 s."""


@dataclass(frozen=True)
class ClusterHost:
    """The cluster as a test sees it."""

    process: subprocess.Popen[str]

    def tell(self, *words: str) -> str:
        """Give one order and return the cluster's address."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the cluster's host ended"
        return line.strip()


@contextmanager
def cluster_host(directory: Path) -> Iterator[ClusterHost]:
    """Start the host of a cluster that has no node yet; end it with everything that it started."""
    ray_files = tempfile.TemporaryDirectory(prefix="rs-")  # sockets in it have names of at most 107 bytes
    environment = os.environ | LOOPBACK | SOON | {"RAY_TMPDIR": ray_files.name, "NODE_DISKS": str(directory)}
    with (
        ray_files,
        subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(directory / "host.log").open("w", encoding="utf-8"),
            text=True,
        ) as process,
    ):
        try:
            yield ClusterHost(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def serve() -> None:
    """Obey until stdin ends."""
    from ray.cluster_utils import Cluster

    cluster, nodes = Cluster(), {}
    for line in sys.stdin:
        order, name, *rest = line.split()
        if order == "add":
            resources = dict.fromkeys(rest[1:], 1)
            disk = {"RAYSCALE_CACHE": f"{os.environ['NODE_DISKS']}/disk-{name}"}
            nodes[name] = cluster.add_node(num_cpus=int(rest[0]), resources=resources, env_vars=disk)
        else:
            cluster.remove_node(nodes.pop(name), allow_graceful=False)
        print(cluster.address, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    serve()
