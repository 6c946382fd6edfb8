"""A node provider for Ray's launcher whose nodes are processes of this machine, for `ray up`, `ray exec`, `ray down`.

A node is a directory (its home) and a mark in the environment of everything that is started on it. `ray stop` would end
the Ray of the whole machine; on such a node it ends the processes with the node's mark.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ray.autoscaler.command_runner import CommandRunnerInterface
from ray.autoscaler.node_provider import NodeProvider

MARK = "RAYSCALE_TEST_NODE"


def marked(node: str) -> list[int]:
    """List the processes of a node."""
    wanted, found = f"{MARK}={node}".encode(), []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def end(node: str) -> None:
    """End the processes of a node, the stubborn ones too."""
    for sign, wait_s in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0)):
        for pid in marked(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        deadline = time.monotonic() + wait_s
        while marked(node) and time.monotonic() < deadline:
            time.sleep(0.1)


class LoopbackProvider(NodeProvider):
    """Keeps its nodes in `provider.directory`, one directory each."""

    @property
    def _directory(self) -> Path:
        return Path(self.provider_config["directory"])

    def _tags(self, node_id: str) -> dict[str, str]:
        path = self._directory / node_id / "tags.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        names = [path.parent.name for path in self._directory.glob("*/tags.json")]
        return [name for name in names if tag_filters.items() <= self._tags(name).items()]

    def is_running(self, node_id: str) -> bool:
        return bool(self._tags(node_id))

    def is_terminated(self, node_id: str) -> bool:
        return not self.is_running(node_id)

    def node_tags(self, node_id: str) -> dict[str, str]:
        return self._tags(node_id)

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        path = self._directory / node_id / "tags.json"
        path.write_text(json.dumps(self._tags(node_id) | tags), encoding="utf-8")

    def external_ip(self, node_id: str) -> str:
        return "127.0.0.1"

    def internal_ip(self, node_id: str) -> str:
        return "127.0.0.1"

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> None:
        for _ in range(count):
            name = f"{self._directory.name}-{len(list(self._directory.iterdir()))}"
            (self._directory / name).mkdir(parents=True)
            self.set_node_tags(name, tags)

    def terminate_node(self, node_id: str) -> None:
        end(node_id)
        (self._directory / node_id / "tags.json").unlink()

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return cluster_config

    @staticmethod
    def fillout_available_node_types_resources(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return cluster_config

    def get_command_runner(self, log_prefix: str, node_id: str, *args: Any, **kwargs: Any) -> CommandRunnerInterface:
        return _Runner(node_id, self._directory / node_id)


class _Runner(CommandRunnerInterface):
    """Runs the launcher's commands as a login on the node would."""

    def __init__(self, node: str, home: Path) -> None:
        self._node, self._home = node, home

    def run(self, cmd: str | None = None, *args: Any, **kwargs: Any) -> str:
        if cmd is None or cmd.strip().endswith("ray stop"):
            end(self._node)
            return ""
        given = kwargs.get("environment_variables") or {}
        environment = {
            **os.environ,
            MARK: self._node,
            "HOME": str(self._home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **{name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()},
        }
        for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):  # those of the one who calls stay with him
            environment.pop(name, None)
        done = subprocess.run(["bash", "-c", cmd], env=environment, capture_output=True, text=True, check=False)
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, cmd)
        return done.stdout

    def _place(self, path: str) -> Path:
        return Path(path.replace("~", str(self._home), 1))

    def run_rsync_up(self, source: str, target: str, options: dict[str, Any] | None = None) -> None:
        self._place(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, self._place(target))

    def run_rsync_down(self, source: str, target: str, options: dict[str, Any] | None = None) -> None:
        shutil.copy(self._place(source), target)

    def remote_shell_command_str(self) -> str:
        return f"bash  # on {self._node}"
