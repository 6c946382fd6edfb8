"""Where documents come from: one small protocol, text files and the Python installation's own sources.

Reading twice must give the same documents in the same order: `fingerprint` says which, before anything is tokenised.
"""

from __future__ import annotations

import glob
import hashlib
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rayscale.errors import InputError

PASSAGE_CHARS = 65536
"""A longer text is cut at line ends into passages of at most this length, so that one big file can be split in two
(train and held out) and memory stays bounded."""

_WHOLE = {".txt", ".py", ".rst", ".md"}
_STDLIB_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "__pycache__"}


class Source(Protocol):
    """Documents that can be read again and again."""

    @property
    def label(self) -> str:
        """What it is, for people."""

    @property
    def revision(self) -> str | None:
        """Commit of a hub dataset; None for local text."""

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the documents."""

    def documents(self) -> Iterator[str]:
        """Yield the documents in a fixed order."""


@dataclass(frozen=True)
class FileSource:
    """Documents in local files.

    Attributes:
        files: (name that does not depend on where the tree lies, path), sorted by name.
        column: Key or column of the text in .jsonl and .parquet files.
        label: What it is, for people.
        lenient: Skip files that are no UTF-8 instead of refusing them.
        revision: None: local files have none.
    """

    files: tuple[tuple[str, Path], ...]
    column: str
    label: str
    lenient: bool = False
    revision: None = None

    def fingerprint(self) -> str:
        """Return a hash of all names and contents."""
        total = hashlib.sha256()
        for name, path in self.files:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{name}\0{digest}\n".encode())
        return total.hexdigest()

    def documents(self) -> Iterator[str]:
        """Yield whole text files cut into passages, and one document per row of .jsonl and .parquet files."""
        for _, path in self.files:
            kind = path.suffix.lower()
            if kind == ".jsonl":
                rows = _json_rows(path, self.column)
            elif kind == ".parquet":
                rows = _parquet_rows(path, self.column)
            else:
                rows = _whole_file(path, self.lenient)
            for text in rows:
                yield from passages(text)


def passages(text: str) -> Iterator[str]:
    """Cut a long text at line ends.

    Args:
        text: A document.

    Yields:
        Passages of at most `PASSAGE_CHARS` characters; joined they give the text.
    """
    start = 0
    while len(text) - start > PASSAGE_CHARS:
        end = text.rfind("\n", start, start + PASSAGE_CHARS) + 1
        end = end if end > start else start + PASSAGE_CHARS
        yield text[start:end]
        start = end
    yield text[start:]


def open_files(patterns: list[str], column: str) -> FileSource:
    """Find the files of `data.files`.

    Args:
        patterns: Glob patterns; `**` crosses directories.
        column: Key or column that holds the text.

    Returns:
        The source. Names are relative to the files' common directory, so a moved tree is the same corpus.

    Raises:
        InputError: If a pattern matches nothing or a file's kind is unknown.
    """
    found: set[Path] = set()
    problems = []
    for pattern in patterns:
        paths = {Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file()}
        if not paths:
            problems.append(f"data.files: no file matches {pattern}")
        found |= paths
    known = ", ".join(sorted(_WHOLE | {".jsonl", ".parquet"}))
    for path in sorted(found):
        if path.suffix.lower() not in _WHOLE | {".jsonl", ".parquet"}:
            problems.append(f"data.files: {path}: expected one of {known}")
    if problems:
        raise InputError(problems)
    root = _common_directory(found)
    files = tuple(sorted((path.absolute().relative_to(root).as_posix(), path) for path in found))
    return FileSource(files, column, f"{len(files)} local file{'s' if len(files) > 1 else ''}")


def open_stdlib() -> FileSource:
    """Find the sources and documentation texts of the running Python; its own tests are left out where present.

    Returns:
        The source.

    Raises:
        InputError: If the installation ships no sources.
    """
    import platform

    root = Path(sysconfig.get_paths()["stdlib"])
    kept = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if not _STDLIB_LEFT_OUT.intersection(parts) and not parts[0].startswith("config-"):
            kept.append(("/".join(parts), path))
    if not kept:
        raise InputError(f"data.corpus: {root} holds no Python sources; expected an installation that ships them")
    label = f"Python {platform.python_version()} standard library ({len(kept)} files)"
    return FileSource(tuple(sorted(kept)), "text", label, lenient=True)


def _common_directory(paths: set[Path]) -> Path:
    parents = [path.absolute().parent for path in paths]
    common = parents[0]
    while not all(parent.is_relative_to(common) for parent in parents):
        common = common.parent
    return common


def _whole_file(path: Path, lenient: bool) -> Iterator[str]:
    try:
        yield path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        if not lenient:
            raise InputError(f"data.files: {path}: expected UTF-8 text") from None


def _json_rows(path: Path, column: str) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
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
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"data.files: {path}: no readable parquet file: {str(error).splitlines()[0]}") from None
    names = file.schema_arrow.names
    if column not in names:
        expected = f"expected a column `{column}` (data.text_column)"
        raise InputError(f"data.files: {path}: {expected}; the file has: {', '.join(names)}")
    for batch in file.iter_batches(batch_size=1024, columns=[column]):
        for text in batch.column(0).to_pylist():
            if text is not None and not isinstance(text, str):
                raise InputError(f"data.files: {path}: column `{column}`: expected text, got {type(text).__name__}")
            if text:
                yield text
