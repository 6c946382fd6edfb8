"""The edges of phases: the trial tells its sampler, which reads everything at once; the trial waits for it.

    trial      warmup ...|  ring ......... answered  |... train ...|  ring ......... answered  |... eval ...
    sampler  .  .  .  .  .  |counter, tick, tick|  .  .  .  .  .  .  .  |counter, tick, tick|  .  .  .  .

This happens between the phases, so inside a measured window nobody still talks to anybody, and the reads that an edge
costs disturb no measurement. It is a datagram on a Linux abstract socket named after the attempt's directory: no file
is left behind, a sampler that was started again takes the name over, and without a sampler the ring is refused at once.
An edge that is not told costs accuracy only: the counter is then known from its reads once a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

ANSWER_TIMEOUT_S = 0.5
"""How long a trial waits for its sampler; two ticks of the energy counter take 0.2 s."""

_WORD = struct.Struct("?d")
"""Whether the tick is asked for; CLOCK_MONOTONIC of the ring, in s."""


def _address(directory: Path) -> bytes:
    return b"\0rayscale-edge-" + hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:32].encode()


class EdgeBell:
    """The trial's end."""

    def __init__(self, directory: Path, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Bind; the sampler need not be there yet.

        Args:
            directory: The attempt's directory, as the sampler knows it.
            timeout_s: Longest wait for an answer, in s.
        """
        self._address, self._timeout_s = _address(directory), timeout_s

    def ring(self, *, tick: bool) -> bool:
        """Tell that a phase ends or begins now; returns when the sampler has read the device.

        Args:
            tick: Whether the sampler shall wait for the tick of the energy counter.

        Returns:
            Whether it answered in time.
        """
        # a new socket for each ring: a late answer to an earlier one is lost with it
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
            bell.bind("")  # the kernel picks a name, to which the answer goes
            bell.setblocking(False)
            try:
                bell.sendto(_WORD.pack(tick, time.monotonic()), self._address)
            except OSError:
                return False  # nobody there, or its queue is full
            answered = select.poll()  # select() fails for descriptors above 1023, which a training process may have
            answered.register(bell, select.POLLIN)
            return bool(answered.poll(1000 * self._timeout_s))


@dataclass(frozen=True)
class Edge:
    """A ring that was heard.

    Attributes:
        tick: Whether the counter's tick is asked for.
        sender: Whom to answer.
    """

    tick: bool
    sender: bytes


class EdgeListener:
    """The sampler's end: sleeps until a ring, a wake-up or a deadline."""

    def __init__(self, directory: Path) -> None:
        """Take the directory's name; if another sampler has it, no edge is heard here.

        Args:
            directory: The attempt's directory.
        """
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):
            self._socket.bind(_address(directory))

    def wait(self, seconds: float) -> Edge | None:
        """Sleep.

        Args:
            seconds: At most so long, in s.

        Returns:
            The edge that ended the sleep, if one did.
        """
        until = time.monotonic() + seconds
        while True:
            # select and not poll, which knows whole milliseconds only
            left = max(0.0, until - time.monotonic())
            ready, _, _ = select.select([self._socket.fileno(), self._wake], [], [], left)
            if self._socket.fileno() not in ready:
                return None
            edge = self._heard()
            if edge is not None:
                return edge

    def _heard(self) -> Edge | None:
        try:
            word, sender = self._socket.recvfrom(_WORD.size)
            tick, rung = _WORD.unpack(word)
        except (OSError, struct.error):
            return None
        # a sampler that was stopped for a while hears rings of the past: that phase has long begun
        return Edge(tick, sender) if time.monotonic() - rung < ANSWER_TIMEOUT_S else None

    def answer(self, edge: Edge) -> None:
        """Let the trial go on.

        Args:
            edge: Its ring.
        """
        with contextlib.suppress(OSError):  # it did not wait any longer
            self._socket.sendto(b"read", edge.sender)

    def wake(self) -> None:
        """End the sleep from another thread, and every later one."""
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Give the name back."""
        self._socket.close()
        os.close(self._wake)
