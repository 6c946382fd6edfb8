"""The further processes of a trial on several devices: how they start, and what they do when rank 0 tells them.

Ranks are children of rank 0, so whoever follows the process tree finds them (CPU time, the processes on a GPU), and the
kernel kills them when rank 0 ends, however it ends. In a slot they are forked from the trial's process, which has
everything imported and no thread or CUDA context yet; without one they are new interpreters, since a process that has
computed cannot be forked. `team` is rank 0's side.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Protocol

from rayscale.attempt import TrialJob, explain_failure
from rayscale.energy.deviceset import devices_in
from rayscale.ledger import Failure

if TYPE_CHECKING:
    from rayscale.training.session import Session


@dataclass(frozen=True)
class Place:
    """One process among those of a trial.

    Attributes:
        rank: Its index.
        world: Their number.
        address: Where they meet: a file of this machine.
    """

    rank: int
    world: int
    address: str


class Process(Protocol):
    """A started rank."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def wait(self) -> int:
        """Wait for its end and return its exit code, negative for a signal."""


Starter = Callable[[], tuple[Process, Connection]]


def open_member(job: TrialJob, place: Place) -> Session:
    """Load data and model in one process of a trial, and meet the others.

    Args:
        job: The attempt.
        place: This process; of a world of 1 it is alone.

    Returns:
        The session, with everything on the device.
    """
    from rayscale.training.ranks import join, meet
    from rayscale.training.session import open_session

    trial, device = job.trial, "cuda" if job.device_uuid else "cpu"
    session = open_session(
        trial.spec, job.data, tokens=trial.tokens, seed=trial.seed, repetition=trial.repetition, device=device
    )
    if place.world > 1:
        join(session, meet(place.rank, place.world, place.address, "nccl" if job.device_uuid else "gloo"))
    session.synchronize()
    return session


def import_training() -> float:
    """Import all that training needs; in a process forked from a preloaded server that is nothing.

    Returns:
        How long it took. Units: s.
    """
    from rayscale.training.preload import PRELOAD

    start = time.monotonic()
    for name in PRELOAD:
        importlib.import_module(name)
    return time.monotonic() - start


def show_device(job: TrialJob, rank: int) -> None:
    """Let this process see its own GPU only, or none.

    Args:
        job: The attempt.
        rank: Index of this process.
    """
    devices = devices_in(job.device_uuid)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[rank] if devices else ""


@dataclass(frozen=True)
class _Fork:
    pid: int

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def forked_rank() -> tuple[Process, Connection]:
    """Fork a rank from this process, which must not have computed anything yet.

    Returns:
        The process and the pipe to it.
    """
    here, there = Pipe()
    parent, pid = os.getpid(), os.fork()
    if pid:
        there.close()
        return _Fork(pid), here
    try:
        _close_all_but(there.fileno())
        serve(there, parent)
    finally:
        os._exit(0)  # nothing of what the parent would do at its end


def _close_all_but(kept: int) -> None:
    """Let go of what the parent has open: its log, and its pipe to the slot, whose end tells that it is gone."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != kept:
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(int(name))


def spawned_rank() -> tuple[Process, Connection]:
    """Start a rank as a new interpreter.

    Returns:
        The process and the pipe to it.
    """
    here, there = Pipe()
    command = [sys.executable, "-m", "rayscale.ranked", str(there.fileno()), str(os.getpid())]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[there.fileno()])
    there.close()
    return process, here


def serve(pipe: Connection, parent: int) -> None:
    """Do what rank 0 says until it says `end`, or ends itself.

    Args:
        pipe: To rank 0: the attempt and this process's place first, then one word after the other.
        parent: Rank 0's process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is rank 0's to handle
    die_with_parent(parent)
    try:
        job, place = pipe.recv()
        show_device(job, place.rank)
        member = _Member(job, place)
        while (word := pipe.recv()) != "end":
            pipe.send(getattr(member, word)())
        leave()
    except (EOFError, ConnectionError):
        return  # rank 0 is gone
    except BaseException as error:
        traceback.print_exc()
        failure = explain_failure(error)
        with contextlib.suppress(OSError):
            pipe.send(failure_of(failure.reason, f"rank {place.rank}: {failure.detail}"))


class _Member:
    """The words that a rank understands."""

    def __init__(self, job: TrialJob, place: Place) -> None:
        self._job, self._place = job, place
        self._session: Session

    def load(self) -> tuple[str | None, str | None]:
        """Return UUID and name of its GPU; None on a CPU."""
        import_training()
        self._session = open_member(self._job, self._place)
        facts = self._session.describe()
        return facts.device_uuid, facts.device_name

    def evaluate(self) -> None:
        self._session.evaluate()

    def warmup(self) -> None:
        self._session.warmup()
        self._session.synchronize()

    def train(self) -> None:
        self._session.train(lambda _: None)
        self._session.synchronize()

    def count(self) -> None:
        self._session.nonzero_params()

    def quantize(self) -> None:
        self._session.quantize()


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, so that no orphan keeps a device busy.

    Args:
        parent: The parent's process; if it is gone already, this one ends here.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    pr_set_pdeathsig = 1
    libc.prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def leave() -> None:
    """Leave the meeting of the ranks; all of them must."""
    if "torch" not in sys.modules:
        return  # it has met nobody
    from rayscale.training.ranks import part

    part()


def failure_of(reason: str, detail: str) -> Failure:
    """Write down a failure that is seen now.

    Args:
        reason: Its code.
        detail: In words.
    """
    return Failure(reason, detail, datetime.now(UTC).isoformat())


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
