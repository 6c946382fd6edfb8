"""Traces built by hand, for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from rayscale.energy.reader import Reading
from rayscale.energy.trace import Trace, TraceMeta


def reading(
    t: float,
    power: float | None = None,
    energy: float | None = None,
    *,
    instant: float | None = None,
    temperature: float | None = None,
    throttle: str | None = None,
) -> Reading:
    return Reading(t, power, instant, energy, temperature, None, throttle, 1e-4)


def meta(
    source: Literal["nvml", "rapl", "estimated"] = "nvml", period: float = 0.1, resolution: float = 0.0
) -> TraceMeta:
    return TraceMeta(source, f"a {source} device", source == "estimated", period, resolution, "GPU-1", "Fake")


def trace_of(rows: Sequence[Reading], source: Literal["nvml", "rapl", "estimated"] = "nvml", **kwargs: float) -> Trace:
    return Trace.from_readings(rows, meta(source, **kwargs))


def sampled(
    power: Callable[[float], float], end: float, *, period: float = 0.1, begin: float = 0.0, counter: bool = False
) -> list[Reading]:
    """Sample a signal on a grid; the counter is its exact integral between samples (signal constant between them)."""
    count = round((end - begin) / period)
    rows, energy = [], 0.0
    for index in range(count + 1):
        t = begin + index * period
        rows.append(reading(t, power(t), energy if counter else None))
        energy += power(t) * period
    return rows
