"""An energy estimate where no sensor can be read: a declared power model times the trial's CPU time.

    power = idle_w + w_per_cpu x busy CPUs        energy counter = idle_w x time + w_per_cpu x CPU time

It is read as a *counter*, so nothing is lost between polls, however late they come. CPU time of another process comes
with ns resolution from Linux's per-process CPU clock (clock id `~pid << 3 | 2`, as in glibc's clock_getcpuclockid); all
threads of the process count, and those of its children that live at the edges of phases: the other ranks of a trial on
several processes. They are looked up at edges only, so that a poll stays a few clock reads. The time origin is the
host's boot, so that a sampler that is started again continues the same counter.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from rayscale.energy.differences import DifferenceQuotient, blind_spot, cpu_name
from rayscale.energy.reader import Reading, Source

_CPUCLOCK_SCHED = 2


def process_cpu_seconds(pid: int, proc: Path = Path("/proc")) -> float | None:
    """Read how much CPU time a process has used, all threads together.

    Args:
        pid: The process.
        proc: The proc file system, for kernels without the clock.

    Returns:
        Units: s. None when the process is gone.
    """
    try:
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except (OSError, OverflowError):
        return _stat_cpu_seconds(pid, proc)


def _stat_cpu_seconds(pid: int, proc: Path) -> float | None:
    try:
        stat = (proc / str(pid) / "stat").read_text()
    except OSError:
        return None
    # fields after the command's closing bracket start with number 3; utime is 14, stime 15 (proc_pid_stat(5))
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_of(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """List the children of a process.

    Args:
        pid: The process.
        proc: The proc file system.

    Returns:
        Their process ids; empty when the process is gone.
    """
    found: list[int] = []
    try:
        tasks = list((proc / str(pid) / "task").iterdir())
    except OSError:
        return []
    for task in tasks:
        try:
            found += map(int, (task / "children").read_text().split())
        except OSError:  # this thread has just ended; its children have moved to another one
            continue
    return found


class FamilyClock:
    """CPU time of a process and its children, each once: a child that has ended keeps what was read last."""

    def __init__(
        self,
        own: Callable[[int], float | None] = process_cpu_seconds,
        children: Callable[[int], list[int]] = children_of,
    ) -> None:
        """Start without children.

        Args:
            own: CPU time of one process in s, None when it is gone.
            children: Lists the children of a process.
        """
        self._own, self._children = own, children
        self._known: dict[int, float] = {}

    def look(self, pid: int) -> None:
        """Find the children that there are now, a sampler among them left out.

        Args:
            pid: The process.
        """
        for child in self._children(pid):
            if child != os.getpid():
                self._known.setdefault(child, 0.0)

    def __call__(self, pid: int) -> float | None:
        """Read the clock.

        Args:
            pid: The process.

        Returns:
            Units: s. None when the process is gone.
        """
        for child, before in self._known.items():
            self._known[child] = self._own(child) or before
        used = self._own(pid)
        return None if used is None else used + sum(self._known.values())


class EstimatedReader:
    """Turns a process's CPU time into energy by two declared constants."""

    source: Source = "estimated"
    estimated = True
    counter_resolution_s = 0.0
    """The scheduler brings the CPU time up to date on every read."""

    def __init__(
        self,
        pid: int,
        *,
        idle_w: float,
        w_per_cpu: float,
        device_uuid: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        cpu_seconds: Callable[[int], float | None] | None = None,
    ) -> None:
        """Bind to a process.

        Args:
            pid: The trial's process.
            idle_w: Power without load, in W.
            w_per_cpu: Power of one busy CPU, in W.
            device_uuid: Label of the CPU.
            clock: CLOCK_MONOTONIC in s.
            cpu_seconds: CPU time of a process in s, None when it is gone; None counts its children too.
        """
        self._pid, self._idle_w, self._w_per_cpu = pid, idle_w, w_per_cpu
        self._family = FamilyClock()
        self._clock, self._cpu_seconds = clock, cpu_seconds or self._family
        self._quotient = DifferenceQuotient()
        self.device_uuid = device_uuid
        self.device_name = cpu_name()
        self.method = f"estimated: {idle_w:g} W + {w_per_cpu:g} W per busy CPU (declared constants, not measured)"
        self.method += blind_spot(device_uuid)

    def read(self) -> Reading:
        """Read the process's CPU time.

        Returns:
            The reading; without values once the process is gone.
        """
        begin = self._clock()
        used = self._cpu_seconds(self._pid)
        end = self._clock()
        middle = (begin + end) / 2
        energy = None if used is None else self._idle_w * middle + self._w_per_cpu * used
        power = self._quotient.power(middle, energy)
        return Reading(middle, power, None, energy, None, None, None, end - begin)

    def read_edge(self) -> Reading:
        """Look for children, then read.

        Returns:
            The reading.
        """
        if self._cpu_seconds is self._family:
            self._family.look(self._pid)
        return self.read()

    def close(self) -> None:
        """Nothing is held open."""
