"""Who else computes on the GPU: NVML's process list, less the trial's own process and its descendants.

NVML names processes by their ids in the host's namespace. In a container those may not exist here; then one unknown
process is taken to be the trial's own (it cannot be told apart) and any further one is foreign.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""PROC_PID_INIT_INO of Linux (include/linux/proc_ns.h)."""


def foreign_processes(pids: Iterable[int], own: int | None, proc: Path = PROC) -> str | None:
    """Name the processes that are not the trial's.

    Args:
        pids: What NVML lists.
        own: The trial's process; None or 0 = unknown.
        proc: The proc file system.

    Returns:
        `pid:name` joined by `+`, empty when there is none; None when the trial's process is not known.
    """
    if not own:
        return None
    here, unknown = [], []
    for pid in sorted(set(pids)):
        if (proc / str(pid)).exists():
            here.append(pid)
        elif not _initial_namespace(proc):
            unknown.append(pid)  # on the host itself a process that is not there has just ended
    found = [f"{pid}:{_name(pid, proc)}" for pid in here if not _descends(pid, own, proc)]
    ours_is_here = len(found) < len(here)
    return "+".join(found + [f"{pid}:?" for pid in unknown[0 if ours_is_here else 1 :]])


def _initial_namespace(proc: Path) -> bool:
    try:
        return (proc / "self/ns/pid").stat().st_ino == _INITIAL_PID_NAMESPACE
    except OSError:
        return False


def _descends(pid: int, ancestor: int, proc: Path) -> bool:
    seen: set[int] = set()
    while pid > 0 and pid not in seen:
        if pid == ancestor:
            return True
        seen.add(pid)
        pid = _parent(pid, proc)
    return False


def _parent(pid: int, proc: Path) -> int:
    try:
        # fields after the command's closing bracket start with number 3; the parent is 4 (proc_pid_stat(5))
        return int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _name(pid: int, proc: Path) -> str:
    try:
        return (proc / str(pid) / "comm").read_text().strip().replace("+", "_")
    except OSError:
        return "?"
