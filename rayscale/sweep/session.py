"""The Ray that a run uses: one of its own on this machine, or a cluster that is there already.

Its own listens on loopback only and ends with the run. A cluster is only connected to: nothing is started or stopped
there but the run's own actors, and nothing about its ports or its authentication is changed.
"""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from rayscale.design import Plan
from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.ledger import Ledger
from rayscale.sweep.devices import FixedFleet, Fleet, SlotDevice, local_slots

ANSWER_TIMEOUT_S = 5.0
"""How long a cluster may take to accept a connection."""
DRIVER_CPUS = 1
"""Logical CPUs that Ray is given beyond the slots', for tasks of its own."""


def open_session(
    plan: Plan, ledger: Ledger, address: str | None, say: Callable[[str], None], wait_s: float = 0.0
) -> AbstractContextManager[Fleet]:
    """Choose the Ray of a run; nothing is started before the context is entered.

    Args:
        plan: The plan.
        ledger: The ledger.
        address: A running cluster (`auto`, `HOST:PORT`); None starts Ray on this machine.
        say: Shows a line to the user.
        wait_s: Longest wait for the first device of a cluster. Units: s.

    Returns:
        A context that gives the devices.

    Raises:
        EnvironmentUnusableError: If GPUs of this machine are asked for that are not there.
    """
    if address is not None:
        say(f"connecting to the Ray cluster at {address}")
        return attached_ray(address, plan, ledger, say, wait_s)
    slots = local_slots(plan.spec.resources)
    say(f"starting Ray and {len(slots)} trial slot{'s' if len(slots) > 1 else ''} (some 15 s)")
    return local_ray(slots, plan)


@contextmanager
def local_ray(slots: list[SlotDevice], plan: Plan) -> Iterator[Fleet]:
    """Start Ray on this machine, quiet and on loopback only, and stop it afterwards.

    Args:
        slots: One custom resource is made for each.
        plan: Its spec says how many CPUs a slot gets.

    Yields:
        The slots; Ray is up.

    Raises:
        EnvironmentUnusableError: If Ray does not start.
    """
    set_ray_environment(None)
    import ray

    try:
        _start_ray(
            address="local",
            num_cpus=len(slots) * (plan.spec.resources.cpus + 1) + DRIVER_CPUS,
            num_gpus=sum(int(amount) for slot in slots for name, amount in slot.claims if name == "GPU"),
            resources={name: 1 for slot in slots for name, _ in slot.claims if name != "GPU"},
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, TimeoutError, ValueError) as error:
        raise EnvironmentUnusableError(f"Ray did not start on this machine: {_first_line(error)}") from None
    try:
        yield FixedFleet(tuple(slots))
    finally:
        ray.shutdown()


@contextmanager
def attached_ray(
    address: str, plan: Plan, ledger: Ledger, say: Callable[[str], None], wait_s: float = 0.0
) -> Iterator[Fleet]:
    """Connect to a running cluster when it is this run's turn, and leave it as it was.

    Args:
        address: `auto` or `HOST:PORT`.
        plan: Its spec says what a trial needs.
        ledger: The ledger, which all nodes must see.
        say: Shows a line to the user.
        wait_s: Longest wait for the first device. Units: s.

    Yields:
        The cluster's devices.

    Raises:
        EnvironmentUnusableError: If it cannot be reached, or has nothing that the sweep can use.
    """
    set_ray_environment(address)
    _refuse_silent(address)
    import ray

    from rayscale.sweep.demand import RayDemand, await_device, devices_wanted
    from rayscale.sweep.fleet import RayFleet
    from rayscale.sweep.turns import cluster_turn, holder_name

    try:
        _start_ray(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, TimeoutError, ValueError, ray.exceptions.RayError) as error:
        raise EnvironmentUnusableError(f"--address {address}: cannot connect to Ray: {_first_line(error)}") from None
    try:
        with cluster_turn(holder_name(plan.spec.name, os.environ), say):
            await_device(plan.spec.resources, devices_wanted(plan, ledger), wait_s, RayDemand(), say)
            yield RayFleet(plan.spec.resources, ledger, say)
    finally:
        ray.shutdown()


def _start_ray(**options: Any) -> None:
    """Call `ray.init`, and keep what this process does on SIGTERM: Ray's own handler would end it then and there."""
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _refuse_silent(address: str) -> None:
    """Ask whether anything listens there; Ray itself would try for minutes, with a warning every few seconds."""
    host, _, port = address.rpartition(":")
    if not host:
        return  # auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise EnvironmentUnusableError(f"--address {address}: no Ray cluster answers there: {error}") from None


def checked_address(address: str | None) -> str | None:
    """Check where a cluster is said to be.

    Args:
        address: `--address` or `RAY_ADDRESS`.

    Returns:
        The address; None for `local`, which is Ray's word for a Ray of one's own.

    Raises:
        InputError: If it is of another form, such as Ray Client's `ray://`.
    """
    if address in (None, "", "local"):
        return None
    if address == "auto" or re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^/\s:]+):\d{1,5}", str(address)):
        return address
    raise InputError(f"--address {address}: expected auto or HOST:PORT of a Ray that runs on this machine too")


def set_ray_environment(address: str | None) -> None:
    """Set what Ray reads from the environment; some of it once, when it is first imported.

    Args:
        address: The cluster that will be used; None for a Ray of our own.
    """
    os.environ.update(_RAY_ENVIRONMENT)
    if address is None or re.match(r"(127\.|localhost:|\[::1\])", address):
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's only switch that keeps all servers on loopback


_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # csv, json and tensorboard files that nobody reads
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: Tune would wait for the running trials
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # its snapshot is not used, and would grow with every trial
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TOKENIZERS_PARALLELISM": "true",
}


class _LateFile(io.TextIOBase):
    """A text file that is made when the first thing is written to it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, text: str) -> int:
        """Append text."""
        with self._path.open("a", encoding="utf-8") as file:
            return file.write(text)


@contextmanager
def ray_output(path: Path) -> Iterator[None]:
    """Keep what Ray prints out of standard output, which belongs to `--json`.

    Ray prints a paragraph there for every worker that died, whatever `log_to_driver` says; the listeners tell the same
    in one line.

    Args:
        path: Where it goes; made only if something is printed.

    Yields:
        Nothing; standard output of this process goes to the file.
    """
    with redirect_stdout(_LateFile(path)):
        yield


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
