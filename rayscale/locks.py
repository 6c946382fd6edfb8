"""Locks that keep two runs off one sweep: the kernel's for directories, a lease for object stores.

    flock    dies with its process, however that dies: no guessing about stale locks
    lease    an object that names the holder and is renewed every RENEW seconds; older than LEASE it counts as gone

Object stores give pyarrow no "write only if absent", so two runs that start within the same second could both write the
lease; each therefore reads it again after a moment and the one that is not named gives way.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rayscale.errors import EnvironmentUnusableError, RayscaleError
from rayscale.storage import Storage

LEASE_S = 60.0
"""Age at which a lease counts as left behind."""
RENEW_S = 15.0
"""Time between renewals."""
SETTLE_S = 1.0
"""Time after which the one who wrote the lease last is the one whom everybody reads."""

LEASE_NAME = "lock.json"


@contextmanager
def file_lock(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file.

    Args:
        path: The file; its text only names the holder.
        what: What is held, for the message.

    Yields:
        Nothing; the lock is held.

    Raises:
        EnvironmentUnusableError: If another process holds it.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = file_lock_holder(path) or "another process"
            raise EnvironmentUnusableError(f"{what}: this sweep is being run by {holder}") from None
        file.truncate(0)
        file.write(_myself())
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def file_lock_holder(path: Path) -> str | None:
    """Name the process that holds a lock file, None if none does."""
    try:
        with path.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read().strip() or "another process"
    except FileNotFoundError:
        pass
    return None


@contextmanager
def lease(
    storage: Storage, what: str, *, clock: Callable[[], float] = time.time, settle_s: float = SETTLE_S
) -> Iterator[None]:
    """Hold a sweep that lies in an object store.

    Args:
        storage: The ledger's storage.
        what: What is held, for the message.
        clock: Wall clock; the clocks of machines that share a ledger must agree within some ten seconds.
        settle_s: How long to wait before reading the lease again. Units: s.

    Yields:
        Nothing; the lease is held and renewed in the background.

    Raises:
        EnvironmentUnusableError: If another run holds it, or the store cannot be used.
    """
    token = secrets.token_hex(8)
    _refuse_other(storage, what, token, clock)
    _write(storage, token, clock())
    time.sleep(settle_s)
    _refuse_other(storage, what, token, clock)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(storage, token, clock, done), daemon=True, name="lease")
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join(RENEW_S)
        _write(storage, token, 0.0)  # object stores need no right to delete


def lease_holder(storage: Storage, clock: Callable[[], float] = time.time) -> str | None:
    """Name the run that holds a lease, None if none does (or it was left behind)."""
    found = _read(storage)
    return found[1] if found and clock() - found[2] < LEASE_S else None


def _refuse_other(storage: Storage, what: str, token: str, clock: Callable[[], float]) -> None:
    found = _read(storage)
    if found and found[0] != token and clock() - found[2] < LEASE_S:
        raise EnvironmentUnusableError(
            f"{what}: this sweep is being run by {found[1]} (a run that was killed lets go after {LEASE_S:.0f} s)"
        )


def _renew(storage: Storage, token: str, clock: Callable[[], float], done: threading.Event) -> None:
    while not done.wait(RENEW_S):
        try:
            _write(storage, token, clock())
        except RayscaleError:
            continue  # an outage shorter than the lease does no harm; the run's own writes will tell


def _read(storage: Storage) -> tuple[str, str, float] | None:
    """Return token, holder and time of renewal; None if there is no lease."""
    content = storage.read(LEASE_NAME)
    if not content:
        return None
    found = json.loads(content)
    return str(found["token"]), str(found["holder"]), float(found["renewed"])


def _write(storage: Storage, token: str, renewed: float) -> None:
    storage.write(LEASE_NAME, json.dumps({"token": token, "holder": _myself(), "renewed": renewed}).encode())


def _myself() -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"pid {os.getpid()} on {socket.gethostname()} since {since}"
