"""What the rules of the verdict look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayscale.energy.integrate import WindowEnergy
from rayscale.energy.sampler import SamplerStats
from rayscale.energy.sensors import SensorWindow
from rayscale.energy.slow import inside
from rayscale.energy.trace import Trace
from rayscale.record import EnergyResult, PhaseEnergy, Reason
from rayscale.spec import EnergySpec


@dataclass(frozen=True)
class Evidence:
    """What the rules look at.

    Attributes:
        trace: The power trace; None when there is none.
        windows: The `train` windows with all estimates.
        spans: Their start and end.
        train: The `train` phase's energy; None when the phase did not occur.
        result: The attempt's energy.
        spec: Thresholds.
        stats: What the sampler reported.
        reference_c: Temperature at the start of the block's first trial, in degrees Celsius.
        steps: Training steps in the phase; None = unknown.
    """

    trace: Trace | None
    windows: list[WindowEnergy]
    spans: list[tuple[float, float]]
    train: PhaseEnergy | None
    result: EnergyResult
    spec: EnergySpec
    stats: SamplerStats | None
    reference_c: float | None = None
    steps: int | None = None

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Which polls fall into the train phase."""
        return inside(self.trace.t, self.spans) if self.trace is not None else np.zeros(0, dtype=bool)

    def bias(self, sensor: SensorWindow | None) -> float:
        """Give the largest relative error that step time and sensor may make together; 0 where steps are unknown."""
        from rayscale.energy.resonance import worst_bias

        if sensor is None or self.trace is None or self.train is None or not self.steps:
            return 0.0
        seconds = self.train.duration_s
        return worst_bias(seconds / self.steps, sensor, self.trace.period_s, seconds)


Rule = Callable[[Evidence], Iterator[Reason]]
