"""Who else computes on the GPU: NVML's process list, less the trial's own process and its descendants.

The list is read every 5 s. Who came and went in between is known where the driver keeps utilisation samples per process
(`Tenants` adds them); such a process may have ended by now, and is foreign unless it was seen to be the trial's before.

NVML names processes by their ids in the host's namespace. In a container those may not exist here; then one unknown
process is taken to be the trial's own (it cannot be told apart) and any further one is foreign.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""PROC_PID_INIT_INO of Linux (include/linux/proc_ns.h)."""


class Tenants:
    """Remembers which processes were the trial's while they lived."""

    def __init__(self, own: int | None, *, departed: bool = True, proc: Path = PROC) -> None:
        """Bind.

        Args:
            own: The trial's process; None or 0 = unknown.
            departed: Whether a process that computed and has ended counts as foreign. False where the trial's own
                processes come and go.
            proc: The proc file system.
        """
        self._own, self._departed, self._proc, self._ours = own, departed, proc, set[int]()

    def foreign(self, listed: Iterable[int], recent: Iterable[int] = ()) -> str | None:
        """Name the processes that are not the trial's.

        Args:
            listed: Who computes now.
            recent: Who computed since the look before.

        Returns:
            `pid:name` joined by `+`, empty when there is none; None when the trial's process is not known.
        """
        if not self._own:
            return None
        now = set(listed)
        self._ours |= {pid for pid in now | set(recent) if _descends(pid, self._own, self._proc)}
        ended = set(recent) - now - self._ours if self._departed else set[int]()
        return foreign_processes(now, self._own, self._proc, recent=ended)


def foreign_processes(
    pids: Iterable[int], own: int | None, proc: Path = PROC, *, recent: Iterable[int] = ()
) -> str | None:
    """Name the processes that are not the trial's.

    Args:
        pids: What NVML lists.
        own: The trial's process; None or 0 = unknown.
        proc: The proc file system.
        recent: Processes that computed a moment ago, and may have ended.

    Returns:
        `pid:name` joined by `+`, empty when there is none; None when the trial's process is not known.
    """
    if not own:
        return None
    listed, recent = set(pids), set(recent)
    here = [pid for pid in sorted(listed | recent) if (proc / str(pid)).exists()]
    gone = sorted((listed | recent) - set(here))
    found = [f"{pid}:{_name(pid, proc)}" for pid in here if not _descends(pid, own, proc)]
    ours_is_here = len(found) < len(here)
    if _initial_namespace(proc):
        # on the host itself a listed process that is not there has just ended
        return "+".join(found + [f"{pid}:ended" for pid in gone if pid in recent])
    return "+".join(found + [f"{pid}:?" for pid in gone[0 if ours_is_here else 1 :]])


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
