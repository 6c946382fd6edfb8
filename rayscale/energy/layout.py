"""How a trace looks on disk: its columns, its metadata, and how a stream that may end anywhere is parsed."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from operator import attrgetter
from typing import Any, Literal

from rayscale.energy.reader import PowerReader, Reading, Source
from rayscale.energy.sensors import NO_SENSORS, SensorWindow

Hold = Literal["forward", "backward"]

STREAM, PARQUET = "power.arrows", "power.parquet"
COLUMNS = tuple(field.name for field in fields(Reading))
TEXTS = frozenset({"throttle", "others", "fault", "origin"})
"""The columns that hold words; all others hold numbers."""
META_KEY = b"rayscale"
MAX_HOLD_PERIODS = 2.5
"""A poll vouches for this many periods; longer silence is a gap."""


@dataclass(frozen=True)
class TraceMeta:
    """What the samples of a trace are.

    Attributes:
        source: Kind of the reader.
        method: Its words.
        estimated: Whether a model, not a sensor, speaks.
        period_s: Time between polls, in s.
        counter_resolution_s: How stale the energy counter may be, in s.
        device_uuid: The device.
        device_name: Its product name.
        started_at: Wall clock of the first poll, ISO 8601; a label only.
        power: Update period and averaging window of the primary power; None: every value is the truth of its time.
        instant: The same of the instantaneous power.
        lag_s: How far the primary power trails, in s, where the sweep file states it; None takes it from `power`.
        accuracy: Relative accuracy class of the sensor; None = unknown.
    """

    source: Source
    method: str
    estimated: bool
    period_s: float
    counter_resolution_s: float = 0.0
    device_uuid: str | None = None
    device_name: str | None = None
    started_at: str | None = None
    power: SensorWindow | None = None
    instant: SensorWindow | None = None
    lag_s: float | None = None
    accuracy: float | None = None

    @property
    def hold(self) -> Hold:
        """Which side of a sample its power describes.

        A device's sensor speaks until the next sample; a counter's difference quotient speaks of the time before it.
        """
        return "forward" if self.source == "nvml" else "backward"

    @property
    def power_shift_s(self) -> float:
        """How far earlier than its sample the middle of what a held value stands for lies. Units: s.

        A value read at t describes a window whose middle lies `lag` before t, and is then held over [t, t + period],
        whose middle lies half a period after t.
        """
        return _shift(self.power, self.lag_s, self.period_s)

    @property
    def instant_shift_s(self) -> float:
        """The same of the instantaneous power. Units: s."""
        return _shift(self.instant, None, self.period_s)

    @classmethod
    def of(cls, reader: PowerReader, period_s: float, started_at: str | None = None) -> TraceMeta:
        """Describe the trace that a reader's polls make.

        Args:
            reader: The reader.
            period_s: Time between polls, in s.
            started_at: Wall clock, ISO 8601.

        Returns:
            The description.
        """
        return cls(
            source=reader.source,
            method=reader.method,
            estimated=reader.estimated,
            period_s=period_s,
            counter_resolution_s=reader.counter_resolution_s,
            device_uuid=reader.device_uuid,
            device_name=reader.device_name,
            started_at=started_at,
            **getattr(reader, "sensors", NO_SENSORS).meta(),
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> TraceMeta:
        """Read what `to_json` wrote.

        Args:
            text: JSON.

        Returns:
            The description; names that are not known here are left out.

        Raises:
            TypeError: If a needed name is missing.
            ValueError: If it is no JSON object.
        """
        values = dict(json.loads(text))
        for name in ("power", "instant"):
            values[name] = SensorWindow(**values[name]) if values.get(name) else None
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def to_json(self) -> str:
        """Write the description as JSON."""
        return json.dumps(asdict(self))


def _shift(sensor: SensorWindow | None, lag_s: float | None, period_s: float) -> float:
    lag = lag_s if lag_s is not None else sensor.lag_s if sensor is not None else None
    return lag + period_s / 2 if lag is not None else 0.0


def schema_of(meta: TraceMeta) -> Any:
    """Give the Arrow schema of a trace.

    Args:
        meta: Stored as JSON in the schema's metadata.

    Returns:
        A `pyarrow.Schema`.
    """
    import pyarrow as pa

    types = {name: pa.string() if name in TEXTS else pa.float64() for name in COLUMNS}
    return pa.schema(list(types.items()), metadata={META_KEY: meta.to_json().encode()})


def batch_of(readings: Sequence[Reading], schema: Any) -> Any:
    """Pack polls into one Arrow batch.

    Args:
        readings: The polls.
        schema: What `schema_of` gave.

    Returns:
        A `pyarrow.RecordBatch`.
    """
    import pyarrow as pa

    columns = zip(*map(attrgetter(*COLUMNS), readings), strict=True)
    # most columns of most batches are empty: what is read once a second, or never
    empty = {words: _empty(len(readings), words) for words in (False, True)}
    arrays = [
        empty[name in TEXTS] if values.count(None) == len(values) else _array_of(values, name in TEXTS)
        for name, values in zip(COLUMNS, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array_of(values: tuple[Any, ...], words: bool) -> Any:
    """Build an Arrow array from its buffers: `pa.array` would import pandas, half a second for the sampler."""
    import pyarrow as pa

    missing = values.count(None)
    validity = pa.py_buffer(_bits(values)) if missing else None
    if not words:
        numbers = array("d", [0.0 if value is None else value for value in values])
        return pa.Array.from_buffers(pa.float64(), len(values), [validity, pa.py_buffer(numbers)], missing)
    texts = [(value or "").encode() for value in values]
    offsets = array("i", accumulate(map(len, texts), initial=0))
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers, missing)


def _bits(values: tuple[Any, ...]) -> bytes:
    """Say which values are there, the lowest bit first."""
    known = sum(1 << index for index, value in enumerate(values) if value is not None)
    return known.to_bytes((len(values) + 7) // 8, "little")


def _empty(length: int, words: bool) -> Any:
    """Build an array of so many missing values."""
    import pyarrow as pa

    validity = pa.py_buffer(bytes((length + 7) // 8))
    if not words:
        return pa.Array.from_buffers(pa.float64(), length, [validity, pa.py_buffer(bytes(8 * length))], length)
    buffers = [validity, pa.py_buffer(bytes(4 * (length + 1))), pa.py_buffer(b"")]
    return pa.Array.from_buffers(pa.string(), length, buffers, length)


def parse_stream(content: bytes) -> tuple[Any | None, list[Any], int]:
    """Read a stream that may end anywhere.

    Args:
        content: The file's bytes.

    Returns:
        The schema (None if not even that is whole), the whole batches, and where the last of them ends, in B.
    """
    import pyarrow as pa

    source = pa.BufferReader(content)
    batches: list[Any] = []
    try:
        schema = pa.ipc.read_schema(pa.ipc.read_message(source))
    except (EOFError, OSError, pa.ArrowInvalid):
        return None, [], 0
    end = source.tell()
    while True:
        try:
            batches.append(pa.ipc.read_record_batch(pa.ipc.read_message(source), schema))
        except (EOFError, OSError, pa.ArrowInvalid):  # the end, or a batch that was not written to its end
            return schema, batches, end
        end = source.tell()


def last_in(tail: bytes) -> Reading | None:
    """Find the newest poll in the end of a stream.

    Args:
        tail: The stream's last bytes, from anywhere; each message in it starts with the marker ff ff ff ff.

    Returns:
        The last poll of the last whole batch, None if there is no whole batch.
    """
    import pyarrow as pa

    schema = schema_of(TraceMeta("nvml", "", False, 0.0))  # the columns are the same for every trace
    at = tail.rfind(b"\xff\xff\xff\xff")
    while at >= 0:
        try:
            message = pa.ipc.read_message(pa.BufferReader(tail[at:]))
            if message.type == "record batch":
                rows = [Reading(**row) for row in pa.ipc.read_record_batch(message, schema).to_pylist()]
                # a tick of the counter comes between polls and shows nothing else
                return next((row for row in reversed(rows) if row.counter_slack_s is None), rows[-1])
        except (EOFError, OSError, IndexError, pa.ArrowInvalid):
            pass  # the marker was data, or the batch is not whole: look further back
        at = tail.rfind(b"\xff\xff\xff\xff", 0, at)
    return None
