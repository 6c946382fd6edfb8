r"""What a trial would have reported if its power had been sampled more seldom, for every phase shift of the sampler.

    power      ____/‾‾‾‾\___/‾‾‾‾‾‾\____
    shift 0    x           x           x      period P: samples at start + shift + k P
    shift s       x           x               0 <= s < P: nobody chose it, so each is as likely as any other

Arrays in, a frozen result out. The seed study (arXiv 2601.06649) samples every 60 s and reports the root mean square of
the samples; its energy is that power times the duration. What such a report says about one and the same trial depends
on the shift alone, and a phase shorter than the period may hold no sample at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_SHIFTS, MIN_SHIFTS = 240, 8
_BUDGET = 200_000
"""Most samples looked up per trial and period: fewer shifts where a period is short, since their spread is small."""


@dataclass(frozen=True)
class Spread:
    """A quantity over the phase shifts.

    Attributes:
        mean: Its mean.
        sd: Its standard deviation (n).
        low: Its smallest value.
        high: Its largest value.
    """

    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Resampled:
    """One trial as seen with another sampling period, one entry per phase shift; NaN where no sample fell inside.

    Attributes:
        period_s: Time between samples, in s.
        duration_s: Length of the window, in s.
        shifts_s: The phase shifts, in s.
        samples: Number of samples.
        mean_w: Mean of the samples, in W.
        rms_w: Their root mean square, in W.
    """

    period_s: float
    duration_s: float
    shifts_s: Array
    samples: NDArray[np.intp]
    mean_w: Array
    rms_w: Array

    @property
    def energy_j(self) -> Array:
        """RMS power x duration, as the seed study has it. Units: J."""
        return self.rms_w * self.duration_s

    @property
    def mean_energy_j(self) -> Array:
        """Mean power x duration. Units: J."""
        return self.mean_w * self.duration_s

    @property
    def empty_share(self) -> float:
        """Share of the phase shifts at which the trial would have got no sample at all."""
        return float(np.mean(self.samples == 0))

    def pee(self, measured_pee: float, measured_rms_w: float) -> Array:
        """Give the seed's efficiency, which is inversely proportional to the reported RMS power.

        Args:
            measured_pee: `pee` from the full trace.
            measured_rms_w: RMS power from the full trace, in W.

        Returns:
            `pee` per phase shift, in the unit of `measured_pee`.
        """
        return measured_pee * measured_rms_w / self.rms_w


def spread(values: Array) -> Spread | None:
    """Summarise a quantity over the phase shifts that have it.

    Args:
        values: One per phase shift; NaN = none.

    Returns:
        The spread, None if no shift has a value.
    """
    known = values[np.isfinite(values)]
    if not known.size:
        return None
    return Spread(float(known.mean()), float(known.std()), float(known.min()), float(known.max()))


def shifts_of(period_s: float, duration_s: float) -> Array:
    """Choose phase shifts: evenly spread over one period, in the middle of equal parts of it.

    Args:
        period_s: The sampling period, in s.
        duration_s: Length of the window, in s.

    Returns:
        Between 8 and 240 shifts, in s.
    """
    samples = max(1.0, duration_s / period_s)
    count = int(np.clip(_BUDGET / samples, MIN_SHIFTS, MAX_SHIFTS))
    return (np.arange(count) + 0.5) / count * period_s


def resample(
    starts: Array, power_w: Array, start: float, end: float, period_s: float, shifts_s: Array | None = None
) -> Resampled:
    """Sample a step function of power with another period.

    Args:
        starts: When each value begins to hold, ascending, in s; the first and last one go on outside.
        power_w: The values, in W, without NaN.
        start: Start of the window, in s.
        end: Its end, in s.
        period_s: Time between samples, in s.
        shifts_s: Phase shifts in [0, period); None chooses them.

    Returns:
        What each shift would have seen.

    Raises:
        ValueError: If there is no power, no window, or no positive period.
    """
    if not (len(starts) and len(starts) == len(power_w) and end > start and period_s > 0):
        raise ValueError("expected power, a window that ends after it starts, and a period above 0")
    duration = end - start
    shifts = shifts_of(period_s, duration) if shifts_s is None else np.asarray(shifts_s, dtype=np.float64)
    # k runs as far as the smallest shift reaches; what lies at or beyond the end is masked
    steps = np.arange(math.ceil(duration / period_s) + 1) * period_s
    offsets = shifts[:, None] + steps[None, :]
    inside = offsets < duration
    index = np.clip(np.searchsorted(starts, start + offsets, side="right") - 1, 0, len(power_w) - 1)
    values = np.where(inside, power_w[index], 0.0)
    counts = inside.sum(axis=1)
    known = np.where(counts > 0, counts, 1)
    mean = np.where(counts > 0, values.sum(axis=1) / known, np.nan)
    rms = np.where(counts > 0, np.sqrt((values**2).sum(axis=1) / known), np.nan)
    return Resampled(period_s, duration, shifts, counts, mean, rms)
