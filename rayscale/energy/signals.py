"""A sampled power signal as a step function, and its exact integrals over a window.

    samples     x     x        x  x
    forward     |---->|------->|->|---->    a value holds from its sample to the next one (device sensors)
    backward    |<----|<-------|<-|         a value describes the time since the previous one (difference quotients)

No trapezoids: a line drawn between polls turns 70 W x 10 s + 700 W x 10 s into anything but 7700 J. The first and last
value are held on to the window's edge, but time further than `max_hold_s` from a poll counts as not covered, and its
share of the integral enters the bound.

A sensor that averages over a window w and publishes every u trails: its steps are shifted back by the lag, and what the
averaging smears over an edge of the phase enters the bound. For a step of height h right at the edge, the ramp of
length w leaves h w/8 on the wrong side; when within u and within the polling period p the value was new is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayscale.energy.sensors import SensorWindow
from rayscale.energy.ticks import align_reads

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Blur:
    """How far a sensor smears an edge. Units: s.

    Attributes:
        width_s: Energy misplaced at an edge, per watt of change around it: w/8 + u/2 + p/2.
        reach_s: How far from the edge a change still matters: w + u + p.
        period_s: Time between polls.
    """

    width_s: float
    reach_s: float
    period_s: float

    @classmethod
    def of(cls, sensor: SensorWindow | None, period_s: float) -> Blur | None:
        """Derive it from a sensor's window and update period, polled every `period_s`."""
        if sensor is None:
            return None
        window, update = sensor.window_s, sensor.update_s
        return cls(window / 8 + (update + period_s) / 2, window + update + period_s, period_s)


@dataclass(frozen=True, eq=False)
class Steps:
    """A step function without holes; its first and last value go on outside. Units: s, W.

    Attributes:
        starts: Where each step begins.
        stops: Where it ends, which is where the next one begins.
        values: Its height.
        covered_from: Where the part of the step that a poll vouches for begins.
        covered_to: Where that part ends.
        mean_exact: True when a height is the true mean over its step (counters), False when it is a point value.
        blur: How the sensor smears edges; None: a point value is the truth of its time.
    """

    starts: Array
    stops: Array
    values: Array
    covered_from: Array
    covered_to: Array
    mean_exact: bool
    blur: Blur | None = None

    def __len__(self) -> int:
        return len(self.values)

    def _overlap(self, start: float, end: float) -> Array:
        overlap = np.clip(np.minimum(self.stops, end) - np.maximum(self.starts, start), 0.0, None)
        overlap[0] += max(0.0, min(self.starts[0], end) - start)
        overlap[-1] += max(0.0, end - max(self.stops[-1], start))
        return overlap

    def energy(self, start: float, end: float) -> float:
        """Integrate over a window. Units: J."""
        return float(np.dot(self.values, self._overlap(start, end)))

    def square(self, start: float, end: float) -> float:
        """Integrate the square over a window. Units: W² s."""
        return float(np.dot(self.values**2, self._overlap(start, end)))

    def covered(self, start: float, end: float) -> float:
        """Add up the time in a window that polls vouch for. Units: s."""
        overlap = np.minimum(self.covered_to, end) - np.maximum(self.covered_from, start)
        return float(np.clip(overlap, 0.0, None).sum())

    def at(self, t: float) -> float:
        """Give the height at a time. Units: W."""
        return float(self.values[self._index(t)])

    def _index(self, t: float) -> int:
        return int(np.clip(np.searchsorted(self.starts, t, side="right") - 1, 0, len(self.values) - 1))

    def extremes(self, start: float, end: float) -> tuple[float, float]:
        """Give the lowest and the highest step that a window touches. Units: W."""
        part = self.values[self._index(start) : self._index(end) + 1]
        return float(part.min()), float(part.max())

    def _range(self, low: int, high: int) -> float:
        """Difference between the highest and the lowest of some steps and their neighbours."""
        part = self.values[max(0, low - 1) : high + 2]
        return float(part.max() - part.min())

    def edge_bound(self, start: float, end: float) -> float:
        """Bound what the two edges leave open: the power may have changed anywhere within the steps they cut.

        Args:
            start: Start of the window, in s.
            end: End of the window, in s.

        Returns:
            Half-width in J. A step with a true mean is off by at most range x length x f(1-f) at a cut at fraction f; a
            point
            value by range x the part of its step inside the window.
        """
        first, last = self._index(start), self._index(end)
        if self.blur is not None:
            reach = self.blur.reach_s
            spans = [(self._index(edge - reach), self._index(edge + reach)) for edge in (start, end)]
            return self.blur.width_s * sum(self._range(low, high) for low, high in spans)
        ranges = self._range(first, first), self._range(last, last)
        if self.mean_exact:
            at_start = _cut(start - self.starts[first], self.stops[first] - start)
            return at_start * ranges[0] + _cut(end - self.starts[last], self.stops[last] - end) * ranges[1]
        if first == last:
            return (end - start) * ranges[0]
        return float((self.stops[first] - start) * ranges[0] + (end - self.starts[last]) * ranges[1])

    def gap_bound(self, start: float, end: float) -> float:
        """Bound what gaps between polls leave open: there the power may have been anything seen around the window.

        Args:
            start: Start of the window, in s.
            end: End of the window, in s.

        Returns:
            Half-width in J; 0 where the height is the true mean over its step.
        """
        uncovered = max(0.0, (end - start) - self.covered(start, end))
        if self.mean_exact or uncovered < 1e-9 * (end - start):
            return 0.0
        return uncovered * self._range(self._index(start), self._index(end))


def _cut(left: float, right: float) -> float:
    """Length x f(1-f) of a step cut into two parts; for a cut outside the step, its distance from the step."""
    if left <= 0 or right <= 0:
        return float(max(0.0, -left, -right))
    return float(left * right / (left + right))


def forward_steps(
    t: Array, values: Array, max_hold_s: float, *, shift_s: float = 0.0, blur: Blur | None = None
) -> Steps | None:
    """Hold each sample until the next one.

    Args:
        t: Sample times, ascending, in s.
        values: Power in W; NaN = missing, then the previous value goes on.
        max_hold_s: How long a sample vouches for its value.
        shift_s: How far earlier than its sample a value belongs (what it covers stays where the poll was).
        blur: How the sensor smears edges.

    Returns:
        The step function; None without any sample.
    """
    known = np.isfinite(values)
    at, power = t[known], values[known]
    if not len(at):
        return None
    stops = np.append(at[1:], at[-1] + max_hold_s)
    covered_to = np.minimum(stops, at + max_hold_s)
    return Steps(at - shift_s, stops - shift_s, power, at, covered_to, mean_exact=False, blur=blur)


def backward_steps(t: Array, values: Array, polled: NDArray[np.bool_], max_hold_s: float) -> Steps | None:
    """Let each sample describe the time since the previous one.

    Args:
        t: Sample times, ascending, in s.
        values: Mean power in W since the previous successful poll; NaN = missing.
        polled: Which polls succeeded (the first one has no value yet but begins the first interval).
        max_hold_s: How far before a sample its value counts as covered.

    Returns:
        The step function; None without any value.
    """
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return None
    at, power = t[known], values[known]
    earlier = t[polled]
    before = np.searchsorted(earlier, at, side="left") - 1
    previous = np.where(before >= 0, earlier[np.maximum(before, 0)], at - max_hold_s)
    starts = np.append(previous[0], at[:-1])
    return Steps(starts, at, power, np.maximum(previous, at - max_hold_s), at, mean_exact=True)


@dataclass(frozen=True, eq=False)
class Counter:
    """A cumulative energy counter: its mean power between reads, and what was wrong with it. Units: s, J.

    Attributes:
        steps: Mean power between reads; where power was polled more often, spread over the interval in its shape.
        coarse: Mean power between reads as such, which is all that the bound relies on.
        first: Time of the first read.
        last: Time of the last read.
        resets: Indices of the intervals in which the counter fell.
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
        index = self.coarse._index(edge)
        left, right = float(self.coarse.starts[index]), float(self.coarse.stops[index])
        if self.blur is None or self.shape is None or not left < edge < right:
            return _cut(edge - left, right - edge) * self.coarse._range(index, index)
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
    times, reads = aligned.times, aligned.energy_j
    if len(times) < 2:
        return None
    rises = np.diff(reads)
    fallen = np.flatnonzero(rises < 0)
    if len(fallen) and power is None:
        return None
    filled = rises.copy()
    for index in fallen:
        filled[index] = power.energy(times[index], times[index + 1]) if power is not None else np.nan
    coarse = _mean_steps(times, filled)
    steps = _shaped(times, filled, shape) if shape is not None else coarse
    first, last = float(times[0]), float(times[-1])
    return Counter(steps, coarse, first, last, fallen, rises, times, aligned.late, aligned.slack, shape)


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
