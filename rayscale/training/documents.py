"""Where documents come from: one small protocol, text files and the Python installation's own sources.

Reading twice must give the same documents in the same order: `fingerprint` says which, before anything is tokenised.
"""

from __future__ import annotations

import glob
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rayscale.errors import InputError
from rayscale.training.cachefiles import hash_files
from rayscale.training.rowfiles import ROW_KINDS, TEXT_KINDS, documents_in

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
        column: Key or column of the text in .jsonl, .parquet and .arrow files.
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
        try:
            return hash_files(self.files)
        except OSError as error:
            raise InputError(f"data.files: {error.filename}: cannot be read: {error.strerror}") from None

    def documents(self) -> Iterator[str]:
        """Yield whole text files cut into passages, and one document per row of .jsonl, .parquet and .arrow files."""
        for _, path in self.files:
            yield from documents_in(path, self.column, lenient=self.lenient)


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
    kinds = TEXT_KINDS | ROW_KINDS
    for path in sorted(found):
        if path.suffix.lower() not in kinds:
            problems.append(f"data.files: {path}: expected one of {', '.join(sorted(kinds))}")
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
