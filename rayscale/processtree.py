"""CPU time of everything a process has started: the command, its children, and those whose parents have died.

    meter ─┬─ command ─┬─ worker      living: the kernel's CPU clock of each, found by walking down from the meter
           │           └─ (reaped)    exited and waited for: in its parent's children time (cutime, cstime)
           └─ orphan                  its parent died: it comes to the meter, which is the subreaper of the tree

An exited process's time moves *up* to the parent that waits for it. The walk reads parents before their children, so
time that moves while it walks is missed once and found by the next walk, never counted twice; the largest sum so far
therefore is the truth. Not counted: children of a program that ignores SIGCHLD, once they have exited (the kernel
drops their time).
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rayscale.energy.estimated import children_of, process_cpu_seconds

CHILDREN_RESOLUTION_S = 0.01
"""The kernel shows the time of exited children in clock ticks (proc_pid_stat(5))."""
_PR_SET_CHILD_SUBREAPER = 36


def _reaped_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class DescendantsClock:
    """CPU time of what this process starts from now on."""

    def __init__(
        self,
        *,
        pid: int | None = None,
        proc: Path = Path("/proc"),
        reaped: Callable[[], float] = _reaped_seconds,
        own: Callable[[int], float | None] = process_cpu_seconds,
    ) -> None:
        """Start at zero.

        Args:
            pid: The root of the tree, whose own time does not count; None is this process.
            proc: The proc file system.
            reaped: CPU time of the root's children that it has waited for, in s.
            own: CPU time of one living process, in s; None when it is gone.
        """
        self._root, self._proc, self._reaped, self._own = pid or os.getpid(), proc, reaped, own
        self._strangers = frozenset(children_of(self._root, proc))  # children from before are not the command's
        self._before = self._sum()
        self._most = 0.0

    def seconds(self) -> float:
        """Read the clock. Units: s; it never goes back."""
        self._most = max(self._most, self._sum() - self._before)
        return self._most

    def running(self) -> list[int]:
        """List the descendants that still run (zombies left out)."""
        return [pid for pid in self._walk() if _state(self._proc, pid) not in ("Z", "X", None)]

    def _sum(self) -> float:
        total = self._reaped()  # the root first: see the module's text
        for pid in self._walk():
            total += (self._own(pid) or 0.0) + _children_seconds(self._proc, pid)
        return total

    def _walk(self) -> Iterator[int]:
        """Yield the descendants, each before its children are looked up."""
        waiting = [pid for pid in children_of(self._root, self._proc) if pid not in self._strangers]
        while waiting:
            pid = waiting.pop()
            yield pid
            waiting += children_of(pid, self._proc)


def _stat(proc: Path, pid: int) -> list[str]:
    """Read the fields of a process from number 3 (state) on; empty when it is gone."""
    try:
        return (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _state(proc: Path, pid: int) -> str | None:
    fields = _stat(proc, pid)
    return fields[0] if fields else None


def _children_seconds(proc: Path, pid: int) -> float:
    fields = _stat(proc, pid)
    # cutime is field 16, cstime 17; the list begins with field 3
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Let processes whose parent dies come to this process instead of to init, while the context lasts."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
