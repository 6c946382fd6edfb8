"""Gaps between polls, filled from the buffer in which the driver keeps power samples of its own.

    polls     x  x  x              x  x       the sampler was stopped, or killed and started again
    driver    : : : : : : : : : : : : :       nvmlDeviceGetSamples: some seconds to minutes, where supported
    trace     x  x  x: : : : : : : x  x       `origin` says which is which

The driver stamps its samples with the wall clock; the reader maps them to CLOCK_MONOTONIC (and declines where the wall
clock was set meanwhile). What the driver's values average over is not documented: they are taken as the power of
their own time, and stored where a poll of the trailing sensor would have shown them: one lag correction fits all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Protocol, runtime_checkable

from rayscale.energy.layout import MAX_HOLD_PERIODS, TraceMeta
from rayscale.energy.reader import Reading, missing_reading

DRIVER = "driver"
"""`Reading.origin` of a sample from the driver's buffer."""


@dataclass(frozen=True)
class DriverSample:
    """One sample of the driver. Units: s (CLOCK_MONOTONIC), W."""

    t: float
    power_w: float


@runtime_checkable
class KeepsSamples(Protocol):
    """A reader whose driver keeps samples."""

    def driver_samples(self, since: float) -> list[DriverSample]:
        """Give what the driver has kept since a time; empty where it has nothing or does not say."""


class GapFiller:
    """Watches polls for gaps in power."""

    def __init__(self, reader: object, meta: TraceMeta, last_t: float | None = None) -> None:
        """Bind.

        Args:
            reader: Asked for samples, if its driver keeps any.
            meta: The trace's.
            last_t: Time of the last poll of an earlier sampler, if this one goes on with its trace.
        """
        self._reader = reader if isinstance(reader, KeepsSamples) else None
        self._meta, self._last_t = meta, last_t

    def before(self, reading: Reading) -> list[Reading]:
        """Fill what lies between a poll and the one before it.

        Args:
            reading: The poll.

        Returns:
            Further rows for the trace, older than the poll; none without a gap.
        """
        if reading.power_w is None:
            return []
        since, self._last_t = self._last_t, reading.t
        if self._reader is None or since is None or reading.t - since <= MAX_HOLD_PERIODS * self._meta.period_s:
            return []
        shift = max(self._meta.power_shift_s, self._meta.instant_shift_s)
        samples = self._reader.driver_samples(since - shift)
        return self._rows(samples, since, reading)

    def pause(self, until: float) -> None:
        """Expect no polls until a time of CLOCK_MONOTONIC, in s: the sampler is waiting for ticks between phases."""
        self._last_t = None if self._last_t is None else max(self._last_t, until)

    def _rows(self, samples: Sequence[DriverSample], since: float, until: Reading) -> list[Reading]:
        spacing = median(b.t - a.t for a, b in pairwise(samples)) if len(samples) > 1 else 0.0
        rows = []
        for sample in samples:
            # the middle of what a sample stands for lies half a spacing before its stamp
            blank = replace(missing_reading(0.0, 0.0), origin=DRIVER)
            t = sample.t - spacing / 2 + self._meta.power_shift_s
            rows.append(replace(blank, t=t, power_w=sample.power_w))
            if self._meta.instant is not None and until.instant_w is not None:
                t = sample.t - spacing / 2 + self._meta.instant_shift_s
                rows.append(replace(blank, t=t, instant_w=sample.power_w))
        return [row for row in rows if since < row.t < until.t]
