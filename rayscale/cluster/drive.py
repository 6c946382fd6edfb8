"""The driver of a submitted sweep, on the head: right versions, a shared storage, its turn; then `rayscale run`.

    Ray's job supervisor ─ sh ─ exec ─ rayscale cluster drive ─ exec ─ rayscale run SWEEP --address auto

All of that is one process, so the signal that stops a job reaches the run itself, and the lock that keeps the next
sweep waiting is let go exactly when the run ends.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

from rayscale.cluster.resume import keep_files, package_of
from rayscale.cluster.submit import STORAGE_VARIABLE, checked_storage
from rayscale.cluster.turn import take_turn, turn_file
from rayscale.environment import JOB_VARIABLE, cache_directory, versions
from rayscale.errors import EnvironmentUnusableError, InputError


def drive(
    sweep: str,
    expected: Mapping[str, str],
    command: list[str],
    environment: Mapping[str, str],
    say: Callable[[str], None],
) -> NoReturn:
    """Become the run of a submitted sweep.

    Args:
        sweep: Name of the sweep.
        expected: Package -> version of the machine that submitted it.
        command: Sweep file and options, for `rayscale run`.
        environment: This process's environment.
        say: Shows a line in the job's log.

    Raises:
        InputError: If there is no storage that all nodes can share.
        EnvironmentUnusableError: If the head has other versions.
    """
    check_versions(expected, versions())
    storage = environment.get(STORAGE_VARIABLE, "").strip()
    if not storage:
        raise InputError(
            f"the head has no {STORAGE_VARIABLE}; expected --storage at submit, or the variable where Ray starts there"
        )
    checked_storage(storage)
    address, job = environment.get("RAY_ADDRESS", ""), job_id(environment)
    if package := package_of(environment):
        keep_files(package, address, say)
    take_turn(turn_file(cache_directory(), address), f"sweep {sweep} (job {job})", say)
    sys.stdout.flush()
    sys.stderr.flush()
    arguments = [sys.executable, "-m", "rayscale.cli", "run", *command]
    os.execve(sys.executable, arguments, {**environment, JOB_VARIABLE: job})


def check_versions(expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse a head with other versions.

    Args:
        expected: Package -> version of the machine that submitted the sweep.
        found: The same of this machine.

    Raises:
        EnvironmentUnusableError: With every difference in one line.
    """
    different = [
        f"{name} {found.get(name, '(none)')} instead of {version}"
        for name, version in expected.items()
        if found.get(name) != version
    ]
    if different:
        raise EnvironmentUnusableError(f"the head has {', '.join(different)}; expected what the sweep came from")


def job_id(environment: Mapping[str, str]) -> str:
    """Return the id of the job that this process is, as Ray tells its driver; `?` outside a job."""
    try:
        config = json.loads(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return str(config.get("metadata", {}).get("job_submission_id", "?"))
    except (ValueError, AttributeError):
        return "?"
