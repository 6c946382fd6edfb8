"""What a result was made with: versions, host, git revision; and where caches live. Only the standard library."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from rayscale import __version__

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "ray", "mlflow", "statsmodels", "nvidia-ml-py")

JOB_VARIABLE = "RAYSCALE_JOB"
"""Variable that tells a run on a cluster's head the id of the job that it is."""


def cache_directory() -> Path:
    """Return where prepared data and device facts are kept between sweeps.

    Returns:
        `$RAYSCALE_CACHE`, else `$XDG_CACHE_HOME/rayscale`, else `~/.cache/rayscale`.
    """
    if explicit := os.environ.get("RAYSCALE_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rayscale"


@cache
def versions() -> Mapping[str, str]:
    """Return the versions of rayscale, Python and the packages that shape a result.

    Returns:
        Name -> version; a package that is not installed is left out.
    """
    found = {"rayscale": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return MappingProxyType(found)


def host_facts() -> dict[str, str | int | None]:
    """Return name, system and CPU of this machine."""
    return {
        "host": socket.gethostname(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
    }


def cpu_name() -> str:
    """Return the CPU's model name as the kernel gives it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def git_revision(directory: Path) -> str | None:
    """Return the commit of the repository that holds `directory`, with `+changes` if it is dirty.

    Args:
        directory: Any directory.

    Returns:
        The revision, or None outside a repository or without git.
    """
    try:
        run = lambda *args: subprocess.run(  # noqa: E731
            ["git", "-C", str(directory), *args], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
        revision = run("rev-parse", "HEAD")
        return revision + ("+changes" if run("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
