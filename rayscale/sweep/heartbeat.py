"""The sampler's heartbeat: one number in memory that two processes of one machine share.

The sampler writes the time of every poll; the slot reads it whenever it likes. That costs neither of them a message, so
a training phase is not disturbed, and it beats only while polls are really taken: a stopped process, a dead thread and
a driver call that never returns all look the same, silent. The memory has no name in any file system: nothing is left
behind, however either side ends.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable

_TIME = struct.Struct("d")


class Heartbeat:
    """The side that listens."""

    def __init__(self) -> None:
        """Make the shared memory; it beats for the first time now."""
        self._descriptor = os.memfd_create("rayscale-heartbeat")
        os.ftruncate(self._descriptor, _TIME.size)
        self._memory = mmap.mmap(self._descriptor, _TIME.size)
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        """Where another process of the same user on this machine opens it."""
        self.reset()

    def reset(self) -> None:
        """Beat from this side, so that the age counts from now."""
        _TIME.pack_into(self._memory, 0, time.monotonic())

    def age_s(self) -> float:
        """Return the time since the last beat. Units: s."""
        return float(time.monotonic() - _TIME.unpack_from(self._memory, 0)[0])

    def close(self) -> None:
        """Let the memory go; a second call does nothing."""
        if not self._memory.closed:
            self._memory.close()
            os.close(self._descriptor)


def beating(path: str) -> Callable[[float], None]:
    """Open the side that beats.

    Args:
        path: `Heartbeat.path` of the listener.

    Returns:
        Writes one CLOCK_MONOTONIC time, in s.

    Raises:
        OSError: If the listener is gone or not on this machine.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        memory = mmap.mmap(descriptor, _TIME.size)
    finally:
        os.close(descriptor)

    def beat(t: float) -> None:
        _TIME.pack_into(memory, 0, t)

    return beat
