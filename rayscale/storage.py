"""Where files of a ledger lie: a directory, or a prefix of an object store (s3://, gs://) through pyarrow.

All three operations that a ledger needs are atomic in both worlds: a local file is renamed into place, an object
appears when its upload is completed, never before. Credentials come from the environment only (roles, AWS_*, GOOGLE_*);
an address that carries some is refused, since addresses are stored and shown.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from rayscale.errors import EnvironmentUnusableError, InputError

SCHEMES = ("s3", "gs", "file")
"""Schemes of object stores that pyarrow serves; `file` is for tests of that path."""


class Storage(Protocol):
    """Where a ledger lies. Paths are relative, with forward slashes."""

    def read(self, path: str) -> bytes | None:
        """Return a file's content, None if there is none."""

    def write(self, path: str, content: bytes) -> None:
        """Write a file atomically: a reader sees the old content or the new, never a part."""

    def tree(self, path: str) -> list[str]:
        """Return the paths of all files below a directory, relative to it; an object store tells 1,000 per request."""

    def list(self, path: str) -> list[str]:
        """Return the sorted names in a directory, empty if there is none."""

    def remove(self, path: str) -> None:
        """Remove a file; nothing happens if there is none."""


@dataclass(frozen=True)
class LocalStorage:
    """A directory of a local or shared file system."""

    root: Path

    def read(self, path: str) -> bytes | None:
        """Return a file's content, None if there is none."""
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: str, content: bytes) -> None:
        """Write a file atomically and durably (temporary file, fsync, rename)."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    def tree(self, path: str) -> list[str]:
        """Return the paths of all files below a directory, relative to it; empty if there is none."""
        top = str(self.root / path)
        return [os.path.relpath(os.path.join(at, name), top) for at, _, names in os.walk(top) for name in names]

    def list(self, path: str) -> list[str]:
        """Return the sorted names in a directory, empty if there is none."""
        try:
            return sorted(os.listdir(self.root / path))
        except FileNotFoundError:
            return []

    def remove(self, path: str) -> None:
        """Remove a file; nothing happens if there is none."""
        (self.root / path).unlink(missing_ok=True)


@dataclass(frozen=True)
class ObjectStorage:
    """A prefix of an object store.

    The file system object is made when first used, so that the address alone can travel to other processes.
    """

    uri: str
    """`s3://bucket/prefix` or `gs://bucket/prefix`; pyarrow's options as a query, e.g. `?region=eu-west-1`."""
    _opened: list[tuple[Any, str]] = field(default_factory=list, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[ObjectStorage], tuple[str]]:
        """Travel as the address."""
        return ObjectStorage, (self.uri,)

    def read(self, path: str) -> bytes | None:
        """Return an object's content, None if there is none.

        Raises:
            EnvironmentUnusableError: If the store does not answer or refuses.
        """
        files, base = self._open()
        try:
            with files.open_input_file(f"{base}/{path}") as stream:
                return bytes(stream.readall())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed("read", path, error) from None

    def write(self, path: str, content: bytes) -> None:
        """Write an object; it appears whole when the upload is completed.

        Raises:
            EnvironmentUnusableError: If the store does not answer or refuses.
        """
        files, base = self._open()
        try:
            # No `with`: leaving it after an error would complete the upload of a part.
            stream = files.open_output_stream(f"{base}/{path}")
            stream.write(content)
            stream.close()
        except OSError as error:
            raise self._failed("write", path, error) from None

    def tree(self, path: str) -> list[str]:
        """Return the paths of all objects under a prefix, relative to it; empty if there are none.

        Raises:
            EnvironmentUnusableError: If the store does not answer or refuses.
        """
        from pyarrow.fs import FileSelector, FileType

        files, base = self._open()
        where = f"{base}/{path}".rstrip("/")
        try:
            found = files.get_file_info(FileSelector(where, allow_not_found=True, recursive=True))
        except OSError as error:
            raise self._failed("list", path, error) from None
        return [info.path[len(where) + 1 :] for info in found if info.type == FileType.File]

    def list(self, path: str) -> list[str]:
        """Return the sorted names under a prefix, empty if there are none.

        Raises:
            EnvironmentUnusableError: If the store does not answer or refuses.
        """
        from pyarrow.fs import FileSelector

        files, base = self._open()
        where = f"{base}/{path}".rstrip("/")
        try:
            return sorted(info.base_name for info in files.get_file_info(FileSelector(where, allow_not_found=True)))
        except OSError as error:
            raise self._failed("list", path, error) from None

    def remove(self, path: str) -> None:
        """Remove an object; nothing happens if there is none.

        Raises:
            EnvironmentUnusableError: If the store does not answer or refuses.
        """
        files, base = self._open()
        try:
            files.delete_file(f"{base}/{path}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed("remove", path, error) from None

    def _open(self) -> tuple[Any, str]:
        if not self._opened:
            try:
                files, base = _file_system(self.uri)
            except (OSError, ValueError) as error:
                raise InputError(f"--storage {self.uri}: {_first_line(error)}") from None
            self._opened.append((files, base.rstrip("/")))
        return self._opened[0]

    def _failed(self, what: str, path: str, error: OSError) -> EnvironmentUnusableError:
        return EnvironmentUnusableError(f"{without_query(self.uri)}/{path}: cannot {what}: {_first_line(error)}")


def _file_system(uri: str) -> tuple[Any, str]:
    """Open an address with pyarrow; small S3 objects go in one request instead of the three of an upload in parts."""
    from pyarrow.fs import FileSystem

    if uri.startswith("s3://"):
        with contextlib.suppress(ValueError):  # a pyarrow that does not know the option
            found: tuple[Any, str] = FileSystem.from_uri(f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true")
            return found
    opened: tuple[Any, str] = FileSystem.from_uri(uri)
    return opened


def is_uri(location: str | Path) -> bool:
    """Say whether a location is an address (`scheme://...`) instead of a path."""
    return re.match(r"[a-z][a-z0-9+.-]*://", str(location)) is not None


def open_storage(location: str | Path) -> Storage:
    """Open a location; nothing is created.

    Args:
        location: A directory, or `s3://bucket/prefix`, `gs://bucket/prefix`.

    Returns:
        The storage.

    Raises:
        InputError: If the scheme is not served, the bucket is missing, or the address carries credentials.
    """
    if not is_uri(location):
        return LocalStorage(Path(location))
    parts = urlsplit(str(location))
    if parts.scheme not in SCHEMES:
        raise InputError(
            f"--storage {parts.scheme}://...: expected a directory, s3://bucket/prefix or gs://bucket/prefix"
        )
    if parts.username or parts.password or re.search(r"(?i)(secret|password|token|access_key)", parts.query):
        raise InputError(
            f"--storage {parts.scheme}://...: the address carries credentials; expected a role or the environment"
        )
    if parts.scheme != "file" and not parts.netloc:
        raise InputError(f"--storage {location}: expected {parts.scheme}://bucket/prefix")
    return ObjectStorage(str(location))


def join(location: str | Path, name: str) -> str | Path:
    """Return the location of something inside a location; the query of an address stays at its end."""
    if not is_uri(location):
        return Path(location) / name
    base, mark, query = str(location).partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{query}"


def without_query(uri: str) -> str:
    """Return an address for people: without its options."""
    return uri.partition("?")[0].rstrip("/")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
