"""The ledger: a sweep's plan, records, attempts and power traces on storage. It is the truth; all else is derived.

    <storage>/<sweep>/plan.json
                      trials/<trial_key>/attempt-<n>/{power.parquet, log.jsonl, failure.json}
                      trials/<trial_key>/record.json     written last, atomically: it exists = the trial is completed
                      analysis.json, report.html         derived

Everything goes through `Storage`, so that object stores can serve it; attempts are written by those that run them.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from rayscale.design import Plan, plan_sweep
from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.record import Record
from rayscale.spec import SweepSpec


class Storage(Protocol):
    """Where a ledger lies. Paths are relative, with forward slashes."""

    def read(self, path: str) -> bytes | None:
        """Return a file's content, None if there is none."""

    def write(self, path: str, content: bytes) -> None:
        """Write a file atomically: a reader sees the old content or the new, never a part."""

    def list(self, path: str) -> list[str]:
        """Return the sorted names in a directory, empty if there is none."""


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

    def list(self, path: str) -> list[str]:
        """Return the sorted names in a directory, empty if there is none."""
        try:
            return sorted(os.listdir(self.root / path))
        except FileNotFoundError:
            return []


INTERRUPTED = "interrupted"
"""Reason of an attempt that did not fail: its run was stopped or killed, and the trial is still to do."""

STOP_DECISIONS = ("efficacy", "halfwidth")
"""Decisions of a look that end a sweep early."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed.

    Attributes:
        reason: Stable code: `diverged`, `crashed`, `killed`, `out_of_memory`, `time_limit`, `wrong_device`,
            `invalid_energy`, `interrupted`.
        detail: One sentence for the user.
        at: Wall clock, ISO 8601.
    """

    reason: str
    detail: str
    at: str


@dataclass(frozen=True)
class Status:
    """How far a sweep is; counts of trials of the current plan.

    `stopped` says which look of `design.stop` ended it (None: none did); trials not run then are `not_needed`.
    """

    planned: int
    completed: int
    failed: int
    running: int
    pending: int
    suspect: int
    invalid: int
    attempts: int
    not_needed: int = 0
    stopped: str | None = None


class Ledger:
    """One sweep's ledger."""

    def __init__(self, root: str | Path) -> None:
        """Bind to a directory; nothing is created.

        Args:
            root: `<storage>/<sweep name>`.
        """
        self.root = Path(root)
        self.storage: Storage = LocalStorage(self.root)

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self.root.name

    # -- plan ---------------------------------------------------------------------------------------------------------

    def write_plan(self, plan: Plan, environment: dict[str, Any], looks: dict[str, Any] | None = None) -> None:
        """Store the plan with what produced it.

        Args:
            plan: The plan.
            environment: Versions and git revision.
            looks: The looks of `design.stop` with their boundaries, None without such a rule.
        """
        document = {
            "spec": plan.spec.model_dump(mode="json", exclude_unset=True),
            "environment": environment,
            **({"looks": looks} if looks else {}),
            "trials": [
                {
                    "trial_key": trial.trial_key,
                    "condition": trial.condition,
                    "repetition": trial.repetition,
                    "block": trial.block,
                    "run_order": trial.run_order,
                    "seed": trial.seed,
                }
                for trial in plan.trials
            ],
        }
        self.storage.write("plan.json", json.dumps(document, indent=1).encode())

    def read_plan(self) -> Plan:
        """Lay out the stored plan again.

        Returns:
            The plan.

        Raises:
            InputError: If there is no readable plan.
        """
        content = self.storage.read("plan.json")
        if content is None:
            raise InputError(f"{self.root}: no ledger here (expected plan.json); `rayscale run SWEEP.yaml` makes one")
        try:
            return plan_sweep(SweepSpec.model_validate(json.loads(content)["spec"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.root / 'plan.json'}: unreadable plan: {str(error).splitlines()[0]}") from None

    def environment(self) -> dict[str, Any]:
        """Return what the stored plan was made with, empty if there is no plan."""
        content = self.storage.read("plan.json")
        return dict(json.loads(content).get("environment", {})) if content else {}

    def read_looks(self) -> dict[str, Any] | None:
        """Return `looks.json`: the plan of looks and the results of those taken; None before the first."""
        content = self.storage.read("looks.json")
        return dict(json.loads(content)) if content else None

    def write_looks(self, document: dict[str, Any]) -> None:
        """Store the looks, atomically.

        Args:
            document: `plan` and `looks`, each of which ends with `decision` and `reason`.
        """
        self.storage.write("looks.json", json.dumps(document, indent=1).encode())

    def stopped(self, plan: Plan) -> str | None:
        """Say which look ended the sweep before all its blocks, None if none did or the plan has no such rule."""
        looks = (self.read_looks() or {}).get("looks", [])
        ended = plan.spec.design.stop is not None and looks and looks[-1]["decision"] in STOP_DECISIONS
        return str(looks[-1]["reason"]) if ended else None

    # -- records ------------------------------------------------------------------------------------------------------

    def record(self, trial_key: str) -> Record | None:
        """Read a trial's record.

        Args:
            trial_key: The trial.

        Returns:
            The record, or None while the trial is not completed.

        Raises:
            InputError: If the file is damaged.
        """
        path = f"trials/{trial_key}/record.json"
        content = self.storage.read(path)
        if content is None:
            return None
        try:
            return Record.from_json(content.decode())
        except ValueError as error:
            raise InputError(f"{self.root / path}: unreadable record: {str(error).splitlines()[0]}") from None

    def write_record(self, record: Record) -> None:
        """Accept a result: from here on the trial is completed.

        Args:
            record: The record.
        """
        self.storage.write(f"trials/{record.trial_key}/record.json", record.to_json().encode())

    def completed(self) -> set[str]:
        """Return the keys of all trials with a record, planned or not."""
        return {key for key in self.storage.list("trials") if "record.json" in self.storage.list(f"trials/{key}")}

    def records(self, plan: Plan | None = None) -> list[Record]:
        """Read the records of the planned trials in run order.

        Args:
            plan: The plan; None reads the stored one.

        Returns:
            One record per completed trial of the plan.
        """
        trials = (plan or self.read_plan()).trials
        found = (self.record(trial.trial_key) for trial in trials)
        return [record for record in found if record is not None]

    # -- attempts -----------------------------------------------------------------------------------------------------

    def attempts(self, trial_key: str) -> list[int]:
        """Return the numbers of a trial's attempts, ascending."""
        names = self.storage.list(f"trials/{trial_key}")
        return sorted(int(name.removeprefix("attempt-")) for name in names if name.startswith("attempt-"))

    def attempt_directory(self, trial_key: str, attempt: int) -> Path:
        """Return where an attempt writes its trace and log."""
        return self.root / "trials" / trial_key / f"attempt-{attempt}"

    def new_attempt(self, trial_key: str) -> int:
        """Open the next attempt of a trial; its directory is made.

        Args:
            trial_key: The trial.

        Returns:
            The attempt's number, from 1.
        """
        attempt = max(self.attempts(trial_key), default=0) + 1
        self.attempt_directory(trial_key, attempt).mkdir(parents=True)
        return attempt

    def write_failure(self, trial_key: str, attempt: int, failure: Failure) -> None:
        """Store why an attempt failed."""
        content = json.dumps(asdict(failure), indent=1).encode()
        self.storage.write(f"trials/{trial_key}/attempt-{attempt}/failure.json", content)

    def failure(self, trial_key: str, attempt: int) -> Failure | None:
        """Return why an attempt failed, None if it did not (or still runs)."""
        content = self.storage.read(f"trials/{trial_key}/attempt-{attempt}/failure.json")
        return Failure(**json.loads(content)) if content else None

    # -- derived ------------------------------------------------------------------------------------------------------

    def status(self, plan: Plan | None = None) -> Status:
        """Count the trials of the plan by state.

        Args:
            plan: The plan; None reads the stored one.

        Returns:
            The counts. `failed`: the last attempt failed and none is running; `running`: an attempt is open while a
            run holds the lock.
        """
        plan = plan or self.read_plan()
        active, stopped = self.lock_holder() is not None, self.stopped(plan)
        states = [self._state(trial.trial_key, active) for trial in plan.trials]
        if stopped:
            states = ["not_needed" if state in ("failed", "pending") else state for state in states]
        return Status(
            planned=len(states),
            completed=sum(state in ("clean", "suspect", "invalid") for state in states),
            failed=states.count("failed"),
            running=states.count("running"),
            pending=states.count("pending"),
            suspect=states.count("suspect"),
            invalid=states.count("invalid"),
            attempts=sum(len(self.attempts(trial.trial_key)) for trial in plan.trials),
            not_needed=states.count("not_needed"),
            stopped=stopped,
        )

    def _state(self, trial_key: str, active: bool) -> str:
        record = self.record(trial_key)
        if record is not None:
            return record.quality.verdict
        attempts = self.attempts(trial_key)
        if not attempts:
            return "pending"
        failure = self.failure(trial_key, attempts[-1])
        if failure:
            return "pending" if failure.reason == INTERRUPTED else "failed"
        return "running" if active else "pending"

    # -- lock ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the sweep, so that two runs of it cannot work at once.

        The kernel drops an `flock` when its process dies, however it dies: a stale lock needs no guessing. The file's
        text only names the holder.

        Raises:
            EnvironmentUnusableError: If another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = self.lock_holder() or "another process"
                raise EnvironmentUnusableError(f"{self.root}: this sweep is being run by {holder}") from None
            file.truncate(0)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"pid {os.getpid()} on {socket.gethostname()} since {since}")
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)

    def lock_holder(self) -> str | None:
        """Name the process that runs the sweep now, None if none does."""
        try:
            with (self.root / "lock").open("r") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    return file.read().strip() or "another process"
        except FileNotFoundError:
            pass
        return None
