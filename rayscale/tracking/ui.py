"""MLflow's own pages on this machine: `mlflow server` on loopback, with the right store and as few processes as it can.

By default MLflow starts 15 processes (1.8 GB); one worker without job execution needs about 350 MB.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.tracking.store import is_server, shown

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
"""Longest wait for the first answer; a loaded machine was seen to need 20 s. Units: s."""

_SETTINGS: Mapping[str, str] = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


def ui_command(uri: str, artifacts: Path | None, port: int) -> tuple[list[str], dict[str, str]]:
    """Put together how to start MLflow's server for a store.

    Args:
        uri: The database URI.
        artifacts: Directory of the artifacts.
        port: TCP port.

    Returns:
        Command line, and environment variables to add.

    Raises:
        InputError: If the URI names a server, which has its own pages.
    """
    if is_server(uri):
        raise InputError(f"tracking.uri: {shown(uri)} is a server already; open it in a browser")
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri]
    if artifacts is not None:
        command += ["--artifacts-destination", str(artifacts)]
    return command, dict(_SETTINGS)


def serve_ui(
    uri: str,
    artifacts: Path | None,
    port: int,
    say: Callable[[str], None],
    *,
    experiment: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Serve MLflow's pages until Ctrl-C (or SIGTERM).

    Args:
        uri: The tracking URI; for a server only its address is said.
        artifacts: Directory of the artifacts.
        port: TCP port on 127.0.0.1.
        say: Takes lines for the user.
        experiment: Name of the experiment whose page to point at; None points at the list.
        stop: Asked a few times per second; True ends the serving.

    Raises:
        EnvironmentUnusableError: If the port is taken, or the server ends or never answers.
    """
    if is_server(uri):
        say(f"MLflow runs at {shown(uri)}")
        return
    check_port(port)
    command, settings = ui_command(uri, artifacts, port)
    if artifacts is not None:
        artifacts.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as output:
        # Its own session: Ctrl-C reaches us alone, and we end the whole group.
        server = subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=output, stderr=output, start_new_session=True
        )
        try:
            with _term_as_interrupt():
                say("starting MLflow ...")
                _await_answer(server, port, output, stop)
                say(f"MLflow is at {page_address(port, experiment)} (Ctrl-C stops it)")
                _await_end(server, output, stop)
        except KeyboardInterrupt:
            say("stopping MLflow")
        finally:
            _end(server)


def check_port(port: int) -> None:
    """Make sure that a port is free.

    Args:
        port: TCP port on 127.0.0.1.

    Raises:
        EnvironmentUnusableError: If it is taken or not allowed.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise EnvironmentUnusableError(
                f"port {port} on {HOST} cannot be used ({why}); expected a free one, e.g. --port {port + 1}"
            ) from None


def page_address(port: int, experiment: str | None) -> str:
    """Name the page to open, in MLflow's view for training runs (its first view is for chat applications).

    Args:
        port: Port of the running server.
        experiment: Name of the experiment, if one is meant.

    Returns:
        The address of the experiment's runs; of the list of experiments if it is not known there.
    """
    pages, view = f"http://{HOST}:{port}/#/experiments", "workflowType=machine_learning"
    if experiment is not None:
        query = urllib.parse.urlencode({"experiment_name": experiment})
        with suppress(OSError, ValueError, KeyError):
            answer = json.loads(_get(f"http://{HOST}:{port}/api/2.0/mlflow/experiments/get-by-name?{query}"))
            return f"{pages}/{answer['experiment']['experiment_id']}/runs?{view}"
    return f"{pages}?{view}"


def _get(address: str) -> bytes:
    """Read a page of our own server; proxies of the environment do not apply to our loopback."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=5) as answer:
        return answer.read()


def _await_answer(server: subprocess.Popen[bytes], port: int, output: IO[bytes], stop: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not stop():
        _check_alive(server, output)
        with suppress(OSError):  # URLError and HTTPError among them
            _get(f"http://{HOST}:{port}/health")
            return
        if time.monotonic() > deadline:
            raise EnvironmentUnusableError(f"MLflow did not answer within {START_TIMEOUT_S:.0f} s: {_tail(output)}")
        time.sleep(0.2)


def _await_end(server: subprocess.Popen[bytes], output: IO[bytes], stop: Callable[[], bool]) -> None:
    while not stop():
        _check_alive(server, output)
        time.sleep(0.2)


def _check_alive(server: subprocess.Popen[bytes], output: IO[bytes]) -> None:
    if server.poll() is not None:
        raise EnvironmentUnusableError(f"MLflow's server ended with code {server.returncode}: {_tail(output)}")


def _tail(output: IO[bytes]) -> str:
    output.seek(0)
    lines = [line.strip() for line in output.read().decode(errors="replace").splitlines() if line.strip()]
    return shown(lines[-1]) if lines else "it said nothing"


@contextmanager
def _term_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that the server ends with us; only a main thread may set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server with all its processes: politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        try:
            server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
        if number == signal.SIGKILL or not _group_lives(server.pid):
            return


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
