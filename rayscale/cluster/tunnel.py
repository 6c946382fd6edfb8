"""An ssh tunnel to the head of a cluster, from what the cluster file says about access.

    127.0.0.1:LOCAL here  ── ssh ──▶  head, 127.0.0.1:REMOTE     nothing listens beyond loopback on either side

The port is used only once the kernel says that this very ssh listens on it: were another program faster, it would be
sent the token. Unlike Ray's own ssh calls, ours check the head's key: a head seen for the first time is remembered, one
that answers with another key later is refused.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rayscale.cluster.check import PLACEHOLDER
from rayscale.cluster.sockets import free_port, listeners
from rayscale.cluster.source import read_cluster_file
from rayscale.errors import EnvironmentUnusableError, InputError

OPEN_TIMEOUT_S = 60.0
"""Longest wait for ssh. Units: s."""
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Head:
    """How to reach the head of a cluster."""

    host: str
    """Its address."""
    user: str
    """The ssh user."""
    key: str | None = None
    """Private key file; None: what ssh finds by itself."""
    proxy_command: str | None = None
    """`auth.ssh_proxy_command`."""


def head_of(cluster_file: Path) -> Head:
    """Read from a cluster file how to reach its head; clouds are asked for its address.

    Args:
        cluster_file: A file for `ray up`.

    Returns:
        The head.

    Raises:
        InputError: If it is no such file, or is not filled in.
        EnvironmentUnusableError: If the cloud knows no running head.
    """
    source = read_cluster_file(cluster_file)
    if source.kind != "launcher":
        raise InputError(f"{cluster_file}: expected a file for `ray up`; for other clusters use --address")
    if source.tree["provider"].get("type") == "local":
        config, host = source.tree, str(source.tree["provider"].get("head_ip", ""))
    else:
        _refuse_placeholders(cluster_file, source.text)
        config, host = _ask_cloud(cluster_file, source.tree)
    auth = config.get("auth") or {}
    user, key = str(auth.get("ssh_user", "ubuntu")), auth.get("ssh_private_key")
    for name, value in (("head_ip", host), ("auth.ssh_user", user)):
        if PLACEHOLDER in value or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*", value):
            raise InputError(f"{cluster_file}: {name}: expected a value that ssh can use, got `{value}`")
    return Head(host, user, str(Path(key).expanduser()) if key else None, auth.get("ssh_proxy_command"))


@contextmanager
def tunnel(head: Head, remote_port: int, *, local_port: int | None = None, ssh: str = "ssh") -> Iterator[int]:
    """Forward a port of the head's loopback interface to one of ours.

    Args:
        head: The head.
        remote_port: Port there.
        local_port: Port here; None takes a free one.
        ssh: The ssh program.

    Yields:
        The port here.

    Raises:
        EnvironmentUnusableError: If ssh fails or does not come up in time.
    """
    port = local_port or free_port()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        try:
            process = subprocess.Popen(
                ssh_command(head, port, remote_port, ssh), stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        except OSError as error:
            raise EnvironmentUnusableError(f"{ssh}: cannot be started: {error.strerror}") from None
        try:
            _await_open(process, port, head, said)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ssh_command(head: Head, local_port: int, remote_port: int, ssh: str = "ssh") -> list[str]:
    """Put together the command that opens the tunnel and does nothing else.

    Args:
        head: The head.
        local_port: Port on loopback here.
        remote_port: Port on loopback there.
        ssh: The ssh program.

    Returns:
        The command line.
    """
    options = {
        "BatchMode": "yes",  # never ask for a password on a terminal that may not be there
        "ExitOnForwardFailure": "yes",
        "StrictHostKeyChecking": "accept-new",
        "ControlMaster": "no",  # a shared connection would hold the port in another process
        "ControlPath": "none",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
    }
    command = [ssh, "-N", "-T", "-L", f"127.0.0.1:{local_port}:127.0.0.1:{remote_port}"]
    command += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    command += ["-i", head.key] if head.key else []
    command += ["-o", f"ProxyCommand={head.proxy_command}"] if head.proxy_command else []
    return [*command, "-l", head.user, "--", head.host]


def _await_open(process: subprocess.Popen[bytes], port: int, head: Head, said: IO[str]) -> None:
    deadline = time.monotonic() + OPEN_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said.seek(0)
            reason = ([line.strip() for line in said if line.strip()] or ["it gives no reason"])[-1]
            raise EnvironmentUnusableError(f"ssh to {head.user}@{head.host} failed: {reason}")
        if any(listener.port == port for listener in listeners([process.pid])):
            return
        time.sleep(_LOOK_EVERY_S)
    raise EnvironmentUnusableError(f"ssh to {head.user}@{head.host}: no tunnel after {OPEN_TIMEOUT_S:.0f} s")


def _refuse_placeholders(cluster_file: Path, text: str) -> None:
    lines = [
        number
        for number, line in enumerate(text.splitlines(), 1)
        if PLACEHOLDER in line and not line.lstrip().startswith("#")
    ]
    if lines:
        raise InputError(
            f"{cluster_file}:{lines[0]}: {PLACEHOLDER} is left to fill in (rayscale cluster check --ready)"
        )


def _ask_cloud(cluster_file: Path, tree: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Let Ray's launcher find the key that it made and the address of the running head."""
    from ray.autoscaler.sdk import bootstrap_config, get_head_node_ip

    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)
    said = io.StringIO()  # Ray's launcher talks on standard output
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            host = str(get_head_node_ip(str(cluster_file)))  # first: without a head, nothing is made in the cloud
            return bootstrap_config(copy.deepcopy(tree)), host
    except (Exception, SystemExit) as error:  # noqa: BLE001, RUF100 - every cloud's library has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EnvironmentUnusableError(f"{cluster_file}: the head's address is not known: {reason}") from None
