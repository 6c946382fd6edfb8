"""The sampler as a Ray actor: in the trial's placement group, on its node, in another process, never detached.

slot ── start / stop (Ray calls, between the phases) ──▶ sampler actor ── every poll ──▶ trace, heartbeat
  │  ◀── its process's end (pidfd), its heartbeat (shared memory): looked at, never asked for ──┘
  └── if it is lost: kill it for certain, sample on with a process forked from the slot's fork server; a new actor
      for the next attempt
"""

from __future__ import annotations

import os
from pathlib import Path

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rayscale.energy.group import SamplerGroup
from rayscale.energy.punctual import keep_garbage_collection_short
from rayscale.energy.reader import Reading
from rayscale.energy.sampler import SamplerStats
from rayscale.energy.sumtrace import finish_traces
from rayscale.errors import RayscaleError
from rayscale.spec import EnergySpec
from rayscale.sweep.devices import SAMPLER_CPUS
from rayscale.sweep.forkserver import ForkServer
from rayscale.sweep.heartbeat import beating
from rayscale.sweep.substitute import START_TIMEOUT_S, STOP_TIMEOUT_S, ForkedSampler, Member

LAST_TIMEOUT_S = 2.0

_GONE = (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError)


class SamplerActor:
    """Owns the samplers of one trial at a time."""

    def __init__(self) -> None:
        """Start idle."""
        keep_garbage_collection_short()
        self._sampler: SamplerGroup | None = None

    def start(
        self, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path, heartbeat: str
    ) -> tuple[int, bool]:
        """Begin to sample a trial's device.

        Returns:
            After the first sample: this process's id, and whether a sensor speaks (not a model).
        """
        self.stop()
        self._sampler = SamplerGroup(spec, device_uuid, pid, directory, beating(heartbeat))
        self._sampler.start()
        return os.getpid(), not self._sampler.estimated

    def stop(self) -> SamplerStats | None:
        """End sampling and complete the trace on disk."""
        sampler, self._sampler = self._sampler, None
        try:
            return sampler.stop() if sampler else None
        finally:
            if sampler:
                sampler.close()

    def last(self) -> Reading | None:
        """Return the newest poll that brought anything."""
        return self._sampler.last if self._sampler else None


class ActorSampler(Member):
    """A `SamplerActor`, seen from the slot."""

    def __init__(self) -> None:
        """Create the actor in the second bundle of the slot's placement group; returns at once."""
        super().__init__()
        group = ray.util.get_current_placement_group()
        options: dict[str, object] = {"num_cpus": 0, "num_gpus": 0}
        if group is not None:
            options["num_cpus"] = SAMPLER_CPUS
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=1)
        self._actor: ray.actor.ActorHandle = ray.remote(SamplerActor).options(**options).remote()

    def begin(self, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path) -> tuple[int, bool]:
        """Sample; an error of the actor is raised as itself, not as Ray's account of it."""
        started = self._actor.start.remote(spec, device_uuid, pid, directory, self.heartbeat.path)
        try:
            answer: tuple[int, bool] = ray.get(started, timeout=START_TIMEOUT_S)
        except ray.exceptions.RayTaskError as error:
            raise getattr(error, "cause", None) or error from None
        return answer

    def end(self) -> SamplerStats | None:
        """End sampling and complete the trace."""
        stats: SamplerStats | None = ray.get(self._actor.stop.remote(), timeout=STOP_TIMEOUT_S)
        return stats

    def newest(self) -> Reading | None:
        """Return the newest poll, None if there is no answer."""
        try:
            reading: Reading | None = ray.get(self._actor.last.remote(), timeout=LAST_TIMEOUT_S)
        except _GONE:
            return None
        return reading

    def discard(self) -> None:
        """Kill the process, and have Ray give its place away."""
        super().discard()
        ray.kill(self._actor)


class RaySampler:
    """The slot's sampler: an actor, or what took over from one that was lost."""

    def __init__(self, forks: ForkServer) -> None:
        """Create the actor; returns at once.

        Args:
            forks: Where a substitute is forked from.
        """
        self._forks = forks
        self._member: Member = ActorSampler()
        self._directory: Path | None = None

    @property
    def process(self) -> int | None:
        """A descriptor that becomes readable when the sampler's process ends; None before the first start."""
        return self._member.process

    def start(self, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path) -> None:
        """Begin to sample, with a substitute if the sampler is lost; returns after the first sample.

        Args:
            spec: Source, period and constants.
            device_uuid: The device that trains; None: the CPU.
            pid: The trial's process.
            directory: The attempt's directory.

        Raises:
            RayscaleError: If the device cannot be read.
        """
        self._directory = directory
        try:
            if self._member.lost():
                self._replace(ForkedSampler(self._forks))
            self._member.start(spec, device_uuid, pid, directory)
        except _GONE:
            self._replace(ForkedSampler(self._forks))
            self._member.start(spec, device_uuid, pid, directory)

    def _replace(self, successor: Member) -> None:
        self._member.discard()
        self._member = successor

    def stop(self) -> SamplerStats | None:
        """End sampling and complete the trace, from here if the sampler is lost; the next attempt has an actor again.

        Returns:
            What the sampler did; None if it did not sample.
        """
        directory, self._directory = self._directory, None
        stats: SamplerStats | None = None
        lost = self._member.lost()
        if not lost:
            try:
                stats = self._member.stop()
            except _GONE:
                lost = True
        if lost or not isinstance(self._member, ActorSampler):
            self._replace(ActorSampler())
        return stats if stats is not None or directory is None else _finished_from_outside(directory)

    def alive(self) -> bool:
        """Whether the sampler's process runs and takes polls; nothing is sent to it."""
        return not self._member.lost()

    def last(self) -> Reading | None:
        """Return the newest poll of the device's sensor; None for an estimate, or if the sampler does not answer."""
        return self._member.last()

    def close(self) -> None:
        """End sampling; the actor ends with the slot that owns it."""
        self.stop()


def _finished_from_outside(directory: Path) -> SamplerStats:
    try:
        finish_traces(directory)
    except (OSError, RayscaleError) as error:
        return SamplerStats(died=True, write_error=f"{type(error).__name__}: {error}")
    return SamplerStats(died=True)
