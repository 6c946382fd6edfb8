"""What one MLflow run should hold, as plain values: the mirror compares and sends these, and never thinks in API calls.

A run is found by (kind, key), both tags. Its `digest` names everything the content was made from and is written last
(tag `rayscale.mirrored`): equal digests mean there is nothing to do, a missing one that an earlier writer died half-way
and all is sent again, which adds nothing since every metric carries its stored time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from rayscale.design import Condition
from rayscale.quantities import format_count
from rayscale.record import Record

Kind = Literal["sweep", "trial", "summary"]
RunStatus = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]

MIRROR_VERSION = 1
"""Raised when the mirror writes the same ledger differently, so that `rayscale sync` sends all again."""

KIND_TAG = "rayscale.kind"
DIGEST_TAG = "rayscale.mirrored"
NOT_NEEDED_TAG = "rayscale.not_needed"
"""On a KILLED trial: which look of the stop rule made it superfluous; taken away when the trial is needed again."""
KEY_TAGS: Mapping[Kind, str] = {
    "sweep": "rayscale.sweep",
    "trial": "rayscale.trial_key",
    "summary": "rayscale.condition",
}
"""The tag by which a run of each kind is found again."""


@dataclass(frozen=True)
class Point:
    """One value of a metric at a stored time. Units of `time_ms`: ms since 1970."""

    key: str
    value: float
    time_ms: int
    step: int = 0


@dataclass(frozen=True)
class StoredFile:
    """One file of a run: its path among the run's artifacts and its content."""

    path: str
    content: bytes


@dataclass(frozen=True)
class DataSource:
    """The training data, as MLflow shows it in its dataset column."""

    name: str
    fingerprint: str
    source: str


@dataclass(frozen=True)
class RunContent:
    """What one MLflow run should hold.

    Attributes:
        kind: Sweep (the parent), trial or summary.
        key: What it is found by, within its kind.
        name: Name in the UI.
        status: MLflow's status.
        digest: Names everything this content was made from.
        start_ms: Wall clock of the start, ms since 1970; None leaves what is there.
        end_ms: Wall clock of the end; None while there is none.
        tags: Tags; they may change later.
        params: Parameters; MLflow never changes one, so only what a trial's key fixes belongs here.
        points: Metrics.
        files: Artifacts.
        data: The training data.
    """

    kind: Kind
    key: str
    name: str
    status: RunStatus
    digest: str
    start_ms: int | None = None
    end_ms: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    files: tuple[StoredFile, ...] = ()
    data: DataSource | None = None


def digest_of(*parts: Any) -> str:
    """Name a content by what it is made from.

    Args:
        parts: JSON values, or bytes.

    Returns:
        32 hex digits.
    """
    sums = [hashlib.sha256(part).hexdigest() if isinstance(part, bytes) else part for part in parts]
    text = json.dumps([MIRROR_VERSION, *sums], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def condition_name(condition: Condition) -> str:
    """Name a condition for the runs table: `tok=500K`, further factors after slashes.

    Args:
        condition: Factor -> level.

    Returns:
        The name.
    """
    parts = [f"tok={format_count(float(condition['tokens']))}"]
    parts += [f"{name.rsplit('.', 1)[-1]}={level}" for name, level in condition.items() if name != "tokens"]
    return "/".join(parts)


def energy_note(method: str, estimated: bool) -> str:
    """Say where an energy comes from; Markdown.

    Args:
        method: Method of the record.
        estimated: Whether it is a model, not a measurement.

    Returns:
        One sentence.
    """
    if not estimated:
        return f"Energy: {method}."
    return f"Energy is *estimated*, not measured: {method.removeprefix('estimated: ')}."


def epoch_ms(iso: str) -> int:
    """Read an ISO 8601 wall-clock time.

    Units: ms since 1970.

    Args:
        iso: The time; without a zone it is taken as local time.

    Returns:
        Milliseconds.
    """
    return round(datetime.fromisoformat(iso).timestamp() * 1000)


@dataclass(frozen=True)
class AttemptClock:
    """Turns CLOCK_MONOTONIC times of an attempt into wall-clock times: its first phase began at `started_at`."""

    started_ms: int
    origin_s: float

    @classmethod
    def of(cls, record: Record) -> AttemptClock:
        """Set the clock by a record.

        Args:
            record: The record.

        Returns:
            The clock.
        """
        return cls(epoch_ms(record.started_at), min((phase.start for phase in record.phases), default=0.0))

    def offset_ms(self, monotonic_s: float) -> int:
        """Return the time since the attempt's start. Units: ms."""
        return round((monotonic_s - self.origin_s) * 1000)

    def wall_ms(self, monotonic_s: float) -> int:
        """Return the wall-clock time. Units: ms since 1970."""
        return self.started_ms + self.offset_ms(monotonic_s)


def end_ms(record: Record) -> int:
    """Return when the accepted attempt of a record ended. Units: ms since 1970."""
    clock = AttemptClock.of(record)
    return clock.wall_ms(max((phase.end for phase in record.phases), default=clock.origin_s))
