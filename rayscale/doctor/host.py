"""What the machine brings: processors, memory, disks, and what its CPU can say about power."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rayscale.doctor.check import Check, Level
from rayscale.energy.punctual import real_time_allowed
from rayscale.energy.rapl import rapl_problem
from rayscale.environment import cpu_name
from rayscale.spec import EstimateSpec

GIB = 1 << 30
LEAST_DISK, GOOD_DISK = GIB // 4, 4 * GIB
"""Below the first nothing fits; below the second downloads and traces of a larger sweep may not. Units: B."""
GOOD_MEMORY, GOOD_SHM = 3 * GIB, GIB
"""torch, Ray and MLflow together need about 2 GiB; Ray's object store lies in /dev/shm. Units: B."""
BUSY = 0.25
"""Share of the CPUs that others may use before timings and CPU power suffer."""


@dataclass(frozen=True)
class Host:
    """Where to look; tests look elsewhere."""

    proc: Path = Path("/proc")
    shm: Path = Path("/dev/shm")
    cgroup: Path = Path("/sys/fs/cgroup")
    rapl: Callable[[], str | None] = rapl_problem
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    load: Callable[[], float] = lambda: os.getloadavg()[0]
    cpus: Callable[[], int] = lambda: len(os.sched_getaffinity(0))
    real_time: Callable[[], bool] = real_time_allowed


def host_checks(host: Host) -> list[Check]:
    """Look at processors and memory.

    Args:
        host: Where to look.

    Returns:
        The findings.
    """
    return [_processors(host), _memory(host), _shared_memory(host)]


def _processors(host: Host) -> Check:
    count, load = host.cpus(), host.load()
    found = f"{count} usable, {cpu_name()}; load {load:.1f}"
    values = {"cpus": count, "load": load}
    if load > BUSY * count:
        advice = "something else keeps the CPUs busy: times and CPU power of trials will include it"
        return Check("host", "processors", "warning", found, advice, values)
    return Check("host", "processors", "ok", found, None, values)


def _memory(host: Host) -> Check:
    free = _available_memory(host)
    if free is None:
        return Check("host", "memory", "warning", "cannot be read", "expected MemAvailable in /proc/meminfo")
    found, values = f"{free / GIB:.1f} GiB available", {"available_bytes": free}
    if free < GOOD_MEMORY:
        return Check("host", "memory", "warning", found, f"{GOOD_MEMORY // GIB} GiB or more are advisable", values)
    return Check("host", "memory", "ok", found, None, values)


def _available_memory(host: Host) -> int | None:
    """Take the lesser of what the kernel has left and what the control group leaves. Units: B."""
    try:
        lines = (host.proc / "meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    try:
        limit = int((host.cgroup / "memory.max").read_text())
        used = int((host.cgroup / "memory.current").read_text())
    except (OSError, ValueError):  # no limit reads `max`
        return free
    return max(0, min(free, limit - used))


def _shared_memory(host: Host) -> Check:
    advice = "Ray keeps its object store there and falls back to disk; in a container: --shm-size=2g"
    try:
        free = host.free(host.shm)
    except OSError:
        return Check("host", str(host.shm), "warning", "not there", advice)
    values = {"free_bytes": free}
    level: Level = "ok" if free >= GOOD_SHM else "warning"
    return Check("host", str(host.shm), level, f"{free / GIB:.1f} GiB free", None if level == "ok" else advice, values)


def energy_checks(host: Host, *, gpus: int) -> list[Check]:
    """Say what energy will be made of where no GPU tells it.

    Args:
        host: Where to look.
        gpus: Number of usable GPUs.

    Returns:
        The findings: RAPL and the CPU estimate.
    """
    problem = host.rapl()
    model = EstimateSpec()
    constants = f"{model.idle_w:g} W + {model.w_per_cpu:g} W per busy CPU of the trial (energy.estimate; declared)"
    values = {"idle_w": model.idle_w, "w_per_cpu": model.w_per_cpu}
    if problem is None:
        rapl = Check("energy", "RAPL", "ok", "package counters readable (whole machine, other processes included)")
        return [rapl, Check("energy", "CPU estimate", "ok", f"not needed; {constants}", None, values)]
    rapl = Check("energy", "RAPL", "ok" if gpus else "warning", f"not readable: {problem}")
    if gpus:
        return [rapl, Check("energy", "CPU estimate", "ok", f"not needed on a GPU; {constants}", None, values)]
    advice = "energy will be an estimate and every trial suspect: good for comparing levels, not for quoting joules"
    return [rapl, Check("energy", "CPU estimate", "warning", f"will be used: {constants}", advice, values)]


def sampler_check(host: Host) -> Check:
    """Say whether the power sampler can be on time beside a training that keeps every CPU busy.

    Args:
        host: What to ask.

    Returns:
        The finding; never a problem, since late polls carry their own time.
    """
    allowed = host.real_time()
    found = "real-time scheduling allowed: polls are on time beside a busy CPU, too"
    if not allowed:
        found = "real-time scheduling not allowed (needs CAP_SYS_NICE or an rtprio limit): beside a busy CPU polls come"
        found += " late by what each record reports as energy.sampler.late_p99_s"
    return Check("energy", "sampler", "ok", found, None, {"real_time": allowed})


def place_check(name: str, path: Path, host: Host) -> Check:
    """Look at a directory that sweeps write to.

    Args:
        name: What it is for.
        path: The directory; it may not be there yet.
        host: Where to look.

    Returns:
        The finding.
    """
    there = next(parent for parent in [path.absolute(), *path.absolute().parents] if parent.exists())
    made = "" if there == path.absolute() else " (will be made)"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        advice = f"expected a directory that may be written; {there} is not"
        return Check("storage", name, "problem", f"{path}{made}: cannot be written", advice)
    free = host.free(there)
    found, values = f"{path}{made}: {free / GIB:.1f} GiB free", {"path": str(path), "free_bytes": free}
    if free < LEAST_DISK:
        return Check("storage", name, "problem", found, "free some space, or choose another place", values)
    if free < GOOD_DISK:
        return Check("storage", name, "warning", found, f"{GOOD_DISK // GIB} GiB or more are advisable", values)
    return Check("storage", name, "ok", found, None, values)
