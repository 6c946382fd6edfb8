"""What a submitted sweep takes along: its file and the relative `data.files` that it names; nothing else, ever.

    rayscale-sweep/sweeps/tiny.yaml      the structure below the files' common directory is kept, so that relative
    rayscale-sweep/corpus/a.txt          patterns mean the same on the cluster (and give the same corpus fingerprint)

The name of the top directory is no valid Python name on purpose: Ray puts the unpacked package on the import path of
every worker, and a corpus of .py files must not hide modules there. Absolute patterns name files that the nodes have.
"""

from __future__ import annotations

import glob
import hashlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from rayscale.errors import InputError
from rayscale.spec import SweepSpec
from rayscale.specfile import load_spec, parse_spec

TOP = "rayscale-sweep"
"""Directory in the package that holds everything."""
LIMIT_BYTES = 200_000_000
"""Most that is sent unless told otherwise: Ray keeps packages in the memory of the head."""
RAY_LIMIT_BYTES = 500_000_000
"""Most that can be sent at all; Ray refuses packages of 512 MiB."""

_PRIVATE_PLACES = (".git", ".ssh", ".aws", ".azure", ".gnupg", ".kube", ".docker", ".ray", "gcloud", "results")
_PRIVATE_FILES = (
    ".env",
    ".env.*",
    ".netrc",
    ".pgpass",
    ".npmrc",
    ".pypirc",
    ".git-credentials",
    "auth_token",
    "credentials",
    "credentials.*",
    "service-account*.json",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
)
_LOCAL_SETTINGS = ("model.pretrained", "data.tokenizer", "data.dataset")


@dataclass(frozen=True)
class PackedFile:
    """One file that is sent."""

    name: str
    """Its path in the package."""
    source: Path
    """The file here."""
    size: int
    """Units: B."""


@dataclass(frozen=True)
class Package:
    """Everything that is sent, sorted by name."""

    sweep: str
    """The sweep file's path in the package."""
    files: tuple[PackedFile, ...]
    """The sweep file and its data."""
    not_sent: tuple[str, ...]
    """Absolute patterns of `data.files`: every node must have these."""

    @property
    def size(self) -> int:
        """Sum of all files. Units: B."""
        return sum(file.size for file in self.files)

    def count(self) -> str:
        """Say how many files these are."""
        return f"{len(self.files)} file{'s' if len(self.files) > 1 else ''}"

    def digest(self) -> str:
        """Return a hash of all names and contents."""
        total = hashlib.sha256()
        for file in self.files:
            with file.source.open("rb") as content:
                total.update(f"{file.name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\0".encode())
        return total.hexdigest()

    def write(self, path: Path) -> None:
        """Write the package; the same files give the same bytes, so Ray sends it once.

        Args:
            path: The zip file.

        Raises:
            InputError: If a file has gone or cannot be read.
        """
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
            for file in self.files:
                entry = zipfile.ZipInfo(file.name)  # dated 1980, as is: no times, owners or rights of this machine
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                try:
                    package.writestr(entry, file.source.read_bytes())
                except OSError as error:
                    raise InputError(f"{file.source}: cannot be sent: {error.strerror}") from None


def collect(sweep: Path, limit: int = LIMIT_BYTES) -> tuple[SweepSpec, Package]:
    """Find out what a sweep takes along.

    Args:
        sweep: The sweep file.
        limit: Most that may be sent. Units: B.

    Returns:
        The sweep as its file says (patterns not resolved), and the package.

    Raises:
        InputError: If the sweep file has mistakes, a pattern finds nothing or something private, a local model,
            tokenizer or data set is named, or all of it is larger than `limit`.
    """
    if limit > RAY_LIMIT_BYTES:
        raise InputError(
            f"--max-upload: expected at most {megabytes(RAY_LIMIT_BYTES)}, more than that Ray does not take"
        )
    load_spec(sweep)  # its messages for files that cannot be read
    spec = parse_spec(sweep.read_text(encoding="utf-8"), str(sweep))
    patterns = spec.data.files or []
    problems = list(_local_directories(spec, sweep))
    found = {Path(os.path.abspath(sweep))}
    for pattern in (text for text in patterns if not Path(text).is_absolute()):
        names = [name for name in glob.glob(str(sweep.parent / pattern), recursive=True) if Path(name).is_file()]
        found |= {Path(os.path.abspath(name)) for name in names}
        if not names:
            problems.append(f"{sweep}: data.files: `{pattern}` matches no file")
    root = Path(os.path.commonpath([path.parent for path in found]))
    problems += [_refused(sweep, path, root) for path in sorted(found) if _is_private(path, root)]
    if problems:
        raise InputError(problems)
    files = tuple(_packed(path, root) for path in sorted(found))
    package = Package(
        _name(Path(os.path.abspath(sweep)), root), files, tuple(text for text in patterns if Path(text).is_absolute())
    )
    if package.size > limit:
        raise InputError(
            f"{sweep}: {len(files)} files of {megabytes(package.size)} would be sent, expected at most "
            f"{megabytes(limit)} (--max-upload); or put the data where all nodes see it and name it by absolute path"
        )
    return spec, package


def megabytes(size: int) -> str:
    """Write a size in MB, the unit of `--max-upload`; small ones in kB."""
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"


def _name(path: Path, root: Path) -> str:
    return f"{TOP}/{path.relative_to(root).as_posix()}"


def _packed(path: Path, root: Path) -> PackedFile:
    return PackedFile(_name(path, root), path, path.stat().st_size)


def _is_private(path: Path, root: Path) -> bool:
    """Say whether a file is nothing to send, by its name here and by what a link leads to."""
    real = path.resolve()
    places = {part.lower() for part in (*path.relative_to(root).parts[:-1], *_beyond(real, root))}
    names = (path.name.lower(), real.name.lower())
    return bool(places & set(_PRIVATE_PLACES)) or any(
        fnmatch(name, pattern) for name in names for pattern in _PRIVATE_FILES
    )


def _beyond(real: Path, root: Path) -> tuple[str, ...]:
    """Return the directories of a link's target, below `root` where it lies there; an own `results/` above is fine."""
    top = root.resolve()
    return real.relative_to(top).parts[:-1] if real.is_relative_to(top) else real.parts[:-1]


def _refused(sweep: Path, path: Path, root: Path) -> str:
    return f"{sweep}: data.files: {path.relative_to(root)}: results, repositories and credentials are never sent"


def _local_directories(spec: SweepSpec, sweep: Path) -> Iterator[str]:
    """Yield settings that name something on this machine's disk which would not be there on the cluster."""
    given: dict[str, list[object]] = {
        "model.pretrained": [spec.model.pretrained],
        "data.tokenizer": [spec.data.tokenizer],
        "data.dataset": [spec.data.dataset],
    }
    for setting in _LOCAL_SETTINGS:
        for value in given[setting] + list(spec.design.factors.get(setting, [])):
            if isinstance(value, str) and not Path(value).is_absolute() and Path(value).exists():
                yield (
                    f"{sweep}: {setting}: {value} lies on this machine and is not sent; expected a name on the hub "
                    "or an absolute path that every node has"
                )
