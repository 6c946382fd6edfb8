"""Appending polls to the trace on disk: a crash loses less than a second, a full disk nothing for good.

Batches are whole Arrow messages written with one unbuffered write. A write that fails part of the way is cut off again
and its polls stay in memory for the next try, so the stream never holds a broken batch followed by good ones.
"""

from __future__ import annotations

import os
from pathlib import Path

from rayscale.energy.layout import STREAM, TraceMeta, batch_of, parse_stream, schema_of
from rayscale.energy.reader import Reading


class TraceWriter:
    """Appends to `power.arrows`; goes on after a sampler that was killed."""

    def __init__(self, directory: Path, meta: TraceMeta) -> None:
        """Open the stream; a torn tail of an earlier sampler is cut off.

        Args:
            directory: The attempt's directory; made if missing.
            meta: What the samples are.

        Raises:
            OSError: If the file cannot be opened.
        """
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / STREAM
        content = path.read_bytes() if path.exists() else b""
        _, batches, self._size = parse_stream(content)
        self.resumed_t: float | None = batches[-1].to_pylist()[-1]["t"] if batches else None
        """Time of the last poll of the sampler before this one. Units: s, CLOCK_MONOTONIC."""
        self._schema = schema_of(meta)
        self._pending: list[Reading] = []
        self._file = path.open("ab", buffering=0)
        self._torn = len(content) > self._size
        self.error: str | None = None

    @property
    def oldest_pending(self) -> float | None:
        """Time of the oldest poll that is not on disk yet. Units: s, CLOCK_MONOTONIC."""
        return self._pending[0].t if self._pending else None

    def append(self, reading: Reading) -> None:
        """Take a poll into the next batch.

        Args:
            reading: The poll.
        """
        self._pending.append(reading)

    def flush(self) -> None:
        """Write all polls taken so far; a failure is kept in `error` and they are tried again next time."""
        if not self._pending:
            return
        header = b"" if self._size else self._schema.serialize().to_pybytes()
        payload = header + batch_of(self._pending, self._schema).serialize().to_pybytes()
        try:
            if self._torn:  # by a kill, or by a write that got only part of the way
                os.ftruncate(self._file.fileno(), self._size)
            self._write(payload)
        except OSError as error:
            self._torn = True
            self.error = f"{type(error).__name__}: {error}"
            return
        self._torn = False
        self._size += len(payload)
        self._pending.clear()

    def _write(self, payload: bytes) -> None:
        view = memoryview(payload)
        while view:
            view = view[self._file.write(view) :]

    def close(self) -> None:
        """Write what is left and close the file."""
        self.flush()
        self._file.close()
