"""The whole examination."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from rayscale.doctor.check import Check, Diagnosis
from rayscale.doctor.gpu import gpu_checks
from rayscale.doctor.host import Host, energy_checks, host_checks, place_check, sampler_check
from rayscale.doctor.software import Software, software_checks, store_check
from rayscale.environment import cache_directory


def examine(
    storage: Path,
    *,
    quick: bool = False,
    host: Host | None = None,
    software: Software | None = None,
    gpus: Callable[[], tuple[list[Check], int]] = gpu_checks,
    environ: Mapping[str, str] | None = None,
) -> Diagnosis:
    """Look at everything a sweep needs. Nothing is written.

    Args:
        storage: Where ledgers lie.
        quick: Leave out what takes seconds.
        host: Where to look.
        software: What to ask.
        gpus: Looks at the GPUs.
        environ: The environment; None takes this process's.

    Returns:
        The diagnosis.
    """
    host, software = host or Host(), software or Software()
    uri = (os.environ if environ is None else environ).get("MLFLOW_TRACKING_URI")
    found, count = gpus()
    return Diagnosis(
        (
            *found,
            *energy_checks(host, gpus=count),
            sampler_check(host),
            *host_checks(host),
            place_check("ledgers", storage, host),
            place_check("cache", cache_directory(), host),
            store_check(storage, uri, software),
            *software_checks(software, quick=quick, gpus=count),
        )
    )
