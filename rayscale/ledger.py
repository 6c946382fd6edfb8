"""The ledger: a sweep's plan, records, attempts and power traces on storage. It is the truth; all else is derived.

    <storage>/<sweep>/plan.json
                      trials/<trial_key>/attempt-<n>/{power.parquet, log.jsonl, failure.json, superseded.json}
                      trials/<trial_key>/record.json     written last, atomically: it exists = the trial is completed
                      analysis.json, report.html         derived

Everything goes through `Storage`, so that object stores serve it as well: there, an attempt writes its trace and log
on its node's disk (`root`), and `publish_attempt` sends them before the record. Attempts are written by those that run
them.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rayscale.design import Plan, plan_sweep
from rayscale.environment import cache_directory
from rayscale.errors import InputError
from rayscale.locks import file_lock, file_lock_holder, lease, lease_holder
from rayscale.record import Record
from rayscale.spec import SweepSpec
from rayscale.states import INTERRUPTED, STOP_DECISIONS, Failure, Status
from rayscale.storage import LocalStorage, Storage, is_uri, open_storage, without_query

__all__ = ["INTERRUPTED", "STOP_DECISIONS", "Failure", "Ledger", "Status"]

READERS = 16
"""Records that are read from an object store at once."""


class Ledger:
    """One sweep's ledger.

    Attributes:
        location: Where it lies: a directory, or the address of a prefix in an object store.
        root: The directory; for an object store the place on this machine's disk where its files pass through.
        storage: Reads and writes its files.
    """

    def __init__(self, location: str | Path) -> None:
        """Bind to a location; nothing is created.

        Args:
            location: `<storage>/<sweep name>`.

        Raises:
            InputError: If it is an address that cannot be used.
        """
        self.location = str(location)
        self.storage: Storage = open_storage(location)
        self.root = _passage(self.location) if is_uri(location) else Path(location)

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return without_query(self.location).rpartition("/")[2] if self.remote else self.root.name

    @property
    def remote(self) -> bool:
        """Whether it lies in an object store."""
        return is_uri(self.location)

    def __str__(self) -> str:
        """Return the location for people."""
        return without_query(self.location) if self.remote else str(self.root)

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
            raise InputError(f"{self}: no ledger here (expected plan.json); `rayscale run SWEEP.yaml` makes one")
        try:
            return plan_sweep(SweepSpec.model_validate(json.loads(content)["spec"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self}/plan.json: unreadable plan: {str(error).splitlines()[0]}") from None

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
            raise InputError(f"{self}/{path}: unreadable record: {str(error).splitlines()[0]}") from None

    def write_record(self, record: Record) -> None:
        """Accept a result: from here on the trial is completed.

        Args:
            record: The record.
        """
        self.storage.write(f"trials/{record.trial_key}/record.json", record.to_json().encode())

    def set_aside(self, trial_key: str, detail: str) -> None:
        """Withdraw an accepted result: the trial is to do again, its record stays as `superseded.json` of its attempt.

        Args:
            trial_key: The trial; nothing happens if it has no record.
            detail: Why, in one sentence.
        """
        record = self.record(trial_key)
        if record is not None:
            path = f"trials/{trial_key}/attempt-{record.attempt}/superseded.json"
            self.storage.write(path, record.to_json().encode())
            failure = Failure(INTERRUPTED, detail, datetime.now(UTC).isoformat())
            self.write_failure(trial_key, record.attempt, failure)
            self.storage.remove(f"trials/{trial_key}/record.json")

    def begun(self) -> set[str]:
        """Return the keys of all trials of which anything was written, planned or not."""
        return set(self.storage.list("trials"))

    def completed(self) -> set[str]:
        """Return the keys of all trials with a record, planned or not."""
        return {key for key, names in self._names().items() if "record.json" in names}

    def _names(self) -> dict[str, list[str]]:
        """List every trial's directory; in an object store a thousand files per request, not a request per trial."""
        if not self.remote:
            return {key: self.storage.list(f"trials/{key}") for key in self.storage.list("trials")}
        names: dict[str, set[str]] = {}
        for path in self.storage.tree("trials"):
            key, _, rest = path.partition("/")
            names.setdefault(key, set()).add(rest.partition("/")[0])
        return {key: sorted(found) for key, found in names.items()}

    def records(self, plan: Plan | None = None) -> list[Record]:
        """Read the records of the planned trials in run order.

        Args:
            plan: The plan; None reads the stored one.

        Returns:
            One record per completed trial of the plan.
        """
        keys = [trial.trial_key for trial in (plan or self.read_plan()).trials]
        if not self.remote:
            found = [self.record(key) for key in keys]
        else:
            there = self.completed()
            with ThreadPoolExecutor(READERS) as pool:  # an object store answers in tens of ms, and many at once
                found = list(pool.map(self.record, [key for key in keys if key in there]))
        return [record for record in found if record is not None]

    # -- attempts -----------------------------------------------------------------------------------------------------

    def attempts(self, trial_key: str) -> list[int]:
        """Return the numbers of a trial's attempts, ascending."""
        return _attempts_in(self.storage.list(f"trials/{trial_key}"))

    def all_attempts(self) -> dict[str, list[int]]:
        """Return the numbers of every trial's attempts, ascending, by trial key; listed once, not asked per trial."""
        return {key: _attempts_in(names) for key, names in self._names().items()}

    def attempt_directory(self, trial_key: str, attempt: int) -> Path:
        """Return where an attempt writes its trace and log, on this machine's disk."""
        return self.root / "trials" / trial_key / f"attempt-{attempt}"

    def publish_attempt(self, trial_key: str, attempt: int) -> None:
        """Send what an attempt wrote on this disk to the object store; nothing to do in a directory.

        Args:
            trial_key: The trial.
            attempt: The attempt; it has ended.
        """
        if not self.remote:
            return
        directory = self.attempt_directory(trial_key, attempt)
        for path in sorted(directory.rglob("*")):  # each of several devices has a folder of its own
            if path.is_file() and not path.name.startswith("."):
                name = path.relative_to(directory).as_posix()
                self.storage.write(f"trials/{trial_key}/{directory.name}/{name}", path.read_bytes())

    def fetched_attempt(self, trial_key: str, attempt: int) -> Path:
        """Return a local directory with the files of an ended attempt, wherever it ran.

        Args:
            trial_key: The trial.
            attempt: The attempt.

        Returns:
            The directory; from an object store what is missing here is fetched first.
        """
        directory = self.attempt_directory(trial_key, attempt)
        if self.remote:
            prefix = f"trials/{trial_key}/{directory.name}"
            for name in self._files_under(prefix):
                content = None if (directory / name).exists() else self.storage.read(f"{prefix}/{name}")
                if content is not None:
                    LocalStorage(directory).write(name, content)
        return directory

    def _files_under(self, prefix: str) -> Iterator[str]:
        """List an attempt's files, those of its single devices too."""
        for name in self.storage.list(prefix):
            folder = name.startswith("power-")
            yield from (f"{name}/{one}" for one in self.storage.list(f"{prefix}/{name}")) if folder else [name]

    def new_attempt(self, trial_key: str) -> int:
        """Open the next attempt of a trial; its directory is made.

        Args:
            trial_key: The trial.

        Returns:
            The attempt's number, from 1.
        """
        attempt = max(self.attempts(trial_key), default=0) + 1
        self.attempt_directory(trial_key, attempt).mkdir(parents=True, exist_ok=self.remote)
        if self.remote:  # a prefix without an object does not exist
            started = {"host": socket.gethostname(), "at": datetime.now(UTC).isoformat()}
            self.storage.write(f"trials/{trial_key}/attempt-{attempt}/started.json", json.dumps(started).encode())
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
        names = self._names()
        verdicts = {record.trial_key: record.quality.verdict for record in self.records(plan)}
        attempts = {trial.trial_key: _attempts_in(names.get(trial.trial_key, [])) for trial in plan.trials}
        states = [verdicts.get(key) or self._state(key, numbers, active) for key, numbers in attempts.items()]
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
            attempts=sum(map(len, attempts.values())),
            not_needed=states.count("not_needed"),
            stopped=stopped,
        )

    def _state(self, trial_key: str, attempts: list[int], active: bool) -> str:
        """Name the state of a trial without a record."""
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

        In a directory the kernel's `flock`, which ends with its process, however it dies; in an object store a lease
        (see `lease`).

        Raises:
            EnvironmentUnusableError: If another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with lease(self.storage, str(self)) if self.remote else file_lock(self.root / "lock", str(self)):
            yield

    def lock_holder(self) -> str | None:
        """Name the process that runs the sweep now, None if none does."""
        return lease_holder(self.storage) if self.remote else file_lock_holder(self.root / "lock")


def _attempts_in(names: list[str]) -> list[int]:
    return sorted(int(name.removeprefix("attempt-")) for name in names if name.startswith("attempt-"))


def _passage(uri: str) -> Path:
    """Name the directory on this disk through which the files of an object store pass."""
    digest = hashlib.sha256(without_query(uri).encode()).hexdigest()[:16]
    return cache_directory() / "ledgers" / digest / without_query(uri).rpartition("/")[2]
