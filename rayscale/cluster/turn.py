"""Whose turn it is on a cluster: one submitted sweep at a time, the others wait and say so.

Ray starts every job at once, and two sweeps would then measure each other. The drivers of jobs all run on the head, so
the kernel's lock on a file there is enough: it is let go when its process ends, however that ends, and it stays with
the process through `exec`. Runs by hand, from any node, are kept apart by `rayscale.sweep.turns`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

SAY_EVERY_S = 30.0
"""Time between two lines that say what is waited for."""
LOOK_EVERY_S = 0.5
"""Time between two looks at the lock."""
_WAITS, _HAS, _FREE = "waiting for ", ", which has the cluster", "the cluster is free"


def turn_file(directory: Path, address: str) -> Path:
    """Name the lock file of a cluster.

    Args:
        directory: Where the head keeps such files.
        address: The cluster's own address (`RAY_ADDRESS` in a job): two clusters on one machine do not wait for each
            other.

    Returns:
        The file; it need not exist.
    """
    return directory / "turns" / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}.lock"


def take_turn(
    path: Path,
    holder: str,
    say: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Wait until nobody else has the cluster, then hold it until this process ends.

    Args:
        path: The lock file.
        holder: What to write into it, for those who wait: sweep and job.
        say: Shows a line, at once and then every `SAY_EVERY_S`, while it waits.
        clock: Seconds that only grow.
        sleep: Waits.

    Returns:
        The file descriptor that holds the lock; it survives `exec`. Closing it lets go.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # No `with`: the lock is to outlive this function.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    await_turn(lambda: _locked(descriptor), lambda: _reader(descriptor), say, clock=clock, sleep=sleep)
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, holder.encode(), 0)
    os.set_inheritable(descriptor, True)
    return descriptor


def await_turn(
    take: Callable[[], bool],
    holder: Callable[[], str],
    say: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Try until it works, and say what is waited for.

    Args:
        take: Tries; whether it worked.
        holder: Says who has the cluster.
        say: Shows a line, at once and then every `SAY_EVERY_S`, while it waits.
        clock: Seconds that only grow.
        sleep: Waits.
    """
    said: float | None = None
    while not take():
        if said is None or clock() - said >= SAY_EVERY_S:
            said = clock()
            say(f"{_WAITS}{holder() or 'another sweep'}{_HAS}")
        sleep(LOOK_EVERY_S)
    if said is not None:
        say(_FREE)


def waits_for(log: str) -> str | None:
    """Read from a run's log whom it waits for.

    Args:
        log: What it has printed.

    Returns:
        Who has the cluster; None if it does not wait.
    """
    # Not just the last line: a run may prepare data meanwhile, and wait for that too.
    turns = [line for line in log.splitlines() if line.endswith((_HAS, _FREE))]
    waits = bool(turns) and turns[-1].startswith(_WAITS)
    return turns[-1].removeprefix(_WAITS).removesuffix(_HAS) if waits else None


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _reader(descriptor: int) -> str:
    return os.pread(descriptor, 500, 0).decode(errors="replace")
