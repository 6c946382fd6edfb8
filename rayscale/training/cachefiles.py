"""Files that many processes of a node share: made once, complete or absent, under a lock."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def digest_of(recipe: Any) -> str:
    """Hash a recipe by its canonical JSON.

    Args:
        recipe: Plain data.

    Returns:
        sha256, hexadecimal.
    """
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Hash a file's content.

    Args:
        path: The file.

    Returns:
        sha256, hexadecimal.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(files: Iterable[tuple[str, Path]]) -> str:
    """Hash names and contents of files.

    Args:
        files: (name, path) in a fixed order.

    Returns:
        sha256, hexadecimal.
    """
    total = hashlib.sha256()
    for name, path in files:
        total.update(f"{name}\0{hash_file(path)}\n".encode())
    return total.hexdigest()


@contextmanager
def made_once(target: Path, waiting: Callable[[], None] | None = None) -> Iterator[Path | None]:
    """Make a directory that is either complete or absent, by one process at a time.

    The lock is an `flock`, so it goes when its holder dies; what a dead holder left behind is thrown away.

    Args:
        target: The directory.
        waiting: Called before waiting for another process that makes it.

    Yields:
        A temporary directory to fill, renamed to `target` when the block ends well; None if `target` is there.
    """
    if target.is_dir():
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            yield None
            return
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        temporary.rename(target)
