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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rayscale.energy.timer import PeriodicTimer

ANSWER_TIMEOUT_S = 0.5
"""How long a trial waits for its sampler; two ticks of the energy counter take 0.2 s."""

_WORD = struct.Struct("?d")
"""Whether the tick is asked for; CLOCK_MONOTONIC of the ring, in s."""
_KINDS = 3
"""What can end a sleep: a ring, a wake-up, an alarm."""


def _address(directory: Path) -> bytes:
    return b"\0rayscale-edge-" + hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:32].encode()


class EdgeBell:
    """The trial's end."""

    def __init__(self, *directories: Path, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Bind; the samplers need not be there yet.

        Args:
            directories: The attempt's directory, as its sampler knows it; several for a trial on several devices.
            timeout_s: Longest wait for an answer, in s.
        """
        self._addresses, self._timeout_s = [_address(directory) for directory in directories], timeout_s

    def ring(self, *, tick: bool) -> bool:
        """Tell that a phase ends or begins now; returns when all samplers have read their device.

        Args:
            tick: Whether the samplers shall wait for the tick of the energy counter.

        Returns:
            Whether all answered in time.
        """
        # new sockets for each ring: a late answer to an earlier one is lost with them
        with contextlib.ExitStack() as stack:
            until = time.monotonic() + self._timeout_s
            bells = [stack.enter_context(_rung(address, tick)) for address in self._addresses]
            return all(bell is not None and _answered(bell, until) for bell in bells)


@contextlib.contextmanager
def _rung(address: bytes, tick: bool) -> Iterator[socket.socket | None]:
    """Ring at one sampler; None if nobody is there, or its queue is full."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        bell.bind("")  # the kernel picks a name, to which the answer goes
        bell.setblocking(False)
        try:
            bell.sendto(_WORD.pack(tick, time.monotonic()), address)
        except OSError:
            yield None
            return
        yield bell


def _answered(bell: socket.socket, until: float) -> bool:
    ready = select.poll()  # select() fails for descriptors above 1023, which a training process may have
    ready.register(bell, select.POLLIN)
    return bool(ready.poll(1000 * max(0.0, until - time.monotonic())))


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
    """The sampler's end: sleeps until a ring, a wake-up or its alarm."""

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
        self._timer = PeriodicTimer()
        self._ready = select.epoll()
        self._bell = self._socket.fileno()
        self._ready.register(self._bell, select.EPOLLIN)
        self._ready.register(self._wake, select.EPOLLIN)
        self._ready.register(self._timer.fd, select.EPOLLIN)

    def alarm(self, first: float, period_s: float) -> None:
        """Have `wait` end at a time and regularly after it.

        Args:
            first: CLOCK_MONOTONIC, in s.
            period_s: Time between alarms, in s.
        """
        self._timer.set(first, period_s)

    def wait(self) -> Edge | None:
        """Sleep.

        Returns:
            The edge that ended the sleep; None: an alarm or a wake-up did.
        """
        while True:
            rung = alarm = False
            for descriptor, _ in self._ready.poll(None, _KINDS):
                rung |= descriptor == self._bell
                alarm |= descriptor != self._bell
            if alarm:
                self._timer.rearm()
            edge = self._heard() if rung else None
            if edge is not None or alarm:
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
        self._ready.close()
        self._timer.close()
        self._socket.close()
        os.close(self._wake)
