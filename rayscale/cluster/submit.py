"""`rayscale submit`: hand a sweep to a cluster, so that it goes on without this machine.

What is sent: a package (`rayscale.cluster.packing`), a few environment variables, one command for the head
(`rayscale.cluster.drive`), and name and hash as metadata. Ray stores and shows all of that in clear, hence nothing
secret may be among it: nodes have roles or an environment of their own.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shlex
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from rayscale.cluster.jobs import DIGEST_KEY, STOP_WAIT_S, SWEEP_KEY, Jobs
from rayscale.cluster.packing import LIMIT_BYTES, Package, collect, megabytes
from rayscale.environment import versions
from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.storage import is_uri, open_storage, without_query

STORAGE_VARIABLE = "RAYSCALE_STORAGE"
STOPPING: Mapping[str, str] = MappingProxyType(
    # SIGINT is Ctrl-C; while a driver connects, Ray's own handler of SIGTERM would end it on the spot.
    {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
)
"""How Ray's job supervisor is to stop the run."""
_SECRET_NAME = re.compile(r"(?i)token|secret|passw|credential|private|(?:^|_)key(?:_|$)|(?:^|_)auth(?:_|$)")
_NOT_FOUND = (
    "rayscale is not on the PATH that Ray was started with on the head; expected the bin directory of its environment"
)


@dataclass(frozen=True)
class Submission:
    """Everything that would be sent."""

    sweep: str
    """Name of the sweep."""
    package: Package
    """The files."""
    environment: dict[str, str] = field(repr=False)
    """Variables of the job; their values are not shown."""
    entrypoint: str
    """Shell command for the head."""
    storage: str | None
    """Where the ledger will lie; None: the head's own `RAYSCALE_STORAGE`."""

    @property
    def digest(self) -> str:
        """Hash of all of it: the same submission twice has the same."""
        parts = (self.package.digest(), sorted(self.environment.items()), self.entrypoint)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def metadata(self) -> dict[str, str]:
        """What is stored with the job: the sweep and the hash."""
        return {SWEEP_KEY: self.sweep, DIGEST_KEY: self.digest}

    def document(self) -> dict[str, Any]:
        """Return what would be sent as JSON, the names of variables without their values."""
        return {
            "sweep": self.sweep,
            "storage": self.storage,
            "files": [{"name": file.name, "bytes": file.size} for file in self.package.files],
            "total_bytes": self.package.size,
            "not_sent": list(self.package.not_sent),
            "environment": sorted(self.environment),
            "entrypoint": self.entrypoint,
            "metadata": self.metadata,
            "digest": self.digest,
        }

    def text(self) -> str:
        """Return what would be sent, one line each."""
        lines = [f"{self.sweep}: {self.package.count()}, {megabytes(self.package.size)}"]
        lines += [f"  {megabytes(file.size):>12}  {file.name}" for file in self.package.files]
        lines += [f"not sent (every node must have it): {pattern}" for pattern in self.package.not_sent]
        lines += [f"storage: {self.storage or 'RAYSCALE_STORAGE of the head'}"]
        lines += [f"environment (names only): {', '.join(sorted(self.environment))}"]
        lines += [f"stored with the job: {', '.join(f'{key}={value}' for key, value in self.metadata.items())}"]
        return "\n".join([*lines, f"command on the head: {self.entrypoint}"])


@dataclass(frozen=True)
class Sent:
    """What came of a submission."""

    job: str
    """The job's id."""
    already: bool
    """Whether the same submission was there already, waiting or running."""


def prepare(
    sweep: Path,
    storage: str | None,
    environment: Mapping[str, str],
    *,
    send_names: tuple[str, ...] = (),
    limit: int = LIMIT_BYTES,
    arguments: tuple[str, ...] = ("--address", "auto"),
) -> Submission:
    """Put together what would be sent.

    Args:
        sweep: The sweep file.
        storage: Where the ledger shall lie; None leaves it to the head.
        environment: This process's environment.
        send_names: Further variables to send.
        limit: Most bytes to send.
        arguments: Of `rayscale run` on the head, after the sweep file.

    Returns:
        The submission.

    Raises:
        InputError: If anything in it cannot or must not be sent.
    """
    spec, package = collect(sweep, limit)
    if spec.tracking.uri and _has_credentials(spec.tracking.uri):
        raise InputError(f"{sweep}: tracking.uri carries credentials; expected them in the environment of the head")
    sent = {**STOPPING, **_chosen(send_names, environment)}
    if storage is not None:
        sent[STORAGE_VARIABLE] = checked_storage(storage)
    return Submission(
        sweep=spec.name,
        package=package,
        environment=sent,
        entrypoint=entrypoint_of(spec.name, package.sweep, arguments),
        storage=without_query(storage) if storage is not None and is_uri(storage) else storage,
    )


def send(submission: Submission, jobs: Jobs, say: Callable[[str], None]) -> Sent:
    """Hand over a submission, unless the same one is there already.

    Args:
        submission: What to send.
        jobs: The cluster.
        say: Shows a line to the user.

    Returns:
        The job.

    Raises:
        EnvironmentUnusableError: If the cluster runs another Ray, or does not take it.
    """
    here, there = versions().get("ray"), jobs.ray_version
    if there is not None and there != here:
        raise EnvironmentUnusableError(f"the cluster runs ray {there}, this machine has {here}; expected the same")
    digest = submission.digest
    for view in jobs.list():
        if view.digest == digest and not view.ended:
            return Sent(view.job, already=True)
    job = new_job(submission.sweep)
    with tempfile.TemporaryDirectory(prefix="rayscale-submit-") as directory:
        package = Path(directory, "package.zip")
        submission.package.write(package)
        say(f"sending {submission.package.count()}, {megabytes(package.stat().st_size)} compressed")
        runtime = {"working_dir": str(package), "env_vars": dict(submission.environment)}
        jobs.submit(job, submission.entrypoint, runtime, submission.metadata)
    return Sent(job, already=False)


def new_job(sweep: str) -> str:
    """Make the id of a job: its sweep, the time, and two random bytes."""
    return f"{sweep}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def entrypoint_of(name: str, sweep: str, arguments: tuple[str, ...]) -> str:
    """Write the command for the head's shell.

    Args:
        name: Name of the sweep.
        sweep: Its file in the package.
        arguments: Of `rayscale run`, after the sweep file.

    Returns:
        The command; it carries the versions that the head must have.
    """
    found = versions()
    drive = ["rayscale", "cluster", "drive", name, "--rayscale", found["rayscale"], "--ray", found["ray"]]
    command = shlex.join([*drive, "--", sweep, *arguments])
    return f"command -v rayscale >/dev/null || {{ echo {shlex.quote(_NOT_FOUND)} >&2; exit 3; }}; exec {command}"


def checked_storage(storage: str) -> str:
    """Refuse a storage that means nothing on a cluster, or shows credentials.

    Args:
        storage: As given.

    Returns:
        The same.

    Raises:
        InputError: If it is a relative path, no known kind of address, or carries credentials.
    """
    open_storage(storage)
    if not is_uri(storage) and not Path(storage).is_absolute():
        raise InputError(f"--storage {storage}: expected s3://, gs:// or an absolute path that all nodes share")
    return storage


def _chosen(names: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    problems = []
    for name in names:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            problems.append("--env: expected the name of a variable, without a value")
        elif name not in environment:
            problems.append(f"--env {name}: not set here")
        elif _SECRET_NAME.search(name) or _has_credentials(environment[name]):
            problems.append(f"--env {name}: Ray shows a job's variables in clear; set it where Ray starts on the nodes")
    if problems:
        raise InputError(problems)
    return {name: environment[name] for name in names}


def _has_credentials(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return bool(parts.username or parts.password)
    except ValueError:
        return False
