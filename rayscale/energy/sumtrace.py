"""The power of several devices of one trial as one trace, for pictures, resampling and the spread of the sum.

It holds the devices' power at every poll of any of them, each held until its next poll. It has no energy counter:
counters are read at different times, so energies are added up device by device (`sums`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.energy.deviceset import join_devices
from rayscale.energy.layout import COLUMNS, MAX_HOLD_PERIODS, PARQUET, TEXTS, schema_of
from rayscale.energy.reader import Reading
from rayscale.energy.trace import Array, Trace, finalize, last_reading, read_trace
from rayscale.errors import InputError
from rayscale.storage import LocalStorage


def parts_of(directory: Path) -> list[Path]:
    """List where the devices of an attempt on several leave their traces; empty for one device.

    Args:
        directory: The attempt's directory.
    """
    return sorted(directory.glob("power-*/"), key=lambda path: int(path.name.removeprefix("power-")))


def newest_reading(directory: Path) -> Reading | None:
    """Read the newest poll of an attempt that still runs, of all its devices together.

    Args:
        directory: The attempt's directory.

    Returns:
        The poll; None if there is none yet, or sampling has ended.
    """
    parts = parts_of(directory)
    return together([last_reading(part) for part in parts]) if parts else last_reading(directory)


def read_attempt(directory: Path) -> Trace:
    """Read the power of an attempt, finished or cut off, on one device or several.

    Args:
        directory: The attempt's directory.

    Returns:
        Its trace; of several devices their sum.

    Raises:
        InputError: If there is none or it is damaged.
    """
    parts = [] if (directory / PARQUET).exists() else parts_of(directory)
    return sum_trace([read_trace(part) for part in parts]) if parts else read_trace(directory)


def finish_traces(directory: Path) -> None:
    """Complete the traces of an attempt: each device's, and the sum of several.

    Args:
        directory: The attempt's directory.

    Raises:
        InputError: If there is no trace, or one of several is missing.
        OSError: If one cannot be written.
    """
    parts = parts_of(directory)
    for part in parts:
        finalize(part)
    if not parts:
        finalize(directory)
        return
    write_trace(directory, sum_trace([read_trace(part) for part in parts]))


def write_trace(directory: Path, trace: Trace) -> None:
    """Write a trace as a finished one, atomically.

    Args:
        directory: Where.
        trace: The trace.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = schema_of(trace.meta)
    kinds = {name: pa.string() if name in TEXTS else pa.float64() for name in COLUMNS}
    columns = [pa.array(_known(getattr(trace, name)), kind) for name, kind in kinds.items()]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), sink, compression="zstd")
    LocalStorage(directory).write(PARQUET, sink.getvalue().to_pybytes())


def _known(values: NDArray[Any]) -> list[Any]:
    return [
        None if value is None or (isinstance(value, float) and math.isnan(value)) else value
        for value in values.tolist()
    ]


def sum_trace(traces: Sequence[Trace]) -> Trace:
    """Add the power of several devices up.

    Args:
        traces: One per device.

    Returns:
        Power at every poll of any device, NaN where one of them is silent or has not begun; the highest temperature.

    Raises:
        InputError: If there is none.
    """
    if not traces:
        raise InputError("no power trace to add up; expected one per device")
    first, t = traces[0].meta, np.unique(np.concatenate([trace.t[_told(trace)] for trace in traces]))
    columns = {
        name: np.full(len(t), None, dtype=object) if name in TEXTS else np.full(len(t), np.nan) for name in COLUMNS
    }
    hold = MAX_HOLD_PERIODS * first.period_s
    columns |= {
        "t": t,
        "power_w": sum((_held(trace, trace.power_w, t, hold) for trace in traces), np.zeros(len(t))),
        "instant_w": sum((_held(trace, trace.instant_w, t, hold) for trace in traces), np.zeros(len(t))),
        "temperature_c": np.fmax.reduce([_held(trace, trace.temperature_c, t, np.inf) for trace in traces]),
    }
    names = list(dict.fromkeys(trace.meta.device_name or "?" for trace in traces))
    meta = replace(
        first,
        method=joint_method(trace.meta.method for trace in traces),
        device_uuid=join_devices(str(trace.meta.device_uuid) for trace in traces),
        device_name=f"{len(traces)} x {' + '.join(names)}",
        estimated=any(trace.estimated for trace in traces),
    )
    return Trace(**columns, meta=meta)


def _told(trace: Trace) -> NDArray[np.bool_]:
    return np.isfinite(trace.power_w) | np.isfinite(trace.instant_w)


def _held(trace: Trace, values: Array, t: Array, hold_s: float) -> Array:
    """Hold each value until the next one, at most so long."""
    known = np.isfinite(values)
    if not known.any():
        return np.full(len(t), np.nan)
    times, kept = trace.t[known], values[known]
    index = np.searchsorted(times, t, side="right") - 1
    old = (index < 0) | (t - times[np.maximum(index, 0)] > hold_s)
    return np.where(old, np.nan, kept[np.maximum(index, 0)])


def joint_method(methods: Iterable[str]) -> str:
    """Say in words how several devices were measured.

    Args:
        methods: One per device.

    Returns:
        What they have in common once.
    """
    found = list(methods)
    return f"sum of {len(found)} devices: {' | '.join(dict.fromkeys(found))}"


def together(readings: Sequence[Reading | None]) -> Reading | None:
    """Take polls of several devices as one.

    Args:
        readings: One per device; None: nothing was read yet.

    Returns:
        Powers added up, the highest temperature, the lowest clock; None while a device has no poll.
    """
    known = [reading for reading in readings if reading is not None]
    if len(known) < len(readings) or not known:
        return None
    if len(known) == 1:
        return known[0]
    return replace(
        min(known, key=lambda reading: reading.t),
        power_w=add_up([reading.power_w for reading in known]),
        instant_w=add_up([reading.instant_w for reading in known]),
        energy_j=add_up([reading.energy_j for reading in known]),
        temperature_c=max((one.temperature_c for one in known if one.temperature_c is not None), default=None),
        sm_clock_mhz=min((one.sm_clock_mhz for one in known if one.sm_clock_mhz is not None), default=None),
    )


def add_up(values: Sequence[float | None]) -> float | None:
    """Add numbers of several devices up.

    Args:
        values: One per device.

    Returns:
        Their sum; None where one is unknown.
    """
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
