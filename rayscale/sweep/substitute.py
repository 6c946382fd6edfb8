"""Samplers as the slot sees them, and the one that takes over in the middle of a trial.

A new Ray actor takes 2 to 4 s to start, a second one kept in reserve costs most of a percent of a core all the time
(Ray's own threads; measured). The slot's fork server is there anyway: a process forked from it samples some tenths of
a second after the loss, until the attempt ends. No Ray in here: the forked process imports this module.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from abc import ABC, abstractmethod
from multiprocessing.connection import Connection
from pathlib import Path

from rayscale.energy.group import SamplerGroup
from rayscale.energy.punctual import keep_garbage_collection_short
from rayscale.energy.reader import Reading
from rayscale.energy.sampler import SamplerStats
from rayscale.errors import EnvironmentUnusableError
from rayscale.spec import EnergySpec
from rayscale.sweep.forkserver import ForkServer
from rayscale.sweep.heartbeat import Heartbeat, beating

SILENCE_S = 1.5
"""Silence beyond the polling period after which a sampler is given up; with the slot's look, noticed within 2 s."""
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
KILL_TIMEOUT_S = 1.0


class Member(ABC):
    """One sampler in a process of its own; what its end and its silence look like is the same for all kinds."""

    def __init__(self) -> None:
        """Bind; it has not started."""
        self.heartbeat = Heartbeat()
        self.process: int | None = None
        """A descriptor of its process, which becomes readable when that ends; None before the first start."""
        self._silence_s: float | None = None
        self._sensor = False

    @abstractmethod
    def begin(self, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path) -> tuple[int, bool]:
        """Sample; return its process's id after the first sample, and whether a sensor speaks (not a model)."""

    @abstractmethod
    def end(self) -> SamplerStats | None:
        """End sampling and complete the trace."""

    @abstractmethod
    def newest(self) -> Reading | None:
        """Return the newest poll, None if there is no answer."""

    def start(self, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path) -> None:
        """Begin to sample a trial's device; returns after the first sample.

        Args:
            spec: Source, period and constants.
            device_uuid: The device that trains; None: the CPU.
            pid: The trial's process.
            directory: The attempt's directory.
        """
        self._silence_s = None
        own_pid, self._sensor = self.begin(spec, device_uuid, pid, directory)
        if self.process is None:
            self.process = os.pidfd_open(own_pid)
        self.heartbeat.reset()
        self._silence_s = SILENCE_S + spec.period

    def stop(self) -> SamplerStats | None:
        """End sampling; the silence that follows is not a loss."""
        stats = self.end()
        self._silence_s = None
        return stats

    def last(self) -> Reading | None:
        """Return the newest poll of a sensor; a model follows the trial's process and says nothing of the device."""
        return self.newest() if self._sensor else None

    def lost(self) -> bool:
        """Whether its process has ended, or is silent although it should sample."""
        ended = self.process is not None and readable(self.process, 0.0)
        return ended or (self._silence_s is not None and self.heartbeat.age_s() > self._silence_s)

    def discard(self) -> None:
        """Kill it, so that it cannot wake up and write into the trace beside its successor."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):  # it had ended
                signal.pidfd_send_signal(self.process, signal.SIGKILL)
            readable(self.process, KILL_TIMEOUT_S)
            os.close(self.process)
            self.process = None
        self.heartbeat.close()


def readable(descriptor: int, timeout_s: float) -> bool:
    """Whether a descriptor becomes readable in time; unlike select(), for descriptors above 1023 too."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


class ForkedSampler(Member):
    """A sampler forked from the slot's fork server, for the rest of one attempt."""

    def __init__(self, forks: ForkServer) -> None:
        """Bind; the process is forked when it starts."""
        super().__init__()
        self._forks = forks
        self._pipe: Connection | None = None

    def begin(self, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path) -> tuple[int, bool]:
        """Fork and sample.

        Raises:
            EnvironmentUnusableError: If the device cannot be read.
        """
        self._pipe, there = self._forks.pipe()
        child = self._forks.fork(sample_in_child, there, spec, device_uuid, pid, directory, self.heartbeat.path)
        there.close()
        answer = self._answer(START_TIMEOUT_S)
        if child.pid is None or not isinstance(answer, bool):
            child.kill()
            raise EnvironmentUnusableError(f"{answer or 'the process forked to sample ended before its first poll'}")
        return child.pid, answer

    def end(self) -> SamplerStats | None:
        """End sampling and complete the trace."""
        return self._ask("stop")  # type: ignore[return-value]

    def newest(self) -> Reading | None:
        """Return the newest poll, None if there is no answer."""
        return self._ask("last")  # type: ignore[return-value]

    def discard(self) -> None:
        """Kill it and close the pipe."""
        super().discard()
        if self._pipe is not None:
            self._pipe.close()

    def _ask(self, word: str) -> object:
        if self._pipe is None:
            return None
        try:
            self._pipe.send(word)
        except OSError:
            return None
        return self._answer(STOP_TIMEOUT_S)

    def _answer(self, timeout_s: float) -> object:
        if self._pipe is None:
            return None
        try:
            return self._pipe.recv() if self._pipe.poll(timeout_s) else None
        except (EOFError, OSError):
            return None


def sample_in_child(
    pipe: Connection, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path, heartbeat: str
) -> None:
    """Entry point of the forked process: sample until told to stop, or until the slot is gone.

    Args:
        pipe: Says whether a sensor speaks (or what is wrong), then answers `last` and `stop`.
        spec: Source, period and constants.
        device_uuid: The device that trains; None: the CPU.
        pid: The trial's process.
        directory: The attempt's directory.
        heartbeat: Where to beat.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's; this process ends with its slot
    keep_garbage_collection_short()
    try:
        sampler = SamplerGroup(spec, device_uuid, pid, directory, beating(heartbeat))
        sampler.start()
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    with contextlib.suppress(EOFError, OSError):
        pipe.send(not sampler.estimated)
        while pipe.recv() == "last":
            pipe.send(sampler.last)
        pipe.send(sampler.stop())
    sampler.stop()
    sampler.close()
