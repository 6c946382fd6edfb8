"""Jobs on a Ray cluster, through Ray's Jobs API: what was submitted, how far it is, what it says, stopping it.

A thin layer over `ray.job_submission.JobSubmissionClient` that speaks of sweeps and has one clear line per failure. The
client works without `ray[default]`; only the head needs that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rayscale.cluster.token import Token
from rayscale.errors import EnvironmentUnusableError, InputError

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
"""States that a job does not leave."""
SWEEP_KEY, DIGEST_KEY = "rayscale.sweep", "rayscale.digest"
"""Names in a job's metadata."""
STOP_WAIT_S = 60
"""Time that a stopped sweep gets to close what runs, before Ray kills it. Units: s."""
FOLLOW_S = 2.0
"""Shortest time between two looks at a log. Units: s."""
_LOST_LOOKS = 5
_EXIT_CODES = (1, 2, 3, 130)


@dataclass(frozen=True)
class JobView:
    """One submitted sweep, as the cluster tells it."""

    job: str
    """The job's id."""
    sweep: str | None
    """Name of the sweep; None for jobs that rayscale did not submit."""
    digest: str | None
    """Hash of what was submitted."""
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str | None
    """What Ray says about it, first line."""
    started_at: str | None
    """UTC, ISO 8601."""
    ended_at: str | None
    """UTC, ISO 8601; None while it runs."""
    exit_code: int | None
    """Of the driver; None while it runs or if it was stopped."""

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ENDED

    @property
    def code(self) -> int:
        """Exit code of a command that waited for it."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return 130
        return self.exit_code if self.exit_code in _EXIT_CODES else 1

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Order:
    """What a job was told to do."""

    entrypoint: str
    """Shell command for the head."""
    runtime: dict[str, Any] = field(repr=False)
    """Ray's runtime environment: the package and the variables."""
    metadata: dict[str, str]
    """What is stored with it."""


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, client: Any, where: str, token: Token | None) -> None:
        """Bind to a client.

        Args:
            client: A `JobSubmissionClient`, or something with its methods.
            where: The cluster, for messages.
            token: The token that the client sends, for messages.
        """
        self._client, self._where, self._token = client, where, token

    @property
    def ray_version(self) -> str | None:
        """The cluster's version of Ray, as the client learnt it when it connected; None if it does not say."""
        return getattr(self._client, "_server_ray_version", None)

    def list(self) -> list[JobView]:
        """List the submitted jobs, the newest first."""
        with translated(self._where, self._token):
            found = [_view(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda view: view.started_at or "", reverse=True)

    def view(self, job: str) -> JobView:
        """Look at one job.

        Raises:
            InputError: If there is no such job.
        """
        with translated(self._where, self._token, job):
            return _view(self._client.get_job_info(job))

    def logs(self, job: str) -> str:
        """Return everything that a job has printed.

        Raises:
            InputError: If there is no such job.
        """
        with translated(self._where, self._token, job):
            return str(self._client.get_job_logs(job))

    def submit(self, job: str, entrypoint: str, runtime: dict[str, Any], metadata: dict[str, str]) -> None:
        """Hand over a job.

        Args:
            job: Its id.
            entrypoint: Shell command for the head.
            runtime: Ray's runtime environment; a local package in it is sent first.
            metadata: What is stored with the job, in clear.
        """
        with translated(self._where, self._token):
            self._client.submit_job(
                entrypoint=entrypoint, submission_id=job, runtime_env=runtime, metadata=dict(metadata)
            )

    def order(self, job: str) -> Order:
        """Return what a job was told to do.

        Raises:
            InputError: If there is no such job.
        """
        with translated(self._where, self._token, job):
            details = self._client.get_job_info(job)
        return Order(str(details.entrypoint), dict(details.runtime_env or {}), dict(details.metadata or {}))

    def has_package(self, package: str) -> bool:
        """Say whether the cluster still has a package; asking keeps it for some minutes."""
        with translated(self._where, self._token):
            return bool(self._client._package_exists(package))

    def stop(self, job: str, sleep: Callable[[float], None] = time.sleep) -> JobView:
        """Stop a job and wait until it has ended.

        Args:
            job: Its id.
            sleep: Waits.

        Returns:
            The job afterwards; still running if it did not end in time.
        """
        with translated(self._where, self._token, job):
            self._client.stop_job(job)
        view, deadline = self.view(job), time.monotonic() + STOP_WAIT_S + 15
        while not view.ended and time.monotonic() < deadline:
            sleep(0.5)
            view = self.view(job)
        return view

    def follow(self, job: str, write: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> JobView:
        """Show what a job prints until it has ended.

        The whole log comes with every look, so looks get rarer when that takes long.

        Args:
            job: Its id.
            write: Shows text.
            sleep: Waits.

        Returns:
            The job at its end.

        Raises:
            EnvironmentUnusableError: If the connection is lost; the job goes on.
        """
        shown, lost = 0, 0
        while True:
            began = time.monotonic()
            try:
                view = self.view(job)  # before the log, so that what an ended job said last is in it
                text = self.logs(job)
                lost = 0
            except EnvironmentUnusableError as error:
                lost += 1
                if lost >= _LOST_LOOKS:
                    again = f"look again with: rayscale cluster logs {job} --follow"
                    raise EnvironmentUnusableError(f"{error}; the job goes on, {again}") from None
                sleep(FOLLOW_S)
                continue
            if len(text) > shown:
                write(text[shown:])
                shown = len(text)
            if view.ended:
                return view
            sleep(max(FOLLOW_S, 10 * (time.monotonic() - began)))


def open_jobs(address: str, token: Token | None) -> Jobs:
    """Connect to a cluster's dashboard.

    Args:
        address: `http://127.0.0.1:PORT` or `https://...`; `rayscale.cluster.reach` checks it.
        token: The token to send.

    Returns:
        Its jobs.

    Raises:
        EnvironmentUnusableError: If nothing answers or the token is refused.
    """
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
    with translated(address, token):
        return Jobs(JobSubmissionClient(address, headers=token.headers() if token else None), address, token)


@contextmanager
def translated(where: str, token: Token | None, job: str | None = None) -> Iterator[None]:
    """Turn the errors of Ray's client into one line each.

    Args:
        where: The cluster.
        token: The token that was sent.
        job: The job that was asked about.

    Yields:
        Nothing.

    Raises:
        InputError: If there is no such job.
        EnvironmentUnusableError: For everything else.
    """
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise EnvironmentUnusableError(f"{where}: {_refusal(token)}") from None
    except OSError as error:  # the library's connection errors are OSErrors too
        kind = "does not answer in time" if "timed out" in str(error) else "no Ray dashboard answers"
        raise EnvironmentUnusableError(f"{where}: {kind}; expected the head's (port 8265), see --cluster") from None
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if job and ("404" in text or "does not exist" in text):
            raise InputError(f"{job}: no such job on this cluster (rayscale cluster status lists them)") from None
        raise EnvironmentUnusableError(f"{where}: {text[-300:]}") from None


def _refusal(token: Token | None) -> str:
    if token is None:
        return "the cluster wants a token; expected RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
    return f"the cluster refuses the token from {token.source}; expected the one that the cluster was started with"


def _view(details: Any) -> JobView:
    metadata = details.metadata or {}
    message = (details.message or "").splitlines()
    return JobView(
        job=str(details.submission_id),
        sweep=metadata.get(SWEEP_KEY),
        digest=metadata.get(DIGEST_KEY),
        status=str(getattr(details.status, "value", details.status)),
        message=message[0] if message else None,
        started_at=_time(details.start_time),
        ended_at=_time(details.end_time),
        exit_code=details.driver_exit_code,
    )


def _time(milliseconds: int | None) -> str | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds") if milliseconds else None
