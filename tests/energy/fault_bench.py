"""One simulated attempt with a fault in it: the real reader, integration and verdict on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from fake_nvml import Clock, FakeNvml
from simgpu import PROFILES, Load, SimGpu

from rayscale.energy.backfill import GapFiller
from rayscale.energy.measure import energy_result
from rayscale.energy.nvml import NvmlReader
from rayscale.energy.quality import judge
from rayscale.energy.reader import Reading
from rayscale.energy.sampler import SamplerStats
from rayscale.energy.trace import Trace, TraceMeta
from rayscale.errors import EnvironmentUnusableError
from rayscale.record import EnergyResult, Phase, Quality
from rayscale.spec import EnergySpec

START, SECONDS, STEP = 1000.0, 40.0, 0.2234
LATE_GAP = START + 0.5 * SECONDS, START + 0.5 * SECONDS + 3.0
OWN = 1 << 30
"""Process id of the trial, above any real one, so that every real process is foreign."""
SPEC = EnergySpec()


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt. Units: J; `refused`: why it did not begin."""

    result: EnergyResult | None = None
    quality: Quality | None = None
    truth_j: float | None = None
    refused: str | None = None

    @property
    def codes(self) -> set[str]:
        return {reason.code for reason in self.quality.reasons} if self.quality else set()

    @property
    def energy_is_right(self) -> bool:
        train = self.result.phases["train"] if self.result else None
        if train is None or train.energy_j is None or train.bound_j is None or self.truth_j is None:
            return False
        # this GPU's sensor has no gain error, so the share of its accuracy class must not be needed
        return abs(train.energy_j - self.truth_j) <= train.bound_j - (train.sensor_bound_j or 0.0)

    @property
    def zeros(self) -> list[str]:
        """Names of numbers of power or energy that are 0 (a GPU that trains never draws nothing)."""
        names = ("energy_j", "counter_j", "integral_j", "instant_j", "mean_w", "rms_w")
        phases = self.result.phases.items() if self.result else []
        return [f"{phase}.{name}" for phase, energy in phases for name in names if getattr(energy, name) == 0]


def gpu(profile: str = "H100", step: float = STEP, **faults: Any) -> SimGpu:
    load = Load.steps(START, SECONDS, step, low=300.0, high=650.0)
    return SimGpu(load, PROFILES[profile], noise_w=2.0, phase_s=0.037, **faults)


def during(share_from: float, share_to: float) -> tuple[float, float]:
    """A part of the training phase."""
    return START + share_from * SECONDS, START + share_to * SECONDS


def attempt(
    device: SimGpu,
    *,
    lose: Callable[[float], bool] = lambda t: False,
    alter: Callable[[list[Reading]], list[Reading]] = lambda readings: readings,
    nvml: FakeNvml | None = None,
    stats: SamplerStats | None = None,
    train_s: float | None = None,
    **more: Any,
) -> Outcome:
    """Sample, integrate and judge an attempt.

    Args:
        device: The GPU.
        lose: Which polls are never taken.
        alter: What happens to the readings on their way.
        nvml: The binding.
        stats: What the sampler reports.
        train_s: Length of the training phase in s; None: all of the load.
        **more: For `judge`.
    """
    clock = Clock(START - 8.0)
    binding = nvml or FakeNvml(device)
    binding.clock = clock
    try:
        reader = NvmlReader(device.uuid, nvml=binding, clock=clock, wall=binding.wall, pid=OWN)
    except EnvironmentUnusableError as error:
        return Outcome(refused=str(error))
    trace = Trace.from_readings(alter(_polls(reader, clock, lose)), TraceMeta.of(reader, 0.1))
    end = START + train_s if train_s else float(device.load.edges[-1])
    phases = [Phase(name="idle", start=START - 7.5, end=START - 1.0), Phase(name="train", start=START, end=end)]
    result = energy_result(trace, phases, SPEC, stats)
    steps = round((end - START) / float(device.load.edges[3] - device.load.edges[1]))
    quality = judge(trace, phases, result, SPEC, stats, steps=steps, **more)
    return Outcome(result, quality, float(device.load.energy(end) - device.load.energy(START)))


def _polls(reader: NvmlReader, clock: Clock, lose: Callable[[float], bool]) -> list[Reading]:
    times = START - 8.0 + np.arange(round((SECONDS + 14.0) / 0.1)) * 0.1
    readings, gaps = [], GapFiller(reader, TraceMeta.of(reader, 0.1))
    for index, now in enumerate(times):
        clock.now = float(now)
        if not lose(float(now)):
            polled = reader.read_edge() if index in (0, len(times) - 1) else reader.read()
            readings += [*gaps.before(polled), polled]
    return readings


def without(*names: str) -> Callable[[list[Reading]], list[Reading]]:
    """Blank some columns."""
    return lambda readings: [replace(reading, **dict.fromkeys(names)) for reading in readings]
