"""The way to a cluster: its dashboard by address, or through an ssh tunnel that the cluster file describes.

The token travels in clear over plain HTTP. So `http://` is for loopback only (a tunnel, a port-forward, the head
itself) and asks no proxy; anything farther needs `https://`.
"""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from rayscale.cluster.jobs import Jobs, open_jobs
from rayscale.cluster.token import find_token
from rayscale.cluster.tunnel import head_of, tunnel
from rayscale.errors import EnvironmentUnusableError, InputError

DASHBOARD_PORT = 8265
"""Port of Ray's dashboard on the head."""
MLFLOW_PORT = 5000
"""Port of MLflow's server on the head, on its loopback interface."""
DEFAULT_ADDRESS = f"http://127.0.0.1:{DASHBOARD_PORT}"
"""Where a dashboard is found on the head itself."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OVERRIDING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that Ray's client would obey instead of the address it is given."""


@contextmanager
def cluster_jobs(cluster_file: Path | None, address: str | None, *, ssh: str = "ssh") -> Iterator[Jobs]:
    """Connect to the jobs of a cluster.

    Args:
        cluster_file: A file for `ray up`: an ssh tunnel to its head is opened meanwhile.
        address: Or the address of the dashboard; with neither: `RAY_API_SERVER_ADDRESS`, else this machine.
        ssh: The ssh program.

    Yields:
        The jobs.

    Raises:
        InputError: If both are given, or the address would show the token to others.
        EnvironmentUnusableError: If the cluster cannot be reached or refuses the token.
    """
    if cluster_file is not None and address is not None:
        raise InputError("--cluster and --address: expected one of them")
    token = find_token(os.environ, Path.home())
    if cluster_file is not None:
        with tunnel(head_of(cluster_file), DASHBOARD_PORT, ssh=ssh) as port, _straight():
            yield open_jobs(f"http://127.0.0.1:{port}", token)
        return
    where = checked_dashboard(address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS)
    with _straight():
        yield open_jobs(where, token)


@contextmanager
def cluster_pages(cluster_file: Path, port: int, *, ssh: str = "ssh") -> Iterator[str]:
    """Tunnel to the MLflow server on a cluster's head.

    Args:
        cluster_file: A file for `ray up`.
        port: Port on loopback here.
        ssh: The ssh program.

    Yields:
        The address of MLflow's pages here.

    Raises:
        InputError: If the file is not one of those.
        EnvironmentUnusableError: If ssh fails, or no server answers there.
    """
    with tunnel(head_of(cluster_file), MLFLOW_PORT, local_port=port, ssh=ssh) as here:
        address = f"http://127.0.0.1:{here}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{address}/health", timeout=20) as answer:
                answer.read()
        except OSError:
            raise EnvironmentUnusableError(
                f"{cluster_file}: no MLflow server answers on port {MLFLOW_PORT} of the head; expected "
                "`mlflow server --host 127.0.0.1 --workers 1` among head_start_ray_commands"
            ) from None
        yield address


def checked_dashboard(address: str) -> str:
    """Refuse addresses that would show the token to others.

    Args:
        address: The dashboard's address as given.

    Returns:
        The address without a trailing slash.

    Raises:
        InputError: If it is no http(s) address, carries credentials, or is plain http beyond loopback.
    """
    expected = "expected http://127.0.0.1:PORT, https://HOST or --cluster FILE"
    try:
        parts = urlsplit(address)
        host, given = parts.hostname, parts.username or parts.password
    except ValueError:
        raise InputError(f"--address: {expected}") from None
    if given:
        raise InputError(f"--address: the address carries credentials; {expected}")
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"--address {address}: {expected}")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise InputError(f"--address {address}: the token would travel in clear; {expected}")
    return address.rstrip("/")


@contextmanager
def _straight() -> Iterator[None]:
    """Let Ray's client go exactly where it is told: no variable overrides the address, no proxy sees loopback."""
    before = dict(os.environ)
    for name in _OVERRIDING:
        os.environ.pop(name, None)
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (before.get(name), "127.0.0.1,localhost,::1")))
    try:
        yield
    finally:
        _restore(before, (*_OVERRIDING, "NO_PROXY", "no_proxy"))


def _restore(before: Mapping[str, str], names: tuple[str, ...]) -> None:
    for name in names:
        if name in before:
            os.environ[name] = before[name]
        else:
            os.environ.pop(name, None)
