"""What is read once a second or less, seen from a phase: what a cumulative time grew by, and what held around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Span = tuple[float, float]


def grown_share(t: Array, seconds: Array, spans: Sequence[Span]) -> float | None:
    """Say for which share of some windows a cumulative time ran; a fall (reset) counts as no growth.

    Args:
        t: Sample times, ascending, in s.
        seconds: The cumulative time in s; NaN = not read.
        spans: Start and end of the windows.

    Returns:
        The share in [0, 1]; None without two reads, or if the reads do not reach the windows.
    """
    known = np.isfinite(seconds)
    times, reads = t[known], seconds[known]
    duration = sum(end - start for start, end in spans)
    if len(times) < 2 or duration <= 0 or times[0] > spans[0][1] or times[-1] < spans[-1][0]:
        return None
    rises = np.concatenate([[0.0], np.cumsum(np.clip(np.diff(reads), 0.0, None))])
    grown = sum(float(np.interp(end, times, rises) - np.interp(start, times, rises)) for start, end in spans)
    return min(1.0, grown / duration)


def around(t: Array, values: NDArray[Any], spans: Sequence[Span]) -> list[Any]:
    """List the values that held during some windows: reads inside, the last before and the first after.

    Args:
        t: Sample times, ascending, in s.
        values: Numbers (NaN = not read) or words (None = not read).
        spans: Start and end of the windows.

    Returns:
        The values, in time order.
    """
    known = _known(values)
    times, reads = t[known], values[known]
    if not spans or not len(times):
        return []
    first = max(0, int(np.searchsorted(times, spans[0][0], side="right")) - 1)
    last = min(len(times), int(np.searchsorted(times, spans[-1][1], side="left")) + 1)
    return list(reads[first:last])


def inside(t: Array, spans: Sequence[Span]) -> NDArray[np.bool_]:
    """Mark the samples inside some windows."""
    marks = np.zeros(len(t), dtype=bool)
    for start, end in spans:
        marks |= (t >= start) & (t <= end)
    return marks


def _known(values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype == object:
        return np.array([value is not None for value in values], dtype=bool)
    return np.isfinite(values)
