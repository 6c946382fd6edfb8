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
        return float(self.values[self.index_at(t)])

    def index_at(self, t: float) -> int:
        """Give the number of the step at a time."""
        return int(np.clip(np.searchsorted(self.starts, t, side="right") - 1, 0, len(self.values) - 1))

    def extremes(self, start: float, end: float) -> tuple[float, float]:
        """Give the lowest and the highest step that a window touches. Units: W."""
        part = self.values[self.index_at(start) : self.index_at(end) + 1]
        return float(part.min()), float(part.max())

    def range_around(self, low: int, high: int) -> float:
        """Give the difference between the highest and the lowest of some steps and their neighbours. Units: W."""
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
        first, last = self.index_at(start), self.index_at(end)
        if self.blur is not None:
            reach = self.blur.reach_s
            spans = [(self.index_at(edge - reach), self.index_at(edge + reach)) for edge in (start, end)]
            return self.blur.width_s * sum(self.range_around(low, high) for low, high in spans)
        ranges = self.range_around(first, first), self.range_around(last, last)
        if self.mean_exact:
            at_start = cut_length(start - self.starts[first], self.stops[first] - start)
            return at_start * ranges[0] + cut_length(end - self.starts[last], self.stops[last] - end) * ranges[1]
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
        return uncovered * self.range_around(self.index_at(start), self.index_at(end))


def cut_length(left: float, right: float) -> float:
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
