"""State of a running sweep as the live views show it, read from events and from the running attempts' own files."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from rayscale.design import Plan, Trial, condition_label
from rayscale.ledger import Ledger
from rayscale.record import Record
from rayscale.sweep.events import AttemptEnd

TAIL_BYTES = 4096
SHOWN = 32
"""Running attempts that are read and shown every second; a terminal has no room for hundreds."""


@dataclass
class Running:
    """One attempt in a slot."""

    trial: Trial
    device: str
    since: float
    phase: str = "starting"
    tokens: int = 0
    tokens_per_s: float | None = None
    loss: float | None = None
    power_w: float | None = None


@dataclass
class Progress:
    """Counts, running attempts and the time still needed.

    Attributes:
        plan: The plan.
        ledger: The ledger.
        done: Keys of completed trials, those of earlier runs included.
        failed: Keys of trials whose last attempt failed.
        running: Slot -> its attempt.
        energy_j: Energy of all completed trials' training phases so far. Units: J.
        estimated: Whether any of that is an estimate.
        started: CLOCK_MONOTONIC of the run's start.
    """

    plan: Plan
    ledger: Ledger
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    running: dict[str, Running] = field(default_factory=dict)
    energy_j: float = 0.0
    estimated: bool = False
    started: float = field(default_factory=time.monotonic)
    _observed: list[tuple[int, float]] = field(default_factory=list)
    _trials: dict[str, Trial] = field(init=False)

    def __post_init__(self) -> None:
        """Index the trials: events name them by key."""
        self._trials = {trial.trial_key: trial for trial in self.plan.trials}

    @classmethod
    def from_ledger(cls, plan: Plan, ledger: Ledger) -> Progress:
        """Begin with what earlier runs completed."""
        progress = cls(plan, ledger)
        for record in ledger.records(plan):
            progress.done.add(record.trial_key)
            progress._add_energy(record)
        return progress

    def _add_energy(self, record: Record) -> None:
        train = record.energy.phases.get("train")
        self.energy_j += (train.energy_j if train else None) or 0.0
        self.estimated |= record.energy.estimated

    def trial(self, trial_key: str) -> Trial:
        """Look up a planned trial."""
        return self._trials[trial_key]

    # -- listener -----------------------------------------------------------------------------------------------------

    def started_attempt(self, trial_key: str, device: str) -> None:
        """Take note of a start."""
        self.done.discard(trial_key)  # set aside: its block is done again on another device
        self.running[device] = Running(self.trial(trial_key), device, time.monotonic())

    def ended_attempt(self, end: AttemptEnd) -> None:
        """Take note of an end."""
        running = self.running.pop(end.device, None)
        if not end.completed:
            self.failed.add(end.trial_key)
            return
        self.failed.discard(end.trial_key)
        self.done.add(end.trial_key)
        self.energy_j += end.energy_j or 0.0
        self.estimated |= bool(end.energy_estimated)
        if running:
            self._observed.append((running.trial.tokens, time.monotonic() - running.since))

    # -- what is shown ------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read phase, loss, speed and power of the running attempts from their files, where those are on this disk."""
        for running in self.shown():
            # Looked for here and not through the ledger: an object store would be asked every second for every slot.
            trial = self.ledger.attempt_directory(running.trial.trial_key, 1).parent
            directory = max(trial.glob("attempt-*"), key=lambda path: int(path.name[8:]), default=None)
            if directory is not None:
                _read_log(directory / "log.jsonl", running)
                running.power_w = _last_power(directory)

    def shown(self) -> list[Running]:
        """Return the running attempts that the view has room for, by device."""
        return sorted(self.running.values(), key=lambda running: running.device)[:SHOWN]

    def remaining_s(self) -> float | None:
        """Estimate the time until the sweep is done.

        Least squares of seconds per attempt on its tokens over this run, shared out over the slots.

        Returns:
            Seconds; None before the first attempt has ended.
        """
        if not self._observed:
            return None
        left = [trial.tokens for trial in self.plan.trials if trial.trial_key not in self.done]
        constant, slope = _line(self._observed)
        spent = sum(time.monotonic() - running.since for running in self.running.values())
        slots = max(len(self.running), 1)
        return max(sum(constant + slope * tokens for tokens in left) - spent, 0.0) / slots

    def label(self, trial: Trial) -> str:
        """Name a trial for people."""
        return f"{condition_label(trial.condition)} rep {trial.repetition}"


def _line(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Fit seconds = constant + slope x tokens, both non-negative."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    slope = min(max(slope, 0.0), mean_y / mean_x if mean_x else 0.0)
    return mean_y - slope * mean_x, slope


def _read_log(path: Path, running: Running) -> None:
    for line in _tail(path).splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the first line of the tail, or one that is being written
        if entry.get("event") == "phase":
            running.phase = entry["name"]
        elif entry.get("event") == "step":
            running.tokens, running.loss = entry["tokens"], entry["loss"]
            running.tokens_per_s = entry["tokens_per_s"]


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - TAIL_BYTES, 0))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _last_power(directory: Path) -> float | None:
    from rayscale.energy.sumtrace import newest_reading

    try:
        reading = newest_reading(directory)
    except (OSError, ValueError):
        return None
    return reading.power_w if reading else None
