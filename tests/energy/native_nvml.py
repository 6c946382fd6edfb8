"""Builds the C library that stands in for NVIDIA's, and sets up processes in which the real binding loads it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "native" / "libnvidia_ml.c"


def build(directory: Path, *flags: str) -> Path:
    """Compile `libnvidia-ml.so.1` into a directory; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc or clang) to build the simulated libnvidia-ml.so.1")
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", *flags]
    command += [str(SOURCE), "-o", str(target), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the simulated NVML does not compile:\n{done.stderr}")
    return directory


def environment(library: Path, script: Path) -> dict[str, str]:
    """The environment of a process that shall see the scripted GPUs."""
    return {**os.environ, "LD_LIBRARY_PATH": str(library), "RAYSCALE_FAKE_NVML": str(script)}
