"""Do the estimates agree? Asked of the part of a window that all of them have seen.

    polls      . . . . . . .                  . . . . . .
    power      #############                  ###########     held through the gap, which is a guess
    counter    |-------|-------------------------|------|     ran on through it, which is the truth
    compared   <------->                         <------>     up to the counter's reads around the gap

Without this a long gap alone would look like a disagreement: if the load changed in it, what was held is wrong, and
what ran on is right. A gap is told by coverage and enters the bound of an integral; it says nothing about the sensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayscale.energy.counter import Counter
from rayscale.energy.signals import Steps

LEAST_SHARE = 0.5
"""Share of a window that must be left between gaps; with less, all of it is compared and the gaps allowed for."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Compared:
    """The estimates over one and the same part of a window. Units: J, s; None = unavailable.

    Attributes:
        counter_j: Growth of the energy counter.
        integral_j: Integral of the primary power.
        instant_j: Integral of instantaneous power.
        slack_j: How far apart gaps alone may have put them.
        seconds: How much of the window this is.
    """

    counter_j: float | None = None
    integral_j: float | None = None
    instant_j: float | None = None
    slack_j: float = 0.0
    seconds: float = 0.0


NOT_COMPARED = Compared()
"""Nothing was."""


def compare(power: Steps | None, instant: Steps | None, counter: Counter | None, start: float, end: float) -> Compared:
    """Integrate the estimates between the gaps of a window.

    Args:
        power: The primary power; None where it cannot be used.
        instant: The same of instantaneous power.
        counter: The same of the energy counter.
        start: Start of the window, in s.
        end: End of the window, in s.

    Returns:
        All that are given, over what is left between gaps; over the whole window, with the bound of the gaps as slack,
        if that is less than `LEAST_SHARE` of it.
    """
    gaps = [gap for gap in [*_gaps(power), *_gaps(instant)] if gap[0] < end and gap[1] > start]
    spans = _between([_to_reads(gap, counter) for gap in gaps], start, end)
    slack = 0.0
    if math.fsum(stop - begin for begin, stop in spans) < LEAST_SHARE * (end - start):
        spans = [(start, end)]
        slack = sum(steps.gap_bound(start, end) for steps in (power, instant) if steps is not None)
    return Compared(
        counter_j=_energy(counter.steps if counter is not None else None, spans),
        integral_j=_energy(power, spans),
        instant_j=_energy(instant, spans),
        slack_j=slack,
        seconds=math.fsum(stop - begin for begin, stop in spans),
    )


def _energy(steps: Steps | None, spans: Sequence[Span]) -> float | None:
    return None if steps is None else math.fsum(steps.energy(*span) for span in spans)


def _gaps(steps: Steps | None) -> list[Span]:
    """List where a held value is a guess: from where it belongs to (it trails) up to the next poll."""
    if steps is None or not len(steps):
        return []
    unseen = np.flatnonzero(steps.covered_from[1:] > steps.covered_to[:-1] + 1e-9)
    # a difference quotient that another sampler began anew says nothing of the time before its first poll
    begins = steps.covered_to if steps.mean_exact else steps.starts
    inner = [(float(begins[index]), float(steps.covered_from[index + 1])) for index in unseen]
    return [(-math.inf, float(steps.covered_from[0])), *inner, (float(steps.covered_to[-1]), math.inf)]


def _to_reads(gap: Span, counter: Counter | None) -> Span:
    """Widen a gap to the counter's reads around it: how it grew between two reads is not known."""
    if counter is None:
        return gap
    reads: NDArray[np.float64] = counter.times
    before, after = reads[reads <= gap[0]], reads[reads >= gap[1]]
    return float(before[-1]) if len(before) else -math.inf, float(after[0]) if len(after) else math.inf


def _between(gaps: Sequence[Span], start: float, end: float) -> list[Span]:
    """Cut gaps, which may overlap, out of a window."""
    spans, at = [], start
    for low, high in sorted(gaps):
        spans.append((at, min(low, end)))
        at = max(at, high)
    return [(begin, stop) for begin, stop in [*spans, (at, end)] if stop > begin]
