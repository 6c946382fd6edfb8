"""The sampler as a Ray actor: in the trial's placement group, on its node, in another process, never detached."""

from __future__ import annotations

import os
from pathlib import Path

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rayscale.energy.reader import PowerReader, open_reader
from rayscale.energy.sampler import Sampler, SamplerStats
from rayscale.energy.trace import finalize
from rayscale.spec import EnergySpec

SAMPLER_CPUS = 0.1
"""Reserved in a bundle of its own, so that a busy trial cannot starve the sampler's place."""


class SamplerActor:
    """Owns one `Sampler` at a time."""

    def __init__(self) -> None:
        """Start idle."""
        self._sampler: Sampler | None = None
        self._reader: PowerReader | None = None

    def start(self, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path) -> int:
        """Begin to sample a trial's device; returns this process's id after the first sample."""
        self.stop()
        self._reader = open_reader(spec, device_uuid=device_uuid, pid=pid)
        self._sampler = Sampler(self._reader, directory, spec.period)
        self._sampler.start()
        return os.getpid()

    def stop(self) -> SamplerStats | None:
        """End sampling and complete the trace on disk."""
        sampler, self._sampler = self._sampler, None
        reader, self._reader = self._reader, None
        try:
            return sampler.stop() if sampler else None
        finally:
            if reader:
                reader.close()

    def alive(self) -> bool:
        """Whether the sampling thread runs."""
        return self._sampler is not None and self._sampler.alive()

    def temperature_c(self) -> float | None:
        """Return the last temperature read. Units: degrees Celsius."""
        last = self._sampler.last if self._sampler else None
        return last.temperature_c if last else None


class RaySampler:
    """The slot's end of a `SamplerActor`; makes a new actor when the old one died."""

    def __init__(self) -> None:
        """Create the actor in the second bundle of the slot's placement group."""
        self._actor = self._create()
        self._heartbeat: ray.ObjectRef | None = None
        self._directory: Path | None = None

    def _create(self) -> ray.actor.ActorHandle:
        group = ray.util.get_current_placement_group()
        options: dict[str, object] = {"num_cpus": 0, "num_gpus": 0}
        if group is not None:
            options["num_cpus"] = SAMPLER_CPUS
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=1)
        return ray.remote(SamplerActor).options(**options).remote()

    def start(self, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path) -> None:
        """Begin to sample; returns after the first sample."""
        self._heartbeat = None
        self._directory = directory
        try:
            ray.get(self._actor.start.remote(spec, device_uuid, pid, directory))
        except ray.exceptions.RayActorError:
            self._actor = self._create()
            ray.get(self._actor.start.remote(spec, device_uuid, pid, directory))

    def stop(self) -> SamplerStats | None:
        """End sampling and complete the trace, from here if the actor is dead."""
        try:
            return ray.get(self._actor.stop.remote())
        except ray.exceptions.RayActorError:
            if self._directory is not None:
                finalize(self._directory)
            return SamplerStats(died=True)

    def alive(self) -> bool:
        """Whether the actor answered the previous question; asks the next one without waiting for it."""
        answered = True
        if self._heartbeat is not None:
            ready, _ = ray.wait([self._heartbeat], timeout=0)
            try:
                answered = bool(ready and ray.get(ready[0]))
            except ray.exceptions.RayActorError:
                answered = False
        self._heartbeat = self._actor.alive.remote()
        return answered

    def temperature_c(self) -> float | None:
        """Return the device's last temperature. Units: degrees Celsius."""
        return ray.get(self._actor.temperature_c.remote())
