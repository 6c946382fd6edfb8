"""The sampler: polls a reader on an absolute schedule and keeps every poll.

    start + 0 p      + 1 p      + 2 p      + 3 p        deadlines on CLOCK_MONOTONIC: no drift
      | poll           | poll     x missed   | poll     a deadline that has passed is skipped and counted

A poll that fails becomes a sample without values: it is seen in coverage, never as 0 W. Nothing that goes wrong here
ever raises out of the thread; it is told in `SamplerStats`.
"""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path

from rayscale.energy.backfill import GapFiller
from rayscale.energy.edges import Edge, EdgeListener
from rayscale.energy.punctual import be_punctual
from rayscale.energy.reader import PowerReader, Reading, missing_reading
from rayscale.energy.stream import TraceWriter
from rayscale.energy.trace import TraceMeta, finalize
from rayscale.errors import EnvironmentUnusableError, RayscaleError

FLUSH_S = 0.85
"""Oldest age of a poll that is not on disk yet; a busy machine may add to it and it is still below one second."""
SLOW_VALUES_KEEP_S = 5.0
"""How long `last` shows a temperature; a sensor that stopped answering is not shown for ever."""
ROUNDING = 1e-6
"""Share of a period by which an alarm may seem to come early."""
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class SamplerStats:
    """What the sampler did and cost. Units: s.

    Attributes:
        polls: Polls taken.
        missed: Deadlines that had passed before they could be met.
        errors: Polls that brought neither power nor energy.
        late_p99_s: 99th percentile of how late polls came.
        latency_p50_s: Median duration of a poll.
        latency_p99_s: 99th percentile of the same.
        cpu_s: CPU time of the sampling thread.
        wall_s: How long sampling lasted.
        first_error: The first failed poll, in words.
        write_error: The last failed write of the trace, in words.
        died: Whether the sampler ended before it was told to.
        real_time: Whether the sampling thread had real-time priority; None = not told.
    """

    polls: int = 0
    missed: int = 0
    errors: int = 0
    late_p99_s: float | None = None
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    cpu_s: float | None = None
    wall_s: float | None = None
    first_error: str | None = None
    write_error: str | None = None
    died: bool = False
    real_time: bool | None = None

    def to_record(self) -> dict[str, float | int | str | bool | None]:
        """Give the numbers in the form of `EnergyResult.sampler`.

        Returns:
            Name -> value.
        """
        return asdict(self)

    @classmethod
    def from_record(cls, values: dict[str, float | int | str | bool | None]) -> SamplerStats:
        """Read what `to_record` gave; unknown names are left out.

        Args:
            values: Name -> value.

        Returns:
            The stats.
        """
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})  # type: ignore[arg-type]


def deadlines_passed(elapsed_s: float, period_s: float) -> int:
    """Count the deadlines of an absolute schedule that have passed.

    Args:
        elapsed_s: Time since the schedule's start.
        period_s: Time between deadlines.

    Returns:
        The number of the last one; the alarm comes at or after its deadline, up to rounding to ns.
    """
    return math.floor(elapsed_s / period_s + ROUNDING)


def quantile(values: Sequence[float], share: float) -> float | None:
    """Take a quantile by nearest rank.

    Args:
        values: The values.
        share: In [0, 1].

    Returns:
        The quantile, None without values.
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


class Sampler:
    """A thread that polls one reader into one trace. Whoever opened the reader closes it."""

    def __init__(
        self,
        reader: PowerReader,
        directory: Path,
        period_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        beat: Callable[[float], None] | None = None,
    ) -> None:
        """Bind; nothing is started.

        Args:
            reader: The reader.
            directory: The attempt's directory.
            period_s: Time between polls, in s.
            clock: CLOCK_MONOTONIC in s.
            beat: Told the time after each poll, whether it brought anything or not: the sampler's heartbeat.
        """
        self._beat = beat
        self._reader, self._directory, self._period_s, self._clock = reader, Path(directory), period_s, clock
        self._thread = threading.Thread(target=self._run, name="power-sampler", daemon=True)
        self._lock = threading.Lock()  # readers and the writer are not made for two threads (`mark`)
        self._first, self._halt = threading.Event(), threading.Event()
        self._late, self._latency = array("d"), array("d")
        self._polls = self._missed = self._errors = 0
        self._first_error: str | None = None
        self._cpu_s: float | None = None
        self._real_time: bool | None = None
        self._began = self._ended = math.nan
        self._stats: SamplerStats | None = None
        self._writer: TraceWriter
        self._door: EdgeListener
        self._gaps: GapFiller
        self._newest: Reading | None = None
        self._slow: Reading | None = None

    def start(self) -> None:
        """Start sampling; returns once the first poll was taken.

        Raises:
            EnvironmentUnusableError: If the trace cannot be opened, or the device does not answer.
        """
        meta = TraceMeta.of(self._reader, self._period_s, datetime.now().astimezone().isoformat(timespec="seconds"))
        try:
            self._writer = TraceWriter(self._directory, meta)
        except OSError as error:
            raise EnvironmentUnusableError(f"{self._directory}: cannot write the power trace: {error}") from None
        self._gaps = GapFiller(self._reader, meta, self._writer.resumed_t)
        self._door = EdgeListener(self._directory)
        self._thread.start()
        if not self._first.wait(_START_TIMEOUT_S):
            raise EnvironmentUnusableError(f"{self._reader.method}: no answer within {_START_TIMEOUT_S:g} s")

    @property
    def last(self) -> Reading | None:
        """The newest poll that brought anything; what is read only once a second is carried over from that poll."""
        newest, slow = self._newest, self._slow
        if newest is None or slow is None or newest is slow or newest.t - slow.t > SLOW_VALUES_KEEP_S:
            return newest
        return replace(newest, temperature_c=slow.temperature_c, sm_clock_mhz=slow.sm_clock_mhz, throttle=slow.throttle)

    def alive(self) -> bool:
        """Tell whether the thread samples."""
        return self._thread.is_alive()

    def mark(self, *, tick: bool = False) -> Reading:
        """Take an extra poll right now, as the edge of a phase.

        Args:
            tick: Whether to wait for the tick of the energy counter, where the reader can.

        Returns:
            The poll.
        """
        return self._take(edge=True, tick=tick)

    def stop(self) -> SamplerStats:
        """Take one last poll, close the trace and turn it into parquet.

        Returns:
            What the sampler did; the same again at a second call.
        """
        if self._stats is None:
            died = not self._thread.is_alive()
            self._halt.set()
            self._door.wake()
            self._thread.join(_STOP_TIMEOUT_S)
            hung = self._thread.is_alive()  # stuck in a driver call: the trace ends where it is
            if not hung:
                self._door.close()
            self._stats = self._summary(died or hung, self._finish())
        return self._stats

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._real_time = be_punctual()
        self._began = self._clock()
        self._door.alarm(self._began + self._period_s, self._period_s)
        self._take(edge=True)
        self._first.set()
        tick = 0
        while True:
            edge = self._door.wait()
            if self._halt.is_set():
                break
            tick = self._serve(edge, tick) if edge is not None else self._on_time(tick)
        self._take(edge=True)
        self._ended = self._clock()
        self._cpu_s = time.thread_time()

    def _on_time(self, tick: int) -> int:
        """Take the poll of the next deadline; deadlines that pass before it is done are missed, their alarm is none.

        Returns:
            The last deadline that is done with.
        """
        elapsed = self._clock() - self._began
        if deadlines_passed(elapsed, self._period_s) <= tick:
            return tick
        self._late.append(elapsed - (tick + 1) * self._period_s)
        self._take(edge=False)
        done = deadlines_passed(self._clock() - self._began, self._period_s)
        self._missed += done - tick - 1
        return done

    def _serve(self, edge: Edge, tick: int) -> int:
        """Read an edge of a phase; deadlines that pass meanwhile are not missed, they lie between phases.

        Returns:
            The last deadline that is done with.
        """
        self._take(edge=True, tick=edge.tick)
        self._door.answer(edge)
        return max(tick, deadlines_passed(self._clock() - self._began, self._period_s))

    def _take(self, *, edge: bool, tick: bool = False) -> Reading:
        with self._lock:
            reading = self._poll(edge)
            if self._beat is not None:
                self._beat(self._clock())
            self._polls += 1
            self._latency.append(reading.latency_s)
            self._remember(reading)
            for row in self._filled(reading):
                self._writer.append(row)
            self._writer.append(reading)
            for further in self._ticks(reading) if tick else ():
                self._polls += 1
                self._writer.append(further)
                self._gaps.pause(further.t)
            oldest = self._writer.oldest_pending
            if oldest is not None and self._clock() - oldest + self._period_s > FLUSH_S:
                self._writer.flush()
        return reading

    def _remember(self, reading: Reading) -> None:
        if not reading.empty:
            self._newest = reading
        if reading.temperature_c is not None:
            self._slow = reading

    def _filled(self, reading: Reading) -> Sequence[Reading]:
        try:
            return self._gaps.before(reading)
        except Exception as error:  # as in `_poll`: the gap stays one, and coverage tells
            self._first_error = self._first_error or f"{type(error).__name__}: {error}"
            return ()

    def _ticks(self, edge: Reading) -> Sequence[Reading]:
        read_ticks = getattr(self._reader, "read_ticks", None)
        if read_ticks is None:
            return ()
        try:
            ticks: Sequence[Reading] = read_ticks(edge)
        except Exception as error:  # as in `_poll`: without ticks the counter is less sharp, nothing more
            self._first_error = self._first_error or f"{type(error).__name__}: {error}"
            return ()
        return ticks

    def _poll(self, edge: bool) -> Reading:
        read = getattr(self._reader, "read_edge", self._reader.read) if edge else self._reader.read
        begin = self._clock()
        try:
            reading: Reading = read()
        except Exception as error:  # whatever a driver or binding raises is a missing sample, not the end of sampling
            self._first_error = self._first_error or f"{type(error).__name__}: {error}"
            reading = missing_reading(self._clock(), self._clock() - begin)
        if reading.empty:
            self._errors += 1
            self._first_error = self._first_error or reading.fault
        return reading

    # -- the end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> str | None:
        self._writer.close()
        try:
            finalize(self._directory)
        except (OSError, RayscaleError) as error:
            return f"{type(error).__name__}: {error}"
        return self._writer.error

    def _summary(self, died: bool, write_error: str | None) -> SamplerStats:
        wall = self._ended - self._began
        return SamplerStats(
            polls=self._polls,
            missed=self._missed,
            errors=self._errors,
            late_p99_s=quantile(self._late, 0.99),
            latency_p50_s=quantile(self._latency, 0.5),
            latency_p99_s=quantile(self._latency, 0.99),
            cpu_s=self._cpu_s,
            wall_s=wall if math.isfinite(wall) else None,
            first_error=self._first_error,
            write_error=write_error,
            died=died,
            real_time=self._real_time,
        )
