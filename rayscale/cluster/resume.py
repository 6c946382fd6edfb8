"""`rayscale cluster resume`: a stopped or failed sweep goes on, with exactly the files that were submitted.

The files of a job are a package in the cluster's own store. Ray forgets it minutes after the job; so the driver of
every submitted sweep asks for it to be kept (`keep_files`), and resuming names the same package, the same command and
the same variables again. What is finished lies in the ledger and is not repeated. To go on with changed files: submit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rayscale.cluster.jobs import Jobs, JobView
from rayscale.cluster.submit import Sent, new_job
from rayscale.errors import InputError

KEPT_DAYS = 30
"""How long a cluster keeps the files of a submitted sweep, from the start of its driver; its head must live on."""


def resume(name: str, jobs: Jobs) -> Sent:
    """Continue a submitted sweep with the files that were submitted.

    Args:
        name: Id of its job, or name of the sweep: then its newest job.
        jobs: The cluster.

    Returns:
        The new job; the old one if that still waits or runs, or has nothing left to do.

    Raises:
        InputError: If there is no such job, or its files are not kept any more.
    """
    view = newest(name, jobs.list())
    if not view.ended or view.status == "SUCCEEDED":
        return Sent(view.job, already=True)
    order = jobs.order(view.job)
    package = str(order.runtime.get("working_dir") or "")
    if not package or not jobs.has_package(package):
        raise InputError(
            f"{view.job}: the cluster has its files no more (they are kept for {KEPT_DAYS} days); "
            "expected: rayscale submit with the sweep file, which continues it too"
        )
    job = new_job(str(view.sweep))
    jobs.submit(job, order.entrypoint, order.runtime, order.metadata)
    return Sent(job, already=False)


def newest(name: str, views: list[JobView]) -> JobView:
    """Find a job by its id, or the newest of a sweep.

    Args:
        name: Either.
        views: The jobs, the newest first.

    Returns:
        The job.

    Raises:
        InputError: If there is none.
    """
    found = [view for view in views if view.sweep and name in (view.job, view.sweep)]
    if not found:
        raise InputError(f"{name}: no such submitted sweep on this cluster (rayscale cluster status lists them)")
    return found[0]


def package_of(environment: Mapping[str, str]) -> str | None:
    """Return the address of the package that a job's driver runs in, as Ray tells it; None outside a job."""
    try:
        config: dict[str, Any] = json.loads(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        address = (config.get("runtime_env") or {}).get("working_dir")
    except (ValueError, AttributeError):
        return None
    return str(address) if address else None


def keep_files(package: str, address: str, say: Callable[[str], None]) -> None:
    """Have the cluster keep a package, so that the sweep can be resumed after this job; it runs without, too.

    Args:
        package: Its address, `gcs://_ray_pkg_<hash>.zip`.
        address: The cluster's own address.
        say: Shows a line if that does not work.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    try:
        GcsClient(address=address).pin_runtime_env_uri(package, KEPT_DAYS * 24 * 3600)
    except Exception as error:  # Ray's own kinds; not a reason to stop
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        say(f"the cluster does not keep the files for `rayscale cluster resume`: {reason}")
