"""A cumulative energy counter as a step function: mean power between its reads, and how far it may be off at an edge.

    reads      |            |      | |   once a second, at the edges of phases, at ticks (`ticks`)
    edge              ^                  energy before it: even growth, or in the shape of the power polled meanwhile

A counter that falls has been reset: the interval is filled from the power. One that falls and is back at the next read
was misread once; that read is left out, and the interval is filled and told of as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rayscale.energy.signals import Blur, Steps, cut_length
from rayscale.energy.ticks import AlignedReads, align_reads

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Counter:
    """A cumulative energy counter: its mean power between reads, and what was wrong with it. Units: s, J.

    Attributes:
        steps: Mean power between reads; where power was polled more often, spread over the interval in its shape.
        coarse: Mean power between reads as such.
        first: Time of the first read.
        last: Time of the last read.
        resets: Indices of the intervals in which the counter fell, or was misread.
        rises: Growth between successive reads (negative at a reset).
        times: Times of the reads.
        late: How much before its time each read may have become true.
        slack: How far either way, for reads beside a tick.
        shape: Power polled more often than the counter, if there is any.
    """

    steps: Steps
    coarse: Steps
    first: float
    last: float
    resets: NDArray[np.intp]
    rises: Array
    times: Array
    late: Array
    slack: Array
    shape: Steps | None = None

    @property
    def blur(self) -> Blur | None:
        """How the sensor of the shape smears edges."""
        return self.shape.blur if self.shape is not None else None

    def bound(self, start: float, end: float) -> float:
        """Bound what the edges of a window leave open. Units: J.

        Where an edge cuts an interval between reads, the power may have changed anywhere in it; and the reads
        themselves are somewhat old. Two reads that are old to an unknown degree err against each other, so only the
        worse one counts; beside ticks the error goes either way, so both count.
        """
        (late_start, slack_start), (late_end, slack_end) = self._age_j(start), self._age_j(end)
        return self._cut_j(start) + self._cut_j(end) + max(late_start, late_end) + slack_start + slack_end

    def _cut_j(self, edge: float) -> float:
        """Energy that may be on the wrong side of a cut. Units: J.

        Without power polls: power that changes by r at an unknown time within an interval of length L puts up to
        r L f(1-f) elsewhere than even growth does; the neighbours of the interval show r. With them, see `_admitted`;
        or the shape of the power is believed, as far as its sensor does not smear it, here and at the interval's ends.
        """
        index = self.coarse.index_at(edge)
        left, right = float(self.coarse.starts[index]), float(self.coarse.stops[index])
        if self.blur is None or self.shape is None or not left < edge < right:
            return cut_length(edge - left, right - edge) * self.coarse.range_around(index, index)
        by_counter = self._admitted(index, left, edge, right)
        if self.shape.covered(left, right) < right - left - self.blur.period_s:
            return by_counter
        share = (edge - left) / (right - left)
        (low, high), *ends = (self._power_near(at, at) for at in (edge, left, right))
        ranges = [high - low, *(top - bottom for bottom, top in ends)]
        by_shape = self.blur.width_s * float(np.dot(ranges, [1.0, 1.0 - share, share]))
        return min(by_counter, by_shape)

    def _admitted(self, index: int, left: float, edge: float, right: float) -> float:
        """How far the energy before a cut may be from what is reported: all that the interval's sum admits. Units: J.

        Power stayed between the extremes that sensor and counter show around; a watt more before the cut is one less
        after it.
        """
        low, high = self._power_near(left, right)
        means = self.coarse.values[max(0, index - 1) : index + 2]
        low, high = min(low, float(means.min())), max(high, float(means.max()))
        whole = float(self.coarse.values[index]) * (right - left)
        least = max(low * (edge - left), whole - high * (right - edge))
        most = min(high * (edge - left), whole - low * (right - edge))
        said = self.steps.energy(left, edge)
        return max(said - least, most - said)

    def _power_near(self, start: float, end: float) -> tuple[float, float]:
        """Lowest and highest power that the sensor shows of a time: all values into which it may be smeared."""
        if self.blur is None or self.shape is None:
            return self.steps.extremes(start, end)
        return self.shape.extremes(start - self.blur.reach_s, end + self.blur.reach_s)

    def _age_j(self, edge: float) -> tuple[float, float]:
        """Energy by which the reads around an edge may be old: in one direction, and in both. Units: J."""
        right = int(np.clip(np.searchsorted(self.times, edge, side="right"), 1, len(self.times) - 1))
        before, after = self.times[right - 1], self.times[right]
        share = float(np.clip((edge - before) / (after - before), 0.0, 1.0))
        late, slack = ((1 - share) * one[right - 1] + share * one[right] for one in (self.late, self.slack))
        reach = max(late, slack)
        power = max(self.steps.extremes(edge - reach, edge + reach)[1], self._power_near(edge, edge)[1])
        return float(late * power), float(slack * power)

    def longest_standstill(self, start: float, end: float) -> float:
        """Give the longest time within a window in which the counter did not grow. Units: s."""
        longest = run = 0.0
        previous: int = -2
        for index in np.flatnonzero(self.rises == 0):
            inside = max(0.0, min(self.times[index + 1], end) - max(self.times[index], start))
            run = run + inside if index == previous + 1 else inside
            longest, previous = max(longest, run), int(index)
        return float(longest)

    def resets_in(self, start: float, end: float) -> int:
        """Count the resets that touch a window."""
        return int(np.sum((self.times[self.resets + 1] > start) & (self.times[self.resets] < end)))


def counter_of(
    t: Array,
    energy_j: Array,
    power: Steps | None,
    shape: Steps | None = None,
    *,
    slack_s: Array | None = None,
    resolution_s: float = 0.0,
) -> Counter | None:
    """Turn counter reads into mean power between them.

    Args:
        t: Times of the polls, in s.
        energy_j: The counter in J; NaN = not read.
        power: Held power, which fills the interval of a reset.
        shape: Power polled more often than the counter; None: the counter grows evenly between reads.
        slack_s: Half-width of the time of a tick, in s; NaN: a plain read. None: all are.
        resolution_s: How old a plain read may be, in s.

    Returns:
        The counter; None with fewer than two reads, or with a reset that nothing can fill.
    """
    known = np.isfinite(energy_j)
    distinct = np.append(True, np.diff(t[known]) > 0) if known.any() else known[:0]
    slack = np.full(len(t), np.nan) if slack_s is None else slack_s
    aligned = align_reads(t[known][distinct], energy_j[known][distinct], slack[known][distinct], resolution_s)
    aligned, misread = _without_dips(aligned)
    times, reads = aligned.times, aligned.energy_j
    if len(times) < 2:
        return None
    rises = np.diff(reads)
    fallen = np.union1d(np.flatnonzero(rises < 0), np.searchsorted(times, misread) - 1)
    if len(fallen) and power is None:
        return None
    filled = rises.copy()
    for index in fallen:
        filled[index] = power.energy(times[index], times[index + 1]) if power is not None else np.nan
    coarse = _mean_steps(times, filled)
    steps = _shaped(times, filled, shape) if shape is not None else coarse
    first, last = float(times[0]), float(times[-1])
    return Counter(steps, coarse, first, last, fallen, rises, times, aligned.late, aligned.slack, shape)


def _without_dips(reads: AlignedReads) -> tuple[AlignedReads, Array]:
    """Leave out reads below the one before them where the next one is not: misread once, not reset.

    Returns:
        The others, and the times of those left out.
    """
    energy = reads.energy_j
    dip = np.zeros(len(energy), dtype=bool)
    dip[1:-1] = (energy[1:-1] < energy[:-2]) & (energy[2:] >= energy[:-2])
    if not dip.any():
        return reads, np.zeros(0)
    kept = {name: getattr(reads, name)[~dip] for name in ("times", "energy_j", "late", "slack")}
    return replace(reads, **kept), reads.times[dip]


def _mean_steps(times: Array, energies: Array) -> Steps:
    return Steps(times[:-1], times[1:], energies / np.diff(times), times[:-1], times[1:], mean_exact=True)


def _shaped(times: Array, energies: Array, shape: Steps) -> Steps:
    """Spread each interval's energy over the power steps in it: phases mostly begin between two counter reads."""
    inside = shape.starts[(shape.starts > times[0]) & (shape.starts < times[-1])]
    grid = np.union1d(times, inside)
    interval = np.searchsorted(times, grid[:-1], side="right") - 1
    heights = np.clip(np.searchsorted(shape.starts, grid[:-1], side="right") - 1, 0, len(shape) - 1)
    weights = shape.values[heights] * np.diff(grid)
    sums = np.bincount(interval, weights, minlength=len(energies))
    even = np.diff(grid) / np.diff(times)[interval]
    shares = np.divide(weights, sums[interval], out=even, where=sums[interval] > 0)
    return _mean_steps(grid, energies[interval] * shares)
