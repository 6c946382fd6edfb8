"""Texts in local files, one reader per kind: streamed, so that a file of any size is read in bounded memory.

A text file is one text; a row of .jsonl, .parquet and .arrow is one text. What cannot be read is one line that names
the file, and the line within it where the format has lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rayscale.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

PASSAGE_CHARS = 65536
"""A longer text is cut at line ends into passages of at most this length, each a document of its own, so that one big
file can be split in two (train and held out) and memory stays bounded."""

TEXT_KINDS = frozenset({".txt", ".py", ".rst", ".md"})
ROW_KINDS = frozenset({".jsonl", ".parquet", ".arrow"})

_PIECE_CHARS = 1 << 20
_BATCH_ROWS = 256


def documents_in(path: Path, column: str, *, lenient: bool = False) -> Iterator[str]:
    """Read the documents of one file.

    Args:
        path: The file; its suffix says its kind.
        column: Key or column of the text in files of rows.
        lenient: Skip a text file that is no UTF-8 instead of refusing it.

    Yields:
        Texts, long ones cut into passages.

    Raises:
        InputError: If the file cannot be read as what its suffix says.
    """
    readers = {".jsonl": _json_rows, ".parquet": _parquet_rows, ".arrow": _arrow_rows}
    kind = path.suffix.lower()
    with _readable(path):
        if kind in readers:
            for text in readers[kind](path, column):
                yield from passages([text])
        elif lenient:
            yield from passages(_whole_file(path))
        else:
            yield from passages(_pieces(path))


def passages(pieces: Iterable[str]) -> Iterator[str]:
    """Cut a long text at line ends.

    Args:
        pieces: A text in pieces of any length; where one ends makes no difference.

    Yields:
        Passages of at most `PASSAGE_CHARS` characters; joined they give the text.
    """
    text = ""
    for piece in pieces:
        text, start = text + piece, 0
        while len(text) - start > PASSAGE_CHARS:
            end = text.rfind("\n", start, start + PASSAGE_CHARS) + 1
            end = end if end > start else start + PASSAGE_CHARS
            yield text[start:end]
            start = end
        text = text[start:]
    if text:
        yield text


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a file into a line for the user."""
    try:
        yield
    except UnicodeDecodeError:
        raise InputError(f"data.files: {path}: expected UTF-8 text") from None
    except OSError as error:
        if error.errno is None:
            raise
        raise InputError(f"data.files: {path}: cannot be read: {error.strerror}") from None


def _pieces(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        while piece := file.read(_PIECE_CHARS):
            yield piece


def _whole_file(path: Path) -> Iterator[str]:
    try:
        yield path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return


def _json_rows(path: Path, column: str) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise InputError(f"data.files: {path}:{number}: expected one JSON object per line") from None
            text = row.get(column) if isinstance(row, dict) else None
            if not isinstance(text, str):
                keys = ", ".join(row) if isinstance(row, dict) else type(row).__name__
                expected = f"expected text under the key `{column}` (data.text_column)"
                raise InputError(f"data.files: {path}:{number}: {expected}; the row has: {keys}")
            yield text


def _parquet_rows(path: Path, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Buffered and not read ahead: by default a whole column of a row group would be fetched at once.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            _check_column(path, file.schema_arrow, column)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[column]):
                yield from _texts(batch.column(0))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"data.files: {path}: no readable parquet file: {_first(error)}") from None


def _arrow_rows(path: Path, column: str) -> Iterator[str]:
    """Read an Arrow file of either form: with a footer, or a stream (what `datasets` writes)."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as mapped:
            footed = mapped.read(6) == b"ARROW1"
            mapped.seek(0)
            reader = pa.ipc.open_file(mapped) if footed else pa.ipc.open_stream(mapped)
            _check_column(path, reader.schema, column)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if footed else reader
            for batch in batches:
                values = batch.column(reader.schema.get_field_index(column))
                for start in range(0, len(values), _BATCH_ROWS):
                    yield from _texts(values.slice(start, _BATCH_ROWS))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"data.files: {path}: no readable Arrow file: {_first(error)}") from None


def _check_column(path: Path, schema: pa.Schema, column: str) -> None:
    import pyarrow as pa

    if schema.names.count(column) != 1:
        expected = f"expected a column `{column}` (data.text_column)"
        raise InputError(f"data.files: {path}: {expected}; the file has: {', '.join(schema.names)}")
    kind = schema.field(column).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(is_text(value) for is_text in texts):
        raise InputError(f"data.files: {path}: column `{column}`: expected text, got {kind}")


def _texts(values: pa.Array) -> Iterator[str]:
    return (text for text in values.to_pylist() if text)


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
