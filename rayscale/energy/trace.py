"""The power trace of one attempt: every poll, on disk while sampling, as arrays afterwards.

    power.arrows    Arrow IPC stream, appended while sampling; a torn tail is read up to the last whole batch
    power.parquet   the same rows, written atomically when sampling has ended; the stream is removed then

What the rows mean (source, method, period, ...) travels in the schema's metadata, so a trace explains itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.energy.layout import COLUMNS, META_KEY, PARQUET, STREAM, TEXTS, TraceMeta, last_in, parse_stream
from rayscale.energy.reader import Reading, Source
from rayscale.errors import InputError

__all__ = ["Array", "Trace", "TraceMeta", "finalize", "last_reading", "read_trace"]

Array = NDArray[np.float64]

_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, eq=False)
class Trace:
    """All polls in time order. Units: s (CLOCK_MONOTONIC), W, J, degrees Celsius, MHz; NaN = missing.

    The columns are those of `Reading`; `throttle`, `others`, `fault` and `origin` hold strings, None = unknown.
    """

    t: Array
    power_w: Array
    instant_w: Array
    energy_j: Array
    temperature_c: Array
    sm_clock_mhz: Array
    throttle: NDArray[np.object_]
    latency_s: Array
    mem_clock_mhz: Array
    power_limit_w: Array
    clock_policy_mhz: Array
    power_violation_s: Array
    thermal_violation_s: Array
    ecc_errors: Array
    others: NDArray[np.object_]
    fault: NDArray[np.object_]
    counter_slack_s: Array
    origin: NDArray[np.object_]
    meta: TraceMeta

    def __len__(self) -> int:
        return len(self.t)

    @property
    def source(self) -> Source:
        """Kind of the reader."""
        return self.meta.source

    @property
    def method(self) -> str:
        """The reader's words."""
        return self.meta.method

    @property
    def estimated(self) -> bool:
        """Whether a model, not a sensor, speaks."""
        return self.meta.estimated

    @property
    def period_s(self) -> float:
        """Time between polls. Units: s."""
        return self.meta.period_s

    @cached_property
    def backfilled(self) -> NDArray[np.bool_]:
        """Which rows are no polls but power from the driver's own buffer."""
        return np.array([origin is not None for origin in self.origin], dtype=bool)

    @cached_property
    def missing(self) -> NDArray[np.bool_]:
        """Which polls brought neither power nor energy."""
        return np.isnan(self.power_w) & np.isnan(self.instant_w) & np.isnan(self.energy_j)

    @classmethod
    def from_readings(cls, readings: Sequence[Reading], meta: TraceMeta) -> Trace:
        """Build a trace from polls in memory.

        Args:
            readings: The polls, in any order.
            meta: What they are.

        Returns:
            The trace.
        """
        rows = sorted(readings, key=lambda reading: reading.t)
        return cls(**{name: _column(name, [getattr(row, name) for row in rows]) for name in COLUMNS}, meta=meta)


def _column(name: str, values: list[Any]) -> NDArray[Any]:
    if name in TEXTS:
        return np.array(values, dtype=object)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


# -- reading ----------------------------------------------------------------------------------------------------------


def read_trace(directory: Path) -> Trace:
    """Read an attempt's trace, finished or not.

    Args:
        directory: The attempt's directory.

    Returns:
        The trace, up to the last whole batch if sampling was cut off.

    Raises:
        InputError: If there is none or it is damaged.
    """
    table = _load(Path(directory))
    try:
        meta = TraceMeta.from_json(table.schema.metadata[META_KEY])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{directory}: the power trace does not say what it holds (no rayscale metadata)") from None
    table = table.sort_by("t")
    return Trace(**{name: _array(table, name) for name in COLUMNS}, meta=meta)


def _array(table: Any, name: str) -> NDArray[Any]:
    if name not in table.column_names:  # a trace written before there was such a column
        return np.full(len(table), None, dtype=object) if name in TEXTS else np.full(len(table), np.nan)
    if name in TEXTS:
        return np.array(table[name].to_pylist(), dtype=object)
    return np.concatenate([_numbers(chunk) for chunk in table[name].chunks] or [np.zeros(0)])


def _numbers(chunk: Any) -> Array:
    """Read an Arrow array of doubles from its buffers; pyarrow's own way would import pandas, 0.3 s for every trial."""
    validity, data = chunk.buffers()
    inside = slice(chunk.offset, chunk.offset + len(chunk))
    numbers = np.frombuffer(data, dtype=np.float64)[inside].copy() if data is not None else np.zeros(0)
    if validity is not None:
        known = np.unpackbits(np.frombuffer(validity, dtype=np.uint8), bitorder="little")[inside]
        numbers[known == 0] = np.nan
    return numbers


def _load(directory: Path) -> Any:
    """Read both files; both are there if a crash came between writing the one and removing the other."""
    import pyarrow as pa

    tables = []
    if (directory / PARQUET).exists():
        tables.append(_read_parquet(directory / PARQUET))
    schema, batches, _ = parse_stream(_bytes(directory / STREAM))
    if schema is not None:
        rows = pa.Table.from_batches(batches, schema)
        known = _array(tables[0], "t") if tables else np.zeros(0)
        repeated = int(np.sum(_array(rows, "t") <= known.max())) if len(known) else 0
        tables.append(rows.slice(repeated))
    if not tables:
        raise InputError(f"{directory}: no power trace here (expected {PARQUET} or {STREAM})")
    return pa.concat_tables([table.replace_schema_metadata(tables[0].schema.metadata) for table in tables])


def _read_parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:  # `read_table` would import pandas
            return file.read(columns=[name for name in COLUMNS if name in file.schema_arrow.names])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: unreadable power trace: {str(error).splitlines()[0]}") from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def last_reading(directory: Path) -> Reading | None:
    """Read the newest poll, for a live view; costs the same however long the trace is.

    Args:
        directory: The attempt's directory.

    Returns:
        The newest whole poll, or None if there is none yet (or sampling has ended).
    """
    try:
        with (Path(directory) / STREAM).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
    except FileNotFoundError:
        return None
    return last_in(tail)


def finalize(directory: Path) -> Path:
    """Turn the stream into `power.parquet`, atomically, and remove the stream.

    Args:
        directory: The attempt's directory.

    Returns:
        The parquet file.

    Raises:
        InputError: If there is no trace.
        OSError: If it cannot be written.
    """
    import pyarrow.parquet as pq

    directory = Path(directory)
    target = directory / PARQUET
    if target.exists() and not (directory / STREAM).exists():
        return target
    temporary = directory / f".{PARQUET}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            pq.write_table(_load(directory), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    (directory / STREAM).unlink(missing_ok=True)
    return target
