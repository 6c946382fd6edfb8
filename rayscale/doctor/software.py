"""The packages, and the MLflow store. torch and Ray are imported in another process, so that this one stays light."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rayscale.doctor.check import Check

NEEDED = ("ray", "torch", "transformers", "tokenizers", "datasets", "mlflow", "nvidia-ml-py")
_PROBE_TIMEOUT_S = 120.0
_SERVER_TIMEOUT_S = 3.0
_PROBE = """
import json
facts = {}
try:
    import ray, ray.tune
    facts["ray"] = ray.__version__
except Exception as error:
    facts["ray_error"] = f"{type(error).__name__}: {error}"
try:
    import torch
    facts["torch"], facts["cuda_build"] = torch.__version__, torch.version.cuda
    facts["cuda"] = torch.cuda.is_available()
    count = torch.cuda.device_count() if facts["cuda"] else 0
    facts["gpus"] = ["GPU-" + str(torch.cuda.get_device_properties(i).uuid) for i in range(count)]
    facts["bf16"] = bool(count) and torch.cuda.is_bf16_supported()
except Exception as error:
    facts["torch_error"] = f"{type(error).__name__}: {error}"
print("\\n" + json.dumps(facts))
"""


def probe_imports() -> dict[str, Any]:
    """Import Ray and torch in a process of its own.

    Returns:
        Versions and what torch sees; `error` when the process said nothing.
    """
    command = [sys.executable, "-c", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"importing torch and Ray took more than {_PROBE_TIMEOUT_S:g} s"}
    try:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}


def installed(name: str) -> str | None:
    """Return the version of an installed package, None if it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _health(uri: str) -> str | None:
    """Ask a tracking server whether it lives; return what is wrong."""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_SERVER_TIMEOUT_S):
            return None
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


@dataclass(frozen=True)
class Software:
    """What to ask; tests answer themselves."""

    installed: Callable[[str], str | None] = installed
    probe: Callable[[], Mapping[str, Any]] = probe_imports
    health: Callable[[str], str | None] = _health
    system: str = platform.system()


def software_checks(software: Software, *, quick: bool, gpus: int) -> list[Check]:
    """Look at packages.

    Args:
        software: What to ask.
        quick: Leave out what takes seconds: importing torch and Ray.
        gpus: Number of usable GPUs.

    Returns:
        The findings.
    """
    found = {name: software.installed(name) for name in NEEDED}
    missing = [name for name, version in found.items() if version is None]
    words = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    packages = Check("software", "packages", "ok", f"Python {platform.python_version()}; {words}", None, found)
    if missing:
        advice = "pip install --constraint constraints.txt . (or `make`) installs all of them"
        packages = Check("software", "packages", "problem", f"missing: {', '.join(missing)}", advice, found)
    checks = [_system(software), packages]
    if quick:
        return [*checks, Check("software", "torch and Ray", "ok", "not imported (--quick)")]
    facts = software.probe()
    if "error" in facts:
        return [*checks, Check("software", "torch and Ray", "problem", f"do not import: {facts['error']}")]
    return [*checks, _ray(facts), _torch(facts, gpus)]


def _system(software: Software) -> Check:
    if software.system == "Linux":
        return Check("software", "system", "ok", f"{software.system} {platform.release()}")
    advice = "rayscale needs Linux: one clock for all processes, /proc, flock, fork servers"
    return Check("software", "system", "problem", software.system, advice)


def _ray(facts: Mapping[str, Any]) -> Check:
    if "ray_error" in facts:
        return Check("software", "Ray", "problem", f"does not import: {facts['ray_error']}", "pip install 'ray[tune]'")
    return Check("software", "Ray", "ok", f"{facts['ray']} imports, Tune included", None, {"version": facts["ray"]})


def _torch(facts: Mapping[str, Any], gpus: int) -> Check:
    if "torch_error" in facts:
        return Check("software", "torch", "problem", f"does not import: {facts['torch_error']}", "pip install torch")
    values = {key: facts.get(key) for key in ("torch", "cuda_build", "cuda", "gpus", "bf16")}
    build = f"CUDA {facts['cuda_build']}" if facts.get("cuda_build") else "CPU build"
    seen = len(facts.get("gpus") or [])
    if gpus and not seen:
        advice = "install torch's CUDA build for this driver; or train on the CPU: resources.gpus: 0"
        return Check(
            "software", "torch", "problem", f"{facts['torch']} ({build}) sees none of {gpus} GPU(s)", advice, values
        )
    bf16 = ", bf16" if facts.get("bf16") else ""
    return Check("software", "torch", "ok", f"{facts['torch']} ({build}), sees {seen} GPU(s){bf16}", None, values)


def store_check(storage: Path, uri: str | None, software: Software) -> Check:
    """Look at the place of the MLflow mirror. Its failure stops no sweep, so it is never a problem.

    Args:
        storage: Where ledgers lie.
        uri: `MLFLOW_TRACKING_URI`; None: the sqlite file beside the ledgers.
        software: What to ask.

    Returns:
        The finding.
    """
    advice = "sweeps run without the mirror; `rayscale sync` brings it up to date later"
    if uri and uri.startswith(("http://", "https://")):
        problem = software.health(uri)
        found = f"{uri} answers" if problem is None else f"{uri} does not answer: {problem}"
    elif uri and not uri.startswith("sqlite:///"):
        return Check("storage", "MLflow store", "ok", f"{uri.split('://')[0]}://... (not tried)")
    else:
        file = Path(uri.removeprefix("sqlite:///")) if uri else storage / "mlflow.db"
        found, problem = _database(file)
    level_advice = None if problem is None else advice
    return Check("storage", "MLflow store", "ok" if problem is None else "warning", found, level_advice)


def _database(file: Path) -> tuple[str, str | None]:
    """Open a sqlite store; return what was found, and what is wrong."""
    if not file.exists():
        there = next(parent for parent in file.absolute().parents if parent.exists())
        if os.access(there, os.W_OK | os.X_OK):
            return f"{file} will be made", None
        return f"{file} is not there and cannot be made", f"{there} may not be written"
    try:
        connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=_SERVER_TIMEOUT_S)
        try:
            (runs,) = connection.execute("select count(*) from runs").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return f"{file} is no readable MLflow store: {error}", str(error)
    return f"{file}, {runs} runs", None
